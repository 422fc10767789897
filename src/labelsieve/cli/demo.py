"""The command `demo`: a whole job with real digits and a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt

from labelsieve.cli.options import EXIT_CODES, FilePath, option
from labelsieve.cli.text import summary_text, worst_text
from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.find import find_label_issues
from labelsieve.results.report import check_report
from labelsieve.results.result import read_class_names
from labelsieve.storage.folder import writing

SEED: Final = 0
FLIPPED_SHARE: Final = 0.1
# Small enough that even this dataset is read in several chunks.
CHUNK_ROWS: Final = 300
# Labels, probabilities, names of the classes, and pictures.
FILES: Final = ("labels.zarr", "pred_probs.zarr", "class_names.txt", "images.npy")
_MARK: Final = "Made by `labelsieve demo`, which replaces these files when it runs again.\n"
NAMES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@click.command(epilog=EXIT_CODES)
@option("--folder", type=FilePath(file_okay=False), default=Path("labelsieve-demo"), help="Folder for the files.")
@option("--report", type=FilePath(), help="Write a report with the pictures: report.html.")
def demo(folder: Path, report: Path | None) -> None:
    """Flip a tenth of the labels of 1,797 handwritten digits, and find them again out of core.

    Example: labelsieve demo
    """
    if report is not None:
        check_report(report)
    click.echo("training a model on scikit-learn's digits, out of fold ...")
    flipped, n_rows = make_demo(folder)
    click.echo(f"{len(flipped)} of {n_rows:,} labels flipped ({FLIPPED_SHARE:.0%}), stored as Zarr\n")
    labels, pred_probs, class_names, images = (folder / name for name in FILES)
    names = read_class_names(class_names)
    issues = find_label_issues(
        labels, pred_probs, batch_size=300, partition_batches=2, progress=False, class_names=names
    )
    click.echo(summary_text(issues))
    click.echo(worst_text(issues, 5))
    precision, recall = precision_recall(issues.indices, flipped)
    hits = round(recall * len(flipped))
    click.echo(f"{len(flipped)} labels flipped, {issues.num_issues} issues found, of which {hits} were flipped:")
    click.echo(f"precision {precision:.1%}, recall {recall:.1%}\n")
    click.echo(f"The files are in {folder}. Try:")
    saved = folder / "issues.zarr"
    click.echo(f"  labelsieve find {labels} {pred_probs} --class-names {class_names} -o {saved}")
    click.echo(f"  labelsieve review {saved} -o review.html --images {images} --pred-probs {pred_probs}")
    if report is None:
        click.echo("  labelsieve demo --report report.html")
    else:
        issues.report(report, images=images, title="handwritten digits, a tenth of the labels flipped")
        click.echo(f"written to {report}")


def make_demo(folder: Path) -> tuple[npt.NDArray[np.int64], int]:
    """Flip a tenth of the labels of scikit-learn's digits, predict them out of fold, and store both as Zarr.

    Parameters
    ----------
    folder : Path
        For the `FILES`; created if missing. An earlier demo in it is replaced.

    Returns
    -------
    flipped : (M,) int64
        Rows whose label was flipped, ascending; also in ``flipped.npy``.
    n_rows : int
        Number of rows.

    Raises
    ------
    InvalidInputError
        If the folder has files that are not from an earlier demo.
    MissingDependencyError
        If scikit-learn is missing.
    """
    marker = folder / "about-this-demo.txt"
    is_demo = marker.is_file() and marker.read_text(encoding="utf-8") == _MARK
    if folder.exists() and any(folder.iterdir()) and not is_demo:
        raise InvalidInputError(f"{folder} is not empty and is not an earlier demo: name another folder")
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
    pixels, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(SEED)
    flipped = np.sort(rng.choice(len(true), round(FLIPPED_SHARE * len(true)), replace=False))
    given = true.astype(np.int64)
    given[flipped] = (given[flipped] + rng.integers(1, 10, len(flipped))) % 10
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    predicted = cross_val_predict(model, pixels, given, cv=5, method="predict_proba").astype(np.float32)
    labels, pred_probs, class_names, images = (folder / name for name in FILES)
    _store(labels, given)
    _store(pred_probs, predicted)
    class_names.write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    np.save(images, pixels.reshape(-1, 8, 8))
    np.save(folder / "flipped.npy", flipped)
    return flipped, len(true)


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
