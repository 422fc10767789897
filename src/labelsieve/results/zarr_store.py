"""Results that the tasks write: one Zarr group, published whole.

The group holds ``scores`` and ``mask`` of all rows, ``issues`` (their rows, worst first), ``issue_table`` (the other
columns of the issues), ``confident_thresholds`` and ``class_counts``. It is made beside its place and renamed, or, in
an object store, gets its root metadata last: what is not whole is not a group.

Damage is found as it is read. Every chunk of an array has a checksum; the group's attributes hold one of the metadata
document of each array, and one of themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, pair_dtype
from labelsieve.errors import InvalidInputError, UnreadableDataError, WorkdirError
from labelsieve.memory import result_rows
from labelsieve.results.result import IdParts, IssueRows, Result, RunFacts
from labelsieve.settings import Settings
from labelsieve.storage.checked_arrays import (
    RESTORE,
    StoredArray,
    create_array,
    digest,
    matches_checksum,
    open_for_writing,
    with_checksum,
)
from labelsieve.storage.folders import Folder, LocalFolder, writing
from labelsieve.storage.lock import always_owned

if TYPE_CHECKING:
    import dask.array as da  # for types alone

KIND: Final = "labelsieve result"
# Format 2 had no checksums.
FORMAT: Final = 3
# Where each column of the issues is.
COLUMNS: Final = {
    "row": "issues",
    "score": "issue_table/score",
    "given_label": "issue_table/given_label",
    "suggested_label": "issue_table/suggested_label",
    "p_given": "issue_table/p_given",
    "p_suggested": "issue_table/p_suggested",
}
_CLASS_ARRAYS: Final = ("confident_thresholds", "class_counts", "mean_scores", "confident_diagonal")
# All that is in a result beside its root metadata.
PARTS: Final = {"scores", "mask", "issues", "issue_table", "confident_pairs", *_CLASS_ARRAYS}
# The user's own names of the issues' rows, where there are any.
_IDS: Final = "issue_table/id"
_ARRAYS: Final = ("scores", "mask", *COLUMNS.values(), _IDS, "confident_pairs", *_CLASS_ARRAYS)
# What the first axis of an array counts, in messages.
_UNITS: Final = dict.fromkeys(_CLASS_ARRAYS, "classes") | {"scores": "rows", "mask": "rows", "confident_pairs": "lines"}
_ROOT: Final = "zarr.json"


@dataclass(frozen=True)
class ResultGroup:
    """A Zarr group of results, as a description.

    Parameters
    ----------
    folder : Folder
        Where it is, or is being made.
    documents : mapping of str to str, optional
        Checksum of the metadata of each array in it; None while it is being made.
    shown : str
        Where it will be, for messages; `folder` by default.
    check_owned : callable
        Called before each write: raises if a later run writes this result by now.
    """

    folder: Folder
    documents: Mapping[str, str] | None = None
    shown: str = ""
    check_owned: Callable[[], None] = always_owned

    def create(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunk: int) -> None:
        """Make an array, in chunks of `chunk` rows, for tasks to write regions of.

        Raises
        ------
        UnwritableError
            If it cannot be made.
        """
        self.check_owned()
        with self._writing():
            create_array(self.folder, name, shape, dtype, chunk)
            if not isinstance(self.folder, LocalFolder):
                self.folder.remove(_ROOT)  # until it is whole this is not a group

    def create_rows(self, n_rows: int, score_dtype: npt.DTypeLike) -> None:
        """Make the scores and the mask of all rows."""
        self.create("scores", (n_rows,), score_dtype, result_rows(n_rows))
        self.create("mask", (n_rows,), np.bool_, result_rows(n_rows))

    def write_ids(self, ids: IdParts, found: StoredIssues) -> StoredIds:
        """Write the user's own names of the issues beside them, a stored chunk at a time."""
        rows = self.open(COLUMNS["row"])
        step, write = max(1, rows.chunks[0]), None
        for start in range(0, max(1, len(found)), step):
            stop = min(start + step, len(found))
            names = ids.part(start, stop, rows.read(start, stop))
            if write is None:
                self.create(_IDS, (len(found),), str if names.dtype.kind not in "iu" else names.dtype, step)
                write = self.writer(_IDS)
            write(start, names)
        return StoredIds(self)

    def create_issues(self, n_issues: int, chunk: int, dtypes: Mapping[str, npt.DTypeLike]) -> None:
        """Make the columns of the issues, in chunks of `chunk` rows."""
        for name, dtype in dtypes.items():
            self.create(COLUMNS[name], (n_issues,), dtype, chunk)

    def writer(self, name: str) -> Callable[[int, npt.NDArray[Any]], None]:
        """Return what writes values from a row on: whole chunks, or up to the end.

        Raises
        ------
        UnwritableError
            If they cannot be written.
        """
        array = self.open_for_writing(name)

        def write(start: int, values: npt.NDArray[Any]) -> None:
            self.check_owned()
            with self._writing():
                array[start : start + len(values)] = values

        return write

    def publish(self, arrays: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Write the small arrays, and then what makes this a result."""
        import zarr

        for name, array in arrays.items():
            self.create(name, array.shape, array.dtype, array.shape[0])
            self.writer(name)(0, array)
        documents = self.sealed().documents
        attributes = with_checksum({"kind": KIND, "format": FORMAT, **attributes, "arrays": documents})
        self.check_owned()
        with self._writing():
            if isinstance(self.folder, LocalFolder):
                zarr.open_group(self.folder.path, mode="r+").attrs.update(attributes)
            else:
                zarr.create_group(self.folder.where, attributes=attributes)

    def sealed(self) -> ResultGroup:
        """Return the group with the checksums of the metadata that its arrays now have: they no longer change."""
        documents = {}
        for name in _ARRAYS:
            try:
                documents[name] = digest(self.folder.read(f"{name}/{_ROOT}"))
            except FileNotFoundError:
                continue
        return replace(self, documents=documents)

    def open(self, name: str) -> StoredArray:
        """Open one of the arrays for reading.

        Raises
        ------
        UnreadableDataError
            If it is missing or damaged, or another result is there by now.
        """
        return StoredArray(self.folder, name, _UNITS.get(name, "issues"), partial(self.check, name))

    def open_for_writing(self, name: str) -> Any:
        """Open one of the arrays to write whole chunks."""
        with self._writing():
            return open_for_writing(self.folder, name)

    def check(self, name: str) -> None:
        """Raise unless the metadata of an array are those that were written.

        Raises
        ------
        UnreadableDataError
            If they are missing or damaged, or another result is there by now.
        """
        file = f"{self.folder.where}/{name}/{_ROOT}"
        try:
            content = self.folder.read(f"{name}/{_ROOT}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise UnreadableDataError(
                f"{file} is missing, perhaps since a later run has replaced the result: {RESTORE}"
            ) from None
        if self.documents is not None and self.documents.get(name) != digest(content):
            raise UnreadableDataError(
                f"{file} is damaged, or a later run has replaced the result: load it again, {RESTORE}"
            )

    def has_ids(self) -> bool:
        """Tell whether the user's own names of the issues' rows are there."""
        return self.documents is not None and _IDS in self.documents

    def _writing(self) -> Any:
        return writing(self.shown or self.folder.where)


def is_result(folder: Folder) -> bool:
    """Tell whether a whole result of Labelsieve is there."""
    try:
        about = json.loads(folder.read(_ROOT))
        return bool(about["attributes"]["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class StoredIssues:
    """The issues of a run where the tasks wrote them; nothing is read before it is asked for.

    Parameters
    ----------
    group : ResultGroup
        Where they are.
    n_issues : int
        How many.
    """

    group: ResultGroup
    n_issues: int

    def __len__(self) -> int:
        return self.n_issues

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""
        return IssueRows(*(self.group.open(path).read(start, stop) for path in COLUMNS.values()))

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield one column, a stored chunk at a time."""
        yield from self.group.open(COLUMNS[name]).blocks()


@dataclass(frozen=True)
class StoredScores:
    """Scores of all rows where the tasks wrote them.

    Parameters
    ----------
    group : ResultGroup
        Where they are.
    """

    group: ResultGroup
    in_store: bool = True

    def to_numpy(self) -> npt.NDArray[np.floating[Any]]:
        """Return them as ``(N,)`` in memory."""
        return self.group.open("scores").read_all()

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        scores = self.group.open("scores")
        # Not fancy: a selection of single rows would read the same chunks again and again.
        return da.from_array(scores, chunks="auto", asarray=False, fancy=False, meta=np.empty(0, scores.dtype))

    def blocks(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield them in row order, a stored chunk at a time."""
        yield from self.group.open("scores").blocks()


@dataclass(frozen=True)
class StoredIds:
    """The user's own names of the issues' rows, beside the issues.

    Parameters
    ----------
    group : ResultGroup
        Where they are.
    """

    group: ResultGroup

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:  # noqa: ARG002  # known here
        """Return the names of the issues ``[start, stop)``."""
        names: npt.NDArray[Any] = self.group.open(_IDS).read(start, stop)
        return names if names.dtype.kind in "iu" else names.astype(object)


def publish_result(group: ResultGroup, result: Result) -> None:
    """Write all of a result that the tasks have not, and make the group one."""
    confident = result.confident
    group.publish(
        {
            "confident_thresholds": result.confident_thresholds,
            "class_counts": result.class_counts,
            "mean_scores": result.mean_scores,
            "confident_diagonal": confident.diagonal,
            "confident_pairs": np.stack([confident.given, confident.predicted, confident.counts]),
        },
        {
            "n_rows": result.n_rows,
            "n_classes": result.n_classes,
            "num_issues": result.num_issues,
            "estimated_num_issues": result.estimated_num_issues,
            "settings": asdict(result.settings),
            "facts": asdict(result.facts),
            "class_names": result.class_names,
        },
    )


def open_group(folder: Folder) -> tuple[ResultGroup, dict[str, Any]]:
    """Return the result at `folder`, and its attributes.

    Raises
    ------
    InvalidInputError
        Where there is no result, or one of another version.
    UnreadableDataError
        Where its metadata are missing or damaged.
    """
    try:
        content = folder.read(_ROOT)
    except (FileNotFoundError, NotADirectoryError):
        if _looks_like_one(folder):
            raise UnreadableDataError(
                f"{folder.where}/{_ROOT} is missing: the run that wrote this result was killed, or {RESTORE}"
            ) from None
        raise InvalidInputError(f"there is no result of Labelsieve at {folder.where}") from None
    except OSError as error:
        raise UnreadableDataError(f"{folder.where}/{_ROOT} is not readable: {error}") from error
    try:
        document = json.loads(content)
    except ValueError:
        raise UnreadableDataError(f"{folder.where}/{_ROOT} is damaged: {RESTORE}") from None
    found = document.get("attributes") if isinstance(document, dict) else None
    attributes: dict[str, Any] = found if isinstance(found, dict) else {}
    ours, version, whole = attributes.get("kind") == KIND, attributes.get("format"), matches_checksum(attributes)
    if ours and version != FORMAT and (whole or "checksum" not in attributes):
        raise InvalidInputError(
            f"{folder.where} is a result of format {version}; this version of Labelsieve reads format {FORMAT} only, "
            "which has checksums: find the issues again"
        )
    if ours and whole:
        return ResultGroup(folder, attributes["arrays"]), attributes
    if ours or _looks_like_one(folder):
        raise UnreadableDataError(f"{folder.where}/{_ROOT} is damaged: {RESTORE}")
    raise InvalidInputError(f"there is no result of Labelsieve at {folder.where}")


def _looks_like_one(folder: Folder) -> bool:
    """Tell whether a folder has the arrays of a result."""
    try:
        return {"issues", "issue_table", "class_counts"} <= set(folder.names())
    except (OSError, WorkdirError):  # a file
        return False


def read_result(folder: Folder) -> dict[str, Any]:
    """Return the fields of `Result` of a stored result; issues and scores stay where they are.

    Raises
    ------
    InvalidInputError, UnreadableDataError
        As `open_group`; the latter also for the arrays of classes.
    """
    group, about = open_group(folder)
    given, predicted, counts = group.open("confident_pairs").read_all()
    n_classes = int(about["n_classes"])
    pairs = (given * n_classes + predicted).astype(pair_dtype(n_classes))
    counts = counts.astype(np.int32) if counts.max(initial=0) <= np.iinfo(np.int32).max else counts
    confident = ConfidentCounts(group.open("confident_diagonal").read_all(), pairs, counts)
    names, known = about["class_names"], {fact.name for fact in fields(RunFacts)} & about["facts"].keys()
    return {
        "n_rows": int(about["n_rows"]),
        "n_classes": n_classes,
        "found": StoredIssues(group, int(about["num_issues"])),
        "estimated_num_issues": int(about["estimated_num_issues"]),
        **{name: group.open(name).read_all() for name in ("confident_thresholds", "class_counts", "mean_scores")},
        "confident": confident,
        "score_parts": StoredScores(group),
        "settings": Settings(**about["settings"]),
        "facts": RunFacts(**{name: about["facts"][name] for name in known} | {"notes": tuple(about["facts"]["notes"])}),
        "class_names": None if names is None else tuple(names),
        "ids": StoredIds(group) if group.has_ids() else None,
    }
