"""Every setting of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from icm_fast.errors import InputError, shown, suggest
from icm_fast.training.config import Ranges, TuningConfig, check_ranges

LOSSES = ("sigmoid", "hinge", "ipo", "robust")

_LEARNING_RATES = {"lora": 2e-5, "full": 1e-6}
_RANGES: Ranges = (("beta", 1e-6, 1e6), ("label_smoothing", 0.0, 0.499), ("max_length", 2, 10**9))


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoConfig(TuningConfig):
    """Settings of DPO (Rafailov et al. 2023): those of a fine-tuning on pairs, and these.

    ``learning_rate`` is 2e-5 for ``lora`` and 1e-6 for ``full`` where it is not given.

    Attributes:
        beta: What a nat of divergence from the start model counts.
        loss: ``sigmoid``, ``hinge``, ``ipo`` or ``robust``, as trl has them.
        label_smoothing: Share of the pairs that are taken to be the wrong way round.
        max_length: Pairs with a longer text, in tokens, are left out of training, and counted; the
            model's context bounds it too.
    """

    beta: float = 0.1
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    max_length: int = 1024

    def __post_init__(self) -> None:
        if self.learning_rate is None and self.method in _LEARNING_RATES:
            object.__setattr__(self, "learning_rate", _LEARNING_RATES[self.method])
        TuningConfig.__post_init__(self)  # super() fails in a class with slots
        check_ranges(self, _RANGES)
        if self.loss not in LOSSES:
            raise InputError(f"unknown loss {shown(self.loss)}{suggest(str(self.loss), LOSSES)}")
