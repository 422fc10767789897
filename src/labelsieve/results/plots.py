"""Pictures of a result, with matplotlib.

Figures are made without pyplot: they open no window, share no state, and need not be closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.class_quality import Columns
from labelsieve.errors import MissingDependencyError
from labelsieve.results.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A picture", "report") from error
    return Figure(figsize=(width, height), layout="constrained").subplots()
