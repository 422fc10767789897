"""SIGINT and SIGTERM raise exceptions while a command runs; before and after, they print one line and exit.

What other programs read on stdout is here too, because a signal must neither cut it nor be missing from it.

The command imports this module first, so the module itself imports hardly anything.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from contextlib import contextmanager

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType
    from typing import Any, Final, NoReturn

# The exit code and the message of a command that a signal ends.
LINES: Final = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
# What other programs read for it, as `json_text.error_answer` writes it.
_ANSWER: Final = '{{"error": "{}", "message": "{}", "exit_code": {}}}\n'
# Seconds until a signal is sent again after its exception was lost.
_AGAIN_S: Final = 0.01


class Interrupted(KeyboardInterrupt):
    """SIGINT."""


class Terminated(BaseException):
    """SIGTERM, which ends a run as Ctrl-C does: finished partitions are kept, and no half-written result is left."""


class _Answer:
    """The one JSON object on stdout of the command that runs; a signal neither cuts it nor leaves it out."""

    is_due = False
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
    _Answer.is_due, _Answer.exit_code = is_due, None
    if not is_due:
        yield
        return
    from contextlib import redirect_stdout

    sys.stdout.flush()
    _Answer.file = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(_Answer.file, 1)
        os.close(_Answer.file)
        _Answer.file = 1


def print_answer(line: str, exit_code: int) -> None:
    """Print the answer. A signal that comes later ends the command with `exit_code`, at once."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LINES)
    try:
        print(line, flush=True)
        _Answer.exit_code = exit_code
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_at_once(args: Sequence[str] = ()) -> None:
    """End the process at once if a signal comes outside of `raising`. Only for the command line, with its arguments.

    If the process was started with a signal ignored, as by nohup or as a background job, it stays ignored.
    """
    _Answer.is_due = is_json_wanted(args)
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    sys.unraisablehook = _print_others


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    code, line = LINES[signal.Signals(number)]
    try:
        if _Answer.exit_code is not None:
            code = _Answer.exit_code
        else:
            os.write(2, f"labelsieve: {line}\n".encode())
            if _Answer.is_due:
                os.write(_Answer.file, _ANSWER.format(line.capitalize(), line, code).encode())
    finally:
        os._exit(code)


def _print_others(unraisable: Any) -> None:
    """Print an unraisable exception, as Python does, unless it is that of a signal, which is sent again."""
    if not issubclass(unraisable.exc_type, Interrupted | Terminated):
        sys.__unraisablehook__(unraisable)


@contextmanager
def raising() -> Iterator[None]:
    """Turn signals into exceptions while the block runs, except those that the process ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (*LINES, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    watched: list[weakref.ref[BaseException]] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        error = Interrupted() if number == signal.SIGINT else Terminated()
        # If the exception is freed before the block ends, it was lost: in a callback of the garbage collector, or in
        # code that swallows every exception. A timer takes no lock that the interrupted code may hold.
        watched.append(weakref.ref(error, lambda _: send_again(number)))
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame, which would keep it alive

    def send_again(number: int) -> None:
        if watched:
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    try:
        for number in LINES:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        watched.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
