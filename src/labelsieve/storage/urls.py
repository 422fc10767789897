"""URLs of any fsspec file system, and what of them may be shown. No Dask, and no data.

Credentials come from where the user's tools keep them: the environment, the provider's own files, fsspec's
configuration. Each process that opens a URL finds its own; none of them is part of a description, a graph or a result.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Final
from urllib.parse import unquote

from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
# Which extra brings the file system of a scheme; others name their package themselves.
_EXTRAS: Final = {"s3": "s3", "s3a": "s3"}
# Here "?" begins a query; elsewhere it is a letter of a name, or of a pattern.
_WEB: Final = frozenset({"http", "https"})
_USER: Final = re.compile(r"(?<=://)[^/@\s'\"]*@")
# Also of a password with a slash in it, which no right URL has.
_USERS: Final = re.compile(r"://([^/@]*:[^@]*|[^/@]*)@")
_WEB_QUERY: Final = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>]*")
# What clients of S3 and of Google Cloud raise where they find no credentials, or only a part of them.
_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"})
# As many requests as read-ahead makes, and one request an object: read-ahead takes care of doing several at once.
_S3_OPTIONS: Final = {"max_concurrency": 1}
_S3_CONNECTIONS: Final = 64


def is_url(name: object) -> bool:
    """Tell whether `name` is a URL rather than the path of a local file.

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
        What it is for, for messages.
    place : path or URL
        As given.

    Raises
    ------
    InvalidInputError
        If it is empty, which Python takes for the current folder, or has a null character in it.
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
    if not text:
        raise InvalidInputError(f'{name}: the path is empty; "." is the current folder')
    if "\0" in text:
        raise InvalidInputError(f"{name}: the path {redacted(text)!r} has a null character in it")
    return text


def is_web(url: str) -> bool:
    """Tell whether `url` is of a web server, which lists no folder and where "?" begins a query."""
    return url.partition("://")[0].rpartition("::")[2] in _WEB


def redacted(url: str) -> str:
    """Return `url` without user, password and query, for messages, records and results.

    Examples
    --------
    >>> redacted("https://me:secret@example.org/p.npy?X-Signature=abc")
    'https://example.org/p.npy'
    >>> redacted("zip://p.npy::https://me:secret@example.org/all.zip?token=abc")
    'zip://p.npy::https://example.org/all.zip'
    """
    return "::".join(map(_redacted_link, url.split("::"))) if is_url(url) else url


def _redacted_link(link: str) -> str:
    """Redact one link of a chain of URLs."""
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link
    bare = re.match(r"[^?#]*", rest)
    if scheme in _WEB or re.search(r"\?.*=", rest):
        rest = bare.group() if bare else ""
    host, slash, path = rest.partition("/")
    if re.search(r":(?!\d*$)", host) and "@" not in host and "@" in path:
        # A password with a slash in it: no right URL, but no reason to show it either.
        return f"{scheme}://{path.rpartition('@')[2]}"
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def cause_of(error: BaseException, url: str) -> str:
    """Return what went wrong in one line, without anything secret that file systems put in their messages.

    Such an error is raised ``from None``: the original may carry the whole URL, and a traceback would print it.

    Parameters
    ----------
    error : Exception
        What a file system raised.
    url : str
        What was opened, with all that it carries.
    """
    text = " ".join(str(error).split()).replace(url, redacted(url))
    text = _WEB_QUERY.sub(r"\1", _USER.sub("", text))
    for user in _USERS.findall(url):
        password = user.partition(":")[2]
        # A name alone may be a token; one of a few letters would be found in many words.
        for secret in (user if len(user) > 3 else "", password, unquote(password)):
            text = text.replace(secret, "***") if secret else text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_credentials(error: BaseException, where: str, url: str) -> None:
    """Raise if `error` says that no credentials were found: nothing was tried, and trying again does not help.

    Parameters
    ----------
    error : Exception
        What a file system raised.
    where : str
        What was opened, as it may be shown.
    url : str
        The same with all that it carries.

    Raises
    ------
    InvalidInputError
        Saying where credentials are looked for.
    """
    if any(kind.__name__ in _NO_CREDENTIALS for kind in type(error).__mro__):
        raise InvalidInputError(
            f"{where} cannot be opened without credentials ({cause_of(error, url)}): give them where your tools keep "
            "them, such as the environment (AWS_ACCESS_KEY_ID), ~/.aws, or fsspec's configuration"
        ) from None


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of `url`, for use in any thread, and the path in it.

    Raises
    ------
    MissingDependencyError
        Where the package for S3 is not installed.
    InvalidInputError
        For a scheme that no installed package knows.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        options = _s3_options(fsspec) if scheme in _EXTRAS else {}
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        if scheme in _EXTRAS:
            raise MissingDependencyError(f"Reading {scheme}:// URLs", _EXTRAS[scheme]) from error
        raise InvalidInputError(f"{redacted(url)} cannot be opened: {cause_of(error, url)}") from None
    except Exception as error:  # noqa: BLE001  # a file system may do anything on the way, even ask its server
        raise InvalidInputError(f"{redacted(url)} cannot be opened: {cause_of(error, url)}") from None
    return fs, path


def _s3_options(fsspec: Any) -> dict[str, Any]:
    """Return options for many requests at a time, on top of those in the user's configuration of fsspec."""
    configured = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get("s3a", {})}
    config = {"max_pool_connections": _S3_CONNECTIONS} | configured.get("config_kwargs", {})
    return {**_S3_OPTIONS, "config_kwargs": config}


def digest_of(url: str) -> str:
    """Return what tells a URL from another without showing it: passwords and queries are part of a URL, and secret."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def stamp_of(info: dict[str, Any]) -> str:
    """Return what a file system says of an object's version: its ETag, or when it was last written; "" if nothing.

    Examples
    --------
    >>> stamp_of({"ETag": '"9b2c"', "LastModified": "yesterday"}), stamp_of({"ETag": 'W/"9b2c"'}), stamp_of({"size": 3})
    ('9b2c', '9b2c', '')
    """
    for key in ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created"):
        if info.get(key):
            return str(info[key]).removeprefix("W/").strip('"')  # a server in between may call an ETag weak
    return ""


def version_of(info: dict[str, Any]) -> str:
    """Return the size and stamp of an object in one text; "" where there is no stamp.

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
