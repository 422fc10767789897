"""Folders in which recorders keep row summaries: their files, and the rows of a part; and tables of row summaries.

A folder has ``recorder.json``, with what all parts have in common, and a folder for each part. A part is a chain of
*segments*, ``000000.rec``, ``000001.rec`` and so on: record files (`labelsieve.storage.checked`) with the rows of
one flush in the order of their numbers, in blocks of 4,096. The footer has the number of the first row of each block.
A segment is created only if none has its name, so two writers of a part can never mix their rows. A part that
was closed has a file ``closed.json`` with the number of its segments.

Any range of rows is merged from the blocks of all segments that have some of them. Rows that were recorded more than
once are compared when they meet there.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import MAX_RANGES, Findings, RowChecks, errors_in, rows_in_words
from labelsieve.confident_learning.derived import LogitSummarizer
from labelsieve.confident_learning.joint import TOP_CLASSES, TOP_PROBS, TopClassCounter
from labelsieve.confident_learning.scores import confidence_weighted_entropy, logit_margin, normalized_margin, row_sum
from labelsieve.confident_learning.summarize import FIELDS, MAX_STRIP_ROWS, RECORDABLE, STRIP_BYTES, Summarizer
from labelsieve.confident_learning.thresholds import Floats, Int64s, Ints, SummaryBlock, class_dtype, label_dtype
from labelsieve.errors import InUseError, InvalidInputError, MemoryLimitError, UnreadableDataError, WorkdirError
from labelsieve.options import NOTHING, IgnoreLabel, check_whole_number
from labelsieve.sources.open import ArraySource
from labelsieve.sources.places import is_pattern
from labelsieve.sources.source import ReadFacts, Rows, Source
from labelsieve.sources.tables import (
    ColumnSummaries,
    SummarySource,
    check_columns,
    is_places,
    open_table,
    summary_columns,
)
from labelsieve.storage.checked import DamagedRecordError, Record, RecordLayout, RecordWriter
from labelsieve.storage.folder import Folder, OutputFile, open_folder, own_folder
from labelsieve.storage.remote import check_place, is_web

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
# Bytes of blocks that an open source holds, of all segments together. With many segments it is a block of each.
_HELD_BYTES: Final = 32_000_000
# Numbers of rows that are more than this, and of which at most one in as many was recorded, are taken for names.
_MOST_GAPS: Final = 1_000_000
_MOST_TIMES: Final = 10
# Bytes of rows that are merged at a time, and rows of one column that are read at a time.
_MERGED_BYTES: Final = 16_000_000
_ROWS_AT_A_TIME: Final = 1 << 15
_SHOWN_IDS: Final = 5
_REPEATED: Final = (
    "What is repeated must have the same label and the same probabilities: put the model into evaluation mode, and "
    "check that rows and ids are right"
)
# Columns of a table: the label, and the user's numbers and names of its rows.
LABEL, ROW, ID = "label", "row", "id"
_COLUMNS: Final = (LABEL, *FIELDS, *RECORDABLE, ROW, ID)
# Copies of all columns while they are put in order.
_COPIES: Final = 2

BatchColumns = dict[str, npt.NDArray[Any]]

# Columns that are computed from whole rows, by the name of the method that needs them.
SCORES: Final[dict[str, Callable[[Floats, Ints], npt.NDArray[np.float64]]]] = {
    "normalized_margin": normalized_margin,
    "confidence_weighted_entropy": confidence_weighted_entropy,
    "logit_margin": logit_margin,
    "row_sum": row_sum,
}


def part_folder(folder: Folder, part: int) -> Folder:
    """Return the folder of a part."""
    return folder.folder(f"part-{part:05d}")


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{number:06d}.rec"


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> list[int]:
    return sorted(int(found[1]) for found in map(pattern.fullmatch, names) if found)


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

    @classmethod
    def read(cls, folder: Folder) -> RecorderSettings | None:
        """Return the settings of a folder; None if it has none."""
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

    @cached_property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """Native dtypes of the columns."""
        return {name: np.dtype(dtype).newbyteorder("=") for name, dtype in self.layout.columns}

    def blocks_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the blocks ``[first, end)`` that may have some of the rows ``[start, stop)``."""
        if start >= self.stop or stop <= self.first_rows[0]:
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
        """Read the footer of a segment; raises `DamagedRecordError` if the file is not a whole segment."""
        inner, name = part_folder(folder, part), segment_name(number)
        with Record(inner, name) as record:
            header, footer, layout = record.header, record.footer, record.layout
        try:
            if (header["format"], header["part"], header["segment"]) != (FORMAT, part, number):
                raise DamagedRecordError(f"{inner.where}/{name} is a segment of another part")
            facts = [footer[name] for name in ("base", "stop", "by", "n_updated", "has_unlabelled")]
            first_rows = np.array(footer["first_rows"], np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRecordError(f"{inner.where}/{name} lacks something") from error
        return cls(part, f"part-{part:05d}/{name}", layout, first_rows, *facts)


def _read_part(folder: Folder, part: int) -> list[Segment]:
    """Return the segments of a part, which must be closed and whole."""
    inner = part_folder(folder, part)
    names = inner.names()
    numbers = _numbers(_SEGMENT, names)
    if CLOSED not in names:
        raise UnreadableDataError(
            f"part {part} of {folder.where} is open: its recorder is still at work or was killed. Close it; or go on "
            f"after its {len(numbers)} flushes, with Recorder(..., part={part}, resume=True); or delete {inner.where} "
            "if its rows are not wanted"
        )
    try:
        n_segments = int(json.loads(inner.read(CLOSED))["segments"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableDataError(f"{inner.where}/{CLOSED} is not what a recorder writes") from error
    missing = sorted(set(range(n_segments)) - set(numbers))
    if missing:
        what = f"{segment_name(missing[0])} is missing, one of {len(missing)} of {n_segments} files"
        raise _torn(folder, part, f"{inner.where}/{what}")
    try:
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            return list(pool.map(partial(Segment.read, folder, part), range(n_segments)))
    except (DamagedRecordError, FileNotFoundError) as error:
        raise _torn(folder, part, error) from error


def _torn(folder: Folder, part: int, why: object) -> UnreadableDataError:
    """Return the error for a part of which something is missing or damaged."""
    again = f"Delete {part_folder(folder, part).where} and record the part again"
    return UnreadableDataError(f"part {part} of {folder.where} is torn: {why}. {again}")


class BatchSummarizer:
    """Summarizes batches, with scratch arrays that are made once.

    Parameters
    ----------
    settings : RecorderSettings
        Number of classes, and what to compute.
    checks : RowChecks
        Which rows are accepted although they cannot be a distribution.
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    def __init__(self, settings: RecorderSettings, checks: RowChecks, ignored: int | None = None) -> None:
        self._settings, self._checks, self._ignored = settings, checks, ignored
        self._summarizer: Summarizer | None = None
        self._summarizer_rows = 0

    def columns(self, labels: Ints, probs: Any, findings: Findings) -> BatchColumns:
        """Return the columns of a batch of at least one row; without the scores if something is wrong with it.

        Parameters
        ----------
        labels : (n,) int
            Labels, in the processor's memory.
        probs : (n, K) ndarray or Bfloat16Rows
            Probabilities or logits.
        findings : Findings
            Bad or suspicious values are added to it, by their position in the batch.
        """
        dtype = probs.dtype.newbyteorder("=")
        step = max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // (self._settings.n_classes * dtype.itemsize)))
        summarizer = self._summarizer_of(min(step, len(labels)), dtype)
        parts: list[BatchColumns] = []
        for start in range(0, len(labels), step):
            summarizer.restart()
            strip, given = probs[start : start + step], labels[start : start + step]
            parts.append(self._columns_of(summarizer, given, strip))
            found = summarizer.findings
            rename_rows(found, np.arange(start, start + len(given)))
            findings.extend(found)
        # Strips with errors have no scores.
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if all(name in p for p in parts)}

    def _columns_of(self, summarizer: Summarizer, labels: Ints, strip: Floats) -> BatchColumns:
        block: SummaryBlock = summarizer.add(labels, strip)
        columns: BatchColumns = {name: column.copy() for name, column in block.columns().items()}
        settings = self._settings
        if errors_in(summarizer.findings, self._checks) or not (settings.scores or settings.classes_per_row):
            return columns
        whole, given = np.ascontiguousarray(summarizer.probabilities(strip)), labels.astype(np.intp, copy=False)
        unlabelled = np.flatnonzero(block.label == settings.n_classes)
        if len(unlabelled):  # theirs may be anything
            whole, given = whole.copy(), given.copy()
            whole[unlabelled], given[unlabelled] = 0, 0
            whole[unlabelled, 0] = 1
        columns |= {name: SCORES[name](whole, given) for name in settings.scores}
        if settings.classes_per_row:
            columns |= _largest(whole, settings.classes_per_row, block.predicted.dtype)
        return columns

    def _summarizer_of(self, n_rows: int, dtype: np.dtype[Any]) -> Summarizer:
        """Return a summarizer for strips of `n_rows` rows, the same one as long as it is large enough."""
        dtype = np.dtype(np.float64) if self._settings.from_logits else dtype
        if self._summarizer is None or self._summarizer.dtype != dtype or self._summarizer_rows < n_rows:
            kind = LogitSummarizer if self._settings.from_logits else Summarizer
            self._summarizer = kind(n_rows, self._settings.n_classes, dtype, ignored=self._ignored)
            self._summarizer_rows = n_rows
        return self._summarizer


def rename_rows(findings: Findings, numbers: npt.NDArray[Any]) -> None:
    """Replace positions in `numbers` by what is there, in the rows of findings."""
    for kind, finding in list(findings.items()):
        places = np.concatenate([np.arange(start, stop) for start, stop in finding.ranges])
        renamed = Findings()
        renamed.add(kind, np.unique(numbers[places]), 0)
        more = finding.more or renamed[kind].more
        finding.ranges, finding.more = renamed[kind].ranges[:MAX_RANGES], more


def _largest(probs: Floats, k: int, classes: np.dtype[Any]) -> BatchColumns:
    """Return the `k` largest probabilities of each row, in descending order, and their classes, as one item a row."""
    n, n_classes = probs.shape
    found = np.argpartition(probs, n_classes - k, axis=1)[:, n_classes - k :]
    values = np.take_along_axis(probs, found, axis=1)
    order = np.lexsort((found, -values.astype(np.float64)), axis=1)
    found, values = np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
    columns = {TOP_PROBS: values, TOP_CLASSES: found.astype(classes)}
    little = {name: np.ascontiguousarray(one, one.dtype.newbyteorder("<")) for name, one in columns.items()}
    return {name: one.view(f"V{k * one.itemsize}").reshape(n) for name, one in little.items()}


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
    n_committed, n_held : int
        Number of rows that were added and are written, and of those that are not written yet.

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
        self.n_committed = self.n_held = self._n_segments = 0
        self._held: BatchColumns = {}
        self._join()
        with ExitStack() as stack:
            self._check_owned = stack.enter_context(own_folder(self._inner, self.where))
            self._begin(resume=resume)
            self.release = stack.pop_all().close

    def _join(self) -> None:
        """Begin the folder, or compare its settings."""
        found, here = RecorderSettings.read(self._folder), asdict(self._settings)
        if found is None:
            try:
                self._folder.write_new(SETTINGS, json.dumps({"format": FORMAT, **here}, sort_keys=True).encode())
            except FileExistsError:  # another part was faster
                found = RecorderSettings.read(self._folder)
        if found is not None and found != self._settings:
            there = asdict(found)
            differing = ", ".join(f"{k}={here[k]!r}, not {there[k]!r}" for k in here if here[k] != there[k])
            raise InvalidInputError(
                f"part {self._part} has {differing} as {self._folder.where} was begun: all parts need the same settings"
            )

    def _begin(self, *, resume: bool) -> None:
        """Find what is there of this part."""
        names, again = self._inner.names(), f"Delete {self._inner.where}, and record it again"
        numbers = _numbers(_SEGMENT, names)
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
        n, dtypes = len(columns["label"]), {name: column.dtype for name, column in columns.items()}
        fits = self._held and self.n_held + n <= len(self._held["label"])
        if not fits or any(self._held[k].dtype != one and one.kind != "S" for k, one in dtypes.items()):
            self.flush()
            capacity = max(self._flush_rows, n)
            self._held = {name: np.empty(capacity, dtype) for name, dtype in dtypes.items()}
        before, self.n_held = self.n_held, self.n_held + n
        for name, column in columns.items():
            if column.dtype.itemsize > self._held[name].dtype.itemsize:  # longer strings
                self._held[name] = self._held[name].astype(column.dtype)
            self._held[name][before : self.n_held] = column
        if self.n_held >= self._flush_rows:
            try:
                self.flush()
            except BaseException:
                self.n_held = before  # so that the same batch can be added again
                raise

    def flush(self) -> None:
        """Write the rows that were collected as the next segment; if that fails, they stay in memory."""
        if not self.n_held:
            return
        self._check_owned()
        n_updated, columns = self.n_held, {name: column[: self.n_held] for name, column in self._held.items()}
        base, stop, first_rows = 0, n_updated, np.arange(0, n_updated, BLOCK_ROWS)
        if self._by == BY_NUMBER:
            columns = self._sorted(columns)
            numbers = columns.pop("row")
            base, stop, first_rows = int(numbers[0]), int(numbers[-1]) + 1, numbers[::BLOCK_ROWS]
            if stop - base > len(numbers):  # they are not consecutive
                numbers = numbers - base
                columns["row"] = numbers.astype(np.uint32) if stop - base <= 1 << 32 else numbers
        content = io.BytesIO()
        header = {"format": FORMAT, "part": self._part, "segment": self._n_segments, "owner": self._owner}
        writer = RecordWriter(OutputFile(content, self.where), header)
        for start in range(0, len(columns["label"]), BLOCK_ROWS):
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
        self.n_held = 0

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
        return {name: np.delete(column, again + 1) for name, column in columns.items()} if len(again) else columns

    def close(self) -> None:
        """Write all rows, and that there are no more."""
        self.flush()
        self._check_owned()
        facts = {"segments": self._n_segments, "rows": self.n_committed}
        self._inner.write(CLOSED, json.dumps(facts).encode())


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
    n_rows : int
        Number of rows: of all that were recorded, or of all up to the largest number.
    """

    folder: Folder
    settings: RecorderSettings
    segments: tuple[Segment, ...]
    n_rows: int

    @classmethod
    def open(cls, folder: Folder, settings: RecorderSettings) -> Recording:
        """Read the descriptions of all parts, which must be closed and fit each other."""
        parts = _numbers(_PART, folder.names())
        segments = [segment for part in parts for segment in _read_part(folder, part)]
        if not segments:
            raise InvalidInputError(f"{folder.where} has no rows: nothing was recorded")
        ways = {segment.by: segment.part for segment in segments}
        if len(ways) > 1:
            raise InvalidInputError(
                f"part {ways[BY_NUMBER]} of {folder.where} was recorded with row numbers, part {ways[BY_POSITION]} "
                "without: give rows= in all parts or in none"
            )
        wanted, n_stored = settings.n_rows, sum(segment.n_rows for segment in segments)
        if BY_POSITION in ways:
            segments = _in_order(folder, parts, segments)
            if wanted not in (None, n_stored):
                raise InvalidInputError(f"{n_stored:,} rows were recorded in {folder.where}, n_rows is {wanted:,}")
        n_rows = wanted or max(segment.stop for segment in segments)
        if wanted is None and n_rows > max(_MOST_GAPS, _MOST_TIMES * n_stored):
            raise InvalidInputError(
                f"{n_stored:,} rows were recorded in {folder.where}, with numbers up to {n_rows - 1:,}: if "
                "these are names of rows, give them as ids=; otherwise give n_rows="
            )
        return cls(folder, settings, tuple(segments), n_rows)

    def may_lack_labels(self) -> bool:
        """Return whether rows may have no label: some were recorded without, or some numbers may never have come."""
        if any(segment.has_unlabelled for segment in self.segments):
            return True
        # Only of consecutive rows it is known which they are.
        known = [one for one in self.segments if "row" not in one.dtypes]
        stop = 0
        for first, end in sorted((int(segment.first_rows[0]), segment.stop) for segment in known):
            if first > stop:
                break
            stop = max(stop, end)
        return self.settings.n_rows is None and stop < self.n_rows

    def dtype(self, column: str) -> np.dtype[Any] | None:
        """Return the dtype of a column, the widest of all segments, which holds all values exactly; None if lacking."""
        dtypes = [segment.dtypes[column] for segment in self.segments if column in segment.dtypes]
        if len(dtypes) < len(self.segments):
            return None
        if len({dtype.kind for dtype in dtypes}) > 1:
            raise InvalidInputError(f"some ids in {self.folder.where} are integers, others strings")
        return np.result_type(*dtypes)


def _in_order(folder: Folder, parts: Sequence[int], segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments with positions in the order of the parts."""
    missing = sorted(set(range(parts[0], parts[-1])) - set(parts))
    if missing:
        raise InvalidInputError(
            f"{folder.where} has parts {parts[0]} to {parts[-1]} but no part {missing[0]}; without rows= the parts are "
            "joined in order, so none may be missing"
        )
    moved, row = [], 0
    for one in segments:
        shift = row - one.base
        moved.append(replace(one, first_rows=one.first_rows + shift, base=row, stop=one.stop + shift))
        row += one.n_rows
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
        """Return a source that describes only the segments with some of these rows, which keep their numbers."""
        part = copy.copy(self)
        segments = (segment.cut(start, stop) for segment in self.recording.segments)
        part.recording = replace(self.recording, segments=tuple(one for one in segments if one))
        return part, 0

    def reachable(self) -> None:
        """Raise unless this process can read the folder."""
        if RecorderSettings.read(self.recording.folder) is None:
            raise UnreadableDataError(f"{self.where} has no {SETTINGS} for this process")


class RecordedRows(_Recorded, SummarySource):
    """The row summaries of a recording, whose probabilities have the dtype `dtype`."""

    joint_counter = TopClassCounter

    def __init__(self, recording: Recording, dtype: np.dtype[Any]) -> None:
        self.recording, settings = recording, recording.settings
        facts = ReadFacts(prefetch_bytes=_held_bytes(recording.segments))
        super().__init__(recording.n_rows, settings.n_classes, dtype, settings.scores, facts)
        self.serves_two_reads = settings.classes_per_row > 0
        if not self.serves_two_reads:
            self.how_to_serve = ", or for other filters record the largest probabilities, with classes_per_row=10, say"

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
        super().__init__((recording.n_rows,), dtype, ReadFacts(prefetch_bytes=_held_bytes(recording.segments)))
        self.recording, self.row_dtype = recording, np.dtype([(name, stored)])

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # reads begin anywhere
        """Open for reading."""
        return _OneField(self, stop)


def open_recording(place: str | os.PathLike[str]) -> tuple[RecordedColumn, RecordedRows, RecordedColumn | None] | None:
    """Return the labels, the row summaries and the ids of a recorder's folder, whose parts are closed.

    Parameters
    ----------
    place : path or URL
        The folder. If it is something else, the result is None.

    Raises
    ------
    InvalidInputError
        If the parts do not fit each other, have no rows, or have an id twice without row numbers.
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
    stored, names = recording.dtype("p_label"), recording.dtype(ID)
    if stored is None:
        raise UnreadableDataError(f"{folder.where} has files without probabilities")
    if names is not None and recording.segments[0].by == BY_POSITION:
        _refuse_repeated_ids(recording, names)
    ignored = settings.n_classes if recording.may_lack_labels() else None
    labels = RecordedColumn(recording, LABEL, label_dtype(settings.n_classes, ignored))
    labels.ignored = ignored
    return labels, RecordedRows(recording, stored), None if names is None else RecordedColumn(recording, ID, names)


def _refuse_repeated_ids(recording: Recording, stored: np.dtype[Any]) -> None:
    """Raise if an id came more than once. Takes 16 bytes for each row."""

    def read() -> Iterator[tuple[int, npt.NDArray[Any]]]:
        rows = MergedRows(recording, np.dtype([(ID, stored)]))
        for start in range(0, recording.n_rows, _ROWS_AT_A_TIME):
            yield start, rows.read(start, min(start + _ROWS_AT_A_TIME, recording.n_rows))[ID]

    hashes = np.empty(recording.n_rows, np.int64)
    for start, ids in read():
        hashes[start : start + len(ids)] = ids if stored.kind != "S" else list(map(hash, ids.tolist()))
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return
    counts = Counter[Any]()
    for start, ids in read():
        counts.update(ids[np.isin(hashes[start : start + len(ids)], again)].tolist())
    twice = [name.decode() if isinstance(name, bytes) else name for name, n in counts.items() if n > 1]
    if twice:
        some = ", ".join(map(repr, twice[:_SHOWN_IDS])) + (", ..." if len(twice) > _SHOWN_IDS else "")
        raise InvalidInputError(
            f"{rows_in_words(len(twice), 'id was', 'ids were')} recorded more than once in {recording.folder.where}: "
            f"{some}. Record each row once, or give rows= too, by which a row that is repeated counts once"
        )


def _held_bytes(segments: Sequence[Segment]) -> int:
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
                raise _torn(self._folder, self.segment.part, error) from error
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
        """Return rows from the blocks of all segments."""
        out, seen, names = self._reused(stop - start), np.zeros(stop - start, np.bool_), self._dtype.names or ()
        for cursor in self._cursors:
            for where, columns in cursor.rows(start, stop):
                if seen[where].any():
                    again = np.flatnonzero(seen[where])
                    self._compare(out, np.arange(len(seen))[where][again], columns, again, cursor.segment.part, start)
                seen[where] = True
                for name in names:
                    out[name][where] = _field_of(columns[name], out[name])
        if not seen.all():
            if self._recording.settings.n_rows is not None:
                gaps = Findings()
                gaps.add("gap", np.flatnonzero(~seen), start)
                [finding] = gaps.values()
                raise InvalidInputError(
                    f"{finding.n_rows:,} rows were not recorded in {self._recording.folder.where}: {finding.where()} "
                    f"of {self._recording.n_rows:,}"
                ).at(finding.ranges)
            # A row that was never recorded is one without a label.
            out[~seen] = np.zeros((), self._dtype)
            if LABEL in names:
                out[LABEL][~seen] = self._recording.settings.n_classes
        return out

    def _compare(
        self,
        out: npt.NDArray[Any],
        positions: Int64s,
        columns: Mapping[str, npt.NDArray[Any]],
        again: Int64s,
        part: int,
        start: int,
    ) -> None:
        """Raise if rows `positions`, which are there already, have other values in the rows `again` of a part."""
        for name in self._dtype.names or ():
            shown = out[name]
            old, new = shown[positions], _field_of(columns[name], shown)[again].astype(shown.dtype)
            differs = np.flatnonzero((old != new).reshape(len(again), -1).any(axis=1))
            if not len(differs):
                continue
            row = start + int(positions[differs[0]])
            before = next(c.segment.part for c in self._cursors if any(True for _ in c.rows(row, row + 1)))
            others = f", and {len(differs) - 1:,} more rows near it" if len(differs) > 1 else ""
            raise InvalidInputError(
                f"row {row:,} was recorded twice in {self._recording.folder.where} with different values: {name} is "
                f"{old[differs[0]]} in part {before} and {new[differs[0]]} in part {part}{others}. "
                f"{_REPEATED}"
            ).at([(row, row + 1)])


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


@dataclass(frozen=True)
class SummaryTable:
    """Row summaries in place of `labels` and `pred_probs`, for `labelsieve.find_label_issues`.

    Parameters
    ----------
    labels : (N,) array or Source
        Labels, as `labelsieve.find_label_issues` takes them.
    pred_probs : SummarySource
        The other columns.
    ids : (N,) array or Source, optional
        The user's own names of the rows.
    """

    labels: Any
    pred_probs: SummarySource
    ids: Any = None


def open_summaries(
    summaries: Any, n_classes: int | None = None, ignore_label: IgnoreLabel = NOTHING, room: float = math.inf
) -> SummaryTable:
    """Open row summaries; of files only headers are read.

    Parameters
    ----------
    summaries : table, path, URL or SummaryTable
        A table in memory with the columns `label`, `predicted`, `p_label` and `p_predicted`: a dict of arrays, or a
        table of pandas, Polars, Arrow or DuckDB. Or Parquet or Arrow files: a path, a URL, a folder, a pattern, or a
        list of them. Or the folder of a `labelsieve.Recorder`.
    n_classes : int, optional
        Number of classes K, which a table does not say.
    ignore_label : int, str or None, optional
        The label that stands for none.
    room : float
        Bytes of memory that rows may take that have to be put in order.

    Raises
    ------
    InvalidInputError
        For anything that cannot be row summaries. The message says what is wrong, and where.
    MemoryLimitError
        For files whose rows are not in order, and are too many to be put in order in memory.
    InputTypeError
        For an object of the wrong kind.
    """
    if n_classes is not None:
        n_classes = check_whole_number("n_classes", n_classes, 2)
    if isinstance(summaries, SummaryTable):
        known = summaries.pred_probs.shape[1]
        if n_classes not in (None, known):
            raise InvalidInputError(f"n_classes is {n_classes}, and the summaries are of {known} classes")
        return summaries
    if isinstance(summaries, str | os.PathLike):
        recorded = open_recording(check_place("summaries", summaries))
        if recorded is not None:
            where, known = recorded[1].where, recorded[1].shape[1]
            if n_classes not in (None, known):
                raise InvalidInputError(f"n_classes is {n_classes}, and {where} was recorded with {known:,}")
            if ignore_label is not NOTHING:
                raise InvalidInputError(f"ignore_label is for the recorder: {where} knows which rows have no label")
            return SummaryTable(*recorded)
    if is_places(summaries):
        return _open_files(summaries, n_classes, ignore_label, room)
    columns, where = summary_columns(
        summaries, _COLUMNS, (LABEL, *FIELDS), may_miss=LABEL if ignore_label is None else ""
    )
    return table_of_columns(columns, n_classes, where, ignore_label)


def _open_files(places: Any, n_classes: int | None, ignore_label: IgnoreLabel, room: float) -> SummaryTable:
    """Open the files of a table. If they have row numbers that are not in order, they are read into memory."""
    table = open_table(places, "summaries")
    check_columns((LABEL, *FIELDS), table.names, table.where)
    names = [name for name in _COLUMNS if name in table.names]
    columns = {name: table.source(name, name, with_nulls=name == LABEL and ignore_label is None) for name in names}
    n_classes = _checked(n_classes, {name: column.dtype for name, column in columns.items()})
    if ROW in columns and not _is_in_order(columns[ROW]):
        n_bytes = _COPIES * sum(column.n_rows * column.row_bytes for column in columns.values())
        if n_bytes > room:
            raise MemoryLimitError(
                f"the rows of {table.where} are not in the order of their numbers. To put them in order would take "
                f"{n_bytes / 1e6:,.0f} MB, and {room / 1e6:,.0f} MB are free: store them in order (ORDER BY row)"
            )
        read = {name: column[:] for name, column in columns.items()}
        return table_of_columns(read, n_classes, table.where, ignore_label)
    columns.pop(ROW, None)
    labels, ids = columns.pop(LABEL), columns.pop(ID, None)
    return SummaryTable(labels, ColumnSummaries(columns, n_classes, table.where), ids)


def _is_in_order(rows: Source) -> bool:
    """Return whether row numbers are 0..N-1. They are read some at a time, until one is not."""
    with rows.open(0, rows.n_rows) as opened:
        for start in range(0, rows.n_rows, _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, rows.n_rows)
            if not np.array_equal(opened.read(start, stop), np.arange(start, stop)):
                return False
    return True


def table_of_columns(
    columns: BatchColumns, n_classes: int | None, where: str, ignore_label: IgnoreLabel = NOTHING
) -> SummaryTable:
    """Return columns in memory as a table, with its rows in order. Rows that are not there have no label.

    Parameters
    ----------
    columns : dict of str to (N,) array
        The columns, of the same length.
    n_classes : int
        Number of classes K.
    where : str
        What the table is, for messages.
    ignore_label : int, str or None, optional
        The label that stands for none.
    """
    n_classes = _checked(n_classes, {name: column.dtype for name, column in columns.items()})
    columns = dict(columns)
    rows, labels = columns.pop(ROW, None), columns.pop(LABEL)
    n_rows = 0 if rows is None else _n_rows_of(rows)
    ignored: int | None = None
    if rows is not None and n_rows:
        # The user's own value, and missing ones, are looked for anyway.
        is_known = isinstance(ignore_label, int) or labels.dtype.kind not in "iu"
        labels, value = _placed_labels(labels, rows, n_rows, ignore_label)
        ignored = None if is_known or n_rows == len(rows) else value
        for name, column in columns.items():  # rows without a value have 0, or an empty name
            placed = np.full(n_rows, "", object) if column.dtype == object else np.zeros(n_rows, column.dtype)
            placed[rows] = column
            columns[name] = placed
    ids = columns.pop(ID, None)
    given: Any = labels
    if ignored is not None:
        given = ArraySource(labels)
        given.ignored = ignored
    sources: dict[str, Source] = {name: ArraySource(column) for name, column in columns.items()}
    return SummaryTable(given, ColumnSummaries(sources, n_classes, where), ids)


def _placed_labels(
    labels: npt.NDArray[Any], rows: Ints, n_rows: int, ignore_label: IgnoreLabel
) -> tuple[npt.NDArray[Any], int]:
    """Return the labels of all rows, and the value of those that have none: `ignore_label`, or one that no row has."""
    value = -1
    if n_rows == len(rows):
        placed: npt.NDArray[Any] = np.empty(n_rows, labels.dtype)
    elif labels.dtype.kind in "iu" and int(labels.max()) < np.iinfo(np.int64).max:
        value = ignore_label if isinstance(ignore_label, int) else int(labels.max()) + 1
        placed = np.full(n_rows, value, np.int64)
    elif ignore_label is None:  # missing, as the labels that are there may be
        placed = np.full(n_rows, np.nan) if labels.dtype.kind == "f" else np.full(n_rows, None, object)
    else:
        raise InvalidInputError(
            f"{rows_in_words(n_rows - len(rows), 'row has', 'rows have')} no summary, so label must be integers below "
            f"2**63, not {labels.dtype}; with ignore_label=None it may have names"
        )
    placed[rows] = labels
    return placed, value


def _checked(n_classes: int | None, dtypes: Mapping[str, np.dtype[Any]]) -> int:
    """Return the number of classes; raises if it is missing, or a column cannot be what its name says."""
    for name, dtype in dtypes.items():
        if name in (LABEL, ID):
            continue  # checked as labels and as ids are
        is_integer = name in (ROW, "predicted")
        if dtype.kind not in "iu" if is_integer else dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            wanted = "integers" if is_integer else "float16, float32 or float64"
            raise InvalidInputError(f"the column {name} must be {wanted}, not {dtype}")
    if dtypes["p_label"].newbyteorder("=") != dtypes["p_predicted"].newbyteorder("="):
        raise InvalidInputError(
            f"p_label is {dtypes['p_label']} and p_predicted {dtypes['p_predicted']}: give both the dtype of the "
            "probabilities"
        )
    if n_classes is None:
        raise InvalidInputError("give n_classes=, the number of classes: a table of summaries does not say it")
    return n_classes


def _n_rows_of(rows: Ints) -> int:
    """Return the number of rows that row numbers are of, those without a summary included; 0 if they are in order."""
    n_given = len(rows)
    if not n_given or (rows[0] == 0 and rows[-1] == n_given - 1 and bool((rows[1:] > rows[:-1]).all())):
        return 0
    order = np.argsort(rows, kind="stable")
    numbers = rows[order]
    if numbers[0] < 0:
        raise InvalidInputError(f"the column row has {numbers[0]:,}, in place {order[0]:,}: rows are numbered from 0")
    twice = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(twice):
        at = twice[0]
        places, more = order[at : at + 2].tolist(), f", and {len(twice) - 1:,} more are" if len(twice) > 1 else ""
        raise InvalidInputError(
            f"row {numbers[at]:,} is given twice, in places {places[0]:,} and {places[1]:,} of the table{more}: "
            "each row needs one summary"
        ).at([(int(numbers[at]), int(numbers[at]) + 1)])
    n_rows = int(numbers[-1]) + 1
    if n_rows > _MOST_GAPS + _MOST_TIMES * n_given:
        raise InvalidInputError(
            f"the column row goes up to {n_rows - 1:,}, with {n_given:,} rows: if these are names of rows, call it id"
        )
    return n_rows
