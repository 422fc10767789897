"""A Dask array as a source: what reads its rows computes them."""

from __future__ import annotations

import abc
import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.derived import LogitSummarizer, softmax
from labelsieve.confident_learning.thresholds import Float64s, Floats, Int64s, Ints
from labelsieve.errors import InputTypeError, InvalidInputError, located, warn
from labelsieve.sources.source import MissingRows, Rows, Source

if TYPE_CHECKING:
    import dask.array as da


class DaskRows(Source):
    """The rows of a user's Dask array, which each task computes for itself, chunk by chunk.

    Parameters
    ----------
    array : dask.array.Array
        Of known chunks.
    """

    in_pieces = False

    def __init__(self, array: da.Array) -> None:
        super().__init__(array.shape, array.dtype, max(array.chunks[0], default=1))
        self._array = array

    @property
    def where(self) -> str:
        """What it is."""
        return "a Dask array"

    @property
    def row_edges(self) -> npt.NDArray[np.int64]:
        """The rows at which chunks end."""
        ends = np.cumsum(self._array.chunks[0], dtype=np.int64)
        return ends[np.diff(ends, prepend=0) > 0]

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
        super().__init__(shape, np.dtype(dtype), source.row_chunk)
        self._follow(source)

    def _follow(self, source: Source) -> None:
        """Take the facts about reading from `source`."""
        self.source, self.row_chunk = source, source.row_chunk
        self.in_pieces, self.in_memory = source.in_pieces, source.in_memory
        self.request_rows, self.n_side_by_side = source.request_rows, source.n_side_by_side
        self.prefetch_bytes, self.is_encoded = source.prefetch_bytes, source.is_encoded
        self.fill_value, self.listed_at = source.fill_value, source.listed_at
        self.forkable = source.forkable
        self.class_columns = source.class_columns
        self.decoding_bytes, self.decoding_note = source.decoding_bytes, source.decoding_note

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
        self.shape = source.shape

    @abc.abstractmethod
    def convert(self, rows: npt.NDArray[Any], first_row: int) -> npt.NDArray[Any]:
        """Return the computed rows.

        Parameters
        ----------
        rows : (n, ...) array
            Stored rows; read-only, and valid only during the call.
        first_row : int
            Number of the first of them in `source`, for messages.
        """

    @property
    def arrays(self) -> Sequence[Source]:
        """The same conversion of each stored array."""
        arrays = self.source.arrays
        return [self] if len(arrays) == 1 else [self.over(array) for array in arrays]

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self.source.read_row_bytes

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _DerivedRows(self, self.source.open(start, stop))

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:
        """Open to read the stored bytes alone."""
        return self.source.open_stored(start, stop, count)

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The rows at which what is decoded together ends."""
        return self.source.row_edges

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


class _DerivedRows(Rows):
    def __init__(self, source: DerivedSource, rows: Rows) -> None:
        super().__init__(source)
        self._source, self._rows = source, rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._source.convert(self._rows.read(start, stop), start)

    def close(self) -> None:
        self._rows.close()


_NAME: Final = "bfloat16"
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
    raise InvalidInputError(
        f"dtype={dtype!r}: give dtype='bfloat16' for pred_probs whose bits are stored as integers or void; any other "
        "dtype is known from the data" + (f". {_refusal(name)}" if _is_narrow(name) else "")
    )


def widened(opened: Any, dtype: str | None = None) -> Any:
    """Return opened `pred_probs` as float32 if they are bfloat16, otherwise as they are.

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
        return Bfloat16Source(opened) if isinstance(opened, Source) else _widened_blocks(opened)
    refuse_narrow("pred_probs", stored.name)
    if stored.kind == "V" and stored.itemsize in (1, 2) and stored.names is None:
        kind = "bfloat16, give dtype='bfloat16' (--dtype bfloat16)"
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
    """Raise if `dtype` is float8 or narrower.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    dtype : str
        Name of the dtype.
    """
    if _is_narrow(dtype):
        raise InvalidInputError(f"{name} is {dtype}. {_refusal(dtype)}")


def _is_narrow(name: str) -> bool:
    return name.startswith(("float8_", "float6_", "float4_"))


def _refusal(name: str) -> str:
    return (
        f"{name} has too few bits for probabilities: at most 16 different ones between 0.5 and 1. Predict in bfloat16 "
        "or a wider dtype, or take pred_probs.astype(np.float32) to use these values all the same"
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


def _widened_blocks(array: da.Array) -> da.Array:
    found: da.Array = array.map_blocks(widened_bits, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return found


class Bfloat16Source(DerivedSource):
    """Values in float32 of stored bfloat16.

    Parameters
    ----------
    source : Source
        ``(N, K)`` values of 16 bits: bfloat16, void, or integers.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float32)

    def convert(self, rows: npt.NDArray[Any], first_row: int) -> Floats:  # noqa: ARG002  # no messages
        """Return the values in float32."""
        return widened_bits(rows)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _WidenedRows(self, self.source.open(start, stop))


class _WidenedRows(Rows):
    def __init__(self, source: Bfloat16Source, rows: Rows) -> None:
        super().__init__(source)
        self._rows = rows

    def read(self, start: int, stop: int) -> Floats:
        return _widen(self._rows.read(start, stop), self._reused(stop - start))

    def close(self) -> None:
        self._rows.close()


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

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _SoftmaxRows(self, self.source.open(start, stop))

    def convert(self, rows: npt.NDArray[Any], first_row: int) -> Float64s:  # noqa: ARG002  # no messages
        """Return the probabilities of the rows."""
        return softmax(rows)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open the logits themselves, which `LogitSummarizer` takes."""
        return self.source.open(start, stop)


class _SoftmaxRows(Rows):
    def __init__(self, source: LogitsSource, rows: Rows) -> None:
        super().__init__(source)
        self._rows = rows

    def read(self, start: int, stop: int) -> Float64s:
        return softmax(self._rows.read(start, stop), self._reused(stop - start))

    def close(self) -> None:
        self._rows.close()


# Shards that are examined at the same time where each is a request.
_THREADS: Final = 16
# Shards that a message names.
_NAMED_SHARDS: Final = 10


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
                named = ", ".join(differing[:_NAMED_SHARDS])
                more = f", and {len(differing) - _NAMED_SHARDS:,} more differ" if len(differing) > _NAMED_SHARDS else ""
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
