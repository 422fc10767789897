"""Reads of whole rows that make no table: thresholds, the confident joint of given thresholds, and log losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.checks import Findings, RowChecks, raise_or_warn
from labelsieve.confident_learning.joint import (
    ConfidentCounts,
    JointAssigner,
    JointCounter,
    JointCounts,
    PairCounter,
    confident_chunk,
    confident_combine,
    estimated_issues,
)
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.select import scores_of
from labelsieve.confident_learning.summarize import ScanTotals, Summarizer, combine_totals
from labelsieve.confident_learning.thresholds import (
    Float64s,
    Floats,
    Int64s,
    Ints,
    IssueCounts,
    SummaryBlock,
    class_sums_finalize,
    issue_counts_combine,
    issue_counts_finalize,
)
from labelsieve.errors import InvalidInputError, located
from labelsieve.execution.cluster import choose_executor
from labelsieve.execution.executor import Executor
from labelsieve.job.grid import BLOCK_ROWS
from labelsieve.job.inputs import kept_if_it_fits, open_inputs, open_pair
from labelsieve.job.kept import SummaryReader
from labelsieve.job.scan import Block, Partition, class_sums, read_rows
from labelsieve.job.table import widen
from labelsieve.job.workdir import check_versions, note_versions
from labelsieve.options import FLOAT_TOLERANCE
from labelsieve.sources.composite import EnsembleSource
from labelsieve.sources.objects import RETRIES
from labelsieve.sources.open import Opened


def member_accuracies(
    labels: Opened, ensemble: EnsembleSource, executor: Executor, checks: RowChecks, ignored: int | None = None
) -> tuple[float, ...]:
    """Return the share of rows of which each member predicts the label; each member is read once.

    Parameters
    ----------
    labels : Source or dask.array.Array
        ``(N,)`` labels.
    ensemble : EnsembleSource
        The members.
    executor : Executor
        Runs the tasks.
    checks : RowChecks
        Which rows are accepted.
    ignored : int, optional
        The value of labels that says that a row has none.

    Raises
    ------
    InvalidInputError
        For bad labels, bad rows of a member, and if no member predicts a single label.
    """
    found = []
    for name, member in zip(ensemble.names, ensemble.children, strict=True):
        inputs = open_inputs(labels, member, executor=executor, ignored=ignored)
        total = executor.reduce("accuracy", inputs.work(class_sums), combine_totals, inputs.columns(executor))
        with located(name):
            raise_or_warn(total.findings, inputs.n_classes, checks, total.sums.dense().counts)
        found.append(total.agreement.same / max(1, int(total.sums.dense().counts.sum())))
    if not any(found):
        raise InvalidInputError("no member of the ensemble predicts a single label, so none has a weight by accuracy")
    return tuple(found)


# The least and the largest probability whose logarithm is taken (sklearn.metrics.log_loss).
_EPSILON: Final = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ConfidentRows:
    """Rows that are counted by the confident joint.

    Parameters
    ----------
    totals : ScanTotals
        What the summaries of the rows add up to, and what is wrong with them.
    joint : ConfidentCounts
        Rows by label and class.
    rows : (R,) int64
        Numbers of the rows off the diagonal, ascending.
    """

    totals: ScanTotals
    joint: ConfidentCounts
    rows: Int64s


def confident_rows(partition: Partition, *, thresholds: Float64s) -> ConfidentRows:
    """Count the rows of a partition by the confident joint of given thresholds, and list those off its diagonal."""
    assigner, counter = JointAssigner(thresholds, partition.dtype), PairCounter(partition.n_classes)
    found, first, reader = [np.empty(0, np.int64)], partition.start, _Reader(partition)
    for summary, probs in reader.strips():
        classes, counted = assigner.assign(summary, probs)
        counter.add(summary.label, classes, counted)
        found.append(np.flatnonzero(counted & (classes != summary.label)) + first)
        first += len(probs)
    return ConfidentRows(reader.totals(), counter.counts(), np.concatenate(found))


def combine_confident_rows(parts: Iterable[ConfidentRows]) -> ConfidentRows:
    """Combine the counts and lists of consecutive partitions."""
    parts = list(parts)
    return ConfidentRows(
        combine_totals(part.totals for part in parts),
        confident_combine(part.joint for part in parts),
        np.concatenate([part.rows for part in parts]),
    )


@dataclass(frozen=True)
class LabelLogs:
    """How well predictions fit the labels of some rows.

    Parameters
    ----------
    totals : ScanTotals
        What the summaries of the rows add up to, and what is wrong with them.
    p_label : (n,) float64
        Probability of the label.
    logs : (n,) float64
        Logarithm of the probability of the label, after probabilities below 1e-6 are raised to that, and each row is
        divided by its sum.
    """

    totals: ScanTotals
    p_label: Float64s
    logs: Float64s


def label_logs(partition: Partition) -> LabelLogs:
    """Return the probabilities of the labels of a partition, and their logarithms."""
    p_label, logs, reader = [np.empty(0)], [np.empty(0)], _Reader(partition)
    for summary, probs in reader.strips():
        p_label.append(summary.p_label.astype(np.float64))
        sums = np.maximum(probs.astype(np.float64, order="C"), FLOAT_TOLERANCE).sum(axis=1)
        logs.append(clipped_log(np.maximum(p_label[-1], FLOAT_TOLERANCE) / sums))
    return LabelLogs(reader.totals(), np.concatenate(p_label), np.concatenate(logs))


def clipped_log(values: Float64s) -> Float64s:
    """Return the logarithms of probabilities that are neither 0 nor 1."""
    logs: Float64s = np.log(np.clip(values, _EPSILON, 1 - _EPSILON))
    return logs


class _Reader:
    """Reads a partition strip by strip, and checks and summarizes its rows."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        rows = min(partition.n_rows, max(BLOCK_ROWS, partition.strip_rows))
        self._summarizer = Summarizer(
            rows, partition.n_classes, partition.dtype, first_row=partition.start, ignored=partition.ignored
        )

    def strips(self) -> Iterator[tuple[SummaryBlock, Floats]]:
        """Yield the summaries of each strip, and the strip, in row order."""
        for labels, probs in self._partition.strips(raw=False):
            if self._summarizer.room < len(probs):
                self._summarizer.take()
            yield self._summarizer.add(labels, probs), probs
        self._summarizer.take()

    def totals(self) -> ScanTotals:
        """Return the totals of all strips."""
        return self._summarizer.totals()


