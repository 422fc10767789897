"""The rows of one task, read strip by strip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.row_summary import MAX_STRIP_ROWS, STRIP_BYTES
from labelsieve.errors import InvalidInputError
from labelsieve.partitioning import Grid
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Source

Block = npt.NDArray[Any]


class RowRange:
    """A lazy range of rows of a source: a block of a Dask array over files.

    Parameters
    ----------
    source : Source
        Source of the rows.
    start, stop : int
        The rows ``[start, stop)``; all by default.
    """

    def __init__(self, source: Source, start: int = 0, stop: int | None = None) -> None:
        self.source, self.start, self.stop = source, start, source.n_rows if stop is None else stop
        self.shape, self.dtype, self.ndim = (self.stop - start, *source.shape[1:]), source.dtype, source.ndim

    def __getitem__(self, key: Any) -> RowRange | Block:
        """Return a slice of rows as a lazy range; read the rows for any other index that NumPy accepts."""
        rows, *columns = key if isinstance(key, tuple) else (key,)
        all_columns = [slice(0, size) for size in self.shape[1:]]
        if isinstance(rows, slice) and rows.step in (None, 1) and columns in ([], all_columns):
            start, stop, _ = rows.indices(self.shape[0])
            return RowRange(self.source, self.start + start, self.start + stop)
        block: Block = np.asarray(self)[key]
        return block

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Block:
        """Read the rows."""
        rows: Block = np.asarray(self.source[self.start : self.stop], dtype, copy=copy)
        return rows


class RowRanges(Sequence[RowRange]):
    """The rows of a source cut into partitions, which are not read yet.

    Parameters
    ----------
    source : Source
        Where the rows are.
    grid : Grid
        The partitions.
    numbers : range, optional
        Numbers of the partitions; all by default.
    """

    def __init__(self, source: Source, grid: Grid, numbers: range | None = None) -> None:
        self._source, self._grid = source, grid
        self._numbers = range(grid.n_partitions) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> RowRange: ...

    @overload
    def __getitem__(self, index: slice) -> RowRanges: ...

    def __getitem__(self, index: int | slice) -> RowRange | RowRanges:
        if isinstance(index, slice):
            return RowRanges(self._source, self._grid, self._numbers[index])
        return RowRange(self._source, *self._grid.bounds(self._numbers[index]))


@dataclass(frozen=True)
class Batches:
    """The batches of one partition.

    Parameters
    ----------
    index : int
        Number of the partition.
    ranges : sequence of tuple of int
        Row range ``[start, stop)`` of each batch.
    """

    index: int
    ranges: Sequence[tuple[int, int]]


class Partition:
    """The rows of one task, read strip by strip.

    Parameters
    ----------
    batches : Batches
        The row ranges.
    labels, pred_probs : RowRange, array or None
        The rows, lazy or in memory; None if they are not needed.
    n_classes : int
        Columns of `pred_probs`.
    dtype : dtype
        Dtype of `pred_probs`.
    """

    def __init__(
        self,
        batches: Batches,
        labels: RowRange | Block | None,
        pred_probs: RowRange | Block | None,
        n_classes: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.index, self.ranges = batches.index, tuple(batches.ranges)
        self.n_classes, self.dtype = n_classes, dtype.newbyteorder("=")
        self.start, self.stop = self.ranges[0][0], self.ranges[-1][1]
        self._labels = self._part("labels", labels)
        self._pred_probs = self._part("pred_probs", pred_probs)

    def _part(self, name: str, rows: RowRange | Block | None) -> tuple[Source, int] | None:
        """Return the source of the rows, and the row number of its first row."""
        if rows is None:
            return None
        if isinstance(rows, RowRange):
            return rows.source.part(self.start, self.stop)
        shape = (self.n_rows, self.n_classes)[: 1 + (name == "pred_probs")]
        return ArraySource(_checked_block(name, rows, shape, self.dtype)), self.start

    @property
    def n_rows(self) -> int:
        """Number of rows of all batches."""
        return self.stop - self.start

    @property
    def has_pred_probs(self) -> bool:
        """Whether the task has rows of `pred_probs`."""
        return self._pred_probs is not None

    @property
    def readable(self) -> bool:
        """Whether the task has the rows of both inputs."""
        return self._labels is not None and self._pred_probs is not None

    @property
    def strip_rows(self) -> int:
        """Number of rows of a strip."""
        return max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // (self.n_classes * self.dtype.itemsize)))

    def strips(self) -> Iterator[tuple[Block, Block]]:
        """Yield ``(n,)`` labels and ``(n, K)`` probabilities in row order."""
        ranges = list(_joined(self.ranges, self.strip_rows))
        with _BatchReader(self._labels, ranges) as labels:
            for start, stop, strip in self._prob_strips(ranges):
                yield labels.read(start, stop), strip

    def prob_strips(self) -> Iterator[Block]:
        """Yield ``(n, K)`` probabilities in row order, without reading labels."""
        for _, _, strip in self._prob_strips(list(_joined(self.ranges, self.strip_rows))):
            yield strip

    def _prob_strips(self, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, Block]]:
        with _BatchReader(self._pred_probs, ranges) as probs:
            for first, last in ranges:
                for start in range(first, last, self.strip_rows):
                    stop = min(start + self.strip_rows, last)
                    yield start, stop, probs.read(start, stop)


def _checked_block(name: str, block: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Block:
    """Return a block of a user's Dask array; raise if its shape or dtype is not that of the array."""
    if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
        raise InvalidInputError(f"a block of the Dask array {name} has masked values: drop or fill them first")
    block = np.asarray(block)
    if block.shape != shape:
        raise InvalidInputError(f"a block of the Dask array {name} has shape {block.shape}; the array says {shape}")
    expected = dtype if len(shape) == 2 else "integers"
    if block.dtype.kind not in "iu" if len(shape) == 1 else block.dtype.newbyteorder("=") != dtype:
        raise InvalidInputError(f"a block of the Dask array {name} has dtype {block.dtype}; the array says {expected}")
    checked: Block = block
    return checked


def _joined(ranges: Iterable[tuple[int, int]], n_rows: int) -> Iterator[tuple[int, int]]:
    """Join neighbouring batches up to `n_rows` rows: tiny batches cost time and save no memory."""
    first, last = -1, -1
    for start, stop in ranges:
        if first < 0:
            first = start
        elif stop - first > n_rows:
            yield first, last
            first = start
        last = stop
    yield first, last


class _BatchReader:
    """Reads rows of one array in ascending order: by strips if that costs no more, otherwise by batches."""

    def __init__(self, part: tuple[Source, int] | None, ranges: Sequence[tuple[int, int]]) -> None:
        if part is None:
            raise RuntimeError("this task has no rows to read")
        (self._source, self._origin), self._ranges = part, ranges
        self._first = 0
        self._held: Block = np.empty(0)

    def __enter__(self) -> Self:
        self._rows = self._source.open(self._ranges[0][0] - self._origin, self._ranges[-1][1] - self._origin)
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows.close()

    def read(self, start: int, stop: int) -> Block:
        """Return rows ``[start, stop)`` of one batch."""
        if self._source.in_pieces:
            return self._read(start, stop)
        if not self._first <= start < self._first + len(self._held):
            self._first, end = next(batch for batch in self._ranges if batch[0] <= start < batch[1])
            self._held = self._read(self._first, end)
        held: Block = self._held[start - self._first : stop - self._first]
        return held

    def _read(self, start: int, stop: int) -> Block:
        return self._rows.read(start - self._origin, stop - self._origin)
