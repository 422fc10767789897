"""The report: one page for a browser that loads nothing from elsewhere.

Names of classes and rows, and texts, come from users: the template escapes everything that it is given, the page's
policy lets no script run but its own, and figures have their text as outlines. Files of pictures are not trusted
either: what is not a PNG or JPEG picture by its first bytes is refused, and so is one with more pixels than Pillow
takes for harmless. Thumbnails are encoded anew, so that nothing of a file but its pixels is in them.
"""

from __future__ import annotations

import abc
import base64
import hashlib
import io
import os
import re
import stat
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.estimate import ErrorEstimate
from labelsieve.confident_learning.filters import filter_of
from labelsieve.confident_learning.matrices import Columns
from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError, optional, size
from labelsieve.results.result import Result
from labelsieve.results.store import check_writable, replacing
from labelsieve.sources.names import as_text, read_lines
from labelsieve.sources.objects import ObjectStore
from labelsieve.sources.open import open_any
from labelsieve.sources.places import FORMATS, expand, local_path
from labelsieve.storage.folder import LocalFolder
from labelsieve.storage.remote import check_place, without_query

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labelsieve.review.compare import Comparison


def check_page(path: Path, kind: str) -> None:
    """Raise unless a page, a ``report`` or ``review``, can be made and written to `path`.

    Raises
    ------
    InvalidInputError
        For another ending, or a missing folder.
    UnwritableError
        If nothing can be written beside it.
    MissingDependencyError
        Without jinja2.
    """
    check_place(kind, path)
    if path.suffix != ".html":
        raise InvalidInputError(f"a {kind} is a page, so {path} must end in .html")
    check_writable(path)
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder")
    optional("jinja2", f"The {kind}", "report")


