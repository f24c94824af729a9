"""Every setting of a reward model's training."""

from __future__ import annotations

from dataclasses import dataclass

from icm_fast.training.config import Ranges, TuningConfig, check_ranges

_RANGES: Ranges = (("margin_scale", 0.0, 1e6), ("max_length", 1, 10**9))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig(TuningConfig):
    """Settings of one reward model: those of a fine-tuning, where examples are pairs, and two more.

    Attributes:
        margin_scale: The loss asks of each pair for a difference of rewards of ``margin_scale`` x
            its margin (for found labels: their leave-one-out margin); 0 leaves margins out.
        max_length: Pairs with a longer text, in tokens, are left out of training, and counted; the
            model's context bounds it too.
    """

    margin_scale: float = 0.0
    max_length: int = 1024

    def __post_init__(self) -> None:
        TuningConfig.__post_init__(self)  # super() fails in a class with slots
        check_ranges(self, _RANGES)
