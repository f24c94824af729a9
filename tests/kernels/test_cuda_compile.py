"""The CUDA kernels compile to the resources recorded in benchmarks/gpu/cuda_compile.md."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "cuda_compile.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cuda_compile", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_compile"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(script):
    return json.loads(script.TABLE.read_text())


@pytest.fixture(scope="module")
def shared(script):
    if script.nvcc() is None:
        pytest.skip("there is no nvcc on the PATH")
    return script.shared_bytes()


def check_limits(script, kernels):
    for kernel in kernels:
        assert kernel.spill_stores == kernel.spill_loads == kernel.stack == 0, kernel
        assert kernel.registers <= 255, kernel
        assert kernel.shared <= script.SHARED_PER_BLOCK[kernel.architecture], kernel
        assert kernel.blocks_per_sm() >= 1, kernel
        # Those who copy leave registers to those who compute: with fewer at the start than it
        # counts on, the kernel would wait for ever.
        if kernel.name == "attend_warpgroups":
            assert kernel.registers == 65536 // 384 // 8 * 8, kernel


def test_the_recorded_kernels_keep_the_limits(script, recorded):
    kernels = [script.Kernel(**row) for row in recorded["kernels"]]
    assert {kernel.architecture for kernel in kernels} == set(script.ARCHITECTURES)
    # Three widths, two dtypes, with and without soft-cap; and the merge of each width and dtype.
    # Two widths with warpgroup products, for one architecture.
    assert len(kernels) == len(script.ARCHITECTURES) * (3 * 2 * 2 + 3 * 2) + 2 * 2 * 2
    check_limits(script, kernels)


@pytest.mark.parametrize(
    "what",
    [
        "(C7510) Potential Performance Loss: wgmma",
        "(C7508) Potential Performance Loss: 'setmaxnreg'",
    ],
)
def test_what_the_assembler_gives_up_is_no_kernel(script, what):
    """Serialised products, and registers that cannot be reassigned."""
    with pytest.raises(SystemExit, match="ptxas reports a performance loss"):
        script.parse(f"ptxas info : {what} is ignored", "sm_90a", {})


def test_the_table_shows_what_is_recorded(script, recorded):
    assert script.TABLE.with_suffix(".md").read_text() == script.render(recorded)


@pytest.mark.parametrize(
    "architecture",
    ["sm_80", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_90", "sm_90a", "sm_100"))],
)
def test_the_kernels_compile_to_what_is_recorded(script, recorded, shared, architecture):
    kernels = script.compile_kernels(architecture, shared)
    check_limits(script, kernels)
    before = [row for row in recorded["kernels"] if row["architecture"] == architecture]
    assert len(kernels) == len(before)
    if script.nvcc_release() != recorded["nvcc"]:
        pytest.skip(f"the table is of nvcc {recorded['nvcc']}, this is {script.nvcc_release()}")
    assert [asdict(kernel) for kernel in kernels] == before, "run `make cuda-compile`"
