"""The description of a workdir: the input and settings of its run, and its partitions.

The file is JSON, so that people can read it. Each field has its own CRC-32, so that a message about a damaged file can
name the field; a file with a field that was changed, added or deleted is not used.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from labelsieve.errors import WorkdirError
from labelsieve.storage.folders import Folder

NAME: Final = "labelsieve.json"
FORMAT: Final = 7
_KIND: Final = "labelsieve workdir"
_CHECKSUMS: Final = "checksums"
_START_OVER: Final = "Start over with fresh=True (--fresh)"
# A longer number is read as text: no field has one, and Python cannot convert numbers of thousands of digits.
_MAX_DIGITS: Final = 20
# Characters of a value in a message.
_MAX_SHOWN: Final = 60


@dataclass(frozen=True)
class Description:
    """The input, settings and partitions of the run in a workdir.

    Parameters
    ----------
    fingerprint : dict
        Facts that later runs must have too; JSON values.
    partitions : dict
        For each place of an array, the rows at which its partitions end.
    records : list of str
        File name of the record of each partition, in row order.
    confirmed : dict
        For records whose labels have been written again since, by file name: the identity of the labels that turned out
        to have the same values.
    """

    fingerprint: Mapping[str, Any]
    partitions: Mapping[str, Sequence[int]]
    records: Sequence[str]
    confirmed: Mapping[str, str]

    def write(self, folder: Folder) -> None:
        """Write the description to `folder`."""
        fields = self.fields()
        fields[_CHECKSUMS] = {name: _checksum(value) for name, value in _leaves(fields)}
        folder.write(NAME, json.dumps(fields, indent=1).encode())

    def fields(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        fields = {
            "kind": _KIND,
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "partitions": list(self.partitions.items()),
            "records": list(self.records),
            "confirmed": list(self.confirmed.items()),
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
    for name, kind in (("fingerprint", dict), ("partitions", list), ("records", list), ("confirmed", list)):
        if not isinstance(fields.get(name), kind):
            raise _damaged(folder, f"the field {name} is {_shown(fields.get(name))}")
    for name, is_value in (("partitions", _are_stops), ("confirmed", _is_text)):
        for pair in fields[name]:
            if not (isinstance(pair, list) and len(pair) == 2 and _is_text(pair[0]) and is_value(pair[1])):
                raise _damaged(folder, f"the field {name} holds {_shown(pair)}")
    if not all(map(_is_text, fields["records"])):
        raise _damaged(folder, f"the field records holds {_shown(fields['records'])}")
    partitions, confirmed = dict(fields["partitions"]), dict(fields["confirmed"])
    return Description(fields["fingerprint"], partitions, fields["records"], confirmed)


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


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_stops(value: Any) -> bool:
    """Return whether these are rows at which partitions can end; a user's Dask array may have empty partitions."""
    if not isinstance(value, list) or not all(isinstance(row, int) and not isinstance(row, bool) for row in value):
        return False
    return all(a <= b for a, b in itertools.pairwise([0, *value]))


def _shown(value: Any) -> str:
    if value is None:
        return "missing or null"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _damaged(folder: Folder, what: str) -> WorkdirError:
    return WorkdirError(f"{folder.where}/{NAME} is damaged: {what}. {_START_OVER}")
