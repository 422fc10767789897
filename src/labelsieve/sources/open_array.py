"""Opening labels and probabilities, given as an object of any supported kind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from labelsieve.errors import InputTypeError, InvalidInputError, located
from labelsieve.settings import IgnoreLabel
from labelsieve.sources.arrays import MAP_STRINGS, ArraySource, in_memory
from labelsieve.sources.base import Source
from labelsieve.sources.bfloat16 import widened
from labelsieve.sources.ensemble import Ensemble, EnsembleSource, check_members, member_name
from labelsieve.sources.folds import Folds, open_folds
from labelsieve.sources.hdf5 import Hdf5Source
from labelsieve.sources.logits import LogitsSource
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open_path import are_places, open_place, open_places
from labelsieve.sources.remote_zarr import RemoteZarrSource
from labelsieve.sources.tensors import is_tensor, open_tensor
from labelsieve.sources.zarr_arrays import ZarrSource, checked_array
from labelsieve.storage.urls import check_no_password, url_of

if TYPE_CHECKING:
    import dask.array as da

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


def _package(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


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
