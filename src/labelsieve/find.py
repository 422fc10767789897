"""`find_label_issues`: from two arrays to the rows whose label is likely wrong.

Covers: the order of the steps of a run.
Does not cover: any step; see `engine` and, for forked processes, `forkpool`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from labelsieve import forkpool
from labelsieve.checks import raise_or_warn
from labelsieve.engine import Run, open_inputs
from labelsieve.memory import Auto
from labelsieve.reductions import class_sums_finalize, issue_counts_finalize
from labelsieve.results import LabelIssues, RunFacts
from labelsieve.settings import Settings, check_flag
from labelsieve.tasks import summarise


def find_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    batch_size: int | Auto = "auto",
    method: str = "self_confidence",
    adjust_pred_probs: bool = False,
    estimation_method: str = "off_diagonal",
    partition_batches: int | Auto = "auto",
    allow_zero_rows: bool = False,
    n_jobs: int | None = 1,
    progress: bool | None = None,
) -> LabelIssues:
    """Find the rows whose given label is likely wrong, reading `pred_probs` once and out of core.

    Confident learning (Northcutt, Jiang, Chuang, JAIR 2021) in its batched form: the rows predicted as another class
    with at least that class's mean confidence are counted, and as many rows of the lowest label quality are the issues,
    less those whose label is the predicted class.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given class of each row, 0..K-1: a list, NumPy array, pandas Series, memmap, Zarr array, HDF5 dataset, Dask
        array, xarray.DataArray, or the path of a ``.npy`` file or Zarr array.
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
        How issues are counted.
    partition_batches : int or "auto"
        Consecutive batches that one task streams; auto takes about 512 MB. It does not change the answer.
    allow_zero_rows : bool
        Accept rows that are all zeros, which otherwise are taken for missing data.
    n_jobs : int or None
        1 runs on Dask's scheduler; more forks that many processes for arrays in memory and ``.npy`` files, on Linux;
        None takes the physical cores. It does not change the answer.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.

    Returns
    -------
    LabelIssues
        The issues, worst first, the scores of all rows, the thresholds and the counts.

    Raises
    ------
    InvalidInputError
        A ValueError, for data or settings that cannot give a right answer: what, in which rows, how many.
    InputTypeError
        A TypeError, for an object of the wrong kind.

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
    """
    started = time.perf_counter()
    settings = Settings(method, adjust_pred_probs, estimation_method)
    check_flag("allow_zero_rows", allow_zero_rows)
    processes = forkpool.resolve_n_jobs(n_jobs, verbose=progress is not False)
    inputs = open_inputs(
        labels, pred_probs, batch_size=batch_size, partition_batches=partition_batches, n_jobs=processes
    )
    run = Run(inputs, settings, progress)
    planned_bytes = run.inputs.planned_bytes(settings)
    if forkpool.can_fork(inputs, processes):
        with run.reading() as bar:
            work = partial(summarise, settings=settings)
            total = run.adopt(forkpool.each_partition(inputs, work, processes, advance=bar.advance))
    else:
        total = run.read()
    raise_or_warn(total.findings, inputs.n_classes, allow_zero_rows=allow_zero_rows)
    thresholds = class_sums_finalize(total.sums)
    run.score(thresholds)
    counted = run.count(thresholds)
    estimated = issue_counts_finalize(counted.counts)
    issues = run.select(counted.histogram, estimated)
    n_reads = 2 if settings.scores_need_reread else 1
    return LabelIssues(
        n_rows=inputs.grid.n_rows,
        n_classes=inputs.n_classes,
        issues=issues,
        estimated_num_issues=estimated,
        confident_thresholds=thresholds,
        class_counts=total.sums.counts,
        score_parts=run.scores(),
        facts=RunFacts(
            bytes_read=inputs.n_bytes * n_reads,
            n_reads=n_reads,
            n_batches=len(inputs.grid.batch_rows),
            n_partitions=len(run.partitions),
            planned_bytes=planned_bytes,
            seconds=time.perf_counter() - started,
        ),
    )
