"""``cleanlab.dataset``: summaries of a dataset by class and by pair of classes, as pandas tables.

Each function takes `labels` and `pred_probs`, which are read twice, or what is estimated from them: a `joint` with
`num_examples`, or a `confident_joint`. `labelsieve.LabelIssues.class_summary` and ``confused_pairs`` show the same of a
run, also for many classes; a `joint` has K x K numbers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.cleanlab import count
from labelsieve.cleanlab.filter import COMMON, flat_labels, refuse_multi_label, warn_user
from labelsieve.confident_learning.joint import calibrated_joint
from labelsieve.confident_learning.matrices import Entries
from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InvalidInputError
from labelsieve.job.job import Job
from labelsieve.options import JobSettings
from labelsieve.results.result import frame_of
from labelsieve.sources.open import open_labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["find_overlapping_classes", "health_summary", "overall_label_health_score", "rank_classes_by_label_quality"]

# Replaces a sum of 0 where it divides.
_EPSILON: Final = 1e-6
_QUALITY: Final = "Label Quality Score"
_JOINT: Final = "Joint Probability"


def rank_classes_by_label_quality(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    class_names: Iterable[str] | None = None,
    num_examples: int | None = None,
    joint: npt.ArrayLike | None = None,
    confident_joint: npt.ArrayLike | None = None,
    multi_label: bool = False,
) -> pd.DataFrame:
    """Return a table of the classes, those with the most wrong labels first.

    Parameters
    ----------
    labels : (N,) array-like of int, optional
        Given labels.
    pred_probs : (N, K) array-like of float, optional
        Out-of-sample probabilities.
    class_names : iterable of str, optional
        K names.
    num_examples : int, optional
        Number of rows N; by default that of `labels`, or the sum of `confident_joint`.
    joint : (K, K) array, optional
        Joint distribution of given labels and true classes.
    confident_joint : (K, K) array, optional
        Counts by given label and true class.
    multi_label : bool
        Must be False: `labelsieve.cleanlab.multilabel_classification.dataset` is for rows with several labels.

    Returns
    -------
    pandas.DataFrame
        ``Class Name`` (with `class_names`), ``Class Index``, ``Label Issues`` (estimated rows with this label whose
        true class is another), ``Inverse Label Issues`` (estimated rows truly of this class that have another label),
        ``Label Noise`` and ``Inverse Label Noise`` (their shares), ``Label Quality Score`` (1 - label noise).

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and if neither inputs nor estimates are given.
    MissingDependencyError
        Without pandas.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.dataset import rank_classes_by_label_quality
    >>> table = rank_classes_by_label_quality(joint=np.array([[0.4, 0.0], [0.2, 0.4]]), num_examples=5)
    >>> table[["Class Index", "Label Issues", "Inverse Label Issues"]].values.tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    refuse_multi_label("rank_classes_by_multilabel_quality", multi_label=multi_label)
    _check_pandas()
    shares = _joint(labels, pred_probs, joint, confident_joint)
    n = _n_examples(num_examples, labels, confident_joint)
    by_label, by_true_class = shares.sum(axis=1), shares.sum(axis=0)
    wrong, missed = by_label - shares.diagonal(), by_true_class - shares.diagonal()
    noise = wrong / np.maximum(by_label, _EPSILON)
    table = frame_of(
        {
            "Class Index": np.arange(len(shares)),
            "Label Issues": _rows(wrong, n),
            "Inverse Label Issues": _rows(missed, n),
            "Label Noise": noise,
            "Inverse Label Noise": missed / np.maximum(by_true_class, _EPSILON),
            _QUALITY: 1 - noise,
        }
    )
    if class_names is not None:
        table.insert(0, "Class Name", _names(class_names, len(shares)))
    return table.sort_values(by=_QUALITY, ascending=True).reset_index(drop=True)


