"""What tells one input of a run from another, so that a workdir goes on with the same one only.

Covers: `fingerprint`, and `part_identities`, which change where a part of a stored input is written anew.
Does not cover: what identifies a single source (`sources`), what is done with it (`workdir`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from labelsieve.engine.inputs import Inputs
from labelsieve.errors import WorkdirError
from labelsieve.sources import Opened, Source, open_any

# Nodes of a Dask graph that are looked at for a store: a graph names what it reads near its leaves.
_MOST_NODES: Final = 1_000_000
# A name that Dask made ends in a token; one that a user gave says nothing of the data.
_TOKEN: Final = re.compile(r"[0-9a-f]{32}$")


def fingerprint(pair: tuple[Opened, Opened], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a run is made from, as JSON takes it.

    Parameters
    ----------
    pair : tuple
        Labels and probabilities, opened.
    settings : mapping
        All that changes a result.
    where : str
        The workdir, for messages.

    Raises
    ------
    WorkdirError
        For an input that cannot be told from another.
    """
    labels, pred_probs = map(identity, pair)
    for name, facts in (("labels", labels), ("pred_probs", pred_probs)):
        if facts["content"] is None:
            raise WorkdirError(
                f"{name} ({facts['where']}) cannot be told from other data, so the workdir {where} could not tell "
                "whether to go on: give a path or URL"
            )
    return {"labels": labels, "pred_probs": pred_probs, "settings": dict(settings)}


def identity(opened: Opened) -> dict[str, Any]:
    """Return the facts that tell an input from another.

    A Dask array is named by a token of what it is made from, where that is deterministic; of an array in a store that
    is the place, so what is stored there is looked at too.
    """
    if isinstance(opened, Source):
        return opened.identity()
    stores = list(_stores(opened))
    states = None if None in stores else [_state(store) for store in stores]
    named = _TOKEN.search(opened.name) is not None and states is not None
    return {
        "kind": "dask",
        "where": "a Dask array",
        "shape": list(opened.shape),
        "dtype": opened.dtype.str,
        "chunks": _digest(repr(opened.chunks)),
        "content": opened.name if named else None,
        "stores": _digest(json.dumps(states)),
    }


def part_identities(pair: tuple[Opened, Opened], inputs: Inputs) -> list[str]:
    """Return for each partition what changes when its part of the stored inputs is written anew."""
    bounds = [inputs.grid.bounds(index) for index in range(inputs.grid.n_partitions)]
    both = [one.part_identities(bounds) if isinstance(one, Source) else [""] * len(bounds) for one in pair]
    return [f"{labels}/{probs}" for labels, probs in zip(*both, strict=True)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(store: Any) -> Any:
    """Return what changes when a stored array is written anew."""
    source = open_any("an array of the graph", store)
    return [source.identity(), source.part_identities([(0, source.n_rows)])] if isinstance(source, Source) else None


def _stores(array: Any) -> Iterator[Any]:
    """Yield the stored arrays that a Dask array's graph holds, each once; None where it is too large for that."""
    seen: set[int] = set()
    for number, node in enumerate(dict(array.dask).values()):
        if number > _MOST_NODES:
            yield None
            return
        for value in (node, getattr(node, "value", None), *getattr(node, "args", ())):
            package = type(value).__module__.partition(".")[0]
            stored = package in ("zarr", "h5py") or type(value).__name__ == "memmap"
            if stored and hasattr(value, "shape") and id(value) not in seen:
                seen.add(id(value))
                yield value
