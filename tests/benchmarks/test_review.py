"""How long it takes to write the review page, and how large it is.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_review.py -s --real-size`` writes a
page of 500 rows with pictures of 64 x 64. What is asserted is what is shown, and the page's size.
"""

import json
import re
import time

import numpy as np
import pytest

import labelsieve

pytestmark = pytest.mark.slow
MOST_BYTES = 5_000_000


def all_wrong(n_rows, n_classes=10):
    """Return a result in which half of all rows are issues."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(n_classes, 0.05), n_rows)
    labels = (probs.argmax(axis=1) + rng.integers(0, 2, n_rows)) % n_classes
    return labelsieve.find_label_issues(labels, probs, filter_by="predicted_neq_given", progress=False), probs


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_a_page_with_pictures(request, tmp_path, kind):
    n_rows = 500 if request.config.getoption("--real-size") else 40
    found, probs = all_wrong(3 * n_rows)
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (len(probs), 64, 64, 3), dtype=np.uint8)
    if kind == "smooth":
        pictures = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None], pictures.shape)
    path, began = tmp_path / "review.html", time.perf_counter()
    found.review(path, top=n_rows, images=pictures, pred_probs=probs)
    seconds, n_bytes = time.perf_counter() - began, path.stat().st_size
    page = path.read_text(encoding="utf-8")
    [config] = re.findall(r'<script type="application/json" id="config">(.*?)</script>', page)
    assert [line["row"] for line in json.loads(config)["rows"]] == found.indices[:n_rows].tolist()
    assert n_bytes < MOST_BYTES
    print(f"\n{n_rows} rows with pictures of {kind}: {seconds:.2f} s, {n_bytes / 1e6:.2f} MB")
