"""The command ``python -m benchmarks.engines``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from icm_fast.cli import run_app
from icm_fast.engine.progress import make_progress
from icm_fast.errors import InputError

if TYPE_CHECKING:
    from benchmarks.engines.cases import Case
    from benchmarks.engines.launch import Launcher
    from benchmarks.engines.run import Progress, Settings

NAME = "python -m benchmarks.engines"

app = typer.Typer(add_completion=False)


class _Shared(TypedDict):
    """Arguments of every benchmark."""

    launcher: Launcher
    settings: Settings
    folder: Path
    command: str
    progress: Progress


def run(arguments: Sequence[str]) -> int:
    """Run one command line; 0 on success, 2 on bad input."""
    return run_app(app, arguments, NAME)


@app.command()
def bench(
    case: Annotated[
        str | None,
        typer.Option(help="smollm2-truthfulqa-64, gemma3-truthfulqa-64 or qwen-shape-32."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Peer or one of its variants; may be repeated. Default: all."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, instead of the case's.")] = None,
    task: Annotated[str | None, typer.Option(help="Task, instead of the case's.")] = None,
    data: Annotated[str | None, typer.Option(help="Data file of the task.")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of examples.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of examples, labels, orders.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed repeats, each with a cold cache.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads, each pinned to a CPU.")] = 2,
    max_seconds: Annotated[
        float,
        typer.Option(help="Time limit of one repeat; slower peers measure a part. 0: no limit."),
    ] = 0.0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the result files.")
    ] = Path("benchmarks/results"),
    peers_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the environments built by `make peers`; .peers of this clone by "
            "default.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Time our scorer alone, over n.")] = False,
    sizes: Annotated[str, typer.Option(help="Sizes of the curve.")] = "8,16,32,64,128,256",
) -> None:
    """Time one exact U(D) against other engines; answers are verified first."""
    from benchmarks.engines.cases import choose_case
    from benchmarks.engines.launch import PEERS_DIR, Launcher
    from benchmarks.engines.run import Settings

    counts = _read_sizes(sizes) if curve else []
    chosen = choose_case(
        case,
        model=model,
        task=task,
        data=data,
        n=max(counts) if counts else limit,
        dtype=dtype,
        seed=seed,
    )
    if curve:
        chosen = dataclasses.replace(chosen, name=_curve_name(chosen))
    shared: _Shared = {
        "launcher": Launcher(peers_dir or PEERS_DIR, threads),
        "settings": Settings(repeats, max_seconds),
        "folder": output,
        "command": f"{NAME} {shlex.join(sys.argv[1:])}",
        "progress": make_progress(),
    }
    text = _curve(chosen, counts, shared) if curve else _peers(chosen, peer or [], shared)
    typer.echo(f"{text}\n\nFiles: {output / chosen.name}.json, .md, .png")


def _curve(case: Case, sizes: list[int], shared: _Shared) -> str:
    from benchmarks.engines.results import curve_to_files

    return curve_to_files(case, sizes, **shared)


def _peers(case: Case, names: list[str], shared: _Shared) -> str:
    from benchmarks.engines.results import benchmark_to_files
    from benchmarks.engines.variants import choose_variants

    return benchmark_to_files(case, choose_variants(names), **shared)


def _curve_name(case: Case) -> str:
    dtype = "" if case.dtype == "auto" else f"-{case.dtype}"
    return f"{Path(case.model).stem}-{case.task}-curve{dtype}"


def _read_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise InputError(f"--sizes {text!r} is not a list of numbers; try 8,16,32") from None
    if sizes[0] < 2:
        raise InputError(f"--sizes {text!r} contains {sizes[0]}; sizes must be 2 or more")
    return sizes
