"""Tags of examples as rows of a run, as `labelsieve.confident_learning.summarize` takes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.misfit import describe_tag_misfit
from labelsieve.confident_learning.summarize import TagJointCounter, TagPattern, TagSummarizer
from labelsieve.confident_learning.thresholds import ClassSums, Float64s, Int64s, Ints, class_dtype, class_means
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.options import PROBABILITY_TOLERANCE
from labelsieve.sources.columns import arrow, list_items, list_lengths
from labelsieve.sources.composite import DaskRows, DerivedSource, Ensemble, InnerRows, UnitRows, member_name
from labelsieve.sources.open import Opened, check_axes, open_any, open_pred_probs
from labelsieve.sources.places import are_places
from labelsieve.sources.source import ReadFacts, Rows, Source
from labelsieve.sources.tables import list_column, open_columns

_LISTS: Final = (
    "labels must be a list of the tags of each example, such as [[0, 2], [], [1]], or an (N, K) matrix of 0 and 1 (for "
    "one class for each row, use labelsieve.find_label_issues)"
)

# What has a length, but is of letters, bytes or keys.
_NO_LISTS: Final = (str, bytes, Mapping)


class _RowsOfTags(UnitRows, DerivedSource):
    """The values of an ``(N, K)`` source as N * K rows, the K tags of each example one after the other."""

    def _follow(self, source: Source) -> None:
        n_examples, self.unit_rows = source.shape
        super()._follow(source)
        self.shape, self.row_bytes = (n_examples * self.unit_rows,), self.dtype.itemsize
        self.facts, self.class_columns = replace(self.facts, forkable=False), ()
        self.read_row_bytes = max(1, source.read_row_bytes // self.unit_rows)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _OpenTags(self, self.source.open(*self.units_of(start, self.n_rows if stop is None else stop)))


class _OpenTags(InnerRows):
    def __init__(self, source: _RowsOfTags, rows: Rows) -> None:
        super().__init__(source, rows)
        self._source = source

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        first, last = self._source.units_of(start, stop)
        values = self._source.convert(self._rows.read(first, last), first, np.empty).reshape(-1)
        origin = first * self._source.unit_rows
        return values[start - origin : stop - origin]


class TagProbs(_RowsOfTags):
    """Probabilities of tags as ``(N * K, 2K)`` probabilities of classes, of which rows are read as one number each.

    Parameters
    ----------
    source : Source
        ``(N, K)`` probabilities.
    """

    summarizer = TagSummarizer
    joint_counter = TagJointCounter

    def __init__(self, source: Source) -> None:
        super().__init__(source, source.dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.shape = (*self.shape, 2 * self.unit_rows)

    def convert(self, rows: npt.NDArray[Any], *_: object) -> npt.NDArray[Any]:
        """Return the probabilities."""
        return np.ascontiguousarray(rows)

    def describe_misfit(self, sums: ClassSums) -> str:
        """Return a warning if examples with a tag have no higher probability of it than others; "" if they have."""
        return describe_tag_misfit(class_means(sums).reshape(-1, 2), sums.counts.reshape(-1, 2))

    def prepared_for(self, rule: Filter) -> tuple[Source, Filter]:
        """Return these rows, and the filter that selects as `rule` does, for each tag by itself."""
        return self, replace(rule, in_groups=True)


class TagMatrix(_RowsOfTags):
    """The classes 2k and 2k + 1 of an ``(N, K)`` matrix of 0 and 1.

    Parameters
    ----------
    source : Source
        ``(N, K)`` numbers or booleans.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, class_dtype(2 * source.shape[1]))

    @cached_property
    def _absent(self) -> Ints:
        return np.arange(0, 2 * self.unit_rows, 2).astype(self.dtype)

    def convert(self, rows: npt.NDArray[Any], first_row: int, *_: object) -> npt.NDArray[Any]:
        """Return the classes.

        Raises
        ------
        InvalidInputError
            Naming an example and a tag whose value is neither 0 nor 1.
        """
        ones = rows == 1
        if np.count_nonzero(ones) + np.count_nonzero(rows == 0) != rows.size:
            example, tag = np.argwhere(~ones & (rows != 0))[0].tolist()
            raise InvalidInputError(
                f"a matrix of tags has 0 and 1 only, but tag {tag} of example {first_row + example:,} is "
                f"{rows[example, tag]!s}"
            )
        classes: Ints = self._absent + ones.astype(self.dtype)
        return classes


