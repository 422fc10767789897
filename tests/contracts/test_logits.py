"""`from_logits=True` gives the answer of the float64 probabilities, to the bit, whatever the logits are kept in."""

import json

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client

import labelsieve
from draws import assert_same_bits, find, pieces
from labelsieve.cli.app import run
from labelsieve.confident_learning.derived import softmax
from labelsieve.errors import InvalidInputError, LabelsieveWarning, WorkdirError
from labelsieve.options import FILTER_NAMES, METHODS

N_ROWS, N_CLASSES = 600, 6


def draw_logits(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, N_CLASSES, N_ROWS)
    logits = 2 * rng.standard_normal((N_ROWS, N_CLASSES))
    logits[np.arange(N_ROWS), true] += 4
    logits[::11, 0] = -np.inf
    labels = np.where(rng.random(N_ROWS) < 0.2, rng.integers(0, N_CLASSES, N_ROWS), true)
    return labels, logits.astype(dtype)


LABELS, LOGITS = draw_logits()
PROBS = softmax(LOGITS)


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


def found(logits, **settings):
    return find(LABELS, logits, from_logits=True, **settings)


@pytest.mark.parametrize("filter_by", [None, *FILTER_NAMES])
def test_every_filter(filter_by):
    assert_same_bits(found(LOGITS, filter_by=filter_by), find(LABELS, PROBS, filter_by=filter_by))


@pytest.mark.parametrize(
    ("method", "adjust"), [(method, False) for method in METHODS] + [(method, True) for method in METHODS[:2]]
)
def test_every_score(method, adjust):
    settings = {"method": method, "adjust_pred_probs": adjust}
    assert_same_bits(found(LOGITS, **settings), find(LABELS, PROBS, **settings))


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_dtype_and_layout(dtype, order):
    labels, logits = draw_logits(dtype)
    want = find(labels, softmax(logits))
    assert_same_bits(find(labels, np.asarray(logits, order=order), from_logits=True), want)


@pytest.mark.every_value
@pytest.mark.parametrize("strip_bytes", [50, 1000])
@pytest.mark.parametrize("sizes", [(1, "auto"), (7, 3), (100, 1)])
def test_bits_do_not_depend_on_batches_and_strips(want, monkeypatch, sizes, strip_bytes):
    monkeypatch.setattr("labelsieve.job.scan.STRIP_BYTES", strip_bytes)
    batch_size, partition_batches = sizes
    assert_same_bits(found(LOGITS, batch_size=batch_size, partition_batches=partition_batches), want)


def test_a_naive_softmax_finds_the_same_rows(want):
    powers = np.exp(LOGITS.astype(np.float64))
    naive = find(LABELS, powers / powers.sum(axis=1, keepdims=True))
    assert naive.indices.tolist() == want.indices.tolist()
    np.testing.assert_allclose(naive.scores, want.scores, rtol=1e-12)


@pytest.fixture(params=["npy", "fortran", "zarr", "split zarr", "sharded zarr", "files", "zarr files"])
def place(request, tmp_path):
    """The place of stored logits."""
    if request.param == "npy":
        np.save(tmp_path / "x.npy", LOGITS)
        return tmp_path / "x.npy"
    if request.param == "fortran":
        np.save(tmp_path / "x.npy", np.asfortranarray(LOGITS))
        return tmp_path / "x.npy"
    if request.param in ("files", "zarr files"):
        for number, part in enumerate(np.split(LOGITS, [100, 107, 400])):
            if request.param == "files":
                np.save(tmp_path / f"x-{number}.npy", part)
            else:
                zarr.save_array(str(tmp_path / f"x-{number}.zarr"), part)
        return tmp_path
    chunks = {"zarr": (70, 6), "split zarr": (70, 4), "sharded zarr": (50, 6)}[request.param]
    shards = (200, 6) if request.param == "sharded zarr" else None
    array = zarr.create_array(
        str(tmp_path / "x.zarr"), shape=LOGITS.shape, chunks=chunks, shards=shards, dtype=np.float32
    )
    array[:] = LOGITS
    return tmp_path / "x.zarr"


@pytest.mark.every_value
@pytest.mark.parametrize("settings", [{}, {"filter_by": "both"}, {"batch_size": 30, "partition_batches": 2}])
def test_stored_logits(want, place, settings):
    expected = find(LABELS, PROBS, **settings)
    assert_same_bits(found(place, **settings), expected)


