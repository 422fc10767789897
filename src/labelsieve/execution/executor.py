"""Who runs the tasks: the interface, and Dask's local scheduler."""

from __future__ import annotations

import abc
import contextlib
import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import dask
import dask.threaded
from dask.core import flatten
from dask.system import CPU_COUNT

from labelsieve.errors import TaskFailedError, warn
from labelsieve.execution.memory import INTERPRETER_BYTES, free_bytes, own_bytes
from labelsieve.execution.progress import Progress
from labelsieve.storage.remote import Cancellation, is_cancelled

if TYPE_CHECKING:
    import dask.array as da  # for types alone: its import takes longer than many a job


class TaskAbandoned(BaseException):  # not an error, as `asyncio.CancelledError` is not
    """Nobody waits for this task any more: the run has failed or was interrupted."""


def report(topic: str, kind: str, *facts: Any) -> None:
    """Send the client an event that `Progress.subscribed` handles: its kind, and facts."""
    worker = _worker()
    if worker is not None:
        worker.log_event(topic, (kind, *facts))


def stop_if_abandoned() -> None:
    """Raise `TaskAbandoned` in a task that is cancelled. A thread cannot be stopped from outside.

    Tasks call it before they open what they read, before each strip or block, and before they commit what they have
    read.
    """
    if is_cancelled():
        raise TaskAbandoned
    worker = _worker()
    if worker is None:
        return
    try:
        state = worker.state.tasks[worker.get_current_task()].state
    except (AttributeError, KeyError, ValueError):  # Dask may change this, which is not documented
        return
    if state == "cancelled":
        raise TaskAbandoned


def _worker() -> Any:
    """Return the worker that runs this task; None elsewhere."""
    distributed: Any = sys.modules.get("distributed")
    try:
        return distributed.get_worker()
    except (AttributeError, ValueError):
        return None


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


_FREE_SHARE: Final = 0.8
# Bytes that the imports of a run add to a fresh process.
_FRESH_BYTES: Final = 60_000_000
# The pool that Dask's own scheduler uses; older versions of Dask use the standard library's.
_Pool: Final = getattr(dask.threaded, "ContextAwareThreadPoolExecutor", ThreadPoolExecutor)


class LostDataError(TaskFailedError):
    """Blocks that were being computed, or scattered arrays, were lost with a worker or the scheduler."""


@dataclass(frozen=True)
class Stage:
    """A map over chunks, or the tree reduction of its results, as a Dask array whose blocks may be any objects.

    Parameters
    ----------
    output : dask.array.Array
        Has one block per chunk, or one block with the total.
    priority : callable, optional
        Returns the priority of a task on a cluster by its key; None if the order does not matter.
    cancellation : Cancellation
        Stops the tasks of the map where threads of this process run them.
    """

    output: da.Array
    priority: Callable[[Any], int] | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)


class Executor(abc.ABC):
    """Computes Dask arrays.

    Attributes
    ----------
    n_processes, n_threads : int
        Processes, and threads in each, that share the work.
    limit : int
        Bytes that each process may take.
    limit_name : str
        Where that limit comes from, for messages.
    base_bytes : int
        Bytes of a process before any work.
    is_cluster : bool
        Whether tasks run in other processes than this.
    attempts : int
        Number of times that a task may run in one process before data that it cannot read is an error; 1 on a cluster,
        which runs the task again on another worker.
    retries : int
        Number of times to run a failed task again.
    misfits : sequence of Difference
        Versions of other processes with which no run is possible.
    """

    n_processes: int
    n_threads: int
    limit: int
    limit_name: str
    base_bytes: int
    is_cluster: bool
    attempts: int = 1
    retries: int = 0
    misfits: Sequence[Difference] = ()

    @property
    def described(self) -> str:
        """Who runs the tasks, in words."""
        return f"{self.n_threads} thread{'s' if self.n_threads > 1 else ''}"

    @property
    def all_threads(self) -> int:
        """Threads of all processes."""
        return self.n_processes * self.n_threads

    @abc.abstractmethod
    def hold(self, stage: Stage, progress: Progress | None = None, describe: Callable[[Any], str] = str) -> list[Any]:
        """Compute a stage in one graph.

        Parameters
        ----------
        stage : Stage
            What to compute.
        progress : Progress, optional
            Reports what is done.
        describe : callable
            Names the rows of a task by its key, for messages.

        Returns
        -------
        list
            The blocks of the map in order, or the total alone if there is one; futures if workers hold them.
        """

    @abc.abstractmethod
    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the blocks that `hold` returned futures of."""

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of tasks of a map over `n_blocks` blocks that are kept where they were made."""
        return n_blocks

    def groups(self, blocks: Sequence[Any]) -> list[list[int]]:  # noqa: ARG002  # of blocks on this machine
        """Return the numbers of the blocks in groups, each held by one worker; an empty list for a task each."""
        return []

    def scatter(self, parts: Sequence[Any]) -> list[Any]:
        """Send arrays to the workers, once; return handles of them."""
        return list(parts)

    def unless_lost(self, function: Callable[[], list[Any]]) -> list[Any]:
        """Return what `function` gives, which hands out what it needs; again where that is lost with a worker."""
        return function()

    @abc.abstractmethod
    def check_reachable(self, check: Callable[[], None]) -> None:
        """Run `check` wherever tasks will run, and raise its error with the name of the worker."""

    def persist(self, array: Any) -> Any:
        """Compute a user's Dask array and keep it, chunk by chunk."""
        return array.persist()


