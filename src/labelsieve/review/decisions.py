"""Decisions of reviewers about labels: the words that they use, and how they are read.

There may be a million, so a table of decisions is a few arrays. Cells that repeat are stored once, and what follows
from a cell is found out once for each different one.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Bools, Int32s, Int64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.columns import missing_column
from labelsieve.sources.names import as_text, cell_text, is_missing, unescape_formula
from labelsieve.storage.remote import check_place

# Name of the choices in the labelling configuration, and so of what a reviewer chose.
CONTROL: Final = "label"
_MOST_ROWS: Final = 1 << 63
# What the data of each task must have.
_NEEDED_IN_EXPORT: Final = ("row", "given_label", "given_choice", "result")
# What a record of JSON-MIN may have: the data of tasks, what was chosen, and what Label Studio adds.
_RECORD: Final = {
    *("row", "row_id", "image", "text", "place", "given_label", "given_choice", "suggested_label", "suggested_choice"),
    *("p_given", "p_suggested", "score", "result", CONTROL, "id", "annotator", "annotation_id", "created_at"),
    *("updated_at", "lead_time", "agreement"),
}


# The columns of a table of decisions, in which a reviewer's name of a row is ``id``.
EXPORT_COLUMNS: Final = ("row", "id", "given_label", "decision", "label", "reviewer", "time", "result")


def read_export(
    path: Path, class_names: Sequence[str] | None = None, *, needs_labels: bool = True
) -> list[tuple[int, tuple[Any, ...]]]:
    """Return the decisions in an export of Label Studio as `EXPORT_COLUMNS`, each with the number of its task, from 1.

    Parameters
    ----------
    path : Path
        A file of JSON.
    class_names : sequence of str, optional
        All classes; needed only if labels are numbers, classes have names, and a class was chosen that is neither given
        nor suggested in any task.
    needs_labels : bool
        Whether the resulting label of ``other`` must be known; otherwise it is "" where the tasks do not tell it.

    Raises
    ------
    InvalidInputError
        For a file that is missing, cut off or not such an export, tasks that Labelsieve did not write, and choices that
        are not classes.
    """
    tasks = _read_list(path)
    data = [_data_of(task, number, path) for number, task in enumerate(tasks, 1)]
    labels = _Labels(data, class_names, path, needs_labels=needs_labels)
    found = list[tuple[int, tuple[Any, ...]]]()
    for number, (task, own) in enumerate(zip(tasks, data, strict=True), 1):
        for choices, reviewer, time in _answers(task, number, path):
            word, label = labels.decided(own, choices, f"task {number:,} of {path}")
            row_id, result = (as_text(str(own.get(name) or "")) for name in ("row_id", "result"))
            found.append((number, (own["row"], row_id, own["given_label"], word, label, reviewer, time, result)))
    return found


def _read_list(path: Path) -> list[Any]:
    """Return the tasks of a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InvalidInputError(f"decisions: there is no file {path}") from None
    except OSError as error:
        raise InvalidInputError(f"decisions: {path} is not readable: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"decisions: {path} is not JSON ({error}): is it cut off?") from error
    if not isinstance(found, list):
        raise InvalidInputError(
            f"decisions: {path} is not an export of Label Studio in JSON or JSON-MIN, which is a list of tasks"
        )
    return found


def _data_of(task: Any, number: int, path: Path) -> dict[str, Any]:
    """Return the data of a task, after checking what this module reads of it."""
    data = task.get("data", task) if isinstance(task, dict) else None
    missing = [name for name in _NEEDED_IN_EXPORT if not isinstance(data, dict) or name not in data]
    if not isinstance(data, dict) or missing:
        raise InvalidInputError(
            f"decisions: task {number:,} of {path} has no {', '.join(missing)}: only exports of tasks that "
            "LabelIssues.to_label_studio wrote can be read"
        )
    row, given = data["row"], data["given_label"]
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < _MOST_ROWS:
        raise InvalidInputError(f"decisions: task {number:,} of {path}: {row!r} is not a row")
    for name, value in (("given_label", given), ("suggested_label", data.get("suggested_label", 0))):
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidInputError(f"decisions: task {number:,} of {path}: {name} is {value!r}, which is not a label")
    return data


def _answers(task: dict[str, Any], number: int, path: Path) -> Iterator[tuple[list[str], str, str]]:
    """Yield of each annotation the choices (none for a skipped one), the reviewer and the time; drafts are left out."""
    where = f"task {number:,} of {path}"
    if "data" not in task:  # JSON-MIN: a record for each annotation, or one for a task without any
        other = sorted(set(task) - _RECORD)
        if other and task.get(CONTROL) is None:  # perhaps what was chosen, under another name
            raise InvalidInputError(
                f"decisions: {where} has no choice named {CONTROL!r}, but {', '.join(other)}: use the configuration "
                "that LabelIssues.to_label_studio returned, or export the project as JSON"
            )
        if task.get("annotation_id") is not None or CONTROL in task:
            yield _as_choices(task.get(CONTROL), where), _name(task.get("annotator")), _time(task)
        return
    annotations = task.get("annotations", task.get("completions"))  # the name in early versions
    if annotations is None:
        raise InvalidInputError(f"decisions: {where} has no annotations: export the project as JSON or JSON-MIN")
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise InvalidInputError(f"decisions: {where}: annotations are not a list of objects")
    for one in annotations:
        is_skipped = one.get("was_cancelled") or one.get("skipped")
        regions = [] if is_skipped else one.get("result") or []
        if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
            raise InvalidInputError(f"decisions: {where}: the result of an annotation is not a list of objects")
        chosen = [region for region in regions if region.get("type") == "choices"]
        named = [region for region in regions if region.get("from_name") == CONTROL]
        choices = list[str]()
        for region in named or chosen:
            value = region.get("value")
            if region.get("type") != "choices" or not isinstance(value, dict):
                raise InvalidInputError(f"decisions: {where}: {value!r} of {CONTROL!r} are not choices")
            choices += _as_choices(value.get("choices"), where)
        yield choices, _name(one.get("completed_by")), _time(one)


def _as_choices(value: Any, where: str) -> list[str]:
    """Return choices as a list: of one choice JSON-MIN has the text alone, and of several an object."""
    if value is None:
        return []
    found = value.get("choices") if isinstance(value, dict) else value
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict):
        found = found[0].get("choices")
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidInputError(f"decisions: {where}: {value!r} are not choices")
    return [as_text(one) for one in found]


