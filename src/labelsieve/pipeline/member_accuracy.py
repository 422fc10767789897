"""The accuracy of each member of an ensemble, which may be its weight."""

from __future__ import annotations

from labelsieve.confident_learning.summarizer import combine_totals
from labelsieve.confident_learning.validation import RowChecks, raise_or_warn
from labelsieve.errors import InvalidInputError, located
from labelsieve.execution.executor import Executor
from labelsieve.pipeline.dask_job import DaskJob
from labelsieve.pipeline.opening import open_inputs
from labelsieve.sources.ensemble import EnsembleSource
from labelsieve.sources.open_array import Opened
from labelsieve.tasks.scan import class_sums


def member_accuracies(
    labels: Opened, ensemble: EnsembleSource, executor: Executor, checks: RowChecks, ignored: int | None = None
) -> tuple[float, ...]:
    """Return the share of rows of which each member predicts the label; each member is read once.

    Parameters
    ----------
    labels : Source or dask.array.Array
        ``(N,)`` labels.
    ensemble : EnsembleSource
        The members.
    executor : Executor
        Runs the tasks.
    checks : RowChecks
        Which rows are accepted.
    ignored : int, optional
        The value of labels that says that a row has none.

    Raises
    ------
    InvalidInputError
        For bad labels, bad rows of a member, and if no member predicts a single label.
    """
    found = []
    for name, member in zip(ensemble.names, ensemble.members, strict=True):
        inputs = open_inputs(labels, member, executor=executor, ignored=ignored)
        total = DaskJob(executor).reduce("accuracy", inputs.work(class_sums), combine_totals, inputs.columns(executor))
        with located(name):
            raise_or_warn(total.findings, inputs.n_classes, checks, total.sums.dense().counts)
        found.append(total.agreement.same / max(1, int(total.sums.dense().counts.sum())))
    if not any(found):
        raise InvalidInputError("no member of the ensemble predicts a single label, so none has a weight by accuracy")
    return tuple(found)
