"""Every setting of a fine-tuning, validated once, immutable afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from icm_fast.config import (
    Between,
    Limit,
    OneOf,
    Switch,
    check_names,
    coerced,
    read_limits,
)
from icm_fast.errors import InputError, shown
from icm_fast.model.quantised import NOT_QUANTISED, QUANTISATIONS
from icm_fast.training.chat import FORMATS, PLAIN
from icm_fast.types import JsonValue

METHODS = ("lora", "full")
SCHEDULERS = ("linear", "cosine", "constant")
AUTO = "auto"
ALL_LINEAR = "all-linear"
WEIGHTS = ("none", "confidence")
DTYPES = (AUTO, "float32", "bfloat16")

_LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}


@dataclass(frozen=True, slots=True)
class _SwitchOrAuto(Limit):
    """True or false, or ``auto``."""

    def read(self, name: str, value: object) -> object:
        """Return a boolean or ``auto``."""
        if not isinstance(value, bool) and value != AUTO:
            raise InputError(f"{name} must be true or false, or {AUTO}, got {shown(value)}")
        return value

    def schema(self) -> dict[str, JsonValue]:
        """The three values."""
        return {"enum": [True, False, AUTO]}


@dataclass(frozen=True, slots=True)
class _LayerNames(Limit):
    """Names of layers, kept as a sorted tuple, or ``all-linear``."""

    def read(self, name: str, value: object) -> object:
        """Return the names."""
        names = tuple(value) if isinstance(value, (list, tuple)) else value
        if isinstance(names, str) and names:
            return names if names == ALL_LINEAR else (names,)
        if (
            not isinstance(names, tuple)
            or not names
            or not all(n and type(n) is str for n in names)
        ):
            raise InputError(
                f"{name} must be names of layers, such as [q_proj, v_proj], or {ALL_LINEAR}, "
                f"got {shown(value)}"
            )
        return tuple(sorted(set(names)))

    def schema(self) -> dict[str, JsonValue]:
        """A name, or a list of names."""
        word: dict[str, JsonValue] = {"type": "string", "minLength": 1}
        return {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}


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

    method: Annotated[str, OneOf(METHODS)] = "lora"
    learning_rate: Annotated[float | None, Between(1e-12, 10.0)] = None
    batch_size: Annotated[int, Between(1, 1_000_000)] = 8
    rank: Annotated[int, Between(1, 65536)] = 8
    lora_alpha: Annotated[float, Between(1e-9, 1e6)] = 16.0
    lora_dropout: Annotated[float, Between(0.0, 0.99)] = 0.0
    target_modules: Annotated[str | tuple[str, ...], _LayerNames()] = ALL_LINEAR
    use_rslora: Annotated[bool, Switch()] = False
    use_dora: Annotated[bool, Switch()] = False
    warmup: Annotated[float, Between(0.0, 1.0)] = 0.1
    weight_decay: Annotated[float, Between(0.0, 10.0)] = 0.0
    scheduler: Annotated[str, OneOf(SCHEDULERS)] = "linear"
    max_grad_norm: Annotated[float, Between(0.0, 1e9)] = 1.0
    gradient_checkpointing: Annotated[bool | str, _SwitchOrAuto()] = AUTO
    dtype: Annotated[str, OneOf(DTYPES)] = "auto"
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    save_steps: Annotated[int, Between(1, 10**9)] = 25

    def __post_init__(self) -> None:
        read_limits(self)
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", _LEARNING_RATES[self.method])
        if self.method == "full" and self.dtype == "bfloat16":
            raise InputError(
                "method=full in bfloat16 loses small updates to rounding; remove dtype=bfloat16, "
                "or train adapters (method=lora)"
            )
        if self.method == "full":
            _refuse_adapter_settings(self)

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
        weights: What an example counts in the loss: ``none``, all alike, or ``confidence``, as much
            as its label is sure, with a mean of 1.
    """

    LATER: ClassVar[frozenset[str]] = TrainingConfig.LATER | {
        *("micro_batch_size", "eval_fraction", "patience", "autocast"),
        *("neftune_noise_alpha", "quantization", "format", "weights"),
    }

    epochs: Annotated[int, Between(1, 10_000)] = 3
    micro_batch_size: Annotated[int | None, Between(1, 1_000_000)] = None
    format: Annotated[str, OneOf(FORMATS)] = PLAIN
    eval_fraction: Annotated[float, Between(0.0, 0.9)] = 0.0
    patience: Annotated[int, Between(0, 10**6)] = 0
    autocast: Annotated[bool, Switch()] = False
    neftune_noise_alpha: Annotated[float, Between(0.0, 1e4)] = 0.0
    quantization: Annotated[str, OneOf(QUANTISATIONS)] = NOT_QUANTISED
    weights: Annotated[str, OneOf(WEIGHTS)] = WEIGHTS[0]

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() fails in a class with slots
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


def _refuse_adapter_settings(config: TrainingConfig) -> None:
    for name in sorted(TrainingConfig.LATER):
        if getattr(config, name) not in (False, ALL_LINEAR):
            raise InputError(
                f"{name} is a setting of adapters, but method is full; remove it, or set "
                "method=lora"
            )
