"""What all pages for a browser have in common: where they may be written, the heading, and their templates."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError
from labelsieve.results.publish import check_writable
from labelsieve.results.result import Result
from labelsieve.sources.text_cells import as_text
from labelsieve.storage.urls import check_place


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
    _jinja2(kind)


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
    jinja2 = _jinja2(kind)
    loader = jinja2.PackageLoader("labelsieve.results", ".")
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


def _jinja2(kind: str) -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(f"The {kind}", "report") from error
    return jinja2
