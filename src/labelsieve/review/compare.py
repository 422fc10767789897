"""Two results of the same rows compared: which issues were resolved, which are still there, which are new."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import joint_sums
from labelsieve.confident_learning.matrices import Columns
from labelsieve.errors import InvalidInputError, warn
from labelsieve.results.label_issues import LabelIssues, open_rows
from labelsieve.results.result import Result, frame_of
from labelsieve.results.store import check_ending, replacing, write_table
from labelsieve.storage.folder import open_folder

if TYPE_CHECKING:
    import os

    import pandas as pd

    from labelsieve.confident_learning.thresholds import Bools, Int64s
    from labelsieve.results.label_issues import GroupedIssues

# Rows that are turned into text at a time.
_TEXT_ROWS: Final = 1 << 16
_STATUSES: Final = ("resolved", "kept", "new")
# Issues of both results together, which are compared in memory: some 200 bytes each.
_MOST_ISSUES: Final = 10_000_000
# Stands for the label and the prediction of a row where it is not an issue.
_NO_CLASS: Final = -1


class Comparison:
    """The issues before and after something was changed, from `labelsieve.compare`.

    A row that was an issue before and is none after is *resolved*; one that is an issue in both results is *kept*; one
    that is an issue only after is *new*.

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

    def __init__(self, before: Result, after: Result) -> None:
        self.before, self.after = before, after
        self.n_rows, self.n_classes = after.n_rows, after.n_classes
        self.issues_before, self.issues_after = before.num_issues, after.num_issues
        self.estimated_before, self.estimated_after = before.estimated_num_issues, after.estimated_num_issues
        self.health_before = 1 - self.estimated_before / before.n_labelled
        self.health_after = 1 - self.estimated_after / after.n_labelled
        self._named = before if after.class_names is None else after
        n_issues = self.issues_before + self.issues_after
        if n_issues > _MOST_ISSUES:
            raise InvalidInputError(
                f"before and after have {n_issues:,} issues together, and at most {_MOST_ISSUES:,} can be compared"
            )
        parts = [one.found.part(0, one.num_issues) for one in (before, after)]
        orders = [np.argsort(part.rows, kind="stable") for part in parts]
        old, new = (part.rows[order] for part, order in zip(parts, orders, strict=True))
        # Both are sorted; union1d would hash them, which takes ten times as long.
        rows = np.sort(np.concatenate([old, new]), kind="stable")
        self._rows = rows = rows[np.append(rows[1:] != rows[:-1], True)[: len(rows)]]
        is_issue: list[Bools] = [np.isin(rows, one, assume_unique=True) for one in (old, new)]
        # Columns of each result, in which -1 and NaN stand for the rows that are no issues in it.
        self._ends: dict[str, Columns] = {"before": {}, "after": {}}
        for end, part, order, flags in zip(self._ends.values(), parts, orders, is_issue, strict=True):
            columns = part.columns()
            end |= {name: np.full(len(rows), _NO_CLASS) for name in ("given_label", "suggested_label")}
            end["score"] = np.full(len(rows), np.nan, part.scores.dtype)
            for name, column in end.items():
                column[flags] = columns[name][order]
        self._ids = _joined_ids(
            rows,
            is_issue,
            [
                None if one.ids is None else one.ids.part(0, one.num_issues, part.rows)[order]
                for one, part, order in zip((before, after), parts, orders, strict=True)
            ],
        )
        (is_before, is_after), k = is_issue, after.n_classes
        by_before, by_after = (end["given_label"] for end in self._ends.values())
        is_kept = is_before & is_after
        chosen = {"resolved": is_before & ~is_after, "kept": is_kept, "relabelled": is_kept & (by_before != by_after)}
        chosen["new"] = is_after & ~is_before
        self._codes = np.where(is_kept, 1, np.where(is_after, 2, 0))
        self.resolved, self.kept, self.relabelled, self.new = (rows[flags] for flags in chosen.values())
        self.n_resolved, self.n_kept = len(self.resolved), len(self.kept)
        self.n_relabelled, self.n_new = len(self.relabelled), len(self.new)
        counts = {
            name: np.bincount((by_after if name == "new" else by_before)[flags], minlength=k)
            for name, flags in chosen.items()
        }
        arrived = np.bincount(by_after[chosen["relabelled"]], minlength=k)
        self.classes: Columns = self._named.named(
            {
                "class": np.arange(k),
                "rows_before": before.class_counts,
                "rows_after": after.class_counts,
                "issues_before": counts["resolved"] + counts["kept"],
                **counts,
                "issues_after": counts["kept"] - counts["relabelled"] + arrived + counts["new"],
                "estimated_before": _estimated(before),
                "estimated_after": _estimated(after),
            }
        )

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
        frame = frame_of(self._table(slice(None)))
        for name in frame.columns:
            if "_label_" in name:
                frame[name] = frame[name].astype("Int64").mask(frame[name] == _NO_CLASS)
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
            starts = range(0, max(1, len(self._rows)), _TEXT_ROWS)
            tables = (_emptied(self._table(slice(start, start + _TEXT_ROWS))) for start in starts)
            write_table(made, tables, escape_formulas=escape_formulas)

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

    def _table(self, part: slice) -> Columns:
        """Return columns of `to_frame`; -1 stands for a class, NaN for a score and "" for a name that is missing."""
        layout, class_names, rows = self.after.layout, self._named.class_names, self._rows[part]
        table: Columns = {"row": rows} if layout is None else dict(layout.columns(rows))
        if self._ids is not None:
            table["id"] = self._ids[part]
        table["status"] = np.array(_STATUSES, object)[self._codes[part]]
        ends = {end: {name: one[part] for name, one in columns.items()} for end, columns in self._ends.items()}
        for end, columns in ends.items():
            table |= {f"{name}_{end}": column for name, column in columns.items()}
        if class_names is not None:
            names = np.array([*class_names, ""], object)  # the empty text is at -1
            for end, columns in ends.items():
                table |= {f"{of}_name_{end}": names[columns[f"{of}_label"]] for of in ("given", "suggested")}
        return table

    def class_label(self, k: int) -> str:
        """Return the number of a class, and its name if either result has one."""
        return self._named.class_label(k)


