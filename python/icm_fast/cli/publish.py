"""The commands ``icm-fast merge`` and ``icm-fast push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icm_fast.cli.settings import say
from icm_fast.errors import InputError

_Adapter = Annotated[
    Path,
    typer.Argument(
        metavar="ADAPTER",
        help="Folder of a training with adapters, or of a peft adapter.",
        show_default=False,
    ),
]
_MergedFolder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Empty or new folder of the whole model.",
        show_default=False,
    ),
]
_Dtype = Annotated[
    str, typer.Option(metavar="NAME", help="Of the weights: auto, float32, bfloat16 or float16.")
]
_Device = Annotated[str, typer.Option(metavar="NAME", help="Where to merge: auto, cpu or cuda.")]
_Trained = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of a training, of an adapter or of a merged model.",
        show_default=False,
    ),
]
_Repository = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", help="Model on the Hub.", show_default=False)
]
_HubOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Folder of what is pushed; FOLDER/hub by default.",
        show_default=False,
    ),
]
_Private = Annotated[
    bool,
    typer.Option("--private/--public", help="Make a new repository private or public."),
]
_License = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="License of the model, for the card.", show_default=False),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Write the folder but upload nothing.")]


def merge(
    adapter: _Adapter, output: _MergedFolder, dtype: _Dtype = "auto", device: _Device = "auto"
) -> None:
    """Merge an adapter into its base and write the whole model."""
    from icm_fast.config import DTYPES
    from icm_fast.errors import suggest
    from icm_fast.training.publish import merge as merge_adapter

    if dtype not in DTYPES:
        raise InputError(f"unknown --dtype {dtype!r}{suggest(dtype, DTYPES)}")
    done = merge_adapter(adapter, output, dtype=dtype, device=device)
    say(
        f"Merged: {done.folder}\n"
        f"Read back with the same weights; on a probe it differs from the adapter by "
        f"{done.difference:.2g} of the largest value."
    )


def push(
    folder: _Trained,
    repository: _Repository,
    output: _HubOutput = None,
    private: _Private = True,
    license: _License = None,
    dry_run: _DryRun = False,
) -> None:
    """Upload a trained model with a card to the Hugging Face Hub."""
    from icm_fast.export.hub_push import MODEL, check_repository
    from icm_fast.export.hub_push import push as upload
    from icm_fast.training.publish import write_model_folder

    check_repository(repository, MODEL)
    written = write_model_folder(folder, output or folder / "hub", license=license)
    say(f"{len(written.files)} files in {written.folder}: {', '.join(written.files)}")
    if not dry_run:
        say(f"Pushed to {upload(written, repository, private=private)}")
