"""Label issues as frames for other tools: cleanlab, FiftyOne and Argilla."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelsieve.confident_learning.class_quality import Columns
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.frames import frame_of
from labelsieve.results.label_studio import RowPlaces
from labelsieve.results.result import TABLE_ROWS, Result
from labelsieve.results.review.rows import LabelScheme, ReviewRows
from labelsieve.sources.label_names import is_missing

if TYPE_CHECKING:
    import pandas as pd

# Of a Datalab, what is used of it.
_DATALAB = ("labels", "class_names", "issues", "issue_summary", "info")


def cleanlab_frame(result: Result, datalab: Any = None) -> pd.DataFrame:
    """Return all rows as a frame for cleanlab: see `LabelIssues.to_cleanlab`."""
    mask, quality = result.mask(), np.asarray(result.score_parts.to_numpy(), np.float64)
    suggested = np.full(result.n_rows, -1, np.int64)
    for start in range(0, result.num_issues, TABLE_ROWS):
        part = result.found.part(start, start + TABLE_ROWS)
        suggested[part.rows] = part.suggested_labels
    frame = frame_of({"is_label_issue": mask, "label_quality": quality, "label_score": quality})
    frame["predicted_label"] = frame_of({"k": suggested})["k"].astype("Int64").mask(suggested < 0)
    if datalab is not None:
        _put_into(datalab, result, frame, suggested)
    return frame


def _put_into(datalab: Any, result: Result, frame: pd.DataFrame, suggested: Any) -> None:
    """Make the issues those of the kind ``label`` of a Datalab."""
    import pandas as pd

    if not all(hasattr(datalab, name) for name in _DATALAB):
        raise InputTypeError(f"datalab must be a cleanlab.Datalab, not {type(datalab).__name__}")
    own = np.asarray(datalab.labels)
    if own.shape != (result.n_rows,):
        raise InvalidInputError(f"the Datalab has {len(own):,} labels, the result {result.n_rows:,} rows")
    class_of = _classes_of(datalab.class_names, result)
    given = class_of[own]
    for start in range(0, result.num_issues, TABLE_ROWS):
        part = result.found.part(start, start + TABLE_ROWS)
        other = part.rows[given[part.rows] != part.given_labels]
        if len(other):
            row = int(other.min())
            raise InvalidInputError(f"the Datalab has another label than the result in row {row:,}: other data?").at(
                [(row, row + 1)]
            )
    # A Datalab numbers the labels that occur; a class that does not occur has no number there.
    number_of = np.full(result.n_classes, -1, np.int64)
    number_of[class_of] = np.arange(len(class_of))
    predicted = np.where(suggested < 0, -1, number_of[suggested])
    predicted = np.where(predicted < 0, own, predicted)
    columns = frame[["is_label_issue", "label_score"]]
    others = [name for name in datalab.issues.columns if name not in columns]
    datalab.issues = datalab.issues[others].join(columns)
    line = pd.DataFrame(
        {"issue_type": ["label"], "score": [1 - result.estimated_num_issues / result.n_labelled]}
    ).assign(num_issues=result.num_issues)
    kept = datalab.issue_summary[datalab.issue_summary["issue_type"] != "label"]
    datalab.issue_summary = pd.concat([kept, line], ignore_index=True) if len(kept) else line
    datalab.info["label"] = {
        "num_label_issues": result.num_issues,
        "average_label_quality": float(frame["label_score"].mean()),
        "given_label": own.tolist(),
        "predicted_label": predicted.tolist(),
        "confident_thresholds": result.confident_thresholds.tolist(),
    }


def _classes_of(names: Any, result: Result) -> Any:
    """Return the class of the result for each label of a Datalab."""
    values = ["" if is_missing(name) else name for name in names]
    are_flags = all(isinstance(name, bool | np.bool_) for name in values)
    are_numbers = all(isinstance(name, int | np.integer) for name in values)
    scheme = LabelScheme.of(result, "booleans" if are_flags else "numbers" if are_numbers else "names")
    return scheme.classes_of(values, np.arange(len(values)))


def fiftyone_frame(result: Result, images: Any, top: int | None) -> pd.DataFrame:
    """Return the issues as a frame for FiftyOne: see `LabelIssues.to_fiftyone`."""
    rows = ReviewRows(result, top=top)
    places = None if images is None else RowPlaces(images, rows)
    names = {
        "ground_truth": "given",
        "suggestion": "suggested",
        "confidence": "p_suggested",
        "p_given": "p_given",
        "label_quality": "score",
    }
    return frame_of(_columns_of(rows, places, "filepath", None, names))


def argilla_frame(result: Result, texts: Any, images: Any, top: int | None) -> pd.DataFrame:
    """Return the issues as a frame for Argilla: see `LabelIssues.to_argilla`."""
    rows = ReviewRows(result, top=top, texts=texts)
    places = None if images is None else RowPlaces(images, rows)
    names = {
        "label": "suggested",
        "confidence": "p_suggested",
        "given_label": "given",
        "p_given": "p_given",
        "label_quality": "score",
    }
    return frame_of(_columns_of(rows, places, "image", "text" if texts is not None else None, names))


def _columns_of(
    rows: ReviewRows, places: RowPlaces | None, place_name: str, text_name: str | None, names: dict[str, str]
) -> Columns:
    """Return the columns of all rows: id, row, place, text, and those of `names`, with classes as text."""
    lines = rows.part(0, len(rows))
    columns: dict[str, list[Any]] = {"id": [line.get("id", str(line["row"])) for line in lines]}
    columns["row"] = [line["row"] for line in lines]
    if places is not None:
        columns[place_name] = [places.of(number, line) for number, line in enumerate(lines)]
    if text_name is not None:
        columns[text_name] = [line["text"] for line in lines]
    for name, of in names.items():
        values = [line[of] for line in lines]
        columns[name] = [rows.scheme.names[k] for k in values] if of in ("given", "suggested") else values
    found: Columns = {}
    for name, values in columns.items():
        is_text = name in ("id", place_name, text_name) or names.get(name) in ("given", "suggested")
        found[name] = np.empty(len(lines), object if is_text else np.int64 if name == "row" else np.float64)
        found[name][:] = values
    return found
