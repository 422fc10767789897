"""Where a result may be written, and how it appears there whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labelsieve.errors import InUseError, InvalidInputError, MissingDependencyError, UnwritableError
from labelsieve.results.layouts import EqualImages
from labelsieve.results.result import Result
from labelsieve.results.zarr_store import PARTS, ResultGroup, is_result, publish_result
from labelsieve.storage.folders import Folder, LocalFolder, UrlFolder, open_folder, temporary_folder, writing
from labelsieve.storage.lock import abandoned, own_folder
from labelsieve.storage.urls import check_place, without_query

FORMS: Final = (".npy", ".csv", ".parquet", ".zarr")
# Marks the Parquet files that Labelsieve has written, and so may replace.
PARQUET_MARK: Final = b"labelsieve result"


def check_output(output: str | Path, inputs: Sequence[str | Path] = ()) -> None:
    """Raise unless a result can be written to `output`: its ending, its folder, its extra, and what is there now.

    Parameters
    ----------
    output : str or Path
        Where the result goes; the ending says in which format.
    inputs : sequence of str or Path
        Paths and URLs that are read, and must not be replaced.

    Raises
    ------
    InvalidInputError
        For an unknown ending, a missing folder, an input, or something there that is not a result of Labelsieve.
    MissingDependencyError
        For ``.parquet`` without pyarrow.
    UnwritableError
        If nothing can be written beside `output`. For a ``.zarr`` URL this shows when the run writes its id there.
    """
    folder = open_folder(output, "output")
    suffix = Path(folder.where).suffix
    if suffix not in FORMS:
        raise InvalidInputError(f"{without_query(str(output))} must end in one of {', '.join(FORMS)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError("Writing .parquet", "parquet")
    _refuse_inputs(output, inputs)
    if isinstance(folder, LocalFolder):
        check_writable(folder.path)
    if suffix != ".zarr":
        if folder.is_folder() and not _is_parquet(folder):
            raise InvalidInputError(f"{folder.where} is a folder")
        if not isinstance(folder, LocalFolder):
            _check_writable_url(folder)
        return
    if isinstance(folder, LocalFolder):
        ours = not folder.path.exists() or is_result(folder)
    else:
        names = set(folder.names())
        # A killed run leaves arrays of a result without root metadata.
        ours = not names or is_result(folder) or ("zarr.json" not in names and names <= PARTS)
    if not ours:
        raise InvalidInputError(f"{folder.where} exists and is not a result of Labelsieve: it is not replaced")


def _refuse_inputs(output: str | Path, inputs: Sequence[str | Path]) -> None:
    """Raise if `output` is one of `inputs`, lies in one, or holds one."""
    place = _resolved(output)
    for read in inputs:
        source = _resolved(check_place("input", read))
        if place.startswith(source):
            raise InvalidInputError(f"{without_query(str(output))} is an input or lies in one: it is not replaced")
        if source.startswith(place):
            raise InvalidInputError(
                f"{without_query(str(output))} holds the input {without_query(str(read))}: it is not replaced"
            )


def _resolved(location: str | Path) -> str:
    """Return a path without links or a URL, with a slash at the end: what lies in it begins with it."""
    folder = open_folder(location)
    return f"{folder.path.resolve() if isinstance(folder, LocalFolder) else folder.where}/"


def _check_writable_url(place: UrlFolder) -> None:
    """Raise unless an object can be written beside the URL; one is, as a test, and removed again."""
    test = UrlFolder(f"{place.where}.{uuid.uuid4().hex}.test")
    with tempfile.NamedTemporaryFile(dir=temporary_folder()) as file:
        try:
            test.upload(Path(file.name))
        except UnwritableError as error:
            raise UnwritableError(str(error).replace(test.where, place.where)) from error
    test.delete()


def check_ending(name: str, path: str | os.PathLike[str], suffix: str) -> str:
    """Return the path or URL of an output, or raise an `InvalidInputError` unless it ends in `suffix`."""
    place = check_place(name, path)
    if not place.endswith(suffix):
        raise InvalidInputError(f"{without_query(place)} must end in {suffix}")
    return place


def check_writable(path: Path) -> None:
    """Raise unless a file can be written at `path`.

    A file is written as a test: permissions do not show that a disk is read-only.

    Raises
    ------
    InvalidInputError
        If its folder is missing.
    UnwritableError
        If nothing can be written there.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        what = f"{parent} is not a folder" if parent.exists() else f"there is no folder {parent}"
        raise InvalidInputError(f"{path} cannot be written: {what}")
    with _hidden_folder(path) as folder:
        (folder / path.name).write_bytes(bytes(4096))  # fails on a full disk


