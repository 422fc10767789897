"""Writes one part of a recorder's folder, segment by segment (`labelsieve.sources.recording_format`)."""

from __future__ import annotations

import io
import json
import uuid
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InUseError, InvalidInputError, WorkdirError
from labelsieve.sources.batches import BatchColumns
from labelsieve.sources.recording_format import (
    BLOCK_ROWS,
    BY_NUMBER,
    BY_POSITION,
    CLOSED,
    FORMAT,
    SETTINGS,
    RecorderSettings,
    Segment,
    part_folder,
    segment_name,
    segment_numbers,
)
from labelsieve.storage.folders import Folder, OutputFile
from labelsieve.storage.lock import own_folder
from labelsieve.storage.record_files import DamagedRecordError, RecordWriter


class PartWriter:
    """Writes the rows of one part, as its only writer, until `release`.

    Parameters
    ----------
    folder : Folder
        The folder of all parts; begun if it is new.
    part : int
        Number of the part.
    settings : RecorderSettings
        What all parts have in common.
    flush_rows : int
        Number of rows that are collected in memory before they are written.
    resume : bool
        Whether to go on with a part that exists.

    Attributes
    ----------
    where : str
        The part, for messages.
    n_committed : int
        Number of rows that were added and are written.

    Raises
    ------
    InvalidInputError
        If the folder was begun with other settings, or the part exists and is not to be resumed.
    InUseError
        If another writer has the part.
    WorkdirError
        If the part is damaged.
    """

    def __init__(self, folder: Folder, part: int, settings: RecorderSettings, flush_rows: int, *, resume: bool) -> None:
        self._folder, self._part, self._settings, self._flush_rows = folder, part, settings, flush_rows
        self._inner, self._owner = part_folder(folder, part), uuid.uuid4().hex
        self.where = f"part {part} of {folder.where}"
        self._by: str | None = None
        self._has_ids = False
        self.n_committed = self._n_segments = 0
        self._buffer: _Buffer | None = None
        self._join()
        with ExitStack() as stack:
            self._check_owned = stack.enter_context(own_folder(self._inner, self.where))
            self._begin(resume=resume)
            self._stack = stack.pop_all()

    @property
    def n_given(self) -> int:
        """Number of rows that were added."""
        return self.n_committed + (0 if self._buffer is None else self._buffer.n_rows)

    def _join(self) -> None:
        """Begin the folder, or compare its settings."""
        found = RecorderSettings.read(self._folder)
        if found is None:
            try:
                self._folder.write_new(SETTINGS, self._settings.to_json())
            except FileExistsError:  # another part was faster
                found = RecorderSettings.read(self._folder)
        if found is not None and found != self._settings:
            raise InvalidInputError(
                f"part {self._part} has {self._settings.differences(found)} as {self._folder.where} was begun: all "
                "parts need the same settings"
            )

    def _begin(self, *, resume: bool) -> None:
        """Find what is there of this part."""
        names, again = self._inner.names(), f"Delete {self._inner.where}, and record it again"
        numbers = segment_numbers(names)
        if not resume and (numbers or CLOSED in names):
            raise InvalidInputError(
                f"{self.where} exists, with {len(numbers)} flushes: give resume=True to go on with it, another part, "
                f"or delete {self._inner.where}"
            )
        for name in names:
            if name.startswith("."):  # left by a process that was killed
                self._inner.remove(name)
        if numbers != list(range(len(numbers))):
            raise WorkdirError(f"{self.where} lacks some of its files. {again}")
        for number in numbers:
            try:
                segment = Segment.read(self._folder, self._part, number)
            except (DamagedRecordError, FileNotFoundError) as error:
                raise WorkdirError(f"{self.where} cannot go on: {error}. {again}") from error
            self.n_committed += segment.n_updated
            self._by, self._has_ids = segment.by, "id" in segment.dtypes
        self._n_segments = len(numbers)
        if CLOSED in names:
            self._inner.remove(CLOSED)

    def check_kind(self, *, has_rows: bool, has_ids: bool) -> None:
        """Raise unless all batches of the part number and name their rows in the same way."""
        if self._by is not None and (self._by == BY_NUMBER) != has_rows:
            raise InvalidInputError(f"earlier batches were given {'without' if has_rows else 'with'} rows=")
        if self._by is not None and self._has_ids != has_ids:
            raise InvalidInputError(f"earlier batches were given {'without' if has_ids else 'with'} ids=")

    def add(self, columns: BatchColumns) -> None:
        """Add a batch, and write the rows that were collected if there are enough; if that fails, it is not added.

        Parameters
        ----------
        columns : dict
            ``(n,)`` columns; ``row`` of rows with numbers, and ``id`` of rows with ids.
        """
        self._by, self._has_ids = BY_NUMBER if "row" in columns else BY_POSITION, "id" in columns
        if self._buffer is not None and not self._buffer.fits(columns):
            self.flush()
            self._buffer = None
        if self._buffer is None:
            self._buffer = _Buffer(columns, max(self._flush_rows, len(columns["label"])))
        before = self._buffer.n_rows
        self._buffer.add(columns)
        if self._buffer.n_rows < self._flush_rows:
            return
        try:
            self.flush()
        except BaseException:
            self._buffer.n_rows = before  # so that the same batch can be added again
            raise

    def flush(self) -> None:
        """Write the rows that were collected as the next segment.

        Raises
        ------
        InvalidInputError
            If a row was added twice with different values since the last flush.
        InUseError
            If another writer took over.
        UnwritableError
            If they cannot be written. They stay in memory then.
        """
        if self._buffer is None or not self._buffer.n_rows:
            return
        self._check_owned()
        n_updated, columns = self._buffer.n_rows, self._buffer.columns()
        base, stop, first_rows = 0, n_updated, np.arange(0, n_updated, BLOCK_ROWS)
        if self._by == BY_NUMBER:
            columns = self._sorted(columns)
            numbers = columns.pop("row")
            base, stop, first_rows = int(numbers[0]), int(numbers[-1]) + 1, numbers[::BLOCK_ROWS]
            if stop - base > len(numbers):  # they are not consecutive
                numbers = numbers - base
                columns["row"] = numbers.astype(np.uint32) if stop - base <= 1 << 32 else numbers
        n_rows, content = len(columns["label"]), io.BytesIO()
        header = {"format": FORMAT, "part": self._part, "segment": self._n_segments, "owner": self._owner}
        writer = RecordWriter(OutputFile(content, self.where), header)
        for start in range(0, n_rows, BLOCK_ROWS):
            writer.add({name: column[start : start + BLOCK_ROWS] for name, column in columns.items()})
        footer = {"by": self._by, "base": base, "stop": stop, "first_rows": first_rows.tolist(), "n_updated": n_updated}
        writer.finish(footer | {"has_unlabelled": bool((columns["label"] == self._settings.n_classes).any())})
        try:
            self._inner.write_new(segment_name(self._n_segments), content.getbuffer())
        except FileExistsError:
            raise InUseError(
                f"{self.where} is written by another recorder, which has made flush {self._n_segments}: only one "
                "recorder may write a part; give each process its own"
            ) from None
        self._n_segments += 1
        self.n_committed += n_updated
        self._buffer.n_rows = 0

    def _sorted(self, columns: BatchColumns) -> BatchColumns:
        """Return the columns in the order of their row numbers, each row once."""
        rows = columns["row"]
        if bool((np.diff(rows) > 0).all()):
            return columns
        order = np.argsort(rows, kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        again = np.flatnonzero(np.diff(columns["row"]) == 0)
        for name, column in columns.items() if len(again) else ():
            differs = again[column[again] != column[again + 1]]
            if len(differs):
                row, at = int(columns["row"][differs[0]]), int(differs[0])
                others = f", and {len(differs) - 1:,} other rows too" if len(differs) > 1 else ""
                raise InvalidInputError(
                    f"{self.where}: row {row:,} was given twice with different values: {name} is {column[at]} and "
                    f"{column[at + 1]}{others}. Repeated rows must have the same label and the same probabilities"
                ).at([(row, row + 1)])
        once = np.ones(len(rows), np.bool_)
        once[again + 1] = False
        return {name: column[once] for name, column in columns.items()} if len(again) else columns

    def close(self) -> None:
        """Write all rows, and that there are no more."""
        self.flush()
        self._check_owned()
        facts = {"segments": self._n_segments, "rows": self.n_committed}
        self._inner.write(CLOSED, json.dumps(facts).encode())

    def release(self) -> None:
        """Let others write the part."""
        self._stack.close()


class _Buffer:
    """Columns of rows that are not written yet.

    Parameters
    ----------
    columns : dict
        The first batch, for names and dtypes.
    capacity : int
        Number of rows.
    """

    def __init__(self, columns: BatchColumns, capacity: int) -> None:
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.empty(capacity, column.dtype) for name, column in columns.items()
        }
        self._capacity, self.n_rows = capacity, 0

    def fits(self, columns: BatchColumns) -> bool:
        """Return whether a batch can be added: there is room, and its dtypes are the same."""
        same = (
            column.dtype == self._columns[name].dtype or column.dtype.kind == self._columns[name].dtype.kind == "S"
            for name, column in columns.items()
        )
        return self.n_rows + len(columns["label"]) <= self._capacity and all(same)

    def add(self, columns: BatchColumns) -> None:
        """Append a batch."""
        stop = self.n_rows + len(columns["label"])
        for name, column in columns.items():
            if column.dtype.itemsize > self._columns[name].dtype.itemsize:  # longer strings
                self._columns[name] = self._columns[name].astype(column.dtype)
            self._columns[name][self.n_rows : stop] = column
        self.n_rows = stop

    def columns(self) -> BatchColumns:
        """Return all rows, as views."""
        return {name: column[: self.n_rows] for name, column in self._columns.items()}
