"""`find_label_issues` and `plan_label_issues`.

Which rows are issues, and which filter and score to use: `docs/which_filter_and_score.md`. What may be given as labels
and predictions, and where it may be stored: `docs/inputs.md`. How a run works: `docs/how_it_works.md`. Memory, time and
clusters: `docs/memory_and_scale.md`. Data that grows, and what happens when something fails: `docs/every_night.md`.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from numbers import Real
from typing import Any, Final, Literal, ParamSpec, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import RowChecks
from labelsieve.confident_learning.filters import chosen_filter
from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InputTypeError, InvalidInputError, located, warn
from labelsieve.execution.cluster import choose_executor
from labelsieve.job.inputs import check_output_of
from labelsieve.job.job import Job
from labelsieve.job.plan import Plan
from labelsieve.job.whole_rows import WholeRows, clipped_log, member_accuracies
from labelsieve.options import (
    FOR_FINDING,
    NOTHING,
    OPTIONS,
    TASKS,
    Auto,
    EstimationMethod,
    FilterName,
    IgnoreLabel,
    JobSettings,
    Method,
    Option,
    Rule,
    check_keywords,
)
from labelsieve.results.label_issues import LabelIssues
from labelsieve.sources.composite import Ensemble, EnsembleSource
from labelsieve.sources.objects import RETRIES
from labelsieve.sources.open import Opened, open_labels, open_pred_probs

__all__ = ["find_label_issues", "get_label_quality_ensemble_scores", "plan_label_issues"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Task:
    """What a label belongs to. Python's functions, the command line and saved results of a task follow from it.

    A module that has one as `TASK` is registered by a line in `labelsieve.options.TASKS`.

    Parameters
    ----------
    name : str
        Its name on the command line, and the `task` of its layouts.
    row : str
        What has a label, for help: ``"a pixel of a mask"``.
    open : callable
        Takes labels, pred_probs, the `JobSettings` and its own options by name, and returns the `Job`.
    wrap : callable
        Makes the result of issues of rows.
    options : mapping of Option
        Its own options, and those of all tasks that have another default.
    without : mapping of str
        Options of other tasks that it does not have, and arguments of cleanlab, with what to do instead.
    """

    name: str
    row: str
    open: Callable[..., Job]
    wrap: Callable[[LabelIssues], Any]
    options: Mapping[str, Option] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)

    @property
    def all_options(self) -> dict[str, Option]:
        """All options that it has."""
        return {name: one for name, one in {**OPTIONS, **self.options}.items() if name not in self.without}

    def job(self, labels: Any = None, pred_probs: Any = None, **given: Any) -> Job:
        """Return the job of a run; of files, no predictions are read."""
        given = {name: one.default for name, one in self.options.items()} | given
        own = {name: one.checked(name, given.pop(name)) for name, one in self.options.items() if name not in OPTIONS}
        settings = JobSettings(**given)
        chosen_filter(settings)
        if settings.output is not None:
            check_output_of(settings, labels, pred_probs, *own.values())
        return self.open(labels, pred_probs, settings, **own)

    def find(self, *args: Any, **given: Any) -> Any:
        """Find the label issues."""
        return self.wrap(self.job(*args, **given).run())

    def plan(self, *args: Any, **given: Any) -> Plan:
        """Plan a run of `find`."""
        return self.job(*args, **given | {"progress": False}).plan()

    def finds(self, declared: Callable[_P, _R]) -> Callable[_P, _R]:
        """Make a public function, which runs this task, of its name, docstring and signature."""
        return self._public(declared, declared, self.find)

    def plans(self, like: Callable[_P, object]) -> Callable[[Callable[..., Plan]], Callable[_P, Plan]]:
        """Make a public function that plans what `like` does, and takes the same arguments."""
        return lambda declared: self._public(declared, like, self.plan)

    def _public(
        self, declared: Callable[..., Any], like: Callable[..., Any], run: Callable[..., Any]
    ) -> Callable[..., Any]:
        @wraps(declared)
        def call(*args: Any, **given: Any) -> Any:
            check_keywords(declared.__name__, given, FOR_FINDING | self.without, {**named, **self.all_options})
            return run(*args, **given)

        # All keywords show, with their types and defaults, also where the declaration has **options.
        signature, own, options = inspect.signature(declared), inspect.signature(like).parameters, self.all_options
        named = {name: one for name, one in own.items() if one.kind is not one.VAR_KEYWORD}
        named |= {
            name: inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=JobSettings.__annotations__.get(name, "Any"),
            )
            for name, one in options.items()
            if name not in named
        }
        call.__signature__ = signature.replace(parameters=list(named.values()))  # type: ignore[attr-defined]
        return call


def task_of(name: str) -> Task:
    """Return a task by its name; its module is imported."""
    task: Task = importlib.import_module(TASKS[name]).TASK
    return task


TASK: Final = Task(
    "classification",
    "a row",
    partial(Job, named=True),
    lambda rows: rows,
    without={"confident_joint": FOR_FINDING["confident_joint"]},
)


@TASK.finds
def find_label_issues(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    data: Any = None,
    summaries: Any = None,
    n_classes: int | None = None,
    batch_size: int | Auto = "auto",
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    estimation_method: EstimationMethod = "off_diagonal",
    filter_by: FilterName | None = None,
    rank_by: Method | None = None,
    rule: Rule | None = None,
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    partition_batches: int | Auto = "auto",
    from_logits: bool = False,
    dtype: Any = None,
    allow_zero_rows: bool = False,
    allow_unnormalized_rows: bool = False,
    n_jobs: int | None = 1,
    progress: bool | None = None,
    client: Any = None,
    workdir: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    wait: float = 90,
    output: str | os.PathLike[str] | None = None,
    max_memory: int | str | None = None,
    retries: int = 2,
    class_names: Sequence[str] | None = None,
    ignore_label: IgnoreLabel = NOTHING,
    ids: Any = None,
) -> LabelIssues:
    """Find the rows whose given label is likely wrong, out of core and in as few reads of `pred_probs` as possible.

    This is confident learning (Northcutt, Jiang, Chuang, JAIR 2021). The default is its batched form, in one read: it
    counts the rows that are predicted as another class with at least that class's mean confidence, and takes that
    number of rows with the lowest label quality, except those whose label is the predicted class. With `filter_by` it
    finds the issues of cleanlab's in-memory ``filter.find_label_issues`` (2.9), by the exact confident joint.

    Parameters
    ----------
    labels : (N,) array-like of int, str or bool
        Given class of each row, 0..K-1, or its name. A list, NumPy array, memmap, tensor, column of pandas, Polars or
        Arrow, Zarr, HDF5, Dask or xarray array; or the path or URL of a ``.npy`` file, a Zarr array, an array in an
        ``.npz`` or safetensors file (`"run.npz::labels"`), or shards: a list, a pattern, a folder. See
        `docs/inputs.md`.
    pred_probs : (N, K) array-like of float16, bfloat16, float32 or float64
        Out-of-sample probability of each class, as any of these kinds; the mean of several models (`Ensemble`), or one
        array for each fold of a cross-validation (`Folds`).
    data : path, URL, or table, optional
        A table whose columns are `labels`, `pred_probs` and `ids`: Parquet or Arrow files, or a table of pandas,
        Polars, Arrow, DuckDB or Hugging Face datasets. `labels` and `ids` then name a column each. `pred_probs` names a
        column of lists of K numbers, or one column for each class, in the order of the classes: ``["p_cat",
        "p_dog"]``, or a pattern such as ``"p_*"``, whose columns are in the order of the table, or of their numbers.
        What is not text, such as an array or a `Path`, is taken as without `data`.
    summaries : table, path or URL, optional
        Row summaries in place of `labels` and `pred_probs`: the folder of a `labelsieve.Recorder`, or a table with the
        columns `label`, `predicted`, `p_label` and `p_predicted`. Filters that read `pred_probs` more than once need
        `labels` and `pred_probs`, or a recorder with ``classes_per_row``.
    n_classes : int, optional
        Number of classes K, for a table of summaries.
    batch_size : int or "auto"
        Number of rows that a thread holds in memory; by default about 48 MB of them. A Dask array keeps its own chunks.
        Does not change the result.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        Label quality score; `docs/which_filter_and_score.md` says which one to use.
    adjust_pred_probs : bool
        Subtract the class thresholds from the probabilities first. With ``normalized_margin`` this needs a second read.
    estimation_method : {"off_diagonal", "off_diagonal_calibrated"}
        How issues are counted; the default filter, ``low_normalized_margin`` and ``low_self_confidence`` take that
        number of rows.
    filter_by : str, optional
        Which rows are issues, and how often `pred_probs` is read to find them.
        ``"low_self_confidence"``, ``"low_normalized_margin"`` (2 reads): the rows with the lowest such score, as many
        as are counted off the diagonal of the confident joint. ``"confident_learning"`` (2): the rows counted there.
        ``"predicted_neq_given"`` (1): the rows whose label is not the predicted class. ``"prune_by_class"`` (2): for
        each label, the rows least likely to have it, as many as the calibrated joint has off its diagonal.
        ``"prune_by_noise_rate"`` (3): for each label and other class, the rows with the largest margin between the two,
        as many as the calibrated joint has for the pair. ``"both"`` (3): the rows that the last two agree on. All but
        the first two leave out rows whose label is the predicted class, or nearly so.
    rank_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}, optional
        With `filter_by`, the score that sorts the issues and that ``scores`` holds; `method` by default.
    rule : {"predicted_class", "confident_joint"}, optional
        Which class a row is counted as: the predicted one, if the row reaches its threshold (the default without
        `filter_by`), or that of the confident joint (in two reads; see `labelsieve.count.compute_confident_joint`).
    frac_noise : float
        For the pruning filters: the share of the rows off the diagonal to take, 0 to 1.
    num_to_remove_per_class : sequence of int, optional
        For the pruning filters: K numbers. ``"prune_by_class"`` takes this number of rows with each label;
        ``"prune_by_noise_rate"`` takes about this number (within one) of rows that look like each class.
    min_examples_per_class : int
        For the pruning filters: the number of rows of each class to leave.
    partition_batches : int or "auto"
        Number of consecutive batches that one task streams; by default about 512 MB of them. Does not change the
        result.
    from_logits : bool
        `pred_probs` are logits: take the softmax of each row, in float64, as it is read. A logit of -inf is a class of
        probability 0.
    dtype : "bfloat16", optional
        What the values of `pred_probs` are, if they are stored as 16 bits without a dtype, as NumPy does with
        ``ml_dtypes.bfloat16``.
    allow_zero_rows : bool
        Accept rows that are all zeros. Otherwise they are an error, because they are usually missing data.
    allow_unnormalized_rows : bool
        Accept rows that do not sum to 1 within 0.05. Otherwise they are an error, because they are often logits,
        percentages, scores of independent classes, or a missing chunk.
    n_jobs : int or None
        1 runs on Dask's scheduler; a larger number forks that many processes, for arrays in memory and ``.npy`` files
        on Linux; None takes the physical cores. Does not change the result.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.
    client : distributed.Client, optional
        The cluster that does the work: by default the active client, or Dask's local scheduler if there is none.
        Workers open files and URLs themselves.
    workdir : path or URL, optional
        Folder in which finished partitions are kept. The next run with the same input and settings reads only what is
        missing or new, and a few rows to check that the input is still the same (`docs/every_night.md`).
    fresh : bool
        Discard what is in `workdir`.
    wait : float
        Seconds to wait while another run uses `workdir` or `output` on a disk. In an object store there is no waiting:
        the run that started last takes over.
    output : path or URL, optional
        A ``.zarr`` group. The tasks write the scores and the mask of all rows and the issues into it; it appears only
        once it is complete. The result then reads from it.
    max_memory : int or str, optional
        The most memory of this process, interpreter included, or of each worker: bytes, or text such as ``"1GiB"``.
        What does not fit goes to the workdir, or to a temporary one; a run that cannot fit is refused.
    retries : int
        Number of times to run a failed task again.
    class_names : sequence of str, optional
        K names, in the order of the columns of `pred_probs`: for tables and reports, and to find the class of labels
        that are names.
    ignore_label : int, str or None, optional
        The label of rows that have none: -1, 255, "unknown", or None for missing values. Such rows are in no count and
        are no issue, and their probabilities are not checked. Their scores are NaN, and ``n_ignored`` is their number.
    ids : array-like of int or str, or path, optional
        ``(N,)`` row IDs: a list, array, column, Zarr array, or the path of a ``.npy`` file, a Zarr array, a ``.csv``
        file with a column ``id``, or a text file with one ID per line. With `data`, a column of it.

    Returns
    -------
    LabelIssues
        The issues, worst first, the scores of all rows, the thresholds and the counts.

    Raises
    ------
    InvalidInputError
        For data or settings that cannot give a right result: what is wrong, in which rows, and in how many.
    InputTypeError
        For an object of the wrong kind, or an argument that does not exist.
    UnreadableDataError
        For stored data that is corrupt, missing, or out of a worker's reach. A ChangedDataError if it has changed since
        the run began.
    MemoryLimitError
        If the run cannot fit in memory.
    WorkdirError
        For a workdir that is damaged, or belongs to another input or other settings. An InUseError if another run
        still uses `workdir` or `output` after `wait` seconds, or took over in an object store.
    TaskFailedError
        If workers or the scheduler died too often: run again with the same `workdir`.

    Warns
    -----
    LabelsieveWarning
        If labels and predictions do not seem to belong together, with the likely cause. ``facts.misfit`` keeps the
        text.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> labelsieve.find_label_issues(labels, pred_probs).indices
    array([4])

    By the exact rule, like cleanlab's in-memory filter:

    >>> found = labelsieve.find_label_issues(labels, pred_probs, filter_by="prune_by_class")
    >>> found.indices, found.facts.n_reads
    (array([4]), 2)
    """
    raise NotImplementedError  # the task runs


@TASK.plans(find_label_issues)
def plan_label_issues(*args: Any, **options: Any) -> Plan:
    """Plan a run of `find_label_issues`: batches, partitions, tasks, bytes and memory.

    No data is read, except that each worker of a running cluster reads a batch, and writes a small file to `workdir`
    and `output`, which it removes again: what would make the run fail there is in `Plan.problems`.

    Parameters
    ----------
    *args, **options
        Takes the same arguments as `find_label_issues`. The plan uses the partitions of an earlier run in `workdir`.
        It counts what is known there (`Plan.known_bytes`), but `Plan.bytes_read` and `Plan.n_tasks` are those of a run
        that knows nothing.

    Returns
    -------
    Plan
        The plan.

    Raises
    ------
    MemoryLimitError
        If the run cannot fit in memory.
    InvalidInputError, InputTypeError, UnreadableDataError, WorkdirError
        For anything that `find_label_issues` would refuse before it reads data.

    Warns
    -----
    LabelsieveWarning
        If workers have other versions of packages than the client, or clocks that differ where that matters.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> plan = labelsieve.plan_label_issues(np.zeros(1000, int), np.full((1000, 4), 0.25))
    >>> plan.n_partitions, plan.bytes_read, plan.stored
    (1, 32000, False)
    """
    raise NotImplementedError  # the task plans


Weighting = Literal["uniform", "accuracy", "log_loss_search", "custom"]
_WEIGHTINGS: Final[tuple[Weighting, ...]] = get_args(Weighting)
# The values that cleanlab searches.
LOG_LOSS_SEARCH_T_VALUES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 2e2)


def get_label_quality_ensemble_scores(
    labels: Any,
    pred_probs_list: Sequence[Any],
    *,
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    weight_ensemble_members_by: Weighting = "accuracy",
    custom_weights: Sequence[float] | npt.NDArray[Any] | None = None,
    log_loss_search_T_values: Sequence[float] = LOG_LOSS_SEARCH_T_VALUES,  # noqa: N803  # cleanlab's name
    verbose: bool = True,
) -> npt.NDArray[np.float64]:
    """Return the weighted average of the label quality scores by each of several models.

    This is cleanlab's ``rank.get_label_quality_ensemble_scores`` (2.9), out of core. It averages *scores*; the issues
    by the average of *probabilities* are those of `find_label_issues` with an `Ensemble`. Scores are added up in
    float64 in the order of the models, so they may differ from cleanlab's in the last bits, and with float32
    probabilities by 1e-7.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given labels, as `find_label_issues` takes them.
    pred_probs_list : list of array-like
        ``(N, K)`` probabilities by each model, as `find_label_issues` takes them. Each is read once, and once more if
        it is weighted by accuracy or log loss; with `adjust_pred_probs` and normalized margins twice.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        The score.
    adjust_pred_probs : bool
        Whether to subtract the confident thresholds of each model from its probabilities before scoring.
    weight_ensemble_members_by : {"uniform", "accuracy", "log_loss_search", "custom"}
        Equal weights, the share of rows whose label a model predicts, ``exp(-t * log_loss)`` of each model, or
        `custom_weights`. Of the values of t, the first whose weighted average of the probabilities has the least log
        loss is taken. That search keeps the probability of each label by each model in memory: 8 bytes per row.
    custom_weights : (M,) array-like of float, optional
        Weights of the models for ``"custom"``. As in cleanlab they are used as they are: scores stay within [0, 1] if
        the weights add up to 1.
    log_loss_search_T_values : sequence of float
        Values of t to search, for ``"log_loss_search"``.
    verbose : bool
        Whether to print the weights.

    Returns
    -------
    (N,) float64
        Scores; the lower, the less likely is the label.

    Raises
    ------
    InvalidInputError
        For an empty list, models of different shapes, bad weights, and all that `find_label_issues` refuses.
    InputTypeError
        For objects of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> a = np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> b = np.array([[0.5, 0.5], [1.0, 0.0]])
    >>> labelsieve.get_label_quality_ensemble_scores(
    ...     [0, 1], [a, b], weight_ensemble_members_by="uniform", verbose=False
    ... )
    array([0.625, 0.375])
    """
    if not isinstance(pred_probs_list, list | tuple):
        raise InputTypeError(f"pred_probs_list must be a list of pred_probs, not {type(pred_probs_list).__name__}")
    return ensemble_scores(
        labels,
        pred_probs_list,
        JobSettings(method=method, adjust_pred_probs=adjust_pred_probs, progress=False),
        weight_ensemble_members_by,
        custom_weights,
        log_loss_search_T_values,
        verbose=verbose,
    )


def ensemble_scores(
    labels: Any,
    pred_probs_list: Sequence[Any],
    settings: JobSettings,
    weight_ensemble_members_by: Weighting,
    custom_weights: Any,
    t_values: Sequence[float],
    *,
    verbose: bool,
) -> npt.NDArray[np.float64]:
    """Do what `get_label_quality_ensemble_scores` does, with all settings of the jobs that score."""
    _check_weighting(weight_ensemble_members_by, custom_weights, len(pred_probs_list))
    ensemble = open_pred_probs(Ensemble(pred_probs_list))
    if not isinstance(ensemble, EnsembleSource):
        raise TypeError("an ensemble opens as one")
    if len(pred_probs_list) == 1:
        warn("pred_probs_list has one element: its scores are those of find_label_issues(labels, pred_probs).scores")
    opened = open_labels(labels)
    n_members = len(ensemble.children)
    checks = RowChecks.of(
        allow_zero_rows=settings.allow_zero_rows, allow_unnormalized_rows=settings.allow_unnormalized_rows
    )
    if weight_ensemble_members_by == "accuracy":
        shares = member_accuracies(opened, ensemble, choose_executor(retries=RETRIES), checks)
        weights = [share / sum(shares) for share in shares]
    elif weight_ensemble_members_by == "log_loss_search":
        weights = _search_weights(opened, ensemble, checks, t_values)
    elif custom_weights is not None:
        weights = [float(weight) for weight in custom_weights]
    else:
        weights = [1 / n_members] * n_members
    if verbose:
        print(f"Weighting scheme for ensemble: {weight_ensemble_members_by}")
        for number, weight in enumerate(weights):
            print(f"  Model {number} weight: {weight}")
    total = np.zeros(opened.shape[0])
    for name, member, weight in zip(ensemble.names, ensemble.children, weights, strict=True):
        with located(name):
            scores = np.asarray(Job(opened, member, settings).run().scores, np.float64)
        total += scores if weight_ensemble_members_by == "uniform" else scores * weight
    return total / n_members if weight_ensemble_members_by == "uniform" else total


def _search_weights(
    labels: Opened, ensemble: EnsembleSource, checks: RowChecks, t_values: Sequence[float]
) -> list[float]:
    """Return the weights ``exp(-t * log_loss)`` of the members whose average has the least log loss."""
    p_label, losses = list[Float64s](), list[float]()
    for name, member in zip(ensemble.names, ensemble.children, strict=True):
        with located(name):
            probs, logs = WholeRows(labels, member, checks).label_logs()
        p_label.append(probs)
        losses.append(-float(np.mean(logs)))
    best, found = math.inf, list[float]()
    for t in t_values:
        raw = [math.exp(-t * loss) for loss in losses]
        if not sum(raw):  # t is so large that no member has a weight
            continue
        weights = [one / sum(raw) for one in raw]
        total = np.zeros(labels.shape[0])
        for weight, probs in zip(weights, p_label, strict=True):
            total += weight * probs
        loss = -float(np.mean(clipped_log(total)))
        if loss < best:
            best, found = loss, weights
    if not found:
        raise InvalidInputError(f"none of log_loss_search_T_values gives weights: {list(t_values)!r}")
    return found


def _check_weighting(weighting: str, custom_weights: Any, n_members: int) -> None:
    if weighting not in _WEIGHTINGS:
        raise InvalidInputError(
            f"weight_ensemble_members_by must be one of {', '.join(_WEIGHTINGS)}; not {weighting!r}"
        )
    if (custom_weights is not None) != (weighting == "custom"):
        raise InvalidInputError('give custom_weights with weight_ensemble_members_by="custom", and only then')
    if custom_weights is None:
        return
    weights = list(custom_weights)
    if len(weights) != n_members:
        raise InvalidInputError(f"{len(weights)} custom_weights for {n_members} models: give one for each")
    for weight in weights:
        if isinstance(weight, bool | np.bool_) or not isinstance(weight, Real) or not math.isfinite(float(weight)):
            raise InvalidInputError(f"custom_weights must be finite numbers, not {weight!r}")