class TagLists(Source):
    """The classes 2k and 2k + 1 of the tags that each example has.

    Parameters
    ----------
    positions : (T,) int64
        ``example * K + tag`` of each tag that an example has, ascending.
    n_rows, n_tags : int
        Number of rows N * K, and of tags K.
    first_tag : int
        Tag of the first row.
    """

    def __init__(self, positions: Int64s, n_rows: int, n_tags: int, first_tag: int = 0) -> None:
        super().__init__((n_rows,), class_dtype(2 * n_tags), ReadFacts(in_memory=True))
        self._positions, self._n_tags, self._first_tag = positions, n_tags, first_tag

    @property
    def where(self) -> str:
        """What it is: memory has no path."""
        return "lists of tags in memory"

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing to prefetch
        """Open for reading."""
        return _OpenLists(self, self._positions, self._n_tags, self._first_tag)

    def _content(self) -> str:
        """Return a digest of the values."""
        from dask.base import tokenize

        return str(tokenize(self._positions, self._n_tags, self._first_tag, ensure_deterministic=True))

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return these rows alone, since what is in memory pickles with its data."""
        some = slice(*np.searchsorted(self._positions, [start, stop]).tolist())
        tag = (self._first_tag + start) % self._n_tags
        return TagLists(self._positions[some] - start, stop - start, self._n_tags, tag), start


class _OpenLists(Rows):
    def __init__(self, source: TagLists, positions: Int64s, n_tags: int, first_tag: int) -> None:
        super().__init__(source)
        self._positions, self._n_tags, self._first_tag = positions, n_tags, first_tag
        self._absent = TagPattern(np.arange(0, 2 * n_tags, 2).astype(source.dtype))

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        classes = self._reused(stop - start)
        classes[:] = self._absent.rows((self._first_tag + start) % self._n_tags, stop - start)
        first, last = np.searchsorted(self._positions, [start, stop])
        classes[self._positions[first:last] - start] += 1
        return classes


class CheckedTags(DerivedSource):
    """Probabilities of one member of an ensemble, of which the mean could hide bad ones.

    Parameters
    ----------
    source : Source
        ``(N, K)`` probabilities.
    name : str
        The member, for messages.
    """

    def __init__(self, source: Source, name: str) -> None:
        super().__init__(source, source.dtype)
        self._name = name

    def convert(self, rows: npt.NDArray[Any], first_row: int, *_: object) -> npt.NDArray[Any]:
        """Return the rows as they are.

        Raises
        ------
        InvalidInputError
            Naming an example and a tag whose probability is none.
        """
        good = (rows >= -PROBABILITY_TOLERANCE) & (rows <= 1 + PROBABILITY_TOLERANCE)
        if not good.all():
            example, tag = np.argwhere(~good)[0].tolist()
            raise InvalidInputError(
                f"tag {tag} of example {first_row + example:,} of {self._name} is {rows[example, tag]:g}, not a "
                "probability"
            )
        return rows


class SigmoidSource(DerivedSource):
    """Probabilities in float64 of stored logits, each by itself.

    Parameters
    ----------
    source : Source
        ``(N, K)`` logits.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float64)

    def convert(self, rows: npt.NDArray[Any], *_: object) -> npt.NDArray[Any]:
        """Return ``1 / (1 + exp(-x))``, computed so that nothing overflows."""
        return sigmoid(rows)


def sigmoid(logits: npt.NDArray[Any]) -> Float64s:
    """Return ``1 / (1 + exp(-x))`` in float64, of any shape; NaN stays NaN."""
    x = logits.astype(np.float64)
    small = np.exp(-np.abs(x))
    found: Float64s = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return found


