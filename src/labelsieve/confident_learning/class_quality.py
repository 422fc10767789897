"""How good the labels of each class are, and which classes are confused: tables as columns. NumPy only.

Formulas are those of ``cleanlab.dataset`` (2.9) over the calibrated joint, taken over the counts of the run's rule:
handed the matrix C of `confident.ConfidentCounts`, ``rank_classes_by_label_quality(labels=labels, confident_joint=C)``
and ``find_overlapping_classes`` give the same numbers; of more than 1,024 classes but where remainders tie as the joint
is rounded.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.calibration import calibrated_pairs, joint_sums
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Float64s, Int64s

# A class with fewer rows than this has no threshold to speak of.
RARE_ROWS: Final = 10
FLAGS: Final = ("", "absent", "rare", "tiny threshold")

Columns = dict[str, npt.NDArray[Any]]


def class_flags(class_counts: Int64s, thresholds: Float64s) -> npt.NDArray[np.str_]:
    """Return a word for each class whose numbers mean little, "" for the others.

    ``absent``: no row has this label. ``rare``: fewer than 10 have. ``tiny threshold``: its rows get less than 1/K on
    average, so that nearly any row predicted as it counts as confident.

    Parameters
    ----------
    class_counts : (K,) int64
        Rows with each label.
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
    """Return what is known of each class, in class order.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by given label and predicted class.
    class_counts, thresholds, mean_scores : (K,)
        Rows with each label, its confident threshold, and the mean score of these rows.
    issues_of_class : (K,) int64
        Label issues with each label.

    Returns
    -------
    dict of (K,) array
        ``class``, ``rows``, ``issues``, ``share`` (issues over rows), ``label_noise`` (of the rows with this label
        those that truly are of another class, as estimated), ``inverse_label_noise`` (of the rows truly of this class
        those with another label), ``mean_score``, ``threshold``, ``flag``. NaN where there is no row to divide by.
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
    """Return the pairs of classes that are confused, the most frequent first.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by given label and predicted class.
    class_counts : (K,) int64
        Rows with each label.
    top : int, optional
        How many pairs; all that occur by default.

    Returns
    -------
    dict of (P,) array
        ``given_label``, ``suggested_label``, ``confident_rows`` (rows with that label that are confidently predicted as
        that class), ``estimated_rows`` (scaled to all rows of the label and rounded, so that labels add up), ``share``
        (of the rows with the given label). By estimated rows, then confident ones, then classes.
    """
    best: list[npt.NDArray[Any]] = []  # of the pieces so far: pairs, confident rows, estimated rows
    for piece, estimated, _ in calibrated_pairs(confident, class_counts):
        found = [piece.pairs.astype(np.int64), piece.counts.astype(np.int64), estimated]
        best = [np.concatenate(columns) for columns in zip(best, found, strict=True)] if best else found
        if top is not None and len(best[0]) > 2 * top:
            order = np.lexsort((best[0], -best[1], -best[2]))[:top]
            best = [column[order] for column in best]
    order = np.lexsort((best[0], -best[1], -best[2]))[:top]
    pairs, counts, estimated = (column[order] for column in best)
    given = pairs // confident.n_classes
    return {
        "given_label": given,
        "suggested_label": pairs % confident.n_classes,
        "confident_rows": counts,
        "estimated_rows": estimated,
        "share": _share(estimated, class_counts[given]),
    }


def _share(part: Int64s, whole: Int64s) -> Float64s:
    """Divide counts; NaN where there is nothing to divide by."""
    shares: Float64s = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares
