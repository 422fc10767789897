"""A recorder's folder gives the bits of the stored array, whatever the order, the parts and the interruptions."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labelsieve
import s3
from draws import SHAPES, assert_same_bits, datasets, draw, find, odd
from labelsieve.cli.app import run
from labelsieve.confident_learning.derived import softmax
from labelsieve.errors import (
    InputTypeError,
    InUseError,
    InvalidInputError,
    UnreadableDataError,
    UnwritableError,
    WorkdirError,
)
from labelsieve.recorder import Recorder
from labelsieve.sources import recording as part_writer
from labelsieve.sources import recording as recordings
from labelsieve.storage.folder import open_folder

N_ROWS, N_CLASSES = 900, 6
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=21, dtype=np.float32)


def find_recorded(place, **settings):
    return labelsieve.find_label_issues(summaries=place, progress=False, **settings)


def record(place, labels, probs, *, rows=None, n_parts=4, batch=37, seed=0, n_classes=None, **settings):
    """Record batches of rows, in random order in random parts, or in their order if `rows` is None."""
    parts = np.array_split(np.arange(len(labels)) if rows is None else rows, n_parts)
    for part, some in enumerate(parts):
        with Recorder(place, n_classes or probs.shape[1], part=part, **settings) as recorder:
            for start in range(0, len(some), batch):
                these = some[start : start + batch]
                recorder.update(labels[these], probs[these], rows=None if rows is None else these)
        assert recorder.rows_recorded == len(some)


def shuffled(n_rows, n_repeated=0, seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_rows)
    return np.concatenate([order, rng.choice(n_rows, n_repeated)])


@pytest.fixture
def small_blocks(monkeypatch):
    """Make a few hundred rows many: blocks and segments of a few rows."""
    monkeypatch.setattr(recordings, "BLOCK_ROWS", 16)
    monkeypatch.setattr(part_writer, "BLOCK_ROWS", 16)


# The same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_in_any_order_with_padding_give_the_bits_of_the_array(tmp_path, shape, small_blocks):
    labels, probs = odd(shape)
    record(tmp_path, labels, probs, rows=shuffled(len(labels), 50), flush_rows=90)
    assert_same_bits(find_recorded(tmp_path), find(labels, probs))
    assert_same_bits(find_recorded(tmp_path, batch_size=31, partition_batches=2), find(labels, probs))


@given(data=datasets(), seed=st.integers(0, 1000), batch=st.integers(1, 9), flush=st.integers(9, 60))
def test_any_data_in_any_batches(tmp_path_factory, data, seed, batch, flush):
    labels, probs = data
    place = tmp_path_factory.mktemp("recording")
    record(place, labels, probs, rows=shuffled(len(labels), 5, seed), n_parts=2, batch=batch, flush_rows=flush)
    got, want = find_recorded(place), find(labels, probs)
    assert got.indices.tolist() == want.indices.tolist()
    assert got.scores.tobytes() == want.scores.tobytes()
    assert got.confident_thresholds.tobytes() == want.confident_thresholds.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_are_kept(tmp_path, dtype):
    probs = PROBS.astype(dtype)
    record(tmp_path, LABELS, probs, rows=shuffled(N_ROWS))
    assert_same_bits(find_recorded(tmp_path), find(LABELS, probs))


def test_parts_of_different_dtypes_are_read_in_the_widest(tmp_path):
    wide = PROBS.astype(np.float64)
    with Recorder(tmp_path, N_CLASSES) as recorder:
        recorder.update(LABELS[:300], PROBS[:300])
        recorder.update(LABELS[300:], wide[300:])
    assert_same_bits(find_recorded(tmp_path), find(LABELS, wide))


def test_without_rows_parts_are_joined_in_their_order(tmp_path, small_blocks):
    record(tmp_path, LABELS, PROBS, flush_rows=100, n_rows=N_ROWS)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))
    assert_same_bits(find_recorded(tmp_path, batch_size=50, partition_batches=3), find(LABELS, PROBS))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "normalized_margin"},
        {"method": "confidence_weighted_entropy"},
        {"method": "logit_margin"},
        {"adjust_pred_probs": True},
        {"estimation_method": "off_diagonal_calibrated"},
        {"filter_by": "predicted_neq_given"},
    ],
)
def test_recorded_scores_are_those_of_whole_rows(tmp_path, settings):
    scores = ("row_sum", "normalized_margin", "logit_margin", "confidence_weighted_entropy")
    record(tmp_path, LABELS, PROBS, rows=shuffled(N_ROWS, 40), scores=scores, flush_rows=200)
    assert_same_bits(find_recorded(tmp_path, **settings), find(LABELS, PROBS, **settings))


def test_logits_are_recorded_as_their_probabilities(tmp_path):
    logits = np.log(PROBS) * np.float32(1.5)
    settings = {"from_logits": True, "scores": ("normalized_margin",)}
    record(tmp_path, LABELS, logits, rows=shuffled(N_ROWS, 20), **settings)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, softmax(logits)))
    margins = {"method": "normalized_margin"}
    assert_same_bits(find_recorded(tmp_path, **margins), find(LABELS, softmax(logits), **margins))


def test_a_workdir_and_an_output_work_as_for_arrays(tmp_path):
    record(tmp_path / "recording", LABELS, PROBS, rows=shuffled(N_ROWS), flush_rows=100)
    settings = {"batch_size": 50, "partition_batches": 2, "workdir": tmp_path / "work"}
    want = find(LABELS, PROBS)
    assert_same_bits(find_recorded(tmp_path / "recording", output=str(tmp_path / "out.zarr"), **settings), want)
    again = find_recorded(tmp_path / "recording", **settings)
    assert again.facts.rows_read == 0
    assert_same_bits(again, want)


def test_a_recording_that_has_grown_is_another_input_to_a_workdir(tmp_path):
    record(tmp_path / "recording", LABELS[:500], PROBS[:500], n_parts=1)
    find_recorded(tmp_path / "recording", workdir=tmp_path / "work")
    with Recorder(tmp_path / "recording", N_CLASSES, part=1) as recorder:
        recorder.update(LABELS[500:], PROBS[500:])
    with pytest.raises(WorkdirError, match=r"pred_probs.shape was \[500, 6\], is \[900, 6\]"):
        find_recorded(tmp_path / "recording", workdir=tmp_path / "work")
    assert_same_bits(find_recorded(tmp_path / "recording", workdir=tmp_path / "work", fresh=True), find(LABELS, PROBS))


@pytest.mark.usefixtures("two_threads")
def test_little_memory_is_enough(tmp_path, small_blocks):
    record(tmp_path, LABELS, PROBS, rows=shuffled(N_ROWS), flush_rows=60)
    assert_same_bits(find_recorded(tmp_path, max_memory="400MB"), find(LABELS, PROBS))


@pytest.mark.parametrize("flush_rows", [2000, 30_000])
def test_reading_holds_what_the_plan_counts(tmp_path, monkeypatch, flush_rows):
    monkeypatch.setattr(recordings, "_HELD_BYTES", 300_000)
    monkeypatch.setattr(recordings, "_MERGED_BYTES", 200_000)
    for one in (recordings, part_writer):
        monkeypatch.setattr(one, "BLOCK_ROWS", 256)
    n_rows = 100_000
    labels, probs = np.zeros(n_rows, np.int64), np.tile(np.array([0.5, 0.25, 0.25], np.float32), (n_rows, 1))
    record(tmp_path, labels, probs, rows=shuffled(n_rows), n_parts=1, batch=1000, flush_rows=flush_rows)
    _, rows, _ = recordings.open_recording(tmp_path)
    tracemalloc.start()
    with rows.open_raw() as opened:
        got = [
            int(np.count_nonzero(opened.read(start, start + 1000)["p_label"] == 0.5))
            for start in range(0, n_rows, 1000)
        ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(got) == n_rows
    # Small blocks are more objects than real ones.
    assert peak < rows.facts.prefetch_bytes + 250_000
    assert rows.facts.prefetch_bytes < 1_000_000 < stored_bytes(tmp_path)


def test_ids_are_those_of_the_result(tmp_path):
    names = np.array([f"img-{row * 7}-é" if row % 3 else "x" for row in range(N_ROWS)])
    with Recorder(tmp_path, N_CLASSES, flush_rows=100) as recorder:
        for start in range(0, N_ROWS, 45):
            these = slice(start, start + 45)
            recorder.update(LABELS[these], PROBS[these], rows=np.arange(N_ROWS)[these], ids=list(names[these]))
    found = find_recorded(tmp_path)
    assert found.to_frame()["id"].tolist() == names[found.indices].tolist()


def test_integer_ids_number_no_rows(tmp_path):
    names = np.random.default_rng(0).permutation(10 * N_ROWS)[:N_ROWS]
    for part in range(2):
        some = np.arange(N_ROWS)[part * 450 : (part + 1) * 450]
        with Recorder(tmp_path, N_CLASSES, part=part) as recorder:
            recorder.update(LABELS[some], PROBS[some], ids=names[some])
    found = find_recorded(tmp_path)
    assert_same_bits(found, find(LABELS, PROBS))
    assert found.to_frame()["id"].tolist() == names[found.indices].tolist()


@pytest.mark.parametrize("kind", ["strings", "integers"])
def test_an_id_that_is_recorded_again_is_refused(tmp_path, kind, small_blocks):
    names = np.arange(N_ROWS) * 3
    names = np.array([f"{'image-' * (name % 4)}{name}" for name in names]) if kind == "strings" else names
    order = np.concatenate([np.arange(N_ROWS), [5, 899, 5]])
    for part, some in enumerate(np.array_split(order, 3)):
        with Recorder(tmp_path, N_CLASSES, part=part, flush_rows=70) as recorder:
            recorder.update(LABELS[some], PROBS[some], ids=names[some])
    first, second = names[5].item(), names[899].item()
    message = f"2 ids were recorded more than once in {tmp_path}: {first!r}, {second!r}. Record each row once"
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        find_recorded(tmp_path)


def test_with_row_numbers_an_id_may_be_recorded_again(tmp_path):
    names = np.array([f"image-{row}" for row in range(N_ROWS)])
    order = np.concatenate([np.arange(N_ROWS), [5, 899, 5, 0]])
    for part, some in enumerate(np.array_split(order, 3)):
        with Recorder(tmp_path, N_CLASSES, part=part, n_rows=N_ROWS) as recorder:
            recorder.update(LABELS[some], PROBS[some], rows=some, ids=names[some])
    found = find_recorded(tmp_path)
    assert_same_bits(found, find(LABELS, PROBS))
    assert found.to_frame()["id"].tolist() == names[found.indices].tolist()


# On disk ---------------------------------------------------------------------------------------------------------


def stored_bytes(place):
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


@pytest.mark.parametrize(("from_logits", "most"), [(False, 18), (True, 26)])
def test_a_row_takes_few_bytes(tmp_path, from_logits, most):
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 1000, 20_000), np.full((20_000, 1000), 1e-3, np.float32)
    record(tmp_path, labels, values, rows=shuffled(20_000), batch=1000, n_parts=1, from_logits=from_logits)
    assert stored_bytes(tmp_path) < most * 20_000


def test_the_files_hold_no_probabilities_of_other_classes(tmp_path):
    record(tmp_path, LABELS, PROBS, n_parts=1)
    assert stored_bytes(tmp_path) < 20 * N_ROWS


# Object stores ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with s3.running_server() as running:
        yield running


@pytest.fixture
def bucket(server, monkeypatch):
    server.set_environment(monkeypatch)
    fsspec.filesystem("s3").mkdir(s3.BUCKET)
    yield f"s3://{s3.BUCKET}"
    fsspec.filesystem("s3").rm(s3.BUCKET, recursive=True)
    s3.clear_clients()


def test_a_recording_in_an_object_store(bucket):
    place = f"{bucket}/recording"
    record(place, LABELS, PROBS, rows=shuffled(N_ROWS, 30), n_parts=2, batch=100, flush_rows=200)
    assert_same_bits(find_recorded(place), find(LABELS, PROBS))


def test_two_recorders_of_one_part_in_an_object_store(bucket, caplog):
    place = f"{bucket}/recording"
    first = Recorder(place, N_CLASSES, flush_rows=100)
    first.update(LABELS[:100], PROBS[:100])
    with pytest.raises(InvalidInputError, match=r"part 0 of s3://.* exists, with 1 flushes"):
        Recorder(place, N_CLASSES)
    second = Recorder(place, N_CLASSES, resume=True)
    assert "part 0 of s3://predictions/recording has been in use by process" in caplog.text
    second.update(LABELS[100:], PROBS[100:])
    second.flush()
    with pytest.raises(InUseError, match=r"part 0 of s3://.* is in use by process .*, a later run"):
        first.update(LABELS[:100], PROBS[:100])
    # One that does not look is refused by the store.
    first._writer._check_owned = lambda: None
    with pytest.raises(InUseError, match="written by another recorder, which has made flush 1"):
        first.update(LABELS[:100], PROBS[:100])
    second.close()
    assert_same_bits(find_recorded(place), find(LABELS, PROBS))


def test_of_two_writers_of_one_name_the_store_takes_one(bucket):
    folder = open_folder(f"{bucket}/names")
    folder.write_new("a", b"first")
    folder.write_new("a", b"first")  # as a request that was repeated
    with pytest.raises(FileExistsError, match="s3://predictions/names/a"):
        folder.write_new("a", b"second")
    # Even if both have looked before: the store compares.
    has, answers = folder.has, [False]
    folder.has = lambda name: answers.pop() if answers else has(name)
    with pytest.raises(FileExistsError, match="s3://predictions/names/a"):
        folder.write_new("a", b"third")
    assert not answers
    assert folder.read("a") == b"first"


# Interruptions ---------------------------------------------------------------------------------------------------

LOOP = """
import signal, sys

