"""Which labels change: by decisions of reviewers, and by suggestions that are accepted without review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.corrections.decisions import Decisions
from labelsieve.corrections.label_arrays import LabelFile
from labelsieve.corrections.outcomes import UNSURE, LabelValues, Outcomes, Settled
from labelsieve.errors import InvalidInputError
from labelsieve.results.result import TABLE_ROWS
from labelsieve.sources.label_names import is_missing

if TYPE_CHECKING:
    from labelsieve.results.label_issues import LabelIssues


@dataclass(frozen=True, eq=False)
class LabelChanges:
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

    def merged(self, other: LabelChanges) -> LabelChanges:
        """Return the changes of both, which are of different rows."""
        order = np.argsort(np.concatenate([self.rows, other.rows]), kind="stable")
        columns = ("rows", "before", "after", "decided")
        return LabelChanges(*(np.concatenate([getattr(self, one), getattr(other, one)])[order] for one in columns))


def changes_of(values: LabelValues, read: Decisions, outcomes: Outcomes, settled: Settled) -> LabelChanges:
    """Return what decisions change.

    Parameters
    ----------
    values : LabelValues
        Which labels there may be.
    read : Decisions
        All decisions.
    outcomes : Outcomes
        Their resulting labels.
    settled : Settled
        Which of them count.
    """
    before, after = outcomes.stored[settled.places], outcomes.resulting[settled.places]
    changed = (after != UNSURE) & (after != before)
    before, after = (
        values.array([outcomes.labels[code] for code in codes[changed].tolist()]) for codes in (before, after)
    )
    places = settled.places[changed]
    return LabelChanges(read.rows[places], before, after, places)


def accepted_changes(
    file: LabelFile,
    values: LabelValues,
    issues: LabelIssues,
    margin: float,
    names: Sequence[str] | None,
    reviewed: npt.NDArray[Any],
) -> LabelChanges:
    """Return the changes by suggestions that are accepted without review.

    Parameters
    ----------
    file : LabelFile
        The labels.
    values : LabelValues
        Which labels there may be.
    issues : LabelIssues
        The result that makes the suggestions.
    margin : float
        By how much a suggested label must be more probable than the given one.
    names : sequence of str, optional
        All classes, if labels are names.
    reviewed : (n,) int
        Rows about which there are decisions: their suggestions are not accepted.

    Raises
    ------
    InvalidInputError
        If the given labels of the result are not those in the labels, or names of classes are missing.
    """
    parts = []
    for start in range(0, issues.num_issues, TABLE_ROWS):
        part = issues.found.part(start, min(start + TABLE_ROWS, issues.num_issues))
        gain = part.p_suggested.astype(np.float64) - part.p_given.astype(np.float64)
        taken = (gain >= margin) & ~np.isin(part.rows, reviewed)
        parts.append((part.rows[taken], part.given_labels[taken], part.suggested_labels[taken]))
    if not parts:
        return LabelChanges(np.empty(0, np.int64), values.array([]), values.array([]), np.empty(0, np.intp))
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
            f"issues: {len(wrong):,} given labels are not those in labels, the first in row {row:,}: another dataset, "
            "or labels already changed"
        ).at([(row, row + 1)])
    return LabelChanges(rows, before, classes[suggested], np.full(len(rows), -1, np.intp))
