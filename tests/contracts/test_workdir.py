"""A killed run goes on: only what is not committed is read, and nothing of another run is ever taken in."""

import contextlib
import json
import os
import pickle
import shutil
import stat
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr

import draws
import labelsieve
import naive
from labelsieve import WorkdirError
from labelsieve.confident_learning import thresholds as summary_block
from labelsieve.job import scan
from labelsieve.job import scan as rescan
from labelsieve.job.kept import Records
from labelsieve.job.passes import Passes
from labelsieve.job.table import RowSummaries
from labelsieve.job.workdir import Workdir
from labelsieve.results import store as publish
from labelsieve.storage.folder import LocalFolder, open_folder
from workdirs import record_files

# Other inputs are made of these by moving the classes.
pytestmark = pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem to belong together:UserWarning")

N_ROWS = 400
LABELS, PROBS = draws.draw(N_ROWS, 5, seed=31, noise=0.3)
CUT = {"batch_size": 20, "partition_batches": 2}  # ten partitions of 40 rows
MARGIN = {"method": "normalized_margin", "adjust_pred_probs": True}


def find(labels=LABELS, probs=PROBS, **choices):
    return labelsieve.find_label_issues(labels, probs, progress=False, **(CUT | choices))


@pytest.fixture(scope="module")
def want():
    """What runs without a workdir find, for plain scores and for those of two reads."""
    return {reads: draws.bits(find(**choices)) for reads, choices in {1: {}, 2: MARGIN}.items()}


@pytest.fixture
def files(tmp_path):
    """Labels and probabilities as .npy and Zarr, 20 rows a chunk."""
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    array = zarr.create_array(tmp_path / "probs.zarr", shape=PROBS.shape, chunks=(20, 5), dtype=PROBS.dtype)
    array[:] = PROBS
    return tmp_path


def empty_memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def nothing_fits(monkeypatch):
    """Keep row summaries in the workdir alone, as if all memory were for issues."""
    monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    """Where a workdir may be: on a disk, with summaries there alone, or at a URL, with summaries here too."""
    if request.param == "disk":
        nothing_fits(request.getfixturevalue("monkeypatch"))
        yield str(tmp_path / "work")
        return
    empty_memory()
    yield "memory://bucket/work"
    empty_memory()


class Killed(BaseException):
    """What a killed run ends with."""


@pytest.fixture
def killed_after(monkeypatch):
    """Run something in which all partitions of a map after some are never worked on."""

    def run(n_partitions, run, *, name="read_rows"):
        module = scan if name == "read_rows" else rescan
        inner, done = getattr(module, name), []

        def counting(partition, *args, **kwargs):
            if len(done) == n_partitions:
                raise Killed
            done.append(partition.index)
            return inner(partition, *args, **kwargs)

        with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
            patch.setattr(module, name, counting)
            with pytest.raises(Killed):
                run()
        assert len(done) == n_partitions
        return done

    return run


def record_path(place, index, kind="summaries"):
    return open_folder(place).folder(kind), record_files(place, kind)[index]


def facts(found):
    return found.facts.rows_read, found.facts.rows_resumed


# Going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_done", [0, 1, 3, 9])
def test_only_what_is_missing_is_read(place, want, killed_after, n_done):
    killed_after(n_done, lambda: find(workdir=place))
    found = find(workdir=place)
    assert facts(found) == (N_ROWS - 40 * n_done, 40 * n_done)
    assert found.facts.bytes_read == (N_ROWS - 40 * n_done) * 5 * 8
    assert draws.bits(found) == want[1]


def test_a_run_that_was_done_is_not_read_again(place, want):
    first, again = find(workdir=place), find(workdir=place)
    assert (facts(first), facts(again)) == ((N_ROWS, 0), (0, N_ROWS))
    assert again.facts.bytes_read == 0
    assert draws.bits(first) == draws.bits(again) == want[1]


