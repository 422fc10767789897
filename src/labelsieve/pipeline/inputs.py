"""Both inputs on one grid of batches, as Dask arrays and as arguments of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from labelsieve import memory
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summary_block import MAX_STRIP_ROWS
from labelsieve.errors import warn
from labelsieve.execution.choice import choose_executor
from labelsieve.execution.executor import Executor
from labelsieve.memory import free_bytes
from labelsieve.partitioning import Grid
from labelsieve.pipeline.dask_job import Column, DaskJob, nothing_like
from labelsieve.settings import Settings
from labelsieve.sources.arrays import ArraySource, read_narrowed
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import Opened, where_is
from labelsieve.sources.retries import RETRIES, retry
from labelsieve.tasks.partition import Batches, Block, RowRange
from labelsieve.tasks.work import PartitionWork

if TYPE_CHECKING:
    import dask.array as da  # for types alone: importing it is slow

# A Dask array that is read more than once is kept if it takes at most this share of the free memory.
_PERSIST_SHARE: Final = 0.3
# From this size on, arrays in memory should be given to a cluster as files.
_SCATTER_WARN_BYTES: Final = 100_000_000


class RowRanges(Sequence[RowRange]):
    """The rows of a source cut into partitions, which are not read yet.

    Parameters
    ----------
    source : Source
        Where the rows are.
    grid : Grid
        The partitions.
    numbers : range, optional
        Numbers of the partitions; all by default.
    """

    def __init__(self, source: Source, grid: Grid, numbers: range | None = None) -> None:
        self._source, self._grid = source, grid
        self._numbers = range(grid.n_partitions) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> RowRange: ...

    @overload
    def __getitem__(self, index: slice) -> RowRanges: ...

    def __getitem__(self, index: int | slice) -> RowRange | RowRanges:
        n, source, grid = self._numbers[index], self._source, self._grid
        return RowRange.of_part(source, *grid.bounds(n)) if isinstance(n, int) else RowRanges(source, grid, n)


@dataclass(frozen=True)
class Inputs:
    """Both inputs, opened, on one grid of batches and partitions.

    Parameters
    ----------
    opened_labels, opened_pred_probs : Source or dask.array.Array
        A source that tasks read, or a user's Dask array that is computed.
    grid : Grid
        Batches and partitions.
    held_bytes : int
        Memory that the inputs themselves take: labels that are read first, a Dask array kept between two reads.
    labels_first : bool
        Whether the labels are to be read before the run, by `read_labels`.
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    opened_labels: Opened
    opened_pred_probs: Opened
    grid: Grid
    held_bytes: int = 0
    labels_first: bool = False
    ignored: int | None = None

    def read_labels(self) -> Inputs:
        """Return the inputs with the labels in memory, if they are to be read first."""
        if not self.labels_first or not isinstance(self.opened_labels, Source):
            return self
        read, ignored = read_narrowed(self.opened_labels, self.n_classes, self.ignored)
        return replace(self, opened_labels=read, labels_first=False, ignored=ignored)

    @property
    def labels(self) -> da.Array:
        """``(N,)`` labels as a Dask array with one chunk per partition; blocks of files are lazy ranges of rows."""
        return self._array(self.opened_labels)

    @property
    def pred_probs(self) -> da.Array:
        """``(N, K)`` probabilities as a Dask array with one chunk per partition; see `labels`."""
        return self._array(self.opened_pred_probs)

    @property
    def labels_source(self) -> Source | None:
        """The source of the labels; None for a Dask array."""
        return self.opened_labels if isinstance(self.opened_labels, Source) else None

    @property
    def pred_probs_source(self) -> Source | None:
        """The source of the probabilities; None for a Dask array."""
        return self.opened_pred_probs if isinstance(self.opened_pred_probs, Source) else None

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return int(self.opened_pred_probs.shape[1])

    @property
    def no_label(self) -> int | None:
        """The label K in the table of row summaries, where rows may have none."""
        return None if self.ignored is None else self.n_classes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of `pred_probs`, in native byte order."""
        dtype: np.dtype[Any] = self.opened_pred_probs.dtype
        return dtype.newbyteorder("=")

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of `pred_probs` in memory."""
        source = self.pred_probs_source
        return self.n_classes * self.dtype.itemsize if source is None else source.row_bytes

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a row of `pred_probs` as it is read, before any conversion."""
        source = self.pred_probs_source
        return self.row_bytes if source is None else source.read_row_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows of `pred_probs` as they are read."""
        return self.grid.n_rows * self.read_row_bytes

    @property
    def forkable(self) -> bool:
        """Whether forked processes can read both."""
        return forkable(self.opened_labels, self.opened_pred_probs) or (
            self.labels_first and forkable(self.opened_pred_probs)
        )

    @property
    def in_memory(self) -> bool:
        """Whether labels or probabilities are an array in this process."""
        return any(source is not None and source.in_memory for source in (self.labels_source, self.pred_probs_source))

    def need(self, settings: Settings, rule: Filter | None = None) -> memory.Need:
        """Return the terms of the memory formula; `rule` is the filter, if not that of the settings."""
        batch_rows, row_bytes = self.grid.largest_batch, self.row_bytes
        probs, labels = self.pred_probs_source, self.labels_source
        if not probs:
            # A task gets all its blocks at once.
            batch_bytes = self.grid.largest_partition * row_bytes
        else:
            # A stored chunk is decoded whole, even if it is read in pieces.
            stored_rows = max(batch_rows, min(probs.row_chunk or 0, self.grid.n_rows))
            batch_bytes = 0 if probs.in_pieces else stored_rows * row_bytes
        if not labels:
            batch_bytes += batch_rows * self.opened_labels.dtype.itemsize
        elif labels.row_chunk and not self.labels_first:
            # A strip, and a stored chunk that it cuts.
            batch_bytes += min(MAX_STRIP_ROWS + labels.row_chunk, self.grid.n_rows) * max(
                labels.row_bytes, labels.read_row_bytes
            )
        return memory.Need(
            self.grid.n_rows,
            self.n_classes,
            self.dtype.itemsize,
            settings,
            n_partitions=self.grid.n_partitions,
            batch_bytes=batch_bytes,
            ahead_bytes=sum(source.prefetch_bytes + source.decoding_bytes for source in (probs, labels) if source),
            held_bytes=self.held_bytes,
            rule=rule,
        )

    def partitions(self) -> list[Batches]:
        """Return the batches of each partition, in row order."""
        return [Batches(index, self.grid.ranges(index)) for index in range(self.grid.n_partitions)]

    def work(self, function: Callable[..., Any]) -> PartitionWork:
        """Return the callable of the tasks that run `function` on a partition."""
        where = where_is(self.opened_pred_probs)
        return PartitionWork(function, self.grid, self.n_classes, self.dtype, where, self.ignored)

    def columns(self, executor: Executor) -> list[Column]:
        """Return the arguments of tasks that read: numbers of partitions, labels and pred_probs.

        Arrays in memory are split and sent to the workers once.
        """
        columns: list[Column] = [range(self.grid.n_partitions)]
        for name, opened in (("labels", self.opened_labels), ("pred_probs", self.opened_pred_probs)):
            if not isinstance(opened, Source):
                columns.append(self._array(opened))
                continue
            if not opened.in_memory:
                columns.append(RowRanges(opened, self.grid))
                continue
            n_bytes = opened.n_rows * opened.read_row_bytes
            if executor.is_cluster and n_bytes > _SCATTER_WARN_BYTES:
                warn(
                    f"{name} is an array in memory of {n_bytes / 1e6:,.0f} MB, sent to the workers: "
                    "give a path or URL that they can read instead"
                )
            bounds = map(self.grid.bounds, range(self.grid.n_partitions))
            columns.append(executor.scatter([rows_of(opened, start, stop) for start, stop in bounds]))
        return columns

    def _array(self, opened: Opened) -> da.Array:
        """Return the rows as a Dask array with one chunk per partition."""
        import dask.array as da

        chunks = (tuple(self.grid.partition_rows), *((size,) for size in opened.shape[1:]))
        if not isinstance(opened, Source):
            return opened.rechunk(chunks)
        return da.from_array(RowRange(opened), chunks, asarray=False, meta=np.empty((0,) * opened.ndim, opened.dtype))

    def reachability(self) -> Callable[[], None]:
        """Return a check for workers, which raises if they cannot open an input. Arrays in memory are not checked."""
        sources = (self.labels_source, self.pred_probs_source)
        return partial(_check_reachable, [s for s in sources if s is not None and not s.in_memory])


