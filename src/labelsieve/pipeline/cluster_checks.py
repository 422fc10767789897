"""What `labelsieve plan` checks on the workers of a running cluster."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from labelsieve.errors import UnwritableError, warn
from labelsieve.execution.cluster import ClusterExecutor
from labelsieve.execution.versions import named
from labelsieve.pipeline.inputs import Inputs
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import where_is
from labelsieve.storage.folders import Folder, LocalFolder, shared_probe

# Seconds until a worker is taken to hang.
_PATIENCE_S: Final = 30.0
# Seconds from which a clock is wrong, and from which S3 refuses its requests.
_CLOCK_S: Final = 1.0
_S3_CLOCK_S: Final = 900.0
# Bytes read at a time from files without chunks.
_PIECE_BYTES: Final = 4_000_000


def check_cluster(executor: ClusterExecutor, inputs: Inputs, folders: Mapping[str, Folder | None]) -> Iterator[str]:
    """Yield what would make a run fail: other versions, inputs and folders that workers cannot use, wrong clocks.

    Parameters
    ----------
    executor : ClusterExecutor
        Connected to the workers.
    inputs : Inputs
        Each worker reads their first batch.
    folders : mapping
        The workdir and the output, or None. Each worker writes a small file there, which it removes again.

    Warns
    -----
    LabelsieveWarning
        If a clock is wrong where an object store looks at it.
    """
    excluded = {name.removeprefix("worker ") for one in executor.misfits for name in one.processes}
    yield from (one.sentence for one in executor.misfits)
    workers = [worker for worker in executor.ask(time.time) if worker not in excluded]
    if not workers:
        return
    places = [where_is(inputs.opened_labels), where_is(inputs.opened_pred_probs)]
    places += [folder.where for folder in folders.values() if folder]
    if any("://" in place for place in places):
        on_s3 = any(re.search(r"\bs3a?://", place) for place in places)
        yield from _check_clocks(executor, workers, on_s3=on_s3)
    for name, source in (("labels", inputs.labels_source), ("pred_probs", inputs.pred_probs_source)):
        if source is not None and not source.in_memory:
            read = partial(_read, source, *inputs.grid.ranges(0)[0])
            yield from _failures(executor, workers, read, f"cannot read {name} ({source.where})")
    for name, folder in folders.items():
        if folder is None:
            continue
        # Nothing may be left behind, so the probe of a folder that does not exist is in its parent.
        probed: Folder = folder.folder(".probe")
        if isinstance(folder, LocalFolder):
            parents = [folder.path, *folder.path.parents][name == "output" :]
            probed = LocalFolder(next(path for path in parents if path.is_dir()))
        try:
            with shared_probe(probed) as probe:
                what = f"does not see what the client writes to {probed.where} (the {name}), or cannot write there"
                yield from _failures(executor, workers, probe, what)
        except UnwritableError as error:
            yield f"the client cannot write the {name} {folder.where}: {error}"
        if not isinstance(probed, LocalFolder):
            probed.delete()


def _check_clocks(executor: ClusterExecutor, workers: list[str], *, on_s3: bool) -> Iterator[str]:
    """Compare clocks with the client's; an answer is from any moment of the round trip."""
    asked = time.time()
    clocks = executor.ask(time.time, workers=workers)
    answered = time.time()
    for worker, clock in clocks.items():
        off = 0.0 if isinstance(clock, Exception) else max(asked - clock, clock - answered)
        if off > _CLOCK_S:
            side = "ahead of" if clock > answered else "behind"
            text = f"worker {worker}: its clock is {off:.0f} s {side} the client's. Let NTP set both clocks"
            if on_s3 and off > _S3_CLOCK_S:
                yield f"{text}: S3 refuses requests of a clock that is 15 minutes off"
            else:
                warn(text)


def _failures(executor: ClusterExecutor, workers: list[str], check: Callable[[], None], what: str) -> Iterator[str]:
    """Yield what keeps workers from passing a check, once for all workers with the same failure."""
    failed: dict[str, list[str]] = {}
    for worker, found in executor.ask(_failure, check, _PATIENCE_S, workers=workers).items():
        why = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found
        if why:
            failed.setdefault(" ".join(why.split()), []).append(worker)
    for why, names in failed.items():
        yield f"worker {named(names)}: {what}: {why}"


async def _failure(check: Callable[[], None], patience: float) -> str:
    """Return what `check` raises, as text: not every error can be pickled. A thread leaves the worker responsive."""
    try:
        await asyncio.wait_for(asyncio.to_thread(check), patience)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        return f"{type(error).__name__}: {error or f'no answer within {patience:g} seconds'}"
    return ""


def _read(source: Source, start: int, stop: int) -> None:
    """Read rows ``[start, stop)`` in pieces."""
    source.reachable()
    step = source.row_chunk or max(1, _PIECE_BYTES // source.row_bytes)
    rows: Any
    with source.open_raw(start, stop) as rows:
        for first in range(start, stop, step):
            rows.read(first, min(stop, first + step))
