"""What a confident joint says of the true labels: their prior, the noise matrix and its inverse. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import TINY
from labelsieve.confident_learning.noise_matrices import Entries
from labelsieve.confident_learning.thresholds import Float64s, Int64s
from labelsieve.errors import InvalidInputError
from labelsieve.settings import FLOAT_TOLERANCE

PyMethod: TypeAlias = Literal["cnt", "eqn", "marginal", "marginal_ps"]
PY_METHODS: Final[tuple[PyMethod, ...]] = get_args(PyMethod)
# Above this no noise rate goes (cleanlab.internal.util.clip_noise_rates).
_MOST_NOISE: Final = 0.9999
# How often the estimates are made to agree, and the inverse within each time.
_NOISE_ROUNDS: Final = 3
_INVERSE_ROUNDS: Final = 5


def latent(
    joint: Entries, class_counts: Int64s, py_method: PyMethod, *, converge: bool
) -> tuple[Float64s, Entries, Entries]:
    """Return the prior of the true classes, the noise matrix and the inverse noise matrix.

    Parameters
    ----------
    joint : Entries
        Counts by given label (rows) and true class (columns).
    class_counts : (K,) int64
        All rows of each label.
    py_method : str
        One of `PY_METHODS`.
    converge : bool
        Whether the three are made to agree with each other, by computing each from the others in turn.

    Raises
    ------
    InvalidInputError
        For ``eqn`` with a noise matrix that has no inverse.
    """
    ps = class_counts / float(class_counts.sum())
    of_given, of_true = _row_sums(joint), _column_sums(joint)
    noise = replace(joint, values=joint.values / _at_least(of_true)[joint.columns])
    flipped = Entries(joint.size, joint.columns, joint.rows, joint.values)
    inverse = replace(flipped, values=flipped.values / _at_least(of_given)[flipped.columns])
    py = _priors[py_method](ps, noise, inverse, of_true)
    py = _as_distribution(py, FLOAT_TOLERANCE)
    noise, inverse = _clipped(noise), _clipped(inverse)
    if converge:
        py, noise, inverse = _converged(ps, py, noise)
        py, noise, inverse = _as_distribution(py, 1e-5), _clipped(noise), _clipped(inverse)
    return py, noise, inverse


def _converged(ps: Float64s, py: Float64s, noise: Entries) -> tuple[Float64s, Entries, Entries]:
    inverse = noise
    for _ in range(_NOISE_ROUNDS):
        for _ in range(_INVERSE_ROUNDS):
            rates = noise.values * py[noise.columns] / _at_least(ps)[noise.rows]
            inverse = _clipped(Entries(noise.size, noise.columns, noise.rows, rates))
            py = _as_distribution(_by_diagonals(ps, noise, inverse, ps), FLOAT_TOLERANCE)
        rates = inverse.values * ps[inverse.columns] / _at_least(py)[inverse.rows]
        noise = _clipped(Entries(inverse.size, inverse.columns, inverse.rows, rates))
    return py, noise, inverse


def _by_diagonals(ps: Float64s, noise: Entries, inverse: Entries, _of_true: Float64s) -> Float64s:
    return _diagonal(inverse) / _at_least(_diagonal(noise)) * ps


def _by_equation(ps: Float64s, noise: Entries, _inverse: Entries, _of_true: Float64s) -> Float64s:
    try:
        solved: Float64s = np.linalg.inv(noise.matrix(dense=True)).dot(ps)
    except np.linalg.LinAlgError as error:
        raise InvalidInputError("py_method='eqn' needs a noise matrix that has an inverse; 'cnt' does not") from error
    return solved


def _by_counts(_ps: Float64s, _noise: Entries, _inverse: Entries, of_true: Float64s) -> Float64s:
    shares: Float64s = of_true / max(float(of_true.sum()), TINY)
    return shares


def _by_inverse(ps: Float64s, _noise: Entries, inverse: Entries, _of_true: Float64s) -> Float64s:
    return _sums(inverse.rows, inverse.values * ps[inverse.columns], inverse.size)


_priors: Final[dict[str, Callable[[Float64s, Entries, Entries, Float64s], Float64s]]] = {
    "cnt": _by_diagonals,
    "eqn": _by_equation,
    "marginal": _by_counts,
    "marginal_ps": _by_inverse,
}


def _clipped(rates: Entries) -> Entries:
    """Bound the rates off the diagonal, and scale each column to add up to 1."""
    off = rates.rows != rates.columns
    bounded = replace(rates, values=np.where(off, np.clip(rates.values, 0, _MOST_NOISE), rates.values))
    return replace(bounded, values=bounded.values / _at_least(_column_sums(bounded))[bounded.columns])


def _as_distribution(values: Float64s, least: float) -> Float64s:
    bounded = np.clip(values, least, 1.0)
    scaled: Float64s = bounded / max(float(bounded.sum()), TINY)
    return scaled


def _diagonal(entries: Entries) -> Float64s:
    on = entries.rows == entries.columns
    return _sums(entries.rows[on], entries.values[on], entries.size)


def _row_sums(entries: Entries) -> Float64s:
    return _sums(entries.rows, entries.values, entries.size)


def _column_sums(entries: Entries) -> Float64s:
    return _sums(entries.columns, entries.values, entries.size)


def _sums(places: Int64s, values: npt.NDArray[Any], size: int) -> Float64s:
    return np.bincount(places, values, size).astype(np.float64)


def _at_least(values: Float64s) -> Float64s:
    """Return what can be divided by."""
    return np.maximum(values, TINY)
