"""What one task does with its partition or span of rows. NumPy, sources and records, no Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.agreement import Agreement, RowSample
from labelsieve.confident_learning.confident_joint import ConfidentCounter, ConfidentCounts, confident_combine
from labelsieve.confident_learning.quality_scores import (
    Float64s,
    RowValueKernel,
    adjusted_self_confidence,
    row_value_kernel,
)
from labelsieve.confident_learning.radix_select_by_class import ClassCuts, ClassTies, class_histogram
from labelsieve.confident_learning.row_summary import Ints, RowSummary, Summariser
from labelsieve.confident_learning.selections import Selection, cut_scores, scores_of
from labelsieve.confident_learning.thresholds import (
    ClassSums,
    SparseClassSums,
    blocks,
    class_sums_chunk,
    class_sums_combine,
)
from labelsieve.confident_learning.validation import DEFAULT_CHECKS, RowChecks, combine_findings, errors_in
from labelsieve.memory import BLOCK_ROWS, Span
from labelsieve.results.result import IssueRows
from labelsieve.settings import Settings
from labelsieve.storage.record_files import Columns
from labelsieve.tasks.checkpoint import DamagedRecordError, Records, StoredSummary, summary_of
from labelsieve.tasks.partials import Looked, Partial, footer_of, partial_of_footer
from labelsieve.tasks.partition import Block, Partition

Blocks: TypeAlias = Sequence[Block] | None


@dataclass(frozen=True)
class Summarised:
    """What reading a partition leaves: its row summaries, here or in a record, and its partial sums."""

    start: int
    n_rows: int
    summary: RowSummary | StoredSummary
    partial: Partial
    looked: Looked | None = None


def summarise(
    partition: Partition,
    labels: Blocks = None,
    pred_probs: Blocks = None,
    *,
    settings: Settings,
    records: Records | None = None,
    keep: bool = True,
    checks: RowChecks = DEFAULT_CHECKS,
) -> Summarised:
    """Read a partition once, unless it is committed.

    One with bad data is not: the run will end with an error, and the next one reads what was mended.

    Parameters
    ----------
    partition : Partition
        Which rows, and where they are.
    labels, pred_probs : sequence of array, optional
        The batches, where they are not read from a source.
    settings : Settings
        What is scored.
    records : Records, optional
        Where summaries are committed.
    keep : bool
        Whether the summary is returned; without `records` it always is.
    checks : RowChecks
        Which rows that cannot be a distribution are accepted.
    """
    row_values, n_rows = row_value_kernel(settings), partition.n_rows
    if records is None:
        taken: list[RowSummary] = []
        partial = read_rows(partition, n_rows, row_values, taken.append, labels, pred_probs)
        return Summarised(partition.start, n_rows, taken[0], partial)
    done, footer = _committed(partition, row_values, records, keep=keep)
    if footer is not None:
        return Summarised(partition.start, n_rows, done, partial_of_footer(footer))
    if not (partition.has_labels(labels) and partition.has_pred_probs(pred_probs)):
        raise DamagedRecordError(f"the record of partition {partition.index} in {records.folder.where} is damaged")
    index, rows, kept = partition.index, (partition.start, partition.stop), list[RowSummary]()
    with records.create("summaries", index, rows) as writer:

        def commit(taken: RowSummary) -> None:
            for start in range(0, len(taken), BLOCK_ROWS):
                block = taken[start : start + BLOCK_ROWS].columns()
                writer.add({name: column for name, column in block.items() if column is not None})
            if keep:
                kept.append(taken)

        capacity = n_rows if keep else min(n_rows, BLOCK_ROWS)
        partial = read_rows(partition, capacity, row_values, commit, labels, pred_probs)
        if not errors_in(partial.findings, checks):
            writer.finish(footer_of(partial))
    return Summarised(partition.start, n_rows, kept[0] if keep else StoredSummary(records, index), partial)


def _committed(
    partition: Partition, row_values: RowValueKernel | None, records: Records, *, keep: bool
) -> tuple[RowSummary | StoredSummary, Mapping[str, Any] | None]:
    """Return what is committed of a partition: its summary, in memory if it is to be kept, and its footer or None."""
    index, rows = partition.index, (partition.start, partition.stop)
    if not keep:
        return StoredSummary(records, index), records.committed("summaries", index, rows)
    with_row_values, position = row_values is not None, 0
    whole = RowSummary.empty(partition.n_rows, partition.n_classes, partition.dtype, with_row_values=with_row_values)

    def take(block: Columns) -> None:
        nonlocal position
        position = whole.put(position, summary_of(block))

    return whole, records.committed("summaries", index, rows, take)


def class_sums(partition: Partition, labels: Blocks = None, pred_probs: Blocks = None) -> Partial:
    """Read a partition for its class sums alone, and check it."""
    return summarise(partition, labels, pred_probs, settings=Settings()).partial


def read_rows(
    partition: Partition,
    capacity: int,
    row_values: RowValueKernel | None,
    consume: Callable[[RowSummary], None],
    labels: Blocks,
    pred_probs: Blocks,
    look: Callable[[RowSummary, Block], object] = lambda _summary, _probs: None,
) -> Partial:
    """Hand the summaries of a partition to `consume`, at most `capacity` rows at a time, and sum them by class.

    `look` is shown each strip, with the summaries of its rows.
    """
    summariser = Summariser(capacity, partition.n_classes, partition.dtype, row_values, partition.start)
    sums, agreements = ClassSums.zeros(partition.n_classes), list[Agreement]()

    def pass_on() -> None:
        nonlocal sums
        block = summariser.take()
        sums = class_sums_combine([sums, class_sums_chunk(block.labels, block.p_given, partition.n_classes)])
        agreements.append(Agreement.of(block.labels, block.predicted))
        consume(block)

    for strip_labels, strip_probs in partition.strips(labels, pred_probs):
        if summariser.room < len(strip_probs):
            pass_on()
        look(summariser.add(strip_labels, strip_probs), strip_probs)
    pass_on()
    return Partial(SparseClassSums.of(sums), summariser.findings, partition.n_rows, Agreement.total(agreements))


def partial_of(summarised: Summarised) -> Partial:
    """Return the K-sized part."""
    return summarised.partial


def combine_partials(parts: Iterable[Partial | Summarised]) -> Partial:
    """Fold the partials of neighbouring partitions, given in row order."""
    partials = [part.partial if isinstance(part, Summarised) else part for part in parts]
    total = ClassSums.zeros(partials[0].sums.n_classes)
    for partial in partials:
        partial.sums.add_to(total)
    findings = combine_findings(partial.findings for partial in partials)
    agreement = Agreement.total(partial.agreement for partial in partials)
    return Partial(SparseClassSums.of(total), findings, sum(partial.n_read for partial in partials), agreement)


@dataclass(frozen=True)
class Finish:
    """Turns summaries as they were read into finished ones, now that the thresholds are known.

    Parameters
    ----------
    settings : Settings
        What is scored.
    thresholds : (K,) float64
        Confident thresholds.
    records, again : Records, optional
        Where summaries, and what a second read tells, are committed, for spans.
    """

    settings: Settings
    thresholds: Float64s
    records: Records | None = None
    again: Records | None = None

    def __call__(self, summary: RowSummary) -> RowSummary:
        """Return `summary` with its final scores; row sums become adjusted self-confidences."""
        if not self.settings.adjust_pred_probs or self.settings.scores_need_reread:
            return summary
        if summary.row_values is None:
            raise RuntimeError("adjusted self-confidence needs row sums in the summary")
        scores = np.empty(len(summary), np.float64)
        for block in blocks(len(summary)):
            scores[block] = adjusted_self_confidence(
                summary.p_given[block], summary.labels[block], summary.row_values[block], self.thresholds
            )
        return replace(summary, row_values=scores)

    def blocks(self, rows: Summarised | Span) -> Iterator[RowSummary]:
        """Yield the finished summaries of a partition or a span, some at a time, in row order."""
        if isinstance(rows, Summarised):
            if not isinstance(rows.summary, RowSummary):
                raise TypeError("stored summaries are read by spans")
            # A partition without rows, of a user's Dask array, is one empty block.
            for block in blocks(len(rows.summary)) if len(rows.summary) else [slice(0)]:
                yield self(rows.summary[block])
            return
        for index, start, stop in rows.pieces:
            yield from self._stored(index, start, stop)

    def _stored(self, index: int, start: int, stop: int) -> Iterator[RowSummary]:
        if self.records is None:
            raise RuntimeError("spans are read from records")
        stored = StoredSummary(self.records, index).blocks(start, stop)
        if self.again is None:
            yield from map(self, stored)
            return
        with self.again.reading("rereads", index) as record:
            for block in stored:
                parts = list(record.blocks(start, start + len(block)))
                start += len(block)
                found: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                yield self(replace(block, **found))


def widened(scores: radix_select.Scores) -> radix_select.Scores:
    """Return scores as they are given out: float16 as float32."""
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)


def all_scores(rows: Summarised | Span, *, finish: Finish) -> radix_select.Scores:
    """Return the scores of a partition or span."""
    if isinstance(rows, Summarised) and isinstance(rows.summary, RowSummary):
        return widened(scores_of(finish(rows.summary)))
    return np.concatenate([widened(scores_of(block)) for block in finish.blocks(rows)])


@dataclass(frozen=True)
class Counted:
    """What holding summaries against the thresholds gives.

    Parameters
    ----------
    confident : ConfidentCounts or None
        Confident rows by label and predicted class; None where a second look has counted them.
    histogram : (B,) int64 or None
        Of the scores that a cut is made on, where one is.
    scores : SparseClassSums or None
        Sums of computed scores by label.
    n_else : int
        Rows whose label is not the predicted class, where a filter takes these.
    """

    confident: ConfidentCounts | None
    histogram: radix_select.Int64s | None
    scores: SparseClassSums | None
    n_else: int = 0


def count(rows: Summarised | Span, *, finish: Finish, adj_thresholds: Float64s) -> Counted:
    """Hold the summaries of a partition or span against the thresholds."""
    histograms = list[radix_select.Int64s]()
    settings, n_classes = finish.settings, len(adj_thresholds)
    counter = None if settings.looks_again else ConfidentCounter(adj_thresholds)
    # The scores of plain self-confidence were summed by label as they were read.
    scores, n_else = None if settings.plain_self_confidence else ClassSums.zeros(n_classes), 0
    for block in finish.blocks(rows):
        if settings.filter_by == "predicted_neq_given":
            n_else += int(np.count_nonzero(block.predicted != block.labels))
        if counter is not None:
            counter.add(block)
        if settings.cuts_scores:
            histograms.append(radix_select.score_histogram(cut_scores(block, settings)))
        if scores is not None:
            scores = class_sums_combine([scores, class_sums_chunk(block.labels, scores_of(block), n_classes)])
        if len(histograms) > 8:
            histograms = [add_up(histograms)]
    confident = [] if counter is None else [counter.counts()]
    return _counted(confident, histograms, None if scores is None else SparseClassSums.of(scores), n_else)


def combine_counted(parts: Iterable[Counted]) -> Counted:
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
    return _counted(confident, histograms, total, sum(part.n_else for part in parts))


def _counted(
    confident: list[ConfidentCounts], histograms: list[radix_select.Int64s], scores: SparseClassSums | None, n_else: int
) -> Counted:
    return Counted(
        confident_combine(confident) if confident else None, add_up(histograms) if histograms else None, scores, n_else
    )


def sampled_classes(rows: Summarised | Span, *, finish: Finish, sample: RowSample) -> tuple[Ints, Ints]:
    """Return the labels and predicted classes of the sample's rows in a partition or span."""
    return sample.take(rows.start, finish.blocks(rows))


