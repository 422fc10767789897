"""Formats that are not read from a path: which suffixes they have, and the lines of Python that convert them."""

from __future__ import annotations

import glob
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.composite import Bfloat16Source, ShardsSource
from labelsieve.sources.npy import ARCHIVE_SUFFIXES, NpySource, RemoteNpySource, find_member, split_member, with_member
from labelsieve.sources.objects import ObjectStore
from labelsieve.sources.source import FileVersion, Source, natural_key
from labelsieve.sources.zarr import METADATA_NAMES, RemoteZarrSource, ZarrSource, is_zarr_folder
from labelsieve.storage.remote import check_place, is_url, is_web, url_of, without_query


@dataclass(frozen=True)
class _Format:
    """A file format, and the expressions that read a file of it.

    Parameters
    ----------
    called : str
        A file of it, in words.
    imports : str
        What to import besides NumPy.
    probs, labels : str
        The expressions, with ``{path}`` for the path and ``{name}`` for the name of an array in the file.
    note : str
        Advice, in brackets after the sentence.
    lazy : str
        The line that opens a file larger than memory, with ``{column}`` for the columns of a table.
    is_table : bool
        Whether it is read as ``data``, with the names of its columns.
    """

    called: str
    imports: str
    probs: str
    labels: str
    note: str = ""
    lazy: str = ""
    is_table: bool = False


def _table(called: str, reading: str, lazy: str = "", *, is_table: bool = False) -> _Format:
    """Return a format that pandas reads."""
    probs, labels = f'{reading}.select_dtypes("float").to_numpy()', f'{reading}["label"].to_numpy()'
    lazy = f"import dask.dataframe; {{name}} = {lazy}{{column}}.to_dask_array(lengths=True)" if lazy else ""
    return _Format(called, ", pandas as pd", probs, labels, lazy=lazy, is_table=is_table)


_TENSOR: Final = 'torch.load({path}, map_location="cpu", weights_only=True).detach()'
_TORCH: Final = _Format(
    "a file of torch.save, which holds a pickle, and a pickle can run any code when it is opened",
    ", torch",
    _TENSOR + ".float().numpy()",
    _TENSOR + ".numpy()",
)
_UNPICKLED: Final = "np.asarray(pickle.loads(pathlib.Path({path}).read_bytes()))"
_PICKLE: Final = _Format(
    "a pickle, which can run any code when it is opened",
    ", pathlib, pickle",
    _UNPICKLED,
    _UNPICKLED,
    "if you trust it",
)
_DATASET: Final = "h5py.File({path})[{name!r}]"
_HDF5: Final = _Format(
    "an HDF5 file",
    ", h5py",
    _DATASET + "[:]",
    _DATASET + "[:]",
    "with the name of its dataset",
    "import h5py; {name} = " + _DATASET,
)
# By the suffix of the file.
FORMATS: Final = {
    ".parquet": _table("a Parquet file", "pd.read_parquet({path})", is_table=True),
    ".csv": _table("a CSV file", "pd.read_csv({path})", "dask.dataframe.read_csv({path})"),
    ".tsv": _table("a table as text", 'pd.read_csv({path}, sep="\\t")'),
    ".json": _table("a JSON file", "pd.read_json({path})"),
    ".jsonl": _table("a file of JSON lines", "pd.read_json({path}, lines=True)"),
    ".feather": _table("an Arrow file", "pd.read_feather({path})", is_table=True),
    ".arrow": _table("an Arrow file", "pd.read_feather({path})", is_table=True),
    ".txt": _Format("a text file", "", "np.loadtxt({path})", "np.loadtxt({path}, dtype=int)"),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
}
# Text, such as a list of the files, may be beside shards and is left out. Data in another format may not, because rows
# would be missing.
_TEXT_SUFFIXES: Final = frozenset({".csv", ".tsv", ".json", ".jsonl", ".txt"})
DATA_SUFFIXES: Final = (*(suffix for suffix in FORMATS if suffix not in _TEXT_SUFFIXES), ".gz", ".zip")
_READ: Final = "only .npy, .npz and safetensors files and Zarr arrays are read from a path"


def refuse_other_format(name: str, place: str, shown: str) -> None:
    """Raise if a file has the suffix of another format; the message has the lines that convert it.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    place, shown : str
        Path or URL, and the same without secrets.

    Raises
    ------
    InvalidInputError
        If the suffix is one of `FORMATS`, or a local file is of torch.save, whatever its suffix, except for a local
        file that begins as a ``.npy`` file does.
    """
    suffix = PurePosixPath(shown).suffix.lower()
    if is_npy(place) or (suffix not in FORMATS and not _is_pickled(place)):
        return
    raise InvalidInputError(
        f"{name}: {shown} is {FORMATS.get(suffix, _TORCH).called}, but {_READ}. {_conversion(name, place, shown)}"
    )


