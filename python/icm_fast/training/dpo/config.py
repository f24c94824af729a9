"""Every setting of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from icm_fast.config import Between, Offered, OneOf
from icm_fast.errors import InputError
from icm_fast.training.config import WEIGHTS, TuningConfig

LOSSES = ("sigmoid", "hinge", "ipo", "robust")

_LEARNING_RATES = {"lora": 2e-5, "full": 1e-6}


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoConfig(TuningConfig):
    """Settings of DPO (Rafailov et al. 2023): those of a fine-tuning on pairs, and these.

    Attributes:
        learning_rate: Peak rate of AdamW; None: 2e-5 for ``lora``, 1e-6 for ``full``.
        beta: What a nat of divergence from the start model counts.
        loss: ``sigmoid``, ``hinge``, ``ipo`` or ``robust``, as trl has them.
        label_smoothing: Share of the pairs that are taken to be the wrong way round.
        max_length: Pairs with a longer text, in tokens, are left out of training, and counted; the
            model's context bounds it too.
        weights: ``none``: trl's loss counts all pairs alike.
    """

    beta: Annotated[float, Between(1e-6, 1e6)] = 0.1
    loss: Annotated[str, OneOf(LOSSES)] = "sigmoid"
    label_smoothing: Annotated[float, Between(0.0, 0.499)] = 0.0
    max_length: Annotated[int, Between(2, 10**9)] = 1024
    weights: Annotated[str, Offered(OneOf(WEIGHTS[:1]), OneOf(WEIGHTS))] = WEIGHTS[0]

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            # Of a method that there is not, the base says so.
            object.__setattr__(self, "learning_rate", _LEARNING_RATES.get(str(self.method)))
        TuningConfig.__post_init__(self)  # super() fails in a class with slots
        if self.weights != WEIGHTS[0]:
            raise InputError(
                f"weights={self.weights} is not supported by DPO: the loss is trl's, which counts "
                "all pairs alike; remove it, or train a reward model"
            )
