"""What a task does with its partition in each pass over `pred_probs`: NumPy and files, no Dask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.checks import DEFAULT_CHECKS, RowChecks, errors_in
from labelsieve.confident_learning.scores import Settings, column_kernels
from labelsieve.confident_learning.select import COLUMNS, CandidatePool, Candidates, MarginSearch
from labelsieve.confident_learning.summarize import ScanTotals, label_column
from labelsieve.confident_learning.thresholds import Float64s, Floats, Ints, SummaryBlock
from labelsieve.errors import WorkdirError
from labelsieve.job.grid import BLOCK_ROWS
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
from labelsieve.job.partition import Block, Partition
from labelsieve.storage.checked import Columns, DamagedRecordError


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
