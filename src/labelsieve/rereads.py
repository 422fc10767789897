"""The second read of `pred_probs`, now that the thresholds are known.

Covers: the map of that read, with summaries in memory and in a workdir: the class as which each row is counted by the
confident joint, and adjusted margins, which need every probability of a row too.
Does not cover: the first read and what follows (`tasks`), the third read of the filters that prune pairs of classes
(`margins`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve import ranking
from labelsieve.confident import ConfidentCounts, PairCounter, confident_combine
from labelsieve.kernels import RowSummary
from labelsieve.looks import SecondLook
from labelsieve.memory import BLOCK_ROWS
from labelsieve.partials import Looked, footer_of_look, look_of_footer
from labelsieve.partitions import Block, Partition
from labelsieve.records import Columns
from labelsieve.scores import Float64s, Floats, adjusted_margin
from labelsieve.settings import Settings
from labelsieve.tasks import Blocks, Finish, Summarised
from labelsieve.workdir import StoredSummary


def reread(
    partition: Partition, summarised: Summarised, _labels: Blocks, pred_probs: Blocks, *, finish: Finish
) -> Summarised:
    """Read a partition a second time, and add to its summaries what that tells."""
    if not isinstance(summarised.summary, RowSummary):
        raise TypeError("stored summaries are read again by `store_reread`")
    again = _Again(finish.settings, finish.thresholds, partition.dtype)
    summary = summarised.summary
    # A partition may have no rows.
    parts = [again.columns(summary[:0], np.empty((0, partition.n_classes), partition.dtype))]
    parts += [again.columns(*rows) for rows in aligned(partition, iter([summary]), pred_probs)]
    return replace(summarised, summary=replace(summary, **_joined(parts)), looked=again.looked(partition.n_rows))


def store_reread(partition: Partition, _labels: Blocks, pred_probs: Blocks, *, finish: Finish) -> Looked:
    """Read a partition a second time and commit what that tells, unless it is."""
    if finish.records is None or finish.again is None:
        raise RuntimeError("what a second read tells is stored where summaries are")
    index, rows = partition.index, (partition.start, partition.stop)
    footer = finish.again.committed("rereads", index, rows)
    if footer is not None:
        return look_of_footer(footer)
    again = _Again(finish.settings, finish.thresholds, partition.dtype)
    with finish.again.create("rereads", index, rows) as writer:
        summaries = StoredSummary(finish.records, index).blocks(0, partition.n_rows)
        held: list[Columns] = []
        for some in aligned(partition, summaries, pred_probs):
            held.append(again.columns(*some))
            if sum(len(next(iter(part.values()))) for part in held) >= BLOCK_ROWS:
                writer.add(_joined(held))
                held = []
        if held:
            writer.add(_joined(held))
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


class JointCounter:
    """Counts rows by the confident joint, strip by strip.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of `pred_probs`.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._look, self._counter, self._n_off = SecondLook(thresholds, dtype), PairCounter(len(thresholds)), 0

    def add(self, summary: RowSummary, probs: Floats) -> npt.NDArray[np.bool_]:
        """Count the ``(n, K)`` strip `probs`; tell which rows are off the diagonal, and not nearly predicted."""
        classes, counted = self._look(probs, summary)
        self._counter.add(summary.labels, classes, counted)
        off: npt.NDArray[np.bool_] = counted & (classes != summary.labels)
        rows = np.flatnonzero(off)
        off[rows] = ~ranking.near_predicted(
            summary.labels[rows], summary.predicted[rows], summary.p_given[rows], summary.p_predicted[rows]
        )
        self._n_off += int(np.count_nonzero(off))
        return off

    def counts(self) -> tuple[ConfidentCounts, int]:
        """Return the counts of all rows so far, and how many are off the diagonal and not nearly predicted."""
        return self._counter.counts(), self._n_off


class _Again:
    """What a second read tells of rows, strip by strip."""

    def __init__(self, settings: Settings, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._thresholds = thresholds if settings.scores_need_reread else None
        self._joint = JointCounter(thresholds, dtype) if settings.looks_again else None

    def columns(self, summary: RowSummary, probs: Floats) -> Columns:
        """Return what is added to the summaries of the ``(n, K)`` strip `probs`."""
        found: dict[str, npt.NDArray[Any]] = {}
        if self._thresholds is not None:
            found["row_values"] = adjusted_margin(probs, summary.labels, self._thresholds)
        if self._joint is not None:
            found["off_joint"] = self._joint.add(summary, probs)
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


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
