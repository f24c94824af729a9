"""Every setting of a fine-tuning, validated once, immutable afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from icm_fast.config import check_names, check_number, coerced
from icm_fast.errors import InputError, shown, suggest

METHODS = ("lora", "full")
SCHEDULERS = ("linear", "cosine", "constant")
AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16")

_LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}

Ranges = tuple[tuple[str, int | float, int | float], ...]
"""Attributes with their smallest and largest values."""

_RANGES: Ranges = (
    ("learning_rate", 1e-12, 10.0),
    ("batch_size", 1, 1_000_000),
    ("rank", 1, 65536),
    ("lora_alpha", 1e-9, 1e6),
    ("lora_dropout", 0.0, 0.99),
    ("warmup", 0.0, 1.0),
    ("weight_decay", 0.0, 10.0),
    ("max_grad_norm", 0.0, 1e9),
    ("seed", 0, 2**32 - 1),
    ("save_steps", 1, 10**9),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Settings that all trainings share.

    Attributes:
        method: ``lora`` (low-rank adapters on every linear layer but the head) or ``full``.
        learning_rate: Peak rate of AdamW; None: 2e-4 for ``lora``, 2e-5 for ``full``.
        batch_size: Examples per step, of all processes together.
        rank: Rank of the adapters.
        lora_alpha: The adapters' output is scaled by ``lora_alpha / rank``.
        lora_dropout: Share of the adapters' inputs that is dropped.
        warmup: Share of the steps over which the rate rises from 0.
        weight_decay: Of AdamW.
        scheduler: After the warm-up: ``linear`` or ``cosine`` to 0, or ``constant``.
        max_grad_norm: Gradients are scaled down to this norm; 0 for no bound.
        gradient_checkpointing: Compute activations twice to save memory: true, false, or ``auto``:
            on a GPU, where the model supports it and has more than a billion parameters.
        dtype: Of the weights while training: ``float32``, ``bfloat16``, or ``auto``: float32 on a
            CPU and for ``full``, otherwise that of the base. Adapters are always float32; ``full``
            trains in float32 only. The tuned model has the dtype of the base.
        seed: Seed of the order of examples, of the initial adapters and of dropout.
        save_steps: Steps between checkpoints, where there is an output folder.
    """

    method: str = "lora"
    learning_rate: float | None = None
    batch_size: int = 8
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    warmup: float = 0.1
    weight_decay: float = 0.0
    scheduler: str = "linear"
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool | str = AUTO
    dtype: str = "auto"
    seed: int = 0
    save_steps: int = 25

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("scheduler", SCHEDULERS), ("dtype", DTYPES)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"unknown {name} {shown(value)}{suggest(str(value), known)}")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", _LEARNING_RATES[self.method])
        checkpointing = self.gradient_checkpointing
        if not isinstance(checkpointing, bool) and checkpointing != AUTO:
            raise InputError(
                f"gradient_checkpointing must be true or false, or {AUTO}, "
                f"got {shown(checkpointing)}"
            )
        if self.method == "full" and self.dtype == "bfloat16":
            raise InputError(
                "method=full in bfloat16 loses small updates to rounding; remove dtype=bfloat16, "
                "or train adapters (method=lora)"
            )
        check_ranges(self, _RANGES)

    def to_dict(self) -> dict[str, object]:
        """Return the resolved settings as plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Self:
        """Build from YAML content; an unknown key is an error that names the nearest one."""
        check_names(content, (f.name for f in dataclasses.fields(cls)))
        return cls(**coerced(cls, content))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig(TrainingConfig):
    """Settings of a fine-tuning: those of every training, and one more.

    Attributes:
        epochs: Passes over the labelled examples.
    """

    epochs: int = 3

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() fails in a class with slots
        check_ranges(self, (("epochs", 1, 10_000),))


def check_ranges(config: object, ranges: Ranges) -> None:
    """Raise InputError unless every named attribute is a number in its range."""
    for name, low, high in ranges:
        check_number(name, getattr(config, name), low, high)
