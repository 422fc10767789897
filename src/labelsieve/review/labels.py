"""Labels in arrays, with some values replaced: in memory, ``.npy``, Zarr, and what else holds an array.

Each form reads the labels of some rows, and writes a copy of all with other labels in some rows. What is beside the
labels is kept: the other columns of a table, and chunks, codecs and attributes of a Zarr array.
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
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.thresholds import Int64s, class_dtype
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.multilabel_classification.rows import TagMatrix, open_lists
from labelsieve.results.units import Layout, TagLayout, ends
from labelsieve.segmentation.rows import (
    IMAGE_SUFFIXES,
    ImageFileSource,
    image_files,
    masks_of_files,
    open_masks,
    pillow,
)
from labelsieve.sources.arrays import ArraySource, in_memory
from labelsieve.sources.columns import arrow, choose_columns, list_items, list_lengths
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.names import is_missing
from labelsieve.sources.npy import ARCHIVE_SUFFIXES, NpySource, split_member
from labelsieve.sources.places import are_places, is_pattern, local_path, open_place, open_places
from labelsieve.sources.source import Source
from labelsieve.sources.zarr import ZarrSource, is_zarr_folder
from labelsieve.storage.remote import check_place, without_query
from labelsieve.token_classification.rows import depth_of, join_labels

Values: TypeAlias = npt.NDArray[Any]
# Part of messages about labels that could be of several tasks.
SAY_TASK: Final = "give task='tokens', task='tags' or task='segmentation'"
# Labels whose rows are counted one class after the other.
_MOST_COUNTED: Final = 1 << 22


class LabelFile(abc.ABC):
    """Labels that can be read, and written again with other values in some rows.

    Attributes
    ----------
    where : str
        Path, or kind of object, for messages.
    suffixes : tuple of str
        Endings of outputs that have this form.
    dtype : dtype
        Of the values; of objects for text of any length.
    nullable : bool
        Whether a label can be missing.
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
    dtype: np.dtype[Any]
    nullable = False
    block_rows = 1 << 20
    group_rows: int | Int64s = 1
    n_tags = 0

    @property
    @abc.abstractmethod
    def n_rows(self) -> int:
        """Number of labels."""

    @abc.abstractmethod
    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, in blocks."""

    @abc.abstractmethod
    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write all labels to `path`, with `values` in `rows`, which ascend."""

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`, which ascend."""
        found = [block[rows[within(rows, start, len(block))] - start] for start, block in self.numbered()]
        return np.concatenate(found)

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
        return np.concatenate(found), counts

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
        found = np.concatenate(list(self.blocks()))
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
    if block.dtype.kind in "iu" and len(block) and _highest_unsigned(block) < _MOST_COUNTED:
        counts = np.bincount(block.astype(np.intp, copy=False))
        labels = np.flatnonzero(counts)
        total.update(dict(zip(labels.tolist(), counts[labels].tolist(), strict=True)))
    elif block.dtype.kind in "iufbUS":
        labels, counts = np.unique(block, return_counts=True)
        names = [None if is_missing(label) else label for label in labels.tolist()]
        total.update(dict(zip(names, counts.tolist(), strict=True)))
    else:
        total.update(None if is_missing(label) else label for label in block.tolist())


def _highest_unsigned(block: Values) -> int:
    """Return the highest label; a negative one is higher than all others, as its sign is the first bit."""
    return int(block.view(f"{block.dtype.byteorder}u{block.itemsize}").max())


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
                filled = [math.nan if is_missing(value) else value for value in self.values.tolist()]
                self.values = np.array(filled)
            elif kinds in ({bool}, {np.bool_}, {bytes}) and not any(map(is_missing, self.values.tolist())):
                self.values = np.array(self.values.tolist())
            if not all(issubclass(kind, str) for kind in kinds) and self.values.dtype.kind == "O":
                names = ", ".join(sorted(kind.__name__ for kind in kinds))
                hint = f"; for lists {SAY_TASK}" if kinds & {list, tuple, np.ndarray} else ""
                raise InvalidInputError(
                    f"labels are objects of {names}, not all names: give them as numbers or as text{hint}"
                )
        self.dtype = _checked_dtype(self.values.dtype, self.values.shape, self.where)
        self.nullable = self.dtype.kind == "O"

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return len(self.values)

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
        if path.suffix == ".zarr":
            import zarr

            zarr.create_array(path, data=found.astype(np.dtypes.StringDType()) if found.dtype.kind == "O" else found)
            return
        if found.dtype.kind in "OT":  # NumPy stores objects as pickles
            found = np.array(found.tolist(), str)
        with path.open("wb") as file:
            np.lib.format.write_array(file, found, allow_pickle=False)


def _in_memory(labels: Any) -> Values:
    """Return a list or a column as an array."""
    if isinstance(labels, np.ma.MaskedArray):
        values = labels.data
        if np.ma.is_masked(labels):
            values = values.astype(object)
            values[np.ma.getmaskarray(labels)] = None
        return values
    if type(labels).__module__.partition(".")[0] == "pyarrow" and hasattr(labels, "to_pylist"):
        items = labels.to_pylist()
        values = np.empty(len(items), object)
        values[:] = items
        return values
    to_numpy = getattr(labels, "to_numpy", None)
    return np.asarray(labels if to_numpy is None else to_numpy())


def _checked_dtype(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> np.dtype[Any]:
    if len(shape) != 1:
        hint = f"; for more axes {SAY_TASK}" if len(shape) > 1 else ""
        raise InvalidInputError(f"{where}: labels must have one axis (N,), not shape {tuple(shape)}{hint}")
    if dtype.kind not in "iufbUSTO":
        raise InvalidInputError(f"{where}: labels must be numbers or names, not {dtype}")
    return dtype


class SourceLabels(LabelFile):
    """Labels that can be read, but not written in the same form: shards, arrays in archives, whatever is at a URL.

    Parameters
    ----------
    source : Source
        The array.
    """

    suffixes: tuple[str, ...] = (".npy", ".zarr")

    def __init__(self, source: Source) -> None:
        self.source, self.where = source, source.where
        self.dtype = _checked_dtype(source.dtype, source.shape, self.where)
        if self.dtype.kind in "OT":
            raise InvalidInputError(f"labels: {self.where} holds text of any length: copy it to a local Zarr array")

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return self.source.n_rows

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`; what lies between them is not read where they are far apart."""
        return self.source.take(rows)

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the shards, or the archive."""
        return is_file_of(self.source, path)

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order; the memory of a block is used again."""
        with self.source.open() as opened:
            for start in range(0, self.n_rows, self.block_rows):
                yield opened.read(start, min(start + self.block_rows, self.n_rows))

    def corrected(self, rows: Int64s, values: Values) -> Values:
        """Return all labels in memory, with `values` in `rows`."""
        found = self.source[: self.n_rows]
        found = found.astype(wide_enough(found.dtype, values))
        found[rows] = values
        return found

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a ``.npy`` file or a Zarr array of the same dtype, or a wider one where names are longer."""
        dtype = wide_enough(self.dtype, values)
        if path.suffix == ".zarr":
            import zarr

            target = zarr.create_array(path, shape=(self.n_rows,), dtype=dtype, chunks=(self.block_rows,))
            for start, block in self.corrected_blocks(rows, values, self.block_rows):
                target[start : start + len(block)] = block
            return
        blocks = self.corrected_blocks(rows, values, self.block_rows)
        write_npy(path, dtype, (self.n_rows,), (block for _, block in blocks))

    def corrected_blocks(self, rows: Int64s, values: Values, step: int) -> Iterator[tuple[int, Values]]:
        """Yield all labels, `step` at a time, with `values` in `rows`, and the numbers of their first rows."""
        dtype = wide_enough(self.dtype, values)
        with self.source.open() as opened:
            for start in range(0, self.n_rows, step):
                block = opened.read(start, min(start + step, self.n_rows))
                changed = within(rows, start, len(block))
                if changed.stop > changed.start:
                    # The memory may be the user's, or a file's.
                    block = block.astype(dtype, copy=self.source.facts.in_memory or not block.flags.writeable)
                    block[rows[changed] - start] = values[changed]
                yield start, block.astype(dtype, copy=False)


