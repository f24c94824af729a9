"""Every setting of a reward model's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from icm_fast.config import Between
from icm_fast.training.config import TuningConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig(TuningConfig):
    """Settings of one reward model: those of a fine-tuning, where examples are pairs, and two more.

    Attributes:
        margin_scale: The loss asks of each pair for a difference of rewards of ``margin_scale`` x
            its margin (for found labels: their leave-one-out margin); 0 leaves margins out.
        max_length: Pairs with a longer text, in tokens, are left out of training, and counted; the
            model's context bounds it too.
    """

    margin_scale: Annotated[float, Between(0.0, 1e6)] = 0.0
    max_length: Annotated[int, Between(1, 10**9)] = 1024
