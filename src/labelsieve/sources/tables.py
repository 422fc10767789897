"""Tables: files and objects whose columns are labels, probabilities and ids, or row summaries."""

from __future__ import annotations

import abc
import copy
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summarize import FIELDS, RecordedSummarizer, recorded_columns, summary_dtype
from labelsieve.confident_learning.thresholds import Bools
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.arrow import ArrowTable, BatchesSource
from labelsieve.sources.columns import (
    LocalTableFile,
    TableFile,
    arrow,
    choose_columns,
    columns_of,
    common_length,
    decoded,
    missing_column,
    open_file,
)
from labelsieve.sources.composite import CompositeSource, ShardsSource
from labelsieve.sources.names import category_names
from labelsieve.sources.npy import RemoteFile
from labelsieve.sources.parquet import ParquetTable
from labelsieve.sources.places import expand, is_pattern, local_path, open_all
from labelsieve.sources.source import MissingRows, ReadFacts, Rows, Source
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


class SummarySource(Source):
    """A description of row summaries.

    A subclass says how they are read, in `open_raw`. One that keeps more of each row than its summary can serve more
    filters: it overrides `prepared_for`, and `open`, which gives the later passes whole rows.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of the probabilities.
    dtype : dtype
        Dtype of the probabilities.
    recorded : sequence of str
        Names of the recorded columns: scores by their method, and ``row_sum``.
    facts : ReadFacts, optional
        What planning asks of it.

    Attributes
    ----------
    recorded : tuple of str
        Names of the recorded columns that `open_raw` gives.
    row_dtype : dtype
        Structured dtype of the rows.
    """

    summarizer = RecordedSummarizer
    # Whether more of each row is kept, for the second read of a filter, and how it could be.
    serves_two_reads = False
    how_to_serve = ""

    def __init__(
        self,
        n_rows: int,
        n_classes: int,
        dtype: npt.DTypeLike,
        recorded: Sequence[str] = (),
        facts: ReadFacts = ReadFacts(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__((n_rows, n_classes), np.dtype(dtype), facts)
        self._record(recorded)

    def _record(self, recorded: Sequence[str]) -> None:
        self.recorded = tuple(recorded)
        self.row_dtype = summary_dtype(self.shape[1], self.dtype.newbyteorder("="), recorded)
        self.row_bytes = self.read_row_bytes = self.row_dtype.itemsize

    def only(self, recorded: Sequence[str]) -> Self:
        """Return the same rows with no other recorded columns than these."""
        other = copy.copy(self)
        other._record(recorded)  # noqa: SLF001  # of the same class
        return other

    def prepared_for(self, rule: Filter) -> tuple[Source, Filter]:
        """Return the same rows with the recorded columns that a filter needs, and no others.

        Raises
        ------
        InvalidInputError
            For a filter, or a score, that needs more of each row.
        """
        settings = rule.settings
        if rule.n_reads > 1 + self.serves_two_reads or (rule.n_reads > 1 and settings.scores_need_rescan):
            what = f"filter_by={rule.name!r}" if rule.name else f"rule={settings.rule!r}"
            if settings.scores_need_rescan:
                what = f"adjust_pred_probs=True with method={settings.method!r}"
            how = self.how_to_serve if rule.n_reads == 2 and not settings.scores_need_rescan else ""
            raise InvalidInputError(
                f"{what} needs all probabilities of each row, which the summaries ({self.where}) do not hold: give "
                f"labels and pred_probs, or use filter_by=None or filter_by='predicted_neq_given'{how}"
            )
        return self.only(list(recorded_columns(settings, self.recorded).values())), rule

    @abc.abstractmethod
    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading structured rows."""

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002
        """Raise: there are no whole rows."""
        raise InvalidInputError(f"the summaries ({self.where}) do not hold all probabilities of each row")

    def reachable(self) -> None:
        """Raise unless this process can open what is described."""
        self.open_raw().close()

    def identity(self) -> dict[str, Any]:
        """Return the facts that identify the summaries."""
        return super().identity() | {"recorded": list(self.recorded)}


class ColumnSummaries(CompositeSource, SummarySource):
    """Row summaries in columns that are sources of their own.

    Parameters
    ----------
    columns : mapping of str to Source
        ``(N,)`` columns: `predicted`, `p_label`, `p_predicted`, and the recorded ones.
    n_classes : int
        Number of classes K.
    where : str, optional
        Place of the table, for messages and records; by default that of its first column.
    """

    def __init__(self, columns: Mapping[str, Source], n_classes: int, where: str = "") -> None:
        first = columns["predicted"]
        self._where, self.columns = where or first.where, dict(columns)
        recorded = [name for name in columns if name not in FIELDS]
        SummarySource.__init__(self, first.n_rows, n_classes, columns["p_label"].dtype, recorded)
        self.listed_at = first.listed_at

    def _record(self, recorded: Sequence[str]) -> None:
        super()._record(recorded)
        self.columns = {name: self.columns[name] for name in (*FIELDS, *recorded)}
        # Classes are checked before they are narrowed.
        fields = [(name, self.columns[name].dtype.newbyteorder("=")) for name in self.columns]
        self.row_dtype = np.dtype(fields, align=True)
        self.row_bytes = sum(dtype.itemsize for _, dtype in fields)
        self.children, self.begins = tuple(self.columns.values()), (0,) * len(fields)
        self.facts = ReadFacts.joined(one.facts for one in self.children)
        self.read_row_bytes = sum(column.read_row_bytes for column in self.children)
        known = [column.row_edges for column in self.children if column.row_edges is not None]
        self.row_edges = np.unique(np.concatenate(known)) if known else None

    @property
    def where(self) -> str:
        """Place of the table."""
        return self._where

    @property
    def arrays(self) -> Sequence[Source]:
        """The summaries of each stored table, one after the other."""
        arrays = [column.arrays for column in self.children]
        if len(arrays[0]) == 1 or len({tuple(array.n_rows for array in some) for some in arrays}) > 1:
            return [self]
        tables = (dict(zip(self.columns, some, strict=True)) for some in zip(*arrays, strict=True))
        return [ColumnSummaries(table, self.shape[1]) for table in tables]

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have a version of their own, if it is the same for all columns."""
        versions = {column.version_rows for column in self.children}
        return versions.pop() if len(versions) == 1 else None

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open all columns."""
        return _ColumnRows(self, start, stop)

    def _content(self) -> Any:
        contents = [column.identity()["content"] for column in self.children]
        return None if None in contents else contents

    def identity(self) -> dict[str, Any]:
        """Return the facts that identify the summaries: those of all columns."""
        return super().identity() | {"columns": {name: column.identity() for name, column in self.columns.items()}}

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the same rows of all columns."""
        return [(number, start, stop) for number in range(len(self.children))]

    def _digest(self, start: int, stop: int, parts: Sequence[str]) -> str:  # noqa: ARG002  # of the parts alone
        lines = [type(self).__name__, ",".join(self.columns), *parts]
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose predicted class is not stored."""
        return self.columns["predicted"].missing_rows()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that holds these rows, and the row at which it begins."""
        parts = [column.part(start, stop) for column in self.children]
        if len({(column.n_rows, origin) for column, origin in parts}) > 1:
            return self, 0
        columns = dict(zip(self.columns, (column for column, _ in parts), strict=True))
        return ColumnSummaries(columns, self.shape[1], self._where), parts[0][1]


class _ColumnRows(Rows):
    """Reads the same rows of all columns, as structured rows."""

    def __init__(self, source: ColumnSummaries, start: int, stop: int | None) -> None:
        self._row_shape, self._dtype = (), source.row_dtype
        self._buffer = self._empty(0)
        with ExitStack() as stack:
            columns = source.columns.items()
            self._columns = {name: stack.enter_context(column.open(start, stop)) for name, column in columns}
            self._stack = stack.pop_all()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = self._reused(stop - start)
        for name, column in self._columns.items():
            rows[name] = column.read(start, stop)
        return rows

    def close(self) -> None:
        self._stack.close()


def summary_columns(
    table: Any, wanted: Sequence[str], needed: Sequence[str], may_miss: str = ""
) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """Return columns of a table in memory as ``(N,)`` arrays, and what the table is, for messages.

    Parameters
    ----------
    table : dict of arrays, structured array, or table of pandas, Polars, Arrow or DuckDB
        Other objects with the Arrow C stream interface are tables too.
    wanted : sequence of str
        Columns to return, of those that the table has.
    needed : sequence of str
        Columns that it must have.
    may_miss : str
        A column that may have missing values, which are None.

    Raises
    ------
    InvalidInputError
        For a column that the table does not have once; for missing values; for anything but one value in each row, and
        for columns of different lengths.
    InputTypeError
        For an object that is not a table.
    """
    given: Any = table
    if isinstance(table, Mapping):
        names, where = list(table), f"the {type(table).__name__} summaries"
    elif isinstance(table, np.ndarray) and table.dtype.names:
        names, where = list(table.dtype.names), "the structured array summaries"
    elif type(table).__name__ == "DataFrame" and type(table).__module__.startswith("pandas."):
        names, where = list(table.columns), "the pandas DataFrame summaries"
    else:
        opened = open_memory_table(table, "summaries")
        names, where = opened.names, opened.where
        given = opened.to_arrow([name for name in wanted if names.count(name) == 1])
    check_columns(needed, names, where)
    present = [name for name in wanted if name in names]
    check_columns(present, names, where)
    found = {name: column_values(name, given[name], keep_missing=name == may_miss) for name in present}
    for name, column in found.items():
        if len(column) != len(found[present[0]]):
            raise InvalidInputError(
                f"{where} has {len(found[present[0]]):,} values in the column {present[0]} and {len(column):,} in "
                f"{name}: all columns need one value for each row"
            )
    return found, where


def check_columns(wanted: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise unless a table has each of the `wanted` columns once."""
    for name in wanted:
        if list(names).count(name) != 1:
            raise InvalidInputError(missing_column(name, names, where, wanted))


def column_values(name: str, values: Any, *, keep_missing: bool = False) -> npt.NDArray[Any]:
    """Return a column of any package as an ``(N,)`` array, with None for missing values if they are kept.

    Raises
    ------
    InvalidInputError
        For missing values that are not kept, and for anything but one value in each row. NaN is not missing.
    """
    missing = _missing_in(values)
    if missing.any() and keep_missing:
        kept: npt.NDArray[Any] = np.empty(len(missing), object)
        kept[:] = values.to_pylist() if hasattr(values, "to_pylist") else list(values)
        kept[missing] = None
        return kept
    _refuse_missing(name, missing)
    array = _to_numpy(name, values)
    if array.ndim != 1:
        raise InvalidInputError(f"the column {name} has shape {array.shape}: it needs one value for each row")
    if array.dtype == object:
        items = array.tolist()
        if not keep_missing:
            _refuse_missing(name, np.array([item is None for item in items], np.bool_))
        if any(isinstance(item, list | tuple | set | dict | np.ndarray) for item in items):
            raise InvalidInputError(f"the column {name} has lists: it needs one value for each row")
    return array


def _missing_in(values: Any) -> Bools:
    """Return which values are missing; NaN among floats is a value, which the scan finds."""
    package = type(values).__module__.partition(".")[0]
    if package == "pandas" and getattr(values.dtype, "kind", "O") != "f":
        return np.asarray(values.isna())
    if package in ("polars", "pyarrow"):
        return np.asarray(values.is_null())
    return np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else np.zeros(0, np.bool_)


def _to_numpy(name: str, values: Any) -> npt.NDArray[Any]:
    package, dtype = type(values).__module__.partition(".")[0], getattr(values, "dtype", None)
    if package == "pyarrow":
        if str(values.type).startswith(("decimal", "list", "large_list", "fixed_size_list", "struct", "map")):
            raise InvalidInputError(f"the column {name} has the type {values.type}: it needs one number for each row")
        if hasattr(values.type, "index_type"):
            values = decoded(values)
        return np.asarray(values.to_numpy(zero_copy_only=False))  # one chunk is not copied
    if package == "pandas" and not isinstance(dtype, np.dtype | None) and dtype.kind in "iuf":
        floats = {"na_value": np.nan} if dtype.kind == "f" else {}
        return np.asarray(values.to_numpy(dtype=f"{dtype.kind}{dtype.itemsize}", **floats))
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"the column {name} is not an array: {error}") from error


def _refuse_missing(name: str, missing: Bools) -> None:
    rows = np.flatnonzero(missing)
    if len(rows):
        many = rows_in_words(len(rows), "missing value, in row", "missing values, in rows")
        some = ", ".join(f"{row:,}" for row in rows[:5].tolist()) + (" and more" if len(rows) > 5 else "")
        raise InvalidInputError(f"the column {name} has {many} {some}: drop these rows, or fill them").at(
            [(row, row + 1) for row in rows[:5].tolist()]
        )
