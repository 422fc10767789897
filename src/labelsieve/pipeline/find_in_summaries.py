"""Finds label issues in a table of row summaries that other code has made, without `pred_probs`."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from labelsieve.confident_learning.summary_counts import issue_totals
from labelsieve.confident_learning.thresholds import class_means, class_sums_finalize
from labelsieve.confident_learning.validation import notes_of, raise_or_warn
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.pipeline.check_fit import check_fit
from labelsieve.pipeline.job_settings import JobSettings
from labelsieve.pipeline.row_summaries import RowSummaries
from labelsieve.results.label_issues import LabelIssues
from labelsieve.results.result import RunFacts, loaded_versions
from labelsieve.results.row_ids import check_class_names, open_ids
from labelsieve.tasks.summary_reader import SummaryReader


def find_in_summaries(summaries: RowSummaries, settings: JobSettings) -> LabelIssues:
    """Find label issues in a table of row summaries.

    Parameters
    ----------
    summaries : RowSummaries
        The table.
    settings : JobSettings
        All settings; those for reading have no effect.

    Raises
    ------
    InputTypeError
        For an object that is not such a table.
    InvalidInputError
        For settings that need all probabilities of a row, or a column that is missing.
    """
    started, rule = time.perf_counter(), settings.filter
    if not isinstance(summaries, RowSummaries):
        raise InputTypeError(
            f"summaries must be a table by labelsieve.RowSummaries.from_columns, not {type(summaries).__name__}"
        )
    n_rows, n_classes = summaries.n_rows, summaries.n_classes
    _check_choices(settings, summaries)
    names, ids = check_class_names(settings.class_names, n_classes), open_ids(settings.ids, n_rows)
    scanned = summaries.totals()
    sums = scanned.sums.dense()
    raise_or_warn(scanned.findings, n_classes, settings.checks, sums.counts)
    thresholds = class_sums_finalize(sums)
    [chunk] = summaries.chunks
    if rule.settings.plain_self_confidence:
        chunk = replace(chunk, summary=replace(chunk.summary, score=None))
    table = replace(summaries, chunks=[chunk], reader=SummaryReader(rule.settings, thresholds), show=settings.progress)
    counts = table.count(rule, thresholds)
    totals = issue_totals(counts, None, sums.counts, rule.settings)
    misfit = check_fit(table, scanned, totals.confident)
    selected = rule.select(table, totals, table.dtype, exactly=False)
    return LabelIssues(
        n_rows=n_rows,
        n_classes=n_classes,
        found=table.sorted_issues(selected, rule),
        estimated_num_issues=totals.estimated,
        confident_thresholds=thresholds,
        class_counts=sums.counts,
        mean_scores=class_means(sums if counts.scores is None else counts.scores.dense()),
        confident=totals.confident,
        score_parts=table.scores(),
        settings=rule.settings,
        facts=RunFacts(
            bytes_read=0,
            n_reads=0,
            rows_read=0,
            rows_resumed=0,
            n_batches=1,
            n_partitions=1,
            planned_bytes=0,
            seconds=time.perf_counter() - started,
            scheduler="this process",
            versions=loaded_versions(),
            notes=notes_of(scanned.findings) + ((f"{totals.note}.",) if totals.note else ()),
            misfit=misfit,
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        ),
        class_names=names,
        ids=ids,
    )


def _check_choices(settings: JobSettings, summaries: RowSummaries) -> None:
    """Raise for settings that need more than the row summaries."""
    rule, scoring = settings.filter, settings.filter.settings
    if rule.n_reads > 1 or scoring.adjust_pred_probs:
        what = "adjust_pred_probs" if scoring.adjust_pred_probs else f"filter_by={rule.name!r}, rule={scoring.rule!r}"
        raise InvalidInputError(f"{what} needs all probabilities of each row, which summaries do not hold")
    if not scoring.plain_self_confidence and summaries.chunks[0].summary.score is None:
        raise InvalidInputError(f"method={scoring.method!r} needs the column score in the summaries")
    given = {"workdir": settings.workdir, "output": settings.output, "client": settings.client}
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise InvalidInputError(f"{', '.join(unused)} cannot be used with summaries, which are in memory")
    rule.check_classes(summaries.n_classes)
