"""The rows of one task: where they are, and how they come strip by strip. NumPy and sources, no Dask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.row_summary import MAX_STRIP_ROWS, STRIP_BYTES
from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Rows, Source

Block = npt.NDArray[Any]


class Partition:
    """The rows of one task, as a description; not a dataclass, so that Dask takes it as one opaque value.

    Parameters
    ----------
    ranges : sequence of tuple of int
        Row ranges ``[start, stop)`` of the batches.
    n_classes : int
        Columns of `pred_probs`.
    dtype : dtype
        Dtype of `pred_probs`.
    labels, pred_probs : Source or None
        Where the rows are; None where the task is handed them as blocks, one a batch.
    index : int
        Its number in the grid.
    """

    def __init__(
        self,
        ranges: Sequence[tuple[int, int]],
        n_classes: int,
        dtype: np.dtype[Any],
        labels: Source | None,
        pred_probs: Source | None,
        index: int = 0,
    ) -> None:
        self.index = index
        self.ranges, self.n_classes, self.dtype = tuple(ranges), n_classes, dtype.newbyteorder("=")
        self.start, self.stop = self.ranges[0][0], self.ranges[-1][1]
        self._labels = labels.part(self.start, self.stop) if labels else None
        self._pred_probs = pred_probs.part(self.start, self.stop) if pred_probs else None

    @property
    def n_rows(self) -> int:
        """Rows of all batches."""
        return self.stop - self.start

    def narrowed(self, start: int, stop: int) -> Partition:
        """Return the rows ``[start, stop)`` of this partition as one batch; its number stays."""
        part = copy(self)
        part.ranges, part.start, part.stop = ((start, stop),), start, stop
        return part

    def has_labels(self, blocks: Sequence[Block] | None) -> bool:
        """Tell whether labels can be read: from a source, or from the blocks that a task was handed."""
        return self._labels is not None or blocks is not None

    def has_pred_probs(self, blocks: Sequence[Block] | None) -> bool:
        """Tell whether probabilities can be read: from a source, or from the blocks that a task was handed."""
        return self._pred_probs is not None or blocks is not None

    @property
    def strip_rows(self) -> int:
        """Rows worked on at a time."""
        return max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // (self.n_classes * self.dtype.itemsize)))

    def strips(
        self, labels: Sequence[Block] | None, pred_probs: Sequence[Block] | None
    ) -> Iterator[tuple[Block, Block]]:
        """Yield ``(n,)`` labels and ``(n, K)`` probabilities in row order, from sources or the blocks handed in."""
        ranges = self._working_ranges(labels is None and pred_probs is None)
        with self._label_feed(labels, ranges) as feed:
            for index, rows, strip in self._prob_strips(pred_probs, ranges):
                yield feed.piece(index, rows.start, rows.stop), strip

    def prob_strips(self, pred_probs: Sequence[Block] | None) -> Iterator[Block]:
        """Yield ``(n, K)`` probabilities in row order; no label is read."""
        for _, _, strip in self._prob_strips(pred_probs, self._working_ranges(pred_probs is None)):
            yield strip

    def _label_feed(self, blocks: Sequence[Block] | None, ranges: Sequence[tuple[int, int]]) -> _Feed:
        return (_Feed if self._labels is None else _LabelFeed)("labels", self._labels, blocks, ranges)

    def _working_ranges(self, from_sources: bool) -> Sequence[tuple[int, int]]:
        return list(_joined(self.ranges, self.strip_rows)) if from_sources else self.ranges

    def _prob_strips(
        self, blocks: Sequence[Block] | None, ranges: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, slice, Block]]:
        feed = _Feed("pred_probs", self._pred_probs, blocks, ranges, dtype=self.dtype, row_shape=(self.n_classes,))
        with feed:
            for index, (start, stop) in enumerate(ranges):
                for a in range(0, stop - start, self.strip_rows):
                    rows = slice(a, min(a + self.strip_rows, stop - start))
                    yield index, rows, feed.piece(index, rows.start, rows.stop)


def _joined(ranges: Iterable[tuple[int, int]], n_rows: int) -> Iterator[tuple[int, int]]:
    """Join neighbouring batches while they have at most `n_rows` rows together: tiny ones save no memory, only time."""
    first, last = -1, -1
    for start, stop in ranges:
        if first < 0:
            first = start
        elif stop - first > n_rows:
            yield first, last
            first = start
        last = stop
    yield first, last


class _Feed:
    """Batches of one array, from a source or from blocks that Dask computed."""

    def __init__(
        self,
        name: str,
        part: tuple[Source, int] | None,
        blocks: Sequence[Block] | None,
        ranges: Sequence[tuple[int, int]],
        *,
        dtype: np.dtype[Any] | None = None,
        row_shape: tuple[int, ...] = (),
    ) -> None:
        self._name, self._part, self._blocks, self._ranges, self._dtype = name, part, blocks, ranges, dtype
        self._row_shape = row_shape
        self._rows: Rows | None = None
        self._batch: tuple[int, Block] = (-1, np.empty(0))

    def __enter__(self) -> Self:
        if self._part is not None:
            origin = self._part[1]
            self._rows = self._part[0].open(self._ranges[0][0] - origin, self._ranges[-1][1] - origin)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._rows is not None:
            self._rows.close()

    def whole(self, index: int) -> Block:
        """Return all rows of batch `index`."""
        if self._batch[0] != index:
            start, stop = self._ranges[index]
            self._batch = (
                index,
                self._read(start, stop) if self._rows is not None else self._block(index, stop - start),
            )
        return self._batch[1]

    def piece(self, index: int, a: int, b: int) -> Block:
        """Return rows ``[a, b)`` of batch `index`."""
        if self._part is not None and self._part[0].in_pieces:
            start = self._ranges[index][0]
            return self._read(start + a, start + b)
        return self.whole(index)[a:b]

    def _read(self, start: int, stop: int) -> Block:
        if self._rows is None or self._part is None:
            raise RuntimeError("a feed reads only while it is open")
        origin = self._part[1]
        return self._rows.read(start - origin, stop - origin)

    def _block(self, index: int, n_rows: int) -> Block:
        block = (self._blocks or ())[index]
        if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
            raise InvalidInputError(
                f"a block of the Dask array {self._name} has masked values: drop or fill them first"
            )
        block, shape = np.asarray(block), (n_rows, *self._row_shape)
        if block.shape != shape:
            raise InvalidInputError(
                f"a block of the Dask array {self._name} has shape {block.shape}; the array says {shape}"
            )
        wrong = block.dtype.kind not in "iu" if self._dtype is None else block.dtype.newbyteorder("=") != self._dtype
        if wrong:
            says = "integers" if self._dtype is None else self._dtype
            raise InvalidInputError(
                f"a block of the Dask array {self._name} has dtype {block.dtype}; the array says {says}"
            )
        return block


class _LabelFeed(_Feed):
    """Labels in windows of many strips, of their own stored chunks, each decoded once whatever the batches."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._window, self._first = np.empty(0, np.int64), 0

    def piece(self, index: int, a: int, b: int) -> Block:
        """Return rows ``[a, b)`` of batch `index`."""
        start, stop = (self._ranges[index][0] + row for row in (a, b))
        parts = [self._from_window(start, stop)]
        while (start := start + len(parts[-1])) < stop:
            parts[-1] = parts[-1].copy()  # the next window is read over this one
            parts.append(self._from_window(start, stop))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _from_window(self, start: int, stop: int) -> Block:
        """Return rows from `start` on, as far as the window goes that holds it, but not beyond `stop`."""
        source, origin = self._part or (None, 0)
        if source is None:
            raise RuntimeError("labels come in stored chunks only from a source")
        end_of_window = self._first + len(self._window)
        # Where nothing has to be decoded, it is faster to read some labels again than to join two windows.
        found = start < end_of_window and (stop <= end_of_window or source.row_chunk is not None)
        if start < self._first or not found:
            # Whole stored chunks, and none beyond the partition's own: those are read elsewhere.
            chunk = source.row_chunk or 1
            first = (start - origin) // chunk * chunk
            end = -(-(self._ranges[-1][1] - origin) // chunk) * chunk
            last = min(first + label_window(source.row_chunk), end, source.n_rows)
            self._first = origin + first
            self._window = self._read(self._first, origin + last)
        return self._window[start - self._first : stop - self._first]


def label_window(row_chunk: int | None) -> int:
    """Return how many labels are read at a time: whole stored chunks, of at least a strip's rows."""
    chunk = row_chunk or MAX_STRIP_ROWS
    return -(-MAX_STRIP_ROWS // chunk) * chunk
