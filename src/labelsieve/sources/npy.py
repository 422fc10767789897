"""Arrays in HDF5, ``.npy``, ``.npz`` and safetensors files, on a disk or in an object store.

Files on a disk are read with positioned reads rather than mapped, so that no pages stay in memory.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import re
import struct
import threading
import tokenize
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, MissingDependencyError, UnreadableDataError
from labelsieve.sources.composite import Bfloat16Source
from labelsieve.sources.objects import ObjectStore, PrefetchedRows, ahead_bytes, n_ahead
from labelsieve.sources.source import (
    ChunkedRows,
    FileSource,
    FileVersion,
    ReadFacts,
    Rows,
    Source,
    changed,
    file_version,
    gone,
    read_into,
)
from labelsieve.storage.folder import RangedFile
from labelsieve.storage.remote import digest_of, stamp_of, version_of, without_query


class Hdf5Source(FileSource):
    """A dataset in an HDF5 file.

    Parameters
    ----------
    dataset : h5py.Dataset
        Open for reading.
    """

    path: Path

    def __init__(self, dataset: Any) -> None:
        facts = ReadFacts(
            dataset.chunks[0] if dataset.chunks else None,
            in_pieces=dataset.ndim == 1,  # a chunk of labels is kept while it is read in pieces
            is_encoded=bool(dataset.compression),
        )
        super().__init__(dataset.shape, dataset.dtype, facts)
        # A worker may run in another folder; a file that is only in memory has a name that is not a path.
        filename = os.fsdecode(dataset.file.filename)
        self.path = Path(filename).absolute() if Path(filename).exists() else Path(filename)
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
        super().__init__(source, source.facts.row_chunk or 1)
        self.dataset, self._file = dataset, file

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        stop = min(stop, self._n_rows)
        self.dataset.read_direct(out, np.s_[start:stop], np.s_[: stop - start])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


MAGIC: Final = b"\x93NUMPY"
# NumPy reads no longer headers than 10,000 bytes; most have 128.
HEADER_BYTES: Final = 10_240
# Python 3.11 may raise a SystemError where several threads parse literals at the same time.
_PARSING: Final = threading.Lock()
# NumPy parses a header as Python; these are the errors of a damaged one.
_BAD_HEADER: Final = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Member:
    """An array in a file.

    Parameters
    ----------
    name : str
        Its name.
    shape : tuple of int
        Rows and, for probabilities, classes.
    dtype : dtype
        As stored; uint16 for bfloat16.
    offset : int
        Byte of the file at which the data begins.
    fortran : bool
        Whether columns, rather than rows, are contiguous.
    is_bfloat16 : bool
        Whether the values are bfloat16.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    fortran: bool = False
    is_bfloat16: bool = False


