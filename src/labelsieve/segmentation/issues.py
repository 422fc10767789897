"""The issues among pixels, by image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, optional
from labelsieve.options import FLOAT_TOLERANCE, check_positive, check_whole_number
from labelsieve.results.label_issues import GroupedIssues, LabelIssues, compare_with, lowest
from labelsieve.results.report import Pictures, check_report, encode_thumbnail, open_pictures, write_report
from labelsieve.results.result import IssueRows, frame_of
from labelsieve.results.units import EqualImages, PixelLayout
from labelsieve.storage.remote import check_place

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.thresholds import Bools, Float64s, Floats, Int64s

# Temperature of the scores of images, as cleanlab's.
TEMPERATURE: Final = 0.1
# Images in a report, and the bytes of the picture of each, which is larger than those of rows.
_SHOWN_IMAGES: Final = 20
_PICTURE_BYTES: Final = 100_000
_PICTURE_SIDE: Final = 384
# Of a marked pixel, the share of the color that marks it.
_MARK_SHARE: Final = 0.65
_MARK: Final = np.array([220, 30, 0], np.float64)
# Where there is no picture, the gray of the other pixels.
_GRAY: Final = 225
# Pixels whose mask is held at a time, unless an image has more.
_MASK_PIXELS: Final = 1 << 26
# Issues that are read at a time.
_ISSUE_ROWS: Final = 1 << 20


class SegmentationIssues(GroupedIssues):
    """Label issues among the pixels of images.

    Made by `labelsieve.segmentation.find_label_issues`. Masks and scores are made image by image; no method holds those
    of all images, except `mask` and `pixel_scores` without a number.

    Parameters
    ----------
    rows : LabelIssues
        The issues as rows, one pixel after the other.

    Attributes
    ----------
    rows : LabelIssues
        The issues as rows: ``rows.to_frame()`` has the columns ``image``, ``y`` and ``x``, worst pixel first.
    num_issues : int
        Number of pixels that are issues.
    n_images : int
        Number of images.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve import segmentation
    >>> labels = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 1]]])
    >>> p = np.where(labels == 1, 0.9, 0.2)
    >>> p[1, 0, 0] = 0.95
    >>> found = segmentation.find_label_issues(labels, np.stack([1 - p, p], axis=1), progress=False)
    >>> found
    <SegmentationIssues: 1 of 8 pixels (12.50%) in 1 of 2 images>
    >>> found.mask(1)
    array([[ True, False],
           [False, False]])
    """

    layout: EqualImages | PixelLayout

    def __init__(self, rows: LabelIssues) -> None:
        super().__init__(rows)
        self.n_images = self.layout.n_groups
        # The mask of some images, from the first one on.
        self._held: tuple[int, int, Bools] = (0, 0, np.empty(0, np.bool_))
        self._image_scores: dict[float, Float64s] = {}

    def shape(self, image: int) -> tuple[int, int]:
        """Return height and width of an image."""
        return self.layout.shape(self._checked_group(image))

    def __repr__(self) -> str:
        n_labelled, n_hit = self.rows.n_labelled, int(np.count_nonzero(self.issues_per_group()))
        return (
            f"<SegmentationIssues: {self.num_issues:,} of {n_labelled:,} pixels ({self.num_issues / n_labelled:.2%}) "
            f"in {n_hit:,} of {self.n_images:,} images>"
        )

    # Masks -----------------------------------------------------------------------------------------------------------

    def mask(self, image: int | None = None) -> Any:
        """Return which pixels are label issues.

        Parameters
        ----------
        image : int, optional
            Number of the image; all images by default.

        Returns
        -------
        (H, W) bool
            The mask of the image. Without `image`, an ``(N, H, W)`` array, or a list of arrays if images differ in
            size: a byte for each pixel.
        """
        if image is not None:
            image = self._checked_group(image)
            first, last, flat = self._held
            if not first <= image < last:
                first, last, flat = self._held = self._mask_from(image)
            start, stop = (self.layout.edges(image, image + 1) - self.layout.edges(first, first)[0]).tolist()
            return flat[start:stop].reshape(self.layout.shape(image)).copy()
        if self.layout.mask_shape is not None:
            return self._mask_of_rows(0, self.rows.n_rows).reshape(self.layout.mask_shape)
        return list(self.masks())

    def masks(self) -> Iterator[Bools]:
        """Yield the ``(H, W)`` mask of each image, in order."""
        for image in range(self.n_images):
            yield self.mask(image)

    def _mask_from(self, first: int) -> tuple[int, int, Bools]:
        """Return the numbers of the first image, and the one behind the last, of a flat mask of some images."""
        n, begin = 1, int(self.layout.edges(first, first)[0])
        while first + n < self.n_images and self.layout.edges(first, first + 2 * n)[-1] - begin <= _MASK_PIXELS:
            n *= 2
        last = min(first + n, self.n_images)
        return first, last, self._mask_of_rows(begin, int(self.layout.edges(first, last)[-1]))

    # Scores ----------------------------------------------------------------------------------------------------------

    def pixel_scores(self, image: int | None = None) -> Any:
        """Return the label quality scores of pixels; NaN for pixels without a label.

        Parameters
        ----------
        image : int, optional
            Number of the image; all images by default.

        Returns
        -------
        (H, W) float
            The scores of the image. Without `image`, an ``(N, H, W)`` array, or a list of arrays if images differ in
            size.
        """
        if image is not None:
            image = self._checked_group(image)
            return self._scores_of_rows(*self._rows_of(image)).reshape(self.layout.shape(image))
        if self.layout.mask_shape is not None:
            return self._scores_of_rows(0, self.rows.n_rows).reshape(self.layout.mask_shape)
        return [
            scores[edges[i] : edges[i + 1]].reshape(self.layout.shape(first + i)).copy()
            for first, edges, scores in self.score_blocks()
            for i in range(len(edges) - 1)
        ]

    def image_scores(self, temperature: float = TEMPERATURE) -> Float64s:
        """Return a score of each image, from 0 (bad labels) to 1: the soft minimum of the scores of its pixels.

        Parameters
        ----------
        temperature : float
            The lower, the closer to the lowest score of a pixel; the higher, the closer to the mean.

        Returns
        -------
        (n_images,) float64
            NaN for an image without a labelled pixel. Pixels are added up in order, in float64, so that the bits do not
            depend on how the images were read.
        """
        temperature = check_positive("temperature", temperature)
        if temperature not in self._image_scores:
            found = np.full(self.n_images, np.nan)
            for first, edges, scores in self.score_blocks():
                for i in range(len(edges) - 1):
                    found[first + i] = softmin(scores[edges[i] : edges[i + 1]], temperature)
            self._image_scores[temperature] = found
        return self._image_scores[temperature].copy()

    def worst_images(self, top: int = 20) -> Int64s:
        """Return the numbers of the `top` images of lowest score, worst first, ties by number."""
        return lowest(self.image_scores(), top)

    # Tables ----------------------------------------------------------------------------------------------------------

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """Return a table with a row for each image that has issues, the image of lowest score first.

        Parameters
        ----------
        top : int, optional
            Number of images; all by default.

        Returns
        -------
        pandas.DataFrame
            ``image``, ``issues`` (number of pixels), ``score`` (of the image), ``classes`` (the given labels of these
            pixels, the most frequent first: numbers, or names if they are known).

        Raises
        ------
        MissingDependencyError
            Without pandas.
        """
        return frame_of(self._image_columns(None if top is None else check_whole_number("top", top, 0)))

    def _image_columns(self, top: int | None) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of `to_frame`."""
        n_issues = self.issues_per_group()
        images, scores = np.flatnonzero(n_issues), self.image_scores()
        images = images[np.argsort(scores[images], kind="stable")][:top]
        classes, names = self._classes_of_images(), self.class_names
        columns: dict[str, Any] = {
            "image": images,
            "issues": n_issues[images],
            "score": scores[images],
            "classes": np.empty(len(images), object),
        }
        for i, image in enumerate(images.tolist()):
            columns["classes"][i] = [k if names is None else names[k] for k in classes[image]]
        return columns

    def _classes_of_images(self) -> dict[int, list[int]]:
        """Return the given labels of the issues of each image, the most frequent first."""
        total: dict[int, int] = {}
        for part in self._parts():
            keys, counts = np.unique(
                self.layout.groups_of(part.rows) * self.n_classes + part.given_labels, return_counts=True
            )
            for key, n in zip(keys.tolist(), counts.tolist(), strict=True):
                total[key] = total.get(key, 0) + n
        found: dict[int, list[int]] = {}
        for key in sorted(total, key=lambda key: (-total[key], key)):
            image, k = divmod(key, self.n_classes)
            found.setdefault(image, []).append(k)
        return found

    def _parts(self) -> Iterator[IssueRows]:
        """Yield all issues, some at a time."""
        for start in range(0, self.num_issues, _ISSUE_ROWS):
            yield self.rows.found.part(start, min(start + _ISSUE_ROWS, self.num_issues))

    def components(self, image: int) -> pd.DataFrame:
        """Return the connected groups of wrong pixels of an image, the largest first.

        Pixels are connected if they share an edge or a corner, and have the same given and the same suggested label.

        Parameters
        ----------
        image : int
            Number of the image.

        Returns
        -------
        pandas.DataFrame
            ``size`` (number of pixels), the box ``y_start``, ``y_stop``, ``x_start``, ``x_stop`` (the stops are behind
            the last pixel), ``given_label``, ``suggested_label``, ``score`` (the lowest of a pixel), and with class
            names ``given_name`` and ``suggested_name``.

        Raises
        ------
        MissingDependencyError
            Without scipy or pandas.

        Examples
        --------
        >>> import numpy as np
        >>> from labelsieve import segmentation
        >>> labels = np.zeros((1, 4, 6), int)
        >>> labels[0, :2] = 1
        >>> p = np.where(labels == 1, 0.9, 0.1)
        >>> p[0, 2:, 3:5] = 0.95  # labelled 0, and predicted as 1
        >>> found = segmentation.find_label_issues(labels, np.stack([1 - p, p], axis=1), progress=False)
        >>> found.components(0)[["size", "y_start", "y_stop", "x_start", "x_stop", "suggested_label"]].values.tolist()
        [[4, 2, 4, 3, 5, 1]]
        """
        ndimage = optional("scipy.ndimage", "Finding connected pixels", "images")
        issues, width = self._issues_of(self._checked_group(image)), self.shape(image)[1]
        start = int(self.layout.edges(image, image)[0])
        place = np.full(self.shape(image), -1, np.int64)
        place.reshape(-1)[issues.rows - start] = np.arange(len(issues.rows))
        pairs = issues.given_labels.astype(np.int64) * self.n_classes + issues.suggested_labels
        members: list[npt.NDArray[np.int64]] = []  # the issues of each component
        for pair in np.unique(pairs).tolist():
            mask = place >= 0
            mask[mask] = pairs[place[mask]] == pair
            numbers, n = ndimage.label(mask, np.ones((3, 3)))
            order = np.argsort(numbers[mask], kind="stable")
            cuts = np.searchsorted(numbers[mask][order], np.arange(2, n + 1))
            members += np.split(place[mask][order], cuts)
        members.sort(key=lambda some: (-len(some), int(issues.rows[some].min())))
        y, x = np.divmod(issues.rows - start, width)
        values = {
            "size": [len(some) for some in members],
            "y_start": [y[some].min() for some in members],
            "y_stop": [y[some].max() + 1 for some in members],
            "x_start": [x[some].min() for some in members],
            "x_stop": [x[some].max() + 1 for some in members],
            "given_label": [issues.given_labels[some[0]] for some in members],
            "suggested_label": [issues.suggested_labels[some[0]] for some in members],
            "score": [issues.scores[some].min() for some in members],
        }
        columns = {name: np.array(own, np.float64 if name == "score" else np.int64) for name, own in values.items()}
        return frame_of(self.rows.named(columns))

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 100,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        title: str | None = None,
        before: Any = None,
    ) -> None:
        """Write a report for a browser, with the worst images and their wrong pixels in red.

        Parameters
        ----------
        path : path
            Ends in ``.html``. The report is one file and loads nothing from elsewhere.
        top : int
            Number of pixels to list, from the worst; and most images to show, up to 20.
        images : (N, H, W) or (N, H, W, 3) array, path, pattern, or list of arrays or paths; optional
            Pictures, over which the wrong pixels are drawn; without them, these are drawn on gray. Only those shown are
            read. As in `labelsieve.LabelIssues.report`, also PNG and JPEG files.
        texts : sequence of str, or path, optional
            A text for each image.
        title : str, optional
            Name of the dataset, for the heading.
        before : SegmentationIssues or path, optional
            An earlier result of the same images: as in `labelsieve.LabelIssues.report`.

        Raises
        ------
        InvalidInputError
            For another ending, an earlier result of other images, and for pictures of other sizes than the masks.
        MissingDependencyError
            Without jinja2 or matplotlib.
        UnwritableError
            If the report cannot be written.
        """
        page, top = Path(check_place("path", path)), check_whole_number("top", top, 0)
        check_report(page)
        comparison = compare_with(before, self.rows)
        pictures = None if images is None else open_pictures(images, self.n_images)
        frame = self._image_columns(min(top, _SHOWN_IMAGES))
        groups = [
            {
                "image": image,
                "picture": encode_thumbnail(_marked(pictures, image, self.mask(image)), _PICTURE_BYTES, _PICTURE_SIDE),
                "issues": n_issues,
                "score": score,
                "classes": ", ".join(map(str, classes)),
            }
            for image, n_issues, score, classes in zip(*(column.tolist() for column in frame.values()), strict=True)
        ]
        write_report(self.rows, page, top=top, texts=texts, title=title, groups=groups, comparison=comparison)

    def _issues_of(self, image: int) -> IssueRows:
        """Return the issues of an image, by row."""
        start, stop = self._rows_of(image)
        if isinstance(self.rows.found, IssueRows):
            first, last = np.searchsorted(self.rows.indices, (start, stop), sorter=self._order).tolist()
            return self.rows.issues.take(self._order[first:last])
        empty = self.rows.found.part(0, 0)
        some = [part.take(np.flatnonzero((part.rows >= start) & (part.rows < stop))) for part in self._parts()]
        found = IssueRows.concatenate([empty, *some])
        return found.take(np.argsort(found.rows))

    @cached_property
    def _order(self) -> npt.NDArray[np.intp]:
        """Positions of the issues by row."""
        return np.argsort(self.rows.indices)


