"""Label quality scores of images and of their pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InvalidInputError
from labelsieve.options import check_one_of, check_positive
from labelsieve.segmentation.find import find_label_issues
from labelsieve.segmentation.issues import TEMPERATURE, SegmentationIssues


def get_label_quality_scores(
    labels: Any,
    pred_probs: Any,
    *,
    method: Literal["softmin", "num_pixel_issues"] = "softmin",
    temperature: float = TEMPERATURE,
    **settings: Any,
) -> tuple[Float64s, Any]:
    """Score images and pixels, from 0 (probably labelled wrongly) to 1.

    Parameters
    ----------
    labels, pred_probs
        As in `labelsieve.segmentation.find_label_issues`.
    method : {"softmin", "num_pixel_issues"}
        ``"softmin"``: the soft minimum of the scores of the pixels. ``"num_pixel_issues"``: the share of labelled
        pixels that are no label issues.
    temperature : float
        Of ``"softmin"``: the lower, the closer to the lowest score of a pixel.
    **settings
        As in `labelsieve.segmentation.find_label_issues`.

    Returns
    -------
    image_scores : (N,) float64
        NaN for an image without a labelled pixel.
    pixel_scores : (N, H, W) float or list of (H, W) float
        Probability of the label of each pixel; a list if images differ in size. `SegmentationIssues.pixel_scores` of
        `labelsieve.segmentation.find_label_issues` gives those of one image at a time.

    Raises
    ------
    InvalidInputError, InputTypeError, UnreadableDataError, MemoryLimitError, TaskFailedError
        As `labelsieve.segmentation.find_label_issues`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve import segmentation
    >>> labels = np.array([[[0, 1]], [[0, 0]]])
    >>> pred_probs = np.array([[[[0.9, 0.2]], [[0.1, 0.8]]], [[[0.9, 0.3]], [[0.1, 0.7]]]])
    >>> image_scores, pixel_scores = segmentation.rank.get_label_quality_scores(labels, pred_probs, progress=False)
    >>> image_scores.round(3), pixel_scores.tolist()
    (array([0.827, 0.301]), [[[0.9, 0.8]], [[0.9, 0.3]]])
    """
    check_one_of("method", method, ("softmin", "num_pixel_issues"))
    if method == "softmin":
        temperature = check_positive("temperature", temperature)
        found = find_label_issues(labels, pred_probs, **settings)
        return found.image_scores(temperature), found.pixel_scores()
    found = find_label_issues(labels, pred_probs, **settings)
    return share_of_good_pixels(found), found.pixel_scores()


def share_of_good_pixels(found: SegmentationIssues) -> Float64s:
    """Return the ``(n_images,)`` shares of labelled pixels that are no label issues; NaN if none is labelled."""
    labelled = np.diff(found.layout.edges(0, found.n_images))
    if found.n_ignored:
        for first, edges, scores in found.score_blocks():
            images = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
            labelled[first : first + len(edges) - 1] = np.bincount(images[~np.isnan(scores)], minlength=len(edges) - 1)
    with np.errstate(invalid="ignore"):  # 0 of 0
        return 1 - found.issues_per_group() / labelled


def issues_from_scores(image_scores: Any, pixel_scores: Any = None, threshold: float = 0.1) -> Any:
    """Return the pixels, or the images, whose scores are low.

    Parameters
    ----------
    image_scores : (N,) array-like of float
        Scores of the images.
    pixel_scores : (N, H, W) array-like of float, or list of (H, W) arrays, optional
        Scores of their pixels.
    threshold : float
        Score below which a pixel is an issue, 0 to 1. `labelsieve.segmentation.find_label_issues` estimates how many
        labels are wrong; this does not.

    Returns
    -------
    (N, H, W) bool, list of (H, W) bool, or (M,) int64
        The mask of the pixels below `threshold`. Without `pixel_scores` the numbers of images, worst first: those with
        scores below `threshold` and, as in cleanlab, the next one.

    Raises
    ------
    InvalidInputError
        Without `image_scores`, for scores of another shape, and for a `threshold` that is not from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.segmentation import rank
    >>> rank.issues_from_scores([0.8, 0.3], [[[0.9, 0.8]], [[0.9, 0.3]]], threshold=0.5).tolist()
    [[[False, False]], [[False, True]]]
    >>> rank.issues_from_scores([0.8, 0.3, 0.9], threshold=0.5)
    array([1, 0])
    """
    if image_scores is None:
        raise InvalidInputError("image_scores is missing")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise InvalidInputError(f"threshold must be a number from 0 to 1, not {threshold!r}")
    if pixel_scores is not None:
        if isinstance(pixel_scores, list) and len({np.shape(one) for one in pixel_scores}) > 1:
            return [np.asarray(one) < threshold for one in pixel_scores]
        below: npt.NDArray[np.bool_] = np.asarray(pixel_scores) < threshold
        return below
    scores = np.asarray(image_scores)
    if scores.ndim != 1 or (scores.dtype.kind not in "fiu" and scores.size):
        raise InvalidInputError(
            f"image_scores must be (N,) numbers, not of shape {scores.shape} and dtype {scores.dtype}; scores of "
            "pixels are the second argument"
        )
    order = np.argsort(scores, kind="stable")
    n_below = int(np.searchsorted(scores[order], threshold))
    return order[: n_below + 1]
