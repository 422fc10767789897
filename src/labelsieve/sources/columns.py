"""Columns of tables: which ones are meant, what they may hold, and the NumPy arrays of their Arrow arrays."""

from __future__ import annotations

import fnmatch
import os.path
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.errors import (
    InputTypeError,
    InvalidInputError,
    LabelsieveError,
    MissingDependencyError,
    UnreadableDataError,
)
from labelsieve.sources.npy import RemoteFile
from labelsieve.sources.source import FileVersion, Source, check_path, file_version
from labelsieve.storage.folder import RangedFile

# Columns and rows that a message names.
_MOST_COLUMNS: Final = 12
_MOST_ROWS: Final = 3
# Columns that are made rows together: up to twice as fast as one by one, and as all together.
_GROUP_COLUMNS: Final = 32


def arrow() -> Any:
    """Return pyarrow.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingDependencyError("Reading tables", "parquet") from error
    return pa


def choose_columns(name: str, wanted: Any, names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the columns that the user means.

    Parameters
    ----------
    name : str
        ``labels``, ``pred_probs`` or ``ids``, for messages.
    wanted : str or sequence of str
        A column, or, for `pred_probs`, a pattern such as ``"p_*"`` or a list of columns, one for each class. Columns
        that a pattern matches are in the order of the table; those that differ in a number are in the order of the
        numbers.
    names : sequence of str
        The columns of the table.
    where : str
        The table, for messages.

    Raises
    ------
    InvalidInputError
        For a missing column. The message has the nearest name, and the columns of the table.
    InputTypeError
        For anything but strings.
    """
    several = isinstance(wanted, list | tuple) and name == "pred_probs"
    columns = list(wanted) if several else [wanted]
    if not columns or not all(isinstance(column, str) for column in columns):
        kinds = "a column, a list of columns, or a pattern such as 'p_*'" if name == "pred_probs" else "a column"
        raise InputTypeError(f"{name} must name {kinds} of {where}, not {wanted!r}")
    if not several and name == "pred_probs" and wanted not in names and any(letter in wanted for letter in "*?["):
        return _matching(wanted, names, where)
    count = Counter(columns)
    for column, times in count.items():
        if times > 1:
            raise InvalidInputError(f"{name}: column {column!r} is listed {times} times")
        if names.count(column) != 1:
            raise InvalidInputError(f"{name}: {missing_column(column, names, where)}")
    return tuple(columns)


def _matching(pattern: str, names: Sequence[str], where: str) -> tuple[str, ...]:
    matches = [column for column in names if fnmatch.fnmatchcase(column, pattern)]
    if not matches:
        raise InvalidInputError(f"pred_probs: no column of {where} matches {pattern!r}: it has {_listed(names)}")
    head, star, tail = pattern.partition("*")
    if not star or any(letter in head + tail for letter in "*?["):
        return tuple(matches)
    varying = [column[len(head) : len(column) - len(tail)] for column in matches]
    if not all(part.isdecimal() for part in varying):
        return tuple(matches)
    by_number = sorted(zip(map(int, varying), matches, strict=True))
    numbers = [number for number, _ in by_number]
    gap = next((n for n in range(numbers[0], numbers[0] + len(numbers)) if n not in numbers), None)
    if gap is not None:
        raise InvalidInputError(
            f"pred_probs: {pattern!r} matches {len(matches):,} columns of {where}, numbered {numbers[0]} to "
            f"{numbers[-1]}, but not {head}{gap}{tail}: give the columns as a list, in the order of the classes"
        )
    return tuple(column for _, column in by_number)


