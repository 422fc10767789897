"""What requests to remote stores have in common: limits, repeated and hedged requests, URLs without their secrets.

A thread cannot be stopped from outside. So what runs for long in one asks `is_cancelled` from time to time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeVar

from labelsieve.errors import InputTypeError, InvalidInputError


class Cancellation:
    """Tells code in threads of this process that nobody waits for it any more. Other processes do not learn of it.

    Attributes
    ----------
    is_requested : bool
        Whether the code shall stop.
    """

    def __init__(self) -> None:
        self.is_requested = False

    def request(self) -> None:
        """Let the code stop when it next asks."""
        self.is_requested = True

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let this one count for `is_cancelled` too, in the block and in what runs in a copy of its context."""
        token = _HEEDED.set((*_HEEDED.get(), self))
        try:
            yield
        finally:
            _HEEDED.reset(token)


_HEEDED: ContextVar[tuple[Cancellation, ...]] = ContextVar("heeded", default=())


def is_cancelled() -> bool:
    """Return whether nobody waits for the code that calls this; False where no `Cancellation` is heeded.

    Examples
    --------
    >>> cancellation = Cancellation()
    >>> with cancellation.heeded():
    ...     cancellation.request()
    ...     is_cancelled()
    True
    >>> is_cancelled()
    False
    """
    return any(cancellation.is_requested for cancellation in _HEEDED.get())


# Seconds until a connection stands.
CONNECT_S: Final = 5.0
# Seconds without a single byte, before the answer begins or within it. Stores answer in less than one second, and in a
# few when they are busy.
SILENCE_S: Final = 15.0
# A body that brings fewer bytes than this in so many seconds is given up. A line that is this slow could not be used:
# 4 kB/s for each of its connections.
PROGRESS_S: Final = 15.0
PROGRESS_BYTES: Final = 65_536

# How often a request is sent. If one in twenty fails, all fail for one request in 25 thousand million.
TRIES: Final = 8
# Pauses are drawn between 0 and a bound, so that workers that failed together do not come back together. The bound
# begins with the first of these seconds, doubles with each try, and ends with the second.
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 20.0
# A store may ask for a longer pause (Retry-After), but not for a longer one than this.
LONGEST_RETRY_AFTER_S: Final = 60.0

# A read whose answer has not begun after `LATE_FACTOR` times what nine of ten reads take, and at least `LATE_S`, is
# sent a second time, and the first answer is taken. Of the last `PACE_READS` reads it is known how long they took; with
# fewer than `PACE_LEAST_READS` of them, a read is late after `LATE_AT_FIRST_S`. Of the reads, one in `HEDGE_EVERY` may
# be sent twice, `HEDGES_AT_ONCE` of them at any moment, so that a store that is slow for all is not asked twice.
LATE_FACTOR: Final = 3.0
LATE_S: Final = 0.2
LATE_AT_FIRST_S: Final = 1.0
PACE_READS: Final = 100
PACE_LEAST_READS: Final = 20
HEDGE_EVERY: Final = 10
HEDGES_AT_ONCE: Final = 4

# Requests at a time in one process, all its threads together, unless Dask's configuration says otherwise.
MAX_REQUESTS: Final = 64

# Seconds before something that should be there, and was not found, is looked up again.
LOOK_AGAIN_S: Final = 0.1
# How often a task is tried again outside of a job, and the seconds before it is, which double.
TASK_RETRIES: Final = 2
TASK_PAUSE_S: Final = 0.1

# Of what is tried again, so many messages at once are warnings, and then one in so many seconds; the others are only
# counted (and messages of the level DEBUG).
LOG_AT_ONCE: Final = 20
LOG_EVERY_S: Final = 10.0


def max_requests() -> int:
    """Return how many requests to stores this process may have in flight, from Dask's configuration.

    The key is ``labelsieve.max-requests``; on a worker it is set in a file in ``~/.config/dask``, or by the environment
    variable ``DASK_LABELSIEVE__MAX_REQUESTS``.
    """
    from dask import config  # here, as Dask takes longer to import than a saved result to open

    chosen = config.get("labelsieve.max-requests", MAX_REQUESTS)
    if isinstance(chosen, bool) or not isinstance(chosen, int) or chosen < 1:
        raise InvalidInputError(
            f"labelsieve.max-requests in Dask's configuration must be a whole number from 1 on, not {chosen!r}"
        )
    return chosen


