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
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import open_any
from labelsieve.sources.open_path import open_place
from labelsieve.storage.urls import check_place

# What a spreadsheet takes for a formula, with the apostrophes that stand before it already.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def check_class_names(names: Sequence[str] | None, n_classes: int) -> tuple[str, ...] | None:
    """Return the names of all classes, in order.

    Raises
    ------
    InvalidInputError
        If there are not as many as classes.
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
    """Return text that can be written anywhere: what is no letter, as in names of files, in its escaped form."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_formula(text: str) -> str:
    """Return the text of a CSV cell that a spreadsheet does not run, in whatever program it is opened.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets an apostrophe before it, except
    for numbers. So does such text that has apostrophes before it already: `unescape_formula` gives back every text.

    Examples
    --------
    >>> [escape_formula(text) for text in ("=1+1", "-5", "-a", "'=1+1", "'tis", "cat")]
    ["'=1+1", '-5', "'-a", "''=1+1", "'tis", 'cat']
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape_formula(text: str) -> str:
    """Return the text of which `escape_formula` made the text of a CSV cell.

    Examples
    --------
    >>> [unescape_formula(text) for text in ("'=1+1", "-5", "''=1+1", "'tis")]
    ['=1+1', '-5', "'=1+1", "'tis"]
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, which end with a line feed, or a carriage return and a line feed."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.read().split("\n")
    last = lines.pop()  # what no line feed ends
    return [line.removesuffix("\r") for line in lines] + [last] * (last != "")


def read_class_names(path: Path) -> list[str]:
    """Read names from a file: one a line, or a JSON list.

    Raises
    ------
    InvalidInputError
        For a file that holds no such thing.
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
        return lines  # also where the first one is written in brackets
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

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:  # noqa: ARG002  # by row
        """Return the names of `rows`.

        Raises
        ------
        UnreadableDataError
            If they cannot be read, or have changed since the run began.
        """
        names = self.names.take(rows)
        if names.dtype.kind in "iu":
            return names.astype(names.dtype.newbyteorder("="), copy=False)
        texts: npt.NDArray[Any] = np.empty(len(names), object)  # fixed widths would be that of the longest
        texts[:] = [as_text(str(name)) for name in names.tolist()]
        return texts


def open_ids(ids: Any, n_rows: int) -> ArrayIds | None:
    """Open the user's own names of rows; of a file only what is asked for is read.

    Parameters
    ----------
    ids : array-like of int or str, or path, or None
        ``(N,)`` names: a list, NumPy array, pandas column, Zarr array, or the path of a ``.npy`` file, a Zarr array, a
        ``.csv`` file with a column ``id`` as `LabelIssues.to_csv` writes it, or a text file with a name a line.
    n_rows : int
        N.

    Raises
    ------
    InvalidInputError
        If there are not N, or a path holds no such thing.
    InputTypeError
        For anything but integers and strings.
    """
    if ids is None:
        return None
    names = _open(Path(check_place("ids", ids))) if isinstance(ids, str | os.PathLike) else ids
    if hasattr(names, "oindex"):
        names = open_any("ids", names)
    if isinstance(names, Source):
        names.note_version()
        names.take(np.empty(0, np.int64))  # a file stays mapped, so that it can be replaced while the result is used
    else:
        strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        names = np.asarray(names, object if strings else None)
    if names.shape != (n_rows,):
        raise InvalidInputError(f"ids have shape {tuple(names.shape)}, pred_probs has {n_rows:,} rows")
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
    """Read the column ``id`` of a CSV file, with what `escape_formula` has added taken away; None without such one."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if "id" not in header:
            return None
        at, names = header.index("id"), list[str]()
        for line in lines:
            if len(line) != len(header):
                raise InvalidInputError(
                    f"ids: line {lines.line_num:,} of {path} has {len(line)} cells, its header has {len(header)}"
                )
            names.append(unescape_formula(line[at]))
    return names