def find_overlapping_classes(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    asymmetric: bool = False,
    class_names: Iterable[str] | None = None,
    num_examples: int | None = None,
    joint: npt.ArrayLike | None = None,
    confident_joint: npt.ArrayLike | None = None,
    multi_label: bool = False,
) -> pd.DataFrame:
    """Return a table of the pairs of classes, those that are most often confused first.

    Parameters
    ----------
    labels, pred_probs, class_names, num_examples, joint, confident_joint, multi_label
        As in `rank_classes_by_label_quality`.
    asymmetric : bool
        Whether rows labelled A whose true class is B and rows labelled B whose true class is A are two pairs.

    Returns
    -------
    pandas.DataFrame
        ``Class Name A`` and ``Class Name B`` (with `class_names`), ``Class Index A`` and ``Class Index B``,
        ``Num Overlapping Examples`` (estimated rows), ``Joint Probability`` (their share of all rows).

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and if neither inputs nor estimates are given.
    MissingDependencyError
        Without pandas.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.dataset import find_overlapping_classes
    >>> find_overlapping_classes(joint=np.array([[0.4, 0.0], [0.2, 0.4]]), num_examples=5).values.tolist()
    [[0.0, 1.0, 1.0, 0.2]]
    """
    refuse_multi_label("common_multilabel_issues", multi_label=multi_label)
    _check_pandas()
    shares = _joint(labels, pred_probs, joint, confident_joint)
    n = _n_examples(num_examples, labels, confident_joint)
    if asymmetric:
        first, second = np.nonzero(~np.eye(len(shares), dtype=np.bool_))
        values = shares[first, second]
    else:
        first, second = np.triu_indices(len(shares), 1)
        values = shares[first, second] + shares[second, first]
    table = frame_of(
        {
            "Class Index A": first,
            "Class Index B": second,
            "Num Overlapping Examples": _rows(values, n),
            _JOINT: values,
        }
    )
    if class_names is not None:
        names = _names(class_names, len(shares))
        table.insert(0, "Class Name A", names[first])
        table.insert(1, "Class Name B", names[second])
    return table.sort_values(by=_JOINT, ascending=False).reset_index(drop=True)


def overall_label_health_score(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    num_examples: int | None = None,
    confident_joint: npt.ArrayLike | None = None,
    joint: npt.ArrayLike | None = None,
    multi_label: bool = False,
    verbose: bool = True,
) -> float:
    """Return the estimated share of right labels.

    Parameters
    ----------
    labels, pred_probs, num_examples, confident_joint, joint, multi_label
        As in `rank_classes_by_label_quality`. With `labels` and `pred_probs` the issues are counted, and no estimate is
        used.
    verbose : bool
        Whether to print the share.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and if neither inputs nor estimates are given.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.dataset import overall_label_health_score
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> overall_label_health_score(labels, pred_probs)
    About 20% of the labels (1 of 5) are estimated to be wrong: the label health score is 0.80.
    0.8
    """
    refuse_multi_label("overall_multilabel_health_score", multi_label=multi_label)
    n = _n_examples(num_examples, labels, confident_joint)
    if labels is None or pred_probs is None:
        score = float(np.trace(_joint(labels, pred_probs, joint, confident_joint)))
        n_issues = round(n * (1 - score))
    else:
        n_issues = count.num_label_issues(labels, pred_probs, confident_joint=confident_joint)
        score = 1 - n_issues / n
    return _reported_score(score, n_issues, n, verbose=verbose)


