"""Counts of row summaries that are compared with the thresholds, and the estimated number of issues from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from labelsieve.confident_learning.calibration import JointCounts, estimated_issues
from labelsieve.confident_learning.confident_joint import ConfidentCounter, ConfidentCounts, confident_combine
from labelsieve.confident_learning.dtypes import Float64s, Int64s
from labelsieve.confident_learning.filters import Filter, IssueTotals
from labelsieve.confident_learning.radix_select import add_up, score_histogram
from labelsieve.confident_learning.selections import scores_of
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.thresholds import (
    ClassSums,
    SparseClassSums,
    adjusted_thresholds,
    class_sums_chunk,
    class_sums_combine,
    issue_counts_finalize,
    sparse_sums_combine,
)
from labelsieve.errors import warn
from labelsieve.settings import Settings

# Histograms of one chunk that are kept before they are added up.
_MOST_HISTOGRAMS: Final = 8
# A warning says if more rows than this share of the counted rows, and at least this number, are undecided.
_UNDECIDED_SHARE: Final = 0.1
_UNDECIDED_ROWS: Final = 10


@dataclass(frozen=True)
class SummaryCounts:
    """Counts and sums that come from comparing row summaries with the thresholds.

    Parameters
    ----------
    confident : ConfidentCounts or None
        Confident rows by label and predicted class; None if a second pass counts them.
    histogram : (B,) int64 or None
        Histogram of the scores that the filter cuts on; None if it cuts on none.
    scores : SparseClassSums or None
        Sums of the scores by label; None if the score is the label's probability, which the first pass adds up.
    n_counted : int
        Number of rows that `Filter.counted_rows` found.
    """

    confident: ConfidentCounts | None = None
    histogram: Int64s | None = None
    scores: SparseClassSums | None = None
    n_counted: int = 0


class SummaryCounter:
    """Counts row summaries, block by block.

    Parameters
    ----------
    rule : Filter
        Says what has to be counted.
    thresholds : (K,) float64
        Confident thresholds.
    """

    def __init__(self, rule: Filter, thresholds: Float64s) -> None:
        self._rule, self._n_classes, settings = rule, len(thresholds), rule.settings
        self._confident = None
        if not settings.counts_joint:
            adjusted = adjusted_thresholds(thresholds)
            self._confident = ConfidentCounter(adjusted, finds_undecided=rule.finds_undecided)
        # The first pass has added up plain self-confidences by label.
        self._scores = None if settings.plain_self_confidence else ClassSums.zeros(self._n_classes)
        self._histograms, self._n_counted = list[Int64s](), 0

    def add(self, block: SummaryBlock) -> None:
        """Count a block whose scores are final."""
        rule = self._rule
        if self._confident is not None:
            self._confident.add(block)
        if rule.cuts_scores:
            self._histograms.append(score_histogram(rule.cut_scores(block)))
        if rule.counts_rows:
            self._n_counted += rule.counted_rows(block)
        if self._scores is not None:
            sums = class_sums_chunk(block.label, scores_of(block), self._n_classes)
            self._scores = class_sums_combine([self._scores, sums])
        if len(self._histograms) > _MOST_HISTOGRAMS:
            self._histograms = [add_up(self._histograms)]

    def counts(self) -> SummaryCounts:
        """Return the counts of all blocks so far."""
        return SummaryCounts(
            None if self._confident is None else self._confident.counts(),
            add_up(self._histograms) if self._histograms else None,
            None if self._scores is None else SparseClassSums.of(self._scores),
            self._n_counted,
        )


def combine_counts(parts: Iterable[SummaryCounts]) -> SummaryCounts:
    """Add up counts, histograms and sums."""
    parts = list(parts)
    sums = [part.scores for part in parts if part.scores is not None]
    confident = [part.confident for part in parts if part.confident is not None]
    histograms = [part.histogram for part in parts if part.histogram is not None]
    return SummaryCounts(
        confident_combine(confident) if confident else None,
        add_up(histograms) if histograms else None,
        SparseClassSums.of(sparse_sums_combine(sums)) if sums else None,
        sum(part.n_counted for part in parts),
    )


def issue_totals(
    counts: SummaryCounts, joint: JointCounts | None, class_counts: Int64s, settings: Settings
) -> IssueTotals:
    """Return the totals by the rule of the settings; warn if the exact rule would likely count many other rows.

    Parameters
    ----------
    counts : SummaryCounts
        Counts of all row summaries.
    joint : JointCounts or None
        Counts of the confident joint, if the rule is that one.
    class_counts : (K,) int64
        Number of rows with each label.
    settings : Settings
        The settings.
    """
    if joint is not None:
        return IssueTotals(
            joint.joint,
            class_counts,
            estimated_issues(joint, calibrated=settings.calibrated),
            n_off_diagonal=joint.n_off_diagonal,
            n_counted=counts.n_counted,
            histogram=counts.histogram,
        )
    if counts.confident is None:
        raise RuntimeError("confident rows are counted in the summaries or in a second pass")
    issue_counts = counts.confident.issue_counts(class_counts, calibrated=settings.calibrated)
    note = _undecided_warning(counts.confident) if settings.filter_by is None else ""
    if note:
        warn(note)
    return IssueTotals(
        counts.confident,
        class_counts,
        issue_counts_finalize(issue_counts),
        n_counted=counts.n_counted,
        histogram=counts.histogram,
        note=note,
    )


def _undecided_warning(confident: ConfidentCounts) -> str:
    """Return a warning if many rows do not count that the confident joint likely counts, or ""."""
    n_counted = int(confident.counts.sum(dtype=np.int64))
    if confident.undecided < max(_UNDECIDED_ROWS, _UNDECIDED_SHARE * n_counted):
        return ""
    return (
        f"{n_counted:,} rows are counted by their predicted class; another {confident.undecided:,} do not reach its "
        "threshold, but may reach the low threshold of another class, so that the confident joint counts them: "
        "filter_by='low_self_confidence' or 'confident_learning' includes them"
    )
