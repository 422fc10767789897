"""What the review server answers about decisions: all of them, those made after a version, and to one that is made."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final

from tornado.web import HTTPError

from labelsieve.corrections.decisions import WORDS, Decision
from labelsieve.errors import UnwritableError
from labelsieve.results.review.decision_file import DecisionFile
from labelsieve.results.review.rows import NO_CLASS, ReviewRows

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