def test_the_description_is_written_through_and_left_alone_by_a_run_that_goes_on(tmp_path, monkeypatch, want):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()) or fsync(number)
    )
    find(workdir=tmp_path / "work")
    assert [path.name.startswith(".labelsieve.json.") for path in synced] == [True]
    before = (tmp_path / "work" / "labelsieve.json").stat()
    assert draws.bits(find(workdir=tmp_path / "work")) == want[1]
    after = (tmp_path / "work" / "labelsieve.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_fresh_run_that_is_refused_forgets_nothing(place, want):
    find(workdir=place)
    with pytest.raises(labelsieve.MemoryLimitError):
        find(workdir=place, fresh=True, max_memory="1MB")
    found = find(workdir=place)
    assert facts(found) == (0, N_ROWS)
    assert draws.bits(found) == want[1]


def test_what_killed_runs_were_writing_goes_with_the_next_one(tmp_path, want):
    find(workdir=tmp_path / "work")
    left = tmp_path / "work" / "summaries" / ".0000003.rec.0123"
    left.write_bytes(b"half")
    assert draws.bits(find(workdir=tmp_path / "work")) == want[1]
    assert not left.exists()


def test_a_resume_takes_each_record_into_its_place(tmp_path, want, monkeypatch):
    find(workdir=tmp_path / "work")
    made, inner = [], summary_block.SummaryBlock.empty.__func__
    monkeypatch.setattr("labelsieve.job.job.check_finished", lambda *_: None)
    monkeypatch.setattr(
        summary_block.SummaryBlock,
        "empty",
        classmethod(lambda cls, n, *args, **how: made.append(n) or inner(cls, n, *args, **how)),
    )
    assert draws.bits(find(workdir=tmp_path / "work")) == want[1]
    assert sum(made) == N_ROWS


def test_rows_are_really_read_only_where_they_are_missing(files, killed_after, monkeypatch, want):
    killed_after(6, lambda: find(probs=files / "probs.zarr", workdir=files / "work"))
    read, inner = [], scan.read_rows
    monkeypatch.setattr(
        scan, "read_rows", lambda partition, *args: read.append(partition.start) or inner(partition, *args)
    )
    assert draws.bits(find(probs=files / "probs.zarr", workdir=files / "work")) == want[1]
    assert len(read) == 4
    assert len(set(read)) == 4


@pytest.mark.every_value
@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize(("method", "adjust"), naive.METHODS)
def test_every_score_goes_on(tmp_path, killed_after, method, adjust, output):
    choices = {"method": method, "adjust_pred_probs": adjust, "workdir": tmp_path / "work"}
    if output:
        choices["output"] = tmp_path / "result.zarr"
    killed_after(5, lambda: find(**choices))
    assert not (tmp_path / "result.zarr").exists()
    found = find(**choices)
    assert facts(found) == (200, 200)
    assert draws.bits(found) == draws.bits(find(method=method, adjust_pred_probs=adjust))


@pytest.mark.every_value
@pytest.mark.parametrize("n_scored", [0, 4, 9])
def test_both_reads_go_on(place, want, killed_after, n_scored):
    killed_after(n_scored, lambda: find(workdir=place, **MARGIN), name="rescan")
    found = find(workdir=place, **MARGIN)
    assert facts(found) == (0, N_ROWS)
    assert found.facts.bytes_read == (N_ROWS - 40 * n_scored) * 5 * 8
    assert draws.bits(found) == want[2]
    assert find(workdir=place, **MARGIN).facts.bytes_read == 0


def test_a_read_killed_in_the_first_pass_scores_all_in_the_second(place, want, killed_after):
    killed_after(7, lambda: find(workdir=place, **MARGIN))
    found = find(workdir=place, **MARGIN)
    assert facts(found) == (120, 280)
    assert found.facts.bytes_read == (120 + N_ROWS) * 5 * 8
    assert draws.bits(found) == want[2]


def test_scores_made_with_other_thresholds_are_never_mixed_in(files):
    # A chunk that is written anew changes the thresholds, and so the scores of every row.
    choices = {"probs": files / "probs.zarr", "workdir": files / "work", **MARGIN}
    find(**choices)
    probs = PROBS.copy()
    probs[:20] = np.roll(probs[:20], 1, axis=1)
    zarr.open_array(files / "probs.zarr", mode="r+")[:20] = probs[:20]
    found = find(**choices)
    assert facts(found) == (40, 360)
    assert found.facts.bytes_read == (40 + N_ROWS) * 5 * 8
    assert draws.bits(found) == draws.bits(find(probs=probs, **MARGIN))


def test_findings_go_on_too(place, killed_after):
    probs = PROBS.copy()
    probs[[3, 7, 390]] = np.nan
    probs[100:103] = 0.98 / probs.shape[1]  # below 1/K: a warning
    messages = set()
    with pytest.warns(labelsieve.LabelsieveWarning, match="largest value is below 1/K"):
        find(probs=np.nan_to_num(probs, nan=0.2), workdir=f"{place}-warned")
    with pytest.warns(labelsieve.LabelsieveWarning, match=r"3 rows .* \(rows 100..102\)"):
        assert find(probs=np.nan_to_num(probs, nan=0.2), workdir=f"{place}-warned").facts.rows_read == 0
    killed_after(4, lambda: find(probs=probs, workdir=place))
    for choices in ({"workdir": place}, {"workdir": place}, {}):
        with pytest.raises(labelsieve.InvalidInputError) as caught:
            find(probs=probs, **choices)
        messages.add(str(caught.value))
    assert messages == {"15 NaN probabilities in rows 3, 7, 390"}


def test_a_partition_with_bad_data_is_not_committed(files):
    # It is read again however the input was mended.
    array = zarr.open_array(files / "probs.zarr", mode="r+")
    bad = PROBS[220:240].copy()
    bad[3, 2] = np.nan
    array[220:240] = bad
    choices = {"probs": files / "probs.zarr", "workdir": files / "work"}
    with pytest.raises(labelsieve.InvalidInputError, match="1 NaN probability in row 223"):
        find(**choices)
    names = record_files(files / "work")
    assert LocalFolder(files / "work" / "summaries").names() == sorted(name for name in names if name != names[5])
    array[220:240] = PROBS[220:240]
    found = find(**choices)
    assert facts(found) == (40, 360)
    assert draws.bits(found) == draws.bits(find())


@pytest.mark.parametrize("allowed", [False, True])
def test_zero_rows_are_committed_where_they_are_allowed(tmp_path, allowed):
    probs = PROBS.copy()
    probs[[3, 399]] = 0
    choices = {"probs": probs, "workdir": tmp_path / "work", "allow_zero_rows": allowed}
    if not allowed:
        with pytest.raises(labelsieve.InvalidInputError, match="all zeros"):
            find(**choices)
        assert len(LocalFolder(tmp_path / "work" / "summaries").names()) == 8
    else:
        find(**choices)
        assert facts(find(**choices)) == (0, N_ROWS)


def test_a_record_that_is_not_finished_is_not_committed(place):
    names, versions = bytes(range(32)), bytes(range(32, 64))
    records = Records(open_folder(place), names, versions)
    with records.create("summaries", 0) as writer:
        writer.add({"x": np.arange(3)})
    assert records.committed("summaries", 0, 3) is None
    assert open_folder(place).folder("summaries").names() == []
    with records.create("summaries", 0) as writer:
        writer.add({"x": np.arange(3)})
        writer.finish({"n": 1})
    assert records.committed("summaries", 0, 3) == {"n": 1}
    # Of other rows, partitions, kinds and runs there is none.
    assert records.committed("summaries", 0, 4) is None
    assert records.committed("summaries", 1, 3) is None
    assert records.committed("rescan", 0, 3) is None
    assert records.of_version("thresholds").committed("summaries", 0, 3) is None
    assert Records(open_folder(place), names, names).committed("summaries", 0, 3) is None
    assert records.present("summaries") == [0]
    records.folder.folder("summaries").remove(records.name(0))
    assert records.committed("summaries", 0, 3) is None


# Records that are not to be trusted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        lambda content: b"something else altogether",
        lambda content: content[:20] + bytes(len(content) - 20),
    ],
    ids=["half", "empty", "one bit", "one byte less", "zeros", "alien", "a hole"],
)
def test_a_damaged_record_is_made_again(place, want, harm):
    find(workdir=place)
    folder, name = record_path(place, 3)
    whole = folder.read(name)
    folder.write(name, harm(whole))
    found = find(workdir=place)
    assert facts(found) == (40, 360)
    assert draws.bits(found) == want[1]
    assert folder.read(name) == whole


