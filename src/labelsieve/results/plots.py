"""Pictures of a result, with matplotlib.

Figures are made without pyplot: no window, no global state, and none that has to be closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve.confident_learning.class_quality import class_flags
from labelsieve.errors import MissingDependencyError
from labelsieve.results.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that differ in brightness too, for print and for eyes that see few of them.
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#767676"
# Most classes of a heat map, and most bars.
MOST_CLASSES: Final = 30
_LABEL_LETTERS: Final = 24


class Plots:
    """Pictures of a result: ``issues.plot.scores()``, ``issues.plot.classes()``, ``issues.plot.pairs()``.

    Parameters
    ----------
    result : Result
        What was found.
    """

    def __init__(self, result: Result) -> None:
        self._result = result

    def scores(self, ax: Axes | None = None) -> Axes:
        """Show how the scores are distributed, and where the issues end; return the axes."""
        return score_plot(self._result, ax)

    def classes(self, top: int = 20, ax: Axes | None = None) -> Axes:
        """Show the label noise of the `top` noisiest classes; return the axes."""
        return class_plot(self._result, top, ax)

    def pairs(self, top: int = MOST_CLASSES, ax: Axes | None = None) -> Axes:
        """Show how often which of the `top` most confused classes are confused, as a heat map; return the axes."""
        return pair_plot(self._result, top, ax)


def score_plot(result: Result, ax: Axes | None = None) -> Axes:
    """Draw a histogram of the scores of all rows, with a line at the highest score of an issue."""
    edges, counts = result.score_histogram()
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


def class_plot(result: Result, top: int = 20, ax: Axes | None = None) -> Axes:
    """Draw a bar for each of the noisiest classes: the share of its rows that truly are of another class."""
    table = result.class_table()
    order = np.argsort(-np.nan_to_num(table["label_noise"], nan=-1.0), kind="stable")[: min(top, MOST_CLASSES)]
    order = order[table["rows"][order] > 0]
    names = [_short(result, k) for k in order.tolist()]
    ax = ax or _axes(6.4, 0.8 + 0.26 * max(1, len(order)))
    flags = class_flags(result.class_counts, result.confident_thresholds)[order]
    ax.barh(np.arange(len(order)), table["label_noise"][order], color=[_GREY if flag else _BLUE for flag in flags])
    ax.set_yticks(np.arange(len(order)), [f"{n} ({flag})" if flag else n for n, flag in zip(names, flags, strict=True)])
    ax.invert_yaxis()
    ax.set_xlim(0, max(0.01, 1.05 * float(np.nanmax(table["label_noise"][order], initial=0))))
    ax.set_xlabel("label noise (share of the rows with this label)")
    return ax


def pair_plot(result: Result, top: int = MOST_CLASSES, ax: Axes | None = None) -> Axes:
    """Draw a heat map of the classes that are in the most confused pairs: given label by suggested one."""
    pairs = result.pair_table()
    given, suggested, rows = (pairs[name] for name in ("given_label", "suggested_label", "estimated_rows"))
    classes: list[int] = []
    for pair in zip(given.tolist(), suggested.tolist(), strict=True):
        new = [k for k in dict.fromkeys(pair) if k not in classes]
        if len(classes) + len(new) > min(top, MOST_CLASSES):
            break
        classes += new
    classes.sort()
    place = {k: i for i, k in enumerate(classes)}
    grid = np.zeros((max(1, len(classes)),) * 2)
    for a, b, n in zip(given.tolist(), suggested.tolist(), rows.tolist(), strict=True):
        if a in place and b in place:
            grid[place[a], place[b]] = n
    side = 2.2 + 0.22 * max(4, len(classes))
    ax = ax or _axes(side + 0.8, side)
    image = ax.imshow(np.ma.masked_equal(grid, 0), cmap="viridis_r", vmin=0)
    names = [_short(result, k) for k in classes]
    ax.set_xticks(np.arange(len(classes)), names, rotation=90)
    ax.set_yticks(np.arange(len(classes)), names)
    ax.set_xlabel("suggested label")
    ax.set_ylabel("given label")
    if ax.figure is not None:
        ax.figure.colorbar(image, ax=ax, label="rows, as estimated", shrink=0.8)
    return ax


def _short(result: Result, k: int) -> str:
    """Return how a class is called in pictures: cut where it is long."""
    text = result.class_label(k)
    text = text if len(text) <= _LABEL_LETTERS else text[: _LABEL_LETTERS - 1] + "…"
    return text.replace("$", r"\$")  # matplotlib would read mathematics between two of these


def _axes(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A picture", "report") from error
    return Figure(figsize=(width, height), layout="constrained").subplots()
