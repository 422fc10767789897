"""Confidently predicted rows by given label and predicted class, and what is made of these counts. NumPy only.

Covers: `confident_*` as chunk and combine (the confident joint of the batched rule, sparse for any K), the number of
label issues in it, and `Joint`, the calibrated joint of Northcutt, Jiang, Chuang (JAIR 2021) in whole rows.
Does not cover: tables for people (`health`), where the chunks run (`engine`).

The batched rule counts a row by its predicted class alone, where cleanlab's in-memory rule counts it by its most likely
class among those whose threshold it reaches. Handed these counts as ``confident_joint``, cleanlab's functions give the
numbers that stand here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from labelsieve.kernels import RowSummary
from labelsieve.reductions import Float64s, Int64s, IssueCounts, blocks

# Up to this many pairs of classes they are counted in a table; beyond, rows are sorted by their pair.
_FEW_PAIRS: Final = 1 << 16


@dataclass
class ConfidentCounts:
    """Confidently predicted rows, by given label and predicted class.

    Parameters
    ----------
    diagonal : (K,) int64
        Those whose label is predicted.
    pairs : (P,) int64
        ``given * K + predicted`` of the pairs of different classes that occur, ascending.
    counts : (P,) int64
        Rows of each pair.
    """

    diagonal: Int64s
    pairs: Int64s
    counts: Int64s

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return len(self.diagonal)

    @property
    def given(self) -> Int64s:
        """``(P,)`` given label of each pair."""
        return self.pairs // self.n_classes

    @property
    def predicted(self) -> Int64s:
        """``(P,)`` predicted class of each pair."""
        return self.pairs % self.n_classes

    def issue_counts(self, class_counts: Int64s, *, calibrated: bool) -> IssueCounts:
        """Return what the number of label issues is made of, where all ``(K,)`` `class_counts` rows were counted."""
        off = int(self.counts.sum())
        if not calibrated:
            return IssueCounts(off, None)
        off_of_label = _sums(self.given, self.counts, self.n_classes)
        return IssueCounts(off, np.stack([class_counts, self.diagonal + off_of_label, off_of_label]))


def confident_chunk(summary: RowSummary, adj_thresholds: Float64s) -> ConfidentCounts:
    """Count the confident rows of `summary` against the ``(K,)`` `adjusted_thresholds`."""
    n_classes = len(adj_thresholds)
    diagonal, pairs = np.zeros(n_classes, np.int64), []
    for block in blocks(len(summary)):
        labels, predicted = summary.labels[block], summary.predicted[block]
        confident = summary.p_predicted[block] >= adj_thresholds[predicted]
        differ = predicted != labels
        diagonal += np.bincount(labels[confident & ~differ], minlength=n_classes)
        off = np.flatnonzero(confident & differ)
        pairs.append(labels[off].astype(np.int64) * n_classes + predicted[off])
    every = np.concatenate([np.empty(0, np.int64), *pairs])
    if n_classes * n_classes <= _FEW_PAIRS:
        table = np.bincount(every, minlength=1)
        found = np.flatnonzero(table)
        return ConfidentCounts(diagonal, found.astype(np.int64), table[found].astype(np.int64))
    found, counts = np.unique(every, return_counts=True)
    return ConfidentCounts(diagonal, found, counts.astype(np.int64))


def confident_combine(parts: Iterable[ConfidentCounts]) -> ConfidentCounts:
    """Add up counts."""
    every = list(parts)
    if len(every) == 1:
        return every[0]
    pairs = np.concatenate([part.pairs for part in every])
    counts = np.concatenate([part.counts for part in every])
    order = np.argsort(pairs, kind="stable")
    pairs, counts = pairs[order], counts[order]
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    summed = np.add.reduceat(counts, first) if len(first) else counts
    return ConfidentCounts(np.sum([part.diagonal for part in every], axis=0), pairs[first], summed)


@dataclass(frozen=True)
class Joint:
    """How many rows of each given label truly are of each class, as estimated; whole rows, which add up to N.

    Parameters
    ----------
    diagonal : (K,) int64
        Rows of each class whose label is right.
    pairs, counts : (P,) int64
        As in `ConfidentCounts`: given label and true class, and estimated rows.
    """

    diagonal: Int64s
    pairs: Int64s
    counts: Int64s

    @property
    def of_given(self) -> Int64s:
        """``(K,)`` rows by given label."""
        return self.diagonal + _sums(self.pairs // len(self.diagonal), self.counts, len(self.diagonal))

    @property
    def of_true(self) -> Int64s:
        """``(K,)`` rows by true class."""
        return self.diagonal + _sums(self.pairs % len(self.diagonal), self.counts, len(self.diagonal))


def calibrate(confident: ConfidentCounts, class_counts: Int64s) -> Joint:
    """Scale the confident rows of each given label to all of its rows, and round to whole ones that add up the same.

    As ``cleanlab.count.calibrate_confident_joint`` (2.9), for pairs that occur; a label without any confident row has
    none here, as there.

    Parameters
    ----------
    confident : ConfidentCounts
        Counts.
    class_counts : (K,) int64
        All rows with each label.
    """
    n_classes = confident.n_classes
    everywhere = confident.diagonal + _sums(confident.given, confident.counts, n_classes)
    total = float(class_counts[everywhere > 0].sum())  # what the rows scaled by label add up to
    scale = class_counts / np.maximum(everywhere, 1) / max(total, 1.0) * float(class_counts.sum())
    # The diagonal is one more pair of each label, so that all of its rows are rounded together.
    pairs = np.concatenate([confident.pairs, np.arange(n_classes) * (n_classes + 1)])
    values = np.concatenate([confident.counts * scale[confident.given], confident.diagonal * scale])
    order = np.argsort(pairs)
    pairs = pairs[order]
    whole = _rounded(values[order], pairs // n_classes)
    diagonal = pairs % (n_classes + 1) == 0
    others = ~diagonal & (whole > 0)
    return Joint(whole[diagonal], pairs[others], whole[others])


def _rounded(values: Float64s, groups: Int64s) -> Int64s:
    """Round so that each group of neighbours adds up to its rounded sum: the largest remainders are rounded up.

    As ``cleanlab.internal.util.round_preserving_sum`` (2.9); of equal remainders the last ones are rounded up, and the
    first ones down.
    """
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    whole = np.rint(values)
    missing = np.rint(np.add.reduceat(values, first)) - np.add.reduceat(whole, first)
    order = np.lexsort((values - whole, groups))  # stable: by column where remainders are equal
    place = np.arange(len(values)) - np.repeat(first, lengths)  # within its group, smallest remainder first
    more = np.repeat(missing, lengths)
    up, down = place >= np.repeat(lengths, lengths) - more, place < -more
    whole[order] += np.where(more > 0, up, 0) - np.where(more < 0, down, 0)
    return whole.astype(np.int64)


def _sums(classes: npt.NDArray[np.int64], counts: Int64s, n_classes: int) -> Int64s:
    """Add up counts by class; float64 holds them exactly."""
    return np.bincount(classes, counts, n_classes).astype(np.int64)
