"""What a job is given: its settings, checked once, and both inputs on one grid of batches."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from labelsieve.confident_learning.filters import Filter, filter_of
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import MAX_STRIP_ROWS, STRIP_BYTES
from labelsieve.confident_learning.thresholds import class_dtype, label_dtype
from labelsieve.errors import InvalidInputError, warn
from labelsieve.execution.cluster import choose_executor
from labelsieve.execution.executor import Executor, free_bytes
from labelsieve.execution.graph import Column, nothing_like
from labelsieve.job import grid as grids
from labelsieve.job.grid import Grid, Need, growing_grid, snapped
from labelsieve.job.scan import Block, PartitionWork, RowRange
from labelsieve.options import Auto, JobSettings
from labelsieve.results.store import check_output
from labelsieve.sources.composite import Ensemble, Folds, softmax_blocks
from labelsieve.sources.objects import RETRIES, retry
from labelsieve.sources.open import (
    ArraySource,
    Opened,
    check_axes,
    check_lengths,
    open_labels,
    open_pred_probs,
    read_narrowed,
    where_is,
)
from labelsieve.sources.places import are_places
from labelsieve.sources.recording import open_summaries
from labelsieve.sources.source import Source
from labelsieve.sources.tables import open_columns
from labelsieve.storage.remote import check_place, is_url

if TYPE_CHECKING:
    import dask.array as da  # for types alone: importing it is slow  # for types alone


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

    Attributes
    ----------
    labels_source, pred_probs_source : Source or None
        The sources; None for a Dask array.
    is_stored : bool
        Whether neither is a Dask array of the user.
    in_memory : bool
        Whether labels or probabilities are an array in this process.
    n_classes : int
        Number of classes K.
    no_label : int or None
        The label K in the table of row summaries, where rows may have none.
    dtype : dtype
        Dtype of `pred_probs`, in native byte order.
    row_bytes, read_row_bytes : int
        Bytes of a row of `pred_probs` in memory, and as it is read, before any conversion.
    n_bytes : int
        Bytes of all rows of `pred_probs` as they are read.
    """

    opened_labels: Opened
    opened_pred_probs: Opened
    grid: Grid
    held_bytes: int = 0
    labels_first: bool = False
    ignored: int | None = None
    labels_source: Source | None = field(init=False)
    pred_probs_source: Source | None = field(init=False)
    is_stored: bool = field(init=False)
    in_memory: bool = field(init=False)
    n_classes: int = field(init=False)
    no_label: int | None = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    row_bytes: int = field(init=False)
    read_row_bytes: int = field(init=False)
    n_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        opened = self.opened_labels, self.opened_pred_probs
        labels, probs = (one if isinstance(one, Source) else None for one in opened)
        n_classes, dtype = int(self.opened_pred_probs.shape[1]), self.opened_pred_probs.dtype.newbyteorder("=")
        row_bytes = n_classes * dtype.itemsize if probs is None else probs.row_bytes
        read_row_bytes = row_bytes if probs is None else probs.read_row_bytes
        vars(self).update(
            labels_source=labels,
            pred_probs_source=probs,
            is_stored=labels is not None and probs is not None,
            in_memory=any(source is not None and source.facts.in_memory for source in (labels, probs)),
            n_classes=n_classes,
            no_label=None if self.ignored is None else n_classes,
            dtype=dtype,
            row_bytes=row_bytes,
            read_row_bytes=read_row_bytes,
            n_bytes=self.grid.n_rows * read_row_bytes,
        )

    def read_labels(self) -> Inputs:
        """Return the inputs with the labels in memory, if they are to be read first."""
        if not self.labels_first or not isinstance(self.opened_labels, Source):
            return self
        read, ignored = read_narrowed(self.opened_labels, self.n_classes, self.ignored)
        return replace(self, opened_labels=read, labels_first=False, ignored=ignored)

    @property
    def forkable(self) -> bool:
        """Whether forked processes can read both."""
        return forkable(self.opened_pred_probs) and (self.labels_first or forkable(self.opened_labels))

    def need(self, settings: Settings, rule: Filter | None = None) -> Need:
        """Return the terms of the memory formula; `rule` is the filter, if not that of the settings."""
        n_rows, batch_rows = self.grid.n_rows, self.grid.largest_batch
        probs, labels = self.pred_probs_source, self.labels_source
        if not probs:
            # A task gets all its blocks at once.
            batch_bytes = self.grid.largest_partition * self.row_bytes
        else:
            # A stored chunk is decoded whole, even if it is read in pieces.
            stored_rows = max(batch_rows, min(probs.facts.row_chunk or 0, n_rows))
            batch_bytes = 0 if probs.facts.in_pieces else stored_rows * self.row_bytes
        if not labels:
            batch_bytes += batch_rows * self.opened_labels.dtype.itemsize
        elif labels.facts.row_chunk and not self.labels_first:
            # A strip, and a stored chunk that it cuts.
            rows = min(MAX_STRIP_ROWS + labels.facts.row_chunk, n_rows)
            batch_bytes += rows * max(labels.row_bytes, labels.read_row_bytes)
        ahead = sum(source.facts.prefetch_bytes + source.facts.decoding_bytes for source in (probs, labels) if source)
        n_partitions, item = self.grid.n_partitions, self.dtype.itemsize
        return Need(n_rows, self.n_classes, item, settings, n_partitions, batch_bytes, ahead, self.held_bytes, rule)

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
                columns.append(opened.rechunk((tuple(self.grid.partition_rows), *((n,) for n in opened.shape[1:]))))
                continue
            if not opened.facts.in_memory:
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

    def reachability(self) -> Callable[[], None]:
        """Return a check for workers, which raises if they cannot open an input. Arrays in memory are not checked."""
        sources = (self.labels_source, self.pred_probs_source)
        return partial(_check_reachable, [s for s in sources if s is not None and not s.facts.in_memory])


