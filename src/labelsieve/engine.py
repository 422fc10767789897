"""The one place that lays the flow on Dask.

Covers: opening sources as Dask arrays, one task a partition, tree reductions, and the ranking's rounds.
Does not cover: what a task does (`tasks`), the fork pool (`forkpool`).

A run is three maps over partitions with a K-sized reduction after each: *summarise* reads the rows, *count* holds their
summaries against the thresholds, *select* returns the rows up to the cut. Summaries stay where they were made. Whatever
scheduler Dask is set to does the work: threads, processes, or the active client.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import dask
import dask.threaded
import numpy as np
import psutil
from dask.delayed import Delayed, delayed
from dask.system import CPU_COUNT

from labelsieve import memory, ranking, tasks
from labelsieve.errors import warn
from labelsieve.kernels import class_dtype
from labelsieve.partitions import Partition
from labelsieve.progress import Progress
from labelsieve.reductions import Float64s, adjusted_thresholds
from labelsieve.results import IssueRows
from labelsieve.settings import Settings
from labelsieve.sources import ArraySource, Opened, Source

if TYPE_CHECKING:
    import dask.array as da  # at run time only where a Dask array comes in or is asked for: it brings pandas along

# Partials that one task of a tree reduction folds.
_TREE_WIDTH: Final = 16
# A Dask array that must be read twice is kept where it takes at most this share of the free memory.
_PERSIST_SHARE: Final = 0.3

Blocks = list[list[Delayed] | None]


@dataclass(frozen=True)
class Inputs:
    """Both inputs on one grid: as Dask arrays of one chunk a batch, and as the partitions that stream them.

    Parameters
    ----------
    opened_labels, opened_pred_probs : Source or dask.array.Array
        What tasks read, or a user's own Dask array, which has to be computed.
    grid : memory.Grid
        Batches and partitions.
    """

    opened_labels: Opened
    opened_pred_probs: Opened
    grid: memory.Grid

    @cached_property
    def labels(self) -> da.Array:
        """``(N,)`` labels, chunked like the rows of `pred_probs`."""
        return _as_dask_array("labels", self.opened_labels, self.grid)

    @cached_property
    def pred_probs(self) -> da.Array:
        """``(N, K)`` probabilities, every chunk a batch that spans all K."""
        return _as_dask_array("pred-probs", self.opened_pred_probs, self.grid)

    @property
    def labels_source(self) -> Source | None:
        """Where tasks read the labels; None for a Dask array."""
        return self.opened_labels if isinstance(self.opened_labels, Source) else None

    @property
    def pred_probs_source(self) -> Source | None:
        """Where tasks read the probabilities; None for a Dask array."""
        return self.opened_pred_probs if isinstance(self.opened_pred_probs, Source) else None

    @property
    def n_classes(self) -> int:
        """Columns of `pred_probs`."""
        return int(self.opened_pred_probs.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of `pred_probs`, in native byte order."""
        dtype: np.dtype[Any] = self.opened_pred_probs.dtype
        return dtype.newbyteorder("=")

    @property
    def n_bytes(self) -> int:
        """Decoded bytes of `pred_probs`."""
        return self.grid.n_rows * self.n_classes * self.dtype.itemsize

    def planned_bytes(self, settings: Settings, n_threads: int | None = None) -> int:
        """Return the most own memory that a run on threads takes, without the issues."""
        n_classes, itemsize = self.n_classes, self.dtype.itemsize
        whole = not (self.pred_probs_source and self.pred_probs_source.in_pieces)
        batch_bytes = max(self.grid.batch_rows) * n_classes * itemsize if whole else 0
        return memory.planned_bytes(
            self.grid.n_rows, n_classes, itemsize, n_threads or _n_workers(), settings, batch_bytes=batch_bytes
        )

    def partitions(self) -> list[Partition]:
        """Return the partitions in row order."""
        return [
            Partition(ranges, self.n_classes, self.dtype, self.labels_source, self.pred_probs_source)
            for ranges in self.grid.partitions()
        ]

    def blocks(self) -> tuple[Blocks, Blocks]:
        """Return the blocks of labels and of pred_probs, a list a partition; None where tasks read a source."""
        nothing: Blocks = [None] * self.grid.n_partitions
        return (
            nothing if self.labels_source else self._grouped(self.labels),
            nothing if self.pred_probs_source else self._grouped(self.pred_probs),
        )

    def _grouped(self, array: da.Array) -> Blocks:
        blocks, size = array.to_delayed().ravel().tolist(), self.grid.partition_batches
        return [blocks[i : i + size] for i in range(0, len(blocks), size)]


