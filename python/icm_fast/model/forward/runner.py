"""Run the segments of a leave-one-out plan through a model, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.model.forward.batch import Bytes, Forward, PackedBatch, RangePaths, SegmentPlan
from icm_fast.model.forward.cpu import CpuForward, cpu_decoder
from icm_fast.model.forward.device import DeviceForward, serves
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.loaded import LoadedModel

TokenSource = Callable[[int], Sequence[int]]
"""Maps a segment number to the token ids of that segment."""


class ModelRunner:
    """Forwards packed segments over a key-value pool.

    Attributes:
        n_tokens_forwarded: Tokens forwarded so far; tests compare it with the plan.
        peak_kv_bytes: Largest pool so far.
        windows: Sliding window of each attention layer that ran, None for full attention; filled
            by the generic implementation only.
    """

    def __init__(self, loaded: LoadedModel, *, generic: bool = False, int8: bool = False) -> None:
        """Pick the implementation; see :func:`make_forward`.

        Args:
            loaded: The model.
            generic: Use transformers' own layers in any case.
            int8: Approximate the linear layers with 8-bit integers.

        Raises:
            InputError: ``int8`` is not supported here.
        """
        self._forward = make_forward(loaded, generic=generic, int8=int8)
        self.n_tokens_forwarded = 0
        self.peak_kv_bytes = 0

    @property
    def forward(self) -> Forward:
        """The implementation that was picked."""
        return self._forward

    @property
    def windows(self) -> dict[int, int | None]:
        """Sliding windows seen by the generic implementation."""
        return self._forward.windows if isinstance(self._forward, GenericForward) else {}

    def last_hidden_states(
        self, plan: SegmentPlan, tokens_of: TokenSource, wanted: npt.NDArray[np.bool_]
    ) -> torch.Tensor:
        """Run every batch of the plan.

        Args:
            plan: Segments, batches and pool slots.
            tokens_of: Token ids of a segment.
            wanted: ``[n_segments]`` bool, segments whose last row is returned.

        Returns:
            ``[wanted.sum(), hidden_size]``, in segment order, after the model's final norm.
        """
        batches, states = zip(*self.stages(plan, tokens_of, wanted), strict=True)
        order = np.concatenate(batches)
        return torch.cat(states)[torch.from_numpy(np.argsort(order[wanted[order]]))]

    def stages(
        self, plan: SegmentPlan, tokens_of: TokenSource, wanted: npt.NDArray[np.bool_] | Bytes
    ) -> Iterator[tuple[npt.NDArray[np.int32], torch.Tensor]]:
        """Run batch after batch; yield its segments, and last hidden states of the wanted ones.

        A caller that has seen enough stops iterating; the rest is not forwarded.

        Args:
            plan: Segments, batches and pool slots.
            tokens_of: Token ids of a segment.
            wanted: ``[n_segments]``, whether the last row of a segment is returned, or which of its
                rows: ``NONE``, ``LAST`` or ``ALL``.
        """
        paths = RangePaths(plan)
        with torch.inference_mode():
            self._forward.open(
                int(plan.pool_tokens),
                int((plan.start + plan.n_tokens).max()),
                keep=plan.is_kept,
            )
            for first, last in zip(plan.batch_offsets[:-1], plan.batch_offsets[1:], strict=True):
                segments = plan.batch_segments[first:last]
                batch = _pack(plan, segments, tokens_of, paths, wanted)
                states = self._forward.run(batch)
                self.n_tokens_forwarded += len(batch.token_ids)
                self.peak_kv_bytes = max(self.peak_kv_bytes, self._forward.pool_bytes())
                yield segments, states


def make_forward(loaded: LoadedModel, *, generic: bool, int8: bool = False) -> Forward:
    """The native decoder or our kernels where they support the model, otherwise its own layers."""
    decoder = None if generic else cpu_decoder(loaded, int8=int8)
    if decoder is not None:
        return CpuForward(loaded, decoder)
    return DeviceForward(loaded) if not generic and serves(loaded) else GenericForward(loaded)


def _pack(
    plan: SegmentPlan,
    segments: npt.NDArray[np.int32],
    tokens_of: TokenSource,
    paths: RangePaths,
    wanted: npt.NDArray[np.bool_] | Bytes,
) -> PackedBatch:
    ids: list[int] = []
    for s in segments:
        tokens = tokens_of(int(s))
        if len(tokens) != int(plan.n_tokens[s]):
            raise AssertionError(f"segment {s}: {len(tokens)} tokens, planned {plan.n_tokens[s]}")
        ids.extend(tokens)
    return PackedBatch(
        token_ids=np.array(ids, np.int64),
        n_tokens=plan.n_tokens[segments],
        start=plan.start[segments],
        own=plan.kv_offset[segments],
        ranges=tuple(paths.before(int(s)) for s in segments),
        wanted=wanted[segments].astype(np.uint8),
    )
