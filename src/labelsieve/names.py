"""The user's own names of classes and of rows.

Covers: `check_class_names`, `read_class_names` from a file, and `open_ids`.
Does not cover: where names are shown (`results`, `report`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputTypeError("class_names must be a sequence of strings, one for each class")
    if len(names) != n_classes:
        raise InvalidInputError(f"{len(names):,} class_names, pred_probs has {n_classes:,} classes")
    return tuple(map(str, names))


def read_class_names(path: Path) -> list[str]:
    """Read names from a file: one a line, or a JSON list.

    Raises
    ------
    InvalidInputError
        For a file that holds no such thing.
    """
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else text.rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"class names: {path} is not readable: {error}") from error
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"class names: {path} must list names, as strings")
    return list(names)


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
        return names if names.dtype.kind in "iu" else names.astype(str).astype(object)


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
        array = np.asarray(array)
        if array.dtype.kind == "O" and all(isinstance(name, str) for name in array.ravel()):
            array = array.astype(str)
    if array.ndim != 1 or array.shape[0] != n_rows:
        raise InvalidInputError(f"ids have shape {tuple(array.shape)}, pred_probs has {n_rows:,} rows")
    if np.dtype(array.dtype).kind not in "iuUT":
        raise InputTypeError(f"ids must be integers or strings, not {array.dtype}")
    return ArrayIds(array)


def _open(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.is_dir():
            import zarr

            return zarr.open_array(path, mode="r")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"ids: {path} is not readable: {error}") from error
