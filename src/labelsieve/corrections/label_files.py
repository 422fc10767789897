"""Opening labels that are to be corrected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from labelsieve.corrections.label_arrays import ArrayLabels, LabelFile, NpyLabels, SourceLabels, ZarrLabels
from labelsieve.corrections.label_tables import CsvLabels, ParquetLabels
from labelsieve.errors import InvalidInputError
from labelsieve.sources.archives import ARCHIVE_SUFFIXES, split_member
from labelsieve.sources.open_path import are_places, local_path, open_place, open_places
from labelsieve.sources.shard_names import is_pattern
from labelsieve.sources.zarr_arrays import is_zarr_folder
from labelsieve.sources.zarr_chunks import local_folder
from labelsieve.storage.urls import check_place, without_query

_TABLE_SUFFIXES: Final = (".parquet", ".pq", ".csv")


def open_label_file(labels: Any, column: str | None = None) -> LabelFile:
    """Open labels that are to be corrected.

    Parameters
    ----------
    labels : path or array-like
        A ``.npy`` file, a Zarr array, a ``.parquet`` or ``.csv`` file, an array in memory, or whatever else holds an
        array, such as shards, ``.npz`` files and URLs. ``table.parquet::label`` names a column of a table.
    column : str, optional
        The same; may be missing if there is only one.

    Raises
    ------
    InvalidInputError
        If there is no such file or column, or the labels have not one axis.
    InputTypeError
        For another kind of object.
    """
    if type(labels).__module__.partition(".")[0] == "zarr" and hasattr(labels, "chunks"):
        labels = local_folder(labels) or labels[...]
    if _are_shards(labels):
        return SourceLabels(open_places("labels", labels))
    if not isinstance(labels, str | os.PathLike):
        if column is not None:
            raise InvalidInputError("column is for labels in a Parquet or CSV file: give the column itself as labels")
        return ArrayLabels(labels)
    return _open_place(labels, column)


def _open_place(labels: str | os.PathLike[str], column: str | None) -> LabelFile:
    """Open what is at a path or URL."""
    place, member = split_member(check_place("labels", labels))
    table, _, named = place.rpartition("::")
    if table.lower().endswith(_TABLE_SUFFIXES) and "://" not in named and not Path(place).exists():
        if column is not None:
            raise InvalidInputError(f"labels: {place} names a column, and so does column={column!r}")
        place, column = table, named
    local, where = local_path(place), without_query(place)
    path = None if local is None else Path(local).absolute()
    is_zarr = path is not None and path.is_dir() and is_zarr_folder(path)
    suffix = ".zarr" if is_zarr else Path(where).suffix.lower()
    if column is not None and suffix not in _TABLE_SUFFIXES:
        raise InvalidInputError(f"labels: {where} has no columns: column is for Parquet and CSV files")
    if path is None and suffix in _TABLE_SUFFIXES:
        raise InvalidInputError(f"labels: {where} is a URL: a table is corrected in a local file")
    is_several = path is None or (path.is_dir() and not is_zarr) or (is_pattern(str(path)) and not path.exists())
    if path is None or is_several or member or suffix in ARCHIVE_SUFFIXES:
        return SourceLabels(open_place("labels", labels))
    if not path.exists():
        raise InvalidInputError(f"labels: there is no file {path}")
    if suffix in _TABLE_SUFFIXES:
        return CsvLabels(path, column) if suffix == ".csv" else ParquetLabels(path, column)
    if suffix in (".npy", ".zarr"):
        return NpyLabels(path) if suffix == ".npy" else ZarrLabels(path)
    raise InvalidInputError(f"labels: {path} must be a .npy, .parquet or .csv file or a Zarr array")


def _are_shards(labels: Any) -> bool:
    """Return whether labels are a list of places, rather than of names such as ``n/a``."""
    if not isinstance(labels, list | tuple) or not labels or not isinstance(labels[0], str | os.PathLike):
        return False
    local = local_path(os.fspath(labels[0]))
    return (local is None or Path(local).exists()) and are_places(labels)
