"""Stand-ins for flash-attn and flash-attn-4: their documented signatures, computed by plain torch.

They refuse what the libraries refuse, and compute in float32.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch


def attention(q, k, v, rows, keys, *, scale, left, softcap=0.0, sink=None):
    """Causal attention of sequences; the mask is aligned to the last row and the last key.

    Args:
        q: ``[total_q, heads, dim]``, as ``k`` and ``v`` with fewer heads.
        rows: ``[n + 1]`` int32, where each sequence's rows begin, as ``keys`` for its keys.
        left: Keys before a row's own position that it sees; None for all.
    """
    for offsets in (rows, keys):
        assert offsets.dtype == torch.int32
        assert offsets.is_contiguous()
        assert int(offsets[0]) == 0
    assert (int(rows[-1]), int(keys[-1])) == (len(q), len(k))
    out = torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype)
    group = q.shape[1] // k.shape[1]
    for n in range(len(rows) - 1):
        a, b, c, d = (int(i) for i in (*rows[n : n + 2], *keys[n : n + 2]))
        heads = (t.float().repeat_interleave(group, 1).transpose(0, 1) for t in (k[c:d], v[c:d]))
        one_k, one_v = heads
        scores = q[a:b].float().transpose(0, 1) @ one_k.transpose(1, 2) * scale
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        at = torch.arange(b - a)[:, None] + (d - c) - (b - a)
        key = torch.arange(d - c)[None]
        seen = (key <= at) if left is None else (key <= at) & (key >= at - left)
        scores = scores.masked_fill(~seen, -torch.inf)
        total = scores.logsumexp(-1, keepdim=True)
        if sink is not None:
            total = torch.logaddexp(total, sink.float()[:, None, None])
        out[a:b] = ((scores - total).exp() @ one_v).transpose(0, 1).to(q.dtype)
    return out


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    """FlashAttention-2's, of flash_attn/flash_attn_interface.py at version 2.8.4."""
    assert causal
    assert dropout_p == 0
    assert q.dtype in (torch.bfloat16, torch.float16)
    assert q.dtype == k.dtype == v.dtype
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert q.shape[2] == k.shape[2] == v.shape[2] <= 256
    assert q.shape[2] % 8 == 0
    lengths = [torch.diff(offsets) for offsets in (cu_seqlens_q, cu_seqlens_k)]
    assert [int(n.max()) for n in lengths] == [max_seqlen_q, max_seqlen_k]
    if max_seqlen_q == 1:  # it then takes rows for sequences
        assert len(q) == len(cu_seqlens_q) - 1
    left, right = window_size
    assert right in (0, -1)
    return attention(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        scale=softmax_scale,
        left=None if left < 0 else left,
        softcap=softcap,
    )


def cute_varlen_func(
    q,
    k,
    v,
    qv=None,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    max_seqlen_q=None,
    max_seqlen_k=None,
    min_seqlen_k=None,
    seqused_q=None,
    seqused_k=None,
    gather_kv_indices=None,
    page_table=None,
    softmax_scale=None,
    causal=False,
    window_size=(None, None),
    learnable_sink=None,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    score_mod=None,
    score_mod_bwd=None,
    mask_mod=None,
    block_sparse_tensors=None,
    aux_tensors=None,
    aux_scalars=None,
    return_lse=False,
    scheduler_metadata=None,
    seqlen_k_per_split=None,
    disable_scheduler_metadata=False,
):
    """FlashAttention-4's, of flash_attn/cute/interface.py at commit 0251105."""
    assert causal
    assert num_splits == 1
    assert q.dtype in (torch.bfloat16, torch.float16)
    assert q.dtype == k.dtype == v.dtype
    lengths = [torch.diff(offsets) for offsets in (cu_seqlens_q, cu_seqlens_k)]
    assert [int(n.max()) for n in lengths] == [max_seqlen_q, max_seqlen_k]
    left, right = window_size
    assert right in (0, None)
    if learnable_sink is not None:
        assert learnable_sink.shape == (q.shape[1],)
    out = attention(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        scale=softmax_scale,
        left=left,
        softcap=softcap,
        sink=learnable_sink,
    )
    return out, None


def install(monkeypatch) -> None:
    """Both as modules that `import` finds."""
    two, four = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    two.__path__ = []
    two.flash_attn_varlen_func = flash_attn_varlen_func
    four.flash_attn_varlen_func = cute_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", two)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", four)


def flash_attention_forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
):
    """torch's operator aten::_flash_attention_forward, but for what came to it later."""
    assert is_causal
    assert not return_debug_mask
    left = -1 if window_size_left is None else window_size_left
    right = -1 if window_size_right is None else window_size_right
    out = flash_attn_varlen_func(
        query,
        key,
        value,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
        dropout_p,
        scale,
        is_causal,
        (left, right),
    )
    return out, None, None, None, None
