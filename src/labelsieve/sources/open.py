"""What users give as labels and probabilities, in memory or at a place, opened and checked; no value is read.

Rows and columns are used by position. The index and columns of pandas and xarray objects may contradict the order of
rows and classes, which is an error, since nearly every row would be reported as an issue otherwise. Names that do not
state an order are ignored.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.summarize import label_column
from labelsieve.confident_learning.thresholds import Floats, label_dtype
from labelsieve.errors import InputTypeError, InvalidInputError, located
from labelsieve.options import IgnoreLabel
from labelsieve.sources.composite import (
    Bfloat16Source,
    Ensemble,
    EnsembleSource,
    Folds,
    LogitsSource,
    check_members,
    member_name,
    open_folds,
    refuse_narrow,
    widened,
    widened_bits,
)
from labelsieve.sources.npy import Hdf5Source, NpySource
from labelsieve.sources.places import are_places, open_place, open_places
from labelsieve.sources.source import ReadFacts, Rows, Source
from labelsieve.sources.zarr import RemoteZarrSource, ZarrSource, checked_array
from labelsieve.storage.remote import check_place, url_of

if TYPE_CHECKING:
    import dask.array as da

_NESTED: Final = (
    "labels is a list of lists: for rows with several labels call "
    "labelsieve.multilabel_classification.find_label_issues"
)
# How to convert labels that are names. Only the user knows the number of each: the columns have an order.
MAP_STRINGS: Final = (
    "with class_names in the order of the columns of pred_probs, take "
    "labels = [class_names.index(label) for label in labels]"
)
WHOLE_NUMBERS: Final = "take labels = np.asarray(labels, int) if all are whole numbers"


class ArraySource(Source):
    """A NumPy array; a part of it is a view.

    Parameters
    ----------
    array : (N,) or (N, K) array
        Only read.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        super().__init__(array.shape, array.dtype, ReadFacts(in_memory=True, forkable=True))
        self.array = array

    @property
    def where(self) -> str:
        """What it is: memory has no path."""
        return "an array in memory"

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing to prefetch
        """Open for reading."""
        return _ArrayRows(self)

    def _content(self) -> str:
        """Return a digest of the values."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        from dask.base import tokenize

        return str(tokenize(np.ascontiguousarray(self.array), ensure_deterministic=True))

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a view of these rows, since an array in memory pickles with its data."""
        return ArraySource(self.array[start:stop]), start


class _ArrayRows(Rows):
    def __init__(self, source: ArraySource) -> None:
        super().__init__(source)
        self._array = source.array

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._array[start:stop]


def read_narrowed(labels: Source, n_classes: int, ignored: int | None = None) -> tuple[ArraySource, int | None]:
    """Read labels chunk by chunk into the smallest dtype; as they are stored if some are not classes 0..K-1.

    Parameters
    ----------
    labels : Source
        ``(N,)`` integers.
    n_classes : int
        Number of classes K.
    ignored : int, optional
        The value that says that a row has no label.

    Returns
    -------
    read : ArraySource
        The labels in memory.
    ignored : int or None
        The value in `read` that says that a row has no label.
    """
    narrow, step = np.empty(labels.n_rows, label_dtype(n_classes, ignored)), labels.facts.row_chunk or 1 << 16
    with labels.open() as opened:
        for start in range(0, labels.n_rows, step):
            chunk = opened.read(start, min(start + step, labels.n_rows))
            column = label_column(chunk, n_classes, ignored)
            if column is None:
                return ArraySource(labels[:]), ignored  # so that the error can name the labels
            narrow[start : start + step] = column
    return ArraySource(narrow), None if ignored is None else n_classes


