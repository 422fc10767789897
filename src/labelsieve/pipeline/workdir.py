"""The folder in which a run keeps what it has done, so that a killed run goes on.

A workdir holds ``labelsieve.json`` (what it was made from, and the grid), ``summaries`` (a record a partition) and,
while a run lasts, what the later steps write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from labelsieve.errors import WorkdirError
from labelsieve.partitioning import Grid
from labelsieve.pipeline import workdir_description
from labelsieve.pipeline.workdir_description import Description, read_description
from labelsieve.storage.folders import Folder, LocalFolder, open_folder
from labelsieve.storage.lock import LOCK, RUN_ID, owned
from labelsieve.tasks.checkpoint import KINDS, Records, digest, record_name

# "scores" is of format 1.
_OWN_NAMES: Final = (*KINDS, "runs", "result", "scores")


class Workdir:
    """A folder or URL prefix that belongs to one input with one choice of settings.

    Parameters
    ----------
    folder : Folder
        Where it is.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.check_owned: Callable[[], None] = lambda: None
        self._before: Description | None = None  # what the run that goes on was made from
        self._fresh = False
        # The partitions of which there were records when the run began, by kind.
        self.finished: dict[str, list[int]] = {}

    @classmethod
    @contextmanager
    def owned(cls, location: Any, *, fresh: bool, wait: float = 0) -> Iterator[Workdir]:
        """Open the workdir at a path or URL, as its only owner until the block ends.

        Parameters
        ----------
        location : path or URL
            A folder that is empty, missing, or a workdir.
        fresh : bool
            Whether to forget what is in it.
        wait : float
            Seconds to wait while another run owns it.

        Raises
        ------
        WorkdirError
            If it holds something else, or another run owns it.
        """
        folder = open_folder(location, "workdir")
        _refuse_alien(folder)
        with owned(folder, f"the workdir {folder.where}", wait) as check:
            workdir = cls(folder)
            workdir.check_owned, workdir._fresh = check, fresh
            workdir._before = None if fresh else read_description(folder)
            yield workdir

    @classmethod
    def seen(cls, location: Any, *, fresh: bool) -> Workdir:
        """Look at the workdir at a path or URL, without owning it; `fresh` as in `owned`.

        Raises
        ------
        WorkdirError
            If something else is there.
        """
        folder = open_folder(location, "workdir")
        _refuse_alien(folder)
        workdir = cls(folder)
        workdir._before = None if fresh else read_description(folder)
        return workdir

    def empty(self) -> None:
        """Remove what runs have left in it."""
        for name in (*_OWN_NAMES, workdir_description.NAME):  # the description last: without it the folder is not ours
            self.folder.remove(name)

    def grid(self, fingerprint: Mapping[str, Any], n_rows: int) -> Grid | None:
        """Return the grid of the run that is to go on; None if there is none.

        Parameters
        ----------
        fingerprint : mapping
            Facts that identify the input and the settings of this run.
        n_rows : int
            Rows of the input.

        Raises
        ------
        WorkdirError
            If that run had another input or other settings; the message names what differs.
        """
        if self._before is None:
            return None
        differences = list(_differences(self._before.fingerprint, json.loads(json.dumps(fingerprint))))
        grid = self._before.grid
        if not differences and grid.n_rows != n_rows:
            differences = [f"grid.n_rows was {grid.n_rows:,}, and the input has {n_rows:,} rows"]
        if differences:
            raise WorkdirError(
                f"the workdir {self.folder.where} is of another run: {'; '.join(differences)}. "
                "Name another folder, or start over in this one with fresh=True (--fresh)"
            )
        return grid

    def begin(self, fingerprint: Mapping[str, Any], grid: Grid, part_identities: Sequence[str]) -> Records:
        """Note what the run is made from, and return its records, without those whose part of the input has changed.

        Only now, when the run is known to be possible, what a fresh one is to forget goes.

        Raises
        ------
        InUseError
            If another run has taken over the workdir.
        """
        self.check_owned()
        if self._fresh:
            self.empty()
        names = {kind: _remove_unfinished(self.folder.folder(kind)) for kind in KINDS}
        # Two runs at the same time may have begun on different grids: neither takes a record of the other for its own.
        records = Records(self.folder, digest({"of": fingerprint, "grid": asdict(grid)}))
        before = self._before.parts if self._before else ()
        for index, (then, now) in enumerate(zip(before, part_identities, strict=False)):
            if then != now:
                names["summaries"].discard(record_name(index))
                names["rereads"].discard(record_name(index))
                records.discard("summaries", index)
                records.discard("rereads", index)
                records.discard("margins", 0)  # one for all partitions
        description = Description(fingerprint, grid, tuple(part_identities))
        if self._before is None or self._before.fields() != description.fields():  # a run that goes on leaves it alone
            description.write(self.folder)
        self._before = description
        for kind, found in names.items():
            self.finished[kind] = [index for index in range(grid.n_partitions) if record_name(index) in found]
        return records


def _remove_unfinished(folder: Folder) -> set[str]:
    """Remove what a killed run was writing, and return the names of all else."""
    names = set(folder.names())
    for name in [name for name in names if name.startswith(".")]:
        folder.remove(name)
        names.remove(name)
    return names


def _refuse_alien(folder: Folder) -> None:
    """Raise for a folder that holds something, but no workdir: nothing of others is ever written to."""
    if isinstance(folder, LocalFolder) and folder.path.exists() and not folder.path.is_dir():
        raise WorkdirError(f"the workdir {folder.where} is a file")
    # A run that is killed at its very first write leaves these.
    temporary = (f".{RUN_ID}.", f".{workdir_description.NAME}.")
    names = [name for name in folder.names() if name not in (LOCK, RUN_ID) and not name.startswith(temporary)]
    if names and workdir_description.NAME not in names:
        raise WorkdirError(f"the workdir {folder.where} is not empty, and no workdir of Labelsieve")


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Name what differs between two fingerprints, leaf by leaf; of an input elsewhere only that."""
    if isinstance(then, dict) and isinstance(now, dict):
        elsewhere = "where" in then and then["where"] != now.get("where")
        for key in ["where"] if elsewhere else sorted(then.keys() | now.keys()):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then}, is {now}"
