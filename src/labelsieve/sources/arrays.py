"""Arrays in memory, and what is converted to one: lists, pandas Series and DataFrames."""

from __future__ import annotations

import logging
import math
import sys
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.summarize import label_column
from labelsieve.confident_learning.thresholds import Floats, label_dtype
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.composite import Bfloat16Source, refuse_narrow, widened_bits
from labelsieve.sources.source import ReadFacts, Rows, Source

_NESTED: Final = (
    "labels is a list of lists: for rows with several labels call "
    "labelsieve.multilabel_classification.find_label_issues"
)
# How to convert labels that are names. Only the user knows the number of each: the columns have an order.
MAP_STRINGS: Final = (
    "with class_names in the order of the columns of pred_probs, take "
    "labels = [class_names.index(label) for label in labels]"
)
WHOLE_NUMBERS: Final = "take labels = np.asarray(labels, int) if all are whole numbers"


class ArraySource(Source):
    """A NumPy array; a part of it is a view.

    Parameters
    ----------
    array : (N,) or (N, K) array
        Only read.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        super().__init__(array.shape, array.dtype, ReadFacts(in_memory=True, forkable=True))
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
    narrow, step = np.empty(labels.n_rows, label_dtype(n_classes, ignored)), labels.facts.row_chunk or 1 << 16
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
    package = kind.__module__.partition(".")[0]
    if package == "pandas":
        return _from_pandas(name, data)
    if isinstance(data, np.ma.MaskedArray):
        n_masked = int(np.count_nonzero(np.ma.getmaskarray(data)))
        if n_masked:
            raise InvalidInputError(
                f"{name} is a masked array with {rows_in_words(n_masked, 'masked value', 'masked values')}: drop or "
                "fill them first"
            )
        return np.asarray(data.data)
    nested = _NESTED if name == "labels" else f"{name} is a list whose rows differ in length"
    if isinstance(data, list | tuple | range):
        try:
            array = np.asarray(data, None if data else np.int64)
        except ValueError as error:
            raise InvalidInputError(nested) from error
        if name == "labels" and array.ndim > 1:
            raise InvalidInputError(nested)
        return _without_objects(name, array)
    if package == "dask" and hasattr(kind, "to_dask_array"):
        raise InputTypeError(f"{name} is a Dask {kind.__name__}: give its .to_dask_array(lengths=True)")
    wrong = InputTypeError(f"{name} must be an array, a list or a path to a .npy or .zarr file; not {kind.__name__}")
    if isinstance(data, str | bytes | dict | set) or not (isinstance(data, np.ndarray) or hasattr(data, "__array__")):
        raise wrong
    try:
        array = np.asarray(data)
    except (TypeError, ValueError, RuntimeError) as error:  # what __array__ of other packages raises
        raise wrong from error
    return _without_objects(name, array)


def _without_objects(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as it is; raise for labels that are Python objects, by what they are."""
    if array.dtype != object or name != "labels":
        return array
    labels = array.ravel().tolist()
    if any(isinstance(item, list | tuple | set | np.ndarray) for item in labels):
        raise InvalidInputError(_NESTED)
    _refuse_missing(sum(item is None or (isinstance(item, float) and math.isnan(item)) for item in labels))
    hint = MAP_STRINGS if any(isinstance(item, str) for item in labels) else WHOLE_NUMBERS
    raise InvalidInputError(f"labels must be integers 0..K-1, not object: {hint}")


def _refuse_missing(n: int) -> None:
    if n:
        raise InvalidInputError(
            f"labels has {rows_in_words(n, 'missing value', 'missing values')}: drop these rows or label them"
        )


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
        hint = MAP_STRINGS if any(isinstance(item, str) for item in array) else WHOLE_NUMBERS
        raise InvalidInputError(f"labels has dtype {data.dtype}; they must be integers 0..K-1: {hint}")
    return array


# Device types of DLPack whose memory the processor reads: its own, and pinned memory of CUDA and ROCm.
_HOST_DEVICES: Final = frozenset({1, 3, 11})
_LOGGER: Final = logging.getLogger(__name__)
# Tables and columns, which have rules of their own for missing values.
_OF_TABLES: Final = frozenset({"pandas", "polars", "pyarrow", "cudf"})


