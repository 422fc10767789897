"""Labels in a column of a Parquet or CSV file, with some values replaced; the rest of the table is kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.corrections.label_arrays import SAY_TASK, LabelFile, Values, within
from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.sources.columns import arrow, choose_columns


class ParquetLabels(LabelFile):
    """Labels in a column of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str or None
        The column; may be None if the file has only one.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, path: Path, column: str | None) -> None:
        pa = arrow()
        self.path, self.where = path, str(path)
        with open_parquet(path) as reader:
            self.schema, self._n_rows = reader.schema_arrow, reader.metadata.num_rows
            codec = reader.metadata.row_group(0).column(0).compression if self._n_rows else "SNAPPY"
            self._compression = "NONE" if codec == "UNCOMPRESSED" else codec  # the writer's name of it
        self.column = only_column(column, self.schema.names, self.where)
        self.nullable = self.schema.field(self.column).nullable
        kind = self.schema.field(self.column).type
        self.type = self._value_type(kind)
        if pa.types.is_integer(self.type) or pa.types.is_floating(self.type) or pa.types.is_boolean(self.type):
            self.dtype = np.dtype(self.type.to_pandas_dtype())
        elif pa.types.is_string(self.type) or pa.types.is_large_string(self.type) or self.type == pa.string_view():
            self.dtype = np.dtype(object)
        else:
            hint = f"; of lists {SAY_TASK}" if pa.types.is_nested(kind) else ""
            raise InvalidInputError(
                f"labels: column {self.column!r} of {path} has the type {kind}: no numbers or names{hint}"
            )

    def _value_type(self, kind: Any) -> Any:
        """Return the type of the values of a column."""
        return kind.value_type if arrow().types.is_dictionary(kind) else kind

    @property
    def n_rows(self) -> int:
        """Number of labels."""
        return int(self._n_rows)

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path) as reader:
                batches = reader.iter_batches(self.block_rows, columns=columns)
                while (batch := next(batches, None)) is not None:
                    yield batch
        except (OSError, arrow().ArrowException) as error:
            raise UnreadableDataError(f"labels: {self.path} is not a readable Parquet file: {error}") from error

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as objects if some are missing."""
        for batch in self._batches([self.column]):
            yield self._values(batch.column(0))

    def _values(self, column: Any) -> Values:
        """Return the labels of some lines of the table."""
        array = self._plain(column)
        if array.null_count:
            values: Values = np.empty(len(array), object)
            values[:] = array.to_pylist()
            return values
        found: Values = array.to_numpy(zero_copy_only=False).astype(self.dtype, copy=False)
        return found

    def _rows_in(self, column: Any) -> int:
        """Return the number of labels of some lines of the table."""
        return len(column)

    def _plain(self, array: Any) -> Any:
        """Return an array of values in place of one of codes."""
        return array.dictionary_decode() if arrow().types.is_dictionary(array.type) else array

    def take(self, rows: Int64s) -> Values:
        """Return the labels of `rows`."""
        return super().take(rows) if self.n_rows else np.empty(0, self.dtype)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a table of the same columns, types and metadata."""
        pa = arrow()
        from pyarrow import parquet

        place, start = self.schema.names.index(self.column), 0
        field = self.schema.field(place)
        with parquet.ParquetWriter(path, self.schema, compression=self._compression) as writer:
            for batch in self._batches(None):
                column = batch.column(place)
                n_rows = self._rows_in(column)
                changed = within(rows, start, n_rows)
                if changed.stop > changed.start:
                    column = self._corrected_column(column, rows[changed] - start, values[changed])
                    batch = batch.set_column(place, field, column)  # noqa: PLW2901  # the same batch, corrected
                writer.write_table(pa.Table.from_batches([batch], self.schema))
                start += n_rows

    def _corrected_column(self, column: Any, places: Int64s, values: Values) -> Any:
        """Return some lines of the column with other labels at some of its rows."""
        pa = arrow()
        from pyarrow import compute

        items, mask = self._plain(column), np.zeros(len(column), np.bool_)
        mask[places] = True
        # Views of strings can be cast, and nothing else.
        own = pa.large_string() if self.type == pa.string_view() else self.type
        new = pa.array(values.tolist(), own)
        items = compute.replace_with_mask(items.cast(own), pa.array(mask), new).cast(self.type)
        return _encoded(items, column.dictionary, column.type) if pa.types.is_dictionary(column.type) else items


