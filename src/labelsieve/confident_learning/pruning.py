"""How many rows the pruning filters select, by the calibrated confident joint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.calibration import round_preserving_sum
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Bools, Float64s, Int64s, class_dtype


@dataclass(frozen=True)
class PruneCounts:
    """How many rows the pruning filters select.

    Parameters
    ----------
    by_label : (K,) int64
        Number of rows of each label, for ``prune_by_class``; a negative number selects none.
    edges : (K + 1,) int64
        The pairs of label k are those from ``edges[k]`` to ``edges[k + 1] - 1``.
    classes : (P,) uint
        The other class of each pair, ascending within a label.
    by_pair : (P,) int64
        Number of rows of each pair, for ``prune_by_noise_rate``; at least 1.
    """

    by_label: Int64s
    edges: Int64s
    classes: npt.NDArray[Any]
    by_pair: Int64s

    def without(self, labels: Bools) -> PruneCounts:
        """Return the counts without the labels that the ``(K,)`` mask `labels` selects."""
        lengths = np.diff(self.edges)
        kept = np.repeat(~labels, lengths)
        edges = np.concatenate(([0], np.cumsum(np.where(labels, 0, lengths))))
        return PruneCounts(np.where(labels, 0, self.by_label), edges, self.classes[kept], self.by_pair[kept])


def prune_counts(
    calibrated: ConfidentCounts,
    class_counts: Int64s,
    *,
    frac_noise: float,
    min_examples_per_class: int,
    num_to_remove_per_class: npt.ArrayLike | None,
) -> PruneCounts:
    """Return how many rows to select of each label and of each pair, such that enough rows of each label are left.

    Parameters
    ----------
    calibrated : ConfidentCounts
        The calibrated joint, or a joint of the user, which may have fractions.
    class_counts : (K,) int64
        Number of rows with each label.
    frac_noise : float
        Share of the noise to select.
    min_examples_per_class : int
        Number of rows of each class to leave. What the diagonal lacks is subtracted evenly from the pairs of the label.
    num_to_remove_per_class : (K,) array of int, optional
        Number of rows to select of each label. The pairs of each *true* class are scaled to this number.
    """
    selected = _reduced(calibrated, frac_noise, min_examples_per_class)
    if num_to_remove_per_class is not None:
        selected = _scaled(selected, class_counts, np.asarray(num_to_remove_per_class, np.int64))
    classes = selected.predicted.astype(class_dtype(selected.n_classes))
    return PruneCounts(class_counts - selected.diagonal, _edges(selected), classes, selected.counts)


def _reduced(calibrated: ConfidentCounts, frac_noise: float, min_examples_per_class: int) -> ConfidentCounts:
    """Return the number of rows to select of each pair, and, as diagonal, the number to leave with each label."""
    diagonal = np.maximum(calibrated.diagonal, min_examples_per_class)
    pairs, counts = [calibrated.pairs[:0]], [np.empty(0, np.int64)]
    for piece in calibrated.pieces():
        label_of_pair = piece.given
        first = np.flatnonzero(np.diff(label_of_pair, prepend=-1))
        labels, lengths = label_of_pair[first], np.diff(np.append(first, len(label_of_pair)))
        lacking = diagonal[labels] - calibrated.diagonal[labels]
        n_others = lengths + (calibrated.diagonal[labels] != 0) - 1
        others = np.maximum(piece.counts - np.repeat(lacking / np.maximum(n_others, 1), lengths), 0)
        reduced = others * frac_noise
        left = _matrix_sums(others - reduced, piece.predicted, first, lengths, piece.n_classes)
        diagonal[labels] = (diagonal[labels] + left).astype(np.int64)
        rows = reduced.astype(np.int64)
        pairs.append(piece.pairs[rows > 0])
        counts.append(rows[rows > 0])
    # A joint of the user may have fractions.
    return ConfidentCounts(diagonal.astype(np.int64), np.concatenate(pairs), np.concatenate(counts))


def _matrix_sums(values: Float64s, columns: Int64s, first: Int64s, lengths: Int64s, n_columns: int) -> Float64s:
    """Return the sums of groups of neighbouring values as NumPy adds up the rows of a matrix with all K columns.

    `first` and `lengths` are the position of the first value and the number of values of each group. A last bit may
    decide whether a row is selected, and depends on the order of adding if there are three values or more.
    """
    sums: Float64s = np.add.reduceat(values, first)
    row = np.zeros(n_columns)
    for group in np.flatnonzero((lengths > 2) & (sums > 0)):
        members = slice(first[group], first[group] + lengths[group])
        row[columns[members]] = values[members]
        sums[group] = row.sum()
        row[columns[members]] = 0
    return sums


def _scaled(selected: ConfidentCounts, class_counts: Int64s, n_remove: Int64s) -> ConfidentCounts:
    """Scale the pairs of each true class to `n_remove` rows, by the formula of ``cleanlab.filter`` (2.9).

    The formula divides the counts of a label by the sum over its *true* class. A class without noise selects no rows.
    """
    by_class = _transposed(selected)
    sums = np.maximum(by_class.diagonal + by_class.off_diagonal, 1)  # a class without rows has no counts to divide
    shares, diagonal_shares = by_class.counts / sums[by_class.predicted], by_class.diagonal / sums
    edges, labels, n_left = _edges(by_class), by_class.predicted, class_counts - n_remove
    pairs, counts = [selected.pairs[:0]], [np.empty(0, np.int64)]
    for k in np.flatnonzero(np.diff(edges)):
        members = slice(edges[k], edges[k + 1])
        row = np.zeros(selected.n_classes)
        row[labels[members]], row[k] = shares[members], diagonal_shares[k]
        noise = row.sum() - row[k]
        row = row * n_remove[k] / noise if noise > 0 else np.zeros_like(row)
        row[k] = n_left[k]
        rows = round_preserving_sum(row)
        rows[k] = 0
        others = np.flatnonzero(rows > 0)
        pairs.append((others + k * selected.n_classes).astype(selected.pairs.dtype))
        counts.append(rows[others])
    return _transposed(ConfidentCounts(n_left, np.concatenate(pairs), np.concatenate(counts)))


def _edges(joint: ConfidentCounts) -> Int64s:
    """Return the ``(K + 1,)`` positions at which the pairs of each label begin, and the end of the last."""
    first = np.arange(joint.n_classes + 1) * joint.n_classes
    edges: Int64s = np.searchsorted(joint.pairs.astype(np.int64), first).astype(np.int64)
    return edges


def _transposed(joint: ConfidentCounts) -> ConfidentCounts:
    pairs: npt.NDArray[Any] = (joint.predicted * joint.n_classes + joint.given).astype(joint.pairs.dtype)
    order = np.argsort(pairs)
    return ConfidentCounts(joint.diagonal, pairs[order], joint.counts[order])
