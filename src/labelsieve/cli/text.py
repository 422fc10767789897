"""Texts of the command line: the summary of a result, its worst rows, plans, corrections."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from labelsieve import __version__
from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.errors import size
from labelsieve.options import ABSENT_THRESHOLD
from labelsieve.results.store import ISSUE_BYTES
from labelsieve.storage.remote import without_query

if TYPE_CHECKING:
    from labelsieve.confident_learning.estimate import ErrorEstimate
    from labelsieve.job.plan import Plan
    from labelsieve.results.label_issues import LabelIssues
    from labelsieve.results.result import RunFacts
    from labelsieve.review.apply import AppliedDecisions
    from labelsieve.review.compare import Comparison

# Attributes of a plan whose keys are named otherwise: with the unit, or as in the answer of `find`.
_PLAN_KEYS: Final = {
    "bytes_read": "read_bytes",
    "process_bytes": "peak_memory_bytes",
    "client_bytes": "client_memory_bytes",
    "limit": "limit_bytes",
}


def find_answer(issues: LabelIssues, output: str | None, report: Path | None) -> dict[str, Any]:
    """Return the answer of ``labelsieve find``, given what it wrote."""
    from labelsieve.execution.executor import peak_bytes

    facts, of_result = issues.facts, ("num_issues", "estimated_num_issues", "n_rows", "n_ignored", "n_classes")
    of_run = ("n_reads", "rows_read", "rows_resumed", "n_batches", "n_partitions", "finished")
    return {
        **_named(issues, *of_result),
        "issue_share": issues.num_issues / issues.n_labelled,
        **facts.inputs,
        "output": None if output is None else without_query(output),
        "report": None if report is None else str(report),
        **_named(facts, *of_run),
        "read_bytes": facts.bytes_read,
        "peak_memory_bytes": peak_bytes(),
        "planned_memory_bytes": facts.planned_bytes,
        "runs_on": facts.scheduler,
        "misfit": facts.misfit or None,
        "notes": list(facts.notes),
    }


def _named(found: object, *names: str) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names}


def timed(began: float, **answer: Any) -> dict[str, Any]:
    """Return an answer with the wall time of the command since it `began`, without imports."""
    return {**answer, "total_s": round(time.perf_counter() - began, 6), "version": __version__}


def estimate_answer(estimate: ErrorEstimate, more: int | None) -> dict[str, Any]:
    """Return the answer of ``labelsieve estimate``, given how many rows a width needs."""
    names = ("n_rows", "n_reviewed", "n_left_out", "n_wrong", "n_conflicts")
    rate = {"estimate": estimate.error_rate, "low": estimate.low, "high": estimate.high}
    shares = _named(estimate, "precision_of_issues", "recall_of_issues")
    return {
        "error_rate": rate,
        **_known(shares),
        "per_class": [{"class": name, **_known(share._asdict())} for name, share in estimate.per_class.items()],
        "curve": [_known(cut._asdict()) for cut in estimate.curve],
        **_named(estimate, *names),
        "rows_for_width": more,
    }


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Return numbers and shares for JSON, which has no NaN."""
    return {
        name: _known(one._asdict()) if isinstance(one, tuple) else None if math.isnan(one) else one  # type: ignore[attr-defined]
        for name, one in values.items()
    }


def compare_answer(comparison: Comparison, output: str | None) -> dict[str, Any]:
    """Return the answer of ``labelsieve compare``."""
    names = ("n_rows", "n_classes", "issues_before", "n_resolved", "n_kept", "n_relabelled", "n_new", "issues_after")
    estimates = ("estimated_before", "estimated_after", "health_before", "health_after")
    return {
        **_named(comparison, *names, *estimates),
        "by_class": comparison.changed_classes(comparison.n_classes),
        "output": None if output is None else without_query(output),
    }


def plan_answer(plan: Plan) -> dict[str, Any]:
    """Return the answer of ``labelsieve plan``."""
    keys = {_PLAN_KEYS.get(name, name): value for name, value in dataclasses.asdict(plan).items()}
    return keys | {"problems": list(plan.problems), "exit_code": 1 if plan.problems else 0, "version": __version__}


def json_line(answer: dict[str, Any]) -> str:
    """Return an object as one line of ASCII."""
    return json.dumps(answer, allow_nan=False)


