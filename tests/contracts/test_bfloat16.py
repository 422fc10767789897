"""Predictions in bfloat16 give the answer of the same values in float32, however the 16 bits are kept."""

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import zarr
from distributed import Client

import labelsieve
from draws import assert_same_bits, draw, find
from labelsieve.cli.app import run
from labelsieve.errors import InvalidInputError, WorkdirError
from labelsieve.options import FILTER_NAMES

LABELS, PROBS = draw(600, 6, seed=3)
HALF = PROBS.astype(ml_dtypes.bfloat16)
BITS = HALF.view(np.uint16)
WIDE = HALF.astype(np.float32)
OPTION = {"dtype": "bfloat16"}


@pytest.fixture(scope="module")
def want():
    return find(LABELS, WIDE)


def test_arrays_of_ml_dtypes(want):
    assert_same_bits(find(LABELS, HALF), want)
    assert_same_bits(find(LABELS, HALF, **OPTION), want)
    assert_same_bits(find(LABELS, np.asfortranarray(HALF)), want)
    assert_same_bits(find(LABELS, np.repeat(HALF, 2, axis=0)[::2]), want)


def test_every_bit_pattern_is_widened_exactly():
    from labelsieve.sources.composite import Bfloat16Source
    from labelsieve.sources.open import ArraySource

    every = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 2)
    for bits in (every, every.view(np.int16), every.astype(">u2"), every.view("V2"), every.view(ml_dtypes.bfloat16)):
        for order in "CF":
            widened = Bfloat16Source(ArraySource(np.asarray(bits, order=order)))[:]
            assert np.array_equal(widened.view(np.uint32), every.astype(np.uint32) << 16)


PLACES = ["memory", "npy", "fortran npy", "zarr", "split zarr", "files", "dask"]


@pytest.mark.parametrize(
    ("kind", "where"),
    [("<u2", where) for where in PLACES] + [(kind, where) for kind in (">u2", "<i2", "V2") for where in PLACES[:2]],
)
def test_raw_bits(want, tmp_path, kind, where):
    settings = {"batch_size": 50, "partition_batches": 2, "filter_by": "both"}
    raw = BITS.view(kind) if kind == "V2" else BITS.astype("<u2").view("<i2") if kind == "<i2" else BITS.astype(kind)
    given = raw
    if where == "dask":
        given = da.from_array(raw, chunks=(100, 4))
    elif "npy" in where:
        np.save(tmp_path / "p.npy", np.asfortranarray(raw) if "fortran" in where else raw)
        given = tmp_path / "p.npy"
    elif "zarr" in where:
        given = zarr.create_array(
            str(tmp_path / "p.zarr"), shape=raw.shape, chunks=(70, 6 if where == "zarr" else 4), dtype=raw.dtype
        )
        given[:] = raw
    elif where == "files":
        for number, part in enumerate(np.split(raw, [100, 107])):
            np.save(tmp_path / f"p-{number}.npy", part)
        given = tmp_path
    assert_same_bits(find(LABELS, given, **OPTION, **settings), find(LABELS, WIDE, **settings))
    with pytest.raises(InvalidInputError, match=r"give dtype='bfloat16'"):
        find(LABELS, given, **settings)


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_raw_bits(want, tmp_path, zarr_format):
    array = zarr.create_array(
        str(tmp_path / "p.zarr"), shape=BITS.shape, chunks=(70, 6), dtype="V2", zarr_format=zarr_format
    )
    array[:] = BITS.view("V2")
    assert_same_bits(find(LABELS, tmp_path / "p.zarr", **OPTION), want)


@pytest.mark.parametrize("filter_by", [None, *FILTER_NAMES])
def test_every_filter(filter_by):
    assert_same_bits(find(LABELS, HALF, filter_by=filter_by), find(LABELS, WIDE, filter_by=filter_by))


