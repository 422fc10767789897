"""Tasks that measure how fast a thread reads, decodes and summarizes some rows of a partition."""

from __future__ import annotations

import math
import time
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from labelsieve.errors import located
from labelsieve.settings import Settings
from labelsieve.sources.base import Rows, Source
from labelsieve.tasks.partition import Batches, Block, Partition, RowRange
from labelsieve.tasks.scan import read_rows
from labelsieve.tasks.summary_reader import SummaryChunk


@dataclass(frozen=True)
class Timing:
    """The time that a thread took for some rows.

    Parameters
    ----------
    n_rows, n_first : int
        Number of rows, and of those among them that were read first, into new memory, after the files were opened.
    wall_s, first_wall_s : float
        Seconds that passed for all rows, and for the first ones.
    cpu_s, first_cpu_s : float
        Seconds of CPU that the thread took.
    label_bytes, stored_bytes : int
        Bytes of the labels and of `pred_probs` that the store sent.
    """

    n_rows: int = 0
    n_first: int = 0
    wall_s: float = 0
    first_wall_s: float = 0
    cpu_s: float = 0
    first_cpu_s: float = 0
    label_bytes: int = 0
    stored_bytes: int = 0

    def __add__(self, other: Timing) -> Timing:
        return Timing(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    @property
    def row_wall_s(self) -> float:
        """Seconds per row, without what the first ones take longer."""
        return _per_row(self.wall_s, self.first_wall_s, self.n_rows, self.n_first)

    @property
    def row_cpu_s(self) -> float:
        """Seconds of CPU per row, without what the first ones take longer."""
        return _per_row(self.cpu_s, self.first_cpu_s, self.n_rows, self.n_first)

    @property
    def extra_s(self) -> float:
        """Seconds that the first rows take longer than as many others."""
        return max(0.0, self.first_wall_s - self.n_first * self.row_wall_s)


def _per_row(seconds: float, first_s: float, n_rows: int, n_first: int) -> float:
    return (seconds - first_s) / (n_rows - n_first) if n_rows > n_first else seconds / n_rows


class _StoredRows(Source):
    """The same rows without decoding.

    Parameters
    ----------
    source : Source
        Where the rows are.
    sizes : list of int
        Collects the bytes of the stored chunks that are read.
    """

    def __init__(self, source: Source, sizes: list[int]) -> None:
        super().__init__(source.shape, source.dtype, source.row_chunk)
        self._source, self._sizes, self.in_pieces = source, sizes, source.in_pieces

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open to read the stored bytes alone."""
        return self._source.open_stored(start, self.n_rows if stop is None else stop, self._sizes.append)

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return the part of the source that holds these rows."""
        inner, origin = self._source.part(start, stop)
        return _StoredRows(inner, self._sizes), origin


class _Clock:
    """Notes the time after the first rows and at the end."""

    def __init__(self, n_first: int) -> None:
        self._wanted, self.n_first, self._n_rows = n_first, 0, 0
        self._began = self._first = time.perf_counter(), time.thread_time()

    def advance(self, n_rows: int) -> None:
        """Count rows that are done."""
        self._n_rows += n_rows
        if not self.n_first and self._n_rows >= self._wanted:
            self.n_first, self._first = self._n_rows, (time.perf_counter(), time.thread_time())

    def timing(self, label_bytes: int, stored_bytes: int) -> Timing:
        """Return the time of all rows."""
        now = time.perf_counter(), time.thread_time()
        wall, cpu = (one - begun for one, begun in zip(now, self._began, strict=True))
        first_wall, first_cpu = (one - begun for one, begun in zip(self._first, self._began, strict=True))
        return Timing(self._n_rows, self.n_first, wall, first_wall, cpu, first_cpu, label_bytes, stored_bytes)


@dataclass(frozen=True)
class MeasuringWork:
    """Measures one kind of work on some rows of a partition.

    Parameters
    ----------
    kind : str
        ``"stored"`` reads the stored bytes, ``"decoded"`` reads and decodes, ``"scanned"`` does all that the first
        pass does.
    n_classes : int
        Columns of `pred_probs`.
    dtype : dtype
        Dtype of `pred_probs`.
    settings : Settings
        How to score rows.
    n_first : int
        Number of rows of the first read.
    keeps : bool
        Whether to return the summaries of a scan.
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    kind: str
    n_classes: int
    dtype: np.dtype[Any]
    settings: Settings
    n_first: int = 1
    keeps: bool = False
    ignored: int | None = None

    def __call__(
        self, batches: Batches, labels: RowRange | Block, pred_probs: RowRange | Block
    ) -> tuple[Timing, SummaryChunk | None]:
        """Return the time, and the summaries if they are kept."""
        start, stop = batches.ranges[0][0], batches.ranges[-1][1]
        with located(f"rows {start:,}..{stop - 1:,}", batches.ranges):
            return self._measure(batches, labels, pred_probs)

    def _measure(self, batches: Batches, *inputs: RowRange | Block) -> tuple[Timing, SummaryChunk | None]:
        sizes: list[list[int]] = [[], []]
        labels, pred_probs = map(_undecoded, inputs, sizes) if self.kind == "stored" else inputs
        partition = Partition(batches, labels, pred_probs, self.n_classes, self.dtype, self.ignored)
        clock, chunk = _Clock(self.n_first), None
        if self.kind == "scanned":
            found = read_rows(partition, self.settings, inspect=lambda _, strip: clock.advance(len(strip)))
            chunk = SummaryChunk(partition.start, *found)
        else:
            for _, strip in partition.strips():  # read, and thrown away
                clock.advance(len(strip))
        # Rows that are stored as they are report no sizes.
        decoded = [partition.n_rows * _row_bytes(one) for one in inputs]
        stored = (sum(found) or size for found, size in zip(sizes, decoded, strict=True))
        return clock.timing(*stored), chunk if self.keeps else None


def _undecoded(rows: RowRange | Block, sizes: list[int]) -> RowRange | Block:
    if not isinstance(rows, RowRange):
        return rows
    return RowRange(_StoredRows(rows.source, sizes), rows.start, rows.stop, rows.origin)


def _row_bytes(rows: RowRange | Block) -> int:
    """Return the bytes of a row before it is converted."""
    return rows.source.read_row_bytes if isinstance(rows, RowRange) else math.prod(rows.shape[1:]) * rows.dtype.itemsize
