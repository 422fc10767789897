"""How many rows the pruning filters take, by the calibrated confident joint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.calibration import round_preserving_sum
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Float64s, Int64s, class_dtype


@dataclass(frozen=True)
class PruneCounts:
    """How many rows the pruning filters take.

    Parameters
    ----------
    by_label : (K,) int64
        Rows of each label, for ``prune_by_class``; may be below 0, which takes none.
    edges : (K + 1,) int64
        The pairs of given label k are those from ``edges[k]`` to ``edges[k + 1]``.
    classes : (P,) uint
        The other class of each pair, ascending within a label.
    by_pair : (P,) int64
        Rows of each pair, for ``prune_by_noise_rate``; at least 1.
    """

    by_label: Int64s
    edges: Int64s
    classes: npt.NDArray[Any]
    by_pair: Int64s

    def without(self, some: npt.NDArray[np.bool_]) -> PruneCounts:
        """Return the counts without the labels that are marked in the ``(K,)`` `some`."""
        lengths = np.diff(self.edges)
        kept = np.repeat(~some, lengths)
        edges = np.concatenate(([0], np.cumsum(np.where(some, 0, lengths))))
        return PruneCounts(np.where(some, 0, self.by_label), edges, self.classes[kept], self.by_pair[kept])


def prune_counts(
    calibrated: ConfidentCounts,
    class_counts: Int64s,
    *,
    frac_noise: float,
    min_examples_per_class: int,
    num_to_remove_per_class: npt.ArrayLike | None,
) -> PruneCounts:
    """Return how many rows to take of each label and pair, such that enough of each label are left.

    Parameters
    ----------
    calibrated : ConfidentCounts
        The calibrated joint.
    class_counts : (K,) int64
        All rows of each label.
    frac_noise : float
        Share of the noise to take.
    min_examples_per_class : int
        Rows of each class to leave: what the diagonal lacks is taken from the pairs of that label, evenly.
    num_to_remove_per_class : (K,) array of int, optional
        Scales the noise of each true class to so many rows, and leaves all but so many rows with each label.
    """
    taken = _reduced(calibrated, frac_noise, min_examples_per_class)
    if num_to_remove_per_class is not None:
        taken = _of_so_many(taken, class_counts, np.asarray(num_to_remove_per_class, np.int64))
    classes = taken.predicted.astype(class_dtype(taken.n_classes))
    return PruneCounts(class_counts - taken.diagonal, _edges(taken), classes, taken.counts)


def _reduced(calibrated: ConfidentCounts, frac_noise: float, min_examples_per_class: int) -> ConfidentCounts:
    """Return the rows to leave with each label on the diagonal, and the rows to take of each pair."""
    diagonal = np.maximum(calibrated.diagonal, min_examples_per_class)
    pairs, counts = [calibrated.pairs[:0]], [np.empty(0, np.int64)]
    for piece in calibrated.pieces():
        given = piece.given
        first = np.flatnonzero(np.diff(given, prepend=-1))
        labels, lengths = given[first], np.diff(np.append(first, len(given)))
        lacking = diagonal[labels] - calibrated.diagonal[labels]
        n_others = lengths + (calibrated.diagonal[labels] != 0) - 1
        others = np.maximum(piece.counts - np.repeat(lacking / np.maximum(n_others, 1), lengths), 0)
        reduced = others * frac_noise
        left = _matrix_sums(others - reduced, piece.predicted, first, lengths, piece.n_classes)
        diagonal[labels] = (diagonal[labels] + left).astype(np.int64)
        rows = reduced.astype(np.int64)
        pairs.append(piece.pairs[rows > 0])
        counts.append(rows[rows > 0])
    return ConfidentCounts(diagonal, np.concatenate(pairs), np.concatenate(counts))


def _matrix_sums(values: Float64s, columns: Int64s, first: Int64s, lengths: Int64s, n_columns: int) -> Float64s:
    """Add up groups of neighbouring values as NumPy adds up rows of a matrix: the last bit may decide about a row.

    `first` and `lengths` are those of the groups. The order of adding matters only where there are three values.
    """
    sums: Float64s = np.add.reduceat(values, first)
    row = np.zeros(n_columns)
    for group in np.flatnonzero((lengths > 2) & (sums > 0)):
        own = slice(first[group], first[group] + lengths[group])
        row[columns[own]] = values[own]
        sums[group] = row.sum()
        row[columns[own]] = 0
    return sums


def _of_so_many(taken: ConfidentCounts, class_counts: Int64s, wanted: Int64s) -> ConfidentCounts:
    """Scale the noise of each true class to the `wanted` rows, by the formula of ``cleanlab.filter`` (2.9).

    That divides the counts of a given label by the sum over its *true* class; a class without noise takes none.
    """
    by_true = _transposed(taken)
    of_true = by_true.diagonal + by_true.off_diagonal
    shares = np.maximum(of_true, 1)  # one that has no rows has no counts to divide
    parts, on_diagonal = by_true.counts / shares[by_true.predicted], by_true.diagonal / shares
    edges, columns, diagonal = _edges(by_true), by_true.predicted, class_counts - wanted
    pairs, counts = [taken.pairs[:0]], [np.empty(0, np.int64)]
    for true in np.flatnonzero(np.diff(edges)):
        own = slice(edges[true], edges[true + 1])
        row = np.zeros(taken.n_classes)
        row[columns[own]], row[true] = parts[own], on_diagonal[true]
        noise = row.sum() - row[true]
        row = row * wanted[true] / noise if noise > 0 else np.zeros_like(row)
        row[true] = diagonal[true]
        rows = round_preserving_sum(row)
        rows[true] = 0
        some = np.flatnonzero(rows > 0)
        pairs.append((some + true * taken.n_classes).astype(taken.pairs.dtype))
        counts.append(rows[some])
    return _transposed(ConfidentCounts(diagonal, np.concatenate(pairs), np.concatenate(counts)))


def _edges(joint: ConfidentCounts) -> Int64s:
    """Return where the pairs of each label begin, and where the last ones end."""
    first = np.arange(joint.n_classes + 1) * joint.n_classes
    edges: Int64s = np.searchsorted(joint.pairs.astype(np.int64), first).astype(np.int64)
    return edges


def _transposed(joint: ConfidentCounts) -> ConfidentCounts:
    pairs: npt.NDArray[Any] = (joint.predicted * joint.n_classes + joint.given).astype(joint.pairs.dtype)
    order = np.argsort(pairs)
    return ConfidentCounts(joint.diagonal, pairs[order], joint.counts[order])
