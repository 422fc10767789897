"""Tokens of sentences as rows: ragged lists are joined, and flat arrays are cut by offsets or numbers of sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.units import ends
from labelsieve.sources.arrow import ArrowTable, BatchesSource
from labelsieve.sources.columns import (
    Columns,
    arrow,
    choose_columns,
    common_length,
    list_columns_of,
    list_items,
    list_lengths,
)
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.open import open_any
from labelsieve.sources.parquet import ParquetTable
from labelsieve.sources.places import are_places
from labelsieve.sources.source import Source
from labelsieve.sources.tables import Files, MemoryTable, open_table

# Numbers of sentences that are read at a time, where any number of them may be.
_ROWS_AT_A_TIME: Final = 1 << 20
# Numbers that may be left out, as those of sentences without tokens: for each token, and in any case.
_GAPS_PER_TOKEN: Final = 16
_GAPS: Final = 1 << 20
# Sentences whose depth is looked at: the first ones may be empty.
_LOOKED_AT: Final = 10
_FLAT: Final = (
    "for labels and pred_probs of all tokens in one array each, give offsets (the token at which each sentence begins, "
    "and the number of tokens) or sentence_ids (the number of the sentence of each token)"
)


# The number of tokens of each sentence of a table, and the labels and probabilities of the tokens if there are any.
_Part = tuple[npt.NDArray[np.int64], list[Source]]


@dataclass(frozen=True)
class Tokens:
    """Labels and probabilities of the tokens of all sentences, one sentence after the other.

    Parameters
    ----------
    labels, pred_probs : object
        Of all tokens, as the main task takes them.
    edges : (n_sentences + 1,) int64
        Token at which each sentence begins, and the number of tokens.
    """

    labels: Any
    pred_probs: Any
    edges: npt.NDArray[np.int64]


def join_sentences(labels: Any, pred_probs: Any) -> Tokens:
    """Join the sentences of ragged lists.

    Parameters
    ----------
    labels : sequence of sequence of int or str
        Labels of the tokens of each sentence: lists, arrays, columns; or an ``(N, T)`` array.
    pred_probs : sequence of (T_i, K) array-like
        Probabilities of the tokens of each sentence: arrays, tensors or nested lists; or an ``(N, T, K)`` array.

    Raises
    ------
    InvalidInputError
        If both differ in their sentences, or in the tokens of one; for sentences of another depth or number of classes.
        The message names the first such sentence.
    InputTypeError
        For an object that holds no sentences.

    Examples
    --------
    >>> joined = join_sentences([[0], [], [1, 1]], [[[0.9, 0.1]], [], [[0.2, 0.8], [0.3, 0.7]]])
    >>> joined.labels, joined.pred_probs.shape, joined.edges
    (array([0, 1, 1], dtype=uint8), (3, 2), array([0, 1, 1, 3]))
    """
    label_lists, matrices = _sentences("labels", labels, 2), _sentences("pred_probs", pred_probs, 3)
    if len(label_lists) != len(matrices):
        raise InvalidInputError(f"labels has {len(label_lists):,} sentences, pred_probs has {len(matrices):,}")
    if not label_lists:
        raise InvalidInputError("labels and pred_probs have no sentences")
    flat, lengths = _join_labels(label_lists)
    edges = ends(lengths)
    return Tokens(flat, _join_matrices(matrices, lengths), edges)


def join_labels(labels: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return the labels of the tokens of all sentences, and the number of tokens of each sentence.

    Parameters
    ----------
    labels : sequence of sequence of int or str
        As of `join_sentences`.

    Raises
    ------
    InvalidInputError, InputTypeError
        As of `join_sentences`.

    Examples
    --------
    >>> join_labels([["cat"], [], ["dog", "cat"]])
    (['cat', 'dog', 'cat'], array([1, 0, 2]))
    """
    return _join_labels(_sentences("labels", labels, 2))


def depth_of(data: Any) -> int:
    """Return how many levels of lists and axes of arrays are in one another, at the first value; 0 for anything else.

    Examples
    --------
    >>> depth_of([[], [0, 1]]), depth_of([0, 1]), depth_of("labels.npy")
    (2, 1, 0)
    """
    if isinstance(data, np.ndarray) and data.dtype != object:
        return data.ndim
    if not isinstance(data, list | tuple | np.ndarray):
        return 0
    return 1 + max((depth_of(one) for one in data[:_LOOKED_AT]), default=0)


