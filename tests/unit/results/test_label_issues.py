"""What people ask of a result: against direct computations with pandas, and against cleanlab on the same counts."""

import itertools
import tracemalloc
import warnings

import cleanlab.dataset
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from cleanlab.count import calibrate_confident_joint
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import draws
import labelsieve
import naive
from draws import find
from labelsieve import InputTypeError, InvalidInputError, LabelIssues
from labelsieve.confident_learning import joint as confident_joint
from labelsieve.confident_learning import matrices as class_quality
from labelsieve.confident_learning.joint import (
    ConfidentCounts,
    calibrated_pairs,
    confident_chunk,
    confident_combine,
    joint_sums,
)
from labelsieve.confident_learning.thresholds import adjusted_thresholds
from labelsieve.job.table import ArrayScores
from labelsieve.results import label_issues
from labelsieve.results import result as row_ids
from labelsieve.results.result import IssueRows
from labelsieve.storage import checked as checked_arrays

NAMES = ("cat", "<script>", 'a "dog"', "cow, brown")


@pytest.fixture(scope="module")
def data():
    return draws.draw(1500, 4, seed=8, noise=0.25)


@pytest.fixture(scope="module")
def found(data):
    return find(*data, class_names=NAMES, ids=[f"img/{i}.png" for i in range(1500)])


def dense(found):
    """Return the matrix that `ConfidentCounts` stands for."""
    matrix = np.diag(found.confident.diagonal)
    matrix[found.confident.given, found.confident.predicted] = found.confident.counts
    return matrix


# Confident counts ------------------------------------------------------------------------------------------------


def naive_confident(labels, probs, thresholds):
    """Count row by row which label is confidently predicted as which class."""
    k = len(thresholds)
    matrix = [[0] * k for _ in range(k)]
    for label, row in zip(labels, probs, strict=True):
        predicted = naive.first_argmax(row)
        if row[predicted] >= thresholds[predicted] - 1e-6:
            matrix[label][predicted] += 1
    return matrix


@pytest.mark.parametrize("table_classes", [0, 255])
@given(data=draws.datasets(max_rows=60, classes=(2, 3, 5)), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_confident_rows_are_counted_as_one_by_one(data, cuts, table_classes):
    labels, probs = data
    found = find(labels, probs, allow_zero_rows=True)
    plain_labels, rows = naive.plain(labels, probs)
    want = naive_confident(plain_labels, rows, found.confident_thresholds.tolist())
    assert want == dense(found).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confident_joint, "_TABLE_CLASSES", table_classes)
        patch.setattr(confident_joint, "_TABLE_ROWS", 2)
        patch.setattr(confident_joint, "_PIECE_PAIRS", 2)
        summary = draws.summary_of(labels, probs)
        edges = sorted({0, len(summary), *(min(cut, len(summary)) for cut in cuts)})
        adjusted = adjusted_thresholds(found.confident_thresholds)
        total = confident_combine([confident_chunk(summary[a:b], adjusted) for a, b in itertools.pairwise(edges)])
    for name in ("pairs", "counts", "diagonal"):
        assert getattr(total, name).tolist() == getattr(found.confident, name).tolist()


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 2.0, 30.0]), st.sampled_from([1, 3, 99]))
def test_the_calibrated_joint_is_that_of_cleanlab_but_for_tied_remainders(k, seed, mean, piece_pairs):
    rng = np.random.default_rng(seed)
    matrix = rng.poisson(mean, (k, k)) * (rng.random((k, k)) < 0.6) + np.diag(rng.poisson(5 * mean, k))
    class_counts = matrix.sum(axis=1) + rng.poisson(10, k) + 1
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    pairs = np.flatnonzero(off.ravel())
    counts, got = ConfidentCounts(matrix.diagonal().copy(), pairs, off.ravel()[pairs]), np.zeros((k, k), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confident_joint, "_PIECE_PAIRS", piece_pairs)
        for piece, estimated, diagonal in calibrated_pairs(counts, class_counts):
            got[piece.given, piece.predicted] = estimated
            got += np.diag(diagonal)
        joint = joint_sums(counts, class_counts)
    want = calibrate_confident_joint(matrix, np.repeat(np.arange(k), class_counts))
    assert got.sum(axis=1).tolist() == joint.by_label.tolist() == want.sum(axis=1).tolist()
    assert got.sum(axis=0).tolist() == joint.by_true_class.tolist()
    assert got.diagonal().tolist() == joint.diagonal.tolist()
    exact = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-100) * class_counts[:, None]
    exact *= class_counts.sum() / max(exact.sum(), 1e-100)
    for row in range(k):
        differ = got[row] != want[row]
        remainders = (exact[row] % 1)[differ]
        assert np.abs(got - want).max() <= 1
        assert not len(remainders) or np.ptp(remainders) < 1e-9


