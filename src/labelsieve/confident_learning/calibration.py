"""Calibration: estimated numbers of rows of each label and true class, which add up to all rows of each label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, sums_by_class
from labelsieve.confident_learning.dtypes import Float64s, Int64s
from labelsieve.settings import FLOAT_TOLERANCE

# Up to this many classes, the result is that of cleanlab to the last bit: sums over a matrix, and NumPy's sort where
# remainders tie. With more classes this would take gigabytes and minutes; sums are exact then, and ties go by class.
_MATRIX_CLASSES: Final = 1024
# Replaces a sum of 0 where it divides (cleanlab/internal/constants.py, 2.9).
TINY: Final = 1e-100


@dataclass(frozen=True)
class JointCounts:
    """Counts by the confident joint that the number of label issues is computed from.

    Parameters
    ----------
    joint : ConfidentCounts
        The confident joint.
    n_off_diagonal : int
        Number of rows off its diagonal whose label is not nearly predicted.
    class_counts : (K,) int64
        Number of rows with each label.
    """

    joint: ConfidentCounts
    n_off_diagonal: int
    class_counts: Int64s


@dataclass(frozen=True)
class JointSums:
    """Sums of a calibrated joint.

    Parameters
    ----------
    diagonal : (K,) int64
        Estimated number of rows of each class whose label is right.
    by_label, by_true_class : (K,) int64
        Estimated number of rows with each label, and of each true class.
    """

    diagonal: Int64s
    by_label: Int64s
    by_true_class: Int64s


def calibrated_pairs(
    confident: ConfidentCounts, class_counts: Int64s
) -> Iterator[tuple[ConfidentCounts, Int64s, Int64s]]:
    """Scale the counts of each label to all of its rows, and round them to integers with the same sum.

    As ``cleanlab.count.calibrate_confident_joint`` (2.9), for the pairs that occur. A label without any counted row
    stays without, as there.

    Parameters
    ----------
    confident : ConfidentCounts
        Counts by label and class.
    class_counts : (K,) int64
        Number of rows with each label.

    Yields
    ------
    piece : ConfidentCounts
        Some of the pairs, as in `ConfidentCounts.pieces`; the last piece has no pairs.
    estimated : (P,) int64
        Estimated number of rows of each pair.
    diagonal : (K,) int64
        Estimated diagonal: of the labels of this piece, or, in the last piece, of the labels without pairs; else 0.
    """
    n_classes = confident.n_classes
    counted = confident.diagonal + confident.off_diagonal
    n_rows, total = int(class_counts.sum()), float(max(class_counts[counted > 0].sum(), 1))
    if n_classes <= _MATRIX_CLASSES:
        total = max(_matrix_total(confident, class_counts), TINY)
    counted = np.maximum(counted, TINY)
    without_pairs = np.ones(n_classes, bool)
    for piece in confident.pieces():
        n_pairs, labels = len(piece.pairs), np.unique(piece.given)
        without_pairs[labels] = False
        # The diagonal is one more entry of each row of the matrix, so that a whole row is rounded together.
        rows = np.concatenate([piece.given, labels])
        columns = np.concatenate([piece.predicted, labels])
        values = np.concatenate([piece.counts, confident.diagonal[labels]]) / counted[rows] * class_counts[rows]
        values = values / total * n_rows
        order = np.lexsort((columns, rows))
        rounded = np.empty(len(rows), np.int64)
        rounded[order] = _rounded(values[order], rows[order], columns[order], n_classes)
        diagonal = np.zeros(n_classes, np.int64)
        diagonal[labels] = rounded[n_pairs:]
        yield piece, rounded[:n_pairs], diagonal
    scaled = confident.diagonal / counted * class_counts / total * n_rows
    rest = np.where(without_pairs, np.rint(scaled), 0).astype(np.int64)
    no_pairs = ConfidentCounts(confident.diagonal, confident.pairs[:0], confident.counts[:0])
    yield no_pairs, np.empty(0, np.int64), rest


def _matrix_total(confident: ConfidentCounts, class_counts: Int64s) -> float:
    """Return the sum of the scaled counts as NumPy adds up a matrix: its last bit may decide how a half is rounded."""
    matrix = np.diag(confident.diagonal).astype(np.float64)
    matrix[confident.given, confident.predicted] = confident.counts
    scaled = matrix / np.maximum(matrix.sum(axis=1), TINY)[:, None] * class_counts[:, None]
    return float(np.sum(np.asfortranarray(scaled)))  # in the memory order that cleanlab's matrix has


def joint_sums(confident: ConfidentCounts, class_counts: Int64s) -> JointSums:
    """Return the sums of the calibrated joint by label and by true class; see `calibrated_pairs`."""
    diagonal, by_label, by_true_class = (np.zeros(confident.n_classes, np.int64) for _ in range(3))
    for piece, estimated, piece_diagonal in calibrated_pairs(confident, class_counts):
        diagonal += piece_diagonal
        by_label += sums_by_class(piece.given, estimated, confident.n_classes)
        by_true_class += sums_by_class(piece.predicted, estimated, confident.n_classes)
    return JointSums(diagonal, by_label + diagonal, by_true_class + diagonal)


def calibrated_joint(joint: ConfidentCounts, class_counts: Int64s) -> ConfidentCounts:
    """Return the calibrated joint as a whole; see `calibrated_pairs`."""
    diagonal, pairs, counts = np.zeros(joint.n_classes, np.int64), list[npt.NDArray[Any]](), list[Int64s]()
    for piece, estimated, piece_diagonal in calibrated_pairs(joint, class_counts):
        diagonal += piece_diagonal
        pairs.append(piece.pairs[estimated > 0])
        counts.append(estimated[estimated > 0])
    return ConfidentCounts(diagonal, np.concatenate(pairs), np.concatenate(counts))


def with_diagonal(joint: ConfidentCounts) -> ConfidentCounts:
    """Return the counts with at least 1 for each class on the diagonal, as in ``cleanlab.count`` (2.9)."""
    return ConfidentCounts(np.maximum(joint.diagonal, 1), joint.pairs, joint.counts)


def off_diagonal_rows(calibrated: ConfidentCounts) -> int:
    """Return the number of rows off the diagonal of a calibrated joint."""
    return int(calibrated.counts.sum(dtype=np.int64))


def estimated_issues(counts: JointCounts, *, calibrated: bool) -> int:
    """Return the estimated number of label issues, as ``cleanlab.count.num_label_issues`` (2.9) does.

    Parameters
    ----------
    counts : JointCounts
        Counts of all rows.
    calibrated : bool
        Whether to return the number of rows off the diagonal of the calibrated joint.
    """
    if not calibrated:
        return counts.n_off_diagonal
    return off_diagonal_rows(calibrated_joint(with_diagonal(counts.joint), counts.class_counts))


def _rounded(values: Float64s, groups: Int64s, columns: Int64s, n_columns: int) -> Int64s:
    """Round the values of each group of neighbours to integers that add up to the rounded sum of the group.

    As ``cleanlab.internal.util.round_preserving_sum`` (2.9): if the rounded values add up to less, the largest
    remainders are rounded up; if to more, the smallest are rounded down. Of equal remainders, later ones are rounded up
    and earlier ones down. With up to 1,024 classes NumPy's sort of all K remainders of a label decides, as in cleanlab.
    """
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    whole = np.rint(values)
    missing = np.rint(np.add.reduceat(values, first)) - np.add.reduceat(whole, first)
    order = np.lexsort((values - whole, groups))  # stable: by column where remainders are equal
    # Each value's rank within its group, smallest remainder first: the last `missing` are raised by 1, or the first
    # `-missing` lowered.
    rank = np.arange(len(values)) - np.repeat(first, lengths)
    missing_of_value = np.repeat(missing, lengths)
    up, down = rank >= np.repeat(lengths, lengths) - missing_of_value, rank < -missing_of_value
    rounded = whole.copy()
    rounded[order] += up.astype(np.float64) - down
    if n_columns <= _MATRIX_CLASSES:
        for group in np.flatnonzero(missing):
            members = slice(first[group], first[group] + lengths[group])
            row = np.zeros(n_columns)
            row[columns[members]] = values[members]
            rounded[members] = round_preserving_sum(row)[columns[members]]
    return rounded.astype(np.int64)


def round_preserving_sum(values: Float64s) -> Int64s:
    """Round numbers to integers that add up to their rounded sum, as ``cleanlab.internal.util`` (2.9) does."""
    whole = values.round()
    missing = np.sum(values).round() - np.sum(whole).round()
    while abs(missing) > FLOAT_TOLERANCE:
        step = -1 if missing < 0 else 1
        largest_first = np.argsort(values - whole)[::-step]
        whole[largest_first[: min(int(abs(missing)), len(values))]] += step
        missing = np.sum(values).round() - np.sum(whole).round()
    return whole.astype(np.int64)