def histogram_within(rows: Summarised | Span, *, finish: Finish, cut: radix_select.Cut) -> radix_select.Int64s:
    """Return the histogram of the next digit of the scores inside `cut`."""
    return add_up(
        radix_select.score_histogram(cut_scores(block, finish.settings), cut) for block in finish.blocks(rows)
    )


def add_up(histograms: Iterable[radix_select.Int64s]) -> radix_select.Int64s:
    """Add up histograms."""
    total: radix_select.Int64s = np.sum(list(histograms), axis=0)
    return total


def scores_inside(rows: Summarised | Span, *, finish: Finish, cut: radix_select.Cut) -> radix_select.Ties:
    """Return the scores inside `cut`, each value once with how many rows have it."""
    parts = [radix_select.inside(cut_scores(block, finish.settings), cut) for block in finish.blocks(rows)]
    return radix_select.Ties.of(np.concatenate(parts))


def class_histogram_within(rows: Summarised | Span, *, finish: Finish, cuts: ClassCuts) -> radix_select.Int64s:
    """Return the histogram of the next digit of the given label's probability inside the cut of each class."""
    return add_up(class_histogram(block.labels, block.p_given, cuts) for block in finish.blocks(rows))


def class_ties(rows: Summarised | Span, *, finish: Finish, cuts: ClassCuts) -> ClassTies:
    """Return the given label's probabilities inside the cut of each class, each value once."""
    return ClassTies.add_up([ClassTies.of(block.labels, block.p_given, cuts) for block in finish.blocks(rows)])


