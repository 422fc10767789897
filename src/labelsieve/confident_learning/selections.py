"""Which rows a filter takes, block by block of their summaries. NumPy only.

A selection travels to the tasks. Each asks it for a picker, with what belongs to its own range of rows, and hands that
the range's blocks in row order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.radix_select_by_class import ExactCuts
from labelsieve.confident_learning.row_summary import RowSummary
from labelsieve.settings import Settings

Positions = npt.NDArray[np.intp]
# Of a block of summaries and the number of its first row.
Picker = Callable[[RowSummary, int], Positions]


class Selection(Protocol):
    """Which rows are taken."""

    def picker(self, part: Any) -> Picker:
        """Return what tells the rows of a range's blocks; `part` is what belongs to that range."""


def scores_of(summary: RowSummary) -> radix_select.Scores:
    """Return the scores of a finished summary."""
    return summary.p_given if summary.row_values is None else summary.row_values


def cut_scores(summary: RowSummary, settings: Settings) -> radix_select.Scores:
    """Return the scores of which the lowest are taken, where a filter takes these: not those that put them in order."""
    if settings.filter_by == "low_self_confidence":
        return summary.p_given
    if settings.filter_by == "low_normalized_margin" and not settings.plain_margin:
        return margins_to_predicted(summary)
    return scores_of(summary)


def margins_to_predicted(summary: RowSummary) -> npt.NDArray[np.float64]:
    """Return the ``(n,)`` normalized margins of rows whose label is not predicted, and 0.5 for the others.

    These have at least as much. No more rows are wanted than have less: those counted off the diagonal whose label is
    not nearly predicted. So what the others have exactly is not asked; `Settings` refuses a count that would.
    """
    margins: npt.NDArray[np.float64] = (summary.p_given.astype(np.float64) - summary.p_predicted + 1) / 2
    return margins


@dataclass(frozen=True)
class UpToCut:
    """The lowest scores up to a cut; a part is how many of the rows inside the cut are taken, all where it is None."""

    cut: radix_select.Cut
    settings: Settings

    def picker(self, part: int | None) -> Picker:
        """Return what tells the rows."""
        quota = part

        def pick(block: RowSummary, _first: int) -> Positions:
            nonlocal quota
            scores = cut_scores(block, self.settings)
            rows = radix_select.rows_up_to(scores, self.cut, quota)
            if quota is not None:
                quota -= min(quota, radix_select.count_inside(scores, self.cut))
            return rows

        return pick


@dataclass(frozen=True)
class OffJoint:
    """The rows that the confident joint counts off its diagonal."""

    def picker(self, _part: Any) -> Picker:
        """Return what tells the rows."""

        def pick(block: RowSummary, _first: int) -> Positions:
            if block.off_joint is None:
                raise RuntimeError("a second look comes first")
            return np.flatnonzero(block.off_joint)

        return pick


@dataclass(frozen=True)
class PredictedElse:
    """The rows whose label is not the predicted class."""

    def picker(self, _part: Any) -> Picker:
        """Return what tells the rows."""
        return lambda block, _first: np.flatnonzero(block.predicted != block.labels)


@dataclass(frozen=True)
class UpToClassCuts:
    """The lowest probabilities of the given label, so many of each class; a part is the number of the range."""

    cuts: ExactCuts

    def picker(self, part: int) -> Picker:
        """Return what tells the rows."""
        left = np.where(self.cuts.item == part, self.cuts.quotas, 0)
        return lambda block, _first: self.cuts.rows(block.labels, block.p_given, part, left)


@dataclass(frozen=True)
class TheseRows:
    """Rows that are known; a part is the range's own, ascending."""

    def picker(self, part: npt.NDArray[np.int64]) -> Picker:
        """Return what tells the rows."""

        def pick(block: RowSummary, first: int) -> Positions:
            a, b = np.searchsorted(part, [first, first + len(block)])
            return (part[a:b] - first).astype(np.intp)

        return pick


@dataclass(frozen=True)
class AllOf:
    """The rows that every one of some choices takes; a part is a list of theirs."""

    choices: tuple[Selection, ...]

    def picker(self, part: Sequence[Any]) -> Picker:
        """Return what tells the rows."""
        pickers = [selection.picker(own) for selection, own in zip(self.choices, part, strict=True)]

        def pick(block: RowSummary, first: int) -> Positions:
            rows, *others = [each(block, first) for each in pickers]
            for other in others:
                rows = np.intersect1d(rows, other, assume_unique=True)
            return rows

        return pick
