"""The folder in which a run keeps what it has done, so that a killed run goes on.

Covers: `Workdir`: whose it is, what it was made from, one owner at a time; and `Records`, the committed summaries in
it, in the form that travels to the tasks.
Does not cover: the file that describes it (`descriptions`), the bytes of a record (`records`), locks and leases
(`ownership`), what identifies an input (`sources`).

A workdir holds ``labelsieve.json`` (what it was made from, and the grid), ``summaries`` (a record a partition) and,
while a run lasts, what the later steps write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from labelsieve import descriptions
from labelsieve.descriptions import Description, read_description
from labelsieve.errors import TaskFailedError, WorkdirError
from labelsieve.grids import Grid
from labelsieve.kernels import RowSummary
from labelsieve.ownership import owned
from labelsieve.records import Columns, Record, RecordWriter, TornRecordError
from labelsieve.storage import Folder, LocalFolder, open_folder

_RECORDS: Final = ("summaries", "rereads", "margins")
# "scores" is of format 1.
_OWN_NAMES: Final = (*_RECORDS, "runs", "result", "scores")


def summary_of(columns: Columns) -> RowSummary:
    """Return what the columns of a record's block stand for."""
    found: dict[str, Any] = {"row_values": None, **columns}
    return RowSummary(**found)


@dataclass(frozen=True)
class StoredSummary:
    """Row summaries that are in a record.

    Parameters
    ----------
    records : Records
        The workdir's records.
    index : int
        The partition.
    """

    records: Records
    index: int

    def blocks(self, start: int, stop: int) -> Iterator[RowSummary]:
        """Yield the summaries of rows ``[start, stop)`` of the partition, a block at a time."""
        with self.records.reading("summaries", self.index) as record:
            for columns in record.blocks(start, stop):
                yield summary_of(columns)


class DamagedRecordError(TaskFailedError):
    """A record that was committed and is damaged by now, or gone: its partition has to be done again."""


class _Unfinished(Exception):  # noqa: N818  # no error: it keeps a file from being committed
    """A record that was not finished."""


@dataclass(frozen=True)
class Records:
    """The records of a run, a file a partition and kind; a description.

    Parameters
    ----------
    folder : Folder
        The workdir.
    fingerprint : str
        Digest of what the run was made from: a record of another run is none.
    """

    folder: Folder
    fingerprint: str

    def open(self, kind: str, index: int) -> Record:
        """Open a record that is there.

        Raises
        ------
        FileNotFoundError
            If there is none.
        WorkdirError
            If it is of another run.
        """
        record = Record(self.folder.folder(kind), _name(index))
        header = record.header
        if (header.get("kind"), header.get("fingerprint"), header.get("partition")) != (kind, self.fingerprint, index):
            record.close()
            raise WorkdirError(f"{record.where} is of another run: a later one has started over in this workdir")
        return record

    @contextmanager
    def reading(self, kind: str, index: int) -> Iterator[Record]:
        """Give a record that was committed.

        Raises
        ------
        DamagedRecordError
            If it is damaged, or gone; also while it is read.
        WorkdirError
            If it is of another run.
        """
        try:
            with self.open(kind, index) as record:
                yield record
        except (FileNotFoundError, IsADirectoryError, TornRecordError) as error:
            raise DamagedRecordError(str(error)) from error

    def is_committed(self, index: int, start: int, stop: int, *, kind: str) -> bool:
        """Tell whether there is a record of rows ``[start, stop)`` whose every checksum holds."""
        return self.committed(kind, index, (start, stop)) is not None

    @contextmanager
    def create(self, kind: str, index: int, rows: tuple[int, int]) -> Iterator[RecordWriter]:
        """Give the writer of a record, which is committed as the block ends, if its `finish` was called."""
        with suppress(_Unfinished), self.folder.folder(kind).create(_name(index)) as file:
            writer = RecordWriter(file, self._header(kind, index, rows))
            yield writer
            if not writer.finished:
                raise _Unfinished

    def committed(
        self, kind: str, index: int, rows: tuple[int, int], take: Callable[[Columns], object] = lambda _: None
    ) -> dict[str, Any] | None:
        """Return the footer of a record whose every checksum holds; None if there is none, or it is torn or alien.

        Its blocks are handed to `take` as they are checked, those before a torn one too.
        """
        try:
            with self.open(kind, index) as record:
                if record.header != self._header(kind, index, rows) or record.n_rows != rows[1] - rows[0]:
                    return None
                for block in record.blocks():
                    take(block)
                footer: dict[str, Any] = record.footer
                return footer
        except (FileNotFoundError, IsADirectoryError, TornRecordError, WorkdirError, ValueError, TypeError, KeyError):
            return None

    def discard(self, kind: str, index: int) -> None:
        """Remove a record."""
        self.folder.folder(kind).remove(_name(index))

    def _header(self, kind: str, index: int, rows: tuple[int, int]) -> dict[str, Any]:
        return {"kind": kind, "fingerprint": self.fingerprint, "partition": index, "rows": list(rows)}


def _name(index: int) -> str:
    return f"{index:07d}.rec"


