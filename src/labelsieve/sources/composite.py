"""Sources over other sources: shards, folds and ensembles of arrays, and rows that are computed from stored ones."""

from __future__ import annotations

import abc
import copy
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.derived import EnsembleMean, EnsembleSummarizer, LogitSummarizer, MemberRows, softmax
from labelsieve.confident_learning.summarize import STRIP_BYTES
from labelsieve.confident_learning.thresholds import Float64s, Floats, Int64s, Ints
from labelsieve.errors import InputTypeError, InvalidInputError, located
from labelsieve.sources.source import MissingRows, ReadFacts, Rows, Source
from labelsieve.storage.remote import check_place, without_query

if TYPE_CHECKING:
    import dask.array as da

# Sources whose versions are noted or compared at the same time, where each is a request.
_THREADS: Final = 16
# Rows, and shards, that a message names.
_NAMED: Final = 5
_NAMED_SHARDS: Final = 10


class CompositeSource(Source):
    """Rows of several sources, from which its facts, versions and digests follow; a subclass says which in `pieces`.

    Parameters
    ----------
    children : sequence of Source
        At least one.
    shape : tuple of int
        ``(N,)`` or ``(N, K)``.
    dtype : dtype
        Dtype of the rows.
    begins : sequence of int
        For each child, the row at which it begins, which is negative if rows of it come before row 0.
    """

    def __init__(
        self, children: Sequence[Source], shape: tuple[int, ...], dtype: npt.DTypeLike, begins: Sequence[int]
    ) -> None:
        super().__init__(shape, dtype, ReadFacts.joined(child.facts for child in children))
        self.children, self.begins = tuple(children), tuple(begins)

    @abc.abstractmethod
    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return where rows ``[start, stop)`` are: numbers of children, and ranges of their rows that are not empty."""

    def _digest(self, start: int, stop: int, parts: Sequence[str]) -> str:  # noqa: ARG002  # of the parts alone
        """Return the digest of a range, given those of its pieces."""
        return parts[0] if len(parts) == 1 else _hashed("\n".join(parts))

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range over the rows of the children that it has."""
        pieces, asked = [self.pieces(*one) for one in ranges], dict[int, list[tuple[int, int]]]()
        for child, first, last in itertools.chain.from_iterable(pieces):
            asked.setdefault(child, []).append((first, last))
        answers = {child: iter(self.children[child].part_identities(some)) for child, some in asked.items()}
        parts = [[next(answers[child]) for child, _, _ in some] for some in pieces]
        return [self._digest(*one, some) if all(some) else "" for one, some in zip(ranges, parts, strict=True)]

    def note_version(self) -> None:
        """Note the version of every child."""
        with ThreadPoolExecutor(_THREADS, "labelsieve-children") as pool:
            list(pool.map(lambda child: child.note_version(), self.children))

    def check_version(self) -> None:
        """Compare the version of every child."""
        with ThreadPoolExecutor(_THREADS, "labelsieve-children") as pool:
            list(pool.map(lambda child: child.check_version(), self.children))

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored, in any child."""
        found = zip((child.missing_rows() for child in self.children), self.begins, strict=True)
        return MissingRows.joined((rows, begin) for rows, begin in found if rows is not None)

    def reachable(self) -> None:
        """Look for every child."""
        for child in self.children:
            if not child.facts.in_memory:
                child.reachable()


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class ShardsSource(CompositeSource):
    """Arrays of one dtype and one number of columns, one after the other.

    Its stored row chunk is the longest among the shards': where a shard does not end with a whole chunk, later batches
    cut chunks.

    Parameters
    ----------
    shards : sequence of Source
        In order; some may have no rows.
    where : str
        Folder, pattern or first shard, for messages.
    """

    def __init__(self, shards: Sequence[Source], where: str) -> None:
        first, ends = shards[0], np.cumsum([0, *(shard.n_rows for shard in shards)])
        super().__init__(shards, (int(ends[-1]), *first.shape[1:]), first.dtype, ends[:-1].tolist())
        largest = max((shard.facts for shard in shards), key=lambda facts: facts.decoding_bytes)
        self.facts = replace(
            self.facts,
            # The next shard is open while one is read.
            prefetch_bytes=2 * max(shard.facts.prefetch_bytes for shard in shards),
            decoding_bytes=largest.decoding_bytes,
            decoding_note=largest.decoding_note,
        )
        self.fill_value, self.ignored, self.class_columns = first.fill_value, first.ignored, first.class_columns
        self.summarizer, self._ends, self.read_row_bytes = first.summarizer, ends[1:], first.read_row_bytes
        if any(shard.row_edges is not None for shard in shards):
            edges = [np.array([one.n_rows]) if one.row_edges is None else one.row_edges for one in shards]
            self.row_edges = np.unique(np.concatenate([a + b for a, b in zip(self.begins, edges, strict=True)]))
        self.listed_at = self._where = where

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
            "columns": [math.prod(shard.shape[1:]) for shard in shards],
            "dtype": [shard.dtype for shard in shards],
        }
        for what, values in facts.items():
            differing = [
                f"{shard.where} has {value}" for shard, value in zip(shards, values, strict=True) if value != values[0]
            ]
            if differing:
                named = ", ".join(differing[:_NAMED_SHARDS])
                more = f", and {len(differing) - _NAMED_SHARDS:,} more differ" if len(differing) > _NAMED_SHARDS else ""
                raise InvalidInputError(
                    f"{name}: shards differ in {what}: {shards[0].where} has {values[0]}, {named}{more}"
                )
        return cls(shards, where)

    @property
    def where(self) -> str:
        """Folder, pattern or first shard, and how many there are."""
        return f"{self._where} ({len(self.children):,} shards)"

    @property
    def arrays(self) -> Sequence[Source]:
        """The shards."""
        return self.children

    @property
    def derivation(self) -> list[Any]:
        """What is computed from the stored rows of each shard."""
        return self.children[0].derivation

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the shards that hold rows ``[start, stop)``, and which rows of each."""
        if start >= stop:
            return []
        numbers = range(
            int(np.searchsorted(self._ends, start, "right")), int(np.searchsorted(self._ends, stop, "left")) + 1
        )
        spans = ((i, self.begins[i], int(self._ends[i])) for i in numbers)
        return [(i, max(start - a, 0), min(stop, b) - a) for i, a, b in spans if a < b]

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return only the shards that hold these rows."""
        needed = self.pieces(start, stop)
        if not needed:
            return self, 0
        (child, first, last), origin = needed[0], self.begins[needed[0][0]]
        if len(needed) == 1:
            inner, inside = self.children[child].part(first, last)
            return inner, origin + inside
        return ShardsSource(self.children[child : needed[-1][0] + 1], self._where), origin

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
        return super().identity() | {"n_shards": len(self.children)}

    def _content(self) -> str:
        names = [[shard.where, shard.n_rows, shard.facts.row_chunk] for shard in self.children]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()


class _ShardRows(Rows):
    """Reads from one shard at a time, with the next one open where there is something to prefetch."""

    def __init__(self, source: ShardsSource, start: int, stop: int | None, *, raw: bool) -> None:
        super().__init__(source)
        self._source, self._raw, self._current = source, raw, -1
        pieces = source.pieces(start, source.n_rows if stop is None else min(stop, source.n_rows))
        self._wanted = {index: (first, last) for index, first, last in pieces}
        self._open: dict[int, Rows] = {}
        if stop is not None and pieces:
            self._rows_of(pieces[0][0])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        pieces = [self._rows_of(index).read(first, last) for index, first, last in self._source.pieces(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else self._empty(0)

    def _rows_of(self, index: int) -> Rows:
        """Return the open shard, and close those that are no longer needed."""
        if index != self._current:
            needed, shards = [index], self._source.children
            if shards[index].facts.prefetch_bytes:
                needed += itertools.islice((later for later in self._wanted if later > index), 1)
            for left in [i for i in self._open if i not in needed]:
                self._open.pop(left).close()
            for i in needed:
                if i not in self._open:
                    self._open[i] = (shards[i].open_raw if self._raw else shards[i].open)(*self._wanted.get(i, ()))
            self._current = index
        return self._open[index]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
        self._current = -1


# Row numbers that are read at a time.
_STEP: Final = 1 << 20
# Rows of a block whose folds are counted again and again.
_COUNTED: Final = 1 << 16


class Folds:
    """Out-of-sample predictions of cross-validation, one array for each fold, as `pred_probs`.

    Together the folds hold each row of the dataset once. They are read where they are, in the order of the dataset,
    and never joined.

    Parameters
    ----------
    folds : sequence of (array-like, array-like)
        For each fold, its ``(n, K)`` `pred_probs`, which is anything that `find_label_issues` takes except a Dask array
        of your own, and the ``(n,)`` numbers of its rows in the dataset, which ascend, as scikit-learn's do: an array,
        a list, or a path.

    Raises
    ------
    InvalidInputError
        For no folds, or an item that is not a pair. Rows that are missing, out of range, out of order or given twice
        are errors that name rows and folds, when the folds are opened.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> even = np.array([[0.9, 0.1], [0.6, 0.4]])  # rows 0 and 2
    >>> odd = np.array([[0.2, 0.8], [0.1, 0.9]])  # rows 1 and 3
    >>> folds = labelsieve.Folds([(even, [0, 2]), (odd, [1, 3])])
    >>> labelsieve.find_label_issues([0, 1, 0, 0], folds)
    <LabelIssues: 1 of 4 rows (25.00%) in 2 classes; worst rows: 3>
    """

    def __init__(self, folds: Iterable[tuple[Any, Any]]) -> None:
        if isinstance(folds, str | dict) or not isinstance(folds, Iterable):
            raise InputTypeError(f"Folds takes a list of pairs (pred_probs, rows), not {type(folds).__name__}")
        self.folds = tuple(folds)
        if not self.folds:
            raise InvalidInputError("Folds takes at least one fold")
        for number, fold in enumerate(self.folds):
            if not isinstance(fold, tuple | list) or len(fold) != 2:
                raise InvalidInputError(f"fold {number} must be a pair (pred_probs, rows), not {type(fold).__name__}")

    def __len__(self) -> int:
        return len(self.folds)

    def __repr__(self) -> str:
        """Return the number of folds."""
        return f"<{len(self)} Folds>"


class FoldsSource(CompositeSource):
    """Rows of several sources, each row from the fold that has it.

    Parameters
    ----------
    folds : sequence of Source
        The arrays of the folds, in ascending order of their rows.
    fold_of_row : (N,) uint
        Number of the fold that has each row.
    origins : sequence of int, optional
        For each fold, the number of its rows before row 0; 0 by default.
    """

    def __init__(self, folds: Sequence[Source], fold_of_row: Ints, origins: Sequence[int] | None = None) -> None:
        dtype = np.result_type(*(fold.dtype for fold in folds)).newbyteorder("=")
        # A batch has rows of all folds, so a thread holds the chunk that is in use of each.
        super().__init__(folds, (len(fold_of_row), *folds[0].shape[1:]), dtype, [0] * len(folds))
        self.fold_of_row, self.origins = fold_of_row, tuple(origins or [0] * len(folds))
        self.read_row_bytes = max(fold.read_row_bytes for fold in folds)

    @classmethod
    def checked(cls, folds: Sequence[Source], rows: Sequence[Source]) -> FoldsSource:
        """Compare the folds, and read their row numbers.

        Parameters
        ----------
        folds : sequence of Source
            The arrays of the folds.
        rows : sequence of Source
            The row numbers of each.

        Raises
        ------
        InvalidInputError
            For folds of different numbers of classes, and rows that are missing, out of range, out of order or given
            twice.
        """
        names = [f"fold {number} ({fold.where})" for number, fold in enumerate(folds)]
        n_classes = folds[0].shape[1]
        for name, fold, numbers in zip(names, folds, rows, strict=True):
            if fold.shape[1] != n_classes:
                raise InvalidInputError(f"{names[0]} has {n_classes} classes, {name} has {fold.shape[1]}")
            if fold.n_rows != numbers.n_rows:
                raise InvalidInputError(f"{name} has {fold.n_rows:,} rows and {numbers.n_rows:,} row numbers")
        n_rows = sum(fold.n_rows for fold in folds)
        # The last number stands for no fold.
        none = len(folds)
        fold_of_row = np.full(n_rows, none, np.min_scalar_type(none))
        _check_range(rows, names, n_rows)
        for number, numbers in enumerate(rows):
            _place(number, numbers, fold_of_row, names)
        return cls(folds, fold_of_row)

    @property
    def where(self) -> str:
        """The places of the folds."""
        return f"folds {', '.join(fold.where for fold in self.children)}"

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the folds that have rows ``[start, stop)``, and which rows of each."""
        bounds = zip(self.origins, self.counts_before(start), self.counts_before(stop), strict=True)
        return [(number, origin + a, origin + b) for number, (origin, a, b) in enumerate(bounds) if a < b]

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open the folds that have rows in the range."""
        return _FoldRows(self, start, self.n_rows if stop is None else min(stop, self.n_rows))

    def identity(self) -> dict[str, Any]:
        """Return the identities of the folds, and a digest of the row numbers."""
        folds = [fold.identity() for fold in self.children]
        return super().identity() | {"folds": folds, "rows": self._spread(0, self.n_rows)}

    def _content(self) -> str | None:
        known = all(fold.identity()["content"] is not None for fold in self.children)
        return "of the folds" if known else None

    def _spread(self, start: int, stop: int) -> str:
        """Return a digest of which rows of which folds are rows ``[start, stop)``."""
        found = hashlib.blake2b(self.fold_of_row[start:stop].tobytes(), digest_size=16)
        for begin, end in zip(self.counts_before(start), self.counts_before(stop), strict=True):
            found.update(f" {begin} {end} ".encode())
        return found.hexdigest()

    def _digest(self, start: int, stop: int, parts: Sequence[str]) -> str:
        return _hashed(json.dumps(["folds", start, stop, parts, self._spread(start, stop)]))

    def counts_before(self, row: int) -> list[int]:
        """Return the number of rows before `row` that each fold has."""
        block = row // _COUNTED
        counts: list[int] = (self._counts[block] + self._counted(block * _COUNTED, row)).tolist()
        return counts

    @cached_property
    def _counts(self) -> Int64s:
        """For each block of rows, the number of rows of each fold before it, so that all need not be counted again."""
        blocks = [self._counted(start, start + _COUNTED) for start in range(0, self.n_rows, _COUNTED)]
        return np.cumsum([np.zeros(len(self.children), np.int64), *blocks], axis=0)

    def _counted(self, start: int, stop: int) -> Int64s:
        return np.bincount(self.fold_of_row[start:stop], minlength=len(self.children))

    def missing_rows(self) -> None:
        """Return None: rows whose chunks are not stored are found as they are read."""

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return the folds with the places of these rows only."""
        folds, origins = list[Source](), list[int]()
        bounds = zip(self.children, self.origins, self.counts_before(start), self.counts_before(stop), strict=True)
        for fold, origin, a, b in bounds:
            part, begin = fold.part(origin + a, origin + b)
            folds.append(part)
            origins.append(origin + a - begin)
        return FoldsSource(folds, self.fold_of_row[start:stop], origins), start


