"""`LabelInspector`: find label issues in your own loop over batches, as in cleanlab's batched module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import select as radix_select
from labelsieve.confident_learning.checks import Findings, RowChecks, combine_findings, raise_or_warn
from labelsieve.confident_learning.joint import JointCounts
from labelsieve.confident_learning.misfit import SAMPLE_ROWS, describe_misfit
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import combine_totals
from labelsieve.confident_learning.thresholds import (
    ClassSums,
    Floats,
    Ints,
    IssueCounts,
    adjusted_thresholds,
    class_dtype,
    class_sums_combine,
    class_sums_finalize,
)
from labelsieve.errors import InvalidInputError, warn
from labelsieve.execution.cluster import active_client
from labelsieve.job import passes
from labelsieve.job.inputs import map_partitions, open_inputs
from labelsieve.job.passes import resolve_n_jobs
from labelsieve.job.scan import class_sums
from labelsieve.job.whole_rows import InspectedRows, combine_counts, inspect, num_issues
from labelsieve.job.workdir import check_versions, note_versions
from labelsieve.options import batched_choices, check_whole_number, explain_keywords
from labelsieve.sources.objects import RETRIES, retry
from labelsieve.sources.open import check_axes, open_labels, open_pred_probs

__all__ = ["LabelInspector"]


class LabelInspector:
    """Find label issues batch by batch, in your own loop.

    Call `update_confident_thresholds` on every batch (or on a subset with enough rows of each class), then
    `score_label_quality` on every batch, then `get_label_issues`. A batch is scored and counted with the thresholds at
    the time of the call; later updates do not change that. A batch that is refused changes nothing.

    Parameters
    ----------
    num_class : int
        Number of classes K.
    store_results : bool
        Whether to keep the score of every row. If False, keep the scores that `score_label_quality` returns: the
        issues are the `get_num_issues` lowest ones.
    verbose : bool
        Whether the getters print the number of rows that they cover.
    quality_score_kwargs : dict, optional
        ``method`` (self_confidence, normalized_margin, confidence_weighted_entropy or logit_margin) and
        ``adjust_pred_probs``.
    num_issue_kwargs : dict, optional
        ``estimation_method`` (off_diagonal or off_diagonal_calibrated), and ``rule``: ``predicted_class``, the
        default, counts a row by its predicted class alone; ``confident_joint`` counts it as cleanlab's in-memory
        functions do (`labelsieve.count.num_label_issues`), by the class whose threshold it reaches.
    n_jobs : int or None
        1 runs on Dask's scheduler; a larger number forks that many processes per batch, on Linux; None takes the
        physical cores.

    Raises
    ------
    InvalidInputError
        For a `num_class` below 2, or settings that are not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> lab = LabelInspector(num_class=2, verbose=False)
    >>> for i in range(0, 5, 2):
    ...     lab.update_confident_thresholds(labels[i : i + 2], pred_probs[i : i + 2])
    >>> for i in range(0, 5, 2):
    ...     scores = lab.score_label_quality(labels[i : i + 2], pred_probs[i : i + 2])
    >>> lab.get_label_issues()
    array([4])

    The two rules differ for a row that does not reach the threshold of its predicted class, but that of another. Here
    the thresholds are 0.85, 0.57 and 0.2. Row 5 is predicted as class 0 with 0.7, which is too low, so the default rule
    leaves it out. It has 0.3 for class 2, which is enough, so the exact rule counts it there.

    >>> labels = np.array([0, 0, 1, 1, 2, 1])
    >>> pred_probs = np.array(
    ...     [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.2, 0.8, 0], [0.1, 0.9, 0], [0.2, 0.6, 0.2], [0.7, 0, 0.3]]
    ... )
    >>> for rule in ("predicted_class", "confident_joint"):
    ...     lab = LabelInspector(num_class=3, verbose=False, num_issue_kwargs={"rule": rule})
    ...     lab.update_confident_thresholds(labels, pred_probs)
    ...     scores = lab.score_label_quality(labels, pred_probs)
    ...     print(rule, lab.get_num_issues(), lab.get_label_issues())
    predicted_class 1 [5]
    confident_joint 2 [5 4]
    """

    @explain_keywords({})
    def __init__(
        self,
        *,
        num_class: int,
        store_results: bool = True,
        verbose: bool = True,
        quality_score_kwargs: Mapping[str, Any] | None = None,
        num_issue_kwargs: Mapping[str, Any] | None = None,
        n_jobs: int | None = 1,
    ) -> None:
        self.num_class = check_whole_number("num_class", num_class, 2)
        self.store_results, self.verbose = store_results, verbose
        self.n_jobs = resolve_n_jobs(n_jobs, verbose=verbose)
        self._settings = Settings(**batched_choices(quality_score_kwargs, num_issue_kwargs))
        self._sums = ClassSums.zeros(self.num_class)
        self._thresholds: npt.NDArray[np.float64] | None = None
        self._counts: IssueCounts | JointCounts | None = None
        self._n_scored = self._n_counted = 0
        self._scores = _GrowingArray(np.float32)
        self._checks = RowChecks(unnormalized_rows="warn")
        self._fit_check = _FitCheck(self.num_class)

    def __repr__(self) -> str:
        seen, settings = int(self._sums.counts.sum()), self._settings
        return (
            f"<LabelInspector: {self.num_class:,} classes, {settings.method}, {settings.estimation_method}; "
            f"thresholds from {seen:,} rows, {self._n_scored:,} scored>"
        )

    def update_confident_thresholds(self, labels: Any, pred_probs: Any) -> None:
        """Add a batch to the class means.

        Parameters
        ----------
        labels : (n,) array-like of int
            Given labels; any kind that `labelsieve.find_label_issues` takes.
        pred_probs : (n, K) array-like of float
            Predicted probabilities.

        Raises
        ------
        InvalidInputError
            For bad data, before any of it is added.
        """
        parts = self._map_partitions(labels, pred_probs, class_sums)
        if not parts:
            return
        total = combine_totals(parts)
        self._raise_or_warn(total.findings, total.sums.dense().counts)
        self._sums = class_sums_combine([self._sums, total.sums.dense()])
        self._thresholds = None

    def score_label_quality(self, labels: Any, pred_probs: Any, *, update_num_issues: bool = True) -> Floats:
        """Score a batch, and count its issues.

        Parameters
        ----------
        labels : (n,) array-like of int
            Given labels.
        pred_probs : (n, K) array-like of float
            Predicted probabilities.
        update_num_issues : bool
            Whether the batch counts for `get_num_issues`.

        Returns
        -------
        (n,) float
            Label quality scores; lower is more likely wrong.

        Raises
        ------
        InvalidInputError
            If `update_confident_thresholds` was not called before, and for bad data.
        """
        thresholds = self._current_thresholds()
        adj_thresholds = adjusted_thresholds(thresholds) if update_num_issues else None
        work = partial(inspect, settings=self._settings, thresholds=thresholds)
        parts: list[InspectedRows] = self._map_partitions(labels, pred_probs, work, adj_thresholds=adj_thresholds)
        if not parts:
            return np.empty(0, np.float64)
        self._raise_or_warn(combine_findings(p.findings for p in parts))
        scores = np.concatenate([p.scores for p in parts])
        if update_num_issues:
            known = [] if self._counts is None else [self._counts]
            self._counts = combine_counts(known + [p.counts for p in parts if p.counts is not None])
            self._n_counted += len(scores)
        self._n_scored += len(scores)
        for part in parts:
            self._fit_check.add(part.labels, part.predicted)
        if self.store_results:
            self._scores.append(scores)
        return scores

    def get_confident_thresholds(self, silent: bool = False) -> npt.NDArray[np.float64]:
        """Return the thresholds of the rows seen so far.

        Parameters
        ----------
        silent : bool
            Print nothing, whatever `verbose` says.

        Returns
        -------
        (K,) float64
            Mean probability of each class over the rows labelled with it; 2.0 for a class without rows.

        Raises
        ------
        InvalidInputError
            If `update_confident_thresholds` was not called before.
        """
        thresholds = self._current_thresholds()
        if self.verbose and not silent:
            n_rows = int(self._sums.counts.sum())
            print(f"Total number of examples used to estimate confident thresholds: {n_rows}")
        return thresholds.copy()

    def get_num_issues(self, silent: bool = False) -> int:
        """Return the estimated number of label issues among the rows scored so far.

        Parameters
        ----------
        silent : bool
            Print nothing, whatever `verbose` says.

        Returns
        -------
        int
            Number of issues, by the `estimation_method`.

        Raises
        ------
        InvalidInputError
            If no rows were counted, or only some of the scored rows.
        """
        counts = self._check_all_counted()
        self._fit_check.warn_once(self._n_scored)
        if self.verbose and not silent:
            print(f"Total number of examples whose labels have been evaluated: {self._n_scored}")
        return num_issues(counts, calibrated=self._settings.calibrated)

    def get_quality_scores(self) -> Floats:
        """Return the scores of all rows so far.

        Returns
        -------
        (n,) float
            A copy, in the order of the batches.

        Raises
        ------
        InvalidInputError
            With ``store_results=False``.
        """
        self._require_results("scores")
        return self._scores.values().copy()

    def get_label_issues(self) -> npt.NDArray[np.int64]:
        """Return the rows of lowest score, as many as `get_num_issues` returns.

        Returns
        -------
        (num_issues,) int64
            Positions in the order of the batches, ordered by (score, row).

        Raises
        ------
        InvalidInputError
            With ``store_results=False``, or if not all scored rows were counted.
        """
        self._require_results("issues")
        num_issues = self.get_num_issues()
        return radix_select.lowest_rows(self._scores.values(), num_issues)

    def _map_partitions(
        self, labels: Any, pred_probs: Any, function: Callable[..., Any], **shared: npt.NDArray[np.float64] | None
    ) -> list[Any]:
        """Return ``function(partition, **shared)`` for each partition of a batch; [] for a batch without rows."""
        attempts = RETRIES + 1
        opened_labels = retry(attempts, open_labels, labels)
        opened_probs = retry(attempts, open_pred_probs, pred_probs)
        if opened_probs.shape[1] != self.num_class:
            raise InvalidInputError(f"pred_probs has {opened_probs.shape[1]} columns, num_class is {self.num_class}")
        if not opened_probs.shape[0] and not opened_labels.shape[0]:
            return []
        check_axes(labels, pred_probs)
        pair = opened_labels, opened_probs
        note_versions(pair, attempts)
        inputs = retry(attempts, partial(open_inputs, *pair, n_jobs=self.n_jobs))
        forks = passes.can_fork(inputs, self.n_jobs, is_cluster=active_client() is not None)
        if forks and inputs.grid.n_partitions > 1:
            parts = passes.map_in_forks(inputs, function, self.n_jobs, shared)
        else:
            parts = map_partitions(inputs, partial(function, **shared))
        check_versions(pair, attempts)
        return parts

    def _raise_or_warn(self, findings: Findings, class_counts: Ints | None = None) -> None:
        """Raise for bad data; warn once about rows that do not sum to 1, in the first batch that has some."""
        raise_or_warn(findings, self.num_class, self._checks, class_counts)
        if findings.of_kind("row_sum"):
            self._checks = RowChecks(unnormalized_rows="allow")

    def _current_thresholds(self) -> npt.NDArray[np.float64]:
        if not self._sums.counts.any():
            raise InvalidInputError("no confident thresholds yet: call update_confident_thresholds() first")
        if self._thresholds is None:
            self._thresholds = class_sums_finalize(self._sums)
        return self._thresholds

    def _check_all_counted(self) -> IssueCounts | JointCounts:
        if not self._n_scored:
            raise InvalidInputError("no labels evaluated yet: call score_label_quality() first")
        if self._counts is None or self._n_counted != self._n_scored:
            raise InvalidInputError(
                f"{self._n_scored:,} rows were scored, {self._n_counted:,} of them counted: "
                "score every batch with update_num_issues=True"
            )
        return self._counts

    def _require_results(self, what: str) -> None:
        if not self.store_results:
            raise InvalidInputError(
                f"store_results=False keeps no {what}: keep the scores that score_label_quality() returns; "
                "the issues are the get_num_issues() lowest"
            )


class _FitCheck:
    """Checks whether labels and predictions belong together, on the first 262,144 rows that are scored."""

    def __init__(self, n_classes: int) -> None:
        self._n_classes, self._n_checked = n_classes, 0
        self._labels, self._predicted = (_GrowingArray(class_dtype(n_classes)) for _ in range(2))

    def add(self, labels: Ints, predicted: Ints) -> None:
        some = max(0, SAMPLE_ROWS - len(self._labels))
        self._labels.append(labels[:some])
        self._predicted.append(predicted[:some])

    def warn_once(self, n_scored: int) -> None:
        """Warn if they do not; check again only when there are twice as many rows."""
        if len(self._labels) < max(1, 2 * self._n_checked):
            return
        self._n_checked = len(self._labels)
        text = describe_misfit(self._labels.values(), self._predicted.values(), self._n_classes, n_scored)
        if text:
            warn(text)
            self._n_checked = SAMPLE_ROWS


class _GrowingArray:
    """An array that doubles its memory when it is full, so that batches of one row cost only a few bytes per row."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._array: npt.NDArray[Any] = np.empty(0, dtype)
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, numbers: npt.NDArray[Any]) -> None:
        dtype, needed = np.promote_types(self._array.dtype, numbers.dtype), self._filled + len(numbers)
        if needed > len(self._array) or dtype != self._array.dtype:
            grown = np.empty(max(needed, 2 * self._filled), dtype)
            grown[: self._filled] = self.values()
            self._array = grown
        self._array[self._filled : needed] = numbers
        self._filled = needed

    def values(self) -> npt.NDArray[Any]:
        return self._array[: self._filled]
