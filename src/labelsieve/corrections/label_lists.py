"""Labels in lists, with some of them replaced: of the tokens of sentences, and the tags of examples.

A row is a token, one sentence after the other; or row ``example * K + tag`` says whether an example has a tag.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s, class_dtype
from labelsieve.corrections.label_arrays import ArrayLabels, SourceLabels, Values
from labelsieve.corrections.label_tables import ParquetLabels, only_column, open_parquet
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.columns import arrow, list_items, list_lengths
from labelsieve.sources.label_names import is_missing
from labelsieve.sources.tags import open_lists
from labelsieve.sources.tokens import ends, join_labels

# Lists that are read, changed and written at a time.
_BLOCK_LISTS = 1 << 16
# Rows of tags that are made at a time.
_BLOCK_TAGS = 1 << 22


class TokenLists(ArrayLabels):
    """Labels of the tokens of sentences in memory, as lists of lists or of arrays.

    Parameters
    ----------
    labels : sequence of sequence of int or str
        The labels of each sentence.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, labels: Any) -> None:
        flat, lengths = join_labels(labels)
        self.group_rows, self._are_arrays = ends(lengths), _are_arrays(labels)
        if not self._are_arrays and isinstance(flat, np.ndarray) and np.can_cast(flat.dtype, np.int64):
            flat = flat.astype(np.int64)  # Python's numbers, joined as narrow as they are
        # Numbers of which some are missing; an array has none that is.
        self._are_whole = isinstance(flat, np.ndarray) or all(
            isinstance(one, int | np.integer) and not isinstance(one, bool) for one in flat if not is_missing(one)
        )
        if isinstance(flat, list):  # NumPy would make text of all if one is text
            values = np.empty(len(flat), object)
            values[:] = flat
            flat = values
        super().__init__(flat)
        self.nullable = not self._are_arrays

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the labels of each sentence, with `values` in `rows`: arrays if all were arrays, else lists."""
        flat = super().corrected(rows, values)
        if self._are_arrays:
            return np.split(flat, np.asarray(self.group_rows)[1:-1])
        labels = flat.tolist()
        if self._are_whole and flat.dtype.kind in "fO":  # whole numbers, of which some are missing
            labels = [None if is_missing(one) else int(one) if isinstance(one, float) else one for one in labels]
        edges = np.asarray(self.group_rows).tolist()
        return [labels[start:stop] for start, stop in itertools.pairwise(edges)]

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a Parquet file with a column ``labels`` of lists."""
        _write_lists(path, self.corrected(rows, values))


def _are_arrays(labels: Any) -> bool:
    return isinstance(labels, list | tuple | np.ndarray) and all(isinstance(one, np.ndarray) for one in labels)


def _write_lists(path: Path, lists: Sequence[Any]) -> None:
    pa = arrow()
    from pyarrow import parquet

    parquet.write_table(pa.table({"labels": pa.array(lists)}), path)


