"""Both inputs on one grid of batches, as Dask arrays and as partitions.

Covers: `open_inputs`, and `Inputs`, which a run works on.
Does not cover: the run (`engine.run`), opening one array (`sources`), the arithmetic of grids (`memory`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil
from dask.delayed import Delayed

from labelsieve import memory
from labelsieve.engine.schedule import n_workers, persist_array, token
from labelsieve.errors import InvalidInputError, warn
from labelsieve.kernels import STRIP_BYTES
from labelsieve.partitions import Partition
from labelsieve.settings import Settings
from labelsieve.sources import Opened, Source, check_lengths, open_labels, open_pred_probs, read_narrowed

if TYPE_CHECKING:
    import dask.array as da  # at run time only where a Dask array comes in or is asked for: it brings pandas along

# A Dask array that must be read twice is kept where it takes at most this share of the free memory.
_PERSIST_SHARE: Final = 0.3

BlockLists = list[list[Delayed] | None]


@dataclass(frozen=True)
class Inputs:
    """Both inputs on one grid: as Dask arrays of one chunk a batch, and as the partitions that stream them.

    Parameters
    ----------
    opened_labels, opened_pred_probs : Source or dask.array.Array
        What tasks read, or a user's own Dask array, which has to be computed.
    grid : memory.Grid
        Batches and partitions.
    held_bytes : int
        Memory that the inputs themselves were given: labels read first, a Dask array kept between two reads.
    """

    opened_labels: Opened
    opened_pred_probs: Opened
    grid: memory.Grid
    held_bytes: int = 0

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

    def planned_bytes(self, settings: Settings) -> int:
        """Return the most own memory that a run on threads takes, without the issues."""
        batch_rows, row_bytes = max(self.grid.batch_rows), self.n_classes * self.dtype.itemsize
        probs, labels = self.pred_probs_source, self.labels_source
        if not probs:
            # Dask hands a task all its blocks at once.
            batch_bytes = batch_rows * row_bytes * min(self.grid.partition_batches, len(self.grid.batch_rows))
        else:
            # A stored chunk is decoded whole, also where it is read in pieces.
            stored_rows = max(batch_rows, min(probs.row_chunk or 0, self.grid.n_rows))
            batch_bytes = 0 if probs.in_pieces else stored_rows * row_bytes
        if not labels or not labels.in_pieces:
            batch_bytes += batch_rows * self.opened_labels.dtype.itemsize
        planned = memory.planned_bytes(
            self.grid.n_rows,
            self.n_classes,
            self.dtype.itemsize,
            n_workers(),
            settings,
            n_partitions=self.grid.n_partitions,
            batch_bytes=batch_bytes,
        )
        return planned + self.held_bytes

    def partitions(self) -> list[Partition]:
        """Return the partitions in row order."""
        return [
            Partition(ranges, self.n_classes, self.dtype, self.labels_source, self.pred_probs_source)
            for ranges in self.grid.partitions()
        ]

    def blocks(self) -> tuple[BlockLists, BlockLists]:
        """Return the blocks of labels and of pred_probs, a list a partition; None where tasks read a source."""
        nothing: BlockLists = [None] * self.grid.n_partitions
        return (
            nothing if self.labels_source else self._grouped(self.labels),
            nothing if self.pred_probs_source else self._grouped(self.pred_probs),
        )

    def _grouped(self, array: da.Array) -> BlockLists:
        blocks, size = array.to_delayed().ravel().tolist(), self.grid.partition_batches
        return [blocks[i : i + size] for i in range(0, len(blocks), size)]


def open_inputs(
    labels: Any,
    pred_probs: Any,
    *,
    batch_size: int | memory.Auto = "auto",
    partition_batches: int | memory.Auto = "auto",
    n_jobs: int = 1,
) -> Inputs:
    """Open both inputs, hold them against each other, and lay them out on one grid of batches.

    Nothing is read but labels whose stored chunks the batches would cut: these are read first, once.

    Parameters
    ----------
    labels, pred_probs : array-like
        Anything that `sources.open_labels` and `sources.open_pred_probs` take.
    batch_size, partition_batches : int or "auto"
        As `find_label_issues` takes them; a Dask array keeps its own chunks as batches.
    n_jobs : int
        Processes that are to share the work; 1 leaves it to Dask's threads.

    Raises
    ------
    InvalidInputError
        For what can be refused without reading.
    """
    opened_labels, opened = open_labels(labels), open_pred_probs(pred_probs)
    check_lengths(opened_labels, opened)
    if not opened.shape[0]:
        raise InvalidInputError("labels and pred_probs have no rows")
    memory.check_sizes(batch_size, partition_batches)
    forking = n_jobs > 1 and all(isinstance(o, Source) and o.forkable for o in (opened_labels, opened))
    n_threads = n_jobs if forking else n_workers()
    if not isinstance(opened, Source):
        opened = _whole_rows(opened)
        grid = _dask_grid(opened, n_threads, partition_batches)
    else:
        grid = memory.plan_grid(
            opened.n_rows,
            opened.row_bytes,
            opened.row_chunk,
            n_threads,
            batch_size=batch_size,
            partition_batches=partition_batches,
            min_batch_bytes=1 if forking else STRIP_BYTES,
        )
    if isinstance(opened_labels, Source) and _is_cut(opened_labels.row_chunk, grid):
        read_first = read_narrowed(opened_labels, opened.shape[1])
        return Inputs(read_first, opened, grid, held_bytes=read_first.n_rows * read_first.row_bytes)
    return Inputs(opened_labels, opened, grid)


def _is_cut(row_chunk: int | None, grid: memory.Grid) -> bool:
    """Tell whether batches cut stored chunks, each of which would be decoded again by the next batch."""
    return row_chunk is not None and any(rows % row_chunk for rows in set(grid.batch_rows[:-1]))


def read_twice(inputs: Inputs) -> Inputs:
    """Keep a user's Dask array between its two reads if it fits, else say that it is computed twice."""
    if inputs.pred_probs_source is not None:
        return inputs
    if inputs.pred_probs.nbytes <= psutil.virtual_memory().available * _PERSIST_SHARE:
        kept = persist_array(inputs.pred_probs)
        return replace(inputs, opened_pred_probs=kept, held_bytes=inputs.held_bytes + inputs.n_bytes)
    warn(
        "adjust_pred_probs with normalized_margin reads pred_probs twice, so this Dask array is computed twice; "
        "store it first (da.to_zarr) if computing it is expensive"
    )
    return inputs


def _as_dask_array(name: str, opened: Opened, grid: memory.Grid) -> da.Array:
    """Return a lazy Dask array with one chunk a batch of `grid`."""
    chunks = (grid.batch_rows, *((size,) for size in opened.shape[1:]))
    if not isinstance(opened, Source):
        return opened.rechunk(chunks)
    import dask.array as da

    meta = np.empty((0,) * opened.ndim, opened.dtype)
    return da.from_array(opened, chunks=chunks, name=f"{name}-{token()}", asarray=False, meta=meta)


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
