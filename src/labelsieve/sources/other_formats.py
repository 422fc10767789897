"""Formats that are not read from a path: which suffixes they have, and the lines of Python that convert them."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from labelsieve.errors import InvalidInputError


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
