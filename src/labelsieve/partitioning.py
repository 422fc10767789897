"""How rows are cut into batches, partitions and spans. Arithmetic alone: no data, no Dask."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from labelsieve.settings import check_whole_number

# Each thread gets several partitions, so that the last ones do not leave threads idle.
PARTITIONS_A_THREAD: Final = 4
# Rows of a stored chunk of the scores and of the mask of all rows, and the most chunks that these have.
RESULT_ROWS: Final = 1 << 18
_RESULT_CHUNKS: Final = 4096
# Bytes of row summaries in a workdir that one task works on.
_SPAN_BYTES: Final = 32_000_000

Auto = Literal["auto"]


@dataclass(frozen=True)
class Grid:
    """The division of all rows into batches, and of batches into partitions.

    Parameters
    ----------
    n_rows : int
        Number of all rows.
    batches : int or tuple of int
        Number of rows of every batch, except the last, which may be shorter; or of each batch.
    partition_batches : int
        Number of consecutive batches that one task streams.
    """

    n_rows: int
    batches: int | tuple[int, ...]
    partition_batches: int

    @cached_property
    def batch_rows(self) -> tuple[int, ...]:
        """Number of rows of each batch."""
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
        """Number of rows of the largest batch."""
        return max(self.batches) if isinstance(self.batches, tuple) else min(self.batches, self.n_rows)

    @property
    def n_partitions(self) -> int:
        """Number of partitions."""
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

    @property
    def partition_rows(self) -> list[int]:
        """Number of rows of each partition."""
        return [stop - start for start, stop in map(self.bounds, range(self.n_partitions))]

    def in_batches_of(self, rows: int, row_chunk: int | None) -> Grid:
        """Return the same partitions in batches of at most `rows` rows; batches of whole stored chunks stay such."""
        if isinstance(self.batches, tuple) or self.batches <= rows:
            return self
        partition = self.batches * self.partition_batches
        unit = row_chunk if row_chunk and self.batches % row_chunk == 0 else 1
        rows = max(rows, unit)
        # The fewest equal batches of whole units, but at most twice as many as are needed.
        least = -(-partition // rows)
        counts = range(least, min(2 * least, partition // unit) + 1)
        count = next((n for n in counts if partition // unit % n == 0), 0)
        if count:
            return Grid(self.n_rows, partition // count, count)
        # No equal batches fit: each partition ends with a shorter one.
        rows -= rows % unit
        whole = [min(rows, partition - done) for done in range(0, partition, rows)]
        sizes = [n for _ in range(self.n_rows // partition) for n in whole]
        rest = self.n_rows % partition
        sizes += [min(rows, rest - done) for done in range(0, rest, rows)]
        return Grid(self.n_rows, tuple(sizes), len(whole))


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


def result_rows(n_rows: int) -> int:
    """Return the number of rows of a stored chunk of the scores and of the mask: there are at most 4,096 chunks."""
    return RESULT_ROWS * max(1, -(-n_rows // (_RESULT_CHUNKS * RESULT_ROWS)))


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


def check_sizes(batch_size: object, partition_batches: object) -> None:
    """Raise unless both are "auto" or a whole number of at least 1.

    Raises
    ------
    InvalidInputError
        For the one that is not.
    """
    for name, value in (("batch_size", batch_size), ("partition_batches", partition_batches)):
        if not (isinstance(value, str) and value == "auto"):
            check_whole_number(name, value, 1, otherwise='"auto" or ')