def in_memory(name: str, data: Any) -> npt.NDArray[Any]:
    """Return the NumPy array of an object in memory.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    data : object
        List, tuple, array, pandas object, or anything that NumPy reads as an array.

    Raises
    ------
    InvalidInputError
        For missing values, masked entries, ragged rows, nested labels.
    InputTypeError
        For an object that is not an array.
    """
    kind = type(data)
    package = kind.__module__.partition(".")[0]
    if package == "pandas":
        return _from_pandas(name, data)
    if isinstance(data, np.ma.MaskedArray):
        n_masked = int(np.count_nonzero(np.ma.getmaskarray(data)))
        if n_masked:
            raise InvalidInputError(
                f"{name} is a masked array with {rows_in_words(n_masked, 'masked value', 'masked values')}: drop or "
                "fill them first"
            )
        return np.asarray(data.data)
    nested = _NESTED if name == "labels" else f"{name} is a list whose rows differ in length"
    if isinstance(data, list | tuple | range):
        try:
            array = np.asarray(data, None if data else np.int64)
        except ValueError as error:
            raise InvalidInputError(nested) from error
        if name == "labels" and array.ndim > 1:
            raise InvalidInputError(nested)
        return _without_objects(name, array)
    if package == "dask" and hasattr(kind, "to_dask_array"):
        raise InputTypeError(f"{name} is a Dask {kind.__name__}: give its .to_dask_array(lengths=True)")
    wrong = InputTypeError(f"{name} must be an array, a list or a path to a .npy or .zarr file; not {kind.__name__}")
    if isinstance(data, str | bytes | dict | set) or not (isinstance(data, np.ndarray) or hasattr(data, "__array__")):
        raise wrong
    try:
        array = np.asarray(data)
    except (TypeError, ValueError, RuntimeError) as error:  # what __array__ of other packages raises
        raise wrong from error
    return _without_objects(name, array)


def _without_objects(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as it is; raise for labels that are Python objects, by what they are."""
    if array.dtype != object or name != "labels":
        return array
    labels = array.ravel().tolist()
    if any(isinstance(item, list | tuple | set | np.ndarray) for item in labels):
        raise InvalidInputError(_NESTED)
    _refuse_missing(sum(item is None or (isinstance(item, float) and math.isnan(item)) for item in labels))
    hint = MAP_STRINGS if any(isinstance(item, str) for item in labels) else WHOLE_NUMBERS
    raise InvalidInputError(f"labels must be integers 0..K-1, not object: {hint}")


def _refuse_missing(n: int) -> None:
    if n:
        raise InvalidInputError(
            f"labels has {rows_in_words(n, 'missing value', 'missing values')}: drop these rows or label them"
        )


def _from_pandas(name: str, data: Any) -> npt.NDArray[Any]:
    if name == "labels" and data.ndim == 2:
        if data.shape[1] != 1:
            raise InvalidInputError(f"labels is a table of {data.shape[1]} columns; give the one that holds the labels")
        data = data.iloc[:, 0]
    if not hasattr(data, "to_numpy"):
        return np.asarray(data)
    if name == "pred_probs":
        array: npt.NDArray[Any] = data.to_numpy()
        floats = data.ndim == 2 and all(getattr(dtype, "kind", "O") == "f" for dtype in data.dtypes)
        # Nullable and Arrow floats come as objects; their missing values become NaN, which the check reports.
        if array.dtype == object and floats:
            array = data.to_numpy(dtype=np.float64, na_value=np.nan)
        return array
    _refuse_missing(int(np.sum(np.asarray(data.isna()))))
    array = data.to_numpy()
    if array.dtype == object and getattr(data.dtype, "kind", "O") in "iu":
        array = data.to_numpy(dtype=np.int64)
    if array.dtype == object:
        hint = MAP_STRINGS if any(isinstance(item, str) for item in array) else WHOLE_NUMBERS
        raise InvalidInputError(f"labels has dtype {data.dtype}; they must be integers 0..K-1: {hint}")
    return array


# Device types of DLPack whose memory the processor reads: its own, and pinned memory of CUDA and ROCm.
_HOST_DEVICES: Final = frozenset({1, 3, 11})
_LOGGER: Final = logging.getLogger(__name__)
# Tables and columns, which have rules of their own for missing values.
_OF_TABLES: Final = frozenset({"pandas", "polars", "pyarrow", "cudf"})


def is_tensor(data: Any) -> bool:
    """Return whether an object gives its memory by DLPack and is neither a NumPy array nor a column of a table."""
    package = type(data).__module__.partition(".")[0]
    return hasattr(data, "__dlpack__") and not isinstance(data, np.ndarray | np.generic) and package not in _OF_TABLES


def open_tensor(name: str, tensor: Any) -> Source:
    """Return a tensor as an array in memory.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    tensor : object
        In this process's memory it is not copied. On a GPU it is, once and whole; the logger says so.

    Raises
    ------
    InputTypeError
        If NumPy cannot take it.
    InvalidInputError
        For values in float8 and the like.
    """
    refuse_narrow(name, str(getattr(tensor, "dtype", "")).rpartition(".")[2])
    if is_on_device(tensor):
        _LOGGER.info("%s is on %s, and is copied to the memory of this process", name, getattr(tensor, "device", ""))
    found = _without_device(tensor)
    bits = as_bits(found)
    if bits is not None:
        return Bfloat16Source(ArraySource(bits))
    if hasattr(found, "__array__"):
        return ArraySource(in_memory(name, found))
    try:
        return ArraySource(np.from_dlpack(found))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputTypeError(f"{name} is a {type(tensor).__name__} that NumPy cannot take: {error}") from error


def is_on_device(array: Any) -> bool:
    """Return whether an array is in the memory of another device than the processor."""
    if isinstance(array, np.ndarray | list | tuple) or not hasattr(array, "__dlpack_device__"):
        return False
    kind, _ = array.__dlpack_device__()
    return int(kind) not in _HOST_DEVICES


class Bfloat16Rows:
    """Rows in bfloat16, which NumPy does not have: a slice of them is widened to float32, which holds all their values.

    Parameters
    ----------
    bits : (n, K) uint16
        Their bits.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, bits: npt.NDArray[np.uint16]) -> None:
        self._bits, self.shape = bits, bits.shape

    def __getitem__(self, rows: slice) -> Floats:
        """Return some rows."""
        return widened_bits(self._bits[rows])