def _sentences(name: str, data: Any, ndim: int) -> Sequence[Any]:
    """Return the sentences as a list; `ndim` is the number of axes of an array of sentences of one length."""
    if isinstance(data, np.ndarray):
        if data.ndim == ndim or (data.dtype == object and data.ndim == 1):
            return list(data)
    elif isinstance(data, list | tuple):
        if not are_places(data):
            return data
    elif getattr(data, "ndim", 1) == 1:
        # Columns of pandas, Polars and Arrow.
        for convert in ("to_list", "to_pylist"):
            if hasattr(data, convert):
                found: list[Any] = getattr(data, convert)()
                return found
    if data is None:
        raise InputTypeError(f"{name} is missing")
    kind = f"of shape {data.shape}" if hasattr(data, "shape") else f"of the type {type(data).__name__}"
    raise InputTypeError(f"{name} must be a list of sentences, and is {kind}; {_FLAT}")


def _join_labels(sentences: Sequence[Any]) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return the labels of all tokens, and the number of tokens of each sentence."""
    types = set(map(type, sentences))
    if not types <= {list, tuple, np.ndarray}:
        kind = "a list of labels, one for each token"
        sentences = [
            one if isinstance(one, list | tuple | np.ndarray) else _in_memory("labels", number, one, kind)
            for number, one in enumerate(sentences)
        ]
        types = set(map(type, sentences))
    if np.ndarray in types:
        wrong = next((n for n, one in enumerate(sentences) if isinstance(one, np.ndarray) and one.ndim != 1), None)
        if wrong is not None:
            raise InvalidInputError(
                f"labels of sentence {wrong:,} have shape {sentences[wrong].shape}, not (T,): one label for each token"
            )
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    filled = sentences if lengths.all() else [one for one in sentences if len(one)]
    if types == {np.ndarray} and filled:
        joined = np.concatenate(filled)
        if joined.dtype.kind == "f" and all(one.dtype.kind in "iu" for one in filled):  # signed and not, of 64 bits
            joined = np.concatenate([one.astype(np.int64) for one in filled])
        return (joined.tolist() if joined.dtype == object else joined), lengths
    narrow = _as_bytes(filled)
    if narrow is not None:
        return narrow, lengths
    flat = list(itertools.chain.from_iterable(filled))
    types = set(map(type, flat))
    if all(issubclass(one, int | np.integer) and one is not bool for one in types):
        return np.array(flat, None if flat else np.int64), lengths
    if all(issubclass(one, str) for one in types):
        return flat, lengths
    for place, one in enumerate(flat):
        if isinstance(one, list | tuple | set | dict) or np.ndim(one):
            sentence = int(np.searchsorted(np.cumsum(lengths), place, "right"))
            raise InvalidInputError(
                f"labels are nested too deeply: token {place - int(lengths[:sentence].sum()):,} of sentence "
                f"{sentence:,} is a {type(one).__name__}, not one label"
            )
    return flat, lengths  # names, or what the main task refuses


def _as_bytes(sentences: Sequence[Any]) -> npt.NDArray[np.uint8] | None:
    """Return labels that are whole numbers 0..255, in half of the time of a list; None if any are not."""
    if not sentences or isinstance(sentences[0][0], bool | np.bool_):
        return None  # True and False may be names
    try:
        return np.frombuffer(bytes(itertools.chain.from_iterable(sentences)), np.uint8)
    except (TypeError, ValueError):
        return None


def _join_matrices(sentences: Sequence[Any], lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the probabilities of all tokens, of sentences that have these lengths."""
    if set(map(type, sentences)) != {np.ndarray}:
        sentences = [one if type(one) is np.ndarray else _matrix(number, one) for number, one in enumerate(sentences)]
    try:
        found = np.fromiter(map(len, sentences), np.int64, len(sentences))
    except TypeError:  # an array without axes has no length
        found = np.array([len(one) if one.ndim else -1 for one in sentences])
    differing = np.flatnonzero(found != lengths)
    if len(differing) and any(one.ndim != 2 for one in sentences if one.size):
        raise _of_shapes(sentences)
    if len(differing):
        number = int(differing[0])
        more = f"; {len(differing):,} sentences differ" if len(differing) > 1 else ""
        raise of_lengths(number, int(lengths[number]), int(found[number]), more)
    filled = sentences if lengths.all() else [one for one in sentences if len(one)]
    if not filled:
        raise InvalidInputError("labels and pred_probs have no tokens: all sentences are empty")
    try:
        joined = np.concatenate(filled)
    except ValueError:  # of different shapes
        joined = np.empty(0)
    if joined.ndim != 2:
        raise _of_shapes(sentences)
    return joined


