"""The mean of several models' probabilities, as the numeric contract defines it.

With weights ``w``, the mean of values ``x`` is ``((w[0] * x[0] + w[1] * x[1]) + w[2] * x[2] + ...) / W`` in float64,
where ``W = (w[0] + w[1]) + w[2] + ...``: products and sums in the order of the members, then one division. Without
weights all are 1. So the bits depend neither on the dtypes of the members nor on how rows are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s, Floats

# Rows are added up in pieces whose float64 sums stay in the second-level cache.
_PIECE_VALUES: Final = 1 << 15


@dataclass(frozen=True)
class EnsembleMean:
    """How the probabilities of several models are averaged.

    Parameters
    ----------
    names : tuple of str
        Names of the members, for messages.
    weights : tuple of float or None
        Weights of the members; all are 1 if None.
    dtype : dtype
        The widest dtype of a member, at least float32.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    dtype: np.dtype[Any]

    @property
    def divisor(self) -> float:
        """The sum of the weights, in the order of the members."""
        return float(len(self.names)) if self.weights is None else sum(self.weights)

    def of(self, values: Sequence[Floats], out: Float64s | None = None) -> Float64s:
        """Return the mean of arrays of the same shape.

        Parameters
        ----------
        values : sequence of (n, ...) float
            Values of each member.
        out : (n, ...) float64, optional
            Where to put the mean.
        """
        if out is None:
            out = np.empty(values[0].shape)
        step = max(1, _PIECE_VALUES // max(1, out[:1].size))
        product = None if self.weights is None else np.empty((min(step, len(out)), *out.shape[1:]))
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            mean = out[rows]
            for number, member in enumerate(values):
                if self.weights is None or product is None:
                    if number:
                        mean += member[rows]
                    else:
                        mean[...] = member[rows]
                else:
                    term = mean if not number else product[: len(mean)]
                    # Converted first: a scalar would be rounded to the dtype of a narrower array.
                    term[...] = member[rows]
                    term *= self.weights[number]
                    if number:
                        mean += term
            mean /= self.divisor
        return out


class MemberRows:
    """The same rows of all members of an ensemble.

    Parameters
    ----------
    members : sequence of (n, K) array
        Probabilities by each model, of any float dtype; perhaps read only when they are first taken.
    n_rows : int
        Number of rows n.
    mean : EnsembleMean
        How they are averaged.
    """

    def __init__(self, members: Sequence[Floats], n_rows: int, mean: EnsembleMean) -> None:
        self.members, self._n_rows, self.mean = members, n_rows, mean

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, rows: slice) -> MemberRows:
        """Return some of the rows, as views."""
        return MemberRows([member[rows] for member in self.members], len(range(self._n_rows)[rows]), self.mean)

    def averaged(self) -> Float64s:
        """Return the ``(n, K)`` mean."""
        return self.mean.of(self.members)
