"""Triton kernels compiled for absent devices, against the committed table."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.gpu.compile.ahead_of_time import assembler, compile_for  # noqa: E402
from benchmarks.gpu.compile.compile_table import entry_of, read_table, write_table  # noqa: E402
from benchmarks.gpu.compile.default_builds import default_builds  # noqa: E402
from icm_fast.kernels.tree_attention.tiles import SHARED_BYTES, TARGETS  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
PATHS = sorted(FOLDER.glob("compile_table_*.json"))
TABLES = dict(read_table(path) for path in PATHS)
"""By version of triton, whose compiler determines the numbers."""

REGISTERS = 8
"""Another build of the same assembler may allocate one step more or less."""

QUICK = re.compile(
    r"-bf16-(64|128)-(long|short)$|^(merge|rope_kv_write)-bf16-80$|^vocabulary-.*bf16$"
    r"|^add_rms_norm-bf16-8192$|^gated_activation-bf16-"
)
BUILDS = {(t, build.name): build for t in TARGETS for build in default_builds(t)}


def needs_assembler(target):
    if not assembler(target).is_file():
        pytest.skip(f"no ptxas at {assembler(target)}")


def recompile(target, name):
    needs_assembler(target)
    table = TABLES.get(triton.__version__)
    if table is None:
        pytest.skip(f"tables are of triton {', '.join(TABLES)}, this is {triton.__version__}")
    taken, expected = compile_for(BUILDS[target, name], target), table[target][name].resources
    assert taken.spill_bytes == 0
    assert taken.shared_bytes == expected.shared_bytes
    assert abs(taken.registers - expected.registers) <= REGISTERS


@pytest.mark.parametrize("version", TABLES)
def test_a_table_has_every_default(version):
    assert {(t, name) for t, rows in TABLES[version].items() for name in rows} == set(BUILDS)


@pytest.mark.parametrize("version", TABLES)
@pytest.mark.parametrize("target", TARGETS)
def test_defaults_spill_nothing_and_fit_the_device(version, target):
    for name, entry in TABLES[version][target].items():
        assert entry.resources.spill_bytes == 0, name
        assert entry.resources.shared_bytes <= SHARED_BYTES[target], name
        assert entry.sizes == BUILDS[target, name].sizes, name
        assert entry.programs_per_sm(target) >= 1, name


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_markdown_is_that_of_the_table(path, tmp_path):
    copy = tmp_path / path.name
    write_table(copy, *read_table(path))
    assert copy.read_text() == path.read_text()
    assert copy.with_suffix(".md").read_text() == path.with_suffix(".md").read_text()


@pytest.mark.parametrize(("target", "name"), [key for key in BUILDS if QUICK.search(key[1])])
def test_typical_kernels_compile_as_in_the_table(target, name):
    recompile(target, name)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name"), [key for key in BUILDS if not QUICK.search(key[1])])
def test_every_other_kernel_compiles_as_in_the_table(target, name):
    recompile(target, name)


@pytest.mark.parametrize(
    ("name", "ones"),
    [
        ("tree_attention-bf16-64-short-options", ("kv_heads", "window")),
        ("merge-bf16-64", ("kv_heads",)),
        ("label_rows-bf16-2048", ("n_tokens",)),
        ("vocabulary-bf16-bf16", ("n_rows", "parts")),
        ("rope_kv_write-bf16-64", ("n_tokens", "n_heads")),
        ("add_rms_norm-bf16-2048", ("n_rows",)),
        ("gated_activation-bf16-silu", ("width", "gate_row_stride", "up_row_stride")),
    ],
)
def test_ones_compile(name, ones):
    """Triton turns an argument of 1 into a constant, and constants have other methods."""
    target = TARGETS[0]  # what Triton's language allows is the same for all
    needs_assembler(target)
    build = BUILDS[target, name]
    arguments = {k: v for k, v in build.arguments.items() if k not in ones}
    fixed = {**build.constants, **dict.fromkeys(ones, 1)}
    compile_for(replace(build, arguments=arguments, constants=fixed), target)


def test_a_spill_would_show():
    """A tile that needs far too many registers: the assembler's log reports spills."""
    from benchmarks.gpu.compile.default_builds import attention_build
    from icm_fast.kernels.tree_attention.tiles import Tile

    build = attention_build("wide", "bf16", 128, Tile(128, 64, 4, 2), options=True)
    needs_assembler(80)
    resources = compile_for(build, 80)
    assert resources.spill_bytes > 0
    assert entry_of(build, resources).programs_per_sm(80) <= 2
