"""What one task does with its partition or span of rows. NumPy, sources and records, no Dask.

Covers: the maps of a run (`summarise`, `count`, `select`), what finishes scores that need the thresholds first, and
`inspect` for batches whose thresholds are known.
Does not cover: a second read (`rereads`), issues that the tasks write themselves (`runs`), which tasks there are and
how their results are folded (`engine`, `forkpool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve import ranking
from labelsieve.checks import Findings, combine_findings, errors_in
from labelsieve.confident import ConfidentCounts, confident_chunk, confident_combine
from labelsieve.kernels import RowSummary, Summariser
from labelsieve.memory import BLOCK_ROWS, Span
from labelsieve.partitions import Block, Partition
from labelsieve.records import Columns
from labelsieve.reductions import (
    ClassSums,
    IssueCounts,
    SparseClassSums,
    blocks,
    class_sums_chunk,
    class_sums_combine,
    issue_counts_chunk,
)
from labelsieve.results import IssueRows
from labelsieve.scores import Float64s, RowValueKernel, adjusted_self_confidence, row_value_kernel
from labelsieve.settings import Settings
from labelsieve.workdir import Partial, Records, StoredSummary, footer_of, partial_of_footer, summary_of

Blocks: TypeAlias = Sequence[Block] | None


@dataclass(frozen=True)
class Summarised:
    """What reading a partition leaves: its row summaries, here or in a record, and its partial sums."""

    start: int
    n_rows: int
    summary: RowSummary | StoredSummary
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
    partition: Partition,
    labels: Blocks = None,
    pred_probs: Blocks = None,
    *,
    settings: Settings,
    records: Records | None = None,
    keep: bool = True,
    allow_zero_rows: bool = False,
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
    allow_zero_rows : bool
        Whether rows that are all zeros are good.
    """
    row_values, n_rows = row_value_kernel(settings), partition.n_rows
    if records is None:
        summary, sums, findings = _whole(partition, row_values, labels, pred_probs)
        return Summarised(partition.start, n_rows, summary, Partial(SparseClassSums.of(sums), findings, n_rows))
    done, footer = _committed(partition, row_values, records, keep=keep)
    if footer is not None:
        return Summarised(partition.start, n_rows, done, partial_of_footer(footer))
    index, rows, kept = partition.index, (partition.start, partition.stop), list[RowSummary]()
    with records.create("summaries", index, rows) as writer:

        def commit(taken: RowSummary) -> None:
            for start in range(0, len(taken), BLOCK_ROWS):
                block = taken[start : start + BLOCK_ROWS].columns()
                writer.add({name: column for name, column in block.items() if column is not None})
            if keep:
                kept.append(taken)

        capacity = n_rows if keep else min(n_rows, BLOCK_ROWS)
        sums, findings = _read(partition, capacity, row_values, commit, labels, pred_probs)
        partial = Partial(SparseClassSums.of(sums), findings, n_rows)
        if not errors_in(findings, allow_zero_rows=allow_zero_rows):
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
    summary, _, findings = _whole(partition, row_value_kernel(settings, thresholds), labels, pred_probs)
    counts = None
    if adj_thresholds is not None:
        counts = issue_counts_chunk(summary, adj_thresholds, calibrated=settings.calibrated)
    return Inspected(widened(scores_of(Finish(settings, thresholds)(summary))), counts, findings)


def _read(
    partition: Partition,
    capacity: int,
    row_values: RowValueKernel | None,
    consume: Callable[[RowSummary], None],
    labels: Blocks,
    pred_probs: Blocks,
) -> tuple[ClassSums, Findings]:
    """Hand the summaries of a partition to `consume`, at most `capacity` rows at a time, and sum them by class."""
    summariser = Summariser(capacity, partition.n_classes, partition.dtype, row_values, partition.start)
    sums = ClassSums.zeros(partition.n_classes)

    def pass_on() -> None:
        nonlocal sums
        block = summariser.take()
        sums = class_sums_combine([sums, class_sums_chunk(block.labels, block.p_given, partition.n_classes)])
        consume(block)

    for strip_labels, strip_probs in partition.strips(labels, pred_probs):
        if summariser.room < len(strip_probs):
            pass_on()
        summariser.add(strip_labels, strip_probs)
    pass_on()
    return sums, summariser.findings


def _whole(
    partition: Partition, row_values: RowValueKernel | None, labels: Blocks, pred_probs: Blocks
) -> tuple[RowSummary, ClassSums, Findings]:
    taken: list[RowSummary] = []
    sums, findings = _read(partition, partition.n_rows, row_values, taken.append, labels, pred_probs)
    return taken[0], sums, findings


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
    return Partial(SparseClassSums.of(total), findings, sum(partial.n_read for partial in partials))


