"""The time that ``plan --measure`` predicts beside the time of the run, in turn, in fresh processes.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_forecast.py -s --real-size`` makes
gigabytes and prints the table. With the environment variable ``LABELSIEVE_BENCHMARK_FOLDER`` the inputs are made there
once and stay, and ``LABELSIEVE_BENCHMARK_RUNS`` is the number of pairs. No wall time is asserted: a machine that does
something else takes any time for either.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import draws

INPUTS = {
    "2M x 1000 npy": (2_000_000, 1000, "npy"),
    "10M x 100 npy": (10_000_000, 100, "npy"),
    "10M x 100 zarr": (10_000_000, 100, "zarr"),
    "50M x 10 npy": (50_000_000, 10, "npy"),
    "2M x 1000 zarr": (2_000_000, 1000, "zarr"),
}
PARTS = ("startup_s", "store_s", "decoding_s", "kernels_s", "summaries_s")


def answer(*args):
    """Run a command in a fresh process, and return what it answers."""
    command = [sys.executable, "-m", "labelsieve", *map(str, args), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", INPUTS)
def test_the_time_of_a_run_is_predicted(name, tmp_path, request):
    real = request.config.getoption("--real-size")
    n_rows, n_classes, kind = INPUTS[name]
    n_rows = n_rows if real else 20_000
    folder = tmp_path
    if real and os.environ.get("LABELSIEVE_BENCHMARK_FOLDER"):
        folder = Path(os.environ["LABELSIEVE_BENCHMARK_FOLDER"]) / f"{n_rows}x{n_classes}"
        folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{part}.{kind}" for part in ("labels", "pred_probs")]
    if not all(file.exists() for file in files):
        draws.make_input(folder, n_rows, n_classes, as_zarr=kind == "zarr")
    answer("find", *files, "--quiet")  # so that all runs find the files as this one has left them
    forecasts, seconds = [], []
    for _ in range(int(os.environ.get("LABELSIEVE_BENCHMARK_RUNS", "5")) if real else 1):
        forecasts.append(answer("plan", *files, "--measure")["forecast"])
        found = answer("find", *files, "--quiet")
        seconds.append(found["total_s"])
    predicted, taken = (statistics.median(some) for some in ([one["total_s"] for one in forecasts], seconds))
    parts = ", ".join(f"{part} {statistics.median(one[part] for one in forecasts):.2f}" for part in PARTS)
    print(
        f"\n{name}: predicted {predicted:.2f} s, taken {taken:.2f} s, {predicted / taken - 1:+.0%}; "
        f"limited by {forecasts[-1]['limit']}; {parts}"
    )
    assert found["n_rows"] == n_rows
    assert 0 < forecasts[-1]["measured_bytes"] <= 4 * n_rows * n_classes
    assert forecasts[-1]["store_bytes"] > 0
