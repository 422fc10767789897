"""Opening what is at a path or a URL: a file, a Zarr array, a folder of shards, a pattern or a list of them.

A new format takes a `Source` in a module of its own, as `labelsieve.sources.npy`, and a branch here: in `open_place`
for paths and in `_open_url` for URLs. It leaves the formats that are refused
(`labelsieve.sources.other_formats.FORMATS`), and its suffix is added to those of shards
(`labelsieve.sources.shard_names.SHARD_SUFFIXES`).
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.archives import ARCHIVE_SUFFIXES, find_member, split_member, with_member
from labelsieve.sources.base import Source
from labelsieve.sources.bfloat16 import Bfloat16Source
from labelsieve.sources.npy import NpySource
from labelsieve.sources.object_store import ObjectStore
from labelsieve.sources.other_formats import FORMATS, explain_conversion, is_npy, refuse_other_format
from labelsieve.sources.remote_npy import RemoteNpySource
from labelsieve.sources.remote_zarr import RemoteZarrSource
from labelsieve.sources.shard_names import SHARD_SUFFIXES, is_pattern, select_shards
from labelsieve.sources.shards import ShardsSource
from labelsieve.sources.versions import FileVersion
from labelsieve.sources.zarr_arrays import METADATA_NAMES, ZarrSource, is_zarr_folder
from labelsieve.storage.urls import check_place, is_url, is_web, url_of, without_query

# Headers that are read at the same time; each is a request where shards are remote.
_OPENING_THREADS: Final = 16

Place = str | os.PathLike[str]
# Joins opened shards: given `name` for messages, the shards, and where they are.
Join = Callable[[str, Sequence[Source], str], Source]
_T = TypeVar("_T")


def open_place(name: str, place: Place, join: Join = ShardsSource.checked) -> Source:
    """Open what is at a path, a URL or a pattern.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    place : str or path
        A ``.npy`` file, a Zarr array, an array in an ``.npz`` or safetensors file (``file.npz::name``), a folder of
        these, or a pattern that several match.
    join : callable
        Joins the shards, if there are several.

    Raises
    ------
    InvalidInputError
        If there is nothing there, or nothing that can be read.
    """
    place, member = split_member(check_place(name, place))
    local = local_path(place)
    if local is None:
        return _open_url(name, place, member, join)
    path = Path(local).absolute()  # a worker may run in another folder
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a pattern, or reported below
    except OSError as error:  # no permission to enter a folder, a name that is too long
        raise InvalidInputError(f"{name}: {path} cannot be opened: {error.strerror}") from error
    if is_pattern(local) and not path.exists():
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not matches:
            raise InvalidInputError(f"{name}: no file matches {path}")
        return _open_shards(name, path, matches, f"{path} matches no .npy and no .zarr shards", join, member)
    if path.is_file():
        refuse_other_format(name, str(path), str(path))
    if path.is_dir() and path.suffix != ".zarr" and not is_zarr_folder(path):
        why = f"{path} is not a Zarr array: it has no zarr.json or .zarray, and no .npy or .zarr shards"
        return _open_shards(name, path, [str(entry) for entry in path.iterdir()], why, join, always=True)
    if path.is_dir() or path.suffix == ".zarr":
        return ZarrSource.from_path(name, path)
    if path.suffix.lower() in ARCHIVE_SUFFIXES and not is_npy(str(path)):
        return _open_member(name, path, member)
    return NpySource.from_path(name, path)


def _open_member(name: str, path: Path, member: str) -> Source:
    """Open an array of a local file of several."""
    try:
        with path.open("rb") as file:
            version = FileVersion.of(os.fstat(file.fileno()))

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            found = find_member(name, str(path), read, version.size, member)
    except FileNotFoundError:
        raise InvalidInputError(f"{name}: there is no file {path}") from None
    except OSError as error:
        raise InvalidInputError(f"{name}: {path} cannot be opened: {error}") from error
    source = NpySource(
        path, found.shape, found.dtype, found.offset, fortran=found.fortran, version=version, member=found.name
    )
    return Bfloat16Source(source) if found.is_bfloat16 else source


def local_path(place: str) -> str | None:
    """Return a path as it is and that of a ``file://`` URL, which may be quoted; None for another URL."""
    if not is_url(place):
        return place
    scheme, _, local = place.partition("://")
    if scheme not in ("file", "local"):
        return None
    return local if Path(local).exists() else unquote(local)


def open_places(name: str, places: Sequence[Place], join: Join = ShardsSource.checked) -> Source:
    """Open a list of shards, in the order given."""
    named = [check_place(name, place) for place in places]
    place, count = Counter(named).most_common(1)[0]
    if count > 1:
        raise InvalidInputError(f"{name}: {without_query(place)} is listed twice")
    return _join(name, [partial(open_place, name, place) for place in named], without_query(named[0]), join)


