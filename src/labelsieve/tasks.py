"""What one Dask task or forked process does with its partition. NumPy and sources, no Dask.

Covers: the three maps of a run (`summarise`, `count`, `select`), what finishes scores that need the thresholds first,
and `inspect` for batches whose thresholds are known.
Does not cover: which tasks there are and how their results are folded (`engine`, `forkpool`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve import ranking
from labelsieve.checks import Findings, combine_findings
from labelsieve.kernels import RowSummary, Summariser
from labelsieve.partitions import Block, Partition
from labelsieve.reductions import (
    ClassSums,
    IssueCounts,
    blocks,
    class_sums_chunk,
    class_sums_combine,
    issue_counts_chunk,
    issue_counts_combine,
)
from labelsieve.results import IssueRows
from labelsieve.scores import Float64s, RowValueKernel, adjusted_margin, adjusted_self_confidence, row_value_kernel
from labelsieve.settings import Settings

Blocks = Sequence[Block] | None


@dataclass(frozen=True)
class Partial:
    """The K-sized part of what reading a partition gives."""

    sums: ClassSums
    findings: Findings


@dataclass(frozen=True)
class Summarised:
    """What reading a partition leaves: its row summaries and its partial sums."""

    summary: RowSummary
    partial: Partial


@dataclass(frozen=True)
class Inspected:
    """What a partition gives where the thresholds are known before it is read.

    Parameters
    ----------
    scores : (n,) float
        Label quality scores.
    counts : IssueCounts or None
        Issue counts, where asked for.
    findings : Findings
        What is wrong with the rows.
    """

    scores: ranking.Scores
    counts: IssueCounts | None
    findings: Findings


def summarise(
    partition: Partition, labels: Blocks = None, pred_probs: Blocks = None, *, settings: Settings
) -> Summarised:
    """Read a partition once.

    Parameters
    ----------
    partition : Partition
        Which rows, and where they are.
    labels, pred_probs : sequence of array, optional
        The batches, where they are not read from a source.
    settings : Settings
        What is scored.
    """
    summary, findings = _read(partition, row_value_kernel(settings), labels, pred_probs)
    sums = class_sums_chunk(summary.labels, summary.p_given, partition.n_classes)
    return Summarised(summary, Partial(sums, findings))


def class_sums(partition: Partition, labels: Blocks = None, pred_probs: Blocks = None) -> Partial:
    """Read a partition for its class sums alone, and check it."""
    return summarise(partition, labels, pred_probs, settings=Settings()).partial


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
    summary, findings = _read(partition, row_value_kernel(settings, thresholds), labels, pred_probs)
    counts = None
    if adj_thresholds is not None:
        counts = issue_counts_chunk(summary, adj_thresholds, calibrated=settings.calibrated)
    if settings.adjust_pred_probs and not settings.scores_need_reread:
        summary = score_adjusted(summary, thresholds=thresholds)
    return Inspected(wide_scores_of(summary), counts, findings)


def _read(
    partition: Partition, row_values: RowValueKernel | None, labels: Blocks, pred_probs: Blocks
) -> tuple[RowSummary, Findings]:
    summariser = Summariser(partition.n_rows, partition.n_classes, partition.dtype, row_values, partition.start)
    for strip_labels, strip_probs in partition.strips(labels, pred_probs):
        summariser.add(strip_labels, strip_probs)
    return summariser.summary, summariser.findings


def summary_of(summarised: Summarised) -> RowSummary:
    """Return the row summaries."""
    return summarised.summary


def partial_of(summarised: Summarised) -> Partial:
    """Return the K-sized part."""
    return summarised.partial


def combine_partials(parts: Iterable[Partial]) -> Partial:
    """Fold the partials of neighbouring partitions, given in row order."""
    parts = list(parts)
    return Partial(class_sums_combine(p.sums for p in parts), combine_findings(p.findings for p in parts))


def score_adjusted(summary: RowSummary, *, thresholds: Float64s) -> RowSummary:
    """Turn row sums into adjusted self-confidences, now that the thresholds are known."""
    if summary.row_values is None:
        raise RuntimeError("adjusted self-confidence needs row sums in the summary")
    scores = np.empty(len(summary), np.float64)
    for block in blocks(len(summary)):
        scores[block] = adjusted_self_confidence(
            summary.p_given[block], summary.labels[block], summary.row_values[block], thresholds
        )
    return replace(summary, row_values=scores)


def score_reread(
    partition: Partition, summary: RowSummary, pred_probs: Blocks = None, *, thresholds: Float64s
) -> RowSummary:
    """Read a partition a second time for its adjusted margins, which need every probability and the thresholds."""
    scores, filled = np.empty(len(summary), np.float64), 0
    for strip in partition.prob_strips(pred_probs):
        rows = slice(filled, filled + len(strip))
        scores[rows] = adjusted_margin(strip, summary.labels[rows], thresholds)
        filled = rows.stop
    return replace(summary, row_values=scores)


def scores_of(summary: RowSummary) -> ranking.Scores:
    """Return the scores of a finished summary."""
    return summary.p_given if summary.row_values is None else summary.row_values


def wide_scores_of(summary: RowSummary) -> ranking.Scores:
    """Return the scores of a finished summary, float16 widened to float32."""
    return _widened(scores_of(summary))


def _widened(scores: ranking.Scores) -> ranking.Scores:
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)


@dataclass(frozen=True)
class Counted:
    """Issue counts, and the histogram of the scores that ranking begins with."""

    counts: IssueCounts
    histogram: ranking.Int64s


def count(summary: RowSummary, *, adj_thresholds: Float64s, calibrated: bool) -> Counted:
    """Hold a partition's summaries against the thresholds."""
    counts = issue_counts_chunk(summary, adj_thresholds, calibrated=calibrated)
    return Counted(counts, ranking.score_histogram(scores_of(summary)))


