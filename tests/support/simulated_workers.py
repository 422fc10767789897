"""Workers and inputs that take as long as real ones, for measurements of a scheduler: hundreds of them in one process.

The workers speak the protocol of `distributed`: they register, send heartbeats, run the real tasks, answer the client
and hand over work that is stolen. What they read is generated, and a task that reads is reported as finished when the
seconds have passed that the read would have taken. Values that one worker would fetch from another are found in this
process; their bytes are counted.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import os
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import dask
import numpy as np
from dask.sizeof import sizeof
from dask.utils import key_split, typename
from distributed.batched import BatchedSend
from distributed.comm import connect
from distributed.core import Server, Status, error_message
from distributed.protocol import to_serialize
from distributed.utils_comm import gather_from_workers
from distributed.versions import get_versions
from distributed.worker import _worker_cvar, dumps_function, run

from labelsieve.sources.source import ReadFacts, Rows, Source

# Rows that are generated once and repeated.
_PERIOD = 4096
_SPENT: list[float] | None = None


@dataclass(frozen=True)
class Store:
    """How long reads take.

    Parameters
    ----------
    bytes_per_s : float
        Bytes per second that a thread gets.
    latency_s : float
        Seconds before the first byte of a partition.
    spread : float
        Standard deviation of the logarithm of the seconds of a read.
    slow_share, slow_factor : float
        Share of the reads that take `slow_factor` times as long.
    """

    bytes_per_s: float
    latency_s: float = 0.02
    spread: float = 0.05
    slow_share: float = 0.0
    slow_factor: float = 10.0

    def seconds(self, n_bytes: float, seed: int) -> float:
        """Return the seconds of a read."""
        rng = np.random.default_rng(seed)
        factor = math.exp(self.spread * rng.standard_normal()) * (
            self.slow_factor if rng.random() < self.slow_share else 1
        )
        return (self.latency_s + n_bytes / self.bytes_per_s) * factor


class SimulatedSource(Source):
    """Generated rows, each of which stands for `row_bytes` bytes.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    n_classes : int
        Number of classes K.
    row_bytes : int
        Bytes that a row stands for.
    store : Store, optional
        How long reads take; none for labels.
    """

    def _content(self):
        return "simulated"

    def __init__(self, n_rows: int, n_classes: int, row_bytes: int, store: Store | None = None) -> None:
        shape = (n_rows, n_classes) if store else (n_rows,)
        super().__init__(shape, "f4" if store else "i8", ReadFacts(prefetch_bytes=64_000_000))  # as a remote source
        self.row_bytes, self.store, self.n_classes = row_bytes, store, n_classes

    @property
    def where(self):
        return "simulated"

    def open(self, start=0, stop=None):
        if self.store is not None and stop is not None:  # without a range nothing is read
            spend(self.store.seconds((stop - start) * self.row_bytes, start))
        return _SimulatedRows(self)


class _SimulatedRows(Rows):
    _made: dict = {}  # noqa: RUF012  # once a process

    def __init__(self, source):
        super().__init__(source)
        key = (source.n_classes, source.ndim)
        if key not in self._made:
            rng = np.random.default_rng(0)
            probs = rng.dirichlet(np.full(source.n_classes, 0.3), _PERIOD).astype("f4")
            labels = np.where(rng.random(_PERIOD) < 0.1, rng.integers(0, source.n_classes, _PERIOD), probs.argmax(1))
            rows = probs if source.ndim == 2 else labels.astype("i8")
            self._made[key] = np.concatenate([rows, rows])
        self._rows = self._made[key]

    def read(self, start, stop):
        if stop - start <= _PERIOD:
            return self._rows[start % _PERIOD :][: stop - start]
        return np.take(self._rows, np.arange(start, stop), axis=0, mode="wrap")


def spend(seconds: float) -> None:
    """Let time pass: in a simulated worker the task ends that much later, elsewhere this sleeps."""
    if _SPENT is None:
        time.sleep(seconds)
    else:
        _SPENT.append(seconds)


@contextmanager
def spending():
    """Collect the seconds that the block spends, in a list."""
    global _SPENT  # noqa: PLW0603  # one task at a time
    _SPENT = []
    try:
        yield _SPENT
    finally:
        _SPENT = None


@dataclass
class Meter:
    """What the workers of a process have done.

    Parameters
    ----------
    busy_s : float
        Seconds of all reads.
    first_s, last_s : float
        Times at which the first read began and the last one ended.
    first_cpu_s, last_cpu_s, cpu_s : float
        CPU seconds of the process at these times, and now.
    n_running, n_slots : int
        Number of reads that last, and the most that can last at a time.
    full_s, last_full_s : float
        Times at which reads began that filled nearly all slots, for the first and for the last time.
    n_tasks : Counter
        Number of tasks of each name.
    n_reads, fetched_bytes : int
        Number of tasks that have read, and bytes of results that workers would have fetched from others.
    """

    busy_s: float = 0.0
    first_s: float = math.inf
    last_s: float = 0.0
    first_cpu_s: float = math.inf
    last_cpu_s: float = 0.0
    cpu_s: float = 0.0
    n_running: int = 0
    n_slots: int = 0
    full_s: float = math.inf
    last_full_s: float = 0.0
    n_tasks: Counter = field(default_factory=Counter)
    n_reads: int = 0
    fetched_bytes: int = 0


class SimulatedWorker(Server):
    """A worker without threads, which runs tasks in the event loop that all of them share.

    Parameters
    ----------
    scheduler : str
        Address.
    name : str
        Name of the worker.
    nthreads : int
        Number of tasks that run at the same time.
    memory_limit : int
        Bytes that it says it has.
    values : dict
        Results of tasks, of all workers of the process.
    meter : Meter
        Counts.
    slowness : float
        Factor of the seconds that its reads take.
    """

    def __init__(self, scheduler, name, nthreads, memory_limit, values, meter, slowness=1.0):
        self.scheduler_address, self.name, self.nthreads, self.memory_limit = scheduler, name, nthreads, memory_limit
        self.slowness, self.meter, self.values, self.held = slowness, meter, values, {}
        self.ready, self.waiting, self.executing, self.free = [], {}, {}, nthreads
        self.stream = BatchedSend(interval="2ms")
        super().__init__(
            handlers={
                "get_data": self.get_data,
                "gather": self.gather,
                "run": lambda comm, **message: run(self, comm, **message),
                "ping": lambda: b"pong",
                "free_keys": self.free_keys,
                "versions": get_versions,
            },
            stream_handlers={
                "compute-task": self.compute,
                "free-keys": self.free_keys,
                "remove-replicas": self.free_keys,
                "acquire-replicas": self.acquire,
                "steal-request": self.steal,
                "cancel-compute": self.cancel,
                "refresh-who-has": lambda **_: None,
                "worker-status-change": lambda **_: None,
                "remove-worker": lambda **_: None,
                "close": self.leave,
            },
            connection_limit=64,
            needs_workdir=False,
        )

    def metrics(self):
        n_ready, n_executing = len(self.waiting), len(self.executing)
        return {
            "task_counts": {"ready": n_ready, "executing": n_executing, "memory": len(self.held)},
            "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
            "digests_total_since_heartbeat": {},
            "managed_bytes": sum(self.held.values()),
            "spilled_bytes": {"memory": 0, "disk": 0},
            "transfer": dict.fromkeys(
                (f"{way}_{what}" for way in ("incoming", "outgoing") for what in ("bytes", "count", "count_total")), 0
            ),
            "event_loop_interval": 0.02,
            "cpu": 10.0,
            "time": time.time(),
            "memory": 200_000_000,
            "host_net_io": {"read_bps": 0, "write_bps": 0},
            "host_disk_io": {"read_bps": 0, "write_bps": 0},
            "num_fds": 30,
        }

    async def start_unsafe(self):
        """Register; the worker runs tasks until the connection ends."""
        await self.listen("tcp://127.0.0.1:0")
        comm = await connect(self.scheduler_address)
        await comm.write(
            {
                "op": "register-worker",
                "reply": False,
                "address": self.address,
                "status": "running",
                "nthreads": self.nthreads,
                "name": self.name,
                "now": time.time(),
                "resources": {},
                "memory_limit": self.memory_limit,
                "local_directory": "",
                "services": {},
                "nanny": None,
                "pid": os.getpid(),
                "versions": get_versions(),
                "metrics": self.metrics(),
                "extra": {},
                "stimulus_id": f"worker-connect-{time.time()}",
                "server_id": self.id,
            },
            serializers=["msgpack"],
        )
        answer = await comm.read(deserializers=["msgpack"])
        self.stream.start(comm)
        self._tasks = [
            asyncio.create_task(self.handle_stream(comm)),
            asyncio.create_task(self.beat(answer["heartbeat-interval"])),
        ]
        return self

    async def beat(self, interval):
        scheduler = self.rpc(self.scheduler_address)
        await asyncio.sleep(interval * np.random.default_rng(hash(self.name) % 2**32).random())
        while True:
            now = time.time()
            answer = await scheduler.heartbeat_worker(
                address=self.address,
                now=now,
                metrics=self.metrics(),
                executing={key: now - start for key, (start, _) in self.executing.items()},
                extensions={},
            )
            await asyncio.sleep(answer.get("heartbeat-interval", interval))

    # What the scheduler asks for

    def compute(self, key, run_id, who_has, nbytes, priority, run_spec, stimulus_id, **_):
        fetched = [name for name in who_has if name not in self.held]
        for name in fetched:
            self.hold(name, nbytes[name])
            self.meter.fetched_bytes += nbytes[name]
        if fetched:
            self.stream.send({"op": "add-keys", "keys": fetched, "stimulus_id": stimulus_id})
        heapq.heappush(self.ready, (tuple(priority), run_id, key))
        self.waiting[key] = (run_id, list(who_has), run_spec)
        self.start_some()

    def start_some(self):
        while self.free and self.ready:
            _, run_id, key = heapq.heappop(self.ready)
            if self.waiting.get(key, (None,))[0] == run_id:
                self.free -= 1
                self.execute(key, *self.waiting.pop(key))

    def execute(self, key, run_id, dependencies, run_spec):
        start, meter = time.time(), self.meter
        self.current, self.events, token = key, [], _worker_cvar.set(self)
        try:
            with spending() as spent:
                value = run_spec({name: self.values[name][0] for name in dependencies})
        except Exception as error:  # noqa: BLE001  # as a worker does
            self.free += 1
            self.fail(key, run_id, error)
            return
        finally:
            _worker_cvar.reset(token)
        seconds = sum(spent) * self.slowness
        meter.n_tasks[key_split(key)] += 1
        if spent:
            meter.busy_s, meter.n_reads = meter.busy_s + seconds, meter.n_reads + 1
            meter.first_s = min(meter.first_s, start)
            meter.n_running += 1
            if meter.n_running >= 0.99 * meter.n_slots:
                meter.full_s, meter.last_full_s = min(meter.full_s, time.time()), time.time()
            meter.first_cpu_s = min(meter.first_cpu_s, time.process_time())
        self.executing[key] = (start, run_id)
        if seconds:
            finish = partial(self.finish, key, run_id, value, start, self.events, read=True)
            asyncio.get_running_loop().call_later(seconds, finish)
        else:
            self.finish(key, run_id, value, start, self.events)

    def fail(self, key, run_id, error):
        message = error_message(error)
        message["exception_text"], message["traceback_text"] = repr(error), ""
        message |= {"op": "task-erred", "status": "error", "key": key, "run_id": run_id, "thread": 1, "startstops": []}
        self.stream.send(message | {"stimulus_id": f"task-erred-{time.time()}"})

    def finish(self, key, run_id, value, start, events, *, read=False):
        self.free += 1
        for topic, msg in events:
            self.stream.send({"op": "log-event", "topic": topic, "msg": msg})
        if read:
            self.meter.last_s, self.meter.last_cpu_s = time.time(), time.process_time()
            self.meter.n_running -= 1
        if self.executing.pop(key, (None, None))[1] == run_id:
            n_bytes = sizeof(value)
            self.values[key] = [value, 0]
            self.hold(key, n_bytes)
            self.stream.send(
                {
                    "op": "task-finished",
                    "status": "OK",
                    "key": key,
                    "run_id": run_id,
                    "nbytes": n_bytes,
                    "type": dumps_function(type(value)),
                    "typename": typename(type(value)),
                    "metadata": {},
                    "thread": 1,
                    "startstops": [{"action": "compute", "start": start, "stop": time.time()}],
                    "stimulus_id": f"task-finished-{time.time()}",
                }
            )
        self.start_some()

    def hold(self, key, n_bytes):
        if key not in self.held:
            self.held[key] = n_bytes
            self.values[key][1] += 1

    def free_keys(self, keys, stimulus_id="", **_):
        for key in keys:
            self.waiting.pop(key, None)
            self.executing.pop(key, None)
            if self.held.pop(key, None) is not None:
                self.values[key][1] -= 1
                if not self.values[key][1]:
                    del self.values[key]
            if stimulus_id.startswith(("remove-replicas", "reduce", "active")):
                self.stream.send({"op": "release-worker-data", "key": key, "stimulus_id": stimulus_id})

    def acquire(self, who_has, nbytes, stimulus_id, **_):
        for key in who_has:
            self.hold(key, nbytes[key])
        self.stream.send({"op": "add-keys", "keys": list(who_has), "stimulus_id": stimulus_id})

    def steal(self, key, stimulus_id, **_):
        state = "ready" if key in self.waiting else "executing" if key in self.executing else None
        self.waiting.pop(key, None)
        self.stream.send({"op": "steal-response", "key": key, "state": state, "stimulus_id": stimulus_id})

    def cancel(self, key, **_):
        self.waiting.pop(key, None)

    async def leave(self, **_):
        for task in self._tasks:
            task.cancel()

    # What the client and other processes ask for

    async def get_data(self, comm, keys, **_):
        data = {key: to_serialize(self.values[key][0]) for key in keys if key in self.held}
        await comm.write({"status": "OK", "data": data})
        await comm.read()
        return Status.dont_reply

    async def gather(self, who_has, **_):
        found, *_ = await gather_from_workers(who_has, self.rpc)
        for key, value in found.items():
            self.values.setdefault(key, [value, 0])
            self.hold(key, sizeof(value))
        return {"status": "OK"}

    # What tasks ask for

    def log_event(self, topic, msg):
        self.events.append((topic, msg))

    def get_current_task(self):
        return self.current


async def work(scheduler: str, first: int, n_workers: int, nthreads: int, memory_limit: int, slow: dict) -> None:
    """Run workers until the scheduler goes away; answer ``meter`` on the scheduler's events."""
    values, meter = {}, Meter(n_slots=n_workers * nthreads)
    workers = [
        SimulatedWorker(scheduler, f"w{n}", nthreads, memory_limit, values, meter, slow.get(n, 1.0))
        for n in range(first, first + n_workers)
    ]
    for start in range(0, n_workers, 50):
        await asyncio.gather(*(worker for worker in workers[start : start + 50]))
    while True:
        await asyncio.sleep(1)


# No periodic work of the simulation itself: a real worker has a process for it.
QUIET = {
    "distributed.admin.system-monitor.interval": "1000s",
    "distributed.admin.tick.interval": "1000s",
    "distributed.comm.timeouts.connect": "120s",
}


def meter_of(dask_worker, *, is_new: bool = False) -> Meter:
    """Return the counts of the process of a worker, with its CPU seconds: a function for `Client.run`."""
    meter = dask_worker.meter
    if is_new:
        vars(meter).update(vars(Meter(n_slots=meter.n_slots)))
    meter.cpu_s = time.process_time()
    return meter


def main() -> None:
    """Run the workers that the arguments describe."""
    import labelsieve.find  # noqa: F401  # before the measurement

    address, first, n, threads, limit, slow = sys.argv[1:]
    with dask.config.set(QUIET):
        asyncio.run(work(address, int(first), int(n), int(threads), int(limit), dict(json.loads(slow))))


if __name__ == "__main__":
    # Sources are pickled by the name of their module: it must be this one, and not `__main__`.
    from simulated_workers import main as imported_main

    imported_main()
