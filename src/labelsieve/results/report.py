"""The report: one page for a browser that loads nothing from elsewhere.

Names of classes and rows, and texts, come from users: the template escapes everything that it is given, the page's
policy lets no script run but its own, and figures have their text as outlines.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.error_estimate import ErrorEstimate
from labelsieve.confident_learning.filters import filter_of
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError
from labelsieve.memory import size
from labelsieve.results.comparison import Comparison
from labelsieve.results.pages import check_page, digest, heading_parts, render
from labelsieve.results.pictures import open_pictures
from labelsieve.results.plots import Plots, noisiest_classes
from labelsieve.results.publish import replacing
from labelsieve.results.result import Result
from labelsieve.results.texts import open_texts
from labelsieve.sources.text_cells import as_text
from labelsieve.storage.folders import LocalFolder

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
        Pictures of all rows, as `labelsieve.results.pictures.open_pictures` takes them; only those shown are
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
        opened = open_texts(texts, n_things, np.array(numbers, np.int64), _TEXT_LETTERS)
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
    try:
        import matplotlib  # noqa: F401, ICN001  # whether it is there
    except ImportError as error:
        raise MissingDependencyError("The report", "report") from error
    if images is not None:
        open_pictures(images, n_rows)
    if texts is not None:
        open_texts(texts, n_rows, np.empty(0, np.int64))


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
        "report.html.jinja",
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
