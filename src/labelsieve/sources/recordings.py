"""The rows of a recorder's folder as sources: merged from all parts, whatever the order in which they were recorded."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Int64s, class_dtype, label_dtype
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.recorded_summaries import recorded_columns
from labelsieve.confident_learning.top_classes import TOP_CLASSES, TOP_PROBS, TopClassCounter
from labelsieve.confident_learning.validation import Findings
from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.recording_format import (
    BLOCK_ROWS,
    BY_NUMBER,
    BY_POSITION,
    SETTINGS,
    RecorderSettings,
    Segment,
    part_numbers,
    read_part,
    torn,
)
from labelsieve.sources.shard_names import is_pattern
from labelsieve.sources.summaries import SummarySource
from labelsieve.storage.folders import Folder, open_folder
from labelsieve.storage.record_files import DamagedRecordError
from labelsieve.storage.urls import is_web

# Bytes of blocks that an open source holds, of all segments together. With many segments it is a block of each.
_HELD_BYTES: Final = 32_000_000
# Numbers of rows that are more than this, and of which at most one in as many was recorded, are taken for names.
_MOST_GAPS: Final = 1_000_000
_MOST_TIMES: Final = 10
# Bytes of rows that are merged at a time.
_MERGED_BYTES: Final = 16_000_000
# Rows whose ids are compared at a time.
_HASHED_ROWS: Final = 1 << 16
_REPEATED: Final = (
    "What is repeated must have the same label and the same probabilities: put the model into evaluation mode, and "
    "check that rows and ids are right"
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
    def open(cls, folder: Folder, settings: RecorderSettings) -> Recording:
        """Read the descriptions of all parts.

        Raises
        ------
        InvalidInputError
            If its parts do not fit each other, or have no rows.
        UnreadableDataError
            If a part was not closed, or not all of it is there.
        """
        parts = part_numbers(folder.names())
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
        wanted, n_stored = settings.n_rows, sum(segment.n_rows for segment in segments)
        if wanted is None and recording.n_rows > max(_MOST_GAPS, _MOST_TIMES * n_stored):
            raise InvalidInputError(
                f"{n_stored:,} rows were recorded in {folder.where}, with numbers up to {recording.n_rows - 1:,}: if "
                "these are names of rows, give them as ids=; otherwise give n_rows="
            )
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

    @cached_property
    def may_lack_labels(self) -> bool:
        """Whether rows may have no label: some were recorded without, or some numbers may never have come."""
        if any(segment.has_unlabelled for segment in self.segments):
            return True
        if self.by_position or self.settings.n_rows is not None:
            return False
        # Only of consecutive rows it is known which they are.
        ranges = sorted((segment.start, segment.stop) for segment in self.segments if "row" not in segment.dtypes)
        stop = 0
        for first, end in ranges:
            if first > stop:
                break
            stop = max(stop, end)
        return stop < self.n_rows

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
        """Return a digest of what changes with any row: the checksums of all blocks."""
        digest = hashlib.blake2b(digest_size=16)
        for segment in self.recording.segments:
            digest.update(f"{segment.name} {segment.base} {segment.n_rows}".encode())
            digest.update(segment.layout.checksums.astype("<u4").tobytes())
        return digest.hexdigest()

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

    joint_counter = TopClassCounter

    def prepared_for(self, rule: Filter) -> Source:
        """Return the same rows with the recorded columns that a filter needs, and no others.

        Raises
        ------
        InvalidInputError
            For a filter, or a score, that needs more of each row than was recorded.
        """
        settings = rule.settings
        if rule.n_reads == 1:
            return super().prepared_for(rule)
        name = f"filter_by={rule.name!r}" if rule.name else f"rule={settings.rule!r}"
        if rule.n_reads > 2 or settings.scores_need_rescan:
            what = f"adjust_pred_probs=True with method={settings.method!r}" if settings.scores_need_rescan else name
            raise InvalidInputError(
                f"{what} needs all probabilities of each row, which {self.where} does not hold: give labels and "
                "pred_probs, or use another filter or score"
            )
        if not self.recording.settings.classes_per_row:
            raise InvalidInputError(
                f"{name} needs more of each row than its summary: record with classes_per_row=10, say, which keeps "
                "the 10 largest probabilities, or use filter_by=None or filter_by='predicted_neq_given'"
            )
        return self.only(list(recorded_columns(settings, self.recorded).values()))

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # reads begin anywhere
        """Open for the second pass: structured rows with the largest probabilities and their classes."""
        classes, k = class_dtype(self.shape[1]), self.recording.settings.classes_per_row
        row_dtype = np.dtype([(TOP_CLASSES, classes, (k,)), (TOP_PROBS, self.dtype.newbyteorder("="), (k,))])
        return MergedRows(self.recording, row_dtype, stop)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # reads begin anywhere
        """Open for reading structured rows."""
        return MergedRows(self.recording, self.row_dtype, stop)


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

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # reads begin anywhere
        """Open for reading."""
        return _OneField(self, stop)


def open_recording(
    place: str | os.PathLike[str],
) -> tuple[RecordedColumn, RecordedRows, RecordedColumn | None] | None:
    """Return the labels, the row summaries and the ids of a recorder's folder, whose parts are closed.

    Parameters
    ----------
    place : path or URL
        The folder. If it is something else, the result is None.

    Raises
    ------
    InvalidInputError
        If the parts do not fit each other, or have no rows.
    UnreadableDataError
        If a part was not closed, or not all of it is there.
    """
    if is_web(os.fspath(place)) or is_pattern(os.fspath(place)):
        return None
    folder = open_folder(place, "summaries")
    settings = RecorderSettings.read(folder)
    if settings is None:
        return None
    recording = Recording.open(folder, settings)
    ignored = settings.n_classes if recording.may_lack_labels else None
    labels = RecordedColumn(recording, "label", label_dtype(settings.n_classes, ignored))
    labels.ignored = ignored
    ids = recording.id_dtype
    return labels, RecordedRows(recording), None if ids is None else RecordedColumn(recording, "id", ids)


def held_bytes(segments: Sequence[Segment]) -> int:
    """Return the most bytes of merged rows, and of blocks, that an open source holds of these segments."""
    blocks = sum(_blocks_at_once(one, segments) * BLOCK_ROWS * one.layout.row_bytes for one in segments)
    # While more rows are merged than before, those from before may be in use.
    return 2 * _MERGED_BYTES + blocks


def _blocks_at_once(segment: Segment, segments: Sequence[Segment]) -> int:
    """Return the number of blocks of a segment that are read at a time."""
    share = _HELD_BYTES // (max(1, len(segments)) * BLOCK_ROWS * segment.layout.row_bytes)
    return max(1, min(share, len(segment.first_rows)))


class _Cursor:
    """Reads the blocks of a segment in ascending order, and holds those that the next read may need."""

    def __init__(self, folder: Folder, segment: Segment, step: int) -> None:
        self.segment = segment
        self._folder, self._step = folder, step
        self._first, self._held = 0, list[dict[str, npt.NDArray[Any]]]()

    def rows(self, start: int, stop: int) -> Iterator[tuple[Int64s | slice, Mapping[str, npt.NDArray[Any]]]]:
        """Yield the rows among ``[start, stop)``: their positions from `start` on, and their columns."""
        for index in range(*self.segment.blocks_of(start, stop)):
            block, begin = self._block(index), int(self.segment.first_rows[index])
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

    def _block(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Return a block, read with those that follow it."""
        if not self._first <= index < self._first + len(self._held):
            self._first, self._held = index, []
            end = min(index + self._step, len(self.segment.first_rows))
            try:
                self._held = self.segment.layout.read(self._folder, self.segment.name, index, end)
            except DamagedRecordError as error:
                raise torn(self._folder, self.segment.part, error) from error
        return self._held[index - self._first]


