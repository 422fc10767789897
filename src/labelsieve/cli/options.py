"""Options of the command line that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from labelsieve.errors import InvalidInputError
from labelsieve.results.row_ids import read_lines
from labelsieve.settings import ESTIMATION_METHODS, FILTERS, METHODS, RULES
from labelsieve.storage.urls import check_place


class WholeNumberOr(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A whole number of at least 1, or one word."""

    def __init__(self, word: str, value: Any) -> None:
        self.word, self.value, self.name = word, value, f"{word}|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or what the word stands for."""
        if value == self.word or not isinstance(value, str):
            return self.value if value == self.word else value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither {self.word!r} nor a whole number of at least 1", param, ctx)
        return int(value)


class FilePath(click.Path):
    """A path that is not empty, which Python takes for the current folder."""

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
    """Whole numbers with commas between them, or a file with one a line."""

    name = "N,N,...|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the list of numbers."""
        if not isinstance(value, str):
            return value
        try:
            parts = value.split(",") if "," in value or value.isdecimal() else read_lines(Path(value))
        except (OSError, ValueError) as error:
            self.fail(f"{value!r} is neither a list of whole numbers nor a file with one a line: {error}", param, ctx)
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is no list of whole numbers", param, ctx)
        return [int(part) for part in parts]


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Put some options on a command, in the order given."""

    def put(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return put


RUN = _options(
    click.argument("labels"),
    click.argument("pred_probs"),
    click.option(
        "--batch-size", type=WholeNumberOr("auto", "auto"), default="auto", show_default=True, help="Rows held."
    ),
    click.option("--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True, help="Quality score."),
    click.option("--adjust-pred-probs", is_flag=True, help="Subtract the class thresholds before scoring."),
    click.option("--max-memory", metavar="SIZE", help="Most own memory of the process, or of each worker: 1GiB."),
    click.option(
        "-o", "--output", help="Write to .npy, .csv, .parquet, or a .zarr group or URL, which the tasks write."
    ),
    click.option(
        "--estimation-method",
        type=click.Choice(ESTIMATION_METHODS),
        default=ESTIMATION_METHODS[0],
        show_default=True,
        help="How issues are counted.",
    ),
    click.option("--filter-by", type=click.Choice(FILTERS), help="Which rows are issues, by the exact rule."),
    click.option("--rank-by", type=click.Choice(METHODS), help="With --filter-by, the score that orders the issues."),
    click.option("--rule", type=click.Choice(RULES), help="As which class a row is counted."),
    click.option("--frac-noise", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share to prune."),
    click.option(
        "--num-to-remove-per-class",
        type=WholeNumbers(),
        help="Rows to prune, a number a class: 5,0,1.",
    ),
    click.option(
        "--min-examples-per-class",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        help="Rows of each class that pruning leaves.",
    ),
    click.option(
        "--n-jobs",
        type=WholeNumberOr("cores", None),
        default="1",
        show_default=True,
        help="Forked processes for .npy files, on Linux; 1 runs on Dask's threads.",
    ),
    click.option("--workdir", metavar="DIR|URL", help="Keep finished partitions there, for a killed run to go on."),
    click.option("--fresh", is_flag=True, help="Forget what is in the workdir."),
    click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=90.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for another run that uses the workdir or the output on a disk.",
    ),
    click.option("--allow-zero-rows", is_flag=True, help="Accept rows that are all zeros."),
    click.option("--allow-unnormalized-rows", is_flag=True, help="Accept rows that do not sum to 1 within 0.05."),
    click.option("--retries", type=click.IntRange(min=0), default=2, show_default=True, help="Tries after a failure."),
    click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Worst rows to print."),
    click.option("--class-names", type=FilePath(), help="A name a line, or a JSON list."),
    click.option("--ids", metavar="FILE", help="Your own names of the rows: .npy, Zarr, .csv, or a name a line."),
    click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors."),
    click.option("--report", "page", type=FilePath(), help="Write a page for a browser: report.html."),
)
PAGE = _options(
    click.option("--images", metavar="FILE", help="Pictures of the rows for the page: (N, H, W) .npy or Zarr."),
    click.option("--texts", metavar="FILE", help="Texts of the rows for the page, one a line."),
    click.option("--rows", type=click.IntRange(min=0), default=100, show_default=True, help="Worst rows on the page."),
)
CLUSTER = _options(
    click.option("--scheduler", metavar="ADDRESS", help="Run on the cluster of this scheduler: tcp://host:8786."),
    click.option("--workers", type=click.IntRange(min=1), help="Start a local cluster of that many processes."),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of each process."),
    click.option("--worker-memory", metavar="SIZE", help="Memory limit of each worker that is started: 4GiB."),
)
