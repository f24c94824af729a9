"""The versions and the machine that produced results."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from icm_fast.model.hardware import available_processors, cpu_flags, describe_cpu
from icm_fast.types import JsonValue


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of the packages that determine results and of ``more``, without importing them."""
    found = {"python": platform.python_version()}
    for package in ("icm-fast", "numpy", "torch", "transformers", *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine_facts() -> dict[str, JsonValue]:
    """Processor, memory in bytes, load, versions; ready for JSON."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor_name(),
        "instruction_sets": describe_cpu(),
        "cpu_flags": sorted(cpu_flags()),
        "processors": available_processors(),
        "memory_bytes": pages * page_bytes,
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "versions": versions(),
    }


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
