"""The install lines of README, the notebooks and docker-compose bring what follows them; those of errors work."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata

import nbformat
import pytest
import yaml

from installs import EXTRAS, ROOT, distributions, environment_after, extras_of, imports_of, missing_modules, pip_lines
from labelsieve import MissingDependencyError, errors

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def cells(path, kind):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def readme_line():
    """Return what README installs before its examples: the lines that are not for developers."""
    lines = [line for block in readme_blocks("bash") for line in pip_lines(block)]
    extras = dict.fromkeys(extra for line in lines for extra in extras_of(line)[0] if extra != "test")
    return [f".[{','.join(extras)}]"]


def test_lines_are_read_as_a_shell_reads_them():
    text = (
        'In a clone: `pip install ".[demo,frame]" "cleanlab>=2.9"`, or\n.venv/bin/pip install -e ".[test]" && pytest\n'
    )
    assert pip_lines(text) == [[".[demo,frame]", "cleanlab>=2.9"], [".[test]"]]
    assert extras_of([".[demo,frame]", "cleanlab>=2.9"]) == (["demo", "frame"], ["cleanlab>=2.9"])
    assert imports_of("%matplotlib inline\nimport os, numpy.linalg\nfrom distributed import Client") == {
        "numpy",
        "distributed",
    }
    assert {"pandas", "sklearn", "cleanlab", "boto3"} < missing_modules([".[report]"])
    assert not {"matplotlib", "PIL", "jinja2", "dask", "zarr"} & missing_modules([".[report]"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_what_it_imports(path):
    [line] = pip_lines("\n".join(cells(path, "markdown")))
    extras, _ = extras_of(line)
    assert set(extras) <= set(EXTRAS)
    assert "notebook" in extras
    assert pip_lines(cells(path, "markdown")[0]) == [line], "the first cell says it"
    imported = set().union(*map(imports_of, cells(path, "code")))
    assert {"numpy", "labelsieve"} <= imported
    assert imported & missing_modules(line) == set()


def test_readme_installs_what_its_examples_import():
    imported = set().union(*map(imports_of, readme_blocks("python")))
    assert {"numpy", "labelsieve", "distributed"} <= imported
    assert imported & missing_modules(readme_line()) == set()


def test_every_line_of_readme_installs_from_the_clone():
    lines = pip_lines(README)
    assert len(lines) >= 4
    for line in lines:
        extras, others = extras_of(line)
        assert set(extras) <= set(EXTRAS)
        assert others == []


@pytest.mark.slow
def test_readmes_examples_run_with_what_it_installs_and_nothing_else(tmp_path):
    (tmp_path / "work").mkdir()
    blocks = json.dumps(readme_blocks("python"))
    script = (
        f"import json\nfor block in json.loads({blocks!r}):\n    exec(compile(block, 'README.md', 'exec'), globals())\n"
    )
    environment = environment_after(readme_line(), tmp_path / "site")
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"# (<LabelIssues.*>)", README).group(1) in done.stdout
    assert (tmp_path / "work" / "report.html").is_file()


# docker-compose ---------------------------------------------------------------------------------------------------


def test_the_image_has_what_its_services_run():
    build = next(iter(yaml.safe_load(COMPOSE)["services"].values()))["build"]["dockerfile_inline"]
    [words] = [
        shlex.split(line.removeprefix("RUN ").partition(" && ")[0])
        for line in build.splitlines()
        if "pip install" in line
    ]
    assert words[:2] == ["pip", "install"]
    line = [word for word in words[2:] if not word.startswith("-")]
    there = distributions(line)
    assert {"s3fs", "bokeh", "moto", "flask", "labelsieve"} <= there


# Errors -----------------------------------------------------------------------------------------------------------


class Installed:
    """The metadata of an installed Labelsieve."""

    def __init__(self, direct_url):
        self.direct_url = direct_url

    def read_text(self, name):
        assert name == "direct_url.json"
        return None if self.direct_url is None else json.dumps(self.direct_url)


@pytest.mark.parametrize(
    ("direct_url", "words"),
    [
        (None, ["labelsieve[report]"]),
        ({"url": "file:///nowhere/at%20all", "dir_info": {}}, ["labelsieve[report]"]),
        ({"url": "CLONE", "dir_info": {}}, ["{clone}[report]"]),
        ({"url": "CLONE", "dir_info": {"editable": True}}, ["-e", "{clone}[report]"]),
        (
            {"url": "https://host/labelsieve.git", "vcs_info": {"vcs": "git", "commit_id": "a1b2"}},
            ["labelsieve[report] @ git+https://host/labelsieve.git@a1b2"],
        ),
        (
            {"url": "file:///w/labelsieve-0.1.0-py3-none-any.whl", "archive_info": {}},
            ["labelsieve[report] @ file:///w/labelsieve-0.1.0-py3-none-any.whl"],
        ),
    ],
    ids=["index", "clone that is gone", "clone", "editable", "git", "wheel"],
)
def test_the_line_of_an_error_installs_from_where_labelsieve_came(tmp_path, monkeypatch, direct_url, words):
    clone = tmp_path / "my clone"
    clone.mkdir()
    if direct_url and direct_url["url"] == "CLONE":
        direct_url = direct_url | {"url": clone.as_uri()}
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Installed(direct_url))
    line = str(MissingDependencyError("The report", "report")).removeprefix("The report needs an optional package: ")
    wanted = [sys.executable, "-m", "pip", "install", *(word.format(clone=clone) for word in words)]
    assert shlex.split(line) == wanted


def test_the_line_of_an_error_where_nothing_is_installed(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", nothing)
    assert shlex.split(errors.install_line("s3"))[1:] == ["-m", "pip", "install", "labelsieve[s3]"]
