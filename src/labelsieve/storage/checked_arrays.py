"""Zarr arrays in which every chunk is stored with a checksum, so that damage raises an error.

Zarr reads a chunk that is not stored as the fill value, and may read a damaged chunk as other numbers. Here each chunk
ends in a CRC32C, which is one of Zarr's codecs, so any reader of Zarr checks it; and a missing chunk is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from labelsieve.errors import UnreadableDataError
from labelsieve.storage.file_systems import zarr_store
from labelsieve.storage.folders import Folder, LocalFolder
from labelsieve.storage.urls import cause_of

_CHUNK: Final = re.compile(r"(^|/)c(/\d+)+$")
RESTORE: Final = "restore the file from a copy, or find the issues again"


class _MissingChunkError(Exception):
    """A chunk that is not stored."""


def create_array(folder: Folder, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunk: int) -> None:
    """Create an array in the group at `folder`, in chunks of `chunk` rows."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    chunks: Any = (max(1, min(chunk, shape[0])), *(max(1, size) for size in shape[1:]))
    # Zarr's default, zstd, took half of the time in which 500 million rows were ranked and written. The checksum has no
    # measurable cost: 50 million scores and their mask take 0.37 s with it and without it.
    typesize = 1 if dtype is str else np.dtype(dtype).itemsize
    codecs = [BloscCodec(cname="lz4", shuffle="shuffle", typesize=typesize), Crc32cCodec()]
    zarr.create_array(
        store_of(folder),
        name=name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=codecs,
        # Distinguishes this array from one of the same shape that is written in its place later.
        attributes={"array_id": uuid4().hex},
        overwrite=True,
    )


def open_for_writing(folder: Folder, name: str) -> Any:
    """Open an array to write whole chunks; chunks of zeros are stored too."""
    import zarr

    array: Any = zarr.open_array(store_of(folder), path=name, mode="r+", zarr_format=3)
    return zarr.Array(zarr.AsyncArray(array.metadata, array.store_path, config={"write_empty_chunks": True}))


class StoredArray:
    """An array of a stored group. Every chunk is checked when it is read; each process opens the files for itself.

    Parameters
    ----------
    folder : Folder
        The group.
    name : str
        Its path in the group.
    unit : str
        What the first axis counts, such as ``rows``, for messages.
    check : callable
        Raises if the array's metadata are not those that were written.
    complete : bool
        Whether every chunk should be stored. Otherwise a chunk that is not stored is read as zeros.

    Raises
    ------
    UnreadableDataError
        If the array or a chunk is damaged or missing, here and in all methods: names the file and its rows.
    """

    def __init__(
        self, folder: Folder, name: str, unit: str, check: Callable[[], None], *, complete: bool = True
    ) -> None:
        self._folder, self._name, self._unit, self._check, self._complete = folder, name, unit, check, complete
        self._array: Any = None
        array = self._opened()
        self.shape: tuple[int, ...] = array.shape
        self.chunks: tuple[int, ...] = array.chunks
        self.dtype: Any = array.dtype
        self.ndim = len(self.shape)
        self._array_id = str(array.attrs.get("array_id"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __dask_tokenize__(self) -> tuple[str, ...]:
        """Return what identifies the array, for the names of Dask arrays."""
        return self._folder.where, self._name, self._array_id

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Return rows for a lazy array. It may be computed long after it was made, so look whether it was replaced."""
        self._check()
        return self._read(rows)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the rows ``[start, stop)``."""
        return self._read(slice(start, stop))

    def read_all(self) -> npt.NDArray[Any]:
        """Return all rows."""
        return self.read(0, len(self))

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all rows, one stored chunk at a time."""
        for start in range(0, len(self), self.chunks[0]):
            yield self._read(slice(start, start + self.chunks[0]))

    def _opened(self) -> Any:
        import zarr

        if self._array is None:
            self._check()
            try:
                store = _complete_store(self._folder) if self._complete else store_of(self._folder, read_only=True)
                self._array = zarr.open_array(store, path=self._name, mode="r", zarr_format=3)
            except Exception as error:  # noqa: BLE001  # stores may raise any error
                raise self._unreadable(f"{self._name}/zarr.json", error) from None
        return self._array

    def _read(self, rows: Any) -> npt.NDArray[Any]:
        array = self._opened()
        try:
            values: npt.NDArray[Any] = array[rows]
        except Exception as error:
            damage = self._damage(array, rows, error)
            if damage is None:
                raise
            raise damage from None
        return values

    def _damage(self, array: Any, rows: Any, error: Exception) -> UnreadableDataError | None:
        """Return the error for the first chunk of `rows` that cannot be read; None if there is no such chunk."""
        step, axis = self.chunks[0], rows[0] if isinstance(rows, tuple) and rows else rows
        wanted = range(len(self))[axis] if isinstance(axis, slice) else range(len(self))
        first, last = (min(wanted), max(wanted)) if wanted else (0, -1)
        for start in range(first // step * step, last + 1, step):
            try:
                array[start : start + step]
            except Exception as found:  # noqa: BLE001  # codecs and stores may raise any error
                file = "/".join([self._name, "c", str(start // step), *["0"] * (self.ndim - 1)])
                return self._unreadable(file, found, (start, start + step))
        return self._unreadable(self._name, error) if isinstance(error, OSError | ValueError) else None

    def _unreadable(self, file: str, error: Exception, rows: tuple[int, int] | None = None) -> UnreadableDataError:
        what = "damaged"
        if isinstance(error, _MissingChunkError | FileNotFoundError):
            what = "missing"
        elif isinstance(error, OSError):
            what = f"not readable ({cause_of(error, self._folder.where)})"
        lost = "" if rows is None else f" with {self._unit} {rows[0]:,} to {min(rows[1], len(self)) - 1:,}"
        return UnreadableDataError(f"{self._folder.where}/{file}{lost} is {what}: {RESTORE}")


def digest(content: bytes) -> str:
    """Return a checksum of a metadata document."""
    return hashlib.sha256(content).hexdigest()[:32]


def with_checksum(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with a checksum of them. Attributes that are added later are not part of it."""
    return {**attributes, "checksum": {"of": sorted(attributes), "sha256": _attributes_digest(attributes)}}


def matches_checksum(attributes: Mapping[str, Any]) -> bool:
    """Return whether attributes match their checksum."""
    try:
        checksum = attributes["checksum"]
        written = {name: attributes[name] for name in checksum["of"]}
        return bool(written) and bool(checksum["sha256"] == _attributes_digest(written))
    except (KeyError, TypeError):
        return False


def _attributes_digest(attributes: Mapping[str, Any]) -> str:
    return digest(json.dumps(attributes, sort_keys=True).encode())


def store_of(folder: Folder, *, read_only: bool = False) -> Any:
    """Return a Zarr store at `folder`."""
    from zarr.storage import LocalStore

    if isinstance(folder, LocalFolder):
        return LocalStore(folder.path, read_only=read_only)
    return zarr_store(folder.where, read_only=read_only)


def _complete_store(folder: Folder) -> Any:
    """Return the store at `folder` for reading; a missing chunk raises."""
    from labelsieve.storage.watched_store import WatchedStore

    def is_chunk(key: str) -> bool:
        return _CHUNK.search(key) is not None

    def report(key: str) -> None:
        raise _MissingChunkError(key)

    return WatchedStore.around(store_of(folder, read_only=True), is_chunk, report)
