"""Every setting of a fine-tuning, validated once, immutable afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from icm_fast.config import check_names, check_number, coerced
from icm_fast.errors import InputError, shown, suggest
from icm_fast.model.quantised import NOT_QUANTISED, QUANTISATIONS
from icm_fast.training.chat import PLAIN, check_format

METHODS = ("lora", "full")
SCHEDULERS = ("linear", "cosine", "constant")
AUTO = "auto"
ALL_LINEAR = "all-linear"
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
        method: ``lora`` (low-rank adapters on linear layers) or ``full``.
        learning_rate: Peak rate of AdamW; None: 2e-4 for ``lora``, 2e-5 for ``full``.
        batch_size: Examples per step, of all processes together.
        rank: Rank of the adapters.
        lora_alpha: The adapters' output is scaled by ``lora_alpha / rank``.
        lora_dropout: Share of the adapters' inputs that is dropped.
        target_modules: Names of the layers that get adapters, such as ``["q_proj", "v_proj"]``, or
            ``all-linear``: every linear layer but the head.
        use_rslora: Scale adapters by ``lora_alpha / sqrt(rank)`` instead (Kalajdzievski 2023).
        use_dora: Train the lengths of weight columns too (DoRA, Liu et al. 2024).
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

    LATER: ClassVar[frozenset[str]] = frozenset(("target_modules", "use_rslora", "use_dora"))
    """Settings that came later: :meth:`to_dict` names them where they are not at their default, so
    that folders of earlier versions are those of the same training."""

    method: str = "lora"
    learning_rate: float | None = None
    batch_size: int = 8
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    use_rslora: bool = False
    use_dora: bool = False
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
        object.__setattr__(self, "target_modules", _modules(self.target_modules))
        check_flags(self, ("use_rslora", "use_dora"))
        if self.method == "full":
            _refuse_adapter_settings(self)
        check_ranges(self, _RANGES)

    def to_dict(self) -> dict[str, object]:
        """Return the resolved settings as plain JSON types; of :attr:`LATER` those that are set."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if name not in self.LATER or value != defaults[name]
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Self:
        """Build from YAML content; an unknown key is an error that names the nearest one."""
        check_names(content, (f.name for f in dataclasses.fields(cls)))
        return cls(**coerced(cls, content))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig(TrainingConfig):
    """Settings of a fine-tuning: those of every training, and these.

    Attributes:
        epochs: Passes over the labelled examples.
        micro_batch_size: Maximum number of examples in one forward and backward pass of a process;
            gradients are summed until a batch is complete. None: a process's part of the batch.
        format: What the model reads: ``plain``, or ``chat``: its tokenizer's chat template.
        eval_fraction: Share of the groups of examples that is held out. The loss on them is
            measured every ``save_steps`` steps, and the weights with the lowest one are kept.
        patience: Stop after so many measurements without a lower loss; 0 never stops early.
        autocast: Compute products in bfloat16 while the weights keep their dtype.
        neftune_noise_alpha: Noise on the embeddings while training (Jain et al. 2023); 0 for none.
        quantization: ``nf4`` or ``fp4``: adapters on a base in 4 bits (QLoRA), or ``none``.
    """

    LATER: ClassVar[frozenset[str]] = TrainingConfig.LATER | {
        *("micro_batch_size", "eval_fraction", "patience", "autocast"),
        *("neftune_noise_alpha", "quantization", "format"),
    }

    epochs: int = 3
    micro_batch_size: int | None = None
    format: str = PLAIN
    eval_fraction: float = 0.0
    patience: int = 0
    autocast: bool = False
    neftune_noise_alpha: float = 0.0
    quantization: str = NOT_QUANTISED

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() fails in a class with slots
        check_ranges(self, _TUNING_RANGES)
        check_flags(self, ("autocast",))
        check_format(self.format)
        if self.micro_batch_size is not None:
            check_ranges(self, (("micro_batch_size", 1, 1_000_000),))
        if self.quantization not in QUANTISATIONS:
            raise InputError(
                f"unknown quantization {shown(self.quantization)}"
                f"{suggest(str(self.quantization), QUANTISATIONS)}"
            )
        if self.patience and not self.eval_fraction:
            raise InputError(
                f"patience = {self.patience} stops by the loss on held-out examples, but "
                "eval_fraction is 0; set it, for example to 0.1"
            )
        if self.method == "full" and self.quantization != NOT_QUANTISED:
            raise InputError(
                f"quantization={self.quantization} cannot train all weights; remove it, or train "
                "adapters (method=lora)"
            )


_TUNING_RANGES: Ranges = (
    ("epochs", 1, 10_000),
    ("eval_fraction", 0.0, 0.9),
    ("patience", 0, 10**6),
    ("neftune_noise_alpha", 0.0, 1e4),
)


def check_ranges(config: object, ranges: Ranges) -> None:
    """Raise InputError unless every named attribute is a number in its range."""
    for name, low, high in ranges:
        check_number(name, getattr(config, name), low, high)


def check_flags(config: object, names: tuple[str, ...]) -> None:
    """Raise InputError unless every named attribute is true or false."""
    for name in names:
        if not isinstance(value := getattr(config, name), bool):
            raise InputError(f"{name} must be true or false, got {shown(value)}")


def _modules(given: object) -> str | tuple[str, ...]:
    """Names of modules as they are kept.

    Raises:
        InputError: They are not names.
    """
    names = tuple(given) if isinstance(given, (list, tuple)) else given
    if isinstance(names, str) and names:
        return names if names == ALL_LINEAR else (names,)
    if not isinstance(names, tuple) or not names or not all(n and type(n) is str for n in names):
        raise InputError(
            f"target_modules must be names of layers, such as [q_proj, v_proj], or {ALL_LINEAR}, "
            f"got {shown(given)}"
        )
    return tuple(sorted(set(names)))


def _refuse_adapter_settings(config: TrainingConfig) -> None:
    for name in sorted(TrainingConfig.LATER):
        if getattr(config, name) not in (False, ALL_LINEAR):
            raise InputError(
                f"{name} is a setting of adapters, but method is full; remove it, or set "
                "method=lora"
            )
