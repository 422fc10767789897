"""The command line: ``labelsieve find``, ``plan``, ``report`` and ``demo``."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from labelsieve import __version__
from labelsieve.cli.demo import FILES, FLIPPED_SHARE, make_demo, precision_recall
from labelsieve.cli.interrupts import LINES, Terminated, raising
from labelsieve.cli.options import EXIT_CODES, PAGE, RUN, FilePath, JobCommand
from labelsieve.cli.text import plan_text, summary_text, worst_text
from labelsieve.errors import (
    InputTypeError,
    InUseError,
    InvalidInputError,
    LabelsieveWarning,
    MemoryLimitError,
    MissingDependencyError,
    WorkdirError,
)
from labelsieve.execution.local_cluster import cluster
from labelsieve.find import find_label_issues, plan_label_issues
from labelsieve.results import export
from labelsieve.results.label_issues import load
from labelsieve.results.publish import check_output
from labelsieve.results.report import check_report
from labelsieve.results.row_ids import read_class_names
from labelsieve.sources.open_array import open_pred_probs
from labelsieve.storage.urls import check_place, without_query

_IN_USE: Final = 75  # EX_TEMPFAIL of sysexits.h


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="labelsieve")
def cli() -> None:
    """Find wrong labels in datasets whose predicted probabilities are larger than memory."""


@cli.command(cls=JobCommand, epilog=EXIT_CODES)
@RUN
def find(
    labels: str,
    pred_probs: str,
    *,
    output: str | None,
    top: int,
    class_names: Path | None,
    quiet: bool,
    page: Path | None,
    images: str | None,
    texts: str | None,
    rows: int,
    **choices: Any,
) -> None:
    """Find the rows whose label is likely wrong.

    LABELS holds the given class of each row and PRED_PROBS the out-of-sample probabilities: .npy files or Zarr arrays,
    as paths or URLs, or shards of these: a pattern in quotes, or their folder.

    Example: labelsieve find labels.npy pred_probs.npy -o issues.csv
    """
    # Refuse before the run whatever can be refused.
    given = (labels, pred_probs, class_names, choices["ids"], images, texts)
    inputs = [check_place("input", path) for path in given if path is not None]
    if output is not None:
        check_output(output, inputs)
    if page is not None:
        if page.resolve() in [Path(path).resolve() for path in inputs]:
            raise InvalidInputError(f"{page} is an input, so the report cannot be written there")
        check_report(page, open_pred_probs(pred_probs).shape[0], images, texts)
    elif images is not None or texts is not None:
        raise InvalidInputError("--images and --texts are for the report: name it with --report")
    names = None if class_names is None else read_class_names(class_names)
    group, say = _group_of(output), _silent if quiet else click.echo
    with _cluster_of(choices) as client, _logging(progress=client is not None and not quiet):
        progress = False if quiet else None
        issues = find_label_issues(
            labels, pred_probs, progress=progress, client=client, output=group, class_names=names, **choices
        )
        say(summary_text(issues))
        say(worst_text(issues, top), nl=False)
        if output is not None:
            if group is None:
                export.write(issues, output)
            say(f"written to {without_query(output)}")
        if page is not None:
            issues.report(page, top=rows, images=images, texts=texts)
            say(f"written to {page}")
        if issues.facts.misfit:  # again, at the end, where it has not scrolled away
            say(f"\nWARNING: {issues.facts.misfit}")


@cli.command(cls=JobCommand, epilog=EXIT_CODES)
@RUN
def plan(labels: str, pred_probs: str, *, output: str | None, **choices: Any) -> None:
    """Print the plan of a run: batches, partitions, tasks, bytes and memory. No data is read.

    Takes the arguments of `labelsieve find`; those for printing and reports have no effect. No cluster is started:
    --workers plans for a cluster of that many workers, with --threads and --worker-memory for each.

    Example: labelsieve plan labels.npy pred_probs.npy --max-memory 1GiB
    """
    for unused in ("retries", "wait", "top", "class_names", "ids", "quiet", "page", "images", "texts", "rows"):
        del choices[unused]
    if output is not None:
        check_output(output, [labels, pred_probs])
    with _cluster_of(choices, start=False) as client:
        click.echo(plan_text(plan_label_issues(labels, pred_probs, client=client, output=_group_of(output), **choices)))


def _group_of(output: str | None) -> str | None:
    """Return an output that is a .zarr group, which the tasks write; None for a table, which is written at the end."""
    return output if output is not None and output.endswith(".zarr") else None


def _cluster_of(choices: dict[str, Any], *, start: bool = True) -> AbstractContextManager[Any]:
    """Remove the cluster options from `choices`, and return the cluster."""
    options = (choices.pop(name) for name in ("scheduler", "workers", "threads", "worker_memory"))
    return cluster(*options, start=start)


def _silent(*_: Any, **__: Any) -> None:
    """Print nothing; replaces `click.echo` with --quiet."""


@cli.command(epilog=EXIT_CODES)
@click.argument("result")
@click.option("-o", "--output", type=FilePath(), default=Path("report.html"), help="The page.")
@PAGE
def report(result: str, output: Path, images: str | None, texts: str | None, rows: int) -> None:
    """Write a report for a browser about a saved result.

    RESULT is the .zarr group that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote, as a path or URL.

    Example: labelsieve report issues.zarr -o report.html
    """
    load(result).report(output, top=rows, images=images, texts=texts)
    click.echo(f"written to {output}")


@cli.command(epilog=EXIT_CODES)
@click.option("--folder", type=FilePath(file_okay=False), default=Path("labelsieve-demo"), help="Folder for the files.")
@click.option("--report", "page", type=FilePath(), help="Write a report with the pictures: report.html.")
def demo(folder: Path, page: Path | None) -> None:
    """Flip a tenth of the labels of 1,797 handwritten digits, and find them again out of core.

    Example: labelsieve demo
    """
    if page is not None:
        check_report(page)
    click.echo("training a model on scikit-learn's digits, out of fold ...")
    flipped, n_rows = make_demo(folder)
    click.echo(f"{len(flipped)} of {n_rows:,} labels flipped ({FLIPPED_SHARE:.0%}), stored as Zarr\n")
    labels, pred_probs, class_names, images = (folder / name for name in FILES)
    names = read_class_names(class_names)
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
    click.echo(f"  labelsieve find {labels} {pred_probs} --class-names {class_names} -o issues.csv")
    if page is None:
        click.echo("  labelsieve demo --report report.html")
    else:
        issues.report(page, images=images, title="handwritten digits, a tenth of the labels flipped")
        click.echo(f"written to {page}")


@contextmanager
def _logging(*, progress: bool) -> Iterator[None]:
    """Print the log messages of the package: waiting for another run, and the progress of a job on a cluster."""
    logger = logging.getLogger("labelsieve")
    handler, level = _LogLines(logging.INFO if progress else logging.WARNING), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    if progress:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _LogLines(logging.Handler):
    """Prints warnings as the command line prints errors, and progress with the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        warns = record.levelno >= logging.WARNING
        click.echo(f"labelsieve: {record.getMessage()}" if warns else self.format(record), err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, LabelsieveWarning):
        click.echo(f"labelsieve: warning: {message}", err=True)


_REFUSED = (InvalidInputError, InputTypeError, MissingDependencyError, MemoryLimitError, WorkdirError)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        with raising(), warnings.catch_warnings():
            warnings.simplefilter("default", LabelsieveWarning)
            warnings.showwarning = _show_warning
            cli.main(args=None if args is None else list(args), prog_name="labelsieve", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except BaseException as error:  # noqa: BLE001  # a command line prints one line, and exits with a code
        code, text = _failure(error)
        click.echo(f"labelsieve: {text}", err=True)
        return code
    return 0


def _failure(error: BaseException) -> tuple[int, str]:
    """Return the exit code for the error that ended a command, and the line to print."""
    line = " ".join(str(error).split())
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "labelsieve"
        return error.exit_code, f"{error.format_message()} (see {command} --help)"
    if isinstance(error, InUseError):
        return _IN_USE, line
    if isinstance(error, _REFUSED):
        return 2, line
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return LINES[signal.SIGINT]
    if isinstance(error, Terminated):
        return LINES[signal.SIGTERM]
    return 1, f"failed: {type(error).__name__}: {line}"
