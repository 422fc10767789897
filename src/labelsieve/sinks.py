"""Writing what was found: ``.npy``, ``.csv``, ``.parquet`` and ``.zarr``.

Covers: `check_output`, to refuse before the run; `write`, which publishes whole files; and `staged`, the place where
the tasks write a ``.zarr`` result until it is whole.
Does not cover: what is in a ``.zarr`` result (`stored`).
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.ownership import owned
from labelsieve.results import IssueRows, LabelIssues
from labelsieve.storage import Folder, LocalFolder, UrlFolder, open_folder, writing
from labelsieve.stored import PARTS, ResultGroup, is_result
from labelsieve.urls import is_url, redacted

# Rows of a CSV file that are turned into text at a time.
_CSV_ROWS: Final = 1 << 16


def check_output(output: str | Path, inputs: Sequence[str | Path] = ()) -> None:
    """Raise unless `output` can be written: its ending, its folder, its extra, and what stands there.

    Parameters
    ----------
    output : str or Path
        Where results are to go; the ending says in which form. Only ``.zarr`` may be a URL.
    inputs : sequence of str or Path
        What is read, and must not be replaced.

    Raises
    ------
    InvalidInputError
        For an unknown ending, a folder that is missing, an input, or a folder there that is no result of Labelsieve.
    MissingDependencyError
        For ``.parquet`` without pyarrow.
    """
    path = Path(str(output).removeprefix("file://").removeprefix("local://"))
    if path.suffix not in FORMS:
        raise InvalidInputError(f"{redacted(str(output))} must end in one of {', '.join(FORMS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError("Writing .parquet", "parquet")
    if isinstance(open_folder(output), UrlFolder):
        _check_url(str(output), inputs)
        return
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(f"there is no folder {path.absolute().parent} to write {path.name} in")
    for read in (Path(one) for one in inputs if not is_url(str(one))):
        if path.resolve() == read.resolve() or read.resolve() in path.resolve().parents:
            raise InvalidInputError(f"{path} is an input or lies in one: it is not replaced")
        if path.resolve() in read.resolve().parents:
            raise InvalidInputError(f"{path} holds the input {read}: it is not replaced")
    if path.suffix == ".zarr" and path.exists() and not is_result(LocalFolder(path.absolute())):
        raise InvalidInputError(f"{path} exists and is no result of Labelsieve: it is not replaced")
    if path.suffix != ".zarr" and path.is_dir():
        raise InvalidInputError(f"{path} is a folder")


def _check_url(output: str, inputs: Sequence[str | Path]) -> None:
    if not output.endswith(".zarr"):
        raise InvalidInputError(f"{redacted(output)}: only a .zarr result goes to a URL")
    for read in map(str, inputs):
        if output == read.rstrip("/") or output.startswith(f"{read}/") or read.startswith(f"{output}/"):
            raise InvalidInputError(f"{redacted(output)} is an input, lies in one or holds one: it is not replaced")
    folder = UrlFolder(output)
    names = folder.names()
    # What a killed run leaves has no root metadata yet, and nothing that a result has not.
    killed = "zarr.json" not in names and set(names) <= PARTS
    if names and not is_result(folder) and not killed:
        raise InvalidInputError(f"{redacted(output)} exists and is no result of Labelsieve: it is not replaced")


@dataclass(frozen=True)
class Stage:
    """Where a result is made.

    Parameters
    ----------
    group : ResultGroup
        Its group.
    work : Folder
        For what is needed until it is whole, and then removed.
    check_owned : callable
        Raises if another run makes the same result by now.
    """

    group: ResultGroup
    work: Folder
    check_owned: Callable[[], None]

    def clear(self) -> None:
        """Make room for the result, once all is read and counted: in an object store the earlier one goes now."""
        self.check_owned()
        self.group.folder.remove("zarr.json")
        self.group.folder.remove_all()


@contextmanager
def staged(output: str | Path) -> Iterator[Stage]:
    """Give the place where tasks make a ``.zarr`` result, which stands under its name once the block has ended.

    A local result is made in a hidden folder beside its place and renamed, so that an earlier one is replaced whole. In
    an object store nothing can be renamed: an earlier result is removed first, and the new one gets its root metadata
    last.
    """
    if isinstance(open_folder(output), UrlFolder):
        folder = open_folder(str(output))
        work = open_folder(f"{folder.location}.partial")
        with owned(work, f"the output {folder.where}") as check:
            try:
                yield Stage(ResultGroup(folder), work.folder("work"), check)
            finally:
                work.folder("work").delete()
        if not work.names():
            work.delete()
        return
    path = _local(output)
    beside = path.with_name(f".{path.name}.partial")  # of a run that was killed, if it is there
    with owned(LocalFolder(beside), f"the output {path}") as check:
        try:
            if (beside / "replaced").exists() and not path.exists():  # killed between the two renames of the end
                (beside / "replaced").rename(path)
            for left in ("result", "work", "replaced"):
                LocalFolder(beside).remove(left)
            yield Stage(ResultGroup(LocalFolder(beside / "result")), LocalFolder(beside / "work"), check)
            with writing(str(path)):
                _move_into_place(beside / "result", path, beside / "replaced")
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def write(issues: LabelIssues, path: Path, class_names: Sequence[str] | None = None) -> None:
    """Write `issues` in the form that the ending of `path` says; what is there is replaced only once all is written.

    Parameters
    ----------
    issues : LabelIssues
        What was found.
    path : Path
        ``.npy`` takes the indices, ``.csv`` and ``.parquet`` a table of the issues.
    class_names : sequence of str, optional
        ``K`` names, for two more columns of a table.

    Raises
    ------
    InvalidInputError
        As `check_output`.
    """
    check_output(path)
    if path.suffix not in _WRITERS:
        raise InvalidInputError(f"{path}: a .zarr result is written by the run, find_label_issues(output=...)")
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    try:
        _WRITERS[path.suffix](issues, folder / path.name, class_names)
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _local(output: str | Path) -> Path:
    """Return the path of an output that is a path or a URL of a local file."""
    folder = open_folder(output)
    if not isinstance(folder, LocalFolder):
        raise TypeError(f"{folder.where} is not local")
    return folder.path


def _move_into_place(made: Path, path: Path, replaced: Path) -> None:
    """Rename what was made to `path`; what is there stays if that fails."""
    try:
        if path.is_dir():
            path.rename(replaced)
        made.replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise


def issue_table(issues: IssueRows, class_names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Return the issues as columns, with the classes' names if given."""
    columns = issues.columns()
    if class_names is not None:
        names = np.asarray(class_names)
        columns["given_name"] = names[issues.given_labels]
        columns["suggested_name"] = names[issues.suggested_labels]
    return columns


def _write_npy(issues: LabelIssues, path: Path, _names: Sequence[str] | None) -> None:
    header = {"descr": "<i8", "fortran_order": False, "shape": (issues.num_issues,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in issues.found.parts():
            file.write(part.rows.astype("<i8", copy=False).data)


def _write_csv(issues: LabelIssues, path: Path, class_names: Sequence[str] | None) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, part in enumerate(issues.found.parts()):
            columns = issue_table(part, class_names)
            if not number:
                writer.writerow(columns)
            for start in range(0, len(part), _CSV_ROWS):
                # As text NumPy gives the fewest digits that read back as the same float32.
                writer.writerows(
                    zip(*(c[start : start + _CSV_ROWS].astype(str) for c in columns.values()), strict=True)
                )


def _write_parquet(issues: LabelIssues, path: Path, class_names: Sequence[str] | None) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer: Any = None
    try:
        for part in issues.found.parts():
            table = pa.table(issue_table(part, class_names))
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


_WRITERS: Final[dict[str, Callable[[LabelIssues, Path, Sequence[str] | None], None]]] = {
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
FORMS: Final = (*_WRITERS, ".zarr")
