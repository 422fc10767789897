"""Batches whose thresholds are known before they are read: summaries, scores and counts in one go.

Covers: the map of `LabelInspector`, by either rule.
Does not cover: its state (`inspector`), the maps of a run over all rows (`tasks`, `rereads`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelsieve import ranking
from labelsieve.checks import Findings
from labelsieve.confident import confident_combine
from labelsieve.joint import JointCounts, estimated_issues
from labelsieve.kernels import Ints, RowSummary
from labelsieve.looks import JointCounter
from labelsieve.partitions import Partition
from labelsieve.reductions import (
    Int64s,
    IssueCounts,
    issue_counts_chunk,
    issue_counts_combine,
    issue_counts_finalize,
)
from labelsieve.scores import Float64s, row_value_kernel
from labelsieve.selections import scores_of
from labelsieve.settings import Settings
from labelsieve.tasks import Blocks, Finish, read_rows, widened


@dataclass(frozen=True)
class Inspected:
    """What a partition gives where the thresholds are known before it is read.

    Parameters
    ----------
    scores : (n,) float
        Label quality scores.
    labels, predicted : (n,) uint
        Given labels and predicted classes.
    counts : IssueCounts, JointCounts or None
        Issue counts by either rule, where asked for.
    findings : Findings
        What is wrong with the rows.
    """

    scores: ranking.Scores
    labels: Ints
    predicted: Ints
    counts: IssueCounts | JointCounts | None
    findings: Findings


def inspect(
    partition: Partition,
    labels: Blocks = None,
    pred_probs: Blocks = None,
    *,
    settings: Settings,
    thresholds: Float64s,
    adj_thresholds: Float64s | None,
) -> Inspected:
    """Read a partition once and score it against known thresholds; count it where `adj_thresholds` are given."""
    joint = None
    if adj_thresholds is not None and settings.looks_again:
        joint = JointCounter(thresholds, partition.dtype)
    taken: list[RowSummary] = []
    partial = read_rows(
        partition,
        partition.n_rows,
        row_value_kernel(settings, thresholds),
        taken.append,
        labels,
        pred_probs,
        *([] if joint is None else [joint.add]),
    )
    [summary] = taken
    counts: IssueCounts | JointCounts | None = None
    if joint is not None:
        counts = JointCounts(*joint.counts(), partial.sums.dense().counts)
    elif adj_thresholds is not None:
        counts = issue_counts_chunk(summary, adj_thresholds, calibrated=settings.calibrated)
    scores = widened(scores_of(Finish(settings, thresholds)(summary)))
    return Inspected(scores, summary.labels, summary.predicted, counts, partial.findings)


def combine_counts(parts: Sequence[IssueCounts | JointCounts]) -> IssueCounts | JointCounts:
    """Add up counts, all by the same rule."""
    joints = [part for part in parts if isinstance(part, JointCounts)]
    if not joints:
        return issue_counts_combine(part for part in parts if isinstance(part, IssueCounts))
    sizes: Int64s = np.sum([part.class_counts for part in joints], axis=0)
    return JointCounts(confident_combine(part.joint for part in joints), sum(part.n_off for part in joints), sizes)


def num_issues(counts: IssueCounts | JointCounts, *, calibrated: bool) -> int:
    """Return the estimated number of label issues."""
    if isinstance(counts, IssueCounts):
        return issue_counts_finalize(counts)
    return estimated_issues(counts, calibrated=calibrated)
