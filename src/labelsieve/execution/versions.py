"""Versions of packages in the processes of a cluster, and which differences matter."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

from labelsieve.errors import warn

# The versions in a process, or why they are not known: why Labelsieve could not be imported there.
Versions: TypeAlias = "Mapping[str, str] | Exception"

# Packages whose versions should be equal in all processes, and why.
_SHOULD_BE_EQUAL: Final = {
    "python": "functions of your own may not work in another Python",
    "numpy": "the last digits of some scores may differ",
    "dask": "Dask supports no other versions in one cluster",
    "distributed": "Dask supports no other versions in one cluster",
    "zarr": "what one version writes or sends may be unknown to the other",
}
PACKAGES: Final = ("labelsieve", *_SHOULD_BE_EQUAL)
# Names of processes that a message gives.
_NAMED: Final = 3


def installed_versions(packages: Collection[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those `packages` that are loaded or installed; Python is one of them."""
    found = {}
    for package in packages:
        loaded = getattr(sys.modules.get(package), "__version__", None)
        if package == "python":
            found[package] = platform.python_version()
        elif loaded is not None:  # faster than to look for what is installed
            found[package] = str(loaded)
        else:
            with suppress(metadata.PackageNotFoundError):
                found[package] = metadata.version(package)
    return found


@dataclass(frozen=True)
class Difference:
    """A package that has another version in some processes than here.

    Parameters
    ----------
    package : str
        Its name.
    processes : tuple of str
        Names of the processes.
    status : {"problem", "warning"}
        Whether a run would be refused or may be affected.
    message, advice : str
        What differs, without the names of the processes, and what to do.
    """

    package: str
    processes: tuple[str, ...]
    status: Literal["problem", "warning"]
    message: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Processes, message and advice."""
        return f"{named(self.processes)}: {self.message}. {self.advice}"


def named(processes: Collection[str]) -> str:
    """Return the first names, and how many others there are.

    Examples
    --------
    >>> named(["scheduler"]), named(["a:1", "b:2", "c:3", "d:4"])
    ('scheduler', 'a:1, b:2, c:3 and 1 other')
    """
    first, n_others = list(processes)[:_NAMED], len(processes) - _NAMED
    return ", ".join(first) + (f" and {n_others} other{'s' if n_others > 1 else ''}" if n_others > 0 else "")


def differences(here: Mapping[str, str], there: Mapping[str, Versions]) -> Iterator[Difference]:
    """Yield the differences between the versions here and in other processes, package by package.

    Parameters
    ----------
    here : mapping
        Versions of this process.
    there : mapping
        For each other process by its name, its versions.
    """
    for package in PACKAGES:
        by_message: dict[str, list[str]] = {}
        for name, versions in there.items():
            message = _difference(package, here, versions)
            if message:
                by_message.setdefault(message, []).append(name)
        for message, names in by_message.items():
            yield Difference(package, tuple(names), *_judge(package, message, here))


def _difference(package: str, here: Mapping[str, str], there: Versions) -> str:
    if isinstance(there, Exception):
        return str(there) if package == "labelsieve" else ""
    own, other = here.get(package), there.get(package)
    same_python = package == "python" and str(own).rpartition(".")[0] == str(other).rpartition(".")[0]
    if own == other or same_python:
        return ""
    return f"{package} {other or 'is not installed'} there, {own or 'not installed'} here"


def _judge(package: str, message: str, here: Mapping[str, str]) -> tuple[Literal["problem", "warning"], str, str]:
    """Return status, message and advice for a difference."""
    if package == "labelsieve":
        return "problem", message, f"Install labelsieve {here[package]} there, and start that process anew"
    return "warning", f"{message} ({_SHOULD_BE_EQUAL[package]})", f"Install {package} {here[package]} there"


def why_not_ours(error: object, installed: str | None) -> Exception:
    """Return why a process could not run a function of this version of Labelsieve, as `Versions` has it.

    Parameters
    ----------
    error : object
        What it raised as it loaded the function.
    installed : str or None
        The version of Labelsieve that is installed there; None if there is none.
    """
    own = installed_versions(["labelsieve"])["labelsieve"]
    if installed is None:
        return RuntimeError(f"labelsieve is not installed there, {own} here")
    if installed != own:
        return RuntimeError(f"labelsieve {installed} there, {own} here")
    return RuntimeError(f"labelsieve {installed} is installed there, but it does not load: {error}")


# For each client, the processes whose versions were compared.
_COMPARED: Final[WeakKeyDictionary[Any, set[str]]] = WeakKeyDictionary()


def compare_versions(client: Any, workers: Collection[str]) -> list[Difference]:
    """Compare the versions of the scheduler and of workers with those here, once for each.

    Parameters
    ----------
    client : distributed.Client
        Connected to the scheduler.
    workers : collection of str
        Addresses of workers.

    Returns
    -------
    list of Difference
        Other versions of Labelsieve, or none, with which no run is possible.

    Warns
    -----
    LabelsieveWarning
        If versions differ that should be equal.
    """
    compared = _COMPARED.setdefault(client, set())
    new = [worker for worker in workers if worker not in compared]
    if not new:
        return []
    there = {f"worker {name}": found for name, found in _worker_versions(client, new).items()}
    of_scheduler = None if compared else scheduler_versions(client)
    if of_scheduler is not None:
        there["the scheduler"] = of_scheduler
    found = list(differences(installed_versions(PACKAGES), there))
    problems = [one for one in found if one.status == "problem"]
    for difference in found:
        if difference.status == "warning":
            warn(difference.sentence)
    if not problems:
        compared.update(new)
    return problems


def _worker_versions(client: Any, workers: list[str]) -> dict[str, Versions]:
    """Return the versions of the workers that answer."""

    def on_workers(some: list[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = client.run(function, *arguments, workers=some, on_error="return")
        return {name: value for name, value in found.items() if not isinstance(value, OSError)}  # lost workers

    found = on_workers(workers, installed_versions, PACKAGES)
    failed = {name: value for name, value in found.items() if isinstance(value, Exception)}
    if failed:
        for name, version in on_workers(list(failed), metadata.version, "labelsieve").items():
            installed = version if isinstance(version, str) else None
            found[name] = why_not_ours(failed[name], installed)
    return found


def scheduler_versions(client: Any, packages: Collection[str] = PACKAGES) -> Versions | None:
    """Return the versions of the scheduler, which loads functions of Labelsieve too, as part of graphs.

    None if it is set not to run functions.
    """
    try:
        return dict(client.run_on_scheduler(installed_versions, packages))
    except OSError:
        raise
    except ValueError:  # "distributed.scheduler.blocked-handlers"
        return None
    except Exception as error:  # noqa: BLE001  # whatever an import there has raised
        try:
            installed = str(client.run_on_scheduler(metadata.version, "labelsieve"))
        except metadata.PackageNotFoundError:
            installed = None
        return why_not_ours(error, installed)
