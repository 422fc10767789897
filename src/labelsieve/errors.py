"""Every error and warning that Labelsieve raises on purpose.

Covers: the exception tree. Each error is also the builtin that a caller would catch.
Does not cover: the checks themselves (`checks`, `settings`, `sources`).

::

    LabelsieveError
    ├── InvalidInputError (ValueError)          data or a setting that cannot give a right answer
    ├── InputTypeError (TypeError)              an object of the wrong kind, or an unknown argument
    ├── UnreadableDataError (OSError)           stored data is cut off, corrupt or gone; says where
    │   └── ChangedDataError (OSError)          stored data has changed since the run began; says what and how
    ├── UnwritableError (OSError)               a workdir or a result cannot be written: disk full, no permission
    ├── MissingDependencyError (ImportError)    an extra is not installed; says the pip line
    ├── MemoryLimitError (MemoryError)          a plan does not fit; says what would, before anything is read
    ├── WorkdirError (RuntimeError)             a workdir that is damaged or of another run; nothing in it is touched
    │   └── InUseError (RuntimeError)           another run uses the workdir or the output: try again later
    ├── TaskFailedError (RuntimeError)          a task failed, or its worker died; says which rows
    └── ForkedWorkerError (RuntimeError)        a forked process died before it was done
    LabelsieveWarning (UserWarning)             the answer stands, but look at this
"""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
import warnings


class LabelsieveError(Exception):
    """Base of every error that Labelsieve raises on purpose."""


class InvalidInputError(LabelsieveError, ValueError):
    """Data or a setting that cannot give a right answer."""


class InputTypeError(LabelsieveError, TypeError):
    """An object of a kind that is neither labels nor probabilities, or an argument that does not exist."""


class UnreadableDataError(LabelsieveError, OSError):
    """Stored data is cut off, corrupt or gone."""


class ChangedDataError(UnreadableDataError):
    """Stored data has changed since the run began: part of it would have been read as it was, and part as it is."""


class UnwritableError(LabelsieveError, OSError):
    """A workdir, a result, a table or a page cannot be written."""


class MissingDependencyError(LabelsieveError, ImportError):
    """An optional package is not installed.

    Parameters
    ----------
    what : str
        What was asked for, as the start of a sentence.
    extra : str
        The extra of Labelsieve that brings the package.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: {install_line(extra)}")
        self._arguments = what, extra

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str]]:
        return type(self), self._arguments  # so that it comes back whole from a worker


class MemoryLimitError(LabelsieveError, MemoryError):
    """A plan that does not fit the memory, refused before the run."""


class WorkdirError(LabelsieveError, RuntimeError):
    """A workdir that is damaged, or belongs to another input or other settings."""


class InUseError(WorkdirError):
    """A workdir or an output that another run uses: the same call works when that run has ended."""


class TaskFailedError(LabelsieveError, RuntimeError):
    """A task failed for a reason other than the data, or the worker that ran it died."""


class ForkedWorkerError(LabelsieveError, RuntimeError):
    """A forked process died before its piece of work was done."""


class LabelsieveWarning(UserWarning):
    """The answer stands, but something about the input deserves a look."""


def install_line(extra: str) -> str:
    """Return the line of the shell that installs an extra for this Python, from where Labelsieve itself came.

    pip keeps the folder, archive or repository that it installed from; without any, that is the package index.
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
    """Issue a `LabelsieveWarning` that points at the line of the caller outside this package."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, LabelsieveWarning, stacklevel=level)
