"""Summaries of label issues among pixels: which classes are confused, and pictures of the worst images."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Bools, Float64s, Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError
from labelsieve.options import check_whole_number
from labelsieve.results.result import frame_of
from labelsieve.segmentation.issues import SegmentationIssues
from labelsieve.sources.open import open_any
from labelsieve.sources.source import Source

if TYPE_CHECKING:
    import pandas as pd

# Pairs of classes that are listed, and images that are shown, by default.
_TOP: Final = 20
# Turns around the color wheel from one class to the next: no number of turns comes back to the same hue.
_TURN: Final = 0.6180339887498949
# Inches of a picture.
_SIDE: Final = 5


def common_label_issues(
    issues: Any,
    labels: Any = None,
    pred_probs: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    exclude: Sequence[int] | None = None,
    top: int | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Return how often each class is labelled as another in the pixels that are issues.

    Parameters
    ----------
    issues : (N, H, W) array-like of bool, list of (H, W) arrays, or SegmentationIssues
        The issues. `SegmentationIssues` know the labels and the predicted classes.
    labels : (N, H, W) array-like of int, or list of (H, W) arrays
        Class of each pixel; read image by image.
    pred_probs : (N, K, H, W) array-like of float, or list of (K, H, W) arrays
        Probabilities; read image by image.
    class_names : sequence of str, optional
        K names; the numbers by default.
    exclude : sequence of int, optional
        Predicted classes to leave out.
    top : int, optional
        Number of pairs of classes; 20 by default.
    verbose : bool
        Whether to print a line for each pair.

    Returns
    -------
    pandas.DataFrame
        ``given_label``, ``predicted_label`` and ``num_pixel_issues``, the most frequent pair first.

    Raises
    ------
    InvalidInputError
        For labels or probabilities of other shapes than `issues`.
    MissingDependencyError
        Without pandas.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.segmentation import summary
    >>> labels = np.array([[[0, 1]], [[0, 0]]])
    >>> pred_probs = np.array([[[[0.9, 0.2]], [[0.1, 0.8]]], [[[0.9, 0.3]], [[0.1, 0.7]]]])
    >>> frame = summary.common_label_issues([[[False, False]], [[False, True]]], labels, pred_probs, verbose=False)
    >>> frame.values.tolist()
    [['0', '1', 1]]
    """
    if isinstance(issues, SegmentationIssues):
        counts = _counts_of_result(issues)
        class_names = issues.class_names if class_names is None else class_names
    else:
        counts = _counts_of_masks(issues, labels, pred_probs)
    names = [str(k) for k in range(len(counts))] if class_names is None else [str(name) for name in class_names]
    counts[:, [k for k in exclude or () if 0 <= k < len(counts)]] = 0
    pairs = [divmod(int(pair), len(counts)) for pair in np.argsort(-counts, axis=None, kind="stable")]
    shown = [pair for pair in pairs if counts[pair] and max(pair) < len(names)]
    shown = shown[: check_whole_number("top", _TOP if top is None else top, 0)]
    frame = frame_of(
        {
            "given_label": np.array([names[given] for given, _ in shown], object),
            "predicted_label": np.array([names[predicted] for _, predicted in shown], object),
            "num_pixel_issues": np.array([counts[pair] for pair in shown], np.int64),
        }
    )
    if verbose:
        for given, predicted, n in frame.itertuples(index=False):
            print(f"{n:,} pixels labelled {given!r} look like {predicted!r}")
    return frame


def _counts_of_result(found: SegmentationIssues) -> Int64s:
    """Return the ``(K, K)`` number of issues of each given label and predicted class."""
    k = found.n_classes
    counts = np.zeros(k * k, np.int64)
    columns = found.rows.found.column("given_label"), found.rows.found.column("suggested_label")
    for given, suggested in zip(*columns, strict=True):
        counts += np.bincount(given.astype(np.int64) * k + suggested, minlength=k * k)
    return counts.reshape(k, k)


def _counts_of_masks(issues: Any, labels: Any, pred_probs: Any) -> Int64s:
    """Return the ``(K, K)`` number of masked pixels of each label and predicted class."""
    masks, images, planes = _Images("issues", issues), _Images("labels", labels), _Images("pred_probs", pred_probs)
    if planes.ndim != 4:
        raise InvalidInputError(f"pred_probs must have shape (N, K, H, W), not {planes.shape}")
    _check_shapes(masks, images, planes)
    k = planes.shape[1]
    counts = np.zeros(k * k, np.int64)
    for image, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        if len(y):
            given, predicted = images[image][y, x].astype(np.int64), planes[image][:, y, x].argmax(axis=0)
            known = (given >= 0) & (given < k)
            counts += np.bincount(given[known] * k + predicted[known], minlength=k * k)
    return counts.reshape(k, k)


def filter_by_class(class_index: Any, issues: Any, labels: Any, pred_probs: Any) -> Any:
    """Return the issues whose label or predicted class is one of some classes.

    Parameters
    ----------
    class_index : int or sequence of int
        The classes.
    issues, labels, pred_probs
        As in `common_label_issues`.

    Returns
    -------
    (N, H, W) bool, or list of (H, W) bool
        The mask.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.segmentation import summary
    >>> labels = np.array([[[0, 1, 2]]])
    >>> pred_probs = np.array([[[[0.1, 0.8, 0.1]], [[0.8, 0.1, 0.1]], [[0.1, 0.1, 0.8]]]])
    >>> summary.filter_by_class(1, np.array([[[True, True, False]]]), labels, pred_probs)
    array([[[ True,  True, False]]])
    """
    masks, images, planes = _Images("issues", issues), _Images("labels", labels), _Images("pred_probs", pred_probs)
    _check_shapes(masks, images, planes)
    found = list[Bools]()
    for image, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        kept = np.zeros(mask.shape, np.bool_)
        if len(y):
            predicted = planes[image][:, y, x].argmax(axis=0)
            kept[y, x] = np.isin(images[image][y, x], class_index) | np.isin(predicted, class_index)
        found.append(kept)
    return found if len({one.shape for one in found}) > 1 else np.array(found)


