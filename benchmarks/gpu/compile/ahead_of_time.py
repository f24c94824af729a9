"""Compile Triton kernels for absent devices, and read the resources that they use."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

THREADS_PER_WARP = 32


@dataclass(frozen=True, slots=True)
class Build:
    """One kernel with everything that is fixed at compile time.

    Attributes:
        name: Unique among the builds of a target.
        kernel: A function under ``triton.jit``.
        arguments: Type of each argument that is passed at run time, as Triton writes it (``*bf16``,
            ``i32``). All are assumed multiples of 16, as addresses and strides are in practice.
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

    @property
    def sizes(self) -> str:
        """Block sizes, warps and stages: to read, and to detect rows of former sizes."""
        blocks = [f"{k}={v}" for k, v in self.constants.items() if k.startswith(("BLOCK", "ROWS"))]
        return " ".join([*blocks, f"warps={self.num_warps}", f"stages={self.num_stages}"])


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of one program.

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
        RuntimeError: Triton's PTXASError, if the assembler refuses the program.
    """
    log = io.StringIO()
    # Triton runs the assembler just as for a present device, and prints its log.
    with _empty_cache(), triton.knobs.nvidia.scope(), contextlib.redirect_stdout(log):
        triton.knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(
            _source(build),
            target=GPUTarget("cuda", target, THREADS_PER_WARP),
            options={
                "num_warps": build.num_warps,
                "num_stages": build.num_stages,
                "enable_fp_fusion": True,
            },
        )
    registers, spills = _read_log(log.getvalue())
    return Resources(registers, int(compiled.metadata.shared), spills)


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """A separate, empty cache: a cached build prints no log."""
    with triton.knobs.cache.scope(), tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        yield


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


def assembler(target: int) -> Path:
    """The ptxas that triton runs for ``target``, which it ships."""
    return Path(get_ptxas(target).path)


def _read_log(log: str) -> tuple[int, int]:
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert registers is not None, log
    assert spills is not None, log
    return int(registers[1]), int(spills[1]) + int(spills[2])
