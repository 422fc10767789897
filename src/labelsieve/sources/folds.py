"""Out-of-sample predictions that lie in one array for each fold, put in the order of the dataset as they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Int64s, Ints
from labelsieve.errors import InputTypeError, InvalidInputError, located, warn
from labelsieve.sources.base import Rows, Source

# Row numbers that are read at a time.
_STEP: Final = 1 << 20
# Rows of a block whose folds are counted again and again.
_COUNTED: Final = 1 << 16
# Rows that a message names.
_NAMED: Final = 5


class Folds:
    """Out-of-sample predictions of cross-validation, one array for each fold, as `pred_probs`.

    Together the folds hold each row of the dataset once. They are read where they are, in the order of the dataset,
    and never joined.

    Parameters
    ----------
    folds : sequence of (array-like, array-like)
        For each fold, its ``(n, K)`` `pred_probs`, which is anything that `find_label_issues` takes except a Dask array
        of your own, and the ``(n,)`` numbers of its rows in the dataset: an array, a list, or a path. A fold whose row
        numbers ascend, as scikit-learn's do, is read from front to back. In any other order each row is read by
        itself, which is slow for arrays in compressed chunks, and warned of.

    Raises
    ------
    InvalidInputError
        For no folds, or an item that is not a pair. Rows that are missing, out of range or given twice are errors that
        name rows and folds, when the folds are opened.

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


def fold_name(number: int, where: str) -> str:
    """Name a fold for messages."""
    return f"fold {number} ({where})"


