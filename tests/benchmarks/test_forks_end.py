"""Runs with forked processes that are interrupted, and whose children are killed, at random moments: all end at once.

A few with ``--benchmarks``; ``pytest tests/benchmarks -s --real-size`` takes 120 interrupts and 60 killed children, and
prints how long they took. What is asserted is that each run ends with its one error, and leaves no process behind.
"""

import contextlib
import random
import signal
import statistics
import subprocess
import sys
import time

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
from labelsieve.cli.interrupts import leave_at_once
from labelsieve.cli.interrupts import raising

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
# Of a hang. Nearly all of it is for a machine that has other things to do.
MOST_S = 200


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
