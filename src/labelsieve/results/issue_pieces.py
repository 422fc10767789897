"""The issues of two results side by side, in pieces of rows that fit into memory."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.class_quality import Columns
from labelsieve.errors import InvalidInputError
from labelsieve.results.result import TABLE_ROWS, Result
from labelsieve.storage.folders import temporary_folder, writing

if TYPE_CHECKING:
    from labelsieve.confident_learning.dtypes import Bools, Int64s

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
