"""Tree attention by torch's FlexAttention: one call over the keys of a batch, each of them once.

The keys that some segment of the batch sees are copied out of the pool in pool order (a key that is
masked still meets its value, and the pool's other slots may hold NaN), and a block mask says which
blocks of 128 keys a block of 128 rows reads. It is made on the host from the segments' ranges.

A key needs three numbers then: its position, and the first and last row that see it. That describes
a batch in which the segments that see a key are side by side, as in every tree; others are divided
into consecutive parts in which they are, and the parts take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.kernels.one_copy import one_copy
from icm_fast.kernels.tree_attention.work import (
    AttentionWork,
    SegmentWork,
    check_tensors,
    check_work,
)

BLOCK = 128
"""Rows and keys of a block: FlexAttention's own default, which its kernels' tiles divide."""

_RECOMPILATIONS = 64
"""Shapes of heads, options and dtypes of a process that are compiled; torch stops after 8."""

IntArray = npt.NDArray[np.int32]
_Mod = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive segments of a batch in which those that see a key are side by side.

    Attributes:
        rows: Their rows in the batch.
        slots: ``[n_keys]`` int32, pool slots of the keys that some of them see, ascending.
        mask: Block mask of the rows and these keys.
    """

    rows: slice
    slots: torch.Tensor
    mask: Any


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
    """Same contract as :func:`icm_fast.kernels.tree_attention.naive.tree_attention`.

    Raises:
        ValueError: Shapes, dtypes, ranges or slots do not match, or a context holds a slot twice.
    """
    check_tensors(query, key_pool, value_pool, sinks)
    n_heads, n_tokens, _ = query.shape
    pool_tokens = key_pool.shape[1]
    plan = ("flex", sliding_window, key_pool.device)
    parts = work.plans.get(plan)
    if parts is None:
        check_work(work, n_tokens, pool_tokens)
        parts = work.plans[plan] = _parts(work, pool_tokens, sliding_window, key_pool.device)
    assert isinstance(parts, tuple)
    outs = [query.new_empty(n_heads, 0, value_pool.shape[2])]
    attend = _attention(query.device.type == "cuda")
    score_mod = _capped(softcap) if softcap else None
    for part in parts:
        keys, values = (pool.index_select(1, part.slots)[None] for pool in (key_pool, value_pool))
        outs.append(
            attend(query[None, :, part.rows], keys, values, part.mask, score_mod, scaling, sinks)
        )
    return outs[1] if len(outs) == 2 else torch.cat(outs, dim=1)


Attention = Callable[..., torch.Tensor]
"""Of query, keys and values with a leading 1, mask, score_mod, scaling and sinks."""


