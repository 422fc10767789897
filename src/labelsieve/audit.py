"""How many labels are wrong, as an estimate with an interval: draw rows, review them, estimate.

The number of issues that were found is no such estimate: some of them are right, and some wrong labels are not among
them. A review of the worst rows alone tells nothing of the others. An audit draws rows from all, each with a known
probability:

>>> import numpy as np
>>> import labelsieve
>>> rng = np.random.default_rng(0)
>>> true = rng.integers(0, 3, 5000)
>>> logits = rng.normal(0, 1, (5000, 3)) + 3 * np.eye(3)[true]
>>> probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
>>> is_wrong = rng.random(5000) < 0.04
>>> labels = np.where(is_wrong, (true + 1) % 3, true)

>>> issues = labelsieve.find_label_issues(labels, probs)
>>> audit = issues.audit(budget=200, seed=0, labels=labels)
>>> decisions = is_wrong[audit.rows]  # a person's decision about each of the 200 rows
>>> estimate = labelsieve.estimate(audit, decisions)
>>> print(estimate)
4.1% wrong (2.9 to 5.7), found issues are right in 94% (72 to 100), recall 55% (37 to 71)
>>> print(f"{is_wrong.mean():.1%}, {is_wrong[issues].mean():.0%}, {is_wrong[issues].sum() / is_wrong.sum():.0%}")
3.4%, 97%, 68%
>>> estimate.rows_for_width(0.01)
1408

## How rows are drawn

Rows with a label are put in five strata by score, which end at the lowest 1, 3, 10 and 30%, and in each the issues are
apart from the other rows. Two thirds of the budget are shared out by the size of the strata, one third in equal parts
to the five. So low scores, where wrong labels gather, are reviewed more closely, while scores that tell nothing cost
little. Within a stratum rows are drawn from all alike, without repetition. `Audit.weights` says how many rows each one
stands for.

The rows are in a random order. A review that stops early is an audit of fewer rows, and ``budget=400`` with the same
seed holds the rows of ``budget=200``.

``issues.review("review.html", audit=audit)`` writes a page to decide about these rows, whose CSV file `estimate` takes.

## What is estimated

| Name | Meaning | Method |
|---|---|---|
| `error_rate` | share of wrong labels among all rows with a label | sum over strata [1], Wilson's interval [2, 3, 4] |
| `precision_of_issues` | share of the found issues whose label is wrong | the same, interval of Agresti and Coull [5] |
| `recall_of_issues` | share of the wrong labels that are found issues | both intervals combined by MOVER [6] |
| `per_class` | share of wrong labels among the rows with a given label | weighted share, Kish's effective size [7] |

1. Horvitz and Thompson 1952: each drawn row counts for ``1 / probability`` rows.
2. Wilson 1927: an interval for shares that holds at small counts.
3. Korn and Graubard 1998: the same with an effective sample size, the size of a sample from all rows alike that would
   have the same variance.
4. Franco, Little, Louis and Slud 2019: such intervals compared, also for strata.
5. Agresti and Coull 1998, with Student's t: few issues are drawn.
6. Zou and Donner 2008: here of the wrong labels inside and outside the issues.
7. Kish 1965: from the weights alone, so that these intervals are wide rather than narrow.

The intervals are of 95%. In 2,000 simulated audits of each of 16 settings (0.5, 2, 5 and 20% wrong, informative and
nearly uninformative scores, budgets of 100 and 500) those of `error_rate`, precision and recall held the truth in 94%
or more (``tests/benchmarks/test_audit_coverage.py``). Beside Wilson's interval of as many rows drawn from all alike,
those of `error_rate` were 0.5 to 0.8 times as wide with informative scores, and at most 1.06 times as wide with the
others. An interval says nothing of mistakes of the reviewers.

Rows are those of `LabelIssues`: of a task with pixels, tokens or tags, audit ``issues.rows``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.error_estimate import ErrorEstimate, estimate_errors
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.results.audit import Audit
from labelsieve.results.label_studio_export import read_export
from labelsieve.results.row_ids import unescape_formula
from labelsieve.storage.urls import check_place

if TYPE_CHECKING:
    from labelsieve.confident_learning.dtypes import Bools

__all__ = ["estimate"]

# What each word of a decision says of the given label: wrong, right, or nothing.
_WORDS: Final[dict[str, bool | None]] = {"accept": True, "other": True, "keep": False, "unsure": None, "": None}


def estimate(audit: Audit, decisions: Any) -> ErrorEstimate:
    """Estimate how many labels are wrong from the decisions about the rows of an audit.

    Parameters
    ----------
    audit : Audit
        The audit, from `LabelIssues.audit` or `labelsieve.load`.
    decisions : (n,) array-like of bool, path, or frame
        Whether the given label of each of ``audit.rows`` is wrong; None for rows that are not decided. Or a CSV file
        or a table (a frame of pandas or Polars, a dict of columns) with the columns ``row`` and ``decision``:
        ``accept`` and ``other`` say that the given label is wrong, ``keep`` that it is right. Rows with ``unsure`` or
        nothing, and rows of the audit that are not in the table, are left out. An export of Label Studio (``.json``) is
        such a table: see `labelsieve.exchange`. If the audit has no labels,
        a column ``given_label`` serves for estimates by class. Where ``label``, the label after the decision, is the
        same as ``given_label``, this is right, whatever the decision is called.

    Returns
    -------
    ErrorEstimate
        Share of wrong labels, precision and recall of the issues, with intervals.

    Raises
    ------
    InvalidInputError
        If there is no decision at all; for another number of decisions than rows, rows that are not in the audit,
        two decisions about a row, unknown words, or given labels that are not those of the audit.
    InputTypeError
        For decisions of another kind.
    UnreadableDataError
        For a file that cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> rng = np.random.default_rng(0)
    >>> probs = rng.dirichlet([0.2, 0.2], 1000)
    >>> is_wrong = rng.random(1000) < 0.1
    >>> audit = labelsieve.find_label_issues(probs.argmax(axis=1) ^ is_wrong, probs).audit(budget=100)
    >>> estimate = labelsieve.estimate(audit, is_wrong[audit.rows])
    >>> print(estimate)
    10.0% wrong (8.1 to 12.2), found issues are right in 100% (73 to 100), recall 70% (55 to 81)
    >>> estimate.precision_of_issues.estimate, estimate.rows_for_width(0.05)
    (1.0, 0)
    """
    if not isinstance(audit, Audit):
        raise InputTypeError(f"audit must be an Audit, from issues.audit() or labelsieve.load, not {audit!r}")
    if isinstance(decisions, str | os.PathLike):
        wrong, decided, labels = _of_table(audit, _read_file(check_place("decisions", decisions)))
    elif isinstance(decisions, Mapping) or hasattr(decisions, "columns"):
        wrong, decided, labels = _of_table(audit, _columns_of(decisions))
    else:
        wrong, decided = _of_flags(audit, decisions)
        labels = None
    classes = labels if audit.given_labels is None else audit.given_labels
    return estimate_errors(audit.strata, audit.stratum_rows, wrong, decided, classes)


def _of_flags(audit: Audit, decisions: Any) -> tuple[Bools, Bools]:
    """Return which labels are wrong, and which are decided, from a flag or None for each row."""
    flags = np.asarray(decisions)
    if flags.ndim != 1 or flags.dtype.kind not in "bO":
        raise InputTypeError(
            f"decisions must be True or False for each row of the audit, a CSV file, or a table, not {flags.dtype} of "
            f"shape {flags.shape}"
        )
    if len(flags) != len(audit):
        raise InvalidInputError(f"{len(flags):,} decisions, the audit has {len(audit):,} rows")
    if flags.dtype == np.bool_:
        return flags, np.ones(len(flags), np.bool_)
    for place, flag in enumerate(flags):
        if flag is not None and not isinstance(flag, bool | np.bool_):
            raise InvalidInputError(f"decision {place:,} must be True, False or None, not {flag!r}")
    decided = np.array([flag is not None for flag in flags], np.bool_)
    return np.array([bool(flag) for flag in flags], np.bool_), decided


def _of_table(audit: Audit, columns: Mapping[str, list[str]]) -> tuple[Bools, Bools, npt.NDArray[Any] | None]:
    """Return which labels are wrong, which are decided, and the given labels if there are any, along the audit."""
    for name in ("row", "decision"):
        if name not in columns:
            raise InvalidInputError(f"decisions have no column {name!r}, but {', '.join(columns) or 'none at all'}")
    rows, places = _row_numbers(columns["row"]), {row: place for place, row in enumerate(audit.rows.tolist())}
    said: dict[int, bool | None] = {}
    unchanged = [False] * len(rows)
    if "label" in columns and "given_label" in columns:
        # A suggestion may be the given label itself: not all rows of an audit are issues.
        unchanged = [old == new for old, new in zip(columns["given_label"], columns["label"], strict=True)]
    for row, word, same in zip(rows, columns["decision"], unchanged, strict=True):
        if row not in places:
            raise InvalidInputError(f"row {row:,} is not in the audit: are these the decisions about another one?")
        if word not in _WORDS:
            allowed = ", ".join(filter(None, _WORDS))
            raise InvalidInputError(f"row {row:,} has the decision {word!r}, which is not one of {allowed}")
        is_wrong = False if same and _WORDS[word] else _WORDS[word]
        if row in said and said[row] != is_wrong:
            raise InvalidInputError(f"row {row:,} has two different decisions")
        said[row] = is_wrong
    known = [said.get(row) for row in audit.rows.tolist()]
    wrong, decided = _of_flags(audit, np.array(known, object))
    return wrong, decided, _given_labels(audit, rows, places, columns)


def _given_labels(
    audit: Audit, rows: list[int], places: dict[int, int], columns: Mapping[str, list[str]]
) -> npt.NDArray[Any] | None:
    """Return the given labels in a table of decisions; raise if they are not those of the audit."""
    if "given_label" not in columns:
        return None
    labels = np.full(len(audit), "", object)
    for row, label in zip(rows, columns["given_label"], strict=True):
        if audit.given_labels is not None and str(audit.given_labels[places[row]]) != label:
            raise InvalidInputError(
                f"row {row:,} has the label {audit.given_labels[places[row]]!s} in the audit, and {label} in the "
                "decisions: are these of another dataset, or were the labels changed?"
            )
        labels[places[row]] = label
    text = labels.astype(str)
    # Numbers stay numbers. Rows without a decision, which are left out, have the label "".
    numbers = [label for label in text.tolist() if label]
    if numbers and all(label.removeprefix("-").isdecimal() for label in numbers):
        return np.array([int(label) if label else 0 for label in text.tolist()], np.int64)
    return text


def _row_numbers(values: list[str]) -> list[int]:
    for value in values:
        if not value.isdecimal():
            raise InvalidInputError(f"decisions have the row {value!r}, which is not a row number")
    return [int(value) for value in values]


def _columns_of(table: Any) -> dict[str, list[str]]:
    """Return the columns of a table as text; missing values are empty."""
    found = {}
    for name in table.keys() if isinstance(table, Mapping) else table.columns:
        if name in ("row", "decision", "given_label", "label"):
            values = np.asarray(table[name]).tolist()
            found[str(name)] = ["" if v is None or v != v else str(v) for v in values]  # noqa: PLR0124  # NaN
    if len({len(values) for values in found.values()}) > 1:
        raise InvalidInputError("the columns of decisions differ in length")
    return found


def _read_file(path: str) -> dict[str, list[str]]:
    """Return the columns of a CSV file or of an export of Label Studio."""
    if not path.lower().endswith(".json"):
        return _read_csv(path)
    found = [one for _, one in read_export(Path(path))]
    return {name: [str(getattr(one, name)) for one in found] for name in ("row", "decision", "given_label", "label")}


def _read_csv(path: str) -> dict[str, list[str]]:
    """Return the columns of a CSV file, without what `escape_formula` added.

    Raises
    ------
    InvalidInputError
        If a line has more or fewer cells than the first one: a file that was cut off.
    UnreadableDataError
        If it cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            names, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise UnreadableDataError(f"decisions: {path} is not readable: {error}") from error
    for number, line in enumerate(lines, 2):
        if len(line) != len(names):
            raise InvalidInputError(f"line {number:,} of {path} has {len(line)} cells, the first has {len(names)}")
    return {name: [unescape_formula(line[k]) for line in lines] for k, name in enumerate(names)}
