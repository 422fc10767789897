"""Multi-label classification beside cleanlab: 200,000 examples of 80 tags, two for each, by a good model.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_tag_task.py -s --real-size`` runs it
on 64 MB of probabilities and prints the seconds and the peak memory. What is asserted is the result: no wall time.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
from cleanlab.multilabel_classification import filter as theirs

from labelsieve.multilabel_classification import find_label_issues as find_tags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::labelsieve.LabelsieveWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RUN = """
import pathlib, pickle, re, sys
from labelsieve.multilabel_classification import find_label_issues as find_tags
with open(sys.argv[1], "rb") as file:
    labels = pickle.load(file)
found = find_tags(labels, sys.argv[2], progress=False)
found.example_scores()
# Of this program alone; ru_maxrss would start from the size of the process that started it.
print(int(re.search(r"VmHWM:\\s*([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1000)
"""


def good_model(n_examples, n_tags, seed=0):
    """Return lists of about two tags, a few of them wrong, and float32 probabilities."""
    rng = np.random.default_rng(seed)
    true = np.zeros((n_examples, n_tags), bool)
    for _ in range(2):
        true[np.arange(n_examples), rng.integers(0, n_tags, n_examples)] = True
    probs = np.where(true, rng.beta(8, 2, true.shape), rng.beta(1, 30, true.shape)).astype("f4")
    given = true & (rng.random(true.shape) > 0.05) | (rng.random(true.shape) < 0.001)
    return [np.flatnonzero(row).tolist() for row in given], probs


def test_tags_beside_cleanlab(request, tmp_path):
    real = request.config.getoption("--real-size")
    labels, probs = good_model(*(200_000, 80) if real else (2_000, 8))
    np.save(tmp_path / "probs.npy", probs)
    masks = []
    for name, find in {
        "cleanlab, n_jobs=1": lambda: theirs.find_label_issues(labels, probs, n_jobs=1),
        "the first run, with imports": lambda: find_tags(labels, probs).example_mask(),
        "in memory": lambda: find_tags(labels, probs).example_mask(),
        "from a file": lambda: find_tags(labels, tmp_path / "probs.npy").example_mask(),
    }.items():
        started = time.perf_counter()
        masks.append(find())
        print(f"\n{name}: {time.perf_counter() - started:.2f} s, {masks[-1].sum():,} examples", end="")
        assert np.array_equal(masks[-1], masks[0])


def test_peak_memory(request, tmp_path):
    import pickle

    labels, probs = good_model(*(200_000, 80) if request.config.getoption("--real-size") else (2_000, 8))
    np.save(tmp_path / "probs.npy", probs)
    (tmp_path / "labels.pickle").write_bytes(pickle.dumps(labels))
    command = [sys.executable, "-W", "ignore", "-c", RUN, tmp_path / "labels.pickle", tmp_path / "probs.npy"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"\npeak {peak:,} MB, with the lists and the pages of the mapped file")
    assert peak < 800