import numpy as np
from labelsieve.recorder import Recorder

place, data, numbered, last = sys.argv[1:]
with np.load(data) as file:
    labels, probs, order = file["labels"], file["probs"], file["order"]
with Recorder(place, probs.shape[1], flush_rows=40, resume=True) as recorder:
    print(recorder.rows_recorded, flush=True)
    for number, start in enumerate(range(recorder.rows_recorded, len(order), 10)):
        if number == int(last):
            signal.pause()
        rows = order[start : start + 10]
        recorder.update(labels[rows], probs[rows], rows=rows if numbered == "numbered" else None)
        print(start, flush=True)
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("numbered", ["numbered", "in order"])
def test_a_loop_that_is_killed_ten_times_gives_the_same_bits(tmp_path, numbered):
    order = shuffled(N_ROWS, 30) if numbered == "numbered" else np.arange(N_ROWS)
    np.savez(tmp_path / "data.npz", labels=LABELS, probs=PROBS, order=order)
    command = [sys.executable, "-c", LOOP, str(tmp_path / "recording"), str(tmp_path / "data.npz"), numbered]
    chance, begins, n_killed = random.Random(7), [], 0
    for _ in range(60):
        # Killed after some batches, by the loop's own output, so that no clock decides how far it comes. It may be in
        # the next batch by then, and goes no further.
        stop_after = chance.randrange(14)
        last = stop_after + 1 if n_killed < 10 else -1
        process = subprocess.Popen([*command, str(last)], stdout=subprocess.PIPE, text=True)
        for number, line in enumerate(process.stdout):
            if number == 0:
                begins.append(int(line))
            if n_killed < 10 and number == stop_after:
                process.send_signal(signal.SIGKILL)
                n_killed += 1
                break
            if line == "done\n":
                break
        process.wait()
        process.stdout.close()
        if n_killed < 10 or process.returncode:
            with pytest.raises((UnreadableDataError, InvalidInputError)):
                find_recorded(tmp_path / "recording")
            continue
        break
    assert n_killed == 10
    assert process.returncode == 0
    assert begins == sorted(begins)
    assert len(set(begins)) > 3, "no attempt went on where another one ended"
    assert_same_bits(find_recorded(tmp_path / "recording"), find(LABELS, PROBS))


