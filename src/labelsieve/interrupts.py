"""SIGINT and SIGTERM in the command: exceptions while it runs; before and after, one line and the exit code.

Imported first of all by the command, and so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Final, NoReturn

# The exit code and the message of a command that a signal has ended.
LINES: Final = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


class Terminated(BaseException):
    """SIGTERM, which ends a run as Ctrl-C does: what is committed is kept, and there is no half result."""


def leave_at_once() -> None:
    """From now on end the process where a signal comes outside of `raising`. This is for a process of our own.

    A signal that the process was started to ignore, as by nohup or as a background job of a shell, stays ignored.
    """
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    sys.unraisablehook = _send_again


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    code, line = LINES[signal.Signals(number)]
    try:
        os.write(2, f"labelsieve: {line}\n".encode())
    finally:
        os._exit(code)


def _send_again(unraisable: Any) -> None:
    """Send the signal again if its exception was raised where it is lost, as in a callback of the garbage collector."""
    numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
    number = numbers.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
        return
    timer = threading.Timer(0.01, os.kill, (os.getpid(), number))  # a moment later: here it would be lost once more
    timer.daemon = True
    timer.start()


@contextmanager
def raising() -> Iterator[None]:
    """Turn signals into exceptions while the block runs, except those that the process ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in LINES}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _raise)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated
