"""Labels in every form in which they are stored, to be read and to be written again with other values in some rows.

Each form reads the labels of some rows, and writes a copy of all with other labels in some rows. What is beside the
labels is kept: the other columns of a table, and chunks, codecs and attributes of a Zarr array. `FORMS` has the class
of each kind of file.
"""

from __future__ import annotations

import abc
import csv
import io
import itertools
import math
import numbers
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.thresholds import Int64s, class_dtype
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.multilabel_classification.rows import TagMatrix, open_lists
from labelsieve.results.units import Layout, ends
from labelsieve.segmentation.rows import (
    IMAGE_SUFFIXES,
    ImageFileSource,
    image_files,
    masks_of_files,
    open_masks,
    pillow,
)
from labelsieve.sources.columns import arrow, choose_columns, list_items, list_lengths
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.names import is_missing
from labelsieve.sources.npy import ARCHIVE_SUFFIXES, NpySource, split_member
from labelsieve.sources.open import ArraySource, in_memory
from labelsieve.sources.places import are_places, is_pattern, local_path, open_place, open_places
from labelsieve.sources.source import Source
from labelsieve.sources.zarr import ZarrSource, is_zarr_folder
from labelsieve.storage.remote import check_place, without_query
from labelsieve.token_classification.rows import depth_of, join_labels

Values: TypeAlias = npt.NDArray[Any]
# Part of messages about labels that could be of several tasks.
SAY_TASK: Final = "give task='tokens', task='tags' or task='segmentation' (--task)"
# Labels whose rows are counted one class after the other.
_MOST_COUNTED: Final = 1 << 22
# Changed values of a Zarr array that are written at a time.
_CHANGED: Final = 1 << 20
# Lists that are read, changed and written at a time, and rows of tags that are made of them.
_BLOCK_LISTS = 1 << 16
_BLOCK_TAGS = 1 << 22
# Axes of masks (N, H, W), which are nothing else.
_MASK_AXES: Final = 3


@dataclass(frozen=True)
class Asked:
    """What the caller says of labels.

    Parameters
    ----------
    task : str or None
        One of `TASKS`, or None if the axes of the labels say it.
    tags : int, sequence of str or None
        Number or names of all tags.
    may_be_flat : bool
        Whether there may be one axis, with a label for each row.
    """

    task: str | None
    tags: int | Sequence[str] | None
    may_be_flat: bool

    @property
    def names(self) -> Sequence[str] | None:
        """Names of all tags, if they are known."""
        return None if self.tags is None or isinstance(self.tags, int) else list(self.tags)

    def n_tags(self) -> int:
        """Return the number of all tags, or raise if it is not known."""
        if self.tags is None:
            raise InvalidInputError(
                "labels are lists of tags, which do not say how many tags there are: give class_names, the names of "
                "all tags, or issues"
            )
        return self.tags if isinstance(self.tags, int) else len(self.tags)

    def rows_of(self, stored: Source) -> tuple[Source, Source, int, int]:
        """Return what `SourceLabels` takes of an array: the labels as rows, itself, the rows of a group, and K tags."""
        n_axes = len(stored.shape)
        is_flat = n_axes != _MASK_AXES if self.task is None else n_axes == 1 and self.may_be_flat
        if is_flat or self.task in ("classification", "tokens"):
            return stored, stored, 1, 0
        if self.task != "tags":
            images = open_masks([stored])
            return images.rows, stored, int(images.sizes[0].prod()), 0
        if n_axes != 2 or stored.dtype.kind not in "biuf":
            raise InvalidInputError(
                f"labels: a matrix of tags has the shape (N, K) and 0 and 1 only, and {stored.where} has the shape "
                f"{stored.shape} and {stored.dtype}"
            )
        n_tags = stored.shape[1]
        if not n_tags:
            raise InvalidInputError(f"labels: {stored.where} has no tags: its shape is {stored.shape}")
        if self.tags is not None and self.n_tags() != n_tags:
            raise InvalidInputError(f"{self.n_tags():,} tags in class_names or issues, labels have {n_tags:,} columns")
        return TagMatrix(stored), stored, n_tags, n_tags


