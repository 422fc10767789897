"""The review page: one file for a browser, or the same page as a server shows it.

Names of classes and rows, and texts, come from users. They are in the page as JSON, which the script shows as text; the
page's policy lets nothing run but its own script, and loads nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import csv
import hmac
import io
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from http import HTTPStatus
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.derived import softmax
from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveError, UnwritableError, warn
from labelsieve.options import check_whole_number
from labelsieve.results.pictures import (
    THUMBNAIL_BYTES,
    THUMBNAIL_SIDE,
    Picture,
    Pictures,
    encode_thumbnail,
    open_pictures,
)
from labelsieve.results.report import check_page, digest, heading_parts, open_texts, render
from labelsieve.results.result import TABLE_ROWS, Result, check_class_names
from labelsieve.results.store import check_writable, replacing
from labelsieve.review.audit import Audit
from labelsieve.review.decisions import WORDS, Decision, read_decisions
from labelsieve.review.labels import LabelFile, open_given_labels
from labelsieve.sources.names import as_text, cell_text, escape_formula
from labelsieve.sources.open import open_any
from labelsieve.sources.source import Source
from labelsieve.storage.folder import LocalFolder, writing
from labelsieve.storage.lock import own_folder
from labelsieve.storage.remote import check_place

logger = logging.getLogger("labelsieve")

COLUMNS: Final = ("row", "id", "given_label", "decision", "label", "reviewer", "time", "result")


class DecisionFile:
    """Decisions about one result in a CSV file that this process owns; see `open_decisions`.

    Parameters
    ----------
    path : Path
        The file, which has a whole header.
    decisions : iterable of Decision
        What is in it.

    Attributes
    ----------
    decisions : dict of int and Decision
        The decision about each row, in the order of the file.
    """

    def __init__(self, path: Path, decisions: Iterable[Decision]) -> None:
        self.path = path
        self.decisions = {one.row: one for one in decisions}
        self._lines = {row: _line(one) for row, one in self.decisions.items()}
        self._file = os.open(path, os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._file).st_size

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def record(self, decision: Decision) -> None:
        """Add a decision, in place of an earlier one about the row; it is on the disk when this returns.

        Raises
        ------
        UnwritableError
            If it cannot be written, or another program has changed the file: the file is then as it was.
        """
        self._check_unchanged()
        row, line = decision.row, _line(decision)
        if row in self.decisions:
            self._rewrite(row, line)
            self.decisions[row], self._lines[row] = decision, line
            return
        with writing(str(self.path)):
            try:
                if os.write(self._file, line) < len(line):  # on a full disk
                    os.write(self._file, line[-1:])  # which raises the error that says so
                    raise OSError(0, "the line was cut off")  # noqa: TRY301  # it is cleaned up as any other
                os.fsync(self._file)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise
        self._size += len(line)
        self.decisions[row], self._lines[row] = decision, line

    def take_back(self, row: int) -> None:
        """Remove the decision about a row, if there is one.

        Raises
        ------
        UnwritableError
            If the file cannot be written, or another program has changed it: it is then as it was.
        """
        self._check_unchanged()
        if row in self.decisions:
            self._rewrite(row, b"")

    def content(self) -> bytes:
        """Return the bytes of the file."""
        with self.path.open("rb") as file:
            return file.read(self._size)

    def _check_unchanged(self) -> None:
        own = os.fstat(self._file)
        try:
            is_same = os.path.samestat(own, self.path.stat()) and own.st_size == self._size
        except OSError:
            is_same = False
        if not is_same:
            raise UnwritableError(
                f"{self.path} was changed or removed by another program while it was being written: restart the server"
            )

    def _rewrite(self, row: int, line: bytes) -> None:
        """Write the file without the line of a row, and with `line` at its end."""
        content = b"".join([_HEADER, *(other for key, other in self._lines.items() if key != row), line])
        with writing(str(self.path)):
            file = _replaced(self.path, content, os.fstat(self._file).st_mode & 0o777)
        os.close(self._file)
        self._file, self._size = file, len(content)
        del self.decisions[row], self._lines[row]


@contextmanager
def open_decisions(path: str | os.PathLike[str], fingerprint: str) -> Iterator[DecisionFile]:
    """Own a file of decisions about one result while the block runs; it is made, or what is in it is continued.

    A last line that is not whole, since a crash came as it was written, is cut off: it was never confirmed.

    Parameters
    ----------
    path : path
        Ends in ``.csv``.
    fingerprint : str
        The result's (`LabelIssues.fingerprint`).

    Raises
    ------
    InvalidInputError
        For another ending, a missing folder, or a file that holds anything but decisions about this result, one about
        each row.
    InUseError
        If another process has opened it.
    UnwritableError
        If it cannot be written.
    """
    place = Path(check_place("decisions", path))
    if place.suffix != ".csv":
        raise InvalidInputError(f"decisions: {place} must end in .csv")
    if place.is_dir():
        raise InvalidInputError(f"decisions: {place} is a folder")
    if place.exists() and not place.is_file():  # a pipe would be waited for
        raise InvalidInputError(f"decisions: {place} is not a file")
    place = place.resolve()  # a link stays a link, and two links to one file are one file
    check_writable(place)
    beside = LocalFolder(_folder_of(place))
    with own_folder(beside, f"the file of decisions {place}"):
        with writing(str(place)):
            found = _continued(place, fingerprint)
        file = DecisionFile(place, found)
        try:
            yield file
        finally:
            file.close()
            with suppress(OSError):
                beside.delete()


_HEADER: Final = (",".join(COLUMNS) + "\r\n").encode()


def _continued(path: Path, fingerprint: str) -> list[Decision]:
    """Return the decisions in a file, of which an unfinished last line is cut off; make it if there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if not content:
        os.close(_replaced(path, _HEADER, 0o666))
        return []
    # Other programs write lines with another end, and a mark before the first one.
    header = content.partition(b"\n")[0].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
    if header != _HEADER.rstrip() or b"\n" not in content:
        raise InvalidInputError(
            f"decisions: {path} does not begin with {','.join(COLUMNS)}: it is not a file of this server, and is left "
            "as it is: give another path"
        )
    n_whole = _n_whole_bytes(content)
    _check_results(path, content[:n_whole], fingerprint)
    if n_whole < len(content):
        logger.warning(
            "%s ended in the middle of a line, which was being written as a process was killed: these %d bytes, of a "
            "decision that was never confirmed, are cut off",
            *(path, len(content) - n_whole),
        )
        os.truncate(path, n_whole)
    found = list(read_decisions(path))
    lines = dict[int, int]()
    for one in found:
        if lines.setdefault(one.row, one.line) != one.line:
            raise InvalidInputError(
                f"decisions: {path} has several decisions about row {one.row:,}, in lines {lines[one.row]:,} and "
                f"{one.line:,}, of which this server would keep one: give another path"
            )
    return found


