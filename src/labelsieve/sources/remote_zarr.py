"""Zarr arrays at URLs, and any that live on one of Zarr's fsspec stores.

What travels is the URL and the metadata, so that no worker asks for them again, and no credentials: an fsspec store
pickles with the options that it was made with, which may come from the user's configuration of fsspec.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, UnreadableDataError, warn
from labelsieve.sources.base import Rows
from labelsieve.sources.prefetch import AHEAD_BYTES, Missing, Objects, ReadAhead, RefusedError, ahead_bytes, n_ahead
from labelsieve.sources.shard_names import natural
from labelsieve.sources.versions import MOST_LISTED_TWICE, StoredChunks, changed, stamp
from labelsieve.sources.zarr_arrays import ZarrRows, ZarrSource, checked_array, decode_into, direct_codec
from labelsieve.sources.zarr_chunks import PAUSE, key_of, metadata_name, objects_of, with_listing
from labelsieve.storage.urls import cause_of, check_credentials, filesystem, is_web, stamp_of, url_of, without_query

_MOST_NAMED: Final = 3


class RemoteZarrSource(ZarrSource):
    """A Zarr array in an fsspec file system.

    Parameters
    ----------
    array : zarr.Array
        Open for reading, on an ``FsspecStore``.
    url : str, optional
        Where it is, if it was opened from there; without it, the array pickles with its store, as its user made it.
    """

    def __init__(self, array: Any, url: str | None = None) -> None:
        super().__init__(array)
        self.url, self._metadata, self._document_stamp = url, array.metadata, ""
        n_bytes = int(self.row_chunk or 1) * self.row_bytes
        direct = direct_codec(array) is not None
        # Of Zarr's own reading: a batch, decoded and not, and a copy of a chunk.
        generic_bytes = 9 * max(AHEAD_BYTES, n_bytes) // 4
        self.read_ahead_bytes = ahead_bytes(stored_limit(n_bytes)) if direct else generic_bytes

    @classmethod
    def from_url(cls, name: str, url: str) -> Self:
        """Open the array at a URL.

        Raises
        ------
        InvalidInputError
            Where there is none.
        UnreadableDataError
            Where it cannot be looked at.
        """
        import zarr

        where = without_query(url)
        try:
            node = zarr.open(_store(url), mode="r")
        except Missing:
            raise InvalidInputError(f"{name}: there is no Zarr array at {where}") from None
        except (TypeError, ValueError, KeyError) as error:
            what = f"its metadata lack {error}" if isinstance(error, KeyError) else cause_of(error, url)
            raise InvalidInputError(f"{name}: {where} is not a readable Zarr array: {what}") from None
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            check_credentials(error, f"{name}: {where}", url)
            raise UnreadableDataError(f"{name}: {where} is not readable: {cause_of(error, url)}") from None
        return cls(checked_array(name, node), url)

    def __getstate__(self) -> dict[str, Any]:
        here_only = {"_objects_and_root"} if self.url is None else {"_objects_and_root", "array"}
        return {key: value for key, value in self.__dict__.items() if key not in here_only}

    def __getattr__(self, name: str) -> Any:
        """Build the array in the process that a description came to, from the URL and the metadata."""
        if name != "array" or self.__dict__.get("url") is None:
            raise AttributeError(name)
        import zarr
        from zarr.storage import StorePath

        opened: Any = zarr.AsyncArray(self._metadata, StorePath(_store(str(self.url))))
        self.array = zarr.Array(opened)
        return self.array

    @cached_property
    def _objects_and_root(self) -> tuple[Objects, str] | None:
        """The file system for use in threads, and the array's path; None where a user's own cannot be made anew."""
        if self.url is not None:
            objects, root = Objects.at(self.url)
            return objects, root.rstrip("/")
        try:
            return Objects(_synchronous(self.array.store.fs)), _root(self.array)
        except Exception:  # noqa: BLE001  # file systems around file systems take what they like
            return None

    @property
    def where(self) -> str:
        """The URL without its query."""
        return without_query(self.url or url_of(self.array.store.fs, _root(self.array)))

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading; a known range is fetched from now on."""
        direct = direct_codec(self.array)
        stop_row = self.n_rows if stop is None else min(stop, self.n_rows)
        if direct is None or self._objects_and_root is None:
            return _NextBatchRows(self, stop_row)
        rows = _ChunkRows(self.array, self.stored, direct[0], self._objects_and_root, start=start, stop=stop_row)
        if stop is not None:
            rows.ahead.start()
        return rows

    def _content(self) -> dict[str, Any] | None:
        if self._objects_and_root is None:
            return None
        objects, root = self._objects_and_root
        info = objects.info("data", f"{root}/{metadata_name(self.array)}")
        stamp = stamp_of(info)
        # On the web nothing lists the chunks, and the metadata does not change with them.
        return {"size": info.get("size"), "stamp": stamp} if stamp and not is_web(self.where) else None

    def note_version(self) -> None:
        """List the stored chunks; on the web, where nothing lists them, nothing is known of them."""
        if self.stored is None and self._objects_and_root is not None and not is_web(self.where):
            try:
                self.stored, self._document_stamp = objects_of(self.array, *self._objects_and_root)
            except RefusedError as error:
                warn(
                    f"{error}: this store allows reading, but not listing, so chunks that are missing or that change "
                    "during the run may pass unnoticed. Allow listing (ListBucket)"
                )

    def check_version(self) -> None:
        """List the stored chunks again; not where there are many, and each answer has told its version."""
        if self.stored is None or self._objects_and_root is None:
            return
        objects = self._objects_and_root[0]
        told = objects.tells_versions and direct_codec(self.array) is not None
        if told and len(self.stored) > MOST_LISTED_TWICE:
            return
        later, document = objects_of(self.array, *self._objects_and_root)
        if document != self._document_stamp:
            raise changed(f"{self.where}/{metadata_name(self.array)}", "it was written anew")
        self.stored.check_all(later, self.where, lambda index: key_of(self.array, index))

    def _listed(self) -> StoredChunks | None:
        if self._objects_and_root is None or is_web(self.where):
            return None
        return objects_of(self.array, *self._objects_and_root)[0]

    def reachable(self) -> None:
        """Ask for the metadata document."""
        self._content()