def test_a_part_goes_on_after_its_last_flush(tmp_path):
    def interrupted():
        with Recorder(tmp_path, N_CLASSES, flush_rows=100) as first:
            first.update(LABELS[:250], PROBS[:250])
            first.update(LABELS[250:320], PROBS[250:320])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    with pytest.raises(UnreadableDataError, match=r"part 0 of .* is open.*resume=True"):
        find_recorded(tmp_path)
    with Recorder(tmp_path, N_CLASSES, resume=True) as second:
        assert second.rows_recorded == 320
        second.update(LABELS[320:], PROBS[320:])
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_a_closed_part_can_go_on(tmp_path):
    record(tmp_path, LABELS[:500], PROBS[:500], n_parts=1)
    with pytest.raises(InvalidInputError, match=r"part 0 of .* exists, with 1 flushes: give resume=True"):
        Recorder(tmp_path, N_CLASSES)
    with Recorder(tmp_path, N_CLASSES, resume=True) as recorder:
        recorder.update(LABELS[500:], PROBS[500:])
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_two_recorders_of_one_part(tmp_path):
    with Recorder(tmp_path, N_CLASSES, part=3) as recorder:
        with pytest.raises(InUseError, match=r"part 3 of .* is in use by process \d+"):
            Recorder(tmp_path, N_CLASSES, part=3, resume=True)
        recorder.update(LABELS, PROBS)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_parts_that_begin_a_folder_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        recorders = list(pool.map(lambda part: Recorder(tmp_path, N_CLASSES, part=part), range(8)))
    for recorder, rows in zip(recorders, np.array_split(np.arange(N_ROWS), 8), strict=True):
        recorder.update(LABELS[rows], PROBS[rows])
        recorder.close()
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_without_locks_the_rows_of_two_recorders_never_mix(tmp_path, monkeypatch):
    monkeypatch.setattr("labelsieve.storage.folder.fcntl", None)
    first = Recorder(tmp_path, N_CLASSES, flush_rows=100)
    first.update(LABELS[:100], PROBS[:100])
    second = Recorder(tmp_path, N_CLASSES, flush_rows=100, resume=True)
    assert second.rows_recorded == 100
    with pytest.raises(InUseError, match="a later run"):
        first.update(LABELS[:100], PROBS[::-1][:100])
    # Even one that does not look is refused: the file of its flush is there.
    second.update(LABELS[100:200], PROBS[100:200])
    monkeypatch.setattr(first._writer, "_check_owned", lambda: None)
    with pytest.raises(InUseError, match="written by another recorder, which has made flush 1"):
        first.update(LABELS[:100], PROBS[:100])
    second.update(LABELS[200:], PROBS[200:])
    second.close()
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_an_update_that_fails_to_write_can_be_repeated(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path, N_CLASSES, flush_rows=300)
    recorder.update(LABELS[:200], PROBS[:200])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(2):
            with pytest.raises(UnwritableError, match="No space left on device"):
                recorder.update(LABELS[200:400], PROBS[200:400])
    for start in range(200, N_ROWS, 200):
        recorder.update(LABELS[start : start + 200], PROBS[start : start + 200])
    recorder.close()
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_what_cannot_be_written_after_an_error_is_logged(tmp_path, monkeypatch, caplog):
    def interrupted():
        with Recorder(tmp_path, N_CLASSES) as recorder:
            recorder.update(LABELS[:100], PROBS[:100])
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert "part 0 of" in caplog.text
    assert "the rows since the last flush are lost" in caplog.text
    monkeypatch.undo()
    assert Recorder(tmp_path, N_CLASSES, resume=True).rows_recorded == 0


