"""Compiling Triton kernels for a device that is not there, and what they take of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

THREADS_PER_WARP = 32


@dataclass(frozen=True, slots=True)
class Build:
    """One kernel with everything that is fixed when it is compiled.

    Attributes:
        name: Unique among the builds of a target.
        kernel: A function under ``triton.jit``.
        arguments: Type of each argument that is passed at run time, as Triton writes it (``*bf16``,
            ``i32``). All are taken to be multiples of 16, as addresses and strides are in practice.
        constants: The ``tl.constexpr`` arguments.
        num_warps: Warps of a program.
        num_stages: Depth of the pipeline over loads.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, str]
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What a program takes.

    Attributes:
        registers: Per thread.
        shared_bytes: Shared memory of a program.
        spill_bytes: Stored to and loaded from local memory because registers ran out.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int


def compile_for(build: Build, target: int) -> Resources:
    """Compile down to machine code for compute capability ``target`` (80, 90).

    Raises:
        subprocess.CalledProcessError: If ptxas refuses the program.
    """
    with triton.knobs.cache.scope(), tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        compiled = triton.compile(
            _source(build),
            target=GPUTarget("cuda", target, THREADS_PER_WARP),
            options={
                "num_warps": build.num_warps,
                "num_stages": build.num_stages,
                "enable_fp_fusion": True,
            },
        )
        log = _assemble(compiled.asm["ptx"], target, Path(folder))
    registers, spills = _read_log(log)
    return Resources(registers, int(compiled.metadata.shared), spills)


def _source(build: Build) -> ASTSource:
    names: list[str] = build.kernel.arg_names
    signature = {name: build.arguments.get(name, "constexpr") for name in names}
    # Single precision numbers have no alignment.
    aligned = [k for k, name in enumerate(names) if signature[name] not in ("constexpr", "fp32")]
    return ASTSource(
        fn=build.kernel,
        signature=signature,
        constexprs=dict(build.constants),
        attrs={(k,): [["tt.divisibility", 16]] for k in aligned},
    )


def ptxas_path(target: int) -> str:
    """The assembler that triton brings along, so that a triton version fixes the numbers."""
    nvidia = triton.knobs.nvidia
    # What the second one is named after is not all it is for: Triton takes it from Hopper on.
    return str(nvidia.ptxas.path if target < 90 else nvidia.ptxas_blackwell.path)


def _assemble(ptx: str, target: int, folder: Path) -> str:
    source = folder / "kernel.ptx"
    source.write_text(ptx, encoding="utf-8")
    # The instructions of Hopper's tensor cores belong to sm_90a. Options as Triton gives them.
    arch = f"sm_{target}a" if target == 90 else f"sm_{target}"
    options = ["-v", "--regAllocOptLevel=2", f"--gpu-name={arch}"]
    command = [ptxas_path(target), *options, str(source), "-o", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stderr


def _read_log(log: str) -> tuple[int, int]:
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert registers is not None, log
    assert spills is not None, log
    return int(registers[1]), int(spills[1]) + int(spills[2])
