"""``cleanlab.filter``: which rows have label issues, out of core.

Labels and probabilities may be anything that `labelsieve.find_label_issues` takes: arrays, paths, Zarr or Dask arrays.
That function has the same filters, and all options of a run: clusters, workdirs, memory limits.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.filters import FILTERS
from labelsieve.confident_learning.joint import calibrated_joint
from labelsieve.confident_learning.matrices import Entries
from labelsieve.confident_learning.thresholds import Bools, Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, warn
from labelsieve.job.job import Job
from labelsieve.job.whole_rows import WholeRows
from labelsieve.multilabel_classification import filter as multilabel_filter
from labelsieve.options import FILTER_NAMES, FLOAT_TOLERANCE, FilterName, JobSettings, Method
from labelsieve.sources.open import open_pred_probs

__all__ = ["find_label_issues", "find_label_issues_using_argmax_confusion_matrix", "find_predicted_neq_given"]

# Settings that all functions have in common: rows that do not sum to 1 are a warning, because cleanlab takes them.
COMMON: Final[dict[str, Any]] = {"allow_unnormalized_rows": "warn", "progress": False}


class AssertedInputError(InvalidInputError, AssertionError):
    """A setting that cleanlab refuses by an assertion."""


def flat_labels(labels: Any) -> Any:
    """Return `labels`, or the only column of a pandas table.

    Raises
    ------
    InvalidInputError
        For a table of several columns.
    """
    pandas: Any = sys.modules.get("pandas")
    if pandas is None or not isinstance(labels, pandas.DataFrame):
        return labels
    if labels.shape[1] != 1:
        raise InvalidInputError(f"labels must be one dimensional, not a table of {labels.shape[1]} columns")
    return labels.iloc[:, 0]


def refuse_multi_label(function: str, *, multi_label: bool) -> None:
    """Raise if `multi_label` is true; `function` is the one for such labels."""
    if multi_label:
        where = "labelsieve.cleanlab.multilabel_classification.dataset"
        raise InvalidInputError(f"for rows with several labels call {where}.{function}")


def warn_user(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn as cleanlab does, at the line of the caller of the function that calls this."""
    warnings.warn(message, kind, stacklevel=3)


def one_vs_rest(labels: Any, pred_probs: Any) -> Iterator[tuple[Int64s, npt.NDArray[Any]]]:
    """Yield for each class which rows have it, and the ``(N, 2)`` probabilities that they have it not, and have it.

    Parameters
    ----------
    labels : list of list of int
        The classes of each row.
    pred_probs : (N, K) array
        Probability of each class, independent of the others. A column is read at a time.

    Raises
    ------
    InputTypeError
        If `labels` is not a list of lists.
    InvalidInputError
        For classes outside 0..K-1, and lengths that differ.
    """
    n_rows, n_classes = pred_probs.shape
    if n_rows != len(labels):
        raise InvalidInputError(f"{len(labels):,} labels, {n_rows:,} rows of pred_probs")
    for k, has_class in enumerate(one_hot_columns(labels, n_classes)):
        probs = np.asarray(pred_probs[:, k])
        yield has_class, np.stack([1 - probs, probs], axis=1)


def one_hot_columns(labels: Any, n_classes: int) -> Iterator[Int64s]:
    """Yield for each class an ``(N,)`` array that is 1 for the rows that have it; see `one_vs_rest`."""
    if not isinstance(labels, list) or not all(isinstance(row, list | tuple | np.ndarray) for row in labels):
        raise InputTypeError("with multi_label=True, labels must be a list with a list of classes for each row")
    lengths = np.array([len(row) for row in labels], np.int64)
    classes = np.array([int(k) for row in labels for k in row], np.int64)
    outside = np.flatnonzero((classes < 0) | (classes >= n_classes))
    if len(outside):
        row = int(np.searchsorted(np.cumsum(lengths), outside[0], "right"))
        raise InvalidInputError(f"row {row} has class {classes[outside[0]]}, outside 0..{n_classes - 1}")
    rows = np.repeat(np.arange(len(labels)), lengths)
    order = np.argsort(classes, kind="stable")
    edges = np.searchsorted(classes[order], np.arange(n_classes + 1))
    for k in range(n_classes):
        column = np.zeros(len(labels), np.int64)
        column[rows[order[edges[k] : edges[k + 1]]]] = 1
        yield column


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
        Out-of-sample probabilities.
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
    numbers = num_to_remove_per_class
    if numbers is not None and not np.ndim(numbers) and not isinstance(numbers, str):
        numbers = [numbers] * int(open_pred_probs(pred_probs).shape[1])  # type: ignore[list-item]  # one for all classes
    return JobSettings(
        **_ranking(return_indices_ranked_by, rank_by_kwargs),
        filter_by=filter_by,
        frac_noise=frac_noise,
        num_to_remove_per_class=numbers,
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
    return multilabel_filter.find_label_issues(labels, pred_probs, **settings)


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
