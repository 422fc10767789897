"""Writing a result: indices as ``.npy``, the issues as ``.csv`` or ``.parquet``, everything as ``.zarr``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.class_quality import Columns
from labelsieve.errors import InvalidInputError
from labelsieve.memory import run_rows
from labelsieve.partitioning import result_rows
from labelsieve.results.publish import PARQUET_MARK, check_output, replacing, staged
from labelsieve.results.result import Result
from labelsieve.results.zarr_store import COLUMNS
from labelsieve.sources.text_cells import escape_formula
from labelsieve.storage.folders import LocalFolder, open_folder

# Most rows of one Parquet file, and rows of a CSV file that are turned into text at a time.
ROWS_A_FILE: Final = 10_000_000
_CSV_ROWS: Final = 1 << 16


def write(
    result: Result, location: str | Path, *, rows_a_file: int = ROWS_A_FILE, escape_formulas: bool = True
) -> None:
    """Write a result in the format that the ending of `location` says; what is there is replaced once all is written.

    Parameters
    ----------
    result : Result
        The result.
    location : str or Path
        A path or URL: ``.npy`` takes the indices, ``.csv`` and ``.parquet`` a table of the issues, ``.zarr``
        everything.
    rows_a_file : int
        Most rows of a ``.parquet`` file; more issues make a folder of such files, which reads as one table.
    escape_formulas : bool
        Whether to escape cells of a ``.csv`` file that a spreadsheet would run as formulas.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As `publish.check_output`.
    UnwritableError
        If it cannot be written.
    """
    check_output(location)
    suffix = Path(location).suffix
    if suffix == ".zarr":
        _write_zarr(result, str(location))
        return
    with replacing(open_folder(location)) as path:
        if suffix == ".npy":
            _write_npy(result, path)
        elif suffix == ".csv":
            _write_csv(result, path, escape_formulas=escape_formulas)
        else:
            _write_parquet(result, path, rows_a_file)


def _write_npy(result: Result, path: Path) -> None:
    header = {"descr": "<i8", "fortran_order": False, "shape": (result.num_issues,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in result.found.column("row"):
            file.write(rows.astype("<i8", copy=False).data)


def _write_csv(result: Result, path: Path, *, escape_formulas: bool) -> None:
    write_table(path, result.issue_tables(), escape_formulas=escape_formulas)


def write_table(path: Path, tables: Iterable[Columns], *, escape_formulas: bool) -> None:
    """Write a table, which comes in blocks of rows, as a CSV file.

    Parameters
    ----------
    path : Path
        The file.
    tables : iterable of dict of (n,) array
        The blocks, with the same columns.
    escape_formulas : bool
        Whether to escape texts that a spreadsheet would run as formulas.
    """

    def cells(column: npt.NDArray[Any]) -> Iterable[Any]:
        if column.dtype.kind != "O":  # as text, NumPy writes the fewest digits that read back as the same float32
            return column.astype(str)
        return map(escape_formula, column) if escape_formulas else column

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, columns in enumerate(tables):
            if not number:
                writer.writerow(columns)
            for start in range(0, len(next(iter(columns.values()))), _CSV_ROWS):
                cut = [cells(column[start : start + _CSV_ROWS]) for column in columns.values()]
                writer.writerows(zip(*cut, strict=True))


def _write_parquet(result: Result, path: Path, rows_a_file: int) -> None:
    """Write a file, or a folder of files with at most `rows_a_file` rows each."""
    import pyarrow as pa
    from pyarrow import parquet

    # Of the first issue: a column of no texts would have no type.
    schema = pa.table(result.issue_table(0, 1)).schema.with_metadata({PARQUET_MARK: b"1"})
    several = result.num_issues > rows_a_file
    if several:
        path.mkdir()
    for number, start in enumerate(range(0, max(1, result.num_issues), rows_a_file)):
        file, stop = path / f"part-{number:05d}.parquet" if several else path, start + rows_a_file
        with parquet.ParquetWriter(file, schema) as writer:
            for columns in result.issue_tables(start, min(stop, result.num_issues)):
                writer.write_table(pa.table(columns, schema=schema))


def _write_zarr(result: Result, location: str) -> None:
    """Write everything, in chunks of rows."""
    _refuse_own_place(result, location)
    with staged(location) as stage:
        stage.clear()
        group, step = stage.group, result_rows(result.n_rows)
        scores, mask = result.scores, result.mask()
        group.create_rows(result.n_rows, scores.dtype)
        write_scores, write_mask = group.writer("scores"), group.writer("mask")
        for start in range(0, result.n_rows, step):
            write_scores(start, np.asarray(scores[start : start + step]))
            write_mask(start, mask[start : start + step])
        step = run_rows(result.num_issues)
        dtypes = {name: column.dtype for name, column in result.found.part(0, 0).columns().items()}
        group.create_issues(result.num_issues, step, dtypes)
        writers = {name: group.writer(COLUMNS[name]) for name in dtypes}
        for start in range(0, result.num_issues, step):
            part = result.found.part(start, min(start + step, result.num_issues))
            for name, column in part.columns().items():
                writers[name](start, column)
        stage.publish(result)


def _refuse_own_place(result: Result, location: str) -> None:
    """Raise where a result would be removed before it is read: in an object store nothing is renamed."""
    target = open_folder(location)
    groups = [getattr(part, "group", None) for part in (result.found, result.score_parts, result.ids)]
    if not isinstance(target, LocalFolder) and any(g and g.folder.where == target.where for g in groups):
        raise InvalidInputError(f"this result is read from {target.where}: save it to another place")