def open_inputs(
    labels: Opened,
    pred_probs: Opened,
    *,
    batch_size: int | memory.Auto = "auto",
    partition_batches: int | memory.Auto = "auto",
    n_threads: int | None = None,
) -> Inputs:
    """Lay opened labels and probabilities out on one grid of batches; reads nothing but coarsely stored labels."""
    n_threads = n_threads or _n_workers()
    memory.check_sizes(batch_size, partition_batches)
    if not isinstance(pred_probs, Source):
        pred_probs = _whole_rows(pred_probs)
        grid = _dask_grid(pred_probs, n_threads, partition_batches)
    else:
        grid = memory.plan_grid(
            pred_probs.n_rows,
            pred_probs.row_bytes,
            pred_probs.row_chunk,
            n_threads,
            batch_size=batch_size,
            partition_batches=partition_batches,
        )
    partition_rows = max(grid.batch_rows) * grid.partition_batches
    if isinstance(labels, Source) and labels.row_chunk and labels.row_chunk > partition_rows:
        # One stored chunk of labels spans several partitions, each of which would decode it again.
        labels = ArraySource(labels[:])
    return Inputs(labels, pred_probs, grid)


def _as_dask_array(name: str, opened: Opened, grid: memory.Grid) -> da.Array:
    """Return a lazy Dask array with one chunk a batch of `grid`."""
    chunks = (grid.batch_rows, *((size,) for size in opened.shape[1:]))
    if not isinstance(opened, Source):
        return opened.rechunk(chunks)
    import dask.array as da

    meta = np.empty((0,) * opened.ndim, opened.dtype)
    return da.from_array(opened, chunks=chunks, name=f"{name}-{_token()}", asarray=False, meta=meta)


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


