"""Counting and selecting: the tasks that work on chunks of row summaries, after the passes over `pred_probs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select, top_k_by_pair
from labelsieve.confident_learning.agreement import RowSample
from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s, Ints
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.pruning import PruneCounts
from labelsieve.confident_learning.radix_select_by_class import ClassCuts, ClassTies, class_histogram
from labelsieve.confident_learning.selections import Ranking, Selection, scores_of
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.summary_counts import SummaryCounter, SummaryCounts
from labelsieve.results.result import IssueRows
from labelsieve.tasks.summary_reader import Chunk, SummaryReader

CutScores: TypeAlias = Callable[[SummaryBlock], Floats]


def widen(scores: Floats) -> Floats:
    """Return scores in the dtype that users get: float32 for float16."""
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)


def all_scores(chunk: Chunk, *, reader: SummaryReader) -> Floats:
    """Return the scores of a chunk, NaN for rows without a label; not copied where it is one block of labelled rows."""
    parts = [block.spread(widen(scores_of(block))) for block in reader.blocks(chunk, whole=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def count(chunk: Chunk, *, reader: SummaryReader, rule: Filter, thresholds: Float64s) -> SummaryCounts:
    """Compare the summaries of a chunk with the thresholds."""
    counter = SummaryCounter(rule, thresholds)
    for block in reader.blocks(chunk):
        counter.add(block)
    return counter.counts()


def n_labelled(chunk: Chunk, *, reader: SummaryReader) -> int:
    """Return the number of rows of a chunk that have a label."""
    return sum(map(len, reader.blocks(chunk)))


def sampled_classes(chunk: Chunk, first: int, *, reader: SummaryReader, sample: RowSample) -> tuple[Ints, Ints]:
    """Return the labels and predicted classes of the rows of a chunk that are in the sample.

    The sample counts labelled rows alone; `first` of them come before this chunk.
    """
    return sample.take(first, reader.blocks(chunk))


def predicted_candidates(chunk: Chunk, *, reader: SummaryReader, prune: PruneCounts) -> top_k_by_pair.Candidates:
    """Return the rows of largest margin of each pair whose other class is the predicted one."""
    found = top_k_by_pair.Candidates.none()
    for block in reader.blocks(chunk):  # never more are held than are wanted
        found = top_k_by_pair.largest([found, top_k_by_pair.predicted_candidates(block, prune)], prune.by_pair)
    return found


def histogram_within(chunk: Chunk, *, reader: SummaryReader, cut_scores: CutScores, cut: radix_select.Cut) -> Int64s:
    """Return the histogram of the next digit of the scores inside the cut."""
    return radix_select.add_up(radix_select.score_histogram(cut_scores(block), cut) for block in reader.blocks(chunk))


def scores_inside(
    chunk: Chunk, *, reader: SummaryReader, cut_scores: CutScores, cut: radix_select.Cut
) -> radix_select.Ties:
    """Return the distinct scores inside the cut, with the number of rows of each."""
    parts = [radix_select.inside(cut_scores(block), cut) for block in reader.blocks(chunk)]
    return radix_select.Ties.of(np.concatenate(parts))


def n_ranked(chunk: Chunk, *, reader: SummaryReader, ranking: Ranking, n_groups: int) -> Int64s:
    """Return the number of rows in each group of a ranking."""
    return radix_select.add_up(np.bincount(ranking(block)[1], minlength=n_groups) for block in reader.blocks(chunk))


def class_histogram_within(chunk: Chunk, *, reader: SummaryReader, cuts: ClassCuts, ranking: Ranking) -> Int64s:
    """Return the histogram of the next digit of the scores of a ranking, inside the cut of each group."""
    ranked = map(ranking, reader.blocks(chunk))
    return radix_select.add_up(class_histogram(groups, scores, cuts) for _, groups, scores in ranked)


def class_ties(chunk: Chunk, *, reader: SummaryReader, cuts: ClassCuts, ranking: Ranking) -> ClassTies:
    """Return the distinct scores of a ranking inside the cut of each group, with the number of rows of each."""
    ranked = map(ranking, reader.blocks(chunk))
    return ClassTies.add_up([ClassTies.of(groups, scores, cuts) for _, groups, scores in ranked])


def selected_blocks(
    chunk: Chunk, *parts: Any, reader: SummaryReader, selection: Selection
) -> Iterator[tuple[SummaryBlock, npt.NDArray[np.intp], int]]:
    """Yield blocks of summaries, the positions of the selected rows in each, and the number of its first row."""
    first, pick = chunk.start, selection.picker(*parts)
    for block in reader.blocks(chunk):
        yield block, pick(block, first), first
        first += block.n_covered


def issue_rows(block: SummaryBlock, rows: npt.NDArray[np.intp], first_row: int) -> IssueRows:
    """Return the issues at the positions `rows` of a block, in row order."""
    return IssueRows(
        rows=block.row_numbers(rows, first_row),
        scores=scores_of(block)[rows],
        # All of these have a label, so that they need no wider dtype.
        given_labels=block.label[rows].astype(block.predicted.dtype, copy=False),
        suggested_labels=block.predicted[rows],
        p_given=block.p_label[rows],
        p_suggested=block.p_predicted[rows],
    )


def select(chunk: Chunk, *parts: Any, reader: SummaryReader, selection: Selection) -> IssueRows:
    """Return the selected rows of a chunk in row order; `parts` are what the selection needs for the chunk."""
    return IssueRows.concatenate(
        [issue_rows(*found) for found in selected_blocks(chunk, *parts, reader=reader, selection=selection)]
    )