# Tables ----------------------------------------------------------------------------------------------------------


def test_the_frame_has_a_line_for_each_issue(data, found):
    labels, probs = data
    frame = found.to_frame()
    assert list(frame.columns) == [
        *("row", "id", "score", "given_label", "suggested_label", "p_given", "p_suggested"),
        *("given_name", "suggested_name"),
    ]
    assert frame["row"].tolist() == found.indices.tolist()
    rows = frame["row"].to_numpy()
    assert frame["id"].tolist() == [f"img/{row}.png" for row in rows]
    assert frame["given_label"].tolist() == labels[rows].tolist()
    assert frame["suggested_label"].tolist() == probs[rows].argmax(axis=1).tolist()
    assert frame["suggested_name"].tolist() == [NAMES[c] for c in probs[rows].argmax(axis=1)]
    assert frame["p_given"].tolist() == probs[rows, labels[rows]].tolist()
    pd.testing.assert_frame_equal(found.to_frame(3), frame.head(3))
    assert len(found.to_frame(0)) == 0
    with pytest.raises(InvalidInputError, match="top"):
        found.to_frame(-1)


@pytest.mark.parametrize("method", ["self_confidence", "normalized_margin"])
def test_a_frame_of_float16_is_printed_and_exact(data, method):
    # Warnings are errors here, and pandas warns of an overflow as it prints float16.
    labels, probs = data
    found = find(labels, probs.astype(np.float16), method=method)
    frame = found.to_frame()
    assert {str(frame[name].dtype) for name in ("p_given", "p_suggested")} == {"float32"}
    assert str(frame["row"].iloc[0]) in repr(frame)
    for name, column in found.issues.columns().items():
        assert frame[name].tolist() == column.tolist()


def test_a_result_stands_for_its_indices(data, found, tmp_path):
    labels, _ = data
    rows = found.indices.tolist()
    found.save(tmp_path / "r.zarr")
    for result in (found, labelsieve.load(tmp_path / "r.zarr")):
        assert len(result) == result.num_issues == len(rows) > 100
        assert list(result) == rows
        assert all(type(row) is int for row in result)
        assert np.asarray(result).tolist() == rows
        assert np.asarray(result, np.int32).dtype == np.int32
        assert labels[result].tolist() == labels[rows].tolist()
        assert np.delete(labels, result).tolist() == np.delete(labels, rows).tolist()
        assert pd.Series(labels).iloc[result].tolist() == labels[rows].tolist()
        assert rows[3] in result
        assert -1 not in result
    copy = np.array(found)
    copy[:] = -1
    assert found.indices.tolist() == rows
    with pytest.raises(ValueError, match="copy"):
        np.asarray(found, np.int32, copy=False)


def test_a_result_without_issues_is_false(found):
    none = find([0, 1, 0, 1], [[0.9, 0.1], [0.1, 0.9]] * 2)
    assert found
    assert not none
    assert list(none) == []
    assert np.arange(4)[none].tolist() == []


@pytest.mark.parametrize(("method", "adjust"), naive.METHODS)
def test_classes_are_summed_up_as_pandas_does(data, method, adjust):
    labels, probs = data
    found = find(labels, probs, method=method, adjust_pred_probs=adjust)
    summary = found.class_summary().set_index("class").sort_index()
    table = pd.DataFrame({"label": labels, "score": np.asarray(found.scores), "issue": found.mask()})
    by_class = table.groupby("label")
    assert summary["rows"].tolist() == by_class.size().tolist()
    assert summary["issues"].tolist() == by_class["issue"].sum().tolist()
    np.testing.assert_allclose(summary["share"], by_class["issue"].mean(), rtol=1e-12)
    np.testing.assert_allclose(summary["mean_score"], by_class["score"].mean(), rtol=1e-9)
    assert summary["threshold"].tolist() == found.confident_thresholds.tolist()
    assert found.class_summary()["label_noise"].is_monotonic_decreasing
    assert summary["flag"].tolist() == [""] * 4


