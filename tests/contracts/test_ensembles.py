"""Ensembles: the bits of the naive mean, whatever the members are, and plain words about a bad member."""

import itertools
import pickle

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client, LocalCluster

import labelsieve
from draws import assert_same_bits, bits, draw, find, pieces
from labelsieve import Ensemble
from labelsieve.confident_learning.derived import softmax
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning, WorkdirError
from labelsieve.sources.open import open_pred_probs
from naive_joint import FILTERS

CUT = {"batch_size": 70, "partition_batches": 2}
METHODS = ["self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"]
WEIGHTS = [None, (1, 2.5, 0), (1e-3, 3e100, 7e99), (0.1, 0.1, 0.1)]


def naive_mean(members, weights=None):
    """Return the mean as plain Python floats: products and sums in order, one division."""
    weights = [1.0] * len(members) if weights is None else [float(weight) for weight in weights]
    divisor = 0.0
    for weight in weights:
        divisor += weight
    rows = []
    for one in zip(*(np.asarray(member).tolist() for member in members), strict=True):
        row = []
        for values in zip(*one, strict=True):
            total = weights[0] * values[0]
            for weight, value in zip(weights[1:], values[1:], strict=True):
                total += weight * value
            row.append(total / divisor)
        rows.append(row)
    return np.array(rows)


def models(n_rows=600, n_classes=5, dtypes=("f4", "f4", "f4"), seed=0, **settings):
    """Return labels and the predictions of some models of the same rows."""
    labels, first = draw(n_rows, n_classes, seed=seed, **settings)
    rng = np.random.default_rng(seed + 1)
    members = []
    for dtype in dtypes:
        probs = first * np.exp(rng.normal(size=first.shape) / 2)
        members.append((probs / probs.sum(axis=1, keepdims=True)).astype(dtype))
    return labels, members


def tied(n_rows=500, n_classes=40, seed=0):
    """Return members whose two largest means tie, exactly or but for the last bits, in most rows."""
    rng, i = np.random.default_rng(seed), np.arange(n_rows)
    high = rng.integers(0, n_classes, n_rows)
    low = (high + rng.integers(1, n_classes, n_rows)) % n_classes
    values = np.array([0.3, 0.45, 0.42]) * rng.uniform(0.9, 1.0, (n_rows, 1))
    members = []
    for x, y in ((0, 2), (1, 0), (2, 1)):  # the same three values in another order
        probs = np.repeat((1 - values[:, x] - values[:, y])[:, np.newaxis] / (n_classes - 2), n_classes, axis=1)
        probs[i, high], probs[i, low] = values[:, x], values[:, y]
        members.append(probs.astype("f4"))
    nudged = i[::2]
    members[0][nudged, high[nudged]] = np.nextafter(members[0][nudged, high[nudged]], np.float32(rng.integers(2)))
    return np.where(rng.random(n_rows) < 0.5, high, low), members


@pytest.mark.every_pair
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtypes", ["f4 f4 f4", "f2 f2 f2", "f8 f8 f8", "f2 f4 f8", "f2 f4 >f4"])
@pytest.mark.parametrize("n_classes", [2, 40])
def test_the_mean_has_the_bits_of_the_naive_one(n_classes, dtypes, weights):
    labels, members = models(160, n_classes, dtypes.split(), signal=1.0)
    want = find(labels, naive_mean(members, weights))
    assert_same_bits(find(labels, Ensemble(members, weights)), want)
    with pieces():
        assert bits(find(labels, Ensemble(members, weights), batch_size=17, partition_batches=3)) == bits(want)


