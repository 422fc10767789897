"""The user's own names of classes and of rows."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.layouts import Layout
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import open_any
from labelsieve.sources.open_path import open_place
from labelsieve.storage.urls import check_place

# Text that a spreadsheet takes for a formula, with any apostrophes before it.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


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
    given: tuple[Any, ...] = tuple(names) if isinstance(names, Iterable) else (names,)
    if isinstance(names, str) or not all(isinstance(name, str) for name in given):
        raise InputTypeError("class_names must be a sequence of strings, one for each class")
    if len(given) != n_classes:
        raise InvalidInputError(f"{len(given):,} class_names, pred_probs has {n_classes:,} classes")
    return tuple(map(as_text, given))


def as_text(text: str) -> str:
    """Return text that can be written anywhere: lone surrogates, as in names of files, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_formula(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets an apostrophe before it, except
    numbers. So does such text with apostrophes before it: `unescape_formula` restores every text.

    Examples
    --------
    >>> [escape_formula(text) for text in ("=1+1", "-5", "-a", "'=1+1", "'tis", "cat")]
    ["'=1+1", '-5', "'-a", "''=1+1", "'tis", 'cat']
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape_formula(text: str) -> str:
    """Return the text that `escape_formula` turned into the text of a CSV cell.

    Examples
    --------
    >>> [unescape_formula(text) for text in ("'=1+1", "-5", "''=1+1", "'tis")]
    ['=1+1', '-5', "'=1+1", "'tis"]
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a text file. They end with ``\n`` or ``\r\n``, and with nothing else."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.read().split("\n")
    last = lines.pop()  # the text after the last line feed
    return [line.removesuffix("\r") for line in lines] + [last] * (last != "")


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
