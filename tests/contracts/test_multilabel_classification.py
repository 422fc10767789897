"""Tags: what K runs of two classes find, what cleanlab finds, the same bits however they are read, and plain errors."""

import inspect
import itertools
import warnings

import cleanlab.multilabel_classification as theirs
import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import zarr
from cleanlab.multilabel_classification import dataset as their_dataset
from cleanlab.multilabel_classification import filter as their_filter
from cleanlab.multilabel_classification import rank as their_rank
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import labelsieve
import labelsieve.cleanlab.multilabel_classification as ours
from draws import pieces
from labelsieve import multilabel_classification
from labelsieve.cleanlab.multilabel_classification import dataset, rank
from labelsieve.cleanlab.multilabel_classification import filter as our_filter
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning, UnreadableDataError, WorkdirError
from naive_joint import FILTERS

pytestmark = [  # of cleanlab
    pytest.mark.filterwarnings("ignore:The multi_label argument:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:May not flag all:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is not used when:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*encountered in (divide|cast):RuntimeWarning:cleanlab"),
]
CUT = {"batch_size": 70, "partition_batches": 2}
PRUNING = ("prune_by_class", "prune_by_noise_rate", "both")
RULES = [*FILTERS, None]
SCORES = ["self_confidence", "normalized_margin", "confidence_weighted_entropy"]
ADJUSTED = [(method, adjust) for method in SCORES for adjust in (False, True) if not adjust or "entropy" not in method]


def tagged(n_examples=150, n_tags=5, seed=0, dtype=np.float64, decimals=None):
    """Return a matrix of tags, some of them flipped, and the probabilities of a fair model; no value is tied."""
    rng = np.random.default_rng(seed)
    true = rng.random((n_examples, n_tags)) < rng.uniform(0.1, 0.6, n_tags)
    probs = 1 / (1 + np.exp(-(true * rng.uniform(1, 5) - 2 + rng.normal(0, 1.5, true.shape))))
    if decimals is not None:
        probs = probs.round(decimals)
    matrix = true ^ (rng.random(true.shape) < 0.1)
    matrix[0], matrix[1] = True, False  # each tag has both, as cleanlab needs
    return matrix.astype(int), probs.astype(dtype)


def lists_of(matrix):
    return [np.flatnonzero(row).tolist() for row in matrix]


def find(labels, probs, **choices):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelsieveWarning)  # of tags with few examples
        return multilabel_classification.find_label_issues(labels, probs, **{"progress": False} | choices)


def facts_of(found):
    """Return all that a result says, to be compared to the last bit."""
    issues = found.rows.issues.columns()
    return {
        "columns": {name: column.tobytes() for name, column in issues.items()},
        "scores": np.asarray(found.rows.scores).tobytes(),
        "thresholds": found.confident_thresholds.tobytes(),
        "joint": found.confident_joint.tolist(),
        "counts": found.class_counts.tolist(),
        "means": found.rows.mean_scores.tobytes(),
        "estimated": found.rows.estimated_num_issues,
    }


# The K problems of two classes -----------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("filter_by", RULES)
def test_each_tag_is_a_run_of_two_classes(filter_by, dtype):
    matrix, probs = tagged(400, 4, seed=3, dtype=dtype, decimals=2)  # with ties
    matrix[:, 3] = 0  # a tag that no example has
    found = find(lists_of(matrix), probs, filter_by=filter_by)
    for tag in range(4):
        both = np.stack([1 - probs[:, tag], probs[:, tag]], axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LabelsieveWarning)
            alone = labelsieve.find_label_issues(matrix[:, tag], both, filter_by=filter_by, progress=False)
        assert found.issues_of_tag(tag).tolist() == alone.indices.tolist()
        assert found.confident_thresholds[tag].tolist() == alone.confident_thresholds.tolist()
        assert found.class_counts[tag].tolist() == alone.class_counts.tolist()
        assert found.rows.scores[tag::4].tobytes() == alone.scores.tobytes()
        assert found.confident_joint[tag, 0, 0] == alone.confident.diagonal[0]
    assert [one.tolist() for one in found.issues_by_tag()] == [found.issues_of_tag(tag).tolist() for tag in range(4)]


@pytest.mark.parametrize("method", [*SCORES, "logit_margin"])
def test_scores_are_those_of_two_classes(method):
    matrix, probs = tagged(300, 3, seed=5, dtype="f4")
    found = find(matrix, probs, filter_by="both", rank_by=method)
    for tag in range(3):
        both = np.stack([1 - probs[:, tag], probs[:, tag]], axis=1)
        alone = labelsieve.find_label_issues(matrix[:, tag], both, filter_by="both", rank_by=method, progress=False)
        assert found.issues_of_tag(tag).tolist() == alone.indices.tolist()
        assert found.rows.scores[tag::3].tobytes() == alone.scores.tobytes()


def test_by_the_margin_of_logits_the_same_tags_are_issues():
    matrix, probs = tagged(300, 3, seed=5)
    found = find(matrix, probs, method="logit_margin")
    assert list(found) == list(find(matrix, probs)) != []
    assert found.rows.scores.dtype == np.float64


@pytest.mark.parametrize(
    ("filter_by", "rule"),
    [(None, "predicted_class"), *((name, "confident_joint") for name in (None, "low_self_confidence", "both"))],
)
def test_calibrated_counts_are_those_of_each_tag(filter_by, rule):
    matrix, probs = tagged(300, 3, seed=6)
    choices = {"filter_by": filter_by, "rule": rule, "estimation_method": "off_diagonal_calibrated"}
    found = find(matrix, probs, **choices)
    for tag in range(3):
        both = np.stack([1 - probs[:, tag], probs[:, tag]], axis=1)
        alone = labelsieve.find_label_issues(matrix[:, tag], both, progress=False, **choices)
        assert found.issues_of_tag(tag).tolist() == alone.indices.tolist()


