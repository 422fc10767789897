"""A record that is damaged while a run still needs it is an error, and the next run makes it again."""

import shutil
from collections import Counter

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import draws
import labelsieve
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
    """Harm some records once, before a step of the next run."""

    def prepare(step, harm="half", indices=(3,), kind="summaries"):
        owner = Passes if step == "rescan" else RowSummaries
        inner, done = getattr(owner, step), []

        def harmful(run, *args, **how):
            if not done:
                done.append(step)
                for index in indices:
                    HARMS[harm](tmp_path / "work" / kind / record_files(tmp_path / "work", kind)[index])
            return inner(run, *args, **how)

        monkeypatch.setattr(owner, step, harmful)

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


ADVICE = r"\. Run the same command again, which makes the record again$"


@pytest.mark.parametrize("step", STEPS)
def test_a_record_damaged_before_any_pass_is_an_error_and_the_same_run_again_makes_it(tmp_path, harmed_before, step):
    choices = dict(STEPS[step])
    want = draws.bits(find(**{name: value for name, value in choices.items() if name != "output"}))
    if "output" in choices:
        choices["output"] = tmp_path / "out.zarr"
    harmed_before(step, indices=(3, 8))
    rows = r"\(?rows (0\.\.399|120\.\.159|320\.\.359)\)? of .*"
    file = r"work/summaries/[0-9a-f-]+\.rec is not a whole record: .*"
    with pytest.raises(labelsieve.TaskFailedError, match=rows + file + ADVICE):
        find(workdir=tmp_path / "work", **choices)
    found = find(workdir=tmp_path / "work", **choices)
    assert draws.bits(found) == want
    assert found.facts.rows_read == 80
    assert find(workdir=tmp_path / "work", **choices).facts.rows_read == 0


@pytest.mark.parametrize("harm", HARMS)
def test_it_does_not_matter_how(tmp_path, harmed_before, harm):
    harmed_before("count", harm)
    with pytest.raises(labelsieve.TaskFailedError, match=r"\.rec.*" + ADVICE):
        find(workdir=tmp_path / "work")
    found = find(workdir=tmp_path / "work")
    assert found.facts.rows_read == 40
    assert draws.bits(found) == draws.bits(find())


@pytest.mark.parametrize("settings", [MARGIN, {"filter_by": "confident_learning"}], ids=str)
def test_what_a_second_read_gave_is_made_again_too(tmp_path, harmed_before, settings):
    harmed_before("sorted_issues", kind="rescan")
    with pytest.raises(labelsieve.TaskFailedError, match=r"work/rescan/[0-9a-f-]+\.rec.*" + ADVICE):
        find(workdir=tmp_path / "work", **settings)
    found = find(workdir=tmp_path / "work", **settings)
    assert found.facts.rows_read == 0, "the first read is whole"
    assert found.facts.bytes_read == 40 * K * 8
    assert draws.bits(found) == draws.bits(find(**settings))


def test_all_records_may_go_at_once(tmp_path, harmed_before):
    harmed_before("count", "gone", range(10))
    with pytest.raises(labelsieve.TaskFailedError, match=r"is not there any more|No such file"):
        find(workdir=tmp_path / "work")
    found = find(workdir=tmp_path / "work")
    assert found.facts.rows_read == N_ROWS
    assert draws.bits(found) == draws.bits(find())


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
    with pytest.raises(labelsieve.TaskFailedError, match=ADVICE):
        find(probs(), workdir=tmp_path / "work", **settings)
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
        places = tmp_path / "probs.npy", tmp_path / "labels.npy"
        with pytest.raises(labelsieve.TaskFailedError, match=ADVICE):
            find(*places, workdir=tmp_path / "work", client=client)
        found = find(*places, workdir=tmp_path / "work", client=client)
        assert found.facts.rows_read == 80
        assert draws.bits(found) == draws.bits(find())


def test_forked_processes_leave_records_that_are_made_again(tmp_path, harmed_before):
    harmed_before("count")
    with pytest.raises(labelsieve.TaskFailedError, match=ADVICE):
        find(workdir=tmp_path / "work", n_jobs=2)
    found = find(workdir=tmp_path / "work", n_jobs=2)
    assert found.facts.rows_read == 40
    assert draws.bits(found) == draws.bits(find())


def test_a_workdir_that_is_gone_altogether_is_made_again(tmp_path, monkeypatch):
    inner, done = RowSummaries.count, []

    def harmful(run, *args, **how):
        if not done:
            done.append(shutil.rmtree(tmp_path / "work" / "summaries"))
        return inner(run, *args, **how)

    monkeypatch.setattr(RowSummaries, "count", harmful)
    with pytest.raises(labelsieve.TaskFailedError, match=ADVICE):
        find(workdir=tmp_path / "work")
    assert draws.bits(find(workdir=tmp_path / "work")) == draws.bits(find())
    assert len(LocalFolder(tmp_path / "work" / "summaries").names()) == 10