@cache
def _attention(compiled: bool) -> Attention:
    """FlexAttention, compiled for any number of rows and keys, or as it is.

    Compiled as a whole graph: torch would otherwise run the uncompiled one, which keeps all scores,
    where it gives up.
    """
    from torch._dynamo import config
    from torch.nn.attention.flex_attention import flex_attention

    flex: Any = flex_attention
    if compiled:
        flex = torch.compile(flex, dynamic=True, fullgraph=True)
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"

    def attend(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: Any,
        score_mod: _Mod | None,
        scaling: float,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        options: dict[str, Any] = {
            "score_mod": score_mod,
            "block_mask": mask,
            "scale": scaling,
            "enable_gqa": True,
            # Otherwise few rows take another kernel, and a row's sums depend on their number.
            "kernel_options": {"FORCE_USE_FLEX_ATTENTION": True},
            **(_with_lse() if sinks is not None else {}),
        }
        with config.patch({name: _RECOMPILATIONS}):
            found: Any = flex(query, keys, values, **options)
        if sinks is None:
            out: torch.Tensor = found[0]
            return out
        out, aux = found
        lse = getattr(aux, "lse", aux)[0]
        # A sink adds exp(sink) to the sum of each row's exponentials.
        share = torch.sigmoid(lse.float() - sinks.float()[:, None])
        return (out[0].float() * share[..., None]).to(query.dtype)

    return attend


def _with_lse() -> dict[str, Any]:
    """Options by which FlexAttention returns the log-sum-exp of each row's scores, too."""
    from torch.nn.attention import flex_attention

    request = getattr(flex_attention, "AuxRequest", None)
    return {"return_lse": True} if request is None else {"return_aux": request(lse=True)}


def _capped(softcap: float) -> _Mod:
    def capped(
        score: torch.Tensor,
        batch: torch.Tensor,
        head: torch.Tensor,
        row: torch.Tensor,
        key: torch.Tensor,
    ) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def _visible(
    first: torch.Tensor,
    last: torch.Tensor,
    position: torch.Tensor,
    row_position: torch.Tensor,
    sliding_window: int | None,
) -> _Mod:
    """Whether a row sees a key.

    Args:
        first: ``[n_keys]``, first row that sees a key.
        last: ``[n_keys]``, one past the last.
        position: ``[n_keys]``, position of a key in the contexts that hold it.
        row_position: ``[n_rows]``, position of a row.
        sliding_window: A query at position p sees keys at positions > p - sliding_window.
    """

    def visible(
        batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        seen = (first[key] <= row) & (row < last[key]) & (position[key] <= row_position[row])
        if sliding_window:
            seen = seen & (position[key] > row_position[row] - sliding_window)
        return seen

    return visible


@dataclass(frozen=True, slots=True)
class _Keys:
    """The slots that consecutive segments see; see :func:`_visible`.

    Attributes:
        segments: The segments.
        first: ``[pool_tokens]`` int32, row of the batch.
        last: ``[pool_tokens]`` int32, row of the batch; 0 for slots that none sees.
        position: ``[pool_tokens]`` int32.
    """

    segments: list[SegmentWork]
    first: IntArray
    last: IntArray
    position: IntArray

    @classmethod
    def none(cls, pool_tokens: int) -> _Keys:
        first, last, position = (np.zeros(pool_tokens, np.int32) for _ in range(3))
        return cls([], first, last, position)

    def add(self, segment: SegmentWork) -> bool:
        """Add a segment; False where the three numbers could not say what it sees."""
        at = 0
        for begin, end in segment.ranges_seen():
            last, position = self.last[begin:end], self.position[begin:end]
            places = np.arange(at, at + end - begin, dtype=np.int32)
            seen_before = last != 0
            beside = (last == segment.begin) & (position == places)
            if not bool((beside | ~seen_before).all()):
                return False
            first = self.first[begin:end]
            first[~seen_before] = segment.begin
            last[:], position[:] = segment.end, places
            at += end - begin
        self.segments.append(segment)
        return True


def _parts(
    work: AttentionWork, pool_tokens: int, sliding_window: int | None, device: torch.device
) -> tuple[Part, ...]:
    parts: list[Part] = []
    keys = _Keys.none(pool_tokens)
    for segment in work.segments:
        if segment.begin == segment.end:
            continue
        if keys.add(segment):
            continue
        whole = _Keys.none(pool_tokens)  # what was added of the segment is not taken back
        for earlier in keys.segments:
            whole.add(earlier)
        if whole.segments:
            parts.append(_part(whole, sliding_window, device))
        keys = _Keys.none(pool_tokens)
        if not keys.add(segment):
            raise ValueError("a context holds a slot twice, which FlexAttention cannot express")
    if keys.segments:
        parts.append(_part(keys, sliding_window, device))
    return tuple(parts)


def _part(keys: _Keys, sliding_window: int | None, device: torch.device) -> Part:
    from torch.nn.attention.flex_attention import BlockMask

    begin, end = keys.segments[0].begin, keys.segments[-1].end
    slots = np.flatnonzero(keys.last).astype(np.int32)
    row_position = np.concatenate(
        [np.arange(s.start, s.start + s.end - s.begin, dtype=np.int32) for s in keys.segments]
    )
    seen, full = blocks_seen(keys.segments, slots, sliding_window)
    tables = [slots, keys.first[slots] - begin, keys.last[slots] - begin, keys.position[slots]]
    tables += [row_position, *_listed(seen & ~full), *_listed(full)]
    there_slots, first, last, position, rows, *lists = one_copy(tables, device)
    mask = BlockMask.from_kv_blocks(
        *(blocks[None, None] for blocks in lists),
        BLOCK_SIZE=BLOCK,
        mask_mod=_visible(first, last, position, rows, sliding_window),
        seq_lengths=(end - begin, len(slots)),
    )
    return Part(slice(begin, end), there_slots, mask)


def _listed(blocks: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """How many blocks of keys each block of rows has, ``[n]``, and which ones first, ``[n, m]``."""
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return blocks.sum(1, dtype=np.int32), order


def blocks_seen(
    segments: Sequence[SegmentWork], slots: IntArray, sliding_window: int | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which blocks of keys hold one that some row of a block of rows sees, and which are all seen.

    Args:
        segments: Segments side by side; their rows are counted from the first one's.
        slots: ``[n_keys]``, the slots that they see, ascending.
        sliding_window: A query at position p sees keys at positions > p - sliding_window.

    Returns:
        Two ``[blocks of rows, blocks of keys]``; a block that ends after the last row or key is not
        all seen.
    """
    origin, n_rows = segments[0].begin, segments[-1].end - segments[0].begin
    shape = (-(-n_rows // BLOCK), -(-len(slots) // BLOCK))
    # Differences along the keys: of the number of pieces that a block holds, and of seen pairs.
    some, pairs = (np.zeros((shape[0], shape[1] + 2), np.int64) for _ in range(2))
    for segment in segments:
        ranges = np.array(segment.ranges_seen(), np.int64)
        lengths = ranges[:, 1] - ranges[:, 0]
        positions = np.cumsum(lengths) - lengths
        keys = np.searchsorted(slots, ranges[:, 0])  # a range lies side by side here too
        begin, end = segment.begin - origin, segment.end - origin
        for block in range(begin // BLOCK, (end - 1) // BLOCK + 1):
            first, last = max(begin, block * BLOCK), min(end, (block + 1) * BLOCK) - 1
            at, till = (segment.start + row - begin for row in (first, last))
            low, high = (at - sliding_window, till - sliding_window) if sliding_window else (-1, -1)
            # Positions that some of these rows see, and those that all of them see.
            some_begin, all_begin = (np.clip(p + 1 - positions, 0, lengths) for p in (low, high))
            some_end, all_end = (np.clip(p + 1 - positions, 0, lengths) for p in (till, at))
            any_seen = some_begin < some_end
            np.add.at(some[block], ((keys + some_begin) // BLOCK)[any_seen], 1)
            np.add.at(some[block], ((keys + some_end - 1) // BLOCK + 1)[any_seen], -1)
            all_seen = all_begin < all_end
            rows = last - first + 1
            _add_up_to(pairs[block], (keys + all_end)[all_seen], rows)
            _add_up_to(pairs[block], (keys + all_begin)[all_seen], -rows)
    counts = (np.cumsum(differences, axis=1)[:, : shape[1]] for differences in (some, pairs))
    seen, n_pairs = counts
    return seen > 0, n_pairs == BLOCK * BLOCK


def _add_up_to(pairs: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], rows: int) -> None:
    """Add ``rows`` times the keys below each end, block by block, as differences."""
    np.add.at(pairs, np.zeros(len(ends), np.int64), rows * BLOCK)
    np.add.at(pairs, ends // BLOCK, rows * (ends % BLOCK - BLOCK))
    np.add.at(pairs, ends // BLOCK + 1, -rows * (ends % BLOCK))