class FoldsSource(Source):
    """Rows of several sources, each row from the fold that has it.

    Parameters
    ----------
    folds : sequence of Source
        The arrays of the folds.
    fold_of_row : (N,) uint
        Number of the fold that has each row.
    orders : sequence of array or None
        For each fold, the place in its array of each of its rows, in ascending order of the rows; None where that is
        the order of the array.
    begins : sequence of int, optional
        For each fold, the number of its rows before row 0; 0 by default.
    """

    def __init__(
        self,
        folds: Sequence[Source],
        fold_of_row: Ints,
        orders: Sequence[Ints | None],
        begins: Sequence[int] | None = None,
    ) -> None:
        dtype = np.result_type(*(fold.dtype for fold in folds)).newbyteorder("=")
        super().__init__((len(fold_of_row), *folds[0].shape[1:]), dtype)
        self.folds, self.fold_of_row, self.orders = tuple(folds), fold_of_row, tuple(orders)
        self.begins = tuple(begins or [0] * len(folds))
        # A batch has rows of all folds, so a thread holds the chunk that is in use of each.
        self.row_chunk = max((fold.row_chunk or 0 for fold in folds), default=0) or None
        self.in_pieces = all(fold.in_pieces for fold in folds)
        self.in_memory = any(fold.in_memory for fold in folds)
        self.is_encoded = any(fold.is_encoded for fold in folds)
        self.prefetch_bytes = sum(fold.prefetch_bytes for fold in folds)
        self.decoding_bytes = sum(fold.decoding_bytes for fold in folds)
        self.decoding_note = next((fold.decoding_note for fold in folds if fold.decoding_note), "")
        self.request_rows, self.n_side_by_side = folds[0].request_rows, folds[0].n_side_by_side

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
            For folds of different numbers of classes, and rows that are missing, out of range or given twice.
        """
        names = [fold_name(number, fold.where) for number, fold in enumerate(folds)]
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
        orders = list[Ints | None]()
        _check_range(rows, names, n_rows)
        for number, (fold, numbers) in enumerate(zip(folds, rows, strict=True)):
            ascends = _place(number, numbers, fold_of_row, names)
            orders.append(None if ascends else _order(numbers))
            if not ascends and fold.row_chunk:
                warn(
                    f"the row numbers of {names[number]} do not ascend, so its stored chunks of {fold.row_chunk:,} "
                    "rows are decoded again and again: store its rows in ascending order of their numbers"
                )
        return cls(folds, fold_of_row, orders)

    @property
    def where(self) -> str:
        """The places of the folds."""
        return f"folds {', '.join(fold.where for fold in self.folds)}"

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a stored row, of the widest fold."""
        return max(fold.read_row_bytes for fold in self.folds)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open the folds that have rows in the range."""
        return _FoldRows(self, start, self.n_rows if stop is None else min(stop, self.n_rows))

    def identity(self) -> dict[str, Any]:
        """Return the identities of the folds, and a digest of the row numbers."""
        facts = super().identity()
        return facts | {"folds": [fold.identity() for fold in self.folds], "rows": self._digest(0, self.n_rows)}

    def _content(self) -> str | None:
        known = all(fold.identity()["content"] is not None for fold in self.folds)
        return "of the folds" if known else None

    def _digest(self, start: int, stop: int) -> str:
        """Return a digest of which places of which folds have rows ``[start, stop)``."""
        found = hashlib.blake2b(self.fold_of_row[start:stop].tobytes(), digest_size=16)
        first, last = self.counts(0, start), self.counts(0, stop)
        for order, begin, end in zip(self.orders, first, last, strict=True):
            found.update(f" {begin} {end} ".encode() + (b"" if order is None else order[begin:end].tobytes()))
        return found.hexdigest()

    def counts(self, start: int, stop: int) -> list[int]:
        """Return the number of rows ``[start, stop)`` that each fold has."""
        counts: list[int] = (self._counts_before(stop) - self._counts_before(start)).tolist()
        return counts

    def _counts_before(self, row: int) -> Int64s:
        block = row // _COUNTED
        counts: Int64s = self._counts[block] + self._counted(block * _COUNTED, row)
        return counts

    @cached_property
    def _counts(self) -> Int64s:
        """For each block of rows, the number of rows of each fold before it, so that all need not be counted again."""
        blocks = [self._counted(start, start + _COUNTED) for start in range(0, self.n_rows, _COUNTED)]
        return np.cumsum([np.zeros(len(self.folds), np.int64), *blocks], axis=0)

    def _counted(self, start: int, stop: int) -> Int64s:
        return np.bincount(self.fold_of_row[start:stop], minlength=len(self.folds))

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range over the rows of the folds that it has, and their places."""
        found = []
        for start, stop in ranges:
            bounds = zip(self.counts(0, start), self.counts(0, stop), strict=True)
            some = [
                fold.part_identities([(first, last) if order is None else (0, fold.n_rows)])[0]
                for fold, order, (first, last) in zip(self.folds, self.orders, bounds, strict=True)
                if first < last
            ]
            facts = json.dumps(["folds", start, stop, some, self._digest(start, stop)]).encode()
            found.append(hashlib.blake2b(facts, digest_size=16).hexdigest() if all(some) else "")
        return found

    def note_version(self) -> None:
        """Note the versions of all folds."""
        for fold in self.folds:
            fold.note_version()

    def check_version(self) -> None:
        """Compare the versions of all folds."""
        for fold in self.folds:
            fold.check_version()

    def reachable(self) -> None:
        """Look for every fold."""
        for fold in self.folds:
            if not fold.in_memory:
                fold.reachable()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return the folds with the places of these rows only."""
        folds, orders, begins = list[Source](), list[Ints | None](), list[int]()
        before, counts = self.counts(0, start), self.counts(start, stop)
        for fold, order, begin, n_before, n in zip(self.folds, self.orders, self.begins, before, counts, strict=True):
            first = begin + n_before
            if order is None:
                inner, origin = fold.part(first, first + n)
                begins.append(first - origin)
                orders.append(None)
            else:
                some = order[first : first + n]
                low, high = (int(some.min()), int(some.max()) + 1) if n else (0, 0)
                inner, origin = fold.part(low, high)
                begins.append(0)
                orders.append(some - some.dtype.type(origin))
            folds.append(inner)
        return FoldsSource(folds, self.fold_of_row[start:stop], orders, begins), start


class _FoldRows(Rows):
    """Rows of all folds, each from where it is."""

    def __init__(self, source: FoldsSource, start: int, stop: int) -> None:
        super().__init__(source)
        self._source, self._row = source, start
        # The number of rows of each fold before the next row to read, and what is open of it.
        self._next = [begin + n for begin, n in zip(source.begins, source.counts(0, start), strict=True)]
        counts = source.counts(start, stop)
        with ExitStack() as stack:
            self._open = [
                stack.enter_context(fold.open() if order is not None else fold.open(first, first + n)) if n else None
                for fold, order, first, n in zip(source.folds, source.orders, self._next, counts, strict=True)
            ]
            self._stack = stack.pop_all()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        self._seek(start)
        fold_of_row, out = self._source.fold_of_row[start:stop], self._reused(stop - start)
        for number, n in enumerate(self._source.counts(start, stop)):
            first = self._next[number]
            if not n:
                continue
            if self._open[number] is None:
                self._open[number] = self._stack.enter_context(self._source.folds[number].open())
            if n == len(out) and self._source.orders[number] is None:
                self._copy(number, first, out)
            else:
                places = np.flatnonzero(fold_of_row == number)
                if places[-1] - places[0] == n - 1:
                    self._copy(number, first, out[places[0] : places[-1] + 1])
                else:
                    out[places] = self._copy(number, first, np.empty((n, *out.shape[1:]), out.dtype))
            self._next[number] = first + n
        self._row = stop
        return out

    def _copy(self, number: int, first: int, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Read the rows of a fold from its row number `first` on to `out`, and return it."""
        rows, order = self._open[number], self._source.orders[number]
        if rows is None:
            raise RuntimeError("the fold is open")
        if order is None:
            out[...] = rows.read(first, first + len(out))
            return out
        places = order[first : first + len(out)].astype(np.int64)
        # In ascending order, so that neighbours are read together, and chunks that are kept are used again.
        ascending = np.argsort(places, kind="stable")
        edges = np.flatnonzero(np.diff(places[ascending]) != 1) + 1
        for some in np.split(ascending, edges):
            start = int(places[some[0]])
            out[some] = rows.read(start, start + len(some))
        return out

    def _seek(self, row: int) -> None:
        """Go to a row, which is the next one as a rule."""
        if row != self._row:
            low, high = sorted((row, self._row))
            sign = 1 if row > self._row else -1
            counts = self._source.counts(low, high)
            self._next = [first + sign * n for first, n in zip(self._next, counts, strict=True)]
            self._row = row

    def close(self) -> None:
        self._stack.close()


