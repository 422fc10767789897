"""Plans against what runs really do: tasks, bytes, memory. Nothing is read for a plan."""

import dataclasses
import re
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from dask.utils import parse_bytes

import draws
import labelsieve
import naive
from labelsieve import MemoryLimitError, plan_label_issues
from labelsieve.cli.app import run
from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import size
from labelsieve.execution import executor
from labelsieve.execution.cluster import cluster
from labelsieve.job import grid as partitioning
from labelsieve.job import inputs as grids
from labelsieve.job.grid import INTERPRETER_BYTES, Need
from labelsieve.options import FILTER_NAMES
from labelsieve.sources import open as open_array
from labelsieve.sources.source import ReadFacts

N_ROWS = 2000
pytestmark = pytest.mark.usefixtures("two_threads")
LABELS, PROBS = draws.draw(N_ROWS, 5, seed=41, noise=0.3)
CUT = {"batch_size": 20, "partition_batches": 2}  # fifty partitions


class Tasks(Callback):
    """Counts the tasks that a local scheduler runs, but for the one with which newer Dask ends each graph."""

    def __init__(self):
        self.names = Counter()
        super().__init__(pretask=self._count)

    def _count(self, key, *_):
        name = str(key[0] if isinstance(key, tuple) else key).rsplit("-", 1)[0]
        self.names[name] += not name.startswith("finalize")

    @property
    def total(self):
        return self.names.total()


@pytest.fixture(params=[1, 7])
def n_threads(request):
    with dask.config.set(num_workers=request.param):
        yield request.param


@pytest.fixture
def small_chunks(monkeypatch):
    """Make stored chunks of the result small, so that there are spans and runs."""
    monkeypatch.setattr("labelsieve.results.store.RESULT_ROWS", 64)
    monkeypatch.setattr(partitioning, "_SPAN_BYTES", 4000)


# Tasks -----------------------------------------------------------------------------------------------------------


SCORES = [{"method": method, "adjust_pred_probs": adjust} for method, adjust in naive.METHODS]
# Of few rows neither the cut nor those of classes are split, so that all rounds are planned.
SETTINGS = SCORES + [{"filter_by": by} for by in FILTER_NAMES] + [{"filter_by": "both", **SCORES[3]}]


# Trees of one, two and, for one read and for all three, three levels.
CASES = [(settings, cut) for settings in SETTINGS for cut in (CUT, {"batch_size": 2000}, {})]
CASES += [(settings, {"batch_size": 7, "partition_batches": 1}) for settings in (SETTINGS[0], SETTINGS[-1])]


@pytest.mark.every_value
@pytest.mark.parametrize(("settings", "cut"), CASES, ids=str)
def test_tasks_in_memory_are_as_planned(n_threads, settings, cut):
    choices = {**settings, **cut}
    plan = plan_label_issues(LABELS, PROBS, **choices)
    with Tasks() as tasks:
        found = labelsieve.find_label_issues(LABELS, PROBS, **choices)
    assert (plan.n_tasks, plan.stored) == (tasks.total, False)
    assert (plan.n_partitions, plan.n_batches) == (found.facts.n_partitions, found.facts.n_batches)
    assert plan.process_bytes == plan.client_bytes == found.facts.planned_bytes
    assert (plan.n_threads, plan.n_processes) == (n_threads, 1)


# All filters are planned alike where tasks write; one of each kind is enough beside the scores.
@pytest.mark.every_value
@pytest.mark.parametrize(
    ("settings", "cut"),
    [
        *draws.in_turn(
            [*SCORES, {"filter_by": "low_self_confidence"}, {"filter_by": "both"}], [CUT, {"batch_size": 2000}]
        ),
        ({"filter_by": "both"}, {"batch_size": 2000}),
    ],
    ids=str,
)
def test_tasks_with_an_output_are_as_planned_but_for_those_that_merge(tmp_path, small_chunks, n_threads, settings, cut):
    # How many issues there will be, and so how many tasks put them in order, is not known before.
    choices = {**settings, **cut}
    plan = plan_label_issues(LABELS, PROBS, output="r.zarr", **choices)
    with Tasks() as tasks:
        found = labelsieve.find_label_issues(LABELS, PROBS, output=tmp_path / "r.zarr", **choices)
    merging = tasks.names.pop("rank", 0) + tasks.names.pop("merge", 0)
    assert merging <= found.num_issues
    assert (plan.n_tasks, plan.stored) == (tasks.total, True)
    assert plan.process_bytes == plan.client_bytes == found.facts.planned_bytes


