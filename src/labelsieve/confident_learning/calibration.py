"""The calibrated confident joint: estimated rows of each label and true class, which add up to the rows there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, sums_by_class
from labelsieve.confident_learning.dtypes import Float64s, Int64s
from labelsieve.settings import FLOAT_TOLERANCE

# Up to this many classes counts are calibrated to the last bit as in cleanlab: with a matrix, and NumPy's sort where
# remainders tie. Beyond, where that takes gigabytes and minutes, by exact sums and in the order of the classes.
_MATRIX_CLASSES: Final = 1024
# Replaces a sum of 0 where it divides (cleanlab/internal/constants.py, 2.9).
TINY: Final = 1e-100


@dataclass(frozen=True)
class JointCounts:
    """What the number of label issues is made of, by the confident joint.

    Parameters
    ----------
    joint : ConfidentCounts
        Rows by given label and the class as which they are counted.
    n_off_diagonal : int
        Those off the diagonal whose label is not nearly predicted.
    class_counts : (K,) int64
        All rows of each label.
    """

    joint: ConfidentCounts
    n_off_diagonal: int
    class_counts: Int64s


@dataclass(frozen=True)
class Joint:
    """How many rows of each given label truly are of each class, as estimated; whole rows, which add up to N.

    Parameters
    ----------
    diagonal : (K,) int64
        Rows of each class whose label is right.
    by_label, by_true_class : (K,) int64
        Rows of each label, and of each true class.
    """

    diagonal: Int64s
    by_label: Int64s
    by_true_class: Int64s


def calibrated_pairs(
    confident: ConfidentCounts, class_counts: Int64s
) -> Iterator[tuple[ConfidentCounts, Int64s, Int64s]]:
    """Scale the confident rows of each given label to all of its rows, and round to whole ones that add up the same.

    As ``cleanlab.count.calibrate_confident_joint`` (2.9), for pairs that occur; a label without any confident row has
    none here, as there.

    Parameters
    ----------
    confident : ConfidentCounts
        Counts.
    class_counts : (K,) int64
        All rows with each label.

    Yields
    ------
    piece : ConfidentCounts
        Some of the pairs, all of their given labels; the last piece has none.
    estimated : (P,) int64
        Estimated rows of each pair.
    diagonal : (K,) int64
        Estimated rows of the diagonal, of the piece's labels; in the last piece of labels without pairs. Else 0.
    """
    n_classes = confident.n_classes
    everywhere = confident.diagonal + confident.off_diagonal
    n_rows, total = int(class_counts.sum()), float(max(class_counts[everywhere > 0].sum(), 1))
    if n_classes <= _MATRIX_CLASSES:
        total = max(_matrix_total(confident, class_counts), TINY)
    everywhere = np.maximum(everywhere, TINY)
    alone = np.ones(n_classes, bool)
    for piece in confident.pieces():
        given = piece.given
        labels = np.unique(given)
        alone[labels] = False
        # The diagonal is one more pair of each label, so that all of its rows are rounded together.
        of = np.concatenate([given, labels])
        columns = np.concatenate([piece.predicted, labels])
        values = np.concatenate([piece.counts, confident.diagonal[labels]]) / everywhere[of] * class_counts[of]
        values = values / total * n_rows
        order = np.lexsort((columns, of))
        whole = np.empty(len(of), np.int64)
        whole[order] = _rounded(values[order], of[order], columns[order], n_classes)
        diagonal = np.zeros(n_classes, np.int64)
        diagonal[labels] = whole[len(given) :]
        yield piece, whole[: len(given)], diagonal
    scaled = confident.diagonal / everywhere * class_counts / total * n_rows
    rest = np.where(alone, np.rint(scaled), 0).astype(np.int64)
    none = ConfidentCounts(confident.diagonal, confident.pairs[:0], confident.counts[:0])
    yield none, np.empty(0, np.int64), rest


def _matrix_total(confident: ConfidentCounts, class_counts: Int64s) -> float:
    """Add up the scaled counts as NumPy adds up a matrix: an exact half may hang on the last bit of that."""
    matrix = np.diag(confident.diagonal).astype(np.float64)
    matrix[confident.given, confident.predicted] = confident.counts
    scaled = matrix / np.maximum(matrix.sum(axis=1), TINY)[:, None] * class_counts[:, None]
    return float(np.sum(np.asfortranarray(scaled)))  # by true class, as the matrix lies in memory there


def joint_sums(confident: ConfidentCounts, class_counts: Int64s) -> Joint:
    """Add up the calibrated joint by given label and by true class; see `calibrated_pairs`."""
    diagonal, by_label, by_true_class = (np.zeros(confident.n_classes, np.int64) for _ in range(3))
    for piece, estimated, of_piece in calibrated_pairs(confident, class_counts):
        diagonal += of_piece
        by_label += sums_by_class(piece.given, estimated, confident.n_classes)
        by_true_class += sums_by_class(piece.predicted, estimated, confident.n_classes)
    return Joint(diagonal, by_label + diagonal, by_true_class + diagonal)


def calibrated_joint(joint: ConfidentCounts, class_counts: Int64s) -> ConfidentCounts:
    """Scale the counts of each given label to all of its rows, and round to whole ones that add up to these.

    Parameters
    ----------
    joint : ConfidentCounts
        Counts by given label and true class.
    class_counts : (K,) int64
        All rows of each label.
    """
    diagonal, pairs, counts = np.zeros(joint.n_classes, np.int64), list[npt.NDArray[Any]](), list[Int64s]()
    for piece, estimated, of_piece in calibrated_pairs(joint, class_counts):
        diagonal += of_piece
        pairs.append(piece.pairs[estimated > 0])
        counts.append(estimated[estimated > 0])
    return ConfidentCounts(diagonal, np.concatenate(pairs), np.concatenate(counts))


def with_diagonal(joint: ConfidentCounts) -> ConfidentCounts:
    """Return the counts with at least 1 on the diagonal of each class, as ``cleanlab.count`` (2.9) has them."""
    return ConfidentCounts(np.maximum(joint.diagonal, 1), joint.pairs, joint.counts)


def off_diagonal_rows(calibrated: ConfidentCounts) -> int:
    """Return how many rows a calibrated joint has off its diagonal."""
    return int(calibrated.counts.sum(dtype=np.int64))


def estimated_issues(counts: JointCounts, *, calibrated: bool) -> int:
    """Return the estimated number of label issues, as ``cleanlab.count.num_label_issues`` (2.9).

    Parameters
    ----------
    counts : JointCounts
        Of all rows.
    calibrated : bool
        Whether to count off the diagonal of the calibrated joint.
    """
    if not calibrated:
        return counts.n_off_diagonal
    return off_diagonal_rows(calibrated_joint(with_diagonal(counts.joint), counts.class_counts))


def _rounded(values: Float64s, groups: Int64s, columns: Int64s, n_columns: int) -> Int64s:
    """Round so that each group of neighbours adds up to its rounded sum: the largest remainders are rounded up.

    As ``cleanlab.internal.util.round_preserving_sum`` (2.9). Where remainders tie at the last one that is rounded, the
    later ones are rounded up and the earlier ones down; of up to 1,024 classes, where that function is of use, those
    that NumPy's sort of all K remainders of the label leaves there.
    """
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    whole = np.rint(values)
    missing = np.rint(np.add.reduceat(values, first)) - np.add.reduceat(whole, first)
    order = np.lexsort((values - whole, groups))  # stable: by column where remainders are equal
    place = np.arange(len(values)) - np.repeat(first, lengths)  # within its group, smallest remainder first
    more = np.repeat(missing, lengths)
    up, down = place >= np.repeat(lengths, lengths) - more, place < -more
    rounded = whole.copy()
    rounded[order] += np.where(more > 0, up, 0) - np.where(more < 0, down, 0)
    if n_columns <= _MATRIX_CLASSES:
        for group in np.flatnonzero(missing):
            own = slice(first[group], first[group] + lengths[group])
            row = np.zeros(n_columns)
            row[columns[own]] = values[own]
            rounded[own] = round_preserving_sum(row)[columns[own]]
    return rounded.astype(np.int64)


def round_preserving_sum(values: Float64s) -> Int64s:
    """Round numbers to whole ones that add up to their rounded sum, as ``cleanlab.internal.util`` (2.9) does."""
    whole = values.round()
    missing = np.sum(values).round() - np.sum(whole).round()
    while abs(missing) > FLOAT_TOLERANCE:
        step = -1 if missing < 0 else 1
        largest_first = np.argsort(values - whole)[::-step]
        whole[largest_first[: min(int(abs(missing)), len(values))]] += step
        missing = np.sum(values).round() - np.sum(whole).round()
    return whole.astype(np.int64)
