"""Tables: files and objects whose columns are labels, probabilities and ids."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.arrow import ArrowTable, BatchesSource
from labelsieve.sources.columns import (
    LocalTableFile,
    TableFile,
    arrow,
    choose_columns,
    columns_of,
    common_length,
    open_file,
)
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.names import category_names
from labelsieve.sources.npy import RemoteFile
from labelsieve.sources.parquet import ParquetTable
from labelsieve.sources.places import expand, is_pattern, local_path, open_all
from labelsieve.sources.source import Source
from labelsieve.storage.remote import check_place, is_url, without_query


class MemoryTable:
    """A table in memory. Only the columns that are named are converted to Arrow."""

    def __init__(self, data: Any, where: str) -> None:
        self._data, self.where = data, where
        self.names: list[str] = _names(data)

    def taken(self, named: Mapping[str, Any]) -> MemoryTable:
        """Return a table of the columns that are meant, all taken at once.

        A query runs each time that its rows are asked for, and may give them in another order each time.
        """
        chosen = [choose_columns(name, wanted, self.names, self.where) for name, wanted in named.items()]
        return MemoryTable(self.to_arrow(list(dict.fromkeys(itertools.chain(*chosen)))), self.where)

    def arrow_column(self, column: str) -> Any:
        """Return one column as an Arrow array in chunks."""
        return self.to_arrow([column]).column(0)

    def source(self, name: str, wanted: Any, *, with_nulls: bool = False) -> Source:
        """Return the source of one or more columns."""
        table = self.to_arrow(list(choose_columns(name, wanted, self.names, self.where)))

        def list_width(column: str) -> int:
            counts = [(len(chunk), len(chunk.flatten())) for chunk in table.column(column).chunks]
            return common_length(name, column, counts, self.where)

        several = table.column_names if len(table.column_names) > 1 else table.column_names[0]
        columns = columns_of(name, several, table.schema, self.where, list_width, with_nulls=with_nulls)
        table = table.combine_chunks() if columns.width is None else table
        return BatchesSource.of_table(table.to_batches(), columns)

    def batches(self, columns: tuple[str, ...]) -> list[Any]:
        """Return all record batches with these columns."""
        batches: list[Any] = self.to_arrow(list(columns)).to_batches()
        return batches

    def to_arrow(self, columns: list[str]) -> Any:
        """Return some columns as a ``pyarrow.Table``, without a copy where the package of the table has none to make.

        Any object with Arrow's ``__arrow_c_stream__`` will do; some packages convert only the columns that are meant.
        """
        data, pa, package = self._data, arrow(), _package(self._data)
        if isinstance(data, dict):
            arrays = {column: _to_array(column, data[column]) for column in columns}
            if len(set(map(len, arrays.values()))) > 1:
                lengths = ", ".join(f"{column!r} has {len(array):,}" for column, array in arrays.items())
                raise InvalidInputError(f"data: the columns of the dict differ in their number of rows: {lengths}")
            return pa.table(arrays)
        if package == "datasets":
            # Rows that were selected or shuffled are copied into order; others are those of the mapped files.
            in_order = getattr(data, "_indices", None) is None
            data = data.data.table if in_order else data.select_columns(columns).with_format("arrow")[:]
        elif package == "duckdb":
            data = data.project(", ".join('"' + column.replace('"', '""') + '"' for column in columns))
        elif package in ("pandas", "polars"):
            data = data[columns]
        return pa.table(data).select(columns)


def open_memory_table(data: Any, argument: str = "data") -> MemoryTable:
    """Open a table in memory.

    Parameters
    ----------
    data : pandas.DataFrame, polars.DataFrame, pyarrow.Table, duckdb.DuckDBPyRelation, datasets.Dataset, dict of arrays
        Or any object with Arrow's ``__arrow_c_stream__`` that can be read more than once.
    argument : str
        The argument of the user that it is, for messages.

    Raises
    ------
    InputTypeError
        For anything else; with what to give instead of a lazy frame, a stream or several splits.
    """
    arrow()
    package = _package(data)
    kind = type(data).__name__ if package == "builtins" else f"{package} {type(data).__name__}"
    instead = {
        "polars LazyFrame": "give its .collect(), or the files that it reads",
        "pyarrow RecordBatchReader": "it can be read only once: give its .read_all(), or store it as a Parquet file",
        "datasets DatasetDict": "it has several splits: give one of them, such as data['train']",
        "datasets IterableDataset": "it can only be read in order: store it as a Parquet file",
        "dask DataFrame": "give its .compute(), or store it with .to_parquet() and give the folder",
    }
    if kind in instead:
        raise InputTypeError(f"{argument} is a {kind}: {instead[kind]}")
    names = _names(data)
    known = package in ("pandas", "polars", "pyarrow", "duckdb", "datasets") and names
    if not known and not isinstance(data, dict) and not hasattr(data, "__arrow_c_stream__"):
        raise InputTypeError(
            f"{argument} must be a path, a URL, a pattern or a list of Parquet or Arrow files, or a table of pandas, "
            f"Polars, Arrow, DuckDB or Hugging Face datasets; not {type(data).__name__}"
        )
    if not names:
        raise InvalidInputError(f"{argument}: the {kind} has no columns")
    return MemoryTable(data, f"the {kind}")


def _package(data: Any) -> str:
    return type(data).__module__.partition(".")[0].removeprefix("_")


def _names(data: Any) -> list[str]:
    """Return the names of the columns."""
    if isinstance(data, dict):
        return list(data)
    for attribute in ("column_names", "columns"):
        names = getattr(data, attribute, None)
        if names is not None and not callable(names):
            return list(names)
    pa = arrow()
    try:
        return list(pa.table(data).column_names) if hasattr(data, "__arrow_c_stream__") else []
    except (pa.ArrowException, TypeError, ValueError):  # one column, such as a Series, is no table
        return []


def _to_array(column: str, values: Any) -> Any:
    """Return a NumPy array or a list as Arrow's; an array of two axes becomes lists without a copy."""
    pa = arrow()
    if getattr(values, "ndim", 1) == 2 and hasattr(values, "reshape"):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInputError(f"data: column {column!r} is not readable: {error}") from error


