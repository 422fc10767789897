"""Row summaries that exist already, in place of `pred_probs`: what a recorder, a query or other code has made.

Such a source has the shape ``(N, K)`` and the dtype of the probabilities that its rows are made from. Reading gives
structured rows (`labelsieve.confident_learning.summarize`), which the first pass checks and takes as they are.
"""

from __future__ import annotations

import abc
import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summarize import FIELDS, RecordedSummarizer, recorded_columns, summary_dtype
from labelsieve.confident_learning.thresholds import Bools
from labelsieve.errors import InvalidInputError
from labelsieve.sources.columns import decoded, missing_column
from labelsieve.sources.composite import CompositeSource
from labelsieve.sources.source import MissingRows, ReadFacts, Rows, Source
from labelsieve.sources.tables import open_memory_table


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