def on_host(name: str, array: Any) -> Any:
    """Return an array of any library in the processor's memory, without a copy where it is there already.

    Parameters
    ----------
    name : str
        What it is, for messages.
    array : array-like
        A list, a NumPy, PyTorch, JAX or CuPy array, or whatever NumPy takes.

    Returns
    -------
    ndarray or Bfloat16Rows
        A NumPy array, unless its dtype is bfloat16.
    """
    if type(array) is np.ndarray and array.dtype.kind in "fiu":  # at once: batches may be small
        return array
    array = _without_device(array)
    bits = as_bits(array)
    if bits is not None:
        return Bfloat16Rows(bits)
    # A masked array has missing values, which are an error.
    is_plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    found = array if is_plain else in_memory(name, array)
    return Bfloat16Rows(found.view(np.uint16)) if found.dtype.name == "bfloat16" else found


def _without_device(array: Any) -> Any:
    """Return an array in the processor's memory; without gradients, with which PyTorch gives no memory."""
    array = array.detach() if hasattr(array, "detach") else array
    if not is_on_device(array):
        return array
    library = type(array).__module__.partition(".")[0]
    if library == "cupy":
        return array.get()
    if hasattr(array, "cpu"):
        return array.cpu()
    where = f"an array of {library} on {getattr(array, 'device', 'another device')}"
    if not hasattr(array, "__array__"):  # NumPy would take it for an object
        raise InputTypeError(f"{where} cannot be copied to memory: give a NumPy array")
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{where} cannot be copied to memory: {error}") from error