def missing_column(column: str, names: Sequence[str], where: str, others: Sequence[str] = ()) -> str:
    """Return a sentence on a column that a table does not have once.

    Parameters
    ----------
    column : str
        The column.
    names : sequence of str
        The columns of the table.
    where : str
        The table.
    others : sequence of str
        Other columns that are needed, which are not what the user may have meant.
    """
    if column in names:
        return f"{where} has {list(names).count(column)} columns called {column!r}"
    texts = [str(name) for name in names if name not in others]
    close = get_close_matches(column, texts, 1) or [name for name in texts if name.lower() == column.lower()]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{where} has no column {column!r}.{hint} It has {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no columns"
    more = f" and {len(names) - _MOST_COLUMNS:,} more" if len(names) > _MOST_COLUMNS else ""
    return ("the columns " if len(names) != 1 else "the column ") + ", ".join(map(str, names[:_MOST_COLUMNS])) + more


@dataclass(frozen=True)
class Columns:
    """One or more columns of a table as one array.

    Parameters
    ----------
    name : str
        ``labels``, ``pred_probs`` or ``ids``, for messages.
    columns : tuple of str
        Names of the columns.
    dtype : dtype
        Of the array; text has NumPy's ``StringDType``.
    width : int or None
        Number of classes K of an ``(N, K)`` array; None for an ``(N,)`` array.
    in_lists : bool
        Whether a row is a list in one column, rather than a value in each of several columns.
    where : str
        The table, for messages.
    with_nulls : bool
        Whether a value may be null: None in text and among objects, NaN among numbers.
    of_items : bool
        Whether the column has lists whose items are the rows: labels of sentences, or their probabilities.
    """

    name: str
    columns: tuple[str, ...]
    dtype: np.dtype[Any]
    width: int | None
    in_lists: bool
    where: str
    with_nulls: bool = False
    of_items: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return () if self.width is None else (self.width,)

    @property
    def class_columns(self) -> tuple[tuple[str, ...], ...]:
        """What the columns may call the classes: their names, with and without what all of these begin or end with."""
        return class_columns(self.columns) if self.width is not None and not self.in_lists else ()

    def to_numpy(self, arrays: Sequence[Any], first_row: int) -> npt.NDArray[Any]:
        """Return the rows of Arrow arrays, without a copy where there can be one array without one.

        Parameters
        ----------
        arrays : sequence of pyarrow.Array
            One for each column, of the same length.
        first_row : int
            Number of their first row, or item, for messages.

        Raises
        ------
        InvalidInputError
            Naming rows with nulls, or with lists of another length.
        """
        pa = arrow()
        arrays = [list_items(array) for array in arrays] if self.of_items else arrays
        arrays = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in arrays]
        if self.in_lists:
            return self._of_lists(arrays[0], first_row)
        values = [self._of_values(array, first_row, column) for array, column in zip(arrays, self.columns, strict=True)]
        if self.width is None:
            return values[0]
        rows: npt.NDArray[Any] = np.empty((len(values[0]), self.width), self.dtype)
        group: npt.NDArray[Any] = np.empty((min(self.width, _GROUP_COLUMNS), len(rows)), self.dtype)
        for first in range(0, self.width, _GROUP_COLUMNS):
            some = values[first : first + _GROUP_COLUMNS]
            for place, one in zip(group, some, strict=False):
                place[:] = one
            rows[:, first : first + len(some)] = group[: len(some)].T
        return rows

    def _of_values(self, array: Any, first_row: int, column: str) -> npt.NDArray[Any]:
        pa = arrow()
        if isinstance(array.type, pa.DictionaryType):
            array = decoded(array)
        if array.null_count and not self.with_nulls:
            self._refuse_nulls(array.is_null(), first_row, f"nulls in column {column!r}")
        if self.dtype.kind == "T":
            return np.array(array.to_pylist(), self.dtype)
        if not self.with_nulls:
            return _values(array)
        values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return values.astype(self.dtype, copy=False)

    def _of_lists(self, array: Any, first_row: int) -> npt.NDArray[Any]:
        [column], width = self.columns, self.width or 0
        if array.null_count:
            self._refuse_nulls(array.is_null(), first_row, f"nulls in column {column!r}")
        if not isinstance(array.type, arrow().FixedSizeListType):
            lengths = np.diff(_values(array.offsets))
            wrong = np.flatnonzero(lengths != width)
            if len(wrong):
                row = first_row + int(wrong[0])
                raise InvalidInputError(
                    f"{self.name}: the lists in column {column!r} of {self.where} differ in length: row {row:,} has "
                    f"{lengths[wrong[0]]:,} values, others have {width:,}"
                ).at([(row, row + 1)])
        values = list_items(array)
        values = values.dictionary_decode() if isinstance(values.type, arrow().DictionaryType) else values
        if values.null_count:
            self._refuse_nulls(values.is_null(), first_row, f"nulls in the lists of column {column!r}", width)
        return _values(values).reshape(len(array), width)

    def _refuse_nulls(self, are_null: Any, first_row: int, what: str, width: int = 1) -> None:
        """Raise if there are nulls among values, of which each row has `width`."""
        rows = np.unique(np.flatnonzero(are_null.to_numpy(zero_copy_only=False)) // width) + first_row
        some = ", ".join(f"{row:,}" for row in rows[:_MOST_ROWS].tolist())
        several = f"rows {some}" if len(rows) > 1 else f"row {some}"
        more = f" and at least {len(rows) - _MOST_ROWS:,} more" if len(rows) > _MOST_ROWS else ""
        raise InvalidInputError(
            f"{self.name}: {what} of {self.where}, in {several}{more}: fill them, or leave out these rows"
        ).at([(int(row), int(row) + 1) for row in rows[:_MOST_ROWS]])


def decoded(array: Any) -> Any:
    """Return the values of an array with a dictionary, in one chunk or several."""
    pa = arrow()
    if isinstance(array, pa.ChunkedArray):
        return pa.chunked_array([decoded(chunk) for chunk in array.chunks], array.type.value_type)
    if array.dictionary.type == pa.string_view():  # of Polars; pyarrow does not decode it
        names = pa.array(array.dictionary.to_pylist(), pa.large_string())
        array = pa.DictionaryArray.from_arrays(array.indices, names)
    return array.dictionary_decode()


def list_columns_of(
    name: str, column: str, schema: Any, where: str, inner_width: Callable[[str], int], *, with_nulls: bool
) -> Columns:
    """Return the items of a column of lists as rows, after a look at their type; as `columns_of` does.

    `inner_width` returns the length of the lists in the lists of a column, given its name.
    """
    [column] = choose_columns(name, [column] if name == "pred_probs" else column, schema.names, where)
    flat = arrow().schema({column: _checked_list(name, schema.field(column).type, where).value_type})
    return columns_of(name, column, flat, where, inner_width, with_nulls=with_nulls)


def _checked_list(name: str, kind: Any, where: str) -> Any:
    """Return the type of a column, or raise unless it is one of lists."""
    pa = arrow()
    if not isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        items = "labels" if name == "labels" else "lists of K numbers"
        raise InvalidInputError(
            f"{name}: the column of {where} has the type {kind}; with a row for each sentence it has lists of {items}; "
            "if the table has a row for each token, give offsets or sentence_ids"
        )
    return kind


def list_lengths(name: str, array: Any, first_list: int, where: str) -> npt.NDArray[np.int64]:
    """Return the lengths of the lists of an Arrow array, of which the first is number `first_list` of the table.

    Raises
    ------
    InvalidInputError
        For a column of another type, and if there is a null in place of a list.
    """
    kind = _checked_list(name, array.type, where)
    if array.null_count:
        nulls = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)) + first_list
        raise InvalidInputError(
            f"{name} of {where} has a null in place of a list in {len(nulls):,} sentences, the first is sentence "
            f"{nulls[0]:,}: give empty lists, or leave out these sentences"
        )
    if isinstance(kind, arrow().FixedSizeListType):
        return np.full(len(array), kind.list_size, np.int64)
    return np.diff(_values(array.offsets)).astype(np.int64)


