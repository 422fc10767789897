"""A task and an option that are added from outside: what follows from a declaration."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import labelsieve
from draws import draw
from labelsieve import find_label_issues
from labelsieve.cli.app import run
from labelsieve.cli.options import in_options
from labelsieve.find import TASK as CLASSIFICATION
from labelsieve.find import Task, task_of
from labelsieve.options import OPTIONS, TASKS, JobSettings, Option, check_flag

# All of a task: rows of two labels, of the left and of the right, which the option --swap exchanges.
PAIRS = '''
import numpy as np

from labelsieve.find import Task
from labelsieve.job.job import Job
from labelsieve.options import Option, check_flag
from labelsieve.results.label_issues import IssuePairs
from labelsieve.results.units import Layout


class PairLayout(Layout):
    kind, task, units = "pairs", "pairs", ("sides", "pairs")

    def __init__(self, n_pairs):
        self.n_groups, self.attributes = n_pairs, {"n_pairs": n_pairs}

    def edges(self, start, stop):
        return np.arange(start, stop + 1) * 2

    def groups_of(self, rows):
        return rows // 2

    def columns(self, rows):
        return {"pair": rows // 2, "side": rows % 2}

    @classmethod
    def restored(cls, attributes, array):
        return cls(**attributes)


class PairIssues(IssuePairs):
    """Pairs of a pair and a side."""


def opened(labels, pred_probs, settings, *, swap):
    labels, probs = (np.load(one, mmap_mode="r") if isinstance(one, str) else one for one in (labels, pred_probs))
    labels = labels[:, ::-1] if swap else labels
    return Job(labels.reshape(-1), probs.reshape(-1, probs.shape[2]), settings, layout=PairLayout(len(labels)))


TASK = Task(
    "pairs",
    "a side of a pair",
    opened,
    PairIssues,
    options={"swap": Option(False, "The left label is the right one.", check=check_flag)},
    without={"data": "give labels and pred_probs"},
)
'''
LABELS, PROBS = draw(600, 3, seed=5, dtype=np.float32)


@pytest.fixture
def pairs(monkeypatch, tmp_path):
    """Return the toy task, which is registered by one line, and the arguments for two files of pairs."""
    monkeypatch.chdir(tmp_path)
    Path("toy_pairs.py").write_text(PAIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_pairs", raising=False)
    monkeypatch.setitem(TASKS, "pairs", "toy_pairs")
    np.save("labels.npy", LABELS.reshape(300, 2))
    np.save("probs.npy", PROBS.reshape(300, 2, 3))
    return task_of("pairs"), ("labels.npy", "probs.npy")


@pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem")  # once they are swapped
def test_a_task(pairs, capsys):
    assert len([line for line in PAIRS.splitlines() if line.strip()]) <= 60
    task, files = pairs
    want = find_label_issues(LABELS, PROBS).indices
    assert len(want) > 5
    found = task.find(*files, progress=False)
    assert found.pairs().tolist() == np.stack([want // 2, want % 2], axis=1).tolist()
    assert task.plan(*files).n_rows == 600
    # The command line, with the task's own option, and a workdir from which the second run resumes.
    assert run(["find", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "pairs (a side of a pair)" in words
    assert "--swap With --task pairs: the left label is the right one." in words
    command = ["find", "--task", "pairs", *files, "--workdir", "work", "-o", "i.zarr", "--report", "r.html"]
    assert run([*command, "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "600 sides of 300 pairs, 3 classes" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line][4:6] == [
        ["pair", "side"],
        [str(want[0] // 2), str(want[0] % 2)],
    ]
    assert run(command) == 0
    assert "600 rows were in the workdir" in capsys.readouterr().out
    assert run([*command[:5], "--swap", "--json"]) == 0
    swapped = find_label_issues(LABELS.reshape(300, 2)[:, ::-1].reshape(-1), PROBS)
    assert f'"num_issues": {swapped.num_issues}' in capsys.readouterr().out
    assert run(["plan", "--task", "pairs", *files]) == 0
    assert "600 rows, 3 classes" in capsys.readouterr().out
    for refused, said in (
        (["labels.npy", "probs.npy", "--swap"], "--swap is for --task pairs"),
        (["--task", "pairs", "--data", "t", "--labels", "a", "--pred-probs", "b"], "--data is not for --task pairs"),
    ):
        assert run(["find", *refused]) == 2
        assert said in capsys.readouterr().err
    # A saved result, its report, and the page of its review; another process finds the layout in the registry.
    code = (
        "from labelsieve import load, options; options.TASKS['pairs'] = 'toy_pairs'; print(load('i.zarr').pairs()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{found.pairs()[0]}\n"
    loaded = labelsieve.load("i.zarr")
    assert type(loaded) is task.wrap
    assert loaded.pairs().tolist() == found.pairs().tolist()
    assert "The worst sides" in Path("r.html").read_text()
    loaded.rows.review("review.html")
    assert f"pair {want[0] // 2}, side {want[0] % 2}" in Path("review.html").read_text()


def test_a_task_on_a_cluster(pairs):
    task, files = pairs
    want = task.find(*files, progress=False)
    on_cluster = ["--workers", "2", "--threads", "1", "--batch-size", "50", "--worker-memory", "1GB"]
    assert run(["find", "--task", "pairs", *files, *on_cluster, "-o", "c.zarr", "--quiet"]) == 0
    found = labelsieve.load("c.zarr")
    assert "2 workers" in found.facts.scheduler
    assert found.pairs().tolist() == want.pairs().tolist()
    assert found.layout.has_same_groups(want.layout)


def test_an_option(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("probs.npy", PROBS)
    monkeypatch.setitem(OPTIONS, "shade_of", Option(False, "What the option is for.", "Method", check_flag))
    assert run(["find", "--help"]) == 0
    method = capsys.readouterr().out.partition("\nMethod:")[2].partition("\nMemory")[0]
    assert "--shade-of What the option is for." in " ".join(method.split())
    passed, job = [], CLASSIFICATION.job
    monkeypatch.setattr(
        Task, "job", lambda _, *args, **given: passed.append(given.get("shade_of")) or job(*args, **given)
    )
    assert run(["find", "labels.npy", "probs.npy", "--shade-of", "--quiet"]) == 0
    find_label_issues(LABELS, PROBS, shade_of=True)
    labelsieve.plan_label_issues(LABELS, PROBS)
    assert passed == [True, True, None]
    assert [JobSettings(**given).shade_of for given in ({}, {"shade_of": True})] == [False, True]
    with pytest.raises(labelsieve.InvalidInputError, match="shade_of must be True or False, not 3"):
        find_label_issues(LABELS, PROBS, shade_of=3)
    with pytest.raises(labelsieve.InputTypeError, match="did you mean 'shade_of'"):
        find_label_issues(LABELS, PROBS, shade=True)
    assert in_options("give shade_of=True") == "give --shade-of"


@pytest.mark.parametrize("name", TASKS)
def test_help_shows_the_keywords_of_each_task(name):
    task = task_of(name)
    module = sys.modules[TASKS[name]]
    for function in (module.find_label_issues, module.plan_label_issues):
        shown = {one.name: one.default for one in inspect.signature(function).parameters.values()}
        assert {"labels", "pred_probs", *task.all_options} == shown.keys()
        assert {key: shown[key] for key in task.all_options} == {
            key: one.default for key, one in task.all_options.items()
        }


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("output must be a path", "--output must be a path"),
        ("give max_memory=... or n_jobs=1", "give --max-memory or --n-jobs 1"),
        ("filter_by='both' reads twice", "--filter-by both reads twice"),
        ("accept them by allow_zero_rows=True", "accept them by --allow-zero-rows"),
        ("offsets=... of 3", "--offsets of 3"),
        ("the output and the workdir of this run", "the output and the workdir of this run"),
        ("there is no file /data/class_names.txt", "there is no file /data/class_names.txt"),
        ("no column 'class_names' in t.parquet", "no column 'class_names' in t.parquet"),
        ("2 class_names, pred_probs has 3 classes", "2 class_names, pred_probs has 3 classes"),
    ],
)
def test_messages_speak_of_options(message, said):
    task_of("tokens")
    assert in_options(message) == said