def _check_results(path: Path, content: bytes, fingerprint: str) -> None:
    """Raise unless all lines are about one result."""
    for cells in csv.reader(io.StringIO(content.decode("utf-8-sig", "replace"), newline="")):
        result = cells[-1] if len(cells) == len(COLUMNS) else fingerprint  # other lines are refused as they are read
        if result not in (fingerprint, COLUMNS[-1]):
            what = f"another result, {result}, and not {fingerprint}" if result else "an unknown result"
            raise InvalidInputError(f"decisions: {path} is about {what}: give another path")


def _n_whole_bytes(content: bytes) -> int:
    """Return the number of bytes up to the end of the last whole line; a cell in quotes may have line breaks in it."""
    stop = len(content)
    n_quotes = content.count(b'"')
    while stop:
        end = content.rfind(b"\n", 0, stop) + 1
        n_quotes -= content.count(b'"', end, stop)
        if n_quotes % 2 == 0:
            return end
        stop = end - 1
    return 0


def _line(one: Decision) -> bytes:
    """Return a decision as a line of the file."""
    text = io.StringIO(newline="")
    cells = (one.row, one.id, one.given, one.word, one.label, one.reviewer, one.time, one.result)
    csv.writer(text).writerow([escape_formula(str(cell)) for cell in cells])
    return text.getvalue().encode()


def _folder_of(path: Path) -> Path:
    """Return the folder beside a file that holds its lock, and its next version."""
    return path.with_name(f".{path.name}.served")


