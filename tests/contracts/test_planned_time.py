"""The time in a plan: what is asked for, what is read to measure it, and what is refused."""

import json
import math
import pkgutil
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from distributed import Client

import draws
import labelsieve
from labelsieve import InvalidInputError, plan_label_issues
from labelsieve.cli.app import run
from labelsieve.cli.text import duration
from labelsieve.execution.cluster import DescribedWorkers
from labelsieve.pipeline import measurement
from labelsieve.pipeline.forecast import CLIENT_TASK_S, SCHEDULER_TASK_S, SUMMARY_ROW_S, typical_rates
from labelsieve.settings import FILTER_NAMES
from labelsieve.sources.base import Source
from labelsieve.sources.npy import NpySource
from labelsieve.tasks import measuring

N_ROWS = 4000
LABELS, PROBS = draws.draw(N_ROWS, 5, seed=41, noise=0.3)
CUT = {"batch_size": 100, "partition_batches": 5}  # eight partitions


class Described(Source):
    """Rows that are only described."""

    in_pieces = False

    def open(self, start=0, stop=None):
        pytest.fail("something was read")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("pred_probs.npy", PROBS)
    for name, array, chunks in (("labels", LABELS, (100,)), ("pred_probs", PROBS, (100, 5))):
        zarr.create_array(f"{name}.zarr", shape=array.shape, chunks=chunks, dtype=array.dtype)[:] = array
    return tmp_path


def inputs_of(n_rows, n_classes=1000, rows=10_000):
    return Described((n_rows,), np.dtype("i8"), rows), Described((n_rows, n_classes), np.dtype("f4"), rows)


# Rates that are given ----------------------------------------------------------------------------------------------


def test_a_plan_has_no_time_without_a_rate():
    assert plan_label_issues(LABELS, PROBS).forecast is None


def test_the_time_on_a_cluster_that_does_not_exist():
    workers = DescribedWorkers(10, 4, 8 * 10**9)
    plan = plan_label_issues(*inputs_of(250_000_000), client=workers, worker_rate="1GB")
    found = plan.forecast
    # 1 TB by 10 workers of 1 GB/s; each takes whole partitions.
    each = math.ceil(plan.n_partitions / 10) * 10**12 / plan.n_partitions / 1e9
    assert found.store_s == pytest.approx(each * (1 + 8 / 4000), rel=0.01)
    assert found.store_bytes == 250_000_000 * 4008
    assert found.limit == "store"
    assert found.scheduler_s == pytest.approx(plan.n_tasks * SCHEDULER_TASK_S)
    assert found.total_s == pytest.approx(found.store_s + found.summaries_s + plan.n_tasks * CLIENT_TASK_S)
    assert found.n_requests is None, "this source says nothing of its requests"


def test_kernels_and_summaries_take_what_a_typical_thread_takes():
    with dask.config.set(num_workers=2):
        plan = plan_label_issues(*inputs_of(1_000_000), worker_rate=1e12)
    rounds = math.ceil(plan.n_partitions / 2) / plan.n_partitions
    kernels_row_s = typical_rates(1000, 4, is_encoded=False).kernels_row_s
    assert plan.forecast.kernels_s == pytest.approx(rounds * 1e6 * kernels_row_s)
    assert plan.forecast.summaries_s == pytest.approx(rounds * 1e6 * SUMMARY_ROW_S)


@pytest.mark.parametrize("filter_by", [None, *FILTER_NAMES])
def test_passes_repeat_the_rows(filter_by):
    plan = plan_label_issues(*inputs_of(1_000_000), worker_rate="1GB", filter_by=filter_by)
    assert plan.forecast.store_bytes == 1_000_000 * (8 + 4000 * plan.n_reads)


def test_requests_are_those_that_a_run_makes(files, monkeypatch):
    store = fsspec.filesystem("memory")
    for name in ("labels", "pred_probs"):
        for kind in ("npy", "zarr"):
            store.put(f"{name}.{kind}", f"/requests/{name}.{kind}", recursive=True)
    monkeypatch.setattr("labelsieve.sources.remote_npy._REQUEST_BYTES", 70 * 40)
    counted = []
    read = store.cat_file
    monkeypatch.setattr(
        type(store), "cat_file", lambda _, *args, **kwargs: counted.append(args) or read(*args, **kwargs)
    )
    for kind in ("npy", "zarr"):
        places = [f"memory://requests/{name}.{kind}" for name in ("labels", "pred_probs")]
        plan = plan_label_issues(*places, worker_rate="1GB", **CUT)
        counted.clear()
        labelsieve.find_label_issues(*places, **CUT)
        data = [args for args in counted if "json" not in str(args)]
        # A run reads the headers too, and looks for what is at the place.
        assert 0 <= len(data) - plan.forecast.n_requests <= 12, kind
        assert plan.forecast.n_requests == {"npy": 8 * (8 + 2), "zarr": 80}[kind]


