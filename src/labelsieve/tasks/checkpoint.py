"""Checkpoints: the records in which a run commits its row summaries, and what later passes add to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.errors import WorkdirError
from labelsieve.storage.folders import Folder
from labelsieve.storage.record_files import Columns, DamagedRecordError, Record, RecordWriter

KINDS: Final = ("summaries", "rescan", "margins")


class _Unfinished(Exception):  # noqa: N818  # not an error: it keeps a file from being committed
    """The writer of a record was not finished."""


@dataclass(frozen=True)
class Records:
    """The records of a run: one file for each partition and kind. It pickles without the data.

    Parameters
    ----------
    folder : Folder
        The workdir.
    fingerprint : str
        Digest of the inputs and settings. A record with another digest belongs to another run and is not used.
    """

    folder: Folder
    fingerprint: str

    def open(self, kind: str, index: int) -> Record:
        """Open an existing record.

        Raises
        ------
        FileNotFoundError
            If there is no such record.
        WorkdirError
            If it belongs to another run.
        """
        record = Record(self.folder.folder(kind), record_name(index))
        header = record.header
        if (header.get("kind"), header.get("fingerprint"), header.get("partition")) != (kind, self.fingerprint, index):
            record.close()
            raise WorkdirError(f"{record.where} belongs to another run: a later run has started over in this workdir")
        return record

    @contextmanager
    def reading(self, kind: str, index: int) -> Iterator[Record]:
        """Open a committed record, and close it when the block ends.

        Raises
        ------
        DamagedRecordError
            If it is missing or damaged. A damaged block is found when it is read.
        WorkdirError
            If it belongs to another run.
        """
        try:
            with self.open(kind, index) as record:
                yield record
        except (FileNotFoundError, IsADirectoryError) as error:
            raise DamagedRecordError(str(error)) from error

    def summaries(self, index: int, start: int, stop: int) -> Iterator[SummaryBlock]:
        """Yield the summaries of rows ``[start, stop)`` of partition `index`, a block at a time."""
        with self.reading("summaries", index) as record:
            for columns in record.blocks(start, stop):
                yield SummaryBlock(**columns)

    def is_committed(self, index: int, start: int, stop: int, *, kind: str) -> bool:
        """Return whether there is a record of rows ``[start, stop)`` and all its checksums match."""
        return self.committed(kind, index, (start, stop)) is not None

    @contextmanager
    def create(self, kind: str, index: int, rows: tuple[int, int]) -> Iterator[RecordWriter]:
        """Yield the writer of a record, which is committed when the block ends if `finish` was called."""
        with suppress(_Unfinished), self.folder.folder(kind).create(record_name(index)) as file:
            writer = RecordWriter(file, self._header(kind, index, rows))
            yield writer
            if not writer.finished:
                raise _Unfinished

    def committed(
        self, kind: str, index: int, rows: tuple[int, int], take: Callable[[Columns], object] = lambda _: None
    ) -> dict[str, Any] | None:
        """Check a record and return its footer; None if it is missing, damaged or of another run.

        `take` is called with each block once its checksum matches, including the blocks before a damaged one.
        """
        try:
            with self.open(kind, index) as record:
                if record.header != self._header(kind, index, rows) or record.n_rows != rows[1] - rows[0]:
                    return None
                for block in record.blocks():
                    take(block)
                footer: dict[str, Any] = record.footer
                return footer
        except (
            FileNotFoundError,
            IsADirectoryError,
            DamagedRecordError,
            WorkdirError,
            ValueError,
            TypeError,
            KeyError,
        ):
            return None

    def discard(self, kind: str, index: int) -> None:
        """Remove a record."""
        self.folder.folder(kind).remove(record_name(index))

    def _header(self, kind: str, index: int, rows: tuple[int, int]) -> dict[str, Any]:
        return {"kind": kind, "fingerprint": self.fingerprint, "partition": index, "rows": list(rows)}


def record_name(index: int) -> str:
    """Return the file name of the record of partition `index`."""
    return f"{index:07d}.rec"


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return a short digest of a fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:32]
