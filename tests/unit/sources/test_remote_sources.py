"""URLs of S3, memory and the web, folders and lists of shards: the same bits, read once, and nothing secret shown."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import dask
import fsspec
import numcodecs
import numpy as np
import pytest
import zarr

import labelsieve
import s3
from draws import assert_same_array, assert_same_bits, draw, find, in_turn
from labelsieve.cli import app
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning, UnreadableDataError
from labelsieve.execution.executor import LocalExecutor
from labelsieve.execution.graph import Task, map_blocks
from labelsieve.job import inputs as opening
from labelsieve.job.inputs import open_inputs
from labelsieve.job.scan import class_sums
from labelsieve.sources import npy as remote_npy
from labelsieve.sources import zarr as remote_zarr
from labelsieve.sources import zarr as zarr_chunks
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.npy import Member, NpySource, RemoteNpySource
from labelsieve.sources.objects import Prefetcher, ahead_bytes, n_ahead
from labelsieve.sources.open import ArraySource, open_labels, open_pred_probs
from labelsieve.sources.source import natural_key
from labelsieve.sources.zarr import RemoteZarrSource, ZarrSource
from labelsieve.storage.remote import cause_of, check_place, without_query
from processes import PATIENCE_S, wait_until
from workdirs import shift_time

N_ROWS, N_CLASSES = 1000, 6
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=21)
LAYOUTS = {
    "whole rows": {"chunks": (70, 6)},
    "whole rows, format 2": {"chunks": (70, 6), "zarr_format": 2},
    "plain": {"chunks": (70, 6), "compressors": None},
    "blosc": {"chunks": (70, 6), "compressors": zarr.codecs.BloscCodec()},
    "lz4": {"chunks": (70, 6), "zarr_format": 2, "compressors": numcodecs.LZ4()},
    "gzip": {"chunks": (70, 6), "compressors": zarr.codecs.GzipCodec()},
    "split classes": {"chunks": (70, 4)},
    "shards": {"chunks": (70, 6), "shards": (210, 6)},
}
DIRECT = ["whole rows", "whole rows, format 2", "plain", "blosc", "lz4"]


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.fixture(scope="module")
def server():
    with s3.running_server() as running:
        yield running


@pytest.fixture(scope="module")
def stored_once(server):
    """Objects that no test writes to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        server.set_environment(monkeypatch)
        fs = fsspec.filesystem("s3")
        fs.mkdir(s3.BUCKET)
        fill(f"s3://{s3.BUCKET}")
    s3.clear_clients()


@pytest.fixture
def bucket(server, stored_once, monkeypatch):
    """The URL of a bucket, in an environment where clients find it."""
    server.set_environment(monkeypatch)
    yield f"s3://{s3.BUCKET}"
    s3.clear_clients()


@pytest.fixture
def memory():
    """The URL of a folder in fsspec's memory, which only this process sees."""
    fs = fsspec.filesystem("memory")
    yield "memory://folder"
    fs.rm("/", recursive=True)
    fs.store.clear()


def fill(root):
    """Store the inputs in every kind under `root`."""
    save(f"{root}/labels.npy", LABELS)
    save(f"{root}/probs.npy", PROBS)
    for name, layout in LAYOUTS.items():
        write_zarr(f"{root}/{name.replace(' ', '_').replace(',', '')}.zarr", PROBS, **layout)
    write_zarr(f"{root}/labels.zarr", LABELS, chunks=(70,))
    for i, part in enumerate(np.array_split(PROBS, 12)):
        save(f"{root}/npy-shards/pred_probs-{i}.npy", part)
    for i in range(4):
        write_zarr(f"{root}/zarr-shards/p{i}.zarr", PROBS[i * 250 : (i + 1) * 250], chunks=(50, 6))


def layout_url(root, layout):
    return f"{root}/{layout.replace(' ', '_').replace(',', '')}.zarr"


def save(url, array, **options):
    with fsspec.open(url, "wb", **options) as file:
        np.save(file, array)


def write_zarr(url, data, **layout):
    if not url.startswith("s3://"):
        zarr.create_array(url, shape=data.shape, dtype=data.dtype, **layout)[:] = data
        return
    # Zarr's own client of S3 would never be closed.
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, shape=data.shape, dtype=data.dtype, **layout)[:] = data
    fs = fsspec.filesystem("s3")
    fs.pipe({f"{url}/{key}": buffer.to_bytes() for key, buffer in store._store_dict.items()})


# The same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_zarr_on_s3_gives_the_bits_of_the_array_in_memory(bucket, want, layout):
    assert_same_bits(find(f"{bucket}/labels.zarr", layout_url(bucket, layout)), want)


