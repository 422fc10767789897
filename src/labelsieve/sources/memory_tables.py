"""Tables in memory: of pandas, Polars, Arrow, DuckDB and Hugging Face datasets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.arrow_batches import BatchesSource
from labelsieve.sources.base import Source
from labelsieve.sources.columns import Columns, arrow, choose_columns, columns_of, common_length


class MemoryTable:
    """A table in memory. Only the columns that are named are converted to Arrow.

    Parameters
    ----------
    data : object
        As the user gives it.
    """

    def __init__(self, data: Any) -> None:
        self._data, self.where = data, f"the {_kind(data)}"
        self.names: list[str] = _names(data)

    def taken(self, named: Mapping[str, Any]) -> MemoryTable:
        """Return a table of the columns that are meant, all taken at once.

        A query runs each time that its rows are asked for, and may give them in another order each time.
        """
        chosen = [choose_columns(name, wanted, self.names, self.where) for name, wanted in named.items()]
        found = MemoryTable(_to_arrow(self._data, list(dict.fromkeys(itertools.chain(*chosen)))))
        found.where = self.where
        return found

    def arrow_column(self, name: str, wanted: Any) -> Any:
        """Return one column as an Arrow array in chunks."""
        [column] = choose_columns(name, wanted, self.names, self.where)
        return _to_arrow(self._data, [column]).column(0)

    def source(self, name: str, wanted: Any, *, with_nulls: bool = False) -> Source:
        """Return the source of one or more columns."""
        chosen = choose_columns(name, wanted, self.names, self.where)
        table = _to_arrow(self._data, list(chosen))

        def list_width(column: str) -> int:
            counts = [(len(chunk), len(chunk.flatten())) for chunk in table.column(column).chunks]
            return common_length(name, column, counts, self.where)

        columns: Columns = columns_of(
            name,
            list(chosen) if len(chosen) > 1 else chosen[0],
            table.schema,
            self.where,
            list_width,
            with_nulls=with_nulls,
        )
        return BatchesSource.of_table(
            table.combine_chunks().to_batches() if columns.width is None else table.to_batches(), columns
        )

    def batches(self, columns: tuple[str, ...]) -> list[Any]:
        """Return all record batches with these columns."""
        batches: list[Any] = _to_arrow(self._data, list(columns)).to_batches()
        return batches


def open_memory_table(data: Any) -> MemoryTable:
    """Open a table in memory.

    Parameters
    ----------
    data : pandas.DataFrame, polars.DataFrame, pyarrow.Table, duckdb.DuckDBPyRelation, datasets.Dataset, dict of arrays
        Or any object with Arrow's ``__arrow_c_stream__`` that can be read more than once.

    Raises
    ------
    InputTypeError
        For anything else; with what to give instead of a lazy frame, a stream or several splits.
    """
    arrow()
    kind = _kind(data)
    instead = {
        "polars LazyFrame": "give its .collect(), or the files that it reads",
        "pyarrow RecordBatchReader": "it can be read only once: give its .read_all(), or store it as a Parquet file",
        "datasets DatasetDict": "it has several splits: give one of them, such as data['train']",
        "datasets IterableDataset": "it can only be read in order: store it as a Parquet file",
        "dask DataFrame": "give its .compute(), or store it with .to_parquet() and give the folder",
    }
    if kind in instead:
        raise InputTypeError(f"data is a {kind}: {instead[kind]}")
    known = _package(data) in ("pandas", "polars", "pyarrow", "duckdb", "datasets") and _names(data)
    if not known and not isinstance(data, dict) and not hasattr(data, "__arrow_c_stream__"):
        raise InputTypeError(
            "data must be a path, a URL, a pattern or a list of Parquet or Arrow files, or a table of pandas, Polars, "
            f"Arrow, DuckDB or Hugging Face datasets; not {type(data).__name__}"
        )
    if not len(_names(data)):
        raise InvalidInputError(f"data: the {kind} has no columns")
    return MemoryTable(data)


def _package(data: Any) -> str:
    return type(data).__module__.partition(".")[0].removeprefix("_")


def _kind(data: Any) -> str:
    package = _package(data)
    return type(data).__name__ if package == "builtins" else f"{package} {type(data).__name__}"


def _names(data: Any) -> list[str]:
    """Return the names of the columns."""
    if isinstance(data, dict):
        return list(data)
    for attribute in ("column_names", "columns"):
        names = getattr(data, attribute, None)
        if names is not None and not callable(names):
            return list(names)
    if not hasattr(data, "__arrow_c_stream__"):
        return []
    pa = arrow()
    try:
        return list(pa.table(data).column_names)
    except (pa.ArrowException, TypeError, ValueError):  # one column, such as a Series, is no table
        return []


def _to_arrow(data: Any, columns: list[str]) -> Any:  # noqa: PLR0911  # one return per kind of table reads best
    """Return some columns as a ``pyarrow.Table``, without a copy where the package of the table has none to make."""
    pa, package = arrow(), _package(data)
    if isinstance(data, dict):
        arrays = {column: _to_array(column, data[column]) for column in columns}
        if len(set(map(len, arrays.values()))) > 1:
            lengths = ", ".join(f"{column!r} has {len(array):,}" for column, array in arrays.items())
            raise InvalidInputError(f"data: the columns of the dict differ in their number of rows: {lengths}")
        return pa.table(arrays)
    if package == "pandas":
        return pa.Table.from_pandas(data[columns], preserve_index=False)
    if package == "duckdb":
        quoted = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
        return pa.table(data.project(quoted))
    if package == "datasets":
        # Rows that were selected or shuffled are copied into order; otherwise the table is that of the mapped files.
        if getattr(data, "_indices", None) is None:
            return data.data.table.select(columns)
        return data.select_columns(columns).with_format("arrow")[:]
    if package in ("polars", "pyarrow"):
        return pa.table(data.select(columns))
    return pa.table(data).select(columns)


def _to_array(column: str, values: Any) -> Any:
    """Return a NumPy array or a list as Arrow's; an array of two axes becomes lists without a copy."""
    pa = arrow()
    if getattr(values, "ndim", 1) == 2 and hasattr(values, "reshape"):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInputError(f"data: column {column!r} is not readable: {error}") from error
