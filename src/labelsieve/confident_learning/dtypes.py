"""Types of arrays, and the dtypes that follow from the number of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def class_dtype(n_classes: int) -> np.dtype[Any]:
    """Return the smallest unsigned dtype that holds the classes 0..K-1."""
    return np.dtype(np.min_scalar_type(n_classes - 1))


def label_dtype(n_classes: int, ignored: int | None = None) -> np.dtype[Any]:
    """Return the dtype of the column `label`: that of the classes, and of K too where rows may be without a label.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    ignored : int, optional
        The value of labels that stands for none, if there is one.
    """
    return class_dtype(n_classes + (ignored is not None))


def pair_dtype(n_classes: int) -> np.dtype[Any]:
    """Return the dtype of ``label * K + class``: uint32 if it holds all pairs, else int64."""
    return np.dtype(np.uint32 if n_classes * n_classes <= 1 << 32 else np.int64)


def unsigned_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned integer dtype as wide as the float `dtype`."""
    return np.dtype(f"u{dtype.itemsize}")
