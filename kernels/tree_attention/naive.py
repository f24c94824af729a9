"""Tree attention, slow and obvious: the definition that every faster one is tested against."""

from __future__ import annotations

import math

import torch

from icm_fast.kernels.tree_attention.work import AttentionWork, SegmentWork


def tree_attention(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    work: AttentionWork,
    *,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend every segment's queries over its ancestors' ranges and causally over itself.

    Args:
        query: ``[n_heads, n_tokens, head_dim]``, rows packed in segment order.
        key_pool: ``[n_kv_heads, pool_tokens, head_dim]``; own keys are already in place.
        value_pool: ``[n_kv_heads, pool_tokens, value_dim]``.
        work: The segments.
        scaling: Factor on the dot products.
        sliding_window: A query at position p sees keys at positions > p - sliding_window.
        softcap: Scores become ``softcap * tanh(score / softcap)`` (Gemma 2).
        sinks: ``[n_heads]`` logits that enter the softmax without a value.

    Returns:
        ``[n_heads, n_tokens, value_dim]`` in the dtype of ``query``; sums in float32.
    """
    out = query.new_empty(query.shape[0], work.n_tokens, value_pool.shape[-1])
    for segment in work.segments:
        out[:, segment.begin : segment.end] = _segment(
            query, key_pool, value_pool, segment, scaling, sliding_window, softcap, sinks
        )
    return out


def _segment(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    segment: SegmentWork,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    length = segment.end - segment.begin
    slots = segment.ranges_seen()
    keys = torch.cat([key_pool[:, a:b] for a, b in slots], dim=1).float()
    values = torch.cat([value_pool[:, a:b] for a, b in slots], dim=1).float()
    group = query.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = query[:, segment.begin : segment.end].float() @ keys.transpose(1, 2) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    visible = visibility(segment, sliding_window, query.device)
    scores = scores.masked_fill(~visible, -math.inf)
    if sinks is not None:
        column = sinks.float()[:, None, None].expand(-1, length, 1)
        weights = torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights @ values).to(query.dtype)


def visibility(
    segment: SegmentWork, sliding_window: int | None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Which keys (ancestors, then own) each query of the segment sees: ``[length, keys]`` bool."""
    length = segment.end - segment.begin
    positions = torch.arange(segment.start, segment.start + length, device=device)[:, None]
    keys = torch.arange(segment.start + length, device=device)[None, :]
    visible = keys <= positions
    if sliding_window:
        visible &= keys > positions - sliding_window
    return visible
