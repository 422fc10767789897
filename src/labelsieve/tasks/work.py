"""Callables for tasks, which add the rows of the task to the message of any error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from labelsieve.errors import located
from labelsieve.partitioning import Grid, Span
from labelsieve.tasks.external_sort import Stretch
from labelsieve.tasks.partition import Batches, Partition
from labelsieve.tasks.summary_reader import SummaryChunk


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

    Attributes
    ----------
    may_run_twice : bool
        Whether two workers may run the same task at the same time: what they return or commit is the same.
    """

    may_run_twice = True

    def __init__(
        self,
        work: Callable[..., Any],
        grid: Grid,
        n_classes: int,
        dtype: np.dtype[Any],
        where: str,
        ignored: int | None = None,
    ) -> None:
        self.where = where
        self._work, self._grid, self._facts = work, grid, (n_classes, dtype, ignored)

    def batches(self, partition: int | Batches) -> Batches:
        """Return the batches of a partition, which may be given by its number."""
        if isinstance(partition, Batches):
            return partition
        return Batches(partition, self._grid.ranges(partition))

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

    @property
    def n_first(self) -> int:
        """Number of partitions that are to be read first, because later ones are smaller; 0 if none are."""
        return self._grid.n_large

    def with_options(self, **options: Any) -> PartitionWork:
        """Return a copy with keyword arguments for the function."""
        n_classes, dtype, ignored = self._facts
        return PartitionWork(partial(self._work, **options), self._grid, n_classes, dtype, self.where, ignored)

    def __call__(self, partition: int | Batches, labels: Any, pred_probs: Any, *more: Any) -> Any:
        """Call the function; errors name the partition."""
        with located(self.name(partition), self.batches(partition).ranges):
            return self._work(Partition(self.batches(partition), labels, pred_probs, *self._facts), *more)


class ChunkWork:
    """Runs a function on a chunk of row summaries, or on a stretch of the sorted issues.

    Parameters
    ----------
    work : callable
        Called with the chunk or stretch and the further arguments of the task.
    where : str
        Place of the chunks, for messages.
    """

    def __init__(self, work: Callable[..., Any], where: str) -> None:
        self._work, self._where = work, where

    def name(self, rows: Any) -> str:
        """Name a chunk for messages. The row numbers of a chunk that a worker holds are not known here."""
        if isinstance(rows, Stretch):
            return f"issues {rows.start:,}..{rows.stop - 1:,} in {self._where}"
        if not isinstance(rows, SummaryChunk | Span):
            return f"row summaries in {self._where}"
        return f"rows {rows.start:,}..{rows.start + self.n_rows(rows) - 1:,} of the row summaries in {self._where}"

    def n_rows(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of rows of a chunk."""
        return rows.n_rows if isinstance(rows, SummaryChunk) else rows.stop - rows.start

    def first_row(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of the first row of a chunk, or the first rank of a stretch."""
        return rows.start

    def __call__(self, rows: SummaryChunk | Span | Stretch, *more: Any) -> Any:
        """Call the function; errors name the rows."""
        with located(self.name(rows)):
            return self._work(rows, *more)