def test_more_tags_than_a_byte_holds():
    matrix, probs = tagged(40, 130, seed=1, dtype="f4")
    found = find(lists_of(matrix), probs)
    want = their_filter.find_multilabel_issues_per_class(lists_of(matrix), probs, n_jobs=1)
    assert np.array_equal(found.mask(), want)
    assert found.rows.facts.n_reads == 2


# cleanlab ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_issues_are_those_of_cleanlab(seed):
    rng = np.random.default_rng(seed)
    matrix, probs = tagged(int(rng.integers(20, 200)), int(rng.integers(2, 5)), seed, ["f4", "f8"][seed % 2])
    labels = lists_of(matrix)
    numbers = rng.integers(0, 9, matrix.shape[1]).tolist()
    for filter_by in FILTERS:
        pruning = [{}, {"frac_noise": 0.5, "min_examples_per_class": 5}, {"num_to_remove_per_class": numbers}]
        for choices in pruning if seed % 3 == 0 and filter_by in PRUNING else [{}]:
            want = their_filter.find_multilabel_issues_per_class(
                labels, probs, filter_by=filter_by, n_jobs=1, **choices
            )
            assert np.array_equal(find(labels, probs, filter_by=filter_by, **choices).mask(), want)
        mask = their_filter.find_label_issues(labels, probs, filter_by=filter_by, n_jobs=1)
        assert np.array_equal(our_filter.find_label_issues(labels, probs, filter_by=filter_by), mask)


@pytest.mark.every_value
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("method", "adjust"), ADJUSTED)
def test_ranked_issues_are_those_of_cleanlab(method, adjust, seed):
    matrix, probs = tagged(120, 4, seed)
    labels, kwargs = lists_of(matrix), {"adjust_pred_probs": True} if adjust else {}
    for filter_by in ("prune_by_noise_rate", "low_self_confidence"):
        theirs_found, ours_found = (
            module.find_multilabel_issues_per_class(labels, probs, method, kwargs, filter_by)
            for module in (their_filter, our_filter)
        )
        for want, got in zip(theirs_found, ours_found, strict=True):
            assert len(want) == len(got) == 4
            assert all(np.array_equal(one, other) for one, other in zip(want, got, strict=True))
    want = their_filter.find_label_issues(labels, probs, method, kwargs, n_jobs=1)
    assert our_filter.find_label_issues(labels, probs, method, kwargs).tolist() == want.tolist()
    if not adjust:
        want = their_filter.find_label_issues(labels, probs, method, low_memory=True)
        assert our_filter.find_label_issues(labels, probs, method, low_memory=True).tolist() == want.tolist()


@pytest.mark.parametrize("filter_by", ["low_self_confidence", "low_normalized_margin"])
def test_low_scores_of_examples_are_ranked_as_cleanlab_documents(filter_by):
    matrix, probs = tagged(120, 4, 7)
    labels = lists_of(matrix)
    for method in SCORES:
        ranked = our_filter.find_label_issues(labels, probs, method, filter_by=filter_by)
        assert np.array_equal(
            np.sort(ranked), np.flatnonzero(their_filter.find_label_issues(labels, probs, filter_by=filter_by))
        )
        scores = their_rank.get_label_quality_scores(labels, probs, method=method)
        assert ranked.tolist() == sorted(ranked.tolist(), key=lambda row: scores[row])


@pytest.mark.parametrize("seed", range(4))
def test_a_given_joint_prunes_as_in_cleanlab(seed):
    matrix, probs = tagged(150, 3, seed)
    joint = np.random.default_rng(seed).integers(0, 50, (3, 2, 2))
    for filter_by in ("prune_by_noise_rate", "prune_by_class", "both"):
        want = their_filter.find_multilabel_issues_per_class(
            lists_of(matrix), probs, filter_by=filter_by, confident_joint=joint, n_jobs=1
        )
        assert np.array_equal(find(matrix, probs, filter_by=filter_by, confident_joint=joint).mask(), want)


@pytest.mark.every_value
@pytest.mark.parametrize(("method", "adjust"), ADJUSTED)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scores_are_those_of_cleanlab(method, adjust, dtype):
    matrix, probs = tagged(200, 5, 2, dtype)
    labels, kwargs = lists_of(matrix), {"method": method, "adjust_pred_probs": adjust}
    close = {"rtol": 0, "atol": 1e-12 if dtype == "f8" else 5e-7}  # cleanlab computes in float32 then
    want = their_rank.get_label_quality_scores_per_class(labels, probs, **kwargs)
    np.testing.assert_allclose(rank.get_label_quality_scores_per_class(labels, probs, **kwargs), want, **close)
    np.testing.assert_allclose(
        ours.get_label_quality_scores(labels, probs, **kwargs),
        theirs.get_label_quality_scores(labels, probs, **kwargs),
        **close,
    )
    for how in (
        {"method": "exponential_moving_average"},
        {"method": "exponential_moving_average", "alpha": 0.3},
        {"method": "softmin"},
        {"method": "softmin", "temperature": 0.5},
        {"method": np.min},
        {"method": np.quantile, "q": 0.25},
    ):
        np.testing.assert_allclose(
            rank.get_label_quality_scores(labels, probs, **kwargs, aggregator_kwargs=how),
            their_rank.get_label_quality_scores(labels, probs, **kwargs, aggregator_kwargs=how),
            **close,
        )


