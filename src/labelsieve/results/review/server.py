"""The server of the review page: decisions go to a CSV file as they are made, pictures are read where they are.

It is Tornado's, which Dask's own scheduler brings along: it bounds headers, bodies and idle connections, and its one
thread, apart from those that read and write, ends cleanly.

Everything is below a path that cannot be guessed, ``http://127.0.0.1:PORT/TOKEN/``:

| Request | Answer |
|---|---|
| ``GET .`` | the page |
| ``GET rows?start=S&stop=T`` | list of what is shown of rows (`ReviewRows.part`), at most 1,000 |
| ``GET picture/ROW`` | the picture of a row as it is |
| ``GET thumbnail/ROW`` | the picture of a row, in at most 20 kB |
| ``GET decisions`` | list of decisions, one for each row that is decided: their fields as in a request |
| ``GET decisions?after=V`` | those that were made after version V; ``"decision": null`` for one taken back |
| ``GET decisions.csv`` | the file |
| ``POST decisions`` | 204 once the decision in the body is on the disk; ``"decision": null`` takes one back |

A decision is an object with ``row``, ``given_label``, ``decision``, ``label``, ``reviewer`` and ``time``. It may have
``replaces``: the time of the decision about the row that the page knows of, ``""`` for none. If another one is there,
of somebody who decides at the same time, the page must show that one first.

The answer with decisions has their version, a number that grows with each change, in the header ``Decisions-Version``.
A page that is visible asks every two seconds for those made after its version, and so shows what others decide.

What cannot be right is refused with a line of text that says why: 400 for a bad decision, 403 for another origin or
host, 404 for any other path, 409 for a decision that would replace one that its page does not know of, 507 if the file
cannot be written.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveError, warn
from labelsieve.results.pictures import Picture, Pictures, open_pictures
from labelsieve.results.result import Result
from labelsieve.results.review.decision_file import DecisionFile, open_decisions
from labelsieve.results.review.decision_requests import BadRequestError, DecisionRequests
from labelsieve.results.review.page import content_policy, render_page
from labelsieve.results.review.rows import ReviewRows
from labelsieve.settings import check_whole_number

logger = logging.getLogger("labelsieve")

LOOPBACK: Final = "127.0.0.1"
_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  # only compared

_MOST_PORT: Final = 65_535
_MOST_ROWS: Final = 1000
_MOST_BODY_BYTES: Final = 64_000
_MOST_HEADER_BYTES: Final = 32_000
# Rows that are read at a time, such blocks that are kept, and thumbnails that are kept: at most 20 MB.
_BLOCK_ROWS: Final = 100
_KEPT_BLOCKS: Final = 50
_KEPT_THUMBNAILS: Final = 1000
# Rows and pictures that are read at the same time.
_READERS: Final = 4
# Seconds until a connection that sends nothing, or sends a body slowly, is closed.
_IDLE_S: Final = 300
_BODY_S: Final = 20
# Seconds until it is tried again to take a connection.
_PAUSE_S: Final = 0.05

_VERSION: Final = "Decisions-Version"
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]+)?")
_PICTURE: Final = re.compile(r"(picture|thumbnail)/([0-9]{1,18})")
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Listener(socket.socket):
    """Takes connections; if there are too many, it waits until some end."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and its address."""
        try:
            return super().accept()
        except (BlockingIOError, ConnectionAbortedError):
            raise
        except OSError:
            time.sleep(_PAUSE_S)  # it would be asked again at once, for as long as no more files can be opened
            raise BlockingIOError from None


