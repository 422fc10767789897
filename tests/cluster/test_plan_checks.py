"""What `labelsieve plan` says of a running cluster: problems in text and JSON, warnings, and exit codes."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster

import labelsieve
from draws import draw
from labelsieve.cli.app import run
from labelsieve.execution import cluster as versions
from labelsieve.job import plan as cluster_checks
from processes import Processes

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


# Real processes that differ ---------------------------------------------------------------------------------------

# What makes a process differ from the others, as its first lines.
FAKES = {
    "good": "",
    "other labelsieve": "import labelsieve; labelsieve.__version__ = '0.0.9'",
    "other numpy": "import numpy; numpy.__version__ = '2.0.99'",
    "no labelsieve": """
import sys
from importlib import metadata
version = metadata.version
def without_ours(name):
    if name == "labelsieve":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_ours
sys.modules["labelsieve"] = None
""",
    "no pred_probs": """
import sys
def denied(event, args):
    if event == "open" and str(args[0]).endswith("pred_probs.npy"):
        raise PermissionError(13, "Permission denied", str(args[0]))
sys.addaudithook(denied)
""",
}


def faked(processes, kind):
    """Return the environment of a process of some kind."""
    site = processes.folder / "sites" / kind.replace(" ", "-")
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(FAKES[kind])
    return processes.environment | {"PYTHONPATH": os.pathsep.join([str(site), processes.environment["PYTHONPATH"]])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "kind", "message"),
    [
        ("worker", "other labelsieve", f": labelsieve 0.0.9 there, {labelsieve.__version__} here. Install labelsieve"),
        ("worker", "no labelsieve", f": labelsieve is not installed there, {labelsieve.__version__} here. Install"),
        ("scheduler", "no labelsieve", f": labelsieve is not installed there, {labelsieve.__version__} here. Install"),
    ],
)
def test_find_names_who_has_another_version_before_it_reads(tmp_path, who, kind, message):
    with Processes(tmp_path) as processes:
        held, other = processes.environment, faked(processes, kind)
        processes.environment = other if who == "scheduler" else held
        cluster = processes.cluster(0)
        processes.environment = held
        cluster.add_worker(env=other if who == "worker" else held)
        cluster.wait_for_workers(1)
        said = processes.find(*FILES, "--scheduler", cluster.address).fails(1)
        assert re.search(r"TaskFailedError: (worker tcp://127.0.0.1:\d+|the scheduler): labelsieve", said)
        assert ("the scheduler" in said) == (who == "scheduler")
        assert message in said
        assert processes.n_reads() == 0


@pytest.mark.slow
def test_find_warns_of_another_numpy_and_goes_on(tmp_path):
    with Processes(tmp_path) as processes:
        cluster = processes.cluster(0)
        cluster.add_worker(env=faked(processes, "other numpy"))
        cluster.wait_for_workers(1)
        code, out, err = processes.find(*FILES, "--scheduler", cluster.address, "--batch-size", 200).wait()
    assert code == 0
    said = rf"labelsieve: warning: worker tcp://\S+: numpy 2.0.99 there, {re.escape(np.__version__)} here"
    assert re.search(said, err)
    assert "400 rows" in out


@pytest.mark.slow
def test_the_one_worker_that_cannot_read_the_inputs_is_named(tmp_path):
    with Processes(tmp_path) as processes:
        cluster = processes.cluster(0)
        workers = [cluster.add_worker(env=faked(processes, kind)) for kind in ("good", "no pred_probs")]
        cluster.wait_for_workers(2)
        with Client(cluster.address, set_as_default=False) as client:
            by_pid = {pid: worker for worker, pid in client.run(os.getpid).items()}
        arguments = ["plan", *FILES, "--scheduler", cluster.address, "--json"]
        code, out, err = processes.start("-m", "labelsieve", *arguments).wait()
    assert code == 1, err
    [said] = json.loads(out)["problems"]
    assert said.startswith(f"worker {by_pid[workers[1].pid]}: cannot read pred_probs (")
    assert "Permission denied" in said
