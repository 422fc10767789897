"""The filters where rows are tags: each selects as in K separate runs, one for each tag, of two classes.

What a filter counts is in blocks of two classes anyway (`tag_summarizer`), so what remains is a cut for each tag.
Margins need no third read: a row whose label is not predicted has both of its probabilities in its summary, and the
others are no issues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from labelsieve.confident_learning.calibration import calibrated_joint, off_diagonal_rows
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s, pair_dtype
from labelsieve.confident_learning.filters import (
    Both,
    Filter,
    IssueTotals,
    LowestScores,
    LowNormalizedMargin,
    LowSelfConfidence,
    PruneByClass,
    PruneByNoiseRate,
    Table,
)
from labelsieve.confident_learning.pruning import prune_counts
from labelsieve.confident_learning.selections import Ranked, RowSelection
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.thresholds import issue_counts_finalize
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InvalidInputError, warn
from labelsieve.settings import Settings

# Rows whose label is not nearly predicted have a lower probability of the label, and a lower margin.
_HALF: Final = np.float16(0.5)


@dataclass(frozen=True)
class LowestOfTag:
    """The scores of each tag.

    Parameters
    ----------
    cut_scores : callable
        Returns the scores of a block.
    only_low : bool
        Whether to leave out scores from 1/2 on. No more rows are wanted than have lower ones, or these are no issues.
    """

    cut_scores: Callable[[SummaryBlock], Floats]
    only_low: bool

    def __call__(self, block: SummaryBlock) -> Ranked:
        """Return positions, tags and scores."""
        scores = self.cut_scores(block)
        rows = np.flatnonzero(scores < _HALF) if self.only_low else np.arange(len(block))
        values: Float64s = scores[rows].astype(np.float64)
        return rows, block.label[rows] // 2, values


def low_self_confidence(block: SummaryBlock) -> Ranked:
    """Return positions, classes and probabilities of rows whose label has a probability below 1/2."""
    rows = np.flatnonzero(block.p_label < _HALF)
    return rows, block.label[rows], block.p_label[rows].astype(np.float64)


def negative_margins(block: SummaryBlock) -> Ranked:
    """Return positions, classes and negative margins of rows whose label is not predicted."""
    rows = np.flatnonzero(block.label != block.predicted)
    margins: Float64s = block.p_label[rows].astype(np.float64) - block.p_predicted[rows]
    return rows, block.label[rows], margins


def off_diagonal_tags(block: SummaryBlock) -> Ranked:
    """Return positions, tags and probabilities of rows off the diagonal of the confident joint."""
    if block.off_diagonal is None:
        raise RuntimeError("off_diagonal is added by the second pass")
    rows = np.flatnonzero(block.off_diagonal)
    return rows, block.label[rows] // 2, block.p_label[rows].astype(np.float64)


def joint_of_tags(counts: Int64s) -> ConfidentCounts:
    """Return ``(K, 2, 2)`` counts of tags, by label and class, as one joint of 2K classes."""
    n_classes, labels = 2 * len(counts), np.arange(2 * len(counts))
    off = counts[:, [0, 1], [1, 0]].reshape(-1)
    pairs = (labels * n_classes + (labels ^ 1)).astype(pair_dtype(n_classes))
    return ConfidentCounts(counts[:, [0, 1], [0, 1]].reshape(-1), pairs[off > 0], off[off > 0])


def joints_of_tags(joint: ConfidentCounts) -> Iterator[ConfidentCounts]:
    """Yield the joint of two classes of each tag."""
    off = np.zeros(joint.n_classes, np.int64)
    off[joint.given] = joint.counts
    for first in range(0, joint.n_classes, 2):
        counts = off[first : first + 2]
        yield ConfidentCounts(joint.diagonal[first : first + 2], np.array([1, 2])[counts > 0], counts[counts > 0])


@dataclass(frozen=True)
class LowestScoresByTag(LowestScores):
    """For each tag the rows of lowest score, as many as are counted."""

    cuts_scores = False
    cuts_classes = True
    needs_off_diagonal = True
    finds_undecided = False

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[np.floating], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows of lowest score of each tag."""
        settings = self.settings
        has_half = self.name is not None or settings.plain_self_confidence or settings.plain_margin
        ranking = LowestOfTag(self.cut_scores, only_low=has_half and not settings.calibrated)
        return table.select_lowest_by_class(self._estimated(table, totals), ranking=ranking)

    def _estimated(self, table: Table, totals: IssueTotals) -> Int64s:
        """Return the ``(K,)`` estimated number of issues of each tag."""
        settings, counts, n_tags = self.settings, totals.class_counts.reshape(-1, 2), len(totals.class_counts) // 2
        if settings.counts_joint and not settings.calibrated:
            return table.count_ranked(off_diagonal_tags, n_tags)
        joints = zip(joints_of_tags(totals.confident), counts, strict=True)
        if settings.counts_joint:
            numbers = [off_diagonal_rows(calibrated_joint(joint, of_tag)) for joint, of_tag in joints]
        else:
            numbers = [
                issue_counts_finalize(joint.issue_counts(of_tag, calibrated=settings.calibrated))
                for joint, of_tag in joints
            ]
        return np.array(numbers, np.int64)


