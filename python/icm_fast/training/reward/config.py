"""Every setting of a reward model's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from icm_fast.config import Between, OneOf
from icm_fast.errors import InputError
from icm_fast.training.config import TuningConfig

MARGINS = ("leave-one-out", "confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig(TuningConfig):
    """Settings of one reward model: those of a fine-tuning, on pairs, and three more.

    Attributes:
        margin_scale: The loss asks of each pair for a difference of rewards of ``margin_scale`` x
            its margin (for found labels: their leave-one-out margin); 0 leaves margins out.
        margin: What the margin of a pair is: ``leave-one-out``, its own, or ``confidence``, the
            log-odds of its confidence (at most 6.9 nats).
        max_length: Pairs with a longer text, in tokens, are left out of training, and counted; the
            model's context bounds it too.
    """

    LATER: ClassVar[frozenset[str]] = TuningConfig.LATER | {"margin"}

    margin_scale: Annotated[float, Between(0.0, 1e6)] = 0.0
    max_length: Annotated[int, Between(1, 10**9)] = 1024
    margin: Annotated[str, OneOf(MARGINS)] = MARGINS[0]

    def __post_init__(self) -> None:
        TuningConfig.__post_init__(self)  # super() fails in a class with slots
        if self.margin != MARGINS[0] and not self.margin_scale:
            raise InputError(
                f"margin={self.margin} has no effect while margin_scale is 0; set it, for example "
                "to 0.1"
            )
