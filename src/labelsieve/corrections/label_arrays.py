"""Labels in arrays, with some values replaced: in memory, ``.npy``, Zarr, and what else holds an array.

Each form reads the labels of some rows, and writes a copy of all with other labels in some rows. What is beside the
labels is kept: the other columns of a table, and chunks, codecs and attributes of a Zarr array.
"""

from __future__ import annotations

import abc
import math
import numbers
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.archives import split_member
from labelsieve.sources.base import Source
from labelsieve.sources.label_names import is_missing
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open_path import local_path
from labelsieve.sources.shards import ShardsSource
from labelsieve.sources.zarr_arrays import ZarrSource

Values: TypeAlias = npt.NDArray[Any]
# Part of messages about labels that could be of several tasks.
SAY_TASK: Final = "say what they are: task='tokens', 'tags' or 'segmentation' (--task)"
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
                hint = f"; of lists {SAY_TASK}" if kinds & {list, tuple, np.ndarray} else ""
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
            raise InvalidInputError(
                f"output: {int(gone.sum()):,} labels are missing, the first in row {int(gone.argmax()):,}, and a "
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
        hint = f"; of more axes {SAY_TASK}" if len(shape) > 1 else ""
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
                    block = block.astype(dtype, copy=self.source.in_memory or not block.flags.writeable)
                    block[rows[changed] - start] = values[changed]
                yield start, block.astype(dtype, copy=False)


def is_file_of(source: Source, path: Path) -> bool:
    """Return whether a path is a file that a source reads: the array itself, one of its shards, or its archive."""
    sources = source.shards if isinstance(source, ShardsSource) else (source,)
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