class _FoldRows(Rows):
    """Rows of all folds, each from where it is."""

    def __init__(self, source: FoldsSource, start: int, stop: int) -> None:
        super().__init__(source)
        self._source = source
        with ExitStack() as stack:
            self._open = {
                number: stack.enter_context(source.children[number].open(first, last))
                for number, first, last in source.pieces(start, stop)
            }
            self._stack = stack.pop_all()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        fold_of_row, out = self._source.fold_of_row[start:stop], self._reused(stop - start)
        for number, first, last in self._source.pieces(start, stop):
            if number not in self._open:
                self._open[number] = self._stack.enter_context(self._source.children[number].open())
            places: Any = slice(None)
            if last - first < len(out):
                places = np.flatnonzero(fold_of_row == number)
                if places[-1] - places[0] == last - first - 1:
                    places = slice(places[0], places[-1] + 1)
            out[places] = self._open[number].read(first, last)
        return out

    def close(self) -> None:
        self._stack.close()


def _pieces(numbers: Source) -> Iterator[npt.NDArray[Any]]:
    step = max(numbers.facts.row_chunk or 1, _STEP)
    with numbers.open(0, numbers.n_rows) as opened:
        for start in range(0, numbers.n_rows, step):
            yield opened.read(start, min(start + step, numbers.n_rows))


