"""`cleanlab.segmentation.rank`: label quality scores of images and pixels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.cleanlab.segmentation.filter import find_pixels, mask_of
from labelsieve.confident_learning.thresholds import Float64s, Floats
from labelsieve.errors import InvalidInputError
from labelsieve.segmentation.issues import TEMPERATURE, softmin
from labelsieve.segmentation.rank import issues_from_scores

__all__ = ["get_label_quality_scores", "issues_from_scores"]


def get_label_quality_scores(
    labels: Any,
    pred_probs: Any,
    *,
    method: str = "softmin",
    batch_size: int | None = None,
    n_jobs: int | None = None,
    verbose: bool = True,
    **kwargs: Any,
) -> tuple[Float64s, npt.NDArray[np.float64]]:
    """Return the scores of images and of their pixels, from 0 (probably labelled wrongly) to 1.

    Parameters
    ----------
    labels : (N, H, W) array-like of int, or path
        Class of each pixel, 0..K-1.
    pred_probs : (N, K, H, W) array-like of float, or path
        Out-of-sample probabilities.
    method : {"softmin", "num_pixel_issues"}
        ``"softmin"``: the soft minimum of the scores of the pixels. ``"num_pixel_issues"``: the share of pixels that
        are no label issues.
    batch_size, n_jobs, verbose
        As in `labelsieve.cleanlab.segmentation.filter.find_label_issues`.
    **kwargs
        ``temperature`` of softmin, 0.1 by default; ``downsample`` for ``"num_pixel_issues"``, only 1.

    Returns
    -------
    image_scores : (N,) float64
        Scores of the images.
    pixel_scores : (N, H, W) float64
        Probabilities of the labels.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data, another method, and a temperature of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.segmentation.rank import get_label_quality_scores
    >>> labels = np.array([[[0, 1]], [[0, 0]]])
    >>> pred_probs = np.array([[[[0.9, 0.2]], [[0.1, 0.8]]], [[[0.9, 0.3]], [[0.1, 0.7]]]])
    >>> image_scores, pixel_scores = get_label_quality_scores(labels, pred_probs, verbose=False)
    >>> image_scores.round(3)
    array([0.827, 0.301])
    """
    if method != "num_pixel_issues" and kwargs.get("downsample", 1) != 1:
        warnings.warn(f"downsample is not used with method={method!r}: it is for 'num_pixel_issues'", stacklevel=2)
    found, labels, pred_probs = find_pixels(labels, pred_probs, batch_size, n_jobs, verbose=verbose)
    pixel_scores = found.pixel_scores().astype(np.float64)
    if method == "num_pixel_issues":
        return 1 - mask_of(found, labels, pred_probs, **kwargs).mean(axis=(1, 2)), pixel_scores
    temperature = kwargs.get("temperature", TEMPERATURE)
    scores = [_get_label_quality_per_image(one.reshape(-1), method, temperature) for one in pixel_scores]
    return np.array(scores), pixel_scores


def _get_label_quality_per_image(
    pixel_scores: Floats | None, method: str | None = None, temperature: float | None = TEMPERATURE
) -> float:
    """Return the score of an image.

    Parameters
    ----------
    pixel_scores : (n,) float
        Scores of its pixels, at least one.
    method : {"softmin"}
        How the score is computed.
    temperature : float
        Of softmin; not 0.

    Raises
    ------
    InvalidInputError
        For anything else.
    """
    if pixel_scores is None or not np.size(pixel_scores):
        raise InvalidInputError("pixel_scores is missing or empty: an image has at least one pixel")
    if not temperature:
        raise InvalidInputError(f"temperature must be a number above 0, not {temperature!r}")
    if method != "softmin":
        raise InvalidInputError(f"method must be 'softmin' or 'num_pixel_issues', not {method!r}")
    return softmin(np.asarray(pixel_scores), temperature)
