"""Label issues as tasks for Label Studio: the file that it imports, and the labelling configuration for it."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results.result import Result, frame_of
from labelsieve.results.store import check_writable, replacing
from labelsieve.review.decisions import CONTROL, EXPORT_COLUMNS, read_export
from labelsieve.review.page import ReviewRows
from labelsieve.sources.names import as_text, read_lines
from labelsieve.storage.folder import LocalFolder
from labelsieve.storage.remote import check_place

if TYPE_CHECKING:
    import pandas as pd

# Rows whose tasks are made at a time.
_BLOCK_ROWS: Final = 1 << 12
# What XML 1.0 cannot hold.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def label_studio_config(class_names: Sequence[str], *, images: bool = False, texts: bool = True) -> str:
    """Return the labelling configuration of a Label Studio project: a picture or a text, and a choice of one class.

    Parameters
    ----------
    class_names : sequence of str
        All classes, in order.
    images : bool
        Whether tasks have the URL of a picture, as ``image``.
    texts : bool
        Whether tasks have a text, as ``text``.

    Returns
    -------
    str
        XML, for *Settings, Labeling Interface, Code*, or ``label_config`` of a project in Label Studio's API.

    Raises
    ------
    InvalidInputError
        For names that are empty, occur twice or hold control characters: a choice cannot stand for them.

    Examples
    --------
    >>> from labelsieve.review.label_studio import label_studio_config
    >>> print(label_studio_config(["cat", "dog"], images=True, texts=False))
    <View>
      <Header value="Given label: $given_choice"/>
      <Image name="image" value="$image"/>
      <Choices name="label" toName="image" choice="single-radio" showInline="true">
        <Choice value="cat"/>
        <Choice value="dog"/>
      </Choices>
    </View>
    """
    if not images and not texts:
        raise InvalidInputError("a task needs something to look at: images or texts")
    _check_choices(class_names)
    kinds = [kind for kind, is_there in (("image", images), ("text", texts)) if is_there]
    control = f'name="{CONTROL}" toName="{kinds[0]}" choice="single-radio" showInline="true"'
    return "\n".join(
        [
            "<View>",
            '  <Header value="Given label: $given_choice"/>',
            *(f'  <{kind.title()} name="{kind}" value="${kind}"/>' for kind in kinds),
            f"  <Choices {control}>",
            *(f"    <Choice {_choice(name)}/>" for name in class_names),
            "  </Choices>",
            "</View>",
        ]
    )


def _choice(name: str) -> str:
    """Return the attributes of a choice. In a value, ``$name`` would stand for data of the task: an alias does not."""
    if "$" in name:
        shown = name.replace("$", "\N{FULLWIDTH DOLLAR SIGN}")
        return f"value={_quoted(shown)} alias={_quoted(name)}"
    return f"value={_quoted(name)}"


def _quoted(text: str) -> str:
    """Return the value of an attribute of XML, in which a parser would take a line break for a blank."""
    # `xml.sax.saxutils.quoteattr` takes long to import: it brings HTTP and TLS along.
    escaped = html.escape(text)
    for letter in "\n\r\t":
        escaped = escaped.replace(letter, f"&#{ord(letter)};")
    return f'"{escaped}"'


def _check_choices(class_names: Sequence[str]) -> None:
    """Raise unless each class can be a choice of its own.

    Raises
    ------
    InvalidInputError
        For names that are empty, occur twice or hold control characters.
    """
    known = dict[str, int]()
    for k, name in enumerate(class_names):
        if not name.strip():
            raise InvalidInputError(f"class {k:,} has an empty name, which cannot be a choice in Label Studio")
        if _NOT_XML.search(name):
            raise InvalidInputError(f"class {k:,} has the name {name!r}, whose control characters XML cannot hold")
        if known.setdefault(name.strip(), k) != k:
            raise InvalidInputError(
                f"classes {known[name.strip()]:,} and {k:,} are both named {name.strip()!r}: choices in Label Studio "
                "must differ"
            )


def write_label_studio(
    result: Result,
    path: str | os.PathLike[str],
    *,
    images: Any = None,
    **choices: Any,
) -> str:
    """Write tasks for Label Studio, and return the labelling configuration: see `LabelIssues.to_label_studio`."""
    place = Path(check_place("path", path))
    if place.suffix != ".json":
        raise InvalidInputError(f"tasks for Label Studio are JSON, so {place} must end in .json")
    rows = ReviewRows(result, **choices)
    config = label_studio_config(rows.names, images=images is not None, texts=rows.has_texts or images is None)
    urls = None if images is None else RowPlaces(images, rows)
    check_writable(place)
    fingerprint = result.fingerprint
    with replacing(LocalFolder(place)) as made, made.open("w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(rows), _BLOCK_ROWS):
            for number, line in enumerate(rows.part(start, start + _BLOCK_ROWS), start):
                task = _task(number, line, rows, urls, fingerprint)
                file.write((",\n" if number else "\n") + json.dumps(task, ensure_ascii=False))
        file.write("\n]\n")
    return config


def _task(
    number: int, line: dict[str, Any], rows: ReviewRows, urls: RowPlaces | None, fingerprint: str
) -> dict[str, Any]:
    """Return a task: its data, and the suggestion as a prediction."""
    names, values = rows.names, rows.values
    given, suggested = line["given"], line["suggested"]
    data = {"row": line["row"]}
    if "id" in line:
        data["row_id"] = line["id"]
    if urls is not None:
        data["image"] = urls.of(number, line)
    if "text" in line or urls is None:
        data["text"] = line.get("text", line.get("id", f"row {line['row']}"))
    data |= {"given_label": values[given], "given_choice": names[given]}
    if suggested is not None:
        data |= {"suggested_label": values[suggested], "suggested_choice": names[suggested]}
    data |= {name: line[name] for name in ("p_given", "p_suggested", "score") if name in line}
    if "place" in line:
        data["place"] = line["place"]
    data["result"] = fingerprint
    task: dict[str, Any] = {"data": data}
    if suggested is not None:
        choice = {
            "from_name": CONTROL,
            "to_name": "image" if urls is not None else "text",
            "type": "choices",
            "value": {"choices": [names[suggested]]},
        }
        scored = {"score": line["p_suggested"]} if "p_suggested" in line else {}
        task["predictions"] = [{"model_version": f"labelsieve-{fingerprint}", **scored, "result": [choice]}]
    return task


class RowPlaces:
    """The URLs or paths of the pictures of rows, as text: they are passed on, and not read.

    Parameters
    ----------
    places : sequence of str, path, or str
        A place for each row (or image, sentence or example) of the result; a text file with one on each line; or a
        pattern with ``{row}`` or ``{id}``.
    rows : ReviewRows
        The rows.

    Raises
    ------
    InvalidInputError
        For another number of places, a file that cannot be read, or a text that is neither.
    InputTypeError
        For anything but text.
    """

    def __init__(self, places: Any, rows: ReviewRows) -> None:
        self._pattern, self._places, self._things = "", places, rows.things
        if isinstance(places, str) and ("{row}" in places or "{id}" in places):
            self._pattern = places
            return
        if isinstance(places, str | os.PathLike):
            path = Path(check_place("images", places))
            try:
                self._places = read_lines(path)
            except (OSError, ValueError) as error:
                raise InvalidInputError(
                    f"images: {path} is not a readable list of URLs ({error}), nor a pattern with {{row}} or {{id}}"
                ) from error
        elif not hasattr(places, "__len__"):
            raise InputTypeError("images must be URLs or paths of all rows, a text file of them, or a pattern")
        if len(self._places) != rows.n_things:
            raise InvalidInputError(f"images: there are {len(self._places):,}, and there must be {rows.n_things:,}")
        self._places = getattr(self._places, "iloc", self._places)  # pandas would look rows up by its own index

    def of(self, number: int, line: dict[str, Any]) -> str:
        """Return the place for the row with a number among the rows, of which `line` is shown.

        Raises
        ------
        InvalidInputError
            For ``{id}`` without ids.
        InputTypeError
            For a picture that is not a place.
        """
        if self._pattern:
            if "{id}" in self._pattern and "id" not in line:
                raise InvalidInputError(f"images: {self._pattern!r} names ids, and the result has none")
            return self._pattern.replace("{row}", str(line["row"])).replace("{id}", line.get("id", ""))
        place = self._places[int(self._things[number])]
        if not isinstance(place, str | os.PathLike):
            raise InputTypeError(
                f"images must be URLs or paths, which are passed on: row {line['row']:,} has a {type(place).__name__}"
            )
        return as_text(os.fspath(place))


__all__ = ["label_studio_config", "read_label_studio"]


def read_label_studio(path: str | os.PathLike[str], class_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the decisions in an export of Label Studio.

    Parameters
    ----------
    path : path
        A project's export as JSON or JSON-MIN, of tasks that `LabelIssues.to_label_studio` wrote.
    class_names : sequence of str, optional
        All classes. Needed only if labels are numbers, classes have names, and a reviewer chose a class that no task
        has as the given or the suggested one.

    Returns
    -------
    pandas.DataFrame
        A row for each annotation: ``row``, ``id``, ``given_label``, ``decision``, ``label``, ``reviewer``, ``time`` and
        ``result``, as in `docs/from_found_to_fixed.md`.

    Raises
    ------
    InvalidInputError
        For a file that is missing, cut off or not such an export, tasks that Labelsieve did not write, and choices that
        are not classes.
    MissingDependencyError
        Without pandas.

    Examples
    --------
    A task that was annotated with its suggestion, and one that was skipped:

    >>> import json, pathlib, tempfile
    >>> import labelsieve
    >>> found = labelsieve.find_label_issues([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2]])
    >>> path = pathlib.Path(tempfile.mkdtemp(), "tasks.json")
    >>> _ = found.to_label_studio(path)
    >>> first, second = json.loads(path.read_text())
    >>> first["annotations"] = [{"completed_by": 7, "result": first["predictions"][0]["result"]}]
    >>> second["annotations"] = [{"completed_by": 7, "was_cancelled": True, "result": []}]
    >>> _ = path.write_text(json.dumps([first, second]))
    >>> labelsieve.read_label_studio(path)[["row", "given_label", "decision", "label"]].values.tolist()
    [[2, 0, 'accept', 1], [3, 1, 'unsure', '']]
    """
    found = [one for _, one in read_export(Path(check_place("decisions", path)), class_names)]
    columns = {name: np.empty(len(found), np.int64 if name == "row" else object) for name in EXPORT_COLUMNS}
    for place, column in enumerate(columns.values()):
        column[:] = [one[place] for one in found]
    return frame_of(columns)