def health_summary(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    asymmetric: bool = False,
    class_names: Iterable[str] | None = None,
    num_examples: int | None = None,
    joint: npt.ArrayLike | None = None,
    confident_joint: npt.ArrayLike | None = None,
    multi_label: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Return the tables of classes and of pairs of classes, the joint and the overall score; print them.

    `pred_probs` is read twice for all of them.

    Parameters
    ----------
    labels, pred_probs, class_names, num_examples, joint, confident_joint, multi_label
        As in `rank_classes_by_label_quality`.
    asymmetric : bool
        As in `find_overlapping_classes`.
    verbose : bool
        Whether to print what is returned.

    Returns
    -------
    dict
        ``overall_label_health_score``, ``joint``, ``classes_by_label_quality``, ``overlapping_classes``.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and if neither inputs nor estimates are given.
    MissingDependencyError
        Without pandas.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.dataset import health_summary
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> summary = health_summary(labels, pred_probs, verbose=False)
    >>> summary["overall_label_health_score"], summary["joint"].tolist()
    (0.8, [[0.4, 0.0], [0.2, 0.4]])
    """
    refuse_multi_label("multilabel_health_summary", multi_label=multi_label)
    _check_pandas()
    n = _n_examples(num_examples, labels, confident_joint)
    n_issues = None
    if labels is None or pred_probs is None:
        shares = _joint(labels, pred_probs, joint, confident_joint)
    else:
        if confident_joint is not None:
            warn_user("the overall score does not use confident_joint: it counts the issues of labels and pred_probs")
        settings = JobSettings(rule="confident_joint", **COMMON)
        counts = Job(flat_labels(labels), pred_probs, settings).count()
        n_issues = counts.n_off_diagonal
        if joint is None and confident_joint is None:
            confident_joint = Entries.of(calibrated_joint(counts.joint, counts.class_counts)).matrix(dense=True)
            shares = count.estimate_joint(None, None, confident_joint=confident_joint)
        else:
            shares = _joint(labels, pred_probs, joint, confident_joint)
    given: dict[str, Any] = {"class_names": class_names, "num_examples": n, "joint": shares}
    if class_names is not None:
        given["class_names"] = list(class_names)
    classes = rank_classes_by_label_quality(**given)
    pairs = find_overlapping_classes(**given, asymmetric=asymmetric)
    if verbose:
        print(f"Label health of {n:,} examples of {len(shares):,} classes\n")
        print("Classes, those with the most wrong labels first:\n")
        _show(classes)
        print("\nPairs of classes that are confused; merging those at the top may help:\n")
        _show(pairs)
        print()
    if n_issues is None:
        score = float(np.trace(shares))
        n_issues = round(n * (1 - score))
    else:
        score = 1 - n_issues / n
    return {
        "overall_label_health_score": _reported_score(score, n_issues, n, verbose=verbose),
        "joint": shares,
        "classes_by_label_quality": classes,
        "overlapping_classes": pairs,
    }


def _joint(labels: Any, pred_probs: Any, joint: Any, confident_joint: Any) -> Float64s:
    """Return the given joint, or estimate it."""
    if joint is None:
        return count.estimate_joint(labels, pred_probs, confident_joint=confident_joint)
    shares = np.asarray(joint)
    if shares.ndim != 2 or shares.shape[0] != shares.shape[1] or shares.dtype.kind not in "iuf":
        raise InvalidInputError(f"joint must be a (K, K) matrix of numbers, not of {shares.dtype} and {shares.shape}")
    return shares.astype(np.float64)


def _n_examples(num_examples: int | None, labels: Any, confident_joint: Any) -> int:
    """Return the number of rows."""
    if num_examples is not None:
        return int(num_examples)
    if labels is not None:
        return int(open_labels(flat_labels(labels)).shape[0])
    if confident_joint is None:
        raise InvalidInputError("give labels and pred_probs, or joint and num_examples, or confident_joint")
    return int(np.asarray(confident_joint).sum())


def _rows(shares: Float64s, n_examples: int) -> npt.NDArray[np.int64]:
    return (shares * n_examples).round().astype(np.int64)


def _names(class_names: Iterable[str], n_classes: int) -> npt.NDArray[Any]:
    names = list(class_names)
    if len(names) != n_classes:
        raise InvalidInputError(f"{len(names):,} class_names for {n_classes:,} classes")
    return np.array(names, object)


def _reported_score(score: float, n_issues: int, n_examples: int, *, verbose: bool) -> float:
    if verbose:
        print(
            f"About {1 - score:.0%} of the labels ({n_issues:,} of {n_examples:,}) are estimated to be wrong: "
            f"the label health score is {score:.2f}."
        )
    return score


def _show(table: pd.DataFrame) -> None:
    """Show a table as a notebook does, if this is one."""
    shell: Any = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        importlib.import_module("IPython.display").display(table)
    else:
        print(table)


def _check_pandas() -> None:
    """Raise without pandas, before anything is read."""
    frame_of({})
