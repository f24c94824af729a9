"""Fine-tuning a model on labels or texts: deterministic, resumable, and the base stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from icm_fast import distributed
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.identity import as_stored
from icm_fast.model.adapters import (
    ADAPTER_FOLDER,
    MODEL_FOLDER,
    as_loaded,
    import_peft,
    load_tuned,
    merge_adapter,
)
from icm_fast.model.copies import copy_model
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.tracking import TrackLike
from icm_fast.training.adapted import adapter_figures
from icm_fast.training.batches import connected_groups
from icm_fast.training.chat import CHAT
from icm_fast.training.confidence import NONE, loss_weights
from icm_fast.training.config import AUTO, TrainingConfig, TuningConfig
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.session import Trained, save_adapter, save_whole, train_or_resume
from icm_fast.training.sft.texts import (
    Conversation,
    TrainingText,
    chat_texts,
    check_lengths,
    texts_digest,
    training_texts,
    whole_texts,
)
from icm_fast.training.sft.trainer import train
from icm_fast.training.sharded import unsharded
from icm_fast.training.steps import lora_config
from icm_fast.training.watch import Watch, watching
from icm_fast.types import UNLABELLED, Dataset, IntArray, Reporter, check_labels

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerCallback

Config = TypeVar("Config", bound=TrainingConfig)

_PACKAGES = ("trl", "peft")
_LARGE = 1_000_000_000
"""Parameters above which a GPU does not hold all activations."""


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A fine-tuned model.

    Attributes:
        model: The model with its new weights merged; every scorer takes it.
        losses: Mean loss of the label tokens (of all tokens of plain texts) in each step, in nats.
        seconds: Time of the training steps, of earlier processes too.
        n_tokens: Tokens of the training texts, times the epochs.
        n_examples: Labelled examples, or texts.
        folder: Output folder, None without one; a name that ``model=`` takes.
        best_step: The step whose weights were kept, None where nothing was held out.
        best_loss: Mean loss on held-out examples after that step, in nats.
    """

    model: LoadedModel
    losses: tuple[float, ...]
    seconds: float
    n_tokens: int
    n_examples: int
    folder: Path | None
    best_step: int | None = None
    best_loss: float | None = None


