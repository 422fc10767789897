"""Tensors of PyTorch, JAX, CuPy and whatever gives its memory by DLPack, as inputs: without a copy where NumPy can."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np

from labelsieve.errors import InputTypeError
from labelsieve.sources.arrays import ArraySource, in_memory
from labelsieve.sources.base import Source
from labelsieve.sources.bfloat16 import Bfloat16Source, refuse_narrow
from labelsieve.sources.device_arrays import as_bits, is_on_device, to_host, without_gradient

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
