"""How rows are cut in batches and partitions. No data and no Dask: arithmetic, and a look at the free memory.

Covers: `Grid`, `plan_grid`, and the memory that a run on threads takes (`planned_bytes`).
Does not cover: limits given by the user or found on workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import psutil

from labelsieve.errors import warn
from labelsieve.kernels import STRIP_BYTES, class_dtype
from labelsieve.settings import Settings, check_whole_number

# What one thread holds at a time, unless the stored chunks are larger.
BATCH_BYTES: Final = 48_000_000
# What one task streams: large enough for few tasks, small enough to share out and to redo.
PARTITION_BYTES: Final = 512_000_000
# Each thread should get some partitions, so that the last ones do not leave it idle.
_PARTITIONS_A_THREAD: Final = 4
# A batch takes at most this share of the free memory over all threads.
_BATCH_SHARE: Final = 0.25

# The interpreter with NumPy, Dask and Zarr, before any work.
INTERPRETER_BYTES: Final = 120_000_000
# A histogram of scores, of which a partition gives one.
HISTOGRAM_BYTES: Final = 65_536
# An issue with its columns, while the issues of all partitions are put in order.
ISSUE_BYTES: Final = 120

Auto = Literal["auto"]


@dataclass(frozen=True)
class Grid:
    """Batches of rows, grouped in partitions.

    Parameters
    ----------
    n_rows : int
        All rows.
    batch_rows : tuple of int
        Rows of each batch, in order; one batch is one chunk of the Dask arrays.
    partition_batches : int
        Consecutive batches that one task streams.
    """

    n_rows: int
    batch_rows: tuple[int, ...]
    partition_batches: int

    @property
    def n_partitions(self) -> int:
        """Number of tasks that read."""
        return -(-len(self.batch_rows) // self.partition_batches)

    def partitions(self) -> Iterator[list[tuple[int, int]]]:
        """Yield each partition as its batches' row ranges ``[start, stop)``."""
        ranges, start = [], 0
        for index, rows in enumerate(self.batch_rows, start=1):
            ranges.append((start, start + rows))
            start += rows
            if index % self.partition_batches == 0 or index == len(self.batch_rows):
                yield ranges
                ranges = []


def plan_grid(
    n_rows: int,
    row_bytes: int,
    row_chunk: int | None,
    n_threads: int,
    *,
    batch_size: int | Auto = "auto",
    partition_batches: int | Auto = "auto",
    min_batch_bytes: int = STRIP_BYTES,
) -> Grid:
    """Cut `n_rows` rows of `row_bytes` bytes in batches and partitions.

    Parameters
    ----------
    n_rows, row_bytes : int
        Length of `pred_probs` and bytes of its decoded row.
    row_chunk : int or None
        Rows stored together: a batch is a whole number of these, so that each is decoded once, unless one alone is too
        big for the free memory.
    n_threads : int
        Threads that share the work.
    batch_size : int or "auto"
        Rows of a batch; auto takes about 48 MB, less where there are too few rows for all threads.
    partition_batches : int or "auto"
        Batches of a partition; auto takes about 512 MB, less where there are few rows a thread.
    min_batch_bytes : int
        Bytes below which an automatic batch is not cut to give every thread one.
    """
    if batch_size == "auto":
        share = max(-(-n_rows // n_threads), min_batch_bytes // row_bytes)
        rows = max(1, min(BATCH_BYTES // row_bytes, share))
    else:
        rows = int(batch_size)
    if row_chunk and row_chunk < n_rows:
        rows = max(row_chunk, rows - rows % row_chunk)
    elif row_chunk:
        rows = n_rows
    if row_chunk:
        rows = _within_budget(rows, min(row_chunk, n_rows), row_bytes, n_threads)
    rows = min(rows, n_rows)
    return Grid(
        n_rows, equal_runs(n_rows, rows), group_size(rows * row_bytes, n_rows * row_bytes, n_threads, partition_batches)
    )


def _within_budget(rows: int, stored_rows: int, row_bytes: int, n_threads: int) -> int:
    """Return `rows`, or as many as fit where a stored chunk is too big for its share of the free memory."""
    most = max(1, int(psutil.virtual_memory().available * _BATCH_SHARE) // (n_threads * row_bytes))
    if rows <= most:
        return rows
    if stored_rows <= most:
        return most - most % stored_rows
    warn(
        f"a stored chunk of {stored_rows:,} rows takes {stored_rows * row_bytes / 1e9:.1f} GB, too much for "
        f"{n_threads} threads: it is read about {-(-stored_rows // most)} times, in pieces, and decoded "
        "whole each time where it spans all classes. Chunks of fewer rows avoid that."
    )
    return most


def planned_bytes(
    n_rows: int,
    n_classes: int,
    itemsize: int,
    n_threads: int,
    settings: Settings,
    *,
    n_partitions: int = 1,
    batch_bytes: int = 0,
) -> int:
    """Return the most own memory, in bytes, that a run on threads takes, but for `ISSUE_BYTES` an issue.

    The interpreter; for each thread a stored batch, decoded and not, and scratch for a strip; the sums and histograms
    that the reduction trees hold; for each row its summary.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    itemsize : int
        Bytes of a probability.
    n_threads : int
        Threads that read.
    settings : Settings
        The scores: computed ones take 8 bytes a row, and twice that while they are adjusted.
    n_partitions : int
        Tasks that read.
    batch_bytes : int
        Decoded bytes that a thread holds of batches that are read whole (Zarr, HDF5, Fortran order, Dask); 0 where they
        are read strip by strip (``.npy`` files and arrays in memory).
    """
    scores = 4 if itemsize == 2 else 0
    if not settings.plain_self_confidence:
        scores = 16 if settings.adjust_pred_probs else 8
    # A strip, a copy of it with columns as rows, and where whole rows are scored some float64 copies.
    copies = 3 if settings.plain_self_confidence else 3 + 5 * 8 // itemsize
    thread = 2.25 * batch_bytes + copies * STRIP_BYTES
    partials = min(n_partitions, 32 + n_partitions // 16) * (24 * n_classes + HISTOGRAM_BYTES)
    row = 2 * class_dtype(n_classes).itemsize + 2 * itemsize + scores
    return int(INTERPRETER_BYTES + n_threads * thread + partials + n_rows * row)


def equal_runs(n_rows: int, rows: int) -> tuple[int, ...]:
    """Cut `n_rows` rows in runs of `rows`, the last one shorter."""
    whole, rest = divmod(n_rows, rows)
    return (rows,) * whole + ((rest,) if rest else ())


def group_size(batch_bytes: int, total_bytes: int, n_threads: int, partition_batches: int | Auto = "auto") -> int:
    """Return how many batches of `batch_bytes` bytes make a partition."""
    if partition_batches != "auto":
        return int(partition_batches)
    target = min(PARTITION_BYTES, total_bytes // (n_threads * _PARTITIONS_A_THREAD))
    return max(1, target // max(1, batch_bytes))


def check_sizes(batch_size: object, partition_batches: object) -> None:
    """Raise unless both are "auto" or a whole number of at least 1.

    Raises
    ------
    InvalidInputError
        Naming the one that is not.
    """
    for name, value in (("batch_size", batch_size), ("partition_batches", partition_batches)):
        if not (isinstance(value, str) and value == "auto"):
            check_whole_number(name, value, 1, otherwise='"auto" or ')
