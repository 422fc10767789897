"""URLs of any fsspec file system, and what of them may be shown. No Dask, and no data.

Covers: telling a URL from a path, opening its file system, leaving passwords out of messages.
Does not cover: what is read or written there (`sources`, `storage`).

Credentials come from where the user's tools keep them: the environment, the provider's own files, fsspec's
configuration. Each process that opens a URL finds its own; none of them is part of a description, a graph or a result.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from labelsieve.errors import InvalidInputError, MissingDependencyError

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
# Which extra brings the file system of a scheme; others name their package themselves.
_EXTRAS: Final = {"s3": "s3", "s3a": "s3"}


def is_url(name: object) -> bool:
    """Tell whether `name` is a URL rather than the path of a local file.

    Examples
    --------
    >>> is_url("s3://bucket/labels.npy"), is_url("labels.npy"), is_url("C:/labels.npy")
    (True, False, False)
    """
    return isinstance(name, str) and _SCHEME.match(name) is not None


def redacted(url: str) -> str:
    """Return `url` without user, password and query, for messages, records and results.

    Examples
    --------
    >>> redacted("https://me:secret@example.org/p.npy?X-Signature=abc")
    'https://example.org/p.npy'
    """
    if not is_url(url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of `url`, and the path in it.

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
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        if scheme in _EXTRAS:
            raise MissingDependencyError(f"Reading {scheme}:// URLs", _EXTRAS[scheme]) from error
        raise InvalidInputError(f"{redacted(url)} cannot be opened: {error}") from error
    except ValueError as error:
        raise InvalidInputError(f"{redacted(url)} cannot be opened: {error}") from error
    return fs, path
