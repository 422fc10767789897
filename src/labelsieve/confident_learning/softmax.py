"""Probabilities of logits: ``exp(x - max(x)) / sum`` of each row, in float64.

The bits of a row's probabilities depend on that row alone, not on the rows around it: the exponentials are NumPy's, and
the sum is NumPy's over a contiguous row. So the rows may be computed in blocks that stay in the cache.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s, Floats
from labelsieve.confident_learning.row_sums import SUM_TOLERANCE
from labelsieve.confident_learning.validation import LIKE_PROBABILITIES, Findings
from labelsieve.settings import PROBABILITY_TOLERANCE

# Values that are computed at a time. The exponentials of a block, 1 MB, stay in the second-level cache.
_BLOCK_VALUES: Final = 1 << 17


def softmax(logits: Floats, out: Float64s | None = None) -> Float64s:
    """Return the probabilities of logits.

    Parameters
    ----------
    logits : (n, K) float16, float32 or float64
        Logits, in any memory layout. A class whose logit is -inf has probability 0.
    out : (n, K) float64, C-ordered, optional
        Where to put the probabilities.

    Returns
    -------
    (n, K) float64
        The probabilities. Rows that `record_bad_logits` records are NaN.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0, -np.inf], [1000.0, 1000.0, 1000.0]], np.float32)).round(3)
    array([[0.5  , 0.5  , 0.   ],
           [0.333, 0.333, 0.333]])
    """
    probs = np.empty(logits.shape, np.float64) if out is None else out
    for rows in row_blocks(*logits.shape):
        block = probs[rows]
        sums = exponentials(logits[rows], block)
        block /= sums[:, np.newaxis]
    return probs


def row_blocks(n_rows: int, n_classes: int) -> list[slice]:
    """Return the blocks of rows whose exponentials stay in the cache."""
    step = max(1, _BLOCK_VALUES // n_classes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def exponentials(logits: Floats, out: Float64s, largest: Float64s | None = None) -> Float64s:
    """Compute ``exp(x - max(x))`` of each row, and return the ``(n,)`` sums of the rows.

    Parameters
    ----------
    logits : (n, K) float
        Logits.
    out : (n, K) float64, C-ordered
        Where to put the exponentials.
    largest : (n,) float64, optional
        The largest logit of each row, if it is known.
    """
    # What is NaN stays NaN, and exponentials that are too small are 0.
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        np.copyto(out, logits)
        out -= (out.max(axis=1) if largest is None else largest)[:, np.newaxis]
        np.exp(out, out=out)
        sums: Float64s = np.add.reduce(out, axis=1)
    return sums


def record_bad_logits(logits: Floats, first_row: int, findings: Findings) -> None:
    """Record logits that are NaN or +inf, and rows that are all -inf.

    Parameters
    ----------
    logits : (n, K) float
        Logits of consecutive rows.
    first_row : int
        Number of the first row.
    findings : Findings
        They are added as ``"nan_logit"``, ``"infinite_logit"`` and ``"empty_logits"``.
    """
    bad = {"nan_logit": np.isnan(logits), "infinite_logit": np.isposinf(logits)}
    for kind, where in bad.items():
        rows = np.flatnonzero(where.any(axis=1))
        findings.add(kind, rows, first_row, n_values=int(np.count_nonzero(where)))
    findings.add("empty_logits", np.flatnonzero(np.isneginf(logits).all(axis=1)), first_row)


def record_suspicious_logits(logits: Floats, largest: Float64s, first_row: int, findings: Findings) -> None:
    """Record rows of logits that are all zeros, and rows that look like probabilities.

    Parameters
    ----------
    logits : (n, K) float
        Logits of consecutive rows.
    largest : (n,) float64
        The largest of each row.
    first_row : int
        Number of the first row.
    findings : Findings
        They are added as ``"zero_row"`` and ``"like_probabilities"``. The second is of interest only if all rows are
        such, so that it is not recorded if the largest logits of some are not probabilities.
    """
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        findings.add("zero_row", zero[~logits[zero].any(axis=1)], first_row)
    if largest.min() < (1 - PROBABILITY_TOLERANCE) / logits.shape[1] or largest.max() > 1 + PROBABILITY_TOLERANCE:
        return
    sums = np.add.reduce(logits, axis=1, dtype=np.float64)
    alike = (logits.min(axis=1) >= -PROBABILITY_TOLERANCE) & (np.abs(sums - 1) <= SUM_TOLERANCE)
    findings.add(LIKE_PROBABILITIES, np.flatnonzero(alike), first_row)
