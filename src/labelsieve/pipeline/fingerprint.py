"""What tells one input of a run from another, so that a workdir goes on with the same one only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from labelsieve.errors import InvalidInputError, LabelsieveError, WorkdirError, warn
from labelsieve.pipeline.inputs import Inputs
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import Opened, open_any
from labelsieve.sources.retries import tried
from labelsieve.sources.versions import named_ranges

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


def note_versions(inputs: Sequence[Opened], attempts: int = 1, *, allow_zero_rows: bool = False) -> None:
    """Note which version of the inputs is read, before the first read, and report chunks that are not stored.

    Parameters
    ----------
    inputs : sequence of Source or dask.array.Array
        Labels, and probabilities where these are read too.
    attempts : int
        How often each is looked at before it is an error that it cannot be.
    allow_zero_rows : bool
        Whether rows that are all zeros are good.

    Raises
    ------
    InvalidInputError
        For rows of which no probability is stored, unless they read as zeros and `allow_zero_rows`.
    """
    for opened in inputs:
        if isinstance(opened, Source):
            tried(attempts, opened.note_version)
            if opened.ndim == 1:
                _report_missing_labels(opened)
            else:
                _report_missing_probs(opened, allow_zero_rows=allow_zero_rows)
        else:
            for source in _zarr_arrays_behind(opened):
                if opened.ndim == 1:
                    _report_missing_labels(source)
                elif not (allow_zero_rows and source.fill_value == 0):
                    _warn_missing_probs(source)


def check_versions(inputs: Sequence[Opened], attempts: int = 1) -> None:
    """Raise if an input is no longer what was noted; after the last read, and before anything is published.

    Raises
    ------
    UnreadableDataError
        Naming what has changed, and how.
    """
    for opened in inputs:
        if isinstance(opened, Source):
            tried(attempts, opened.check_version)


def _report_missing_labels(labels: Source) -> None:
    missing = labels.missing_rows()
    if missing is not None and missing.n_missing:
        warn(
            f"{missing.n_missing:,} of {missing.n_chunks:,} chunks of labels are not stored in {labels.where}: "
            f"{named_ranges(missing.whole)} read as class {labels.fill_value}, the array's fill value. Zarr leaves out "
            "chunks that hold nothing else, as in labels sorted by class; if these rows have other labels, write them"
        )


def _report_missing_probs(probs: Source, *, allow_zero_rows: bool) -> None:
    missing = probs.missing_rows()
    if missing is None or not missing.n_missing:
        return
    fill, begin = probs.fill_value, f"{missing.n_missing:,} of {missing.n_chunks:,} chunks of pred_probs are not stored"
    if missing.whole and not (allow_zero_rows and fill == 0):
        accepts = " (find_label_issues(allow_zero_rows=True) accepts them)" if fill == 0 else ""
        raise InvalidInputError(
            f"{begin} in {probs.where}: nothing is stored of {named_ranges(missing.whole)}, which would read as "
            f"{fill:g}, the array's fill value{accepts}: missing chunk? Write these rows, or leave them out of the "
            "array"
        )
    if missing.partly:
        warn(
            f"{begin} in {probs.where}: some classes of {named_ranges(missing.partly)} read as {fill:g}, the array's "
            "fill value. Zarr leaves out chunks that hold nothing else; if these classes have other probabilities, "
            "write them"
        )


def _zarr_arrays_behind(array: Any) -> Iterator[Source]:
    """Yield the Zarr arrays of the same shape that a Dask array is made of: their rows are its rows.

    This serves warnings, so an array that cannot be examined is left out; reading it will tell.
    """
    if math.prod(array.numblocks) > _MOST_NODES:
        return
    for store in _stores(array):
        if type(store).__module__.partition(".")[0] != "zarr" or tuple(store.shape) != tuple(array.shape):
            continue
        with contextlib.suppress(LabelsieveError, OSError):
            source = open_any("an array of the graph", store)
            if isinstance(source, Source):
                source.note_version()
                yield source


def _warn_missing_probs(probs: Source) -> None:
    """Warn of missing chunks behind a Dask array, which may put something else in the place of their fill value."""
    missing = probs.missing_rows()
    if missing is not None and missing.n_missing:
        rows = named_ranges(missing.whole) if missing.whole else f"some classes of {named_ranges(missing.partly)}"
        warn(
            f"{missing.n_missing:,} of {missing.n_chunks:,} chunks of pred_probs are not stored in {probs.where}: "
            f"{rows} read as {probs.fill_value:g}, the array's fill value"
        )


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