@pytest.mark.parametrize("fits", [True, False])
def test_tasks_with_a_workdir_are_at_most_as_planned(tmp_path, small_chunks, n_threads, fits, monkeypatch):
    if not fits:
        monkeypatch.setattr(
            "labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows
        )  # as if all memory were for issues
    plan = plan_label_issues(LABELS, PROBS, workdir=tmp_path / "work", **CUT)
    with Tasks() as first:
        labelsieve.find_label_issues(LABELS, PROBS, workdir=tmp_path / "work", **CUT)
    with Tasks() as again:
        labelsieve.find_label_issues(LABELS, PROBS, workdir=tmp_path / "work", **CUT)
    assert again.names.pop("check") == 8, "a few rows are read again to see that they are the same"
    assert first.names == again.names, "partitions that are done are tasks too, which only look"
    # Ties at the cut take a map of their own only where there are some.
    n_spans = 0 if fits else first.names["select"]
    assert plan.n_tasks in (first.total, first.total + n_spans)
    assert plan.stored is not fits


def test_a_plan_keeps_the_partitions_of_a_workdir_and_refuses_what_its_run_would(tmp_path):
    workdir = tmp_path / "work"
    labelsieve.find_label_issues(LABELS, PROBS, workdir=workdir, batch_size=100, partition_batches=3)
    before = sorted(path.name for path in workdir.rglob("*"))
    assert plan_label_issues(LABELS, PROBS, workdir=workdir).n_partitions == 7
    assert plan_label_issues(LABELS, PROBS, workdir=workdir, fresh=True, **CUT).n_partitions == 50
    with pytest.raises(labelsieve.WorkdirError, match=r"settings\.method was self_confidence, is normalized_margin"):
        plan_label_issues(LABELS, PROBS, workdir=workdir, method="normalized_margin")
    assert sorted(path.name for path in workdir.rglob("*")) == before
    assert plan_label_issues(LABELS, PROBS, workdir=tmp_path / "new").n_partitions
    assert not (tmp_path / "new").exists()


def test_ties_at_the_cut_take_a_map_more_than_planned():
    labels, probs = draws.draw(N_ROWS, 5, seed=41, noise=0.3, decimals=1)
    plan = plan_label_issues(labels, probs, **CUT)
    with pytest.MonkeyPatch.context() as patch, Tasks() as tasks:
        patch.setattr("labelsieve.confident_learning.select.MAX_CANDIDATES", 1)
        labelsieve.find_label_issues(labels, probs, **CUT)
    rounds = {name: n for name, n in tasks.names.items() if name.startswith(("histogram", "ties"))}
    assert rounds["ties"] == 50
    assert plan.n_tasks == tasks.total - sum(rounds.values())


def test_labels_that_are_read_first_are_counted_by_a_plan_that_does_not_read_them():
    labels = zarr.create_array(zarr.storage.MemoryStore(), shape=(N_ROWS,), chunks=(70,), dtype=np.int64)
    labels[:] = LABELS
    plan = plan_label_issues(labels, PROBS, batch_size=100, partition_batches=1)
    assert plan.process_bytes >= plan_label_issues(LABELS, PROBS, batch_size=100, partition_batches=1).process_bytes
    found = labelsieve.find_label_issues(labels, PROBS, batch_size=100, partition_batches=1)
    assert found.facts.planned_bytes <= plan.process_bytes


