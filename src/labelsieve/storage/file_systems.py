"""The fsspec file systems of URLs."""

from __future__ import annotations

from typing import Any, Final

from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.storage.urls import cause_of, is_web, without_query

# The extra that installs the file system of a scheme. For other schemes fsspec names the package.
_EXTRAS: Final = {"s3": "s3", "s3a": "s3"}


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of `url`, which any thread may use, and the path in it.

    Raises
    ------
    MissingDependencyError
        If the package for S3 is not installed.
    InvalidInputError
        If no installed package knows the scheme.
    """
    import fsspec

    scheme = url.partition("://")[0].lower()
    try:
        kind = _own_kind(scheme)
        if kind is None:
            fs, path = fsspec.core.url_to_fs(url)
            return fs, path
        configured = {key: value for name in kind.protocol for key, value in fsspec.config.conf.get(name, {}).items()}
        fs = kind(**kind._get_kwargs_from_urls(url), **kind.options(configured))  # noqa: SLF001  # as fsspec does
        return fs, str(fs._strip_protocol(url))  # noqa: SLF001
    except Exception as error:
        if isinstance(error, ImportError) and scheme in _EXTRAS:
            raise MissingDependencyError(f"Reading {scheme}:// URLs", _EXTRAS[scheme]) from error
        # A file system may do anything here, even send a request to its server.
        raise InvalidInputError(f"{without_query(url)} cannot be opened: {cause_of(error, url)}") from None


def for_threads(fs: Any) -> Any:
    """Return a file system with the options of `fs`, which may be one for coroutines, for use in threads."""
    inner = getattr(fs, "sync_fs", None)
    if inner is not None:
        return inner
    options = {**fs.storage_options, "asynchronous": False}
    kind = _own_kind(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])
    if kind is not None and type(fs) in kind.__bases__:
        return kind(*fs.storage_args, **{**options, **kind.options(options)})
    return type(fs)(*fs.storage_args, **options)


def zarr_store(url: str, *, read_only: bool = True) -> Any:
    """Return a Zarr store at a URL in this process.

    It wraps the file system that the process has for this URL: Zarr's event loop would need another client, which
    nobody closes.
    """
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    fs, path = filesystem(url)
    return FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), read_only=read_only, path=path.rstrip("/"))


def _own_kind(scheme: str) -> Any:
    """Return the class of this package for a scheme; None where fsspec's own is used."""
    if scheme in _EXTRAS:
        from labelsieve.storage.s3 import S3

        return S3
    if is_web(f"{scheme}://"):
        from labelsieve.storage.web import Web

        return Web
    return None