def _replaced(path: Path, content: bytes, mode: int) -> int:
    """Write a file anew, as a whole, and return it open; it and its name are on the disk then."""
    made = _folder_of(path) / "rewritten"
    file = os.open(made, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC, mode)
    try:
        _write_all(file, content)
        made.replace(path)
        _sync_folder(path)
    except BaseException:
        os.close(file)
        raise
    return file


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def _sync_folder(path: Path) -> None:
    """Make a rename durable."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# Classes of highest probability that a row shows, besides the given and the suggested one.
TOP_CLASSES: Final = 5
# No class: the suggestion of a row that is not an issue.
NO_CLASS: Final = -1
# Issues whose labels tell numbers from names that look like numbers.
_COMPARED_ISSUES: Final = 1000
# Issues whose probabilities tell these from logits.
_COMPARED_PROBS: Final = 20
# How far a probability may be from the one in the result: float16 has three digits.
_TOLERANCE: Final = 5e-3
# Probabilities that are read at a time: 32 MB of float64.
_BLOCK_PROBS: Final = 1 << 22

Line = dict[str, Any]


@dataclass(frozen=True)
class LabelScheme:
    """How the classes of a result are shown, and how they are written in decisions.

    Parameters
    ----------
    names : tuple of str
        What is shown of each class.
    values : tuple of int or str
        The label of each class as it is stored.
    """

    names: tuple[str, ...]
    values: tuple[int | str, ...]

    @classmethod
    def of(cls, result: Result, kind: str, class_names: Sequence[str] | None = None) -> LabelScheme:
        """Return the scheme for labels that are ``"numbers"``, ``"names"`` or ``"booleans"``.

        Raises
        ------
        InvalidInputError
            If there is not a name for each class, or a name that no table of decisions can hold.
        """
        shown = check_class_names(class_names, result.n_classes) or result.class_names
        names = tuple(map(str, range(result.n_classes))) if shown is None else tuple(map(as_text, shown))
        values: tuple[int | str, ...] = tuple(range(result.n_classes))
        if kind == "names":
            values = tuple(result.class_names or names)
        elif kind == "booleans":
            own = result.class_names or ()
            values = own if set(own) == {"False", "True"} else ("False", "True")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise InvalidInputError(f"labels are names, and class_names has {twice!r} for several classes")
        for k, value in enumerate(values):
            if isinstance(value, str) and (not value or as_text(value) != value):
                raise InvalidInputError(f"class {k:,} has the name {value!r}, which a table of decisions cannot hold")
        return cls(names, values)

    def classes_of(self, labels: Sequence[Any], rows: Int64s) -> npt.NDArray[np.int64]:
        """Return the classes of stored labels.

        Raises
        ------
        InvalidInputError
            For labels that are not classes of the result.
        """
        known = {str(value): k for k, value in enumerate(self.values)}
        texts = [_as_value(one) for one in labels]
        unknown = [(row, text) for row, text in zip(rows.tolist(), texts, strict=True) if text not in known]
        if unknown:
            row, text = unknown[0]
            raise InvalidInputError(
                f"labels: row {row:,} has {text!r}, which is not one of the labels of the result, "
                f"{self.values[0]!r}, {self.values[1]!r} and so on: are these other labels?"
            )
        return np.array([known[text] for text in texts], np.int64)


class ReviewRows:
    """The rows to review, in order. What is shown of them is read when it is needed, some rows at a time.

    Parameters
    ----------
    result : Result
        The result.
    top : int, optional
        Number of issues, from the worst, unless `audit` or `rows` say which rows; all by default.
    audit : Audit, optional
        Take the rows of an audit of this result, in its order.
    rows : (n,) array-like of int, optional
        Take these rows, in this order.
    texts : sequence of str, or path, optional
        Texts of all rows, or a text file with one on each line; where rows are parts of groups, texts of all groups.
    marked : callable, optional
        Takes a row, and returns the text before what is to be marked, this itself, and the text after it.
    pred_probs : (N, K) array-like or path, optional
        The predicted probabilities of the result, for the next classes.
    labels : (N,) array-like or path, optional
        The given labels; of pixels, tokens and tags also masks, a matrix or lists.
    class_names : sequence of str, optional
        What to show of each class.

    Attributes
    ----------
    result, audit
        As they were given.
    rows : (n,) int64
        Row numbers.
    things : (n,) int64
        What its picture and text are of: the row, or the group (image, sentence, example) of which it is a part.
    n_things : int
        Number of all of these.
    given, suggested : (n,) int64
        Given and suggested class of each; `NO_CLASS` for no suggestion.
    scheme : LabelScheme
        Names and stored values of the classes.

    Raises
    ------
    InvalidInputError
        For an audit of another result, arrays of another number of rows, other labels or probabilities than those of
        the result, and a result that does not record how its labels are written.
    InputTypeError
        For objects of another kind.
    """

    def __init__(
        self,
        result: Result,
        *,
        top: int | None = None,
        audit: Audit | None = None,
        rows: Any = None,
        texts: Any = None,
        marked: Callable[[int], tuple[str, str, str]] | None = None,
        pred_probs: Any = None,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.result, self.audit = result, audit
        if audit is not None and rows is not None:
            raise InvalidInputError("audit and rows both say which rows to review: give one of them")
        if audit is not None and not isinstance(audit, Audit):
            raise InputTypeError(f"audit must be an Audit, from issues.audit() or labelsieve.load, not {audit!r}")
        self._probs = None if pred_probs is None else _open_probs(pred_probs, result)
        file = None if labels is None else open_given_labels(labels, result.layout)
        if file is not None and file.n_rows != result.n_rows:
            raise InvalidInputError(f"labels have {file.n_rows:,} rows, the result has {result.n_rows:,}")
        top = result.num_issues if top is None else check_whole_number("top", top, 0)
        self._issues: list[Line] | None = None  # what the result has of chosen rows that are issues
        if audit is None and rows is None:
            issues = result.worst(top)
            self.rows = issues.rows
            self.given = issues.given_labels.astype(np.int64)
            self.suggested = issues.suggested_labels.astype(np.int64)
        else:
            self.rows = _checked_rows(rows, result) if audit is None else audit.rows
            ranks = _ranks_of(self.rows, result)
            if audit is None:
                self._scores = result.scores_at(self.rows)
                _check_labelled(self.rows, self._scores)
            else:
                _check_audit(audit, result, ranks)
                self._scores = audit.scores
            self._issues = _lines_at(result, ranks)
            self.given, self.suggested = (
                np.array([line.get(name, NO_CLASS) for line in self._issues], np.int64)
                for name in ("given", "suggested")
            )
        stored = None if file is None else file.take_unsorted(self.rows)
        kind = _label_kind(result, audit, file, stored)
        self.scheme = LabelScheme.of(result, kind, class_names)
        if audit is not None and audit.given_labels is not None:
            self._compare(audit.given_labels.tolist())
        if stored is not None:
            self._compare(stored)
        if (self.given == NO_CLASS).any():
            raise InvalidInputError(
                "the given labels of rows that are not issues are not in the result: give labels= (--labels), or draw "
                "the audit with them"
            )
        self.things, self.n_things = self.rows, result.n_rows
        if result.layout is not None:
            self.things, self.n_things = result.layout.groups_of(self.rows), result.layout.n_groups
        self._texts = None if texts is None else open_texts(texts, self.n_things, self.things)
        self._marked = marked
        self._are_logits = self._probs is not None and self._takes_softmax()
        if self._issues is not None and self._probs is not None:
            self._suggest()

    @property
    def has_texts(self) -> bool:
        """Whether texts are shown."""
        return self._texts is not None

    @property
    def are_chosen(self) -> bool:
        """Whether the caller has chosen them, so that they may be others than the worst issues."""
        return self._issues is not None

    def __len__(self) -> int:
        return len(self.rows)

    def _compare(self, stored: Sequence[Any]) -> None:
        """Take given labels where they are not known; raise if others are not those of the result."""
        given = self.scheme.classes_of(stored, self.rows)
        other = np.flatnonzero((self.given != NO_CLASS) & (self.given != given))
        if len(other):
            row, values = int(self.rows[other[0]]), self.scheme.values
            raise InvalidInputError(
                f"labels: {rows_in_words(len(other), 'row', 'rows')} differ from the result, as row {row:,}: "
                f"{values[given[other[0]]]!r}, in the result {values[self.given[other[0]]]!r}"
            ).at([(row, row + 1)])
        self.given = given

    def _takes_softmax(self) -> bool:
        """Return whether `pred_probs` are logits, as in a run with ``from_logits=True``.

        A result does not record it, but has probabilities of its issues. Some rows of logits alone look like
        probabilities.
        """
        issues = self.result.worst(_COMPARED_PROBS)
        if not len(issues):
            values = self._read_values(self.rows[:_COMPARED_PROBS])
            return bool(values.min(initial=0) < -_TOLERANCE or values.max(initial=0) > 1 + _TOLERANCE)
        values, places = self._read_values(issues.rows), np.arange(len(issues))

        def are_known(probs: npt.NDArray[np.float64]) -> bool:
            pairs = ((issues.given_labels, issues.p_given), (issues.suggested_labels, issues.p_suggested))
            return all((np.abs(probs[places, labels] - own) <= _TOLERANCE).all() for labels, own in pairs)

        return not are_known(values) and bool(np.isfinite(values.max(axis=1)).all()) and are_known(softmax(values))

    def _suggest(self) -> None:
        """Suggest the class of highest probability for rows that are not issues."""
        missing, step = np.flatnonzero(self.suggested == NO_CLASS), max(1, _BLOCK_PROBS // self.result.n_classes)
        for start in range(0, len(missing), step):
            places = missing[start : start + step]
            self.suggested[places] = self._read_probs(self.rows[places]).argmax(axis=1)

    def part(self, start: int, stop: int) -> list[Line]:
        """Return what is shown of the rows ``[start, stop)``.

        Returns
        -------
        list of dict
            ``row``, ``given`` and ``suggested`` (classes; None for no suggestion), ``score``, ``p_given`` and
            ``p_suggested`` (if known), ``id``, ``text``, ``marked`` (the text before, within and after what is
            marked), ``place`` (where parts of images or sentences are), and ``top``: pairs of class and probability,
            highest first.
        """
        stop = min(stop, len(self))
        rows = self.rows[start:stop]
        if self._issues is None:
            lines = _lines_of(self.result, start, stop)
        else:
            lines = [dict(line) for line in self._issues[start:stop]]
        texts = None if self._texts is None else self._texts.part(start, stop)
        probs = None if self._probs is None or not len(rows) else self._read_probs(rows)
        for place, (line, row) in enumerate(zip(lines, rows.tolist(), strict=True)):
            given, suggested = int(self.given[start + place]), int(self.suggested[start + place])
            line |= {"row": row, "given": given, "suggested": None if suggested == NO_CLASS else suggested}
            if texts is not None:
                line["text"] = texts[place]
            if self._marked is not None:
                line["marked"] = [as_text(part) for part in self._marked(row)]
            if self.result.layout is not None:
                line["place"] = self.result.layout.in_words(row, row + 1)
            if self._issues is not None:
                line["score"] = _short(self._scores[start + place])
            if probs is not None:
                best = np.argsort(-probs[place], kind="stable")[:TOP_CLASSES].tolist()
                line["top"] = [[k, _short(probs[place, k])] for k in best]
                line["p_given"] = _short(probs[place, given])
                if suggested != NO_CLASS:
                    line["p_suggested"] = _short(probs[place, suggested])
        if probs is not None:
            self._check_probs(start, probs)
        return lines

    def id_at(self, place: int) -> str:
        """Return the user's name of a row; ``""`` for none. Nothing is read but the result."""
        line = _lines_of(self.result, place, place + 1)[0] if self._issues is None else self._issues[place]
        return str(line.get("id", ""))

    def _read_values(self, rows: Int64s) -> npt.NDArray[np.float64]:
        """Return rows of `pred_probs` as they are."""
        return np.asarray(self._probs.take(rows), np.float64)  # type: ignore[union-attr]  # only where there are some

    def _read_probs(self, rows: Int64s) -> npt.NDArray[np.float64]:
        values = self._read_values(rows)
        probs = softmax(values) if self._are_logits else values
        if not np.isfinite(probs).all():
            row = int(rows[np.flatnonzero(~np.isfinite(probs).all(axis=1))[0]])
            raise InvalidInputError(f"pred_probs: row {row:,} has NaN or infinite values").at([(row, row + 1)])
        return probs

    def _check_probs(self, start: int, probs: npt.NDArray[np.float64]) -> None:
        """Raise unless probabilities are those of the result, where this has some of them."""
        known = _lines_of(self.result, start, start + len(probs)) if self._issues is None else self._issues[start:]
        for line, row, own in zip(known, self.rows[start:].tolist(), probs, strict=False):
            for of in ("given", "suggested"):
                if of in line and abs(own[line[of]] - line[f"p_{of}"]) > _TOLERANCE:
                    raise InvalidInputError(
                        f"pred_probs are not those of the result: row {row:,} has {own[line[of]]:.4g} for class "
                        f"{line[of]:,}, the result {line[f'p_{of}']:.4g}"
                    ).at([(row, row + 1)])


