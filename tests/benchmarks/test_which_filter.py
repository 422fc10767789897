"""How many of the rows that a filter selects are wrong, and how many of the wrong rows it selects.

The figures of README's table "Which filter?". They need no large input, so they are the same with ``--benchmarks`` and
with ``--real-size``.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import labelsieve
from labelsieve.options import FILTER_NAMES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def draw(n_rows, n_classes, wrong):
    """Return labels, probabilities of a model that is right about 95% of the rows, and which labels are wrong."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.standard_normal((n_rows, n_classes), dtype=np.float32)
    logits[np.arange(n_rows), true] += rng.normal(6, 2, n_rows)
    probs = np.exp(logits)
    probs /= probs.sum(axis=1, keepdims=True)
    flipped = rng.random(n_rows) < wrong
    return np.where(flipped, (true + rng.integers(1, n_classes, n_rows)) % n_classes, true), probs, flipped


def told():
    """Return precision, recall and reads of each filter in README's table."""
    table = README.partition("## Which filter?")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| .* \| (`\"\w+\"`|none)[^|]*\| ([\d.]+) \| ([\d.]+) \| (\d) \|$", table, re.MULTILINE)
    return {name.strip('`"'): (float(precision), float(recall), int(reads)) for name, precision, recall, reads in lines}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_filters_select_as_readme_tells():
    labels, probs, flipped = draw(200_000, 50, 0.04)
    measured = {}
    for name in ("none", *FILTER_NAMES):
        found = labelsieve.find_label_issues(labels, probs, filter_by=None if name == "none" else name, progress=False)
        hits = np.count_nonzero(flipped[found.indices])
        measured[name] = hits / len(found), hits / np.count_nonzero(flipped), found.facts.n_reads
        print(f"\n{name:22} precision {measured[name][0]:.3f}, recall {measured[name][1]:.3f}", end="")
    print()
    assert len(told()) == 4
    for name, figures in told().items():
        assert measured[name] == pytest.approx(figures, abs=0.006), name
