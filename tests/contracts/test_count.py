"""The counts of confident learning: cleanlab's numbers on the same data, sparse and dense; what cannot be counted."""

import re
import sys
import tracemalloc

import cleanlab.count
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import zarr
from distributed import Client, LocalCluster
from hypothesis import given

import draws
import naive
import naive_joint
from draws import SHAPES, datasets, draw, in_turn, odd, pieces
from labelsieve import (
    InputTypeError,
    InvalidInputError,
    LabelInspector,
    MissingDependencyError,
    count,
    find_label_issues_batched,
)
from labelsieve.confident_learning import joint as calibration
from labelsieve.confident_learning.matrices import PY_METHODS
from labelsieve.errors import install_line
from labelsieve.job import scan as rescan

LABELS, PROBS = draw(600, 5, seed=51, noise=0.3, signal=1.5)
CUT = {"batch_size": 20, "partition_batches": 2, "progress": False}


@pytest.fixture(params=["digits", "wine", "breast_cancer", *SHAPES])
def dataset(request, real_datasets):
    return odd(request.param) if request.param in SHAPES else real_datasets[request.param]


def wide(labels, probs):
    return np.asarray(labels), np.asarray(probs, np.float64)


# Against cleanlab --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrate", [True, False])
def test_the_confident_joint_is_that_of_cleanlab(dataset, calibrate):
    want = cleanlab.count.compute_confident_joint(*wide(*dataset), calibrate=calibrate)
    got = count.compute_confident_joint(*dataset, calibrate=calibrate, dense=True, **CUT)
    assert got.dtype == np.int64
    assert want.tolist() == got.tolist()
    sparse = count.compute_confident_joint(*dataset, calibrate=calibrate, progress=False)
    assert isinstance(sparse, scipy.sparse.csr_array)
    assert sparse.has_canonical_format
    assert sparse.nnz == np.count_nonzero(want)
    assert want.tolist() == sparse.toarray().tolist()


@pytest.mark.parametrize("method", naive.COUNTS)
def test_the_number_of_issues_is_that_of_cleanlab(dataset, method):
    want = cleanlab.count.num_label_issues(*wide(*dataset), estimation_method=method)
    assert want == count.num_label_issues(*dataset, estimation_method=method, **CUT)


@pytest.mark.every_value
@pytest.mark.parametrize("kind", ["dense", "csr", "coo", "float", "lists"])
def test_the_number_of_issues_in_a_given_joint_is_that_of_cleanlab(dataset, kind):
    labels, probs = wide(*dataset)
    given_joint = cleanlab.count.compute_confident_joint(labels, probs, calibrate=False)
    forms = {
        "dense": given_joint,
        "csr": scipy.sparse.csr_array(given_joint),
        "coo": scipy.sparse.coo_matrix(given_joint),
        "float": given_joint.astype(np.float32),
        "lists": given_joint.tolist(),
    }
    how = {"estimation_method": "off_diagonal_custom"}
    want = cleanlab.count.num_label_issues(labels, probs, confident_joint=given_joint, **how)
    assert want == count.num_label_issues(labels, probs, confident_joint=forms[kind], **how)


