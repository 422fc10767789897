"""The counts of confident learning at any size: the confident joint and the estimates from it.

Matrices are sparse (`scipy.sparse.csr_array`, the extra ``sparse``); with ``dense=True`` they are full NumPy arrays, as
in cleanlab. Rows are given labels and columns are true classes, except in the inverse noise matrix, where they are
swapped.

The calibrated joint is rounded to integers, and the rows left over go to the largest remainders. With up to 1,024
classes NumPy's sort breaks ties of remainders, as in cleanlab. NumPy's sort depends on the processor, so on another
processor a different pair of classes may get the extra row. With more than 1,024 classes the later pair gets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import matrices as noise_matrices
from labelsieve.confident_learning.checks import Findings, raise_or_warn
from labelsieve.confident_learning.joint import JointCounts, calibrated_joint, estimated_issues, off_diagonal_rows
from labelsieve.confident_learning.matrices import PY_METHODS, Entries, PyMethod, check_sparse, entries_of
from labelsieve.confident_learning.summarize import is_ignored
from labelsieve.confident_learning.thresholds import Float64s, Int64s
from labelsieve.errors import InvalidInputError
from labelsieve.job.job import Job
from labelsieve.job.workdir import check_versions, note_versions
from labelsieve.options import (
    ESTIMATION_METHODS,
    FOR_COUNTING,
    NOTHING,
    Auto,
    EstimationMethod,
    IgnoreLabel,
    JobSettings,
    check_flag,
    check_ignore_label,
    check_one_of,
    explain_keywords,
)
from labelsieve.sources.composite import check_dtype
from labelsieve.sources.objects import RETRIES, retry
from labelsieve.sources.open import Opened, ignored_value, open_labels, open_pred_probs
from labelsieve.sources.source import Source

__all__ = ["compute_confident_joint", "estimate_joint", "estimate_latent", "num_label_issues"]

_Custom: TypeAlias = Literal["off_diagonal_custom"]
_CUSTOM: Final = "off_diagonal_custom"


class RunOptions(TypedDict, total=False):
    """Options for reading, as in `labelsieve.find_label_issues`."""

    batch_size: int | Auto
    partition_batches: int | Auto
    from_logits: bool
    dtype: Any
    allow_zero_rows: bool
    allow_unnormalized_rows: bool
    progress: bool | None
    client: Any
    workdir: str | os.PathLike[str] | None
    fresh: bool
    wait: float
    max_memory: int | str | None
    retries: int
    ignore_label: IgnoreLabel


@explain_keywords(FOR_COUNTING, RunOptions.__annotations__)
def num_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    confident_joint: Any = None,
    estimation_method: EstimationMethod | _Custom = "off_diagonal",
    **options: Unpack[RunOptions],
) -> int:
    """Estimate how many labels are wrong, by the confident joint.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given labels; anything that `labelsieve.find_label_issues` takes.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities, of the same kinds; read twice. For ``off_diagonal_custom`` only K is used.
    confident_joint : (K, K) array or sparse array, optional
        Counts by given label and true class, for ``off_diagonal_custom`` alone.
    estimation_method : {"off_diagonal", "off_diagonal_calibrated", "off_diagonal_custom"}
        What to count: ``off_diagonal``, the rows off the diagonal of the confident joint, except rows whose label is
        predicted, or nearly so; ``off_diagonal_calibrated``, the rows off the diagonal of the joint that is calibrated
        to all rows of each label; ``off_diagonal_custom``, the same for the given `confident_joint`.
    **options
        ``batch_size``, ``partition_batches``, ``from_logits``, ``dtype``, ``allow_zero_rows``,
        ``allow_unnormalized_rows``, ``progress``, ``client``, ``workdir``, ``fresh``, ``wait``, ``max_memory``,
        ``retries``, ``ignore_label`` (a number): as in `labelsieve.find_label_issues`.

    Returns
    -------
    int
        Estimated number of label issues.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, and for a joint that is missing or would not be used.

    Examples
    --------
    >>> from labelsieve import count
    >>> labels = [0, 0, 1, 1, 1]
    >>> pred_probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]]
    >>> count.num_label_issues(labels, pred_probs)
    1
    """
    check_one_of("estimation_method", estimation_method, (*ESTIMATION_METHODS, _CUSTOM))
    if estimation_method == _CUSTOM:
        if confident_joint is None:
            raise InvalidInputError(f"estimation_method={_CUSTOM!r} needs a confident_joint")
        entries = entries_of("confident_joint", confident_joint)
        n_classes = int(open_pred_probs(pred_probs, check_dtype(options.get("dtype"))).shape[1])
        if entries.size != n_classes:
            raise InvalidInputError(f"confident_joint has {entries.size:,} classes, pred_probs {n_classes:,}")
        return off_diagonal_rows(
            calibrated_joint(entries.counts(), count_labels(labels, n_classes, options.get("ignore_label", NOTHING)))
        )
    if confident_joint is not None:
        raise InvalidInputError(
            f"confident_joint is used by estimation_method={_CUSTOM!r} only; {estimation_method!r} counts its own joint"
        )
    counts = _count_joint(labels, pred_probs, estimation_method, **options)
    return estimated_issues(counts, calibrated=estimation_method == "off_diagonal_calibrated")


@explain_keywords(FOR_COUNTING, RunOptions.__annotations__)
def compute_confident_joint(
    labels: Any, pred_probs: Any, *, calibrate: bool = True, dense: bool = False, **options: Unpack[RunOptions]
) -> Any:
    """Count rows by their given label and the class that they confidently belong to.

    A row reaches a class if its probability is at least the mean probability of that class over the rows labelled with
    it, less 1e-6. It counts as the class that it reaches, or as the predicted class if it reaches several. A row that
    reaches no class does not count. The diagonal is at least 1.

    Parameters
    ----------
    labels : (N,) array-like of int
        Given labels; anything that `labelsieve.find_label_issues` takes.
    pred_probs : (N, K) array-like of float
        Out-of-sample probabilities, of the same kinds; read twice.
    calibrate : bool
        Whether to scale the counts of each label to all of its rows, and round them.
    dense : bool
        Whether to return a full matrix: 8 K**2 bytes.
    **options
        As in `num_label_issues`.

    Returns
    -------
    (K, K) scipy.sparse.csr_array or array of int64
        Counts by given label (rows) and true class (columns).

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data.
    MissingDependencyError
        Without SciPy, unless `dense`.

    Examples
    --------
    >>> from labelsieve import count
    >>> labels = [0, 0, 1, 1, 1]
    >>> pred_probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]]
    >>> count.compute_confident_joint(labels, pred_probs, dense=True)
    array([[2, 0],
           [1, 2]])
    >>> count.compute_confident_joint(labels, pred_probs, calibrate=False).nnz
    3
    """
    check_flag("calibrate", calibrate)
    check_flag("dense", dense)
    check_sparse(dense=dense)
    counts = _count_joint(labels, pred_probs, **options)
    joint = calibrated_joint(counts.joint, counts.class_counts) if calibrate else counts.joint
    return Entries.of(joint).matrix(dense=dense)


@explain_keywords(FOR_COUNTING, RunOptions.__annotations__)
def estimate_joint(
    labels: Any,
    pred_probs: Any = None,
    *,
    confident_joint: Any = None,
    dense: bool = False,
    **options: Unpack[RunOptions],
) -> Any:
    """Estimate the joint distribution of given labels and true classes.

    Parameters
    ----------
    labels : (N,) array-like of int or None
        Given labels. None if `confident_joint` is already calibrated.
    pred_probs : (N, K) array-like of float, optional
        Out-of-sample probabilities; not used with `confident_joint`.
    confident_joint : (K, K) array or sparse array, optional
        Counts by given label and true class; counted from `pred_probs` by default.
    dense : bool
        Whether to return a full matrix.
    **options
        As in `num_label_issues`.

    Returns
    -------
    (K, K) scipy.sparse.csr_array or array of float64
        Shares that add up to 1; each row adds up to the share of its label.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, without `pred_probs` or a `confident_joint`, and for a joint without counts.
    MissingDependencyError
        Without SciPy, unless `dense`.

    Examples
    --------
    >>> from labelsieve import count
    >>> count.estimate_joint([0, 0, 1, 1, 1], confident_joint=[[2, 0], [1, 2]], dense=True)
    array([[0.4, 0. ],
           [0.2, 0.4]])
    """
    check_flag("dense", dense)
    check_sparse(dense=dense)
    if confident_joint is not None:
        entries = entries_of("confident_joint", confident_joint)
        if labels is not None:
            class_counts = count_labels(labels, entries.size, options.get("ignore_label", NOTHING))
            entries = Entries.of(calibrated_joint(entries.counts(), class_counts))
    elif pred_probs is None or labels is None:
        raise InvalidInputError("give pred_probs and labels, or a confident_joint")
    else:
        counts = _count_joint(labels, pred_probs, **options)
        entries = Entries.of(calibrated_joint(counts.joint, counts.class_counts))
    total = float(entries.values.sum())
    return Entries(entries.size, entries.rows, entries.columns, entries.values / total).matrix(dense=dense)


@explain_keywords(FOR_COUNTING)
def estimate_latent(
    confident_joint: Any,
    labels: Any,
    *,
    py_method: PyMethod = "cnt",
    converge_latent_estimates: bool = False,
    dense: bool = False,
    ignore_label: IgnoreLabel = NOTHING,
) -> tuple[Float64s, Any, Any]:
    """Estimate the prior of the true classes, the noise matrix, and its inverse.

    Parameters
    ----------
    confident_joint : (K, K) array or sparse array
        Counts by given label and true class, as `compute_confident_joint` returns them.
    labels : (N,) array-like of int
        Given labels; only they are read.
    py_method : {"cnt", "eqn", "marginal", "marginal_ps"}
        How to estimate the prior; ``eqn`` inverts the noise matrix as a dense matrix of 8 K**2 bytes.
    converge_latent_estimates : bool
        Whether to make the three results consistent with each other.
    dense : bool
        Whether to return full matrices.
    ignore_label : int or None
        The label of rows that have none, which are not counted.

    Returns
    -------
    py : (K,) float64
        Estimated share of each true class.
    noise_matrix : (K, K) scipy.sparse.csr_array or array of float64
        ``P(given label | true class)``: a row per label, a column per class; columns add up to 1.
    inverse_noise_matrix : (K, K) scipy.sparse.csr_array or array of float64
        ``P(true class | given label)``: a row per class, a column per label; columns add up to 1.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, or if the matrix of ``eqn`` has no inverse.
    MissingDependencyError
        Without SciPy, unless `dense`.

    Examples
    --------
    >>> from labelsieve import count
    >>> py, noise, inverse = count.estimate_latent([[2, 0], [1, 2]], [0, 0, 1, 1, 1], dense=True)
    >>> py.round(2), noise.round(2).tolist(), inverse.round(2).tolist()
    (array([0.6, 0.4]), [[0.67, 0.0], [0.33, 1.0]], [[1.0, 0.33], [0.0, 0.67]])
    """
    check_flag("dense", dense)
    check_flag("converge_latent_estimates", converge_latent_estimates)
    check_one_of("py_method", py_method, PY_METHODS)
    check_sparse(dense=dense)
    entries = entries_of("confident_joint", confident_joint)
    class_counts = count_labels(labels, entries.size, ignore_label)
    estimate = noise_matrices.estimate_latent
    py, noise, inverse = estimate(entries, class_counts, py_method, converge=converge_latent_estimates)
    return py, noise.matrix(dense=dense), inverse.matrix(dense=dense)


def _count_joint(
    labels: Any,
    pred_probs: Any,
    estimation_method: EstimationMethod = "off_diagonal",
    **options: Unpack[RunOptions],
) -> JointCounts:
    settings = JobSettings(estimation_method=estimation_method, rule="confident_joint", **options)
    return Job(labels, pred_probs, settings).count()


def count_labels(labels: Any, n_classes: int, ignore_label: IgnoreLabel = NOTHING) -> Int64s:
    """Count the labels of each class, in pieces."""
    total, findings, first = np.zeros(n_classes, np.int64), Findings(), 0
    opened = retry(RETRIES + 1, open_labels, labels)
    ignored = ignored_value(opened, check_ignore_label(ignore_label))
    note_versions([opened], RETRIES + 1)
    for some in _pieces(opened):
        unlabelled = np.zeros(len(some), np.bool_) if ignored is None else is_ignored(some, ignored)
        beyond = (some < 0) | (some >= n_classes)
        outside = np.flatnonzero(beyond & ~unlabelled)
        if len(outside):
            findings.add("label", outside, first, example=int(some[outside[0]]))
        total += np.bincount(some[~(beyond | unlabelled)].astype(np.int64), minlength=n_classes)
        first += len(some)
    check_versions([opened], RETRIES + 1)
    if not first:
        raise InvalidInputError("labels has no rows")
    raise_or_warn(findings, n_classes)
    return total


def _pieces(opened: Opened) -> Iterator[npt.NDArray[Any]]:
    if isinstance(opened, Source):
        step = opened.facts.row_chunk or 1 << 20
        with opened.open(0, opened.n_rows) as rows:
            for start in range(0, opened.n_rows, step):
                yield retry(RETRIES + 1, rows.read, start, min(start + step, opened.n_rows))
    else:
        for block in opened.blocks:
            yield np.asarray(block)
