"""The commands: to find issues and plan that, and to report, review, correct, audit, estimate and compare a result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import numpy as np
import numpy.typing as npt
from click.core import ParameterSource

from labelsieve.cli.options import (
    EXIT_CODES,
    IMAGES,
    JSON,
    TEXTS,
    FilePath,
    Parsed,
    RunCommand,
    flag,
    in_options,
    option,
)
from labelsieve.cli.text import (
    apply_text,
    compare_answer,
    compare_text,
    estimate_answer,
    estimate_text,
    find_answer,
    json_line,
    plan_answer,
    plan_text,
    summary_text,
    timed,
    worst_text,
)
from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.errors import InvalidInputError, MissingDependencyError, size
from labelsieve.options import CONFLICT_RULES, NOTHING, OPTIONS, TASKS, UNSURE_RULES
from labelsieve.results import store
from labelsieve.results.label_issues import GroupedIssues, LabelIssues, load, load_rows
from labelsieve.results.report import check_report
from labelsieve.results.result import read_class_names
from labelsieve.results.store import check_ending, check_output, check_writable, replacing
from labelsieve.storage.folder import LocalFolder, writing
from labelsieve.storage.remote import check_place, without_query

if TYPE_CHECKING:
    from labelsieve.find import Task
    from labelsieve.review.audit import Audit


@click.command(cls=RunCommand, epilog=EXIT_CODES)
@click.pass_context
def find(
    ctx: click.Context,
    /,
    *,
    output: str | None,
    top: int,
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
    from labelsieve.results.report import check_report

    began = time.perf_counter()
    # Refuse before the run whatever can be refused.
    columns = _inputs_of(choices)
    places = (*columns, choices["ids"]) if choices["data"] is None else (choices["data"],)
    given = (*places, choices["summaries"], choices["class_names"], images, texts)
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
    task, options = _task_of(ctx, choices)
    group, say = _group_of(output), _silent if quiet else click.echo
    level = log_level or ("info" if on_cluster and progress == "auto" and not quiet else "warning")
    # None shows bars in a terminal.
    shows_bars = (False if quiet else None) if progress == "auto" else progress == "bar"
    with logging_to_stderr(level), showing(progress), _cluster_of(choices) as client:
        found = task.find(*columns, progress=shows_bars, client=client, output=group, **options)
        issues: LabelIssues = found.rows if isinstance(found, GroupedIssues) else found
        say(summary_text(issues))
        say(worst_text(issues, top), nl=False)
        if output is not None:
            if group is None:
                store.write(issues, output)
            say(f"written to {without_query(output)}")
        if report is not None:
            found.report(report, top=rows, images=images, texts=texts)
            say(f"written to {report}")
        if issues.facts.misfit:  # again, at the end, where it has not scrolled away
            say(f"\nWARNING: {issues.facts.misfit}")
    return timed(began, **find_answer(issues, output, report)) if json else None


@click.command(cls=RunCommand, epilog=EXIT_CODES)
@click.pass_context
def plan(
    ctx: click.Context, /, *, output: str | None, json: bool, log_level: str | None, **choices: Any
) -> dict[str, Any]:
    """Print the plan of a run: batches, partitions, tasks, bytes and memory. No data is read here.

    Takes the arguments of `labelsieve find`; those for printing and reports have no effect. No cluster is started:
    --workers plans for a cluster of that many workers, with --threads and --worker-memory for each.

    With --scheduler the cluster is checked: its versions, and its clocks if data is in an object store. Each worker
    reads a batch of the inputs, and writes a small file to the workdir and a .zarr output, which it removes again. Exit
    code 1 means that the run would fail; the plan lists the problems.

    Example: labelsieve plan labels.npy pred_probs.npy --max-memory 1GiB
    """
    columns = _inputs_of(choices)
    if output is not None:
        check_output(output, [path for path in (*columns, choices["data"], choices["summaries"]) if path is not None])
    task, options = _task_of(ctx, choices)
    with logging_to_stderr(log_level or "warning"), _cluster_of(choices, start=False) as client:
        found = task.plan(*columns, client=client, output=_group_of(output), **options)
    if not json:
        click.echo(in_options(plan_text(found)))
    return plan_answer(found)


def _task_of(ctx: click.Context, choices: Mapping[str, Any]) -> tuple[Task, dict[str, Any]]:
    """Return the task, and the options of the run that are given.

    Raises
    ------
    InvalidInputError
        For an option that the task does not have.
    """
    from labelsieve.find import task_of

    task, options = task_of(choices["task"]), dict[str, Any]()
    for name, value in choices.items():
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        if name in task.all_options:
            options[name] = read_class_names(value) if name == "class_names" else value
        elif name in OPTIONS:
            raise InvalidInputError(f"{flag(name)} is not for --task {task.name}: {task.without[name]}")
        elif owners := [one for one in TASKS if name in task_of(one).options]:
            raise InvalidInputError(f"{flag(name)} is for --task {', '.join(owners)}")
    return task, options


def _inputs_of(choices: dict[str, Any]) -> list[Any]:
    """Remove the places and columns of the inputs from `choices`; return both places, or with --data both columns.

    With --summaries there are none.
    """
    label_place, prob_place = choices.pop("label_place"), choices.pop("prob_place")
    if choices["summaries"] is not None:
        named = choices["data"], choices.pop("labels"), choices.pop("pred_probs")
        if any(one is not None for one in (label_place, prob_place, *named)):
            raise click.UsageError("--summaries takes the place of LABELS, PRED_PROBS and --data")
        return [None, None]
    found = list[Any]()
    for name, place in (("labels", label_place), ("pred_probs", prob_place)):
        column = choices.pop(name)
        if column is not None and choices["data"] is None:
            raise click.UsageError(f"{flag(name)} names a column of a table: give it with --data")
        if column is not None and place is not None:
            raise click.UsageError(f"{flag(name)} and the argument {name.upper()} are both given")
        if column is None and place is None:
            missing = f"--data needs the column of {name}: {flag(name)}" if choices["data"] else ""
            raise click.UsageError(missing or f"Missing argument '{name.upper()}'.")
        found.append(place if column is None else column)
    labels, probs = found
    return [labels, probs.split(",") if choices["data"] and "," in probs else probs]


def _n_rows(columns: Sequence[Any], choices: Mapping[str, Any]) -> int:
    """Return the number of rows of the inputs."""
    from labelsieve.sources.composite import check_dtype
    from labelsieve.sources.open import open_pred_probs
    from labelsieve.sources.recording import open_summaries
    from labelsieve.sources.tables import open_columns

    if choices["summaries"] is not None:
        return open_summaries(choices["summaries"], choices["n_classes"]).pred_probs.n_rows
    probs = columns[1] if choices["data"] is None else open_columns(choices["data"], *columns)[1]
    return int(open_pred_probs(probs, check_dtype(choices["dtype"])).shape[0])


def _group_of(output: str | None) -> str | None:
    """Return an output that is a .zarr group, which the tasks write; None for a table, which is written at the end."""
    return output if output is not None and output.endswith(".zarr") else None


def _cluster_of(choices: Mapping[str, Any], *, start: bool = True) -> AbstractContextManager[Any]:
    """Return the cluster that the options ask for."""
    from labelsieve.execution.cluster import cluster

    options = (choices[name] for name in ("scheduler", "workers", "threads", "worker_memory"))
    return cluster(*options, start=start)


def _silent(*_: Any, **__: Any) -> None:
    """Print nothing; replaces `click.echo` with --quiet."""


@contextmanager
def showing(progress: str) -> Iterator[None]:
    """Print the progress of the block as lines of JSON on stderr, if that is chosen."""
    if progress != "json":
        yield
        return
    from labelsieve.execution.progress import listened_to

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


_T = TypeVar("_T")
_Command = Callable[..., Any]


def _answering(command: Callable[..., tuple[dict[str, Any], str]]) -> _Command:
    """Add --json to a command that returns its answer, and the text that it prints without that option."""

    @option("--json", is_flag=True, help=JSON.help)
    @wraps(command)
    def run(*, json: bool, **choices: Any) -> dict[str, Any]:
        began = time.perf_counter()
        answer, text = command(**choices)
        if not json:
            click.echo(text)
        return timed(began, **answer)

    return run


_conflicts = option(
    "--conflicts", type=click.Choice(CONFLICT_RULES), default="error", help="What counts where reviewers differ."
)
# Which rows are reviewed, and what is shown of them.
_REVIEWED: Final = (
    option("--texts", metavar="FILE", help="Texts of the rows, one per line."),
    option("--audit", metavar="AUDIT.json", help="Review the rows of this audit."),
    option(
        "--lowest",
        type=click.IntRange(min=1),
        metavar="N",
        help="Review the N rows of lowest score, issues or not; needs --labels.",
    ),
    option(
        "--pred-probs",
        metavar="FILE",
        help="The predicted probabilities: next classes, and suggestions for rows that are not issues.",
    ),
    option(
        "--labels",
        metavar="FILE",
        help="The given labels, for rows that are not issues: .npy, Zarr, or a column: table.parquet::label.",
    ),
    option(
        "--class-names",
        type=FilePath(),
        metavar="FILE",
        help="What to show of each class: one name per line, or a JSON list.",
    ),
)


def _reviewing(command: _Command) -> _Command:
    return reduce(lambda made, one: one(made), reversed(_REVIEWED), command)


@click.command(epilog=EXIT_CODES)
@click.argument("labels")
@click.argument("decisions", nargs=-1)
@option(
    "-o",
    "--output",
    required=True,
    help="The corrected labels, in the form of LABELS; .npy or .zarr for shards and URLs, a folder for PNG files.",
)
@option("--column", metavar="NAME", help="Column of the labels in a Parquet or CSV file.")
@option(
    "--task",
    type=click.Choice(TASKS),
    metavar="TASK",
    help="What a label belongs to: classification, segmentation, tokens or tags, as in labelsieve find; by default "
    "the task of --issues, or what the form of LABELS says.",
)
@option(
    "--unsure", type=click.Choice(UNSURE_RULES), default="keep", help="What becomes of rows whose decision is unsure."
)
@option(
    "--ignore-label",
    type=Parsed(OPTIONS["ignore_label"].parse or str),
    default=NOTHING,
    show_default=False,
    metavar="LABEL",
    help="With --unsure ignore: the label that means none.",
)
@_conflicts
@option("--class-names", type=FilePath(), metavar="FILE", help="All classes: one name per line, or a JSON list.")
@option(
    "--ids",
    metavar="FILE",
    help="Your own names of the rows, or of the images, sentences or examples, to compare with the column id.",
)
@option("--issues", metavar="RESULT.zarr", help="The result that the decisions are about.")
@option("--auto", type=click.Choice(["accept"]), help="Accept suggestions of --issues that nobody has reviewed.")
@option(
    "--margin",
    type=float,
    metavar="SHARE",
    help="With --auto: by how much the suggested class must be more probable, 0 to 1.",
)
@option("--overwrite", is_flag=True, help="Replace an output that exists, even LABELS itself.")
@_answering
def apply(
    labels: str, decisions: Sequence[str], *, class_names: Path | None, issues: str | None, **choices: Any
) -> tuple[dict[str, Any], str]:
    """Correct labels by the decisions of reviewers.

    LABELS is a .npy file, a Zarr array, a .parquet or .csv file; or shards, an array in an archive, or a URL. Arrays of
    three axes and PNG files are masks; for a matrix of tags or a column of lists give --task. DECISIONS are CSV files
    with the columns row, given_label, decision and label, or exports of Label Studio (.json). What was changed, and by
    whom, is written to OUTPUT.log.json.

    Example: labelsieve apply labels.npy decisions.csv -o corrected.npy
    """
    from labelsieve.review.apply import apply_decisions

    applied = apply_decisions(
        labels,
        list(decisions) or None,
        issues=None if issues is None else load_rows(issues),
        class_names=None if class_names is None else read_class_names(class_names),
        **choices,
    )
    answer = {"output": applied.output, "log": f"{applied.output}.log.json", "counts": applied.counts}
    return answer, apply_text(applied)


@click.command(epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", required=True, type=FilePath(), help="The page: review.html.")
@option("--top", type=click.IntRange(min=1), metavar="N", default=500, help="Number of issues, from the worst.")
@option(
    "--images",
    metavar="FILE|PATTERN",
    help="Pictures of the rows: .npy, Zarr, 'images/*.png', or a .txt file of paths or URLs.",
)
@_reviewing
@option("--title", help="Name of the dataset, for the heading.")
@_answering
def review(
    result: str,
    *,
    output: Path,
    top: int,
    audit: str | None,
    lowest: int | None,
    class_names: Path | None,
    **choices: Any,
) -> tuple[dict[str, Any], str]:
    """Write a page on which a person decides about the issues of RESULT, or about the rows of an audit.

    The page is one file that works offline. Its decisions are downloaded as CSV, for labelsieve apply and labelsieve
    estimate. Teams use Label Studio: see labelsieve label-studio.

    Example: labelsieve review result.zarr -o review.html --images images.npy
    """
    found = load_rows(result)
    choices |= _shown(found, audit, lowest, class_names)
    found.review(output, top=top, **choices)
    n_rows = _n_shown(found, top, choices)
    n_bytes = output.stat().st_size
    text = f"{rows_in_words(n_rows, 'row', 'rows')} to review, written to {output} ({size(n_bytes)})"
    return {"output": str(output), "n_rows": n_rows, "page_bytes": n_bytes}, text


@click.command("label-studio", epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", required=True, type=FilePath(), help="The tasks: tasks.json.")
@option("--config", type=FilePath(), help="Write the labelling configuration of the project to this file.")
@option("--images", metavar="FILE|PATTERN", help="URLs of the pictures: one per line, or a pattern with {row} or {id}.")
@option("--top", type=click.IntRange(min=0), metavar="N", help="Number of issues, from the worst; all by default.")
@_reviewing
@_answering
def label_studio(
    result: str,
    *,
    output: Path,
    config: Path | None,
    top: int | None,
    audit: str | None,
    lowest: int | None,
    class_names: Path | None,
    **choices: Any,
) -> tuple[dict[str, Any], str]:
    """Write the issues of RESULT, or the rows of an audit, as tasks for Label Studio.

    The labelling configuration of the project is printed, or written with --config. labelsieve apply and labelsieve
    estimate take what Label Studio exports as JSON.

    Example: labelsieve label-studio result.zarr -o tasks.json --images 'https://example.org/{row}.png'
    """
    found = _saved(result, LabelIssues, "a result of classification")
    if config is not None:
        if config.absolute() == output.absolute():
            raise click.UsageError("--config and -o are the same file")
        check_writable(config)
    shown = _shown(found, audit, lowest, class_names)
    text = found.to_label_studio(output, top=top, **shown, **choices)
    if config is not None:
        with replacing(LocalFolder(config)) as made:
            made.write_text(f"{text}\n", encoding="utf-8")
    files = {"output": str(output), "config": None if config is None else str(config)}
    answer = {**files, "label_config": text, "n_tasks": _n_shown(found, top, shown)}
    return answer, text if config is None else f"written to {output}, the configuration to {config}"


@click.command(epilog=EXIT_CODES)
@click.argument("before")
@click.argument("after")
@option(
    "-o", "--output", metavar="TABLE.csv", help="Write all issues of both results, and what became of each, as a table."
)
@option("--top", type=click.IntRange(min=0), metavar="N", default=20, help="Classes to print, from the most issues.")
@_answering
def compare(before: str, after: str, *, output: str | None, top: int) -> tuple[dict[str, Any], str]:
    """Compare two saved results of the same rows: which issues were resolved, which are still there, which are new.

    BEFORE and AFTER are .zarr groups that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote.

    Example: labelsieve compare before.zarr after.zarr -o table.csv
    """
    from labelsieve.review.compare import compare as compare_results

    if output is not None:
        check_ending("output", output, ".csv")
        check_output(output, [before, after])
    comparison = compare_results(load_rows(before), load_rows(after))
    answer, text = compare_answer(comparison, output), compare_text(comparison, top)
    if output is not None:
        comparison.to_csv(output)
        text += f"\nwritten to {answer['output']}"
    return answer, text


@click.command("audit", epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", required=True, metavar="AUDIT.json", help="The audit, which ends in .json.")
@option("--budget", type=click.IntRange(min=20), metavar="N", default=200, help="Rows to review.")
@option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Equal seeds draw equal rows.")
@option("--labels", metavar="FILE", help="The given labels, for estimates by class: .npy, or table.parquet::label.")
@option("--table", type=FilePath(), metavar="FILE.csv", help="Write a table to fill in with decisions too.")
@_answering
def draw(
    result: str, output: str, budget: int, seed: int, labels: str | None, table: Path | None
) -> tuple[dict[str, Any], str]:
    """Draw rows to review, so that the number of wrong labels can be estimated.

    RESULT is the .zarr group that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote. Decide about the rows
    in the page of labelsieve review --audit, or in the file of --table; labelsieve estimate takes the decisions.

    Example: labelsieve audit issues.zarr --budget 200 -o audit.json
    """
    if table is not None:
        from labelsieve.review.audit import check_new_table

        check_new_table(table)
    drawn = load_rows(result).audit(budget, seed, labels=labels)
    drawn.save(output)
    place, n_labelled = without_query(output), int(drawn.stratum_rows.sum())
    text = f"{len(drawn):,} of {n_labelled:,} rows to review, written to {place}"
    if table is not None:
        drawn.to_csv(table)
        text += f"\na table to fill in with decisions, written to {table}"
    files = {"output": place, "table": None if table is None else str(table)}
    return {**files, "n_rows": len(drawn), "n_labelled": n_labelled}, text


@click.command("estimate", epilog=EXIT_CODES)
@click.argument("audit")
@click.argument("decisions", nargs=-1, required=True)
@_conflicts
@option(
    "--width",
    type=float,
    metavar="SHARE",
    help="Say how many more rows to review until the interval is this wide: 0.01.",
)
@option("--top", type=click.IntRange(min=0), metavar="N", default=20, help="Classes to print, from the most wrong.")
@option(
    "--cuts",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Say how many of the N rows of lowest score are wrong, and which share of all wrong labels they hold; may be "
    "given several times.",
)
@_answering
def print_estimate(
    audit: str, decisions: Sequence[str], conflicts: str, width: float | None, top: int, cuts: Sequence[int]
) -> tuple[dict[str, Any], str]:
    """Estimate how many labels are wrong, from decisions about the rows of an audit.

    AUDIT is what labelsieve audit wrote. DECISIONS are CSV files with the columns row and decision, of the review page
    or of a table that was filled in, or exports of Label Studio. Intervals are of 95%.

    Example: labelsieve estimate audit.json decisions.csv

    Example: labelsieve estimate audit.json decisions.csv --cuts 500 --cuts 1000
    """
    from labelsieve.review.audit import estimate

    found = estimate(_audit_at(audit), list(decisions), conflicts=conflicts, cuts=cuts or None)
    more, text = None, estimate_text(found, top, of_rows=bool(cuts))
    if width is not None:
        more = found.rows_for_width(width)
        text += f"\n{more:,} more rows to review until the interval is {width:g} wide"
    return estimate_answer(found, more), text


@click.command(epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", type=FilePath(), default=Path("report.html"), help="The page.")
@option("--images", metavar=IMAGES.metavar, help=IMAGES.help)
@option("--texts", metavar=TEXTS.metavar, help=TEXTS.help)
@option(*("--top", "--rows", "rows"), type=click.IntRange(min=0), metavar="N", default=100, help="Worst rows to show.")
@option("--before", metavar="EARLIER.zarr", help="Say what became of the issues of this earlier result.")
@option("--audit", metavar="AUDIT.json", help="Say how many labels are wrong by this audit and --decisions.")
@option("--decisions", multiple=True, metavar="FILE.csv", help="Decisions about the rows of --audit.")
@_conflicts
def report(
    result: str,
    output: Path,
    images: str | None,
    texts: str | None,
    rows: int,
    before: str | None,
    audit: str | None,
    decisions: Sequence[str],
    conflicts: str,
) -> None:
    """Write a report for a browser about a saved result.

    RESULT is the .zarr group that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote, as a path or URL.

    Example: labelsieve report issues.zarr -o report.html
    """
    if (audit is None) != (not decisions):
        raise click.UsageError("--audit and --decisions belong together")
    found = load(result)
    from labelsieve.review.audit import Audit, estimate

    if isinstance(found, Audit):
        raise InvalidInputError(f"{result} is an audit: a report is about a result: give it with --audit")
    shown: dict[str, Any] = {"top": rows, "images": images, "texts": texts, "before": before}
    if audit is not None:
        if not isinstance(found, LabelIssues):
            raise InvalidInputError("--audit is for reports about rows, not about pixels, tokens or tags")
        shown["estimate"] = estimate(_audit_at(audit), list(decisions), conflicts=conflicts)
    found.report(output, **shown)
    click.echo(f"written to {output}")


def _shown(found: LabelIssues, audit: str | None, lowest: int | None, class_names: Path | None) -> dict[str, Any]:
    """Return which rows are reviewed, and the names of their classes, by the options of several commands."""
    return {
        "audit": None if audit is None else _audit_at(audit),
        "rows": None if lowest is None else found.lowest(lowest),
        "class_names": None if class_names is None else read_class_names(class_names),
    }


def _n_shown(found: LabelIssues, top: int | None, shown: Mapping[str, Any]) -> int:
    """Return the number of rows to review: those that are chosen, or the `top` issues."""
    chosen = shown["rows"] if shown["audit"] is None else shown["audit"]
    if chosen is not None:
        return len(chosen)
    return found.num_issues if top is None else min(top, found.num_issues)


def _audit_at(path: str) -> Audit:
    from labelsieve.review.audit import Audit

    return _saved(path, Audit, "an audit")


def _saved(path: str, kind: type[_T], what: str) -> _T:
    """Open what was saved at `path`, which must be of a kind."""
    found = load(path)
    if not isinstance(found, kind):
        raise InvalidInputError(f"{path} is not {what}")
    return found


SEED: Final = 0
FLIPPED_SHARE: Final = 0.1
# Small enough that even this dataset is read in several chunks.
CHUNK_ROWS: Final = 300
# Labels, probabilities, names of the classes, and pictures.
FILES: Final = ("labels.zarr", "pred_probs.zarr", "class_names.txt", "images.npy")
_MARK: Final = "Made by `labelsieve demo`, which replaces these files when it runs again.\n"
NAMES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@click.command(epilog=EXIT_CODES)
@option("--folder", type=FilePath(file_okay=False), default=Path("labelsieve-demo"), help="Folder for the files.")
@option("--report", type=FilePath(), help="Write a report with the pictures: report.html.")
def demo(folder: Path, report: Path | None) -> None:
    """Flip a tenth of the labels of 1,797 handwritten digits, and find them again out of core.

    Example: labelsieve demo
    """
    if report is not None:
        check_report(report)
    click.echo("training a model on scikit-learn's digits, out of fold ...")
    flipped, n_rows = make_demo(folder)
    click.echo(f"{len(flipped)} of {n_rows:,} labels flipped ({FLIPPED_SHARE:.0%}), stored as Zarr\n")
    labels, pred_probs, class_names, images = (folder / name for name in FILES)
    names = read_class_names(class_names)
    from labelsieve.find import find_label_issues

    issues = find_label_issues(
        labels, pred_probs, batch_size=300, partition_batches=2, progress=False, class_names=names
    )
    click.echo(summary_text(issues))
    click.echo(worst_text(issues, 5))
    precision, recall = precision_recall(issues.indices, flipped)
    hits = round(recall * len(flipped))
    click.echo(f"{len(flipped)} labels flipped, {issues.num_issues} issues found, of which {hits} were flipped:")
    click.echo(f"precision {precision:.1%}, recall {recall:.1%}\n")
    click.echo(f"The files are in {folder}. Try:")
    saved = folder / "issues.zarr"
    click.echo(f"  labelsieve find {labels} {pred_probs} --class-names {class_names} -o {saved}")
    click.echo(f"  labelsieve review {saved} -o review.html --images {images} --pred-probs {pred_probs}")
    if report is None:
        click.echo("  labelsieve demo --report report.html")
    else:
        issues.report(report, images=images, title="handwritten digits, a tenth of the labels flipped")
        click.echo(f"written to {report}")


def make_demo(folder: Path) -> tuple[npt.NDArray[np.int64], int]:
    """Flip a tenth of the labels of scikit-learn's digits, predict them out of fold, and store both as Zarr.

    Parameters
    ----------
    folder : Path
        For the `FILES`; created if missing. An earlier demo in it is replaced.

    Returns
    -------
    flipped : (M,) int64
        Rows whose label was flipped, ascending; also in ``flipped.npy``.
    n_rows : int
        Number of rows.

    Raises
    ------
    InvalidInputError
        If the folder has files that are not from an earlier demo.
    MissingDependencyError
        If scikit-learn is missing.
    """
    marker = folder / "about-this-demo.txt"
    is_demo = marker.is_file() and marker.read_text(encoding="utf-8") == _MARK
    if folder.exists() and any(folder.iterdir()) and not is_demo:
        raise InvalidInputError(f"{folder} is not empty and is not an earlier demo: name another folder")
    try:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingDependencyError("The demo", "demo") from error
    with writing(str(folder)):  # before the model is trained
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(_MARK, encoding="utf-8")
    pixels, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(SEED)
    flipped = np.sort(rng.choice(len(true), round(FLIPPED_SHARE * len(true)), replace=False))
    given = true.astype(np.int64)
    given[flipped] = (given[flipped] + rng.integers(1, 10, len(flipped))) % 10
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    predicted = cross_val_predict(model, pixels, given, cv=5, method="predict_proba").astype(np.float32)
    labels, pred_probs, class_names, images = (folder / name for name in FILES)
    _store(labels, given)
    _store(pred_probs, predicted)
    class_names.write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    np.save(images, pixels.reshape(-1, 8, 8))
    np.save(folder / "flipped.npy", flipped)
    return flipped, len(true)


def precision_recall(found: npt.NDArray[np.int64], wrong: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of the rows `found` that are `wrong`, and the share of those `wrong` that were found.

    Examples
    --------
    >>> import numpy as np
    >>> precision_recall(np.array([1, 2, 3, 4]), np.array([2, 9]))
    (0.25, 0.5)
    """
    hits = len(np.intersect1d(found, wrong))
    return hits / max(1, len(found)), hits / max(1, len(wrong))


def _store(path: Path, array: npt.NDArray[Any]) -> None:
    import zarr

    chunks = (CHUNK_ROWS, *array.shape[1:])
    stored: Any = zarr.create_array(path, shape=array.shape, chunks=chunks, dtype=array.dtype, overwrite=True)
    stored[:] = array