def _as_value(label: Any) -> str:
    """Return a stored label as the text of a class's value."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return cell_text(label)


def _open_probs(pred_probs: Any, result: Result) -> Source:
    opened = open_any("pred_probs", pred_probs)
    if not isinstance(opened, Source):
        raise InputTypeError("pred_probs must be an array in memory, a file or a Zarr array, not a Dask array")
    if tuple(opened.shape) != (result.n_rows, result.n_classes):
        raise InvalidInputError(
            f"pred_probs have shape {tuple(opened.shape)}, the result is of ({result.n_rows:,}, {result.n_classes:,})"
        )
    return opened


def _label_kind(result: Result, audit: Audit | None, file: LabelFile | None, stored: Sequence[Any] | None) -> str:
    """Return what the labels are, as the labels themselves, the run or the audit show it.

    Raises
    ------
    InvalidInputError
        If none of them does.
    """
    dtype = None if file is None else file.dtype
    if dtype is None and result.facts.label_kind:
        return result.facts.label_kind
    if dtype is None and audit is not None and audit.given_labels is not None:
        dtype = audit.given_labels.dtype
    if dtype is not None:
        if dtype.kind not in "iufb" and file is not None and stored is not None:
            return _kind_of_texts(result, file, stored)
        return "numbers" if dtype.kind in "iuf" else "booleans" if dtype.kind == "b" else "names"
    if result.class_names is None:
        return "numbers"
    raise InvalidInputError(
        "the result is of an earlier version, which did not note whether labels are names or numbers: give labels="
    )


def _kind_of_texts(result: Result, file: LabelFile, stored: Sequence[Any]) -> str:
    """Return what labels are that are text: names, or the numbers of a CSV file.

    Raises
    ------
    InvalidInputError
        If they may be both, as the names are numbers too.
    """
    names = result.class_names or ()
    numbers = tuple(map(str, range(result.n_classes)))
    if not set(stored) <= set(names):
        return "numbers" if all(str(label).isdecimal() for label in stored) else "names"
    if names == numbers or not stored or not set(stored) <= set(numbers):
        return "names"
    issues = result.worst(_COMPARED_ISSUES)
    labels = file.take_unsorted(issues.rows)
    fits = {
        kind: all(values[k] == label for k, label in zip(issues.given_labels.tolist(), labels, strict=True))
        for kind, values in (("names", names), ("numbers", numbers))
    }
    if fits["names"] and fits["numbers"]:
        raise InvalidInputError(
            f"labels: {stored[0]!r} may be the number or the name of a class, as class_names are numbers too: give "
            "labels that are numbers as integers"
        )
    return "numbers" if fits["numbers"] else "names"


def _checked_rows(rows: Any, result: Result) -> Int64s:
    """Return chosen rows as an array.

    Raises
    ------
    InvalidInputError, InputTypeError
        For an empty list, rows beyond the result, and rows that are listed twice.
    """
    found = np.asarray(rows)
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
        raise InputTypeError(f"rows must be whole numbers in one dimension, not {found.dtype} of shape {found.shape}")
    wrong = found[(found < 0) | (found >= result.n_rows)]
    if len(wrong):
        raise InvalidInputError(f"rows: there is no row {wrong[0]:,}, the result has {result.n_rows:,} rows")
    ordered = np.sort(found)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise InvalidInputError(f"rows: row {twice[0]:,} is there twice")
    return found.astype(np.int64, copy=False)


def _check_labelled(rows: Int64s, scores: npt.NDArray[Any]) -> None:
    """Raise if a row has no label."""
    missing = rows[np.isnan(scores)]
    if len(missing):
        raise InvalidInputError(f"rows: row {missing[0]:,} has no label to decide about").at(
            [(int(missing[0]), int(missing[0]) + 1)]
        )


def _ranks_of(rows: Int64s, result: Result) -> npt.NDArray[np.int64]:
    """Return the rank of each row among the issues; -1 for a row that is not an issue."""
    order = np.argsort(rows)
    ascending = rows[order]
    ranks, start = np.full(len(rows), -1, np.int64), 0
    for block in result.found.column("row"):
        places = np.searchsorted(ascending, block)
        hits = np.flatnonzero(ascending[np.minimum(places, len(ascending) - 1)] == block)
        ranks[order[places[hits]]] = hits + start
        start += len(block)
    return ranks


def _check_audit(audit: Audit, result: Result, ranks: npt.NDArray[np.int64]) -> None:
    """Raise unless an audit is of this result; `ranks` are those of its rows."""
    same = (
        audit.fingerprint in ("", result.fingerprint)  # unknown in audits of earlier versions
        and audit.n_rows == result.n_rows
        and int(audit.stratum_rows.sum()) == result.n_labelled
        and int(audit.stratum_rows[::2].sum()) == result.num_issues
        and np.array_equal(audit.is_issue, ranks >= 0)
    )
    if not same:
        raise InvalidInputError("the audit is not of this result: its rows or its issues are others")


def _lines_at(result: Result, ranks: npt.NDArray[np.int64]) -> list[Line]:
    """Return what the result has of the issues at `ranks`; an empty line for -1."""
    lines: list[Line] = [{} for _ in ranks]
    for block in np.unique(ranks[ranks >= 0] // TABLE_ROWS).tolist():
        start = block * TABLE_ROWS
        table = result.issue_table(start, start + TABLE_ROWS)
        places = np.flatnonzero(ranks // TABLE_ROWS == block)
        found = _lines_of_table({name: column[ranks[places] - start] for name, column in table.items()})
        for place, line in zip(places.tolist(), found, strict=True):
            lines[place] = line
    return lines


def _lines_of(result: Result, start: int, stop: int) -> list[Line]:
    return _lines_of_table(result.issue_table(start, stop))


def _lines_of_table(table: dict[str, npt.NDArray[Any]]) -> list[Line]:
    """Return the lines of a table of issues."""
    lines: list[Line] = []
    for place in range(len(table["score"])):
        line: Line = {
            "given": int(table["given_label"][place]),
            "suggested": int(table["suggested_label"][place]),
            **{name: _short(table[name][place]) for name in ("score", "p_given", "p_suggested")},
        }
        if "id" in table:
            line["id"] = as_text(str(table["id"][place]))
        lines.append(line)
    return lines


def _short(number: Any) -> float:
    """Return a number with the digits that are shown."""
    return float(f"{float(number):.6g}")


_MOST_LETTERS: Final = 200
_FIELDS: Final = {"row", "given_label", "decision", "label", "reviewer", "time", "replaces"}


class BadRequestError(HTTPError):
    """A request that is refused.

    Parameters
    ----------
    status : int
        Of HTTP.
    why : str
        What the answer says.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status)
        self.why = why