def _check_range(rows: Sequence[Source], names: Sequence[str], n_rows: int) -> None:
    """Raise unless all row numbers are 0..N-1, where N is how many there are. Then none is missing if none repeats."""
    for name, numbers in zip(names, rows, strict=True):
        for piece in _pieces(numbers):
            outside = (piece < 0) | (piece >= n_rows)
            if outside.any():
                raise InvalidInputError(
                    f"{name} has row number {int(piece[outside][0])}, and all folds together have {n_rows:,} rows, so "
                    f"that these are 0..{n_rows - 1}{_missing(rows, n_rows)}"
                )


def _missing(rows: Sequence[Source], n_rows: int) -> str:
    """Return which of the first rows are in no fold, in words."""
    found = np.zeros(n_rows, np.bool_)
    for numbers in rows:
        for piece in _pieces(numbers):
            found[piece[(piece >= 0) & (piece < n_rows)]] = True
    return "" if found.all() else f": no fold has {_numbers_in_words(np.flatnonzero(~found))}"


def _place(number: int, numbers: Source, fold_of_row: Ints, names: Sequence[str]) -> None:
    """Note the rows of a fold in `fold_of_row`; raise if some are taken, or if their numbers do not ascend."""
    n_seen, last, descents, n_descents = 0, -1, "", 0
    for piece in _pieces(numbers):
        rows = piece.astype(np.int64)
        taken = fold_of_row[rows] != len(names)
        if taken.any():
            other = int(fold_of_row[rows[taken][0]])
            where = names[number] if other == number else f"{names[other]} and {names[number]}"
            raise InvalidInputError(f"rows are given twice: {_numbers_in_words(rows[taken])} in {where}")
        fold_of_row[rows] = number
        lower = np.flatnonzero(np.diff(rows, prepend=last) <= 0)
        if len(lower):
            unique, counts = np.unique(rows, return_counts=True)
            if len(unique) < len(rows):
                repeated = _numbers_in_words(unique[counts > 1])
                raise InvalidInputError(f"rows are given twice: {repeated} in {names[number]}")
            before = last if lower[0] == 0 else int(rows[lower[0] - 1])
            descents = descents or f"its row {n_seen + lower[0]:,} has number {rows[lower[0]]} after {before}"
        n_seen, last, n_descents = n_seen + len(rows), int(rows[-1]), n_descents + len(lower)
    if n_descents:
        times = f", the first of {n_descents:,} such rows" if n_descents > 1 else ""
        raise InvalidInputError(
            f"the row numbers of {names[number]} do not ascend: {descents}{times}. Sort the fold: "
            "order = np.argsort(rows), and give (pred_probs[order], rows[order])"
        )