def is_file_of(source: Source, path: Path) -> bool:
    """Return whether a path is a file that a source reads: the array itself, one of its shards, or its archive."""
    sources = source.children if isinstance(source, ShardsSource) else (source,)
    files = [Path(place) for one in sources if (place := local_path(split_member(one.where)[0])) is not None]
    return any(file.exists() and path.samefile(file) for file in files)


def write_npy(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[Values]) -> None:
    """Write a ``.npy`` file in the order of C.

    Parameters
    ----------
    path : Path
        The file.
    dtype : dtype
        Of the values.
    shape : tuple of int
        Of the array.
    blocks : iterable of (n,) array
        All its values in order.
    """
    descr = np.lib.format.dtype_to_descr(dtype)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block).view(np.uint8).data if block.itemsize else b"")


def copy_zarr(source: Path, target: Path) -> None:
    """Copy the folder of a Zarr array.

    Raises
    ------
    OSError
        If it cannot be read or written.
    """
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # a list of all files
        raise OSError(error.args[0][0][2]) from error


class NpyLabels(SourceLabels):
    """Labels in a ``.npy`` file.

    Parameters
    ----------
    path : Path
        The file.
    """

    suffixes = (".npy",)

    def __init__(self, path: Path) -> None:
        super().__init__(NpySource.from_path("labels", path))


