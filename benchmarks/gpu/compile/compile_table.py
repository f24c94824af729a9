"""The committed table of the resources that every default configuration uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.compile.ahead_of_time import THREADS_PER_WARP, Build, Resources

SM_REGISTERS = 65536
SM_THREADS = 2048
SM_SHARED_BYTES = {80: 164 * 1024, 90: 228 * 1024}
"""A100, H100. Each program takes another 1 KB for the system."""

REGISTER_STEP = 8
"""Registers of a thread are allocated in steps of this size."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Attributes:
        resources: Resources of the program.
        num_warps: Its warps.
        sizes: Of the build that was compiled, see ``Build.sizes``.
    """

    resources: Resources
    num_warps: int
    sizes: str

    def programs_per_sm(self, target: int) -> int:
        """Maximum number of programs per multiprocessor at the same time."""
        threads = self.num_warps * THREADS_PER_WARP
        registers = -(-self.resources.registers // REGISTER_STEP) * REGISTER_STEP
        shared = self.resources.shared_bytes + 1024
        return min(
            SM_REGISTERS // (registers * threads),
            SM_SHARED_BYTES[target] // shared,
            SM_THREADS // threads,
            32,
        )


Table = dict[int, dict[str, Entry]]
"""Entries by target and name of the build."""


def read_table(path: Path) -> tuple[str, Table]:
    """The version of triton that produced the table, and the table."""
    content = json.loads(path.read_text(encoding="utf-8"))
    table = {
        int(target): {name: _entry(row) for name, row in rows.items()}
        for target, rows in content["targets"].items()
    }
    return str(content["triton"]), table


def entry_of(build: Build, resources: Resources) -> Entry:
    """The row of a build."""
    return Entry(resources, build.num_warps, build.sizes)


def _entry(row: dict[str, Any]) -> Entry:
    taken = Resources(row["registers"], row["shared_bytes"], row["spill_bytes"])
    return Entry(taken, row["num_warps"], row["sizes"])


def write_table(path: Path, triton_version: str, table: Table) -> None:
    """Write ``path`` (JSON), and the same as Markdown next to it."""
    targets = {
        str(target): {
            name: asdict(entry.resources) | {"num_warps": entry.num_warps, "sizes": entry.sizes}
            for name, entry in sorted(rows.items(), key=lambda item: _natural(item[0]))
        }
        for target, rows in sorted(table.items())
    }
    content = {"triton": triton_version, "targets": targets}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    markdown = "\n".join(_markdown(triton_version, table)) + "\n"
    path.with_suffix(".md").write_text(markdown, encoding="utf-8")


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers by value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _markdown(triton_version: str, table: Table) -> Iterator[str]:
    targets = sorted(table)
    yield "# What the Triton kernels take"
    yield ""
    yield f"Compiled ahead of time by triton {triton_version}; this file is written by"
    yield "`python -m benchmarks.gpu.compile`. Per target: registers of a thread, KB of"
    yield "shared memory of a program, bytes spilled, and how many programs fit a multiprocessor"
    yield "(sm_80: A100, sm_90: H100). Compiled only: nothing here was run on a device."
    yield ""
    columns = [f"sm_{t} {what}" for t in targets for what in ("registers", "KB", "spills", "fit")]
    yield f"| kernel | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    names = sorted({name for rows in table.values() for name in rows}, key=_natural)
    for name in names:
        cells = [cell for t in targets for cell in _cells(table[t].get(name), t)]
        yield f"| {name} | {' | '.join(cells)} |"


def _cells(entry: Entry | None, target: int) -> list[str]:
    if entry is None:
        return [""] * 4
    taken = entry.resources
    return [
        str(taken.registers),
        f"{taken.shared_bytes / 1024:.1f}",
        str(taken.spill_bytes),
        str(entry.programs_per_sm(target)),
    ]
