"""Reads of whole rows, once the thresholds are known: which rows the confident joint has off its diagonal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from labelsieve.confident_learning.confident_joint import (
    ConfidentCounts,
    JointAssigner,
    PairCounter,
    confident_combine,
)
from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s
from labelsieve.confident_learning.summarizer import ScanTotals, Summarizer, combine_totals
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.memory import BLOCK_ROWS
from labelsieve.settings import FLOAT_TOLERANCE
from labelsieve.tasks.partition import Partition

# The least and the largest probability whose logarithm is taken (sklearn.metrics.log_loss).
_EPSILON: Final = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ConfidentRows:
    """Rows that are counted by the confident joint.

    Parameters
    ----------
    totals : ScanTotals
        What the summaries of the rows add up to, and what is wrong with them.
    joint : ConfidentCounts
        Rows by label and class.
    rows : (R,) int64
        Numbers of the rows off the diagonal, ascending.
    """

    totals: ScanTotals
    joint: ConfidentCounts
    rows: Int64s


def confident_rows(partition: Partition, *, thresholds: Float64s) -> ConfidentRows:
    """Count the rows of a partition by the confident joint of given thresholds, and list those off its diagonal."""
    assigner, counter = JointAssigner(thresholds, partition.dtype), PairCounter(partition.n_classes)
    found, first, reader = [np.empty(0, np.int64)], partition.start, _Reader(partition)
    for summary, probs in reader.strips():
        classes, counted = assigner.assign(summary, probs)
        counter.add(summary.label, classes, counted)
        found.append(np.flatnonzero(counted & (classes != summary.label)) + first)
        first += len(probs)
    return ConfidentRows(reader.totals(), counter.counts(), np.concatenate(found))


def combine_confident_rows(parts: Iterable[ConfidentRows]) -> ConfidentRows:
    """Combine the counts and lists of consecutive partitions."""
    parts = list(parts)
    return ConfidentRows(
        combine_totals(part.totals for part in parts),
        confident_combine(part.joint for part in parts),
        np.concatenate([part.rows for part in parts]),
    )


@dataclass(frozen=True)
class LabelLogs:
    """How well predictions fit the labels of some rows.

    Parameters
    ----------
    totals : ScanTotals
        What the summaries of the rows add up to, and what is wrong with them.
    p_label : (n,) float64
        Probability of the label.
    logs : (n,) float64
        Logarithm of the probability of the label, after probabilities below 1e-6 are raised to that, and each row is
        divided by its sum.
    """

    totals: ScanTotals
    p_label: Float64s
    logs: Float64s


def label_logs(partition: Partition) -> LabelLogs:
    """Return the probabilities of the labels of a partition, and their logarithms."""
    p_label, logs, reader = [np.empty(0)], [np.empty(0)], _Reader(partition)
    for summary, probs in reader.strips():
        p_label.append(summary.p_label.astype(np.float64))
        sums = np.maximum(probs.astype(np.float64, order="C"), FLOAT_TOLERANCE).sum(axis=1)
        logs.append(clipped_log(np.maximum(p_label[-1], FLOAT_TOLERANCE) / sums))
    return LabelLogs(reader.totals(), np.concatenate(p_label), np.concatenate(logs))


def clipped_log(values: Float64s) -> Float64s:
    """Return the logarithms of probabilities that are neither 0 nor 1."""
    logs: Float64s = np.log(np.clip(values, _EPSILON, 1 - _EPSILON))
    return logs


class _Reader:
    """Reads a partition strip by strip, and checks and summarizes its rows."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        rows = min(partition.n_rows, max(BLOCK_ROWS, partition.strip_rows))
        self._summarizer = Summarizer(
            rows, partition.n_classes, partition.dtype, first_row=partition.start, ignored=partition.ignored
        )

    def strips(self) -> Iterator[tuple[SummaryBlock, Floats]]:
        """Yield the summaries of each strip, and the strip, in row order."""
        partition = self._partition
        for labels, probs in zip(partition.label_strips(), partition.prob_strips(), strict=True):
            if self._summarizer.room < len(probs):
                self._summarizer.take()
            yield self._summarizer.add(labels, probs), probs
        self._summarizer.take()

    def totals(self) -> ScanTotals:
        """Return the totals of all strips."""
        return self._summarizer.totals()