def test_a_map_is_submitted_in_slabs(monkeypatch):
    monkeypatch.setattr(executor, "SLAB", 16)
    monkeypatch.setattr(partitioning, "SLAB", 16)
    want = draws.bits(labelsieve.find_label_issues(LABELS, PROBS))
    plan = plan_label_issues(LABELS, PROBS, **CUT)
    submitted = []

    class Watch(Callback):
        def _start(self, graph):
            submitted.append(sum(isinstance(key, tuple) and key[0].rpartition("-")[0] == "scan" for key in graph))

    with Watch():
        found = labelsieve.find_label_issues(LABELS, PROBS, **CUT)
    assert plan.n_slabs == sum(map(bool, submitted)) == 4
    assert max(submitted) <= 16 + 1 + 1, "a slab and its tree"
    assert draws.bits(found) == want


# Bytes -----------------------------------------------------------------------------------------------------------


class CountingStore(zarr.storage.MemoryStore):
    """A store that counts how often each chunk is asked for, and decoded whole."""

    def __init__(self):
        super().__init__()
        self.n_chunks = 0

    async def get(self, key, prototype, byte_range=None):
        self.n_chunks += key.startswith("c/")
        return await super().get(key, prototype, byte_range)


@pytest.mark.every_pair
@pytest.mark.parametrize(("share", "batch_rows"), [(1, 500), (1e-5, 125), (4e-6, 50), (2.4e-6, 30)])
@pytest.mark.parametrize("settings", [{}, {"method": "normalized_margin", "adjust_pred_probs": True}], ids=str)
@pytest.mark.parametrize("partition_batches", [1, 3])
@pytest.mark.filterwarnings("ignore:a stored chunk of:labelsieve.LabelsieveWarning")
def test_bytes_to_read_are_as_planned_also_where_chunks_are_decoded_again(
    monkeypatch, share, batch_rows, settings, partition_batches
):
    array = zarr.create_array(CountingStore(), shape=PROBS.shape, chunks=(500, 5), dtype=PROBS.dtype)
    array[:] = PROBS
    # Where a batch's share of the memory is small, batches are smaller than stored chunks.
    monkeypatch.setattr(grids, "_BATCH_SHARE", share)
    monkeypatch.setattr("labelsieve.job.scan.STRIP_BYTES", 30 * 5 * 8)  # else small ones are joined
    choices = {"max_memory": 10**9, "batch_size": 500, "partition_batches": partition_batches, **settings}
    with dask.config.set(num_workers=2):
        plan = plan_label_issues(LABELS, array, **choices)
        array.store.n_chunks = 0
        found = labelsieve.find_label_issues(LABELS, array, **choices)
    assert plan.batch_rows == batch_rows
    assert array.store.n_chunks * 500 * 5 * 8 == plan.bytes_read
    assert plan.n_reads == found.facts.n_reads == (2 if settings else 1)
    assert (plan.amplification > 1) == (share < 1)
    assert plan.bytes_read == round(plan.amplification * PROBS.nbytes) * plan.n_reads
    assert found.facts.bytes_read == PROBS.nbytes * plan.n_reads, "of rows, however often they were decoded"


@pytest.mark.parametrize("kind", ["array", "npy", "dask"])
def test_elsewhere_each_row_is_read_once(tmp_path, kind):
    np.save(tmp_path / "p.npy", PROBS)
    probs = {"array": PROBS, "npy": tmp_path / "p.npy", "dask": da.from_array(PROBS, chunks=(300, 2))}[kind]
    plan = plan_label_issues(LABELS, probs, batch_size=70)
    assert (plan.bytes_read, plan.amplification, plan.n_reads) == (PROBS.nbytes, 1, 1)


def test_the_cut_is_that_of_a_run(tmp_path):
    array = zarr.create_array(tmp_path / "p.zarr", shape=PROBS.shape, chunks=(70, 5), dtype=PROBS.dtype)
    array[:] = PROBS
    plan = plan_label_issues(LABELS, tmp_path / "p.zarr", batch_size=300, partition_batches=2)
    assert (plan.n_rows, plan.n_classes, plan.dtype) == (2000, 5, "float64")
    assert (plan.batch_rows, plan.n_batches, plan.n_partitions) == (280, 8, 4)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("method", ["self_confidence", "normalized_margin"])