@pytest.mark.parametrize("seed", range(5))
def test_a_given_joint_may_have_fractions_as_in_cleanlab(seed):
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 8))
    labels = rng.integers(0, n_classes, 200)
    joint = rng.random((n_classes, n_classes)) * rng.integers(0, 2, (n_classes, n_classes)) + np.eye(n_classes) / 8
    want = cleanlab.count.estimate_joint(labels, None, confident_joint=joint)
    assert want.tolist() == count.estimate_joint(labels, confident_joint=joint, dense=True).tolist()
    for one, other in zip(
        cleanlab.count.estimate_latent(joint, labels), count.estimate_latent(joint, labels, dense=True), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_the_joint_distribution_is_that_of_cleanlab(dataset):
    labels, probs = wide(*dataset)
    want = cleanlab.count.estimate_joint(labels, probs)
    assert want.tobytes() == count.estimate_joint(*dataset, dense=True, **CUT).tobytes()
    assert want.tobytes() == count.estimate_joint(*dataset, **CUT).toarray().tobytes()
    counts = cleanlab.count.compute_confident_joint(labels, probs, calibrate=False)
    assert want.tobytes() == count.estimate_joint(labels, confident_joint=counts, dense=True).tobytes()
    calibrated = cleanlab.count.compute_confident_joint(labels, probs)
    got = count.estimate_joint(None, confident_joint=calibrated, dense=True)
    assert cleanlab.count.estimate_joint(None, None, confident_joint=calibrated).tobytes() == got.tobytes()


@pytest.mark.every_value
@pytest.mark.parametrize("py_method", PY_METHODS)
@pytest.mark.parametrize("converge", [False, True])
def test_the_latent_matrices_are_those_of_cleanlab(dataset, py_method, converge):
    labels, probs = wide(*dataset)
    counts = cleanlab.count.compute_confident_joint(labels, probs, calibrate=False)
    how = {"py_method": py_method, "converge_latent_estimates": converge}
    want = cleanlab.count.estimate_latent(counts, labels, **how)
    dense = count.estimate_latent(counts, labels, dense=True, **how)
    sparse = count.estimate_latent(scipy.sparse.csr_array(counts), labels, **how)
    for theirs, ours, ours_sparse in zip(want, dense, sparse, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)
        assert ours.tobytes() == (ours_sparse if ours.ndim == 1 else ours_sparse.toarray()).tobytes()


# Against loops -----------------------------------------------------------------------------------------------------


@given(data=datasets())
def test_the_joint_is_what_loops_count(data):
    labels, probs = naive.plain(*data)
    cuts = naive.thresholds(labels, probs)
    counts = naive_joint.joint(labels, probs, cuts)
    sizes = naive.class_counts(labels, len(cuts))
    with pieces():
        assert counts == count.compute_confident_joint(*data, calibrate=False, dense=True, **CUT).tolist()
        assert len(naive_joint.off_rows(labels, probs, cuts)) == count.num_label_issues(*data, **CUT)
        got = count.compute_confident_joint(*data, dense=True, **CUT)
    assert naive_joint.calibrated(counts, sizes) == got.tolist()
    assert got.sum(axis=1).tolist() == sizes


@pytest.mark.parametrize("seed", range(5))
def test_of_very_many_classes_remainders_are_given_out_in_the_order_of_the_classes(monkeypatch, seed):
    # Beyond 1,024 classes there is no matrix, and no sort of all K.
    monkeypatch.setattr(calibration, "_MATRIX_CLASSES", 0)
    labels, probs = draw(900, 60, seed=seed, noise=0.3, signal=3.0)
    counts = count.compute_confident_joint(labels, probs, calibrate=False, dense=True, progress=False)
    sizes = np.bincount(labels, minlength=60)
    got = count.compute_confident_joint(labels, probs, dense=True, progress=False)
    for row, size, whole in zip(counts, sizes, got, strict=True):
        scaled = row / row.sum() * size / 900.0 * 900
        want = np.rint(scaled)
        missing = int(size - want.sum())
        order = sorted(range(60), key=lambda k, v=scaled, w=want: (v[k] - w[k], k))
        for k in order[-missing:] if missing > 0 else order[: -missing or 0]:
            want[k] += np.sign(missing)
        assert want.tolist() == whole.tolist()


# Inputs, and what must not matter ------------------------------------------------------------------------------------


def test_labels_and_probabilities_of_all_kinds_are_counted(tmp_path):
    want = count.compute_confident_joint(LABELS, PROBS, dense=True, progress=False).tolist()
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    stored = zarr.create_array(tmp_path / "labels.zarr", shape=LABELS.shape, chunks=(77,), dtype=LABELS.dtype)
    stored[:] = LABELS
    kinds = {
        "list": (LABELS.tolist(), PROBS.tolist()),
        "files": (tmp_path / "labels.npy", tmp_path / "probs.npy"),
        "zarr": (stored, PROBS),
        "dask": (da.from_array(LABELS, chunks=50), da.from_array(PROBS, chunks=(70, 2))),
    }
    counts = count.compute_confident_joint(LABELS, PROBS, calibrate=False, dense=True, progress=False)
    for name, (labels, probs) in kinds.items():
        assert want == count.compute_confident_joint(labels, probs, dense=True, progress=False).tolist(), name
        # Here only labels are read.
        assert want == (600 * count.estimate_joint(labels, confident_joint=counts, dense=True)).round().tolist(), name


def test_a_count_goes_on_in_a_workdir(tmp_path, monkeypatch):
    want = count.num_label_issues(LABELS, PROBS, progress=False)
    inner, done = rescan.rescan, []

    def killing(partition, *args, **kwargs):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(partition.index)
        return inner(partition, *args, **kwargs)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(rescan, "rescan", killing)
        with pytest.raises(KeyboardInterrupt):
            count.num_label_issues(LABELS, PROBS, workdir=tmp_path / "work", **CUT)
    assert len(list((tmp_path / "work" / "rescan").iterdir())) == 7
    assert want == count.num_label_issues(LABELS, PROBS, workdir=tmp_path / "work", **CUT)
    assert len(list((tmp_path / "work" / "rescan").iterdir())) == 15


def test_a_cluster_and_processes_count_the_same(tmp_path):
    want = count.compute_confident_joint(LABELS, PROBS, dense=True, progress=False).tolist()
    with dask.config.set(scheduler="processes", num_workers=2):
        assert want == count.compute_confident_joint(LABELS, PROBS, dense=True, **CUT).tolist()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert want == count.compute_confident_joint(LABELS, PROBS, dense=True, client=client, **CUT).tolist()


def test_nothing_dense_is_made_unless_asked():
    k = 3000  # a matrix of 72 MB
    labels, probs = draw(300, k, seed=2, signal=8.0, dtype=np.float32)
    count.compute_confident_joint(labels[:9], probs[:9], progress=False)  # what is imported is no part of it
    tracemalloc.start()
    try:
        joint = count.compute_confident_joint(labels, probs, progress=False)
        count.estimate_latent(joint, labels, converge_latent_estimates=True)
        assert tracemalloc.get_traced_memory()[1] < 4 * k * k / 2
        tracemalloc.reset_peak()
        assert joint.toarray().nbytes == 8 * k * k < tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert joint.nnz < 2 * k


@pytest.mark.parametrize("function", [count.num_label_issues, count.compute_confident_joint, count.estimate_joint])
def test_classes_without_rows_are_no_work(function):
    with dask.config.set(scheduler="synchronous"):  # calls are counted in this thread
        function(*draws.few_of_many(40), progress=False)  # imports
        few, many = (draws.n_calls(lambda k=k: function(*draws.few_of_many(k), progress=False)) for k in (40, 10_000))
    assert abs(many - few) < 1000  # a loop over all classes would be 10,000 calls and more


# LabelInspector ------------------------------------------------------------------------------------------------------


def inspected(labels, probs, n_batches, n_jobs=1, **counting):
    lab = LabelInspector(num_class=probs.shape[1], verbose=False, num_issue_kwargs=counting, n_jobs=n_jobs)
    batches = list(zip(np.array_split(labels, n_batches), np.array_split(probs, n_batches), strict=True))
    for batch in batches:
        lab.update_confident_thresholds(*batch)
    for batch in batches:
        lab.score_label_quality(*batch)
    return lab


@pytest.mark.every_value
@pytest.mark.parametrize(("cut", "method"), in_turn([(1, 1), (7, 1), (2, 2)], naive.COUNTS))
def test_label_inspector_counts_by_the_confident_joint_where_asked(dataset, method, cut):
    labels, probs = dataset
    lab = inspected(labels, probs, *cut, estimation_method=method, rule="confident_joint")
    want = count.num_label_issues(labels, probs, estimation_method=method, progress=False)
    assert want == lab.get_num_issues()
    assert len(lab.get_label_issues()) == want
    scores = lab.get_quality_scores()
    assert sorted(range(len(labels)), key=lambda i: (scores[i], i))[:want] == lab.get_label_issues().tolist()


def test_the_documented_function_counts_by_either_rule():
    labels, probs = odd("many classes")
    how = {"labels": labels, "pred_probs": probs, "verbose": False}
    exact = find_label_issues_batched(**how, num_issue_kwargs={"rule": "confident_joint"})
    ranked = inspected(labels, probs, 3, rule="confident_joint").get_label_issues()
    assert naive.without_near(ranked, labels, probs.tolist()) == exact.tolist()
    batched = find_label_issues_batched(**how, num_issue_kwargs={"rule": "predicted_class"})
    assert find_label_issues_batched(**how).tolist() == batched.tolist()
    assert len(exact) > len(batched)


def test_only_batches_that_were_counted_count():
    lab = LabelInspector(num_class=5, verbose=False, num_issue_kwargs={"rule": "confident_joint"})
    lab.update_confident_thresholds(LABELS, PROBS)
    lab.score_label_quality(LABELS[:100], PROBS[:100])
    lab.score_label_quality(LABELS[100:], PROBS[100:], update_num_issues=False)
    with pytest.raises(InvalidInputError, match="600 rows were scored, 100 of them counted"):
        lab.get_num_issues()


# What cannot be counted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_joint", "error", "says"),
    [
        (np.ones((3, 4)), InvalidInputError, r"must be square, not of shape \(3, 4\)"),
        (np.ones(3), InputTypeError, r"must be a \(K, K\) matrix of numbers, not ndarray"),
        ("joint", InputTypeError, r"must be a \(K, K\) matrix of numbers, not str"),
        ([[1, -1], [0, 1]], InvalidInputError, "it has negative, larger ones or NaN"),
        ([[1, np.nan], [0, 1]], InvalidInputError, "it has negative, larger ones or NaN"),
        (
            scipy.sparse.csr_array(np.array([[1.0, np.inf], [0, 1]])),
            InvalidInputError,
            "it has negative, larger ones or NaN",
        ),
        (np.full((2, 2), 2**63, np.uint64), InvalidInputError, r"from 0 to 2\*\*53"),
        (np.zeros((0, 0)), InvalidInputError, "must be square"),
        (np.zeros((2, 2)), InvalidInputError, "confident_joint has no counts"),
        ([[1, 2], [1]], InputTypeError, r"must be a \(K, K\) matrix of numbers: .* inhomogeneous"),
        (np.eye(2) * 1j, InputTypeError, "not ndarray of complex128"),
        (scipy.sparse.csr_array(np.eye(2) * 1j), InputTypeError, "not csr_array of complex128"),
        (np.eye(2, dtype=bool), InputTypeError, "not ndarray of bool"),
        (scipy.sparse.csr_array(np.eye(2, dtype=bool)), InputTypeError, "not csr_array of bool"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_joint_that_is_none_is_refused(given_joint, error, says):
    for function in (
        lambda: count.estimate_latent(given_joint, [0, 1]),
        lambda: count.estimate_joint([0, 1], confident_joint=given_joint),
        lambda: count.num_label_issues(
            [0, 1], np.eye(2), confident_joint=given_joint, estimation_method="off_diagonal_custom"
        ),
    ):
        with pytest.raises(error, match=says):
            function()


def test_choices_that_do_not_fit_are_refused():
    both = {"confident_joint": np.eye(5), "estimation_method": "off_diagonal"}
    with pytest.raises(InvalidInputError, match="is used by estimation_method='off_diagonal_custom' only"):
        count.num_label_issues(LABELS, PROBS, **both)
    with pytest.raises(InvalidInputError, match="needs a confident_joint"):
        count.num_label_issues(LABELS, PROBS, estimation_method="off_diagonal_custom")
    with pytest.raises(InvalidInputError, match="confident_joint has 4 classes, pred_probs 5"):
        count.num_label_issues(LABELS, PROBS, estimation_method="off_diagonal_custom", confident_joint=np.eye(4))
    with pytest.raises(InvalidInputError, match="estimation_method must be one of off_diagonal, "):
        count.num_label_issues(LABELS, PROBS, estimation_method="diagonal")
    with pytest.raises(InvalidInputError, match="give pred_probs and labels, or a confident_joint"):
        count.estimate_joint(LABELS)
    with pytest.raises(InvalidInputError, match="py_method must be one of cnt, eqn"):
        count.estimate_latent(np.eye(5), LABELS, py_method="count")
    with pytest.raises(InvalidInputError, match="needs a noise matrix that has an inverse"):
        count.estimate_latent(np.ones((5, 5)), LABELS, py_method="eqn")
    with pytest.raises(InvalidInputError, match=r"2 labels outside 0..2 in rows 1, 4 \(first: -1\)"):
        count.estimate_latent(np.eye(3), [0, -1, 2, 2, 4])
    with pytest.raises(InvalidInputError, match="labels has no rows"):
        count.estimate_latent(np.eye(3), np.empty(0, int))
    for function in (
        lambda: count.compute_confident_joint(LABELS, PROBS, batchsize=3),
        lambda: count.num_label_issues(LABELS, PROBS, batchsize=3),
        lambda: count.num_label_issues(
            LABELS, PROBS, confident_joint=np.eye(5), estimation_method="off_diagonal_custom", batchsize=3
        ),
        lambda: count.estimate_joint(LABELS, confident_joint=np.eye(5), batchsize=3),
    ):
        with pytest.raises(TypeError, match=r"\(\) has no argument 'batchsize': did you mean 'batch_size'\?"):
            function()
    with pytest.raises(InvalidInputError, match="dense must be True or False, not 1"):
        count.compute_confident_joint(LABELS, PROBS, dense=1)


def test_without_scipy_the_pip_line_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    monkeypatch.setattr(count, "_count_joint", lambda *_args, **_options: pytest.fail("it reads"))
    for function in (
        lambda: count.compute_confident_joint(LABELS, PROBS),
        lambda: count.estimate_joint(LABELS, PROBS),
        lambda: count.estimate_latent(np.eye(5), LABELS),
    ):
        with pytest.raises(MissingDependencyError, match=re.escape(install_line("sparse"))):
            function()
    py, noise, _ = count.estimate_latent(np.eye(5), draws.draw(50, 5)[0], dense=True)
    assert noise.tolist() == np.eye(5).tolist()
    assert py.sum() == pytest.approx(1)


def test_logits_and_raw_bfloat16_are_counted_as_their_probabilities():
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2, size=(300, 4))
    labels = np.where(rng.random(300) < 0.8, logits.argmax(axis=1), rng.integers(0, 4, 300))
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exps / exps.sum(axis=1, keepdims=True)
    wanted = count.compute_confident_joint(labels, probs, dense=True, **CUT)
    found = count.compute_confident_joint(labels, logits, from_logits=True, dense=True, **CUT)
    np.testing.assert_array_equal(found, wanted)
    bits = probs.astype(np.float32).view(np.uint32) >> 16
    raw, narrow = bits.astype(np.uint16), (bits << 16).view(np.float32)
    options = CUT | {"dtype": "bfloat16"}
    np.testing.assert_array_equal(
        count.compute_confident_joint(labels, raw, dense=True, **options),
        count.compute_confident_joint(labels, narrow, dense=True, **CUT),
    )
    custom = {"estimation_method": "off_diagonal_custom", "confident_joint": wanted}
    assert count.num_label_issues(labels, raw, **custom, **options) == count.num_label_issues(labels, probs, **custom)
