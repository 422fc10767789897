"""JSON for other programs: the answer of a command, its error, and lines of progress.

`docs/command_line.md` explains all keys. Every command imports this module first, so that what is slow to
import is imported where it is needed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from labelsieve import __version__
from labelsieve.errors import LabelsieveError
from labelsieve.storage.urls import without_query

if TYPE_CHECKING:
    from labelsieve.confident_learning.error_estimate import ErrorEstimate, Share
    from labelsieve.confident_learning.reviewer_agreement import Agreement
    from labelsieve.decisions import AppliedDecisions
    from labelsieve.pipeline.diagnosis import Diagnosis, Process
    from labelsieve.pipeline.plan import Plan
    from labelsieve.results.audit import Audit
    from labelsieve.results.comparison import Comparison
    from labelsieve.results.label_issues import LabelIssues

# Attributes of a plan whose keys are named otherwise: with the unit, or as in the answer of `find`.
_PLAN_KEYS: Final = {
    "bytes_read": "read_bytes",
    "process_bytes": "peak_memory_bytes",
    "client_bytes": "client_memory_bytes",
    "limit": "limit_bytes",
}


def find_answer(issues: LabelIssues, seconds: float, output: str | None, report: Path | None) -> dict[str, Any]:
    """Return the answer of ``labelsieve find``.

    Parameters
    ----------
    issues : LabelIssues
        The result.
    seconds : float
        Wall time of the command, without imports.
    output, report : str or Path, optional
        What was written.
    """
    from labelsieve.memory import peak_bytes

    facts = issues.facts
    return {
        "num_issues": issues.num_issues,
        "issue_share": issues.num_issues / issues.n_labelled,
        "estimated_num_issues": issues.estimated_num_issues,
        "n_rows": issues.n_rows,
        "n_ignored": issues.n_ignored,
        "n_classes": issues.n_classes,
        "labels": facts.inputs["labels"],
        "pred_probs": facts.inputs["pred_probs"],
        "output": None if output is None else without_query(output),
        "report": None if report is None else str(report),
        "total_s": round(seconds, 6),
        "read_bytes": facts.bytes_read,
        "n_reads": facts.n_reads,
        "rows_read": facts.rows_read,
        "rows_resumed": facts.rows_resumed,
        "n_batches": facts.n_batches,
        "n_partitions": facts.n_partitions,
        "peak_memory_bytes": peak_bytes(),
        "planned_memory_bytes": facts.planned_bytes,
        "runs_on": facts.scheduler,
        "misfit": facts.misfit or None,
        "notes": list(facts.notes),
        "finished": facts.finished,
        "version": __version__,
    }


def review_answer(output: str, n_rows: int, n_bytes: int, seconds: float) -> dict[str, Any]:
    """Return the answer of ``labelsieve review``: what was written, and the wall time."""
    return {
        "output": output,
        "n_rows": n_rows,
        "page_bytes": n_bytes,
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def label_studio_answer(
    output: Path, config: Path | None, label_config: str, n_tasks: int, seconds: float
) -> dict[str, Any]:
    """Return the answer of ``labelsieve label-studio``: what was written, the configuration, and the wall time."""
    return {
        "output": str(output),
        "config": None if config is None else str(config),
        "label_config": label_config,
        "n_tasks": n_tasks,
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def apply_answer(applied: AppliedDecisions, seconds: float) -> dict[str, Any]:
    """Return the answer of ``labelsieve apply``, given its wall time."""
    return {
        "output": applied.output,
        "log": f"{applied.output}.log.json",
        "counts": applied.counts,
        "agreement": _agreements(applied.agreement),
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def _agreements(agreement: Iterable[Agreement]) -> list[dict[str, Any]]:
    return [
        {
            "reviewers": list(one.reviewers),
            "n_rows": one.n_rows,
            "share": one.share,
            "kappa": None if math.isnan(one.kappa) else one.kappa,
        }
        for one in agreement
    ]


def audit_answer(audit: Audit, output: str, table: Path | None, seconds: float) -> dict[str, Any]:
    """Return the answer of ``labelsieve audit``, given its wall time."""
    return {
        "output": output,
        "table": None if table is None else str(table),
        "n_rows": len(audit),
        "n_labelled": int(audit.stratum_rows.sum()),
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def estimate_answer(estimate: ErrorEstimate, more: int | None, seconds: float) -> dict[str, Any]:
    """Return the answer of ``labelsieve estimate``, given how many rows a width needs, and the wall time."""
    from labelsieve.confident_learning.error_estimate import Share

    names = ("n_rows", "n_reviewed", "n_left_out", "n_wrong", "n_conflicts")
    return {
        "error_rate": _share(Share(estimate.error_rate, estimate.low, estimate.high)),
        "precision_of_issues": _share(estimate.precision_of_issues),
        "recall_of_issues": _share(estimate.recall_of_issues),
        "per_class": [{"class": name, **_share(share)} for name, share in estimate.per_class.items()],
        "curve": [
            {name: _share(value) if isinstance(value, Share) else value for name, value in cut._asdict().items()}
            for cut in estimate.curve
        ],
        **{name: getattr(estimate, name) for name in names},
        "agreement": _agreements(estimate.agreement),
        "rows_for_width": more,
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def _share(share: Share) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in share._asdict().items()}


def compare_answer(comparison: Comparison, output: str | None, seconds: float) -> dict[str, Any]:
    """Return the answer of ``labelsieve compare``, given its wall time."""
    names = ("n_rows", "n_classes", "issues_before", "n_resolved", "n_kept", "n_relabelled", "n_new", "issues_after")
    estimates = ("estimated_before", "estimated_after", "health_before", "health_after")
    return {
        **{name: getattr(comparison, name) for name in (*names, *estimates)},
        "by_class": comparison.changed_classes(comparison.n_classes),
        "output": None if output is None else without_query(output),
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def plan_answer(plan: Plan) -> dict[str, Any]:
    """Return the answer of ``labelsieve plan``."""
    keys = {_PLAN_KEYS.get(name, name): value for name, value in dataclasses.asdict(plan).items()}
    return keys | {"version": __version__}


def doctor_answer(diagnosis: Diagnosis, seconds: float) -> dict[str, Any]:
    """Return the answer of ``labelsieve doctor``, which has its exit code in it."""
    return {
        "exit_code": exit_code_of(diagnosis),
        "num_problems": diagnosis.count("problem"),
        "num_warnings": diagnosis.count("warning"),
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
        "processes": [_process(process) for process in diagnosis.processes.values()],
        "total_s": round(seconds, 6),
        "version": __version__,
    }


def exit_code_of(diagnosis: Diagnosis) -> int:
    """Return the exit code of ``labelsieve doctor``."""
    return 1 if diagnosis.count("problem") else 0


def _process(process: Process) -> dict[str, Any]:
    facts = process.facts
    return {
        "name": process.name,
        "host": facts and facts.host,
        "threads": process.n_threads,
        "cores": facts and facts.n_cores,
        "memory_limit_bytes": process.memory_limit,
        "host_memory_bytes": facts and facts.most_bytes,
        "free_memory_bytes": facts and facts.free_bytes,
        "open_files_limit": facts and facts.open_files,
        "blas_threads": facts and facts.blas_threads,
        "temporary_folder": facts and facts.temporary_folder,
        "temporary_free_bytes": facts and facts.temporary_bytes,
        "allocator": facts and facts.allocator,
        "clock_difference_s": _rounded(process.clock_difference_s),
        "round_trip_s": _rounded(process.round_trip_s),
        "read_bytes": process.read_bytes,
        "read_bytes_per_s": None if process.read_rate is None else round(process.read_rate),
        "versions": facts and facts.versions,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def error_answer(error: BaseException, message: str, exit_code: int) -> dict[str, Any]:
    """Return the answer of a command that failed."""
    # The kinds of bad usage are click's own, and change with it; it also raises Abort in place of KeyboardInterrupt.
    kinds = ((click.UsageError, "UsageError"), (click.Abort, "Interrupted"), (KeyboardInterrupt, "Interrupted"))
    kind = next((name for of, name in kinds if isinstance(error, of)), type(error).__name__)
    answer: dict[str, Any] = {"error": kind, "message": message, "exit_code": exit_code}
    if isinstance(error, LabelsieveError) and error.rows:
        answer["rows"] = [list(rows) for rows in error.rows]
    return answer


def json_line(answer: dict[str, Any]) -> str:
    """Return an object as one line of ASCII."""
    return json.dumps(answer, allow_nan=False)
