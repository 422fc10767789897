"""Folders in which recorders keep row summaries, and their rows as sources.

A folder has ``recorder.json``, with what all parts have in common, and a folder for each part. A part is a chain of
*segments*, ``000000.rec``, ``000001.rec`` and so on: record files (`labelsieve.storage.record_files`) with the rows of
one flush in the order of their numbers, in blocks of 4,096. The footer has the number of the first row of each block.
A segment is created only if there is none of its name, so two writers of a part can never mix their rows. A part that
was closed has a file ``closed.json`` with the number of its segments.

Any range of rows is merged from the blocks of all segments that have some of them. Rows that were recorded more than
once are compared when they meet there.
"""

from __future__ import annotations

import copy
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Int64s, class_dtype
from labelsieve.confident_learning.validation import Findings
from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.summaries import SummarySource
from labelsieve.storage.folders import Folder, open_folder
from labelsieve.storage.record_files import DamagedRecordError, Record, RecordLayout

FORMAT: Final = 1
SETTINGS: Final = "recorder.json"
CLOSED: Final = "closed.json"
BLOCK_ROWS: Final = 4096
# How rows got their numbers: they were given, or are positions in the order of the parts.
BY_NUMBER, BY_POSITION = "rows", "positions"
# Bytes of blocks that an open source holds, of all segments together. With many segments it is a block of each.
_HELD_BYTES: Final = 32_000_000
# Footers that are read at the same time: each may be a request or two.
_FOOTER_THREADS: Final = 16

# Rows whose ids are compared at a time.
_HASHED_ROWS: Final = 1 << 16
_REPEATED: Final = (
    "What is repeated must have the same label and the same probabilities: put the model into evaluation mode, and "
    "check that rows and ids are right"
)

_PART: Final = re.compile(r"part-(\d{5,})")
_SEGMENT: Final = re.compile(r"(\d{6,})\.rec")


def part_folder(folder: Folder, part: int) -> Folder:
    """Return the folder of a part."""
    return folder.folder(f"part-{part:05d}")


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{number:06d}.rec"


