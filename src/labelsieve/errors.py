"""Every error and warning that Labelsieve raises on purpose.

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
    │   └── InUseError (RuntimeError)           another run writes to the same place: try again later
    ├── TaskFailedError (RuntimeError)          a task failed, or its worker died; says which rows
    └── ForkedWorkerError (RuntimeError)        a forked process died before it finished
    LabelsieveWarning (UserWarning)             the answer stands, but something deserves a look

What happens when something fails, and the exit codes of the command line: `docs/every_night.md`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self


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


def optional(module: str, what: str, extra: str) -> Any:
    """Import a module that may be missing, or raise a `MissingDependencyError` of `what` and `extra`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(what, extra) from error


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
