"""HDF5 datasets, as h5py opens them.

Covers: `Hdf5Source`, which reads through the open dataset here and through its own handle elsewhere.
Does not cover: finding a dataset in a file by path; open it with h5py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import MissingDependencyError
from labelsieve.sources.base import Rows, Source


class Hdf5Source(Source):
    """A dataset in an HDF5 file.

    Parameters
    ----------
    dataset : h5py.Dataset
        Open for reading.
    """

    in_pieces = False

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset.shape, dataset.dtype, dataset.chunks[0] if dataset.chunks else None)
        self.filename, self.name, self._dataset = dataset.file.filename, dataset.name, dataset

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_dataset": None}

    def open(self) -> Rows:
        """Use the dataset as it is open here, or open its file."""
        if self._dataset is not None:
            return _Hdf5Rows(self._dataset, None)
        try:
            import h5py
        except ImportError as error:
            raise MissingDependencyError("Reading HDF5", "hdf5") from error
        file = h5py.File(self.filename, "r")
        return _Hdf5Rows(file[self.name], file)


class _Hdf5Rows(Rows):
    def __init__(self, dataset: Any, file: Any) -> None:
        self._dataset, self._file = dataset, file
        self._buffer = np.empty((0, *dataset.shape[1:]), dataset.dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        n = stop - start
        if len(self._buffer) < n:
            self._buffer = np.empty((n, *self._dataset.shape[1:]), self._dataset.dtype)
        self._dataset.read_direct(self._buffer, np.s_[start:stop], np.s_[:n])
        return self._buffer[:n]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