@pytest.mark.parametrize(("seed", "named"), [(0, False), (1, True), (2, False)])
def test_summaries_are_those_of_cleanlab(seed, named):
    matrix, probs = tagged(49 + 30 * seed, 3 + seed, seed)
    labels, names = lists_of(matrix), [f"tag {k}" for k in range(3 + seed)] if named else None
    by = {"common_multilabel_issues": "In Given Label", "rank_classes_by_multilabel_quality": "Label Noise"}
    for name, column in by.items():
        want, got = (getattr(m, name)(labels, probs, class_names=names) for m in (their_dataset, dataset))
        want, got = (one.sort_values(["Class Index", column], ignore_index=True) for one in (want, got))
        pd.testing.assert_frame_equal(want, got, check_dtype=False)
    assert dataset.overall_multilabel_health_score(labels, probs) == pytest.approx(
        their_dataset.overall_multilabel_health_score(labels, probs), abs=1e-12
    )


def test_the_health_summary_has_all_and_prints_it(capsys):
    matrix, probs = tagged(seed=4)
    summary = dataset.multilabel_health_summary(matrix, probs, class_names=list("abcde"))
    printed = capsys.readouterr().out
    assert "Label Quality Score" in printed
    assert "Issue Probability" in printed
    assert summary["overall_multilabel_health_score"] == dataset.overall_multilabel_health_score(matrix, probs)
    quality = dataset.rank_classes_by_multilabel_quality(matrix, probs, class_names=list("abcde"))
    pd.testing.assert_frame_equal(summary["classes_by_multilabel_quality"], quality)
    dataset.multilabel_health_summary(matrix, probs, verbose=False, confident_joint=np.full((5, 2, 2), 9))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(their_filter, our_filter), (their_rank, rank), (their_dataset, dataset)],
    ids=["filter", "rank", "dataset"],
)
def test_signatures_are_those_of_cleanlab(theirs, ours):
    for name in ours.__all__:
        want, got = (inspect.signature(getattr(module, name)).parameters.values() for module in (theirs, ours))
        assert [(p.name, p.kind, p.default) for p in got] == [(p.name, p.kind, p.default) for p in want]


# The same bits, whatever the form ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A matrix of tags and probabilities, in memory and in files."""
    folder = tmp_path_factory.mktemp("tags")
    matrix, probs = tagged(500, 7, seed=8, dtype="f4")
    np.save(folder / "labels.npy", matrix.astype("u1"))
    np.save(folder / "probs.npy", probs)
    np.save(folder / "fortran.npy", np.asfortranarray(probs))
    for name, values, chunks in (("labels", matrix.astype("?"), (97, 7)), ("probs", probs, (71, 3))):
        zarr.create_array(folder / f"{name}.zarr", shape=values.shape, chunks=chunks, dtype=values.dtype)[:] = values
    table = pa.table({"tags": lists_of(matrix), "id": [f"e{i}" for i in range(500)]})
    table = table.append_column("probs", pa.array(list(probs), pa.list_(pa.float32(), 7)))
    parquet.write_table(table, folder / "table.parquet", row_group_size=150)
    return folder, matrix, probs, table


def forms_of_labels(stored):
    folder, matrix, _, _ = stored
    lists = lists_of(matrix)
    ragged = np.empty(len(lists), object)
    ragged[:] = lists
    return {
        "lists": lists,
        "tuples in any order": tuple(tuple(reversed(one)) for one in lists),
        "sets": [set(one) for one in lists],
        "object array": ragged,
        "series": pd.Series(lists),
        "arrow": pa.array(lists),
        "bool": matrix.astype(bool),
        "float": matrix.astype(float),
        "fortran": np.asfortranarray(matrix),
        "frame": pd.DataFrame(matrix),
        "csr": scipy.sparse.csr_matrix(matrix),
        "coo": scipy.sparse.coo_array(matrix),
        "npy": folder / "labels.npy",
        "zarr": folder / "labels.zarr",
        "dask": da.from_array(matrix, chunks=(120, 3)),
    }


LABEL_FORMS = ["lists", "tuples in any order", "sets", "object array", "series", "arrow", "bool", "float", "fortran"]
LABEL_FORMS += ["frame", "csr", "coo", "npy", "zarr", "dask"]


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_tags_in_any_form(stored, form):
    folder, matrix, probs, _ = stored
    want = facts_of(find(lists_of(matrix), probs))
    labels = forms_of_labels(stored)[form]
    assert facts_of(find(labels, probs)) == want
    assert facts_of(find(labels, folder / "probs.zarr", **CUT)) == want


@pytest.mark.parametrize("filter_by", RULES)
def test_probabilities_in_any_form_and_cut(stored, filter_by):
    folder, matrix, probs, _ = stored
    want = facts_of(find(lists_of(matrix), probs, filter_by=filter_by))
    with pieces():
        for cut in (CUT, {"batch_size": 37, "partition_batches": 1}, {"batch_size": 1000, "partition_batches": 1}):
            assert facts_of(find(matrix, folder / "probs.npy", filter_by=filter_by, **cut)) == want
    if filter_by not in (None, "both"):
        return
    forms = {
        "npy": folder / "probs.npy",
        "fortran": folder / "fortran.npy",
        "zarr": folder / "probs.zarr",
        "dask": da.from_array(probs, chunks=((100, 0, 250, 150), (4, 3))),
        "frame": pd.DataFrame(probs),
        "big-endian": probs.astype(">f4"),
    }
    for form, given_probs in forms.items():
        assert facts_of(find(folder / "labels.zarr", given_probs, filter_by=filter_by)) == want, form