def test_a_damaged_record_of_the_second_read_is_made_again(place, want):
    find(workdir=place, **MARGIN)
    folder, name = record_path(place, 3, "rescan")
    folder.write(name, folder.read(name)[:-5])
    found = find(workdir=place, **MARGIN)
    assert (facts(found), found.facts.bytes_read) == ((0, N_ROWS), 40 * 5 * 8)
    assert draws.bits(found) == want[2]


def test_a_record_under_another_number_is_made_again(place, want):
    find(workdir=place)
    folder, name = record_path(place, 3)
    folder.write(name, folder.read(record_path(place, 4)[1]))
    assert facts(find(workdir=place)) == (40, 360)
    assert draws.bits(find(workdir=place)) == want[1]


def test_a_record_of_another_run_is_made_again(place, want):
    find(workdir=place)
    find(probs=np.roll(PROBS, 1, axis=1), workdir=f"{place}-other")
    folder, name = record_path(place, 3)
    other, its_name = record_path(f"{place}-other", 3)
    folder.write(name, other.read(its_name))
    assert facts(find(workdir=place)) == (40, 360)
    assert draws.bits(find(workdir=place)) == want[1]


def test_what_a_killed_write_left_is_ignored(tmp_path, want):
    find(workdir=tmp_path / "work")
    (tmp_path / "work" / "summaries" / ".0000003.rec.0123").write_bytes(b"half")
    (tmp_path / "work" / "runs").mkdir()
    (tmp_path / "work" / "runs" / "0-0").write_bytes(b"half")
    found = find(workdir=tmp_path / "work", output=tmp_path / "r.zarr")
    assert facts(found) == (0, N_ROWS)
    assert draws.bits(found) == want[1]


