"""What one task does with a partition: stream its batches, strip by strip. NumPy and sources, no Dask.

Covers: `summarise`, which reads; `score_adjusted` and `score_reread`, for scores that need the thresholds first.
Does not cover: what happens to the results (`reductions`, `ranking`) and who calls this (`engine`, `forkpool`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.checks import Findings, combine_findings
from labelsieve.errors import InvalidInputError
from labelsieve.kernels import STRIP_BYTES, RowSummary, Summariser
from labelsieve.reductions import ClassSums, IssueCounts, class_sums_chunk, class_sums_combine, issue_counts_chunk
from labelsieve.scores import (
    Float64s,
    RowValueKernel,
    adjusted_margin,
    adjusted_self_confidence,
    row_value_kernel,
)
from labelsieve.settings import Settings
from labelsieve.sources import Rows, Source

Block = npt.NDArray[Any]


class Partition:
    """The rows of one task, as a description; not a dataclass, so that Dask takes it as one opaque value.

    Parameters
    ----------
    ranges : sequence of tuple of int
        Row ranges ``[start, stop)`` of the batches.
    n_classes : int
        Columns of `pred_probs`.
    dtype : dtype
        Dtype of `pred_probs`.
    labels, pred_probs : Source or None
        Where the rows are; None where the task is handed them as blocks, one a batch.
    """

    def __init__(
        self,
        ranges: Sequence[tuple[int, int]],
        n_classes: int,
        dtype: np.dtype[Any],
        labels: Source | None,
        pred_probs: Source | None,
    ) -> None:
        self.ranges, self.n_classes, self.dtype = tuple(ranges), n_classes, dtype.newbyteorder("=")
        self.start, self.stop = self.ranges[0][0], self.ranges[-1][1]
        self._labels = labels and labels.part(self.start, self.stop)
        self._pred_probs = pred_probs and pred_probs.part(self.start, self.stop)

    @property
    def n_rows(self) -> int:
        """Rows of all batches."""
        return self.stop - self.start

    @property
    def strip_rows(self) -> int:
        """Rows worked on at a time."""
        return max(1, STRIP_BYTES // (self.n_classes * self.dtype.itemsize))

    def strips(self, labels: Sequence[Block] | None, pred_probs: Sequence[Block] | None) -> Iterator[tuple[Block, Block]]:
        """Yield ``(n,)`` labels and ``(n, K)`` probabilities, in row order, from the sources or the blocks handed in."""
        label_feed = _Feed("labels", self._labels, labels, self.ranges)
        prob_feed = _Feed("pred_probs", self._pred_probs, pred_probs, self.ranges, self.dtype)
        with label_feed, prob_feed:
            for index, (start, stop) in enumerate(self.ranges):
                batch_labels = label_feed.whole(index)
                for a in range(0, stop - start, self.strip_rows):
                    b = min(a + self.strip_rows, stop - start)
                    yield batch_labels[a:b], prob_feed.piece(index, a, b)


class _Feed:
    """Batches of one array, from a source or from blocks that Dask computed."""

    def __init__(
        self,
        name: str,
        part: tuple[Source, int] | None,
        blocks: Sequence[Block] | None,
        ranges: Sequence[tuple[int, int]],
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        self._name, self._part, self._blocks, self._ranges, self._dtype = name, part, blocks, ranges, dtype
        self._rows: Rows | None = None
        self._batch: tuple[int, Block] = (-1, np.empty(0))

    def __enter__(self) -> _Feed:
        if self._part is not None:
            self._rows = self._part[0].open()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._rows is not None:
            self._rows.close()

    def whole(self, index: int) -> Block:
        """Return all rows of batch `index`."""
        if self._batch[0] != index:
            start, stop = self._ranges[index]
            self._batch = (index, self._read(start, stop) if self._rows is not None else self._block(index, stop - start))
        return self._batch[1]

    def piece(self, index: int, a: int, b: int) -> Block:
        """Return rows ``[a, b)`` of batch `index`."""
        if self._rows is not None and self._rows.in_pieces:
            start = self._ranges[index][0]
            return self._read(start + a, start + b)
        return self.whole(index)[a:b]

    def _read(self, start: int, stop: int) -> Block:
        if self._rows is None or self._part is None:
            raise RuntimeError("a feed reads only while it is open")
        origin = self._part[1]
        return self._rows.read(start - origin, stop - origin)

    def _block(self, index: int, n_rows: int) -> Block:
        block = np.asarray((self._blocks or ())[index])
        if len(block) != n_rows:
            raise InvalidInputError(f"a block of the Dask array {self._name} has {len(block):,} rows; it says {n_rows:,}")
        wrong = block.dtype.kind not in "iu" if self._dtype is None else block.dtype.newbyteorder("=") != self._dtype
        if wrong:
            says = "integers" if self._dtype is None else self._dtype
            raise InvalidInputError(f"a block of the Dask array {self._name} has dtype {block.dtype}; the array says {says}")
        return block


@dataclass(frozen=True)
class Partial:
    """The K-sized part of what a partition gives."""

    sums: ClassSums
    findings: Findings


@dataclass(frozen=True)
class Summarised:
    """What reading a partition leaves: its row summaries and its partial sums."""

    summary: RowSummary
    partial: Partial


def summarise(
    partition: Partition,
    settings: Settings,
    labels: Sequence[Block] | None = None,
    pred_probs: Sequence[Block] | None = None,
) -> Summarised:
    """Read a partition once.

    Parameters
    ----------
    partition : Partition
        Which rows, and where they are.
    settings : Settings
        What is scored.
    labels, pred_probs : sequence of array, optional
        The batches, where they are not read from a source.
    """
    summary, findings = _read(partition, row_value_kernel(settings), labels, pred_probs)
    sums = class_sums_chunk(summary.labels, summary.p_given, partition.n_classes)
    return Summarised(summary, Partial(sums, findings))


def class_sums(
    partition: Partition, labels: Sequence[Block] | None = None, pred_probs: Sequence[Block] | None = None
) -> Partial:
    """Read a partition for its class sums alone, and check it."""
    return summarise(partition, Settings(), labels, pred_probs).partial


@dataclass(frozen=True)
class Inspected:
    """What a partition gives where the thresholds are known before it is read.

    Parameters
    ----------
    scores : (N,) float
        Label quality scores.
    counts : IssueCounts or None
        Issue counts, where asked for.
    findings : Findings
        What is wrong with the rows.
    """

    scores: npt.NDArray[np.floating[Any]]
    counts: IssueCounts | None
    findings: Findings


def inspect(
    partition: Partition,
    labels: Sequence[Block] | None = None,
    pred_probs: Sequence[Block] | None = None,
    *,
    settings: Settings,
    thresholds: Float64s,
    adj_thresholds: Float64s | None,
) -> Inspected:
    """Read a partition once and score it against known thresholds; count it where `adj_thresholds` are given."""
    summary, findings = _read(partition, row_value_kernel(settings, thresholds), labels, pred_probs)
    counts = None
    if adj_thresholds is not None:
        counts = issue_counts_chunk(summary, adj_thresholds, calibrated=settings.calibrated)
    if settings.adjust_pred_probs and not settings.scores_need_reread:
        summary = score_adjusted(summary, thresholds)
    return Inspected(wide_scores_of(summary), counts, findings)


def _read(
    partition: Partition,
    row_values: RowValueKernel | None,
    labels: Sequence[Block] | None,
    pred_probs: Sequence[Block] | None,
) -> tuple[RowSummary, Findings]:
    summariser = Summariser(partition.n_rows, partition.n_classes, partition.dtype, row_values, partition.start)
    for strip_labels, strip_probs in partition.strips(labels, pred_probs):
        summariser.add(strip_labels, strip_probs)
    return summariser.summary, summariser.findings


def partial_of(summarised: Summarised) -> Partial:
    """Return the K-sized part."""
    return summarised.partial


def combine_partials(parts: Iterable[Partial]) -> Partial:
    """Fold the partials of neighbouring partitions, given in row order."""
    parts = list(parts)
    return Partial(class_sums_combine(p.sums for p in parts), combine_findings(p.findings for p in parts))


def score_adjusted(summary: RowSummary, thresholds: Float64s) -> RowSummary:
    """Turn row sums into adjusted self-confidences, now that the thresholds are known."""
    if summary.row_values is None:
        raise RuntimeError("adjusted self-confidence needs row sums in the summary")
    scores = adjusted_self_confidence(summary.p_given, summary.labels, summary.row_values, thresholds)
    return replace(summary, row_values=scores)


def score_reread(
    summary: RowSummary,
    thresholds: Float64s,
    partition: Partition,
    labels: Sequence[Block] | None = None,
    pred_probs: Sequence[Block] | None = None,
) -> RowSummary:
    """Read a partition a second time for its adjusted margins, which need every probability and the thresholds."""
    scores, filled = np.empty(len(summary), np.float64), 0
    for strip_labels, strip_probs in partition.strips(labels, pred_probs):
        n = len(strip_labels)
        scores[filled : filled + n] = adjusted_margin(strip_probs, strip_labels, thresholds)
        filled += n
    return replace(summary, row_values=scores)


def scores_of(summary: RowSummary) -> npt.NDArray[np.floating[Any]]:
    """Return the scores of a finished summary."""
    return summary.p_given if summary.row_values is None else summary.row_values


def wide_scores_of(summary: RowSummary) -> npt.NDArray[np.floating[Any]]:
    """Return the scores of a finished summary, float16 widened to float32."""
    return widened(scores_of(summary))


def widened(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Return float16 scores as float32, others as they are."""
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)
