"""Several arrays, one after the other, as one, such as the output files of inference workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.versions import MissingRows

# Shards that are examined at the same time where each is a request.
_THREADS: Final = 16
# Shards that a message names.
_NAMED: Final = 10


class ShardsSource(Source):
    """Arrays of one dtype and one number of columns, one after the other.

    Its stored row chunk is the longest among the shards': where a shard does not end with a whole chunk, later batches
    cut chunks.

    Parameters
    ----------
    shards : sequence of Source
        In order; some may have no rows.
    where : str
        Folder, pattern or first shard, for messages.

    Attributes
    ----------
    shards : tuple of Source
        The arrays.
    """

    def __init__(self, shards: Sequence[Source], where: str) -> None:
        first = shards[0]
        super().__init__(
            (sum(shard.n_rows for shard in shards), *first.shape[1:]),
            first.dtype,
            max((shard.row_chunk or 0 for shard in shards), default=0) or None,
        )
        self.in_pieces = all(shard.in_pieces for shard in shards)
        # The next shard is open while one is read.
        self.prefetch_bytes = 2 * max(shard.prefetch_bytes for shard in shards)
        # As of the first shard; they hardly ever differ.
        self.request_rows, self.n_side_by_side = first.request_rows, first.n_side_by_side
        self.is_encoded = any(shard.is_encoded for shard in shards)
        self.shards, self.fill_value = tuple(shards), first.fill_value
        self.listed_at = self._where = where
        self.in_memory = any(shard.in_memory for shard in shards)
        self.ignored = first.ignored
        self.summarizer = first.summarizer
        largest = max(shards, key=lambda shard: shard.decoding_bytes)
        self.class_columns = first.class_columns
        self.decoding_bytes, self.decoding_note = largest.decoding_bytes, largest.decoding_note
        self._ends = np.cumsum([shard.n_rows for shard in shards])

    @classmethod
    def checked(cls, name: str, shards: Sequence[Source], where: str) -> ShardsSource:
        """Compare the shards with the first, and join them.

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
            Naming the first shard and those that differ from it, and how.
        """
        shards = [array for shard in shards for array in shard.arrays]
        facts: dict[str, list[Any]] = {
            "axes": [shard.ndim for shard in shards],
            "columns": [int(np.prod(shard.shape[1:], dtype=np.int64)) for shard in shards],
            "dtype": [shard.dtype for shard in shards],
        }
        for what, values in facts.items():
            differing = [
                f"{shard.where} has {value}" for shard, value in zip(shards, values, strict=True) if value != values[0]
            ]
            if differing:
                named = ", ".join(differing[:_NAMED])
                more = f", and {len(differing) - _NAMED:,} more differ" if len(differing) > _NAMED else ""
                raise InvalidInputError(
                    f"{name}: shards differ in {what}: {shards[0].where} has {values[0]}, {named}{more}"
                )
        return cls(shards, where)

    @property
    def where(self) -> str:
        """Folder, pattern or first shard, and how many there are."""
        return f"{self._where} ({len(self.shards):,} shards)"

    @property
    def arrays(self) -> Sequence[Source]:
        """The shards."""
        return self.shards

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a row before it is converted."""
        return self.shards[0].read_row_bytes

    @property
    def derivation(self) -> list[Any]:
        """What is computed from the stored rows of each shard."""
        return self.shards[0].derivation

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The rows at which what is decoded together ends, in all shards; None unless some shard has such rows."""
        edges = [shard.row_edges for shard in self.shards]
        if all(one is None for one in edges):
            return None
        starts = self._ends - [shard.n_rows for shard in self.shards]
        ends = [np.array([shard.n_rows]) if one is None else one for one, shard in zip(edges, self.shards, strict=True)]
        return np.unique(np.concatenate([start + one for start, one in zip(starts, ends, strict=True)]))

    def covering(self, start: int, stop: int) -> range:
        """Return the numbers of the shards that hold rows ``[start, stop)``."""
        if start >= stop:
            return range(0)
        first = int(np.searchsorted(self._ends, start, "right"))
        return range(first, int(np.searchsorted(self._ends, stop, "left")) + 1)

    def shard(self, index: int) -> tuple[Source, int]:
        """Return a shard, and the row at which it begins."""
        return self.shards[index], int(self._ends[index]) - self.shards[index].n_rows

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return only the shards that hold these rows."""
        needed = self.covering(start, stop)
        if not needed:
            return self, 0
        source, origin = self.shard(needed[0])
        if len(needed) == 1:
            inner, inside = source.part(start - origin, stop - origin)
            return inner, origin + inside
        return ShardsSource(self.shards[needed.start : needed.stop], self._where), origin

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading; the first shard of a known range is opened now."""
        return _ShardRows(self, start, stop, raw=False)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for the first pass."""
        return _ShardRows(self, start, stop, raw=True)

    def identity(self) -> dict[str, Any]:
        """Return what every source returns; the content is the shards' places, rows and chunks, not their versions.

        A shard that is rewritten shows in `part_identities`: a resumed run reads only that shard again.
        """
        return super().identity() | {"n_shards": len(self.shards)}

    def _content(self) -> str:
        names = [[shard.where, shard.n_rows, shard.row_chunk] for shard in self.shards]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range over the shards that hold it; each shard counts its rows from its first."""
        digests = []
        for start, stop in ranges:
            parts = []
            for index in self.covering(start, stop):
                source, origin = self.shard(index)
                if source.n_rows:
                    inside = max(start - origin, 0), min(stop - origin, source.n_rows)
                    parts += source.part_identities([inside])
            if len(parts) == 1 or not all(parts):
                digests.append(parts[0] if all(parts) else "")
            else:
                digests.append(hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest())
        return digests

    def note_version(self) -> None:
        """Note the version of every shard."""
        with ThreadPoolExecutor(_THREADS, "labelsieve-shards") as pool:
            list(pool.map(lambda shard: shard.note_version(), self.shards))

    def check_version(self) -> None:
        """Compare every shard."""
        with ThreadPoolExecutor(_THREADS, "labelsieve-shards") as pool:
            list(pool.map(lambda shard: shard.check_version(), self.shards))

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored, in all shards."""
        found = [
            (shard.missing_rows(), int(end) - shard.n_rows) for shard, end in zip(self.shards, self._ends, strict=True)
        ]
        return MissingRows.joined((rows, origin) for rows, origin in found if rows is not None)

    def reachable(self) -> None:
        """Look for every shard."""
        for shard in self.shards:
            shard.reachable()