class DecisionRequests:
    """Answers requests about decisions, one at a time.

    The decisions have a version: 0 for those that the file holds at first, and one more with each decision that is made
    or taken back.

    Parameters
    ----------
    rows : ReviewRows
        The rows to review.
    file : DecisionFile
        Where decisions are.

    Attributes
    ----------
    places : dict of int to int
        The position of each row among the rows to review.
    """

    def __init__(self, rows: ReviewRows, file: DecisionFile) -> None:
        self._rows, self._file = rows, file
        self.places = {row: place for place, row in enumerate(rows.rows.tolist())}
        self._values: dict[str, int | str] = {str(value): value for value in rows.scheme.values}
        self._changes: dict[int, int] = {}  # the version in which each row was changed last, ascending

    def current(self) -> tuple[int, list[dict[str, Any]]]:
        """Return the version of the decisions, and the decision about each row."""
        return self._version, [self._fields(one) for one in self._file.decisions.values()]

    def changed(self, after: int) -> tuple[int, list[dict[str, Any]]]:
        """Return the version of the decisions, and what became of each row that was changed after an earlier one."""
        rows = list(takewhile(lambda row: self._changes[row] > after, reversed(self._changes)))
        found = ((row, self._file.decisions.get(row)) for row in reversed(rows))
        return self._version, [
            {"row": row, "decision": None} if one is None else self._fields(one) for row, one in found
        ]

    @property
    def _version(self) -> int:
        return self._changes[next(reversed(self._changes))] if self._changes else 0

    def _fields(self, one: Decision) -> dict[str, Any]:
        return {
            "row": one.row,
            "given_label": self._values.get(str(one.given), one.given),
            "decision": one.word,
            "label": self._values.get(str(one.label), one.label),
            "reviewer": one.reviewer,
            "time": one.time,
        }

    def decide(self, body: bytes) -> None:
        """Write the decision in the body of a request.

        Raises
        ------
        BadRequestError
            If it cannot be right, or cannot be written.
        """
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            raise BadRequestError(400, "the body is not JSON") from None
        if not isinstance(said, dict) or not said.keys() <= _FIELDS:
            raise BadRequestError(400, f"the body must be an object with {', '.join(sorted(_FIELDS))}")
        row = said.get("row")
        if type(row) is not int or row not in self.places:
            raise BadRequestError(400, f"row: {_short(row)} is not one of the rows to review")
        wanted = None if said.get("decision") is None else self._decision(row, said)
        there = self._file.decisions.get(row)
        if "replaces" in said and (there.time if there else "") != said["replaces"]:
            if there == wanted or (there and wanted and there[:8] == wanted[:8]):  # sent again, as the answer was lost
                return
            now = f"{there.reviewer or 'somebody'} decided {there.word}" if there else "its decision was taken back"
            raise BadRequestError(409, f"{now} meanwhile: look at it again")
        try:
            if wanted is None:
                self._file.take_back(row)
            else:
                self._file.record(wanted)
        except UnwritableError as error:
            raise BadRequestError(507, str(error)) from error
        version = self._version + 1
        self._changes.pop(row, None)
        self._changes[row] = version

    def _decision(self, row: int, said: dict[str, Any]) -> Decision:
        """Return a decision after checking all of it."""
        place, word, label = self.places[row], said["decision"], said.get("label")
        values = self._rows.scheme.values
        given, suggested = values[int(self._rows.given[place])], int(self._rows.suggested[place])
        if not isinstance(word, str) or word not in WORDS:
            raise BadRequestError(400, f"decision: {_short(word)} is not one of {', '.join(WORDS)}")
        if "given_label" in said and not _is_label(said["given_label"], given):
            raise BadRequestError(400, f"given_label: row {row:,} has {given!r}, not {_short(said['given_label'])}")
        if word in ("keep", "unsure"):
            if label not in (None, "") and not _is_label(label, given):
                raise BadRequestError(400, f"label: there is none for {word}, and not {_short(label)}")
            label = ""
        elif type(label) not in (int, str) or str(label) not in self._values:
            raise BadRequestError(400, f"label: {_short(label)} is not one of the {len(values):,} labels")
        elif word == "accept" and suggested != NO_CLASS and not _is_label(label, values[suggested]):
            raise BadRequestError(
                400, f"label: {values[suggested]!r} is suggested for row {row:,}, and not {_short(label)}"
            )
        when = _text("time", said.get("time")) or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            datetime.fromisoformat(when)
        except ValueError:
            raise BadRequestError(400, f"time: {_short(when)} is not a time, such as 2026-11-26T08:30:00Z") from None
        return Decision(
            row,
            str(given),
            word,
            str(label),
            self._rows.id_at(place),
            _text("reviewer", said.get("reviewer")).strip(),
            when,
            self._rows.result.fingerprint,
        )


