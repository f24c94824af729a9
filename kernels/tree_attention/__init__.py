"""Attention of packed segments over shared ranges of one key-value pool."""

from icm_fast.kernels.tree_attention.work import AttentionWork, SegmentWork

__all__ = ["AttentionWork", "SegmentWork"]
