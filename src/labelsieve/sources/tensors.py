"""Tensors of PyTorch, JAX, CuPy and other libraries with DLPack: read in place in host memory, copied from devices."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Floats
from labelsieve.errors import InputTypeError
from labelsieve.sources.arrays import ArraySource, in_memory
from labelsieve.sources.base import Source
from labelsieve.sources.bfloat16 import Bfloat16Source, refuse_narrow, widened_bits

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
    tensor = without_gradient(tensor)
    dtype = str(getattr(tensor, "dtype", "")).rpartition(".")[2]
    refuse_narrow(name, dtype)
    if is_on_device(tensor):
        _LOGGER.info("%s is on %s, and is copied to the memory of this process", name, getattr(tensor, "device", ""))
        tensor = to_host(tensor)
    if dtype == "bfloat16":
        bits = as_bits(tensor)
        if bits is not None:
            return Bfloat16Source(ArraySource(bits))
    if hasattr(tensor, "__array__"):
        return ArraySource(in_memory(name, tensor))
    try:
        return ArraySource(np.from_dlpack(tensor))
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


def without_gradient(array: Any) -> Any:
    """Return an array that records no operations: PyTorch gives no memory that has gradients."""
    return array.detach() if hasattr(array, "detach") else array


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
    array = without_gradient(array)
    if is_on_device(array):
        array = to_host(array)
    if "bfloat16" in str(getattr(array, "dtype", "")):
        bits = as_bits(array)
        if bits is not None:
            return Bfloat16Rows(bits)
    # A masked array has missing values, which are an error.
    is_plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    found = array if is_plain else in_memory(name, array)
    return Bfloat16Rows(found.view(np.uint16)) if found.dtype.name == "bfloat16" else found


def to_host(array: Any) -> Any:
    """Copy an array from its device."""
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
    """Return the bits of a bfloat16 array that NumPy cannot take; None for one that knows NumPy's own type of it."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        bits: npt.NDArray[np.uint16] = np.asarray(array.view(torch.int16)).view(np.uint16)
        return bits
    return None
