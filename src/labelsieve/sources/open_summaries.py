"""Opening row summaries that exist already: tables in memory, files of tables, the folder of a recorder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.recorded_summaries import FIELDS, RECORDABLE
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InvalidInputError, MemoryLimitError
from labelsieve.settings import NOTHING, IgnoreLabel, check_whole_number
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Source
from labelsieve.sources.recordings import open_recording
from labelsieve.sources.summaries import ColumnSummaries, SummarySource
from labelsieve.sources.summary_columns import check_columns, open_summary_columns
from labelsieve.sources.tables import is_places, open_table
from labelsieve.storage.urls import check_place

LABEL: Final = "label"
# Names of columns that a table may have: the user's numbers and names of its rows.
ROW: Final = "row"
ID: Final = "id"
_COLUMNS: Final = (LABEL, *FIELDS, *RECORDABLE, ROW, ID)
_ROWS_AT_A_TIME: Final = 1 << 15
# Copies of all columns while they are put in order.
_COPIES: Final = 2
# Row numbers that leave more gaps than this, and have at most one row in as many, are taken for names.
_MOST_GAPS: Final = 1_000_000
_MOST_TIMES: Final = 10


@dataclass(frozen=True)
class SummaryTable:
    """Row summaries in place of `labels` and `pred_probs`, for `labelsieve.find_label_issues`.

    Parameters
    ----------
    labels : (N,) array or Source
        Labels, as `labelsieve.find_label_issues` takes them.
    pred_probs : SummarySource
        The other columns.
    ids : (N,) array or Source, optional
        The user's own names of the rows.
    """

    labels: Any
    pred_probs: SummarySource
    ids: Any = None

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return int(self.pred_probs.shape[1])


def open_summaries(
    summaries: Any, n_classes: int | None = None, ignore_label: IgnoreLabel = NOTHING, room: float = math.inf
) -> SummaryTable:
    """Open row summaries; of files only headers are read.

    Parameters
    ----------
    summaries : table, path, URL or SummaryTable
        A table in memory with the columns `label`, `predicted`, `p_label` and `p_predicted`: a dict of arrays, or a
        table of pandas, Polars, Arrow or DuckDB. Or Parquet or Arrow files: a path, a URL, a folder, a pattern, or a
        list of them. Or the folder of a `labelsieve.Recorder`.
    n_classes : int, optional
        Number of classes K, which a table does not say.
    ignore_label : int, str or None, optional
        The label that stands for none.
    room : float
        Bytes of memory that rows may take that have to be put in order.

    Raises
    ------
    InvalidInputError
        For anything that cannot be row summaries. The message says what is wrong, and where.
    MemoryLimitError
        For files whose rows are not in order, and are too many to be put in order in memory.
    InputTypeError
        For an object of the wrong kind.
    """
    if n_classes is not None:
        n_classes = check_whole_number("n_classes", n_classes, 2)
    if isinstance(summaries, SummaryTable):
        if n_classes not in (None, summaries.n_classes):
            raise InvalidInputError(f"n_classes is {n_classes}, and the summaries are of {summaries.n_classes} classes")
        return summaries
    if isinstance(summaries, str | os.PathLike):
        recorded = open_recording(check_place("summaries", summaries))
        if recorded is not None:
            return _table_of_recording(*recorded, n_classes, ignore_label)
    if is_places(summaries):
        return _open_files(summaries, n_classes, ignore_label, room)
    table = open_summary_columns("summaries", summaries)
    check_columns((LABEL, *FIELDS), table.names, table.where)
    names = [name for name in _COLUMNS if name in table.names]
    columns = table.columns(names, may_miss=LABEL if ignore_label is None else "")
    return table_of_columns(columns, _needed(n_classes), table.where, ignore_label)


def _table_of_recording(
    labels: Source, rows: SummarySource, ids: Source | None, n_classes: int | None, ignore_label: IgnoreLabel
) -> SummaryTable:
    """Return the folder of a recorder, which knows the number of classes, as a table."""
    if n_classes not in (None, rows.shape[1]):
        raise InvalidInputError(f"n_classes is {n_classes}, and {rows.where} was recorded with {rows.shape[1]:,}")
    if ignore_label is not NOTHING:
        raise InvalidInputError(f"ignore_label is for the recorder: {rows.where} knows which rows have no label")
    return SummaryTable(labels, rows, ids)


def _open_files(places: Any, n_classes: int | None, ignore_label: IgnoreLabel, room: float) -> SummaryTable:
    """Open the files of a table. If they have row numbers that are not in order, they are read into memory."""
    table = open_table(places, "summaries")
    check_columns((LABEL, *FIELDS), table.names, table.where)
    names = [name for name in _COLUMNS if name in table.names]
    columns = {name: table.source(name, name) for name in names}
    check_dtypes({name: column.dtype for name, column in columns.items()})
    n_classes = _needed(n_classes)
    if ROW in columns and not _is_in_order(columns[ROW]):
        n_bytes = _COPIES * sum(column.n_rows * column.row_bytes for column in columns.values())
        if n_bytes > room:
            raise MemoryLimitError(
                f"the rows of {table.where} are not in the order of their numbers. To put them in order would take "
                f"{n_bytes / 1e6:,.0f} MB, and {room / 1e6:,.0f} MB are free: store them in order (ORDER BY row)"
            )
        read = {name: column[:] for name, column in columns.items()}
        return table_of_columns(read, n_classes, table.where, ignore_label)
    columns.pop(ROW, None)
    labels, ids = columns.pop(LABEL), columns.pop(ID, None)
    return SummaryTable(labels, ColumnSummaries(columns, n_classes, table.where), ids)


def _is_in_order(rows: Source) -> bool:
    """Return whether row numbers are 0..N-1. They are read some at a time, until one is not."""
    with rows.open(0, rows.n_rows) as opened:
        for start in range(0, rows.n_rows, _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, rows.n_rows)
            if not np.array_equal(opened.read(start, stop), np.arange(start, stop)):
                return False
    return True


def _needed(n_classes: int | None) -> int:
    if n_classes is None:
        raise InvalidInputError("give n_classes=, the number of classes: a table of summaries does not say it")
    return n_classes


def table_of_columns(
    columns: Mapping[str, npt.NDArray[Any]], n_classes: int, where: str, ignore_label: IgnoreLabel = NOTHING
) -> SummaryTable:
    """Return columns in memory as a table, with its rows in order. Rows that are not there have no label.

    Parameters
    ----------
    columns : mapping of str to (N,) array
        The columns, of the same length.
    n_classes : int
        Number of classes K.
    where : str
        What the table is, for messages.
    ignore_label : int, str or None, optional
        The label that stands for none.
    """
    columns = dict(columns)
    check_dtypes({name: column.dtype for name, column in columns.items()})
    rows = columns.pop(ROW, None)
    n_rows = 0 if rows is None else check_rows(rows)
    ignored: int | None = None
    if rows is not None and n_rows > len(rows):
        columns[LABEL], value = _with_gaps(columns[LABEL], rows, n_rows, ignore_label)
        # The user's own value is looked for anyway.
        ignored = value if ignore_label is NOTHING or ignore_label is None else None
    if rows is not None and n_rows:
        columns = {
            name: column if len(column) > len(rows) else _placed(column, rows, n_rows)
            for name, column in columns.items()
        }
    ids = columns.pop(ID, None)
    labels: Any = columns.pop(LABEL)
    if ignored is not None:
        labels = ArraySource(labels)
        labels.ignored = ignored
    sources: dict[str, Source] = {name: ArraySource(column) for name, column in columns.items()}
    return SummaryTable(labels, ColumnSummaries(sources, n_classes, where), ids)


def _placed(column: npt.NDArray[Any], rows: npt.NDArray[Any], n_rows: int) -> npt.NDArray[Any]:
    """Return a column with each value at its row; rows without a value have 0, or an empty name."""
    placed = np.full(n_rows, "", object) if column.dtype == object else np.zeros(n_rows, column.dtype)
    placed[rows] = column
    return placed


def _with_gaps(
    labels: npt.NDArray[Any], rows: npt.NDArray[Any], n_rows: int, ignore_label: IgnoreLabel
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the labels of all rows, and the value of those that have none: `ignore_label`, or one that no row has."""
    if labels.dtype.kind not in "iu" or int(labels.max()) >= np.iinfo(np.int64).max:
        raise InvalidInputError(
            f"{rows_in_words(n_rows - len(rows), 'row has', 'rows have')} no summary, so label must be integers below "
            f"2**63, not {labels.dtype}"
        )
    value = ignore_label if isinstance(ignore_label, int) else int(labels.max()) + 1
    placed = np.full(n_rows, value, np.int64)
    placed[rows] = labels
    return placed, value


