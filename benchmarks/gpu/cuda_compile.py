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

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent / "csrc"
TABLE = HERE / "cuda_compile.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a", "sm_100")
HEAD_DIMS = (64, 128, 256)
THREADS = 128
REGISTERS_PER_SM = 65536
# Bytes of shared memory: what a block may have, and what a multiprocessor has. Devices of 8.6 and
# 8.9 run the code of sm_80 and have less, hence its 99 KB.
SHARED_PER_BLOCK = dict.fromkeys(ARCHITECTURES, 227 * 1024) | {"sm_80": 99 * 1024}
SHARED_PER_SM = dict.fromkeys(ARCHITECTURES, 228 * 1024) | {"sm_80": 164 * 1024}
RESERVED_PER_BLOCK = 1024

SHARED_BYTES = """
#include <cstdio>
#include "cuda/device.cuh"
#include "cuda/tile_memory.cuh"
int main() {
    using namespace icm_fast::cuda;
    std::printf("%d %d %d", TileShape<64>::kBytes, TileShape<128>::kBytes, TileShape<256>::kBytes);
}
"""
# Mangled: name<icm_fast::cuda::dtype, head_dim, softcap>.
KERNEL = re.compile(
    r"(?P<name>attend_tile|merge_partials)INS0_\d+(?P<dtype>Bfloat16|Float16)E"
    r"Li(?P<head_dim>\d+)E(?:Lb(?P<softcap>[01])E)?"
)
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


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
        """How many blocks of threads fit a multiprocessor at a time, at the most."""
        registers = THREADS * (-(-self.registers // 8) * 8)
        shared = SHARED_PER_SM[self.architecture] // (self.shared + RESERVED_PER_BLOCK)
        return min(REGISTERS_PER_SM // registers, shared, 2048 // THREADS)


def nvcc() -> str | None:
    """Path of the compiler, if there is one."""
    return shutil.which("nvcc")


def run(*command: str | Path) -> str:
    """Standard output and errors of a command that has to succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}")
    return done.stdout


def nvcc_release() -> str:
    """The compiler's version, like 13.0.88."""
    found = re.search(r"release [\d.]+, V([\d.]+)", run("nvcc", "--version"))
    assert found
    return found[1]


def shared_bytes() -> dict[int, int]:
    """Dynamic shared memory of each head_dim, which ptxas does not know."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "shared.cu", Path(folder) / "shared"
        source.write_text(SHARED_BYTES)
        run("nvcc", "-std=c++20", "-I", SOURCES, "-o", program, source)
        return dict(zip(HEAD_DIMS, map(int, run(program).split()), strict=True))


def parse(output: str, architecture: str, shared: dict[int, int]) -> list[Kernel]:
    """The kernels that the messages of ptxas tell of."""
    kernels = []
    for part in output.split("ptxas info    : Compiling entry function")[1:]:
        kernel = KERNEL.search(part)
        spills, registers = SPILLS.search(part), REGISTERS.search(part)
        if not (kernel and spills and registers):
            raise SystemExit(f"unknown message of ptxas:\n{part}")
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
                shared=shared[head_dim] if kernel["name"] == "attend_tile" else 0,
                stack=stack,
                spill_stores=stores,
                spill_loads=loads,
            )
        )
    return sorted(kernels, key=lambda k: (k.name, k.head_dim, k.dtype, k.softcap))


def compile_kernels(architecture: str, shared: dict[int, int]) -> list[Kernel]:
    """Compile all kernels for one architecture, as CMake does in a release build."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++20", "-O3", "-I", str(SOURCES), f"-arch={architecture}"]
        cubin = str(Path(folder) / "kernels.cubin")
        command += ["-Xptxas", "-v", "-cubin", "-o", cubin]
        messages = run(*command, SOURCES / "cuda" / "tree_attention.cu")
    return parse(messages, architecture, shared)


def render(table: dict) -> str:
    """The table as Markdown: a row for each kernel, a column for each architecture."""
    kernels = [Kernel(**row) for row in table["kernels"]]
    architectures = list(dict.fromkeys(kernel.architecture for kernel in kernels))
    rows: dict[tuple, dict[str, Kernel]] = {}
    for kernel in kernels:
        key = (kernel.name, kernel.head_dim, kernel.dtype, kernel.softcap, kernel.shared)
        rows.setdefault(key, {})[kernel.architecture] = kernel
    lines = [
        "# What nvcc makes of the CUDA kernels",
        "",
        f"nvcc {table['nvcc']}, `make cuda-compile`. Compiled only: not run on a device.",
        "Each cell: registers of a thread / bytes spilled (stores + loads) / blocks of 128",
        "threads that fit a multiprocessor at a time by registers and shared memory.",
        "",
        f"| kernel | head_dim | dtype | soft-cap | shared | {' | '.join(architectures)} |",
        "|---" * (5 + len(architectures)) + "|",
    ]
    for (name, head_dim, dtype, softcap, shared), cells in rows.items():
        numbers = [
            f"{k.registers} / {k.spill_stores + k.spill_loads} / {k.blocks_per_sm()}"
            for k in (cells[architecture] for architecture in architectures)
        ]
        cap = "yes" if softcap else "no"
        if name == "merge_partials":
            cap = "-"
        row = [f"`{name}`", head_dim, dtype, cap, f"{shared:,}", *numbers]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def write(table: dict) -> None:
    """Replace the recorded table."""
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    TABLE.with_suffix(".md").write_text(render(table))


def main() -> None:
    """Compile for the architectures that were asked for and record the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    chosen = parser.parse_args().architectures
    if nvcc() is None:
        raise SystemExit("error: there is no nvcc on the PATH")
    shared = shared_bytes()
    kernels = []
    for architecture in chosen:
        print(f"compiling for {architecture}", file=sys.stderr, flush=True)
        kernels += compile_kernels(architecture, shared)
    write({"nvcc": nvcc_release(), "kernels": [asdict(kernel) for kernel in kernels]})
    print(TABLE.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
