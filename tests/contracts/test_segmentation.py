"""Segmentation: the bits of flat rows however images are stored, cleanlab's masks, and issues by image."""

import base64
import io
import itertools
import json
import pickle
import re
import warnings

import cleanlab.segmentation.filter as their_filter
import cleanlab.segmentation.rank as their_rank
import cleanlab.segmentation.summary as their_summary
import dask.array as da
import fsspec
import h5py
import labelsieve.cleanlab.segmentation.summary as our_summary
import ml_dtypes
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

import labelsieve
import labelsieve.cleanlab.segmentation.filter as our_filter
import labelsieve.cleanlab.segmentation.rank as our_rank
import labelsieve.segmentation.rows
from draws import assert_same_bits, bits, draw, find, pieces
from labelsieve import Ensemble, Folds, segmentation
from labelsieve.errors import (
    InputTypeError,
    InvalidInputError,
    LabelsieveError,
    LabelsieveWarning,
    MemoryLimitError,
    UnreadableDataError,
    WorkdirError,
)
from labelsieve.results.units import PixelLayout
from labelsieve.segmentation.rows import PixelSource
from labelsieve.sources.open import ArraySource

CUT = {"batch_size": 70, "partition_batches": 2}
ALL_FILTERS = [
    "prune_by_class",
    "prune_by_noise_rate",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]


def images(n=6, height=9, width=13, n_classes=4, seed=0, dtype=np.float32, **choices):
    """Return masks (n, height, width) and probabilities (n, K, height, width)."""
    labels, probs = draw(n * height * width, n_classes, seed=seed, dtype=dtype, **choices)
    planes = np.moveaxis(probs.reshape(n, height, width, n_classes), -1, 1)
    return labels.reshape(n, height, width), np.ascontiguousarray(planes)


def flat(labels, planes):
    """Return the pixels of images as rows, one image after the other."""
    rows = [np.moveaxis(one, 0, -1).reshape(-1, one.shape[0]) for one in planes]
    return np.concatenate([one.reshape(-1) for one in labels]), np.concatenate(rows)


def ragged(n_classes=4, seed=0, dtype=np.float32):
    sizes = [(5, 7), (1, 1), (8, 3), (20, 11), (5, 7), (30, 1)]
    drawn = [images(1, *size, n_classes, seed + i, dtype) for i, size in enumerate(sizes)]
    return [labels[0] for labels, _ in drawn], [planes[0] for _, planes in drawn]


def search(labels, planes, **choices):
    return segmentation.find_label_issues(labels, planes, progress=False, **choices)


def to_zarr(path, array, chunks, **choices):
    stored = zarr.create_array(path, shape=array.shape, chunks=chunks, dtype=array.dtype, **choices)
    stored[:] = array
    return path


def to_hdf5(path, array, chunks=None):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=array, chunks=chunks)
    return h5py.File(path)["images"]


def one_by_one(folder, name, arrays):
    folder.mkdir(exist_ok=True)
    for number, array in enumerate(arrays):
        np.save(folder / f"{name}-{number}.npy", array)
    return folder / f"{name}-*.npy"


FORMS = {
    "arrays": lambda folder, labels, planes: (labels, planes),
    "int8 labels": lambda folder, labels, planes: (labels.astype("i1"), planes),
    "lists": lambda folder, labels, planes: (labels.tolist(), planes),
    "npy": lambda folder, labels, planes: (one(folder, "l", labels), one(folder, "p", planes)),
    "memmap": lambda folder, labels, planes: tuple(
        np.load(one(folder, name, array), mmap_mode="r") for name, array in (("l", labels), ("p", planes))
    ),
    "fortran npy": lambda folder, labels, planes: (
        one(folder, "l", np.asfortranarray(labels)),
        one(folder, "p", np.asfortranarray(planes)),
    ),
    "big-endian": lambda folder, labels, planes: (
        one(folder, "l", labels.astype(">i4")),
        one(folder, "p", planes.astype(planes.dtype.newbyteorder(">"))),
    ),
    "classes last, moved": lambda folder, labels, planes: (
        labels,
        np.moveaxis(np.ascontiguousarray(np.moveaxis(planes, 1, -1)), -1, 1),
    ),
    "zarr, an image a chunk": lambda folder, labels, planes: (
        to_zarr(folder / "l.zarr", labels, (1, *labels.shape[1:])),
        to_zarr(folder / "p.zarr", planes, (1, *planes.shape[1:])),
    ),
    "zarr, several images a chunk": lambda folder, labels, planes: (
        to_zarr(folder / "l.zarr", labels, (3, *labels.shape[1:])),
        to_zarr(folder / "p.zarr", planes, (4, *planes.shape[1:])),
    ),
    "zarr, planes cut": lambda folder, labels, planes: (
        to_zarr(folder / "l.zarr", labels, (2, 4, 5)),
        to_zarr(folder / "p.zarr", planes, (2, 1, 4, 5)),
    ),
    "zarr, sharded": lambda folder, labels, planes: (
        to_zarr(folder / "l.zarr", labels, (1, *labels.shape[1:]), shards=(4, *labels.shape[1:])),
        to_zarr(folder / "p.zarr", planes, (1, *planes.shape[1:]), shards=(4, *planes.shape[1:])),
    ),
    "zarr objects, format 2": lambda folder, labels, planes: tuple(
        zarr.open_array(to_zarr(folder / f"{name}.zarr", array, (1, *array.shape[1:]), zarr_format=2), mode="r")
        for name, array in (("l", labels), ("p", planes))
    ),
    "hdf5": lambda folder, labels, planes: (
        to_hdf5(folder / "l.h5", labels),
        to_hdf5(folder / "p.h5", planes, (2, *planes.shape[1:])),
    ),
    "dask": lambda folder, labels, planes: (
        da.from_array(labels, (2, 4, -1)),
        da.from_array(planes, (3, 2, -1, 5)),
    ),
    "dask and npy": lambda folder, labels, planes: (one(folder, "l", labels), da.from_array(planes, (2, -1, -1, -1))),
    "lists of arrays": lambda folder, labels, planes: (list(labels), list(planes)),
    "object arrays": lambda folder, labels, planes: (objects(labels), objects(planes)),
    "lists of dask arrays": lambda folder, labels, planes: (
        [da.from_array(one) for one in labels],
        [da.from_array(one, (1, -1, -1)) for one in planes],
    ),
    "patterns": lambda folder, labels, planes: (
        one_by_one(folder, "l", labels),
        one_by_one(folder, "p", planes),
    ),
    "folders": lambda folder, labels, planes: (
        one_by_one(folder / "masks", "l", labels).parent,
        one_by_one(folder / "planes", "p", [np.asfortranarray(one) for one in planes]).parent,
    ),
    "lists of paths": lambda folder, labels, planes: (
        [one(folder, f"l{i}", mask) for i, mask in enumerate(labels)],
        [str(to_zarr(folder / f"p{i}.zarr", one, (1, 4, 5))) for i, one in enumerate(planes)],
    ),
    "files of several images": lambda folder, labels, planes: (
        one_by_one(folder, "l", [labels[:4], labels[4:]]),
        one_by_one(folder, "p", [planes[:1], planes[1:3], planes[3:]]),
    ),
    "PNG masks": lambda folder, labels, planes: (pngs(folder, labels), planes),
    "from a slice": lambda folder, labels, planes: (
        np.repeat(labels, 2, axis=2)[:, :, ::2],
        np.repeat(planes, 2, axis=0)[::2],
    ),
}


