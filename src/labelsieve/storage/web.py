"""The file system of web servers, with requests that are repeated by the same rule as those to S3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from labelsieve.storage import remote

_T = TypeVar("_T")

_PERMANENT: Final = (aiohttp.InvalidURL, aiohttp.ClientSSLError, aiohttp.TooManyRedirects)
_NOT_THERE: Final = (404, 410)


class Web(HTTPFileSystem):  # type: ignore[misc]  # the base class has no types
    """A web server; arguments as in fsspec."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pace = remote.Pace()

    @classmethod
    def options(cls, configured: dict[str, Any]) -> dict[str, Any]:
        """Return the options for limits of time, added to those of the user's configuration of fsspec."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=remote.CONNECT_S, sock_read=remote.SILENCE_S)
        return {"client_kwargs": {"timeout": timeout} | configured.get("client_kwargs", {})}

    async def _info(self, url: str, **options: Any) -> dict[str, Any]:
        async def request() -> dict[str, Any]:
            async with remote.slots():
                try:
                    return dict(await HTTPFileSystem._info(self, url, **options))  # noqa: SLF001
                except FileNotFoundError as error:
                    # Any failure is raised as this one.
                    cause = error.__cause__
                    if cause is None or getattr(cause, "status", 0) in _NOT_THERE:
                        raise
                    raise cause from None

        return await self._repeat(url, request)

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return (await self.read_version(url, start, end))[0]

    async def read_version(self, url: str, start: int | None = None, end: int | None = None) -> tuple[bytes, str]:
        """Return bytes ``[start, end)`` of a file, and its version, which is "" if the server sends none."""

        async def request() -> tuple[bytes, str]:
            return await self._read_once(url, start, end)

        return await self._repeat(url, request)

    async def _read_once(self, url: str, start: int | None, end: int | None) -> tuple[bytes, str]:
        # As for the request for its size and version: a compressed answer has another version.
        headers = {**self.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        if start is not None or end is not None:
            headers["Range"] = await self._process_limits(url, start, end)
        session = await self.set_session()

        async def send() -> aiohttp.ClientResponse:
            answer: aiohttp.ClientResponse = await session.get(
                self.encode_url(url), **{**self.kwargs, "headers": headers}
            )
            return answer

        async with remote.slots():
            answer = await remote.first_answer(send, aiohttp.ClientResponse.close, self.pace)
            try:
                if answer.status in _NOT_THERE:
                    raise FileNotFoundError(url)
                answer.raise_for_status()
                read = await remote.read_body(answer.read(), lambda: answer.content.total_bytes)
            finally:
                answer.close()  # of one that was read, the connection is free already
        size = answer.headers.get("Content-Range", "").rpartition("/")[2] or len(read)
        return read, remote.version_of({"size": size, "ETag": remote.stamp_of(answer.headers)})

    async def _repeat(self, url: str, request: Callable[[], Awaitable[_T]]) -> _T:
        return await remote.repeat(
            request,
            is_transient_of_web,
            _web_retry_after,
            lambda error: f"{remote.without_query(url)}: {remote.cause_of(error, url)}",
        )


def is_transient_of_web(error: BaseException) -> bool:
    """Return whether the same request may succeed after this error."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in remote.TRANSIENT_STATUS
    return isinstance(error, aiohttp.ClientError | TimeoutError | ConnectionError) and not isinstance(error, _PERMANENT)


def _web_retry_after(error: BaseException) -> float:
    return remote.pause_of((getattr(error, "headers", None) or {}).get("Retry-After"))