def test_files_as_numpy_saves_arrays_of_ml_dtypes(want, tmp_path):
    np.save(tmp_path / "p.npy", HALF)
    assert_same_bits(find(LABELS, tmp_path / "p.npy", **OPTION), want)
    assert_same_bits(find(LABELS, tmp_path / "p.npy", dtype=ml_dtypes.bfloat16), want)
    assert_same_bits(find(LABELS, tmp_path / "p.npy", n_jobs=2, batch_size=50, partition_batches=1, **OPTION), want)


def test_cluster(want, tmp_path):
    np.save(tmp_path / "p.npy", HALF)
    settings = {"batch_size": 50, "partition_batches": 2, **OPTION}
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as client:
        for probs in (HALF, tmp_path / "p.npy", da.from_array(HALF, chunks=(100, 6))):
            assert_same_bits(find(LABELS, probs, client=client, **settings), want)


def test_logits():
    logits = np.log(PROBS).astype(ml_dtypes.bfloat16)
    want = find(LABELS, logits.astype(np.float32), from_logits=True)
    assert_same_bits(find(LABELS, logits, from_logits=True), want)
    assert_same_bits(find(LABELS, da.from_array(logits, chunks=(100, 4)), from_logits=True), want)
    assert_same_bits(find(LABELS, logits.view(np.int16), from_logits=True, **OPTION), want)


def test_inspector():
    want, got = (labelsieve.LabelInspector(num_class=6, verbose=False) for _ in range(2))
    for inspector, probs in ((want, WIDE), (got, HALF)):
        inspector.update_confident_thresholds(LABELS, probs)
        inspector.score_label_quality(LABELS, probs)
    assert got.get_label_issues().tolist() == want.get_label_issues().tolist()


def test_workdir_and_command_line(want, tmp_path, capsys):
    np.save(tmp_path / "l.npy", LABELS)
    np.save(tmp_path / "p.npy", HALF)
    settings = {"workdir": tmp_path / "work", "batch_size": 50, "partition_batches": 2, **OPTION}
    assert_same_bits(find(LABELS, tmp_path / "p.npy", **settings), want)
    again = find(LABELS, tmp_path / "p.npy", **settings)
    assert again.facts.rows_read == 0
    assert_same_bits(again, want)
    np.save(tmp_path / "p.npy", WIDE)
    with pytest.raises(WorkdirError):
        find(LABELS, tmp_path / "p.npy", workdir=tmp_path / "work")
    np.save(tmp_path / "p.npy", HALF)
    assert run(["find", str(tmp_path / "l.npy"), str(tmp_path / "p.npy"), "--dtype", "bfloat16"]) == 0
    assert f"{want.num_issues} " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float4_e2m1fn"])
def test_fewer_bits_are_refused(name):
    with pytest.raises(InvalidInputError, match=rf"pred_probs is {name}, which has too few bits .*astype\(np.float32"):
        find(LABELS, PROBS.astype(getattr(ml_dtypes, name)))
    with pytest.raises(InvalidInputError, match="too few bits"):
        find(LABELS, BITS, dtype=name)


def test_files_of_float8_are_refused(tmp_path):
    np.save(tmp_path / "p.npy", PROBS.astype(ml_dtypes.float8_e4m3fn))
    with pytest.raises(InvalidInputError, match="stored as 8 bits without a dtype: if they are float8, convert them"):
        find(LABELS, tmp_path / "p.npy")


@pytest.mark.parametrize("dtype", ["float16", np.float32, "brain", 16])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InvalidInputError, match="give dtype='bfloat16' for pred_probs whose bits"):
        find(LABELS, PROBS, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_the_option_for_other_data_is_an_error(dtype):
    with pytest.raises(InvalidInputError, match="not 16 bits without a dtype: leave dtype out"):
        find(LABELS, (100 * PROBS).astype(dtype), **OPTION)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "1 NaN probability in row 7"), (2, "1 probability above 1")])
def test_bad_values_are_found(value, message):
    probs = HALF.copy()
    probs[7, 2] = value
    with pytest.raises(InvalidInputError, match=message):
        find(LABELS, probs)