def one(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    return folder / f"{name}.npy"


def npz(folder, labels, planes):
    np.savez(folder / "a.npz", labels=labels)
    np.savez(folder / "b.npz", planes=planes)
    return f"{folder}/a.npz::labels", f"{folder}/b.npz::planes"


def objects(arrays):
    found = np.empty(len(arrays), object)
    for number, array in enumerate(arrays):
        found[number] = array
    return found


def pngs(folder, labels, mode="L"):
    for number, mask in enumerate(labels):
        image = Image.fromarray(mask.astype(np.uint16 if mode == "I;16" else np.uint8))
        if mode == "P":
            image = image.convert("L")
            image.putpalette(list(range(256)) * 3)
        image.save(folder / f"mask-{number}.png")
    return str(folder / "mask-*.png")


FORMS["npz"] = npz


@pytest.mark.parametrize("form", FORMS)
def test_images_in_any_form_have_the_bits_of_flat_rows(form, tmp_path):
    labels, planes = images(noise=0.3)
    want = find(*flat(labels, planes))
    inputs = FORMS[form](tmp_path, labels, planes)
    assert_same_bits(search(*inputs).rows, want)
    with pieces():
        found = search(*inputs, **CUT)
    assert bits(found.rows) == bits(want)
    np.testing.assert_array_equal(found.mask(), want.mask().reshape(labels.shape))
    assert found.rows.facts.n_reads == 1


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 33, 65])
def test_all_dtypes_and_numbers_of_classes_have_the_bits_of_flat_rows(n_classes, dtype, tmp_path):
    labels, planes = images(4, 10, 12, n_classes, dtype=dtype, noise=0.4, signal=1.0)
    want = find(*flat(labels, planes))
    assert_same_bits(search(labels, planes).rows, want)
    assert bits(search(labels, one(tmp_path, "p", planes), batch_size=50).rows) == bits(want)


@pytest.mark.parametrize("folder", [False, True])
def test_images_of_different_sizes(folder, tmp_path):
    labels, planes = ragged()
    want = find(*flat(labels, planes))
    inputs = (one_by_one(tmp_path, "l", labels), one_by_one(tmp_path, "p", planes)) if folder else (labels, planes)
    found = search(*inputs, **CUT)
    assert bits(found.rows) == bits(want)
    assert isinstance(found.layout, PixelLayout)
    assert [mask.shape for mask in found.mask()] == [mask.shape for mask in labels]
    assert np.concatenate([mask.reshape(-1) for mask in found.masks()]).tolist() == want.mask().tolist()
    np.testing.assert_array_equal(np.concatenate([s.reshape(-1) for s in found.pixel_scores()]), want.scores)
    assert found.pixel_scores(3).shape == (20, 11)


@pytest.mark.parametrize("name", [*ALL_FILTERS, None])
def test_all_filters_have_the_bits_of_flat_rows(name, tmp_path):
    labels, planes = images(5, 11, 12, noise=0.3)
    want = find(*flat(labels, planes), filter_by=name)
    paths = to_zarr(tmp_path / "l.zarr", labels, (1, 11, 12)), to_zarr(tmp_path / "p.zarr", planes, (2, 4, 11, 12))
    assert_same_bits(search(*paths, filter_by=name, **CUT).rows, want)


@pytest.mark.parametrize("method", ["normalized_margin", "confidence_weighted_entropy", "logit_margin"])
@pytest.mark.parametrize("adjust", [False, True])
def test_all_scores_have_the_bits_of_flat_rows(method, adjust, tmp_path):
    if adjust:
        method = method if method == "normalized_margin" else "self_confidence"
    labels, planes = images(5, 11, 12, noise=0.3)
    choices = {"method": method, "adjust_pred_probs": adjust}
    want = find(*flat(labels, planes), **choices)
    assert_same_bits(search(labels, one(tmp_path, "p", planes), **choices, **CUT).rows, want)


def test_logits_bfloat16_and_ensembles(tmp_path):
    labels, planes = images(noise=0.3)
    logits = np.log(planes) * 2
    _, rows = flat(labels, logits)
    assert_same_bits(search(labels, logits, from_logits=True).rows, find(labels.reshape(-1), rows, from_logits=True))
    narrow = planes.astype(ml_dtypes.bfloat16)
    want = find(*flat(labels, narrow.astype(np.float32)), allow_unnormalized_rows=True)
    choices = {"dtype": "bfloat16", "allow_unnormalized_rows": True}
    assert_same_bits(search(labels, narrow, **choices).rows, want)
    for array in (narrow.view(np.uint16), one(tmp_path, "p", narrow)):
        assert_same_bits(search(labels, array, **choices, **CUT).rows, want)
    other = planes**2 / (planes**2).sum(axis=1, keepdims=True)
    mean = find(labels.reshape(-1), Ensemble([flat(labels, one)[1] for one in (planes, other)], [1, 2]))
    ensemble = Ensemble([planes, to_zarr(tmp_path / "p.zarr", other, (2, *other.shape[1:]))], [1, 2])
    assert_same_bits(search(labels, ensemble, **CUT).rows, mean)