@contextmanager
def replacing(place: Folder) -> Iterator[Path]:
    """Yield the path of a file or folder to make, which takes the place of what is at `place` when the block ends.

    It is in a hidden folder beside `place`. Those that killed runs left there are removed first.

    Raises
    ------
    UnwritableError
        If it cannot be written. What is at a path then stays, and so does one object at a URL.
    """
    if not isinstance(place, LocalFolder):
        with tempfile.TemporaryDirectory(prefix="labelsieve-", dir=temporary_folder()) as temporary:
            made = Path(temporary) / "made"
            with writing(f"a temporary file for {place.where}"):
                yield made
            place.upload(made)
        return
    path = place.path
    _remove_abandoned(path)
    with _hidden_folder(path) as folder, own_folder(LocalFolder(folder), str(path)):
        made, replaced = _places_in(folder, path)
        yield made
        _move_into_place(made, path, replaced)


def _places_in(folder: Path, path: Path) -> tuple[Path, Path]:
    """Return where in a hidden folder an output is made, and where goes what is replaced; neither is its lock."""
    return folder / f"new-{path.name}", folder / "replaced"


def _remove_abandoned(path: Path) -> None:
    """Remove the hidden folders beside `path` of runs that were killed as they wrote it."""
    name = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}")  # as `_hidden_folder` makes it
    folders = list[Path]()
    with suppress(OSError), os.scandir(path.absolute().parent) as entries:
        folders = [Path(entry) for entry in entries if name.fullmatch(entry.name) and not entry.is_symlink()]
    for folder in folders:
        made, replaced = _places_in(folder, path)
        with abandoned(folder) as is_abandoned:
            if not is_abandoned:
                continue
            if made.exists() and replaced.exists() and not os.path.lexists(path):
                # It was killed between the two renames at the end.
                with writing(str(path)):
                    replaced.rename(path)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _hidden_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`; it is removed at the end."""
    with writing(str(path)):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(made: Path, path: Path, replaced: Path) -> None:
    """Rename `made` to `path`; what is there stays if that fails, and is otherwise moved to `replaced`."""
    try:
        if path.is_dir():
            path.rename(replaced)
        made.replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise


def _is_parquet(folder: Folder) -> bool:
    """Return whether a folder is a table of several Parquet files that Labelsieve has written."""
    names = folder.names()
    if not folder.where.endswith(".parquet") or not all(re.fullmatch(r"part-\d{5,}\.parquet", name) for name in names):
        return False
    from pyarrow import parquet

    def is_marked(name: str) -> bool:
        with folder.open(name) as file:
            return PARQUET_MARK in (parquet.read_schema(file).metadata or {})

    try:
        return bool(names) and all(map(is_marked, names))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Stage:
    """Where a ``.zarr`` result is made.

    Parameters
    ----------
    group : ResultGroup
        Its group.
    work : Folder
        For files that are needed until the result is whole; removed at the end.
    """

    group: ResultGroup
    work: Folder

    def clear(self) -> None:
        """Remove the contents of the group before it is written: in an object store, the earlier result."""
        self.group.check_owned()
        self.group.folder.remove("zarr.json")
        for name in self.group.folder.names():
            self.group.folder.remove(name)

    def publish(self, result: Result) -> None:
        """Write what the tasks have not written, and make the group a result."""
        if result.ids is not None:
            self.group.write_ids(result.ids)
        if isinstance(result.layout, EqualImages):
            self.group.write_pixel_mask(result.layout)
        self.group.check_owned()
        publish_result(self.group, result)


@contextmanager
def staged(output: str | Path, wait: float = 0) -> Iterator[Stage]:
    """Yield the stage on which a ``.zarr`` result is made; it stands under its name once the block has ended.

    A local result is made in a hidden folder beside its place and renamed, so that an earlier one is replaced whole. In
    an object store nothing can be renamed: an earlier result is removed first, and the new one gets its root metadata
    last. `wait` is how many seconds to wait for another run that writes the same result on a disk.
    """
    folder = open_folder(output, "output")
    if not isinstance(folder, LocalFolder):
        work = open_folder(f"{folder.where}.partial")
        with own_folder(work, f"the output {folder.where}", wait) as check:
            try:
                yield Stage(ResultGroup(folder, check_owned=check), work.folder("work"))
            finally:
                with suppress(InUseError, OSError):
                    check()  # otherwise it is the folder of a later run
                    work.folder("work").delete()
        if not work.names():
            work.delete()
        return
    path = folder.path
    beside = LocalFolder(path.with_name(f".{path.name}.partial"))  # a killed run may have left one
    made, replaced = beside.path / "result", beside.path / "replaced"
    with own_folder(beside, f"the output {path}", wait) as check:
        try:
            if replaced.exists() and not path.exists():  # killed between the two renames at the end
                replaced.rename(path)
            for left in ("result", "work", "replaced"):
                beside.remove(left)
            group = ResultGroup(LocalFolder(made), shown=str(path), check_owned=check)
            yield Stage(group, LocalFolder(beside.path / "work"))
            with writing(str(path)):
                _move_into_place(made, path, replaced)
        except UnwritableError as error:
            if str(beside.path) not in str(error):
                raise
            raise UnwritableError(f"{path} cannot be written: {error}") from error
        finally:
            with suppress(InUseError, OSError):
                check()
                beside.delete()
