"""Label quality scores of a strip of rows.

Those of ``cleanlab.rank.get_label_quality_scores`` (2.9) are defined as there; `logit_margin` is not in cleanlab.

The default, self-confidence, is the probability of the label. It is a column of every row summary, `p_label`, and is
not computed here. Sums over rows are taken over a C-ordered float64 strip, so that their last bits do not depend on the
number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Float64s, Floats, Ints, SummaryBlock, row_slices
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.options import (
    ESTIMATION_METHODS,
    FLOAT_TOLERANCE,
    RULES,
    EstimationMethod,
    FilterName,
    Method,
    Rule,
    check_flag,
    check_one_of,
    check_positive,
    check_share,
    check_whole_number,
)

ColumnKernel = Callable[[Floats, Ints], Float64s]

# Up to this many classes a loop over columns beats a row-wise maximum.
_FEW_CLASSES: Final = 16
# Of the margin of logits; of probability 0 it would be infinite.
_LEAST_PROBABILITY: Final = 1e-30


def row_sum(probs: Floats, _labels: Ints) -> Float64s:
    """Return the ``(n,)`` sums of the rows of `probs`, from which `adjusted_self_confidence` is computed."""
    sums: Float64s = _float64(probs).sum(axis=1)
    return sums


def normalized_margin(probs: Floats, labels: Ints) -> Float64s:
    """Return ``(p_label - largest other + 1) / 2`` for the ``(n, K)`` strip `probs`."""
    p_label, p_other = _label_and_other(probs, labels)
    return (p_label - p_other + 1) / 2


def logit_margin(probs: Floats, labels: Ints) -> Float64s:
    """Return ``p_label / (p_label + largest other)`` for the ``(n, K)`` strip `probs`.

    This is the sigmoid of ``log(p_label) - log(largest other)``, the margin of the logits, by which Pleiss, Zhang,
    Elenberg and Weinberger (NeurIPS 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking") find
    wrong labels; they average it over the epochs of a training. Probabilities below 1e-30 count as 1e-30. So labels
    of probability 0 do not tie: the likelier the other class, the lower the score.
    """
    p_label, p_other = (np.maximum(probs, _LEAST_PROBABILITY) for probs in _label_and_other(probs, labels))
    scores: Float64s = p_label / (p_label + p_other)
    return scores


def confidence_weighted_entropy(probs: Floats, labels: Ints) -> Float64s:
    """Return ``log(e + 1) / e``, where ``e`` is the normalized entropy divided by the label's probability.

    Probabilities are clipped to [0, 1] first. In the denominator ``e`` is at least 1e-6.
    """
    clipped = np.clip(_float64(probs), 0.0, 1.0)
    p_label = np.maximum(clipped[np.arange(len(probs)), labels], FLOAT_TOLERANCE)
    logs = np.where(clipped > 0, clipped, 1.0)
    np.log(logs, out=logs)
    logs *= clipped
    entropy = -logs.sum(axis=1) / np.log(probs.shape[1])
    ratio = entropy / p_label
    scores: Float64s = np.log(ratio + 1) / np.maximum(ratio, FLOAT_TOLERANCE)
    return scores


def adjusted_margin(probs: Floats, labels: Ints, thresholds: Float64s) -> Float64s:
    """Return the normalized margins of probabilities that are adjusted by the thresholds: shifted and renormalized."""
    adjusted = _float64(probs) - thresholds
    adjusted += thresholds.max()
    sums = adjusted.sum(axis=1, keepdims=True)
    # Only a row of zeros with equal thresholds has sum 0; it stays as it is.
    np.divide(adjusted, sums, out=adjusted, where=sums != 0)
    return normalized_margin(adjusted, labels)


def adjusted_self_confidence(p_label: Floats, labels: Ints, row_sums: Float64s, thresholds: Float64s) -> Float64s:
    """Return adjusted self-confidence, computed from row sums so that no second read is needed.

    Parameters
    ----------
    p_label : (n,) float
        Probability of the label.
    labels : (n,) int
        Labels.
    row_sums : (n,) float64
        Sums of the rows of `pred_probs`.
    thresholds : (K,) float64
        Confident thresholds.

    Returns
    -------
    (n,) float64
        ``p - t + max(t)`` of the label, divided by the sum of that over all classes; 0 where the sum is 0.
    """
    top = thresholds.max()
    gaps = top - thresholds
    shift = math.fsum(gaps[gaps > 0].tolist())
    shifted = (p_label.astype(np.float64) - thresholds[labels]) + top
    sums = row_sums + shift
    scores: Float64s = np.divide(shifted, sums, out=np.zeros_like(shifted), where=sums != 0)
    return scores + 0.0  # 0 divided by a negative sum is -0.0, which counts as 0.0


def _label_and_other(probs: Floats, labels: Ints) -> tuple[Float64s, Float64s]:
    """Return the probability of the label and the largest other one of each row."""
    rows = np.arange(len(probs))
    # Maxima of float16 are slow; float32 holds all its values.
    others = probs.astype(np.float32 if probs.dtype == np.float16 else probs.dtype)
    p_label = others[rows, labels].astype(np.float64)
    others[rows, labels] = -np.inf
    return p_label, _row_max(others).astype(np.float64)


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


@dataclass(frozen=True)
class Score:
    """A label quality score. A new one takes a kernel and an entry in `SCORES`.

    Parameters
    ----------
    kernel : callable, optional
        Returns the ``(n,)`` scores of ``(n, K)`` probabilities and ``(n,)`` labels; by default the score is the
        probability of the label, which every row summary has.
    adjusted : callable, optional
        The same with ``adjust_pred_probs=True``, if that is defined.
    column : {"score", "row_sum"}
        The column of the table that `adjusted` computes: scores, or sums of rows of which
        `adjusted_self_confidence` makes scores.
    reads_again : bool
        Whether `adjusted` takes the thresholds too, so that `pred_probs` is read a second time.
    """

    kernel: ColumnKernel | None = None
    adjusted: Callable[..., Float64s] | None = None
    column: str = "score"
    reads_again: bool = False


SCORES: Final[dict[str, Score]] = {
    "self_confidence": Score(adjusted=row_sum, column="row_sum"),
    "normalized_margin": Score(normalized_margin, adjusted_margin, reads_again=True),
    "confidence_weighted_entropy": Score(confidence_weighted_entropy),
    "logit_margin": Score(logit_margin),
}


# The sums of probabilities are exact up to this number of rows (`labelsieve.confident_learning.thresholds`).
_MOST_ROWS: Final = 1 << 36


@dataclass(frozen=True)
class Settings:
    """The settings that change the result.

    Parameters
    ----------
    method : str
        A key of `SCORES`.
    adjust_pred_probs : bool
        Whether to subtract the confident thresholds from the probabilities before scoring.
    estimation_method : str
        One of `ESTIMATION_METHODS`.
    rule : str
        One of `RULES`.
    filter_by : str or None
        One of `FILTER_NAMES`, or None for the rows of lowest score whose label is not predicted.
    frac_noise : float
        Share of the noise that the pruning filters select, 0 to 1.
    num_to_remove_per_class : tuple of int or None
        K numbers for the pruning filters: how many rows to select with each label, or, of pairs, suggested as each
        class.
    min_examples_per_class : int
        Number of rows of each class that the pruning filters leave.

    Attributes
    ----------
    calibrated : bool
        Whether the number of issues is calibrated by the class counts.
    counts_joint : bool
        Whether rows are counted by the confident joint, which needs a second read.
    scores_need_rescan : bool
        Whether scores need both the thresholds and whole rows, and therefore a second read.
    rescans : bool
        Whether `pred_probs` is read a second time, after the thresholds are computed.
    plain_margin : bool
        Whether the score is the normalized margin of probabilities that are not adjusted.
    plain_self_confidence : bool
        Whether the score is the probability of the label itself, in the dtype of `pred_probs`.

    Raises
    ------
    InvalidInputError
        For a value that is not allowed; the message lists the allowed ones.
    """

    method: Method = "self_confidence"
    adjust_pred_probs: bool = False
    estimation_method: EstimationMethod = "off_diagonal"
    rule: Rule = "predicted_class"
    filter_by: FilterName | None = None
    frac_noise: float = 1.0
    num_to_remove_per_class: tuple[int, ...] | None = None
    min_examples_per_class: int = 1

    # They follow from the fields, of which alone a saved result and the name of a record are made.
    calibrated: ClassVar[bool]
    counts_joint: ClassVar[bool]
    scores_need_rescan: ClassVar[bool]
    rescans: ClassVar[bool]
    plain_margin: ClassVar[bool]
    plain_self_confidence: ClassVar[bool]

    def __post_init__(self) -> None:
        check_one_of("method", self.method, tuple(SCORES))
        check_one_of("estimation_method", self.estimation_method, ESTIMATION_METHODS)
        check_one_of("rule", self.rule, RULES)
        check_flag("adjust_pred_probs", self.adjust_pred_probs)
        if self.adjust_pred_probs and not SCORES[self.method].adjusted:
            raise InvalidInputError(f"adjust_pred_probs is not defined for {self.method}")
        object.__setattr__(self, "frac_noise", check_share("frac_noise", self.frac_noise))
        least = check_whole_number("min_examples_per_class", self.min_examples_per_class, 0)
        object.__setattr__(self, "min_examples_per_class", least)
        if self.num_to_remove_per_class is not None:
            object.__setattr__(self, "num_to_remove_per_class", _numbers_to_remove(self.num_to_remove_per_class))

        adjusted, score, counts_joint = self.adjust_pred_probs, SCORES[self.method], self.rule == "confident_joint"
        vars(self).update(
            calibrated=self.estimation_method == "off_diagonal_calibrated",
            counts_joint=counts_joint,
            scores_need_rescan=adjusted and score.reads_again,
            rescans=counts_joint or (adjusted and score.reads_again),
            plain_margin=self.method == "normalized_margin" and not adjusted,
            plain_self_confidence=score.kernel is None and not adjusted,
        )


def _numbers_to_remove(values: Iterable[Any]) -> tuple[int, ...]:
    if isinstance(values, str | Mapping) or getattr(values, "ndim", 1) != 1 or not isinstance(values, Iterable):
        raise InvalidInputError(f"num_to_remove_per_class must be a list of K whole numbers, not {values!r}")
    numbers = tuple(check_whole_number("each of num_to_remove_per_class", value, 0) for value in values)
    if max(numbers, default=0) > _MOST_ROWS:
        raise InvalidInputError(f"num_to_remove_per_class has {max(numbers):,}: more rows than can be counted")
    return numbers


def column_kernels(settings: Settings, thresholds: Float64s | None = None) -> dict[str, ColumnKernel]:
    """Return the functions that compute columns of the table from whole rows, by name; none for self-confidence.

    Parameters
    ----------
    settings : Settings
        How rows are scored.
    thresholds : (K,) float64, optional
        Confident thresholds, if they are known before the read. Without them, some scores need a second read.
    """
    score = SCORES[settings.method]
    if not settings.adjust_pred_probs or score.adjusted is None:
        return {} if score.kernel is None else {"score": score.kernel}
    if not score.reads_again:
        return {score.column: score.adjusted}
    return {} if thresholds is None else {score.column: partial(score.adjusted, thresholds=thresholds)}


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
    if not isinstance(method, str):
        raise InputTypeError(f"the method of aggregation must be a name or callable, not {type(method).__name__}")
    check_one_of("the method of aggregation", method, ("exponential_moving_average", "softmin"))
    if method == "softmin":
        return partial(softmin, temperature=check_positive("temperature", kwargs.get("temperature", 0.1)))
    alpha = kwargs.get("alpha", 0.8)
    return partial(exponential_moving_average, alpha=None if alpha is None else check_share("alpha", alpha))


def _of_callable(function: Callable[..., Any], kwargs: Mapping[str, Any], scores: Float64s) -> npt.NDArray[Any]:
    found = np.asarray(function(scores, axis=1, **kwargs))
    if found.shape != (len(scores),):
        raise InvalidInputError(
            f"the method of aggregation returned the shape {found.shape} for {len(scores):,} examples: it takes (n, K) "
            "scores and axis=1, and returns (n,)"
        )
    return found


def with_adjusted_scores(summary: SummaryBlock, thresholds: Float64s) -> SummaryBlock:
    """Return `summary` with adjusted self-confidences in place of the sums of rows, if it has these."""
    if summary.row_sum is None:
        return summary
    scores = np.empty(len(summary), np.float64)
    for rows in row_slices(len(summary)):
        scores[rows] = adjusted_self_confidence(
            summary.p_label[rows], summary.label[rows], summary.row_sum[rows], thresholds
        )
    return replace(summary, score=scores, row_sum=None)
