"""Labels where they are stored, with some values replaced: ``.npy``, Zarr, a column of Parquet or CSV, or in memory.

Each form reads the labels of some rows, and writes a copy of all with other labels in some rows. What is beside the
labels is kept: the other columns of a table, and chunks, codecs and attributes of a Zarr array.
"""

from __future__ import annotations

import abc
import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.sources.columns import arrow, choose_columns
from labelsieve.sources.label_names import is_missing
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open_path import local_path
from labelsieve.sources.zarr_arrays import ZarrSource, is_zarr_folder
from labelsieve.sources.zarr_chunks import local_folder
from labelsieve.storage.urls import check_place, without_query

Rows: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]
# Rows that are read, changed and written at a time: 8 MB of int64.
_BLOCK_ROWS: Final = 1 << 20
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
    """

    where: str
    suffixes: tuple[str, ...]
    dtype: np.dtype[Any]
    nullable = False

    @property
    @abc.abstractmethod
    def n_rows(self) -> int:
        """Number of labels."""

    @abc.abstractmethod
    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, in blocks."""

    @abc.abstractmethod
    def write(self, path: Path, rows: Rows, values: Values) -> None:
        """Write all labels to `path`, with `values` in `rows`, which ascend."""

    def take(self, rows: Rows) -> Values:
        """Return the labels of `rows`, which ascend."""
        found = [block[rows[_within(rows, start, len(block))] - start] for start, block in self._numbered()]
        return np.concatenate(found)

    def take_and_count(self, rows: Rows) -> tuple[Values, Counter[Any]]:
        """Return the labels of `rows`, which ascend, and how many rows have each label: None for missing ones."""
        found, counts = list[Values](), Counter[Any]()
        for start, block in self._numbered():
            found.append(block[rows[_within(rows, start, len(block))] - start])
            _add_counts(counts, block)
        return np.concatenate(found), counts

    def corrected(self, rows: Rows, values: Values) -> Values:
        """Return all labels in memory, with `values` in `rows`, which ascend."""
        found = np.concatenate(list(self.blocks()))
        found = found.astype(_wide_enough(found.dtype, values))
        found[rows] = values
        return found

    def _numbered(self) -> Iterator[tuple[int, Values]]:
        """Yield the blocks with the numbers of their first rows."""
        start = 0
        for block in self.blocks():
            yield start, block
            start += len(block)


def _add_counts(total: Counter[Any], block: Values) -> None:
    """Add how many rows have each label; missing ones are one more."""
    if block.dtype.kind in "iu" and len(block) and _highest(block) < _MOST_COUNTED:
        counts = np.bincount(block.astype(np.intp, copy=False))
        labels = np.flatnonzero(counts)
        total.update(dict(zip(labels.tolist(), counts[labels].tolist(), strict=True)))
    elif block.dtype.kind in "iufbUS":
        labels, counts = np.unique(block, return_counts=True)
        names = [None if is_missing(label) else label for label in labels.tolist()]
        total.update(dict(zip(names, counts.tolist(), strict=True)))
    else:
        total.update(None if is_missing(label) else label for label in block.tolist())


def _highest(block: Values) -> int:
    """Return the highest label; a negative one is higher than all others, as its sign is the first bit."""
    return int(block.view(f"{block.dtype.byteorder}u{block.itemsize}").max())


def _within(rows: Rows, start: int, n_rows: int) -> slice:
    """Return where `rows`, which ascend, are in ``[start, start + n_rows)``."""
    first, last = np.searchsorted(rows, (start, start + n_rows)).tolist()
    return slice(first, last)


def _wide_enough(dtype: np.dtype[Any], values: Values) -> np.dtype[Any]:
    """Return the dtype of labels, or one that `values` need: for longer text, or for missing values among numbers."""
    if dtype.kind in "iufb" and values.dtype.kind == "O":
        return values.dtype
    if dtype.kind in "US" and len(values) and values.dtype.itemsize > dtype.itemsize:
        return np.promote_types(dtype, values.dtype)
    return dtype