def test_a_part_that_cannot_be_closed_is_open(tmp_path):
    def contradicting():
        with Recorder(tmp_path, N_CLASSES) as recorder:
            recorder.update(LABELS[:2], PROBS[:2], rows=[0, 1])
            recorder.update(LABELS[2:4], PROBS[2:4], rows=[1, 2])

    with pytest.raises(InvalidInputError, match="row 1 was given twice with different values"):
        contradicting()
    with pytest.raises(UnreadableDataError, match="is open"):
        find_recorded(tmp_path)
    Recorder(tmp_path, N_CLASSES, resume=True).close()  # nobody holds it


def test_a_flush_that_fails_can_be_repeated(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path, N_CLASSES)
    recorder.update(LABELS, PROBS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UnwritableError, match="No space left on device"):
            recorder.flush()
    assert recorder.rows_recorded == 0
    recorder.close()
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "swapped"])
def test_a_torn_part_is_named(tmp_path, damage):
    record(tmp_path, LABELS, PROBS, rows=shuffled(N_ROWS), n_parts=2, flush_rows=100)
    file = tmp_path / "part-00001" / "000002.rec"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-50])
    elif damage == "changed":
        content[40] ^= 1
        file.write_bytes(content)
    elif damage == "removed":
        file.unlink()
    else:
        file.write_bytes((tmp_path / "part-00001" / "000001.rec").read_bytes())
    with pytest.raises(UnreadableDataError, match=r"part 1 of .* is torn.*000002.rec.*record the part again"):
        find_recorded(tmp_path)