def are_places(data: Sequence[Any]) -> bool:
    """Return whether a list holds paths and URLs, rather than anything else such as class names.

    Raises
    ------
    InputTypeError
        For a list that holds both.
    """
    if not data or not _is_place(data[0]):
        return False
    for item in data:
        if not isinstance(item, str | os.PathLike):
            first = without_query(check_place("data", data[0]))
            raise InputTypeError(f"a list that begins with the path {first} also holds {type(item).__name__}")
    return True


def _is_place(item: object) -> bool:
    if isinstance(item, str):
        item = split_member(item)[0]
        return is_url(item) or item.endswith((*SHARD_SUFFIXES, *FORMATS)) or os.sep in item or "/" in item
    return isinstance(item, os.PathLike)


def _open_shards(
    name: str, where: Path, places: Sequence[str], why: str, join: Join, member: str = "", *, always: bool = False
) -> Source:
    """Open the shards in a folder or that match a pattern.

    If there are none, raise `why` with how to convert the files that are there, or in any case if `always`.
    """
    if not any(place.endswith(SHARD_SUFFIXES) for place in places):
        conversion = explain_conversion(name, places)
        if conversion or always:
            raise InvalidInputError(f"{name}: {why}" + (f"; {conversion}" if conversion else ""))
    shards = select_shards(name, str(where), places)
    openers = [partial(open_place, name, with_member(place, member)) for place in shards]
    return _join(name, openers, with_member(str(where), member), join)


def _open_url(name: str, url: str, member: str, join: Join) -> Source:
    shown, web = without_query(url), is_web(url)
    store, path = ObjectStore.at(url)
    if is_pattern(path.replace("?", "") if web else path):
        if web:
            raise InvalidInputError(
                f"{name}: {shown} is a pattern, but a web server lists no files: give them as a list"
            )
        return _open_objects(name, url, store, store.match(name, path), join, member)
    refuse_other_format(name, url, shown)
    # The suffix is looked for where no query hides it.
    if shown.endswith(".zarr"):
        return RemoteZarrSource.from_url(name, url)
    if shown.endswith(".npy") or shown.lower().endswith(ARCHIVE_SUFFIXES):
        return RemoteNpySource.from_url(name, with_member(url, member), store)
    listed = [] if web else store.list_folder(name, path)
    children = {str(info["name"]).rstrip("/").rpartition("/")[2] for info in listed}
    if children & set(METADATA_NAMES) or (web and "?" not in url and store.has(path, METADATA_NAMES)):
        return RemoteZarrSource.from_url(name, url)
    is_file = [(info.get("type"), str(info["name"]).strip("/")) for info in listed] == [("file", path.strip("/"))]
    if web or is_file:
        return RemoteNpySource.from_url(name, url, store)
    if not listed:
        raise InvalidInputError(f"{name}: there is nothing at {shown}")
    return _open_objects(name, url, store, listed, join)


def _open_objects(
    name: str, url: str, store: ObjectStore, listed: Sequence[dict[str, Any]], join: Join, member: str = ""
) -> Source:
    """Open the shards among the objects that a URL of a folder or pattern lists."""
    shown = without_query(url)
    if not listed:
        raise InvalidInputError(f"{name}: no file matches {shown}")
    infos = {str(info["name"]).rstrip("/"): info for info in listed}
    openers: list[Callable[[], Source]] = []
    for path in select_shards(name, shown, infos):
        shard_url = url_beside(url, store, path)
        # As on a disk: any folder is taken for a Zarr array, and so is any object with the suffix of one.
        if infos[path].get("type") == "directory" or path.endswith(".zarr"):
            openers.append(partial(RemoteZarrSource.from_url, name, shard_url))
        else:
            place = with_member(shard_url, member)
            openers.append(partial(RemoteNpySource.from_url, name, place, store, infos[path]))
    return _join(name, openers, with_member(shown, member), join)


def url_beside(url: str, store: ObjectStore, path: str) -> str:
    """Return the URL of `path` with the user and password of `url`, and with the file systems around its own."""
    bare = url_of(store.fs, path)
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    inner_scheme, _, inner = bare.partition("://")
    if "::" in scheme:
        return f"{scheme}://{inner}"
    return f"{inner_scheme}://{user}{at}{inner}"


def _join(name: str, openers: Sequence[Callable[[], Source]], where: str, join: Join) -> Source:
    """Open all shards, several at the same time, and return them as one array."""
    if len(openers) == 1:
        only = openers[0]()
        only.listed_at = where
        return only
    return join(name, open_all(openers), where)


def open_all(openers: Iterable[Callable[[], _T]]) -> list[_T]:
    """Call all openers, several at the same time, and return what they return, in order."""
    with ThreadPoolExecutor(_OPENING_THREADS, "labelsieve-open") as pool:
        try:
            return list(pool.map(lambda opener: opener(), openers))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # the first error is enough
            raise
