"""The sort of issues that are too many for one machine, against sorting all of them at once."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import draws
import labelsieve
import naive
from labelsieve.job import grid as memory
from labelsieve.job import grid as partitioning
from labelsieve.job import table as external_sort
from labelsieve.job.table import Keys, SortedRun
from labelsieve.results.result import IssueRows
from labelsieve.results.store import COLUMNS, ResultGroup
from labelsieve.storage.folder import LocalFolder

ROW_NAMES = ["row", "score", "given_label", "suggested_label", "p_given", "p_suggested"]


def issue_rows(rows, scores, dtype=np.float32):
    """Return issues whose other columns tell which row they belong to."""
    rows = np.array(rows, np.int64)
    classes = (rows % 200).astype(np.uint8)
    probs = (rows / 1000).astype(dtype)
    return IssueRows(rows, np.array(scores, dtype), classes, classes[::1] + np.uint8(1), probs, probs + dtype(1))


@dataclass
class Sorted:
    """Issues that went through runs, ranges and stretches."""

    runs: list
    cuts: Keys
    stretches: list
    slices: list
    columns: dict


def sort_and_merge(tmp_path, parts, stretch_rows, range_rows, sample_step, block_rows):
    """Sort `parts`, each of which becomes a run, as the engine does."""
    folder, group = LocalFolder(tmp_path / "runs"), ResultGroup(LocalFolder(tmp_path / "result.zarr"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "_SAMPLE_STEP", sample_step)
        patch.setattr(external_sort, "_RUN_BLOCK_ROWS", block_rows)
        written = [external_sort._write_run(folder, f"{i}-0", part) for i, part in enumerate(parts)]
        n_issues = sum(map(len, parts))
        dtypes = {name: column.dtype for name, column in parts[0].columns().items()}
        dtypes["score"] = np.promote_types(dtypes["score"], np.float32)
        for name, dtype in dtypes.items():
            group.create(COLUMNS[name], (n_issues,), dtype, stretch_rows)
        cuts = external_sort.range_cuts(written, range_rows)
        before = [external_sort.rows_before(run.name, folder=folder, cuts=cuts) for run in written]
        names, stretches = external_sort.stretches(written, before, stretch_rows, folder)
        # In any order: tasks know nothing of each other.
        merged = [external_sort.merge(one, names=names, folder=folder, group=group) for one in reversed(stretches)]
        assert sum(merged) == n_issues
    slices = [list(external_sort.run_slices(stretch, names, folder)) for stretch in stretches]
    return Sorted(written, cuts, stretches, slices, {name: group.open(COLUMNS[name])[:] for name in ROW_NAMES})


def naive_sort(parts):
    """Return the rows of all parts by (score, row)."""
    pairs = [(float(score), int(row)) for part in parts for score, row in zip(part.scores, part.rows, strict=True)]
    return [row for _, row in sorted(pairs)]


@st.composite
def sorted_parts(draw):
    """Draw runs of ascending rows with many ties; none of them empty."""
    lengths = draw(st.lists(st.integers(1, 25), min_size=1, max_size=6))
    values = draw(st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = np.flatnonzero(rng.random(sum(lengths) * 3) < 0.9)[: sum(lengths)]
    parts = np.split(np.sort(rows), np.cumsum(lengths)[:-1])
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    return [issue_rows(part, rng.choice(values, len(part)), dtype) for part in parts]


@given(
    sorted_parts(),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 5, 1024]),
    st.sampled_from([1, 3, 99]),
)
def test_runs_give_the_order_of_all_rows(tmp_path_factory, parts, stretch_rows, range_rows, sample_step, block_rows):
    tmp_path = tmp_path_factory.mktemp("sort")
    got = sort_and_merge(tmp_path, parts, stretch_rows, range_rows, sample_step, block_rows)
    want = naive_sort(parts)
    assert got.columns["row"].tolist() == want
    every = IssueRows.concatenate(parts)
    every = every.take(np.argsort(every.rows))
    at = np.searchsorted(every.rows, want)
    for name, column in every.columns().items():
        expected = column[at].astype(np.promote_types(column.dtype, np.float32)) if name == "score" else column[at]
        assert got.columns[name].tobytes() == expected.tobytes()
    # Each rank is in one stretch, and what a stretch reads is around its ranks.
    ranks = [rank for stretch in got.stretches for rank in range(stretch.start, stretch.stop)]
    assert ranks == list(range(len(want)))
    for stretch, slices in zip(got.stretches, got.slices, strict=True):
        assert stretch.first <= stretch.start
        assert stretch.stop <= stretch.first + sum(b - a for _, a, b in slices)
        assert stretch.start % stretch_rows == 0


@given(sorted_parts(), st.integers(1, 12))
def test_rows_before_a_cut_are_counted_as_by_looking_at_each(tmp_path_factory, parts, range_rows):
    folder = LocalFolder(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "_SAMPLE_STEP", 2)
        patch.setattr(external_sort, "_RUN_BLOCK_ROWS", 4)
        written = [external_sort._write_run(folder, str(i), part) for i, part in enumerate(parts)]
        cuts = external_sort.range_cuts(written, range_rows)
    keys = list(zip(cuts.scores.tolist(), cuts.rows.tolist(), strict=True))
    assert keys == sorted(keys)
    for run, part in zip(written, parts, strict=True):
        pairs = list(zip(part.scores.tolist(), part.rows.tolist(), strict=True))
        want = [sum(pair < key for pair in pairs) for key in keys]
        assert external_sort.rows_before(run.name, folder=folder, cuts=cuts).tolist() == want
        assert run.n_rows == len(part)
        assert (
            list(zip(run.sample.scores.tolist(), run.sample.rows.tolist(), strict=True))
            == sorted(pairs)[run.step - 1 :: run.step]
        )


def test_what_a_stretch_reads_is_bounded_even_if_all_scores_are_tied(tmp_path):
    # 20 runs of 1000 rows with one score: the ranges go by row then.
    parts = [issue_rows(range(1000 * i, 1000 * i + 1000), np.full(1000, 0.25)) for i in range(20)]
    got = sort_and_merge(tmp_path, parts, stretch_rows=500, range_rows=250, sample_step=50, block_rows=100)
    assert got.columns["row"].tolist() == list(range(20_000))
    for slices in got.slices:
        # The ranges that touch it, each longer than planned by a step of the sample a run at most.
        assert sum(b - a for _, a, b in slices) <= 500 + 2 * (250 + 20 * 50)


def test_what_a_stretch_reads_is_bounded_if_all_runs_have_all_scores(tmp_path):
    rng = np.random.default_rng(1)
    parts = [issue_rows(range(1000 * i, 1000 * i + 1000), rng.random(1000)) for i in range(20)]
    got = sort_and_merge(tmp_path, parts, stretch_rows=2000, range_rows=1000, sample_step=20, block_rows=100)
    assert got.columns["row"].tolist() == naive_sort(parts)
    for slices in got.slices:
        assert sum(b - a for _, a, b in slices) <= 2000 + 2 * (1000 + 20 * 20)


def test_ranges_of_many_short_runs_are_fair(tmp_path):
    # Two hundred runs that are each shorter than a step of the samples: no range may take nearly all of them.
    rng = np.random.default_rng(3)
    parts = [issue_rows(range(100 * i, 100 * i + 100), np.sort(rng.random(100))) for i in range(200)]
    written = [external_sort._write_run(LocalFolder(tmp_path), str(i), part) for i, part in enumerate(parts)]
    cuts = external_sort.range_cuts(written, 1000)
    before = np.stack([external_sort.rows_before(run.name, folder=LocalFolder(tmp_path), cuts=cuts) for run in written])
    sizes = np.diff(np.concatenate(([0], before.sum(axis=0), [20_000])))
    assert len(sizes) >= 15
    assert sizes.max() < 3000


def test_few_rows_are_one_range():
    sample = Keys(np.array([0.1]), np.array([7]))
    cuts = external_sort.range_cuts([SortedRun("0", 5, sample, 5)], 1 << 16)
    assert len(cuts.scores) == len(cuts.rows) == 0


# Whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """Make runs, chunks of the result, spans and blocks of a few rows."""
    for module, name, rows in (
        ("results.store", "RESULT_ROWS", 16),
        ("results.store", "RUN_ROWS", 10),
        ("job.grid", "_SPAN_BYTES", 400),
        ("job.scan", "BLOCK_ROWS", 7),  # as many as a strip has, at least
        ("confident_learning.thresholds", "SLICE_ROWS", 5),
        ("job.table", "_RUN_BLOCK_ROWS", 3),
        ("job.table", "_SAMPLE_STEP", 2),
        ("job.scan", "STRIP_BYTES", 100),
    ):
        monkeypatch.setattr(f"labelsieve.{module}.{name}", rows)


@pytest.mark.parametrize(
    ("choice", "kind"), draws.in_turn(naive.METHODS, ["plain", "tied", "nearly all", "none"], times=2), ids=str
)
def test_a_result_is_that_of_a_run_in_memory(tmp_path, tiny, choice, kind):
    method, adjust = choice
    labels, probs = draws.draw(300, 4, seed=3, dtype=np.float32, decimals=1 if kind == "tied" else None)
    if kind == "nearly all":  # and all scores tied: each row is the same, under the label it does not predict
        probs, labels = np.full((300, 4), np.float32([0.1, 0.7, 0.1, 0.1])), np.arange(300) % 4
        labels[labels == 1] = 0
        labels[7] = 1
    elif kind == "none":
        labels = probs.argmax(axis=1)
    choices = {"method": method, "adjust_pred_probs": adjust}
    want = labelsieve.find_label_issues(labels, probs, **choices)
    got = labelsieve.find_label_issues(
        labels, probs, **choices, output=tmp_path / "r.zarr", batch_size=9, partition_batches=2
    )
    least, most = {"plain": (20, 200), "tied": (20, 200), "nearly all": (298, 299), "none": (0, 0)}[kind]
    assert least <= want.num_issues <= most
    assert draws.bits(got) == draws.bits(want)
    mask = zarr.open_group(tmp_path / "r.zarr", mode="r")["mask"][:]
    assert mask.tobytes() == want.mask().tobytes()


@given(
    data=draws.datasets(max_rows=70, classes=(2, 3, 5)),
    method=st.sampled_from(naive.METHODS),
    batch_size=st.integers(1, 30),
    partition_batches=st.integers(1, 5),
    result_rows=st.integers(9, 40),
    run_rows=st.integers(9, 40),
    span_bytes=st.integers(1, 900),
    kept=st.booleans(),
)
@settings(max_examples=10 if settings.default.max_examples < 100 else 100)  # each run writes some hundred small files
def test_a_result_is_the_same_whatever_the_sizes(
    tmp_path_factory, data, method, batch_size, partition_batches, result_rows, run_rows, span_bytes, kept
):
    labels, probs = data
    choices = {"method": method[0], "adjust_pred_probs": method[1], "allow_zero_rows": True}
    folder = tmp_path_factory.mktemp("result")
    where = {"output": folder / "r.zarr"} | ({"workdir": folder / "work"} if kept else {})
    want = draws.bits(labelsieve.find_label_issues(labels, probs, **choices))
    with draws.pieces(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("labelsieve.results.store.RESULT_ROWS", result_rows)
        patch.setattr("labelsieve.results.store.RUN_ROWS", run_rows)
        patch.setattr(partitioning, "_SPAN_BYTES", span_bytes)
        patch.setattr("labelsieve.job.scan.BLOCK_ROWS", 63)  # a strip of 1000 bytes has as many
        patch.setattr("labelsieve.job.table._SAMPLE_STEP", 3)
        patch.setattr("labelsieve.job.table._RUN_BLOCK_ROWS", 2)
        got = labelsieve.find_label_issues(
            labels, probs, **choices, **where, batch_size=batch_size, partition_batches=partition_batches
        )
        assert draws.bits(got) == want


def test_issues_that_do_not_fit_are_an_error_and_an_output_takes_them(tmp_path, tiny, monkeypatch):
    labels, probs = draws.draw(300, 4, seed=4)
    want = labelsieve.find_label_issues(labels, probs)
    monkeypatch.setattr("labelsieve.job.job.ISSUE_BYTES", 10**12)
    words = rf"^the {want.num_issues} issues would take .* in this process, but may take only .* [GM]B\. Write them to"
    for where in ({}, {"workdir": tmp_path / "w"}):
        with pytest.raises(labelsieve.MemoryLimitError, match=words) as caught:
            labelsieve.find_label_issues(labels, probs, **where, batch_size=20, partition_batches=2)
        advice = re.search(r"output='(issues\.zarr)'$", str(caught.value))
        monkeypatch.chdir(tmp_path)
        got = labelsieve.find_label_issues(labels, probs, **where, output=advice[1])
        assert draws.bits(got) == draws.bits(want)


def test_each_run_is_as_long_as_a_thread_sorts_at_a_time(tmp_path, tiny, monkeypatch):
    labels, probs = draws.draw(300, 4, seed=4, noise=0.6)
    lengths = []
    inner = external_sort._write_run
    monkeypatch.setattr(external_sort, "_write_run", lambda *args: lengths.append(len(args[2])) or inner(*args))
    found = labelsieve.find_label_issues(labels, probs, output=tmp_path / "r.zarr", batch_size=20)
    assert sum(lengths) == found.num_issues
    assert max(lengths) < 10 + 7, "a run ends with the block that fills it"
    assert len(lengths) > 5


def test_the_client_holds_less_than_planned_of_what_is_merged(tmp_path, tiny, monkeypatch):
    labels, probs = draws.draw(3000, 4, seed=4, noise=0.1)
    held, inner = [], external_sort.stretches
    monkeypatch.setattr(
        external_sort,
        "stretches",
        lambda *args: held.append(2 * sum(before.nbytes for before in args[1])) or inner(*args),
    )
    found = labelsieve.find_label_issues(labels, probs, output=tmp_path / "r.zarr", batch_size=20)
    assert 150 < found.num_issues < memory.expected_issues(3000)
    assert 0 < held[0] <= memory.merge_bytes(3000)


@pytest.mark.parametrize(("limit", "want"), [(400e6, 10), (4e9, 30)])
def test_more_issues_are_sorted_in_larger_runs_where_there_is_room(tmp_path, tiny, monkeypatch, limit, want):
    labels, probs = draws.draw(300, 4, seed=4, noise=0.6)
    lengths, inner, asked = [], external_sort._write_run, []
    monkeypatch.setattr(external_sort, "_write_run", lambda *args: lengths.append(len(args[2])) or inner(*args))

    def run_rows(n_issues, room):
        asked.append(n_issues)
        return memory.run_rows(30 * 1024 if room > 1e9 else 1, room)

    monkeypatch.setattr("labelsieve.results.store.RESULT_ROWS", 160)  # and so a span
    monkeypatch.setattr("labelsieve.job.table.run_rows", run_rows)
    found = labelsieve.find_label_issues(labels, probs, output=tmp_path / "r.zarr", max_memory=int(limit))
    assert asked == [found.estimated_num_issues]
    assert zarr.open_array(tmp_path / "r.zarr", path="issues").chunks == (want,)
    assert want <= max(lengths) < want + 7
