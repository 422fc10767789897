"""Row summaries in place of `pred_probs`, which any other program can make: see `docs/inputs.md`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Ints
from labelsieve.confident_learning.recorded_summaries import ROW_SUM, check_recordable
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.validation import RowChecks, raise_or_warn
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.settings import Settings, check_flag, check_ignored_number
from labelsieve.sources.base import Source
from labelsieve.sources.logits import LogitsSource
from labelsieve.sources.open_array import check_lengths, open_labels, open_pred_probs
from labelsieve.sources.summary_columns import column_values
from labelsieve.tasks.partition import Batches, Partition, RowRange
from labelsieve.tasks.scan import read_rows

__all__ = ["summarize_batch"]

# Classes are signed, as Spark and most databases have no other integers.
_CLASS_DTYPE: Final = np.dtype(np.int32)
_CLASS_LIMITS: Final = np.iinfo(_CLASS_DTYPE)


def summarize_batch(
    labels: Any,
    pred_probs: Any,
    *,
    from_logits: bool = False,
    scores: Sequence[str] = (),
    row: Any = None,
    id: Any = None,  # noqa: A002  # the name of the column
    ignore_label: int | None = None,
    allow_zero_rows: bool = False,
    allow_unnormalized_rows: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """Summarize the rows of a batch: the columns of a table for ``find_label_issues(summaries=...)``.

    Parameters
    ----------
    labels : (n,) array-like of int
        Given class of each row, 0..K-1.
    pred_probs : (n, K) array-like of float16, bfloat16, float32 or float64
        Out-of-sample probabilities of each class, or logits.
    from_logits : bool
        Whether `pred_probs` holds logits: probabilities are their softmax, in float64.
    scores : sequence of str
        Columns that other settings need: ``"normalized_margin"``, ``"logit_margin"`` and
        ``"confidence_weighted_entropy"`` for that `method` or `rank_by`, ``"row_sum"`` for ``adjust_pred_probs=True``.
    row : (n,) array-like of int, optional
        Numbers of the rows in the whole dataset.
    id : (n,) array-like of int or str, optional
        Row IDs.
    ignore_label : int, optional
        The label of rows that have none, such as -1 or 255. Their probabilities are not looked at, and the column
        ``label`` keeps that number: give the same `ignore_label` to `labelsieve.find_label_issues`.
    allow_zero_rows, allow_unnormalized_rows : bool
        As in `labelsieve.find_label_issues`, where the first is needed too.

    Returns
    -------
    dict of str to (n,) array
        ``label`` and ``predicted`` (int32), ``p_label`` and ``p_predicted`` (the dtype of `pred_probs`; of bfloat16
        float32, of logits float64), the `scores` (float64), and ``row`` and ``id`` if they are given. A batch without
        rows has columns without rows.

    Raises
    ------
    InvalidInputError
        A ValueError, for data that cannot give a right result, as in `labelsieve.find_label_issues`. The message counts
        rows from the first of the batch.
    InputTypeError
        A TypeError, for an object of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> batches = [labelsieve.summarize_batch(labels[rows], pred_probs[rows]) for rows in (slice(0, 3), slice(3, 5))]
    >>> batches[1]["p_predicted"]
    array([0.9 , 0.95])
    >>> table = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    >>> labelsieve.find_label_issues(summaries=table, n_classes=2).indices
    array([4])
    """
    wanted, checks = (
        check_recordable(scores),
        RowChecks.of(allow_zero_rows=allow_zero_rows, allow_unnormalized_rows=allow_unnormalized_rows),
    )
    ignored = check_ignored_number(ignore_label)
    opened_labels, opened = open_labels(labels), open_pred_probs(pred_probs)
    if not isinstance(opened_labels, Source) or not isinstance(opened, Source):
        raise InputTypeError("summarize_batch takes a batch in memory, not a Dask array: give .compute() of its rows")
    check_lengths(opened_labels, opened)
    check_flag("from_logits", from_logits)
    opened = LogitsSource(opened) if from_logits else opened
    n_rows, n_classes = opened.shape
    dtype = opened.dtype.newbyteorder("=")
    named = {"row": row, "id": id}
    names = {name: _checked_names(name, values, n_rows) for name, values in named.items() if values is not None}
    recorded: dict[str, npt.NDArray[Any]] = {}
    summary = SummaryBlock.empty(0, n_classes, dtype)
    if n_rows:
        partition = Partition(
            Batches(0, ((0, n_rows),)),
            RowRange(opened_labels),
            RowRange(opened),
            n_classes,
            opened.dtype,
            ignored,
        )
        for number, settings in enumerate([_settings_of(name) for name in wanted] or [Settings()]):
            summary, totals = read_rows(partition, settings)
            if not number:
                raise_or_warn(totals.findings, n_classes, checks, totals.sums.dense().counts)
            if wanted:
                computed = summary.row_sum if wanted[number] == ROW_SUM else summary.score
                recorded[wanted[number]] = np.asarray(computed)
    else:
        recorded = {name: np.empty(0) for name in wanted}
    columns: dict[str, npt.NDArray[Any]] = {
        "label": _given_labels(summary.label, n_classes, ignored),
        "predicted": summary.predicted.astype(_CLASS_DTYPE),
        "p_label": summary.p_label,
        "p_predicted": summary.p_predicted,
    }
    return columns | recorded | names


def _given_labels(labels: Ints, n_classes: int, ignored: int | None) -> Ints:
    """Return the labels of a batch, with the user's own value where a row has none."""
    fits = ignored is None or _CLASS_LIMITS.min <= ignored <= _CLASS_LIMITS.max
    given: Ints = labels.astype(_CLASS_DTYPE if fits else np.int64)
    if ignored is not None:
        given[labels == n_classes] = ignored
    return given


def _settings_of(name: str) -> Settings:
    """Return settings that compute a column."""
    return Settings(adjust_pred_probs=True) if name == ROW_SUM else Settings(name)  # type: ignore[arg-type]  # checked


def _checked_names(name: str, values: Any, n_rows: int) -> npt.NDArray[Any]:
    column = column_values(name, values)
    if len(column) != n_rows:
        raise InvalidInputError(f"{name} has {len(column):,} values, pred_probs {n_rows:,} rows")
    if name == "row" and column.dtype.kind not in "iu":
        raise InvalidInputError(f"row must be integers, not {column.dtype}: names of rows are given as id")
    return column
