"""The command line as a user runs it: what it prints, what it writes, how it exits."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr

import labelsieve
from labelsieve.cli.app import run
from labelsieve.cli.text import summary_text
from labelsieve.errors import install_line, size
from labelsieve.options import FILTER_NAMES
from labelsieve.storage.folder import LocalFolder, own_folder
from processes import PATIENCE_S


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Labels and probabilities of 400 rows and 3 classes as .npy and Zarr, in the working folder."""
    rng = np.random.default_rng(5)
    true = rng.integers(0, 3, 400)
    probs = rng.dirichlet([1, 1, 1], 400) * 0.4 + np.eye(3)[true] * 0.6
    labels = np.where(rng.random(400) < 0.1, (true + 1) % 3, true)
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", labels)
    np.save("pred_probs.npy", probs)
    for name, array in (("labels", labels), ("pred_probs", probs)):
        stored = zarr.create_array(
            f"{name}.zarr", shape=array.shape, chunks=(90, *array.shape[1:]), dtype=array.dtype, compressors=None
        )
        stored[:] = array
    return labels, probs


def test_prints_a_summary_and_the_worst_rows(files, capsys):
    labels, probs = files
    issues = labelsieve.find_label_issues(labels, probs)
    assert run(["find", "labels.npy", "pred_probs.npy", "--top", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    thresholds = issues.confident_thresholds
    assert out[0] == "400 rows, 3 classes"
    assert out[1] == f"{issues.num_issues} label issues ({issues.num_issues / 400:.2%})"
    assert out[2] == f"confident thresholds {thresholds.min():.4f} to {thresholds.max():.4f}"
    assert out[3].startswith("9.6 kB read in one pass, ")
    assert out[5].split() == ["row", "given", "suggested", "score", "p_given", "p_suggested"]
    assert len(out) == 9
    worst = issues.indices[0]
    suggested = probs[worst].argmax()
    assert out[6].split() == [
        str(worst),
        str(labels[worst]),
        str(suggested),
        f"{probs[worst, labels[worst]]:.4g}",
        f"{probs[worst, labels[worst]]:.4g}",
        f"{probs[worst, suggested]:.4g}",
    ]


def test_options_reach_the_job(files, capsys):
    labels, probs = files
    expected = labelsieve.find_label_issues(
        labels,
        probs,
        method="normalized_margin",
        adjust_pred_probs=True,
        estimation_method="off_diagonal_calibrated",
    )
    options = "--method normalized_margin --adjust-pred-probs --estimation-method off_diagonal_calibrated"
    assert run(["find", "labels.npy", "pred_probs.npy", *options.split(), "--batch-size", "70", "-o", "i.npy"]) == 0
    assert np.load("i.npy").tolist() == expected.indices.tolist()
    assert "read in 2 passes" in capsys.readouterr().out


@pytest.mark.parametrize("numbers", ["4,0,2", "numbers.txt"])
def test_filters_reach_the_job(files, capsys, numbers):
    Path("numbers.txt").write_text("4\n0\n2\n", encoding="utf-8")
    choices = {"frac_noise": 0.7, "num_to_remove_per_class": [4, 0, 2], "min_examples_per_class": 3}
    expected = labelsieve.find_label_issues(*files, filter_by="both", rank_by="normalized_margin", **choices)
    options = "--filter-by both --rank-by normalized_margin --frac-noise 0.7 --min-examples-per-class 3"
    command = ["labels.npy", "pred_probs.npy", *options.split(), "--num-to-remove-per-class", numbers]
    assert run(["find", *command, "-o", "i.npy"]) == 0
    assert np.load("i.npy").tolist() == expected.indices.tolist()
    out = capsys.readouterr().out
    assert f"{expected.num_issues} label issues ({expected.num_issues / 400:.2%}), by both" in out
    assert "read in 3 passes" in out
    assert run(["plan", *command]) == 0
    assert re.search(r"bytes to read +28.8 kB in 3 reads", capsys.readouterr().out)


def test_the_rule_reaches_the_job(files, capsys):
    assert run(["find", "labels.npy", "pred_probs.npy", "--rule", "confident_joint", "--top", "0"]) == 0
    assert "read in 2 passes" in capsys.readouterr().out


@pytest.mark.parametrize("numbers", ["missing.txt", "4,zero,2", "4,-1,2", "labels.npy", ""])
def test_numbers_that_are_none_are_bad_usage(files, capsys, numbers):
    command = ["find", "labels.npy", "pred_probs.npy", "--filter-by", "both", "--num-to-remove-per-class", numbers]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert "Invalid value for '--num-to-remove-per-class'" in error
    assert error.count("\n") == 1


@pytest.mark.every_value
@pytest.mark.parametrize("extra", [[], ["--n-jobs", "2"], ["--n-jobs", "cores"], ["--batch-size", "auto"]])
@pytest.mark.filterwarnings("ignore:n_jobs=:labelsieve.LabelsieveWarning")
@pytest.mark.parametrize("ending", ["npy", "zarr"])
def test_every_way_of_running_gives_the_same_rows(files, ending, extra):
    expected = labelsieve.find_label_issues(*files).indices
    assert run(["find", f"labels.{ending}", f"pred_probs.{ending}", "--quiet", "-o", "i.npy", *extra]) == 0
    assert np.load("i.npy").tolist() == expected.tolist()


def test_quiet_prints_nothing(files, capfd):
    assert run(["find", "labels.npy", "pred_probs.npy", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["cat\ndog\nowl\n", json.dumps(["cat", "dog", "owl"])])
def test_class_names_come_beside_the_labels(files, capsys, tmp_path, text):
    (tmp_path / "names").write_text(text)
    assert run(["find", "labels.npy", "pred_probs.npy", "--class-names", "names", "--top", "1", "-o", "i.csv"]) == 0
    labels, probs = files
    worst = labelsieve.find_label_issues(labels, probs).indices[0]
    names = ["cat", "dog", "owl"]
    assert f"{labels[worst]} {names[labels[worst]]}" in capsys.readouterr().out
    line = (tmp_path / "i.csv").read_text().splitlines()[1].split(",")
    assert line[-2:] == [names[labels[worst]], names[probs[worst].argmax()]]


def test_absent_classes_are_counted(tmp_path, capsys):
    np.save(tmp_path / "y.npy", np.array([0, 1, 1, 0]))
    np.save(tmp_path / "p.npy", np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.6, 0.2, 0.2]]))
    assert run(["find", str(tmp_path / "y.npy"), str(tmp_path / "p.npy")]) == 0
    assert "confident thresholds 0.7000 to 0.7500, 1 class without rows" in capsys.readouterr().out