def open_lists(labels: Any, n_examples: int, n_tags: int, names: Sequence[str] | None = None) -> TagLists:
    """Join the lists of tags of all examples.

    Parameters
    ----------
    labels : sequence of sequence of int or str
        The tags of each example; or an Arrow array of lists.
    n_examples, n_tags : int
        Shape of `pred_probs`.
    names : sequence of str, optional
        K names, by which tags may be given.

    Raises
    ------
    InvalidInputError
        For another number of lists, a tag out of range and a tag twice in one example, which are named.
    InputTypeError
        For anything but lists of whole numbers or names.
    """
    if type(labels).__module__.partition(".")[0] == "pyarrow":
        lengths, tags = _of_arrow(labels, names)
    else:
        lengths, tags = _joined(labels, names)
    if len(lengths) != n_examples:
        raise InvalidInputError(
            f"{len(lengths):,} lists of tags, {n_examples:,} rows of pred_probs: there must be a list for each row, "
            "which may be empty"
        )
    outside = (tags < 0) | (tags >= n_tags)
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        n_outside = int(np.count_nonzero(outside))
        example = int(np.searchsorted(np.cumsum(lengths), place, "right"))
        raise InvalidInputError(
            f"{rows_in_words(n_outside, 'tag', 'tags')} outside 0..{n_tags - 1} (first: {int(tags[place])} in example "
            f"{example:,}); pred_probs has {n_tags:,} columns"
        )
    positions = np.repeat(np.arange(n_examples, dtype=np.int64) * n_tags, lengths) + tags
    if len(positions) and not (np.diff(positions) > 0).all():
        positions = np.sort(positions)
        twice = np.flatnonzero(np.diff(positions) == 0)
        if len(twice):
            example, tag = divmod(int(positions[twice[0]]), n_tags)
            raise InvalidInputError(
                f"example {example:,} has tag {tag} twice ({len(twice):,} such cases): each tag is listed once, and a "
                "matrix of 0 and 1 is given as numpy.array(labels)"
            )
    return TagLists(positions, n_examples * n_tags, n_tags)


def _joined(labels: Any, names: Sequence[str] | None) -> tuple[Int64s, Int64s]:
    """Return the number of tags of each example, and all tags."""
    lists = labels.tolist() if isinstance(labels, np.ndarray) or hasattr(labels, "to_numpy") else labels
    if not isinstance(lists, Sequence) or isinstance(lists, str | bytes):
        raise InputTypeError(f"{_LISTS}, not {type(labels).__name__}")
    wrong = {kind for kind in set(map(type, lists)) if issubclass(kind, _NO_LISTS) or not hasattr(kind, "__len__")}
    if wrong:
        number, one = next((n, one) for n, one in enumerate(lists) if type(one) in wrong)
        raise InputTypeError(f"{_LISTS}; example {number:,} is {one!r}")
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    kinds = set(map(type, itertools.chain.from_iterable(lists)))
    if names is not None and kinds and all(issubclass(kind, str) for kind in kinds):
        return lengths, _numbered(lists, names, int(lengths.sum()))
    wrong = {kind for kind in kinds if kind is bool or not issubclass(kind, int | np.integer)}
    if wrong:
        example, kind = next((n, type(tag)) for n, one in enumerate(lists) for tag in one if type(tag) in wrong)
        raise InputTypeError(
            f"tags must be whole numbers 0..K-1, but example {example:,} has {kind.__name__}; for names give "
            "class_names too"
        )
    try:
        return lengths, np.fromiter(itertools.chain.from_iterable(lists), np.int64, int(lengths.sum()))
    except OverflowError as error:
        limit = np.iinfo(np.int64).max
        number, tag = next((n, tag) for n, one in enumerate(lists) for tag in one if not -limit <= int(tag) <= limit)
        raise InvalidInputError(f"tags must be whole numbers 0..K-1, but example {number:,} has {tag}") from error


