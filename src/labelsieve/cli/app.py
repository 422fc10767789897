"""How a command begins and ends: signals, its one answer on stdout, its last line and its exit code.

SIGINT and SIGTERM raise exceptions while a command runs; before and after, they print one line and exit. The process
imports this module first, so the module itself imports hardly anything.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType
    from typing import Any, Final, NoReturn

# The exit code and the message of a command that a signal ends.
LINES: Final = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
# What other programs read for it, as `_error_answer` writes it.
_ANSWER: Final = '{{"error": "{}", "message": "{}", "exit_code": {}}}\n'
_IN_USE: Final = 75  # EX_TEMPFAIL of sysexits.h


class Interrupted(KeyboardInterrupt):
    """SIGINT."""


class Terminated(BaseException):
    """SIGTERM, which ends a run as Ctrl-C does: finished partitions are kept, and no half-written result is left."""


class _Command:
    """The command that runs: whether signals raise, and its one JSON object on stdout, which no signal cuts."""

    is_raising = is_due = False
    file = 1
    exit_code: int | None = None  # once it is printed


def is_json_wanted(args: Sequence[str]) -> bool:
    """Return whether a command answers in JSON, by its arguments or the environment, even where they are bad usage."""
    options = args[: args.index("--")] if "--" in args else args
    chosen = os.environ.get(f"LABELSIEVE_{args[0].upper().replace('-', '_')}_JSON", "") if args else ""
    return "--json" in options or chosen.strip().lower() in ("1", "true", "t", "yes", "y", "on")


@contextmanager
def only_answer_on_stdout(*, is_due: bool) -> Iterator[None]:
    """If an answer is due, send whatever else is printed in the block to stderr: by libraries and processes too."""
    _Command.is_due, _Command.exit_code = is_due, None
    if not is_due:
        yield
        return
    from contextlib import redirect_stdout

    sys.stdout.flush()
    _Command.file = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(_Command.file, 1)
        os.close(_Command.file)
        _Command.file = 1


def print_answer(line: str, exit_code: int) -> None:
    """Print the answer. A signal that comes later ends the command with `exit_code`, at once."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LINES)
    try:
        print(line, flush=True)
        _Command.exit_code = exit_code
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_at_once(args: Sequence[str] = ()) -> None:
    """End the process at once if a signal comes outside of `raising`. Only for the command line, with its arguments.

    If the process was started with a signal ignored, as by nohup or as a background job, it stays ignored.
    """
    _Command.is_due = is_json_wanted(args)
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def _handle(number: int, _frame: FrameType | None) -> NoReturn:
    if _Command.is_raising:
        raise Interrupted if number == signal.SIGINT else Terminated
    if _Command.exit_code is not None:
        os._exit(_Command.exit_code)
    code, line = LINES[signal.Signals(number)]
    try:
        os.write(2, f"labelsieve: {line}\n".encode())
        if _Command.is_due:
            os.write(_Command.file, _ANSWER.format(line.capitalize(), line, code).encode())
    finally:
        os._exit(code)


@contextmanager
def raising() -> Iterator[None]:
    """Turn the signals that `leave_at_once` handles into exceptions while the block runs."""
    _Command.is_raising = True
    try:
        yield
    finally:
        _Command.is_raising = False


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    import json

    args = sys.argv[1:] if args is None else list(args)
    is_due = is_json_wanted(args)
    with only_answer_on_stdout(is_due=is_due):
        code, answer = _outcome(args)
    if is_due and answer is not None:
        try:
            print_answer(json.dumps(answer, allow_nan=False), code)
        except OSError as error:
            print(f"labelsieve: the answer cannot be printed: {error}", file=sys.stderr)
            return 1
    return code


def _outcome(args: list[str]) -> tuple[int, dict[str, Any] | None]:
    """Run a command; return its exit code, and its answer to other programs if it has one."""
    import warnings

    import click

    from labelsieve.cli.options import cli, in_options
    from labelsieve.errors import LabelsieveWarning

    warned: list[str] = []

    def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, LabelsieveWarning):
            warned.append(in_options(str(message)))
            click.echo(f"labelsieve: warning: {warned[-1]}", err=True)

    try:
        with raising(), warnings.catch_warnings():
            warnings.simplefilter("default", LabelsieveWarning)
            warnings.showwarning = show_warning
            found = cli.main(args=args, prog_name="labelsieve", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code, None
    except BaseException as error:  # noqa: BLE001  # a command line prints one line, and exits with a code
        code, kind, text = _failure(error)
        text = in_options(text)
        click.echo(f"labelsieve: {f'failed: {kind}: ' if code == 1 else ''}{text}", err=True)
        rows = getattr(error, "rows", None)
        known = {"rows": [list(some) for some in rows]} if rows else {}
        return code, {"error": kind, "message": text, "exit_code": code, **known}
    if isinstance(found, dict):
        return found.get("exit_code", 0), found | {"warnings": warned}
    return found or 0, None


def _failure(error: BaseException) -> tuple[int, str, str]:
    """Return the exit code for the error that ended a command, its kind, and one line."""
    import click

    from labelsieve import errors

    kind, line = type(error).__name__, " ".join(str(error).split())
    refused = (
        *(errors.InvalidInputError, errors.InputTypeError, errors.MissingDependencyError),
        *(errors.MemoryLimitError, errors.WorkdirError),
    )
    if isinstance(error, click.UsageError):  # the kinds of bad usage are click's own, and change with it
        command = error.ctx.command_path if error.ctx else "labelsieve"
        return error.exit_code, "UsageError", f"{error.format_message()} (see {command} --help)"
    if isinstance(error, KeyboardInterrupt | click.Abort):
        code, line = LINES[signal.SIGINT]
        return code, "Interrupted", line
    if isinstance(error, Terminated):
        code, line = LINES[signal.SIGTERM]
        return code, kind, line
    return _IN_USE if isinstance(error, errors.InUseError) else 2 if isinstance(error, refused) else 1, kind, line
