"""Results that the tasks write: one Zarr group, published whole.

Covers: making the group and its arrays, writing regions of whole chunks, publishing, and reading it lazily.
Does not cover: what is written (`runs`), results in memory (`results`) and other file forms (`sinks`).

The group holds ``scores`` and ``mask`` of all rows, ``issues`` (their rows, worst first), ``issue_table`` (the other
columns of the issues), ``confident_thresholds`` and ``class_counts``. It is made beside its place and renamed, or, in
an object store, gets its root metadata last: what is not whole is no group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident import ConfidentCounts, pair_dtype
from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.memory import result_rows
from labelsieve.results import IdParts, IssueRows, Result, RunFacts
from labelsieve.settings import Settings
from labelsieve.storage import Folder, LocalFolder, writing

if TYPE_CHECKING:
    import dask.array as da  # for types alone

KIND: Final = "labelsieve result"
FORMAT: Final = 2
# Where each column of the issues is.
COLUMNS: Final = {
    "row": "issues",
    "score": "issue_table/score",
    "given_label": "issue_table/given_label",
    "suggested_label": "issue_table/suggested_label",
    "p_given": "issue_table/p_given",
    "p_suggested": "issue_table/p_suggested",
}
# All that is in a result beside its root metadata.
PARTS: Final = {
    *("scores", "mask", "issues", "issue_table", "confident_thresholds", "class_counts", "mean_scores"),
    *("confident_diagonal", "confident_pairs"),
}
# The user's own names of the issues' rows, where there are any.
_IDS: Final = "issue_table/id"


@dataclass(frozen=True)
class ResultGroup:
    """A Zarr group of results, as a description.

    Parameters
    ----------
    folder : Folder
        Where it is, or is being made.
    """

    folder: Folder

    def create(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunk: int) -> None:
        """Make an array, in chunks of `chunk` rows, for tasks to write regions of."""
        import zarr
        from zarr.codecs import BloscCodec

        chunks: Any = (max(1, min(chunk, shape[0])), *(max(1, size) for size in shape[1:]))
        # Zarr's own choice, zstd, took half of the time in which 500 million rows were ranked and written.
        typesize = 1 if dtype is str else np.dtype(dtype).itemsize
        codec = BloscCodec(cname="lz4", shuffle="shuffle", typesize=typesize)
        zarr.create_array(
            self._store(), name=name, shape=shape, chunks=chunks, dtype=dtype, compressors=codec, overwrite=True
        )
        if not isinstance(self.folder, LocalFolder):
            self.folder.remove("zarr.json")  # until it is whole this is no group

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
            names = ids.part(start, stop, rows[start:stop])
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
        array = self.open(name, mode="r+")

        def write(start: int, values: npt.NDArray[Any]) -> None:
            with writing(self.folder.where, "" if isinstance(self.folder, LocalFolder) else self.folder.location):
                array[start : start + len(values)] = values

        return write

    def publish(self, arrays: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Write the small arrays, and then what makes this a result."""
        import zarr

        for name, array in arrays.items():
            self.create(name, array.shape, array.dtype, array.shape[0])
            self.writer(name)(0, array)
        attributes = {"kind": KIND, "format": FORMAT, **attributes}
        if isinstance(self.folder, LocalFolder):
            zarr.open_group(self._store(), mode="r+").attrs.update(attributes)
        else:
            zarr.create_group(self._store(), attributes=dict(attributes))

    def open(self, name: str, mode: Any = "r") -> Any:
        """Open one of the arrays.

        Raises
        ------
        UnreadableDataError
            If it is gone, with a run that has started over.
        """
        import zarr

        try:
            return zarr.open_array(self._store(read_only=mode == "r"), path=name, mode=mode)
        except FileNotFoundError:
            raise UnreadableDataError(f"there is no {name} in {self.folder.where} (any more)") from None

    def has(self, name: str) -> bool:
        """Tell whether one of the arrays is there."""
        try:
            self.open(name)
        except UnreadableDataError:
            return False
        return True

    def _store(self, *, read_only: bool = False) -> Any:
        from zarr.storage import FsspecStore, LocalStore

        if isinstance(self.folder, LocalFolder):
            return LocalStore(self.folder.path, read_only=read_only)
        return FsspecStore.from_url(self.folder.location, read_only=read_only)


def is_result(folder: Folder) -> bool:
    """Tell whether a whole result of Labelsieve is there."""
    try:
        about = json.loads(folder.read("zarr.json"))
        return bool(about["attributes"]["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _by_chunks(array: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield the values of an array, a stored chunk at a time."""
    for start in range(0, array.shape[0], array.chunks[0]):
        yield array[start : start + array.chunks[0]]


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
        return IssueRows(*(self.group.open(path)[start:stop] for path in COLUMNS.values()))

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield one column, a stored chunk at a time."""
        yield from _by_chunks(self.group.open(COLUMNS[name]))


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
        scores: npt.NDArray[np.floating[Any]] = self.group.open("scores")[:]
        return scores

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        return da.from_array(self.group.open("scores"), chunks="auto", asarray=False)

    def blocks(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield them in row order, a stored chunk at a time."""
        yield from _by_chunks(self.group.open("scores"))


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
        names: npt.NDArray[Any] = self.group.open(_IDS)[start:stop]
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


def read_result(group: ResultGroup) -> dict[str, Any]:
    """Return the fields of `Result` of a group; issues and scores stay where they are.

    Raises
    ------
    InvalidInputError
        Where there is no result, or one of another version.
    """
    try:
        about = json.loads(group.folder.read("zarr.json"))["attributes"]
        kind, version = about["kind"], about["format"]
    except (OSError, ValueError, KeyError, TypeError):
        kind, version = None, None
    if kind != KIND:
        raise InvalidInputError(f"there is no result of Labelsieve at {group.folder.where}")
    if version != FORMAT:
        raise InvalidInputError(
            f"{group.folder.where} is a result of format {version}; this version of Labelsieve reads format {FORMAT}"
        )
    given, predicted, counts = group.open("confident_pairs")[:]
    n_classes = int(about["n_classes"])
    pairs = (given * n_classes + predicted).astype(pair_dtype(n_classes))
    counts = counts.astype(np.int32) if counts.max(initial=0) <= np.iinfo(np.int32).max else counts
    confident = ConfidentCounts(group.open("confident_diagonal")[:], pairs, counts)
    names, known = about["class_names"], {fact.name for fact in fields(RunFacts)} & about["facts"].keys()
    return {
        "n_rows": int(about["n_rows"]),
        "n_classes": n_classes,
        "found": StoredIssues(group, int(about["num_issues"])),
        "estimated_num_issues": int(about["estimated_num_issues"]),
        **{name: group.open(name)[:] for name in ("confident_thresholds", "class_counts", "mean_scores")},
        "confident": confident,
        "score_parts": StoredScores(group),
        "settings": Settings(**about["settings"]),
        "facts": RunFacts(**{name: about["facts"][name] for name in known} | {"notes": tuple(about["facts"]["notes"])}),
        "class_names": None if names is None else tuple(names),
        "ids": StoredIds(group) if group.has(_IDS) else None,
    }