@settings(max_examples=12)
@given(
    batch_size=st.integers(5, 130),
    partition_batches=st.integers(1, 5),
    filter_by=st.sampled_from(RULES),
    n_tags=st.integers(2, 9),
)
def test_the_same_bits_for_any_chunks(batch_size, partition_batches, filter_by, n_tags):
    matrix, probs = tagged(120, n_tags, seed=n_tags, dtype="f4", decimals=2)
    want = facts_of(find(matrix, probs, filter_by=filter_by))
    cut = {"batch_size": batch_size, "partition_batches": partition_batches}
    with pieces():
        assert facts_of(find(lists_of(matrix), probs, filter_by=filter_by, **cut)) == want


def test_lists_of_arrow():
    probs = np.random.default_rng(5).random((4, 3))
    want = facts_of(find([[2], [0], [1], [2]], probs))
    given = pa.array([[2], [0], [1], [2]])
    parts = pa.chunked_array([pa.array([[9], [2]]).slice(1), pa.array([[0], [1], [2]])])
    for labels in (given, parts, given.cast(pa.large_list(pa.int8())), given.cast(pa.list_(pa.uint16(), 1))):
        assert facts_of(find(labels, probs)) == want
    with pytest.raises(InvalidInputError, match="missing values"):
        find(pa.array([[2], None, [1], [2]]), probs)
    with pytest.raises(InputTypeError, match="for names give class_names too"):
        find(pa.array([["a"], ["b"], [], []]), probs)


def test_columns_of_tables(stored):
    folder, matrix, probs, table = stored
    want = find(lists_of(matrix), probs)
    for data in (folder / "table.parquet", table, [folder / "table.parquet"]):
        found = find("tags", "probs", data=data, ids="id")
        assert facts_of(found) == facts_of(want)
    assert found.to_frame(1)["id"].tolist() == [f"e{want.pairs()[0, 0]}"]
    frame = pd.DataFrame({"tags": lists_of(matrix)} | {f"p_{k}": probs[:, k] for k in range(7)})
    assert facts_of(find("tags", "p_*", data=frame)) == facts_of(want)
    named = [[f"n{tag}" for tag in tags] for tags in lists_of(matrix)]
    table = table.append_column("named", pa.array(named))
    assert facts_of(find("named", "probs", data=table, class_names=[f"n{k}" for k in range(7)])) == facts_of(want)
    with pytest.raises(InputTypeError, match=r"labels: column 'id' of .* has the type string, not lists"):
        find("id", "probs", data=table)
    with pytest.raises(InvalidInputError, match=r"no column 'tag'\. Did you mean 'tags'"):
        find("tag", "probs", data=folder / "table.parquet")


def test_logits_are_those_of_each_tag():
    matrix, probs = tagged(seed=3)
    logits = np.log(probs / (1 - probs))
    logits[3, 1], logits[4, 2] = -np.inf, np.inf
    sigmoid = [[1 / (1 + np.exp(-x)) if x >= 0 else np.exp(x) / (1 + np.exp(x)) for x in row] for row in logits]
    want, got = find(matrix, np.array(sigmoid)), find(matrix, logits, from_logits=True)
    assert got.pairs().tolist() == want.pairs().tolist()
    np.testing.assert_allclose(got.rows.scores, want.rows.scores, rtol=1e-15)
    assert facts_of(find(matrix, logits, from_logits=True, **CUT)) == facts_of(got)


# Out of core -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter_by", RULES)
def test_a_workdir_an_output_and_a_resume(stored, tmp_path, filter_by):
    folder, matrix, probs, _ = stored
    want = find(matrix, probs, filter_by=filter_by)
    places = (folder / "labels.npy", folder / "probs.npy")
    choices = {"filter_by": filter_by, "workdir": tmp_path / "work", **CUT}
    first = find(*places, output=tmp_path / "out.zarr", **choices)
    assert facts_of(first) == facts_of(want)
    assert first.rows.facts.rows_read == 3500
    again = find(*places, output=tmp_path / "out.zarr", **choices)
    assert facts_of(again) == facts_of(want)
    assert again.rows.facts.rows_read == 0
    loaded = labelsieve.load(tmp_path / "out.zarr")
    assert repr(loaded) == repr(want)
    assert loaded.example_scores().tobytes() == want.example_scores().tobytes()
    assert loaded.mask().tolist() == want.mask().tolist()


def test_a_resume_reads_the_rest(stored, tmp_path, monkeypatch):
    folder, matrix, probs, _ = stored
    want, n_done = facts_of(find(matrix, probs)), itertools.count()
    choices = {"workdir": tmp_path / "work", "retries": 0, "batch_size": 20, "partition_batches": 2}
    from labelsieve.confident_learning.summarize import TagSummarizer

    add = TagSummarizer.add

    def fail(self, *strip):
        if next(n_done) > 8:
            raise OSError("the disk is gone")
        return add(self, *strip)

    with monkeypatch.context() as patch:
        patch.setattr(TagSummarizer, "add", fail)
        with pytest.raises((OSError, labelsieve.TaskFailedError)):
            find(matrix, folder / "probs.npy", **choices)
    found = find(matrix, folder / "probs.npy", **choices)
    assert facts_of(found) == want
    assert 0 < found.rows.facts.rows_resumed < 3500


def test_a_workdir_belongs_to_its_tags(stored, tmp_path):
    folder, matrix, probs, _ = stored
    find(lists_of(matrix), folder / "probs.npy", workdir=tmp_path / "work", **CUT)
    other = matrix.copy()
    other[0, 0] = 0
    changed = find(lists_of(other), folder / "probs.npy", workdir=tmp_path / "work", **CUT)
    assert facts_of(changed) == facts_of(find(other, probs))
    with pytest.raises(WorkdirError, match="frac_noise"):
        find(matrix, folder / "probs.npy", workdir=tmp_path / "work", frac_noise=0.5, **CUT)


