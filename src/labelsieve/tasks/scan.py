"""The first pass, which reads a partition of `pred_probs` and summarizes its rows."""

from __future__ import annotations

from collections.abc import Callable

from labelsieve.confident_learning.dtypes import Float64s
from labelsieve.confident_learning.quality_scores import column_kernels
from labelsieve.confident_learning.summarizer import ScanTotals, Summarizer
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.validation import RowChecks, errors_in
from labelsieve.memory import BLOCK_ROWS
from labelsieve.settings import Settings
from labelsieve.storage.record_files import Columns, DamagedRecordError
from labelsieve.tasks.checkpoint import Records
from labelsieve.tasks.partition import Block, Partition
from labelsieve.tasks.summary_reader import SummaryChunk
from labelsieve.tasks.totals import footer_of, totals_of_footer


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
    rows = (partition.start, partition.stop)
    whole = SummaryBlock.empty(partition.n_rows, partition.n_classes, partition.dtype, column_kernels(settings))
    position = 0

    def take(block: Columns) -> None:
        nonlocal position
        position = whole.put(position, SummaryBlock(**block))

    footer = records.committed("summaries", partition.index, rows, take)
    if footer is not None:
        return SummaryChunk(partition.start, whole, totals_of_footer(footer))
    return SummaryChunk(partition.start, *_commit(partition, settings, records, checks, partition.n_rows))


def scan_to_checkpoint(partition: Partition, *, settings: Settings, records: Records, checks: RowChecks) -> ScanTotals:
    """Read a partition once and commit its summaries block by block, unless they are committed; return the totals."""
    footer = records.committed("summaries", partition.index, (partition.start, partition.stop))
    if footer is not None:
        return totals_of_footer(footer)
    _, totals = _commit(partition, settings, records, checks, min(partition.n_rows, BLOCK_ROWS))
    return totals


def _commit(
    partition: Partition, settings: Settings, records: Records, checks: RowChecks, capacity: int
) -> tuple[SummaryBlock, ScanTotals]:
    """Read a partition and commit its summaries, unless it has bad data: the next run reads the corrected rows."""
    if not partition.readable:
        raise DamagedRecordError(f"the record of partition {partition.index} in {records.folder.where} is damaged")
    with records.create("summaries", partition.index, (partition.start, partition.stop)) as writer:

        def commit(taken: SummaryBlock) -> None:
            for start in range(0, len(taken), BLOCK_ROWS):
                writer.add(taken[start : start + BLOCK_ROWS].columns())

        last, totals = read_rows(partition, settings, None, capacity, commit)
        commit(last)
        if not errors_in(totals.findings, checks):
            writer.finish(footer_of(totals))
    return last, totals


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
        Called with the summaries of each strip, and the strip.

    Returns
    -------
    summaries : SummaryBlock
        The summaries that were not consumed.
    totals : ScanTotals
        The totals of all rows.
    """
    n_rows = partition.n_rows if capacity is None else capacity
    summarizer = Summarizer(n_rows, partition.n_classes, partition.dtype, settings, partition.start, thresholds)
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
