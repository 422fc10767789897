"""Every kind of input gives the same bits as the plain arrays, and every source travels as a description."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import h5py
import numcodecs
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import labelsieve
from draws import assert_same_array, assert_same_bits, draw, find
from labelsieve.job.scan import RowRange
from labelsieve.sources import zarr as zarr_arrays
from labelsieve.sources.npy import Hdf5Source, NpySource
from labelsieve.sources.open import ArraySource, open_labels, open_pred_probs
from labelsieve.sources.zarr import ZarrSource

N_ROWS, N_CLASSES = 500, 5
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=1)
LABEL_DTYPES = ["i1", "u1", "<i2", ">u2", "<i4", ">i4", "<u4", "<i8", ">i8", "<u8", ">u8"]
FLOAT_DTYPES = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]
CODECS_V2 = {
    "none": None,
    "zstd": numcodecs.Zstd(3),
    "blosc": numcodecs.Blosc(),
    "blosc with bit shuffle": numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE),
    "gzip": numcodecs.GZip(),
    "lz4": numcodecs.LZ4(),
}
CODECS_V3 = {
    "none": None,
    "zstd": zarr.codecs.ZstdCodec(),
    "zstd with checksum": zarr.codecs.ZstdCodec(checksum=True),
    "blosc": zarr.codecs.BloscCodec(),
    "gzip": zarr.codecs.GzipCodec(),
}
CODECS = [(2, name) for name in CODECS_V2] + [(3, name) for name in CODECS_V3]


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


def stored(store, data, **layout):
    """Write `data` as a Zarr array and open it anew, as a user would."""
    zarr.create_array(store, shape=data.shape, dtype=data.dtype, **layout)[:] = data
    return zarr.open_array(store, mode="r")


def compressors(zarr_format, name):
    return (CODECS_V2 if zarr_format == 2 else CODECS_V3)[name]


# Objects in memory -----------------------------------------------------------------------------------------------


def test_lists_are_arrays(want):
    assert_same_bits(find(LABELS.tolist(), PROBS.tolist()), want)
    assert_same_bits(find(tuple(LABELS.tolist()), tuple(PROBS.tolist())), want)
    assert_same_bits(find(list(LABELS), list(PROBS)), want)


def test_series_are_taken_by_position_whatever_their_index(want):
    index = np.random.default_rng(0).permutation(N_ROWS)
    assert_same_bits(find(pd.Series(LABELS, index=index), PROBS), want)
    assert_same_bits(find(pd.Series(LABELS, index=index), pd.DataFrame(PROBS, index=index)), want)


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint16", "Int64", "UInt8", "int64[pyarrow]", "uint8[pyarrow]"])
def test_series_and_one_column_tables_of_integers(want, dtype):
    series = pd.Series(LABELS, index=np.arange(N_ROWS)[::-1]).astype(dtype)
    assert_same_bits(find(series, PROBS), want)
    assert_same_bits(find(series.to_frame("label"), PROBS), want)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_of_every_integer_dtype(want, dtype, tmp_path):
    labels = LABELS.astype(dtype)
    assert_same_bits(find(labels, PROBS), want)
    np.save(tmp_path / "labels.npy", labels)
    assert_same_bits(find(tmp_path / "labels.npy", PROBS), want)


@pytest.mark.every_value
@pytest.mark.parametrize("layout", ["C", "Fortran", "steps", "backwards", "a column slice"])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_pred_probs_of_every_dtype_and_layout(dtype, layout):
    narrow = PROBS.astype(dtype)
    plain = narrow.astype(narrow.dtype.newbyteorder("="))
    wide = np.zeros((N_ROWS, N_CLASSES + 2), dtype)
    wide[:, 1:-1] = narrow
    laid_out = {
        "C": narrow,
        "Fortran": np.asfortranarray(narrow),
        "steps": np.repeat(narrow, 2, axis=0)[::2],
        "backwards": narrow[::-1].copy()[::-1],
        "a column slice": wide[:, 1:-1],
    }
    assert_same_bits(find(LABELS, laid_out[layout]), find(LABELS, plain))


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_narrow_floats_are_as_if_float64(dtype):
    narrow = PROBS.astype(dtype)
    for method in ("self_confidence", "normalized_margin"):
        got, wide = find(LABELS, narrow, method=method), find(LABELS, narrow.astype("f8"), method=method)
        assert_same_array(got.indices, wide.indices)
        assert_same_array(got.confident_thresholds, wide.confident_thresholds)
        assert_same_array(got.scores.astype("f8"), wide.scores)
    assert find(LABELS, narrow).scores.dtype == np.float32


def test_masked_arrays_without_masked_values_are_arrays(want):
    assert_same_bits(find(np.ma.MaskedArray(LABELS), np.ma.MaskedArray(PROBS)), want)


# Files and memmaps -----------------------------------------------------------------------------------------------


@pytest.mark.every_pair
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_in_either_order(want, tmp_path, order, dtype, kind):
    np.save(tmp_path / "p.npy", np.asarray(PROBS, dtype, order=order))
    np.save(tmp_path / "y.npy", LABELS.astype(dtype.replace("f", "i")))
    got = find(kind(tmp_path / "y.npy"), kind(tmp_path / "p.npy"), batch_size=77, partition_batches=2)
    assert_same_bits(got, want)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_format_version(want, tmp_path, version):
    with (tmp_path / "p.npy").open("wb") as file:
        np.lib.format.write_array(file, PROBS, version=version)
    assert_same_bits(find(LABELS, tmp_path / "p.npy"), want)


@pytest.mark.every_value
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memmaps_in_every_mode(want, tmp_path, mode, order):
    np.save(tmp_path / "p.npy", np.asarray(PROBS, order=order))
    np.save(tmp_path / "y.npy", LABELS)
    labels, probs = (np.load(tmp_path / name, mmap_mode=mode) for name in ("y.npy", "p.npy"))
    assert_same_bits(find(labels, probs, batch_size=90), want)


@pytest.mark.parametrize("order", ["C", "F"])
def test_raw_memmaps_with_an_offset(want, tmp_path, order):
    (tmp_path / "raw").write_bytes(b"-" * 4100 + np.asarray(PROBS, order=order).tobytes(order))
    probs = np.memmap(tmp_path / "raw", np.float64, "r", 4100, PROBS.shape, order)
    assert_same_bits(find(LABELS, probs), want)
    assert isinstance(open_pred_probs(probs), NpySource)


@pytest.mark.every_value
@pytest.mark.parametrize(
    "rows", [slice(17, 430), slice(0, 499), slice(250, None), slice(5, 480, 3), slice(None, None, -1)]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_slices_of_memmaps_are_their_own_rows(tmp_path, rows, order):
    np.save(tmp_path / "p.npy", np.asarray(PROBS, order=order))
    np.save(tmp_path / "y.npy", LABELS)
    labels, probs = (np.load(tmp_path / name, mmap_mode="r") for name in ("y.npy", "p.npy"))
    assert_same_bits(find(labels[rows], probs[rows], batch_size=50), find(LABELS[rows], PROBS[rows]))


def test_slices_of_slices_of_memmaps(tmp_path):
    # Beyond the first page, where the offset of the mapping and that of the data part.
    labels, probs = draw(4000, 6, seed=2)
    np.save(tmp_path / "p.npy", probs)
    sliced = np.load(tmp_path / "p.npy", mmap_mode="r")[1000:][500:2000]
    assert isinstance(open_pred_probs(sliced), NpySource)
    assert_same_bits(find(labels[1500:3000], sliced), find(labels[1500:3000], probs[1500:3000]))


def test_private_changes_of_a_copy_on_write_memmap_are_seen(tmp_path):
    np.save(tmp_path / "p.npy", PROBS)
    probs = np.load(tmp_path / "p.npy", mmap_mode="c")
    changed = PROBS.copy()
    for array in (probs, changed):
        array[100:200] = array[100:200, ::-1]
    assert_same_bits(find(LABELS, probs), find(LABELS, changed))
    assert not np.array_equal(np.load(tmp_path / "p.npy"), changed), "the file must not have changed"


def test_unflushed_changes_of_a_shared_memmap_are_seen(tmp_path):
    np.save(tmp_path / "p.npy", PROBS)
    probs = np.load(tmp_path / "p.npy", mmap_mode="r+")
    probs[100:200] = probs[100:200, ::-1].copy()
    changed = PROBS.copy()
    changed[100:200] = changed[100:200, ::-1]
    assert_same_bits(find(LABELS, probs), find(LABELS, changed))


@pytest.mark.parametrize("rows", [slice(None), slice(1, -1)], ids=["all rows", "all but the first and last row"])
def test_a_memmap_is_what_was_mapped_though_its_file_was_replaced(want, tmp_path, rows):
    np.save(tmp_path / "p.npy", PROBS)
    probs = np.load(tmp_path / "p.npy", mmap_mode="r")
    other = PROBS.copy()
    other[rows] = other[rows, ::-1]
    np.save(tmp_path / "other.npy", other)
    (tmp_path / "other.npy").replace(tmp_path / "p.npy")
    assert_same_bits(find(LABELS, probs), want)


def test_a_memmap_outlives_its_file(want, tmp_path):
    np.save(tmp_path / "p.npy", PROBS)
    probs = np.load(tmp_path / "p.npy", mmap_mode="r")
    (tmp_path / "p.npy").unlink()
    assert_same_bits(find(LABELS, probs), want)


# Zarr ------------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"v{codec[0]} {codec[1]}")
@pytest.mark.parametrize("chunks", [(100, 5), (70, 2)], ids=["whole rows", "split classes"])
def test_zarr_of_either_format_and_every_codec(want, tmp_path, codec, chunks):
    probs = stored(
        str(tmp_path / "p.zarr"), PROBS, chunks=chunks, zarr_format=codec[0], compressors=compressors(*codec)
    )
    labels = stored(
        str(tmp_path / "y.zarr"), LABELS, chunks=(33,), zarr_format=codec[0], compressors=compressors(*codec)
    )
    assert_same_bits(find(labels, probs, batch_size=150), want)


@pytest.mark.every_value
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [(1, 5), (7, 5), (499, 5), (500, 5), (800, 9), (800, 3), (13, 1)])
def test_zarr_chunks_of_any_shape(want, tmp_path, zarr_format, chunks):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=chunks, zarr_format=zarr_format)
    for batch_size in ("auto", 40):
        assert_same_bits(find(LABELS, probs, batch_size=batch_size), want)


@pytest.mark.parametrize(("chunks", "shards"), [((50, 5), (200, 5)), ((50, 5), (1000, 5)), ((25, 2), (100, 6))])
def test_sharded_zarr(want, tmp_path, chunks, shards):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=chunks, shards=shards)
    labels = stored(str(tmp_path / "y.zarr"), LABELS, chunks=(20,), shards=(300,))
    assert ZarrSource(probs).facts.row_chunk == chunks[0], "batches follow the inner chunks"
    assert_same_bits(find(labels, probs, batch_size=60), want)


@pytest.mark.parametrize(
    "layout",
    [
        {"zarr_format": 2, "order": "F"},
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"zarr_format": 2, "filters": [numcodecs.Shuffle(8)]},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"compressors": [zarr.codecs.Crc32cCodec()]},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    ],
    ids=str,
)
def test_zarr_in_less_usual_layouts(want, tmp_path, layout):
    assert_same_bits(find(LABELS, stored(str(tmp_path / "p.zarr"), PROBS, chunks=(70, 5), **layout)), want)


@pytest.mark.every_value
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_zarr_of_every_dtype_and_byte_order(tmp_path, dtype, zarr_format):
    narrow = PROBS.astype(dtype)
    plain = narrow.astype(narrow.dtype.newbyteorder("="))
    probs = stored(str(tmp_path / "p.zarr"), narrow, chunks=(70, 5), zarr_format=zarr_format)
    assert_same_bits(find(LABELS, probs), find(LABELS, plain))


@pytest.mark.every_value
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_zarr_labels_of_every_integer_dtype(want, tmp_path, dtype, zarr_format):
    labels = stored(str(tmp_path / "y.zarr"), LABELS.astype(dtype), chunks=(64,), zarr_format=zarr_format)
    assert_same_bits(find(labels, PROBS), want)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [(50, 5), (50, 2)], ids=["whole rows", "split classes"])
def test_missing_chunks_are_their_fill_value(tmp_path, chunks, zarr_format):
    probs = zarr.create_array(
        str(tmp_path / "p.zarr"), shape=PROBS.shape, dtype="f8", chunks=chunks, fill_value=0.2, zarr_format=zarr_format
    )
    filled = PROBS.copy()
    filled[100:200] = filled[450:] = 0.2
    probs[:100], probs[200:450] = PROBS[:100], PROBS[200:450]
    # One handle reads present and missing chunks in turn: a reused buffer must not shine through.
    source = open_pred_probs(probs)
    for _ in range(2):
        with source.open() as rows:
            for start in range(0, 500, 50):
                np.testing.assert_array_equal(rows.read(start, start + 50), filled[start : start + 50])
        source.note_version()  # a run knows beforehand which are missing


@pytest.mark.every_value
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_by_path(want, tmp_path, kind, zarr_format):
    stored(str(tmp_path / "p.zarr"), PROBS, chunks=(99, 5), zarr_format=zarr_format)
    stored(str(tmp_path / "labels"), LABELS, chunks=(120,), zarr_format=zarr_format)  # a folder of any name
    assert_same_bits(find(kind(tmp_path / "labels"), kind(tmp_path / "p.zarr")), want)


def test_zarr_arrays_in_a_group(want, tmp_path):
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("run/probs", shape=PROBS.shape, dtype="f8", chunks=(60, 5))[:] = PROBS
    assert_same_bits(find(LABELS, group["run/probs"]), want)
    assert_same_bits(find(LABELS, tmp_path / "g.zarr" / "run" / "probs"), want)


def test_zarr_by_a_relative_path(want, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored("p.zarr", PROBS, chunks=(60, 5))
    assert_same_bits(find(LABELS, "p.zarr"), want)
    assert_same_bits(find(LABELS, zarr.open_array("p.zarr", mode="r")), want)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_in_memory(want, zarr_format):
    store = zarr.storage.MemoryStore()
    probs = zarr.create_array(store, shape=PROBS.shape, dtype="f8", chunks=(70, 5), zarr_format=zarr_format)
    probs[:] = PROBS
    assert_same_bits(find(LABELS, probs), want)


def test_zarr_in_a_zip_file(want, tmp_path):
    with zarr.storage.ZipStore(tmp_path / "p.zip", mode="w") as store:
        zarr.create_array(store, shape=PROBS.shape, dtype="f8", chunks=(70, 5))[:] = PROBS
    with zarr.storage.ZipStore(tmp_path / "p.zip", mode="r") as store:
        assert_same_bits(find(LABELS, zarr.open_array(store, mode="r")), want)


# The direct Zarr path --------------------------------------------------------------------------------------------


def direct(array):
    return isinstance(ZarrSource(array).open(), zarr_arrays._DirectRows)


@pytest.mark.every_value
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"v{codec[0]} {codec[1]}")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_direct_path_reads_the_rows_of_the_generic_path(tmp_path, codec, dtype):
    data = PROBS.astype(dtype)
    array = zarr.create_array(
        str(tmp_path / "p.zarr"),
        shape=data.shape,
        dtype=dtype,
        chunks=(70, N_CLASSES),
        zarr_format=codec[0],
        compressors=compressors(*codec),
        fill_value=0.25,
    )
    array[:210], array[280:] = data[:210], data[280:]  # the chunk of rows 210..279 is missing
    assert direct(array) == (codec[1] != "gzip"), "gzip decodes into memory of its own"
    ranges = [(0, 70), (0, 500), (140, 490), (210, 280), (490, 500), (420, 500), (0, 70)]
    ranges += [(3, 5), (69, 71), (100, 300)]  # what is no whole chunk goes the generic way
    with ZarrSource(array).open() as rows, zarr_arrays.ZarrRows(ZarrSource(array)) as generic:
        for start, stop in ranges:
            expected = data[start:stop].copy()
            expected[max(0, 210 - start) : max(0, 280 - start)] = 0.25
            assert_same_array(rows.read(start, stop), expected, f"direct {start}..{stop}")
            assert_same_array(generic.read(start, stop), expected, f"generic {start}..{stop}")


@pytest.mark.parametrize("codec", [c for c in CODECS if c[1] != "gzip"], ids=lambda codec: f"v{codec[0]} {codec[1]}")
def test_the_direct_path_is_taken_by_whole_rows_in_a_local_folder(want, tmp_path, monkeypatch, codec):
    probs = stored(
        str(tmp_path / "p.zarr"), PROBS, chunks=(70, 5), zarr_format=codec[0], compressors=compressors(*codec)
    )
    labels = stored(
        str(tmp_path / "y.zarr"), LABELS, chunks=(70,), zarr_format=codec[0], compressors=compressors(*codec)
    )
    assert direct(probs)
    assert direct(labels)
    monkeypatch.setattr(zarr_arrays.ZarrRows, "_load", lambda *_: pytest.fail("the generic path was taken"))
    # Batches are whole chunks, whatever batch_size asks for.
    assert_same_bits(find(labels, probs, batch_size=100), want)


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (70, 3)},
        {"chunks": (70, 9)},
        {"chunks": (70, 5), "zarr_format": 2, "order": "F"},
        {"chunks": (70, 5), "zarr_format": 2, "filters": [numcodecs.Shuffle(8)]},
        {"chunks": (70, 5), "shards": (140, 5)},
        {"chunks": (70, 5), "filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        {"chunks": (70, 5), "compressors": [zarr.codecs.Crc32cCodec()]},
        {"chunks": (70, 5), "compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
        {"chunks": (70, 5), "serializer": zarr.codecs.BytesCodec(endian="big")},
    ],
    ids=str,
)
def test_the_direct_path_is_left_to_what_it_can_decode(tmp_path, layout):
    assert not direct(stored(str(tmp_path / "p.zarr"), PROBS, **layout))


def test_the_direct_path_is_left_to_local_folders():
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=PROBS.shape, dtype="f8", chunks=(70, 5))
    assert not direct(array)


def zstd_frame_of_unknown_size(content):
    """Return a Zstandard frame of one raw block whose header does not say how long the content is."""
    return b"\x28\xb5\x2f\xfd\x00\x58" + (len(content) << 3 | 1).to_bytes(3, "little") + content


def test_zstd_frames_of_unknown_size_decode(want, tmp_path):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(100, 5), compressors=zarr.codecs.ZstdCodec())
    (tmp_path / "p.zarr/c/2/0").write_bytes(zstd_frame_of_unknown_size(PROBS[200:300].tobytes()))
    assert direct(probs)
    assert_same_bits(find(LABELS, probs), want)


# Damaged stored chunks -------------------------------------------------------------------------------------------


def damaged(tmp_path, codec, chunks, how):
    """Store PROBS with the chunk of the rows 200..299 damaged; return the array's folder and the chunk's file."""
    folder = tmp_path / "p.zarr"
    layout = {"zarr_format": codec[0], "compressors": compressors(*codec)}
    stored(str(folder), PROBS, chunks=chunks, **layout)
    file = folder / ("2.0" if codec[0] == 2 else "c/2/0")
    content = file.read_bytes()
    if how in ("fewer rows", "more rows"):
        # A whole chunk, of an array with other chunks.
        other = np.full((60 if how == "fewer rows" else 140, chunks[1]), 0.2)
        stored(str(tmp_path / "other.zarr"), other, chunks=other.shape, **layout)
        content = (tmp_path / "other.zarr" / ("0.0" if codec[0] == 2 else "c/0/0")).read_bytes()
    elif how == "noise":
        content = np.random.default_rng(0).integers(0, 256, len(content), dtype=np.uint8).tobytes()
    else:
        content = content[: {"half": len(content) // 2, "all but a byte": -1, "ten bytes": 10, "empty": 0}[how]]
    file.write_bytes(content)
    return folder, file


DAMAGE = ["half", "all but a byte", "ten bytes", "empty", "noise", "fewer rows", "more rows"]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("codec", [c for c in CODECS if c[1] != "gzip"], ids=lambda codec: f"v{codec[0]} {codec[1]}")
def test_a_damaged_chunk_on_the_direct_path_is_an_error_that_names_the_file(tmp_path, codec, how):
    if codec[1] == "none" and how == "noise":
        pytest.skip("plain bytes are numbers whatever they are: the check of the values speaks up")
    folder, file = damaged(tmp_path, codec, (100, 5), how)
    # One partition, so that the buffers hold an intact chunk when the damaged one comes.
    with pytest.raises(OSError, match=r"\b(decode|holds)\b") as error:
        find(LABELS, folder, batch_size=100, partition_batches=5)
    assert str(file) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"v{codec[0]} {codec[1]}")
def test_a_damaged_chunk_on_the_generic_path_is_an_error(tmp_path, codec, how):
    if "blosc" in codec[1] and how in ("half", "all but a byte", "ten bytes", "empty"):
        pytest.skip("numcodecs' Blosc reads on in memory that is not the chunk's: what Zarr makes of it is luck")
    folder, _ = damaged(tmp_path, codec, (100, 3), how)
    with pytest.raises((ValueError, RuntimeError, OSError, EOFError)):
        find(LABELS, folder)


@pytest.mark.parametrize("codec", [(2, "gzip"), (3, "zstd")], ids=lambda codec: f"v{codec[0]} {codec[1]}")
def test_a_damaged_chunk_on_the_generic_path_is_an_error_that_names_the_array(tmp_path, codec):
    folder, _ = damaged(tmp_path, codec, (100, 3), "half")
    with pytest.raises(Exception, match=r"p\.zarr"):
        find(LABELS, folder)


def test_plain_stored_noise_is_found_by_its_values(tmp_path):
    folder, _ = damaged(tmp_path, (3, "none"), (100, 5), "noise")
    with pytest.raises(labelsieve.InvalidInputError, match="probabilities"):
        find(LABELS, folder)


@pytest.mark.parametrize("content", [0, 60, 140])
def test_a_zstd_frame_of_unknown_size_must_fill_the_chunk(tmp_path, content):
    folder = tmp_path / "p.zarr"
    stored(str(folder), PROBS, chunks=(100, 5), compressors=zarr.codecs.ZstdCodec())
    (folder / "c/2/0").write_bytes(zstd_frame_of_unknown_size(np.full((content, 5), 0.2).tobytes()))
    with pytest.raises(OSError, match=r"c/2/0"):
        find(LABELS, folder)


def test_a_file_cut_while_it_is_read_is_an_error(tmp_path):
    np.save(tmp_path / "p.npy", PROBS)
    source = open_pred_probs(tmp_path / "p.npy")
    with source.open() as rows:
        os.truncate(tmp_path / "p.npy", 10_000)
        with pytest.raises(OSError, match=r"p\.npy ended before byte"):
            rows.read(0, N_ROWS)
    with pytest.raises(OSError, match=r"its size was 20,128 bytes and is 10,000"):
        source.open()


# HDF5, Dask, xarray ----------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize("chunks", [None, (70, 5), (33, 2)], ids=["contiguous", "whole rows", "split classes"])
def test_hdf5_datasets(tmp_path, chunks, dtype):
    narrow = PROBS.astype(dtype)
    plain = find(LABELS, narrow.astype(narrow.dtype.newbyteorder("=")))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        probs = file.create_dataset("a/probs", data=narrow, chunks=chunks, compression=chunks and "gzip")
        labels = file.create_dataset("labels", data=LABELS.astype(">i2"), chunks=chunks and chunks[:1])
        assert_same_bits(find(labels, probs, batch_size=120), plain)


@pytest.mark.every_value
@pytest.mark.parametrize("partition_batches", [1, 3, "auto"])
@pytest.mark.parametrize(
    "chunks",
    [
        ((500,), (5,)),
        ((1, 99, 400), (5,)),
        ((120, 7, 373), (2, 3)),
        ((0, 50, 0, 450, 0), (5,)),
        ((0, 50, 450), (0, 2, 3)),
        ((5,) * 100, (1,) * 5),
    ],
    ids=["one", "irregular", "split classes", "empty chunks", "empty chunks of both", "many"],
)
def test_dask_arrays_of_any_chunks(want, chunks, partition_batches):
    probs = da.from_array(PROBS, chunks=chunks)
    for labels in (LABELS, da.from_array(LABELS, chunks=77), da.from_array(LABELS, chunks=((0, 100, 0, 400),))):
        assert_same_bits(find(labels, probs, partition_batches=partition_batches), want)


def test_dask_labels_beside_stored_pred_probs(want, tmp_path):
    labels = da.from_array(LABELS.astype(">u4"), chunks=((3, 250, 247),))
    np.save(tmp_path / "p.npy", PROBS)
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(70, 5))
    for given in (PROBS, tmp_path / "p.npy", np.load(tmp_path / "p.npy", mmap_mode="r"), probs):
        for batch_size in (64, "auto"):
            assert_same_bits(find(labels, given, batch_size=batch_size, partition_batches=2), want)


def test_stored_labels_beside_dask_pred_probs(want, tmp_path):
    np.save(tmp_path / "y.npy", LABELS)
    for labels in (tmp_path / "y.npy", stored(str(tmp_path / "y.zarr"), LABELS, chunks=(130,))):
        assert_same_bits(find(labels, da.from_array(PROBS, chunks=(90, 5)), partition_batches=2), want)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8"])
def test_dask_arrays_of_every_dtype(dtype):
    narrow = PROBS.astype(dtype)
    plain = narrow.astype(narrow.dtype.newbyteorder("="))
    assert_same_bits(find(LABELS, da.from_array(narrow, chunks=(60, 2))), find(LABELS, plain))


def test_dask_blocks_in_fortran_order(want):
    probs = da.from_array(PROBS, chunks=(60, 5)).map_blocks(np.asfortranarray, dtype="f8")
    assert_same_bits(find(LABELS, probs), want)


def test_xarray_data_arrays(want, tmp_path):
    labels = xr.DataArray(LABELS, dims="row")
    probs = xr.DataArray(PROBS, dims=("row", "class"), coords={"row": np.arange(N_ROWS)[::-1]})
    assert_same_bits(find(labels, probs), want)
    assert_same_bits(find(labels.chunk(row=130), probs.chunk(row=70, **{"class": 2})), want)
    assert isinstance(open_pred_probs(probs.chunk(row=70)), da.Array), "stays lazy"


@pytest.mark.parametrize("method", labelsieve.options.METHODS)
@pytest.mark.parametrize("adjust", [False, True])
def test_every_score_has_the_same_bits_from_every_storage(tmp_path, method, adjust):
    if adjust and method in ("confidence_weighted_entropy", "logit_margin"):
        pytest.skip("not defined")
    settings = {"method": method, "adjust_pred_probs": adjust, "estimation_method": "off_diagonal_calibrated"}
    plain = find(LABELS, PROBS, **settings)
    np.save(tmp_path / "p.npy", PROBS)
    np.save(tmp_path / "f.npy", np.asfortranarray(PROBS))
    stores = [
        tmp_path / "p.npy",
        tmp_path / "f.npy",
        stored(str(tmp_path / "p.zarr"), PROBS, chunks=(70, 5)),
        stored(str(tmp_path / "q.zarr"), PROBS, chunks=(70, 2)),
        da.from_array(PROBS, chunks=(90, 3)),
    ]
    for probs in stores:
        assert_same_bits(find(LABELS, probs, batch_size=100, **settings), plain)


@pytest.mark.slow
def test_every_storage_has_the_same_bits_from_processes(want, tmp_path):
    np.save(tmp_path / "p.npy", PROBS)
    stores = [
        PROBS,
        np.load(tmp_path / "p.npy", mmap_mode="r"),
        stored(str(tmp_path / "p.zarr"), PROBS, chunks=(70, 5)),
        stored(str(tmp_path / "q.zarr"), PROBS, chunks=(70, 2), zarr_format=2),
        da.from_array(PROBS, chunks=(90, 3)),
    ]
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["p"] = PROBS
    # One pool for all: Dask would start one for each computation, and fresh interpreters take their time.
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool,
        dask.config.set(scheduler="processes", pool=pool),
        h5py.File(tmp_path / "p.h5", "r") as file,
    ):
        for probs in (*stores, file["p"]):
            assert_same_bits(find(LABELS, probs, batch_size=100, partition_batches=2), want)


# Sources are descriptions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{}, {"shards": (20, N_CLASSES)}, {"chunks": (10, 4)}], ids=str)
def test_a_task_is_sent_the_versions_of_its_own_chunks_only(tmp_path, layout):
    array = zarr.create_array(
        tmp_path / "p.zarr", shape=PROBS.shape, dtype="f8", **({"chunks": (10, N_CLASSES)} | layout)
    )
    array[:] = PROBS
    source = open_pred_probs(tmp_path / "p.zarr")
    source.note_version()
    width, unit = source.stored.width, source.stored.rows
    for start, stop in ((0, 20), (15, 33), (60, len(PROBS))):
        rows = pickle.loads(pickle.dumps(RowRange.of_part(source, start, stop)))
        assert len(rows.source.stored.stamps) == (-(-stop // unit) - start // unit) * width
        assert np.array_equal(rows.source[rows.start : rows.stop], PROBS[start:stop])
        part, origin = rows.source.part(start + 3 - rows.origin, stop - 3 - rows.origin)
        origin += rows.origin
        assert np.array_equal(part[start + 3 - origin : stop - 3 - origin], PROBS[start + 3 : stop - 3])


def test_a_task_is_sent_its_own_shards_only(tmp_path):
    for i in range(300):
        np.save(tmp_path / f"p-{i}.npy", PROBS[i : i + 2])
    source = open_pred_probs(tmp_path)
    rows = RowRange.of_part(source, 303, 306)
    assert len(pickle.dumps(rows)) < 3000 < len(pickle.dumps(source))
    sent = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(sent.source[sent.start : sent.stop], source[303:306])


def test_sources_pickle_without_their_data(tmp_path):
    labels, probs = draw(20_000, 10, seed=3)
    np.save(tmp_path / "p.npy", probs)
    np.save(tmp_path / "f.npy", np.asfortranarray(probs))
    np.save(tmp_path / "y.npy", labels)
    stored(str(tmp_path / "p.zarr"), probs, chunks=(3000, 10))
    stored(str(tmp_path / "q.zarr"), probs, chunks=(3000, 3), zarr_format=2)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["deep/probs"] = probs
    with h5py.File(tmp_path / "p.h5", "r") as file:
        sources = {
            "npy": (open_pred_probs(tmp_path / "p.npy"), NpySource),
            "Fortran npy": (open_pred_probs(str(tmp_path / "f.npy")), NpySource),
            "memmap": (open_pred_probs(np.load(tmp_path / "p.npy", mmap_mode="r")), NpySource),
            "Fortran memmap": (open_pred_probs(np.load(tmp_path / "f.npy", mmap_mode="r")), NpySource),
            "zarr": (open_pred_probs(tmp_path / "p.zarr"), ZarrSource),
            "zarr 2": (open_pred_probs(zarr.open_array(str(tmp_path / "q.zarr"), mode="r")), ZarrSource),
            "hdf5": (open_pred_probs(file["deep/probs"]), Hdf5Source),
        }
        for name, (source, kind) in sources.items():
            assert isinstance(source, kind), name
            pickled = pickle.dumps(source)
            assert len(pickled) < 4000, name
            with pickle.loads(pickled).open() as rows:
                assert_same_array(np.array(rows.read(4321, 9876), order="C"), probs[4321:9876], name)
    source = pickle.loads(pickle.dumps(open_labels(tmp_path / "y.npy")))
    assert_same_array(source[10:20], labels[10:20])


def test_an_unpickled_hdf5_source_opens_its_own_file(tmp_path):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        pickled = pickle.dumps(open_pred_probs(file.create_dataset("probs", data=PROBS)))
    source = pickle.loads(pickled)
    assert_same_bits(find(LABELS, source), find(LABELS, PROBS))


def test_a_part_of_an_array_in_memory_takes_only_its_rows():
    source, origin = ArraySource(PROBS).part(100, 110)
    assert (source.shape, origin) == ((10, N_CLASSES), 100)
    assert len(pickle.dumps(source)) < PROBS.nbytes / 10


class Doubled(zarr.storage.LocalStore):
    """A store that does more than read files."""


def test_a_store_that_builds_on_the_local_one_is_not_read_behind_its_back(tmp_path):
    array = zarr.create_array(Doubled(tmp_path / "p.zarr"), shape=PROBS.shape, chunks=(100, PROBS.shape[1]), dtype="f8")
    array[:] = PROBS
    with ZarrSource(array).open() as rows:
        assert type(rows) is zarr_arrays.ZarrRows


def test_paths_travel_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("p.npy", PROBS)
    source = pickle.loads(pickle.dumps(open_pred_probs("p.npy")))
    monkeypatch.chdir("/")
    with source.open() as rows:
        assert np.array_equal(rows.read(0, len(PROBS)), PROBS)


def test_nullable_and_arrow_floats_of_a_table_are_probabilities():
    want = find(LABELS, PROBS)
    for dtype in ("Float64", "double[pyarrow]"):
        table = pd.DataFrame(PROBS).astype(dtype)
        assert_same_bits(find(LABELS, table), want)
