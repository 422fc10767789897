"""A result as one Zarr group.

The group holds ``scores`` and ``mask`` of all rows, ``issues`` (their rows, worst first), ``issue_table`` (the other
columns of the issues), and arrays with a value per class; of images of one size also ``pixel_mask``, ``(N, H, W)``. Its
root metadata, which hold everything else, are written last: a group without them is not a result.

Damage is found when it is read. Every chunk of an array has a checksum; the attributes of the group hold a checksum of
each array's metadata and one of themselves. A result of format 2, which has none of these, is read with a warning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import pair_dtype
from labelsieve.errors import InvalidInputError, UnreadableDataError, WorkdirError, warn
from labelsieve.partitioning import result_rows
from labelsieve.results.layouts import EqualImages, restored_layout
from labelsieve.results.result import IdParts, IssueRows, Result, RunFacts
from labelsieve.settings import Settings
from labelsieve.storage.checked_arrays import (
    RESTORE,
    StoredArray,
    create_array,
    digest,
    matches_checksum,
    open_for_writing,
    store_of,
    with_checksum,
)
from labelsieve.storage.folders import Folder, LocalFolder, writing
from labelsieve.storage.lock import always_owned

if TYPE_CHECKING:
    import dask.array as da  # for types alone

KIND: Final = "labelsieve result"
FORMAT: Final = 3
# It has no checksums, and chunks of zeros are not stored.
_UNCHECKED_FORMAT: Final = 2
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
_IDS: Final = "issue_table/id"
_LAYOUT: Final = "layout"
_PIXEL_MASK: Final = "pixel_mask"
# All arrays, and what the first axis of each counts, for messages.
_UNITS: Final = {
    **dict.fromkeys(("scores", "mask"), "rows"),
    **dict.fromkeys((*COLUMNS.values(), _IDS), "issues"),
    "confident_pairs": "lines",
    _LAYOUT: "groups",
    _PIXEL_MASK: "images",
    **dict.fromkeys(_CLASS_ARRAYS, "classes"),
}
# The names in the group beside its root metadata.
PARTS: Final = {name.partition("/")[0] for name in _UNITS}
_ROOT: Final = "zarr.json"


@dataclass(frozen=True)
class ResultGroup:
    """The Zarr group of a result, as a description that travels to the tasks.

    Parameters
    ----------
    folder : Folder
        Where it is, or is being made.
    documents : mapping of str to str, optional
        Checksum of the metadata of each array; None while the group is being made.
    shown : str
        Where it will be, for messages; `folder` by default.
    check_owned : callable
        Called before each write: raises if a later run writes this result by now.
    checked : bool
        Whether every chunk is stored, with a checksum; not in a result of an earlier version.
    """

    folder: Folder
    documents: Mapping[str, str] | None = None
    shown: str = ""
    check_owned: Callable[[], None] = always_owned
    checked: bool = True

    def create(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunk: int) -> None:
        """Create an array, in chunks of `chunk` rows, whose regions the tasks write.

        Raises
        ------
        UnwritableError
            If it cannot be made.
        """
        self.check_owned()
        with self._writing():
            create_array(self.folder, name, shape, dtype, chunk)
            if not isinstance(self.folder, LocalFolder):
                self.folder.remove(_ROOT)  # not a group before it is whole

    def create_rows(self, n_rows: int, score_dtype: npt.DTypeLike) -> None:
        """Create the scores and the mask of all rows."""
        self.create("scores", (n_rows,), score_dtype, result_rows(n_rows))
        self.create("mask", (n_rows,), np.bool_, result_rows(n_rows))

    def create_issues(self, n_issues: int, chunk: int, dtypes: Mapping[str, npt.DTypeLike]) -> None:
        """Create the columns of the issues, in chunks of `chunk` rows."""
        for name, dtype in dtypes.items():
            self.create(COLUMNS[name], (n_issues,), dtype, chunk)

    def write_ids(self, ids: IdParts) -> None:
        """Write the user's own names of the issues beside them, a stored chunk at a time."""
        rows = self.open(COLUMNS["row"])
        step, write = rows.chunks[0], None
        for start in range(0, max(1, len(rows)), step):
            stop = min(start + step, len(rows))
            names = ids.part(start, stop, rows.read(start, stop))
            if write is None:  # now the dtype is known
                self.create(_IDS, (len(rows),), names.dtype if names.dtype.kind in "iu" else str, step)
                write = self.writer(_IDS)
            write(start, names)

    def write_pixel_mask(self, layout: EqualImages) -> None:
        """Write the mask of all rows once more as an array of images, some at a time."""
        shape = layout.n_images, layout.height, layout.width
        image_rows = layout.height * layout.width
        step = max(1, result_rows(layout.n_images * image_rows) // image_rows)
        self.create(_PIXEL_MASK, shape, np.bool_, step)
        mask, write = self.open("mask"), self.writer(_PIXEL_MASK)
        for image in range(0, layout.n_images, step):
            stop = min(image + step, layout.n_images)
            write(image, mask.read(image * image_rows, stop * image_rows).reshape(stop - image, *shape[1:]))

    def writer(self, name: str) -> Callable[[int, npt.NDArray[Any]], None]:
        """Return a function that writes values from a row on: whole chunks, or up to the end.

        Raises
        ------
        UnwritableError
            If they cannot be written.
        """
        with self._writing():
            array = open_for_writing(self.folder, name)

        def write(start: int, values: npt.NDArray[Any]) -> None:
            self.check_owned()
            with self._writing():
                array[start : start + len(values)] = values

        return write

    def publish(self, arrays: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Write the small arrays, and then the root metadata, which make the group a result."""
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
                zarr.create_group(store_of(self.folder), attributes=attributes)

    def sealed(self) -> ResultGroup:
        """Return the group with the checksums of its arrays' metadata, which no longer change."""
        documents = {}
        for name in _UNITS:
            with suppress(FileNotFoundError):
                documents[name] = digest(self.folder.read(f"{name}/{_ROOT}"))
        return replace(self, documents=documents)

    def open(self, name: str) -> StoredArray:
        """Open one of the arrays for reading.

        Raises
        ------
        UnreadableDataError
            If it is missing or damaged, or another result has taken its place.
        """
        return StoredArray(self.folder, name, _UNITS[name], partial(self.check, name), complete=self.checked)

    def check(self, name: str) -> None:
        """Raise unless the metadata of an array are as they were written.

        Raises
        ------
        UnreadableDataError
            If they are missing or damaged, or another result has taken their place.
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

    def _writing(self) -> Any:
        return writing(self.shown or self.folder.where)


def _attributes_of(document: bytes) -> dict[str, Any]:
    """Return the attributes in the root metadata of a group; none if it is damaged."""
    try:
        return dict(json.loads(document)["attributes"])
    except (ValueError, KeyError, TypeError):
        return {}


def is_result(folder: Folder) -> bool:
    """Return whether a whole result of Labelsieve is there."""
    try:
        return _attributes_of(folder.read(_ROOT)).get("kind") == KIND
    except OSError:
        return False


@dataclass(frozen=True)
class StoredIssues:
    """The issues in a group; nothing is read before it is needed.

    Parameters
    ----------
    group : ResultGroup
        The group.
    n_issues : int
        Number of issues.
    """

    group: ResultGroup
    n_issues: int

    def __len__(self) -> int:
        return self.n_issues

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""
        return IssueRows(*(self.group.open(path).read(start, stop) for path in COLUMNS.values()))

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield a column, a stored chunk at a time."""
        yield from self.group.open(COLUMNS[name]).blocks()


@dataclass(frozen=True)
class StoredScores:
    """The scores of all rows in a group.

    Parameters
    ----------
    group : ResultGroup
        The group.
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
        # Not fancy: selecting single rows would read the same chunks again and again.
        return da.from_array(scores, chunks="auto", asarray=False, fancy=False, meta=np.empty(0, scores.dtype))

    def blocks(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield them in row order, a stored chunk at a time."""
        yield from self.group.open("scores").blocks()


@dataclass(frozen=True)
class StoredIds:
    """The user's own names of the issues' rows in a group.

    Parameters
    ----------
    group : ResultGroup
        The group.
    """

    group: ResultGroup

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:  # noqa: ARG002  # stored by rank
        """Return the names of the issues ``[start, stop)``."""
        names: npt.NDArray[Any] = self.group.open(_IDS).read(start, stop)
        return names if names.dtype.kind in "iu" else names.astype(object)


def publish_result(group: ResultGroup, result: Result) -> None:
    """Write the arrays per class and the root metadata of a result, and so make the group one."""
    confident, layout = result.confident, result.layout
    of_groups = None if layout is None else layout.array
    group.publish(
        {
            "confident_thresholds": result.confident_thresholds,
            "class_counts": result.class_counts,
            "mean_scores": result.mean_scores,
            "confident_diagonal": confident.diagonal,
            "confident_pairs": np.stack([confident.given, confident.predicted, confident.counts]),
            **({} if of_groups is None else {_LAYOUT: of_groups}),
        },
        {
            "n_rows": result.n_rows,
            "n_classes": result.n_classes,
            "num_issues": result.num_issues,
            "estimated_num_issues": result.estimated_num_issues,
            "settings": asdict(result.settings),
            "facts": asdict(result.facts),
            "class_names": result.class_names,
            **({} if layout is None else {"layout": {"kind": layout.kind, **layout.attributes()}}),
        },
    )


def open_group(folder: Folder) -> tuple[ResultGroup, dict[str, Any]]:
    """Return the result at `folder`, and its attributes; warn if it has no checksums.

    Raises
    ------
    InvalidInputError
        If there is no result, or one in another format.
    UnreadableDataError
        If its metadata are missing or damaged.
    """
    where = f"{folder.where}/{_ROOT}"
    nothing = InvalidInputError(f"there is no result of Labelsieve at {folder.where}")
    damaged = UnreadableDataError(f"{where} is damaged: {RESTORE}")
    try:
        attributes = _attributes_of(folder.read(_ROOT))
    except (FileNotFoundError, NotADirectoryError):
        killed = UnreadableDataError(f"{where} is missing: the run that wrote this result was killed, or {RESTORE}")
        raise (killed if _looks_like_one(folder) else nothing) from None
    except OSError as error:
        raise UnreadableDataError(f"{where} is not readable: {error}") from error
    version, whole = attributes.get("format"), matches_checksum(attributes)
    if attributes.get("kind") != KIND:
        raise damaged if _looks_like_one(folder) else nothing
    if version == _UNCHECKED_FORMAT and "checksum" not in attributes:
        warn(
            f"{folder.where} was written by an earlier version, without checksums, so damage to it may pass unnoticed: "
            "save the loaded result to another path"
        )
        return ResultGroup(folder, checked=False).sealed(), attributes
    if version != FORMAT and (whole or "checksum" not in attributes):
        raise InvalidInputError(
            f"{folder.where} is a result of format {version}; this version of Labelsieve reads formats "
            f"{_UNCHECKED_FORMAT} and {FORMAT} only: find the issues again, or load it with the version that wrote it"
        )
    if not whole:
        raise damaged
    return ResultGroup(folder, attributes["arrays"]), attributes


def _looks_like_one(folder: Folder) -> bool:
    """Return whether a folder has arrays of a result."""
    try:
        return {"issues", "issue_table", "class_counts"} <= set(folder.names())
    except (OSError, WorkdirError):  # it is a file
        return False


def read_result(folder: Folder) -> dict[str, Any]:
    """Return the fields of `Result` for a stored result; issues and scores stay where they are.

    Raises
    ------
    InvalidInputError, UnreadableDataError
        As `open_group`; the latter also for the arrays of classes.
    """
    group, attributes = open_group(folder)
    given, predicted, counts = group.open("confident_pairs").read_all()
    n_classes = int(attributes["n_classes"])
    pairs = (given * n_classes + predicted).astype(pair_dtype(n_classes))
    counts = counts.astype(np.int32) if counts.max(initial=0) <= np.iinfo(np.int32).max else counts
    confident = ConfidentCounts(group.open("confident_diagonal").read_all(), pairs, counts)
    stored = group.documents or {}
    names, facts = attributes["class_names"], attributes["facts"] | {"notes": tuple(attributes["facts"]["notes"])}
    known = {field.name for field in fields(RunFacts)} & facts.keys()  # a newer version may have written more
    return {
        "n_rows": int(attributes["n_rows"]),
        "n_classes": n_classes,
        "found": StoredIssues(group, int(attributes["num_issues"])),
        "estimated_num_issues": int(attributes["estimated_num_issues"]),
        **{name: group.open(name).read_all() for name in ("confident_thresholds", "class_counts", "mean_scores")},
        "confident": confident,
        "score_parts": StoredScores(group),
        "settings": Settings(**attributes["settings"]),
        "facts": RunFacts(**{name: facts[name] for name in known}),
        "class_names": None if names is None else tuple(names),
        "ids": StoredIds(group) if _IDS in stored else None,
        "layout": restored_layout(
            attributes.get("layout"), group.open(_LAYOUT).read_all() if _LAYOUT in stored else None
        ),
    }