def test_local_npy_files_take_no_requests_and_chunks_are_files(files):
    assert plan_label_issues("labels.npy", "pred_probs.npy", worker_rate="1GB").forecast.n_requests is None
    assert plan_label_issues("labels.zarr", "pred_probs.zarr", worker_rate="1GB", **CUT).forecast.n_requests == 80


def test_classes_in_several_chunks_are_several_requests(files):
    array = zarr.create_array("split.zarr", shape=PROBS.shape, chunks=(100, 2), dtype=PROBS.dtype)
    array[:] = PROBS
    assert plan_label_issues("labels.npy", "split.zarr", worker_rate="1GB", **CUT).forecast.n_requests == 3 * 40


def test_more_workers_are_faster_until_the_scheduler_limits(monkeypatch):
    monkeypatch.setattr("labelsieve.pipeline.forecast.SCHEDULER_TASK_S", 0.01)
    inputs, forecasts = inputs_of(250_000_000), []
    for n_workers in (10, 100, 1000):
        workers = DescribedWorkers(n_workers, 4, 8 * 10**9)
        forecasts.append(plan_label_issues(*inputs, client=workers, worker_rate="1GB").forecast)
    assert forecasts[0].total_s > forecasts[1].total_s
    assert [found.limit for found in forecasts] == ["store", "scheduler", "scheduler"]


# Workers for a wanted time -----------------------------------------------------------------------------------------


def test_workers_for_a_wanted_time():
    choices = {"worker_rate": "1GB", "within": "2min"}
    inputs = inputs_of(250_000_000)
    found = plan_label_issues(*inputs, client=DescribedWorkers(100, 4, 8 * 10**9), **choices).forecast
    assert found.within_s == 120
    times = [
        plan_label_issues(*inputs, client=DescribedWorkers(n, 4, 8 * 10**9), worker_rate="1GB").forecast.total_s
        for n in (found.n_workers_needed, found.n_workers_needed - 1)
    ]
    assert times[0] <= 120 < times[1]
    again = plan_label_issues(*inputs, client=DescribedWorkers(7, 4, 8 * 10**9), **choices).forecast
    assert again.n_workers_needed == found.n_workers_needed, "whatever the cluster of the plan is"
    assert found.why_not == ""


def test_a_time_that_no_number_of_workers_reaches():
    found = plan_label_issues(
        *inputs_of(2_500_000_000), client=DescribedWorkers(10, 4, 8 * 10**9), worker_rate="1GB", within="5s"
    ).forecast
    assert found.n_workers_needed is None
    assert found.why_not.startswith("the least is about ")


def test_a_number_of_workers_needs_a_cluster():
    with pytest.raises(InvalidInputError, match="within asks for a number of workers"):
        plan_label_issues(LABELS, PROBS, worker_rate="1GB", within="1min")


# Measuring ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(measurement, "MEASURE_S", 0.5)


@pytest.fixture
def sleeping(monkeypatch):
    """Return a function that lets the calls of another one sleep, on clocks that nothing else moves.

    Each thread has a clock of its own. What is measured does not depend on how busy the machine is.
    """
    clocks = Counter()

    def now():
        return clocks[threading.get_ident()]

    for module in (measurement, measuring):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=now, thread_time=now))

    def sleeping(where, seconds_of):
        module, name = where.rsplit(".", 1)
        inner = getattr(pkgutil.resolve_name(module), name)

        def asleep(*args):
            clocks[threading.get_ident()] += seconds_of(*args)
            return inner(*args)

        monkeypatch.setattr(pkgutil.resolve_name(module), name, asleep)

    return sleeping


