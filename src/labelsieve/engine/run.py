"""The maps and reductions of a run.

Covers: one task a partition for each map, the rounds of the ranking, where summaries, scores and issues stay.
Does not cover: what a task does (`tasks`, `runs`), the inputs (`engine.inputs`), who runs the tasks
(`engine.executors`).

Summaries stay in memory where they were made, and the later maps run on partitions; or they are only in the records of
a workdir, and the later maps run on spans of rows, each of some partitions and of whole stored chunks of the result.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve import ranking, rereads, runs, tasks
from labelsieve.engine.choice import choose_executor
from labelsieve.engine.executors import Executor, LostDataError
from labelsieve.engine.inputs import Inputs, read_twice
from labelsieve.engine.readers import OnSummaries
from labelsieve.kernels import class_dtype
from labelsieve.memory import Span, run_rows, spans
from labelsieve.progress import Progress
from labelsieve.reductions import Float64s, adjusted_thresholds
from labelsieve.results import IssueRows, ScoreParts
from labelsieve.settings import Settings
from labelsieve.storage import Folder
from labelsieve.stored import ResultGroup, StoredIssues
from labelsieve.workdir import Partial, Records, digest

if TYPE_CHECKING:
    import dask.array as da

# Partitions or spans whose scores are fetched at a time, where not all are wanted at once.
_BLOCK_ITEMS: Final = 16


def each_partition(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition, label_blocks, pred_probs_blocks)`` of every partition, in row order.

    A single partition is worked on here and now: a graph would only add to the time of a small batch.
    """
    if inputs.grid.n_partitions == 1 and inputs.labels_source and inputs.pred_probs_source:
        return [function(inputs.partition(0))]
    executor = choose_executor()
    return executor.gather("inspect", inputs.reader(function), inputs.columns(executor))


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
    allow_zero_rows : bool
        Whether rows that are all zeros are good.
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
        allow_zero_rows: bool = False,
    ) -> None:
        self._allow_zero_rows, self._stored = allow_zero_rows, records is not None and not keep
        self.settings, self._executor, self._records, self._show = settings, executor, records, progress
        self.inputs = read_twice(inputs, executor) if settings.scores_need_reread else inputs
        bounds = [inputs.grid.bounds(index) for index in range(inputs.grid.n_partitions)]
        self._rows = [stop - start for start, stop in bounds]
        self._kept: list[Any] = []
        self._columns: list[Sequence[Any]] = []  # handed out once, for both reads
        self._finish: tasks.Finish | None = None
        self.n_reread = 0

    def read(self) -> Partial:
        """Summarise every partition, once, and return the class sums and findings of all."""
        for _ in range(self._executor.retries if self.inputs.in_memory else 0):
            try:
                return self._read()
            except LostDataError:
                continue  # the slices of an array in memory go with the worker that held them: hand them out again
        return self._read()

    def _read(self) -> Partial:
        self._columns = self.inputs.columns(self._executor)
        reader, columns = self.inputs.reader(self.summarise), self._columns
        with self.reading() as bar:
            if self._stored:
                total = self._executor.reduce("summarise", reader, tasks.combine_partials, columns, bar)
            else:
                self._kept, total = self._executor.keep(
                    "summarise", reader, columns, tasks.partial_of, tasks.combine_partials, bar
                )
        result: Partial = total
        return result

    @property
    def summarise(self) -> Callable[..., tasks.Summarised]:
        """What reads a partition."""
        return partial(
            tasks.summarise,
            settings=self.settings,
            records=self._records,
            keep=not self._stored,
            allow_zero_rows=self._allow_zero_rows,
        )

    def reading(self) -> Progress:
        """Return the bar of the pass that reads."""
        return self._progress("summarise", "read")

    def adopt(self, summarised: Sequence[tasks.Summarised]) -> Partial:
        """Take in what was read elsewhere, a summary for each partition."""
        if not self._stored:
            self._kept = list(summarised)
        return tasks.combine_partials(summarised)

    def score(self, thresholds: Float64s) -> None:
        """Finish the scores that need the thresholds first, reading again only for adjusted margins."""
        scored = None
        if self._records is not None and self.settings.scores_need_reread:
            scored = Records(self._records.folder, digest({"of": self._records.fingerprint, "t": thresholds.tolist()}))
        self._finish = tasks.Finish(self.settings, thresholds, self._records, scored)
        if not self.settings.scores_need_reread:
            return
        numbers, _, blocks = self._columns or self.inputs.columns(self._executor)
        nothing = [None] * len(self._rows)
        with self._progress("score", "read again") as bar:
            if self._stored:
                reader = self.inputs.reader(partial(rereads.store_reread, finish=self._finish))
                read = self._executor.gather("score", reader, [numbers, nothing, blocks], bar)
                self.n_reread = sum(read)
            else:
                reader = self.inputs.reader(partial(rereads.score_reread, finish=self._finish))
                self._kept, _ = self._executor.keep(
                    "score", reader, [numbers, nothing, blocks, self._kept], progress=bar
                )
                self.n_reread = self.inputs.grid.n_rows

    def count(self, thresholds: Float64s) -> tasks.Counted:
        """Return the issue counts and the histogram of all scores."""
        work = self._work(tasks.count, adj_thresholds=adjusted_thresholds(thresholds))
        with self._progress("issue-counts", "threshold") as bar:
            total: tasks.Counted = self._executor.reduce(
                "issue-counts", work, tasks.combine_counted, [self._items], bar
            )
        return total

    def select(self, histogram: ranking.Int64s, wanted: int) -> IssueRows:
        """Return the `wanted` lowest rows, by (score, row), without those whose label is predicted or nearly so."""
        if wanted < 1:
            return IssueRows.none(self.wide_dtype, class_dtype(self.inputs.n_classes), self.inputs.dtype)
        cut = ranking.find_cut(histogram, wanted, 8 * self._score_dtype.itemsize, self._histogram_within)
        quotas: list[int | None] = [None] * len(self._items)
        if not cut.shift and cut.inside > wanted - cut.below:
            cut, exact = self._settle(cut, wanted)
            quotas = list(exact)
        with self._progress("select", "rank") as bar:
            work = self._work(tasks.select, cut=cut)
            return tasks.rank(self._executor.gather("select", work, [self._items, quotas], bar), wanted)

    def write(
        self, histogram: ranking.Int64s, wanted: int, group: ResultGroup, scratch: Folder, room: int, *, rows_too: bool
    ) -> StoredIssues:
        """Let the tasks write the issues of `select` into `group`, and the scores and the mask too if asked.

        `scratch` takes the sorted runs until they are merged; `room` is what a thread may take to sort one.
        """
        n_rows = self.inputs.grid.n_rows
        scratch.remove("runs")  # of a run that was killed
        folder = scratch.folder("runs").folder(uuid.uuid4().hex)
        cut, quotas = ranking.Cut(0, 0, 0, 0), [0] * len(self._items)
        if wanted >= 1:
            cut = ranking.find_cut(histogram, wanted, 8 * self._score_dtype.itemsize, self._histogram_within)
            cut, quotas = self._settle(cut, wanted)
        if rows_too:
            group.create_rows(n_rows, self.wide_dtype)
        rows = run_rows(wanted, room)
        work = self._work(
            runs.write_rows, cut=cut, n_rows=n_rows, run_rows=rows, folder=folder, group=group if rows_too else None
        )
        with self._progress("select", "rank") as bar:
            written = self._executor.gather("select", work, [self._items, quotas], bar)
        issues = self._merge([run for part in written for run in part], rows, folder, group)
        scratch.remove("runs")
        return issues

    def _merge(self, sorted_runs: list[runs.SortedRun], rows: int, folder: Folder, group: ResultGroup) -> StoredIssues:
        n_issues = sum(run.n_rows for run in sorted_runs)
        classes = class_dtype(self.inputs.n_classes)
        dtypes = [np.dtype(np.int64), self.wide_dtype, classes, classes, self.inputs.dtype, self.inputs.dtype]
        names = list(IssueRows.none(np.float32, classes, np.float32).columns())
        group.create_issues(n_issues, rows, dict(zip(names, dtypes, strict=True)))
        if n_issues:
            cuts = runs.range_cuts(sorted_runs, rows // 2)
            files = [run.name for run in sorted_runs]
            before = self._executor.gather("rank", partial(runs.rows_before, folder=folder, cuts=cuts), [files])
            names, stretches = runs.stretches(sorted_runs, before, rows, folder)
            work = OnSummaries(partial(runs.merge, names=names, folder=folder, group=group), folder.where)
            rows_of = [work.n_rows(stretch) for stretch in stretches]
            with Progress("merge", rows_of, "write", show=self._show, on_cluster=self._executor.is_cluster) as bar:
                self._executor.gather("merge", work, [stretches], bar)
        return StoredIssues(group, n_issues)

    def scores(self) -> ScoreParts:
        """Return the scores of all rows: lazily where summaries are stored or on a cluster; no other column is kept."""
        if self._stored or self._executor.is_cluster:
            rows = [i.stop - i.start for i in self._items] if self._stored else self._rows
            work = self._work(tasks.all_scores)
            return TaskScores(self._executor, work, self._items, rows, self.wide_dtype, in_store=self._stored)
        parts, work = [], self._work(tasks.all_scores)
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
    def wide_dtype(self) -> np.dtype[Any]:
        """Dtype of the scores as they are given out."""
        wide: np.dtype[Any] = np.promote_types(self._score_dtype, np.float32)
        return wide

    def _work(self, function: Callable[..., Any], **shared: Any) -> Callable[..., Any]:
        if self._finish is None:
            raise RuntimeError("thresholds come first: call score()")
        where = self._records.folder.where if self._stored and self._records is not None else "memory"
        return OnSummaries(partial(function, finish=self._finish, **shared), where)

    def _settle(self, cut: ranking.Cut, wanted: int) -> tuple[ranking.Cut, list[int]]:
        ties = self._executor.gather("ties", self._work(tasks.scores_inside, cut=cut), [self._items])
        return ranking.settle(cut, wanted, ties)

    def _histogram_within(self, cut: ranking.Cut) -> ranking.Int64s:
        work = self._work(tasks.histogram_within, cut=cut)
        total: ranking.Int64s = self._executor.reduce("histogram", work, tasks.add_up, [self._items])
        return total

    def _progress(self, layer: str, description: str) -> Progress:
        counted = layer in ("summarise", "score") or not self._stored
        rows = self._rows if counted else [span.stop - span.start for span in self._items]
        reads = layer in ("summarise", "score")
        row_bytes = self.inputs.n_classes * self.inputs.dtype.itemsize if reads else 0
        return Progress(
            layer, rows, description, show=self._show, row_bytes=row_bytes, on_cluster=self._executor.is_cluster
        )


@dataclass(frozen=True)
class ArrayScores:
    """Scores of all rows in this process, a part a partition."""

    parts: Sequence[ranking.Scores]
    in_store: bool = False

    def to_numpy(self) -> ranking.Scores:
        """Return them as ``(N,)`` in memory."""
        return np.concatenate(self.parts)

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        return da.concatenate([da.from_array(part, chunks=-1) for part in self.parts])

    def blocks(self) -> Iterator[ranking.Scores]:
        """Yield them in row order, a partition at a time."""
        yield from self.parts


@dataclass(frozen=True)
class TaskScores:
    """Scores of all rows, made from the summaries where these are.

    Parameters
    ----------
    executor : Executor
        Who makes them.
    work : callable
        Gives the scores of an item.
    items : sequence
        Partitions or spans.
    rows : sequence of int
        Rows of each.
    dtype : dtype
        Of all.
    in_store : bool
        Whether items are spans of what is in a workdir; else they are handles of what workers hold.
    """

    executor: Executor
    work: Callable[..., Any]
    items: Sequence[Any]
    rows: Sequence[int]
    dtype: np.dtype[Any]
    in_store: bool

    def to_numpy(self) -> ranking.Scores:
        """Return them as ``(N,)`` in memory."""
        return np.concatenate(self.executor.gather("scores", self.work, [self.items]))

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask
        import dask.array as da

        work = dask.delayed(self.work, pure=False, traverse=False)
        parts = (work(item) for item in self.items)
        return da.concatenate(
            [da.from_delayed(part, (n,), dtype=self.dtype) for part, n in zip(parts, self.rows, strict=True)]
        )

    def blocks(self) -> Iterator[ranking.Scores]:
        """Yield them in row order, some partitions or spans at a time."""
        for start in range(0, len(self.items), _BLOCK_ITEMS):
            yield from self.executor.gather("scores", self.work, [self.items[start : start + _BLOCK_ITEMS]])
