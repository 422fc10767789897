"""SIGINT and SIGTERM raise exceptions while a command runs; before and after, they print one line and exit.

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
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Final, NoReturn

# The exit code and the message of a command that a signal ends.
LINES: Final = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
# Seconds until a signal is sent again after its exception was lost.
_AGAIN_S: Final = 0.01


class Interrupted(KeyboardInterrupt):
    """SIGINT."""


class Terminated(BaseException):
    """SIGTERM, which ends a run as Ctrl-C does: finished partitions are kept, and no half-written result is left."""


def leave_at_once() -> None:
    """End the process at once if a signal comes outside of `raising`. Only for the command line.

    If the process was started with a signal ignored, as by nohup or as a background job, it stays ignored.
    """
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    sys.unraisablehook = _print_others


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    code, line = LINES[signal.Signals(number)]
    try:
        os.write(2, f"labelsieve: {line}\n".encode())
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