def fine_tune(
    dataset: Dataset,
    labels: npt.ArrayLike,
    *,
    model: ModelSpec,
    config: TuningConfig | None = None,
    confidence: npt.ArrayLike | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Tuned:
    """Train a model to give the labels to the prompts, without demonstrations.

    With ``format=chat`` a prompt is a message of the user, and its label the answer.

    The same arguments, number of threads and machine give the same weights, bit for bit. Several
    processes (``accelerate launch``, ``torchrun``) share each batch and all return the same model;
    the first one writes. Their number changes the weights by rounding only.

    Args:
        dataset: The examples.
        labels: ``[n]`` label indices, -1 for examples to leave out.
        model: Hub id, folder, .gguf file, embedded name, (model, tokenizer) pair or loaded model.
            Its weights are not changed.
        config: Settings; the defaults when absent.
        confidence: ``[n]`` probabilities of the labels, such as ``result.confidence``; read where
            ``config.weights`` is ``confidence``, and not otherwise.
        output_dir: Folder of ``tuning.json`` and the adapter. A training that was interrupted
            there resumes from its last checkpoint, a finished one is loaded. Without it nothing is
            kept on disk.
        progress: Shows the steps and their losses.
        track: Called with each step, or names trackers; see :mod:`icm_fast.tracking`.
        callbacks: Callbacks of transformers, for its trainer. They may watch: a resumed training
            does not know what they change.

    Raises:
        InputError: Bad input, a package is missing, or the folder is that of another fine-tuning
            or in use.
    """
    distributed.start()
    labels = check_labels(labels, dataset)
    config = config or TuningConfig()
    base = load_model(model, quantization=config.quantization)
    groups = connected_groups(dataset)
    if config.format == CHAT:
        texts = chat_texts(dataset, labels, base.tokenizer, groups)
    else:
        pieces = tokenize_dataset(dataset, base.tokenizer)
        texts = training_texts(pieces, label_tree(pieces), labels, groups)
    if config.weights != NONE:
        texts = _weighted(texts, labels, confidence)
    return _tune(texts, base, config, output_dir, progress, track, callbacks)


def _weighted(
    texts: tuple[TrainingText, ...], labels: IntArray, confidence: npt.ArrayLike | None
) -> tuple[TrainingText, ...]:
    """The texts of the labelled examples with the weights of their labels."""
    if confidence is None:
        raise InputError(
            "weights=confidence needs the confidence of every label; pass confidence=, such as "
            "result.confidence (None where a search did not score each example alone: use the "
            "preset default), or set weights to none"
        )
    known = np.asarray(confidence, np.float64)
    if known.shape != labels.shape:
        raise InputError(
            f"confidence has the shape {known.shape}, but there are {len(labels)} examples; give "
            "one number for each"
        )
    weights = loss_weights(known[labels != UNLABELLED])
    pairs = zip(texts, weights, strict=True)
    return tuple(replace(text, weight=weight) for text, weight in pairs)


def fine_tune_texts(
    texts: Sequence[str | Conversation],
    *,
    model: ModelSpec,
    config: TuningConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Tuned:
    """Train a model to write texts like these: the usual start of a policy.

    Args:
        texts: Whole texts, each learned from its first token to its end; or conversations, of
            which the last answer is learned.
        model: Same as in :func:`fine_tune`.
        config: Settings; the defaults when absent.
        output_dir: Same as in :func:`fine_tune`.
        progress: Same as in :func:`fine_tune`.
        track: Same as in :func:`fine_tune`.
        callbacks: Same as in :func:`fine_tune`.

    Raises:
        InputError: An empty text, or same as in :func:`fine_tune`.
    """
    distributed.start()
    config = config or TuningConfig()
    base = load_model(model, quantization=config.quantization)
    if config.weights != NONE:
        raise InputError(f"weights={config.weights}: texts have no labels; set weights to none")
    made = whole_texts(texts, base.tokenizer, config.format)
    return _tune(made, base, config, output_dir, progress, track, callbacks)


def _tune(
    texts: tuple[TrainingText, ...],
    base: LoadedModel,
    config: TuningConfig,
    output_dir: str | os.PathLike[str] | None,
    progress: Reporter | None,
    track: TrackLike,
    callbacks: Sequence[TrainerCallback],
) -> Tuned:
    """Train, resume, or load what is finished."""
    config = resolve_checkpointing(config, base)
    check_lengths(texts, base.max_context)
    folder = None if output_dir is None else Path(output_dir)
    name = f"{base.name}, tuned" if folder is None else str(folder)
    with (
        progress or Quiet() as shown,
        watching(track, callbacks, folder, "sft", config, shown.warn) as watch,
    ):
        model, state = train_or_resume(
            folder,
            lambda: _identity(base, texts, config),
            lambda opened: _train(base, texts, config, opened, name, shown, watch),
            lambda home: load_made(base, home, name),
            packages=_PACKAGES,
        )
    return Tuned(
        model=model,
        losses=state.losses,
        seconds=state.seconds,
        n_tokens=_n_tokens(texts, config),
        n_examples=len(texts),
        folder=folder,
        best_step=state.best_step,
        best_loss=state.best_loss,
    )


def training_dtype(base: LoadedModel, config: TrainingConfig) -> torch.dtype:
    """Dtype of the weights while training."""
    if config.dtype != "auto":
        return torch.float32 if config.dtype == "float32" else torch.bfloat16
    # On a CPU bfloat16 saves memory but no time, not even with AVX512_BF16: measured 10.8 s of one
    # core for 1000 tokens of SmolLM2 with adapters, and 8.6 s in float32.
    if config.method == "full" or base.device.type == "cpu":
        return torch.float32
    return base.model.dtype


def resolve_checkpointing(config: Config, base: LoadedModel) -> Config:
    """The settings with ``gradient_checkpointing`` decided, as they are recorded."""
    if config.gradient_checkpointing != AUTO:
        return config
    model = base.model
    wanted = base.device.type == "cuda" and sum(p.numel() for p in model.parameters()) > _LARGE
    able = bool(model.supports_gradient_checkpointing)
    return replace(config, gradient_checkpointing=wanted and able)


def load_made(base: LoadedModel, home: Path, name: str) -> LoadedModel:
    """The model whose adapter or weights are in ``home``, on a base that is loaded already."""
    adapter = home / ADAPTER_FOLDER
    if adapter.is_dir():
        return merge_adapter(base, adapter, name)
    dtype, device = base.dtype_name, str(base.device)
    return load_tuned(
        name,
        home / MODEL_FOLDER,
        lambda spec, bits: load_model(spec, dtype=dtype, device=device, quantization=bits),
    )


def _train(
    base: LoadedModel,
    texts: tuple[TrainingText, ...],
    config: TuningConfig,
    folder: TuningFolder | None,
    name: str,
    reporter: Reporter,
    watch: Watch,
) -> Trained[LoadedModel]:
    trained, state = train(trainable(base, config), base, texts, config, folder, reporter, watch)
    trained = unsharded(trained, lambda: with_adapters(trainable(base, config), config))
    return as_trained(trained, state, base, folder, name, {"n_tokens": _n_tokens(texts, config)})


def trainable(base: LoadedModel, config: TrainingConfig) -> PreTrainedModel:
    """A copy of the base to train; adapters leave the memory that it shares with the base alone."""
    full = config.method == "full"
    copied = copy_model(base.model, training_dtype(base, config), share=not full)
    return copied.requires_grad_(True) if full else copied


def with_adapters(model: PreTrainedModel, config: TrainingConfig) -> PreTrainedModel | PeftModel:
    """The model with new adapters where the settings say so, otherwise itself."""
    if config.method == "full":
        return model
    return import_peft().get_peft_model(model, lora_config(config, "CAUSAL_LM", model))


def as_trained(
    trained: PreTrainedModel | PeftModel,
    state: TuningState,
    base: LoadedModel,
    folder: TuningFolder | None,
    name: str,
    figures: Mapping[str, object],
) -> Trained[LoadedModel]:
    """What a training of a causal model gave: an adapter that is merged later, or a whole model.

    Args:
        trained: The model as its trainer left it; the peft model around it where it has adapters.
        state: Losses and seconds.
        base: What was trained.
        folder: Of the training.
        name: Of the new model.
        figures: What else is recorded.
    """
    if not isinstance(trained, PreTrainedModel):
        final = folder.folder if folder else None
        return Trained(
            state,
            lambda made: save_adapter(trained, made, base.name, final),
            figures={**figures, **adapter_figures(trained)},
        )
    model = as_loaded(copy_model(trained, base.model.dtype, share=True), base, name)
    return Trained(
        state, lambda made: save_whole(model.model, base.tokenizer, made), model, figures
    )


def _identity(
    base: LoadedModel, texts: tuple[TrainingText, ...], config: TuningConfig
) -> dict[str, object]:
    return as_stored(
        {
            "config": config.to_dict(),
            "format": config.format,
            "n_examples": len(texts),
            "data_digest": texts_digest(texts),
            "model_fingerprint": base.fingerprint,
            "model_dtype": base.dtype_name,
            "model_computation": base.computation,
        }
    )


def _n_tokens(texts: tuple[TrainingText, ...], config: TuningConfig) -> int:
    return config.epochs * sum(len(text.ids) for text in texts)