def test_sizes_of_what_is_kept_and_given_out(tmp_path, dtype, method):
    probs = PROBS.astype(dtype)
    plan = plan_label_issues(LABELS, probs, method=method, output="r.zarr")
    found = labelsieve.find_label_issues(
        LABELS, probs, method=method, output=tmp_path / "r.zarr", workdir=tmp_path / "work"
    )
    assert plan.score_bytes == found.scores.nbytes
    assert plan.mask_bytes == found.mask().nbytes
    assert plan.issue_bytes * found.num_issues == sum(c.nbytes for c in found.issues.columns().values())
    records = sum(path.stat().st_size for path in (tmp_path / "work" / "summaries").iterdir())
    assert plan.summary_bytes <= records <= plan.summary_bytes + 10_000


# Memory ----------------------------------------------------------------------------------------------------------


def needed(probs=PROBS, **choices):
    """Return what a run with stored summaries takes, and what one in memory does."""
    return tuple(plan_label_issues(LABELS, probs, output=o, **choices).process_bytes for o in ("r.zarr", None))


def test_a_run_that_does_not_fit_is_refused_with_both_numbers_before_anything_is_read(n_threads):
    stored, _ = needed()
    with pytest.raises(MemoryLimitError) as caught:
        plan_label_issues(LABELS, PROBS, output="r.zarr", max_memory=stored - 1)
    message = str(caught.value)
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    assert message.startswith(
        f"the process would take {size(stored)} with {threads}, but may take only {size(stored - 1)} (max_memory). "
        "What would fit: a limit of "
    )
    would = parse_bytes(re.search(r"a limit of ([0-9.]+ \w+)", message).group(1))
    assert stored <= would < 1.011 * stored, "in three digits, rounded up"
    assert plan_label_issues(LABELS, PROBS, output="r.zarr", max_memory=stored).limit == stored


def refusal(max_memory, probs=PROBS, **choices):
    with pytest.raises(MemoryLimitError) as caught:
        plan_label_issues(LABELS, probs, max_memory=max_memory, **choices)
    return str(caught.value)


def test_the_limit_that_would_fit_fits():
    for method, n_threads in (
        (m, n) for m in ("self_confidence", "confidence_weighted_entropy") for n in (1, 2, 3, 5, 8)
    ):
        with dask.config.set(num_workers=n_threads):
            message = refusal("1MB", method=method, output="r.zarr")
            limit = re.search(r"a limit of ([0-9.]+ \w+)", message).group(1)
            plan_label_issues(LABELS, PROBS, method=method, output="r.zarr", max_memory=limit)


@pytest.mark.parametrize("kind", ["array"])
@pytest.mark.parametrize("n_threads", [3, 8])
def test_the_number_of_threads_that_would_fit_fits(tmp_path, n_threads, kind):
    probs = PROBS
    if kind == "zarr":
        probs = zarr.create_array(tmp_path / "p.zarr", shape=PROBS.shape, chunks=(100, 5), dtype=PROBS.dtype)
        probs[:] = PROBS
    with dask.config.set(num_workers=n_threads):
        stored, _ = needed(probs)
        message = refusal(stored - 1, probs, output="r.zarr")
    found = re.search(r"(\d+) threads? \(([^)]*)\)", message.partition("What would fit")[2])
    fewer = int(found.group(1))
    assert fewer == n_threads - 1
    with dask.config.set(num_workers=fewer):
        plan = plan_label_issues(LABELS, probs, output="r.zarr", max_memory=stored - 1)
        assert size(plan.process_bytes) == found.group(2)
        assert plan.process_bytes <= stored - 1


