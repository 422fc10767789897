"""HDF5 datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import MissingDependencyError
from labelsieve.sources.base import ChunkedRows, FileSource


class Hdf5Source(FileSource):
    """A dataset in an HDF5 file.

    Parameters
    ----------
    dataset : h5py.Dataset
        Open for reading.
    """

    path: Path

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset.shape, dataset.dtype, dataset.chunks[0] if dataset.chunks else None)
        self.in_pieces = dataset.ndim == 1  # a chunk of labels is kept while it is read in pieces
        # A worker may run in another folder; a file that is only in memory has a name that is not a path.
        filename = os.fsdecode(dataset.file.filename)
        self.path = Path(filename).absolute() if Path(filename).exists() else Path(filename)
        self.is_encoded = bool(dataset.compression)
        self.name, self._dataset = dataset.name, dataset

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_dataset": None}

    @property
    def where(self) -> str:
        """File and dataset."""
        return f"{self.path}:{self.name}"

    def open(self, start: int = 0, stop: int | None = None) -> _Hdf5Rows:  # noqa: ARG002  # nothing is prefetched
        """Use the open dataset, or open its file."""
        if self._dataset is not None:
            return _Hdf5Rows(self, self._dataset)
        try:
            import h5py
        except ImportError as error:
            raise MissingDependencyError("Reading HDF5", "hdf5") from error
        file = h5py.File(self.path, "r")
        try:
            self.check_version()
            return _Hdf5Rows(self, file[self.name], file)
        except BaseException:
            file.close()
            raise

    def note_version(self) -> None:
        """Note the file's size, time and inode, once the library has written what it holds back."""
        if self.version is None and self._dataset is not None and self._dataset.file.mode != "r":
            self._dataset.file.flush()
        super().note_version()


class _Hdf5Rows(ChunkedRows):
    def __init__(self, source: Hdf5Source, dataset: Any, file: Any = None) -> None:
        super().__init__(source, source.row_chunk or 1)
        self.dataset, self._file = dataset, file

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        stop = min(stop, self._n_rows)
        self.dataset.read_direct(out, np.s_[start:stop], np.s_[: stop - start])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
