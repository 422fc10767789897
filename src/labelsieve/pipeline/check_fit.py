"""Warns where labels and predictions do not seem to belong together."""

from __future__ import annotations

from labelsieve.confident_learning.agreement import RowSample, describe_misfit, may_not_fit
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.summarizer import ScanTotals
from labelsieve.errors import warn
from labelsieve.pipeline.row_summaries import RowSummaries
from labelsieve.sources.base import Source


def check_fit(table: RowSummaries, total: ScanTotals, confident: ConfidentCounts, opened: object = None) -> str:
    """Warn if labels and predictions do not seem to belong together; return the text of the warning, or "".

    Parameters
    ----------
    table : RowSummaries
        The table of all rows.
    total : ScanTotals
        Totals of the first pass.
    confident : ConfidentCounts
        Confident rows by given label and class.
    opened : Source or dask.array.Array
        The opened `pred_probs`, which may have a check of their own (`Source.describe_misfit`).
    """
    own = opened.describe_misfit(total.sums.dense()) if isinstance(opened, Source) else None
    if own is not None:
        if own:
            warn(own)
        return own
    if not may_not_fit(total.agreement, total.sums.dense().counts, confident):
        return ""
    sample = RowSample(int(total.sums.dense().counts.sum()))
    text = describe_misfit(*table.sampled_classes(sample), table.n_classes, sample.n_rows, sample.window)
    if text:
        warn(text)
    return text
