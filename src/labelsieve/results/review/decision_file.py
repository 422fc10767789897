"""The CSV file to which decisions are added as they are made: a decision is on the disk before it is confirmed.

A row has at most one line, so that at any moment, also after a crash, the file is a table of decisions as any other,
without conflicts. A new decision is one line at the end, written at once and followed by fsync. If a decision is
changed, by whomever, or taken back, the whole file is written anew beside the old one, which it then replaces.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from labelsieve.corrections.decisions import Decision, read_decisions
from labelsieve.errors import InvalidInputError, UnwritableError
from labelsieve.results.publish import check_writable
from labelsieve.sources.text_cells import escape_formula
from labelsieve.storage.folders import LocalFolder, writing
from labelsieve.storage.lock import own_folder
from labelsieve.storage.urls import check_place

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
