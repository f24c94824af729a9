"""The options of ``--ray``, and where models are opened with and without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from icm_fast.cli.settings import say
from icm_fast.errors import InputError
from icm_fast.scoring.models import OpenModel, open_model

_PANEL = "Many processes and machines"
_LOCAL = "local"
_ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Work on Ray: on this machine, or with auto or HOST:PORT on a running cluster.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        "--ray-workers",
        metavar="N",
        help="Workers; one for each GPU, or without any for each processor, by default.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
RayGpus = Annotated[
    int | None,
    typer.Option(
        "--ray-gpus",
        metavar="N",
        help="GPUs of each worker, where there are any; 1 by default.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """The arguments with an address after each ``--ray`` that has none."""
    words: list[str] = []
    for place, word in enumerate(arguments):
        words.append(word)
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if word == "--ray" and not _ADDRESS.fullmatch(following):
            words.append(_LOCAL)
    return words


@contextmanager
def models(ray: str | None, workers: int | None, gpus: int | None) -> Iterator[OpenModel]:
    """What opens models: in this process, or in workers of Ray until the block ends.

    Raises:
        InputError: Options of workers without ``--ray``; see also :func:`icm_fast.cluster.on_ray`.
    """
    if ray is None:
        for name, value in (("--ray-workers", workers), ("--ray-gpus", gpus)):
            if value is not None:
                raise InputError(f"{name} is for work on Ray; add --ray, or drop {name}")
        yield open_model
        return
    from icm_fast.cluster import RayRequest, on_ray

    if workers == 0:
        raise InputError("--ray-workers is 0; pass 1 to 10000, or leave it out")
    request = RayRequest(ray, workers or 0, 1 if gpus is None else gpus)
    with on_ray(request, lambda text: say(f"icm-fast: {text}", err=True)) as cluster:
        yield cluster.model