def list_items(array: Any) -> Any:
    """Return the items of the lists of an Arrow array without nulls, without a copy."""
    if isinstance(array.type, arrow().FixedSizeListType):
        size = array.type.list_size
        return array.values.slice(array.offset * size, len(array) * size)
    if not len(array):
        return array.values.slice(0, 0)
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    return array.values.slice(first, last - first)


def _values(array: Any) -> npt.NDArray[Any]:
    """Return the values of an array of numbers without nulls; those that are not bits without a copy.

    ``to_numpy`` of pyarrow would import pandas, which takes half a second.
    """
    pa = arrow()
    if pa.types.is_boolean(array.type) or not len(array):
        copied: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return copied
    dtype = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def class_columns(columns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return what columns, one for each class, may call the classes.

    These are the names of the columns, and these without a beginning or an end that all have, up to a character that is
    neither a letter nor a digit. There are none if the columns are only numbered.

    Examples
    --------
    >>> class_columns(["p_dog", "p_cat"])
    (('p_dog', 'p_cat'), ('dog', 'cat'))
    >>> class_columns(["p_0", "p_1"])
    ()
    """
    head = os.path.commonprefix(list(columns))  # noqa: RUF071  # letters, not paths
    tail = os.path.commonprefix([column[::-1] for column in columns])  # noqa: RUF071
    heads = [0, *(place + 1 for place, letter in enumerate(head) if not letter.isalnum())]
    tails = [0, *(place + 1 for place, letter in enumerate(tail) if not letter.isalnum())]
    found = [tuple(column[a : len(column) - b] for column in columns) for a in heads for b in tails]
    found = [names for names in dict.fromkeys(found) if all(names)]
    return () if any(all(name.isdecimal() for name in names) for names in found) else tuple(found)


def columns_of(
    name: str, wanted: Any, schema: Any, where: str, list_width: Callable[[str], int], *, with_nulls: bool = False
) -> Columns:
    """Return the columns of a table with a schema that the user means, after a look at their types.

    `list_width` returns the length of the lists in a column of lists of any length, given its name. With `with_nulls` a
    label or id may be null.

    Raises
    ------
    InvalidInputError
        For a missing column, and for one of a type that does not fit.
    """
    columns = choose_columns(name, wanted, schema.names, where)
    pa = arrow()
    types = [schema.field(column).type for column in columns]
    types = [kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind for kind in types]
    if name != "pred_probs":
        dtype = _value_dtype(name, columns[0], types[0], where)
        if with_nulls:
            text: np.dtype[Any] = np.dtypes.StringDType(na_object=None)
            dtype = {"T": text, "b": np.dtype(object)}.get(dtype.kind, np.dtype(np.float64))
        return Columns(name, columns, dtype, None, in_lists=False, where=where, with_nulls=with_nulls)
    list_types = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    if len(columns) == 1 and isinstance(types[0], list_types):
        dtype = _float_dtype(columns[0], types[0].value_type, types[0], where)
        fixed = isinstance(types[0], pa.FixedSizeListType)
        width = types[0].list_size if fixed else list_width(columns[0])
        return Columns(name, columns, dtype, int(width), in_lists=True, where=where)
    dtypes = [_float_dtype(column, kind, kind, where) for column, kind in zip(columns, types, strict=True)]
    if len(columns) == 1:
        raise InvalidInputError(
            f"pred_probs: column {columns[0]!r} of {where} holds one number in each row: give a column of lists, or "
            "one column for each class, as a list or as a pattern such as 'p_*'"
        )
    return Columns(name, columns, np.result_type(*dtypes), len(columns), in_lists=False, where=where)


def _value_dtype(name: str, column: str, kind: Any, where: str) -> np.dtype[Any]:
    """Return the dtype of a column of labels or ids."""
    pa = arrow()
    inner = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    if inner in (pa.string(), pa.large_string(), pa.string_view()):
        return np.dtype(np.dtypes.StringDType())
    if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
        dtype: np.dtype[Any] = np.dtype(inner.to_pandas_dtype())
        return dtype
    raise InvalidInputError(f"{name}: column {column!r} of {where} has the type {kind}, not integers or strings")


def _float_dtype(column: str, inner: Any, kind: Any, where: str) -> np.dtype[Any]:
    pa = arrow()
    inner = inner.value_type if isinstance(inner, pa.DictionaryType) else inner
    if pa.types.is_floating(inner):
        dtype: np.dtype[Any] = np.dtype(inner.to_pandas_dtype())
        return dtype
    hint = "; if these are counts or percentages, divide them by their sum" if pa.types.is_integer(inner) else ""
    hint = "; cast it to double" if pa.types.is_decimal(inner) else hint
    raise InvalidInputError(
        f"pred_probs: column {column!r} of {where} has the type {kind}: probabilities are float16, float32 or "
        f"float64, in lists or in one column for each class{hint}"
    )


def common_length(name: str, column: str, counts: Iterable[tuple[int, int]], where: str) -> int:
    """Return the length of the lists of a column: that of most parts. Reading finds the rows with another length.

    `counts` has the number of rows and of values of some parts of the column.
    """
    known = [(n_rows, n_values) for n_rows, n_values in counts if n_rows]
    if not known:
        raise InvalidInputError(f"{name}: {where} has no rows, so the length of the lists in {column!r} is unknown")
    whole = Counter(n_values // n_rows for n_rows, n_values in known if n_values % n_rows == 0)
    return whole.most_common(1)[0][0] if whole else round(known[0][1] / known[0][0])


@dataclass(frozen=True)
class LocalTableFile:
    """A file on a disk, at an absolute path, and its size, time and inode when it was found."""

    path: Path
    version: FileVersion | None

    is_remote = False

    @classmethod
    def at(cls, path: str) -> LocalTableFile:
        """Note the version of a file."""
        return cls(Path(path), file_version(Path(path)))

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def check(self) -> None:
        """Compare size, time and inode."""
        check_path(self.version, self.path)

    def content(self) -> Any:
        """Return size and time."""
        return self.version and {"size": self.version.size, "mtime_ns": self.version.mtime_ns}


# A file whose version is known. It is hashable, and pickles as its place.
TableFile: TypeAlias = LocalTableFile | RemoteFile


def open_file(file: TableFile) -> Any:
    """Open a file for pyarrow, and compare the version of one on a disk; reads of a remote one are requests."""
    if isinstance(file, RemoteFile):
        return arrow().PythonFile(RangedFile(file.read, file.size), mode="r")
    opened = arrow().OSFile(str(file.path), "rb")
    try:
        file.check()
    except BaseException:
        opened.close()
        raise
    return opened


class TableFileSource(Source):
    """Columns of one file of a table as an array. Its version was noted before its footer was read.

    Parameters
    ----------
    file : TableFile
        The file.
    columns : Columns
        Which columns, and how a row of them is read.
    group_rows : sequence of int
        Number of rows of each row group or record batch.

    Attributes
    ----------
    ends : (G,) int64
        The rows at which these end.
    """

    def __init__(self, file: TableFile, columns: Columns, group_rows: Sequence[int]) -> None:
        super().__init__((sum(group_rows), *columns.shape), columns.dtype)
        self.file, self.columns, self.class_columns = file, columns, columns.class_columns
        self.ends: npt.NDArray[np.int64] = np.cumsum(group_rows, dtype=np.int64)

    @property
    def where(self) -> str:
        """Path, or URL without secrets."""
        return self.file.where

    def identity(self) -> dict[str, Any]:
        """Return what every source returns, and the columns."""
        return super().identity() | {"columns": list(self.columns.columns)}

    def _content(self) -> Any:
        return self.file.content()

    def check_version(self) -> None:
        """Compare the version of the file."""
        self.file.check()


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Translate the errors of pyarrow into one that names the file, or the part of it, that cannot be read."""
    pa = arrow()
    try:
        yield
    except LabelsieveError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableDataError(f"{where} is not readable: {in_one_line(error)}") from error


def in_one_line(error: Exception) -> str:
    """Return the message of an error without the line ends that pyarrow puts in it."""
    return " ".join(str(error).split())
