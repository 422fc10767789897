"""The command line: ``labelsieve find``, ``labelsieve plan`` and ``labelsieve demo``."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from labelsieve import __version__
from labelsieve.cli.demo import FLIPPED_SHARE, make_demo, precision_recall
from labelsieve.cli.interrupts import LINES, Terminated, raising
from labelsieve.cli.options import CLUSTER, PAGE, RUN, FilePath
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
from labelsieve.results.report import check_page, check_report
from labelsieve.results.row_ids import read_class_names
from labelsieve.sources.open_array import open_pred_probs
from labelsieve.storage.urls import check_place, without_query

_IN_USE: Final = 75  # EX_TEMPFAIL of sysexits.h
_EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    a failure: data that cannot be read, a full disk, a lost cluster
  2    bad usage, input, credentials or workdir, or too little memory
  75   another run uses the workdir or the output: try again later
  130  interrupted by Ctrl-C
  143  ended by SIGTERM
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="labelsieve")
def cli() -> None:
    """Find wrong labels in datasets whose predicted probabilities are larger than memory."""


@cli.command(epilog=_EXIT_CODES)
@RUN
@PAGE
@CLUSTER
def find(
    labels: str,
    pred_probs: str,
    *,
    output: str | None,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    worker_memory: str | None,
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
    # All that can be refused is refused before the run.
    given = (labels, pred_probs, class_names, choices["ids"], images, texts)
    read = [check_place("input", path) for path in given if path is not None]
    if output is not None:
        export.check_output(output, read)
    if page is not None:
        if page.resolve() in [Path(path).resolve() for path in [*read, *([output] if output else [])]]:
            raise InvalidInputError(f"{page} is an input, or the output: the page is not written there")
        check_page(page, open_pred_probs(pred_probs).shape[0], images, texts)
    elif images is not None or texts is not None:
        raise InvalidInputError("pictures and texts are for the page: name it with --report")
    names = None if class_names is None else read_class_names(class_names)
    stored = output if output is not None and output.endswith(".zarr") else None
    with cluster(scheduler, workers, threads, worker_memory) as client, _logging(client is not None and not quiet):
        issues = find_label_issues(
            labels,
            pred_probs,
            progress=False if quiet else None,
            client=client,
            output=stored,
            class_names=names,
            **choices,
        )
        if not quiet:
            click.echo(summary_text(issues))
            click.echo(worst_text(issues, top), nl=False)
        if output is not None:
            if stored is None:
                export.write(issues, Path(output))
            if not quiet:
                click.echo(f"written to {without_query(output)}")
        if page is not None:
            issues.report(page, top=rows, images=images, texts=texts)
            if not quiet:
                click.echo(f"written to {page}")
        if issues.facts.misfit and not quiet:  # again, where it is not scrolled away
            click.echo(f"\nWARNING: {issues.facts.misfit}")


@cli.command(epilog=_EXIT_CODES)
@RUN
@PAGE
@CLUSTER
def plan(
    labels: str,
    pred_probs: str,
    *,
    output: str | None,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    worker_memory: str | None,
    **choices: Any,
) -> None:
    """Print what a run would take: batches, partitions, tasks, bytes, memory. No data is read.

    Takes the arguments of `labelsieve find`; those of what is printed and shown change nothing here. Nothing is
    started: with --workers it plans for a cluster of that many workers, with --threads and --worker-memory each.

    Example: labelsieve plan labels.npy pred_probs.npy --max-memory 1GiB
    """
    for unused in ("retries", "wait", "top", "class_names", "ids", "quiet", "page", "images", "texts", "rows"):
        del choices[unused]
    if output is not None:
        export.check_output(output, [labels, pred_probs])
    stored = output if output is not None and output.endswith(".zarr") else None
    with cluster(scheduler, workers, threads, worker_memory, start=False) as client:
        click.echo(plan_text(plan_label_issues(labels, pred_probs, client=client, output=stored, **choices)))


@cli.command(epilog=_EXIT_CODES)
@click.argument("result")
@click.option("-o", "--output", type=FilePath(), default=Path("report.html"), show_default=True, help="The page.")
@PAGE
def report(result: str, output: Path, images: str | None, texts: str | None, rows: int) -> None:
    """Write a page for a browser about a result that was saved.

    RESULT is the .zarr group that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote, as a path or URL.

    Example: labelsieve report issues.zarr -o report.html
    """
    load(result).report(output, top=rows, images=images, texts=texts)
    click.echo(f"written to {output}")


@cli.command(epilog=_EXIT_CODES)
@click.option(
    "--folder",
    type=FilePath(file_okay=False),
    default=Path("labelsieve-demo"),
    show_default=True,
    help="Where the files are left.",
)
@click.option("--report", "page", type=FilePath(), help="Write a page with the pictures: report.html.")
def demo(folder: Path, page: Path | None) -> None:
    """Flip a tenth of the labels of 1,797 real handwritten digits, and find them again out of core.

    Example: labelsieve demo
    """
    if page is not None:
        check_report(page)
    click.echo("training a model on scikit-learn's digits, out of fold ...")
    made = make_demo(folder)
    click.echo(f"{len(made.flipped)} of {made.n_rows:,} labels flipped ({FLIPPED_SHARE:.0%}), stored as Zarr\n")
    issues = find_label_issues(
        made.labels,
        made.pred_probs,
        batch_size=300,
        partition_batches=2,
        progress=False,
        class_names=read_class_names(made.class_names),
    )
    click.echo(summary_text(issues))
    click.echo(worst_text(issues, 5))
    precision, recall = precision_recall(issues.indices, made.flipped)
    hits = round(recall * len(made.flipped))
    click.echo(f"flipped {len(made.flipped)}, found {issues.num_issues}, of these flipped {hits}:")
    click.echo(f"precision {precision:.1%}, recall {recall:.1%}\n")
    click.echo(f"The files are in {folder}. Try:")
    click.echo(f"  labelsieve find {made.labels} {made.pred_probs} --class-names {made.class_names} -o issues.csv")
    if page is None:
        click.echo("  labelsieve demo --report report.html")
    else:
        issues.report(page, images=made.images, title="handwritten digits, a tenth of the labels flipped")
        click.echo(f"written to {page}")


@contextmanager
def _logging(wanted: bool) -> Iterator[None]:
    """Print what the package logs: that it waits for another run; if `wanted`, how far a job on a cluster is too."""
    logger = logging.getLogger("labelsieve")
    handler, level = _LogLines(logging.INFO if wanted else logging.WARNING), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    if wanted:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _LogLines(logging.Handler):
    """Prints a warning as the command line prints its errors, and progress with the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        warns = record.levelno >= logging.WARNING
        click.echo(f"labelsieve: {record.getMessage()}" if warns else self.format(record), err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, LabelsieveWarning):
        click.echo(f"labelsieve: warning: {message}", err=True)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(args))


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
    except BaseException as error:  # noqa: BLE001  # the last resort of a command line: one line, and a code
        code, text = _failure(error)
        click.echo(f"labelsieve: {text}", err=True)
        return code
    return 0


def _failure(error: BaseException) -> tuple[int, str]:
    """Return the exit code of what ended a command, and the line that tells it."""
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
