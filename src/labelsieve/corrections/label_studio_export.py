"""Decisions from an export of Label Studio: JSON, or JSON-MIN, of tasks that Labelsieve wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from labelsieve.errors import InvalidInputError
from labelsieve.sources.text_cells import as_text

# Name of the choices in the labelling configuration, and so of what a reviewer chose.
CONTROL: Final = "label"
_MOST_ROWS: Final = 1 << 63
# What the data of each task must have.
_NEEDED: Final = ("row", "given_label", "given_choice", "result")
# What a record of JSON-MIN may have: the data of tasks, what was chosen, and what Label Studio adds.
_RECORD: Final = {
    *("row", "row_id", "image", "text", "place", "given_label", "given_choice", "suggested_label", "suggested_choice"),
    *("p_given", "p_suggested", "score", "result", CONTROL, "id", "annotator", "annotation_id", "created_at"),
    *("updated_at", "lead_time", "agreement"),
}


class Reviewed(NamedTuple):
    """What one reviewer decided about a task: the columns of a table of decisions.

    Parameters
    ----------
    row : int
        The row.
    id : str
        The user's name of the row, or "".
    given_label : int or str
        The given label as it is stored.
    decision : str
        ``accept``, ``keep``, ``other`` or ``unsure``.
    label : int or str
        The resulting label for ``accept`` and ``other``; "" otherwise.
    reviewer, time, result : str
        Who decided, when, and the fingerprint of the result.
    """

    row: int
    id: str
    given_label: int | str
    decision: str
    label: int | str
    reviewer: str
    time: str
    result: str


def read_export(
    path: Path, class_names: Sequence[str] | None = None, *, needs_labels: bool = True
) -> list[tuple[int, Reviewed]]:
    """Return the decisions in an export of Label Studio, each with the number of its task, from 1.

    Parameters
    ----------
    path : Path
        A file of JSON.
    class_names : sequence of str, optional
        All classes; needed only if labels are numbers, classes have names, and a class was chosen that is neither given
        nor suggested in any task.
    needs_labels : bool
        Whether the resulting label of ``other`` must be known; otherwise it is "" where the tasks do not tell it.

    Raises
    ------
    InvalidInputError
        For a file that is missing, cut off or not such an export, tasks that Labelsieve did not write, and choices that
        are not classes.
    """
    tasks = _read_list(path)
    data = [_data_of(task, number, path) for number, task in enumerate(tasks, 1)]
    labels = _Labels(data, class_names, path, needs_labels=needs_labels)
    found = list[tuple[int, Reviewed]]()
    for number, (task, own) in enumerate(zip(tasks, data, strict=True), 1):
        for choices, reviewer, time in _answers(task, number, path):
            word, label = labels.decided(own, choices, f"task {number:,} of {path}")
            row_id, result = (as_text(str(own.get(name) or "")) for name in ("row_id", "result"))
            found.append(
                (number, Reviewed(own["row"], row_id, own["given_label"], word, label, reviewer, time, result))
            )
    return found


def _read_list(path: Path) -> list[Any]:
    """Return the tasks of a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InvalidInputError(f"decisions: there is no file {path}") from None
    except OSError as error:
        raise InvalidInputError(f"decisions: {path} is not readable: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInputError(f"decisions: {path} is not JSON ({error}): is it cut off?") from error
    except RecursionError:
        raise InvalidInputError(f"decisions: {path} is not an export of Label Studio: it is nested too deep") from None
    if not isinstance(found, list):
        raise InvalidInputError(
            f"decisions: {path} is not an export of Label Studio in JSON or JSON-MIN, which is a list of tasks"
        )
    return found


def _data_of(task: Any, number: int, path: Path) -> dict[str, Any]:
    """Return the data of a task, after checking what this module reads of it."""
    data = task.get("data", task) if isinstance(task, dict) else None
    missing = [name for name in _NEEDED if name not in data] if isinstance(data, dict) else list(_NEEDED)
    if not isinstance(data, dict) or missing:
        raise InvalidInputError(
            f"decisions: task {number:,} of {path} has no {', '.join(missing)}: only exports of tasks that "
            "LabelIssues.to_label_studio wrote can be read"
        )
    row, given = data["row"], data["given_label"]
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < _MOST_ROWS:
        raise InvalidInputError(f"decisions: task {number:,} of {path}: {row!r} is not a row")
    for name, value in (("given_label", given), ("suggested_label", data.get("suggested_label", 0))):
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidInputError(f"decisions: task {number:,} of {path}: {name} is {value!r}, which is not a label")
    return data


def _answers(task: dict[str, Any], number: int, path: Path) -> Iterator[tuple[list[str], str, str]]:
    """Yield of each annotation the choices (none for a skipped one), the reviewer and the time; drafts are left out."""
    where = f"task {number:,} of {path}"
    if "data" not in task:  # JSON-MIN: a record for each annotation, or one for a task without any
        other = sorted(set(task) - _RECORD)
        if other and task.get(CONTROL) is None:  # perhaps what was chosen, under another name
            raise InvalidInputError(
                f"decisions: {where} has no choice named {CONTROL!r}, but {', '.join(other)}: use the configuration "
                "that LabelIssues.to_label_studio returned, or export the project as JSON"
            )
        if task.get("annotation_id") is not None or CONTROL in task:
            yield _as_choices(task.get(CONTROL), where), _name(task.get("annotator")), _time(task)
        return
    annotations = task.get("annotations", task.get("completions"))  # the name in early versions
    if annotations is None:
        raise InvalidInputError(f"decisions: {where} has no annotations: export the project as JSON or JSON-MIN")
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise InvalidInputError(f"decisions: {where}: annotations are not a list of objects")
    for one in annotations:
        is_skipped = one.get("was_cancelled") or one.get("skipped")
        regions = [] if is_skipped else one.get("result") or []
        if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
            raise InvalidInputError(f"decisions: {where}: the result of an annotation is not a list of objects")
        chosen = [region for region in regions if region.get("type") == "choices"]
        named = [region for region in regions if region.get("from_name") == CONTROL]
        choices = list[str]()
        for region in named or chosen:
            value = region.get("value")
            if region.get("type") != "choices" or not isinstance(value, dict):
                raise InvalidInputError(f"decisions: {where}: {value!r} of {CONTROL!r} are not choices")
            choices += _as_choices(value.get("choices"), where)
        yield choices, _name(one.get("completed_by")), _time(one)


def _as_choices(value: Any, where: str) -> list[str]:
    """Return choices as a list: of one choice JSON-MIN has the text alone, and of several an object."""
    if value is None:
        return []
    found = value.get("choices") if isinstance(value, dict) else value
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict):
        found = found[0].get("choices")
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidInputError(f"decisions: {where}: {value!r} are not choices")
    return [as_text(one) for one in found]


