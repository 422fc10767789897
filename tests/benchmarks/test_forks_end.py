"""Runs with forked processes that are interrupted, and whose children are killed, at random moments: all end at once.

A few with ``--benchmarks``; ``pytest tests/benchmarks -s --real-size`` takes 120 interrupts and 60 killed children, and
prints how long they took. What is asserted is that each run ends with its one error, and leaves no process behind.

Then 1,000 fresh processes, whose whole life counts: imports, forks, Dask's threads, exit. Of those that have not ended
after 10 s it prints where they are, if py-spy is installed beside this Python.
"""

import contextlib
import itertools
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only"),
]

# Most of the time children write results: 24 MB a run, from 16 MB of predictions.
RUNS = """
import faulthandler, signal, sys
import numpy as np
import labelsieve
from labelsieve.cli.app import leave_at_once
from labelsieve.cli.app import raising

faulthandler.register(signal.SIGUSR1)
leave_at_once()
rng = np.random.default_rng(0)
probs = rng.random((2_000_000, 2), np.float32)
probs[:, 1] = 1 - probs[:, 0]
labels = probs.argmax(axis=1) ^ (rng.random(2_000_000) < 0.1)
try:
    with raising():
        print("ready", flush=True)
        while True:
            labelsieve.find_label_issues(labels, probs, n_jobs=2, progress=False)
except KeyboardInterrupt:
    sys.exit(130)
except labelsieve.ForkedWorkerError as error:
    print(error, flush=True)
    sys.exit(3)
"""
ONE_RUN = """
import sys
import labelsieve

labelsieve.find_label_issues(*sys.argv[1:], n_jobs=2, method="normalized_margin", progress=False)
"""
# Of a hang. Nearly all of it is for a machine that has other things to do.
MOST_S = 200
# After this, it is printed where a process is.
SOON_S = 10


