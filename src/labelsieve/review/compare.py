"""The issues of two results side by side, in pieces of rows that fit into memory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import joint_sums
from labelsieve.confident_learning.matrices import Columns
from labelsieve.errors import InvalidInputError, warn
from labelsieve.results.label_issues import LabelIssues, open_rows
from labelsieve.results.result import TABLE_ROWS, Result, frame_of
from labelsieve.results.store import check_ending, replacing, write_table
from labelsieve.results.units import TagLayout
from labelsieve.storage.folder import open_folder, temporary_folder, writing

if TYPE_CHECKING:
    import os

    import pandas as pd

    from labelsieve.confident_learning.thresholds import Bools, Int64s
    from labelsieve.results.label_issues import GroupedIssues

# Stands for the label and the prediction of a row where it is not an issue.
NO_CLASS: Final = -1
# Issues of both results that are compared at a time. More are first sorted into pieces on disk.
_PIECE_ISSUES: Final = 1 << 21
# Ranges of rows whose issues are counted to find such pieces.
_BINS: Final = 1 << 16


@dataclass(frozen=True, eq=False)
class IssuePiece:
    """The issues of both results within a range of rows.

    Parameters
    ----------
    rows : (n,) int64
        Rows that are issues in either result, ascending.
    is_before, is_after : (n,) bool
        Of which results they are issues.
    before, after : dict of (n,) array
        ``given_label``, ``suggested_label`` and ``score`` in each.
    ids : (n,) array, optional
        The user's names of the rows.
    """

    rows: Int64s
    is_before: Bools
    is_after: Bools
    before: Columns
    after: Columns
    ids: npt.NDArray[Any] | None

    @property
    def is_kept(self) -> Bools:
        """Which rows are issues in both results."""
        return self.is_before & self.is_after

    @property
    def is_relabelled(self) -> Bools:
        """Which of these have another given label after."""
        found: Bools = self.is_kept & (self.before["given_label"] != self.after["given_label"])
        return found


class IssuePieces:
    """The issues of both results, by row, in pieces that fit into memory; to be iterated over, more than once.

    Parameters
    ----------
    before, after : Result
        Results of the same rows.

    Raises
    ------
    InvalidInputError
        While it is iterated over, if a row has another id in one result than in the other.
    UnwritableError
        If temporary files cannot be written.
    """

    def __init__(self, before: Result, after: Result) -> None:
        edges = _edges(before, after)
        self._n_pieces, folder = len(edges) - 1, None
        if self._n_pieces > 1:
            where = temporary_folder()
            with writing(where):
                folder = Path(tempfile.mkdtemp(prefix="labelsieve-compare-", dir=where))
            # Rows and tables are read from it as long as this object is there.
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._sides = [
            _Side(one, edges, None if folder is None else folder / name)
            for one, name in ((before, "before"), (after, "after"))
        ]

    def __iter__(self) -> Iterator[IssuePiece]:
        for number in range(self._n_pieces):
            yield self._piece(number)

    def _piece(self, number: int) -> IssuePiece:
        (before, before_ids), (after, after_ids) = (side.read(number) for side in self._sides)
        # Both are sorted; union1d would hash them, which takes ten times as long.
        rows = np.sort(np.concatenate([before["row"], after["row"]]), kind="stable")
        rows = rows[np.append(rows[1:] != rows[:-1], True)[: len(rows)]]
        is_before, is_after = (np.isin(rows, one["row"], assume_unique=True) for one in (before, after))
        ids = None
        if before_ids is not None and after_ids is not None:
            if before_ids.dtype != after_ids.dtype:  # numbers in one result, the same as text in the other
                before_ids, after_ids = _as_texts(before_ids), _as_texts(after_ids)
            kept = is_before & is_after
            ids = np.empty(len(rows), before_ids.dtype)
            ids[is_before] = before_ids
            old = ids[kept]
            ids[is_after] = after_ids
            other = np.flatnonzero(old != ids[kept])
            if len(other):
                row, first = int(rows[kept][other[0]]), other[0]
                raise InvalidInputError(
                    f"row {row:,} has the id {old[first]!s} before and {ids[kept][first]!s} after: another dataset?"
                ).at([(row, row + 1)])
        elif before_ids is not None or after_ids is not None:
            ids = np.full(len(rows), "", object)
            names, where = (before_ids, is_before) if before_ids is not None else (after_ids, is_after)
            ids[where] = () if names is None else _as_texts(names)
        return IssuePiece(rows, is_before, is_after, _aligned(before, is_before), _aligned(after, is_after), ids)


def _as_texts(ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    texts = np.empty(len(ids), object)
    texts[:] = [str(name) for name in ids.tolist()]
    return texts


def _aligned(records: npt.NDArray[Any], is_issue: Bools) -> Columns:
    """Return the columns of records along all rows; the others have no class, and NaN as score."""
    columns: Columns = {}
    for name in ("given_label", "suggested_label", "score"):
        dtype = records.dtype[name]
        columns[name] = np.full(len(is_issue), np.nan if dtype.kind == "f" else NO_CLASS, dtype)
        columns[name][is_issue] = records[name]
    return columns


def _edges(before: Result, after: Result) -> list[int]:
    """Return the rows at which the pieces begin, and the number of rows."""
    n_rows = before.n_rows
    if before.num_issues + after.num_issues <= _PIECE_ISSUES:
        return [0, n_rows]
    width = -(-n_rows // _BINS)
    counts = np.zeros(-(-n_rows // width), np.int64)
    for one in (before, after):
        for rows in one.found.column("row"):
            counts += np.bincount(rows // width, minlength=len(counts))
    piece_of_bin = (np.cumsum(counts) - counts) // _PIECE_ISSUES
    return [0, *((np.flatnonzero(np.diff(piece_of_bin)) + 1) * width).tolist(), n_rows]


class _Side:
    """The issues of one result in pieces by row: in one piece as they are, in several as files of a folder.

    Parameters
    ----------
    result : Result
        The result.
    edges : list of int
        Rows at which pieces begin, and the number of rows.
    folder : Path or None
        For the files of several pieces.
    """

    def __init__(self, result: Result, edges: list[int], folder: Path | None) -> None:
        self._result, self._folder = result, folder
        self._dtype = np.dtype(
            [
                ("row", np.int64),
                ("given_label", np.int64),
                ("suggested_label", np.int64),
                ("score", result.found.part(0, 0).scores.dtype),
            ]
        )
        if folder is None:
            return
        with writing(str(folder)):
            folder.mkdir()
            for start in range(0, result.num_issues, TABLE_ROWS):
                records, ids = self._records(start, min(start + TABLE_ROWS, result.num_issues))
                cuts = np.searchsorted(records["row"], edges).tolist()
                for number in range(len(edges) - 1):
                    first, stop = cuts[number], cuts[number + 1]
                    if first == stop:
                        continue
                    with self._file(number).open("ab") as file:
                        records[first:stop].tofile(file)
                    if ids is not None:
                        with self._file(number, "ids").open("a", encoding="utf-8") as text:
                            text.write(json.dumps(ids[first:stop].tolist()) + "\n")

    def read(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Return the issues of a piece by row, and their ids if there are any."""
        if self._folder is None:
            return self._records(0, self._result.num_issues)
        file, ids = self._file(number), None
        records = np.fromfile(file, self._dtype) if file.exists() else np.empty(0, self._dtype)
        order = np.argsort(records["row"], kind="stable")
        if self._result.ids is not None:
            names = list[Any]()
            if file.exists():
                with self._file(number, "ids").open(encoding="utf-8") as text:
                    for line in text:
                        names += json.loads(line)
            of_none = self._result.ids.part(0, 0, np.empty(0, np.int64))
            ids = np.empty(len(names), of_none.dtype)
            ids[:] = names
            ids = ids[order]
        return records[order], ids

    def _file(self, number: int, ending: str = "issues") -> Path:
        return Path(self._folder or "", f"{number}.{ending}")

    def _records(self, start: int, stop: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Return the issues ``[start, stop)``, counted from the worst, sorted by row, and their ids."""
        part = self._result.found.part(start, stop)
        order = np.argsort(part.rows, kind="stable")
        records = np.empty(len(part), self._dtype)
        for name in self._dtype.names or ():
            records[name] = part.columns()[name][order]
        ids = None if self._result.ids is None else self._result.ids.part(start, stop, part.rows)[order]
        return records, ids


# Rows that are turned into text at a time.
_TEXT_ROWS: Final = 1 << 16
_STATUSES: Final = ("resolved", "kept", "new")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The issues before and after something was changed, from `labelsieve.compare`.

    A row that was an issue before and is none after is *resolved*; one that is an issue in both results is *kept*; one
    that is an issue only after is *new*. Row numbers are read when they are used; tables of them come in blocks.

    Attributes
    ----------
    before, after : LabelIssues
        The results.
    n_resolved, n_kept, n_new : int
        Number of resolved, kept and new issues.
    n_relabelled : int
        How many of those kept have another given label after than before.
    resolved, kept, new, relabelled : (n,) int64
        Their rows, ascending.
    n_rows, n_classes : int
        Shape of `pred_probs`.
    issues_before, issues_after : int
        Number of issues of each result.
    estimated_before, estimated_after : int
        Estimated number of wrong labels.
    health_before, health_after : float
        Estimated share of right labels, as `LabelIssues.health_score`.
    classes : dict of (K,) arrays
        The columns of `by_class`.

    Examples
    --------
    >>> import labelsieve
    >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
    >>> before = labelsieve.find_label_issues([0, 1, 0, 1], probs)
    >>> after = labelsieve.find_label_issues([0, 1, 1, 1], probs)
    >>> comparison = labelsieve.compare(before, after)
    >>> comparison
    <Comparison: 2 issues before, 1 after: 1 resolved, 1 kept, 0 new>
    >>> comparison.resolved.tolist(), comparison.kept.tolist(), comparison.new.tolist()
    ([2], [3], [])
    """

    before: Result
    after: Result
    n_resolved: int
    n_kept: int
    n_new: int
    n_relabelled: int
    classes: Columns
    _pieces: IssuePieces

    @property
    def n_rows(self) -> int:
        """Number of rows N."""
        return self.after.n_rows

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self.after.n_classes

    @property
    def issues_before(self) -> int:
        """Number of issues before."""
        return self.before.num_issues

    @property
    def issues_after(self) -> int:
        """Number of issues after."""
        return self.after.num_issues

    @property
    def estimated_before(self) -> int:
        """Estimated number of wrong labels before."""
        return self.before.estimated_num_issues

    @property
    def estimated_after(self) -> int:
        """Estimated number of wrong labels after."""
        return self.after.estimated_num_issues

    @property
    def health_before(self) -> float:
        """Estimated share of right labels before."""
        return 1 - self.estimated_before / self.before.n_labelled

    @property
    def health_after(self) -> float:
        """Estimated share of right labels after."""
        return 1 - self.estimated_after / self.after.n_labelled

    @cached_property
    def resolved(self) -> Int64s:
        """``(n_resolved,)`` rows that were issues before only, ascending."""
        return self._rows_of(lambda piece: piece.is_before & ~piece.is_after)

    @cached_property
    def kept(self) -> Int64s:
        """``(n_kept,)`` rows that are issues in both results, ascending."""
        return self._rows_of(lambda piece: piece.is_kept)

    @cached_property
    def new(self) -> Int64s:
        """``(n_new,)`` rows that are issues after only, ascending."""
        return self._rows_of(lambda piece: piece.is_after & ~piece.is_before)

    @cached_property
    def relabelled(self) -> Int64s:
        """``(n_relabelled,)`` rows that are issues in both, with another given label after, ascending."""
        return self._rows_of(lambda piece: piece.is_relabelled)

    def _rows_of(self, choose: Any) -> Int64s:
        return np.concatenate([np.empty(0, np.int64), *(piece.rows[choose(piece)] for piece in self._pieces)])

    def tables(self) -> Iterator[Columns]:
        """Yield the columns of `to_frame` in blocks, by row.

        ``-1`` stands for a class, NaN for a score and "" for a name where the row is not an issue.
        """
        for piece in self._pieces:
            yield self._table(piece)

    def to_frame(self) -> pd.DataFrame:
        """Return all issues of both results as a pandas DataFrame, by row.

        Returns
        -------
        pandas.DataFrame
            ``row`` (or ``image``, ``y``, ``x`` and so on), ``id`` (if given), ``status`` (``resolved``, ``kept`` or
            ``new``), then ``given_label``, ``suggested_label`` and ``score`` with ``_before`` and ``_after``, which are
            missing where the row is not an issue; with class names also ``given_name_before`` and so on.

        Raises
        ------
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> import labelsieve
        >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
        >>> before = labelsieve.find_label_issues([0, 1, 0, 1], probs)
        >>> after = labelsieve.find_label_issues([0, 1, 1, 1], probs)
        >>> labelsieve.compare(before, after).to_frame()[["row", "status", "given_label_before"]].values.tolist()
        [[2, 'resolved', 0], [3, 'kept', 1]]
        """
        tables = list(self.tables())
        frame = frame_of({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})
        for name in frame.columns:
            if "_label_" in name:
                frame[name] = frame[name].astype("Int64").mask(frame[name] == NO_CLASS)
        return frame

    def to_csv(self, path: str | os.PathLike[str], *, escape_formulas: bool = True) -> None:
        """Write the table of `to_frame` as a CSV file, in blocks; missing values are empty.

        Parameters
        ----------
        path : path or URL
            Ends in ``.csv``.
        escape_formulas : bool
            As in `LabelIssues.to_csv`.

        Raises
        ------
        InvalidInputError
            For another ending, or a missing folder.
        UnwritableError
            If the file cannot be written.
        """
        place = check_ending("path", path, ".csv")
        with replacing(open_folder(place)) as made:
            write_table(made, self._text_tables(), escape_formulas=escape_formulas)

    def _text_tables(self) -> Iterator[Columns]:
        """Yield `tables` in smaller blocks, whose missing values are empty: text takes many times the memory."""
        for table in self.tables():
            for start in range(0, max(1, len(table["status"])), _TEXT_ROWS):
                yield _emptied({name: column[start : start + _TEXT_ROWS] for name, column in table.items()})

    def by_class(self) -> pd.DataFrame:
        """Return a table with a row for each class, in class order.

        Returns
        -------
        pandas.DataFrame
            ``class``; ``rows_before``, ``rows_after`` (with this given label); ``issues_before``, ``resolved``,
            ``kept`` (by the given label before), ``relabelled`` (how many of those kept have another given label
            after), ``new``, ``issues_after`` (by the given label after); ``estimated_before``, ``estimated_after``
            (wrong labels: the label noise of `LabelIssues.class_summary` times rows, whose sum is another estimate than
            ``estimated_num_issues``); and with class names ``name``.

        Raises
        ------
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> import labelsieve
        >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
        >>> before = labelsieve.find_label_issues([0, 1, 0, 1], probs)
        >>> after = labelsieve.find_label_issues([0, 1, 1, 1], probs)
        >>> columns = ["class", "rows_before", "rows_after", "resolved", "kept", "new"]
        >>> labelsieve.compare(before, after).by_class()[columns].values.tolist()
        [[0, 2, 1, 1, 0, 0], [1, 2, 3, 0, 1, 0]]
        """
        return frame_of(self.classes)

    def changed_classes(self, top: int) -> list[dict[str, Any]]:
        """Return the lines of `by_class` for the `top` classes with the most issues in both results together.

        Classes without issues are left out.
        """
        n_issues = self.classes["issues_before"] + self.classes["issues_after"]
        order = np.argsort(-n_issues, kind="stable")[: min(top, int(np.count_nonzero(n_issues)))]
        values = zip(*(column[order].tolist() for column in self.classes.values()), strict=True)
        return [dict(zip(self.classes, line, strict=True)) for line in values]

    def __str__(self) -> str:
        relabelled = f" ({self.n_relabelled:,} of these with another label)" if self.n_relabelled else ""
        issues = "issue" if self.issues_before == 1 else "issues"
        was, are = ("was" if self.n_resolved == 1 else "were"), ("is" if self.n_kept == 1 else "are")
        return (
            f"Of {self.issues_before:,} {issues} {self.n_resolved:,} {was} resolved, {self.n_kept:,} {are} still "
            f"there{relabelled}, {self.n_new:,} {'is' if self.n_new == 1 else 'are'} new"
        )

    def __repr__(self) -> str:
        return (
            f"<Comparison: {self.issues_before:,} issues before, {self.issues_after:,} after: "
            f"{self.n_resolved:,} resolved, {self.n_kept:,} kept, {self.n_new:,} new>"
        )

    def _table(self, piece: IssuePiece) -> Columns:
        layout = self.after.layout
        table: Columns = {"row": piece.rows} if layout is None else dict(layout.columns(piece.rows))
        if piece.ids is not None:
            table["id"] = piece.ids
        table["status"] = np.array(_STATUSES, object)[np.where(piece.is_kept, 1, np.where(piece.is_after, 2, 0))]
        # The empty text is at -1, which stands for no class.
        class_names = self._named.class_names
        names = None if class_names is None else np.array([*class_names, ""], object)
        for end, columns in (("before", piece.before), ("after", piece.after)):
            table |= {f"{name}_{end}": columns[name] for name in ("given_label", "suggested_label", "score")}
        if names is not None:
            for end, columns in (("before", piece.before), ("after", piece.after)):
                table |= {f"{of}_name_{end}": names[columns[f"{of}_label"]] for of in ("given", "suggested")}
        return table

    def class_label(self, k: int) -> str:
        """Return the number of a class, and its name if either result has one."""
        return self._named.class_label(k)

    @property
    def _named(self) -> Result:
        return self.before if self.after.class_names is None else self.after


def compare_results(before: Result, after: Result) -> Comparison:
    """Compare two results of the same rows.

    Both are read once, in blocks. If they have more than 2 million issues, these are sorted into pieces in temporary
    files.

    Parameters
    ----------
    before, after : Result
        The results.

    Raises
    ------
    InvalidInputError
        If they have other numbers of rows or classes, other class names, other groups of rows, or other ids.
    UnwritableError
        If the temporary files cannot be written.

    Warns
    -----
    LabelsieveWarning
        If the results have other settings.
    """
    _check_same_rows(before, after)
    differing = [
        one.name
        for one in fields(before.settings)
        if getattr(before.settings, one.name) != getattr(after.settings, one.name)
    ]
    if differing:
        said = (", ".join(f"{name}={getattr(one.settings, name)!r}" for name in differing) for one in (before, after))
        warn("the results have other settings, which change the issues too: {} before, {} after".format(*said))
    pieces, k = IssuePieces(before, after), after.n_classes
    names = ("resolved", "kept", "relabelled", "arrived", "new")
    counts = {name: np.zeros(k, np.int64) for name in names}
    for piece in pieces:
        by_before, by_after = piece.before["given_label"], piece.after["given_label"]
        chosen = {
            "resolved": by_before[piece.is_before & ~piece.is_after],
            "kept": by_before[piece.is_kept],
            "relabelled": by_before[piece.is_relabelled],
            "arrived": by_after[piece.is_relabelled],
            "new": by_after[piece.is_after & ~piece.is_before],
        }
        for name, labels in chosen.items():
            counts[name] += np.bincount(labels, minlength=k)
    classes: Columns = {
        "class": np.arange(k),
        "rows_before": before.class_counts,
        "rows_after": after.class_counts,
        "issues_before": counts["resolved"] + counts["kept"],
        **{name: counts[name] for name in ("resolved", "kept", "relabelled", "new")},
        "issues_after": counts["kept"] - counts["relabelled"] + counts["arrived"] + counts["new"],
        "estimated_before": _estimated(before),
        "estimated_after": _estimated(after),
    }
    n_resolved, n_kept, n_relabelled, _, n_new = (int(counts[name].sum()) for name in names)
    classes = (after if after.class_names is not None else before).named(classes)
    return Comparison(before, after, n_resolved, n_kept, n_new, n_relabelled, classes, pieces)


def _estimated(result: Result) -> Int64s:
    """Return the estimated number of wrong labels among the rows with each label."""
    joint = joint_sums(result.confident, result.class_counts)
    return joint.by_label - joint.diagonal


def _check_same_rows(before: Result, after: Result) -> None:
    """Raise unless both results can be of the same rows."""
    sizes = (("rows", before.n_rows, after.n_rows), ("classes", before.n_classes, after.n_classes))
    for what, one, other in sizes:
        if one != other:
            raise InvalidInputError(
                f"before has {one:,} {what}, after {other:,}: only results of the same rows and classes can be compared"
            )
    if before.class_names is not None and after.class_names is not None:
        pairs = enumerate(zip(before.class_names, after.class_names, strict=True))
        differing = next(((k, pair) for k, pair in pairs if pair[0] != pair[1]), None)
        if differing is not None:
            k, (one_name, other_name) = differing
            raise InvalidInputError(f"class {k:,} is {one_name!r} before and {other_name!r} after: other classes?")
    kinds = [None if one.layout is None else one.layout.units[0] for one in (before, after)]
    if kinds[0] != kinds[1]:
        shown = [kind or "rows without groups" for kind in kinds]
        raise InvalidInputError(f"before is a result of {shown[0]}, after of {shown[1]}")
    if not _same_groups(before, after):
        raise InvalidInputError(f"before and after have other {after.layout.units[1] if after.layout else 'groups'}")


def _same_groups(before: Result, after: Result) -> bool:
    one, other = before.layout, after.layout
    if one is None or other is None:
        return one is other
    if type(one) is not type(other):
        return False
    if isinstance(one, TagLayout) and isinstance(other, TagLayout):  # names may be missing
        return (one.n_examples, one.n_tags) == (other.n_examples, other.n_tags)
    if one.attributes() != other.attributes():
        return False
    return one.array is other.array or np.array_equal(one.array, other.array)  # type: ignore[arg-type]  # one type


def _emptied(table: Columns) -> Columns:
    """Return a table for a CSV file: what is missing is empty."""
    found = dict(table)
    for name, column in table.items():
        if "_label_" in name:
            found[name] = np.where(column == NO_CLASS, "", column.astype(str))
        elif name.startswith("score_"):
            found[name] = np.where(np.isnan(column), "", column.astype(str))
    return found


__all__ = ["compare"]


def compare(
    before: LabelIssues | GroupedIssues | str | os.PathLike[str],
    after: LabelIssues | GroupedIssues | str | os.PathLike[str],
) -> Comparison:
    """Compare the issues of two results of the same rows: which were resolved, which are still there, which are new.

    Parameters
    ----------
    before, after : LabelIssues, or the result of another task, or path
        The results, or the ``.zarr`` groups in which they are saved.

    Returns
    -------
    Comparison
        Numbers, rows and tables.

    Raises
    ------
    InvalidInputError
        If the results have other numbers of rows or classes, other class names, other images, sentences or examples, or
        other ids, or there is no result at a path.
    InputTypeError
        For anything but results and paths.
    UnreadableDataError
        If a file of a saved result is missing or damaged.
    UnwritableError
        If there are more issues than fit into memory, and temporary files cannot be written.

    Warns
    -----
    LabelsieveWarning
        If the results have other settings, such as another score or filter.

    Examples
    --------
    >>> import labelsieve
    >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
    >>> before = labelsieve.find_label_issues([0, 1, 0, 1], probs)
    >>> after = labelsieve.find_label_issues([0, 1, 1, 1], probs)
    >>> labelsieve.compare(before, after)
    <Comparison: 2 issues before, 1 after: 1 resolved, 1 kept, 0 new>
    """
    return compare_results(open_rows("before", before), open_rows("after", after))