class NpySource(FileSource):
    """An array in a ``.npy`` file or a file of several, or a part of one that is mapped.

    Parameters
    ----------
    path : Path
        The file.
    found : Member
        Where the array lies in it.
    version : FileVersion, optional
        Of the file whose header was read; another one is an error.
    """

    path: Path

    def __init__(self, path: Path, found: Member, version: FileVersion | None = None) -> None:
        super().__init__(found.shape, found.dtype, ReadFacts(in_pieces=not found.fortran, forkable=True))
        self.path, self.version = path, version
        self.offset, self.fortran, self.member = found.offset, found.fortran, found.name

    @classmethod
    def from_path(cls, name: str, path: Path, member: str = "") -> Source:
        """Find an array in a file by its header, and compare the file's size with it.

        Parameters
        ----------
        name : str
            ``labels`` or ``pred_probs``, for messages.
        path : Path
            The file.
        member : str
            Name of the array in a file of several; "" for the only one.
        """
        try:
            with path.open("rb") as file:
                version = FileVersion.of(file.fileno())

                def read(start: int, stop: int) -> bytes:
                    file.seek(start)
                    return file.read(stop - start)

                found = find_array(name, str(path), read, version.size, member, is_npy=read(0, 6) == MAGIC)
        except FileNotFoundError:
            raise InvalidInputError(f"{name}: there is no file {path}") from None
        except OSError as error:
            raise InvalidInputError(f"{name}: {path} cannot be opened: {error}") from error
        source = cls(path, found, version)
        return Bfloat16Source(source) if found.is_bfloat16 else source

    @classmethod
    def from_memmap(cls, array: np.memmap[Any, Any]) -> NpySource | None:
        """Return the file of a memmap, so that it pickles as a path; None where the file may differ from the memmap."""
        mapping, name = getattr(array, "_mmap", None), getattr(array, "filename", None)
        shared = getattr(array, "mode", "c") in ("r", "r+", "w+")
        plain = array.flags.c_contiguous or array.flags.f_contiguous
        if not (isinstance(mapping, mmap.mmap) and name is not None and shared and plain and array.size):
            return None
        # A slice of a memmap keeps the offset of the whole: its own follows from the addresses.
        begin = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
        inside = array.__array_interface__["data"][0] - begin
        offset = inside + array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
        if array.mode != "r":
            mapping.flush()  # on a network file system, later write-back would change the file's time
        version = file_version(Path(name))
        if not _is_mapped_file(Path(name), begin):
            return None
        return cls(Path(name), Member("", array.shape, array.dtype, offset, not array.flags.c_contiguous), version)

    def as_memmap(self) -> npt.NDArray[Any]:
        """Map the file, for reading."""
        order: Any = "F" if self.fortran else "C"
        with self.open_file() as file:
            stop = self.offset + math.prod(self.shape) * self.dtype.itemsize
            if os.fstat(file.fileno()).st_size < stop:
                raise UnreadableDataError(f"{self.where} ended before byte {stop:,}: was it cut while in use?")
            return np.memmap(file, self.dtype, "r", self.offset, self.shape, order)

    def open_file(self) -> io.FileIO:
        """Open the file, and compare it with the version that was noted."""
        file = io.FileIO(self.path)
        try:
            if self.version is not None:
                self.version.check(os.fstat(file.fileno()), self.where)
        except BaseException:
            file.close()
            raise
        return file

    @property
    def where(self) -> str:
        """The path, and the name of the array if there may be others."""
        return str(self.path.absolute()) + (f"::{self.member}" if self.member else "")

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing is prefetched
        """Open the file."""
        return _FortranRows(self) if self.fortran else _NpyRows(self)

    def _content(self) -> dict[str, Any]:
        return (super()._content() or {}) | {"offset": self.offset, "fortran": self.fortran}


def _is_mapped_file(path: Path, address: int) -> bool:
    """Return whether `path` is still the file that is mapped at `address`: it may have been replaced.

    The mapping keeps its file's inode in use, so no other file can have the same number. On systems other than Linux it
    is not known, so the answer is no, and the mapping itself is read.
    """
    try:
        inode = path.stat().st_ino
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
            for line in maps:
                span, _, _, _, mapped, *_ = line.split()
                begin, end = (int(part, 16) for part in span.split("-"))
                if begin <= address < end:
                    return int(mapped) == inode
    except OSError:
        pass
    return False


class _NpyRows(Rows):
    def __init__(self, source: NpySource) -> None:
        super().__init__(source)
        self._source = source
        self._file = source.open_file()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = self._reused(stop - start)
        self._fill(rows.reshape(-1).view(np.uint8), self._source.offset + start * self._source.row_bytes)
        return rows

    def _fill(self, buffer: npt.NDArray[np.uint8], position: int) -> None:
        if not read_into(self._file, position, buffer):
            end = position + len(buffer)
            raise UnreadableDataError(f"{self._source.path} ended before byte {end:,}: was it cut while in use?")

    def close(self) -> None:
        self._file.close()


class _FortranRows(_NpyRows):
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        n_rows, *inner = self._source.shape
        block = self._reused(stop - start).reshape(*inner[::-1], stop - start)
        for k, column in enumerate(block.reshape(-1, stop - start)):
            self._fill(column.view(np.uint8), self._source.offset + (k * n_rows + start) * self._dtype.itemsize)
        return block.T