def display_issues(
    issues: Any,
    *,
    labels: Any = None,
    pred_probs: Any = None,
    class_names: Sequence[str] | None = None,
    exclude: Sequence[int] | None = None,
    top: int | None = None,
    **kwargs: Any,
) -> None:
    """Show the images with the most issues: their labels, their predicted classes, and the issues in red.

    Parameters
    ----------
    issues : (N, H, W) array-like of bool, list of (H, W) arrays, or SegmentationIssues
        The issues.
    labels : (N, H, W) array-like of int, or list of (H, W) arrays, optional
        Class of each pixel, to show them.
    pred_probs : (N, K, H, W) array-like of float, or list of (K, H, W) arrays, optional
        Probabilities, to show the predicted classes.
    class_names : sequence of str, optional
        K names, for a legend.
    exclude : sequence of int, optional
        Labels whose issues are not shown; needs `labels`.
    top : int, optional
        Number of images; 20 by default.
    **kwargs
        For ``matplotlib.pyplot.show``.

    Raises
    ------
    InvalidInputError
        For `exclude` without `labels`.
    MissingDependencyError
        Without matplotlib.
    """
    if exclude and labels is None:
        raise InvalidInputError("exclude is about labels: give labels too")
    try:
        from matplotlib import patches
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("Pictures of issues", "report") from error
    masks = _Images("issues", issues)
    images = None if labels is None else _Images("labels", labels)
    planes = None if pred_probs is None else _Images("pred_probs", pred_probs)
    n_classes = 0 if planes is None else planes.shape[1]
    if planes is None and images is not None:
        n_classes = 1 + max(int(images[i].max()) for i in range(len(images)))
    colors = _generate_colormap(n_classes)
    if class_names is not None and n_classes:
        handles = [patches.Patch(color=color, label=name) for color, name in zip(colors, class_names, strict=False)]
        plt.figure().legend(handles=handles, loc="center", ncol=min(6, len(handles)))
        plt.show(**kwargs)
    counts = np.array([np.count_nonzero(mask) for mask in masks])
    worst = np.argsort(-counts, kind="stable")[: check_whole_number("top", _TOP if top is None else top, 0)]
    for image in worst.tolist():
        mask = masks[image].astype(np.bool_)
        panels: list[tuple[str, npt.NDArray[Any]]] = []
        if images is not None:
            panels.append(("Given labels", colors[images[image]]))
            mask = mask & ~np.isin(images[image], exclude or [])
        if planes is not None:
            panels.append(("Predicted classes", colors[planes[image].argmax(axis=0)]))
        red = np.zeros((*mask.shape, 4))
        red[mask] = 1, 0, 0, 1
        panels.append((f"Image {image}: issues in red", red))
        _, axes = plt.subplots(1, len(panels), figsize=(_SIDE * len(panels), _SIDE))
        for (title, picture), ax in zip(panels, axes if isinstance(axes, np.ndarray) else [axes], strict=False):
            ax.imshow(picture)
            ax.set_title(title)
        plt.show(**kwargs)


def _generate_colormap(num_colors: int) -> Float64s:
    """Return ``(num_colors, 4)`` colors, all different, with neighbours that are easy to tell apart."""
    colors = np.ones((max(0, num_colors), 4))
    for number in range(len(colors)):
        # Hues go around the wheel; from one class to the next also between strong and pale, light and dark.
        colors[number, :3] = colorsys.hsv_to_rgb(
            number * _TURN % 1, (1, 0.6, 0.8)[number % 3], (0.9, 1, 0.7)[number % 3]
        )
    return colors


class _Images:
    """Images of an array or a list, taken one at a time.

    Parameters
    ----------
    name : str
        For messages.
    data : object
        An array, a path, a list of arrays, or `SegmentationIssues` for their masks.
    """

    def __init__(self, name: str, data: Any) -> None:
        if data is None:
            raise InputTypeError(f"{name} is missing")
        self._data: Any = data
        if isinstance(data, SegmentationIssues):
            self.shape: tuple[int, ...] = (data.n_images, *data.shape(0))
        elif isinstance(data, list | tuple) and not _is_ragged(data):
            self._data = np.asarray(data)
        elif not isinstance(data, list | tuple):
            self._data = data if isinstance(data, np.ndarray) else open_any(name, data)
        if not isinstance(data, SegmentationIssues):
            ragged = isinstance(self._data, list | tuple)
            self.shape = (len(data), *np.shape(data[0])) if ragged else tuple(self._data.shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, image: int) -> npt.NDArray[Any]:
        if isinstance(self._data, SegmentationIssues):
            mask: Bools = self._data.mask(image)
            return mask
        if isinstance(self._data, Source):
            found: npt.NDArray[Any] = self._data[image : image + 1][0]
            return found
        return np.asarray(self._data[image])

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for image in range(len(self)):
            yield self[image]


def _is_ragged(data: Sequence[Any]) -> bool:
    return len({np.shape(one) for one in data}) > 1


def _check_shapes(masks: _Images, images: _Images, planes: _Images) -> None:
    """Raise unless masks, labels and probabilities are of the same images, by their number and the first."""
    shapes = [(one.shape[0], *one.shape[-2:]) for one in (masks, images, planes)]
    if len(set(shapes)) > 1:
        raise InvalidInputError(
            f"issues, labels and pred_probs must be of the same images, not of shapes {masks.shape}, {images.shape} "
            f"and {planes.shape}"
        )
