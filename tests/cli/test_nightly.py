"""A script that runs every night: it plans, finds, and acts on what both say in JSON."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import labelsieve
from draws import draw
from labelsieve.storage.folders import LocalFolder
from labelsieve.storage.lock import own_folder

SCRIPT = """\
#!/usr/bin/env bash
set -uo pipefail
export LABELSIEVE_FIND_JSON=1 LABELSIEVE_PLAN_JSON=1 LABELSIEVE_FIND_WORKDIR=work LABELSIEVE_FIND_TOP=0
get() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2]))' "$1.json" "$2"; }
labelsieve plan labels.npy pred_probs.npy > plan.json 2> plan.log || { echo "no plan: $(get plan message)"; exit 2; }
[ "$(get plan read_bytes)" -le "$MOST_BYTES" ] || { echo "too much to read: $(get plan read_bytes)"; exit 3; }
labelsieve find labels.npy pred_probs.npy -o issues.csv --progress json > find.json 2> find.log
case $? in
    0) ;;
    75) echo "try again later"; exit 75 ;;
    *) echo "failed: $(get find error), rows $(get find rows)"; exit 1 ;;
esac
python3 -c "import sys; sys.exit($(get find issue_share) > $MOST_ISSUES)" || { echo "alert"; exit 4; }
echo "$(get find num_issues) issues of $(get find n_rows) rows in $(get find output)"
"""


@pytest.fixture
def night(tmp_path):
    """Return a function that runs the script, with `labelsieve` of this environment."""
    (tmp_path / "bin").mkdir()
    for name, command in (("labelsieve", f"{sys.executable} -m labelsieve"), ("python3", sys.executable)):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    (tmp_path / "nightly.sh").write_text(SCRIPT, encoding="utf-8")

    def run(most_bytes=10**9, most_issues=0.5, **options):
        limits = {"MOST_BYTES": str(most_bytes), "MOST_ISSUES": str(most_issues)} | options
        environment = os.environ | limits | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "nightly.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.strip()

    return run


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
    assert night(most_bytes=probs.nbytes - 1) == (3, f"too much to read: {probs.nbytes}")
    assert night() == (0, f"{issues.num_issues} issues of 600 rows in issues.csv")
    rows = np.loadtxt(tmp_path / "issues.csv", delimiter=",", skiprows=1, usecols=0)
    assert rows.tolist() == issues.indices.tolist()
    log = (tmp_path / "find.log").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["stage"] for line in log if line.startswith("{")] == ["read", "threshold", "rank"]
    assert night(most_issues=issues.num_issues / 600 / 2) == (4, "alert")
    found = json.loads((tmp_path / "find.json").read_text(encoding="utf-8"))
    assert (found["rows_resumed"], found["read_bytes"]) == (600, 0), "the workdir had all rows"
    with own_folder(LocalFolder(tmp_path / "work"), "mine"):
        assert night(LABELSIEVE_FIND_WAIT="0") == (75, "try again later")
    probs[[3, 77]] = np.nan
    np.save(tmp_path / "pred_probs.npy", probs)
    assert night(LABELSIEVE_FIND_FRESH="1") == (1, "failed: InvalidInputError, rows [[3, 4], [77, 78]]")
