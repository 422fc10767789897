"""The user's own names of classes and of rows.

Covers: `check_class_names`, `read_class_names` from a file, and `open_ids`.
Does not cover: where names are shown (`results`, `report`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError


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


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, which end where a file's lines end and nowhere else."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_class_names(path: Path) -> list[str]:
    """Read names from a file: one a line, or a JSON list.

    Raises
    ------
    InvalidInputError
        For a file that holds no such thing.
    """
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
    """Names of all rows, in memory or in a store that takes row numbers.

    Parameters
    ----------
    array : (N,) array
        Of integers or strings.
    """

    array: Any

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:  # noqa: ARG002  # by row
        """Return the names of `rows`."""
        taken = self.array.oindex[rows] if hasattr(self.array, "oindex") else self.array[rows]
        names: npt.NDArray[Any] = np.asarray(taken)
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
        ``(N,)`` names: a list, NumPy array, pandas column, Zarr array, or the path of a ``.npy`` file, a Zarr array, or
        a text file with a name a line.
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
    array = _open(Path(ids)) if isinstance(ids, str | os.PathLike) else ids
    if not hasattr(array, "oindex"):
        strings = isinstance(array, list | tuple) and all(isinstance(name, str) for name in array)
        array = np.asarray(array, object if strings else None)
    if array.ndim != 1 or array.shape[0] != n_rows:
        raise InvalidInputError(f"ids have shape {tuple(array.shape)}, pred_probs has {n_rows:,} rows")
    strings = np.dtype(array.dtype).kind == "O" and all(isinstance(name, str) for name in array)
    if not strings and np.dtype(array.dtype).kind not in "iuUT":
        raise InputTypeError(f"ids must be integers or strings, not {array.dtype}")
    return ArrayIds(array)


def _open(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.is_dir():
            import zarr

            return zarr.open_array(path, mode="r")
        return read_lines(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"ids: {path} is not readable: {error}") from error
