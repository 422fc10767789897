"""Decisions of reviewers about labels: reading them, comparing them with the labels, and settling conflicts."""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.row_ids import unescape_formula
from labelsieve.sources.columns import missing_column
from labelsieve.sources.label_names import is_missing
from labelsieve.storage.urls import check_place

WORDS: Final = ("accept", "keep", "other", "unsure")
CONFLICT_RULES: Final = ("error", "keep", "first", "last", "majority")
# What a decision of "unsure" makes of a label.
UNSURE: Final = object()

_NEEDED: Final = ("row", "given_label", "decision", "label")
_COLUMNS: Final = (*_NEEDED, "id", "reviewer", "time", "result")
_WHOLE: Final = re.compile(r"([+-]?[0-9]+)(\.0*)?")
_READ_BYTES: Final = 1 << 20
# Rows and decisions that a message names.
_NAMED: Final = 5


class Decision(NamedTuple):
    """What one reviewer decided about the label of one row.

    Parameters
    ----------
    row : int
        The row.
    given, label : object
        The given label and the resulting one, as the decision has them; ``""`` for no resulting one.
    word : str
        ``accept``, ``keep``, ``other`` or ``unsure``.
    id, reviewer, time, result : str
        The user's name of the row, who decided and when, and the fingerprint of the result; ``""`` if they are unknown.
    table : str
        Where the decision is, for messages.
    line : int
        Its line there.
    """

    row: int
    given: Any
    word: str
    label: Any
    id: str = ""
    reviewer: str = ""
    time: str = ""
    result: str = ""
    table: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """Line and table, for messages."""
        return f"line {self.line:,} of {self.table}"


@dataclass(frozen=True)
class Conflict:
    """A row about which the decisions differ.

    Parameters
    ----------
    row : int
        The row.
    decisions : tuple of (str, str, object)
        Reviewer, decision and resulting label of each; the label of ``unsure`` is None.
    """

    row: int
    decisions: tuple[tuple[str, str, Any], ...]

    def __str__(self) -> str:
        said = [
            f"{reviewer or 'somebody'}: {word}" + (f" {label!r}" if word in ("accept", "other") else "")
            for reviewer, word, label in self.decisions
        ]
        return f"row {self.row:,} ({'; '.join(said)})"


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree.

    Parameters
    ----------
    reviewers : (str, str)
        Their names.
    n_rows : int
        Rows that both decided.
    share : float
        Share of these rows with the same resulting label (the given one for ``keep``; ``unsure`` is one more).
    kappa : float
        Cohen's kappa: ``(share - chance) / (1 - chance)``, where ``chance`` is the share that would be the same if both
        drew their resulting labels independently, as often as they gave them (Cohen 1960, *A coefficient of agreement
        for nominal scales*, Educational and Psychological Measurement 20(1)). NaN if both gave one and the same label
        to all rows, which chance explains.
    """

    reviewers: tuple[str, str]
    n_rows: int
    share: float
    kappa: float


def read_decisions(decisions: Any) -> list[Decision]:
    """Return all decisions in a CSV file, in a table in memory, or in several of these, in their order.

    Raises
    ------
    InvalidInputError
        For a missing file or column, a line that is cut off, and a row or a word that is none.
    InputTypeError
        For another kind of object.
    """
    several = isinstance(decisions, list | tuple)
    given = list(decisions) if several else [decisions]
    if not given:
        raise InvalidInputError("decisions: the list is empty")
    found = list[Decision]()
    for number, one in enumerate(given):
        if isinstance(one, str | os.PathLike):
            where = check_place("decisions", one)
            lines, name = _csv_lines(Path(where)), Path(where).stem
        elif hasattr(one, "columns") and hasattr(one, "to_dict"):
            where, name = (f"frame {number}", f"frame {number}") if several else ("the frame", "")
            lines = _frame_lines(one, where)
        else:
            raise InputTypeError(f"decisions must be a CSV file's path or a pandas frame, not {type(one).__name__}")
        # Of several tables without names of reviewers, each is of another reviewer.
        reviewer = name if several else ""
        found += [_decision(where, line, cells, reviewer) for line, cells in lines]
    return found


def _csv_lines(path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the number and the cells of each line of a CSV file, in the order of `_COLUMNS`."""
    where = str(path)
    is_escaped, last = False, b""
    try:
        with path.open("rb") as raw:
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader)
            choose, shared = _chooser(header, where), dict[str, str]()
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InvalidInputError(
                        f"decisions: line {reader.line_num:,} of {where} has {len(cells)} cells, the header has "
                        f"{len(header)}: is the file cut off?"
                    )
                # Most cells repeat: each text is kept once.
                cells = [shared.setdefault(cell, cell) for cell in (*cells, "")]  # noqa: PLW2901
                yield reader.line_num, choose(list(map(unescape_formula, cells)) if is_escaped else cells)
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"decisions: {where} is not text in UTF-8: {error}") from error
        except csv.Error as error:
            raise InvalidInputError(
                f"decisions: line {reader.line_num:,} of {where}: {error}: is it cut off?"
            ) from error