def test_pixels_without_a_label(tmp_path):
    labels, planes = images(noise=0.3)
    labels = labels.astype(np.uint8)
    labels[0, :3], labels[2] = 255, 255
    planes[2] = np.nan  # not looked at
    want = find(*flat(labels, planes), ignore_label=255)
    found = search(pngs(tmp_path, labels), one(tmp_path, "p", planes), ignore_label=255, **CUT)
    assert_same_bits(found.rows, want)
    assert found.n_ignored == 3 * 13 + 9 * 13
    assert not found.mask(2).any()
    assert np.isnan(found.image_scores()).tolist() == [False, False, True, False, False, False]
    assert 2 not in found.worst_images().tolist()


@given(st.data())
@settings(max_examples=15)
def test_any_chunking_gives_the_same_bits(data):
    n, height, width = (data.draw(st.integers(1, most)) for most in (5, 12, 12))
    seed, n_classes = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([2, 3, 7]))
    labels, planes = images(n, height, width, n_classes, seed, noise=0.5)
    chunks = data.draw(st.integers(1, n)), data.draw(st.integers(1, n)), data.draw(st.integers(1, n_classes))
    stored = zarr.create_array(
        zarr.storage.MemoryStore(), shape=planes.shape, chunks=(chunks[0], chunks[2], height, width), dtype="f4"
    )
    stored[:] = planes
    masks = zarr.create_array(
        zarr.storage.MemoryStore(), shape=labels.shape, chunks=(chunks[1], height, width), dtype="u1"
    )
    masks[:] = labels
    cut = {"batch_size": data.draw(st.integers(1, 50)), "partition_batches": data.draw(st.integers(1, 5))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelsieveWarning)
        want = find(*flat(labels, planes))
        with pieces():
            found = search(masks, stored, **cut)
        scores = search(labels, planes).image_scores()
    assert bits(found.rows) == bits(want)
    assert found.image_scores().tobytes() == scores.tobytes()


def test_a_forked_pool_gives_the_same_bits(tmp_path):
    labels, planes = images(20, 20, 20)
    want = search(labels, planes)
    paths = one(tmp_path, "l", labels), one(tmp_path, "p", planes)
    for inputs in ((labels, planes), paths):
        found = search(*inputs, n_jobs=2, batch_size=1000)
        assert bits(found.rows) == bits(want.rows)
        assert found.facts.scheduler == "2 forked processes"


def test_a_cluster_gives_the_same_bits(tmp_path):
    labels, planes = images(20, 20, 20)
    want = search(labels, planes)
    stored = to_zarr(tmp_path / "l.zarr", labels, (3, 20, 20)), to_zarr(tmp_path / "p.zarr", planes, (3, 4, 20, 20))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for inputs in (stored, (labels, planes), (list(labels), list(planes))):
            found = search(*inputs, client=client, partition_batches=2, batch_size=700, output=tmp_path / "out.zarr")
            assert bits(found.rows) == bits(want.rows)
        np.testing.assert_array_equal(found.mask(), want.mask())


def test_images_in_an_object_store(tmp_path):
    labels, planes = images(8, 10, 11, noise=0.3)
    fs, want = fsspec.filesystem("memory"), find(*flat(labels, planes))
    inputs = FORMS["zarr, several images a chunk"](tmp_path, labels, planes)
    inputs += one(tmp_path, "l", labels), one(tmp_path, "p", planes)
    inputs += one_by_one(tmp_path / "ls", "l", labels).parent, one_by_one(tmp_path / "ps", "p", planes).parent
    for path in inputs:
        fs.put(str(path), f"/bucket/{path.name}", recursive=True)
    try:
        for masks, probs in (("l.zarr", "p.zarr"), ("l.npy", "p.npy"), ("ls", "ps/*.npy")):
            found = search(f"memory://bucket/{masks}", f"memory://bucket/{probs}", **CUT)
            assert bits(found.rows) == bits(want)
    finally:
        fs.rm("/bucket", recursive=True)


def test_a_workdir_resumes_and_reads_new_images_only(tmp_path):
    labels, planes = images(12)
    n, choices = 9 * 13, {"workdir": tmp_path / "work", "batch_size": 2 * 9 * 13, "partition_batches": 1}
    stored = zarr.open_array(to_zarr(tmp_path / "p.zarr", planes[:8], (2, *planes.shape[1:])), mode="r+")
    first = search(labels[:8], tmp_path / "p.zarr", **choices)
    again = search(labels[:8], tmp_path / "p.zarr", **choices)
    assert (first.facts.rows_read, again.facts.rows_read, again.facts.rows_resumed) == (8 * n, 0, 8 * n)
    assert bits(again.rows) == bits(first.rows)
    stored.append(planes[8:])
    grown = search(labels, tmp_path / "p.zarr", **choices)
    assert (grown.facts.rows_read, grown.facts.rows_resumed) == (4 * n, 8 * n)
    assert bits(grown.rows) == bits(find(*flat(labels, planes)))
    stored[2:4] = planes[4:6]
    changed = search(labels, tmp_path / "p.zarr", **choices)
    assert changed.facts.rows_read == 2 * n
    with pytest.raises(WorkdirError, match=r"belongs to another run: settings\.method"):
        search(labels, tmp_path / "p.zarr", method="normalized_margin", **choices)


def test_a_workdir_knows_each_file_of_a_folder(tmp_path):
    labels, planes = ragged()
    one_by_one(tmp_path / "p", "p", planes)
    choices = {"workdir": tmp_path / "work", **CUT}
    search(labels, tmp_path / "p", **choices)
    planes[3] = planes[3] ** 2 / (planes[3] ** 2).sum(axis=0)
    np.save(tmp_path / "p" / "p-3.npy", planes[3])
    assert search(labels, tmp_path / "p", **choices).facts.rows_read == labels[3].size
    assert bits(search(labels, tmp_path / "p", **choices).rows) == bits(find(*flat(labels, planes)))


