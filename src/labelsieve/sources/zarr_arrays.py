"""Zarr arrays of format 2 and 3, decoded into a reused buffer.

Zarr decodes a chunk into fresh memory and copies it out; the pages of a fresh 40 MB block cost as much as decoding it.
The direct path reads the stored bytes into one reused buffer and lets the codec write into another. It is taken where
a chunk is whole rows in C order, in a local folder, plain or under one codec that numcodecs decodes into given memory,
and the generic path gives the same rows.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.sources.base import Rows, Source, read_into
from labelsieve.sources.versions import (
    MOST_LISTED_TWICE,
    FileVersion,
    MissingRows,
    StoredChunks,
    check_path,
    file_version,
)
from labelsieve.sources.zarr_chunks import (
    PAUSE,
    files_of,
    inner_chunks,
    key_of,
    keys_of,
    local_folder,
    look,
    metadata_name,
    stamped,
    with_listing,
)
from labelsieve.storage.urls import without_query

METADATA_NAMES: Final = ("zarr.json", ".zarray", ".zgroup")


class ZarrSource(Source):
    """A Zarr array.

    Parameters
    ----------
    array : zarr.Array
        Open for reading. It pickles as its store, path and metadata.
    """

    in_pieces = False

    def __init__(self, array: Any) -> None:
        super().__init__(array.shape, array.dtype, int(array.chunks[0]) if array.ndim else None)
        self.array = array
        self.fill_value = array.fill_value or 0
        self.version: FileVersion | None = None
        self.stored: StoredChunks | None = None
        self.grid = {"chunks": list(array.chunks), "shards": list(array.shards) if array.shards else None}

    @classmethod
    def from_path(cls, name: str, path: Path) -> ZarrSource:
        """Open a folder that holds one array."""
        import zarr

        if not path.exists():
            raise InvalidInputError(f"{name}: there is no folder {path}")
        if not is_zarr_folder(path):
            raise InvalidInputError(f"{name}: {path} is no Zarr array: it has no zarr.json or .zarray")
        before = {document: file_version(path / document) for document in METADATA_NAMES}
        try:
            node = zarr.open(str(path), mode="r")
        except (FileNotFoundError, TypeError, ValueError, KeyError) as error:
            what = f"its metadata lack {error}" if isinstance(error, KeyError) else error
            raise InvalidInputError(f"{name}: {path} is not a readable Zarr array: {what}") from error
        source = cls.from_node(name, node)
        source.version = before[metadata_name(source.array)]
        return source

    @classmethod
    def from_node(cls, name: str, node: Any) -> ZarrSource:
        """Take an array, and refuse a group by naming the arrays in it."""
        return cls(checked_array(name, node))

    @property
    def where(self) -> str:
        """Folder, or store and path in it."""
        folder = local_folder(self.array)
        return without_query(str(self.array.store_path)) if folder is None else str(folder.absolute())

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing is read ahead
        """Open for reading, on the direct path where there is one."""
        folder, direct = local_folder(self.array), direct_codec(self.array)
        self._check_document()
        if folder is None or direct is None:
            return ZarrRows(self.array, self.stored)
        return _DirectRows(self.array, self.stored, folder, *direct)

    def _document(self) -> Path | None:
        """Return the metadata document in a local folder, or the archive that holds the array; None elsewhere."""
        folder, archive = local_folder(self.array), getattr(self.array.store, "path", None)
        if folder is not None:
            return folder / metadata_name(self.array)
        return archive if isinstance(archive, Path) and archive.is_file() else None

    def _document_version(self) -> FileVersion | None:
        document = self._document()
        return None if document is None else file_version(document)

    def _check_document(self) -> None:
        document = self._document()
        if document is not None:
            check_path(self.version, document)

    def note_version(self) -> None:
        """Note the metadata's version, and in a local folder those of all stored chunks."""
        self.version = self.version or self._document_version()
        if self.stored is None:
            self.stored = self._listed()

    def check_version(self) -> None:
        """Look at the metadata, and at the chunks again where there are not too many for that."""
        self._check_document()
        if self.stored is not None and len(self.stored) <= MOST_LISTED_TWICE:
            self._check_listing(self.stored)

    def _check_listing(self, stored: StoredChunks) -> None:
        later = self._listed()
        if later is not None:
            stored.check_all(later, self.where, lambda index: key_of(self.array, index))

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored; in a local folder also those that are missing inside a shard."""
        if self.stored is None:
            return None
        folder, inner = local_folder(self.array), None
        if folder is not None and self.array.shards and len(self.stored) <= MOST_LISTED_TWICE:
            try:
                inner = inner_chunks(self.array, folder, self.stored)
            except (OSError, ValueError):  # a damaged shard is an error where it is read
                inner = None
        return (inner or self.stored).missing()

    def check_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """Raise if a stored chunk that holds one of `rows` in a local folder is not what was noted."""
        folder = local_folder(self.array)
        if self.stored is None or folder is None:
            return
        for index in np.unique(rows // self.stored.rows * self.stored.width).tolist():
            path = f"{folder}/{key_of(self.array, index)}"
            now, inode = look(path)
            self.stored.check(index, now, path, inode)

    def _listed(self) -> StoredChunks | None:
        """Return the versions of the chunks, or shards, as they are stored now; None where nothing lists them."""
        folder = local_folder(self.array)
        return None if folder is None else files_of(self.array, folder)

    def identity(self) -> dict[str, Any]:
        """Return what every source tells, and the grid of chunks."""
        return super().identity() | self.grid

    def _content(self) -> dict[str, int] | None:
        """Return size and time of the metadata document, or of the archive that holds the array."""
        version = self.version or self._document_version()
        return None if version is None else {"size": version.size, "mtime_ns": version.mtime_ns}

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest of the versions of the stored chunks or shards of each range."""
        stored = self.stored or self._listed()
        if stored is None:
            return super().part_identities(ranges)
        rows, width = stored.rows, stored.width
        parts = [stored.stamps[a // rows * width : -(-b // rows) * width] for a, b in ranges]
        return [hashlib.blake2b(part.tobytes(), digest_size=16).hexdigest() for part in parts]

    def reachable(self) -> None:
        """Look for the metadata document in a local folder, or for the archive; other stores travel as they are."""
        folder, archive = local_folder(self.array), getattr(self.array.store, "path", None)
        needed = archive if folder is None else folder / metadata_name(self.array)
        if isinstance(needed, Path) and not needed.exists():
            raise UnreadableDataError(f"{self.where} cannot be opened: there is no {needed}")


def is_zarr_folder(path: Path) -> bool:
    """Tell whether a local folder holds a Zarr array or group."""
    return any((path / name).exists() for name in METADATA_NAMES)


def checked_array(name: str, node: Any) -> Any:
    """Return an array as it is, and refuse a group by naming the arrays in it."""
    if not hasattr(node, "chunks"):
        arrays = ", ".join(sorted(node.array_keys())) or "none"
        raise InputTypeError(f"{name} is a Zarr group, not an array; arrays in it: {arrays}")
    return node


class ZarrRows(Rows):
    """Zarr's own reading, into one reused buffer.

    Parameters
    ----------
    array : zarr.Array
        Open for reading.
    stored : StoredChunks, optional
        What was listed before the first read, where that is known.
    """

    _chained = True  # whether an error may show the one that it came from

    def __init__(self, array: Any, stored: StoredChunks | None = None) -> None:
        from zarr.buffer import cpu

        as_buffer: Any = cpu.NDBuffer
        self._array, self._as_buffer, self._stored = array, as_buffer, stored
        self._out = np.empty((0, *array.shape[1:]), array.dtype)
        self._listed: set[str] = set()  # keys of stored chunks among those that are being read

    @cached_property
    def _opened(self) -> Any:
        return self._array if self._stored is None else with_listing(self._array, self._listed)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Let Zarr decode the rows."""
        n = stop - start
        if len(self._out) < n:
            self._out = np.empty((n, *self._array.shape[1:]), self._array.dtype)
        out = self._out[:n]
        keys = list(self._numbered(start, stop))
        self._listed.clear()
        self._listed.update(key for index, key in keys if self._stored is not None and self._stored.stamps[index])
        try:
            self._opened.get_basic_selection((slice(start, stop), ...), out=self._as_buffer(out))
        except Exception as error:  # noqa: BLE001  # stores and codecs raise what they like
            raise self._unreadable(start, stop, error) from (error if self._chained else None)
        self._check(keys)
        return out

    def _numbered(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """Yield number and key of the chunks that are read, where their versions are known."""
        if self._stored is not None:
            yield from enumerate(keys_of(self._array, start, stop), self._stored.first(start))

    def _check(self, keys: Sequence[tuple[int, str]]) -> None:
        """Raise if chunks that were read are not those that were listed."""
        folder = local_folder(self._array)
        for index, key in keys if folder is not None else ():
            if self._stored is not None:
                now, inode = look(f"{folder}/{key}")
                self._stored.check(index, now, f"{folder}/{key}", inode)

    def _unreadable(self, start: int, stop: int, error: Exception) -> UnreadableDataError:
        where = f"{self._array.store_path} (rows {start:,}..{stop - 1:,})"
        return UnreadableDataError(f"{where} is not readable: {type(error).__name__}: {error}")


class _DirectRows(ZarrRows):
    """Whole chunks from local files, through one reused buffer for stored bytes and one for rows."""

    def __init__(self, array: Any, stored: StoredChunks | None, folder: Path, codec: Any) -> None:
        super().__init__(array, stored)
        self._folder, self._codec = folder, codec
        self._bytes = np.empty(0, np.uint8)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        array = self._array
        n_rows, chunk = array.shape[0], array.chunks[0]
        if start % chunk or (stop % chunk and stop != n_rows):
            return super().read(start, stop)
        padded = -(-(stop - start) // chunk) * chunk  # the last chunk is stored whole
        if len(self._out) < padded:
            self._out = np.empty((padded, *array.shape[1:]), array.dtype)
        for first in range(start, stop, chunk):
            self._decode(first // chunk, self._out[first - start : first - start + chunk])
        return self._out[: stop - start]

    def _decode(self, index: int, out: npt.NDArray[Any]) -> None:
        path = self._folder / self._array.metadata.encode_chunk_key((index,) + (0,) * (out.ndim - 1))
        where = f"{path} (rows from {index * len(out):,})"
        try:
            file = self._open(index, path)
        except FileNotFoundError:  # Zarr does not store a chunk of nothing but the fill value
            self._check_chunk(index, path, None)
            fill = self._array.fill_value
            out.fill(0 if fill is None else fill)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            if len(self._bytes) < size:
                self._bytes = np.empty(size + size // 8, np.uint8)
            stored = self._bytes[:size]
            whole = read_into(file, 0, stored)
            self._check_chunk(index, path, os.fstat(file.fileno()))
        if not whole:
            raise UnreadableDataError(f"{where} ended before byte {size:,}: was it cut while in use?")
        decode_into(self._codec, stored, out.reshape(-1).view(np.uint8), where)

    def _open(self, index: int, path: Path) -> io.FileIO:
        """Open the file of a chunk; again where it is listed and not found."""
        try:
            return io.FileIO(path)
        except FileNotFoundError:
            if self._stored is None or not self._stored.stamps[index]:
                raise
        time.sleep(PAUSE)
        return io.FileIO(path)

    def _check_chunk(self, index: int, path: Path, status: os.stat_result | None) -> None:
        if self._stored is not None:
            now, inode = (0, 0) if status is None else stamped(status)
            self._stored.check(index, now, path, inode)


def decode_into(codec: Any, stored: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], where: str) -> None:
    """Decode exactly one chunk into `target`, or raise."""
    if codec is None:
        if len(stored) != len(target):
            raise UnreadableDataError(f"{where} holds {len(stored):,} bytes, a chunk has {len(target):,}")
        target[:] = stored
        return
    if codec.codec_id == "blosc" and _blosc_length(stored) != len(stored):
        raise UnreadableDataError(f"{where} does not decode: {len(stored):,} bytes, its header says otherwise")
    if not _overflows(codec, stored, target[:-1]):
        raise UnreadableDataError(f"{where} holds fewer than the {len(target):,} bytes of a chunk")
    try:
        codec.decode(stored, target)
    except (RuntimeError, ValueError) as error:  # what numcodecs raises
        raise UnreadableDataError(f"{where} does not decode: {error}") from error


def _blosc_length(stored: npt.NDArray[np.uint8]) -> int:
    """Return the length that a Blosc header claims for itself (16 bytes, little-endian, the last four of them).

    Blosc believes its header and reads on past a chunk that was cut off, here into what is left of the chunk before.
    """
    return int(stored[12:16].view("<u4")[0]) if len(stored) >= 16 else -1


def _overflows(codec: Any, stored: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> bool:
    """Tell whether `stored` decodes to more than `target` holds.

    A codec refuses a target that is too small before it decodes, but leaves the rest of one that is too large as it
    was: a short chunk would silently keep rows of the chunk before it.
    """
    try:
        codec.decode(stored, target)
    except (RuntimeError, ValueError):
        return True
    return False


def direct_codec(array: Any) -> tuple[Any] | None:
    """Return the codec (or None for plain bytes), in a tuple, if whole chunks can be decoded straight, else None."""
    try:
        import numcodecs
    except ImportError:
        return None
    whole_rows = tuple(array.chunks[1:]) == tuple(array.shape[1:])
    if not (whole_rows and array.dtype.isnative and array.dtype.kind in "fiu"):
        return None
    metadata = array.metadata
    if metadata.zarr_format == 2:
        codec, plain = metadata.compressor, not metadata.filters and metadata.order == "C"
    else:
        first, *rest = [entry.to_dict() for entry in metadata.codecs]
        endian = first.get("configuration", {}).get("endian", sys.byteorder)
        plain = first["name"] == "bytes" and endian == sys.byteorder and len(rest) <= 1
        codec = _numcodecs_of(numcodecs, rest[0]["name"]) if rest else None
        plain = plain and not (rest and codec is None)
    known = (numcodecs.Zstd, numcodecs.Blosc, numcodecs.LZ4)
    if not plain or not (codec is None or isinstance(codec, known)):
        return None
    return (codec,)


def _numcodecs_of(numcodecs: Any, name: str) -> Any:
    return {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}.get(name, lambda: None)()
