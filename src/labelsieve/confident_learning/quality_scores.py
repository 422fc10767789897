"""Label quality scores of a strip of rows. NumPy only.

The definitions are those of ``cleanlab.rank.get_label_quality_scores`` (cleanlab 2.9). Every sum over a row runs over a
C-ordered float64 strip, so its last bit does not depend on how many rows come together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s, Floats, Ints
from labelsieve.settings import FLOAT_TOLERANCE, Settings

ColumnKernel = Callable[[Floats, Ints], Float64s]

# Up to this many classes a loop over columns beats a row-wise maximum.
_FEW_CLASSES: Final = 16


def column_kernels(settings: Settings, thresholds: Float64s | None = None) -> dict[str, ColumnKernel]:
    """Return how a read computes the columns of the table that need whole rows, by name of the column.

    `thresholds` are given where they are known before the read; otherwise adjusted margins wait for a second read.
    """
    if settings.scores_need_rescan:
        return {} if thresholds is None else {"score": partial(adjusted_margin, thresholds=thresholds)}
    if settings.method == "normalized_margin":
        return {"score": normalized_margin}
    if settings.method == "confidence_weighted_entropy":
        return {"score": confidence_weighted_entropy}
    return {"row_sum": row_sum} if settings.adjust_pred_probs else {}


def row_sum(probs: Floats, _labels: Ints) -> Float64s:
    """Return the ``(n,)`` sums of the rows of `probs`; all that an adjusted self-confidence needs of the row."""
    sums: Float64s = _float64(probs).sum(axis=1)
    return sums


def normalized_margin(probs: Floats, labels: Ints) -> Float64s:
    """Return ``(p_label - largest other + 1) / 2`` for the ``(n, K)`` strip `probs`."""
    rows = np.arange(len(probs))
    # float16 maxima are slow and float32 holds every float16.
    others = probs.astype(np.float32 if probs.dtype == np.float16 else probs.dtype)
    given = others[rows, labels].astype(np.float64)
    others[rows, labels] = -np.inf
    return (given - _row_max(others) + 1) / 2


def confidence_weighted_entropy(probs: Floats, labels: Ints) -> Float64s:
    """Return ``log(e + 1) / e`` with ``e`` the normalized entropy over the given label's probability.

    Probabilities are clipped to [0, 1] first; ``e`` is bounded below by 1e-6 in the denominator.
    """
    clipped = np.clip(_float64(probs), 0.0, 1.0)
    given = np.maximum(clipped[np.arange(len(probs)), labels], FLOAT_TOLERANCE)
    logs = np.where(clipped > 0, clipped, 1.0)
    np.log(logs, out=logs)
    logs *= clipped
    entropy = -logs.sum(axis=1) / np.log(probs.shape[1])
    ratio = entropy / given
    scores: Float64s = np.log(ratio + 1) / np.maximum(ratio, FLOAT_TOLERANCE)
    return scores


def adjusted_margin(probs: Floats, labels: Ints, thresholds: Float64s) -> Float64s:
    """Return the normalized margin of the probabilities less the class thresholds, shifted and renormalized."""
    adjusted = _float64(probs) - thresholds
    adjusted += thresholds.max()
    sums = adjusted.sum(axis=1, keepdims=True)
    # Only an all-zero row under equal thresholds has sum 0: no class stands out in it.
    np.divide(adjusted, sums, out=adjusted, where=sums != 0)
    return normalized_margin(adjusted, labels)


def adjusted_self_confidence(p_label: Floats, labels: Ints, row_sums: Float64s, thresholds: Float64s) -> Float64s:
    """Return the adjusted self-confidence from row sums alone, so that no probability is read again.

    Parameters
    ----------
    p_label : (n,) float
        Probability of the given label.
    labels : (n,) int
        Given labels.
    row_sums : (n,) float64
        Sums of the rows of probabilities.
    thresholds : (K,) float64
        Confident thresholds.

    Returns
    -------
    (n,) float64
        ``(p - t + max t)`` at the given label over its sum in the row; 0 where that sum is 0.
    """
    top = thresholds.max()
    gaps = top - thresholds
    shift = math.fsum(gaps[gaps > 0].tolist())
    given = (p_label.astype(np.float64) - thresholds[labels]) + top
    sums = row_sums + shift
    scores: Float64s = np.divide(given, sums, out=np.zeros_like(given), where=sums != 0)
    return scores + 0.0  # 0 over a sum slightly below 0 is -0.0, which counts as 0.0


def _float64(probs: Floats) -> Float64s:
    return np.ascontiguousarray(probs, dtype=np.float64)


def _row_max(values: Floats) -> Floats:
    if values.shape[1] > _FEW_CLASSES:
        widest: Floats = values.max(axis=1)
        return widest
    best = values[:, 0].copy()
    for k in range(1, values.shape[1]):
        np.maximum(best, values[:, k], out=best)
    return best
