"""The tasks of `LabelInspector`, which score and count a batch in one pass with thresholds that are already known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelsieve.confident_learning.calibration import JointCounts, estimated_issues
from labelsieve.confident_learning.confident_joint import JointCounter, confident_chunk, confident_combine
from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s, Ints
from labelsieve.confident_learning.selections import scores_of
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.thresholds import IssueCounts, issue_counts_combine, issue_counts_finalize
from labelsieve.confident_learning.validation import Findings
from labelsieve.settings import Settings
from labelsieve.tasks.count_and_select import widen
from labelsieve.tasks.partition import Block, Partition
from labelsieve.tasks.scan import read_rows
from labelsieve.tasks.summary_reader import SummaryReader


@dataclass(frozen=True)
class InspectedRows:
    """Scores and counts of a partition.

    Parameters
    ----------
    scores : (n,) float
        Label quality scores.
    labels, predicted : (n,) uint
        Given labels and predicted classes.
    counts : IssueCounts, JointCounts or None
        Issue counts by the rule of the settings; None if they are not needed.
    findings : Findings
        Bad or suspicious values.
    """

    scores: Floats
    labels: Ints
    predicted: Ints
    counts: IssueCounts | JointCounts | None
    findings: Findings


def inspect(
    partition: Partition, *, settings: Settings, thresholds: Float64s, adj_thresholds: Float64s | None
) -> InspectedRows:
    """Read a partition once and score it with the given thresholds; with `adj_thresholds`, count its issues too."""
    joint = None
    if adj_thresholds is not None and settings.counts_joint:
        joint = JointCounter(thresholds, partition.dtype)

    def count(summary: SummaryBlock, strip: Block) -> None:
        if joint is not None:
            joint.add(summary, partition.summarizer.probabilities(strip))

    rows, totals = read_rows(partition, settings, thresholds, inspect=None if joint is None else count)
    summary = SummaryReader(settings, thresholds).scored(rows)
    counts: IssueCounts | JointCounts | None = None
    if joint is not None:
        counts = JointCounts(*joint.counts(), totals.sums.dense().counts)
    elif adj_thresholds is not None:
        confident = confident_chunk(summary, adj_thresholds)
        counts = confident.issue_counts(totals.sums.dense().counts, calibrated=settings.calibrated)
    return InspectedRows(widen(scores_of(summary)), summary.label, summary.predicted, counts, totals.findings)


def combine_counts(parts: Sequence[IssueCounts | JointCounts]) -> IssueCounts | JointCounts:
    """Add up counts, which are all by the same rule."""
    joints = [part for part in parts if isinstance(part, JointCounts)]
    if not joints:
        return issue_counts_combine(part for part in parts if isinstance(part, IssueCounts))
    sizes: Int64s = np.sum([part.class_counts for part in joints], axis=0)
    return JointCounts(
        confident_combine(part.joint for part in joints), sum(part.n_off_diagonal for part in joints), sizes
    )


def num_issues(counts: IssueCounts | JointCounts, *, calibrated: bool) -> int:
    """Return the estimated number of label issues."""
    if isinstance(counts, IssueCounts):
        return issue_counts_finalize(counts)
    return estimated_issues(counts, calibrated=calibrated)
