"""Check that the rows of `pred_probs` sum to 1, and guess why some do not.

The pass that reads the rows sums them, in float32 if the input is narrower than float64. The last bits of such a sum
depend on the instructions that NumPy picks. So rows near a limit are summed again, in float64 and in column order: the
result does not depend on batch size, dtype or processor.

NumPy's own loops compute the sums, not BLAS. They are as fast (40 to 90 GB/s in cache), and BLAS would start threads of
its own in each of Dask's threads.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s, Floats, Ints
from labelsieve.confident_learning.validation import Findings
from labelsieve.settings import PROBABILITY_TOLERANCE

# How far the sum of a row may be from 1. Published float16 predictions are off by up to 0.014.
SUM_TOLERANCE: Final = 5e-2
# From this difference on, the report mentions it.
NOTED_DIFFERENCE: Final = 1e-2
# More than the error of a float32 sum. It grows with the number of values, so that no more are added at a time.
_MARGIN: Final = 1e-3
_MARGIN_OF_CLASS: Final = 2.0**-23
_ADDED_CLASSES: Final = 1 << 14
# The likely cause is guessed from bad rows whose number is a multiple of this, and from the first rows.
_SAMPLED_ROWS: Final = 64
_FIRST_ROWS: Final = 1024
# The smallest float16 as `RowSumCheck` widens it, a subnormal float32. It counts as 0 if another library (PyTorch, or
# code compiled with -ffast-math) has told the processor to flush subnormal numbers to 0. Small values would be lost.
_LEAST_HALF: Final = np.array([1 << 13], np.uint32).view(np.float32)
# Float16 values that are widened at a time, so that they stay in cache.
_WIDENED: Final = 1 << 17


class RowSumCheck:
    """Finds the rows whose probabilities do not sum to 1.

    Parameters
    ----------
    n_classes : int
        Number of classes K.

    Attributes
    ----------
    rounding : float
        More than the error of an approximate sum of about 1.
    """

    def __init__(self, n_classes: int) -> None:
        self.rounding = min(n_classes, _ADDED_CLASSES) * _MARGIN_OF_CLASS
        self._margin = _MARGIN + self.rounding
        self._scratch = np.empty(0, np.uint32)

    def of_bits(self, bits: Ints) -> Floats:
        """Return the approximate sums of non-negative probabilities.

        Parameters
        ----------
        bits : (n, K) or (n, K, m) uint16, uint32 or uint64
            Bits of float16, float32 or float64 probabilities, as rows, or as blocks of m rows that are transposed.

        Returns
        -------
        (n,) or (n * m,) float32 or float64
            The sums.
        """
        if bits.dtype == np.uint16:
            return self._of_half(bits).reshape(-1)
        return _summed(bits.view(f"f{bits.dtype.itemsize}")).reshape(-1)

    def _of_half(self, bits: Ints) -> Floats:
        """Return the sums of float16 values.

        Shifted left by 13, the bits of a float16 are those of a float32 that is 2**-112 times as large. This is 5 to 50
        times as fast as NumPy's conversion.
        """
        if not (_LEAST_HALF + _LEAST_HALF).any():
            return _summed(bits.view(np.float16).astype(np.float32))
        n, *shape = bits.shape
        sums = np.empty((n, *shape[1:]), np.float32)
        step = min(n, max(1, _WIDENED // math.prod(shape)))
        if self._scratch.size < step * math.prod(shape):
            self._scratch = np.empty(step * math.prod(shape), np.uint32)
        for start in range(0, n, step):
            piece = bits[start : start + step]
            widened = self._scratch[: piece.size].reshape(piece.shape)
            np.copyto(widened, piece)
            np.left_shift(widened, 13, out=widened)
            sums[start : start + step] = _summed(widened.view(np.float32))
        sums *= np.float32(2.0**112)
        return sums

    @staticmethod
    def of_any(probs: Floats) -> Floats:
        """Return the ``(n,)`` approximate sums of rows of any floats; sums with NaN or infinity are not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            return _summed(probs.astype(np.promote_types(probs.dtype, np.float32), copy=False))

    def record(self, probs: Floats, sums: Floats, first_row: int, findings: Findings) -> None:
        """Record the rows that do not sum to 1.

        Parameters
        ----------
        probs : (n, K) float
            Probabilities of consecutive rows.
        sums : (n,) float
            Their approximate sums.
        first_row : int
            Number of the first row.
        findings : Findings
            Rows beyond the tolerance of 5% are added as ``"row_sum"``, other rows beyond 1% as ``"loose_sum"``. Rows of
            zeros and rows with NaN or infinity are skipped: other checks record them.
        """
        near = NOTED_DIFFERENCE - self._margin
        if sums.max() <= 1 + near and sums.min() >= 1 - near:  # false if a sum is NaN
            return
        difference = np.abs(sums.astype(np.float64) - 1)
        difference[~np.isfinite(difference)] = 0
        for limit in (NOTED_DIFFERENCE, SUM_TOLERANCE):
            close = np.flatnonzero(np.abs(difference - limit) <= self._margin)
            if len(close):
                difference[close] = np.abs(_in_column_order(probs[close]) - 1)
        off = difference > NOTED_DIFFERENCE
        zero = np.flatnonzero(sums == 0)
        off[zero] = probs[zero].any(axis=1)
        bad = np.flatnonzero(off & (difference > SUM_TOLERANCE))
        findings.add("loose_sum", np.flatnonzero(off & (difference <= SUM_TOLERANCE)), first_row)
        if len(bad):
            example = float(_in_column_order(probs[bad[:1]])[0])
            numbers = first_row + bad
            sampled = bad[(numbers % _SAMPLED_ROWS == 0) | (numbers < _FIRST_ROWS)]
            (causes, limits), (first_causes, _) = _likely_causes(probs[sampled]), _likely_causes(probs[bad[:1]])
            [first_cause] = first_causes or [""]
            findings.add(
                "row_sum", bad, first_row, example=example, causes=causes, first_cause=first_cause, sums=limits
            )