def _name(reviewer: Any) -> str:
    """Return the email or the number of a reviewer."""
    if isinstance(reviewer, dict):
        reviewer = reviewer.get("email") or reviewer.get("id")
    return "" if reviewer is None else as_text(str(reviewer))


def _time(annotation: dict[str, Any]) -> str:
    return as_text(str(annotation.get("updated_at") or annotation.get("created_at") or ""))


class _Labels:
    """The labels that choices stand for.

    Parameters
    ----------
    data : list of dict
        The data of all tasks.
    class_names : sequence of str or None
        All classes.
    path : Path
        The file, for messages.
    needs_labels : bool
        Whether a choice must stand for a known label.
    """

    def __init__(
        self, data: list[dict[str, Any]], class_names: Sequence[str] | None, path: Path, *, needs_labels: bool
    ) -> None:
        self._needs_labels = needs_labels
        self._known = dict[str, int | str]()
        for number, own in enumerate(data, 1):
            for of in ("given", "suggested"):
                if f"{of}_choice" in own and f"{of}_label" in own:
                    choice, label = own[f"{of}_choice"], own[f"{of}_label"]
                    choice = choice.strip() if isinstance(choice, str) else choice
                    if not isinstance(choice, str) or self._known.setdefault(choice, label) != label:
                        raise InvalidInputError(
                            f"decisions: task {number:,} of {path}: the choice {choice!r} stands for {label!r} here "
                            f"and for {self._known.get(choice)!r} elsewhere: are these tasks of several results?"
                        )
        self._are_numbers = all(isinstance(label, int) for label in self._known.values())
        # Without names of their own, or where labels are names, a choice is its label.
        self._are_labels = all(str(label).strip() == choice for choice, label in self._known.items())
        self._names = None if class_names is None else {name.strip(): k for k, name in enumerate(class_names)}
        self._class_names = list(class_names or ())
        if self._names is not None and self._are_numbers and not self._are_labels:
            for choice, label in self._known.items():
                if self._names.get(choice, label) != label:
                    raise InvalidInputError(
                        f"decisions: {path}: the choice {choice!r} stands for {label}, and class_names has it as class "
                        f"{self._names[choice]:,}: are these names of another dataset, or in another order?"
                    )

    def decided(self, own: dict[str, Any], choices: list[str], where: str) -> tuple[str, int | str]:
        """Return the decision and the resulting label."""
        if not choices:
            return "unsure", ""
        if len(choices) > 1:
            raise InvalidInputError(f"decisions: {where} has {len(choices):,} choices, and a row has one label")
        choice = choices[0].strip()  # as Label Studio shows it
        if choice == own["given_choice"].strip():
            return "keep", ""
        if "suggested_label" in own and choice == str(own.get("suggested_choice", "")).strip():
            return "accept", own["suggested_label"]
        return "other", self._label_of(choice, where)

    def _label_of(self, choice: str, where: str) -> int | str:
        if choice in self._known:
            return self._known[choice]
        if self._are_numbers:
            if self._names is not None and choice in self._names:
                return self._names[choice]
            if self._are_labels and choice.isascii() and choice.isdecimal():
                return int(choice)
        elif self._are_labels and (self._names is None or choice in self._names):
            # Label Studio shows a name without blanks around it.
            return choice if self._names is None else self._class_names[self._names[choice]]
        if not self._needs_labels:
            return ""
        advice = "" if self._names is not None else ": if it is a class, give class_names"
        raise InvalidInputError(f"decisions: {where}: the choice {choice!r} is not a class{advice}")


