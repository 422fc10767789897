"""Writing what was found: ``.npy``, ``.csv``, ``.parquet`` and ``.zarr``."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InUseError, InvalidInputError, MissingDependencyError, UnwritableError
from labelsieve.memory import result_rows, run_rows
from labelsieve.results.result import Result
from labelsieve.results.row_ids import escape_formula
from labelsieve.results.zarr_store import COLUMNS, PARTS, ResultGroup, StoredIssues, is_result, publish_result
from labelsieve.storage.folders import Folder, LocalFolder, UrlFolder, open_folder, writing
from labelsieve.storage.lock import own_folder
from labelsieve.storage.urls import check_place, is_url, without_query

# Most rows of one Parquet file, and rows of a CSV file that are turned into text at a time.
ROWS_A_FILE: Final = 10_000_000
_CSV_ROWS: Final = 1 << 16
_MADE_BY: Final = b"labelsieve result"


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
    UnwritableError
        If nothing can be written beside `output`. Of a URL this shows when the run writes its id there.
    """
    path = Path(check_place("output", output).removeprefix("file://").removeprefix("local://"))
    for read in inputs:
        check_place("input", read)
    if path.suffix not in FORMS:
        raise InvalidInputError(f"{without_query(str(output))} must end in one of {', '.join(FORMS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError("Writing .parquet", "parquet")
    if isinstance(open_folder(output), UrlFolder):
        _check_url(str(output), inputs)
        return
    for read in (Path(one) for one in inputs if not is_url(str(one))):
        if path.resolve() == read.resolve() or read.resolve() in path.resolve().parents:
            raise InvalidInputError(f"{path} is an input or lies in one: it is not replaced")
        if path.resolve() in read.resolve().parents:
            raise InvalidInputError(f"{path} holds the input {read}: it is not replaced")
    check_writable(path)
    if path.suffix == ".zarr" and path.exists() and not is_result(LocalFolder(path.absolute())):
        raise InvalidInputError(f"{path} exists and is no result of Labelsieve: it is not replaced")
    if path.suffix != ".zarr" and path.is_dir() and not _is_parquet(path):
        raise InvalidInputError(f"{path} is a folder")


@contextmanager
def made_beside(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path`, in which a file is made that then replaces it; it is removed at the end.

    Raises
    ------
    UnwritableError
        If it cannot be made, or the block cannot write in it.
    """
    with writing(str(path)):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise unless a file can be written at `path`; it is tried, as no permission tells of a disk that is read-only.

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
    with made_beside(path) as folder:
        (folder / path.name).write_bytes(bytes(4096))  # not on a full disk


def _is_parquet(path: Path) -> bool:
    """Tell whether a folder is a table of many rows that was written here."""
    files = list(path.iterdir())
    if path.suffix != ".parquet" or not all(fullmatch(r"part-\d{5,}\.parquet", file.name) for file in files):
        return False
    from pyarrow import parquet

    try:
        return bool(files) and all(_MADE_BY in (parquet.read_schema(file).metadata or {}) for file in files)
    except (OSError, ValueError):
        return False


def _check_url(output: str, inputs: Sequence[str | Path]) -> None:
    if not output.endswith(".zarr"):
        raise InvalidInputError(f"{without_query(output)}: only a .zarr result goes to a URL")
    for read in map(str, inputs):
        if output == read.rstrip("/") or output.startswith(f"{read}/") or read.startswith(f"{output}/"):
            raise InvalidInputError(
                f"{without_query(output)} is an input, lies in one or holds one: it is not replaced"
            )
    folder = UrlFolder(output)
    names = folder.names()
    # What a killed run leaves has no root metadata yet, and nothing that a result has not.
    killed = "zarr.json" not in names and set(names) <= PARTS
    if names and not is_result(folder) and not killed:
        raise InvalidInputError(f"{without_query(output)} exists and is no result of Labelsieve: it is not replaced")


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
def staged(output: str | Path, wait: float = 0) -> Iterator[Stage]:
    """Give the place where tasks make a ``.zarr`` result, which stands under its name once the block has ended.

    A local result is made in a hidden folder beside its place and renamed, so that an earlier one is replaced whole. In
    an object store nothing can be renamed: an earlier result is removed first, and the new one gets its root metadata
    last. `wait` is how many seconds to wait while another run makes the same result on a disk.
    """
    folder = open_folder(output, "output")
    if not isinstance(folder, LocalFolder):
        work = open_folder(f"{folder.where}.partial")
        with own_folder(work, f"the output {folder.where}", wait) as check:
            try:
                yield Stage(ResultGroup(folder, check_owned=check), work.folder("work"), check)
            finally:
                with suppress(InUseError, OSError):
                    check()  # or it is the folder of a later run
                    work.folder("work").delete()
        if not work.names():
            work.delete()
        return
    path = folder.path
    beside = path.with_name(f".{path.name}.partial")  # of a run that was killed, if it is there
    with own_folder(LocalFolder(beside), f"the output {path}", wait) as check:
        try:
            if (beside / "replaced").exists() and not path.exists():  # killed between the two renames of the end
                (beside / "replaced").rename(path)
            for left in ("result", "work", "replaced"):
                LocalFolder(beside).remove(left)
            group = ResultGroup(LocalFolder(beside / "result"), shown=str(path), check_owned=check)
            yield Stage(group, LocalFolder(beside / "work"), check)
            with writing(str(path)):
                _move_into_place(beside / "result", path, beside / "replaced")
        except UnwritableError as error:
            if str(beside) not in str(error):
                raise
            raise UnwritableError(f"{path} cannot be written: {error}") from error
        finally:
            with suppress(InUseError, OSError):
                check()
                shutil.rmtree(beside, ignore_errors=True)


def write(result: Result, path: Path, *, rows_a_file: int = ROWS_A_FILE, escape_formulas: bool = True) -> None:
    """Write the issues in the form that the ending of `path` says; what is there is replaced only once all is written.

    Parameters
    ----------
    result : Result
        What was found.
    path : Path
        ``.npy`` takes the indices, ``.csv`` and ``.parquet`` a table of the issues.
    rows_a_file : int
        Most rows of a ``.parquet`` file; of more issues it becomes a folder of such files, which reads as one table.
    escape_formulas : bool
        Whether cells of a ``.csv`` file are escaped that a spreadsheet would run.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As `check_output`.
    UnwritableError
        If it cannot be written.
    """
    check_output(path)
    if path.suffix not in _WRITERS:
        raise InvalidInputError(f"{path}: a .zarr result is written by the run (output=...) or by save()")
    choices: dict[str, dict[str, Any]] = {
        ".parquet": {"rows_a_file": rows_a_file},
        ".csv": {"escape_formulas": escape_formulas},
    }
    with made_beside(path) as folder:
        made = folder / path.name
        _WRITERS[path.suffix](result, made, **choices.get(path.suffix, {}))
        _move_into_place(made, path, folder / "replaced")


def save(result: Result, location: str) -> None:
    """Write a whole result as a ``.zarr`` group at a path or URL, some rows at a time."""
    with staged(location) as stage:
        stage.clear()
        group, step = stage.group, result_rows(result.n_rows)
        scores = result.scores
        group.create_rows(result.n_rows, scores.dtype)
        to_scores, to_mask, mask = group.writer("scores"), group.writer("mask"), result.mask()
        for start in range(0, result.n_rows, step):
            to_scores(start, np.asarray(scores[start : start + step]))
            to_mask(start, mask[start : start + step])
        chunk, columns = run_rows(result.num_issues), result.found.part(0, 0).columns()
        group.create_issues(result.num_issues, chunk, {name: column.dtype for name, column in columns.items()})
        writers = {name: group.writer(COLUMNS[name]) for name in columns}
        for start in range(0, result.num_issues, chunk):
            part = result.found.part(start, min(start + chunk, result.num_issues))
            for name, column in part.columns().items():
                writers[name](start, column)
        if result.ids is not None:
            group.write_ids(result.ids, StoredIssues(group, result.num_issues))
        stage.check_owned()
        publish_result(group, result)


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


def _write_npy(result: Result, path: Path) -> None:
    header = {"descr": "<i8", "fortran_order": False, "shape": (result.num_issues,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in result.found.column("row"):
            file.write(rows.astype("<i8", copy=False).data)


def _write_csv(result: Result, path: Path, *, escape_formulas: bool = True) -> None:
    def cells(column: npt.NDArray[Any]) -> Iterable[Any]:
        if column.dtype.kind != "O":  # as text NumPy gives the fewest digits that read back as the same float32
            return column.astype(str)
        return map(escape_formula, column) if escape_formulas else column

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, columns in enumerate(result.issue_tables()):
            if not number:
                writer.writerow(columns)
            for start in range(0, len(columns["row"]), _CSV_ROWS):
                cut = [cells(column[start : start + _CSV_ROWS]) for column in columns.values()]
                writer.writerows(zip(*cut, strict=True))


def _write_parquet(result: Result, path: Path, rows_a_file: int = ROWS_A_FILE) -> None:
    """Write a file, or a folder of files of at most `rows_a_file` rows each."""
    import pyarrow as pa
    from pyarrow import parquet

    several = result.num_issues > rows_a_file
    if several:
        path.mkdir()
    for number, start in enumerate(range(0, max(1, result.num_issues), rows_a_file)):
        writer: Any = None
        try:
            for columns in result.issue_tables(start, min(start + rows_a_file, result.num_issues)):
                table = pa.table(columns).replace_schema_metadata({_MADE_BY: b"1"})
                file = path / f"part-{number:05d}.parquet" if several else path
                writer = writer or parquet.ParquetWriter(file, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


_WRITERS: Final[dict[str, Callable[..., None]]] = {
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
FORMS: Final = (*_WRITERS, ".zarr")
