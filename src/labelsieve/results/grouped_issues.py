"""The issues among rows that are parts of larger things, which each task shows in its own way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.results.layouts import Layout
from labelsieve.results.zarr_store import StoredScores
from labelsieve.settings import check_whole_number

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Int64s
    from labelsieve.results.label_issues import LabelIssues
    from labelsieve.results.result import RunFacts
    from labelsieve.settings import Settings

# Rows whose scores are reduced at a time, unless a group has more.
_BLOCK_ROWS: Final = 1 << 20


class GroupedIssues:
    """The issues of a run whose rows are pixels, tokens or tags.

    Parameters
    ----------
    rows : LabelIssues
        The issues as rows, which have a `layout`.

    Attributes
    ----------
    rows : LabelIssues
        The issues as rows: one pixel, token or tag after the other.
    """

    def __init__(self, rows: LabelIssues) -> None:
        if rows.layout is None:
            raise ValueError("the rows have no groups")
        self.rows, self._layout = rows, rows.layout

    @property
    def layout(self) -> Layout:
        """Where each row is."""
        return self._layout

    @property
    def num_issues(self) -> int:
        """Number of rows that are issues."""
        return self.rows.num_issues

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self.rows.n_classes

    @property
    def n_ignored(self) -> int:
        """Number of rows without a label (`ignore_label`)."""
        return self.rows.n_ignored

    @property
    def confident_thresholds(self) -> Float64s:
        """``(K,)`` mean probability of each class over the rows labelled with it; 2.0 for a class without rows."""
        return self.rows.confident_thresholds

    @property
    def class_counts(self) -> Int64s:
        """``(K,)`` number of rows with each label."""
        return self.rows.class_counts

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """K names, if they were given."""
        return self.rows.class_names

    @property
    def settings(self) -> Settings:
        """The choices that change the answer."""
        return self.rows.settings

    @property
    def facts(self) -> RunFacts:
        """How the run went."""
        return self.rows.facts

    def class_summary(self) -> pd.DataFrame:
        """Return a table with a row per class, the noisiest first: see `labelsieve.LabelIssues.class_summary`."""
        return self.rows.class_summary()

    def confused_pairs(self, top: int | None = 20) -> pd.DataFrame:
        """Return which labels are confused with which classes: see `labelsieve.LabelIssues.confused_pairs`."""
        return self.rows.confused_pairs(top)

    def health_score(self) -> float:
        """Return the estimated share of right labels."""
        return self.rows.health_score()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole result into one Zarr group, for `labelsieve.load`: see `labelsieve.LabelIssues.save`."""
        self.rows.save(path)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 100,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        title: str | None = None,
        before: Any = None,
    ) -> None:
        """Write a report for a browser: see `labelsieve.LabelIssues.report`. Pictures and texts are those of groups."""
        self.rows.report(path, top=top, images=images, texts=texts, title=title, before=before)

    def issues_per_group(self) -> Int64s:
        """Return the ``(n_groups,)`` number of issues in each group."""
        total = np.zeros(self._layout.n_groups, np.int64)
        for rows in self.rows.found.column("row"):
            total += np.bincount(self._layout.groups_of(rows), minlength=len(total))
        return total

    def score_blocks(self) -> Iterator[tuple[int, Int64s, Floats]]:
        """Yield the scores of all rows, some whole groups at a time.

        Yields
        ------
        first : int
            Number of the first of the groups.
        edges : (n + 1,) int64
            Where the scores of each of n groups begin in `scores`, and the last ones end.
        scores : (edges[-1],) float
            Scores of their rows; valid until the next ones.
        """
        yield from whole_groups(self._layout, self.rows.score_parts.blocks())

    def __len__(self) -> int:
        return self.num_issues

    def _repr_html_(self) -> str:
        return self.rows._repr_html_()

    def _rows_of(self, group: int | None) -> tuple[int, int]:
        """Return the first row of a group and the one behind its last; those of all groups without a number."""
        if group is None:
            return 0, self.rows.n_rows
        start, stop = self._layout.edges(group, group + 1).tolist()
        return start, stop

    def _mask_of_rows(self, start: int, stop: int) -> Bools:
        """Return which of the rows ``[start, stop)`` are issues."""
        scores = self.rows.score_parts
        if isinstance(scores, StoredScores):
            stored: Bools = scores.group.open("mask").read(start, stop)
            return stored
        mask = np.zeros(stop - start, np.bool_)
        for rows in self.rows.found.column("row"):
            mask[rows[(rows >= start) & (rows < stop)] - start] = True
        return mask

    def _scores_of_rows(self, start: int, stop: int) -> Floats:
        """Return the scores of the rows ``[start, stop)``."""
        scores = self.rows.score_parts
        if isinstance(scores, StoredScores):
            stored: Floats = scores.group.open("scores").read(start, stop)
            return stored
        return np.asarray(self.rows.scores[start:stop])

    def _checked_group(self, group: int) -> int:
        """Return the number of a group, or raise if there is none."""
        what = self._layout.units[1]
        number = check_whole_number(what.removesuffix("s"), group, 0)
        if number >= self._layout.n_groups:
            raise InvalidInputError(
                f"there is no {what.removesuffix('s')} {number:,}: there are {self._layout.n_groups:,}, from 0 on"
            )
        return number