def summary_text(issues: LabelIssues) -> str:
    """Return a summary of a result, in four lines."""
    thresholds, facts = issues.confident_thresholds, issues.facts
    present = thresholds[thresholds < ABSENT_THRESHOLD]
    absent = len(thresholds) - len(present)
    ignored = f" ({issues.n_ignored:,} of them without a label)" if issues.n_ignored else ""
    by = f", by {issues.settings.filter_by}" if issues.settings.filter_by else ""
    rows, note, layout = f"{issues.n_rows:,} rows", "", issues.layout
    if layout is not None:
        note = layout.classes_note and f" ({layout.classes_note})"
        rows = f"{issues.n_rows:,} {layout.units[0]} of {layout.n_groups:,} {layout.units[1]}"
    return (
        f"{rows}{ignored}, {issues.n_classes:,} classes{note}\n"
        f"{rows_in_words(issues.num_issues, 'label issue', 'label issues')} "
        f"({issues.num_issues / issues.n_labelled:.2%}){by}\n"
        f"confident thresholds {present.min():.4f} to {present.max():.4f}"
        + (f", {rows_in_words(absent, 'class', 'classes')} without rows" if absent else "")
        + f"\n{_reading(facts)}, {facts.seconds:.2f} s"
        + (f", {facts.bytes_read / 1e9 / facts.seconds:.3g} GB/s" if facts.bytes_read else "")
    )


def _reading(facts: RunFacts) -> str:
    """Return the size of what was read, and the number of rows that were already in the workdir."""
    if not facts.bytes_read:
        return f"nothing read: all {facts.rows_resumed:,} rows were in the workdir"
    passes = "one pass" if facts.n_reads == 1 else f"{facts.n_reads} passes"
    resumed = f", {facts.rows_resumed:,} rows were in the workdir" if facts.rows_resumed else ""
    return f"{size(facts.bytes_read)} read in {passes}{resumed}"


def apply_text(applied: AppliedDecisions) -> str:
    """Return what was changed, as lines."""
    counts = applied.counts
    words = ", ".join(f"{counts[word]:,} {word}" for word in ("accept", "keep", "other", "unsure"))
    lines = [
        f"{words}" + (f"; {counts['auto']:,} accepted without review" if counts["auto"] else ""),
        f"{counts['changed']:,} of {counts['rows']:,} labels changed"
        + (f", {rows_in_words(counts['dropped'], 'row', 'rows')} to leave out" if counts["dropped"] else "")
        + (f", {rows_in_words(counts['ignored'], 'row', 'rows')} ignored" if counts["ignored"] else ""),
    ]
    if counts["corrected"]:
        lines.append(f"{rows_in_words(counts['corrected'], 'decision', 'decisions')} corrected by their reviewers")
    if counts["conflicts"]:
        lines.append(f"decisions differ in {rows_in_words(counts['conflicts'], 'row', 'rows')}")
    return "\n".join([*lines, f"written to {applied.output}, the log to {applied.output}.log.json"])


def estimate_text(estimate: ErrorEstimate, top: int, *, of_rows: bool = False) -> str:
    """Return what an audit says as lines: precision and recall at each cut, and the `top` classes with most errors.

    Precision and recall are those of the issues up to each cut; with `of_rows`, of all rows up to it.
    """
    lines = [
        str(estimate),
        f"{estimate.n_reviewed:,} of {estimate.n_rows:,} rows reviewed, {estimate.n_wrong:,} of them wrong",
    ]
    if estimate.n_conflicts:
        lines.append(f"reviewers differ in {rows_in_words(estimate.n_conflicts, 'row', 'rows')}")
    if estimate.curve and of_rows:
        lines += ["", "      rows  score up to  wrong                  recall"]
        lines += [
            f"{cut.n_rows:>10,}  {cut.score:<11.4g}  {cut.precision_of_rows!s:<21}  {cut.recall_of_rows}"
            for cut in estimate.curve
        ]
    elif estimate.curve:
        lines += ["", "score up to   issues  right in               recall"]
        lines += [
            f"{cut.score:<11.4g} {cut.n_issues:>8,}  {cut.precision!s:<21}  {cut.recall}" for cut in estimate.curve
        ]
    classes = sorted(estimate.per_class.items(), key=lambda pair: -pair[1].estimate)
    if classes and top:
        lines += ["", "class  wrong"]
        lines += [f"{' '.join(str(name).split())}  {share}" for name, share in classes[:top]]
        if len(classes) > top:
            lines.append(f"and {rows_in_words(len(classes) - top, 'more class', 'more classes')}")
    return "\n".join(lines)


