"""What decisions make of labels: compared with the labels that are stored; conflicts, and how far reviewers agree."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Int32s, Int64s
from labelsieve.confident_learning.reviewer_agreement import Agreement, kappa_of
from labelsieve.corrections.decisions import (
    CHANGING,
    WORDS,
    Decisions,
    is_empty_text,
    whole_number,
)
from labelsieve.corrections.fingerprints import FINGERPRINT
from labelsieve.errors import InvalidInputError
from labelsieve.settings import CONFLICT_RULES
from labelsieve.sources.label_names import is_missing
from labelsieve.sources.text_cells import cell_text

# The code of the resulting label of an unsure decision.
UNSURE: Final = -1
# Rows and decisions that a message names.
_NAMED: Final = 5


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

    def parse(self, value: Any) -> Any:
        """Return a label as it is stored.

        Raises
        ------
        ValueError
            If it cannot be one of these labels: what is wrong.
        """
        kind = self.dtype.kind
        if kind in "iu":
            try:
                number = whole_number(value)
            except (ValueError, OverflowError):
                raise ValueError(f"{value!r} is not a number, and labels are {self.dtype}") from None
            if not self._limits.min <= number <= self._limits.max:
                raise ValueError(f"{number} does not fit into labels of {self.dtype}")
            return number
        if kind == "f":
            # Python takes 1_0 for ten, and digits of all scripts.
            text = "none" if isinstance(value, str) and (not value.isascii() or "_" in value) else value
            try:
                return float(text) + 0.0  # not -0.0
            except (TypeError, ValueError):
                raise ValueError(f"{value!r} is not a number, and labels are {self.dtype}") from None
        if kind == "b":
            text = str(value).lower()  # spreadsheets write TRUE
            if text not in ("true", "false"):
                raise ValueError(f"{value!r} is neither True nor False, as labels are")
            return text == "true"
        if kind == "S":
            return value if isinstance(value, bytes) else str(value).encode()
        return cell_text(value)

    @cached_property
    def _limits(self) -> np.iinfo[Any]:
        return np.iinfo(self.dtype)  # looked up each time it is made

    def is_class(self, label: Any) -> bool:
        """Return whether a label is one of the classes, where these are known."""
        return self.classes is None or label in self.classes

    def array(self, labels: Sequence[Any]) -> Any:
        """Return labels as an array of their dtype, or of text as wide as they need."""
        if any(label is None for label in labels) or self.dtype.kind in "OT":
            found: Any = np.empty(len(labels), object)
            found[:] = labels
            return found
        return np.array(labels, self.dtype.kind if self.dtype.kind in "US" else self.dtype)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Labels before and after decisions.

    Parameters
    ----------
    labels : list
        Different labels, as they are stored.
    n_stored : int
        The first so many of them are stored in rows of the decisions, the others only result from decisions.
    stored : (n,) int32
        The stored label of the row of each decision, as a position in `labels`.
    resulting : (n,) int32
        The resulting one; `UNSURE` for none.
    """

    labels: list[Any]
    n_stored: int
    stored: Int32s
    resulting: Int32s

    def with_ignored(self, label: Any) -> Outcomes:
        """Return the outcomes with a label in place of none."""
        labels, missing = [*self.labels, label], is_missing(label)
        # pandas' missing value is not comparable.
        same = [
            code
            for code, other in enumerate(self.labels)
            if is_missing(other) == missing and (missing or other == label)
        ]
        if same:
            labels[same[0]] = label
        code = same[0] if same else len(self.labels)
        return replace(
            self, labels=labels, resulting=np.where(self.resulting == UNSURE, np.int32(code), self.resulting)
        )


