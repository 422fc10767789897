"""What is wrong with the data: found in the pass that reads it, reported once, whole.

Covers: `Findings`, which strips fill and a tree folds, and the error and the warning made of them.
Does not cover: shapes, dtypes and lengths, known before any data is read (`sources`).

Findings are collected over the whole pass rather than raised at the first hit, so the message (which rows, how many) is
the same whatever the chunks, and one run shows every missing piece of a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, warn

# Row ranges that a message names before it says "and more".
MAX_RANGES: Final = 5

ERRORS: Final = {
    "nan": "NaN probabilities",
    "infinite": "infinite probabilities",
    "below": "probabilities below 0",
    "above": "probabilities above 1",
    "zero_row": "rows of pred_probs that are all zeros",
    "label": "labels outside 0..K-1",
}
WARNINGS: Final = {"low_row": "rows of pred_probs whose largest value is below 1/K, which no distribution has"}

# What is looked at in every 64th row, and told in reports alone.
NOTES: Final = {"row_sum": "of every 64th row of pred_probs have probabilities that do not sum to 1 within 1%"}


@dataclass
class Finding:
    """One kind of trouble: how many values, how many rows, and where.

    Parameters
    ----------
    n_values, n_rows : int
        How many values and rows were hit.
    ranges : list of tuple of int
        The first row ranges ``[start, stop)`` that were hit, in row order, neighbours joined.
    more : bool
        Whether there are ranges beyond those listed.
    example : float or int
        The first bad value.
    """

    n_values: int = 0
    n_rows: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    more: bool = False
    example: float | int = 0.0

    def extend(self, later: Finding) -> None:
        """Take in what was found in later rows."""
        if not self.n_values:
            self.example = later.example
        self.n_values += later.n_values
        self.n_rows += later.n_rows
        if self.more:
            return
        for start, stop in later.ranges:
            if self.ranges and self.ranges[-1][1] == start:
                self.ranges[-1] = (self.ranges[-1][0], stop)
            else:
                self.ranges.append((start, stop))
        self.more = later.more or len(self.ranges) > MAX_RANGES
        del self.ranges[MAX_RANGES:]

    def where(self) -> str:
        """Name the rows: ``rows 3, 17..20 and more``."""
        parts = [str(a) if b - a == 1 else f"{a}..{b - 1}" for a, b in self.ranges]
        return f"row{'s' if self.n_rows > 1 else ''} {', '.join(parts)}{' and more' if self.more else ''}"


class Findings(dict[str, Finding]):
    """All kinds of trouble in a run of rows, by the keys of `ERRORS`, `WARNINGS` and `NOTES`."""

    def add(
        self,
        kind: str,
        rows: npt.NDArray[np.intp],
        first_row: int,
        n_values: int | None = None,
        example: float = 0.0,
    ) -> None:
        """Record that the ascending `rows` of the strip that begins at `first_row` were hit."""
        if not len(rows):
            return
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        starts = rows[np.concatenate(([0], breaks))][: MAX_RANGES + 1]
        stops = rows[np.concatenate((breaks - 1, [len(rows) - 1]))][: MAX_RANGES + 1] + 1
        ranges = [(first_row + int(a), first_row + int(b)) for a, b in zip(starts, stops, strict=True)]
        found = Finding(len(rows) if n_values is None else n_values, len(rows), ranges, example=example)
        self.extend(Findings({kind: found}))

    def extend(self, later: Findings) -> None:
        """Take in what was found in later rows."""
        for kind, finding in later.items():
            self.setdefault(kind, Finding()).extend(finding)


def errors_in(findings: Findings, *, allow_zero_rows: bool) -> list[str]:
    """Return the kinds of trouble that would make the answer wrong."""
    return [kind for kind in ERRORS if kind in findings and not (kind == "zero_row" and allow_zero_rows)]


def combine_findings(parts: Iterable[Findings]) -> Findings:
    """Fold findings of neighbouring runs of rows, given in row order."""
    total = Findings()
    for part in parts:
        total.extend(part)
    return total


def notes_of(findings: Findings) -> tuple[str, ...]:
    """Return what looks odd, in sentences."""
    return tuple(
        f"{findings[kind].n_rows:,} {text} ({findings[kind].where()})."
        for kind, text in (WARNINGS | NOTES).items()
        if kind in findings
    )


def rows_in_words(n: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{n:,} {one if n == 1 else many}"


def raise_or_warn(findings: Findings, n_classes: int, *, allow_zero_rows: bool) -> None:
    """Raise for what would make the answer wrong, warn of what looks odd.

    Raises
    ------
    InvalidInputError
        Naming what is wrong, how many values, and in which rows.
    """
    kinds = errors_in(findings, allow_zero_rows=allow_zero_rows)
    if kinds:
        raise InvalidInputError("; ".join(_sentence(kind, findings[kind], n_classes) for kind in kinds))
    for kind, text in WARNINGS.items():
        if kind in findings:
            found = findings[kind]
            warn(f"{found.n_rows:,} {text} ({found.where()})")


def _sentence(kind: str, found: Finding, n_classes: int) -> str:
    what = ERRORS[kind].replace("K-1", str(n_classes - 1))
    text = f"{found.n_values:,} {what} in {found.where()}"
    if kind in ("below", "above"):
        text += f" (first: {found.example:.6g}; at most 1e-3 outside [0, 1] is accepted)"
    elif kind == "label":
        text += f" (first: {found.example})"
    elif kind == "zero_row":
        text = f"{found.n_rows:,} {what}, {found.where()}: missing chunk? "
        text += "(find_label_issues(allow_zero_rows=True) accepts them)"
    return text
