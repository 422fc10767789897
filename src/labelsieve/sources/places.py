"""What is at a path, a URL, a pattern, a folder or a list of these, and the formats of arrays that are read there.

A format of arrays is an entry in `FORMATS`.
"""

from __future__ import annotations

import glob
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.npy import MAGIC, NpySource, RemoteNpySource, split_member, with_member
from labelsieve.sources.objects import ObjectStore
from labelsieve.sources.source import Source, natural_key
from labelsieve.sources.zarr import METADATA_NAMES, RemoteZarrSource, ZarrSource, is_zarr_folder
from labelsieve.storage.remote import check_place, is_url, is_web, url_of, without_query

Place = str | os.PathLike[str]
# What a store lists of an object.
Info = dict[str, Any]
# Joins opened shards: given `name` for messages, the shards, and where they are.
Join = Callable[[str, Sequence[Source], str], Source]
_T = TypeVar("_T")


class Format(NamedTuple):
    """A format of arrays.

    Parameters
    ----------
    open_file : callable
        Given ``labels`` or ``pred_probs`` for messages, a path, and the name of an array in it ("" for the only one),
        returns a source.
    open_url : callable, optional
        Given the same of a URL, and what a store has listed of it, if anything, returns a source.
    """

    open_file: Callable[[str, Path, str], Source]
    open_url: Callable[[str, str, str, Info | None], Source] | None = None


_NPY: Final = Format(
    NpySource.from_path, lambda name, url, member, info: RemoteNpySource.from_url(name, with_member(url, member), info)
)
_ZARR: Final = Format(
    lambda name, path, _: ZarrSource.from_path(name, path), lambda name, url, *_: RemoteZarrSource.from_url(name, url)
)
# By the suffix of a file or folder.
FORMATS: Final[dict[str, Format]] = {".npy": _NPY, ".zarr": _ZARR, ".npz": _NPY, ".safetensors": _NPY}

_AS_TABLE: Final = "give it as data=..., with the names of its columns as labels=... and pred_probs=..."
_AS_ARRAY: Final = "load it and give the array, or save that with np.save and give the file"
_PICKLED: Final = "and a pickle can run any code when it is opened"
# Files of other formats, by their suffix: what they are, and what to do with them.
OTHER_FORMATS: Final = {
    suffix: (called, advice)
    for suffixes, called, advice in (
        (".parquet", "a Parquet file", _AS_TABLE),
        (".feather .arrow", "an Arrow file", _AS_TABLE),
        (".h5 .hdf5", "an HDF5 file", "open it with h5py and give the dataset"),
        (".pt .pth", f"a file of torch.save, which holds a pickle, {_PICKLED}", _AS_ARRAY),
        (".pkl .pickle", f"a pickle, {_PICKLED}", _AS_ARRAY),
        (".csv .tsv .json .jsonl .txt", "a text file", _AS_ARRAY),
    )
    for suffix in suffixes.split()
}
# Text, such as a list of the files, may be beside shards and is left out. Data in another format may not, because rows
# would be missing.
_TEXT: Final = frozenset({".csv", ".tsv", ".json", ".jsonl", ".txt"})
_READ: Final = "only .npy, .npz and safetensors files and Zarr arrays are read from a path"
_MOST_NAMED: Final = 3
# Headers that are read at the same time; each is a request where shards are remote.
_THREADS: Final = 16


def _suffix(place: str) -> str:
    return PurePosixPath(place).suffix.lower()


def _refuse_other_format(name: str, place: str, shown: str) -> None:
    """Raise if a file has the suffix of another format, or is of torch.save; unless it begins as a ``.npy`` file does.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    place, shown : str
        Path or URL, and the same without secrets.
    """
    suffix, is_pickled = _suffix(shown), False
    try:
        with Path(place).open("rb") as file:
            head = file.read(len(MAGIC))
            if head == MAGIC:
                return
            is_pickled = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
            if head[:4] == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    is_pickled = any(entry.endswith("/data.pkl") for entry in archive.namelist())
    except FileNotFoundError:
        if not is_url(place):
            return
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        pass
    if suffix in OTHER_FORMATS or is_pickled:
        called, advice = OTHER_FORMATS.get(suffix, OTHER_FORMATS[".pt"])
        raise InvalidInputError(f"{name}: {shown} is {called}; {_READ}: {advice}")


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards in it."""
    return any(letter in name for letter in "*?[")


def local_path(place: str) -> str | None:
    """Return a path as it is and that of a ``file://`` URL, which may be quoted; None for another URL."""
    if not is_url(place):
        return place
    scheme, _, local = place.partition("://")
    if scheme not in ("file", "local"):
        return None
    return local if Path(local).exists() else unquote(local)


