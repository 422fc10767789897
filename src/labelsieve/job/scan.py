"""The rows of a task, and what it does with them in each pass over `pred_probs`: NumPy and files, no Dask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import DEFAULT_CHECKS, RowChecks, errors_in
from labelsieve.confident_learning.joint import JointCounter
from labelsieve.confident_learning.scores import Settings, column_kernels
from labelsieve.confident_learning.select import COLUMNS, CandidatePool, Candidates, MarginSearch
from labelsieve.confident_learning.summarize import MAX_STRIP_ROWS, STRIP_BYTES, ScanTotals, Summarizer, label_column
from labelsieve.confident_learning.thresholds import Float64s, Floats, Ints, SummaryBlock
from labelsieve.errors import InvalidInputError, WorkdirError, locate
from labelsieve.execution.graph import stop_if_abandoned
from labelsieve.job.grid import BLOCK_ROWS, Grid, Span
from labelsieve.job.kept import (
    Records,
    RescanTotals,
    SummaryChunk,
    SummaryReader,
    footer_of,
    footer_of_rescan,
    rescan_of_footer,
    totals_of_footer,
)
from labelsieve.sources.open import ArraySource
from labelsieve.sources.source import Source
from labelsieve.storage.checked import Columns, DamagedRecordError

Block = npt.NDArray[Any]
ReadRows = Callable[[int, int], Block]


class RowRange:
    """A lazy range of rows of a source: the argument of a task that reads them.

    Parameters
    ----------
    source : Source
        Source of the rows.
    start, stop : int
        The rows ``[start, stop)``; all by default.
    origin : int
        Number of the first row of the source, which may be a part of an input.
    """

    def __init__(self, source: Source, start: int = 0, stop: int | None = None, origin: int = 0) -> None:
        self.source, self.start, self.stop = source, start, source.n_rows if stop is None else stop
        self.origin = origin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the names of attributes: each task of a graph is sent two ranges."""
        return RowRange, (self.source, self.start, self.stop, self.origin)

    @classmethod
    def of_part(cls, source: Source, start: int, stop: int) -> RowRange:
        """Return rows ``[start, stop)`` of `source`, without the shards and the versions of chunks of other rows."""
        part, origin = source.part(start, stop)
        return cls(part, start - origin, stop - origin, origin)


@dataclass(frozen=True)
class Batches:
    """The batches of one partition.

    Parameters
    ----------
    index : int
        Number of the partition.
    ranges : sequence of tuple of int
        Row range ``[start, stop)`` of each batch.
    """

    index: int
    ranges: Sequence[tuple[int, int]]


