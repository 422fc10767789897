"""Tables of the label quality of each class, and of the pairs of classes that are confused.

The formulas are those of ``cleanlab.dataset`` (2.9), applied to the calibrated joint of the counts by the run's rule.
With the matrix C of `ConfidentCounts`, ``rank_classes_by_label_quality(labels=labels, confident_joint=C)`` and
``find_overlapping_classes`` return the same numbers; with more than 1,024 classes, except where remainders tie as the
joint is rounded.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import TINY, ConfidentCounts, calibrated_pairs, joint_sums
from labelsieve.confident_learning.thresholds import Float64s, Int64s, pair_dtype
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError
from labelsieve.options import FLOAT_TOLERANCE

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# The threshold of a class with fewer rows than this means little.
RARE_ROWS: Final = 10
FLAGS: Final = ("", "absent", "rare", "tiny threshold")

Columns = dict[str, npt.NDArray[Any]]


def class_flags(class_counts: Int64s, thresholds: Float64s) -> npt.NDArray[np.str_]:
    """Return a warning word for each class whose numbers mean little, "" for the others.

    ``absent``: no row has this label. ``rare``: fewer than 10 rows have it. ``tiny threshold``: the model gives these
    rows less than 1/K on average, so that nearly every row predicted as this class counts as confident.

    Parameters
    ----------
    class_counts : (K,) int64
        Number of rows with each label.
    thresholds : (K,) float64
        Confident thresholds.
    """
    which = np.select(
        [class_counts == 0, class_counts < RARE_ROWS, thresholds < 1 / len(thresholds)], [1, 2, 3], default=0
    )
    flags: npt.NDArray[np.str_] = np.array(FLAGS)[which]
    return flags


def class_columns(
    confident: ConfidentCounts,
    class_counts: Int64s,
    thresholds: Float64s,
    mean_scores: Float64s,
    issues_of_class: Int64s,
) -> Columns:
    """Return the columns of the table of classes, in class order.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by label and class.
    class_counts, thresholds, mean_scores : (K,)
        Number of rows with each label, its confident threshold, and the mean score of these rows.
    issues_of_class : (K,) int64
        Number of label issues with each label.

    Returns
    -------
    dict of (K,) array
        ``class``, ``rows``, ``issues``, ``share`` (issues per row), ``label_noise`` (estimated share of the rows with
        this label that truly are of another class), ``inverse_label_noise`` (estimated share of the rows truly of this
        class that have another label), ``mean_score``, ``threshold``, ``flag``. Shares of no rows are NaN.
    """
    joint = joint_sums(confident, class_counts)
    return {
        "class": np.arange(len(class_counts)),
        "rows": class_counts,
        "issues": issues_of_class,
        "share": _share(issues_of_class, class_counts),
        "label_noise": _share(joint.by_label - joint.diagonal, joint.by_label),
        "inverse_label_noise": _share(joint.by_true_class - joint.diagonal, joint.by_true_class),
        "mean_score": mean_scores,
        "threshold": thresholds,
        "flag": class_flags(class_counts, thresholds),
    }


def pair_columns(confident: ConfidentCounts, class_counts: Int64s, top: int | None = None) -> Columns:
    """Return the columns of the table of confused pairs of classes, most frequent first.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by label and class.
    class_counts : (K,) int64
        Number of rows with each label.
    top : int, optional
        Number of pairs; all that occur by default.

    Returns
    -------
    dict of (P,) array
        ``given_label``, ``suggested_label``, ``confident_rows`` (rows with this label that are confidently predicted as
        this class), ``estimated_rows`` (scaled to all rows of the label and rounded), ``share`` (of the rows with the
        given label). Sorted by estimated rows, confident rows, label and class.
    """
    best: list[npt.NDArray[Any]] = []  # pairs, confident rows and estimated rows of the pieces so far
    for piece, estimated, _ in calibrated_pairs(confident, class_counts):
        found = [piece.pairs.astype(np.int64), piece.counts.astype(np.int64), estimated]
        best = [np.concatenate(columns) for columns in zip(best, found, strict=True)] if best else found
        if top is not None and len(best[0]) > 2 * top:
            order = np.lexsort((best[0], -best[1], -best[2]))[:top]
            best = [column[order] for column in best]
    order = np.lexsort((best[0], -best[1], -best[2]))[:top]
    pairs, counts, estimated = (column[order] for column in best)
    labels = pairs // confident.n_classes
    return {
        "given_label": labels,
        "suggested_label": pairs % confident.n_classes,
        "confident_rows": counts,
        "estimated_rows": estimated,
        "share": _share(estimated, class_counts[labels]),
    }


def _share(part: Int64s, whole: Int64s) -> Float64s:
    """Divide counts; the result is NaN where the divisor is 0."""
    shares: Float64s = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares


PyMethod: TypeAlias = Literal["cnt", "eqn", "marginal", "marginal_ps"]
PY_METHODS: Final[tuple[PyMethod, ...]] = get_args(PyMethod)
# The highest noise rate (cleanlab.internal.util.clip_noise_rates).
_MOST_NOISE: Final = 0.9999
# Iterations that make the estimates agree, and iterations for the inverse in each of them.
_NOISE_ITERATIONS: Final = 3
_INVERSE_ITERATIONS: Final = 5
# Integers up to this are exact as float64.
_LARGEST: Final = 2**53


@dataclass(frozen=True)
class Entries:
    """A sparse square matrix: coordinates and values of the entries that are not 0.

    Parameters
    ----------
    size : int
        Number of rows and of columns K.
    rows, columns : (E,) int64
        Coordinates of the entries; no pair occurs twice.
    values : (E,) int64 or float64
        Values of the entries.
    """

    size: int
    rows: Int64s
    columns: Int64s
    values: npt.NDArray[Any]

    @classmethod
    def of(cls, joint: ConfidentCounts) -> Entries:
        """Return the entries of a matrix of counts."""
        labels = np.flatnonzero(joint.diagonal)
        return cls(
            joint.n_classes,
            np.concatenate([joint.given, labels]),
            np.concatenate([joint.predicted, labels]),
            np.concatenate([joint.counts, joint.diagonal[labels]]),
        )

    def counts(self) -> ConfidentCounts:
        """Return the entries as counts; the inverse of `of`."""
        diagonal = np.zeros(self.size, self.values.dtype)
        on = self.rows == self.columns
        diagonal[self.rows[on]] = self.values[on]
        pairs = (self.rows[~on] * self.size + self.columns[~on]).astype(pair_dtype(self.size))
        order = np.argsort(pairs)
        return ConfidentCounts(diagonal, pairs[order], self.values[~on][order])

    def matrix(self, *, dense: bool) -> Any:
        """Return a ``(K, K)`` NumPy array, or a `scipy.sparse.csr_array`.

        Raises
        ------
        MissingDependencyError
            If the matrix is sparse and SciPy is not installed.
        """
        shape = (self.size, self.size)
        if dense:
            full = np.zeros(shape, self.values.dtype)
            full[self.rows, self.columns] = self.values
            return full
        sparse: csr_array = _csr_array()((self.values, (self.rows, self.columns)), shape=shape)
        return sparse


def check_sparse(*, dense: bool) -> None:
    """Raise unless SciPy is installed or `dense` is true, so that a call fails before it reads anything."""
    if not dense:
        _csr_array()


def _csr_array() -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingDependencyError("A sparse matrix (dense=True gives a full one)", "sparse") from error
    return csr_array


def entries_of(name: str, matrix: Any) -> Entries:
    """Return the entries of a square matrix: a NumPy array, nested lists, or any sparse array of SciPy.

    Raises
    ------
    InputTypeError
        If `matrix` is not a matrix of numbers.
    InvalidInputError
        If it is not square, if all its entries are 0, or if it has NaN or numbers outside 0 to 2**53.
    """
    sparse: Any = sys.modules.get("scipy.sparse")
    is_sparse = sparse is not None and sparse.issparse(matrix)
    try:
        array: Any = matrix if is_sparse else np.asarray(matrix)
    except ValueError as error:  # rows of different lengths
        raise InputTypeError(f"{name} must be a (K, K) matrix of numbers: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise InputTypeError(f"{name} must be a (K, K) matrix of numbers, not {type(matrix).__name__} of {array.dtype}")
    if array.shape[0] != array.shape[1] or not array.shape[0]:
        raise InvalidInputError(f"{name} must be square, not of shape {tuple(array.shape)}")
    if is_sparse:
        coordinates: Any = sparse.coo_array(matrix)
        coordinates.sum_duplicates()
        (rows, columns), values = coordinates.coords, coordinates.data
    else:
        rows, columns = np.nonzero(array)
        values = array[rows, columns]
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= _LARGEST).all()):
        raise InvalidInputError(f"{name} must hold numbers from 0 to 2**53: it has negative, larger ones or NaN")
    nonzero = values != 0
    if not nonzero.any():
        raise InvalidInputError(f"{name} has no counts")
    wide = np.float64 if values.dtype.kind == "f" else np.int64
    return Entries(
        int(array.shape[0]),
        rows[nonzero].astype(np.int64),
        columns[nonzero].astype(np.int64),
        values[nonzero].astype(wide),
    )


def estimate_latent(
    joint: Entries, class_counts: Int64s, py_method: PyMethod, *, converge: bool
) -> tuple[Float64s, Entries, Entries]:
    """Return the prior of the true classes, the noise matrix and the inverse noise matrix of a confident joint.

    Parameters
    ----------
    joint : Entries
        Counts by label (rows) and true class (columns).
    class_counts : (K,) int64
        Number of rows with each label.
    py_method : str
        One of `PY_METHODS`.
    converge : bool
        Whether to make the three agree with each other, by computing each from the others in turn.

    Raises
    ------
    InvalidInputError
        With ``py_method="eqn"``, if the noise matrix has no inverse.
    """
    ps = class_counts / float(class_counts.sum())
    by_label, by_true_class = _sums(joint.rows, joint.values, joint.size), _column_sums(joint)
    noise = replace(joint, values=joint.values / _nonzero(by_true_class)[joint.columns])
    flipped = Entries(joint.size, joint.columns, joint.rows, joint.values)
    inverse = replace(flipped, values=flipped.values / _nonzero(by_label)[flipped.columns])
    if py_method == "cnt":
        py = _by_diagonals(ps, noise, inverse)
    elif py_method == "marginal":
        py = by_true_class / max(float(by_true_class.sum()), TINY)
    elif py_method == "marginal_ps":
        py = _sums(inverse.rows, inverse.values * ps[inverse.columns], inverse.size)
    else:
        try:
            py = np.linalg.inv(noise.matrix(dense=True)).dot(ps)
        except np.linalg.LinAlgError as error:
            raise InvalidInputError(
                "py_method='eqn' needs a noise matrix that has an inverse; 'cnt' does not"
            ) from error
    py = _as_distribution(py, FLOAT_TOLERANCE)
    noise, inverse = _clipped(noise), _clipped(inverse)
    if converge:
        py, noise, inverse = _converged(ps, py, noise)
        py, noise, inverse = _as_distribution(py, 1e-5), _clipped(noise), _clipped(inverse)
    return py, noise, inverse


def _converged(ps: Float64s, py: Float64s, noise: Entries) -> tuple[Float64s, Entries, Entries]:
    inverse = noise
    for _ in range(_NOISE_ITERATIONS):
        for _ in range(_INVERSE_ITERATIONS):
            rates = noise.values * py[noise.columns] / _nonzero(ps)[noise.rows]
            inverse = _clipped(Entries(noise.size, noise.columns, noise.rows, rates))
            py = _as_distribution(_by_diagonals(ps, noise, inverse), FLOAT_TOLERANCE)
        rates = inverse.values * ps[inverse.columns] / _nonzero(py)[inverse.rows]
        noise = _clipped(Entries(inverse.size, inverse.columns, inverse.rows, rates))
    return py, noise, inverse


def _by_diagonals(ps: Float64s, noise: Entries, inverse: Entries) -> Float64s:
    return _diagonal(inverse) / _nonzero(_diagonal(noise)) * ps


def _clipped(rates: Entries) -> Entries:
    """Clip the rates off the diagonal, and scale each column to sum 1."""
    off = rates.rows != rates.columns
    bounded = replace(rates, values=np.where(off, np.clip(rates.values, 0, _MOST_NOISE), rates.values))
    return replace(bounded, values=bounded.values / _nonzero(_column_sums(bounded))[bounded.columns])


def _as_distribution(values: Float64s, least: float) -> Float64s:
    bounded = np.clip(values, least, 1.0)
    scaled: Float64s = bounded / max(float(bounded.sum()), TINY)
    return scaled


def _diagonal(entries: Entries) -> Float64s:
    on = entries.rows == entries.columns
    return _sums(entries.rows[on], entries.values[on], entries.size)


def _column_sums(entries: Entries) -> Float64s:
    return _sums(entries.columns, entries.values, entries.size)


def _sums(positions: Int64s, values: npt.NDArray[Any], size: int) -> Float64s:
    return np.bincount(positions, values, size).astype(np.float64)


def _nonzero(values: Float64s) -> Float64s:
    """Clip zeros away, so that one can divide by the result."""
    return np.maximum(values, TINY)