def as_bits(array: Any) -> npt.NDArray[np.uint16] | None:
    """Return the bits of a bfloat16 tensor of PyTorch, which NumPy cannot take; None for other arrays."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor) or "bfloat16" not in str(array.dtype):
        return None
    bits: npt.NDArray[np.uint16] = np.asarray(array.view(torch.int16)).view(np.uint16)
    return bits


# A column called by a number, alone or after a word.
_NUMBERED: Final = re.compile(r"(\D*)(0|[1-9][0-9]*)")


def check_axes(
    labels: Any, pred_probs: Any, class_names: Any = None, ids: Any = None, *, of_tags: bool = False
) -> None:
    """Raise if the names of rows or classes are in different orders; no value is read.

    Parameters
    ----------
    labels, pred_probs : object
        As given; only objects of pandas and xarray have names.
    class_names : sequence of str, optional
        The names of the classes, in order.
    ids : object, optional
        The row IDs, as given.
    of_tags : bool
        Whether labels are one column of lists, or a column for each tag, of which the names are compared too.

    Raises
    ------
    InvalidInputError
        Naming the first row or column that differs.
    """
    rows = {"labels": _index(labels, 0), "pred_probs": _index(pred_probs, 0), "ids": _index(ids, 0)}
    for name, other in (("labels", "pred_probs"), ("ids", "labels"), ("ids", "pred_probs")):
        if rows[name] is not None and rows[other] is not None:
            _check_rows(name, rows[name], other, rows[other])
    names = None
    if class_names is not None and not isinstance(class_names, str):
        names = [str(name) for name in class_names]
    if isinstance(pred_probs, Source) and names is not None:
        for found in pred_probs.class_columns:
            if set(found) == set(names) and list(found) != names:
                column = next(column for column, name in enumerate(found) if name != names[column])
                raise InvalidInputError(
                    f"the columns of pred_probs are not in the order of class_names (column {column} is "
                    f"{found[column]!r}, class {column} is {names[column]!r}): give them in that order"
                )
    columns = _index(pred_probs, 1)
    if columns is not None:
        _check_columns("pred_probs", columns, "class_names", names)
    tags = _index(labels, 1) if of_tags else None
    if tags is not None:
        _check_columns("labels", tags, "class_names", names)
        if columns is not None and columns.is_unique and columns.nlevels == 1 and class_names is None:
            _check_columns("labels", tags, "the columns of pred_probs", [str(name) for name in columns])


def _index(data: Any, axis: int) -> Any:
    """Return the pandas index of an axis; None if there is none."""
    package = type(data).__module__.partition(".")[0]
    if package == "pandas" and hasattr(data, "iloc") and axis < data.ndim:
        return data.axes[axis]
    if package == "xarray" and axis < len(getattr(data, "dims", ())):
        return data.indexes.get(tuple(data.dims)[axis])
    return None


def _check_rows(name: str, own: Any, other_name: str, index: Any) -> None:
    """Raise if two indexes have different rows or different orders."""
    if len(own) != len(index) or own.nlevels != index.nlevels or own.equals(index):
        return
    import pandas as pd  # which made the index

    by_position = f"give both as .to_numpy() if row i of {name} does belong to row i of {other_name}"
    # Such as the default of pandas, which says nothing of the rows.
    counts = [which for which, one in ((name, own), (other_name, index)) if pd.RangeIndex(len(one)).equals(one)]
    if not (own.is_unique and index.is_unique):
        if not counts and own.isin(index).any():
            raise InvalidInputError(
                f"{name} and {other_name} have different indexes, in which labels are repeated, so that their rows "
                f"cannot be matched: make the index unique, or {by_position}"
            )
        return
    places = index.get_indexer(own)
    n_common = int(np.count_nonzero(places >= 0))
    if n_common == len(own):
        row = int(np.flatnonzero(places != np.arange(len(own)))[0])
        [here], [there] = own[row : row + 1].tolist(), index[row : row + 1].tolist()
        # Perhaps predictions for shuffled labels, in a new table.
        only = f", but that of {counts[0]} only counts its rows" if counts else ""
        raise InvalidInputError(
            f"{name} and {other_name} have the same index in different orders (row {row} is {here!r} in {name} and "
            f"{there!r} in {other_name}){only}: give both in the same order, or {by_position}"
        )
    if n_common and not counts:
        raise InvalidInputError(
            f"{name} and {other_name} are not of the same rows: only {n_common:,} of {len(own):,} index labels are in "
            f"both: give the rows that both have, or {by_position}"
        )


def _check_columns(what: str, columns: Any, order: str, wanted: Sequence[str] | None) -> None:
    """Raise if the columns of `what` are classes in another order than 0..K-1 or `wanted`, called `order`."""
    if not columns.is_unique:
        return
    if columns.nlevels > 1:  # the level that distinguishes the columns
        levels = [columns.get_level_values(level) for level in range(columns.nlevels)]
        distinct = [level for level in levels if level.is_unique]
        if len(distinct) != 1:
            return
        [columns] = distinct
    names = columns.tolist()
    if wanted is not None:
        if [str(name) for name in names] == wanted:
            return
        places = {name: k for k, name in enumerate(wanted)}
        for column, name in enumerate(names):
            if places.get(str(name), column) != column:
                raise InvalidInputError(
                    f"the columns of {what} are not in the order of {order} (column {column} is {name!r}, which is "
                    f"class {places[str(name)]}): give them in that order"
                )
    numbers = _numbers(names)
    if numbers is None or numbers == sorted(numbers):
        return
    if sorted(numbers) not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        return
    place = next(place for place, number in enumerate(numbers) if number != place + min(numbers))
    raise InvalidInputError(
        f"the columns of {what} are not in the order of the classes (column {place} is {names[place]!r}): give them in "
        f"that order, or give {what}.to_numpy() if column k does belong to label k"
    )


def _numbers(names: Sequence[Any]) -> list[int] | None:
    """Return the numbers of columns called by numbers, or by one word and a number; None for other names."""
    if all(isinstance(name, Real | np.bool_) and float(name).is_integer() for name in names):
        return [int(name) for name in names]
    found = [_NUMBERED.fullmatch(name) if isinstance(name, str) else None for name in names]
    words = {match and match.group(1) for match in found}
    return None if None in words or len(words) > 1 else [int(match.group(2)) for match in found if match]


Opened: TypeAlias = "Source | da.Array"


def open_labels(labels: Any) -> Opened:
    """Open labels; nothing is read but headers.

    Parameters
    ----------
    labels : (N,) array-like of int, path, URL, Zarr array, HDF5 dataset, Dask array or xarray.DataArray
        Class of each row, 0..K-1. A folder, a pattern or a list of ``.npy`` files or ``.zarr`` arrays opens as one
        array: a list in its own order, others in natural order, ``labels-2`` before ``labels-10``.

    Raises
    ------
    InvalidInputError
        For labels that are not one axis of integers, or an unreadable file.
    InputTypeError
        For an object of the wrong kind.
    """
    return checked_labels(open_any("labels", labels))


def checked_labels(opened: Opened) -> Opened:
    """Return opened labels, or raise unless they are one axis of integers."""
    if len(opened.shape) != 1:
        hint = ""
        if opened.ndim == 2 and opened.shape[1] > 1:
            hint = (
                ": of one-hot rows take labels.argmax(axis=1); rows of several tags are for "
                "labelsieve.multilabel_classification (--task tags)"
            )
            if opened.dtype.kind == "f":
                hint = ": were pred_probs given as labels, which come first? Of one-hot rows take labels.argmax(axis=1)"
        if opened.ndim == 3:
            hint = ": masks (N, H, W) are for labelsieve.segmentation (--task segmentation)"
        raise InvalidInputError(f"labels must have one axis (N,), not shape {tuple(opened.shape)}{hint}")
    if opened.dtype.kind not in "iu":
        hint = MAP_STRINGS if opened.dtype.kind in "USTO" else WHOLE_NUMBERS
        raise InvalidInputError(f"labels must be integers 0..K-1, not {opened.dtype}: {hint}")
    return opened


def open_pred_probs(
    pred_probs: Any, dtype: str | None = None, *, from_logits: bool = False, of_tags: bool = False
) -> Opened:
    """Open predicted probabilities; nothing is read but headers.

    Parameters
    ----------
    pred_probs : (N, K) array-like of float, path, URL, Zarr array, HDF5 dataset, Dask array or xarray.DataArray
        Out-of-sample probabilities, float16, bfloat16, float32 or float64; of several shards, as for labels. Or an
        `Ensemble` or `Folds` of these.
    dtype : "bfloat16", optional
        What values are that are stored as 16 bits without a dtype of NumPy.
    from_logits : bool
        Whether they are logits, which are opened as their probabilities, unless they are a Dask array.
    of_tags : bool
        Whether columns are tags, each by itself, of which one is enough.

    Raises
    ------
    InvalidInputError
        For anything but two axes of floats with K >= 2, or an unreadable file.
    InputTypeError
        For an object of the wrong kind.
    """
    open_one = partial(open_pred_probs, dtype=dtype, from_logits=from_logits, of_tags=of_tags)
    if isinstance(pred_probs, Ensemble):
        return _open_ensemble(pred_probs, open_one)
    if isinstance(pred_probs, Folds):
        return open_folds(pred_probs, open_one, partial(open_any, "rows"))
    opened = open_any("pred_probs", pred_probs)
    if dtype is not None or opened.dtype.name not in ("float16", "float32", "float64"):
        opened = widened(opened, dtype)
    if len(opened.shape) != 2:
        raise InvalidInputError(f"pred_probs must have two axes (N, K), not shape {tuple(opened.shape)}")
    if opened.dtype.kind != "f" or opened.dtype.itemsize not in (2, 4, 8):
        hint = ""
        if opened.dtype.kind in "iu":
            whole = "100" if of_tags else "pred_probs.sum(axis=1, keepdims=True)"
            hint = f": if these are {'' if of_tags else 'counts or '}percentages, take pred_probs / {whole}"
            if opened.dtype.itemsize == 2:
                hint += "; if they are the bits of bfloat16, give dtype='bfloat16'"
        raise InvalidInputError(f"pred_probs must be float16, float32 or float64, not {opened.dtype}{hint}")
    if of_tags and not opened.shape[1]:
        raise InvalidInputError("pred_probs has no columns: there must be one for each tag")
    if opened.shape[1] < 2 and not of_tags:
        raise InvalidInputError(f"pred_probs has {opened.shape[1]} columns; classification takes at least 2 classes")
    return LogitsSource(opened) if from_logits and isinstance(opened, Source) else opened


def ignored_value(labels: Opened, ignore_label: IgnoreLabel) -> int | None:
    """Return the value in opened labels that says that a row has none; None if each row has one.

    Raises
    ------
    InvalidInputError
        For a name, where labels are numbers.
    """
    if isinstance(labels, Source) and labels.ignored is not None:
        return labels.ignored
    if isinstance(ignore_label, str):
        raise InvalidInputError(
            f"labels are {labels.dtype}, so that ignore_label must be a number; not {ignore_label!r}"
        )
    return ignore_label if isinstance(ignore_label, int) else None


def _open_ensemble(ensemble: Ensemble, open_one: Callable[[Any], Opened]) -> Source:
    """Open all members of an ensemble, and compare their shapes."""
    opened = list[Opened]()
    for number, member in enumerate(ensemble.members):
        with located(f"member {number} of the ensemble"):
            opened.append(open_one(member))
    names = [member_name(number, where_is(member)) for number, member in enumerate(opened)]
    check_members(names, [member.shape for member in opened])
    members = list[Source]()
    for name, member in zip(names, opened, strict=True):
        if not isinstance(member, Source):
            raise InvalidInputError(
                f"{name} cannot be a member: store it (da.to_zarr) and give the path, or give the mean itself as "
                "pred_probs, such as (a + b) / 2"
            )
        members.append(member)
    return EnsembleSource(members, ensemble.weights, names)


def check_lengths(labels: Opened, pred_probs: Opened) -> None:
    """Raise unless labels and probabilities have the same number of rows."""
    n_labels, n_rows = labels.shape[0], pred_probs.shape[0]
    if n_labels != n_rows:
        hint = "there must be a label for each row"
        if n_rows < n_labels == pred_probs.shape[1]:
            hint = "are rows and columns the wrong way round? Give pred_probs.T"
        raise InvalidInputError(f"{n_labels:,} labels, {n_rows:,} rows of pred_probs: {hint}")


def where_is(opened: Opened) -> str:
    """Return the path of an input, its URL without secrets, or the kind of object that it is."""
    return opened.where if isinstance(opened, Source) else "a Dask array"


def open_any(name: str, data: Any) -> Opened:  # noqa: C901, PLR0911  # a branch for each kind of input
    """Open an array of any shape and dtype, called `name` in messages."""
    package = type(data).__module__.partition(".")[0]
    if package == "xarray":
        if not hasattr(data, "data"):
            raise InputTypeError(f"{name} is an xarray {type(data).__name__}: give one of its arrays")
        data = data.data
        package = type(data).__module__.partition(".")[0]
    if data is None:
        raise InputTypeError(f"{name} is missing")
    if isinstance(data, str | os.PathLike):
        return open_place(name, data)
    if isinstance(data, list | tuple) and are_places(data):
        return open_places(name, data)
    if isinstance(data, Source):
        return data
    # Without importing `dask.array`, which imports pandas: who owns such an array has imported it.
    dask_array = sys.modules.get("dask.array")
    if dask_array is not None and isinstance(data, dask_array.Array):
        if any(np.isnan(size) for sizes in data.chunks for size in sizes):
            raise InvalidInputError(
                f"{name} is a Dask array of unknown chunk sizes: call compute_chunk_sizes() on it first"
            )
        return data
    if package == "zarr":
        return _open_zarr(name, data)
    if package == "h5py":
        if not hasattr(data, "read_direct"):
            raise InputTypeError(f"{name} is an HDF5 {type(data).__name__.lower()}, not a dataset")
        return Hdf5Source(data)
    if isinstance(data, np.memmap):
        return NpySource.from_memmap(data) or ArraySource(np.asarray(data))
    return open_tensor(name, data) if is_tensor(data) else ArraySource(in_memory(name, data))


def _open_zarr(name: str, data: Any) -> Source:
    from zarr.storage import FsspecStore

    array = checked_array(name, data)
    if type(array.store) is not FsspecStore:
        return ZarrSource(array)
    check_place(name, url_of(array.store.fs, array.store.path))
    return RemoteZarrSource(array)
