"""``.npy`` files, read with positioned reads rather than mapped, so that no pages stay in memory."""

from __future__ import annotations

import io
import math
import mmap
import os
import threading
import tokenize
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.sources.base import FileSource, Rows, read_into
from labelsieve.sources.versions import FileVersion, file_version

# NumPy reads no longer headers than 10,000 bytes; most have 128.
HEADER_BYTES: Final = 10_240
# Python 3.11 may raise a SystemError where several threads parse literals at the same time.
_PARSING: Final = threading.Lock()
# NumPy parses a header as Python; these are the errors of a damaged one.
_BAD_HEADER: Final = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)


class NpySource(FileSource):
    """A ``.npy`` file, or a part of one that is mapped.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        Rows and, for probabilities, classes.
    dtype : dtype
        As stored.
    offset : int
        Byte at which the data begins.
    fortran : bool
        Whether columns, rather than rows, are contiguous.
    version : FileVersion, optional
        Of the file whose header was read; another one is an error.
    member : str
        Name of the array in a file of several; "" for a file of its own.
    """

    forkable = True
    path: Path

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        offset: int,
        *,
        fortran: bool,
        version: FileVersion | None = None,
        member: str = "",
    ) -> None:
        super().__init__(shape, dtype)
        self.version, self.member = version, member
        self.path, self.offset, self.fortran = path, offset, fortran and len(shape) > 1
        self.in_pieces = not self.fortran

    @classmethod
    def from_path(cls, name: str, path: Path) -> NpySource:
        """Read the header of a ``.npy`` file, and compare the file's size with it."""
        try:
            with path.open("rb") as file:
                version = FileVersion.of(os.fstat(file.fileno()))
                head = file.read(HEADER_BYTES)
        except FileNotFoundError:
            raise InvalidInputError(f"{name}: there is no file {path}") from None
        except OSError as error:
            raise InvalidInputError(f"{name}: {path} is not a readable .npy file: {error}") from error
        shape, fortran, dtype, offset = read_header(name, str(path), head, version.size)
        return cls(path, shape, dtype, offset, fortran=fortran, version=version)

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
        version, fortran = file_version(Path(name)), not array.flags.c_contiguous
        if not _is_mapped_file(Path(name), begin):
            return None
        return cls(Path(name), array.shape, array.dtype, offset, fortran=fortran, version=version)

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


def read_header(name: str, where: str, head: bytes, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether columns are contiguous, dtype, and the byte at which the data begins.

    Parameters
    ----------
    name, where : str
        ``labels`` or ``pred_probs``, and the file, for messages.
    head : bytes
        The first `HEADER_BYTES` of the file, or all of a shorter one.
    size : int
        Bytes of the whole file, which are compared with the header.

    Raises
    ------
    InvalidInputError
        For a file that is not a ``.npy`` file, is cut off, or holds objects.
    """
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _PARSING:
            shape, fortran, dtype = read(file)
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
    return shape, fortran, dtype, offset


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
