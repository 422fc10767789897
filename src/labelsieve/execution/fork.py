"""A map over items in forked processes, which cannot hang. Linux only.

The children share one pipe of items. It holds the number of the next item: the child that reads it writes back the
number after it. Each child sends its results through a pipe of its own.

A child may be killed at any time, even in the middle of a message. The parent never blocks on a pipe, so it finds the
message cut off and reports it. The children end with the parent, even if it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import select
import signal
import struct
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np

from labelsieve.errors import ForkedWorkerError, TaskFailedError

# Option of Linux's prctl(2): send this process a signal when its parent dies.
_PR_SET_PDEATHSIG: Final = 1
# A message begins with the number of the item and the number of parts, which is 0 when the child starts on the item.
# Otherwise the lengths of the parts follow, then the parts: a pickle and its out-of-band arrays.
_HEAD: Final = struct.Struct("=qq")
# Instead of an item's number: there are no more, and another child can take the number of the next item.
_NO_MORE: Final = -1
_ITEM: Final = struct.Struct("=q")
# Both ends of the pipe of items, and the number of items.
_Items: TypeAlias = tuple[int, int, int]
# Seconds between checks of silent children: a dead child's pipe stays open if another process has its other end.
_CHECK_S: Final = 0.2
# Seconds to wait for killed children. A child that is stuck in a read from disk is left behind.
_REAP_S: Final = 5.0
# A larger pipe needs fewer reads; the system may allow less.
_PIPE_BYTES: Final = 1 << 20
# Likely reason for a signal that ends a child.
_HINTS: Final = {"SIGKILL": "; out of memory?", "SIGBUS": "; was a file cut off while it was read?"}


@dataclass
class _Child:
    """A forked process as its parent sees it.

    Parameters
    ----------
    pid : int
        Process id.
    pipe : int
        The end of its pipe that the parent reads.
    item : int or None
        Number of the item that it works on, `_NO_MORE` after the last one.
    status : int or None
        Exit code, or the negative number of the signal that ended it; None while it runs.
    """

    pid: int
    pipe: int
    item: int | None = None
    status: int | None = None

    def __post_init__(self) -> None:
        self.messages = _messages(self.pipe)

    def has_ended(self) -> bool:
        """Return whether it has ended."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # other code has waited for it
                self.status = 0
            else:
                self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def kill(self) -> None:
        """Kill it if it runs."""
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def forked_map(
    function: Callable[[int], Any], n_items: int, n_processes: int, name: Callable[[int], str]
) -> Generator[tuple[int, Any], None, None]:
    """Yield the number of each item and ``function(item)`` as forked processes finish them.

    All processes end with the iterator, so close it if it is not exhausted.

    Parameters
    ----------
    function : callable
        Called with the number of an item. It is pickled, so that no child uses connections of its parent.
    n_items, n_processes : int
        Number of items, and of processes that work on them.
    name : callable
        Returns the name of an item, for messages.

    Raises
    ------
    ForkedWorkerError
        If a process cannot be forked, or dies.
    """
    work = pickle.dumps(function)
    prctl = ctypes.CDLL(None).prctl  # before the fork: a child may inherit a lock of the loader that no thread releases
    # A pipe and not a file with a shared position, from which two simultaneous reads may get the same bytes.
    items = os.pipe()
    children: list[_Child] = []
    try:
        os.write(items[1], _ITEM.pack(0))
        with _signals_afterwards():
            for _ in range(n_processes):
                children.append(_fork(work, (*items, n_items), children, prctl))
        yield from _results(children, n_items, name)
    finally:
        with _signals_afterwards():
            _end(children)
            for end in items:
                os.close(end)


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Delay the handlers of SIGINT and SIGTERM until the end of the block, where their exceptions would lose a child.

    The signals are also blocked in this thread, because a child inherits that until it has set its own handlers.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    arrived: list[int] = []
    try:
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                for each in numbers:
                    handler = signal.getsignal(each)
                    if callable(handler):
                        signal.signal(each, lambda number, _: arrived.append(number))
                        stack.callback(signal.signal, each, handler)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
            yield
    finally:
        for number in arrived:
            signal.raise_signal(number)


def _fork(work: bytes, items: _Items, others: Sequence[_Child], prctl: Callable[[int, int], int]) -> _Child:
    """Fork a child that takes items until there are no more."""
    try:
        ours, theirs = _pipe()
        parent = os.getpid()
        try:
            with warnings.catch_warnings():
                # Python 3.12 and newer warn of forking a process with threads: these children touch NumPy only.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                _run_child(work, items, theirs, [ours, *(other.pipe for other in others)], parent, prctl)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
    except OSError as error:
        raise ForkedWorkerError(f"process {len(others) + 1} could not be forked: {error}") from error
    return _Child(pid, ours)


def _pipe() -> tuple[int, int]:
    """Return the ends of a large pipe. Only writing blocks."""
    import fcntl  # not on Windows

    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return ours, theirs


def _run_child(
    work: bytes, items: _Items, pipe: int, foreign: Sequence[int], parent: int, prctl: Callable[[int, int], int]
) -> NoReturn:
    """Work on items and write the results. Never returns, so that no cleanup code of the parent runs here."""
    code = 1
    try:
        # The parent handles Ctrl-C, and frees its own garbage: finalizers must not run twice.
        gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever handler the parent has
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # otherwise the parent died before prctl
            for descriptor in foreign:
                os.close(descriptor)
            _take_items(pickle.loads(work), items, pipe)  # noqa: S301  # the parent's own
            code = 0
    finally:
        os._exit(code)


