"""The user's own names of classes and of rows."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.layouts import Layout
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import open_any
from labelsieve.sources.open_path import open_place
from labelsieve.sources.text_cells import as_text, read_lines, unescape_formula
from labelsieve.storage.urls import check_place


def check_class_names(names: Sequence[str] | None, n_classes: int) -> tuple[str, ...] | None:
    """Return the names of all classes, in order.

    Raises
    ------
    InvalidInputError
        If there is not one for each class.
    InputTypeError
        If they are not a sequence of strings.
    """
    if names is None:
        return None
    given = check_names(names)
    if len(given) != n_classes:
        raise InvalidInputError(f"{len(given):,} class_names, pred_probs has {n_classes:,} classes")
    return tuple(map(as_text, given))


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes, or raise an `InputTypeError` if they are anything but strings."""
    given: tuple[Any, ...] = tuple(names) if isinstance(names, Iterable) else (names,)
    if isinstance(names, str) or not all(isinstance(name, str) for name in given):
        raise InputTypeError("class_names must be a sequence of strings, one for each class")
    return given


def read_class_names(path: Path) -> list[str]:
    """Read class names from a file: one on each line, or a JSON list.

    Raises
    ------
    InvalidInputError
        For a file that cannot be read, or a list of anything but strings.
    """
    check_place("class names", path)
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"class names: {path} is not readable: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    try:
        names = json.loads("\n".join(lines))
    except ValueError:
        return lines  # perhaps the first name is in brackets
    if not isinstance(names, list):
        return lines
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"class names: {path} must list names, as strings")
    return names


@dataclass(frozen=True)
class ArrayIds:
    """The user's own names of all rows.

    Parameters
    ----------
    names : (N,) array or Source
        Integers or strings.
    """

    names: npt.NDArray[Any] | Source

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:  # noqa: ARG002  # found by row
        """Return the names of `rows`.

        Raises
        ------
        UnreadableDataError
            If they cannot be read, or have changed since the run began.
        """
        names = self.names.take(rows)
        if names.dtype.kind in "iu":
            return names.astype(names.dtype.newbyteorder("="), copy=False)
        texts: npt.NDArray[Any] = np.empty(len(names), object)  # a fixed width would be that of the longest
        texts[:] = [as_text(str(name)) for name in names.tolist()]
        return texts


@dataclass(frozen=True)
class GroupIds:
    """The user's own names of groups of rows.

    Parameters
    ----------
    names : ArrayIds
        Of all groups.
    layout : Layout
        The group of each row.
    """

    names: ArrayIds
    layout: Layout

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the names of the groups of `rows`."""
        return self.names.part(start, stop, self.layout.groups_of(rows))


def open_ids(ids: Any, n_rows: int, layout: Layout | None = None) -> ArrayIds | GroupIds | None:
    """Open the user's own names of rows. Of a ``.npy`` file or Zarr array only the names of issues are read, later.

    Parameters
    ----------
    ids : array-like of int or str, or path, or None
        ``(N,)`` names: a list, NumPy array, pandas column, Zarr array, or the path of a ``.npy`` file, a Zarr array, a
        ``.csv`` file with a column ``id`` as `LabelIssues.to_csv` writes it, or a text file with a name on each line.
    n_rows : int
        N.
    layout : Layout, optional
        Groups of the rows, of which `ids` has a name each.

    Raises
    ------
    InvalidInputError
        If there are not N, or the path cannot be read.
    InputTypeError
        For anything but integers and strings.
    """
    if ids is None:
        return None
    if layout is not None:
        return GroupIds(_open_names(ids, layout.n_groups, f"there are {layout.n_groups:,} {layout.units[1]}"), layout)
    return _open_names(ids, n_rows, f"pred_probs has {n_rows:,} rows")


def _open_names(ids: Any, n_named: int, size: str) -> ArrayIds:
    """Open `n_named` names; `size` says in messages how many there must be."""
    names = _open(Path(check_place("ids", ids))) if isinstance(ids, str | os.PathLike) else ids
    if hasattr(names, "oindex"):
        names = open_any("ids", names)
    if isinstance(names, Source):
        names.note_version()
    else:
        strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        names = np.asarray(names, object if strings else None)
    if names.shape != (n_named,):
        raise InvalidInputError(f"ids have shape {tuple(names.shape)}, {size}")
    strings = names.dtype.kind == "O" and all(isinstance(name, str) for name in names[:])
    if not strings and names.dtype.kind not in "iuUT":
        raise InputTypeError(f"ids must be integers or strings, not {names.dtype}")
    return ArrayIds(names)


def _open(path: Path) -> Source | list[str]:
    """Open a file or Zarr array of names; of a text file or CSV all are read."""
    if path.suffix == ".npy" or path.is_dir():
        return open_place("ids", path)
    try:
        column = _read_id_column(path) if path.suffix == ".csv" else None
        return read_lines(path) if column is None else column
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInputError(f"ids: {path} is not readable: {error}") from error


def _read_id_column(path: Path) -> list[str] | None:
    """Return the column ``id`` of a CSV file without what `escape_formula` added; None if it has no such column."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if "id" not in header:
            return None
        position, names = header.index("id"), list[str]()
        for line in lines:
            if len(line) != len(header):
                raise InvalidInputError(
                    f"ids: line {lines.line_num:,} of {path} has {len(line)} cells, its header has {len(header)}"
                )
            names.append(unescape_formula(line[position]))
    return names