def test_a_part_that_is_torn_cannot_go_on(tmp_path):
    record(tmp_path, LABELS, PROBS, n_parts=1, flush_rows=100)
    (tmp_path / "part-00000" / "000002.rec").unlink()
    with pytest.raises(WorkdirError, match="lacks some of its files"):
        Recorder(tmp_path, N_CLASSES, resume=True)
    (tmp_path / "part-00000" / "000002.rec").write_bytes(b"nothing")
    with pytest.raises(WorkdirError, match=r"cannot go on: .*000002.rec is not a whole record"):
        Recorder(tmp_path, N_CLASSES, resume=True)


# Settings and parts that do not fit ------------------------------------------------------------------------------


def test_all_parts_need_the_same_settings(tmp_path):
    record(tmp_path, LABELS, PROBS, n_parts=1)
    with pytest.raises(InvalidInputError, match=r"part 1 has n_classes=7, not 6 as .* was begun"):
        Recorder(tmp_path, 7, part=1)
    with pytest.raises(InvalidInputError, match=r"part 1 has from_logits=True, not False, scores=\('row_sum',\), not"):
        Recorder(tmp_path, N_CLASSES, part=1, scores=["row_sum"], from_logits=True)


def test_parts_with_and_without_row_numbers(tmp_path):
    with Recorder(tmp_path, N_CLASSES) as recorder:
        recorder.update(LABELS[:10], PROBS[:10], rows=np.arange(10))
        with pytest.raises(InvalidInputError, match=r"part 0 of .*: earlier batches were given with rows="):
            recorder.update(LABELS[:10], PROBS[:10])
    with Recorder(tmp_path, N_CLASSES, part=1) as recorder:
        recorder.update(LABELS[:10], PROBS[:10])
        with pytest.raises(InvalidInputError, match=r"part 1 of .*: earlier batches were given without ids="):
            recorder.update(LABELS[:10], PROBS[:10], ids=np.arange(10))
    with pytest.raises(InvalidInputError, match=r"part 0 of .* was recorded with row numbers, part 1 without"):
        find_recorded(tmp_path)


def test_without_row_numbers_no_part_may_be_missing(tmp_path):
    for part in (0, 1, 3):
        with Recorder(tmp_path, N_CLASSES, part=part) as recorder:
            recorder.update(LABELS[:10], PROBS[:10])
    with pytest.raises(InvalidInputError, match="has parts 0 to 3 but no part 2"):
        find_recorded(tmp_path)


def test_rows_that_were_never_recorded(tmp_path):
    rows = np.delete(np.arange(N_ROWS), [5, 70, 71, 72])
    record(tmp_path, LABELS, PROBS, rows=rows, n_rows=N_ROWS)
    with pytest.raises(InvalidInputError, match=r"4 rows were not recorded in .*: rows 5, 70..72 of 900") as caught:
        find_recorded(tmp_path)
    assert caught.value.rows == ((5, 6), (70, 73))


@pytest.mark.every_value
@pytest.mark.parametrize("cut", [{}, {"batch_size": 31, "partition_batches": 2}])
@pytest.mark.parametrize("scattered", [True, False])
def test_a_row_that_was_never_recorded_has_no_label(tmp_path, scattered, cut, small_blocks):
    gone = [0, 5, 70, 71, 72, 500] if scattered else [*range(200, 240)]
    labels = LABELS.astype(np.int64)
    labels[gone] = -1
    rows = np.delete(np.arange(N_ROWS), gone)
    record(tmp_path, LABELS, PROBS, rows=np.random.default_rng(0).permutation(rows) if scattered else rows)
    want = find(labels, PROBS, ignore_label=-1)
    got = find_recorded(tmp_path, **cut)
    assert got.n_ignored == len(gone)
    assert_same_bits(got, want)
    assert np.flatnonzero(np.isnan(got.scores)).tolist() == gone


