"""Zarr arrays, in folders, archives and object stores: their chunks or shards, and the versions of these."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError, warn
from labelsieve.sources.objects import (
    AHEAD_BYTES,
    NOT_FOUND,
    ObjectStore,
    PrefetchedRows,
    RefusedError,
    ahead_bytes,
    n_ahead,
    unreadable,
)
from labelsieve.sources.source import (
    MOST_LISTED_TWICE,
    ChunkedRows,
    FileSource,
    MissingRows,
    ReadFacts,
    Rows,
    Source,
    StoredChunks,
    changed,
    check_path,
    file_version,
    has_stable_inodes,
    natural_key,
    read_into,
    row_digests,
    stamp,
)
from labelsieve.storage import remote as limits
from labelsieve.storage.folder import for_threads, zarr_store
from labelsieve.storage.remote import cause_of, check_credentials, is_web, stamp_of, url_of, version_of, without_query

# Files are examined in threads where there are more of them than this: over a network each takes a while.
_FEW_FILES: Final = 2_000
_THREADS: Final = 16


def _rows_and_grid(array: Any) -> tuple[int, tuple[int, ...]]:
    """Return the rows of a stored chunk, or shard, and how many there are along each axis."""
    sizes = array.shards or array.chunks
    return int(sizes[0]), tuple(-(-n // size) for n, size in zip(array.shape, sizes, strict=True))


def keys_of(array: Any, start: int, stop: int) -> Iterator[str]:
    """Yield the keys of the stored chunks, or shards, that cover rows ``[start, stop)``, in order of their numbers."""
    rows, grid = _rows_and_grid(array)
    for index in itertools.product(range(start // rows, -(-stop // rows)), *map(range, grid[1:])):
        yield array.metadata.encode_chunk_key(index)


def key_of(array: Any, index: int) -> str:
    """Return the key of a stored chunk, or shard, by its number."""
    position = np.unravel_index(index, _rows_and_grid(array)[1])
    key: str = array.metadata.encode_chunk_key(tuple(int(i) for i in position))
    return key


def chunk_files(array: Any, folder: Path) -> StoredChunks:
    """Examine the file of each stored chunk, or shard; in threads where there are many."""

    def examine(start: int) -> npt.NDArray[np.uint32]:
        keys = keys_of(array, start, min(start + step, n_rows))
        return np.array([file_stamp(f"{folder}/{key}") for key in keys], np.uint32).reshape(-1, 2)

    rows, grid = _rows_and_grid(array)
    n_rows, width = int(array.shape[0]), math.prod(grid[1:])
    step = rows * max(1, _FEW_FILES // width)
    if n_rows <= step:
        table = examine(0)
    else:
        with ThreadPoolExecutor(_THREADS, "labelsieve-list") as pool:
            table = np.concatenate(list(pool.map(examine, range(0, n_rows, step))))
    inodes = table[:, 1].copy() if has_stable_inodes(folder.stat().st_dev) else None
    return StoredChunks(rows, width, n_rows, table[:, 0].copy(), inodes)


def file_stamp(path: str | int) -> tuple[int, int]:
    """Return the stamp and the inode number of a chunk's file, by its path or its number; (0, 0) if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # three times as fast as Path, and there are many
        return stamp(status.st_size, status.st_mtime_ns), status.st_ino & 0xFFFFFFFF
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    except OSError as error:
        raise UnreadableDataError(f"{path} is not readable: {error}") from error


