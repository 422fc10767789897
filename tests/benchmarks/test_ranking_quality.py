"""The figures of ``ranking_quality.py``: how they are computed, and that the guide tells what is measured.

With ``--real-size`` all simulated and trained cases are measured, which takes two minutes; otherwise some small ones.
"""

import itertools
import json
import sys

import numpy as np
import pytest
import ranking_quality
from sklearn.metrics import average_precision_score

import labelsieve.options
from pages import guide


def told(heading):
    """Return the rows of the first table below a heading of the page, by their first cell."""
    lines = guide("which_filter_and_score").partition(f"## {heading}\n")[2].splitlines()
    table = itertools.takewhile(
        lambda line: line.startswith("|"), itertools.dropwhile(lambda line: not line.startswith("|"), lines)
    )
    rows = [[cell.strip() for cell in line.replace("`", "").strip("|").split("|")] for line in table]
    return {name: dict(zip(rows[0][1:], cells, strict=True)) for name, *cells in rows[2:]}


@pytest.mark.parametrize("n_values", [2, 10, 10**6])
def test_areas_are_those_of_scikit_learn(n_values):
    rng = np.random.default_rng(n_values)
    scores, is_wrong = rng.integers(0, n_values, 500) / n_values, rng.random(500) < 0.1
    want = average_precision_score(is_wrong, -scores)
    assert want == pytest.approx(ranking_quality.average_precision(scores, is_wrong), abs=1e-12)


def test_ties_count_as_their_mean_over_all_orders():
    scores, is_wrong = np.array([0.5, 0.1, 0.5, 0.5, 0.9]), np.array([True, False, False, True, True])
    for n in range(6):
        orders = [order for order in itertools.permutations(range(5)) if sorted(scores) == scores[list(order)].tolist()]
        want = np.mean([is_wrong[list(order[:n])].sum() for order in orders])
        assert want == pytest.approx(ranking_quality.hits_among(scores, is_wrong, n))


@pytest.mark.parametrize("noise", ranking_quality.NOISES)
def test_simulated_labels_are_wrong_as_often_as_told(noise):
    case = ranking_quality.simulated(noise, 10, "good", 0.1, 20_000, seed=1)
    assert case.is_wrong.mean() == pytest.approx(0.1, abs=0.015)
    assert len(case.members) == ranking_quality.N_MEMBERS
    np.testing.assert_allclose(1, np.array([probs.sum(axis=1) for probs in case.members]), atol=1e-5)
    # A good model's probability of the label is right on average, errors included.
    assert case.probs.max(axis=1).mean() == pytest.approx((case.probs.argmax(axis=1) == case.labels).mean(), abs=0.03)


def test_tables_are_printed_and_figures_are_saved(tmp_path, monkeypatch, capsys):
    case = ranking_quality.simulated("uniform", 10, "weak", 0.1, 500, seed=0)
    folder = tmp_path / "data" / "some"
    folder.mkdir(parents=True)
    for name, values in (("labels", case.labels), ("pred_probs", case.probs)):
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "verified_errors.npy", np.flatnonzero(case.is_wrong))
    monkeypatch.setattr(ranking_quality, "CLASSES", (2, 10))
    monkeypatch.setattr(ranking_quality, "RATES", (0.1,))
    monkeypatch.setattr(ranking_quality, "trained_cases", lambda _seed: ())
    arguments = ["--data", str(tmp_path / "data"), "--rows", "400", "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["ranking_quality", *arguments])
    ranking_quality.main()
    printed = capsys.readouterr().out
    assert "| logit_margin |" in printed
    assert "human (1)" in printed
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert len(figures) == 1 + 2 * len(ranking_quality.NOISES) * len(ranking_quality.MODELS)
    area = ranking_quality.average_precision(case.probs[np.arange(500), case.labels], case.is_wrong)
    assert area == pytest.approx(figures[0]["scores"]["self_confidence"]["average_precision"])
    assert {name for name in figures[0]["scores"] if "," not in name} >= set(labelsieve.options.METHODS)


def test_the_page_tells_what_is_measured(request):
    table = told("Which score to use")
    assert {name.partition(",")[0] for name in table} >= set(labelsieve.options.METHODS)
    if not request.config.getoption("--real-size"):
        pytest.skip("takes two minutes: --real-size")
    columns = ranking_quality.group_columns(ranking_quality.measure_all(ranking_quality.cases_of(None, 10_000, 0)))
    filters = told("Which filter to use")
    assert set(filters) == {"None", *labelsieve.options.FILTER_NAMES}
    for name, cells in filters.items():
        for column, cell in cells.items():
            for kind in {column.partition(" (")[0]} & set(columns):
                for figure, value in zip(("precision", "recall"), cell.split(", "), strict=True):
                    measured = ranking_quality.mean(columns[kind], "filters", name.replace("None", "none"), figure)
                    assert float(value) == pytest.approx(measured, abs=0.03), (name, column)
    for name, cells in table.items():
        for column, cell in cells.items():
            kind = column.partition(" (")[0]
            if kind in columns:
                measured = ranking_quality.mean(columns[kind], "scores", name, "average_precision")
                assert float(cell) == pytest.approx(measured, abs=0.02), (name, column)
