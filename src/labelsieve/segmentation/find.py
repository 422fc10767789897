"""Find label issues among the pixels of images.

## Inputs

Masks are ``(N, H, W)`` integers and probabilities ``(N, K, H, W)`` floats, both in any form that
`labelsieve.find_label_issues` takes: arrays, memmaps, ``.npy`` files, Zarr, HDF5, Dask, URLs. Images of different
sizes are a list of arrays, ``(H, W)`` and ``(K, H, W)``, or a folder, a pattern or a list of files with one image
each. Masks may be PNG files (``"masks/*.png"``, extra ``images``), whose values, or palette indexes, are the numbers
of the classes.

Nothing is copied as a whole. Pieces of planes are read from ``.npy`` files and memory; of other stores the images of
one chunk are held by each thread. The best chunks hold one or some whole images, a few megabytes each.

Pixels without a label (often 255) are left out by ``ignore_label=255``.

## What is found

A pixel is a row of `labelsieve.find_label_issues`, and what that page says of rows holds for pixels, to the bit: the
issues are those of the flat arrays ``labels.reshape(-1)`` and ``np.moveaxis(pred_probs, 1, -1).reshape(-1, K)``,
however the images are stored or read. A message about bad values names image, ``y`` and ``x``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.find import Task
from labelsieve.job.job import Job
from labelsieve.job.plan import Plan
from labelsieve.options import FOR_FINDING, JobSettings
from labelsieve.results.units import EqualImages, Layout, PixelLayout
from labelsieve.segmentation.issues import SegmentationIssues
from labelsieve.segmentation.rows import OpenedImages, check_images, open_masks, open_planes
from labelsieve.sources.objects import retry

__all__ = ["find_label_issues", "plan_label_issues"]


def _open(labels: Any, pred_probs: Any, settings: JobSettings) -> Job:
    """Return the job for pixels as rows."""
    attempts = settings.retries + 1
    masks, planes = retry(attempts, open_masks, labels), retry(attempts, open_planes, pred_probs)
    check_images(masks, planes)
    return Job(masks.rows, planes.rows, settings, layout=_layout(planes))


def _layout(images: OpenedImages) -> Layout:
    sizes: npt.NDArray[np.int64] = images.sizes
    if (sizes == sizes[0]).all():
        height, width = sizes[0].tolist()
        return EqualImages(len(sizes), height, width)
    return PixelLayout(sizes)


TASK: Final = Task(
    "segmentation",
    "a pixel of a mask",
    _open,
    SegmentationIssues,
    without={
        "data": "give labels and pred_probs as arrays or files",
        "summaries": "give labels and pred_probs as arrays or files",
        "n_classes": "pred_probs has a plane for each class",
        "confident_joint": FOR_FINDING["confident_joint"],
        "return_mask": "the result has .mask(), and .mask(i) of image i",
        "downsample": "merge blocks of pixels before the call, and give the smaller labels and pred_probs",
    },
)


@TASK.finds
def find_label_issues(labels: Any, pred_probs: Any, **settings: Any) -> SegmentationIssues:
    """Find the pixels whose labels are probably wrong, out of core.

    Parameters
    ----------
    labels : (N, H, W) array-like of int, list of (H, W) arrays, path, pattern or list of paths
        Class of each pixel, 0..K-1.
    pred_probs : (N, K, H, W) array-like of float, list of (K, H, W) arrays, path, pattern or list of paths
        Out-of-sample probability of each class in each pixel, or an `Ensemble` of these.
    **settings
        The settings of `labelsieve.find_label_issues`: ``ignore_label``, ``filter_by``, ``method``, ``from_logits``,
        ``dtype``, ``max_memory``, ``workdir``, ``output``, ``client``, ``n_jobs``, ``progress`` and so on; not
        ``data``, ``summaries`` and ``n_classes``, which are about tables. ``ids`` are names of the N images; tables and
        files of pixels have them.

    Returns
    -------
    SegmentationIssues
        Masks, scores, worst images, and connected wrong pixels. With ``output``, the Zarr group also has the mask as
        an array ``pixel_mask`` of shape ``(N, H, W)``, if all images have one size.

    Raises
    ------
    InvalidInputError
        As `labelsieve.find_label_issues`, naming image, y and x; and for masks of another size than the predictions.
    InputTypeError, UnreadableDataError, MemoryLimitError, WorkdirError, TaskFailedError
        As `labelsieve.find_label_issues`.
    MissingDependencyError
        For masks in image files without Pillow.

    Examples
    --------
    Two images of 2 x 2 pixels. One pixel is labelled 0 but predicted as 1:

    >>> import numpy as np
    >>> from labelsieve import segmentation
    >>> labels = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 1]]])
    >>> p = np.where(labels == 1, 0.9, 0.2)
    >>> p[1, 0, 0] = 0.95
    >>> pred_probs = np.stack([1 - p, p], axis=1)
    >>> found = segmentation.find_label_issues(labels, pred_probs, progress=False)
    >>> found.mask().nonzero()
    (array([1]), array([0]), array([0]))
    >>> found.image_scores().round(3)
    array([0.827, 0.051])

    Images of different sizes, one in a file each, of which some pixels have no label:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for number, size in enumerate([(2, 3), (4, 4)]):
    ...     mask = np.zeros(size, np.uint8)
    ...     mask[0, 0], mask[1, 1] = 255, 1
    ...     np.save(f"{folder}/mask-{number}.npy", mask)
    ...     np.save(f"{folder}/probs-{number}.npy", np.stack([mask != 1, mask == 1]).astype(np.float32))
    >>> found = segmentation.find_label_issues(
    ...     f"{folder}/mask-*.npy", f"{folder}/probs-*.npy", ignore_label=255, progress=False
    ... )
    >>> found.num_issues, found.n_ignored, found.shape(1)
    (0, 2, (4, 4))
    """
    raise NotImplementedError  # the task runs


@TASK.plans(find_label_issues)
def plan_label_issues(*args: Any, **settings: Any) -> Plan:
    """Plan a run of `find_label_issues`: batches, partitions, bytes and memory. No data is read.

    Parameters
    ----------
    labels, pred_probs
        As in `find_label_issues`.
    **settings
        As in `labelsieve.plan_label_issues`.

    Returns
    -------
    Plan
        The plan; its rows are pixels.

    Raises
    ------
    MemoryLimitError
        If the run cannot fit in memory.
    InvalidInputError, InputTypeError, UnreadableDataError, WorkdirError
        For anything that `find_label_issues` would refuse before it reads data.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve import segmentation
    >>> plan = segmentation.plan_label_issues(np.zeros((10, 8, 8), int), np.full((10, 4, 8, 8), 0.25))
    >>> plan.n_rows, plan.n_partitions, plan.bytes_read
    (640, 1, 20480)
    """
    raise NotImplementedError  # the task plans
