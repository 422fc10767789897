"""``cleanlab.count``: the counts of confident learning, out of core, as full NumPy matrices.

`labelsieve.count` has the same estimates as sparse matrices, with all options of reading, for many classes.

With ``multi_label=True``, `labels` are lists of classes, and each class is a problem of two classes. All problems are
counted together, as in `labelsieve.multilabel_classification`; with `thresholds`, or for the rows off the diagonal, one
column of `pred_probs` is read at a time.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve import count
from labelsieve.cleanlab.filter import (
    COMMON,
    find_multi_label_issues,
    flat_labels,
    one_hot_columns,
    one_vs_rest,
    warn_user,
)
from labelsieve.confident_learning.joint import TINY, JointCounts, calibrated_joint, estimated_issues, with_diagonal
from labelsieve.confident_learning.matrices import PY_METHODS, Entries, PyMethod, entries_of
from labelsieve.confident_learning.thresholds import Float64s, Int64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.job.job import Job
from labelsieve.job.whole_rows import WholeRows
from labelsieve.multilabel_classification.rows import open_tags
from labelsieve.options import ESTIMATION_METHODS, FLOAT_TOLERANCE, JobSettings
from labelsieve.sources.source import Source

__all__ = [
    "calibrate_confident_joint",
    "compute_confident_joint",
    "estimate_joint",
    "estimate_latent",
    "estimate_py_and_noise_matrices_from_probabilities",
    "get_confident_thresholds",
    "num_label_issues",
]

_CUSTOM: Final = "off_diagonal_custom"
# Functions of cleanlab that train a model.
_TRAINING: Final = (
    "estimate_confident_joint_and_cv_pred_proba",
    "estimate_cv_predicted_probabilities",
    "estimate_noise_matrices",
    "estimate_py_noise_matrices_and_cv_pred_proba",
)

Estimates = tuple[Float64s, Float64s, Float64s]


def num_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    confident_joint: npt.ArrayLike | None = None,
    estimation_method: str = "off_diagonal",
    multi_label: bool = False,
) -> int:
    """Estimate how many labels are wrong: `labelsieve.count.num_label_issues`.

    Parameters
    ----------
    labels : (N,) array-like of int, or list of list of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; read twice.
    confident_joint : (K, K) array, optional
        Counts, for ``off_diagonal_custom``. Other methods count themselves and warn that it is ignored.
    estimation_method : {"off_diagonal", "off_diagonal_calibrated", "off_diagonal_custom"}
        What to count.
    multi_label : bool
        Whether rows have several labels: the number of rows that
        `labelsieve.cleanlab.multilabel_classification.filter.find_label_issues` finds by ``confident_learning``.

    Returns
    -------
    int
        Estimated number of label issues.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, an unknown method, or a joint that is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import num_label_issues
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> num_label_issues(labels, pred_probs)
    1
    """
    if estimation_method not in (*ESTIMATION_METHODS, _CUSTOM):
        methods = ", ".join((*ESTIMATION_METHODS, _CUSTOM))
        raise InvalidInputError(f"{estimation_method!r} is not a valid estimation method: choose one of {methods}")
    if confident_joint is not None and estimation_method != _CUSTOM:
        warn_user(f"confident_joint is ignored: {estimation_method!r} counts its own; {_CUSTOM!r} uses it")
    if multi_label:
        mask = find_multi_label_issues(
            labels, pred_probs, filter_by="confident_learning", confident_joint=confident_joint
        )
        return int(np.count_nonzero(mask))
    labels = flat_labels(labels)
    if estimation_method != _CUSTOM:
        counts = _counts(labels, pred_probs)
        return estimated_issues(counts, calibrated=estimation_method == "off_diagonal_calibrated")
    if confident_joint is None:
        raise InvalidInputError(f"for estimation_method={_CUSTOM!r} you need to provide pre-calculated confident_joint")
    return count.num_label_issues(labels, pred_probs, confident_joint=confident_joint, estimation_method=_CUSTOM)


def calibrate_confident_joint(confident_joint: npt.ArrayLike, labels: Any, *, multi_label: bool = False) -> Int64s:
    """Scale the counts of each label to all of its rows, and round them.

    Parameters
    ----------
    confident_joint : (K, K) array
        Counts by given label and true class; ``(K, 2, 2)`` for rows with several labels.
    labels : (N,) array-like of int, or list of list of int
        Given labels; only they are read.
    multi_label : bool
        Whether rows have several labels.

    Returns
    -------
    (K, K) or (K, 2, 2) int64
        Counts of which each row adds up to the number of rows with that label.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad labels and for what is not a matrix of counts.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import calibrate_confident_joint
    >>> calibrate_confident_joint(np.array([[1, 0], [1, 2]]), np.array([0, 0, 1, 1, 1]))
    array([[2, 0],
           [1, 2]])
    """
    joint = np.asarray(confident_joint)
    if multi_label:
        if joint.ndim != 3 or joint.shape[1:] != (2, 2):
            raise InvalidInputError(f"confident_joint must have shape (K, 2, 2), not {joint.shape}")
        columns = one_hot_columns(labels, len(joint))
        return np.stack([calibrate_confident_joint(one, column) for one, column in zip(joint, columns, strict=True)])
    if joint.ndim == 2 and joint.size and not joint.any():
        return np.zeros(joint.shape, np.int64)  # as in cleanlab: nothing is counted, nothing can be scaled
    entries = entries_of("confident_joint", joint)
    return _dense(Entries.of(calibrated_joint(entries.counts(), count.count_labels(flat_labels(labels), entries.size))))


def estimate_joint(
    labels: Any, pred_probs: Any, *, confident_joint: npt.ArrayLike | None = None, multi_label: bool = False
) -> Float64s:
    """Estimate the joint distribution of given labels and true classes.

    Parameters
    ----------
    labels : (N,) array-like of int, list of list of int, or None
        Given labels. None if `confident_joint` is already calibrated.
    pred_probs : (N, K) array-like of float or None
        Out-of-sample probabilities; not used with `confident_joint`.
    confident_joint : (K, K) array, optional
        Counts by given label and true class.
    multi_label : bool
        Whether rows have several labels.

    Returns
    -------
    (K, K) or (K, 2, 2) float64
        Shares that add up to 1; of each class, if rows have several labels.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and for neither probabilities nor counts.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import estimate_joint
    >>> estimate_joint(np.array([0, 0, 1, 1, 1]), None, confident_joint=np.array([[2, 0], [1, 2]]))
    array([[0.4, 0. ],
           [0.2, 0.4]])
    """
    if confident_joint is not None:
        joint = np.asarray(confident_joint)
        calibrated = joint if labels is None else calibrate_confident_joint(joint, labels, multi_label=multi_label)
    elif labels is None or pred_probs is None:
        raise InvalidInputError("give labels and pred_probs, or a confident_joint")
    else:
        calibrated = compute_confident_joint(labels, pred_probs, multi_label=multi_label)
    totals = np.maximum(calibrated.sum(axis=(-2, -1), keepdims=True, dtype=np.float64), TINY)
    shares: Float64s = calibrated / totals
    return shares


def compute_confident_joint(
    labels: Any,
    pred_probs: Any,
    *,
    thresholds: npt.ArrayLike | None = None,
    calibrate: bool = True,
    multi_label: bool = False,
    return_indices_of_off_diagonals: bool = False,
) -> Any:
    """Count rows by their given label and the class that they confidently belong to.

    Parameters
    ----------
    labels : (N,) array-like of int, or list of list of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; read twice, or once with `thresholds`.
    thresholds : (K,) array-like of float, optional
        Probabilities that a row must reach; by default the mean of each class over the rows labelled with it.
    calibrate : bool
        Whether to scale the counts of each label to all of its rows, and round them.
    multi_label : bool
        Whether rows have several labels.
    return_indices_of_off_diagonals : bool
        Whether to return the rows off the diagonal too.

    Returns
    -------
    joint : (K, K) or (K, 2, 2) int64
        Counts by given label and true class.
    indices : (M,) int64, or list of these
        With `return_indices_of_off_diagonals`: the rows off the diagonal, ascending; of each class, if rows have
        several labels.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and for thresholds that are not K numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import compute_confident_joint
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> compute_confident_joint(labels, pred_probs, return_indices_of_off_diagonals=True)
    (array([[2, 0],
           [1, 2]]), array([4]))
    """
    if multi_label and thresholds is None and not return_indices_of_off_diagonals:
        blocks = _blocks(labels, pred_probs)
        return calibrate_confident_joint(blocks, labels, multi_label=True) if calibrate else blocks
    if multi_label:
        joints, indices = list[Int64s](), list[Int64s]()
        for has_class, probs in one_vs_rest(labels, pred_probs):
            joint, rows = _joint_and_rows(has_class, probs, thresholds, calibrate=calibrate)
            joints.append(joint)
            indices.append(rows)
        return (np.stack(joints), indices) if return_indices_of_off_diagonals else np.stack(joints)
    labels = flat_labels(labels)
    if thresholds is None and not return_indices_of_off_diagonals:
        counts = _counts(labels, pred_probs)
        joint_counts = calibrated_joint(counts.joint, counts.class_counts) if calibrate else counts.joint
        return _dense(Entries.of(joint_counts))
    joint, rows = _joint_and_rows(labels, pred_probs, thresholds, calibrate=calibrate)
    return (joint, rows) if return_indices_of_off_diagonals else joint


def estimate_latent(
    confident_joint: npt.ArrayLike,
    labels: Any,
    *,
    py_method: PyMethod = "cnt",
    converge_latent_estimates: bool = False,
) -> Estimates:
    """Estimate the prior of the true classes, the noise matrix, and its inverse: `labelsieve.count.estimate_latent`.

    Parameters
    ----------
    confident_joint : (K, K) array
        Counts by given label and true class.
    labels : (N,) array-like of int
        Given labels; only they are read.
    py_method : {"cnt", "eqn", "marginal", "marginal_ps"}
        How to estimate the prior.
    converge_latent_estimates : bool
        Whether to make the three results consistent with each other.

    Returns
    -------
    py : (K,) float64
        Estimated share of each true class.
    noise_matrix : (K, K) float64
        ``P(given label | true class)``.
    inverse_noise_matrix : (K, K) float64
        ``P(true class | given label)``.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data and an unknown method.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import estimate_latent
    >>> py, noise, inverse = estimate_latent(np.array([[2, 0], [1, 2]]), np.array([0, 0, 1, 1, 1]))
    >>> py.round(2)
    array([0.6, 0.4])
    """
    if py_method not in PY_METHODS:
        raise InvalidInputError(f"py_method should be one of {', '.join(PY_METHODS)}; not {py_method!r}")
    return count.estimate_latent(
        confident_joint,
        flat_labels(labels),
        py_method=py_method,
        converge_latent_estimates=converge_latent_estimates,
        dense=True,
    )


def estimate_py_and_noise_matrices_from_probabilities(
    labels: Any,
    pred_probs: Any,
    *,
    thresholds: npt.ArrayLike | None = None,
    converge_latent_estimates: bool = True,
    py_method: PyMethod = "cnt",
    calibrate: bool = True,
) -> tuple[Float64s, Float64s, Float64s, Int64s]:
    """Return what `estimate_latent` estimates by the joint of `compute_confident_joint`, and that joint.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import estimate_py_and_noise_matrices_from_probabilities
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> estimate_py_and_noise_matrices_from_probabilities(labels, pred_probs)[3]
    array([[2, 0],
           [1, 2]])
    """
    joint = compute_confident_joint(labels, pred_probs, thresholds=thresholds, calibrate=calibrate)
    estimates = estimate_latent(joint, labels, py_method=py_method, converge_latent_estimates=converge_latent_estimates)
    return *estimates, joint


def get_confident_thresholds(labels: Any, pred_probs: Any, multi_label: bool = False) -> Float64s:
    """Return the mean probability of each class over the rows labelled with it.

    Parameters
    ----------
    labels : (N,) array-like of int, or list of list of int
        Given labels.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities; read once.
    multi_label : bool
        Whether rows have several labels.

    Returns
    -------
    (K,) or (K, 2) float64
        Thresholds; 2.0 for a class without rows. If rows have several labels, of the rows without and with each class.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.count import get_confident_thresholds
    >>> get_confident_thresholds(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.25, 0.75], [0.75, 0.25]]))
    array([0.9, 0.5])
    """
    if multi_label:
        return WholeRows(*_problems(labels, pred_probs)).thresholds()[0].reshape(-1, 2)
    return WholeRows(flat_labels(labels), pred_probs).thresholds()[0]


def _counts(labels: Any, pred_probs: Any) -> JointCounts:
    return Job(labels, pred_probs, JobSettings(rule="confident_joint", **COMMON)).count()


def _problems(labels: Any, pred_probs: Any) -> tuple[Source, Source]:
    """Return the labels and probabilities of the two-class problems of all classes, as rows of 2 K classes."""
    if not isinstance(labels, list):
        raise InputTypeError(f"with multi_label=True, labels must be a list of lists, not {type(labels).__name__}")
    found = open_tags(labels, pred_probs)
    return found.labels, found.pred_probs


def _blocks(labels: Any, pred_probs: Any) -> Int64s:
    """Return the ``(K, 2, 2)`` confident joints of the two-class problems of all classes."""
    joint = _counts(*_problems(labels, pred_probs)).joint
    blocks = np.zeros((joint.n_classes // 2, 2, 2), np.int64)
    for side in range(2):
        blocks[:, side, side] = joint.diagonal[side::2]
    blocks[joint.given // 2, joint.given % 2, joint.predicted % 2] = joint.counts
    return blocks


def _joint_and_rows(
    labels: Any, pred_probs: Any, thresholds: npt.ArrayLike | None, *, calibrate: bool
) -> tuple[Int64s, Int64s]:
    """Return the confident joint, and the rows off its diagonal."""
    rows = WholeRows(labels, pred_probs, n_reads=2 if thresholds is None else 1)
    given = rows.thresholds()[0] if thresholds is None else _checked_thresholds(thresholds, rows.n_classes)
    found = rows.confident_rows(given)
    joint = with_diagonal(found.joint)
    if calibrate:
        joint = calibrated_joint(joint, found.totals.sums.dense().counts)
    return _dense(Entries.of(joint)), found.rows


def _checked_thresholds(thresholds: npt.ArrayLike, n_classes: int) -> Float64s:
    values = np.asarray(thresholds)
    if values.dtype.kind not in "iuf":
        raise InputTypeError(f"thresholds must be {n_classes} numbers, not of dtype {values.dtype}")
    if values.shape not in ((n_classes,), (n_classes, 1)) or np.isnan(values).any():
        raise InvalidInputError(f"thresholds must be {n_classes} numbers, not of shape {values.shape} or NaN")
    # Less 1e-6, which every probability reaches from here on.
    return np.maximum(values.reshape(-1).astype(np.float64), FLOAT_TOLERANCE)


def _dense(entries: Entries) -> Int64s:
    matrix: Int64s = entries.matrix(dense=True)
    return matrix.astype(np.int64, copy=False)


def __getattr__(name: str) -> object:
    """Say where the functions of cleanlab are that train a model."""
    if name in _TRAINING:  # an AttributeError would lose its message in ``from ... import``
        raise ImportError(f"{__name__} does not train models: use cleanlab.count.{name}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