def _numbered(lists: Sequence[Sequence[str]], names: Sequence[str], n_tags: int) -> Int64s:
    """Return the numbers of names."""
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        repeated = next(name for number, name in enumerate(names) if numbers[name] != number)
        raise InvalidInputError(f"tags are names, and class_names has {repeated!r} for several tags")
    try:
        return np.fromiter(map(numbers.__getitem__, itertools.chain.from_iterable(lists)), np.int64, n_tags)
    except KeyError as error:
        [name] = error.args
        example = next(number for number, one in enumerate(lists) if name in one)
        raise InvalidInputError(f"example {example:,} has the tag {name!r}, which class_names does not have") from None


def _of_arrow(labels: Any, names: Sequence[str] | None) -> tuple[Int64s, Int64s]:
    """Return the same of an Arrow array of lists."""
    pa, kind = arrow(), labels.type
    is_list = isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    if is_list and names is not None and not pa.types.is_integer(kind.value_type):
        return _joined(labels.to_pylist(), names)
    if not is_list or not pa.types.is_integer(kind.value_type):
        raise InputTypeError(f"{_LISTS}, not an Arrow array of {kind}; for names give class_names too")
    chunks = labels.chunks if isinstance(labels, pa.ChunkedArray) else [labels]
    items = [list_items(chunk) for chunk in chunks]
    if labels.null_count or any(one.null_count for one in items):
        raise InvalidInputError("labels has missing values: of an example without tags give an empty list")
    lengths = [np.empty(0, np.int64), *(list_lengths("labels", chunk, 0, "labels") for chunk in chunks)]
    tags = [np.empty(0, np.int64), *(one.to_numpy(zero_copy_only=False).astype(np.int64) for one in items)]
    return np.concatenate(lengths), np.concatenate(tags)


def open_sparse(labels: Any, n_examples: int, n_tags: int) -> TagLists:
    """Take the tags of a sparse matrix of SciPy.

    Raises
    ------
    InvalidInputError
        For another shape, and for values other than 0 and 1, which are named.
    """
    check_tag_shape(labels.shape, n_examples, n_tags)
    rows = labels.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    values = np.asarray(rows.data)
    examples = np.repeat(np.arange(n_examples, dtype=np.int64), np.diff(rows.indptr))
    bad = np.flatnonzero((values != 0) & (values != 1))
    if len(bad):
        place = int(bad[0])
        raise InvalidInputError(
            f"a matrix of tags has 0 and 1 only, but tag {int(rows.indices[place])} of example "
            f"{int(examples[place]):,} is {values[place]!s}"
        )
    kept = values != 0
    positions = np.sort(examples[kept] * n_tags + rows.indices[kept])
    return TagLists(positions, n_examples * n_tags, n_tags)


def check_tag_shape(shape: Sequence[int], n_examples: int, n_tags: int) -> None:
    """Raise unless a matrix of tags has the shape of `pred_probs`."""
    if tuple(shape) != (n_examples, n_tags):
        hint = f". {_LISTS}" if len(shape) == 1 else ""
        if tuple(shape) == (n_tags, n_examples):
            hint = ": are rows and columns the wrong way round? Give labels.T"
        raise InvalidInputError(
            f"labels have the shape {tuple(shape)}, pred_probs {(n_examples, n_tags)}: both must be the same{hint}"
        )


@dataclass(frozen=True)
class OpenTags:
    """Both inputs as rows of tags.

    Parameters
    ----------
    labels : Source
        ``(N * K,)`` classes 2k and 2k + 1.
    pred_probs : TagProbs
        ``(N * K, 2K)`` probabilities of these.
    n_examples, n_tags : int
        N and K.
    ids : object
        The user's names of examples, or where these are.
    """

    labels: Source
    pred_probs: TagProbs
    n_examples: int
    n_tags: int
    ids: Any = None


