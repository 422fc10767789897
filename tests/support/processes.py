"""Processes for tests of faults: the command, a scheduler and workers, whose reads are logged and can be held.

Starting, waiting for a moment, killing; which rows the runs of a test have read; what a ``.zarr`` result holds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import zarr

from draws import assert_same_array
from labelsieve.results.store import COLUMNS

# Imported by every Python process of a test that has its folder on the path: logs each read, and holds it in the middle
# until it is among those that may end. A batch is a partition, which the command makes far larger.
# The few rows that a resume reads again as a check are not logged (`test_spot_check` counts those).
_HELD = """
import contextlib, fcntl, os, pathlib, threading, time
from labelsieve.job import grid, inputs, scan, workdir

grid.PARTITIONS_A_THREAD = inputs.REMOTE_PARTITIONS_A_THREAD = 1_000_000

reader = scan.Partition._reader

checking, compare = threading.local(), workdir.compare

def checked(*args, **how):
    checking.now = True
    try:
        return compare(*args, **how)
    finally:
        checking.now = False

workdir.compare = checked

deadly = int(os.environ.get("LABELSIEVE_TEST_DEADLY_ROW", -1))

limit = pathlib.Path(os.environ["LABELSIEVE_TEST_LIMIT"])

@contextlib.contextmanager
def held(self, rows, *shape, raw=False):
    stops = dict(self._batches)

    def reading(start, stop):
        if len(shape) == 2 and start in stops and not getattr(checking, "now", False):
            if start <= deadly < stops[start]:
                os._exit(137)
            with open(os.environ["LABELSIEVE_TEST_LOG"], "a+") as log:
                fcntl.flock(log, fcntl.LOCK_EX)
                log.seek(0)
                n_before = len(log.readlines())
                log.write(f"{os.getpid()} {start} {stops[start]}\\n")
            while n_before >= int(limit.read_text()):
                time.sleep(0.02)
        return read(start, stop)

    with reader(self, rows, *shape, raw=raw) as read:
        yield reading

scan.Partition._reader = held

if "LABELSIEVE_TEST_DEADLY_CHECK" in os.environ:
    from labelsieve.execution import cluster

    cluster._error_of = lambda check: os._exit(137)
"""
# How long a test waits for what must happen before it gives up. No outcome depends on it.
PATIENCE_S = 200
_ALL = 1_000_000_000


class Processes(ExitStack):
    """Processes whose reads are logged and can be held; all that still run are killed as the block ends.

    Parameters
    ----------
    folder : Path
        For logs, and where the processes run.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder, self._log = Path(folder), Path(folder) / "reads.log"
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_HELD)
        self._log.touch()
        self._limit = site / "limit"
        self.release()
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "LABELSIEVE_TEST_LOG": str(self._log),
            "LABELSIEVE_TEST_LIMIT": str(self._limit),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *command, before=(), **options):
        """Start Python with some arguments, `before` which may stand a command that starts it."""
        environment = options.pop("env", self.environment)
        process = Process(
            [*map(str, before), sys.executable, *map(str, command)], cwd=self.folder, env=environment, **options
        )
        self.callback(process.end)
        return process

    def find(self, *arguments, **options):
        """Start ``labelsieve find``."""
        return self.start("-m", "labelsieve", "find", *arguments, **options)

    def cluster(self, n_workers=2, n_threads=1, **options):
        """Start a scheduler and its workers, and wait for them."""
        return Cluster(self, n_workers, n_threads, **options)

    def hold(self, after):
        """Let the first `after` reads of the log end, and hold the later ones in the middle."""
        part = self._limit.with_suffix(".part")
        part.write_text(str(after))
        part.replace(self._limit)

    def release(self):
        """Hold no read."""
        self.hold(_ALL)

    def wait_for_held(self, after, n_held, *processes):
        """Hold the reads after the first `after`, and wait until there are `n_held` of them.

        Where more reads must not happen, `hold` comes before the process starts.
        """
        self.hold(after)
        wait_until(lambda: self.n_reads() >= after + n_held, *processes)

    def release_until_end(self, process):
        """Let the reads that are held end, and those that come after them, until a process has ended."""
        while process.runs:
            self.hold(self.n_reads())
            time.sleep(0.01)

    def reads(self):
        """Return who has read which rows so far: process, start, stop."""
        return [tuple(map(int, line.split())) for line in self._log.read_text().splitlines()]

    def n_reads(self):
        """Return how many reads there were so far."""
        return len(self.reads())

    def rows_read_again(self):
        """Return how many rows were read beyond once each."""
        times = Counter((start, stop) for _, start, stop in self.reads())
        return sum((n - 1) * (stop - start) for (start, stop), n in times.items())

    def forget_reads(self):
        """Begin the log anew."""
        self._log.write_text("")


