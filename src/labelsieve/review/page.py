"""The review page: one file for a browser.

Names of classes and rows, and texts, come from users. They are in the page as JSON, which the script shows as text; the
page's policy lets nothing run but its own script, and loads nothing from elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.derived import softmax
from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.options import check_whole_number
from labelsieve.results import report
from labelsieve.results.result import TABLE_ROWS, Result, check_class_names
from labelsieve.results.store import replacing
from labelsieve.review.audit import Audit
from labelsieve.review.labels import LabelFile, open_given_labels
from labelsieve.sources.names import as_text, cell_text
from labelsieve.sources.open import open_any
from labelsieve.sources.source import Source
from labelsieve.storage.folder import LocalFolder
from labelsieve.storage.remote import check_place

# Classes of highest probability that a row shows, besides the given and the suggested one.
TOP_CLASSES: Final = 5
# No class: the suggestion of a row that is not an issue.
NO_CLASS: Final = -1
# Issues whose probabilities tell these from logits.
_COMPARED_PROBS: Final = 20
# How far a probability may be from the one in the result: float16 has three digits.
_TOLERANCE: Final = 5e-3
# Probabilities that are read at a time: 32 MB of float64.
_BLOCK_PROBS: Final = 1 << 22

Line = dict[str, Any]


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
    result : Result
        As it was given.
    rows : (n,) int64
        Row numbers.
    things : (n,) int64
        What its picture and text are of: the row, or the group (image, sentence, example) of which it is a part.
    n_things : int
        Number of all of these.
    given, suggested : (n,) int64
        Given and suggested class of each; `NO_CLASS` for no suggestion.
    names : tuple of str
        What is shown of each class.
    values : tuple of int or str
        The label of each class as it is stored, and as decisions name it.
    has_texts : bool
        Whether texts are shown.

    Raises
    ------
    InvalidInputError
        For an audit of another result, arrays of another number of rows, and other labels or probabilities than those
        of the result.
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
        self.result = result
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
        self._scores: npt.NDArray[Any] = np.empty(0)  # of chosen rows
        if audit is None and rows is None:
            issues = result.worst(top)
            self.rows = issues.rows
            self.given = issues.given_labels.astype(np.int64)
            self.suggested = issues.suggested_labels.astype(np.int64)
        else:
            self.rows, self._scores = _checked_rows(rows, result) if audit is None else (audit.rows, audit.scores)
            ranks = _ranks_of(self.rows, result)
            if audit is not None:
                _check_audit(audit, result, ranks)
            self._issues = _lines_at(result, ranks)
            self.given, self.suggested = (
                np.array([line.get(name, NO_CLASS) for line in self._issues], np.int64)
                for name in ("given", "suggested")
            )
        stored = None if file is None else file.take_unsorted(self.rows)
        self.names, self.values = _names_and_values(result, _label_kind(result, file, stored or ()), class_names)
        if audit is not None and audit.given_labels is not None:
            self._compare(audit.given_labels.tolist())
        if stored is not None:
            self._compare(stored)
        if (self.given == NO_CLASS).any():
            raise InvalidInputError(
                "the given labels of rows that are not issues are not in the result: give labels=... (--labels), or "
                "draw the audit with them"
            )
        self.things, self.n_things = self.rows, result.n_rows
        if result.layout is not None:
            self.things, self.n_things = result.layout.groups_of(self.rows), result.layout.n_groups
        self._texts = None if texts is None else report.RowTexts(texts, self.n_things, self.things)
        self._marked, self.has_texts = marked, texts is not None
        self._are_logits = self._probs is not None and self._takes_softmax()
        if self._issues is not None and self._probs is not None:
            self._suggest()

    def __len__(self) -> int:
        return len(self.rows)

    def _compare(self, stored: Sequence[Any]) -> None:
        """Take given labels where they are not known; raise if others are not those of the result."""
        known, texts = {str(value): k for k, value in enumerate(self.values)}, list(map(_as_value, stored))
        for row, text in zip(self.rows.tolist(), texts, strict=True):
            if text not in known:
                raise InvalidInputError(
                    f"labels: row {row:,} has {text!r}, which is not one of the labels of the result, "
                    f"{self.values[0]!r}, {self.values[1]!r} and so on: are these other labels?"
                )
        given = np.array([known[text] for text in texts], np.int64)
        other = np.flatnonzero((self.given != NO_CLASS) & (self.given != given))
        if len(other):
            row, values = int(self.rows[other[0]]), self.values
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
            lines = _lines_of(self.result.issue_table(start, stop))
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
        known = self._issues[start:] if self._issues else _lines_of(self.result.issue_table(start, start + len(probs)))
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


def _label_kind(result: Result, file: LabelFile | None, stored: Sequence[Any]) -> str:
    """Return what labels are, ``numbers``, ``names`` or ``booleans``: those of `file`, or those that the run read.

    Raises
    ------
    InvalidInputError
        If they are text that may be numbers as well as names.
    """
    kind = result.facts.label_kind or "numbers"
    if file is None:
        return kind
    if file.dtype.kind in "iufb":
        return "booleans" if file.dtype.kind == "b" else "numbers"
    texts, names = set(map(_as_value, stored)), list(result.class_names or ())
    numbers = list(map(str, range(result.n_classes)))
    if not texts <= set(names):
        return "numbers" if texts <= set(numbers) else "names"
    if kind == "numbers" and texts and texts <= set(numbers) and names != numbers:
        raise InvalidInputError(
            f"labels: {next(iter(stored))!r} may be the number or the name of a class, as class_names are numbers too: "
            "give labels that are numbers as integers"
        )
    return "names"


def _names_and_values(
    result: Result, kind: str, class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int | str, ...]]:
    """Return what is shown of each class, and its label as it is stored.

    Raises
    ------
    InvalidInputError
        If there is not a name for each class, or a name that no table of decisions can hold.
    """
    shown = check_class_names(class_names, result.n_classes) or result.class_names
    names = tuple(map(as_text, map(str, range(result.n_classes)) if shown is None else shown))
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
    return names, values


def _checked_rows(rows: Any, result: Result) -> tuple[Int64s, npt.NDArray[Any]]:
    """Return chosen rows as an array, and their scores.

    Raises
    ------
    InvalidInputError, InputTypeError
        For an empty list, rows beyond the result or without a label, and rows that are listed twice.
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
    scores = result.scores_at(found)
    for row in found[np.isnan(scores)][:1].tolist():
        raise InvalidInputError(f"rows: row {row:,} has no label to decide about").at([(row, row + 1)])
    return found.astype(np.int64, copy=False), scores


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
        audit.fingerprint == result.fingerprint
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
        found = _lines_of({name: column[ranks[places] - start] for name, column in table.items()})
        for place, line in zip(places.tolist(), found, strict=True):
            lines[place] = line
    return lines


