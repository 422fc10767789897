"""The command `labelsieve doctor`, and what `find` says of the same clusters: real schedulers, workers and servers."""

import json
import os
import re
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, Future, LocalCluster

import labelsieve
import labelsieve.cli
import s3
from draws import draw
from labelsieve.cli.app import run
from labelsieve.execution import local_cluster, process_facts
from labelsieve.pipeline import diagnosis, doctor
from labelsieve.storage.folders import LocalFolder
from labelsieve.storage.lock import own_folder
from processes import Processes

LABELS, PROBS = draw(4000, 5, seed=3, dtype=np.float32)
FILES = ["labels.npy", "pred_probs.npy"]
# What makes a worker differ from the others, as its first lines.
FAKES = {
    "good": "",
    "other labelsieve": "import labelsieve; labelsieve.__version__ = '0.0.9'",
    "other numpy": "import numpy; numpy.__version__ = '2.0.99'",
    "other pyarrow": """
        from importlib import metadata
        version = metadata.version
        metadata.version = lambda name: "1.2.3" if name == "pyarrow" else version(name)
        """,
    "fast clock": "import time; now = time.time; time.time = lambda: now() + 3600",
    "few files": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))",
    "much blas": """
        import threadpoolctl
        threadpoolctl.threadpool_info = lambda: [{"user_api": "blas", "num_threads": 99}]
        """,
    "slow": """
        import time
        from labelsieve.sources import npy
        read, now, n_reads = npy._NpyRows.read, time.perf_counter, []
        time.perf_counter = lambda: now() + 100 * len(n_reads)
        npy._NpyRows.read = lambda *arguments: n_reads.append(1) or read(*arguments)
        """,
    "no labelsieve": """
        import sys
        from importlib import metadata
        version = metadata.version
        def without_ours(name):
            if name == "labelsieve":
                raise metadata.PackageNotFoundError(name)
            return version(name)
        metadata.version = without_ours
        sys.modules["labelsieve"] = None
        """,
    "dies": """
        import os
        from labelsieve.execution import local_cluster, process_facts
        process_facts.process_facts = lambda: os._exit(137)
        """,
    "hangs": """
        import time
        from labelsieve.execution import local_cluster, process_facts
        process_facts.process_facts = lambda: time.sleep(1000)
        """,
    "no s3fs": """
        import sys, time
        now = time.time
        time.time = lambda: now() - 3600
        sys.modules["s3fs"] = None
        """,
}


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    return tmp_path


def write_files(folder):
    np.save(folder / "labels.npy", LABELS)
    np.save(folder / "pred_probs.npy", PROBS)


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def answer(capfd):
    """Return a function that runs the command, and gives its exit code and its object."""

    def answer(*args):
        code = run(["doctor", *map(str, args), "--json"])
        found = json.loads(capfd.readouterr().out)
        assert found["exit_code"] == code == (1 if found["num_problems"] else 0)
        statuses = [finding["status"] for finding in found["findings"]]
        assert (statuses.count("problem"), statuses.count("warning")) == (found["num_problems"], found["num_warnings"])
        return code, found

    return answer


def findings(found, status=None, check=None, subject=None):
    """Return messages and advice of the findings with a status, a check and a subject."""
    wanted = {"status": status, "check": check, "subject": subject}
    return [
        f"{finding['message']} -> {finding['advice']}"
        for finding in found["findings"]
        if all(value is None or finding[key] == value for key, value in wanted.items())
    ]


def faked(processes, kind):
    """Return an environment of a worker of some kind."""
    site = processes.folder / "sites" / kind.replace(" ", "-")
    site.mkdir(parents=True, exist_ok=True)
    lines = FAKES[kind].splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    (site / "sitecustomize.py").write_text("\n".join(line[indent:] for line in lines))
    paths = [str(site), processes.environment["PYTHONPATH"]]
    return processes.environment | {"PYTHONPATH": os.pathsep.join(paths)}


def addresses(address, kinds, processes):
    """Return the address of the worker of each kind, by its process."""
    with Client(address, set_as_default=False) as client:
        by_pid = {pid: worker for worker, pid in client.run(os.getpid).items()}
    return {kind: by_pid[process.pid] for kind, process in zip(kinds, processes, strict=True)}


