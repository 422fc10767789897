"""Scores of examples from those of their tags, as ``cleanlab.multilabel_classification.rank`` (2.9) defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s, Floats, Ints
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.settings import Method

# Takes (n, K) scores of tags, and returns (n,) scores of examples.
Aggregator = Callable[[Float64s], npt.NDArray[Any]]


def exponential_moving_average(scores: Float64s, alpha: float | None = 0.8) -> Float64s:
    """Return the moving average over the scores of each example, from the highest to the lowest.

    Parameters
    ----------
    scores : (n, K) float64
        Scores of tags.
    alpha : float, optional
        Weight of the next score, 0 to 1; by default 2 / (K + 1).

    Examples
    --------
    >>> import numpy as np
    >>> exponential_moving_average(np.array([[0.1, 0.9, 0.5]]), alpha=0.5)
    array([0.4])
    """
    descending = np.fliplr(np.sort(scores, axis=1)).T
    weight = 2 / (scores.shape[1] + 1) if alpha is None else float(alpha)
    total: Float64s = descending[0]
    for following in descending[1:]:
        total = weight * following + (1 - weight) * total
    return total


def softmin(scores: Float64s, temperature: float = 0.1) -> Float64s:
    """Return the mean of the scores of each example, weighted by the softmax of ``(1 - score) / temperature``.

    Parameters
    ----------
    scores : (n, K) float64
        Scores of tags.
    temperature : float
        Above 0; the lower, the closer to the lowest score.
    """
    weights = (1 - scores) / temperature
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    found: Float64s = np.einsum("ij,ij->i", scores, weights)
    return found


def adjusted_tag_scores(labels: Ints, probs: Floats, thresholds: Float64s, method: Method) -> Float64s:
    """Return scores of tags by probabilities that are adjusted by the thresholds: shifted and renormalized.

    Parameters
    ----------
    labels : (n,) int
        Classes 2k and 2k + 1.
    probs : (n,) float
        Probabilities of having the tag.
    thresholds : (2K,) float64
        Confident thresholds.
    method : {"self_confidence", "normalized_margin"}
        The score.
    """
    has_tag = (labels & 1).astype(np.bool_)
    absent = labels.astype(np.intp) & ~1
    without, present = thresholds[absent], thresholds[absent + 1]
    top = np.maximum(without, present)
    p = ((probs.dtype.type(1) - probs) - without + top, probs - present + top)
    sums = p[0] + p[1]
    p_label, p_other = np.where(has_tag, p[1], p[0]), np.where(has_tag, p[0], p[1])
    for one in (p_label, p_other):
        np.divide(one, sums, out=one, where=sums != 0)
    scores: Float64s = p_label if method == "self_confidence" else (p_label - p_other + 1) / 2
    return scores


def aggregator(method: str | Callable[..., Any] = "exponential_moving_average", **kwargs: Any) -> Aggregator:
    """Return the function that makes scores of examples.

    Parameters
    ----------
    method : {"exponential_moving_average", "softmin"} or callable
        A callable takes ``(n, K)`` scores, ``axis=1`` and `kwargs`, and returns ``(n,)`` scores.
    **kwargs : object
        `alpha`, `temperature`, or what the callable takes. As in cleanlab, others have no effect.

    Raises
    ------
    InvalidInputError
        For an unknown method, and for an `alpha` or a `temperature` out of range.
    InputTypeError
        For a method that is neither a name nor callable.
    """
    if callable(method):
        return partial(_of_callable, method, dict(kwargs))
    known: Mapping[str, tuple[Callable[..., Float64s], str]] = {
        "exponential_moving_average": (exponential_moving_average, "alpha"),
        "softmin": (softmin, "temperature"),
    }
    if not isinstance(method, str):
        raise InputTypeError(f"the method of aggregation must be a name or callable, not {type(method).__name__}")
    if method not in known:
        raise InvalidInputError(f"the method of aggregation must be one of {', '.join(known)}; not {method!r}")
    function, name = known[method]
    values = {key: value for key, value in kwargs.items() if key == name}
    if values:
        _check_value(name, values[name])
    return partial(function, **values)


def _check_value(name: str, value: object) -> None:
    if name == "alpha" and value is None:
        return
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    if name == "alpha" and not 0 <= number <= 1:
        raise InvalidInputError(f"alpha must be in the interval [0, 1], not {value!r}")
    if name == "temperature" and not number > 0:
        raise InvalidInputError(f"temperature must be above 0, not {value!r}")


def _of_callable(function: Callable[..., Any], kwargs: Mapping[str, Any], scores: Float64s) -> npt.NDArray[Any]:
    found = np.asarray(function(scores, axis=1, **kwargs))
    if found.shape != (len(scores),):
        raise InvalidInputError(
            f"the method of aggregation returned the shape {found.shape} for {len(scores):,} examples: it takes (n, K) "
            "scores and axis=1, and returns (n,)"
        )
    return found