@pytest.mark.every_value
@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("settings", [{}, {"from_logits": True, "scores": ("normalized_margin",)}])
def test_rows_that_are_given_without_a_label(tmp_path, numbered, settings):
    labels, probs = LABELS.astype(np.int64), PROBS.copy()
    labels[[3, 40, 41, 899]] = 255
    probs[[40, 899]] = np.nan
    given = np.log(probs) if settings else probs
    rows = shuffled(N_ROWS, 30) if numbered else None
    record(tmp_path, labels, given, rows=rows, ignore_label=255, n_rows=N_ROWS, **settings)
    how = {"method": "normalized_margin"} if settings else {}
    want = find(labels, softmax(given) if settings else given, ignore_label=255, **how)
    got = find_recorded(tmp_path, **how)
    assert got.n_ignored == 4
    assert_same_bits(got, want)
    with pytest.raises(InvalidInputError, match="ignore_label is for the recorder"):
        find_recorded(tmp_path, ignore_label=255)


def test_numbers_that_seem_to_be_names(tmp_path):
    with Recorder(tmp_path, N_CLASSES) as recorder:
        recorder.update(LABELS[:2], PROBS[:2], rows=[5, 12_345_678])
    with pytest.raises(InvalidInputError, match=r"2 rows were recorded in .*, with numbers up to 12,345,678: .*ids="):
        find_recorded(tmp_path)


def test_n_rows_counts_rows_without_numbers_too(tmp_path):
    record(tmp_path, LABELS[:-3], PROBS[:-3], n_rows=N_ROWS)
    with pytest.raises(InvalidInputError, match=r"897 rows were recorded in .*, n_rows is 900"):
        find_recorded(tmp_path)


@pytest.mark.parametrize("what", ["label", "p_label"])
def test_a_repeated_row_with_other_values(tmp_path, what, small_blocks):
    labels, probs = LABELS.copy(), PROBS.copy()
    record(tmp_path, labels, probs, rows=np.arange(N_ROWS), n_parts=3, flush_rows=100)
    if what == "label":
        labels[17] = (labels[17] + 1) % N_CLASSES
    else:
        probs[17, labels[17]] = probs[17, labels[17]] * np.float32(0.999)
    with Recorder(tmp_path, N_CLASSES, part=3) as recorder:
        recorder.update(labels[[3, 17]], probs[[3, 17]], rows=[3, 17])
    wrong = r"row 17 was recorded twice in .* with different values: \w+ is [\d.]+ in part 0 and [\d.]+ in part 3"
    with pytest.raises(InvalidInputError, match=wrong) as caught:
        find_recorded(tmp_path)
    assert (17, 18) in caught.value.rows


def test_a_repeated_row_with_other_values_between_two_flushes(tmp_path):
    recorder = Recorder(tmp_path, N_CLASSES, part=2)
    recorder.update(LABELS, PROBS, rows=np.arange(N_ROWS))
    other = np.roll(PROBS[40:41], 1, axis=1)
    recorder.update(LABELS[40:41], other, rows=[40])
    with pytest.raises(InvalidInputError, match=r"part 2 of .*: row 40 was given twice with different values"):
        recorder.close()


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InvalidInputError, match="has no files"):
        find_recorded(tmp_path)
    (tmp_path / "recorder.json").write_text("[]")
    with pytest.raises(UnreadableDataError, match=r"recorder.json is not what a recorder writes"):
        find_recorded(tmp_path)
    (tmp_path / "recorder.json").write_text(json.dumps({"format": 99, "n_classes": 3, "scores": []}))
    with pytest.raises(UnreadableDataError, match="has format 99 of recordings"):
        find_recorded(tmp_path)


def test_the_folder_knows_the_number_of_classes(tmp_path):
    record(tmp_path, LABELS, PROBS)
    assert_same_bits(find_recorded(tmp_path, n_classes=N_CLASSES), find(LABELS, PROBS))
    with pytest.raises(InvalidInputError, match=r"n_classes is 5, and .* was recorded with 6"):
        find_recorded(tmp_path, n_classes=5)
    plan = labelsieve.plan_label_issues(summaries=tmp_path)
    assert plan.n_reads == 1


def test_the_command_line_reads_a_recording(tmp_path):
    record(tmp_path / "recording", LABELS, PROBS, rows=shuffled(N_ROWS))
    assert run(["find", "--summaries", str(tmp_path / "recording"), "--output", str(tmp_path / "found.zarr")]) == 0
    assert_same_bits(labelsieve.load(tmp_path / "found.zarr"), find(LABELS, PROBS))


def test_a_folder_without_rows(tmp_path):
    Recorder(tmp_path, N_CLASSES).close()
    with pytest.raises(InvalidInputError, match="has no rows: nothing was recorded"):
        find_recorded(tmp_path)


