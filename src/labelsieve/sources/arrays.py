"""Arrays in memory, and what is converted to one: lists, pandas Series and DataFrames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import label_dtype
from labelsieve.confident_learning.summarizer import label_column
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.base import Rows, Source

_NESTED: Final = (
    "labels is a list of lists: for rows with several labels call "
    "labelsieve.multilabel_classification.find_label_issues"
)
# Rows of labels that are read at a time where any number of them may be.
_ROWS_AT_A_TIME: Final = 1 << 16
# How to convert labels that are names. Only the user knows the number of each: the columns have an order.
MAP_STRINGS: Final = (
    "map them to the columns of pred_probs, with class_names in the order of these columns: "
    "number = {name: k for k, name in enumerate(class_names)}; labels = [number[label] for label in labels]. "
    "If the columns are in alphabetical order, as scikit-learn's are, and every class has rows: "
    "class_names, labels = np.unique(labels, return_inverse=True)"
)


class ArraySource(Source):
    """A NumPy array; a part of it is a view.

    Parameters
    ----------
    array : (N,) or (N, K) array
        Only read.
    """

    forkable = True
    in_memory = True

    def __init__(self, array: npt.NDArray[Any]) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = array

    @property
    def where(self) -> str:
        """What it is: memory has no path."""
        return "an array in memory"

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing to prefetch
        """Open for reading."""
        return _ArrayRows(self)

    def _content(self) -> str:
        """Return a digest of the values."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        from dask.base import tokenize

        return str(tokenize(np.ascontiguousarray(self.array), ensure_deterministic=True))

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a view of these rows, since an array in memory pickles with its data."""
        return ArraySource(self.array[start:stop]), start


class _ArrayRows(Rows):
    def __init__(self, source: ArraySource) -> None:
        super().__init__(source)
        self._array = source.array

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._array[start:stop]


def read_narrowed(labels: Source, n_classes: int, ignored: int | None = None) -> tuple[ArraySource, int | None]:
    """Read labels chunk by chunk into the smallest dtype; as they are stored if some are not classes 0..K-1.

    Parameters
    ----------
    labels : Source
        ``(N,)`` integers.
    n_classes : int
        Number of classes K.
    ignored : int, optional
        The value that says that a row has no label.

    Returns
    -------
    read : ArraySource
        The labels in memory.
    ignored : int or None
        The value in `read` that says that a row has no label.
    """
    narrow, step = np.empty(labels.n_rows, label_dtype(n_classes, ignored)), labels.row_chunk or _ROWS_AT_A_TIME
    with labels.open() as opened:
        for start in range(0, labels.n_rows, step):
            chunk = opened.read(start, min(start + step, labels.n_rows))
            column = label_column(chunk, n_classes, ignored)
            if column is None:
                return ArraySource(labels[:]), ignored  # so that the error can name the labels
            narrow[start : start + step] = column
    return ArraySource(narrow), None if ignored is None else n_classes


def in_memory(name: str, data: Any) -> npt.NDArray[Any]:
    """Return the NumPy array of an object in memory.

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
        For an object that is not an array.
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
    if isinstance(data, list | tuple | range):
        return _from_sequence(name, data)
    if kind.__module__.partition(".")[0] == "dask":
        raise InputTypeError(f"{name} is a Dask {kind.__name__}: give its .to_dask_array(lengths=True)")
    wrong = InputTypeError(f"{name} must be an array, a list or a path to a .npy or .zarr file; not {kind.__name__}")
    if isinstance(data, str | bytes | dict | set) or not (isinstance(data, np.ndarray) or hasattr(data, "__array__")):
        raise wrong
    try:
        array = np.asarray(data)
    except (TypeError, ValueError, RuntimeError) as error:  # what __array__ of other packages raises
        raise wrong from error
    if array.dtype == object and name == "labels":
        _refuse_objects(array.ravel().tolist())
    return array


def _refuse_objects(labels: list[Any]) -> None:
    """Raise for labels that are Python objects, by what they are."""
    if any(isinstance(item, list | tuple | set | np.ndarray) for item in labels):
        raise InvalidInputError(_NESTED)
    _refuse_missing(sum(item is None or (isinstance(item, float) and math.isnan(item)) for item in labels))
    hint = MAP_STRINGS if any(isinstance(item, str) for item in labels) else "convert them with .astype(int)"
    raise InvalidInputError(f"labels must be integers 0..K-1, not object: {hint}")


def _refuse_missing(n: int) -> None:
    if n:
        raise InvalidInputError(f"labels has {n:,} missing values: drop these rows or label them")


def _from_sequence(name: str, data: Sequence[Any]) -> npt.NDArray[Any]:
    try:
        array = np.asarray(data, None if data else np.int64)
    except ValueError as error:
        wrong = _NESTED if name == "labels" else f"{name} is a list whose rows differ in length"
        raise InvalidInputError(wrong) from error
    if name == "labels" and array.ndim > 1:
        raise InvalidInputError(_NESTED)
    if name == "labels" and array.dtype == object:
        _refuse_objects(array.tolist())
    return array


def _from_pandas(name: str, data: Any) -> npt.NDArray[Any]:
    if name == "labels" and data.ndim == 2:
        if data.shape[1] != 1:
            raise InvalidInputError(f"labels is a table of {data.shape[1]} columns; give the one that holds the labels")
        data = data.iloc[:, 0]
    if not hasattr(data, "to_numpy"):
        return np.asarray(data)
    if name == "pred_probs":
        array: npt.NDArray[Any] = data.to_numpy()
        floats = data.ndim == 2 and all(getattr(dtype, "kind", "O") == "f" for dtype in data.dtypes)
        # Nullable and Arrow floats come as objects; their missing values become NaN, which the check reports.
        if array.dtype == object and floats:
            array = data.to_numpy(dtype=np.float64, na_value=np.nan)
        return array
    _refuse_missing(int(np.sum(np.asarray(data.isna()))))
    array = data.to_numpy()
    if array.dtype == object and getattr(data.dtype, "kind", "O") in "iu":
        array = data.to_numpy(dtype=np.int64)
    if array.dtype == object:
        hint = MAP_STRINGS if any(isinstance(item, str) for item in array) else "convert them with .astype(int)"
        raise InvalidInputError(f"labels has dtype {data.dtype}; they must be integers 0..K-1: {hint}")
    return array