def _frame_lines(frame: Any, where: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the number and the cells of each line of a frame, as `_csv_lines`; missing values are empty."""
    names = [str(name) for name in frame.columns]
    choose = _chooser(names, where)
    columns = [frame[name].tolist() for name in frame.columns]
    for number, cells in enumerate(zip(*columns, strict=True)):
        yield number, choose(["" if is_missing(cell) else cell for cell in (*cells, "")])


def _chooser(names: Sequence[str], where: str) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Return a function that puts cells in the order of `_COLUMNS`; an empty last cell stands for missing columns.

    Raises
    ------
    InvalidInputError
        For a table without a column that is needed, or with several of one name.
    """
    for name in _NEEDED:
        if names.count(name) != 1:
            raise InvalidInputError(f"decisions: {missing_column(name, names, where, _COLUMNS)}")
    return itemgetter(*(names.index(name) if name in names else len(names) for name in _COLUMNS))


def _decision(table: str, line: int, cells: tuple[Any, ...], reviewer: str) -> Decision:
    """Return the decision in a line, after a look at its row and its word."""
    row, given, word, label, *others = cells
    try:
        row = whole_number(row)
    except ValueError:
        raise InvalidInputError(f"decisions: line {line:,} of {table}: {row!r} is not a row") from None
    word = str(word).strip()
    own, who, when, result = map(str, others)
    found = Decision(row, given, word, label, own, who or reviewer, when, result, table, line)
    if word not in WORDS:
        why = f"{word!r} is not a decision: they are {', '.join(WORDS)}"
    elif word in ("accept", "other") and _is_empty(label):
        why = f"{word} needs the resulting label, and the column label is empty"
    # A table may repeat the given label for `keep`.
    elif word in ("keep", "unsure") and not _is_empty(label) and str(label) != str(given):
        why = f"the decision is {word}, and the column label has {label!r}: leave it empty"
    else:
        return found
    raise InvalidInputError(f"decisions: {found.where}, row {row:,}: {why}")


def _is_empty(label: object) -> bool:
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


@dataclass(frozen=True)
class LabelValues:
    """How labels are written in decisions, and which ones there may be.

    Parameters
    ----------
    dtype : dtype
        Of the stored labels.
    classes : collection, optional
        All classes, as they are stored: a range or a set.
    """

    dtype: np.dtype[Any]
    classes: Collection[Any] | None = None
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def parse(self, value: Any) -> Any:
        """Return a label as it is stored.

        Raises
        ------
        ValueError
            If it cannot be one of these labels: what is wrong.
        """
        if not isinstance(value, str):
            return self._parse(value)
        if value not in self._known:  # few classes, many decisions
            self._known[value] = self._parse(value)
        return self._known[value]

    def _parse(self, value: Any) -> Any:
        kind = self.dtype.kind
        if kind in "iu":
            try:
                number = whole_number(value)
            except (ValueError, OverflowError):
                raise ValueError(f"{value!r} is not a number, and labels are {self.dtype}") from None
            if not np.iinfo(self.dtype).min <= number <= np.iinfo(self.dtype).max:
                raise ValueError(f"{number} does not fit into labels of {self.dtype}")
            return number
        if kind == "f":
            try:
                return float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{value!r} is not a number, and labels are {self.dtype}") from None
        if kind == "b":
            if str(value) not in ("True", "False"):
                raise ValueError(f"{value!r} is neither True nor False, as labels are")
            return str(value) == "True"
        if kind == "S":
            return value if isinstance(value, bytes) else str(value).encode()
        # A frame has numbers among missing values as floats.
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)

    def is_class(self, label: Any) -> bool:
        """Return whether a label is one of the classes, where these are known."""
        return self.classes is None or label in self.classes

    def is_given(self, stored: Any, given: Any) -> bool:
        """Return whether a stored label is the given one of a decision."""
        if is_missing(stored):
            return _is_empty(given)
        if self.dtype.kind == "O" and not isinstance(stored, str):  # objects may be numbers
            return str(stored) == str(given)
        try:
            return bool(stored == self.parse(given))
        except ValueError:
            return False

    def array(self, labels: Sequence[Any]) -> Any:
        """Return labels as an array of their dtype, or of text as wide as they need."""
        if any(label is None for label in labels) or self.dtype.kind in "OT":
            found: Any = np.empty(len(labels), object)
            found[:] = labels
            return found
        return np.array(labels, self.dtype.kind if self.dtype.kind in "US" else self.dtype)