# This machine ---------------------------------------------------------------------------------------------------------


def test_alone_it_checks_this_machine(capsys):
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(("ok       limits     client: ", "warning  limits     client: "))
    assert re.fullmatch(r"0 problems, \d warnings?", lines[-1])
    assert "numpy" not in "".join(lines)
    assert run(["doctor", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^numpy +{re.escape(np.__version__)}$", out, re.MULTILINE)
    assert re.search(rf"^client +{re.escape(socket.gethostname())} ", out, re.MULTILINE)


def test_inputs_are_opened_and_read_here_without_a_cluster(answer):
    code, found = answer(*FILES, "--workdir", "work", "-o", "issues.zarr")
    assert (code, findings(found, "problem")) == (0, [])
    assert findings(found, "ok", "inputs") == ["4,000 rows, 5 classes, float32; labels int64 -> "]
    [plan] = findings(found, "ok", "plan")
    assert plan.startswith("80 kB to read")
    assert findings(found, "ok", "workdir") == [f"{Path('work').resolve()} can be written -> "]
    assert findings(found, "ok", "output") == [f"{Path('issues.zarr').resolve()} can be written -> "]
    [process] = found["processes"]
    assert process["read_bytes"] == PROBS.nbytes
    assert process["read_bytes_per_s"] > 0
    assert names_in(".") == FILES, "nothing is left behind"


def test_every_key_is_documented_and_no_other(answer):
    def keys_of(heading):
        table = labelsieve.cli.__doc__.partition(f"| {heading} | |\n")[2].partition("\n\n")[0]
        cells = [line.split("|")[1] for line in table.splitlines()[1:]]
        return sorted(key for cell in cells for key in re.findall(r"``(\w+)``", cell))

    _, found = answer(*FILES)
    assert keys_of("Key of ``doctor``") == sorted(found)
    assert {tuple(sorted(finding)) for finding in found["findings"]} == {tuple(keys_of("Key of a finding"))}
    assert {tuple(sorted(process)) for process in found["processes"]} == {tuple(keys_of("Key of a process"))}


def test_labels_may_be_names(answer):
    np.save("labels.npy", LABELS.astype("U3"))
    code, found = answer(*FILES)
    assert code == 0
    assert any("labels <U3" in finding["message"] for finding in found["findings"])


@pytest.mark.parametrize(
    ("labels", "probs", "status", "message"),
    [
        (LABELS[:-1], PROBS, "problem", "3,999 labels, 4,000 rows of pred_probs"),
        (LABELS, PROBS[:, 0], "problem", "pred_probs must have two axes"),
        (LABELS.astype(float), PROBS, "problem", "labels must be integers"),
        (LABELS.astype(np.int8), np.full((4000, 200), 1 / 200), "warning", "labels are int8, which cannot hold all"),
    ],
)
def test_labels_and_predictions_that_do_not_fit(answer, labels, probs, status, message):
    np.save("labels.npy", labels)
    np.save("pred_probs.npy", probs)
    code, found = answer(*FILES)
    assert code == (status == "problem")
    [said] = findings(found, status, "inputs", "client")
    assert said.startswith(message)
    assert not said.endswith("-> ")


def test_a_missing_input_is_a_problem(answer):
    code, found = answer("none.npy", "pred_probs.npy")
    assert code == 1
    assert "none.npy" in findings(found, "problem", "inputs")[0]


def test_a_part_that_cannot_be_read_is_a_problem(answer, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("labelsieve.sources.npy._NpyRows.read", broken)
    code, found = answer(*FILES)
    assert code == 1
    assert "it cannot read pred_probs: OSError: [Errno 5]" in findings(found, "problem", "reading")[0]


def test_a_run_that_does_not_fit_in_memory_is_a_problem(answer, monkeypatch):
    monkeypatch.setattr("labelsieve.execution.executor.free_bytes", lambda: 1_000_000)
    code, found = answer(*FILES)
    assert code == 1
    assert "What would fit: " in findings(found, "problem", "plan")[0]


@pytest.mark.parametrize("args", [["--workdir", "/proc/work"], ["-o", "/proc/issues.zarr"], ["-o", "issues.doc"]])
def test_a_place_that_cannot_be_written_is_a_problem(answer, args):
    code, found = answer(*args)
    assert code == 1
    [said] = findings(found, "problem")
    assert args[1] in said


def test_a_folder_of_something_else_is_no_workdir(answer, files):
    code, found = answer("--workdir", files)
    assert code == 1
    assert "is not empty and is not a Labelsieve workdir" in findings(found, "problem", "workdir", "client")[0]


def test_who_uses_the_workdir(answer, files):
    with own_folder(LocalFolder(files / "work"), "the workdir"):
        code, found = answer("--workdir", "work")
        [said] = findings(found, "warning", "workdir", "client")
        owner = rf"in use by process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d .* UTC"
        assert re.search(owner, said)
        assert "--wait" in said
        assert code == 0
    assert findings(answer("--workdir", "work")[1], "warning", "workdir") == []


def test_limits_are_warnings_that_name_the_process(answer, monkeypatch):
    facts = process_facts.process_facts()
    poor = facts.__class__(
        **facts.__dict__ | {"open_files": 100, "temporary_bytes": 1_000_000, "temporary_in_memory": True}
    )
    monkeypatch.setattr(doctor, "process_facts", lambda: poor)
    code, found = answer()
    assert code == 0
    files, space, in_memory = findings(found, "warning", "limits", "client")
    assert files.startswith("it may open 100 files and connections")
    assert "ulimit -n" in files
    assert f"its temporary folder {facts.temporary_folder} has 1 MB left" in space
    assert "is in memory" in in_memory
    monkeypatch.setattr(doctor, "process_facts", lambda: facts.__class__(**facts.__dict__ | {"temporary_folder": ""}))
    assert "no folder for temporary files" in findings(answer()[1], "problem", "limits", "client")[0]


def test_threads_of_blas_without_threadpoolctl(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert process_facts.process_facts().blas_threads == 3
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    assert process_facts.process_facts().blas_threads == 5


@pytest.mark.parametrize("args", [["labels.npy"], ["--timeout", "0"], ["--timeout", "soon"], [*FILES, "--fresh"]])
def test_bad_usage_exits_with_2(args, capsys):
    assert run(["doctor", *args]) == 2
    assert "see labelsieve doctor --help" in capsys.readouterr().err


def test_the_environment_asks_for_json_even_where_usage_is_bad(monkeypatch, capfd):
    monkeypatch.setenv("LABELSIEVE_DOCTOR_JSON", "1")
    assert run(["doctor", "labels.npy"]) == 2
    found = json.loads(capfd.readouterr().out)
    assert (found["error"], found["exit_code"]) == ("UsageError", 2)
    monkeypatch.setenv("LABELSIEVE_DOCTOR_TIMEOUT", "0.1")
    assert run(["doctor", "--scheduler", "tcp://127.0.0.1:1"]) == 1
    assert json.loads(capfd.readouterr().out)["num_problems"] == 1


# Schedulers -----------------------------------------------------------------------------------------------------------


@contextmanager
def server(reply):
    """Yield the address of a port that accepts connections and sends `reply`, if anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                open_ones.append(connection)
                connection.sendall(reply)

        open_ones = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in open_ones:
                connection.close()


@pytest.mark.parametrize(
    ("reply", "patience", "message"),
    [
        (b"", 0.5, "within 0.5 seconds"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 100, "is that the port of a dashboard"),
    ],
)
def test_a_port_that_is_not_a_schedulers_is_named_in_time(answer, monkeypatch, capfd, reply, patience, message):
    with server(reply) as address:
        code, found = answer(*FILES, "--scheduler", address, "--timeout", patience)
        [said] = findings(found, "problem")
        assert (code, address in said, message in said) == (1, True, True)
        checks = {finding["check"] for finding in found["findings"]}
        assert {"scheduler", "inputs"} <= checks, "what this machine can tell"
        assert not {"workers", "plan", "reading"} & checks
        defaults = {"start": True, "patience": patience}
        monkeypatch.setattr(local_cluster.cluster.__wrapped__, "__kwdefaults__", defaults)
        for command in ("find", "plan"):
            assert run([command, *FILES, "--scheduler", address]) == 1
            err = capfd.readouterr().err
            assert err.startswith(f"labelsieve: failed: TaskFailedError: no scheduler answers at {address}")
            assert message in err


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "localhost", "", "nothing://x:1", "tcp://none.invalid:8786"])
def test_an_address_without_a_scheduler(answer, address):
    code, found = answer("--scheduler", address, "--timeout", "0.5")
    assert code == 1
    [said] = findings(found, "problem", "scheduler", "client")
    assert said.startswith(f"no scheduler answers at {address}")


def test_the_address_of_a_worker_is_no_scheduler(answer, good):
    worker = next(iter(good.scheduler.workers))
    _, found = answer("--scheduler", worker)
    [said] = findings(found, "problem")
    assert f"no scheduler answers at {worker}: it is the address of a worker" in said


def test_a_cluster_without_workers(answer, monkeypatch):
    # The scheduler has all the time to answer, and none is spent on workers that never come.
    monkeypatch.setattr(Future, "result", lambda future, timeout, inner=Future.result: inner(future, timeout / 1000))
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster:
        code, found = answer(*FILES, "--scheduler", cluster.scheduler_address, "--timeout", "100")
    assert code == 1
    [said] = findings(found, "problem")
    assert said.startswith("it has no worker within 100 seconds -> Start workers")


# Clusters where all is well -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good():
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with LocalCluster(**options, memory_limit="1GiB", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def test_a_good_cluster(answer, good, capfd):
    args = [*FILES, "--scheduler", good.scheduler_address, "--workdir", "work", "-o", "issues.zarr"]
    code, found = answer(*args)
    assert (code, findings(found, "problem")) == (0, [])
    assert findings(found, "ok", "versions") == ["all packages have the versions of the client -> "]
    for check in ("scheduler", "workers", "clock", "inputs", "plan", "workdir", "output", "reading"):
        assert findings(found, "ok", check), check
    client, scheduler, *workers = found["processes"]
    assert (client["name"], scheduler["name"]) == ("client", "scheduler")
    assert {worker["name"] for worker in workers} == set(good.scheduler.workers)
    for worker in workers:
        assert worker["versions"] == client["versions"]
        assert worker["memory_limit_bytes"] == 1 << 30
        assert abs(worker["clock_difference_s"]) <= worker["round_trip_s"]
        assert worker["read_bytes"] > 0
    assert names_in(".") == FILES
    assert run(["doctor", *args]) == 0
    assert re.search(r"^ok       inputs     client: 4,000 rows", capfd.readouterr().out, re.MULTILINE)


def test_workers_that_may_take_more_than_there_is(answer):
    machine = process_facts.process_facts()
    with (
        dask.config.set({"distributed.worker.memory.pause": 0.5}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=machine.n_cores,
            processes=False,
            protocol="tcp",
            memory_limit=machine.most_bytes,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
    ):
        code, found = answer("--scheduler", cluster.scheduler_address)
    assert code == 0
    said = findings(found, "warning", "limits")
    both = f"the 2 of them on {machine.host} "
    assert any(f"{both}run {2 * machine.n_cores} threads on {machine.n_cores} cores" in one for one in said)
    assert any(f"{both}may take " in one and "--memory-limit" in one for one in said)
    paused = [one for one in said if one.startswith("Dask pauses it at 50% of its memory limit")]
    assert len(paused) == 2
    assert all("--max-memory" in one for one in paused)


def test_an_adaptive_cluster_starts_a_worker_for_the_question(answer):
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="50ms", wait_count=1000)
        code, found = answer(*FILES, "--scheduler", cluster.scheduler_address)
    assert (code, findings(found, "problem")) == (0, [])


# Clusters with one worker of each kind --------------------------------------------------------------------------------


BAD = [
    *("good", "other labelsieve", "other numpy", "other pyarrow", "fast clock"),
    *("few files", "much blas", "slow", "no labelsieve", "dies"),
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """What the doctor says of a cluster with a worker of each kind, and which is which."""
    folder = tmp_path_factory.mktemp("bad")
    write_files(folder)
    with Processes(folder) as processes:
        cluster = processes.cluster(0)
        workers = [cluster.add_worker(env=faked(processes, kind)) for kind in BAD]
        cluster.wait_for_workers(len(BAD))
        names = addresses(cluster.address, BAD, workers)
        job = processes.start("-m", "labelsieve", "doctor", *FILES, "--scheduler", cluster.address, "--json")
        code, out, err = job.wait()
        assert code == 1, err
        yield json.loads(out), names


@pytest.mark.slow
def test_problems_and_warnings_are_of_the_right_workers(bad):
    found, names = bad
    kinds = {name: kind for kind, name in names.items()} | {"workers": "all", "client": "client"}
    problems = {(f["check"], kinds[f["subject"]]) for f in found["findings"] if f["status"] == "problem"}
    assert problems == {("versions", "other labelsieve"), ("versions", "no labelsieve"), ("workers", "dies")}
    certain = {
        ("versions", "other numpy"),
        ("clock", "fast clock"),
        ("limits", "few files"),
        ("limits", "much blas"),
        ("reading", "slow"),
    }
    warned = {(f["check"], kinds[f["subject"]]) for f in found["findings"] if f["status"] == "warning"}
    assert certain <= warned
    # Ten workers may be too much for this machine, and some of them slow. It may have too little of something itself.
    harmless = {("limits", "all"), *(("reading", kind) for kind in BAD)}
    if ("limits", "client") in warned:
        harmless |= {("limits", kind) for kind in ("client", *BAD)}
    assert warned - certain <= harmless


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        (
            "other labelsieve",
            "versions",
            f"labelsieve 0.0.9 there, {labelsieve.__version__} here -> Install labelsieve",
        ),
        ("no labelsieve", "versions", f"labelsieve is not installed there, {labelsieve.__version__} here -> Install"),
        ("other numpy", "versions", f"numpy 2.0.99 there, {np.__version__} here (the last digits"),
        ("other pyarrow", "versions", "pyarrow 1.2.3 there, "),
        ("fast clock", "clock", "s ahead of the client's -> Let NTP"),
        ("few files", "limits", "it may open 200 files and connections, and may need "),
        ("much blas", "limits", "may start 99 threads of BLAS"),
        ("slow", "reading", "per second, and the median of all workers is "),
        ("dies", "workers", "it does not answer: "),
    ],
)
def test_what_is_wrong_with_a_worker_is_in_words(bad, kind, check, message):
    found, names = bad
    assert any(message in said for said in findings(found, check=check, subject=names[kind]))


@pytest.mark.slow
def test_a_harmless_difference_is_neither_problem_nor_warning(bad):
    found, names = bad
    assert len(findings(found, "ok", "versions", names["other pyarrow"])) == 1


@pytest.mark.slow
def test_facts_of_workers_are_side_by_side(bad):
    found, names = bad
    by_name = {process["name"]: process for process in found["processes"]}
    assert by_name[names["other numpy"]]["versions"]["numpy"] == "2.0.99"
    assert by_name[names["few files"]]["open_files_limit"] == 200
    fast = by_name[names["fast clock"]]
    assert fast["clock_difference_s"] == pytest.approx(3600, abs=fast["round_trip_s"] + 1)
    assert by_name[names["dies"]]["versions"] is None
    assert by_name[names["good"]]["read_bytes"] > 0


def test_the_text_has_a_table_of_versions_that_differ(capsys):
    facts = process_facts.process_facts()
    others = facts.__class__(**facts.__dict__ | {"versions": facts.versions | {"zarr": "3.0.0"}})
    processes = {
        name: diagnosis.Process(name, one) for name, one in {"client": facts, "a": others, "b": others}.items()
    }
    message = f"zarr 3.0.0 there, {facts.versions['zarr']} here"
    found = [diagnosis.Finding("versions", name, "warning", message, "Install it") for name in "ab"]
    lines = labelsieve.cli.text.doctor_text(diagnosis.Diagnosis(found, processes), verbose=False).splitlines()
    assert lines == [
        f"warning  versions   a, b: {message}",
        "                    -> Install it",
        "",
        "versions  client  a, b",
        f"zarr      {facts.versions['zarr']}   3.0.0",
        "",
        "0 problems, 2 warnings",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "kind", "message"),
    [
        ("worker", "other labelsieve", f": labelsieve 0.0.9 there, {labelsieve.__version__} here. Install labelsieve"),
        ("worker", "no labelsieve", f": labelsieve is not installed there, {labelsieve.__version__} here. Install"),
        ("scheduler", "no labelsieve", f": labelsieve is not installed there, {labelsieve.__version__} here. Install"),
    ],
)
def test_find_names_who_has_another_version_before_it_reads(tmp_path, who, kind, message):
    with Processes(tmp_path) as processes:
        held, other = processes.environment, faked(processes, kind)
        processes.environment = other if who == "scheduler" else held
        cluster = processes.cluster(0)
        processes.environment = held
        cluster.add_worker(env=other if who == "worker" else held)
        cluster.wait_for_workers(1)
        said = processes.find(*FILES, "--scheduler", cluster.address).fails(1)
        assert re.search(r"TaskFailedError: (worker tcp://127.0.0.1:\d+|the scheduler): labelsieve", said)
        assert ("the scheduler" in said) == (who == "scheduler")
        assert message in said
        assert processes.n_reads() == 0


@pytest.mark.slow
def test_find_warns_of_another_numpy_and_goes_on(tmp_path):
    with Processes(tmp_path) as processes:
        cluster = processes.cluster(0)
        cluster.add_worker(env=faked(processes, "other numpy"))
        cluster.wait_for_workers(1)
        code, out, err = processes.find(*FILES, "--scheduler", cluster.address, "--batch-size", 2000).wait()
    assert code == 0
    assert re.search(
        rf"labelsieve: warning: worker tcp://\S+: numpy 2.0.99 there, {re.escape(np.__version__)} here", err
    )
    assert "4,000 rows" in out


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up(tmp_path, monkeypatch, capfd):
    # The first question that a worker could take long to answer is the one of which this one never comes back.
    inner = doctor.ask_each
    monkeypatch.setattr(doctor, "ask_each", lambda client, calls, patience: inner(client, calls, patience / 100))
    with Processes(tmp_path) as processes:
        cluster = processes.cluster(0)
        cluster.add_worker(env=faked(processes, "hangs"))
        cluster.wait_for_workers(1)
        assert run(["doctor", *FILES, "--scheduler", cluster.address, "--timeout", "100"]) == 1
    out = capfd.readouterr().out
    assert re.search(
        r"^problem  workers    tcp://\S+: it does not answer: no answer within 1 seconds$", out, re.MULTILINE
    )
    assert out.splitlines()[-1].startswith("1 problem, ")


# What only some workers can reach -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_folders_that_a_worker_does_not_see_or_cannot_write_to(tmp_path):
    for name in ("data", "shared", "fixed"):
        (tmp_path / name).mkdir()
    write_files(tmp_path / "data")
    mounts = "mount -t tmpfs none {0}/data && mount -t tmpfs none {0}/shared && mount --bind {0}/fixed {0}/fixed"
    mounts += " && mount -o remount,bind,ro {0}/fixed"
    hidden = ("unshare", "-rm", "sh", "-c", mounts.format(tmp_path) + ' && exec "$@"', "sh")
    with Processes(tmp_path) as processes:
        if processes.start("-c", "", before=hidden).wait()[0]:
            pytest.skip("no file system may be mounted here")
        cluster = processes.cluster(1)
        workers = [*cluster.workers, cluster.add_worker(before=hidden)]
        cluster.wait_for_workers(2)
        places = ["data/labels.npy", "data/pred_probs.npy", "--workdir", "shared/work", "-o", "fixed/issues.zarr"]
        job = processes.start("-m", "labelsieve", "doctor", *places, "--scheduler", cluster.address, "--json")
        code, out, err = job.wait()
        names = addresses(cluster.address, ["good", "hidden"], workers)
    found = json.loads(out)
    assert code == 1, err
    assert findings(found, "problem", subject=names["good"]) == []
    problems = findings(found, "problem", subject=names["hidden"])
    labels, probs, workdir, output, reading = problems
    assert "it cannot open labels" in labels
    assert "it cannot open pred_probs" in probs
    assert all("at the same path, or at a URL" in said for said in problems)
    assert "does not see what the client writes" in workdir
    assert str(tmp_path / "shared") in workdir
    assert str(tmp_path / "fixed") in output
    assert "Read-only file system" in output
    assert "it cannot read pred_probs" in reading
    assert names_in("shared") == names_in("fixed") == []


@pytest.mark.slow
def test_a_worker_without_the_package_for_urls(tmp_path, monkeypatch):
    import fsspec

    with s3.running_server() as server:
        server.set_environment(monkeypatch)
        fs = fsspec.filesystem("s3")
        fs.mkdir(s3.BUCKET)
        for name in FILES:
            fs.put_file(name, f"{s3.BUCKET}/{name}")
        urls = [f"s3://{s3.BUCKET}/{name}" for name in FILES]
        with Processes(tmp_path) as processes:
            cluster = processes.cluster(0)
            cluster.add_worker(env=faked(processes, "no s3fs"))
            cluster.wait_for_workers(1)
            place = ["--scheduler", cluster.address]
            job = processes.start(
                "-m", "labelsieve", "doctor", *urls, *place, "--workdir", f"s3://{s3.BUCKET}/work", "--json"
            )
            code, out, err = job.wait()
            said = processes.find(*urls, *place).fails(1)
        assert run(["doctor", *urls, "--workdir", f"s3://{s3.BUCKET}/work", "-o", f"s3://{s3.BUCKET}/i.zarr"]) == 0
        assert fs.ls(s3.BUCKET) == [f"{s3.BUCKET}/{name}" for name in FILES]
    assert code == 1, err
    clock, *problems = findings(json.loads(out), "problem")
    assert clock.startswith("its clock is 3")
    assert "behind the client's: S3 refuses requests" in clock
    assert len(problems) == 4
    for problem in problems:
        assert re.search(r"MissingDependencyError: .* -m pip install .*\[s3\]", problem)
        assert problem.endswith("-> Install what is missing in the environment of that process, and start it anew")
    assert re.search(r"worker tcp://\S+: .*-m pip install .*\[s3\]", said)


def test_tables_and_recordings_are_checked_as_a_run_takes_them(answer, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"label": LABELS, **{f"p_{k}": PROBS[:, k] for k in range(5)}}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with labelsieve.Recorder(tmp_path / "recording", 5) as recorder:
        recorder.update(LABELS, PROBS)
    np.save("logits.npy", np.log(PROBS))
    for args, read in (
        (["--data", "p.parquet", "--labels", "label", "--pred-probs", "p_*"], PROBS.nbytes),
        (["--summaries", "recording"], None),
        (["labels.npy", "logits.npy", "--from-logits"], PROBS.nbytes),
    ):
        code, found = answer(*args, "-o", "issues.csv")
        assert code == 0, found
        [message] = findings(found, "ok", "inputs")
        assert message.startswith("4,000 rows, 5 classes, ")
        process = found["processes"]["client"] if isinstance(found["processes"], dict) else found["processes"][0]
        assert read is None or process["read_bytes"] == read
        assert not (tmp_path / "issues.csv").exists()


def test_what_a_run_refuses_of_tables_is_a_problem(answer, tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"no table")
    code, found = answer("--data", "p.parquet", "--labels", "label", "--pred-probs", "probs")
    assert code == 1
    assert "p.parquet" in findings(found, "problem", "inputs")[0]
    code, found = answer("--summaries", "p.parquet", "--n-classes", "5")
    assert code == 1
    code, found = answer("labels.npy", "pred_probs.npy", "-o", "labels.npy")
    assert code == 1
    assert run(["doctor", "--labels", "label"]) == 2
    assert run(["doctor", "--data", "p.parquet"]) == 2
