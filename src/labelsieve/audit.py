"""How many labels are wrong, estimated from the decisions about an audit: see `docs/from_found_to_fixed.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.audit_sampling import rows_up_to
from labelsieve.confident_learning.error_estimate import Cuts, ErrorEstimate, estimate_errors
from labelsieve.corrections.decisions import CHANGING, WORDS, Decisions, is_table, read_decisions
from labelsieve.corrections.outcomes import UNSURE, LabelValues, Outcomes, agreement, results_of, settle
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.audit import Audit
from labelsieve.settings import CONFLICT_RULES, check_one_of, check_whole_number
from labelsieve.sources.text_cells import cell_text

if TYPE_CHECKING:
    from labelsieve.confident_learning.dtypes import Bools, Int64s

__all__ = ["estimate"]


def estimate(
    audit: Audit, decisions: Any, *, conflicts: str = "error", cuts: Sequence[int] | None = None
) -> ErrorEstimate:
    """Estimate how many labels are wrong from the decisions about the rows of an audit.

    Parameters
    ----------
    audit : Audit
        The audit, from `LabelIssues.audit` or `labelsieve.load`.
    decisions : (n,) array-like of bool, path, table, or list of paths and tables
        Whether the given label of each of ``audit.rows`` is wrong; None for rows that are not decided. Or one or
        several CSV files or tables in memory (`docs/from_found_to_fixed.md`), of which only the columns ``row`` and
        ``decision`` are needed: ``accept`` and ``other`` say that the given label is wrong, ``keep`` that it is
        right. An export of Label Studio (``.json``) is such a table. Rows with ``unsure`` or
        nothing, and rows of the audit that are in no table, are left out. If the audit has no labels, a column
        ``given_label`` serves for estimates by class. Where ``label``, the label after the decision, is the same as
        ``given_label``, this is right, whatever the decision is called.
    conflicts : {"error", "keep", "first", "last", "majority"}
        What becomes of rows of which some reviewers say that the label is wrong, and others that it is not: an error;
        the row is left out; or the first, last or most frequent decision counts, as in `labelsieve.apply_decisions`. A
        tie is left out.
    cuts : sequence of int, optional
        Where to estimate precision and recall (`ErrorEstimate.curve`), as numbers of rows: 1,000 are the 1,000 rows of
        lowest score, issues or not. To cut at a score s, give ``(issues.scores <= s).sum()``. An audit has counted the
        rows up to some scores only, each with about 2% more rows than the last; the estimate is at the nearest of
        these, with its ``score`` and ``n_rows``. By default, the ends of the strata and the quarters of the issues.

    Returns
    -------
    ErrorEstimate
        Share of wrong labels, precision and recall of the issues, with intervals.

    Raises
    ------
    InvalidInputError
        If there is no decision at all; for another number of decisions than rows, rows that are not in the audit,
        reviewers who differ, unknown words, decisions about another result, or given labels that are not those of the
        audit; for a file that is missing or cut off. For a cut below 1 or above the number of labelled rows, and for
        any cuts if an earlier version drew the audit.
    InputTypeError
        For decisions of another kind.

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

    What would a review of the worst 50 rows find, and of the worst 200?

    >>> for cut in labelsieve.estimate(audit, is_wrong[audit.rows], cuts=[50, 200]).curve:
    ...     print(f"{cut.n_rows} rows: {cut.precision_of_rows} are wrong, recall {cut.recall_of_rows}")
    50 rows: 100% (39 to 100) are wrong, recall 50% (27 to 60)
    200 rows: 50% (43 to 57) are wrong, recall 100% (64 to 100)
    """
    if not isinstance(audit, Audit):
        raise InputTypeError(f"audit must be an Audit, from issues.audit() or labelsieve.load, not {audit!r}")
    check_one_of("conflicts", conflicts, CONFLICT_RULES)
    split = _default_cuts(audit) if cuts is None else _nearest_cuts(audit, cuts)
    if not is_table(decisions[0] if isinstance(decisions, list | tuple) and decisions else decisions):
        wrong, decided = _of_flags(audit, decisions)
        found = estimate_errors(audit.strata, audit.stratum_rows, wrong, decided, audit.given_labels, split)
        return replace(found, fingerprint=audit.fingerprint)
    read = read_decisions(decisions, of_audit=True)
    places = _places_of(audit, read)
    _check_result(audit, read)
    labels = _given_labels(audit, read, places)
    outcomes = _outcomes_of(audit, read, places)
    settled = settle(read, outcomes, conflicts)
    said = outcomes.resulting[settled.places]
    wrong, decided = np.zeros(len(audit), np.bool_), np.zeros(len(audit), np.bool_)
    decided[places[settled.places]] = said != UNSURE
    wrong[places[settled.places]] = said == 1
    found = estimate_errors(audit.strata, audit.stratum_rows, wrong, decided, labels, split)
    return replace(
        found,
        agreement=agreement(read, outcomes, settled),
        n_conflicts=len(settled.conflicts),
        fingerprint=audit.fingerprint,
    )


def _default_cuts(audit: Audit) -> Cuts | None:
    """Return the ends of the strata and of the quarters of the issues, if the audit knows them."""
    if audit.cut_scores is None or audit.cut_rows is None:
        return None
    return Cuts(audit.scores, audit.cut_scores, audit.cut_rows)


def _nearest_cuts(audit: Audit, n_rows: Sequence[int]) -> Cuts:
    """Return cuts at the counted scores whose numbers of rows are nearest to `n_rows`; of two as near, the lower."""
    if isinstance(n_rows, str | bytes) or not isinstance(n_rows, Iterable):
        raise InputTypeError(f"cuts must be a sequence of numbers of rows, not {n_rows!r}")
    wanted = [check_whole_number("cuts", n, 1) for n in n_rows]
    n_labelled = int(audit.stratum_rows.sum())
    if not wanted:
        raise InvalidInputError("cuts must be at least one number of rows")
    if max(wanted) > n_labelled:
        raise InvalidInputError(f"cuts: {max(wanted):,} is more than the {n_labelled:,} rows that have a label")
    if audit.grid_scores is None or audit.grid_rows is None:
        raise InvalidInputError(
            f"cuts: an earlier version drew the audit: draw the same rows again, with its seed {audit.seed}"
        )
    totals = audit.grid_rows.sum(axis=1)
    nearest = np.searchsorted((totals[1:] + totals[:-1]) / 2, wanted, side="left")
    n_issues, n_others = audit.grid_rows[nearest].T
    return Cuts(audit.scores, audit.grid_scores[nearest], rows_up_to(n_issues, n_others, audit.stratum_rows))


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


def _places_of(audit: Audit, read: Decisions) -> Int64s:
    """Return the position in the audit of the row of each decision."""
    order = np.argsort(audit.rows)
    places: Int64s = order[np.minimum(np.searchsorted(audit.rows, read.rows, sorter=order), len(audit) - 1)]
    unknown = np.flatnonzero(audit.rows[places] != read.rows)
    if len(unknown):
        one = read[int(unknown[0])]
        raise InvalidInputError(
            f"decisions: row {one.row:,} is not in the audit ({one.where}): are these the decisions about another one?"
        )
    return places


def _check_result(audit: Audit, read: Decisions) -> None:
    """Raise if decisions are about another result than the audit."""
    for which, result in results_of(read):
        if audit.fingerprint and result != audit.fingerprint:
            raise InvalidInputError(f"{which} is about the result {result}, the audit is one of {audit.fingerprint}")


def _outcomes_of(audit: Audit, read: Decisions, places: Int64s) -> Outcomes:
    """Return whether each decision says that the label is wrong."""
    said = np.isin(read.words, CHANGING).astype(np.int32)
    known = audit.given_labels
    for place in np.flatnonzero(said).tolist():
        # A suggestion may be the given label itself: not all rows of an audit are issues.
        label = read.label[place]
        if known is not None:
            is_same = _is_same(LabelValues(known.dtype), label, known[places[place]].item())
        else:
            is_same = _whole(cell_text(label)) == _whole(cell_text(read.given[place]))
        said[place] = not (cell_text(label) and is_same)
    said[read.words == WORDS.index("unsure")] = UNSURE
    return Outcomes(["right", "wrong"], 2, np.zeros(len(read), np.int32), said)


def _given_labels(audit: Audit, read: Decisions, places: Int64s) -> npt.NDArray[Any] | None:
    """Return the given labels of the audit, or those of the decisions; raise if these differ from the former."""
    known = [place for place in range(len(read)) if cell_text(read.given[place])]
    if audit.given_labels is not None:
        values = LabelValues(audit.given_labels.dtype)
        for place in known:
            label, given = audit.given_labels[places[place]].item(), read.given[place]
            if not _is_same(values, given, label):
                raise InvalidInputError(
                    f"row {read.rows[place]:,} has the label {label!s} in the audit, and {given} in the decisions: are "
                    "these of another dataset, or were the labels changed?"
                )
        return audit.given_labels
    if not known:
        return None
    labels = np.full(len(audit), "", object)
    for place in known:
        labels[places[place]] = cell_text(read.given[place])
    text = labels.astype(str)
    # Numbers stay numbers. Rows without a decision, which are left out, have the label "".
    numbers = list(map(_whole, text.tolist()))
    if all(not number or number.removeprefix("-").isdecimal() for number in numbers):
        return np.array([int(number) if number else 0 for number in numbers], np.int64)
    return text


def _is_same(values: LabelValues, given: Any, label: Any) -> bool:
    try:
        return bool(values.parse(given) == label)
    except ValueError:
        return False


def _whole(text: str) -> str:
    """Return a whole number without the ``.0`` with which frames write it among missing values; other text as it is."""
    number = text.removesuffix(".0")
    return number if number.removeprefix("-").isdecimal() else text