def test_a_folder_where_a_file_of_the_workdir_is_to_be_is_an_error_that_names_it(tmp_path):
    find(workdir=tmp_path / "work")
    folder, name = record_path(tmp_path / "work", 3)
    folder.remove(name)
    (folder.path / name).mkdir()
    with pytest.raises(labelsieve.LabelsieveError, match=name):
        find(workdir=tmp_path / "work")


# Another run -----------------------------------------------------------------------------------------------------


def snapshot(place):
    """Return every file of a workdir but the lock, with what is in it."""
    if "://" in place:
        fs = fsspec.filesystem("memory")
        return {path: fs.cat_file(path) for path in fs.find(place.partition("://")[2]) if "run.json" not in path}
    files = (path for path in Path(place).rglob("*") if path.is_file() and path.name != "lock")
    return {str(path): path.read_bytes() for path in files}


OTHERS = {
    "method": ({"method": "normalized_margin"}, "settings.method was self_confidence, is normalized_margin"),
    "count": (
        {"estimation_method": "off_diagonal_calibrated"},
        "settings.estimation_method was off_diagonal, is off_diagonal_calibrated",
    ),
    "adjusted": ({"adjust_pred_probs": True}, "settings.adjust_pred_probs was False, is True"),
    "zero rows": ({"allow_zero_rows": True}, "settings.allow_zero_rows was False, is True"),
    "other values": ({"probs": np.roll(PROBS, 1, axis=1)}, "pred_probs.content was .*, is "),
    "fewer rows": (
        {"labels": LABELS[:300], "probs": PROBS[:300]},
        r"pred_probs.shape was \[400, 5\], is \[300, 5\]",
    ),
    "float32": ({"probs": PROBS.astype("f4")}, "pred_probs.dtype was <f8, is <f4"),
    "dask": (
        {"probs": da.from_array(PROBS, chunks=(20, 5))},
        "pred_probs.where was an array in memory, is a Dask array",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_is_refused_with_what_differs(place, want, other):
    choices, message = OTHERS[other]
    find(workdir=place)
    before = snapshot(place)
    with pytest.raises(WorkdirError, match=message) as caught:
        find(workdir=place, **choices)
    assert str(caught.value).startswith(f"the workdir {place} belongs to another run: ")
    assert str(caught.value).endswith("start over in this one with fresh=True")
    assert snapshot(place) == before
    assert facts(find(workdir=place)) == (0, N_ROWS)


def test_only_what_differs_is_named(place):
    find(workdir=place)
    with pytest.raises(WorkdirError) as caught:
        find(workdir=place, method="normalized_margin", estimation_method="off_diagonal_calibrated")
    said = str(caught.value).partition("run: ")[2].partition(". Name")[0]
    assert said == (
        "settings.estimation_method was off_diagonal, is off_diagonal_calibrated; "
        "settings.method was self_confidence, is normalized_margin"
    )


def test_a_fresh_run_forgets_the_other_one(place):
    find(workdir=place, **MARGIN)
    other = np.roll(PROBS, 1, axis=1)
    found = find(probs=other, workdir=place, fresh=True)
    assert facts(found) == (N_ROWS, 0)
    assert draws.bits(found) == draws.bits(find(probs=other))
    assert not open_folder(place).folder("rescan").names()
    assert facts(find(probs=other, workdir=place)) == (0, N_ROWS)


def test_a_fresh_run_in_a_new_folder_is_a_run(place, want):
    assert draws.bits(find(workdir=place, fresh=True)) == want[1]


def test_the_scores_of_a_run_are_not_those_of_a_later_one_in_the_same_workdir(place, want):
    first = find(workdir=place)
    find(probs=np.roll(PROBS, 1, axis=1), workdir=place, fresh=True)
    try:
        scores = np.asarray(first.scores)
    except labelsieve.LabelsieveError:
        return  # what is gone may be said to be gone
    assert draws.wide(scores).tobytes() == want[1]["all scores"]


# Whose folder it is ----------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["photo", "notes/today", ".hidden", "labels.npy"])
def test_a_folder_that_holds_something_else_is_refused_and_untouched(place, name, fresh):
    folder = open_folder(place)
    for part in name.split("/")[:-1]:
        folder = folder.folder(part)
    folder.write(name.rpartition("/")[2], b"precious")
    before = snapshot(place)
    with pytest.raises(WorkdirError, match="is not empty and is not a Labelsieve workdir"):
        find(workdir=place, fresh=fresh)
    assert snapshot(place) == before
    assert set(open_folder(place).names()) == {name.partition("/")[0]}


@pytest.mark.every_value
@pytest.mark.parametrize("name", ["result", "rescan", "runs", "summaries"])
def test_a_folder_of_others_with_a_name_like_our_own_is_untouched(place, name):
    open_folder(place).folder(name).write("2019.csv", b"precious")
    before = snapshot(place)
    with pytest.raises(WorkdirError, match="is not a Labelsieve workdir"):
        find(workdir=place, fresh=True)
    assert snapshot(place) == before


def test_an_empty_folder_is_taken(tmp_path, want):
    (tmp_path / "work").mkdir()
    assert draws.bits(find(workdir=tmp_path / "work")) == want[1]


def test_folders_above_it_are_made(tmp_path, want):
    assert draws.bits(find(workdir=tmp_path / "a" / "b" / "work")) == want[1]


def test_a_relative_path_and_a_home_are_paths(tmp_path, monkeypatch, want):
    monkeypatch.chdir(tmp_path)
    assert draws.bits(find(workdir="work")) == want[1]
    assert facts(find(workdir=tmp_path / "work")) == (0, N_ROWS)


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "work").write_text("precious")
    with pytest.raises(WorkdirError, match="work is a file, not a folder"):
        find(workdir=tmp_path / "work")
    assert (tmp_path / "work").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_workdir_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    work = tmp_path / "work"
    find(workdir=work)
    work.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(labelsieve.LabelsieveError, match=str(work)):
            find(workdir=work)
    finally:
        work.chmod(stat.S_IRWXU)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="uses a file system that even root cannot write to")
