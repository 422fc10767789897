"""Results that the tasks write: one Zarr group, published whole.

Covers: making the group and its arrays, writing regions of whole chunks, publishing, and reading it lazily.
Does not cover: what is written (`runs`), results in memory (`results`) and other file forms (`sinks`).

The group holds ``scores`` and ``mask`` of all rows, ``issues`` (their rows, worst first), ``issue_table`` (the other
columns of the issues), ``confident_thresholds`` and ``class_counts``. It is made beside its place and renamed, or, in
an object store, gets its root metadata last: what is not whole is no group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.memory import result_rows
from labelsieve.results import IssueRows
from labelsieve.storage import Folder, LocalFolder, writing

if TYPE_CHECKING:
    import dask.array as da  # for types alone

KIND: Final = "labelsieve result"
FORMAT: Final = 1
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
PARTS: Final = {"scores", "mask", "issues", "issue_table", "confident_thresholds", "class_counts"}


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
        """Make an array, for tasks to write regions of."""
        import zarr
        from zarr.codecs import BloscCodec

        chunks: Any = (max(1, min(chunk, shape[0])),)
        # Zarr's own choice, zstd, took half of the time in which 500 million rows were ranked and written.
        codec = BloscCodec(cname="lz4", shuffle="shuffle", typesize=np.dtype(dtype).itemsize)
        zarr.create_array(
            self._store(), name=name, shape=shape, chunks=chunks, dtype=dtype, compressors=codec, overwrite=True
        )
        if not isinstance(self.folder, LocalFolder):
            self.folder.remove("zarr.json")  # until it is whole this is no group

    def create_rows(self, n_rows: int, score_dtype: npt.DTypeLike) -> None:
        """Make the scores and the mask of all rows."""
        self.create("scores", (n_rows,), score_dtype, result_rows(n_rows))
        self.create("mask", (n_rows,), np.bool_, result_rows(n_rows))

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
            with writing(self.folder.where):
                array[start : start + len(values)] = values

        return write

    def publish(self, arrays: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        """Write the small arrays, and then what makes this a result."""
        import zarr

        for name, array in arrays.items():
            self.create(name, array.shape, array.dtype, len(array))
            self.writer(name)(0, array)
        attributes = {"kind": KIND, "format": FORMAT, **attributes}
        if isinstance(self.folder, LocalFolder):
            zarr.open_group(self._store(), mode="r+").attrs.update(attributes)
        else:
            zarr.create_group(self._store(), attributes=dict(attributes))

    def open(self, name: str, mode: Any = "r") -> Any:
        """Open one of the arrays."""
        import zarr

        return zarr.open_array(self._store(read_only=mode == "r"), path=name, mode=mode)

    def _store(self, *, read_only: bool = False) -> Any:
        from zarr.storage import FsspecStore, LocalStore

        if isinstance(self.folder, LocalFolder):
            return LocalStore(self.folder.path, read_only=read_only)
        return FsspecStore.from_url(self.folder.location, read_only=read_only)


def is_result(folder: Folder) -> bool:
    """Tell whether a whole result of Labelsieve is there."""
    import json

    try:
        about = json.loads(folder.read("zarr.json"))
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
        return IssueRows(*(self.group.open(path)[start:stop] for path in COLUMNS.values()))

    def parts(self) -> Iterator[IssueRows]:
        """Yield all issues, a stored chunk at a time."""
        rows = self.group.open(COLUMNS["row"]).chunks[0]
        for start in range(0, max(1, self.n_issues), rows):
            yield self.part(start, min(start + rows, self.n_issues))


@dataclass(frozen=True)
class StoredScores:
    """Scores of all rows where the tasks wrote them.

    Parameters
    ----------
    group : ResultGroup
        Where they are.
    """

    group: ResultGroup

    def to_numpy(self) -> npt.NDArray[np.floating[Any]]:
        """Return them as ``(N,)`` in memory."""
        scores: npt.NDArray[np.floating[Any]] = self.group.open("scores")[:]
        return scores

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        return da.from_array(self.group.open("scores"), chunks="auto", asarray=False)