@pytest.mark.parametrize("chunks", [(600, 6), (70, 6), (100, 4)])
def test_dask_arrays(want, chunks):
    lazy = da.from_array(LOGITS, chunks=chunks)
    assert_same_bits(found(lazy), want)
    assert_same_bits(found(lazy, filter_by="both"), find(LABELS, PROBS, filter_by="both"))


def test_forked_processes(want, tmp_path):
    np.save(tmp_path / "x.npy", LOGITS)
    for logits in (LOGITS, tmp_path / "x.npy"):
        got = found(logits, n_jobs=2, batch_size=50, partition_batches=1)
        assert_same_bits(got, want)
        assert got.facts.scheduler == "2 forked processes"


def test_cluster(want, tmp_path):
    np.save(tmp_path / "x.npy", LOGITS)
    settings = {"batch_size": 50, "partition_batches": 2}
    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as client:
        for logits in (LOGITS, tmp_path / "x.npy", da.from_array(LOGITS, chunks=(100, 6))):
            assert_same_bits(found(logits, client=client, **settings), want)


def test_other_schedulers_and_output(want, tmp_path):
    with dask.config.set(scheduler="synchronous"):
        assert_same_bits(found(LOGITS, batch_size=50, partition_batches=1), want)
    got = found(LOGITS, batch_size=50, output=tmp_path / "issues.zarr")
    assert got.indices.tolist() == want.indices.tolist()
    assert np.asarray(got.scores).tobytes() == want.scores.tobytes()


@pytest.mark.every_value
@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_workdir_of_logits_is_refused_for_probabilities(tmp_path, is_folder, dtype):
    """Also where both have the same dtype, place and version: the numbers in it may be taken for either."""
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "x.npy", PROBS.astype(dtype))
    place = tmp_path / "x" if is_folder else tmp_path / "x" / "x.npy"
    settings = {"workdir": tmp_path / "work", "batch_size": 50, "partition_batches": 2}
    with pytest.warns(LabelsieveWarning, match="look like probabilities"):
        first = found(place, **settings)
    with pytest.warns(LabelsieveWarning, match="look like probabilities"):
        again = found(place, **settings)
    assert again.facts.rows_read == 0
    assert_same_bits(again, first)
    with pytest.raises(WorkdirError, match="pred_probs"):
        find(LABELS, place, **settings)
    assert find(LABELS, place, fresh=True, **settings).facts.rows_read == N_ROWS
    with pytest.raises(WorkdirError, match="pred_probs"):
        found(place, **settings)


def test_growing_shards(tmp_path):
    parts = np.split(LOGITS, [200, 400])
    (tmp_path / "x").mkdir()
    settings = {"workdir": tmp_path / "work", "batch_size": 50, "partition_batches": 2, "from_logits": True}
    for number, part in enumerate(parts):
        np.save(tmp_path / "x" / f"x-{number}.npy", part)
        n_rows = 200 * (number + 1)
        got = find(LABELS[:n_rows], tmp_path / "x", **settings)
        assert got.facts.rows_read == 200
        assert_same_bits(got, find(LABELS[:n_rows], PROBS[:n_rows]))


def test_without_the_option_logits_are_refused_by_its_name(capsys, tmp_path):
    with pytest.raises(
        InvalidInputError, match=r"are these logits\? find_label_issues takes them with from_logits=True"
    ):
        find(LABELS, np.maximum(LOGITS, -9))
    np.save(tmp_path / "l.npy", LABELS)
    np.save(tmp_path / "x.npy", np.abs(LOGITS.clip(-9)))
    assert run(["find", str(tmp_path / "l.npy"), str(tmp_path / "x.npy")]) == 2
    assert "--from-logits" in capsys.readouterr().err


