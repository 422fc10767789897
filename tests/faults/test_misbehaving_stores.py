"""Stores that fail, stall and change: the same bits, only what failed is requested again, and errors that say why."""

import asyncio
import json
import logging
import re
import socket
import threading
import time
import weakref
from collections import Counter
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

import labelsieve
import misbehaving
import s3
from draws import assert_same_bits, draw, find, in_turn
from labelsieve.cli import app
from labelsieve.errors import ChangedDataError, InvalidInputError, TaskFailedError, UnreadableDataError
from labelsieve.sources import npy as remote_npy
from labelsieve.sources import objects as prefetch
from labelsieve.sources.objects import RefusedError
from labelsieve.sources.open import open_pred_probs
from labelsieve.storage import remote as limits
from labelsieve.storage import remote as requests
from labelsieve.storage.folder import UrlFolder
from labelsieve.storage.remote import RETRY_LOG, Pace, RetryLog
from labelsieve.storage.web import Web
from processes import wait_until

N_ROWS, N_CLASSES = 1000, 6
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=22)
OTHER = draw(N_ROWS, N_CLASSES, seed=23)[1]
BY_PARTS = {"batch_size": 40, "partition_batches": 5}
ROOT = f"s3://{misbehaving.BUCKET}"
KINDS = {
    "npy": "p.npy",
    "chunks": "p.zarr",
    "chunks in shards": "q.zarr",
    "a folder of files": "files",
    "the web": "p.npy",
}
FAULTS = ["slow_down", "reset", "cut", "broken", "stall", "trickle", "silent"]
# Limits that end requests of which no end would come.
SHORT = {"stall": {"PROGRESS_S": 0.3}, "trickle": {"PROGRESS_S": 0.3}, "silent": {"SILENCE_S": 0.5, "CONNECT_S": 5.0}}
KEY = misbehaving.KEY


def npy(array):
    header = str(np.lib.format.header_data_from_array_1_0(array)).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + array.tobytes()


def put_zarr(store, key, data, **layout):
    memory = zarr.storage.MemoryStore()
    zarr.create_array(memory, shape=data.shape, dtype=data.dtype, **layout)[:] = data
    for name, buffer in memory._store_dict.items():
        store.put(f"{misbehaving.BUCKET}/{key}/{name}", buffer.to_bytes())


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.fixture(scope="module")
def filled():
    """A server with the inputs."""
    with misbehaving.running_store() as store:
        store.put(f"{misbehaving.BUCKET}/p.npy", npy(PROBS))
        store.put(f"{misbehaving.BUCKET}/other.npy", npy(OTHER))
        put_zarr(store, "p.zarr", PROBS, chunks=(40, 6))
        put_zarr(store, "q.zarr", PROBS, chunks=(20, 6), shards=(40, 6))
        for i, part in enumerate(np.split(PROBS, 4)):
            store.put(f"{misbehaving.BUCKET}/files/p-{i}.npy", npy(part))
        yield store


@pytest.fixture
def store(filled, monkeypatch):
    """The same, which behaves well, in an environment where clients find it, and with small limits."""
    filled.behave()
    monkeypatch.setattr(remote_npy, "_REQUEST_BYTES", 40 * 48)
    monkeypatch.setattr(limits, "HEDGES_AT_ONCE", 0)
    monkeypatch.setattr(requests, "_SLOTS", weakref.WeakKeyDictionary())
    filled.set_environment(monkeypatch)
    yield filled
    await_threads()
    forget_clients()


def await_threads():
    """Wait for the threads of a run: after an error they finish the requests that they have made."""
    for thread in threading.enumerate():
        if thread.name.startswith("labelsieve-task"):
            thread.join()


def place_of(store, kind):
    return f"{store.url}/{misbehaving.BUCKET}/p.npy" if kind == "the web" else f"{ROOT}/{KINDS[kind]}"


def small_limits(monkeypatch, **chosen):
    """Set limits, also for clients that have been made with others."""
    for name, value in chosen.items():
        monkeypatch.setattr(limits, name, value)
    forget_clients()


def forget_clients():
    s3.clear_clients()
    Web.clear_instance_cache()