PLAN = """\
input          400 rows, 3 classes, float64
batches        10 of 40 rows
partitions     5, submitted 1 time
tasks          16
bytes to read  9.6 kB in 1 read
row summaries  7.2 kB, in memory
peak memory    {memory}, 1 thread; may take 400 MB (--max-memory)
results        scores 3.2 kB, mask 400 bytes, 34 bytes per issue; on top of the peak, 120 bytes per issue if the tasks \
do not write them
"""


def test_a_plan_says_what_a_run_would_take(files, capsys, monkeypatch):
    monkeypatch.setattr("labelsieve.sources.npy.NpySource.open", lambda *_: pytest.fail("something was read"))
    assert (
        run(["plan", "labels.npy", "pred_probs.npy", "--batch-size", "40", "--max-memory", "400MB", "--threads", "1"])
        == 0
    )
    with dask.config.set(num_workers=1):
        plan = labelsieve.plan_label_issues("labels.npy", "pred_probs.npy", batch_size=40)
    assert capsys.readouterr() == (PLAN.format(memory=size(plan.process_bytes)), "")


@pytest.mark.parametrize("where", [["-o", "i.zarr"], ["-o", "memory://bucket/i.zarr"]])
def test_a_plan_for_a_run_that_stores_what_it_makes(files, capsys, where, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert run(["plan", "labels.npy", "pred_probs.npy", *where]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["row summaries"].strip() == "7.2 kB, in a workdir"
    plan = labelsieve.plan_label_issues("labels.npy", "pred_probs.npy", output="i.zarr")
    assert lines["peak memory"].strip().startswith(f"{size(plan.process_bytes)}, {plan.n_threads} thread")
    assert lines["tasks"].strip() == f"{plan.n_tasks:,}"
    assert sorted(tmp_path.iterdir()) == before


def test_a_plan_for_a_table_is_one_in_memory(files, capsys):
    assert run(["plan", "labels.npy", "pred_probs.npy", "-o", "i.csv"]) == 0
    assert "7.2 kB, in memory" in capsys.readouterr().out


def test_names_and_ids_are_printed_as_text(files, capsys, tmp_path):
    (tmp_path / "wild").write_text('["a\\nb", "\\u001b[31mred", "c"]')
    (tmp_path / "ids.txt").write_text("\n".join(f"row {i}" for i in range(400)))
    what = ["labels.npy", "pred_probs.npy", "--class-names", "wild", "--ids", "ids.txt", "--top", "400"]
    assert run(["find", *what]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.split("\n\n", 1)[1].splitlines()
    assert lines[0].split() == ["row", "given", "suggested", "score", "p_given", "p_suggested", "id"]
    assert all(line.rstrip().endswith(f"row {line.split()[0]}") for line in lines[1:])
    assert any(" 0 a b " in line for line in lines[1:])


def test_a_plan_of_two_reads_and_of_chunks_that_are_decoded_again(files, capsys, monkeypatch):
    monkeypatch.setattr("labelsieve.job.inputs._BATCH_SHARE", 30 * 24 / 400e6)
    monkeypatch.setattr("labelsieve.job.inputs.PARTITION_BYTES", 30 * 24)
    monkeypatch.setattr("labelsieve.job.inputs.SCHEDULED_BYTES", 0)
    options = ["--max-memory", "400MB", "--threads", "1", "--adjust-pred-probs", "--method", "normalized_margin"]
    assert run(["plan", "labels.npy", "pred_probs.zarr", *options]) == 0
    out, err = capsys.readouterr()
    assert "57.6 kB in 2 reads, 3.00 times each stored row" in out.replace("\n", " ") or "times each stored row" in out
    assert err.startswith("labelsieve: warning: a stored chunk of 90 rows")


@pytest.mark.parametrize("command", ["find", "plan"])
def test_what_cannot_fit_is_refused_with_what_would(files, capsys, tmp_path, command):
    before = sorted(tmp_path.iterdir())
    assert run([command, "labels.npy", "pred_probs.npy", "--max-memory", "50MB", "--threads", "2"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(
        r"labelsieve: the process would take \d+ MB with 2 threads, but may take only 50 MB \(--max-memory\)\. "
        r"What would fit: a limit of \d+ MB",
        err,
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.every_value
@pytest.mark.parametrize("command", ["find", "plan"])
@pytest.mark.parametrize("bad", ["much", "0", "-3GB"])
def test_a_limit_that_is_none_is_refused(files, capsys, command, bad):
    assert run([command, "labels.npy", "pred_probs.npy", "--max-memory", bad]) == 2
    assert capsys.readouterr().err.startswith("labelsieve: --max-memory must be ")


def test_a_workdir_goes_on_from_the_command_line(files, capsys, tmp_path):
    command = ["find", "labels.npy", "pred_probs.npy", "--workdir", "work", "--top", "0"]
    assert run(command) == 0
    first = capsys.readouterr().out.splitlines()
    assert run(command) == 0
    again = capsys.readouterr().out.splitlines()
    assert first[:3] == again[:3]
    assert re.fullmatch(r"nothing read: all 400 rows were in the workdir, \d+\.\d\d s", again[3])
    assert run([*command, "--method", "normalized_margin"]) == 2
    err = capsys.readouterr().err
    assert "work belongs to another run: settings.method was self_confidence, is normalized_margin" in err
    assert "--fresh" in err
    assert run([*command, "--method", "normalized_margin", "--fresh"]) == 0
    assert "9.6 kB read in one pass" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("n_bytes", "n_reads", "resumed", "line"),
    [
        (8_000_000_000, 1, 0, "8 GB read in one pass, 2.00 s, 4 GB/s"),
        (8_000_000_000, 2, 100, "8 GB read in 2 passes, 100 rows were in the workdir, 2.00 s, 4 GB/s"),
        (0, 1, 300, "nothing read: all 300 rows were in the workdir, 2.00 s"),
    ],
)
def test_what_was_read_and_what_the_workdir_had(n_bytes, n_reads, resumed, line):
    issues = labelsieve.find_label_issues([0, 1], [[0.9, 0.1], [0.1, 0.9]], progress=False)
    facts = replace(issues.facts, bytes_read=n_bytes, n_reads=n_reads, rows_resumed=resumed, seconds=2.0)
    assert summary_text(replace(issues, facts=facts)).splitlines()[3] == line


def test_a_folder_of_others_is_no_workdir(files, capsys, tmp_path):
    assert run(["find", "labels.npy", "pred_probs.npy", "--workdir", ".", "--fresh"]) == 2
    assert f"the workdir {tmp_path} is not empty and is not a Labelsieve workdir" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["labels.npy", "pred_probs.npy", "labels.zarr", "pred_probs.zarr"]
    )


def test_a_zarr_output_is_written_by_the_run(files, capsys):
    issues = labelsieve.find_label_issues(*files)
    assert run(["find", "labels.npy", "pred_probs.npy", "-o", "i.zarr", "--top", "1"]) == 0
    group = zarr.open_group("i.zarr", mode="r")
    assert group["issues"][:].tolist() == issues.indices.tolist()
    assert group["mask"][:].tolist() == issues.mask().tolist()
    assert capsys.readouterr().out.endswith("written to i.zarr\n")


USAGE_ERRORS = [
    (["find", "labels.npy"], "Missing argument 'PRED_PROBS'"),
    (["find", "labels.npy", "pred_probs.npy", "--batch-size", "0"], "'0' is neither 'auto' nor a whole number"),
    (["find", "labels.npy", "pred_probs.npy", "--n-jobs", "-1"], "neither 'cores' nor a whole number"),
    (["find", "labels.npy", "pred_probs.npy", "--method", "magic"], "'magic' is not one of 'self_confidence'"),
    (["find", "labels.npy", "pred_probs.npy", "--top", "-1"], "-1 is not in the range"),
    (["find", "none.npy", "pred_probs.npy"], "/none.npy"),
    (["find", "pred_probs.npy", "pred_probs.npy"], "labels must have one axis (N,), not shape (400, 3)"),
    (["find", "labels.npy", "labels.npy"], "pred_probs must have two axes (N, K), not shape (400,)"),
    (["find", "labels.npy", "pred_probs.npy", "-o", "i.txt"], "i.txt must end in one of .npy, .csv, .parquet, .zarr"),
    (["find", "labels.npy", "pred_probs.npy", "-o", "no/i.npy"], "there is no folder"),
    (["find", "labels.npy", "pred_probs.npy", "-o", "pred_probs.zarr"], "is not a result of Labelsieve"),
    (["find", "labels.npy", "pred_probs.npy", "--class-names", "none"], "class names: none is not readable"),
    (["find", "labels.npy", "pred_probs.npy", "--class-names", "two"], "2 class_names, pred_probs has 3 classes"),
    (
        ["find", "labels.npy", "p.npy", "--adjust-pred-probs", "--method", "confidence_weighted_entropy"],
        "--adjust-pred-probs is not defined for confidence_weighted_entropy",
    ),
    (["sift"], "No such command 'sift'"),
    # Never over an input.
    (["find", "labels.npy", "result.zarr/scores.npy", "-o", "result.zarr"], "result.zarr holds the input"),
    (["find", "labels.npy", "pred_probs.npy", "-o", "pred_probs.npy"], "pred_probs.npy is an input or lies in one"),
    (["find", "labels.npy", "pred_probs.npy", "-o", "./labels.npy"], "labels.npy is an input or lies in one"),
    (["find", "labels.npy", "pred_probs.zarr", "-o", "pred_probs.zarr/i.csv"], "is an input or lies in one"),
    (["find", "labels.npy", "pred_probs.npy", "--class-names", "two.csv", "-o", "two.csv"], "two.csv is an input"),
    (["find", "labels.npy", "pred_probs.npy", "--class-names", "nested"], "must list names, as strings"),
]


@pytest.mark.parametrize(("args", "message"), USAGE_ERRORS)
def test_bad_usage_exits_2_with_one_line(files, capsys, tmp_path, args, message):
    (tmp_path / "two").write_text("a\nb\n\n")
    (tmp_path / "nested").write_text('["a", ["b"], "c"]')
    before = sorted(tmp_path.iterdir())
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("labelsieve: ")
    assert sorted(tmp_path.iterdir()) == before


def test_bad_data_exits_2_and_writes_nothing(files, capsys, tmp_path):
    _, probs = files
    probs[7, 1] = np.nan
    probs[100:120] = 0
    np.save("pred_probs.npy", probs)
    assert run(["find", "labels.npy", "pred_probs.npy", "-o", "i.npy"]) == 2
    err = capsys.readouterr().err
    assert "1 NaN probability in row 7; 20 rows of pred_probs that are all zeros, rows 100..119: missing chunk?" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "i.npy").exists()


def test_zero_rows_can_be_allowed(files):
    _, probs = files
    probs[100:120] = 0
    np.save("pred_probs.npy", probs)
    assert run(["find", "labels.npy", "pred_probs.npy", "--quiet", "--allow-zero-rows"]) == 0


def test_warnings_are_one_line_on_stderr(files, capsys):
    _, probs = files
    probs[3] = 0.98 / probs.shape[1]
    np.save("pred_probs.npy", probs)
    assert run(["find", "labels.npy", "pred_probs.npy", "--quiet"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("labelsieve: warning: 1 row of pred_probs whose largest value is below 1/K")
    assert err.count("\n") == 1


def test_a_failure_exits_1_and_names_the_file(files, capsys, tmp_path):
    chunk = tmp_path / "pred_probs.zarr" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    assert run(["find", "labels.zarr", "pred_probs.zarr", "--quiet", "-o", "i.npy"]) == 1
    *tries, err = capsys.readouterr().err.splitlines()
    assert len(tries) == 2
    assert all(" WARNING labelsieve: tried again: " in line for line in tries)
    assert err.startswith("labelsieve: failed: UnreadableDataError: ")
    assert str(chunk.relative_to(tmp_path)) in err
    assert not (tmp_path / "i.npy").exists()


def test_without_arguments_it_shows_help(capsys):
    assert run([]) == 2
    assert "demo" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["find"], ["plan"], ["report"], ["demo"]])
def test_help_lists_every_exit_code(capsys, command):
    assert run([*command, "--help"]) == 0
    listed = capsys.readouterr().out.partition("Exit codes:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == ["0", "1", "2", "75", "130", "143"]


HEADINGS = {
    "Input": "data labels pred-probs summaries n-classes ignore-label from-logits dtype task offsets "
    "sentence-ids class-names ids "
    "allow-zero-rows allow-unnormalized-rows",
    "Method": "method adjust-pred-probs estimation-method filter-by rank-by rule frac-noise num-to-remove-per-class "
    "min-examples-per-class",
    "Memory and workdir": "batch-size max-memory workdir fresh wait",
    "Output": "output top report json quiet progress log-level images texts rows",
    "Cluster and processes": "scheduler workers threads worker-memory retries n-jobs",
    "Other": "help",
}


@pytest.mark.parametrize("command", ["find", "plan"])
def test_help_lists_the_options_under_headings(capsys, command):
    assert run([command, "--help"]) == 0
    listed, heading = {}, None
    for line in capsys.readouterr().out.splitlines():
        if re.match(r"\w.*:$", line):
            heading = line[:-1]
        for option in re.findall(r"^  (?:-\w, )?--([\w-]+)", line):
            listed.setdefault(heading, []).append(option)
    assert {name: sorted(one) for name, one in listed.items()} == {
        name: sorted(one.split()) for name, one in HEADINGS.items()
    }


def test_help_says_which_filter_when(capsys):
    assert run(["find", "--help"]) == 0
    guide = capsys.readouterr().out.partition("Which filter")[2].partition("Exit codes")[0]
    assert set(re.findall(r"\w+_\w+|\bboth\b", guide)) == set(FILTER_NAMES)
    words = " ".join(guide.split())
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| .* \| (?:`\"(\w+)\"`|none)[^|]*\| ([\d.]+) \| ([\d.]+) \| (\d) \|$", readme, re.MULTILINE)
    assert len(lines) == 4
    for name, precision, recall, reads in lines:
        passes = ["One pass", "Two passes", "Three passes"][int(reads) - 1]
        assert re.search(rf"{name or 'none given'} [^:]*: {precision}, {recall}\. {passes}\.", words), name


def test_a_workdir_in_use_exits_75_after_it_was_waited_for(files, capfd, tmp_path):
    command = ["find", "labels.npy", "pred_probs.npy", "--workdir", "work", "--quiet"]
    with own_folder(LocalFolder(tmp_path / "work"), "mine"):
        for wait in ("0", "0.05"):
            assert run([*command, "--wait", wait]) == 75
            *logged, error = capfd.readouterr().err.splitlines()
            who = f"the workdir {tmp_path}/work is in use by process {os.getpid()} on {socket.gethostname()}"
            assert error == f"labelsieve: {who}"
            dated = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING labelsieve: "
            assert len(logged) == (wait != "0")
            assert all(re.fullmatch(f"{dated}{re.escape(who)}; waiting up to 0.05 s for it", line) for line in logged)
        assert run(["plan", *command[1:-1]]) == 0, "a plan owns nothing"
    assert run(command) == 0


@pytest.mark.parametrize("wait", ["-1", "soon", "nan"])
def test_a_wait_that_is_not_a_time_exits_2(files, capsys, wait):
    assert run(["find", "labels.npy", "pred_probs.npy", "--wait", wait]) == 2
    assert "wait" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["--help"], ["find", "--help"], ["plan", "--help"], ["demo", "--help"], ["--version"]]
)
def test_help_exits_0(capsys, command):
    assert run(command) == 0
    assert "labelsieve" in capsys.readouterr().out


def test_a_missing_package_prints_the_pip_line(files, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert run(["find", "labels.npy", "pred_probs.npy", "-o", "i.parquet"]) == 2
    assert capsys.readouterr().err.endswith(f"{install_line('parquet')}\n")


@pytest.mark.slow
def test_the_installed_command_and_the_module_run(files, tmp_path):
    for command in (
        [str(Path(sys.executable).parent / "labelsieve")],
        [sys.executable, "-m", "labelsieve"],
    ):
        done = subprocess.run(
            [*command, "find", "labels.npy", "pred_probs.npy"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("400 rows, 3 classes\n")
        assert "Traceback" not in done.stderr


INTERRUPTED = """
import signal, sys
import labelsieve.__main__, labelsieve.results.store as export

def slow(result, path):
    path.write_bytes(b"half of a result")
    print("writing", flush=True)
    signal.pause()

export.WRITERS[".npy"] = slow
labelsieve.__main__.main(["find", "labels.npy", "pred_probs.npy", "--quiet", "-o", "i.npy"])
"""


@pytest.mark.slow
def test_ctrl_c_exits_130_and_removes_temporary_files(files, tmp_path):
    before = sorted(tmp_path.iterdir())
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == len(before) + 1
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip() == "labelsieve: interrupted"
    assert sorted(tmp_path.iterdir()) == before


STOPPED = """
import signal, sys, time
import dask
import labelsieve.__main__, labelsieve.job.table, labelsieve.job.scan

inner, n_done = labelsieve.job.{step}, 0
came, set_handler = [], signal.signal  # a list, since a signal may come where an event holds its lock

def noted(number, handler):
    def note(*args):
        came.append(args)
        handler(*args)

    return set_handler(number, note if callable(handler) else handler)

signal.signal = noted

def slow(*args, **kwargs):
    global n_done
    if n_done == {n_done}:
        print("working", flush=True)
        while not came:
            time.sleep(0.01)
    n_done += 1
    return inner(*args, **kwargs)

labelsieve.job.{step} = slow
dask.config.set(num_workers=1)  # four partitions of a hundred rows
options = "--workdir work -o i.zarr --batch-size 20 --quiet".split()
labelsieve.__main__.main(["find", "labels.npy", "pred_probs.npy", *options])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("step", "n_done", "left"), [("scan.scan", 2, 200), ("table.scores_inside", 0, 0)])
@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_run_that_is_stopped_goes_on_and_leaves_no_output(files, tmp_path, number, code, line, step, n_done, left):
    before = {path.name for path in tmp_path.iterdir()}
    script = STOPPED.format(step=step, n_done=n_done)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, err.strip()) == (code, f"labelsieve: {line}")
    assert {path.name for path in tmp_path.iterdir()} == before | {"work"}
    found = labelsieve.find_label_issues(
        "labels.npy", "pred_probs.npy", workdir="work", output="i.zarr", batch_size=20, progress=False
    )
    assert found.facts.rows_read in (left, max(0, left - 100)), "what was in work when the signal came may be committed"
    assert found.indices.tolist() == labelsieve.find_label_issues(*files).indices.tolist()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(files, tmp_path):
    script = STOPPED.format(step="scan.scan", n_done=2)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout.readline() == "working\n"
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "i.zarr").exists()
    choices = {"workdir": "work", "output": "i.zarr", "batch_size": 20, "progress": False}
    found = labelsieve.find_label_issues("labels.npy", "pred_probs.npy", **choices)
    assert found.facts.rows_read == 200
    assert found.indices.tolist() == labelsieve.find_label_issues(*files).indices.tolist()
    assert sorted(path.name for path in tmp_path.iterdir() if "npy" not in path.name) == [
        "i.zarr",
        "labels.zarr",
        "pred_probs.zarr",
        "work",
    ]


@pytest.mark.slow
def test_the_demo_finds_most_flipped_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["demo"]) == 0
    out = capsys.readouterr().out
    flipped = np.load("labelsieve-demo/flipped.npy")
    issues = labelsieve.find_label_issues("labelsieve-demo/labels.zarr", "labelsieve-demo/pred_probs.zarr")
    hits = len(np.intersect1d(issues.indices, flipped))
    assert len(flipped) == 180
    assert f"precision {hits / issues.num_issues:.1%}, recall {hits / 180:.1%}" in out
    assert hits / issues.num_issues > 0.8
    assert hits / 180 > 0.7
    assert zarr.open_array("labelsieve-demo/pred_probs.zarr", mode="r").nchunks == 6
    # The commands that it tells the user to try work as printed, and a second demo replaces the first.
    commands = [line.split()[1:] for line in out.splitlines() if line.startswith("  labelsieve ")]
    assert [command[0] for command in commands] == ["find", "review", "demo"]
    assert [run(command) for command in commands] == [0, 0, 0]
    assert np.array_equal(labelsieve.load("labelsieve-demo/issues.zarr").indices, issues.indices)
    assert "Review of labels" in Path("review.html").read_text(encoding="utf-8")


def test_the_demo_without_scikit_learn_prints_the_pip_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run(["demo"]) == 2
    assert capsys.readouterr().err == (f"labelsieve: The demo needs an optional package: {install_line('demo')}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_replaces_nothing_but_an_earlier_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.zarr").write_text("precious")
    (tmp_path / "mine" / "about-this-demo.txt").write_text("my own notes")
    assert run(["demo", "--folder", "mine"]) == 2
    assert "mine is not empty and is not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "mine" / "labels.zarr").read_text() == "precious"
