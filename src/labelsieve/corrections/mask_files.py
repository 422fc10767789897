"""Masks in PNG files, with some pixels replaced: a folder of files of the same names."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.corrections.label_arrays import Values, within
from labelsieve.corrections.label_grids import MaskList
from labelsieve.errors import InvalidInputError
from labelsieve.sources.image_files import ImageFileSource, pillow
from labelsieve.sources.open_images import masks_of_files


class MaskFiles(MaskList):
    """Masks in PNG files, a file for each image, of any sizes; they are written as a folder of such files.

    Parameters
    ----------
    files : sequence of ImageFileSource
        The files, in order.
    where : str
        Folder or pattern.

    Raises
    ------
    InvalidInputError
        For image files that are not PNG, and masks that are not integers of one dtype.
    """

    suffixes = ("",)

    def __init__(self, files: Sequence[ImageFileSource], where: str) -> None:
        other = [file.where for file in files if file.path.suffix.lower() != ".png"]
        if other:
            raise InvalidInputError(f"labels: {other[0]} is not a PNG file: masks in image files are corrected as PNG")
        images = masks_of_files(files, str(files[0].path))
        super().__init__(images.rows, images.sizes)
        self.where, self.files = where, files

    def is_part(self, path: Path) -> bool:
        """Return whether a path is one of the files, or a folder above one."""
        place = path.resolve()
        return any(place == file.path or place in file.path.parents for file in self.files)

    def write(self, path: Path, rows: Int64s, values: Values) -> None:
        """Write a folder of files of the same names; those that do not change are copied as they are."""
        names, starts = self._names(), np.asarray(self.group_rows).tolist()
        path.mkdir()
        for file, name, start in zip(self.files, names, starts, strict=False):
            target, changed = path / name, within(rows, start, file.n_rows)
            target.parent.mkdir(parents=True, exist_ok=True)
            if changed.start == changed.stop:
                shutil.copyfile(file.path, target)
            else:
                _write_changed(file, target, rows[changed] - start, values[changed])

    def _names(self) -> list[Path]:
        """Return the paths of the files from the folder that holds all of them."""
        places = [Path(os.path.normpath(file.path)) for file in self.files]  # with ".." a name may lead elsewhere
        [(repeated, times)] = Counter(places).most_common(1)
        if times > 1:
            raise InvalidInputError(f"output: labels names {repeated} {times} times: leave output out")
        above = os.path.commonpath([place.parent for place in places])
        return [place.relative_to(above) for place in places]


def _write_changed(file: ImageFileSource, target: Path, places: Int64s, values: Values) -> None:
    """Write a mask with other values of some pixels; mode and palette stay."""
    module, pixels = pillow(), file[: file.n_rows].copy()
    pixels[places] = values
    with module.open(file.path) as image:
        image.load()
        plane = np.asarray(image)
        if image.mode == "1":
            changed = module.fromarray(pixels.reshape(plane.shape).astype(np.bool_))
        else:
            changed = image.copy()
            changed.frombytes(pixels.astype(plane.dtype).tobytes())
        if image.mode == "P":  # one with fewer colours than numbers would be cut
            palette = image.getpalette() or []
            changed.putpalette(palette + [0] * (3 * (int(pixels.max()) + 1) - len(palette)))
        changed.save(target, **{name: image.info[name] for name in ("transparency", "dpi") if name in image.info})
    written = ImageFileSource.from_path("output", target)
    if not np.array_equal(written[: written.n_rows], pixels):
        raise InvalidInputError(
            f"output: {file.where} is an image of mode {image.mode}, which cannot hold the class {values.max()}"
        )