@pytest.mark.parametrize(
    "name",
    ["workdir", "output"],
)
def test_a_place_where_nobody_can_write_is_an_error_that_names_it(name):
    with pytest.raises(labelsieve.LabelsieveError, match=r"/proc/labelsieve\.zarr"):
        find(**{name: "/proc/labelsieve.zarr"})


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_a_workdir_that_cannot_be_written_on_the_way_fails_with_the_reason(tmp_path, monkeypatch, want, error):
    inner, written = LocalFolder.create, []

    def create(self, name, **how):
        if name.endswith(".rec"):
            written.append(name)
            if len(written) > 3:
                raise error
        return inner(self, name, **how)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(LocalFolder, "create", create)
        with pytest.raises(labelsieve.LabelsieveError, match=error.strerror):
            find(workdir=tmp_path / "work", retries=0)
    found = find(workdir=tmp_path / "work")
    assert facts(found) == (280, 120)
    assert draws.bits(found) == want[1]


@pytest.mark.parametrize(("workdir", "output"), [("a.zarr", "a.zarr"), ("a.zarr/work", "a.zarr")])
def test_a_workdir_where_the_output_will_be_is_refused(tmp_path, monkeypatch, workdir, output):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(labelsieve.LabelsieveError, match=r"a\.zarr"):
        find(workdir=workdir, output=output)
    assert not Path(output).exists()


def test_an_output_in_the_workdir_is_left_alone(tmp_path, want):
    work = tmp_path / "work"
    find(workdir=work)
    find(workdir=work, output=work / "a.zarr")
    assert draws.bits(find(workdir=work, output=work / "a.zarr")) == want[1]
    assert facts(find(workdir=work)) == (0, N_ROWS)


# The grid stays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "kind", "reads"),
    draws.in_turn(
        [
            {"batch_size": 7},
            {"batch_size": 1},
            {"batch_size": 400, "partition_batches": 1},
            {"partition_batches": 5},
            {"batch_size": "auto", "partition_batches": "auto"},
            {"max_memory": "400MB"},
        ],
        ["array", "npy", "zarr"],
        [1, 2],
        times=3,
    ),
    ids=str,
)
@pytest.mark.usefixtures("two_threads")
def test_another_way_of_running_goes_on(files, want, killed_after, other, kind, reads):
    goes_on(files, want, killed_after, other, kind, reads)


@pytest.mark.every_value
@pytest.mark.parametrize("here_first", [False, True])
@pytest.mark.parametrize(("method", "adjust"), naive.METHODS)
def test_a_run_whose_summaries_fit_no_more_goes_on_and_the_other_way_round(
    tmp_path, killed_after, method, adjust, here_first
):
    settings, stored = {"method": method, "adjust_pred_probs": adjust, "workdir": tmp_path / "work"}, []
    with pytest.MonkeyPatch.context() as patch:
        read = Records.summaries
        patch.setattr(Records, "summaries", lambda *args: stored.append(args) or read(*args))
        for here in (here_first, not here_first):
            with pytest.MonkeyPatch.context() as inner:
                if not here:
                    nothing_fits(inner)
                if here is here_first:
                    killed_after(4, lambda: find(**settings))
                    stored.clear()
                else:
                    found = find(**settings)
    assert facts(found) == (N_ROWS - 160, 160)
    assert draws.bits(found) == draws.bits(find(method=method, adjust_pred_probs=adjust))
    twice = settings["adjust_pred_probs"] and method == "normalized_margin"
    assert bool(stored) is (here_first or twice), "only what does not fit is read back"