def segment_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the segments among the names of a folder."""
    return sorted(int(found[1]) for found in map(_SEGMENT.fullmatch, names) if found)


@dataclass(frozen=True)
class RecorderSettings:
    """What all parts of a folder have in common.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    from_logits : bool
        Whether the probabilities are those of logits.
    n_rows : int or None
        Number of rows of all parts together, where it was given.
    scores : tuple of str
        Columns that were computed from whole rows.
    classes_per_row : int
        Number of largest probabilities that are kept of each row.
    """

    n_classes: int
    from_logits: bool = False
    n_rows: int | None = None
    scores: tuple[str, ...] = ()
    classes_per_row: int = 0

    def to_json(self) -> bytes:
        """Return the content of ``recorder.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()

    @classmethod
    def read(cls, folder: Folder) -> RecorderSettings | None:
        """Return the settings of a folder; None if it has none.

        Raises
        ------
        UnreadableDataError
            If the file is not what a recorder writes.
        """
        try:
            content = folder.read(SETTINGS)
        except FileNotFoundError:
            return None
        try:
            facts = json.loads(content)
            written = facts.pop("format")
            settings = cls(**facts | {"scores": tuple(facts["scores"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UnreadableDataError(f"{folder.where}/{SETTINGS} is not what a recorder writes") from error
        if written != FORMAT:
            raise UnreadableDataError(f"{folder.where} has format {written} of recordings, this version reads {FORMAT}")
        return settings

    def differences(self, other: RecorderSettings) -> str:
        """Return in words what differs from `other`."""
        here, there = asdict(self), asdict(other)
        return ", ".join(f"{name}={here[name]!r}, not {there[name]!r}" for name in here if here[name] != there[name])


@dataclass(frozen=True)
class Segment:
    """A segment of a part, described so that any of its blocks can be read.

    Parameters
    ----------
    part : int
        Number of the part.
    name : str
        Path of the file in the folder of the recording.
    layout : RecordLayout
        Where its blocks are.
    first_rows : (n,) int64
        Number of the first row of each block.
    base : int
        What is added to the row numbers in the file.
    stop : int
        Row behind the last one.
    by : {"rows", "positions"}
        How the rows got their numbers.
    n_updated : int
        Number of rows that were given to `update`: more than are stored, if some were given twice.
    """

    part: int
    name: str
    layout: RecordLayout
    first_rows: Int64s
    base: int
    stop: int
    by: str
    n_updated: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.layout.rows.sum())

    @property
    def start(self) -> int:
        """Number of the first row."""
        return int(self.first_rows[0])

    @cached_property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """Native dtypes of the columns."""
        return {name: np.dtype(dtype).newbyteorder("=") for name, dtype in self.layout.columns}

    def moved(self, base: int) -> Segment:
        """Return the same rows, counted from `base`."""
        shift = base - self.base
        return replace(self, first_rows=self.first_rows + shift, base=base, stop=self.stop + shift)

    def blocks_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the blocks ``[first, end)`` that may have some of the rows ``[start, stop)``."""
        if start >= self.stop or stop <= self.start:
            return 0, 0
        first = max(0, int(np.searchsorted(self.first_rows, start, side="right")) - 1)
        return first, int(np.searchsorted(self.first_rows, stop, side="left"))

    def cut(self, start: int, stop: int) -> Segment | None:
        """Return the part of the description that is needed for rows ``[start, stop)``; None if there are none."""
        first, end = self.blocks_of(start, stop)
        if first >= end:
            return None
        # Blocks are found by the sizes of those before, so only the later ones are left out.
        layout = replace(self.layout, rows=self.layout.rows[:end], checksums=self.layout.checksums[:end])
        last = self.stop if end == len(self.first_rows) else int(self.first_rows[end])
        return replace(self, layout=layout, first_rows=self.first_rows[:end], stop=last)

    @classmethod
    def read(cls, folder: Folder, part: int, number: int) -> Segment:
        """Read the footer of a segment.

        Raises
        ------
        DamagedRecordError
            If the file is not a whole segment.
        """
        inner = part_folder(folder, part)
        with Record(inner, segment_name(number)) as record:
            header, footer, layout = record.header, record.footer, record.layout
        try:
            if (header["format"], header["part"], header["segment"]) != (FORMAT, part, number):
                raise DamagedRecordError(f"{inner.where}/{segment_name(number)} is a segment of another part")
            first_rows = np.array(footer["first_rows"], np.int64)
            facts = int(footer["base"]), int(footer["stop"]), str(footer["by"]), int(footer["n_updated"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRecordError(f"{inner.where}/{segment_name(number)} lacks something") from error
        return cls(part, f"part-{part:05d}/{segment_name(number)}", layout, first_rows, *facts)


def read_part(folder: Folder, part: int) -> list[Segment]:
    """Return the segments of a part that was closed.

    Raises
    ------
    UnreadableDataError
        If it was not closed, or not all of it is there.
    """
    inner, again = part_folder(folder, part), f"Recorder(..., part={part}, resume=True)"
    names = inner.names()
    numbers = segment_numbers(names)
    if CLOSED not in names:
        raise UnreadableDataError(
            f"part {part} of {folder.where} is open: its recorder is still at work or was killed. Close it; or go on "
            f"after its {len(numbers)} flushes, with {again}; or delete {inner.where} if its rows are not wanted"
        )
    try:
        n_segments = int(json.loads(inner.read(CLOSED))["segments"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableDataError(f"{inner.where}/{CLOSED} is not what a recorder writes") from error
    missing = sorted(set(range(n_segments)) - set(numbers))
    if missing:
        raise UnreadableDataError(
            f"part {part} of {folder.where} is torn: {inner.where}/{segment_name(missing[0])} is missing, one of "
            f"{len(missing)} of {n_segments} files. Delete {inner.where} and record the part again"
        )
    try:
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            return list(pool.map(lambda number: Segment.read(folder, part, number), range(n_segments)))
    except (DamagedRecordError, FileNotFoundError) as error:
        raise _torn(folder, part, error) from error


def _torn(folder: Folder, part: int, error: Exception) -> UnreadableDataError:
    inner = part_folder(folder, part)
    return UnreadableDataError(
        f"part {part} of {folder.where} is torn: {error}. Delete {inner.where} and record the part again"
    )


@dataclass(frozen=True)
class Recording:
    """All rows in a folder, whose parts are closed.

    Parameters
    ----------
    folder : Folder
        Where it is.
    settings : RecorderSettings
        What the parts have in common.
    segments : tuple of Segment
        All segments, with the numbers of their rows.
    dropped : (m,) int64
        Of rows that were recorded in order: the ascending positions of those whose id came before.
    """

    folder: Folder
    settings: RecorderSettings
    segments: tuple[Segment, ...]
    dropped: Int64s = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def open(cls, folder: Folder) -> Recording:
        """Read the descriptions of all parts.

        Raises
        ------
        InvalidInputError
            If the folder is no recording, or its parts do not fit each other.
        UnreadableDataError
            If a part was not closed, or not all of it is there.
        """
        settings = RecorderSettings.read(folder)
        if settings is None:
            raise InvalidInputError(f"{folder.where} is not a folder of a recorder: it has no {SETTINGS}")
        parts = sorted(int(found[1]) for found in map(_PART.fullmatch, folder.names()) if found)
        segments = [segment for part in parts for segment in read_part(folder, part)]
        if not segments:
            raise InvalidInputError(f"{folder.where} has no rows: nothing was recorded")
        ways = {segment.by: segment.part for segment in segments}
        if len(ways) > 1:
            raise InvalidInputError(
                f"part {ways[BY_NUMBER]} of {folder.where} was recorded with row numbers, part {ways[BY_POSITION]} "
                "without: give rows= in all parts or in none"
            )
        if BY_POSITION in ways:
            segments = _in_order(folder, parts, segments)
        recording = cls(folder, settings, tuple(segments))
        if recording.by_position and recording.id_dtype is not None:
            recording = replace(recording, dropped=repeated_ids(recording))
        wanted = settings.n_rows
        if recording.by_position and wanted not in (None, recording.n_rows):
            raise InvalidInputError(f"{recording.n_rows:,} rows were recorded in {folder.where}, n_rows is {wanted:,}")
        return recording

    @property
    def by_position(self) -> bool:
        """Whether rows are numbered in the order of the parts."""
        return self.segments[0].by == BY_POSITION

    @property
    def n_rows(self) -> int:
        """Number of rows: of all that were recorded, or of all up to the largest number."""
        if self.by_position:
            return sum(segment.n_rows for segment in self.segments) - len(self.dropped)
        return self.settings.n_rows or max(segment.stop for segment in self.segments)

    def cut(self, start: int, stop: int) -> Recording:
        """Return the description of the segments with some of the rows ``[start, stop)``, which keep their numbers."""
        first, end = position_of(self.dropped, start), position_of(self.dropped, stop - 1) + 1
        return replace(self, segments=tuple(c for c in (s.cut(first, end) for s in self.segments) if c))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the probabilities: the widest of all segments, which holds all values exactly."""
        dtypes = {segment.dtypes["p_label"] for segment in self.segments}
        return np.result_type(*dtypes)

    @property
    def id_dtype(self) -> np.dtype[Any] | None:
        """Dtype of the ids; None if there are none."""
        dtypes = [segment.dtypes.get("id") for segment in self.segments]
        if any(dtype is None for dtype in dtypes):
            return None
        kinds = {dtype.kind for dtype in dtypes if dtype is not None}
        if len(kinds) > 1:
            raise InvalidInputError(f"some ids in {self.folder.where} are integers, others strings")
        return np.result_type(*(dtype for dtype in dtypes if dtype is not None))


def _in_order(folder: Folder, parts: Sequence[int], segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments with positions in the order of the parts."""
    missing = sorted(set(range(parts[0], parts[-1])) - set(parts))
    if missing:
        raise InvalidInputError(
            f"{folder.where} has parts {parts[0]} to {parts[-1]} but no part {missing[0]}; without rows= the parts are "
            "joined in order, so none may be missing"
        )
    moved, row = [], 0
    for segment in segments:
        moved.append(segment.moved(row))
        row += segment.n_rows
    return moved


class _Recorded(Source):
    """What the columns of a recording have in common, besides how they are shown.

    Attributes
    ----------
    recording : Recording
        Where the rows are.
    row_dtype : dtype
        Dtype of the rows that are merged, with a field for each column.
    """

    in_pieces = True
    recording: Recording
    row_dtype: np.dtype[Any]

    @property
    def where(self) -> str:
        """Path or URL of the folder."""
        return self.recording.folder.where

    def identity(self) -> dict[str, Any]:
        """Return the identity, with what was recorded."""
        return super().identity() | {"recorder": asdict(self.recording.settings), "fields": str(self.row_dtype)}

    def _content(self) -> Any:
        """Return what changes with any row: the checksums of all blocks."""
        segments = self.recording.segments
        checksums = [zlib.crc32(segment.layout.checksums.tobytes()) for segment in segments]
        return [[s.name, s.base, s.n_rows, c] for s, c in zip(segments, checksums, strict=True)]

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that describes only the segments with some of these rows."""
        part = copy.copy(self)
        part.recording = self.recording.cut(start, stop)
        return part, 0

    def reachable(self) -> None:
        """Raise unless this process can read the folder."""
        if RecorderSettings.read(self.recording.folder) is None:
            raise UnreadableDataError(f"{self.where} has no {SETTINGS} for this process")


class RecordedRows(_Recorded, SummarySource):
    """The row summaries of a recording.

    Parameters
    ----------
    recording : Recording
        Where the rows are.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording, settings = recording, recording.settings
        super().__init__(recording.n_rows, settings.n_classes, recording.dtype, settings.scores)
        self.prefetch_bytes = held_bytes(recording.segments)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # blocks are read as they come
        """Open for reading structured rows."""
        return MergedRows(self.recording, self.row_dtype)


class RecordedColumn(_Recorded):
    """The labels, or the ids, of a recording.

    Parameters
    ----------
    recording : Recording
        Where the rows are.
    name : str
        ``label`` or ``id``.
    stored : dtype
        Dtype of the column in the files; the source shows strings as text.
    """

    def __init__(self, recording: Recording, name: str, stored: np.dtype[Any]) -> None:
        dtype = np.dtype(f"U{stored.itemsize}") if stored.kind == "S" else stored
        super().__init__((recording.n_rows,), dtype)
        self.recording, self.row_dtype = recording, np.dtype([(name, stored)])
        self.prefetch_bytes = held_bytes(recording.segments)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # blocks are read as they come
        """Open for reading."""
        return _OneField(self)


def open_recording(place: str | os.PathLike[str]) -> tuple[RecordedColumn, RecordedRows, RecordedColumn | None]:
    """Return the labels, the row summaries and the ids of a recorder's folder, whose parts are closed.

    Parameters
    ----------
    place : path or URL
        The folder.

    Raises
    ------
    InvalidInputError
        If the folder is no recording, or its parts do not fit each other.
    UnreadableDataError
        If a part was not closed, or not all of it is there.
    """
    recording = Recording.open(open_folder(place, "summaries"))
    labels = RecordedColumn(recording, "label", class_dtype(recording.settings.n_classes))
    ids = recording.id_dtype
    return labels, RecordedRows(recording), None if ids is None else RecordedColumn(recording, "id", ids)


def is_recording(place: str | os.PathLike[str]) -> bool:
    """Return whether a path or URL is the folder of a recorder."""
    try:
        return RecorderSettings.read(open_folder(place, "summaries")) is not None
    except (InvalidInputError, NotADirectoryError):
        return False


def held_bytes(segments: Sequence[Segment]) -> int:
    """Return the most bytes of blocks that an open source holds of these segments."""
    return sum(2 * _blocks_at_once(segment, segments) * BLOCK_ROWS * segment.layout.row_bytes for segment in segments)


def _blocks_at_once(segment: Segment, segments: Sequence[Segment]) -> int:
    """Return the number of blocks of a segment that are read at a time."""
    share = _HELD_BYTES // (2 * max(1, len(segments)) * BLOCK_ROWS * segment.layout.row_bytes)
    return max(1, min(share, len(segment.first_rows)))


class _Cursor:
    """Reads the blocks of a segment in ascending order, and holds those that the next read may need."""

    def __init__(self, folder: Folder, segment: Segment, step: int) -> None:
        self.segment = segment
        self._folder, self._step = folder, step
        self._first, self._held = 0, list[dict[str, npt.NDArray[Any]]]()

    def rows(self, start: int, stop: int) -> Iterator[tuple[Int64s | slice, Mapping[str, npt.NDArray[Any]]]]:
        """Yield the rows among ``[start, stop)``: their positions from `start` on, and their columns."""
        first, end = self.segment.blocks_of(start, stop)
        self._hold(first, end)
        for index in range(first, end):
            block, begin = self._held[index - self._first], int(self.segment.first_rows[index])
            numbers = block.get("row")
            if numbers is None:
                a, b = max(start - begin, 0), min(stop - begin, int(self.segment.layout.rows[index]))
                where: Int64s | slice = slice(begin + a - start, begin + b - start)
            else:
                rows = numbers.astype(np.int64) + (self.segment.base - start)
                a, b = np.searchsorted(rows, [0, stop - start]).tolist()
                where = rows[a:b]
            if a < b:
                yield where, {name: column[a:b] for name, column in block.items()}

    def _hold(self, first: int, end: int) -> None:
        if first >= end:
            return
        last = self._first + len(self._held)
        if not self._first <= first < last:
            self._first, self._held, last = first, [], first
        del self._held[: first - self._first]
        self._first = first
        if end > last:
            end = min(max(end, last + self._step), len(self.segment.first_rows))
            try:
                self._held += self.segment.layout.read(self._folder, self.segment.name, last, end)
            except DamagedRecordError as error:
                raise _torn(self._folder, self.segment.part, error) from error


class MergedRows(Rows):
    """Rows that are merged from all segments which have some of them.

    Parameters
    ----------
    recording : Recording
        What is read.
    row_dtype : dtype
        Dtype of the rows, with a field for each column.
    """

    def __init__(self, recording: Recording, row_dtype: np.dtype[Any]) -> None:
        self._row_shape, self._dtype = (), row_dtype
        self._buffer = self._empty(0)
        self._recording = recording
        self._cursors = [
            _Cursor(recording.folder, segment, _blocks_at_once(segment, recording.segments))
            for segment in recording.segments
        ]

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)`` as a structured array.

        Raises
        ------
        InvalidInputError
            For a row that was recorded twice with different values, or never.
        UnreadableDataError
            For a file that was altered or removed.
        """
        dropped = self._recording.dropped
        if not len(dropped) or stop <= start:
            return self.read_stored(start, stop)
        first, end = position_of(dropped, start), position_of(dropped, stop - 1) + 1
        a, b = np.searchsorted(dropped, [first, end]).tolist()
        return np.delete(self.read_stored(first, end), dropped[a:b] - first)

    def read_stored(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows by their numbers in the files."""
        out, seen = self._reused(stop - start), np.zeros(stop - start, np.bool_)
        for cursor in self._cursors:
            for where, columns in cursor.rows(start, stop):
                if seen[where].any():
                    self._compare(out, seen, where, columns, cursor.segment, start)
                seen[where] = True
                for name in self._dtype.names or ():
                    shown = out[name]
                    shown[where] = _field_of(columns[name], shown)
        if not seen.all():
            self._refuse_gaps(seen, start)
        return out

    def _compare(
        self,
        out: npt.NDArray[Any],
        seen: Bools,
        where: Int64s | slice,
        columns: Mapping[str, npt.NDArray[Any]],
        segment: Segment,
        start: int,
    ) -> None:
        """Raise if rows that are there already have other values here."""
        again = np.flatnonzero(seen[where])
        positions = np.arange(len(seen))[where][again]
        for name in self._dtype.names or ():
            shown = out[name]
            old, new = shown[positions], _field_of(columns[name], shown)[again].astype(shown.dtype)
            differs = np.flatnonzero((old != new).reshape(len(again), -1).any(axis=1))
            if not len(differs):
                continue
            row = start + int(positions[differs[0]])
            before = self._first_part_with(row)
            others = f", and {len(differs) - 1:,} more rows near it" if len(differs) > 1 else ""
            raise InvalidInputError(
                f"row {row:,} was recorded twice in {self._recording.folder.where} with different values: {name} is "
                f"{old[differs[0]]} in part {before} and {new[differs[0]]} in part {segment.part}{others}. "
                f"{_REPEATED}"
            ).at([(row, row + 1)])

    def _first_part_with(self, row: int) -> int:
        """Return the first part that has a row."""
        having = (c.segment.part for c in self._cursors if any(True for _ in c.rows(row, row + 1)))
        return next(having)

    def _refuse_gaps(self, seen: Bools, start: int) -> None:
        gaps = Findings()
        gaps.add("gap", np.flatnonzero(~seen), start)
        [finding] = gaps.values()
        raise InvalidInputError(
            f"{finding.n_rows:,} rows were not recorded in {self._recording.folder.where}: {finding.where()} of "
            f"{self._recording.n_rows:,}"
        ).at(finding.ranges)


class _OneField(Rows):
    def __init__(self, source: RecordedColumn) -> None:
        super().__init__(source)
        self._rows = MergedRows(source.recording, source.row_dtype)
        [self._name] = source.row_dtype.names or ()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._rows.read(start, stop)[self._name]
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else np.ascontiguousarray(values)


def _field_of(column: npt.NDArray[Any], shown: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column as a field takes it: several values of a row are stored as one item."""
    if column.dtype.kind != "V":
        return column
    width = shown.shape[1]
    return column.view(f"<{shown.dtype.kind}{column.itemsize // width}").reshape(len(column), width)


def position_of(dropped: Int64s, row: int) -> int:
    """Return the position of a row among all that were recorded, of which those at `dropped` do not count."""
    return row + int(np.searchsorted(dropped - np.arange(len(dropped)), row, side="right"))


def repeated_ids(recording: Recording) -> Int64s:
    """Return the ascending positions of rows whose id came before, with the same values.

    Takes 16 bytes for each row.

    Raises
    ------
    InvalidInputError
        For an id with different values. The message names it, both parts and the values.
    """
    stored = recording.id_dtype
    if stored is None:
        raise RuntimeError("this recording has ids")
    n_rows, rows = recording.n_rows, MergedRows(recording, np.dtype([("id", stored)]))
    hashes = np.empty(n_rows, np.uint64)
    for start in range(0, n_rows, _HASHED_ROWS):
        stop = min(start + _HASHED_ROWS, n_rows)
        hashes[start:stop] = _hashes(rows.read(start, stop)["id"])
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    whole = MergedRows(recording, np.dtype([("id", stored), ("label", np.int64), *_fields(RecordedRows(recording))]))
    seen, found = dict[Any, tuple[int, Any]](), []
    for position in np.unique(order[np.concatenate((same, same + 1))]).tolist():
        row = whole.read(position, position + 1)[0].copy()
        before, values = seen.setdefault(row["id"].item(), (position, row))
        if before == position:
            continue
        if values.tobytes() != row.tobytes():
            name = next(name for name in row.dtype.names if row[name].tobytes() != values[name].tobytes())
            parts = [next(s.part for s in recording.segments if s.start <= p < s.stop) for p in (before, position)]
            shown = row["id"].decode() if isinstance(row["id"], bytes) else row["id"]
            raise InvalidInputError(
                f"the id {shown!r} was recorded twice in {recording.folder.where} with different values: {name} is "
                f"{values[name]} in part {parts[0]} and {row[name]} in part {parts[1]}. {_REPEATED}"
            )
        found.append(position)
    return np.array(found, np.int64)


def _fields(rows: RecordedRows) -> list[Any]:
    return [(name, rows.row_dtype[name]) for name in rows.row_dtype.names or ()]


def _hashes(ids: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return a number for each id: the same for the same ids, and rarely for others."""
    if ids.dtype.kind != "S":
        return ids.astype(np.uint64)
    width = -(-ids.dtype.itemsize // 8)
    words = ids.astype(f"S{8 * width}").view("<u8").reshape(len(ids), width)
    total = np.zeros(len(ids), np.uint64)
    for place in range(width):
        mixed = words[:, place] * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        total = (total + mixed) * np.uint64(0xBF58476D1CE4E5B9)
        total ^= total >> np.uint64(32)
    return total