def test_noise_is_that_of_cleanlab_on_the_same_counts(real_datasets):
    for labels, probs in real_datasets.values():
        found = find(labels, probs)
        matrix = dense(found)
        theirs = cleanlab.dataset.rank_classes_by_label_quality(labels=labels, confident_joint=matrix)
        theirs = theirs.set_index("Class Index").sort_index()
        ours = found.class_summary().set_index("class").sort_index()
        np.testing.assert_allclose(ours["label_noise"], theirs["Label Noise"], atol=1e-12)
        assert ours["label_noise"].max() > 0.03
        pairs = cleanlab.dataset.find_overlapping_classes(
            labels=labels, confident_joint=matrix, asymmetric=True, num_examples=len(labels)
        )
        wanted = {(a, b): n for a, b, n in pairs.iloc[:, :3].itertuples(index=False) if n}
        mine = found.confused_pairs(None)
        got = dict(
            zip(zip(mine["given_label"], mine["suggested_label"], strict=True), mine["estimated_rows"], strict=True)
        )
        assert wanted.keys() - got.keys() == set()
        assert sum(wanted.values()) == sum(got.values())
        assert max(abs(n - wanted.get(pair, 0)) for pair, n in got.items()) <= 1, "remainders may tie"


def test_health_is_that_of_cleanlab_where_both_rules_count_the_same(real_datasets):
    for labels, probs in real_datasets.values():
        found = find(labels, probs)
        theirs = cleanlab.dataset.health_summary(labels, probs, verbose=False)
        if found.estimated_num_issues == cleanlab.count.num_label_issues(
            labels, probs, estimation_method="off_diagonal"
        ):
            assert found.health_score() == pytest.approx(theirs["overall_label_health_score"], abs=1e-12)
        assert found.health_score() == 1 - found.estimated_num_issues / len(labels)


def test_pairs_count_the_confident_rows_of_another_class(data, found):
    labels, probs = data
    predicted = probs.argmax(axis=1)
    sure = probs.max(axis=1) >= found.confident_thresholds[predicted] - 1e-6
    off = pd.DataFrame({"given": labels, "predicted": predicted})[sure & (predicted != labels)]
    want = off.value_counts()
    pairs = found.confused_pairs(None)
    got = pairs.set_index(["given_label", "suggested_label"])["confident_rows"]
    assert got.to_dict() == want.to_dict()
    assert got.sum() == found.estimated_num_issues
    assert pairs["estimated_rows"].is_monotonic_decreasing
    assert (
        pairs["share"] == pairs["estimated_rows"] / pairs["given_label"].map(pd.Series(labels).value_counts())
    ).all()
    assert pairs["given_name"].tolist() == [NAMES[c] for c in pairs["given_label"]]
    pd.testing.assert_frame_equal(found.confused_pairs(2), pairs.head(2))


def test_classes_that_say_little_are_flagged():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], [200, 5, 100])
    probs = rng.dirichlet([5, 5, 5, 0.01], 305)
    found = find(labels, probs, class_names=list("wxyz"))
    flags = found.class_summary().set_index("name")["flag"]
    assert flags.to_dict() == {"w": "", "x": "rare", "y": "absent", "z": "tiny threshold"}
    summary = found.class_summary().set_index("name")
    assert summary.loc["y", ["share", "label_noise", "mean_score"]].isna().all()
    assert summary.loc["y", "rows"] == summary.loc["y", "issues"] == 0


def test_many_classes_take_no_square_of_memory():
    k, n = 60_000, 200_000
    rng = np.random.default_rng(1)
    given, predicted = rng.integers(0, k, n), rng.integers(0, k, n)
    pairs, counts = np.unique(np.where(given == predicted, 1, given * k + predicted), return_counts=True)
    sums = np.bincount(given, minlength=k)
    confident_rows = ConfidentCounts(rng.integers(0, 9, k), pairs, counts)
    table = class_quality.class_columns(confident_rows, sums + 9, np.full(k, 0.5), np.zeros(k), np.zeros(k, np.int64))
    assert len(table["label_noise"]) == k
    assert len(class_quality.pair_columns(confident_rows, sums + 9, 7)["share"]) == 7


# Names -----------------------------------------------------------------------------------------------------------


