"""The rows of one task, read strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import JointCounter
from labelsieve.confident_learning.summarize import MAX_STRIP_ROWS, STRIP_BYTES, Summarizer
from labelsieve.errors import InvalidInputError, locate
from labelsieve.execution.graph import stop_if_abandoned
from labelsieve.job.grid import Grid, Span
from labelsieve.job.kept import SummaryChunk
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.source import Source

Block = npt.NDArray[Any]
ReadRows = Callable[[int, int], Block]


class RowRange:
    """A lazy range of rows of a source: the argument of a task that reads them.

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the names of attributes: each task of a graph is sent two ranges."""
        return RowRange, (self.source, self.start, self.stop, self.origin)

    @classmethod
    def of_part(cls, source: Source, start: int, stop: int) -> RowRange:
        """Return rows ``[start, stop)`` of `source`, without the shards and the versions of chunks of other rows."""
        part, origin = source.part(start, stop)
        return cls(part, start - origin, stop - origin, origin)


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

    Attributes
    ----------
    has_pred_probs, has_both : bool
        Whether the task has rows of `pred_probs`, and of both inputs.
    summarizer : type
        What makes row summaries of the strips.
    joint_counter : type
        What counts the confident joint of the strips of a second pass.
    strip_rows : int
        Number of rows of a strip.
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
        self.index, self.ranges, self.ignored = batches.index, tuple(batches.ranges), ignored
        self.n_classes, self.dtype = n_classes, dtype.newbyteorder("=")
        self.start, self.stop = self.ranges[0][0], self.ranges[-1][1]
        self.n_rows = self.stop - self.start
        self._labels, self._pred_probs = labels, pred_probs
        self.has_pred_probs, self.has_both = pred_probs is not None, labels is not None and pred_probs is not None
        row_bytes = n_classes * self.dtype.itemsize
        self.summarizer, self.joint_counter = Summarizer, JointCounter
        if isinstance(pred_probs, RowRange):
            source = pred_probs.source
            self.summarizer, self.joint_counter = source.summarizer, source.joint_counter
            row_bytes = source.strip_row_bytes or source.row_bytes
        self.strip_rows = max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // row_bytes))
        # The batches to read; neighbours are joined up to a strip: tiny batches cost time and save no memory.
        self._batches: list[tuple[int, int]] = []
        for start, stop in self.ranges:
            if self._batches and stop - self._batches[-1][0] <= self.strip_rows:
                self._batches[-1] = self._batches[-1][0], stop
            else:
                self._batches.append((start, stop))

    def _strips(self) -> Iterator[tuple[int, int]]:
        """Yield the rows ``[start, stop)`` of each strip, which batches cut too; in between the task may be stopped."""
        for first, last in self._batches:
            for start in range(first, last, self.strip_rows):
                stop_if_abandoned()
                yield start, min(start + self.strip_rows, last)
        stop_if_abandoned()

    def strips(self, *, raw: bool = True) -> Iterator[tuple[Block, Block]]:
        """Yield ``(n,)`` labels, and what `summarizer` takes for ``(n, K)`` probabilities, in row order.

        These are the probabilities themselves unless `raw`.
        """
        with (
            self._reader(self._labels, self.n_rows) as labels,
            self._reader(self._pred_probs, self.n_rows, self.n_classes, raw=raw) as probs,
        ):
            for start, stop in self._strips():
                strip = probs(start, stop)
                yield labels(start, stop), strip

    def label_strips(self) -> Iterator[Block]:
        """Yield ``(n,)`` labels in row order, without reading probabilities."""
        with self._reader(self._labels, self.n_rows) as labels:
            for start, stop in self._strips():
                yield labels(start, stop)

    def prob_strips(self) -> Iterator[Block]:
        """Yield ``(n, K)`` probabilities in row order, without reading labels."""
        with self._reader(self._pred_probs, self.n_rows, self.n_classes) as probs:
            for start, stop in self._strips():
                yield probs(start, stop)

    @contextmanager
    def _reader(self, rows: RowRange | Block | None, *shape: int, raw: bool = False) -> Iterator[ReadRows]:
        """Yield what reads rows ``[start, stop)`` in ascending order; `rows` have `shape` if they are in memory.

        They are read by strips if that costs no more, otherwise by batches.
        """
        stop_if_abandoned()
        if isinstance(rows, RowRange):
            source, origin = rows.source.part(self.start - rows.origin, self.stop - rows.origin)
            origin += rows.origin
        else:
            source, origin = ArraySource(_checked_block(rows, shape, self.dtype)), self.start
        batches, first, held = self._batches, 0, np.empty(0)

        def of_batch(start: int, stop: int) -> Block:
            nonlocal first, held
            if not first <= start < first + len(held):
                first, end = next(batch for batch in batches if batch[0] <= start < batch[1])
                held = opened.read(first - origin, end - origin)
            return held[start - first : stop - first]

        opening = source.open_raw if raw else source.open
        with closing(opening(batches[0][0] - origin, batches[-1][1] - origin)) as opened:
            in_pieces = source.facts.in_pieces
            yield (lambda start, stop: opened.read(start - origin, stop - origin)) if in_pieces else of_batch


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


@dataclass(frozen=True)
class PartitionWork:
    """Runs a function on a partition of `pred_probs`.

    Parameters
    ----------
    work : callable
        Called with a `Partition` and the further arguments of the task.
    grid : Grid
        The partitions. Tasks get only their numbers, to keep the graph small.
    n_classes : int
        Number of classes K.
    dtype : dtype
        Dtype of `pred_probs`.
    where : str
        Place of `pred_probs`, for messages.
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    work: Callable[..., Any]
    grid: Grid
    n_classes: int
    dtype: np.dtype[Any]
    where: str
    ignored: int | None = None

    @property
    def n_first(self) -> int:
        """Number of partitions that are to be read first, because later ones are smaller; 0 if none are."""
        return self.grid.n_large

    def batches(self, partition: int | Batches) -> Batches:
        """Return the batches of a partition, which may be given by its number."""
        if isinstance(partition, Batches):
            return partition
        return Batches(partition, self.grid.ranges(partition))

    def name(self, partition: int | Batches) -> str:
        """Name a partition for messages."""
        batches = self.batches(partition)
        start, stop = batches.ranges[0][0], batches.ranges[-1][1]
        return f"partition {batches.index} (rows {start:,}..{stop - 1:,}) of {self.where}"

    def n_rows(self, partition: int | Batches) -> int:
        """Return the number of rows of a partition."""
        ranges = self.batches(partition).ranges
        return ranges[-1][1] - ranges[0][0]

    def first_row(self, partition: int | Batches) -> int:
        """Return the number of the first row of a partition."""
        return self.batches(partition).ranges[0][0]

    def __call__(self, partition: int | Batches, labels: Any, pred_probs: Any, *more: Any) -> Any:
        """Call the function; errors name the partition."""
        try:
            if not isinstance(partition, Batches):
                partition = Batches(partition, self.grid.ranges(partition))
            return self.work(Partition(partition, labels, pred_probs, self.n_classes, self.dtype, self.ignored), *more)
        except Exception as error:
            locate(error, self.name(partition), self.batches(partition).ranges)
            raise


