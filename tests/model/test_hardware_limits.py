"""Processors and memory as containers limit them, on trees of files that look like the kernel's."""

import os

import pytest

from icm_fast.model.hardware import UNKNOWN_BYTES, available_bytes, available_processors

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 {root} /sys/fs/cgroup/memory rw master:9 - cgroup cgroup rw,memory\n"
)
GB = 2**30


@pytest.fixture(autouse=True)
def many_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.fixture
def machine(tmp_path):
    """Writes files of a machine with 16 GB free, and returns its root."""

    def write(files):
        free = {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {16 * GB // 1024} kB\n"}
        for name, text in (free | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def version_2(path, files):
    named = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    return {"proc/self/mountinfo": V2, "proc/self/cgroup": f"0::{path}\n"} | named


def version_1(path, files, root="/"):
    groups = f"5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}\n"
    named = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    return {"proc/self/mountinfo": V1.format(root=root), "proc/self/cgroup": groups} | named


def test_no_container_has_no_limit(machine):
    root = machine({})
    assert available_processors(root) == 64
    assert available_bytes(root) == 16 * GB


def test_nothing_is_known_without_proc(tmp_path):
    assert available_processors(tmp_path) == 64
    assert available_bytes(tmp_path) == UNKNOWN_BYTES


def test_affinity_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    assert available_processors(machine({})) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert available_processors(machine({})) == 12


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("max 100000\n", 64),
        ("9900000 100000\n", 64),
        ("", 64),
    ],
)
def test_quotas_of_version_2(machine, limit, expected):
    assert available_processors(machine(version_2("/", {"cpu.max": limit}))) == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("300000", 3), ("-1", 64), ("10000", 1), ("0", 64), ("", 64)]
)
def test_quotas_of_version_1(machine, quota, expected):
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert available_processors(machine(version_1("/", files))) == expected


def test_the_tightest_of_nested_groups_counts(machine):
    files = {
        "a/b/c/cpu.max": "max 100000\n",
        "a/b/cpu.max": "400000 100000\n",
        "a/cpu.max": "800000 100000\n",
        "a/b/c/memory.max": f"{8 * GB}\n",
        "a/b/c/memory.current": f"{GB}\n",
        "a/b/memory.max": "max\n",
        "a/memory.max": f"{6 * GB}\n",
        "a/memory.current": f"{4 * GB}\n",
    }
    root = machine(version_2("/a/b/c", files))
    assert available_processors(root) == 4
    assert available_bytes(root) == 2 * GB


def test_memory_of_version_2(machine):
    files = {"memory.max": f"{4 * GB}\n", "memory.current": f"{3 * GB}\n"}
    assert available_bytes(machine(version_2("/", files))) == GB
    files["memory.stat"] = f"anon {GB}\ninactive_file {2 * GB}\nactive_file 5\n"
    assert available_bytes(machine(version_2("/", files))) == 3 * GB
    files["memory.current"] = f"{9 * GB}\n"
    assert available_bytes(machine(version_2("/", files))) == 0
    files["memory.max"] = "max\n"
    assert available_bytes(machine(version_2("/", files))) == 16 * GB


def test_memory_of_version_1(machine):
    files = {
        "memory/memory.limit_in_bytes": f"{4 * GB}\n",
        "memory/memory.usage_in_bytes": f"{3 * GB}\n",
        "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB}\n",
    }
    assert available_bytes(machine(version_1("/", files))) == 2 * GB
    files["memory/memory.limit_in_bytes"] = "9223372036854771712\n"  # its "no limit"
    assert available_bytes(machine(version_1("/", files))) == 16 * GB


def test_a_container_that_is_told_its_path_on_the_host(machine):
    """Docker without a namespace of control groups mounts the container's own folder."""
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/inner/cpu.cfs_quota_us": "100000\n",
        "cpu,cpuacct/inner/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": f"{GB}\n",
    }
    root = machine(version_1("/docker/abc", files, root="/docker/abc"))
    assert available_processors(root) == 2
    assert available_bytes(root) == GB
    root = machine(version_1("/docker/abc/inner", files, root="/docker/abc"))
    assert available_processors(root) == 1


@pytest.mark.parametrize("path", ["/kubepods/pod7", "/../outside"])
def test_a_path_that_is_not_there_means_the_mounted_group(machine, path):
    files = {"cpu.max": "300000 100000\n", "memory.max": f"{GB}\n"}
    root = machine(version_2(path, files))
    assert available_processors(root) == 3
    assert available_bytes(root) == GB


def test_both_versions_at_once(machine):
    """The unified tree may be mounted beside version 1, without controllers."""
    files = version_1("/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n"})
    files["sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us"] = "100000\n"
    files["proc/self/mountinfo"] += V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    files["proc/self/cgroup"] += "0::/y\n"
    assert available_processors(machine(files)) == 2


def test_broken_files_are_no_limits(machine):
    files = version_2("/", {"cpu.max": "what\n", "memory.max": "\n"})
    files["proc/self/mountinfo"] += "broken\n 1 2 - cgroup2\n"
    files["proc/self/cgroup"] += "nothing\n"
    root = machine(files)
    assert available_processors(root) == 64
    assert available_bytes(root) == 16 * GB


def test_this_machine():
    assert available_processors() >= 1
    assert available_bytes() > 0
