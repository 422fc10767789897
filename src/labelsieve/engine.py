"""The one place that lays the flow on Dask.

Covers: opening sources as Dask arrays, partition tasks that stream batches, tree reductions, and the ranking's rounds.
Does not cover: any arithmetic (`kernels`, `scores`, `reductions`, `ranking`), the fork pool (`forkpool`).

A run is three maps over partitions, with a K-sized reduction after each: *summarise* reads the rows, *count* holds their
summaries against the thresholds, *select* returns the rows up to the cut. Summaries stay where they were made. Whatever
scheduler Dask is set to does the work: threads, processes, or the active client.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import dask
import dask.array as da
import numpy as np
import psutil
from dask.delayed import Delayed, delayed
from dask.system import CPU_COUNT

from labelsieve import memory, ranking
from labelsieve.errors import LabelsieveWarning
from labelsieve.kernels import RowSummary, class_dtype
from labelsieve.partitions import (
    Partial,
    Partition,
    Summarised,
    combine_partials,
    partial_of,
    score_adjusted,
    score_reread,
    scores_of,
    summarise,
    wide_scores_of,
    widened,
)
from labelsieve.progress import Progress
from labelsieve.reductions import Float64s, IssueCounts, adjusted_thresholds, issue_counts_chunk, issue_counts_combine
from labelsieve.results import IssueRows
from labelsieve.settings import Settings
from labelsieve.sources import ArraySource, Opened, Source

# Partials that one task of a tree reduction folds.
_TREE_WIDTH: Final = 16
# A Dask array that must be read twice is kept where it takes at most this share of the free memory.
_PERSIST_SHARE: Final = 0.3


@dataclass(frozen=True)
class Inputs:
    """Both inputs as Dask arrays of one chunk a batch, and the partitions that stream them.

    Parameters
    ----------
    labels : dask.array.Array
        ``(N,)``, chunked like the rows of `pred_probs`.
    pred_probs : dask.array.Array
        ``(N, K)``, every chunk spanning all K.
    labels_source, pred_probs_source : Source or None
        What the tasks read; None where a user's own Dask array has to be computed.
    grid : memory.Grid
        Batches and partitions.
    """

    labels: da.Array
    pred_probs: da.Array
    labels_source: Source | None
    pred_probs_source: Source | None
    grid: memory.Grid

    @property
    def n_classes(self) -> int:
        """Columns of `pred_probs`."""
        return int(self.pred_probs.shape[1])

    def partitions(self) -> list[Partition]:
        """Return the partitions in row order."""
        return [
            Partition(ranges, self.n_classes, self.pred_probs.dtype, self.labels_source, self.pred_probs_source)
            for ranges in self.grid.partitions()
        ]


def open_inputs(
    labels: Opened,
    pred_probs: Opened,
    *,
    batch_size: int | memory.Auto = "auto",
    partition_batches: int | memory.Auto = "auto",
) -> Inputs:
    """Lay opened labels and probabilities out on one grid of batches; reads nothing but coarsely stored labels."""
    n_threads = n_workers()
    if isinstance(pred_probs, da.Array):
        # Validates the sizes too; a user's Dask array then keeps its own row chunks.
        grid = memory.plan_grid(len(pred_probs), 1, None, 1, batch_size=batch_size, partition_batches=partition_batches)
        pred_probs = _whole_rows(pred_probs)
        grid = _dask_grid(pred_probs, n_threads, partition_batches)
        probs_source = None
    else:
        grid = memory.plan_grid(
            pred_probs.n_rows,
            pred_probs.row_bytes,
            pred_probs.row_chunk,
            n_threads,
            batch_size=batch_size,
            partition_batches=partition_batches,
        )
        probs_source = pred_probs
        pred_probs = as_dask_array("pred-probs", pred_probs, grid)
    if isinstance(labels, da.Array):
        return Inputs(labels.rechunk((grid.batch_rows,)), pred_probs, None, probs_source, grid)
    partition_rows = max(grid.batch_rows) * grid.partition_batches
    if labels.row_chunk and labels.row_chunk > partition_rows:
        # One stored chunk of labels spans several partitions, each of which would decode it again.
        labels = ArraySource(labels[:])
    return Inputs(as_dask_array("labels", labels, grid), pred_probs, labels, probs_source, grid)


def as_dask_array(name: str, source: Source, grid: memory.Grid) -> da.Array:
    """Return a lazy Dask array over `source`, with one chunk a batch of `grid`."""
    chunks = (grid.batch_rows, *((size,) for size in source.shape[1:]))
    return da.from_array(
        source, chunks=chunks, name=f"{name}-{_token()}", asarray=False, meta=np.empty((0,) * source.ndim, source.dtype)
    )


def n_workers() -> int:
    """Return how many threads Dask's local scheduler uses."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def _token() -> str:
    return uuid.uuid4().hex


