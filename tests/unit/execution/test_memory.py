"""The memory that is left, from fake control groups of both versions."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from labelsieve.execution import executor as memory
from labelsieve.execution.executor import INTERPRETER_BYTES, LocalExecutor, free_bytes
from labelsieve.storage.folder import is_memory

FREE = 10**12
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """Give the host a terabyte of free memory."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))


@pytest.fixture
def tree(tmp_path):
    """Return where groups are mounted, and a function that says which the process is in."""
    groups, proc = tmp_path / "cgroup", tmp_path / "self-cgroup"
    groups.mkdir()

    def free(*lines):
        proc.write_text("".join(f"{line}\n" for line in lines))
        return free_bytes(proc, groups)

    return groups, free


def group_v2(folder, limit, used, droppable=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 77\ninactive_file {droppable}\nactive_file 3\n")


def group_v1(folder, limit, used, droppable=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    # The total includes groups below; the other line is of this group alone.
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {droppable}\n")


def test_a_group_of_version_2_leaves_its_limit_less_what_it_uses(tree):
    groups, free = tree
    group_v2(groups / "user.slice" / "job", 1000, 300)
    assert free("0::/user.slice/job") == 700


def test_what_the_kernel_can_drop_counts_as_free(tree):
    groups, free = tree
    group_v2(groups / "job", 1000, 900, droppable=250)
    assert free("0::/job") == 350


@pytest.mark.parametrize("inner", ["max", 5000])
def test_the_tightest_group_around_the_process_holds(tree, inner):
    groups, free = tree
    group_v2(groups / "pod", 1000, 300)
    group_v2(groups / "pod" / "container", inner, 200)
    assert free("0::/pod/container") == 700


def test_a_container_sees_its_own_group_as_the_root(tree):
    # The path is the host's, and only the root of the group is mounted.
    groups, free = tree
    group_v2(groups, 1000, 400)
    assert free("0::/kubepods/pod7/container9") == 600
    assert free("0::/../../pod8") == 600
    assert free("0::/") == 600


def test_without_a_limit_the_host_is_the_limit(tree):
    groups, free = tree
    group_v2(groups / "job", "max", 300)
    assert free("0::/job") == FREE
    assert free("0::/not/there") == FREE
    assert free() == FREE


def test_a_limit_beyond_the_host_does_not_hold(tree):
    groups, free = tree
    group_v2(groups / "job", 10 * FREE, 0)
    assert free("0::/job") == FREE


def test_a_group_over_its_limit_leaves_nothing(tree):
    groups, free = tree
    group_v2(groups / "job", 1000, 1400)
    assert free("0::/job") == 0


def test_a_group_of_version_1_is_found_by_its_controller(tree):
    groups, free = tree
    group_v1(groups / "memory" / "docker" / "abc", 1000, 800, droppable=100)
    group_v1(groups / "memory" / "docker", UNLIMITED_V1, 0)
    group_v2(groups / "docker" / "abc", 5, 0)  # of no controller that counts memory
    assert free("12:cpu,cpuacct:/docker/abc", "5:memory:/docker/abc", "1:name=systemd:/docker/abc") == 300
    assert free("5:hugetlb,memory:/docker/abc") == 300
    assert free("12:cpu,cpuacct:/docker/abc") == FREE


def test_a_group_of_version_1_inside_a_container(tree):
    groups, free = tree
    group_v1(groups / "memory", 1000, 250)
    assert free("5:memory:/docker/abc") == 750


def test_version_1_without_a_limit(tree):
    groups, free = tree
    group_v1(groups / "memory" / "job", UNLIMITED_V1, 800)
    assert free("5:memory:/job") == FREE


def test_both_versions_at_once(tree):
    groups, free = tree
    group_v1(groups / "memory" / "job", 1000, 400)
    (groups / "unified").mkdir()
    assert free("5:memory:/job", "0::/job") == 600


@pytest.mark.every_value
@pytest.mark.parametrize("name", ["memory.max", "memory.current", "memory.stat"])
@pytest.mark.parametrize("content", [None, "", "nonsense here and there\n", "\xff"])
def test_files_that_do_not_say_what_they_should_are_no_limit(tree, name, content):
    groups, free = tree
    group_v2(groups, 800, 400)
    group_v2(groups / "job", 1000, 900)
    if content is None:
        (groups / "job" / name).unlink()
    else:
        (groups / "job" / name).write_text(content, encoding="latin-1")
    want = 100 if (name, content) == ("memory.stat", "") else 400
    assert free("0::/job") == want


def test_elsewhere_than_linux_the_host_is_the_limit(tmp_path):
    assert free_bytes(tmp_path / "nothing", tmp_path) == FREE


@pytest.mark.parametrize(
    ("folder", "in_memory"),
    [
        ("/home/me", False),
        ("/tmp", True),
        ("/tmp/a/b", True),
        ("/tmpfiles", False),
        ("/tmp/disk/a", False),
        ("/", False),
    ],
)
def test_a_folder_is_on_the_file_system_mounted_nearest_above_it(monkeypatch, folder, in_memory):
    mounts = {"/": "ext4", "/tmp": "tmpfs", "/tmp/disk": "xfs", "/home": "nfs4"}
    parts = [SimpleNamespace(mountpoint=path, fstype=kind) for path, kind in mounts.items()]
    monkeypatch.setattr(memory.psutil, "disk_partitions", lambda **_: parts)
    assert is_memory(Path(folder)) == in_memory


def test_where_mounts_are_not_told_a_folder_is_on_a_disk(monkeypatch):
    def refused(**_):
        raise PermissionError("no /proc here")

    monkeypatch.setattr(memory.psutil, "disk_partitions", refused)
    assert not is_memory(Path("/tmp"))


def test_here_it_is_some_number():
    assert 0 <= free_bytes() <= FREE


def test_a_run_may_take_a_share_of_it_and_less_where_it_is_told_so(monkeypatch):
    monkeypatch.setattr("labelsieve.execution.executor.free_bytes", lambda: 10**9)
    executor = LocalExecutor()
    assert (executor.limit, executor.limit_name) == (800_000_000 + INTERPRETER_BYTES, "80% of the free memory")
    executor = LocalExecutor(10**8)
    assert (executor.limit, executor.limit_name) == (10**8, "max_memory")
    assert LocalExecutor(10**10).limit_name == "80% of the free memory"
