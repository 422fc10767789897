"""Row summaries of strips that are stored class by class: the planes of images.

The values of a class are side by side, so that maxima and sums over classes need no transposed copy of a strip. With 20
classes in float32 a strip takes half of the time that it takes if it is transposed first.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s, Floats, Ints, unsigned_dtype
from labelsieve.confident_learning.quality_scores import ColumnKernel
from labelsieve.confident_learning.summarizer import Summarizer
from labelsieve.confident_learning.summary_block import FirstArgmax, FlatRows

# Up to this many classes, planes are compared with each other; with more, transposing a strip first is faster.
_MOST_PLANES: Final = 64


class PlaneSummarizer(Summarizer):
    """Summarizes strips of which each column is contiguous: ``(n, K)`` views of ``(K, n)`` planes.

    It takes any other strip too, but then it copies it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.n_classes <= _MOST_PLANES:
            self._argmax = FirstArgmax(self.n_classes, unsigned_dtype(self.dtype), _MOST_PLANES)
            self._rows = PlaneValues(self.n_classes)
            # The last bits of sums over rows are those of rows that are contiguous.
            self._kernels = {name: partial(_of_rows, kernel) for name, kernel in self._kernels.items()}

    def _native(self, probs: Floats) -> Floats:
        if self.n_classes > _MOST_PLANES:
            return super()._native(probs)
        if probs.strides[0] != probs.itemsize:
            probs = np.asfortranarray(probs)
        return probs.astype(self.dtype, copy=False)


def _of_rows(kernel: ColumnKernel, probs: Floats, labels: Ints) -> Float64s:
    return kernel(np.ascontiguousarray(probs), labels)


class PlaneValues(FlatRows):
    """Takes one value of each row of an array whose columns are contiguous.

    Parameters
    ----------
    n_classes : int
        Number of columns K.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(n_classes)
        self._numbers: Ints = np.empty(0, np.intp)

    def values(self, array: npt.NDArray[Any], columns: Ints, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return ``array[i, columns[i]]`` for each row i of the ``(n, K)`` `array`."""
        n, step = len(columns), array.strides[1] // array.itemsize
        if len(self._numbers) < n:
            self._numbers, self._positions = np.arange(n, dtype=np.intp), np.empty(n, np.intp)
        positions = np.multiply(columns, step, out=self._positions[:n], casting="same_kind")
        positions += self._numbers[:n]
        # From the first value of the first plane to the last value of the last one.
        flat = np.lib.stride_tricks.as_strided(array, ((self._n_classes - 1) * step + n,), (array.itemsize,))
        return flat.take(positions, out=out, mode="wrap")
