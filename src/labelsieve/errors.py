"""Every error and warning that Labelsieve raises on purpose, and what happens when something fails.

Each error is also the builtin that a caller would catch:

    LabelsieveError
    ├── InvalidInputError (ValueError)          data or a setting that cannot give a right answer
    ├── InputTypeError (TypeError)              an object of the wrong kind, or an unknown argument
    ├── UnreadableDataError (OSError)           stored data is cut off, corrupt or gone; says where
    │   └── ChangedDataError (OSError)          stored data has changed since the run began; says what and how
    ├── UnwritableError (OSError)               a workdir or a result cannot be written: disk full, no permission
    ├── MissingDependencyError (ImportError)    an extra is not installed; gives the pip command
    ├── MemoryLimitError (MemoryError)          a plan does not fit; says what would, before anything is read
    ├── WorkdirError (RuntimeError)             a workdir that is damaged or of another run; nothing in it is touched
    │   └── InUseError (RuntimeError)           another run or server writes to the same place: try again later
    ├── TaskFailedError (RuntimeError)          a task failed, or its worker died; says which rows
    └── ForkedWorkerError (RuntimeError)        a forked process died before it finished
    LabelsieveWarning (UserWarning)             the answer stands, but something deserves a look

The command line exits with 0 when it is done; 1 after a failure; 2 for bad usage, input, credentials or workdir, or too
little memory, with one line that says what; 75 if another run still uses the workdir or the output after ``--wait``
seconds (90 by default), or another server the file of decisions; 130 after Ctrl-C and 143 after SIGTERM. ``labelsieve
plan`` exits with 1 if it finds what would make a run fail on its cluster.

## When something fails

- **A worker dies.** Its partitions are computed again elsewhere. After `distributed.scheduler.allowed-failures` deaths
  the error names the task.
- **A worker is much slower than the others.** It gets fewer partitions, but the others wait for the last one that it
  reads. End a worker that hangs, and its tasks run elsewhere.
- **Workers join or leave.** Those that join late are used, but memory is planned for those that are there at the start:
  give later ones the same limits. A run without workers waits for new ones.
- **A chunk cannot be read.** The task is run again (`retries`, 2 by default). Then the error names the partition, the
  rows, the source and the cause. After a repair the same command reads only what is missing from the workdir. A
  single ``.npy`` or HDF5 file that was repaired is another input to its workdir: start over with `fresh=True`
  (``--fresh``). Of shards only the repaired ones are read again.
- **A store fails, stalls or is late.** Each request to S3 or a web server has limits of time: 5 s for the connection,
  15 s without a byte, and 15 s for each 64 kB of a body. Answers such as 503 SlowDown, closed connections and bodies
  that break off are requested again, up to 8 times, after pauses that grow and are partly random, or that the store
  asks for (``Retry-After``, up to a minute). A read that is much later than others is sent a second time. Only then the
  error reaches the task. What is repeated is logged, with at most 20 messages at once and then one in 10 s, and
  counted.
- **Credentials are missing, have expired or are refused.** Nothing is repeated; the error names the place and the code
  of the store (``ExpiredToken``). With new credentials the same command goes on.
- **An input changes during the run.** A `ChangedDataError` names the file, object or chunk and what changed. Nothing is
  published. See *One version of the input* below.
- **The client dies, or gets Ctrl-C or SIGTERM.** Run the same command again. It does not read again what the workdir
  holds. There is never half a result.
- **A process that records is killed.** What it recorded before its last flush stays (`labelsieve.recorder`), and
  ``resume=True`` goes on from there. Until then the recording is refused: the error names the open part.
- **No scheduler answers.** The run is refused within 30 seconds; the error says if something else answers there.
- **A worker or the scheduler has another version of Labelsieve, or none.** The run is refused before it reads anything;
  the error names the process and the versions. Other versions of Python, NumPy, Dask or Zarr are a warning.
  ``labelsieve plan`` with the cluster lists all of them.
- **The scheduler dies.** The client ends with an error. Start the scheduler and run the same command again.
- **The disk of the workdir is full.** The error says so. What is committed stays.
- **An output cannot be written.** The run is refused before it starts if the folder is missing or read-only, or if its
  disk is full already. Otherwise the error names the output. With a workdir, the next run uses what is finished.
- **Another run uses the same workdir.** On a disk there is a lock: the run waits for up to `wait` seconds (``--wait``),
  then it is refused with exit code 75, and the error says who uses the workdir. In an object store the run that started
  last takes over at once, and the log says from whom; the earlier one, if it was not killed, fails with exit code 75
  before it publishes anything.
- **The description of the workdir is damaged.** The run is refused; the error names the file.
  `fresh=True` starts over.
- **The workdir is of another input or other settings.** The run is refused; the error says what differs. `fresh=True`
  starts over.
- **A file of a saved result is damaged or missing.** The first read of it raises an error that names the file and its
  rows. Every chunk is stored and has a checksum (Zarr's `crc32c`), and so has the metadata. Any reader of Zarr 3 can
  open the group.

## One version of the input

All reads are of the files that were there when the run began. Before the first read Labelsieve notes the size,
modification time and inode of each file (and of each stored chunk of a Zarr array), or the size and ETag of each
object. Each read compares them, and so does a last check after the last read. S3 and web servers send the ETag with
each answer. For other URLs, and for shards of Zarr and chunks that split the classes at any URL, they are compared only
before and after the run.
More than 100,000 chunks are listed only once if each read compares.

Not checked are arrays in memory, Dask arrays of your own, Zarr over HTTP, and, with a warning, Zarr in a store that
refuses to list its chunks.

## What a workdir recognizes

A workdir identifies `pred_probs` by path or URL, size, modification time or ETag, shape, dtype and storage grid. It
knows each of several shards by these facts, and a Zarr array by the same facts of every stored chunk: only partitions
of new or rewritten shards and chunks are read (`labelsieve.find`, "Data that grows"). Arrays in memory are identified
by their content, Dask arrays by their name. Labels are compared by their values, unless such facts show that they are
the same.

Names and times do not show everything: a file can be rewritten with its times restored, and a Dask array can keep its
name while the data behind it changes. So every resume reads a few rows again and compares their summaries with those in
the workdir, bit for bit: at most 1 MB from each of up to 8 finished partitions, drawn at random (one stored chunk of a
Zarr array, one computed block of a Dask array). A difference is an error. (Scores by entropy are allowed to
differ by 1e-9, as they may on another processor.)

Records in a workdir have checksums. A damaged record is made again by the next run; damage during a run is an error.
The chunks of a Zarr array have no checksum by default: a damaged chunk may decode to other numbers, which only the
check of every value can catch. Where disks are not trusted, store `pred_probs` with one
(`ZstdCodec(checksum=True)`).
"""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Self