@pytest.mark.parametrize("kind", ["npy", "zarr"])
@pytest.mark.parametrize("settings", [{}, {"method": "normalized_margin"}, {"filter_by": "both"}], ids=str)
def test_what_is_measured(files, short, kind, settings):
    choices = {"max_memory": "1GB", **CUT, **settings}
    plan = plan_label_issues(f"labels.{kind}", f"pred_probs.{kind}", measure=True, **choices)
    found = plan.forecast
    assert replace(plan, forecast=None) == plan_label_issues(f"labels.{kind}", f"pred_probs.{kind}", **choices)
    assert 0 < found.measured_bytes <= PROBS.nbytes
    assert found.startup_s > 0
    assert found.store_s > 0
    assert found.decoding_s == 0 or kind == "zarr"
    assert found.total_s >= found.store_s + found.kernels_s + found.decoding_s + found.startup_s
    if kind == "zarr":
        stored = sum(path.stat().st_size for path in files.glob("pred_probs.zarr/c/*/*"))
        labels = sum(path.stat().st_size for path in files.glob("labels.zarr/c/*"))
        assert found.store_bytes == pytest.approx(stored * plan.n_reads + labels, rel=0.02), "as stored"
    else:
        assert found.store_bytes == PROBS.nbytes * plan.n_reads + LABELS.nbytes


def test_measuring_stops_by_time(files, monkeypatch):
    monkeypatch.setattr(measurement, "MEASURE_S", 0.0)
    read = []
    inner = measuring.MeasuringWork._measure
    monkeypatch.setattr(measuring.MeasuringWork, "_measure", lambda *args: read.append(args[0].kind) or inner(*args))
    with dask.config.set(num_workers=2):
        found = plan_label_issues("labels.zarr", "pred_probs.zarr", measure=True, **CUT).forecast
    assert sorted(read) == sorted(2 * ["stored", "stored", "decoded", "scanned"])
    assert found.measured_bytes == 2 * PROBS[:100].nbytes, "a stored chunk on each thread"


@pytest.mark.parametrize(
    ("slow", "limit"),
    [
        ("labelsieve.sources.zarr_arrays.read_into", "store"),
        ("labelsieve.sources.zarr_arrays._decode_chunk", "decoding"),
        ("labelsieve.confident_learning.summarizer.Summarizer.add", "kernels"),
    ],
)
def test_the_part_that_sleeps_is_the_limit(files, sleeping, slow, limit):
    # For each chunk of labels or probabilities, or as long for as many rows of both.
    sleeping(slow, lambda *args: 2 * 0.04 * len(args[2]) if limit == "kernels" else 4)
    with dask.config.set(num_workers=2):
        found = plan_label_issues("labels.zarr", "pred_probs.zarr", measure=True, **CUT).forecast
    assert found.limit == limit
    # Two threads sleep 80 times for 4 s; to open the inputs takes the time of this machine.
    assert getattr(found, f"{limit}_s") == pytest.approx(160)
    assert found.total_s == pytest.approx(160 + found.startup_s, rel=0.01)


def test_a_rate_that_is_given_goes_before_the_measured_one(files, short):
    found = plan_label_issues("labels.npy", "pred_probs.npy", measure=True, worker_rate="10B").forecast
    assert found.store_s == pytest.approx((PROBS.nbytes + LABELS.nbytes) / 10)
    assert (found.limit, found.measured_bytes > 0) == ("store", True)


def test_arrays_and_shards_are_measured_and_dask_arrays_are_not(files, short):
    np.save("labels-0.npy", LABELS[:1700])
    np.save("labels-1.npy", LABELS[1700:])
    for labels, probs in ((LABELS, PROBS), ("labels-*.npy", "pred_probs.zarr"), (LABELS.tolist(), "pred_probs.npy")):
        assert plan_label_issues(labels, probs, measure=True, **CUT).forecast.total_s > 0
    with pytest.raises(InvalidInputError, match="measure reads files and arrays, not Dask arrays"):
        plan_label_issues(LABELS, da.from_array(PROBS), measure=True)


def test_remote_rows_are_measured(files, short):
    store = fsspec.filesystem("memory")
    for name in ("labels.zarr", "pred_probs.zarr"):
        store.put(name, f"/measured/{name}", recursive=True)
    places = [f"memory://measured/{name}.zarr" for name in ("labels", "pred_probs")]
    found = plan_label_issues(*places, measure=True, **CUT).forecast
    assert found.store_s > 0
    assert found.n_requests == 80


def test_bad_rows_are_found_by_the_run_and_not_by_the_plan(files, short):
    np.save("pred_probs.npy", np.where(np.arange(N_ROWS)[:, None] % 7 == 0, np.nan, PROBS))
    assert plan_label_issues("labels.npy", "pred_probs.npy", measure=True, **CUT).forecast.total_s > 0


