"""The folder that stores the finished partitions of a run, so that a killed run can resume.

A workdir contains ``labelsieve.json`` (what it was made from, and the grid), ``summaries`` (a record for each
partition) and, while a run lasts, what the later steps write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from labelsieve.errors import WorkdirError
from labelsieve.partitioning import Grid
from labelsieve.pipeline import workdir_description
from labelsieve.pipeline.workdir_description import Description, read_description
from labelsieve.storage.folders import Folder, open_folder
from labelsieve.storage.lock import LOCK, RUN_ID, always_owned, own_folder
from labelsieve.tasks.checkpoint import KINDS, Records, digest, record_name

_RUN_FOLDERS: Final = (*KINDS, "runs", "result")


class Workdir:
    """A folder or URL prefix that belongs to one input with one choice of settings.

    Parameters
    ----------
    folder : Folder
        Where it is.
    description : Description, optional
        Description of the earlier run, if there is one to resume.
    fresh : bool
        Whether to delete what earlier runs have left.
    """

    def __init__(self, folder: Folder, description: Description | None = None, *, fresh: bool = False) -> None:
        self.folder = folder
        self.check_owned = always_owned
        self._description, self._fresh = description, fresh
        # For each kind of record, the partitions that had one when the run began.
        self.finished: dict[str, list[int]] = {}

    @classmethod
    @contextmanager
    def open(cls, location: Any, *, fresh: bool, wait: float = 0) -> Iterator[Workdir]:
        """Open the workdir at a path or URL, and own it while the block runs.

        Parameters
        ----------
        location : path or URL
            A folder that is missing, empty or a workdir.
        fresh : bool
            Whether to delete what is in it when the run begins.
        wait : float
            Seconds to wait for another run that has locked it.

        Raises
        ------
        WorkdirError
            If it contains other files, or another run owns it.
        """
        folder = _open_folder(location)
        with own_folder(folder, f"the workdir {folder.where}", wait) as check:
            workdir = cls._read(folder, fresh=fresh)
            workdir.check_owned = check
            yield workdir

    @classmethod
    def peek(cls, location: Any, *, fresh: bool) -> Workdir:
        """Open the workdir at a path or URL for reading, without owning it; parameters and errors as for `open`."""
        return cls._read(_open_folder(location), fresh=fresh)

    @classmethod
    def _read(cls, folder: Folder, *, fresh: bool) -> Workdir:
        return cls(folder, None if fresh else read_description(folder), fresh=fresh)

    def empty(self) -> None:
        """Delete what runs have left in it."""
        for name in (*_RUN_FOLDERS, workdir_description.NAME):  # last, because without it the folder is not a workdir
            self.folder.remove(name)

    def grid(self, fingerprint: Mapping[str, Any], n_rows: int) -> Grid | None:
        """Return the grid of the earlier run; None if there is none.

        Parameters
        ----------
        fingerprint : mapping
            Facts that identify the input and the settings of this run.
        n_rows : int
            Rows of the input.

        Raises
        ------
        WorkdirError
            If the earlier run had another input or other settings; the message names the differences.
        """
        if self._description is None:
            return None
        grid = self._description.grid
        differences = list(_differences(self._description.fingerprint, json.loads(json.dumps(fingerprint))))
        if not differences and grid.n_rows != n_rows:
            differences = [f"grid.n_rows was {grid.n_rows:,}, and the input has {n_rows:,} rows"]
        if differences:
            raise WorkdirError(
                f"the workdir {self.folder.where} belongs to another run: {'; '.join(differences)}. "
                "Name another folder, or start over in this one with fresh=True (--fresh)"
            )
        return grid

    def begin(self, fingerprint: Mapping[str, Any], grid: Grid, part_identities: Sequence[str]) -> Records:
        """Write the description of the run, and return its records.

        Records of partitions whose part of the input has changed are deleted, and all records if the run is fresh. This
        happens here, when it is known that the run is possible.

        Raises
        ------
        InUseError
            If another run has taken over the workdir.
        """
        self.check_owned()
        if self._fresh:
            self.empty()
        # Two runs may have begun at the same time with different grids: neither uses records of the other.
        records = Records(self.folder, digest({"of": fingerprint, "grid": asdict(grid)}))
        before = self._description.parts if self._description else ()
        changed = [i for i, (then, now) in enumerate(zip(before, part_identities, strict=False)) if then != now]
        for index in changed:
            records.discard("summaries", index)
            records.discard("rescan", index)
        if changed:
            records.discard("margins", 0)  # one record for all partitions
        description = Description(fingerprint, grid, tuple(part_identities))
        if self._description is None or self._description.fields() != description.fields():
            description.write(self.folder)
        self._description = description
        for kind in KINDS:
            names = _remove_unfinished(self.folder.folder(kind))
            self.finished[kind] = [index for index in range(grid.n_partitions) if record_name(index) in names]
        return records


def _remove_unfinished(folder: Folder) -> set[str]:
    """Remove unfinished files of a killed run, and return the names of the others."""
    names = set(folder.names())
    unfinished = {name for name in names if name.startswith(".")}
    for name in unfinished:
        folder.remove(name)
    return names - unfinished


def _open_folder(location: Any) -> Folder:
    """Return the folder at a path or URL; raise if it is neither empty nor a workdir."""
    folder = open_folder(location, "workdir")
    # A run that is killed before it has written the description leaves only these.
    temporary = (f".{RUN_ID}.", f".{workdir_description.NAME}.")
    names = [name for name in folder.names() if name not in (LOCK, RUN_ID) and not name.startswith(temporary)]
    if names and workdir_description.NAME not in names:
        raise WorkdirError(f"the workdir {folder.where} is not empty and is not a Labelsieve workdir")
    return folder


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield the differences of two fingerprints, field by field; for an input at another place, only the place."""
    if isinstance(then, dict) and isinstance(now, dict):
        elsewhere = "where" in then and then["where"] != now.get("where")
        for key in ["where"] if elsewhere else sorted(then.keys() | now.keys()):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then}, is {now}"