def test_clusters_find_the_same(stored, tmp_path):
    folder, matrix, probs, _ = stored
    want = facts_of(find(matrix, probs))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        assert facts_of(find(lists_of(matrix), folder / "probs.npy", **CUT)) == want
        assert facts_of(find(folder / "labels.zarr", folder / "probs.zarr", output=tmp_path / "o.zarr", **CUT)) == want
        scores = rank.get_label_quality_scores(folder / "labels.zarr", folder / "probs.zarr")
    assert scores.tolist() == rank.get_label_quality_scores(matrix, probs).tolist()


def test_the_plan_knows_the_reads(stored):
    folder, matrix, _, _ = stored
    reads = {None: 1, "predicted_neq_given": 1}
    for filter_by in RULES:
        plan = multilabel_classification.plan_label_issues(matrix, folder / "probs.npy", filter_by=filter_by)
        found = find(matrix, folder / "probs.npy", filter_by=filter_by)
        assert plan.n_reads == found.rows.facts.n_reads == reads.get(filter_by, 2)
        assert plan.bytes_read == plan.n_reads * 500 * 7 * 4 == found.rows.facts.bytes_read


def test_memory_is_planned_without_margins():
    labels, probs = np.zeros((1, 1), "u1"), np.zeros((1, 1), "f4")
    shape = (2_000_000, 50)
    big = [da.broadcast_to(one, shape, chunks=(20_000, 50)) for one in (labels, probs)]
    plans = [
        multilabel_classification.plan_label_issues(*big, filter_by=name, max_memory="100GB")
        for name in ("prune_by_class", "prune_by_noise_rate")
    ]
    assert plans[0].process_bytes == plans[1].process_bytes


# The result --------------------------------------------------------------------------------------------------------


def test_what_a_result_shows(tmp_path):
    matrix, probs = tagged(90, 3, seed=2)
    found = find(matrix, probs, class_names=["cat", "dog", "owl"], ids=[f"x{i}" for i in range(90)])
    frame = found.to_frame()
    assert len(frame) == len(found) == found.num_issues > 5
    assert frame["example"].tolist() == found.pairs()[:, 0].tolist()
    assert frame["tag_name"].tolist() == [["cat", "dog", "owl"][tag] for tag in found.pairs()[:, 1]]
    assert frame["id"].tolist() == [f"x{example}" for example in found.pairs()[:, 0]]
    assert frame["has_tag"].tolist() == [bool(matrix[tuple(pair)]) for pair in found.pairs()]
    assert frame["suggestion"].tolist() == ["remove" if has else "add" for has in frame["has_tag"]]
    assert frame["p_tag"].tolist() == [probs[tuple(pair)] for pair in found.pairs()]
    assert frame["score"].is_monotonic_increasing
    assert found.example_mask().tolist() == found.mask().any(axis=1).tolist()
    assert found.mask(10).tolist() == found.mask()[10].tolist()
    assert found.issues_per_group().tolist() == found.mask().sum(axis=1).tolist()
    assert found.health_score() == 1 - found.example_mask().mean()
    worst = found.worst_examples(5)
    assert found.example_scores()[worst].tolist() == sorted(found.example_scores())[:5]
    assert list(found) == list(map(tuple, found.pairs().tolist()))
    assert np.array(found)[:4].tolist() == found.pairs(4).tolist()
    assert found.tag_scores().tolist() == found.rows.scores.reshape(90, 3).tolist()
    assert found.tag_scores(10).tolist() == found.tag_scores()[10].tolist()
    with pytest.raises(InvalidInputError, match="there is no example 90: there are 90, from 0 on"):
        found.mask(90)
    summary = found.class_summary().set_index("tag").sort_index()
    assert summary["examples"].tolist() == matrix.sum(axis=0).tolist()
    assert summary["remove"].tolist() == (found.mask() & (matrix == 1)).sum(axis=0).tolist()
    assert summary["add"].tolist() == (found.mask() & (matrix == 0)).sum(axis=0).tolist()
    assert summary["name"].tolist() == ["cat", "dog", "owl"]
    assert summary["mean_score"].tolist() == pytest.approx(found.rows.scores.reshape(90, 3).mean(axis=0))
    found.save(tmp_path / "found.zarr")
    loaded = labelsieve.load(tmp_path / "found.zarr")
    assert loaded.tag_names == ("cat", "dog", "owl")
    pd.testing.assert_frame_equal(loaded.to_frame(), frame)
    found.rows.to_csv(tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text().startswith("example,tag,id,score,given_label")
    found.report(tmp_path / "found.html", top=3)
    page = (tmp_path / "found.html").read_text()
    assert "not cat" in page or "not dog" in page or "not owl" in page


def test_a_result_without_issues():
    found = find([[0], [1], []], np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.1]]))
    assert (len(found), found.example_mask().any(), found.health_score()) == (0, False, 1.0)
    assert found.pairs().shape == (0, 2)
    assert len(found.to_frame()) == 0
    assert repr(found).endswith("worst: none>")
    assert [one.tolist() for one in found.issues_by_tag()] == [[], []]
    with pytest.raises(InvalidInputError, match=r"tag 2 is not one of 0\.\.1"):
        found.issues_of_tag(2)


def test_names_as_tags():
    matrix, probs = tagged(60, 3, seed=1)
    names = ["cat", "dog", "owl"]
    labels = [[names[tag] for tag in one] for one in lists_of(matrix)]
    assert facts_of(find(labels, probs, class_names=names)) == facts_of(find(matrix, probs))


