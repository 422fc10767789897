"""Selections: which rows of the table a filter selects.

A selection is sent to the tasks. There its `picker` is called once per chunk of the table, with what the selection
needs for that chunk (a *part*), and what it returns is called with the blocks of the chunk in row order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.dtypes import Floats, Ints
from labelsieve.confident_learning.radix_select_by_class import ExactCuts
from labelsieve.confident_learning.summary_block import SummaryBlock

Positions = npt.NDArray[np.intp]
# Returns the selected positions of a block, given also the number of its first row.
Picker = Callable[[SummaryBlock, int], Positions]
# Positions of the rows of a block that compete, None for all; the group in which each does, and its score.
Ranked = tuple[Positions | None, Ints, Floats]
Ranking = Callable[[SummaryBlock], Ranked]


class Selection(Protocol):
    """Which rows are selected."""

    @property
    def picker(self) -> Callable[..., Picker]:
        """Function that returns the picker of a chunk, given the part for that chunk."""


def scores_of(summary: SummaryBlock) -> Floats:
    """Return the scores of a block whose scores are final."""
    return summary.p_label if summary.score is None else summary.score


@dataclass(frozen=True)
class UpToCut:
    """The lowest scores up to a cut. A part is the number of rows in the bin of the cut to select, None for all."""

    cut: radix_select.Cut
    cut_scores: Callable[[SummaryBlock], Floats]

    def picker(self, part: int | None) -> Picker:
        """Return a function that picks rows."""
        return partial(self._pick, [part])

    def _pick(self, left: list[int | None], block: SummaryBlock, _first: int) -> Positions:
        """Return the selected positions of the next block; `left` holds the number of rows still to select."""
        scores, [quota] = self.cut_scores(block), left
        if quota is not None:
            left[0] = quota - min(quota, radix_select.count_inside(scores, self.cut))
        return radix_select.rows_up_to(scores, self.cut, quota)


@dataclass(frozen=True)
class OffDiagonalRows:
    """The rows that the confident joint counts off its diagonal."""

    def picker(self, _part: Any) -> Picker:
        """Return a function that picks rows."""

        def pick(block: SummaryBlock, _first: int) -> Positions:
            if block.off_diagonal is None:
                raise RuntimeError("off_diagonal is added by the second pass")
            return np.flatnonzero(block.off_diagonal)

        return pick


@dataclass(frozen=True)
class LabelNotPredicted:
    """The rows whose label is not the predicted class."""

    def picker(self, _part: Any) -> Picker:
        """Return a function that picks rows."""
        return lambda block, _first: np.flatnonzero(block.predicted != block.label)


def label_scores(block: SummaryBlock) -> Ranked:
    """Return the labels of all rows, and their probabilities."""
    return None, block.label, block.p_label


@dataclass(frozen=True)
class UpToClassCuts:
    """The lowest scores of each class, or other group of rows, a number each. A part is the number of the chunk."""

    cuts: ExactCuts
    ranking: Ranking

    def picker(self, part: int) -> Picker:
        """Return a function that picks rows."""
        left = np.where(self.cuts.last_chunk == part, self.cuts.quotas, 0)

        def pick(block: SummaryBlock, _first: int) -> Positions:
            rows, groups, scores = self.ranking(block)
            chosen = self.cuts.rows(groups, scores, part, left)
            return chosen if rows is None else rows[chosen]

        return pick


@dataclass(frozen=True)
class ListedRows:
    """Rows with given numbers. A part is the numbers of the rows of the chunk, ascending."""

    def picker(self, part: npt.NDArray[np.int64]) -> Picker:
        """Return a function that picks rows."""

        def pick(block: SummaryBlock, first: int) -> Positions:
            start, stop = np.searchsorted(part, [first, first + block.n_covered])
            rows = part[start:stop]
            if block.labelled is not None:
                return np.searchsorted(block.labelled.numbers, rows)
            return (rows - first).astype(np.intp)

        return pick


@dataclass(frozen=True)
class Intersection:
    """The rows that all of some selections pick, each of which needs one part."""

    selections: tuple[Selection, ...]

    def picker(self, *parts: Any) -> Picker:
        """Return a function that picks rows."""
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
        Picks rows.
    columns : tuple of sequence
        The parts that `selection` needs, one per chunk of the table.
    n_rows : int
        Number of rows, including those whose label is nearly predicted, which some filters drop later. An upper bound
        if two selections are combined.
    scattered : tuple of bool
        For each of the columns, whether its parts are arrays, which are scattered to the workers.
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
