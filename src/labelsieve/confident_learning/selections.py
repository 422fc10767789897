"""Which rows a filter takes, block by block of their summaries.

A selection travels to the tasks. Each asks it for a picker, with what belongs to its own range of rows, and hands that
the range's blocks in row order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.dtypes import Floats
from labelsieve.confident_learning.radix_select_by_class import ExactCuts
from labelsieve.confident_learning.row_summary import SummaryBlock

Positions = npt.NDArray[np.intp]
# Of a block of summaries and the number of its first row.
Picker = Callable[[SummaryBlock, int], Positions]


class Selection(Protocol):
    """Which rows are selected; it travels to the tasks."""

    @property
    def picker(self) -> Callable[..., Picker]:
        """Returns what picks the rows of a chunk's blocks, given what the selection needs for that chunk."""


def scores_of(summary: SummaryBlock) -> Floats:
    """Return the scores of a finished summary."""
    return summary.p_label if summary.score is None else summary.score


@dataclass(frozen=True)
class UpToCut:
    """The lowest scores up to a cut; a part is how many of the rows inside the cut are taken, all where it is None."""

    cut: radix_select.Cut
    cut_scores: Callable[[SummaryBlock], Floats]

    def picker(self, part: int | None) -> Picker:
        """Return what tells the rows."""
        quota = part

        def pick(block: SummaryBlock, _first: int) -> Positions:
            nonlocal quota
            scores = self.cut_scores(block)
            rows = radix_select.rows_up_to(scores, self.cut, quota)
            if quota is not None:
                quota -= min(quota, radix_select.count_inside(scores, self.cut))
            return rows

        return pick


@dataclass(frozen=True)
class OffDiagonalRows:
    """The rows that the confident joint counts off its diagonal."""

    def picker(self, _part: Any) -> Picker:
        """Return what tells the rows."""

        def pick(block: SummaryBlock, _first: int) -> Positions:
            if block.off_diagonal is None:
                raise RuntimeError("off_diagonal is added by the second pass")
            return np.flatnonzero(block.off_diagonal)

        return pick


@dataclass(frozen=True)
class LabelNotPredicted:
    """The rows whose label is not the predicted class."""

    def picker(self, _part: Any) -> Picker:
        """Return what tells the rows."""
        return lambda block, _first: np.flatnonzero(block.predicted != block.label)


@dataclass(frozen=True)
class UpToClassCuts:
    """The lowest probabilities of the given label, so many of each class; a part is the number of the range."""

    cuts: ExactCuts

    def picker(self, part: int) -> Picker:
        """Return what tells the rows."""
        left = np.where(self.cuts.item == part, self.cuts.quotas, 0)
        return lambda block, _first: self.cuts.rows(block.label, block.p_label, part, left)


@dataclass(frozen=True)
class ListedRows:
    """Rows that are known; a part is the range's own, ascending."""

    def picker(self, part: npt.NDArray[np.int64]) -> Picker:
        """Return what tells the rows."""

        def pick(block: SummaryBlock, first: int) -> Positions:
            a, b = np.searchsorted(part, [first, first + len(block)])
            return (part[a:b] - first).astype(np.intp)

        return pick


@dataclass(frozen=True)
class Intersection:
    """The rows that every one of some selections picks, each of which needs one part."""

    selections: tuple[Selection, ...]

    def picker(self, *parts: Any) -> Picker:
        """Return what picks the rows of a chunk's blocks."""
        pickers = [selection.picker(part) for selection, part in zip(self.selections, parts, strict=True)]

        def pick(block: SummaryBlock, first: int) -> Positions:
            rows, *others = [each(block, first) for each in pickers]
            for other in others:
                rows = np.intersect1d(rows, other, assume_unique=True)
            return rows

        return pick


@dataclass(frozen=True)
class RowSelection:
    """The rows that a filter selects.

    Parameters
    ----------
    selection : Selection
        Picks the rows of a block of summaries.
    columns : tuple of sequence
        What `selection` needs for each chunk of the table.
    n_rows : int
        Number of rows, before those whose label is nearly predicted are dropped; an upper bound where two selections
        are combined.
    scattered : tuple of bool
        Whether each of the columns holds arrays, which are sent to the workers once.
    """

    selection: Selection
    columns: tuple[Sequence[Any], ...]
    n_rows: int
    scattered: tuple[bool, ...] = (False,)

    @classmethod
    def of_rows(cls, rows: npt.NDArray[np.int64], chunk_rows: Sequence[int]) -> RowSelection:
        """Return the selection of ascending row numbers, for chunks of `chunk_rows` rows."""
        edges = np.searchsorted(rows, np.cumsum([0, *chunk_rows]))
        parts = [rows[start:stop] for start, stop in itertools.pairwise(edges.tolist())]
        return cls(ListedRows(), (parts,), len(rows), (True,))

    def __and__(self, other: RowSelection) -> RowSelection:
        """Return the rows that both select."""
        return RowSelection(
            Intersection((self.selection, other.selection)),
            self.columns + other.columns,
            min(self.n_rows, other.n_rows),
            self.scattered + other.scattered,
        )