@pytest.mark.parametrize("form", ["npy", "zarr, planes cut", "patterns"])
def test_changed_files_are_an_error(form, tmp_path, monkeypatch):
    labels, planes = images()
    inputs = FORMS[form](tmp_path, labels, planes)
    opened = PixelSource.open_raw

    def overwrite(self, *args):
        monkeypatch.setattr(PixelSource, "open_raw", opened)
        for name in tmp_path.rglob("*"):
            if name.is_file() and name.name not in ("zarr.json", "l.npy"):
                name.write_bytes(name.read_bytes())
        return opened(self, *args)

    monkeypatch.setattr(PixelSource, "open_raw", overwrite)
    with pytest.raises(UnreadableDataError, match="has changed since the run began"):
        search(*inputs, retries=0)


def test_sources_say_what_they_are(tmp_path):
    labels, planes = images()
    source = PixelSource(ArraySource(planes))
    assert (source.shape, source.dtype, source.facts.row_chunk) == ((6 * 9 * 13, 4), np.float32, None)
    stored = search(labels, to_zarr(tmp_path / "p.zarr", planes, (2, *planes.shape[1:])))
    assert stored.facts.inputs == {"labels": "an array in memory", "pred_probs": str(tmp_path / "p.zarr")}
    rows = np.array([5, 700, 3, 118])
    np.testing.assert_array_equal(source.take(rows), flat(labels, planes)[1][rows])
    part, origin = source.part(130, 250)
    assert (part.n_rows, origin) == (2 * 117, 117)
    np.testing.assert_array_equal(part[13:20], flat(labels, planes)[1][130:137])
    assert json.dumps(source.identity())
    assert pickle.loads(pickle.dumps(source))[7:9].tolist() == source[7:9].tolist()
    assert source.part_identities([(0, 117)]) != source.part_identities([(0, 116)])


# Results -------------------------------------------------------------------------------------------------------------


def test_a_stored_result_is_loaded_by_image(tmp_path):
    labels, planes = images(7)
    want = search(labels, planes, class_names=["a", "b", "c", "d"])
    output = tmp_path / "out.zarr"
    found = search(labels, planes, output=output, class_names=["a", "b", "c", "d"])
    want.save(tmp_path / "saved.zarr")
    for one in (found, labelsieve.load(output), labelsieve.load(tmp_path / "saved.zarr")):
        assert isinstance(one, segmentation.SegmentationIssues)
        assert one.layout.mask_shape == (7, 9, 13)
        assert bits(one.rows) == bits(want.rows)
        np.testing.assert_array_equal(one.mask(), want.mask())
        np.testing.assert_array_equal(one.pixel_scores(), want.pixel_scores())
    for path in (output, tmp_path / "saved.zarr"):
        np.testing.assert_array_equal(zarr.open_array(path / "pixel_mask", mode="r")[:], want.mask())
    for one in (found, labelsieve.load(output), labelsieve.load(tmp_path / "saved.zarr")):
        for image in range(7):
            np.testing.assert_array_equal(one.mask(image), want.mask(image))
            np.testing.assert_array_equal(one.pixel_scores(image), want.pixel_scores(image))
            assert one.components(image).equals(want.components(image))
        assert one.image_scores().tobytes() == want.image_scores().tobytes()
        assert one.to_frame().equals(want.to_frame())
        assert repr(one) == repr(want)


def test_issues_that_do_not_fit_in_memory_are_shown_by_image(monkeypatch, tmp_path):
    labels, planes = images(7)
    want = search(labels, planes)
    monkeypatch.setattr("labelsieve.segmentation.issues._MASK_PIXELS", 200)
    monkeypatch.setattr("labelsieve.segmentation.issues._ISSUE_ROWS", 10)
    found = search(labels, planes, output=tmp_path / "issues.zarr", **CUT)
    np.testing.assert_array_equal(list(found.masks()), want.mask())
    assert found.to_frame().equals(want.to_frame())
    assert [found.components(i).equals(want.components(i)) for i in range(7)] == [True] * 7


def naive_softmin(scores, temperature):
    weights = [np.exp((1 - float(score)) / temperature) for score in scores]
    return sum(float(s) * w for s, w in zip(scores, weights, strict=True)) / sum(weights)


def test_scores_of_images():
    labels, planes = ragged(seed=3)
    found = search(labels, planes)
    p_label = [np.take_along_axis(p, one[np.newaxis], 0).reshape(-1) for one, p in zip(labels, planes, strict=True)]
    np.testing.assert_allclose(found.image_scores(), [naive_softmin(s, 0.1) for s in p_label], atol=1e-12)
    np.testing.assert_allclose(found.image_scores(0.5), [naive_softmin(s, 0.5) for s in p_label], atol=1e-12)
    assert found.worst_images(3).tolist() == np.argsort(found.image_scores(), kind="stable")[:3].tolist()
    assert np.isfinite(found.image_scores(1e-300)).all()
    for bad in (0, -1, np.nan, "a", True):
        with pytest.raises(InvalidInputError, match="temperature must be a number above 0"):
            found.image_scores(bad)


def test_tables_of_images():
    labels, planes = images(8, seed=2, noise=0.1)
    found = search(labels, planes, class_names=["sky", "road", "car", "tree"])
    frame = found.to_frame()
    masks = found.mask()
    assert frame["image"].tolist() == sorted(np.flatnonzero(masks.any((1, 2))), key=lambda i: found.image_scores()[i])
    for image, n, score, classes in frame.itertuples(index=False):
        given = labels[image][masks[image]]
        assert (n, score) == (masks[image].sum(), found.image_scores()[image])
        counts = np.bincount(given, minlength=4)
        want = sorted(np.flatnonzero(counts), key=lambda k: (-counts[k], k))
        assert classes == [["sky", "road", "car", "tree"][k] for k in want]
    assert found.to_frame(2).equals(frame[:2])
    pixels = found.rows.to_frame()
    assert pixels.columns[:3].tolist() == ["image", "y", "x"]
    assert all(masks[image, y, x] for image, y, x in pixels[["image", "y", "x"]].values.tolist())
    assert len(found) == found.num_issues == masks.sum()
    assert found.class_summary()["issues"].sum() == found.num_issues