class IssuePairs(GroupedIssues):
    """The issues of a run whose rows are named by two numbers: a sentence and a token, or an example and a tag.

    Iterating over a result gives its pairs, worst first, and NumPy converts it to an ``(num_issues, 2)`` array.
    """

    def pairs(self, top: int | None = None) -> Int64s:
        """Return the issues as pairs of a group and a place in it, worst first.

        Parameters
        ----------
        top : int, optional
            Number of issues, from the worst; all by default.

        Returns
        -------
        (num_issues or top, 2) int64
            Sentence and token, or example and tag, of each issue.
        """
        stop = self.num_issues if top is None else check_whole_number("top", top, 0)
        return self._pairs_of(self.rows.indices if stop >= self.num_issues else self.rows.worst(stop).rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for rows in self.rows.found.column("row"):
            yield from as_tuples(self._pairs_of(rows))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.pairs(), dtype, copy=copy)

    def _pairs_of(self, rows: Int64s) -> Int64s:
        return np.stack(list(self._layout.columns(rows).values()), axis=1)


def as_tuples(pairs: Int64s) -> list[tuple[int, int]]:
    """Return an ``(n, 2)`` array as a list of tuples."""
    return list(zip(*pairs.T.tolist(), strict=True)) if len(pairs) else []


def lowest(scores: Float64s, top: int) -> Int64s:
    """Return the numbers of the `top` lowest scores, the lowest first, ties by number; those that are NaN are left out.

    Parameters
    ----------
    scores : (n_groups,) float64
        Scores of groups.
    top : int
        Most numbers to return.

    Raises
    ------
    InvalidInputError
        For a negative number.
    """
    order = np.argsort(scores, kind="stable")  # NaN last
    return order[: min(check_whole_number("top", top, 0), int(np.count_nonzero(~np.isnan(scores))))]


def whole_groups(
    layout: Layout, blocks: Iterator[npt.NDArray[Any]], block_rows: int = _BLOCK_ROWS
) -> Iterator[tuple[int, Int64s, npt.NDArray[Any]]]:
    """Cut a column of all rows, which comes in blocks of any lengths, into blocks of whole groups.

    Parameters
    ----------
    layout : Layout
        The groups.
    blocks : iterator of (n,) arrays
        The column, in row order.
    block_rows : int
        Most rows of a block, unless a single group has more.

    Yields
    ------
    first : int
        Number of the first of the groups.
    edges : (n + 1,) int64
        Where each of n groups begins in `values`, and the last one ends.
    values : (edges[-1],) array
        The column of their rows.
    """
    first, parts, n_held = 0, [np.empty(0)], 0
    for block in blocks:
        # Joined once there is a whole group: one may have many blocks.
        parts, n_held = [*parts, block] if n_held else [block], n_held + len(block)
        while first < layout.n_groups:
            edges = _next_edges(layout, first, min(n_held, block_rows))
            if edges[-1] > n_held:
                break
            held = parts[0] if len(parts) == 1 else np.concatenate(parts)
            yield first, edges, held[: edges[-1]]
            parts, n_held, first = [held[edges[-1] :]], n_held - int(edges[-1]), first + len(edges) - 1
    while first < layout.n_groups:  # groups without rows, at the end
        edges = _next_edges(layout, first, 0)
        yield first, edges, parts[-1][:0]
        first += len(edges) - 1


def _next_edges(layout: Layout, first: int, n_rows: int) -> Int64s:
    """Return the edges of the groups from `first` on that fit in `n_rows` rows, or of that group alone, from 0."""
    n = 1
    while (
        first + n < layout.n_groups and layout.edges(first, first + 2 * n)[-1] - layout.edges(first, first)[0] <= n_rows
    ):
        n *= 2
    edges = layout.edges(first, min(first + 2 * n, layout.n_groups))
    edges = edges - edges[0]
    fitting: Int64s = edges[: max(2, int(np.searchsorted(edges, n_rows, "right")))]
    return fitting