def _joined_ids(rows: Int64s, is_issue: list[Bools], ids: list[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    """Return the IDs of rows, or raise if a row has another one in one result than in the other."""
    (is_before, is_after), (old, new) = is_issue, ids
    if old is None and new is None:
        return None
    if old is None or new is None or old.dtype != new.dtype:  # numbers in one result, the same as text in the other
        old, new = (None if one is None else np.array([str(name) for name in one.tolist()], object) for one in ids)
    found = np.full(len(rows), "", object) if old is None or new is None else np.empty(len(rows), old.dtype)
    kept = is_before & is_after
    if new is not None:
        found[is_after] = new
    if old is not None:
        later = found[kept]
        found[is_before] = old
        other = np.flatnonzero(later != found[kept])
        if new is not None and len(other):
            row, first = int(rows[kept][other[0]]), other[0]
            raise InvalidInputError(
                f"row {row:,} has the id {found[kept][first]!s} before and {later[first]!s} after: another dataset?"
            ).at([(row, row + 1)])
    return found


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
    for k, (one_name, other_name) in enumerate(zip(before.class_names or (), after.class_names or (), strict=False)):
        if one_name != other_name:
            raise InvalidInputError(f"class {k:,} is {one_name!r} before and {other_name!r} after: other classes?")
    kinds = [None if one.layout is None else one.layout.units[0] for one in (before, after)]
    if kinds[0] != kinds[1]:
        shown = [kind or "rows without groups" for kind in kinds]
        raise InvalidInputError(f"before is a result of {shown[0]}, after of {shown[1]}")
    if before.layout is not None and after.layout is not None and not before.layout.has_same_groups(after.layout):
        raise InvalidInputError(f"before and after have other {after.layout.units[1]}")


def _emptied(table: Columns) -> Columns:
    """Return a table for a CSV file: what is missing is empty."""
    found = dict(table)
    for name, column in table.items():
        if "_label_" in name:
            found[name] = np.where(column == _NO_CLASS, "", column.astype(str))
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
        other ids; if they have more than 10 million issues together; or there is no result at a path.
    InputTypeError
        For anything but results and paths.
    UnreadableDataError
        If a file of a saved result is missing or damaged.

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
    one, other = open_rows("before", before), open_rows("after", after)
    _check_same_rows(one, other)
    settings = [asdict(result.settings) for result in (one, other)]
    differing = [name for name, value in settings[0].items() if value != settings[1][name]]
    if differing:
        said = (", ".join(f"{name}={own[name]!r}" for name in differing) for own in settings)
        warn("the results have other settings, which change the issues too: {} before, {} after".format(*said))
    return Comparison(one, other)
