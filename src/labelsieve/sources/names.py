"""Labels as people write them: names, True and False, and numbers among missing values.

A `NameTable` maps values to classes, a block at a time. `LabelNames` does that as its rows are read, so that labels in
files are never in memory as names; labels in memory are mapped at once, and a user's Dask array by its own tasks.

Names without a class are not an error here. They get the code `UNKNOWN`, which the first pass reports with all rows and
their number, whatever the chunks are; `describe_unknown` then reads the first of these rows again, for the message.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import Finding, rows_in_words
from labelsieve.confident_learning.thresholds import Ints
from labelsieve.errors import InvalidInputError
from labelsieve.options import NOTHING, IgnoreLabel
from labelsieve.sources.columns import class_columns as names_in_columns
from labelsieve.sources.composite import DerivedSource
from labelsieve.sources.open import ArraySource, Opened, checked_labels, open_any
from labelsieve.sources.places import are_places
from labelsieve.sources.source import Source

# Codes of rows without a label, and of names without a class.
IGNORED: Final = -1
UNKNOWN: Final = -2
# The same among integers that were converted from other numbers, where -1 is a value like any other.
_IGNORED_NUMBER: Final = int(np.iinfo(np.int64).min)
_UNKNOWN_NUMBER: Final = _IGNORED_NUMBER + 1
# Rows that are mapped at a time, so that what is made of them stays in cache.
_BLOCK_ROWS: Final = 1 << 15
# Most bits of a table of slots, and most hash functions that are tried to fill one.
_SLOT_BITS: Final = 21
_TRIES: Final = 64
# Names and rows in messages.
_NAMED: Final = 10
_UNKNOWN_NAMED: Final = 5
_READ_ROWS: Final = 1000
_BOOLEANS: Final = ("False", "True")
_MISSING_TYPES: Final = ("NAType", "NaTType")
_KINDS: Final = "USTOb"


def is_missing(value: object) -> bool:
    """Return whether a value stands for none: None, NaN, NaT, or the NA of pandas."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in _MISSING_TYPES


