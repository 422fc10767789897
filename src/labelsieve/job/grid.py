"""How rows are cut into batches, partitions and spans, and the memory that takes. Arithmetic alone."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.filters import Filter, filter_of
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import STRIP_BYTES
from labelsieve.confident_learning.thresholds import class_dtype
from labelsieve.execution.executor import INTERPRETER_BYTES, SLAB
from labelsieve.results.store import ISSUE_BYTES, result_rows, run_rows
from labelsieve.sources.open import Opened, where_is
from labelsieve.sources.source import Source

# Each thread gets several partitions, so that the last ones do not leave threads idle.
PARTITIONS_A_THREAD: Final = 4
# Share of the rows that are in smaller partitions where few large partitions are read, and how many make a large one.
_LAST_SHARE: Final = 0.25
_SMALL_LAST: Final = 3
# Bytes of row summaries in a workdir that one task works on.
_SPAN_BYTES: Final = 32_000_000


@dataclass(frozen=True)
class Grid:
    """The division of all rows into partitions, and of each partition into batches.

    Parameters
    ----------
    n_rows : int
        Number of all rows.
    batches : int or tuple of int
        Number of rows of every batch, except the last of a partition, which may be shorter; or of each batch.
    partitions : int or tuple of int
        Number of rows of every partition, except the last, which may be shorter; or the row at which each ends.

    Attributes
    ----------
    n_partitions : int
        Number of partitions.
    largest_batch, largest_partition : int
        Number of rows of the largest.
    """

    n_rows: int
    batches: int | tuple[int, ...]
    partitions: int | tuple[int, ...]
    n_partitions: int = field(init=False, compare=False)
    largest_batch: int = field(init=False, compare=False)
    largest_partition: int = field(init=False, compare=False)

    @classmethod
    def grouped(cls, n_rows: int, batches: int | tuple[int, ...], partition_batches: int) -> Grid:
        """Return a grid whose partitions are groups of `partition_batches` batches; the last one may have fewer."""
        if isinstance(batches, int):
            return cls(n_rows, batches, batches * partition_batches)
        edges = list(itertools.accumulate(batches))
        return cls(n_rows, batches, (*edges[partition_batches - 1 : -1 : partition_batches], n_rows))

    @classmethod
    def tapered(cls, n_rows: int, batch_rows: int, partition_batches: int) -> Grid:
        """Return a grid whose last rows are in smaller partitions, so that all threads end at about the same time."""
        large, small = (batch_rows * size for size in (partition_batches, -(-partition_batches // _SMALL_LAST)))
        n_large = int(n_rows * (1 - _LAST_SHARE)) // large
        ends = (*range(large, n_large * large + 1, large), *range(n_large * large + small, n_rows, small), n_rows)
        return cls(n_rows, batch_rows, ends)

    def __post_init__(self) -> None:
        n_rows, batches, partitions = self.n_rows, self.batches, self.partitions
        if isinstance(partitions, int):
            n_partitions, largest = -(-n_rows // partitions), min(partitions, n_rows)
        else:
            n_partitions, largest = len(partitions), max(map(int.__sub__, partitions, (0, *partitions[:-1])))
        largest_batch = max(batches) if isinstance(batches, tuple) else min(batches, largest)
        vars(self).update(n_partitions=n_partitions, largest_partition=largest, largest_batch=largest_batch)

    @property
    def n_large(self) -> int:
        """Number of partitions before the last ones, all much smaller than the largest; 0 where there are none such."""
        rows = self.partition_rows if isinstance(self.partitions, tuple) and isinstance(self.batches, int) else []
        half = max(rows, default=0) // 2
        n_large = 1 + max((index for index, n in enumerate(rows) if n > half), default=-1)
        return n_large if n_large < len(rows) - 1 else 0

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        if isinstance(self.batches, tuple):
            return len(self.batches)
        if isinstance(self.partitions, tuple):
            return sum(-(-rows // self.batches) for rows in self.partition_rows)
        whole, rest = divmod(self.n_rows, self.partitions)
        return whole * -(-self.partitions // self.batches) + -(-rest // self.batches)

    @cached_property
    def _batch_edges(self) -> list[int]:
        """The rows at which batches begin and end, where each batch is given."""
        return [0, *itertools.accumulate(self.batches)] if isinstance(self.batches, tuple) else []

    def ranges(self, index: int) -> list[tuple[int, int]]:
        """Return the row ranges ``[start, stop)`` of the batches of partition `index`; a partition has at least one."""
        start, stop = self.bounds(index)
        if isinstance(self.batches, int):
            return [(row, min(row + self.batches, stop)) for row in range(start, stop, self.batches)]
        edges = self._batch_edges
        inside = edges[bisect.bisect_right(edges, start) : bisect.bisect_left(edges, stop)]
        return list(itertools.pairwise([start, *inside, stop]))

    def bounds(self, index: int) -> tuple[int, int]:
        """Return the row range ``[start, stop)`` of partition `index`."""
        if isinstance(self.partitions, int):
            return index * self.partitions, min((index + 1) * self.partitions, self.n_rows)
        return self.partitions[index - 1] if index else 0, self.partitions[index]

    @property
    def partition_rows(self) -> list[int]:
        """Number of rows of each partition."""
        return [stop - start for start, stop in map(self.bounds, range(self.n_partitions))]


def snapped(stops: Sequence[int], edges: Sequence[int] | npt.NDArray[np.int64] | None) -> tuple[int, ...]:
    """Move each of some rows to the nearest of `edges`, and leave out what coincides; None moves nothing.

    Examples
    --------
    >>> snapped([100, 200, 300, 350], [120, 130, 350])
    (120, 130, 350)
    """
    if edges is None:
        return tuple(stops)
    edges = np.asarray(edges, np.int64)
    rows = np.asarray(stops, np.int64)
    above = np.minimum(np.searchsorted(edges, rows), len(edges) - 1)
    below = np.maximum(above - 1, 0)
    nearest = np.where(rows - edges[below] < edges[above] - rows, edges[below], edges[above])
    moved = np.unique(np.append(nearest, edges[-1]))
    return tuple(moved[moved > 0].tolist())


@dataclass(frozen=True)
class Span:
    """Consecutive rows whose summaries in a workdir one task works on.

    Parameters
    ----------
    start, stop : int
        The rows ``[start, stop)``.
    pieces : tuple of tuple of int
        For each partition that has some of these rows: its number, and its rows ``[a, b)``, counted from its first row.
    """

    start: int
    stop: int
    pieces: tuple[tuple[int, int, int], ...]


def spans(grid: Grid, row_bytes: int, n_threads: int) -> list[Span]:
    """Cut all rows into spans, several per thread, each of whole stored chunks of the result.

    Parameters
    ----------
    grid : Grid
        The partitions.
    row_bytes : int
        Bytes of the summary of a row.
    n_threads : int
        Number of threads that share the work.
    """
    chunk = result_rows(grid.n_rows)
    rows = min(_SPAN_BYTES // row_bytes, grid.n_rows // (n_threads * PARTITIONS_A_THREAD))
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


def arrays_of(opened: Opened) -> list[tuple[str, int]]:
    """Return the place and the number of rows of each array that has rows: of each shard, or of the only array."""
    if isinstance(opened, Source):
        return [(array.where, array.n_rows) for array in opened.arrays if array.n_rows]
    return [(where_is(opened), int(opened.shape[0]))]


def growing_grid(opened: Opened, planned: Grid, earlier: Mapping[str, Sequence[int]]) -> Grid:
    """Return a grid for a run with a workdir.

    Parameters
    ----------
    opened : Source or dask.array.Array
        Opened `pred_probs`.
    planned : Grid
        The grid without a workdir, whose batches are kept, and the size of whose partitions new rows get.
    earlier : mapping
        For each place of an array, the rows at which its partitions ended in an earlier run.
    """
    if not isinstance(opened, Source):
        stops = earlier.get(where_is(opened), ())
        return replace(planned, partitions=tuple(stops)) if planned.n_rows in stops[-1:] else planned
    found, first = list[int](), 0
    tapered = planned.bounds(planned.n_large) if planned.n_large else (planned.n_rows, planned.n_rows)
    for source in opened.arrays:
        # From this row of the array on, partitions are smaller.
        large_rows = min(max(0, tapered[0] - first), source.n_rows)
        sizes = (large_rows, planned.largest_partition), (source.n_rows, tapered[1] - tapered[0])
        stops = _partition_stops(source, sizes, planned.largest_batch, earlier.get(source.where, ()))
        if source.row_edges is not None and source.n_rows:
            stops = list(snapped(stops, source.row_edges))
        found += [first + stop for stop in stops]
        first += source.n_rows
    return replace(planned, partitions=tuple(found))


def partitions_by_array(opened: Opened, grid: Grid) -> dict[str, list[int]]:
    """Return, for each place of an array, the rows at which its partitions end: what `growing_grid` takes later."""
    stops = [grid.bounds(index)[1] for index in range(grid.n_partitions)]
    found, first, index = dict[str, list[int]](), 0, 0
    for place, n_rows in arrays_of(opened):
        last = index
        while last < len(stops) and stops[last] <= first + n_rows:
            last += 1
        found[place] = [stop - first for stop in stops[index:last]]
        first, index = first + n_rows, last
    return found


def _partition_stops(source: Source, sizes: Sequence[tuple[int, int]], batch: int, earlier: Sequence[int]) -> list[int]:
    """Return the rows at which the partitions of one array end.

    `sizes` has rows up to which a new partition has at most so many rows, in ascending order.
    """
    if not source.n_rows:
        return []
    unit = source.version_rows or source.n_rows
    whole = source.n_rows - source.n_rows % unit
    kept = max((stop for stop in earlier if stop <= whole and stop % unit == 0), default=0)
    stops, start = sorted({stop for stop in earlier if 0 < stop <= kept}), kept
    # Partitions of whole batches if these are whole stored chunks, otherwise of whole stored chunks.
    chunk = source.facts.row_chunk or 1
    for limit, rows in sizes:
        whole_unit = chunk if batch % chunk and chunk <= rows else batch
        for last in (min(whole, limit), limit):
            end = last if last in (whole, source.n_rows) else last - (last - start) % whole_unit
            stops += _equal_stops(start, end, rows, whole_unit)
            start = max(start, end)
    return stops


def _equal_stops(start: int, stop: int, rows: int, unit: int) -> list[int]:
    """Return the ends of the fewest pieces of about `rows` rows, of about equal numbers of whole units."""
    if start >= stop:
        return []
    n_pieces = -(-(stop - start) // rows)
    size = -(-(stop - start) // (n_pieces * unit)) * unit
    return [*range(start + size, stop, size), stop]


# Memory for a batch that is read whole, in units of its decoded bytes: decoded, stored, and some reserve.
BATCH_COPIES: Final = 2.25
# Memory of its own that a forked process takes.
FORK_BYTES: Final = 30_000_000
# A histogram of scores; there is one per span of rows.
HISTOGRAM_BYTES: Final = 65_536
# A piece of margins (`labelsieve.confident_learning.select`).
PAIR_PIECE_BYTES: Final = 40_000_000
# A candidate, and the number of copies of all candidates while the largest are selected.
CANDIDATE_BYTES: Final = 20
CANDIDATE_COPIES: Final = 5
# Memory is planned for this share of the rows as issues.
EXPECTED_SHARE: Final = 0.1
# Rows of a block of summaries in a workdir; a thread holds one block.
BLOCK_ROWS: Final = 1 << 16


def expected_issues(n_rows: int) -> int:
    """Return the number of issues that memory is planned for, before their number is known."""
    return int(EXPECTED_SHARE * n_rows)


def pair_bytes(n_rows: int, n_classes: int) -> int:
    """Return the planned bytes of the off-diagonal pairs in the confident counts of `n_rows` rows."""
    return 16 * min(expected_issues(n_rows), n_classes * (n_classes - 1))


def candidate_bytes(n_candidates: int, n_threads: int) -> int:
    """Return the bytes of the candidates for the largest margins, in this process and in `n_threads` threads."""
    return CANDIDATE_BYTES * CANDIDATE_COPIES * n_candidates * (n_threads + 1)


def class_histogram_bytes(n_classes: int) -> int:
    """Return the bytes of a histogram of scores by class: 2**18 bins, or 4 per class if that is more."""
    return 8 * max(1 << 18, 4 * n_classes)


def merge_bytes(n_rows: int) -> int:
    """Return the bytes that the client holds while sorted runs are merged.

    These are two arrays with the number of rows of each run before each cut, and a sample of the keys (of every 1024th
    row, or of 16 rows per run) with its sorted copy. The number of runs is that of the chunks of issues, plus one per
    span.
    """
    n_issues = expected_issues(n_rows)
    n_ranges = -(-n_issues // run_rows(n_issues))
    n_runs = n_ranges + -(-n_rows // result_rows(n_rows))
    return 2 * 4 * n_runs * 2 * n_ranges + 64 * max(n_issues // 1024, 16 * n_runs)


@dataclass(frozen=True)
class Need:
    """The memory that a run needs, by the formula in the guide on memory.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    itemsize : int
        Bytes of a probability.
    settings : Settings
        The settings that change the result; they decide about scores and passes.
    n_partitions : int
        Number of partitions.
    batch_bytes : int
        Decoded bytes that a thread holds of batches that are read whole (Zarr, HDF5, Fortran order, Dask); 0 if they
        are read strip by strip (``.npy`` files and arrays in memory).
    ahead_bytes : int
        Bytes that a thread prefetches from remote storage.
    held_bytes : int
        Bytes of inputs that are kept in memory: labels that are read first, a Dask array that is kept.
    rule : Filter, optional
        The filter, if it is not that of the settings: rows of tags have filters of their own.

    Attributes
    ----------
    row, score : int
        Bytes of the summary of a row, and of its score in the result.
    thread : float
        Bytes that a thread takes while it reads.
    partials : int
        Bytes of the sums, histograms and pairs that a tree reduction holds, and of two copies of all pairs.
    n_reads : int
        Number of reads of `pred_probs`.
    """

    n_rows: int
    n_classes: int
    itemsize: int
    settings: Settings
    n_partitions: int = 1
    batch_bytes: int = 0
    ahead_bytes: int = 0
    held_bytes: int = 0
    rule: Filter | None = None
    row: int = field(init=False)
    score: int = field(init=False)
    thread: float = field(init=False)
    partials: int = field(init=False)
    n_reads: int = field(init=False)

    def __post_init__(self) -> None:
        plain, rule = self.settings.plain_self_confidence, self.rule or filter_of(self.settings)
        n_rows, n_classes, issues = self.n_rows, self.n_classes, expected_issues(self.n_rows)
        row = 2 * class_dtype(n_classes).itemsize + 2 * self.itemsize + 8 * (not plain) + self.settings.counts_joint
        score = max(4, self.itemsize) if plain else 8
        candidates = candidate_bytes(issues, 0) if rule.reads_pairs else 0
        # A strip, its transposed copy with a byte for each value, a few numbers per row, and, if scores are computed
        # from whole rows, some float64 copies.
        copies = 3 if plain else 3 + 5 * 8 // self.itemsize
        thread = BATCH_COPIES * self.batch_bytes + self.ahead_bytes + copies * STRIP_BYTES
        n = min(self.n_partitions, SLAB)
        each = 24 * n_classes + HISTOGRAM_BYTES + pair_bytes(-(-n_rows // self.n_partitions), n_classes)
        each += class_histogram_bytes(n_classes) if rule.cuts_classes else 0
        vars(self).update(
            n_reads=rule.n_reads,
            row=row,
            score=score,
            thread=thread + (candidates + PAIR_PIECE_BYTES if rule.reads_pairs else 0),
            partials=min(n, 32 + n // 16) * each + 2 * pair_bytes(n_rows, n_classes) + candidates,
        )

    @property
    def streaming(self) -> int:
        """Bytes that a thread takes for summaries in a workdir and for the result, in addition to reading."""
        issues = run_rows(expected_issues(self.n_rows)) * ISSUE_BYTES
        return 3 * BLOCK_ROWS * self.row + issues + 4 * result_rows(self.n_rows) * (self.score + 1)

    def summaries(self) -> int:
        """Return the bytes of all row summaries in memory, with the class sums of each partition."""
        final_score = self.score if self.settings.adjust_pred_probs or self.itemsize == 2 else 0
        rows = -(-self.n_rows // self.n_partitions)
        sums = self.n_partitions * min(24 * self.n_classes, 32 * rows)
        if self.settings.counts_joint:
            sums += self.n_partitions * (8 * self.n_classes + pair_bytes(rows, self.n_classes))
        return self.n_rows * (self.row + final_score) + sums

    def in_process(self, n_threads: int, *, stored: bool, base: int = INTERPRETER_BYTES, n_processes: int = 1) -> int:
        """Return the peak memory of one process in bytes, without the issues (`ISSUE_BYTES` each).

        This is the interpreter; for each thread a batch, decoded and as stored, and scratch arrays of a strip; the sums
        and histograms of tree reductions; and the summaries of all rows, or, in a workdir, a block of them per thread.

        Parameters
        ----------
        n_threads : int
            Number of threads of the process that read.
        stored : bool
            Whether summaries are in a workdir only.
        base : int
            Bytes of the process before any work.
        n_processes : int
            Number of processes that share the summaries.
        """
        rest = n_threads * self.streaming if stored else -(-self.summaries() // n_processes)
        return int(base + n_threads * self.thread + self.partials + self.held_bytes + rest)
