"""The rows of one task, read strip by strip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import JointCounter
from labelsieve.confident_learning.summarizer import Summarizer
from labelsieve.confident_learning.summary_block import MAX_STRIP_ROWS, STRIP_BYTES
from labelsieve.errors import InvalidInputError
from labelsieve.execution.running_task import stop_if_abandoned
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
    origin : int
        Number of the first row of the source, which may be a part of an input.
    """

    def __init__(self, source: Source, start: int = 0, stop: int | None = None, origin: int = 0) -> None:
        self.source, self.start, self.stop = source, start, source.n_rows if stop is None else stop
        self.origin = origin
        self.shape, self.dtype, self.ndim = (self.stop - start, *source.shape[1:]), source.dtype, source.ndim

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the names of attributes: each task of a graph is sent two ranges."""
        return RowRange, (self.source, self.start, self.stop, self.origin)

    @classmethod
    def of_part(cls, source: Source, start: int, stop: int) -> RowRange:
        """Return rows ``[start, stop)`` of `source`, without the shards and the versions of chunks of other rows."""
        part, origin = source.part(start, stop)
        return cls(part, start - origin, stop - origin, origin)

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that holds rows ``[start, stop)`` of the input, and the row at which it begins."""
        part, origin = self.source.part(start - self.origin, stop - self.origin)
        return part, origin + self.origin

    def __getitem__(self, key: Any) -> RowRange | Block:
        """Return a slice of rows as a lazy range; read the rows for any other index that NumPy accepts."""
        rows, *columns = key if isinstance(key, tuple) else (key,)
        all_columns = [slice(0, size) for size in self.shape[1:]]
        if isinstance(rows, slice) and rows.step in (None, 1) and columns in ([], all_columns):
            start, stop, _ = rows.indices(self.shape[0])
            return RowRange(self.source, self.start + start, self.start + stop, self.origin)
        block: Block = np.asarray(self)[key]
        return block

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Block:
        """Read the rows."""
        rows: Block = np.asarray(self.source[self.start : self.stop], dtype, copy=copy)
        return rows


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
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    def __init__(
        self,
        batches: Batches,
        labels: RowRange | Block | None,
        pred_probs: RowRange | Block | None,
        n_classes: int,
        dtype: np.dtype[Any],
        ignored: int | None = None,
    ) -> None:
        self.ignored = ignored
        self.index, self.ranges = batches.index, tuple(batches.ranges)
        self.n_classes, self.dtype = n_classes, dtype.newbyteorder("=")
        self.start, self.stop = self.ranges[0][0], self.ranges[-1][1]
        self._labels, self._pred_probs = labels, pred_probs

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
        rows = self._pred_probs
        row_bytes = rows.source.strip_row_bytes if isinstance(rows, RowRange) else self.n_classes * self.dtype.itemsize
        return max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // row_bytes))

    @property
    def summarizer(self) -> type[Summarizer]:
        """What makes row summaries of the strips."""
        return self._pred_probs.source.summarizer if isinstance(self._pred_probs, RowRange) else Summarizer

    @property
    def joint_counter(self) -> type[JointCounter]:
        """What counts the confident joint of the strips of a second pass."""
        return self._pred_probs.source.joint_counter if isinstance(self._pred_probs, RowRange) else JointCounter

    @cached_property
    def _batches(self) -> list[tuple[int, int]]:
        """The batches to read; neighbours are joined up to a strip: tiny batches cost time and save no memory."""
        joined: list[tuple[int, int]] = []
        for start, stop in self.ranges:
            if joined and stop - joined[-1][0] <= self.strip_rows:
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        return joined

    @property
    def _strips(self) -> Iterator[tuple[int, int]]:
        """The rows ``[start, stop)`` of each strip, which batches cut too; between them the task may be stopped."""
        for first, last in self._batches:
            for start in range(first, last, self.strip_rows):
                stop_if_abandoned()
                yield start, min(start + self.strip_rows, last)
        stop_if_abandoned()

    def strips(self) -> Iterator[tuple[Block, Block]]:
        """Yield ``(n,)`` labels, and what `summarizer` takes for ``(n, K)`` probabilities, in row order."""
        with self._reader(self._labels, self.n_rows) as labels, self._probs_reader(raw=True) as probs:
            for start, stop in self._strips:
                strip = probs.read(start, stop)
                yield labels.read(start, stop), strip

    def label_strips(self) -> Iterator[Block]:
        """Yield ``(n,)`` labels in row order, without reading probabilities."""
        with self._reader(self._labels, self.n_rows) as labels:
            for start, stop in self._strips:
                yield labels.read(start, stop)

    def prob_strips(self) -> Iterator[Block]:
        """Yield ``(n, K)`` probabilities in row order, without reading labels."""
        with self._probs_reader() as probs:
            for start, stop in self._strips:
                yield probs.read(start, stop)

    def _probs_reader(self, *, raw: bool = False) -> _BatchReader:
        return self._reader(self._pred_probs, self.n_rows, self.n_classes, raw=raw)

    def _reader(self, rows: RowRange | Block | None, *shape: int, raw: bool = False) -> _BatchReader:
        """Return what reads `rows`, which have `shape` if they are in memory."""
        stop_if_abandoned()
        source, origin = (
            rows.part(self.start, self.stop)
            if isinstance(rows, RowRange)
            else (ArraySource(_checked_block(rows, shape, self.dtype)), self.start)
        )
        return _BatchReader(source, origin, self._batches, raw=raw)


def _checked_block(block: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Block:
    """Return a block of a user's Dask array; raise if its shape or dtype is not that of the array."""
    name = "labels" if len(shape) == 1 else "pred_probs"
    if block is None:
        raise RuntimeError("this task has no rows to read")
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


class _BatchReader:
    """Reads rows of one array in ascending order: by strips if that costs no more, otherwise by batches."""

    def __init__(self, source: Source, origin: int, ranges: Sequence[tuple[int, int]], *, raw: bool) -> None:
        self._source, self._origin, self._ranges = source, origin, ranges
        self._open = source.open_raw if raw else source.open
        self._first, self._held = 0, np.empty(0)

    def __enter__(self) -> Self:
        self._rows = self._open(self._ranges[0][0] - self._origin, self._ranges[-1][1] - self._origin)
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