def _whole_rows(array: da.Array) -> da.Array:
    """Return a user's Dask array with chunks that span all classes, its own wherever they do."""
    if len(array.chunks[1]) == 1:
        return array
    rows = max(1, memory.BATCH_BYTES // (array.shape[1] * array.dtype.itemsize))
    return array.rechunk({0: min(rows, max(array.chunks[0])), 1: -1})


def _dask_grid(array: da.Array, n_threads: int, partition_batches: int | memory.Auto) -> memory.Grid:
    """Take the row chunks of a Dask array as batches; a task holds all its blocks at once, so few make a partition."""
    if partition_batches == "auto":
        largest = max(array.chunks[0]) * array.shape[1] * array.dtype.itemsize
        partition_batches = min(
            max(1, memory.BATCH_BYTES // max(1, largest)), memory.group_size(largest, array.nbytes, n_threads)
        )
    return memory.Grid(len(array), array.chunks[0], int(partition_batches))


def each_partition(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition, labels_blocks, pred_probs_blocks)`` of every partition, in row order.

    A single partition is worked on here and now: a graph would only add to the time of a small batch.
    """
    run = Run(inputs, Settings())
    columns = run.blocks()
    if len(run.partitions) == 1 and columns == ([None], [None]):
        return [function(run.partitions[0], None, None)]
    return list(dask.compute(*run.map("inspect", [partial(function, p) for p in run.partitions], *columns)))


class Run:
    """One job: the maps and reductions over the partitions of `inputs`.

    Parameters
    ----------
    inputs : Inputs
        What to read.
    settings : Settings
        What to find.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.
    """

    def __init__(self, inputs: Inputs, settings: Settings, progress: bool | None = None) -> None:
        self.inputs, self.settings, self._show, self._token = inputs, settings, progress, _token()
        self.partitions = inputs.partitions()
        self._rows = [partition.n_rows for partition in self.partitions]
        self._summaries: list[Delayed] = []

    def read(self) -> Partial:
        """Summarise every partition, once, and return the class sums and findings of all."""
        if self.settings.scores_need_reread and self.inputs.pred_probs_source is None:
            self._keep_or_warn()
        tasks = self.map("summarise", [partial(summarise, p, self.settings) for p in self.partitions], *self.blocks())
        total = self._tree("class-sums", combine_partials, self.map("class-sums", [partial_of] * len(tasks), tasks))
        with self._progress("summarise", "rows read"):
            *kept, total = dask.persist(*tasks, total)
        return self._keep(kept, total.compute())

    def adopt(self, summarised: Sequence[Summarised]) -> Partial:
        """Take in what was read elsewhere, a summary for each partition."""
        kept = [Delayed(key, {key: value}) for key, value in ((self._key("summarise", i), s) for i, s in enumerate(summarised))]
        return self._keep(kept, combine_partials(s.partial for s in summarised))

    def _keep(self, kept: Sequence[Delayed], total: Partial) -> Partial:
        self._summaries = self.map("summary", [_summary_of] * len(kept), kept)
        (*self._summaries,) = dask.persist(*self._summaries)
        return total

    def score(self, thresholds: Float64s) -> None:
        """Finish the scores that need the thresholds first, reading again only for adjusted margins."""
        if not self.settings.adjust_pred_probs:
            return
        if self.settings.scores_need_reread:
            tasks = self.map(
                "score",
                [partial(_score_reread, thresholds, p) for p in self.partitions],
                self._summaries,
                *self.blocks(),
            )
        else:
            tasks = self.map("score", [partial(_score_adjusted, thresholds)] * len(self.partitions), self._summaries)
        with self._progress("score", "rows scored"):
            (*self._summaries,) = dask.persist(*tasks)

    def count(self, thresholds: Float64s) -> tuple[IssueCounts, ranking.Int64s]:
        """Return the issue counts and the histogram of all scores."""
        chunk = partial(_count, adjusted_thresholds(thresholds), self.settings.calibrated)
        tasks = self.map("issue-counts", [chunk] * len(self.partitions), self._summaries)
        with self._progress("issue-counts", "rows checked"):
            counts, histogram = self._tree("issue-counts", _combine_counts, tasks).compute()
        return counts, histogram

    def select(self, first: ranking.Int64s, count: int) -> IssueRows:
        """Return the `count` lowest rows, by (score, row), without those whose label is predicted or nearly so."""
        count = min(count, len(self.inputs.labels))
        if count < 1:
            return IssueRows.none(self._wide_dtype(), class_dtype(self.inputs.n_classes), self.inputs.pred_probs.dtype)
        n_bits = 8 * self._score_dtype().itemsize
        cut = ranking.find_cut(first, count, n_bits, self._histogram_within)
        quotas: list[int | None] = [None] * len(self.partitions)
        if not cut.shift and cut.inside > count - cut.below:
            tasks = self.map("ties", [partial(_count_inside, cut)] * len(self.partitions), self._summaries)
            quotas = list(ranking.tie_quotas(dask.compute(*tasks), count - cut.below))
        chunks = [partial(_select, cut, quota, p.start) for quota, p in zip(quotas, self.partitions, strict=True)]
        with self._progress("select", "rows ranked"):
            found = dask.compute(*self.map("select", chunks, self._summaries))
        return _ranked(found, count)

    def lazy_scores(self) -> da.Array:
        """Return the ``(N,)`` scores as a Dask array of one chunk a partition, holding no other column."""
        tasks = dask.persist(*self.map("scores", [wide_scores_of] * len(self.partitions), self._summaries))
        dtype = self._wide_dtype()
        return da.concatenate(
            [da.from_delayed(task, (rows,), dtype=dtype) for task, rows in zip(tasks, self._rows, strict=True)]
        )

    def _score_dtype(self) -> np.dtype[Any]:
        if self.settings.plain_self_confidence:
            return np.dtype(self.inputs.pred_probs.dtype).newbyteorder("=")
        return np.dtype(np.float64)

    def _wide_dtype(self) -> np.dtype[Any]:
        return np.promote_types(self._score_dtype(), np.float32)

    def _histogram_within(self, cut: ranking.Cut) -> ranking.Int64s:
        tasks = self.map("histogram", [partial(_histogram, cut)] * len(self.partitions), self._summaries)
        histogram: ranking.Int64s = self._tree("histogram", _add_up, tasks).compute()
        return histogram

    def _key(self, layer: str, index: int, level: int | None = None) -> tuple[str, int]:
        return (f"{layer}-{self._token}" if level is None else f"{layer}-combine-{level}-{self._token}", index)

    def map(self, layer: str, functions: Sequence[Callable[..., Any]], *columns: Sequence[Any]) -> list[Delayed]:
        """Make one task a partition: each function on its partition's entry of each of the `columns`."""
        rows = zip(*columns, strict=True) if columns else [()] * len(functions)
        return [
            delayed(function, pure=False)(*row, dask_key_name=self._key(layer, i))
            for i, (function, row) in enumerate(zip(functions, rows, strict=True))
        ]

    def _tree(self, layer: str, combine: Callable[[Iterable[Any]], Any], parts: Sequence[Delayed]) -> Delayed:
        """Fold `parts` in order, `_TREE_WIDTH` at a time."""
        level = 0
        while len(parts) > 1 or not level:
            groups = [parts[i : i + _TREE_WIDTH] for i in range(0, len(parts), _TREE_WIDTH)]
            parts = [
                delayed(combine, pure=False)(group, dask_key_name=self._key(layer, i, level))
                for i, group in enumerate(groups)
            ]
            level += 1
        return parts[0]

    def blocks(self) -> tuple[list[list[Delayed] | None], list[list[Delayed] | None]]:
        """Return the blocks of each partition, where an input is a user's Dask array."""
        inputs = self.inputs
        return (
            self._blocks_of(inputs.labels, inputs.labels_source),
            self._blocks_of(inputs.pred_probs, inputs.pred_probs_source),
        )

    def _blocks_of(self, array: da.Array, source: Source | None) -> list[list[Delayed] | None]:
        if source is not None:
            return [None] * len(self.partitions)
        blocks, size = array.to_delayed().ravel().tolist(), self.inputs.grid.partition_batches
        return [blocks[i : i + size] for i in range(0, len(blocks), size)]

    def _progress(self, layer: str, description: str) -> Progress:
        return Progress(self._key(layer, 0)[0], self._rows, description, show=self._show)

    def _keep_or_warn(self) -> None:
        """Keep a user's Dask array between its two reads if it fits, else say that it is computed twice."""
        array = self.inputs.pred_probs
        if array.nbytes <= psutil.virtual_memory().available * _PERSIST_SHARE:
            object.__setattr__(self.inputs, "pred_probs", array.persist())
        else:
            warnings.warn(
                "adjust_pred_probs with normalized_margin reads pred_probs twice, so this Dask array is computed twice; "
                "store it first (da.to_zarr) if computing it is expensive",
                LabelsieveWarning,
                stacklevel=4,
            )


def _summary_of(summarised: Summarised) -> RowSummary:
    return summarised.summary


def _score_reread(thresholds: Float64s, partition: Partition, summary: RowSummary, labels: Any, probs: Any) -> RowSummary:
    return score_reread(summary, thresholds, partition, labels, probs)


def _score_adjusted(thresholds: Float64s, summary: RowSummary) -> RowSummary:
    return score_adjusted(summary, thresholds)


def _count(adj_thresholds: Float64s, calibrated: bool, summary: RowSummary) -> tuple[IssueCounts, ranking.Int64s]:
    counts = issue_counts_chunk(summary, adj_thresholds, calibrated=calibrated)
    return counts, ranking.score_histogram(scores_of(summary))


def _combine_counts(parts: Iterable[tuple[IssueCounts, ranking.Int64s]]) -> tuple[IssueCounts, ranking.Int64s]:
    counts, histograms = zip(*parts, strict=True)
    return issue_counts_combine(counts), _add_up(histograms)


def _add_up(histograms: Iterable[ranking.Int64s]) -> ranking.Int64s:
    total: ranking.Int64s = np.sum(list(histograms), axis=0)
    return total


def _histogram(cut: ranking.Cut, summary: RowSummary) -> ranking.Int64s:
    return ranking.score_histogram(scores_of(summary), cut)


def _count_inside(cut: ranking.Cut, summary: RowSummary) -> int:
    return ranking.count_inside(scores_of(summary), cut)


def _select(cut: ranking.Cut, quota: int | None, first_row: int, summary: RowSummary) -> IssueRows:
    scores = scores_of(summary)
    rows = ranking.rows_up_to(scores, cut, quota)
    return IssueRows(
        (rows + first_row).astype(np.int64),
        scores[rows],
        summary.labels[rows],
        summary.predicted[rows],
        summary.p_given[rows],
        summary.p_predicted[rows],
    )


def _ranked(parts: Sequence[IssueRows], count: int) -> IssueRows:
    """Order the selected rows of all partitions, and drop those whose label is predicted or nearly so."""
    found = IssueRows(*(np.concatenate(column) for column in zip(*(p.columns().values() for p in parts), strict=True)))
    order = ranking.lowest_first(found.scores, count)
    near = ranking.near_predicted(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
    chosen = found.take(order[~near[order]])
    return replace(chosen, scores=widened(chosen.scores))
