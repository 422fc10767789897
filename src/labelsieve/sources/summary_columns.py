"""Row summaries in tables in memory, of any package: their columns as NumPy arrays, without pyarrow where it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError
from labelsieve.sources.columns import missing_column


@dataclass(frozen=True)
class TableColumns:
    """A table in memory.

    Parameters
    ----------
    where : str
        What it is, for messages.
    names : sequence of str
        Names of its columns.
    get : callable
        Returns some columns by name, as the package has them; called once, since a query may have to run.
    """

    where: str
    names: Sequence[str]
    get: Callable[[Sequence[str]], Mapping[str, Any]]

    def columns(self, wanted: Sequence[str], may_miss: str = "") -> dict[str, npt.NDArray[Any]]:
        """Return columns as ``(N,)`` arrays; that called `may_miss` may have missing values, which are None.

        Raises
        ------
        InvalidInputError
            For a column that the table does not have once; for missing values; for anything but one value in each row,
            and for columns of different lengths.
        """
        check_columns(wanted, self.names, self.where)
        given = self.get(wanted)
        found = {name: column_values(name, given[name], keep_missing=name == may_miss) for name in wanted}
        for name, column in found.items():
            if len(column) != len(found[wanted[0]]):
                raise InvalidInputError(
                    f"{self.where} has {len(found[wanted[0]]):,} values in the column {wanted[0]} and {len(column):,} "
                    f"in {name}: all columns need one value for each row"
                )
        return found


def check_columns(wanted: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise unless a table has each of the `wanted` columns once."""
    for name in wanted:
        if list(names).count(name) != 1:
            raise InvalidInputError(missing_column(name, names, where, wanted))


def open_summary_columns(name: str, table: Any) -> TableColumns:  # one return for each kind of table
    """Open a table in memory.

    Parameters
    ----------
    name : str
        Argument of the user, for messages.
    table : dict of arrays, structured array, or table of pandas, Polars, Arrow or DuckDB
        Other objects with the Arrow C stream interface are tables too.

    Raises
    ------
    InputTypeError
        For anything else.
    MissingDependencyError
        For an object that only pyarrow can read, if it is not installed.
    """
    package, kind = type(table).__module__.partition(".")[0], type(table).__name__
    if isinstance(table, Mapping):
        return TableColumns(f"the {kind} {name}", list(table), partial(_items, table))
    if isinstance(table, np.ndarray) and table.dtype.names:
        return TableColumns(f"the structured array {name}", table.dtype.names, partial(_items, table))
    if kind == "DataFrame" and package in ("pandas", "polars"):
        return TableColumns(f"the {package} table {name}", list(table.columns), partial(_items, table))
    if kind == "LazyFrame":
        raise InputTypeError(f"{name} is a LazyFrame, which is not computed yet: give {name}.collect()")
    if kind == "DuckDBPyRelation":
        return TableColumns(f"the DuckDB relation {name}", list(table.columns), partial(_run_query, table))
    if hasattr(table, "column_names") and callable(getattr(table, "column", None)):
        return TableColumns(f"the Arrow table {name}", list(table.column_names), partial(_arrow_columns, table))
    if hasattr(table, "__arrow_c_stream__"):
        try:
            import pyarrow as pa
        except ImportError as error:
            raise MissingDependencyError(f"Reading a table of {package}", "parquet") from error
        try:
            read = pa.table(table)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputTypeError(f"{name} must be a table, but a {package} {kind} has no columns: {error}") from error
        return TableColumns(f"the table {name}", list(read.column_names), partial(_arrow_columns, read))
    raise InputTypeError(
        f"{name} must be a table: a dict of arrays, a table of pandas, Polars, Arrow or DuckDB, or a path; not {kind}"
    )


def _items(table: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: table[name] for name in names}


def _arrow_columns(table: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: table.column(name) for name in names}