class MergedRows(Rows):
    """Rows that are merged from all segments which have some of them.

    Ascending reads are merged some megabytes at a time: each merge looks into all segments.

    Parameters
    ----------
    recording : Recording
        What is read.
    row_dtype : dtype
        Dtype of the rows, with a field for each column.
    stop : int, optional
        Row before which the caller intends to stop.
    """

    def __init__(self, recording: Recording, row_dtype: np.dtype[Any], stop: int | None = None) -> None:
        self._row_shape, self._dtype = (), row_dtype
        self._buffer = self._empty(0)
        self._recording, self._stop = recording, recording.n_rows if stop is None else stop
        self._most_rows = _MERGED_BYTES // row_dtype.itemsize
        self._first, self._merged = 0, self._buffer
        self._cursors = [
            _Cursor(recording.folder, segment, _blocks_at_once(segment, recording.segments))
            for segment in recording.segments
        ]

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)`` as a structured array.

        Raises
        ------
        InvalidInputError
            For a row that was recorded twice with different values, or never although `n_rows` was given.
        UnreadableDataError
            For a file that was altered or removed.
        """
        end = self._first + len(self._merged)
        if not self._first <= start <= stop <= end:
            # Twice as many rows each time, and a whole number of reads.
            n, n_rows = min(2 * len(self._merged), self._most_rows) if start == end else 0, stop - start
            last = max(stop, min(start + n // max(1, n_rows) * n_rows, self._stop))
            self._first, self._merged = start, self._merge(start, last)
        return self._merged[start - self._first : stop - self._first]

    def _merge(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows by their numbers, of which those at `dropped` do not count."""
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
            if self._recording.settings.n_rows is not None:
                self._refuse_gaps(seen, start)
            # A row that was never recorded is one without a label.
            out[~seen] = np.zeros((), self._dtype)
            if "label" in (self._dtype.names or ()):
                out["label"][~seen] = self._recording.settings.n_classes
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
    def __init__(self, source: RecordedColumn, stop: int | None) -> None:
        super().__init__(source)
        self._rows = MergedRows(source.recording, source.row_dtype, stop)
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
