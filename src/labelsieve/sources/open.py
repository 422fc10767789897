"""The index and columns of pandas and xarray objects, which may contradict the order of rows and classes.

Rows and columns are used by position. Names that contradict this are an error, since nearly every row would be reported
as an issue otherwise. Names that do not state an order are ignored.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from labelsieve.errors import InputTypeError, InvalidInputError, located
from labelsieve.options import IgnoreLabel
from labelsieve.sources.arrays import MAP_STRINGS, ArraySource, in_memory, is_tensor, open_tensor
from labelsieve.sources.composite import Folds, LogitsSource, open_folds, widened
from labelsieve.sources.ensemble import Ensemble, EnsembleSource, check_members, member_name
from labelsieve.sources.npy import Hdf5Source, NpySource
from labelsieve.sources.places import are_places, open_place, open_places
from labelsieve.sources.source import Source
from labelsieve.sources.zarr import RemoteZarrSource, ZarrSource, checked_array
from labelsieve.storage.remote import check_no_password, url_of

if TYPE_CHECKING:
    import dask.array as da

# A column called by a number, alone or after a word.
_NUMBERED: Final = re.compile(r"(\D*)(0|[1-9][0-9]*)")
# The advice where no short line of code does it.
_BY_HAND: Final = "give them in that order"


def check_axes(labels: Any, pred_probs: Any, class_names: Any = None, ids: Any = None) -> None:
    """Raise if the names of rows or classes are in different orders; no value is read.

    Parameters
    ----------
    labels, pred_probs : object
        As given; only objects of pandas and xarray have names.
    class_names : sequence of str, optional
        The names of the classes, in order.
    ids : object, optional
        The user's own names of rows, as given.

    Raises
    ------
    InvalidInputError
        With the line of code that puts them in the same order.
    """
    _check_rows("labels", labels, "pred_probs", pred_probs)
    _check_rows("ids", ids, "labels", labels)
    _check_rows("ids", ids, "pred_probs", pred_probs)
    _check_columns(pred_probs, class_names)
    if isinstance(pred_probs, Source) and class_names is not None and not isinstance(class_names, str):
        _check_class_columns(pred_probs, [str(name) for name in class_names])


def check_tag_axes(labels: Any, pred_probs: Any, class_names: Any = None, ids: Any = None) -> None:
    """Raise if the names of rows or tags are in different orders; no value is read.

    Parameters
    ----------
    labels : object
        As given: one column of lists, or a column for each tag.
    pred_probs, class_names, ids : object
        As of `check_axes`.

    Raises
    ------
    InvalidInputError
        With the line of code that puts them in the same order.
    """
    check_axes(labels, pred_probs, class_names, ids)
    _check_columns(labels, class_names, "labels")
    columns = _index(pred_probs, 1)
    if columns is not None and columns.is_unique and columns.nlevels == 1 and class_names is None:
        _check_columns(labels, columns.tolist(), "labels", "the columns of pred_probs")


def _package(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _index(data: Any, axis: int) -> Any:
    """Return the pandas index of an axis; None if there is none."""
    if _package(data) == "pandas" and hasattr(data, "iloc") and axis < data.ndim:
        return data.axes[axis]
    if _package(data) == "xarray" and axis < len(getattr(data, "dims", ())):
        return data.indexes.get(tuple(data.dims)[axis])
    return None


def _written(name: str, data: Any, axis: int = 0) -> str:
    """Return the Python expression for the index of an axis."""
    return f"{name}.indexes[{data.dims[axis]!r}]" if _package(data) == "xarray" else f"{name}.index"


def _chosen(name: str, data: Any, wanted: str) -> str:
    """Return the line of code that puts rows in the order of the index `wanted`, an expression."""
    how = f".sel({{{data.dims[0]!r}: {wanted}}})" if _package(data) == "xarray" else f".loc[{wanted}]"
    return f"{name} = {name}{how}"


def _only_counts(index: Any) -> bool:
    """Return whether an index only counts the rows from 0, as the default of pandas does."""
    import pandas as pd  # which made the index

    return bool(pd.RangeIndex(len(index)).equals(index))


def _check_rows(name: str, data: Any, other_name: str, other: Any) -> None:
    """Raise if both have an index, and these have different rows or different orders."""
    own, index = _index(data, 0), _index(other, 0)
    if own is None or index is None or len(own) != len(index) or own.nlevels != index.nlevels or own.equals(index):
        return
    by_position = f"give both as .to_numpy() if row i of {name} does belong to row i of {other_name}"
    uninformative = _only_counts(own) or _only_counts(index)
    if not (own.is_unique and index.is_unique):
        n_common = int(own.isin(index).sum())
        if n_common and not uninformative:
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
        line = _chosen(other_name, other, _written(name, data))
        if name == "ids":
            line = _chosen(name, data, _written(other_name, other))
        text = f"{name} and {other_name} have the same index in different orders (row {row} is {here!r} in {name} and "
        if uninformative:  # perhaps predictions for shuffled labels, in a new table
            counted = name if _only_counts(own) else other_name
            raise InvalidInputError(
                f"{text}{there!r} in {other_name}), but that of {counted} only counts its rows: {by_position}, "
                f"otherwise write {line}"
            )
        raise InvalidInputError(f"{text}{there!r} in {other_name}): write {line}, or {by_position}")
    if n_common and not uninformative:
        packages = {_package(data), _package(other)}
        lines = {
            "pandas": f'{name}, {other_name} = {name}.align({other_name}, join="inner", axis=0)',
            "xarray": f'{name}, {other_name} = xarray.align({name}, {other_name}, join="inner")',
        }
        line = lines[packages.pop()] if len(packages) == 1 else "what keeps the rows that both have"
        raise InvalidInputError(
            f"{name} and {other_name} are not of the same rows: only {n_common:,} of {len(own):,} index labels are in "
            f"both. Write {line}, or {by_position}"
        )


def _check_columns(pred_probs: Any, class_names: Any, what: str = "pred_probs", order: str = "class_names") -> None:
    """Raise if the columns of `what` are classes in another order than 0..K-1 or `class_names`, called `order`."""
    columns = _index(pred_probs, 1)
    if columns is None or not columns.is_unique:
        return
    if columns.nlevels > 1:  # the level that distinguishes the columns
        levels = [columns.get_level_values(level) for level in range(columns.nlevels)]
        distinct = [level for level in levels if level.is_unique]
        if len(distinct) != 1:
            return
        [columns] = distinct
    names = columns.tolist()
    if class_names is not None and not isinstance(class_names, str):
        wanted = [str(name) for name in class_names]
        if [str(name) for name in names] == wanted:
            return
        _check_names(names, wanted, pred_probs, what, order)
    numbers = _numbers(names)
    if numbers is None or numbers == sorted(numbers):
        return
    if sorted(numbers) not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        return
    place = next(place for place, number in enumerate(numbers) if number != place + min(numbers))
    raise InvalidInputError(
        f"the columns of {what} are not in the order of the classes (column {place} is {names[place]!r}): "
        f"{_sorted(pred_probs, names, what)}, or give {what}.to_numpy() if column k does belong to label k"
    )


def _check_class_columns(pred_probs: Source, wanted: Sequence[str]) -> None:
    """Raise if columns of a table have the names of the classes in another order."""
    for names in pred_probs.class_columns:
        if set(names) == set(wanted) and list(names) != list(wanted):
            column = next(column for column, name in enumerate(names) if name != wanted[column])
            raise InvalidInputError(
                f"the columns of pred_probs are not in the order of class_names (column {column} is {names[column]!r}, "
                f"class {column} is {wanted[column]!r}): {_BY_HAND}"
            )


def _check_names(names: Sequence[Any], wanted: Sequence[str], pred_probs: Any, what: str, order: str) -> None:
    """Raise if a column has the name of another class."""
    places = {name: k for k, name in enumerate(wanted)}
    wrong = [column for column, name in enumerate(names) if places.get(str(name), column) != column]
    if not wrong:
        return
    column = wrong[0]
    expression = "class_names" if order == "class_names" else "pred_probs.columns"
    line = _selected(pred_probs, expression, what) if set(names) == set(wanted) else _BY_HAND
    raise InvalidInputError(
        f"the columns of {what} are not in the order of {order} (column {column} is {names[column]!r}, "
        f"which is class {places[str(names[column])]}): {line}"
    )


def _numbers(names: Sequence[Any]) -> list[int] | None:
    """Return the numbers of columns called by numbers, or by one word and a number; None for other names."""
    if all(isinstance(name, Real | np.bool_) and float(name).is_integer() for name in names):
        return [int(name) for name in names]
    found = [_NUMBERED.fullmatch(name) if isinstance(name, str) else None for name in names]
    words = {match and match.group(1) for match in found}
    return None if None in words or len(words) > 1 else [int(match.group(2)) for match in found if match]


def _sorted(pred_probs: Any, names: Sequence[Any], what: str) -> str:
    """Return the advice to sort columns by their numbers."""
    in_xarray = _package(pred_probs) == "xarray"
    if not isinstance(names[0], str):
        how = f"sortby({pred_probs.dims[1]!r})" if in_xarray else "sort_index(axis=1)"
        return f"write {what} = {what}.{how}"
    n_letters = len(names[0].rstrip("0123456789"))
    key = f"lambda name: int(name[{n_letters}:])" if n_letters else "int"
    columns = f"{what}.indexes[{pred_probs.dims[1]!r}]" if in_xarray else what
    return _selected(pred_probs, f"sorted({columns}, key={key})", what)


def _selected(pred_probs: Any, wanted: str, what: str) -> str:
    """Return the advice to select the columns `wanted`, an expression."""
    if _package(pred_probs) == "xarray":
        return f"write {what} = {what}.sel({{{pred_probs.dims[1]!r}: {wanted}}})"
    return f"write {what} = {what}[{wanted}]" if pred_probs.columns.nlevels == 1 else _BY_HAND


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
    if opened.ndim != 1:
        hint = ""
        if opened.ndim == 2 and opened.shape[1] > 1:
            hint = (
                ": of one-hot rows take labels.argmax(axis=1); rows of several tags are for "
                "labelsieve.multilabel_classification (--task tags)"
            )
            if opened.dtype.kind == "f":
                hint = (
                    ": were pred_probs given as labels? Labels come first. Of one-hot rows take labels.argmax(axis=1)"
                )
        if opened.ndim == 3:
            hint = ": masks (N, H, W) are for labelsieve.segmentation (--task segmentation)"
        raise InvalidInputError(f"labels must have one axis (N,), not shape {tuple(opened.shape)}{hint}")
    if opened.dtype.kind not in "iu":
        hint = MAP_STRINGS if opened.dtype.kind in "USTO" else "convert them with .astype(int) if all are whole numbers"
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
    opened: Opened = widened(open_any("pred_probs", pred_probs), dtype)
    if opened.ndim != 2:
        raise InvalidInputError(f"pred_probs must have two axes (N, K), not shape {tuple(opened.shape)}")
    if opened.dtype.kind != "f" or opened.dtype.itemsize not in (2, 4, 8):
        hint = ""
        if opened.dtype.kind in "iu":
            whole = "100" if of_tags else "pred_probs.sum(axis=1, keepdims=True)"
            hint = f": if these are {'' if of_tags else 'counts or '}percentages, take pred_probs / {whole}"
            if opened.dtype.itemsize == 2:
                hint += "; if they are the bits of bfloat16, give dtype='bfloat16' (--dtype bfloat16)"
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


def open_any(name: str, data: Any) -> Opened:  # noqa: PLR0911  # one return per kind of input reads best
    """Open an array of any shape and dtype, called `name` in messages."""
    package = _package(data)
    if package == "xarray":
        if not hasattr(data, "data"):
            raise InputTypeError(f"{name} is an xarray {type(data).__name__}: give one of its arrays")
        data = data.data
        package = _package(data)
    if data is None:
        raise InputTypeError(f"{name} is missing")
    if isinstance(data, str | os.PathLike):
        return open_place(name, data)
    if isinstance(data, list | tuple) and are_places(data):
        return open_places(name, data)
    if isinstance(data, Source):
        return data
    if _is_dask_array(data):
        return _checked_dask(name, data)
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
    check_no_password(name, url_of(array.store.fs, array.store.path))
    return RemoteZarrSource(array)


def _is_dask_array(data: Any) -> bool:
    """Recognize a Dask array without importing `dask.array`, which imports pandas: its owner has imported it."""
    dask_array = sys.modules.get("dask.array")
    return dask_array is not None and isinstance(data, dask_array.Array)


def _checked_dask(name: str, array: da.Array) -> da.Array:
    if any(np.isnan(size) for sizes in array.chunks for size in sizes):
        raise InvalidInputError(
            f"{name} is a Dask array of unknown chunk sizes: call compute_chunk_sizes() on it first"
        )
    return array
