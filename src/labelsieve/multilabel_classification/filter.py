"""Label issues of examples and of their tags: ``cleanlab.multilabel_classification.filter`` (2.9), out of core.

`labelsieve.multilabel_classification.find_label_issues` has all that these return, and more, in one result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.scores import adjusted_tag_scores
from labelsieve.errors import InvalidInputError, warn
from labelsieve.multilabel_classification.find import find_label_issues as find_tags
from labelsieve.multilabel_classification.issues import MultilabelIssues
from labelsieve.multilabel_classification.rank import get_label_quality_scores
from labelsieve.multilabel_classification.rows import open_tags
from labelsieve.options import FilterName, Method

__all__ = ["find_label_issues", "find_multilabel_issues_per_class"]

_PRUNING: Final = ("prune_by_noise_rate", "prune_by_class", "both")
NO_KWARGS: Final[Mapping[str, Any]] = MappingProxyType({})
PerClass = tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]], list[npt.NDArray[Any]]]


def find_label_issues(
    labels: Any,
    pred_probs: Any,
    return_indices_ranked_by: Method | None = None,
    rank_by_kwargs: Mapping[str, Any] = NO_KWARGS,
    filter_by: FilterName = "prune_by_noise_rate",
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    confident_joint: Any = None,
    n_jobs: int | None = None,  # noqa: ARG001  # of cleanlab
    verbose: bool = False,
    low_memory: bool = False,
) -> npt.NDArray[Any]:
    """Find the examples of which any tag is likely wrong.

    Parameters
    ----------
    labels, pred_probs
        As in `labelsieve.multilabel_classification.find_label_issues`.
    return_indices_ranked_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}, optional
        Return the numbers of the examples, sorted by the moving average of this score of their tags.
    rank_by_kwargs : dict, optional
        ``{"adjust_pred_probs": True}`` sorts by adjusted scores.
    filter_by : str
        Which tags are issues, by the same names as in `labelsieve.find_label_issues`. As in cleanlab,
        ``"low_self_confidence"`` and ``"low_normalized_margin"`` are the examples of lowest score (by self-confidence),
        as many as ``"confident_learning"`` finds.
    frac_noise, num_to_remove_per_class, min_examples_per_class
        For the filters that prune; see `labelsieve.find_label_issues`.
    confident_joint : (K, 2, 2) array-like of int, optional
        Counts of each tag, for the filters that prune; others ignore it, with a warning.
    n_jobs : int, optional
        Has no effect: threads do the work.
    verbose : bool
        Whether to show progress.
    low_memory : bool
        Count by the predicted class, in one read, and take the examples of lowest score of each tag; other filters
        need no more memory here.

    Returns
    -------
    (N,) bool or (M,) int64
        The mask of the examples, or their numbers.

    Raises
    ------
    InvalidInputError, InputTypeError
        For bad input and bad settings.

    Notes
    -----
    With ``"low_self_confidence"`` and ``"low_normalized_margin"``, cleanlab 2.9 returns ranked indices in another order
    than it documents; here they are in the order of their scores.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.filter import find_label_issues
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> find_label_issues(labels, pred_probs)
    array([False, False, False, False,  True])
    >>> find_label_issues(labels, pred_probs, return_indices_ranked_by="self_confidence")
    array([4])
    """
    adjusts = _adjusts(rank_by_kwargs, low_memory=low_memory)
    is_low = filter_by in ("low_self_confidence", "low_normalized_margin") and not low_memory
    pruning = frac_noise, num_to_remove_per_class, min_examples_per_class, confident_joint
    method: Method | None = "self_confidence" if is_low else return_indices_ranked_by
    used: FilterName = "confident_learning" if is_low else filter_by
    found = _find(labels, pred_probs, method, used, pruning, verbose=verbose, low_memory=low_memory)
    mask = found.example_mask()
    if is_low:
        lowest = np.argsort(found.example_scores(), kind="stable")[: np.count_nonzero(mask)]
        mask = np.zeros_like(mask)
        mask[lowest] = True
    if return_indices_ranked_by is None:
        return mask
    if adjusts or (is_low and return_indices_ranked_by != "self_confidence"):
        scores = get_label_quality_scores(
            labels, pred_probs, method=return_indices_ranked_by, adjust_pred_probs=adjusts
        )
    else:
        scores = found.example_scores()
    examples = np.flatnonzero(mask)
    return examples[np.argsort(scores[examples], kind="stable")]


def find_multilabel_issues_per_class(
    labels: Any,
    pred_probs: Any,
    return_indices_ranked_by: Method | None = None,
    rank_by_kwargs: Mapping[str, Any] = NO_KWARGS,
    filter_by: FilterName = "prune_by_noise_rate",
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    confident_joint: Any = None,
    n_jobs: int | None = None,  # noqa: ARG001  # of cleanlab
    verbose: bool = False,
    low_memory: bool = False,
) -> npt.NDArray[np.bool_] | PerClass:
    """Find for each tag the examples of which it is likely wrong.

    Parameters
    ----------
    labels, pred_probs, return_indices_ranked_by, rank_by_kwargs, filter_by, frac_noise, num_to_remove_per_class
        As in `find_label_issues`; indices are sorted by the score of the tag itself, and all filters are those of each
        tag.
    min_examples_per_class, confident_joint, n_jobs, verbose, low_memory
        As in `find_label_issues`.

    Returns
    -------
    (N, K) bool, or three lists
        The mask. With `return_indices_ranked_by`, three lists of length K: the numbers of the examples, worst first;
        ``(N,)`` labels 0 and 1; and ``(N, 2)`` probabilities of not having and of having the tag. The last two are in
        memory whole, wherever the input is.

    Raises
    ------
    InvalidInputError, InputTypeError
        For bad input and bad settings.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.filter import find_multilabel_issues_per_class
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> find_multilabel_issues_per_class(labels, pred_probs).sum(axis=0)
    array([1, 0])
    >>> issues, _, _ = find_multilabel_issues_per_class(labels, pred_probs, "self_confidence")
    >>> [one.tolist() for one in issues]
    [[4], []]
    """
    adjusts = _adjusts(rank_by_kwargs, low_memory=low_memory)
    pruning = frac_noise, num_to_remove_per_class, min_examples_per_class, confident_joint
    method = return_indices_ranked_by
    found = _find(labels, pred_probs, method, filter_by, pruning, verbose=verbose, low_memory=low_memory)
    if return_indices_ranked_by is None:
        return found.mask()
    issues = found.issues_by_tag()
    if adjusts:
        issues = _by_adjusted_scores(found, return_indices_ranked_by)
    tags = open_tags(labels, pred_probs)
    n, k = tags.n_examples, tags.n_tags
    given = (tags.labels[:] & 1).astype(np.int64).reshape(n, k)
    p = tags.pred_probs[:].reshape(n, k)
    both = [np.stack([p.dtype.type(1) - column, column], axis=1) for column in p.T]
    return issues, list(given.T), both


def _find(
    labels: Any,
    pred_probs: Any,
    method: Method | None,
    filter_by: FilterName,
    pruning: tuple[float, Sequence[int] | None, int, Any],
    *,
    verbose: bool,
    low_memory: bool,
) -> MultilabelIssues:
    """Find issues of tags with cleanlab's arguments."""
    score: Method = method or "self_confidence"
    progress = None if verbose else False
    frac_noise, num_to_remove_per_class, min_examples_per_class, confident_joint = pruning
    if low_memory:
        given = {
            "filter_by": filter_by != "prune_by_noise_rate",
            "num_to_remove_per_class": num_to_remove_per_class is not None,
            "confident_joint": confident_joint is not None,
            "frac_noise": frac_noise != 1,
            "min_examples_per_class": min_examples_per_class != 1,
        }
        unused = [name for name, is_given in given.items() if is_given]
        if unused:
            warn(f"{' and '.join(unused)} have no effect with low_memory=True")
        return find_tags(labels, pred_probs, filter_by=None, method=score, progress=progress)
    return find_tags(
        labels,
        pred_probs,
        filter_by=filter_by,
        rank_by=score,
        frac_noise=frac_noise,
        num_to_remove_per_class=num_to_remove_per_class,
        min_examples_per_class=min_examples_per_class,
        confident_joint=_usable_joint(confident_joint, filter_by),
        progress=progress,
    )