def expand(name: str, place: str, suffixes: tuple[str, ...] = (), inside: str = "*") -> dict[str, Info] | None:
    """Return what a pattern matches or a folder holds, in natural order; None for a single file, or for nothing.

    Parameters
    ----------
    name : str
        What it is for, such as ``labels``, for messages.
    place : str
        A path, a URL or a pattern.
    suffixes : tuple of str
        What ends so is not listed, although it may be a folder.
    inside : str
        ``*`` for what is in a folder, ``**/*`` for what is in the folders in it too.

    Returns
    -------
    dict
        Path or URL of each, and what a store lists of it.

    Raises
    ------
    InvalidInputError
        For a pattern that nothing matches, a URL with nothing below it, and a path that cannot be looked at.
    """
    local = local_path(place)
    if local is None:
        found = _expand_url(name, place, suffixes, inside)
        return None if found is None else dict(sorted(found.items(), key=lambda one: natural_key(one[0])))
    path = Path(local).absolute()  # a worker may run in another folder
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not is_pattern(local):
            return None
        paths = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not paths:
            raise InvalidInputError(f"{name}: no file matches {path}") from None
    except OSError as error:  # no permission to enter a folder, a name that is too long
        raise InvalidInputError(f"{name}: {path} cannot be opened: {error.strerror}") from error
    else:
        if local.lower().endswith(suffixes) or not path.is_dir():
            return None
        paths = list(map(str, path.glob(inside)))
    return {one: {} for one in sorted(paths, key=natural_key)}


def _expand_url(name: str, url: str, suffixes: tuple[str, ...], inside: str) -> dict[str, Info] | None:
    (store, path), shown, web = ObjectStore.at(url), without_query(url), is_web(url)
    if is_pattern(path.replace("?", "") if web else path):
        if web:
            raise InvalidInputError(
                f"{name}: {shown} is a pattern, but a web server lists no files: give them as a list"
            )
        infos, nothing = store.listed(name, path, "glob"), f"no file matches {shown}"
    elif web or shown.lower().endswith(suffixes):
        return None
    else:
        infos = store.listed(name, path, "ls" if inside == "*" else "find")
        nothing = f"there is nothing at {shown}"
        if [(info.get("type"), str(info["name"]).strip("/")) for info in infos] == [("file", path.strip("/"))]:
            return None
    if not infos:
        raise InvalidInputError(f"{name}: {nothing}")
    return {url_beside(url, store, str(info["name"]).rstrip("/")): info for info in infos}


def url_beside(url: str, store: ObjectStore, path: str) -> str:
    """Return the URL of `path` with the user and password of `url`, and with the file systems around its own."""
    bare = url_of(store.fs, path)
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    inner_scheme, _, inner = bare.partition("://")
    if "::" in scheme:
        return f"{scheme}://{inner}"
    return f"{inner_scheme}://{user}{at}{inner}"


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
    place = check_place(name, place)
    place, member = split_member(place) if "::" in place else (place, "")
    local, suffixes = local_path(place), tuple(FORMATS)
    if local is None:
        shown = without_query(place)
        if not is_pattern(shown):
            _refuse_other_format(name, place, shown)
        found = expand(name, place, suffixes)
        is_zarr = not is_pattern(shown) and not {_last(one) for one in found or ()}.isdisjoint(METADATA_NAMES)
        if found is None and is_web(place) and "?" not in place and not shown.lower().endswith(suffixes):
            store, path = ObjectStore.at(place)
            is_zarr = store.has(path, METADATA_NAMES)
    else:
        shown = str(Path(local).absolute())
        is_zarr = not local.lower().endswith(suffixes) and is_zarr_folder(Path(local))
        found = None if is_zarr else expand(name, place, suffixes)
    if is_zarr or found is None:
        return open_one(name, place, member, is_zarr=is_zarr)
    shards = _shards_among(name, shown, found)
    openers = [partial(open_one, name, shard, member, found[shard]) for shard in shards]
    return _join(name, openers, with_member(shown, member), join)