def stored_limit(n_bytes: int) -> int:
    """Return the most bytes that a chunk of `n_bytes` can be stored in: codecs add less than this to what is random."""
    return n_bytes + n_bytes // 128 + 1024


def _store(url: str) -> Any:
    """Return a Zarr store that reads from a URL in this process.

    It wraps the one file system that the process has for this URL: one for Zarr's own event loop would be another
    client a thread, which nobody closes.
    """
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    fs, path = filesystem(url)
    return FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), read_only=True, path=path.rstrip("/"))


def _root(array: Any) -> str:
    """Return the path of an array in the file system of its store."""
    return "/".join(part for part in (array.store.path.rstrip("/"), array.path) if part)


def _synchronous(fs: Any) -> Any:
    """Return the file system of a store for use in threads."""
    inner = getattr(fs, "sync_fs", None)
    if inner is not None:
        return inner
    return type(fs)(*fs.storage_args, **{**fs.storage_options, "asynchronous": False})


class _ChunkRows(ZarrRows):
    """Chunks of whole rows, fetched ahead; each is fetched and decoded once, also where it is asked for in pieces."""

    def __init__(
        self,
        array: Any,
        stored: StoredChunks | None,
        codec: Any,
        place: tuple[Objects, str],
        *,
        start: int,
        stop: int,
    ) -> None:
        super().__init__(array, stored)
        self._codec, (self._objects, self._root) = codec, place
        self._chunk = int(array.chunks[0])
        self._limit = stored_limit(self._chunk * array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
        first, last = start // self._chunk, -(-stop // self._chunk)
        self.ahead = ReadAhead(self._fetch, first, last, n_ahead(self._limit))
        self._held, self._decoded = -1, np.empty((0, *array.shape[1:]), array.dtype)
        self._absent: set[str] = set()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        chunk, n_rows = self._chunk, self._array.shape[0]
        whole = start % chunk == 0 and (stop % chunk == 0 or stop == n_rows)
        # The last chunk is stored whole.
        padded = -(-(stop - start) // chunk) * chunk if whole else stop - start
        if len(self._out) < padded:
            self._out = np.empty((padded, *self._array.shape[1:]), self._array.dtype)
        for index in range(start // chunk, -(-stop // chunk)):
            first = index * chunk
            if whole:
                self._decode(index, self._out[first - start : first - start + chunk])
            else:
                a, b = max(start, first), min(stop, first + chunk)
                self._out[a - start : b - start] = self._once(index)[a - first : b - first]
        return self._out[: stop - start]

    def _once(self, index: int) -> npt.NDArray[Any]:
        """Return a decoded chunk, kept for the next piece of it."""
        if self._held != index:
            if not len(self._decoded):
                self._decoded = np.empty((self._chunk, *self._array.shape[1:]), self._array.dtype)
            self._held = -1
            self._decode(index, self._decoded)
            self._held = index
        return self._decoded

    def _decode(self, index: int, out: npt.NDArray[Any]) -> None:
        stored = self.ahead.take(index)
        if stored is None:  # Zarr does not store a chunk of nothing but the fill value
            fill = self._array.fill_value
            out.fill(0 if fill is None else fill)
            return
        where = f"{self._objects.shown(self._path(index))} ({self._rows(index)})"
        decode_into(self._codec, np.frombuffer(stored, np.uint8), out.reshape(-1).view(np.uint8), where)

    def _fetch(self, index: int) -> bytes | None:
        path, stored = self._path(index), self._stored
        found, version = self._objects.get_version(path, 0, self._limit, self._rows(index))
        if found is None and (stored is None or stored.stamps[index]):
            time.sleep(PAUSE)  # where nothing is listed, an absent chunk is believed only the second time
            found, version = self._objects.get_version(path, 0, self._limit, self._rows(index))
        if found is None and stored is None:
            self._absent.add(path.removeprefix(f"{self._root}/"))
        if stored is not None and (version or found is None):
            stored.check(index, stamp(version) if found is not None else 0, self._objects.shown(path))
        return found

    def _path(self, index: int) -> str:
        key = self._array.metadata.encode_chunk_key((index,) + (0,) * (self._array.ndim - 1))
        return f"{self._root}/{key}"

    def _rows(self, index: int) -> str:
        return f"rows from {index * self._chunk:,}"

    def close(self) -> None:
        self.ahead.close()
        _warn_of_absent(self._objects.shown(self._root), self._absent)


def _warn_of_absent(where: str, keys: set[str]) -> None:
    """Warn of chunks that were read and are not stored, where no listing has told that before."""
    if keys:
        named = ", ".join(sorted(keys, key=natural)[:_MOST_NAMED]) + (" and more" if len(keys) > _MOST_NAMED else "")
        warn(
            f"{where}: chunks that are not stored: {named} ({len(keys):,} in all). Nothing lists what should be there, "
            "so their rows are read as the array's fill value; if they are missing, write them"
        )


class _ZarrOwnRows(ZarrRows):
    """Zarr's own reading, with nothing secret in its errors."""

    _chained = False

    def __init__(self, source: RemoteZarrSource) -> None:
        super().__init__(source.array, source.stored)
        self.where, self._url = source.where, source.url or url_of(self._array.store.fs, self._array.store.path)
        self.absent: set[str] = set()

    @cached_property
    def _opened(self) -> Any:
        return with_listing(self._array, self._listed, self.absent if self._stored is None else None)

    def _unreadable(self, start: int, stop: int, error: Exception) -> UnreadableDataError:
        return UnreadableDataError(
            f"{self.where} (rows {start:,}..{stop - 1:,}) is not readable: {cause_of(error, self._url)}"
        )


class _NextBatchRows(Rows):
    """Zarr's own reading, one batch ahead: the one that follows the last, if it is as long."""

    def __init__(self, source: RemoteZarrSource, stop: int) -> None:
        self._now, self._then = _ZarrOwnRows(source), _ZarrOwnRows(source)
        self._stop, self._most_rows = stop, max(AHEAD_BYTES // max(1, source.row_bytes), source.row_chunk or 1)
        self._pool = ThreadPoolExecutor(1, "labelsieve-read-ahead")
        self._next: tuple[tuple[int, int], Future[npt.NDArray[Any]]] | None = None

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        block = self._fetched(start, stop)
        if block is None:
            block = self._now.read(start, stop)
        following = (stop, min(stop + (stop - start), self._stop))
        if following[0] < following[1] and stop - start <= self._most_rows:
            self._next = following, self._pool.submit(self._then.read, *following)
        return block

    def _fetched(self, start: int, stop: int) -> npt.NDArray[Any] | None:
        if self._next is None:
            return None
        (rows, future), self._next = self._next, None
        if rows != (start, stop):
            if not future.cancel():
                future.exception()  # it has to land before its buffer is used again
            return None
        block = future.result()
        self._now, self._then = self._then, self._now
        return block

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        _warn_of_absent(self._now.where, self._now.absent | self._then.absent)
