"""Forked processes that read arrays in memory and memmaps, on Linux.

The children use only NumPy and the shared arrays, so a fork is safe whatever threads the parent has. The names of the
shared arrays are those of cleanlab's batched module, and `labelsieve.label_issues_batched` shows them too.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import warn
from labelsieve.execution.fork import forked_map
from labelsieve.job.inputs import Inputs
from labelsieve.job.partition import PartitionWork, RowRange
from labelsieve.options import check_whole_number
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.composite import WrappedSource
from labelsieve.sources.npy import NpySource
from labelsieve.sources.source import Source

adj_confident_thresholds_shared: Float64s | None = None
labels_shared: npt.NDArray[Any] | None = None
pred_probs_shared: npt.NDArray[Any] | None = None

SHARED_NAMES: Final = ("adj_confident_thresholds_shared", "labels_shared", "pred_probs_shared")

# Only one pool at a time can use the shared arrays.
_lock = threading.Lock()


def _replace_lock() -> None:
    """Replace the lock in a process that other code forks while a pool runs here."""
    global _lock  # noqa: PLW0603  # no thread of the child releases the inherited one
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


def split_arr(arr: npt.NDArray[Any], chunksize: int) -> list[npt.NDArray[Any]]:
    """Split an array along its first axis into pieces of `chunksize` rows; the last piece may be shorter.

    Parameters
    ----------
    arr : (N, ...) array
        The array.
    chunksize : int
        Number of rows of a piece, at least 1.

    Returns
    -------
    list of array
        The pieces in order, as views.

    Raises
    ------
    InvalidInputError
        If `chunksize` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> split_arr(np.arange(5), 2)
    [array([0, 1]), array([2, 3]), array([4])]
    """
    check_whole_number("chunksize", chunksize, 1)
    arr = np.asarray(arr)
    return np.split(arr, np.arange(chunksize, arr.shape[0], chunksize), axis=0)


def can_fork(inputs: Inputs, n_jobs: int, *, is_cluster: bool) -> bool:
    """Return whether to fork `n_jobs` processes for `inputs`; warn if they are requested but cannot be used."""
    if n_jobs == 1:
        return False
    reason = _reason_not_to_fork(inputs, is_cluster=is_cluster)
    if reason:
        warn(f"n_jobs={n_jobs} is ignored: {reason}")
    return not reason


def _reason_not_to_fork(inputs: Inputs, *, is_cluster: bool) -> str:
    if isinstance(inputs.opened_labels, WrappedSource):
        return "labels that are names in a file are mapped by Dask's threads"
    if not inputs.forkable:
        return "Zarr, HDF5 and Dask inputs, ensembles and folds are read by Dask's threads"
    if multiprocessing.current_process().daemon:
        return "this is a worker process, which may not have children"
    return "the Dask client does the work" if is_cluster else ""


def map_in_forks(
    inputs: Inputs,
    function: Callable[..., Any],
    n_jobs: int,
    shared: Mapping[str, Float64s | None] | None = None,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Any]:
    """Return ``function(partition, **shared)`` for each partition, in row order, computed by forked processes.

    Parameters
    ----------
    inputs : Inputs
        Arrays in memory or files; the children read them as the shared arrays.
    function : callable
        Called with a `Partition`; picklable.
    n_jobs : int
        Number of processes, at most one per partition.
    shared : mapping, optional
        ``adj_thresholds``, ``(K,)`` float64 or None, which the children read as a shared array too.
    advance : callable
        Called with the number of rows of each piece that is done.

    Raises
    ------
    ForkedWorkerError
        If a process is killed. The message names the process and its rows.
    """
    shared = shared or {}
    n_partitions = inputs.grid.n_partitions
    pieces = split_arr(np.arange(n_partitions), -(-n_partitions // (4 * n_jobs)))
    bounds = [(inputs.grid.bounds(piece[0])[0], inputs.grid.bounds(piece[-1])[1]) for piece in pieces]
    sources = inputs.labels_source, inputs.pred_probs_source
    work = partial(_run_piece, inputs.work(function), tuple(shared), pieces, sources)
    found: list[list[Any]] = [[] for _ in pieces]

    def name(number: int) -> str:
        start, stop = bounds[number]
        return f"rows {start:,}..{stop - 1:,}"

    with (
        _lock,
        _shared(inputs, **shared),
        closing(forked_map(work, len(pieces), min(n_jobs, len(pieces)), name)) as results,
    ):
        for number, results_of_piece in results:
            found[number] = results_of_piece
            start, stop = bounds[number]
            advance(stop - start)
    return [result for results_of_piece in found for result in results_of_piece]


@contextmanager
def _shared(inputs: Inputs, adj_thresholds: Float64s | None = None) -> Iterator[None]:
    """Set the shared arrays, which the children inherit, while the block runs."""
    global adj_confident_thresholds_shared, labels_shared, pred_probs_shared  # noqa: PLW0603  # children inherit these
    try:
        labels_shared = _array_to_share(inputs.labels_source)
        pred_probs_shared = _array_to_share(inputs.pred_probs_source)
        adj_confident_thresholds_shared = adj_thresholds
        yield
    finally:
        adj_confident_thresholds_shared = labels_shared = pred_probs_shared = None


def _array_to_share(source: Source | None) -> npt.NDArray[Any]:
    if isinstance(source, WrappedSource):
        return _array_to_share(source.source)
    if isinstance(source, NpySource):
        return source.as_memmap()
    if isinstance(source, ArraySource):
        return source.array
    raise RuntimeError("only arrays in memory and files are shared with forked processes")


def _over_shared(source: Source | None, shared: npt.NDArray[Any]) -> Source:
    """Return the shared array as a source, with what `source` computes from its stored rows."""
    if isinstance(source, WrappedSource):
        return source.over(_over_shared(source.source, shared))
    return ArraySource(shared)


def _run_piece(
    work: PartitionWork,
    names: tuple[str, ...],
    pieces: Sequence[npt.NDArray[np.intp]],
    sources: Sequence[Source | None],
    number: int,
) -> list[Any]:
    """Run the work on the partitions of a piece, in a child, on the shared arrays."""
    if labels_shared is None or pred_probs_shared is None:
        raise RuntimeError("the shared arrays are set only while a pool runs")
    both = zip(sources, (labels_shared, pred_probs_shared), strict=True)
    labels, pred_probs = (RowRange(_over_shared(source, shared)) for source, shared in both)
    work = replace(work, work=partial(work.work, **dict.fromkeys(names, adj_confident_thresholds_shared)))
    return [work(index, labels, pred_probs) for index in pieces[number].tolist()]


def resolve_n_jobs(n_jobs: int | None, *, verbose: bool = True) -> int:
    """Return the number of processes that `n_jobs` stands for.

    Parameters
    ----------
    n_jobs : int or None
        None means the number of physical cores, or of logical cores if psutil does not know the physical ones.
    verbose : bool
        Whether to print a message if the number is not what the user would expect.

    Raises
    ------
    InvalidInputError
        If `n_jobs` is not None or a whole number of at least 1.
    """
    if n_jobs is not None:
        n_jobs = check_whole_number("n_jobs", n_jobs, 1, otherwise="None or ")
    if platform.system() != "Linux":
        if verbose and n_jobs != 1:
            print("n_jobs is 1: processes are forked on Linux only")
        return 1
    if n_jobs is not None:
        return n_jobs
    physical = psutil.cpu_count(logical=False)
    if physical:
        return int(physical)
    logical = multiprocessing.cpu_count()
    if verbose:
        print(f"n_jobs is {logical}, the logical cores: the number of physical ones is unknown")
    return logical