def test_names_as_tags_in_arrays_and_columns():
    pa = pytest.importorskip("pyarrow")
    matrix, probs = tagged(60, 3, seed=1)
    names, want = ["cat", "dog", "owl"], facts_of(find(matrix, probs))
    labels = [[names[tag] for tag in one] for one in lists_of(matrix)]
    for same in ([np.array(one, str) for one in labels], pa.array(labels, pa.list_(pa.string()))):
        assert facts_of(find(same, probs, class_names=names)) == want
    table = pa.table({"tags": pa.array(labels, pa.list_(pa.string())), "probs": pa.array(probs.tolist())})
    assert facts_of(find("tags", "probs", data=table, class_names=names)) == want
    with pytest.raises(InvalidInputError, match="class_names has 'cat' for several tags"):
        find(labels, probs, class_names=["cat", "cat", "owl"])


@pytest.mark.parametrize("filter_by", [None, "prune_by_noise_rate", "confident_learning", "low_self_confidence"])
def test_one_tag_is_a_problem_of_two_classes(filter_by):
    matrix, probs = tagged(90, 1, seed=2)
    want = labelsieve.find_label_issues(
        matrix[:, 0], np.concatenate([1 - probs, probs], axis=1), filter_by=filter_by, progress=False
    )
    found = find(matrix, probs, filter_by=filter_by)
    assert found.rows.indices.tolist() == want.indices.tolist() != []
    assert rank.get_label_quality_scores(matrix, probs).tobytes() == np.asarray(want.scores).tobytes()


@pytest.mark.parametrize("example", ["ab", b"ab", {0: 1}], ids=type)
def test_letters_of_a_text_are_not_tags(example):
    labels = [[], example, [], []]
    with pytest.raises(InputTypeError, match=r"example 1 is (b?'ab'|\{0: 1\})"):
        find(labels, PROBS, class_names=["a", "b", "c"])


def test_numbers_of_examples_with_few_are_said():
    with pytest.warns(LabelsieveWarning, match=r"1 group of examples, with or without a tag, has no more than 1"):
        multilabel_classification.find_label_issues(
            [[0, 1], [0], [0], [0]], np.full((4, 2), 0.5), filter_by="prune_by_class", progress=False
        )


# Bad input ---------------------------------------------------------------------------------------------------------

GOOD = [[0], [1, 2], [], [2]]
PROBS = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.9], [0.2, 0.1, 0.1], [0.3, 0.2, 0.7]])


def with_value(value, dtype="f8"):
    probs = PROBS.astype(dtype)
    probs[2, 1] = value
    return probs


def with_tag(value):
    return [*GOOD[:3], [2, value]]