def test_ids_of_any_kind(tmp_path, data):
    numbers = np.arange(1500) * 7
    np.save(tmp_path / "ids.npy", numbers)
    zarr.create_array(tmp_path / "ids.zarr", shape=(1500,), dtype="i8", chunks=(100,))[:] = numbers
    (tmp_path / "ids.txt").write_text("\n".join(map(str, numbers)) + "\n")
    for ids in (numbers, numbers.tolist(), pd.Series(numbers), tmp_path / "ids.npy", str(tmp_path / "ids.zarr")):
        frame = find(*data, ids=ids).to_frame()
        assert frame["id"].tolist() == [7 * row for row in frame["row"]]
    frame = find(*data, ids=tmp_path / "ids.txt").to_frame()
    assert frame["id"].tolist() == [str(7 * row) for row in frame["row"]]


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"ids": [1, 2]}, InvalidInputError, r"ids have shape \(2,\), pred_probs has 1,500 rows"),
        ({"ids": np.zeros((1500, 2))}, InvalidInputError, r"ids have shape \(1500, 2\)"),
        ({"ids": np.zeros(1500)}, InputTypeError, "ids must be integers or strings, not float64"),
        ({"ids": [None] * 1500}, InputTypeError, "ids must be integers or strings, not object"),
        ({"ids": "nowhere.npy"}, InvalidInputError, r"ids: there is no file .*nowhere\.npy"),
        ({"class_names": ["a"]}, InvalidInputError, "1 class_names, pred_probs has 4 classes"),
        ({"class_names": "abcd"}, InputTypeError, "class_names must be a sequence of strings"),
        ({"class_names": 5}, InputTypeError, "class_names must be a sequence of strings"),
        ({"class_names": [1, 2, 3, 4]}, InputTypeError, "class_names must be a sequence of strings"),
    ],
)
def test_names_that_are_none_are_refused_before_anything_is_read(data, choice, error, message, monkeypatch):
    monkeypatch.setattr("labelsieve.job.scan.scan", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(error, match=message):
        find(*data, **choice)


def test_names_of_any_letters_reach_every_table(tmp_path, data):
    # Names of files that are no UTF-8 come with surrogates; strings in Zarr and in NumPy may be of no fixed width.
    names = [f"image {i}" for i in range(1500)]
    store = zarr.create_array(tmp_path / "ids.zarr", shape=(1500,), dtype=str, chunks=(100,))
    store[:] = np.array(names, np.dtypes.StringDType())
    column = pd.Series(names, index=range(1500, 0, -1))
    for ids in (tmp_path / "ids.zarr", np.array(names, np.dtypes.StringDType()), column):
        frame = find(*data, ids=ids).to_frame()
        assert frame["id"].tolist() == [names[row] for row in frame["row"]]
    broken = [f"\udcff{i}\0" for i in range(1500)]
    found = find(*data, ids=broken, class_names=["a\udcff", "b", "c", "d"], output=tmp_path / "o.zarr")
    want = [f"\\udcff{row}\0" for row in found.indices]
    assert found.to_frame()["id"].tolist() == want
    assert found.class_names[0] == "a\\udcff"
    found.to_csv(tmp_path / "o.csv")
    found.to_parquet(tmp_path / "o.parquet")
    assert pd.read_parquet(tmp_path / "o.parquet")["id"].tolist() == want
    found.report(tmp_path / "o.html", texts=broken)
    big = np.arange(1500, dtype=">i8")
    find(*data, ids=big).to_parquet(tmp_path / "big.parquet")
    assert pd.read_parquet(tmp_path / "big.parquet")["id"].tolist() == find(*data).indices.tolist()


def test_a_long_name_makes_no_wide_table(data):
    names = ["x"] * 1500
    names[int(find(*data).indices[0])] = "y" * 100_000
    tracemalloc.start()
    frame = find(*data, ids=names).to_frame()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frame["id"][0]) == 100_000
    assert peak < 50e6, "1,500 such names would take 600 MB"


def test_lines_end_where_lines_end(tmp_path):
    (tmp_path / "n.txt").write_text("\ufeffa\u2028b\n[UNK]\r\nc\x0cd\n\n", encoding="utf-8")
    assert row_ids.read_class_names(tmp_path / "n.txt") == ["a\u2028b", "[UNK]", "c\x0cd"]
    (tmp_path / "n.json").write_text('["a", "b\\nc"]')
    assert row_ids.read_class_names(tmp_path / "n.json") == ["a", "b\nc"]
    (tmp_path / "n.txt").write_text("[UNK]\nb\n")
    assert row_ids.read_class_names(tmp_path / "n.txt") == ["[UNK]", "b"]