def map_partitions(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition)`` for each partition, in row order."""
    labels, pred_probs = inputs.labels_source, inputs.pred_probs_source
    if inputs.grid.n_partitions == 1 and labels and pred_probs:  # here, whatever client is active
        work = inputs.work(function)
        return [retry(RETRIES + 1, work, 0, RowRange(labels), RowRange(pred_probs))]
    executor = choose_executor(retries=RETRIES)
    return executor.map("inspect", inputs.work(function), inputs.columns(executor))


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
    return all(isinstance(one, Source) and one.facts.forkable for one in opened)


def kept_bytes(inputs: Inputs, executor: Executor) -> int:
    """Return the bytes of a Dask array that is kept between reads; 0 if it is computed again."""
    limit = executor.limit * executor.n_processes
    room = limit if executor.is_cluster else min(limit, free_bytes())
    fits = inputs.pred_probs_source is None and inputs.n_bytes <= room * _PERSIST_SHARE
    return inputs.n_bytes if fits else 0


def kept_if_it_fits(inputs: Inputs, executor: Executor, n_reads: int) -> Inputs:
    """Keep a user's Dask array if it fits in memory; else warn that each read computes it again."""
    opened = inputs.opened_pred_probs
    if isinstance(opened, Source):
        return inputs
    if kept_bytes(inputs, executor):
        kept = executor.keep(opened.rechunk((tuple(inputs.grid.partition_rows), (inputs.n_classes,))))
        return replace(inputs, opened_pred_probs=kept, held_bytes=inputs.held_bytes + inputs.n_bytes)
    times = "twice" if n_reads == 2 else f"{n_reads} times"
    warn(
        f"these settings read pred_probs {times}, so this Dask array is computed {times}; store it first (da.to_zarr) "
        "if computing it is expensive"
    )
    return inputs


