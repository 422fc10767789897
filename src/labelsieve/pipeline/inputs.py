"""Both inputs on one grid of batches, as Dask arrays and as partitions."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve import memory, partitioning
from labelsieve.confident_learning.row_summary import MAX_STRIP_ROWS
from labelsieve.errors import warn
from labelsieve.execution.choice import choose_executor
from labelsieve.execution.executor import Executor
from labelsieve.execution.graphs import tried
from labelsieve.settings import Settings
from labelsieve.sources.arrays import ArraySource, read_narrowed
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import Opened
from labelsieve.storage.limits import free_bytes
from labelsieve.tasks.partition import Partition
from labelsieve.tasks.readers import Reader

if TYPE_CHECKING:
    import dask.array as da  # at run time only where a Dask array comes in or is asked for: it brings pandas along

# How often what cannot be read is read again where no run says it.
RETRIES: Final = 2
# A Dask array that must be read twice is kept where it takes at most this share of the free memory.
_PERSIST_SHARE: Final = 0.3
# Arrays in memory beyond this are better given as files to a cluster.
_SCATTER_WARN_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class Inputs:
    """Both inputs on one grid: as Dask arrays of one chunk a batch, and as the partitions that stream them.

    Parameters
    ----------
    opened_labels, opened_pred_probs : Source or dask.array.Array
        What tasks read, or a user's own Dask array, which has to be computed.
    grid : grids.Grid
        Batches and partitions.
    held_bytes : int
        Memory that the inputs themselves take: labels read first, a Dask array kept between two reads.
    labels_first : bool
        Whether labels are to be read before the run, once: `read_labels` does.
    """

    opened_labels: Opened
    opened_pred_probs: Opened
    grid: partitioning.Grid
    held_bytes: int = 0
    labels_first: bool = False

    def read_labels(self) -> Inputs:
        """Return the inputs with their labels in memory, where these are to be read first."""
        if not self.labels_first or not isinstance(self.opened_labels, Source):
            return self
        read = read_narrowed(self.opened_labels, self.n_classes)
        return replace(self, opened_labels=read, labels_first=False)

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

    @property
    def forkable(self) -> bool:
        """Whether forked processes can read both."""
        return forkable(self.opened_labels, self.opened_pred_probs) or (
            self.labels_first and forkable(self.opened_pred_probs)
        )

    @property
    def in_memory(self) -> bool:
        """Whether any of it is an array in this process."""
        return any(isinstance(opened, ArraySource) for opened in (self.opened_labels, self.opened_pred_probs))

    def need(self, settings: Settings) -> memory.Need:
        """Return what the memory formula is made of."""
        batch_rows, row_bytes = self.grid.largest_batch, self.n_classes * self.dtype.itemsize
        probs, labels = self.pred_probs_source, self.labels_source
        if not probs:
            # Dask hands a task all its blocks at once.
            batch_bytes = batch_rows * row_bytes * min(self.grid.partition_batches, self.grid.n_batches)
        else:
            # A stored chunk is decoded whole, also where it is read in pieces.
            stored_rows = max(batch_rows, min(probs.row_chunk or 0, self.grid.n_rows))
            batch_bytes = 0 if probs.in_pieces else stored_rows * row_bytes
        if not labels:
            batch_bytes += batch_rows * self.opened_labels.dtype.itemsize
        elif labels.row_chunk and not self.labels_first:
            # A strip, and the chunk that it cuts.
            batch_bytes += min(MAX_STRIP_ROWS + labels.row_chunk, self.grid.n_rows) * labels.dtype.itemsize
        return memory.Need(
            self.grid.n_rows,
            self.n_classes,
            self.dtype.itemsize,
            settings,
            n_partitions=self.grid.n_partitions,
            batch_bytes=batch_bytes,
            ahead_bytes=sum(source.read_ahead_bytes for source in (probs, labels) if source),
            held_bytes=self.held_bytes,
        )

    def partition(self, index: int) -> Partition:
        """Return a partition."""
        return Partition(
            self.grid.ranges(index), self.n_classes, self.dtype, self.labels_source, self.pred_probs_source, index
        )

    def partitions(self) -> list[Partition]:
        """Return the partitions in row order."""
        return [self.partition(index) for index in range(self.grid.n_partitions)]

    def reader(self, work: Callable[..., Any]) -> Reader:
        """Return what a task runs: ``work(partition, labels, pred_probs)`` of a partition given by number."""

        def described(source: Source | None) -> Source | None:
            return None if isinstance(source, ArraySource) else source  # arrays in memory come as blocks

        return Reader(
            self.grid,
            self.n_classes,
            self.dtype,
            described(self.labels_source),
            described(self.pred_probs_source),
            work,
            self.pred_probs_source.where if self.pred_probs_source else "a Dask array",
        )

    def columns(self, executor: Executor) -> list[Sequence[Any]]:
        """Return the arguments of a reader's tasks: the number, and the blocks of labels and of pred_probs.

        Blocks are a user's Dask blocks, or slices of arrays in memory, handed out once; None where tasks read.
        """
        return [
            range(self.grid.n_partitions),
            self._blocks("labels", self.opened_labels, executor),
            self._blocks("pred_probs", self.opened_pred_probs, executor),
        ]

    def _blocks(self, name: str, opened: Opened, executor: Executor) -> Sequence[Any]:
        grid = self.grid
        if isinstance(opened, ArraySource):
            if executor.is_cluster and opened.array.nbytes > _SCATTER_WARN_BYTES:
                warn(
                    f"{name} is an array in memory of {opened.array.nbytes / 1e6:,.0f} MB, sent to the workers: "
                    "give a path or URL that they can read instead"
                )
            bounds = (grid.bounds(index) for index in range(grid.n_partitions))
            return executor.scatter([opened.array[start:stop] for start, stop in bounds])
        if isinstance(opened, Source):
            return [None] * grid.n_partitions
        blocks, size = _delayed(self.labels if name == "labels" else self.pred_probs), grid.partition_batches
        return [blocks[i : i + size] for i in range(0, len(blocks), size)]

    def rows_as_blocks(self, name: str, start: int, stop: int) -> list[Any] | None:
        """Return rows ``[start, stop)`` of ``labels`` or ``pred_probs`` as one block; None where tasks read them."""
        opened = self.opened_labels if name == "labels" else self.opened_pred_probs
        if isinstance(opened, Source):
            return [opened.array[start:stop]] if isinstance(opened, ArraySource) else None
        return _delayed(opened[start:stop].rechunk(-1))

    def reachability(self) -> Callable[[], None]:
        """Return what raises unless the process that calls it can open both inputs; arrays in memory stay here."""
        sources = (self.labels_source, self.pred_probs_source)
        return partial(_reach, [s for s in sources if s is not None and not isinstance(s, ArraySource)])


def each_partition(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition, label_blocks, pred_probs_blocks)`` of every partition, in row order.

    A single partition is worked on here and now: a graph would only add to the time of a small batch.
    """
    if inputs.grid.n_partitions == 1 and inputs.labels_source and inputs.pred_probs_source:
        return [tried(RETRIES + 1, function, inputs.partition(0))]
    executor = choose_executor(retries=RETRIES)
    return executor.gather("inspect", inputs.reader(function), inputs.columns(executor))


