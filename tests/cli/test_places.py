"""Paths that are none, and outputs that cannot be written: refused before the run where that can be known."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import draws
import labelsieve
from labelsieve import InputTypeError, InvalidInputError, UnwritableError, WorkdirError
from labelsieve.cli.app import run

BAD = {"": "the path is empty", "a\0b": "has a null character in it"}


@pytest.fixture(scope="module")
def data():
    return draws.draw(300, 3, seed=4, noise=0.3)


@pytest.fixture(scope="module")
def found(data):
    return labelsieve.find_label_issues(*data, progress=False)


@pytest.fixture
def files(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", data[0])
    np.save("pred_probs.npy", data[1])
    return tmp_path


def with_ending(place, ending):
    return place + ending if place else place


# Paths that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", BAD)
def test_an_argument_that_is_not_a_path_is_refused_by_name(data, found, files, place):
    labels, probs = data
    before = sorted(files.iterdir())
    names = ["a", "b", "c"]
    tries = {
        "labels": lambda: labelsieve.find_label_issues(place, probs),
        "pred_probs": lambda: labelsieve.find_label_issues(labels, place),
        "workdir": lambda: labelsieve.find_label_issues(labels, probs, workdir=place),
        "ids": lambda: labelsieve.find_label_issues(labels, probs, ids=place, class_names=names),
        "output": lambda: labelsieve.find_label_issues(labels, probs, output=with_ending(place, ".zarr")),
        "path": lambda: labelsieve.load(place),
        "path ": lambda: found.save(with_ending(place, ".zarr")),
        "path  ": lambda: found.to_csv(with_ending(place, ".csv")),
        "path   ": lambda: found.to_parquet(with_ending(place, ".parquet")),
        "path    ": lambda: found.report(with_ending(place, ".html")),
        "images": lambda: found.report("r.html", images=place),
        "texts": lambda: found.report("r.html", texts=place),
        "labels ": lambda: labelsieve.find_label_issues_batched(labels_file=place, pred_probs_file="pred_probs.npy"),
        "labels  ": lambda: labelsieve.plan_label_issues(place, "pred_probs.npy"),
    }
    for name, attempt in tries.items():
        with pytest.raises(InvalidInputError, match=f"{name.strip()}: the path .*") as error:
            attempt()
        assert BAD[place] in str(error.value), name
    assert sorted(files.iterdir()) == before


def test_what_is_not_text_is_not_a_path(found):
    with pytest.raises(InputTypeError, match=r"path must be a path or URL as text, not b'r\.zarr'"):
        labelsieve.load(b"r.zarr")
    with pytest.raises(InputTypeError, match="path must be a path or URL as text, not 7"):
        found.to_csv(7)


def test_a_secret_in_a_bad_url_is_not_shown(data):
    with pytest.raises(InvalidInputError, match="null character") as error:
        labelsieve.find_label_issues("https://host/a\0b.npy?sig=secret", data[1])
    assert "secret" not in str(error.value)


@pytest.mark.every_value
@pytest.mark.parametrize("place", BAD)
@pytest.mark.parametrize(
    "option",
    [
        "labels",
        "--workdir",
        "--ids",
        "--class-names",
        "--report",
        "--images",
        "--texts",
        "-o",
        "demo",
        "report",
        "plan",
    ],
)
def test_the_command_line_refuses_them_in_one_line(files, capsys, option, place):
    before = sorted(files.iterdir())
    command = ["find", "labels.npy", "pred_probs.npy", option, place]
    if option == "labels":
        command = ["find", place, "pred_probs.npy", "-o", "i.csv", "--report", "r.html"]
    elif option == "plan":
        command = ["plan", place, "pred_probs.npy", "-o", "i.csv"]
    elif option == "demo":
        command = ["demo", "--folder", place]
    elif option == "report":
        command = ["report", "r.zarr", "-o", place]
    elif option in ("--images", "--texts"):
        command += ["--report", "r.html"]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert BAD[place] in error
    assert sorted(files.iterdir()) == before


# Outputs that cannot be written ----------------------------------------------------------------------------------


def unwritable(folder):
    """Return places for which nothing can be written though their folder is there, also by root."""
    places = {"name": folder / ("x" * 251)}
    if Path("/proc/self").is_dir():
        places["system"] = Path("/proc/labels")
    if os.geteuid():
        (folder / "closed").mkdir(mode=0o555)
        places["closed"] = folder / "closed" / "i"
    return places


@pytest.mark.parametrize("cause", ["name", "system", "closed"])
def test_an_output_is_tried_before_the_run(data, found, files, monkeypatch, capsys, cause):
    places = unwritable(files)
    if cause not in places:
        pytest.skip("not on this system, or not for this user")
    place = places[cause]
    before = sorted(files.iterdir())
    monkeypatch.setattr("labelsieve.job.job.open_pair", lambda *_: pytest.fail("the inputs were opened"))
    message = f"{place}[.a-z]* cannot be written: "
    with pytest.raises(UnwritableError, match=message):
        labelsieve.find_label_issues(*data, output=f"{place}.zarr")
    for ending in ("npy", "csv", "parquet", "zarr"):
        assert run(["find", "labels.npy", "pred_probs.npy", "-o", f"{place}.{ending}"]) == 1
        error = capsys.readouterr().err
        assert f"{place}.{ending} cannot be written: " in error
        assert error.count("\n") == 1
        assert "workdir" not in error
    assert run(["find", "labels.npy", "pred_probs.npy", "--report", f"{place}.html"]) == 1
    assert f"{place}.html cannot be written: " in capsys.readouterr().err
    attempts = [
        lambda: found.to_csv(f"{place}.csv"),
        lambda: found.to_parquet(f"{place}.parquet"),
        lambda: found.save(f"{place}.zarr"),
        lambda: found.report(f"{place}.html"),
    ]
    for attempt in attempts:
        with pytest.raises(UnwritableError, match=message):
            attempt()
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_is_none_is_named(data, found, files, monkeypatch, folder):
    (files / "file").write_text("x")
    monkeypatch.setattr("labelsieve.job.job.open_pair", lambda *_: pytest.fail("the inputs were opened"))
    what = "there is no folder .*missing" if folder == "missing" else ".*file is not a folder"
    attempts = [
        lambda: labelsieve.find_label_issues(*data, output=f"{folder}/i.zarr"),
        lambda: found.to_csv(f"{folder}/i.csv"),
        lambda: found.to_parquet(f"{folder}/i.parquet"),
        lambda: found.save(f"{folder}/i.zarr"),
        lambda: found.report(f"{folder}/i.html"),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInputError, match=rf"{folder}/i\.[a-z]+ cannot be written: {what}"):
            attempt()


def test_a_workdir_that_cannot_be_made_is_named_before_the_run(data, files, monkeypatch):
    (files / "file").write_text("x")
    monkeypatch.setattr("labelsieve.job.job._Run.find", lambda *_: pytest.fail("the run has begun"))
    with pytest.raises(WorkdirError, match=r".*file/w is a file"):
        labelsieve.find_label_issues(*data, workdir="file/w")


# A full disk, made of the most bytes that a process may write to a file.
LIMITED = """
import resource, sys
import labelsieve
from labelsieve.cli.app import run
command, n_bytes = sys.argv[2:], int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
sys.exit(run(command))
"""


def run_limited(n_bytes, *command):
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(n_bytes), *command], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [100, 5000])
@pytest.mark.parametrize("output", ["i.csv", "i.npy", "i.parquet", "i.zarr", "r.html"])
def test_a_disk_that_is_full_is_named_with_the_path(tmp_path, monkeypatch, output, n_bytes):
    monkeypatch.chdir(tmp_path)
    labels, probs = draws.draw(6000, 3, seed=4, noise=0.3)
    np.save("labels.npy", labels)
    np.save("pred_probs.npy", probs)
    before = sorted(tmp_path.iterdir())
    option = "--report" if output == "r.html" else "-o"
    done = run_limited(n_bytes, "find", "labels.npy", "pred_probs.npy", "--top", "0", option, output)
    assert done.returncode == 1
    assert done.stderr.startswith("labelsieve: failed: UnwritableError: ")
    assert done.stderr.count("\n") == 1
    assert f"{output} cannot be written: " in done.stderr
    assert "File too large" in done.stderr
    assert "workdir" not in done.stderr
    # Where not even some kilobytes fit, it is found before the run; what tasks write ends the run before its summary.
    assert done.stdout.startswith("6,000 rows") is (n_bytes == 5000 and output != "i.zarr")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("workdir", [None, "w"])
def test_only_with_a_workdir_it_is_said_that_a_new_run_goes_on(data, files, monkeypatch, workdir):
    class Full:
        def __setitem__(self, rows, values):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("labelsieve.results.store.open_for_writing", lambda *_: Full())
        with pytest.raises(UnwritableError) as error:
            labelsieve.find_label_issues(*data, output="i.zarr", workdir=workdir)
    place = str(files / "i.zarr")
    assert f"{place} cannot be written: No space left on device" in str(error.value)
    kept = f"what is finished stays in the workdir {files / 'w'}, and a new run uses it"
    assert str(error.value).endswith(f"; {kept}") is (workdir is not None)
    assert "finished" not in str(error.value).removesuffix(kept)
    assert not Path(place).exists()
    again = labelsieve.find_label_issues(*data, output="i.zarr", workdir=workdir)
    assert again.facts.rows_resumed == (0 if workdir is None else 300)
