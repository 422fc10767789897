"""``cleanlab.rank``: label quality scores, out of core.

Labels and probabilities may be anything that `labelsieve.find_label_issues` takes: arrays, paths, Zarr or Dask arrays.
Scores are NumPy arrays. Those that are computed are float64 whatever the dtype of the probabilities; self-confidences
have its values, and float16 becomes float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.cleanlab.filter import COMMON, AssertedInputError, flat_labels
from labelsieve.confident_learning.thresholds import Float64s, Floats, Int64s
from labelsieve.errors import InvalidInputError
from labelsieve.find import LOG_LOSS_SEARCH_T_VALUES, Weighting, ensemble_scores
from labelsieve.job.job import Job
from labelsieve.options import JobSettings, Method

__all__ = [
    "find_top_issues",
    "get_confidence_weighted_entropy_for_each_label",
    "get_label_quality_ensemble_scores",
    "get_label_quality_scores",
    "get_normalized_margin_for_each_label",
    "get_self_confidence_for_each_label",
    "order_label_issues",
]


def get_label_quality_scores(
    labels: Any, pred_probs: Any, *, method: Method = "self_confidence", adjust_pred_probs: bool = False
) -> Floats:
    """Return a score of each label: the lower, the less likely it is right.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; read once, or twice for adjusted margins.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}
        The score.
    adjust_pred_probs : bool
        Whether to subtract the class thresholds from the probabilities first.

    Returns
    -------
    (N,) float
        Scores.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, an unknown method, and for adjusted entropy.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.rank import get_label_quality_scores
    >>> get_label_quality_scores(np.array([0, 1]), np.array([[0.75, 0.25], [0.5, 0.5]]), method="normalized_margin")
    array([0.75, 0.5 ])
    """
    settings = JobSettings(
        filter_by="predicted_neq_given", rank_by=method, adjust_pred_probs=adjust_pred_probs, **COMMON
    )
    return np.array(Job(flat_labels(labels), pred_probs, settings).run().scores)


def get_label_quality_ensemble_scores(
    labels: Any,
    pred_probs_list: list[Any],
    *,
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    weight_ensemble_members_by: Weighting = "accuracy",
    custom_weights: npt.ArrayLike | None = None,
    log_loss_search_T_values: Sequence[float] = list(LOG_LOSS_SEARCH_T_VALUES),  # noqa: N803  # as in cleanlab
    verbose: bool = True,
) -> Float64s:
    """Return the weighted average of the scores by each of several models.

    `labelsieve.get_label_quality_ensemble_scores` describes the arguments.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, models of different shapes and unknown choices.
    AssertedInputError
        Also an AssertionError, for what is not a list, an empty list, and weights that are missing or too few.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.rank import get_label_quality_ensemble_scores
    >>> members = [np.array([[0.75, 0.25], [0.25, 0.75]]), np.array([[0.5, 0.5], [0.25, 0.75]])]
    >>> get_label_quality_ensemble_scores(
    ...     np.array([0, 1]), members, weight_ensemble_members_by="uniform", verbose=False
    ... )
    array([0.625, 0.75 ])
    """
    if not isinstance(pred_probs_list, list):
        raise AssertedInputError(
            f"pred_probs_list must be a list of the pred_probs of each model, not {type(pred_probs_list).__name__}"
        )
    if not pred_probs_list:
        raise AssertedInputError("pred_probs_list is empty: give the pred_probs of at least one model")
    n_weights = 0 if custom_weights is None else np.size(custom_weights)
    if weight_ensemble_members_by == "custom" and n_weights != len(pred_probs_list):
        raise AssertedInputError(f"{n_weights} custom_weights for {len(pred_probs_list)} models: give one for each")
    return ensemble_scores(
        flat_labels(labels),
        pred_probs_list,
        JobSettings(method=method, adjust_pred_probs=adjust_pred_probs, **COMMON),
        weight_ensemble_members_by,
        custom_weights,
        log_loss_search_T_values,
        verbose=verbose,
    )


def find_top_issues(quality_scores: npt.ArrayLike, *, top: int | None = 10) -> Int64s:
    """Return the positions of the lowest scores, the lowest first; of equal scores, the first come first.

    Parameters
    ----------
    quality_scores : (N,) array-like of float
        Scores.
    top : int or None
        Number of positions; all if there are fewer, or if this is None.

    Returns
    -------
    (min(N, top),) int64
        Positions.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.rank import find_top_issues
    >>> find_top_issues(np.array([0.9, 0.1, 0.5]), top=2)
    array([1, 2])
    """
    return np.argsort(np.asarray(quality_scores), kind="stable")[:top].astype(np.int64)


def order_label_issues(
    label_issues_mask: npt.ArrayLike,
    labels: Any,
    pred_probs: Any,
    *,
    rank_by: Method = "self_confidence",
    rank_by_kwargs: Mapping[str, Any] = {},  # as in cleanlab
) -> Int64s:
    """Return the rows of a mask, the lowest score first; of equal scores, the lower row comes first.

    Parameters
    ----------
    label_issues_mask : (N,) array-like of bool
        The rows to sort.
    labels, pred_probs : array-like
        As `get_label_quality_scores` takes them.
    rank_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}
        The score.
    rank_by_kwargs : dict
        Further arguments of `get_label_quality_scores`: ``adjust_pred_probs``.

    Returns
    -------
    (M,) int64
        Rows.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, an unknown score, and a mask of another length.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.rank import order_label_issues
    >>> order_label_issues([True, False, True], np.array([0, 0, 1]), np.array([[0.4, 0.6], [0.9, 0.1], [0.8, 0.2]]))
    array([2, 0])
    """
    mask = np.asarray(label_issues_mask)
    scores = get_label_quality_scores(labels, pred_probs, method=rank_by, **rank_by_kwargs)
    if mask.dtype != np.bool_ or mask.shape != scores.shape:
        raise InvalidInputError(
            f"label_issues_mask must be {len(scores):,} booleans, not of dtype {mask.dtype} and shape {mask.shape}"
        )
    rows = np.flatnonzero(mask)
    return rows[np.argsort(scores[rows], kind="stable")]


def get_self_confidence_for_each_label(labels: Any, pred_probs: Any) -> Floats:
    """Return the probability of each label: `get_label_quality_scores` with ``method="self_confidence"``."""
    return get_label_quality_scores(labels, pred_probs, method="self_confidence")


def get_normalized_margin_for_each_label(labels: Any, pred_probs: Any) -> Floats:
    """Return ``(p_label - largest other + 1) / 2``: `get_label_quality_scores`, ``method="normalized_margin"``."""
    return get_label_quality_scores(labels, pred_probs, method="normalized_margin")


def get_confidence_weighted_entropy_for_each_label(labels: Any, pred_probs: Any) -> Floats:
    """Return entropies over self-confidence: `get_label_quality_scores`, ``method="confidence_weighted_entropy"``."""
    return get_label_quality_scores(labels, pred_probs, method="confidence_weighted_entropy")