def _reach(sources: Sequence[Source]) -> None:
    for source in sources:
        source.reachable()


def forkable(*opened: Opened) -> bool:
    """Tell whether forked processes can read all of these."""
    return all(isinstance(one, Source) and one.forkable for one in opened)


def kept_bytes(inputs: Inputs, executor: Executor) -> int:
    """Return the bytes that a Dask array takes which is kept between two reads; 0 where it is computed twice."""
    limit = executor.limit * executor.n_processes
    room = limit if executor.is_cluster else min(limit, free_bytes())
    fits = inputs.pred_probs_source is None and inputs.n_bytes <= room * _PERSIST_SHARE
    return inputs.n_bytes if fits else 0


def keep_for_rereads(inputs: Inputs, executor: Executor, n_reads: int) -> Inputs:
    """Keep a user's Dask array between its reads if it fits, else say how often it is computed."""
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


def without_blocks(columns: Sequence[Sequence[Any]], finished: Collection[int]) -> list[Sequence[Any]]:
    """Return the arguments of a reader's tasks with no blocks for finished partitions."""
    numbers, *both = columns
    return [numbers, *([None if i in finished else part for i, part in enumerate(blocks)] for blocks in both)]


def _delayed(array: da.Array) -> list[Any]:
    """Return the blocks of a Dask array."""
    blocks: list[Any] = array.to_delayed().ravel().tolist()
    if blocks[0].key not in blocks[0].dask:  # optimising drops blocks that are kept on a cluster
        blocks = array.to_delayed(optimize_graph=False).ravel().tolist()
    return blocks


def _as_dask_array(name: str, opened: Opened, grid: partitioning.Grid) -> da.Array:
    """Return a lazy Dask array with one chunk a batch of `grid`."""
    chunks = (grid.batch_rows, *((size,) for size in opened.shape[1:]))
    if not isinstance(opened, Source):
        return opened.rechunk(chunks)
    import dask.array as da

    meta = np.empty((0,) * opened.ndim, opened.dtype)
    return da.from_array(opened, chunks=chunks, name=f"{name}-{uuid.uuid4().hex}", asarray=False, meta=meta)
