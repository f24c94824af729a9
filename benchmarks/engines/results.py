"""The files of a benchmark: NAME.json, NAME.md and NAME.png."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.engines.cases import Case
from benchmarks.engines.curve import run_curve
from benchmarks.engines.curve_report import curve_plot, curve_table
from benchmarks.engines.document import benchmark_document
from benchmarks.engines.launch import Launcher
from benchmarks.engines.plot import benchmark_plot
from benchmarks.engines.run import Settings, run_benchmark
from benchmarks.engines.table import benchmark_table
from benchmarks.engines.variants import Variant
from icm_fast.experiments.figures import figure_module
from icm_fast.files import write_atomically, writing
from icm_fast.types import Reporter


def benchmark_to_files(
    case: Case,
    variants: list[Variant],
    launcher: Launcher,
    settings: Settings,
    *,
    folder: Path,
    command: str,
    progress: Reporter | None,
) -> str:
    """Measure the variants of a case, write the files and return the Markdown.

    Raises:
        InputError: Something is missing, or a file can't be written.
    """
    prepare(folder)
    benchmark = run_benchmark(case, variants, launcher, settings, progress)
    document = benchmark_document(benchmark, command)
    return write_results(
        folder, case.name, document, benchmark_table(document), benchmark_plot(document)
    )


def curve_to_files(
    case: Case,
    sizes: list[int],
    launcher: Launcher,
    settings: Settings,
    *,
    folder: Path,
    command: str,
    progress: Reporter | None,
) -> str:
    """Measure our scorer at several sizes, write the files and return the Markdown.

    Raises:
        InputError: Something is missing, or a file can't be written.
    """
    prepare(folder)
    document = run_curve(case, sizes, launcher, settings, progress, command)
    return write_results(folder, case.name, document, curve_table(document), curve_plot(document))


def prepare(folder: Path) -> None:
    """Check matplotlib and the folder before the measurements, not after them.

    Raises:
        InputError: matplotlib is missing, or the folder can't be created.
    """
    figure_module()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_results(
    folder: Path, name: str, document: dict[str, Any], table: str, picture: bytes
) -> str:
    """Write the three files and return the Markdown."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{name}.json", text.encode())
    write_atomically(folder / f"{name}.md", f"{table}\n".encode())
    write_atomically(folder / f"{name}.png", picture)
    return table