# Numbers of lines, and their cells by column.
Block: TypeAlias = tuple[Sequence[int], dict[str, Sequence[Any]]]

WORDS: Final = ("accept", "keep", "other", "unsure")
# Words that change a label, as positions in `WORDS`.
CHANGING: Final = tuple(map(WORDS.index, ("accept", "other")))

_NEEDED: Final = ("row", "given_label", "decision", "label")
_NEEDED_OF_AUDIT: Final = ("row", "decision")
_CODED: Final = ("given_label", "decision", "label", "id", "reviewer", "time", "result")
_COLUMNS: Final = ("row", *_CODED)
_WHOLE: Final = re.compile(r"([+-]?[0-9]+)(\.0*)?")
_READ_BYTES: Final = 1 << 20
# Lines that become columns at a time.
_BLOCK_LINES: Final = 1 << 12
_BLOCK_CHARACTERS: Final = 1 << 18
_COMMAS: Final = methodcaller("count", ",")
# Rows that a message names.
_NAMED: Final = 5


@dataclass(frozen=True, eq=False)
class Column:
    """Values that repeat.

    Parameters
    ----------
    codes : (n,) int32
        Position of each value in `values`.
    values : list
        The different values, in the order in which they come.
    """

    codes: Int32s
    values: list[Any]

    def __getitem__(self, place: int) -> Any:
        return self.values[self.codes[place]]

    def where(self, flags: Iterable[bool]) -> Bools:
        """Return for each row whether the flag of its value, of one for each of `values`, is set."""
        chosen: Bools = np.array([*flags, False], np.bool_)[self.codes]
        return chosen


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions, in the order of their tables and lines.

    Parameters
    ----------
    rows : (n,) int64
        Their rows.
    words : (n,) int8
        Positions of their words in `WORDS`.
    given, label : Column
        The given label and the resulting one, as the decision has them; ``""`` for no resulting one.
    id, reviewer, time, result : Column
        The user's name of the row, who decided and when, and the fingerprint of the result; ``""`` if unknown.
    is_unnamed : (n,) bool
        Whether each one names no reviewer. Of several tables `reviewer` is then the name of the table.
    lines : (n,) int64
        Line of each one in its table.
    tables : list of (int, str)
        For each table the number of its first decision, and where it is.
    """

    rows: Int64s
    words: npt.NDArray[np.int8]
    given: Column
    label: Column
    id: Column
    reviewer: Column
    time: Column
    result: Column
    is_unnamed: Bools
    lines: Int64s
    tables: list[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.rows)

    def error(self, places: Sequence[int] | npt.NDArray[np.intp], why: str, before: str = "") -> InvalidInputError:
        """Return an error that names some decisions: what comes before them in the message, and why."""
        first, shown = int(places[0]), self.rows[places[:_NAMED]]
        table = next(where for start, where in reversed(self.tables) if start <= first)
        where, rows = f"line {self.lines[first]:,} of {table}", ", ".join(f"{row:,}" for row in shown)
        more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
        which = f"row {rows} ({where})" if len(places) == 1 else f"rows {rows}{more} (the first: {where})"
        return InvalidInputError(f"decisions: {before}{which}{why}").at(
            [(row, row + 1) for row in sorted(shown.tolist())]
        )


def is_table(decisions: Any) -> bool:
    """Return whether an object is a path, a frame, an Arrow table or a dict of columns."""
    return isinstance(decisions, str | os.PathLike | Mapping) or hasattr(decisions, "columns")


def read_decisions(decisions: Any, class_names: Sequence[str] | None = None, *, of_audit: bool = False) -> Decisions:
    """Return all decisions in a file, in a table in memory, or in several of these, in their order.

    Parameters
    ----------
    decisions : path, frame, dict of columns, or list of these, or None
        CSV files, exports of Label Studio (``.json``), or tables in memory; None for no decisions.
    class_names : sequence of str, optional
        All classes, for exports of Label Studio: see `read_export`.
    of_audit : bool
        Whether no more needs to be known than whether a label is wrong: only the columns ``row`` and ``decision`` are
        needed then, and lines without a decision, which are not filled in, are left out.

    Raises
    ------
    InvalidInputError
        For a missing file or column, a line that is cut off, and a row or a word that is none.
    InputTypeError
        For another kind of object.
    """
    is_list = isinstance(decisions, list | tuple)
    given = list(decisions) if is_list else [] if decisions is None else [decisions]
    if is_list and not given:
        raise InvalidInputError("decisions: the list is empty")
    stems = [Path(one).stem for one in given if isinstance(one, str | os.PathLike)]
    needed, n = _NEEDED_OF_AUDIT if of_audit else _NEEDED, 0
    tables, names = list[tuple[int, str]](), list[str]()
    rows, lines = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    codes: dict[str, list[Int32s]] = {column: [np.empty(0, np.int32)] for column in _CODED}
    values: dict[str, Any] = {column: defaultdict(itertools.count().__next__) for column in _CODED}
    for number, one in enumerate(given):
        if isinstance(one, str | os.PathLike):
            where = check_place("decisions", one)
            path = Path(where)
            is_export = path.suffix.lower() == ".json"
            name = path.stem if stems.count(path.stem) == 1 else where
            blocks = _export_blocks(path, class_names, of_audit=of_audit) if is_export else _csv_blocks(path, needed)
        elif is_table(one):
            where, name = (f"frame {number}", f"frame {number}") if len(given) > 1 else ("the frame", "")
            blocks = _frame_blocks(one, where, needed)
        else:
            raise InputTypeError(
                "decisions must be the path of a CSV file or an export of Label Studio, a frame, or a dict of columns, "
                f"not {type(one).__name__}"
            )
        tables.append((n, where))
        names.append(name)
        for own_lines, cells in map(_filled_in, blocks) if of_audit else blocks:
            rows.append(_row_numbers(cells["row"], own_lines, where))
            lines.append(np.array(own_lines, np.int64))
            n += len(own_lines)
            for column in _CODED:
                own = cells.get(column) or itertools.repeat("", len(own_lines))
                # What is not text is a pair of a type and a value, as 1, 1.0 and True are equal.
                codes[column].append(np.fromiter(map(values[column].__getitem__, own), np.int32))
    columns = {
        name: Column(np.concatenate(codes[name]), [key[1] if isinstance(key, tuple) else key for key in values[name]])
        for name in _CODED
    }
    words, reviewer = columns["decision"], columns["reviewer"]
    is_unnamed = reviewer.where(not name for name in reviewer.values)
    if len(given) > 1:  # each is of another reviewer, if it names none
        for (start, stop), name in zip(itertools.pairwise([*(a for a, _ in tables), n]), names, strict=True):
            reviewer.values.extend([name] * (name not in reviewer.values))
            reviewer.codes[start:stop][is_unnamed[start:stop]] = reviewer.values.index(name)
    known = [WORDS.index(word.strip()) if word.strip() in WORDS else -1 for word in words.values]
    found = Decisions(
        np.concatenate(rows),
        np.array([*known, -1], np.int8)[words.codes],
        columns["given_label"],
        columns["label"],
        columns["id"],
        reviewer,
        columns["time"],
        columns["result"],
        is_unnamed,
        np.concatenate(lines),
        tables,
    )
    _check_words(found, words, of_audit=of_audit)
    return found


def _check_words(found: Decisions, words: Column, *, of_audit: bool) -> None:
    """Raise unless all words are decisions, and resulting labels are where they belong."""
    is_empty = found.label.where(map(is_empty_text, found.label.values))
    changes = np.isin(found.words, CHANGING)
    unnamed = changes & is_empty & (not of_audit)
    # A table may repeat the given label for `keep`.
    repeated = np.flatnonzero(~changes & ~is_empty)
    other = [place for place in repeated.tolist() if str(found.label[place]) != str(found.given[place])]
    wrong = np.concatenate([np.flatnonzero((found.words < 0) | unnamed), np.array(other[:1], np.int64)])
    if not len(wrong):
        return
    place = int(wrong.min())
    word = words[place].strip()
    if found.words[place] < 0:
        why = f"{word!r} is not a decision: they are {', '.join(WORDS)}"
    elif unnamed[place]:
        why = f"{word} needs the resulting label, and the column label is empty"
    else:
        why = f"the decision is {word}, and the column label has {found.label[place]!r}: leave it empty"
    raise found.error([place], f": {why}")


def _filled_in(block: Block) -> Block:
    """Return a block without the lines that have no decision."""
    lines, cells = block
    flags = [bool(word) for word in cells["decision"]]
    return list(itertools.compress(lines, flags)), {
        name: list(itertools.compress(column, flags)) for name, column in cells.items()
    }


def _row_numbers(cells: Sequence[Any], lines: Sequence[int], where: str) -> Int64s:
    """Return cells as row numbers."""
    text = "" if not cells or "" in cells or not isinstance(cells[0], str) else "".join(map(str, cells))
    number = int if text.isascii() and text.isdecimal() else whole_number
    try:
        return np.fromiter(map(number, cells), np.int64, len(cells))
    except (ValueError, OverflowError):
        for line, cell in zip(lines, cells, strict=True):
            try:
                np.int64(whole_number(cell))
            except (ValueError, OverflowError):
                raise InvalidInputError(f"decisions: line {line:,} of {where}: {cell!r} is not a row") from None
        raise


def _csv_blocks(path: Path, needed: Sequence[str]) -> Iterator[Block]:
    """Yield the numbers of some lines of a CSV file, and their cells by column."""
    where, is_escaped = str(path), _check_end(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader, number = csv.reader(file, strict=True), 0  # lines that were split without it
        try:
            header = next(reader)
            _check_separator(header, where)
            _check_header(header, where, needed)
            number = reader.line_num
            while rest := file.readlines(_BLOCK_CHARACTERS):
                flat = _split(rest, len(header))
                if not flat:
                    break
                yield _columns(header, range(number + 1, number + 1 + len(rest)), flat, is_escaped=is_escaped)
                number += len(rest)
            lines, flat = list[int](), list[str]()
            reader = csv.reader(itertools.chain(rest, file), strict=True)
            for cells in reader:
                if len(cells) == len(header):
                    # One list for all: of many, Python's collector of garbage would look at each again and again.
                    flat += cells
                    lines.append(number + reader.line_num)
                    if len(lines) == _BLOCK_LINES:
                        yield _columns(header, lines, flat, is_escaped=is_escaped)
                        lines, flat = [], []
                elif cells:
                    raise InvalidInputError(
                        f"decisions: line {number + reader.line_num:,} of {where} has {len(cells)} cells, the header "
                        f"has {len(header)}: is the file cut off?"
                    )
            yield _columns(header, lines, flat, is_escaped=is_escaped)
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"decisions: {where} is not text in UTF-8: {error}") from error
        except csv.Error as error:
            raise InvalidInputError(
                f"decisions: line {number + reader.line_num:,} of {where}: {error}: is it cut off?"
            ) from error


def _split(lines: list[str], width: int) -> list[str]:
    """Return the cells of lines, one after the other; none unless all have `width`, and no quotation marks."""
    text = "".join(lines)
    if '"' in text or text.count("\r") != text.count("\r\n") or set(map(_COMMAS, lines)) != {width - 1}:
        return []
    return text.replace("\r\n", "\n").removesuffix("\n").replace("\n", ",").split(",")


def _columns(header: list[str], lines: Sequence[int], flat: list[str], *, is_escaped: bool) -> Block:
    """Return the cells of some lines, which are one after the other, by column."""
    cells = dict[str, Sequence[Any]]()
    for name in _COLUMNS:
        if name in header:
            own = flat[header.index(name) :: len(header)]
            cells[name] = list(map(unescape_formula, own)) if is_escaped else own
    return lines, cells


def _export_blocks(path: Path, class_names: Sequence[str] | None, *, of_audit: bool) -> Iterator[Block]:
    """Yield the numbers of tasks of an export of Label Studio, and their decisions by column."""
    found = read_export(path, class_names, needs_labels=not of_audit)
    if found:
        columns = zip(EXPORT_COLUMNS, zip(*(one for _, one in found), strict=True), strict=True)
        yield [number for number, _ in found], {name: list(map(str, column)) for name, column in columns}


def _check_end(path: Path) -> bool:
    """Raise if a CSV file is missing or ends in the middle of a line; return whether an apostrophe is in it."""
    where = str(path)
    is_escaped, last = False, b""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise InvalidInputError(f"decisions: {where} is a pipe, which is read only once: write it to a file first")
        with path.open("rb") as raw:
            if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise InvalidInputError(f"decisions: {where} is not text in UTF-8, but in UTF-16: save it as UTF-8")
            raw.seek(0)
            while block := raw.read(_READ_BYTES):
                is_escaped, last = is_escaped or b"'" in block, block[-1:]
    except FileNotFoundError:
        raise InvalidInputError(f"decisions: there is no file {where}") from None
    except OSError as error:
        raise InvalidInputError(f"decisions: {where} is not readable: {error.strerror}") from error
    if not last:
        raise InvalidInputError(f"decisions: {where} is empty")
    if last not in b"\r\n":
        raise InvalidInputError(
            f"decisions: {where} ends in the middle of a line: is it cut off? If it is whole, end its last line"
        )
    return is_escaped


def _frame_blocks(frame: Any, where: str, needed: Sequence[str]) -> Iterator[Block]:
    """Yield the numbers of some lines of a frame, and their cells by column; missing values are empty."""
    if hasattr(frame, "to_pydict"):  # of Arrow, whose `columns` are not names
        frame = frame.to_pydict()
    keys = list(frame.keys() if isinstance(frame, Mapping) else frame.columns)
    _check_header(list(map(str, keys)), where, needed)
    columns = {str(key): np.asarray(frame[key], object) for key in keys if str(key) in _COLUMNS}
    for name, column in columns.items():
        if column.ndim != 1:
            raise InvalidInputError(
                f"decisions: the column {name!r} of {where} must be a list with a value for each row"
            )
    lengths = set(map(len, columns.values()))
    if len(lengths) > 1:
        raise InvalidInputError("decisions: the columns differ in length")
    for start in range(0, max(lengths), _BLOCK_LINES):
        cells = dict[str, Sequence[Any]]()
        for name, column in columns.items():
            own = ["" if is_missing(value) else value for value in column[start : start + _BLOCK_LINES].tolist()]
            if name in ("given_label", "label"):
                own = [value if isinstance(value, str) else _typed(value) for value in own]
            cells[name] = (
                own if name in ("row", "given_label", "label") else [as_text(cell_text(value)) for value in own]
            )
        yield range(start, start + len(cells["row"])), cells


def _typed(value: Any) -> tuple[type, Any]:
    """Return a value that is equal to none of another type."""
    try:
        hash(value)
    except TypeError:
        value = repr(value)
    return type(value), value


def _check_separator(header: Sequence[str], where: str) -> None:
    """Raise for a table whose cells are apart by something else, as spreadsheets of some countries write it."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and {"row", "decision"} <= set(header[0].split(separator)):
            raise InvalidInputError(f"decisions: {where} has {name} between its cells: save it with commas")


def _check_header(names: Sequence[str], where: str, needed: Sequence[str]) -> None:
    """Raise for a table without a column that is needed, or with several of one name."""
    for name in _COLUMNS:
        if names.count(name) > 1 or (name in needed and name not in names):
            raise InvalidInputError(f"decisions: {missing_column(name, names, where, _COLUMNS)}")


def is_empty_text(label: object) -> bool:
    """Return whether a cell is empty, or the missing value of a frame."""
    return isinstance(label, str) and not label


def whole_number(value: Any) -> int:
    """Return a whole number that is given as any number or as text.

    Raises
    ------
    ValueError
        For anything else.
    """
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value.strip())
        if match is None:
            raise ValueError(value)
        return int(match[1])
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number) or value != int(value):
        raise ValueError(value)
    return int(value)
