"""The first pass, which reads a partition of `pred_probs` and summarizes its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from labelsieve.confident_learning.dtypes import Float64s, Ints
from labelsieve.confident_learning.quality_scores import column_kernels
from labelsieve.confident_learning.summarizer import ScanTotals, label_column
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.validation import RowChecks, errors_in
from labelsieve.errors import WorkdirError
from labelsieve.memory import BLOCK_ROWS
from labelsieve.settings import Settings
from labelsieve.storage.record_files import Columns, DamagedRecordError
from labelsieve.tasks.checkpoint import Records
from labelsieve.tasks.partition import Block, Partition
from labelsieve.tasks.summary_reader import SummaryChunk
from labelsieve.tasks.totals import footer_of, totals_of_footer

_DIGEST_BYTES: Final = 16


def scan(partition: Partition, *, settings: Settings) -> SummaryChunk:
    """Read a partition once and return its summaries."""
    return SummaryChunk(partition.start, *read_rows(partition, settings))


def scan_and_commit(partition: Partition, *, settings: Settings, records: Records, checks: RowChecks) -> SummaryChunk:
    """Read a partition once and commit its summaries, unless they are committed, and return them.

    Parameters
    ----------
    partition : Partition
        Rows to read.
    settings : Settings
        How to score rows.
    records : Records
        Where to commit the summaries.
    checks : RowChecks
        Which rows are accepted although they cannot be a distribution.
    """
    computed, ignored = column_kernels(settings), partition.ignored
    whole = SummaryBlock.empty(partition.n_rows, partition.n_classes, partition.dtype, computed, ignored)
    position = 0

    def take(block: Columns) -> None:
        nonlocal position
        columns: dict[str, Any] = dict(block)
        position = whole.put(position, SummaryBlock(**columns))

    footer = records.committed("summaries", partition.index, partition.n_rows, take)
    if footer is not None:
        return SummaryChunk(partition.start, whole, totals_of_footer(footer, partition.start))
    return SummaryChunk(partition.start, *_commit(partition, settings, records, checks, partition.n_rows))


def scan_to_checkpoint(partition: Partition, *, settings: Settings, records: Records, checks: RowChecks) -> ScanTotals:
    """Read a partition once and commit its summaries block by block, unless they are committed; return the totals."""
    footer = records.committed("summaries", partition.index, partition.n_rows)
    if footer is not None:
        return totals_of_footer(footer, partition.start)
    _, totals = _commit(partition, settings, records, checks, min(partition.n_rows, BLOCK_ROWS))
    return totals


def _commit(
    partition: Partition, settings: Settings, records: Records, checks: RowChecks, capacity: int
) -> tuple[SummaryBlock, ScanTotals]:
    """Read a partition and commit its summaries, unless it has bad data: the next run reads the corrected rows."""
    if not partition.readable:
        raise DamagedRecordError(f"the record of partition {partition.index} in {records.folder.where} is damaged")
    labels = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with records.create("summaries", partition.index) as writer:

        def commit(taken: SummaryBlock) -> None:
            labels.update(_label_bytes(taken.label))
            for start in range(0, len(taken), BLOCK_ROWS):
                writer.add(taken[start : start + BLOCK_ROWS].columns())

        last, totals = read_rows(partition, settings, None, capacity, commit)
        commit(last)
        if not errors_in(totals.findings, checks):
            writer.finish(footer_of(totals, partition.start) | {"labels": labels.hexdigest()})
    return last, totals


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
    return scan(partition, settings=Settings()).totals


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


def totals_of(chunk: SummaryChunk) -> ScanTotals:
    """Return the totals of the first pass."""
    return chunk.totals
