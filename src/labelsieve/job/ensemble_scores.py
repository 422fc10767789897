"""Label quality scores by several models, averaged as cleanlab does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import RowChecks
from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InputTypeError, InvalidInputError, located, warn
from labelsieve.execution.cluster import choose_executor
from labelsieve.job.job import Job
from labelsieve.job.whole_rows import WholeRows, clipped_log, member_accuracies
from labelsieve.options import JobSettings, Method
from labelsieve.sources.composite import Ensemble, EnsembleSource
from labelsieve.sources.objects import RETRIES
from labelsieve.sources.open import Opened, open_labels, open_pred_probs

Weighting = Literal["uniform", "accuracy", "log_loss_search", "custom"]
_WEIGHTINGS: Final[tuple[Weighting, ...]] = get_args(Weighting)
# The values that cleanlab searches.
LOG_LOSS_SEARCH_T_VALUES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 2e2)


def get_label_quality_ensemble_scores(
    labels: Any,
    pred_probs_list: Sequence[Any],
    *,
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    weight_ensemble_members_by: Weighting = "accuracy",
    custom_weights: Sequence[float] | npt.NDArray[Any] | None = None,
    log_loss_search_T_values: Sequence[float] = LOG_LOSS_SEARCH_T_VALUES,  # noqa: N803  # cleanlab's name
    verbose: bool = True,
) -> npt.NDArray[np.float64]:
    """Return the weighted average of the label quality scores by each of several models.

    This is cleanlab's ``rank.get_label_quality_ensemble_scores`` (2.9), out of core. It averages *scores*; the issues
    by the average of *probabilities* are those of `find_label_issues` with an `Ensemble`. Scores are added up in
    float64 in the order of the models, so they may differ from cleanlab's in the last bits, and with float32
    probabilities by 1e-7.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given labels, as `find_label_issues` takes them.
    pred_probs_list : list of array-like
        ``(N, K)`` probabilities by each model, as `find_label_issues` takes them. Each is read once, and once more if
        it is weighted by accuracy or log loss; with `adjust_pred_probs` and normalized margins twice.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        The score.
    adjust_pred_probs : bool
        Whether to subtract the confident thresholds of each model from its probabilities before scoring.
    weight_ensemble_members_by : {"uniform", "accuracy", "log_loss_search", "custom"}
        Equal weights, the share of rows whose label a model predicts, ``exp(-t * log_loss)`` of each model, or
        `custom_weights`. Of the values of t, the first whose weighted average of the probabilities has the least log
        loss is taken. That search keeps the probability of each label by each model in memory: 8 bytes per row.
    custom_weights : (M,) array-like of float, optional
        Weights of the models for ``"custom"``. As in cleanlab they are used as they are: scores stay within [0, 1] if
        the weights add up to 1.
    log_loss_search_T_values : sequence of float
        Values of t to search, for ``"log_loss_search"``.
    verbose : bool
        Whether to print the weights.

    Returns
    -------
    (N,) float64
        Scores; the lower, the less likely is the label.

    Raises
    ------
    InvalidInputError
        For an empty list, models of different shapes, bad weights, and all that `find_label_issues` refuses.
    InputTypeError
        For objects of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> a = np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> b = np.array([[0.5, 0.5], [1.0, 0.0]])
    >>> labelsieve.get_label_quality_ensemble_scores(
    ...     [0, 1], [a, b], weight_ensemble_members_by="uniform", verbose=False
    ... )
    array([0.625, 0.375])
    """
    if not isinstance(pred_probs_list, list | tuple):
        raise InputTypeError(f"pred_probs_list must be a list of pred_probs, not {type(pred_probs_list).__name__}")
    return ensemble_scores(
        labels,
        pred_probs_list,
        JobSettings(method=method, adjust_pred_probs=adjust_pred_probs, progress=False),
        weight_ensemble_members_by,
        custom_weights,
        log_loss_search_T_values,
        verbose=verbose,
    )


def ensemble_scores(
    labels: Any,
    pred_probs_list: Sequence[Any],
    settings: JobSettings,
    weight_ensemble_members_by: Weighting,
    custom_weights: Any,
    t_values: Sequence[float],
    *,
    verbose: bool,
) -> npt.NDArray[np.float64]:
    """Do what `get_label_quality_ensemble_scores` does, with all settings of the jobs that score."""
    _check_weighting(weight_ensemble_members_by, custom_weights, len(pred_probs_list))
    ensemble = open_pred_probs(Ensemble(pred_probs_list))
    if not isinstance(ensemble, EnsembleSource):
        raise TypeError("an ensemble opens as one")
    if len(pred_probs_list) == 1:
        warn("pred_probs_list has one element: its scores are those of find_label_issues(labels, pred_probs).scores")
    opened = open_labels(labels)
    n_members = len(ensemble.children)
    checks = RowChecks.of(
        allow_zero_rows=settings.allow_zero_rows, allow_unnormalized_rows=settings.allow_unnormalized_rows
    )
    if weight_ensemble_members_by == "accuracy":
        shares = member_accuracies(opened, ensemble, choose_executor(retries=RETRIES), checks)
        weights = [share / sum(shares) for share in shares]
    elif weight_ensemble_members_by == "log_loss_search":
        weights = _search_weights(opened, ensemble, checks, t_values)
    elif custom_weights is not None:
        weights = [float(weight) for weight in custom_weights]
    else:
        weights = [1 / n_members] * n_members
    if verbose:
        print(f"Weighting scheme for ensemble: {weight_ensemble_members_by}")
        for number, weight in enumerate(weights):
            print(f"  Model {number} weight: {weight}")
    total = np.zeros(opened.shape[0])
    for name, member, weight in zip(ensemble.names, ensemble.children, weights, strict=True):
        with located(name):
            scores = np.asarray(Job(opened, member, settings).run().scores, np.float64)
        total += scores if weight_ensemble_members_by == "uniform" else scores * weight
    return total / n_members if weight_ensemble_members_by == "uniform" else total


def _search_weights(
    labels: Opened, ensemble: EnsembleSource, checks: RowChecks, t_values: Sequence[float]
) -> list[float]:
    """Return the weights ``exp(-t * log_loss)`` of the members whose average has the least log loss."""
    p_label, losses = list[Float64s](), list[float]()
    for name, member in zip(ensemble.names, ensemble.children, strict=True):
        with located(name):
            probs, logs = WholeRows(labels, member, checks).label_logs()
        p_label.append(probs)
        losses.append(-float(np.mean(logs)))
    best, found = math.inf, list[float]()
    for t in t_values:
        raw = [math.exp(-t * loss) for loss in losses]
        if not sum(raw):  # t is so large that no member has a weight
            continue
        weights = [one / sum(raw) for one in raw]
        total = np.zeros(labels.shape[0])
        for weight, probs in zip(weights, p_label, strict=True):
            total += weight * probs
        loss = -float(np.mean(clipped_log(total)))
        if loss < best:
            best, found = loss, weights
    if not found:
        raise InvalidInputError(f"none of log_loss_search_T_values gives weights: {list(t_values)!r}")
    return found


def _check_weighting(weighting: str, custom_weights: Any, n_members: int) -> None:
    if weighting not in _WEIGHTINGS:
        raise InvalidInputError(
            f"weight_ensemble_members_by must be one of {', '.join(_WEIGHTINGS)}; not {weighting!r}"
        )
    if (custom_weights is not None) != (weighting == "custom"):
        raise InvalidInputError('give custom_weights with weight_ensemble_members_by="custom", and only then')
    if custom_weights is None:
        return
    weights = list(custom_weights)
    if len(weights) != n_members:
        raise InvalidInputError(f"{len(weights)} custom_weights for {n_members} models: give one for each")
    for weight in weights:
        if isinstance(weight, bool | np.bool_) or not isinstance(weight, Real) or not math.isfinite(float(weight)):
            raise InvalidInputError(f"custom_weights must be finite numbers, not {weight!r}")
