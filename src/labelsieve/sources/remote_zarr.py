"""Zarr arrays at URLs, and arrays that users have opened on an fsspec store.

A source pickles as its URL and metadata, so that workers need not request them, and without credentials: an fsspec
store pickles with its options, which may come from the user's configuration of fsspec.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.errors import warn
from labelsieve.sources.base import Rows
from labelsieve.sources.object_store import ObjectStore, RefusedError
from labelsieve.sources.prefetch import AHEAD_BYTES, PrefetchedRows, ahead_bytes, n_ahead
from labelsieve.sources.shard_names import natural_key
from labelsieve.sources.versions import MOST_LISTED_TWICE, changed, stamp
from labelsieve.sources.zarr_arrays import Decoder, ZarrRows, ZarrSource, chunk_decoder, counting, open_array
from labelsieve.sources.zarr_chunks import chunk_objects, key_of, metadata_name
from labelsieve.storage import limits
from labelsieve.storage.file_systems import for_threads, zarr_store
from labelsieve.storage.urls import is_web, stamp_of, url_of, without_query

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
        n_bytes = int(self.row_chunk or 1) * self.row_bytes
        direct = chunk_decoder(array) is not None
        # Zarr's own reading holds a batch, decoded and stored, and a copy of a chunk.
        generic_bytes = 9 * max(AHEAD_BYTES, n_bytes) // 4
        self.prefetch_bytes = ahead_bytes(stored_limit(n_bytes)) if direct else generic_bytes

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

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:
        """Open to read the stored bytes alone, on the direct path where there is one."""
        if chunk_decoder(self.array) is None or self._store_and_root is None:
            return self.open(start, stop)
        return _DirectChunks(self, start, stop, counting(count), *self._store_and_root)

    def _content(self) -> dict[str, Any] | None:
        if self._store_and_root is None:
            return None
        store, root = self._store_and_root
        info = store.info("data", f"{root}/{metadata_name(self.array)}")
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
                found = chunk_objects(self.array, *self._store_and_root)
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
        if versioned and len(self.stored) > MOST_LISTED_TWICE:
            return
        later, document, _ = chunk_objects(self.array, *self._store_and_root)
        if document != self._document_stamp:
            raise changed(f"{self.where}/{metadata_name(self.array)}", "it was overwritten")
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


class _DirectChunks(PrefetchedRows):
    """Stored chunks of whole rows: prefetched as they are stored, and decoded as they are read."""

    def __init__(
        self, source: RemoteZarrSource, start: int, stop: int | None, decoder: Decoder, store: ObjectStore, root: str
    ) -> None:
        self._array, self._stored, self._decoder = source.array, source.stored, decoder
        self._store, self._root, chunk_rows = store, root, source.row_chunk or 1
        self._limit = stored_limit(chunk_rows * source.row_bytes)
        self._absent: set[str] = set()
        super().__init__(source, chunk_rows, 0, start, stop, n_ahead(self._limit))

    def _decode(self, index: int, fetched: bytes | None, out: npt.NDArray[Any]) -> None:
        stored = None if fetched is None else np.frombuffer(fetched, np.uint8)
        self._decoder(stored, out, f"{self._store.shown(self._path(index))} ({self._what(index)})")

    def _fetch(self, index: int) -> bytes | None:
        path, stored = self._path(index), self._stored
        found, version = self._store.read(path, 0, self._limit, self._what(index))
        if found is None and stored is None:
            time.sleep(
                limits.LOOK_AGAIN_S
            )  # where nothing lists the chunks, one is absent only if it is not found twice
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

    def close(self) -> None:
        super().close()
        _warn_of_absent(self._store.shown(self._root), self._absent)


class _ZarrBatches(PrefetchedRows):
    """Rows that Zarr itself reads, one batch ahead: each batch is requested chunk by chunk at the same time."""

    def __init__(self, source: RemoteZarrSource, start: int, stop: int | None) -> None:
        self._zarr, self._absent = source, set[str]()
        self._url = source.url or url_of(source.array.store.fs, source.array.store.path)
        chunk = source.row_chunk or 1
        origin, rows = start - start % chunk, max(chunk, _BATCH_BYTES // source.row_bytes // chunk * chunk)
        super().__init__(source, rows, origin, start, stop, depth=1)

    def _fetch(self, index: int) -> npt.NDArray[Any]:
        start, stop = self._bounds(index)
        return ZarrRows(self._zarr, self._absent, self._url).read(start, stop)

    def close(self) -> None:
        super().close()
        _warn_of_absent(self._zarr.where, self._absent)


def _warn_of_absent(where: str, keys: set[str]) -> None:
    """Warn of absent chunks among those that were read, where no listing has reported them before."""
    if keys:
        named = ", ".join(sorted(keys, key=natural_key)[:_MOST_NAMED])
        named += " and more" if len(keys) > _MOST_NAMED else ""
        warn(
            f"{where}: chunks that are not stored: {named} ({len(keys):,} in all). Nothing lists what should be there, "
            "so their rows are read as the array's fill value; if they are missing, write them"
        )
