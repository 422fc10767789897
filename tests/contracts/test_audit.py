"""Audits: rows drawn with known probabilities, estimates with intervals, and decisions that are refused."""

import collections
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import labelsieve
import labelsieve.token_classification
from labelsieve.cli.app import run
from labelsieve.cli.options import cli
from labelsieve.confident_learning.estimate import (
    Share,
    allocate,
    draw_ordinals,
    estimate_errors,
    recall_shares,
    strata_of,
    stratified_shares,
    stratum_edges,
    weighted_share,
    wilson_interval,
)
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.review import audit as module
from labelsieve.storage.checked import with_checksum

Z = 1.959963984540054


def draw(n_rows=3000, wrong=0.05, seed=0, strength=3.0, n_classes=3):
    """Return labels, probabilities, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.standard_normal((n_rows, n_classes)) + strength * np.eye(n_classes)[true]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    is_wrong = rng.random(n_rows) < wrong
    return np.where(is_wrong, (true + 1) % n_classes, true), probs, is_wrong


@pytest.fixture(scope="module")
def known():
    """Return labels, which of them are wrong, and the issues that were found."""
    labels, probs, is_wrong = draw()
    return labels, is_wrong, labelsieve.find_label_issues(labels, probs, progress=False)


def naive_strata(scores, mask):
    """Return the stratum of each row by counting the rows of lower scores."""
    n = sum(not math.isnan(score) for score in scores)
    ordered = sorted(score for score in scores if not math.isnan(score))
    tops = [ordered[math.ceil(end * n) - 1] for end in (0.01, 0.03, 0.1, 0.3)]
    strata = []
    for score, issue in zip(scores, mask, strict=True):
        stratum = 2 * sum(score > top for top in tops) + (not issue)
        strata.append(-1 if math.isnan(score) else stratum)
    return strata


def naive_wilson(share, size):
    """Return the shares p with ``|share - p| = Z * sqrt(p * (1 - p) / size)``: the roots of a polynomial."""
    roots = np.roots([1 + Z * Z / size, -2 * share - Z * Z / size, share * share])
    return sorted(roots.real)


def test_each_row_has_the_stratum_of_its_score_and_the_weight_of_its_stratum(known):
    _, _, issues = known
    audit = issues.audit(budget=150, seed=3)
    strata = naive_strata(issues.scores.tolist(), issues.mask().tolist())
    assert audit.rows.dtype == np.int64
    assert audit.weights.dtype == np.float64
    assert len(audit) == len(set(audit.rows.tolist())) == 150
    assert audit.strata.tolist() == [strata[row] for row in audit.rows.tolist()]
    assert audit.scores.tolist() == issues.scores[audit.rows].tolist()
    assert audit.is_issue.tolist() == issues.mask()[audit.rows].tolist()
    sizes, drawn = collections.Counter(strata), collections.Counter(audit.strata.tolist())
    assert audit.stratum_rows.tolist() == [sizes[h] for h in range(10)]
    assert audit.weights.tolist() == [sizes[h] / drawn[h] for h in audit.strata.tolist()]
    assert round(audit.weights.sum()) == issues.n_rows
    assert repr(audit) == "<Audit: 150 of 3,000 labelled rows>"


def test_two_thirds_are_shared_out_by_size_and_the_rest_equally():
    sizes = np.array([1000, 0, 1500, 500, 0, 7000, 0, 20_000, 0, 70_000])
    drawn = allocate(sizes, 300).tolist()
    wanted = [200 * rows / 100_000 for rows in sizes]
    issues = 20 * math.sqrt(1500) / (math.sqrt(1500) + math.sqrt(500))
    wanted = [a + b for a, b in zip(wanted, [20, 0, issues, 20 - issues, 0, 20, 0, 20, 0, 20], strict=True)]
    assert sum(drawn) == 300
    assert all(abs(a - b) <= 1 for a, b in zip(drawn, wanted, strict=True))


@pytest.mark.parametrize(
    "sizes", [[5, 0, 3, 0, 9, 20, 1, 70, 0, 300], [0, 0, 0, 0, 0, 0, 0, 0, 3, 4000], [40, 1, 1, 1, 1, 1, 1, 1, 1, 1]]
)
def test_a_larger_budget_takes_no_row_from_a_stratum(sizes):
    sizes, before = np.array(sizes), np.zeros(10, np.int64)
    for budget in range(20, min(sizes.sum() + 5, 450)):
        drawn = allocate(sizes, budget)
        assert drawn.sum() == min(budget, sizes.sum())
        assert np.all((drawn >= before) & (drawn <= sizes) & (drawn >= np.minimum(sizes, 2)))
        before = drawn


def test_a_larger_audit_holds_a_smaller_one(known):
    _, _, issues = known
    small, large = (set(issues.audit(budget=budget, seed=5).rows.tolist()) for budget in (100, 400))
    assert small < large


@pytest.mark.parametrize(("n_rows", "n_drawn"), [(7, 3), (65_536, 40), (65_537, 40), (70_000, 69_999)])
def test_ordinals_are_distinct_and_the_first_ones_stay(n_rows, n_drawn):
    drawn = draw_ordinals(n_rows, n_drawn, 4, 1)
    assert len(set(drawn.tolist())) == n_drawn
    assert drawn.min() >= 0
    assert drawn.max() < n_rows
    assert draw_ordinals(n_rows, n_drawn // 2, 4, 1).tolist() == drawn[: n_drawn // 2].tolist()


@pytest.mark.parametrize("n_rows", [12, 100_000])
def test_all_rows_of_a_stratum_are_drawn_equally_often(n_rows):
    tenths = np.zeros(4)
    for seed in range(600):
        tenths += np.bincount(draw_ordinals(n_rows, 5, seed, 2) * 4 // n_rows, minlength=4)
    assert np.abs(tenths / tenths.sum() - 0.25).max() < 0.03


def test_equal_seeds_draw_equal_rows(known):
    _, _, issues = known
    assert issues.audit(60, 1).rows.tolist() == issues.audit(60, 1).rows.tolist()
    assert issues.audit(60, 1).rows.tolist() != issues.audit(60, 2).rows.tolist()


def test_a_stored_result_draws_the_same_rows_in_small_blocks(known, tmp_path, monkeypatch):
    _, _, issues = known
    monkeypatch.setattr("labelsieve.results.store.result_rows", lambda _: 700)
    issues.save(tmp_path / "issues.zarr")
    stored = labelsieve.load(tmp_path / "issues.zarr")
    assert len(list(stored.score_parts.blocks())) == 5
    for name in ("rows", "scores", "strata", "stratum_rows", "cut_scores", "cut_rows", "grid_scores", "grid_rows"):
        assert getattr(stored.audit(90), name).tolist() == getattr(issues.audit(90), name).tolist()


def test_edges_from_every_kth_score_are_the_same_in_any_blocks(known, tmp_path, monkeypatch):
    _, _, issues = known
    monkeypatch.setattr("labelsieve.results.store.result_rows", lambda _: 700)
    issues.save(tmp_path / "issues.zarr")
    monkeypatch.setattr(module, "_EDGE_SCORES", 500)
    stored = labelsieve.load(tmp_path / "issues.zarr").audit(90)
    assert stored.rows.tolist() == issues.audit(90).rows.tolist()
    edges = stratum_edges(issues.scores[::6])
    wanted = strata_of(issues.scores, issues.mask(), edges)
    assert stored.stratum_rows.tolist() == np.bincount(wanted, minlength=10).tolist()


def test_rows_without_a_label_are_not_drawn():
    labels, probs, _ = draw(400)
    labels[::3] = -1
    issues = labelsieve.find_label_issues(labels, probs, ignore_label=-1, progress=False)
    audit = issues.audit(1000)
    assert sorted(audit.rows.tolist()) == np.flatnonzero(labels >= 0).tolist()
    assert set(audit.weights.tolist()) == {1.0}


def test_equal_scores_are_one_stratum():
    probs = np.tile([0.75, 0.25], (500, 1))
    audit = labelsieve.find_label_issues(np.zeros(500, int), probs, progress=False).audit(50)
    assert set(audit.strata.tolist()) == {1}
    assert set(audit.weights.tolist()) == {10.0}


@pytest.mark.parametrize(("share", "size"), [(0.0, 10), (0.04, 37.5), (0.5, 3), (1.0, 12)])
def test_wilson_intervals_are_the_roots(share, size):
    low, high = wilson_interval(np.float64(share), np.float64(size))
    assert [low, high] == pytest.approx(naive_wilson(share, size), abs=1e-12)


def test_the_estimate_is_the_sum_over_strata_and_its_interval_wilsons():
    wrong, reviewed, rows = [6, 3, 0], [10, 20, 30], [100, 900, 9000]
    estimate, variance, total = 0.0, 0.0, 0.0
    for x, n, size in zip(wrong, reviewed, rows, strict=True):
        weight, smooth = size / 10_000, (x + 0.35) / (n + 0.7)
        estimate += weight * x / n
        total += weight * smooth
        variance += weight**2 * (1 - n / size) * smooth * (1 - smooth) / (n - 1)
    got = stratified_shares(np.array(wrong), np.array(reviewed), np.array(rows))
    assert got == pytest.approx((estimate, *naive_wilson(estimate, total * (1 - total) / variance)))


def test_the_interval_of_few_rows_is_that_of_agresti_and_coull_with_students_t():
    size = 10 / (1 - 10 / 1000) * 9 / 10  # as for the variance of a sample of 10 of 1,000 rows
    t = 2.262157  # of 9 degrees of freedom, from a table
    middle = (0.3 + t * t / (2 * size)) / (1 + t * t / size)
    half = t * math.sqrt(middle * (1 - middle) / (size + t * t))
    got = stratified_shares(np.array([3]), np.array([10]), np.array([1000]), of_few=True)
    assert got == pytest.approx((0.3, middle - half, middle + half), rel=1e-3)
    ends = stratified_shares(np.array([[0], [10]]), np.array([10]), np.array([1000]), of_few=True)
    assert (ends[1][0], ends[2][1]) == (0.0, 1.0)


def test_one_stratum_of_many_rows_gives_wilsons_interval_of_the_sample():
    got = stratified_shares(np.array([30]), np.array([500]), np.array([10**9]))
    assert got == pytest.approx((0.06, *naive_wilson(0.06, 500)), rel=0.01)


def test_where_all_rows_are_reviewed_nothing_is_uncertain(known):
    labels, is_wrong, issues = known
    audit = issues.audit(10_000, labels=labels)
    estimate = labelsieve.estimate(audit, is_wrong[audit.rows])
    found = issues.mask()
    assert estimate.error_rate == pytest.approx(is_wrong.mean())
    assert (estimate.low, estimate.high) == pytest.approx((is_wrong.mean(), is_wrong.mean()))
    assert estimate.precision_of_issues == pytest.approx([is_wrong[found].mean()] * 3)
    assert estimate.recall_of_issues == pytest.approx([(is_wrong & found).sum() / is_wrong.sum()] * 3)
    assert {k: share.estimate for k, share in estimate.per_class.items()} == pytest.approx(
        {k: is_wrong[labels == k].mean() for k in range(3)}
    )
    assert estimate.rows_for_width(0.001) == 0


def test_estimates_are_right_on_average_and_intervals_hold_the_truth(known):
    labels, is_wrong, issues = known
    truth = [
        is_wrong.mean(),
        is_wrong[issues.mask()].mean(),
        (is_wrong & issues.mask()).sum() / is_wrong.sum(),
        is_wrong[labels == 1].mean(),
    ]
    got = []
    for seed in range(150):
        audit = issues.audit(200, seed, labels=labels)
        estimate = labelsieve.estimate(audit, is_wrong[audit.rows])
        rate = Share(estimate.error_rate, estimate.low, estimate.high)
        got.append([rate, estimate.precision_of_issues, estimate.recall_of_issues, estimate.per_class[1]])
    estimates, low, high = np.array(got).transpose(2, 0, 1)
    assert np.abs(estimates.mean(axis=0)[[0, 1, 3]] - np.array(truth)[[0, 1, 3]]).max() < 0.01
    assert np.all(((low <= truth) & (truth <= high)).mean(axis=0) >= 0.9)  # the benchmark draws more of them


def test_recall_is_in_its_interval_and_exact_where_the_counts_are():
    exact = recall_shares((np.float64(30),) * 3, (np.float64(10),) * 3)
    assert exact == pytest.approx((0.75, 0.75, 0.75))
    some = recall_shares(tuple(map(np.float64, (30, 20, 40))), tuple(map(np.float64, (10, 0, 30))))
    assert 20 / 50 < some[1] < some[0] < some[2] == 1.0
    # At both ends the difference and its half width are equal, by the definition of the interval.
    low = some[1]
    assert (1 - low) * 30 - low * 10 == pytest.approx(math.hypot((1 - low) * 10, low * 20))
    none = recall_shares(tuple(map(np.float64, (0, 0, 5))), tuple(map(np.float64, (0, 0, 5))))
    assert math.isnan(none[0])
    assert none[1:] == (0.0, 1.0)


def test_a_class_has_the_weighted_share_with_kishs_size():
    got = weighted_share(np.array([True, False, False]), np.array([1.0, 2.0, 5.0]), np.empty(0))
    assert got == pytest.approx((1 / 8, *naive_wilson(1 / 8, 64 / 30)))
    # Two more strata, of which no row of the class was drawn.
    got = weighted_share(np.array([True, False, False]), np.array([1.0, 2.0, 5.0]), np.array([4.0, 8.0]))
    low, high = naive_wilson(1 / 20, 400 / 110)[0], naive_wilson(13 / 20, 400 / 110)[1]
    assert got == pytest.approx((1 / 8, low, high))


def test_intervals_of_small_classes_hold_the_truth():
    # Of a small class mostly rows of low scores are drawn, whose labels are wrong.
    rng = np.random.default_rng(60)
    true = rng.choice(3, 4000, p=[0.9, 0.07, 0.03])
    logits = rng.standard_normal((4000, 3)) + 3 * np.eye(3)[true]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    held = []
    for seed in range(40):
        is_wrong = rng.random(4000) < np.array([0.01, 0.1, 0.3])[true]
        labels = np.where(is_wrong, (true + rng.integers(1, 3, 4000)) % 3, true)
        audit = labelsieve.find_label_issues(labels, probs, progress=False).audit(60, seed, labels=labels)
        shares = labelsieve.estimate(audit, is_wrong[audit.rows]).per_class
        held += [share.low <= is_wrong[labels == k].mean() <= share.high for k, share in shares.items() if k > 0]
    assert np.mean(held) >= 0.95  # 0.84 if strata without rows of a class did not count


@pytest.mark.parametrize("width", [0.01, 0.02, 0.2])
def test_as_many_more_rows_as_are_told_give_the_width(width):
    labels, probs, is_wrong = draw(60_000)
    issues = labelsieve.find_label_issues(labels, probs, progress=False)
    audit = issues.audit(200)
    estimate = labelsieve.estimate(audit, is_wrong[audit.rows])
    more = estimate.rows_for_width(width)
    assert (more == 0) == (width == 0.2)
    if more:
        larger = issues.audit(200 + more)
        assert set(audit.rows.tolist()) <= set(larger.rows.tolist())
        again = labelsieve.estimate(larger, is_wrong[larger.rows])
        assert again.high - again.low == pytest.approx(width, rel=0.25)
    assert estimate.rows_for_width(1e-9) == 60_000 - 200


def test_rows_that_are_not_decided_are_left_out_and_told(known, tmp_path):
    _, is_wrong, issues = known
    audit = issues.audit(100)
    words = np.where(is_wrong[audit.rows], "accept", "keep").astype(object)
    words[:5], words[5:9] = "unsure", ""
    flags = [None if word in ("unsure", "") else word == "accept" for word in words]
    frame = pd.DataFrame({"row": audit.rows, "decision": words, "reviewer": "a"}).drop(index=[10, 11])
    frame.to_csv(tmp_path / "d.csv", index=False)
    flags[10] = flags[11] = None
    estimates = [labelsieve.estimate(audit, given) for given in (flags, frame, tmp_path / "d.csv")]
    estimates.append(labelsieve.estimate(audit, {name: frame[name].tolist() for name in ("row", "decision")}))
    assert len({str(estimate) for estimate in estimates}) == 1
    assert (estimates[0].n_reviewed, estimates[0].n_left_out) == (89, 11)
    assert "11 of 100 rows left out as undecided" in str(estimates[0])


def test_several_reviewers_are_settled_by_the_rule(known, tmp_path):
    _, is_wrong, issues = known
    audit = issues.audit(60)
    words = np.where(is_wrong[audit.rows], "other", "keep").astype(object)
    ann = pd.DataFrame({"row": audit.rows, "decision": words, "result": issues.fingerprint})
    ben = ann[:20].assign(decision=[*["keep", "other"] * 10])
    ben.to_csv(tmp_path / "ben.csv", index=False)
    differ = int((words[:20] != ben.decision).sum())
    with pytest.raises(InvalidInputError, match=rf"differ in {differ} rows?: .*choose a rule"):
        labelsieve.estimate(audit, [ann, tmp_path / "ben.csv"])
    last = labelsieve.estimate(audit, [ann, tmp_path / "ben.csv"], conflicts="last")
    words[:20] = ben.decision
    assert str(last) == str(labelsieve.estimate(audit, words == "other"))
    assert last.n_conflicts == differ
    left = labelsieve.estimate(audit, [ann, tmp_path / "ben.csv"], conflicts="keep")
    assert (left.n_reviewed, left.n_left_out) == (60 - differ, differ)
    # A reviewer who decides again corrects the earlier decision.
    again = pd.concat([ann.assign(reviewer="ann"), ben.assign(reviewer="ann")])
    assert str(labelsieve.estimate(audit, again)) == str(last)


def test_decisions_about_another_result_are_refused(known):
    labels, _, issues = known
    audit = issues.audit(20, labels=labels)
    assert audit.fingerprint == issues.fingerprint
    table = {"row": audit.rows, "decision": ["keep"] * 20, "result": ["0123456789ab-0123456789ab"] * 20}
    with pytest.raises(InvalidInputError, match=rf"about the result 0123456789ab-0123456789ab, .*{issues.fingerprint}"):
        labelsieve.estimate(audit, table)
    with pytest.raises(InvalidInputError, match="is not the fingerprint of a result"):
        labelsieve.estimate(audit, table | {"result": ["0123"] * 20})


def test_an_audit_of_an_earlier_version_is_refused(known, tmp_path):
    known[2].audit(40).save(tmp_path / "a.json")
    facts = json.loads((tmp_path / "a.json").read_text())
    for name in ("result", "cut_scores", "cut_rows", "grid_scores", "grid_rows", "checksum"):
        del facts[name]
    (tmp_path / "a.json").write_text(json.dumps(with_checksum(facts)))
    with pytest.raises(InvalidInputError, match=r"a\.json is an audit of an earlier version: draw it again, with its"):
        labelsieve.load(tmp_path / "a.json")


def test_precision_and_recall_at_each_cut_are_those_of_strata_split_there(known):
    _, is_wrong, issues = known
    audit, mask, scores = issues.audit(300), issues.mask(), issues.scores
    estimate = labelsieve.estimate(audit, is_wrong[audit.rows])
    of_issues = np.sort(scores[mask])
    quarters = [of_issues[math.ceil(part * len(of_issues)) - 1] for part in (0.25, 0.5, 0.75, 1)]
    ends = [np.sort(scores)[math.ceil(end * 3000) - 1] for end in (0.01, 0.03, 0.1, 0.3)]
    assert [cut.score for cut in estimate.curve] == sorted({*map(float, quarters), *map(float, ends)})
    # Cuts of one's own, in any order; those of no reviewed row are unknown.
    own = labelsieve.estimate(audit, is_wrong[audit.rows], cuts=[2000, 1, 7, 50, 122, 900, 3000])
    assert [cut.n_rows for cut in own.curve] == [2000, 1, 7, 50, 122, 900, 3000]
    assert replace(own, curve=estimate.curve) == estimate
    same = labelsieve.estimate(audit, is_wrong[audit.rows], cuts=[cut.n_rows for cut in estimate.curve])
    assert same == estimate
    for cut in estimate.curve + own.curve:
        below = scores <= cut.score
        assert (cut.n_rows, cut.n_issues) == (below.sum(), (below & mask).sum())
        for chosen, precision, recall in (
            (below & mask, cut.precision, cut.recall),
            (below, cut.precision_of_rows, cut.recall_of_rows),
        ):
            sums = {}
            for side in (chosen, ~chosen):
                parts = []  # rows, reviewed rows and wrong ones of each stratum on one side
                for h in range(10):
                    rows = (np.array(naive_strata(scores.tolist(), mask.tolist())) == h) & side
                    reviewed = audit.rows[rows[audit.rows]]
                    parts.append((rows.sum(), len(reviewed), is_wrong[reviewed].sum()))
                known_parts = [(n, wrong / m) for n, m, wrong in parts if m]
                if all(m for n, m, _ in parts if n):
                    sums[side is chosen] = sum(n * share for n, share in known_parts)
            if len(sums) == 2 and sum(sums.values()):
                assert precision.estimate == pytest.approx(sums[True] / chosen.sum())
                assert recall.estimate == pytest.approx(sums[True] / sum(sums.values()))
                assert recall.low <= recall.estimate <= recall.high
    at_the_end = next(cut for cut in estimate.curve if cut.n_issues == issues.num_issues)
    assert (at_the_end.precision, at_the_end.recall) == (estimate.precision_of_issues, estimate.recall_of_issues)


def test_cuts_where_all_rows_are_reviewed_are_exact(known):
    _, is_wrong, issues = known
    audit = issues.audit(10_000)
    for cuts in (None, [30, 70, 1000]):
        for cut in labelsieve.estimate(audit, is_wrong[audit.rows], cuts=cuts).curve:
            below = issues.scores <= cut.score
            for chosen, precision, recall in (
                (below & issues.mask(), cut.precision, cut.recall),
                (below, cut.precision_of_rows, cut.recall_of_rows),
            ):
                assert precision == pytest.approx([is_wrong[chosen].mean()] * 3)
                assert recall == pytest.approx([(is_wrong & chosen).sum() / is_wrong.sum()] * 3)


@pytest.mark.parametrize("decimals", [None, 2, 1])
def test_a_cut_is_at_the_nearest_score_whose_rows_are_counted(decimals):
    """Compare with sorted scores, also where many are equal, and for a result whose scores are rounded."""
    labels, probs, _ = draw(20_000, wrong=0.1)
    labels[::50] = -1
    probs = probs if decimals is None else np.round(probs, decimals) / np.round(probs, decimals).sum(axis=1)[:, None]
    issues = labelsieve.find_label_issues(labels, probs, ignore_label=-1, progress=False)
    audit, mask, ordered = issues.audit(50), issues.mask(), np.sort(issues.scores[labels >= 0])
    assert audit.grid_scores[[0, -1]].tolist() == ordered[[0, -1]].tolist()
    for score, n_rows in zip(audit.grid_scores, audit.grid_rows.tolist(), strict=True):
        below = issues.scores <= score
        assert n_rows == [(below & mask).sum(), (below & ~mask).sum()]
    flags = np.arange(50) % 5 == 0
    wanted = [1, 10, 60, 444, 3333, 15_000, 19_600]
    curve = labelsieve.estimate(audit, flags, cuts=np.array(wanted)).curve
    totals = audit.grid_rows.sum(axis=1).tolist()
    for n, cut in zip(wanted, curve, strict=True):
        assert cut.n_rows == min(totals, key=lambda total: (abs(total - n), total))
        assert (cut.n_rows, cut.n_issues) == tuple(
            int((issues.scores <= cut.score)[among].sum()) for among in (labels >= 0, mask)
        )
        assert decimals is not None or abs(cut.n_rows - n) <= n / 50
    assert curve[-1].recall_of_rows == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ([], "cuts must be at least one number of rows"),
        ([0], "cuts must be a whole number of at least 1, not 0"),
        ([0.5], r"cuts must be a whole number of at least 1, not 0\.5"),
        ([True], "cuts must be a whole number of at least 1, not True"),
        ([10, 3001], "cuts: 3,001 is more than the 3,000 rows that have a label"),
        (np.array([[10]]), r"cuts must be a whole number of at least 1, not array\(\[10\]\)"),
        (100, "cuts must be a sequence of numbers of rows, not 100"),
        ("100", "cuts must be a sequence of numbers of rows, not '100'"),
    ],
)
def test_bad_cuts(known, cuts, message):
    audit = known[2].audit(20)
    with pytest.raises((InvalidInputError, InputTypeError), match=message):
        labelsieve.estimate(audit, np.zeros(20, bool), cuts=cuts)


@pytest.mark.parametrize("names", [None, ["=1+1", "dög", "eel"]])
def test_a_table_to_fill_in_is_read_again(known, tmp_path, names):
    labels, is_wrong, issues = known
    given = labels if names is None else np.array(names)[labels]
    audit, path = issues.audit(50, labels=given), tmp_path / "review.csv"
    audit.to_csv(path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert frame.columns.tolist() == ["row", "id", "given_label", "decision", "label", "reviewer", "time", "result"]
    assert frame.row.tolist() == [str(row) for row in audit.rows]
    with pytest.raises(InvalidInputError, match="none of the 50 rows of the audit has a decision"):
        labelsieve.estimate(audit, path)
    frame["decision"] = np.where(is_wrong[audit.rows], "other", "keep")
    frame.loc[frame.decision == "other", "label"] = "eel" if names else "2"
    frame.loc[:4, ["decision", "label"]] = ""
    frame.to_csv(path, index=False)
    flags = is_wrong[audit.rows].astype(object)
    same = (given[audit.rows] == ("eel" if names else 2)) & is_wrong[audit.rows]
    flags[same], flags[:5] = False, None
    wanted = labelsieve.estimate(audit, flags)
    assert (str(wanted), wanted.per_class) == (
        str(labelsieve.estimate(audit, path)),
        labelsieve.estimate(audit, path).per_class,
    )
    with pytest.raises(InvalidInputError, match="exists: it is not replaced, as decisions may be in it"):
        audit.to_csv(path)
    with pytest.raises(InvalidInputError, match=r"must end in \.csv"):
        audit.to_csv(tmp_path / "review.txt")


def test_classes_that_are_not_known_say_how_they_would_be(known):
    _, is_wrong, issues = known
    audit = issues.audit(30)
    with pytest.raises(KeyError, match=r"give labels=\.\.\. to issues\.audit"):
        labelsieve.estimate(audit, is_wrong[audit.rows]).per_class[1]


def test_a_suggestion_that_is_the_given_label_is_no_error(known):
    labels, _, issues = known
    audit = issues.audit(40)
    given = labels[audit.rows]
    table = {"row": audit.rows, "decision": ["accept"] * 40, "given_label": given, "label": given.copy()}
    table["label"][:7] = 9
    estimate = labelsieve.estimate(audit, table)
    assert (estimate.n_reviewed, estimate.n_wrong) == (40, 7)


def test_a_table_that_pandas_wrote_has_the_same_suggestions(known, tmp_path):
    labels, _, issues = known
    for audit in (issues.audit(40, labels=labels), issues.audit(40)):
        given = labels[audit.rows]
        table = pd.DataFrame({"row": audit.rows, "given_label": given, "decision": "accept", "label": given})
        table.loc[0, ["decision", "label"]] = ["keep", None]  # now labels are floats, and given labels are not
        table.to_csv(tmp_path / "decisions.csv", index=False)
        found = labelsieve.estimate(audit, tmp_path / "decisions.csv")
        assert (found.n_reviewed, found.n_wrong) == (40, 0)
        assert set(found.per_class) == set(given.tolist())
    # Without given labels, those of the audit tell it.
    audit = issues.audit(40, labels=labels)
    found = labelsieve.estimate(audit, {"row": audit.rows, "decision": ["accept"] * 40, "label": labels[audit.rows]})
    assert found.n_wrong == 0


def test_results_in_a_workdir_and_of_tokens_are_audited(known, tmp_path):
    labels, probs, _ = draw()
    wanted = known[2].audit(50)
    stored = labelsieve.find_label_issues(labels, probs, workdir=tmp_path / "work", batch_size=400, progress=False)
    tokens = labelsieve.token_classification.find_label_issues(
        labels, probs, offsets=np.arange(0, 3001, 10), progress=False
    )
    for issues in (stored, tokens.rows):
        assert issues.audit(50).rows.tolist() == wanted.rows.tolist()


def test_an_audit_of_tokens_says_where_they_are(tmp_path):
    labels, probs, is_wrong = draw()
    offsets = np.arange(0, 3001, 10)
    tokens = labelsieve.token_classification.find_label_issues(labels, probs, offsets=offsets, progress=False)
    audit = tokens.rows.audit(40)
    audit.save(tmp_path / "a.json")
    audit.to_csv(tmp_path / "review.csv")
    wanted = [(row // 10, row % 10) for row in audit.rows.tolist()]
    names = list(audit.places)
    assert len(names) == 2
    table = pd.read_csv(tmp_path / "review.csv")
    for frame in (audit.to_frame(), labelsieve.load(tmp_path / "a.json").to_frame(), table):
        assert list(zip(*(frame[name].tolist() for name in names), strict=True)) == wanted
    table["decision"] = np.where(is_wrong[audit.rows], "other", "keep")
    assert str(labelsieve.estimate(audit, table)) == str(labelsieve.estimate(audit, is_wrong[audit.rows]))


def test_a_stratum_without_decisions_counts_as_its_neighbour(known):
    _, is_wrong, issues = known
    audit = issues.audit(200)
    flags = is_wrong[audit.rows].astype(object)
    flags[audit.strata == 7] = None
    estimate = labelsieve.estimate(audit, flags)
    rates, sizes = {}, audit.stratum_rows
    for h in np.unique(audit.strata):
        rates[h] = np.mean(is_wrong[audit.rows][audit.strata == h])
    rates[7] = rates[5]
    assert estimate.error_rate == pytest.approx(sum(rates[h] * sizes[h] for h in rates) / sizes.sum())


def test_without_decisions_about_issues_precision_and_recall_are_unknown(known):
    _, is_wrong, issues = known
    audit = issues.audit(100)
    flags = is_wrong[audit.rows].astype(object)
    flags[audit.is_issue] = None
    estimate = labelsieve.estimate(audit, flags)
    for share in (estimate.precision_of_issues, estimate.recall_of_issues):
        assert math.isnan(share.estimate)
        assert (share.low, share.high, str(share)) == (0.0, 1.0, "unknown")
    assert "found issues" not in str(estimate)


def test_a_result_without_issues_has_a_recall_of_zero():
    probs = np.tile([0.75, 0.25], (500, 1))
    audit = labelsieve.find_label_issues(np.zeros(500, int), probs, progress=False).audit(50)
    estimate = labelsieve.estimate(audit, np.arange(50) < 5)
    assert estimate.error_rate == pytest.approx(0.1)
    assert math.isnan(estimate.precision_of_issues.estimate)
    assert estimate.recall_of_issues == (0.0, 0.0, 0.0)


def test_if_all_rows_are_issues_recall_is_one():
    rows, strata = np.array([60, *[0] * 9]), np.zeros(30, np.int64)
    estimate = estimate_errors(strata, rows, np.arange(30) < 6, np.ones(30, bool))
    assert estimate.precision_of_issues.estimate == pytest.approx(0.2)
    assert estimate.recall_of_issues == (1.0, 1.0, 1.0)


def test_classes_come_from_the_audit_or_from_the_decisions(known):
    labels, is_wrong, issues = known
    flags = np.where(is_wrong, "other", "keep")
    of = {}
    for name, given in {"numbers": labels, "names": np.array(["cat", "dog", "eel"])[labels]}.items():
        audit = issues.audit(100, labels=given)
        plain = issues.audit(100)
        table = {"row": plain.rows, "decision": flags[plain.rows], "given_label": given[plain.rows]}
        of[name] = labelsieve.estimate(audit, is_wrong[audit.rows]).per_class
        assert of[name] == labelsieve.estimate(plain, table).per_class == labelsieve.estimate(audit, table).per_class
        assert labelsieve.estimate(plain, is_wrong[plain.rows]).per_class == {}
    assert list(of["numbers"]) == [0, 1, 2]
    assert list(of["names"]) == ["cat", "dog", "eel"]
    assert list(of["numbers"].values()) == list(of["names"].values())


def test_labels_are_read_from_a_file(known, tmp_path):
    labels, _, issues = known
    np.save(tmp_path / "labels.npy", labels)
    audit = issues.audit(40, labels=tmp_path / "labels.npy")
    assert audit.given_labels.tolist() == labels[audit.rows].tolist()


@pytest.mark.parametrize("names", [None, ["cat", "dög", "eel"]])
def test_a_saved_audit_is_the_same(known, tmp_path, names):
    labels, _, issues = known
    audit = issues.audit(60, 2, labels=labels if names is None else np.array(names)[labels])
    for _ in range(2):  # an earlier audit is replaced
        audit.save(tmp_path / "audit.json")
    loaded = labelsieve.load(tmp_path / "audit.json")
    for name in ("rows", "scores", "strata", "stratum_rows", "given_labels", "weights", "cut_scores", "cut_rows"):
        assert getattr(loaded, name).tolist() == getattr(audit, name).tolist()
    for name in ("grid_scores", "grid_rows"):
        assert getattr(loaded, name).tolist() == getattr(audit, name).tolist()
    assert (loaded.scores.dtype, loaded.n_rows, loaded.seed) == (audit.scores.dtype, 3000, 2)
    assert loaded.fingerprint == issues.fingerprint
    assert list(loaded.to_frame().columns) == ["row", "given_label", "score", "is_issue", "stratum", "weight"]
    pd.testing.assert_frame_equal(loaded.to_frame(), audit.to_frame())


def test_an_audit_without_labels_and_one_at_a_url_are_the_same(known):
    _, _, issues = known
    audit = issues.audit(30)
    audit.save("memory://audits/a.json")
    loaded = labelsieve.load("memory://audits/a.json")
    assert loaded.rows.tolist() == audit.rows.tolist()
    assert loaded.given_labels is None
    assert "given_label" not in loaded.to_frame()


def test_damaged_audits_are_refused(known, tmp_path):
    _, _, issues = known
    path = tmp_path / "a.json"
    issues.audit(30).save(path)
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"stratum_rows": [1] * 10}))
    with pytest.raises(UnreadableDataError, match=r"a\.json is damaged"):
        labelsieve.load(path)
    path.write_text(json.dumps(facts | {"format": 2}))
    with pytest.raises(InvalidInputError, match="an audit of format 2; this version reads format 1"):
        labelsieve.load(path)
    path.write_text(json.dumps(facts)[:-50])
    for missing in (path, tmp_path / "none.json"):
        with pytest.raises(InvalidInputError, match=rf"no audit of Labelsieve at .*{missing.name}, or it was cut off"):
            labelsieve.load(missing)


def test_the_command_line_reports_no_audit(known, tmp_path):
    known[2].audit(30).save(tmp_path / "a.json")
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "a.json"), "-o", str(tmp_path / "r.html")])
    assert done.exit_code != 0
    assert "is an audit: a report is about a result" in f"{done.output}{done.exception}"
    assert not (tmp_path / "r.html").exists()


def test_the_commands_draw_an_audit_and_estimate(known, tmp_path, monkeypatch, capsys):
    labels, is_wrong, issues = known
    monkeypatch.chdir(tmp_path)
    issues.save("issues.zarr")
    np.save("labels.npy", labels)
    command = ["audit", "issues.zarr", "--budget", "120", "--seed", "4", "--labels", "labels.npy"]
    assert run([*command, "-o", "a.json", "--table", "review.csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "120 of 3,000 rows to review, written to a.json",
        "a table to fill in with decisions, written to review.csv",
    ]
    audit = labelsieve.load("a.json")
    assert audit.rows.tolist() == issues.audit(120, 4).rows.tolist()
    assert run([*command, "-o", "b.json", "--table", "review.csv"]) == 2
    assert "exists: it is not replaced" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()
    frame = pd.read_csv("review.csv").assign(decision=np.where(is_wrong[audit.rows], "other", "keep"))
    frame.assign(label=np.where(is_wrong[audit.rows], 9, None)).to_csv("review.csv", index=False)
    wanted = labelsieve.estimate(audit, is_wrong[audit.rows])
    assert run(["estimate", "a.json", "review.csv", "--width", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [str(wanted), f"120 of 3,000 rows reviewed, {wanted.n_wrong} of them wrong"]
    cut = wanted.curve[-1]
    assert (
        lines[3 + len(wanted.curve)].split() == f"{cut.score:.4g} {cut.n_issues} {cut.precision} {cut.recall}".split()
    )
    assert [line.split()[0] for line in lines[-4:-1]] == [
        str(k) for k, _ in sorted(wanted.per_class.items(), key=lambda pair: -pair[1].estimate)
    ]
    assert lines[-1] == f"{wanted.rows_for_width(0.01):,} more rows to review until the interval is 0.01 wide"
    with monkeypatch.context() as patch:
        patch.setenv("LABELSIEVE_ESTIMATE_JSON", "1")
        assert run(["estimate", "a.json", "review.csv"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["error_rate"] == {"estimate": wanted.error_rate, "low": wanted.low, "high": wanted.high}
    assert [one["class"] for one in answer["per_class"]] == [0, 1, 2]
    assert [one["recall"]["high"] for one in answer["curve"]] == [one.recall.high for one in wanted.curve]
    own = labelsieve.estimate(audit, is_wrong[audit.rows], cuts=[90, 600]).curve
    assert run(["estimate", "a.json", "review.csv", "--cuts", "90", "--cuts", "600", "--json"]) == 0
    assert [(one["n_rows"], one["recall_of_rows"]["low"]) for one in json.loads(capsys.readouterr().out)["curve"]] == [
        (cut.n_rows, cut.recall_of_rows.low) for cut in own
    ]
    assert run(["estimate", "a.json", "review.csv", "--cuts", "90", "--cuts", "600"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[4:6]] == [
        f"{cut.n_rows} {cut.score:.4g} {cut.precision_of_rows} {cut.recall_of_rows}".split() for cut in own
    ]
    assert run(["estimate", "a.json", "review.csv", "--cuts", "3001"]) == 2
    assert "3,001 is more than the 3,000 rows that have a label" in capsys.readouterr().err
    frame[:9].assign(decision="other", label=9, reviewer="ben").to_csv("ben.csv", index=False)
    assert run(["estimate", "a.json", "review.csv", "ben.csv"]) == 2
    assert "differ in" in capsys.readouterr().err
    assert run(["estimate", "a.json", "review.csv", "ben.csv", "--conflicts", "last"]) == 0
    assert "reviewers differ in" in capsys.readouterr().out
    assert run(["report", "issues.zarr", "-o", "r.html", "--audit", "a.json", "--decisions", "review.csv"]) == 0
    assert f"Audit of 120 reviewed rows, with 95% intervals: {wanted}." in (tmp_path / "r.html").read_text()
    both = ["report", "issues.zarr", "-o", "s.html", "--audit", "a.json", *("--decisions", "review.csv"), "--decisions"]
    assert run([*both, "ben.csv"]) == 2
    assert run([*both, "ben.csv", "--conflicts", "last"]) == 0
    last = labelsieve.estimate(audit, ["review.csv", "ben.csv"], conflicts="last")
    assert f"with 95% intervals: {last}." in (tmp_path / "s.html").read_text()
    assert run(["report", "issues.zarr", "-o", "s.html", "--audit", "a.json"]) == 2
    assert run(["estimate", "issues.zarr", "review.csv"]) == 2
    assert "issues.zarr is not an audit" in capsys.readouterr().err


def test_what_is_no_audit_is_not_replaced(known, tmp_path):
    _, _, issues = known
    issues.save(tmp_path / "issues.zarr")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="exists and is not an audit of Labelsieve"):
        issues.audit(30).save(tmp_path / "other.json")
    for name in ("a.csv", "issues.zarr"):
        with pytest.raises(InvalidInputError, match=rf"{name} must end in \.json"):
            issues.audit(30).save(tmp_path / name)
    assert len(labelsieve.load(tmp_path / "issues.zarr")) == len(issues)
    with pytest.raises(InvalidInputError, match="there is no folder"):
        issues.audit(30).save(tmp_path / "none" / "a.json")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"budget": 19}, "budget must be a whole number of at least 20, not 19"),
        ({"budget": 100.0}, "budget must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"labels": [0, 1]}, r"labels must be of 3,000 rows, not 2"),
    ],
)
def test_bad_audits(known, choices, message):
    with pytest.raises(InvalidInputError, match=message):
        known[2].audit(**choices)


def test_bad_decisions(known, tmp_path):
    labels, _, issues = known
    audit = issues.audit(20, labels=labels)
    row, label = int(audit.rows[0]), int(audit.given_labels[0])
    other = next(r for r in range(3000) if r not in audit.rows)
    for given, message in (
        ([True] * 19, "19 decisions, the audit has 20 rows"),
        ([None] * 20, "none of the 20 rows of the audit has a decision"),
        ([True, "x", *[None] * 18], "decision 1 must be True, False or None, not 'x'"),
        ({"row": [row]}, "has no column 'decision'"),
        ({"row": [other], "decision": ["keep"]}, rf"row {other:,} \(.*\) is not in the audit"),
        ({"row": [row], "decision": ["yes"]}, rf"row {row:,} \(.*\): 'yes' is not a decision: they are accept"),
        (
            {"row": [row, row], "decision": ["keep", "other"]},
            rf"differ in 1 row: row {row:,} \(somebody: keep; somebody: other 'wrong'\)",
        ),
        ({"row": ["x"], "decision": ["keep"]}, "'x' is not a row"),
        ({"row": [row, row], "decision": ["keep"]}, "the columns differ in length"),
        ({"row": [row], "decision": ["keep"], "given_label": [label + 1]}, f"has the label {label} in the audit, and"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            labelsieve.estimate(audit, given)
    for given in (np.zeros(20), np.zeros((20, 1), bool), 3):
        with pytest.raises(InputTypeError, match="decisions must be True or False for each row of the audit"):
            labelsieve.estimate(audit, given)
    with pytest.raises(InputTypeError, match="audit must be an Audit"):
        labelsieve.estimate(issues, [True])
    for text, message in (
        ("row,decision,reviewer\n1,keep,a\n2,ke", "ends in the middle of a line: is it cut off"),
        ("row,decision,reviewer\n1,keep,a\n2,keep\n", r"line 3 of .*cut\.csv has 2 cells, the header has 3"),
        ("", "is empty"),
    ):
        (tmp_path / "cut.csv").write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            labelsieve.estimate(audit, tmp_path / "cut.csv")
    with pytest.raises(InvalidInputError, match=r"there is no file .*none\.csv"):
        labelsieve.estimate(audit, tmp_path / "none.csv")


@pytest.mark.parametrize("width", [0, 1, -0.1, "x", True])
def test_bad_widths(known, width):
    audit = known[2].audit(20)
    with pytest.raises(InvalidInputError, match="width must be a number between 0 and 1"):
        labelsieve.estimate(audit, np.zeros(20, bool)).rows_for_width(width)


@pytest.mark.parametrize("stored", [False, True])
def test_labels_of_another_dataset_are_refused(tmp_path, stored):
    labels, probs, _ = draw(400, wrong=0.2)
    names = np.array(["a", "b", "c"], object)
    issues = labelsieve.find_label_issues(labels, probs, class_names=["a", "b", "c"], progress=False)
    if stored:
        issues.save(tmp_path / "r.zarr")
        issues = labelsieve.load(tmp_path / "r.zarr")
    for own in (labels, names[labels]):
        assert issues.audit(100, labels=own).given_labels is not None
    for other in ((labels + 1) % 3, names[(labels + 1) % 3], names[labels] + "x"):
        with pytest.raises(InvalidInputError, match=r"labels: row [0-9]+ has .*, in the result it is of class"):
            issues.audit(100, labels=other)


def test_the_estimate_is_in_the_report(known, tmp_path):
    _, is_wrong, issues = known
    audit = issues.audit(100)
    estimate = labelsieve.estimate(audit, is_wrong[audit.rows])
    issues.report(tmp_path / "r.html", estimate=estimate)
    assert f"Audit of 100 reviewed rows, with 95% intervals: {estimate}." in (tmp_path / "r.html").read_text()
    with pytest.raises(InputTypeError, match=r"estimate must be what labelsieve\.estimate returns"):
        issues.report(tmp_path / "s.html", estimate=0.04)
    labels, probs, _ = draw(100)
    with pytest.raises(InvalidInputError, match="the estimate is of 3,000 labelled rows, the result has 100"):
        labelsieve.find_label_issues(labels, probs, progress=False).report(tmp_path / "s.html", estimate=estimate)
    labels, probs, _ = draw(3000, seed=9)
    with pytest.raises(InvalidInputError, match=f"the estimate is of the result {issues.fingerprint}, this is "):
        labelsieve.find_label_issues(labels, probs, progress=False).report(tmp_path / "s.html", estimate=estimate)
    assert not (tmp_path / "s.html").exists()
