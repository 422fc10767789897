"""Real digits, a real model, the whole job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.storage.folders import writing

SEED: Final = 0
FLIPPED_SHARE: Final = 0.1
# Small chunks, so that even this small dataset is read out of core in several pieces.
CHUNK_ROWS: Final = 300
_MARK: Final = "Made by `labelsieve demo`, which replaces these files when it runs again.\n"
NAMES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Demo:
    """A dataset with known wrong labels.

    Parameters
    ----------
    labels, pred_probs : Path
        Zarr arrays ``(N,)`` and ``(N, K)``.
    class_names : Path
        Text file of K names.
    images : Path
        ``.npy`` file of the pictures, ``(N, 8, 8)``.
    flipped : (M,) int64
        Rows whose label was flipped, ascending; in ``flipped.npy`` too.
    n_rows : int
        N.
    """

    labels: Path
    pred_probs: Path
    class_names: Path
    images: Path
    flipped: npt.NDArray[np.int64]
    n_rows: int


def make_demo(folder: Path) -> Demo:
    """Flip a tenth of the labels of scikit-learn's digits, predict them out of fold, and store both as Zarr.

    Parameters
    ----------
    folder : Path
        Made if missing; an earlier demo in it is replaced.

    Raises
    ------
    InvalidInputError
        For a folder that holds anything but an earlier demo.
    MissingDependencyError
        Without scikit-learn.
    """
    marker = folder / "about-this-demo.txt"
    is_demo = marker.is_file() and marker.read_text(encoding="utf-8") == _MARK
    if folder.exists() and any(folder.iterdir()) and not is_demo:
        raise InvalidInputError(f"{folder} is not empty and no earlier demo: name another folder")
    try:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingDependencyError("The demo", "demo") from error
    with writing(str(folder)):  # before the model is trained
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(_MARK, encoding="utf-8")
    images, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(SEED)
    flipped = np.sort(rng.choice(len(true), round(FLIPPED_SHARE * len(true)), replace=False))
    labels = true.astype(np.int64)
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, len(flipped))) % 10
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    pred_probs = cross_val_predict(model, images, labels, cv=5, method="predict_proba").astype(np.float32)
    demo = Demo(
        folder / "labels.zarr",
        folder / "pred_probs.zarr",
        folder / "class_names.txt",
        folder / "images.npy",
        flipped,
        len(labels),
    )
    _store(demo.labels, labels)
    _store(demo.pred_probs, pred_probs)
    np.save(folder / "flipped.npy", flipped)
    np.save(demo.images, images.reshape(-1, 8, 8))
    demo.class_names.write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return demo


def precision_recall(found: npt.NDArray[np.int64], wrong: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of the rows `found` that are `wrong`, and the share of those `wrong` that were found.

    Examples
    --------
    >>> import numpy as np
    >>> precision_recall(np.array([1, 2, 3, 4]), np.array([2, 9]))
    (0.25, 0.5)
    """
    hits = len(np.intersect1d(found, wrong))
    return hits / max(1, len(found)), hits / max(1, len(wrong))


def _store(path: Path, array: npt.NDArray[Any]) -> None:
    import zarr

    chunks = (CHUNK_ROWS, *array.shape[1:])
    stored: Any = zarr.create_array(path, shape=array.shape, chunks=chunks, dtype=array.dtype, overwrite=True)
    stored[:] = array
