"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from icm_fast.model.hardware import cpu_flags, describe_cpu
from icm_fast.run_config import versions


def machine_facts() -> dict[str, Any]:
    """Processor, memory in bytes, load, versions; ready for JSON."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor_name(),
        "instruction_sets": describe_cpu(),
        "cpu_flags": sorted(cpu_flags()),
        "processors": len(os.sched_getaffinity(0)),
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
