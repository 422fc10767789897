"""The first pass, which reads a partition of `pred_probs` and summarizes its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from labelsieve.confident_learning.agreement import Agreement
from labelsieve.confident_learning.quality_scores import ColumnKernel, column_kernels
from labelsieve.confident_learning.row_summary import Summariser, SummaryBlock
from labelsieve.confident_learning.thresholds import ClassSums, SparseClassSums, class_sums_chunk, class_sums_combine
from labelsieve.confident_learning.validation import DEFAULT_CHECKS, RowChecks, errors_in
from labelsieve.memory import BLOCK_ROWS
from labelsieve.settings import Settings
from labelsieve.storage.record_files import Columns
from labelsieve.tasks.checkpoint import DamagedRecordError, Records
from labelsieve.tasks.partition import Block, Partition
from labelsieve.tasks.summaries import SummaryChunk
from labelsieve.tasks.totals import ScanTotals, footer_of, totals_of_footer


def scan(
    partition: Partition, *, settings: Settings, records: Records | None = None, checks: RowChecks = DEFAULT_CHECKS
) -> SummaryChunk:
    """Read a partition once, unless it is committed, and return its summaries.

    Parameters
    ----------
    partition : Partition
        Rows to read.
    settings : Settings
        How to score rows.
    records : Records, optional
        Where to commit the summaries too.
    checks : RowChecks
        Which rows are accepted although they cannot be a distribution.
    """
    kept: list[SummaryBlock] = []
    if records is not None:
        whole, totals = _committed(partition, settings, records)
        if totals is None:
            totals = _commit(partition, settings, records, checks, partition.n_rows, kept.append)
            whole = kept[0]
        return SummaryChunk(partition.start, whole, totals)
    totals = read_rows(partition, partition.n_rows, column_kernels(settings), kept.append)
    return SummaryChunk(partition.start, kept[0], totals)


def scan_to_checkpoint(
    partition: Partition, *, settings: Settings, records: Records, checks: RowChecks = DEFAULT_CHECKS
) -> ScanTotals:
    """Read a partition once, unless it is committed, and commit its summaries block by block; see `scan`."""
    footer = records.committed("summaries", partition.index, (partition.start, partition.stop))
    if footer is not None:
        return totals_of_footer(footer)
    return _commit(partition, settings, records, checks, min(partition.n_rows, BLOCK_ROWS), lambda _: None)


def _committed(partition: Partition, settings: Settings, records: Records) -> tuple[SummaryBlock, ScanTotals | None]:
    """Return the committed summaries of a partition, and their totals; None for the totals if nothing is committed."""
    whole = SummaryBlock.empty(partition.n_rows, partition.n_classes, partition.dtype, column_kernels(settings))
    position = 0

    def take(block: Columns) -> None:
        nonlocal position
        position = whole.put(position, SummaryBlock(**block))

    footer = records.committed("summaries", partition.index, (partition.start, partition.stop), take)
    return whole, None if footer is None else totals_of_footer(footer)


def _commit(
    partition: Partition,
    settings: Settings,
    records: Records,
    checks: RowChecks,
    capacity: int,
    consume: Callable[[SummaryBlock], None],
) -> ScanTotals:
    """Read a partition and commit its summaries, unless it has bad data: the next run reads the corrected rows."""
    if not partition.readable:
        raise DamagedRecordError(f"the record of partition {partition.index} in {records.folder.where} is damaged")
    with records.create("summaries", partition.index, (partition.start, partition.stop)) as writer:

        def commit(taken: SummaryBlock) -> None:
            for start in range(0, len(taken), BLOCK_ROWS):
                writer.add(taken[start : start + BLOCK_ROWS].columns())
            consume(taken)

        totals = read_rows(partition, capacity, column_kernels(settings), commit)
        if not errors_in(totals.findings, checks):
            writer.finish(footer_of(totals))
    return totals


def class_sums(partition: Partition) -> ScanTotals:
    """Check a partition and return its class sums."""
    return scan(partition, settings=Settings()).totals


def read_rows(
    partition: Partition,
    capacity: int,
    kernels: Mapping[str, ColumnKernel],
    consume: Callable[[SummaryBlock], None],
    inspect: Callable[[SummaryBlock, Block], object] = lambda _summary, _probs: None,
) -> ScanTotals:
    """Call `consume` with the summaries of a partition, at most `capacity` rows at a time, and return their totals.

    `inspect` is called with the summaries of each strip, and the strip.
    """
    summariser = Summariser(capacity, partition.n_classes, partition.dtype, kernels, partition.start)
    sums, agreements = ClassSums.zeros(partition.n_classes), list[Agreement]()

    def pass_on() -> None:
        nonlocal sums
        block = summariser.take()
        sums = class_sums_combine([sums, class_sums_chunk(block.label, block.p_label, partition.n_classes)])
        agreements.append(Agreement.of(block.label, block.predicted))
        consume(block)

    for labels, probs in partition.strips():
        if summariser.room < len(probs):
            pass_on()
        inspect(summariser.add(labels, probs), probs)
    pass_on()
    return ScanTotals(SparseClassSums.of(sums), summariser.findings, partition.n_rows, Agreement.total(agreements))


def totals_of(chunk: SummaryChunk) -> ScanTotals:
    """Return the totals of the first pass."""
    return chunk.totals
