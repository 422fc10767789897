"""Files of other forms, which are not read from a path: the lines of Python that convert them."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from labelsieve.errors import InvalidInputError


@dataclass(frozen=True)
class _Form:
    """A form of files, and the expression that reads one.

    Parameters
    ----------
    called : str
        What a file of it is called.
    package : str
        What to import, after ``import``.
    reading : str
        The expression, with ``{path}`` for the path and ``{name}`` for the name of an array in the file.
    probs, labels : str
        What comes after it to make an array of probabilities or labels; the default is that of pandas tables.
    note : str
        What else to know, as the end of a sentence.
    larger : str
        An expression that reads a file lazily that is larger than memory.
    """

    called: str
    package: str
    reading: str
    probs: str = '.select_dtypes("float").to_numpy()'
    labels: str = '["label"].to_numpy()'
    note: str = ""
    larger: str = ""

    def array(self, name: str, path: str, array: str) -> str:
        """Return the expression that makes an array of a file."""
        return self.reading.format(path=path, name=array) + (self.labels if name == "labels" else self.probs)

    def notes(self, name: str) -> str:
        """Return what else to know of it, in brackets; "" if nothing."""
        column = 'with the name of your column for "label"' if name == "labels" and self.labels == _Form.labels else ""
        notes = ", ".join(filter(None, (self.note, column)))
        return f" ({notes})" if notes else ""


_NUMPY: Final = {"probs": "", "labels": ""}
_TORCH: Final = _Form(
    "a file of PyTorch",
    "torch",
    'torch.load({path}, map_location="cpu", weights_only=True).detach()',
    probs=".float().numpy()",
    labels=".numpy()",
)
_PICKLE: Final = _Form(
    "a pickle, which can run any code when it is opened",
    "pathlib, pickle",
    "np.asarray(pickle.loads(pathlib.Path({path}).read_bytes()))",
    **_NUMPY,
    note="if you trust it",
)
_HDF5: Final = _Form(
    "an HDF5 file",
    "h5py",
    "h5py.File({path})[{name!r}]",
    probs="[:]",
    labels="[:]",
    note="with the name of its dataset",
    larger="h5py.File({path})[{name!r}]",
)
_ARROW: Final = _Form("an Arrow file", "pandas as pd", "pd.read_feather({path})")
# By the ending of a file's name.
FORMS: Final = {
    ".parquet": _Form(
        "a Parquet file", "pandas as pd", "pd.read_parquet({path})", larger="dask.dataframe.read_parquet({path})"
    ),
    ".csv": _Form("a CSV file", "pandas as pd", "pd.read_csv({path})", larger="dask.dataframe.read_csv({path})"),
    ".tsv": _Form("a table as text", "pandas as pd", 'pd.read_csv({path}, sep="\\t")'),
    ".json": _Form("a JSON file", "pandas as pd", "pd.read_json({path})"),
    ".jsonl": _Form("a file of JSON lines", "pandas as pd", "pd.read_json({path}, lines=True)"),
    ".feather": _ARROW,
    ".arrow": _ARROW,
    ".txt": _Form("a text file", "", "np.loadtxt({path}", probs=")", labels=", dtype=int)"),
    ".npz": _Form("an .npz archive", "", "np.load({path})[{name!r}]", **_NUMPY),
    ".safetensors": _Form(
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


def refuse_other_form(name: str, place: str, shown: str) -> None:
    """Raise for a file whose name ends as that of another form does, with the lines that convert it.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    place, shown : str
        Path or URL, and how it is called in messages.

    Raises
    ------
    InvalidInputError
        Unless the name ends otherwise, or it is a ``.npy`` file by its first bytes.
    """
    suffix = PurePosixPath(shown).suffix.lower()
    if suffix not in FORMS or _is_npy(place):
        return
    form, path = FORMS[suffix], repr(shown)
    array, others = _array_in(name, place) if suffix == ".npz" else (name, "")
    stem = shown[: -len(suffix)] if Path(place).exists() else PurePosixPath(shown).stem
    # One file may hold both.
    target = repr(f"{stem}.npy" if stem.endswith(name) else f"{stem}_{name}.npy")
    text = (
        f"{name}: {shown} is {form.called}{others}, but {_READ}. Convert it once{form.notes(name)}, and give {target}: "
    )
    text += f"{_imports(form)}; np.save({target}, {form.array(name, path, array)})"
    if form.larger:
        lazy = form.larger.format(path=path, name=array)
        if suffix in (".parquet", ".csv"):
            columns = '["label"]' if name == "labels" else '.select_dtypes("float")'
            lazy = f"import dask.dataframe; {name} = {lazy}{columns}.to_dask_array(lengths=True)"
        else:
            lazy = f"import h5py; {name} = {lazy}"
        text += f" -- or, from Python and out of core, give {name}: {lazy}"
    raise InvalidInputError(text)


def conversion_of(name: str, where: str, paths: Iterable[str]) -> str:
    """Return what to do with files of another form, where there are only such; "" for any others.

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
    known = [suffix for suffix, _ in count.most_common() if suffix in FORMS]
    if not known:
        return ""
    suffix = known[0]
    form = FORMS[suffix]
    given = where if where.endswith(suffix) else f"{where}/*{suffix}"
    target = f"{given[: -len(suffix)]}_{name}.npy"
    array = form.array(name, "p", "arr_0" if suffix == ".npz" else name)
    return (
        f"it holds {count[suffix]:,} {suffix} file{'s' if count[suffix] > 1 else ''}, but {_READ}. Convert each once"
        f"{form.notes(name)}, and give {target!r}: import glob, {_imports(form).removeprefix('import ')}; "
        f"[np.save(p[: -{len(suffix)}] + '_{name}.npy', {array}) for p in glob.glob({given!r})]"
    )


def _imports(form: _Form) -> str:
    return "import numpy as np" + (f", {form.package}" if form.package else "")


def _is_npy(place: str) -> bool:
    try:
        with Path(place).open("rb") as file:
            return file.read(6) == b"\x93NUMPY"
    except OSError:
        return False


def _array_in(name: str, place: str) -> tuple[str, str]:
    """Return the array of an archive that is meant, and the names of all."""
    try:
        with zipfile.ZipFile(place) as archive:
            arrays = [entry.removesuffix(".npy") for entry in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        arrays = []
    if not arrays:
        return "arr_0", ""
    return (name if name in arrays else arrays[0]), f" of {', '.join(arrays)}"
