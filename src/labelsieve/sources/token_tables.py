"""Tables with a row for each sentence, whose columns of lists hold the labels and probabilities of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.arrow_batches import BatchesSource
from labelsieve.sources.arrow_files import ArrowTable
from labelsieve.sources.base import Source
from labelsieve.sources.columns import (
    Columns,
    arrow,
    choose_columns,
    common_length,
    list_columns_of,
    list_items,
    list_lengths,
)
from labelsieve.sources.memory_tables import MemoryTable
from labelsieve.sources.parquet import ParquetTable
from labelsieve.sources.shards import ShardsSource
from labelsieve.sources.tables import Files, open_table
from labelsieve.sources.tokens import Tokens, ends, of_lengths


def open_token_table(
    data: Any, labels: Any, pred_probs: Any, ids: Any = None, *, null_labels: bool = False
) -> tuple[Tokens, Any]:
    """Open columns of lists. Of Parquet files the labels are decoded, to know the sentences.

    Parquet files are then decoded as a stream; Arrow files are mapped, and decoded into memory if they are compressed.

    Parameters
    ----------
    data : path, URL, pattern, list of these, or table in memory
        As `labelsieve.find_label_issues` takes it.
    labels, pred_probs : str
        Columns ``list<int>`` or ``list<string>``, and ``list<list<float>>``.
    ids : str or object
        Column of the user's names of sentences; anything else is returned as it is.
    null_labels : bool
        Whether tokens without a label are accepted.

    Returns
    -------
    tokens : Tokens
        The tokens of all sentences.
    ids : object
        The names of sentences.

    Raises
    ------
    InvalidInputError
        For a missing table or column, and for a column of a type that does not fit; for sentences that are null, or
        whose columns differ in length, as far as they are read.
    InputTypeError
        If labels and probabilities are not both columns.
    """
    if not isinstance(labels, str) or not isinstance(pred_probs, str):
        raise InputTypeError(
            "data has a row for each sentence, so name its columns of lists: labels='labels', pred_probs='probs'; if "
            "it has a row for each token, give offsets or sentence_ids"
        )
    table = open_table(data)
    wanted = {"labels": labels, "pred_probs": pred_probs}
    for name, column in wanted.items():
        choose_columns(name, column, table.names, table.where)
    if isinstance(table, MemoryTable):
        table = table.taken(wanted | ({"ids": ids} if isinstance(ids, str) else {}))
    parts, n_sentences = list[_Part](), 0
    for one in table.tables if isinstance(table, Files) else [table]:
        part = _of_parquet if isinstance(one, ParquetTable) else _of_batches
        parts.append(part(one, wanted, n_sentences, null_labels))  # type: ignore[arg-type]  # no other tables
        n_sentences += len(parts[-1].lengths)
    edges = ends(np.concatenate([part.lengths for part in parts]))
    sources = [part.sources for part in parts if part.sources]
    if not sources:
        raise InvalidInputError(f"{table.where} has no tokens: all sentences are empty")
    found_labels, found_probs = (
        found[0] if len(found) == 1 else ShardsSource.checked(name, found, table.where)
        for name, found in zip(wanted, zip(*sources, strict=True), strict=True)
    )
    return Tokens(found_labels, found_probs, edges), table.source("ids", ids) if isinstance(ids, str) else ids


@dataclass(frozen=True)
class _Part:
    """The sentences of one table.

    Parameters
    ----------
    lengths : (n,) int64
        Number of tokens of each sentence.
    sources : tuple of Source
        Labels and probabilities of the tokens; () if there are none.
    """

    lengths: npt.NDArray[np.int64]
    sources: tuple[Source, ...]


def _of_parquet(table: ParquetTable, wanted: dict[str, str], first: int, null_labels: bool) -> _Part:
    groups = table.list_lengths("labels", wanted["labels"], first)
    lengths = np.concatenate([np.empty(0, np.int64), *groups])
    if not lengths.any():
        return _Part(lengths, ())
    sources = (
        table.list_source(name, column, groups, first, with_nulls=null_labels and name == "labels")
        for name, column in wanted.items()
    )
    return _Part(lengths, tuple(sources))


def _of_batches(table: MemoryTable | ArrowTable, wanted: dict[str, str], first: int, null_labels: bool) -> _Part:
    batches = table.batches(tuple(wanted.values()))
    of_labels, of_probs = (_lengths(table, batches, name, column, first) for name, column in wanted.items())
    differing = np.flatnonzero(of_labels != of_probs)
    if len(differing):
        place = int(differing[0])
        raise of_lengths(first + place, int(of_labels[place]), int(of_probs[place]))
    if not of_labels.any():
        return _Part(of_labels, ())
    try:
        sources = tuple(
            _items(table, batches, name, column, with_nulls=null_labels and name == "labels")
            for name, column in wanted.items()
        )
    except InvalidInputError as error:
        if not error.rows:
            raise
        row, edges = error.rows[0][0], ends(of_labels)
        sentence = int(np.searchsorted(edges, row, "right")) - 1
        where = f"sentence {first + sentence:,}, token {row - edges[sentence]:,}"
        raise InvalidInputError(str(error).replace(f"row {row:,}", where)).at(error.rows) from error
    return _Part(of_labels, sources)


def _lengths(
    table: MemoryTable | ArrowTable, batches: list[Any], name: str, column: str, first: int
) -> npt.NDArray[np.int64]:
    parts = [np.empty(0, np.int64)]
    for batch in batches:
        parts.append(list_lengths(name, batch.column(column), first, table.where))
        first += len(batch)
    return np.concatenate(parts)


def _items(table: MemoryTable | ArrowTable, batches: list[Any], name: str, column: str, *, with_nulls: bool) -> Source:
    """Return the items of a column of lists as rows, without a copy where there can be one array without one."""
    pa = arrow()
    arrays = [list_items(batch.column(column)) for batch in batches]

    def inner_width(column: str) -> int:
        return common_length(name, column, [(len(one), len(list_items(one))) for one in arrays], table.where)

    columns: Columns = list_columns_of(name, column, batches[0].schema, table.where, inner_width, with_nulls=with_nulls)
    flat = [pa.RecordBatch.from_arrays([one], names=[column]) for one in arrays]
    if columns.width is None:
        flat = pa.Table.from_batches(flat).combine_chunks().to_batches()
    return BatchesSource.of_table(flat, columns)
