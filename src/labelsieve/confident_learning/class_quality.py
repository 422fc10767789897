"""Tables of the label quality of each class, and of the pairs of classes that are confused.

The formulas are those of ``cleanlab.dataset`` (2.9), applied to the calibrated joint of the counts by the run's rule.
With the matrix C of `ConfidentCounts`, ``rank_classes_by_label_quality(labels=labels, confident_joint=C)`` and
``find_overlapping_classes`` return the same numbers; with more than 1,024 classes, except where remainders tie as the
joint is rounded.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.calibration import calibrated_pairs, joint_sums
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Float64s, Int64s

# The threshold of a class with fewer rows than this means little.
RARE_ROWS: Final = 10
FLAGS: Final = ("", "absent", "rare", "tiny threshold")

Columns = dict[str, npt.NDArray[Any]]


def class_flags(class_counts: Int64s, thresholds: Float64s) -> npt.NDArray[np.str_]:
    """Return a warning word for each class whose numbers mean little, "" for the others.

    ``absent``: no row has this label. ``rare``: fewer than 10 rows have it. ``tiny threshold``: the model gives these
    rows less than 1/K on average, so that nearly every row predicted as this class counts as confident.

    Parameters
    ----------
    class_counts : (K,) int64
        Number of rows with each label.
    thresholds : (K,) float64
        Confident thresholds.
    """
    which = np.select(
        [class_counts == 0, class_counts < RARE_ROWS, thresholds < 1 / len(thresholds)], [1, 2, 3], default=0
    )
    flags: npt.NDArray[np.str_] = np.array(FLAGS)[which]
    return flags


def class_columns(
    confident: ConfidentCounts,
    class_counts: Int64s,
    thresholds: Float64s,
    mean_scores: Float64s,
    issues_of_class: Int64s,
) -> Columns:
    """Return the columns of the table of classes, in class order.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by label and class.
    class_counts, thresholds, mean_scores : (K,)
        Number of rows with each label, its confident threshold, and the mean score of these rows.
    issues_of_class : (K,) int64
        Number of label issues with each label.

    Returns
    -------
    dict of (K,) array
        ``class``, ``rows``, ``issues``, ``share`` (issues per row), ``label_noise`` (estimated share of the rows with
        this label that truly are of another class), ``inverse_label_noise`` (estimated share of the rows truly of this
        class that have another label), ``mean_score``, ``threshold``, ``flag``. Shares of no rows are NaN.
    """
    joint = joint_sums(confident, class_counts)
    return {
        "class": np.arange(len(class_counts)),
        "rows": class_counts,
        "issues": issues_of_class,
        "share": _share(issues_of_class, class_counts),
        "label_noise": _share(joint.by_label - joint.diagonal, joint.by_label),
        "inverse_label_noise": _share(joint.by_true_class - joint.diagonal, joint.by_true_class),
        "mean_score": mean_scores,
        "threshold": thresholds,
        "flag": class_flags(class_counts, thresholds),
    }


def pair_columns(confident: ConfidentCounts, class_counts: Int64s, top: int | None = None) -> Columns:
    """Return the columns of the table of confused pairs of classes, most frequent first.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by label and class.
    class_counts : (K,) int64
        Number of rows with each label.
    top : int, optional
        Number of pairs; all that occur by default.

    Returns
    -------
    dict of (P,) array
        ``given_label``, ``suggested_label``, ``confident_rows`` (rows with this label that are confidently predicted as
        this class), ``estimated_rows`` (scaled to all rows of the label and rounded), ``share`` (of the rows with the
        given label). Sorted by estimated rows, confident rows, label and class.
    """
    best: list[npt.NDArray[Any]] = []  # pairs, confident rows and estimated rows of the pieces so far
    for piece, estimated, _ in calibrated_pairs(confident, class_counts):
        found = [piece.pairs.astype(np.int64), piece.counts.astype(np.int64), estimated]
        best = [np.concatenate(columns) for columns in zip(best, found, strict=True)] if best else found
        if top is not None and len(best[0]) > 2 * top:
            order = np.lexsort((best[0], -best[1], -best[2]))[:top]
            best = [column[order] for column in best]
    order = np.lexsort((best[0], -best[1], -best[2]))[:top]
    pairs, counts, estimated = (column[order] for column in best)
    labels = pairs // confident.n_classes
    return {
        "given_label": labels,
        "suggested_label": pairs % confident.n_classes,
        "confident_rows": counts,
        "estimated_rows": estimated,
        "share": _share(estimated, class_counts[labels]),
    }


def _share(part: Int64s, whole: Int64s) -> Float64s:
    """Divide counts; the result is NaN where the divisor is 0."""
    shares: Float64s = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares
