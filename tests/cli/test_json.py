"""What other programs read: the object on stdout, lines of progress on stderr, logs, environment variables."""

import io
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import click
import fsspec
import numpy as np
import pytest
import zarr

import labelsieve
import labelsieve.cli
import s3
from draws import draw
from labelsieve.cli.app import is_json_wanted, run
from labelsieve.cli.options import cli
from labelsieve.errors import InvalidInputError, UnreadableDataError, located
from labelsieve.execution import executor as dask_job
from labelsieve.execution import progress
from labelsieve.results import store as export
from labelsieve.storage import remote as limits
from pages import guide
from processes import Processes

LABELS, PROBS = draw(400, 3, seed=5, noise=0.3)
FILES = ["labels.npy", "pred_probs.npy"]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("pred_probs.npy", PROBS)
    return tmp_path


@pytest.fixture
def answer(capfd):
    """Return a function that runs a command, and gives its exit code, its object, and what is on stderr."""

    def answer(*args):
        code = run(list(map(str, args)))
        out, err = capfd.readouterr()
        assert out.count("\n") == 1
        assert out.endswith("\n")
        return code, json.loads(out), err

    return answer


def keys_of(heading):
    """Return the keys in a table of the documentation."""
    table = guide("command_line").partition(f"| {heading.replace('``', '`')} | |\n")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[1:]]
    return [key for cell in cells for key in re.findall(r"`(\w+)`", cell)]


def test_find_answers_what_python_gives(answer):
    issues = labelsieve.find_label_issues(LABELS, PROBS)
    code, found, err = answer("find", *FILES, "--json", "-o", "i.csv", "--top", "2")
    assert code == 0
    measured = {name: found.pop(name) for name in ("total_s", "peak_memory_bytes", "planned_memory_bytes", "finished")}
    threads = found.pop("runs_on")
    assert found == {
        "num_issues": issues.num_issues,
        "issue_share": issues.num_issues / 400,
        "estimated_num_issues": issues.estimated_num_issues,
        "n_rows": 400,
        "n_ignored": 0,
        "n_classes": 3,
        "labels": str(Path("labels.npy").resolve()),
        "pred_probs": str(Path("pred_probs.npy").resolve()),
        "output": "i.csv",
        "report": None,
        "read_bytes": PROBS.nbytes,
        "n_reads": 1,
        "rows_read": 400,
        "rows_resumed": 0,
        "n_batches": 1,
        "n_partitions": 1,
        "misfit": None,
        "notes": [],
        "warnings": [],
        "version": labelsieve.__version__,
    }
    assert threads == issues.facts.scheduler
    assert measured["total_s"] > 0
    assert measured["peak_memory_bytes"] > 1_000_000
    assert measured["planned_memory_bytes"] > PROBS.nbytes
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", measured["finished"])
    assert err.startswith("400 rows, 3 classes\n")
    assert err.endswith("written to i.csv\n")
    assert np.loadtxt("i.csv", delimiter=",", skiprows=1, usecols=0).tolist() == issues.indices.tolist()


def test_plan_answers_what_python_gives(answer):
    renamed = {
        "bytes_read": "read_bytes",
        "process_bytes": "peak_memory_bytes",
        "client_bytes": "client_memory_bytes",
        "limit": "limit_bytes",
    }
    options = ["--workers", 3, "--threads", 2, "--worker-memory", "4GB", "--filter-by", "both", "--batch-size", 40]
    code, found, err = answer("plan", *FILES, "--json", *options)
    workers = labelsieve.execution.cluster.DescribedExecutor(3, 2, 4_000_000_000)
    plan = labelsieve.plan_label_issues("labels.npy", "pred_probs.npy", client=workers, filter_by="both", batch_size=40)
    expected = {renamed.get(name, name): value for name, value in asdict(plan).items()}
    assert (code, found, err) == (
        0,
        expected | {"problems": [], "exit_code": 0, "warnings": [], "version": labelsieve.__version__},
        "",
    )


def test_every_key_is_documented_and_no_other(answer, capfd):
    assert sorted(keys_of("Key of ``find``")) == sorted(answer("find", *FILES, "--json")[1])
    plan_keys = keys_of("Key of ``plan``")
    assert sorted(plan_keys) == sorted(answer("plan", *FILES, "--json")[1])
    assert run(["find", *FILES, "--quiet", "--progress", "json"]) == 0
    line = json.loads(capfd.readouterr().err.splitlines()[0])
    assert keys_of("Key of a line") == list(line)
    np.save("pred_probs.npy", np.where(np.arange(400)[:, None] == 7, np.nan, PROBS))
    assert keys_of("Key of an error") == list(answer("find", *FILES, "--json")[1])


def test_quiet_and_json_print_the_object_alone(answer):
    assert answer("find", *FILES, "--json", "--quiet")[2] == ""


def test_json_with_standard_tools(files):
    command = f"{sys.executable} -m labelsieve find labels.npy pred_probs.npy --json | {sys.executable} -m json.tool"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["n_rows"] == 400


def test_what_libraries_print_goes_to_stderr(answer, monkeypatch):
    def write(*_):
        print("from Python")
        os.write(1, b"from C\n")
        subprocess.run([sys.executable, "-c", "print('from a process')"], check=True)

    monkeypatch.setattr(export, "write", write)
    err = answer("find", *FILES, "--json", "-o", "i.npy")[2].splitlines()
    assert {"from Python", "from C", "from a process"} <= set(err)


def test_warnings_are_in_the_answer(answer):
    shuffled = np.random.default_rng(0).permutation(LABELS)
    np.save("labels.npy", shuffled)
    code, found, err = answer("find", *FILES, "--json")
    assert code == 0
    assert found["misfit"].startswith("labels and pred_probs do not seem to belong together")
    assert found["warnings"] == [found["misfit"]]
    assert f"labelsieve: warning: {found['misfit']}\n" in err


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["find", "labels.npy"], "UsageError", "Missing argument 'PRED_PROBS'"),
        (["find", *FILES, "--top", "few"], "UsageError", "Invalid value for '--top'"),
        (["plan", *FILES, "--nothing"], "UsageError", "No such option '--nothing'"),
        (["sift"], "UsageError", "No such command 'sift'"),
        (["report", "i.zarr"], "UsageError", "No such option '--json'"),
        (["find", "none.npy", "pred_probs.npy"], "InvalidInputError", "none.npy"),
        (["find", *FILES, "--max-memory", "50MB", "--threads", "2"], "MemoryLimitError", "What would fit"),
        (["find", *FILES, "-o", "labels.npy"], "InvalidInputError", "is an input or lies in one"),
    ],
)
def test_an_error_is_an_object_too(answer, args, error, message):
    code, found, err = answer(*args, "--json")
    assert (code, found["error"], found["exit_code"]) == (2, error, 2)
    assert message in found["message"]
    assert "rows" not in found
    assert err == f"labelsieve: {found['message']}\n"


def test_an_error_of_bad_rows_says_which(answer):
    probs = PROBS.copy()
    probs[7, 1] = np.nan
    probs[100:120] = 0
    np.save("pred_probs.npy", probs)
    code, found, _ = answer("find", *FILES, "--json", "--batch-size", "50")
    assert (code, found["error"]) == (2, "InvalidInputError")
    assert found["rows"] == [[7, 8], [100, 120]]
    with pytest.raises(InvalidInputError) as raised:
        labelsieve.find_label_issues(LABELS, probs)
    assert raised.value.rows == ((7, 8), (100, 120))


def test_an_error_of_a_read_says_which_rows_were_read(answer, files):
    stored = zarr.create_array("p.zarr", shape=PROBS.shape, chunks=(90, 3), dtype=PROBS.dtype, compressors=None)
    stored[:] = PROBS
    chunk = files / "p.zarr" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(UnreadableDataError) as raised:
        labelsieve.find_label_issues("labels.npy", "p.zarr", batch_size=90, partition_batches=2, retries=0)
    assert raised.value.rows == ((0, 90), (90, 180))
    code, found, _ = answer("find", "labels.npy", "p.zarr", "--json", "--retries", "0")
    assert (code, found["error"], found["exit_code"]) == (1, "UnreadableDataError", 1)
    assert found["message"].startswith("partition 0 (rows 0..")
    assert found["rows"][0][0] == 0


def test_the_rows_of_an_error_come_with_it_from_a_task():
    for raised, rows in ((ValueError("x"), ((10, 20),)), (UnreadableDataError("x").at([(12, 13)]), ((12, 13),))):
        with pytest.raises(labelsieve.LabelsieveError) as caught, located("partition 1", [(10, 20)]):
            raise raised
        assert caught.value.rows == rows


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated")])
def test_a_signal_during_the_run_is_an_object_too(tmp_path, number, name):
    with Processes(tmp_path) as processes:
        processes.hold(1)
        job = processes.find(*FILES, "--json", "--quiet", "--batch-size", 100, "--threads", 1)
        processes.wait_for_held(1, 1, job)
        job.signal(number)
        processes.release_until_end(job)
        code, out, err = job.wait()
    expected = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}[number]
    assert (code, err.strip()) == (expected[0], f"labelsieve: {expected[1]}")
    assert json.loads(out) == {"error": name, "message": expected[1], "exit_code": expected[0]}


IMPORTING = """
import signal, sys
from labelsieve.cli.app import leave_at_once, only_answer_on_stdout, print_answer
leave_at_once(["find", "--json"])
if sys.argv[1] == "inside":
    with only_answer_on_stdout(is_due=True):
        signal.raise_signal(signal.SIGTERM)
if sys.argv[1] == "after":
    with only_answer_on_stdout(is_due=True):
        pass
    print_answer("{}", 2)
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize(("when", "code"), [("before", 143), ("inside", 143), ("after", 2)])
def test_a_signal_before_and_after_the_run_leaves_one_object(when, code):
    done = subprocess.run([sys.executable, "-c", IMPORTING, when], capture_output=True, text=True, check=False)
    terminated = {"error": "Terminated", "message": "terminated", "exit_code": 143}
    assert (done.returncode, json.loads(done.stdout)) == (code, {} if when == "after" else terminated)


def lines_of(capfd):
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_progress_is_a_line_of_json_per_stage_and_second(capfd, monkeypatch):
    monkeypatch.setattr("labelsieve.job.inputs.PARTITION_BYTES", 50 * PROBS[:1].nbytes)
    monkeypatch.setattr("labelsieve.job.inputs.SCHEDULED_BYTES", 0)
    command = ["find", *FILES, "--quiet", "--progress", "json", "--batch-size", "50", "--threads", "1"]
    monkeypatch.setattr(progress._Events, "period", 3600.0)
    assert run(command) == 0
    at_the_end = lines_of(capfd)
    assert [line["stage"] for line in at_the_end] == ["read", "threshold", "rank"]
    monkeypatch.setattr(progress._Events, "period", 0.0)
    clock = itertools.count()  # a second passes between two looks at it
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=clock.__next__))
    assert run(command) == 0
    lines = lines_of(capfd)
    for number, stage in enumerate(("read", "threshold", "rank")):
        done = [line["rows_done"] for line in lines if line["stage"] == stage]
        assert done == sorted(set(done))
        assert len(done) > 1
        assert done[-1] == at_the_end[number]["rows_done"] == 400
    assert {(line["n_rows"], line["workers"], line["retries"]) for line in lines} == {(400, 1, 0)}
    read = [line for line in lines if line["stage"] == "read"]
    assert all(line["read_bytes"] == line["rows_done"] * PROBS[:1].nbytes for line in read)
    assert all(line["left_s"] > 0 for line in read[:-1])
    assert read[-1]["left_s"] == 0
    assert all(line["elapsed_s"] > 0 <= line["read_bytes_per_s"] for line in lines)


@pytest.mark.parametrize(("choice", "bars"), [("bar", True), ("none", False), ("auto", False)])
def test_progress_bars_are_chosen(capfd, choice, bars):
    assert run(["find", *FILES, "--progress", choice]) == 0
    assert ("400/400" in capfd.readouterr().err.replace(" ", "")) == bars


def test_retries_are_warnings_and_counted(capfd, monkeypatch):
    monkeypatch.setattr(limits, "TASK_PAUSE_S", 0.0)
    fails = iter([True, True, False])

    def unsteady(*args, inner=dask_job.retry):
        def function(*blocks):
            if next(fails, False):
                raise UnreadableDataError("the line is down")
            return args[1](*blocks)

        return inner(args[0], function, *args[2:])

    monkeypatch.setattr(dask_job, "retry", unsteady)
    assert run(["find", *FILES, "--quiet", "--progress", "json"]) == 0
    *logged, read, threshold, rank = capfd.readouterr().err.splitlines()
    dated = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING labelsieve: tried again: the line is down"
    assert len(logged) == 2
    assert all(re.fullmatch(dated, line) for line in logged)
    assert [json.loads(line)["retries"] for line in (read, threshold, rank)] == [2, 0, 0]


@pytest.mark.slow
def test_a_lost_worker_is_a_warning(tmp_path):
    with Processes(tmp_path) as processes:
        cluster = processes.cluster(2)
        cluster.wait_for_workers()
        options = ["--batch-size", 20, "--json", "--quiet", "--progress", "json", "--scheduler", cluster.address]
        processes.hold(6)
        job = processes.find(*FILES, *options)
        processes.wait_for_held(6, 2, job)
        cluster.workers[0].kill()
        processes.release()
        code, out, err = job.wait()
    expected = labelsieve.find_label_issues(LABELS, PROBS).num_issues
    assert (code, json.loads(out)["num_issues"]) == (0, expected)
    logged, lines = ([line for line in err.splitlines() if line.startswith("{") == is_json] for is_json in (0, 1))
    assert len(logged) == 1
    assert re.search(
        r" WARNING labelsieve: lost the worker tcp://[\d.:]+, which had \d+ tasks: they run elsewhere", logged[0]
    )
    assert {json.loads(line)["workers"] for line in lines if json.loads(line)["stage"] == "read"} == {2}
    assert json.loads(lines[-1])["workers"] == 1


@pytest.mark.parametrize(("level", "shown"), [("info", ["INFO", "WARNING"]), ("warning", ["WARNING"]), ("error", [])])
def test_the_log_level_chooses(capfd, monkeypatch, level, shown):
    def write(*_):
        logging.getLogger("labelsieve").info("something")
        logging.getLogger("labelsieve").warning("something")

    monkeypatch.setattr(export, "write", write)
    before = logging.getLogger("labelsieve").level
    assert run(["find", *FILES, "--quiet", "-o", "i.npy", "--log-level", level]) == 0
    assert re.findall(r" (\w+) labelsieve: something", capfd.readouterr().err) == shown
    assert logging.getLogger("labelsieve").level == before


def test_every_option_has_a_variable_that_the_help_shows(capfd):
    for name, command in cli.commands.items():
        assert run([name, "--help"]) == 0
        text = "".join(capfd.readouterr().out.split())
        for option in command.make_context(name, [], resilient_parsing=True).command.params:
            if isinstance(option, click.Option):
                longest = max(option.opts, key=len).lstrip("-")
                assert f"envvar:LABELSIEVE_{name}_{longest}".replace("-", "_").upper() in text.replace("-", "_").upper()


def test_variables_are_options(answer, monkeypatch, capfd):
    monkeypatch.setenv("LABELSIEVE_FIND_JSON", "1")
    monkeypatch.setenv("LABELSIEVE_FIND_FILTER_BY", "both")
    monkeypatch.setenv("LABELSIEVE_FIND_REPORT", "r.html")
    code, found, _ = answer("find", *FILES)
    expected = labelsieve.find_label_issues(LABELS, PROBS, filter_by="both").num_issues
    assert (code, found["num_issues"], found["report"]) == (0, expected, "r.html")
    assert answer("find", *FILES, "--filter-by", "confident_learning")[1]["n_reads"] == 2, "an option goes first"
    monkeypatch.setenv("LABELSIEVE_FIND_MAX_MEMORY", "much")
    assert answer("find", *FILES)[1]["error"] == "InvalidInputError"
    monkeypatch.setenv("LABELSIEVE_FIND_JSON", "0")
    assert run(["find", *FILES, "--max-memory", "4GB", "--quiet"]) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_a_variable_for_json(command, monkeypatch):
    monkeypatch.setenv(f"LABELSIEVE_{command.replace('-', '_').upper()}_JSON", "1")
    assert is_json_wanted([command])
    assert not is_json_wanted(["another", "command"])


@pytest.mark.parametrize("form", ["npy", "csv", "parquet", "zarr"])
def test_every_form_goes_to_a_url(answer, form):
    store = fsspec.filesystem("memory")
    expected = labelsieve.find_label_issues(LABELS, PROBS).indices.tolist()
    for _ in range(2):  # the second replaces the first
        code, found, _ = answer("find", *FILES, "--json", "-o", f"memory://forms/i.{form}")
        assert (code, found["output"]) == (0, f"memory://forms/i.{form}")
    if form == "zarr":
        assert labelsieve.load("memory://forms/i.zarr").indices.tolist() == expected
        return
    assert store.ls("/forms", detail=False).count(f"/forms/i.{form}") == 1
    assert not [name for name in store.find("/forms") if ".test" in name]
    store.get_file(f"/forms/i.{form}", f"got.{form}")
    export.write(labelsieve.find_label_issues(LABELS, PROBS), f"here.{form}")
    assert Path(f"got.{form}").read_bytes() == Path(f"here.{form}").read_bytes()


@pytest.mark.slow
def test_tables_go_to_an_object_store(answer, monkeypatch):
    expected = labelsieve.find_label_issues(LABELS, PROBS)
    with s3.running_server() as server:
        server.set_environment(monkeypatch)
        try:
            store = fsspec.filesystem("s3")
            store.mkdir("nights")
            for form in ("npy", "csv", "parquet"):
                for _ in range(2):  # the second replaces the first
                    assert answer("find", *FILES, "--json", "-o", f"s3://nights/a/i.{form}")[0] == 0
            expected.to_parquet("s3://nights/b/i.parquet", rows_a_file=10)
            expected.to_parquet("s3://nights/b/i.parquet", rows_a_file=expected.num_issues)
            names = sorted(store.find("nights"))
            rows = np.load(io.BytesIO(store.cat("nights/a/i.npy")))
        finally:
            s3.clear_clients()
    assert names == ["nights/a/i.csv", "nights/a/i.npy", "nights/a/i.parquet", "nights/b/i.parquet"]
    assert rows.tolist() == expected.indices.tolist()


def test_many_parquet_files_at_a_url_are_replaced_whole():
    issues, store = labelsieve.find_label_issues(LABELS, PROBS), fsspec.filesystem("memory")
    half = -(-issues.num_issues // 2)
    for rows, n_files in ((10, -(-issues.num_issues // 10)), (half, 2), (issues.num_issues, 1)):
        issues.to_parquet("memory://many/i.parquet", rows_a_file=rows)
        assert len(store.find("/many")) == n_files
    store.pipe("/others/i.parquet/part-00000.parquet", b"not of ours")
    with pytest.raises(InvalidInputError, match=r"memory://others/i\.parquet is a folder"):
        issues.to_parquet("memory://others/i.parquet")
    store.pipe("/others/i.csv/precious", b"not of ours")
    with pytest.raises(InvalidInputError, match=r"memory://others/i\.csv is a folder"):
        issues.to_csv("memory://others/i.csv")
    assert store.cat("/others/i.csv/precious") == b"not of ours"


def test_a_url_that_cannot_be_written_is_refused_before_the_run(answer, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.put_file", refuse)
    monkeypatch.setattr("labelsieve.sources.npy.NpySource.open", lambda *_: pytest.fail("something was read"))
    code, found, _ = answer("find", *FILES, "--json", "-o", "memory://refused/i.csv")
    assert (code, found["error"]) == (1, "UnwritableError")
    assert re.match(r"memory://refused/i\.csv cannot be written: .*read-only", found["message"])
