"""Features of this processor, and how much of the machine this process may use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/")
UNKNOWN_BYTES = 2**62
_NO_LIMIT = 2**62
"""Version 1 of control groups writes a number near 2**63 where there is no limit."""


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


@dataclass(frozen=True, slots=True)
class Processors:
    """Processors of the machine, and those that this process may use.

    Attributes:
        machine: In the machine, as far as the system says.
        affinity: Those that this process may run on.
        quota: Processors that its containers may keep busy; None without a limit.
    """

    machine: int
    affinity: int
    quota: float | None

    @property
    def usable(self) -> int:
        """Threads that are worth starting, at least 1.

        A quota is rounded down: threads that wait for each other lose more to throttling than one
        thread adds.
        """
        allowed = self.affinity if self.quota is None else min(self.affinity, int(self.quota))
        return max(1, allowed)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a new allocation may take; a very large number where unknown.

    Attributes:
        machine: Free in the machine.
        container: Left under the limits of the containers; None without a limit.
    """

    machine: int
    container: int | None

    @property
    def free(self) -> int:
        """The smaller of both."""
        return self.machine if self.container is None else min(self.machine, self.container)


def processors(root: Path = ROOT) -> Processors:
    """Processors under the affinity of this process and the quotas of its containers.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
    """
    machine = os.cpu_count() or 1
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        affinity = machine
    quotas = [_quota(folder) for folder in _cgroup_folders(root, "cpu")]
    known = [quota for quota in quotas if quota is not None]
    return Processors(machine, affinity, min(known, default=None))


def memory(root: Path = ROOT) -> Memory:
    """Free memory of the machine, and what its containers leave to this process.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
    """
    left = [_free_in_container(folder) for folder in _cgroup_folders(root, "memory")]
    known = [free for free in left if free is not None]
    return Memory(_free_on_machine(root), min(known, default=None))


def available_processors(root: Path = ROOT) -> int:
    """Processors that this process may use; see :class:`Processors`."""
    return processors(root).usable


def available_bytes(root: Path = ROOT) -> int:
    """Memory that a new allocation may take; a very large number where unknown."""
    return memory(root).free


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


def _free_in_container(folder: Path) -> int | None:
    """What one control group has left of its memory, version 2 or 1; None without a limit.

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
    if most is None or most >= _NO_LIMIT:
        return None
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