def of_lengths(sentence: int, n_labels: int, n_rows: int, more: str = "") -> InvalidInputError:
    """Return the error for a sentence whose labels and probabilities differ in length."""
    labels, rows = rows_in_words(n_labels, "label", "labels"), rows_in_words(n_rows, "row", "rows")
    return InvalidInputError(f"sentence {sentence:,} has {labels}, but {rows} of pred_probs, one for each token{more}")


def _of_shapes(sentences: Sequence[npt.NDArray[Any]]) -> InvalidInputError:
    """Return the error for matrices that cannot be joined."""
    filled = [(number, one.shape) for number, one in enumerate(sentences) if one.size]
    n_classes = next((shape[1] for _, shape in filled if len(shape) == 2), "K")
    number, shape = next((n, shape) for n, shape in filled if len(shape) != 2 or shape[1] != n_classes)
    return InvalidInputError(
        f"pred_probs of sentence {number:,} has shape {shape}, not (T, {n_classes}): a row for each token, a column "
        "for each class"
    )


def _matrix(number: int, sentence: Any) -> npt.NDArray[Any]:
    """Return the probabilities of a sentence as an array."""
    if isinstance(sentence, list | tuple) and not are_places(sentence):
        try:
            return np.asarray(sentence)
        except ValueError as error:
            raise InvalidInputError(f"pred_probs of sentence {number:,} has rows of different lengths") from error
    return _in_memory("pred_probs", number, sentence, "an array (T, K) or a list of rows")


def _in_memory(name: str, number: int, sentence: Any, kind: str) -> npt.NDArray[Any]:
    """Return a sentence of any kind that the main task takes as an array."""
    if isinstance(sentence, str | bytes | dict | set) or not hasattr(sentence, "__len__"):
        raise InvalidInputError(f"{name} of sentence {number:,} must be {kind}, not {sentence!r}; {_FLAT}")
    return np.asarray(open_any(f"{name} of sentence {number:,}", sentence)[:])


def edges_of_offsets(offsets: Any) -> npt.NDArray[np.int64]:
    """Return the token at which each sentence begins, and the number of tokens, as the user gives them.

    Parameters
    ----------
    offsets : (n_sentences + 1,) array-like of int, or path
        Anything that opens as labels do.

    Raises
    ------
    InvalidInputError
        Unless they are integers that begin with 0 and never descend.
    """
    edges = np.concatenate(list(_blocks("offsets", offsets)))
    if len(edges) < 2:
        raise InvalidInputError(
            f"offsets has {len(edges)} values: give the token at which each sentence begins, and the number of tokens"
        )
    if edges[0] != 0:
        raise InvalidInputError(f"offsets must begin with 0, not {edges[0]:,}")
    down = np.flatnonzero(edges[1:] < edges[:-1])
    if len(down):
        place = int(down[0])
        raise InvalidInputError(
            f"offsets must ascend, but sentence {place:,} would begin at token {edges[place]:,} and end at "
            f"{edges[place + 1]:,}: of lengths of sentences take np.concatenate([[0], np.cumsum(lengths)])"
        )
    return edges