def _lines_of(table: dict[str, npt.NDArray[Any]]) -> list[Line]:
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
    report.check_page(place, "review")
    rows = ReviewRows(result, top=check_whole_number("top", top, 1), **choices)
    pictures = None if images is None else report.open_pictures(images, rows.n_things)
    lines = [line for start in range(0, len(rows), _BLOCK_ROWS) for line in rows.part(start, start + _BLOCK_ROWS)]
    if pictures is not None:
        with ThreadPoolExecutor(_READERS) as pool:
            reading = [pool.submit(_data_url, pictures, thing) for thing in rows.things.tolist()]
            try:
                for line, one in zip(lines, reading, strict=True):
                    line["picture"] = one.result()
            finally:
                pool.shutdown(cancel_futures=True)
    config = {
        "fingerprint": result.fingerprint,
        "classes": rows.names,
        "values": rows.values,
        "index": {name: getattr(rows, name).tolist() for name in ("rows", "given", "suggested")},
        "rows": lines,
    }
    unit = "rows" if result.layout is None else result.layout.units[0]
    shown = f"The worst {len(rows):,} of {result.num_issues:,} label issues"
    if choices.get("audit") is not None:
        shown = f"{len(rows):,} {unit} of an audit"
    elif choices.get("rows") is not None:
        shown = f"{len(rows):,} chosen {unit}"
    page = report.render(
        "review/review.html.jinja",
        "review",
        heading=report.heading_parts(result, title),
        shown=shown,
        config=_json(config),
        script=_beside("review.js"),
        style=_beside("review.css"),
        policy=content_policy(),
    )
    with replacing(LocalFolder(place)) as made:
        made.write_bytes(as_text(page).encode())  # the place of the inputs may be any name of a file


def content_policy() -> str:
    """Return the content security policy of the page: its own script and style, and pictures that are in it."""
    hashes = {name: f"'{report.digest(_beside(f'review.{name}'))}'" for name in ("js", "css")}
    rules = {
        "default-src": "'none'",
        "script-src": hashes["js"],
        "style-src": hashes["css"],
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",  # the script makes no markup of text
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _data_url(pictures: report.Pictures, thing: int) -> str:
    """Return the picture of a row as a data URL, in bytes that fit its size."""
    image = pictures.image(thing, report.THUMBNAIL_SIDE)
    most = int(min(report.THUMBNAIL_BYTES, max(_LEAST_BYTES, _PIXEL_BYTES * image.width * image.height)))
    return report.encode_thumbnail(image, most, report.THUMBNAIL_SIDE)


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """Return JSON that may stand in a script element: no ``<`` is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
