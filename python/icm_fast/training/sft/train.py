"""Fine-tuning a model on labels or texts: deterministic, resumable, and the base stays as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from icm_fast import distributed
from icm_fast.identity import as_stored
from icm_fast.model.adapters import (
    ADAPTER_FOLDER,
    MODEL_FOLDER,
    as_loaded,
    base_name_for,
    find_tuned,
    load_tuned,
    merge_adapter,
)
from icm_fast.model.copies import copy_model
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.runs.provenance import versions
from icm_fast.training.config import AUTO, TrainingConfig, TuningConfig
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.sft.texts import (
    TrainingText,
    check_lengths,
    plain_texts,
    texts_digest,
    training_texts,
)
from icm_fast.training.sft.trainer import train
from icm_fast.training.steps import Progress
from icm_fast.types import Dataset, check_labels

Config = TypeVar("Config", bound=TrainingConfig)

_PACKAGES = ("trl", "peft")
_LARGE = 1_000_000_000
"""Parameters above which a GPU holds activations once in a while only."""


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A fine-tuned model.

    Attributes:
        loaded: The model with its new weights merged; every scorer takes it.
        losses: Mean loss of the label tokens (of all tokens of plain texts) in each step, in nats.
        seconds: Time of the training steps, of earlier processes too.
        n_tokens: Tokens of the training texts, times the epochs.
        n_examples: Labelled examples, or texts.
        folder: Output folder, None without one; a name that ``model=`` takes.
    """

    loaded: LoadedModel
    losses: tuple[float, ...]
    seconds: float
    n_tokens: int
    n_examples: int
    folder: Path | None