@pytest.mark.every_pair
@pytest.mark.parametrize("other", [{}, {"batch_size": 3, "partition_batches": 1}], ids=str)
@pytest.mark.parametrize("kind", ["array", "npy"])
@pytest.mark.parametrize("reads", [1, 2])
def test_forked_processes_go_on(files, want, killed_after, other, kind, reads):
    goes_on(files, want, killed_after, other | {"n_jobs": 2}, kind, reads)


def goes_on(files, want, killed_after, other, kind, reads):
    choices = {"workdir": files / "work", **(MARGIN if reads == 2 else {})}
    if kind != "array":
        choices |= {"labels": files / "labels.npy", "probs": files / f"probs.{kind}"}
    killed_after(4, lambda: find(**choices))
    found = find(**(choices | other))
    assert facts(found) == (240, 160)
    assert found.facts.n_partitions == 10
    assert draws.bits(found) == want[reads]


@pytest.mark.parametrize("n_threads", [1, 3, 16])
def test_any_number_of_threads_goes_on(tmp_path, want, killed_after, n_threads):
    killed_after(4, lambda: find(workdir=tmp_path / "work"))
    with dask.config.set(num_workers=n_threads):
        found = find(workdir=tmp_path / "work", batch_size="auto")
    assert facts(found) == (240, 160)
    assert draws.bits(found) == want[1]


def test_forked_processes_leave_what_threads_go_on_from(tmp_path, want):
    first = find(workdir=tmp_path / "work", n_jobs=2)
    folder, name = record_path(tmp_path / "work", 2)
    folder.remove(name)
    again = find(workdir=tmp_path / "work")
    assert (facts(first), facts(again)) == ((N_ROWS, 0), (40, 360))
    assert draws.bits(first) == draws.bits(again) == want[1]


# Inputs ----------------------------------------------------------------------------------------------------------


def test_a_chunk_that_is_written_anew_is_read_anew_and_no_other(files):
    choices = {"probs": files / "probs.zarr", "labels": files / "labels.npy", "workdir": files / "work"}
    find(**choices)
    probs = PROBS.copy()
    probs[200:220] = np.roll(probs[200:220], 1, axis=1)
    zarr.open_array(files / "probs.zarr", mode="r+")[200:220] = probs[200:220]
    found = find(**choices)
    assert facts(found) == (40, 360)
    assert draws.bits(found) == draws.bits(find(probs=probs))
    assert facts(find(**choices)) == (0, N_ROWS)


def test_a_file_that_is_written_anew_is_another_input(files):
    choices = {"probs": files / "probs.npy", "workdir": files / "work"}
    find(**choices)
    np.save(files / "probs.npy", np.roll(PROBS, 1, axis=1))
    with pytest.raises(WorkdirError, match=r"pred_probs\.content\.mtime_ns was \d+, is \d+"):
        find(**choices)


def test_a_copy_of_a_file_is_another_input(files):
    find(probs=files / "probs.npy", workdir=files / "work")
    shutil.copy2(files / "probs.npy", files / "copy.npy")
    with pytest.raises(WorkdirError, match=r"pred_probs\.where was .*probs\.npy, is .*copy\.npy"):
        find(probs=files / "copy.npy", workdir=files / "work")


def test_arrays_in_memory_are_told_by_their_values(tmp_path, want):
    find(workdir=tmp_path / "work")
    for probs in (PROBS.copy(), PROBS.tolist()):
        found = find(probs=probs, labels=LABELS.tolist(), workdir=tmp_path / "work")
        assert facts(found) == (0, N_ROWS)
        assert draws.bits(found) == want[1]
    other = PROBS.copy()
    other[399, 4] = np.nextafter(other[399, 4], 1)
    with pytest.raises(WorkdirError, match="content"):
        find(probs=other, workdir=tmp_path / "work")


def test_parts_of_one_memmap_are_told_apart(files):
    probs = np.load(files / "probs.npy", mmap_mode="r")
    find(LABELS[:200], probs[:200], workdir=files / "work")
    assert facts(find(LABELS[:200], probs[:200], workdir=files / "work")) == (0, 200)
    with pytest.raises(WorkdirError, match="pred_probs"):
        find(LABELS[:200], probs[200:], workdir=files / "work")


def test_dask_arrays_go_on(tmp_path, want, killed_after):
    def arrays():
        return {
            "labels": da.from_array(LABELS, chunks=30),
            "probs": da.from_array(PROBS, chunks=(20, 5)) + 0.0,
            "workdir": tmp_path / "work",
        }

    killed_after(4, lambda: find(**arrays()))
    found = find(**arrays())
    assert facts(found) == (240, 160)
    assert draws.bits(found) == want[1]
    with pytest.raises(WorkdirError, match=r"pred_probs\.content"):
        find(**arrays() | {"probs": da.from_array(np.roll(PROBS, 1, axis=1), chunks=(20, 5)) + 0.0})
    with pytest.raises(WorkdirError, match=r"pred_probs\.chunks"):
        find(**arrays() | {"probs": da.from_array(PROBS, chunks=(40, 5)) + 0.0})


