"""How many labels are wrong, estimated from the decisions about an audit: see `docs/from_found_to_fixed.md`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.estimate import (
    N_STRATA,
    SMALLEST_BUDGET,
    Cuts,
    ErrorEstimate,
    allocate,
    cut_counts,
    cut_scores,
    draw_ordinals,
    estimate_errors,
    rows_up_to,
    score_grid,
    strata_of,
    stratum_edges,
)
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.options import CONFLICT_RULES, check_one_of, check_whole_number
from labelsieve.results.result import frame_of
from labelsieve.results.store import StoredScores, check_writable, replacing
from labelsieve.review.apply import UNSURE, LabelValues, Outcomes, results_of, settle
from labelsieve.review.decisions import CHANGING, WORDS, Decisions, is_table, read_decisions
from labelsieve.sources.names import cell_text, escape_formula
from labelsieve.storage.checked import matches_checksum, with_checksum
from labelsieve.storage.folder import LocalFolder, open_folder
from labelsieve.storage.remote import check_place, without_query

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.thresholds import Bools, Float64s, Floats, Int64s
    from labelsieve.results.result import Result
    from labelsieve.review.labels import LabelFile

_KIND: Final = "labelsieve audit"
_FORMAT: Final = 1
# Scores from which the edges of strata are taken.
_EDGE_SCORES: Final = 1 << 20
# Begins the names of stored `Audit.places`.
_PLACE: Final = "place_"
_ARRAYS: Final = (
    *("rows", "scores", "strata", "stratum_rows", "given_labels"),
    *("cut_scores", "cut_rows", "grid_scores", "grid_rows"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """Rows to review, drawn with known probabilities by `LabelIssues.audit`; `labelsieve.estimate` takes the decisions.

    The rows are in a random order, so that a review may stop early: the first ones are an audit as well.

    Parameters
    ----------
    rows : (n,) int64
        Row numbers.
    scores : (n,) float
        Their label quality scores.
    strata : (n,) int64
        Stratum of each row. Rows are in strata by score, from the lowest to the highest: ``strata // 2`` is 0 to 4.
        The issues among them are in the even strata, the other rows in the odd ones.
    stratum_rows : (10,) int64
        How many rows of the dataset are in each stratum.
    n_rows : int
        Number of rows of the dataset, with and without a label.
    seed : int
        Seed with which the rows were drawn.
    given_labels : (n,) array, optional
        Their given labels, if these were given.
    fingerprint : str
        That of the result (`LabelIssues.fingerprint`), with which decisions are compared.
    cut_scores : (C,) float64
        Scores, ascending, up to which precision and recall are estimated (`ErrorEstimate.curve`): the upper ends of the
        strata of scores, and those of each quarter of the issues.
    cut_rows : (C, 10) int64
        How many rows of each stratum have at most these scores.
    grid_scores : (G,) float64
        Scores, ascending, from which `labelsieve.estimate` takes the nearest ones to the cuts that it is given.
    grid_rows : (G, 2) int64
        How many issues, and how many other rows, have at most these scores.
    places : dict of str and (n,) int64
        Where the rows are in their groups, as in the table of the issues: image, y and x of pixels, sentence and word
        of tokens, example and tag; empty for rows of their own.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> rng = np.random.default_rng(0)
    >>> probs = rng.dirichlet([0.2, 0.2], 1000)
    >>> audit = labelsieve.find_label_issues(probs.argmax(axis=1) ^ (rng.random(1000) < 0.1), probs).audit(budget=50)
    >>> audit
    <Audit: 50 of 1,000 labelled rows>
    >>> round(audit.weights.sum())
    1000
    """

    rows: Int64s
    scores: Floats
    strata: Int64s
    stratum_rows: Int64s
    n_rows: int
    seed: int
    given_labels: npt.NDArray[Any] | None
    fingerprint: str
    cut_scores: Float64s
    cut_rows: Int64s
    grid_scores: Float64s
    grid_rows: Int64s
    places: Mapping[str, Int64s] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Audit: {len(self):,} of {int(self.stratum_rows.sum()):,} labelled rows>"

    @property
    def weights(self) -> Float64s:
        """``(n,)`` float64: how many rows each one stands for, 1 over the probability with which it was drawn."""
        drawn = np.bincount(self.strata, minlength=len(self.stratum_rows))
        weights: Float64s = self.stratum_rows[self.strata] / drawn[self.strata]
        return weights

    @property
    def is_issue(self) -> Bools:
        """``(n,)`` bool: whether each row is one of the found issues."""
        issues: Bools = self.strata % 2 == 0
        return issues

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            ``row``, `places`, ``given_label`` (if known), ``score``, ``is_issue``, ``stratum`` and ``weight``.

        Raises
        ------
        MissingDependencyError
            Without pandas.
        """
        labels = {} if self.given_labels is None else {"given_label": self.given_labels}
        return frame_of(
            {
                "row": self.rows,
                **self.places,
                **labels,
                "score": self.scores,
                "is_issue": self.is_issue,
                "stratum": self.strata,
                "weight": self.weights,
            }
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a CSV file in which decisions are filled in, for `labelsieve.estimate`.

        It has the columns of a table of decisions. A reviewer writes ``keep`` in the column ``decision`` where the
        given label is right, and ``other``, with the right one in the column ``label``, where it is wrong.

        Parameters
        ----------
        path : path
            Ends in ``.csv``. A file that is there is not replaced, as decisions may be in it.

        Raises
        ------
        InvalidInputError
            For another ending, a missing folder, or a file that is there.
        UnwritableError
            If it cannot be written.
        """
        file = check_new_table(path)
        given = [""] * len(self) if self.given_labels is None else self.given_labels.tolist()
        with replacing(LocalFolder(file)) as made, made.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(
                ["row", "id", "given_label", "decision", "label", "reviewer", "time", "result", *self.places]
            )
            places = [column.tolist() for column in self.places.values()]
            for row, label, *place in zip(self.rows.tolist(), given, *places, strict=True):
                writer.writerow([row, "", escape_formula(str(label)), "", "", "", "", self.fingerprint, *place])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit, for `labelsieve.load`.

        Parameters
        ----------
        path : path or URL
            Ends in ``.json``; an earlier audit there is replaced.

        Raises
        ------
        InvalidInputError
            For another ending, a missing folder, or something there that is not an audit.
        UnwritableError
            If it cannot be written.
        """
        place = check_place("path", path)
        folder, name = open_folder(place, "path"), without_query(place)
        if not name.endswith(".json"):
            raise InvalidInputError(f"{name} must end in .json")
        if isinstance(folder, LocalFolder):
            check_writable(folder.path)
        is_there = folder.path.exists() if isinstance(folder, LocalFolder) else folder.is_folder()
        if is_there and not _is_audit(place):
            raise InvalidInputError(f"{name} exists and is not an audit of Labelsieve: it is not replaced")
        arrays = {name: values for name in _ARRAYS if (values := getattr(self, name)) is not None}
        arrays |= {f"{_PLACE}{name}": values for name, values in self.places.items()}
        facts: dict[str, Any] = {"kind": _KIND, "format": _FORMAT, "n_rows": self.n_rows, "seed": self.seed}
        facts["result"] = self.fingerprint
        facts |= {name: values.tolist() for name, values in arrays.items()}
        text = json.dumps(with_checksum(facts | {"dtypes": {"scores": str(self.scores.dtype)}}))
        with replacing(folder) as made:
            made.write_text(f"{text}\n", encoding="utf-8")


def check_new_table(path: str | os.PathLike[str]) -> Path:
    """Return the path of a table that is to be filled in, or raise if it cannot be written there."""
    file = Path(check_place("path", path)).absolute()
    if file.suffix.lower() != ".csv":
        raise InvalidInputError(f"{file} must end in .csv")
    if file.exists():
        raise InvalidInputError(f"{file} exists: it is not replaced, as decisions may be in it")
    check_writable(file)
    return file


def draw_audit(result: Result, budget: int, seed: int, labels: Any = None) -> Audit:
    """Draw the rows of an audit; the scores of all rows are read three times, in blocks.

    Parameters
    ----------
    result : Result
        The result.
    budget : int
        Rows to draw; all that have a label, if there are no more.
    seed : int
        Equal seeds draw equal rows.
    labels : (N,) array-like, path or URL, optional
        The given labels, of which those of the drawn rows are read.

    Raises
    ------
    InvalidInputError
        For a budget below 20, a negative seed, or labels that are not those of the result.
    """
    budget = check_whole_number("budget", budget, SMALLEST_BUDGET)
    seed = check_whole_number("seed", seed, 0)
    from labelsieve.review.labels import open_given_labels

    file = None if labels is None else open_given_labels(labels, result.layout)
    if file is not None and file.n_rows != result.n_rows:
        raise InvalidInputError(f"labels must be of {result.n_rows:,} rows, not {file.n_rows:,}")
    some, of_issues = _some_scores(result)
    edges = stratum_edges(some)
    cuts = cut_scores(edges, of_issues)
    grid = np.union1d(score_grid(some), cuts)
    between = np.zeros((N_STRATA, len(grid) + 1), np.int64)  # rows between each two scores of the grid
    for _, strata, block in _strata_blocks(result, edges):
        labelled = strata >= 0
        between += cut_counts(strata[labelled], block[labelled], grid)
    stratum_rows = between.sum(axis=1)
    up_to = between[:, :-1].cumsum(axis=1).T
    drawn = allocate(stratum_rows, budget)
    wanted = [
        np.sort(draw_ordinals(int(stratum_rows[h]), int(drawn[h]), seed, h)) if drawn[h] else np.empty(0, np.int64)
        for h in range(N_STRATA)
    ]
    rows, scores, in_strata = _drawn_rows(result, edges, wanted)
    order = np.random.default_rng([seed, N_STRATA]).permutation(len(rows))  # N_STRATA: the numbers of no stratum
    rows = rows[order]
    given = None if file is None else _labels_of(file, rows)
    if given is not None:
        _check_labels(result, rows, given)
    return Audit(
        rows,
        scores[order],
        in_strata[order],
        stratum_rows,
        result.n_rows,
        seed,
        given,
        result.fingerprint,
        cuts,
        up_to[np.searchsorted(grid, cuts)],
        grid,
        np.stack([up_to[:, ::2].sum(axis=1), up_to[:, 1::2].sum(axis=1)], axis=1),
        {} if result.layout is None else result.layout.columns(rows),
    )


def _labels_of(file: LabelFile, rows: Int64s) -> npt.NDArray[Any]:
    """Return the labels of some rows: numbers, or text."""
    labels = np.array(file.take_unsorted(rows))
    if labels.dtype.kind == "f" and not (labels % 1).any():  # numbers beside missing ones
        labels = labels.astype(np.int64)
    return labels if labels.dtype.kind in "iu" else labels.astype(str)


def _check_labels(result: Result, rows: Int64s, labels: npt.NDArray[Any]) -> None:
    """Raise unless labels can be those of the result, which knows the labels of its issues.

    Names that the result does not know are taken as they are.
    """
    if result.class_names is None and labels.dtype.kind not in "iu":
        return
    known = dict[int, int]()
    for issues, given in zip(result.found.column("row"), result.found.column("given_label"), strict=True):
        hits = np.isin(issues, rows)
        known.update(zip(issues[hits].tolist(), given[hits].tolist(), strict=True))
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        if row not in known:
            continue
        k = known[row]
        # A run on numbers may be audited with the names, and the other way round.
        names = {str(k), *((result.class_names[k],) if result.class_names else ()), ("False", "True")[k % 2]}
        if str(label) not in names:
            raise InvalidInputError(
                f"labels: row {row:,} has {label!r}, in the result it is of class {result.class_label(k)}: are these "
                "other labels?"
            ).at([(row, row + 1)])


def _some_scores(result: Result) -> tuple[Floats, Floats]:
    """Return the score of every k-th labelled row, and of every k-th issue: of all, if they are not too many."""
    parts: tuple[list[Any], list[Any]] = ([], [])
    seen, steps = [0, 0], [max(1, -(-n // _EDGE_SCORES)) for n in (result.n_labelled, result.num_issues)]
    for _, is_issue, block in _masked_blocks(result):
        for which, chosen in enumerate((block[~np.isnan(block)], block[is_issue])):
            parts[which].append(chosen[-seen[which] % steps[which] :: steps[which]])
            seen[which] += len(chosen)
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def _masked_blocks(result: Result) -> Iterator[tuple[int, Bools, Floats]]:
    """Yield the first row of each block of rows, whether its rows are issues, and their scores."""
    stored = result.score_parts.group.open("mask") if isinstance(result.score_parts, StoredScores) else None
    mask = result.mask() if stored is None else np.empty(0, np.bool_)
    start = 0
    for block in result.score_parts.blocks():
        stop = start + len(block)
        yield start, mask[start:stop] if stored is None else stored.read(start, stop), block
        start = stop


def _strata_blocks(result: Result, edges: Float64s) -> Iterator[tuple[int, Int64s, Floats]]:
    """Yield the first row of each block of rows, with the strata and the scores of its rows."""
    for start, is_issue, block in _masked_blocks(result):
        yield start, strata_of(block, is_issue, edges), block


def _drawn_rows(result: Result, edges: Float64s, wanted: list[Int64s]) -> tuple[Int64s, Floats, Int64s]:
    """Return rows, scores and strata of the wanted rows, which are numbered within each stratum, ascending."""
    seen, found = np.zeros(N_STRATA, np.int64), list[Any]()
    for start, strata, scores in _strata_blocks(result, edges):
        counts = np.bincount(strata[strata >= 0], minlength=N_STRATA)
        for h in np.flatnonzero(counts).tolist():
            first, last = np.searchsorted(wanted[h], [seen[h], seen[h] + counts[h]])
            if first < last:
                places = np.flatnonzero(strata == h)[wanted[h][first:last] - seen[h]]
                found.append((places + start, scores[places], strata[places]))
        seen += counts
    rows, scores, strata = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(rows)  # so that blocks of any length give the same
    return rows[order], scores[order], strata[order]


def _is_audit(place: str) -> bool:
    """Return whether an audit is at a path or URL, damaged or not."""
    try:
        return _facts_at(place).get("kind") == _KIND
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def read_audit(path: str | os.PathLike[str]) -> Audit:
    """Open a saved audit.

    Raises
    ------
    InvalidInputError
        If there is none, or one of another format.
    UnreadableDataError
        If it is damaged.
    """
    place = check_place("path", path)
    name = without_query(place)
    if not _is_audit(place):
        raise InvalidInputError(f"there is no audit of Labelsieve at {name}, or it was cut off")
    facts = _facts_at(place)
    if facts.get("format") != _FORMAT:
        raise InvalidInputError(
            f"{name} is an audit of format {facts.get('format')}; this version reads format {_FORMAT}"
        )
    if "grid_rows" not in facts or "result" not in facts:
        raise InvalidInputError(f"{name} is an audit of an earlier version: draw it again, with its seed")
    if not matches_checksum(facts):
        raise UnreadableDataError(f"{name} is damaged: restore it from a copy, or draw the audit again with its seed")
    names = [name for name in facts if name in _ARRAYS or name.startswith(_PLACE)]
    arrays: dict[str, Any] = {"given_labels": None} | {name: np.asarray(facts[name]) for name in names}
    arrays["scores"] = arrays["scores"].astype(facts["dtypes"]["scores"])
    places = {name.removeprefix(_PLACE): arrays.pop(name) for name in list(arrays) if name.startswith(_PLACE)}
    return Audit(
        **arrays,
        places=places,
        n_rows=facts["n_rows"],
        seed=facts["seed"],
        fingerprint=facts["result"],
    )


def _facts_at(place: str) -> Mapping[str, Any]:
    """Return what is written about an audit, or about whatever else is there."""
    folder = open_folder(place, "path")
    above, _, name = folder.where.rpartition("/")
    text = folder.path.read_bytes() if isinstance(folder, LocalFolder) else open_folder(above).read(name)
    return dict(json.loads(text))


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
        right. An export of Label Studio (``.json``) is such a table. Rows with ``unsure`` or nothing, and rows
        of the audit that are in no table, are left out. If the audit has no labels, a column
        ``given_label`` serves for estimates by class. Where ``label``, the label after the decision, is the same as
        ``given_label``, this is right, whatever the decision is called.
    conflicts : {"error", "keep", "last"}
        What becomes of rows of which some reviewers say that the label is wrong, and others that it is not: an error;
        the row is left out; or the last decision counts, as in `labelsieve.apply_decisions`.
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
        audit; for a file that is missing or cut off. For a cut below 1 or above the number of labelled rows.
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
    default = Cuts(audit.scores, audit.cut_scores, audit.cut_rows)
    split = default if cuts is None else _nearest_cuts(audit, cuts)
    if not is_table(decisions[0] if isinstance(decisions, list | tuple) and decisions else decisions):
        wrong, decided = _of_flags(audit, decisions)
        found = estimate_errors(audit.strata, audit.stratum_rows, wrong, decided, audit.given_labels, split)
        return replace(found, fingerprint=audit.fingerprint)
    read = read_decisions(decisions, of_audit=True)
    places = _places_of(audit, read)
    for place, result in results_of(read):
        if result != audit.fingerprint:
            raise read.error([place], f" is about the result {result}, the audit is one of {audit.fingerprint}")
    labels = _given_labels(audit, read, places)
    outcomes = _outcomes_of(audit, read, places)
    settled = settle(read, outcomes, conflicts)
    said = outcomes.resulting[settled.places]
    wrong, decided = np.zeros(len(audit), np.bool_), np.zeros(len(audit), np.bool_)
    decided[places[settled.places]] = said != UNSURE
    wrong[places[settled.places]] = said == 1
    found = estimate_errors(audit.strata, audit.stratum_rows, wrong, decided, labels, split)
    return replace(found, n_conflicts=len(settled.conflicts), fingerprint=audit.fingerprint)


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
        raise read.error(unknown[:1], " is not in the audit: are these the decisions about another one?")
    return places


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
