"""What a scheduler, a client and the network have to do for jobs of 1 to 100 TB on hundreds of workers.

A real scheduler runs in a process of its own, the job runs in this one, and simulated workers in a third: they run the
real tasks of the real graph on generated rows, and report a task that reads as finished when the seconds have passed
that the read takes at the rate and latency of the store. So idle workers and the time that ends late are measured, and
nothing is estimated from a formula, apart from jobs that are cut, which say so.

    python tests/benchmarks/simulated_cluster.py --terabytes 100 --workers 1000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import psutil
from distributed import Client

SUPPORT = Path(__file__).parent.parent / "support"
sys.path.insert(0, str(SUPPORT))

import labelsieve  # noqa: E402
from simulated_workers import QUIET, SimulatedSource, Store, meter_of  # noqa: E402


def count_traffic(dask_scheduler):
    """Count the bytes that the scheduler sends and receives, from now on."""
    from distributed.comm import tcp

    counts = dask_scheduler.labelsieve_traffic = {"sent": 0, "received": 0}
    write, from_frames = tcp.TCP.write, tcp.from_frames

    async def counted_write(self, *args, **kwargs):
        n_bytes = await write(self, *args, **kwargs)
        counts["sent"] += n_bytes or 0
        return n_bytes

    async def counted_from_frames(frames, *args, **kwargs):
        counts["received"] += sum(memoryview(frame).nbytes for frame in frames)
        return await from_frames(frames, *args, **kwargs)

    tcp.TCP.write, tcp.from_frames = counted_write, counted_from_frames


def facts_of(dask_scheduler):
    """Return what the scheduler process has taken."""
    import psutil

    process = psutil.Process()
    times = process.cpu_times()
    return dask_scheduler.labelsieve_traffic | {"cpu_s": times.user + times.system, "rss": process.memory_info().rss}


@contextlib.contextmanager
def cluster(n_workers: int, n_threads: int, slow: dict[int, float]):
    """Start a scheduler and simulated workers, and yield a client."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder, "scheduler.json")
        command = [sys.executable, "-c", "from distributed.cli.dask_scheduler import main; main()"]
        command += ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(path)]

        def start(command):
            log = stack.enter_context(Path(folder, f"log{len(command)}").open("w"))
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=sys.stderr if "-v" in sys.argv else log
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start(command)
        while not path.exists() or not path.read_text():
            time.sleep(0.1)
        address = json.loads(path.read_text())["address"]
        numbers = (0, n_workers, n_threads, 4_000_000_000 * n_threads, json.dumps(list(slow.items())))
        start([sys.executable, str(SUPPORT / "simulated_workers.py"), address, *map(str, numbers)])
        with dask.config.set({"distributed.comm.timeouts.connect": "60s"}), Client(address) as client:
            client.wait_for_workers(n_workers, timeout=300)
            yield client


def measure(
    client: Client, terabytes: float, cut: float, n_workers: int, n_threads: int, store: Store, **options
) -> dict:
    """Run a job, of which `cut` is the share that is run, and return its figures."""
    n_slots = n_workers * n_threads
    n_rows = max(1, round(1024 * n_slots * max(cut, 0.01)))
    row_bytes = int(terabytes * 1e12 * cut / n_rows)
    source = SimulatedSource(n_rows, 100, row_bytes, store)
    labels = SimulatedSource(n_rows, 100, 8)
    plan = labelsieve.plan_label_issues(labels, source, client=client, **options)
    one = list(client.scheduler_info(n_workers=1)["workers"])[:1]
    before = client.run_on_scheduler(facts_of)
    [at_start] = client.run(meter_of, workers=one, is_new=True).values()
    client_cpu, started = time.process_time(), time.time()
    issues = labelsieve.find_label_issues(labels, source, client=client, progress=False, **options)
    seconds, client_cpu = time.time() - started, time.process_time() - client_cpu
    after = client.run_on_scheduler(facts_of)
    [meter] = client.run(meter_of, workers=one).values()
    # Before the first read and after the last one, all tasks wait for the one process that stands for all workers.
    alone = meter.first_cpu_s - at_start.cpu_s + meter.cpu_s - meter.last_cpu_s
    reading = meter.busy_s / n_slots
    return {
        "partitions": plan.n_partitions,
        "tasks": sum(meter.n_tasks.values()),
        "reading_s": reading,
        "total_s": seconds,
        "before_s": meter.first_s - started,
        "filling_s": meter.full_s - meter.first_s,
        "emptying_s": meter.last_s - meter.last_full_s,
        "after_s": started + seconds - meter.last_s,
        "scheduler_s": after["cpu_s"] - before["cpu_s"],
        "client_s": client_cpu,
        "simulator_s": meter.cpu_s - at_start.cpu_s,
        "simulator_alone_s": alone,
        "idle": 1 - reading / seconds,
        "idle_without_simulator": 1 - reading / (seconds - alone),
        "scheduler_mb": after["rss"] / 1e6,
        "client_mb": psutil.Process().memory_info().rss / 1e6,
        "sent_mb": (after["sent"] - before["sent"]) / 1e6,
        "received_mb": (after["received"] - before["received"]) / 1e6,
        "fetched_mb": meter.fetched_bytes / 1e6,
        "issues": issues.num_issues,
        "kinds": json.dumps(meter.n_tasks),
    }


def main() -> None:
    """Run the job that the options describe, and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terabytes", type=float, nargs="+", default=[1, 10, 100])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--worker-rate", type=float, default=1e9, help="bytes per second of a worker")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before the first byte of a partition")
    parser.add_argument("--spread", type=float, default=0.05)
    parser.add_argument("--cut", type=float, default=1.0, help="share of the job that is run")
    parser.add_argument("--partition-batches", type=int)
    parser.add_argument("-v", action="store_true", help="show the logs of scheduler and workers")
    options = parser.parse_args()
    dask.config.set(QUIET)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the processes
    store = Store(options.worker_rate / options.threads, options.latency, options.spread)
    with cluster(options.workers, options.threads, {}) as client:
        client.run_on_scheduler(count_traffic)
        for terabytes in options.terabytes:
            more = {"partition_batches": options.partition_batches} if options.partition_batches else {}
            found = measure(client, terabytes, options.cut, options.workers, options.threads, store, **more)
            print(f"{terabytes:g} TB, {options.workers} workers of {options.threads} threads, cut {options.cut:g}")
            for name, value in found.items():
                print(f"  {name:14} {value:.3f}" if isinstance(value, float) else f"  {name:14} {value}")


if __name__ == "__main__":
    main()
