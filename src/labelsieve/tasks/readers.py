"""What a task runs around its work: finds its rows by number, and names them in any error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from labelsieve.errors import LabelsieveError, MissingDependencyError, TaskFailedError, UnreadableDataError
from labelsieve.memory import Span
from labelsieve.partitioning import Grid
from labelsieve.sources.base import Source
from labelsieve.tasks.external_sort import Stretch
from labelsieve.tasks.partition import Partition
from labelsieve.tasks.scan import Summarised


class Reader:
    """What a task of a pass over the inputs runs, as a description: which rows a number stands for, and the work.

    Parameters
    ----------
    grid, n_classes, dtype, labels, pred_probs
        As in `Inputs`; sources are None where the task is handed blocks.
    work : callable
        Of a partition, its label blocks and its pred_probs blocks.
    where : str
        Where the rows are, for messages.
    """

    def __init__(
        self,
        grid: Grid,
        n_classes: int,
        dtype: np.dtype[Any],
        labels: Source | None,
        pred_probs: Source | None,
        work: Callable[..., Any],
        where: str,
    ) -> None:
        self.where = where
        self._grid, self._n_classes, self._dtype = grid, n_classes, dtype
        self._labels, self._pred_probs, self._work = labels, pred_probs, work

    def name(self, index: int) -> str:
        """Name a partition for messages."""
        start, stop = self._grid.bounds(index)
        return f"partition {index} (rows {start:,}..{stop - 1:,}) of {self.where}"

    def n_rows(self, index: int) -> int:
        """Return the rows of a partition."""
        start, stop = self._grid.bounds(index)
        return stop - start

    def __call__(self, index: int, labels: Any, pred_probs: Any, *more: Any) -> Any:
        """Work on partition `index`, and name it in any error."""
        ranges = self._grid.ranges(index)
        partition = Partition(ranges, self._n_classes, self._dtype, self._labels, self._pred_probs, index)
        with located(self.name(index)):
            return self._work(partition, *more, _cut(labels, ranges), _cut(pred_probs, ranges))


def _cut(block: Any, ranges: Sequence[tuple[int, int]]) -> Any:
    """Cut the rows of a whole partition in its batches."""
    if isinstance(block, np.ndarray):
        first = ranges[0][0]
        return [block[start - first : stop - first] for start, stop in ranges]
    return block


class located:  # noqa: N801  # reads as what it does: with located(...)
    """A context in which every error gets the name of the rows that were worked on."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, MissingDependencyError):
            return
        text = f"{self._where}: {error if isinstance(error, LabelsieveError) else f'{type(error).__name__}: {error}'}"
        if isinstance(error, LabelsieveError):
            raise type(error)(text) from error
        if isinstance(error, OSError):
            raise UnreadableDataError(text) from error
        raise TaskFailedError(text) from error


class OnSummaries:
    """What a task runs that reads no input: names its rows in any error.

    Parameters
    ----------
    work : callable
        Of a partition's summaries, of a span of rows, or of a stretch of the issues in their order.
    where : str
        Where these are, for messages.
    """

    def __init__(self, work: Callable[..., Any], where: str) -> None:
        self._work, self._where = work, where

    def name(self, rows: Any) -> str:
        """Name what is worked on for messages; the handle of a partition elsewhere has no rows here."""
        if isinstance(rows, Stretch):
            return f"issues {rows.start:,}..{rows.stop - 1:,} in {self._where}"
        if not isinstance(rows, Summarised | Span):
            return f"row summaries in {self._where}"
        return f"rows {rows.start:,}..{rows.start + self.n_rows(rows) - 1:,} of the row summaries in {self._where}"

    def n_rows(self, rows: Summarised | Span | Stretch) -> int:
        """Return the rows that are worked on."""
        return rows.n_rows if isinstance(rows, Summarised) else rows.stop - rows.start

    def __call__(self, rows: Summarised | Span | Stretch, *more: Any) -> Any:
        """Do the work."""
        with located(self.name(rows)):
            return self._work(rows, *more)