def open_one(name: str, place: str, member: str = "", info: Info | None = None, *, is_zarr: bool = False) -> Source:
    """Open the one array at a path or URL, by its suffix; other folders are Zarr arrays, and other files ``.npy``."""
    local = local_path(place)
    if local is None:
        shown = without_query(place)
        is_zarr = is_zarr or (info or {}).get("type") == "directory"
        kind = _ZARR if is_zarr else FORMATS.get(_suffix(shown), _NPY)
        if kind.open_url is None:
            raise InvalidInputError(f"{name}: {shown} is not read from a URL: give a copy on a disk")
        return kind.open_url(name, place, member, info)
    path = Path(local).absolute()
    kind = _ZARR if is_zarr or path.is_dir() else FORMATS.get(path.suffix.lower(), _NPY)
    if kind is _NPY:
        _refuse_other_format(name, str(path), str(path))
    return kind.open_file(name, path, member)


def _shards_among(name: str, where: str, places: Iterable[str]) -> list[str]:
    """Return the shards among the places in a folder, or among those that match a pattern.

    Hidden files, and those that hold no data, such as ``.txt``, are left out.

    Raises
    ------
    InvalidInputError
        If there are none, if there are shards of several formats, or if data in another format is among them.
    """
    kinds: dict[str, list[str]] = {}
    for place in places:
        if not _last(place).startswith("."):
            kinds.setdefault(PurePosixPath(_last(without_query(place))).suffix, []).append(place)
    shards = [kind for kind in FORMATS if kind in kinds]
    if not shards:
        foreign = max((kind for kind in kinds if kind in OTHER_FORMATS), key=lambda kind: len(kinds[kind]), default="")
        has = ""
        if foreign:
            n = len(kinds[foreign])
            files = f"{n:,} {foreign} files, such as {_last(kinds[foreign][0])}" if n > 1 else f"1 {foreign} file"
            has = f"; it has {files}; {_READ}: {OTHER_FORMATS[foreign][1].replace(' it ', ' them ')}"
        elif kinds:
            others = [_last(place) for some in kinds.values() for place in some]
            more = f" and {len(others) - _MOST_NAMED:,} more" if len(others) > _MOST_NAMED else ""
            has = f"; it has {', '.join(others[:_MOST_NAMED])}{more}"
        itself = "" if is_pattern(where) else ", and it has no zarr.json or .zarray itself"
        raise InvalidInputError(
            f"{name}: {where} has no .npy, .npz or safetensors files and no .zarr arrays{itself}{has}"
        )
    data = [*shards, *(kind for kind in (*OTHER_FORMATS, ".gz", ".zip") if kind in kinds and kind not in _TEXT)]
    if len(data) > 1:
        firsts = " and ".join(_last(kinds[kind][0]) for kind in data)
        raise InvalidInputError(f"{name}: {where} has shards of several kinds, {firsts}: give those of one as a list")
    return kinds[shards[0]]


def _last(place: str) -> str:
    return place.replace("\\", "/").rstrip("/").rpartition("/")[2]


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
    first = data[0] if data else None
    if isinstance(first, str):
        text = split_member(first)[0]
        if not (is_url(text) or text.endswith((*FORMATS, *OTHER_FORMATS)) or os.sep in text or "/" in text):
            return False
    elif not isinstance(first, os.PathLike):
        return False
    for item in data:
        if not isinstance(item, str | os.PathLike):
            shown = without_query(check_place("data", first))
            raise InputTypeError(f"a list that begins with the path {shown} also holds {type(item).__name__}")
    return True


def _join(name: str, openers: Sequence[Callable[[], Source]], where: str, join: Join) -> Source:
    """Open all shards, several at the same time, and return them as one array."""
    if len(openers) == 1:
        only = openers[0]()
        only.listed_at = where
        return only
    return join(name, open_all(openers), where)


def open_all(openers: Iterable[Callable[[], _T]]) -> list[_T]:
    """Call all openers, several at the same time, and return what they return, in order."""
    with ThreadPoolExecutor(_THREADS, "labelsieve-open") as pool:
        try:
            return list(pool.map(lambda opener: opener(), openers))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # the first error is enough
            raise
