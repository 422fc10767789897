"""The estimated number of issues by the rule of the settings, and warnings about doubtful counts."""

from __future__ import annotations

from typing import Final

import numpy as np

from labelsieve.confident_learning.agreement import RowSample, describe_misfit, may_not_fit
from labelsieve.confident_learning.calibration import JointCounts, estimated_issues, with_diagonal
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.confident_learning.filters import IssueTotals
from labelsieve.confident_learning.thresholds import issue_counts_finalize
from labelsieve.errors import warn
from labelsieve.pipeline.row_summaries import RowSummaries
from labelsieve.settings import Settings
from labelsieve.tasks.count_and_select import SummaryCounts
from labelsieve.tasks.totals import RescanTotals, ScanTotals

# A warning says if more rows than this share of the counted rows, and at least this number, are undecided.
_UNDECIDED_SHARE: Final = 0.1
_UNDECIDED_ROWS: Final = 10


def issue_totals(
    counts: SummaryCounts, rescanned: RescanTotals | None, class_counts: Int64s, settings: Settings
) -> IssueTotals:
    """Return the totals by the rule of the settings; warn if the exact rule would likely count many other rows."""
    if rescanned is not None and rescanned.joint is not None:
        joint = JointCounts(with_diagonal(rescanned.joint), rescanned.n_off_diagonal, class_counts)
        return IssueTotals(
            joint.joint,
            class_counts,
            estimated_issues(joint, calibrated=settings.calibrated),
            n_off_diagonal=joint.n_off_diagonal,
            n_counted=counts.n_counted,
            histogram=counts.histogram,
        )
    if counts.confident is None:
        raise RuntimeError("confident rows are counted in the summaries or in a second pass")
    issue_counts = counts.confident.issue_counts(class_counts, calibrated=settings.calibrated)
    note = _undecided_warning(counts.confident) if settings.filter_by is None else ""
    if note:
        warn(note)
    return IssueTotals(
        counts.confident,
        class_counts,
        issue_counts_finalize(issue_counts),
        n_counted=counts.n_counted,
        histogram=counts.histogram,
        note=note,
    )


def check_fit(table: RowSummaries, total: ScanTotals, confident: ConfidentCounts) -> str:
    """Warn if labels and predictions do not seem to belong together; return the text of the warning, or "".

    Parameters
    ----------
    table : RowSummaries
        The table of all rows.
    total : ScanTotals
        Totals of the first pass.
    confident : ConfidentCounts
        Confident rows by given label and class.
    """
    if not may_not_fit(total.agreement, total.sums.dense().counts, confident):
        return ""
    sample = RowSample(table.n_rows)
    text = describe_misfit(*table.sampled_classes(sample), table.n_classes, sample.n_rows, sample.window)
    if text:
        warn(text)
    return text


def _undecided_warning(confident: ConfidentCounts) -> str:
    """Return a warning if many rows do not count that the confident joint likely counts, or ""."""
    n_counted = int(confident.counts.sum(dtype=np.int64))
    if confident.undecided < max(_UNDECIDED_ROWS, _UNDECIDED_SHARE * n_counted):
        return ""
    return (
        f"{n_counted:,} rows are counted by their predicted class; another {confident.undecided:,} do not reach its "
        "threshold, but may reach the low threshold of another class, so that the confident joint counts them: "
        "filter_by='low_self_confidence' or 'confident_learning' includes them"
    )