# Repeated -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked_by_kind():
    """What is asked of a store that behaves well, by the kind of input; filled by the tests that need it."""
    return {}


@pytest.mark.parametrize(("fault", "kind"), in_turn(FAULTS, KINDS, times=2))
def test_what_failed_is_requested_again_and_nothing_else(store, monkeypatch, want, asked_by_kind, kind, fault):
    place = place_of(store, kind)
    if kind not in asked_by_kind:
        find(LABELS, place, **BY_PARTS)
        asked_by_kind[kind] = Counter(request[:3] for request in store.requests())
    well = asked_by_kind[kind]
    small_limits(monkeypatch, **SHORT.get(fault, {}))
    store.behave(faults={fault: 0.15}, seed=3)
    before = RETRY_LOG.n_retries
    assert_same_bits(find(LABELS, place, **BY_PARTS), want)
    asked, n_retries = store.requests(), RETRY_LOG.n_retries - before
    failed = Counter(request[:3] for request in asked if request[3])
    assert failed.total() >= 3
    assert set(Counter(request[3] for request in asked)) == {"", fault}
    more = Counter(request[:3] for request in asked)
    more.subtract(well + failed)
    if fault in SHORT:
        # On a machine that stands still, other requests take longer than their limit too: these have failed as well.
        assert min(more.values()) >= 0
        assert more.total() <= n_retries - failed.total()
    else:
        assert set(more.values()) == {0}
        # A request on a connection that the server had kept open, and closes, is sent again by aiohttp itself.
        unseen = failed.total() - n_retries
        assert unseen == 0 or (fault == "reset" and unseen > 0)


def test_a_store_that_answers_no_more_is_an_error_that_names_the_object(store, monkeypatch):
    monkeypatch.setattr(limits, "TRIES", 3)
    store.behave(faults={"slow_down": 1}, only=r"p\.npy.* bytes=(?!0-)")
    with pytest.raises(UnreadableDataError, match=rf"{ROOT}/p\.npy \(rows \d+\.\.\d+\) is not readable: .*SlowDown"):
        find(LABELS, f"{ROOT}/p.npy", retries=1, **BY_PARTS)
    asked = Counter(request[2] for request in store.requests() if request[3])
    assert max(asked.values()) == 6, "three for each of two attempts of the partition"


@pytest.mark.parametrize("kind", ["npy", "the web"])
def test_a_store_is_left_alone_for_as_long_as_it_asks(store, kind, want):
    store.behave(faults={"slow_down": 1}, times=1, only="bytes=128-2047", retry_after="1")
    started = time.monotonic()
    assert_same_bits(find(LABELS, place_of(store, kind), **BY_PARTS), want)
    assert time.monotonic() - started >= 1
    assert [request[3] for request in store.requests() if request[2] == "bytes=128-2047"] == ["slow_down", ""]


def test_listings_and_sizes_are_repeated_too(store, want):
    store.behave(faults={"slow_down": 0.2, "reset": 0.2, "cut": 0.2}, only="^HEAD|list-type", seed=1, times=2, page=9)
    assert_same_bits(find(LABELS, f"{ROOT}/p.zarr", **BY_PARTS), want)
    assert_same_bits(find(LABELS, f"{ROOT}/files", **BY_PARTS), want)
    assert_same_bits(find(LABELS, f"{ROOT}/p.npy", **BY_PARTS), want)
    assert sum(bool(request[3]) for request in store.requests()) >= 3


# After the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "chunks", "the web"])
def test_after_an_error_no_request_is_repeated(store, monkeypatch, kind):
    monkeypatch.setattr(limits, "TRIES", 300)
    store.behave(faults={"slow_down": 1}, only="/c/" if kind == "chunks" else "bytes=[1-9]")
    n_retries, first = RETRY_LOG.n_retries, threading.Lock()

    def fail_later(block):
        if first.acquire(blocking=False):
            wait_until(lambda: RETRY_LOG.n_retries >= n_retries + 20)
            raise ArithmeticError("one block fails")
        return block

    labels = da.from_array(LABELS, chunks=200).map_blocks(fail_later, dtype=LABELS.dtype, meta=LABELS[:0])
    with (
        dask.config.set({"scheduler": "threads", "num_workers": 2}),
        pytest.raises((ArithmeticError, TaskFailedError), match="one block fails"),
    ):
        find(labels, place_of(store, kind), **BY_PARTS)
    before = Counter(request[:3] for request in store.requests())
    await_threads()
    after = Counter(request[:3] for request in store.requests())
    assert before.most_common(1)[0][1] >= 3
    assert max((after - before).values(), default=0) <= 1, "what was on its way, or paused"


# Limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize(
    ("fault", "limit"), [("silent", "SILENCE_S"), ("stall", "PROGRESS_S"), ("trickle", "PROGRESS_S")]
)
@pytest.mark.parametrize("kind", ["npy", "the web"])
def test_each_limit_of_time_ends_a_request(store, monkeypatch, kind, fault, limit):
    source = open_pred_probs(place_of(store, kind))
    small_limits(monkeypatch, CONNECT_S=5.0, TRIES=2, **{limit: 0.3})
    store.behave(faults={fault: 1}, only="bytes=128-2047")
    with source.open(0, 40) as rows:
        started = time.monotonic()
        with pytest.raises(UnreadableDataError, match=r"\(rows 0\.\.39\) is not readable: \w*Time"):
            rows.read(0, 40)
        assert 0.3 <= time.monotonic() - started < 300

    def asked():
        return [request[3] for request in store.requests() if request[2] == "bytes=128-2047"]

    wait_until(lambda: len(asked()) >= 2)  # the server may be slower than the limit
    assert asked() == [fault] * 2


def test_a_body_that_is_slow_but_comes_is_awaited(store, monkeypatch, want):
    small_limits(monkeypatch, PROGRESS_S=0.2, PROGRESS_BYTES=1000)
    store.behave(bytes_per_s=60_000)  # 32 ms for each piece, and 800 ms for the whole
    monkeypatch.setattr(remote_npy, "_REQUEST_BYTES", 1 << 20)
    before = RETRY_LOG.n_retries
    assert_same_bits(find(LABELS, f"{ROOT}/p.npy"), want)
    # The header and the rows, again where the server stood still for as long as that.
    assert len([request for request in store.requests() if request[2]]) <= 2 + RETRY_LOG.n_retries - before


@pytest.mark.parametrize(("pieces", "comes"), [([1000] * 50, True), ([5000, 1000, 999], False), ([0], False)])
def test_a_body_is_given_up_when_less_than_the_least_comes_in_a_period(monkeypatch, pieces, comes):
    """Each piece comes in one period, on a clock of the test."""
    monkeypatch.setattr(limits, "PROGRESS_BYTES", 1000)
    received = 0

    async def read():
        await whole.wait()
        return b"x" * received

    async def wait(tasks, *, timeout):
        nonlocal received
        assert timeout == limits.PROGRESS_S
        if not left:
            whole.set()
            return await asyncio.wait(tasks)
        received += left.pop(0)
        return set(), set(tasks)

    async def body():
        return await requests.read_body(read(), lambda: received)

    whole, left = asyncio.Event(), list(pieces)
    monkeypatch.setattr(requests, "asyncio", SimpleNamespace(ensure_future=asyncio.ensure_future, wait=wait))
    if comes:
        assert len(asyncio.run(body())) == sum(pieces)
    else:
        with pytest.raises(TimeoutError, match=rf"the answer stopped: {pieces[-1]} bytes in 200 s"):
            asyncio.run(body())


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_requests_at_a_time_than_chosen(store, want, kind):
    store.behave(latency_s=0.05, together=3, only=r"/c/|bytes=(?!0-)")
    with dask.config.set({"scheduler": "threads", "num_workers": 4, "labelsieve.max-requests": 3}):
        assert_same_bits(find(LABELS, place_of(store, kind), **BY_PARTS), want)
    assert store.most_in_flight() == 3


def test_the_environment_of_a_worker_says_how_many_requests_it_makes():
    assert limits.max_requests() == 64
    with dask.config.set(dask.config.collect_env({"DASK_LABELSIEVE__MAX_REQUESTS": "16"})):
        assert limits.max_requests() == 16