def test_connected_pixels():
    labels, planes = images(5, 25, 31, 3, noise=0.4, signal=1.5)
    found = search(labels, planes)
    for image in range(5):
        mask, predicted = found.mask(image), planes[image].argmax(axis=0)
        want = []
        for label, suggested in itertools.permutations(range(3), 2):
            of_pair = mask & (labels[image] == label) & (predicted == suggested)
            numbers, n = ndimage.label(of_pair, np.ones((3, 3)))
            for number, (y, x) in zip(range(1, n + 1), ndimage.find_objects(numbers), strict=True):
                scores = planes[image][label][numbers == number]
                size = int((numbers == number).sum())
                want.append([size, y.start, y.stop, x.start, x.stop, label, suggested, float(scores.min())])
        frame = found.components(image)
        assert sorted(frame.values.tolist()) == sorted(want)
        assert frame["size"].is_monotonic_decreasing
        assert frame["size"].sum() == mask.sum()
    clean = search(np.zeros((1, 4, 4), int), np.stack([np.full((1, 4, 4), 0.9), np.full((1, 4, 4), 0.1)], 1))
    assert len(clean.components(0)) == len(clean.to_frame()) == 0
    for bad in (-1, 5, "a", 1.5):
        with pytest.raises(InvalidInputError, match="image"):
            found.components(bad)


# Cleanlab ------------------------------------------------------------------------------------------------------------


def random_case(case, absent=False):
    rng = np.random.default_rng(case)
    n_classes, dtype = int(rng.integers(2, 31)), [np.float16, np.float32, np.float64][case % 3]
    n, height, width = int(rng.integers(1, 5)), int(rng.integers(6, 30)), int(rng.integers(6, 30))
    probs = rng.dirichlet(np.full(n_classes, rng.uniform(0.2, 2)), (n, height, width))
    labels = (probs.cumsum(axis=-1) > rng.random((n, height, width, 1))).argmax(axis=-1)
    labels = np.where(rng.random(labels.shape) < 0.2, rng.integers(0, n_classes, labels.shape), labels)
    if absent:
        labels[labels == n_classes - 1] = 0
    else:
        labels.reshape(-1)[:n_classes] = np.arange(n_classes)
    return labels, np.ascontiguousarray(np.moveaxis(probs, -1, 1)).astype(dtype)


@pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem")
@pytest.mark.parametrize("case", range(16))
def test_masks_and_scores_are_cleanlabs(case):
    labels, planes = random_case(case)
    want = their_filter.find_label_issues(labels, planes, n_jobs=1, verbose=False)
    want_images, want_pixels = their_rank.get_label_quality_scores(labels, planes, verbose=False)
    got = our_filter.find_label_issues(labels, planes, n_jobs=1, verbose=False)
    image_scores, pixel_scores = our_rank.get_label_quality_scores(labels, planes, verbose=False)
    np.testing.assert_array_equal(pixel_scores, want_pixels)
    assert pixel_scores.dtype == want_pixels.dtype
    np.testing.assert_array_equal(image_scores, want_images)
    np.testing.assert_allclose(search(labels, planes).image_scores(), want_images, atol=1e-9)
    differing = want != got
    assert len(np.unique(want_pixels[differing])) <= 1, "only pixels that tie at the cut may differ"
    assert want.sum() == got.sum()
    # The modern interface keeps the rule of rows: it leaves out a label that is nearly predicted.
    near = search(labels, planes).mask() != got
    largest = planes.max(axis=1).astype(np.float64)
    assert (largest[near] - want_pixels[near] <= 1e-6).all()


@pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem")
@pytest.mark.parametrize("case", range(6))
def test_an_absent_class_follows_the_rule_of_rows(case):
    labels, planes = random_case(case, absent=True)
    want = find(*flat(labels, planes))
    assert want.confident_thresholds[-1] == 2.0
    found = search(labels, planes)
    assert bits(found.rows) == bits(want)
    near = our_filter.find_label_issues(labels, planes, verbose=False) != found.mask()
    p_label = np.take_along_axis(planes, labels[:, np.newaxis], 1)[:, 0].astype(np.float64)
    assert (planes.max(axis=1)[near] - p_label[near] <= 1e-6).all()


def test_a_tie_of_the_two_largest_is_an_issue_for_cleanlab_only():
    labels = np.array([[[1, 1, 1, 0, 1, 0]]])
    p = np.array([[[0.5, 0.1, 0.9, 0.2, 0.6, 0.9]]])
    planes = np.stack([1 - p, p], axis=1)
    want = their_filter.find_label_issues(labels, planes, verbose=False)
    np.testing.assert_array_equal(our_filter.find_label_issues(labels, planes, verbose=False), want)


def test_blocks_of_pixels_are_an_error_of_the_tree_of_cleanlab():
    labels, planes = images(3, 12, 18)
    with pytest.raises(InvalidInputError, match="downsample=3 is not supported: merge blocks of pixels before"):
        our_filter.find_label_issues(labels, planes, downsample=3, verbose=False)
    with pytest.raises(InvalidInputError, match="downsample=3 is not supported"):
        our_rank.get_label_quality_scores(labels, planes, method="num_pixel_issues", downsample=3, verbose=False)
    np.testing.assert_array_equal(
        our_filter.find_label_issues(labels, planes, downsample=1, verbose=False),
        our_filter.find_label_issues(labels, planes, verbose=False),
    )


