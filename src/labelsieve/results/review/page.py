"""The review page: one file for a browser, or the same page as a server shows it.

Names of classes and rows, and texts, come from users. They are in the page as JSON, which the script shows as text; the
page's policy lets nothing run but its own script, and loads nothing from elsewhere.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from labelsieve.results.pages import check_page, digest, heading_parts, render
from labelsieve.results.pictures import (
    THUMBNAIL_BYTES,
    THUMBNAIL_SIDE,
    Pictures,
    encode_thumbnail,
    open_pictures,
)
from labelsieve.results.publish import replacing
from labelsieve.results.result import Result
from labelsieve.results.review.rows import ReviewRows
from labelsieve.settings import check_whole_number
from labelsieve.sources.text_cells import as_text
from labelsieve.storage.folders import LocalFolder
from labelsieve.storage.urls import check_place

# Bytes of a picture for each of its pixels: 500 pictures of 64 x 64 are 4.4 MB as text.
_PIXEL_BYTES: Final = 1.6
_LEAST_BYTES: Final = 2_000
# Rows that are read at a time.
_BLOCK_ROWS: Final = 1000
# Issues in a page that is a file.
FILE_ROWS: Final = 500
# Pictures that are read at the same time: they may be at URLs.
_READERS: Final = 8


def write_review(
    result: Result,
    path: str | os.PathLike[str],
    *,
    top: int = FILE_ROWS,
    images: Any = None,
    title: str | None = None,
    **choices: Any,
) -> None:
    """Write the page about a result: `choices` are for `ReviewRows`, the others as for `LabelIssues.review`."""
    place = Path(check_place("path", path))
    check_page(place, "review")
    rows = ReviewRows(result, top=check_whole_number("top", top, 1), **choices)
    pictures = None if images is None else open_pictures(images, rows.n_things)
    lines = [line for start in range(0, len(rows), _BLOCK_ROWS) for line in rows.part(start, start + _BLOCK_ROWS)]
    if pictures is not None:
        with ThreadPoolExecutor(_READERS) as pool:
            reading = [pool.submit(_data_url, pictures, thing) for thing in rows.things.tolist()]
            try:
                for line, one in zip(lines, reading, strict=True):
                    line["picture"] = one.result()
            finally:
                pool.shutdown(cancel_futures=True)
    page = render_page(rows, "file", title=title, lines=lines).encode()
    with replacing(LocalFolder(place)) as made:
        made.write_bytes(page)


def render_page(
    rows: ReviewRows,
    mode: str,
    *,
    title: str | None = None,
    lines: list[dict[str, Any]] | None = None,
    has_pictures: bool = False,
) -> str:
    """Return the page as text.

    Parameters
    ----------
    rows : ReviewRows
        What it shows.
    mode : {"file", "served"}
        Whether the rows are in the page and decisions in the browser, or both with a server, which the page asks for
        ``rows``, ``decisions``, ``picture/ROW`` and ``decisions.csv`` beside its own URL.
    title : str, optional
        Name of the dataset.
    lines : list of dict, optional
        All rows, as `ReviewRows.part` returns them, in a page that is a file.
    has_pictures : bool
        Whether the server has a picture of each row.

    Raises
    ------
    MissingDependencyError
        Without jinja2.
    """
    result = rows.result
    config = {
        "mode": mode,
        "fingerprint": result.fingerprint,
        "has_pictures": has_pictures,
        "classes": rows.scheme.names,
        "values": rows.scheme.values,
        "index": {name: getattr(rows, name).tolist() for name in ("rows", "given", "suggested")},
        "rows": lines,
    }
    script, style = (_beside(name) for name in ("review.js", "review.css"))
    n_issues, unit = result.num_issues, "rows" if result.layout is None else result.layout.units[0]
    shown = (
        f"{len(rows):,} {unit} of an audit"
        if rows.audit is not None
        else f"{len(rows):,} chosen {unit}"
        if rows.are_chosen
        else f"The worst {len(rows):,} of {n_issues:,} label issues"
    )
    page = render(
        "review/review.html.jinja",
        "review",
        heading=heading_parts(result, title),
        shown=shown,
        config=_json(config),
        script=script,
        style=style,
        policy=content_policy(mode),
    )
    return as_text(page)  # the place of the inputs may be any name of a file


def content_policy(mode: str) -> str:
    """Return the content security policy of the page: its own script and style, pictures, and the server's answers."""
    own = " 'self'" if mode == "served" else ""
    hashes = {name: f"'{digest(_beside(f'review.{name}'))}'" for name in ("js", "css")}
    rules = {
        "default-src": "'none'",
        "script-src": hashes["js"],
        "style-src": hashes["css"],
        "img-src": f"data:{own}",
        **({"connect-src": "'self'"} if own else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",  # the script makes no markup of text
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _data_url(pictures: Pictures, thing: int) -> str:
    """Return the picture of a row as a data URL, in bytes that fit its size."""
    image = pictures.image(thing, THUMBNAIL_SIDE)
    most = int(min(THUMBNAIL_BYTES, max(_LEAST_BYTES, _PIXEL_BYTES * image.width * image.height)))
    return encode_thumbnail(image, most, THUMBNAIL_SIDE).url


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """Return JSON that may stand in a script element: no ``<`` is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