# Rows that do not sum to 1 are a warning: these reads are for users of cleanlab, which takes such rows.
WARNED_ROWS: Final = RowChecks(unnormalized_rows="warn")


class WholeRows:
    """Labels and probabilities that are read once for each method, by whatever scheduler Dask is set to.

    Parameters
    ----------
    labels, pred_probs : object
        Anything that `labelsieve.find_label_issues` takes.
    checks : RowChecks
        Which rows are accepted.
    n_reads : int
        Number of methods that will be called: a Dask array of the user is kept between them if it fits in memory.
    """

    def __init__(self, labels: Any, pred_probs: Any, checks: RowChecks = WARNED_ROWS, *, n_reads: int = 1) -> None:
        self._pair = open_pair(labels, pred_probs, attempts=RETRIES + 1)
        self._checks, self._executor = checks, choose_executor(retries=RETRIES)
        self._inputs = kept_if_it_fits(open_inputs(*self._pair, executor=self._executor), self._executor, n_reads)
        self._reported = False
        note_versions(self._pair, RETRIES + 1)

    @property
    def n_rows(self) -> int:
        """Number of rows N."""
        return self._inputs.grid.n_rows

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self._inputs.n_classes

    def thresholds(self) -> tuple[Float64s, Int64s]:
        """Return the ``(K,)`` confident thresholds, 2.0 for classes without rows, and the number of rows per label."""
        totals = self._executor.reduce("scan", self._inputs.work(class_sums), combine_totals, self._columns)
        self._check(totals)
        sums = totals.sums.dense()
        return class_sums_finalize(sums), sums.counts

    def confident_rows(self, thresholds: Float64s) -> ConfidentRows:
        """Return the confident joint of given thresholds, without a lower limit, and the rows off its diagonal."""
        work = self._inputs.work(partial(confident_rows, thresholds=thresholds))
        found = self._executor.reduce("confident-rows", work, combine_confident_rows, self._columns)
        self._check(found.totals)
        return found

    def label_logs(self) -> tuple[Float64s, Float64s]:
        """Return the ``(N,)`` probabilities of the labels, and their logarithms as a log loss takes them."""
        parts: list[LabelLogs] = self._executor.map("label-logs", self._inputs.work(label_logs), self._columns)
        self._check(combine_totals(part.totals for part in parts))
        return np.concatenate([part.p_label for part in parts]), np.concatenate([part.logs for part in parts])

    @property
    def _columns(self) -> Any:
        return self._inputs.columns(self._executor)

    def _check(self, totals: ScanTotals) -> None:
        check_versions(self._pair, RETRIES + 1)
        if not self._reported:
            raise_or_warn(totals.findings, self.n_classes, self._checks, totals.sums.dense().counts)
        self._reported = True