def edges_of_ids(sentence_ids: Any) -> npt.NDArray[np.int64]:
    """Return the token at which each sentence begins, and the number of tokens, given the sentence of each token.

    Parameters
    ----------
    sentence_ids : (n_tokens,) array-like of int, or path
        Ascending numbers of sentences from 0; a number that is left out is a sentence without tokens. Read in blocks.

    Raises
    ------
    InvalidInputError
        Unless they are integers that never descend.
    """
    counts, last, n_tokens = np.zeros(0, np.int64), 0, 0
    for block in _blocks("sentence_ids", sentence_ids):
        if not len(block):
            continue
        steps = np.diff(block, prepend=last)
        down = np.flatnonzero(steps < 0)
        if len(down):
            token, sentence = n_tokens + int(down[0]), int(block[down[0]])
            raise InvalidInputError(
                f"sentence_ids must be numbers from 0 that ascend, but token {token:,} of sentence {sentence:,} comes "
                f"after sentence {sentence - int(steps[down[0]]):,}: sort the tokens by their sentence, in their order"
            )
        last, n_tokens = int(block[-1]), n_tokens + len(block)
        if last > _GAPS + _GAPS_PER_TOKEN * n_tokens:
            raise InvalidInputError(
                f"sentence_ids goes up to {last:,} in the first {n_tokens:,} tokens: number the sentences from 0"
            )
        more = np.bincount(block - block[0])
        grown = np.zeros(last + 1, np.int64)
        grown[: len(counts)] = counts
        grown[int(block[0]) :] += more
        counts = grown
    return ends(counts)


def _blocks(name: str, numbers: Any) -> Iterator[npt.NDArray[np.int64]]:
    """Yield integers as they are read."""
    opened = open_any(name, numbers)
    if opened.ndim != 1:
        raise InvalidInputError(f"{name} must have one axis, not shape {tuple(opened.shape)}")
    if opened.dtype.kind not in "iu" and opened.shape[0]:
        raise InvalidInputError(f"{name} must be integers, not {opened.dtype}")
    if not isinstance(opened, Source):
        for part in opened.blocks:
            yield np.asarray(part).astype(np.int64)
        return
    step = opened.facts.row_chunk or _ROWS_AT_A_TIME
    with opened.open() as rows:
        for start in range(0, max(1, opened.n_rows), step):
            yield rows.read(start, min(start + step, opened.n_rows)).astype(np.int64)


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
        n_sentences += len(parts[-1][0])
    edges = ends(np.concatenate([lengths for lengths, _ in parts]))
    sources = [found for _, found in parts if found]
    if not sources:
        raise InvalidInputError(f"{table.where} has no tokens: all sentences are empty")
    found_labels, found_probs = (
        found[0] if len(found) == 1 else ShardsSource.checked(name, found, table.where)
        for name, found in zip(wanted, zip(*sources, strict=True), strict=True)
    )
    return Tokens(found_labels, found_probs, edges), table.source("ids", ids) if isinstance(ids, str) else ids


def _of_parquet(table: ParquetTable, wanted: dict[str, str], first: int, null_labels: bool) -> _Part:
    groups = table.list_lengths("labels", wanted["labels"], first)
    lengths = np.concatenate([np.empty(0, np.int64), *groups])
    if not lengths.any():
        return lengths, []
    return lengths, [
        table.list_source(name, column, groups, first, with_nulls=null_labels and name == "labels")
        for name, column in wanted.items()
    ]


def _of_batches(table: MemoryTable | ArrowTable, wanted: dict[str, str], first: int, null_labels: bool) -> _Part:
    batches = table.batches(tuple(wanted.values()))
    of_labels, of_probs = (_lengths(table, batches, name, column, first) for name, column in wanted.items())
    differing = np.flatnonzero(of_labels != of_probs)
    if len(differing):
        place = int(differing[0])
        raise of_lengths(first + place, int(of_labels[place]), int(of_probs[place]))
    if not of_labels.any():
        return of_labels, []
    try:
        return of_labels, [
            _items(table, batches, name, column, with_nulls=null_labels and name == "labels")
            for name, column in wanted.items()
        ]
    except InvalidInputError as error:
        if not error.rows:
            raise
        row, edges = error.rows[0][0], ends(of_labels)
        sentence = int(np.searchsorted(edges, row, "right")) - 1
        where = f"sentence {first + sentence:,}, token {row - edges[sentence]:,}"
        raise InvalidInputError(str(error).replace(f"row {row:,}", where)).at(error.rows) from error


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
