"""A result as one Zarr group.

The group holds ``scores`` and ``mask`` of all rows, ``issues`` (their rows, worst first), ``issue_table`` (the other
columns of the issues), and arrays with a value per class; of images of one size also ``pixel_mask``, ``(N, H, W)``. Its
root metadata, which hold everything else, are written last: a group without them is not a result.

Damage is found when it is read. Every chunk of an array has a checksum; the attributes of the group hold a checksum of
each array's metadata and one of themselves. A result of format 2, which has none of these, is read with a warning.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import ConfidentCounts
from labelsieve.confident_learning.matrices import Columns
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.thresholds import pair_dtype
from labelsieve.errors import (
    InUseError,
    InvalidInputError,
    MissingDependencyError,
    UnreadableDataError,
    UnwritableError,
    WorkdirError,
    warn,
)
from labelsieve.results.result import IdParts, IssueRows, Result, RunFacts
from labelsieve.results.units import layout_of
from labelsieve.sources.names import escape_formula
from labelsieve.storage.checked import (
    RESTORE,
    StoredArray,
    create_array,
    digest,
    matches_checksum,
    open_for_writing,
    store_of,
    with_checksum,
)
from labelsieve.storage.folder import (
    Folder,
    LocalFolder,
    UrlFolder,
    abandoned,
    always_owned,
    open_folder,
    own_folder,
    temporary_folder,
    writing,
)
from labelsieve.storage.remote import check_place, without_query

if TYPE_CHECKING:
    import dask.array as da  # for types alone

_RESULT_CHUNKS: Final = 4096

# Rows of a stored chunk of the scores and of the mask of all rows, and the most chunks that these have.
RESULT_ROWS: Final = 1 << 18


# An issue with its columns, while the issues of all partitions are sorted.
ISSUE_BYTES: Final = 120

# Selected rows that a thread sorts at a time if the tasks write the issues.
RUN_ROWS: Final = 1 << 16


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

    def write_pixel_mask(self, shape: tuple[int, ...]) -> None:
        """Write the mask of all rows once more as an array of images, some at a time."""
        n_images, image_rows = shape[0], math.prod(shape[1:])
        step = max(1, result_rows(n_images * image_rows) // image_rows)
        self.create(_PIXEL_MASK, shape, np.bool_, step)
        mask, write = self.open("mask"), self.writer(_PIXEL_MASK)
        for image in range(0, n_images, step):
            stop = min(image + step, n_images)
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
            **({} if layout is None else {"layout": {"kind": layout.kind, **layout.attributes}}),
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
    stored, layout = group.documents or {}, attributes.get("layout")
    of_groups = group.open(_LAYOUT).read_all() if _LAYOUT in stored else np.empty(0, np.int64)
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
        "layout": layout and layout_of(layout.pop("kind")).restored(layout, of_groups),
    }


def run_rows(n_issues: int, room: int | None = None) -> int:
    """Return the number of issues of a sorted run and of a stored chunk, so that there are at most 1024 chunks.

    Parameters
    ----------
    n_issues : int
        Number of all issues.
    room : int, optional
        Bytes that a thread has to sort a run. With little room there are more, smaller runs.
    """
    rows = RUN_ROWS * max(1, -(-n_issues // (1024 * RUN_ROWS)))
    return rows if room is None else max(RUN_ROWS, min(rows, room // ISSUE_BYTES // RUN_ROWS * RUN_ROWS))


def result_rows(n_rows: int) -> int:
    """Return the number of rows of a stored chunk of the scores and of the mask: there are at most 4,096 chunks."""
    return RESULT_ROWS * max(1, -(-n_rows // (_RESULT_CHUNKS * RESULT_ROWS)))


# Marks the Parquet files that Labelsieve has written, and so may replace.
PARQUET_MARK: Final = b"labelsieve result"


def check_output(output: str | Path, inputs: Sequence[str | Path] = ()) -> None:
    """Raise unless a result can be written to `output`: its ending, its folder, its extra, and what is there now.

    Parameters
    ----------
    output : str or Path
        Where the result goes; the ending says in which format.
    inputs : sequence of str or Path
        Paths and URLs that are read, and must not be replaced.

    Raises
    ------
    InvalidInputError
        For an unknown ending, a missing folder, an input, or something there that is not a result of Labelsieve.
    MissingDependencyError
        For ``.parquet`` without pyarrow.
    UnwritableError
        If nothing can be written beside `output`. For a ``.zarr`` URL this shows when the run writes its id there.
    """
    folder = open_folder(output, "output")
    suffix = Path(folder.where).suffix
    if suffix not in WRITERS:
        raise InvalidInputError(f"{without_query(str(output))} must end in one of {', '.join(WRITERS)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError("Writing .parquet", "parquet")
    _refuse_inputs(output, inputs)
    if isinstance(folder, LocalFolder):
        check_writable(folder.path)
    if suffix != ".zarr":
        if folder.is_folder() and not _is_parquet(folder):
            raise InvalidInputError(f"{folder.where} is a folder")
        if not isinstance(folder, LocalFolder):
            _check_writable_url(folder)
        return
    if isinstance(folder, LocalFolder):
        ours = not folder.path.exists() or is_result(folder)
    else:
        names = set(folder.names())
        # A killed run leaves arrays of a result without root metadata.
        ours = not names or is_result(folder) or ("zarr.json" not in names and names <= PARTS)
    if not ours:
        raise InvalidInputError(f"{folder.where} exists and is not a result of Labelsieve: it is not replaced")


def _refuse_inputs(output: str | Path, inputs: Sequence[str | Path]) -> None:
    """Raise if `output` is one of `inputs`, lies in one, or holds one."""
    place = _resolved(output)
    for read in inputs:
        source = _resolved(check_place("input", read))
        if place.startswith(source):
            raise InvalidInputError(f"{without_query(str(output))} is an input or lies in one: it is not replaced")
        if source.startswith(place):
            raise InvalidInputError(
                f"{without_query(str(output))} holds the input {without_query(str(read))}: it is not replaced"
            )


def _resolved(location: str | Path) -> str:
    """Return a path without links or a URL, with a slash at the end: what lies in it begins with it."""
    folder = open_folder(location)
    return f"{folder.path.resolve() if isinstance(folder, LocalFolder) else folder.where}/"


def _check_writable_url(place: UrlFolder) -> None:
    """Raise unless an object can be written beside the URL; one is, as a test, and removed again."""
    test = UrlFolder(f"{place.where}.{uuid.uuid4().hex}.test")
    with tempfile.NamedTemporaryFile(dir=temporary_folder()) as file:
        try:
            test.upload(Path(file.name))
        except UnwritableError as error:
            raise UnwritableError(str(error).replace(test.where, place.where)) from error
    test.delete()


def check_ending(name: str, path: str | os.PathLike[str], suffix: str) -> str:
    """Return the path or URL of an output, or raise an `InvalidInputError` unless it ends in `suffix`."""
    place = check_place(name, path)
    if not place.endswith(suffix):
        raise InvalidInputError(f"{without_query(place)} must end in {suffix}")
    return place


def check_writable(path: Path) -> None:
    """Raise unless a file can be written at `path`.

    A file is written as a test: permissions do not show that a disk is read-only.

    Raises
    ------
    InvalidInputError
        If its folder is missing.
    UnwritableError
        If nothing can be written there.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        what = f"{parent} is not a folder" if parent.exists() else f"there is no folder {parent}"
        raise InvalidInputError(f"{path} cannot be written: {what}")
    with _hidden_folder(path) as folder:
        (folder / path.name).write_bytes(bytes(4096))  # fails on a full disk