class ZarrLabels(LabelFile):
    """Labels in a local Zarr array of format 2 or 3.

    Parameters
    ----------
    path : Path
        The folder.
    """

    suffixes = (".zarr",)

    def __init__(self, path: Path) -> None:
        self.source, self.path = ZarrSource.from_path("labels", path), path
        self.array, self.where = self.source.array, str(path)
        self.dtype = _checked_dtype(np.dtype(self.array.dtype), self.array.shape, self.where)
        stored = int((self.array.shards or self.array.chunks)[0])
        self._step = max(1, self.block_rows // stored) * stored

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return int(self.array.shape[0])

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`; chunks without any of them are not read."""
        return self.source.take(rows) if self.dtype.kind != "T" else super().take(rows)

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, in whole chunks."""
        for start in range(0, max(1, self.n_rows), self._step):
            yield self.array[start : start + self._step]

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Copy the array, and encode those chunks again whose labels change."""
        import zarr

        dtype = wide_enough(self.dtype, values)
        if dtype == self.dtype:
            copy_zarr(self.path, path)
            target = zarr.open_array(path, mode="r+")
            starts = np.unique(rows // self._step) * self._step
        else:
            old = self.array
            target = zarr.create_array(
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
            )
            starts = np.arange(0, self.n_rows, self._step)
        with self.source.open() as opened:
            for start in starts.tolist():
                stop = min(start + self._step, self.n_rows)
                # The source decodes into memory that it uses again; it does not read text of any length.
                block = self.array[start:stop] if dtype.kind == "T" else opened.read(start, stop)
                own, changed = block.astype(dtype, copy=not block.flags.writeable), within(rows, start, len(block))
                own[rows[changed] - start] = values[changed]
                target[start:stop] = own


# Changed values of a Zarr array that are written at a time.
_CHANGED: Final = 1 << 20


class GridLabels(SourceLabels):
    """Labels in an array of several axes, which is written as a ``.npy`` file or a Zarr array of the same shape.

    Parameters
    ----------
    rows : Source
        ``(n_rows,)`` labels, a row for each value of the array.
    stored : Source
        The array.
    group_rows, n_tags : int
        As of `LabelFile`.
    suffixes : tuple of str
        Endings of outputs.
    """

    def __init__(
        self,
        rows: Source,
        stored: Source,
        group_rows: int,
        n_tags: int = 0,
        suffixes: tuple[str, ...] = (".npy", ".zarr"),
    ) -> None:
        super().__init__(rows)
        self.stored, self.group_rows, self.n_tags, self.suffixes = stored, group_rows, n_tags, suffixes

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the shards, or the archive."""
        return is_file_of(self.stored, path)

    def as_stored(self, labels: Values) -> Values:
        """Return labels as values of the array: whether an example has a tag, and the class of a pixel."""
        if self.n_tags:
            return (labels & 1).astype(self.stored.dtype)
        return _as_booleans(labels) if self.stored.dtype.kind == "b" else labels

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the array in memory, with `values` in `rows`."""
        return self.as_stored(super().corrected(rows, values)).reshape(self.stored.shape)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a ``.npy`` file or a Zarr array of the same shape and dtype."""
        shape, dtype = self.stored.shape, self.as_stored(np.empty(0, wide_enough(self.dtype, values))).dtype
        if path.suffix == ".zarr":
            import zarr

            width = math.prod(shape[1:])
            step = max(1, self.block_rows // width)
            target = zarr.create_array(path, shape=shape, dtype=dtype, chunks=(min(step, shape[0]), *shape[1:]))
            for start, block in self.corrected_blocks(rows, values, step * width):
                first, n = start // width, len(block) // width
                target[first : first + n] = self.as_stored(block).reshape(n, *shape[1:])
            return
        blocks = self.corrected_blocks(rows, values, self.block_rows)
        write_npy(path, dtype, shape, (self.as_stored(block) for _, block in blocks))


def _as_booleans(labels: Values) -> Values:
    if labels.max(initial=0) > 1:
        raise InvalidInputError(f"labels are booleans, which cannot hold the class {labels.max()}")
    return labels.astype(np.bool_)


class ZarrGrid(GridLabels):
    """Labels in a local Zarr array of several axes, of format 2 or 3.

    Parameters
    ----------
    rows, stored, group_rows, n_tags
        As of `GridLabels`.
    path : Path
        The folder.
    """

    def __init__(self, rows: Source, stored: Source, group_rows: int, n_tags: int, path: Path) -> None:
        super().__init__(rows, stored, group_rows, n_tags, (".zarr",))
        self.path, self.where = path, str(path)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Copy the array, and encode those chunks again whose labels change."""
        import zarr

        copy_zarr(self.path, path)
        target = zarr.open_array(path, mode="r+")
        for start in range(0, len(rows), _CHANGED):
            part = slice(start, start + _CHANGED)
            target.vindex[np.unravel_index(rows[part], target.shape)] = self.as_stored(values[part])


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

    suffixes: tuple[str, ...] = ()

    def __init__(self, rows: Source, sizes: Int64s, *, are_booleans: bool = False) -> None:
        super().__init__(rows)
        self._are_booleans = are_booleans
        self.sizes: Sequence[tuple[int, int]] = [(height, width) for height, width in sizes.tolist()]
        self.group_rows = ends(sizes[:, 0] * sizes[:, 1])

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the masks, with `values` in `rows`."""
        labels = super().corrected(rows, values)
        labels = _as_booleans(labels) if self._are_booleans else labels
        flat = np.split(labels, np.asarray(self.group_rows)[1:-1])
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

    suffixes = ("",)

    def __init__(self, files: Sequence[ImageFileSource], where: str) -> None:
        other = [file.where for file in files if file.path.suffix.lower() != ".png"]
        if other:
            raise InvalidInputError(f"labels: {other[0]} is not a PNG file: masks in image files are corrected as PNG")
        images = masks_of_files(files, str(files[0].path))
        super().__init__(images.rows, images.sizes)
        self.where, self.files = where, files

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the files, or a folder above one."""
        place = path.resolve()
        return any(place == file.path or place in file.path.parents for file in self.files)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a folder of files of the same names; those that do not change are copied as they are."""
        names, starts = self._names(), np.asarray(self.group_rows).tolist()
        path.mkdir()
        for file, name, start in zip(self.files, names, starts, strict=False):
            target, changed = path / name, within(rows, start, file.n_rows)
            target.parent.mkdir(parents=True, exist_ok=True)
            if changed.start == changed.stop:
                shutil.copyfile(file.path, target)
            else:
                _write_changed(file, target, rows[changed] - start, values[changed])

    def _names(self) -> list[Path]:
        """Return the paths of the files from the folder that holds all of them."""
        places = [Path(os.path.normpath(file.path)) for file in self.files]  # with ".." a name may lead elsewhere
        [(repeated, times)] = Counter(places).most_common(1)
        if times > 1:
            raise InvalidInputError(f"output: labels names {repeated} {times} times: leave output out")
        above = os.path.commonpath([place.parent for place in places])
        return [place.relative_to(above) for place in places]


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


class ParquetLabels(LabelFile):
    """Labels in a column of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, path: Path, column: str | None) -> None:
        pa = arrow()
        self.path, self.where = path, str(path)
        with open_parquet(path) as reader:
            self.schema, self._n_rows = reader.schema_arrow, reader.metadata.num_rows
            codec = reader.metadata.row_group(0).column(0).compression if self._n_rows else "SNAPPY"
            self._compression = "NONE" if codec == "UNCOMPRESSED" else codec  # the writer's name of it
        self.column = only_column(column, self.schema.names, self.where)
        self.nullable = self.schema.field(self.column).nullable
        kind = self.schema.field(self.column).type
        self.type = self._value_type(kind)
        if pa.types.is_integer(self.type) or pa.types.is_floating(self.type) or pa.types.is_boolean(self.type):
            self.dtype = np.dtype(self.type.to_pandas_dtype())
        elif pa.types.is_string(self.type) or pa.types.is_large_string(self.type) or self.type == pa.string_view():
            self.dtype = np.dtype(object)
        else:
            hint = f"; for lists {SAY_TASK}" if pa.types.is_nested(kind) else ""
            raise InvalidInputError(
                f"labels: column {self.column!r} of {path} has the type {kind}: no numbers or names{hint}"
            )

    def _value_type(self, kind: Any) -> Any:
        """Return the type of the values of a column."""
        return kind.value_type if arrow().types.is_dictionary(kind) else kind

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return int(self._n_rows)

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path) as reader:
                batches = reader.iter_batches(self.block_rows, columns=columns)
                while (batch := next(batches, None)) is not None:
                    yield batch
        except (OSError, arrow().ArrowException) as error:
            raise UnreadableDataError(f"labels: {self.path} is not a readable Parquet file: {error}") from error

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as objects if some are missing."""
        for batch in self._batches([self.column]):
            yield self._values(batch.column(0))

    def _values(self, column: Any) -> Values:
        """Return the labels of some lines of the table."""
        array = self._plain(column)
        if array.null_count:
            values: Values = np.empty(len(array), object)
            values[:] = array.to_pylist()
            return values
        found: Values = array.to_numpy(zero_copy_only=False).astype(self.dtype, copy=False)
        return found

    def _rows_in(self, column: Any) -> int:
        """Return the number of labels of some lines of the table."""
        return len(column)

    def _plain(self, array: Any) -> Any:
        """Return an array of values in place of one of codes."""
        return array.dictionary_decode() if arrow().types.is_dictionary(array.type) else array

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`."""
        return super().take(rows) if self.n_rows else np.empty(0, self.dtype)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a table of the same columns, types and metadata."""
        pa = arrow()
        from pyarrow import parquet

        place, start = self.schema.names.index(self.column), 0
        field = self.schema.field(place)
        with parquet.ParquetWriter(path, self.schema, compression=self._compression) as writer:
            for batch in self._batches(None):
                column = batch.column(place)
                n_rows = self._rows_in(column)
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

        items, mask = self._plain(column), np.zeros(len(column), np.bool_)
        mask[places] = True
        # Views of strings can be cast, and nothing else.
        own = pa.large_string() if self.type == pa.string_view() else self.type
        new = pa.array(values.tolist(), own)
        items = compute.replace_with_mask(items.cast(own), pa.array(mask), new).cast(self.type)
        return _encoded(items, column.dictionary, column.type) if pa.types.is_dictionary(column.type) else items


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


class CsvLabels(LabelFile):
    """Labels in a column of a CSV file, as text.

    Parameters
    ----------
    path : Path
        The file, in UTF-8, with a header.
    column : str or None
        The column; may be None if the file has only one.
    """

    suffixes, dtype, nullable = (".csv",), np.dtype(object), True

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.where = path, str(path)
        for _, cells in self._lines():
            self.names = cells
            break
        else:
            raise InvalidInputError(f"labels: {path} is empty")
        self.column = only_column(column, self.names, self.where)
        self._place = self.names.index(self.column)

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

    @cached_property
    def n_rows(self) -> int:
        """Number of labels."""
        return sum(map(len, self.blocks()))

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as text."""
        lines, block = self._lines(), list[str]()
        next(lines)
        for _, cells in lines:
            if cells:  # an empty line is no row
                block.append(cells[self._place])
            if len(block) == self.block_rows:
                yield np.array(block, object)
                block = []
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


def open_parquet(path: Path) -> Any:
    """Open a Parquet file, to be closed by a ``with`` block.

    Raises
    ------
    InvalidInputError
        If it is not a readable Parquet file.
    MissingDependencyError
        Without pyarrow.
    """
    pa = arrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"labels: {path} is not a readable Parquet file: {error}") from error


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


# Lists that are read, changed and written at a time.
_BLOCK_LISTS = 1 << 16
# Rows of tags that are made at a time.
_BLOCK_TAGS = 1 << 22


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
        self.group_rows, self._are_arrays = ends(lengths), _are_arrays(labels)
        if not self._are_arrays and isinstance(flat, np.ndarray) and np.can_cast(flat.dtype, np.int64):
            flat = flat.astype(np.int64)  # Python's numbers, joined as narrow as they are
        # Numbers of which some are missing; an array has none that is.
        self._are_whole = isinstance(flat, np.ndarray) or all(
            isinstance(one, int | np.integer) and not isinstance(one, bool) for one in flat if not is_missing(one)
        )
        if isinstance(flat, list):  # NumPy would make text of all if one is text
            values = np.empty(len(flat), object)
            values[:] = flat
            flat = values
        super().__init__(flat)
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


def _are_arrays(labels: Any) -> bool:
    return isinstance(labels, list | tuple | np.ndarray) and all(isinstance(one, np.ndarray) for one in labels)


def _write_lists(path: Path, lists: Sequence[Any]) -> None:
    pa = arrow()
    from pyarrow import parquet

    parquet.write_table(pa.table({"labels": pa.array(lists)}), path)


class TagListLabels(SourceLabels):
    """Lists of the tags of examples in memory.

    Parameters
    ----------
    labels : sequence of sequence of int or str, or a column of these
        The tags of each example.
    n_tags : int
        Number of tags K.
    names : sequence of str, optional
        Names of the tags, if these are given by name.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, labels: Any, n_tags: int, names: Sequence[str] | None) -> None:
        if type(labels).__module__.partition(".")[0] == "polars":
            labels = labels.to_arrow()
        if not hasattr(labels, "__len__"):
            raise InputTypeError(f"labels must be a list of the tags of each example, not {type(labels).__name__}")
        super().__init__(open_lists(labels, len(labels), n_tags, names))
        self.group_rows = self.n_tags = n_tags
        convert = getattr(labels, "to_pylist", None) or getattr(labels, "tolist", None)
        self._lists: list[Any] = list(labels) if convert is None else convert()
        first = next(itertools.chain.from_iterable(self._lists), None)
        self._edit = _TagEdit(n_tags, names if first is None or isinstance(first, str) else None)

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the lists, with the tags of `rows` added or taken away."""
        return self._edit.edited(self._lists, rows, values)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a Parquet file with a column ``labels`` of lists."""
        _write_lists(path, self.corrected(rows, values))


