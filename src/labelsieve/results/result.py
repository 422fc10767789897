"""The result of a run, as data."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import matrices as class_quality
from labelsieve.confident_learning.joint import ConfidentCounts
from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import InputTypeError, InvalidInputError, optional
from labelsieve.options import check_names, check_whole_number
from labelsieve.results.units import Layout
from labelsieve.sources.names import as_text, read_lines, unescape_formula
from labelsieve.sources.open import open_any
from labelsieve.sources.places import open_place
from labelsieve.sources.source import Source
from labelsieve.storage.remote import check_place

if TYPE_CHECKING:
    import dask.array as da  # for types alone: this module needs no Dask
    import pandas as pd

# Hexadecimal digits of each half.
FINGERPRINT_DIGITS: Final = 12
FINGERPRINT: Final = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}-[0-9a-f]{{{FINGERPRINT_DIGITS}}}")


def labels_digest(counts: Iterable[int]) -> str:
    """Return the first part of a fingerprint: 12 digits that follow from how often each label occurs.

    Parameters
    ----------
    counts : iterable of int
        Number of rows of each label, also of the one that says that a row has none; in any order, as it is the same for
        names and for numbers.
    """
    present = sorted(count for count in counts if count)
    return sha256(",".join(map(str, present)).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def frame_of(columns: dict[str, Any]) -> pd.DataFrame:
    """Return columns as a pandas DataFrame.

    Raises
    ------
    MissingDependencyError
        Without pandas.
    """
    # pandas cannot print float16 without an overflow, as it compares with 1e6. float32 has the same values.
    columns = {name: c.astype(np.float32) if c.dtype == np.float16 else c for name, c in columns.items()}
    frame: pd.DataFrame = optional("pandas", "A table of pandas", "frame").DataFrame(columns)
    return frame


# Rows of the tables in which many issues are written.
TABLE_ROWS: Final = 1 << 20
# Issues that a fingerprint depends on.
_FINGERPRINT_ROWS: Final = 1000


class ScoreParts(Protocol):
    """The scores of all rows: in memory, in a store, or computed from row summaries."""

    @property
    def in_store(self) -> bool:
        """Whether they are in a store, or computed from what is in one."""

    def to_numpy(self) -> npt.NDArray[np.floating[Any]]:
        """Return them as ``(N,)`` in memory."""

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""

    def blocks(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield them in row order, in blocks."""


