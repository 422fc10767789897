"""The passes over `pred_probs`, in their order: the algorithm in Dask's words.

labels (N,), pred_probs (N, K)                   chunked alike; a block of a file is a lazy range of rows

scan         = blockwise(labels, pred_probs)     a chunk of row summaries for each chunk of pred_probs
thresholds   = reduction(scan)                   class sums, and what is wrong with the rows
rescan       = blockwise(pred_probs, scan)       only where whole rows are needed again: a second pass
issue-counts = reduction(blockwise(scan))        confident pairs, and a histogram of the scores
ties         = blockwise(scan)                   the scores at the cut; rounds of "histogram" where these are many
margins      = blockwise(pred_probs, scan)       only where pairs of classes are pruned: a third pass
select       = blockwise(scan)                   the issues of each chunk, or sorted runs of them
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np

from labelsieve.confident_learning.checks import DEFAULT_CHECKS, RowChecks
from labelsieve.confident_learning.filters import Filter, IssueTotals, SummaryCounts, issue_totals
from labelsieve.confident_learning.joint import ConfidentCounts, JointCounts, PruneCounts
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.select import (
    Candidates,
    MarginSearch,
    RowSelection,
    largest,
    margins_to_exceed,
    margins_to_reach,
)
from labelsieve.confident_learning.summarize import ScanTotals, combine_totals
from labelsieve.confident_learning.thresholds import ClassSums, Float64s, Int64s, class_sums_finalize
from labelsieve.execution.executor import Executor
from labelsieve.execution.graph import Column, some_chunks
from labelsieve.execution.progress import Progress, progress_of
from labelsieve.job import fork_pool, scan
from labelsieve.job.grid import spans
from labelsieve.job.inputs import Inputs, kept_if_it_fits, without_blocks
from labelsieve.job.kept import Kept, Records, RescanTotals, SummaryReader, combine_rescans
from labelsieve.job.table import RowSummaries, predicted_candidates
from labelsieve.storage.checked import DamagedRecordError

# A round of the third pass reads at most this share of the partitions, which is what a killed run reads again.
_ROUNDS: Final = 8

_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """What the passes have found.

    Parameters
    ----------
    scanned : ScanTotals
        Totals of the first pass.
    sums : ClassSums
        Sums of each class.
    thresholds : (K,) float64
        Confident thresholds.
    counts : SummaryCounts
        What comparing the summaries with the thresholds counts.
    totals : IssueTotals
        Totals over all rows, by the rule of the settings.
    misfit : str
        A warning that labels and predictions do not seem to belong together, or "".
    table : RowSummaries
        The row summaries.
    selected : RowSelection
        The selected rows.
    """

    scanned: ScanTotals
    sums: ClassSums
    thresholds: Float64s
    counts: SummaryCounts
    totals: IssueTotals
    misfit: str
    table: RowSummaries
    selected: RowSelection


class Passes(abc.ABC):
    """The passes of one run over the partitions of its inputs.

    Parameters
    ----------
    inputs : Inputs
        What to read.
    rule : Filter
        Selects issues; says which passes and columns it needs.
    executor : Executor
        Who runs the tasks.
    kept : Kept
        Where row summaries live.
    accepted : RowChecks
        Which rows that cannot be a distribution are accepted.
    show : bool or None
        Whether to show progress; None shows it on a terminal.
    n_forks : int
        Number of processes to fork for the first pass; 0 for none.

    Attributes
    ----------
    n_reads, n_rescanned : int
        Number of passes so far, and of rows that were read after the first one.
    """

    def __init__(
        self,
        inputs: Inputs,
        rule: Filter,
        executor: Executor,
        kept: Kept,
        *,
        accepted: RowChecks = DEFAULT_CHECKS,
        show: bool | None = None,
        n_forks: int = 0,
    ) -> None:
        self.inputs, self.rule, self.executor, self.kept = inputs, rule, executor, kept
        self._accepted, self._show, self._n_forks = accepted, show, n_forks
        self.n_reads, self.n_rescanned = 1, 0
        self._all_columns: list[Column] | None = None

    def run(self, given_joint: ConfidentCounts | None = None, *, exactly: bool) -> Found:
        """Find the issues, and select exactly as many as are counted if `exactly`, or a few more."""
        scanned = self.scan()
        self.check_scanned(scanned)
        sums = scanned.sums.dense()
        thresholds = class_sums_finalize(sums)
        table, rescanned = self.rescan(thresholds)
        counts = table.count(self.rule, thresholds)
        joint = None if rescanned is None else rescanned.joint_counts(sums.counts)
        totals = replace(issue_totals(counts, joint, sums.counts, self.rule.settings), given_joint=given_joint)
        misfit = self.check_fit(scanned, totals.confident)
        selected = self.rule.select(table, totals, self.inputs.dtype, exactly=exactly)
        if self.n_reads > 1:
            self.check_read()
        return Found(scanned, sums, thresholds, counts, totals, misfit, table, selected)

    def count(self) -> JointCounts:
        """Count the confident joint in two passes, and select nothing."""
        scanned = self.scan()
        self.check_scanned(scanned)
        sums = scanned.sums.dense()
        _, rescanned = self.rescan(class_sums_finalize(sums))
        self.check_read()
        joint = None if rescanned is None else rescanned.joint_counts(sums.counts)
        if joint is None or rescanned is None or rescanned.joint is None:
            raise RuntimeError("the settings of a count ask for the confident joint")
        self.check_fit(scanned, rescanned.joint)
        return joint

    # What is checked between the passes: each raises what ends the run, or warns.

    @abc.abstractmethod
    def check_scanned(self, totals: ScanTotals) -> None:
        """Check the rows of the first pass."""

    @abc.abstractmethod
    def check_fit(self, totals: ScanTotals, confident: ConfidentCounts) -> str:
        """Return a warning if labels and predictions do not seem to belong together, or ""."""

    @abc.abstractmethod
    def check_margins(self, prune: PruneCounts) -> None:
        """Check that the rows of largest margin fit in memory."""

    @abc.abstractmethod
    def check_read(self) -> None:
        """Check the inputs after the last read."""

    def scan(self) -> ScanTotals:
        """Summarize all rows, and return what they add up to."""
        kept = self.kept
        work = partial(
            scan.scan,
            settings=self.rule.settings,
            records=kept.records,
            checks=self._accepted,
            in_memory=kept.in_memory,
        )
        if self._n_forks:
            with self._progress("scan", "read") as bar:
                advance = (lambda _: None) if bar is None else bar.advance
                return kept.take(
                    fork_pool.map_in_forks(self.inputs, work, self._n_forks, advance=advance), combine_totals
                )
        return self._read("scan", "read", work, combine_totals, lambda columns: columns, kept.records, kept.finished)

    def rescan(self, thresholds: Float64s) -> tuple[RowSummaries, RescanTotals | None]:
        """Return the table, and what a second pass adds up over `pred_probs`, where one is needed."""
        rule, kept, settings = self.rule, self.kept, self.rule.settings
        records = kept.records_of("rescan", thresholds) if settings.rescans else None
        # The columns of a second pass are read back only if they are needed.
        needed = records if rule.needs_off_diagonal or settings.scores_need_rescan else None
        reader = SummaryReader(settings, thresholds, kept.records, needed, self.inputs.no_label)
        if not settings.rescans:
            return self._table(reader), None
        keeps = rule.needs_off_diagonal if kept.in_memory else settings.counts_joint  # a record needs a column
        work = partial(scan.rescan, reader=replace(reader, rescan_records=records), keeps_off_diagonal=keeps)
        nothing = [None] * self.inputs.grid.n_partitions

        def columns_of(columns: list[Column]) -> list[Column]:
            return [columns[0], nothing, columns[2], kept.chunks if kept.in_memory else nothing]

        finished = [] if records is None else records.present("rescan")
        totals = self._read("rescan", "read again", work, combine_rescans, columns_of, records, finished)
        if kept.in_memory and not self.executor.is_cluster:  # each chunk's counts are added up
            kept.chunks = [replace(chunk, rescan=None) for chunk in kept.chunks]
        self.n_rescanned += totals.n_read
        self.n_reads += 1
        return self._table(reader), totals

    def _read(
        self,
        name: str,
        description: str,
        work: Callable[..., Any],
        combine: Callable[..., _T],
        columns_of: Callable[[list[Column]], list[Column]],
        records: Records | None,
        finished: Collection[int],
    ) -> _T:
        """Run a pass whose results are kept.

        A user's Dask array gives no blocks for records that an earlier run has committed. Where these turn out to be
        damaged, the pass begins again with their blocks.
        """
        try:
            with self._progress(name, description) as bar:
                columns = columns_of(self._columns(finished))
                return self.kept.run(name, self.inputs.work(work), combine, columns, bar)
        except DamagedRecordError:
            if records is None or self.inputs.is_stored or not finished:
                raise
        numbers, rows = range(self.inputs.grid.n_partitions), self.inputs.grid.partition_rows
        is_whole = partial(records.is_committed, kind="summaries" if name == "scan" else name)
        whole = list(itertools.compress(numbers, self.executor.map("verify", is_whole, [numbers, rows])))
        with self._progress(name, description) as bar:
            return self.kept.run(name, self.inputs.work(work), combine, columns_of(self._columns(whole)), bar)

    def _columns(self, finished: Collection[int] = ()) -> list[Column]:
        """Return the arguments of tasks that read: numbers, labels and pred_probs of the partitions.

        Dask would have to compute the blocks of finished partitions, so these are left out of a user's Dask array,
        which is not even kept if all are finished. Arrays in memory are sent to the workers once.
        """
        inputs, numbers = self.inputs, range(self.inputs.grid.n_partitions)
        if not inputs.is_stored and len(finished) == len(numbers):
            return [numbers, [None] * len(numbers), [None] * len(numbers)]
        if self._all_columns is None:
            if self.rule.n_reads > 1:
                inputs = kept_if_it_fits(inputs, self.executor, self.rule.n_reads)
            self._all_columns = inputs.columns(self.executor)
        if inputs.is_stored or not finished:
            return self._all_columns
        return [numbers, *(without_blocks(column, finished) for column in self._all_columns[1:])]

    def first_table(self) -> RowSummaries:
        """Return the table of the first pass, without scores that need the thresholds."""
        return self._table(SummaryReader(Settings(), np.empty(0), self.kept.records, no_label=self.inputs.no_label))

    def _table(self, reader: SummaryReader) -> RowSummaries:
        inputs, in_memory = self.inputs, self.kept.in_memory
        chunks, rows = self.kept.chunks, inputs.grid.partition_rows
        if not in_memory:
            chunks = list[Any](
                spans(inputs.grid, inputs.need(self.rule.settings, self.rule).row, self.executor.all_threads)
            )
            rows = [span.stop - span.start for span in chunks]
        margins = partial(self._read_margins, reader)
        return RowSummaries(
            self.executor, chunks, rows, reader, inputs.n_classes, inputs.dtype, not in_memory, self._show, margins
        )

    def _read_margins(self, reader: SummaryReader, prune: PruneCounts) -> Int64s:
        """Read a third time for the rows of largest margin of each pair, and return their row numbers.

        In rounds, in row order, each of as many partitions as all before it: what those have found tells what the next
        ones can leave out, so no round returns more rows than are wanted, however many partitions there are.
        """
        self.check_margins(prune)
        kept, executor, n_partitions = self.kept, self.executor, self.inputs.grid.n_partitions
        records = kept.records_of("margins", reader.thresholds)
        found, n_done = (Candidates.none(), 0) if records is None else scan.stored_candidates(records)
        numbers, _, pred_probs = self._columns(range(n_done))
        nothing = [None] * n_partitions
        columns = [numbers, nothing, pred_probs, kept.chunks if kept.in_memory else nothing]
        work = self.inputs.work(partial(scan.pair_candidates, reader=reader))
        reached = self._margins_to_reach(reader, prune)
        with self._progress("margins", "read a third time") as bar:
            for stop in rounds(n_done, n_partitions, executor.all_threads):
                search = MarginSearch(prune, np.maximum(margins_to_exceed(found, prune.by_pair), reached))
                some = some_chunks(columns, n_done, stop)

                def find(search: MarginSearch = search, some: list[Column] = some, n: int = stop - n_done) -> list[Any]:
                    # With many pairs `search` has some megabytes, so it is sent to the workers once.
                    [shared] = executor.scatter([search])
                    return executor.map("margins", work, [*some, [shared] * n], bar)

                found, n_done = largest([found, *executor.unless_lost(find)], prune.by_pair), stop
                if records is not None:
                    scan.store_candidates(records, found, n_done)
        self.n_rescanned += found.n_read
        self.n_reads += 1
        rows: Int64s = np.unique(found.rows)
        return rows

    def _margins_to_reach(self, reader: SummaryReader, prune: PruneCounts) -> Float64s:
        """Return ``(P,)`` margins that all rows to select exceed, by the summaries, where these are in this process.

        Few rows are then compared in the third pass: it takes about half of the time.
        """
        if not self.kept.in_memory or self.executor.is_cluster:
            return np.full(len(prune.by_pair), -np.inf)
        shown = self._table(reader).reduce(
            "predicted-margins",
            predicted_candidates,
            lambda parts: largest(list(parts), prune.by_pair),
            prune=prune,
        )
        return margins_to_reach(shown, prune.by_pair)

    def _progress(self, name: str, description: str) -> AbstractContextManager[Progress | None]:
        row_bytes, on_cluster = self.inputs.read_row_bytes, self.executor.is_cluster
        rows = self.inputs.grid.partition_rows
        return progress_of(name, rows, description, show=self._show, row_bytes=row_bytes, on_cluster=on_cluster)


def rounds(n_done: int, n_partitions: int, n_threads: int) -> Iterator[int]:
    """Yield up to which partition each round of the third pass goes, from `n_done` on."""
    while n_done < n_partitions:
        most = max(n_threads, n_partitions // _ROUNDS)
        n_done = min(n_partitions, n_done + max(1, min(n_done, most)))
        yield n_done