class _TagEdit:
    """Adds tags to lists, and takes them away.

    Parameters
    ----------
    n_tags : int
        Number of tags K.
    names : sequence of str or None
        Their names, if lists hold names.
    """

    def __init__(self, n_tags: int, names: Sequence[str] | None) -> None:
        self._tags: list[Any] = list(range(n_tags)) if names is None else list(names)
        self._number = {tag: number for number, tag in enumerate(self._tags)}

    def edited(self, lists: Sequence[Any], rows: Int64s, labels: Values) -> list[list[Any]]:
        """Return all lists after changes of some rows, which ascend.

        Tags that stay keep their order. Those that are added come at the end, or where they belong if tags ascend.
        """
        found = [list(one) for one in lists]
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            example, tag = divmod(row, len(self._tags))
            own, changed = found[example], self._tags[tag]
            if not label % 2:
                own.remove(changed)
                continue
            numbers = [self._number[one] for one in own]
            ascend = all(one < other for one, other in itertools.pairwise(numbers))
            own.insert(sum(one < tag for one in numbers) if ascend else len(own), changed)
        return found


class _ParquetLists(ParquetLabels):
    """Labels in a column of lists of a Parquet file."""

    def _value_type(self, kind: Any) -> Any:
        return super()._value_type(_item_type(kind))


