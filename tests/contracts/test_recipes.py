"""What the notebooks of Airflow, Argo, Prometheus, Kubernetes and Slurm show: its fields, and what it does here.

The notebooks themselves are run by `test_notebooks`, and the nightly script by `tests/cli/test_nightly`.
"""

import json
import re
import subprocess
import sys
import types
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from dask.utils import parse_bytes, parse_timedelta

from draws import draw
from labelsieve import find_label_issues
from labelsieve.cli.options import EXIT_CODES
from processes import PATIENCE_S, Process, wait_until
from recipes import KUBERNETES, NIGHTLY, SLURM, cells, written_file

NO_RETRY = {2, 3, 4}


# Every night ------------------------------------------------------------------------------------------------------


def test_the_page_says_for_every_exit_code_whether_to_try_again():
    table = cells(NIGHTLY, "markdown")[0].partition("| Again? |")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in re.findall(r"^\| (\d.*?) \|$", table, re.MULTILINE)]
    again = {int(code): row[-1] for row in rows for code in row[0].split(", ")}
    documented = {int(code) for code in re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)}
    assert documented | {124, 137} == set(again)
    assert {code for code, text in again.items() if text.startswith("no")} == NO_RETRY - {3, 4}
    assert "adds 3, too much to read, and 4, too many issues" in cells(NIGHTLY, "markdown")[0]


class Airflow(types.ModuleType):
    """The decorators of Airflow 3 that the page uses: they note their parameters and call what they decorate."""

    def __init__(self):
        super().__init__("airflow.sdk")
        self.parameters, self.tasks = {}, []

    def dag(self, **parameters):
        self.parameters |= parameters
        return lambda function: function

    def task(self, **parameters):
        self.parameters |= parameters
        return lambda function: lambda: self.tasks.append(function)


class FailedForGoodError(Exception):
    pass


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75, 124, 137])
def test_the_airflow_task_fails_for_good_if_a_retry_cannot_help(tmp_path, monkeypatch, capsys, code):
    airflow, errors = Airflow(), types.ModuleType("airflow.sdk.exceptions")
    errors.AirflowFailException = FailedForGoodError
    for name, module in {"airflow": airflow, "airflow.sdk": airflow, "airflow.sdk.exceptions": errors}.items():
        monkeypatch.setitem(sys.modules, name, module)
    text = written_file(NIGHTLY, "labelsieve_nightly.py")
    exec(compile(text.replace("/srv/labelsieve", str(tmp_path)), "labelsieve_nightly.py", "exec"), {})
    assert airflow.parameters["retries"] > 0
    assert airflow.parameters["max_active_runs"] == 1
    limit = re.search(r"TIME_LIMIT:-(\w+)}", written_file(NIGHTLY, "nightly.sh")).group(1)
    assert airflow.parameters["execution_timeout"].total_seconds() > parse_timedelta(limit) + 60
    [task] = airflow.tasks
    (tmp_path / "nightly.sh").write_text(f"echo as it says; exit {code}\n", encoding="utf-8")
    if code:
        with pytest.raises(
            FailedForGoodError if code in NO_RETRY else RuntimeError, match=f"exit code {code}: as it says"
        ):
            task()
    else:
        task()
    assert capsys.readouterr().out.strip() == "as it says"


def test_the_argo_step_is_tried_again_if_that_can_help():
    workflow = yaml.safe_load(written_file(NIGHTLY, "nightly.yaml"))
    assert (workflow["apiVersion"], workflow["kind"]) == ("argoproj.io/v1alpha1", "CronWorkflow")
    cron = workflow["spec"]
    assert cron.keys() == {"schedules", "concurrencyPolicy", "startingDeadlineSeconds", "workflowSpec"}
    assert cron["concurrencyPolicy"] == "Forbid"
    spec = cron["workflowSpec"]
    assert spec.keys() == {"entrypoint", "activeDeadlineSeconds", "volumes", "templates"}
    [step] = spec["templates"]
    assert spec["entrypoint"] == step["name"]
    retry = step["retryStrategy"]
    assert retry.keys() == {"limit", "retryPolicy", "expression", "backoff"}
    assert retry["retryPolicy"] == "Always"
    codes = re.fullmatch(r"asInt\(lastRetry\.exitCode\) not in (\[.*\])", retry["expression"]).group(1)
    assert set(json.loads(codes)) == NO_RETRY
    container, script = step["container"], written_file(NIGHTLY, "nightly.sh")
    named = {variable["name"] for variable in container["env"]}
    assert set(re.findall(r"\$\{?([A-Z_]+)\b(?!:-)", script)) <= named
    assert all(isinstance(variable["value"], str) for variable in container["env"])
    [mounted] = container["volumeMounts"]
    assert container["command"] == ["bash", f"{mounted['mountPath']}/nightly.sh"]
    assert mounted["name"] in {volume["name"] for volume in spec["volumes"]}