def check_against(
    decisions: Sequence[Decision], stored: Mapping[int, Any], values: LabelValues, n_rows: int
) -> list[Any]:
    """Return the resulting label of each decision (`UNSURE` for none), after a comparison with the stored labels.

    Parameters
    ----------
    decisions : sequence of Decision
        The decisions.
    stored : mapping
        The stored labels of their rows, for rows that there are.
    values : LabelValues
        Which labels there may be.
    n_rows : int
        Number of rows.

    Raises
    ------
    InvalidInputError
        For rows that there are not, other given labels, and resulting labels that are not classes.
    """
    unknown = [one for one in decisions if not 0 <= one.row < n_rows]
    if unknown:
        raise InvalidInputError(
            f"decisions: {_places(unknown)}: there is no such row, labels has {n_rows:,} rows: "
            "are these decisions about another dataset?"
        ).at(_ranges(unknown))
    other, outcomes = list[Decision](), list[Any]()
    for one in decisions:
        if not values.is_given(stored[one.row], one.given):
            other.append(one)
    if other:
        raise InvalidInputError(
            f"decisions: {len(other):,} given labels are not those in labels: {_places(other)} has "
            f"{other[0].given!r} as the given label, labels has {stored[other[0].row]!r}: another dataset, or labels "
            "already changed"
        ).at(_ranges(other))
    for one in decisions:
        if one.word in ("keep", "unsure"):
            outcomes.append(UNSURE if one.word == "unsure" else stored[one.row])
            continue
        try:
            label = values.parse(one.label)
        except ValueError as error:
            raise InvalidInputError(f"decisions: {_places([one])}: {error}").at(_ranges([one])) from None
        if not values.is_class(label):
            raise InvalidInputError(
                f"decisions: {_places([one])}: {label!r} is not one of the {len(values.classes or ()):,} classes"
            ).at(_ranges([one]))
        outcomes.append(label)
    return outcomes


def _places(decisions: Sequence[Decision]) -> str:
    first = decisions[0]
    rows = ", ".join(f"{one.row:,}" for one in decisions[:_NAMED])
    more = f" and {len(decisions) - _NAMED:,} more" if len(decisions) > _NAMED else ""
    return f"row {rows} ({first.where})" if len(decisions) == 1 else f"rows {rows}{more} (the first: {first.where})"


def _ranges(decisions: Sequence[Decision]) -> list[tuple[int, int]]:
    return [(one.row, one.row + 1) for one in sorted(decisions, key=lambda one: one.row)[:_NAMED]]


def last_words(decisions: Sequence[Decision], outcomes: Sequence[Any]) -> tuple[list[Decision], list[Any], int]:
    """Return decisions and outcomes without those that the same reviewer corrected, and how many these were.

    A reviewer's last decision about a row counts: by time if all of them have one, else in the order of the tables.
    Nobody knows whether decisions without a name are of one reviewer, so these need different times.

    Parameters
    ----------
    decisions, outcomes : sequence
        Decisions and their resulting labels.
    """
    if len({one.row for one in decisions}) == len(decisions):
        return list(decisions), list(outcomes), 0
    of_reviewer: dict[tuple[int, str], list[int]] = {}
    for place, one in enumerate(decisions):
        of_reviewer.setdefault((one.row, one.reviewer), []).append(place)
    corrected = set[int]()
    for (_, reviewer), places in of_reviewer.items():
        if all(outcomes[place] == outcomes[places[0]] for place in places):
            continue
        times = [_time(decisions[place].time) for place in places]
        if not reviewer and (None in times or len(set(times)) < len(times)):
            continue
        order = sorted(places, key=lambda place: _time(decisions[place].time) or 0) if None not in times else places
        corrected.update(order[:-1])
    kept = [place for place in range(len(decisions)) if place not in corrected]
    return [decisions[place] for place in kept], [outcomes[place] for place in kept], len(corrected)