@pytest.fixture(autouse=True)
def _interrupts_arrive():
    """Let processes that are started here get SIGINT, which is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def n_runs(request):
    real = request.config.getoption("--real-size")
    return {"interrupt": 120 if real else 4, "kill": 60 if real else 4}


def ended(process, started):
    """Return the seconds since `started` at the end of a process, of which no child is left."""
    children = psutil.Process(process.pid).children()
    try:
        process.wait(MOST_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        process.kill()
        pytest.fail(f"it hangs; children {children}:\n{process.stderr.read()}")
    seconds = time.monotonic() - started
    _, alive = psutil.wait_procs(children, timeout=MOST_S)
    assert alive == []
    return seconds


def interrupted(process, rng):
    time.sleep(rng.uniform(0, 1.5))
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    seconds = ended(process, started)
    assert process.returncode == 130, process.stderr.read()
    return seconds


def child_killed(process, rng):
    """Kill a random child at a random moment; another one where the run was just done with it."""
    while process.poll() is None:
        time.sleep(rng.uniform(0, 0.5))
        children = psutil.Process(process.pid).children()
        if children:
            started = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(children).kill()
            while process.poll() is None and not set(psutil.Process(process.pid).children()).isdisjoint(children):
                assert time.monotonic() < started + MOST_S, "it hangs"
                time.sleep(0.01)
    seconds = time.monotonic() - started
    assert process.returncode == 3, process.stderr.read()
    assert "was killed by SIGKILL" in process.stdout.read()
    return seconds


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "end"), [("interrupt", interrupted), ("kill", child_killed)])
def test_every_run_ends(kind, end, n_runs):
    rng, seconds = random.Random(0), []
    for _ in range(n_runs[kind]):
        process = subprocess.Popen([sys.executable, "-c", RUNS], stdout=-1, stderr=-1, text=True)
        try:
            assert process.stdout.readline() == "ready\n"
            seconds.append(end(process, rng))
        finally:
            process.kill()
            _, err = process.communicate()
        assert err == ""
    print(f"\n{len(seconds)} times {kind}: ended in {statistics.median(seconds):.2f} s, {max(seconds):.2f} s at most")


@pytest.fixture
def files(request, tmp_path):
    n_rows, n_classes = (1_500_000, 50) if request.config.getoption("--real-size") else (300_000, 10)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n_rows)
    probs = rng.random((n_rows, n_classes), np.float32)
    probs[np.arange(n_rows), np.where(rng.random(n_rows) < 0.05, (labels + 1) % n_classes, labels)] += 2
    probs /= probs.sum(axis=1, keepdims=True)
    paths = tmp_path / "labels.npy", tmp_path / "pred_probs.npy"
    for path, array in zip(paths, (labels, probs), strict=True):
        np.save(path, array)
    yield paths
    for path in paths:
        path.unlink()


def children_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def ended_within(process, seconds):
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is not None


def durations(process):
    """Return the seconds of a run, and those from its first child to its last."""
    started, seen = time.monotonic(), []
    while not ended_within(process, 0.002):
        if children_of(process):
            seen.append(time.monotonic())
    return time.monotonic() - started, max(seen, default=0) - min(seen, default=0)


def kill_a_child(process, rng, _, children_s):
    """Kill a child at a random moment after the first fork, if the run has not ended; return the children."""
    while not (ended_within(process, 0.002) or children_of(process)):
        pass
    ended_within(process, rng.uniform(0, children_s))
    while not ended_within(process, rng.uniform(0, 0.01)):  # between two passes there are none
        children = children_of(process)
        if children:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(children).kill()
                return children
    return []


def interrupt(process, rng, run_s, _):
    """Interrupt a run at a random moment, if it has not ended; return its children."""
    if ended_within(process, rng.uniform(0, run_s)):
        return []
    children = children_of(process)
    process.send_signal(signal.SIGINT)
    return children


def places(process):
    """Return where a process and its children are."""
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        return "py-spy is not installed"
    pids = [process.pid, *(child.pid for child in children_of(process))]
    dumps = [subprocess.run([py_spy, "dump", "--pid", str(pid)], check=False, stdout=-1, stderr=-2) for pid in pids]
    return "\n".join(dump.stdout.decode() for dump in dumps)


@pytest.fixture
def start(files, tmp_path):
    """Return a function that starts a run, of the function or of the command, and ends it at the end of its block."""
    commands = {
        "function": ["-c", ONE_RUN, *files],
        "command": ["-m", "labelsieve", "find", *files, "--n-jobs=2", "--method=normalized_margin", "-o"],
    }
    commands["command"].append(tmp_path / "issues.csv")

    @contextlib.contextmanager
    def start(kind):
        with (tmp_path / "printed").open("w+") as printed:
            process = subprocess.Popen([sys.executable, *commands[kind]], stdout=printed, stderr=printed)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    return start


@pytest.mark.timeout(6 * 3600)
def test_every_fresh_process_ends(start, tmp_path, request):
    rng, ends, late, usual = random.Random(1), Counter(), [], {}
    kinds = list(itertools.product([interrupt, kill_a_child], ["function", "command"]))
    for number in range(1000 if request.config.getoption("--real-size") else 8):
        end, kind = kinds[number % len(kinds)]
        if number % 50 < len(kinds):  # what is usual depends on what else the machine does
            with start(kind) as process:
                usual[kind] = durations(process)
                assert process.returncode == 0, (tmp_path / "printed").read_text()
        with start(kind) as process:
            children = end(process, rng, *usual[kind])
            if not ended_within(process, SOON_S):
                late.append(f"{end.__name__} {kind}:\n{places(process)}")
                assert ended_within(process, MOST_S), late[-1]
            _, alive = psutil.wait_procs(children, timeout=MOST_S)
            assert alive == []
        ends[end.__name__, kind, process.returncode] += 1
    print(f"\n{ends}; {len(late)} had not ended after {SOON_S} s", *late, sep="\n")
    assert any(code for _, _, code in ends), "some came in time"