# Saved and opened again ------------------------------------------------------------------------------------------


def assert_same(got, want):
    assert draws.bits(got) == draws.bits(want)
    for name in ("n_rows", "n_classes", "num_issues", "class_names", "settings"):
        assert getattr(got, name) == getattr(want, name)
    pd.testing.assert_frame_equal(got.to_frame(), want.to_frame())
    pd.testing.assert_frame_equal(got.class_summary(), want.class_summary())
    pd.testing.assert_frame_equal(got.confused_pairs(None), want.confused_pairs(None))
    assert got.health_score() == want.health_score()
    assert repr(got) == repr(want)


@pytest.mark.parametrize("place", ["disk", "url"])
def test_a_result_is_saved_and_opened_again(tmp_path, found, place):
    path = tmp_path / "r.zarr" if place == "disk" else "memory://results/r.zarr"
    found.save(path)
    found.save(path)  # an earlier result is replaced
    loaded = labelsieve.load(path)
    assert_same(loaded, found)
    assert loaded.facts == found.facts
    assert loaded.facts.versions["numpy"] == np.__version__
    again = tmp_path / "again.zarr"
    loaded.save(again)
    assert_same(labelsieve.load(again), found)


def test_a_result_is_never_saved_over_what_it_is_read_from(data, found, tmp_path):
    url = "memory://results/own.zarr"
    written = find(*data, class_names=NAMES, output=url)
    for result in (written, labelsieve.load(url)):
        with pytest.raises(InvalidInputError, match=r"this result is read from memory://results/own\.zarr"):
            result.save(url)
    assert draws.bits(labelsieve.load(url)) == draws.bits(found)
    found.save(tmp_path / "r.zarr")
    labelsieve.load(tmp_path / "r.zarr").save(tmp_path / "r.zarr")  # a folder is renamed into its place
    assert_same(labelsieve.load(tmp_path / "r.zarr"), found)


def resigned(attributes, **changes):
    """Return the attributes of a stored result with changes, as another version would have written them."""
    return checked_arrays.with_checksum({name: attributes[name] for name in attributes["checksum"]["of"]} | changes)


def test_facts_of_a_newer_version_are_left_out(tmp_path, found):
    found.save(tmp_path / "r.zarr")
    group = zarr.open_group(tmp_path / "r.zarr")
    group.attrs.update(resigned(group.attrs, facts=dict(group.attrs["facts"]) | {"colour": "blue"}))
    assert labelsieve.load(tmp_path / "r.zarr").facts == found.facts


def test_what_the_tasks_wrote_is_what_is_saved(tmp_path, data, found):
    ids = [f"img/{i}.png" for i in range(1500)]
    written = find(*data, class_names=NAMES, ids=ids, output=tmp_path / "w.zarr", batch_size=100)
    found.save(tmp_path / "s.zarr")
    assert_same(written, found)
    assert_same(labelsieve.load(tmp_path / "w.zarr"), found)
    groups = [zarr.open_group(tmp_path / f"{name}.zarr", mode="r") for name in "ws"]
    names = [sorted(name for name, _ in group.members(max_depth=None)) for group in groups]
    assert names[0] == names[1]
    assert groups[0]["mask"][:].tolist() == groups[1]["mask"][:].tolist() == found.mask().tolist()


def test_a_loaded_result_reads_what_is_asked_for(tmp_path, found, monkeypatch):
    found.save(tmp_path / "r.zarr")
    loaded = labelsieve.load(tmp_path / "r.zarr")
    scores = loaded.scores
    assert type(scores).__module__.startswith("dask")
    assert scores.shape == (1500,)
    assert scores[:5].compute().tolist() == found.scores[:5].tolist()
    monkeypatch.setattr(
        "labelsieve.results.result.Result.issues", property(lambda _: pytest.fail("all issues were loaded"))
    )
    assert loaded.to_frame(2)["row"].tolist() == found.found.rows[:2].tolist()
    assert repr(loaded) == repr(found)