@pytest.mark.parametrize("chosen", [0, -1, 2.5, "many", True])
def test_a_limit_that_is_no_number_of_requests_is_refused(store, chosen):
    with (
        dask.config.set({"labelsieve.max-requests": chosen}),
        pytest.raises(
            InvalidInputError, match=r"labelsieve\.max-requests in Dask's configuration must be a whole number"
        ),
    ):
        find(LABELS, f"{ROOT}/p.npy")


# Late answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "chunks", "the web"])
def test_a_late_read_is_sent_twice_and_the_first_answer_is_taken(store, monkeypatch, want, kind):
    # Others may be late too, where the machine is busy.
    small_limits(monkeypatch, PACE_LEAST_READS=3, SILENCE_S=600.0, HEDGES_AT_ONCE=1000, LATE_S=0.1)
    monkeypatch.setattr(prefetch, "_MOST_REQUESTS", 2)
    store.behave(
        faults={"late": 1}, times=1, late_s=600, only="bytes=(30848-|0-3)|c/16/" if kind == "chunks" else "bytes=30848-"
    )
    assert_same_bits(find(LABELS, place_of(store, kind), batch_size=40), want)
    late = [request[:3] for request in store.requests() if request[3] == "late"]
    assert len(late) == 1
    assert [request[3] for request in store.requests() if request[:3] == late[0]] == ["late", ""]