@contextmanager
def replacing(place: Folder) -> Iterator[Path]:
    """Yield the path of a file or folder to make, which takes the place of what is at `place` when the block ends.

    It is in a hidden folder beside `place`. Those that killed runs left there are removed first.

    Raises
    ------
    UnwritableError
        If it cannot be written. What is at a path then stays, and so does one object at a URL.
    """
    if not isinstance(place, LocalFolder):
        with tempfile.TemporaryDirectory(prefix="labelsieve-", dir=temporary_folder()) as temporary:
            made = Path(temporary) / "made"
            with writing(f"a temporary file for {place.where}"):
                yield made
            place.upload(made)
        return
    path = place.path
    _remove_abandoned(path)
    with _hidden_folder(path) as folder, own_folder(LocalFolder(folder), str(path)):
        made, replaced = _places_in(folder, path)
        yield made
        _move_into_place(made, path, replaced)


def _places_in(folder: Path, path: Path) -> tuple[Path, Path]:
    """Return where in a hidden folder an output is made, and where goes what is replaced; neither is its lock."""
    return folder / f"new-{path.name}", folder / "replaced"


def _remove_abandoned(path: Path) -> None:
    """Remove the hidden folders beside `path` of runs that were killed as they wrote it."""
    name = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}")  # as `_hidden_folder` makes it
    folders = list[Path]()
    with suppress(OSError), os.scandir(path.absolute().parent) as entries:
        folders = [Path(entry) for entry in entries if name.fullmatch(entry.name) and not entry.is_symlink()]
    for folder in folders:
        made, replaced = _places_in(folder, path)
        with abandoned(folder) as is_abandoned:
            if not is_abandoned:
                continue
            if made.exists() and replaced.exists() and not os.path.lexists(path):
                # It was killed between the two renames at the end.
                with writing(str(path)):
                    replaced.rename(path)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _hidden_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`; it is removed at the end."""
    with writing(str(path)):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(made: Path, path: Path, replaced: Path) -> None:
    """Rename `made` to `path`; what is there stays if that fails, and is otherwise moved to `replaced`."""
    try:
        if path.is_dir():
            path.rename(replaced)
        made.replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise


def _is_parquet(folder: Folder) -> bool:
    """Return whether a folder is a table of several Parquet files that Labelsieve has written."""
    names = folder.names()
    if not folder.where.endswith(".parquet") or not all(re.fullmatch(r"part-\d{5,}\.parquet", name) for name in names):
        return False
    from pyarrow import parquet

    def is_marked(name: str) -> bool:
        with folder.open(name) as file:
            return PARQUET_MARK in (parquet.read_schema(file).metadata or {})

    try:
        return bool(names) and all(map(is_marked, names))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Stage:
    """Where a ``.zarr`` result is made.

    Parameters
    ----------
    group : ResultGroup
        Its group.
    work : Folder
        For files that are needed until the result is whole; removed at the end.
    """

    group: ResultGroup
    work: Folder

    def clear(self) -> None:
        """Remove the contents of the group before it is written: in an object store, the earlier result."""
        self.group.check_owned()
        self.group.folder.remove("zarr.json")
        for name in self.group.folder.names():
            self.group.folder.remove(name)

    def publish(self, result: Result) -> None:
        """Write what the tasks have not written, and make the group a result."""
        if result.ids is not None:
            self.group.write_ids(result.ids)
        if result.layout is not None and result.layout.mask_shape is not None:
            self.group.write_pixel_mask(result.layout.mask_shape)
        self.group.check_owned()
        publish_result(self.group, result)


@contextmanager
def staged(output: str | Path, wait: float = 0) -> Iterator[Stage]:
    """Yield the stage on which a ``.zarr`` result is made; it stands under its name once the block has ended.

    A local result is made in a hidden folder beside its place and renamed, so that an earlier one is replaced whole. In
    an object store nothing can be renamed: an earlier result is removed first, and the new one gets its root metadata
    last. `wait` is how many seconds to wait for another run that writes the same result on a disk.
    """
    folder = open_folder(output, "output")
    if not isinstance(folder, LocalFolder):
        work = open_folder(f"{folder.where}.partial")
        with own_folder(work, f"the output {folder.where}", wait) as check:
            try:
                yield Stage(ResultGroup(folder, check_owned=check), work.folder("work"))
            finally:
                with suppress(InUseError, OSError):
                    check()  # otherwise it is the folder of a later run
                    work.folder("work").delete()
        if not work.names():
            work.delete()
        return
    path = folder.path
    beside = LocalFolder(path.with_name(f".{path.name}.partial"))  # a killed run may have left one
    made, replaced = beside.path / "result", beside.path / "replaced"
    with own_folder(beside, f"the output {path}", wait) as check:
        try:
            if replaced.exists() and not path.exists():  # killed between the two renames at the end
                replaced.rename(path)
            for left in ("result", "work", "replaced"):
                beside.remove(left)
            group = ResultGroup(LocalFolder(made), shown=str(path), check_owned=check)
            yield Stage(group, LocalFolder(beside.path / "work"))
            with writing(str(path)):
                _move_into_place(made, path, replaced)
        except UnwritableError as error:
            if str(beside.path) not in str(error):
                raise
            raise UnwritableError(f"{path} cannot be written: {error}") from error
        finally:
            with suppress(InUseError, OSError):
                check()
                beside.delete()


# Most rows of one Parquet file, and rows of a CSV file that are turned into text at a time.
ROWS_A_FILE: Final = 10_000_000
_CSV_ROWS: Final = 1 << 16


def write(result: Result, location: str | Path, **options: Any) -> None:
    """Write a result in the format that the ending of `location` says; what is there is replaced once all is written.

    Parameters
    ----------
    result : Result
        The result.
    location : str or Path
        A path or URL, whose ending is one of `WRITERS`.
    **options
        For the writer.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As `check_output`.
    UnwritableError
        If it cannot be written.
    """
    check_output(location)
    suffix = Path(location).suffix
    with nullcontext(location) if suffix == ".zarr" else replacing(open_folder(location)) as path:
        WRITERS[suffix](result, path, **options)


def _write_npy(result: Result, path: Path) -> None:
    """Write the rows of the issues."""
    header = {"descr": "<i8", "fortran_order": False, "shape": (result.num_issues,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in result.found.column("row"):
            file.write(rows.astype("<i8", copy=False).data)


def _write_csv(result: Result, path: Path, *, escape_formulas: bool = True) -> None:
    """Write a table of the issues, in which `escape_formulas` escapes what a spreadsheet would run as formulas."""
    write_table(path, result.issue_tables(), escape_formulas=escape_formulas)


def write_table(path: Path, tables: Iterable[Columns], *, escape_formulas: bool) -> None:
    """Write a table, which comes in blocks of rows, as a CSV file.

    Parameters
    ----------
    path : Path
        The file.
    tables : iterable of dict of (n,) array
        The blocks, with the same columns.
    escape_formulas : bool
        Whether to escape texts that a spreadsheet would run as formulas.
    """

    def cells(column: npt.NDArray[Any]) -> Iterable[Any]:
        if column.dtype.kind != "O":  # as text, NumPy writes the fewest digits that read back as the same float32
            return column.astype(str)
        return map(escape_formula, column) if escape_formulas else column

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, columns in enumerate(tables):
            if not number:
                writer.writerow(columns)
            for start in range(0, len(next(iter(columns.values()))), _CSV_ROWS):
                cut = [cells(column[start : start + _CSV_ROWS]) for column in columns.values()]
                writer.writerows(zip(*cut, strict=True))


def _write_parquet(result: Result, path: Path, rows_a_file: int = ROWS_A_FILE) -> None:
    """Write a table of the issues as a file, or a folder of files with at most `rows_a_file` rows each."""
    import pyarrow as pa
    from pyarrow import parquet

    # Of the first issue: a column of no texts would have no type.
    schema = pa.table(result.issue_table(0, 1)).schema.with_metadata({PARQUET_MARK: b"1"})
    several = result.num_issues > rows_a_file
    if several:
        path.mkdir()
    for number, start in enumerate(range(0, max(1, result.num_issues), rows_a_file)):
        file, stop = path / f"part-{number:05d}.parquet" if several else path, start + rows_a_file
        with parquet.ParquetWriter(file, schema) as writer:
            for columns in result.issue_tables(start, min(stop, result.num_issues)):
                writer.write_table(pa.table(columns, schema=schema))


def _write_zarr(result: Result, location: str | Path) -> None:
    """Write everything, in chunks of rows."""
    target = open_folder(location)
    groups = [getattr(part, "group", None) for part in (result.found, result.score_parts, result.ids)]
    # In an object store nothing is renamed, so a result would be removed before it is read.
    if not isinstance(target, LocalFolder) and any(g and g.folder.where == target.where for g in groups):
        raise InvalidInputError(f"this result is read from {target.where}: save it to another place")
    with staged(location) as stage:
        stage.clear()
        group, step = stage.group, result_rows(result.n_rows)
        scores, mask = result.scores, result.mask()
        group.create_rows(result.n_rows, scores.dtype)
        write_scores, write_mask = group.writer("scores"), group.writer("mask")
        for start in range(0, result.n_rows, step):
            write_scores(start, np.asarray(scores[start : start + step]))
            write_mask(start, mask[start : start + step])
        step = run_rows(result.num_issues)
        dtypes = {name: column.dtype for name, column in result.found.part(0, 0).columns().items()}
        group.create_issues(result.num_issues, step, dtypes)
        writers = {name: group.writer(COLUMNS[name]) for name in dtypes}
        for start in range(0, result.num_issues, step):
            part = result.found.part(start, min(start + step, result.num_issues))
            for name, column in part.columns().items():
                writers[name](start, column)
        stage.publish(result)


# Writes a result, as `write` says, to a new path; the one of .zarr replaces what is there itself.
WRITERS: dict[str, Callable[..., None]] = {
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".zarr": _write_zarr,
}