def _numbers_in_words(rows: Ints) -> str:
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_NAMED].tolist()))}{more}"


def open_folds(folds: Folds, open_probs: Callable[[Any], Any], open_rows: Callable[[Any], Any]) -> FoldsSource:
    """Open all folds, and compare them.

    Parameters
    ----------
    folds : Folds
        As the user gave them.
    open_probs, open_rows : callable
        Open the probabilities and the row numbers of a fold.
    """
    arrays, numbers = list[Source](), list[Source]()
    for number, (pred_probs, rows) in enumerate(folds.folds):
        with located(f"fold {number}"):
            opened, given = open_probs(pred_probs), open_rows(rows)
            if not isinstance(opened, Source) or not isinstance(given, Source):
                raise InvalidInputError("a fold cannot be a Dask array: store it (da.to_zarr) and give the path")
            if given.ndim != 1 or given.dtype.kind not in "iu":
                raise InvalidInputError(
                    f"rows must be one axis of integers, not {given.dtype} of shape {tuple(given.shape)}; of a mask "
                    "take np.flatnonzero(mask)"
                )
            arrays.append(opened)
            numbers.append(given)
    return FoldsSource.checked(arrays, numbers)


# The sum of the weights; beyond these, products would lose digits or become infinite.
_LEAST_WEIGHT: Final = 1e-200
_MOST_WEIGHT: Final = 1e200
# Bytes of all members up to which rows are read in whole stored chunks of every member.
_WHOLE_CHUNK_BYTES: Final = 48_000_000
# A strip of a member, and copies of its rows.
_STRIP_COPIES: Final = 3