class IssueParts(Protocol):
    """The label issues, worst first: in memory or in a store."""

    def __len__(self) -> int:
        """Return the number of issues."""

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield a column of all issues, in blocks."""


class IdParts(Protocol):
    """The user's own names of rows: of all rows, or stored beside the issues."""

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the names of the issues ``[start, stop)``, which are `rows` of the input."""


@dataclass(frozen=True, eq=False, repr=False)
class IssueRows:
    """Label issues, worst first: a table with a row for each.

    Parameters
    ----------
    rows : (M,) int64
        Row numbers.
    scores : (M,) float
        Label quality scores, ascending.
    given_labels, suggested_labels : (M,) uint
        The given label and the predicted class.
    p_given, p_suggested : (M,) float
        Their probabilities.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.floating[Any]]
    given_labels: npt.NDArray[np.integer[Any]]
    suggested_labels: npt.NDArray[np.integer[Any]]
    p_given: npt.NDArray[np.floating[Any]]
    p_suggested: npt.NDArray[np.floating[Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<IssueRows: {len(self):,} rows, with {', '.join(self.columns())}>"

    @classmethod
    def none(cls, score_dtype: npt.DTypeLike, class_dtype: npt.DTypeLike, prob_dtype: npt.DTypeLike) -> IssueRows:
        """Return an empty table."""
        dtypes = (np.int64, score_dtype, class_dtype, class_dtype, prob_dtype, prob_dtype)
        return cls(*(np.empty(0, dtype) for dtype in dtypes))

    @classmethod
    def concatenate(cls, parts: Sequence[IssueRows]) -> IssueRows:
        """Return the rows of all `parts` as one table."""
        columns: Any = zip(*(part.columns().values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""
        return IssueRows(*(column[start:stop] for column in self.columns().values()))

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield a column, in one block."""
        yield self.columns()[name]

    def take(self, order: npt.NDArray[np.intp]) -> IssueRows:
        """Return the rows at the positions `order`."""
        return IssueRows(*(column[order] for column in self.columns().values()))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns by name."""
        return {
            "row": self.rows,
            "score": self.scores,
            "given_label": self.given_labels,
            "suggested_label": self.suggested_labels,
            "p_given": self.p_given,
            "p_suggested": self.p_suggested,
        }


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run: what it read, how long it took, and what it noticed.

    Parameters
    ----------
    bytes_read : int
        Decoded bytes of `pred_probs` that this call read, over all passes; fewer if it resumed from a workdir.
    n_reads : int
        Number of passes over `pred_probs`.
    rows_read, rows_resumed : int
        Rows that the first pass read, and rows that were already finished in the workdir.
    n_batches, n_partitions : int
        Number of batches and partitions.
    planned_bytes : int
        Most memory of a process that reads, as planned before the run (`memory.Need`), without the issues.
    seconds : float
        Wall time of the call.
    scheduler : str
        What ran the tasks.
    versions : dict
        Versions of Labelsieve, Python and the packages that were loaded.
    notes : tuple of str
        What looks suspicious in the data.
    misfit : str
        Why labels and predictions do not seem to belong together; empty if they do.
    inputs : dict
        Where ``labels`` and ``pred_probs`` are: a path, a URL without secrets, or the kind of object.
    finished : str
        When the run ended, in UTC: ``2026-11-25 12:40``.
    label_kind : str
        What the labels are: ``"numbers"`` 0..K-1, ``"names"`` or ``"booleans"``; empty in results of versions that did
        not note it.
    """

    bytes_read: int
    n_reads: int
    rows_read: int
    rows_resumed: int
    n_batches: int
    n_partitions: int
    planned_bytes: int
    seconds: float
    scheduler: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    misfit: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    finished: str = ""
    label_kind: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The data of `labelsieve.LabelIssues`, which adds tables, files and pictures.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    found : IssueParts
        The label issues, worst first: in memory, or where the tasks wrote them.
    estimated_num_issues : int
        Estimated number of wrong labels. `num_issues` is lower if the lowest scores include rows whose label is the
        predicted class, or nearly so: these are not issues.
    confident_thresholds : (K,) float64
        Mean probability of each class over the rows with its label; 2.0 for a class without rows.
    class_counts : (K,) int64
        Rows with each label.
    mean_scores : (K,) float64
        Mean score of the rows with each label; NaN for a class without rows.
    confident : ConfidentCounts
        Confidently predicted rows by given label and predicted class.
    score_parts : ScoreParts
        Holds `scores` and `lazy_scores`.
    settings : Settings
        The choices that change the answer.
    facts : RunFacts
        Facts about the run.
    class_names : tuple of str, optional
        K names.
    ids : IdParts, optional
        The user's own names of rows.
    layout : Layout, optional
        Where each row is, if rows are pixels of images, tokens of sentences or tags of examples.
    """

    n_rows: int
    n_classes: int
    found: IssueParts
    estimated_num_issues: int
    confident_thresholds: npt.NDArray[np.float64]
    class_counts: npt.NDArray[np.int64]
    mean_scores: npt.NDArray[np.float64]
    confident: ConfidentCounts
    score_parts: ScoreParts
    settings: Settings
    facts: RunFacts
    class_names: tuple[str, ...] | None = None
    ids: IdParts | None = None
    layout: Layout | None = None

    @property
    def n_labelled(self) -> int:
        """Number of rows that have a label."""
        return int(self.class_counts.sum())

    @property
    def n_ignored(self) -> int:
        """Number of rows without a label (`ignore_label`), which are no issues and have the score NaN."""
        return self.n_rows - self.n_labelled

    @property
    def num_issues(self) -> int:
        """Number of label issues, the length of `indices`."""
        return len(self.found)

    @cached_property
    def issues(self) -> IssueRows:
        """The label issues, worst first, in memory."""
        return self.found.part(0, len(self.found))

    @cached_property
    def fingerprint(self) -> str:
        """What tells this result from others: ``"<labels>-<result>"``, each 12 hexadecimal digits.

        The first part follows from the labels alone (`labels_digest`), so that decisions about this result can be
        compared with the labels that they are applied to.
        """
        counts = [*self.class_counts.tolist(), self.n_ignored]
        worst = self.worst(_FINGERPRINT_ROWS)
        numbers = (self.confident_thresholds, self.class_counts, worst.rows, worst.scores, [self.num_issues])
        digest = sha256(b"".join(np.asarray(one, np.float64).astype("<f8").tobytes() for one in numbers))
        return f"{labels_digest(counts)}-{digest.hexdigest()[:FINGERPRINT_DIGITS]}"

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """``(num_issues,)`` row numbers of the label issues, worst first, ties by row."""
        return self.issues.rows

    def worst(self, top: int) -> IssueRows:
        """Return the `top` worst issues, or all if there are fewer. No others are loaded."""
        return self.found.part(0, min(top, len(self.found)))

    def lowest(self, top: int) -> npt.NDArray[np.int64]:
        """Return the `top` rows of lowest score, the lowest first, ties by row, whether they are issues or not.

        Rows without a label are left out. The scores of all rows are read in blocks.

        Parameters
        ----------
        top : int
            Number of rows; all that have a label if there are fewer.

        Returns
        -------
        (top,) int64
            Row numbers.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.lowest(2).tolist(), found.indices.tolist()
        ([2, 1], [2])
        """
        top, start = check_whole_number("top", top, 0), 0
        rows, scores = np.empty(0, np.int64), np.empty(0, np.float64)
        for block in self.score_parts.blocks():
            # Of equal scores the earlier row is lower, so a full list takes only what is below its last score.
            is_low = block < scores[-1] if len(scores) == top > 0 else ~np.isnan(block)
            new = np.flatnonzero(is_low)
            rows, scores = np.concatenate([rows, new + start]), np.concatenate([scores, block[new]])
            order = np.argsort(scores, kind="stable")[:top]
            rows, scores, start = rows[order], scores[order], start + len(block)
        return rows

    def scores_at(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating[Any]]:
        """Return the scores of some rows, in their order; those of all rows are read in blocks.

        Parameters
        ----------
        rows : (n,) int64
            Row numbers, in any order.
        """
        order, start, parts = np.argsort(rows), 0, list[Any]()
        ascending = rows[order]
        for block in self.score_parts.blocks():
            first, last = np.searchsorted(ascending, [start, start + len(block)])
            parts.append(block[ascending[first:last] - start])
            start += len(block)
        scores = np.concatenate(parts)
        scores[order] = scores.copy()
        return scores

    @cached_property
    def lazy_scores(self) -> da.Array:
        """``(N,)`` label quality scores of all rows as a Dask array."""
        return self.score_parts.to_dask()

    @cached_property
    def scores(self) -> Any:
        """``(N,)`` label quality scores of all rows: a read-only NumPy array, or a lazy Dask array.

        NaN for rows without a label (`ignore_label`).
        Lazy if they are in a store, or in row summaries in a workdir: ``numpy.asarray(issues.scores)`` loads them.
        """
        if self.score_parts.in_store:
            return self.lazy_scores
        scores = self.score_parts.to_numpy()
        scores.flags.writeable = False
        return scores

    def score_histogram(self, n_bins: int = 50) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return a histogram of the scores of all rows that have a label; they are read in blocks.

        Parameters
        ----------
        n_bins : int
            Bins of equal width from 0 to 1, or from the lowest to the highest score if adjusted scores go beyond.

        Returns
        -------
        edges : (n_bins + 1,) float64
            Edges of the bins.
        counts : (n_bins,) int64
            Rows in each bin.
        """
        low, high = 0.0, 1.0
        if self.settings.adjust_pred_probs:
            ends = [(float(block.min()), float(block.max())) for block in self._score_blocks()]
            low, high = min(low, *(a for a, _ in ends)), max(high, *(b for _, b in ends))
        edges = np.linspace(low, high, n_bins + 1)
        counts = np.zeros(n_bins, np.int64)
        for block in self._score_blocks():  # scores may exceed 1 by as much as probabilities may
            counts += np.histogram(np.clip(block, low, high), edges)[0]
        return edges, counts

    def _score_blocks(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield the scores of rows that have a label, in row order."""
        for block in self.score_parts.blocks():
            labelled = block[~np.isnan(block)] if self.n_ignored else block
            if len(labelled):
                yield labelled

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return an ``(N,)`` mask that is True for label issues."""
        mask = np.zeros(self.n_rows, np.bool_)
        for rows in self.found.column("row"):
            mask[rows] = True
        return mask

    @cached_property
    def issues_of_class(self) -> npt.NDArray[np.int64]:
        """``(K,)`` number of label issues with each label."""
        total = np.zeros(self.n_classes, np.int64)
        for labels in self.found.column("given_label"):
            total += np.bincount(labels, minlength=self.n_classes)
        return total

    def issue_table(self, start: int = 0, stop: int | None = None) -> class_quality.Columns:
        """Return the issues ``[start, stop)``, counted from the worst, as columns, with ids and names if given.

        Where rows are parts of groups, the columns of the layout stand for ``row``.
        """
        stop = len(self.found) if stop is None else min(stop, len(self.found))
        part = self.found.part(start, stop)
        columns = part.columns()
        where: class_quality.Columns = {"row": columns.pop("row")}
        if self.layout is not None:
            where = dict(self.layout.columns(part.rows))
        if self.ids is not None:
            where["id"] = self.ids.part(start, stop, part.rows)
        return self.named(where | columns)

    def issue_tables(self, start: int = 0, stop: int | None = None) -> Iterator[class_quality.Columns]:
        """Yield the table of the issues ``[start, stop)`` in chunks; one empty table if there are none."""
        stop = len(self.found) if stop is None else stop
        for first in range(start, max(stop, start + 1), TABLE_ROWS):
            yield self.issue_table(first, min(first + TABLE_ROWS, stop))

    def class_table(self) -> class_quality.Columns:
        """Return a line for each class, with its name if given: see `class_quality.class_columns`."""
        return self.named(
            class_quality.class_columns(
                self.confident,
                self.class_counts,
                self.confident_thresholds,
                self.mean_scores,
                self.issues_of_class,
            )
        )

    def pair_table(self, top: int | None = None) -> class_quality.Columns:
        """Return the most confused pairs of classes, with names if given: see `class_quality.pair_columns`."""
        return self.named(class_quality.pair_columns(self.confident, self.class_counts, top))

    def class_label(self, k: int) -> str:
        """Return the number of a class, and its name if it has one."""
        return str(k) if self.class_names is None else f"{k} {' '.join(self.class_names[k].split())}"

    def named(self, columns: class_quality.Columns) -> class_quality.Columns:
        """Add the names of the classes in `columns`, as columns at the end."""
        if self.class_names is None:
            return columns
        names = np.array(self.class_names, object)
        pairs = (("class", "name"), ("given_label", "given_name"), ("suggested_label", "suggested_name"))
        return columns | {name: names[columns[of].astype(np.intp)] for of, name in pairs if of in columns}


def loaded_versions() -> dict[str, str]:
    """Return the versions of Labelsieve, Python, and those packages below it that are loaded."""
    found = {"labelsieve": metadata.version("labelsieve"), "python": platform.python_version()}
    loaded = {name: sys.modules.get(name) for name in ("numpy", "dask", "zarr", "distributed")}
    return found | {name: str(module.__version__) for name, module in loaded.items() if module is not None}


def check_class_names(names: Sequence[str] | None, n_classes: int) -> tuple[str, ...] | None:
    """Return the names of all classes, in order.

    Raises
    ------
    InvalidInputError
        If there is not one for each class.
    InputTypeError
        If they are not a sequence of strings.
    """
    if names is None:
        return None
    given = check_names("class_names", names)
    if len(given) != n_classes:
        raise InvalidInputError(f"{len(given):,} class_names, pred_probs has {n_classes:,} classes")
    return tuple(map(as_text, given))


def read_class_names(path: Path) -> list[str]:
    """Read class names from a file: one on each line, or a JSON list.

    Raises
    ------
    InvalidInputError
        For a file that cannot be read, or a list of anything but strings.
    """
    check_place("class names", path)
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"class names: {path} is not readable: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    try:
        names = json.loads("\n".join(lines))
    except ValueError:
        return lines  # perhaps the first name is in brackets
    if not isinstance(names, list):
        return lines
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"class names: {path} must list names, as strings")
    return names


@dataclass(frozen=True)
class ArrayIds:
    """The user's own names of all rows.

    Parameters
    ----------
    names : (N,) array or Source
        Integers or strings.
    """

    names: npt.NDArray[Any] | Source

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:  # noqa: ARG002  # found by row
        """Return the names of `rows`.

        Raises
        ------
        UnreadableDataError
            If they cannot be read, or have changed since the run began.
        """
        names = self.names.take(rows)
        if names.dtype.kind in "iu":
            return names.astype(names.dtype.newbyteorder("="), copy=False)
        texts: npt.NDArray[Any] = np.empty(len(names), object)  # a fixed width would be that of the longest
        texts[:] = [as_text(str(name)) for name in names.tolist()]
        return texts


@dataclass(frozen=True)
class GroupIds:
    """The user's own names of groups of rows.

    Parameters
    ----------
    names : ArrayIds
        Of all groups.
    layout : Layout
        The group of each row.
    """

    names: ArrayIds
    layout: Layout

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the names of the groups of `rows`."""
        return self.names.part(start, stop, self.layout.groups_of(rows))


def open_ids(ids: Any, n_rows: int, layout: Layout | None = None) -> ArrayIds | GroupIds | None:
    """Open the user's own names of rows. Of a ``.npy`` file or Zarr array only the names of issues are read, later.

    Parameters
    ----------
    ids : array-like of int or str, or path, or None
        ``(N,)`` names: a list, NumPy array, pandas column, Zarr array, or the path of a ``.npy`` file, a Zarr array, a
        ``.csv`` file with a column ``id`` as `LabelIssues.to_csv` writes it, or a text file with a name on each line.
    n_rows : int
        N.
    layout : Layout, optional
        Groups of the rows, of which `ids` has a name each.

    Raises
    ------
    InvalidInputError
        If there are not N, or the path cannot be read.
    InputTypeError
        For anything but integers and strings.
    """
    if ids is None:
        return None
    if layout is not None:
        return GroupIds(_open_names(ids, layout.n_groups, f"there are {layout.n_groups:,} {layout.units[1]}"), layout)
    return _open_names(ids, n_rows, f"pred_probs has {n_rows:,} rows")


def _open_names(ids: Any, n_named: int, size: str) -> ArrayIds:
    """Open `n_named` names; `size` says in messages how many there must be."""
    names = _open(Path(check_place("ids", ids))) if isinstance(ids, str | os.PathLike) else ids
    if hasattr(names, "oindex"):
        names = open_any("ids", names)
    if isinstance(names, Source):
        names.note_version()
    else:
        strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        names = np.asarray(names, object if strings else None)
    if names.shape != (n_named,):
        raise InvalidInputError(f"ids have shape {tuple(names.shape)}, {size}")
    strings = names.dtype.kind == "O" and all(isinstance(name, str) for name in names[:])
    if not strings and names.dtype.kind not in "iuUT":
        raise InputTypeError(f"ids must be integers or strings, not {names.dtype}")
    return ArrayIds(names)


def _open(path: Path) -> Source | list[str]:
    """Open a file or Zarr array of names; of a text file or CSV all are read."""
    if path.suffix == ".npy" or path.is_dir():
        return open_place("ids", path)
    try:
        column = _read_id_column(path) if path.suffix == ".csv" else None
        return read_lines(path) if column is None else column
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInputError(f"ids: {path} is not readable: {error}") from error


def _read_id_column(path: Path) -> list[str] | None:
    """Return the column ``id`` of a CSV file without what `escape_formula` added; None if it has no such column."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if "id" not in header:
            return None
        position, names = header.index("id"), list[str]()
        for line in lines:
            if len(line) != len(header):
                raise InvalidInputError(
                    f"ids: line {lines.line_num:,} of {path} has {len(line)} cells, its header has {len(header)}"
                )
            names.append(unescape_formula(line[position]))
    return names