def combine_counted(parts: Iterable[Counted]) -> Counted:
    """Add up counts and histograms."""
    parts = list(parts)
    return Counted(issue_counts_combine(p.counts for p in parts), add_up(p.histogram for p in parts))


def histogram_within(summary: RowSummary, *, cut: ranking.Cut) -> ranking.Int64s:
    """Return the histogram of the next digit of the scores inside `cut`."""
    return ranking.score_histogram(scores_of(summary), cut)


def add_up(histograms: Iterable[ranking.Int64s]) -> ranking.Int64s:
    """Add up histograms."""
    total: ranking.Int64s = np.sum(list(histograms), axis=0)
    return total


def count_inside(summary: RowSummary, *, cut: ranking.Cut) -> int:
    """Count the scores inside `cut`."""
    return ranking.count_inside(scores_of(summary), cut)


def select(summary: RowSummary, *, cut: ranking.Cut, quota: int | None, first_row: int) -> IssueRows:
    """Return the rows up to `cut`, of those inside it the first `quota`, in row order."""
    scores = scores_of(summary)
    rows = ranking.rows_up_to(scores, cut, quota)
    return IssueRows(
        rows=(rows + first_row).astype(np.int64),
        scores=scores[rows],
        given_labels=summary.labels[rows],
        suggested_labels=summary.predicted[rows],
        p_given=summary.p_given[rows],
        p_suggested=summary.p_predicted[rows],
    )


def rank(parts: Sequence[IssueRows], wanted: int) -> IssueRows:
    """Order the selected rows of all partitions and drop those whose label is predicted or nearly so."""
    columns: Iterable[tuple[npt.NDArray[Any], ...]] = zip(*(part.columns().values() for part in parts), strict=True)
    found = IssueRows(*(np.concatenate(column) for column in columns))
    order = ranking.lowest_first(found.scores, wanted)
    near = ranking.near_predicted(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
    chosen = found.take(order[~near[order]])
    return replace(chosen, scores=_widened(chosen.scores))
