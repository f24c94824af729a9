"""Compile every Triton kernel in every default configuration for sm_80 and sm_90; no device needed.

python -m benchmarks.gpu.compile                                    # ten minutes
python -m benchmarks.gpu.compile --target 80 --only attention-bf16  # keeps the rest

Writes compile_table_VERSION.json and .md in benchmarks/gpu, for the installed version of triton.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import triton

from benchmarks.gpu.compile.ahead_of_time import compile_for
from benchmarks.gpu.compile.compile_table import Table, entry_of, read_table, write_table
from benchmarks.gpu.compile.default_builds import default_builds
from icm_fast.kernels.tree_attention.tiles import TARGETS

PATH = Path(__file__).resolve().parents[1] / f"compile_table_{triton.__version__}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=int, choices=TARGETS, action="append")
    parser.add_argument("--only", default="", help="regular expression for names of builds")
    options = parser.parse_args()
    table = kept_rows()
    for target in options.target or TARGETS:
        rows = table.setdefault(target, {})
        for build in default_builds(target):
            if re.search(options.only, build.name):
                rows[build.name] = entry_of(build, compile_for(build, target))
                print(target, build.name, rows[build.name].resources, flush=True)
        write_table(PATH, triton.__version__, table)


def kept_rows() -> Table:
    """Rows of the existing table whose builds are still defaults."""
    if not PATH.exists():
        return {}
    _, table = read_table(PATH)
    today = {t: {build.name: build.sizes for build in default_builds(t)} for t in table}
    return {
        target: {name: e for name, e in rows.items() if today[target].get(name) == e.sizes}
        for target, rows in table.items()
    }


if __name__ == "__main__":
    main()
