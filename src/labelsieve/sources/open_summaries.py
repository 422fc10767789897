"""Opening row summaries that exist already: tables in memory, files of tables, the folder of a recorder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.recorded_summaries import FIELDS, RECORDABLE
from labelsieve.errors import InvalidInputError
from labelsieve.settings import check_whole_number
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Source
from labelsieve.sources.memory_tables import check_columns, open_memory_table
from labelsieve.sources.open_array import Opened, open_labels
from labelsieve.sources.recordings import open_recording
from labelsieve.sources.summaries import ColumnSummaries, SummarySource
from labelsieve.storage.urls import check_place, without_query

LABEL: Final = "label"
# Names of columns that a table may have: the user's numbers and names of its rows.
ROW: Final = "row"
ID: Final = "id"
# Rows that a message names.
_NAMED: Final = 3


@dataclass(frozen=True)
class SummaryTable:
    """Row summaries in place of `labels` and `pred_probs`, for `labelsieve.find_label_issues`.

    Parameters
    ----------
    labels : Source or dask.array.Array
        ``(N,)`` labels.
    pred_probs : SummarySource
        The other columns.
    ids : (N,) array or Source, optional
        The user's own names of the rows.
    """

    labels: Opened
    pred_probs: SummarySource
    ids: Any = None

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return int(self.pred_probs.shape[1])


def open_summaries(summaries: Any, n_classes: int | None = None) -> SummaryTable:
    """Open row summaries; of files only headers are read.

    Parameters
    ----------
    summaries : table, path, URL or SummaryTable
        A table in memory with the columns `label`, `predicted`, `p_label` and `p_predicted`: a dict of arrays, or a
        table of pandas, Polars, Arrow or DuckDB. Or the place of such a table.
    n_classes : int, optional
        Number of classes K, which a table does not say.

    Raises
    ------
    InvalidInputError
        For anything that cannot be row summaries. The message says what is wrong, and where.
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
        return _open_place(check_place("summaries", summaries), n_classes)
    table = open_memory_table("summaries", summaries)
    check_columns((LABEL, *FIELDS), table.names, table.where)
    names = [name for name in (LABEL, *FIELDS, *RECORDABLE, ROW, ID) if name in table.names]
    return table_of_columns(table.columns(names), _needed(n_classes), table.where)


def _open_place(place: str, n_classes: int | None) -> SummaryTable:
    """Open the folder of a recorder, or the table at a path or URL."""
    recorded = open_recording(place)
    if recorded is not None:
        labels, rows, ids = recorded
        if n_classes not in (None, rows.shape[1]):
            raise InvalidInputError(f"n_classes is {n_classes}, and {rows.where} was recorded with {rows.shape[1]:,}")
        return SummaryTable(labels, rows, ids)
    raise InvalidInputError(f"summaries: {without_query(place)} is not a table of summaries (n_classes={n_classes})")


def _needed(n_classes: int | None) -> int:
    if n_classes is None:
        raise InvalidInputError("give n_classes=, the number of classes: a table of summaries does not say it")
    return n_classes


def table_of_columns(columns: Mapping[str, npt.NDArray[Any]], n_classes: int, where: str) -> SummaryTable:
    """Return columns in memory as a table, with its rows in order.

    Parameters
    ----------
    columns : mapping of str to (N,) array
        The columns, of the same length.
    n_classes : int
        Number of classes K.
    where : str
        What the table is, for messages.
    """
    columns = dict(columns)
    check_dtypes({name: column.dtype for name, column in columns.items()})
    rows, ids = columns.pop(ROW, None), columns.pop(ID, None)
    order = None if rows is None else row_order(rows)
    if order is not None:
        columns = {name: column[order] for name, column in columns.items()}
        ids = None if ids is None else ids[order]
    labels = open_labels(columns.pop(LABEL))
    sources: dict[str, Source] = {name: ArraySource(column) for name, column in columns.items()}
    return SummaryTable(labels, ColumnSummaries(sources, n_classes, where), ids)


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


def row_order(rows: npt.NDArray[Any]) -> npt.NDArray[np.intp] | None:
    """Return the order that sorts row numbers; None if they are 0..N-1 already.

    Raises
    ------
    InvalidInputError
        For a row that is given twice, and for rows that are missing.
    """
    n_rows = len(rows)
    if not n_rows or (rows[0] == 0 and rows[-1] == n_rows - 1 and bool((rows[1:] > rows[:-1]).all())):
        return None
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
    if numbers[-1] != n_rows - 1:
        # The rows before the first one, and those between two that do not follow each other.
        before = np.concatenate(([-1], numbers[:-1].astype(np.int64)))
        gaps = np.flatnonzero(numbers.astype(np.int64) - before > 1)
        ranges = [(int(before[gap]) + 1, int(numbers[gap])) for gap in gaps[:_NAMED]]
        some = ", ".join(str(a) if b == a + 1 else f"{a}..{b - 1}" for a, b in ranges)
        raise InvalidInputError(
            f"{int(numbers[-1]) + 1 - n_rows:,} rows have no summary: {some}{' and more' * (len(gaps) > _NAMED)}. If "
            "the column row holds names of rows rather than numbers, call it id"
        ).at(ranges)
    return order
