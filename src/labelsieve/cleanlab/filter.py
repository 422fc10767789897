"""``cleanlab.filter``: which rows have label issues, out of core.

Labels and probabilities may be anything that `labelsieve.find_label_issues` takes: arrays, paths, Zarr or Dask arrays.
That function has the same filters, and all options of a run: clusters, workdirs, memory limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.cleanlab.arguments import COMMON, AssertedInputError, flat_labels, one_vs_rest, warn_user
from labelsieve.confident_learning.filters import FILTERS
from labelsieve.confident_learning.joint import calibrated_joint
from labelsieve.confident_learning.matrices import Entries
from labelsieve.confident_learning.thresholds import Bools
from labelsieve.errors import InputTypeError, InvalidInputError, warn
from labelsieve.job.job import Job
from labelsieve.job.whole_rows import WholeRows
from labelsieve.options import FILTER_NAMES, FLOAT_TOLERANCE, FilterName, JobSettings, Method
from labelsieve.sources.open import open_pred_probs

__all__ = ["find_label_issues", "find_label_issues_using_argmax_confusion_matrix", "find_predicted_neq_given"]

_PRUNING: Final = tuple(name for name in FILTER_NAMES if FILTERS[name].prunes)


def find_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    return_indices_ranked_by: Method | None = None,
    rank_by_kwargs: Mapping[str, Any] | None = None,
    filter_by: FilterName = "prune_by_noise_rate",
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    confident_joint: npt.ArrayLike | None = None,
    n_jobs: int | None = None,
    verbose: bool = False,
    multi_label: bool = False,
) -> npt.NDArray[Any]:
    """Return which rows have label issues.

    Parameters
    ----------
    labels : (N,) array-like of int, or list of list of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; `labelsieve.find` says how often each filter reads them.
    return_indices_ranked_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}, optional
        Return the rows of the issues, sorted by this score, in place of a mask.
    rank_by_kwargs : dict, optional
        Further arguments of the score: ``adjust_pred_probs``.
    filter_by : str
        Which rows are issues: ``prune_by_noise_rate``, ``prune_by_class``, ``both``, ``confident_learning``,
        ``predicted_neq_given``, ``low_normalized_margin`` or ``low_self_confidence``, as in
        `labelsieve.find_label_issues`.
    frac_noise : float
        For the filters that prune: the share of the rows off the diagonal of the joint to take.
    num_to_remove_per_class : sequence of int, optional
        For the filters that prune: the number of rows of each class to take. One number stands for all classes.
    min_examples_per_class : int
        For the filters that prune: the number of rows of each class to leave.
    confident_joint : (K, K) array, optional
        Counts by given label and true class, which the filters that prune use as they are. Other filters use those of
        the data, and warn.
    n_jobs : int, optional
        None and 1 use Dask's scheduler, by default all threads; a larger number forks that many processes, on Linux.
        This does not change the result.
    verbose : bool
        Whether to show progress and print the number of issues.
    multi_label : bool
        Deprecated, as in cleanlab: `labelsieve.cleanlab.multilabel_classification.filter.find_label_issues`.

    Returns
    -------
    (N,) bool or (M,) int64
        The mask, or the rows of the issues, the lowest score first, ties by row.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data and settings that are not allowed.
    AssertedInputError
        Also an AssertionError, for an unknown filter and `n_jobs` below 1.
    InputTypeError
        A TypeError, for an object of the wrong kind, and unknown names in `rank_by_kwargs`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.filter import find_label_issues
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> find_label_issues(labels, pred_probs)
    array([False, False, False, False,  True])
    >>> find_label_issues(labels, pred_probs, return_indices_ranked_by="self_confidence")
    array([4])
    """
    choices: dict[str, Any] = {
        "return_indices_ranked_by": return_indices_ranked_by,
        "rank_by_kwargs": rank_by_kwargs,
        "filter_by": filter_by,
        "frac_noise": frac_noise,
        "num_to_remove_per_class": num_to_remove_per_class,
        "min_examples_per_class": min_examples_per_class,
        "confident_joint": confident_joint,
        "n_jobs": n_jobs,
        "verbose": verbose,
    }
    if multi_label:
        _check_choices(filter_by, num_to_remove_per_class, n_jobs)
        warn_user(
            "multi_label is deprecated: use labelsieve.cleanlab.multilabel_classification.filter.find_label_issues",
            DeprecationWarning,
        )
        return find_multi_label_issues(labels, pred_probs, **choices | {"rank_by_kwargs": rank_by_kwargs or {}})
    issues = Job(flat_labels(labels), pred_probs, filter_settings(pred_probs, **choices)).run()
    if verbose:
        print(f"{issues.num_issues:,} label issues in {issues.n_rows:,} examples of {issues.n_classes:,} classes")
    return issues.mask() if return_indices_ranked_by is None else issues.indices


def filter_settings(
    pred_probs: Any,
    *,
    return_indices_ranked_by: Method | None = None,
    rank_by_kwargs: Mapping[str, Any] | None = None,
    filter_by: FilterName = "prune_by_noise_rate",
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    confident_joint: npt.ArrayLike | None = None,
    n_jobs: int | None = None,
    verbose: bool = False,
) -> JobSettings:
    """Return the settings of a job, from the arguments of `find_label_issues`."""
    _check_choices(filter_by, num_to_remove_per_class, n_jobs)
    if confident_joint is not None and filter_by not in _PRUNING:
        warn(
            f"confident_joint is ignored: filter_by={filter_by!r} counts that of labels and pred_probs; "
            f"{', '.join(_PRUNING)} use it"
        )
        confident_joint = None
    return JobSettings(
        **_ranking(return_indices_ranked_by, rank_by_kwargs),
        filter_by=filter_by,
        frac_noise=frac_noise,
        num_to_remove_per_class=_numbers(num_to_remove_per_class, pred_probs),
        min_examples_per_class=min_examples_per_class,
        confident_joint=confident_joint,
        n_jobs=1 if n_jobs is None else n_jobs,
        **COMMON | {"progress": None if verbose else False},
    )


def _check_choices(filter_by: str, num_to_remove_per_class: Any, n_jobs: Any) -> None:
    """Raise the errors of cleanlab for settings that are not allowed."""
    if filter_by not in FILTER_NAMES:
        raise AssertedInputError(f"filter_by must be one of {', '.join(FILTER_NAMES)}; not {filter_by!r}")
    if isinstance(n_jobs, int) and n_jobs < 1:
        raise AssertedInputError(f"n_jobs must be None or a whole number of at least 1, not {n_jobs}")
    if filter_by not in _PRUNING and num_to_remove_per_class is not None:
        raise InvalidInputError(f"num_to_remove_per_class is not supported with filter_by={filter_by!r}")


def find_predicted_neq_given(labels: Any, pred_probs: Any, *, multi_label: bool = False) -> Bools:
    """Return which labels are not the predicted class, the first of the largest probability.

    Parameters
    ----------
    labels : (N,) array-like of int, or list of list of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; read once.
    multi_label : bool
        Whether rows have several labels: true for rows in which any class is predicted and not given, or given and not
        predicted.

    Returns
    -------
    (N,) bool
        The mask.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.filter import find_predicted_neq_given
    >>> find_predicted_neq_given(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    array([False,  True])
    """
    if multi_label:
        mask = np.zeros(len(labels), np.bool_)
        for has_class, probs in one_vs_rest(labels, pred_probs):
            mask |= find_predicted_neq_given(has_class, probs)
        return mask
    rows = WholeRows(flat_labels(labels), pred_probs)
    mask = np.zeros(rows.n_rows, np.bool_)
    mask[rows.confident_rows(_reached_by_all(rows.n_classes)).rows] = True
    return mask


def find_label_issues_using_argmax_confusion_matrix(
    labels: Any, pred_probs: Any, *, calibrate: bool = True, filter_by: FilterName = "prune_by_noise_rate"
) -> Bools:
    """Return which rows have label issues by the counts of given labels and predicted classes.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; read once more than by the filter.
    calibrate : bool
        Whether to scale the counts of each label to all of its rows.
    filter_by : str
        As in `find_label_issues`; only the filters that prune use the counts.

    Returns
    -------
    (N,) bool
        The mask.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.filter import find_label_issues_using_argmax_confusion_matrix
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> find_label_issues_using_argmax_confusion_matrix(labels, pred_probs)
    array([False, False, False, False,  True])
    """
    rows = WholeRows(flat_labels(labels), pred_probs)
    found = rows.confident_rows(_reached_by_all(rows.n_classes))
    joint = found.joint
    if calibrate:
        joint = calibrated_joint(joint, found.totals.sums.dense().counts)
    return find_label_issues(
        labels, pred_probs, filter_by=filter_by, confident_joint=Entries.of(joint).matrix(dense=True)
    )


def find_multi_label_issues(labels: Any, pred_probs: Any, **settings: Any) -> npt.NDArray[Any]:
    """Return which rows have label issues, if rows have several labels: that of `multilabel_classification.filter`."""
    if not isinstance(labels, list):
        raise InputTypeError(f"with multi_label=True, labels must be a list of lists, not {type(labels).__name__}")
    from labelsieve.cleanlab.multilabel_classification import filter as multilabel_filter

    found: npt.NDArray[Any] = multilabel_filter.find_label_issues(labels, pred_probs, **settings)
    return found


def _reached_by_all(n_classes: int) -> npt.NDArray[np.float64]:
    """Return thresholds that all probabilities reach, so that each row counts as its predicted class."""
    return np.full(n_classes, FLOAT_TOLERANCE)


def _ranking(rank_by: Method | None, rank_by_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of the score that sorts the issues."""
    arguments = dict(rank_by_kwargs or {})
    adjust = arguments.pop("adjust_pred_probs", False)
    if arguments:
        raise InputTypeError(f"rank_by_kwargs has unknown names {', '.join(map(str, arguments))}: adjust_pred_probs")
    return {} if rank_by is None else {"rank_by": rank_by, "adjust_pred_probs": adjust}


def _numbers(numbers: Any, pred_probs: Any) -> Any:
    """Return the number of rows to remove of each class."""
    if numbers is None or np.ndim(numbers) or isinstance(numbers, str):
        return numbers
    return [numbers] * int(open_pred_probs(pred_probs).shape[1])