def check_dtypes(dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Raise if a column cannot be what its name says."""
    for name, dtype in dtypes.items():
        if name in (LABEL, ID):
            continue  # checked as labels and as ids are
        is_integer = name in (ROW, "predicted")
        if dtype.kind not in "iu" if is_integer else dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            wanted = "integers" if is_integer else "float16, float32 or float64"
            raise InvalidInputError(f"the column {name} must be {wanted}, not {dtype}")
    if dtypes["p_label"].newbyteorder("=") != dtypes["p_predicted"].newbyteorder("="):
        raise InvalidInputError(
            f"p_label is {dtypes['p_label']} and p_predicted {dtypes['p_predicted']}: give both the dtype of the "
            "probabilities"
        )


def check_rows(rows: npt.NDArray[Any]) -> int:
    """Return the number of rows that row numbers are of, those without a summary included; 0 if they are in order.

    Raises
    ------
    InvalidInputError
        For a row that is given twice, and for numbers that seem to be names.
    """
    n_given = len(rows)
    if not n_given or (rows[0] == 0 and rows[-1] == n_given - 1 and bool((rows[1:] > rows[:-1]).all())):
        return 0
    order = np.argsort(rows, kind="stable")
    numbers = rows[order]
    if numbers[0] < 0:
        raise InvalidInputError(f"the column row has {numbers[0]:,}, in place {order[0]:,}: rows are numbered from 0")
    twice = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(twice):
        at = twice[0]
        places, more = order[at : at + 2].tolist(), f", and {len(twice) - 1:,} more are" if len(twice) > 1 else ""
        raise InvalidInputError(
            f"row {numbers[at]:,} is given twice, in places {places[0]:,} and {places[1]:,} of the table{more}: "
            "each row needs one summary"
        ).at([(int(numbers[at]), int(numbers[at]) + 1)])
    n_rows = int(numbers[-1]) + 1
    if n_rows > _MOST_GAPS + _MOST_TIMES * n_given:
        raise InvalidInputError(
            f"the column row goes up to {n_rows - 1:,}, with {n_given:,} rows: if these are names of rows, call it id"
        )
    return n_rows