class Partition:
    """The rows of one task, read strip by strip.

    Parameters
    ----------
    batches : Batches
        The row ranges.
    labels, pred_probs : RowRange, array or None
        The rows, lazy or in memory; None if they are not needed.
    n_classes : int
        Columns of `pred_probs`.
    dtype : dtype
        Dtype of `pred_probs`.
    ignored : int, optional
        The value of labels that says that a row has none.

    Attributes
    ----------
    has_pred_probs, has_both : bool
        Whether the task has rows of `pred_probs`, and of both inputs.
    summarizer : type
        What makes row summaries of the strips.
    joint_counter : type
        What counts the confident joint of the strips of a second pass.
    strip_rows : int
        Number of rows of a strip.
    """

    def __init__(
        self,
        batches: Batches,
        labels: RowRange | Block | None,
        pred_probs: RowRange | Block | None,
        n_classes: int,
        dtype: np.dtype[Any],
        ignored: int | None = None,
    ) -> None:
        self.index, self.ranges, self.ignored = batches.index, tuple(batches.ranges), ignored
        self.n_classes, self.dtype = n_classes, dtype.newbyteorder("=")
        self.start, self.stop = self.ranges[0][0], self.ranges[-1][1]
        self.n_rows = self.stop - self.start
        self._labels, self._pred_probs = labels, pred_probs
        self.has_pred_probs, self.has_both = pred_probs is not None, labels is not None and pred_probs is not None
        row_bytes = n_classes * self.dtype.itemsize
        self.summarizer, self.joint_counter = Summarizer, JointCounter
        if isinstance(pred_probs, RowRange):
            source = pred_probs.source
            self.summarizer, self.joint_counter = source.summarizer, source.joint_counter
            row_bytes = source.strip_row_bytes or source.row_bytes
        self.strip_rows = max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // row_bytes))
        # The batches to read; neighbours are joined up to a strip: tiny batches cost time and save no memory.
        self._batches: list[tuple[int, int]] = []
        for start, stop in self.ranges:
            if self._batches and stop - self._batches[-1][0] <= self.strip_rows:
                self._batches[-1] = self._batches[-1][0], stop
            else:
                self._batches.append((start, stop))

    def _strips(self) -> Iterator[tuple[int, int]]:
        """Yield the rows ``[start, stop)`` of each strip, which batches cut too; in between the task may be stopped."""
        for first, last in self._batches:
            for start in range(first, last, self.strip_rows):
                stop_if_abandoned()
                yield start, min(start + self.strip_rows, last)
        stop_if_abandoned()

    def strips(self, *, raw: bool = True) -> Iterator[tuple[Block, Block]]:
        """Yield ``(n,)`` labels, and what `summarizer` takes for ``(n, K)`` probabilities, in row order.

        These are the probabilities themselves unless `raw`.
        """
        with (
            self._reader(self._labels, self.n_rows) as labels,
            self._reader(self._pred_probs, self.n_rows, self.n_classes, raw=raw) as probs,
        ):
            for start, stop in self._strips():
                strip = probs(start, stop)
                yield labels(start, stop), strip

    def label_strips(self) -> Iterator[Block]:
        """Yield ``(n,)`` labels in row order, without reading probabilities."""
        with self._reader(self._labels, self.n_rows) as labels:
            for start, stop in self._strips():
                yield labels(start, stop)

    def prob_strips(self) -> Iterator[Block]:
        """Yield ``(n, K)`` probabilities in row order, without reading labels."""
        with self._reader(self._pred_probs, self.n_rows, self.n_classes) as probs:
            for start, stop in self._strips():
                yield probs(start, stop)

    @contextmanager
    def _reader(self, rows: RowRange | Block | None, *shape: int, raw: bool = False) -> Iterator[ReadRows]:
        """Yield what reads rows ``[start, stop)`` in ascending order; `rows` have `shape` if they are in memory.

        They are read by strips if that costs no more, otherwise by batches.
        """
        stop_if_abandoned()
        if isinstance(rows, RowRange):
            source, origin = rows.source.part(self.start - rows.origin, self.stop - rows.origin)
            origin += rows.origin
        else:
            source, origin = ArraySource(_checked_block(rows, shape, self.dtype)), self.start
        batches, first, held = self._batches, 0, np.empty(0)

        def of_batch(start: int, stop: int) -> Block:
            nonlocal first, held
            if not first <= start < first + len(held):
                first, end = next(batch for batch in batches if batch[0] <= start < batch[1])
                held = opened.read(first - origin, end - origin)
            return held[start - first : stop - first]

        opening = source.open_raw if raw else source.open
        with closing(opening(batches[0][0] - origin, batches[-1][1] - origin)) as opened:
            in_pieces = source.facts.in_pieces
            yield (lambda start, stop: opened.read(start - origin, stop - origin)) if in_pieces else of_batch