# Bad batches -----------------------------------------------------------------------------------------------------


def with_bad(row, column, value):
    probs = PROBS[:20].copy()
    probs[row, column] = value
    return probs


BAD = {
    "NaN": (LABELS[:20], with_bad(7, 2, np.nan), "1 NaN probability in row 107"),
    "infinite": (LABELS[:20], with_bad(7, 2, np.inf), "1 infinite probability in row 107"),
    "negative": (LABELS[:20], with_bad(7, 2, -0.5), "1 probability below 0 in row 107"),
    "above 1": (LABELS[:20], with_bad(7, 2, 1.5), "1 probability above 1 in row 107"),
    "zeros": (LABELS[:20], np.where(np.arange(20)[:, None] == 7, 0, PROBS[:20]), "1 row .* all zeros, row 107"),
    "sums": (LABELS[:20], PROBS[:20] * np.where(np.arange(20)[:, None] == 7, 0.8, 1).astype("f4"), "row 107"),
    "logits": (LABELS[:20], np.log(PROBS[:20]) * 3, "20 rows of pred_probs do not sum to 1"),
    "label": (np.where(np.arange(20) == 7, 6, LABELS[:20]), PROBS[:20], r"1 label outside 0..5 in row 107 \(first: 6"),
    "label -1": (np.where(np.arange(20) == 7, -1, LABELS[:20]), PROBS[:20], "1 label outside 0..5 in row 107"),
    "width": (LABELS[:20], PROBS[:20, :5], r"pred_probs of a batch must have shape \(n, 6\), not \(20, 5\)"),
    "lengths": (LABELS[:19], PROBS[:20], "a batch has 19 labels and 20 rows of pred_probs"),
    "float labels": (LABELS[:20] * 1.0, PROBS[:20], r"labels of a batch must be \(n,\) integers 0..K-1, not of dtype"),
    "one row": (LABELS[:6], PROBS[0], r"must have shape \(n, 6\), not \(6,\)"),
    "integers": (LABELS[:20], (PROBS[:20] * 100).astype(int), "must be float16, bfloat16, float32 or float64, not int"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_batch_is_refused_and_nothing_of_it_is_recorded(tmp_path, case):
    labels, probs, message = BAD[case]
    with Recorder(tmp_path, N_CLASSES, part=5) as recorder:
        recorder.update(LABELS, PROBS, rows=np.arange(N_ROWS))
        with pytest.raises(InvalidInputError, match=rf"(?s)part 5 of .*{message}"):
            recorder.update(labels, probs, rows=np.arange(100, 100 + len(labels)))
    assert recorder.rows_recorded == N_ROWS
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_bad_rows_are_named_as_the_user_names_them(tmp_path):
    labels, probs, _ = BAD["NaN"]
    with Recorder(tmp_path, N_CLASSES) as recorder:
        recorder.update(labels, PROBS[:20], ids=[f"img{n}" for n in range(20)])
        with pytest.raises(InvalidInputError, match=r"in row 7 \(row numbers are positions in the batch; ids.*'img7'"):
            recorder.update(labels, probs, ids=[f"img{n}" for n in range(20)])
    with Recorder(tmp_path / "other", N_CLASSES) as recorder:
        recorder.update(labels, PROBS[:20], rows=np.arange(40, 20, -1))
        with pytest.raises(InvalidInputError, match=r"in row 33$") as caught:
            recorder.update(labels, probs, rows=np.arange(40, 20, -1))
        assert caught.value.rows == ((33, 34),)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0.5, 1.5], r"part 0 of .*: ids must be integers or strings, not float64"),
        (np.array([1, "a"], object), "ids must be integers or strings"),
        (["a"], r"ids must be \(2,\) integers or strings, not of shape \(1,\)"),
        (["a\0b", "c"], "ids must not have null characters"),
        (np.array([0, 2**63], np.uint64), r"integer ids must be below 2\*\*63"),
    ],
)
def test_bad_ids(tmp_path, ids, message):
    with Recorder(tmp_path, N_CLASSES) as recorder, pytest.raises((InvalidInputError, InputTypeError), match=message):
        recorder.update(LABELS[:2], PROBS[:2], ids=ids)


def test_ids_of_two_kinds(tmp_path):
    for part, ids in enumerate((["a", "b"], [1, 2])):
        with Recorder(tmp_path, N_CLASSES, part=part) as recorder:
            recorder.update(LABELS[:2], PROBS[:2], ids=ids)
    with pytest.raises(InvalidInputError, match=r"some ids in .* are integers, others strings"):
        find_recorded(tmp_path)


