"""Features and free memory of this machine."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor, as Linux names them; empty if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def fast_bfloat16() -> bool:
    """Whether bfloat16 matrix products have native instructions (otherwise they are far slower)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def available_bytes() -> int:
    """Memory available to new allocations; a very large number if unknown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 2**62
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 2**62


def describe_cpu() -> str:
    """Architecture and relevant instruction sets, as one readable line."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
    present = [flag for flag in wanted if flag in cpu_flags()]
    return f"{platform.machine()} ({', '.join(present) or 'no vector extensions found'})"