class LabelsieveError(Exception):
    """Base of every error that Labelsieve raises on purpose.

    Attributes
    ----------
    rows : tuple of (int, int)
        Rows of the input that the error is about, as far as they are known: ranges ``[start, stop)``, ascending; only
        the first ones if there are many.
    """

    rows: tuple[tuple[int, int], ...] = ()

    def at(self, rows: Iterable[tuple[int, int]]) -> Self:
        """Set `rows` and return the error itself.

        @private
        """
        self.rows = tuple(rows)
        return self


class InvalidInputError(LabelsieveError, ValueError):
    """Data or a setting that cannot give a right answer."""


class InputTypeError(LabelsieveError, TypeError):
    """An object that cannot be labels or probabilities, or an unknown argument."""


class UnreadableDataError(LabelsieveError, OSError):
    """Stored data is cut off, corrupt or gone."""


class ChangedDataError(UnreadableDataError):
    """Stored data has changed since the run began, so that the result would mix old and new data."""


class UnwritableError(LabelsieveError, OSError):
    """A workdir, a result, a table or a page cannot be written."""


class MissingDependencyError(LabelsieveError, ImportError):
    """An optional package is not installed.

    Parameters
    ----------
    what : str
        What needs the package, as the beginning of a sentence.
    extra : str
        The extra of Labelsieve that installs the package.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: {install_line(extra)}")
        self._arguments = what, extra

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str]]:
        return type(self), self._arguments  # so that workers can send it back


class MemoryLimitError(LabelsieveError, MemoryError):
    """A plan that does not fit into memory; it is refused before the run."""


class WorkdirError(LabelsieveError, RuntimeError):
    """A workdir that is damaged, or belongs to another input or other settings."""


class InUseError(WorkdirError):
    """A workdir or an output that another run uses: the same call works when that run has ended."""


class TaskFailedError(LabelsieveError, RuntimeError):
    """A task failed for a reason other than the data, or its worker died."""


class ForkedWorkerError(LabelsieveError, RuntimeError):
    """A forked process died before it finished its work."""


class LabelsieveWarning(UserWarning):
    """The answer stands, but something about the input deserves a look."""


def install_line(extra: str) -> str:
    """Return the shell command that installs an extra for this Python, from the origin of Labelsieve itself.

    pip records the folder, archive or repository that it installed from. Without a record, it was the package index.

    @private
    """
    from importlib import metadata
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    try:
        origin = json.loads(metadata.distribution("labelsieve").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    url, option, what = origin.get("url", ""), "", f"labelsieve[{extra}]"
    clone = url2pathname(urlparse(url).path) if "dir_info" in origin else ""
    if os.path.isdir(clone):  # noqa: PTH112  # "" would be the working folder as a Path
        option, what = "-e " if origin["dir_info"].get("editable") else "", f"{clone}[{extra}]"
    elif vcs := origin.get("vcs_info"):
        what += f" @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    elif "archive_info" in origin:
        what += f" @ {url}"
    return f'{shlex.quote(sys.executable)} -m pip install {option}"{what}"'


def warn(message: str) -> None:
    """Issue a `LabelsieveWarning` that points at the line of the caller outside this package.

    @private
    """
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, LabelsieveWarning, stacklevel=level)


class located:  # noqa: N801  # reads as what it does: with located(...)
    """Context manager that names the rows that are worked on in the message of any error.

    Parameters
    ----------
    where : str
        The rows, and where they are.
    rows : iterable of (int, int)
        The same as ranges ``[start, stop)``, for an error that does not know its rows any closer.
    """

    def __init__(self, where: str, rows: Iterable[tuple[int, int]] = ()) -> None:
        self._where, self._rows = where, rows

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            locate(error, self._where, self._rows)


def locate(error: Exception, where: str, rows: Iterable[tuple[int, int]] = ()) -> None:
    """Raise `error` anew with the rows that were worked on in its message; the parameters are those of `located`.

    @private
    """
    if isinstance(error, MissingDependencyError):
        return
    text = f"{where}: {error if isinstance(error, LabelsieveError) else f'{type(error).__name__}: {error}'}"
    if isinstance(error, LabelsieveError):
        raise type(error)(text).at(error.rows or rows) from error
    kind = UnreadableDataError if isinstance(error, OSError) else TaskFailedError
    raise kind(text).at(rows) from error


def size(n_bytes: float) -> str:
    """Return a number of bytes as text, in the largest unit that is not larger than it.

    Examples
    --------
    >>> size(512_000_000), size(12)
    ('512 MB', '12 bytes')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
