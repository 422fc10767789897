"""How rows are cut in batches and partitions, and the memory that a run takes. Arithmetic alone: no data, no Dask.

Covers: `Grid`, `plan_grid`, and `Need`, the memory formula.
Does not cover: which limits hold (`limits`, `engine.executors`) and what is planned with them (`engine.plan`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from labelsieve.kernels import STRIP_BYTES, class_dtype
from labelsieve.settings import Settings, check_whole_number

# What one thread holds at a time, unless the stored chunks are larger.
BATCH_BYTES: Final = 48_000_000
# What a batch takes that is read whole: decoded, stored, and some room.
BATCH_COPIES: Final = 2.25
# What one task streams: large enough for few tasks, small enough to share out and to redo.
PARTITION_BYTES: Final = 512_000_000
# Each thread should get some partitions, so that the last ones do not leave it idle; fewer where each begins with
# waiting for an answer from far away.
_PARTITIONS_A_THREAD: Final = 4
_REMOTE_PARTITIONS_A_THREAD: Final = 2
# Most tasks of a map that are submitted at once: neither client nor scheduler holds more.
SLAB: Final = 4096
# A batch takes at most this share of the memory over all threads.
_BATCH_SHARE: Final = 0.25

# The interpreter with NumPy, Dask and Zarr, before any work; a worker of a cluster has an event loop and its state too.
INTERPRETER_BYTES: Final = 120_000_000
WORKER_BYTES: Final = 220_000_000
# What a forked process takes of its own of what it was forked from.
FORK_BYTES: Final = 30_000_000
# A histogram of scores, of which a span of rows gives one.
HISTOGRAM_BYTES: Final = 65_536
# A histogram of scores by class (`class_ranking`), and what a piece of margins of pairs takes (`margins`).
CLASS_HISTOGRAM_BYTES: Final = 2_100_000
PAIR_PIECE_BYTES: Final = 40_000_000
# Copies of the candidates that are held while the largest are sorted out.
CANDIDATE_COPIES: Final = 4
# An issue with its columns, while the issues of all partitions are put in order.
ISSUE_BYTES: Final = 120
# Share of the rows that is planned to be issues.
EXPECTED_SHARE: Final = 0.1
# Rows of one block of stored summaries: a thread holds one.
BLOCK_ROWS: Final = 1 << 16
# Selected rows that a thread sorts at a time where the issues are written by the tasks.
RUN_ROWS: Final = 1 << 16
# Rows of a stored chunk of the scores and the mask of all rows.
RESULT_ROWS: Final = 1 << 18
# Bytes of summaries that a task works on where these are stored, and the most chunks of a result.
_SPAN_BYTES: Final = 32_000_000
_RESULT_CHUNKS: Final = 4096

Auto = Literal["auto"]


@dataclass(frozen=True)
class Grid:
    """Batches of rows, grouped in partitions.

    Parameters
    ----------
    n_rows : int
        All rows.
    batches : int or tuple of int
        Rows of every batch but the last, which is shorter, or of each batch in order; one batch is one chunk of the
        Dask arrays.
    partition_batches : int
        Consecutive batches that one task streams.
    """

    n_rows: int
    batches: int | tuple[int, ...]
    partition_batches: int

    @cached_property
    def batch_rows(self) -> tuple[int, ...]:
        """Rows of each batch."""
        if isinstance(self.batches, tuple):
            return self.batches
        whole, rest = divmod(self.n_rows, self.batches)
        return (self.batches,) * whole + ((rest,) if rest else ())

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.batches) if isinstance(self.batches, tuple) else -(-self.n_rows // self.batches)

    @property
    def largest_batch(self) -> int:
        """Rows of the largest batch."""
        return max(self.batches) if isinstance(self.batches, tuple) else min(self.batches, self.n_rows)

    @property
    def n_partitions(self) -> int:
        """Number of tasks that read."""
        return -(-self.n_batches // self.partition_batches)

    @cached_property
    def _edges(self) -> Any:
        return np.concatenate(([0], np.cumsum(self.batch_rows, dtype=np.int64)))

    def ranges(self, index: int) -> list[tuple[int, int]]:
        """Return the row ranges ``[start, stop)`` of the batches of partition `index`."""
        first = index * self.partition_batches
        last = min(first + self.partition_batches, self.n_batches)
        if isinstance(self.batches, int):
            return [(b * self.batches, min((b + 1) * self.batches, self.n_rows)) for b in range(first, last)]
        edges = self._edges[first : last + 1].tolist()
        return list(itertools.pairwise(edges))

    def bounds(self, index: int) -> tuple[int, int]:
        """Return the row range ``[start, stop)`` of partition `index`."""
        first = index * self.partition_batches
        last = min(first + self.partition_batches, self.n_batches)
        if isinstance(self.batches, int):
            return first * self.batches, min(last * self.batches, self.n_rows)
        return int(self._edges[first]), int(self._edges[last])

    def in_batches_of(self, rows: int, row_chunk: int | None) -> Grid:
        """Return the same partitions in batches of at most `rows` rows, whole stored chunks where they were."""
        if isinstance(self.batches, tuple) or self.batches <= rows:
            return self
        partition = self.batches * self.partition_batches
        unit = row_chunk if row_chunk and self.batches % row_chunk == 0 else 1
        rows = max(rows, unit)
        pieces = range(-(-partition // rows), min(2 * (-(-partition // rows)), partition // unit) + 1)
        least = -(-partition // rows)
        count = next((n for n in pieces if partition // unit % n == 0 and n <= 2 * least), 0)
        if count:
            return Grid(self.n_rows, partition // count, count)
        # No even cut: each partition ends in a shorter batch.
        rows -= rows % unit if rows >= unit else 0
        whole = [min(rows, partition - done) for done in range(0, partition, rows)]
        sizes = [n for _ in range(self.n_rows // partition) for n in whole]
        rest = self.n_rows % partition
        sizes += [min(rows, rest - done) for done in range(0, rest, rows)]
        return Grid(self.n_rows, tuple(sizes), len(whole))

    def partitions(self) -> Iterator[list[tuple[int, int]]]:
        """Yield each partition as its batches' row ranges ``[start, stop)``."""
        return (self.ranges(index) for index in range(self.n_partitions))