def map_partitions(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition)`` for each partition, in row order."""
    labels, pred_probs = inputs.labels_source, inputs.pred_probs_source
    if inputs.grid.n_partitions == 1 and labels and pred_probs:  # without a graph, which would only cost time
        work, [batches] = inputs.work(function), inputs.partitions()
        return [retry(RETRIES + 1, work, batches, RowRange(labels), RowRange(pred_probs))]
    executor = choose_executor(retries=RETRIES)
    return DaskJob(executor).map("inspect", inputs.work(function), inputs.columns(executor))


def _check_reachable(sources: Sequence[Source]) -> None:
    for source in sources:
        source.reachable()


def rows_of(source: Source, start: int, stop: int) -> RowRange | Block:
    """Return rows ``[start, stop)`` as a task takes them: an array in memory, or a lazy range of any other source."""
    if isinstance(source, ArraySource):
        rows: Block = source.array[start:stop]
        return rows
    return RowRange.of_part(source, start, stop)


def forkable(*opened: Opened) -> bool:
    """Return whether forked processes can read all of these inputs."""
    return all(isinstance(one, Source) and one.forkable for one in opened)


def kept_bytes(inputs: Inputs, executor: Executor) -> int:
    """Return the bytes of a Dask array that is kept between reads; 0 if it is computed again."""
    limit = executor.limit * executor.n_processes
    room = limit if executor.is_cluster else min(limit, free_bytes())
    fits = inputs.pred_probs_source is None and inputs.n_bytes <= room * _PERSIST_SHARE
    return inputs.n_bytes if fits else 0


def persist_if_it_fits(inputs: Inputs, executor: Executor, n_reads: int) -> Inputs:
    """Persist a user's Dask array if it fits in memory; otherwise warn that each read computes it again."""
    if inputs.pred_probs_source is not None:
        return inputs
    if kept_bytes(inputs, executor):
        kept = executor.persist(inputs.pred_probs)
        return replace(inputs, opened_pred_probs=kept, held_bytes=inputs.held_bytes + inputs.n_bytes)
    times = "twice" if n_reads == 2 else f"{n_reads} times"
    warn(
        f"these settings read pred_probs {times}, so this Dask array is computed {times}; store it first (da.to_zarr) "
        "if computing it is expensive"
    )
    return inputs


def without_blocks(column: Column, grid: Grid, finished: Collection[int]) -> Column:
    """Return a column with None in place of the blocks of finished partitions."""
    if isinstance(column, RowRanges):
        return column
    if isinstance(column, Sequence):
        return [None if index in finished else block for index, block in enumerate(column)]
    import dask.array as da

    parts = []
    numbers = range(grid.n_partitions)
    for is_finished, group in itertools.groupby(numbers, lambda index: index in finished):
        some = list(group)
        blocks = column.blocks[some[0] : some[-1] + 1]
        parts.append(nothing_like(blocks) if is_finished else blocks)
    return da.concatenate(parts)