class LocalExecutor(Executor):
    """Dask's threads in this process, or whatever scheduler Dask's configuration names.

    Parameters
    ----------
    max_memory : int, optional
        Bytes that this process may take.
    retries : int
        Number of times to run a task again that cannot read its data.
    """

    def __init__(self, max_memory: int | None = None, retries: int = 0) -> None:
        self.attempts, self.retries = retries + 1, retries
        self.n_processes, self.n_threads = 1, int(dask.config.get("num_workers", None) or CPU_COUNT)
        # What this process already holds counts too: a notebook, arrays in memory.
        self.base_bytes, self.is_cluster = max(INTERPRETER_BYTES, own_bytes() + _FRESH_BYTES), False
        free = free_bytes()
        self.limit = int(free * _FREE_SHARE) + self.base_bytes
        self.limit_name = f"{_FREE_SHARE:.0%} of the free memory"
        if max_memory is not None and max_memory < self.limit:
            self.limit, self.limit_name = max_memory, "max_memory"

    def hold(
        self,
        stage: Stage,
        progress: Progress | None = None,
        describe: Callable[[Any], str] = str,  # noqa: ARG002  # no worker dies here
    ) -> list[Any]:
        """Compute a stage in this process. After an error or an interrupt, the tasks that still run stop soon."""
        try:
            with contextlib.nullcontext() if progress is None else progress.listening(), self._scheduler() as keyword:
                return blocks_of(stage.output.persist(**keyword))
        except BaseException:
            stage.cancellation.request()
            raise

    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the handles: they are the values."""
        return list(handles)

    def check_reachable(self, check: Callable[[], None]) -> None:
        """Do nothing: what opened the sources reads them."""

    def persist(self, array: Any) -> Any:
        """Compute a Dask array and keep it."""
        with self._scheduler() as keyword:
            return array.persist(**keyword)

    @contextlib.contextmanager
    def _scheduler(self) -> Iterator[dict[str, Any]]:
        """Yield the keyword that has Dask use threads which end with the block.

        A process would never end if Ctrl-C came while the first thread of Dask's own pool starts: nobody knows of that
        thread to end it, and Python waits for it. The keyword also keeps Dask from importing `distributed` only to find
        that there is no client, which takes longer than many a job. What the user has set goes first.
        """
        if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed", "threads"):
            yield {}
        elif dask.config.get("pool", None):
            yield {"scheduler": dask.threaded.get}
        else:
            pool = _Pool(self.n_threads, "labelsieve-task")
            try:
                yield {"scheduler": partial(dask.threaded.get, pool=pool)}
            finally:
                pool.shutdown(wait=False)  # after Ctrl-C a thread may be stuck in a store that does not answer


def blocks_of(persisted: da.Array) -> list[Any]:
    """Return the blocks of a persisted Dask array in order, or their futures."""
    graph = dict(persisted.__dask_graph__())
    return [graph[key] for key in flatten(persisted.__dask_keys__())]
