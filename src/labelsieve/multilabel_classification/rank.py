"""Label quality scores of examples and their tags: ``cleanlab.multilabel_classification.rank`` (2.9), out of core."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.tag_scores import aggregator
from labelsieve.errors import InputTypeError
from labelsieve.pipeline.tag_scores import score_tags
from labelsieve.settings import Method
from labelsieve.sources.open_tags import open_tags
from labelsieve.sources.retries import RETRIES, retry

__all__ = ["get_label_quality_scores", "get_label_quality_scores_per_class"]

MOVING_AVERAGE: Final[Mapping[str, Any]] = MappingProxyType({"method": "exponential_moving_average", "alpha": 0.8})


def get_label_quality_scores(
    labels: Any,
    pred_probs: Any,
    *,
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    aggregator_kwargs: Mapping[str, Any] = MOVING_AVERAGE,
) -> npt.NDArray[np.float64]:
    """Return a label quality score of each example: the lower, the less likely are all of its tags right.

    Parameters
    ----------
    labels, pred_probs
        As in `labelsieve.multilabel_classification.find_label_issues`: in memory or on disk. `pred_probs` is read once,
        and twice with `adjust_pred_probs`.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        The score of each tag, which is that of two classes.
    adjust_pred_probs : bool
        Whether to subtract the confident thresholds of each tag from its two probabilities first; not with entropy.
    aggregator_kwargs : dict, optional
        How scores of tags become one: ``{"method": "exponential_moving_average", "alpha": 0.8}`` by default, over the
        scores from the highest to the lowest; ``{"method": "softmin", "temperature": 0.1}``; or with a callable as
        method, which takes ``(n, K)`` scores and ``axis=1``, such as `numpy.min`.

    Returns
    -------
    (N,) float64
        Scores from 0 to 1.

    Raises
    ------
    InvalidInputError, InputTypeError
        For bad labels and probabilities, which are named, and for unknown methods.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.rank import get_label_quality_scores
    >>> pred_probs = np.array([[0.1, 0.9, 0.1], [0.4, 0.1, 0.9]])
    >>> get_label_quality_scores([[1], [0, 2]], pred_probs)
    array([0.9, 0.5])
    >>> get_label_quality_scores([[1], [0, 2]], pred_probs, aggregator_kwargs={"method": np.min})
    array([0.9, 0.4])
    """
    kwargs = aggregator_kwargs or MOVING_AVERAGE
    if not isinstance(kwargs, Mapping):
        raise InputTypeError(f"aggregator_kwargs must be a dict, not {type(kwargs).__name__}")
    if kwargs.get("method") == "exponential_moving_average":
        kwargs = {"alpha": None} | dict(kwargs)  # cleanlab's own default, where a method is given without
    tags = retry(RETRIES + 1, open_tags, labels, pred_probs)
    return score_tags(tags, method, aggregator(**kwargs), adjust_pred_probs=adjust_pred_probs)


def get_label_quality_scores_per_class(
    labels: Any, pred_probs: Any, *, method: Method = "self_confidence", adjust_pred_probs: bool = False
) -> npt.NDArray[np.float64]:
    """Return a label quality score of each tag of each example.

    Parameters
    ----------
    labels, pred_probs, method, adjust_pred_probs
        As in `get_label_quality_scores`.

    Returns
    -------
    (N, K) float64
        Scores from 0 to 1.

    Raises
    ------
    InvalidInputError, InputTypeError
        As by `get_label_quality_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.rank import get_label_quality_scores_per_class
    >>> get_label_quality_scores_per_class([[1], [0, 2]], np.array([[0.1, 0.9, 0.1], [0.4, 0.1, 0.9]]))
    array([[0.9, 0.9, 0.9],
           [0.4, 0.9, 0.9]])
    """
    tags = retry(RETRIES + 1, open_tags, labels, pred_probs)
    return score_tags(tags, method, None, adjust_pred_probs=adjust_pred_probs)