logger = logging.getLogger("labelsieve")


class RetryLog:
    """Counts what is tried again and logs it; for all threads of a process.

    Attributes
    ----------
    n_retries : int
        All that was added.
    """

    def __init__(self) -> None:
        self.n_retries = 0
        self._lock = threading.Lock()
        # Messages that may be logged now: so many at once, and then one in a while.
        self._allowed, self._since, self._n_hidden = float(LOG_AT_ONCE), time.monotonic(), 0

    def add(self, failure: object, *, condition: str = "") -> None:
        """Count a failure after which something is tried again, and log it; `condition` is added to the message."""
        with self._lock:
            self.n_retries += 1
            now = time.monotonic()
            self._allowed = min(LOG_AT_ONCE, self._allowed + (now - self._since) / LOG_EVERY_S)
            self._since = now
            if self._allowed < 1:
                self._n_hidden += 1
                level, n_hidden = logging.DEBUG, 0
            else:
                self._allowed -= 1
                level, n_hidden, self._n_hidden = logging.WARNING, self._n_hidden, 0
        others = f" ({n_hidden:,} others since the last such message)" if n_hidden else ""
        logger.log(level, "tried again%s: %s%s", condition, failure, others)


RETRY_LOG: Final = RetryLog()


# Answers after which the same request may succeed: the store is busy, restarting, or out of time.
TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_SLOTS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()

_T = TypeVar("_T")


def slots() -> asyncio.Semaphore:
    """Return the semaphore of which each request in flight holds one: fsspec has one event loop per process."""
    loop = asyncio.get_running_loop()
    if loop not in _SLOTS:
        _SLOTS[loop] = asyncio.Semaphore(max_requests())
    return _SLOTS[loop]


