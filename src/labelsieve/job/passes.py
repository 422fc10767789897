"""The passes over `pred_probs`: the first makes the table of row summaries, later ones add to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Final, TypeVar

import numpy as np

from labelsieve.confident_learning import select as top_k_by_pair
from labelsieve.confident_learning.checks import DEFAULT_CHECKS, RowChecks
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.joint import PruneCounts
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import ScanTotals, combine_totals
from labelsieve.confident_learning.thresholds import Float64s, Int64s
from labelsieve.execution.executor import Executor
from labelsieve.execution.graph import Column, DaskJob, some_chunks
from labelsieve.execution.progress import Progress
from labelsieve.job import fork_pool, scan
from labelsieve.job import scan as rescan
from labelsieve.job import table as count_and_select
from labelsieve.job.grid import Span, spans
from labelsieve.job.inputs import Inputs, persist_if_it_fits, without_blocks
from labelsieve.job.kept import Records, RescanTotals, SummaryChunk, SummaryReader, combine_rescans
from labelsieve.job.table import RowSummaries
from labelsieve.storage.checked import DamagedRecordError

# A round of the third pass reads at most this share of the partitions, which is what a killed run reads again.
_ROUNDS: Final = 8

_T = TypeVar("_T")


class Passes:
    """The passes of one run over the partitions of its inputs.

    Parameters
    ----------
    inputs : Inputs
        What to read.
    rule : Filter
        Selects issues; says which passes and columns it needs.
    executor : Executor
        Who runs the tasks.
    records : Records, optional
        Where summaries are committed.
    keep : bool
        Whether summaries stay in memory, beside any records; without `records` they always do.
    show : bool or None
        Whether to show progress; None shows it on a terminal.
    checks : RowChecks
        Which rows that cannot be a distribution are accepted.
    finished : collection of int
        The partitions whose summaries are committed already. Their blocks of a user's Dask array are not computed.
    check_margins : callable
        Raises where the rows of largest margin do not fit in memory.
    """

    def __init__(
        self,
        inputs: Inputs,
        rule: Filter,
        executor: Executor,
        records: Records | None = None,
        show: bool | None = None,
        *,
        keep: bool = True,
        checks: RowChecks = DEFAULT_CHECKS,
        finished: Collection[int] = (),
        check_margins: Callable[[PruneCounts], None] = lambda _: None,
    ) -> None:
        self.inputs, self.rule, self.settings = inputs, rule, rule.settings
        self.job, self._show, self._checks = DaskJob(executor), show, checks
        self._records, self._stored = records, records is not None and not keep
        self._finished: dict[str, Collection[int]] = {"summaries": finished, "rescan": ()}
        self._check_margins = check_margins
        self._chunks: list[Any] = []
        self._reader: SummaryReader | None = None
        self._rescan_records: Records | None = None
        self.n_rescanned, self.n_reads = 0, 1

    @cached_property
    def _columns(self) -> list[Column]:
        """The arguments of tasks that read; arrays in memory are sent out once."""
        if self.rule.n_reads > 1:
            self.inputs = persist_if_it_fits(self.inputs, self.job.executor, self.rule.n_reads)
        return self.inputs.columns(self.job.executor)

    def _columns_without(self, finished: Collection[int]) -> list[Column]:
        """Return the same, without the blocks of finished partitions that Dask would have to compute."""
        return self._columns if self._is_stored else self._unfinished_columns(finished)

    @property
    def _is_stored(self) -> bool:
        """Whether no input is a Dask array of the user."""
        return bool(self.inputs.labels_source and self.inputs.pred_probs_source)

    def _unfinished_columns(self, finished: Collection[int]) -> list[Column]:
        numbers = range(self.inputs.grid.n_partitions)
        if len(finished) == len(numbers):  # a Dask array is not even persisted
            return [numbers, [None] * len(numbers), [None] * len(numbers)]
        return [numbers, *(without_blocks(column, self.inputs.grid, finished) for column in self._columns[1:])]

    def scan(self, n_forks: int = 0) -> ScanTotals:
        """Summarize all rows, in the first pass, and return what it adds up; in forked processes if there are any."""
        return self._reading_damaged("summaries", self._records, partial(self._scan, n_forks))

    def _reading_damaged(self, kind: str, records: Records | None, compute: Callable[[], _T]) -> _T:
        """Return ``compute()``. A user's Dask array has no blocks for records that an earlier run has committed.

        Where these turn out to be damaged, compute again with their blocks.
        """
        try:
            return compute()
        except DamagedRecordError:
            if records is None or self._is_stored:
                raise
            self._finished[kind] = self._committed(records, kind)
            return compute()

    def _scan(self, n_forks: int) -> ScanTotals:
        columns, work = self._columns_without(self._finished["summaries"]), self.inputs.work(self.scan_work)
        with self._progress("scan", "read") as bar:
            if n_forks:
                results = fork_pool.map_in_forks(self.inputs, self.scan_work, n_forks, advance=bar.advance)
                self._chunks, total = list(results), _combine_chunk_totals(results)
            elif self._stored:
                total = self.job.reduce("scan", work, combine_totals, columns, bar)
            else:
                self._chunks, total = self.job.persist("scan", work, columns, scan.totals_of, combine_totals, bar)
        return total

    @property
    def scan_work(self) -> Callable[..., Any]:
        """What reads a partition in the first pass."""
        if self._records is None:
            return partial(scan.scan, settings=self.settings)
        function = scan.scan_to_checkpoint if self._stored else scan.scan_and_commit
        return partial(function, settings=self.settings, records=self._records, checks=self._checks)

    def rescan(self, thresholds: Float64s) -> tuple[RowSummaries, RescanTotals | None]:
        """Return the table, and what a second pass adds up over `pred_probs`, where one is needed."""
        if self._stored and self.settings.rescans:
            self._rescan_records = self._records_of_thresholds(thresholds, "rescan")
            self._finished["rescan"] = [] if self._rescan_records is None else self._rescan_records.present("rescan")
        # The columns of a second pass are read back only if they are needed.
        needed = self.rule.needs_off_diagonal or self.settings.scores_need_rescan
        rescanned = self._rescan_records if needed else None
        self._reader = SummaryReader(self.settings, thresholds, self._records, rescanned, self.inputs.no_label)
        if not self.settings.rescans:
            return self._table(self._reader), None
        totals = self._reading_damaged("rescan", self._rescan_records, self._rescan)
        self.n_rescanned += totals.n_read
        self.n_reads += 1
        return self._table(self._reader), totals

    def _rescan(self) -> RescanTotals:
        with self._progress("rescan", "read again") as bar:
            if self._stored or self._reader is None:
                return self._rescan_to_checkpoint(bar)
            numbers, _, pred_probs = self._columns_without(())
            work = partial(rescan.rescan, reader=self._reader, keeps_off_diagonal=self.rule.needs_off_diagonal)
            columns = [numbers, [None] * len(self._chunks), pred_probs, self._chunks]
            self._chunks, total = self.job.persist(
                "rescan", self.inputs.work(work), columns, rescan.rescan_totals, combine_rescans, bar
            )
            if not self.job.executor.is_cluster:  # each chunk's counts are added up
                self._chunks = [replace(chunk, rescan=None) for chunk in self._chunks]
            return total

    def _rescan_to_checkpoint(self, progress: Progress) -> RescanTotals:
        if self._reader is None:
            raise RuntimeError("thresholds come first: call rescan()")
        numbers, _, pred_probs = self._columns_without(self._finished["rescan"])
        reader = replace(self._reader, rescan_records=self._rescan_records)
        work = self.inputs.work(partial(rescan.rescan_to_checkpoint, reader=reader))
        columns = [numbers, [None] * self.inputs.grid.n_partitions, pred_probs]
        return self.job.reduce("rescan", work, combine_rescans, columns, progress)

    def _table(self, reader: SummaryReader) -> RowSummaries:
        return RowSummaries(
            self.job,
            list[Any](self._spans) if self._stored else self._chunks,
            [span.stop - span.start for span in self._spans] if self._stored else self._partition_rows,
            reader,
            self.inputs.n_classes,
            self.inputs.dtype,
            stored=self._stored,
            show=self._show,
            read_margins=self._read_margins,
        )

    def first_table(self) -> RowSummaries:
        """Return the table of the first pass, without scores that need the thresholds."""
        return self._table(SummaryReader(Settings(), np.empty(0), self._records, no_label=self.inputs.no_label))

    @cached_property
    def _partition_rows(self) -> list[int]:
        return self.inputs.grid.partition_rows

    @cached_property
    def _spans(self) -> list[Span]:
        need = self.inputs.need(self.settings, self.rule)
        return spans(self.inputs.grid, need.row, self.job.executor.all_threads)

    def _records_of_thresholds(self, thresholds: Float64s, what: str) -> Records | None:
        """Return the records of what follows from the thresholds."""
        return None if self._records is None else self._records.of_version([what, thresholds.tolist()])

    def _read_margins(self, prune: PruneCounts) -> Int64s:
        """Read a third time for the rows of largest margin of each pair, and return their row numbers.

        In rounds, in row order, each of as many partitions as all before it: what those have found tells what the next
        ones can leave out, so no round returns more rows than are wanted, however many partitions there are.
        """
        if self._reader is None:
            raise RuntimeError("thresholds come first: call rescan()")
        self._check_margins(prune)
        records = self._records_of_thresholds(self._reader.thresholds, "margins") if self._stored else None
        found, n_done = (top_k_by_pair.Candidates.none(), 0) if records is None else rescan.stored_candidates(records)
        numbers, _, pred_probs = self._columns_without(range(n_done))
        nothing = [None] * self.inputs.grid.n_partitions
        columns = [numbers, nothing, pred_probs, nothing if self._stored else self._chunks]
        work = self.inputs.work(partial(rescan.pair_candidates, reader=self._reader))
        executor, reached = self.job.executor, self._margins_to_reach(prune)
        with self._progress("margins", "read a third time") as bar:
            for stop in rounds(n_done, self.inputs.grid.n_partitions, executor.all_threads):
                margins = np.maximum(top_k_by_pair.margins_to_exceed(found, prune.by_pair), reached)
                search = top_k_by_pair.MarginSearch(prune, margins)
                some = some_chunks(columns, n_done, stop)

                def find(
                    search: top_k_by_pair.MarginSearch = search,
                    some: list[Column] = some,
                    n_chunks: int = stop - n_done,
                ) -> list[Any]:
                    # With many pairs `search` has some megabytes, so it is sent to the workers once.
                    [shared] = executor.scatter([search])
                    return self.job.map("margins", work, [*some, [shared] * n_chunks], bar)

                parts = executor.unless_lost(find)
                found, n_done = top_k_by_pair.largest([found, *parts], prune.by_pair), stop
                if records is not None:
                    rescan.store_candidates(records, found, n_done)
        self.n_rescanned += found.n_read
        self.n_reads += 1
        rows: Int64s = np.unique(found.rows)
        return rows

    def _margins_to_reach(self, prune: PruneCounts) -> Float64s:
        """Return ``(P,)`` margins that all rows to select exceed, by the summaries, where these are in this process.

        Few rows are then compared in the third pass: it takes about half of the time.
        """
        if self._stored or self._reader is None or self.job.executor.is_cluster:
            return np.full(len(prune.by_pair), -np.inf)
        shown = self._table(self._reader).reduce(
            "predicted-margins",
            count_and_select.predicted_candidates,
            lambda parts: top_k_by_pair.largest(list(parts), prune.by_pair),
            prune=prune,
        )
        return top_k_by_pair.margins_to_reach(shown, prune.by_pair)

    def _committed(self, records: Records, kind: str) -> list[int]:
        """Return the partitions whose record is there and whole."""
        numbers = range(self.inputs.grid.n_partitions)
        whole = self.job.map("verify", partial(records.is_committed, kind=kind), [numbers, self._partition_rows])
        return list(itertools.compress(numbers, whole))

    def _progress(self, name: str, description: str) -> Progress:
        return Progress(
            name,
            self._partition_rows,
            description,
            show=self._show,
            row_bytes=self.inputs.read_row_bytes,
            on_cluster=self.job.executor.is_cluster,
        )


def _combine_chunk_totals(parts: Iterable[SummaryChunk | ScanTotals]) -> ScanTotals:
    """Fold the totals of consecutive chunks, or totals that were folded before."""
    return combine_totals(part.totals if isinstance(part, SummaryChunk) else part for part in parts)


def rounds(n_done: int, n_partitions: int, n_threads: int) -> Iterator[int]:
    """Yield up to which partition each round of the third pass goes, from `n_done` on."""
    while n_done < n_partitions:
        most = max(n_threads, n_partitions // _ROUNDS)
        n_done = min(n_partitions, n_done + max(1, min(n_done, most)))
        yield n_done
