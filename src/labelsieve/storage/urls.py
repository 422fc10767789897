"""Paths and URLs: checks, credentials, and which part of a URL may be shown.

A URL with a password is refused. Credentials come from where the user's tools keep them: the environment, the
provider's own files, fsspec's configuration. Each process that opens a URL looks them up for itself, so they are never
part of a graph, a workdir or a result. The query of a web URL may hold a signature, so it is never shown.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from labelsieve.errors import InputTypeError, InvalidInputError

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
    check_no_password(name, text)
    if not text:
        raise InvalidInputError(f'{name}: the path is empty; "." is the current folder')
    if "\0" in text:
        raise InvalidInputError(f"{name}: the path {without_query(text)!r} has a null character in it")
    return text


def check_no_password(name: str, url: str) -> None:
    """Raise if a URL has a password in it: it would be stored and shown in too many places to keep it secret.

    Parameters
    ----------
    name : str
        What the URL is for, for messages.
    url : str
        A URL or a path.

    Raises
    ------
    InvalidInputError
        Says where credentials belong, and does not repeat them.
    """
    for link in url.split("::"):
        if _CREDENTIALS.match(link):
            raise InvalidInputError(
                f"{name}: the {link.partition('://')[0]}:// URL has a password or a token in it: take it out, and give "
                f"credentials where your tools keep them: {_WHERE_CREDENTIALS_BELONG}"
            )


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