class Ensemble:
    """The mean of several models' predicted probabilities, as `pred_probs`.

    Each member is read once in each pass, in the same tasks, and the mean is never stored. Rows of a member that cannot
    be a distribution are an error that names the member. On 49 real datasets with known errors, the mean of several
    models found wrong labels as well as the best single model, and much better than a typical one;
    `docs/which_filter_and_score.md` has other measurements, in some of which the best one is a little better.

    The mean of the probabilities ``p`` with weights ``w`` is ``(w[0] * p[0] + w[1] * p[1] + ...) / (w[0] + w[1] +
    ...)``, in float64 and in the order of the members. So the result has the bits of a run on that array of means.

    Parameters
    ----------
    members : sequence of array-like
        At least one; each is anything that `find_label_issues` takes as ``(N, K)`` `pred_probs`: arrays, paths, URLs,
        lists of shards, `Folds`, but not a Dask array of your own. They have the same shape, and may differ in kind,
        dtype and chunks.
    weights : sequence of float or "accuracy", optional
        A weight of at least 0 for each member, at any scale; by default all are equal. With ``"accuracy"`` the weight
        of a member is the share of rows whose label it predicts, as in cleanlab's
        ``rank.get_label_quality_ensemble_scores``; that takes a pass of its own over all members.

    Raises
    ------
    InvalidInputError
        For no members, a path that is listed twice, and weights that are negative, not finite, all zero, or not one
        for each member.
    InputTypeError
        For members or weights of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> a = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> b = np.array([[0.7, 0.3], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.85, 0.15]])
    >>> labelsieve.Ensemble([a, b])
    <Ensemble of 2 members>
    >>> labelsieve.find_label_issues([0, 0, 1, 1, 1], labelsieve.Ensemble([a, b]))
    <LabelIssues: 1 of 5 rows (20.00%) in 2 classes; worst rows: 4>
    """

    def __init__(self, members: Iterable[Any], weights: Sequence[float] | Literal["accuracy"] | None = None) -> None:
        if isinstance(members, str | os.PathLike | dict | set) or not isinstance(members, Iterable):
            raise InputTypeError(f"Ensemble takes a list of pred_probs, not {type(members).__name__}")
        self.members = tuple(members)
        if not self.members:
            raise InvalidInputError("Ensemble takes at least one member")
        seen = dict[str, int]()
        for number, member in enumerate(self.members):
            if isinstance(member, str | os.PathLike):
                place = check_place("a member of Ensemble", member)
                if seen.setdefault(place, number) != number:
                    raise InvalidInputError(
                        f"members {seen[place]} and {number} of the ensemble are both {without_query(place)}: give "
                        "weights if one counts more than others"
                    )
        self.weights = _checked_weights(weights, len(self.members))

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        """Return the number of members."""
        weighted = "" if self.weights is None else f" with weights {self.weights!r}"
        return f"<Ensemble of {len(self)} member{'s' if len(self) > 1 else ''}{weighted}>"


def _checked_weights(weights: Any, n_members: int) -> tuple[float, ...] | Literal["accuracy"] | None:
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "accuracy":
            raise InvalidInputError(f'weights must be numbers or "accuracy", not {weights!r}')
        return "accuracy"
    try:
        found = list(weights)
    except TypeError:
        raise InputTypeError(f"weights must be a list of numbers, not {type(weights).__name__}") from None
    if len(found) != n_members:
        raise InvalidInputError(f"{len(found)} weights for {n_members} members of the ensemble: give one for each")
    for number, weight in enumerate(found):
        if isinstance(weight, bool | np.bool_) or not isinstance(weight, Real):
            raise InputTypeError(f"weight {number} of the ensemble must be a number, not {weight!r}")
        if not 0 <= float(weight) < math.inf:
            raise InvalidInputError(f"weight {number} of the ensemble must be finite and at least 0, not {weight!r}")
    checked = tuple(map(float, found))
    if not _LEAST_WEIGHT <= sum(checked) <= _MOST_WEIGHT:
        raise InvalidInputError(
            f"the weights of the ensemble add up to {sum(checked):g}; the sum must be positive, from "
            f"{_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}"
        )
    return checked


def check_members(names: Sequence[str], shapes: Sequence[Sequence[int]]) -> None:
    """Raise unless all members of an ensemble have the same shape.

    Raises
    ------
    InvalidInputError
        Naming the first member and those that differ from it.
    """
    shapes = [tuple(shape) for shape in shapes]
    differing = [f"{name} has {shape}" for name, shape in zip(names, shapes, strict=True) if shape != shapes[0]]
    if differing:
        raise InvalidInputError(
            f"the members of an ensemble must have the same rows and classes, but {names[0]} has shape {shapes[0]}, "
            f"{', '.join(differing)}"
        )


def member_name(number: int, where: str) -> str:
    """Name a member for messages."""
    return f"member {number} of the ensemble ({where})"


