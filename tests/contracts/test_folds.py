"""Folds: the bits of the array in the order of the dataset, however its rows are spread, and plain words otherwise."""

import pickle

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from draws import assert_same_bits, bits, draw, find, pieces
from labelsieve import Ensemble, Folds
from labelsieve.errors import InputTypeError, InvalidInputError, WorkdirError
from labelsieve.sources import composite as folds_module
from labelsieve.sources.open import open_pred_probs
from naive_joint import FILTERS

N_ROWS = 600
CUT = {"batch_size": 70, "partition_batches": 2}
LABELS, PROBS = draw(N_ROWS, 6, seed=2, signal=1.5, dtype=np.float32)
SPREADS = ["consecutive", "interleaved", "random", "uneven"]


def spread(kind, n_rows=N_ROWS, seed=0):
    """Return the row numbers of some folds."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n_rows)
    return {
        "consecutive": np.array_split(np.arange(n_rows), 5),
        "interleaved": [np.arange(n_rows)[fold::3] for fold in range(3)],
        "random": [np.sort(rows) for rows in np.array_split(shuffled, 4)],
        "uneven": [np.sort(rows) for rows in (shuffled[:1], shuffled[1:400], shuffled[400:])],
    }[kind]


def cut(rows_of_folds, probs=PROBS):
    return [(probs[rows], rows) for rows in rows_of_folds]


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.mark.parametrize("kind", SPREADS)
def test_any_spread_has_the_bits_of_the_whole_array(kind, want):
    folds = Folds(cut(spread(kind)))
    assert_same_bits(find(LABELS, folds), want)
    with pieces():
        for settings in (CUT, {"batch_size": 1}, {"batch_size": 37, "partition_batches": 1}):
            assert bits(find(LABELS, folds, **settings)) == bits(want)


@pytest.mark.parametrize("filter_by", FILTERS)
def test_all_filters(filter_by):
    folds = Folds(cut(spread("random")))
    assert_same_bits(find(LABELS, folds, filter_by=filter_by, **CUT), find(LABELS, PROBS, filter_by=filter_by))


@pytest.mark.every_value
@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("stored", ["npy", "zarr"])
def test_files(tmp_path, kind, stored, want):
    assert_same_bits(find(LABELS, Folds(store(tmp_path, cut(spread(kind)), stored)), **CUT), want)


def store(folder, folds, stored):
    found = []
    for number, (probs, rows) in enumerate(folds):
        np.save(folder / f"rows-{number}.npy", rows)
        if stored == "npy":
            np.save(folder / f"{number}.npy", probs)
        else:
            zarr.create_array(folder / f"{number}.zarr", shape=probs.shape, chunks=(33, 6), dtype="f4")[:] = probs
        found.append((folder / f"{number}.{stored}", str(folder / f"rows-{number}.npy")))
    return found


def test_folds_of_different_dtypes_widen(want):
    folds = cut(spread("interleaved"))
    folds[1] = folds[1][0].astype("f8"), folds[1][1].tolist()
    assert_same_bits(find(LABELS, Folds(folds)), find(LABELS, PROBS.astype("f8")))


def test_members_of_an_ensemble_and_folds_of_ensembles():
    folds = Folds(cut(spread("random")))
    want = find(LABELS, PROBS.astype("f8"))
    assert_same_bits(find(LABELS, Ensemble([folds, PROBS]), **CUT), want)
    inner = Folds([(Ensemble([probs]), rows) for probs, rows in cut(spread("random"))])
    assert_same_bits(find(LABELS, inner, **CUT), want)


def test_on_a_cluster(tmp_path, want):
    folds = store(tmp_path, cut(spread("random")), "npy")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        for given in (Folds(folds), Folds(cut(spread("random")))):
            assert_same_bits(find(LABELS, given, client=client, **CUT), want)


@pytest.mark.parametrize("kind", SPREADS)
def test_a_part_has_its_rows_only(kind, monkeypatch):
    monkeypatch.setattr(folds_module, "_COUNTED", 50)
    source = open_pred_probs(Folds(cut(spread(kind))))
    for start, stop in ((0, 600), (130, 190), (77, 78), (590, 600)):
        part, origin = source.part(start, stop)
        part, inner = pickle.loads(pickle.dumps(part)).part(0, stop - start)
        np.testing.assert_array_equal(part[start - origin - inner : stop - origin - inner], PROBS[start:stop])
    rows = np.random.default_rng(0).permutation(600)[:50]
    np.testing.assert_array_equal(source.take(rows), PROBS[rows])
    with source.open() as opened:  # backward, too
        for start, stop in ((300, 400), (100, 120), (120, 130), (0, 5), (595, 600)):
            np.testing.assert_array_equal(opened.read(start, stop), PROBS[start:stop])


def test_a_workdir_resumes_and_belongs_to_the_rows(tmp_path, want):
    rows = spread("random")
    folds = store(tmp_path, cut(rows), "npy")
    settings = {"workdir": tmp_path / "work", **CUT}
    assert find(LABELS, Folds(folds), **settings).facts.rows_read == N_ROWS
    again = find(LABELS, Folds(folds), output=tmp_path / "out.zarr", **settings)
    assert again.facts.rows_read == 0
    assert_same_bits(again, want)
    first, second = rows[0].copy(), rows[1].copy()
    first[0], second[0] = second[0], first[0]
    np.save(tmp_path / "rows-0.npy", np.sort(first))
    np.save(tmp_path / "rows-1.npy", np.sort(second))
    with pytest.raises(WorkdirError):
        find(LABELS, Folds(folds), **settings)


def test_rows_are_held_compactly():
    n_rows = 3_000_000
    probs, rows = np.full((n_rows, 2), 0.5, np.float16), np.arange(n_rows)
    source = open_pred_probs(Folds([(probs[fold::5], rows[fold::5]) for fold in range(5)]))
    assert source.fold_of_row.nbytes == n_rows


def test_bad_folds_are_refused_with_rows_and_folds(tmp_path):
    rows = spread("interleaved")
    folds = cut(rows)
    twice = [folds[0], (folds[1][0], np.where(folds[1][1] == 4, 3, folds[1][1])), folds[2]]
    within = [(folds[0][0], np.where(folds[0][1] == 6, 3, folds[0][1])), *folds[1:]]
    missing = [(folds[0][0], np.where(folds[0][1] == 6, 600, folds[0][1])), *folds[1:]]
    for error, words, make in (
        (InvalidInputError, "Folds takes at least one fold", lambda: Folds([])),
        (InputTypeError, "a list of pairs", lambda: Folds("a.npy")),
        (InvalidInputError, "fold 1 must be a pair", lambda: Folds([folds[0], PROBS])),
        (InvalidInputError, r"rows are given twice: row 3 in fold 0 .* and fold 1", lambda: find(LABELS, Folds(twice))),
        (InvalidInputError, r"rows are given twice: row 3 in fold 0", lambda: find(LABELS, Folds(within))),
        (InvalidInputError, r"fold 0 .* has row number 600, and all folds .* 600 rows.* no fold has row 6$",
         lambda: find(LABELS, Folds(missing))),
        (InvalidInputError, r"fold 0 .* row number 400.*no fold has rows 0, 3, 6, 9, 12 and 129 more",
         lambda: find(LABELS, Folds(folds[1:]))),
        (InvalidInputError, "has row number -1",
         lambda: find(LABELS, Folds([*folds[:2], (folds[2][0], folds[2][1] - 3)]))),
        (InvalidInputError, r"fold 2 .* has 200 rows and 199 row numbers",
         lambda: find(LABELS, Folds([*folds[:2], (folds[2][0], rows[2][:-1])]))),
        (InvalidInputError, r"has 6 classes, fold 1 .* has 5",
         lambda: find(LABELS, Folds([folds[0], (PROBS[rows[1], :5], rows[1])]))),
        (InvalidInputError, "fold 1: rows must be one axis of integers, not bool.*np.flatnonzero",
         lambda: find(LABELS, Folds([folds[0], (folds[1][0], np.ones(200, bool))]))),
        (InvalidInputError, "fold 0: a fold cannot be a Dask array",
         lambda: find(LABELS, Folds([(da.from_array(PROBS), np.arange(600))]))),
        (InvalidInputError, "fold 1: pred_probs: there is no file",
         lambda: find(LABELS, Folds([folds[0], (tmp_path / "no.npy", rows[1])]))),
        (InvalidInputError, "600 rows of pred_probs", lambda: find(LABELS[:-1], Folds(folds))),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            make()
    bad = [folds[0], (folds[1][0].copy(), folds[1][1]), folds[2]]
    bad[1][0][2, 3] = np.nan
    with pytest.raises(InvalidInputError, match="1 NaN probability in row 7"):
        find(LABELS, Folds(bad), **CUT)


@pytest.mark.parametrize("step", [1 << 20, 10], ids=["at once", "in pieces"])
def test_a_fold_out_of_order_is_an_error_whose_advice_works(monkeypatch, step, want):
    monkeypatch.setattr(folds_module, "_STEP", step)
    (probs, rows), *others = cut(spread("interleaved"))
    order = np.r_[0:7, 8, 7, 9:11, 9:9, 12, 11, 13:200]
    shuffled = probs[order], rows[order]
    with pytest.raises(InvalidInputError) as caught:
        find(LABELS, Folds([*others, shuffled]))
    assert str(caught.value) == (
        "the row numbers of fold 2 (an array in memory) do not ascend: its row 8 has number 21 after 24, the first of "
        "2 such rows. Sort the fold: order = np.argsort(rows), and give (pred_probs[order], rows[order])"
    )
    probs, rows = shuffled
    order = np.argsort(rows)
    assert_same_bits(find(LABELS, Folds([*others, (probs[order], rows[order])])), want)
    with pytest.raises(InvalidInputError, match=r"its row 199 has number 0 after 597\. Sort the fold"):
        find(LABELS, Folds([(np.roll(probs[order], -1, 0), np.roll(rows[order], -1)), *others]))