def open_label_file(labels: Any, column: str | None = None) -> LabelFile:
    """Open labels that are to be corrected.

    Parameters
    ----------
    labels : path or array-like
        A ``.npy`` file, a Zarr array, a ``.parquet`` or ``.csv`` file, or an array in memory.
    column : str, optional
        The column of a table.

    Raises
    ------
    InvalidInputError
        If there is no such file or column, or the labels have not one axis.
    InputTypeError
        For another kind of object.
    """
    if type(labels).__module__.partition(".")[0] == "zarr" and hasattr(labels, "chunks"):
        labels = local_folder(labels) or labels[...]
    if not isinstance(labels, str | os.PathLike):
        if column is not None:
            raise InvalidInputError("column is for labels in a Parquet or CSV file: give the column itself as labels")
        return ArrayLabels(labels)
    place = check_place("labels", labels)
    local = local_path(place)
    if local is None:
        raise InvalidInputError(f"labels: {without_query(place)} is a URL: corrections are made of local files")
    path = Path(local).absolute()
    if not path.exists():
        raise InvalidInputError(f"labels: there is no file {path}")
    is_zarr = path.is_dir() and is_zarr_folder(path)
    suffix = ".zarr" if is_zarr else path.suffix.lower()
    if path.is_dir() and not is_zarr:
        raise InvalidInputError(f"labels: {path} is a folder, not a Zarr array: apply decisions to one file at a time")
    if suffix in (".npy", ".zarr") and column is not None:
        raise InvalidInputError(f"labels: {path} has no columns: column is for Parquet and CSV files")
    if suffix == ".npy":
        return NpyLabels(path)
    if suffix == ".zarr":
        return ZarrLabels(path)
    if suffix in (".parquet", ".pq"):
        return ParquetLabels(path, column)
    if suffix == ".csv":
        return CsvLabels(path, column)
    raise InvalidInputError(f"labels: {path} must be a .npy, .parquet or .csv file or a Zarr array")


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
        to_numpy = getattr(labels, "to_numpy", None)
        self.values = np.asarray(labels if to_numpy is None else to_numpy())
        if self.values.dtype.kind == "O":
            kinds = {type(value) for value in self.values.tolist() if not is_missing(value)}
            if kinds and not any(issubclass(kind, str) for kind in kinds):
                self.values = np.array(self.values.tolist())  # numbers, if none is missing
            if not all(issubclass(kind, str) for kind in kinds) and self.values.dtype.kind == "O":
                names = ", ".join(sorted(kind.__name__ for kind in kinds))
                raise InvalidInputError(
                    f"labels are objects of {names}, not all names: give them as numbers or as text"
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

    def write(self, path: Path, rows: Rows, values: Values) -> None:
        """Write a ``.npy`` file or a Zarr array."""
        found = self.corrected(rows, values)
        if path.suffix == ".zarr":
            import zarr

            zarr.create_array(path, data=found.astype(np.dtypes.StringDType()) if found.dtype.kind == "O" else found)
            return
        if found.dtype.kind in "OT":  # NumPy stores objects as pickles
            found = found.astype(str)
        with path.open("wb") as file:
            np.lib.format.write_array(file, found, allow_pickle=False)


def _checked_dtype(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> np.dtype[Any]:
    if len(shape) != 1:
        raise InvalidInputError(f"{where}: labels must have one axis (N,), not shape {tuple(shape)}")
    if dtype.kind not in "iufbUSTO":
        raise InvalidInputError(f"{where}: labels must be numbers or names, not {dtype}")
    return dtype


class NpyLabels(LabelFile):
    """Labels in a ``.npy`` file.

    Parameters
    ----------
    path : Path
        The file.
    """

    suffixes = (".npy",)

    def __init__(self, path: Path) -> None:
        self.source = NpySource.from_path("labels", path)
        self.where = self.source.where
        self.dtype = _checked_dtype(self.source.dtype, self.source.shape, self.where)

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return self.source.n_rows

    def take(self, rows: Rows) -> Values:
        """Return the labels of `rows`; what lies between them is not read where they are far apart."""
        return self.source.take(rows)

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order; the memory of a block is used again."""
        with self.source.open() as opened:
            for start in range(0, self.n_rows, _BLOCK_ROWS):
                yield opened.read(start, min(start + _BLOCK_ROWS, self.n_rows))

    def corrected(self, rows: Rows, values: Values) -> Values:
        """Return all labels in memory, with `values` in `rows`."""
        found = self.source[: self.n_rows]
        found = found.astype(_wide_enough(found.dtype, values))
        found[rows] = values
        return found

    def write(self, path: Path, rows: Rows, values: Values) -> None:
        """Write a ``.npy`` file of the same dtype, or a wider one where names are longer."""
        dtype = _wide_enough(self.dtype, values)
        descr = np.lib.format.dtype_to_descr(dtype)
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": descr, "fortran_order": False, "shape": (self.n_rows,)}
            )
            for start, block in self._numbered():
                changed, own = _within(rows, start, len(block)), block.astype(dtype, copy=False)
                own = own if own.flags.writeable else own.copy()
                own[rows[changed] - start] = values[changed]
                file.write(own.view(np.uint8).data if own.itemsize else b"")


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
        self._step = max(1, _BLOCK_ROWS // stored) * stored

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return int(self.array.shape[0])

    def take(self, rows: Rows) -> Values:
        """Return the labels of `rows`; chunks without any of them are not read."""
        return self.source.take(rows) if self.dtype.kind != "T" else super().take(rows)

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, in whole chunks."""
        for start in range(0, self.n_rows, self._step):
            yield self.array[start : start + self._step]

    def write(self, path: Path, rows: Rows, values: Values) -> None:
        """Copy the array, and encode those chunks again whose labels change."""
        import zarr

        dtype = _wide_enough(self.dtype, values)
        if dtype == self.dtype:
            shutil.copytree(self.path, path)
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
                attributes=old.attrs.asdict(),
                zarr_format=old.metadata.zarr_format,
            )
            starts = np.arange(0, self.n_rows, self._step)
        with self.source.open() as opened:
            for start in starts.tolist():
                stop = min(start + self._step, self.n_rows)
                # The source decodes into memory that it uses again; it does not read text of any length.
                block = self.array[start:stop] if dtype.kind == "T" else opened.read(start, stop)
                own, changed = block.astype(dtype, copy=not block.flags.writeable), _within(rows, start, len(block))
                own[rows[changed] - start] = values[changed]
                target[start:stop] = own


class ParquetLabels(LabelFile):
    """Labels in a column of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    """

    suffixes, nullable = (".parquet", ".pq"), True

    def __init__(self, path: Path, column: str | None) -> None:
        pa = arrow()
        from pyarrow import parquet

        self.path, self.where = path, str(path)
        try:
            with parquet.ParquetFile(path) as reader:
                self.schema, self._n_rows = reader.schema_arrow, reader.metadata.num_rows
                self._compression = reader.metadata.row_group(0).column(0).compression if self._n_rows else "snappy"
        except (OSError, pa.ArrowException) as error:
            raise InvalidInputError(f"labels: {path} is not a readable Parquet file: {error}") from error
        self.column = _only_column(column, self.schema.names, self.where)
        kind = self.schema.field(self.column).type
        self.type = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_integer(self.type) or pa.types.is_floating(self.type) or pa.types.is_boolean(self.type):
            self.dtype = np.dtype(self.type.to_pandas_dtype())
        elif pa.types.is_string(self.type) or pa.types.is_large_string(self.type) or self.type == pa.string_view():
            self.dtype = np.dtype(object)
        else:
            raise InvalidInputError(
                f"labels: column {self.column!r} of {path} has the type {kind}: no numbers or names"
            )

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return int(self._n_rows)

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as reader:
            yield from reader.iter_batches(_BLOCK_ROWS, columns=columns)

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as objects if some are missing."""
        for batch in self._batches([self.column]):
            array = self._plain(batch.column(0))
            if array.null_count:
                values: Values = np.empty(len(array), object)
                values[:] = array.to_pylist()
                yield values
            else:
                yield array.to_numpy(zero_copy_only=False).astype(self.dtype, copy=False)

    def _plain(self, array: Any) -> Any:
        """Return an array of values in place of one of codes."""
        return array.dictionary_decode() if arrow().types.is_dictionary(array.type) else array

    def take(self, rows: Rows) -> Values:
        """Return the labels of `rows`."""
        return super().take(rows) if self.n_rows else np.empty(0, self.dtype)

    def write(self, path: Path, rows: Rows, values: Values) -> None:
        """Write a table of the same columns, types and metadata."""
        pa = arrow()
        from pyarrow import compute, parquet

        place, start = self.schema.names.index(self.column), 0
        field = self.schema.field(place)
        with parquet.ParquetWriter(path, self.schema, compression=self._compression) as writer:
            for batch in self._batches(None):
                changed = _within(rows, start, len(batch))
                if changed.stop > changed.start:
                    items = self._plain(batch.column(place))
                    mask = np.zeros(len(batch), np.bool_)
                    mask[rows[changed] - start] = True
                    new = pa.array(values[changed].tolist(), self.type)
                    items = compute.replace_with_mask(items, pa.array(mask), new)
                    if pa.types.is_dictionary(field.type):
                        items = _encoded(items, batch.column(place).dictionary, field.type)
                    batch = batch.set_column(place, field, items)  # noqa: PLW2901  # the same batch, corrected
                writer.write_table(pa.Table.from_batches([batch], self.schema))
                start += len(batch)


def _encoded(items: Any, known: Any, kind: Any) -> Any:
    """Return values as codes of the names that are `known`, in their order, and of new ones after them."""
    pa = arrow()
    from pyarrow import compute

    new = compute.unique(items.filter(compute.invert(compute.is_in(items, known)))).drop_null()
    names = pa.concat_arrays([known, new])
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
        self.column = _only_column(column, self.names, self.where)
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
            if len(block) == _BLOCK_ROWS:
                yield np.array(block, object)
                block = []
        yield np.array(block, object)

    def write(self, path: Path, rows: Rows, values: Values) -> None:
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


def _only_column(column: str | None, names: list[str], where: str) -> str:
    """Return the column that the user means."""
    if column is None and len(names) == 1:
        return names[0]
    if column is None:
        shown = ", ".join(map(repr, names[:10]))
        raise InvalidInputError(f"labels: {where} has the columns {shown}: name the one with the labels by column")
    return choose_columns("labels", column, names, where)[0]