MATRIX = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
BAD = {
    "flat": ([0, 1, 2, 1], PROBS, InputTypeError, "for one class for each row, use labelsieve.find_label_issues"),
    "flat array": (
        np.array([0, 1, 2, 1]),
        PROBS,
        InvalidInputError,
        r"shape \(4,\), .*use labelsieve.find_label_issues",
    ),
    "none": (None, PROBS, InputTypeError, "labels is missing"),
    "number": (3, PROBS, InputTypeError, "matrix of labels must be"),
    "missing list": (
        [[0], None, [], [2]],
        PROBS,
        InputTypeError,
        r"such as \[\[0, 2\], \[\], \[1\]\], .*; example 1 is None",
    ),
    "twice": (with_tag(2), PROBS, InvalidInputError, "example 3 has tag 2 twice"),
    "too high": (with_tag(3), PROBS, InvalidInputError, r"1 tag outside 0..2 \(first: 3 in example 3\)"),
    "negative": (with_tag(-1), PROBS, InvalidInputError, r"first: -1 in example 3"),
    "huge": (with_tag(2**70), PROBS, InvalidInputError, f"example 3 has {2**70}"),
    "float tag": (with_tag(1.0), PROBS, InputTypeError, "example 3 has float"),
    "bool tag": (with_tag(True), PROBS, InputTypeError, "example 3 has bool"),
    "text": (with_tag("cat"), PROBS, InputTypeError, "example 3 has str"),
    "names": ([["a"], ["b"], [], ["c"]], PROBS, InputTypeError, "for names give class_names too"),
    "rows as lists": (MATRIX.tolist(), PROBS, InvalidInputError, r"tag 0 twice .*given as numpy.array\(labels\)"),
    "too few lists": (GOOD[:3], PROBS, InvalidInputError, "3 lists of tags, 4 rows of pred_probs"),
    "two": (MATRIX * 2, PROBS, InvalidInputError, "tag 0 of example 0 is 2"),
    "half": (MATRIX / 2, PROBS, InvalidInputError, "tag 0 of example 0 is 0.5"),
    "nan label": (np.where(MATRIX, np.nan, 0), PROBS, InvalidInputError, "tag 0 of example 0 is nan"),
    "sparse two": (scipy.sparse.csr_matrix(MATRIX * 2), PROBS, InvalidInputError, "tag 0 of example 0 is 2"),
    "sparse shape": (
        scipy.sparse.csr_matrix(MATRIX[:3]),
        PROBS,
        InvalidInputError,
        r"shape \(3, 3\), pred_probs \(4, 3\)",
    ),
    "transposed": (MATRIX.T, PROBS, InvalidInputError, "Give labels.T"),
    "matrix of text": (MATRIX.astype(str), PROBS, InvalidInputError, "0 and 1 only, not <U"),
    "above": (GOOD, with_value(1.5), InvalidInputError, r"1 probability above 1 in example 2, tag 1 \(first: 1.5"),
    "below": (GOOD, with_value(-0.5), InvalidInputError, r"1 probability below 0 in example 2, tag 1 \(first: -0.5"),
    "nan": (GOOD, with_value(np.nan), InvalidInputError, r"1 NaN probability in example 2, tag 1$"),
    "infinite": (GOOD, with_value(np.inf, "f4"), InvalidInputError, r"1 infinite probability in example 2, tag 1$"),
    "one axis": (GOOD, PROBS[:, 0], InvalidInputError, "two axes"),
    "whole numbers": (GOOD, MATRIX, InvalidInputError, "must be float16, float32 or float64"),
    "no examples": ([], np.empty((0, 3)), InvalidInputError, "no examples"),
    "logits": (GOOD, PROBS * 9 - 4, InvalidInputError, "probabilities below 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_that_says_where(case, tmp_path):
    labels, probs, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        find(labels, probs, output=tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    with pytest.raises(kind, match=text):
        rank.get_label_quality_scores(labels, probs)


def test_all_bad_values_are_counted_whatever_the_chunks():
    probs = np.random.default_rng(0).random((300, 7)).astype("f4")
    probs[100, 3], probs[250, 6] = 2.0, 3.0
    labels = np.zeros((300, 7), int)
    for cut in ({}, CUT, {"batch_size": 11, "partition_batches": 1}):
        with pytest.raises(InvalidInputError, match=r"above 1 in example 100, tag 3; example 250, tag 6 \(first: 2;"):
            find(labels, probs, **cut)


def test_values_within_the_tolerance_are_used_as_they_are():
    matrix, probs = tagged(200, 3, seed=1)
    probs[5, 1], probs[6, 2], probs[7, 0] = 1.0005, -0.0005, -0.0
    found = find(matrix, probs)
    for tag in range(3):
        both = np.stack([1 - probs[:, tag], probs[:, tag]], axis=1)
        alone = labelsieve.find_label_issues(matrix[:, tag], both, filter_by="prune_by_noise_rate", progress=False)
        assert found.issues_of_tag(tag).tolist() == alone.indices.tolist()
        assert found.confident_thresholds[tag].tolist() == alone.confident_thresholds.tolist()


@pytest.mark.parametrize(
    ("choices", "kind", "text"),
    [
        ({"adjust_pred_probs": True}, InputTypeError, r"rank\.get_label_quality_scores"),
        ({"ignore_label": -1}, InputTypeError, "leave out examples"),
        ({"allow_unnormalized_rows": True}, InputTypeError, "need not add up to 1 anyway"),
        ({"n_classes": 3}, InputTypeError, "a column for each tag"),
        ({"filterby": "both"}, InputTypeError, "did you mean 'filter_by'"),
        ({"return_indices_ranked_by": "self_confidence"}, InputTypeError, "already ranked"),
        ({"filter_by": "all"}, InvalidInputError, "filter_by must be one of"),
        ({"num_to_remove_per_class": [1, 2]}, InvalidInputError, "2 numbers, pred_probs 3 tags"),
        ({"class_names": ["a", "b"]}, InvalidInputError, "2 class_names, pred_probs has 3 tags"),
        ({"ids": ["a"]}, InvalidInputError, r"ids have shape \(1,\), there are 4 examples"),
        ({"confident_joint": np.ones((3, 3))}, InvalidInputError, r"shape \(3, 2, 2\)"),
        ({"confident_joint": -np.ones((3, 2, 2), int)}, InvalidInputError, "counts below 0"),
        (
            {"confident_joint": np.ones((3, 2, 2), int), "filter_by": None},
            InvalidInputError,
            "does not use confident_joint",
        ),
    ],
)
def test_bad_choices(choices, kind, text):
    with pytest.raises(kind, match=text):
        find(GOOD, PROBS, **choices)


@pytest.mark.filterwarnings("ignore:.* have no more than:labelsieve.LabelsieveWarning")
def test_bad_choices_of_cleanlabs_functions():
    with pytest.raises(InvalidInputError, match=r"rank_by_kwargs takes adjust_pred_probs only, not alpha"):
        our_filter.find_label_issues(GOOD, PROBS, "self_confidence", {"alpha": 1})
    with pytest.raises(InvalidInputError, match="does not use num_to_remove_per_class"):
        our_filter.find_label_issues(GOOD, PROBS, filter_by="confident_learning", num_to_remove_per_class=[1, 1, 1])
    with pytest.raises(InvalidInputError, match=r"shape \(K, 2, 2\)"):
        our_filter.find_label_issues(GOOD, PROBS, confident_joint=np.ones((3, 2, 3)))
    with pytest.warns(LabelsieveWarning, match="confident_joint of the shape"):
        our_filter.find_label_issues(GOOD, PROBS, confident_joint=np.ones((3, 3), int), filter_by="both")
    with pytest.warns(LabelsieveWarning, match="confident_joint is ignored"):
        our_filter.find_label_issues(
            GOOD, PROBS, confident_joint=np.ones((3, 2, 2), int), filter_by="confident_learning"
        )
    with pytest.warns(LabelsieveWarning, match="filter_by and frac_noise have no effect with low_memory=True"):
        our_filter.find_label_issues(GOOD, PROBS, filter_by="both", frac_noise=0.5, low_memory=True)
    for how, kind, text in (
        ({"method": "mean"}, InvalidInputError, "must be one of exponential_moving_average, softmin"),
        ({"method": 3}, InputTypeError, "a name or callable"),
        ({"method": "exponential_moving_average", "alpha": 2}, InvalidInputError, "from 0 to 1"),
        ({"method": "softmin", "temperature": 0}, InvalidInputError, "above 0"),
        ({"method": lambda scores, axis: scores}, InvalidInputError, "returned the shape"),
        ("softmin", InputTypeError, "must be a dict"),
    ):
        with pytest.raises(kind, match=text):
            rank.get_label_quality_scores(GOOD, PROBS, aggregator_kwargs=how)
    with pytest.raises(InvalidInputError, match="method must be one of"):
        rank.get_label_quality_scores(GOOD, PROBS, method="entropy")
    with pytest.raises(InvalidInputError, match="adjust_pred_probs is not defined"):
        rank.get_label_quality_scores(GOOD, PROBS, method=SCORES[2], adjust_pred_probs=True)
    with pytest.raises(InvalidInputError, match="labels is missing"):
        dataset.common_multilabel_issues(pred_probs=PROBS)


def test_columns_in_another_order_are_an_error():
    matrix = pd.DataFrame(MATRIX, columns=["cat", "dog", "owl"])
    probs = pd.DataFrame(PROBS, columns=["dog", "cat", "owl"])
    with pytest.raises(InvalidInputError, match="of labels are not in the order of the columns of pred_probs"):
        find(matrix, probs)
    with pytest.raises(
        InvalidInputError,
        match=r"columns of labels are not in the order of class_names \(column 0 is 'cat', which is class 2\)",
    ):
        find(matrix, PROBS, class_names=["owl", "dog", "cat"])
    with pytest.raises(InvalidInputError, match="columns of pred_probs are not in the order of class_names"):
        find(MATRIX, probs, class_names=["cat", "dog", "owl"])
    with pytest.raises(InvalidInputError, match="the same index in different orders"):
        find(pd.Series(GOOD, index=list("abcd")), pd.DataFrame(PROBS, index=list("abdc")))


@pytest.mark.parametrize("seed", range(3))
def test_inputs_that_do_not_belong_together_are_warned_of(seed):
    matrix, probs = tagged(600, 5, seed)
    wrong = {
        "shuffled": (matrix[np.random.default_rng(seed).permutation(600)], probs),
        "shifted": (matrix[1:], probs[:-1]),
        "unlearned": (matrix, np.random.default_rng(seed).random(probs.shape)),
        "inverted": (matrix, 1 - probs),
    }
    for labels, given_probs in wrong.values():
        with pytest.warns(LabelsieveWarning, match=r"do not seem to belong together: .* for examples that have it"):
            multilabel_classification.find_label_issues(labels, given_probs, progress=False)
    multilabel_classification.find_label_issues(matrix, probs, progress=False)  # warnings are errors here
    weak = np.clip(0.3 + 0.1 * matrix + np.random.default_rng(seed).normal(0, 0.1, matrix.shape), 0, 1)
    multilabel_classification.find_label_issues(matrix, weak, progress=False)


def test_chunks_that_are_not_stored_are_an_error(tmp_path):
    probs = zarr.create_array(tmp_path / "probs.zarr", shape=(60, 4), chunks=(20, 4), dtype="f4", fill_value=0)
    probs[:20] = 0.5
    with pytest.raises(InvalidInputError, match=r"nothing is stored of 40 rows \(20..59\)"):
        find(np.zeros((60, 4), "u1"), tmp_path / "probs.zarr")
    found = find(np.zeros((60, 4), "u1"), tmp_path / "probs.zarr", allow_zero_rows=True)
    assert found.class_counts.tolist() == [[60, 0]] * 4


def test_ensembles_and_folds():
    matrix, first = tagged(200, 3, seed=4)
    members = [first, np.sqrt(first), first**2]
    want = facts_of(find(matrix, (members[0] + members[1] + members[2]) / 3))
    assert facts_of(find(matrix, labelsieve.Ensemble(members))) == want
    folds = labelsieve.Folds([(first[start::2], np.arange(start, 200, 2)) for start in (0, 1)])
    assert facts_of(find(matrix, folds, **CUT)) == facts_of(find(matrix, first))
    logits = [np.log(one / (1 - one)) for one in members]
    mean = sum(1 / (1 + np.exp(-one)) for one in logits) / 3
    found = find(matrix, labelsieve.Ensemble(logits), from_logits=True)
    np.testing.assert_allclose(found.rows.scores, find(matrix, mean).rows.scores, rtol=1e-14)
    members[1][7, 2] = 1.5
    with pytest.raises(
        InvalidInputError, match=r"tag 2 of example 7 of member 1 of the ensemble .* is 1.5, not a prob"
    ):
        find(matrix, labelsieve.Ensemble(members))
    with pytest.raises(InvalidInputError, match="give the weights as numbers"):
        find(matrix, labelsieve.Ensemble(members, "accuracy"))


def test_outputs_do_not_replace_inputs(stored, tmp_path):
    folder, matrix, _, _ = stored
    with pytest.raises(InvalidInputError, match="is an input"):
        find(matrix, folder / "probs.zarr", output=folder / "probs.zarr")


def test_a_file_that_changes_is_an_error(tmp_path, monkeypatch):
    matrix, probs = tagged(200, 4)
    np.save(tmp_path / "probs.npy", probs)
    from labelsieve.confident_learning.summarize import TagSummarizer

    totals = TagSummarizer.totals

    def rewrite(self):
        np.save(tmp_path / "probs.npy", probs[::-1])
        return totals(self)

    monkeypatch.setattr(TagSummarizer, "totals", rewrite)
    with pytest.raises(UnreadableDataError, match=r"probs\.npy"):
        find(matrix, tmp_path / "probs.npy", retries=0)