@dataclass(frozen=True)
class InspectedRows:
    """Scores and counts of a partition.

    Parameters
    ----------
    scores : (n,) float
        Label quality scores.
    labels, predicted : (n,) uint
        Given labels and predicted classes.
    counts : IssueCounts, JointCounts or None
        Issue counts by the rule of the settings; None if they are not needed.
    findings : Findings
        Bad or suspicious values.
    """

    scores: Floats
    labels: Ints
    predicted: Ints
    counts: IssueCounts | JointCounts | None
    findings: Findings


def inspect(
    partition: Partition, *, settings: Settings, thresholds: Float64s, adj_thresholds: Float64s | None
) -> InspectedRows:
    """Read a partition once and score it with the given thresholds; with `adj_thresholds`, count its issues too."""
    joint = None
    if adj_thresholds is not None and settings.counts_joint:
        joint = JointCounter(thresholds, partition.dtype)

    def count(summary: SummaryBlock, strip: Block) -> None:
        if joint is not None:
            joint.add(summary, partition.summarizer.probabilities(strip))

    rows, totals = read_rows(partition, settings, thresholds, inspect=None if joint is None else count)
    summary = SummaryReader(settings, thresholds).scored(rows)
    counts: IssueCounts | JointCounts | None = None
    if joint is not None:
        counts = JointCounts(*joint.counts(), totals.sums.dense().counts)
    elif adj_thresholds is not None:
        confident = confident_chunk(summary, adj_thresholds)
        counts = confident.issue_counts(totals.sums.dense().counts, calibrated=settings.calibrated)
    return InspectedRows(widen(scores_of(summary)), summary.label, summary.predicted, counts, totals.findings)


def combine_counts(parts: Sequence[IssueCounts | JointCounts]) -> IssueCounts | JointCounts:
    """Add up counts, which are all by the same rule."""
    joints = [part for part in parts if isinstance(part, JointCounts)]
    if not joints:
        return issue_counts_combine(part for part in parts if isinstance(part, IssueCounts))
    sizes: Int64s = np.sum([part.class_counts for part in joints], axis=0)
    return JointCounts(
        confident_combine(part.joint for part in joints), sum(part.n_off_diagonal for part in joints), sizes
    )


def num_issues(counts: IssueCounts | JointCounts, *, calibrated: bool) -> int:
    """Return the estimated number of label issues."""
    if isinstance(counts, IssueCounts):
        return issue_counts_finalize(counts)
    return estimated_issues(counts, calibrated=calibrated)
