"""Opening labels that are to be corrected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.corrections.label_arrays import SAY_TASK, ArrayLabels, LabelFile, NpyLabels, SourceLabels, ZarrLabels
from labelsieve.corrections.label_grids import GridLabels, MaskList, ZarrGrid
from labelsieve.corrections.label_lists import ParquetTags, ParquetTokens, TagListLabels, TokenLists, is_column_of_lists
from labelsieve.corrections.label_tables import CsvLabels, ParquetLabels
from labelsieve.corrections.mask_files import MaskFiles
from labelsieve.errors import InvalidInputError
from labelsieve.sources.archives import ARCHIVE_SUFFIXES, split_member
from labelsieve.sources.arrays import ArraySource, in_memory
from labelsieve.sources.base import Source
from labelsieve.sources.image_files import IMAGE_SUFFIXES, ImageFileSource, image_files
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open_images import open_masks
from labelsieve.sources.open_path import are_places, local_path, open_place, open_places
from labelsieve.sources.shard_names import is_pattern
from labelsieve.sources.tags import TagMatrix
from labelsieve.sources.tokens import depth_of
from labelsieve.sources.zarr_arrays import ZarrSource, is_zarr_folder
from labelsieve.sources.zarr_chunks import local_folder
from labelsieve.storage.urls import check_place, without_query

_TABLE_SUFFIXES: Final = (".parquet", ".pq", ".csv")
# Axes of masks (N, H, W), which are nothing else.
_MASK_AXES: Final = 3


def open_label_file(
    labels: Any,
    column: str | None = None,
    task: str | None = None,
    tags: int | Sequence[str] | None = None,
    *,
    of_result: bool = False,
) -> LabelFile:
    """Open labels that are to be corrected.

    Parameters
    ----------
    labels : path or array-like
        A ``.npy`` file, a Zarr array, a ``.parquet`` or ``.csv`` file, an array in memory, or whatever else holds an
        array, such as shards, ``.npz`` files and URLs. ``table.parquet::label`` names a column of a table.
    column : str, optional
        The same; may be missing if there is only one.
    task : str, optional
        What a label belongs to, one of `TASKS`. Without it arrays of three axes are masks, and all else must have one
        axis.
    tags : int or sequence of str, optional
        Number or names of all tags; lists of tags do not say it.
    of_result : bool
        Whether the task is that of a result: labels may then have one axis too, with a label for each row.

    Raises
    ------
    InvalidInputError
        If there is no such file or column, or the labels do not have the axes of the task.
    InputTypeError
        For another kind of object.
    """
    if type(labels).__module__.partition(".")[0] == "zarr" and hasattr(labels, "chunks"):
        labels = local_folder(labels) or labels[...]
    opener = _Opener(task, tags, of_result=of_result)
    if _are_shards(labels):
        files = image_files("labels", labels)
        if files is not None:
            return opener.of_images(files, f"{len(files):,} image files")
        return opener.of_source(open_places("labels", labels))
    if not isinstance(labels, str | os.PathLike):
        if column is not None:
            raise InvalidInputError("column is for labels in a Parquet or CSV file: give the column itself as labels")
        return opener.of_memory(labels)
    return _open_place(labels, column, opener)


def _open_place(labels: str | os.PathLike[str], column: str | None, opener: _Opener) -> LabelFile:
    """Open what is at a path or URL."""
    place, member = split_member(check_place("labels", labels))
    table, _, named = place.rpartition("::")
    if table.lower().endswith(_TABLE_SUFFIXES) and "://" not in named and not Path(place).exists():
        if column is not None:
            raise InvalidInputError(f"labels: {place} names a column, and so does column={column!r}")
        place, column = table, named
    local, where = local_path(place), without_query(place)
    path = None if local is None else Path(local).absolute()
    is_zarr = path is not None and path.is_dir() and is_zarr_folder(path)
    suffix = ".zarr" if is_zarr else Path(where).suffix.lower()
    if column is not None and suffix not in _TABLE_SUFFIXES:
        raise InvalidInputError(f"labels: {where} has no columns: column is for Parquet and CSV files")
    if path is None and suffix in _TABLE_SUFFIXES:
        raise InvalidInputError(f"labels: {where} is a URL: a table is corrected in a local file")
    is_several = path is None or (path.is_dir() and not is_zarr) or (is_pattern(str(path)) and not path.exists())
    files = None if path is None or is_zarr else image_files("labels", path)
    if files is not None:
        return opener.of_images(files, where)
    if path is None or is_several or member or suffix in ARCHIVE_SUFFIXES:
        return opener.of_source(open_place("labels", labels))
    if not path.exists():
        raise InvalidInputError(f"labels: there is no file {path}")
    if suffix in _TABLE_SUFFIXES:
        return opener.of_table(path, column)
    if suffix in (".npy", ".zarr"):
        return opener.of_npy(path) if suffix == ".npy" else opener.of_zarr(path)
    raise InvalidInputError(f"labels: {path} must be a .npy, .parquet or .csv file or a Zarr array")


class _Opener:
    """Opens the labels of a task, in each of the forms in which they are stored.

    Parameters
    ----------
    task : str or None
        One of `TASKS`, or None if the axes of the labels say it.
    tags : int, sequence of str or None
        Number or names of all tags.
    of_result : bool
        Whether the task is that of a result.
    """

    def __init__(self, task: str | None, tags: int | Sequence[str] | None, *, of_result: bool) -> None:
        self._task, self._may_be_flat = task, of_result or task in (None, "classification", "tokens")
        self._names = None if tags is None or isinstance(tags, int) else list(tags)
        self._n_tags = tags if tags is None or isinstance(tags, int) else len(tags)

    def of_npy(self, path: Path) -> LabelFile:
        """Open a ``.npy`` file."""
        stored = NpySource.from_path("labels", path)
        if self._is_flat(stored):
            return NpyLabels(path)
        return GridLabels(*self._rows_of(stored), suffixes=(".npy",))

    def of_zarr(self, path: Path) -> LabelFile:
        """Open a Zarr array."""
        stored = ZarrSource.from_path("labels", path)
        return ZarrLabels(path) if self._is_flat(stored) else ZarrGrid(*self._rows_of(stored), path)

    def of_source(self, source: Source) -> LabelFile:
        """Open an array that is corrected in a new ``.npy`` file or Zarr array: shards, an archive, a URL."""
        return SourceLabels(source) if self._is_flat(source) else GridLabels(*self._rows_of(source))

    def of_images(self, files: Sequence[ImageFileSource], where: str) -> LabelFile:
        """Open masks in image files."""
        if self._task not in (None, "segmentation"):
            raise InvalidInputError(f"labels: task={self._task!r} (--task) is not for masks in image files, as {where}")
        return MaskFiles(files, where)

    def of_table(self, path: Path, column: str | None) -> LabelFile:
        """Open a column of a table."""
        is_csv = path.suffix.lower() == ".csv"
        has_lists = not is_csv and self._task in ("tags", "tokens") and is_column_of_lists(path, column)
        if not self._may_be_flat and not has_lists:
            lists = "" if self._task == "segmentation" else " without lists"
            raise InvalidInputError(f"labels: task={self._task!r} (--task) is not for a column of {path}{lists}")
        if has_lists and self._task == "tags":
            return ParquetTags(path, column, self._known_tags(), self._names)
        if has_lists:
            return ParquetTokens(path, column)
        return CsvLabels(path, column) if is_csv else ParquetLabels(path, column)

    def of_memory(self, labels: Any) -> LabelFile:
        """Open an array or lists in memory."""
        if hasattr(labels, "tocsr"):
            raise InvalidInputError("labels are a sparse matrix: give labels.toarray(), or the lists of tags")
        depth, n_axes = _depth_of(labels), getattr(labels, "ndim", 0)
        if self._task is None and depth > 1 and not n_axes and depth != _MASK_AXES:
            raise InvalidInputError(f"labels are lists of lists: {SAY_TASK}")
        if depth <= 1 and self._may_be_flat:
            return ArrayLabels(labels)
        if self._task == "segmentation" or (self._task is None and depth == _MASK_AXES):
            return _masks_in_memory(labels)
        if self._task not in ("tags", "tokens"):
            return ArrayLabels(labels)
        if n_axes == 2 or (self._task == "tags" and n_axes):
            array = ArraySource(_unmasked(labels))
            if array.dtype != object and self._task == "tags":
                return GridLabels(*self._rows_of(array))
            if array.dtype != object:  # sentences of one length
                return GridLabels(ArraySource(array.array.reshape(-1)), array, array.shape[1])
        return TagListLabels(labels, self._known_tags(), self._names) if self._task == "tags" else TokenLists(labels)

    def _is_flat(self, source: Source) -> bool:
        """Return whether an array must have one axis, with a label for each row."""
        n_axes = len(source.shape)
        if self._task is None:
            return n_axes != _MASK_AXES
        return self._task in ("classification", "tokens") or (n_axes == 1 and self._may_be_flat)

    def _known_tags(self) -> int:
        if self._n_tags is None:
            raise InvalidInputError(
                "labels are lists of tags, which do not say how many tags there are: give class_names, the names of "
                "all tags, or issues"
            )
        return self._n_tags

    def _rows_of(self, stored: Source) -> tuple[Source, Source, int, int]:
        """Return what `GridLabels` takes of masks or a matrix of tags.

        These are the values as rows, the array itself, the rows of a group, and the number of tags.
        """
        if self._task != "tags":
            images = open_masks([stored])
            return images.rows, stored, int(images.sizes[0].prod()), 0
        if len(stored.shape) != 2 or stored.dtype.kind not in "biuf":
            raise InvalidInputError(
                f"labels: a matrix of tags has the shape (N, K) and 0 and 1 only, and {stored.where} has the shape "
                f"{stored.shape} and {stored.dtype}"
            )
        n_tags = stored.shape[1]
        if not n_tags:
            raise InvalidInputError(f"labels: {stored.where} has no tags: its shape is {stored.shape}")
        if self._n_tags not in (None, n_tags):
            raise InvalidInputError(f"{self._n_tags:,} tags in class_names or issues, labels have {n_tags:,} columns")
        return TagMatrix(stored), stored, n_tags, n_tags


def _masks_in_memory(labels: Any) -> LabelFile:
    """Open masks: an array, or a list of arrays of any sizes."""
    is_list = isinstance(labels, list | tuple) or (isinstance(labels, np.ndarray) and labels.dtype == np.dtype(object))
    if is_list and any(hasattr(one, "shape") for one in labels):
        arrays = [_unmasked(one) for one in labels]
        images = open_masks(arrays)
        return MaskList(images.rows, images.sizes, are_booleans=all(one.dtype.kind == "b" for one in arrays))
    try:
        array = _unmasked(labels)
    except InvalidInputError:
        raise
    except ValueError as error:
        raise InvalidInputError(
            "labels are lists of lists that differ in length: give a list of arrays of shape (H, W)"
        ) from error
    images = open_masks([array] if array.ndim == _MASK_AXES - 1 else array)
    return GridLabels(images.rows, ArraySource(array), int(images.sizes[0].prod()))


def _unmasked(labels: Any) -> npt.NDArray[Any]:
    """Return an array, or raise if some of its values are masked, which could not come back as such."""
    return in_memory("labels", labels) if isinstance(labels, np.ma.MaskedArray) else np.asarray(labels)


def _depth_of(labels: Any) -> int:
    """Return the number of axes of an array in memory, or how deep lists are."""
    n_axes = getattr(labels, "ndim", 0)
    if n_axes > 1:
        return int(n_axes)
    convert = "to_pylist" if hasattr(labels, "to_pylist") else "to_list"  # of Arrow; of pandas and Polars
    return depth_of(getattr(labels[:10], convert)() if hasattr(labels, convert) else labels)


def _are_shards(labels: Any) -> bool:
    """Return whether labels are a list of places, rather than of names such as ``n/a``."""
    if not isinstance(labels, list | tuple) or not labels or not isinstance(labels[0], str | os.PathLike):
        return False
    local = local_path(os.fspath(labels[0]))
    if local is not None and not Path(local).exists():
        return False
    return are_places(labels) or (local is not None and local.lower().endswith(IMAGE_SUFFIXES))
