"""The commands and their options: those of a run are made of the tables of options, under headings."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from labelsieve import __version__
from labelsieve.errors import InvalidInputError
from labelsieve.options import (
    OPTIONS,
    TASKS,
    JobSettings,
    Option,
    check_one_of,
    check_seconds,
    check_share,
    check_whole_number,
)

EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    a failure: data that cannot be read, a full disk, a lost cluster
  2    bad usage, input, credentials or workdir, or too little memory
  75   another run uses the workdir or output: try again later
  130  interrupted by Ctrl-C
  143  ended by SIGTERM
"""
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "show_default": True, "auto_envvar_prefix": "LABELSIEVE"}
# Each command: its module, its name there, and its line in the list of all.
_COMMANDS: Final = {
    "find": ("commands", "find", "Find the rows whose label is likely wrong."),
    "plan": ("commands", "plan", "Print the plan of a run: tasks, bytes and memory; check its cluster."),
    "report": ("commands", "report", "Write a report for a browser about a saved result."),
    "review": ("commands", "review", "Make a page to decide about issues."),
    "label-studio": ("commands", "label_studio", "Write issues as tasks for Label Studio."),
    "apply": ("commands", "apply", "Correct labels by the decisions of reviewers."),
    "audit": ("commands", "draw", "Draw rows to review for an estimate."),
    "estimate": ("commands", "print_estimate", "Estimate how many labels are wrong."),
    "compare": ("commands", "compare", "Compare the issues before and after a correction."),
    "demo": ("commands", "demo", "Flip a tenth of the labels of digits, and find them again."),
}
_HEADINGS: Final = ("Input", "Method", "Memory and workdir", "Output", "Cluster and processes", "Other")
_OUTPUT, _CLUSTER = _HEADINGS[3:5]
_PASSES: Final = {1: "One pass.", 2: "Two passes.", 3: "Three passes."}
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_whole = partial(partial, check_whole_number)
JSON: Final = Option(False, "Print one JSON object on stdout, and all else on stderr.", _OUTPUT)
IMAGES: Final = Option(
    None,
    "Pictures of the rows for the report: (N, H, W) .npy or Zarr, or files: 'images/*.png'.",
    _OUTPUT,
    metavar="FILE|PATTERN",
)
TEXTS: Final = Option(None, "Texts of the rows for the report, one per line.", _OUTPUT, metavar="FILE")
# What only the command line has: columns of a table, what is printed and shown, and the cluster that it starts.
_OF_A_COMMAND: Final = {
    "labels": Option(None, "With --data: the column of labels.", metavar="COLUMN"),
    "pred_probs": Option(
        None,
        "With --data: a column of lists, or one column per class, as a list or a pattern: 'p_*'.",
        metavar="COLUMN|A,B,...",
    ),
    "top": Option(10, "Worst rows to print.", _OUTPUT, _whole(at_least=0), "N"),
    "report": Option(None, "Write a report for a browser: report.html.", _OUTPUT, parse=Path),
    "json": JSON,
    "quiet": Option(False, "Print only warnings and errors, and no progress that is not asked for.", _OUTPUT),
    "progress": Option(
        "auto",
        "auto: bars in a terminal, otherwise lines in the log of a run on a cluster. json: a line of JSON on stderr at "
        "most once a second.",
        _OUTPUT,
        partial(check_one_of, allowed=("auto", "bar", "json", "none")),
    ),
    "log_level": Option(
        None,
        "Least level of messages logged on stderr; by default warning, or info for lines of progress.",
        _OUTPUT,
        partial(check_one_of, allowed=LOG_LEVELS),
    ),
    "images": IMAGES,
    "texts": TEXTS,
    "rows": Option(100, "Worst rows to show in the report.", _OUTPUT, _whole(at_least=0), "N"),
    "scheduler": Option(None, "Run on the cluster of this scheduler: tcp://host:8786.", _CLUSTER, metavar="ADDRESS"),
    "workers": Option(None, "Start a local cluster with this number of processes.", _CLUSTER, _whole(at_least=1), "N"),
    "threads": Option(None, "Threads of each process.", _CLUSTER, _whole(at_least=1), "N"),
    "worker_memory": Option(None, "Memory limit of each worker that is started: 4GiB.", _CLUSTER, metavar="SIZE"),
}


class HeadedOption(click.Option):
    """An option whose help names its environment variable, with a heading in the help of a `RunCommand`."""

    def __init__(self, *args: Any, heading: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, show_envvar=True)  # type: ignore[misc]  # mypy takes args for it
        self.heading = heading


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A text that stands for a value, by the `parse` of an option."""

    def __init__(self, parse: Callable[[str], Any], name: str = "text") -> None:
        self._parse, self.name = parse, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or end with one line."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except (OSError, ValueError) as error:
            return self.fail(str(error), param, ctx)


class FilePath(click.Path):
    """A path that is not empty: Python takes an empty path for the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        from labelsieve.storage.remote import check_place

        try:
            check_place("path", value)
        except InvalidInputError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


option = partial(click.option, cls=HeadedOption)


def flag(name: str) -> str:
    """Return the option of a name."""
    return f"--{name.replace('_', '-')}"


