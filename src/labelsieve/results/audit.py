"""`Audit`: rows to review so that the share of wrong labels can be estimated; how it is drawn, saved and opened."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.audit_sampling import (
    N_STRATA,
    SMALLEST_BUDGET,
    allocate,
    cut_counts,
    cut_scores,
    draw_ordinals,
    score_grid,
    strata_of,
    stratum_edges,
)
from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.results.frames import frame_of
from labelsieve.results.publish import check_writable, replacing
from labelsieve.results.zarr_store import StoredScores
from labelsieve.settings import check_whole_number
from labelsieve.sources.text_cells import escape_formula
from labelsieve.storage.checked_arrays import (
    StoredArray,
    create_array,
    matches_checksum,
    open_for_writing,
    store_of,
    with_checksum,
)
from labelsieve.storage.folders import Folder, LocalFolder, open_folder, writing
from labelsieve.storage.lock import always_owned
from labelsieve.storage.urls import check_place, without_query

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Int64s
    from labelsieve.results.layouts import Layout
    from labelsieve.results.result import Result

_KIND: Final = "labelsieve audit"
_FORMAT: Final = 1
_ENDINGS: Final = (".zarr", ".json")
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
        That of the result (`LabelIssues.fingerprint`), with which decisions are compared; empty if it is not known.
    cut_scores : (C,) float64, optional
        Scores, ascending, up to which precision and recall are estimated (`ErrorEstimate.curve`): the upper ends of the
        strata of scores, and those of each quarter of the issues.
    cut_rows : (C, 10) int64, optional
        How many rows of each stratum have at most these scores.
    grid_scores : (G,) float64, optional
        Scores, ascending, from which `labelsieve.estimate` takes the nearest ones to the cuts that it is given.
    grid_rows : (G, 2) int64, optional
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
    seed: int = 0
    given_labels: npt.NDArray[Any] | None = None
    fingerprint: str = ""
    cut_scores: Float64s | None = None
    cut_rows: Int64s | None = None
    grid_scores: Float64s | None = None
    grid_rows: Int64s | None = None
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
            Ends in ``.json`` or ``.zarr``; an earlier audit there is replaced.

        Raises
        ------
        InvalidInputError
            For another ending, a missing folder, or something there that is not an audit.
        UnwritableError
            If it cannot be written.
        """
        place = check_place("path", path)
        folder, name = open_folder(place, "path"), without_query(place)
        if not name.endswith(_ENDINGS):
            raise InvalidInputError(f"{name} must end in {' or '.join(_ENDINGS)}")
        if isinstance(folder, LocalFolder):
            check_writable(folder.path)
        is_there = folder.path.exists() if isinstance(folder, LocalFolder) else folder.is_folder()
        if is_there and not is_audit(place):
            raise InvalidInputError(f"{name} exists and is not an audit of Labelsieve: it is not replaced")
        arrays = {name: values for name in _ARRAYS if (values := getattr(self, name)) is not None}
        arrays |= {f"{_PLACE}{name}": values for name, values in self.places.items()}
        facts = {"kind": _KIND, "format": _FORMAT, "n_rows": self.n_rows, "seed": self.seed}
        facts |= {"result": self.fingerprint} if self.fingerprint else {}
        if name.endswith(".json"):
            lists = {name: values.tolist() for name, values in arrays.items()}
            dtypes = {"scores": str(self.scores.dtype)}
            text = json.dumps(with_checksum({**facts, **lists, "dtypes": dtypes}))
            with replacing(folder) as made:
                made.write_text(f"{text}\n", encoding="utf-8")
        elif isinstance(folder, LocalFolder):
            with replacing(folder) as made:
                _write_group(LocalFolder(made), arrays, facts)
        else:
            folder.delete()
            with writing(name):
                _write_group(folder, arrays, facts)


def check_new_table(path: str | os.PathLike[str]) -> Path:
    """Return the path of a table that is to be filled in, or raise if it cannot be written there."""
    file = Path(check_place("path", path)).absolute()
    if file.suffix.lower() != ".csv":
        raise InvalidInputError(f"{file} must end in .csv")
    if file.exists():
        raise InvalidInputError(f"{file} exists: it is not replaced, as decisions may be in it")
    check_writable(file)
    return file