# Kubernetes -------------------------------------------------------------------------------------------------------

MANIFEST = yaml.safe_load(written_file(KUBERNETES, "cluster.yaml"))
[SCHEDULER], [WORKER] = (MANIFEST["spec"][part]["spec"]["containers"] for part in ("scheduler", "worker"))


def test_the_manifest_is_one_that_the_operator_takes():
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    assert MANIFEST["spec"].keys() == {"idleTimeout", "scheduler", "worker"}
    assert MANIFEST["spec"]["scheduler"].keys() == {"spec", "service"}
    assert MANIFEST["spec"]["worker"].keys() == {"replicas", "spec"}
    service = MANIFEST["spec"]["scheduler"]["service"]
    name = MANIFEST["metadata"]["name"]
    assert service["selector"] == {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    ports = {port["name"]: port["containerPort"] for port in SCHEDULER["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert ports == {"tcp-comm": 8786, "http-dashboard": 8787}
    step = yaml.safe_load(written_file(NIGHTLY, "nightly.yaml"))["spec"]["workflowSpec"]["templates"][0]["container"]
    addresses = [one["value"] for one in step["env"] if one["name"].endswith("_SCHEDULER")]
    assert addresses == [f"tcp://{name}-scheduler:8786"] * 2


def test_limits_of_a_worker_agree():
    resources, options = WORKER["resources"], dict(zip(WORKER["args"], WORKER["args"][1:], strict=False))
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert 0.8 < float(options["--memory-limit"]) < 1
    assert options["--nthreads"] == resources["requests"]["cpu"]
    assert "--no-nanny" in WORKER["args"]
    assert {one["value"] for one in WORKER["env"] if one["name"].endswith("_NUM_THREADS")} == {"1"}
    assert "tolerations" in MANIFEST["spec"]["worker"]["spec"]
    assert "tolerations" not in MANIFEST["spec"]["scheduler"]["spec"]
    assert not [one for one in WORKER["env"] if re.search("KEY|SECRET|TOKEN", one["name"])]


class Pods(ExitStack):
    """The containers of the manifest as processes of this machine."""

    def __init__(self, folder, monkeypatch):
        super().__init__()
        self._folder, self._file, self._monkeypatch = folder, folder / "scheduler.json", monkeypatch
        # Ports that are free, in place of the container's own.
        options = ["--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self._file)]
        self._scheduler = self._start(SCHEDULER["args"], options)
        wait_until(lambda: self._file.exists() and self._file.read_text().strip().endswith("}"), self._scheduler)
        self.address = json.loads(self._file.read_text())["address"]
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", self.address)

    def _start(self, args, options=()):
        args = [str(Path(sys.executable).with_name("dask")), *args[1:], *options]
        args = [arg.replace("0.0.0.0", "127.0.0.1").replace(":8788", "127.0.0.1:0") for arg in args]
        process = Process([arg.replace("/tmp/dask", str(self._folder)) for arg in args])
        self.callback(process.end)
        return process

    def add_worker(self, name):
        """Start a worker."""
        args = [arg.replace("$(DASK_WORKER_NAME)", name) for arg in WORKER["args"]]
        return self._start(args)

    def stop(self, name):
        """Run the command with which Kubernetes lets a worker get ready for its end."""
        self._monkeypatch.setenv("DASK_WORKER_NAME", name)
        first, *rest = WORKER["lifecycle"]["preStop"]["exec"]["command"]
        assert first == "python"
        subprocess.run([sys.executable, *rest], timeout=PATIENCE_S, check=True)


@pytest.mark.slow
def test_a_worker_that_is_stopped_leaves_what_it_holds_to_the_others(tmp_path, monkeypatch):
    from distributed import Client

    with Pods(tmp_path, monkeypatch) as pods:
        workers = {name: pods.add_worker(name) for name in ("first", "second")}
        with Client(pods.address) as client:
            client.wait_for_workers(2, timeout=PATIENCE_S)
            facts = client.scheduler_info(n_workers=-1)["workers"].values()
            assert {worker["name"] for worker in facts} == {"first", "second"}
            assert {worker["nthreads"] for worker in facts} == {4}
            [port] = {worker["services"]["dashboard"] for worker in facts if worker["name"] == "second"}
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.read() == b"ok"
            held = client.map(str, range(20))
            assert client.gather(held) == [str(number) for number in range(20)]
            pods.stop("first")
            wait_until(lambda: not workers["first"].runs)
            assert [worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()] == ["second"]
            assert client.gather(held) == [str(number) for number in range(20)]
            n_runs = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.task_prefixes["str"].state_counts)
            assert n_runs["processing"] == 20, "none was computed again"


# Metrics ----------------------------------------------------------------------------------------------------------


def metrics(port):
    """Return the names of Dask's metrics at a port, with the labels and values of each."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = re.findall(r"^(dask_\w+)(?:\{(.*)\})? ", answer.read().decode(), re.MULTILINE)
    found = {}
    for name, labels in lines:
        found.setdefault(name, set()).update(re.findall(r'(\w+)="([^"]*)"', labels))
    return found


@pytest.mark.slow
def test_a_run_has_the_metrics_that_the_page_names(tmp_path, monkeypatch):
    from distributed import Client

    for name, array in zip(("labels", "pred_probs"), draw(3000, 5, seed=1, noise=0.2), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    with Pods(tmp_path, monkeypatch) as pods:
        pods.add_worker("only")
        with Client(pods.address) as client:
            find_label_issues(tmp_path / "labels.npy", tmp_path / "pred_probs.npy", filter_by="both", progress=False)
            facts = client.scheduler_info(n_workers=-1)
            there = metrics(facts["services"]["dashboard"])
            [worker] = facts["workers"].values()
            there |= metrics(worker["services"]["dashboard"])
    named = re.findall(r"`(dask_\w+)(?:\{([^}]*)\})?`", "\n".join(cells(NIGHTLY, "markdown")))
    rules = yaml.safe_load(written_file(NIGHTLY, "alerts.yaml"))["groups"][0]["rules"]
    assert len(rules) == 5
    for rule in rules:
        used = re.findall(r"(dask_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert used, rule
        named += used
    for name, labels in named:
        assert name in there, name
        for label in re.findall(r"(\w+)(?:=|,|$)", re.sub(r'"[^"]*"', "", labels)):
            assert label in dict(there[name]), (name, label)
        for label, values in re.findall(r'(\w+)=~?"([^"]+)"', labels):
            assert {(label, value) for value in values.split("|")} <= there[name], (name, labels)
    prefixes = {value for _, value in there["dask_scheduler_prefix_state_totals_total"]}
    assert {"scan", "rescan", "margins"} <= prefixes


# Slurm ------------------------------------------------------------------------------------------------------------


def test_the_job_of_slurm_has_the_memory_and_the_time_that_its_workers_know():
    printed = [
        output.text
        for cell in nbformat.read(SLURM, as_version=4).cells
        for output in cell.get("outputs", [])
        if "#SBATCH" in output.get("text", "")
    ]
    [script] = printed
    options = dict(re.findall(r"(--[\w-]+)[ =](\S+)", script))
    n_workers = int(options["--nworkers"])
    assert n_workers * parse_bytes(options["--memory-limit"]) <= parse_bytes(options["--mem"] + "iB")
    assert n_workers * int(options["--nthreads"]) == int(options["--cpus-per-task"])
    hours, minutes, _ = map(int, re.search(r"#SBATCH -t (\d+):(\d+):(\d+)", script).groups())
    lifetime, stagger = (parse_timedelta(options[name]) for name in ("--lifetime", "--lifetime-stagger"))
    assert lifetime + stagger < 60 * (60 * hours + minutes)
