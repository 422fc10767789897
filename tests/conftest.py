"""Hypothesis profiles and shared fixtures. Other helpers are in `support` and `oracles`."""

import gc
import os
import signal
import sys

import numpy as np
import pytest

# Where no bytecode is kept, as in many containers, each process that a test starts would compile the whole package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Dask's profiler can deadlock a process on Python 3.11: https://github.com/python/cpython/issues/106883. This is set
# before Dask is imported, here and in all processes that a test starts.
if sys.version_info < (3, 12):
    os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"


def pytest_configure():
    """Choose a profile of hypothesis, and take Ctrl-C.

    A shell's background job is started to ignore it, and so are all processes that it starts.
    """
    from hypothesis import HealthCheck, settings

    # Derandomized: a run that was green stays green, and a red one is red for everybody.
    common = {"derandomize": True, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("fast", max_examples=16, **common)
    settings.register_profile("thorough", max_examples=400, **common)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Deselect what the marks `every_value` and `every_pair` leave out, of the tests that other options leave in."""
    from covering import left_out

    places = left_out(items)
    config.hook.pytest_deselected(items=[items[at] for at in sorted(places)])
    items[:] = [item for at, item in enumerate(items) if at not in places]


def pytest_collection_finish():
    """Let the garbage collector pass over modules and tests: a quarter of a second for each time that it runs."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--benchmarks", action="store_true", help="run the benchmarks too, on tiny inputs")
    parser.addoption("--real-size", action="store_true", help="run the benchmarks too, on inputs of gigabytes")


def pytest_ignore_collect(collection_path, config):
    """Leave the benchmarks out unless an option asks for them."""
    wanted = config.getoption("--benchmarks") or config.getoption("--real-size")
    return True if collection_path.name == "benchmarks" and not wanted else None


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch):
    """Plan as in a process that holds nothing yet: this one holds what the tests before have left."""
    monkeypatch.setattr("labelsieve.execution.executor.own_bytes", lambda: 0)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch):
    """Try again at once what failed: many tests are of errors that stay. None uses up the next one's messages."""
    monkeypatch.setattr("labelsieve.storage.remote.TASK_PAUSE_S", 0)
    monkeypatch.setattr("labelsieve.storage.remote.FIRST_PAUSE_S", 0)
    monkeypatch.setattr("labelsieve.storage.remote.RETRY_LOG._allowed", 20.0)
    monkeypatch.setattr("labelsieve.storage.remote.RETRY_LOG._n_hidden", 0)


@pytest.fixture(autouse=True)
def _without_haste(monkeypatch, request):
    """Do nothing else because this machine stood still for a while: tests count requests, tasks and reports."""
    if request.path.parent.name == "benchmarks":  # these measure it
        return
    for name in ("CONNECT_S", "SILENCE_S", "PROGRESS_S"):
        monkeypatch.setattr(f"labelsieve.storage.remote.{name}", 200.0)
    monkeypatch.setattr("labelsieve.storage.remote.HEDGES_AT_ONCE", 0)
    monkeypatch.setattr("labelsieve.execution.progress._Events.period", 3600.0)


@pytest.fixture
def two_threads():
    """Take as much memory wherever the tests run: each thread has batches of its own."""
    import dask

    with dask.config.set(num_workers=2):
        yield


@pytest.fixture(scope="session")
def real_datasets():
    """Labels, a tenth of them flipped, and out-of-fold probabilities of scikit-learn's own datasets, by name."""
    from sklearn.datasets import load_breast_cancer, load_digits, load_wine
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import cross_val_predict

    found = {}
    for name, load in {"digits": load_digits, "wine": load_wine, "breast_cancer": load_breast_cancer}.items():
        features, labels = load(return_X_y=True)
        rng = np.random.default_rng(5)
        flipped = rng.choice(len(labels), len(labels) // 10, replace=False)
        n_classes = labels.max() + 1
        labels = labels.copy()
        labels[flipped] = (labels[flipped] + rng.integers(1, n_classes, len(flipped))) % n_classes
        # Shrinkage copes with the pixels of digits that are always zero.
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        found[name] = labels, cross_val_predict(model, features, labels, cv=3, method="predict_proba")
    return found