def test_a_dask_array_whose_store_was_written_anew_is_another_input(files):
    def lazy():
        return {"probs": da.from_zarr(str(files / "probs.zarr")), "workdir": files / "work"}

    find(**lazy())
    assert facts(find(**lazy())) == (0, N_ROWS)
    zarr.open_array(files / "probs.zarr", mode="r+")[:] = np.roll(PROBS, 1, axis=1)
    with pytest.raises(WorkdirError, match="pred_probs"):
        find(**lazy())


def test_a_dask_array_with_empty_and_uneven_chunks_goes_on(tmp_path, want, killed_after):
    probs = da.from_array(PROBS, chunks=((100, 0, 0, 1, 99, 200, 0), 5))
    choices = {"probs": probs, "partition_batches": 1, "workdir": tmp_path / "work"}
    killed_after(3, lambda: find(**choices))
    found = find(**choices)
    assert found.facts.rows_read + found.facts.rows_resumed == N_ROWS
    assert draws.bits(found) == want[1]
    assert facts(find(**choices)) == (0, N_ROWS)


def test_an_input_that_cannot_be_told_from_another_is_refused(tmp_path):
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=PROBS.shape, chunks=(20, 5), dtype=PROBS.dtype)
    array[:] = PROBS
    with pytest.raises(WorkdirError, match=r"pred_probs \(.*\) has nothing that identifies its data"):
        find(probs=array, workdir=tmp_path / "work")


# One owner until the end -----------------------------------------------------------------------------------------


def take_over(place):
    """Write the id of another run, as one does that starts later."""
    run = {"id": "theirs", "owner": "process 7 on elsewhere", "since": "2026-11-25 15:06:40 UTC"}
    open_folder(place).write("run.json", json.dumps(run).encode())


@pytest.fixture
def bucket():
    empty_memory()
    yield "memory://bucket"
    empty_memory()


@pytest.mark.every_value
@pytest.mark.parametrize("step", ["scan", "count", "write"])
@pytest.mark.parametrize("lost", ["workdir", "output"])
def test_who_has_lost_its_workdir_or_output_publishes_nothing(bucket, monkeypatch, step, lost):
    work, out = f"{bucket}/work", f"{bucket}/out.zarr"
    find(workdir=f"{bucket}/before", output=out)  # an earlier result
    before = open_folder(out).read("zarr.json")
    owner = Passes if step == "scan" else RowSummaries
    after = getattr(owner, step)

    def then_lost(*args, **how):
        done = after(*args, **how)
        take_over(work if lost == "workdir" else f"{out}.partial")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, then_lost)
        with pytest.raises(labelsieve.InUseError, match="in use by process 7 on elsewhere, a later run: this run"):
            find(workdir=work, output=out, method="normalized_margin")
    left = open_folder(out)
    if step == "write":  # in an object store an earlier result has gone by then
        assert "zarr.json" not in left.names()
    else:
        assert left.read("zarr.json") == before
    again = find(workdir=work, output=out, method="normalized_margin")
    assert draws.bits(again) == draws.bits(find(method="normalized_margin"))
    assert draws.bits(labelsieve.load(out)) == draws.bits(again)


def test_tasks_of_a_run_that_was_replaced_write_nothing_into_the_later_run_s_result(bucket):
    out, zeros, ones = f"{bucket}/out.zarr", np.zeros(N_ROWS, np.float32), np.ones(N_ROWS, np.float32)
    with publish.staged(out) as stage:
        stage.clear()
        stage.group.create_rows(N_ROWS, np.float32)
        write = pickle.loads(pickle.dumps(stage.group)).writer("scores")
        with publish.staged(out) as later:
            later.clear()
            later.group.create_rows(N_ROWS, np.float32)
            later.group.writer("scores")(0, ones)
            refused = [
                lambda: write(0, zeros),
                lambda: stage.group.create_rows(N_ROWS, np.float32),
                lambda: stage.group.publish({}, {}),
                stage.clear,
            ]
            for act in refused:
                with pytest.raises(labelsieve.InUseError, match="a later run: this run stops"):
                    act()
            later.work.write("run", b"of the later one")
            assert later.group.open("scores").read_all().tolist() == ones.tolist()