class EnsembleSource(CompositeSource):
    """The mean of several sources.

    `row_bytes` counts all members, or the float64 mean where that is more. The stored row chunk is a multiple of those
    of all members if that is small, and otherwise the largest: the chunks of other members are then cut by some reads,
    and kept for the next read.

    Parameters
    ----------
    members : sequence of Source
        Of the same number of classes.
    weights : tuple of float, "accuracy" or None
        Weights; those by accuracy are not known yet.
    names : sequence of str, optional
        Names of the members, for messages.
    begins : sequence of int, optional
        For each member, the row of the ensemble at which it begins; 0 by default.
    n_rows : int, optional
        Number of rows; by default all of the first member.
    """

    summarizer = EnsembleSummarizer

    def __init__(
        self,
        members: Sequence[Source],
        weights: tuple[float, ...] | Literal["accuracy"] | None,
        names: Sequence[str] | None = None,
        begins: Sequence[int] | None = None,
        n_rows: int | None = None,
    ) -> None:
        first, self.weights = members[0], weights
        shape = (first.n_rows if n_rows is None else n_rows, *first.shape[1:])
        super().__init__(members, shape, np.float64, begins or [0] * len(members))
        self.names = tuple(names or (member_name(i, member.where) for i, member in enumerate(members)))
        self.row_bytes = max(self.row_bytes, sum(member.row_bytes for member in members))
        self.read_row_bytes = sum(member.read_row_bytes for member in members)
        # The members are read one after the other, and long reads are faster, until strips leave the cache. Three
        # members took 3.4 times the wall time of one model with strips of 2.7 MB, 3.6 times with 4 MB, and 4.4 times
        # where all shared a strip (400,000 x 500 float32).
        self.strip_row_bytes = 3 * max(member.row_bytes for member in members) // 2
        common = math.lcm(*(member.facts.row_chunk or 1 for member in members))
        # The strips of all members beyond the one that every source has.
        strips = _STRIP_COPIES * max(0, self.row_bytes - self.strip_row_bytes) * STRIP_BYTES // self.strip_row_bytes
        self.facts = replace(
            self.facts,
            row_chunk=self.facts.row_chunk
            and (common if common * self.row_bytes <= _WHOLE_CHUNK_BYTES else self.facts.row_chunk),
            decoding_bytes=self.facts.decoding_bytes + strips,
            decoding_note=self.facts.decoding_note or f"strips of {len(members)} members",
        )
        listed = [member.listed_at for member in members]
        if all(listed):
            self.listed_at = self._named(map(str, listed))

    @property
    def mean(self) -> EnsembleMean:
        """How the members are averaged."""
        if isinstance(self.weights, str):
            raise InvalidInputError(
                f"the weights of {self.where} are not known: only find_label_issues and the functions of "
                "labelsieve.count compute weights='accuracy'; give numbers"
            )
        dtype = np.result_type(np.float32, *(member.dtype for member in self.children))
        return EnsembleMean(self.names, self.weights, dtype)

    @property
    def where(self) -> str:
        """The places of the members."""
        return self._named(member.where for member in self.children)

    def _named(self, places: Iterable[str]) -> str:
        weighted = "" if self.weights is None else f", weights {self.weights}"
        return f"the mean of {', '.join(places)}{weighted}"

    @property
    def arrays(self) -> Sequence[Source]:
        """An ensemble for each stored array, if the members are divided into arrays in the same way."""
        arrays = [member.arrays for member in self.children]
        sizes = {tuple(array.n_rows for array in some) for some in arrays}
        if any(self.begins) or len(sizes) > 1 or len(arrays[0]) == 1:
            return [self]
        return [EnsembleSource(some, self.weights, self.names) for some in zip(*arrays, strict=True)]

    def with_weights(self, weights: tuple[float, ...]) -> EnsembleSource:
        """Return the same members with other weights."""
        return EnsembleSource(self.children, weights, self.names, self.begins, self.n_rows)

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the same rows of all members."""
        return [(number, start - begin, stop - begin) for number, begin in enumerate(self.begins)]

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open all members, to read their mean."""
        return _MeanRows(self, start, stop, raw=False)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open all members, to read `MemberRows`."""
        return _MeanRows(self, start, stop, raw=True)

    def identity(self) -> dict[str, Any]:
        """Return the identities of the members, and the weights."""
        members = [member.identity() for member in self.children]
        known = all(member["content"] is not None for member in members)
        return {
            "kind": type(self).__name__,
            "where": self.where,
            "dtype": self.dtype.str,
            "weights": list(self.weights) if isinstance(self.weights, tuple) else self.weights,
            "members": members,
            "content": "of the members" if known else None,
        }

    @property
    def derivation(self) -> list[Any]:
        """The mean, and what is computed from the stored rows of each member."""
        return [[type(self).__name__, self.weights, [member.derivation for member in self.children]]]

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have versions of their own in all members."""
        rows = [member.version_rows for member in self.children]
        return None if any(self.begins) or not all(rows) else math.lcm(*(one or 1 for one in rows))

    def _digest(self, start: int, stop: int, parts: Sequence[str]) -> str:  # noqa: ARG002
        return _hashed(json.dumps(["ensemble", self.weights, parts]))

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return an ensemble of the parts of the members that hold these rows."""
        parts = [self.children[number].part(first, last) for number, first, last in self.pieces(start, stop)]
        begins = [begin + origin - start for begin, (_, origin) in zip(self.begins, parts, strict=True)]
        return EnsembleSource([part for part, _ in parts], self.weights, self.names, begins, stop - start), start


class _MeanRows(Rows):
    """All members of an ensemble, open to read their mean or, if `raw`, `MemberRows`."""

    def __init__(self, source: EnsembleSource, start: int, stop: int | None, *, raw: bool) -> None:
        super().__init__(source)
        self._source, self._mean, self._raw = source, source.mean, raw
        with ExitStack() as stack:
            self._members = [
                stack.enter_context(member.open(start - begin, None if stop is None else stop - begin))
                for member, begin in zip(source.children, source.begins, strict=True)
            ]
            self._stack = stack.pop_all()

    def read(self, start: int, stop: int) -> Any:
        rows = _LazyRows(self._members, [(first, last) for _, first, last in self._source.pieces(start, stop)])
        return (
            MemberRows(rows, stop - start, self._mean) if self._raw else self._mean.of(rows, self._reused(stop - start))
        )

    def close(self) -> None:
        """Close all members."""
        self._stack.close()


class _LazyRows(Sequence[npt.NDArray[Any]]):
    """The rows of each member, read when they are first taken, so that they are in the cache then."""

    def __init__(self, members: Sequence[Rows], ranges: Sequence[tuple[int, int]]) -> None:
        self._members, self._ranges = members, ranges
        self._read: list[npt.NDArray[Any] | None] = [None] * len(members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> npt.NDArray[Any]:  # type: ignore[override]  # one at a time
        found = self._read[index]
        if found is None:
            found = self._read[index] = self._members[index].read(*self._ranges[index])
        return found


class WrappedSource(Source):
    """Rows that come from another source, whose versions and places are theirs.

    Parameters
    ----------
    source : Source
        What is stored.
    shape : tuple of int
        ``(N,)`` or ``(N, K)``.
    dtype : dtype
        Dtype of the rows.

    Attributes
    ----------
    source : Source
        What is stored.
    """

    def __init__(self, source: Source, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        super().__init__(shape, dtype)
        self._follow(source)

    def _follow(self, source: Source) -> None:
        """Take the facts about reading from `source`."""
        self.source, self.facts, self.row_edges = source, source.facts, source.row_edges
        self.fill_value, self.listed_at, self.class_columns = source.fill_value, source.listed_at, source.class_columns

    def parameters(self) -> dict[str, Any]:
        """Return what the computed rows depend on, besides the stored rows, as JSON takes it."""
        return {}

    @property
    def derivation(self) -> list[Any]:
        """What is computed from the stored rows, the last step first."""
        return [[type(self).__name__, self.parameters()], *self.source.derivation]

    def over(self, source: Source) -> Self:
        """Return the same conversion of another source."""
        other = copy.copy(self)
        other._follow(source)  # noqa: SLF001  # of the same class
        return other

    @property
    def where(self) -> str:
        """Path or URL of the stored rows."""
        return self.source.where

    def identity(self) -> dict[str, Any]:
        """Return the identity of the stored rows, which may grow, and what is computed from them."""
        stored = self.source.identity()
        facts = super().identity() | {"stored": stored, "parameters": self.parameters()}
        if "shape" in stored:
            return facts
        grows = {name: fact for name, fact in facts.items() if name not in ("shape", "row_chunk")}
        return grows | {"row_shape": list(self.shape[1:])}

    def _content(self) -> Any:
        return self.source.identity()["content"]

    def note_version(self) -> None:
        """Note the version of what is stored."""
        self.source.note_version()

    def check_version(self) -> None:
        """Compare the version of what is stored."""
        self.source.check_version()

    def reachable(self) -> None:
        """Raise unless this process can open what is stored."""
        self.source.reachable()


class DerivedSource(WrappedSource):
    """Rows that are computed from the same rows of another source.

    A subclass says what is computed, in `convert`, and with which parameters, in `parameters`.

    Parameters
    ----------
    source : Source
        Where the rows are stored.
    dtype : dtype
        Dtype of the computed rows.
    """

    def __init__(self, source: Source, dtype: npt.DTypeLike) -> None:
        super().__init__(source, source.shape, dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.shape, self.read_row_bytes = source.shape, source.read_row_bytes

    @abc.abstractmethod
    def convert(
        self, rows: npt.NDArray[Any], first_row: int, buffer: Callable[[int], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Return the computed rows.

        Parameters
        ----------
        rows : (n, ...) array
            Stored rows; read-only, and valid only during the call.
        first_row : int
            Number of the first of them in `source`, for messages.
        buffer : callable
            Returns memory for so many computed rows, the same each time.
        """

    @property
    def arrays(self) -> Sequence[Source]:
        """The same conversion of each stored array."""
        arrays = self.source.arrays
        return [self] if len(arrays) == 1 else [self.over(array) for array in arrays]

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _DerivedRows(self, self.source.open(start, stop))

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have a version of their own."""
        return self.source.version_rows

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return the digests of the stored rows. What is computed from them is in `identity`."""
        return self.source.part_identities(ranges)

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored."""
        return self.source.missing_rows()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that holds these rows, and the row at which it begins."""
        source, origin = self.source.part(start, stop)
        return self.over(source), origin