def test_command_line(want, tmp_path, capsys):
    np.save(tmp_path / "l.npy", LABELS)
    np.save(tmp_path / "x.npy", LOGITS)
    places = [str(tmp_path / "l.npy"), str(tmp_path / "x.npy"), "--from-logits", "--json"]
    assert run(["find", *places]) == 0
    assert json.loads(capsys.readouterr().out)["num_issues"] == want.num_issues
    assert run(["plan", *places]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "float64"


def test_plan_reads_the_bytes_that_are_stored(tmp_path):
    np.save(tmp_path / "x.npy", LOGITS)
    plan = labelsieve.plan_label_issues(LABELS, tmp_path / "x.npy", from_logits=True)
    assert (plan.dtype, plan.bytes_read) == ("float64", LOGITS.nbytes)


def bad(kind):
    logits = LOGITS.copy()
    if kind == "NaN":
        logits[[5, 6, 300], 2] = np.nan
    elif kind == "+inf":
        logits[5:7, 2], logits[300, 1:3] = np.inf, np.inf
    elif kind == "-inf":
        logits[[5, 6, 300]] = -np.inf
    else:
        logits[[5, 6, 300]] = 0
    return logits


BAD = [
    ("NaN", "3 NaN logits in rows 5..6, 300"),
    ("+inf", "4 logits of +inf in rows 5..6, 300"),
    ("-inf", "3 rows of logits that are all -inf in rows 5..6, 300"),
    ("zeros", "3 rows of pred_probs that are all zeros, rows 5..6, 300: missing chunk?"),
]


@pytest.mark.every_value
@pytest.mark.parametrize(("kind", "message"), BAD)
@pytest.mark.parametrize("batch_size", [7, "auto"])
def test_bad_logits_are_errors_with_their_rows(kind, message, batch_size, tmp_path):
    np.save(tmp_path / "x.npy", bad(kind))
    for logits in (bad(kind), tmp_path / "x.npy"):
        with pytest.raises(InvalidInputError) as raised:
            found(logits, batch_size=batch_size, partition_batches=2)
        assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("kind", "message"), BAD)
def test_bad_logits_of_a_dask_array_are_errors_with_their_rows(kind, message):
    with pytest.raises(InvalidInputError) as raised:
        found(da.from_array(bad(kind), chunks=(200, 6)))
    expected = message if kind == "zeros" else "18 NaN probabilities in rows 5..6, 300"
    assert str(raised.value).startswith(expected)


def test_rows_of_zeros_that_are_accepted_have_equal_probabilities():
    logits, settings = bad("zeros"), {"from_logits": True, "allow_zero_rows": True}
    want = find(LABELS, softmax(logits))
    assert want.scores[5] == 1 / 6
    assert_same_bits(find(LABELS, logits, **settings), want)
    assert_same_bits(find(LABELS, da.from_array(logits, chunks=(200, 6)), **settings), want)


def test_masked_blocks_are_refused():
    masked = da.from_array(np.ma.masked_array(LOGITS, LOGITS < -3), chunks=(200, 6), asarray=False)
    with pytest.raises(InvalidInputError, match="masked values"):
        found(masked)


def test_probabilities_given_as_logits_are_a_warning_if_all_rows_are():
    with pytest.warns(LabelsieveWarning, match="look like probabilities"):
        found(PROBS, batch_size=50)
    some = PROBS.copy()
    some[17] = LOGITS[17]
    found(some)  # a warning would be an error here


def test_rows_without_a_label_may_have_any_logits():
    labels, logits = LABELS.copy(), LOGITS.copy()
    labels[::5] = -1
    want = find(labels, PROBS, ignore_label=-1)
    logits[::5] = np.nan
    for given in (logits, da.from_array(logits, chunks=(70, 4))):
        got = find(labels, given, ignore_label=-1, from_logits=True, batch_size=50)
        assert (got.n_ignored, got.indices.tolist()) == (120, want.indices.tolist())
        assert got.scores.tobytes() == want.scores.tobytes()


def test_tables(want, tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(LOGITS.ravel()), N_CLASSES)
    parquet.write_table(pa.table({"y": LABELS, "x": lists}), tmp_path / "t.parquet", row_group_size=100)
    settings = {"data": tmp_path / "t.parquet", "progress": False, "from_logits": True}
    assert_same_bits(labelsieve.find_label_issues("y", "x", **settings), want)
    assert_same_bits(labelsieve.find_label_issues("y", "x", batch_size=50, **settings), want)


def test_summaries_are_of_probabilities():
    columns = {"label": [0, 1], "predicted": [0, 0], "p_label": [0.9, 0.1], "p_predicted": [0.9, 0.9]}
    with pytest.raises(InvalidInputError, match="from_logits is for pred_probs"):
        labelsieve.find_label_issues(summaries=columns, n_classes=2, from_logits=True)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_the_option_is_a_flag(value):
    with pytest.raises(InvalidInputError, match="from_logits"):
        find(LABELS, LOGITS, from_logits=value)


def test_tiny_pieces(want):
    with pieces():
        assert_same_bits(found(LOGITS), want)