@dataclass(frozen=True)
class Span:
    """Consecutive rows whose stored summaries one task works on.

    Parameters
    ----------
    start, stop : int
        The rows ``[start, stop)``.
    pieces : tuple of tuple of int
        For each partition that they touch its number, and the rows ``[a, b)`` of it, counted from its first.
    """

    start: int
    stop: int
    pieces: tuple[tuple[int, int, int], ...]


def result_rows(n_rows: int) -> int:
    """Return the rows of a stored chunk of the scores and the mask of all rows: some thousand chunks at most."""
    return RESULT_ROWS * max(1, -(-n_rows // (_RESULT_CHUNKS * RESULT_ROWS)))


def run_rows(n_issues: int, room: int | None = None) -> int:
    """Return the issues that a thread sorts at a time, and of a stored chunk: 1024 of these hold them all.

    Parameters
    ----------
    n_issues : int
        All issues.
    room : int, optional
        Bytes that a thread has for it; where that is not enough, there are more and smaller runs.
    """
    rows = RUN_ROWS * max(1, -(-n_issues // (1024 * RUN_ROWS)))
    return rows if room is None else max(RUN_ROWS, min(rows, room // ISSUE_BYTES // RUN_ROWS * RUN_ROWS))


def expected_issues(n_rows: int) -> int:
    """Return how many issues are planned for, where their memory has to be planned before they are known."""
    return int(EXPECTED_SHARE * n_rows)


def pair_bytes(n_rows: int, n_classes: int) -> int:
    """Return what the pairs of a given label and another class take that `n_rows` rows are confidently predicted as."""
    return 16 * min(expected_issues(n_rows), n_classes * (n_classes - 1))


def candidate_bytes(n_rows: int) -> int:
    """Return what the rows of largest margin take that the filters by pairs of classes keep: `margins.Candidates`."""
    return 20 * expected_issues(n_rows)


def merge_bytes(n_rows: int) -> int:
    """Return what the client holds while runs are merged.

    How many rows of each run come before each cut, twice; and the keys of every 1024th row, or of 16 rows of each run,
    with what sorts them. There are at least as many runs as a thousand, or as spans with issues.
    """
    n_issues = expected_issues(n_rows)
    n_ranges = -(-n_issues // run_rows(n_issues))
    n_runs = n_ranges + -(-n_rows // result_rows(n_rows))
    return 2 * 4 * n_runs * 2 * n_ranges + 64 * max(n_issues // 1024, 16 * n_runs)


def spans(grid: Grid, row_bytes: int, n_threads: int) -> list[Span]:
    """Cut all rows in spans of whole stored chunks of the result, some for each thread.

    Parameters
    ----------
    grid : Grid
        The partitions.
    row_bytes : int
        Bytes of a row's summary.
    n_threads : int
        Threads that share the work.
    """
    chunk = result_rows(grid.n_rows)
    rows = min(_SPAN_BYTES // row_bytes, grid.n_rows // (n_threads * _PARTITIONS_A_THREAD))
    rows = max(chunk, rows - rows % chunk)
    found, index = [], 0
    for start in range(0, grid.n_rows, rows):
        stop, pieces = min(start + rows, grid.n_rows), []
        while True:
            first, last = grid.bounds(index)
            pieces.append((index, max(start, first) - first, min(stop, last) - first))
            if last >= stop:
                break
            index += 1
        index += last == stop
        found.append(Span(start, stop, tuple(pieces)))
    return found


def plan_grid(
    n_rows: int,
    row_bytes: int,
    row_chunk: int | None,
    n_threads: int,
    limit: int,
    *,
    batch_size: int | Auto = "auto",
    partition_batches: int | Auto = "auto",
    min_batch_bytes: int = STRIP_BYTES,
    remote: bool = False,
) -> Grid:
    """Cut `n_rows` rows of `row_bytes` bytes in batches and partitions.

    Parameters
    ----------
    n_rows, row_bytes : int
        Length of `pred_probs` and bytes of its decoded row.
    row_chunk : int or None
        Rows stored together: a batch is a whole number of these, so that each is decoded once, unless one alone is too
        big for the memory.
    n_threads : int
        Threads that share the work.
    limit : int
        Bytes of memory that the threads of one process share.
    batch_size : int or "auto"
        Rows of a batch; auto takes about 48 MB, less where there are too few rows for all threads or little memory.
    partition_batches : int or "auto"
        Batches of a partition; auto takes about 512 MB, less where there are few rows a thread.
    min_batch_bytes : int
        Bytes below which an automatic batch is not cut to give every thread one.
    remote : bool
        Whether rows come from remote storage, and partitions should be few.
    """
    most = max(1, int(limit * _BATCH_SHARE) // (n_threads * row_bytes))
    if batch_size == "auto":
        share = max(-(-n_rows // n_threads), min_batch_bytes // row_bytes)
        rows = max(1, min(BATCH_BYTES // row_bytes, share, most))
    else:
        rows = int(batch_size)
    if row_chunk and row_chunk < n_rows:
        rows = max(row_chunk, rows - rows % row_chunk)
    elif row_chunk:
        rows = n_rows
    if row_chunk and rows > most:
        stored = min(row_chunk, n_rows)
        rows = most - most % stored if stored <= most else most
    rows = min(rows, n_rows)
    batches = group_size(rows * row_bytes, n_rows * row_bytes, n_threads, partition_batches, remote=remote)
    return Grid(n_rows, rows, batches)


def group_size(
    batch_bytes: int, total_bytes: int, n_threads: int, partition_batches: int | Auto = "auto", *, remote: bool = False
) -> int:
    """Return how many batches of `batch_bytes` bytes make a partition."""
    if partition_batches != "auto":
        return int(partition_batches)
    each = _REMOTE_PARTITIONS_A_THREAD if remote else _PARTITIONS_A_THREAD
    target = min(PARTITION_BYTES, total_bytes // (n_threads * each))
    return max(1, target // max(1, batch_bytes))


@dataclass(frozen=True)
class Need:
    """What the memory formula is made of.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    itemsize : int
        Bytes of a probability.
    settings : Settings
        The scores: computed ones take 8 bytes a row.
    n_partitions : int
        Tasks that read.
    batch_bytes : int
        Decoded bytes that a thread holds of batches that are read whole (Zarr, HDF5, Fortran order, Dask); 0 where they
        are read strip by strip (``.npy`` files and arrays in memory).
    ahead_bytes : int
        Bytes that a thread reads ahead, from remote storage.
    held_bytes : int
        Memory that the inputs were given: labels read first, a Dask array kept between two reads.
    """

    n_rows: int
    n_classes: int
    itemsize: int
    settings: Settings
    n_partitions: int = 1
    batch_bytes: int = 0
    ahead_bytes: int = 0
    held_bytes: int = 0

    @property
    def row(self) -> int:
        """Bytes of a row's summary."""
        computed = 0 if self.settings.plain_self_confidence else 8
        return 2 * class_dtype(self.n_classes).itemsize + 2 * self.itemsize + computed + self.settings.looks_again

    @property
    def score(self) -> int:
        """Bytes of a row's score, once the run is done."""
        return 8 if not self.settings.plain_self_confidence else max(4, self.itemsize)

    @property
    def _thread(self) -> float:
        """What a thread takes while it reads."""
        # A strip, a copy of it with columns as rows, and where whole rows are scored some float64 copies.
        copies = 3 if self.settings.plain_self_confidence else 3 + 5 * 8 // self.itemsize
        pruned = CANDIDATE_COPIES * candidate_bytes(self.n_rows) + PAIR_PIECE_BYTES if self.settings.prunes_pairs else 0
        return BATCH_COPIES * self.batch_bytes + self.ahead_bytes + copies * STRIP_BYTES + pruned

    @property
    def partials(self) -> int:
        """The sums, histograms and pairs of classes that a tree holds, of a slab of partitions; all pairs, twice."""
        n = min(self.n_partitions, SLAB)
        each = 24 * self.n_classes + HISTOGRAM_BYTES + pair_bytes(-(-self.n_rows // self.n_partitions), self.n_classes)
        if self.settings.prunes:
            each += CLASS_HISTOGRAM_BYTES
        pruned = CANDIDATE_COPIES * candidate_bytes(self.n_rows) if self.settings.prunes_pairs else 0
        return min(n, 32 + n // 16) * each + 2 * pair_bytes(self.n_rows, self.n_classes) + pruned

    @property
    def _streaming(self) -> int:
        """What a thread takes beside reading, where summaries and results are stored."""
        run, chunk = run_rows(expected_issues(self.n_rows)), result_rows(self.n_rows)
        return 3 * BLOCK_ROWS * self.row + run * ISSUE_BYTES + 4 * chunk * (self.score + 1)

    def summaries(self) -> int:
        """Return the bytes of all row summaries in memory, with the class sums that come with each partition's."""
        again = self.score if self.settings.adjust_pred_probs or self.itemsize == 2 else 0
        rows = -(-self.n_rows // self.n_partitions)
        sums = self.n_partitions * min(24 * self.n_classes, 32 * rows)
        if self.settings.looks_again:
            sums += self.n_partitions * (8 * self.n_classes + pair_bytes(rows, self.n_classes))
        return self.n_rows * (self.row + again) + sums

    def in_process(self, n_threads: int, *, stored: bool, base: int = INTERPRETER_BYTES, n_processes: int = 1) -> int:
        """Return the most own memory, in bytes, that one process takes, but for `ISSUE_BYTES` an issue.

        The interpreter; for each thread a stored batch, decoded and not, and scratch for a strip; the sums and
        histograms that the reduction trees hold; for each row its summary, or for each thread a block of them where
        they are stored.

        Parameters
        ----------
        n_threads : int
            Threads of the process that read.
        stored : bool
            Whether summaries go to a workdir.
        base : int
            Bytes of the process before any work.
        n_processes : int
            Processes that share the summaries.
        """
        rest = n_threads * self._streaming if stored else -(-self.summaries() // n_processes)
        return int(base + n_threads * self._thread + self.partials + self.held_bytes + rest)


def check_sizes(batch_size: object, partition_batches: object) -> None:
    """Raise unless both are "auto" or a whole number of at least 1.

    Raises
    ------
    InvalidInputError
        Naming the one that is not.
    """
    for name, value in (("batch_size", batch_size), ("partition_batches", partition_batches)):
        if not (isinstance(value, str) and value == "auto"):
            check_whole_number(name, value, 1, otherwise='"auto" or ')
