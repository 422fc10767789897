"""Checks of machines, inputs and folders before a run: `diagnose` returns what it finds, and changes nothing.

A *problem* would make a run fail, or may give a wrong result; a *warning* may make it slow, or fail later; what is *ok*
says what was checked.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.filters import filter_of
from labelsieve.errors import LabelsieveError, LabelsieveWarning, TaskFailedError, UnwritableError
from labelsieve.execution.cluster import WORKER_SHARE, DescribedExecutor, DescribedWorkers, worker_facts
from labelsieve.execution.executor import Executor, LocalExecutor
from labelsieve.execution.local_cluster import CONNECT_SECONDS, cluster
from labelsieve.execution.process_facts import ProcessFacts, process_facts
from labelsieve.execution.versions import (
    PACKAGES,
    Versions,
    differences,
    installed_versions,
    scheduler_versions,
    why_not_ours,
)
from labelsieve.execution.worker_calls import Answer, ask_each, ask_here, ask_plainly
from labelsieve.memory import free_bytes, size
from labelsieve.pipeline.diagnosis import Diagnosis, Finding, Process, Status
from labelsieve.pipeline.inputs import Inputs
from labelsieve.pipeline.job import refuse_nested
from labelsieve.pipeline.job_settings import JobSettings
from labelsieve.pipeline.opening import open_given, open_inputs, open_pair
from labelsieve.pipeline.plan import make_plan
from labelsieve.pipeline.workdir import Workdir
from labelsieve.results.publish import check_output
from labelsieve.settings import Settings
from labelsieve.sources.base import Source
from labelsieve.sources.label_names import NameTable, are_names, mapped, open_label_values
from labelsieve.sources.open_array import Opened
from labelsieve.storage.folders import Folder, LocalFolder, open_folder, shared_probe
from labelsieve.storage.lock import owner_of

# Clocks that differ by more seconds than the first confuse readers of logs. By the second, S3 refuses requests.
_CLOCK_S: Final = 2
_S3_CLOCK_S: Final = 900
# Open files and connections that a process needs, and how many more for each worker.
_FILES: Final = 256
_FILES_A_WORKER: Final = 4
# Temporary files of objects that are uploaded, and what Dask spills.
_TEMPORARY_BYTES: Final = 1_000_000_000
# A worker is slow if it reads at less than this share of the median.
_SLOW_SHARE: Final = 1 / 3
# A shorter read says nothing of a worker.
_SLOW_S: Final = 0.1
# Bytes read at a time from files without chunks.
_PIECE_BYTES: Final = 4_000_000
_CLIENT: Final = "client"
_SCHEDULER: Final = "scheduler"
_SHARED: Final = "Put it on a file system that all workers mount at the same path, or at a URL"
# Errors of a place that is not there, or not to be written to.
_NOT_SHARED: Final = ("FileNotFoundError", "UnreadableDataError", "UnwritableError", "PermissionError")


def diagnose(
    labels: str | None = None,
    pred_probs: str | None = None,
    *,
    scheduler: str | None = None,
    workdir: str | None = None,
    output: str | None = None,
    patience: float = CONNECT_SECONDS,
    **settings: Any,
) -> Diagnosis:
    """Check this machine or a cluster, and whether a run with these arguments would find what it needs.

    At most a batch of `pred_probs` is read by each worker, and small files are written and removed again.

    Parameters
    ----------
    labels, pred_probs : str, optional
        Paths or URLs of both inputs, or columns of `data`, or neither.
    scheduler : str, optional
        Address of a running scheduler.
    workdir, output : str, optional
        As in `labelsieve.find_label_issues`.
    patience : float
        Seconds to wait for the scheduler, for a first worker, and for each answer of a worker.
    **settings
        What says how inputs are read, as in `labelsieve.find_label_issues`: `data`, `summaries`, `n_classes`,
        `from_logits`, `dtype`, `ignore_label`.
    """
    found, chosen = Diagnosis(), JobSettings(**settings)
    places = [one for one in (labels, pred_probs, chosen.data, chosen.summaries) if one is not None]
    if chosen.data is not None:
        places = [chosen.data]
    with ExitStack() as stack:
        checks = _Checks(found, patience)
        checks.client(scheduler)
        if scheduler is not None:
            checks.scheduler(stack, scheduler)
            checks.workers()
            checks.clocks([*places, workdir, output])
        checks.versions()
        checks.limits()
        inputs = None
        if places:
            inputs = checks.inputs(labels, pred_probs, chosen, workdir=workdir is not None, output=output is not None)
        if workdir is not None:
            checks.workdir(workdir, output)
        if output is not None:
            checks.output(output, places)
        if inputs is not None:
            checks.reading(inputs)
    return found


class _Checks:
    """The checks, which add to a diagnosis.

    Parameters
    ----------
    found : Diagnosis
        What they add to.
    patience : float
        Seconds to wait for each answer.
    """

    def __init__(self, found: Diagnosis, patience: float) -> None:
        self._found, self._patience = found, patience
        self._client: Any = None
        # The processes that would read, as far as they answer.
        self._readers: list[str] = []

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _add(self, check: str, subject: str, status: Status, message: str, advice: str = "") -> None:
        self._found.findings.append(Finding(check, subject, status, " ".join(message.split()), advice))

    @property
    def _readers_named(self) -> str:
        """The subject of a finding about all processes that would read."""
        return _CLIENT if self._readers == [_CLIENT] else "workers"

    def _ask(self, calls: Mapping[str, Callable[[], Any]] | Callable[[], Any]) -> dict[str, Answer]:
        """Make a call in each process that would read, and return the answers; drop those that give none."""
        if callable(calls):
            calls = dict.fromkeys(self._readers, calls)
        if self._client is None:
            return {name: ask_here(call) for name, call in calls.items()}
        return self._heard(ask_each(self._client, calls, self._patience))

    def _heard(self, answers: dict[str, Answer]) -> dict[str, Answer]:
        for name, answer in answers.items():
            if answer.silence:
                self._readers.remove(name)
                self._add(
                    *("workers", name, "problem", f"it does not answer: {answer.silence}"),
                    "See in its log whether it died or hangs, and start it anew",
                )
        return {name: answer for name, answer in answers.items() if not answer.silence}

    @contextmanager
    def _reporting(self, check: str, advice: str = "") -> Iterator[None]:
        """Turn errors and warnings of Labelsieve in the block into findings about the client."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LabelsieveWarning)
            try:
                yield
            except LabelsieveError as error:
                self._add(check, _CLIENT, "problem", str(error), advice or _advice(type(error).__name__))
        for warning in caught:
            if issubclass(warning.category, LabelsieveWarning):
                self._add(check, _CLIENT, "warning", str(warning.message))

    # Machines ---------------------------------------------------------------------------------------------------------

    def client(self, scheduler: str | None) -> None:
        """Note the facts of this process, which reads if there is no cluster."""
        facts = process_facts()
        process = self._found.processes[_CLIENT] = Process(_CLIENT, facts)
        if scheduler is None:
            process.n_threads = facts.n_cores
            self._readers = [_CLIENT]

    def scheduler(self, stack: ExitStack, address: str) -> None:
        """Connect to the scheduler."""
        try:
            self._client = stack.enter_context(cluster(address, patience=self._patience))
        except TaskFailedError as error:
            advice = "See that it runs, and that this machine may connect to that port"
            self._add("scheduler", _CLIENT, "problem", str(error), advice)
            return
        began = time.perf_counter()
        self._client.nthreads()
        trip = time.perf_counter() - began
        self._found.processes[_SCHEDULER] = Process(_SCHEDULER, round_trip_s=trip)
        self._add("scheduler", _SCHEDULER, "ok", f"it answers at {address} in {1000 * trip:.1f} ms")

    def workers(self) -> None:
        """Note the workers; an adaptive cluster starts one only when there is a task."""
        if self._client is None:
            return
        workers = worker_facts(self._client)
        if not workers:
            future = self._client.submit(int, pure=False)
            try:
                future.result(timeout=self._patience)
            except TimeoutError:
                advice = "Start workers: dask worker ADDRESS, or cluster.scale(10)"
                self._add(
                    "workers", _SCHEDULER, "problem", f"it has no worker within {self._patience:g} seconds", advice
                )
            finally:
                future.release()
            workers = worker_facts(self._client)
        for name, facts in workers.items():
            self._found.processes[name] = Process(
                name, n_threads=int(facts["nthreads"]), memory_limit=int(facts["memory_limit"] or 0)
            )
        self._readers = list(workers)

    def clocks(self, places: Iterable[str | None]) -> None:
        """Compare the clocks; this is also the first question whether the workers answer."""
        if not self._readers:
            return
        answers = self._heard(ask_plainly(self._client, self._readers, self._patience, time.time))
        on_s3 = any(place is not None and place.startswith(("s3://", "s3a://")) for place in places)
        largest = 0.0
        for name, answer in answers.items():
            process = self._found.processes[name]
            process.round_trip_s = answer.answered - answer.asked
            ahead = process.clock_difference_s = answer.value - (answer.answered + answer.asked) / 2
            sure = abs(ahead) - process.round_trip_s / 2  # the answer is from any moment of the round trip
            largest = max(largest, sure)
            if sure > _CLOCK_S:
                refused = on_s3 and sure > _S3_CLOCK_S
                self._add(
                    *("clock", name, "problem" if refused else "warning"),
                    f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the client's"
                    + (": S3 refuses requests of a clock that is 15 minutes off" if refused else ""),
                    "Let NTP set the clocks of both machines",
                )
        if answers and largest <= _CLOCK_S:
            self._add("clock", "workers", "ok", f"their clocks are within {_CLOCK_S} s of the client's")
        if answers:
            n_threads = sum(self._found.processes[name].n_threads or 0 for name in answers)
            trip = max(self._found.processes[name].round_trip_s or 0 for name in answers)
            message = f"{len(answers):,} answer within {1000 * trip:.0f} ms, with {n_threads:,} threads in all"
            self._add("workers", "workers", "ok", message)

    def versions(self) -> None:
        """Ask the processes for their facts, and compare versions; drop those with another Labelsieve."""
        here, there = installed_versions(), dict[str, Versions]()
        if self._client is not None:
            versions = scheduler_versions(self._client, PACKAGES)
            if versions is not None:
                there[_SCHEDULER] = versions
                if not isinstance(versions, Exception) and versions["labelsieve"] == here["labelsieve"]:
                    self._found.processes[_SCHEDULER].facts = self._client.run_on_scheduler(process_facts)
        for name, answer in self._ask(process_facts).items():
            if answer.misunderstanding is not None:
                plain = ask_plainly(self._client, [name], self._patience, metadata.version, "labelsieve")[name]
                there[name] = why_not_ours(answer.misunderstanding, plain.value)
            elif answer.failure:
                self._add("limits", name, "problem", f"its limits cannot be read: {answer.failure}")
            elif name != _CLIENT:
                self._found.processes[name].facts = answer.value
                there[name] = answer.value.versions
        n_before = len(self._found.findings)
        for difference in differences(here, there):
            for name in difference.processes:
                self._add("versions", name, difference.status, difference.message, difference.advice)
                if difference.status == "problem" and name in self._readers:
                    self._readers.remove(name)
        if there and len(self._found.findings) == n_before:
            self._add("versions", "workers", "ok", "all packages have the versions of the client")

    def limits(self) -> None:
        """Compare what processes may take with what they need and what their machines have."""
        n_before, hosts = len(self._found.findings), defaultdict[str, list[Process]](list)
        for process in self._found.processes.values():
            if process.facts is not None:
                self._limits_of(process, process.facts)
                if process.n_threads is not None:
                    hosts[process.facts.host].append(process)
        for processes in hosts.values():
            self._limits_of_host(processes)
        if len(self._found.findings) == n_before and hosts:
            n_cores = sum(process.facts.n_cores for [process, *_] in hosts.values() if process.facts)
            least = min(process.facts.free_bytes for host in hosts.values() for process in host if process.facts)
            message = f"{n_cores:,} cores; at least {size(least)} of memory are free; enough files and temporary space"
            self._add("limits", self._readers_named, "ok", message)

    def _limits_of(self, process: Process, facts: ProcessFacts) -> None:
        add = partial(self._add, "limits", process.name, "warning")
        n_files = _FILES + _FILES_A_WORKER * sum(one.memory_limit is not None for one in self._found.processes.values())
        if facts.open_files is not None and facts.open_files < n_files:
            message = f"it may open {facts.open_files:,} files and connections, and may need {n_files:,}"
            add(message, f"Raise the limit before it starts: ulimit -n {max(n_files, 65_536)}")
        if process.name == _SCHEDULER:
            return
        if not facts.temporary_folder:
            message = "there is no folder for temporary files that it can write to"
            self._add("limits", process.name, "problem", message, "Set TMPDIR to such a folder")
        elif facts.temporary_bytes < _TEMPORARY_BYTES:
            message = f"its temporary folder {facts.temporary_folder} has {size(facts.temporary_bytes)} left"
            add(message, "Free space there, or set TMPDIR to another folder")
        if facts.temporary_in_memory:
            message = f"its temporary folder {facts.temporary_folder} is in memory, so files there take memory"
            add(message, "Set TMPDIR to a folder on a disk")
        if process.memory_limit and facts.pause_share < WORKER_SHARE:
            add(
                f"Dask pauses it at {facts.pause_share:.0%} of its memory limit, and a run is planned with "
                f"{WORKER_SHARE:.0%}",
                f"Run with --max-memory {size(process.memory_limit * facts.pause_share).replace(' ', '')}, or set "
                "distributed.worker.memory.pause",
            )
        n_threads = process.n_threads or 0
        if (
            process.memory_limit is not None
            and facts.blas_threads > 1
            and n_threads * facts.blas_threads > facts.n_cores
        ):
            add(
                f"its {n_threads} thread{'s' if n_threads > 1 else ''} may start {facts.blas_threads} threads of BLAS "
                f"each, on {facts.n_cores} cores. Labelsieve calls no BLAS, but your own Dask arrays may",
                "Set OMP_NUM_THREADS=1 before it starts",
            )

    def _limits_of_host(self, processes: list[Process]) -> None:
        """Compare the workers of a machine or container with what it has."""
        facts = processes[0].facts
        if facts is None:
            return
        subject = processes[0].name if len(processes) == 1 else "workers"
        n_threads = sum(process.n_threads or 0 for process in processes)
        limits = sum(process.memory_limit or 0 for process in processes)
        workers = f"the {len(processes)} of them on {facts.host}" if len(processes) > 1 else "it"
        if n_threads > facts.n_cores:
            message = f"{workers} run{'s' if workers == 'it' else ''} {n_threads} threads on {facts.n_cores} cores"
            self._add("limits", subject, "warning", message, "Start workers with fewer threads: --nthreads")
        if limits > facts.most_bytes * 1.001:  # limits in text are rounded
            message = f"{workers} may take {size(limits)} in all, and the machine or container has "
            self._add(
                *("limits", subject, "warning", message + size(facts.most_bytes)),
                "Start workers with a lower --memory-limit, or the kernel kills them before Dask pauses them",
            )

    # Inputs and folders -----------------------------------------------------------------------------------------------

    def inputs(
        self, labels: str | None, pred_probs: str | None, settings: JobSettings, *, workdir: bool, output: bool
    ) -> Inputs | None:
        """Open both inputs here, plan a run with the default filter, and let all workers open the inputs."""
        opened: tuple[Opened, Opened] | None = None
        with self._reporting("inputs"):
            opening = partial(open_label_values, ignore_label=settings.ignore_label)
            given = open_given(labels, pred_probs, settings, free_bytes())
            as_given = {"from_logits": settings.from_logits, "dtype": settings.dtype}
            opened = open_pair(*given[:2], **as_given, open_as=opening)
        if opened is None:
            return None
        n_rows, n_classes = opened[1].shape
        values = opened[0].dtype
        if are_names(opened[0]):
            opened = mapped(opened[0], NameTable(())), opened[1]  # whose names are not needed
        elif np.iinfo(values).max < n_classes - 1:
            message = f"labels are {opened[0].dtype}, which cannot hold all of the {n_classes:,} classes of pred_probs"
            advice = "See that the labels did not overflow when they were stored, and that the two belong together"
            self._add("inputs", _CLIENT, "warning", message, advice)
        shapes = f"{n_rows:,} rows, {n_classes:,} classes, {opened[1].dtype}; labels {values}"
        if not self._readers:
            self._add("inputs", _CLIENT, "ok", shapes)
            return None
        inputs: Inputs | None = None
        with self._reporting("plan", "Take what would fit, or more memory; labelsieve plan takes the same options"):
            inputs = open_inputs(*opened, executor=self._executor(), read=False)
            plan = make_plan(inputs, filter_of(Settings()), self._executor(), workdir=workdir, output=output)
            each = " of each worker" if self._client is not None else ""
            message = f"{size(plan.bytes_read)} to read; peak memory{each} {size(plan.process_bytes)} of "
            self._add("plan", self._readers_named, "ok", f"{message}{size(plan.limit)}")
        failed = False
        for name, one in zip(("labels", "pred_probs"), opened, strict=True):
            if not isinstance(one, Source) or self._client is None:
                continue
            for worker, answer in self._ask(one.reachable).items():
                why = answer.failure or answer.misunderstanding
                if why:
                    failed = True
                    message = f"it cannot open {name} ({one.where}): {why}"
                    self._add("inputs", worker, "problem", message, _advice(answer.failure))
        if not failed:
            everywhere = ", and all workers can open them" if self._client is not None else ""
            self._add("inputs", _CLIENT, "ok", f"{shapes}{everywhere}")
        return inputs

    def _executor(self) -> Executor:
        """Return what stands for the processes in a plan, and runs nothing."""
        processes = [self._found.processes[name] for name in self._readers]
        if self._client is None:
            return LocalExecutor()
        limits = [one.memory_limit or (one.facts.free_bytes if one.facts else 0) for one in processes]
        threads = max(one.n_threads or 1 for one in processes)
        return DescribedExecutor(DescribedWorkers(len(processes), threads, min(limits)))

    def workdir(self, location: str, output: str | None) -> None:
        """Check who uses the workdir, and that all workers see it."""
        with self._reporting("workdir"):
            refuse_nested(location, output)
            folder = Workdir.peek(location, fresh=False).folder
            owner = owner_of(folder)
            if owner:
                in_store = not isinstance(folder, LocalFolder)
                self._add(
                    *("workdir", _CLIENT, "warning", f"{folder.where} is in use by {owner}"),
                    "A new run takes over at once, and that one fails if it still runs"
                    if in_store
                    else "Wait until that run ends: a new run waits for --wait seconds, then exits with 75",
                )
            self._share("workdir", folder)

    def output(self, location: str, inputs: list[str]) -> None:
        """Check that the output can be written: by all workers if it is a ``.zarr`` group."""
        with self._reporting("output"):
            check_output(location, inputs)
            folder = open_folder(location, "output")
            if not folder.where.endswith(".zarr"):
                self._add("output", _CLIENT, "ok", f"{folder.where} can be written")
                return
            self._share("output", folder)

    def _share(self, check: str, folder: Folder) -> None:
        """Let all processes write in `folder`, or in the folder in which it would be made."""
        if isinstance(folder, LocalFolder):
            places = [folder.path.parent] if check == "output" else [folder.path, *folder.path.parents]
            probed: Folder = LocalFolder(next(path for path in places if path.is_dir()))
        else:
            probed = folder.folder(".doctor")
        failed = False
        try:
            with shared_probe(probed) as probe:
                answers = self._ask(probe)
        except UnwritableError as error:
            advice = "Name a folder that this process may write to"
            self._add(check, _CLIENT, "problem", f"the {check} {folder.where} cannot be written: {error}", advice)
            return
        for name, answer in answers.items():
            why = answer.failure or answer.misunderstanding
            if why:
                failed = True
                message = f"it does not see what the client writes to {probed.where}, or cannot write there: {why}"
                self._add(check, name, "problem", message, _advice(answer.failure))
        if not isinstance(probed, LocalFolder):
            probed.delete()
        if not failed and self._readers:
            self._add(check, self._readers_named, "ok", f"{folder.where} can be written")

    def reading(self, inputs: Inputs) -> None:
        """Let each process read at most a batch of `pred_probs`, each another one, and compare the rates."""
        source, n_readers = inputs.pred_probs_source, len(self._readers)
        if source is None or not n_readers:
            return
        calls = {}
        for number, name in enumerate(self._readers):
            start, stop = inputs.grid.ranges(number * inputs.grid.n_partitions // n_readers)[0]
            calls[name] = partial(_read, source, start, stop, self._patience / 2)
        self._note_rates(self._ask(calls))
        read = {name: rate for name in self._readers if (rate := self._found.processes[name].read_rate) is not None}
        if not read:
            return
        median = statistics.median(read.values())
        slow = [name for name in read if self._is_slow(name, median)]
        if slow:  # once more: the first read may have waited for something else
            self._note_rates(self._ask({name: calls[name] for name in slow if name in self._readers}))
        for name in slow:
            if self._is_slow(name, median):
                rate = self._found.processes[name].read_rate or 0
                message = f"it reads {size(rate)} per second, and the median of all workers is {size(median)}"
                self._add(
                    "reading", name, "warning", message, "See what else its machine or network does, or leave it out"
                )
        most = max(self._found.processes[name].read_bytes or 0 for name in read)
        rates = sorted(self._found.processes[name].read_rate or 0 for name in read)
        spread = f"{size(rates[0])} to {size(rates[-1])}" if len(rates) > 1 else size(rates[0])
        message = f"{spread} of pred_probs per second, in a read of {size(most)}"
        self._add("reading", self._readers_named, "ok", message)

    def _is_slow(self, name: str, median: float) -> bool:
        process = self._found.processes[name]
        return (process.read_rate or 0) < _SLOW_SHARE * median and (process.read_s or 0) > _SLOW_S

    def _note_rates(self, answers: dict[str, Answer]) -> None:
        """Note what was read; of two reads the faster one."""
        for name, answer in answers.items():
            why = answer.failure or answer.misunderstanding
            if why:
                self._add("reading", name, "problem", f"it cannot read pred_probs: {why}", _advice(answer.failure))
                continue
            process = self._found.processes[name]
            n_bytes, seconds = answer.value
            if process.read_rate is None or n_bytes / seconds > process.read_rate:
                process.read_bytes, process.read_s = n_bytes, seconds


def _read(source: Source, start: int, stop: int, most_seconds: float) -> tuple[int, float]:
    """Read rows ``[start, stop)``, or as many as can be read in some seconds; return bytes and seconds."""
    step = source.row_chunk or max(1, _PIECE_BYTES // source.row_bytes)
    began, done = time.perf_counter(), start
    with source.open_raw(start, stop) as rows:
        while done < stop and (done == start or time.perf_counter() - began < most_seconds):
            end = min(stop, (done // step + 1) * step)
            rows.read(done, end)
            done = end
    return (done - start) * source.read_row_bytes, max(1e-9, time.perf_counter() - began)


def _advice(failure: str) -> str:
    """Return what to do about an error that begins with the name of its class."""
    if "MissingDependencyError" in failure or "ImportError" in failure or "ModuleNotFoundError" in failure:
        return "Install what is missing in the environment of that process, and start it anew"
    if "InvalidInputError" in failure and "credentials" in failure:
        return "Give the credentials to that process, in its own environment"
    if any(name in failure for name in _NOT_SHARED):
        return _SHARED
    return "Mend what the message names"
