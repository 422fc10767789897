"""`cleanlab.segmentation.filter`: the mask of pixels whose labels are probably wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Bools
from labelsieve.errors import InvalidInputError
from labelsieve.options import check_whole_number
from labelsieve.segmentation.find import find_label_issues as find
from labelsieve.segmentation.issues import SegmentationIssues
from labelsieve.sources.open import open_any
from labelsieve.sources.source import Source


def find_label_issues(
    labels: Any,
    pred_probs: Any,
    *,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    verbose: bool = True,
    **kwargs: Any,
) -> Bools:
    """Return the mask of pixels whose labels are probably wrong.

    `labelsieve.segmentation.find_label_issues` takes images of different sizes, ignored labels, clusters, workdirs,
    memory limits and outputs, and gives masks image by image.

    Parameters
    ----------
    labels : (N, H, W) array-like of int, or path
        Class of each pixel, 0..K-1.
    pred_probs : (N, K, H, W) array-like of float, or path
        Out-of-sample probabilities.
    batch_size : int, optional
        Number of pixels that a thread holds in memory, at least 1; a good number by default. It does not change the
        result.
    n_jobs : int, optional
        Number of processes to fork, on Linux; by default, and for 1, the work runs on Dask's scheduler.
    verbose : bool
        Whether to show progress.
    **kwargs
        ``downsample``: only 1; issues are found among all pixels.

    Returns
    -------
    (N, H, W) bool
        The mask.

    Raises
    ------
    InvalidInputError
        A ValueError, for shapes that differ, another ``downsample`` than 1, and bad data.

    Notes
    -----
    A class that no pixel has is never confidently predicted (its threshold is 2.0); cleanlab takes a threshold near 0
    for it, and so counts more issues. Of pixels that tie at the cut, the first ones are issues.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.segmentation.filter import find_label_issues
    >>> labels = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 1]]])
    >>> p = np.where(labels == 1, 0.9, 0.2)
    >>> p[1, 0, 0] = 0.95
    >>> find_label_issues(labels, np.stack([1 - p, p], axis=1), verbose=False).nonzero()
    (array([1]), array([0]), array([0]))
    """
    found, labels, pred_probs = find_pixels(labels, pred_probs, batch_size, n_jobs, verbose=verbose)
    return mask_of(found, labels, pred_probs, **kwargs)


def find_pixels(
    labels: Any, pred_probs: Any, batch_size: int | None, n_jobs: int | None, *, verbose: bool
) -> tuple[SegmentationIssues, Any, Any]:
    """Return the issues, and the opened masks and probabilities."""
    size = "auto" if batch_size is None else check_whole_number("batch_size", batch_size, 1)
    labels, pred_probs = _checked_images(labels, pred_probs)
    choices: dict[str, Any] = {"batch_size": size, "n_jobs": 1 if n_jobs is None else n_jobs}
    found = find(labels, pred_probs, progress=bool(verbose), allow_unnormalized_rows="warn", **choices)
    return found, labels, pred_probs


def mask_of(found: SegmentationIssues, labels: Any, pred_probs: Any, *, downsample: int = 1, **_: Any) -> Bools:
    """Return the mask of the issues, with the ties that cleanlab has."""
    if downsample != 1:
        raise InvalidInputError(
            f"downsample={downsample!r} is not supported: merge blocks of pixels before the call, and give the smaller "
            "labels and pred_probs"
        )
    mask: Bools = found.mask()
    _add_ties(mask, found, labels, pred_probs)
    return mask


def _add_ties(mask: Bools, found: SegmentationIssues, labels: Any, pred_probs: Any) -> None:
    """Add the chosen pixels whose label has the largest probability, or nearly so, but is not the predicted class.

    `labelsieve.find_label_issues` leaves them out.
    """
    rows = found.rows
    if rows.estimated_num_issues == rows.num_issues:
        return
    scores = np.asarray(rows.scores)
    cut = np.partition(scores, rows.estimated_num_issues - 1)[rows.estimated_num_issues - 1]
    chosen = scores < cut
    ties = np.flatnonzero(scores == cut)
    chosen[ties[: rows.estimated_num_issues - int(np.count_nonzero(chosen))]] = True
    left_out = chosen.reshape(mask.shape) & ~mask
    for image in np.flatnonzero(left_out.any(axis=(1, 2))).tolist():
        mask[image] |= _is_not_predicted(labels, pred_probs, image, left_out[image])


def _is_not_predicted(labels: Any, pred_probs: Any, image: int, mask: Bools) -> Bools:
    """Return which of the masked pixels of an image have another label than the predicted class."""
    y, x = np.nonzero(mask)
    found = np.zeros(mask.shape, np.bool_)
    predicted = _image(pred_probs, image)[:, y, x].argmax(axis=0)
    found[y, x] = predicted != _image(labels, image)[y, x]
    return found


def _image(images: Any, image: int) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.asarray(images[image : image + 1])[0]
    return found


def _checked_images(labels: Any, pred_probs: Any) -> tuple[Any, Any]:
    """Return opened masks and probabilities, or raise unless they are of the same images.

    Raises
    ------
    InvalidInputError
        For other numbers of axes, and for sizes that differ.
    """
    labels, pred_probs = (_opened(*one) for one in (("labels", labels), ("pred_probs", pred_probs)))
    if labels.ndim != 3:
        raise InvalidInputError(f"labels must have a shape of (N, H, W), not {tuple(labels.shape)}")
    if pred_probs.ndim != 4:
        raise InvalidInputError(f"pred_probs must have a shape of (N, K, H, W), not {tuple(pred_probs.shape)}")
    if labels.dtype.kind == "f" and isinstance(labels, np.ndarray) and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)  # cleanlab takes whole numbers of any dtype
    return labels, pred_probs


def _opened(name: str, data: Any) -> Any:
    if isinstance(data, np.ndarray):
        return data
    try:
        opened = open_any(name, np.asarray(data) if isinstance(data, list | tuple) else data)
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"{name} must be an array of images of one size; labelsieve.segmentation takes lists of others"
        ) from error
    return opened if isinstance(opened, Source) or hasattr(opened, "dask") else np.asarray(opened)