def test_batches_that_would_fit_are_named_where_batches_are_what_is_too_large():
    lazy = da.full((10**7, 5), 0.2, chunks=(10**6, 5))
    labels = da.zeros(10**7, dtype=int, chunks=10**6)
    with dask.config.set(num_workers=1), pytest.raises(MemoryLimitError, match=r"chunks or batches of 2\d\.\d MB"):
        plan_label_issues(labels, lazy, partition_batches=1, max_memory="200MB")
    lazy, labels = lazy.rechunk((10**5, 5)), labels.rechunk(10**5)
    with dask.config.set(num_workers=1):
        assert plan_label_issues(labels, lazy, partition_batches=1, max_memory="230MB").process_bytes < 230e6
    assert "batches" not in refusal("1MB"), "an array in memory is read strip by strip"


def test_summaries_stay_in_memory_where_they_fit_with_a_tenth_of_the_rows_as_issues():
    n_rows = 10**7
    labels, probs = np.zeros(n_rows, np.int8), np.broadcast_to(np.float32(0.2), (n_rows, 5))
    choices = {"max_memory": 10**10}
    with dask.config.set(num_workers=2):
        plan = plan_label_issues(labels, probs, **choices)
        issues = n_rows // 10 * partitioning.ISSUE_BYTES
        fits = plan.process_bytes + issues
        assert [plan_label_issues(labels, probs, max_memory=m).stored for m in (fits, fits - 1)] == [False, True]
        stored = plan_label_issues(labels, probs, max_memory=fits - 1)
    assert stored.process_bytes < plan.process_bytes
    assert stored.summary_bytes == n_rows * (2 + 2 * 4)


@pytest.mark.parametrize("settings", [{}, {"method": "normalized_margin", "adjust_pred_probs": True}], ids=str)
def test_a_run_whose_summaries_do_not_fit_keeps_them_on_disk_and_finds_the_same(tmp_path, monkeypatch, settings):
    want = draws.bits(labelsieve.find_label_issues(LABELS, PROBS, **settings))
    monkeypatch.setattr(
        "labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows
    )  # as if all memory were for issues
    stored, _ = needed(**settings)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        found = labelsieve.find_label_issues(LABELS, PROBS, **settings, max_memory=stored)
        assert found.facts.planned_bytes == stored
        assert len(list(tmp_path.iterdir())) == 1
        assert draws.bits(found) == want


def test_a_run_that_does_not_fit_leaves_nothing(tmp_path):
    with pytest.raises(MemoryLimitError):
        labelsieve.find_label_issues(
            LABELS, PROBS, max_memory="1MB", workdir=tmp_path / "work", output=tmp_path / "r.zarr"
        )
    assert [path.name for path in tmp_path.rglob("*") if path.name != "lock"] == ["work"]


@pytest.mark.parametrize(("text", "n_bytes"), [("1GiB", 2**30), ("300MB", 3 * 10**8), (400_000_000, 400_000_000)])
def test_a_limit_is_bytes_or_text(text, n_bytes):
    assert plan_label_issues(LABELS, PROBS, max_memory=text).limit == n_bytes


@pytest.mark.parametrize("bad", ["much", 0, -1, "0GB", 1.5, True, "-1GB", [1]])
def test_a_limit_that_is_none_is_refused(bad):
    with pytest.raises((labelsieve.InvalidInputError, labelsieve.InputTypeError), match="max_memory must be"):
        plan_label_issues(LABELS, PROBS, max_memory=bad)


def test_a_plan_says_where_its_limit_comes_from(monkeypatch):
    monkeypatch.setattr(executor, "free_bytes", lambda: 10**9)
    plan = plan_label_issues(LABELS, PROBS)
    assert (plan.limit, plan.limit_name) == (800_000_000 + INTERPRETER_BYTES, "80% of the free memory")
    assert plan_label_issues(LABELS, PROBS, max_memory=2 * 10**9).limit_name == "80% of the free memory"
    assert plan_label_issues(LABELS, PROBS, max_memory=3 * 10**8).limit_name == "max_memory"


