"""The folder that stores the finished partitions of a run, so that a later run reads only what is new.

A workdir contains ``labelsieve.json`` (what it was made from), ``summaries`` (a record for each partition) and, while a
run lasts, what the later steps write.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from labelsieve.errors import WorkdirError
from labelsieve.pipeline import workdir_description
from labelsieve.pipeline.workdir_description import Description, read_description
from labelsieve.storage.folders import Folder, open_folder
from labelsieve.storage.lock import LOCK, RUN_ID, always_owned, own_folder
from labelsieve.tasks.checkpoint import KINDS, RECORD_FILE, Records, record_file

_LOGGER: Final = logging.getLogger("labelsieve")
_RUN_FOLDERS: Final = (*KINDS, "runs", "result")
# Files that are removed at the same time; in an object store each is a request.
_THREADS: Final = 16


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
        # The partitions that had summaries when the run began.
        self.finished: list[int] = []

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

    def earlier_partitions(
        self, fingerprint: Mapping[str, Any], places: Collection[str]
    ) -> Mapping[str, Sequence[int]]:
        """Return the partitions of the earlier run, which are to be kept: for each array the rows at which they end.

        Parameters
        ----------
        fingerprint : mapping
            Facts that identify the input and the settings of this run.
        places : collection of str
            Where the arrays of the input are. If the earlier run had one of them, the input may have another name, such
            as a list of shards instead of a pattern.

        Raises
        ------
        WorkdirError
            If the earlier run had another input or other settings; the message names the differences.
        """
        if self._description is None:
            return {}
        then, now = dict(self._description.fingerprint), json.loads(json.dumps(fingerprint))
        if not self._description.partitions.keys().isdisjoint(places):
            now["pred_probs"]["where"] = then["pred_probs"]["where"]
        differences = list(_differences(then, now))
        if differences:
            raise WorkdirError(
                f"the workdir {self.folder.where} belongs to another run: {'; '.join(differences)}. "
                "Name another folder, or start over in this one with fresh=True (--fresh)"
            )
        return self._description.partitions

    def begin(
        self,
        fingerprint: Mapping[str, Any],
        partitions: Mapping[str, Sequence[int]],
        names: Sequence[str],
        labels: Sequence[str],
        compare_labels: Callable[[Records, list[int]], Collection[int]] = lambda *_: (),
    ) -> Records:
        """Remove what this run cannot use, write its description, and return its records.

        This happens here, when it is known that the run is possible.

        Parameters
        ----------
        fingerprint : mapping
            Facts that identify the input and the settings of this run.
        partitions : mapping
            For each array, the rows at which its partitions end.
        names : sequence of str
            For each partition, the name of its record.
        labels : sequence of str
            For each partition, the identity of its labels; "" if it is not known.
        compare_labels : callable
            Given records and numbers of partitions whose labels may have changed since the records were made, returns
            the numbers of those whose labels are the same.

        Raises
        ------
        InUseError
            If another run has taken over the workdir.
        """
        self.check_owned()
        if self._fresh:
            self.empty()
        known = self._known(names, labels)
        # The labels of a record are in its name, so another run never overwrites it with one of other labels.
        new = [label or uuid.uuid4().hex for label in labels]
        versions = [one.version or version for one, version in zip(known, new, strict=True)]
        doubtful = [index for index, one in enumerate(known) if one.version and not one.same_labels]
        if doubtful:
            same = compare_labels(Records(self.folder, _joined(names), _joined(versions)), doubtful)
            for index in set(doubtful).difference(same):
                versions[index] = new[index]
        records = Records(self.folder, _joined(names), _joined(versions))
        files = [records.name(index) for index in range(len(names))]
        self.check_owned()  # comparing labels may have taken minutes
        self._keep_only(files)
        confirmed = {
            file: label
            for file, label, version in zip(files, labels, versions, strict=True)
            if label not in ("", version)
        }
        earlier, description = self._description, Description(fingerprint, partitions, files, confirmed)
        if earlier is None or earlier.records != files:
            # The columns of later passes depend on the thresholds, and so on all rows.
            self.folder.remove("rescan")
            self.folder.remove("margins")
        if earlier is None or earlier.fields() != description.fields():
            self.check_owned()
            description.write(self.folder)
        self._description, self.finished = description, records.present("summaries")
        return records

    def committed_rows(self, names: Sequence[str], labels: Sequence[str], n_rows: Sequence[int]) -> tuple[int, int]:
        """Return how many rows have records, with the same labels and with labels that are yet to be compared.

        Parameters
        ----------
        names, labels : sequence of str
            As `begin` takes them.
        n_rows : sequence of int
            Number of rows of each partition.
        """
        known = list(zip(self._known(names, labels), n_rows, strict=True))
        same = sum(rows for one, rows in known if one.same_labels)
        return same, sum(rows for one, rows in known if one.version) - same

    def _known(self, names: Sequence[str], labels: Sequence[str]) -> list[_Known]:
        """Return what is known of each partition; see `begin`."""
        confirmed = {} if self._description is None or self._fresh else self._description.confirmed
        versions: dict[str, list[str]] = {}
        for file in [] if self._fresh else self.folder.folder("summaries").names():
            named = RECORD_FILE.fullmatch(file)
            if named:
                versions.setdefault(named[1], []).append(named[2])
        found = []
        for name, label in zip(names, labels, strict=True):
            of_name = versions.get(name, [])
            same = [one for one in of_name if label and label in (one, confirmed.get(record_file(name, one)))]
            found.append(_Known([*same, *of_name, ""][0], bool(same)))
        return found

    def _keep_only(self, files: Collection[str]) -> None:
        """Remove all records of summaries except these files, and what killed runs were writing."""
        folder = self.folder.folder("summaries")
        there = set(folder.names())
        others = there.difference(files)
        if 2 * len(others) > len(there):
            _LOGGER.warning(
                "%d of the %d finished partitions in the workdir %s are of rows that this input does not have as they "
                "were, and are removed: give a run on other rows a workdir of its own",
                len(others),
                len(there),
                self.folder.where,
            )
        if others == there:
            self.folder.remove("summaries")
            return
        with ThreadPoolExecutor(_THREADS, "labelsieve-remove") as pool:
            list(pool.map(folder.remove, others))


class _Known(NamedTuple):
    """What is known of a partition.

    Parameters
    ----------
    version : str
        Version of its record; "" if there is none.
    same_labels : bool
        Whether the record is known to have the labels of today; otherwise these are yet to be compared.
    """

    version: str
    same_labels: bool


def _joined(digests: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(digests))


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
    """Yield the differences in what both fingerprints have; for an input at another place, only the place."""
    if isinstance(then, dict) and isinstance(now, dict):
        elsewhere = "where" in then and then["where"] != now.get("where")
        for key in ["where"] if elsewhere else sorted(then.keys() & now.keys()):
            yield from _differences(then[key], now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then}, is {now}"