def without_blocks(column: Column, finished: Collection[int]) -> Column:
    """Return a column with None in place of the blocks of finished partitions."""
    if isinstance(column, RowRanges):
        return column
    if isinstance(column, Sequence):
        return [None if index in finished else block for index, block in enumerate(column)]
    import dask.array as da

    parts = []
    for is_finished, group in itertools.groupby(range(column.numblocks[0]), lambda index: index in finished):
        some = list(group)
        blocks = column.blocks[some[0] : some[-1] + 1]
        parts.append(nothing_like(blocks) if is_finished else blocks)
    return da.concatenate(parts)


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
# The filter for which grids are planned.
_ONE_READ: Final = filter_of(Settings())
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
            source.facts.row_chunk,
            n_threads,
            limit,
            batch_size=batch_size,
            partition_batches=partition_batches,
            min_batch_bytes=min_batch_bytes,
            remote=source.facts.prefetch_bytes > 0,
        )
        need = Inputs(source, source, grid).need(_ONE_READ.settings, _ONE_READ)
        smallest = grid.largest_batch <= (source.facts.row_chunk or 1)
        fits = need.in_process(executor.n_threads, stored=True, base=executor.base_bytes) <= executor.limit
        if batch_size != "auto" or source.facts.in_pieces or smallest or fits:
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
    return Grid(n_rows, rows, rows * batches)


def group_size(
    batch_bytes: int, total_bytes: int, n_threads: int, partition_batches: int | Auto = "auto", *, remote: bool = False
) -> int:
    """Return the number of batches of `batch_bytes` bytes in a partition."""
    if partition_batches != "auto":
        return int(partition_batches)
    target = total_bytes // (n_threads * grids.PARTITIONS_A_THREAD)
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


# Labels of at most this size are read first if batches would cut their stored chunks.
_READ_FIRST_BYTES: Final = 64_000_000


def open_given(labels: Any, pred_probs: Any, settings: JobSettings, limit: int) -> tuple[Any, Any, Any]:
    """Return labels, probabilities and names of rows: as they are given, or those of a table.

    Parameters
    ----------
    labels, pred_probs : object
        The arguments of the user.
    settings : JobSettings
        Has a table of both (`data`) or a table of row summaries (`summaries`), or neither.
    limit : int
        Bytes of memory that the run may take in this process.

    Raises
    ------
    InvalidInputError
        For arguments that cannot be given together, and for a table that cannot be what it should be.
    """
    attempts, ids = settings.retries + 1, settings.ids
    if settings.summaries is not None:
        if any(one is not None for one in (labels, pred_probs, settings.data)):
            raise InvalidInputError("give labels and pred_probs, or summaries")
        if settings.from_logits or settings.dtype is not None:
            name = "from_logits" if settings.from_logits else "dtype"
            raise InvalidInputError(f"{name} is for pred_probs: give it where the summaries are made")
        room = min(limit, free_bytes())
        table = retry(attempts, open_summaries, settings.summaries, settings.n_classes, settings.ignore_label, room)
        return table.labels, table.pred_probs, table.ids if ids is None else ids
    if settings.n_classes is not None:
        raise InvalidInputError("n_classes is for summaries: pred_probs has a column for each class")
    if settings.data is not None:
        opening = partial(open_columns, null_labels=settings.ignore_label is None)
        return retry(attempts, opening, settings.data, labels, pred_probs, ids)
    return labels, pred_probs, ids


def given_places(given: Any) -> list[str]:
    """Return the paths and URLs in one argument: itself, or those in a list, an ensemble or folds."""
    if isinstance(given, Ensemble):
        return [place for member in given.members for place in given_places(member)]
    if isinstance(given, Folds):
        return [place for fold in given.folds for one in fold for place in given_places(one)]
    if isinstance(given, list | tuple) and are_places(given):
        return [os.fspath(place) for place in given]
    return [os.fspath(given)] if isinstance(given, str | os.PathLike) else []