def results_of(decisions: Decisions) -> Iterator[tuple[str, str]]:
    """Yield the first decision about each result, for messages, and the result's fingerprint.

    Raises
    ------
    InvalidInputError
        For text that is not a fingerprint.
    """
    for code, result in enumerate(decisions.result.values):
        if not result:
            continue
        one = decisions[int((decisions.result.codes == code).argmax())]
        which = f"decisions: row {one.row:,} ({one.where})"
        if FINGERPRINT.fullmatch(result) is None:
            raise InvalidInputError(f"{which}: {result!r} is not the fingerprint of a result: is the file cut off?")
        yield which, result


def check_results(decisions: Decisions, digest: str, fingerprint: str | None) -> None:
    """Raise if decisions are about another result, or about a result of other labels.

    Parameters
    ----------
    decisions : Decisions
        The decisions; those that do not name their result are not checked.
    digest : str
        `labels_digest` of the labels.
    fingerprint : str or None
        The fingerprint of the result, if it is known.

    Raises
    ------
    InvalidInputError
        Naming the first such decision.
    """
    for which, result in results_of(decisions):
        if result.partition("-")[0] != digest:
            raise InvalidInputError(
                f"{which} is about the result {result}, which is not one of these labels: another dataset, or labels "
                "already changed"
            )
        if fingerprint is not None and result != fingerprint:
            raise InvalidInputError(f"{which} is about the result {result}, issues are {fingerprint}")


def check_rows(decisions: Decisions, n_rows: int) -> None:
    """Raise an `InvalidInputError` for decisions about rows that there are not."""
    unknown = np.flatnonzero((decisions.rows < 0) | (decisions.rows >= n_rows))
    if len(unknown):
        raise InvalidInputError(
            f"decisions: {_places(decisions, unknown)}: there is no such row, labels has {n_rows:,} rows: "
            "are these decisions about another dataset?"
        ).at(_ranges(decisions, unknown))


def check_against(
    decisions: Decisions, stored: Sequence[Any], which: npt.NDArray[np.intp], values: LabelValues
) -> Outcomes:
    """Return the resulting labels of decisions, after a comparison with the stored labels.

    Parameters
    ----------
    decisions : Decisions
        The decisions.
    stored : sequence
        Stored labels.
    which : (n,) int
        Position in `stored` of the label of each decision's row.
    values : LabelValues
        Which labels there may be.

    Raises
    ------
    InvalidInputError
        For other given labels, and resulting labels that are not classes.
    """
    labels, known = list[Any](), dict[Any, int]()

    def coded(label: Any) -> int:
        key = None if is_missing(label) else label
        if key not in known:
            known[key] = len(labels)
            labels.append(label)
        return known[key]

    code_of = {label: coded(label) for label in dict.fromkeys(stored)}
    before = np.fromiter(map(code_of.__getitem__, stored), np.int32, len(stored))[which]
    n_stored = len(labels)
    wanted = np.array([*(_known_code(known, values, given) for given in decisions.given.values), -1], np.int32)
    is_same = wanted[decisions.given.codes] == before
    if None in known:
        is_same |= (before == known[None]) & decisions.given.where(map(is_empty_text, decisions.given.values))
    other = np.flatnonzero(~is_same)
    if len(other):
        first = int(other[0])
        raise InvalidInputError(
            f"decisions: {len(other):,} given labels are not those in labels: {_places(decisions, other)} has "
            f"{decisions.given[first]!r} as the given label, labels has {labels[before[first]]!r}: another dataset, "
            "or labels already changed"
        ).at(_ranges(decisions, other))
    resulting, changes = before.copy(), np.isin(decisions.words, CHANGING)
    resulting[decisions.words == WORDS.index("unsure")] = UNSURE
    new, faults = np.zeros(len(decisions.label.values) + 1, np.int32), dict[int, str]()
    for code in np.flatnonzero(np.bincount(decisions.label.codes[changes])).tolist():
        try:
            label = values.parse(decisions.label.values[code])
        except ValueError as error:
            faults[code] = str(error)
            continue
        if values.is_class(label):
            new[code] = coded(label)
        else:
            faults[code] = f"{label!r} is not one of the {len(values.classes or ()):,} classes"
    if faults:
        first = int(np.flatnonzero(changes & np.isin(decisions.label.codes, list(faults)))[0])
        raise InvalidInputError(
            f"decisions: {_places(decisions, [first])}: {faults[int(decisions.label.codes[first])]}"
        ).at(_ranges(decisions, [first]))
    resulting[changes] = new[decisions.label.codes[changes]]
    return Outcomes(labels, n_stored, before, resulting)


