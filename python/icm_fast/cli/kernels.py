"""The command ``icm-fast tune-kernels``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from icm_fast.cli.settings import say
from icm_fast.errors import InputError
from icm_fast.model.lazy import LazyModel

if TYPE_CHECKING:
    import torch

    from icm_fast.model.forward.tile_search import TimedTile


def tune_kernels(
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Model whose attention heads the tiles should suit.",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="auto, bfloat16, float16 or float32.")
    ] = "auto",
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cuda or cuda:N.")] = "auto",
    n: Annotated[int, typer.Option(metavar="N", help="Number of examples in the timed tree.")] = 64,
) -> None:
    """Find the fastest Triton attention tiles for this GPU, and the fastest attention.

    Later runs use them: an attention of another library only if it is faster than ours by more than
    a tenth. Do not tune between a run and its resumption: others round differently.
    """
    from icm_fast.kernels.tree_attention.measured import store_times
    from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
    from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape, store_tiles
    from icm_fast.model.forward.tile_search import TreeSize, tune
    from icm_fast.model.forward.version_search import time_versions
    from icm_fast.model.kv_size import head_dim, kv_heads

    if n < 2:
        raise InputError(f"--n {n} is too small; a tree has 2 examples or more")
    loaded = LazyModel(model, dtype=dtype, device=device).load()
    _require_kernels(loaded.device)
    from icm_fast.kernels.tree_attention.triton import device_tiles

    config = loaded.model.config.get_text_config(decoder=True)
    n_kv_heads, width = kv_heads(config), head_dim(config)
    if width > HEAD_DIMS[-1]:
        raise InputError(
            f"heads of {model} are {width} wide; the kernel takes up to {HEAD_DIMS[-1]}, and "
            "torch's attention serves wider ones"
        )
    shape = HeadShape(config.num_attention_heads // n_kv_heads, width, width, loaded.model.dtype)
    former = device_tiles(shape, loaded.device)
    found = tune(
        shape, n_kv_heads, loaded.device, former=former, size=TreeSize(n=n), report=_report
    )
    for kind, (best, before) in (("long", found.long), ("short", found.short)):
        say(f"{kind} segments: {_sizes(best)}, before: {_sizes(before)}")
    say(f"stored in {store_tiles(found.pair, shape, loaded.device)}")
    times = time_versions(
        shape,
        n_kv_heads,
        loaded.device,
        n_layers=config.num_hidden_layers,
        size=TreeSize(n=n),
        report=_report_version,
    )
    path = store_times(times, shape, loaded.device)
    say(f"{times.fastest_library() or times.ours} serves; stored in {path}")


def _require_kernels(device: torch.device) -> None:
    from icm_fast.kernels.triton_devices import NEEDS_TRITON, has_triton_kernels, is_interpreted

    if not (has_triton_kernels(device) or is_interpreted(device)):
        raise InputError(f"device {device} has no Triton kernels; {NEEDS_TRITON}")


def _report(kind: str, timed: TimedTile) -> None:
    say(f"{kind} {_sizes(timed)}", err=True)


def _report_version(name: str, seconds: float | None, reason: str) -> None:
    say(f"attention by {name}: {reason if seconds is None else f'{1e3 * seconds:.2f} ms'}")


def _sizes(timed: TimedTile) -> str:
    tile = timed.tile
    sizes = f"{tile.block_m} x {tile.block_n}, {tile.num_warps} warps, {tile.num_stages} stages"
    took = timed.reason if timed.seconds is None else f"{1e3 * timed.seconds:.2f} ms"
    return f"{sizes}: {took}"