# Suffixes of files that are tables, where a folder has other files too.
TABLE_SUFFIXES: Final = (".parquet", ".pq", ".arrow", ".feather", ".ipc")

# The first bytes of the files of each format, and what opens them, given the argument's name and the file. What is
# opened has `names`, `where` and `n_rows`, and the methods `source` and `arrow_column` of `ParquetTable`.
TABLES: Final[dict[bytes, Callable[[str, TableFile], ParquetTable | ArrowTable]]] = {
    b"PAR1": ParquetTable,
    b"ARROW1": ArrowTable,
    b"\xff\xff\xff\xff": ArrowTable,  # the stream format
}


def open_columns(
    data: Any, labels: Any, pred_probs: Any, ids: Any = None, *, null_labels: bool = False
) -> tuple[Any, Any, Any]:
    """Return labels, probabilities and ids, with sources in place of those that are columns of a table.

    Only footers are read. Text is the name of a column; anything else, such as an array or a `Path`, is returned as it
    is.

    Parameters
    ----------
    data : path, URL, pattern, list of these, or table in memory
        Parquet and Arrow files, or anything that `open_table` takes.
    labels, ids : str or object
        Column of labels, and of the user's names of rows.
    pred_probs : str, list of str or object
        A column of lists, or one column for each class: as a list, or as a pattern such as ``"p_*"``.
    null_labels : bool
        Whether rows without a label are accepted.

    Raises
    ------
    InvalidInputError
        For a missing table or column, and for a column of a type that does not fit.
    InputTypeError
        For an object that is not a table, or if neither labels nor probabilities are columns of it.
    """
    given = {"labels": labels, "pred_probs": pred_probs, "ids": ids}
    named: dict[str, Any] = {name: one for name, one in given.items() if isinstance(one, str)}
    if isinstance(pred_probs, list | tuple) and all(isinstance(one, str) for one in pred_probs):
        named["pred_probs"] = pred_probs
    if "labels" not in named and "pred_probs" not in named:
        raise InputTypeError("data is a table, so name its columns: labels='label', pred_probs='probs'")
    table = open_table(data)
    table = table.taken(named) if isinstance(table, MemoryTable) else table
    sources = {
        name: table.source(name, one, with_nulls=null_labels and name == "labels") for name, one in named.items()
    }
    found = given | sources
    package = _package(data)
    if "labels" in named and (
        package == "pandas" or (package in ("polars", "pyarrow") and category_names(data[labels]))
    ):
        found["labels"] = data[labels]  # whose categories have an order
    return found["labels"], found["pred_probs"], found["ids"]


def open_table(data: Any, argument: str = "data") -> MemoryTable | Files:
    """Open a table; of files only footers are read.

    Parameters
    ----------
    data : path, URL, pattern, list of these, or table in memory
        As `open_columns` takes it.
    argument : str
        The argument of the user that it is, for messages about files.

    Raises
    ------
    InvalidInputError
        If there is no such file, or it is neither a Parquet nor an Arrow file.
    InputTypeError
        For an object that is not a table.
    """
    if not is_places(data):
        return open_memory_table(data)
    openers, where = _find_files(argument, data)
    return Files(open_all([partial(_open_file, argument, opener) for opener in openers]), where)