def _is_label(said: Any, label: int | str) -> bool:
    return type(said) in (int, str) and str(said) == str(label)


def _text(name: str, said: Any) -> str:
    """Return a short text of one line; "" for none."""
    if said is None:
        return ""
    if not isinstance(said, str) or len(said) > _MOST_LETTERS or any(map(_is_control, said)):
        raise BadRequestError(
            400, f"{name}: {_short(said)} is not text of one line and at most {_MOST_LETTERS} letters"
        )
    return said


def _is_control(letter: str) -> bool:
    """Return whether a letter is a control character, a line break or half of a letter."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def _short(value: Any) -> str:
    """Return a value from a request as it is repeated in an answer."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:59] + "..."


# Bytes of a picture for each of its pixels: 500 pictures of 64 x 64 are 4.4 MB as text.
_PIXEL_BYTES: Final = 1.6
_LEAST_BYTES: Final = 2_000
# Rows that are read at a time.
_BLOCK_ROWS: Final = 1000
# Issues in a page that is a file.
FILE_ROWS: Final = 500
# Pictures that are read at the same time: they may be at URLs.
_READERS: Final = 8


def write_review(
    result: Result,
    path: str | os.PathLike[str],
    *,
    top: int = FILE_ROWS,
    images: Any = None,
    title: str | None = None,
    **choices: Any,
) -> None:
    """Write the page about a result: `choices` are for `ReviewRows`, the others as for `LabelIssues.review`."""
    place = Path(check_place("path", path))
    check_page(place, "review")
    rows = ReviewRows(result, top=check_whole_number("top", top, 1), **choices)
    pictures = None if images is None else open_pictures(images, rows.n_things)
    lines = [line for start in range(0, len(rows), _BLOCK_ROWS) for line in rows.part(start, start + _BLOCK_ROWS)]
    if pictures is not None:
        with ThreadPoolExecutor(_READERS) as pool:
            reading = [pool.submit(_data_url, pictures, thing) for thing in rows.things.tolist()]
            try:
                for line, one in zip(lines, reading, strict=True):
                    line["picture"] = one.result()
            finally:
                pool.shutdown(cancel_futures=True)
    page = render_page(rows, "file", title=title, lines=lines).encode()
    with replacing(LocalFolder(place)) as made:
        made.write_bytes(page)


def render_page(
    rows: ReviewRows,
    mode: str,
    *,
    title: str | None = None,
    lines: list[dict[str, Any]] | None = None,
    has_pictures: bool = False,
) -> str:
    """Return the page as text.

    Parameters
    ----------
    rows : ReviewRows
        What it shows.
    mode : {"file", "served"}
        Whether the rows are in the page and decisions in the browser, or both with a server, which the page asks for
        ``rows``, ``decisions``, ``picture/ROW`` and ``decisions.csv`` beside its own URL.
    title : str, optional
        Name of the dataset.
    lines : list of dict, optional
        All rows, as `ReviewRows.part` returns them, in a page that is a file.
    has_pictures : bool
        Whether the server has a picture of each row.

    Raises
    ------
    MissingDependencyError
        Without jinja2.
    """
    result = rows.result
    config = {
        "mode": mode,
        "fingerprint": result.fingerprint,
        "has_pictures": has_pictures,
        "classes": rows.scheme.names,
        "values": rows.scheme.values,
        "index": {name: getattr(rows, name).tolist() for name in ("rows", "given", "suggested")},
        "rows": lines,
    }
    script, style = (_beside(name) for name in ("review.js", "review.css"))
    n_issues, unit = result.num_issues, "rows" if result.layout is None else result.layout.units[0]
    shown = (
        f"{len(rows):,} {unit} of an audit"
        if rows.audit is not None
        else f"{len(rows):,} chosen {unit}"
        if rows.are_chosen
        else f"The worst {len(rows):,} of {n_issues:,} label issues"
    )
    page = render(
        "review/review.html.jinja",
        "review",
        heading=heading_parts(result, title),
        shown=shown,
        config=_json(config),
        script=script,
        style=style,
        policy=content_policy(mode),
    )
    return as_text(page)  # the place of the inputs may be any name of a file