class InnerRows(Rows):
    """Rows that are made of those of another open source."""

    def __init__(self, source: Source, rows: Rows) -> None:
        super().__init__(source)
        self._rows = rows

    def close(self) -> None:
        """Close the other source."""
        self._rows.close()


class _DerivedRows(InnerRows):
    def __init__(self, source: DerivedSource, rows: Rows) -> None:
        super().__init__(source, rows)
        self._source = source

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._source.convert(self._rows.read(start, stop), start, self._reused)


_NAME: Final = "bfloat16"
_NARROW: Final = ("float8_", "float6_", "float4_")
# Values that are widened at a time, so that they stay in the cache.
_BLOCK_VALUES: Final = 1 << 17


def check_dtype(dtype: Any) -> str | None:
    """Return the name of a dtype that a user gave for `pred_probs`.

    Parameters
    ----------
    dtype : object
        None or bfloat16: the name, or the type of ``ml_dtypes``, JAX or PyTorch.

    Raises
    ------
    InvalidInputError
        For any other dtype, which the data itself states.
    """
    if dtype is None:
        return None
    name = str(getattr(dtype, "name", getattr(dtype, "__name__", dtype))).removeprefix("torch.")
    if name == _NAME:
        return _NAME
    refuse_narrow("dtype", name)
    raise InvalidInputError(
        f"dtype={dtype!r}: give dtype='bfloat16' for pred_probs whose bits are stored as integers or void; any other "
        "dtype is known from the data"
    )