def render(template: str, kind: str, /, **values: Any) -> str:
    """Return a page as text; whatever is put into the template is escaped.

    Parameters
    ----------
    template : str
        Its path in the folder of this module.
    kind : str
        ``report`` or ``review``, for messages.
    **values
        What the template shows.

    Raises
    ------
    MissingDependencyError
        Without jinja2.
    """
    jinja2 = optional("jinja2", f"The {kind}", "report")
    loader = jinja2.PackageLoader("labelsieve", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return str(environment.get_template(template).render(values))


def heading_parts(result: Result, title: str | None = None) -> list[str]:
    """Return what stands under the heading: the dataset, when the run ended, and the version.

    Raises
    ------
    InputTypeError
        For a title that is no text.
    """
    if title is not None and not isinstance(title, str):
        raise InputTypeError(f"title must be text, not {title!r}")
    facts = result.facts
    place = facts.inputs.get("pred_probs", "").partition("?")[0].rstrip("/")
    # Of a path the folder and the name: several datasets often differ only in the folder.
    name = as_text(title) if title else "/".join(place.split("/")[-2:]) if "/" in place else ""
    when = f"{facts.finished} UTC" if facts.finished else ""
    return [part for part in (name, when, f"Labelsieve {facts.versions.get('labelsieve', '')}".strip()) if part]


def digest(text: str) -> str:
    """Return what names a script or style in the content security policy of a page."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# Colors that also differ in brightness, for print and for color-blind readers.
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#767676"
# Most classes of a heat map, and most bars.
MOST_CLASSES: Final = 30
_LABEL_LETTERS: Final = 24


class Plots:
    """Pictures of a result: ``issues.plot.scores()``, ``issues.plot.classes()``, ``issues.plot.pairs()``.

    Parameters
    ----------
    result : Result
        The result.
    """

    def __init__(self, result: Result) -> None:
        self._result = result

    def scores(self, ax: Axes | None = None) -> Axes:
        """Draw a histogram of the scores of all rows, with a line at the highest score of an issue; return the axes."""
        result, (edges, counts) = self._result, self._result.score_histogram()
        ax = ax or _axes(6.4, 3.2)
        ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_BLUE, label="rows")
        if result.num_issues:
            last = float(result.found.part(result.num_issues - 1, result.num_issues).scores[0])
            ax.axvline(last, color=_ORANGE, linestyle="--", label=f"highest score of an issue, {last:.3g}")
        ax.set_yscale("symlog", linthresh=1)
        ax.set_ylim(bottom=0)
        ax.set_xlabel(f"label quality score ({result.settings.method})")
        ax.set_ylabel("rows")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        return ax

    def classes(self, top: int = 20, ax: Axes | None = None) -> Axes:
        """Draw the label noise of the `top` noisiest classes, a bar for each; return the axes."""
        table = self._result.class_table()
        order = noisiest_classes(table, min(top, MOST_CLASSES))
        order = order[table["rows"][order] > 0]
        noise, flags = table["label_noise"][order], table["flag"][order].tolist()
        names = [self._short(k) for k in order.tolist()]
        ax = ax or _axes(6.4, 0.8 + 0.26 * max(1, len(order)))
        ax.barh(np.arange(len(order)), noise, color=[_GREY if flag else _BLUE for flag in flags])
        labels = [f"{name} ({flag})" if flag else name for name, flag in zip(names, flags, strict=True)]
        ax.set_yticks(np.arange(len(order)), labels)
        ax.invert_yaxis()
        ax.set_xlim(0, max(0.01, 1.05 * float(np.nanmax(noise, initial=0))))
        ax.set_xlabel("label noise (share of the rows with this label)")
        return ax

    def pairs(self, top: int = MOST_CLASSES, ax: Axes | None = None) -> Axes:
        """Draw how often the `top` most confused classes are confused, as a heat map; return the axes."""
        table = self._result.pair_table()
        pairs = list(zip(table["given_label"].tolist(), table["suggested_label"].tolist(), strict=True))
        chosen: dict[int, None] = {}
        for pair in pairs:
            with_pair = chosen | dict.fromkeys(pair)
            if len(with_pair) > min(top, MOST_CLASSES):
                break
            chosen = with_pair
        classes = sorted(chosen)
        place = {k: i for i, k in enumerate(classes)}
        grid = np.zeros((max(1, len(classes)),) * 2)
        for (given, suggested), rows in zip(pairs, table["estimated_rows"].tolist(), strict=True):
            if given in place and suggested in place:
                grid[place[given], place[suggested]] = rows
        side = 2.2 + 0.22 * max(4, len(classes))
        ax = ax or _axes(side + 0.8, side)
        image = ax.imshow(np.ma.masked_equal(grid, 0), cmap="viridis_r", vmin=0)
        names = [self._short(k) for k in classes]
        ax.set_xticks(np.arange(len(classes)), names, rotation=90)
        ax.set_yticks(np.arange(len(classes)), names)
        ax.set_xlabel("suggested label")
        ax.set_ylabel("given label")
        if ax.figure is not None:
            ax.figure.colorbar(image, ax=ax, label="rows, as estimated", shrink=0.8)
        return ax

    def _short(self, k: int) -> str:
        """Return the name of a class for a picture, cut if it is long."""
        text = self._result.class_label(k)
        text = text if len(text) <= _LABEL_LETTERS else text[: _LABEL_LETTERS - 1] + "…"
        return text.replace("$", r"\$")  # matplotlib would read mathematics between two of these


def noisiest_classes(table: Columns, top: int) -> npt.NDArray[np.intp]:
    """Return the classes with the most label noise, by the columns of a class table; those without rows last."""
    return np.argsort(-np.nan_to_num(table["label_noise"], nan=-1.0), kind="stable")[:top]


def _axes(width: float, height: float) -> Any:
    figure = optional("matplotlib.figure", "A picture", "report").Figure(figsize=(width, height), layout="constrained")
    return figure.subplots()


# Letters of a text that are shown.
MOST_LETTERS: Final = 5000


class RowTexts:
    """Texts of some rows, in their order. Of a file only the places of its lines are kept.

    Parameters
    ----------
    texts : sequence of str, or path
        Texts of all rows, or a text file with one on each line.
    n_rows : int
        Number of all rows, or of the images, sentences or examples that they are parts of.
    rows : (n,) int64
        The rows that are shown.
    most_letters : int
        Letters of each that are shown; the last one of a longer text is an ellipsis.

    Raises
    ------
    InvalidInputError
        For another number of texts, or a file that cannot be read.
    InputTypeError
        For anything else.

    Examples
    --------
    >>> import numpy as np
    >>> RowTexts(["a cat", "a dog", "another dog"], 3, np.array([2, 0]), most_letters=8).part(0, 2)
    ['another…', 'a cat']
    """

    def __init__(self, texts: Any, n_rows: int, rows: Int64s, most_letters: int = MOST_LETTERS) -> None:
        self._texts, self._places, self._most_letters = texts, rows, most_letters
        starts = texts
        if isinstance(texts, str | os.PathLike):
            self._texts, starts = Path(check_place("texts", texts)), array("q")
            try:
                with self._texts.open("rb") as file:
                    place = len(b"\xef\xbb\xbf") if file.read(3) == b"\xef\xbb\xbf" else 0
                    file.seek(place)
                    for line in file:
                        line.decode("utf-8")  # so that a file that is not text is refused before a run
                        starts.append(place)
                        place += len(line)
            except (OSError, ValueError) as error:
                raise InvalidInputError(f"texts: {self._texts} is not readable: {error}") from error
        elif not hasattr(texts, "__len__") or not hasattr(texts, "__getitem__"):
            raise InputTypeError(f"texts must be a sequence of strings or a file's path, not {type(texts).__name__}")
        if len(starts) != n_rows:
            raise InvalidInputError(f"texts: there are {len(starts):,} texts, and there must be {n_rows:,}")
        if isinstance(starts, array):
            self._places = np.array(starts, np.int64)[rows]

    def part(self, start: int, stop: int) -> list[str]:
        """Return the texts ``[start, stop)``, without what is too long.

        Raises
        ------
        UnreadableDataError
            If a file has changed, and cannot be read.
        """
        places, found = self._places[start:stop].tolist(), list[str]()
        if isinstance(self._texts, Path):
            try:
                with self._texts.open("rb") as file:
                    for place in places:
                        file.seek(place)
                        # The lines of `read_lines`, which would keep all.
                        found.append(file.readline().decode("utf-8").removesuffix("\r\n").removesuffix("\n"))
            except (OSError, ValueError) as error:
                raise UnreadableDataError(f"texts: {self._texts} is not readable: {error}") from error
        else:
            listed = getattr(self._texts, "iloc", self._texts)  # pandas would look rows up by its own index
            found = [str(listed[row]) for row in places]
        most = self._most_letters
        return [text if len(text) <= most else text[: most - 1] + "…" for text in map(as_text, found)]


# Pictures ----------------------------------------------------------------------------------------------------------

PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
# Bytes of a thumbnail, and pixels of its longer side.
THUMBNAIL_BYTES: Final = 20_000
THUMBNAIL_SIDE: Final = 320

# The ways to store a thumbnail, best first: the format, the share of its side, and options of Pillow.
_THUMBNAILS: Final[list[tuple[str, float, dict[str, Any]]]] = [
    ("png", 1, {"optimize": True}),
    *(
        ("jpeg", share, {"quality": quality})
        for share, quality in ((1, 85), (1, 70), (1, 40), (2 / 3, 40), (1 / 2, 25), (1 / 4, 25), (1 / 8, 25))
    ),
]
# A PNG is tried if this share of its values, as bytes, is small enough: photographs shrink to one half.
_PNG_SHARE: Final = 8
# How a PNG and a JPEG file begin; nothing else is read.
_BEGINNINGS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MOST_FILE_BYTES: Final = 100_000_000


class Pictures(abc.ABC):
    """The pictures of all rows; several threads may take them."""

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

    def data_url(self, row: int, most_bytes: int = THUMBNAIL_BYTES, side: int = THUMBNAIL_SIDE) -> str:
        """Return a small picture of a row as a data URL: see `encode_thumbnail`."""
        return encode_thumbnail(self.image(row, side), most_bytes, side)


class ArrayPictures(Pictures):
    """Pictures in an array, or in a list of arrays of any sizes.

    Parameters
    ----------
    arrays : (N, H, W) or (N, H, W, 1 or 3 or 4) array, or sequence of (H, W) or (H, W, 1 or 3 or 4) arrays
        Numbers; an array may be stored, and is read row by row.
    """

    def __init__(self, arrays: Any) -> None:
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
    >>> pictures.data_url(2)[:22]
    'data:image/png;base64,'
    """
    _pillow()
    places = _places_of(images)
    if places is not None:
        _check_pictures(len(places), n_rows)
        return FilePictures(places)
    if isinstance(images, list | tuple) and images and all(isinstance(one, np.ndarray) for one in images):
        _check_pictures(len(images), n_rows)
        return ArrayPictures(images)
    array = open_any("images", images)
    shape, wanted = tuple(array.shape), f"({n_rows:,}, H, W) or ({n_rows:,}, H, W, 3)"
    _check_pixels("images", shape[1:] if shape[:1] == (n_rows,) else (), array.dtype, wanted, shape)
    return ArrayPictures(array)


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


def encode_thumbnail(image: Any, most_bytes: int, side: int) -> str:
    """Return a picture as a data URL, of at most `side` pixels a side, and of `most_bytes` before that if possible.

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
    is_png = small.width * small.height * len(small.getbands()) <= _PNG_SHARE * most_bytes
    for form, share, options in _THUMBNAILS[not is_png :]:
        part, file = max(1, round(share * side)), io.BytesIO()
        small.thumbnail((part, part))
        small.save(file, form, **options)
        if file.tell() <= most_bytes:
            break
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def _check_pictures(n_pictures: int, n_rows: int) -> None:
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


def _pillow() -> Any:
    return optional("PIL.Image", "Pictures", "images")


# The page ----------------------------------------------------------------------------------------------------------

# Bytes of all pictures of a page, before they are encoded as text, and of one.
_PICTURE_BYTES: Final = 2_500_000
_ONE_PICTURE_BYTES: Final = 10_000
_PICTURE_SIDE: Final = 96
_TEXT_LETTERS: Final = 300
_TOP_CLASSES: Final = 20
_TOP_PAIRS: Final = 20


def write_report(
    result: Result,
    path: Path,
    *,
    top: int = 100,
    images: Any = None,
    texts: Sequence[str] | Path | None = None,
    title: str | None = None,
    marked: Sequence[tuple[str, str, str]] | None = None,
    groups: Sequence[Mapping[str, Any]] = (),
    estimate: ErrorEstimate | None = None,
    comparison: Comparison | None = None,
) -> None:
    """Write the report of a result.

    Parameters
    ----------
    result : Result
        The result.
    path : Path
        Ends in ``.html``; what is there is replaced once all is written.
    top : int
        How many of the worst rows to show.
    images : (N, H, W) or (N, H, W, 3) array, path, pattern, or sequence of paths; optional
        Pictures of all rows, as `open_pictures` takes them; only those shown are
        read.
    texts : sequence of str, or path, optional
        Texts of all rows, or a text file with one per line.
    title : str, optional
        Name of the dataset; by default the end of the path of `pred_probs`.
    marked : sequence of tuple of str, optional
        Of each row that is shown: the text before what is to be marked, this itself, and the text after it.
    groups : sequence of mapping
        Of the worst images: ``image``, ``picture`` (a data URL), ``issues``, ``score`` and ``classes``.
    estimate : ErrorEstimate, optional
        What an audit of the result says.
    comparison : Comparison, optional
        The result beside an earlier one.

    Raises
    ------
    InvalidInputError
        For a path that does not end in ``.html``, or pictures and texts that are not of N rows.
    MissingDependencyError
        Without jinja2 or matplotlib.
    UnwritableError
        If the page cannot be written.
    """
    check_report(path)
    columns = result.issue_table(0, top)
    # Of pixels, tokens and tags, pictures and texts are those of their images, sentences and examples.
    n_things = result.n_rows if result.layout is None else result.layout.n_groups
    numbers, rows = next(iter(columns.values())).tolist(), _lines(columns)
    if images is not None:
        pictures, most = open_pictures(images, n_things), _PICTURE_BYTES // max(1, len(rows))
        for number, row in zip(numbers, rows, strict=True):
            row["picture"] = pictures.data_url(number, min(_ONE_PICTURE_BYTES, most), _PICTURE_SIDE)
    if texts is not None:
        opened = RowTexts(texts, n_things, np.array(numbers, np.int64), _TEXT_LETTERS)
        for text, row in zip(opened.part(0, len(rows)), rows, strict=True):
            row["text"] = text
    for parts, row in zip(marked or (), rows, strict=marked is not None):
        row["marked"] = [as_text(part) for part in parts]
    page = _page(result, rows, heading_parts(result, title), groups, estimate, comparison)
    with replacing(LocalFolder(path)) as made:
        made.write_text(page, encoding="utf-8")


def check_report(path: Path, n_rows: int = 0, images: Any = None, texts: Any = None) -> None:
    """Raise unless a report can be written to `path`, of `n_rows` rows with these images and texts.

    Raises
    ------
    InvalidInputError
        For another ending, a missing folder, or images or texts of another number of rows.
    UnwritableError
        If nothing can be written beside it.
    MissingDependencyError
        Without jinja2 or matplotlib.
    """
    check_page(path, "report")
    optional("matplotlib", "The report", "report")
    if images is not None:
        open_pictures(images, n_rows)
    if texts is not None:
        RowTexts(texts, n_rows, np.empty(0, np.int64))


def check_estimate(estimate: object, result: Result) -> ErrorEstimate | None:
    """Return an estimate for the report of `result`; None if there is none.

    Raises
    ------
    InvalidInputError
        For an estimate of another result.
    InputTypeError
        For anything else.
    """
    if estimate is None:
        return None
    if not isinstance(estimate, ErrorEstimate):
        raise InputTypeError(f"estimate must be what labelsieve.estimate returns, not {estimate!r}")
    if estimate.n_rows != result.n_labelled:
        raise InvalidInputError(
            f"the estimate is of {estimate.n_rows:,} labelled rows, the result has {result.n_labelled:,}"
        )
    if estimate.fingerprint and estimate.fingerprint != result.fingerprint:
        raise InvalidInputError(f"the estimate is of the result {estimate.fingerprint}, this is {result.fingerprint}")
    return estimate


def _page(
    result: Result,
    rows: list[dict[str, Any]],
    heading: list[str],
    groups: Sequence[Mapping[str, Any]],
    estimate: ErrorEstimate | None,
    comparison: Comparison | None,
) -> str:
    script = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
    classes, plots = result.class_table(), Plots(result)
    order = noisiest_classes(classes, _TOP_CLASSES)
    return render(
        "results/report.html.jinja",
        "report",
        result=result,
        heading=heading,
        summary=summary_of(result),
        audited=audited_in_words(result, estimate) if estimate is not None else "",
        comparison=comparison,
        compared=comparison.changed_classes(_TOP_CLASSES) if comparison is not None else [],
        figures={
            "scores": _svg(plots.scores(), "scores"),
            "classes": _svg(plots.classes(_TOP_CLASSES), "classes"),
            "pairs": _svg(plots.pairs(), "pairs") if len(result.confident.pairs) else "",
        },
        classes=_lines({name: column[order] for name, column in classes.items()}),
        pairs=_lines(result.pair_table(_TOP_PAIRS)),
        rows=rows,
        groups=groups,
        places=["row"] if result.layout is None else list(result.layout.columns(np.empty(0, np.int64))),
        warnings=warnings_of(result),
        facts=facts_of(result),
        script=script,
        digest=digest(script),
    )


def _lines(columns: dict[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """Return a table as a dictionary for each line."""
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, line, strict=True)) for line in values]


def _svg(ax: Any, name: str) -> str:
    """Return a figure as SVG, with text as outlines and without a date: the same bytes each time."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        ax.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = "<svg" + file.getvalue().partition("<svg")[2]
    # Several figures share a page, so the ids in each begin with its name.
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def summary_of(result: Result) -> str:
    """Return how the number of issues relates to the estimated number of wrong labels, in some sentences."""
    n_rows, found, estimated = result.n_labelled, result.num_issues, result.estimated_num_issues
    rows = "rows" if result.layout is None else result.layout.units[0]
    share = f"{found / n_rows:.2%} of the {rows}"
    text = (
        f"Confident learning estimates that {estimated:,} of {n_rows:,} labels ({estimated / n_rows:.2%}) are wrong. "
        f"The label health is the share of the others, {1 - estimated / n_rows:.2%}. "
    )
    if result.settings.filter_by is not None:
        compared = "as many as" if found == estimated else "more than" if found > estimated else "fewer than"
        return (
            f"{text}The {rows} listed as issues are selected by filter_by={result.settings.filter_by!r}: "
            f"{found:,} ({share}), {compared} estimated."
        )
    if found == estimated:
        return f"{text}The {found:,} {rows} with the lowest scores ({share}) are listed as issues."
    return (
        f"{text}Of the {estimated:,} {rows} with the lowest scores, {found:,} ({share}) are listed as issues. The "
        f"label of the other {estimated - found:,} is the class that the model predicts, or nearly so."
    )


def audited_in_words(result: Result, estimate: ErrorEstimate) -> str:
    """Return what an audit says of the labels."""
    rows = "rows" if result.layout is None else result.layout.units[0]
    return f"Audit of {estimate.n_reviewed:,} reviewed {rows}, with 95% intervals: {estimate}."


def warnings_of(result: Result) -> list[str]:
    """Return what to check before trusting the numbers: the notes of the run, and classes whose numbers mean little."""
    flags, warnings = result.class_table()["flag"], list(result.facts.notes)
    for flag, text in {
        "absent": "no row has this label, so nothing is known about it",
        "rare": "fewer than 10 rows have this label, too few for a threshold",
        "tiny threshold": "the mean probability of the class over its rows is below 1/K, so nearly every row that is "
        "predicted as it counts as confident",
    }.items():
        classes = np.flatnonzero(flags == flag).tolist()
        if classes:
            names = ", ".join(result.class_label(k) for k in classes[:10])
            more = f" and {len(classes) - 10:,} more" if len(classes) > 10 else ""
            warnings.append(f"{rows_in_words(len(classes), 'class', 'classes')} {flag} ({names}{more}): {text}.")
    return warnings


def facts_of(result: Result) -> dict[str, str]:
    """Return facts about the run, by name."""
    facts = result.facts
    read = f"{size(facts.bytes_read)} in {facts.n_reads} pass{'es' if facts.n_reads > 1 else ''}"
    resumed = f"; {facts.rows_resumed:,} rows were already in the workdir" if facts.rows_resumed else ""
    rate = f", {size(facts.bytes_read / max(facts.seconds, 1e-9))} per second" if facts.bytes_read else ""
    return {
        **{name: place for name, place in facts.inputs.items() if place},
        "Rows and classes": f"{result.n_rows:,} x {result.n_classes:,}",
        **({"Rows without a label": f"{result.n_ignored:,}"} if result.n_ignored else {}),
        "Read": read + resumed,
        "Time": f"{facts.seconds:,.3g} s{rate}",
        **({"Finished": f"{facts.finished} UTC"} if facts.finished else {}),
        "Scheduler": facts.scheduler,
        "Settings": ", ".join(filter_of(result.settings).described),
        "Versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