async def repeat(
    request: Callable[[], Awaitable[_T]],
    is_transient: Callable[[BaseException], bool],
    retry_after: Callable[[BaseException], float],
    describe: Callable[[BaseException], str],
) -> _T:
    """Return ``await request()``, made again while it fails with transient errors, up to `TRIES` times.

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
    n_failed = 0
    while True:
        try:
            return await request()
        except Exception as error:
            n_failed += 1
            if n_failed >= TRIES or not is_transient(error) or is_cancelled():
                raise
            RETRY_LOG.add(describe(error))
            seconds = max(pause(n_failed), retry_after(error))
        await asyncio.sleep(seconds)


def pause(n_failed: int) -> float:
    """Return the seconds to wait after so many failures of a request, at random and more from one to the next."""
    longest = min(FIRST_PAUSE_S * 2.0 ** (n_failed - 1), LONGEST_PAUSE_S)
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
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


class Pace:
    """How long the answers of a store take to begin, and how many reads may be sent a second time."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=PACE_READS)
        self._n_hedges = float(HEDGES_AT_ONCE)

    def add(self, seconds: float) -> None:
        """Note one answer."""
        self._seconds.append(seconds)
        self._n_hedges = min(self._n_hedges + 1 / HEDGE_EVERY, HEDGES_AT_ONCE)

    def late_after(self) -> float:
        """Return the seconds after which an answer is late."""
        n = len(self._seconds)
        if n < PACE_LEAST_READS:
            return LATE_AT_FIRST_S
        return max(LATE_S, LATE_FACTOR * sorted(self._seconds)[n * 9 // 10])

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
        async with asyncio.timeout(CONNECT_S + SILENCE_S):
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
        while not (await asyncio.wait([task], timeout=PROGRESS_S))[0]:
            now = n_received()
            if now - before < PROGRESS_BYTES:
                raise TimeoutError(f"the answer stopped: {now - before:,} bytes in {PROGRESS_S:g} s")
            before = now
        return task.result()
    finally:
        task.cancel()


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
# A query begins with "?" here. Elsewhere "?" is a letter of a name or part of a pattern.
_WEB: Final = frozenset({"http", "https"})
# A user in a web URL, which may be a token, or a user and a password; also a password with slashes that are not quoted,
# as many secret keys of S3 have. A port, an ARN, an IPv6 address and "github://owner:repository@commit" do not match.
_CREDENTIALS: Final = re.compile(
    r"https?://[^/?#]*@|(?!git(hub)?:)[\w+.-]+://(?!arn:|\[)[^/@?#]*:(?!\d*[/?#])[^@]*@", re.IGNORECASE
)
# The query of a web URL; and of another URL, where it has the form of one.
_QUERY: Final = re.compile(r"(https?://[^\s?#'\"<>]+)[?#][^\s'\"<>]*|\?[^\s/?'\"<>]*=[^\s'\"<>]*", re.IGNORECASE)
# Parameters of a query that sign it for a while: of S3, Google Cloud, CloudFront and Azure.
_SIGNING: Final = re.compile(
    r"(x-(amz|goog)-[^=]*|signature|expires|awsaccesskeyid|googleaccessid|policy|key-pair-id"
    r"|sig|se|st|sp|spr|sv|sr|skoid|sktid|skt|ske|sks|skv)(=|$)",
    re.IGNORECASE,
)
_WHERE_CREDENTIALS_BELONG: Final = (
    "the environment (AWS_ACCESS_KEY_ID), ~/.aws, or fsspec's configuration (~/.config/fsspec)"
)
# Errors of the clients of S3 and Google Cloud if they find no credentials, or only a part of them.
_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"})
# Errors of the same clients if credentials that they found could not be renewed, and the codes with which S3 answers if
# they are no longer, or not yet, valid.
_NOT_RENEWED: Final = frozenset(
    {"CredentialRetrievalError", "TokenRetrievalError", "SSOError", "RefreshError", "MetadataRetrievalError"}
)
REFUSED_CODES: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
    | {"InvalidClientTokenId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired"}
)


def is_url(name: object) -> bool:
    """Return whether `name` is a URL, not the path of a local file.

    Examples
    --------
    >>> is_url("s3://bucket/labels.npy"), is_url("labels.npy"), is_url("C:/labels.npy")
    (True, False, False)
    """
    return isinstance(name, str) and _SCHEME.match(name) is not None


def check_place(name: str, place: object) -> str:
    """Return a path or URL as text.

    Parameters
    ----------
    name : str
        What it is for, such as ``workdir``, for messages.
    place : path or URL
        What the caller gave.

    Raises
    ------
    InvalidInputError
        If it is empty, which Python takes for the current folder, contains a null character, or is a URL with a
        password. The message does not repeat the password.
    InputTypeError
        If it is neither text nor a path.

    Examples
    --------
    >>> check_place("output", "")
    Traceback (most recent call last):
    labelsieve.errors.InvalidInputError: output: the path is empty; "." is the current folder
    """
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else place
    if not isinstance(text, str):
        raise InputTypeError(f"{name} must be a path or URL as text, not {place!r}")
    for link in text.split("::"):
        if _CREDENTIALS.match(link):  # it would be stored and shown in too many places to keep it secret
            raise InvalidInputError(
                f"{name}: the {link.partition('://')[0]}:// URL has a password or a token in it: take it out, and give "
                f"credentials where your tools keep them: {_WHERE_CREDENTIALS_BELONG}"
            )
    if not text:
        raise InvalidInputError(f'{name}: the path is empty; "." is the current folder')
    if "\0" in text:
        raise InvalidInputError(f"{name}: the path {without_query(text)!r} has a null character in it")
    return text


def is_web(url: str) -> bool:
    """Return whether `url` is on a web server, which lists no folders and where "?" begins a query."""
    return url.partition("://")[0].rpartition("::")[2].lower() in _WEB


def without_query(url: str) -> str:
    """Return `url` without its query, for messages, records and results.

    Examples
    --------
    >>> without_query("https://example.org/p.npy?X-Signature=abc")
    'https://example.org/p.npy'
    >>> without_query("zip://p.npy::https://example.org/all.zip?token=abc")
    'zip://p.npy::https://example.org/all.zip'
    """
    if not is_url(url):
        return url
    links = url.split("::")  # as in zip://p.npy::https://host/all.zip?token=abc
    return "::".join(re.split(r"[?#]" if is_web(link) else r"\?[^/?]*=", link, maxsplit=1)[0] for link in links)


def cause_of(error: BaseException, url: str) -> str:
    """Return the type and the message of an error in one line, without queries of URLs.

    Such an error is raised ``from None``: the original may contain the whole URL, and a traceback would print it.

    Parameters
    ----------
    error : Exception
        What a file system raised.
    url : str
        The whole URL that was opened.
    """
    text = _QUERY.sub(r"\1", " ".join(str(error).split()).replace(url, without_query(url)))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_credentials(error: BaseException, where: str, url: str) -> None:
    """Raise if `error` says that credentials are missing, have expired or were refused: another attempt does not help.

    Parameters
    ----------
    error : Exception
        What a file system raised.
    where : str
        What was opened, for messages.
    url : str
        The whole URL that was opened.

    Raises
    ------
    InvalidInputError
        Says where credentials belong.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & _NO_CREDENTIALS:
        raise InvalidInputError(
            f"{where} cannot be opened without credentials ({cause_of(error, url)}): give them where your tools keep "
            f"them: {_WHERE_CREDENTIALS_BELONG}"
        ) from None
    code = error_code(error)
    if code in REFUSED_CODES or kinds & _NOT_RENEWED:
        why = f"{code or type(error).__name__}: {getattr(error, 'strerror', None) or error}"
        raise InvalidInputError(
            f"{where}: the credentials were refused or have expired ({why}): renew them where your tools keep them: "
            f"{_WHERE_CREDENTIALS_BELONG}; then run the same command again: with a workdir it goes on from where it was"
        ) from None


def error_code(error: BaseException) -> str:
    """Return the code of an error that S3 answered, such as ``ExpiredToken``; "" for other errors."""
    for link in (error, error.__cause__):
        answer = getattr(link, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return ""


def digest_of(url: str) -> str:
    """Return a digest that identifies a URL without showing its query.

    What signs a URL for a while does not count: the same object has another signature each night.

    Examples
    --------
    >>> digest_of("https://h/p.npy?v=1&X-Amz-Date=1&X-Amz-Signature=a") == digest_of("https://h/p.npy?v=1&X-Amz-Date=2")
    True
    >>> digest_of("https://h/p.npy?v=1") == digest_of("https://h/p.npy?v=2")
    False
    """
    base, question, query = url.partition("?")
    if question and is_web(url):
        kept = [part for part in query.split("&") if not _SIGNING.match(part)]
        url = f"{base}?{'&'.join(kept)}" if kept else base
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def stamp_of(info: Mapping[str, Any]) -> str:
    """Return the ETag of an object or, without one, the time of its last write; "" if the file system gives neither.

    Examples
    --------
    >>> stamp_of({"ETag": '"9b2c"', "LastModified": "yesterday"}), stamp_of({"ETag": 'W/"9b2c"'}), stamp_of({"size": 3})
    ('9b2c', '9b2c', '')
    """
    for key in ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created"):
        if info.get(key):
            return str(info[key]).removeprefix("W/").strip('"')  # a proxy may make an ETag weak
    return ""


def version_of(info: Mapping[str, Any]) -> str:
    """Return size and stamp of an object in one text; "" if it has no stamp.

    Examples
    --------
    >>> version_of({"size": 3, "ETag": '"9b2c"'}), version_of({"size": 3})
    ('3 9b2c', '')
    """
    stamp = stamp_of(info)
    return f"{info.get('size')} {stamp}" if stamp else ""


def url_of(fs: Any, path: str) -> str:
    """Return the URL of a path in an fsspec file system."""
    return str(fs.unstrip_protocol(path))


# Besides what s3fs repeats, a connection that could not be made, or that was closed.
