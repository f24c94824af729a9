"""What nvcc makes of the CUDA kernels: registers, shared memory and spills for each architecture.

Writes cuda_compile.json and cuda_compile.md beside this file. Needs nvcc and no device:

    python benchmarks/gpu/cuda_compile.py            # or `make cuda-compile`
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
TABLE = HERE / "cuda_compile.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a", "sm_100")
SOURCE = "tree_attention.cu"
# Sources with instructions of one architecture only.
SOURCES_OF = {"sm_90a": (SOURCE, "warpgroup_attention.cu")}
THREADS = {"attend_tile": 128, "attend_warpgroups": 384, "merge_partials": 128}
REGISTERS_PER_SM = 65536
# Bytes of shared memory per block and per multiprocessor. Devices of 8.6 and 8.9 run the code of
# sm_80 and have less than an A100, hence its 99 KB.
SHARED_PER_BLOCK = dict.fromkeys(ARCHITECTURES, 227 * 1024) | {"sm_80": 99 * 1024}
SHARED_PER_SM = dict.fromkeys(ARCHITECTURES, 228 * 1024) | {"sm_80": 164 * 1024}
RESERVED_PER_BLOCK = 1024

SHARED_BYTES = """
#include <cstdio>
#include "cuda/box_copies.cuh"
#include "cuda/device.cuh"
#include "cuda/warp_roles.cuh"
#include "cuda/wgmma.cuh"
#include "cuda/warpgroup_attention.cuh"
using namespace icm_fast::cuda;
template <typename Shape>
void print(const char* name) {
    std::printf("%s %d %d\\n", name, Shape::kHeadDim, Shape::kBytes);
}
int main() {
    print<TileShape<64>>("attend_tile");
    print<TileShape<128>>("attend_tile");
    print<TileShape<256>>("attend_tile");
    print<WarpgroupShape<64>>("attend_warpgroups");
    print<WarpgroupShape<128>>("attend_warpgroups");
}
"""
# Mangled: name<icm_fast::cuda::dtype, head_dim, softcap>.
KERNEL = re.compile(
    r"(?P<name>attend_tile|attend_warpgroups|merge_partials)INS0_\d+(?P<dtype>Bfloat16|Float16)E"
    r"Li(?P<head_dim>\d+)E(?:Lb(?P<softcap>[01])E)?"
)
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
# ptxas' warning about warpgroup products that it serialises, and about registers that cannot be
# reassigned.
LOSS = "Potential Performance Loss"

Table = dict[str, Any]
"""Content of the recorded file: ``nvcc``, its version, and ``kernels``, fields of Kernel."""


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture; sizes in bytes."""

    architecture: str
    name: str
    dtype: str
    head_dim: int
    softcap: bool
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    def blocks_per_sm(self) -> int:
        """Maximum number of blocks per multiprocessor at the same time."""
        threads = THREADS[self.name]
        registers = threads * (-(-self.registers // 8) * 8)
        shared = SHARED_PER_SM[self.architecture] // (self.shared + RESERVED_PER_BLOCK)
        return min(REGISTERS_PER_SM // registers, shared, 2048 // threads)


def nvcc() -> str | None:
    """Path of the compiler, if there is one."""
    return shutil.which("nvcc")


def run(*command: str | Path) -> str:
    """Output and errors of a command; exits if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}")
    return done.stdout


def nvcc_release() -> str:
    """The compiler's version, like 13.0.88."""
    found = re.search(r"release [\d.]+, V([\d.]+)", run("nvcc", "--version"))
    assert found
    return found[1]


def shared_bytes() -> dict[tuple[str, int], int]:
    """Dynamic shared memory by kernel and head_dim, which ptxas does not report."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "shared.cu", Path(folder) / "shared"
        source.write_text(SHARED_BYTES)
        run("nvcc", "-std=c++20", "-I", CSRC, "-o", program, source)
        rows = [line.split() for line in run(program).splitlines()]
    return {(name, int(head_dim)): int(n_bytes) for name, head_dim, n_bytes in rows}


def parse(output: str, architecture: str, shared: dict[tuple[str, int], int]) -> list[Kernel]:
    """The kernels in the messages of ptxas."""
    if LOSS in output:
        raise SystemExit(f"ptxas reports a performance loss:\n{output}")
    kernels = []
    for part in output.split("ptxas info    : Compiling entry function")[1:]:
        kernel = KERNEL.search(part)
        spills, registers = SPILLS.search(part), REGISTERS.search(part)
        if not (kernel and spills and registers):
            raise SystemExit(f"unknown ptxas message:\n{part}")
        stack, stores, loads = map(int, spills.groups())
        head_dim = int(kernel["head_dim"])
        kernels.append(
            Kernel(
                architecture=architecture,
                name=kernel["name"],
                dtype=kernel["dtype"].lower(),
                head_dim=head_dim,
                softcap=kernel["softcap"] == "1",
                registers=int(registers[1]),
                shared=shared.get((kernel["name"], head_dim), 0),
                stack=stack,
                spill_stores=stores,
                spill_loads=loads,
            )
        )
    return kernels


def compile_kernels(architecture: str, shared: dict[tuple[str, int], int]) -> list[Kernel]:
    """Compile all kernels for one architecture, as CMake does in a release build."""
    kernels = []
    for source in SOURCES_OF.get(architecture, (SOURCE,)):
        with tempfile.TemporaryDirectory() as folder:
            command = ["nvcc", "-std=c++20", "-O3", "-I", str(CSRC), f"-arch={architecture}"]
            cubin = str(Path(folder) / "kernels.cubin")
            command += ["-Xptxas", "-v", "-cubin", "-o", cubin]
            kernels += parse(run(*command, CSRC / "cuda" / source), architecture, shared)
    return sorted(kernels, key=lambda k: (k.name, k.head_dim, k.dtype, k.softcap))


def render(table: Table) -> str:
    """The table as Markdown: one row per kernel, one column per architecture."""
    kernels = [Kernel(**row) for row in table["kernels"]]
    architectures = list(dict.fromkeys(kernel.architecture for kernel in kernels))
    rows: dict[tuple[str, int, str, bool, int], dict[str, Kernel]] = {}
    for kernel in sorted(kernels, key=lambda k: (k.name, k.head_dim)):
        key = (kernel.name, kernel.head_dim, kernel.dtype, kernel.softcap, kernel.shared)
        rows.setdefault(key, {})[kernel.architecture] = kernel
    lines = [
        "# What nvcc makes of the CUDA kernels",
        "",
        f"nvcc {table['nvcc']}, `make cuda-compile`. Compiled only: not run on a device.",
        "Each cell: registers of a thread / bytes spilled (stores + loads) / blocks of threads",
        "that fit a multiprocessor at a time by registers and shared memory. A block has 128",
        "threads and 64 query rows. One of `attend_warpgroups` (wgmma, for sm_90a alone) has 384",
        "and 128: a third of the threads copy and keep 40 of their registers, the others compute",
        "and take 232. ptxas serialises none of its products.",
        "",
        f"| kernel | head_dim | dtype | soft-cap | shared | {' | '.join(architectures)} |",
        "|---" * (5 + len(architectures)) + "|",
    ]
    for (name, head_dim, dtype, softcap, shared), cells in rows.items():
        numbers = [
            f"{k.registers} / {k.spill_stores + k.spill_loads} / {k.blocks_per_sm()}" if k else "-"
            for k in map(cells.get, architectures)
        ]
        cap = "yes" if softcap else "no"
        if name == "merge_partials":
            cap = "-"
        row = [f"`{name}`", head_dim, dtype, cap, f"{shared:,}", *numbers]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def write(table: Table) -> None:
    """Replace the recorded table."""
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    TABLE.with_suffix(".md").write_text(render(table))


def main() -> None:
    """Compile for the requested architectures and record the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    chosen = parser.parse_args().architectures
    if nvcc() is None:
        raise SystemExit("error: nvcc is not on the PATH; install the CUDA toolkit")
    shared = shared_bytes()
    kernels = []
    for architecture in chosen:
        print(f"compiling for {architecture}", file=sys.stderr, flush=True)
        kernels += compile_kernels(architecture, shared)
    write({"nvcc": nvcc_release(), "kernels": [asdict(kernel) for kernel in kernels]})
    print(TABLE.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
