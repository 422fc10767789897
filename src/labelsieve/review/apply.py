"""What decisions make of labels: compared with those that are stored, conflicts between reviewers, and the log."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.thresholds import Bools, Int32s, Int64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.options import (
    CONFLICT_RULES,
    NOTHING,
    TASKS,
    UNSURE_RULES,
    IgnoreLabel,
    check_flag,
    check_names,
    check_one_of,
)
from labelsieve.results.label_issues import GroupedIssues, LabelIssues
from labelsieve.results.result import FINGERPRINT, TABLE_ROWS, labels_digest, loaded_versions, open_ids
from labelsieve.results.store import check_writable, replacing
from labelsieve.results.units import classes_of_tags
from labelsieve.review.decisions import CHANGING, WORDS, Decisions, is_empty_text, read_decisions, whole_number
from labelsieve.review.labels import LabelFile, Values, open_given_labels
from labelsieve.sources.names import as_text, cell_text, is_missing
from labelsieve.sources.places import local_path
from labelsieve.sources.zarr import is_zarr_array
from labelsieve.storage.folder import LocalFolder
from labelsieve.storage.remote import check_place, without_query

# The code of the resulting label of an unsure decision.
UNSURE: Final = -1
# Rows and decisions that a message names.
_NAMED: Final = 5
# Lines of the log that are made at a time.
_BLOCK_LINES: Final = 1 << 16


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
            limits = np.iinfo(self.dtype)
            if not limits.min <= number <= limits.max:
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


def results_of(decisions: Decisions) -> Iterator[tuple[int, str]]:
    """Yield the first decision about each result, and the result's fingerprint.

    Raises
    ------
    InvalidInputError
        For text that is not a fingerprint.
    """
    for code, result in enumerate(decisions.result.values):
        if not result:
            continue
        place = int((decisions.result.codes == code).argmax())
        if FINGERPRINT.fullmatch(result) is None:
            raise decisions.error([place], f": {result!r} is not the fingerprint of a result: is the file cut off?")
        yield place, result


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
    for place, result in results_of(decisions):
        about = f" is about the result {result}, "
        if result.partition("-")[0] != digest:
            why = "which is not one of these labels: another dataset, or labels already changed"
            raise decisions.error([place], about + why)
        if fingerprint is not None and result != fingerprint:
            raise decisions.error([place], f"{about}issues are {fingerprint}")


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
    wanted = np.full(len(decisions.given.values) + 1, -1, np.int32)
    for place, given in enumerate(decisions.given.values):
        with suppress(ValueError):  # a label of another kind is none of those that are stored
            wanted[place] = known.get(values.parse(given), -1)
    is_same = wanted[decisions.given.codes] == before
    if None in known:
        is_same |= (before == known[None]) & decisions.given.where(map(is_empty_text, decisions.given.values))
    other = np.flatnonzero(~is_same)
    if len(other):
        first = int(other[0])
        raise decisions.error(
            other,
            f" has {decisions.given[first]!r} as the given label, labels has {labels[before[first]]!r}: another "
            "dataset, or labels already changed",
            f"{rows_in_words(len(other), 'given label differs', 'given labels differ')} from labels: ",
        )
    resulting, changes = before.copy(), np.isin(decisions.words, CHANGING)
    resulting[decisions.words == WORDS.index("unsure")] = UNSURE
    new, faults = np.zeros(len(decisions.label.values) + 1, np.int32), dict[int, str]()
    for code in np.flatnonzero(np.bincount(decisions.label.codes[changes])).tolist():
        try:
            label = values.parse(decisions.label.values[code])
        except ValueError as error:
            faults[code] = str(error)
            continue
        if values.classes is None or label in values.classes:
            new[code] = coded(label)
        else:
            faults[code] = f"{label!r} is not one of the {len(values.classes):,} classes"
    if faults:
        first = int(np.flatnonzero(changes & np.isin(decisions.label.codes, list(faults)))[0])
        raise decisions.error([first], f": {faults[int(decisions.label.codes[first])]}")
    resulting[changes] = new[decisions.label.codes[changes]]
    return Outcomes(labels, n_stored, before, resulting)


@dataclass(frozen=True, eq=False)
class Settled:
    """The decisions that count.

    Parameters
    ----------
    places : (m,) int64
        The decision that counts for each row, in ascending order of rows. Rows with a conflict whose rule is to keep
        the given label are not among them.
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
            shown = list[tuple[str, str, Any]]()
            for place in left:
                code = outcomes.resulting[place]
                label = None if code == UNSURE else outcomes.labels[code]
                shown.append((decisions.reviewer[place], WORDS[decisions.words[place]], label))
            conflicts.append(Conflict(int(decisions.rows[left[0]]), tuple(shown)))
            # Without all times, and at the same time, the order in the tables counts.
            times = [_time(decisions.time[place]) for place in left]
            last = left[-1] if None in times else max(zip(times, left, strict=True))[1]
            chosen[group] = last if rule == "last" else -1
    if conflicts and rule == "error":
        some = ", ".join(map(str, conflicts[:_NAMED])) + (", ..." if len(conflicts) > _NAMED else "")
        rules = " or ".join(f"conflicts={other!r}" for other in CONFLICT_RULES[1:])
        raise InvalidInputError(
            f"decisions: they differ in {rows_in_words(len(conflicts), 'row', 'rows')}: {some}: choose a "
            f"rule for such rows with {rules}"
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


def _time(text: str) -> float | None:
    """Return a time in seconds, of UTC if it names no zone; None for what is not a time."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else datetime.fromisoformat(f"{when.isoformat()}+00:00")).timestamp()


def check_tags(n_tags: int, read: Decisions, outcomes: Outcomes) -> None:
    """Raise if a decision about one tag results in another.

    Parameters
    ----------
    n_tags : int
        Number of tags K.
    read : Decisions
        Decisions.
    outcomes : Outcomes
        Their resulting labels.

    Raises
    ------
    InvalidInputError
        Naming the first such decision.
    """
    labels = np.array(outcomes.labels, np.int64)
    other = (outcomes.resulting != UNSURE) & (labels[outcomes.resulting] // 2 != read.rows % n_tags)
    if other.any():
        place = int(other.argmax())
        example, tag = divmod(int(read.rows[place]), n_tags)
        raise read.error(
            [place],
            f" is about tag {tag} of example {example:,}, whose labels are {2 * tag} (without it) and {2 * tag + 1}, "
            f"not {labels[outcomes.resulting[place]]}",
        )


def check_occurring(file: LabelFile, read: Decisions, outcomes: Outcomes) -> None:
    """Raise if a resulting label is in no row; for numbers, if it is above the highest one.

    Parameters
    ----------
    file : LabelFile
        All labels, which are read until all resulting ones are found.
    read : Decisions
        Decisions.
    outcomes : Outcomes
        Their resulting labels.

    Raises
    ------
    InvalidInputError
        Naming the first such decision.
    """
    missing = set(outcomes.labels[outcomes.n_stored :])
    if not missing:
        return
    if file.dtype.kind in "iu":
        highest = max(_highest(block) for block in file.blocks() if len(block))
        missing = {label for label in missing if not 0 <= label <= highest}
    else:
        for block in file.blocks():
            missing -= set(block.tolist())
            if not missing:
                return
    if missing:
        codes = [code for code, label in enumerate(outcomes.labels) if label in missing]
        place = int(np.isin(outcomes.resulting, codes).argmax())
        label = outcomes.labels[outcomes.resulting[place]]
        of = f"labels has 0..{highest}" if file.dtype.kind in "iu" else "no row of labels has it"
        raise read.error([place], f": the resulting label is {label!r}, and {of}: if it is a class, give class_names")


def _highest(block: npt.NDArray[Any]) -> int:
    """Return the highest number among labels, of which some may be missing; -1 if all are."""
    if block.dtype.kind != "O":
        return int(block.max())
    return max((label for label in block.tolist() if not is_missing(label)), default=-1)


def earlier_logs(log: Path) -> list[Any]:
    """Return the logs of earlier corrections of the same labels, the oldest first."""
    try:
        found = json.loads(log.read_text(encoding="utf-8"))
        return [*found.pop("earlier", []), found]
    except (OSError, ValueError, AttributeError):
        return []


def change_lines(rows: Int64s, before: Values, after: Values, read: Decisions, decided: Values) -> Iterator[str]:
    """Yield a line of the log for each changed row, as JSON.

    Parameters
    ----------
    rows : (n,) int64
        The changed rows.
    before, after : (n,) array
        Their labels.
    read : Decisions
        All decisions.
    decided : (n,) int
        Positions of the decisions that changed the rows; -1 for rows that were accepted without review.
    """
    quoted = json.JSONEncoder(ensure_ascii=False).encode
    encoded, said = _Encoded(), (*WORDS, "auto")
    people, times, names = ([*column.values, ""] for column in (read.reviewer, read.time, read.id))  # "" of nobody
    people = list(map(quoted, people))
    who, when, own = (np.append(column.codes, -1) for column in (read.reviewer, read.time, read.id))
    words = np.append(read.words, -1)
    for start in range(0, len(decided), _BLOCK_LINES):
        part = slice(start, start + _BLOCK_LINES)
        by = decided[part]
        columns = (rows[part], before[part], after[part])
        coded = (words[by], who[by], when[by], own[by])
        for row, old, new, word, person, time, name in zip(*(one.tolist() for one in columns + coded), strict=True):
            named = f', "id": {quoted(names[name])}' if names[name] else ""
            yield (
                f'{{"row": {row}, "before": {encoded[old]}, "after": {encoded[new]}, "decision": "{said[word]}", '
                f'"reviewer": {people[person]}, "time": {quoted(times[time])}{named}}}'
            )


def write_log(path: Path, head: dict[str, Any], lines: Iterable[str]) -> None:
    """Write a log, of which the lines are never all in memory.

    Parameters
    ----------
    path : Path
        The file.
    head : dict
        All keys but ``changes``.
    lines : iterable of str
        Lines of `change_lines`.
    """
    with path.open("w", encoding="utf-8") as text:
        text.write(json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}") + ',\n "changes": [')
        for number, line in enumerate(lines):
            text.write(",\n  " + line if number else "\n  " + line)
        text.write("\n ]\n}\n")


class _Encoded(dict[Any, str]):
    """Labels as JSON."""

    def __missing__(self, label: Any) -> str:
        self[label] = text = json.dumps(plain_label(label), ensure_ascii=False)
        return text


def plain_label(label: Any) -> Any:
    """Return a label as JSON takes it; null for a missing one."""
    if is_missing(label):
        return None
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return as_text(label) if isinstance(label, str) else label


@dataclass(frozen=True, eq=False, repr=False)
class AppliedDecisions:
    """Corrected labels, and what was changed.

    Attributes
    ----------
    labels : array, list or None
        The corrected labels ``(N,)``, or masks, a matrix or lists if they were given as such; None if they were written
        to `output`.
    output : str or None
        The path of the corrected labels; the log is beside it, at ``output + ".log.json"``.
    n_rows : int
        Number of rows N; of pixels, tokens, or examples times tags, if labels are of these.
    changed : (n,) int64
        Rows whose label is another now, ascending.
    before, after : (n,) array
        Their labels before and after.
    dropped : (m,) int64
        Rows to leave out: those that are unsure, with ``unsure="drop"``. They are still among the labels.
    counts : dict of str and int
        ``rows``, ``accept``, ``keep``, ``other``, ``unsure`` (rows by decision), ``auto`` (accepted without review),
        ``changed``, ``dropped``, ``ignored``, ``conflicts``, and ``corrected``: decisions that their reviewer changed.
    conflicts : tuple of Conflict
        Rows about which the decisions differ, each with its ``row`` and its ``decisions``.
    """

    labels: Any
    output: str | None
    n_rows: int
    changed: Int64s
    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    dropped: Int64s
    counts: dict[str, int]
    conflicts: tuple[Conflict, ...]

    def kept_mask(self) -> npt.NDArray[np.bool_]:
        """Return an ``(N,)`` mask that is False for the rows to leave out.

        Examples
        --------
        >>> import labelsieve, pandas as pd
        >>> unsure = pd.DataFrame({"row": [1], "given_label": [1], "decision": ["unsure"], "label": [None]})
        >>> labelsieve.apply_decisions([0, 1, 0], unsure, unsure="drop").kept_mask().tolist()
        [True, False, True]
        """
        kept = np.ones(self.n_rows, np.bool_)
        kept[self.dropped] = False
        return kept

    def __repr__(self) -> str:
        more = f", {rows_in_words(len(self.dropped), 'row', 'rows')} to leave out" if len(self.dropped) else ""
        where = f", written to {self.output}" if self.output else ""
        return f"<AppliedDecisions: {len(self.changed):,} of {self.n_rows:,} labels changed{more}{where}>"


def apply_decisions(
    labels: Any,
    decisions: Any = None,
    output: str | os.PathLike[str] | None = None,
    unsure: str = "keep",
    *,
    ignore_label: IgnoreLabel = NOTHING,
    conflicts: str = "error",
    class_names: Sequence[str] | None = None,
    column: str | None = None,
    task: str | None = None,
    ids: Any = None,
    issues: LabelIssues | GroupedIssues | None = None,
    auto: str | None = None,
    margin: float | None = None,
    overwrite: bool = False,
) -> AppliedDecisions:
    """Correct labels by the decisions of reviewers.

    Parameters
    ----------
    labels : path, (N,) array-like, masks, matrix or lists
        The labels: a ``.npy`` file, a Zarr array, a column of a ``.parquet`` or ``.csv`` file, an array in memory, or
        what else `labelsieve.find_label_issues` reads: shards, an array in an ``.npz`` file, a URL. Labels of tokens,
        tags and pixels may be masks, a matrix or lists (`docs/from_found_to_fixed.md`).
    decisions : path, table, or list of these, optional
        One or more tables of decisions, as CSV files, exports of Label Studio (``.json``), frames of pandas or Polars,
        Arrow tables, or dicts of columns. May be missing with `auto`.
    output : path, optional
        Where the corrected labels go, in the form of `labels`: same ending, dtype, chunks and other columns. Labels in
        memory, shards, archives and what is at a URL are written as ``.npy`` or ``.zarr``. Without it they are returned
        in memory.
    unsure : {"keep", "drop", "ignore"}
        What becomes of rows whose decision is ``unsure``: they keep their label; they are listed as rows to leave out
        (`AppliedDecisions.dropped`); or they get `ignore_label`.
    ignore_label : int, str or None
        The label that says that a row has none; None for a missing value, in tables and arrays of objects.
    conflicts : {"error", "keep", "last"}
        What becomes of rows about which decisions differ: an error; the given label; or the last decision, by time if
        all have one, else in the order of the tables.
    class_names : sequence of str, optional
        All classes. Labels that are names must be among them, and numbers in 0..K-1. Without them and `issues`, a
        resulting name must occur in `labels`, and a number must not be above all labels. For tags, their K names.
    column : str, optional
        The column of a table, also written as ``table.csv::label``; may be missing if there is only one.
    task : {"classification", "segmentation", "tokens", "tags"}, optional
        What a label belongs to: a row, a pixel of a mask, a token of a sentence, or a tag of an example. By default the
        task of `issues`; without these, arrays of three axes are masks, and anything else must have a label for each
        row.
    ids : array-like or path, optional
        The user's names of rows, or of images, sentences or examples, as in `labelsieve.find_label_issues`, to compare
        with the column ``id``.
    issues : LabelIssues, SegmentationIssues, TokenIssues or MultilabelIssues, optional
        The result that the decisions are about, to compare with the column ``result``; needed for `auto`.
    auto : "accept", optional
        Accept suggestions of `issues` without review, for rows without a decision; the log says so.
    margin : float, optional
        Of these only suggestions whose probability is higher than that of the given label by at least `margin`, from 0
        to 1.
    overwrite : bool
        Whether `output` may be there already, and may be `labels` itself. It is replaced at the end, as a whole. A
        folder of PNG files is never replaced.

    Returns
    -------
    AppliedDecisions
        Corrected labels or their path, what was changed, and rows to leave out.

    Raises
    ------
    InvalidInputError
        For decisions that do not fit the labels, or each other, and an output that is there; nothing is written then.
    InputTypeError
        For objects of another kind.
    UnreadableDataError
        If labels are damaged, or cannot be read.
    MissingDependencyError
        Without pyarrow for Parquet files, or Pillow for PNG files.
    UnwritableError
        If the output cannot be written: a folder without permission, a full disk.

    Examples
    --------
    >>> import labelsieve, pandas as pd
    >>> decided = pd.DataFrame(
    ...     {
    ...         "row": [2, 0, 1],
    ...         "given_label": ["cat", "cat", "dog"],
    ...         "decision": ["accept", "keep", "unsure"],
    ...         "label": ["dog", None, None],
    ...         "reviewer": "ann",
    ...     }
    ... )
    >>> applied = labelsieve.apply_decisions(["cat", "dog", "cat"], decided, unsure="drop")
    >>> applied
    <AppliedDecisions: 1 of 3 labels changed, 1 row to leave out>
    >>> applied.labels.tolist(), applied.dropped.tolist()
    (['cat', 'dog', 'dog'], [1])

    Accept the clearest suggestions without review:

    >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> labelsieve.apply_decisions([0, 1, 0], issues=found, auto="accept", margin=0.5).labels.tolist()
    [0, 1, 1]

    Change pixel (1, 0) of the only image, and add tag 1 to example 0:

    >>> decided = {"row": [2], "given_label": [0], "decision": ["other"], "label": [1]}
    >>> labelsieve.apply_decisions([[[0, 1], [0, 0]]], decided).labels.tolist()
    [[[0, 1], [1, 0]]]
    >>> decided = {"row": [1], "given_label": [2], "decision": ["accept"], "label": [3]}
    >>> labelsieve.apply_decisions([["cat"], []], decided, task="tags", class_names=["cat", "dog"]).labels
    [['cat', 'dog'], []]
    """
    class_names = None if class_names is None else check_names("class_names", class_names)
    check_one_of("unsure", unsure, UNSURE_RULES)
    check_one_of("conflicts", conflicts, CONFLICT_RULES)
    check_flag("overwrite", overwrite)
    if isinstance(issues, GroupedIssues):
        issues = issues.rows
    _check_policies(decisions, unsure, ignore_label, issues, auto, margin)
    layout = None if issues is None else issues.layout
    if task is not None:
        check_one_of("task", task, TASKS)
    file = open_given_labels(labels, layout, column=column, task=task, class_names=class_names)
    if file.n_tags and unsure == "ignore":
        raise InvalidInputError("unsure='ignore' is not for tags, which are there or not: take 'keep' or 'drop'")
    place = None if output is None else _checked_output(output, file, decisions, overwrite=overwrite)
    names = class_names if class_names is not None or issues is None else issues.class_names
    read = read_decisions(decisions, names if class_names is None or not file.n_tags else classes_of_tags(class_names))
    if issues is not None and issues.n_rows != file.n_rows:
        resized = layout is not None and layout.n_groups == file.n_groups
        hint = f"{layout.units[1]} of other sizes" if layout is not None and resized else "another dataset"
        raise InvalidInputError(f"issues have {issues.n_rows:,} rows, labels {file.n_rows:,}: {hint}")
    values = LabelValues(file.dtype, _classes_of(file, names, issues))
    outcomes, digest = _compare(file, read, values, ids)
    check_results(read, digest, None if issues is None else issues.fingerprint)
    settled = settle(read, outcomes, conflicts)
    unsure_rows = read.rows[settled.places[outcomes.resulting[settled.places] == UNSURE]]
    ignored = [_ignored_value(file, values, ignore_label)] if unsure == "ignore" else []
    changes = _changes_of(values, read, outcomes, settled, ignored)
    if auto is not None and issues is not None and margin is not None:
        changes = changes.merged(_accepted_changes(file, values, issues, margin, names, read.rows))
    words = np.bincount(read.words[settled.places], minlength=len(WORDS)).tolist()
    counts = {"rows": file.n_rows, **dict(zip(WORDS, words, strict=True))}
    counts["auto"] = int(np.count_nonzero(changes.decided < 0))
    counts |= {"changed": len(changes.rows)} | {
        name: len(unsure_rows) if unsure == rule else 0 for name, rule in (("dropped", "drop"), ("ignored", "ignore"))
    }
    applied = AppliedDecisions(
        None if place is not None else file.corrected(changes.rows, changes.after),
        None if place is None else str(place),
        file.n_rows,
        changes.rows,
        changes.before,
        changes.after,
        unsure_rows if unsure == "drop" else np.empty(0, np.int64),
        counts | {"conflicts": len(settled.conflicts), "corrected": int(settled.is_corrected.sum())},
        settled.conflicts,
    )
    if place is not None:
        head = {
            "labels": file.where,
            "output": str(place),
            "decisions": _places_of(decisions),
            "unsure": unsure,
            "ignore_label": None if ignore_label is NOTHING else ignore_label,
            "conflict_rule": conflicts,
            "auto": None if auto is None else {"decision": auto, "margin": margin, "looked_at": False},
            "result": None if issues is None else issues.fingerprint,
        }
        _write(applied, file, place, head, read, changes.decided)
    return applied


def _check_policies(
    decisions: Any, unsure: str, ignore_label: IgnoreLabel, issues: Any, auto: Any, margin: Any
) -> None:
    """Raise unless the arguments fit each other."""
    if (unsure == "ignore") != (ignore_label is not NOTHING):
        raise InvalidInputError("unsure='ignore' and ignore_label belong together: give both or neither")
    if issues is not None and not isinstance(issues, LabelIssues):
        raise InputTypeError(f"issues must be a LabelIssues, not {type(issues).__name__}")
    if auto is None:
        if margin is not None:
            raise InvalidInputError("margin is for auto='accept'")
        if decisions is None:
            raise InputTypeError("decisions are missing")
        return
    check_one_of("auto", auto, ("accept",))
    if issues is None or margin is None:
        raise InvalidInputError("auto='accept' needs issues, whose suggestions it accepts, and a margin")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin <= 1:
        raise InvalidInputError(f"margin must be a number from 0 to 1, not {margin!r}")


def _checked_output(output: str | os.PathLike[str], file: LabelFile, decisions: Any, *, overwrite: bool) -> Path:
    """Return the path of the output, or raise if it cannot be written there, or should not be."""
    place = check_place("output", output)
    local = local_path(place)
    if local is None:
        raise InvalidInputError(
            f"output: {without_query(place)} is a URL: corrected labels are written to a local path"
        )
    path = Path(local).absolute()
    if not file.suffixes:
        raise InvalidInputError("output: a list of masks has no form as a file: leave output out")
    if path.suffix.lower() not in file.suffixes:
        form = f"end in {' or '.join(file.suffixes)}" if any(file.suffixes) else "be a folder, without an ending"
        raise InvalidInputError(f"output: {path} must {form}: labels are written in the form in which they are")
    tables = [one for one in _listed(decisions) if isinstance(one, str | os.PathLike)]
    log = _log_of(path)
    for one in (path, log):
        if any(one.resolve() == Path(table).resolve() for table in tables):
            raise InvalidInputError(f"output: {one} holds the decisions: it is not replaced")
    is_input = path.exists() and Path(file.where).exists() and path.samefile(file.where)
    source = Path(file.where)
    if not is_input and source.is_absolute() and source.resolve() in path.resolve().parents:
        raise InvalidInputError(f"output: {path} is within the labels: give a path beside them")
    if not is_input and path.exists() and file.is_part(path):
        raise InvalidInputError(f"output: {path} is a part of labels: it is not replaced")
    for one in (path, log):
        if (one.exists() or one.is_symlink()) and not overwrite:
            what = "is the input" if is_input and one == path else "exists"
            raise InvalidInputError(f"output: {one} {what}: overwrite=True (--overwrite) replaces it")
    if path.is_dir() and not (path.suffix == ".zarr" and is_zarr_array(path)):
        raise InvalidInputError(f"output: {path} is a folder that is not a Zarr array: it is not replaced")
    check_writable(path)
    return path.resolve() if path.is_symlink() else path


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.log.json")


def _listed(decisions: Any) -> list[Any]:
    return list(decisions) if isinstance(decisions, list | tuple) else [] if decisions is None else [decisions]


def _places_of(decisions: Any) -> list[str]:
    tables = _listed(decisions)
    return [os.fspath(one) if isinstance(one, str | os.PathLike) else type(one).__name__ for one in tables]


def _classes_of(file: LabelFile, names: Sequence[str] | None, issues: LabelIssues | None) -> Any:
    """Return all classes as they are stored, or None if they are not known."""
    if file.n_tags:
        return range(2 * file.n_tags)
    if file.dtype.kind in "iuf":
        n_classes = len(names) if names is not None else None if issues is None else issues.n_classes
        return None if n_classes is None else range(n_classes)
    if file.dtype.kind == "b" or names is None:
        return None
    return {name.encode() for name in names} if file.dtype.kind == "S" else set(names)


def _compare(file: LabelFile, read: Decisions, values: LabelValues, ids: Any) -> tuple[Outcomes, str]:
    """Return the stored and the resulting label of each decision, and what tells the labels from others.

    The latter is ``""`` unless decisions name their result: all labels are read for it.
    """
    unknown = np.flatnonzero((read.rows < 0) | (read.rows >= file.n_rows))
    if len(unknown):
        why = f": there is no such row, labels has {file.n_rows:,} rows: are these decisions about another dataset?"
        raise read.error(unknown, why)
    rows, which = np.unique(read.rows, return_inverse=True)
    digest = ""
    if any(read.result.values):
        stored, counts = file.take_and_count(rows)
        digest = labels_digest(counts.values())
    else:
        stored = file.take(rows) if len(rows) else np.empty(0, file.dtype)
    outcomes = check_against(read, stored.tolist(), which, values)
    if values.classes is None and file.dtype.kind != "b":
        check_occurring(file, read, outcomes)
    if file.n_tags:
        check_tags(file.n_tags, read, outcomes)
    names = open_ids(ids, file.n_groups)
    if names is not None:
        known = list(map(str, names.part(0, 0, file.groups_of(rows)).tolist()))
        for place in np.flatnonzero(read.id.where(map(bool, read.id.values))).tolist():
            if read.id[place] != known[which[place]]:
                why = f" has the id {read.id[place]!r}, ids has {known[which[place]]!r}: another dataset?"
                raise read.error([place], why)
    return outcomes, digest


def _ignored_value(file: LabelFile, values: LabelValues, ignore_label: IgnoreLabel) -> Any:
    """Return `ignore_label` as it is stored."""
    if ignore_label is None:
        if not file.nullable:
            raise InvalidInputError(f"ignore_label=None: labels of {file.dtype} cannot be missing: give a value")
        return None
    try:
        return values.parse(ignore_label)
    except ValueError as error:
        raise InvalidInputError(f"ignore_label: {error}") from None


def _write(
    applied: AppliedDecisions,
    file: LabelFile,
    place: Path,
    head: dict[str, Any],
    read: Decisions,
    decided: npt.NDArray[np.intp],
) -> None:
    """Write the labels and the log; both are there at the end, or neither."""
    log = _log_of(place)
    earlier = earlier_logs(log) if place.exists() and Path(file.where).exists() and place.samefile(file.where) else []
    with replacing(LocalFolder(place)) as made:
        file.write(made, applied.changed, applied.after)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        head |= {
            "finished": now,
            "version": loaded_versions()["labelsieve"],
            "counts": applied.counts,
            "conflicts": [
                {"row": one.row, "decisions": [[who, word, plain_label(label)] for who, word, label in one.decisions]}
                for one in applied.conflicts
            ],
            "dropped": applied.dropped.tolist(),
            "earlier": earlier,
        }
        lines = change_lines(applied.changed, applied.before, applied.after, read, decided)
        with replacing(LocalFolder(log)) as written:
            write_log(written, head, lines)


@dataclass(frozen=True, eq=False)
class _LabelChanges:
    """Rows whose label changes.

    Parameters
    ----------
    rows : (n,) int64
        The rows, ascending.
    before, after : (n,) array
        Their labels before and after.
    decided : (n,) int
        The position of the decision that changes each row; -1 for a suggestion that is accepted without review.
    """

    rows: Int64s
    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    decided: npt.NDArray[np.intp]

    def merged(self, other: _LabelChanges) -> _LabelChanges:
        """Return the changes of both, which are of different rows."""
        order = np.argsort(np.concatenate([self.rows, other.rows]), kind="stable")
        columns = ("rows", "before", "after", "decided")
        return _LabelChanges(*(np.concatenate([getattr(self, one), getattr(other, one)])[order] for one in columns))


def _changes_of(
    values: LabelValues, read: Decisions, outcomes: Outcomes, settled: Settled, ignored: list[Any]
) -> _LabelChanges:
    """Return what decisions change; `ignored` is the label of unsure rows, if they get one."""
    before, after = outcomes.stored[settled.places], outcomes.resulting[settled.places]
    labels = outcomes.labels + ignored
    if ignored:
        keys = [None if is_missing(label) else label for label in labels]
        code = keys.index(keys[-1])
        labels[code], after = ignored[0], np.where(after == UNSURE, np.int32(code), after)
    changed = (after != UNSURE) & (after != before)
    before, after = (values.array([labels[code] for code in codes[changed].tolist()]) for codes in (before, after))
    places = settled.places[changed]
    return _LabelChanges(read.rows[places], before, after, places)


def _accepted_changes(
    file: LabelFile,
    values: LabelValues,
    issues: LabelIssues,
    margin: float,
    names: Sequence[str] | None,
    reviewed: npt.NDArray[Any],
) -> _LabelChanges:
    """Return the changes by suggestions that are accepted without review."""
    parts = []
    for start in range(0, issues.num_issues, TABLE_ROWS):
        part = issues.found.part(start, min(start + TABLE_ROWS, issues.num_issues))
        gain = part.p_suggested.astype(np.float64) - part.p_given.astype(np.float64)
        taken = (gain >= margin) & ~np.isin(part.rows, reviewed)
        parts.append((part.rows[taken], part.given_labels[taken], part.suggested_labels[taken]))
    if not parts:
        return _LabelChanges(np.empty(0, np.int64), values.array([]), values.array([]), np.empty(0, np.intp))
    rows, given, suggested = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(rows)
    rows, given, suggested = rows[order], given[order].astype(np.intp), suggested[order].astype(np.intp)
    if file.dtype.kind in "iuf":
        classes = np.arange(issues.n_classes).astype(file.dtype)
    elif file.dtype.kind == "b":
        classes = np.array([False, True])
    else:
        if names is None or len(names) != issues.n_classes:
            raise InvalidInputError(f"labels are names: give class_names, one for each of {issues.n_classes:,} classes")
        classes = values.array([values.parse(name) for name in names])
    before = file.take(rows) if len(rows) else values.array([])
    pairs = zip(before.tolist(), classes[given].tolist(), strict=True)
    is_other = np.fromiter((is_missing(one) or one != other for one, other in pairs), np.bool_, len(rows))
    wrong = np.flatnonzero(is_other)
    if len(wrong):
        row = int(rows[wrong[0]])
        raise InvalidInputError(
            f"issues: {rows_in_words(len(wrong), 'given label differs', 'given labels differ')} from labels, the first "
            f"in row {row:,}: another dataset, or labels already changed"
        ).at([(row, row + 1)])
    return _LabelChanges(rows, before, classes[suggested], np.full(len(rows), -1, np.intp))
