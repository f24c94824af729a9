"""Tree attention inside transformers models: writes keys and values to the pool and reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from icm_fast.kernels.tree_attention import AttentionWork
from icm_fast.kernels.tree_attention.select import select_tree_attention
from icm_fast.model.forward.kv_store import KVStore

IMPLEMENTATION = "icm_fast_tree"


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """What a forward pass passes to each attention layer."""

    store: KVStore
    work: AttentionWork
    slots: torch.Tensor  # [n_tokens] int64: pool slot of each packed row
    # Sliding window of each layer that ran, as its module passed it.
    windows: dict[int, int | None] = field(default_factory=dict)


def tree_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    tree_batch: TreeBatch | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention function in transformers' interface.

    Args:
        module: The attention layer; its ``layer_idx`` names the pool.
        query: ``[1, n_heads, n_tokens, head_dim]``, rotary positions already applied.
        key: ``[1, n_kv_heads, n_tokens, head_dim]``.
        value: ``[1, n_kv_heads, n_tokens, value_dim]``.
        attention_mask: Ignored: the segments define what each row sees.
        scaling: Factor on the dot products; ``head_dim ** -0.5`` if None.
        tree_batch: The segments of this forward pass.
        sliding_window: See ``naive.tree_attention``.
        softcap: See ``naive.tree_attention``.
        s_aux: Sinks, in the same place.
        **_: Other arguments of transformers, such as dropout, are ignored.

    Returns:
        ``[1, n_tokens, n_heads, value_dim]`` and no attention weights.
    """
    if tree_batch is None:
        raise RuntimeError("tree attention was called without its batch; use ModelRunner.forward")
    layer = int(module.layer_idx)
    tree_batch.windows[layer] = sliding_window
    keys, values = tree_batch.store.write(layer, key[0], value[0], tree_batch.slots)
    attend = select_tree_attention(query[0], values, softcap=softcap, sinks=s_aux)
    out = attend(
        query[0],
        keys,
        values,
        tree_batch.work,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return out.transpose(0, 1)[None], None


# transformers looks up implementations by name; registering twice is harmless.
AttentionInterface.register(IMPLEMENTATION, tree_attention_forward)


@contextmanager
def tree_attention_enabled(model: PreTrainedModel) -> Iterator[None]:
    """Switch a model to tree attention and back: the naive scorer uses the same model."""
    configs = _configs(model)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = IMPLEMENTATION
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


def _configs(model: PreTrainedModel) -> list[PretrainedConfig]:
    """Every distinct configuration object that some module of the model reads."""
    found: dict[int, PretrainedConfig] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            found[id(config)] = config
    return list(found.values())