def _encoded(items: Any, known: Any, kind: Any) -> Any:
    """Return values as codes of the names that are `known`, in their order, and of new ones after them."""
    pa = arrow()
    from pyarrow import compute

    new = compute.unique(items.filter(compute.invert(compute.is_in(items, known)))).drop_null()
    names = pa.concat_arrays([known, new])
    if len(names) > np.iinfo(kind.index_type.to_pandas_dtype()).max + 1:
        raise InvalidInputError(
            f"labels: codes of {kind.index_type} cannot number {len(names):,} names: write the column with wider codes"
        )
    codes = compute.index_in(items, names).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(codes, names, ordered=kind.ordered)


class CsvLabels(LabelFile):
    """Labels in a column of a CSV file, as text.

    Parameters
    ----------
    path : Path
        The file, in UTF-8, with a header.
    column : str or None
        The column; may be None if the file has only one.
    """

    suffixes, dtype, nullable = (".csv",), np.dtype(object), True

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.where = path, str(path)
        for _, cells in self._lines():
            self.names = cells
            break
        else:
            raise InvalidInputError(f"labels: {path} is empty")
        self.column = only_column(column, self.names, self.where)
        self._place = self.names.index(self.column)

    def _lines(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each record as it is in the file, and its cells; the header is the first."""
        taken, width = list[str](), 0
        try:
            with self.path.open(encoding="utf-8", newline="") as file:

                def noted() -> Iterator[str]:
                    for line in file:
                        taken.append(line)
                        yield line if width else line.removeprefix("\ufeff")

                reader = csv.reader(noted(), strict=True)
                for cells in reader:
                    if not width:
                        width = len(cells)
                    elif cells and len(cells) != width:
                        raise InvalidInputError(
                            f"labels: line {reader.line_num:,} of {self.path} has {len(cells)} cells, "
                            f"its header has {width}"
                        )
                    yield "".join(taken), cells
                    taken.clear()
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise UnreadableDataError(f"labels: {self.path} is not a readable CSV file: {error}") from error

    @cached_property
    def n_rows(self) -> int:
        """Number of labels."""
        return sum(map(len, self.blocks()))

    def blocks(self) -> Iterator[Values]:
        """Yield all labels in order, as text."""
        lines, block = self._lines(), list[str]()
        next(lines)
        for _, cells in lines:
            if cells:  # an empty line is no row
                block.append(cells[self._place])
            if len(block) == self.block_rows:
                yield np.array(block, object)
                block = []
        yield np.array(block, object)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write the table; lines whose label does not change are copied as they are."""
        new, row = dict(zip(rows.tolist(), values.tolist(), strict=True)), -1
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, (text, cells) in enumerate(self._lines()):
                row += bool(cells) and number > 0
                if not cells or not number or row not in new:
                    file.write(text)
                    continue
                cells[self._place] = "" if new[row] is None else new[row]
                line = io.StringIO(newline="")
                csv.writer(line, lineterminator="\r\n").writerow(cells)  # quotes only what its own line ends have
                file.write(line.getvalue().removesuffix("\r\n") + text[len(text.rstrip("\r\n")) :])


def open_parquet(path: Path) -> Any:
    """Open a Parquet file, to be closed by a ``with`` block.

    Raises
    ------
    InvalidInputError
        If it is not a readable Parquet file.
    MissingDependencyError
        Without pyarrow.
    """
    pa = arrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"labels: {path} is not a readable Parquet file: {error}") from error


def only_column(column: str | None, names: list[str], where: str) -> str:
    """Return the column that the user means."""
    if column is None and len(names) == 1:
        return names[0]
    if column is None:
        shown = ", ".join(map(repr, names[:10]))
        raise InvalidInputError(
            f"labels: {where} has the columns {shown}: name the one with the labels, as {Path(where).name}::COLUMN"
        )
    return choose_columns("labels", column, names, where)[0]
