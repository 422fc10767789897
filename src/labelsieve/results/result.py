"""What a run found, as data."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import class_quality
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.settings import Settings

# Issues that are made a table of at a time.
TABLE_ROWS: Final = 1 << 20

if TYPE_CHECKING:
    import dask.array as da  # for types alone: this module needs no Dask


class ScoreParts(Protocol):
    """Scores of all rows, wherever their parts are."""

    @property
    def in_store(self) -> bool:
        """Whether they are in a store, or made from what is in one."""

    def to_numpy(self) -> npt.NDArray[np.floating[Any]]:
        """Return them as ``(N,)`` in memory."""

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""

    def blocks(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield them in row order, some rows at a time."""


class IssueParts(Protocol):
    """The label issues, worst first, wherever they are."""

    def __len__(self) -> int:
        """Return how many there are."""

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield one column of all issues, some at a time."""


class IdParts(Protocol):
    """The user's own names of rows, wherever they are."""

    def part(self, start: int, stop: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the names of the issues ``[start, stop)``, which are `rows` of the input."""


@dataclass(frozen=True, eq=False, repr=False)
class IssueRows:
    """The rows that are label issues, worst first, with what a person asks about each.

    Parameters
    ----------
    rows : (M,) int64
        Row numbers.
    scores : (M,) float
        Label quality scores, ascending.
    given_labels, suggested_labels : (M,) uint
        The given label and the predicted class.
    p_given, p_suggested : (M,) float
        Their probabilities.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.floating[Any]]
    given_labels: npt.NDArray[np.integer[Any]]
    suggested_labels: npt.NDArray[np.integer[Any]]
    p_given: npt.NDArray[np.floating[Any]]
    p_suggested: npt.NDArray[np.floating[Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<IssueRows: {len(self):,} rows, with {', '.join(self.columns())}>"

    @classmethod
    def none(cls, score_dtype: npt.DTypeLike, class_dtype: npt.DTypeLike, prob_dtype: npt.DTypeLike) -> IssueRows:
        """Return no rows."""
        dtypes = (np.int64, score_dtype, class_dtype, class_dtype, prob_dtype, prob_dtype)
        return cls(*(np.empty(0, dtype) for dtype in dtypes))

    @classmethod
    def concatenate(cls, parts: Sequence[IssueRows]) -> IssueRows:
        """Return the rows of all `parts`, one after the other."""
        columns: Any = zip(*(part.columns().values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""
        return IssueRows(*(column[start:stop] for column in self.columns().values()))

    def column(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield a column."""
        yield self.columns()[name]

    def take(self, order: npt.NDArray[np.intp]) -> IssueRows:
        """Return the rows at the positions `order`."""
        return IssueRows(*(column[order] for column in self.columns().values()))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns by their names in a table."""
        return {
            "row": self.rows,
            "score": self.scores,
            "given_label": self.given_labels,
            "suggested_label": self.suggested_labels,
            "p_given": self.p_given,
            "p_suggested": self.p_suggested,
        }


@dataclass(frozen=True)
class RunFacts:
    """How the run went.

    Parameters
    ----------
    bytes_read : int
        Decoded bytes of `pred_probs` that this call read, over all reads; fewer where it went on from a workdir.
    n_reads : int
        How many times a run reads `pred_probs`.
    rows_read, rows_resumed : int
        Rows that the first read read, and rows that it found committed in the workdir.
    n_batches, n_partitions : int
        Pieces that it was cut in.
    planned_bytes : int
        The most own memory of a process that reads, as planned before the run (`memory.Need`), without the issues.
    seconds : float
        Wall time of the call.
    scheduler : str
        Who did the work.
    versions : dict
        Versions of Labelsieve and of what it rests on.
    notes : tuple of str
        What looked odd in the data.
    misfit : str
        Why labels and predictions do not seem to belong together; empty if they do.
    inputs : dict
        Where ``labels`` and ``pred_probs`` are: a path, a URL without its query, or what kind of object.
    finished : str
        When the run ended, in UTC, as ``2026-11-25 12:40``.
    """

    bytes_read: int
    n_reads: int
    rows_read: int
    rows_resumed: int
    n_batches: int
    n_partitions: int
    planned_bytes: int
    seconds: float
    scheduler: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    misfit: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    finished: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a run found; `labelsieve.LabelIssues` is what people get.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    found : IssueParts
        The label issues, worst first: in memory, or where the tasks wrote them.
    estimated_num_issues : int
        The number that the count rule estimated. `num_issues` is lower where the lowest scores include rows whose label
        is the predicted class, or nearly so: these are no issues.
    confident_thresholds : (K,) float64
        Mean probability of each class over the rows labelled with it; 2.0 for a class without rows.
    class_counts : (K,) int64
        Rows labelled with each class.
    mean_scores : (K,) float64
        Mean score of the rows labelled with each class; NaN without rows.
    confident : ConfidentCounts
        Confidently predicted rows by given label and predicted class.
    score_parts : ScoreParts
        What `scores` and `lazy_scores` are made of.
    settings : Settings
        What changes the answer.
    facts : RunFacts
        How the run went.
    class_names : tuple of str, optional
        K names.
    ids : IdParts, optional
        The user's own names of rows.
    """

    n_rows: int
    n_classes: int
    found: IssueParts
    estimated_num_issues: int
    confident_thresholds: npt.NDArray[np.float64]
    class_counts: npt.NDArray[np.int64]
    mean_scores: npt.NDArray[np.float64]
    confident: ConfidentCounts
    score_parts: ScoreParts
    settings: Settings
    facts: RunFacts
    class_names: tuple[str, ...] | None = None
    ids: IdParts | None = None

    @property
    def num_issues(self) -> int:
        """Number of label issues: the length of `indices`."""
        return len(self.found)

    @cached_property
    def issues(self) -> IssueRows:
        """The label issues, worst first, in memory."""
        return self.found if isinstance(self.found, IssueRows) else self.found.part(0, len(self.found))

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """``(num_issues,)`` rows of the label issues, worst first, ties by row."""
        return self.issues.rows

    def worst(self, top: int) -> IssueRows:
        """Return the `top` worst issues, or all if there are fewer; no others are loaded."""
        return self.found.part(0, min(top, len(self.found)))

    @cached_property
    def lazy_scores(self) -> da.Array:
        """``(N,)`` label quality scores of all rows as a Dask array."""
        return self.score_parts.to_dask()

    @cached_property
    def scores(self) -> Any:
        """``(N,)`` label quality scores of all rows: a read-only NumPy array, or a lazy Dask array.

        Lazy where they are in a store, or in row summaries in a workdir; ``numpy.asarray(issues.scores)`` fetches them.
        """
        if self.score_parts.in_store:
            return self.lazy_scores
        scores = self.score_parts.to_numpy()
        scores.flags.writeable = False
        return scores

    def score_histogram(self, n_bins: int = 50) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return how the scores of all rows are distributed, read some rows at a time.

        Parameters
        ----------
        n_bins : int
            Bins of equal width: from 0 to 1, or from the lowest to the highest score where adjusted ones go beyond.

        Returns
        -------
        edges : (n_bins + 1,) float64
            Of the bins.
        counts : (n_bins,) int64
            Rows of each.
        """
        low, high = 0.0, 1.0
        if self.settings.adjust_pred_probs:
            ends = [(float(block.min()), float(block.max())) for block in self.score_parts.blocks()]
            low, high = min(low, *(a for a, _ in ends)), max(high, *(b for _, b in ends))
        edges = np.linspace(low, high, n_bins + 1)
        counts = np.zeros(n_bins, np.int64)
        for block in self.score_parts.blocks():  # scores may be above 1 by what probabilities may
            counts += np.histogram(np.clip(block, low, high), edges)[0]
        return edges, counts

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return the ``(N,)`` mask that is True for label issues."""
        mask = np.zeros(self.n_rows, np.bool_)
        for rows in self.found.column("row"):
            mask[rows] = True
        return mask

    @cached_property
    def issues_of_class(self) -> npt.NDArray[np.int64]:
        """``(K,)`` label issues with each label."""
        total = np.zeros(self.n_classes, np.int64)
        for labels in self.found.column("given_label"):
            total += np.bincount(labels, minlength=self.n_classes)
        return total

    def issue_table(self, start: int = 0, stop: int | None = None) -> class_quality.Columns:
        """Return the issues ``[start, stop)``, counted from the worst, as columns, with ids and names if any."""
        stop = len(self.found) if stop is None else min(stop, len(self.found))
        part = self.found.part(start, stop)
        columns = part.columns()
        if self.ids is not None:
            columns = {"row": columns.pop("row"), "id": self.ids.part(start, stop, part.rows)} | columns
        return self.named(columns)

    def issue_tables(self, start: int = 0, stop: int | None = None) -> Iterator[class_quality.Columns]:
        """Yield `issue_table` some rows at a time; of no rows once, for its columns."""
        stop = len(self.found) if stop is None else stop
        for first in range(start, max(stop, start + 1), TABLE_ROWS):
            yield self.issue_table(first, min(first + TABLE_ROWS, stop))

    def class_table(self) -> class_quality.Columns:
        """Return what is known of each class: the columns of `health.class_columns`, with names after ``class``."""
        return self.named(
            class_quality.class_columns(
                self.confident,
                self.class_counts,
                self.confident_thresholds,
                self.mean_scores,
                self.issues_of_class,
            )
        )

    def pair_table(self, top: int | None = None) -> class_quality.Columns:
        """Return the most confused pairs of classes: the columns of `health.pair_columns`, with names."""
        return self.named(class_quality.pair_columns(self.confident, self.class_counts, top))

    def class_label(self, k: int) -> str:
        """Return how a class is called: its number, and its name if it has one."""
        return str(k) if self.class_names is None else f"{k} {' '.join(self.class_names[k].split())}"

    def named(self, columns: class_quality.Columns) -> class_quality.Columns:
        """Add the names of the classes that stand in `columns`, at the end."""
        if self.class_names is None:
            return columns
        names = np.array(self.class_names, object)
        pairs = (("class", "name"), ("given_label", "given_name"), ("suggested_label", "suggested_name"))
        return columns | {name: names[columns[of].astype(np.intp)] for of, name in pairs if of in columns}


def loaded_versions() -> dict[str, str]:
    """Return the versions of what made the answer, of what is loaded."""
    found = {"labelsieve": metadata.version("labelsieve"), "python": platform.python_version()}
    loaded = {name: sys.modules.get(name) for name in ("numpy", "dask", "zarr", "distributed")}
    return found | {name: str(module.__version__) for name, module in loaded.items() if module is not None}