def widened_half(bits: Ints, out: Floats) -> None:
    """Convert non-negative float16 values to float32, 5 to 50 times as fast as NumPy.

    Parameters
    ----------
    bits : (n, K) uint16
        Bits of the values, which are finite and not negative.
    out : (n, K) float32
        Where to put the values.
    """
    if not (_LEAST_HALF + _LEAST_HALF).any():
        np.copyto(out, bits.view(np.float16))
        return
    widened = out.view(np.uint32)
    np.copyto(widened, bits)
    np.left_shift(widened, 13, out=widened)
    out *= np.float32(2.0**112)


def _summed(values: Floats) -> Floats:
    if values.ndim > 2:
        by_class: Floats = np.add.reduce(values, axis=1)
        return by_class
    if values.shape[1] <= _ADDED_CLASSES:
        added: Floats = np.einsum("ij->i", values)
        return added
    sums = np.zeros(len(values))
    for start in range(0, values.shape[1], _ADDED_CLASSES):
        sums += np.einsum("ij->i", values[:, start : start + _ADDED_CLASSES])
    return sums


def _in_column_order(rows: Floats) -> Float64s:
    sums: Float64s = np.cumsum(rows, axis=1, dtype=np.float64)[:, -1]
    return sums


def _likely_causes(rows: Floats) -> tuple[dict[str, int], tuple[float, float] | None]:
    """Return the number of bad rows by likely cause (the keys of `CAUSES`), and their lowest and highest sum."""
    values = rows.astype(np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    sums = _in_column_order(values)
    least, most = values.min(axis=1, initial=np.inf), values.max(axis=1, initial=-np.inf)
    logs = (most <= 0) & (np.abs(np.exp(np.minimum(values, 0)).sum(axis=1) - 1) <= SUM_TOLERANCE)
    outside = most > 1 + PROBABILITY_TOLERANCE
    percent = outside & (np.abs(sums - 100) <= 5)
    whole = outside & (values == np.rint(values)).all(axis=1)
    conditions = {
        "equal": least == most,
        "log": logs,
        "logits": least < -PROBABILITY_TOLERANCE,
        "percent": percent,
        "counts": whole,
        "positive": outside,
        "above": sums > 1,
    }
    names = [*conditions, "short"]
    causes = np.select(list(conditions.values()), range(len(conditions)), len(conditions))
    counts = {name: n for name, n in zip(names, np.bincount(causes, minlength=len(names)).tolist(), strict=True) if n}
    return counts, (float(sums.min()), float(sums.max())) if len(sums) else None
