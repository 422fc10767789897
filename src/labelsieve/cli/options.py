"""Options of the commands, and their help under headings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from re import fullmatch
from typing import Any, Final

import click

from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import InvalidInputError
from labelsieve.options import ESTIMATION_METHODS, FILTER_NAMES, METHODS, NOTHING, RULES, TASKS
from labelsieve.sources.names import read_lines
from labelsieve.storage.remote import check_place

EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    a failure: data that cannot be read, a full disk, a lost cluster
  2    bad usage, input, credentials or workdir, or too little memory
  75   another run uses the workdir or output: try again later
  130  interrupted by Ctrl-C
  143  ended by SIGTERM
"""
_PASSES: Final = {1: "One pass.", 2: "Two passes.", 3: "Three passes."}
PROGRESS: Final = ("auto", "bar", "json", "none")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class JobCommand(click.Command):
    """A command with the options of a job, whose help has headings and says which filter to use when."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per heading, in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            line = param.get_help_record(ctx)
            if isinstance(param, click.Option) and line is not None:
                heading = param.heading if isinstance(param, HeadedOption) else "Other"
                sections.setdefault(heading, []).append(line)
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write which filter to use when, and the epilog."""
        with formatter.section("Which filter (precision and recall on 200,000 rows, 50 classes, 4% wrong labels)"):
            formatter.write_dl(_filter_guide())
        super().format_epilog(ctx, formatter)


def _filter_guide() -> list[tuple[str, str]]:
    """Return the names of filters, and when to use them; filters with the same advice are in the same line."""
    from labelsieve.confident_learning.filters import FILTERS, default_rule

    names: dict[str, list[str]] = {}
    for name, kind in FILTERS.items():
        passes = _PASSES[kind(Settings(filter_by=name, rule=default_rule(name))).n_reads]
        names.setdefault(f"{kind.advice} {passes}", []).append(name or "none given")
    return [(", ".join(filters), advice) for advice, filters in names.items()]


class HeadedOption(click.Option):
    """An option whose help names its environment variable, with a heading in the help of a `JobCommand`."""

    def __init__(self, *args: Any, heading: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, show_envvar=True)  # type: ignore[misc]  # mypy takes args for it
        self.heading = heading


option = partial(click.option, cls=HeadedOption)