@pytest.mark.parametrize("case", range(4))
def test_summaries_are_cleanlabs(case, capsys):
    labels, planes = random_case(case)
    issues = their_filter.find_label_issues(labels, planes, n_jobs=1, verbose=False)
    for choices in ({}, {"top": 3}, {"exclude": [0, 1]}, {"class_names": [f"c{k}" for k in range(planes.shape[1])]}):
        want = their_summary.common_label_issues(issues, labels, planes, verbose=False, **choices)
        got = our_summary.common_label_issues(issues, labels, planes, verbose=False, **choices)
        assert got.columns.tolist() == want.columns.tolist()
        assert got.values.tolist() == want.values.tolist()
    for k in (0, 1, [0, 1], 99):
        np.testing.assert_array_equal(
            our_summary.filter_by_class(k, issues, labels, planes),
            their_summary.filter_by_class(k, issues, labels, planes),
        )
    capsys.readouterr()
    assert our_summary.common_label_issues(issues, labels, planes, top=2).shape == (2, 3)
    assert capsys.readouterr().out.count("\n") == 2
    scores = their_rank.get_label_quality_scores(labels, planes, verbose=False)
    for threshold in (0, 0.05, 0.3, 1):
        for one in (scores, scores[:1]):
            np.testing.assert_array_equal(
                our_rank.issues_from_scores(*one, threshold=threshold),
                their_rank.issues_from_scores(*one, threshold=threshold),
            )


def test_summaries_of_a_result_and_of_lists():
    labels, planes = ragged(seed=1)
    found = search(labels, planes)
    frames = [
        segmentation.summary.common_label_issues(found, verbose=False),
        segmentation.summary.common_label_issues(found, labels, planes, verbose=False),
        segmentation.summary.common_label_issues(found.mask(), labels, planes, verbose=False),
    ]
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    kept = segmentation.summary.filter_by_class(1, found, labels, planes)
    for one, mask, label, plane in zip(kept, found.masks(), labels, planes, strict=True):
        np.testing.assert_array_equal(one, mask & ((label == 1) | (plane.argmax(axis=0) == 1)))


def test_scores_by_the_modern_interface(tmp_path):
    labels, planes = images(5, 8, 12)
    rank = segmentation.rank.get_label_quality_scores
    found = search(labels, planes)
    image_scores, pixel_scores = rank(labels, one(tmp_path, "p", planes), progress=False)
    assert image_scores.tobytes() == found.image_scores().tobytes()
    np.testing.assert_array_equal(pixel_scores, found.pixel_scores())
    shares, _ = rank(labels, planes, method="num_pixel_issues", progress=False)
    np.testing.assert_allclose(shares, 1 - found.mask().mean(axis=(1, 2)))
    with pytest.raises(InvalidInputError, match="method must be one of softmin, num_pixel_issues"):
        rank(labels, planes, method="mean")
    for threshold in (-0.1, 1.5, None, "a"):
        with pytest.raises(InvalidInputError, match="threshold must be a number from 0 to 1"):
            segmentation.rank.issues_from_scores(image_scores, threshold=threshold)
    for scores in ("a", 0.5, [[0.5]], ["a"]):
        with pytest.raises(InvalidInputError, match=r"image_scores must be \(N,\) numbers"):
            segmentation.rank.issues_from_scores(scores)


def test_images_of_several_sizes_are_an_error_of_the_tree_of_cleanlab():
    labels, planes = ragged(seed=1)
    for function in (our_filter.find_label_issues, our_rank.get_label_quality_scores):
        with pytest.raises(InvalidInputError, match="an array of images of one size"):
            function(labels, planes, verbose=False)
        with pytest.raises(InvalidInputError, match="batch_size must be a whole number of at least 1"):
            function(labels, planes, batch_size="a", verbose=False)


def test_shares_of_good_pixels_are_of_labelled_ones():
    labels, planes = images(3, 8, 12, noise=0.3)
    labels[0, 2:], labels[2] = 77, 77
    found = search(labels, planes, ignore_label=77)
    shares, _ = segmentation.rank.get_label_quality_scores(
        labels, planes, method="num_pixel_issues", ignore_label=77, progress=False
    )
    masks = found.mask()
    assert masks[0].sum() > 0
    np.testing.assert_allclose(shares, [1 - masks[0].sum() / 24, 1 - masks[1].mean(), np.nan])


def test_images_are_drawn(monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda **_: shown.append([ax.get_title() for ax in plt.gcf().axes]))
    labels, planes = ragged(seed=1)
    found = search(labels, planes)
    with plt.rc_context({"figure.max_open_warning": 0}):
        segmentation.summary.display_issues(found, top=1)
        segmentation.summary.display_issues(found, labels=labels, pred_probs=planes, top=2, class_names=list("abcd"))
        segmentation.summary.display_issues(found, labels=labels, top=1, exclude=[0])
    plt.close("all")
    worst = int(np.argmax([mask.sum() for mask in found.masks()]))
    issues = f"Image {worst}: issues in red"
    assert shown[0] == [issues]
    assert shown[1] == []
    assert shown[2] == ["Given labels", "Predicted classes", issues]
    assert shown[4] == ["Given labels", issues]
    with pytest.raises(InvalidInputError, match="exclude is about labels"):
        segmentation.summary.display_issues(found, exclude=[0])


# Memory --------------------------------------------------------------------------------------------------------------


def test_planes_of_files_are_read_in_pieces(tmp_path, monkeypatch):
    labels, planes = images(3, 80, 90)
    monkeypatch.setattr("labelsieve.segmentation.rows._PLANE_BYTES", 1)
    largest = []
    read_into = labelsieve.segmentation.rows.read_into
    monkeypatch.setattr(
        "labelsieve.segmentation.rows.read_into", lambda *args: largest.append(args[2].nbytes) or read_into(*args)
    )
    want = search(labels, planes)
    with pieces(strip_bytes=16_000):
        found = search(labels, one(tmp_path, "p", planes))
    assert bits(found.rows) == bits(want.rows)
    assert max(largest) == 4000


def test_images_of_a_chunk_are_planned(tmp_path):
    labels = zarr.create_array(tmp_path / "l.zarr", shape=(100, 512, 512), chunks=(10, 512, 512), dtype="u1")
    planes = zarr.create_array(
        tmp_path / "p.zarr", shape=(100, 20, 512, 512), chunks=(10, 20, 512, 512), dtype="f4", fill_value=0.05
    )
    plan = segmentation.plan_label_issues(labels, planes)
    assert plan.process_bytes > 2 * 10 * 20 * 512 * 512 * 4  # two threads hold a chunk each
    with pytest.raises(MemoryLimitError, match="images of 21 MB"):
        segmentation.plan_label_issues(labels, planes, max_memory="400MB")
    cut = zarr.create_array(
        tmp_path / "q.zarr", shape=(100, 20, 512, 512), chunks=(1, 20, 512, 512), dtype="f4", fill_value=0.05
    )
    assert segmentation.plan_label_issues(labels, cut, max_memory="600MB").n_rows == 100 * 512 * 512


