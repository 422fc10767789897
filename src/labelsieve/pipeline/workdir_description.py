"""The description of a workdir: the inputs and settings of its run, and its grid of partitions.

The file is JSON, so that people can read it. Each field has its own CRC-32, so that a message about a damaged file can
name the field; a file with a field that was changed, added or deleted is not used.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from labelsieve.errors import WorkdirError
from labelsieve.partitioning import Grid
from labelsieve.storage.folders import Folder

NAME: Final = "labelsieve.json"
FORMAT: Final = 6
_KIND: Final = "labelsieve workdir"
_CHECKSUMS: Final = "checksums"
_START_OVER: Final = "Start over with fresh=True (--fresh)"
# A longer number is read as text: no field has one, and Python cannot convert numbers of thousands of digits.
_MAX_DIGITS: Final = 20
# Characters of a value in a message.
_MAX_SHOWN: Final = 60


@dataclass(frozen=True)
class Description:
    """The inputs, settings and grid of the run in a workdir.

    Parameters
    ----------
    fingerprint : dict
        Facts that identify the input and the settings; JSON values.
    grid : Grid
        Batches and partitions.
    parts : tuple of str
        Identity of the rows of the input in each partition.
    """

    fingerprint: Mapping[str, Any]
    grid: Grid
    parts: tuple[str, ...]

    def write(self, folder: Folder) -> None:
        """Write the description to `folder`."""
        fields = self.fields()
        fields[_CHECKSUMS] = {name: _checksum(value) for name, value in _leaves(fields)}
        folder.write(NAME, json.dumps(fields, indent=1).encode())

    def fields(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        grid = self.grid
        fields = {
            "kind": _KIND,
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "grid": {"n_rows": grid.n_rows, "batches": grid.batches, "partition_batches": grid.partition_batches},
            "parts": list(self.parts),
        }
        found: dict[str, Any] = json.loads(json.dumps(fields))  # a tuple becomes a list
        return found


def read_description(folder: Folder) -> Description | None:
    """Return the description in `folder`, or None if there is none.

    Raises
    ------
    WorkdirError
        If it is damaged. The message names the file and the field, and says how to start over.
    """
    try:
        content = folder.read(NAME)
    except FileNotFoundError:
        if NAME in folder.names():
            raise _damaged(folder, "it is not a file") from None
        return None
    except IsADirectoryError:
        raise _damaged(folder, "it is a folder, not a file") from None
    except OSError as error:
        raise WorkdirError(f"{folder.where}/{NAME} cannot be read: {error}") from error
    try:
        fields = json.loads(content, parse_int=_number)
    except (ValueError, RecursionError) as error:
        reason = "its JSON is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _damaged(folder, f"it is not valid JSON ({reason})") from error
    if not isinstance(fields, dict):
        raise _damaged(folder, f"it holds {_shown(fields)} instead of named fields")
    _check_intact(folder, fields)
    return _description(folder, fields)


def _check_intact(folder: Folder, fields: dict[str, Any]) -> None:
    """Raise unless every field is the one that was written."""
    if fields.get("kind") != _KIND:
        raise _damaged(folder, f"kind is {_shown(fields.get('kind'))}, not {_KIND!r}")
    if fields.get("format") != FORMAT:
        raise WorkdirError(
            f"{folder.where}/{NAME} was written by another version of Labelsieve, or is damaged: format is "
            f"{_shown(fields.get('format'))}, and this version reads format {FORMAT}. {_START_OVER}"
        )
    written = fields.pop(_CHECKSUMS, None)
    if not isinstance(written, dict):
        raise _damaged(folder, f"the field {_CHECKSUMS} is missing or is not a table")
    now = dict(_leaves(fields))
    for name in [*written, *now]:
        if name not in now:
            raise _damaged(folder, f"the field {name} is missing, although {_CHECKSUMS} has it")
        if name not in written:
            raise _damaged(folder, f"the field {name} has no checksum")
        if written[name] != _checksum(now[name]):
            raise _damaged(folder, f"the field {name} does not match its checksum; it is {_shown(now[name])}")


def _description(folder: Folder, fields: Mapping[str, Any]) -> Description:
    """Return the description that intact fields make."""
    for name, kind in (("fingerprint", dict), ("grid", dict), ("parts", list)):
        if not isinstance(fields.get(name), kind):
            raise _damaged(folder, f"the field {name} is {_shown(fields.get(name))}")
    facts, parts = fields["grid"], fields["parts"]
    for name in ("n_rows", "partition_batches"):
        if not _is_count(facts.get(name), 1):
            raise _damaged(folder, f"the field grid.{name} is {_shown(facts.get(name))}, not a number of at least 1")
    n_rows, batches = facts["n_rows"], facts.get("batches")
    if isinstance(batches, list):
        # A user's Dask array may have empty chunks.
        fits = all(_is_count(rows, 0) for rows in batches) and sum(batches) == n_rows
    else:
        fits = _is_count(batches, 1) and batches <= n_rows
    if not fits:
        raise _damaged(folder, f"the field grid.batches is {_shown(batches)} and does not add up to n_rows")
    grid = Grid(n_rows, tuple(batches) if isinstance(batches, list) else batches, facts["partition_batches"])
    if not all(isinstance(part, str) for part in parts) or len(parts) not in (0, grid.n_partitions):
        raise _damaged(
            folder, f"the field parts does not have one text for each of the {grid.n_partitions:,} partitions"
        )
    return Description(fields["fingerprint"], grid, tuple(parts))


def _leaves(fields: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field, including fields in tables."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def _checksum(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _number(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _shown(value: Any) -> str:
    if value is None:
        return "missing or null"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _damaged(folder: Folder, what: str) -> WorkdirError:
    return WorkdirError(f"{folder.where}/{NAME} is damaged: {what}. {_START_OVER}")