def _pieces(numbers: Source) -> Iterator[npt.NDArray[Any]]:
    step = max(numbers.row_chunk or 1, _STEP)
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


def _place(number: int, numbers: Source, fold_of_row: Ints, names: Sequence[str]) -> bool:
    """Note the rows of a fold in `fold_of_row`; return whether their numbers ascend."""
    ascends, last = True, -1
    for piece in _pieces(numbers):
        rows = piece.astype(np.int64)
        piece_ascends = bool(rows[0] > last and (np.diff(rows) > 0).all())
        ascends, last = ascends and piece_ascends, int(rows[-1])
        before = fold_of_row[rows]
        taken = before != len(names)
        if taken.any():
            other = int(before[taken][0])
            where = names[number] if other == number else f"{names[other]} and {names[number]}"
            raise InvalidInputError(f"rows are given twice: {_numbers_in_words(rows[taken])} in {where}")
        fold_of_row[rows] = number
        if not piece_ascends:
            unique, counts = np.unique(rows, return_counts=True)
            if len(unique) < len(rows):
                repeated = _numbers_in_words(unique[counts > 1])
                raise InvalidInputError(f"rows are given twice: {repeated} in {names[number]}")
    return ascends


def _order(numbers: Source) -> Ints:
    """Return the place of each row of a fold, in ascending order of the rows."""
    order = np.argsort(np.concatenate(list(map(np.array, _pieces(numbers)))), kind="stable")
    return order.astype(np.uint32) if len(order) < 1 << 32 else order


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
