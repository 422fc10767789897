"""The folder that stores the finished partitions of a run, so that a later run reads only what is new.

A workdir contains ``labelsieve.json`` (what it was made from), ``summaries`` (a record for each partition) and, while a
run lasts, what the later steps write.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import re
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import InvalidInputError, LabelsieveError, WorkdirError, warn
from labelsieve.execution.executor import Executor
from labelsieve.execution.graph import Column
from labelsieve.job.grid import Grid
from labelsieve.job.inputs import Inputs, rows_of
from labelsieve.job.kept import KINDS, RECORD_FILE, Records, digest, record_file
from labelsieve.job.scan import Batches, Partition, has_same_labels, read_rows
from labelsieve.sources.composite import EnsembleSource
from labelsieve.sources.objects import retry
from labelsieve.sources.open import Opened, open_any, where_is
from labelsieve.sources.source import Source, named_ranges, row_digests
from labelsieve.storage.checked import DamagedRecordError
from labelsieve.storage.folder import LOCK, RUN_ID, Folder, always_owned, open_folder, own_folder

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
            for source in opened.children if isinstance(opened, EnsembleSource) else [opened]:
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
        accepts = " (find_label_issues accepts them with allow_zero_rows=True)" if fill == 0 else ""
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


MOST_PARTITIONS: Final = 8
MOST_BYTES: Final = 1_000_000
# The last bits of the logarithm in entropy depend on the processor and the build of NumPy, and a run may resume
# elsewhere. The score divides the logarithm of 1 + a ratio by a ratio of at least 1e-6: 1e-16 becomes at most 1e-10.
_ENTROPY_TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Difference:
    """How the summaries of some rows differ from the record.

    Parameters
    ----------
    start, stop : int
        The rows ``[start, stop)`` that were read again.
    n_rows : int
        Number of rows that differ.
    columns : tuple of str
        Names of the columns that differ.
    """

    start: int
    stop: int
    n_rows: int
    columns: tuple[str, ...]


def check_finished(
    inputs: Inputs, settings: Settings, executor: Executor, records: Records, finished: Sequence[int]
) -> None:
    """Read a few rows of finished partitions again, and compare their summaries with the records, bit for bit.

    Up to 8 partitions are drawn at random. At most 1 MB is read from each, within one stored chunk; of a user's Dask
    array one block of each is computed. Entropy scores may differ by 1e-9: their last bits depend on the machine.

    Parameters
    ----------
    inputs : Inputs
        The inputs.
    settings : Settings
        How to score rows.
    executor : Executor
        Runs the tasks.
    records : Records
        The records of the run.
    finished : sequence of int
        The committed partitions. Damaged records are skipped; the run repairs them later.

    Raises
    ------
    WorkdirError
        If the summaries differ.
    """
    rng = np.random.default_rng()
    drawn = rng.permutation(np.asarray(finished, np.int64))[:MOST_PARTITIONS].tolist()
    spots = [(index, *_choose_rows(inputs, index, rng)) for index in drawn]
    spots = [spot for spot in spots if spot[1] < spot[2]]
    if not spots:
        return
    batches = [Batches(index, ((start, stop),)) for index, start, stop in spots]
    rows = [(start, stop) for _, start, stop in spots]
    bounds = [inputs.grid.bounds(index) for index, _, _ in spots]
    columns = [batches, _rows(inputs.opened_labels, rows), _rows(inputs.opened_pred_probs, rows), bounds]
    stored = inputs.labels_source and inputs.pred_probs_source
    otherwise = "" if stored else " (or its Dask array computes other values each time)"
    work = inputs.work(partial(compare, settings=settings, records=records))
    for found in executor.map("check", work, columns):
        if found is not None:
            raise WorkdirError(
                f"{_changed_inputs(found.columns)} changed after the workdir {records.folder.where} was made, although "
                f"name, size and times are the same{otherwise}: of rows {found.start:,}..{found.stop - 1:,}, "
                f"which were read again as a check, {found.n_rows:,} differ from the workdir. "
                "Start over with fresh=True"
            )


def compare_labels(inputs: Inputs, executor: Executor, records: Records, numbers: Sequence[int]) -> list[int]:
    """Return those of the partitions `numbers` whose record was made with the labels that its rows have now.

    No rows of `pred_probs` are read.
    """
    bounds = [inputs.grid.bounds(number) for number in numbers]
    batches = [Batches(number, inputs.grid.ranges(number)) for number in numbers]
    columns = [batches, _rows(inputs.opened_labels, bounds), [None] * len(bounds)]
    work = inputs.work(partial(has_same_labels, records=records))
    return list(itertools.compress(numbers, executor.map("labels", work, columns)))


def _choose_rows(inputs: Inputs, index: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose the rows of a partition to read again."""
    source, (first, last) = inputs.pred_probs_source, inputs.grid.bounds(index)
    if source is None:  # a block is always computed whole, so compare all of it
        ranges = [(start, stop) for start, stop in inputs.grid.ranges(index) if start < stop]
        return ranges[rng.integers(len(ranges))] if ranges else (first, first)
    row, n_rows = int(rng.integers(first, last)), max(1, MOST_BYTES // source.row_bytes)
    if source.facts.row_chunk:  # stored chunks are read whole, so stay in one
        chunk = row // source.facts.row_chunk
        first, last = max(first, chunk * source.facts.row_chunk), min(last, (chunk + 1) * source.facts.row_chunk)
    start = min(row, max(first, last - n_rows))
    return start, min(start + n_rows, last)


def _rows(opened: Opened, bounds: Sequence[tuple[int, int]]) -> Column:
    """Return ranges of rows of an input, as an argument of tasks."""
    if isinstance(opened, Source):
        return [rows_of(opened, start, stop) for start, stop in bounds]
    import dask.array as da

    return da.concatenate([opened[start:stop].rechunk(-1) for start, stop in bounds])


def compare(
    partition: Partition, bounds: tuple[int, int], *, settings: Settings, records: Records
) -> Difference | None:
    """Summarize rows again, and return how they differ from the record of their partition, or None.

    `partition` has some of the rows ``[first, last)`` in `bounds`, which are all rows of the recorded partition.
    """
    (first, last), start, stop, n_rows = bounds, partition.start, partition.stop, partition.n_rows
    try:
        with records.reading("summaries", partition.index) as record:
            kept = list(record.blocks(start - first, stop - first)) if record.n_rows == last - first else []
    except (DamagedRecordError, WorkdirError):
        return None
    if not kept:
        return None
    found, _ = read_rows(partition, settings)
    differs, columns = np.zeros(n_rows, np.bool_), []
    for name, now in found.columns().items():
        then = np.concatenate([block[name] for block in kept])
        other = (_bytes(then) != _bytes(now)).any(axis=1) if then.dtype == now.dtype else np.ones(n_rows, np.bool_)
        if name == "score" and settings.method == "confidence_weighted_entropy":
            other &= ~np.isclose(then, now, rtol=0, atol=_ENTROPY_TOLERANCE)
        if other.any():
            columns.append(name)
            differs |= other
    return Difference(start, stop, int(differs.sum()), tuple(columns)) if columns else None


def _bytes(column: Any) -> Any:
    """Return a column as ``(n, itemsize)`` bytes, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), -1)


def _changed_inputs(columns: Sequence[str]) -> str:
    """Name the changed input. The probability of the label changes with the label as well as with `pred_probs`."""
    if "label" not in columns:
        return "pred_probs"
    return "labels and pred_probs" if {"predicted", "p_predicted"} & set(columns) else "labels"


NAME: Final = "labelsieve.json"
FORMAT: Final = 7
_KIND: Final = "labelsieve workdir"
_CHECKSUMS: Final = "checksums"


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
        If it is damaged, or another version wrote it; the message says how to start over.
    """
    damaged = WorkdirError(
        f"{folder.where}/{NAME} is damaged, or was written by another version of Labelsieve. Start over with fresh=True"
    )
    try:
        fields = json.loads(folder.read(NAME))
        written = fields.pop(_CHECKSUMS)
        is_intact = written == {name: _checksum(value) for name, value in _leaves(fields)}
        if (is_intact, fields["kind"], fields["format"]) != (True, _KIND, FORMAT):
            raise damaged
        partitions, confirmed = dict(fields["partitions"]), dict(fields["confirmed"])
        return Description(fields["fingerprint"], partitions, fields["records"], confirmed)
    except FileNotFoundError:
        if NAME in folder.names():
            raise damaged from None
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, IsADirectoryError) as error:
        raise damaged from error
    except OSError as error:
        raise WorkdirError(f"{folder.where}/{NAME} cannot be read: {error}") from error


def _leaves(fields: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field, including fields in tables."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def _checksum(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


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
        for name in (*_RUN_FOLDERS, NAME):  # last, because without it the folder is not a workdir
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
                "Name another folder, or start over in this one with fresh=True"
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
    temporary = (f".{RUN_ID}.", f".{NAME}.")
    names = [name for name in folder.names() if name not in (LOCK, RUN_ID) and not name.startswith(temporary)]
    if names and NAME not in names:
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