# Nothing is read -------------------------------------------------------------------------------------------------


class Unreadable(open_array.Source):
    """Says what it is and cannot be read."""

    def open(self, start=0, stop=None):
        pytest.fail("something was read")


@pytest.mark.parametrize("output", [None, "r.zarr"])
def test_nothing_is_read_for_a_plan(output):
    facts = ReadFacts(1000, in_pieces=False)
    labels, probs = Unreadable((10**9,), "i8", facts), Unreadable((10**9, 1000), "f4", facts)
    plan = plan_label_issues(labels, probs, output=output, max_memory="100GB")
    assert plan.bytes_read == 4 * 10**12
    assert 1000 < plan.n_tasks < 100_000


def test_nothing_is_computed_for_a_plan():
    def never(*_):
        pytest.fail("something was computed")

    probs = da.from_array(PROBS, chunks=(100, 2)).map_blocks(never, dtype="f8", meta=np.empty((0, 0)))
    labels = da.from_array(LABELS, chunks=70).map_blocks(never, dtype="i8", meta=np.empty(0, int))
    plan = plan_label_issues(labels, probs, method="normalized_margin", adjust_pred_probs=True)
    assert plan.n_reads == 2


def test_no_labels_are_read_for_a_plan_either():
    plan_label_issues(Unreadable((2000,), np.dtype("i8"), ReadFacts(70)), PROBS, batch_size=100, partition_batches=1)


def test_a_plan_of_a_hundred_terabytes_takes_no_time(monkeypatch):
    monkeypatch.setattr(executor, "free_bytes", lambda: 10**11)
    labels, probs = (
        Unreadable((25 * 10**9,), np.dtype("i8"), ReadFacts(10**4)),
        Unreadable((25 * 10**9, 1000), np.dtype("f4"), ReadFacts(10**4)),
    )
    plan = plan_label_issues(labels, probs, max_memory="50GB")
    assert (plan.stored, plan.bytes_read) == (True, 10**14)
    assert plan.n_slabs == -(-plan.n_partitions // executor.SLAB) > 10


def test_what_is_wrong_with_the_inputs_is_told_by_a_plan_too():
    with pytest.raises(labelsieve.InvalidInputError, match="1,999"):
        plan_label_issues(LABELS[:-1], PROBS)
    with pytest.raises(labelsieve.InvalidInputError, match="adjust_pred_probs is not defined"):
        plan_label_issues(LABELS, PROBS, method="confidence_weighted_entropy", adjust_pred_probs=True)
    with pytest.raises(labelsieve.InvalidInputError, match="batch_size must be"):
        plan_label_issues(LABELS, PROBS, batch_size=0)


# Sizes as text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1234, "1.23 kB"), (10**14, "100 TB"), (2.5e9, "2.5 GB")],
)
def test_a_size_has_the_unit_that_leaves_a_number(n_bytes, text):
    assert size(n_bytes) == text


def test_sizes_read_back():
    for n_bytes in np.logspace(3, 14, 60):
        assert abs(parse_bytes(size(n_bytes)) / n_bytes - 1) < 0.01


def test_a_plan_of_forked_processes_names_them():
    plan = plan_label_issues(LABELS, PROBS, n_jobs=4, **CUT)
    assert (plan.n_processes, plan.n_threads) == (4, 1)
    need = Need(N_ROWS, 5, 8, Settings(), n_partitions=50)
    children = 4 * partitioning.FORK_BYTES + need.summaries() // 4  # what they hand over, a piece at a time
    assert plan.process_bytes == need.in_process(4, stored=False) + children
    assert "with 4 forked processes, but may take only 1 MB" in refusal("1MB", n_jobs=4)
    lazy = da.from_array(PROBS, chunks=(100, 5))
    assert plan_label_issues(LABELS, lazy, n_jobs=4).n_processes == 1, "a Dask array is read by threads"


