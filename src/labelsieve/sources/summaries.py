"""Row summaries that exist already, in place of `pred_probs`: what a recorder, a query or other code has made.

Such a source has the shape ``(N, K)`` and the dtype of the probabilities that its rows are made from. Reading gives
structured rows (`labelsieve.confident_learning.summarize`), which the first pass checks and takes as they are.
"""

from __future__ import annotations

import abc
import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summarize import FIELDS, RecordedSummarizer, recorded_columns, summary_dtype
from labelsieve.confident_learning.thresholds import Bools
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError
from labelsieve.sources.columns import missing_column
from labelsieve.sources.source import MissingRows, ReadFacts, Rows, Source


class SummaryRows(Rows):
    """An open source of row summaries: `read` returns structured rows."""

    def __init__(self, source: SummarySource) -> None:
        super().__init__(source)
        self._row_shape, self._dtype = (), source.row_dtype
        self._buffer = self._empty(0)


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
        self.row_bytes = self.row_dtype.itemsize

    def only(self, recorded: Sequence[str]) -> Self:
        """Return the same rows with no other recorded columns than these."""
        other = copy.copy(self)
        other._record(recorded)  # noqa: SLF001  # of the same class
        return other

    def prepared_for(self, rule: Filter) -> Source:
        """Return the same rows with the recorded columns that a filter needs, and no others.

        Raises
        ------
        InvalidInputError
            For a filter, or a score, that needs more of each row.
        """
        settings = rule.settings
        if settings.scores_need_rescan:
            what = f"adjust_pred_probs=True with method={settings.method!r}"
        elif rule.name is None:
            what = f"rule={settings.rule!r}"
        else:
            what = f"filter_by={rule.name!r}"
        if rule.n_reads > 1:
            raise InvalidInputError(
                f"{what} needs all probabilities of each row, which the summaries ({self.where}) do not hold: give "
                "labels and pred_probs, or use filter_by=None or filter_by='predicted_neq_given'"
            )
        return self.only(list(recorded_columns(settings, self.recorded).values()))

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


class ColumnSummaries(SummarySource):
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
        super().__init__(
            first.n_rows,
            n_classes,
            columns["p_label"].dtype,
            [name for name in columns if name not in FIELDS],
        )
        self.listed_at = first.listed_at

    def _record(self, recorded: Sequence[str]) -> None:
        super()._record(recorded)
        self.columns = {name: self.columns[name] for name in (*FIELDS, *recorded)}
        # Classes are checked before they are narrowed.
        fields = [(name, self.columns[name].dtype.newbyteorder("=")) for name in self.columns]
        self.row_dtype = np.dtype(fields, align=True)
        self.row_bytes = sum(dtype.itemsize for _, dtype in fields)
        self.facts = ReadFacts.joined(one.facts for one in self.columns.values())

    @property
    def where(self) -> str:
        """Place of the table."""
        return self._where

    @property
    def arrays(self) -> Sequence[Source]:
        """The summaries of each stored table, one after the other."""
        parts = {name: column.arrays for name, column in self.columns.items()}
        lengths = {tuple(array.n_rows for array in arrays) for arrays in parts.values()}
        if len(lengths) > 1 or len(next(iter(lengths))) == 1:
            return [self]
        tables = (dict(zip(parts, arrays, strict=True)) for arrays in zip(*parts.values(), strict=True))
        return [ColumnSummaries(table, self.shape[1]) for table in tables]

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a row before it is converted."""
        return sum(column.read_row_bytes for column in self.columns.values())

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The rows at which what is decoded together ends, in any column."""
        edges = [column.row_edges for column in self.columns.values()]
        known = [one for one in edges if one is not None]
        return np.unique(np.concatenate(known)) if known else None

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have a version of their own, if it is the same for all columns."""
        versions = {column.version_rows for column in self.columns.values()}
        return versions.pop() if len(versions) == 1 else None

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open all columns."""
        return _ColumnRows(self, start, stop)

    def _content(self) -> Any:
        contents = [column.identity()["content"] for column in self.columns.values()]
        return None if None in contents else contents

    def identity(self) -> dict[str, Any]:
        """Return the facts that identify the summaries: those of all columns."""
        return super().identity() | {"columns": {name: column.identity() for name, column in self.columns.items()}}

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest of those of all columns."""
        parts = zip(*(column.part_identities(ranges) for column in self.columns.values()), strict=True)
        names = ",".join(self.columns)
        return [
            hashlib.blake2b("\n".join([type(self).__name__, names, *found]).encode(), digest_size=16).hexdigest()
            if all(found)
            else ""
            for found in parts
        ]

    def note_version(self) -> None:
        """Note the version of every column."""
        for column in self.columns.values():
            column.note_version()

    def check_version(self) -> None:
        """Compare the version of every column."""
        for column in self.columns.values():
            column.check_version()

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose predicted class is not stored."""
        return self.columns["predicted"].missing_rows()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that holds these rows, and the row at which it begins."""
        parts = {name: column.part(start, stop) for name, column in self.columns.items()}
        origins = {origin for _, origin in parts.values()}
        if len(origins) > 1:
            return self, 0
        columns = {name: column for name, (column, _) in parts.items()}
        n_rows = {column.n_rows for column in columns.values()}
        return (ColumnSummaries(columns, self.shape[1], self._where), origins.pop()) if len(n_rows) == 1 else (self, 0)


class _ColumnRows(SummaryRows):
    """Reads the same rows of all columns."""

    def __init__(self, source: ColumnSummaries, start: int, stop: int | None) -> None:
        super().__init__(source)
        self._columns: dict[str, Rows] = {}
        try:
            for name, column in source.columns.items():
                self._columns[name] = column.open(start, stop)
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = self._reused(stop - start)
        for name, column in self._columns.items():
            rows[name] = column.read(start, stop)
        return rows

    def close(self) -> None:
        for column in self._columns.values():
            column.close()


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