ARCHIVE_SUFFIXES: Final = (".npz", ".safetensors")
# A place with the name of an array; of "zip://a.npz::https://host/all.zip" the last part is a place.
_WITH_MEMBER: Final = re.compile(r"(.+\.(?:npz|safetensors)(?:\?.*)?)::(?!/)((?:(?!::|://).)+)", re.IGNORECASE)
# Dtypes of safetensors, in NumPy's words; bfloat16 by its bits.
_DTYPES: Final = {"BF16": "<u2", "BOOL": "?"} | {
    f"{kind}{8 * size}": f"<{letter}{size}"
    for kind, letter in (("F", "f"), ("I", "i"), ("U", "u"))
    for size in (1, 2, 4, 8)
    if (kind, size) != ("F", 1)
}
# The headers that the reference implementation reads are not longer.
_MOST_HEADER_BYTES: Final = 100_000_000
# In the local header of an entry in a zip archive: the lengths of its name and of what follows the name.
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_ENCRYPTED: Final = 1
_NAMED: Final = 10

# Returns bytes [start, stop) of a file.
Reader = Callable[[int, int], bytes]


def split_member(place: str) -> tuple[str, str]:
    """Return a place without the name of an array, and that name; "" if there is none.

    Examples
    --------
    >>> split_member("out/fold-*.npz::probs"), split_member("labels.npy")
    (('out/fold-*.npz', 'probs'), ('labels.npy', ''))
    >>> split_member("zip://p.npz::s3://bucket/all.zip")
    ('zip://p.npz::s3://bucket/all.zip', '')
    """
    found = _WITH_MEMBER.fullmatch(place)
    return (found[1], found[2]) if found else (place, "")


def with_member(place: str, member: str) -> str:
    """Return a place with the name of an array; the inverse of `split_member`."""
    return f"{place}::{member}" if member else place


def find_array(name: str, where: str, read: Reader, size: int, member: str = "", *, is_npy: bool = False) -> Member:
    """Return where an array lies in a file.

    Parameters
    ----------
    name, where : str
        ``labels`` or ``pred_probs``, and the file, for messages.
    read : callable
        Returns bytes ``[start, stop)`` of the file.
    size : int
        Bytes of the file.
    member : str
        Name of the array; "" for the only one.
    is_npy : bool
        Whether it is known to be a ``.npy`` file, whatever its suffix.

    Raises
    ------
    InvalidInputError
        For a file that is damaged or cut off, and an array that is missing, compressed or of a dtype that is not read.
    """
    suffix = "" if is_npy else PurePosixPath(where).suffix.lower()
    if suffix not in ARCHIVE_SUFFIXES:
        return _in_npy(name, where, read, 0, size)
    return (_in_npz if suffix == ".npz" else _in_safetensors)(name, where, read, size, member)


def _in_npy(name: str, where: str, read: Reader, first: int, size: int, member: str = "") -> Member:
    """Read the header of a ``.npy`` file of `size` bytes, which begins at byte `first` of what is read."""
    file = io.BytesIO(read(first, first + max(0, min(size, HEADER_BYTES))))
    try:
        version = np.lib.format.read_magic(file)
        parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _PARSING:
            shape, fortran, dtype = parse(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {shape}")
    except _BAD_HEADER as error:
        raise InvalidInputError(f"{name}: {where} is not a readable .npy file: {error}") from error
    if dtype.hasobject:
        raise InvalidInputError(f"{name}: {where} holds Python objects, which are never unpickled")
    offset = file.tell()
    needed = offset + dtype.itemsize * math.prod(shape)
    if size < needed:
        raise InvalidInputError(f"{name}: {where} is cut off: {size:,} bytes, its header asks for {needed:,}")
    return Member(member, shape, dtype, first + offset, fortran and len(shape) > 1)


def _chosen(name: str, where: str, names: Iterable[str], member: str) -> str:
    """Return the name of the array that is meant."""
    found = list(names)
    if member in found:
        return member
    if not found:
        raise InvalidInputError(f"{name}: {where} holds no arrays")
    if not member and len(found) == 1:
        return found[0]
    listed = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else "")
    close = get_close_matches(member, found, 1) or get_close_matches(name, found, 1) or found[:1]
    has_no = f"has no array {member!r}" if member else "holds several arrays"
    raise InvalidInputError(f"{name}: {where} {has_no} (it has {listed}): give one, such as {where}::{close[0]}")


