"""docker-compose.yml: what it promises, and its own commands run as processes of this machine.

Ports, limits, secrets, health checks, the order of starting; the answer of its job.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import fsspec
import numpy as np
import pytest
import yaml

import s3
from draws import find
from processes import PATIENCE_S, Process, assert_same_output, wait_until

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]
ONE_SHOT = {"seed", "job", "nightly"}
SECRETS = {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET}


def interpolated(text, environment):
    """Put in variables as Compose does: ``${NAME:-default}`` and ``${NAME:?message}``; ``$$`` is a dollar sign."""

    def value(match):
        name, operator, rest = match.groups()
        assert operator == ":-" or environment.get(name), f"{name}: {rest}"
        return environment.get(name) or rest

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text).replace("$$", "$")


# What it promises -------------------------------------------------------------------------------------------------


def test_services_are_the_ones_of_a_cluster_and_a_job():
    assert set(SERVICES) == {"store", "scheduler", "worker", "seed", "job", "nightly"}
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"nightly"}
    assert "container_name" not in SERVICES["worker"], "workers are scaled"
    assert "ports" not in SERVICES["worker"]


def test_ports_are_open_to_this_machine_alone():
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert ports["scheduler"] == ["127.0.0.1:8787:8787"]
    assert ports["store"] == ["127.0.0.1:9000:9000"]
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert not any("network_mode" in service or service.get("privileged") for service in SERVICES.values())


def test_every_service_has_a_health_check_or_ends():
    for name, service in SERVICES.items():
        if name in ONE_SHOT:
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"][:3] == ["CMD", "python", "-c"], name
            assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()
            assert service["restart"] == "unless-stopped", "a worker ends without an error if its scheduler is gone"


def test_services_wait_for_what_they_need():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            ends = other in ONE_SHOT
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name
    assert set(SERVICES["job"]["depends_on"]) == {"seed", "scheduler", "worker"}


def test_the_limit_of_a_worker_is_a_share_of_the_containers():
    assert all("mem_limit" in service for service in SERVICES.values())
    command = SERVICES["worker"]["command"]
    share = command[command.index("--memory-limit") + 1]
    assert 0.8 < float(share) < 1, "the health check takes of the container's memory too"
    assert "--no-nanny" in command, "another process would take of the same limit"


def test_no_secret_stands_in_it():
    assert "MINIO" not in TEXT
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if "KEY" in variable or "SECRET" in variable or "PASSWORD" in variable:
                assert re.fullmatch(r"\$\{" + variable + r":\?[^}]+\}", value), name
    assert not re.search(r"AKIA[0-9A-Z]{16}", TEXT)
    with pytest.raises(AssertionError, match="AWS_ACCESS_KEY_ID: set it"):
        interpolated(TEXT, {})
    ignored = (ROOT / ".gitignore").read_text().splitlines() if (ROOT / ".gitignore").exists() else []
    assert ".env" in ignored or not (ROOT / ".env").exists()


def test_one_image_is_built_from_the_project_for_a_plain_user():
    images = {(service["image"], service["build"]["dockerfile_inline"]) for service in SERVICES.values()}
    [(_, dockerfile)] = images
    lines = dockerfile.strip().splitlines()
    assert lines[0] == "FROM python:3.12-slim"
    assert '".[s3,dashboard]"' in dockerfile
    assert lines[-1].startswith("USER ")
    assert lines[-1] not in ("USER root", "USER 0")
    for line in lines:
        if line.startswith("COPY "):
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line
    assert all(service["cap_drop"] == ["ALL"] for service in SERVICES.values())


# What it does -----------------------------------------------------------------------------------------------------


class Composed(ExitStack):
    """The services as processes of this machine, at free ports."""

    def __init__(self, folder):
        super().__init__()
        self._folder, self.ports = folder, {port: free_port() for port in ("8786", "8787", "8790", "9000")}
        environment = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **SECRETS}
        self._services = yaml.safe_load(interpolated(self.local(TEXT), environment))["services"]
        # The image has a Python on which Dask's profiler does not deadlock; that of the tests may be another one.
        names = ("PYTHONPATH", "HOME", "TMPDIR", "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        self._environment = environment | kept | {"AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}

    def local(self, text):
        """Return `text` with this machine in place of the services' names, and free ports in place of theirs."""
        text = re.sub(r"(?<=//)(scheduler|store)(?=:)", "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        for port, free in self.ports.items():
            text = re.sub(rf"(?<=[:\"]){port}\b", str(free), text)
        return text.replace("/tmp/dask", str(self._folder))

    def _command(self, words):
        programs = {"python": sys.executable, "sh": "sh"}
        return [programs.get(words[0]) or str(Path(sys.executable).with_name(words[0])), *words[1:]]

    def start(self, name, **variables):
        """Start a service with its own command and environment, a few variables, and nothing else."""
        service = self._services[name]
        environment = self._environment | service["environment"] | variables
        process = Process(self._command(service["command"]), cwd=self._folder, env=environment)
        self.callback(process.end)
        return process

    def healthy(self, name):
        """Run the health check of a service."""
        command = self._command(self._services[name]["healthcheck"]["test"][1:])
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, env=self._environment, check=False)
        return done.returncode == 0

    def up(self, name):
        """Start a service and wait for its health."""
        assert not self.healthy(name), "a health check holds without its service"
        process = self.start(name)
        wait_until(lambda: self.healthy(name), process)
        return process


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.slow
def test_its_commands_find_what_a_local_run_finds(tmp_path, monkeypatch):
    with Composed(tmp_path) as composed:
        for name in ("store", "scheduler", "worker"):
            composed.up(name)
        assert composed.start("seed").succeeds() == ""
        said = composed.start("job").succeeds()
        assert "written to s3://example/issues.zarr" in said
        again = composed.start("job").succeeds()
        assert "nothing read: all 300,000 rows were in the workdir" in again
        planned, found = map(json.loads, composed.start("nightly").succeeds().splitlines())
        assert planned["read_bytes"] == found["read_bytes"] == 300_000 * 10 * 4
        assert found["output"] == "s3://example/nightly.csv"
        why = composed.start("nightly", LABELSIEVE_FIND_MAX_MEMORY="1MB").fails(2)
        assert "may take only 1 MB" in why

        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{composed.ports['9000']}")
        s3.clear_clients()
        fs = fsspec.filesystem("s3")
        fs.get("example", str(tmp_path / "example"), recursive=True)
        s3.clear_clients()
    labels, probs = (np.load(tmp_path / "example" / f"{name}.npy") for name in ("labels", "pred_probs"))
    want = find(labels, probs)
    assert want.num_issues > 5000
    assert said.splitlines()[1].startswith(f"{want.num_issues:,} label issues")
    assert_same_output(tmp_path / "example" / "issues.zarr", want)
    assert found["num_issues"] == want.num_issues
    rows = np.loadtxt(tmp_path / "example" / "nightly.csv", delimiter=",", skiprows=1, usecols=0)
    assert rows.tolist() == want.indices.tolist()