@dataclass(frozen=True)
class LowSelfConfidenceByTag(LowestScoresByTag, LowSelfConfidence):
    """For each tag the rows with the lowest probability of the label."""


@dataclass(frozen=True)
class LowNormalizedMarginByTag(LowestScoresByTag, LowNormalizedMargin):
    """For each tag the rows with the lowest normalized margin."""


@dataclass(frozen=True)
class PruningByTag(Filter):
    """What the filters that prune have in common: numbers to remove are of tags, not of classes."""

    def check_classes(self, n_classes: int) -> None:
        """Raise if there is not a number to remove for each tag."""
        numbers, n_tags = self.settings.num_to_remove_per_class, n_classes // 2
        if numbers is not None and len(numbers) != n_tags:
            raise InvalidInputError(f"num_to_remove_per_class has {len(numbers):,} numbers, pred_probs {n_tags:,} tags")


@dataclass(frozen=True)
class PruneByClassByTag(PruningByTag, PruneByClass):
    """For each tag, and those that have it and those that have not, the rows least likely to be so."""

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[np.floating], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select as many rows of each label as the calibrated joint has off the diagonal."""
        by_label, _ = prune_counts_of_tags(self.settings, totals)
        return table.select_lowest_by_class(by_label, ranking=low_self_confidence)


@dataclass(frozen=True)
class PruneByNoiseRateByTag(PruningByTag, PruneByNoiseRate):
    """For each tag, and those that have it and those that have not, the rows of largest margin."""

    reads_pairs = False
    cuts_classes = True

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[np.floating], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select as many rows of each pair as the calibrated joint has."""
        _, by_pair = prune_counts_of_tags(self.settings, totals)
        return table.select_lowest_by_class(by_pair, ranking=negative_margins)


@dataclass(frozen=True)
class BothByTag(PruningByTag, Both):
    """The rows that both pruning filters select."""

    reads_pairs = False

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[np.floating], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows that both filters select."""
        by_label, by_pair = prune_counts_of_tags(self.settings, totals)
        by_class = table.select_lowest_by_class(by_label, ranking=low_self_confidence)
        return by_class & table.select_lowest_by_class(by_pair, ranking=negative_margins)


def filter_by_tag(rule: Filter) -> Filter:
    """Return the filter that selects for each tag as `rule` does."""
    return _BY_TAG.get(type(rule), type(rule))(rule.settings)


_BY_TAG: Final[dict[type[Filter], type[Filter]]] = {
    LowestScores: LowestScoresByTag,
    LowSelfConfidence: LowSelfConfidenceByTag,
    LowNormalizedMargin: LowNormalizedMarginByTag,
    PruneByClass: PruneByClassByTag,
    PruneByNoiseRate: PruneByNoiseRateByTag,
    Both: BothByTag,
}


def prune_counts_of_tags(settings: Settings, totals: IssueTotals) -> tuple[Int64s, Int64s]:
    """Return the ``(2K,)`` numbers of rows to select of each label, and of each pair of a label and the other class."""
    counts = totals.class_counts
    least = max(1, settings.min_examples_per_class)
    small = counts <= least
    n_small = int(np.count_nonzero((counts > 0) & small))
    if n_small:
        groups = rows_in_words(
            n_small, "group of examples, with or without a tag, has", "groups, with or without a tag, have"
        )
        warn(f"{groups} no more than {least} examples (min_examples_per_class): none of these is flagged")
    by_label, by_pair = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    numbers, given = settings.num_to_remove_per_class, totals.given_joint
    for tag, joint in enumerate(joints_of_tags(totals.confident if given is None else given)):
        both = slice(2 * tag, 2 * tag + 2)
        pruned = prune_counts(
            calibrated_joint(joint, counts[both]) if given is None else joint,
            counts[both],
            frac_noise=settings.frac_noise,
            min_examples_per_class=settings.min_examples_per_class,
            num_to_remove_per_class=None if numbers is None else (numbers[tag], 0),
        ).without(small[both])
        by_label[both] = pruned.by_label
        by_pair[both][np.diff(pruned.edges) > 0] = pruned.by_pair
    return by_label, by_pair