def _n_workers() -> int:
    """Return how many threads Dask's local scheduler uses."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def _token() -> str:
    return uuid.uuid4().hex


def _scheduler() -> dict[str, Any]:
    """Return the keyword that keeps Dask from importing `distributed` only to find that there is no client.

    That import takes longer than many a job. A scheduler that the user has set, or an active client, goes first.
    """
    chosen = "distributed" in sys.modules or dask.config.get("scheduler", None)
    return {} if chosen else {"scheduler": dask.threaded.get}


def _compute(*values: Any) -> Any:
    return dask.compute(*values, **_scheduler())


def _persist(*values: Delayed) -> list[Delayed]:
    return list(dask.persist(*values, **_scheduler()))


def each_partition(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition, label_blocks, pred_probs_blocks)`` of every partition, in row order.

    A single partition is worked on here and now: a graph would only add to the time of a small batch.
    """
    run = Run(inputs, Settings(), progress=False)
    if len(run.partitions) == 1 and inputs.labels_source and inputs.pred_probs_source:
        return [function(run.partitions[0])]
    return list(_compute(*run.map("inspect", [partial(function, p) for p in run.partitions], *inputs.blocks())))


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
        self.settings, self._show, self._token = settings, progress, _token()
        self.inputs = _read_twice(inputs) if settings.scores_need_reread else inputs
        self.partitions = inputs.partitions()
        self._rows = [partition.n_rows for partition in self.partitions]
        self._summaries: list[Delayed] = []

    def read(self) -> tasks.Partial:
        """Summarise every partition, once, and return the class sums and findings of all."""
        read = [partial(tasks.summarise, partition, settings=self.settings) for partition in self.partitions]
        summarised = self.map("summarise", read, *self.inputs.blocks())
        total = self._tree("class-sums", tasks.combine_partials, self._each("class-sums", tasks.partial_of, summarised))
        with self._progress("summarise", "rows read"):
            *kept, total = _persist(*summarised, total)
        self._keep(kept)
        result: tasks.Partial = _value(total)
        return result

    def adopt(self, summarised: Sequence[tasks.Summarised]) -> tasks.Partial:
        """Take in what was read elsewhere, a summary for each partition."""
        keys = (self._key("summarise", i) for i in range(len(summarised)))
        self._keep([Delayed(key, {key: value}) for key, value in zip(keys, summarised, strict=True)])
        return tasks.combine_partials(s.partial for s in summarised)

    def _keep(self, summarised: Sequence[Delayed]) -> None:
        self._summaries = _persist(*self._each("summary", tasks.summary_of, summarised))

    def score(self, thresholds: Float64s) -> None:
        """Finish the scores that need the thresholds first, reading again only for adjusted margins."""
        if not self.settings.adjust_pred_probs:
            return
        if self.settings.scores_need_reread:
            again = [partial(tasks.score_reread, partition, thresholds=thresholds) for partition in self.partitions]
            scored = self.map("score", again, self._summaries, *self.inputs.blocks())
        else:
            scored = self._each("score", partial(tasks.score_adjusted, thresholds=thresholds), self._summaries)
        with self._progress("score", "rows scored"):
            self._summaries = _persist(*scored)

    def count(self, thresholds: Float64s) -> tasks.Counted:
        """Return the issue counts and the histogram of all scores."""
        chunk = partial(
            tasks.count, adj_thresholds=adjusted_thresholds(thresholds), calibrated=self.settings.calibrated
        )
        counted = self._each("issue-counts", chunk, self._summaries)
        with self._progress("issue-counts", "rows checked"):
            total: tasks.Counted = _value(self._tree("issue-counts", tasks.combine_counted, counted))
        return total

    def select(self, histogram: ranking.Int64s, wanted: int) -> IssueRows:
        """Return the `wanted` lowest rows, by (score, row), without those whose label is predicted or nearly so."""
        wanted = min(wanted, self.inputs.grid.n_rows)
        if wanted < 1:
            return IssueRows.none(self._wide_dtype(), class_dtype(self.inputs.n_classes), self.inputs.dtype)
        cut = ranking.find_cut(histogram, wanted, 8 * self._score_dtype().itemsize, self._histogram_within)
        quotas: list[int | None] = [None] * len(self.partitions)
        if not cut.shift and cut.inside > wanted - cut.below:
            ties = _compute(*self._each("ties", partial(tasks.count_inside, cut=cut), self._summaries))
            quotas = list(ranking.tie_quotas(ties, wanted - cut.below))
        chunks = [
            partial(tasks.select, cut=cut, quota=quota, first_row=partition.start)
            for quota, partition in zip(quotas, self.partitions, strict=True)
        ]
        with self._progress("select", "rows ranked"):
            return tasks.rank(_compute(*self.map("select", chunks, self._summaries)), wanted)

    def scores(self) -> Callable[[], da.Array]:
        """Return what makes the ``(N,)`` scores a Dask array of one chunk a partition; no other column is kept."""
        scores = _persist(*self._each("scores", tasks.wide_scores_of, self._summaries))
        return partial(_joined, scores, self._rows, self._wide_dtype())

    def _score_dtype(self) -> np.dtype[Any]:
        return self.inputs.dtype if self.settings.plain_self_confidence else np.dtype(np.float64)

    def _wide_dtype(self) -> np.dtype[Any]:
        wide: np.dtype[Any] = np.promote_types(self._score_dtype(), np.float32)
        return wide

    def _histogram_within(self, cut: ranking.Cut) -> ranking.Int64s:
        histograms = self._each("histogram", partial(tasks.histogram_within, cut=cut), self._summaries)
        total: ranking.Int64s = _value(self._tree("histogram", tasks.add_up, histograms))
        return total

    def map(self, layer: str, functions: Sequence[Callable[..., Any]], *columns: Sequence[Any]) -> list[Delayed]:
        """Make one task a partition: each function on its partition's entry of each of the `columns`."""
        rows = zip(*columns, strict=True)
        return [
            delayed(function, pure=False)(*row, dask_key_name=self._key(layer, i))
            for i, (function, row) in enumerate(zip(functions, rows, strict=True))
        ]

    def _each(self, layer: str, function: Callable[..., Any], column: Sequence[Delayed]) -> list[Delayed]:
        return self.map(layer, [function] * len(column), column)

    def _tree(self, layer: str, combine: Callable[[Iterable[Any]], Any], parts: Sequence[Delayed]) -> Delayed:
        """Fold `parts` in order, `_TREE_WIDTH` at a time."""
        level = 0
        while len(parts) > 1 or not level:
            groups = [parts[i : i + _TREE_WIDTH] for i in range(0, len(parts), _TREE_WIDTH)]
            parts = self._each(f"{layer}-combine-{level}", combine, groups)
            level += 1
        return parts[0]

    def _key(self, layer: str, index: int) -> tuple[str, int]:
        return f"{layer}-{self._token}", index

    def _progress(self, layer: str, description: str) -> Progress:
        return Progress(self._key(layer, 0)[0], self._rows, description, show=self._show)


def _joined(parts: Sequence[Delayed], rows: Sequence[int], dtype: np.dtype[Any]) -> da.Array:
    import dask.array as da

    return da.concatenate([da.from_delayed(part, (n,), dtype=dtype) for part, n in zip(parts, rows, strict=True)])


def _value(task: Delayed) -> Any:
    return _compute(task)[0]


def _read_twice(inputs: Inputs) -> Inputs:
    """Keep a user's Dask array between its two reads if it fits, else say that it is computed twice."""
    if inputs.pred_probs_source is not None:
        return inputs
    if inputs.pred_probs.nbytes <= psutil.virtual_memory().available * _PERSIST_SHARE:
        return replace(inputs, opened_pred_probs=inputs.pred_probs.persist(**_scheduler()))
    warn(
        "adjust_pred_probs with normalized_margin reads pred_probs twice, so this Dask array is computed twice; "
        "store it first (da.to_zarr) if computing it is expensive"
    )
    return inputs