def test_a_recorder_says_what_it_is(tmp_path):
    recorder = Recorder(tmp_path, N_CLASSES, part=2)
    assert recorder.where == str(tmp_path)
    assert repr(recorder) == f"<Recorder: 0 rows in part 2 of {tmp_path}>"
    recorder.close()
    assert repr(recorder).endswith(", closed>")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([-1, 3], r"rows must be 0..899, and 1 are not \(first: -1\)"),
        ([900, 3], r"rows must be 0..899, and 1 are not \(first: 900\)"),
        ([0.5, 3], r"rows must be \(2,\) integers, not float64"),
        ([3], r"rows must be \(2,\) integers, not int64 of shape \(1,\)"),
    ],
)
def test_bad_row_numbers(tmp_path, rows, message):
    with Recorder(tmp_path, N_CLASSES, n_rows=N_ROWS) as recorder, pytest.raises(InvalidInputError, match=message):
        recorder.update(LABELS[:2], PROBS[:2], rows=rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_classes": 1}, "n_classes must be a whole number of at least 2"),
        ({"part": -1}, "part must be a whole number of at least 0"),
        ({"scores": ["margin"]}, "scores must be among normalized_margin, .*; not margin"),
        ({"flush_rows": 0}, "flush_rows must be"),
        ({"classes_per_row": 7}, "classes_per_row is 7, there are 6 classes"),
        ({"ignore_label": "none"}, "ignore_label must be a whole number or None, not 'none'"),
        ({"resume": 1}, "resume must be True or False"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(InvalidInputError, match=message):
        Recorder(tmp_path, **{"n_classes": N_CLASSES} | settings)


def test_what_is_closed_takes_no_more(tmp_path):
    recorder = Recorder(tmp_path, N_CLASSES)
    recorder.update(LABELS, PROBS)
    recorder.close()
    recorder.close()
    with pytest.raises(InvalidInputError, match="is closed"):
        recorder.update(LABELS, PROBS)


def test_an_empty_batch_does_nothing(tmp_path):
    with Recorder(tmp_path, N_CLASSES) as recorder:
        recorder.update(LABELS[:0], PROBS[:0])
        recorder.update(LABELS, PROBS)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


def test_rows_that_are_accepted(tmp_path):
    probs = PROBS.copy()
    probs[4], probs[9] = 0, probs[9] * np.float32(0.5)
    allow = {"allow_zero_rows": True, "allow_unnormalized_rows": True}
    record(tmp_path, LABELS, probs, **allow)
    assert_same_bits(find_recorded(tmp_path, **allow), find(LABELS, probs, **allow))


# The exact rule ----------------------------------------------------------------------------------------------------

EXACT = [
    {"rule": "confident_joint"},
    {"rule": "confident_joint", "estimation_method": "off_diagonal_calibrated"},
    {"filter_by": "confident_learning"},
    {"filter_by": "low_self_confidence"},
    {"filter_by": "low_normalized_margin"},
    {"filter_by": "prune_by_class", "frac_noise": 0.7},
]


@pytest.mark.every_value
@pytest.mark.parametrize("settings", EXACT)
@pytest.mark.parametrize("n_classes", [6, 60])
def test_the_exact_rule_on_the_largest_probabilities(tmp_path, settings, n_classes, small_blocks):
    labels, probs = draw(N_ROWS, n_classes, seed=4, noise=0.3, signal=3.0, dtype=np.float32)
    k = 5 if n_classes == 6 else 20
    scores = ("normalized_margin",)
    record(tmp_path / "r", labels, probs, rows=shuffled(N_ROWS, 30), classes_per_row=k, scores=scores, flush_rows=150)
    want = find(labels, probs, **settings)
    assert_same_bits(find_recorded(tmp_path / "r", **settings), want)
    cut = {"batch_size": 50, "partition_batches": 3, "workdir": tmp_path / "work"}
    assert_same_bits(find_recorded(tmp_path / "r", **settings, **cut), want)


def test_too_few_probabilities_are_refused_with_what_is_enough(tmp_path):
    labels, probs = draw(N_ROWS, 60, seed=4, noise=0.3, signal=2.0)
    record(tmp_path / "few", labels, probs, classes_per_row=2)
    settings = {"rule": "confident_joint"}
    with pytest.raises(
        InvalidInputError, match=r"\d+ rows are too few for the exact rule: .*classes_per_row=\d+"
    ) as got:
        find_recorded(tmp_path / "few", **settings)
    enough = int(re.search(r"classes_per_row=(\d+)", str(got.value))[1])
    record(tmp_path / "enough", labels, probs, classes_per_row=enough)
    assert_same_bits(find_recorded(tmp_path / "enough", **settings), find(labels, probs, **settings))


def test_what_was_not_recorded_is_named(tmp_path):
    record(tmp_path, LABELS, PROBS)
    with pytest.raises(InvalidInputError, match=r"needs the column normalized_margin .*scores=\('normalized_"):
        find_recorded(tmp_path, method="normalized_margin")
    for settings in ({"filter_by": "both"}, {"method": "normalized_margin", "adjust_pred_probs": True}):
        name = next(iter(settings.values()))
        with pytest.raises(InvalidInputError, match=f"{name}.* needs all probabilities of each row"):
            find_recorded(tmp_path, **settings)
    with pytest.raises(InvalidInputError, match=r"rule='confident_joint' needs all probabilities.*classes_per_row=10"):
        find_recorded(tmp_path, rule="confident_joint")
