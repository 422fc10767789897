"""A record that is damaged while a run still needs it is made again at once, and the answer stays the same."""

import os
import shutil
from collections import Counter

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import draws
import labelsieve
from labelsieve.job import scan
from labelsieve.job import table as count_and_select
from labelsieve.job.passes import Passes
from labelsieve.job.table import RowSummaries
from labelsieve.storage.folder import LocalFolder
from workdirs import record_files

N_ROWS, K = 400, 5
LABELS, PROBS = draws.draw(N_ROWS, K, seed=31, noise=0.3)
CUT = {"batch_size": 20, "partition_batches": 2}  # ten partitions of 40 rows
MARGIN = {"method": "normalized_margin", "adjust_pred_probs": True}
HARMS = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}


def flipped(content):
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def find(probs=PROBS, labels=LABELS, **choices):
    return labelsieve.find_label_issues(labels, probs, progress=False, **(CUT | choices))


@pytest.fixture(autouse=True)
def stored(monkeypatch):
    """Keep row summaries in the workdir alone, as if all memory were for issues."""
    monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)


@pytest.fixture
def harmed_before(monkeypatch, tmp_path):
    """Harm some records once, before a pass of the next run; return which rows were read after that."""

    def prepare(step, harm="half", indices=(3,), kind="summaries"):
        owner = Passes if step == "rescan" else RowSummaries
        inner, read, done = getattr(owner, step), Counter(), []

        def harmful(run, *args, **how):
            if not done:
                done.append(step)
                for index in indices:
                    HARMS[harm](tmp_path / "work" / kind / record_files(tmp_path / "work", kind)[index])
                monkeypatch.setattr("labelsieve.job.scan.read_rows", noted)
            return inner(run, *args, **how)

        def noted(partition, *args, read_rows=scan.read_rows, **how):
            read[partition.index] += 1
            return read_rows(partition, *args, **how)

        monkeypatch.setattr(owner, step, harmful)
        return read, done

    return prepare


STEPS = {
    "count": {},
    "select_lowest": {},
    "sorted_issues": {},
    "write": {"output": True},
    "select_lowest_by_class": {"filter_by": "prune_by_class"},
    "select_largest_margins": {"filter_by": "prune_by_noise_rate"},
    "rescan": {"filter_by": "confident_learning"},
}


@pytest.mark.parametrize("step", STEPS)
def test_a_record_damaged_before_any_pass_is_made_again(tmp_path, harmed_before, step, caplog):
    choices = dict(STEPS[step])
    want = draws.bits(find(**{name: value for name, value in choices.items() if name != "output"}))
    if "output" in choices:
        choices["output"] = tmp_path / "out.zarr"
    read, done = harmed_before(step, indices=(3, 8))
    found = find(workdir=tmp_path / "work", **choices)
    assert done == [step]
    assert read == {3: 1, 8: 1}
    assert draws.bits(found) == want
    assert len([r for r in caplog.records if "are read again" in r.getMessage()]) == 1
    assert find(workdir=tmp_path / "work", **choices).facts.rows_read == 0


@pytest.mark.parametrize("harm", HARMS)
def test_it_does_not_matter_how(tmp_path, harmed_before, harm):
    read, _ = harmed_before("count", harm)
    found = find(workdir=tmp_path / "work")
    assert read == {3: 1}
    assert found.facts.bytes_read == (N_ROWS + 40) * K * 8
    assert draws.bits(found) == draws.bits(find())


@pytest.mark.parametrize("settings", [MARGIN, {"filter_by": "confident_learning"}], ids=str)
def test_what_a_second_read_gave_is_made_again_too(tmp_path, harmed_before, settings):
    read, done = harmed_before("sorted_issues", kind="rescan")
    found = find(workdir=tmp_path / "work", **settings)
    assert done
    assert read == {}, "the first read is whole"
    assert found.facts.bytes_read == (2 * N_ROWS + 40) * K * 8
    assert draws.bits(found) == draws.bits(find(**settings))


def test_all_records_may_go_at_once(tmp_path, harmed_before):
    want = draws.bits(find())
    read, _ = harmed_before("count", "gone", range(10))
    assert draws.bits(find(workdir=tmp_path / "work")) == want
    assert read == dict.fromkeys(range(10), 1)


