"""Zarr arrays of format 2 and 3.

Zarr decodes a chunk into fresh memory and copies it out; the page faults of a fresh 40 MB block cost as much as
decoding it. So there is a direct path, which reads the stored bytes into a reused buffer and lets the codec write into
another one. It is taken for chunks of whole rows in C order, plain or under one codec of numcodecs that decodes into
given memory; everything else is read by Zarr itself.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.sources.base import ChunkedRows, FileSource, Rows, Source, read_into
from labelsieve.sources.object_store import NOT_FOUND, unreadable
from labelsieve.sources.versions import (
    MOST_LISTED_TWICE,
    MissingRows,
    StoredChunks,
    file_version,
    row_digests,
)
from labelsieve.sources.zarr_chunks import (
    chunk_files,
    file_stamp,
    key_of,
    keys_of,
    layout_digest,
    local_folder,
    metadata_name,
    status_stamp,
)
from labelsieve.storage.urls import cause_of, check_credentials, without_query

# Given stored bytes (None for the fill value), the memory for a chunk, and its place for messages.
Decoder: TypeAlias = Callable[[npt.NDArray[np.uint8] | None, npt.NDArray[Any], str], None]
METADATA_NAMES: Final = ("zarr.json", ".zarray", ".zgroup")


class ZarrSource(FileSource):
    """A Zarr array.

    Parameters
    ----------
    array : zarr.Array
        Open for reading. It pickles as its store, path and metadata.

    Attributes
    ----------
    path : Path or None
        The metadata document in a local folder, or the archive that holds the array.
    stored : StoredChunks or None
        The versions of the stored chunks, as noted.
    """

    def __init__(self, array: Any) -> None:
        super().__init__(array.shape, array.dtype, int(array.chunks[0]) if array.ndim else None)
        self.in_pieces = array.ndim == 1  # a chunk of labels is kept while it is read in pieces
        self.array = array
        self.fill_value = array.fill_value or 0
        folder, archive = local_folder(array), getattr(array.store, "path", None)
        if folder is not None:
            self.path = folder / metadata_name(array)
        elif isinstance(archive, Path):
            self.path = archive
        self.stored: StoredChunks | None = None
        self.request_rows, self.is_encoded = self.row_chunk, True
        self.n_side_by_side = math.prod(
            -(-n // size) for n, size in zip(array.shape[1:], array.chunks[1:], strict=True)
        )

    @classmethod
    def from_path(cls, name: str, path: Path) -> ZarrSource:
        """Open a folder that holds one array."""
        if not path.exists():
            raise InvalidInputError(f"{name}: there is no folder {path}")
        if not is_zarr_folder(path):
            raise InvalidInputError(f"{name}: {path} is not a Zarr array: it has no zarr.json or .zarray")
        before = {document: file_version(path / document) for document in METADATA_NAMES}
        source = cls(open_array(name, str(path), str(path)))
        source.version = before[metadata_name(source.array)]
        return source

    @property
    def where(self) -> str:
        """Folder, or store and path in it."""
        folder = local_folder(self.array)
        return without_query(str(self.array.store_path)) if folder is None else str(folder.absolute())

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing is prefetched
        """Open for reading, on the direct path where there is one."""
        folder, decode = local_folder(self.array), chunk_decoder(self.array)
        super().check_version()
        return ZarrRows(self) if folder is None or decode is None else _DirectRows(self, folder, decode)

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:
        """Open to read the stored bytes alone, on the direct path where there is one."""
        folder = local_folder(self.array)
        if folder is None or chunk_decoder(self.array) is None:
            return self.open(start, stop)
        return _DirectRows(self, folder, counting(count))

    def note_version(self) -> None:
        """Note the metadata's version, and in a local folder those of all stored chunks."""
        super().note_version()
        self.stored = self.stored or self._list_chunks()

    def check_version(self) -> None:
        """Compare the metadata, and the chunks too where there are not too many of them."""
        super().check_version()
        later = self._list_chunks() if self.stored is not None and len(self.stored) <= MOST_LISTED_TWICE else None
        if self.stored is not None and later is not None:
            self.stored.check_all(later, self.where, lambda index: key_of(self.array, index))

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return the array with the versions of the chunks of these rows only."""
        if self.stored is None:
            return self, 0
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__, stored=self.stored.part(start, stop))
        return part, 0

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks, or whole shards, are not stored."""
        return None if self.stored is None else self.stored.missing()

    def _list_chunks(self) -> StoredChunks | None:
        """Return the versions of the chunks, or shards, as they are stored now; None where nothing lists them."""
        folder = local_folder(self.array)
        return None if folder is None else chunk_files(self.array, folder)

    @property
    def version_rows(self) -> int | None:
        """Number of rows of a stored chunk or shard, if the stored chunks are listed."""
        return None if self.stored is None else self.stored.rows

    def identity(self) -> dict[str, Any]:
        """Return what every source returns; if the stored chunks are listed, without what changes as rows are added."""
        shards = self.array.shards
        grid = {"chunks": list(self.array.chunks), "shards": list(shards) if shards else None}
        if self.stored is None:
            return super().identity() | grid
        kind = {"kind": type(self).__name__, "where": self.where, "dtype": self.dtype.str}
        return kind | grid | {"content": layout_digest(self.array)}

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest of the versions of the stored chunks or shards of each range."""
        if self.stored is None:
            return super().part_identities(ranges)
        rows, width, stamps = self.stored.rows, self.stored.width, self.stored.stamps
        versions = [stamps[a // rows * width : -(-b // rows) * width].tobytes() for a, b in ranges]
        return row_digests(self.identity(), ranges, versions)


def is_zarr_folder(path: Path) -> bool:
    """Return whether a local folder holds a Zarr array or group."""
    return any((path / name).exists() for name in METADATA_NAMES)


def is_zarr_array(path: Path) -> bool:
    """Return whether a local folder holds a Zarr array, and not a group."""
    try:
        return (path / ".zarray").exists() or json.loads((path / "zarr.json").read_bytes())["node_type"] == "array"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_array(name: str, where: str, store: Any, url: str = "") -> Any:
    """Open the Zarr array in a store.

    Parameters
    ----------
    name, where : str
        ``labels`` or ``pred_probs``, and its place, for messages.
    store : str or zarr store
        Where the array is the root.
    url : str
        The URL of the store, if it has one; its secrets are removed from error messages.

    Raises
    ------
    InvalidInputError
        If there is no array.
    UnreadableDataError
        If the store cannot be read.
    """
    import zarr

    try:
        return checked_array(name, zarr.open(store, mode="r"))
    except InputTypeError:
        raise
    except NOT_FOUND:
        raise InvalidInputError(f"{name}: there is no Zarr array at {where}") from None
    except (TypeError, ValueError, KeyError) as error:
        what = f"its metadata lack {error}" if isinstance(error, KeyError) else cause_of(error, url)
        raise InvalidInputError(f"{name}: {where} is not a readable Zarr array: {what}") from None
    except Exception as error:  # noqa: BLE001  # stores raise what they like
        check_credentials(error, f"{name}: {where}", url)
        raise unreadable(error, f"{name}: {where} is not readable: {cause_of(error, url)}") from None


def checked_array(name: str, node: Any) -> Any:
    """Return an array as it is, and refuse a group by naming the arrays in it."""
    if not hasattr(node, "chunks"):
        arrays = ", ".join(sorted(node.array_keys())) or "none"
        raise InputTypeError(f"{name} is a Zarr group, not an array; arrays in it: {arrays}")
    return node


class ZarrRows(ChunkedRows):
    """Rows that Zarr itself reads.

    Parameters
    ----------
    source : ZarrSource
        Where the rows are, and which chunks are known to be stored.
    absent : set of str, optional
        Collects the keys of absent chunks, where it is not known which are stored.
    url : str
        Its secrets are removed from error messages.
    """

    def __init__(self, source: ZarrSource, absent: set[str] | None = None, url: str = "") -> None:
        super().__init__(source, source.row_chunk or 1)
        self._array, self._stored, self._where = source.array, source.stored, source.where
        self._absent, self._url = absent, url
        self._listed: set[str] = set()  # keys of stored chunks among those that are being read

    @cached_property
    def _opened(self) -> Any:
        if self._stored is None and self._absent is None:
            return self._array
        import zarr
        from zarr.storage import StorePath

        from labelsieve.storage.watched_store import WatchedStore

        store = WatchedStore.around(self._array.store, self._expects, self._report)
        opened: Any = zarr.AsyncArray(self._array.metadata, StorePath(store, self._array.path))
        return zarr.Array(opened)

    def _expects(self, key: str) -> bool:
        """Return whether a chunk is listed; where nothing is listed, any may be stored."""
        return self._stored is None or key in self._listed

    def _report(self, key: str) -> None:
        if self._stored is not None:
            raise FileNotFoundError(f"{key} was stored when the run began, and is gone")
        if self._absent is not None:
            self._absent.add(key)

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        from zarr.buffer import cpu

        as_buffer: Any = cpu.NDBuffer
        stop, stored = min(stop, self._n_rows), self._stored
        keys = [] if stored is None else list(enumerate(keys_of(self._array, start, stop), stored.first(start)))
        prefix = f"{self._array.path}/" if self._array.path else ""
        self._listed = {f"{prefix}{key}" for index, key in keys if stored is not None and stored.is_stored(index)}
        try:
            self._opened.get_basic_selection((slice(start, stop), ...), out=as_buffer(out[: stop - start]))
        except Exception as error:  # noqa: BLE001  # stores and codecs raise what they like
            rows = f"{self._where} (rows {start:,}..{stop - 1:,})"
            check_credentials(error, rows, self._url)
            raise unreadable(error, f"{rows} is not readable: {cause_of(error, self._url)}") from None
        folder = local_folder(self._array)
        if stored is not None and folder is not None:
            for index, key in keys:
                stored.check(index, f"{folder}/{key}", *file_stamp(f"{folder}/{key}"))


class _DirectRows(ZarrRows):
    """Chunks from local files, through one reused buffer for stored bytes."""

    def __init__(self, source: ZarrSource, folder: Path, decode: Decoder) -> None:
        super().__init__(source)
        self._folder, self._decode = folder, decode
        self._bytes = np.empty(0, np.uint8)

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        size = self._chunk_rows
        for row in range(start, stop, size):
            self._load_chunk(row // size, out[row - start : row - start + size])

    def _load_chunk(self, index: int, out: npt.NDArray[Any]) -> None:
        path = self._folder / key_of(self._array, index)
        where = f"{path} (rows from {index * len(out):,})"
        try:
            file = io.FileIO(path)
        except FileNotFoundError:
            self._check_chunk(index, path, None)
            self._decode(None, out, where)
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
        self._decode(stored, out, where)

    def _check_chunk(self, index: int, path: Path, status: os.stat_result | None) -> None:
        if self._stored is not None:
            self._stored.check(index, path, *((0, 0) if status is None else status_stamp(status)))


def counting(count: Callable[[int], object]) -> Decoder:
    """Return a decoder that calls `count` with the number of stored bytes, and decodes nothing."""

    def decode(stored: npt.NDArray[np.uint8] | None, out: npt.NDArray[Any], where: str) -> None:  # noqa: ARG001
        count(0 if stored is None else len(stored))

    return decode


def _decode_chunk(
    codec: Any, fill: Any, stored: npt.NDArray[np.uint8] | None, out: npt.NDArray[Any], where: str
) -> None:
    """Decode the stored bytes of exactly one chunk into `out`, or raise; None stands for a chunk of the fill value."""
    if stored is None:
        out.fill(0 if fill is None else fill)
        return
    target = out.reshape(-1).view(np.uint8)
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
    """Return the length in a Blosc header of 16 bytes, of which it is the last four, little-endian.

    Blosc relies on its header and reads past the end of a chunk that was cut off, here into the rest of another chunk.
    """
    return int(stored[12:16].view("<u4")[0]) if len(stored) >= 16 else -1


def _overflows(codec: Any, stored: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> bool:
    """Return whether `stored` decodes to more than `target` holds.

    A codec refuses a target that is too small before it decodes, but leaves the rest of one that is too large as it
    was: a short chunk would silently keep rows of the chunk before it.
    """
    try:
        codec.decode(stored, target)
    except (RuntimeError, ValueError):
        return True
    return False


def chunk_decoder(array: Any) -> Decoder | None:
    """Return a function that decodes whole chunks into given memory, if the array's can be decoded so."""
    import numcodecs

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
        codecs = {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}
        codec = codecs.get(rest[0]["name"], object)() if rest else None
    known = codec is None or isinstance(codec, numcodecs.Zstd | numcodecs.Blosc | numcodecs.LZ4)
    return partial(_decode_chunk, codec, array.fill_value) if plain and known else None