def test_absent_chunks_that_are_a_distribution_are_read(tmp_path):
    planes = zarr.create_array(
        tmp_path / "p.zarr", shape=(20, 4, 300, 300), chunks=(1, 4, 300, 300), dtype="f4", fill_value=0.25
    )
    zarr.create_array(tmp_path / "l.zarr", shape=(20, 300, 300), chunks=(1, 300, 300), dtype="u1")
    planes[3, :, 10, 10] = [0.1, 0.7, 0.1, 0.1]
    with (
        pytest.warns(LabelsieveWarning, match="20 of 20 chunks of labels"),
        pytest.warns(LabelsieveWarning, match="19 of 20 chunks of pred_probs .* read as 0.25"),
    ):
        found = search(tmp_path / "l.zarr", tmp_path / "p.zarr", max_memory="1GiB")
    assert found.num_issues == 0
    zarr.create_array(tmp_path / "q.zarr", shape=(20, 4, 30, 30), chunks=(1, 4, 30, 30), dtype="f4")
    with pytest.raises(InvalidInputError, match="missing chunk"):
        search(np.zeros((20, 30, 30), int), tmp_path / "q.zarr")


# Bad input -----------------------------------------------------------------------------------------------------------

LABELS, PLANES = images()


def changed(array, place, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[place] = value
    return array


BAD = {
    "size": (LABELS[:, :8], PLANES, "image 0: the mask has 8 x 13 pixels, pred_probs 9 x 13 .5 more images differ"),
    "swapped": (
        LABELS.swapaxes(1, 2),
        PLANES,
        r"the mask has 13 x 9 .* pred_probs 9 x 13 .*: are the axes of one swap",
    ),
    "scaled": (np.repeat(np.repeat(LABELS, 4, 1), 4, 2), PLANES, "predictions are smaller by a factor of 4"),
    "one size": ([*LABELS[:3], LABELS[3, :5], *LABELS[4:]], list(PLANES), "image 3: the mask has 5 x 13 pixels, pred_"),
    "number": (LABELS[:5], PLANES, "5 masks, 6 images of pred_probs"),
    "float": (LABELS.astype(float), PLANES, r"masks must be integers 0..K-1, not float64: convert them to integers"),
    "text": (LABELS.astype(str), PLANES, "masks must be integers 0..K-1, not <U21: each pixel has the number"),
    "out of range": (
        changed(LABELS, (2, 3, 4), 9),
        PLANES,
        r"1 label outside 0..3 in image 2, y 3, x 4 \(first: 9\)$",
    ),
    "255": (
        changed(LABELS, np.s_[2, 3, 4:7], 255, "u1"),
        PLANES,
        r"3 labels outside 0..3 in image 2, y 3, x 4..6 \(first: 255\). If 255 .* give ignore_label=255",
    ),
    "negative": (changed(LABELS, np.s_[1:3], -1), PLANES, r"234 labels outside 0..3 in images 1..2 \(first: -1\)"),
    "NaN": (LABELS, changed(PLANES, (5, 1, 8, 12), np.nan), "1 NaN probability in image 5, y 8, x 12$"),
    "above": (LABELS, changed(PLANES, (0, 1, 0, 2), 1.5), r"1 probability above 1 in image 0, y 0, x 2 \(first: 1.5"),
    "zeros": (LABELS, changed(PLANES, 4, 0), "117 rows of pred_probs that are all zeros, image 4: missing chunk"),
    "sums": (LABELS, changed(PLANES, 4, 0.2), "117 rows of pred_probs do not sum to 1 within 0.05, image 4 "),
    "one-hot": (np.eye(4, dtype=int)[LABELS], PLANES, r"labels must have shape .* one-hot masks take labels.argmax"),
    "one-hot first": (np.moveaxis(np.eye(4, dtype=int)[LABELS], -1, 1), PLANES, "of one-hot masks take labels.argmax"),
    "classes last": (
        LABELS,
        np.moveaxis(PLANES, 1, -1),
        r"classes last.*pred_probs = np.moveaxis\(pred_probs, -1, 1\)",
    ),
    "classes last, list": (
        list(LABELS),
        list(np.moveaxis(PLANES, 1, -1)),
        r"\[np.moveaxis\(one, -1, 0\) for one in pred_probs\]",
    ),
    "empty list": ([], [], "labels is an empty list: there are no images"),
    "no images": (LABELS[:0], PLANES[:0], "labels has no images"),
    "no pixels": (LABELS[:, :0], PLANES[:, :, :0], r"image 0 of labels has no pixels: its size is \[0, 13\]"),
    "one image": (
        LABELS[0],
        PLANES[0],
        r"labels has shape \(9, 13\), that of a single image: give labels\[np.newaxis\]",
    ),
    "flat rows": (LABELS.reshape(-1), PLANES, r"labels must have shape \(N, H, W\), or \(H, W\) for one image, not"),
    "rows": (LABELS, PLANES.reshape(-1, 4), r"pred_probs must have shape \(N, K, H, W\), or .* not \(702, 4\)"),
    "one plane": (LABELS, PLANES[:, :1], "pred_probs has 1 plane for each image; .*both"),
    "planes differ": (
        list(LABELS),
        [*PLANES[:5], PLANES[5, :3]],
        "image 5 of pred_probs has 3 planes, image 0 has 4",
    ),
    "integers": (LABELS, (PLANES * 100).astype(int), "pred_probs must be float16, float32 or float64, not int64"),
    "ragged lists": ([[[0, 1], [0]]], PLANES, "labels is a list of lists that differ in length"),
    "swapped arguments": (PLANES, LABELS, "labels come first, then pred_probs|one-hot"),
    "no such file": ("masks.npy", PLANES, "labels: there is no file .*masks.npy"),
    "no such pattern": ("nothing-*.png", PLANES, "labels: no file matches"),
    "folds": (LABELS, Folds([(PLANES, np.arange(6))]), "Folds are of rows"),
    "mixed list": ([*LABELS[:5], da.from_array(LABELS[5])], PLANES, "labels is a list of Dask arrays and others"),
    "nothing": (None, PLANES, "labels is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name, tmp_path):
    labels, planes, text = BAD[name]
    with pytest.raises(LabelsieveError, match=text) as caught:
        search(labels, planes, output=tmp_path / "out.zarr")
    assert isinstance(caught.value, InvalidInputError | InputTypeError)
    assert list(tmp_path.iterdir()) == []


def test_bad_image_files(tmp_path):
    _, planes = images(2)
    Image.fromarray(np.zeros((9, 13, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InvalidInputError, match="is an image of mode RGB, whose pixels are not numbers of classes"):
        search(str(tmp_path / "a.png"), planes)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InvalidInputError, match="is not a readable image"):
        search([tmp_path / "a.png"], planes)
    masks = pngs(tmp_path, LABELS[:2])
    content = (tmp_path / "mask-1.png").read_bytes()
    (tmp_path / "mask-1.png").write_bytes(content[:-30])
    with pytest.raises(UnreadableDataError, match=r"mask-1\.png is not a readable image"):
        search(masks, planes, retries=0)


@pytest.mark.parametrize("mode", ["P", "I;16"])
def test_masks_with_palettes_and_of_16_bits(mode, tmp_path):
    labels, planes = images(2)
    assert bits(search(pngs(tmp_path, labels, mode), planes).rows) == bits(search(labels, planes).rows)


def test_masks_of_two_classes_may_be_booleans():
    labels, planes = images(n_classes=2)
    assert bits(search(labels.astype(bool), planes).rows) == bits(search(labels, planes).rows)


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"downsample": 3}, "has no argument 'downsample': merge blocks of pixels before the call, and give the small"),
        ({"n_classes": 4}, "has no argument 'n_classes': pred_probs has a plane for each class"),
        ({"return_mask": True}, r"has no argument 'return_mask': the result has .mask\(\), and .mask\(i\)"),
        ({"ignorelabel": 255}, "did you mean 'ignore_label'"),
        ({"data": {}}, "has no argument 'data': give labels and pred_probs as arrays or files"),
        ({"ignore_label": "unknown"}, "ignore_label must be a number; not 'unknown'"),
        ({"class_names": ["a"]}, "class_names"),
    ],
)
def test_bad_settings(choices, text):
    with pytest.raises(LabelsieveError, match=text):
        search(LABELS, PLANES, **choices)


