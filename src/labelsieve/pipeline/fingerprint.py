"""Fingerprints of inputs and settings, so that a workdir is resumed only with the same ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from labelsieve.errors import InvalidInputError, LabelsieveError, WorkdirError, warn
from labelsieve.partitioning import Grid
from labelsieve.sources.base import Source
from labelsieve.sources.ensemble import EnsembleSource
from labelsieve.sources.open_array import Opened, open_any, where_is
from labelsieve.sources.retries import retry
from labelsieve.sources.versions import named_ranges, row_digests
from labelsieve.tasks.checkpoint import digest

# The graphs of Dask arrays with more blocks are not searched for stored arrays.
_MOST_BLOCKS: Final = 1_000_000
# Names that Dask makes end in a token of the data; names that users give do not.
_TOKEN: Final = re.compile(r"[0-9a-f]{32}$")


def fingerprint(pred_probs: Opened, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that an input and the settings have in all runs with a workdir, as JSON values.

    Of shards, and of an array to which rows can be added, these are not the number of rows and the versions. Labels are
    compared by their values instead.

    Parameters
    ----------
    pred_probs : Source or dask.array.Array
        Opened `pred_probs`.
    settings : mapping
        Everything that changes the result.
    """
    if isinstance(pred_probs, Source) and pred_probs.listed_at is not None:
        facts: dict[str, Any] = {"where": pred_probs.listed_at, "dtype": pred_probs.dtype.str}
        if pred_probs.derivation:
            facts["derivation"] = pred_probs.derivation
    else:
        facts = identity(pred_probs)
    return {"pred_probs": facts | {"n_classes": int(pred_probs.shape[1])}, "settings": dict(settings)}


def identity(opened: Opened) -> dict[str, Any]:
    """Return the facts that identify an input.

    The name of a Dask array ends in a token of what it is made from, if that is deterministic. For an array in a store
    the token covers only the place, so the identity of the stored data is added.
    """
    if isinstance(opened, Source):
        return opened.identity()
    sources = _sources_behind(opened)
    for source in sources or ():
        source.note_version()
    named = _TOKEN.search(opened.name) is not None and sources is not None
    return {
        "kind": "dask",
        "where": "a Dask array",
        "shape": list(opened.shape),
        "dtype": opened.dtype.str,
        "chunks": _digest(repr(opened.chunks)),
        "content": opened.name if named else None,
        "stores": _digest(
            [[source.identity(), source.part_identities([(0, source.n_rows)])] for source in sources or ()]
        ),
    }


def part_identities(opened: Opened, grid: Grid) -> list[str]:
    """Return a digest for each partition of an input, which changes when its rows are rewritten; "" if not known."""
    bounds = [grid.bounds(index) for index in range(grid.n_partitions)]
    if isinstance(opened, Source):
        return opened.part_identities(bounds)
    facts = identity(opened)
    return row_digests(facts, bounds) if facts["content"] is not None else [""] * len(bounds)


def record_names(pred_probs: Opened, grid: Grid, facts: Mapping[str, Any], where: str) -> list[str]:
    """Return the name of the record of each partition: a digest of what its summaries depend on, except the labels.

    Parameters
    ----------
    pred_probs : Source or dask.array.Array
        Opened `pred_probs`.
    grid : Grid
        The partitions.
    facts : mapping
        The fingerprint of the run.
    where : str
        Place of the workdir, for messages.

    Raises
    ------
    WorkdirError
        If no known fact changes with the data.
    """
    identities = part_identities(pred_probs, grid)
    if not all(identities):
        raise WorkdirError(
            f"pred_probs ({where_is(pred_probs)}) has nothing that identifies its data, so a run in the workdir "
            f"{where} could not be resumed safely: give a path or URL"
        )
    return [digest([facts["settings"], one]) for one in identities]


def note_versions(inputs: Sequence[Opened], attempts: int = 1, *, allow_zero_rows: bool = False) -> None:
    """Note the versions of the inputs before the first read, and report chunks that are not stored.

    Parameters
    ----------
    inputs : sequence of Source or dask.array.Array
        The opened inputs.
    attempts : int
        Number of times to try each.
    allow_zero_rows : bool
        Whether rows that are all zeros are accepted.

    Raises
    ------
    InvalidInputError
        For rows without any stored probability, unless they read as zeros and `allow_zero_rows` is set.
    """
    for opened in inputs:
        if isinstance(opened, Source):
            retry(attempts, opened.note_version)
            for source in opened.members if isinstance(opened, EnsembleSource) else [opened]:
                _report_missing(source, allow_zero_rows=allow_zero_rows)
            continue
        # Rows of a stored array of the same shape are rows of the Dask array, unless its graph changes them.
        for source in _sources_behind(opened) or ():
            if source.shape == opened.shape:
                with contextlib.suppress(
                    LabelsieveError, OSError
                ):  # if it cannot be examined, reading it will fail too
                    source.note_version()
                _report_missing(source, allow_zero_rows=allow_zero_rows, lazy=True)


def check_versions(inputs: Sequence[Opened], attempts: int = 1) -> None:
    """Raise if an input has changed since its version was noted. Call it after the last read, before publishing.

    Raises
    ------
    UnreadableDataError
        The message says what has changed, and how.
    """
    for opened in inputs:
        if isinstance(opened, Source):
            retry(attempts, opened.check_version)


def _report_missing(source: Source, *, allow_zero_rows: bool, lazy: bool = False) -> None:
    """Warn about chunks that are not stored; raise if rows of `pred_probs` have no stored chunk.

    For a `lazy` Dask array it is only a warning, because its graph may replace the fill value.
    """
    missing, fill = source.missing_rows(), source.fill_value
    if missing is None or not missing.n_missing:
        return
    is_labels, accepted = source.ndim == 1, allow_zero_rows and fill == 0
    name = "labels" if is_labels else "pred_probs"
    begin = f"{missing.n_missing:,} of {missing.n_chunks:,} chunks of {name} are not stored in {source.where}:"
    whole = named_ranges(missing.whole)
    if is_labels:
        warn(
            f"{begin} {whole} read as class {fill}, the array's fill value. Zarr leaves out chunks that hold nothing "
            "else, as in labels sorted by class; if these rows have other labels, write them"
        )
        return
    if missing.whole and not accepted and not missing.accepted and not lazy:
        accepts = " (find_label_issues(allow_zero_rows=True) accepts them)" if fill == 0 else ""
        raise InvalidInputError(
            f"{begin} nothing is stored of {whole}, which would read as {fill:g}, the array's fill value{accepts}: "
            "missing chunk? Write these rows, or leave them out of the array"
        )
    rows = whole if missing.whole and not accepted else f"some classes of {named_ranges(missing.partly)}"
    advice = ". Zarr leaves out chunks that hold nothing else; if these classes have other probabilities, write them"
    if not accepted or (missing.partly and not lazy):
        warn(f"{begin} {rows} read as {fill:g}, the array's fill value{'' if lazy else advice}")


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _sources_behind(array: Any) -> list[Source] | None:
    """Return the stored arrays in the graph of a Dask array; None if the graph is too large to search."""
    if math.prod(array.numblocks) > _MOST_BLOCKS:
        return None
    found: dict[int, Any] = {}
    for node in dict(array.dask).values():
        for value in (node, getattr(node, "value", None), *getattr(node, "args", ())):
            package = type(value).__module__.partition(".")[0]
            if (package in ("zarr", "h5py") or type(value).__name__ == "memmap") and hasattr(value, "shape"):
                found[id(value)] = value
    opened = [open_any("an array of the graph", value) for value in found.values()]
    return [source for source in opened if isinstance(source, Source)]