class ParquetTokens(_ParquetLists):
    """Labels of the tokens of sentences in a column of lists of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    """

    block_rows = _BLOCK_LISTS

    def __init__(self, path: Path, column: str | None) -> None:
        super().__init__(path, column)
        lengths, first = [np.empty(0, np.int64)], 0
        for batch in self._batches([self.column]):
            lengths.append(list_lengths("labels", batch.column(0), first, self.where))
            first += len(batch)
        self.group_rows = ends(np.concatenate(lengths))
        self.nullable = self.schema.field(self.column).type.value_field.nullable

    @property
    def n_rows(self) -> int:
        """Number of tokens."""
        return int(np.asarray(self.group_rows)[-1])

    def _values(self, column: Any) -> Values:
        return super()._values(list_items(column))

    def _rows_in(self, column: Any) -> int:
        return len(list_items(column))

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        return _relisted(column, super()._corrected_column(list_items(column), places, values))


def is_column_of_lists(path: Path, column: str | None) -> bool:
    """Return whether a column of a Parquet file holds lists.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.

    Raises
    ------
    InvalidInputError
        If there is no such file or column.
    """
    with open_parquet(path) as reader:
        schema = reader.schema_arrow
    kind = schema.field(only_column(column, schema.names, str(path))).type
    return _item_type(kind) is not kind


