"""Batches of any array library: in host memory without a copy, or summarized on the device that holds them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Floats, Ints
from labelsieve.confident_learning.row_sums import NOTED_DIFFERENCE
from labelsieve.confident_learning.summarizer import low_limit
from labelsieve.errors import InputTypeError, MissingDependencyError
from labelsieve.sources.arrays import in_memory
from labelsieve.sources.bfloat16 import widened_bits

# Device types of DLPack whose memory the processor reads: its own, and pinned memory of CUDA and ROCm.
_HOST_DEVICES: Final = frozenset({1, 3, 11})
# More than the error of a float32 sum of a row; rows that may differ from 1 by more are looked at by NumPy.
_SUM_MARGIN: Final = 2e-3


@dataclass(frozen=True)
class DeviceSummary:
    """Row summaries of a batch that was summarized on its device.

    Parameters
    ----------
    predicted : (n,) int
        First class of the largest probability.
    p_label, p_predicted : (n,) float
        Probabilities of the label and of that class.
    suspects : (m,) int
        Rows that may have bad values, as far as the device can tell.
    rows : (m, K) float
        Those rows.
    """

    predicted: Ints
    p_label: Floats
    p_predicted: Floats
    suspects: Ints
    rows: Floats


def is_on_device(array: Any) -> bool:
    """Return whether an array is in the memory of another device than the processor."""
    if isinstance(array, np.ndarray | list | tuple) or not hasattr(array, "__dlpack_device__"):
        return False
    # Of array_api_strict, which only plays devices.
    if getattr(getattr(array, "device", ""), "_device", "CPU_DEVICE") != "CPU_DEVICE":
        return True
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


def summarize_on_device(labels: Ints, pred_probs: Any) -> DeviceSummary | None:
    """Summarize a batch on the device that holds it; only summaries are copied.

    Parameters
    ----------
    labels : (n,) int
        Labels, 0..K-1, in the processor's memory.
    pred_probs : (n, K) array of float16, float32, float64 or bfloat16
        Probabilities, on the device.

    Returns
    -------
    DeviceSummary or None
        None for an array that the array API has no functions for.
    """
    xp = _namespace(pred_probs)
    n, n_classes = pred_probs.shape
    try:
        if "bfloat16" in str(pred_probs.dtype):
            pred_probs = xp.astype(pred_probs, xp.float32)
        # float16 sums would overflow their precision.
        wide = xp.float64 if pred_probs.dtype == xp.float64 else xp.float32
        predicted = xp.argmax(pred_probs, axis=1)
        sums = xp.sum(pred_probs, axis=1, dtype=wide)
        highest, lowest = xp.max(pred_probs, axis=1), xp.min(pred_probs, axis=1)
        places = xp.asarray(np.arange(n, dtype=np.int64) * n_classes + labels, device=pred_probs.device)
        p_label = xp.take(xp.reshape(pred_probs, (-1,)), places)
        columns = [np.asarray(to_host(column)) for column in (predicted, p_label, highest, lowest, sums)]
    except (AttributeError, TypeError, NotImplementedError):
        return None
    suspects = np.flatnonzero(_suspicious(*columns[2:], n_classes=n_classes))
    rows = np.empty((0, n_classes), columns[1].dtype)
    if len(suspects):
        chosen = xp.asarray(suspects, device=pred_probs.device)
        rows = np.asarray(to_host(xp.take(pred_probs, chosen, axis=0)))
    return DeviceSummary(columns[0], columns[1] + 0, columns[2] + 0, suspects, rows)


def _suspicious(highest: Floats, lowest: Floats, sums: Floats, *, n_classes: int) -> Bools:
    """Return which rows may have a bad value, or a sum that a report mentions. NaN fails every comparison."""
    near = NOTED_DIFFERENCE - _SUM_MARGIN
    with np.errstate(invalid="ignore"):
        fine = (
            (lowest >= 0)
            & (highest <= 1)
            & (highest >= low_limit(n_classes))
            & (np.abs(sums.astype(np.float64) - 1) <= near)
        )
    suspicious: Bools = ~fine
    return suspicious


def _namespace(array: Any) -> Any:
    """Return the functions of the array API for an array on a device."""
    try:
        import array_api_compat
    except ImportError as error:
        raise MissingDependencyError(f"An array of {_library(array)} on {array.device}", "arrays") from error
    return array_api_compat.array_namespace(array)


def to_host(array: Any) -> Any:
    """Copy an array from its device."""
    if _library(array) == "cupy":
        return array.get()
    if hasattr(array, "cpu"):
        return array.cpu()
    if _library(array) == "array_api_strict":
        return array.to_device(sys.modules["array_api_strict"].Device("CPU_DEVICE"))
    where = f"an array of {_library(array)} on {getattr(array, 'device', 'another device')}"
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


def _library(array: Any) -> str:
    return type(array).__module__.partition(".")[0]