class LabelFile(abc.ABC):
    """Labels that can be read, and written again with other values in some rows.

    Attributes
    ----------
    where : str
        Path, or kind of object, for messages.
    suffixes : tuple of str
        Endings of outputs that have this form.
    has_columns : bool
        Whether it is a table, of which a column holds the labels.
    dtype : dtype
        Of the values; of objects for text of any length.
    nullable : bool
        Whether a label can be missing.
    n_rows : int
        Number of labels.
    block_rows : int
        Rows that are read, changed and written at a time: 8 MB of int64.
    group_rows : int or (n + 1,) int64
        Number of rows of each group, if rows are parts of groups of one size: pixels of images, tags of examples. For
        groups of any sizes, such as sentences, the row at which each of the n groups begins, and the number of rows.
    n_tags : int
        Number of tags K, if rows are tags of examples, else 0. A label is then a class of the result: ``2 * tag + 1``
        if the example has the tag, else ``2 * tag``.
    """

    where: str
    suffixes: tuple[str, ...]
    has_columns: ClassVar[bool] = False
    dtype: np.dtype[Any]
    nullable = False
    n_rows: int
    block_rows = 1 << 20
    group_rows: int | Int64s = 1
    n_tags = 0

    @classmethod
    def open(cls, path: Path, column: str | None, asked: Asked) -> LabelFile:
        """Open a file of this form; forms of labels in memory have none."""
        raise NotImplementedError

    @abc.abstractmethod
    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, in blocks."""

    @abc.abstractmethod
    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write all labels to `path`, with `values` in `rows`, which ascend."""

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`, which ascend."""
        found = [block[rows[within(rows, start, len(block))] - start] for start, block in self.numbered()]
        return np.concatenate(found or [np.empty(0, self.dtype)])

    def take_unsorted(self, rows: Int64s) -> list[Any]:
        """Return the labels of `rows`, which are in any order."""
        order = np.argsort(rows)
        labels: Any = np.empty(len(order), object)
        if len(order):
            labels[order] = self.take(rows[order])
        return list(labels.tolist())

    def take_and_count(self, rows: Int64s) -> tuple[Values, Counter[Any]]:
        """Return the labels of `rows`, which ascend, and how many rows have each label: None for missing ones."""
        found, counts = list[Values](), Counter[Any]()
        for start, block in self.numbered():
            found.append(block[rows[within(rows, start, len(block))] - start])
            _add_counts(counts, block)
        return np.concatenate(found or [np.empty(0, self.dtype)]), counts

    @property
    def n_groups(self) -> int:
        """Number of groups; of rows, if these are not parts of groups."""
        groups = self.group_rows
        return self.n_rows // max(1, groups) if isinstance(groups, int) else len(groups) - 1

    def groups_of(self, rows: Int64s) -> Int64s:
        """Return the group of each row."""
        groups = self.group_rows
        return rows // groups if isinstance(groups, int) else np.searchsorted(groups, rows, "right") - 1

    def is_part(self, path: Path) -> bool:  # noqa: ARG002
        """Return whether a path is one of several files that hold the labels."""
        return False

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return all labels in memory, in the form in which they were, with `values` in `rows`, which ascend."""
        found = np.concatenate(list(self.blocks()) or [np.empty(0, self.dtype)])
        found = found.astype(wide_enough(found.dtype, values))
        found[rows] = values
        return found

    def numbered(self) -> Iterator[tuple[int, Values]]:
        """Yield the blocks with the numbers of their first rows."""
        start = 0
        for block in self.blocks():
            yield start, block
            start += len(block)


def _add_counts(total: Counter[Any], block: Values) -> None:
    """Add how many rows have each label; missing labels count as one label."""
    # As unsigned numbers, negative labels are the highest.
    if (
        block.dtype.kind in "iu"
        and len(block)
        and block.view(f"{block.dtype.str[0]}u{block.itemsize}").max() < (_MOST_COUNTED)
    ):
        counts = np.bincount(block.astype(np.intp, copy=False))
        labels = np.flatnonzero(counts)
        total.update(dict(zip(labels.tolist(), counts[labels].tolist(), strict=True)))
    elif block.dtype.kind in "iufbUS":
        labels, counts = np.unique(block, return_counts=True)
        names = [None if is_missing(label) else label for label in labels.tolist()]
        total.update(dict(zip(names, counts.tolist(), strict=True)))
    else:
        total.update(None if is_missing(label) else label for label in block.tolist())


def within(rows: Int64s, start: int, n_rows: int) -> slice:
    """Return where `rows`, which ascend, are in ``[start, start + n_rows)``."""
    first, last = np.searchsorted(rows, (start, start + n_rows)).tolist()
    return slice(first, last)


def wide_enough(dtype: np.dtype[Any], values: Values) -> np.dtype[Any]:
    """Return the dtype of labels, or one that `values` need: for longer text, or for missing values among numbers."""
    if dtype.kind in "iufb" and values.dtype.kind == "O":
        return values.dtype
    if dtype.kind in "US" and len(values) and values.dtype.itemsize > dtype.itemsize:
        return np.promote_types(dtype, values.dtype)
    return dtype


def write_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[Values], step: int) -> None:
    """Write a Zarr array in chunks of `step` along the first axis, or a ``.npy`` file in the order of C.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr`` or ``.npy``.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of the values.
    blocks : iterable of (n,) array
        All its values in order; for Zarr each holds whole rows of the array.
    step : int
        Rows of a chunk.
    """
    if path.suffix == ".zarr":
        import zarr

        chunks, start = (max(1, min(step, shape[0])), *shape[1:]), 0
        target = zarr.create_array(path, shape=shape, dtype=dtype, chunks=chunks)
        for block in blocks:
            whole = block.reshape(-1, *shape[1:])
            target[start : start + len(whole)] = whole
            start += len(whole)
        return
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).view(np.uint8).data if block.itemsize else b"")


def _checked_dtype(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> np.dtype[Any]:
    if len(shape) != 1:
        hint = f"; for more axes {SAY_TASK}" if len(shape) > 1 else ""
        raise InvalidInputError(f"{where}: labels must have one axis (N,), not shape {tuple(shape)}{hint}")
    if dtype.kind not in "iufbUSTO":
        raise InvalidInputError(f"{where}: labels must be numbers or names, not {dtype}")
    return dtype


# Arrays --------------------------------------------------------------------------------------------------------------


class ArrayLabels(LabelFile):
    """Labels in memory.

    Parameters
    ----------
    labels : (N,) array-like
        A list, NumPy array, pandas or Dask column.
    """

    where, suffixes = "labels", (".npy", ".zarr")

    def __init__(self, labels: Any) -> None:
        if labels is None or isinstance(labels, dict | set):
            raise InputTypeError(f"labels must be an array or a path, not {type(labels).__name__}")
        self.values = _in_memory(labels)
        if self.values.dtype.kind == "O" and self.values.ndim == 1:
            kinds = {type(value) for value in self.values.tolist() if not is_missing(value)}
            if kinds and all(issubclass(kind, numbers.Real) for kind in kinds) and not kinds & {bool, np.bool_}:
                # As pandas does, which has the missing ones among numbers as NaN.
                self.values = np.array([math.nan if is_missing(value) else value for value in self.values.tolist()])
            elif kinds in ({bool}, {np.bool_}, {bytes}) and not any(map(is_missing, self.values.tolist())):
                self.values = np.array(self.values.tolist())
            if not all(issubclass(kind, str) for kind in kinds) and self.values.dtype.kind == "O":
                names = ", ".join(sorted(kind.__name__ for kind in kinds))
                hint = f"; for lists {SAY_TASK}" if kinds & {list, tuple, np.ndarray} else ""
                raise InvalidInputError(
                    f"labels are objects of {names}, not all names: give them as numbers or as text{hint}"
                )
        self.dtype = _checked_dtype(self.values.dtype, self.values.shape, self.where)
        self.nullable, self.n_rows = self.dtype.kind == "O", len(self.values)

    def blocks(self) -> Iterator[Values]:
        """Yield all labels, in one block."""
        yield self.values

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a ``.npy`` file or a Zarr array."""
        found = self.corrected(rows, values)
        gone = np.fromiter(map(is_missing, found.tolist()), np.bool_) if found.dtype.kind == "O" else np.empty(0)
        if gone.any():
            n_gone = rows_in_words(int(gone.sum()), "label is", "labels are")
            raise InvalidInputError(
                f"output: {n_gone} missing, the first in row {int(gone.argmax()):,}, and a "
                f"{path.suffix} of text has none that is missing: leave output out, or store labels as Parquet or CSV"
            )
        if found.dtype.kind in "OT":  # NumPy stores objects as pickles
            found = found.astype(np.dtypes.StringDType()) if path.suffix == ".zarr" else np.array(found.tolist(), str)
        write_array(path, found.shape, found.dtype, [found], self.block_rows)


def _in_memory(labels: Any) -> Values:
    """Return a list or a column as an array."""
    if isinstance(labels, np.ma.MaskedArray):
        values = labels.data
        if np.ma.is_masked(labels):
            values = values.astype(object)
            values[np.ma.getmaskarray(labels)] = None
        return values
    if type(labels).__module__.partition(".")[0] == "pyarrow" and hasattr(labels, "to_pylist"):
        return _objects(labels.to_pylist())
    to_numpy = getattr(labels, "to_numpy", None)
    return np.asarray(labels if to_numpy is None else to_numpy())


def _objects(items: Sequence[Any]) -> Values:
    """Return items as an array of objects; NumPy would make text of all if one is text."""
    values = np.empty(len(items), object)
    values[:] = items
    return values


class SourceLabels(LabelFile):
    """Labels in an array of one or more axes, which are written as a ``.npy`` file or a Zarr array of the same shape.

    Parameters
    ----------
    rows : Source
        ``(n_rows,)`` labels, a row for each value of the array.
    stored : Source, optional
        The array, if it has more axes: masks, or a matrix of tags.
    group_rows, n_tags : int
        As of `LabelFile`.
    suffixes : tuple of str
        Endings of outputs.
    """

    suffixes: tuple[str, ...] = (".npy", ".zarr")

    def __init__(
        self,
        rows: Source,
        stored: Source | None = None,
        group_rows: int | Int64s = 1,
        n_tags: int = 0,
        suffixes: tuple[str, ...] = (".npy", ".zarr"),
    ) -> None:
        self.source, self.stored, self.where = rows, rows if stored is None else stored, rows.where
        self.group_rows, self.n_tags, self.suffixes = group_rows, n_tags, suffixes
        self.dtype, self.n_rows = _checked_dtype(rows.dtype, rows.shape, self.where), rows.n_rows
        if self.dtype.kind in "OT" and not isinstance(self, ZarrLabels):
            raise InvalidInputError(f"labels: {self.where} holds text of any length: copy it to a local Zarr array")

    @classmethod
    def open(cls, path: Path, column: str | None, asked: Asked) -> LabelFile:  # noqa: ARG003
        """Open a ``.npy`` file."""
        return cls(*asked.rows_of(NpySource.from_path("labels", path)), suffixes=(".npy",))

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`; what lies between them is not read where they are far apart."""
        return self.source.take(rows)

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the shards, or the archive."""
        sources = self.stored.children if isinstance(self.stored, ShardsSource) else (self.stored,)
        files = [Path(place) for one in sources if (place := local_path(split_member(one.where)[0])) is not None]
        return any(file.exists() and path.samefile(file) for file in files)

    def blocks(self, step: int = 0) -> Iterator[Values]:
        """Yield all labels in order; the memory of a block is used again."""
        step = step or self.block_rows
        with self.source.open() as opened:
            for start in range(0, self.n_rows, step):
                yield opened.read(start, min(start + step, self.n_rows))

    def as_stored(self, labels: Values) -> Values:
        """Return labels as values of the array: whether an example has a tag, and the class of a pixel."""
        if self.n_tags:
            return (labels & 1).astype(self.stored.dtype)
        if self.stored.dtype.kind == "b" and labels.dtype.kind != "b":
            if labels.max(initial=0) > 1:
                raise InvalidInputError(f"labels are booleans, which cannot hold the class {labels.max()}")
            return labels.astype(np.bool_)
        return labels

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the array in memory, with `values` in `rows`."""
        found = self.source[: self.n_rows]
        found = found.astype(wide_enough(found.dtype, values))
        found[rows] = values
        return self.as_stored(found).reshape(self.stored.shape)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a ``.npy`` file or a Zarr array of the same dtype, or a wider one where names are longer."""
        width = math.prod(self.stored.shape[1:])
        step = max(1, self.block_rows // max(1, width))
        dtype = self.as_stored(np.empty(0, wide_enough(self.dtype, values))).dtype
        write_array(path, self.stored.shape, dtype, self.corrected_blocks(rows, values, step * width), step)

    def corrected_blocks(self, rows: Int64s, values: Values, step: int) -> Iterator[Values]:
        """Yield all labels as they are stored, `step` at a time, with `values` in `rows`."""
        dtype, start = wide_enough(self.dtype, values), 0
        for block in self.blocks(step):
            changed, own = within(rows, start, len(block)), block
            if changed.stop > changed.start:
                # The memory may be the user's, or a file's.
                own = block.astype(dtype, copy=self.source.facts.in_memory or not block.flags.writeable)
                own[rows[changed] - start] = values[changed]
            start += len(block)
            yield self.as_stored(own.astype(dtype, copy=False))


class ZarrLabels(SourceLabels):
    """Labels in a local Zarr array of format 2 or 3.

    Parameters
    ----------
    path : Path
        The folder.
    rows, stored, group_rows, n_tags
        As of `SourceLabels`.
    """

    def __init__(self, path: Path, rows: Source, stored: ZarrSource, group_rows: int, n_tags: int) -> None:
        super().__init__(rows, stored, group_rows, n_tags, (".zarr",))
        self.path, self.where, self.array = path, str(path), stored.array
        if self.array.ndim == 1:  # in whole chunks
            chunk = int((self.array.shards or self.array.chunks)[0])
            self.block_rows = max(1, self.block_rows // chunk) * chunk

    @classmethod
    def open(cls, path: Path, column: str | None, asked: Asked) -> LabelFile:  # noqa: ARG003
        """Open a Zarr array."""
        stored = ZarrSource.from_path("labels", path)
        rows, _, group_rows, n_tags = asked.rows_of(stored)
        return cls(path, rows, stored, group_rows, n_tags)

    # The source reads no text of any length.

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`; chunks without any of them are not read."""
        return LabelFile.take(self, rows) if self.dtype.kind in "OT" else super().take(rows)

    def blocks(self, step: int = 0) -> Iterator[Values]:
        """Yield all labels in order, in whole chunks."""
        if self.dtype.kind not in "OT":
            yield from super().blocks(step)
            return
        for start in range(0, self.n_rows, self.block_rows):
            yield self.array[start : start + self.block_rows]

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the array in memory, with `values` in `rows`."""
        is_text = self.dtype.kind in "OT"
        return LabelFile.corrected(self, rows, values) if is_text else super().corrected(rows, values)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Copy the array, and encode those chunks again whose labels change; all of them where names are longer."""
        import zarr

        dtype, old = wide_enough(self.dtype, values), self.array
        if dtype == self.dtype:
            try:
                shutil.copytree(self.path, path)
            except shutil.Error as error:  # a list of all files
                raise OSError(error.args[0][0][2]) from error
            target = zarr.open_array(path, mode="r+")
            for start in range(0, len(rows), _CHANGED):
                part = slice(start, start + _CHANGED)
                target.vindex[np.unravel_index(rows[part], target.shape)] = self.as_stored(values[part])
            return
        target, start = (
            zarr.create_array(
                path,
                shape=old.shape,
                dtype=dtype,
                chunks=old.chunks,
                shards=old.shards,
                compressors=old.compressors,
                fill_value=old.fill_value,
                dimension_names=getattr(old.metadata, "dimension_names", None),  # of format 3
                attributes=old.attrs.asdict(),
                zarr_format=old.metadata.zarr_format,
            ),
            0,
        )
        for block in self.corrected_blocks(rows, values, self.block_rows):
            target[start : start + len(block)] = block
            start += len(block)


class MaskList(SourceLabels):
    """Masks of images of any sizes in memory, one by one, which are returned as a list of arrays.

    Parameters
    ----------
    rows : Source
        ``(n_rows,)`` labels, the pixels of one image after the other.
    sizes : (n, 2) array of int
        Height and width of each image.
    are_booleans : bool
        Whether masks are of booleans.
    """

    def __init__(self, rows: Source, sizes: Int64s, *, are_booleans: bool = False) -> None:
        stored = ArraySource(np.empty(0, np.bool_)) if are_booleans else rows
        super().__init__(rows, stored, ends(sizes[:, 0] * sizes[:, 1]), suffixes=())
        self.sizes: list[list[int]] = sizes.tolist()

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the masks, with `values` in `rows`."""
        found = self.source[: self.n_rows].copy()
        found[rows] = values
        flat = np.split(self.as_stored(found), np.asarray(self.group_rows)[1:-1])
        return [one.reshape(size) for one, size in zip(flat, self.sizes, strict=True)]


class MaskFiles(MaskList):
    """Masks in PNG files, a file for each image, of any sizes; they are written as a folder of such files.

    Parameters
    ----------
    files : sequence of ImageFileSource
        The files, in order.
    where : str
        Folder or pattern.

    Raises
    ------
    InvalidInputError
        For image files that are not PNG, and masks that are not integers of one dtype.
    """

    def __init__(self, files: Sequence[ImageFileSource], where: str) -> None:
        other = [file.where for file in files if file.path.suffix.lower() != ".png"]
        if other:
            raise InvalidInputError(f"labels: {other[0]} is not a PNG file: masks in image files are corrected as PNG")
        images = masks_of_files(files, str(files[0].path))
        super().__init__(images.rows, images.sizes)
        self.where, self.files, self.suffixes = where, files, ("",)

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the files, or a folder above one."""
        place = path.resolve()
        return any(place == file.path or place in file.path.parents for file in self.files)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a folder of files of the same names; those that do not change are copied as they are."""
        places = [Path(os.path.normpath(file.path)) for file in self.files]  # with ".." a name may lead elsewhere
        [(repeated, times)] = Counter(places).most_common(1)
        if times > 1:
            raise InvalidInputError(f"output: labels names {repeated} {times} times: leave output out")
        above = os.path.commonpath([place.parent for place in places])
        path.mkdir()
        for file, place, start in zip(self.files, places, np.asarray(self.group_rows).tolist(), strict=False):
            target, changed = path / place.relative_to(above), within(rows, start, file.n_rows)
            target.parent.mkdir(parents=True, exist_ok=True)
            if changed.start == changed.stop:
                shutil.copyfile(file.path, target)
            else:
                _write_changed(file, target, rows[changed] - start, values[changed])


def _write_changed(file: ImageFileSource, target: Path, places: Int64s, values: Values) -> None:
    """Write a mask with other values of some pixels; mode and palette stay."""
    module, pixels = pillow(), file[: file.n_rows].copy()
    pixels[places] = values
    with module.open(file.path) as image:
        image.load()
        plane = np.asarray(image)
        if image.mode == "1":
            changed = module.fromarray(pixels.reshape(plane.shape).astype(np.bool_))
        else:
            changed = image.copy()
            changed.frombytes(pixels.astype(plane.dtype).tobytes())
        if image.mode == "P":  # one with fewer colours than numbers would be cut
            palette = image.getpalette() or []
            changed.putpalette(palette + [0] * (3 * (int(pixels.max()) + 1) - len(palette)))
        changed.save(target, **{name: image.info[name] for name in ("transparency", "dpi") if name in image.info})
    written = ImageFileSource.from_path("output", target)
    if not np.array_equal(written[: written.n_rows], pixels):
        raise InvalidInputError(
            f"output: {file.where} is an image of mode {image.mode}, which cannot hold the class {values.max()}"
        )


# Tables --------------------------------------------------------------------------------------------------------------


def only_column(column: str | None, names: list[str], where: str) -> str:
    """Return the column that the user means."""
    if column is None and len(names) == 1:
        return names[0]
    if column is None:
        shown = ", ".join(map(repr, names[:10]))
        raise InvalidInputError(
            f"labels: {where} has the columns {shown}: name the one with the labels, as {Path(where).name}::COLUMN"
        )
    return choose_columns("labels", column, names, where)[0]


def _check_flat(path: Path, asked: Asked) -> None:
    """Raise unless a column of the table may hold a label for each row."""
    if not asked.may_be_flat:
        lists = "" if asked.task == "segmentation" else " without lists"
        raise InvalidInputError(f"labels: task={asked.task!r} (--task) is not for a column of {path}{lists}")


class ParquetLabels(LabelFile):
    """Labels in a column of a Parquet file: of numbers or names, or of lists with the labels of sentences.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    asked : Asked
        Of tokens and tags the column may hold lists.
    """

    suffixes, has_columns = (".parquet", ".pq"), True

    def __init__(self, path: Path, column: str | None, asked: Asked) -> None:
        pa = arrow()
        from pyarrow import parquet

        self.path, self.where = path, str(path)
        try:
            with parquet.ParquetFile(path) as reader:
                self.schema, self.n_rows = reader.schema_arrow, reader.metadata.num_rows
                codec = reader.metadata.row_group(0).column(0).compression if self.n_rows else "SNAPPY"
        except (OSError, pa.ArrowException) as error:
            raise InvalidInputError(f"labels: {path} is not a readable Parquet file: {error}") from error
        self._compression = "NONE" if codec == "UNCOMPRESSED" else codec  # the writer's name of it
        self.column = only_column(column, self.schema.names, self.where)
        field = self.schema.field(self.column)
        kind = field.type
        lists = isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
        self._has_lists = lists and asked.task in ("tags", "tokens")
        if not self._has_lists:
            _check_flat(path, asked)
        item = kind.value_type if self._has_lists else kind
        self.type = item.value_type if pa.types.is_dictionary(item) else item
        self.nullable = kind.value_field.nullable if self._has_lists else field.nullable
        if pa.types.is_integer(self.type) or pa.types.is_floating(self.type) or pa.types.is_boolean(self.type):
            self.dtype = np.dtype(self.type.to_pandas_dtype())
        elif pa.types.is_string(self.type) or pa.types.is_large_string(self.type) or self.type == pa.string_view():
            self.dtype = np.dtype(object)
        else:
            hint = f"; for lists {SAY_TASK}" if pa.types.is_nested(kind) else ""
            raise InvalidInputError(
                f"labels: column {self.column!r} of {path} has the type {kind}: no numbers or names{hint}"
            )
        if self._has_lists:
            self.block_rows = _BLOCK_LISTS
            self._open_lists(asked)

    @classmethod
    def open(cls, path: Path, column: str | None, asked: Asked) -> LabelFile:
        """Open a column of a Parquet file."""
        return (ParquetTags if asked.task == "tags" else cls)(path, column, asked)

    def _open_lists(self, asked: Asked) -> None:  # noqa: ARG002
        """Take the tokens of sentences as rows."""
        lengths, first = [np.empty(0, np.int64)], 0
        for batch in self._batches([self.column]):
            lengths.append(list_lengths("labels", batch.column(0), first, self.where))
            first += len(batch)
        self.group_rows = ends(np.concatenate(lengths))
        self.n_rows = int(self.group_rows[-1])

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path) as reader:
                yield from reader.iter_batches(self.block_rows, columns=columns)
        except (OSError, arrow().ArrowException) as error:
            raise UnreadableDataError(f"labels: {self.path} is not a readable Parquet file: {error}") from error

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as objects if some are missing."""
        for batch in self._batches([self.column]):
            array = self._items(batch.column(0))
            if arrow().types.is_dictionary(array.type):
                array = array.dictionary_decode()
            if array.null_count:
                yield _objects(array.to_pylist())
            else:
                yield array.to_numpy(zero_copy_only=False).astype(self.dtype, copy=False)

    def _items(self, column: Any) -> Any:
        """Return the labels in some lines of the column, one for each row."""
        return list_items(column) if self._has_lists else column

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a table of the same columns, types and metadata."""
        pa = arrow()
        from pyarrow import parquet

        place, start = self.schema.names.index(self.column), 0
        field = self.schema.field(place)
        with parquet.ParquetWriter(path, self.schema, compression=self._compression) as writer:
            for batch in self._batches(None):
                column = batch.column(place)
                n_rows = len(column) * self.n_tags or len(self._items(column))
                changed = within(rows, start, n_rows)
                if changed.stop > changed.start:
                    column = self._corrected_column(column, rows[changed] - start, values[changed])
                    batch = batch.set_column(place, field, column)  # noqa: PLW2901  # the same batch, corrected
                writer.write_table(pa.Table.from_batches([batch], self.schema))
                start += n_rows

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        """Return some lines of the column with other labels at some of its rows."""
        pa = arrow()
        from pyarrow import compute

        items = self._items(column)
        kind, mask = items.type, np.zeros(len(items), np.bool_)
        mask[places] = True
        # Views of strings can be cast, and nothing else.
        own = pa.large_string() if self.type == pa.string_view() else self.type
        plain = items.dictionary_decode() if pa.types.is_dictionary(kind) else items
        new = compute.replace_with_mask(plain.cast(own), pa.array(mask), pa.array(values.tolist(), own)).cast(self.type)
        new = _encoded(new, items.dictionary, kind) if pa.types.is_dictionary(kind) else new
        if not self._has_lists:
            return new
        if isinstance(column.type, pa.FixedSizeListType):
            return pa.FixedSizeListArray.from_arrays(new, type=column.type)
        is_large = isinstance(column.type, pa.LargeListType)
        offsets = pa.array(ends(list_lengths("labels", column, 0, "")), pa.int64() if is_large else pa.int32())
        return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(offsets, new, type=column.type)


def _encoded(items: Any, known: Any, kind: Any) -> Any:
    """Return values as codes of the names that are `known`, in their order, and of new ones after them."""
    pa = arrow()
    from pyarrow import compute

    new = compute.unique(items.filter(compute.invert(compute.is_in(items, known)))).drop_null()
    names = pa.concat_arrays([known, new])
    if len(names) > np.iinfo(kind.index_type.to_pandas_dtype()).max + 1:
        raise InvalidInputError(
            f"labels: codes of {kind.index_type} cannot number {len(names):,} names: write the column with wider codes"
        )
    codes = compute.index_in(items, names).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(codes, names, ordered=kind.ordered)


class ParquetTags(ParquetLabels):
    """Tags of examples in a column of lists of a Parquet file, or in one with a line for each row."""

    def _open_lists(self, asked: Asked) -> None:
        self.n_tags = self.group_rows = n_tags = asked.n_tags()
        self._names, self._tags = asked.names, asked.names if self.dtype == object else None
        self.dtype, self.nullable, self.n_rows = class_dtype(2 * n_tags), False, self.n_rows * n_tags
        self.block_rows = max(1, min(_BLOCK_LISTS, _BLOCK_TAGS // n_tags))

    def blocks(self) -> Iterator[Values]:
        """Yield whether examples have tags, as classes."""
        if not self._has_lists:
            yield from super().blocks()
            return
        first = 0
        for batch in self._batches([self.column]):
            n_lists = len(batch)
            try:
                yield open_lists(batch.column(0), n_lists, self.n_tags, self._names)[: n_lists * self.n_tags]
            except (InvalidInputError, InputTypeError) as error:
                where = f"labels: {self.where}, lines from {first:,} on, counted from 0 there"
                raise type(error)(f"{where}: {error}") from error
            first += n_lists

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        if not self._has_lists:
            return super()._corrected_column(column, places, values)
        pa, lists = arrow(), _edited(column.to_pylist(), self._tags or range(self.n_tags), places, values)
        try:
            return pa.array(lists, column.type)
        except pa.ArrowInvalid as error:
            raise InvalidInputError(
                f"output: column {self.column!r} of {self.where} has the type {column.type}, which cannot hold the "
                f"corrected tags: {error}"
            ) from error


class CsvLabels(LabelFile):
    """Labels in a column of a CSV file, as text.

    Parameters
    ----------
    path : Path
        The file, in UTF-8, with a header.
    column : str or None
        The column; may be None if the file has only one.
    """

    suffixes, has_columns, dtype, nullable = (".csv",), True, np.dtype(object), True

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.where = path, str(path)
        _, names = next(self._lines(), ("", None))
        if names is None:
            raise InvalidInputError(f"labels: {path} is empty")
        self.column = only_column(column, names, self.where)
        self._place = names.index(self.column)
        self.n_rows = sum(map(len, self.blocks()))

    @classmethod
    def open(cls, path: Path, column: str | None, asked: Asked) -> Self:
        """Open a column of a CSV file."""
        _check_flat(path, asked)
        return cls(path, column)

    def _lines(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each record as it is in the file, and its cells; the header is the first."""
        taken, width = list[str](), 0
        try:
            with self.path.open(encoding="utf-8", newline="") as file:

                def noted() -> Iterator[str]:
                    for line in file:
                        taken.append(line)
                        yield line if width else line.removeprefix("\ufeff")

                reader = csv.reader(noted(), strict=True)
                for cells in reader:
                    if not width:
                        width = len(cells)
                    elif cells and len(cells) != width:
                        raise InvalidInputError(
                            f"labels: line {reader.line_num:,} of {self.path} has {len(cells)} cells, "
                            f"its header has {width}"
                        )
                    yield "".join(taken), cells
                    taken.clear()
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise UnreadableDataError(f"labels: {self.path} is not a readable CSV file: {error}") from error

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as text."""
        # An empty line is no row.
        cells = (cells[self._place] for _, cells in itertools.islice(self._lines(), 1, None) if cells)
        while block := list(itertools.islice(cells, self.block_rows)):
            yield np.array(block, object)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write the table; lines whose label does not change are copied as they are."""
        new, row = dict(zip(rows.tolist(), values.tolist(), strict=True)), -1
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, (text, cells) in enumerate(self._lines()):
                row += bool(cells) and number > 0
                if not cells or not number or row not in new:
                    file.write(text)
                    continue
                cells[self._place] = "" if new[row] is None else new[row]
                line = io.StringIO(newline="")
                csv.writer(line, lineterminator="\r\n").writerow(cells)  # quotes only what its own line ends have
                file.write(line.getvalue().removesuffix("\r\n") + text[len(text.rstrip("\r\n")) :])


# Lists in memory -----------------------------------------------------------------------------------------------------


class TokenLists(ArrayLabels):
    """Labels of the tokens of sentences in memory, as lists of lists or of arrays.

    Parameters
    ----------
    labels : sequence of sequence of int or str
        The labels of each sentence.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, labels: Any) -> None:
        flat, lengths = join_labels(labels)
        self.group_rows = ends(lengths)
        is_sequence = isinstance(labels, list | tuple | np.ndarray)
        self._are_arrays = is_sequence and all(isinstance(one, np.ndarray) for one in labels)
        if not self._are_arrays and isinstance(flat, np.ndarray) and np.can_cast(flat.dtype, np.int64):
            flat = flat.astype(np.int64)  # Python's numbers, joined as narrow as they are
        # Numbers of which some are missing; an array has none that is.
        self._are_whole = isinstance(flat, np.ndarray) or all(
            isinstance(one, int | np.integer) and not isinstance(one, bool) for one in flat if not is_missing(one)
        )
        super().__init__(_objects(flat) if isinstance(flat, list) else flat)
        self.nullable = not self._are_arrays

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the labels of each sentence, with `values` in `rows`: arrays if all were arrays, else lists."""
        flat = super().corrected(rows, values)
        if self._are_arrays:
            return np.split(flat, np.asarray(self.group_rows)[1:-1])
        labels = flat.tolist()
        if self._are_whole and flat.dtype.kind in "fO":  # whole numbers, of which some are missing
            labels = [None if is_missing(one) else int(one) if isinstance(one, float) else one for one in labels]
        edges = np.asarray(self.group_rows).tolist()
        return [labels[start:stop] for start, stop in itertools.pairwise(edges)]

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a Parquet file with a column ``labels`` of lists."""
        _write_lists(path, self.corrected(rows, values))


class TagListLabels(SourceLabels):
    """Lists of the tags of examples in memory.

    Parameters
    ----------
    labels : sequence of sequence of int or str, or a column of these
        The tags of each example.
    asked : Asked
        Number or names of the tags.
    """

    def __init__(self, labels: Any, asked: Asked) -> None:
        if type(labels).__module__.partition(".")[0] == "polars":
            labels = labels.to_arrow()
        if not hasattr(labels, "__len__"):
            raise InputTypeError(f"labels must be a list of the tags of each example, not {type(labels).__name__}")
        n_tags, names = asked.n_tags(), asked.names
        rows = open_lists(labels, len(labels), n_tags, names)
        super().__init__(rows, None, n_tags, n_tags, (".parquet", ".pq"))
        convert = getattr(labels, "to_pylist", None) or getattr(labels, "tolist", None)
        self._lists: list[Any] = list(labels) if convert is None else convert()
        first = next(itertools.chain.from_iterable(self._lists), None)
        self._tags = names if names is not None and (first is None or isinstance(first, str)) else range(n_tags)

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the lists, with the tags of `rows` added or taken away."""
        return _edited(self._lists, self._tags, rows, values)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a Parquet file with a column ``labels`` of lists."""
        _write_lists(path, self.corrected(rows, values))


def _write_lists(path: Path, lists: Sequence[Any]) -> None:
    pa = arrow()
    from pyarrow import parquet

    parquet.write_table(pa.table({"labels": pa.array(lists)}), path)


def _edited(lists: Sequence[Any], tags: Sequence[Any], rows: Int64s, labels: Values) -> list[list[Any]]:
    """Return the lists of tags of examples after changes of some rows, which ascend.

    Tags that stay keep their order. Those that are added come at the end, or where they belong if tags ascend.
    """
    found, number_of = [list(one) for one in lists], {tag: number for number, tag in enumerate(tags)}
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        example, tag = divmod(row, len(tags))
        own, changed = found[example], tags[tag]
        if not label % 2:
            own.remove(changed)
            continue
        numbers = [number_of[one] for one in own]
        ascend = all(one < other for one, other in itertools.pairwise(numbers))
        own.insert(sum(one < tag for one in numbers) if ascend else len(own), changed)
    return found


# Which form labels have ----------------------------------------------------------------------------------------------

FORMS: dict[str, type[LabelFile]] = {
    ".npy": SourceLabels,
    ".zarr": ZarrLabels,
    ".parquet": ParquetLabels,
    ".pq": ParquetLabels,
    ".csv": CsvLabels,
}


def open_given_labels(
    labels: Any,
    layout: Layout | None,
    *,
    column: str | None = None,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
) -> LabelFile:
    """Open labels that are to be corrected, or whose rows are those of a result.

    Parameters
    ----------
    labels : path or array-like
        A file of one of `FORMS`, an array in memory, or whatever else holds an array, such as shards, ``.npz`` files
        and URLs. ``table.parquet::label`` names a column of a table.
    layout : Layout or None
        Where the rows of the result are, if they are parts of groups; None without a result. With a layout, labels may
        also be one array with a label for each row.
    column : str, optional
        The column of a table; may be missing if there is only one.
    task : str, optional
        What a label belongs to, one of `TASKS`, in place of that of the layout. Without it arrays of three axes are
        masks, and all else must have one axis.
    class_names : sequence of str, optional
        Names of the tags, if rows are tags; by default those of the layout.

    Raises
    ------
    InvalidInputError
        If there is no such file or column, or the labels do not have the axes of the task.
    InputTypeError
        For another kind of object.
    """
    of_result = task is None and layout is not None
    task = layout.task if layout is not None and task is None else task
    tags = class_names or (None if layout is None else layout.tags)
    asked = Asked(task, tags, of_result or task in (None, "classification", "tokens"))
    if type(labels).__module__.partition(".")[0] == "zarr" and hasattr(labels, "chunks"):
        labels = ZarrSource(labels).folder or labels[...]
    if _are_shards(labels):
        files = image_files("labels", labels)
        if files is not None:
            return _of_images(files, f"{len(files):,} image files", asked)
        return SourceLabels(*asked.rows_of(open_places("labels", labels)))
    if isinstance(labels, str | os.PathLike):
        return _of_place(labels, column, asked)
    if column is not None:
        raise InvalidInputError("column is for labels in a Parquet or CSV file: give the column itself as labels")
    return _of_memory(labels, asked)


def _of_place(labels: str | os.PathLike[str], column: str | None, asked: Asked) -> LabelFile:
    """Open what is at a path or URL."""
    place, member = split_member(check_place("labels", labels))
    table, _, named = place.rpartition("::")
    tables = tuple(suffix for suffix, form in FORMS.items() if form.has_columns)
    if table.lower().endswith(tables) and "://" not in named and not Path(place).exists():
        if column is not None:
            raise InvalidInputError(f"labels: {place} names a column, and so does column={column!r}")
        place, column = table, named
    local, where = local_path(place), without_query(place)
    path = None if local is None else Path(local).absolute()
    is_zarr = path is not None and path.is_dir() and is_zarr_folder(path)
    suffix = ".zarr" if is_zarr else Path(where).suffix.lower()
    if column is not None and suffix not in tables:
        raise InvalidInputError(f"labels: {where} has no columns: column is for Parquet and CSV files")
    if path is None and suffix in tables:
        raise InvalidInputError(f"labels: {where} is a URL: a table is corrected in a local file")
    is_several = path is None or (path.is_dir() and not is_zarr) or (is_pattern(str(path)) and not path.exists())
    files = None if path is None or is_zarr else image_files("labels", path)
    if files is not None:
        return _of_images(files, where, asked)
    if path is None or is_several or member or suffix in ARCHIVE_SUFFIXES:
        return SourceLabels(*asked.rows_of(open_place("labels", labels)))
    if not path.exists():
        raise InvalidInputError(f"labels: there is no file {path}")
    if suffix not in FORMS:
        raise InvalidInputError(f"labels: {path} must be a Zarr array or end in one of {', '.join(FORMS)}")
    return FORMS[suffix].open(path, column, asked)


def _of_images(files: Sequence[ImageFileSource], where: str, asked: Asked) -> LabelFile:
    """Open masks in image files."""
    if asked.task not in (None, "segmentation"):
        raise InvalidInputError(f"labels: task={asked.task!r} (--task) is not for masks in image files, as {where}")
    return MaskFiles(files, where)


def _of_memory(labels: Any, asked: Asked) -> LabelFile:
    """Open an array or lists in memory."""
    task = asked.task
    if hasattr(labels, "tocsr"):
        raise InvalidInputError("labels are a sparse matrix: give labels.toarray(), or the lists of tags")
    depth, n_axes = _depth_of(labels), getattr(labels, "ndim", 0)
    if task is None and depth > 1 and not n_axes and depth != _MASK_AXES:
        raise InvalidInputError(f"labels are lists of lists: {SAY_TASK}")
    if depth <= 1 and asked.may_be_flat:
        return ArrayLabels(labels)
    if task == "segmentation" or (task is None and depth == _MASK_AXES):
        return _masks_in_memory(labels)
    if task not in ("tags", "tokens"):
        return ArrayLabels(labels)
    if n_axes == 2 or (task == "tags" and n_axes):
        array = ArraySource(_unmasked(labels))
        if array.dtype != object and task == "tags":
            return SourceLabels(*asked.rows_of(array))
        if array.dtype != object:  # sentences of one length
            return SourceLabels(ArraySource(array.array.reshape(-1)), array, array.shape[1])
    return TagListLabels(labels, asked) if task == "tags" else TokenLists(labels)


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
    return SourceLabels(images.rows, ArraySource(array), int(images.sizes[0].prod()))


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
