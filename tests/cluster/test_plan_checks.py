"""What `labelsieve plan` says of a running cluster: problems in text and JSON, warnings, and exit codes."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from draws import draw
from labelsieve.cli.app import run
from labelsieve.execution import cluster as versions
from labelsieve.job import plan as cluster_checks

LABELS, PROBS = draw(400, 5, seed=3, dtype=np.float32)
FILES = ["labels.npy", "pred_probs.npy"]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("pred_probs.npy", PROBS)
    return tmp_path


@pytest.fixture(scope="module")
def address():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def plan(address, capfd):
    def plan(*args):
        """Return the problems; the text and the exit codes agree with them."""
        args = ["plan", *FILES, "--scheduler", address, *map(str, args)]
        code = run([*args, "--json"])
        found = json.loads(capfd.readouterr().out)
        assert found["exit_code"] == code == (1 if found["problems"] else 0)
        assert run(args) == code
        lines = capfd.readouterr().out.splitlines()
        assert len([line for line in lines if line.startswith("problem: ")]) == len(found["problems"])
        return found

    return plan


def names(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_good_cluster_has_no_problems_and_nothing_is_left_behind(plan):
    found = plan("--workdir", "work", "-o", "issues.zarr")
    assert (found["problems"], found["warnings"], found["n_processes"]) == ([], [], 2)
    assert names() == FILES


def test_workers_that_cannot_read_the_inputs(plan, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("labelsieve.sources.npy._NpyRows.read", broken)
    problems = plan()["problems"]
    assert len(problems) == 2
    for name, said in zip(("labels", "pred_probs"), problems, strict=True):
        assert said.startswith("worker tcp://")
        assert f"cannot read {name} (" in said
        assert said.endswith("OSError: [Errno 5] Input/output error")


def test_a_workdir_that_workers_do_not_see(plan, monkeypatch):
    def hidden(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("labelsieve.storage.folder._check_probe", hidden)
    [said] = plan("--workdir", "work")["problems"]
    assert "(the workdir), or cannot write there: FileNotFoundError" in said
    assert names() == FILES


def test_a_workdir_that_cannot_be_written(plan):
    [said] = plan("--workdir", "/proc/work")["problems"]
    assert said.startswith("the client cannot write the workdir /proc/work: ")


@pytest.mark.parametrize(
    ("ahead", "on_s3", "n_problems"), [(0, True, 0), (60, True, 0), (1000, True, 1), (1000, False, 0)]
)
def test_clocks(ahead, on_s3, n_problems, recwarn):
    class Workers:
        def ask(self, function, workers):
            return {worker: time.time() + ahead for worker in workers}

    problems = list(cluster_checks._check_clocks(Workers(), ["a"], on_s3=on_s3))
    said = [*problems, *(str(one.message) for one in recwarn)]
    assert len(problems) == n_problems
    assert len(said) == (ahead > 0)
    assert all(f"worker a: its clock is {ahead} s ahead of" in one for one in said)


def test_another_version_is_a_problem(plan, monkeypatch):
    monkeypatch.setattr(versions, "scheduler_versions", lambda _: RuntimeError("labelsieve 0.0.9 there, 1 here"))
    monkeypatch.setattr(versions, "_COMPARED", {})
    [said] = plan()["problems"]
    assert said.startswith("the scheduler: labelsieve 0.0.9 there, 1 here. Install labelsieve ")
