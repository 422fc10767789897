"""Probabilities and logits in bfloat16, which NumPy does not have: the first 16 bits of a float32.

The package ``ml_dtypes`` gives NumPy the dtype, but ``.npy`` files and Zarr arrays keep only 16 bits, as void or as
integers. So ``dtype="bfloat16"`` says what these are. They are widened to float32, which has the same values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Floats
from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.derived import DerivedSource

if TYPE_CHECKING:
    import dask.array as da

_NAME: Final = "bfloat16"
# Values that are widened at a time, so that they stay in the cache.
_BLOCK_VALUES: Final = 1 << 17


def check_dtype(dtype: Any) -> str | None:
    """Return the name of a dtype that a user gave for `pred_probs`.

    Parameters
    ----------
    dtype : object
        None or bfloat16: the name, or the type of ``ml_dtypes``, JAX or PyTorch.

    Raises
    ------
    InvalidInputError
        For any other dtype, which the data itself states.
    """
    if dtype is None:
        return None
    name = str(getattr(dtype, "name", getattr(dtype, "__name__", dtype))).removeprefix("torch.")
    if name == _NAME:
        return _NAME
    raise InvalidInputError(
        f"dtype={dtype!r}: give dtype='bfloat16' for pred_probs whose bits are stored as integers or void; any other "
        "dtype is known from the data" + (f". {_refusal(name)}" if _is_narrow(name) else "")
    )


def widened(opened: Any, dtype: str | None = None) -> Any:
    """Return opened `pred_probs` as float32 if they are bfloat16, otherwise as they are.

    Parameters
    ----------
    opened : Source or dask.array.Array
        As opened.
    dtype : "bfloat16", optional
        What values of 16 bits are.

    Raises
    ------
    InvalidInputError
        For values in float8 and the like, for raw bits without `dtype`, and for values that cannot be bfloat16.
    """
    stored: np.dtype[Any] = opened.dtype
    if stored.name == _NAME or (dtype == _NAME and stored.itemsize == 2 and stored.kind in "Vui"):
        return Bfloat16Source(opened) if isinstance(opened, Source) else _widened_blocks(opened)
    refuse_narrow("pred_probs", stored.name)
    if stored.kind == "V" and stored.itemsize in (1, 2) and stored.names is None:
        kind = "bfloat16, give dtype='bfloat16' (--dtype bfloat16)"
        if stored.itemsize == 1:
            kind = "float8, convert them before they are saved"
        raise InvalidInputError(
            f"pred_probs is stored as {8 * stored.itemsize} bits without a dtype: if they are {kind}"
        )
    if dtype is not None and "Bfloat16Source" not in str(getattr(opened, "derivation", "")):
        raise InvalidInputError(
            f"dtype='bfloat16', but pred_probs is {stored}, not 16 bits without a dtype: leave dtype out"
        )
    return opened


def refuse_narrow(name: str, dtype: str) -> None:
    """Raise if `dtype` is float8 or narrower.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    dtype : str
        Name of the dtype.
    """
    if _is_narrow(dtype):
        raise InvalidInputError(f"{name} is {dtype}. {_refusal(dtype)}")


def _is_narrow(name: str) -> bool:
    return name.startswith(("float8_", "float6_", "float4_"))


def _refusal(name: str) -> str:
    return (
        f"{name} has too few bits for probabilities: at most 16 different ones between 0.5 and 1. Predict in bfloat16 "
        "or a wider dtype, or take pred_probs.astype(np.float32) to use these values all the same"
    )


def _widen(bits: npt.NDArray[Any], out: Floats) -> Floats:
    """Copy the bits of bfloat16 values to the upper halves of float32 values."""
    # Of void, which has no byte order, the bytes are those of a little-endian file.
    bits = bits.view("<u2" if bits.dtype.kind == "V" else bits.dtype.str.replace("i", "u"))
    step = max(1, _BLOCK_VALUES // max(1, int(np.prod(bits.shape[1:]))))
    upper = out.view(np.uint32)
    for start in range(0, len(bits), step):
        some = upper[start : start + step]
        np.copyto(some, bits[start : start + step])
        np.left_shift(some, 16, out=some)
    return out


def widened_bits(block: npt.NDArray[Any]) -> Floats:
    """Return a block of bfloat16 values, or of their bits, in float32."""
    return _widen(np.asarray(block), np.empty(block.shape, np.float32))


def _widened_blocks(array: da.Array) -> da.Array:
    found: da.Array = array.map_blocks(widened_bits, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return found


class Bfloat16Source(DerivedSource):
    """Values in float32 of stored bfloat16.

    Parameters
    ----------
    source : Source
        ``(N, K)`` values of 16 bits: bfloat16, void, or integers.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float32)

    def convert(self, rows: npt.NDArray[Any], first_row: int) -> Floats:  # noqa: ARG002  # no messages
        """Return the values in float32."""
        return widened_bits(rows)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _WidenedRows(self, self.source.open(start, stop))


class _WidenedRows(Rows):
    def __init__(self, source: Bfloat16Source, rows: Rows) -> None:
        super().__init__(source)
        self._rows = rows

    def read(self, start: int, stop: int) -> Floats:
        return _widen(self._rows.read(start, stop), self._reused(stop - start))

    def close(self) -> None:
        self._rows.close()