def _usable_joint(confident_joint: Any, filter_by: FilterName) -> Any:
    """Return the joint if the filter uses it; warn if it does not."""
    if confident_joint is None:
        return None
    shape = np.shape(confident_joint)
    if len(shape) == 2 and shape[0] == shape[1]:
        warn(f"confident_joint of the shape {shape} is ignored: it takes (K, 2, 2), the counts of each tag")
        return None
    if len(shape) != 3 or shape[1:] != (2, 2):
        raise InvalidInputError(f"confident_joint must have the shape (K, 2, 2), not {shape}")
    if filter_by not in _PRUNING:
        if filter_by != "predicted_neq_given":
            warn(f"confident_joint is ignored: filter_by={filter_by!r} counts from labels and pred_probs")
        return None
    return confident_joint


def _adjusts(rank_by_kwargs: Mapping[str, Any], *, low_memory: bool) -> bool:
    """Return whether scores are adjusted.

    Raises
    ------
    InvalidInputError
        For other keys than ``adjust_pred_probs``.
    """
    if not rank_by_kwargs:
        return False
    unknown = sorted(set(rank_by_kwargs) - {"adjust_pred_probs"})
    if unknown:
        raise InvalidInputError(f"rank_by_kwargs takes adjust_pred_probs only, not {', '.join(unknown)}")
    if low_memory:
        warn("rank_by_kwargs has no effect with low_memory=True")
        return False
    return bool(rank_by_kwargs["adjust_pred_probs"])


def _by_adjusted_scores(found: MultilabelIssues, method: Method) -> list[npt.NDArray[np.int64]]:
    """Return the examples of each tag, sorted by adjusted scores."""
    issues = found.rows.issues
    order = np.argsort(issues.rows, kind="stable")
    label = issues.given_labels[order]
    p = np.where(label & 1, issues.p_given[order], issues.p_suggested[order])
    scores = adjusted_tag_scores(label, p, found.rows.confident_thresholds, method)
    rows = issues.rows[order][np.argsort(scores, kind="stable")]
    return [rows[rows % found.n_tags == tag] // found.n_tags for tag in range(found.n_tags)]
