"""The report: one page that a person opens in a browser, with nothing in it from elsewhere.

Names of classes and rows, and texts, come from users: the template escapes all that it is given, the page's policy lets
no script run but its own, and figures have their text as outlines.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.results import plots
from labelsieve.results.export import check_writable, made_beside
from labelsieve.results.result import Result
from labelsieve.results.row_ids import as_text
from labelsieve.sources.open_path import open_place
from labelsieve.storage.limits import size
from labelsieve.storage.urls import check_place

_TEMPLATE: Final = "report.html.jinja"
# How a picture is stored, its longer side in pixels at most: the first that is small enough, or the last.
_FORMS: Final = (
    ("png", 96, {"optimize": True}),
    ("jpeg", 96, {"quality": 75}),
    ("jpeg", 96, {"quality": 40}),
    ("jpeg", 64, {"quality": 40}),
    ("jpeg", 48, {"quality": 25}),
)
# Bytes of all pictures of a page, before they are made text, and the most of one.
_PICTURE_BYTES: Final = 2_500_000
_ONE_PICTURE_BYTES: Final = 10_000
_TEXT_LETTERS: Final = 300
_TOP_CLASSES: Final = 20
_TOP_PAIRS: Final = 20


@dataclass(frozen=True)
class Shown:
    """What stands beside the line of a row.

    Parameters
    ----------
    picture : str
        A data URL, or "".
    text : str
        The row's text, or "".
    """

    picture: str = ""
    text: str = ""


def write_report(
    result: Result,
    path: Path,
    *,
    top: int = 100,
    images: Any = None,
    texts: Sequence[str] | Path | None = None,
    title: str | None = None,
) -> None:
    """Write the report of a result.

    Parameters
    ----------
    result : Result
        What was found.
    path : Path
        Ends in ``.html``; what is there is replaced once all is written.
    top : int
        How many of the worst rows to show.
    images : (N, H, W) or (N, H, W, 3) array, or path, optional
        Pictures of all rows, bytes or numbers of any range, or the path of a ``.npy`` file or Zarr array; only those
        shown are read.
    texts : sequence of str, or path, optional
        Texts of all rows, or a text file with one a line.
    title : str, optional
        Name of the dataset; by default the end of the path of `pred_probs`.

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
    pictures, columns = open_images(images, result.n_rows), result.issue_table(0, top)
    rows = columns["row"].tolist()
    lines = texts_of(texts, rows, result.n_rows)
    each = min(_ONE_PICTURE_BYTES, _PICTURE_BYTES // max(1, len(rows)))
    shown = [Shown(picture_of(pictures, row, each), line) for row, line in zip(rows, lines, strict=True)]
    about = about_of(result, title)
    page = _page(result, columns, shown, about, with_pictures=pictures is not None, with_texts=texts is not None)
    with made_beside(path) as folder:
        (folder / path.name).write_text(page, encoding="utf-8")
        (folder / path.name).replace(path)


def check_report(path: Path) -> None:
    """Raise unless a report can be written to `path`: its ending, its folder, what it takes.

    Raises
    ------
    InvalidInputError
        For another ending, or a folder that is missing.
    UnwritableError
        If nothing can be written beside it.
    MissingDependencyError
        Without jinja2 or matplotlib.
    """
    check_place("report", path)
    if path.suffix != ".html":
        raise InvalidInputError(f"a report is a page, so {path} must end in .html")
    check_writable(path)
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder")
    try:
        import jinja2  # noqa: F401  # whether it is there
        import matplotlib  # noqa: F401, ICN001  # the same
    except ImportError as error:
        raise MissingDependencyError("The report", "report") from error


def check_page(path: Path, n_rows: int, images: Any, texts: Any) -> None:
    """Raise unless a report of `n_rows` rows can be written with these pictures and texts, before they are needed."""
    check_report(path)
    open_images(images, n_rows)
    texts_of(texts, (), n_rows)


def open_images(images: Any, n_rows: int) -> Any:
    """Return pictures of all rows as an array that is read row by row; None without any.

    Raises
    ------
    InvalidInputError
        For anything but ``(N, H, W)`` or ``(N, H, W, 3)``.
    """
    if images is None:
        return None
    array = images
    if isinstance(images, str | os.PathLike):
        array = open_place("images", Path(check_place("images", images)))
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    shape = tuple(np.shape(array))
    if len(shape) not in (3, 4) or shape[0] != n_rows or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise InvalidInputError(f"images must have shape ({n_rows:,}, H, W) or ({n_rows:,}, H, W, 3), not {shape}")
    if np.dtype(array.dtype).kind not in "buif":
        raise InvalidInputError(f"images must be numbers, not {array.dtype}")
    return array


def texts_of(texts: Any, rows: Sequence[int], n_rows: int) -> list[str]:
    """Return the texts of some rows; of a file no others are kept.

    Raises
    ------
    InvalidInputError
        If there are not N texts.
    """
    if texts is None:
        return [""] * len(rows)
    if isinstance(texts, str | os.PathLike):
        check_place("texts", texts)
        wanted, found, n_texts = set(rows), dict[int, str](), 0
        try:
            # As `read_lines` cuts them, but not all are kept.
            with Path(texts).open(encoding="utf-8-sig", newline="\n") as file:
                for line in file:
                    if n_texts in wanted:
                        found[n_texts] = line.removesuffix("\r\n").removesuffix("\n")
                    n_texts += 1
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"texts: {texts} is not readable: {error}") from error
    else:
        n_texts, found = len(texts), {}
    if n_texts != n_rows:
        raise InvalidInputError(f"{n_texts:,} texts, pred_probs has {n_rows:,} rows")
    by_place = getattr(texts, "iloc", texts)  # a column of pandas would look rows up by its own index
    return [_cut(as_text(str(found[row] if found else by_place[row]))) for row in rows]