@dataclass(frozen=True)
class Finish:
    """Turns summaries as they were read into finished ones, now that the thresholds are known.

    Parameters
    ----------
    settings : Settings
        What is scored.
    thresholds : (K,) float64
        Confident thresholds.
    records, scored : Records, optional
        Where summaries, and scores of a second read, are committed, for spans.
    """

    settings: Settings
    thresholds: Float64s
    records: Records | None = None
    scored: Records | None = None

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
        for block in StoredSummary(self.records, index).blocks(start, stop):
            if self.scored is not None:
                with self.scored.open("scores", index) as record:
                    scores = [part["row_values"] for part in record.blocks(start, start + len(block))]
                start += len(block)
                yield replace(block, row_values=np.concatenate(scores))
            else:
                yield self(block)


def scores_of(summary: RowSummary) -> ranking.Scores:
    """Return the scores of a finished summary."""
    return summary.p_given if summary.row_values is None else summary.row_values


def widened(scores: ranking.Scores) -> ranking.Scores:
    """Return scores as they are given out: float16 as float32."""
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)


def all_scores(rows: Summarised | Span, *, finish: Finish) -> ranking.Scores:
    """Return the scores of a partition or span."""
    return np.concatenate([widened(scores_of(block)) for block in finish.blocks(rows)])


@dataclass(frozen=True)
class Counted:
    """Confident rows by their classes, the histogram that ranking begins with, and sums of computed scores by label."""

    confident: ConfidentCounts
    histogram: ranking.Int64s
    scores: SparseClassSums | None


def count(rows: Summarised | Span, *, finish: Finish, adj_thresholds: Float64s) -> Counted:
    """Hold the summaries of a partition or span against the thresholds."""
    parts, histograms, n_classes = [], [], len(adj_thresholds)
    # The scores of plain self-confidence were summed by label as they were read.
    scores = None if finish.settings.plain_self_confidence else ClassSums.zeros(n_classes)
    for block in finish.blocks(rows):
        parts.append(confident_chunk(block, adj_thresholds))
        histograms.append(ranking.score_histogram(scores_of(block)))
        if scores is not None:
            scores = class_sums_combine([scores, class_sums_chunk(block.labels, scores_of(block), n_classes)])
        if len(parts) > 8:
            parts, histograms = [confident_combine(parts)], [add_up(histograms)]
    summed = None if scores is None else SparseClassSums.of(scores)
    return Counted(confident_combine(parts), add_up(histograms), summed)


def combine_counted(parts: Iterable[Counted]) -> Counted:
    """Add up counts, histograms and sums."""
    parts = list(parts)
    total = ClassSums.zeros(parts[0].confident.n_classes)
    for part in parts:
        if part.scores is not None:
            part.scores.add_to(total)
    return Counted(
        confident_combine(part.confident for part in parts),
        add_up(part.histogram for part in parts),
        None if parts[0].scores is None else SparseClassSums.of(total),
    )


def histogram_within(rows: Summarised | Span, *, finish: Finish, cut: ranking.Cut) -> ranking.Int64s:
    """Return the histogram of the next digit of the scores inside `cut`."""
    total: ranking.Int64s | None = None
    for block in finish.blocks(rows):
        histogram = ranking.score_histogram(scores_of(block), cut)
        total = histogram if total is None else total + histogram
    if total is None:
        raise RuntimeError("a span has at least one row")
    return total


def add_up(histograms: Iterable[ranking.Int64s]) -> ranking.Int64s:
    """Add up histograms."""
    total: ranking.Int64s = np.sum(list(histograms), axis=0)
    return total


def scores_inside(rows: Summarised | Span, *, finish: Finish, cut: ranking.Cut) -> ranking.Ties:
    """Return the scores inside `cut`, each value once with how many rows have it."""
    parts = [ranking.inside(scores_of(block), cut) for block in finish.blocks(rows)]
    return ranking.Ties.of(np.concatenate(parts))


def selected(
    rows: Summarised | Span, quota: int | None, *, finish: Finish, cut: ranking.Cut
) -> Iterator[tuple[RowSummary, npt.NDArray[np.intp], int]]:
    """Yield blocks of summaries with which of their rows are up to `cut`, and the row number of their first row.

    Of the rows inside `cut` the first `quota` are taken, all where it is None.
    """
    first = rows.start
    for block in finish.blocks(rows):
        scores = scores_of(block)
        yield block, ranking.rows_up_to(scores, cut, quota), first
        if quota is not None:
            quota -= min(quota, ranking.count_inside(scores, cut))
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


def select(rows: Summarised | Span, quota: int | None, *, finish: Finish, cut: ranking.Cut) -> IssueRows:
    """Return the rows up to `cut`, of those inside it the first `quota`, in row order."""
    return IssueRows.concatenate([issue_rows(*found) for found in selected(rows, quota, finish=finish, cut=cut)])


def without_near_predicted(found: IssueRows) -> IssueRows:
    """Drop the rows whose label is predicted or nearly so."""
    near = ranking.near_predicted(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
    return found.take(np.flatnonzero(~near))


def rank(parts: Sequence[IssueRows], wanted: int) -> IssueRows:
    """Order the selected rows of all partitions and drop those whose label is predicted or nearly so."""
    found = IssueRows.concatenate(parts)
    chosen = without_near_predicted(found.take(ranking.lowest_first(found.scores, wanted)))
    return replace(chosen, scores=widened(chosen.scores))