@pytest.mark.parametrize("settings", [{}, MARGIN], ids=str)
def test_of_a_dask_array_only_what_is_damaged_is_computed_again(tmp_path, harmed_before, settings):
    computed = Counter()

    def block(rows, block_info=None):
        computed[block_info[0]["chunk-location"][0]] += 1
        return rows + 0

    def probs():
        array = da.from_array(PROBS, chunks=(20, K), name="probs-" + "0123456789abcdef" * 2)
        return array.map_blocks(block, name="rows-" + "0123456789abcdef" * 2, meta=np.empty((0, 0)))

    want = draws.bits(find(**settings))
    harmed_before("count", kind="summaries")
    assert draws.bits(find(probs(), workdir=tmp_path / "work", **settings)) == want
    # On a resume finished partitions have no blocks, and a damaged one gets them again.
    for kind in ["summaries", *(["rescan"] if settings else [])]:
        HARMS["half"](tmp_path / "work" / kind / record_files(tmp_path / "work", kind)[5])
        computed.clear()
        found = find(probs(), workdir=tmp_path / "work", **settings)
        assert draws.bits(found) == want
        assert found.facts.rows_read == (40 if kind == "summaries" else 0)
        if not settings:
            assert {10, 11} <= set(computed)
            assert computed.total() <= 8 + 2, "a block of eight partitions for the check, and one partition"


def test_workers_make_it_again_too(tmp_path, harmed_before):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    harmed_before("count", indices=(0, 9))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        found = find(tmp_path / "probs.npy", tmp_path / "labels.npy", workdir=tmp_path / "work", client=client)
        assert draws.bits(found) == draws.bits(find())


def test_forked_processes_leave_records_that_are_made_again(tmp_path, harmed_before):
    want = draws.bits(find())
    read, _ = harmed_before("count")
    assert draws.bits(find(workdir=tmp_path / "work", n_jobs=2)) == want
    assert read == {3: 1}


def test_a_disk_that_goes_on_damaging_records_is_an_error(tmp_path, monkeypatch):
    inner = count_and_select.count

    def harmful(*args, **how):
        for record in (tmp_path / "work" / "summaries").glob("*.rec"):
            HARMS["half"](record)
        return inner(*args, **how)

    monkeypatch.setattr("labelsieve.job.table.count", harmful)
    with pytest.raises(labelsieve.TaskFailedError, match=r"summaries/[0-9a-f-]+\.rec is not a whole record"):
        find(workdir=tmp_path / "work")


def test_rows_that_are_others_by_then_are_an_error(tmp_path, monkeypatch):
    np.save(tmp_path / "probs.npy", PROBS)
    inner = RowSummaries.count

    def harmful(run, *args, **how):
        status = (tmp_path / "probs.npy").stat()
        probs = np.load(tmp_path / "probs.npy", "r+")
        probs[120:160] = np.roll(PROBS[120:160], 1, axis=1)
        probs.flush()
        os.utime(tmp_path / "probs.npy", ns=(status.st_atime_ns, status.st_mtime_ns))  # or it would not be read at all
        HARMS["half"](tmp_path / "work" / "summaries" / record_files(tmp_path / "work")[3])
        return inner(run, *args, **how)

    monkeypatch.setattr(RowSummaries, "count", harmful)
    with pytest.raises(labelsieve.UnreadableDataError, match=r"probs\.npy changed during the run"):
        find(tmp_path / "probs.npy", workdir=tmp_path / "work")


def test_a_workdir_that_is_gone_altogether_is_made_again(tmp_path, monkeypatch):
    inner, done = RowSummaries.count, []

    def harmful(run, *args, **how):
        if not done:
            done.append(shutil.rmtree(tmp_path / "work" / "summaries"))
        return inner(run, *args, **how)

    monkeypatch.setattr(RowSummaries, "count", harmful)
    assert draws.bits(find(workdir=tmp_path / "work")) == draws.bits(find())
    assert len(LocalFolder(tmp_path / "work" / "summaries").names()) == 10
