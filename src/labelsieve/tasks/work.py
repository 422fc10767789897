"""What a task runs around its work: it names its rows in any error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from labelsieve.errors import located
from labelsieve.partitioning import Grid, Span
from labelsieve.tasks.external_sort import Stretch
from labelsieve.tasks.partition import Batches, Partition
from labelsieve.tasks.summaries import SummaryChunk


class PartitionWork:
    """The work of a task that reads `pred_probs`.

    Parameters
    ----------
    work : callable
        Of a `Partition`, and of what else the task is given.
    grid : Grid
        The partitions; tasks are given their numbers, so that a graph stays small.
    n_classes : int
        Columns of `pred_probs`.
    dtype : dtype
        Dtype of `pred_probs`.
    where : str
        Where the rows are, for messages.
    """

    def __init__(self, work: Callable[..., Any], grid: Grid, n_classes: int, dtype: np.dtype[Any], where: str) -> None:
        self.where = where
        self._work, self._grid, self._n_classes, self._dtype = work, grid, n_classes, dtype

    def batches(self, partition: int | Batches) -> Batches:
        """Return the rows of a partition, given by its number or as they are."""
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

    def with_options(self, **options: Any) -> PartitionWork:
        """Return the same work with keyword arguments."""
        return PartitionWork(partial(self._work, **options), self._grid, self._n_classes, self._dtype, self.where)

    def __call__(self, partition: int | Batches, labels: Any, pred_probs: Any, *more: Any) -> Any:
        """Do the work, and name the partition in any error."""
        with located(self.name(partition)):
            return self._work(
                Partition(self.batches(partition), labels, pred_probs, self._n_classes, self._dtype), *more
            )


class ChunkWork:
    """The work of a task that reads row summaries, or merges sorted runs.

    Parameters
    ----------
    work : callable
        Of a chunk of row summaries, or of a stretch of the sorted issues, and of what else the task is given.
    where : str
        Where these are, for messages.
    """

    def __init__(self, work: Callable[..., Any], where: str) -> None:
        self._work, self._where = work, where

    def name(self, rows: Any) -> str:
        """Name a chunk for messages; one that another process holds has no row numbers here."""
        if isinstance(rows, Stretch):
            return f"issues {rows.start:,}..{rows.stop - 1:,} in {self._where}"
        if not isinstance(rows, SummaryChunk | Span):
            return f"row summaries in {self._where}"
        return f"rows {rows.start:,}..{rows.start + self.n_rows(rows) - 1:,} of the row summaries in {self._where}"

    def n_rows(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of rows of a chunk."""
        return rows.n_rows if isinstance(rows, SummaryChunk) else rows.stop - rows.start

    def __call__(self, rows: SummaryChunk | Span | Stretch, *more: Any) -> Any:
        """Do the work, and name the rows in any error."""
        with located(self.name(rows)):
            return self._work(rows, *more)