def test_nothing_is_read_where_nothing_is_measured(files, monkeypatch):
    monkeypatch.setattr(NpySource, "open", lambda *_: pytest.fail("something was read"))
    plan_label_issues("labels.npy", "pred_probs.npy", worker_rate="1GB")


@pytest.mark.slow
def test_workers_measure(files, sleeping):
    sleeping("labelsieve.sources.zarr_arrays._decode_chunk", lambda *_: 0.02)
    with Client(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0") as client:
        plan = plan_label_issues("labels.zarr", "pred_probs.zarr", client=client, measure=True, **CUT)
    assert plan.forecast.measured_bytes >= 4 * PROBS[:100].nbytes
    assert plan.forecast.scheduler_s == pytest.approx(plan.n_tasks * SCHEDULER_TASK_S)
    # 80 chunks on 4 threads.
    assert plan.forecast.decoding_s == pytest.approx(80 * 0.02 / 4)


def test_this_machine_measures_for_a_worker_that_is_described(files, short):
    plans = [
        plan_label_issues("labels.zarr", "pred_probs.zarr", client=workers, measure=True, within="1h", **CUT)
        for workers in (DescribedWorkers(1, 2, 10**10), DescribedWorkers(4, 2, 10**10))
    ]
    assert [plan.forecast.n_workers_needed for plan in plans] == [1, 1]
    assert plans[1].forecast.measured_bytes > 0


# The command line --------------------------------------------------------------------------------------------------


def test_the_command_line_prints_the_time(files, capsys):
    command = ["plan", "labels.npy", "pred_probs.npy", "--workers", "3", "--threads", "2", "--worker-memory", "4GB"]
    assert run(command) == 0
    assert "\ntime " not in capsys.readouterr().out
    assert run([*command, "--worker-rate", "1kB/s", "--latency", "20ms", "--within", "40s"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["time"].strip().endswith("limited by: store (at the rate given)")
    assert "store " in lines["parts of it"]
    assert lines["from the store"].strip() == labelsieve.memory.size(PROBS.nbytes + LABELS.nbytes)
    assert "workers" in lines["within 40 s"]
    assert run([*command, "--worker-rate", "1kB", "--within", "1ms"]) == 0
    assert "no number of workers: the least is about" in capsys.readouterr().out
    assert run([*command, "--worker-rate", "1kB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["limit"] == "store"


BAD = {
    "worker_rate": ["0", "-1GB", "fast", "GB", "1GB/h", "nan", ""],
    "latency": ["20", "-20ms", "20 parsecs", "ms", "soon", ""],
    "within": ["0s", "10", "-1min", "1 fortnight", "tomorrow"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_an_error_of_usage(files, capsys, name, value):
    choices = {"worker_rate": "1GB", "latency": "1ms", name: value}
    with pytest.raises(InvalidInputError, match=f"^{name} must be "):
        plan_label_issues("labels.npy", "pred_probs.npy", **choices)
    options = [f"--{option.replace('_', '-')}={text}" for option, text in choices.items()]
    assert run(["plan", "labels.npy", "pred_probs.npy", *options]) == 2
    assert f"{name} must be " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_rate", math.inf),
        ("worker_rate", True),
        ("latency", math.nan),
        ("latency", -1),
        ("within", [1]),
        ("within", 0),
        ("measure", 1),
    ],
)
def test_a_bad_number_is_an_error(name, value):
    with pytest.raises((InvalidInputError, labelsieve.InputTypeError), match=f"^{name} must be "):
        plan_label_issues(LABELS, PROBS, **{"worker_rate": 10**9, name: value})


@pytest.mark.parametrize("workers", ["0", "-3", "many"])
def test_workers_that_are_none_are_refused(files, capsys, workers):
    assert run(["plan", "labels.npy", "pred_probs.npy", "--workers", workers, "--worker-rate", "1GB"]) == 2
    assert "--workers" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["latency", "within"])
def test_what_needs_a_rate(name):
    with pytest.raises(InvalidInputError, match=f"^{name} needs worker_rate or measure"):
        plan_label_issues(LABELS, PROBS, **{name: "1s"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12 ms"),
        (0.95, "950 ms"),
        (1.234, "1.23 s"),
        (95, "1 min 35 s"),
        (59.6, "1 min"),
        (7384, "2 h 3 min"),
    ],
)
def test_a_duration_has_the_unit_that_leaves_a_number(seconds, text):
    assert duration(seconds) == text
