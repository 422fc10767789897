"""Pictures of rows: from arrays, and from PNG and JPEG files at paths and URLs; each is read when it is shown.

Files come from elsewhere, and are not trusted: what is not a PNG or JPEG picture by its first bytes is refused, and so
is one with more pixels than Pillow takes for harmless. Thumbnails are encoded anew, so that nothing of a file but its
pixels is in them.
"""

from __future__ import annotations

import abc
import base64
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError, UnreadableDataError, size
from labelsieve.sources.names import read_lines
from labelsieve.sources.objects import ObjectStore
from labelsieve.sources.open import open_any
from labelsieve.sources.places import FORMATS, expand, local_path
from labelsieve.storage.remote import check_place, without_query

PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
# Bytes of a thumbnail, and pixels of its longer side.
THUMBNAIL_BYTES: Final = 20_000
THUMBNAIL_SIDE: Final = 320

# The ways to store a thumbnail, best first: the share of its side, and the quality of a JPEG.
_FORMS: Final = ((1, 85), (1, 70), (1, 40), (2 / 3, 40), (1 / 2, 25), (1 / 4, 25), (1 / 8, 25))
# A PNG is tried if this share of its values, as bytes, is small enough: photographs shrink to one half.
_PNG_SHARE: Final = 8
# How a PNG and a JPEG file begin; nothing else is read.
_BEGINNINGS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MOST_FILE_BYTES: Final = 100_000_000


class Picture(NamedTuple):
    """An encoded picture.

    Parameters
    ----------
    data : bytes
        The bytes of a PNG or JPEG file.
    media_type : str
        ``image/png`` or ``image/jpeg``.
    """

    data: bytes
    media_type: str

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