def settle(
    decisions: Sequence[Decision], outcomes: Sequence[Any], rule: str
) -> tuple[list[tuple[Decision, Any]], tuple[Conflict, ...]]:
    """Return one decision and its outcome for each row, by row, and all conflicts.

    Rows with conflicts whose rule is to keep the given label are not among them; neither are ties of a majority.

    Parameters
    ----------
    decisions, outcomes : sequence
        Decisions and their resulting labels.
    rule : str
        One of `CONFLICT_RULES`.

    Raises
    ------
    InvalidInputError
        If there are conflicts, and the rule is ``error``.
    """
    if len({one.row for one in decisions}) == len(decisions):
        return sorted(zip(decisions, outcomes, strict=True), key=lambda pair: pair[0].row), ()
    of_row: dict[int, list[tuple[Decision, Any]]] = {}
    for one, outcome in zip(decisions, outcomes, strict=True):
        of_row.setdefault(one.row, []).append((one, outcome))
    settled, conflicts = list[tuple[Decision, Any]](), list[Conflict]()
    for row in sorted(of_row):
        several = of_row[row]
        if all(outcome == several[0][1] for _, outcome in several):
            settled.append(several[0])
            continue
        shown = tuple((one.reviewer, one.word, None if outcome is UNSURE else outcome) for one, outcome in several)
        conflicts.append(Conflict(row, shown))
        chosen = _chosen(several, rule)
        if chosen is not None:
            settled.append(chosen)
    if conflicts and rule == "error":
        some = ", ".join(map(str, conflicts[:_NAMED])) + (", ..." if len(conflicts) > _NAMED else "")
        rules = ", ".join(repr(other) for other in CONFLICT_RULES[1:])
        raise InvalidInputError(
            f"decisions: they differ in {len(conflicts):,} rows: {some}: choose a rule for such rows: conflicts={rules}"
        ).at([(one.row, one.row + 1) for one in conflicts[:_NAMED]])
    return settled, tuple(conflicts)


def _chosen(several: list[tuple[Decision, Any]], rule: str) -> tuple[Decision, Any] | None:
    if rule in ("first", "last"):
        times = [_time(one.time) for one, _ in several]
        # Without all times, and at the same time, the order in the tables counts.
        order = sorted(several, key=lambda pair: _time(pair[0].time) or 0) if None not in times else several
        return order[0 if rule == "first" else -1]
    if rule == "majority":
        (top, n_top), *others = Counter(outcome for _, outcome in several).most_common(2)
        if not others or others[0][1] < n_top:
            return next(pair for pair in several if pair[1] == top)
    return None


def _time(text: str) -> float | None:
    """Return a time in seconds, of UTC if it names no zone; None for what is not a time."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else datetime.fromisoformat(f"{when.isoformat()}+00:00")).timestamp()


def agreement(decisions: Sequence[Decision], outcomes: Sequence[Any]) -> tuple[Agreement, ...]:
    """Return the agreement of each two reviewers who decided the same rows; of one's decisions of a row the last.

    Parameters
    ----------
    decisions, outcomes : sequence
        Decisions and their resulting labels.
    """
    of_reviewer: dict[str, dict[int, Any]] = {}
    for one, outcome in zip(decisions, outcomes, strict=True):
        of_reviewer.setdefault(one.reviewer, {})[one.row] = outcome
    found = list[Agreement]()
    for first, second in itertools.combinations(sorted(of_reviewer), 2):
        ours, theirs = of_reviewer[first], of_reviewer[second]
        pairs = [(ours[row], theirs[row]) for row in ours.keys() & theirs.keys()]
        if pairs:
            found.append(Agreement((first, second), len(pairs), *_kappa(pairs)))
    return tuple(found)


def _kappa(pairs: Iterable[tuple[Any, Any]]) -> tuple[float, float]:
    """Return the share of equal pairs, and Cohen's kappa."""
    pairs = list(pairs)
    n = len(pairs)
    n_same = sum(one == other for one, other in pairs)
    of_first, of_second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    chance = sum(times * of_second[outcome] for outcome, times in of_first.items())  # of n * n, in whole numbers
    return n_same / n, (n_same * n - chance) / (n * n - chance) if chance < n * n else math.nan