def check_output_of(settings: JobSettings, *inputs: Any) -> None:
    """Raise unless the result of a job can be written to its output, which is not one of the inputs.

    Raises
    ------
    LabelsieveError
        As `labelsieve.results.store.check_output`.
    """
    output = settings.output
    place = check_place("output", output) if isinstance(output, str | os.PathLike) else output
    if not isinstance(place, str) or not place.endswith(".zarr"):
        raise InvalidInputError(f"output must be a path or URL that ends in .zarr, not {output!r}")
    given = (settings.data, settings.summaries, settings.ids, *inputs)
    check_output(place, [place for one in given for place in given_places(one)])


def open_pair(
    labels: Any,
    pred_probs: Any,
    class_names: Any = None,
    ids: Any = None,
    *,
    attempts: int = 1,
    from_logits: bool = False,
    allow_zero_rows: bool = False,
    dtype: str | None = None,
    open_as: Callable[[Any], Opened] = open_labels,
) -> tuple[Opened, Opened]:
    """Open both inputs, and compare their shapes and the names of rows and classes. Only headers are read.

    Parameters
    ----------
    labels, pred_probs : object
        The arguments of the user.
    class_names, ids : object, optional
        The user's names of classes and rows.
    attempts : int
        Number of times to try to open each.
    from_logits : bool
        Whether `pred_probs` are logits, which are opened as their probabilities.
    allow_zero_rows : bool
        Whether rows of zeros are accepted.
    dtype : "bfloat16", optional
        What values of `pred_probs` are that are stored as 16 bits without a dtype of NumPy.
    open_as : callable
        Opens the labels: `open_labels`, or `open_label_values` for those that may be names.

    Raises
    ------
    InvalidInputError
        For anything that can be refused without reading.
    """
    opening = partial(open_pred_probs, dtype=dtype, from_logits=from_logits)
    if is_url(labels) and is_url(pred_probs):
        opened_labels, opened = _open_both(labels, pred_probs, attempts, open_as, opening)
    else:
        opened_labels, opened = retry(attempts, open_as, labels), retry(attempts, opening, pred_probs)
    if from_logits and not isinstance(opened, Source):
        opened = softmax_blocks(whole_rows(opened), allow_zero_rows=allow_zero_rows)
    check_lengths(opened_labels, opened)
    if not opened.shape[0]:
        raise InvalidInputError("labels and pred_probs have no rows")
    for member in pred_probs.members if isinstance(pred_probs, Ensemble) else [pred_probs]:
        check_axes(labels, member, class_names, ids)
    for fold, _ in pred_probs.folds if isinstance(pred_probs, Folds) else ():
        check_axes(None, fold, class_names)
    return opened_labels, opened


def _open_both(
    labels: Any, pred_probs: Any, attempts: int, open_as: Callable[[Any], Opened], opening: Callable[[Any], Opened]
) -> tuple[Opened, Opened]:
    """Open both inputs at the same time, since each waits for a remote store."""
    other: Future[Opened] = Future()

    def open_other() -> None:
        try:
            other.set_result(retry(attempts, opening, pred_probs))
        except BaseException as error:  # noqa: BLE001  # raised below, if the labels open
            other.set_exception(error)

    # A daemon thread, so that an error of the labels or Ctrl-C does not wait for a store that does not answer.
    Thread(target=open_other, name="labelsieve-open", daemon=True).start()
    return retry(attempts, open_as, labels), other.result()


def open_inputs(labels: Any, pred_probs: Any, **how: Any) -> Inputs:
    """Open both inputs, and return them on a grid; read labels that are to be read first.

    Parameters
    ----------
    labels, pred_probs : array-like
        Anything that `sources.open_labels` and `sources.open_pred_probs` take.
    **how
        As `on_grid` takes it.

    Raises
    ------
    InvalidInputError
        For anything that can be refused without reading.
    """
    return on_grid(*open_pair(labels, pred_probs), **how).read_labels()