def _item_type(kind: Any) -> Any:
    """Return the type of the items of a type of lists; any other type is returned as it is."""
    pa = arrow()
    return kind.value_type if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType) else kind


def _relisted(column: Any, items: Any) -> Any:
    """Return lists of the same lengths as those in `column`, of other items."""
    pa = arrow()
    if isinstance(column.type, pa.FixedSizeListType):
        return pa.FixedSizeListArray.from_arrays(items, type=column.type)
    is_large = isinstance(column.type, pa.LargeListType)
    offsets = pa.array(ends(list_lengths("labels", column, 0, "")), pa.int64() if is_large else pa.int32())
    return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(offsets, items, type=column.type)


class ParquetTags(_ParquetLists):
    """Tags of examples in a column of lists of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    n_tags : int
        Number of tags K.
    names : sequence of str, optional
        Names of the tags, if these are given by name.
    """

    def __init__(self, path: Path, column: str | None, n_tags: int, names: Sequence[str] | None) -> None:
        super().__init__(path, column)
        self._edit = _TagEdit(n_tags, names if self.dtype == object else None)
        self.dtype, self.nullable = class_dtype(2 * n_tags), False
        self.group_rows, self.n_tags, self._names = n_tags, n_tags, names
        self.block_rows = max(1, min(_BLOCK_LISTS, _BLOCK_TAGS // n_tags))

    @property
    def n_rows(self) -> int:
        """Number of examples times number of tags."""
        return super().n_rows * self.n_tags

    def blocks(self) -> Iterator[Values]:
        """Yield whether examples have tags, as classes."""
        first = 0
        for batch in self._batches([self.column]):
            try:
                yield self._values(batch.column(0))
            except (InvalidInputError, InputTypeError) as error:
                where = f"labels: {self.where}, lines from {first:,} on, counted from 0 there"
                raise type(error)(f"{where}: {error}") from error
            first += len(batch)

    def _values(self, column: Any) -> Values:
        return open_lists(column, len(column), self.n_tags, self._names)[: self._rows_in(column)]

    def _rows_in(self, column: Any) -> int:
        return len(column) * self.n_tags

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        pa, lists = arrow(), self._edit.edited(column.to_pylist(), places, values)
        try:
            return pa.array(lists, column.type)
        except pa.ArrowInvalid as error:
            raise InvalidInputError(
                f"output: column {self.column!r} of {self.where} has the type {column.type}, which cannot hold the "
                f"corrected tags: {error}"
            ) from error


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
        labels = ZarrSource(labels).folder or labels[...]
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
            raise InvalidInputError(f"labels: task={self._task!r} is not for masks in image files, as {where}")
        return MaskFiles(files, where)

    def of_table(self, path: Path, column: str | None) -> LabelFile:
        """Open a column of a table."""
        is_csv = path.suffix.lower() == ".csv"
        has_lists = not is_csv and self._task in ("tags", "tokens") and is_column_of_lists(path, column)
        if not self._may_be_flat and not has_lists:
            lists = "" if self._task == "segmentation" else " without lists"
            raise InvalidInputError(f"labels: task={self._task!r} is not for a column of {path}{lists}")
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


def open_given_labels(
    labels: Any,
    layout: Layout | None,
    *,
    column: str | None = None,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
) -> LabelFile:
    """Open labels whose rows are those of a result.

    Parameters
    ----------
    labels : path or array-like
        As of `labelsieve.apply_decisions`; with a layout also one array with a label for each row.
    layout : Layout or None
        Where the rows of the result are, if they are parts of groups; None without a result.
    column : str, optional
        The column of a table.
    task : str, optional
        One of `TASKS`, in place of that of the layout.
    class_names : sequence of str, optional
        Names of the tags, if rows are tags; by default those of the layout.

    Raises
    ------
    InvalidInputError, InputTypeError
        As `open_label_file`.
    """
    tags = class_names or ((layout.names or layout.n_tags) if isinstance(layout, TagLayout) else None)
    known = None if task is not None or layout is None else layout.task
    return open_label_file(labels, column, task or known, tags, of_result=known is not None)
