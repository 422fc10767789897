"""Files of formats that are not read from a path: messages with the lines of Python that convert them."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from labelsieve.errors import InvalidInputError


@dataclass(frozen=True)
class _Format:
    """A file format, and the expression that reads a file of it.

    Parameters
    ----------
    called : str
        A file of it, in words.
    package : str
        What to import, after ``import``.
    reading : str
        The expression, with ``{path}`` for the path and ``{name}`` for the name of an array in the file.
    probs, labels : str
        What makes an array of probabilities or labels of the result; the defaults are for pandas tables.
    note : str
        Advice, in brackets behind the sentence.
    larger : str
        The expression that reads a file lazily, for files larger than memory.
    """

    called: str
    package: str
    reading: str
    probs: str = '.select_dtypes("float").to_numpy()'
    labels: str = '["label"].to_numpy()'
    note: str = ""
    larger: str = ""

    def array(self, name: str, path: str, array: str) -> str:
        """Return the expression that reads an array from a file."""
        return self.reading.format(path=path, name=array) + (self.labels if name == "labels" else self.probs)

    def notes(self, name: str) -> str:
        """Return the advice in brackets; "" if there is none."""
        column = (
            'with the name of your column for "label"' if name == "labels" and self.labels == _Format.labels else ""
        )
        notes = ", ".join(filter(None, (self.note, column)))
        return f" ({notes})" if notes else ""


_NUMPY: Final = {"probs": "", "labels": ""}
_TORCH: Final = _Format(
    "a file of PyTorch",
    "torch",
    'torch.load({path}, map_location="cpu", weights_only=True).detach()',
    probs=".float().numpy()",
    labels=".numpy()",
)
_PICKLE: Final = _Format(
    "a pickle, which can run any code when it is opened",
    "pathlib, pickle",
    "np.asarray(pickle.loads(pathlib.Path({path}).read_bytes()))",
    **_NUMPY,
    note="if you trust it",
)
_HDF5: Final = _Format(
    "an HDF5 file",
    "h5py",
    "h5py.File({path})[{name!r}]",
    probs="[:]",
    labels="[:]",
    note="with the name of its dataset",
    larger="h5py.File({path})[{name!r}]",
)
_ARROW: Final = _Format("an Arrow file", "pandas as pd", "pd.read_feather({path})")
# By the suffix of the file.
FORMATS: Final = {
    ".parquet": _Format(
        "a Parquet file", "pandas as pd", "pd.read_parquet({path})", larger="dask.dataframe.read_parquet({path})"
    ),
    ".csv": _Format("a CSV file", "pandas as pd", "pd.read_csv({path})", larger="dask.dataframe.read_csv({path})"),
    ".tsv": _Format("a table as text", "pandas as pd", 'pd.read_csv({path}, sep="\\t")'),
    ".json": _Format("a JSON file", "pandas as pd", "pd.read_json({path})"),
    ".jsonl": _Format("a file of JSON lines", "pandas as pd", "pd.read_json({path}, lines=True)"),
    ".feather": _ARROW,
    ".arrow": _ARROW,
    ".txt": _Format("a text file", "", "np.loadtxt({path}", probs=")", labels=", dtype=int)"),
    ".npz": _Format("an .npz archive", "", "np.load({path})[{name!r}]", **_NUMPY),
    ".safetensors": _Format(
        "a file of safetensors",
        "safetensors.numpy",
        "safetensors.numpy.load_file({path})[{name!r}]",
        **_NUMPY,
        note="with the name of its tensor",
    ),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
}
_READ: Final = "only .npy files and Zarr arrays are read from a path"


def refuse_other_format(name: str, place: str, shown: str) -> None:
    """Raise for a file with the suffix of another format, with the lines that convert it.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    place, shown : str
        Path or URL, and the same without secrets.

    Raises
    ------
    InvalidInputError
        Unless the suffix is another one, or the file is a ``.npy`` file by its first bytes.
    """
    suffix = PurePosixPath(shown).suffix.lower()
    if suffix not in FORMATS or _is_npy(place):
        return
    kind, path = FORMATS[suffix], repr(shown)
    array, others = _array_in(name, place) if suffix == ".npz" else (name, "")
    stem = shown[: -len(suffix)] if Path(place).exists() else PurePosixPath(shown).stem
    # One file may hold both.
    target = repr(f"{stem}.npy" if stem.endswith(name) else f"{stem}_{name}.npy")
    text = f"{name}: {shown} is {kind.called}{others}, but {_READ}. Convert it once{kind.notes(name)}, and give "
    text += f"{target}: {_imports(kind)}; np.save({target}, {kind.array(name, path, array)})"
    if kind.larger:
        lazy = kind.larger.format(path=path, name=array)
        if suffix in (".parquet", ".csv"):
            columns = '["label"]' if name == "labels" else '.select_dtypes("float")'
            lazy = f"import dask.dataframe; {name} = {lazy}{columns}.to_dask_array(lengths=True)"
        else:
            lazy = f"import h5py; {name} = {lazy}"
        text += f" -- or, from Python and out of core, give {name}: {lazy}"
    raise InvalidInputError(text)


def conversion_of(name: str, where: str, paths: Iterable[str]) -> str:
    """Return the lines that convert files of another format; "" where there are none.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``.
    where : str
        Their folder, or the pattern that matches them.
    paths : iterable of str
        Their names.
    """
    count = Counter(PurePosixPath(path).suffix.lower() for path in paths)
    known = [suffix for suffix, _ in count.most_common() if suffix in FORMATS]
    if not known:
        return ""
    suffix = known[0]
    kind = FORMATS[suffix]
    given = where if where.endswith(suffix) else f"{where}/*{suffix}"
    target = f"{given[: -len(suffix)]}_{name}.npy"
    array = kind.array(name, "p", "arr_0" if suffix == ".npz" else name)
    return (
        f"it holds {count[suffix]:,} {suffix} file{'s' if count[suffix] > 1 else ''}, but {_READ}. Convert each once"
        f"{kind.notes(name)}, and give {target!r}: import glob, {_imports(kind).removeprefix('import ')}; "
        f"[np.save(p[: -{len(suffix)}] + '_{name}.npy', {array}) for p in glob.glob({given!r})]"
    )


def _imports(kind: _Format) -> str:
    return "import numpy as np" + (f", {kind.package}" if kind.package else "")


def _is_npy(place: str) -> bool:
    try:
        with Path(place).open("rb") as file:
            return file.read(6) == b"\x93NUMPY"
    except OSError:
        return False


def _array_in(name: str, place: str) -> tuple[str, str]:
    """Return the name of the array to read from an archive, and the names of all."""
    try:
        with zipfile.ZipFile(place) as archive:
            arrays = [entry.removesuffix(".npy") for entry in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        arrays = []
    if not arrays:
        return "arr_0", ""
    return (name if name in arrays else arrays[0]), f" of {', '.join(arrays)}"