def _checked_block(block: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Block:
    """Return a block of a user's Dask array; raise if its shape or dtype is not that of the array."""
    name = "labels" if len(shape) == 1 else "pred_probs"
    if block is None:
        raise RuntimeError("this task has no rows to read")
    if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
        raise InvalidInputError(f"a block of the Dask array {name} has masked values: drop or fill them first")
    block = np.asarray(block)
    if block.shape != shape:
        raise InvalidInputError(f"a block of the Dask array {name} has shape {block.shape}; the array says {shape}")
    expected = dtype if len(shape) == 2 else "integers"
    if block.dtype.kind not in "iu" if len(shape) == 1 else block.dtype.newbyteorder("=") != dtype:
        raise InvalidInputError(f"a block of the Dask array {name} has dtype {block.dtype}; the array says {expected}")
    checked: Block = block
    return checked


@dataclass(frozen=True)
class PartitionWork:
    """Runs a function on a partition of `pred_probs`.

    Parameters
    ----------
    work : callable
        Called with a `Partition` and the further arguments of the task.
    grid : Grid
        The partitions. Tasks get only their numbers, to keep the graph small.
    n_classes : int
        Number of classes K.
    dtype : dtype
        Dtype of `pred_probs`.
    where : str
        Place of `pred_probs`, for messages.
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    work: Callable[..., Any]
    grid: Grid
    n_classes: int
    dtype: np.dtype[Any]
    where: str
    ignored: int | None = None

    @property
    def n_first(self) -> int:
        """Number of partitions that are to be read first, because later ones are smaller; 0 if none are."""
        return self.grid.n_large

    def batches(self, partition: int | Batches) -> Batches:
        """Return the batches of a partition, which may be given by its number."""
        if isinstance(partition, Batches):
            return partition
        return Batches(partition, self.grid.ranges(partition))

    def name(self, partition: int | Batches) -> str:
        """Name a partition for messages."""
        batches = self.batches(partition)
        start, stop = batches.ranges[0][0], batches.ranges[-1][1]
        return f"partition {batches.index} (rows {start:,}..{stop - 1:,}) of {self.where}"

    def n_rows(self, partition: int | Batches) -> int:
        """Return the number of rows of a partition."""
        ranges = self.batches(partition).ranges
        return ranges[-1][1] - ranges[0][0]

    def first_row(self, partition: int | Batches) -> int:
        """Return the number of the first row of a partition."""
        return self.batches(partition).ranges[0][0]

    def __call__(self, partition: int | Batches, labels: Any, pred_probs: Any, *more: Any) -> Any:
        """Call the function; errors name the partition."""
        try:
            if not isinstance(partition, Batches):
                partition = Batches(partition, self.grid.ranges(partition))
            return self.work(Partition(partition, labels, pred_probs, self.n_classes, self.dtype, self.ignored), *more)
        except Exception as error:
            locate(error, self.name(partition), self.batches(partition).ranges)
            raise


@dataclass(frozen=True)
class ChunkWork:
    """Runs a function on a chunk of row summaries, or on a stretch of the sorted issues.

    Parameters
    ----------
    work : callable
        Called with the chunk or stretch and the further arguments of the task.
    where : str
        Place of the chunks, for messages.
    """

    work: Callable[..., Any]
    where: str

    def name(self, rows: Any) -> str:
        """Name a chunk for messages. The row numbers of a chunk that a worker holds are not known here."""
        if isinstance(rows, Stretch):
            return f"issues {rows.start:,}..{rows.stop - 1:,} in {self.where}"
        if not isinstance(rows, SummaryChunk | Span):
            return f"row summaries in {self.where}"
        return f"rows {rows.start:,}..{rows.start + self.n_rows(rows) - 1:,} of the row summaries in {self.where}"

    def n_rows(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of rows of a chunk."""
        return rows.n_rows if isinstance(rows, SummaryChunk) else rows.stop - rows.start

    def first_row(self, rows: SummaryChunk | Span | Stretch) -> int:
        """Return the number of the first row of a chunk, or the first rank of a stretch."""
        return rows.start

    def __call__(self, rows: SummaryChunk | Span | Stretch, *more: Any) -> Any:
        """Call the function; errors name the rows."""
        try:
            return self.work(rows, *more)
        except Exception as error:
            locate(error, self.name(rows))
            raise


@dataclass(frozen=True)
class Stretch:
    """Consecutive ranks of the final order, and the ranges of keys that hold their rows.

    Parameters
    ----------
    start, stop : int
        Ranks ``[start, stop)``.
    first : int
        Rank of the first row of the first range.
    edges : tuple of int
        Number of the first range, and of the last range plus one.
    """

    start: int
    stop: int
    first: int
    edges: tuple[int, int]


def scan(
    partition: Partition,
    *,
    settings: Settings,
    records: Records | None = None,
    checks: RowChecks = DEFAULT_CHECKS,
    in_memory: bool = True,
) -> SummaryChunk | ScanTotals:
    """Read a partition once, and commit its summaries if there are records, unless they are committed.

    Parameters
    ----------
    partition : Partition
        Rows to read.
    settings : Settings
        How to score rows.
    records : Records, optional
        Where to commit the summaries.
    checks : RowChecks
        Which rows are accepted although they cannot be a distribution. With others nothing is committed: the next run
        reads the corrected rows.
    in_memory : bool
        Whether to return the summaries; otherwise these are the totals alone.
    """
    n_rows, start = partition.n_rows, partition.start
    if records is None:
        return SummaryChunk(start, *read_rows(partition, settings))
    whole, position = None, 0
    if in_memory:
        computed = column_kernels(settings)
        whole = SummaryBlock.empty(n_rows, partition.n_classes, partition.dtype, computed, partition.ignored)

    def take(block: Columns) -> None:
        nonlocal position
        if whole is not None:
            columns: dict[str, Any] = dict(block)
            position = whole.put(position, SummaryBlock(**columns))

    footer = records.committed("summaries", partition.index, n_rows, take)
    if footer is not None:
        totals = totals_of_footer(footer, start)
        return totals if whole is None else SummaryChunk(start, whole, totals)
    if not partition.has_both:
        raise DamagedRecordError(f"the record of partition {partition.index} in {records.folder.where} is damaged")
    labels = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with records.create("summaries", partition.index) as writer:

        def commit(taken: SummaryBlock) -> None:
            labels.update(_label_bytes(taken.label))
            for first in range(0, len(taken), BLOCK_ROWS):
                writer.add(taken[first : first + BLOCK_ROWS].columns())

        last, totals = read_rows(partition, settings, None, None if in_memory else min(n_rows, BLOCK_ROWS), commit)
        commit(last)
        if not errors_in(totals.findings, checks):
            writer.finish(footer_of(totals, start) | {"labels": labels.hexdigest()})
    return SummaryChunk(start, last, totals) if in_memory else totals


def rescan(
    partition: Partition, chunk: SummaryChunk | None, *, reader: SummaryReader, keeps_off_diagonal: bool
) -> SummaryChunk | RescanTotals:
    """Read a partition a second time for the columns that need the thresholds.

    Parameters
    ----------
    partition : Partition
        Rows to read.
    chunk : SummaryChunk or None
        Summaries of these rows, to which the columns are added; None to commit the columns, unless they are committed.
    reader : SummaryReader
        Settings, thresholds and records.
    keeps_off_diagonal : bool
        Whether to keep the column `off_diagonal`; otherwise the rows are only counted.
    """
    index, n_rows, records = partition.index, partition.n_rows, None if chunk else reader.rescan_records
    if records is not None:
        footer = records.committed("rescan", index, n_rows)
        if footer is not None:
            return rescan_of_footer(footer)
        if not partition.has_pred_probs:
            raise DamagedRecordError(f"the second record of partition {index} in {records.folder.where} is damaged")
    summaries = iter([chunk.summary]) if chunk else reader.stored(index, 0, n_rows)
    second, n_held = _SecondPass(reader, partition, keeps_off_diagonal=keeps_off_diagonal), 0
    held = second.empty(n_rows if records is None else BLOCK_ROWS)
    with nullcontext() if records is None else records.create("rescan", index) as writer:

        def write() -> None:
            if writer is not None and n_held:
                writer.add({name: column[:n_held] for name, column in held.items()})

        for some, probs in aligned(partition, summaries):
            if writer is not None and n_held + len(some) > BLOCK_ROWS:
                write()
                n_held = 0
            for name, values in second.columns(some, probs).items():
                held[name][n_held : n_held + len(some)] = values
            n_held += len(some)
        totals = second.totals(n_rows)
        write()
        if writer is not None:
            writer.finish(footer_of_rescan(totals))
    return totals if chunk is None else replace(chunk, summary=replace(chunk.summary, **held), rescan=totals)


class _SecondPass:
    """Computes the columns of a second pass, strip by strip.

    Parameters
    ----------
    reader : SummaryReader
        Settings and thresholds.
    partition : Partition
        What is read.
    keeps_off_diagonal : bool
        Whether to keep the column `off_diagonal`.
    """

    def __init__(self, reader: SummaryReader, partition: Partition, *, keeps_off_diagonal: bool) -> None:
        self._no_label = reader.no_label
        settings, self._keeps_off_diagonal = reader.settings, keeps_off_diagonal and reader.settings.counts_joint
        self._scores = column_kernels(settings, reader.thresholds) if settings.scores_need_rescan else {}
        counter = partition.joint_counter
        self._joint = counter(reader.thresholds, partition.dtype) if settings.counts_joint else None

    def empty(self, n_rows: int) -> dict[str, Any]:
        """Return uninitialized columns of `n_rows` rows."""
        columns: dict[str, Any] = {name: np.empty(n_rows, np.float64) for name in self._scores}
        return columns | ({"off_diagonal": np.empty(n_rows, np.bool_)} if self._keeps_off_diagonal else {})

    def columns(self, summary: SummaryBlock, probs: Floats) -> Columns:
        """Return the columns of the ``(n, K)`` strip `probs`; rows without a label are not looked at."""
        if self._no_label is None or summary.label.max(initial=0) < self._no_label:
            return self._columns(summary, probs)
        columns = {name: np.zeros_like(column) for name, column in self.empty(len(summary)).items()}
        rows = np.flatnonzero(summary.label < self._no_label)
        if len(rows):
            for name, values in self._columns(summary[rows], probs[rows]).items():
                columns[name][rows] = values
        return columns

    def _columns(self, summary: SummaryBlock, probs: Floats) -> Columns:
        found: dict[str, Any] = {name: kernel(probs, summary.label) for name, kernel in self._scores.items()}
        if self._joint is not None:
            off = self._joint.add(summary, probs)
            found |= {"off_diagonal": off} if self._keeps_off_diagonal else {}
        return found

    def totals(self, n_read: int) -> RescanTotals:
        """Return the totals of all strips so far."""
        joint, n_off_diagonal = (None, 0) if self._joint is None else self._joint.counts()
        return RescanTotals(joint, n_off_diagonal, n_read)


def aligned(partition: Partition, summaries: Iterator[SummaryBlock]) -> Iterator[tuple[SummaryBlock, Block]]:
    """Yield strips of a partition with the summaries of their rows, although these come in blocks of other lengths."""
    block: SummaryBlock | None = None
    for strip in partition.prob_strips():
        start = 0
        while start < len(strip):
            if block is None or not len(block):
                block = next(summaries)
            n = min(len(block), len(strip) - start)
            yield block[:n], strip[start : start + n]
            block, start = block[n:], start + n


def pair_candidates(
    partition: Partition, chunk: SummaryChunk | None, search: MarginSearch, *, reader: SummaryReader
) -> Candidates:
    """Read a partition a third time, and return the rows of largest margin of each pair of classes."""
    summaries = iter([chunk.summary]) if chunk else reader.stored(partition.index, 0, partition.n_rows)
    pool, first = CandidatePool(search), partition.start
    for summary, probs in aligned(partition, summaries):
        pool.add(summary, probs, first)
        first += len(probs)
    return replace(pool.candidates(), n_read=partition.n_rows)


def store_candidates(records: Records, found: Candidates, n_done: int) -> None:
    """Commit the candidates of the first `n_done` partitions, and replace those of fewer partitions."""
    with records.create("margins", 0) as writer:
        for start in range(0, len(found), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            writer.add({name: getattr(found, name)[rows] for name in COLUMNS})
        writer.finish({"n_done": n_done})


def stored_candidates(records: Records) -> tuple[Candidates, int]:
    """Return the committed candidates, and the number of partitions that they cover, which may be 0."""
    none = Candidates.none()
    parts: list[Columns] = [{name: getattr(none, name) for name in COLUMNS}]
    try:
        with records.open("margins", 0) as record:
            parts += record.blocks()
            n_done = int(record.footer["n_done"])
    except (FileNotFoundError, IsADirectoryError, DamagedRecordError, WorkdirError, ValueError, KeyError):
        return none, 0
    pairs, margins, rows = (np.concatenate([part[name] for part in parts]) for name in COLUMNS)
    return Candidates(pairs, margins, rows), n_done


_DIGEST_BYTES: Final = 16


def has_same_labels(partition: Partition, *, records: Records) -> bool:
    """Return whether the record of a partition was made with the labels that its rows have now. Only these are read."""
    try:
        with records.reading("summaries", partition.index) as record:
            then, n_rows = record.footer["labels"], record.n_rows
    except (DamagedRecordError, WorkdirError, KeyError, TypeError):
        return False
    labels = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for strip in partition.label_strips():
        column = label_column(strip, partition.n_classes, partition.ignored)
        if column is None:
            return False
        labels.update(_label_bytes(column))
    return n_rows == partition.n_rows and then == labels.hexdigest()


def _label_bytes(labels: Ints) -> bytes:
    return labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes()


def class_sums(partition: Partition) -> ScanTotals:
    """Check a partition and return its class sums."""
    return read_rows(partition, Settings())[1]


def read_rows(
    partition: Partition,
    settings: Settings,
    thresholds: Float64s | None = None,
    capacity: int | None = None,
    consume: Callable[[SummaryBlock], object] = lambda _: None,
    inspect: Callable[[SummaryBlock, Block], object] | None = None,
) -> tuple[SummaryBlock, ScanTotals]:
    """Summarize the rows of a partition.

    Parameters
    ----------
    partition : Partition
        Rows to read.
    settings : Settings
        How to score rows.
    thresholds : (K,) float64, optional
        Confident thresholds, if they are known before the read.
    capacity : int, optional
        Number of rows whose summaries are held; by default all.
    consume : callable
        Called with the summaries that are held, when there is no room for more.
    inspect : callable, optional
        Called with the summaries of each strip, and the strip as the summarizer takes it.

    Returns
    -------
    summaries : SummaryBlock
        The summaries that were not consumed.
    totals : ScanTotals
        The totals of all rows.
    """
    n_rows = partition.n_rows if capacity is None else capacity
    summarizer = partition.summarizer(
        n_rows, partition.n_classes, partition.dtype, settings, partition.start, thresholds, partition.ignored
    )
    for labels, probs in partition.strips():
        if summarizer.room < len(probs):
            consume(summarizer.take())
        summary = summarizer.add(labels, probs)
        if inspect is not None:
            inspect(summary, probs)
    return summarizer.take(), summarizer.totals()