def fine_tune(
    dataset: Dataset,
    labels: Any,
    *,
    model: Any,
    config: TuningConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Train a model to give the labels to the prompts, without demonstrations.

    The same arguments, number of threads and machine give the same weights, bit for bit. Several
    processes (``accelerate launch``, ``torchrun``) share each batch and all get the same model; the
    first one writes. How many there are changes the weights by no more than rounding does.

    Args:
        dataset: The examples; never gold labels unless you ask for them by ``labels``.
        labels: ``[n]`` label indices, -1 for examples that are left out.
        model: Hub id, folder, .gguf file, embedded name, (model, tokenizer) pair or loaded model.
            Its weights are not changed.
        config: Settings; the defaults when absent.
        output_dir: Folder of ``tuning.json`` and the adapter. A training that was interrupted
            there goes on from its last checkpoint, a finished one is loaded. Without it nothing is
            kept on disk.
        progress: Called after each step with its number, the number of steps and its loss.

    Raises:
        InputError: Bad input, a package is missing, or the folder is that of another fine-tuning
            or in use.
    """
    distributed.start()
    labels = check_labels(labels, dataset)
    base = model if isinstance(model, LoadedModel) else load_model(model)
    pieces = tokenize_dataset(dataset, base.tokenizer)
    texts = training_texts(pieces, label_tree(pieces), labels)
    return _tune(texts, base, config or TuningConfig(), output_dir, progress)


def fine_tune_texts(
    texts: Sequence[str],
    *,
    model: Any,
    config: TuningConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Train a model to write such texts: the usual start of a policy.

    Args:
        texts: Whole texts; each is learnt with its end, from its first token on.
        model: As of :func:`fine_tune`.
        config: Settings; the defaults when absent.
        output_dir: As of :func:`fine_tune`.
        progress: As of :func:`fine_tune`.

    Raises:
        InputError: An empty text, or as of :func:`fine_tune`.
    """
    distributed.start()
    base = model if isinstance(model, LoadedModel) else load_model(model)
    made = plain_texts(texts, base.tokenizer)
    return _tune(made, base, config or TuningConfig(), output_dir, progress)


def _tune(
    texts: tuple[TrainingText, ...],
    base: LoadedModel,
    config: TuningConfig,
    output_dir: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> Tuned:
    """Train, go on, or load what is finished."""
    config = resolve_checkpointing(config, base)
    check_lengths(texts, base.max_context)
    if output_dir is None:
        state, loaded = _train(base, texts, config, None, progress)
        return _tuned(loaded, state, texts, config, None)
    with TuningFolder(Path(output_dir), _identity(base, texts, config)) as folder:
        result = folder.result()
        if result is not None:
            state = TuningState(tuple(result["losses"]), result["seconds"])
            loaded = load_finished(base, folder.folder)
        else:
            state, loaded = _train(base, texts, config, folder, progress)
            folder.finish(_result(state, texts, config))
    return _tuned(loaded, state, texts, config, folder.folder)


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
    able = bool(getattr(model, "supports_gradient_checkpointing", False))
    return replace(config, gradient_checkpointing=wanted and able)


def load_finished(base: LoadedModel, folder: Path) -> LoadedModel:
    """The model of a finished folder, on a base that is loaded already."""
    found = find_tuned(str(folder))
    assert found is not None
    if found.name == ADAPTER_FOLDER:
        return merge_adapter(base, found, str(folder))
    dtype, device = base.dtype_name, str(base.device)
    return load_tuned(str(folder), found, lambda name: load_model(name, dtype=dtype, device=device))


def _train(
    base: LoadedModel,
    texts: tuple[TrainingText, ...],
    config: TuningConfig,
    folder: TuningFolder | None,
    progress: Progress | None,
) -> tuple[TuningState, LoadedModel]:
    """Train, save what came out, and return it merged."""
    full = config.method == "full"
    twin = copy_model(base.model, training_dtype(base, config), share=not full)
    if full:
        twin.requires_grad_(True)
    trained, state = train(twin, base, texts, config, folder, progress)
    name = str(folder.folder) if folder else f"{base.name}, tuned"
    with tempfile.TemporaryDirectory(dir=folder.scratch if folder else None) as scratch:
        made = Path(scratch) / "made"
        if full:
            loaded = as_loaded(copy_model(trained, base.model.dtype, share=True), base, name)
            if folder and distributed.is_main():
                loaded.model.save_pretrained(made)
                base.tokenizer.save_pretrained(made)
        else:
            save_adapter(trained, made, base.name, folder.folder if folder else None)
            loaded = merge_adapter(base, made, name)
        if folder:
            folder.put(MODEL_FOLDER if full else ADAPTER_FOLDER, made)
    return state, loaded


def save_adapter(trained: Any, folder: Path, base_name: str, final: Path | None) -> None:
    """Write the adapter of a trained peft model, with the name of its base.

    Args:
        trained: The peft model.
        folder: Where to write.
        base_name: What the user called the base.
        final: Folder of the training, in which the adapter will lie; None where it is not kept.
    """
    name = base_name_for(final / ADAPTER_FOLDER, base_name) if final else base_name
    for adapter in trained.peft_config.values():
        adapter.base_model_name_or_path = name
        if isinstance(adapter.target_modules, set):  # whose order differs between processes
            adapter.target_modules = sorted(adapter.target_modules)
    trained.save_pretrained(folder, save_embedding_layers=False)


def _identity(
    base: LoadedModel, texts: tuple[TrainingText, ...], config: TuningConfig
) -> dict[str, Any]:
    return as_stored(
        {
            "config": config.to_dict(),
            "n_examples": len(texts),
            "data_digest": texts_digest(texts),
            "model_fingerprint": base.fingerprint,
            "model_dtype": base.dtype_name,
        }
    )


def _result(
    state: TuningState, texts: tuple[TrainingText, ...], config: TuningConfig
) -> dict[str, Any]:
    return {
        **asdict(state),
        "n_tokens": _n_tokens(texts, config),
        "n_threads": torch.get_num_threads(),
        "n_processes": distributed.world_size(),
        "versions": versions(_PACKAGES),
    }


def _n_tokens(texts: tuple[TrainingText, ...], config: TuningConfig) -> int:
    return config.epochs * sum(len(text.ids) for text in texts)


def _tuned(
    loaded: LoadedModel,
    state: TuningState,
    texts: tuple[TrainingText, ...],
    config: TuningConfig,
    folder: Path | None,
) -> Tuned:
    return Tuned(
        loaded=loaded,
        losses=state.losses,
        seconds=state.seconds,
        n_tokens=_n_tokens(texts, config),
        n_examples=len(texts),
        folder=folder,
    )
