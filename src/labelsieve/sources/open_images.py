"""Opening masks and the probabilities of their pixels: arrays of images of one size, lists and files of any sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Source
from labelsieve.sources.ensemble import Ensemble, check_members, member_name
from labelsieve.sources.folds import Folds
from labelsieve.sources.image_files import ImageFileSource, image_files
from labelsieve.sources.open_array import Opened, open_any
from labelsieve.sources.open_path import are_places, open_place, open_places
from labelsieve.sources.pixels import OneImage, PixelSource, pixels_of
from labelsieve.sources.shards import ShardsSource

if TYPE_CHECKING:
    import dask.array as da

# Axes of one image.
_AXES: Final = {"labels": "(H, W)", "pred_probs": "(K, H, W)"}
# Changes images as they are read: those of a source, and the blocks of a Dask array.


@dataclass(frozen=True)
class OpenedImages:
    """Opened images, as rows.

    Parameters
    ----------
    rows : Source, dask.array.Array or Ensemble
        The pixels as rows: labels ``(n,)`` or probabilities ``(n, K)``.
    sizes : (n_images, 2) int64
        Height and width of each image.
    classes : (n_images,) int64
        Number of planes of each image; 0 of masks.
    is_list : bool
        Whether the images were given one by one.
    """

    rows: Any
    sizes: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    is_list: bool = False

    def __len__(self) -> int:
        return len(self.sizes)


def open_masks(labels: Any) -> OpenedImages:
    """Open labels of pixels; nothing is read but headers.

    Parameters
    ----------
    labels : (N, H, W) array-like of int, list of (H, W) arrays, path, pattern or list of paths
        Class of each pixel. Files are arrays, or masks in image files (PNG).

    Raises
    ------
    InvalidInputError
        For anything but masks of integers.
    """
    files = image_files("labels", labels)
    if files is not None:
        return masks_of_files(files, str(labels if isinstance(labels, str | os.PathLike) else labels[0]))
    arrays, is_list = _opened_arrays("labels", labels)
    arrays = [_whole_numbers(array) for array in arrays]
    return _as_rows("labels", arrays, is_list=is_list)


def masks_of_files(files: Sequence[ImageFileSource], where: str) -> OpenedImages:
    """Return the masks of opened image files.

    Parameters
    ----------
    files : sequence of ImageFileSource
        A file for each image, in order.
    where : str
        Where they are, for messages.

    Raises
    ------
    InvalidInputError
        If their dtypes differ.
    """
    sizes = np.array([(file.height, file.width) for file in files], np.int64)
    rows = _joined("labels", files, where)
    return OpenedImages(rows, sizes, np.zeros(len(files), np.int64), is_list=True)


def open_planes(pred_probs: Any) -> OpenedImages:
    """Open probabilities of pixels; nothing is read but headers.

    Parameters
    ----------
    pred_probs : (N, K, H, W) array-like of float, list of (K, H, W) arrays, path, pattern or list of paths
        Probability of each class in each pixel, or an `Ensemble` of these.

    Raises
    ------
    InvalidInputError
        For anything but images of K planes.
    """
    if isinstance(pred_probs, Folds):
        raise InvalidInputError(
            "Folds are of rows, and pixels are too many to be listed: give the predictions of all images, in order"
        )
    if isinstance(pred_probs, Ensemble):
        members = [open_planes(member) for member in pred_probs.members]
        first = members[0]
        names = [member_name(number, "images") for number in range(len(members))]
        check_members(names, [(len(member), *member.classes[:1]) for member in members])
        for name, member in zip(names, members, strict=True):
            _check_sizes(names[0], first.sizes, name, member.sizes)
        return OpenedImages(
            Ensemble([member.rows for member in members], pred_probs.weights), first.sizes, first.classes, first.is_list
        )
    arrays, is_list = _opened_arrays("pred_probs", pred_probs)
    return _as_rows("pred_probs", arrays, is_list=is_list)


def check_images(labels: OpenedImages, planes: OpenedImages) -> None:
    """Raise unless masks and probabilities are of the same images.

    Raises
    ------
    InvalidInputError
        Naming the first image that differs, and both sizes, with the line that mends it if it is known.
    """
    if len(labels) != len(planes):
        raise InvalidInputError(
            f"{len(labels):,} masks, {len(planes):,} images of pred_probs: there must be a mask for each image"
        )
    fewest = int(planes.classes.min())
    _refuse_channels_last(labels, planes)
    if fewest < 2:
        raise InvalidInputError(
            f"pred_probs has {fewest} plane for each image; of the probabilities p of one class of two give both: "
            "np.concatenate([1 - p, p], axis=1)"
        )
    other = np.flatnonzero(planes.classes != planes.classes[0])
    if len(other):
        raise InvalidInputError(
            f"image {other[0]:,} of pred_probs has {planes.classes[other[0]]} planes, image 0 has {planes.classes[0]}: "
            "there must be one for each of the same K classes"
        )
    _check_sizes("the mask", labels.sizes, "pred_probs", planes.sizes)


def _check_sizes(name: str, sizes: npt.NDArray[np.int64], other_name: str, others: npt.NDArray[np.int64]) -> None:
    differs = (sizes != others).any(axis=1)
    if not differs.any():
        return
    image = int(differs.argmax())
    (height, width), (other_height, other_width) = sizes[image].tolist(), others[image].tolist()
    more = int(differs.sum()) - 1
    text = f"image {image:,}: {name} has {height} x {width} pixels, {other_name} {other_height} x {other_width}"
    if more:
        text += f" ({more:,} more images differ)"
    if (height, width) == (other_width, other_height):
        raise InvalidInputError(f"{text}: are the axes of one swapped? Height comes first")
    smaller = height % other_height == width % other_width == 0 and height // other_height == width // other_width
    if smaller:
        text += f": the predictions are smaller by a factor of {height // other_height}; scale them to the mask first"
    raise InvalidInputError(text)


def _refuse_channels_last(labels: OpenedImages, planes: OpenedImages) -> None:
    """Raise if the classes are the last axis of `planes`, as the sizes of the masks show."""
    (height, width), (rows, columns), n = labels.sizes[0], planes.sizes[0], planes.classes[0]
    if (height, width) == (rows, columns) or (height, width) != (n, rows):
        return
    shape = f"({n}, {rows}, {columns})" if planes.is_list else f"({len(planes):,}, {n}, {rows}, {columns})"
    line = "np.moveaxis(pred_probs, -1, 1)"
    if planes.is_list:
        line = "[np.moveaxis(one, -1, 0) for one in pred_probs]"
    raise InvalidInputError(
        f"pred_probs has shape {shape}, with the classes last, where the masks are of {height} x {width} pixels: "
        f"classes come before height and width. Write pred_probs = {line}"
    )


def _opened_arrays(name: str, data: Any) -> tuple[list[Opened], bool]:
    """Return opened arrays of images, each with an axis of images, and whether they were given one by one."""
    n_axes = _AXES[name].count(",") + 1
    if data is None:
        raise InputTypeError(f"{name} is missing")
    if isinstance(data, np.ndarray) and data.dtype == object:
        data = list(data)
    if isinstance(data, str | os.PathLike) or (isinstance(data, list | tuple) and data and are_places(data)):
        one = isinstance(data, str | os.PathLike)
        found = open_place(name, data, _separate) if one else open_places(name, data, _separate)  # type: ignore[arg-type]
        arrays = list(found.shards) if type(found) is _Separate else [found]
        return [_with_images(name, array, n_axes, array.where) for array in arrays], True
    if isinstance(data, list | tuple):
        if not data:
            raise InvalidInputError(f"{name} is an empty list: there are no images")
        if any(hasattr(one, "shape") for one in data):
            opened = [open_any(f"{name}[{number}]", one) for number, one in enumerate(data)]
            return [_with_images(name, one, n_axes, f"{name}[{i}]") for i, one in enumerate(opened)], True
        try:
            data = np.asarray(data)
        except ValueError as error:
            raise InvalidInputError(
                f"{name} is a list of lists that differ in length: give a list of arrays of shape {_AXES[name]}"
            ) from error
    opened_any = open_any(name, data)
    if opened_any.ndim == n_axes:
        raise InvalidInputError(
            f"{name} has shape {_shown(opened_any)}, that of a single image: give {name}[np.newaxis], or a list"
        )
    return [_with_images(name, opened_any, n_axes, name)], False


def _with_images(name: str, opened: Opened, n_axes: int, where: str) -> Opened:
    """Return an array with an axis of images in front of the `n_axes` axes of one image."""
    if opened.ndim == n_axes + 1:
        return opened
    if opened.ndim == n_axes:
        return OneImage.of(opened) if isinstance(opened, Source) else opened[np.newaxis]
    hint = ""
    if name == "labels" and opened.ndim == n_axes + 2:
        hint = ": of one-hot masks take labels.argmax(axis=1), or labels.argmax(axis=-1) with the classes last"
    elif name == "labels" and opened.dtype.kind == "f":
        hint = ": labels come first, then pred_probs"
    raise InvalidInputError(
        f"{where} must have shape (N, {_AXES[name][1:]}, or {_AXES[name]} for one image, not {_shown(opened)}{hint}"
    )


def _shown(opened: Opened) -> str:
    return str(tuple(int(size) for size in opened.shape))


def _whole_numbers(labels: Opened) -> Opened:
    """Return masks of integers; of booleans in memory as such."""
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.kind == "b" and isinstance(labels, ArraySource):
        return ArraySource(labels.array.view(np.uint8))
    hints = {
        "b": "convert them with .astype(np.uint8)",
        "f": "convert them with .astype(int) if all are whole numbers",
    }
    hint = hints.get(labels.dtype.kind, "each pixel has the number of its class")
    raise InvalidInputError(f"masks must be integers 0..K-1, not {labels.dtype}: {hint}")


class _Separate(ShardsSource):
    """Files of images of any sizes, which are opened together and then taken one by one."""


def _separate(_name: str, shards: Sequence[Source], where: str) -> Source:
    return _Separate([array for shard in shards for array in shard.arrays], where)


def _as_rows(name: str, arrays: Sequence[Opened], *, is_list: bool) -> OpenedImages:
    """Return the pixels of arrays of images as rows."""
    sizes = np.array([array.shape[-2:] for array in arrays], np.int64)
    counts = [int(array.shape[0]) for array in arrays]
    classes = [int(array.shape[1]) if array.ndim == 4 else 0 for array in arrays]
    if not sum(counts):
        raise InvalidInputError(f"{name} has no images")
    if not sizes.all():
        image = int(np.flatnonzero(~sizes.all(axis=1))[0])
        raise InvalidInputError(f"image {image} of {name} has no pixels: its size is {sizes[image].tolist()}")
    rows: list[Any] = [pixels_of(array) if isinstance(array, Source) else _dask_pixels(array) for array in arrays]
    joined = _joined(name, rows, arrays[0].where if isinstance(arrays[0], Source) else "")
    return OpenedImages(joined, np.repeat(sizes, counts, axis=0), np.repeat(classes, counts), is_list)


def _joined(name: str, rows: Sequence[Any], where: str) -> Any:
    """Return the pixels of all arrays as one."""
    if len(rows) == 1:
        return rows[0]
    if all(isinstance(one, Source) for one in rows):
        if all(isinstance(one, ArraySource | PixelSource) and one.in_memory for one in rows):
            where = f"{len(rows):,} arrays in memory"
        columns = {one.shape[1:] for one in rows}
        # The number of classes is compared later, with the other sizes.
        return ShardsSource.checked(name, rows, where) if len(columns) == 1 else rows[0]
    if any(isinstance(one, Source) for one in rows):
        raise InputTypeError(f"{name} is a list of Dask arrays and others: give one kind")
    import dask.array as da

    return da.concatenate(rows) if len({one.shape[1:] for one in rows}) == 1 else rows[0]


def _dask_pixels(array: da.Array) -> da.Array:
    """Return the pixels of a user's Dask array of images, whose chunks are made to hold whole images."""
    whole = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    image_rows = int(array.shape[-1] * array.shape[-2])
    rows, classes = tuple(n * image_rows for n in whole.chunks[0]), whole.chunks[1:-2]
    found: da.Array = whole.map_blocks(
        pixel_rows,
        dtype=array.dtype,
        chunks=(rows, *classes),
        drop_axis=[array.ndim - 2, array.ndim - 1],
        meta=np.empty((0,) * (array.ndim - 2), array.dtype),
    )
    return found


def pixel_rows(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the pixels of ``(n, H, W)`` or ``(n, K, H, W)`` images as rows."""
    return images.reshape(-1) if images.ndim == 3 else np.moveaxis(images, 1, -1).reshape(-1, images.shape[1])
