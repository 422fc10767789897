"""Later reads of `pred_probs`, now that the thresholds are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import confident_combine
from labelsieve.confident_learning.looks import JointCounter
from labelsieve.confident_learning.quality_scores import Floats, adjusted_margin
from labelsieve.confident_learning.row_summary import RowSummary
from labelsieve.confident_learning.top_k_by_pair import COLUMNS, Candidates, Pool, Wanted
from labelsieve.errors import WorkdirError
from labelsieve.memory import BLOCK_ROWS
from labelsieve.storage.record_files import Columns, TornRecordError
from labelsieve.tasks.checkpoint import DamagedRecordError, Records, StoredSummary
from labelsieve.tasks.partials import Looked, footer_of_look, look_of_footer
from labelsieve.tasks.partition import Block, Partition
from labelsieve.tasks.scan import Blocks, Finish, Summarised


def reread(
    partition: Partition, summarised: Summarised, _labels: Blocks, pred_probs: Blocks, *, finish: Finish
) -> Summarised:
    """Read a partition a second time, and add to its summaries what that tells."""
    if not isinstance(summarised.summary, RowSummary):
        raise TypeError("stored summaries are read again by `store_reread`")
    summary, again = summarised.summary, _Again(finish, partition.dtype, keep=finish.settings.keeps_off_joint)
    columns = again.empty(partition.n_rows)
    first = 0
    for some, probs in aligned(partition, iter([summary]), pred_probs):
        for name, values in again.columns(some, probs).items():
            columns[name][first : first + len(some)] = values
        first += len(some)
    return replace(summarised, summary=replace(summary, **columns), looked=again.looked(partition.n_rows))


def store_reread(partition: Partition, _labels: Blocks, pred_probs: Blocks, *, finish: Finish) -> Looked:
    """Read a partition a second time and commit what that tells, unless it is."""
    if finish.records is None or finish.again is None:
        raise RuntimeError("what a second read tells is stored where summaries are")
    index, rows = partition.index, (partition.start, partition.stop)
    footer = finish.again.committed("rereads", index, rows)
    if footer is not None:
        return look_of_footer(footer)
    if not partition.has_pred_probs(pred_probs):
        raise DamagedRecordError(f"the second record of partition {index} in {finish.again.folder.where} is damaged")
    again = _Again(finish, partition.dtype, keep=finish.settings.looks_again)  # a record needs a column
    held = again.empty(BLOCK_ROWS)
    with finish.again.create("rereads", index, rows) as writer:
        summaries, n_held = StoredSummary(finish.records, index).blocks(0, partition.n_rows), 0
        for some, probs in aligned(partition, summaries, pred_probs):
            if n_held + len(some) > BLOCK_ROWS:
                writer.add({name: column[:n_held] for name, column in held.items()})
                n_held = 0
            for name, values in again.columns(some, probs).items():
                held[name][n_held : n_held + len(some)] = values
            n_held += len(some)
        if n_held:
            writer.add({name: column[:n_held] for name, column in held.items()})
        looked = again.looked(partition.n_rows)
        writer.finish(footer_of_look(looked))
    return looked


def looked_of(summarised: Summarised) -> Looked:
    """Return the small part of what a second read gives."""
    if summarised.looked is None:
        raise RuntimeError("a second read comes first")
    return summarised.looked


def combine_looked(parts: Iterable[Looked | Summarised]) -> Looked:
    """Add up what the second read of some partitions tells."""
    every = [looked_of(part) if isinstance(part, Summarised) else part for part in parts]
    joints = [part.joint for part in every if part.joint is not None]
    return Looked(
        confident_combine(joints) if joints else None,
        sum(part.n_off for part in every),
        sum(part.n_read for part in every),
    )


class _Again:
    """What a second read tells of rows, strip by strip.

    Parameters
    ----------
    finish : Finish
        Settings and thresholds.
    dtype : dtype
        Native dtype of `pred_probs`.
    keep : bool
        Whether it is kept of each row where the confident joint counts it.
    """

    def __init__(self, finish: Finish, dtype: np.dtype[Any], *, keep: bool) -> None:
        settings, self._keep = finish.settings, keep
        self._thresholds = finish.thresholds if settings.scores_need_reread else None
        self._joint = JointCounter(finish.thresholds, dtype) if settings.looks_again else None

    def empty(self, n_rows: int) -> dict[str, Any]:
        """Return the columns that are added to the summaries of so many rows, to be filled."""
        columns: dict[str, Any] = {} if self._thresholds is None else {"row_values": np.empty(n_rows, np.float64)}
        return columns | ({"off_joint": np.empty(n_rows, np.bool_)} if self._keep else {})

    def columns(self, summary: RowSummary, probs: Floats) -> Columns:
        """Return what is added to the summaries of the ``(n, K)`` strip `probs`."""
        found: dict[str, npt.NDArray[Any]] = {}
        if self._thresholds is not None:
            found["row_values"] = adjusted_margin(probs, summary.labels, self._thresholds)
        if self._joint is not None:
            off = self._joint.add(summary, probs)
            found |= {"off_joint": off} if self._keep else {}
        return found

    def looked(self, n_read: int) -> Looked:
        """Return what is known of all rows so far."""
        joint, n_off = (None, 0) if self._joint is None else self._joint.counts()
        return Looked(joint, n_off, n_read)


def aligned(
    partition: Partition, summaries: Iterator[RowSummary], pred_probs: Blocks
) -> Iterator[tuple[RowSummary, Block]]:
    """Yield the strips of a partition with the summaries of their rows, which come in blocks of another length."""
    block: RowSummary | None = None
    for strip in partition.prob_strips(pred_probs):
        start = 0
        while start < len(strip):
            if block is None or not len(block):
                block = next(summaries)
            n = min(len(block), len(strip) - start)
            yield block[:n], strip[start : start + n]
            block, start = block[n:], start + n


def pair_candidates(
    partition: Partition,
    summarised: Summarised | None,
    wanted: Wanted,
    _labels: Blocks,
    pred_probs: Blocks,
    *,
    finish: Finish,
) -> Candidates:
    """Read a partition for the rows of largest margin of each pair."""
    pool, first = Pool(wanted), partition.start
    for summary, probs in aligned(partition, _summaries(partition, summarised, finish), pred_probs):
        pool.add(summary, probs, first)
        first += len(probs)
    found = pool.candidates()
    return Candidates(found.pairs, found.margins, found.rows, partition.n_rows)


def _summaries(partition: Partition, summarised: Summarised | None, finish: Finish) -> Iterator[RowSummary]:
    if summarised is not None and isinstance(summarised.summary, RowSummary):
        return iter([summarised.summary])
    if finish.records is None:
        raise RuntimeError("summaries are in memory or in records")
    return StoredSummary(finish.records, partition.index).blocks(0, partition.n_rows)


def store_candidates(records: Records, found: Candidates, n_done: int) -> None:
    """Commit what the first `n_done` partitions have given, in place of what fewer had."""
    with records.create("margins", 0, (0, n_done)) as writer:
        for start in range(0, len(found), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            writer.add({name: getattr(found, name)[rows] for name in COLUMNS})
        writer.finish({})


def stored_candidates(records: Records) -> tuple[Candidates, int]:
    """Return what is committed, as found and not read, and of how many partitions; none of 0 where there is nothing."""
    none = Candidates.none()
    parts: list[Columns] = [{name: getattr(none, name) for name in COLUMNS}]
    try:
        with records.open("margins", 0) as record:
            parts += record.blocks()
            n_done = int(record.header["rows"][1])
    except (FileNotFoundError, IsADirectoryError, TornRecordError, WorkdirError, ValueError, KeyError):
        return none, 0
    pairs, margins, rows = (np.concatenate([part[name] for part in parts]) for name in COLUMNS)
    return Candidates(pairs, margins, rows), n_done