class ReviewServer:
    """Serves the review page while its block runs, in a thread of its own.

    Parameters
    ----------
    rows : ReviewRows
        The rows to review.
    decisions : path
        Where decisions go: see `open_decisions`.
    pictures : Pictures, optional
        The pictures of all rows.
    title : str, optional
        Name of the dataset.
    host : str
        Address or name of this machine at which it listens.
    port : int
        0 takes one that is free.

    Attributes
    ----------
    url : str
        Where the page is, while the block runs.
    decisions : DecisionFile
        What is decided, while the block runs.
    requests : DecisionRequests
        Answers the requests about decisions, while the block runs.

    Raises
    ------
    InvalidInputError
        If it cannot listen there, or the file holds anything but decisions about this result.
    InUseError, UnwritableError
        If another process writes to the file, or it cannot be written.
    MissingDependencyError
        Without jinja2.
    """

    url: str
    decisions: DecisionFile
    requests: DecisionRequests

    def __init__(
        self,
        rows: ReviewRows,
        decisions: str | os.PathLike[str],
        *,
        pictures: Pictures | None = None,
        title: str | None = None,
        host: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        if not isinstance(host, str):
            raise InputTypeError(f"host must be a name or an address as text, not {host!r}")
        self.rows, self.pictures, self._path, self._host, self._port = rows, pictures, decisions, host, port
        page = render_page(rows, "served", title=title, has_pictures=pictures is not None)
        self.page, self.policy = page.encode(), content_policy("served") + "; frame-ancestors 'none'"
        self.readers = ThreadPoolExecutor(_READERS, "labelsieve-review-read")
        self.writer = ThreadPoolExecutor(1, "labelsieve-review-write")  # one decision at a time
        self._block = lru_cache(_KEPT_BLOCKS)(
            lambda block: rows.part(block * _BLOCK_ROWS, min((block + 1) * _BLOCK_ROWS, len(rows)))
        )
        self._thumbnail = lru_cache(_KEPT_THUMBNAILS)(lambda thing: pictures.thumbnail(thing) if pictures else None)
        self._is_open, self._names = not is_loopback(host), {LOOPBACK, "localhost", "[::1]", _in_url(host).lower()}
        if self._is_open:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._token = secrets.token_urlsafe(24)
        self._thread = threading.Thread(target=self._run, name="labelsieve-review")
        self._started, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._socket = stack.enter_context(self._listen())
            self._port = int(self._socket.getsockname()[1])
            shown = socket.gethostname() if self._host in _EVERYWHERE else self._host
            self.url = f"http://{_in_url(shown)}:{self._port}/{self._token}/"
            self.decisions = stack.enter_context(open_decisions(self._path, self.rows.result.fingerprint))
            self.requests = DecisionRequests(self.rows, self.decisions)
            stack.callback(self._end)
            self._thread.start()
            self._started.wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _listen(self) -> socket.socket:
        if not 0 <= self._port <= _MOST_PORT:
            raise InvalidInputError(f"port must be 0..{_MOST_PORT:,}, not {self._port:,}")
        try:
            [(family, *_), *_] = socket.getaddrinfo(self._host or None, None, type=socket.SOCK_STREAM)
            found = socket.create_server((self._host, self._port), family=family)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidInputError(f"the server cannot listen at {self._host}, port {self._port}: {why}") from error
        listening = _Listener(fileno=found.detach())
        listening.setblocking(False)  # as Tornado needs it
        return listening

    def _end(self) -> None:
        if self._thread.ident is not None:
            self._started.wait()
            if self._loop is not None:
                with suppress(RuntimeError):  # it has ended by itself
                    self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self.writer.shutdown()  # what is being written is finished
        self.readers.shutdown(cancel_futures=True)

    def wait(self) -> None:
        """Wait until the server ends, which it only does if it fails: a signal interrupts the wait.

        Raises
        ------
        BaseException
            What ended it.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # `wait` raises it
            self._error = error
        finally:
            self._ended.set()
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Tornado's log would show the token.
        application = Application([(r".*", _Handler, {"server": self})], log_function=lambda _: None)
        server = HTTPServer(
            application,
            max_body_size=_MOST_BODY_BYTES,
            max_header_size=_MOST_HEADER_BYTES,
            idle_connection_timeout=_IDLE_S,
            body_timeout=_BODY_S,
        )
        server.add_socket(self._socket)
        self._started.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()

    def is_own_host(self, header: str) -> bool:
        """Return whether a ``Host`` header is of this server, not of a name that somebody else points at it.

        The port is another one at the end of a tunnel.
        """
        match = _HOST.fullmatch(header.lower())
        if match is None:
            return False
        return match[1] in self._names or (self._is_open and _is_address(match[1].strip("[]")))

    def is_own_path(self, path: str) -> str | None:
        """Return the part of a path after the token; None if the token is another."""
        _, token, *rest = [*path.split("/", 2), "", ""]
        same = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token.encode())
        return rest[0] if same and path.count("/") > 1 else None

    def lines(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what is shown of the rows ``[start, stop)``."""
        found: list[dict[str, Any]] = []
        for block in range(start // _BLOCK_ROWS, -(-stop // _BLOCK_ROWS)):
            first = block * _BLOCK_ROWS
            found += self._block(block)[max(0, start - first) : stop - first]
        return found

    def picture(self, row: int, *, small: bool) -> Picture | None:
        """Return the picture of a row that is shown; None if there is none."""
        place = self.requests.places.get(row)
        if self.pictures is None or place is None:
            return None
        thing = int(self.rows.things[place])
        return self._thumbnail(thing) if small else self.pictures.full(thing)


def serve_review(
    result: Result,
    decisions: str | os.PathLike[str],
    *,
    top: int | None = None,
    images: Any = None,
    title: str | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    **choices: Any,
) -> None:
    """Serve the page about a result: `choices` are for `ReviewRows`, the others as for `LabelIssues.review`."""
    rows = ReviewRows(result, top=None if top is None else check_whole_number("top", top, 1), **choices)
    pictures = None if images is None else open_pictures(images, rows.n_things)
    serve_page(rows, decisions, pictures=pictures, title=title, host=host, port=check_whole_number("port", port, 0))


def serve_page(
    rows: ReviewRows,
    decisions: str | os.PathLike[str],
    *,
    pictures: Pictures | None = None,
    title: str | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    say: Callable[[str], object] | None = None,
) -> None:
    """Serve the review page until a signal ends it.

    Parameters
    ----------
    rows, pictures, title, host, port
        As for `ReviewServer`.
    decisions : path
        As for `ReviewServer`.
    say : callable, optional
        Takes lines for the user, of which the first is the URL; by default they are printed.

    Raises
    ------
    InvalidInputError, InUseError, UnwritableError, MissingDependencyError
        As for `ReviewServer`.
    """
    say = say or _print
    with ReviewServer(rows, decisions, pictures=pictures, title=title, host=host, port=port) as server:
        file = server.decisions
        if not is_loopback(host):
            warn(
                f"the review is served at {host} without encryption: whoever reads the network can see it, and with "
                "the URL decide; a tunnel is safer: ssh -L"
            )
        say(server.url)
        there = f" ({_count(len(file.decisions), 'decision')} there)" if file.decisions else ""
        n_rows = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
        say(f"{n_rows} to review; decisions are written to {file.path}{there}; Ctrl-C ends")
        try:
            server.wait()
        finally:
            say(f"{_count(len(file.decisions), 'decision')} in {file.path}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # the URL is needed now, also by a program that reads it


def _count(n: int, unit: str) -> str:
    return f"{n:,} {unit} is" if n == 1 else f"{n:,} {unit}s are"


class _Handler(RequestHandler):
    """Answers one request."""

    def initialize(self, server: ReviewServer) -> None:
        self._server, self._path = server, ""

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Nothing is kept by the browser."""

    def prepare(self) -> None:
        if not self._server.is_own_host(self.request.headers.get("Host", "")):
            raise BadRequestError(403, "this host name is not of this server")
        path = self._server.is_own_path(self.request.path)
        if path is None:
            raise BadRequestError(404, "there is nothing here: the URL that the server printed has a longer path")
        self._path = path

    async def get(self) -> None:
        server = self._server
        picture = _PICTURE.fullmatch(self._path)
        if not self._path:
            self.set_header("Content-Security-Policy", server.policy)
            self._answer("text/html; charset=utf-8", server.page)
        elif self._path == "rows":
            lines = await self._run(server.readers, server.lines, *self._range())
            self._answer("application/json", json.dumps(lines, allow_nan=False).encode())
        elif self._path == "decisions":
            after = self._whole("after") if self.request.query else None
            ask = server.requests.current if after is None else partial(server.requests.changed, after)
            version, decisions = await self._run(server.writer, ask)  # not while one is written
            self.set_header(_VERSION, str(version))
            self._answer("application/json", json.dumps(decisions).encode())
        elif self._path == "decisions.csv":
            content = await self._run(server.writer, server.decisions.content)
            self.set_header("Content-Disposition", 'attachment; filename="decisions.csv"')
            self._answer("text/csv; charset=utf-8", content)
        elif picture is not None:
            await self._send_picture(int(picture[2]), small=picture[1] == "thumbnail")
        else:
            raise BadRequestError(404, "there is nothing here")

    async def post(self) -> None:
        if self._path != "decisions":
            raise BadRequestError(404, "there is nothing here")
        headers = self.request.headers
        # A page of another site may send a request, but neither of these headers.
        if headers.get("Origin", "") != f"http://{headers.get('Host', '')}":
            raise BadRequestError(403, "decisions are taken from the page of this server only")
        if headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise BadRequestError(400, "a decision must be sent as application/json")
        await self._run(self._server.writer, self._server.requests.decide, self.request.body)
        self.set_status(HTTPStatus.NO_CONTENT)

    async def _send_picture(self, row: int, *, small: bool) -> None:
        try:
            found = await self._run(self._server.readers, lambda: self._server.picture(row, small=small))
        except BadRequestError as error:
            raise BadRequestError(404, error.why) from error
        if found is None:
            raise BadRequestError(404, f"there is no picture of row {row:,} to show")
        self._answer(found.media_type, found.data)

    def _range(self) -> tuple[int, int]:
        """Return the rows that a query asks for."""
        start, stop = self._whole("start"), min(self._whole("stop"), len(self._server.rows))
        if stop - start > _MOST_ROWS:
            raise BadRequestError(400, f"at most {_MOST_ROWS:,} rows are sent at a time")
        return min(start, stop), stop

    def _whole(self, name: str) -> int:
        """Return a whole number of the query."""
        text = self.get_query_argument(name, "")
        if not re.fullmatch("[0-9]{1,12}", text):
            raise BadRequestError(400, f"{name} must be a whole number")
        return int(text)

    async def _run(self, pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        """Return the result of a function that reads or writes."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
        except LabelsieveError as error:
            raise BadRequestError(500, str(error)) from error

    def _answer(self, media_type: str, content: bytes) -> None:
        self.set_header("Content-Type", media_type)
        self.finish(content)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say why in one line of text."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, BadRequestError):
            why = error.why
        else:
            why = {405: "this is not done here"}.get(status_code, HTTPStatus(status_code).phrase)
        self._answer("text/plain; charset=utf-8", why.encode("utf-8", "backslashreplace"))

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Log what failed here, without the URL and its token."""
        if not isinstance(error, HTTPError):
            logger.error("the review server failed to answer", exc_info=(kind, error, trace))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
