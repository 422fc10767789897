"""A run that goes on reads a few rows again, so that an input which only looks the same is found out."""

import os
import shutil
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import draws
import labelsieve
from labelsieve import WorkdirError
from labelsieve.job import workdir as spot_check
from workdirs import record_files

# Other inputs are made by moving the classes.
pytestmark = pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem to belong together:UserWarning")

N_ROWS, K = 400, 5
LABELS, PROBS = draws.draw(N_ROWS, K, seed=31, noise=0.3)
OTHER = np.roll(PROBS, 1, axis=1)
CUT = {"batch_size": 20, "partition_batches": 2}  # ten partitions
MARGIN = {"method": "normalized_margin", "adjust_pred_probs": True}
FRESH = r"Start over with fresh=True$"


def find(labels, probs, **choices):
    return labelsieve.find_label_issues(labels, probs, progress=False, **(CUT | choices))


def change_in_place(path, array):
    """Write other values to a file whose size and times stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size - array.nbytes)
        file.write(array.tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    stored = zarr.create_array(
        tmp_path / "probs.zarr", shape=PROBS.shape, chunks=(20, K), dtype=PROBS.dtype, compressors=None
    )
    stored[:] = PROBS
    return tmp_path


def rows_of(path, start, stop, computed):
    computed[start] += 1
    return np.load(path)[start:stop]


def by_delayed(files, computed):
    """A Dask array whose name says nothing of the file that its blocks are read from."""
    part = dask.delayed(lambda start: rows_of(files / "probs.npy", start, start + 20, computed), pure=True)
    parts = [part(start, dask_key_name=f"rows-{start}") for start in range(0, N_ROWS, 20)]
    blocks = [da.from_delayed(one, (20, K), PROBS.dtype) for one in parts]
    return da.concatenate(blocks)


def by_map_blocks(files, computed):
    def block(rows, block_info=None):
        start = block_info[0]["array-location"][0][0]
        return rows_of(files / "probs.npy", start, start + len(rows), computed)

    rows = da.zeros((N_ROWS, K), chunks=(20, K))
    return rows.map_blocks(block, name="rows-" + "0123456789abcdef" * 2, dtype=PROBS.dtype, meta=np.empty((0, 0)))


DASK = {"delayed": by_delayed, "map_blocks": by_map_blocks}


@pytest.mark.every_value
@pytest.mark.parametrize("settings", [{}, MARGIN, {"filter_by": "both"}], ids=str)
@pytest.mark.parametrize("kind", DASK)
def test_a_dask_array_whose_data_changed_under_its_name_is_found_out(files, kind, settings):
    computed = Counter()

    def run(**how):
        return find(LABELS, DASK[kind](files, computed), workdir=files / "work", **settings, **how)

    assert DASK[kind](files, computed).name == DASK[kind](files, computed).name
    run()
    computed.clear()
    first = run()
    assert first.facts.rows_read == 0
    assert draws.bits(first) == draws.bits(find(LABELS, PROBS, **settings))
    if first.facts.n_reads == 1:
        assert len(computed) == 8, "a block of eight partitions"
        assert set(computed.values()) == {1}
    change_in_place(files / "probs.npy", OTHER)
    why = r"are the same \(or its Dask array computes other values each time\): of rows"
    with pytest.raises(WorkdirError, match=rf"^pred_probs changed after the workdir .*work was made.*{why}.*{FRESH}"):
        run()
    assert draws.bits(run(fresh=True)) == draws.bits(find(LABELS, OTHER, **settings))


@pytest.mark.parametrize("settings", [MARGIN, {"filter_by": "both"}, {"filter_by": "confident_learning"}], ids=str)
def test_where_all_is_stored_no_more_of_a_dask_array_is_computed(files, monkeypatch, settings):
    # As on a cluster: with what later reads give in the workdir too.
    monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)
    computed = Counter()
    choices = {"workdir": files / "work", "max_memory": "100GB", **settings}
    want = find(LABELS, by_delayed(files, computed), **choices)
    assert len(computed) == 20
    computed.clear()
    again = find(LABELS, by_delayed(files, computed), **choices)
    assert draws.bits(again) == draws.bits(want) == draws.bits(find(LABELS, PROBS, **settings))
    assert computed.total() == 8


@pytest.mark.every_value
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("harmed", ["labels", "probs"])
def test_a_file_whose_times_were_restored_is_found_out(files, harmed, n_jobs):
    def run(**how):
        return find(files / "labels.npy", files / "probs.npy", workdir=files / "work", n_jobs=n_jobs, **how)

    run()
    change_in_place(files / f"{harmed}.npy", OTHER if harmed == "probs" else (LABELS + 1) % K)
    name = {"labels": "labels", "probs": "pred_probs"}[harmed]
    with pytest.raises(WorkdirError, match=rf"^{name} changed after .* of rows \d+\.\.\d+, .* differ.*{FRESH}"):
        run()
    assert run(fresh=True).facts.rows_read == N_ROWS


def test_chunks_whose_times_were_restored_are_found_out(files):
    find(LABELS, files / "probs.zarr", workdir=files / "work")
    for i in range(20):
        change_in_place(files / "probs.zarr" / "c" / str(i) / "0", OTHER[20 * i : 20 * i + 20])
    with pytest.raises(WorkdirError, match=r"^pred_probs changed after"):
        find(LABELS, files / "probs.zarr", workdir=files / "work")


@pytest.mark.parametrize("kind", ["npy", "dask"])
def test_workers_find_it_out_too(files, kind):
    computed = Counter()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def run():
            probs = files / "probs.npy" if kind == "npy" else by_map_blocks(files, computed)
            return find(files / "labels.npy", probs, workdir=files / "work", client=client)

        run()
        assert draws.bits(run()) == draws.bits(find(LABELS, PROBS))
        change_in_place(files / "probs.npy", OTHER)
        with pytest.raises(WorkdirError, match=r"^pred_probs changed after"):
            run()


@pytest.mark.parametrize("method", ["normalized_margin", "confidence_weighted_entropy"])
def test_a_score_of_the_whole_row_is_compared_to_the_last_bit(files, method):
    # Neither the predicted class nor the probability of the label changes: only a third class, by very little.
    choices = {"method": method, "workdir": files / "work"}
    find(LABELS, files / "probs.npy", **choices)
    other, rows = PROBS.copy(), np.arange(N_ROWS)
    if method == "normalized_margin":
        without = other.copy()
        without[rows, LABELS] = -1
        at = without.argmax(axis=1)  # the largest of another class, which the margin is to
        other[rows, at] = np.nextafter(other[rows, at], 0)
    else:
        without = other.copy()
        without[rows, LABELS] = without[rows, other.argmax(axis=1)] = 2
        other[rows, without.argmin(axis=1)] *= 0.99
    change_in_place(files / "probs.npy", other)
    with pytest.raises(WorkdirError, match=r"^pred_probs changed after"):
        find(LABELS, files / "probs.npy", **choices)


def test_entropy_may_differ_in_its_last_bits_as_on_another_processor(files, monkeypatch):
    choices = {"method": "confidence_weighted_entropy", "workdir": files / "work"}
    find(LABELS, files / "probs.npy", **choices)
    inner = np.log

    def elsewhere(*args, **how):
        found = inner(*args, **how)
        return np.nextafter(found, np.inf, out=found) if isinstance(found, np.ndarray) else np.nextafter(found, np.inf)

    monkeypatch.setattr(np, "log", elsewhere)
    assert find(LABELS, files / "probs.npy", **choices).facts.rows_read == 0


def read_again(monkeypatch):
    """Note the partition and the rows of each part that is read again."""
    read, inner = [], spot_check.read_rows

    def noted(part, *args, **how):
        read.append((part.index, part.start, part.stop))
        return inner(part, *args, **how)

    monkeypatch.setattr(spot_check, "read_rows", noted)
    return read


def test_few_rows_are_read_and_only_of_finished_partitions(files, monkeypatch):
    find(files / "labels.npy", files / "probs.npy", workdir=files / "work")
    records = [files / "work" / "summaries" / name for name in record_files(files / "work")]
    for index in (0, 3, 4, 5, 9):
        records[index].unlink()
    records[7].write_bytes(b"torn")
    monkeypatch.setattr(spot_check, "MOST_BYTES", 7 * K * 8)
    read = read_again(monkeypatch)
    assert find(files / "labels.npy", files / "probs.npy", workdir=files / "work").facts.rows_resumed == 160
    assert sorted(index for index, _, _ in read) == [1, 2, 6, 8]
    assert all(stop - start == 7 and 40 * index <= start < stop <= 40 * (index + 1) for index, start, stop in read)


def test_at_most_8_partitions_are_read_of_one_stored_chunk_each(files, monkeypatch):
    find(LABELS, files / "probs.zarr", workdir=files / "work")
    drawn, read = set(), read_again(monkeypatch)
    for _ in range(20):
        read.clear()
        find(LABELS, files / "probs.zarr", workdir=files / "work")
        assert len(read) == 8
        assert len({start // 40 for _, start, _ in read}) == 8
        assert all(start // 20 == (stop - 1) // 20 for _, start, stop in read)
        drawn |= {start // 20 for _, start, _ in read}
    assert len(drawn) > 10, "they are drawn anew each time"


def test_an_input_that_was_copied_back_with_its_times_goes_on(files):
    find(files / "labels.npy", files / "probs.npy", workdir=files / "work")
    shutil.copy2(files / "probs.npy", files / "copy")
    shutil.copy2(files / "copy", files / "probs.npy")
    assert find(files / "labels.npy", files / "probs.npy", workdir=files / "work").facts.rows_read == 0


def test_a_partition_without_rows_is_left_out(tmp_path):
    probs = da.from_array(PROBS, chunks=((100, 0, 0, 300), K))
    choices = {"workdir": tmp_path / "work", "partition_batches": 1}
    first = find(LABELS, probs, **choices)
    again = find(LABELS, probs, **choices)
    assert again.facts.rows_read == 0
    assert draws.bits(first) == draws.bits(again)