def selected(
    rows: Summarised | Span, part: Any, *, finish: Finish, selection: Selection
) -> Iterator[tuple[RowSummary, npt.NDArray[np.intp], int]]:
    """Yield blocks of summaries with which of their rows are taken, and the row number of their first row."""
    first, pick = rows.start, selection.picker(part)
    for block in finish.blocks(rows):
        yield block, pick(block, first), first
        first += len(block)


def issue_rows(block: RowSummary, rows: npt.NDArray[np.intp], first_row: int) -> IssueRows:
    """Return what is asked about some rows of a block, in row order."""
    return IssueRows(
        rows=(rows + first_row).astype(np.int64),
        scores=scores_of(block)[rows],
        given_labels=block.labels[rows],
        suggested_labels=block.predicted[rows],
        p_given=block.p_given[rows],
        p_suggested=block.p_predicted[rows],
    )


def select(rows: Summarised | Span, part: Any, *, finish: Finish, selection: Selection) -> IssueRows:
    """Return the rows that are taken, in row order; `part` is what the selection needs to know of these rows."""
    return IssueRows.concatenate(
        [issue_rows(*found) for found in selected(rows, part, finish=finish, selection=selection)]
    )


def is_issue(found: IssueRows, settings: Settings) -> npt.NDArray[np.bool_]:
    """Return which rows are issues: where the filter drops rows whose label is nearly predicted, these are not."""
    if settings.keeps_near_predicted:
        return np.ones(len(found.rows), np.bool_)
    return ~radix_select.near_predicted(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)


def rank(parts: Sequence[IssueRows], wanted: int, settings: Settings) -> IssueRows:
    """Put the selected rows of all partitions in order, the `wanted` lowest, and drop what is no issue."""
    found = IssueRows.concatenate(parts)
    order = radix_select.lowest_first(found.scores, wanted)
    chosen = found.take(order[is_issue(found, settings)[order]])
    return replace(chosen, scores=widened(chosen.scores))
