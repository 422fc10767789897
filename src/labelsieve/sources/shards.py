"""Several arrays, one after the other, as one: what inference workers leave behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.npy import NpySource
from labelsieve.sources.remote_npy import RemoteNpySource, check_objects
from labelsieve.sources.versions import FileVersion, MissingRows

# Shards that are looked at at the same time where each is a request.
_THREADS: Final = 16


class ShardsSource(Source):
    """Arrays of one dtype and as many columns, one after the other.

    Its stored row chunk is that of the longest among the shards': where a shard does not end with a whole chunk, later
    batches cut chunks, and one that is cut is decoded for both.

    Parameters
    ----------
    shards : sequence of Source
        In order; some may have no rows.
    where : str
        Folder, pattern or first of them, for messages.
    """

    def __init__(self, shards: Sequence[Source], where: str) -> None:
        first = shards[0]
        n_rows = sum(shard.n_rows for shard in shards)
        chunks = [shard.row_chunk for shard in shards if shard.row_chunk]
        super().__init__((n_rows, *first.shape[1:]), first.dtype, max(chunks) if chunks else None)
        self.in_pieces = all(shard.in_pieces for shard in shards)
        # The next shard is open while one is read.
        self.read_ahead_bytes = 2 * max(shard.read_ahead_bytes for shard in shards)
        self._shards, self._where, self.fill_value = tuple(shards), where, first.fill_value
        self._ends = np.cumsum([shard.n_rows for shard in shards])

    @classmethod
    def checked(cls, name: str, shards: Sequence[Source], where: str) -> ShardsSource:
        """Hold the shards against the first.

        Parameters
        ----------
        name : str
            ``labels`` or ``pred_probs``, for messages.
        shards : sequence of Source
            At least one.
        where : str
            Folder or pattern.

        Raises
        ------
        InvalidInputError
            Naming two shards that differ, and how.
        """
        first = shards[0]
        for shard in shards:
            differences = (
                ("axes", first.ndim, shard.ndim),
                ("columns", *(int(np.prod(source.shape[1:], dtype=np.int64)) for source in (first, shard))),
                ("dtype", first.dtype, shard.dtype),
            )
            for what, one, other in differences:
                if one != other:
                    raise InvalidInputError(
                        f"{name}: shards differ in {what}: {first.where} has {one}, {shard.where} has {other}"
                    )
        return cls(shards, where)

    @property
    def where(self) -> str:
        """Folder, pattern or first shard, and how many there are."""
        return f"{self._where} ({len(self._shards):,} shards)"

    def __getstate__(self) -> dict[str, Any]:
        # Paths share their folder, and thousands of them are one description: kept in columns.
        if not all(type(shard) is NpySource for shard in self._shards):
            return self.__dict__
        return self.__dict__ | {"_shards": _NpyColumns(self._shards)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        shards = state["_shards"]
        if isinstance(shards, _NpyColumns):
            self._shards = shards.sources(self.shape[1:], self.dtype)

    def covering(self, start: int, stop: int) -> range:
        """Return the numbers of the shards that hold rows ``[start, stop)``."""
        if start >= stop:
            return range(0)
        first = int(np.searchsorted(self._ends, start, "right"))
        return range(first, int(np.searchsorted(self._ends, stop, "left")) + 1)

    def shard(self, index: int) -> tuple[Source, int]:
        """Return a shard, and the row at which it begins."""
        return self._shards[index], int(self._ends[index]) - self._shards[index].n_rows

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return only the shards that hold these rows."""
        needed = self.covering(start, stop)
        if not needed:
            return self, 0
        source, origin = self.shard(needed[0])
        if len(needed) == 1:
            inner, inside = source.part(start - origin, stop - origin)
            # Where shards are not alike, a part keeps to what the whole says of itself.
            if inner.in_pieces == self.in_pieces:
                return inner, origin + inside
        return ShardsSource(self._shards[needed.start : needed.stop], self._where), origin

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading; the first shard of a known range is opened now."""
        return _ShardRows(self, start, stop)

    def identity(self) -> dict[str, Any]:
        """Return what every source tells; its content is the shards' places, rows and grids, not when they changed.

        A shard that is written anew shows in `part_identities`: a run that goes on re-reads that shard alone.
        """
        return super().identity() | {"n_shards": len(self._shards)}

    def _content(self) -> str:
        names = [[shard.where, shard.n_rows, shard.row_chunk] for shard in self._shards]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range over the shards that hold it."""
        parts: list[list[str]] = [[] for _ in ranges]
        wanted: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        for number, (start, stop) in enumerate(ranges):
            for index in self.covering(start, stop):
                source, origin = self.shard(index)
                inside = max(start - origin, 0), min(stop - origin, source.n_rows)
                wanted.setdefault(index, []).append((number, inside))
        for index, asked in wanted.items():
            source, _ = self.shard(index)
            digests = source.part_identities([inside for _, inside in asked])
            whole = "" if all(digests) else json.dumps(source.identity())
            for (number, inside), digest in zip(asked, digests, strict=True):
                parts[number].append(f"{inside} {digest or whole}")
        return [hashlib.blake2b("\n".join(part).encode(), digest_size=16).hexdigest() for part in parts]

    def note_version(self) -> None:
        """Note the version of every shard."""
        _each_of(self._shards, lambda shard: shard.note_version())

    def check_version(self) -> None:
        """Look at every shard."""
        check_objects([shard for shard in self._shards if isinstance(shard, RemoteNpySource)])
        others = [shard for shard in self._shards if not isinstance(shard, RemoteNpySource)]
        _each_of(others, lambda shard: shard.check_version())

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored, in all shards."""
        found = [(self._shards[i].missing_rows(), self.shard(i)[1]) for i in range(len(self._shards))]
        return MissingRows.joined((rows, origin) for rows, origin in found if rows is not None)

    def reachable(self) -> None:
        """Look at every shard."""
        for shard in self._shards:
            shard.reachable()


class _NpyColumns:
    """The descriptions of local ``.npy`` shards in few objects."""

    def __init__(self, shards: Sequence[Any]) -> None:
        paths = [str(shard.path) for shard in shards]
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120  # there are thousands
        self.folder, self.names = folder, "\0".join(path[len(folder) :].lstrip(os.sep) for path in paths)
        self.facts = np.array([(shard.n_rows, shard.offset, shard.fortran) for shard in shards], np.int64)
        versions = [shard.version for shard in shards]
        self.host = versions[0].host if versions[0] is not None else ""
        self.versions = (
            None if None in versions else [np.array(c) for c in zip(*(v[:3] for v in versions), strict=True)]
        )

    def sources(self, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Source, ...]:
        """Return the sources again."""
        names = self.names.split("\0")
        versions: Iterator[FileVersion | None] = repeat(None)
        if self.versions is not None:
            columns = [column.tolist() for column in self.versions]
            versions = (FileVersion(a, b, c, self.host) for a, b, c in zip(*columns, strict=True))
        return tuple(
            NpySource(Path(self.folder, name), (n_rows, *row_shape), dtype, offset, fortran=bool(fortran), version=one)
            for name, (n_rows, offset, fortran), one in zip(names, self.facts.tolist(), versions, strict=False)
        )


def _each_of(shards: Sequence[Source], act: Callable[[Source], object]) -> None:
    """Act on every shard, in threads where each has to wait for a remote store."""
    if all(isinstance(shard, NpySource | RemoteNpySource) for shard in shards):  # those are known as they are opened
        for shard in shards:
            act(shard)
        return
    with ThreadPoolExecutor(_THREADS, "labelsieve-shards") as pool:
        for _ in pool.map(act, shards):
            pass


class _ShardRows(Rows):
    """Reads from one shard at a time, with the next one open where there is something to fetch ahead."""

    def __init__(self, source: ShardsSource, start: int, stop: int | None) -> None:
        super().__init__(source)
        self._source, self._start = source, start
        self._stop = source.n_rows if stop is None else min(stop, source.n_rows)
        self._open: dict[int, Rows] = {}
        if stop is not None and start < self._stop:
            self._rows_of(source.covering(start, self._stop)[0])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        touched = self._source.covering(start, stop)
        if len(touched) == 1:
            return self._read(touched[0], start, stop)
        rows = self._reused(stop - start)
        for index in touched:
            source, origin = self._source.shard(index)
            a, b = max(start, origin), min(stop, origin + source.n_rows)
            if a < b:
                rows[a - start : b - start] = self._read(index, a, b)
        return rows

    def _read(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        origin = self._source.shard(index)[1]
        return self._rows_of(index).read(start - origin, stop - origin)

    def _rows_of(self, index: int) -> Rows:
        """Return the open shard, and close those that reading has left behind."""
        covered = self._source.covering(self._start, self._stop)
        remote = self._source.shard(index)[0].read_ahead_bytes > 0
        later = (i for i in range(index + 1, covered.stop) if self._source.shard(i)[0].n_rows)
        following = [next(later)] if remote and index + 1 < covered.stop else []
        wanted = [index, *following]
        for left in [i for i in self._open if i not in wanted]:
            self._open.pop(left).close()
        for i in wanted:
            if i not in self._open:
                source, origin = self._source.shard(i)
                first, last = max(self._start - origin, 0), min(self._stop - origin, source.n_rows)
                self._open[i] = source.open(first, last) if first < last else source.open()
        return self._open[index]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
