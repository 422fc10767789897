"""Arrays in memory, and what becomes one: lists, pandas Series and DataFrames.

Covers: `ArraySource` and the conversions of labels and probabilities that are Python or pandas objects.
Does not cover: anything on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.base import Rows, Source


class ArraySource(Source):
    """A NumPy array; a part of it is a view.

    Parameters
    ----------
    array : (N,) or (N, K) array
        Never written to.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = array

    def open(self) -> Rows:
        """Open for reading; nothing to do."""
        return _ArrayRows(self.array)

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return only these rows, since an array in memory travels with its data."""
        return ArraySource(self.array[start:stop]), start


class _ArrayRows(Rows):
    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._array[start:stop]


def in_memory(name: str, data: Any) -> npt.NDArray[Any]:
    """Return the NumPy array of an object that is none of the lazy kinds.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    data : object
        List, tuple, array, pandas object, or anything that NumPy reads as an array.

    Raises
    ------
    InvalidInputError
        For missing values, masked entries, ragged rows, nested labels.
    InputTypeError
        For an object that is no array at all.
    """
    kind = type(data)
    if kind.__module__.partition(".")[0] == "pandas":
        return _from_pandas(name, data)
    if isinstance(data, np.ma.MaskedArray):
        n_masked = int(np.count_nonzero(np.ma.getmaskarray(data)))
        if n_masked:
            raise InvalidInputError(
                f"{name} is a masked array with {n_masked:,} masked values: drop or fill them first"
            )
        return np.asarray(data.data)
    if isinstance(data, list | tuple):
        return _from_sequence(name, data)
    if isinstance(data, str | bytes | dict | set) or not (isinstance(data, np.ndarray) or hasattr(data, "__array__")):
        raise InputTypeError(f"{name} must be an array, a list or a path to a .npy or .zarr file; not {kind.__name__}")
    return np.asarray(data)


def _from_sequence(name: str, data: list[Any] | tuple[Any, ...]) -> npt.NDArray[Any]:
    if name == "labels":
        if not data:
            return np.empty(0, np.int64)
        if any(isinstance(item, list | tuple | set) or (isinstance(item, np.ndarray) and item.ndim) for item in data):
            raise InvalidInputError(
                "labels is a list of lists: multi-label is out of scope, give one integer label for each row"
            )
        missing = sum(item is None for item in data)
        if missing:
            raise InvalidInputError(f"labels has {missing:,} missing values (None): drop these rows or label them")
    try:
        return np.asarray(data)
    except ValueError as error:
        raise InvalidInputError(f"{name} is a list whose rows differ in length") from error


def _from_pandas(name: str, data: Any) -> npt.NDArray[Any]:
    if name == "labels" and data.ndim == 2:
        if data.shape[1] != 1:
            raise InvalidInputError(f"labels is a table of {data.shape[1]} columns; give the one that holds the labels")
        data = data.iloc[:, 0]
    missing = int(np.sum(data.isna().to_numpy())) if hasattr(data, "isna") and hasattr(data.isna(), "to_numpy") else 0
    if missing and name == "labels":
        raise InvalidInputError(f"labels has {missing:,} missing values: drop these rows or label them")
    array = data.to_numpy() if hasattr(data, "to_numpy") else np.asarray(data)
    if array.dtype == object and name == "labels" and _holds_integers(data):
        array = data.to_numpy(dtype=np.int64)
    if array.dtype == object and not missing and name == "labels":
        raise InvalidInputError(f"labels has dtype {getattr(data, 'dtype', 'object')}; they must be integers 0..K-1")
    return array


def _holds_integers(series: Any) -> bool:
    """Tell whether a pandas extension dtype (nullable or Arrow) is an integer one."""
    return getattr(getattr(series, "dtype", None), "kind", "O") in "iu"
