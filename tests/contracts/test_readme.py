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


def lines_of_code(block):
    return [line for line in block.splitlines() if line.strip()]


def test_python_and_shell_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [first, *others] = blocks("python")
    assert len(lines_of_code(first)) <= 10
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    assert capsys.readouterr().out.splitlines() == [re.search(r"# (<LabelIssues.*>)", README).group(1)]
    issues = names["issues"]
    clean = np.load("clean_labels.npy")
    assert clean.tolist() == np.delete(np.load("labels.npy"), issues).tolist()

    [shell] = [block for block in blocks("bash") if "labelsieve find" in block]
    assert len(lines_of_code(shell)) == 5
    for line in lines_of_code(shell):
        assert run(shlex.split(line)[1:]) == 0, line
    rows = np.loadtxt("issues.csv", delimiter=",", skiprows=1, usecols=0)
    assert rows.tolist() == labelsieve.load("issues.zarr").indices.tolist() == issues.indices.tolist()
    assert Path("report.html").is_file()

    for block in others:
        exec(compile(block, "README.md", "exec"), names)
    assert names["find_label_issues_batched"] is labelsieve.find_label_issues_batched
    assert len(names["suspects"]) == len(issues)


def test_set_up_commands_are_one_line_each_and_the_tests_command_is_what_ci_runs():
    commands = [block.splitlines() for block in blocks("bash")[:2]]
    assert [len(lines) for lines in commands] == [1, 1]
    assert commands[0][0].endswith("labelsieve demo")
    assert commands[1][0].endswith('pytest -n 3 -m "not slow"')
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert r"grep -m 1 -E '^python3 -m venv .*pytest' README.md" in ci
    assert re.search(r"pytest --quiet -n \d -m slow", ci)
    first = next(line for line in README.splitlines() if re.match(r"python3 -m venv .*pytest", line))
    assert first == commands[1][0]


def test_no_figure_was_left_open():
    assert re.findall(r"@\w+@", README) == []


def test_every_link_leads_to_a_file_and_every_guarantee_to_its_tests():
    links = [link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert all((ROOT / path).exists() for path, _, _ in links)
    headings = [
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", README, re.MULTILINE)
    ]
    assert {anchor for _, _, anchor in links if anchor} <= set(headings)
    table = README.partition("## What is guaranteed")[2].partition("\n## ")[0]
    guarantees = re.findall(r"^\| \*\*.*\|$", table, re.MULTILINE)
    assert len(guarantees) == 9
    assert all(re.search(r"\]\(tests/[\w/]+\.py\)", guarantee) for guarantee in guarantees)


def test_it_is_short():
    assert len(README.splitlines()) <= 320


@pytest.mark.parametrize("extra", ["hdf5", "s3", "parquet", "dashboard", "demo", "docs", "test"])
def test_every_extra_is_named(extra):
    assert f"`{extra}`" in README
