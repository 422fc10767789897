"""What is at a path or a URL: a file, a Zarr array, a folder of shards, a pattern or a list of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.base import Source
from labelsieve.sources.conversions import FORMS, conversion_of, refuse_other_form
from labelsieve.sources.npy import NpySource
from labelsieve.sources.object_store import ObjectStore
from labelsieve.sources.remote_npy import RemoteNpySource
from labelsieve.sources.remote_zarr import RemoteZarrSource
from labelsieve.sources.shard_names import SHARD_SUFFIXES, chosen, is_pattern
from labelsieve.sources.shards import ShardsSource
from labelsieve.sources.zarr_arrays import METADATA_NAMES, ZarrSource, is_zarr_folder
from labelsieve.storage.urls import check_place, is_url, is_web, redacted, url_of

# Headers that are read at a time; each is a request where shards are remote.
_OPENING_THREADS: Final = 16

Place = str | os.PathLike[str]


def open_place(name: str, place: Place) -> Source:
    """Open what is at a path, a URL or a pattern.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    place : str or path
        A ``.npy`` file, a Zarr array, a folder of either, or a pattern that several match.

    Raises
    ------
    InvalidInputError
        Where there is nothing of the kind.
    """
    place = check_place(name, place)
    if not is_url(place):
        return _open_path(name, place)
    if place.partition("://")[0] in ("file", "local"):
        path = place.partition("://")[2]
        return _open_path(name, path if Path(path).exists() else unquote(path))
    return _open_url(name, place)


def open_places(name: str, places: Sequence[Place]) -> Source:
    """Open a list of shards, in the order given."""
    named = [os.fspath(place) for place in places]
    seen: set[str] = set()
    for place in named:
        shown = redacted(place)
        if place in seen:
            raise InvalidInputError(f"{name}: {shown} is listed twice")
        seen.add(place)
    return _joined(name, [partial(open_place, name, place) for place in named], redacted(named[0]))


def are_places(data: Sequence[Any]) -> bool:
    """Tell a list of paths and URLs from a list of anything else, such as class names.

    Raises
    ------
    InputTypeError
        For a list that holds both.
    """
    places = [_is_place(item) for item in data[:1]] or [False]
    if places[0] and not all(isinstance(item, str | os.PathLike) for item in data):
        other = next(type(item).__name__ for item in data if not isinstance(item, str | os.PathLike))
        raise InputTypeError(f"a list that begins with the path {redacted(os.fspath(data[0]))} also holds {other}")
    return places[0]


def _is_place(item: object) -> bool:
    if isinstance(item, str):
        return is_url(item) or item.endswith((*SHARD_SUFFIXES, *FORMS)) or os.sep in item or "/" in item
    return isinstance(item, os.PathLike)


def _open_path(name: str, place: str) -> Source:
    path = Path(place).absolute()  # a worker may stand in another folder
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a pattern, or reported below
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise InvalidInputError(f"{name}: {path} cannot be opened: {error.strerror}") from error
    if is_pattern(place) and not path.exists():
        matched = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not matched:
            raise InvalidInputError(f"{name}: no file matches {path}")
        if not any(one.endswith(SHARD_SUFFIXES) for one in matched) and (
            others := conversion_of(name, str(path), matched)
        ):
            raise InvalidInputError(f"{name}: {path} matches no .npy and no .zarr shards; {others}")
        return _local_shards(name, path, matched)
    if path.is_file():
        refuse_other_form(name, str(path), str(path))
    if path.is_dir() and path.suffix != ".zarr" and not is_zarr_folder(path):
        names = [entry.name for entry in os.scandir(path)]
        if not any(child.endswith(SHARD_SUFFIXES) for child in names):
            others = conversion_of(name, str(path), names)
            raise InvalidInputError(
                f"{name}: {path} is not a Zarr array: it has no zarr.json or .zarray, and no .npy or .zarr shards"
                + (f"; {others}" if others else "")
            )
        return _local_shards(name, path, [str(path / child) for child in names])
    if path.is_dir() or path.suffix == ".zarr":
        return ZarrSource.from_path(name, path)
    return NpySource.from_path(name, path)


def _local_shards(name: str, where: Path, places: Sequence[str]) -> Source:
    openers = [partial(_open_path, name, place) for place in chosen(name, str(where), places)]
    return _joined(name, openers, str(where))


def _open_url(name: str, url: str) -> Source:
    shown = redacted(url)
    web = is_web(url)
    store, path = ObjectStore.at(url)
    if is_pattern(path.replace("?", "") if web else path):
        if web:
            raise InvalidInputError(
                f"{name}: {shown} is a pattern, but a web server lists no files: give them as a list"
            )
        return _remote_shards(name, url, store, store.match(name, path))
    refuse_other_form(name, url, shown)
    # The suffix is looked for where no query hides it.
    if shown.endswith(".zarr"):
        return RemoteZarrSource.from_url(name, url)
    if shown.endswith(".npy"):
        return RemoteNpySource.from_url(name, url, store)
    listed = [] if web else store.list_folder(name, path)
    children = {str(info["name"]).rstrip("/").rpartition("/")[2] for info in listed}
    if children & set(METADATA_NAMES) or (web and "?" not in url and store.has(path, METADATA_NAMES)):
        return RemoteZarrSource.from_url(name, url)
    if web or (len(listed) == 1 and listed[0].get("type") == "file" and _same(listed[0], path)):
        return RemoteNpySource.from_url(name, url, store)
    if not listed:
        raise InvalidInputError(f"{name}: there is nothing at {shown}")
    return _remote_shards(name, url, store, listed)


def _same(info: dict[str, Any], path: str) -> bool:
    return str(info["name"]).strip("/") == path.strip("/")


def _remote_shards(name: str, url: str, store: ObjectStore, listed: Sequence[dict[str, Any]]) -> Source:
    shown = redacted(url)
    if not listed:
        raise InvalidInputError(f"{name}: no file matches {shown}")
    infos = {str(info["name"]).rstrip("/"): info for info in listed}
    openers: list[Callable[[], Source]] = []
    for path in chosen(name, shown, infos):
        # A user and password in the URL stay in that of each shard.
        place = _beside(url, store, path)
        # As on a disk: a folder is a Zarr array whatever its name, and so is what is named so.
        if infos[path].get("type") == "directory" or path.endswith(".zarr"):
            openers.append(partial(RemoteZarrSource.from_url, name, place))
        else:
            openers.append(partial(RemoteNpySource.from_url, name, place, store, infos[path]))
    return _joined(name, openers, shown)


def _beside(url: str, store: ObjectStore, path: str) -> str:
    """Return the URL of `path` with the user and password of `url`, and with the file systems around its own."""
    bare = url_of(store.fs, path)
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    inner_scheme, _, inner = bare.partition("://")
    if "::" in scheme:
        return f"{scheme}://{inner}"
    return f"{inner_scheme}://{user}{at}{inner}"


def _joined(name: str, openers: Sequence[Callable[[], Source]], where: str) -> Source:
    """Open all shards, several at a time, and return them as one array."""
    if len(openers) == 1:
        return openers[0]()
    with ThreadPoolExecutor(_OPENING_THREADS, "labelsieve-open") as pool:
        try:
            shards = list(pool.map(lambda opener: opener(), openers))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # the first error is enough
            raise
    return ShardsSource.checked(name, shards, where)