class _ShardRows(Rows):
    """Reads from one shard at a time, with the next one open where there is something to prefetch."""

    def __init__(self, source: ShardsSource, start: int, stop: int | None, *, raw: bool) -> None:
        super().__init__(source)
        self._source, self._start, self._raw = source, start, raw
        self._stop = source.n_rows if stop is None else min(stop, source.n_rows)
        self._open: dict[int, Rows] = {}
        if stop is not None and start < self._stop:
            self._rows_of(source.covering(start, self._stop)[0])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        touched = self._source.covering(start, stop)
        if len(touched) == 1:
            return self._read(touched[0], start, stop)
        pieces = []
        for index in touched:
            source, origin = self._source.shard(index)
            a, b = max(start, origin), min(stop, origin + source.n_rows)
            if a < b:
                pieces.append(self._read(index, a, b))
        return np.concatenate(pieces) if pieces else self._empty(0)

    def _read(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        origin = self._source.shard(index)[1]
        return self._rows_of(index).read(start - origin, stop - origin)

    def _rows_of(self, index: int) -> Rows:
        """Return the open shard, and close those that are no longer needed."""
        needed = [index]
        if self._source.shard(index)[0].prefetch_bytes:
            later = range(index + 1, self._source.covering(self._start, self._stop).stop)
            needed += [i for i in later if self._source.shard(i)[0].n_rows][:1]
        for left in [i for i in self._open if i not in needed]:
            self._open.pop(left).close()
        for i in needed:
            if i not in self._open:
                source, origin = self._source.shard(i)
                first, last = max(self._start - origin, 0), min(self._stop - origin, source.n_rows)
                opening = source.open_raw if self._raw else source.open
                self._open[i] = opening(first, last) if first < last else opening()
        return self._open[index]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
