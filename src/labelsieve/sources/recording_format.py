"""Folders in which recorders keep row summaries: their files, and the rows of a part.

A folder has ``recorder.json``, with what all parts have in common, and a folder for each part. A part is a chain of
*segments*, ``000000.rec``, ``000001.rec`` and so on: record files (`labelsieve.storage.record_files`) with the rows of
one flush in the order of their numbers, in blocks of 4,096. The footer has the number of the first row of each block.
A segment is created only if none has its name, so two writers of a part can never mix their rows. A part that
was closed has a file ``closed.json`` with the number of its segments.

Any range of rows is merged from the blocks of all segments that have some of them. Rows that were recorded more than
once are compared when they meet there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.errors import UnreadableDataError
from labelsieve.storage.folders import Folder
from labelsieve.storage.record_files import DamagedRecordError, Record, RecordLayout

FORMAT: Final = 1
SETTINGS: Final = "recorder.json"
CLOSED: Final = "closed.json"
BLOCK_ROWS: Final = 4096
# How rows got their numbers: they were given, or are positions in the order of the parts.
BY_NUMBER, BY_POSITION = "rows", "positions"
# Footers that are read at the same time: each may be a request or two.
_FOOTER_THREADS: Final = 16

_PART: Final = re.compile(r"part-(\d{5,})")
_SEGMENT: Final = re.compile(r"(\d{6,})\.rec")


def part_folder(folder: Folder, part: int) -> Folder:
    """Return the folder of a part."""
    return folder.folder(f"part-{part:05d}")


def part_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the parts among the names of a folder."""
    return sorted(int(found[1]) for found in map(_PART.fullmatch, names) if found)


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
        except (FileNotFoundError, NotADirectoryError):
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
    has_unlabelled : bool
        Whether some rows have no label: theirs is K.
    """

    part: int
    name: str
    layout: RecordLayout
    first_rows: Int64s
    base: int
    stop: int
    by: str
    n_updated: int
    has_unlabelled: bool

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
            unlabelled = bool(footer["has_unlabelled"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRecordError(f"{inner.where}/{segment_name(number)} lacks something") from error
        return cls(part, f"part-{part:05d}/{segment_name(number)}", layout, first_rows, *facts, unlabelled)


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
        raise torn(folder, part, error) from error


def torn(folder: Folder, part: int, error: Exception) -> UnreadableDataError:
    """Return the error for a part of which something is missing or damaged."""
    inner = part_folder(folder, part)
    return UnreadableDataError(
        f"part {part} of {folder.where} is torn: {error}. Delete {inner.where} and record the part again"
    )
