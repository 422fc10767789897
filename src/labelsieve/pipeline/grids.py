"""Plans the grid of batches and partitions: of stored rows by their size, of a Dask array by its own chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from labelsieve import partitioning
from labelsieve.confident_learning.summary_block import MAX_STRIP_ROWS, STRIP_BYTES
from labelsieve.execution.executor import Executor
from labelsieve.partitioning import Auto, Grid, snapped
from labelsieve.pipeline.inputs import Inputs
from labelsieve.settings import Settings
from labelsieve.sources.base import Source

if TYPE_CHECKING:
    import dask.array as da  # for types alone

# Bytes of a batch, which a thread holds at a time, unless stored chunks are larger.
BATCH_BYTES: Final = 48_000_000
# Bytes of a partition, which a task streams: large enough for few tasks, small enough to balance and to repeat.
PARTITION_BYTES: Final = 512_000_000
# Bytes of a partition for each thread of the cluster, if that is more. While the scheduler spends 2.5 ms on a partition
# for each thread, each thread reads 250 MB/s: so the scheduler is busy for 0.4 of the reading time however many threads
# there are.
SCHEDULED_BYTES: Final = 1_560_000
# The batches of all threads take at most this share of the memory.
_BATCH_SHARE: Final = 0.25
# Each thread gets fewer partitions of remote storage, where each begins with a wait for the first answer, unless they
# are so large that the wait does not matter.
REMOTE_PARTITIONS_A_THREAD: Final = 2
_REMOTE_BYTES: Final = 128_000_000
# With more partitions for each thread than this, one more or less is no matter.
_UNEVEN_ROUNDS: Final = 16


def plan_source_grid(
    source: Source,
    n_threads: int,
    executor: Executor,
    batch_size: int | Auto,
    partition_batches: int | Auto,
    min_batch_bytes: int,
) -> Grid:
    """Plan the grid of stored rows, with smaller automatic batches until they fit in memory."""
    limit = executor.limit * executor.n_processes
    while True:
        grid = plan_grid(
            source.n_rows,
            source.row_bytes,
            source.row_chunk,
            n_threads,
            limit,
            batch_size=batch_size,
            partition_batches=partition_batches,
            min_batch_bytes=min_batch_bytes,
            remote=source.prefetch_bytes > 0,
        )
        need = Inputs(source, source, grid).need(Settings())
        smallest = grid.largest_batch <= (source.row_chunk or 1)
        fits = need.in_process(executor.n_threads, stored=True, base=executor.base_bytes) <= executor.limit
        if batch_size != "auto" or source.in_pieces or smallest or fits:
            return grid if source.row_edges is None else _on_edges(source, grid, whole_strips=batch_size == "auto")
        limit = limit * 3 // 4


def _on_edges(source: Source, grid: Grid, *, whole_strips: bool) -> Grid:
    """Return a grid whose partitions end where reading may begin; with batches of whole strips, if these may change."""
    batches, strip = grid.batches, max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // source.row_bytes))
    if whole_strips and isinstance(batches, int):
        batches = max(strip, batches - batches % strip)
    stops = [grid.bounds(index)[1] for index in range(grid.n_partitions)]
    return Grid(grid.n_rows, batches, snapped(stops, source.row_edges))


def plan_grid(
    n_rows: int,
    row_bytes: int,
    row_chunk: int | None,
    n_threads: int,
    limit: int,
    *,
    batch_size: int | Auto = "auto",
    partition_batches: int | Auto = "auto",
    min_batch_bytes: int = STRIP_BYTES,
    remote: bool = False,
) -> Grid:
    """Divide `n_rows` rows of `row_bytes` bytes into batches and partitions.

    Parameters
    ----------
    n_rows, row_bytes : int
        Number of rows of `pred_probs`, and bytes of a decoded row.
    row_chunk : int or None
        Number of rows of a stored chunk. A batch has whole chunks, so that each is decoded once, unless a single chunk
        is too large for the memory.
    n_threads : int
        Number of threads that share the work.
    limit : int
        Bytes of memory that the threads of one process share.
    batch_size : int or "auto"
        Number of rows of a batch. Automatic batches have about 48 MB, and less if there is little memory or if threads
        would get none.
    partition_batches : int or "auto"
        Number of batches of a partition. Automatic partitions have about 512 MB, and less if threads would get few.
    min_batch_bytes : int
        Automatic batches are not made smaller than this to give every thread one.
    remote : bool
        Whether rows are in remote storage, so that partitions should be few.
    """
    most = max(1, int(limit * _BATCH_SHARE) // (n_threads * row_bytes))
    if batch_size == "auto":
        share = max(-(-n_rows // n_threads), min_batch_bytes // row_bytes)
        rows = max(1, min(BATCH_BYTES // row_bytes, share, most))
    else:
        rows = int(batch_size)
    if row_chunk and row_chunk < n_rows:
        rows = max(row_chunk, rows - rows % row_chunk)
    elif row_chunk:
        rows = n_rows
    if row_chunk and rows > most:
        stored = min(row_chunk, n_rows)
        rows = most - most % stored if stored <= most else most
    rows = min(rows, n_rows)
    batches = group_size(rows * row_bytes, n_rows * row_bytes, n_threads, partition_batches, remote=remote)
    n_large = n_rows / (rows * batches * n_threads)
    if partition_batches == "auto" and rows * batches * row_bytes > PARTITION_BYTES and n_large <= _UNEVEN_ROUNDS:
        # The threads of a large cluster would wait some ten seconds for the last ones.
        return Grid.tapered(n_rows, rows, batches)
    return Grid.grouped(n_rows, rows, batches)


def group_size(
    batch_bytes: int, total_bytes: int, n_threads: int, partition_batches: int | Auto = "auto", *, remote: bool = False
) -> int:
    """Return the number of batches of `batch_bytes` bytes in a partition."""
    if partition_batches != "auto":
        return int(partition_batches)
    target = total_bytes // (n_threads * partitioning.PARTITIONS_A_THREAD)
    if remote:
        target = max(target, min(_REMOTE_BYTES, total_bytes // (n_threads * REMOTE_PARTITIONS_A_THREAD)))
    target = min(target, max(PARTITION_BYTES, n_threads * SCHEDULED_BYTES))
    batch_bytes = max(1, batch_bytes)
    return _balanced(max(1, target // batch_bytes), -(-total_bytes // batch_bytes), n_threads)


def _balanced(size: int, n_batches: int, n_threads: int) -> int:
    """Return about `size` batches, so that few threads are idle while others have a partition more.

    With 16,063 partitions on 4,000 threads, the last 63 would take as long as a thousand for each thread.
    """

    def batches_of_a_thread(size: int) -> int:
        return -(-n_batches // (size * n_threads)) * size

    rounds = -(-n_batches // (size * n_threads))
    if not 1 < rounds <= _UNEVEN_ROUNDS:
        return size
    fewer, even = (-(-n_batches // (n * n_threads)) for n in (rounds - 1, rounds))
    sizes = [one for one in (size, fewer, even) if one <= size + size // 50]
    least = min(map(batches_of_a_thread, sizes))
    return next(one for one in sizes if batches_of_a_thread(one) <= 1.02 * least)


def plan_dask_grid(array: da.Array, n_threads: int, partition_batches: int | Auto) -> Grid:
    """Return a grid whose batches are the chunks of a Dask array. A task holds all its blocks, so it gets a few."""
    if partition_batches == "auto":
        largest = max(array.chunks[0]) * array.shape[1] * array.dtype.itemsize
        partition_batches = min(
            max(1, BATCH_BYTES // max(1, largest)),
            group_size(largest, array.nbytes, n_threads),
        )
    return Grid.grouped(len(array), array.chunks[0], int(partition_batches))


def whole_rows(array: da.Array) -> da.Array:
    """Return a user's Dask array with chunks that span all classes; keep its chunks if they do."""
    if len(array.chunks[1]) == 1:
        return array
    rows = max(1, BATCH_BYTES // (array.shape[1] * array.dtype.itemsize))
    return array.rechunk({0: min(rows, max(array.chunks[0])), 1: -1})