def _take_items(function: Callable[[int], Any], items: _Items, pipe: int) -> None:
    while (item := _next_item(items)) is not None:
        _write(pipe, [_HEAD.pack(item, 0)])
        try:
            parts = _pickled((None, function(item)))
        except BaseException as error:  # noqa: BLE001  # the parent raises any error
            parts = _pickled((_portable(error), None))
        sizes = [len(part) for part in parts]
        _write(pipe, [_HEAD.pack(item, len(parts)), struct.pack(f"={len(parts)}q", *sizes), *parts])
    _write(pipe, [_HEAD.pack(_NO_MORE, 0)])


def _next_item(items: _Items) -> int | None:
    """Take the number of the next item; None after the last one."""
    reads, writes, n_items = items
    [item] = _ITEM.unpack(os.read(reads, _ITEM.size))  # blocks for the moment in which another child has the number
    os.write(writes, _ITEM.pack(item + 1))
    return item if item < n_items else None


def _pickled(value: Any) -> list[Any]:
    """Return a pickle and its out-of-band arrays, which are not copied."""
    beside: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, protocol=5, buffer_callback=beside.append)
    return [text, *(buffer.raw() for buffer in beside)]


def _portable(error: BaseException) -> BaseException:
    """Return an error that can be pickled, with a note of where it was raised."""
    copy: BaseException = TaskFailedError(f"{type(error).__name__}: {error}")
    if isinstance(error, Exception):
        with contextlib.suppress(Exception):  # an exception's own pickling may raise anything
            copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    copy.add_note("In a forked process:\n" + "".join(traceback.format_exception(error)))
    return copy


def _write(pipe: int, parts: Sequence[Any]) -> None:
    for part in parts:
        left = memoryview(part)
        while left:
            left = left[os.write(pipe, left) :]


def _messages(pipe: int) -> Iterator[tuple[int, list[Any]] | None]:
    """Yield the messages of a child as item and parts (no parts when it starts), or None while a message is incomplete.

    Raises
    ------
    EOFError
        At the end of the pipe, even in the middle of a message.
    """
    head = bytearray(_HEAD.size)
    while True:
        yield from _fill(memoryview(head), pipe)
        item, n_parts = _HEAD.unpack(head)
        sizes = np.empty(8 * n_parts, np.uint8)
        yield from _fill(sizes.data, pipe)
        parts = [np.empty(size, np.uint8) for size in sizes.view(np.int64).tolist()]
        for part in parts:
            yield from _fill(part.data, pipe)
        yield item, parts


def _fill(buffer: memoryview, pipe: int) -> Iterator[None]:
    """Fill a buffer with the next bytes of a pipe; yield whenever the pipe is empty."""
    while buffer:
        try:
            n = os.readv(pipe, [buffer])
        except BlockingIOError:
            yield
            continue
        if not n:
            raise EOFError
        buffer = buffer[n:]


def _results(children: Sequence[_Child], n_items: int, name: Callable[[int], str]) -> Iterator[tuple[int, Any]]:
    """Yield results until each item has one."""
    open_pipes = {child.pipe: child for child in children}
    poll = select.poll()
    for pipe in open_pipes:
        poll.register(pipe, select.POLLIN)
    left = set(range(n_items))
    while left:
        ready = [open_pipes[pipe] for pipe, _ in poll.poll(_CHECK_S * 1000)]
        ended = [] if ready else [child for child in open_pipes.values() if child.has_ended()]
        if not open_pipes:
            raise ForkedWorkerError(f"the forked processes ended with {len(left)} of {n_items} pieces left to do")
        for child in ready or ended:
            has_ended = child in ended
            try:
                for item, error, value in _received(child):
                    if error is not None:
                        raise error
                    left.remove(item)
                    yield item, value
            except EOFError:
                has_ended = True
            if has_ended:
                poll.unregister(child.pipe)
                del open_pipes[child.pipe]
                _check_end(child, name)


def _received(child: _Child) -> Iterator[tuple[int, BaseException | None, Any]]:
    """Yield the finished items that are in the pipe of a child."""
    for message in child.messages:
        if message is None:
            return
        item, parts = message
        child.item = None if parts else item
        if parts:
            error, value = pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  # our own child's
            yield item, error, value


def _check_end(child: _Child, name: Callable[[int], str]) -> None:
    """Raise unless a child ended because there were no more items.

    Its exit code does not tell: there is none where SIGCHLD is ignored, or where other code waits for all children.
    """
    if child.item == _NO_MORE:
        return
    deadline = time.monotonic() + _REAP_S
    while not child.has_ended() and time.monotonic() < deadline:  # its pipe may close a moment before
        time.sleep(0.001)
    status = child.status or 0
    killed_by = _signal_name(-status) if status < 0 else ""
    how = f"was killed by {killed_by}" if killed_by else f"ended with exit code {status}" if status else "ended"
    at = "" if child.item is None else f" while it worked on {name(child.item)}"
    raise ForkedWorkerError(f"forked process {child.pid} {how}{at}{_HINTS.get(killed_by, '')}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end(children: Sequence[_Child]) -> None:
    """Kill all children that still run, and wait until they are gone."""
    for child in children:
        child.kill()
        os.close(child.pipe)
    deadline = time.monotonic() + _REAP_S
    while not all(child.has_ended() for child in children) and time.monotonic() < deadline:
        time.sleep(0.0005)