def softmin(scores: Floats, temperature: float) -> float:
    """Return the mean of scores, weighted by ``softmax((1 - scores) / temperature)``, as cleanlab does.

    Parameters
    ----------
    scores : (n,) float
        Scores; those that are NaN are left out.
    temperature : float
        Above 0.

    Returns
    -------
    float
        NaN if there are no scores.
    """
    values = scores.astype(np.float64)
    if np.isnan(values).any():
        values = values[~np.isnan(values)]
    if not len(values):
        return float("nan")
    weights = 1 - values
    weights /= max(temperature, FLOAT_TOLERANCE)
    weights -= weights.max()
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return float(np.einsum("i,i->", values, weights))


def _marked(pictures: Pictures | None, image: int, mask: Bools) -> npt.NDArray[np.uint8]:
    """Return the ``(H, W, 3)`` picture of an image with the pixels of the ``(H, W)`` `mask` marked in red."""
    picture = np.full((*mask.shape, 3), _GRAY, np.float64)
    if pictures is not None:
        given = np.asarray(pictures.image(image).convert("RGB"))
        if given.shape != picture.shape:
            raise InvalidInputError(
                f"the picture of image {image:,} has {given.shape[0]:,} x {given.shape[1]:,} pixels, its mask "
                f"{mask.shape[0]:,} x {mask.shape[1]:,}"
            )
        picture[:] = given
    picture[mask] = picture[mask] * (1 - _MARK_SHARE) + _MARK * _MARK_SHARE
    return picture.astype(np.uint8)
