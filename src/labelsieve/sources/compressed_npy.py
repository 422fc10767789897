"""Compressed arrays of ``.npz`` archives: one stored chunk that holds all rows."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import UnreadableDataError
from labelsieve.sources.archives import Member, with_member
from labelsieve.sources.base import ChunkedRows, FileSource, Rows
from labelsieve.sources.versions import FileVersion

_PIECE_BYTES: Final = 1 << 20


class CompressedNpySource(FileSource):
    """An array of a local ``.npz`` archive that `numpy.savez_compressed` wrote. It is decoded whole.

    Parameters
    ----------
    path : Path
        The archive.
    member : Member
        The array.
    version : FileVersion
        Of the file whose header was read; another one is an error.
    """

    in_pieces = False
    is_encoded = True
    path: Path

    def __init__(self, path: Path, member: Member, version: FileVersion) -> None:
        super().__init__(member.shape, member.dtype, max(1, member.shape[0]) if member.shape else None)
        self.path, self.member, self.version = path, member, version

    @property
    def where(self) -> str:
        """The path and the name of the array."""
        return with_member(str(self.path.absolute()), self.member.name)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # decoded when it is read
        """Open for reading."""
        return _DecodedRows(self)


class _DecodedRows(ChunkedRows):
    def __init__(self, source: CompressedNpySource) -> None:
        super().__init__(source, max(1, source.n_rows))
        self._source = source

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002  # always all rows
        source, member = self._source, self._source.member
        decoded = np.empty(member.shape[::-1], member.dtype) if member.fortran else out
        try:
            with source.path.open("rb") as file:
                if source.version is not None:
                    source.version.check(os.fstat(file.fileno()), source.where)
                with zipfile.ZipFile(file) as archive, archive.open(f"{member.name}.npy") as stream:
                    stream.read(member.offset)
                    octets, done = decoded.reshape(-1).view(np.uint8), 0
                    while done < len(octets):
                        got = stream.read(min(_PIECE_BYTES, len(octets) - done))
                        if not got:
                            raise UnreadableDataError(f"{source.where} ended before its last row: was it cut in use?")
                        octets[done : done + len(got)] = np.frombuffer(got, np.uint8)
                        done += len(got)
                    stream.read(1)  # at the end the checksum is compared
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            raise UnreadableDataError(f"{source.where} is damaged: {error}") from error
        if member.fortran:
            out[:] = decoded.T