def content_policy(mode: str) -> str:
    """Return the content security policy of the page: its own script and style, pictures, and the server's answers."""
    own = " 'self'" if mode == "served" else ""
    hashes = {name: f"'{digest(_beside(f'review.{name}'))}'" for name in ("js", "css")}
    rules = {
        "default-src": "'none'",
        "script-src": hashes["js"],
        "style-src": hashes["css"],
        "img-src": f"data:{own}",
        **({"connect-src": "'self'"} if own else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",  # the script makes no markup of text
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _data_url(pictures: Pictures, thing: int) -> str:
    """Return the picture of a row as a data URL, in bytes that fit its size."""
    image = pictures.image(thing, THUMBNAIL_SIDE)
    most = int(min(THUMBNAIL_BYTES, max(_LEAST_BYTES, _PIXEL_BYTES * image.width * image.height)))
    return encode_thumbnail(image, most, THUMBNAIL_SIDE).url


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """Return JSON that may stand in a script element: no ``<`` is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


LOOPBACK: Final = "127.0.0.1"
_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  # only compared

_MOST_PORT: Final = 65_535
_MOST_ROWS: Final = 1000
_MOST_BODY_BYTES: Final = 64_000
_MOST_HEADER_BYTES: Final = 32_000
# Rows that are read at a time, such blocks that are kept, and thumbnails that are kept: at most 20 MB.
_BLOCK_ROWS: Final = 100
_KEPT_BLOCKS: Final = 50
_KEPT_THUMBNAILS: Final = 1000
# Rows and pictures that are read at the same time.
_READERS: Final = 4
# Seconds until a connection that sends nothing, or sends a body slowly, is closed.
_IDLE_S: Final = 300
_BODY_S: Final = 20
# Seconds until it is tried again to take a connection.
_PAUSE_S: Final = 0.05

_VERSION: Final = "Decisions-Version"
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]+)?")
_PICTURE: Final = re.compile(r"(picture|thumbnail)/([0-9]{1,18})")
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Listener(socket.socket):
    """Takes connections; if there are too many, it waits until some end."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and its address."""
        try:
            return super().accept()
        except (BlockingIOError, ConnectionAbortedError):
            raise
        except OSError:
            time.sleep(_PAUSE_S)  # it would be asked again at once, for as long as no more files can be opened
            raise BlockingIOError from None


class ReviewServer:
    """Serves the review page while its block runs, in a thread of its own.

    Parameters
    ----------
    rows : ReviewRows
        The rows to review.
    decisions : path
        Where decisions go: see `open_decisions`.
    pictures : Pictures, optional
        The pictures of all rows.
    title : str, optional
        Name of the dataset.
    host : str
        Address or name of this machine at which it listens.
    port : int
        0 takes one that is free.

    Attributes
    ----------
    url : str
        Where the page is, while the block runs.
    decisions : DecisionFile
        What is decided, while the block runs.
    requests : DecisionRequests
        Answers the requests about decisions, while the block runs.

    Raises
    ------
    InvalidInputError
        If it cannot listen there, or the file holds anything but decisions about this result.
    InUseError, UnwritableError
        If another process writes to the file, or it cannot be written.
    MissingDependencyError
        Without jinja2.
    """

    url: str
    decisions: DecisionFile
    requests: DecisionRequests

    def __init__(
        self,
        rows: ReviewRows,
        decisions: str | os.PathLike[str],
        *,
        pictures: Pictures | None = None,
        title: str | None = None,
        host: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        if not isinstance(host, str):
            raise InputTypeError(f"host must be a name or an address as text, not {host!r}")
        self.rows, self.pictures, self._path, self._host, self._port = rows, pictures, decisions, host, port
        page = render_page(rows, "served", title=title, has_pictures=pictures is not None)
        self.page, self.policy = page.encode(), content_policy("served") + "; frame-ancestors 'none'"
        self.readers = ThreadPoolExecutor(_READERS, "labelsieve-review-read")
        self.writer = ThreadPoolExecutor(1, "labelsieve-review-write")  # one decision at a time
        self._block = lru_cache(_KEPT_BLOCKS)(
            lambda block: rows.part(block * _BLOCK_ROWS, min((block + 1) * _BLOCK_ROWS, len(rows)))
        )
        self._thumbnail = lru_cache(_KEPT_THUMBNAILS)(lambda thing: pictures.thumbnail(thing) if pictures else None)
        self._is_open, self._names = not is_loopback(host), {LOOPBACK, "localhost", "[::1]", _in_url(host).lower()}
        if self._is_open:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._token = secrets.token_urlsafe(24)
        self._thread = threading.Thread(target=self._run, name="labelsieve-review")
        self._started, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._socket = stack.enter_context(self._listen())
            self._port = int(self._socket.getsockname()[1])
            shown = socket.gethostname() if self._host in _EVERYWHERE else self._host
            self.url = f"http://{_in_url(shown)}:{self._port}/{self._token}/"
            self.decisions = stack.enter_context(open_decisions(self._path, self.rows.result.fingerprint))
            self.requests = DecisionRequests(self.rows, self.decisions)
            stack.callback(self._end)
            self._thread.start()
            self._started.wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _listen(self) -> socket.socket:
        if not 0 <= self._port <= _MOST_PORT:
            raise InvalidInputError(f"port must be 0..{_MOST_PORT:,}, not {self._port:,}")
        try:
            [(family, *_), *_] = socket.getaddrinfo(self._host or None, None, type=socket.SOCK_STREAM)
            found = socket.create_server((self._host, self._port), family=family)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidInputError(f"the server cannot listen at {self._host}, port {self._port}: {why}") from error
        listening = _Listener(fileno=found.detach())
        listening.setblocking(False)  # as Tornado needs it
        return listening

    def _end(self) -> None:
        if self._thread.ident is not None:
            self._started.wait()
            if self._loop is not None:
                with suppress(RuntimeError):  # it has ended by itself
                    self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self.writer.shutdown()  # what is being written is finished
        self.readers.shutdown(cancel_futures=True)

    def wait(self) -> None:
        """Wait until the server ends, which it only does if it fails: a signal interrupts the wait.

        Raises
        ------
        BaseException
            What ended it.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # `wait` raises it
            self._error = error
        finally:
            self._ended.set()
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Tornado's log would show the token.
        application = Application([(r".*", _Handler, {"server": self})], log_function=lambda _: None)
        server = HTTPServer(
            application,
            max_body_size=_MOST_BODY_BYTES,
            max_header_size=_MOST_HEADER_BYTES,
            idle_connection_timeout=_IDLE_S,
            body_timeout=_BODY_S,
        )
        server.add_socket(self._socket)
        self._started.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()

    def is_own_host(self, header: str) -> bool:
        """Return whether a ``Host`` header is of this server, not of a name that somebody else points at it.

        The port is another one at the end of a tunnel.
        """
        match = _HOST.fullmatch(header.lower())
        if match is None:
            return False
        return match[1] in self._names or (self._is_open and _is_address(match[1].strip("[]")))

    def is_own_path(self, path: str) -> str | None:
        """Return the part of a path after the token; None if the token is another."""
        _, token, *rest = [*path.split("/", 2), "", ""]
        same = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token.encode())
        return rest[0] if same and path.count("/") > 1 else None

    def lines(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what is shown of the rows ``[start, stop)``."""
        found: list[dict[str, Any]] = []
        for block in range(start // _BLOCK_ROWS, -(-stop // _BLOCK_ROWS)):
            first = block * _BLOCK_ROWS
            found += self._block(block)[max(0, start - first) : stop - first]
        return found

    def picture(self, row: int, *, small: bool) -> Picture | None:
        """Return the picture of a row that is shown; None if there is none."""
        place = self.requests.places.get(row)
        if self.pictures is None or place is None:
            return None
        thing = int(self.rows.things[place])
        return self._thumbnail(thing) if small else self.pictures.full(thing)


def serve_review(
    result: Result,
    decisions: str | os.PathLike[str],
    *,
    top: int | None = None,
    images: Any = None,
    title: str | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    **choices: Any,
) -> None:
    """Serve the page about a result: `choices` are for `ReviewRows`, the others as for `LabelIssues.review`."""
    rows = ReviewRows(result, top=None if top is None else check_whole_number("top", top, 1), **choices)
    pictures = None if images is None else open_pictures(images, rows.n_things)
    serve_page(rows, decisions, pictures=pictures, title=title, host=host, port=check_whole_number("port", port, 0))


def serve_page(
    rows: ReviewRows,
    decisions: str | os.PathLike[str],
    *,
    pictures: Pictures | None = None,
    title: str | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    say: Callable[[str], object] | None = None,
) -> None:
    """Serve the review page until a signal ends it.

    Parameters
    ----------
    rows, pictures, title, host, port
        As for `ReviewServer`.
    decisions : path
        As for `ReviewServer`.
    say : callable, optional
        Takes lines for the user, of which the first is the URL; by default they are printed.

    Raises
    ------
    InvalidInputError, InUseError, UnwritableError, MissingDependencyError
        As for `ReviewServer`.
    """
    say = say or _print
    with ReviewServer(rows, decisions, pictures=pictures, title=title, host=host, port=port) as server:
        file = server.decisions
        if not is_loopback(host):
            warn(
                f"the review is served at {host} without encryption: whoever reads the network can see it, and with "
                "the URL decide; a tunnel is safer: ssh -L"
            )
        say(server.url)
        there = f" ({_count(len(file.decisions), 'decision')} there)" if file.decisions else ""
        n_rows = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
        say(f"{n_rows} to review; decisions are written to {file.path}{there}; Ctrl-C ends")
        try:
            server.wait()
        finally:
            say(f"{_count(len(file.decisions), 'decision')} in {file.path}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # the URL is needed now, also by a program that reads it


def _count(n: int, unit: str) -> str:
    return f"{n:,} {unit} is" if n == 1 else f"{n:,} {unit}s are"


class _Handler(RequestHandler):
    """Answers one request."""

    def initialize(self, server: ReviewServer) -> None:
        self._server, self._path = server, ""

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Nothing is kept by the browser."""

    def prepare(self) -> None:
        if not self._server.is_own_host(self.request.headers.get("Host", "")):
            raise BadRequestError(403, "this host name is not of this server")
        path = self._server.is_own_path(self.request.path)
        if path is None:
            raise BadRequestError(404, "there is nothing here: the URL that the server printed has a longer path")
        self._path = path

    async def get(self) -> None:
        server = self._server
        picture = _PICTURE.fullmatch(self._path)
        if not self._path:
            self.set_header("Content-Security-Policy", server.policy)
            self._answer("text/html; charset=utf-8", server.page)
        elif self._path == "rows":
            lines = await self._run(server.readers, server.lines, *self._range())
            self._answer("application/json", json.dumps(lines, allow_nan=False).encode())
        elif self._path == "decisions":
            after = self._whole("after") if self.request.query else None
            ask = server.requests.current if after is None else partial(server.requests.changed, after)
            version, decisions = await self._run(server.writer, ask)  # not while one is written
            self.set_header(_VERSION, str(version))
            self._answer("application/json", json.dumps(decisions).encode())
        elif self._path == "decisions.csv":
            content = await self._run(server.writer, server.decisions.content)
            self.set_header("Content-Disposition", 'attachment; filename="decisions.csv"')
            self._answer("text/csv; charset=utf-8", content)
        elif picture is not None:
            await self._send_picture(int(picture[2]), small=picture[1] == "thumbnail")
        else:
            raise BadRequestError(404, "there is nothing here")

    async def post(self) -> None:
        if self._path != "decisions":
            raise BadRequestError(404, "there is nothing here")
        headers = self.request.headers
        # A page of another site may send a request, but neither of these headers.
        if headers.get("Origin", "") != f"http://{headers.get('Host', '')}":
            raise BadRequestError(403, "decisions are taken from the page of this server only")
        if headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise BadRequestError(400, "a decision must be sent as application/json")
        await self._run(self._server.writer, self._server.requests.decide, self.request.body)
        self.set_status(HTTPStatus.NO_CONTENT)

    async def _send_picture(self, row: int, *, small: bool) -> None:
        try:
            found = await self._run(self._server.readers, lambda: self._server.picture(row, small=small))
        except BadRequestError as error:
            raise BadRequestError(404, error.why) from error
        if found is None:
            raise BadRequestError(404, f"there is no picture of row {row:,} to show")
        self._answer(found.media_type, found.data)

    def _range(self) -> tuple[int, int]:
        """Return the rows that a query asks for."""
        start, stop = self._whole("start"), min(self._whole("stop"), len(self._server.rows))
        if stop - start > _MOST_ROWS:
            raise BadRequestError(400, f"at most {_MOST_ROWS:,} rows are sent at a time")
        return min(start, stop), stop

    def _whole(self, name: str) -> int:
        """Return a whole number of the query."""
        text = self.get_query_argument(name, "")
        if not re.fullmatch("[0-9]{1,12}", text):
            raise BadRequestError(400, f"{name} must be a whole number")
        return int(text)

    async def _run(self, pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        """Return the result of a function that reads or writes."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
        except LabelsieveError as error:
            raise BadRequestError(500, str(error)) from error

    def _answer(self, media_type: str, content: bytes) -> None:
        self.set_header("Content-Type", media_type)
        self.finish(content)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say why in one line of text."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, BadRequestError):
            why = error.why
        else:
            why = {405: "this is not done here"}.get(status_code, HTTPStatus(status_code).phrase)
        self._answer("text/plain; charset=utf-8", why.encode("utf-8", "backslashreplace"))

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Log what failed here, without the URL and its token."""
        if not isinstance(error, HTTPError):
            logger.error("the review server failed to answer", exc_info=(kind, error, trace))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
