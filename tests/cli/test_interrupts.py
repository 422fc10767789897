"""SIGINT and SIGTERM at any moment of the command, from its first import on: one line, and the exit code."""

import os
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest

from draws import draw
from processes import Processes

ENDS = {signal.SIGINT: (130, "labelsieve: interrupted"), signal.SIGTERM: (143, "labelsieve: terminated")}
ONE_READ_EACH = ("labels.npy", "probs.npy", "--batch-size", 1000, "--quiet")

# Of the process itself: a signal as it imports a module. Of a worker: one to the process that starts it.
_SIGNALLING = """
import os, signal, sys

number, at = int(os.environ["TEST_SIGNAL"]), os.environ["TEST_SIGNAL_AT"]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            sys.meta_path.remove(self)
            signal.raise_signal(number)

sys.meta_path.insert(0, Finder())
if at == "worker" and "spawn_main" in "".join(sys.orig_argv):
    os.kill(os.getppid(), number)
"""


@pytest.fixture
def processes(tmp_path):
    labels, probs = draw(60_000, 4, seed=5, dtype=np.float32)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "probs.npy", probs)
    with Processes(tmp_path) as started:
        yield started


def signalled(processes, number, at):
    """Return the environment of a process that gets a signal at some moment."""
    folder = processes.folder / "signalling"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SIGNALLING)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": path, "TEST_SIGNAL": str(int(number)), "TEST_SIGNAL_AT": at}


def entry():
    """Return code that does what the installed command does."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["scripts"]["labelsieve"].partition(":")
    return f"import re\nimport sys\nfrom {module} import {name}\nsys.exit({name}())"


@pytest.mark.parametrize(
    ("at", "number", "command"),
    [
        ("labelsieve.cli.options", signal.SIGTERM, ("-m", "labelsieve")),
        ("click", signal.SIGINT, ("-m", "labelsieve")),
        ("numpy", signal.SIGINT, ("-c", entry())),
        pytest.param("dask", signal.SIGTERM, ("-c", entry()), marks=pytest.mark.slow),
        pytest.param("labelsieve.job.job", signal.SIGINT, ("-m", "labelsieve"), marks=pytest.mark.slow),
        pytest.param("labelsieve.results.report", signal.SIGINT, ("-c", entry()), marks=pytest.mark.slow),
    ],
)
def test_a_signal_during_the_imports(processes, at, number, command):
    job = processes.start(*command, "find", *ONE_READ_EACH, env=signalled(processes, number, at))
    code, line = ENDS[number]
    assert job.fails(code) == line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "number"), [("distributed.client", signal.SIGINT), ("worker", signal.SIGINT), ("worker", signal.SIGTERM)]
)
def test_a_signal_while_workers_start(processes, at, number):
    environment = signalled(processes, number, at)
    job = processes.find(*ONE_READ_EACH, "--workers", 2, "--threads", 1, env=environment)
    code, line = ENDS[number]
    assert job.fails(code) == line


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_to_the_command_and_all_its_workers_as_from_a_terminal(processes, number):
    processes.hold(2)
    job = processes.find(*ONE_READ_EACH, "--workers", 2, "--threads", 1, start_new_session=True)
    processes.wait_for_held(2, 2, job)
    os.killpg(job.pid, number)
    processes.release_until_end(job)
    code, line = ENDS[number]
    assert job.fails(code) == line


def test_an_interrupt_that_was_ignored_from_the_start_stays_ignored(processes):
    """As with nohup, and in the background of a shell's script."""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    processes.hold(2)
    job = processes.find(*ONE_READ_EACH, "--threads", 1, preexec_fn=ignore)
    processes.wait_for_held(2, 1, job)
    job.signal(signal.SIGINT)
    processes.wait_for_held(6, 1, job)
    job.signal(signal.SIGTERM)
    processes.release_until_end(job)
    assert job.fails(143) == "labelsieve: terminated"