class WholeNumberOr(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A whole number of at least 1, or one word."""

    def __init__(self, word: str, value: Any) -> None:
        self.word, self.value, self.name = word, value, f"{word}|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or the value that the word stands for."""
        if value == self.word or not isinstance(value, str):
            return self.value if value == self.word else value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither {self.word!r} nor a whole number of at least 1", param, ctx)
        return int(value)


class LabelValue(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A label: a whole number, a name, or empty text for a missing one."""

    name = "LABEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return the number or the name; None for a missing label."""
        if not isinstance(value, str):
            return value
        return int(value) if fullmatch(r"[+-]?[0-9]+", value) else value or None


class FilePath(click.Path):
    """A path that is not empty: Python takes an empty path for the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        try:
            check_place("path", value)
        except InvalidInputError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class WholeNumbers(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """Whole numbers separated by commas, or a file with one on each line."""

    name = "N,N,...|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the list of numbers."""
        if not isinstance(value, str):
            return value
        try:
            parts = value.split(",") if "," in value or value.isdecimal() else read_lines(Path(value))
        except (OSError, ValueError) as error:
            self.fail(f"{value!r} is neither a list of whole numbers nor a file with one per line: {error}", param, ctx)
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers", param, ctx)
        return [int(part) for part in parts]


def _together(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command, in the given order."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


_input, _method, _memory, _output, _cluster = (
    partial(click.option, cls=HeadedOption, heading=heading)
    for heading in ("Input", "Method", "Memory and workdir", "Output", "Cluster and processes")
)
_count = click.IntRange(min=0)
_at_least_one = click.IntRange(min=1)
_share, _seconds = click.FloatRange(0, 1), click.FloatRange(min=0)
_score, _estimation = click.Choice(METHODS), click.Choice(ESTIMATION_METHODS)
_auto_or_rows, _cores_or_number = WholeNumberOr("auto", "auto"), WholeNumberOr("cores", None)

PAGE = _together(
    _output(
        "--images",
        metavar="FILE|PATTERN",
        help="Pictures of the rows for the report: (N, H, W) .npy or Zarr, or files: 'images/*.png'.",
    ),
    _output("--texts", metavar="FILE", help="Texts of the rows for the report, one per line."),
)
# What a run reads, and as what.
INPUTS = _together(
    click.argument("label_place", metavar="[LABELS]", required=False),
    click.argument("prob_place", metavar="[PRED_PROBS]", required=False),
    _input("--data", metavar="FILE|DIR|URL", help="A table in Parquet or Arrow files, whose columns are the inputs."),
    _input("--labels", metavar="COLUMN", help="With --data: the column of labels."),
    _input(
        "--pred-probs",
        metavar="COLUMN|A,B,...",
        help="With --data: a column of lists, or one column per class, as a list or a pattern: 'p_*'.",
    ),
    _input(
        "--summaries",
        metavar="FILE|DIR|URL",
        help="A table of row summaries in Parquet or Arrow files, or the folder of a recorder, in place of the inputs.",
    ),
    _input("--n-classes", type=click.IntRange(min=2), metavar="K", help="With --summaries: the number of classes."),
    _input(
        "--ignore-label",
        type=LabelValue(),
        default=NOTHING,
        show_default=False,
        metavar="LABEL",
        help='Leave out rows with this label, such as -1 or 255; "" leaves out missing labels.',
    ),
    _input("--from-logits", is_flag=True, help="PRED_PROBS are logits: take the softmax of each row."),
    _input("--dtype", metavar="bfloat16", help="What values of 16 bits without a dtype are."),
)
RUN = _together(
    INPUTS,
    _input(
        "--task",
        type=click.Choice(TASKS),
        default=TASKS[0],
        metavar="TASK",
        help="What a label belongs to: classification (a row), segmentation (a pixel of a mask), tokens (a word of a "
        "sentence), tags (one of the tags of an example).",
    ),
    _input("--offsets", metavar="FILE", help="With --task tokens: where each sentence begins, and the last one ends."),
    _input("--sentence-ids", metavar="FILE", help="With --task tokens: the sentence of each token."),
    _input("--class-names", type=FilePath(), help="File with one name per line, or a JSON list."),
    _input(
        "--ids",
        metavar="FILE",
        help="Your own names of the rows: .npy, Zarr, .csv, or one name per line; with --data: a column.",
    ),
    _input("--allow-zero-rows", is_flag=True, help="Accept rows that are all zeros."),
    _input("--allow-unnormalized-rows", is_flag=True, help="Accept rows that do not sum to 1 within 0.05."),
    _method("--method", type=_score, default="self_confidence", help="Label quality score."),
    _method("--adjust-pred-probs", is_flag=True, help="Subtract the class thresholds before scoring."),
    _method("--estimation-method", type=_estimation, default="off_diagonal", help="How issues are counted."),
    _method("--filter-by", type=click.Choice(FILTER_NAMES), metavar="FILTER", help="Which rows are issues: see below."),
    _method("--rank-by", type=_score, help="With --filter-by: the score that sorts the issues."),
    _method("--rule", type=click.Choice(RULES), help="Which class a row is counted as."),
    _method("--frac-noise", type=_share, metavar="SHARE", default=1.0, help="Share to prune."),
    _method("--num-to-remove-per-class", type=WholeNumbers(), help="Rows to prune, one number per class: 5,0,1."),
    _method(
        "--min-examples-per-class", type=_count, metavar="N", default=1, help="Rows per class that pruning leaves."
    ),
    _memory("--batch-size", type=_auto_or_rows, default="auto", help="Rows that a thread holds at a time."),
    _memory("--max-memory", metavar="SIZE", help="Most memory of the process, or of each worker: 1GiB."),
    _memory("--workdir", metavar="DIR|URL", help="Keep finished partitions there, so that a killed run can resume."),
    _memory("--fresh", is_flag=True, help="Discard the contents of the workdir."),
    _memory(
        "--wait",
        type=_seconds,
        default=90.0,
        metavar="SECONDS",
        help="How long to wait for another run that uses the workdir or the output on a disk.",
    ),
    _output("-o", "--output", help="Write to .npy, .csv, .parquet, or a .zarr group or URL, which the tasks write."),
    _output("--top", type=_count, metavar="N", default=10, help="Worst rows to print."),
    _output("--report", type=FilePath(), help="Write a report for a browser: report.html."),
    _output("--json", is_flag=True, help="Print one JSON object on stdout, and all else on stderr."),
    _output("--quiet", is_flag=True, help="Print only warnings and errors, and no progress that is not asked for."),
    _output(
        "--progress",
        type=click.Choice(PROGRESS),
        default="auto",
        help="auto: bars in a terminal, otherwise lines in the log of a run on a cluster. json: a line of JSON on "
        "stderr at most once a second.",
    ),
    _output(
        "--log-level",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        help="Least level of messages logged on stderr; by default warning, or info for lines of progress.",
    ),
    PAGE,
    _output("--rows", type=_count, metavar="N", default=100, help="Worst rows to show in the report."),
    _cluster("--scheduler", metavar="ADDRESS", help="Run on the cluster of this scheduler: tcp://host:8786."),
    _cluster("--workers", type=_at_least_one, metavar="N", help="Start a local cluster with this number of processes."),
    _cluster("--threads", type=_at_least_one, metavar="N", help="Threads of each process."),
    _cluster("--worker-memory", metavar="SIZE", help="Memory limit of each worker that is started: 4GiB."),
    _cluster("--retries", type=_count, metavar="N", default=2, help="How often a failed task is tried again."),
    _cluster(
        "--n-jobs", type=_cores_or_number, default="1", help="Forked processes for .npy files on Linux; 1: threads."
    ),
)