def text_of(value: object) -> str | None:
    """Return a name as text; None for what is not a name."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return str(value)
    return str(bool(value)) if isinstance(value, bool | np.bool_) else None


class NameTable:
    """Maps values of labels to classes.

    Parameters
    ----------
    names : sequence of str
        The names of the classes 0..K-1; () as long as they are not known.
    ignore_label : int, str, None or NOTHING
        The name that says that a row has no label; None for missing values.
    """

    def __init__(self, names: Sequence[str], ignore_label: IgnoreLabel = NOTHING) -> None:
        self.names, self.ignore_label = tuple(names), ignore_label
        # The code that says that a row has no label; None if each row has one.
        self.ignored = None if ignore_label is NOTHING else IGNORED
        self._codes: dict[Any, int] = {name: code for code, name in enumerate(self.names)}
        booleans = [self._codes.get(name, UNKNOWN) for name in _BOOLEANS]
        if UNKNOWN in booleans and len(self.names) == 2:
            booleans = [0, 1]  # two classes of any names
        if isinstance(ignore_label, int | str):
            self._codes[str(ignore_label)] = IGNORED
        self._of_boolean, self._finders = np.array(booleans, np.int32), dict[np.dtype[Any], _FixedWidth]()
        self._objects = self._codes | dict(zip((False, True), booleans, strict=True))

    def __dask_tokenize__(self) -> Any:
        return self.names, str(self.ignore_label)

    def parameters(self) -> dict[str, Any]:
        """Return what the codes depend on, besides the values, as JSON takes it."""
        return {"names": list(self.names), "ignored": [] if self.ignored is None else [self.ignore_label]}

    def codes(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Return the ``(n,)`` classes of ``(n,)`` values, `IGNORED`, or `UNKNOWN`."""
        if values.dtype.kind == "b":
            return self._of_boolean[values.astype(np.intp)]
        found = np.empty(len(values), np.int32)
        for start in range(0, len(values), _BLOCK_ROWS):
            block = values[start : start + _BLOCK_ROWS]
            codes = self._of_fixed(block) if values.dtype.kind in "US" else self._of_objects(block)
            found[start : start + _BLOCK_ROWS] = codes
        return found

    def _of_objects(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        items = values.tolist()
        try:
            codes = np.array([self._objects.get(item, UNKNOWN) for item in items], np.int32)
        except TypeError:  # a list among them, which has no hash
            codes = np.array([self._objects.get(text_of(item), UNKNOWN) for item in items], np.int32)
        for row in np.flatnonzero(codes == UNKNOWN).tolist():
            if self.ignore_label is None and is_missing(items[row]):
                codes[row] = IGNORED
            elif isinstance(items[row], bytes):
                codes[row] = self._codes.get(text_of(items[row]), UNKNOWN)
        return codes

    def _of_fixed(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        if not values.dtype.itemsize:
            values = values.astype(f"{values.dtype.kind}1")
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        finder = self._finders.get(values.dtype)
        if finder is None:
            finder = self._finders[values.dtype] = _FixedWidth(self._codes, values.dtype)
        return finder(values)

    def __reduce__(self) -> tuple[Any, ...]:
        return NameTable, (self.names, self.ignore_label)  # finders are made where they are needed


class _FixedWidth:
    """Finds text of fixed width: by a hash of its bytes, whose answer is then compared with the text itself.

    Parameters
    ----------
    codes : dict
        Code of each name.
    dtype : dtype
        Native dtype of the values, of kind U or S.
    """

    def __init__(self, codes: dict[Any, int], dtype: np.dtype[Any]) -> None:
        width = dtype.itemsize // (4 if dtype.kind == "U" else 1)
        known = {(name.encode() if dtype.kind == "S" else name): code for name, code in codes.items()}
        # NumPy would cut longer names, and drops NUL at their ends.
        nul = b"\0" if dtype.kind == "S" else "\0"
        known = {name: code for name, code in known.items() if len(name) <= width and not name.endswith(nul)}
        self._names = np.array(list(known), dtype)
        self._codes = np.array(list(known.values()), np.int32)
        if not known:
            return
        words = next(word for word in (np.uint64, np.uint32, np.uint8) if dtype.itemsize % np.dtype(word).itemsize == 0)
        self._word: np.dtype[Any] = np.dtype(words)
        n_bits = min(_SLOT_BITS, 2 * len(known).bit_length() + 1)
        self._shift = np.uint64(64 - n_bits)
        self._slots: Ints | None = None
        for seed in range(_TRIES):
            rng = np.random.default_rng(seed)
            n_words = dtype.itemsize // self._word.itemsize
            self._factors = rng.integers(0, 1 << 63, n_words, np.uint64) * np.uint64(2) + np.uint64(1)
            hashes = self._hashed(self._names)
            slots = hashes >> self._shift
            if len(np.unique(slots)) == len(known):
                self._slots = np.zeros(1 << n_bits, np.int32)
                self._slots[slots] = np.arange(len(known))
                return
        # So many names that some always share a slot.
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Return the codes of ``(n,)`` values."""
        if not len(self._names):
            return np.full(len(values), UNKNOWN, np.int32)
        hashes = self._hashed(values)
        if self._slots is not None:
            places = self._slots[hashes >> self._shift]
        else:
            places = self._order[np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)]
        codes: npt.NDArray[np.int32] = np.where(self._names[places] == values, self._codes[places], np.int32(UNKNOWN))
        return codes

    def _hashed(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        words = values.view(self._word).reshape(len(values), -1)
        total = np.zeros(len(values), np.uint64)
        for place, factor in enumerate(self._factors):
            total += words[:, place] * factor
        return total


class FloatTable:
    """Maps whole numbers among NaN, as pandas stores integers with missing values, to integers."""

    names: tuple[str, ...] = ()
    ignored: int | None = _IGNORED_NUMBER

    def __dask_tokenize__(self) -> Any:
        return "whole numbers"

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers depend on, besides the values."""
        return {}

    def codes(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return ``(n,)`` integers: a number of its own for NaN, and one for what is not a whole number."""
        wide = values.astype(np.float64)
        whole = np.abs(wide) < 1 << 62
        whole &= np.floor(wide) == wide
        found = np.full(len(values), _UNKNOWN_NUMBER, np.int64)
        found[whole] = wide[whole].astype(np.int64)
        found[np.isnan(wide)] = _IGNORED_NUMBER
        return found


Table = NameTable | FloatTable


class LabelNames(DerivedSource):
    """Labels whose values are mapped to classes as they are read.

    Parameters
    ----------
    source : Source
        ``(N,)`` values.
    table : NameTable or FloatTable
        Maps them.
    """

    def __init__(self, source: Source, table: Table) -> None:
        super().__init__(source, np.int32 if isinstance(table, NameTable) else np.int64)
        self.table, self.ignored, self.fill_value = table, table.ignored, source.fill_value

    def convert(self, rows: npt.NDArray[Any], *_: object) -> npt.NDArray[Any]:
        """Return the classes of the rows."""
        return self.table.codes(rows)

    def parameters(self) -> dict[str, Any]:
        """Return the names."""
        return self.table.parameters()

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return digests of the stored rows and of the names."""
        facts = json.dumps(self.parameters()).encode()
        return [
            one and hashlib.blake2b(one.encode() + facts, digest_size=16).hexdigest()
            for one in super().part_identities(ranges)
        ]


def open_label_values(labels: Any, ignore_label: IgnoreLabel = NOTHING) -> Opened:
    """Open labels of any kind; nothing is read but headers.

    Returns
    -------
    Source or dask.array.Array
        Integers, with `Source.ignored` where missing values were replaced; or values for `mapped`, of kind U, S, T, O,
        b or f.

    Raises
    ------
    InvalidInputError
        For labels that are neither, and for missing values unless `ignore_label` is None.
    InputTypeError
        For an object of the wrong kind.
    """
    skip = ignore_label is None
    is_masked = isinstance(labels, np.ma.MaskedArray)
    values = None if is_masked and not skip else _values_in_memory(labels)
    opened = None if values is None else _narrowed(values, skip=skip)
    if opened is not None:
        return opened
    found = open_any("labels", labels)
    return found if len(found.shape) == 1 and found.dtype.kind in _KINDS + "f" * skip else checked_labels(found)


def _values_in_memory(labels: Any) -> npt.NDArray[Any] | None:
    """Return the values of labels in memory that may be names, or be missing; None for all else."""
    package = type(labels).__module__.partition(".")[0]
    if package == "xarray":
        labels = getattr(labels, "data", labels)
    if package == "pandas":
        return _of_pandas(labels)
    if package in ("polars", "pyarrow") and hasattr(labels, "null_count"):
        return _of_list(labels.to_list() if package == "polars" else labels.to_pylist())
    if isinstance(labels, list | tuple) and labels and not are_places(labels):
        nested = any(isinstance(item, list | tuple | set | dict | np.ndarray) for item in labels)
        return None if nested else _of_list(labels)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or isinstance(labels, np.memmap):
        return None
    if isinstance(labels, np.ma.MaskedArray):
        values = np.array(labels.data, object)
        values[np.ma.getmaskarray(labels)] = None
        return values if np.ma.is_masked(labels) else None
    return labels if labels.dtype.kind in _KINDS + "f" else None


def _of_pandas(labels: Any) -> npt.NDArray[Any] | None:
    """Return the values of a column, index or categorical of pandas."""
    if getattr(labels, "ndim", 1) == 2 and hasattr(labels, "iloc") and labels.shape[1] == 1:
        labels = labels.iloc[:, 0]
    if getattr(labels, "ndim", 2) != 1:
        return None
    kind = getattr(labels.dtype, "kind", "O")
    if kind in "iu" and not np.asarray(labels.isna()).any():
        return None
    return np.asarray(labels, None if kind in "fb" and isinstance(labels.dtype, np.dtype) else object)


def _of_list(items: Sequence[Any]) -> npt.NDArray[Any]:
    values = np.empty(len(items), object)
    values[:] = items
    return values


def _narrowed(values: npt.NDArray[Any], *, skip: bool) -> Source | None:
    """Return values in memory, of kind U, S, T, O, b or f, as names or integers; None for those that are neither.

    With `skip` missing values are ignored.
    """
    if values.dtype.kind == "f":
        return mapped_array(values, FloatTable()) if skip else None
    return ArraySource(values) if values.dtype.kind in "USb" else _of_objects(values, skip=skip)


def _of_objects(values: npt.NDArray[Any], *, skip: bool) -> Source | None:
    items = values.tolist()
    types = set(map(type, items))
    gone = np.zeros(len(items), np.bool_)
    if any(kind is type(None) or issubclass(kind, float) or kind.__name__ in _MISSING_TYPES for kind in types):
        gone = np.fromiter(map(is_missing, items), np.bool_, len(items))
        types = {type(item) for item, missing in zip(items, gone.tolist(), strict=True) if not missing}
    names = all(issubclass(kind, str | bytes | bool | np.bool_) for kind in types)
    numbers = all(issubclass(kind, int | float | np.integer | np.floating) and kind is not bool for kind in types)
    if (names or numbers) and gone.any() and not skip:
        many = rows_in_words(int(np.count_nonzero(gone)), "missing value", "missing values")
        raise InvalidInputError(
            f"labels has {many}: drop these rows or label them, or give ignore_label=None to leave them out"
        )
    if not numbers:
        return ArraySource(values) if names else None
    if not gone.any():
        return None
    if any(issubclass(kind, float | np.floating) for kind in types):
        floats = [math.nan if missing else float(item) for item, missing in zip(items, gone, strict=True)]
        return mapped_array(np.array(floats), FloatTable())
    found = ArraySource(
        np.array([_IGNORED_NUMBER if missing else int(one) for one, missing in zip(items, gone, strict=True)])
    )
    found.ignored = _IGNORED_NUMBER
    return found


def mapped_array(values: npt.NDArray[Any], table: Table) -> ArraySource:
    """Return values in memory, mapped to classes."""
    found = ArraySource(table.codes(values))
    found.ignored = table.ignored
    return found


def mapped(opened: Opened, table: Table) -> Opened:
    """Return labels of other values as classes."""
    if isinstance(opened, ArraySource):
        return mapped_array(opened.array, table)
    if isinstance(opened, Source):
        return LabelNames(opened, table)
    dtype = np.int32 if isinstance(table, NameTable) else np.int64
    return opened.map_blocks(_codes_of, table, dtype=dtype, meta=np.empty(0, dtype))


def _codes_of(block: npt.NDArray[Any], table: Table) -> npt.NDArray[Any]:
    return table.codes(np.asarray(block))


def column_names(pred_probs: Any) -> tuple[str, ...] | None:
    """Return the names of the columns of a pandas table; None if not all are text."""
    is_pandas = type(pred_probs).__module__.partition(".")[0] == "pandas"
    names = list(getattr(pred_probs, "columns", ())) if is_pandas else []
    return tuple(names) if names and all(isinstance(name, str) for name in names) else None


def category_names(labels: Any) -> tuple[str, ...] | None:
    """Return the categories of labels in memory, if they are texts; None of anything else.

    These are categories of pandas, an Enum of Polars, and ordered dictionaries of Arrow. Other dictionaries are in the
    order in which names came up, which says nothing.
    """
    package, dtype = type(labels).__module__.partition(".")[0], getattr(labels, "dtype", None)
    categories: Any = ()
    if package == "pandas" or (package == "polars" and str(dtype).startswith("Enum")):
        categories = getattr(dtype, "categories", ())
    elif package == "pyarrow" and getattr(getattr(labels, "type", None), "ordered", False):
        chunks = getattr(labels, "chunks", [labels])
        categories = chunks[0].dictionary.to_pylist() if chunks else ()
    names = list(categories)
    return tuple(names) if names and all(isinstance(name, str) for name in names) else None


def learn_names(
    opened: Opened,
    n_classes: int,
    ignore_label: IgnoreLabel = NOTHING,
    columns: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    class_columns: Sequence[Sequence[str]] = (),
) -> tuple[str, ...]:
    """Return the names of all classes, in order: those of the columns, or those that labels have, sorted.

    Parameters
    ----------
    opened : Source or dask.array.Array
        Values of labels; all of them are read.
    n_classes : int
        Number of classes K.
    ignore_label : int, str, None or NOTHING
        The name that says that a row has no label.
    columns : sequence of str, optional
        The names of the columns of `pred_probs`.
    categories : sequence of str, optional
        The categories of the labels, in their order.
    class_columns : sequence of sequence of str
        What the columns of a table may call the classes: several readings.

    Raises
    ------
    InvalidInputError
        If the labels have not K names, or names whose order is in doubt.
    """
    known = set(_BOOLEANS) if opened.dtype.kind == "b" else _distinct(opened, n_classes, ignore_label)
    readings = () if columns is None else (tuple(columns), *names_in_columns(columns))
    read = next((tuple(names) for names in (*readings, *class_columns) if known <= set(names)), None)
    if read is not None:
        return read
    if known <= set(_BOOLEANS) and n_classes == 2 and opened.dtype.kind in "bO":
        return _BOOLEANS
    give = "give class_names, in the order of the columns of pred_probs"
    if class_columns:
        raise InvalidInputError(
            f"labels have the names {_listed(sorted(known))}, columns of pred_probs {_listed(class_columns[0])}: {give}"
        )
    if categories is not None and len(categories) == n_classes:
        if list(categories) != sorted(categories):
            raise InvalidInputError(
                f"the categories of labels are in the order {_listed(categories)}, which is not the sorted one, so it "
                f"is in doubt which class each is: {give}"
            )
        return tuple(categories)
    names = sorted(known)
    if len(names) != n_classes:
        found = f"{rows_in_words(len(names), 'distinct name', 'distinct names')} ({_listed(names)})"
        if len(names) > n_classes:
            found = f"more than {n_classes:,} distinct names, such as {', '.join(map(repr, names[:_UNKNOWN_NAMED]))}"
        raise InvalidInputError(f"labels have {found}; pred_probs has {n_classes:,} classes: {give}")
    if all(name.isdecimal() for name in names) and sorted(names, key=int) != names:
        raise InvalidInputError(
            f"labels are numbers written as text ({_listed(names)}), whose order is in doubt: give them as integers, "
            f"or {give}"
        )
    return tuple(names)


def _distinct(opened: Opened, n_classes: int, ignore_label: IgnoreLabel) -> set[str]:
    """Return the distinct names among labels; a few more than K if there are more."""
    known, table = set[str](), NameTable((), ignore_label)
    for values in _pieces(opened):
        # Nearly all are known after the first piece; so only those that are not are compared one by one.
        unknown = values[table.codes(values) == UNKNOWN]
        if not len(unknown):
            continue
        texts = {text_of(value) for value in unknown.tolist() if not is_missing(value)}
        known |= {text for text in texts if text is not None}
        if len(known) > n_classes:
            break
        table = NameTable(sorted(known), ignore_label)
    return known


def _pieces(opened: Opened) -> Iterator[npt.NDArray[Any]]:
    if not isinstance(opened, Source):
        for block in opened.blocks:
            yield np.asarray(block)
        return
    step = opened.facts.row_chunk or _BLOCK_ROWS
    with opened.open(0, opened.n_rows) as rows:
        for start in range(0, opened.n_rows, step):
            yield rows.read(start, min(start + step, opened.n_rows))


def describe_unknown(opened: Opened, names: Sequence[str], found: Finding) -> str:
    """Return a sentence on labels that are not class names: how many, where, which, and the nearest names.

    Parameters
    ----------
    opened : Source or dask.array.Array
        Values of labels.
    names : sequence of str
        The names of all classes; () where labels are numbers.
    found : Finding
        The rows.
    """
    values: dict[str, object] = {}
    for start, stop in found.ranges:
        rows = opened[start : min(stop, start + _READ_ROWS)]
        for value in np.asarray(rows).tolist():
            values.setdefault(repr(value), value)
    one, several = ("a class name", "class names") if names else ("a class", "classes")
    many = rows_in_words(found.n_rows, f"label is not {one}", f"labels are not {several}")
    shown = [_with_nearest(value, names) for value in list(values.values())[:_UNKNOWN_NAMED]]
    more = f", and {len(values) - _UNKNOWN_NAMED:,} more" if len(values) > _UNKNOWN_NAMED else ""
    text = f"{many}, in {found.where()}: {', '.join(shown)}{more}"
    if any(map(is_missing, values.values())):
        return f"{text}. To leave out rows with missing labels: ignore_label=None"
    return f"{text}. The names are {_listed(names)}" if names else text


def _with_nearest(value: object, names: Sequence[str]) -> str:
    if is_missing(value):
        return "a missing value"
    text = text_of(value)
    if text is None:
        return repr(value)
    lower = {name.lower(): name for name in names}
    nearest = [lower[name] for name in difflib.get_close_matches(text.strip().lower(), list(lower), 1)]
    return f"{text!r} (nearest: {nearest[0]!r})" if nearest else repr(text)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return shown + (f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def mapping_note(names: Sequence[str]) -> str:
    """Return a sentence on which class each name is."""
    shown = ", ".join(f"{name!r} is {code}" for code, name in enumerate(names[:_NAMED]))
    more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"Labels are names, taken in this order as the columns of pred_probs: {shown}{more}."


# Text that a spreadsheet takes for a formula, with any apostrophes before it.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def as_text(text: str) -> str:
    """Return text that can be written anywhere: lone surrogates, as in names of files, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_formula(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets an apostrophe before it, except
    numbers. So does such text with apostrophes before it: `unescape_formula` restores every text.

    Examples
    --------
    >>> [escape_formula(text) for text in ("=1+1", "-5", "-a", "'=1+1", "'tis", "cat")]
    ["'=1+1", '-5', "'-a", "''=1+1", "'tis", 'cat']
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape_formula(text: str) -> str:
    """Return the text that `escape_formula` turned into the text of a CSV cell.

    Examples
    --------
    >>> [unescape_formula(text) for text in ("'=1+1", "-5", "''=1+1", "'tis")]
    ['=1+1', '-5', "'=1+1", "'tis"]
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def cell_text(value: Any) -> str:
    """Return a cell of a frame as text: among missing values, a frame has whole numbers as floats.

    Examples
    --------
    >>> cell_text(3.0), cell_text(2.5), cell_text("cat")
    ('3', '2.5', 'cat')
    """
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a text file. They end with ``\n`` or ``\r\n``, and with nothing else."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.read().split("\n")
    last = lines.pop()  # the text after the last line feed
    return [line.removesuffix("\r") for line in lines] + [last] * (last != "")