class Pictures(abc.ABC):
    """The pictures of all rows; several threads may take them.

    Parameters
    ----------
    n_rows : int
        Number of pictures.
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    @abc.abstractmethod
    def image(self, row: int, side: int | None = None) -> Any:
        """Return the picture of a row as a Pillow image, gray or RGB, as it is to be seen.

        Parameters
        ----------
        row : int
            0..N-1.
        side : int, optional
            The longer side needs no more pixels than this; it may have more.

        Raises
        ------
        InvalidInputError
            Naming row and file, if it is not a picture, or a far too large one.
        UnreadableDataError
            If it is damaged, or cannot be read.
        """

    def thumbnail(self, row: int, most_bytes: int = THUMBNAIL_BYTES, side: int = THUMBNAIL_SIDE) -> Picture:
        """Return a small picture of a row.

        Parameters
        ----------
        row : int
            0..N-1.
        most_bytes : int
            Most bytes, before they are encoded as text.
        side : int
            Most pixels of its longer side.
        """
        return encode_thumbnail(self.image(row, side), most_bytes, side)

    def data_url(self, row: int, most_bytes: int = THUMBNAIL_BYTES, side: int = THUMBNAIL_SIDE) -> str:
        """Return a small picture of a row as a data URL."""
        return self.thumbnail(row, most_bytes, side).url


class ArrayPictures(Pictures):
    """Pictures in an array, or in a list of arrays of any sizes.

    Parameters
    ----------
    arrays : (N, H, W) or (N, H, W, 1 or 3 or 4) array, or sequence of (H, W) or (H, W, 1 or 3 or 4) arrays
        Numbers; an array may be stored, and is read row by row.
    n_rows : int
        N.
    """

    def __init__(self, arrays: Any, n_rows: int) -> None:
        super().__init__(n_rows)
        self._arrays = arrays

    def image(self, row: int, side: int | None = None) -> Any:  # noqa: ARG002  # the array is read as it is
        """Return the picture of a row as a Pillow image."""
        listed = isinstance(self._arrays, list | tuple)
        pixels = np.asarray(self._arrays[row] if listed else self._arrays[row : row + 1][0])
        if listed:
            _check_pixels(f"the picture of row {row:,}", pixels.shape, pixels.dtype, "(H, W) or (H, W, 3)")
        scaled = as_bytes(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        return _on_white(_pillow().fromarray(scaled))


class FilePictures(Pictures):
    """Pictures in files.

    Parameters
    ----------
    places : sequence of str
        Path or URL of each row.
    """

    def __init__(self, places: Sequence[str]) -> None:
        super().__init__(len(places))
        self._places = places

    def image(self, row: int, side: int | None = None) -> Any:
        """Return the picture of a row as a Pillow image, turned as its camera says; the first of an animation."""
        where = f"images: the picture of row {row:,}, {without_query(self._places[row])},"
        data = _read(self._places[row], where, row)
        if not data.startswith(_BEGINNINGS):
            raise InvalidInputError(f"{where} is not a PNG or JPEG picture").at([(row, row + 1)])
        image_module = _pillow()
        try:
            with image_module.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                upright = _upright(image, side)
        except (image_module.DecompressionBombError, image_module.DecompressionBombWarning):
            raise InvalidInputError(
                f"{where} has more than {image_module.MAX_IMAGE_PIXELS:,} pixels: make a smaller copy of it"
            ).at([(row, row + 1)]) from None
        except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
            raise UnreadableDataError(f"{where} is damaged: {error}").at([(row, row + 1)]) from error
        if upright.mode in ("F", "I") or upright.mode.startswith("I;"):
            return image_module.fromarray(as_bytes(np.asarray(upright)))
        return _on_white(upright)


def open_pictures(images: Any, n_rows: int) -> Pictures:
    """Open the pictures of all rows; of stored ones only those that are shown are read.

    Parameters
    ----------
    images : (N, H, W) or (N, H, W, 1 or 3 or 4) array, path, URL, pattern, or sequence of arrays, paths or URLs
        Bytes or numbers of any range, as an object that `labelsieve.find_label_issues` takes or the path of a ``.npy``
        file or Zarr array; or arrays of any sizes in a list; or PNG and JPEG files: a list, a column of pandas or
        Polars, a pattern such as ``images/*.png``, whose files are in natural order (2 before 10), or a ``.txt`` file
        with a path or URL on each line.
    n_rows : int
        N.

    Returns
    -------
    Pictures
        What gives the picture of a row.

    Raises
    ------
    InvalidInputError
        For another number of pictures, or a path where nothing is.
    InputTypeError
        For anything but numbers, paths and URLs.
    MissingDependencyError
        Without Pillow.

    Examples
    --------
    >>> import numpy as np
    >>> pictures = open_pictures(np.zeros((5, 8, 8, 3), np.uint8), 5)
    >>> pictures.thumbnail(2).media_type, pictures.data_url(2)[:22]
    ('image/png', 'data:image/png;base64,')
    """
    _pillow()
    places = _places_of(images)
    if places is not None:
        _check_number(len(places), n_rows)
        return FilePictures(places)
    if isinstance(images, list | tuple) and images and all(isinstance(one, np.ndarray) for one in images):
        _check_number(len(images), n_rows)
        return ArrayPictures(images, n_rows)
    array = open_any("images", images)
    shape, wanted = tuple(array.shape), f"({n_rows:,}, H, W) or ({n_rows:,}, H, W, 3)"
    _check_pixels("images", shape[1:] if shape[:1] == (n_rows,) else (), array.dtype, wanted, shape)
    return ArrayPictures(array, n_rows)


def as_bytes(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return pixels as bytes.

    Bytes stay as they are. False and True, and floats from 0 to 1, are scaled by 255. Other numbers are scaled from
    their lowest to their highest value. NaN becomes black.
    """
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    values = pixels.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if pixels.dtype.kind == "b" or (pixels.dtype.kind == "f" and low >= 0 and high <= 1):
        low, high = 0.0, 1.0
    # Infinite values are as the lowest and the highest.
    values = np.nan_to_num(np.clip(values, low, high), nan=low)
    scaled = (values - low) * (255 / (high - low) if high > low else 0.0)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8))


def encode_thumbnail(image: Any, most_bytes: int, side: int) -> Picture:
    """Return a picture of at most `side` pixels a side, and of `most_bytes` if possible.

    It is a PNG, without any loss, if that is small enough, and a JPEG otherwise.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8, or a Pillow image that is gray or RGB
        What is to be seen.
    most_bytes, side : int
        Limits.
    """
    small = _pillow().fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    small.thumbnail((side, side))
    n_values = small.width * small.height * len(small.getbands())
    if n_values <= _PNG_SHARE * most_bytes:
        found = _encoded(small, "PNG", optimize=True)
        if len(found.data) <= most_bytes:
            return found
    for share, quality in _FORMS:
        part = max(1, round(share * side))
        small.thumbnail((part, part))
        found = _encoded(small, "JPEG", quality=quality)
        if len(found.data) <= most_bytes:
            break
    return found


def _check_number(n_pictures: int, n_rows: int) -> None:
    if n_pictures != n_rows:
        raise InvalidInputError(f"images: there are {n_pictures:,} pictures, and there must be {n_rows:,}")


def _check_pixels(
    what: str, shape: tuple[int, ...], dtype: np.dtype[Any], wanted: str, whole: tuple[int, ...] | None = None
) -> None:
    """Raise unless the shape of one picture and the dtype are those of a picture."""
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise InvalidInputError(f"{what} must have shape {wanted}, not {shape if whole is None else whole}")
    if dtype.kind not in "buif":
        raise InvalidInputError(f"{what} must be numbers, not {dtype}")


def _places_of(images: Any) -> list[str] | None:
    """Return the path or URL of each picture; None for arrays."""
    if isinstance(images, str | os.PathLike):
        return _named_places(check_place("images", images))
    if type(images).__module__.partition(".")[0] in ("pandas", "polars") or (
        isinstance(images, np.ndarray) and images.ndim == 1 and images.dtype.kind in "UTO"
    ):
        images = images.tolist() if hasattr(images, "tolist") else list(images)
    if not isinstance(images, list | tuple) or not images or not isinstance(images[0], str | os.PathLike):
        return None
    for row, one in enumerate(images):
        if not isinstance(one, str | os.PathLike):
            raise InputTypeError(
                f"images: the picture of row {row:,} must be a path or a URL, as that of row 0, not {one!r}"
            )
    places = [check_place("images", one) for one in images]
    # Shards of one array.
    return None if without_query(places[0]).endswith(tuple(FORMATS)) else places


def _named_places(place: str) -> list[str] | None:
    """Return the pictures that a pattern, a list in a file, or the path of a picture names; None for another path."""
    local, name = local_path(place), without_query(place).lower()
    if local is not None and name.endswith(".txt"):
        try:
            lines = read_lines(Path(local))
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"images: {place} is not readable: {error}") from error
        return [check_place(f"images: line {number:,} of {place}", line) for number, line in enumerate(lines, 1)]
    if not name.endswith(PICTURE_SUFFIXES):
        return None
    found = expand("images", place, PICTURE_SUFFIXES)
    return [local or place] if found is None else list(found)


def _read(place: str, where: str, row: int) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    InvalidInputError
        Where there is no file, or one too large for a picture.
    UnreadableDataError
        If it cannot be read.
    """
    local = local_path(place)
    try:
        if local is None:
            store, path = ObjectStore.at(place)
            data, _ = store.read(path, 0, _MOST_FILE_BYTES + 1)
        else:
            if not stat.S_ISREG(Path(local).stat().st_mode):  # a pipe would be waited for
                raise InvalidInputError(f"{where} is not a file").at([(row, row + 1)])
            with Path(local).open("rb") as file:
                data = file.read(_MOST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        data = None
    except UnreadableDataError as error:
        raise UnreadableDataError(f"{where} cannot be read: {error}").at([(row, row + 1)]) from None
    except OSError as error:
        raise UnreadableDataError(f"{where} cannot be read: {error.strerror}").at([(row, row + 1)]) from error
    if data is None:
        raise InvalidInputError(f"{where} is not there").at([(row, row + 1)])
    if len(data) > _MOST_FILE_BYTES:
        raise InvalidInputError(f"{where} has more than {size(_MOST_FILE_BYTES)}").at([(row, row + 1)])
    return data


def _upright(image: Any, side: int | None) -> Any:
    """Return a Pillow image decoded, and turned as its camera says."""
    from PIL import Image, ImageOps

    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    if side is not None:
        image.draft(None, (2 * side, 2 * side))  # a JPEG is decoded at about this size
    upright = ImageOps.exif_transpose(image)
    upright.load()
    return upright


def _on_white(image: Any) -> Any:
    """Return a Pillow image as gray or RGB, without anything else that its file holds."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = _pillow().new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    elif image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    image.info = {}
    return image


def _encoded(image: Any, form: str, **options: Any) -> Picture:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Picture(file.getvalue(), f"image/{form.lower()}")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("Pictures", "images") from error
    return Image
