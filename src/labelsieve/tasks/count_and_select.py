"""Counting and selecting: the tasks that work on chunks of row summaries, after the passes over `pred_probs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.agreement import RowSample
from labelsieve.confident_learning.confident_joint import ConfidentCounter, ConfidentCounts, confident_combine
from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s, Ints
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.radix_select_by_class import ClassCuts, ClassTies, class_histogram
from labelsieve.confident_learning.row_summary import SummaryBlock, near_predicted
from labelsieve.confident_learning.selections import Selection, scores_of
from labelsieve.confident_learning.thresholds import ClassSums, SparseClassSums, class_sums_chunk, class_sums_combine
from labelsieve.results.result import IssueRows
from labelsieve.tasks.summaries import Chunk, SummaryChunk, SummaryReader

CutScores: TypeAlias = Callable[[SummaryBlock], Floats]
# Histograms of one chunk that are kept before they are added up.
_MOST_HISTOGRAMS: Final = 8


def widen(scores: Floats) -> Floats:
    """Return scores in the dtype that users get: float32 for float16."""
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)


def all_scores(chunk: Chunk, *, reader: SummaryReader) -> Floats:
    """Return the scores of a chunk."""
    if isinstance(chunk, SummaryChunk):
        return widen(scores_of(reader.scored(chunk.summary)))
    return np.concatenate([widen(scores_of(block)) for block in reader.blocks(chunk)])


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

    confident: ConfidentCounts | None
    histogram: Int64s | None
    scores: SparseClassSums | None
    n_counted: int = 0


def count(chunk: Chunk, *, reader: SummaryReader, rule: Filter, adj_thresholds: Float64s) -> SummaryCounts:
    """Compare the summaries of a chunk with the thresholds."""
    settings, n_classes = reader.settings, len(adj_thresholds)
    counter = None if settings.counts_joint else ConfidentCounter(adj_thresholds)
    # The first pass has added up plain self-confidences by label.
    scores = None if settings.plain_self_confidence else ClassSums.zeros(n_classes)
    histograms, n_counted = list[Int64s](), 0
    for block in reader.blocks(chunk):
        if counter is not None:
            counter.add(block)
        if rule.cuts_scores:
            histograms.append(radix_select.score_histogram(rule.cut_scores(block)))
        if rule.counts_rows:
            n_counted += rule.counted_rows(block)
        if scores is not None:
            scores = class_sums_combine([scores, class_sums_chunk(block.label, scores_of(block), n_classes)])
        if len(histograms) > _MOST_HISTOGRAMS:
            histograms = [add_up(histograms)]
    return SummaryCounts(
        None if counter is None else counter.counts(),
        add_up(histograms) if histograms else None,
        None if scores is None else SparseClassSums.of(scores),
        n_counted,
    )


def combine_counts(parts: Iterable[SummaryCounts]) -> SummaryCounts:
    """Add up counts, histograms and sums."""
    parts, total = list(parts), None
    sums = [part.scores for part in parts if part.scores is not None]
    if sums:
        dense = ClassSums.zeros(sums[0].n_classes)
        for one in sums:
            one.add_to(dense)
        total = SparseClassSums.of(dense)
    confident = [part.confident for part in parts if part.confident is not None]
    histograms = [part.histogram for part in parts if part.histogram is not None]
    return SummaryCounts(
        confident_combine(confident) if confident else None,
        add_up(histograms) if histograms else None,
        total,
        sum(part.n_counted for part in parts),
    )


def sampled_classes(chunk: Chunk, *, reader: SummaryReader, sample: RowSample) -> tuple[Ints, Ints]:
    """Return the labels and predicted classes of the rows of a chunk that are in the sample."""
    return sample.take(chunk.start, reader.blocks(chunk))


def histogram_within(chunk: Chunk, *, reader: SummaryReader, cut_scores: CutScores, cut: radix_select.Cut) -> Int64s:
    """Return the histogram of the next digit of the scores inside the cut."""
    return add_up(radix_select.score_histogram(cut_scores(block), cut) for block in reader.blocks(chunk))


def add_up(histograms: Iterable[Int64s]) -> Int64s:
    """Add up histograms."""
    total: Int64s = np.sum(list(histograms), axis=0)
    return total


def scores_inside(
    chunk: Chunk, *, reader: SummaryReader, cut_scores: CutScores, cut: radix_select.Cut
) -> radix_select.Ties:
    """Return the distinct scores inside the cut, with the number of rows of each."""
    parts = [radix_select.inside(cut_scores(block), cut) for block in reader.blocks(chunk)]
    return radix_select.Ties.of(np.concatenate(parts))


def class_histogram_within(chunk: Chunk, *, reader: SummaryReader, cuts: ClassCuts) -> Int64s:
    """Return the histogram of the next digit of the label's probability, inside the cut of each class."""
    return add_up(class_histogram(block.label, block.p_label, cuts) for block in reader.blocks(chunk))


def class_ties(chunk: Chunk, *, reader: SummaryReader, cuts: ClassCuts) -> ClassTies:
    """Return the distinct probabilities of the label inside the cut of each class, with the number of rows of each."""
    return ClassTies.add_up([ClassTies.of(block.label, block.p_label, cuts) for block in reader.blocks(chunk)])


def selected_blocks(
    chunk: Chunk, *parts: Any, reader: SummaryReader, selection: Selection
) -> Iterator[tuple[SummaryBlock, npt.NDArray[np.intp], int]]:
    """Yield blocks of summaries, the positions of the selected rows in each, and the number of its first row."""
    first, pick = chunk.start, selection.picker(*parts)
    for block in reader.blocks(chunk):
        yield block, pick(block, first), first
        first += len(block)


def issue_rows(block: SummaryBlock, rows: npt.NDArray[np.intp], first_row: int) -> IssueRows:
    """Return the issues at the positions `rows` of a block, in row order."""
    return IssueRows(
        rows=(rows + first_row).astype(np.int64),
        scores=scores_of(block)[rows],
        given_labels=block.label[rows],
        suggested_labels=block.predicted[rows],
        p_given=block.p_label[rows],
        p_suggested=block.p_predicted[rows],
    )


def select(chunk: Chunk, *parts: Any, reader: SummaryReader, selection: Selection) -> IssueRows:
    """Return the selected rows of a chunk in row order; `parts` are what the selection needs for the chunk."""
    return IssueRows.concatenate(
        [issue_rows(*found) for found in selected_blocks(chunk, *parts, reader=reader, selection=selection)]
    )


def is_issue(found: IssueRows, rule: Filter) -> npt.NDArray[np.bool_]:
    """Return which rows are issues. Most filters drop rows whose label is predicted, or nearly so."""
    if rule.keeps_near_predicted:
        return np.ones(len(found.rows), np.bool_)
    return ~near_predicted(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)


def rank(parts: Sequence[IssueRows], wanted: int, rule: Filter) -> IssueRows:
    """Return the `wanted` lowest of the selected rows of all chunks in order, without those that are not issues."""
    found = IssueRows.concatenate(parts)
    are_issues = is_issue(found, rule)
    order = radix_select.lowest_first(found.scores, wanted)
    chosen = found.take(order[are_issues[order]])
    return replace(chosen, scores=widen(chosen.scores))
