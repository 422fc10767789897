"""The notebooks run as they stand, and what is kept in them is what they print."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from installs import environment_after, pip_lines
from processes import PATIENCE_S
from recipes import FOLDER, path_with_slurm, runnable

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Models and elementary functions differ in their last digits from one machine to the next, and so may counts.
NUMBER = re.compile(r"\d[\d,.e%]*")


def said(notebook):
    """Return what the cells of a notebook print or show, with # for each number; pictures as their kind."""
    texts = []
    for cell in notebook.cells:
        printed = ""  # in as many parts as the kernel happens to send
        for output in cell.get("outputs", []):
            assert output.output_type != "error", output
            if output.output_type == "stream":
                printed += output.text if output.name == "stdout" else ""  # other packages warn on stderr
            else:
                texts += [output.get("data", {}).get("text/plain", ""), *sorted(set(output.data) - {"text/plain"})]
        texts.append(printed)
    return [re.sub(r"[\s-]+", " ", NUMBER.sub("#", text)) for text in texts if text]


def test_there_are_the_ten_of_them():
    shown = ("01_quickstart", "02_out_of_core", "03_cluster", "04_from_cleanlab", "05_from_a_model")
    recipes = ("08_every_night", "09_kubernetes", "10_slurm")
    assert [path.stem for path in NOTEBOOKS] == [*shown, "06_pixels_tokens_tags", "07_from_found_to_fixed", *recipes]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_names_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"site-packages|Warning|File \\\"/", text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel and its client
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_what_it_installs_and_says_what_is_kept_in_it(path, tmp_path, monkeypatch):
    kept = nbformat.read(path, as_version=4)
    run = runnable(path)
    [line] = pip_lines(kept.cells[0].source)
    for name, value in environment_after(line, tmp_path / "site").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", path_with_slurm(tmp_path / "bin"))
    (tmp_path / "work").mkdir()
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    # A kernel sends what a cell prints in one message or in several, as time goes by.
    client = NotebookClient(run, timeout=PATIENCE_S, kernel_name="python3", resources=resources, coalesce_streams=True)
    client.execute()
    assert said(run) == said(kept)
    assert len(said(kept)) >= 3