def compare_text(comparison: Comparison, top: int) -> str:
    """Return what became of the issues, and a table of the `top` classes with the most issues."""
    lines = [
        str(comparison),
        f"estimated wrong labels {comparison.estimated_before:,} before, {comparison.estimated_after:,} after",
        f"label health {comparison.health_before:.2%} before, {comparison.health_after:.2%} after",
    ]
    classes = comparison.changed_classes(top)
    if not classes:
        return "\n".join(lines)
    names = [name for name in classes[0] if name not in ("class", "name")]
    heads = ["class", *(name.replace("_", " ") for name in names)]
    cells = [[comparison.class_label(one["class"]), *(f"{one[name]:,}" for name in names)] for one in classes]
    return "\n".join([*lines, "", *_table([heads, *cells], heads)])


def plan_text(plan: Plan) -> str:
    """Return a plan as lines of names and values, and then what would make the run fail."""
    again = f", {plan.amplification:.2f} times each stored row" if plan.amplification > 1 else ""
    where = "a workdir" if plan.stored else "memory"
    on_cluster = plan.client_bytes != plan.process_bytes
    each = f" in each of {plan.n_processes:,} workers" if on_cluster else ""
    forked = plan.n_processes > 1 and not on_cluster
    runs_on = (
        f"{plan.n_processes} forked processes in all"
        if forked
        else f"{plan.n_threads} thread{'s' if plan.n_threads > 1 else ''}"
    )
    lines = {
        "input": f"{plan.n_rows:,} rows, {plan.n_classes:,} classes, {plan.dtype}",
        "batches": f"{plan.n_batches:,} of {plan.batch_rows:,} rows",
        "partitions": f"{plan.n_partitions:,}, submitted {plan.n_slabs:,} time{'s' if plan.n_slabs > 1 else ''}",
        "tasks": f"{plan.n_tasks:,}",
        "bytes to read": f"{size(plan.bytes_read)} in {plan.n_reads} read{'s' if plan.n_reads > 1 else ''}{again}",
        "row summaries": f"{size(plan.summary_bytes)}, in {where}",
        "peak memory": f"{size(plan.process_bytes)}{each}, {runs_on}; may take {size(plan.limit)} ({plan.limit_name})",
    }
    if plan.known_rows:
        lines["known"] = f"{size(plan.known_bytes)} of it ({plan.known_rows:,} rows) are in the workdir"
    if plan.unconfirmed_rows:
        more = f"{size(plan.unconfirmed_bytes)} ({plan.unconfirmed_rows:,} rows)"
        lines["perhaps known"] = f"{more} are in the workdir too, if their labels have kept their values"
    if on_cluster:
        lines["client memory"] = size(plan.client_bytes)
        lines["network"] = f"{size(plan.network_bytes)}, and the issues"
    if plan.n_reads == 3:
        from labelsieve.job.grid import CANDIDATE_BYTES, CANDIDATE_COPIES

        lines["third read"] = (
            f"{size(CANDIDATE_BYTES * CANDIDATE_COPIES)} per row selected for a class pair, here and in each thread; "
            "planned for a tenth of the rows, and refused before that read if they do not fit"
        )
    lines["results"] = (
        f"scores {size(plan.score_bytes)}, mask {size(plan.mask_bytes)}, {plan.issue_bytes} bytes per issue; on top of "
        f"the peak, {ISSUE_BYTES} bytes per issue if the tasks do not write them"
    )
    width = max(map(len, lines))
    problems = [f"problem: {problem}" for problem in plan.problems]
    return "\n".join([*(f"{name:{width}}  {text}" for name, text in lines.items()), *problems])


def _table(rows: list[list[str]], left: Container[str]) -> list[str]:
    """Return rows of cells, the first of them heads, as lines; columns are aligned right, but those of `left`."""
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust if head in left else str.rjust for head in rows[0]]
    return ["  ".join(side(cell, n) for side, cell, n in zip(sides, row, widths, strict=True)).rstrip() for row in rows]


def worst_text(issues: LabelIssues, top: int) -> str:
    """Return a table of the `top` worst rows, or "" if there are none; control characters in names are replaced."""
    table = issues.issue_table(0, top)
    if not len(table["score"]):
        return ""
    # A row, or the image and the place in it, and so on.
    places = list(table)[: list(table).index("id" if "id" in table else "score")]
    columns = {
        **{name: [str(number) for number in table[name].tolist()] for name in places},
        "given": [issues.class_label(k) for k in table["given_label"].tolist()],
        "suggested": [issues.class_label(k) for k in table["suggested_label"].tolist()],
        **{name: [f"{x:.4g}" for x in table[name].tolist()] for name in ("score", "p_given", "p_suggested")},
    }
    if "id" in table:
        columns["id"] = [str(name) for name in table["id"].tolist()]
    rows = _table([list(columns), *map(list, zip(*columns.values(), strict=True))], {"given", "suggested", "id"})
    return "\n" + "".join(f"{row}\n" for row in rows)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