def test_a_run_that_was_replaced_leaves_what_the_later_run_works_with(bucket):
    out = f"{bucket}/out.zarr"
    with contextlib.ExitStack() as stack:
        with publish.staged(out):
            later = stack.enter_context(publish.staged(out))
            later.work.write("run", b"of the later one")
        assert later.work.read("run") == b"of the later one"
        later.group.check_owned()
    assert open_folder(f"{out}.partial").names() == []


def test_of_two_runs_with_other_labels_neither_takes_or_overwrites_what_the_other_writes(tmp_path):
    # As of two runs that both began before either of them had read anything.
    both, facts = [], {"pred_probs": {"where": "p"}}
    for labels in ("cd" * 16, "ef" * 16):
        with Workdir.open(tmp_path, fresh=False) as workdir:
            workdir._before = None
            both.append(workdir.begin(facts, {"p": [12]}, ["ab" * 16], [labels], lambda *_: []))
    for number, records in enumerate(both):
        assert not records.is_committed(0, 12, kind="summaries")
        with records.create("summaries", 0) as writer:
            writer.add({"x": np.arange(12)})
            writer.finish({"of": number})
    assert [records.committed("summaries", 0, 12) for records in both] == [{"of": 0}, {"of": 1}]


@pytest.mark.parametrize(
    "choices",
    [{}, {"batch_size": 7}, {"method": "normalized_margin", "fresh": True}, {"labels": (LABELS + 1) % 5}],
    ids=["same", "other batches", "fresh", "other labels"],
)
def test_of_two_runs_in_one_workdir_of_an_object_store_the_later_one_is_right(bucket, monkeypatch, choices):
    # The later one starts while the earlier one reads, and ends before that one has read all.
    work, inner, found = f"{bucket}/work", scan.scan, []

    def overtaken(partition, *args, **how):
        if partition.index == 3 and not found:
            found.append(None)
            with monkeypatch.context() as patch:
                if "batch_size" in choices:  # it looked before the earlier one had written its grid
                    patch.setattr("labelsieve.job.workdir.read_description", lambda _: None)
                found.append(find(workdir=work, **choices))
        return inner(partition, *args, **how)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(scan, "scan", overtaken)
        with pytest.raises(labelsieve.InUseError, match="was used by a later run"):
            find(workdir=work)
    plain = {name: value for name, value in choices.items() if name in ("method", "labels")}
    assert draws.bits(found[1]) == draws.bits(find(**plain))
    assert draws.bits(find(workdir=work, **plain)) == draws.bits(found[1])


# What is in it ---------------------------------------------------------------------------------------------------


def test_a_workdir_holds_what_it_says(place):
    find(workdir=place, **MARGIN)
    folder = open_folder(place)
    left = {"labelsieve.json", "rescan", "summaries"} | (set() if "://" in place else {"lock"})
    assert set(folder.names()) == left
    about = json.loads(folder.read("labelsieve.json"))
    assert about["partitions"] == [["an array in memory", [40 * i for i in range(1, 11)]]]
    assert about["fingerprint"]["settings"] == {
        "method": "normalized_margin",
        "adjust_pred_probs": True,
        "estimation_method": "off_diagonal",
        "rule": "predicted_class",
        "filter_by": None,
        "frac_noise": 1.0,
        "num_to_remove_per_class": None,
        "min_examples_per_class": 1,
        "allow_zero_rows": False,
        "allow_unnormalized_rows": False,
    }
    for kind in ("summaries", "rescan"):
        assert len(record_files(place, kind)) == 10
        assert folder.folder(kind).names() == sorted(record_files(place, kind))


def test_nothing_is_left_of_a_temporary_workdir(tmp_path, want, monkeypatch):
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        monkeypatch.setattr("labelsieve.execution.executor.free_bytes", lambda: 10**9)
        small = labelsieve.plan_label_issues(LABELS, PROBS, output="r.zarr").process_bytes
        assert labelsieve.plan_label_issues(LABELS, PROBS).process_bytes < small, "stored takes more for few rows"
        monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)
        found = find()
        [folder] = tmp_path.iterdir()
        assert (folder / "summaries").is_dir()
        assert draws.bits(found) == want[1], "results that are asked for later are still there"
        del found
        assert list(tmp_path.iterdir()) == []
        bad = PROBS.copy()
        bad[7] = np.nan
        with pytest.raises(labelsieve.InvalidInputError):
            find(probs=bad)
        assert list(tmp_path.iterdir()) == []


def test_a_temporary_workdir_lasts_as_long_as_anything_that_reads_from_it(tmp_path, want, monkeypatch):
    monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        lazy = find().lazy_scores
    assert draws.wide(lazy.compute()).tobytes() == want[1]["all scores"]


def test_a_workdir_that_was_never_begun_has_no_partitions(tmp_path):
    with Workdir.open(tmp_path / "work", fresh=False) as workdir:
        assert workdir.earlier_partitions({"pred_probs": {"where": "p"}}, ["p"]) == {}
