"""The maps and reductions of a run.

Summaries stay in memory where they were made, and the later maps run on partitions; or they are only in the records of
a workdir, and the later maps run on spans of rows, each of some partitions and of whole stored chunks of the result.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.agreement import RowSample
from labelsieve.confident_learning.pruning import PruneCounts
from labelsieve.confident_learning.row_summary import Ints, class_dtype
from labelsieve.confident_learning.selections import Selection
from labelsieve.confident_learning.thresholds import Float64s, Int64s, SparseClassSums, adjusted_thresholds
from labelsieve.confident_learning.validation import DEFAULT_CHECKS, RowChecks
from labelsieve.execution.executor import Executor
from labelsieve.execution.progress import Progress
from labelsieve.memory import Span, run_rows, spans
from labelsieve.pipeline import selecting
from labelsieve.pipeline.inputs import Inputs, keep_for_rereads, without_blocks
from labelsieve.pipeline.repairs import check_same, committed, redoing_damaged
from labelsieve.pipeline.score_parts import ArrayScores, TaskScores
from labelsieve.pipeline.selecting import Selected
from labelsieve.results.result import IssueRows, ScoreParts
from labelsieve.results.zarr_store import ResultGroup, StoredIssues
from labelsieve.settings import Settings
from labelsieve.storage.folders import Folder
from labelsieve.tasks import external_sort, rescan, scan
from labelsieve.tasks.checkpoint import Records, digest
from labelsieve.tasks.partials import Looked, Partial
from labelsieve.tasks.readers import OnSummaries


class Run:
    """One job: the maps and reductions over the partitions of `inputs`.

    Parameters
    ----------
    inputs : Inputs
        What to read.
    settings : Settings
        What to find.
    executor : Executor
        Who runs the tasks.
    records : Records, optional
        Where summaries are committed.
    keep : bool
        Whether summaries stay in memory, beside any records; without `records` they always do.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.
    checks : RowChecks
        Which rows that cannot be a distribution are accepted.
    finished : mapping, optional
        The partitions that are committed already, by the kind of record: of a user's Dask array, their blocks are not
        computed.
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: Settings,
        executor: Executor,
        records: Records | None = None,
        progress: bool | None = None,
        *,
        keep: bool = True,
        checks: RowChecks = DEFAULT_CHECKS,
        finished: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        self._checks, self._stored = checks, records is not None and not keep
        self.settings, self._executor, self._records, self._show = settings, executor, records, progress
        self.inputs, self._finished = inputs, dict(finished or {})
        self._again: Records | None = None
        self._sums: SparseClassSums | None = None
        bounds = [inputs.grid.bounds(index) for index in range(inputs.grid.n_partitions)]
        self._rows = [stop - start for start, stop in bounds]
        self._kept: list[Any] = []
        self._finish: scan.Finish | None = None
        self.n_reread, self.n_reads = 0, 1

    @property
    def n_threads(self) -> int:
        """Threads of a process that reads."""
        return self._executor.n_threads

    @cached_property
    def _columns(self) -> list[Sequence[Any]]:
        """The arguments of tasks that read: numbers, blocks of labels and of pred_probs; handed out once."""
        if self.settings.n_reads > 1:
            self.inputs = keep_for_rereads(self.inputs, self._executor, self.settings.n_reads)
        return self.inputs.columns(self._executor)

    def _columns_but(self, finished: Collection[int]) -> list[Sequence[Any]]:
        """Return the same, with no blocks for finished partitions where Dask would have to compute them."""
        if self.inputs.labels_source and self.inputs.pred_probs_source:
            return self._columns
        if len(finished) == (n := self.inputs.grid.n_partitions):
            return [range(n), [None] * n, [None] * n]
        return without_blocks(self._columns, frozenset(finished))

    @redoing_damaged
    def read(self) -> Partial:
        """Summarise every partition, once, and return the class sums and findings of all."""
        columns = self._columns_but(self._finished.get("summaries", ()))
        reader = self.inputs.reader(self.summarise)
        with self.reading() as bar:
            if self._stored:
                total = self._executor.reduce("summarise", reader, scan.combine_partials, columns, bar)
            else:
                self._kept, total = self._executor.keep(
                    "summarise", reader, columns, scan.partial_of, scan.combine_partials, bar
                )
        result: Partial = total
        self._sums = result.sums
        return result

    @property
    def summarise(self) -> Callable[..., scan.Summarised]:
        """What reads a partition."""
        return partial(
            scan.summarise,
            settings=self.settings,
            records=self._records,
            keep=not self._stored,
            checks=self._checks,
        )

    def reading(self) -> Progress:
        """Return the bar of the pass that reads."""
        return self._progress("summarise", "read")

    def adopt(self, summarised: Sequence[scan.Summarised]) -> Partial:
        """Take in what was read elsewhere, a summary for each partition."""
        if not self._stored:
            self._kept = list(summarised)
        total = scan.combine_partials(summarised)
        self._sums = total.sums
        return total

    @redoing_damaged
    def reread(self, thresholds: Float64s) -> Looked | None:
        """Read again for what needs the thresholds and whole rows, and return what that tells; None if nothing does."""
        settings = self.settings
        self._again = self._of_thresholds(thresholds, "again") if self._stored and settings.reads_twice else None
        finish = scan.Finish(settings, thresholds, self._records, self._again)
        # What is told of rows is read back only where it is asked for.
        asked = settings.keeps_off_joint or settings.scores_need_reread
        self._finish = finish if asked else replace(finish, again=None)
        if not settings.reads_twice:
            return None
        with self._progress("reread", "read again") as bar:
            if self._stored:
                looked = self._store_reread(finish, bar)
            else:
                columns = self._reread_columns()
                reader = self.inputs.reader(partial(rescan.reread, finish=finish))
                self._kept, looked = self._executor.keep(
                    "reread", reader, columns, rescan.looked_of, rescan.combine_looked, bar
                )
                if not self._executor.is_cluster:  # it is added up
                    self._kept = [replace(summarised, looked=None) for summarised in self._kept]
        self.n_reread += looked.n_read
        self.n_reads += 1
        result: Looked = looked
        return result

    def _of_thresholds(self, thresholds: Float64s, what: str) -> Records | None:
        """Return the records of what follows from the thresholds."""
        if self._records is None:
            return None
        facts = {"of": self._records.fingerprint, "t": thresholds.tolist(), "what": what}
        return Records(self._records.folder, digest(facts))

    def _reread_columns(self, finished: Collection[int] = ()) -> list[Sequence[Any]]:
        """Return the arguments of tasks that read again: numbers, no labels, blocks, what is kept of partitions."""
        numbers, _, blocks = self._columns_but(finished)
        nothing = [None] * len(self._rows)
        return [numbers, nothing, blocks, nothing if self._stored else self._kept]

    def redo_damaged(self) -> None:
        """Make damaged records again, from the input; before the first pass ends, it does that itself."""
        if self._records is None:
            return
        self._finished["summaries"] = committed(self._executor, self._records, "summaries", self.inputs.grid)
        if self._finish is None:
            return
        columns, reader = self._columns_but(self._finished["summaries"]), self.inputs.reader(self.summarise)
        total = self._executor.reduce("summarise", reader, scan.combine_partials, columns)
        self.n_reread += total.n_read
        check_same(total.sums, self._sums, reader.where, self._records)
        if self._again is not None:
            self._finished["rereads"] = committed(self._executor, self._again, "rereads", self.inputs.grid)
            self.n_reread += self._store_reread(replace(self._finish, again=self._again)).n_read

    def _store_reread(self, finish: scan.Finish, progress: Progress | None = None) -> Looked:
        columns = self._reread_columns(self._finished.get("rereads", ()))[:3]
        reader = self.inputs.reader(partial(rescan.store_reread, finish=finish))
        looked: Looked = self._executor.reduce("reread", reader, rescan.combine_looked, columns, progress)
        return looked

    @redoing_damaged
    def count(self, thresholds: Float64s) -> scan.Counted:
        """Return the issue counts and the histogram of all scores, as far as the settings ask for them."""
        if not self.settings.counts_summaries:
            return scan.Counted(None, None, None)
        work = self._work(scan.count, adj_thresholds=adjusted_thresholds(thresholds))
        with self._progress("issue-counts", "threshold") as bar:
            total: scan.Counted = self._executor.reduce("issue-counts", work, scan.combine_counted, [self._items], bar)
        return total

    @redoing_damaged
    def sampled_classes(self, sample: RowSample) -> tuple[Ints, Ints]:
        """Return the labels and predicted classes of the rows of `sample`, in row order."""
        finish = scan.Finish(Settings(), np.empty(0), self._records)  # as they were read: no score is needed
        work = self._work(scan.sampled_classes, finish, sample=sample)
        labels, predicted = zip(*self._executor.gather("agreement", work, [self._items]), strict=True)
        return np.concatenate(labels), np.concatenate(predicted)

    @redoing_damaged
    def lowest(self, histogram: radix_select.Int64s | None, wanted: int, *, exactly: bool) -> Selected:
        """Choose the `wanted` rows of lowest score; see `selecting.lowest`."""
        n_bits = 8 * self._cut_dtype.itemsize
        return selecting.lowest(
            self._executor, self._work, self._items, self.settings, histogram, wanted, n_bits, exactly=exactly
        )

    def all_that(self, selection: Selection, n_rows: int) -> Selected:
        """Choose what can be told of each row by itself."""
        return Selected(selection, [None] * len(self._items), n_rows)

    @redoing_damaged
    def lowest_of_classes(self, wanted: Int64s, class_counts: Int64s) -> Selected:
        """Choose so many rows of lowest probability of the given label of each class."""
        n_bits = 8 * self.inputs.dtype.itemsize
        return selecting.lowest_of_classes(self._executor, self._work, self._items, wanted, class_counts, n_bits)

    @redoing_damaged
    def largest_margins(self, prune: PruneCounts) -> Selected:
        """Choose so many rows of largest margin of each pair of classes, in a third read."""
        if self._finish is None:
            raise RuntimeError("thresholds come first: call reread()")
        starts = [item.start for item in self._spans] if self._stored else np.cumsum([0, *self._rows[:-1]]).tolist()
        starts = [*starts, self.inputs.grid.n_rows]
        if not len(prune.of_pair):
            return selecting.these_rows(np.empty(0, np.int64), starts)
        records = self._of_thresholds(self._finish.thresholds, "margins") if self._stored else None
        before = None if records is None else rescan.stored_candidates(records)
        numbers, nothing, blocks, kept = self._reread_columns(range(before[1]) if before else ())
        found = selecting.largest_margins(
            self._executor,
            self.inputs.reader,
            [numbers, nothing, blocks, kept],
            prune,
            partial(rescan.pair_candidates, finish=self._finish),
            self._progress("margins", "read a third time"),
            records,
            before,
        )
        self.n_reread += found.n_read
        self.n_reads += 1
        return selecting.these_rows(np.unique(found.rows), starts)

    @redoing_damaged
    def select(self, selected: Selected) -> IssueRows:
        """Return the selected rows by (score, row), without those whose label is predicted or nearly so."""
        if not selected.n_rows:
            return IssueRows.none(self.wide_dtype, class_dtype(self.inputs.n_classes), self.inputs.dtype)
        with self._progress("select", "rank") as bar:
            work = self._work(scan.select, selection=selected.selection)
            parts = self._handed(selected, lambda own: self._executor.gather("select", work, [self._items, own], bar))
        return scan.rank(parts, selected.n_rows, self.settings)

    def write(
        self, selected: Selected, group: ResultGroup, scratch: Folder, room: int, *, rows_too: bool
    ) -> StoredIssues:
        """Let the tasks write the issues of `select` into `group`, and the scores and the mask too if asked.

        `scratch` takes the sorted runs until they are merged; `room` is what a thread may take to sort one.
        """
        n_rows = self.inputs.grid.n_rows
        scratch.remove("runs")  # of a run that was killed
        folder = scratch.folder("runs").folder(uuid.uuid4().hex)
        if rows_too:
            group.create_rows(n_rows, self.wide_dtype)
        rows = run_rows(selected.n_rows, room)
        work = self._work(
            external_sort.write_rows,
            selection=selected.selection,
            n_rows=n_rows,
            run_rows=rows,
            folder=folder,
            group=group if rows_too else None,
        )
        issues = self._merge([run for part in self._written(selected, work) for run in part], rows, folder, group)
        folder.delete()
        if not scratch.folder("runs").names():  # a later run in an object store may have some there
            scratch.remove("runs")
        return issues

    @redoing_damaged
    def _written(self, selected: Selected, work: Callable[..., Any]) -> list[list[external_sort.SortedRun]]:
        with self._progress("select", "rank") as bar:
            return self._handed(
                selected, lambda parts: self._executor.gather("select", work, [self._items, parts], bar)
            )

    def _handed(self, selected: Selected, function: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        """Return what `function` makes of the selection's parts, as the tasks' arguments."""
        if not selected.scattered:
            return function(selected.parts)
        return self._executor.unless_lost(lambda: function(selected.handed_out(self._executor)))

    def _merge(
        self, sorted_runs: list[external_sort.SortedRun], rows: int, folder: Folder, group: ResultGroup
    ) -> StoredIssues:
        n_issues = sum(run.n_rows for run in sorted_runs)
        classes = class_dtype(self.inputs.n_classes)
        dtypes = [np.dtype(np.int64), self.wide_dtype, classes, classes, self.inputs.dtype, self.inputs.dtype]
        names = list(IssueRows.none(np.float32, classes, np.float32).columns())
        group.create_issues(n_issues, rows, dict(zip(names, dtypes, strict=True)))
        if n_issues:
            cuts = external_sort.range_cuts(sorted_runs, rows // 2)
            files = [run.name for run in sorted_runs]
            before = self._executor.gather(
                "rank", partial(external_sort.rows_before, folder=folder, cuts=cuts), [files]
            )
            names, stretches = external_sort.stretches(sorted_runs, before, rows, folder)
            work = OnSummaries(partial(external_sort.merge, names=names, folder=folder, group=group), folder.where)
            rows_of = [work.n_rows(stretch) for stretch in stretches]
            with Progress("merge", rows_of, "write", show=self._show, on_cluster=self._executor.is_cluster) as bar:
                self._executor.gather("merge", work, [stretches], bar)
        return StoredIssues(group.sealed(), n_issues)

    def scores(self) -> ScoreParts:
        """Return the scores of all rows: lazily where summaries are stored or on a cluster; no other column is kept."""
        if self._stored or self._executor.is_cluster:
            rows = [i.stop - i.start for i in self._items] if self._stored else self._rows
            work = self._work(scan.all_scores)
            return TaskScores(self._executor, work, self._items, rows, self.wide_dtype, in_store=self._stored)
        parts, work = [], self._work(scan.all_scores)
        for index, summarised in enumerate(self._kept):
            parts.append(work(summarised))
            self._kept[index] = None  # let go of a partition's summaries before the next one's scores are copied
        return ArrayScores(parts)

    @property
    def _items(self) -> list[Any]:
        """What the maps after the first one run on: handles of partitions, or spans."""
        return self._spans if self._stored else self._kept

    @cached_property
    def _spans(self) -> list[Span]:
        need = self.inputs.need(self.settings)
        return spans(self.inputs.grid, need.row, self._executor.all_threads)

    @property
    def _score_dtype(self) -> np.dtype[Any]:
        return self.inputs.dtype if self.settings.plain_self_confidence else np.dtype(np.float64)

    @property
    def _cut_dtype(self) -> np.dtype[Any]:
        """Dtype of the scores that a cut is made on."""
        by = self.settings.filter_by
        if by is None:
            return self._score_dtype
        return self.inputs.dtype if by == "low_self_confidence" else np.dtype(np.float64)

    @property
    def wide_dtype(self) -> np.dtype[Any]:
        """Dtype of the scores as they are given out."""
        wide: np.dtype[Any] = np.promote_types(self._score_dtype, np.float32)
        return wide

    def _work(
        self, function: Callable[..., Any], finish: scan.Finish | None = None, **shared: Any
    ) -> Callable[..., Any]:
        finish = finish or self._finish
        if finish is None:
            raise RuntimeError("thresholds come first: call reread()")
        where = self._records.folder.where if self._stored and self._records is not None else "memory"
        return OnSummaries(partial(function, finish=finish, **shared), where)

    def _progress(self, layer: str, description: str) -> Progress:
        reads = layer in ("summarise", "reread", "margins")
        rows = self._rows if reads or not self._stored else [span.stop - span.start for span in self._items]
        row_bytes = self.inputs.n_classes * self.inputs.dtype.itemsize if reads else 0
        return Progress(
            layer, rows, description, show=self._show, row_bytes=row_bytes, on_cluster=self._executor.is_cluster
        )
