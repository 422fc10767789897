"""K x K matrices of counts and rates as people get and give them: sparse, or dense where they ask for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, pair_dtype
from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


# Whole numbers up to this are exact as floats.
_MOST: Final = 2**53


@dataclass(frozen=True)
class Entries:
    """The entries of a square matrix, each place once; all others are 0.

    Parameters
    ----------
    size : int
        Rows and columns K.
    rows, columns : (E,) int64
        Where they are.
    values : (E,) int64 or float64
        What they are.
    """

    size: int
    rows: Int64s
    columns: Int64s
    values: npt.NDArray[Any]

    @classmethod
    def of(cls, joint: ConfidentCounts) -> Entries:
        """Return counts with their diagonal, those that are not 0."""
        some = np.flatnonzero(joint.diagonal)
        return cls(
            joint.n_classes,
            np.concatenate([joint.given, some]),
            np.concatenate([joint.predicted, some]),
            np.concatenate([joint.counts, joint.diagonal[some]]),
        )

    def counts(self) -> ConfidentCounts:
        """Return what `of` was given."""
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
            Without SciPy, where it is not to be dense.
        """
        shape = (self.size, self.size)
        if dense:
            full = np.zeros(shape, self.values.dtype)
            full[self.rows, self.columns] = self.values
            return full
        found: csr_array = _csr_array()((self.values, (self.rows, self.columns)), shape=shape)
        return found


def check_sparse(*, dense: bool) -> None:
    """Raise where a sparse matrix is asked for and SciPy is missing, before anything is read."""
    if not dense:
        _csr_array()


def _csr_array() -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingDependencyError("A sparse matrix (dense=True gives a full one)", "sparse") from error
    return csr_array


def entries_of(name: str, matrix: Any) -> Entries:
    """Read a square matrix of numbers from 0 on: a NumPy array, nested lists, or any sparse array of SciPy.

    Raises
    ------
    InputTypeError
        If it is none.
    InvalidInputError
        If it is not square, holds nothing but 0, or has negative numbers, NaN or infinity, or too large ones.
    """
    sparse: Any = sys.modules.get("scipy.sparse")
    is_sparse = sparse is not None and sparse.issparse(matrix)
    try:
        given: Any = matrix if is_sparse else np.asarray(matrix)
    except ValueError as error:  # rows of several lengths
        raise InputTypeError(f"{name} must be a (K, K) matrix of numbers: {error}") from error
    if given.ndim != 2 or given.dtype.kind not in "iuf":
        raise InputTypeError(f"{name} must be a (K, K) matrix of numbers, not {type(matrix).__name__} of {given.dtype}")
    if given.shape[0] != given.shape[1] or not given.shape[0]:
        raise InvalidInputError(f"{name} must be square, not of shape {tuple(given.shape)}")
    if is_sparse:
        coordinates: Any = sparse.coo_array(matrix)
        coordinates.sum_duplicates()
        (rows, columns), values = coordinates.coords, coordinates.data
    else:
        rows, columns = np.nonzero(given)
        values = given[rows, columns]
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= _MOST).all()):
        raise InvalidInputError(f"{name} must hold numbers from 0 to 2**53: it has negative, larger ones or NaN")
    some = values != 0
    if not some.any():
        raise InvalidInputError(f"{name} has no counts")
    wide = np.float64 if values.dtype.kind == "f" else np.int64
    return Entries(
        int(given.shape[0]), rows[some].astype(np.int64), columns[some].astype(np.int64), values[some].astype(wide)
    )