def _run_query(relation: Any, names: Sequence[str]) -> Mapping[str, Any]:
    for name, kind in zip(relation.columns, map(str, relation.types), strict=True):
        if name in names and kind.startswith("DECIMAL"):
            raise InvalidInputError(f"the column {name} is {kind}: cast it to DOUBLE or FLOAT")
    quoted = ('"' + name.replace('"', '""') + '"' for name in names)
    found: Mapping[str, Any] = relation.project(", ".join(quoted)).fetchnumpy()
    return found


def column_values(name: str, values: Any, *, keep_missing: bool = False) -> npt.NDArray[Any]:
    """Return a column of any package as an ``(N,)`` array, with None for missing values if they are kept.

    Raises
    ------
    InvalidInputError
        For missing values that are not kept, and for anything but one value in each row. NaN is not missing.
    """
    package = type(values).__module__.partition(".")[0]
    missing_in, convert = {"pandas": _PANDAS, "polars": _POLARS, "pyarrow": _ARROW}.get(package, _OTHER)
    missing = missing_in(values)
    if missing is not None and missing.any():
        if not keep_missing:
            _refuse_missing(name, missing)
        kept: npt.NDArray[Any] = np.empty(len(missing), object)
        kept[:] = values.to_pylist() if package == "pyarrow" else list(values)
        kept[missing] = None
        return kept
    array = convert(name, values)
    if array.ndim != 1:
        raise InvalidInputError(f"the column {name} has shape {array.shape}: it needs one value for each row")
    if array.dtype == object:
        items = array.tolist()
        if not keep_missing:
            _refuse_missing(name, np.array([item is None for item in items], np.bool_))
        if any(isinstance(item, list | tuple | set | dict | np.ndarray) for item in items):
            raise InvalidInputError(f"the column {name} has lists: it needs one value for each row")
    return array


def _missing_in_pandas(values: Any) -> Bools | None:
    # NaN in a column of floats is a value, which the scan finds.
    return None if getattr(values.dtype, "kind", "O") == "f" else np.asarray(values.isna())


def _of_pandas(_: str, values: Any) -> npt.NDArray[Any]:
    dtype = values.dtype
    kind, is_numpy = getattr(dtype, "kind", "O"), isinstance(dtype, np.dtype)
    if kind in "iuf" and not is_numpy:
        floats = {"na_value": np.nan} if kind == "f" else {}
        return np.asarray(values.to_numpy(dtype=f"{kind}{dtype.itemsize}", **floats))
    return np.asarray(values)


def _missing_in_polars(values: Any) -> Bools | None:
    return np.asarray(values.is_null()) if values.null_count() else None


def _missing_in_arrow(values: Any) -> Bools | None:
    return np.asarray(values.is_null().to_numpy(zero_copy_only=False)) if values.null_count else None


def _of_arrow(name: str, values: Any) -> npt.NDArray[Any]:
    if str(values.type).startswith(("decimal", "list", "large_list", "fixed_size_list", "struct", "map")):
        raise InvalidInputError(f"the column {name} has the type {values.type}: it needs one number for each row")
    if hasattr(values.type, "index_type"):  # dictionary-encoded
        values = values.cast(values.type.value_type)
    # One chunk is not copied.
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _missing_in_other(values: Any) -> Bools | None:
    return np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None


def _of_other(name: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"the column {name} is not an array: {error}") from error


# How each package marks missing values, and how a column without any becomes an array.
_PANDAS: Final = (_missing_in_pandas, _of_pandas)
_POLARS: Final = (_missing_in_polars, lambda _, values: np.asarray(values.to_numpy()))
_ARROW: Final = (_missing_in_arrow, _of_arrow)
_OTHER: Final = (_missing_in_other, _of_other)


def _refuse_missing(name: str, missing: Bools) -> None:
    rows = np.flatnonzero(missing)
    if len(rows):
        many = rows_in_words(len(rows), "missing value, in row", "missing values, in rows")
        some = ", ".join(f"{row:,}" for row in rows[:5].tolist()) + (" and more" if len(rows) > 5 else "")
        raise InvalidInputError(f"the column {name} has {many} {some}: drop these rows, or fill them").at(
            [(row, row + 1) for row in rows[:5].tolist()]
        )