def test_what_is_late_follows_the_store():
    pace = Pace()
    for _ in range(limits.PACE_LEAST_READS):
        assert pace.late_after() == limits.LATE_AT_FIRST_S
        pace.add(0.02)
    for _ in range(limits.PACE_READS):
        pace.add(0.02)
    assert pace.late_after() == limits.LATE_S
    for _ in range(limits.PACE_READS // 10 - 1):
        pace.add(2.0)
    assert pace.late_after() == limits.LATE_S, "one in ten may be slow"
    for _ in range(limits.PACE_READS):
        pace.add(2.0)
    assert pace.late_after() == 2.0 * limits.LATE_FACTOR


def test_a_store_that_is_slow_for_all_is_not_asked_twice(monkeypatch):
    monkeypatch.setattr(limits, "HEDGES_AT_ONCE", 4)
    pace = Pace()
    assert [pace.may_hedge() for _ in range(6)] == [True] * limits.HEDGES_AT_ONCE + [False] * 2
    hedged = 0
    for _ in range(1000):
        pace.add(0.02)
        hedged += pace.may_hedge()
    assert abs(hedged - 1000 / limits.HEDGE_EVERY) <= 1


# Changes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changing(store):
    """A store with copies of the inputs that a test may lose."""
    store.copy_all(f"{misbehaving.BUCKET}/", f"{misbehaving.BUCKET}/mine/")
    return store


@pytest.mark.parametrize(
    ("kind", "at", "faults"),
    in_turn(KINDS, [7, 20], [{}, {"slow_down": 0.1, "reset": 0.1, "broken": 0.1}], times=2),
    ids=str,
)
def test_an_object_that_is_replaced_is_named_and_never_mixed(changing, tmp_path, kind, at, faults):
    name, taken = {
        "chunks": ("p.zarr/c/20/0", "p.zarr/c/1/0"),
        "chunks in shards": ("q.zarr/c/20/0", "q.zarr/c/1/0"),
    }.get(kind, ("files/p-3.npy", "files/p-0.npy") if kind == "a folder of files" else ("p.npy", "other.npy"))
    pattern = re.escape(name).replace("zarr/c", "zarr(: chunk |/)c")
    mine = f"{misbehaving.BUCKET}/mine"
    changing.behave(at=at, replace={f"{mine}/{name}": f"{mine}/{taken}"}, faults=faults)
    place = place_of(changing, kind).replace(misbehaving.BUCKET, mine)
    with pytest.raises(ChangedDataError, match=rf"{pattern}.* has changed since the run began: it was overwritten"):
        find(LABELS, place, output=tmp_path / "out.zarr", **BY_PARTS)
    assert not (tmp_path / "out.zarr").exists()


def test_a_shard_that_is_deleted_is_named(changing, tmp_path):
    mine = f"{misbehaving.BUCKET}/mine"
    changing.behave(at=10, replace={f"{mine}/files/p-3.npy": None})
    with pytest.raises(UnreadableDataError, match=r"mine/files/p-3\.npy \(rows \d+\.\.\d+\) is gone"):
        find(LABELS, f"{ROOT}/mine/files", output=tmp_path / "out.zarr", **BY_PARTS)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("gone", ["p-0.npy", "p-2.npy"])
def test_a_shard_that_vanishes_after_the_listing_is_named(changing, capfd, tmp_path, gone):
    np.save(tmp_path / "labels.npy", LABELS)
    changing.behave(at=1, replace={f"{misbehaving.BUCKET}/mine/files/{gone}": None})
    assert app.run(["find", str(tmp_path / "labels.npy"), f"{ROOT}/mine/files", "--quiet", "--retries", "0"]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"mine/files/{gone} (its header) is gone" in said


# Refusals -----------------------------------------------------------------------------------------------------------


S3_KINDS = [kind for kind in KINDS if kind != "the web"]


@pytest.mark.parametrize(("kind", "code"), in_turn(S3_KINDS, ["ExpiredToken", "InvalidToken", "InvalidAccessKeyId"]))
def test_after_credentials_have_expired_the_same_call_reads_the_rest(store, monkeypatch, tmp_path, want, kind, code):
    def run(workdir):
        with dask.config.set(scheduler="sync"):
            return find(LABELS, place_of(store, kind), workdir=workdir, output=tmp_path / "out.zarr", **BY_PARTS)

    def n_reads():
        return sum(bool(asked) or "/c/" in path for _, path, asked, _ in store.requests())

    # Of what is finished, hardly anything is read once more to see that it is the same.
    monkeypatch.setattr("labelsieve.job.workdir.MOST_PARTITIONS", 1)
    run(tmp_path / "another")
    whole = n_reads()
    store.behave(refused={KEY: code}, refused_after=whole * 3 // 4)
    with pytest.raises(InvalidInputError) as caught:
        run(tmp_path / "wd")
    assert re.search(
        rf"{ROOT}/{re.escape(KINDS[kind])}.*: the credentials were refused or have expired", str(caught.value)
    )
    assert f"({code}: The store says {code}.): renew them where your tools keep them: " in str(caught.value)
    assert "then run the same command again: with a workdir it goes on from where it was" in str(caught.value)
    refused = Counter(request[:3] for request in store.requests() if request[3])
    assert set(refused.values()) == {1}, "none is repeated"
    store.behave(refused={KEY: code})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIARENEWED00000000")  # and this process looks for it by itself
    assert_same_bits(run(tmp_path / "wd"), want)
    assert not any(request[3] for request in store.requests())
    assert n_reads() < whole * 0.75


@pytest.mark.every_value
@pytest.mark.parametrize("kind", S3_KINDS)
@pytest.mark.parametrize("refused_after", [0, 10])
def test_refused_credentials_exit_2_with_one_line(store, capfd, tmp_path, kind, refused_after):
    np.save(tmp_path / "labels.npy", LABELS)
    store.behave(refused={KEY: "ExpiredToken"}, refused_after=refused_after)
    assert app.run(["find", str(tmp_path / "labels.npy"), place_of(store, kind), "--quiet"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "the credentials were refused or have expired (ExpiredToken: The store says ExpiredToken.)" in said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_permitted_is_neither_repeated_nor_missing(store, kind):
    key = "" if kind == "the web" else KEY
    store.behave(refused={key: "AccessDenied"})
    why = r"403.*Forbidden.* its signature may have expired" if kind == "the web" else "AccessDenied"
    with pytest.raises(RefusedError, match=rf"is not readable: \w+: .*{why}"):
        find(LABELS, place_of(store, kind))
    assert len(store.requests()) <= 5, "one each, and the header of each file of a folder"


def test_a_web_server_that_refuses_the_connection_is_not_a_missing_file(monkeypatch):
    monkeypatch.setattr(limits, "TRIES", 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        for scheme in ("http", "https"):
            url = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}/p.npy"
            with pytest.raises(
                UnreadableDataError, match=rf"pred_probs: {url} is not readable: ClientConnectorError: "
            ):
                open_pred_probs(url)


def test_a_web_server_without_the_file_says_so(store):
    with pytest.raises(
        InvalidInputError, match=rf"pred_probs: there is no file {store.url}/{misbehaving.BUCKET}/no\.npy"
    ):
        open_pred_probs(f"{store.url}/{misbehaving.BUCKET}/no.npy")


# Writing ------------------------------------------------------------------------------------------------------------

WRITES = "^(PUT|POST|DELETE|HEAD)|work|out|list-type"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_workdir_and_an_output_in_a_store_that_misbehaves(store, want, seed):
    faults = {"slow_down": 0.1, "reset": 0.1, "reset_after": 0.1, "cut": 0.1}
    store.behave(faults=faults, seed=seed, only=WRITES)
    work, out = f"{ROOT}/work-{seed}", f"{ROOT}/out-{seed}.zarr"
    assert_same_bits(find(LABELS, PROBS, workdir=work, output=out, **BY_PARTS), want)
    met = Counter(request[3] for request in store.requests())
    assert all(met[name] >= 3 for name in faults)
    assert_same_bits(labelsieve.load(out), want)
    assert "run.json" not in UrlFolder(work).names()
    store.behave()
    assert_same_bits(find(LABELS, PROBS, workdir=work, **BY_PARTS), want)


def test_an_upload_in_parts_that_was_completed_before_the_reset_is_whole(store, tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "large").write_bytes(content)
    folder = UrlFolder(f"{ROOT}/large")
    fs = folder._opened[0]
    store.behave(faults={"reset_after": 1}, times=1, only="^POST .*uploadId=upload-0")
    fs.put_file(str(tmp_path / "large"), f"{misbehaving.BUCKET}/large/object", chunksize=1_000_000)
    assert store.get(f"{misbehaving.BUCKET}/large/object") == content
    assert folder.read("object") == content
    with folder.open("object") as file:
        file.seek(2_999_990)
        assert file.read() == content[-10:]


def test_a_large_record_is_read_in_pieces_that_are_repeated(store, monkeypatch):
    monkeypatch.setattr("labelsieve.storage.folder._REQUEST_BYTES", 1000)
    content = np.random.default_rng(0).bytes(20_500)
    store.put(f"{misbehaving.BUCKET}/record", content)
    store.behave(faults={"cut": 0.2, "broken": 0.2}, seed=5)
    with UrlFolder(ROOT).open("record") as file:
        assert file.read(10) == content[:10]
        assert file.seek(-500, 2) == 20_000
        assert file.read() == content[-500:]
        file.seek(0)
        assert file.read() == content
    assert any(request[3] for request in store.requests())


# The log ------------------------------------------------------------------------------------------------------------


def test_a_thousand_failures_do_not_flood_the_log(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = RetryLog()
    with caplog.at_level(logging.WARNING, "labelsieve"):
        for number in range(1000):
            log.add(f"failure {number}")
        assert log.n_retries == 1000
        assert [record.getMessage() for record in caplog.records] == [f"tried again: failure {i}" for i in range(20)]
        now[0] = 10.0
        log.add("a last one", condition=" if retries are left")
        log.add("and more")
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == (
        "tried again if retries are left: a last one (980 others since the last such message)"
    )


def test_failures_of_requests_are_warnings_and_in_the_progress(store, capfd, tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    store.behave(faults={"cut": 0.2}, seed=3)
    command = ["find", tmp_path / "labels.npy", f"{ROOT}/p.npy", "--quiet", "--progress", "json", "--batch-size", 40]
    assert app.run(list(map(str, command))) == 0
    lines = capfd.readouterr().err.splitlines()
    n_failed = sum(bool(request[3]) for request in store.requests())
    assert max(json.loads(line)["retries"] for line in lines if line.startswith("{")) == n_failed > 2
    warnings = [
        line for line in lines if "WARNING labelsieve: tried again: s3://predictions/p.npy: ClientPayload" in line
    ]
    assert len(warnings) == n_failed