class TagListLabels(SourceLabels):
    """Lists of the tags of examples in memory.

    Parameters
    ----------
    labels : sequence of sequence of int or str, or a column of these
        The tags of each example.
    n_tags : int
        Number of tags K.
    names : sequence of str, optional
        Names of the tags, if these are given by name.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, labels: Any, n_tags: int, names: Sequence[str] | None) -> None:
        if type(labels).__module__.partition(".")[0] == "polars":
            labels = labels.to_arrow()
        if not hasattr(labels, "__len__"):
            raise InputTypeError(f"labels must be a list of the tags of each example, not {type(labels).__name__}")
        super().__init__(open_lists(labels, len(labels), n_tags, names))
        self.group_rows = self.n_tags = n_tags
        convert = getattr(labels, "to_pylist", None) or getattr(labels, "tolist", None)
        self._lists: list[Any] = list(labels) if convert is None else convert()
        first = next(itertools.chain.from_iterable(self._lists), None)
        self._edit = _TagEdit(n_tags, names if first is None or isinstance(first, str) else None)

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the lists, with the tags of `rows` added or taken away."""
        return self._edit.edited(self._lists, rows, values)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a Parquet file with a column ``labels`` of lists."""
        _write_lists(path, self.corrected(rows, values))


class _TagEdit:
    """Adds tags to lists, and takes them away.

    Parameters
    ----------
    n_tags : int
        Number of tags K.
    names : sequence of str or None
        Their names, if lists hold names.
    """

    def __init__(self, n_tags: int, names: Sequence[str] | None) -> None:
        self._tags: list[Any] = list(range(n_tags)) if names is None else list(names)
        self._number = {tag: number for number, tag in enumerate(self._tags)}

    def edited(self, lists: Sequence[Any], rows: Int64s, labels: Values) -> list[list[Any]]:
        """Return all lists after changes of some rows, which ascend.

        Tags that stay keep their order. Those that are added come at the end, or where they belong if tags ascend.
        """
        found = [list(one) for one in lists]
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            example, tag = divmod(row, len(self._tags))
            own, changed = found[example], self._tags[tag]
            if not label % 2:
                own.remove(changed)
                continue
            numbers = [self._number[one] for one in own]
            ascend = all(one < other for one, other in itertools.pairwise(numbers))
            own.insert(sum(one < tag for one in numbers) if ascend else len(own), changed)
        return found


class _ParquetLists(ParquetLabels):
    """Labels in a column of lists of a Parquet file."""

    def _value_type(self, kind: Any) -> Any:
        return super()._value_type(_item_type(kind))


class ParquetTokens(_ParquetLists):
    """Labels of the tokens of sentences in a column of lists of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    """

    block_rows = _BLOCK_LISTS

    def __init__(self, path: Path, column: str | None) -> None:
        super().__init__(path, column)
        lengths, first = [np.empty(0, np.int64)], 0
        for batch in self._batches([self.column]):
            lengths.append(list_lengths("labels", batch.column(0), first, self.where))
            first += len(batch)
        self.group_rows = ends(np.concatenate(lengths))
        self.nullable = self.schema.field(self.column).type.value_field.nullable

    @property
    def n_rows(self) -> int:
        """Number of tokens."""
        return int(np.asarray(self.group_rows)[-1])

    def _values(self, column: Any) -> Values:
        return super()._values(list_items(column))

    def _rows_in(self, column: Any) -> int:
        return len(list_items(column))

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        return _relisted(column, super()._corrected_column(list_items(column), places, values))


def is_column_of_lists(path: Path, column: str | None) -> bool:
    """Return whether a column of a Parquet file holds lists.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.

    Raises
    ------
    InvalidInputError
        If there is no such file or column.
    """
    with open_parquet(path) as reader:
        schema = reader.schema_arrow
    kind = schema.field(only_column(column, schema.names, str(path))).type
    return _item_type(kind) is not kind


def _item_type(kind: Any) -> Any:
    """Return the type of the items of a type of lists; any other type is returned as it is."""
    pa = arrow()
    return kind.value_type if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType) else kind


def _relisted(column: Any, items: Any) -> Any:
    """Return lists of the same lengths as those in `column`, of other items."""
    pa = arrow()
    if isinstance(column.type, pa.FixedSizeListType):
        return pa.FixedSizeListArray.from_arrays(items, type=column.type)
    is_large = isinstance(column.type, pa.LargeListType)
    offsets = pa.array(ends(list_lengths("labels", column, 0, "")), pa.int64() if is_large else pa.int32())
    return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(offsets, items, type=column.type)


class ParquetTags(_ParquetLists):
    """Tags of examples in a column of lists of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    n_tags : int
        Number of tags K.
    names : sequence of str, optional
        Names of the tags, if these are given by name.
    """

    def __init__(self, path: Path, column: str | None, n_tags: int, names: Sequence[str] | None) -> None:
        super().__init__(path, column)
        self._edit = _TagEdit(n_tags, names if self.dtype == object else None)
        self.dtype, self.nullable = class_dtype(2 * n_tags), False
        self.group_rows, self.n_tags, self._names = n_tags, n_tags, names
        self.block_rows = max(1, min(_BLOCK_LISTS, _BLOCK_TAGS // n_tags))

    @property
    def n_rows(self) -> int:
        """Number of examples times number of tags."""
        return super().n_rows * self.n_tags

    def blocks(self) -> Iterator[Values]:
        """Yield whether examples have tags, as classes."""
        first = 0
        for batch in self._batches([self.column]):
            try:
                yield self._values(batch.column(0))
            except (InvalidInputError, InputTypeError) as error:
                where = f"labels: {self.where}, lines from {first:,} on, counted from 0 there"
                raise type(error)(f"{where}: {error}") from error
            first += len(batch)

    def _values(self, column: Any) -> Values:
        return open_lists(column, len(column), self.n_tags, self._names)[: self._rows_in(column)]

    def _rows_in(self, column: Any) -> int:
        return len(column) * self.n_tags

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        pa, lists = arrow(), self._edit.edited(column.to_pylist(), places, values)
        try:
            return pa.array(lists, column.type)
        except pa.ArrowInvalid as error:
            raise InvalidInputError(
                f"output: column {self.column!r} of {self.where} has the type {column.type}, which cannot hold the "
                f"corrected tags: {error}"
            ) from error
