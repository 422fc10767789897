"""The script of the notebook `08_every_night`: it plans, finds, and acts on what both say in JSON."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import labelsieve
from draws import draw
from labelsieve.storage.folder import LocalFolder, own_folder
from recipes import NIGHTLY, written_file

SCRIPT = written_file(NIGHTLY, "nightly.sh")


@pytest.fixture
def night(tmp_path):
    """Return a function that runs the script, with `labelsieve` of this environment; it returns code and output."""
    (tmp_path / "bin").mkdir()
    for name, command in (("labelsieve", f"{sys.executable} -m labelsieve"), ("python3", sys.executable)):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    (tmp_path / "results").mkdir()
    (tmp_path / "nightly.sh").write_text(SCRIPT, encoding="utf-8")
    inputs = {"LABELS": "labels.npy", "PRED_PROBS": "pred_probs.npy"}

    def run(most_bytes=10**9, most_issues=0.5, **options):
        settings = inputs | {"MOST_BYTES": str(most_bytes), "MOST_ISSUES": str(most_issues)} | options
        environment = os.environ | settings | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "nightly.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.strip()

    return run


def found(tmp_path):
    return json.loads((tmp_path / "find.json").read_text(encoding="utf-8"))


def test_a_nightly_script_acts_on_what_it_reads(night, tmp_path):
    assert len(SCRIPT.splitlines()) <= 15
    labels, probs = draw(600, 4, seed=8, noise=0.2)
    issues = labelsieve.find_label_issues(labels, probs)
    np.save(tmp_path / "pred_probs.npy", probs)
    code, said = night()
    assert code == 2
    assert said.startswith("no plan: labels: ")
    assert "labels.npy" in said
    np.save(tmp_path / "labels.npy", labels)
    assert night(most_bytes=probs.nbytes - 1) == (3, f"too much to read: {probs.nbytes} bytes")
    old, new = (tmp_path / "results" / f"issues-2026-0{month}-01.csv" for month in (1, 2))
    for path, days in ((old, 31), (new, 29)):
        path.touch()
        then = time.time() - (24 * days + 1) * 3600
        os.utime(path, (then, then))
    code, said = night()
    assert (code, said.partition(" in ")[0]) == (0, f"{issues.num_issues} issues of 600 rows")
    assert new.exists()
    assert not old.exists()
    rows = np.loadtxt(tmp_path / found(tmp_path)["output"], delimiter=",", skiprows=1, usecols=0)
    assert rows.tolist() == issues.indices.tolist()
    assert said.endswith(found(tmp_path)["output"])
    log = (tmp_path / "find.log").read_text(encoding="utf-8").splitlines()
    stages = [json.loads(line)["stage"] for line in log if line.startswith("{")]  # each once a second, and at its end
    assert list(dict.fromkeys(stages)) == ["read", "threshold", "rank"]
    assert night(most_issues=issues.num_issues / 600 / 2) == (4, "too many issues")
    assert (found(tmp_path)["rows_resumed"], found(tmp_path)["read_bytes"]) == (600, 0), "the workdir had all rows"


def test_it_exits_with_the_code_of_a_failure(night, tmp_path):
    labels, probs = draw(600, 4, seed=8, noise=0.2)
    np.save(tmp_path / "labels.npy", labels)
    probs[[3, 77]] = np.nan
    np.save(tmp_path / "pred_probs.npy", probs)
    assert night() == (2, "failed: InvalidInputError, rows [[3, 4], [77, 78]]")
    with own_folder(LocalFolder(tmp_path / "work"), "mine"):
        assert night(LABELSIEVE_FIND_WAIT="0") == (75, "failed: InUseError, rows None")
        code, said = night(LABELSIEVE_FIND_WAIT="60", TIME_LIMIT="1")
        assert code == 124
        assert said.startswith("failed: ")