def chunk_objects(array: Any, document: str, store: ObjectStore, root: str) -> tuple[StoredChunks, str, bool]:
    """Return the versions of the stored chunks, or shards, and that of the metadata, from a listing.

    The last value is whether all chunks have a version: some stores list nothing but sizes.
    """
    key = array.metadata.encode_chunk_key((7,) * (array.ndim + 1))  # one more number shows the separator
    begin, separator, (rows, shape) = key.partition("7")[0], key[key.index("7") + 1], _rows_and_grid(array)
    stamps, version_of_document, are_versioned = np.zeros(shape, np.uint32), "", True
    for info in store.listed("data", root, "find"):
        key = str(info["name"]).strip("/").removeprefix(f"{root.strip('/')}/")
        if key == document:
            version_of_document = version_of(info)
        numbers = key.removeprefix(begin).split(separator) if key.startswith(begin) else []
        if len(numbers) == len(shape) and all(map(str.isdecimal, numbers)):
            index = tuple(map(int, numbers))
            if all(i < n for i, n in zip(index, shape, strict=True)):
                version = version_of(info)
                stamps[index], are_versioned = stamp(version or info.get("size")), are_versioned and bool(version)
    chunks = StoredChunks(rows, math.prod(shape[1:]), int(array.shape[0]), stamps.reshape(-1))
    return chunks, version_of_document, are_versioned


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
    folder : Path or None
        The local folder.
    document : str
        Name of the document that describes the array.
    stored : StoredChunks or None
        The versions of the stored chunks, as noted.
    """

    def __init__(self, array: Any) -> None:
        facts = ReadFacts(
            int(array.chunks[0]) if array.ndim else None,
            in_pieces=array.ndim == 1,  # a chunk of labels is kept while it is read in pieces
            is_encoded=True,
        )
        super().__init__(array.shape, array.dtype, facts)
        from zarr.storage import LocalStore

        self.array, self.fill_value, self.folder = array, array.fill_value or 0, None
        self.document = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
        self.stored: StoredChunks | None = None
        if type(array.store) is LocalStore:  # a subclass may do more than read files
            self.folder = Path(array.store.root) / array.path
            self.path = self.folder / self.document
        elif isinstance(getattr(array.store, "path", None), Path):
            self.path = array.store.path

    @classmethod
    def from_path(cls, name: str, path: Path) -> ZarrSource:
        """Open a folder that holds one array."""
        before = {path / document: file_version(path / document) for document in METADATA_NAMES}
        if not any(before.values()):
            if not path.exists():
                raise InvalidInputError(f"{name}: there is no folder {path}")
            raise InvalidInputError(f"{name}: {path} is not a Zarr array: it has no zarr.json or .zarray")
        source = cls(open_array(name, str(path), str(path)))
        source.version = before.get(source.path) if source.path is not None else None
        return source

    @property
    def where(self) -> str:
        """Folder, or store and path in it."""
        return without_query(str(self.array.store_path)) if self.folder is None else str(self.folder.absolute())

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing is prefetched
        """Open for reading, on the direct path where there is one."""
        check_path(self.version, self.path)
        decode = None if self.folder is None else chunk_decoder(self.array)
        return ZarrRows(self) if decode is None or self.folder is None else _DirectRows(self, self.folder, decode)

    def note_version(self) -> None:
        """Note the metadata's version, and in a local folder those of all stored chunks."""
        self.version = self.version or file_version(self.path)
        if self.stored is None and self.folder is not None:
            self.stored = chunk_files(self.array, self.folder)

    def check_version(self) -> None:
        """Compare the metadata, and the chunks too where there are not too many of them."""
        check_path(self.version, self.path)
        if self.stored is not None and self.folder is not None and len(self.stored.stamps) <= MOST_LISTED_TWICE:
            later = chunk_files(self.array, self.folder)
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
        return None if self.stored is None or self.stored.stamps.all() else self.stored.missing()

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
        from zarr.core.buffer import default_buffer_prototype

        kind = {"kind": type(self).__name__, "where": self.where, "dtype": self.dtype.str}
        # How the array is stored: of its metadata all but its length and its attributes.
        documents = self.array.metadata.to_buffer_dict(default_buffer_prototype())
        layout = json.loads(documents[self.document].to_bytes())
        layout = {name: value for name, value in layout.items() if name not in ("shape", "attributes")}
        layout["columns"] = list(self.shape[1:])
        digest = hashlib.blake2b(json.dumps(layout, sort_keys=True).encode(), digest_size=16)
        return kind | grid | {"content": digest.hexdigest()}

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest of the versions of the stored chunks or shards of each range."""
        if self.stored is None:
            return super().part_identities(ranges)
        rows, width, stamps = self.stored.rows, self.stored.width, self.stored.stamps
        versions = [stamps[a // rows * width : -(-b // rows) * width].tobytes() for a, b in ranges]
        return row_digests(self.identity(), ranges, versions)


def is_zarr_folder(path: Path) -> bool:
    """Return whether a local folder holds a Zarr array or group."""
    return any(os.path.exists(path / name) for name in METADATA_NAMES)  # noqa: PTH110  # False where it is unknown


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
        super().__init__(source, source.facts.row_chunk or 1)
        self._array, self._stored, self._where, self._files = source.array, source.stored, source.where, source.folder
        self._absent, self._url = absent, url
        self._listed: set[str] = set()  # keys of stored chunks among those that are being read

    @cached_property
    def _opened(self) -> Any:
        if self._stored is None and self._absent is None:
            return self._array
        import zarr
        from zarr.storage import StorePath

        from labelsieve.storage.watched_store import WatchedStore

        # Where nothing is listed, any chunk may be stored.
        store = WatchedStore.around(
            self._array.store, lambda key: self._stored is None or key in self._listed, self._report
        )
        opened: Any = zarr.AsyncArray(self._array.metadata, StorePath(store, self._array.path))
        return zarr.Array(opened)

    def _report(self, key: str) -> None:
        if self._stored is not None:
            raise FileNotFoundError(f"{key} was stored when the run began, and is gone")
        if self._absent is not None:
            self._absent.add(key)

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        from zarr.buffer import cpu

        as_buffer: Any = cpu.NDBuffer
        stop, stored = min(stop, self._n_rows), self._stored
        keys = list[tuple[int, str]]()
        if stored is not None:
            keys += enumerate(keys_of(self._array, start, stop), start // stored.rows * stored.width)
        prefix = f"{self._array.path}/" if self._array.path else ""
        self._listed = {f"{prefix}{key}" for index, key in keys if stored is not None and stored.is_stored(index)}
        try:
            self._opened.get_basic_selection((slice(start, stop), ...), out=as_buffer(out[: stop - start]))
        except Exception as error:  # noqa: BLE001  # stores and codecs raise what they like
            rows = f"{self._where} (rows {start:,}..{stop - 1:,})"
            check_credentials(error, rows, self._url)
            raise unreadable(error, f"{rows} is not readable: {cause_of(error, self._url)}") from None
        if stored is not None and self._files is not None:
            for index, key in keys:
                stored.check(index, f"{self._files}/{key}", *file_stamp(f"{self._files}/{key}"))


class _DirectRows(ZarrRows):
    """Chunks from local files, through one reused buffer for stored bytes."""

    def __init__(self, source: ZarrSource, folder: Path, decode: Decoder) -> None:
        super().__init__(source)
        self._folder, self._decode = folder, decode
        self._bytes = np.empty(0, np.uint8)

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        for row in range(start, stop, self._chunk_rows):
            index = row // self._chunk_rows
            path = self._folder / key_of(self._array, index)
            where = f"{path} (rows from {row:,})"
            try:
                file = io.FileIO(path)
            except FileNotFoundError:
                stored, is_whole, found = None, True, (0, 0)
            else:
                with file:
                    size = os.fstat(file.fileno()).st_size
                    if len(self._bytes) < size:
                        self._bytes = np.empty(size + size // 8, np.uint8)
                    stored = self._bytes[:size]
                    is_whole = read_into(file, 0, stored)
                    found = file_stamp(file.fileno())
            if self._stored is not None:
                self._stored.check(index, path, *found)
            if not is_whole:
                raise UnreadableDataError(f"{where} ended before byte {size:,}: was it cut while in use?")
            self._decode(stored, out[row - start : row - start + self._chunk_rows], where)


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
    # Blosc relies on the length in its header, the last four of 16 bytes, and reads past the end of a chunk that was
    # cut off, here into the rest of another chunk.
    length = int(stored[12:16].view("<u4")[0]) if len(stored) >= 16 else -1
    if codec.codec_id == "blosc" and length != len(stored):
        raise UnreadableDataError(f"{where} does not decode: {len(stored):,} bytes, its header says otherwise")
    try:
        # A codec refuses a target that is too small before it decodes, but leaves the rest of one that is too large as
        # it was: a short chunk would silently keep rows of the chunk before it.
        codec.decode(stored, target[:-1])
    except (RuntimeError, ValueError):
        pass
    else:
        raise UnreadableDataError(f"{where} holds fewer than the {len(target):,} bytes of a chunk")
    try:
        codec.decode(stored, target)
    except (RuntimeError, ValueError) as error:  # what numcodecs raises
        raise UnreadableDataError(f"{where} does not decode: {error}") from error


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


# A request of Zarr's own reading: as large as an automatic batch, so that neither cuts the other.
_BATCH_BYTES: Final = 48_000_000
_MOST_NAMED: Final = 3


class RemoteZarrSource(ZarrSource):
    """A Zarr array in an fsspec file system.

    Parameters
    ----------
    array : zarr.Array
        Open for reading, on an ``FsspecStore``.
    url : str, optional
        Its URL, if it was opened from there; otherwise the array pickles with the store of its user.
    """

    def __init__(self, array: Any, url: str | None = None) -> None:
        super().__init__(array)
        self.url, self._metadata, self._document_stamp = url, array.metadata, ""
        # Whether rewritten chunks can be told from those that were there: not by sizes alone, nor if none is listed.
        self._are_versioned = True
        n_bytes = int(self.facts.row_chunk or 1) * self.row_bytes
        # Zarr's own reading holds a batch, decoded and stored, and a copy of a chunk.
        held = (
            9 * max(AHEAD_BYTES, n_bytes) // 4 if chunk_decoder(array) is None else ahead_bytes(stored_limit(n_bytes))
        )
        self.facts = replace(self.facts, prefetch_bytes=held)

    @classmethod
    def from_url(cls, name: str, url: str) -> Self:
        """Open the array at a URL.

        Raises
        ------
        InvalidInputError
            If there is none.
        UnreadableDataError
            If the request fails.
        """
        where = without_query(url)
        return cls(open_array(name, where, zarr_store(url), url), url)

    def __getstate__(self) -> dict[str, Any]:
        here_only = {"_store_and_root"} if self.url is None else {"_store_and_root", "array"}
        return {key: value for key, value in self.__dict__.items() if key not in here_only}

    def __getattr__(self, name: str) -> Any:
        """Build the array from the URL and the metadata, in a process that has unpickled the source."""
        if name != "array" or self.__dict__.get("url") is None:
            raise AttributeError(name)
        import zarr
        from zarr.storage import StorePath

        opened: Any = zarr.AsyncArray(self._metadata, StorePath(zarr_store(str(self.url))))
        self.array = zarr.Array(opened)
        return self.array

    @cached_property
    def _store_and_root(self) -> tuple[ObjectStore, str] | None:
        """The file system for use in threads, and the array's path; None where a user's own cannot be copied."""
        if self.url is not None:
            store, root = ObjectStore.at(self.url)
            return store, root.rstrip("/")
        try:
            return ObjectStore(for_threads(self.array.store.fs)), _root(self.array)
        except Exception:  # noqa: BLE001  # file systems raise what they like
            return None

    @property
    def where(self) -> str:
        """The URL without its query."""
        return without_query(self.url or url_of(self.array.store.fs, _root(self.array)))

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading; the rows of a known range are fetched from now on."""
        decode = chunk_decoder(self.array)
        if decode is None or self._store_and_root is None:
            return _ZarrBatches(self, start, stop)
        return _DirectChunks(self, start, stop, decode, *self._store_and_root)

    def _content(self) -> dict[str, Any] | None:
        if self._store_and_root is None:
            return None
        store, root = self._store_and_root
        info = store.info("data", f"{root}/{self.document}")
        stamp = stamp_of(info)
        # On the web nothing lists the chunks, and the metadata does not change with them.
        return {"size": info.get("size"), "stamp": stamp} if stamp and not is_web(self.where) else None

    def identity(self) -> dict[str, Any]:
        """Return what every source returns; no content where the store tells nothing that changes with the chunks."""
        found = super().identity()
        return found if self._are_versioned else found | {"content": None}

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest of the versions of the stored chunks of each range; "" where they have none."""
        return super().part_identities(ranges) if self._are_versioned else [""] * len(ranges)

    def note_version(self) -> None:
        """List the stored chunks, except on the web, where nothing lists them."""
        if self.stored is None and self._store_and_root is not None and not is_web(self.where):
            try:
                found = chunk_objects(self.array, self.document, *self._store_and_root)
                self.stored, self._document_stamp, self._are_versioned = found
            except RefusedError as error:
                self._are_versioned = False
                warn(
                    f"{error}: this store allows reading, but not listing, so chunks that are missing or that change "
                    "during the run may pass unnoticed. Allow listing (ListBucket)"
                )

    def check_version(self) -> None:
        """List the stored chunks again, unless there are many, and each answer has included its version."""
        if self.stored is None or self._store_and_root is None:
            return
        store = self._store_and_root[0]
        versioned = store.tells_versions and chunk_decoder(self.array) is not None
        if versioned and len(self.stored.stamps) > MOST_LISTED_TWICE:
            return
        later, document, _ = chunk_objects(self.array, self.document, *self._store_and_root)
        if document != self._document_stamp:
            raise changed(f"{self.where}/{self.document}", "it was overwritten")
        self.stored.check_all(later, self.where, lambda index: key_of(self.array, index))

    def reachable(self) -> None:
        """Request the metadata document."""
        self._content()


def stored_limit(n_bytes: int) -> int:
    """Return the most bytes that a stored chunk of `n_bytes` can have: codecs add less than this to random data."""
    return n_bytes + n_bytes // 128 + 1024


def _root(array: Any) -> str:
    """Return the path of an array in the file system of its store."""
    return "/".join(part for part in (array.store.path.rstrip("/"), array.path) if part)


class _RemoteRows(PrefetchedRows):
    """Prefetched rows that warn of absent chunks among those that were read, where no listing has reported them."""

    def __init__(self, source: RemoteZarrSource, *range_and_depth: Any) -> None:
        self._absent, self._where = set[str](), source.where
        super().__init__(source, *range_and_depth)

    def close(self) -> None:
        super().close()
        if self._absent:
            named = ", ".join(sorted(self._absent, key=natural_key)[:_MOST_NAMED])
            named += " and more" if len(self._absent) > _MOST_NAMED else ""
            warn(
                f"{self._where}: chunks that are not stored: {named} ({len(self._absent):,} in all). Nothing lists "
                "what should be there, so their rows are read as the array's fill value; if they are missing, write "
                "them"
            )


class _DirectChunks(_RemoteRows):
    """Stored chunks of whole rows: prefetched as they are stored, and decoded as they are read."""

    def __init__(
        self, source: RemoteZarrSource, start: int, stop: int | None, decoder: Decoder, store: ObjectStore, root: str
    ) -> None:
        self._array, self._stored, self._decoder = source.array, source.stored, decoder
        self._store, self._root, chunk_rows = store, root, source.facts.row_chunk or 1
        self._limit = stored_limit(chunk_rows * source.row_bytes)
        super().__init__(source, chunk_rows, 0, start, stop, n_ahead(self._limit))

    def _decode(self, index: int, fetched: bytes | None, out: npt.NDArray[Any]) -> None:
        stored = None if fetched is None else np.frombuffer(fetched, np.uint8)
        self._decoder(stored, out, f"{self._store.shown(self._path(index))} ({self._what(index)})")

    def _fetch(self, index: int) -> bytes | None:
        path, stored = self._path(index), self._stored
        found, version = self._store.read(path, 0, self._limit, self._what(index))
        if found is None and stored is None:
            time.sleep(limits.LOOK_AGAIN_S)  # where nothing lists the chunks, absent is what is not found twice
            found, version = self._store.read(path, 0, self._limit, self._what(index))
            if found is None:
                self._absent.add(path.removeprefix(f"{self._root}/"))
        if stored is not None and (version or found is None):
            stored.check(index, self._store.shown(path), 0 if found is None else stamp(version))
        return found

    def _what(self, index: int) -> str:
        return f"rows from {index * self._chunk_rows:,}"

    def _path(self, index: int) -> str:
        return f"{self._root}/{key_of(self._array, index)}"


class _ZarrBatches(_RemoteRows):
    """Rows that Zarr itself reads, one batch ahead: each batch is requested chunk by chunk at the same time."""

    def __init__(self, source: RemoteZarrSource, start: int, stop: int | None) -> None:
        self._zarr = source
        self._url = source.url or url_of(source.array.store.fs, source.array.store.path)
        chunk = source.facts.row_chunk or 1
        origin, rows = start - start % chunk, max(chunk, _BATCH_BYTES // source.row_bytes // chunk * chunk)
        super().__init__(source, rows, origin, start, stop, 1)

    def _fetch(self, index: int) -> npt.NDArray[Any]:
        start, stop = self._bounds(index)
        return ZarrRows(self._zarr, self._absent, self._url).read(start, stop)
