"""Which files are shards, by their names, and in which order.

The order is natural: digits are compared as numbers, so that ``pred_probs-2`` comes before ``pred_probs-10``, and
everything else letter by letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from labelsieve.errors import InvalidInputError
from labelsieve.sources.other_formats import DATA_SUFFIXES

SHARD_SUFFIXES = (".npy", ".zarr", ".npz", ".safetensors")
_MOST_NAMED = 3


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Return a sort key for the natural order.

    Examples
    --------
    >>> sorted(["p-10.npy", "p-2.npy", "p-1.npy"], key=natural_key)
    ['p-1.npy', 'p-2.npy', 'p-10.npy']
    """
    # Text and numbers alternate, so that text is only compared with text.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards in it."""
    return any(letter in name for letter in "*?[")


def select_shards(name: str, where: str, names: Iterable[str]) -> list[str]:
    """Return the shards among the names in a folder, or among those that match a pattern, in natural order.

    Parameters
    ----------
    name : str
        ``labels`` or ``pred_probs``, for messages.
    where : str
        Folder or pattern, for messages.
    names : iterable of str
        Paths; hidden ones and those of files that hold no arrays, such as ``.txt``, are left out.

    Raises
    ------
    InvalidInputError
        If there are none, if there are shards of several formats, or if data in another format is among them.
    """
    kinds: dict[str, list[str]] = {}
    others: list[str] = []
    for path in sorted(set(names), key=natural_key):
        last = PurePosixPath(path.replace("\\", "/")).name
        suffix = PurePosixPath(last).suffix
        if not last.startswith(".") and suffix in SHARD_SUFFIXES + DATA_SUFFIXES:
            kinds.setdefault(suffix, []).append(path)
        elif not last.startswith("."):
            others.append(path)
    shards = [kind for kind in SHARD_SUFFIXES if kind in kinds]
    if not shards:
        named = [path for paths in kinds.values() for path in paths] or others
        has = f"; it has {_named(named)}" if named else ""
        raise InvalidInputError(f"{name}: {where} has no .npy, .npz or safetensors files and no .zarr arrays{has}")
    if len(kinds) > 1:
        firsts = " and ".join(_last(kinds[kind][0]) for kind in SHARD_SUFFIXES + DATA_SUFFIXES if kind in kinds)
        raise InvalidInputError(f"{name}: {where} has shards of several kinds, {firsts}: give those of one as a list")
    return kinds[shards[0]]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED:,} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(map(_last, paths[:_MOST_NAMED])) + more