def test_an_output_that_is_an_input(tmp_path):
    path = to_zarr(tmp_path / "p.zarr", PLANES, (2, *PLANES.shape[1:]))
    with pytest.raises(InvalidInputError, match="is an input or lies in one"):
        search(LABELS, path, output=path)
    with pytest.raises(InvalidInputError, match="is an input or lies in one"):
        search(LABELS, [str(path)], output=path)


def test_a_plan():
    plan = segmentation.plan_label_issues(LABELS, PLANES)
    assert (plan.n_rows, plan.n_classes, plan.bytes_read) == (LABELS.size, 4, PLANES.nbytes)
    with pytest.raises(InputTypeError, match="has no argument 'worker'"):
        segmentation.plan_label_issues(LABELS, PLANES, worker="1MB")


# Reports -------------------------------------------------------------------------------------------------------------


def pictures_of(page):
    """Return the pictures of a report by the number of their image."""
    found = re.findall(r'class="large" src="data:image/(?:png|jpeg);base64,([^"]+)" alt="Image (\d+)', page)
    return {int(number): np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, number in found}


def test_a_report_shows_the_wrong_pixels_of_the_worst_images(tmp_path):
    labels, planes = images(30, noise=0.1, seed=4)
    found = search(labels, planes, class_names=["sky", "road", "car", "tree"])
    pictures = np.random.default_rng(0).integers(0, 256, (30, 9, 13, 3), np.uint8)
    found.report(tmp_path / "a.html", images=pictures, top=50)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    drawn = pictures_of(page)
    assert list(drawn) == found.to_frame(20)["image"].tolist()
    for number, picture in drawn.items():
        mask = found.mask(number)
        np.testing.assert_array_equal(picture[~mask], pictures[number][~mask])
        assert (picture[mask][:, 0] >= 143).all()
    assert page.count('<th scope="row" class="number"') == 20 + 50
    found.report(tmp_path / "b.html", top=3)
    gray = pictures_of((tmp_path / "b.html").read_text(encoding="utf-8"))
    assert [(one[~found.mask(i)] == 225).all() for i, one in gray.items()] == [True] * 3


def test_a_report_of_images_of_different_sizes(tmp_path):
    labels, planes = ragged(seed=1)
    found = search(labels, planes)
    pictures = [np.linspace(0, 1, mask.size).reshape(mask.shape) for mask in labels]
    found.report(tmp_path / "a.html", images=pictures)
    for number, picture in pictures_of((tmp_path / "a.html").read_text(encoding="utf-8")).items():
        assert picture.shape == (*labels[number].shape, 3)
    for bad, text in (
        (pictures[:2], "there are 2 pictures, and there must be 6"),
        ([one[:1, :1] for one in pictures], r"the picture of image \d has 1 x 1 pixels, its mask \d"),
        (np.zeros((5, 9, 9)), r"images must have shape \(6, H, W\)"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            found.report(tmp_path / "c.html", images=bad)
    with pytest.raises(InvalidInputError, match=r"must end in \.html"):
        found.report(tmp_path / "c.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_ids_name_the_images(tmp_path):
    names = [f"scan-{image}.png" for image in range(len(LABELS))]
    found = search(LABELS, PLANES, ids=names, output=tmp_path / "found.zarr")
    table = found.rows.to_frame()
    assert len(table) > 5
    assert table["id"].tolist() == [names[image] for image in table["image"]]
    with pytest.raises(InvalidInputError, match=r"ids have shape \(2,\), there are 6 images"):
        search(LABELS, PLANES, ids=names[:2])
