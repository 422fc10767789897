"""The commands of a run: to find issues, and to plan that."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from labelsieve.cli.options import EXIT_CODES, RUN, JobCommand
from labelsieve.cli.tasks import check_options, module_of, rows_of, settings_of
from labelsieve.cli.text import find_answer, json_line, plan_answer, plan_text, summary_text, worst_text
from labelsieve.errors import InvalidInputError
from labelsieve.execution.cluster import cluster
from labelsieve.execution.progress import listened_to
from labelsieve.results import store as export
from labelsieve.results.report import check_report
from labelsieve.results.result import read_class_names
from labelsieve.results.store import check_output
from labelsieve.sources.composite import check_dtype
from labelsieve.sources.open import open_pred_probs
from labelsieve.sources.recording import open_summaries
from labelsieve.sources.tables import open_columns
from labelsieve.storage.remote import check_place, without_query

# Options of `find` that have no effect on a plan.
_FOR_FIND: Final = (
    *("retries", "wait", "top", "class_names", "ids", "quiet", "progress"),
    *("report", "images", "texts", "rows"),
)


@click.command(cls=JobCommand, epilog=EXIT_CODES)
@RUN
def find(
    label_place: str | None,
    prob_place: str | None,
    *,
    output: str | None,
    top: int,
    class_names: Path | None,
    quiet: bool,
    json: bool,
    progress: str,
    log_level: str | None,
    report: Path | None,
    images: str | None,
    texts: str | None,
    rows: int,
    **choices: Any,
) -> dict[str, Any] | None:
    """Find the rows whose label is likely wrong.

    LABELS holds the given class of each row and PRED_PROBS the out-of-sample probabilities: .npy files, Zarr arrays, or
    arrays in .npz and safetensors files (run.npz::probs), as paths or URLs, or shards of these: a pattern in quotes, or
    their folder. Of a table (--data) they are columns. Neither is given for a table of row summaries (--summaries),
    which has a few numbers for each row in place of its probabilities.

    Example: labelsieve find labels.npy pred_probs.npy -o issues.csv

    Example: labelsieve find --data predictions.parquet --labels label --pred-probs probs

    Example: labelsieve find --summaries summaries.parquet --n-classes 1000

    Example: labelsieve find --task segmentation masks.npy pred_probs.npy -o issues.csv
    """
    began = time.perf_counter()
    # Refuse before the run whatever can be refused.
    columns = _inputs_of(label_place, prob_place, choices)
    data, summaries = choices["data"], choices["summaries"]
    places = (*columns, choices["ids"]) if data is None else (data,)
    given = (*places, summaries, class_names, images, texts)
    inputs = [check_place("input", path) for path in given if path is not None]
    if output is not None:
        check_output(output, inputs)
    if report is not None:
        if report.resolve() in [Path(path).resolve() for path in inputs]:
            raise InvalidInputError(f"{report} is an input, so the report cannot be written there")
        if choices["task"] == "classification":
            check_report(report, _n_rows(columns, choices), images, texts)
        else:  # which pictures and texts fit is known once the groups are
            check_report(report)
    elif images is not None or texts is not None:
        raise InvalidInputError("--images and --texts are for the report: name it with --report")
    on_cluster = choices["scheduler"] is not None or choices["workers"] is not None
    names = None if class_names is None else read_class_names(class_names)
    task = choices.pop("task")
    check_options(task, choices)
    group, say = _group_of(output), _silent if quiet else click.echo
    level = log_level or ("info" if on_cluster and progress == "auto" and not quiet else "warning")
    with (
        logging_to_stderr(level),
        showing(progress),
        _cluster_of(choices) as client,
    ):
        found = module_of(task).find_label_issues(
            *columns,
            progress=_is_bar_shown(progress, quiet=quiet),
            client=client,
            output=group,
            class_names=names,
            **settings_of(task, choices),
        )
        issues = rows_of(found)
        say(summary_text(issues))
        say(worst_text(issues, top), nl=False)
        if output is not None:
            if group is None:
                export.write(issues, output)
            say(f"written to {without_query(output)}")
        if report is not None:
            found.report(report, top=rows, images=images, texts=texts)
            say(f"written to {report}")
        if issues.facts.misfit:  # again, at the end, where it has not scrolled away
            say(f"\nWARNING: {issues.facts.misfit}")
    return find_answer(issues, time.perf_counter() - began, output, report) if json else None


@click.command(cls=JobCommand, epilog=EXIT_CODES)
@RUN
def plan(
    label_place: str | None,
    prob_place: str | None,
    *,
    output: str | None,
    json: bool,
    log_level: str | None,
    **choices: Any,
) -> dict[str, Any] | int:
    """Print the plan of a run: batches, partitions, tasks, bytes and memory. No data is read here.

    Takes the arguments of `labelsieve find`; those for printing and reports have no effect. No cluster is started:
    --workers plans for a cluster of that many workers, with --threads and --worker-memory for each.

    With --scheduler the cluster is checked: its versions, and its clocks if data is in an object store. Each worker
    reads a batch of the inputs, and writes a small file to the workdir and a .zarr output, which it removes again. Exit
    code 1 means that the run would fail; the plan lists the problems.

    Example: labelsieve plan labels.npy pred_probs.npy --max-memory 1GiB
    """
    for unused in _FOR_FIND:
        del choices[unused]
    columns = _inputs_of(label_place, prob_place, choices)
    if output is not None:
        check_output(output, [path for path in (*columns, choices["data"], choices["summaries"]) if path is not None])
    task = choices.pop("task")
    check_options(task, choices)
    with logging_to_stderr(log_level or "warning"), _cluster_of(choices, start=False) as client:
        found = module_of(task).plan_label_issues(
            *columns, client=client, output=_group_of(output), **settings_of(task, choices)
        )
    if json:
        return plan_answer(found)
    click.echo(plan_text(found))
    return 1 if found.problems else 0


def _inputs_of(label_place: str | None, prob_place: str | None, choices: dict[str, Any]) -> list[Any]:
    """Remove the names of columns from `choices`; return the places of both inputs, or with --data their columns.

    With --summaries there are none.
    """
    if choices["summaries"] is not None:
        named = choices["data"], choices.pop("labels"), choices.pop("pred_probs")
        if any(one is not None for one in (label_place, prob_place, *named)):
            raise click.UsageError("--summaries takes the place of LABELS, PRED_PROBS and --data")
        return [None, None]
    found = list[Any]()
    for name, place in (("labels", label_place), ("pred_probs", prob_place)):
        option, column = f"--{name.replace('_', '-')}", choices.pop(name)
        if column is not None and choices["data"] is None:
            raise click.UsageError(f"{option} names a column of a table: give it with --data")
        if column is not None and place is not None:
            raise click.UsageError(f"{option} and the argument {name.upper()} are both given")
        if column is None and place is None:
            missing = f"--data needs the column of {name}: {option}" if choices["data"] else ""
            raise click.UsageError(missing or f"Missing argument '{name.upper()}'.")
        found.append(place if column is None else column)
    labels, probs = found
    return [labels, probs.split(",") if choices["data"] and "," in probs else probs]


def _n_rows(columns: Sequence[Any], choices: Mapping[str, Any]) -> int:
    """Return the number of rows of the inputs."""
    if choices["summaries"] is not None:
        return open_summaries(choices["summaries"], choices["n_classes"]).pred_probs.n_rows
    probs = columns[1] if choices["data"] is None else open_columns(choices["data"], *columns)[1]
    return int(open_pred_probs(probs, check_dtype(choices["dtype"])).shape[0])


def _group_of(output: str | None) -> str | None:
    """Return an output that is a .zarr group, which the tasks write; None for a table, which is written at the end."""
    return output if output is not None and output.endswith(".zarr") else None


def _cluster_of(choices: dict[str, Any], *, start: bool = True) -> AbstractContextManager[Any]:
    """Remove the cluster options from `choices`, and return the cluster."""
    options = (choices.pop(name) for name in ("scheduler", "workers", "threads", "worker_memory"))
    return cluster(*options, start=start)


def _silent(*_: Any, **__: Any) -> None:
    """Print nothing; replaces `click.echo` with --quiet."""


def _is_bar_shown(progress: str, *, quiet: bool) -> bool | None:
    """Return what `find_label_issues` takes as `progress`; None shows bars in a terminal."""
    if progress == "auto":
        return False if quiet else None
    return progress == "bar"


@contextmanager
def showing(progress: str) -> Iterator[None]:
    """Print the progress of the block as lines of JSON on stderr, if that is chosen."""
    if progress != "json":
        yield
        return
    with listened_to(lambda event: click.echo(json_line(event), err=True)):
        yield


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Print what the package logs from some level on: retries, lost workers, waiting, progress on a cluster."""
    logger = logging.getLogger("labelsieve")
    handler, before = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
