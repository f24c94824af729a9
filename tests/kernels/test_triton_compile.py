"""Triton kernels compiled for devices that are not there, against the committed table."""

import re
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from icm_fast.kernels.ahead_of_time import compile_for, ptxas_path  # noqa: E402
from icm_fast.kernels.compile_table import Entry, read_table, write_table  # noqa: E402
from icm_fast.kernels.default_builds import default_builds  # noqa: E402
from icm_fast.kernels.tree_attention.tiles import SHARED_BYTES, TARGETS  # noqa: E402

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "compile_table.json"
VERSION, TABLE = read_table(PATH)
REGISTERS = 8
"""Another build of the same assembler may allocate a step more or less."""

QUICK = re.compile(
    r"-bf16-(64|128)-(long|short)$|^(merge|rope_kv_write)-bf16-80$|^vocabulary-.*bf16$"
)
BUILDS = {(t, build.name): build for t in TARGETS for build in default_builds(t)}


def recompile(target, name):
    if not Path(ptxas_path(target)).is_file():
        pytest.skip(f"no ptxas at {ptxas_path(target)}")
    if triton.__version__ != VERSION:
        pytest.skip(f"the table is of triton {VERSION}, this is {triton.__version__}")
    taken, expected = compile_for(BUILDS[target, name], target), TABLE[target][name].resources
    assert taken.spill_bytes == 0
    assert taken.shared_bytes == expected.shared_bytes
    assert abs(taken.registers - expected.registers) <= REGISTERS


def test_the_table_has_every_default():
    assert {(t, name) for t, rows in TABLE.items() for name in rows} == set(BUILDS)


@pytest.mark.parametrize("target", TARGETS)
def test_defaults_spill_nothing_and_fit_the_device(target):
    for name, entry in TABLE[target].items():
        assert entry.resources.spill_bytes == 0, name
        assert entry.resources.shared_bytes <= SHARED_BYTES[target], name
        assert entry.num_warps == BUILDS[target, name].num_warps, name
        assert entry.programs_per_sm(target) >= 1, name


def test_markdown_is_that_of_the_table(tmp_path):
    write_table(tmp_path / PATH.name, VERSION, TABLE)
    assert (tmp_path / PATH.name).read_text() == PATH.read_text()
    copy = (tmp_path / PATH.name).with_suffix(".md").read_text()
    assert copy == PATH.with_suffix(".md").read_text()


@pytest.mark.parametrize(("target", "name"), [key for key in BUILDS if QUICK.search(key[1])])
def test_typical_kernels_compile_as_in_the_table(target, name):
    recompile(target, name)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name"), [key for key in BUILDS if not QUICK.search(key[1])])
def test_every_other_kernel_compiles_as_in_the_table(target, name):
    recompile(target, name)


def test_a_spill_would_show():
    """A tile far beyond the registers: the log of the assembler says so."""
    from icm_fast.kernels.default_builds import attention_build
    from icm_fast.kernels.tree_attention.tiles import Tile

    build = attention_build("wide", "bf16", 128, Tile(128, 64, 4, 2), options=True)
    if not Path(ptxas_path(80)).is_file():
        pytest.skip("no ptxas")
    resources = compile_for(build, 80)
    assert resources.spill_bytes > 0
    assert Entry(resources, 4).programs_per_sm(80) <= 2