def _in_npz(name: str, where: str, read: Reader, size: int, member: str) -> Member:
    try:
        # Buffered, so that the few entries behind the arrays take one request.
        with zipfile.ZipFile(io.BufferedReader(RangedFile(read, size), HEADER_BYTES)) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            entry = entries[_chosen(name, where, entries, member)]
            array = entry.filename.removesuffix(".npy")
            shown = with_member(where, array)
            if entry.flag_bits & _ENCRYPTED:
                raise InvalidInputError(f"{name}: {shown} is encrypted")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise InvalidInputError(
                    f"{name}: {shown} is compressed, so that its rows cannot be read by ranges: save it with np.save "
                    "or np.savez, or as Zarr"
                )
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InvalidInputError(f"{name}: {where} is not a readable .npz archive: {error}") from error
    begin = read(entry.header_offset, entry.header_offset + _LOCAL_HEADER.size) if entry.header_offset >= 0 else b""
    if len(begin) < _LOCAL_HEADER.size or begin[:4] != b"PK\x03\x04":
        raise InvalidInputError(f"{name}: {where} is not a readable .npz archive: the header of {array} is damaged")
    _, n_name, n_extra = _LOCAL_HEADER.unpack(begin)
    first = entry.header_offset + _LOCAL_HEADER.size + n_name + n_extra
    return _in_npy(name, shown, read, first, min(entry.file_size, size - first), array)