def widened(opened: Any, dtype: str | None = None) -> Any:
    """Return opened `pred_probs` of another dtype than NumPy's floats: bfloat16 as float32, others as they are.

    Parameters
    ----------
    opened : Source or dask.array.Array
        As opened.
    dtype : "bfloat16", optional
        What values of 16 bits are.

    Raises
    ------
    InvalidInputError
        For values in float8 and the like, for raw bits without `dtype`, and for values that cannot be bfloat16.
    """
    stored: np.dtype[Any] = opened.dtype
    if stored.name == _NAME or (dtype == _NAME and stored.itemsize == 2 and stored.kind in "Vui"):
        if isinstance(opened, Source):
            return Bfloat16Source(opened)
        return opened.map_blocks(widened_bits, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    refuse_narrow("pred_probs", stored.name)
    if stored.kind == "V" and stored.itemsize in (1, 2) and stored.names is None:
        kind = "bfloat16, give dtype='bfloat16'"
        if stored.itemsize == 1:
            kind = "float8, convert them before they are saved"
        raise InvalidInputError(
            f"pred_probs is stored as {8 * stored.itemsize} bits without a dtype: if they are {kind}"
        )
    if dtype is not None and "Bfloat16Source" not in str(getattr(opened, "derivation", "")):
        raise InvalidInputError(
            f"dtype='bfloat16', but pred_probs is {stored}, not 16 bits without a dtype: leave dtype out"
        )
    return opened


def refuse_narrow(name: str, dtype: str) -> None:
    """Raise if the name of a dtype, of `name` for messages, is that of float8 or narrower."""
    if dtype.startswith(_NARROW):
        raise InvalidInputError(
            f"{name} is {dtype}, which has too few bits for probabilities: at most 16 different ones between 0.5 and "
            "1. Predict in a wider dtype, or take pred_probs.astype(np.float32) to use these values all the same"
        )


def _widen(bits: npt.NDArray[Any], out: Floats) -> Floats:
    """Copy the bits of bfloat16 values to the upper halves of float32 values."""
    # Of void, which has no byte order, the bytes are those of a little-endian file.
    bits = bits.view("<u2" if bits.dtype.kind == "V" else bits.dtype.str.replace("i", "u"))
    step = max(1, _BLOCK_VALUES // max(1, int(np.prod(bits.shape[1:]))))
    upper = out.view(np.uint32)
    for start in range(0, len(bits), step):
        some = upper[start : start + step]
        np.copyto(some, bits[start : start + step])
        np.left_shift(some, 16, out=some)
    return out


def widened_bits(block: npt.NDArray[Any]) -> Floats:
    """Return a block of bfloat16 values, or of their bits, in float32."""
    return _widen(np.asarray(block), np.empty(block.shape, np.float32))


class UnitRows(WrappedSource):
    """Rows of which each row of another source makes `unit_rows`: the pixels of images, the tags of examples."""

    unit_rows: int

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.facts = self.facts.times(self.unit_rows)
        self.row_edges = None if source.row_edges is None else source.row_edges * self.unit_rows

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have a version of their own."""
        return self.source.version_rows and self.source.version_rows * self.unit_rows

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range: those of its units, and where in them it begins and ends."""
        units, parameters = [self.units_of(*rows) for rows in ranges], [one for one in [self.parameters()] if one]
        found = []
        for (start, stop), (first, _), one in zip(ranges, units, self.source.part_identities(units), strict=True):
            fact = json.dumps([start - first * self.unit_rows, stop - start, *parameters, one]).encode()
            found.append(one and hashlib.blake2b(fact, digest_size=16).hexdigest())
        return found

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source of the units that hold these rows, and the row at which it begins."""
        source, origin = self.source.part(*self.units_of(start, stop))
        return self.over(source), origin * self.unit_rows

    def units_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of rows of the other source that make rows ``[start, stop)``."""
        return start // self.unit_rows, -(-stop // self.unit_rows)


class Bfloat16Source(DerivedSource):
    """Values in float32 of stored bfloat16.

    Parameters
    ----------
    source : Source
        ``(N, K)`` values of 16 bits: bfloat16, void, or integers.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float32)

    def convert(self, rows: npt.NDArray[Any], _: int, buffer: Callable[[int], Floats]) -> Floats:
        """Return the values in float32."""
        return _widen(rows, buffer(len(rows)))


def softmax_blocks(array: da.Array, *, allow_zero_rows: bool = False) -> da.Array:
    """Return the probabilities of a user's Dask array of logits whose chunks span all classes.

    Rows without probabilities are NaN, and rows of zeros stay rows of zeros unless these are accepted, so that the
    first pass reports them.
    """
    keywords = {"allow_zero_rows": allow_zero_rows}
    found: da.Array = array.map_blocks(_softmax_block, dtype=np.float64, meta=np.empty((0, 0)), **keywords)
    return found


def _softmax_block(block: Any, *, allow_zero_rows: bool) -> Float64s:
    if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
        raise InvalidInputError("a block of the Dask array pred_probs has masked values: drop or fill them first")
    logits = np.asarray(block)
    probs = softmax(logits)
    if not allow_zero_rows:
        probs[~logits.any(axis=1)] = 0
    return probs


class LogitsSource(DerivedSource):
    """Probabilities in float64 of stored logits.

    Parameters
    ----------
    source : Source
        ``(N, K)`` logits.
    """

    summarizer = LogitSummarizer

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float64)

    def convert(self, rows: npt.NDArray[Any], _: int, buffer: Callable[[int], Float64s]) -> Float64s:
        """Return the probabilities of the rows."""
        return softmax(rows, buffer(len(rows)))

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open the logits themselves, which `LogitSummarizer` takes."""
        return self.source.open(start, stop)


class DaskRows(Source):
    """The rows of a user's Dask array, which each task computes for itself, chunk by chunk.

    Parameters
    ----------
    array : dask.array.Array
        Of known chunks.
    """

    def __init__(self, array: da.Array) -> None:
        super().__init__(array.shape, array.dtype, ReadFacts(max(array.chunks[0], default=1), in_pieces=False))
        self._array = array
        self.row_edges = np.unique(np.cumsum([n for n in array.chunks[0] if n], dtype=np.int64))

    @property
    def where(self) -> str:
        """What it is."""
        return "a Dask array"

    def _content(self) -> str:
        """Return the name of the array, which says what it computes."""
        return str(self._array.name)

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return these rows alone: a task is not sent the graph of all others."""
        return DaskRows(self._array[start:stop]), start

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # computed when they are read
        """Open for reading."""
        return _DaskReader(self, self._array)


class _DaskReader(Rows):
    def __init__(self, source: DaskRows, array: da.Array) -> None:
        super().__init__(source)
        self._array = array

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        # In the thread of the task, which the scheduler has counted already.
        block = self._array[start:stop].compute(scheduler="synchronous")
        if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
            raise InvalidInputError("a block of the Dask array has masked values: drop or fill them first")
        return np.asarray(block)
