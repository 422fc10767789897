"""The command line: its commands, which are imported when they are used, and how it ends."""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

import click

from labelsieve import __version__
from labelsieve.cli.interrupts import LINES, Terminated, is_json_wanted, only_answer_on_stdout, print_answer, raising
from labelsieve.cli.options import EXIT_CODES
from labelsieve.cli.text import error_answer, json_line
from labelsieve.errors import (
    InputTypeError,
    InUseError,
    InvalidInputError,
    LabelsieveWarning,
    MemoryLimitError,
    MissingDependencyError,
    WorkdirError,
)

_SETTINGS: Final = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "auto_envvar_prefix": "LABELSIEVE",
}
_IN_USE: Final = 75  # EX_TEMPFAIL of sysexits.h
# Each command: its module, its name there, and its line in the list of all.
_COMMANDS: Final = {
    "find": ("job_commands", "find", "Find the rows whose label is likely wrong."),
    "plan": ("job_commands", "plan", "Print the plan of a run: tasks, bytes and memory; check its cluster."),
    "report": ("result_commands", "report", "Write a report for a browser about a saved result."),
    "review": ("result_commands", "review", "Make a page to decide about issues."),
    "label-studio": ("result_commands", "label_studio", "Write issues as tasks for Label Studio."),
    "apply": ("result_commands", "apply", "Correct labels by the decisions of reviewers."),
    "audit": ("result_commands", "draw", "Draw rows to review for an estimate."),
    "estimate": ("result_commands", "print_estimate", "Estimate how many labels are wrong."),
    "compare": ("result_commands", "compare", "Compare the issues before and after a correction."),
    "demo": ("demo", "demo", "Flip a tenth of the labels of digits, and find them again."),
}


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

_REFUSED = (InvalidInputError, InputTypeError, MissingDependencyError, MemoryLimitError, WorkdirError)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = sys.argv[1:] if args is None else list(args)
    is_due = is_json_wanted(args)
    with only_answer_on_stdout(is_due=is_due):
        code, answer = _outcome(args)
    if is_due and answer is not None:
        try:
            print_answer(json_line(answer), code)
        except OSError as error:
            click.echo(f"labelsieve: the answer cannot be printed: {error}", err=True)
            return 1
    return code


def _outcome(args: list[str]) -> tuple[int, dict[str, Any] | None]:
    """Run a command; return its exit code, and its answer to other programs if it has one."""
    warned: list[str] = []

    def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, LabelsieveWarning):
            warned.append(str(message))
            click.echo(f"labelsieve: warning: {message}", err=True)

    try:
        with raising(), warnings.catch_warnings():
            warnings.simplefilter("default", LabelsieveWarning)
            warnings.showwarning = show_warning
            found = cli.main(args=args, prog_name="labelsieve", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code, None
    except BaseException as error:  # noqa: BLE001  # a command line prints one line, and exits with a code
        code, text = _failure(error)
        click.echo(f"labelsieve: {text}", err=True)
        return code, error_answer(error, text.removeprefix(_failed(error)), code)
    if isinstance(found, dict):
        return found.get("exit_code", 0), found | {"warnings": warned}
    return found or 0, None


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
    return 1, _failed(error) + line


def _failed(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: "
