"""Arrays in files of several: ``.npz`` archives and safetensors. Only headers are read here.

An array that is stored as it is can be read at its offset, as a ``.npy`` file is. The name of the array follows the
place: ``file.npz::probs``. It may be left out if the file holds only one array.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from labelsieve.errors import InvalidInputError
from labelsieve.sources.npy import HEADER_BYTES, read_header

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


def find_member(name: str, where: str, read: Reader, size: int, member: str) -> Member:
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

    Raises
    ------
    InvalidInputError
        For a file that is damaged or cut off, and an array that is missing, compressed or of a dtype that is not read.
    """
    if PurePosixPath(where).suffix.lower() == ".npz":
        return _in_npz(name, where, read, size, member)
    return _in_safetensors(name, where, read, size, member)


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


class _RangedFile(io.RawIOBase):
    """A file for `zipfile`, which reads a few ranges of it."""

    def __init__(self, read: Reader, size: int) -> None:
        super().__init__()
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._size)[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._position + len(buffer))
        got = self._read(self._position, stop) if stop > self._position else b""
        buffer[: len(got)] = got
        self._position += len(got)
        return len(got)


def _in_npz(name: str, where: str, read: Reader, size: int, member: str) -> Member:
    try:
        # Buffered, so that the few entries behind the arrays take one request.
        with zipfile.ZipFile(io.BufferedReader(_RangedFile(read, size), HEADER_BYTES)) as archive:
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
    head = read(first, first + min(entry.file_size, HEADER_BYTES))
    shape, dtype, offset, fortran = _header(name, shown, head, min(entry.file_size, size - first))
    return Member(array, shape, dtype, first + offset, fortran)


def _header(name: str, where: str, head: bytes, size: int) -> tuple[tuple[int, ...], np.dtype[Any], int, bool]:
    shape, fortran, dtype, offset = read_header(name, where, head, size)
    return shape, dtype, offset, fortran and len(shape) > 1


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