def picture_of(images: Any, row: int, n_bytes: int) -> str:
    """Return the picture of a row as a data URL, of at most `n_bytes` bytes if it can be; "" without pictures."""
    if images is None:
        return ""
    from PIL import Image

    pixels = np.asarray(images[row])
    whole = Image.fromarray(_bytes_of(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels))
    for form, side, options in _FORMS:
        image, file = whole.copy(), io.BytesIO()
        image.thumbnail((side, side))
        image.save(file, form, **options)
        if file.tell() <= n_bytes:
            break
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def _bytes_of(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale pixels to 0..255, unless they are bytes; what is no number is black."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    values = np.nan_to_num(pixels.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    return np.ascontiguousarray((values - low) * (255 / (high - low) if high > low else 0.0)).astype(np.uint8)


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_LETTERS else text[: _TEXT_LETTERS - 1] + "…"


def _page(
    result: Result,
    columns: dict[str, Any],
    shown: list[Shown],
    about: list[str],
    *,
    with_pictures: bool,
    with_texts: bool,
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("labelsieve.results", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    script = _script(environment)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    classes = result.class_table()
    order = np.argsort(-np.nan_to_num(classes["label_noise"], nan=-1.0), kind="stable")[:_TOP_CLASSES]
    return environment.get_template(_TEMPLATE).render(
        result=result,
        about=about,
        story=story_of(result),
        estimated=result.estimated_num_issues / result.n_rows,
        health=1 - result.estimated_num_issues / result.n_rows,
        figures={
            "scores": _figure(plots.score_plot(result), "scores"),
            "classes": _figure(plots.class_plot(result, _TOP_CLASSES), "classes"),
            "pairs": _figure(plots.pair_plot(result), "pairs") if len(result.confident.pairs) else "",
        },
        classes=_lines({name: column[order] for name, column in classes.items()}),
        with_flags=bool((classes["flag"][order] != "").any()),
        pairs=_lines(result.pair_table(_TOP_PAIRS)),
        rows=list(zip(_lines(columns), shown, strict=True)),
        label=result.class_label,
        warnings=warnings_of(result),
        facts=facts_of(result),
        with_pictures=with_pictures,
        with_texts=with_texts,
        script=script,
        digest=digest,
    )


def _script(environment: Any) -> str:
    """Return the page's only script, which sorts its tables."""
    source: str = environment.loader.get_source(environment, "report.js")[0]
    return source


def _lines(columns: dict[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, values, strict=True))
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]


def _figure(ax: Any, name: str) -> str:
    """Return a figure as SVG with its text as outlines, without date, and with ids of its own."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        ax.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = "<svg" + file.getvalue().partition("<svg")[2]
    # Several figures share a page, so each has ids of its own.
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def about_of(result: Result, title: str | None = None) -> list[str]:
    """Return what the page is about: the dataset, when the run ended, and which version made it."""
    facts = result.facts
    place = facts.inputs.get("pred_probs", "").partition("?")[0].rstrip("/")
    # A file is called as those do who keep several datasets in a folder: by its folder and its name.
    name = as_text(title) if title else "/".join(place.split("/")[-2:]) if "/" in place else ""
    when = f"{facts.finished} UTC" if facts.finished else ""
    return [part for part in (name, when, f"Labelsieve {facts.versions.get('labelsieve', '')}".strip()) if part]


def story_of(result: Result) -> str:
    """Return how the number of issues that were found and that of wrong labels as estimated go together."""
    n_rows, found, estimated = result.n_rows, result.num_issues, result.estimated_num_issues
    share = f"{found / n_rows:.2%} of the rows"
    text = (
        f"Confident learning estimates that {estimated:,} of {n_rows:,} labels ({estimated / n_rows:.2%}) are wrong. "
        f"The label health is the share of the others, {1 - estimated / n_rows:.2%}. "
    )
    if result.settings.filter_by is not None:
        compared = "as many as" if found == estimated else "more than" if found > estimated else "fewer than"
        return (
            f"{text}The rows listed as issues are chosen by filter_by={result.settings.filter_by!r}: "
            f"{found:,} ({share}), {compared} estimated."
        )
    if found == estimated:
        return f"{text}The {found:,} rows of lowest score ({share}) are listed as issues."
    return (
        f"{text}Of the {estimated:,} rows of lowest score {found:,} ({share}) are listed as issues. The label of the "
        f"other {estimated - found:,} is the class that the model predicts, or nearly so."
    )


def warnings_of(result: Result) -> list[str]:
    """Return what deserves a look before the numbers are believed."""
    flags = result.class_table()["flag"]
    said = list(result.facts.notes)
    for flag, text in {
        "absent": "no row has this label: nothing can be said of it",
        "rare": "fewer than 10 rows have this label, too few for a threshold",
        "tiny threshold": "rows with this label get less than 1/K on average: rows predicted so count as confident",
    }.items():
        classes = np.flatnonzero(flags == flag).tolist()
        if classes:
            names = ", ".join(result.class_label(k) for k in classes[:10])
            more = f" and {len(classes) - 10:,} more" if len(classes) > 10 else ""
            said.append(f"{rows_in_words(len(classes), 'class', 'classes')} {flag} ({names}{more}): {text}.")
    return said


def facts_of(result: Result) -> dict[str, str]:
    """Return how the run went, by name."""
    facts = result.facts
    return {
        **{name: place for name, place in facts.inputs.items() if place},
        "Rows and classes": f"{result.n_rows:,} x {result.n_classes:,}",
        "Read": f"{size(facts.bytes_read)} in {facts.n_reads} pass{'es' if facts.n_reads > 1 else ''}"
        + (f"; {facts.rows_resumed:,} rows were done before" if facts.rows_resumed else ""),
        "Time": f"{facts.seconds:,.3g} s"
        + (f", {size(facts.bytes_read / max(facts.seconds, 1e-9))} a second" if facts.bytes_read else ""),
        **({"Finished": f"{facts.finished} UTC"} if facts.finished else {}),
        "Done by": facts.scheduler,
        "Settings": ", ".join(result.settings.described),
        "Versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