class Workdir:
    """A folder or URL prefix that belongs to one input with one choice of settings.

    Parameters
    ----------
    folder : Folder
        Where it is.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.check_owned: Callable[[], None] = lambda: None
        self._before: Description | None = None  # what the run that goes on was made from
        self._fresh = False
        # The partitions of which there were records when the run began, by kind.
        self.finished: dict[str, list[int]] = {}

    @classmethod
    @contextmanager
    def owned(cls, location: Any, *, fresh: bool, wait: float = 0) -> Iterator[Workdir]:
        """Open the workdir at a path or URL, as its only owner until the block ends.

        Parameters
        ----------
        location : path or URL
            A folder that is empty, missing, or a workdir.
        fresh : bool
            Whether to forget what is in it.
        wait : float
            Seconds to wait while another run owns it.

        Raises
        ------
        WorkdirError
            If it holds something else, or another run owns it.
        """
        folder = open_folder(location, "workdir")
        _refuse_alien(folder)
        with owned(folder, f"the workdir {folder.where}", wait) as check:
            workdir = cls(folder)
            workdir.check_owned, workdir._fresh = check, fresh
            workdir._before = None if fresh else read_description(folder)
            yield workdir

    @classmethod
    def seen(cls, location: Any, *, fresh: bool) -> Workdir:
        """Look at the workdir at a path or URL, without owning it; `fresh` as in `owned`.

        Raises
        ------
        WorkdirError
            If something else is there.
        """
        folder = open_folder(location, "workdir")
        _refuse_alien(folder)
        workdir = cls(folder)
        workdir._before = None if fresh else read_description(folder)
        return workdir

    def empty(self) -> None:
        """Remove what runs have left in it."""
        for name in (*_OWN_NAMES, descriptions.NAME):  # the description last: without it the folder is not ours
            self.folder.remove(name)

    def grid(self, fingerprint: Mapping[str, Any], n_rows: int) -> Grid | None:
        """Return the grid of the run that is to go on; None if there is none.

        Parameters
        ----------
        fingerprint : mapping
            Facts that identify the input and the settings of this run.
        n_rows : int
            Rows of the input.

        Raises
        ------
        WorkdirError
            If that run had another input or other settings; the message names what differs.
        """
        if self._before is None:
            return None
        differences = list(_differences(self._before.fingerprint, json.loads(json.dumps(fingerprint))))
        grid = self._before.grid
        if not differences and grid.n_rows != n_rows:
            differences = [f"grid.n_rows was {grid.n_rows:,}, and the input has {n_rows:,} rows"]
        if differences:
            raise WorkdirError(
                f"the workdir {self.folder.where} is of another run: {'; '.join(differences)}. "
                "Name another folder, or start over in this one with fresh=True (--fresh)"
            )
        return grid

    def begin(self, fingerprint: Mapping[str, Any], grid: Grid, part_identities: Sequence[str]) -> Records:
        """Note what the run is made from, and return its records, without those whose part of the input has changed.

        Only now, when the run is known to be possible, what a fresh one is to forget goes.
        """
        if self._fresh:
            self.empty()
        names = {kind: _remove_unfinished(self.folder.folder(kind)) for kind in _RECORDS}
        records = Records(self.folder, digest(fingerprint))
        before = self._before.parts if self._before else ()
        for index, (then, now) in enumerate(zip(before, part_identities, strict=False)):
            if then != now:
                names["summaries"].discard(_name(index))
                names["rereads"].discard(_name(index))
                records.discard("summaries", index)
                records.discard("rereads", index)
                records.discard("margins", 0)  # one for all partitions
        description = Description(fingerprint, grid, tuple(part_identities))
        if self._before is None or self._before.fields() != description.fields():  # a run that goes on leaves it alone
            description.write(self.folder)
        self._before = description
        for kind, found in names.items():
            self.finished[kind] = [index for index in range(grid.n_partitions) if _name(index) in found]
        return records


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return a short name of a fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:32]


def _remove_unfinished(folder: Folder) -> set[str]:
    """Remove what a killed run was writing, and return the names of all else."""
    names = set(folder.names())
    for name in [name for name in names if name.startswith(".")]:
        folder.remove(name)
        names.remove(name)
    return names


def _refuse_alien(folder: Folder) -> None:
    """Raise for a folder that holds something, but no workdir: nothing of others is ever written to."""
    if isinstance(folder, LocalFolder) and folder.path.exists() and not folder.path.is_dir():
        raise WorkdirError(f"the workdir {folder.where} is a file")
    # A run that is killed at its very first write leaves the lock and a part of the description.
    first = ("lock", "lease.json")
    names = [name for name in folder.names() if name not in first and not name.startswith(f".{descriptions.NAME}.")]
    if names and descriptions.NAME not in names:
        raise WorkdirError(f"the workdir {folder.where} is not empty, and no workdir of Labelsieve")


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Name what differs between two fingerprints, leaf by leaf; of an input elsewhere only that."""
    if isinstance(then, dict) and isinstance(now, dict):
        elsewhere = "where" in then and then["where"] != now.get("where")
        for key in ["where"] if elsewhere else sorted(then.keys() | now.keys()):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then}, is {now}"
