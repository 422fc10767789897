"""Calls of a function on each worker of a cluster, where some workers may be slow, hang or die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# Calls at a time, so that what is measured of one does not depend on the others.
_AT_A_TIME: Final = 50


@dataclass(frozen=True)
class Answer:
    """The answer of one process.

    Parameters
    ----------
    value : object
        What the function returned; None if there is no result.
    failure : str
        What the function raised; "" if nothing.
    silence : str
        Why there is no answer: the worker is lost or hangs; "" if there is one.
    misunderstanding : Exception, optional
        What the worker raised as it loaded the function or its arguments.
    asked, answered : float
        When the call was sent and answered, by the clock of this process.
    """

    value: Any = None
    failure: str = ""
    silence: str = ""
    misunderstanding: Exception | None = None
    asked: float = 0
    answered: float = 0


def ask_here(call: Callable[[], Any]) -> Answer:
    """Make a call in this process."""
    value, failure = _attempt(call)
    return Answer(value, failure)


def ask_each(client: Any, calls: Mapping[str, Callable[[], Any]], patience: float) -> dict[str, Answer]:
    """Make a call on each of some workers, in a thread there, so that it may take long.

    Parameters
    ----------
    client : distributed.Client
        Connected to the scheduler.
    calls : mapping
        The call for each worker, by its address.
    patience : float
        Seconds to wait for each answer.
    """
    return _each(client, {worker: (_attempt_in_thread, call) for worker, call in calls.items()}, patience)


def ask_plainly(
    client: Any, workers: Iterable[str], patience: float, function: Callable[..., Any], *arguments: Any
) -> dict[str, Answer]:
    """Call a function of another package on each of some workers, without any code of Labelsieve there."""
    return _each(client, dict.fromkeys(workers, (function, *arguments)), patience)


def _each(client: Any, calls: Mapping[str, tuple[Any, ...]], patience: float) -> dict[str, Answer]:
    from distributed.comm import CommClosedError

    async def ask(worker: str, turn: asyncio.Semaphore) -> Answer:
        function, *arguments = calls[worker]
        async with turn:
            asked = time.time()
            call = client.run(function, *arguments, workers=[worker], on_error="return")
            try:
                found = (await asyncio.wait_for(call, patience))[worker]
            except TimeoutError:
                found = TimeoutError(f"no answer within {patience:g} seconds")
            except OSError as error:
                found = error
            answered = time.time()
        if isinstance(found, OSError):
            closed = isinstance(found, CommClosedError)
            return Answer(silence="its connection was closed" if closed else " ".join(str(found).split()))
        if isinstance(found, Exception):
            return Answer(misunderstanding=found)
        value, failure = found if function is _attempt_in_thread else (found, "")
        return Answer(value, failure, asked=asked, answered=answered)

    async def ask_all() -> list[Answer]:
        turn = asyncio.Semaphore(_AT_A_TIME)
        return await asyncio.gather(*(ask(worker, turn) for worker in calls))

    return dict(zip(calls, client.sync(ask_all), strict=True))


async def _attempt_in_thread(call: Callable[[], Any]) -> tuple[Any, str]:
    return await asyncio.to_thread(_attempt, call)


def _attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result, and what was raised in its place as text: not every error can be pickled."""
    try:
        return call(), ""
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        text = " ".join(str(error).split())
        return None, f"{type(error).__name__}: {text}" if text else type(error).__name__
