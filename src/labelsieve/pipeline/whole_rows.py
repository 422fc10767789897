"""Reads of whole rows that make no table: thresholds, the confident joint of given thresholds, and log losses."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s, Int64s
from labelsieve.confident_learning.summarizer import ScanTotals, combine_totals
from labelsieve.confident_learning.thresholds import class_sums_finalize
from labelsieve.confident_learning.validation import RowChecks, raise_or_warn
from labelsieve.execution.choice import choose_executor
from labelsieve.pipeline.dask_job import DaskJob
from labelsieve.pipeline.fingerprint import check_versions, note_versions
from labelsieve.pipeline.inputs import persist_if_it_fits
from labelsieve.pipeline.opening import open_inputs, open_pair
from labelsieve.sources.retries import RETRIES
from labelsieve.tasks.confident_rows import (
    ConfidentRows,
    LabelLogs,
    combine_confident_rows,
    confident_rows,
    label_logs,
)
from labelsieve.tasks.scan import class_sums

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
        self._checks, executor = checks, choose_executor(retries=RETRIES)
        self._inputs = open_inputs(*self._pair, executor=executor)
        if n_reads > 1:
            self._inputs = persist_if_it_fits(self._inputs, executor, n_reads)
        self._job, self._reported = DaskJob(executor), False
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
        totals = self._job.reduce("scan", self._inputs.work(class_sums), combine_totals, self._columns)
        self._check(totals)
        sums = totals.sums.dense()
        return class_sums_finalize(sums), sums.counts

    def confident_rows(self, thresholds: Float64s) -> ConfidentRows:
        """Return the confident joint of given thresholds, without a lower limit, and the rows off its diagonal."""
        work = self._inputs.work(partial(confident_rows, thresholds=thresholds))
        found = self._job.reduce("confident-rows", work, combine_confident_rows, self._columns)
        self._check(found.totals)
        return found

    def label_logs(self) -> tuple[Float64s, Float64s]:
        """Return the ``(N,)`` probabilities of the labels, and their logarithms as a log loss takes them."""
        parts: list[LabelLogs] = self._job.map("label-logs", self._inputs.work(label_logs), self._columns)
        self._check(combine_totals(part.totals for part in parts))
        return np.concatenate([part.p_label for part in parts]), np.concatenate([part.logs for part in parts])

    @property
    def _columns(self) -> Any:
        return self._inputs.columns(self._job.executor)

    def _check(self, totals: ScanTotals) -> None:
        check_versions(self._pair, RETRIES + 1)
        if not self._reported:
            raise_or_warn(totals.findings, self.n_classes, self._checks, totals.sums.dense().counts)
        self._reported = True