@pytest.mark.every_value
@pytest.mark.parametrize("batch_size", [70, 33, 140, 5000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_zarr_in_memory_gives_the_bits_whatever_the_batches(memory, want, layout, batch_size):
    write_zarr(f"{memory}/p.zarr", PROBS, **LAYOUTS[layout])
    found = find(LABELS, f"{memory}/p.zarr", batch_size=batch_size, partition_batches=2)
    assert_same_bits(found, want)


def test_npy_on_s3_gives_the_bits_of_the_array_in_memory(bucket, want):
    assert_same_bits(find(f"{bucket}/labels.npy", f"{bucket}/probs.npy"), want)
    again = {"method": "normalized_margin", "adjust_pred_probs": True}
    assert_same_bits(find(f"{bucket}/labels.npy", f"{bucket}/probs.npy", **again), find(LABELS, PROBS, **again))


@pytest.mark.every_value
@pytest.mark.parametrize("batch_size", [1, 33, 5000])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_npy_in_memory_gives_the_bits_whatever_the_requests(memory, monkeypatch, dtype, batch_size):
    probs = PROBS[:300].astype(dtype)
    save(f"{memory}/p.npy", probs)
    monkeypatch.setattr(remote_npy, "_REQUEST_BYTES", 17 * probs.itemsize * N_CLASSES)
    got = find(LABELS[:300], f"{memory}/p.npy", batch_size=batch_size, partition_batches=7)
    assert_same_bits(got, find(LABELS[:300], probs))


def test_the_web_gives_the_same_bits(bucket, server, want):
    fs = fsspec.filesystem("s3")
    urls = [fs.sign(f"{s3.BUCKET}/{name}.npy") for name in ("labels", "probs")]
    assert all("Signature" in url for url in urls)
    assert_same_bits(find(*urls), want)
    save(f"{bucket}/no-suffix", PROBS)
    assert_same_bits(find(LABELS, fs.sign(f"{s3.BUCKET}/no-suffix")), want)
    write_zarr(f"{bucket}/public.zarr", PROBS, chunks=(100, 6))
    for path in fs.find(f"{s3.BUCKET}/public.zarr"):
        fs.chmod(path, acl="public-read")
    assert_same_bits(find(LABELS, f"{server.url}/{s3.BUCKET}/public.zarr"), want)


def test_file_urls_are_paths(tmp_path, want):
    np.save(tmp_path / "p q.npy", PROBS)
    write_zarr(str(tmp_path / "p.zarr"), PROBS, chunks=(70, 6))
    opened = open_pred_probs((tmp_path / "p q.npy").as_uri())
    assert isinstance(opened, NpySource)
    assert opened.facts.forkable
    assert_same_bits(find(LABELS, (tmp_path / "p q.npy").as_uri()), want)
    assert_same_bits(find(LABELS, f"file://{tmp_path}/p.zarr"), want)


def test_file_systems_may_be_chained(tmp_path, bucket, want):
    found = find(LABELS, f"simplecache::{bucket}/probs.npy")
    assert_same_bits(found, want)
    np.save(tmp_path / "p.npy", PROBS)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "p.npy", "p.npy")
    assert_same_bits(find(LABELS, f"zip://p.npy::file://{tmp_path}/all.zip"), want)


def test_an_array_opened_by_its_user_on_fsspec_is_read_ahead(bucket, tmp_path):
    # In a process of its own: Zarr's client of S3 is never closed, which aiohttp reports.
    np.save(tmp_path / "probs.npy", PROBS)
    code = """
        import pickle, sys
        import numpy as np, zarr
        from labelsieve.sources import zarr as remote_zarr
        from labelsieve.sources.open import open_pred_probs
        from labelsieve.sources.zarr import RemoteZarrSource

        source = open_pred_probs(zarr.open_array(sys.argv[1], mode="r"))
        assert isinstance(source, RemoteZarrSource) and source.where == sys.argv[1], source
        source = pickle.loads(pickle.dumps(source))
        with source.open(0, 140) as rows:
            assert isinstance(rows, remote_zarr._DirectChunks), rows
        assert np.array_equal(source[:], np.load(sys.argv[2]))
        source.reachable()
        assert source.identity()["content"]["stamp"]
        source.note_version()
        assert len(set(source.part_identities([(0, 70), (70, 700)]))) == 2
    """
    command = [sys.executable, "-c", textwrap.dedent(code), layout_url(bucket, "whole rows"), tmp_path / "probs.npy"]
    subprocess.run(command, check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("layout", ["whole rows", "shards"])
def test_an_array_opened_by_its_user_on_a_wrapped_file_system(memory, want, layout):
    write_zarr(f"{memory}/p.zarr", PROBS, **LAYOUTS[layout])
    array = zarr.open_array(f"{memory}/p.zarr", mode="r")
    assert_same_bits(find(LABELS, array, batch_size=70), want)
    assert open_pred_probs(array).where == "memory:///folder/p.zarr"
    assert open_pred_probs(array).identity()["content"]


def test_an_array_on_a_file_system_that_cannot_be_made_anew_is_read_by_zarr(tmp_path, want):
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from fsspec.implementations.dirfs import DirFileSystem

    write_zarr(str(tmp_path / "p.zarr"), PROBS, chunks=(70, 6))
    inner = AsyncFileSystemWrapper(fsspec.filesystem("file"), asynchronous=True)
    store = zarr.storage.FsspecStore(DirFileSystem(str(tmp_path), inner, asynchronous=True), path="p.zarr")
    source = open_pred_probs(zarr.open_array(store, mode="r"))
    assert source.identity()["content"] is None
    assert source.part_identities([(0, 70)]) == [""]
    assert_same_bits(find(LABELS, source), want)


# Reading ----------------------------------------------------------------------------------------------------------


def reads(server, name):
    """Return how often each object under `name` was asked for, by path and range."""
    return Counter(
        (path.rpartition(f"{name}/")[2], asked)
        for method, path, asked in server.requests()
        if method in ("GET", "HEAD") and f"/{name}/" in path and re.search(r"/\d+$", path)
    )


@pytest.mark.parametrize("batch_size", [70, 140, 25])
def test_each_chunk_on_s3_takes_one_request(bucket, server, batch_size):
    server.requests()
    find(LABELS, layout_url(bucket, "whole rows"), batch_size=batch_size, partition_batches=2)
    asked = reads(server, "whole_rows.zarr")
    assert sorted(asked.values()) == [1] * 15
    assert {path for path, _ in asked} == {f"c/{i}/0" for i in range(15)}


@pytest.mark.parametrize(("chunk", "most"), [(70, 1), (35, 1), (50, 2)])
def test_labels_on_s3_are_read_where_their_rows_are_and_nowhere_else(tmp_path, bucket, server, want, chunk, most):
    url, local = f"{bucket}/labels-{chunk}.zarr", tmp_path / f"labels-{chunk}.zarr"
    zarr.create_array(local, shape=LABELS.shape, chunks=(chunk,), dtype=LABELS.dtype)[:] = LABELS
    fsspec.filesystem("s3").put(str(local), url, recursive=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labelsieve.job.inputs._READ_FIRST_BYTES", -1)
        server.requests()
        found = find(url, layout_url(bucket, "whole rows"), batch_size=70, partition_batches=1)
    assert_same_bits(found, want)
    asked = reads(server, f"labels-{chunk}.zarr")
    assert len(asked) == -(-N_ROWS // chunk)
    # Only a chunk in which a partition ends is the next one's too.
    assert set(asked.values()) == {1, most}


@pytest.mark.every_value
@pytest.mark.parametrize(
    ("act", "choice"),
    [*itertools.product(["find", "plan"], ["labels", "pred_probs", "shards", "workdir", "output"]), ("find", "ids")],
)
@pytest.mark.parametrize("secret", ["s3cret", "s3/cret"])
def test_a_url_with_a_password_is_refused_and_the_password_is_not_repeated(choice, act, secret):
    place = f"s3://me:{secret}@nowhere/w.zarr"
    data = {"labels": LABELS, "pred_probs": PROBS} | {choice: place}
    if choice == "shards":
        data = {"labels": LABELS, "pred_probs": ["s3://bucket/a.zarr", data.pop("shards")]}
    do = find if act == "find" else labelsieve.plan_label_issues
    with pytest.raises(InvalidInputError, match=r"the s3:// URL has a password or a token in it: .*~/\.aws") as caught:
        do(data.pop("labels"), data.pop("pred_probs"), **data)
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert not re.search(r"s3.?cret|me:", shown)


@pytest.mark.parametrize("option", ["labels", "-o", "--workdir", "--ids", "--class-names", "--report", "--images"])
def test_the_command_line_does_not_repeat_a_password(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("probs.npy", PROBS)
    url = "https://me:s3cret@host/p.zarr"
    args = [url, "probs.npy"] if option == "labels" else ["labels.npy", "probs.npy", option, url]
    assert app.run(["find", *args, *(["--report", "r.html"] if option == "--images" else [])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has a password or a token in it" in said
    assert "s3cret" not in said


def test_an_array_that_its_user_opened_with_a_password_is_refused_too():
    store = zarr.storage.FsspecStore.from_url("https://me:s3cret@127.0.0.1:9/p.zarr", read_only=True)
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=PROBS.shape, dtype=PROBS.dtype)
    array = zarr.Array(zarr.AsyncArray(array.metadata, zarr.storage.StorePath(store)))
    with pytest.raises(InvalidInputError, match="pred_probs: the https:// URL has a password"):
        open_pred_probs(array)


@pytest.mark.parametrize(
    "args",
    [
        ("{}/labels.npy", "{}/probs.npy"),
        ("{}/labels.zarr", "{}/whole_rows.zarr"),
        ("labels.npy", "{}/*.npy"),
        ("labels.npy", "{}/npy-shards"),
        ("labels.npy", "probs.npy", "--workdir", "{}/without"),
        ("labels.npy", "probs.npy", "-o", "{}/without.zarr"),
    ],
    ids=str,
)
def test_missing_credentials_exit_2_as_a_missing_bucket_does(bucket, args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("probs.npy", PROBS)
    assert app.run(["find", "labels.npy", "s3://nowhere/probs.npy"]) == 2
    assert "there is no file s3://nowhere/probs.npy" in capsys.readouterr().err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3.clear_clients()
    assert app.run(["find", *(arg.format(bucket) for arg in args)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{bucket}/" in said
    assert "cannot be opened without credentials (NoCredentialsError: Unable to locate credentials)" in said


def test_an_error_of_the_labels_does_not_wait_for_a_store_that_hangs(bucket, monkeypatch):
    inner, asked, answered = opening.open_pred_probs, threading.Event(), threading.Event()

    def hangs(opened, **choices):
        asked.set()
        answered.wait(PATIENCE_S)
        return inner(opened, **choices)

    monkeypatch.setattr(opening, "open_pred_probs", hangs)
    try:
        with pytest.raises(InvalidInputError, match=r"labels: there is no file .*none\.npy"):
            find(f"{bucket}/none.npy", f"{bucket}/probs.npy")
        assert asked.is_set()
        assert not answered.is_set()
    finally:
        answered.set()
        for thread in threading.enumerate():
            if thread.name == "labelsieve-open":
                thread.join(PATIENCE_S)


def test_opening_an_npy_on_s3_takes_two_small_requests(bucket, server):
    server.requests()
    source = open_pred_probs(f"{bucket}/probs.npy")
    assert [(method, asked) for method, _, asked in server.requests()] == [("HEAD", None), ("GET", "bytes=0-10239")]
    with source.open(0, N_ROWS) as rows:
        assert_same_array(rows.read(0, 400).copy(), PROBS[:400])
        assert_same_array(rows.read(400, N_ROWS).copy(), PROBS[400:])
    assert len(server.requests()) == 1


def test_a_description_makes_no_request_until_it_is_read(bucket, server):
    sources = [open_pred_probs(f"{bucket}/probs.npy"), open_pred_probs(layout_url(bucket, "whole rows"))]
    server.requests()
    travelled = [pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(source)))) for source in sources]
    assert [repr(source) for source in travelled] == [repr(source) for source in sources]
    assert server.requests() == []
    with travelled[1].open(70, 140) as rows:
        assert_same_array(rows.read(70, 140).copy(), PROBS[70:140])
    assert [asked[0] for asked in reads(server, "whole_rows.zarr")] == ["c/1/0"], "and none for the metadata"


ORDERS = {
    "forward": [(0, 100), (100, 130), (130, 400), (400, 1000)],
    "with gaps": [(10, 20), (300, 330), (330, 333), (901, 1000)],
    "backward": [(900, 1000), (500, 900), (0, 10), (0, 1000)],
    "again": [(0, 100), (0, 100), (50, 150), (50, 150)],
    "before and behind": [(0, 50), (700, 900), (999, 1000), (150, 650)],
}


@pytest.mark.parametrize(
    ("order", "promise", "kind"),
    [
        (order, promise, kind)
        for order in ORDERS
        for promise, kind in in_turn(
            [(0, None), (0, 1000), (100, 700), (333, 334), (500, 500), (100, 700)],
            ["npy", "whole rows", "shards", "npy shards", "zarr shards"],
        )
    ],
    ids=str,
)
def test_reads_outside_the_promise_are_right_too(memory, monkeypatch, kind, order, promise):
    monkeypatch.setattr(remote_npy, "_REQUEST_BYTES", 64 * 48)
    if kind == "npy":
        save(f"{memory}/p.npy", PROBS)
    elif kind.endswith("y shards"):
        for i, part in enumerate(np.array_split(PROBS, 7)):
            save(f"{memory}/p.npy/p-{i}.npy", part)
    elif kind == "zarr shards":
        for i, part in enumerate(np.array_split(PROBS, 4)):
            write_zarr(f"{memory}/p.npy/p-{i}.zarr", part, chunks=(70, 6))
    else:
        write_zarr(f"{memory}/p.zarr", PROBS, **LAYOUTS[kind])
    url = {"npy": "p.npy", "npy shards": "p.npy/*", "zarr shards": "p.npy/*"}.get(kind, "p.zarr")
    source = open_pred_probs(f"{memory}/{url}")
    with source.open(*promise) as rows:
        for start, stop in ORDERS[order]:
            assert_same_array(rows.read(start, stop).copy(), PROBS[start:stop])


def test_read_ahead_holds_what_it_says_and_no_more():
    lock, held, most, fetched = threading.Lock(), set(), [0], Counter()

    def fetch(index):
        with lock:
            fetched[index] += 1
            held.add(index)
            most[0] = max(most[0], len(held))
        return b"%d" % index

    ahead = Prefetcher(fetch, 0, 200, depth=4)
    ahead.start()
    for index in [*range(50), *range(120, 200)]:
        assert ahead.take(index) == b"%d" % index
        with lock:
            held -= {i for i in held if i <= index}
    ahead.close()
    assert most[0] <= 5, "four ahead, and the one that is taken"
    assert {fetched[i] for i in [*range(50), *range(120, 200)]} == {1}
    assert sum(fetched.values()) <= 134


def test_the_bound_of_read_ahead_is_known_beforehand(memory):
    assert [n_ahead(size) for size in (1, 2_000_000, 16_000_000, 40_000_000, 10**9)] == [32, 32, 4, 2, 2]
    assert ahead_bytes(40_000_000) == 160_000_000
    write_zarr(f"{memory}/p.zarr", PROBS, chunks=(70, 6))
    save(f"{memory}/p.npy", PROBS)
    assert open_pred_probs(f"{memory}/p.zarr").facts.prefetch_bytes == 34 * remote_zarr.stored_limit(70 * 48)
    assert open_pred_probs(f"{memory}/p.npy").facts.prefetch_bytes == 34 * PROBS.nbytes
    assert ArraySource(PROBS).facts.prefetch_bytes == 0


def test_an_error_while_reading_ahead_names_the_rows_and_leaves_no_thread(memory):
    write_zarr(f"{memory}/p.zarr", PROBS, chunks=(70, 6))
    fs = fsspec.filesystem("memory")
    fs.pipe("/folder/p.zarr/c/3/0", b"no chunk at all")
    with pytest.raises(UnreadableDataError, match=r"memory:///folder/p.zarr/c/3/0 \(rows from 210\)"):
        find(LABELS, f"{memory}/p.zarr", batch_size=70)
    # Other partitions may still be on the way.
    wait_until(lambda: not any("labelsieve-prefetch" in thread.name for thread in threading.enumerate()))


@pytest.mark.parametrize("layout", DIRECT)
@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "another"])
def test_damaged_chunks_are_errors(memory, layout, damage):
    write_zarr(f"{memory}/p.zarr", PROBS, **LAYOUTS[layout])
    fs = fsspec.filesystem("memory")
    [path] = [path for path in fs.find("/folder/p.zarr") if re.search(r"/(c/)?2[/.]0$", path)]
    good = fs.cat_file(path)
    bad = {"empty": b"", "cut": good[: len(good) // 2], "longer": good + good * 9, "another": b"{}" * 100}[damage]
    fs.pipe(path, bad)
    if layout == "lz4" and damage == "longer":
        pytest.skip("what follows the frame is not looked at, here as on disk")
    if damage == "longer" and layout.startswith("whole"):
        pytest.skip("what follows the frame is not looked at, here as on disk")
    with pytest.raises(UnreadableDataError, match=r"rows from 140"):
        find(LABELS, f"{memory}/p.zarr")


def test_missing_chunks_are_the_fill_value(bucket):
    fs = fsspec.filesystem("s3")
    write_zarr(f"{bucket}/holes.zarr", np.full(PROBS.shape, 1 / 6), chunks=(70, 6), fill_value=1 / 6)
    assert len(fs.find(f"{bucket}/holes.zarr")) == 1
    source = open_pred_probs(f"{bucket}/holes.zarr")
    source.note_version()
    with source.open(0, N_ROWS) as rows:
        assert (rows.read(0, N_ROWS) == 1 / 6).all()


def test_an_object_cut_while_in_use_is_an_error(memory):
    save(f"{memory}/p.npy", PROBS)
    source = open_pred_probs(f"{memory}/p.npy")
    source.reachable()
    fs = fsspec.filesystem("memory")
    fs.pipe("/folder/p.npy", fs.cat_file("/folder/p.npy")[:-100])
    with pytest.raises(UnreadableDataError, match=r"its size was 48,128 bytes and is 48,028"):
        source.reachable()
    with pytest.raises(UnreadableDataError, match=r"p.npy ended before byte 48,128 \(rows 0..999\)"):
        source[:]
    fs.rm("/folder/p.npy")
    with pytest.raises(UnreadableDataError, match="is gone"):
        source[:]
    with pytest.raises(UnreadableDataError, match=r"memory://folder/p\.npy was there when the run began, and is gone"):
        source.reachable()
    with pytest.raises(InvalidInputError, match=r"labels: there is no file"):
        open_labels(f"{memory}/p.npy")


class WholeFiles(fsspec.get_filesystem_class("memory")):
    """A server that knows no ranges."""

    protocol = "wholefiles"
    sized = True

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("wholefiles://").strip("/")

    def cat_file(self, path, start=None, end=None, **_):
        return super().cat_file(path)

    def info(self, path, **_):
        return super().info(path) | ({} if self.sized else {"size": None})


def test_a_server_that_sends_whole_files_or_tells_no_size_is_refused(memory, monkeypatch):
    fsspec.register_implementation("wholefiles", WholeFiles, clobber=True)
    save(f"{memory}/p.npy", PROBS)
    with pytest.raises(UnreadableDataError, match="sends the whole file"):
        open_pred_probs("wholefiles://folder/p.npy")
    monkeypatch.setattr(WholeFiles, "sized", False)
    with pytest.raises(InvalidInputError, match="does not report the size"):
        open_pred_probs("wholefiles://folder/p.npy")


# Refusals ---------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(bucket, memory):
    for url in (f"{bucket}/no.npy", "s3://no-such-bucket/p.npy", f"{memory}/no.npy"):
        with pytest.raises(
            InvalidInputError, match=f"pred_probs: there is no file {url.replace('memory:/', 'memory://')}"
        ):
            open_pred_probs(url)
    for url in (f"{bucket}/no.zarr", "s3://no-such-bucket/p.zarr"):
        with pytest.raises(InvalidInputError, match=f"labels: there is no Zarr array at {url}"):
            open_labels(url)
    for url in (f"{bucket}/nothing", f"{memory}/nothing", "s3://no-such-bucket", "s3://no-such-bucket/deep"):
        with pytest.raises(InvalidInputError, match=f"labels: there is nothing at {url}"):
            open_labels(url)
    for url in (f"{bucket}/no-*.npy", "s3://no-such-bucket/p-*"):
        with pytest.raises(InvalidInputError, match=r"labels: no file matches s3://"):
            open_labels(url)


def test_what_may_not_be_read_says_so_in_one_line(bucket, server):
    for url in (f"{bucket}/forbidden.npy", f"{bucket}/forbidden.zarr", f"{bucket}/forbidden"):
        with pytest.raises(UnreadableDataError) as caught:
            open_pred_probs(url)
        assert re.fullmatch(rf"pred_probs: {url} is not readable: PermissionError: [^\n]+", str(caught.value))
        assert caught.value.__cause__ is None


def test_missing_credentials_say_so_in_one_line(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3.clear_clients()
    for name in ("probs.npy", "labels.zarr", ""):
        with pytest.raises(InvalidInputError, match=r"\(NoCredentialsError: Unable to locate credentials\): give them"):
            open_pred_probs(f"{bucket}/{name}")


def test_hateful_objects_are_refused(memory):
    fs = fsspec.filesystem("memory")
    objects = np.array([{"a": 1}, None], dtype=object)
    with fs.open("/folder/o.npy", "wb") as file:
        np.save(file, objects, allow_pickle=True)
    save(f"{memory}/f.npy", np.asfortranarray(PROBS))
    fs.pipe({"/folder/e.npy": b"", "/folder/t.npy": b"text, no numbers", "/folder/z.npz": b"PK"})
    fs.pipe("/folder/c.npy", fs.cat_file("/folder/f.npy")[:100])
    for name, match in {
        "o": "Python objects",
        "f": "Fortran order, where a batch of rows takes a request for each of 6 columns",
        "e": r"not a readable \.npy file",
        "t": r"not a readable \.npy file",
        "c": r"not a readable \.npy file",
    }.items():
        with pytest.raises(InvalidInputError, match=match):
            open_pred_probs(f"{memory}/{name}.npy")
    with pytest.raises(InvalidInputError, match=r"\.npz archive"):
        open_pred_probs(f"{memory}/z.npz")
    fs.pipe("/folder/j.zarr/zarr.json", b"{no json")
    with pytest.raises(InvalidInputError, match="not a readable Zarr array"):
        open_pred_probs(f"{memory}/j.zarr")
    zarr.create_group(f"{memory}/g.zarr").create_array("probs", shape=(2, 2), dtype="f4")
    with pytest.raises(InputTypeError, match="Zarr group, not an array; arrays in it: probs"):
        open_pred_probs(f"{memory}/g.zarr")
    with pytest.raises(InvalidInputError, match="cannot be opened"):
        open_pred_probs("nosuchscheme://x/p.npy")
    with pytest.raises(InvalidInputError, match="web server lists no files"):
        open_pred_probs("http://127.0.0.1:9/p-*.npy")


def test_headers_of_any_length_are_read(memory):
    save(f"{memory}/p.npy", PROBS)
    fs = fsspec.filesystem("memory")
    with fs.open("/folder/long.npy", "wb") as file:
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({N_ROWS}, {N_CLASSES}), }}"
        header = header.ljust(9000 - 11) + "\n"
        file.write(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header.encode() + PROBS.tobytes())
    assert_same_array(open_pred_probs(f"{memory}/long.npy")[:], PROBS)
    save(f"{memory}/y.npy", LABELS[:0])
    assert open_labels(f"{memory}/y.npy")[:].shape == (0,)


# Secrets ------------------------------------------------------------------------------------------------------------


def shown_of(source):
    """Return all that a log or a record could show of a source, as text."""
    inputs = open_inputs(LABELS, source, batch_size=100)
    columns = inputs.columns(LocalExecutor())
    array = map_blocks("scan", Task(inputs.work(class_sums), 1), columns)
    graph = array.__dask_graph__()
    texts = [repr(source), str(source), source.where, json.dumps(source.identity()), repr(array)]
    texts += [repr(graph), repr(dict(graph)), repr(graph.layers), array._repr_html_(), repr(inputs)]
    texts += [repr(rows) + repr(vars(rows)) for rows in columns[2]]
    texts += source.part_identities([(0, 100)])
    return "\n".join(texts)


@pytest.mark.parametrize("path", ["probs.npy", "whole_rows.zarr", "split_classes.zarr", "npy-shards", "zarr-shards/*"])
def test_credentials_of_the_environment_are_never_shown_nor_sent(bucket, path):
    source = open_pred_probs(f"{bucket}/{path}")
    with source.open(0, 100) as rows:
        rows.read(0, 100)
    assert "s3://predictions/" in shown_of(source)
    sent = pickle.dumps(source).decode("latin-1")
    for secret in (s3.KEY, s3.SECRET):
        assert secret not in shown_of(source)
        assert secret not in sent
    assert_same_array(pickle.loads(pickle.dumps(source))[:], PROBS)


def test_credentials_of_the_configuration_of_fsspec_are_never_shown_nor_sent(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"key": s3.KEY, "secret": s3.SECRET})
    s3.clear_clients()
    for path in ("probs.npy", "whole_rows.zarr", "split_classes.zarr"):
        source = open_pred_probs(f"{bucket}/{path}")
        assert_same_array(source[:], PROBS)
        for text in (shown_of(source), pickle.dumps(source).decode("latin-1")):
            assert s3.KEY not in text
            assert s3.SECRET not in text


def test_signatures_in_urls_are_never_shown(bucket, server):
    signed = fsspec.filesystem("s3").sign(f"{s3.BUCKET}/probs.npy")
    source = open_pred_probs(signed)
    assert source.where == f"{server.url}/{s3.BUCKET}/probs.npy"
    assert "Signature" not in shown_of(source)
    for url in (signed.replace("probs", "no"), signed.replace("probs", "forbidden"), signed.replace("probs.npy", "x")):
        with pytest.raises(labelsieve.LabelsieveError) as caught:
            open_pred_probs(url)
        assert "Signature" not in str(caught.value)
        assert caught.value.__cause__ is None


WITH_PASSWORD = [
    "https://me:s3cret@host/p.npy",
    "https://me:s3/cret@host/p.npy",
    "https://t0ken@host/p.npy",
    "HTTPS://me:s3cret@[::1]/p.npy",
    "ftp://me:s3cret@host/a/p.npy",
    "s3://key:s3/c@ret@bucket/a",
    "smb://group;me:123@host:445/a",
    "simplecache::https://me:s3cret@host/p.npy?a=s3cret",
    "zip://p.npy::ftp://me:s3cret@host/all.zip",
]
WITHOUT_PASSWORD = [
    "https://host:8080/p@1.npy",
    "https://host:8080?x@1",
    "http://[::1]:80/me@home/p.npy",
    "http://[::1/p.npy",
    "ftp://me@host/p.npy",
    "abfs://container@account.dfs.core.windows.net/p.npy",
    "s3://bucket/me:you@home/p.npy",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/place/p@1.npy",
    "github://owner:repository@main/p.npy",
    "hf://datasets/owner/name@main/p.npy",
    "zip://p.npy::s3://bucket/all@1.zip",
    "memory://a/b",
    "/local/me:you@home/p.npy",
    "C:/me@home.npy",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_a_url_with_a_password_is_refused(url):
    with pytest.raises(InvalidInputError, match=r"^workdir: the \w+:// URL has a password or a token in it") as caught:
        check_place("workdir", url)
    for part in ("s3cret", "s3/c", "t0ken", "123", "me:", "key:"):
        assert part not in str(caught.value)


@pytest.mark.parametrize("url", WITHOUT_PASSWORD)
def test_other_urls_with_a_colon_or_an_at_are_not(url):
    assert check_place("workdir", url) == url


QUERIES = [
    ("https://host/p.npy?token=s3cret#s3cret", "https://host/p.npy"),
    ("https://host:8080/p@1.npy?s3cret", "https://host:8080/p@1.npy"),
    ("HTTPS://host/p.npy?s3cret", "HTTPS://host/p.npy"),
    ("https://host/a b.npy?sig=s3cret s3cret", "https://host/a b.npy"),
    ("simplecache::https://host/p.npy?a=s3cret", "simplecache::https://host/p.npy"),
    ("zip://p.npy::https://host/all.zip?a=s3cret", "zip://p.npy::https://host/all.zip"),
    ("abfs://container/p.npy?sig=s3cret", "abfs://container/p.npy"),
    ("s3://bucket/p-?.npy", "s3://bucket/p-?.npy"),
    ("s3://bucket/p-?/day=1.npy", "s3://bucket/p-?/day=1.npy"),
    ("s3://bucket/a#b.npy?versionId=1", "s3://bucket/a#b.npy"),
    ("http://[::1/p.npy", "http://[::1/p.npy"),
    ("/local/p?.npy", "/local/p?.npy"),
]


@pytest.mark.parametrize(("url", "want_shown"), QUERIES)
def test_urls_are_shown_without_their_queries(url, want_shown):
    assert without_query(url) == want_shown
    said = cause_of(OSError(f"403, message='Forbidden', url='{url}' for\n you, and {url}."), url)
    assert said == f"OSError: 403, message='Forbidden', url='{want_shown}' for you, and {want_shown}."


def test_queries_of_other_urls_in_a_message_are_not_shown():
    error = OSError("moved to 'https://host/b.npy?sig=s3cret' from abfs://c/a?sv=1&sig=s3cret, try later?")
    assert cause_of(error, "s3://bucket/a") == "OSError: moved to 'https://host/b.npy' from abfs://c/a try later?"
    assert cause_of(TimeoutError(), "ftp://host/p") == "TimeoutError"


def test_a_folder_at_a_url_takes_no_query():
    for act in (labelsieve.load, lambda url: find(LABELS, PROBS, workdir=url)):
        with pytest.raises(InvalidInputError, match=r": https://host/w\.zarr is given with a query") as caught:
            act("https://host/w.zarr?sig=s3cret")
        assert "s3cret" not in str(caught.value)


# Shards -------------------------------------------------------------------------------------------------------------


def write_shards(folder, parts, name="pred_probs-{}.npy"):
    folder.mkdir(exist_ok=True)
    paths = [folder / name.format(i) for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        if path.suffix == ".npy":
            np.save(path, part)
        else:
            write_zarr(str(path), part, chunks=(50, *part.shape[1:]))
    return paths


@pytest.mark.every_value
@pytest.mark.parametrize("batch_size", [33, 250, "auto"])
@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_shards_are_one_array(tmp_path, want, suffix, batch_size):
    paths = write_shards(tmp_path / "p", np.array_split(PROBS, 12), "pred_probs-{}" + suffix)
    labels = write_shards(tmp_path / "y", np.array_split(LABELS, 5), "labels_{}" + suffix)
    settings = {"batch_size": batch_size, "partition_batches": 2}
    assert_same_bits(find(labels, paths, **settings), want)
    assert_same_bits(find(tuple(map(str, labels)), [str(path) for path in paths], **settings), want)
    assert_same_bits(find(tmp_path / "y", str(tmp_path / "p"), **settings), want)
    assert_same_bits(find(f"{tmp_path}/y/labels_?{suffix}", tmp_path / "p" / f"pred_probs-*{suffix}", **settings), want)
    with pytest.warns(LabelsieveWarning, match="n_jobs=2 is ignored"):
        assert_same_bits(find(tmp_path / "y", tmp_path / "p", n_jobs=2), want)


@pytest.mark.parametrize(
    "pattern", ["npy-shards", "npy-shards/", "npy-shards/pred_probs-*.npy", "zarr-shards", "zarr-shards/p?.zarr"]
)
def test_shards_on_s3_are_one_array(bucket, want, pattern):
    opened = open_pred_probs(f"{bucket}/{pattern}")
    assert isinstance(opened, ShardsSource)
    assert_same_bits(find(LABELS, opened, batch_size=100), want)


def test_a_list_may_mix_places(tmp_path, bucket, want):
    first, rest = np.split(PROBS, [300])
    np.save(tmp_path / "first.npy", first)
    write_zarr(str(tmp_path / "rest.zarr"), rest, chunks=(70, 6))
    assert_same_bits(find(LABELS, [tmp_path / "first.npy", str(tmp_path / "rest.zarr")]), want)
    save(f"{bucket}/mixed/rest.npy", rest)
    assert_same_bits(find(LABELS, [tmp_path / "first.npy", f"{bucket}/mixed/rest.npy"]), want)


def test_names_are_in_natural_order(tmp_path):
    names = ["a2b10.npy", "a2b9.npy", "a10b1.npy", "b.npy", "10.npy", "9.npy", "a2b09.npy"]
    assert sorted(names, key=natural_key) == [
        "9.npy",
        "10.npy",
        "a2b09.npy",
        "a2b9.npy",
        "a2b10.npy",
        "a10b1.npy",
        "b.npy",
    ]
    write_shards(tmp_path / "p", np.array_split(PROBS, 12))
    assert_same_array(open_pred_probs(tmp_path / "p")[:], PROBS)


def test_a_list_keeps_the_order_it_is_given(tmp_path):
    first, second = write_shards(tmp_path / "p", [PROBS[:400], PROBS[400:]])
    assert_same_array(open_pred_probs([second, first])[:], np.concatenate([PROBS[400:], PROBS[:400]]))


def test_empty_shards_are_nothing(tmp_path, want):
    parts = [PROBS[:0], PROBS[:500], PROBS[:0], PROBS[:0], PROBS[500:], PROBS[:0]]
    write_shards(tmp_path / "p", parts)
    assert_same_bits(find(LABELS, tmp_path / "p", batch_size=64), want)
    write_shards(tmp_path / "e", [PROBS[:0], PROBS[:0]])
    with pytest.raises(InvalidInputError, match="no rows"):
        find(LABELS[:0], tmp_path / "e")


def test_shards_that_differ_are_named(tmp_path):
    write_shards(tmp_path / "k", [PROBS, PROBS[:, :4]])
    with pytest.raises(InvalidInputError, match=r"differ in columns: .*-0.npy has 6, .*-1.npy has 4"):
        open_pred_probs(tmp_path / "k")
    write_shards(tmp_path / "d", [PROBS, PROBS, PROBS.astype("f4")])
    with pytest.raises(InvalidInputError, match=r"differ in dtype: .*-0.npy has float64, .*-2.npy has float32"):
        open_pred_probs(tmp_path / "d")
    write_shards(tmp_path / "a", [PROBS, LABELS])
    with pytest.raises(InvalidInputError, match=r"differ in axes: .*-0.npy has 2, .*-1.npy has 1"):
        open_pred_probs(tmp_path / "a")
    write_shards(tmp_path / "m", [PROBS, PROBS[:, :4], PROBS, *[PROBS[:, :5]] * 11])
    with pytest.raises(InvalidInputError, match=r"-1.npy has 4, .*-3.npy has 5, .*-11.npy has 5, and 2 more differ$"):
        open_pred_probs(tmp_path / "m")


@pytest.mark.parametrize(
    "suffix",
    [".npz", ".h5", ".hdf5", ".parquet", ".feather", ".arrow", ".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".gz"],
)
def test_data_in_another_format_among_shards_is_not_left_out(tmp_path, suffix):
    write_shards(tmp_path, np.array_split(PROBS, 2))
    (tmp_path / f"pred_probs-2{suffix}").write_bytes(b"the last rows")
    for place in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(InvalidInputError, match=rf"several kinds, pred_probs-0.npy and pred_probs-2{suffix}:"):
            open_pred_probs(place)


def test_other_files_among_shards(tmp_path, want):
    folder = tmp_path / "p"
    write_shards(folder, np.array_split(PROBS, 3))
    (folder / ".pred_probs-9.npy").write_bytes(b"half written")
    (folder / "notes.txt").write_text("about")
    (folder / "run.json").write_text("{}")
    (folder / "logs").mkdir()
    assert_same_bits(find(LABELS, folder), want)
    np.savez(folder / "more.npz", PROBS)
    with pytest.raises(InvalidInputError, match=r"several kinds, pred_probs-0.npy and more.npz"):
        open_pred_probs(folder)
    with pytest.raises(InvalidInputError, match=r"several kinds"):
        open_pred_probs(f"{folder}/*")
    assert_same_bits(find(LABELS, f"{folder}/*.npy"), want)
    (folder / "more.npz").unlink()
    write_zarr(str(folder / "q.zarr"), PROBS, chunks=(100, 6))
    with pytest.raises(InvalidInputError, match=r"pred_probs-0.npy and q.zarr"):
        open_pred_probs(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InvalidInputError, match=r"has no \.npy, .* and no \.zarr arrays, and it has no zarr\.json or \.zarray"
    ):
        open_pred_probs(tmp_path / "empty")
    (tmp_path / "empty" / "only.pt").write_bytes(b"a pickle")
    with pytest.raises(InvalidInputError, match=r"\.zarray itself; it has 1 \.pt file; only \.npy"):
        open_pred_probs(tmp_path / "empty")


def test_lists_of_places_that_are_none(tmp_path):
    [path] = write_shards(tmp_path / "p", [PROBS])
    with pytest.raises(InvalidInputError, match="is listed twice"):
        open_pred_probs([path, path])
    with pytest.raises(InputTypeError, match="also holds int"):
        open_pred_probs([path, 3])
    with pytest.raises(InvalidInputError, match=r"there is no file .*gone\.npy"):
        open_pred_probs([path, tmp_path / "gone.npy"])
    np.savez(tmp_path / "x.npz", PROBS)
    assert open_pred_probs([str(path), str(tmp_path / "x.npz")]).shape == (2 * len(PROBS), PROBS.shape[1])
    with pytest.raises(InvalidInputError, match="no file matches"):
        open_pred_probs(tmp_path / "none-*.npy")
    with pytest.raises(InvalidInputError, match=r"labels must be integers 0\.\.K-1, not <U3"):
        open_labels(["cat", "dog"])


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    np.save(tmp_path / "p[1].npy", PROBS)
    np.save(tmp_path / "p1.npy", PROBS[:10])
    assert open_pred_probs(tmp_path / "p[1].npy").shape == PROBS.shape


def test_ten_thousand_shards_travel_in_little(tmp_path):
    shards = [
        NpySource(tmp_path / f"pred_probs-{i}.npy", Member("", (100, 6), np.dtype("f4"), 128)) for i in range(10_000)
    ]
    source = ShardsSource(shards, str(tmp_path))
    assert source.shape == (1_000_000, 6)
    assert len(pickle.dumps(source)) < 1_200_000
    back = pickle.loads(pickle.dumps(source))
    assert (back.children[777].where, back.begins[777]) == (shards[777].where, 77_700)
    part, origin = source.part(77_750, 78_050)
    assert (origin, part.n_rows) == (77_700, 400)
    assert len(pickle.dumps(part)) < 2000
    part, origin = source.part(77_750, 77_800)
    assert isinstance(part, NpySource)
    assert origin == 77_700
    assert repr(source) == f"<ShardsSource (1000000, 6) float32 at {tmp_path} (10,000 shards)>"


def test_only_the_shards_that_a_range_touches_are_opened(tmp_path, monkeypatch):
    write_shards(tmp_path / "p", np.array_split(PROBS, 10))
    source, opened, now = open_pred_probs(tmp_path / "p"), [], [0, 0]
    open_npy = NpySource.open

    def counting(self, *promise):
        opened.append(self.path.name)
        rows = open_npy(self, *promise)
        now[0] += 1
        now[1] = max(now)
        close = rows.close

        def closing():
            now[0] -= 1
            close()

        rows.close = closing
        return rows

    monkeypatch.setattr(NpySource, "open", counting)
    with source.open(250, 620) as rows:
        for start in range(250, 620, 37):
            rows.read(start, min(start + 37, 620))
    assert opened == [f"pred_probs-{i}.npy" for i in range(2, 7)]
    assert now == [0, 1]


def test_the_row_chunk_of_shards(tmp_path):
    write_shards(tmp_path / "even", [PROBS[:300], PROBS[300:]], "p{}.zarr")
    write_shards(tmp_path / "odd", [PROBS[:270], PROBS[270:]], "p{}.zarr")
    assert [open_pred_probs(tmp_path / name).facts.row_chunk for name in ("even", "odd")] == [50, 50]
    assert not open_pred_probs(tmp_path / "even").facts.in_pieces
    write_shards(tmp_path / "npy", [PROBS[:300], PROBS[300:]])
    assert open_pred_probs(tmp_path / "npy").facts.row_chunk is None
    assert open_pred_probs(tmp_path / "npy").facts.in_pieces


# Identities -------------------------------------------------------------------------------------------------------


def kinds_of(tmp_path, root):
    """Return openers of every kind of source."""
    np.save(tmp_path / "p.npy", PROBS)
    write_zarr(str(tmp_path / "p.zarr"), PROBS, chunks=(100, 6))
    write_shards(tmp_path / "shards", np.array_split(PROBS, 4))
    save(f"{root}/p.npy", PROBS)
    write_zarr(f"{root}/p.zarr", PROBS, chunks=(100, 6))
    places = [tmp_path / "p.npy", tmp_path / "p.zarr", tmp_path / "shards", f"{root}/p.npy", f"{root}/p.zarr"]
    return [*places, PROBS]


def test_identities_tell_inputs_apart(tmp_path, memory):
    identities = [open_pred_probs(kind).identity() for kind in kinds_of(tmp_path, memory)]
    assert all(identity["content"] for identity in identities)
    assert len({json.dumps(identity, sort_keys=True) for identity in identities}) == 6
    for identity in identities:
        assert (identity["shape"], identity["dtype"]) == ([1000, 6], "<f8")
        assert json.loads(json.dumps(identity)) == identity


def test_an_identity_stays_and_changes_with_its_file(tmp_path, memory):
    places = kinds_of(tmp_path, memory)
    first = [open_pred_probs(place).identity() for place in places]
    assert [open_pred_probs(place).identity() for place in places] == first
    changed = PROBS.copy()
    changed[0, 0] += 1e-9
    np.save(tmp_path / "p.npy", changed)
    shift_time(tmp_path / "p.npy")
    save(f"{memory}/p.npy", changed)
    write_zarr_again = zarr.create_array(
        f"{memory}/p.zarr", shape=(1000, 6), chunks=(50, 6), dtype="f8", overwrite=True
    )
    write_zarr_again[:] = changed
    for place, before in zip([places[0], places[3], places[4], changed], [first[0], *first[3:]], strict=True):
        assert open_pred_probs(place).identity() != before


def test_arrays_on_other_stores(tmp_path):
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=PROBS.shape, chunks=(100, 6), dtype="f8")
    assert ZarrSource(array).identity()["content"] is None
    ZarrSource(array).reachable()
    with zarr.storage.ZipStore(tmp_path / "p.zip", mode="w") as store:
        zarr.create_array(store, shape=PROBS.shape, chunks=(100, 6), dtype="f8")[:] = PROBS
    with zarr.storage.ZipStore(tmp_path / "p.zip", mode="r") as store:
        source = ZarrSource(zarr.open_array(store, mode="r"))
        assert source.identity()["content"] == {
            "size": (tmp_path / "p.zip").stat().st_size,
            "mtime_ns": (tmp_path / "p.zip").stat().st_mtime_ns,
        }
        source.reachable()
        assert len(set(source.part_identities([(0, 9), (9, 18)]))) == 2
        assert source.version_rows is None


def parts_of(url, ranges):
    source = open_pred_probs(url)
    source.note_version()
    assert source.version_rows == (source.array.shards or source.array.chunks)[0]
    return source.part_identities(ranges)


@pytest.mark.every_pair
@pytest.mark.parametrize(
    "layout", [{"chunks": (100, 6)}, {"chunks": (50, 4)}, {"chunks": (50, 6), "shards": (100, 6)}], ids=str
)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_parts_written_anew_are_told(tmp_path, memory, where, zarr_format, layout):
    if zarr_format == 2 and "shards" in layout:
        pytest.skip("format 2 has no shards")
    url = str(tmp_path / "p.zarr") if where == "local" else f"{memory}/p.zarr"
    write_zarr(url, PROBS, zarr_format=zarr_format, **layout)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        shift_time(path, -1)
    ranges = [(0, 250), (250, 500), (500, 1000)]
    before = parts_of(url, ranges)
    assert len(set(before)) == 3
    assert parts_of(url, ranges) == before
    zarr.open_array(url, mode="r+")[300:301] = 0.5
    after = parts_of(url, ranges)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    fs = fsspec.filesystem("file" if where == "local" else "memory")
    root = str(tmp_path / "p.zarr") if where == "local" else "/folder/p.zarr"
    last = 1000 // (layout.get("shards") or layout["chunks"])[0] - 1
    [gone] = [path for path in fs.find(root) if re.search(rf"/(c/)?{last}[/.]0$", path)]
    fs.rm(gone)
    damaged = parts_of(url, ranges)
    assert [a == b for a, b in zip(after, damaged, strict=True)] == [True, True, False]
    zarr.open_array(url, mode="r+").append(PROBS)
    longer = parts_of(url, [*ranges, (1000, 2000)])
    assert longer[:3] == damaged
    assert len(set(longer)) == 4


def test_parts_of_a_remote_array_take_one_listing(bucket, server):
    source = open_pred_probs(layout_url(bucket, "whole rows"))
    server.requests()
    source.note_version()
    parts = source.part_identities([(0, 70), (70, 500), (500, 1000)])
    assert len(set(parts)) == 3
    assert len(server.requests()) <= 2


def test_parts_of_shards(tmp_path):
    paths = write_shards(tmp_path / "p", np.array_split(PROBS, 4))
    source, ranges = open_pred_probs(tmp_path / "p"), [(0, 100), (200, 300), (500, 1000)]
    before, identity = source.part_identities(ranges), source.identity()
    np.save(paths[1], PROBS[250:500] * 0.5)
    shift_time(paths[1])
    after = open_pred_probs(tmp_path / "p").part_identities(ranges)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert open_pred_probs(tmp_path / "p").identity() == identity


def test_each_of_many_chunks_is_examined_once(tmp_path, monkeypatch):
    zarr.create_array(str(tmp_path / "p.zarr"), shape=(25_000, 2), chunks=(1, 2), dtype="f4")
    (tmp_path / "p.zarr" / "c").mkdir()
    for i in range(0, 25_000, 50):
        (tmp_path / "p.zarr" / "c" / str(i)).mkdir()
        (tmp_path / "p.zarr" / "c" / str(i) / "0").touch()
    ranges = [(i, i + 100) for i in range(0, 25_000, 100)]
    examined, inner = itertools.count(), zarr_chunks.file_stamp
    monkeypatch.setattr(zarr_chunks, "file_stamp", lambda path: (next(examined), inner(path))[1])
    parts = parts_of(tmp_path / "p.zarr", ranges)
    assert next(examined) == 25_000, "by as many calls, whatever the number of parts"
    (tmp_path / "p.zarr" / "c" / "12350" / "0").write_bytes(b"new")
    after = parts_of(tmp_path / "p.zarr", ranges)
    assert [i for i in range(250) if parts[i] != after[i]] == [123]


# Reachable --------------------------------------------------------------------------------------------------------


def test_what_a_worker_cannot_open_is_named(tmp_path, memory):
    import shutil

    import h5py

    places = kinds_of(tmp_path, memory)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["probs"] = PROBS
        places.append(file["probs"])
        sources = [open_pred_probs(place) for place in places]
        for source in sources:
            source.reachable()
    sources = [pickle.loads(pickle.dumps(source)) for source in sources]
    for source in sources:
        source.reachable()
    (tmp_path / "p.npy").write_bytes(b"short")
    (tmp_path / "shards" / "pred_probs-2.npy").unlink()
    shutil.rmtree(tmp_path / "p.zarr")
    (tmp_path / "p.h5").unlink()
    fsspec.filesystem("memory").store.clear()
    for source in [source for source in sources if not isinstance(source, ArraySource)]:
        with pytest.raises((UnreadableDataError, InvalidInputError), match=r"p\.npy|p\.zarr|probs-2\.npy|p\.h5:/probs"):
            source.reachable()


def test_reachable_on_s3(bucket):
    for path in ("probs.npy", "whole_rows.zarr", "npy-shards"):
        source = pickle.loads(pickle.dumps(open_pred_probs(f"{bucket}/{path}")))
        source.reachable()
        assert isinstance(source, RemoteNpySource | RemoteZarrSource | ShardsSource)


@pytest.mark.slow
def test_workers_of_a_cluster_open_urls_themselves(bucket, want):
    from distributed import Client

    with Client(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"):
        assert_same_bits(find(f"{bucket}/labels.npy", layout_url(bucket, "whole rows"), batch_size=70), want)
        assert_same_bits(find(f"{bucket}/labels.npy", f"{bucket}/npy-shards", batch_size=70), want)


def test_threads_share_what_is_remote(bucket, want):
    with dask.config.set(scheduler="threads", num_workers=8):
        found = find(f"{bucket}/labels.npy", layout_url(bucket, "split classes"), batch_size=70, partition_batches=1)
    assert_same_bits(found, want)
