"""What a run found.

Covers: `LabelIssues` and `IssueRows`.
Does not cover: files (`sinks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import dask.array as da  # for types alone: this module needs no Dask


class ScoreParts(Protocol):
    """Scores of all rows, wherever their parts are."""

    def to_numpy(self) -> npt.NDArray[np.floating[Any]]:
        """Return them as ``(N,)`` in memory."""

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""


class IssueParts(Protocol):
    """The label issues, worst first, wherever they are."""

    def __len__(self) -> int:
        """Return how many there are."""

    def part(self, start: int, stop: int) -> IssueRows:
        """Return the issues ``[start, stop)``, counted from the worst."""

    def parts(self) -> Iterator[IssueRows]:
        """Yield all issues, some at a time."""


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

    def parts(self) -> Iterator[IssueRows]:
        """Yield all issues, some at a time."""
        yield self

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
    """

    bytes_read: int
    n_reads: int
    rows_read: int
    rows_resumed: int
    n_batches: int
    n_partitions: int
    planned_bytes: int
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class LabelIssues:
    """Label issues of a dataset, found by `labelsieve.find_label_issues`.

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
    score_parts : ScoreParts
        What `scores` and `lazy_scores` are made of.
    facts : RunFacts
        How the run went.

    Examples
    --------
    >>> import labelsieve
    >>> labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    <LabelIssues: 1 of 3 rows (33.33%) in 2 classes; worst rows: 2>
    """

    n_rows: int
    n_classes: int
    found: IssueParts
    estimated_num_issues: int
    confident_thresholds: npt.NDArray[np.float64]
    class_counts: npt.NDArray[np.int64]
    score_parts: ScoreParts
    facts: RunFacts

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
        """Return the `top` worst issues, or all if there are fewer; no others are loaded.

        Examples
        --------
        >>> import labelsieve
        >>> labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]).worst(3).rows
        array([2])
        """
        return self.found.part(0, min(top, len(self.found)))

    @cached_property
    def lazy_scores(self) -> da.Array:
        """``(N,)`` label quality scores of all rows as a Dask array, one chunk a partition."""
        return self.score_parts.to_dask()

    @cached_property
    def scores(self) -> npt.NDArray[np.floating[Any]]:
        """``(N,)`` label quality scores of all rows, made a read-only NumPy array at the first call."""
        scores = self.score_parts.to_numpy()
        scores.flags.writeable = False
        return scores

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return the ``(N,)`` mask that is True for label issues.

        Examples
        --------
        >>> import numpy as np
        >>> import labelsieve
        >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> labelsieve.find_label_issues([0, 1, 0], p).mask()
        array([False, False,  True])
        """
        mask = np.zeros(self.n_rows, np.bool_)
        for part in self.found.parts():
            mask[part.rows] = True
        return mask

    def __repr__(self) -> str:
        share = self.num_issues / self.n_rows
        worst = ", ".join(str(row) for row in self.worst(5).rows.tolist()) + (", ..." if self.num_issues > 5 else "")
        return (
            f"<LabelIssues: {self.num_issues:,} of {self.n_rows:,} rows ({share:.2%}) in {self.n_classes:,} classes; "
            f"worst rows: {worst or 'none'}>"
        )
