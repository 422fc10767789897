"""What README shows is typed as it stands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import labelsieve
from labelsieve.cli.app import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_and_find_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    promised = re.search(r"# (<LabelIssues.*>)", README).group(1)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == promised
    assert out.splitlines()[1].startswith(str(names["issues"].indices[:10]))
    assert len(blocks("python")[0].splitlines()) <= 12
    assert names["find_label_issues_batched"] is labelsieve.find_label_issues_batched
    (find,) = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("labelsieve find")]
    assert run(shlex.split(find)[1:]) == 0
    rows = np.loadtxt("issues.csv", delimiter=",", skiprows=1, usecols=0)
    assert rows.tolist() == names["issues"].indices.tolist()


def test_set_up_commands_are_one_line_each_and_the_tests_command_is_what_ci_runs():
    commands = [block.splitlines() for block in blocks("bash")[:2]]
    assert [len(lines) for lines in commands] == [1, 1]
    assert commands[0][0].endswith("labelsieve demo")
    assert commands[1][0].endswith("pytest -n 2")
    assert r"grep -m 1 -E '^python3 -m venv .*pytest' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    first = next(line for line in README.splitlines() if re.match(r"python3 -m venv .*pytest", line))
    assert first == commands[1][0]


def test_no_figure_was_left_open():
    assert re.findall(r"@\w+@", README) == []


def test_files_that_the_guarantees_name_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", README))
    assert len(named) >= 6
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("extra", ["hdf5", "s3", "parquet", "dashboard", "demo", "test"])
def test_every_extra_is_named(extra):
    assert f"`{extra}`" in README
