"""The log beside corrected labels: what was changed, by whom."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.corrections.decisions import WORDS, Decisions
from labelsieve.corrections.label_arrays import Values
from labelsieve.sources.label_names import is_missing
from labelsieve.sources.text_cells import as_text

# Lines that are made at a time.
_BLOCK_LINES: Final = 1 << 16


def earlier_logs(log: Path) -> list[Any]:
    """Return the logs of earlier corrections of the same labels, the oldest first."""
    try:
        found = json.loads(log.read_text(encoding="utf-8"))
        return [*found.pop("earlier", []), found]
    except (OSError, ValueError, AttributeError):
        return []


def change_lines(rows: Int64s, before: Values, after: Values, read: Decisions, decided: Values) -> Iterator[str]:
    """Yield a line of the log for each changed row, as JSON.

    Parameters
    ----------
    rows : (n,) int64
        The changed rows.
    before, after : (n,) array
        Their labels.
    read : Decisions
        All decisions.
    decided : (n,) int
        Positions of the decisions that changed the rows; -1 for rows that were accepted without review.
    """
    quoted = json.JSONEncoder(ensure_ascii=False).encode
    encoded, said = _Encoded(), (*WORDS, "auto")
    people, times, names = ([*column.values, ""] for column in (read.reviewer, read.time, read.id))  # "" of nobody
    people = list(map(quoted, people))
    who, when, own = (np.append(column.codes, -1) for column in (read.reviewer, read.time, read.id))
    words = np.append(read.words, -1)
    for start in range(0, len(decided), _BLOCK_LINES):
        part = slice(start, start + _BLOCK_LINES)
        by = decided[part]
        columns = (rows[part], before[part], after[part])
        coded = (words[by], who[by], when[by], own[by])
        for row, old, new, word, person, time, name in zip(*(one.tolist() for one in columns + coded), strict=True):
            named = f', "id": {quoted(names[name])}' if names[name] else ""
            yield (
                f'{{"row": {row}, "before": {encoded[old]}, "after": {encoded[new]}, "decision": "{said[word]}", '
                f'"reviewer": {people[person]}, "time": {quoted(times[time])}{named}}}'
            )


def write_log(path: Path, head: dict[str, Any], lines: Iterable[str]) -> None:
    """Write a log, of which the lines are never all in memory.

    Parameters
    ----------
    path : Path
        The file.
    head : dict
        All keys but ``changes``.
    lines : iterable of str
        Lines of `change_lines`.
    """
    with path.open("w", encoding="utf-8") as text:
        text.write(json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}") + ',\n "changes": [')
        for number, line in enumerate(lines):
            text.write(",\n  " + line if number else "\n  " + line)
        text.write("\n ]\n}\n")


class _Encoded(dict[Any, str]):
    """Labels as JSON."""

    def __missing__(self, label: Any) -> str:
        self[label] = text = json.dumps(plain_label(label), ensure_ascii=False)
        return text


def plain_label(label: Any) -> Any:
    """Return a label as JSON takes it; null for a missing one."""
    if is_missing(label):
        return None
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return as_text(label) if isinstance(label, str) else label