@pytest.mark.parametrize("what", ["nothing", "array", "other format", "table"])
def test_what_is_no_result_is_not_opened(tmp_path, found, what):
    path, message = tmp_path / "r.zarr", "there is no result of Labelsieve at .*r.zarr"
    if what == "array":
        zarr.create_array(path, shape=(3,), dtype="f4")
    elif what == "other format":
        found.save(path)
        group = zarr.open_group(path)
        group.attrs.update(resigned(group.attrs, format=99))
        message = "r.zarr is a result of format 99; this version of Labelsieve reads formats 2 and 3 only"
    elif what == "table":
        found.to_csv(tmp_path / "r.csv")
        path, message = tmp_path / "r.csv", "there is no result of Labelsieve"
    with pytest.raises(InvalidInputError, match=message):
        labelsieve.load(path)


def test_no_issues_are_saved_too(tmp_path):
    labels, probs = np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.1, 0.9]] * 2)
    found = find(labels, probs, ids=list("abcd"))
    assert found.num_issues == 0
    found.save(tmp_path / "r.zarr")
    loaded = labelsieve.load(tmp_path / "r.zarr")
    assert len(loaded.to_frame()) == len(loaded.confused_pairs()) == 0
    assert list(loaded.to_frame().columns) == list(found.to_frame().columns)
    for form in ("csv", "parquet"):
        getattr(found, f"to_{form}")(tmp_path / f"r.{form}")
    assert list(pd.read_csv(tmp_path / "r.csv").columns) == list(found.to_frame().columns)
    assert list(pd.read_parquet(tmp_path / "r.parquet").columns) == list(found.to_frame().columns)


def test_tables_are_read_by_others(tmp_path, found):
    want = found.to_frame()
    found.to_csv(tmp_path / "r.csv")
    frame = pd.read_csv(tmp_path / "r.csv")
    assert (
        frame.drop(columns=["score", "p_given", "p_suggested"]).to_dict()
        == want.drop(columns=["score", "p_given", "p_suggested"]).to_dict()
    )
    assert frame["score"].to_numpy(want["score"].dtype).tolist() == want["score"].tolist()
    found.to_parquet(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "r.parquet"), want, check_dtype=False)
    with pytest.raises(InvalidInputError, match=r"must end in \.csv"):
        found.to_csv(tmp_path / "r.parquet")


def test_many_issues_are_a_file_a_range(tmp_path, found):
    n, path = found.num_issues, tmp_path / "r.parquet"
    for rows in (100, 70, n, 10_000):  # each replaces the one before
        found.to_parquet(path, rows_a_file=rows)
        files = sorted(path.iterdir()) if rows < n else [path]
        assert path.is_dir() is (rows < n)
        assert [pq.read_metadata(file).num_rows for file in files] == [
            min(rows, n - start) for start in range(0, n, rows)
        ]
        pd.testing.assert_frame_equal(pd.read_parquet(path), found.to_frame(), check_dtype=False)
    (tmp_path / "other.parquet").mkdir()
    (tmp_path / "other.parquet" / "mine.txt").write_text("x")
    (tmp_path / "empty.parquet").mkdir()
    (tmp_path / "theirs.parquet").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "theirs.parquet" / "part-00000.parquet")
    for other in ("other", "empty", "theirs"):
        with pytest.raises(InvalidInputError, match="is a folder"):
            found.to_parquet(tmp_path / f"{other}.parquet")


# In notebooks ----------------------------------------------------------------------------------------------------


def test_a_notebook_shows_headline_and_worst_rows_as_text(found):
    page = found._repr_html_()
    assert f"<strong>{found.num_issues:,}</strong> label issues in 1,500 rows" in page
    assert page.count("<tr>") == 6
    assert "<script>" not in page
    everything = IssueRows.concatenate([found.issues])
    cell = label_issues._cell
    assert f"<td>{cell(everything.scores.tolist()[0])}</td>" in page


def test_numbers_are_the_same_bits_wherever_they_are_counted(data):
    labels, probs = data
    want = find(labels, probs, method="normalized_margin")
    same = [
        find(labels, probs, method="normalized_margin", batch_size=7, partition_batches=3),
        find(labels, probs, method="normalized_margin", n_jobs=2),
    ]
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            same.append(find(labels, probs, method="normalized_margin", client=client, batch_size=100))
        assert not isinstance(same[-1].score_parts, ArrayScores)
        for other in same:
            pd.testing.assert_frame_equal(other.class_summary(), want.class_summary(), check_exact=True)
            pd.testing.assert_frame_equal(other.confused_pairs(None), want.confused_pairs(None), check_exact=True)
    assert same[-1].facts.scheduler == "a cluster of 1 worker, 2 threads each"
    assert same[1].facts.scheduler == "2 forked processes"
    assert isinstance(want, LabelIssues)
