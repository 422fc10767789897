"""JSON for other programs: the answer of a command, its error, and lines of progress.

The docstring of `labelsieve.cli` explains all keys.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import click

from labelsieve import __version__
from labelsieve.errors import LabelsieveError
from labelsieve.memory import peak_bytes
from labelsieve.pipeline.plan import Plan
from labelsieve.results.label_issues import LabelIssues
from labelsieve.storage.urls import without_query

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
    facts = issues.facts
    return {
        "num_issues": issues.num_issues,
        "issue_share": issues.num_issues / issues.n_rows,
        "estimated_num_issues": issues.estimated_num_issues,
        "n_rows": issues.n_rows,
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


def plan_answer(plan: Plan) -> dict[str, Any]:
    """Return the answer of ``labelsieve plan``."""
    keys = {_PLAN_KEYS.get(name, name): value for name, value in dataclasses.asdict(plan).items()}
    return keys | {"version": __version__}


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
