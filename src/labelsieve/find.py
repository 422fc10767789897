"""`find_label_issues`: from two arrays to the rows whose label is likely wrong; and what that will take."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from labelsieve.confident_learning.validation import RowChecks
from labelsieve.errors import InvalidInputError
from labelsieve.execution.choice import choose_executor
from labelsieve.partitioning import Auto
from labelsieve.pipeline import fork_pool
from labelsieve.pipeline.job import Job
from labelsieve.pipeline.keywords import FOR_FINDING, explain_keywords
from labelsieve.pipeline.plan import Plan
from labelsieve.results import export
from labelsieve.results.label_issues import LabelIssues
from labelsieve.settings import (
    EstimationMethod,
    Filter,
    Method,
    Rule,
    Settings,
    check_flag,
    check_seconds,
    check_whole_number,
)
from labelsieve.storage.urls import check_place


@explain_keywords(FOR_FINDING)
def find_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    batch_size: int | Auto = "auto",
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    estimation_method: EstimationMethod = "off_diagonal",
    filter_by: Filter | None = None,
    rank_by: Method | None = None,
    rule: Rule | None = None,
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    partition_batches: int | Auto = "auto",
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
    ids: Any = None,
) -> LabelIssues:
    """Find the rows whose given label is likely wrong, out of core, reading `pred_probs` as rarely as can be.

    Confident learning (Northcutt, Jiang, Chuang, JAIR 2021). By default in its batched form, in one read: the rows
    predicted as another class with at least that class's mean confidence are counted, and as many rows of the lowest
    label quality are the issues, less those whose label is the predicted class. With `filter_by` as cleanlab's
    in-memory ``filter.find_label_issues`` (2.9): by the exact confident joint, in two reads or three.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given class of each row, 0..K-1: a list, NumPy array, pandas Series, memmap, Zarr array, HDF5 dataset, Dask
        array, xarray.DataArray, the path or URL of a ``.npy`` file or Zarr array, or shards of these: a list of paths,
        a pattern, or their folder.
    pred_probs : (N, K) array-like of float16, float32 or float64
        Out-of-sample probability of each class, as any of these kinds.
    batch_size : int or "auto"
        Rows that a thread holds at a time; auto takes about 48 MB. A Dask array keeps its own chunks. It does not
        change the answer.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}
        Label quality score.
    adjust_pred_probs : bool
        Subtract the class thresholds from the probabilities first; with ``normalized_margin`` this takes a second read.
    estimation_method : {"off_diagonal", "off_diagonal_calibrated"}
        How issues are counted: as many are taken by default and by ``low_normalized_margin`` and
        ``low_self_confidence``.
    filter_by : str, optional
        Which rows are issues, and how often `pred_probs` is read for it.
        ``"low_self_confidence"``, ``"low_normalized_margin"`` (2 reads): as many rows of the lowest such score as are
        counted off the diagonal of the confident joint. ``"confident_learning"`` (2): the rows that are counted there.
        ``"predicted_neq_given"`` (1): those whose label is not the predicted class. ``"prune_by_class"`` (2): of each
        label as many rows of the lowest probability of it as the calibrated joint has off its diagonal.
        ``"prune_by_noise_rate"`` (3): of each label and other class as many rows of the largest margin between the two
        as the calibrated joint counts for the pair. ``"both"`` (3): what the last two agree on. All but the first two
        leave out rows whose label is the predicted class, or nearly so.
    rank_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}, optional
        With `filter_by`, the score that puts the issues in order, and that ``scores`` are; `method` by default. It does
        not change which rows they are.
    rule : {"predicted_class", "confident_joint"}, optional
        As which class a row is counted: the predicted one, if it reaches that one's threshold (the default without
        `filter_by`), or as the confident joint does it, see `labelsieve.count.compute_confident_joint` (in two reads).
    frac_noise : float
        For the filters that prune: the share of the rows off the diagonal to take, 0 to 1.
    num_to_remove_per_class : sequence of int, optional
        For the filters that prune: K numbers. ``"prune_by_class"`` takes so many rows with each label;
        ``"prune_by_noise_rate"`` so many rows that look like each class, whatever their labels, give or take one.
    min_examples_per_class : int
        For the filters that prune: rows of each class that are left.
    partition_batches : int or "auto"
        Consecutive batches that one task streams; auto takes about 512 MB. It does not change the answer.
    allow_zero_rows : bool
        Accept rows that are all zeros, which otherwise are taken for missing data.
    allow_unnormalized_rows : bool
        Accept rows of probabilities that do not sum to 1 within 0.05, which otherwise are an error: they are often
        logits, percentages, scores of independent classes, or a missing chunk.
    n_jobs : int or None
        1 runs on Dask's scheduler; more forks that many processes for arrays in memory and ``.npy`` files, on Linux;
        None takes the physical cores. It does not change the answer.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.
    client : distributed.Client, optional
        The cluster that does the work; the active client by default, and Dask's local scheduler where there is none.
        Workers open files and URLs themselves.
    workdir : path or URL, optional
        Folder in which finished partitions are kept, so that a killed run goes on where it was: all that is not
        committed is read, and from each of up to 8 finished partitions at most 1 MB more (one stored chunk of a Zarr
        array, one computed block of a Dask array), to check that the input is still the same. It belongs to one input
        with one choice of settings.
    fresh : bool
        Forget what is in `workdir`.
    wait : float
        Seconds to wait while another run uses `workdir` or `output` on a disk; the logger ``labelsieve`` says what is
        waited for. In an object store nothing is waited for: the run that started last takes over.
        In an object store a run that was killed on another machine seems to run for up to a minute; one that was killed
        on this machine is known to have ended.
    output : path or URL, optional
        A ``.zarr`` group into which the tasks write the scores and the mask of all rows and the issues, published
        whole. The result then reads from there.
    max_memory : int or str, optional
        Bytes, or text such as ``"1GiB"``: the most own memory of this process, interpreter included, or of each worker.
        What does not fit goes to the workdir, a temporary one if none is given; what cannot fit is refused.
    retries : int
        How often a task that fails is tried again.
    class_names : sequence of str, optional
        K names, for tables and reports.
    ids : array-like of int or str, or path, optional
        ``(N,)`` names of your own for the rows: a list, array, pandas column, Zarr array, or the path of a ``.npy``
        file, a Zarr array, a ``.csv`` file with a column ``id``, or a text file with a name a line. Only those of
        issues are read.

    Returns
    -------
    LabelIssues
        The issues, worst first, the scores of all rows, the thresholds and the counts.

    Raises
    ------
    InvalidInputError
        A ValueError, for data or settings that cannot give a right answer: what, in which rows, how many.
    InputTypeError
        A TypeError, for an object of the wrong kind, or an argument that does not exist, with the one that does.
    UnreadableDataError
        An OSError, for stored data that is corrupt, gone, or out of a worker's reach: which rows, where and why. A
        ChangedDataError where it has changed since the run began; nothing is published then.
    MemoryLimitError
        A MemoryError, for a plan that cannot fit: what would.
    WorkdirError
        A RuntimeError, for a workdir that is damaged or of another input or other settings.
    InUseError
        A WorkdirError, where another run still uses `workdir` or `output` after `wait` seconds, or took over in an
        object store.
    TaskFailedError
        A RuntimeError, where workers or the scheduler died too often: run again with the same `workdir`.

    Warns
    -----
    LabelsieveWarning
        If labels and predictions do not seem to belong together, with the likely cause: classes or rows in different
        orders. ``facts.misfit`` keeps the text.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> labelsieve.find_label_issues(labels, pred_probs).indices
    array([4])

    Files are read out of core, and other scores need one read too:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.save(f"{folder}/labels.npy", labels)
    >>> np.save(f"{folder}/pred_probs.npy", pred_probs)
    >>> found = labelsieve.find_label_issues(
    ...     f"{folder}/labels.npy", f"{folder}/pred_probs.npy", method="normalized_margin", progress=False
    ... )
    >>> found.scores.round(3)
    array([0.9 , 0.8 , 0.8 , 0.9 , 0.05])

    By the exact rule, as cleanlab's in-memory filter:

    >>> found = labelsieve.find_label_issues(
    ...     f"{folder}/labels.npy", f"{folder}/pred_probs.npy", filter_by="prune_by_class", progress=False
    ... )
    >>> found.indices, found.facts.n_reads
    (array([4]), 2)
    """
    started = time.perf_counter()
    check_flag("fresh", fresh)
    pruning = (frac_noise, num_to_remove_per_class, min_examples_per_class)
    job = Job(
        labels,
        pred_probs,
        settings=_settings(method, adjust_pred_probs, estimation_method, filter_by, rank_by, rule, pruning),
        executor=choose_executor(client, max_memory, check_whole_number("retries", retries, 0)),
        batch_size=batch_size,
        partition_batches=partition_batches,
        n_jobs=fork_pool.resolve_n_jobs(n_jobs, verbose=progress is not False),
        checks=RowChecks.of(allow_zero_rows=allow_zero_rows, allow_unnormalized_rows=allow_unnormalized_rows),
        workdir=workdir,
        fresh=fresh,
        wait=check_seconds("wait", wait),
        output=None if output is None else _output(output, labels, pred_probs, ids),
        class_names=class_names,
        ids=ids,
    )
    return job.run(progress, started)


@explain_keywords(FOR_FINDING)
def plan_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    batch_size: int | Auto = "auto",
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    estimation_method: EstimationMethod = "off_diagonal",
    filter_by: Filter | None = None,
    rank_by: Method | None = None,
    rule: Rule | None = None,
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    partition_batches: int | Auto = "auto",
    allow_zero_rows: bool = False,
    allow_unnormalized_rows: bool = False,
    n_jobs: int | None = 1,
    client: Any = None,
    workdir: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    output: str | os.PathLike[str] | None = None,
    max_memory: int | str | None = None,
) -> Plan:
    """Return what `find_label_issues` would take: batches, partitions, tasks, bytes, memory. No data is read.

    Parameters
    ----------
    labels, pred_probs, batch_size, method, adjust_pred_probs, estimation_method, partition_batches
        As in `find_label_issues`.
    filter_by, rank_by, rule, frac_noise, num_to_remove_per_class, min_examples_per_class
        As in `find_label_issues`.
    allow_zero_rows, allow_unnormalized_rows, n_jobs, client, workdir, fresh, output, max_memory
        As in `find_label_issues`. In a workdir of an earlier run its partitions are kept, and those that are committed
        are planned as if they were not.

    Returns
    -------
    Plan
        The plan.

    Raises
    ------
    MemoryLimitError
        If it cannot fit.
    InvalidInputError, InputTypeError, UnreadableDataError, WorkdirError
        For what `find_label_issues` would refuse before it reads.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> plan = labelsieve.plan_label_issues(np.zeros(1000, int), np.full((1000, 4), 0.25))
    >>> plan.n_partitions, plan.bytes_read, plan.stored
    (1, 32000, False)
    """
    check_flag("fresh", fresh)
    pruning = (frac_noise, num_to_remove_per_class, min_examples_per_class)
    return Job(
        labels,
        pred_probs,
        settings=_settings(method, adjust_pred_probs, estimation_method, filter_by, rank_by, rule, pruning),
        executor=choose_executor(client, max_memory),
        batch_size=batch_size,
        partition_batches=partition_batches,
        n_jobs=fork_pool.resolve_n_jobs(n_jobs, verbose=False),
        checks=RowChecks.of(allow_zero_rows=allow_zero_rows, allow_unnormalized_rows=allow_unnormalized_rows),
        workdir=workdir,
        fresh=fresh,
        output=None if output is None else _output(output, labels, pred_probs),
    ).plan()


def _settings(
    method: Method,
    adjust_pred_probs: bool,
    estimation_method: EstimationMethod,
    filter_by: Filter | None,
    rank_by: Method | None,
    rule: Rule | None,
    pruning: tuple[Any, ...],
) -> Settings:
    """Return the settings: with a filter `rank_by` is another name of `method`, and the rule is the filter's."""
    if rank_by is not None:
        if filter_by is None:
            raise InvalidInputError("rank_by goes with filter_by; without one method both chooses rows and ranks them")
        if method not in ("self_confidence", rank_by):
            raise InvalidInputError(f"rank_by={rank_by!r} and method={method!r} are two scores to rank by: give one")
        method = rank_by
    by_class = filter_by in (None, "predicted_neq_given")
    default: Rule = "predicted_class" if by_class else "confident_joint"
    rule = default if rule is None else rule
    return Settings(method, adjust_pred_probs, estimation_method, rule, filter_by, *pruning)


def _output(output: str | os.PathLike[str], *inputs: Any) -> str:
    """Check where a result is to go before anything is read."""
    location = check_place("output", output) if isinstance(output, str | os.PathLike) else output
    if not isinstance(location, str) or not location.endswith(".zarr"):
        raise InvalidInputError(f"output must be a path or URL that ends in .zarr, not {output!r}")
    export.check_output(location, [os.fspath(one) for one in inputs if isinstance(one, str | os.PathLike)])
    return location