def test_a_plan_counts_the_processes_that_there_will_be():
    assert plan_label_issues(LABELS, PROBS, n_jobs=64, batch_size=500, partition_batches=1).n_processes == 4
    whole = plan_label_issues(LABELS, PROBS, n_jobs=64, batch_size=2000, partition_batches=1)
    assert (whole.n_processes, whole.process_bytes) == (
        1,
        plan_label_issues(LABELS, PROBS, batch_size=2000).process_bytes,
    )
    assert re.search(r"or [12] forked process(es)? \(", refusal("200MB", n_jobs=4, **CUT))


def test_a_second_read_of_forked_processes_is_planned_for_all_threads():
    margins = {"method": "normalized_margin", "adjust_pred_probs": True, **CUT}
    with dask.config.set(num_workers=32):
        forked, threads = (plan_label_issues(LABELS, PROBS, n_jobs=n, **margins).process_bytes for n in (2, 1))
    assert forked == threads


@pytest.mark.parametrize("act", [plan_label_issues, labelsieve.find_label_issues])
@pytest.mark.parametrize("what", ["alien", "nested", "nameless"])
def test_a_plan_refuses_what_the_run_would(tmp_path, act, what):
    probs, choices = PROBS, {"workdir": tmp_path / "w"}
    if what == "alien":
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "photo.jpg").write_bytes(b"x")
        choices["fresh"], message = True, "is not empty and is not a Labelsieve workdir"
    elif what == "nested":
        choices, message = (
            {"workdir": tmp_path / "o.zarr" / "w", "output": tmp_path / "o.zarr"},
            "is inside the output",
        )
    else:
        probs, message = da.from_array(PROBS, chunks=70, name="mine"), "has nothing that identifies its data"
    with pytest.raises(labelsieve.LabelsieveError, match=message):
        act(LABELS, probs, **choices)


def test_the_formula_of_a_plan_is_that_of_memory(n_threads):
    plan = plan_label_issues(LABELS, PROBS, **CUT)
    need = Need(N_ROWS, 5, 8, Settings(), n_partitions=50)
    assert plan.process_bytes == need.in_process(n_threads, stored=False)
    assert plan.summary_bytes == N_ROWS * need.row


# Workers that are only described ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "max_memory"), [("1GiB", None), ("700MB", "500MB"), (None, None)], ids=["limit", "max_memory", "auto"]
)
def test_described_workers_are_planned_for_as_real_ones(tmp_path, memory, max_memory):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    choices = {"filter_by": "both", "max_memory": max_memory, **CUT}
    plans = []
    for start in (False, True):
        with cluster(None, 2, 3, memory, start=start) as workers:
            plans.append(plan_label_issues(tmp_path / "labels.npy", tmp_path / "probs.npy", client=workers, **choices))
    described, real = (dataclasses.asdict(plan) for plan in plans)
    names = [facts.pop("limit_name") for facts in (described, real)]
    assert described == real
    assert (described["n_processes"], described["n_threads"]) == (2, 3)
    if max_memory:
        assert names == ["max_memory"] * 2
    else:
        assert names[0] == "80% of the memory limit of each worker"
        assert names[1].startswith("80% of the memory limit of worker tcp://")


def test_a_plan_for_described_workers_starts_none(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    monkeypatch.setattr("distributed.LocalCluster", lambda **_: pytest.fail("started"))
    options = ["--workers", "100", "--threads", "4", "--worker-memory", "8GiB"]
    assert run(["plan", str(tmp_path / "labels.npy"), str(tmp_path / "probs.npy"), *options]) == 0
    assert "in each of 100 workers, 4 threads; may take 6.87 GB" in capsys.readouterr().out


@pytest.mark.parametrize("memory", ["many", "4GiB each"])
def test_memory_of_described_workers_that_is_not_a_size(memory, tmp_path, capsys):
    assert run(["plan", "labels.npy", "probs.npy", "--workers", "2", "--worker-memory", memory]) == 2
    assert f"the memory of workers must be a size such as 4GiB, not {memory!r}" in capsys.readouterr().err