class Process:
    """A process with what it prints in files: a pipe that nobody reads would fill up and stop it."""

    def __init__(self, command, **options):
        self._printed = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  # `end` closes them
        out, err = self._printed
        self._popen = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, **options)
        self.pid = self._popen.pid

    def wait(self, timeout=PATIENCE_S):
        """Return the exit code, and what was printed and said."""
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {timeout:g} s, and said: {self._texts()}") from None
        return code, *self._texts()

    def _texts(self):
        for file in self._printed:
            file.seek(0)
        return [file.read() for file in self._printed]

    def succeeds(self, timeout=PATIENCE_S):
        """Wait for an end without error, and return what was printed."""
        code, out, err = self.wait(timeout)
        assert code == 0, err
        return out

    def fails(self, code, timeout=PATIENCE_S, *, alone=True):
        """Wait for an end with `code` and return the line that says why.

        If it stands `alone`, nothing else is said, except what is logged.
        """
        got, out, err = self.wait(timeout)
        assert got == code, (got, out, err)
        lines = [line for line in err.splitlines() if line.startswith("labelsieve: ")]
        assert len(lines) == 1, err
        others = [line for line in err.splitlines() if line.strip() and " WARNING labelsieve: " not in line]
        assert not alone or others == lines, err
        return lines[0]

    @property
    def runs(self):
        """Whether it still runs."""
        return self._popen.poll() is None

    def signal(self, number):
        """Send a signal."""
        self._popen.send_signal(number)

    def kill(self):
        """Kill it as the kernel does where memory is short, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def end(self):
        """Kill it if it still runs."""
        if self.runs:
            self.kill()
        for file in self._printed:
            file.close()


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, processes, n_workers, n_threads, memory_limit="2GiB"):
        self._processes, self._options = processes, ["--nthreads", n_threads, "--memory-limit", memory_limit]
        self._file = processes.folder / "scheduler.json"
        self.start_scheduler()
        self.workers = [self.add_worker() for _ in range(n_workers)]

    def start_scheduler(self):
        """Start a scheduler on a free port."""
        self._file.unlink(missing_ok=True)
        options = ("--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", self._file)
        self.scheduler = self._processes.start("-m", "distributed.cli.dask_scheduler", *options)
        # It is there before it is written.
        wait_until(lambda: self._file.exists() and self._file.read_text().strip().endswith("}"), self.scheduler)
        self.address = json.loads(self._file.read_text())["address"]

    def add_worker(self, **how):
        """Start a worker, which nobody starts anew if it dies."""
        options = ("--no-nanny", "--no-dashboard", "--local-directory", self._processes.folder, *self._options)
        return self._processes.start("-m", "distributed.cli.dask_worker", self.address, *options, **how)

    def wait_for_workers(self, n_workers=None):
        """Wait until the scheduler knows its workers."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers or len(self.workers), timeout=PATIENCE_S)


def run_python(code, *arguments, options=()):
    """Run a script in a fresh interpreter that finds the shared helpers, and return what it printed."""
    command = [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, arguments)]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(happened, *processes, timeout=PATIENCE_S):
    """Wait until `happened()` is true; an error if one of `processes` ends first."""
    deadline = time.monotonic() + timeout
    while not happened():
        for process in processes:
            assert process.runs, f"ended too early: {process.wait()}"
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.01)


def assert_same_output(path, want):
    """Hold a ``.zarr`` result against a result in memory, to the last bit."""
    assert want.num_issues > 0, "a test without issues shows nothing"
    group = zarr.open_group(path, mode="r")
    for name, column in want.issues.columns().items():
        assert_same_array(group[COLUMNS[name]][:], column, name)
    assert_same_array(group["scores"][:], want.scores, "scores")
    assert_same_array(group["mask"][:], want.mask(), "mask")
    for name in ("confident_thresholds", "class_counts"):
        assert_same_array(group[name][:], getattr(want, name), name)


def own_bytes(pid, *, children=True):
    """Return anonymous and shared-memory bytes of a process, and of its children too."""
    total = 0
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        total += 1024 * sum(int(line.split()[1]) for line in rollup if line.startswith(("Pss_Anon", "Pss_Shmem")))
        for task in Path(f"/proc/{pid}/task").iterdir() if children else ():
            total += sum(own_bytes(child) for child in (task / "children").read_text(encoding="ascii").split())
    return total