def _name(reviewer: Any) -> str:
    """Return the email or the number of a reviewer."""
    if isinstance(reviewer, dict):
        reviewer = reviewer.get("email") or reviewer.get("id")
    return "" if reviewer is None else as_text(str(reviewer))


def _time(annotation: dict[str, Any]) -> str:
    return as_text(str(annotation.get("updated_at") or annotation.get("created_at") or ""))


class _Labels:
    """The labels that choices stand for.

    Parameters
    ----------
    data : list of dict
        The data of all tasks.
    class_names : sequence of str or None
        All classes.
    path : Path
        The file, for messages.
    needs_labels : bool
        Whether a choice must stand for a known label.
    """

    def __init__(
        self, data: list[dict[str, Any]], class_names: Sequence[str] | None, path: Path, *, needs_labels: bool
    ) -> None:
        self._needs_labels = needs_labels
        self._known = dict[str, int | str]()
        for number, own in enumerate(data, 1):
            for of in ("given", "suggested"):
                if f"{of}_choice" in own and f"{of}_label" in own:
                    choice, label = own[f"{of}_choice"], own[f"{of}_label"]
                    choice = choice.strip() if isinstance(choice, str) else choice
                    if not isinstance(choice, str) or self._known.setdefault(choice, label) != label:
                        raise InvalidInputError(
                            f"decisions: task {number:,} of {path}: the choice {choice!r} stands for {label!r} here "
                            f"and for {self._known.get(choice)!r} elsewhere: are these tasks of several results?"
                        )
        self._are_numbers = all(isinstance(label, int) for label in self._known.values())
        # Without names of their own, or where labels are names, a choice is its label.
        self._are_labels = all(str(label).strip() == choice for choice, label in self._known.items())
        self._names = None if class_names is None else {name.strip(): k for k, name in enumerate(class_names)}
        self._class_names = list(class_names or ())
        if self._names is not None and self._are_numbers and not self._are_labels:
            for choice, label in self._known.items():
                if self._names.get(choice, label) != label:
                    raise InvalidInputError(
                        f"decisions: {path}: the choice {choice!r} stands for {label}, and class_names has it as class "
                        f"{self._names[choice]:,}: are these names of another dataset, or in another order?"
                    )

    def decided(self, own: dict[str, Any], choices: list[str], where: str) -> tuple[str, int | str]:
        """Return the decision and the resulting label."""
        if not choices:
            return "unsure", ""
        if len(choices) > 1:
            raise InvalidInputError(f"decisions: {where} has {len(choices):,} choices, and a row has one label")
        choice = choices[0].strip()  # as Label Studio shows it
        if choice == own["given_choice"].strip():
            return "keep", ""
        if "suggested_label" in own and choice == str(own.get("suggested_choice", "")).strip():
            return "accept", own["suggested_label"]
        return "other", self._label_of(choice, where)

    def _label_of(self, choice: str, where: str) -> int | str:
        if choice in self._known:
            return self._known[choice]
        if self._are_numbers:
            if self._names is not None and choice in self._names:
                return self._names[choice]
            if self._are_labels and choice.isascii() and choice.isdecimal():
                return int(choice)
        elif self._are_labels and (self._names is None or choice in self._names):
            # Label Studio shows a name without blanks around it.
            return choice if self._names is None else self._class_names[self._names[choice]]
        if not self._needs_labels:
            return ""
        advice = "" if self._names is not None else ": if it is a class, give class_names"
        raise InvalidInputError(f"decisions: {where}: the choice {choice!r} is not a class{advice}")
