"""Features of this processor, and how much of the machine this process may use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path("/")
UNKNOWN_BYTES = 2**62


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor, as Linux names them; empty if unknown."""
    text = _read(ROOT / "proc/cpuinfo")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def fast_bfloat16() -> bool:
    """Whether bfloat16 matrix products have native instructions (otherwise they are far slower)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def available_processors(root: Path = ROOT) -> int:
    """Processors that this process may use: its affinity, and the CPU quotas of its containers.

    A quota is rounded down: threads that wait for each other lose more to throttling than one
    thread adds.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        allowed = os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _cgroup_folders(root, "cpu")]
    return max(1, min([allowed, *(int(quota) for quota in quotas if quota is not None)]))


def available_bytes(root: Path = ROOT) -> int:
    """Memory that a new allocation may take; a very large number where unknown.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
    """
    free = [_free_in_container(folder) for folder in _cgroup_folders(root, "memory")]
    return min([_free_on_machine(root), *free])


def describe_cpu() -> str:
    """Architecture and relevant instruction sets, as one readable line."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
    present = [flag for flag in wanted if flag in cpu_flags()]
    return f"{platform.machine()} ({', '.join(present) or 'no vector extensions found'})"


def _read(path: Path) -> str:
    """The text of a file of the kernel; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """The number that a file of the kernel holds; None for ``max`` and for nothing."""
    try:
        return int(text)
    except ValueError:
        return None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.replace(":", " ").split()[:2] for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _free_on_machine(root: Path) -> int:
    kilobytes = _fields(root / "proc/meminfo").get("MemAvailable")
    return UNKNOWN_BYTES if kilobytes is None else kilobytes * 1024


def _quota(folder: Path) -> float | None:
    """Processors that one control group may keep busy, version 2 or 1; None without a limit."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    used, per = _number(quota), _number(period)
    return used / per if used is not None and per and used > 0 else None


def _free_in_container(folder: Path) -> int:
    """What one control group has left of its memory, version 2 or 1.

    Cached files count as used, but the kernel drops them before it refuses memory.
    """
    limit, used, cached = "memory.max", "memory.current", "inactive_file"
    if not (folder / limit).exists():
        limit, used, cached = (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        )
    most = _number(_read(folder / limit))
    if most is None:
        return UNKNOWN_BYTES
    dropped = _fields(folder / "memory.stat").get(cached, 0)
    return max(0, most - max(0, (_number(_read(folder / used)) or 0) - dropped))


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that limit this process, the innermost first.

    Every group above one limits it, too. Both versions may be mounted; each names its own path.
    """
    paths = _cgroup_paths(root)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(), after.split()
        if len(places) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        name = "" if kind[0] == "cgroup2" else controller
        if name and controller not in kind[2].split(","):
            continue
        mount = root / places[4].lstrip("/")
        yield from _from_innermost(mount, _below(paths.get(name, "/"), places[3]))


def _cgroup_paths(root: Path) -> dict[str, str]:
    """Per controller the path of this process's control group; version 2's has no name."""
    paths = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        paths.update(dict.fromkeys(names.split(","), path))
    return paths


def _below(path: str, mounted: str) -> str:
    """The path of a group seen from the group that is mounted.

    A container may be told its path on the host, of which it sees no more than its own folder.
    """
    parts, above = path.strip("/").split("/"), mounted.strip("/").split("/")
    if mounted == "/":
        return path.strip("/")
    return "/".join(parts[len(above) :]) if parts[: len(above)] == above else ""


def _from_innermost(mount: Path, path: str) -> Iterator[Path]:
    folder = mount / path
    if ".." in folder.parts or not folder.is_dir():  # outside of what this container sees
        folder = mount
    while folder != mount:
        yield folder
        folder = folder.parent
    yield mount