def as_click(name: str, one: Option, **more: Any) -> HeadedOption:
    """Return an option of the tables as one of click, of the type that its check or its values say."""
    kind: Any = None
    match one.check:
        case partial(keywords={"allowed": words}):
            kind = click.Choice(tuple(words))
        case partial(keywords={"at_least": least}):
            kind = click.IntRange(min=least)
    if one.check is check_share:
        kind = click.FloatRange(0, 1)
    elif one.check is check_seconds:
        kind = click.FloatRange(min=0)
    elif one.parse is not None:
        kind = FilePath() if one.parse is Path else Parsed(one.parse)
    return HeadedOption(
        ["-o", flag(name)] if name == "output" else [flag(name)],
        default=one.default,
        help=one.help,
        heading=one.heading,
        metavar=one.metavar,
        is_flag=isinstance(one.default, bool),
        **{"type": kind, "show_default": name != "ignore_label", **more},
    )


def _run_params(args: list[str]) -> Iterator[click.Parameter]:
    """Yield the arguments and options of a run; tasks are imported if the options of any may be among `args`."""
    from labelsieve.confident_learning.filters import FILTERS
    from labelsieve.confident_learning.scores import SCORES

    registries = {"method": SCORES, "rank_by": SCORES, "filter_by": list(filter(None, FILTERS))}
    yield click.Argument(["label_place"], metavar="[LABELS]", required=False)
    yield click.Argument(["prob_place"], metavar="[PRED_PROBS]", required=False)
    known = {name: one for name, one in {**OPTIONS, **_OF_A_COMMAND}.items() if one.help}
    for name, one in known.items():
        yield as_click(name, one, **({"type": click.Choice(tuple(registries[name]))} if name in registries else {}))
    flags = {arg.partition("=")[0] for arg in args if arg.startswith("-")} - {flag(name) for name in known}
    chosen = any(name.endswith("_TASK") for name in os.environ if name.startswith("LABELSIEVE_"))
    words = ", ".join(TASKS)
    if flags - {"-o"} or chosen:
        from labelsieve.find import task_of

        tasks = [task_of(name) for name in TASKS]
        words = ", ".join(f"{task.name} ({task.row})" for task in tasks)
        for task in tasks:
            for name, one in task.options.items():
                if name not in OPTIONS:
                    text = f"With --task {task.name}: {one.help[:1].lower()}{one.help[1:]}"
                    yield as_click(name, replace(one, help=text))
    yield as_click(
        "task",
        Option("classification", f"What a label belongs to: {words}.", metavar="TASK"),
        type=click.Choice(tuple(TASKS)),
    )


class RunCommand(click.Command):
    """A command with the options of a run, whose help has headings and says which filter to use when."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make the options from the tables as they are now, and parse."""
        self.params = list(_run_params(args))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per heading."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
        for param in self.get_params(ctx):
            line = param.get_help_record(ctx)
            if isinstance(param, click.Option) and line is not None:
                heading = param.heading if isinstance(param, HeadedOption) else "Other"
                sections.setdefault(heading, []).append(line)
        for heading, lines in sections.items():
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write which filter to use when, and the epilog; filters with the same advice are in the same line."""
        from labelsieve.confident_learning.filters import FILTERS, chosen_filter

        names: dict[str, list[str]] = {}
        for name, kind in FILTERS.items():
            passes = _PASSES[chosen_filter(JobSettings(filter_by=name)).n_reads]
            names.setdefault(f"{kind.advice} {passes}", []).append(name or "none given")
        with formatter.section("Which filter (precision and recall on 200,000 rows, 50 classes, 4% wrong labels)"):
            formatter.write_dl([(", ".join(filters), advice) for advice, filters in names.items()])
        super().format_epilog(ctx, formatter)


def in_options(message: str) -> str:
    """Return a message about keywords as one about options of the command line.

    Examples
    --------
    >>> in_options("retries must be a whole number; give fewer threads, filter_by='both' or a lower frac_noise")
    '--retries must be a whole number; give fewer threads, --filter-by both or a lower --frac-noise'
    """
    imported = [sys.modules[module] for module in TASKS.values() if module in sys.modules]
    names = [name for name, one in OPTIONS.items() if one.help]
    names += [name for module in imported for name in module.TASK.options]

    def said(found: re.Match[str]) -> str:
        value = (found["value"] or "").strip("'\"")
        return flag(found["name"]) + (f" {value}" if value not in ("", "True", "...") else "")

    any_name, long = "|".join(names), "|".join(name for name in names if "_" in name)
    # A name with a value, at the beginning of a rule, or of several words; not in quotes, nor a part of a place.
    value = r"=(?P<value>'[^']*'|\"[^\"]*\"|\.\.\.|\w[\w.]*\w|\w)"
    message = re.sub(rf"(?<![\w'\"`/.:-])(?P<name>{any_name}){value}", said, message)
    first = rf"^(?:{any_name})(?= must be | is for | needs )"
    return re.sub(rf"(?<!\d )(?<![\w'\"`/.:-])(?P<name>{first}|{long})(?P<value>)(?![\w'\"`=]|[/.-]\S)", said, message)


class LateCommand(click.Command):
    """A command that is imported when it is used: the list of all commands, and any other, does without.

    Parameters
    ----------
    name : str
        Its name on the command line.
    module, attribute : str
        Its module in `labelsieve.cli`, and its name there.
    line : str
        What the list of all commands says of it.
    """

    def __init__(self, name: str, module: str, attribute: str, line: str) -> None:
        super().__init__(name, short_help=line)
        self._module, self._attribute = module, attribute

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Import the command, and return the context in which it runs."""
        command = getattr(importlib.import_module(f"labelsieve.cli.{self._module}"), self._attribute)
        context: click.Context = command.make_context(*args, **kwargs)
        return context


@click.group(context_settings=_SETTINGS, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="labelsieve")
def cli() -> None:
    """Find wrong labels in datasets whose predicted probabilities are larger than memory."""


for _name, _command in _COMMANDS.items():
    cli.add_command(LateCommand(_name, *_command))
