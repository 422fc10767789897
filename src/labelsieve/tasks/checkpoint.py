"""Checkpoints: the records in which a run commits its row summaries, and what later passes add to them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.errors import WorkdirError
from labelsieve.storage.folders import Folder
from labelsieve.storage.record_files import Columns, DamagedRecordError, Record, RecordWriter

KINDS: Final = ("summaries", "rescan", "margins")
_NAME_BYTES: Final = 16
RECORD_FILE: Final = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})\.rec")


class _Unfinished(Exception):  # noqa: N818  # not an error: it keeps a file from being committed
    """The writer of a record was not finished."""


@dataclass(frozen=True)
class Records:
    """The records of a run: one file for each partition and kind. It pickles without the data.

    A record is named by digests of everything that its content depends on. Nothing in it depends on the number of the
    partition or on the numbers of its rows, so a later run finds it wherever these rows are then.

    Parameters
    ----------
    folder : Folder
        The workdir.
    names : bytes
        16 bytes for each partition: a digest of what its record depends on, except `versions`.
    versions : bytes
        16 bytes for each partition: the identity of its labels, or of the thresholds and the whole input.
    """

    folder: Folder
    names: bytes
    versions: bytes

    def name(self, index: int) -> str:
        """Return the file name of the record of partition `index`."""
        digits = slice(_NAME_BYTES * index, _NAME_BYTES * (index + 1))
        return record_file(self.names[digits].hex(), self.versions[digits].hex())

    @property
    def n_partitions(self) -> int:
        """Number of partitions."""
        return len(self.names) // _NAME_BYTES

    def of_version(self, facts: Any) -> Records:
        """Return the records that depend on the whole input, and on `facts`."""
        version = digest([self.names.hex(), self.versions.hex(), facts])
        return replace(self, versions=bytes.fromhex(version) * self.n_partitions)

    def present(self, kind: str) -> list[int]:
        """Return the partitions that have a record, which may be damaged."""
        files = set(self.folder.folder(kind).names())
        return [index for index in range(self.n_partitions) if self.name(index) in files]

    def open(self, kind: str, index: int) -> Record:
        """Open an existing record.

        Raises
        ------
        FileNotFoundError
            If there is no such record.
        WorkdirError
            If it is another record, under the name of this one.
        """
        record = Record(self.folder.folder(kind), self.name(index))
        if (record.header.get("kind"), record.header.get("name")) != (kind, self.name(index)):
            record.close()
            raise WorkdirError(f"{record.where} is another record: it was renamed or copied")
        return record

    @contextmanager
    def reading(self, kind: str, index: int) -> Iterator[Record]:
        """Open a committed record, and close it when the block ends.

        Raises
        ------
        DamagedRecordError
            If it is missing or damaged. A damaged block is found when it is read.
        WorkdirError
            If it is another record, under the name of this one.
        """
        try:
            with self.open(kind, index) as record:
                yield record
        except (FileNotFoundError, IsADirectoryError) as error:
            raise DamagedRecordError(str(error)) from error

    def summaries(self, index: int, start: int, stop: int) -> Iterator[SummaryBlock]:
        """Yield the summaries of rows ``[start, stop)`` of partition `index`, a block at a time."""
        with self.reading("summaries", index) as record:
            for block in record.blocks(start, stop):
                columns: dict[str, Any] = dict(block)
                yield SummaryBlock(**columns)

    def is_committed(self, index: int, n_rows: int, *, kind: str) -> bool:
        """Return whether there is a record of `n_rows` rows and all its checksums match."""
        return self.committed(kind, index, n_rows) is not None

    @contextmanager
    def create(self, kind: str, index: int) -> Iterator[RecordWriter]:
        """Yield the writer of a record, which is committed when the block ends if `finish` was called."""
        header = {"kind": kind, "name": self.name(index)}
        with suppress(_Unfinished), self.folder.folder(kind).create(self.name(index)) as file:
            writer = RecordWriter(file, header)
            yield writer
            if not writer.finished:
                raise _Unfinished

    def committed(
        self, kind: str, index: int, n_rows: int, take: Callable[[Columns], object] = lambda _: None
    ) -> dict[str, Any] | None:
        """Check a record and return its footer; None if it is missing, damaged or another one.

        `take` is called with each block once its checksum matches, including the blocks before a damaged one.
        """
        try:
            with self.open(kind, index) as record:
                if record.n_rows != n_rows:
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


def record_file(name: str, version: str) -> str:
    """Return the file name of the record with a name and a version, both of hexadecimal digits."""
    return f"{name}-{version}.rec"


def digest(facts: Any) -> str:
    """Return a short digest of JSON values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[: 2 * _NAME_BYTES]
