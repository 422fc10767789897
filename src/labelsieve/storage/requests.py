"""Requests to stores: repeated after failures that pass, limited in time and number, sent twice where one is late.

For the file systems of `labelsieve.storage.s3` and `labelsieve.storage.web`, in the event loop of fsspec.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeVar

from labelsieve.storage import limits
from labelsieve.storage.cancellation import is_cancelled
from labelsieve.storage.retry_log import RETRY_LOG

# Answers after which the same request may succeed: the store is busy, restarting, or out of time.
TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_SLOTS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()

_T = TypeVar("_T")


def slots() -> asyncio.Semaphore:
    """Return the semaphore of which each request in flight holds one: fsspec has one event loop per process."""
    loop = asyncio.get_running_loop()
    if loop not in _SLOTS:
        _SLOTS[loop] = asyncio.Semaphore(limits.max_requests())
    return _SLOTS[loop]


async def repeat(
    request: Callable[[], Awaitable[_T]],
    is_transient: Callable[[BaseException], bool],
    retry_after: Callable[[BaseException], float],
    describe: Callable[[BaseException], str],
) -> _T:
    """Return ``await request()``, made again while it fails with transient errors, up to `limits.TRIES` times.

    Where nobody waits for the answer any more (`is_cancelled`), it is not made again.

    Parameters
    ----------
    request : callable
        Makes one request.
    is_transient : callable
        Whether the same request may succeed after this error.
    retry_after : callable
        Seconds that the store asks to wait, by the error; 0 if it does not.
    describe : callable
        Says in one line what failed, for the log.
    """
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

    def error_of(state: RetryCallState) -> BaseException:
        error = state.outcome.exception() if state.outcome else None
        return error or RuntimeError("no error")

    attempts = AsyncRetrying(
        stop=stop_after_attempt(limits.TRIES),
        wait=lambda state: max(pause(state.attempt_number), retry_after(error_of(state))),
        retry=retry_if_exception(lambda error: is_transient(error) and not is_cancelled()),
        before_sleep=lambda state: RETRY_LOG.add(describe(error_of(state))),
        reraise=True,
    )
    return await attempts(request)


def pause(n_failed: int) -> float:
    """Return the seconds to wait after so many failures of a request, at random and more from one to the next."""
    longest = min(limits.FIRST_PAUSE_S * 2.0 ** (n_failed - 1), limits.LONGEST_PAUSE_S)
    return random.uniform(0, longest)  # noqa: S311  # no secret


def pause_of(header: object) -> float:
    """Return the seconds that a header Retry-After asks for, as far as they are heeded; 0 for anything else.

    Examples
    --------
    >>> pause_of("3"), pause_of("86400"), pause_of("Wed, 21 Oct 2015 07:28:00 GMT"), pause_of("soon"), pause_of(None)
    (3.0, 60.0, 0.0, 0.0, 0.0)
    """
    text = str(header or "").strip()
    try:
        seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), limits.LONGEST_RETRY_AFTER_S)


class Pace:
    """How long the answers of a store take to begin, and how many reads may be sent a second time."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=limits.PACE_READS)
        self._n_hedges = float(limits.HEDGES_AT_ONCE)

    def add(self, seconds: float) -> None:
        """Note one answer."""
        self._seconds.append(seconds)
        self._n_hedges = min(self._n_hedges + 1 / limits.HEDGE_EVERY, limits.HEDGES_AT_ONCE)

    def late_after(self) -> float:
        """Return the seconds after which an answer is late."""
        n = len(self._seconds)
        if n < limits.PACE_LEAST_READS:
            return limits.LATE_AT_FIRST_S
        return max(limits.LATE_S, limits.LATE_FACTOR * sorted(self._seconds)[n * 9 // 10])

    def may_hedge(self) -> bool:
        """Return whether one more read may be sent a second time, which is then counted."""
        if self._n_hedges < 1:
            return False
        self._n_hedges -= 1
        return True


async def first_answer(send: Callable[[], Coroutine[Any, Any, _T]], drop: Callable[[_T], object], pace: Pace) -> _T:
    """Return the answer of a request of which the body is not read yet; sent a second time if the answer is late.

    Parameters
    ----------
    send : callable
        Sends the request; the caller holds a slot for it.
    drop : callable
        Closes an answer that is not needed.
    pace : Pace
        Of this store.
    """
    started, spare = time.monotonic(), None
    tasks = [asyncio.ensure_future(send())]
    winner: asyncio.Future[_T] | None = None
    try:
        async with asyncio.timeout(limits.CONNECT_S + limits.SILENCE_S):
            done, pending = await asyncio.wait(tasks, timeout=pace.late_after())
            if not done and not slots().locked() and pace.may_hedge():
                spare = slots()
                await spare.acquire()
                tasks.append(asyncio.ensure_future(send()))
                pending = set(tasks)
            while pending and not any(map(_succeeded, done)):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        winner = next(filter(_succeeded, done), None) or next(iter(done))
        pace.add(time.monotonic() - started)
        return winner.result()
    finally:
        for task in tasks:
            if task is not winner:
                task.add_done_callback(partial(_drop_late, drop))
                task.cancel()
        if spare is not None:
            spare.release()


def _succeeded(task: asyncio.Future[Any]) -> bool:
    return not task.cancelled() and task.exception() is None


def _drop_late(drop: Callable[[_T], object], task: asyncio.Future[_T]) -> None:
    if _succeeded(task):
        drop(task.result())


async def read_body(read: Coroutine[Any, Any, bytes], n_received: Callable[[], int]) -> bytes:
    """Return ``await read``, given up when too few bytes come in.

    Parameters
    ----------
    read : coroutine
        Reads the whole body of an answer.
    n_received : callable
        Bytes received by now.

    Raises
    ------
    TimeoutError
        If the body has stalled, or trickles.
    """
    task, before = asyncio.ensure_future(read), 0
    try:
        while not (await asyncio.wait([task], timeout=limits.PROGRESS_S))[0]:
            now = n_received()
            if now - before < limits.PROGRESS_BYTES:
                raise TimeoutError(f"the answer stopped: {now - before:,} bytes in {limits.PROGRESS_S:g} s")
            before = now
        return task.result()
    finally:
        task.cancel()