def is_tensor(data: Any) -> bool:
    """Return whether an object gives its memory by DLPack and is neither a NumPy array nor a column of a table."""
    package = type(data).__module__.partition(".")[0]
    return hasattr(data, "__dlpack__") and not isinstance(data, np.ndarray | np.generic) and package not in _OF_TABLES


def open_tensor(name: str, tensor: Any) -> Source:
    """Return a tensor as an array in memory.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    tensor : object
        In this process's memory it is not copied. On a GPU it is, once and whole; the logger says so.

    Raises
    ------
    InputTypeError
        If NumPy cannot take it.
    InvalidInputError
        For values in float8 and the like.
    """
    refuse_narrow(name, str(getattr(tensor, "dtype", "")).rpartition(".")[2])
    if is_on_device(tensor):
        _LOGGER.info("%s is on %s, and is copied to the memory of this process", name, getattr(tensor, "device", ""))
    found = _without_device(tensor)
    bits = as_bits(found)
    if bits is not None:
        return Bfloat16Source(ArraySource(bits))
    if hasattr(found, "__array__"):
        return ArraySource(in_memory(name, found))
    try:
        return ArraySource(np.from_dlpack(found))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputTypeError(f"{name} is a {type(tensor).__name__} that NumPy cannot take: {error}") from error


def is_on_device(array: Any) -> bool:
    """Return whether an array is in the memory of another device than the processor."""
    if isinstance(array, np.ndarray | list | tuple) or not hasattr(array, "__dlpack_device__"):
        return False
    kind, _ = array.__dlpack_device__()
    return int(kind) not in _HOST_DEVICES


class Bfloat16Rows:
    """Rows in bfloat16, which NumPy does not have: a slice of them is widened to float32, which holds all their values.

    Parameters
    ----------
    bits : (n, K) uint16
        Their bits.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, bits: npt.NDArray[np.uint16]) -> None:
        self._bits, self.shape = bits, bits.shape

    def __getitem__(self, rows: slice) -> Floats:
        """Return some rows."""
        return widened_bits(self._bits[rows])


def on_host(name: str, array: Any) -> Any:
    """Return an array of any library in the processor's memory, without a copy where it is there already.

    Parameters
    ----------
    name : str
        What it is, for messages.
    array : array-like
        A list, a NumPy, PyTorch, JAX or CuPy array, or whatever NumPy takes.

    Returns
    -------
    ndarray or Bfloat16Rows
        A NumPy array, unless its dtype is bfloat16.
    """
    if type(array) is np.ndarray and array.dtype.kind in "fiu":  # at once: batches may be small
        return array
    array = _without_device(array)
    bits = as_bits(array)
    if bits is not None:
        return Bfloat16Rows(bits)
    # A masked array has missing values, which are an error.
    is_plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    found = array if is_plain else in_memory(name, array)
    return Bfloat16Rows(found.view(np.uint16)) if found.dtype.name == "bfloat16" else found


def _without_device(array: Any) -> Any:
    """Return an array in the processor's memory; without gradients, with which PyTorch gives no memory."""
    array = array.detach() if hasattr(array, "detach") else array
    if not is_on_device(array):
        return array
    library = type(array).__module__.partition(".")[0]
    if library == "cupy":
        return array.get()
    if hasattr(array, "cpu"):
        return array.cpu()
    where = f"an array of {library} on {getattr(array, 'device', 'another device')}"
    if not hasattr(array, "__array__"):  # NumPy would take it for an object
        raise InputTypeError(f"{where} cannot be copied to memory: give a NumPy array")
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{where} cannot be copied to memory: {error}") from error


def as_bits(array: Any) -> npt.NDArray[np.uint16] | None:
    """Return the bits of a bfloat16 tensor of PyTorch, which NumPy cannot take; None for other arrays."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor) or "bfloat16" not in str(array.dtype):
        return None
    bits: npt.NDArray[np.uint16] = np.asarray(array.view(torch.int16)).view(np.uint16)
    return bits