def list_column(name: str, data: Any, column: str) -> Any:
    """Return a column of lists as an Arrow array in chunks, read whole.

    Parameters
    ----------
    name : str
        What it is, for messages.
    data : path, URL, pattern, list of these, or table in memory
        As `open_columns` takes it.
    column : str
        Name of the column.

    Raises
    ------
    InvalidInputError
        For a missing table or column.
    InputTypeError
        For an object that is not a table, or a column of anything but lists.
    """
    pa, table = arrow(), open_table(data)
    choose_columns(name, column, table.names, table.where)
    found = table.arrow_column(column)
    if not isinstance(found.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        raise InputTypeError(f"{name}: column {column!r} of {table.where} has the type {found.type}, not lists")
    return found


class Files:
    """The tables of several files, one after the other.

    Parameters
    ----------
    tables : sequence of ParquetTable or ArrowTable
        The table in each file.
    where : str
        The place for messages.
    """

    def __init__(self, tables: Sequence[ParquetTable | ArrowTable], where: str) -> None:
        # A file without rows does not know the length of its lists.
        self.tables, self.where = [table for table in tables if table.n_rows] or tables[:1], where
        self._is_folder = len(tables) > 1 or where != tables[0].where
        self.names: list[str] = self.tables[0].names

    def source(self, name: str, wanted: Any, *, with_nulls: bool = False) -> Source:
        """Return the source of the columns that the user means, of all files."""
        parts = [table.source(name, wanted, with_nulls=with_nulls) for table in self.tables]
        found = parts[0] if len(parts) == 1 else ShardsSource.checked(name, parts, self.where)
        found.listed_at = self.where if self._is_folder else None
        return found

    def arrow_column(self, column: str) -> Any:
        """Return a column of all files as an Arrow array in chunks, read whole."""
        found = [table.arrow_column(column) for table in self.tables]
        return arrow().chunked_array([chunk for one in found for chunk in one.chunks], found[0].type)


def is_places(data: Any) -> bool:
    """Return whether `data` is a path or a URL, or a list of these."""
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(one, str | os.PathLike) for one in data)
    return isinstance(data, str | os.PathLike)


def _open_file(argument: str, opener: Callable[[], TableFile]) -> ParquetTable | ArrowTable:
    file = opener()
    opened = open_file(file)
    try:
        head = opened.read(6)
    except OSError as error:
        raise InvalidInputError(f"{argument}: {file.where} is not readable: {error}") from error
    finally:
        opened.close()
    kind = next((found for magic, found in TABLES.items() if head.startswith(magic)), None)
    if kind is None:
        raise InvalidInputError(f"{argument}: {file.where} is neither a Parquet nor an Arrow file")
    return kind(argument, file)


def _find_files(argument: str, data: Any) -> tuple[list[Callable[[], TableFile]], str]:
    """Return functions that return the files, in order, and the place for messages."""
    arrow()
    if isinstance(data, list | tuple):
        found = [_files_at(argument, check_place(argument, place)) for place in data]
        places = [place for openers in found for place, _ in openers]
        twice = next((place for place in places if places.count(place) > 1), None) if len(places) < 10_000 else None
        if twice is not None:
            raise InvalidInputError(f"{argument}: {without_query(twice)} is listed twice")
        openers = [opener for files in found for _, opener in files]
        return openers, without_query(check_place(argument, data[0]))
    place = check_place(argument, data)
    shown = without_query(place) if is_url(place) else str(Path(place).absolute())
    return [opener for _, opener in _files_at(argument, place)], shown


def _files_at(argument: str, place: str) -> list[tuple[str, Callable[[], TableFile]]]:
    """Return the place of each file, and what returns it with its version, in natural order.

    In a folder, and the folders in it, names with a dot or underscore first are not data.
    """
    local = local_path(place)
    path = None if local is None else Path(local).absolute()  # a worker may run in another folder
    found, where = expand(argument, place, () if path else TABLE_SUFFIXES, "**/*"), str(path or place)
    if found is None and path and not path.exists():
        raise InvalidInputError(f"{argument}: there is no file {path}")
    if found is None:
        found = {where: {}}
    elif path.is_dir() if path else not is_pattern(place.partition("?")[0]):
        inside = {one: re.split(r"[/\\]", one.removeprefix(where)) for one in found}
        hidden = {one for one, parts in inside.items() if any(part[:1] in (".", "_") for part in parts)}
        found = {one: found[one] for one in found if one.lower().endswith(TABLE_SUFFIXES) and one not in hidden}
        if not found:
            raise InvalidInputError(
                f"{argument}: {without_query(where)} has no files whose names end in {', '.join(TABLE_SUFFIXES)}"
            )
    if path is None:
        return [(one, partial(RemoteFile.at, argument, one, info)) for one, info in found.items()]
    return [(one, partial(LocalTableFile.at, one)) for one in found if not Path(one).is_dir()]
