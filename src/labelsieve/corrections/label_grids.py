"""Labels in arrays of several axes, with some values replaced: masks of images, matrices of tags.

A row is a value of the array, in the order of C: row ``(image * H + y) * W + x`` of masks ``(N, H, W)``, row
``example * K + tag`` of a matrix ``(N, K)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.corrections.label_arrays import (
    SourceLabels,
    Values,
    copy_zarr,
    is_file_of,
    wide_enough,
    write_npy,
)
from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Source
from labelsieve.sources.tokens import ends

# Changed values of a Zarr array that are written at a time.
_CHANGED: Final = 1 << 20


class GridLabels(SourceLabels):
    """Labels in an array of several axes, which is written as a ``.npy`` file or a Zarr array of the same shape.

    Parameters
    ----------
    rows : Source
        ``(n_rows,)`` labels, a row for each value of the array.
    stored : Source
        The array.
    group_rows, n_tags : int
        As of `LabelFile`.
    suffixes : tuple of str
        Endings of outputs.
    """

    def __init__(
        self,
        rows: Source,
        stored: Source,
        group_rows: int,
        n_tags: int = 0,
        suffixes: tuple[str, ...] = (".npy", ".zarr"),
    ) -> None:
        super().__init__(rows)
        self.stored, self.group_rows, self.n_tags, self.suffixes = stored, group_rows, n_tags, suffixes

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the shards, or the archive."""
        return is_file_of(self.stored, path)

    def as_stored(self, labels: Values) -> Values:
        """Return labels as values of the array: whether an example has a tag, and the class of a pixel."""
        if self.n_tags:
            return (labels & 1).astype(self.stored.dtype)
        return _as_booleans(labels) if self.stored.dtype.kind == "b" else labels

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the array in memory, with `values` in `rows`."""
        return self.as_stored(super().corrected(rows, values)).reshape(self.stored.shape)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a ``.npy`` file or a Zarr array of the same shape and dtype."""
        shape, dtype = self.stored.shape, self.as_stored(np.empty(0, wide_enough(self.dtype, values))).dtype
        if path.suffix == ".zarr":
            import zarr

            width = math.prod(shape[1:])
            step = max(1, self.block_rows // width)
            target = zarr.create_array(path, shape=shape, dtype=dtype, chunks=(min(step, shape[0]), *shape[1:]))
            for start, block in self.corrected_blocks(rows, values, step * width):
                first, n = start // width, len(block) // width
                target[first : first + n] = self.as_stored(block).reshape(n, *shape[1:])
            return
        blocks = self.corrected_blocks(rows, values, self.block_rows)
        write_npy(path, dtype, shape, (self.as_stored(block) for _, block in blocks))


def _as_booleans(labels: Values) -> Values:
    if labels.max(initial=0) > 1:
        raise InvalidInputError(f"labels are booleans, which cannot hold the class {labels.max()}")
    return labels.astype(np.bool_)


class ZarrGrid(GridLabels):
    """Labels in a local Zarr array of several axes, of format 2 or 3.

    Parameters
    ----------
    rows, stored, group_rows, n_tags
        As of `GridLabels`.
    path : Path
        The folder.
    """

    def __init__(self, rows: Source, stored: Source, group_rows: int, n_tags: int, path: Path) -> None:
        super().__init__(rows, stored, group_rows, n_tags, (".zarr",))
        self.path, self.where = path, str(path)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Copy the array, and encode those chunks again whose labels change."""
        import zarr

        copy_zarr(self.path, path)
        target = zarr.open_array(path, mode="r+")
        for start in range(0, len(rows), _CHANGED):
            part = slice(start, start + _CHANGED)
            target.vindex[np.unravel_index(rows[part], target.shape)] = self.as_stored(values[part])


class MaskList(SourceLabels):
    """Masks of images of any sizes in memory, one by one, which are returned as a list of arrays.

    Parameters
    ----------
    rows : Source
        ``(n_rows,)`` labels, the pixels of one image after the other.
    sizes : (n, 2) array of int
        Height and width of each image.
    are_booleans : bool
        Whether masks are of booleans.
    """

    suffixes: tuple[str, ...] = ()

    def __init__(self, rows: Source, sizes: Int64s, *, are_booleans: bool = False) -> None:
        super().__init__(rows)
        self._are_booleans = are_booleans
        self.sizes: Sequence[tuple[int, int]] = [(height, width) for height, width in sizes.tolist()]
        self.group_rows = ends(sizes[:, 0] * sizes[:, 1])

    def corrected(self, rows: Int64s, values: Values) -> Any:
        """Return the masks, with `values` in `rows`."""
        labels = super().corrected(rows, values)
        labels = _as_booleans(labels) if self._are_booleans else labels
        flat = np.split(labels, np.asarray(self.group_rows)[1:-1])
        return [one.reshape(size) for one, size in zip(flat, self.sizes, strict=True)]