@pytest.mark.every_value
@pytest.mark.parametrize("weights", [None, (1, 1, 1), (0.3, 0.3, 0.4), (3, 1, 2)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_ties_and_near_ties_go_to_the_class_of_the_naive_mean(dtype, weights):
    labels, members = tied()
    members = [member.astype(dtype) for member in members]
    mean = naive_mean(members, weights)
    order = np.sort(mean, axis=1)
    if weights is None and dtype != "f2":
        assert np.count_nonzero(order[:, -1] - order[:, -2] < 1e-7) > 200, "the rows are to be near ties"
    for filter_by in (None, "predicted_neq_given"):
        got, want = (find(labels, probs, filter_by=filter_by) for probs in (Ensemble(members, weights), mean))
        assert bits(got) == bits(want)
    assert_same_bits(find(labels, Ensemble([members[1]] * 2)), find(labels, members[1].astype("f8")))


def test_exact_ties_go_to_the_first_class():
    labels = np.arange(200) // 150
    members = [np.full((200, 50), 0.02, "f4"), np.full((200, 50), 0.02, "f4")]
    assert bits(find(labels, Ensemble(members))) == bits(find(labels, naive_mean(members)))


def test_random_members_have_the_bits_of_the_naive_mean():
    for seed in range(16):
        rng = np.random.default_rng(seed)
        n_classes, n_members = int(rng.choice([3, 33, 70])), int(rng.integers(1, 5))
        dtypes = rng.choice(["f2", "f4", "f8"], n_members)
        labels, members = models(120, n_classes, dtypes, seed, signal=4.0, decimals=rng.choice([None, 1, 2]))
        members = [member.copy() for member in members]
        members[0][5] = np.eye(n_classes)[2]
        members[0][5, 1] = -0.0
        members[-1][7] = np.eye(n_classes)[1] * 1.0005
        weights = None if rng.random() < 0.5 else rng.choice([0, 0.5, 1, 3, 1 / 3], n_members) + 1e-9
        want = find(labels, naive_mean(members, weights))
        assert bits(find(labels, Ensemble(members, weights))) == bits(want), seed


@pytest.mark.every_value
@pytest.mark.parametrize("n_classes", [6, 40])
@pytest.mark.parametrize("filter_by", FILTERS)
def test_all_filters(filter_by, n_classes):
    labels, members = models(500, n_classes, ["f4", "f2", "f8"], 3, signal=1.5)
    want = find(labels, naive_mean(members), filter_by=filter_by)
    assert_same_bits(find(labels, Ensemble(members), filter_by=filter_by, **CUT), want)


@pytest.mark.parametrize(
    ("method", "adjust"), [*itertools.product(METHODS[:2], [False, True]), *((method, False) for method in METHODS[2:])]
)
def test_all_scores(method, adjust):
    labels, members = models(300, 40, seed=4, signal=1.0)
    settings = {"method": method, "adjust_pred_probs": adjust}
    assert_same_bits(find(labels, Ensemble(members, [1, 2, 3]), **settings, **CUT),
                     find(labels, naive_mean(members, [1, 2, 3]), **settings))  # fmt: skip


def places(folder, members):
    """Store members as files and arrays of many kinds and chunks; return these with the names of the kinds."""
    n = len(members[0])
    found = {}
    np.save(folder / "c.npy", members[0])
    np.save(folder / "f.npy", np.asfortranarray(members[1]))
    for name, rows, member in (("z", 64, members[1]), ("y", 45, members[2])):
        array = zarr.create_array(
            folder / f"{name}.zarr", shape=member.shape, chunks=(rows, (member.shape[1] + 1) // 2), dtype=member.dtype
        )
        array[:] = member
    (folder / "shards").mkdir()
    for number, (start, stop) in enumerate(itertools.pairwise([0, 101, 333, n])):
        np.save(folder / "shards" / f"{number}.npy", members[2][start:stop])
    found["npy, zarr, zarr"] = [folder / "c.npy", str(folder / "z.zarr"), folder / "y.zarr"]
    found["npy, Fortran, shards"] = [folder / "c.npy", folder / "f.npy", folder / "shards"]
    found["memory, memmap, list"] = [
        pd.DataFrame(members[0]),
        np.lib.format.open_memmap(folder / "f.npy", "r"),
        [folder / "shards" / f"{number}.npy" for number in range(3)],
    ]
    found["nested"] = [members[0], members[1], Ensemble([members[2]])]
    return found


@pytest.mark.every_value
@pytest.mark.parametrize("kinds", ["npy, zarr, zarr", "npy, Fortran, shards", "memory, memmap, list", "nested"])
@pytest.mark.parametrize("n_classes", [5, 40])
def test_members_of_all_kinds(tmp_path, kinds, n_classes):
    labels, members = models(600, n_classes, ["f4", "f4", "f8"], 5, signal=1.0)
    mean, given = naive_mean(members), places(tmp_path, members)[kinds]
    for settings in ({}, {"batch_size": 19}, {"filter_by": "confident_learning", **CUT}):
        got = find(labels, Ensemble(given), **settings)
        assert_same_bits(got, find(labels, mean, **{k: v for k, v in settings.items() if k == "filter_by"}))
    assert got.facts.bytes_read == 2 * sum(600 * n_classes * int(dtype) for dtype in (4, 4, 8))


def test_dask_members_are_refused_with_what_to_do_instead():
    labels, members = models(300, 6, seed=6)
    with pytest.raises(InvalidInputError, match=r"member 1 of the ensemble \(a Dask array\).*da\.to_zarr"):
        find(labels, Ensemble([members[0], da.from_array(members[1])]))


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_on_a_cluster(tmp_path, processes):
    labels, members = models(600, 40, ["f4", "f4", "f8"], 7, signal=1.0)
    given, want = places(tmp_path, members), find(labels, naive_mean(members))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": processes, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        for kinds in ("npy, zarr, zarr", "memory, memmap, list"):
            assert_same_bits(find(labels, Ensemble(given[kinds]), client=client, **CUT), want)


def test_a_part_travels_without_other_rows():
    _, members = models(4000, 40)
    source = open_pred_probs(Ensemble(members))
    part, origin = source.part(100, 140)
    assert origin == 100
    assert len(pickle.dumps(part)) < 3 * 40 * 40 * 4 + 5000
    again, inner = pickle.loads(pickle.dumps(part)).part(10, 20)
    np.testing.assert_array_equal(again[10 - inner : 20 - inner], naive_mean([m[110:120] for m in members]))


def test_a_workdir_resumes_and_belongs_to_its_members_and_weights(tmp_path):
    labels, members = models(600, 40, seed=8, signal=1.0)
    given = places(tmp_path, members)["npy, zarr, zarr"]
    want, workdir = find(labels, naive_mean(members, [1, 2, 3])), tmp_path / "work"
    settings = {"workdir": workdir, **CUT}
    assert find(labels, Ensemble(given, [1, 2, 3]), **settings).facts.rows_read == 600
    again = find(labels, Ensemble(given, [1, 2, 3]), output=tmp_path / "out.zarr", **settings)
    assert (again.facts.rows_read, again.facts.rows_resumed) == (0, 600)
    assert_same_bits(again, want)
    for other in (Ensemble(given), Ensemble(given, [1, 2, 4]), Ensemble(given[:2]), Ensemble([*given[1:], given[0]])):
        with pytest.raises(WorkdirError):
            find(labels, other, **settings)
    with pytest.raises(WorkdirError):
        find(labels, given[0], **settings)
    with pytest.raises(InvalidInputError, match=r"y\.zarr"):
        find(labels, Ensemble(given, [1, 2, 3]), output=given[2])


def test_shards_of_all_members_grow(tmp_path):
    labels, members = models(600, 40, seed=9, signal=1.0)
    for number, member in enumerate(members[:2]):
        (tmp_path / str(number)).mkdir()
        for shard in range(3):
            np.save(tmp_path / str(number) / f"{shard}.npy", member[shard * 200 : shard * 200 + 200])
    extra = {number: (tmp_path / str(number) / "2.npy").read_bytes() for number in range(2)}
    for number in range(2):
        (tmp_path / str(number) / "2.npy").unlink()
    ensemble = Ensemble([tmp_path / "0", tmp_path / "1"], [1, 3])
    assert find(labels[:400], ensemble, workdir=tmp_path / "work").facts.rows_read == 400
    for number in range(2):
        (tmp_path / str(number) / "2.npy").write_bytes(extra[number])
    grown = find(labels, ensemble, workdir=tmp_path / "work")
    assert grown.facts.rows_read == 200
    assert_same_bits(grown, find(labels, naive_mean(members[:2], [1, 3])))
    np.save(tmp_path / "1" / "1.npy", members[2][200:400])
    rewritten = find(labels, ensemble, workdir=tmp_path / "work")
    assert rewritten.facts.rows_read == 200
    for other, settings in (([1, 2], {}), ([1, 3], {"from_logits": True})):
        with pytest.raises(WorkdirError):
            find(labels, Ensemble([tmp_path / "0", tmp_path / "1"], other), workdir=tmp_path / "work", **settings)


@pytest.mark.parametrize("n_classes", [5, 40])
def test_logits_of_all_members_are_averaged_as_probabilities(n_classes):
    labels, members = models(400, n_classes, signal=1.0)
    logits = [np.log(member) * 1.1 for member in members]
    want = find(labels, naive_mean([softmax(member) for member in logits]))
    assert_same_bits(find(labels, Ensemble(logits), from_logits=True, **CUT), want)


def test_rows_without_a_label_are_left_out_of_all_members():
    labels, members = models(400, 40, signal=1.0)
    labels[::3] = -1
    members[1][::3] = np.nan
    kept = labels >= 0
    want = find(labels[kept], naive_mean([member[kept] for member in members]))
    got = find(labels, Ensemble(members), ignore_label=-1, **CUT)
    np.testing.assert_array_equal(got.indices, np.flatnonzero(kept)[want.indices])
    assert got.confident_thresholds.tobytes() == want.confident_thresholds.tobytes()


def test_the_plan_counts_all_members(tmp_path):
    labels, members = models(600, 40, ["f4", "f4", "f8"])
    given = places(tmp_path, members)["npy, zarr, zarr"]
    plan = labelsieve.plan_label_issues(labels, Ensemble(given))
    assert plan.bytes_read == 600 * 40 * 16
    assert "the mean of" in open_pred_probs(Ensemble(given)).where
    source = open_pred_probs(Ensemble(given))
    assert source.row_bytes == 40 * 16
    assert source.facts.row_chunk == 2880, "whole chunks of all members"
    assert plan.process_bytes > labelsieve.plan_label_issues(labels, given[1]).process_bytes


@pytest.mark.parametrize("n_classes", [5, 40])
def test_bad_values_name_the_member_and_its_rows(n_classes):
    labels, members = models(300, n_classes)
    for value, words in (
        (np.nan, "1 NaN probability in row 120 of member 1"),
        (np.inf, "1 infinite probability in row 120 of member 1"),
        (-0.5, "1 probability below 0 in row 120 of member 1"),
        (1.5, "1 probability above 1 in row 120 of member 1"),
    ):
        bad = [member.copy() for member in members]
        bad[1][120, 2] = value
        with pytest.raises(InvalidInputError, match=rf"{words} of the ensemble \(an array in memory\)") as caught:
            find(labels, Ensemble(bad), **CUT)
        assert caught.value.rows == ((120, 121),)
    bad = [member.copy() for member in members]
    bad[0][:40] *= 0.5
    bad[2][100:103] = 0
    with pytest.raises(InvalidInputError) as caught:
        find(labels, Ensemble(bad), **CUT)
    text = str(caught.value)
    assert "3 rows of pred_probs that are all zeros, rows 100..102 of member 2 of the ensemble" in text
    assert "40 rows of pred_probs do not sum to 1 within 0.05, rows 0..39 of member 0 of the ensemble" in text
    find(labels, Ensemble(bad), allow_zero_rows=True, allow_unnormalized_rows=True)
    logits = [members[0], np.log(members[1])]
    with pytest.raises(InvalidInputError, match="member 1 of the ensemble"):
        find(labels, Ensemble(logits))


def test_accepted_rows_have_the_bits_of_the_naive_mean():
    labels, members = models(300, 40, signal=1.0)
    members = [member.copy() for member in members]
    members[0][50:200] = 0
    members[1][100:250] = np.random.default_rng(0).random((150, 40))  # sums of about 20
    members[2][150:] = np.float32(0.9)
    accept = {"allow_zero_rows": True, "allow_unnormalized_rows": True}
    for weights in (None, [0, 0, 1], [1, 2, 3]):
        want = find(labels, naive_mean(members, weights), **accept)
        assert_same_bits(find(labels, Ensemble(members, weights), **accept), want)


def test_bad_ensembles_are_refused(tmp_path):
    labels, members = models(50, 5)
    np.save(tmp_path / "a.npy", members[0])
    for error, words, make in (
        (InvalidInputError, "at least one member", lambda: Ensemble([])),
        (InputTypeError, "a list of pred_probs, not str", lambda: Ensemble("a.npy")),
        (InvalidInputError, "2 weights for 3 members", lambda: Ensemble(members, [1, 2])),
        (InvalidInputError, "weight 1 of the ensemble must be finite", lambda: Ensemble(members, [1, -1, 2])),
        (InvalidInputError, "weight 2 of the ensemble must be finite", lambda: Ensemble(members, [1, 1, np.nan])),
        (InputTypeError, "weight 0 of the ensemble must be a number", lambda: Ensemble(members, ["1", 1, 1])),
        (InvalidInputError, "must be positive", lambda: Ensemble(members, [0, 0, 0])),
        (InvalidInputError, 'numbers or "accuracy"', lambda: Ensemble(members, "loss")),
        (InputTypeError, "a list of numbers, not int", lambda: Ensemble(members, 3)),
        (InvalidInputError, r"members 0 and 2 of the ensemble are both .*a\.npy",
         lambda: Ensemble([str(tmp_path / "a.npy"), members[0], str(tmp_path / "a.npy")])),
        (InvalidInputError, r"member 0 .* has shape \(50, 5\), member 2 .* has \(49, 5\)",
         lambda: find(labels, Ensemble([*members[:2], members[2][:49]]))),
        (InvalidInputError, r"member 1 .* has \(50, 4\)",
         lambda: find(labels, Ensemble([members[0], members[1][:, :4]]))),
        (InvalidInputError, "member 1 of the ensemble: pred_probs must have two axes",
         lambda: find(labels, Ensemble([members[0], labels]))),
        (InvalidInputError, "member 1 of the ensemble: pred_probs: there is no file",
         lambda: find(labels, Ensemble([members[0], tmp_path / "b.npy"]))),
        (InputTypeError, "not Ensemble", lambda: find(Ensemble(members), members[0])),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            make()


def test_a_missing_chunk_names_its_member(tmp_path):
    labels, members = models(300, 5)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(300, 5), chunks=(100, 5), dtype="f4")
    array[:200] = members[1][:200]
    with pytest.raises(InvalidInputError, match=r"stored in .*a\.zarr: nothing is stored of 100 rows \(200..299\)"):
        find(labels, Ensemble([members[0], tmp_path / "a.zarr"]))


def test_tables_in_another_order_are_refused():
    labels, members = models(50, 3)
    given = pd.Series(labels, index=[f"r{i}" for i in range(50)])
    tables = [pd.DataFrame(member, index=given.index) for member in members[:2]]
    find(given, Ensemble(tables))
    with pytest.raises(InvalidInputError, match="different orders"):
        find(given, Ensemble([tables[0], tables[1][::-1]]))


def test_forks_are_refused_in_words():
    labels, members = models(400, 5)
    with pytest.warns(LabelsieveWarning, match="ensembles and folds are read by Dask's threads"):
        got = find(labels, Ensemble(members), n_jobs=2, **CUT)
    assert_same_bits(got, find(labels, naive_mean(members)))
