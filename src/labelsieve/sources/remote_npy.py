"""``.npy`` files at URLs, read with prefetched ranged requests."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.sources.archives import ARCHIVE_SUFFIXES, Member, find_member, split_member, with_member
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.bfloat16 import Bfloat16Source
from labelsieve.sources.npy import HEADER_BYTES, read_header
from labelsieve.sources.object_store import ObjectStore
from labelsieve.sources.prefetch import PrefetchedRows, ahead_bytes, n_ahead
from labelsieve.sources.versions import changed, gone
from labelsieve.storage.urls import digest_of, stamp_of, version_of, without_query

# One request: large compared with what a request costs, small compared with what is prefetched.
_REQUEST_BYTES: Final = 8_000_000


class RemoteNpySource(Source):
    """A ``.npy`` file in an object store.

    Parameters
    ----------
    url : str
        In full; messages show it without its secrets.
    shape : tuple of int
        Rows and, for probabilities, classes.
    dtype : dtype
        As stored.
    offset : int
        Byte at which the data begins.
    size : int
        Bytes of the object.
    stamp : str
        Its version, as the file system states it.
    member : str
        Name of the array in a file of several; "" for a file of its own.
    """

    def __init__(
        self,
        url: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        offset: int,
        *,
        size: int,
        stamp: str,
        member: str = "",
    ) -> None:
        super().__init__(shape, dtype)
        self.url, self.offset, self.size, self.stamp, self.member = url, offset, size, stamp, member
        self.version = version_of({"size": size, "ETag": stamp})
        self.request_rows: int = max(1, _REQUEST_BYTES // max(1, self.row_bytes))
        self.request_bytes = min(self.request_rows, max(1, self.n_rows)) * self.row_bytes
        self.prefetch_bytes = ahead_bytes(self.request_bytes)

    @classmethod
    def from_url(
        cls, name: str, url: str, store: ObjectStore | None = None, info: dict[str, Any] | None = None
    ) -> Source:
        """Read the header of a ``.npy`` object or of an array in a file of several, and compare the size with it.

        Parameters
        ----------
        name : str
            ``labels`` or ``pred_probs``, for messages.
        url : str
            Where it is, with the name of the array in a file of several.
        store : ObjectStore, optional
            The file system, if it is open already.
        info : dict, optional
            The object's entry in a listing.
        """
        url, member = split_member(url)
        opened, path = ObjectStore.at(url)
        store = store or opened
        if not (info and (info.get("ETag") or info.get("etag"))):
            info = store.info(name, path)  # a listing may round the time of the last write
        size, where = info.get("size"), without_query(url)
        if size is None:
            raise InvalidInputError(
                f"{name}: the server does not report the size of {where}, which is needed to read it in parts"
            )
        if info.get("partial") is False:
            raise InvalidInputError(f"{name}: the server of {where} does not send parts of a file")
        reader = partial(read_exactly, store, path, what="its header")
        if where.lower().endswith(ARCHIVE_SUFFIXES):
            found = find_member(name, where, reader, size, member)
        else:
            shape, fortran, dtype, offset = read_header(name, where, reader(0, min(size, HEADER_BYTES)), size)
            found = Member("", shape, dtype, offset, fortran and len(shape) > 1)
        _check_ranges(name, with_member(where, found.name), found)
        source = cls(url, found.shape, found.dtype, found.offset, size=size, stamp=stamp_of(info), member=found.name)
        return Bfloat16Source(source) if found.is_bfloat16 else source

    @property
    def where(self) -> str:
        """The URL without its query, and the name of the array if there may be others."""
        return with_member(without_query(self.url), self.member)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading; the rows of a known range are fetched from now on."""
        return _RemoteNpyRows(self, start, stop)

    def _content(self) -> dict[str, Any] | None:
        # A size alone does not change with the data.
        return {"size": self.size, "stamp": self.stamp, "url": digest_of(self.url)} if self.stamp else None

    def check_version(self) -> None:
        """Request the object's size and stamp, and compare them."""
        try:
            self.reachable()
        except InvalidInputError:
            raise gone(self.where) from None

    def reachable(self) -> None:
        """Request the object's size and stamp, and compare them."""
        store, path = ObjectStore.at(self.url)
        info = store.info("data", path)
        if info.get("size") != self.size:
            raise changed(self.where, f"its size was {self.size:,} bytes and is {info.get('size') or 0:,}")
        if stamp_of(info) != self.stamp:
            raise changed(self.where, "it was overwritten")


def _check_ranges(name: str, where: str, found: Member) -> None:
    """Raise if the rows of an array cannot be read by ranges."""
    if found.fortran:
        raise InvalidInputError(
            f"{name}: {where} is in Fortran order, where a batch of rows takes a request for each of "
            f"{found.shape[1]:,} columns; save it with np.save(..., np.ascontiguousarray(...))"
        )


def read_exactly(store: ObjectStore, path: str, start: int, stop: int, what: str, version: str = "") -> bytes:
    """Return bytes ``[start, stop)`` of an object, which must be of `version` if that is known."""
    if start == stop:
        return b""
    got, now = store.read(path, start, stop, what)
    where = f"{store.shown(path)} ({what})"
    if now and version and now != version:
        raise changed(where, "it was overwritten")
    if got is None:
        raise UnreadableDataError(f"{where} is gone")
    if len(got) > stop - start:
        raise UnreadableDataError(f"{store.shown(path)}: its server sends the whole file instead of the requested part")
    if len(got) < stop - start:
        raise UnreadableDataError(f"{store.shown(path)} ended before byte {stop:,} ({what}): was it cut while in use?")
    return got


class _RemoteNpyRows(PrefetchedRows):
    def __init__(self, source: RemoteNpySource, start: int, stop: int | None) -> None:
        self._npy, (self._store, self._path) = source, ObjectStore.at(source.url)
        # Requests are numbered from `start`, so that partitions do not share one.
        super().__init__(source, source.request_rows, start, start, stop, n_ahead(source.request_bytes))

    def _fetch(self, index: int) -> npt.NDArray[Any]:
        npy, (start, stop) = self._npy, self._bounds(index)
        a, b = (npy.offset + row * npy.row_bytes for row in (start, stop))
        data = read_exactly(self._store, self._path, a, b, f"rows {start:,}..{stop - 1:,}", npy.version)
        return np.frombuffer(data, npy.dtype).reshape(stop - start, *npy.shape[1:])