def explain_conversion(name: str, paths: Sequence[str]) -> str:
    """Return a message that says how to convert files of another format; "" if there are none.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``.
    paths : sequence of str
        All files of a folder, or those that a pattern matches.
    """
    count = Counter(PurePosixPath(path).suffix.lower() for path in paths)
    known = [suffix for suffix, _ in count.most_common() if suffix in FORMATS]
    if not known:
        return ""
    suffix = known[0]
    first = min(path for path in paths if PurePosixPath(path).suffix.lower() == suffix)
    files = f"{count[suffix]:,} {suffix} file{'s, such as ' + first if count[suffix] > 1 else ''}"
    return f"it holds {files}, but {_READ}. {_conversion(name, first, first)}"


def _conversion(name: str, place: str, shown: str) -> str:
    """Return a sentence with the lines that convert a file, and those that open a large one."""
    suffix, path = PurePosixPath(shown).suffix.lower(), repr(shown)
    kind = FORMATS.get(suffix, _TORCH)
    stem = shown[: len(shown) - len(suffix)] if Path(place).exists() else PurePosixPath(shown).stem
    # One file may hold both.
    target = repr(f"{stem}.npy" if stem.endswith(name) else f"{stem}_{name}.npy")
    reading = (kind.labels if name == "labels" else kind.probs).format(path=path, name=name)
    note = 'with the name of your column for "label"' if '["label"]' in reading else kind.note
    text = f"Convert it once{f' ({note})' if note else ''}, and give {target}: "
    if kind.is_table:
        text = (
            f"Give it as a table: data={path}, labels='label', pred_probs='probs' (the names of its columns). Or {text}"
        )
    text += f"import numpy as np{kind.imports}; np.save({target}, {reading})"
    if kind.lazy:
        column = '["label"]' if name == "labels" else '.select_dtypes("float")'
        lazy = kind.lazy.format(path=path, name=name, column=column)
        text += f" -- or, from Python and out of core, give {name}: {lazy}"
    return text


def _is_pickled(place: str) -> bool:
    """Return whether a local file is one of torch.save: an archive with a pickle in it or, of old, a pickle."""
    try:
        with Path(place).open("rb") as file:
            head = file.read(4)
            if head == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    return any(entry.endswith("/data.pkl") for entry in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return False
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def is_npy(place: str) -> bool:
    """Return whether a local file begins as a ``.npy`` file does."""
    try:
        with Path(place).open("rb") as file:
            return file.read(6) == b"\x93NUMPY"
    except OSError:
        return False


SHARD_SUFFIXES = (".npy", ".zarr", ".npz", ".safetensors")
_MOST_NAMED = 3


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards in it."""
    return any(letter in name for letter in "*?[")


def select_shards(name: str, where: str, names: Iterable[str]) -> list[str]:
    """Return the shards among the names in a folder, or among those that match a pattern, in natural order.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    where : str
        Folder or pattern, for messages.
    names : iterable of str
        Paths; hidden ones and those of files that hold no arrays, such as ``.txt``, are left out.

    Raises
    ------
    InvalidInputError
        If there are none, if there are shards of several formats, or if data in another format is among them.
    """
    kinds: dict[str, list[str]] = {}
    others: list[str] = []
    for path in sorted(set(names), key=natural_key):
        last = PurePosixPath(path.replace("\\", "/")).name
        suffix = PurePosixPath(last).suffix
        if not last.startswith(".") and suffix in SHARD_SUFFIXES + DATA_SUFFIXES:
            kinds.setdefault(suffix, []).append(path)
        elif not last.startswith("."):
            others.append(path)
    shards = [kind for kind in SHARD_SUFFIXES if kind in kinds]
    if not shards:
        named = [path for paths in kinds.values() for path in paths] or others
        has = f"; it has {_named(named)}" if named else ""
        raise InvalidInputError(f"{name}: {where} has no .npy, .npz or safetensors files and no .zarr arrays{has}")
    if len(kinds) > 1:
        firsts = " and ".join(_last(kinds[kind][0]) for kind in SHARD_SUFFIXES + DATA_SUFFIXES if kind in kinds)
        raise InvalidInputError(f"{name}: {where} has shards of several kinds, {firsts}: give those of one as a list")
    return kinds[shards[0]]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED:,} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(map(_last, paths[:_MOST_NAMED])) + more


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
