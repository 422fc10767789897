"""Tables with a row for each sentence, whose columns of lists hold the labels and probabilities of its tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
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
from labelsieve.sources.tokens import Tokens, ends


def open_token_table(data: Any, labels: Any, pred_probs: Any, *, null_labels: bool = False) -> Tokens:
    """Open columns of lists. Of Parquet files the labels are decoded, to know the sentences.

    Parquet files are then decoded as a stream; Arrow files are mapped, and decoded into memory if they are compressed.

    Parameters
    ----------
    data : path, URL, pattern, list of these, or table in memory
        As `labelsieve.find_label_issues` takes it.
    labels, pred_probs : str
        Columns ``list<int>`` or ``list<string>``, and ``list<list<float>>``.
    null_labels : bool
        Whether tokens without a label are accepted.

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
        table = table.taken(wanted)
    tables: Iterable[Any] = table.tables if isinstance(table, Files) else [table]
    lengths, sources, n_sentences = list[npt.NDArray[np.int64]](), list[tuple[Source, Source]](), 0
    for one in tables:
        found, *pair = (
            _of_parquet(one, wanted, n_sentences, null_labels=null_labels)
            if isinstance(one, ParquetTable)
            else _of_batches(one, wanted, n_sentences, null_labels=null_labels)
        )
        lengths.append(found)
        sources.append((pair[0], pair[1]))
        n_sentences += len(found)
    edges = ends(np.concatenate(lengths))
    if not edges[-1]:
        raise InvalidInputError(f"{table.where} has no tokens: all of its {n_sentences:,} sentences are empty")
    found_labels, found_probs = (
        parts[0] if len(parts) == 1 else ShardsSource.checked(name, parts, table.where)
        for name, parts in zip(wanted, zip(*sources, strict=True), strict=True)
    )
    return Tokens(found_labels, found_probs, edges)


def _of_parquet(
    table: ParquetTable, wanted: dict[str, str], first: int, *, null_labels: bool
) -> tuple[npt.NDArray[np.int64], Source, Source]:
    lengths = table.list_lengths("labels", wanted["labels"], first)
    sources = [
        table.list_source(name, column, lengths, first, with_nulls=null_labels and name == "labels")
        for name, column in wanted.items()
    ]
    return np.concatenate([np.empty(0, np.int64), *lengths]), sources[0], sources[1]


def _of_batches(
    table: MemoryTable | ArrowTable, wanted: dict[str, str], first: int, *, null_labels: bool
) -> tuple[npt.NDArray[np.int64], Source, Source]:
    batches = table.batches(tuple(wanted.values()))
    if not batches:
        raise InvalidInputError(f"{table.where} has no rows")
    lengths: dict[str, npt.NDArray[np.int64]] = {}
    for name, column in wanted.items():
        starts = itertools.accumulate(map(len, batches), initial=first)
        parts = [
            list_lengths(name, batch.column(column), start, table.where)
            for batch, start in zip(batches, starts, strict=False)
        ]
        lengths[name] = np.concatenate(parts)
    of_labels, of_probs = lengths.values()
    differing = np.flatnonzero(of_labels != of_probs)
    if len(differing):
        place = int(differing[0])
        raise InvalidInputError(
            f"sentence {first + place:,} has {of_labels[place]:,} labels, but pred_probs of {of_probs[place]:,} rows: "
            "one row for each token"
        )
    found = [_items(table, batches, name, wanted[name], with_nulls=null_labels and name == "labels") for name in wanted]
    return of_labels, found[0], found[1]


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