def _known_code(known: dict[Any, int], values: LabelValues, given: Any) -> int:
    """Return the code of a given label among those that are stored; -1 if it is not one of them."""
    try:
        return known.get(values.parse(given), -1)
    except ValueError:
        return -1


def _places(decisions: Decisions, places: Sequence[int] | npt.NDArray[np.intp]) -> str:
    where = decisions[int(places[0])].where
    rows = ", ".join(f"{decisions.rows[place]:,}" for place in places[:_NAMED])
    more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    return f"row {rows} ({where})" if len(places) == 1 else f"rows {rows}{more} (the first: {where})"


def _ranges(decisions: Decisions, places: Sequence[int] | npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    return [(row, row + 1) for row in np.sort(decisions.rows[places])[:_NAMED].tolist()]


@dataclass(frozen=True, eq=False)
class Settled:
    """The decisions that count.

    Parameters
    ----------
    places : (m,) int64
        The decision that counts for each row, in ascending order of rows. Rows with a conflict whose rule is to keep
        the given label are not among them; neither are ties of a majority.
    is_corrected : (n,) bool
        Decisions that the same reviewer corrected.
    conflicts : tuple of Conflict
        Rows about which reviewers differ.
    """

    places: npt.NDArray[np.intp]
    is_corrected: Bools
    conflicts: tuple[Conflict, ...]


def settle(decisions: Decisions, outcomes: Outcomes, rule: str) -> Settled:
    """Return which decisions count.

    Parameters
    ----------
    decisions : Decisions
        Decisions.
    outcomes : Outcomes
        Their resulting labels.
    rule : str
        One of `CONFLICT_RULES`.

    Raises
    ------
    InvalidInputError
        If there are conflicts, and the rule is ``error``.
    """
    is_corrected, conflicts = np.zeros(len(decisions), np.bool_), list[Conflict]()
    order = np.argsort(decisions.rows, kind="stable")
    sorted_rows = decisions.rows[order]
    starts = np.flatnonzero(np.diff(sorted_rows, prepend=-1))
    if len(starts) == len(order):
        return Settled(order, is_corrected, ())
    resulting, stops = outcomes.resulting[order], np.append(starts[1:], len(order))
    chosen = order[starts]
    for group in np.flatnonzero(np.minimum.reduceat(resulting, starts) != np.maximum.reduceat(resulting, starts)):
        several = order[starts[group] : stops[group]].tolist()
        left, corrected = _last_words(decisions, outcomes, several)
        is_corrected[corrected] = True
        chosen[group] = left[0]
        if len({int(outcomes.resulting[place]) for place in left}) > 1:
            conflicts.append(_conflict(decisions, outcomes, left))
            chosen[group] = _chosen(decisions, outcomes, left, rule)
    if conflicts and rule == "error":
        some = ", ".join(map(str, conflicts[:_NAMED])) + (", ..." if len(conflicts) > _NAMED else "")
        rules = ", ".join(repr(other) for other in CONFLICT_RULES[1:])
        raise InvalidInputError(
            f"decisions: they differ in {len(conflicts):,} rows: {some}: choose a rule for such rows: conflicts={rules}"
        ).at([(one.row, one.row + 1) for one in conflicts[:_NAMED]])
    return Settled(chosen[chosen >= 0], is_corrected, tuple(conflicts))


def _last_words(decisions: Decisions, outcomes: Outcomes, places: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the last decision of each reviewer about a row, and those that its reviewer corrected.

    A reviewer's last decision counts, and once: by time if all of them have one, else in the order of the tables.
    Nobody knows whether decisions without a name are of one reviewer, so these need different times, or all count.
    """
    of_reviewer: dict[str, list[int]] = {}
    for place in places:
        of_reviewer.setdefault(decisions.reviewer[place], []).append(place)
    left, corrected = list[int](), list[int]()
    for own in of_reviewer.values():
        times = [_time(decisions.time[place]) for place in own]
        is_timed = None not in times
        if decisions.is_unnamed[own].any() and (not is_timed or len(set(times)) < len(times)):
            left += own
            continue
        last = max(zip(times, own, strict=True))[1] if is_timed else own[-1]
        left.append(last)
        if len({int(outcomes.resulting[place]) for place in own}) > 1:
            corrected += [place for place in own if place != last]
    return sorted(left), corrected


def _conflict(decisions: Decisions, outcomes: Outcomes, places: Sequence[int]) -> Conflict:
    shown = list[tuple[str, str, Any]]()
    for place in places:
        code = outcomes.resulting[place]
        label = None if code == UNSURE else outcomes.labels[code]
        shown.append((decisions.reviewer[place], WORDS[decisions.words[place]], label))
    return Conflict(int(decisions.rows[places[0]]), tuple(shown))


def _chosen(decisions: Decisions, outcomes: Outcomes, places: Sequence[int], rule: str) -> int:
    """Return the decision that counts by a rule; -1 if none does."""
    if rule in ("first", "last"):
        times = [_time(decisions.time[place]) for place in places]
        # Without all times, and at the same time, the order in the tables counts.
        order = places if None in times else sorted(places, key=lambda place: _time(decisions.time[place]) or 0)
        return order[0 if rule == "first" else -1]
    if rule == "majority":
        resulting = [int(outcomes.resulting[place]) for place in places]
        (top, n_top), *others = Counter(resulting).most_common(2)
        if not others or others[0][1] < n_top:
            return places[resulting.index(top)]
    return -1


def _time(text: str) -> float | None:
    """Return a time in seconds, of UTC if it names no zone; None for what is not a time."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else datetime.fromisoformat(f"{when.isoformat()}+00:00")).timestamp()


def agreement(decisions: Decisions, outcomes: Outcomes, settled: Settled) -> tuple[Agreement, ...]:
    """Return the agreement of each two reviewers who decided the same rows; of one's decisions of a row the last.

    Parameters
    ----------
    decisions : Decisions
        Decisions.
    outcomes : Outcomes
        Their resulting labels.
    settled : Settled
        Which of them were corrected.
    """
    if len(decisions.reviewer.values) < 2:
        return ()
    by_row = np.argsort(decisions.rows, kind="stable")
    rows = decisions.rows[by_row]
    is_repeated = np.zeros(len(rows) + 1, np.bool_)
    is_repeated[1:-1] = rows[1:] == rows[:-1]
    shared = by_row[is_repeated[:-1] | is_repeated[1:]]
    shared = shared[~settled.is_corrected[shared]]
    of_reviewer = dict[str, tuple[Int64s, Int32s]]()
    for code in np.unique(decisions.reviewer.codes[shared]).tolist():
        own = shared[decisions.reviewer.codes[shared] == code]
        own = own[np.append(np.diff(decisions.rows[own]) != 0, True)]
        of_reviewer[decisions.reviewer.values[code]] = (decisions.rows[own], outcomes.resulting[own])
    found = list[Agreement]()
    for first, second in itertools.combinations(sorted(of_reviewer), 2):
        (rows, ours), (others, theirs) = of_reviewer[first], of_reviewer[second]
        _, a, b = np.intersect1d(rows, others, assume_unique=True, return_indices=True)
        if len(a):
            found.append(Agreement((first, second), len(a), *kappa_of(ours[a], theirs[b])))
    return tuple(found)