@dataclass(frozen=True)
class ChunkWork:
    """Runs a function on a chunk of row summaries, or on a stretch of the sorted issues.

    Parameters
    ----------
    work : callable
        Called with the chunk or stretch and the further arguments of the task.
    where : str
        Place of the chunks, for messages.
    """

    work: Callable[..., Any]
    where: str

    def name(self, rows: Any) -> str:
        """Name a chunk for messages. The row numbers of a chunk that a worker holds are not known here."""
        if isinstance(rows, Stretch):
            return f"issues {rows.start:,}..{rows.stop - 1:,} in {self.where}"
        if not isinstance(rows, SummaryChunk | Span):
            return f"row summaries in {self.where}"
        return f"rows {rows.start:,}..{rows.start + self.n_rows(rows) - 1:,} of the row summaries in {self.where}"

    def n_rows(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of rows of a chunk."""
        return rows.n_rows if isinstance(rows, SummaryChunk) else rows.stop - rows.start

    def first_row(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of the first row of a chunk, or the first rank of a stretch."""
        return rows.start

    def __call__(self, rows: SummaryChunk | Span | Stretch, *more: Any) -> Any:
        """Call the function; errors name the rows."""
        try:
            return self.work(rows, *more)
        except Exception as error:
            locate(error, self.name(rows))
            raise


@dataclass(frozen=True)
class Stretch:
    """Consecutive ranks of the final order, and the ranges of keys that hold their rows.

    Parameters
    ----------
    start, stop : int
        Ranks ``[start, stop)``.
    first : int
        Rank of the first row of the first range.
    edges : tuple of int
        Number of the first range, and of the last range plus one.
    """

    start: int
    stop: int
    first: int
    edges: tuple[int, int]
