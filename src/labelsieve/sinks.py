"""Writing what was found: ``.npy``, ``.csv``, ``.parquet`` and ``.zarr``.

Covers: `check_output`, to refuse before the run, and `write`, which publishes whole files or folders at once.
Does not cover: results larger than memory.
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.results import LabelIssues

# Rows of a CSV file that are turned into text at a time.
_CSV_ROWS: Final = 1 << 16
# Rows of a stored chunk of a Zarr result.
_ZARR_ROWS: Final = 1 << 20
_ZARR_KIND: Final = "labelsieve result"


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise unless `path` can be written: its ending, its folder, its extra, and what stands there.

    Parameters
    ----------
    path : Path
        Where results are to go; the ending says in which form.
    inputs : sequence of Path
        What is read, and must not be replaced.

    Raises
    ------
    InvalidInputError
        For an unknown ending, a folder that is missing, an input, or a folder there that is no result of Labelsieve.
    MissingDependencyError
        For ``.parquet`` without pyarrow.
    """
    if path.suffix not in _WRITERS:
        raise InvalidInputError(f"{path} must end in one of {', '.join(_WRITERS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError("Writing .parquet", "parquet")
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(f"there is no folder {path.absolute().parent} to write {path.name} in")
    for read in inputs:
        if path.resolve() == read.resolve() or read.resolve() in path.resolve().parents:
            raise InvalidInputError(f"{path} is an input or lies in one: it is not replaced")
        if path.resolve() in read.resolve().parents:
            raise InvalidInputError(f"{path} holds the input {read}: it is not replaced")
    if path.suffix == ".zarr" and path.exists() and not _is_result(path):
        raise InvalidInputError(f"{path} exists and is no result of Labelsieve: it is not replaced")
    if path.suffix != ".zarr" and path.is_dir():
        raise InvalidInputError(f"{path} is a folder")


def write(issues: LabelIssues, path: Path, class_names: Sequence[str] | None = None) -> None:
    """Write `issues` in the form that the ending of `path` says; what is there is replaced only once all is written.

    Parameters
    ----------
    issues : LabelIssues
        What was found.
    path : Path
        ``.npy`` takes the indices, ``.csv`` and ``.parquet`` a table of the issues, ``.zarr`` a group of ``scores``,
        ``mask``, ``issues``, ``confident_thresholds`` and ``class_counts``.
    class_names : sequence of str, optional
        ``K`` names, for two more columns of a table.

    Raises
    ------
    InvalidInputError
        As `check_output`.
    """
    check_output(path)
    with _published(path) as temporary:
        _WRITERS[path.suffix](issues, temporary, class_names)


def issue_table(issues: LabelIssues, class_names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Return the issues as columns, with the classes' names if given."""
    columns = issues.issues.columns()
    if class_names is not None:
        names = np.asarray(class_names)
        columns["given_name"] = names[issues.issues.given_labels]
        columns["suggested_name"] = names[issues.issues.suggested_labels]
    return columns


@contextmanager
def _published(path: Path) -> Iterator[Path]:
    """Give a path in a new folder beside `path`, and move what was written there into its place at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    replaced = folder / "replaced"
    try:
        yield folder / path.name
        if path.is_dir():
            path.rename(replaced)
        (folder / path.name).replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_npy(issues: LabelIssues, path: Path, _names: Sequence[str] | None) -> None:
    np.save(path, issues.indices)


def _write_csv(issues: LabelIssues, path: Path, class_names: Sequence[str] | None) -> None:
    columns = issue_table(issues, class_names)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for start in range(0, issues.num_issues, _CSV_ROWS):
            # As text NumPy gives the fewest digits that read back as the same float32.
            writer.writerows(zip(*(c[start : start + _CSV_ROWS].astype(str) for c in columns.values()), strict=True))


def _write_parquet(issues: LabelIssues, path: Path, class_names: Sequence[str] | None) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(issue_table(issues, class_names)), path)


def _write_zarr(issues: LabelIssues, path: Path, _names: Sequence[str] | None) -> None:
    import zarr

    group: Any = zarr.create_group(path)
    group.attrs.update(kind=_ZARR_KIND, n_rows=issues.n_rows, n_classes=issues.n_classes, num_issues=issues.num_issues)
    arrays = {
        "scores": issues.scores,
        "mask": issues.mask(),
        "issues": issues.indices,
        "confident_thresholds": issues.confident_thresholds,
        "class_counts": issues.class_counts,
    }
    for name, array in arrays.items():
        chunk = max(1, min(len(array), _ZARR_ROWS))
        stored = group.create_array(name, shape=array.shape, chunks=(chunk,), dtype=array.dtype)
        stored[:] = array


def _is_result(path: Path) -> bool:
    import zarr

    try:
        return zarr.open(path, mode="r").attrs.get("kind") == _ZARR_KIND
    except (FileNotFoundError, ValueError, KeyError):
        return False


_WRITERS: Final[dict[str, Callable[[LabelIssues, Path, Sequence[str] | None], None]]] = {
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".zarr": _write_zarr,
}
