"""The file system of S3, with requests that are repeated by one rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import botocore.exceptions
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError
from s3fs.core import S3_RETRYABLE_ERRORS, S3FileSystem  # type: ignore[import-untyped]  # it has no types

from labelsieve.storage import remote

_TRANSIENT: Final = (
    *S3_RETRYABLE_ERRORS,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    ConnectionError,
    TimeoutError,
)
_TRANSIENT_CODES: Final = frozenset({"SlowDown", "RequestTimeout", "InternalError", "XAmzContentSHA256Mismatch"})


class S3(S3FileSystem):  # type: ignore[misc]  # the base class has no types
    """S3, for URLs; arguments as in s3fs."""

    retries = 1

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pace = remote.Pace()
        if options.get("session") is None:
            self.session: Any = AioSession(**self.kwargs)
            self.session.register("needs-retry.s3", _before_repeat)
            self._session_is_owned = False  # s3fs would replace its own

    @classmethod
    def options(cls, configured: dict[str, Any]) -> dict[str, Any]:
        """Return the options for many requests at a time, added to those of the user's configuration of fsspec."""
        config = {
            "max_pool_connections": remote.max_requests(),
            "connect_timeout": remote.CONNECT_S,
            "read_timeout": remote.SILENCE_S,
            "retries": {"mode": "standard", "total_max_attempts": remote.TRIES},
        }
        # One request for each call: prefetching makes its requests in parallel.
        return {"max_concurrency": 1, "config_kwargs": config | configured.get("config_kwargs", {})}

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        async with remote.slots():
            with self._forgetting():
                try:
                    return await super()._call_s3(method, *arguments, **options)
                except OSError as error:
                    if method != "head_object" or _status(error) not in (400, 403):
                        raise
                    # Such an answer has no body, which would say why.
                    answer = await super()._call_s3("get_object", *arguments, **options, Range="bytes=0-0")
                    answer["Body"].close()
                    raise

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Let the next run of this process look for credentials anew if these are refused."""
        try:
            yield
        except Exception as error:
            if remote.error_code(error) in remote.REFUSED_CODES:
                self.clear_instance_cache()
            raise

    async def _cat_file(
        self, path: str, version_id: str | None = None, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        path = f"{path}?versionId={version_id}" if version_id else path
        return (await self.read_version(path, start, end))[0]

    async def read_version(self, path: str, start: int | None = None, end: int | None = None) -> tuple[bytes, str]:
        """Return bytes ``[start, end)`` of an object, and its version, which is "" if the store sends no ETag.

        Without an ETag the version is unknown: listings and answers state the time of the last write differently.
        """

        async def request() -> tuple[bytes, str]:
            return await self._read_once(path, start, end)

        def describe(error: BaseException) -> str:
            url = self.unstrip_protocol(path)
            return f"{url}: {remote.cause_of(error, url)}"

        with self._forgetting():
            return await remote.repeat(request, is_transient_of_s3, _s3_retry_after, describe)

    async def _read_once(self, path: str, start: int | None, end: int | None) -> tuple[bytes, str]:
        bucket, key, version = self.split_path(path)
        given = {"VersionId": version} if version else {}
        if start is not None or end is not None:
            given["Range"] = await self._process_limits(path, start, end)

        async def send() -> Any:
            return await S3FileSystem._call_s3(self, "get_object", Bucket=bucket, Key=key, **given)  # noqa: SLF001

        async with remote.slots():
            answer = await remote.first_answer(send, lambda late: late["Body"].close(), self.pace)
            body = answer["Body"]
            content = getattr(body, "raw_stream", body).content
            try:
                read = await remote.read_body(body.read(), lambda: int(content.total_bytes))
            finally:
                body.close()
        size = str(answer.get("ContentRange", "")).rpartition("/")[2] or answer.get("ContentLength")
        return read, remote.version_of({"size": size, "ETag": answer.get("ETag")})

    async def _put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        try:
            await super()._put_file(lpath, rpath, **options)
        except FileNotFoundError:
            # An upload in parts is unknown when its last request is repeated after one that got through.
            await super()._put_file(lpath, rpath, **options)


def is_transient_of_s3(error: BaseException) -> bool:
    """Return whether the same request may succeed after this error."""
    answered = _client_error(error)
    if answered is not None:
        return _status(answered) in remote.TRANSIENT_STATUS or remote.error_code(answered) in _TRANSIENT_CODES
    return isinstance(error, _TRANSIENT) and not isinstance(error, botocore.exceptions.SSLError)


def _client_error(error: BaseException) -> ClientError | None:
    """Return the answer that is an error; s3fs raises it as the cause of a builtin error."""
    return next((link for link in (error, error.__cause__) if isinstance(link, ClientError)), None)


def _metadata(error: BaseException) -> dict[str, Any]:
    answered = _client_error(error)
    return dict(answered.response.get("ResponseMetadata", {})) if answered is not None else {}


def _status(error: BaseException) -> int:
    return int(_metadata(error).get("HTTPStatusCode", 0))


def _s3_retry_after(error: BaseException) -> float:
    return remote.pause_of(_metadata(error).get("HTTPHeaders", {}).get("retry-after"))


def _before_repeat(
    *, operation: Any, attempts: int, request_dict: Any, response: Any = None, caught_exception: Any = None, **_: Any
) -> float | None:
    """Log what botocore is about to repeat, and return the seconds until it does; raise errors of reads.

    A handler of botocore's event ``needs-retry``. A read is repeated with its body, which botocore does not read.
    """
    error = caught_exception
    if error is None and response is not None and response[0].status_code >= 400:
        error = ClientError(response[1], operation.name)
    if error is None or not is_transient_of_s3(error):
        return None
    if operation.name == "GetObject":
        raise error
    if attempts >= remote.TRIES:
        return None
    url = request_dict["url"]
    remote.RETRY_LOG.add(f"{operation.name} {url}: {remote.cause_of(error, url)}")
    return max(remote.pause(attempts), _s3_retry_after(error))