def _write_group(folder: Folder, arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write an audit as a Zarr group."""
    import zarr

    zarr.create_group(store_of(folder), attributes=with_checksum({**facts, "arrays": sorted(arrays)}))
    for name, values in arrays.items():
        create_array(folder, name, values.shape, values.dtype if values.dtype.kind in "iuf" else str, len(values))
        open_for_writing(folder, name)[:] = values


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
    given = None if labels is None else _OpenedLabels(labels, result.n_rows, result.layout)
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
    labels_of_rows = None if given is None else given.of_rows(rows)
    if labels_of_rows is not None:
        _check_labels(result, rows, labels_of_rows)
    return Audit(
        rows,
        scores[order],
        in_strata[order],
        stratum_rows,
        result.n_rows,
        seed,
        labels_of_rows,
        result.fingerprint,
        cuts,
        up_to[np.searchsorted(grid, cuts)],
        grid,
        np.stack([up_to[:, ::2].sum(axis=1), up_to[:, 1::2].sum(axis=1)], axis=1),
        {} if result.layout is None else result.layout.columns(rows),
    )


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
        # Results of earlier versions do not tell whether labels are numbers or names.
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


class _OpenedLabels:
    """The given labels, of which some are read."""

    def __init__(self, labels: Any, n_rows: int, layout: Layout | None) -> None:
        from labelsieve.results.given_labels import open_given_labels

        is_file = isinstance(labels, str | os.PathLike) or layout is not None
        self._file = open_given_labels(labels, layout) if is_file else None
        self._labels = np.empty(0) if self._file is not None else np.asarray(labels)
        shape = self._labels.shape if self._file is None else (self._file.n_rows,)
        if shape != (n_rows,):
            raise InvalidInputError(f"labels must be of {n_rows:,} rows, not of shape {shape}")

    def of_rows(self, rows: Int64s) -> npt.NDArray[Any]:
        """Return the labels of some rows: numbers, or text."""
        labels = self._labels[rows] if self._file is None else np.array(self._file.take_unsorted(rows))
        if labels.dtype.kind == "f" and not (labels % 1).any():  # numbers beside missing ones
            labels = labels.astype(np.int64)
        return labels if labels.dtype.kind in "iu" else labels.astype(str)


def is_audit(path: str | os.PathLike[str]) -> bool:
    """Return whether an audit is at a path or URL, damaged or not."""
    try:
        return _facts_at(check_place("path", path)).get("kind") == _KIND
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
    if not is_audit(place):
        raise InvalidInputError(f"there is no audit of Labelsieve at {name}, or it was cut off")
    facts = _facts_at(place)
    if facts.get("format") != _FORMAT:
        raise InvalidInputError(
            f"{name} is an audit of format {facts.get('format')}; this version reads format {_FORMAT}"
        )
    if not matches_checksum(facts):
        raise UnreadableDataError(f"{name} is damaged: restore it from a copy, or draw the audit again with its seed")
    arrays: dict[str, Any]
    if name.endswith(".json"):
        names = [name for name in facts if name in _ARRAYS or name.startswith(_PLACE)]
        arrays = {name: np.asarray(facts[name]) for name in names}
        arrays["scores"] = arrays["scores"].astype(facts["dtypes"]["scores"])
    else:
        folder = open_folder(place, "path")
        arrays = {name: StoredArray(folder, name, "rows", always_owned).read_all() for name in facts["arrays"]}
        if "given_labels" in arrays and arrays["given_labels"].dtype.kind not in "iu":
            arrays["given_labels"] = arrays["given_labels"].astype(object).astype(str)
    places = {name.removeprefix(_PLACE): arrays.pop(name) for name in list(arrays) if name.startswith(_PLACE)}
    return Audit(
        **arrays,
        places=places,
        n_rows=int(facts["n_rows"]),
        seed=int(facts["seed"]),
        fingerprint=str(facts.get("result", "")),
    )


def _facts_at(place: str) -> Mapping[str, Any]:
    """Return what is written about an audit, or about whatever else is there."""
    folder = open_folder(place, "path")
    if not folder.where.endswith(".json"):
        facts: Mapping[str, Any] = json.loads(folder.read("zarr.json"))["attributes"]
        return facts
    above, _, name = folder.where.rpartition("/")
    text = folder.path.read_bytes() if isinstance(folder, LocalFolder) else open_folder(above).read(name)
    return dict(json.loads(text))