def on_grid(
    labels: Opened,
    pred_probs: Opened,
    *,
    batch_size: int | Auto = "auto",
    partition_batches: int | Auto = "auto",
    n_jobs: int = 1,
    executor: Executor | None = None,
    earlier: Mapping[str, Sequence[int]] | None = None,
    ignored: int | None = None,
) -> Inputs:
    """Plan one grid of batches for two inputs. Nothing is read.

    Parameters
    ----------
    labels, pred_probs : Source or dask.array.Array
        The inputs, opened.
    batch_size, partition_batches : int or "auto"
        As `find_label_issues` takes them; a Dask array keeps its own chunks as batches.
    n_jobs : int
        Number of processes to fork; 1 uses Dask's threads.
    executor : Executor, optional
        Runs the tasks; by default the active client or threads.
    earlier : mapping, optional
        For a run with a workdir: the partitions of the earlier run in it, which are kept (`growing_grid`).
    ignored : int, optional
        The value of labels that says that a row has none; by default what the labels themselves say (`Source.ignored`).
    """
    if ignored is None and isinstance(labels, Source):
        ignored = labels.ignored
    executor = executor or choose_executor()
    forking = n_jobs > 1 and not executor.is_cluster and forkable(labels, pred_probs)
    n_threads = n_jobs if forking else executor.all_threads
    if not isinstance(pred_probs, Source):
        pred_probs = whole_rows(pred_probs)
        planned = plan_dask_grid(pred_probs, n_threads, partition_batches)
    else:
        least = 1 if forking else STRIP_BYTES
        planned = plan_source_grid(pred_probs, n_threads, executor, batch_size, partition_batches, least)
        stored, partition_rows = min(pred_probs.facts.row_chunk or 0, pred_probs.n_rows), planned.largest_partition
        if stored > partition_rows:
            warn(
                f"a stored chunk of {stored:,} rows takes {stored * pred_probs.row_bytes / 1e9:.1f} GB, too much for "
                f"{n_threads} threads: it is read about {math.ceil(stored / partition_rows)} times, in pieces, and "
                "decoded whole each time if it spans all classes. Chunks of fewer rows avoid that."
            )
    if earlier is not None:
        planned = growing_grid(pred_probs, planned, earlier)
    # Labels are read first if they are small, or if partitions would decode a chunk again.
    small = labels.shape[0] * class_dtype(pred_probs.shape[1]).itemsize <= _READ_FIRST_BYTES
    if not (
        isinstance(labels, Source)
        and _cuts(planned, labels)
        and ((small and not executor.is_cluster) or _stored_rows(labels) > planned.largest_partition)
    ):
        return Inputs(labels, pred_probs, planned, ignored=ignored)
    # The labels in the smallest dtype, and the stored chunk that is being decoded.
    held = labels.n_rows * label_dtype(pred_probs.shape[1], ignored).itemsize
    held += min(labels.facts.row_chunk or 0, labels.n_rows) * labels.dtype.itemsize
    return Inputs(labels, pred_probs, planned, held_bytes=held, labels_first=True, ignored=ignored)


def _cuts(grid: Grid, labels: Source) -> bool:
    """Return whether the labels of some rows would be decoded again for the next batch or partition."""
    edges, row_chunk = labels.row_edges, labels.facts.row_chunk
    if edges is not None:
        ends = set(edges.tolist())
        return any(grid.bounds(index)[1] not in ends for index in range(grid.n_partitions))
    if not row_chunk:
        return False
    if isinstance(grid.batches, int) and grid.n_rows > grid.largest_batch and grid.batches % row_chunk:
        return True
    if isinstance(grid.batches, tuple):
        sizes: Sequence[int] = grid.batches
    else:
        sizes = [grid.partitions] * grid.n_partitions if isinstance(grid.partitions, int) else grid.partition_rows
    return any(rows % row_chunk for rows in set(sizes[:-1]))


def _stored_rows(source: Source) -> int:
    """Return the largest number of rows that are decoded together."""
    edges = source.row_edges
    return source.facts.row_chunk or 0 if edges is None else int(np.diff(edges, prepend=0).max())