def _in_safetensors(name: str, where: str, read: Reader, size: int, member: str) -> Member:
    def refuse(why: str) -> InvalidInputError:
        return InvalidInputError(f"{name}: {where} is not a readable safetensors file: {why}")

    begin = read(0, min(8, size))
    length = int.from_bytes(begin, "little")
    if len(begin) < 8 or not 2 <= length <= _MOST_HEADER_BYTES:
        raise refuse("it does not begin with the length of its header")
    if size < 8 + length:
        raise refuse(f"cut off: {size:,} bytes, its header alone takes {8 + length:,}")
    try:
        header = json.loads(read(8, 8 + length))
        entries = {key: facts for key, facts in header.items() if key != "__metadata__"}
        array = _chosen(name, where, entries, member)
        kind, shape = str(entries[array]["dtype"]), tuple(int(n) for n in entries[array]["shape"])
        start, stop = (int(n) for n in entries[array]["data_offsets"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise refuse(f"its header is damaged ({type(error).__name__})") from error
    if kind not in _DTYPES:
        hint = ": too few bits for probabilities; save them in bfloat16 or a wider dtype" if kind[:2] == "F8" else ""
        raise InvalidInputError(f"{name}: {with_member(where, array)} is {kind}, which is not read{hint}")
    dtype = np.dtype(_DTYPES[kind])
    if start < 0 or min(shape, default=0) < 0 or stop - start != dtype.itemsize * math.prod(shape):
        raise refuse(f"shape and bytes of {array} differ")
    if size < 8 + length + stop:
        raise refuse(f"cut off: {size:,} bytes, its header asks for {8 + length + stop:,}")
    return Member(array, shape, dtype, 8 + length + start, is_bfloat16=kind == "BF16")


# One request: large compared with what a request costs, small compared with what is prefetched.
_REQUEST_BYTES: Final = 8_000_000


@dataclass(frozen=True)
class RemoteFile:
    """An object in a store or on a web server.

    Parameters
    ----------
    url : str
        In full; messages show it without its secrets.
    size : int
        Bytes.
    stamp : str
        Its version, as the file system states it.
    """

    url: str
    size: int
    stamp: str

    is_remote = True

    @classmethod
    def at(cls, name: str, url: str, info: dict[str, Any] | None = None) -> RemoteFile:
        """Request the size and the version of an object, unless `info`, its entry in a listing, has them."""
        if not (info and (info.get("ETag") or info.get("etag"))):  # a listing may round the time of the last write
            store, path = ObjectStore.at(url)
            info = store.info(name, path)
        size, where = info.get("size"), without_query(url)
        if size is None:
            raise InvalidInputError(f"{name}: the server does not report the size of {where}, which is read in parts")
        if info.get("partial") is False:
            raise InvalidInputError(f"{name}: the server of {where} does not send parts of a file")
        return cls(url, int(size), stamp_of(info))

    @property
    def where(self) -> str:
        """The URL without its query."""
        return without_query(self.url)

    def read(self, start: int, stop: int, what: str = "") -> bytes:
        """Request bytes ``[start, stop)``, which hold `what`; they must be of the version that was noted."""
        if start == stop:
            return b""
        (store, path), what = ObjectStore.at(self.url), what or f"bytes {start:,}..{stop - 1:,}"
        got, now = store.read(path, start, stop, what)
        version, shown = version_of({"size": self.size, "ETag": self.stamp}), store.shown(path)
        if now and version and now != version:
            raise changed(f"{shown} ({what})", "it was overwritten")
        if got is None:
            raise UnreadableDataError(f"{shown} ({what}) is gone")
        if len(got) > stop - start:
            raise UnreadableDataError(f"{shown}: its server sends the whole file instead of the requested part")
        if len(got) < stop - start:
            raise UnreadableDataError(f"{shown} ended before byte {stop:,} ({what}): was it cut while in use?")
        return got

    def check(self) -> None:
        """Request size and stamp, and compare them."""
        store, path = ObjectStore.at(self.url)
        try:
            info = store.info("data", path)
        except InvalidInputError:
            raise gone(self.where) from None
        if info.get("size") != self.size:
            raise changed(self.where, f"its size was {self.size:,} bytes and is {info.get('size') or 0:,}")
        if stamp_of(info) != self.stamp:
            raise changed(self.where, "it was overwritten")

    def content(self) -> dict[str, Any] | None:
        """Return size and stamp; a size alone does not change with the data."""
        return {"size": self.size, "stamp": self.stamp, "url": digest_of(self.url)} if self.stamp else None


class RemoteNpySource(Source):
    """A ``.npy`` file in an object store.

    Parameters
    ----------
    file : RemoteFile
        The file.
    found : Member
        Where the array lies in it.
    """

    def __init__(self, file: RemoteFile, found: Member) -> None:
        super().__init__(found.shape, found.dtype)
        self.file, self.offset, self.member = file, found.offset, found.name
        self.request_rows: int = max(1, _REQUEST_BYTES // max(1, self.row_bytes))
        self.request_bytes = min(self.request_rows, max(1, self.n_rows)) * self.row_bytes
        self.facts = ReadFacts(prefetch_bytes=ahead_bytes(self.request_bytes))

    @classmethod
    def from_url(cls, name: str, url: str, info: dict[str, Any] | None = None) -> Source:
        """Read the header of a ``.npy`` object or of an array in a file of several, and compare the size with it.

        Parameters
        ----------
        name : str
            ``labels`` or ``pred_probs``, for messages.
        url : str
            Where it is, with the name of the array in a file of several.
        info : dict, optional
            The object's entry in a listing.
        """
        url, member = split_member(url)
        file = RemoteFile.at(name, url, info)
        found = find_array(name, file.where, partial(file.read, what="its header"), file.size, member)
        if found.fortran:
            raise InvalidInputError(
                f"{name}: {with_member(file.where, found.name)} is in Fortran order, where a batch of rows takes a "
                f"request for each of {found.shape[1]:,} columns; save it with np.save(..., np.ascontiguousarray(...))"
            )
        source = cls(file, found)
        return Bfloat16Source(source) if found.is_bfloat16 else source

    @property
    def where(self) -> str:
        """The URL without its query, and the name of the array if there may be others."""
        return with_member(self.file.where, self.member)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading; the rows of a known range are fetched from now on."""
        return _RemoteNpyRows(self, start, stop)

    def _content(self) -> dict[str, Any] | None:
        return self.file.content()

    def check_version(self) -> None:
        """Request the object's size and stamp, and compare them."""
        self.file.check()

    reachable = check_version


class _RemoteNpyRows(PrefetchedRows):
    def __init__(self, source: RemoteNpySource, start: int, stop: int | None) -> None:
        self._npy = source
        # Requests are numbered from `start`, so that partitions do not share one.
        super().__init__(source, source.request_rows, start, start, stop, n_ahead(source.request_bytes))

    def _fetch(self, index: int) -> npt.NDArray[Any]:
        npy, (start, stop) = self._npy, self._bounds(index)
        a, b = (npy.offset + row * npy.row_bytes for row in (start, stop))
        data = npy.file.read(a, b, f"rows {start:,}..{stop - 1:,}")
        return np.frombuffer(data, npy.dtype).reshape(stop - start, *npy.shape[1:])
