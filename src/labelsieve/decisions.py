"""From decisions about labels to corrected labels: see `docs/from_found_to_fixed.md`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.confident_learning.reviewer_agreement import Agreement
from labelsieve.corrections.change_log import change_lines, earlier_logs, plain_label, write_log
from labelsieve.corrections.decisions import WORDS, Decisions, read_decisions
from labelsieve.corrections.fingerprints import labels_digest
from labelsieve.corrections.label_arrays import LabelFile
from labelsieve.corrections.outcomes import (
    UNSURE,
    Conflict,
    LabelValues,
    Outcomes,
    agreement,
    check_against,
    check_results,
    check_rows,
    settle,
)
from labelsieve.corrections.resulting_labels import check_occurring, check_tags
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.given_labels import open_given_labels
from labelsieve.results.grouped_issues import GroupedIssues
from labelsieve.results.label_changes import accepted_changes, changes_of
from labelsieve.results.label_issues import LabelIssues
from labelsieve.results.layouts import classes_of_tags
from labelsieve.results.publish import check_writable, replacing
from labelsieve.results.result import loaded_versions
from labelsieve.results.row_ids import check_names, open_ids
from labelsieve.settings import CONFLICT_RULES, NOTHING, TASKS, UNSURE_RULES, IgnoreLabel, check_flag, check_one_of
from labelsieve.sources.open_path import local_path
from labelsieve.sources.zarr_arrays import is_zarr_array
from labelsieve.storage.folders import LocalFolder
from labelsieve.storage.urls import check_place, without_query


@dataclass(frozen=True, eq=False, repr=False)
class AppliedDecisions:
    """Corrected labels, and what was changed.

    Attributes
    ----------
    labels : array, list or None
        The corrected labels ``(N,)``, or masks, a matrix or lists if they were given as such; None if they were written
        to `output`.
    output : str or None
        The path of the corrected labels; the log is beside it, at ``output + ".log.json"``.
    n_rows : int
        Number of rows N; of pixels, tokens, or examples times tags, if labels are of these.
    changed : (n,) int64
        Rows whose label is another now, ascending.
    before, after : (n,) array
        Their labels before and after.
    dropped : (m,) int64
        Rows to leave out: those that are unsure, with ``unsure="drop"``. They are still among the labels.
    counts : dict of str and int
        ``rows``, ``accept``, ``keep``, ``other``, ``unsure`` (rows by decision), ``auto`` (accepted without review),
        ``changed``, ``dropped``, ``ignored``, ``conflicts``, and ``corrected``: decisions that their reviewer changed.
    conflicts : tuple of Conflict
        Rows about which the decisions differ, each with its ``row`` and its ``decisions``.
    agreement : tuple of Agreement
        Of each two reviewers who decided the same rows: ``reviewers``, ``n_rows``, ``share`` and Cohen's ``kappa``.
    """

    labels: Any
    output: str | None
    n_rows: int
    changed: Int64s
    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    dropped: Int64s
    counts: dict[str, int]
    conflicts: tuple[Conflict, ...]
    agreement: tuple[Agreement, ...]

    def kept_mask(self) -> npt.NDArray[np.bool_]:
        """Return an ``(N,)`` mask that is False for the rows to leave out.

        Examples
        --------
        >>> import labelsieve, pandas as pd
        >>> unsure = pd.DataFrame({"row": [1], "given_label": [1], "decision": ["unsure"], "label": [None]})
        >>> labelsieve.apply_decisions([0, 1, 0], unsure, unsure="drop").kept_mask().tolist()
        [True, False, True]
        """
        kept = np.ones(self.n_rows, np.bool_)
        kept[self.dropped] = False
        return kept

    def __repr__(self) -> str:
        more = f", {len(self.dropped):,} rows to leave out" if len(self.dropped) else ""
        where = f", written to {self.output}" if self.output else ""
        return f"<AppliedDecisions: {len(self.changed):,} of {self.n_rows:,} labels changed{more}{where}>"


def apply_decisions(
    labels: Any,
    decisions: Any = None,
    output: str | os.PathLike[str] | None = None,
    unsure: str = "keep",
    *,
    ignore_label: IgnoreLabel = NOTHING,
    conflicts: str = "error",
    class_names: Sequence[str] | None = None,
    column: str | None = None,
    task: str | None = None,
    ids: Any = None,
    issues: LabelIssues | GroupedIssues | None = None,
    auto: str | None = None,
    margin: float | None = None,
    overwrite: bool = False,
) -> AppliedDecisions:
    """Correct labels by the decisions of reviewers.

    Parameters
    ----------
    labels : path, (N,) array-like, masks, matrix or lists
        The labels: a ``.npy`` file, a Zarr array, a column of a ``.parquet`` or ``.csv`` file, an array in memory, or
        what else `labelsieve.find_label_issues` reads: shards, an array in an ``.npz`` file, a URL. Labels of tokens,
        tags and pixels may be masks, a matrix or lists.
    decisions : path, table, or list of these, optional
        One or more tables of decisions, as CSV files, exports of Label Studio (``.json``), frames of pandas or Polars,
        Arrow tables, or dicts of columns (`docs/from_found_to_fixed.md`). May be missing with `auto`.
    output : path, optional
        Where the corrected labels go, in the form of `labels`: same ending, dtype, chunks and other columns. Labels in
        memory, shards, archives and what is at a URL are written as ``.npy`` or ``.zarr``. Without it they are returned
        in memory.
    unsure : {"keep", "drop", "ignore"}
        What becomes of rows whose decision is ``unsure``: they keep their label; they are listed as rows to leave out
        (`AppliedDecisions.dropped`); or they get `ignore_label`.
    ignore_label : int, str or None
        The label that says that a row has none; None for a missing value, in tables and arrays of objects.
    conflicts : {"error", "keep", "first", "last", "majority"}
        What becomes of rows about which decisions differ: an error; the given label; the first or last decision, by
        time if all have one, else in the order of the tables; or the most frequent one, for which each reviewer counts
        once, and the given label in a tie.
    class_names : sequence of str, optional
        All classes. Labels that are names must be among them, and numbers in 0..K-1. Without them and `issues`, a
        resulting name must occur in `labels`, and a number must not be above all labels. For tags, their K names.
    column : str, optional
        The column of a table, also written as ``table.csv::label``; may be missing if there is only one.
    task : {"classification", "segmentation", "tokens", "tags"}, optional
        What a label belongs to: a row, a pixel of a mask, a token of a sentence, or a tag of an example. By default the
        task of `issues`; without these, arrays of three axes are masks, and anything else must have a label for each
        row.
    ids : array-like or path, optional
        The user's names of rows, or of images, sentences or examples, as in `labelsieve.find_label_issues`, to compare
        with the column ``id``.
    issues : LabelIssues, SegmentationIssues, TokenIssues or MultilabelIssues, optional
        The result that the decisions are about, to compare with the column ``result``; needed for `auto`.
    auto : "accept", optional
        Accept suggestions of `issues` without review, for rows without a decision; the log says so.
    margin : float, optional
        Of these only suggestions whose probability is higher than that of the given label by at least `margin`, from 0
        to 1.
    overwrite : bool
        Whether `output` may be there already, and may be `labels` itself. It is replaced at the end, as a whole. A
        folder of PNG files is never replaced.

    Returns
    -------
    AppliedDecisions
        Corrected labels or their path, what was changed, rows to leave out, and how far reviewers agree.

    Raises
    ------
    InvalidInputError
        For decisions that do not fit the labels, or each other, and an output that is there; nothing is written then.
    InputTypeError
        For objects of another kind.
    UnreadableDataError
        If labels are damaged, or cannot be read.
    MissingDependencyError
        Without pyarrow for Parquet files, or Pillow for PNG files.
    UnwritableError
        If the output cannot be written: a folder without permission, a full disk.

    Examples
    --------
    >>> import labelsieve, pandas as pd
    >>> decided = pd.DataFrame(
    ...     {
    ...         "row": [2, 0, 1],
    ...         "given_label": ["cat", "cat", "dog"],
    ...         "decision": ["accept", "keep", "unsure"],
    ...         "label": ["dog", None, None],
    ...         "reviewer": "ann",
    ...     }
    ... )
    >>> applied = labelsieve.apply_decisions(["cat", "dog", "cat"], decided, unsure="drop")
    >>> applied
    <AppliedDecisions: 1 of 3 labels changed, 1 rows to leave out>
    >>> applied.labels.tolist(), applied.dropped.tolist()
    (['cat', 'dog', 'dog'], [1])

    Accept the clearest suggestions without review:

    >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> labelsieve.apply_decisions([0, 1, 0], issues=found, auto="accept", margin=0.5).labels.tolist()
    [0, 1, 1]

    Change pixel (1, 0) of the only image, and add tag 1 to example 0:

    >>> decided = {"row": [2], "given_label": [0], "decision": ["other"], "label": [1]}
    >>> labelsieve.apply_decisions([[[0, 1], [0, 0]]], decided).labels.tolist()
    [[[0, 1], [1, 0]]]
    >>> decided = {"row": [1], "given_label": [2], "decision": ["accept"], "label": [3]}
    >>> labelsieve.apply_decisions([["cat"], []], decided, task="tags", class_names=["cat", "dog"]).labels
    [['cat', 'dog'], []]
    """
    class_names = None if class_names is None else check_names(class_names)
    check_one_of("unsure", unsure, UNSURE_RULES)
    check_one_of("conflicts", conflicts, CONFLICT_RULES)
    check_flag("overwrite", overwrite)
    if isinstance(issues, GroupedIssues):
        issues = issues.rows
    _check_policies(decisions, unsure, ignore_label, issues, auto, margin)
    layout = None if issues is None else issues.layout
    if task is not None:
        check_one_of("task", task, TASKS)
    file = open_given_labels(labels, layout, column=column, task=task, class_names=class_names)
    if file.n_tags and unsure == "ignore":
        raise InvalidInputError("unsure='ignore' is not for tags, which are there or not: take 'keep' or 'drop'")
    place = None if output is None else _checked_output(output, file, decisions, overwrite=overwrite)
    names = class_names if class_names is not None or issues is None else issues.class_names
    read = read_decisions(decisions, names if class_names is None or not file.n_tags else classes_of_tags(class_names))
    if issues is not None and issues.n_rows != file.n_rows:
        smaller = layout is not None and layout.task == "segmentation" and layout.n_groups == file.n_groups
        hint = "pixels of smaller masks (downsample), or images of other sizes" if smaller else "another dataset"
        raise InvalidInputError(f"issues have {issues.n_rows:,} rows, labels {file.n_rows:,}: {hint}")
    values = LabelValues(file.dtype, _classes_of(file, names, issues))
    outcomes, digest = _compare(file, read, values, ids)
    check_results(read, digest, None if issues is None else issues.fingerprint)
    settled = settle(read, outcomes, conflicts)
    unsure_rows = read.rows[settled.places[outcomes.resulting[settled.places] == UNSURE]]
    if unsure == "ignore":
        outcomes = outcomes.with_ignored(_ignored_value(file, values, ignore_label))
    changes = changes_of(values, read, outcomes, settled)
    if auto is not None and issues is not None and margin is not None:
        changes = changes.merged(accepted_changes(file, values, issues, margin, names, read.rows))
    words = np.bincount(read.words[settled.places], minlength=len(WORDS)).tolist()
    counts = {"rows": file.n_rows, **dict(zip(WORDS, words, strict=True))}
    counts["auto"] = int(np.count_nonzero(changes.decided < 0))
    counts |= {"changed": len(changes.rows)} | {
        name: len(unsure_rows) if unsure == rule else 0 for name, rule in (("dropped", "drop"), ("ignored", "ignore"))
    }
    applied = AppliedDecisions(
        None if place is not None else file.corrected(changes.rows, changes.after),
        None if place is None else str(place),
        file.n_rows,
        changes.rows,
        changes.before,
        changes.after,
        unsure_rows if unsure == "drop" else np.empty(0, np.int64),
        counts | {"conflicts": len(settled.conflicts), "corrected": int(settled.is_corrected.sum())},
        settled.conflicts,
        agreement(read, outcomes, settled),
    )
    if place is not None:
        head = {
            "labels": file.where,
            "output": str(place),
            "decisions": _places_of(decisions),
            "unsure": unsure,
            "ignore_label": None if ignore_label is NOTHING else ignore_label,
            "conflict_rule": conflicts,
            "auto": None if auto is None else {"decision": auto, "margin": margin, "looked_at": False},
            "result": None if issues is None else issues.fingerprint,
        }
        _write(applied, file, place, head, read, changes.decided)
    return applied


def _check_policies(
    decisions: Any, unsure: str, ignore_label: IgnoreLabel, issues: Any, auto: Any, margin: Any
) -> None:
    """Raise unless the arguments fit each other."""
    if (unsure == "ignore") != (ignore_label is not NOTHING):
        raise InvalidInputError("unsure='ignore' and ignore_label belong together: give both or neither")
    if issues is not None and not isinstance(issues, LabelIssues):
        raise InputTypeError(f"issues must be a LabelIssues, not {type(issues).__name__}")
    if auto is None:
        if margin is not None:
            raise InvalidInputError("margin is for auto='accept'")
        if decisions is None:
            raise InputTypeError("decisions are missing")
        return
    check_one_of("auto", auto, ("accept",))
    if issues is None or margin is None:
        raise InvalidInputError("auto='accept' needs issues, whose suggestions it accepts, and a margin")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin <= 1:
        raise InvalidInputError(f"margin must be a number from 0 to 1, not {margin!r}")


def _checked_output(output: str | os.PathLike[str], file: LabelFile, decisions: Any, *, overwrite: bool) -> Path:
    """Return the path of the output, or raise if it cannot be written there, or should not be."""
    place = check_place("output", output)
    local = local_path(place)
    if local is None:
        raise InvalidInputError(
            f"output: {without_query(place)} is a URL: corrected labels are written to a local path"
        )
    path = Path(local).absolute()
    if not file.suffixes:
        raise InvalidInputError("output: a list of masks has no form as a file: leave output out")
    if path.suffix.lower() not in file.suffixes:
        form = f"end in {' or '.join(file.suffixes)}" if any(file.suffixes) else "be a folder, without an ending"
        raise InvalidInputError(f"output: {path} must {form}: labels are written in the form in which they are")
    tables = [one for one in _listed(decisions) if isinstance(one, str | os.PathLike)]
    log = _log_of(path)
    for one in (path, log):
        if any(one.resolve() == Path(table).resolve() for table in tables):
            raise InvalidInputError(f"output: {one} holds the decisions: it is not replaced")
    is_input = path.exists() and Path(file.where).exists() and path.samefile(file.where)
    source = Path(file.where)
    if not is_input and source.is_absolute() and source.resolve() in path.resolve().parents:
        raise InvalidInputError(f"output: {path} is within the labels: give a path beside them")
    if not is_input and path.exists() and file.is_part(path):
        raise InvalidInputError(f"output: {path} is a part of labels: it is not replaced")
    for one in (path, log):
        if (one.exists() or one.is_symlink()) and not overwrite:
            what = "is the input" if is_input and one == path else "exists"
            raise InvalidInputError(f"output: {one} {what}: overwrite=True (--overwrite) replaces it")
    if path.is_dir() and not (path.suffix == ".zarr" and is_zarr_array(path)):
        raise InvalidInputError(f"output: {path} is a folder that is not a Zarr array: it is not replaced")
    check_writable(path)
    return path.resolve() if path.is_symlink() else path


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.log.json")


def _listed(decisions: Any) -> list[Any]:
    return list(decisions) if isinstance(decisions, list | tuple) else [] if decisions is None else [decisions]


def _places_of(decisions: Any) -> list[str]:
    tables = _listed(decisions)
    return [os.fspath(one) if isinstance(one, str | os.PathLike) else type(one).__name__ for one in tables]


def _classes_of(file: LabelFile, names: Sequence[str] | None, issues: LabelIssues | None) -> Any:
    """Return all classes as they are stored, or None if they are not known."""
    if file.n_tags:
        return range(2 * file.n_tags)
    if file.dtype.kind in "iuf":
        n_classes = len(names) if names is not None else None if issues is None else issues.n_classes
        return None if n_classes is None else range(n_classes)
    if file.dtype.kind == "b" or names is None:
        return None
    return {name.encode() for name in names} if file.dtype.kind == "S" else set(names)


def _compare(file: LabelFile, read: Decisions, values: LabelValues, ids: Any) -> tuple[Outcomes, str]:
    """Return the stored and the resulting label of each decision, and what tells the labels from others.

    The latter is ``""`` unless decisions name their result: all labels are read for it.
    """
    check_rows(read, file.n_rows)
    rows, which = np.unique(read.rows, return_inverse=True)
    digest = ""
    if any(read.result.values):
        stored, counts = file.take_and_count(rows)
        digest = labels_digest(counts.values())
    else:
        stored = file.take(rows) if len(rows) else np.empty(0, file.dtype)
    outcomes = check_against(read, stored.tolist(), which, values)
    if values.classes is None and file.dtype.kind != "b":
        check_occurring(file, read, outcomes)
    if file.n_tags:
        check_tags(file.n_tags, read, outcomes)
    names = open_ids(ids, file.n_groups)
    if names is not None:
        known = list(map(str, names.part(0, 0, file.groups_of(rows)).tolist()))
        for place in np.flatnonzero(read.id.where(map(bool, read.id.values))).tolist():
            if read.id[place] != known[which[place]]:
                one = read[place]
                raise InvalidInputError(
                    f"decisions: row {one.row:,} ({one.where}) has the id {one.id!r}, ids has "
                    f"{known[which[place]]!r}: another dataset?"
                ).at([(one.row, one.row + 1)])
    return outcomes, digest


def _ignored_value(file: LabelFile, values: LabelValues, ignore_label: IgnoreLabel) -> Any:
    """Return `ignore_label` as it is stored."""
    if ignore_label is None:
        if not file.nullable:
            raise InvalidInputError(f"ignore_label=None: labels of {file.dtype} cannot be missing: give a value")
        return None
    try:
        return values.parse(ignore_label)
    except ValueError as error:
        raise InvalidInputError(f"ignore_label: {error}") from None


def _write(
    applied: AppliedDecisions,
    file: LabelFile,
    place: Path,
    head: dict[str, Any],
    read: Decisions,
    decided: npt.NDArray[np.intp],
) -> None:
    """Write the labels and the log; both are there at the end, or neither."""
    log = _log_of(place)
    earlier = earlier_logs(log) if place.exists() and Path(file.where).exists() and place.samefile(file.where) else []
    with replacing(LocalFolder(place)) as made:
        file.write(made, applied.changed, applied.after)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        head |= {
            "finished": now,
            "version": loaded_versions()["labelsieve"],
            "counts": applied.counts,
            "agreement": [
                vars(one) | {"kappa": None if math.isnan(one.kappa) else one.kappa} for one in applied.agreement
            ],
            "conflicts": [
                {"row": one.row, "decisions": [[who, word, plain_label(label)] for who, word, label in one.decisions]}
                for one in applied.conflicts
            ],
            "dropped": applied.dropped.tolist(),
            "earlier": earlier,
        }
        lines = change_lines(applied.changed, applied.before, applied.after, read, decided)
        with replacing(LocalFolder(log)) as written:
            write_log(written, head, lines)
