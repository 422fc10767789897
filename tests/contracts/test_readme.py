"""What README shows is typed as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

import labelsieve
import pages
from pages import ROOT, type_in

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return pages.blocks(README, language)


def lines_of_code(block):
    return [line for line in block.splitlines() if line.strip()]


def test_python_and_shell_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [first, *others] = blocks("python")
    assert len(lines_of_code(first)) <= 10
    names = {}
    type_in("python", first, names, "README.md")
    assert capsys.readouterr().out.splitlines() == [re.search(r"# (<LabelIssues.*>)", README).group(1)]
    issues = names["issues"]
    clean = np.load("clean_labels.npy")
    assert clean.tolist() == np.delete(np.load("labels.npy"), issues).tolist()

    [shell] = [block for block in blocks("bash") if "labelsieve find" in block]
    assert len(lines_of_code(shell)) == 4
    type_in("bash", shell, names, "README.md")
    rows = np.loadtxt("issues.csv", delimiter=",", skiprows=1, usecols=0)
    assert rows.tolist() == labelsieve.load("issues.zarr").indices.tolist() == issues.indices.tolist()
    assert Path("report.html").is_file()

    for block in others:
        type_in("python", block, names, "README.md")
    assert names["find_label_issues_batched"] is labelsieve.find_label_issues_batched
    assert len(names["suspects"]) == len(issues)


def test_set_up_commands_are_one_line_each_and_the_tests_command_is_what_ci_runs():
    demo, tests = blocks("bash")[0].splitlines()
    assert demo.endswith("labelsieve demo")
    assert tests.endswith('pytest -n 3 -m "not slow"')
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert r"grep -m 1 -E '^python3 -m venv .*pytest' README.md" in ci
    assert re.search(r"pytest --quiet -n \d -m slow", ci)
    first = next(line for line in README.splitlines() if re.match(r"python3 -m venv .*pytest", line))
    assert first == tests


def test_no_figure_was_left_open():
    assert re.findall(r"@\w+@", README) == []


def test_its_sections_are_in_the_order_in_which_they_are_needed():
    assert re.findall(r"^## (.*)", README, re.MULTILINE) == [
        "Start",
        "From what you have",
        "What you get",
        "Which filter?",
        "From found to fixed",
        "At scale",
        "What is guaranteed",
        "Speed and memory",
        "From cleanlab",
        "Contributing",
    ]
    first = README.index("`pred_probs`")
    assert "out-of-sample" in README[first : first + 300]
    assert 'method="predict_proba"' in README[first : first + 500]


def test_every_guarantee_leads_to_its_tests():
    table = README.partition("## What is guaranteed")[2].partition("\n## ")[0]
    guarantees = re.findall(r"^\| \*\*.*\|$", table, re.MULTILINE)
    assert len(guarantees) == 9
    assert all(re.search(r"\]\(tests/[\w/]+\.py\)", guarantee) for guarantee in guarantees)


def test_it_is_short():
    assert len(README.splitlines()) <= 230


@pytest.mark.parametrize("extra", ["hdf5", "s3", "parquet", "dashboard", "demo", "docs", "test"])
def test_every_extra_is_named(extra):
    assert f"`{extra}`" in README