def open_tags(
    labels: Any,
    pred_probs: Any,
    *,
    data: Any = None,
    ids: Any = None,
    from_logits: bool = False,
    dtype: str | None = None,
    names: Sequence[str] | None = None,
) -> OpenTags:
    """Open tags and probabilities. Lists are joined; of arrays and files only headers are read.

    Parameters
    ----------
    labels : list of lists of int or str, or (N, K) matrix of 0 and 1
        The tags of each example; a matrix in any form that `open_any` takes, or sparse.
    pred_probs : (N, K) array-like of float
        Probability of each tag.
    data : table, optional
        Has them as columns.
    ids : object, optional
        The user's names of examples.
    from_logits : bool
        Whether `pred_probs` are logits.
    dtype : "bfloat16", optional
        What values of `pred_probs` are that are stored as 16 bits without a dtype of NumPy.
    names : sequence of str, optional
        K names of tags.

    Raises
    ------
    InvalidInputError
        For anything that can be refused without reading.
    InputTypeError
        For an object of the wrong kind.
    """
    if data is not None:
        column = labels if isinstance(labels, str) else None
        of_table = pred_probs if isinstance(pred_probs, str | list | tuple) else None
        if column is not None:
            labels = list_column("labels", data, column)
        if of_table is not None:
            _, pred_probs, ids = open_columns(data, None, pred_probs, ids)
    for member in pred_probs.members if isinstance(pred_probs, Ensemble) else [pred_probs]:
        check_axes(labels, member, names, ids, of_tags=True)
    opened = _open_probs(pred_probs, dtype, from_logits=from_logits)
    n_examples, n_tags = opened.shape
    if not n_examples:
        raise InvalidInputError("labels and pred_probs have no examples")
    if names is not None and len(names) != n_tags:
        raise InvalidInputError(f"{len(names):,} class_names, pred_probs has {n_tags:,} tags")
    found = _open_labels(labels, n_examples, n_tags, names)
    return OpenTags(found, TagProbs(opened), n_examples, n_tags, ids)


def _open_probs(pred_probs: Any, dtype: str | None, *, from_logits: bool) -> Source:
    """Open probabilities; of an ensemble the mean of those of its members, which are checked one by one."""
    if isinstance(pred_probs, Ensemble):
        if pred_probs.weights == "accuracy":
            raise InvalidInputError("the accuracy of a model is not defined for tags: give the weights as numbers")
        members = [_open_probs(member, dtype, from_logits=from_logits) for member in pred_probs.members]
        names = [member_name(number, member.where) for number, member in enumerate(members)]
        checked = [CheckedTags(member, name) for member, name in zip(members, names, strict=True)]
        return _source(open_pred_probs(Ensemble(checked, pred_probs.weights), of_tags=True))
    opened = _source(open_pred_probs(pred_probs, dtype, of_tags=True))
    return SigmoidSource(opened) if from_logits else opened


def _source(opened: Opened) -> Source:
    return opened if isinstance(opened, Source) else DaskRows(opened)


def _open_labels(labels: Any, n_examples: int, n_tags: int, names: Sequence[str] | None) -> Source:
    if labels is None:
        raise InputTypeError("labels is missing")
    if hasattr(labels, "tocsr"):
        return open_sparse(labels, n_examples, n_tags)
    package = type(labels).__module__.partition(".")[0]
    is_column = package in ("pandas", "polars", "pyarrow") and len(getattr(labels, "shape", (0,))) == 1
    is_list = isinstance(labels, list | tuple) and not are_places(labels)
    if package == "polars" and is_column:
        labels = labels.to_arrow()
    if is_column or is_list or (isinstance(labels, np.ndarray) and labels.dtype == object):
        return open_lists(labels, n_examples, n_tags, names)
    matrix = open_any("the matrix of labels", labels)
    check_tag_shape(matrix.shape, n_examples, n_tags)
    if matrix.dtype.kind not in "biuf":
        raise InvalidInputError(f"a matrix of tags has 0 and 1 only, not {matrix.dtype}")
    return TagMatrix(_source(matrix))
