"""Fine-tuned adapters: merged into a copy of their base model, and loaded by folder."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast import distributed
from icm_fast.errors import InputError, first_line
from icm_fast.files import check_name, expanded
from icm_fast.files.fields import read_object
from icm_fast.model.adapter_files import (
    ADAPTER_CONFIG,
    FIX,
    adapter_content,
    check_keys,
    check_targets,
    has_tokenizer,
    read_adapter_config,
    vocabulary_rows,
    weight_shapes,
)
from icm_fast.model.copies import copy_model
from icm_fast.model.loaded import LoadedModel, check_vocabulary, fingerprint_model
from icm_fast.model.pretrained import UNREADABLE, read_tokenizer
from icm_fast.model.quantised import NOT_QUANTISED, import_before_others, is_quantised
from icm_fast.model.telemetry import without_telemetry

ADAPTER_FOLDER = "adapter"
MODEL_FOLDER = "model"
TUNING_FILE = "tuning.json"
INSTALL_TRAIN = "pip install 'icm-fast[train]'"


def merge_adapter(base: LoadedModel, adapter: Path, name: str) -> LoadedModel:
    """A copy of the base with an adapter's weights added, in the dtype of the base.

    An adapter that brings a tokenizer is loaded with it.

    Raises:
        InputError: peft is missing, or the adapter cannot be read or is not for this model.
    """
    copied = copy_model(base.model, base.model.dtype, share=True)
    merged = merge_into(copied, adapter, base.name)
    tokenizer = tokenizer_for(merged, adapter, base)
    return as_loaded(merged, replace(base, tokenizer=tokenizer), name)


def tokenizer_for(
    merged: PreTrainedModel, adapter: Path, base: LoadedModel
) -> PreTrainedTokenizerBase:
    """The tokenizer in an adapter's folder, or else that of its base.

    Raises:
        InputError: It cannot be read, or has tokens that the merged model has no embedding for.
    """
    if not has_tokenizer(adapter):
        return base.tokenizer
    try:
        tokenizer = read_tokenizer(str(adapter), trust_remote_code=False)
    except UNREADABLE as error:
        raise InputError(
            f"cannot read the tokenizer of the adapter {adapter}: {first_line(error)}; restore its "
            "files, or delete them to use the tokenizer of the base"
        ) from error
    # Tokens of the base's own tokenizer may lack an embedding, such as those of images.
    new = set(tokenizer.get_added_vocab()) - set(base.tokenizer.get_added_vocab())
    check_vocabulary(str(adapter), merged, tokenizer, new)
    return tokenizer


def merge_into(model: PreTrainedModel, adapter: Path, base_name: str) -> PreTrainedModel:
    """Add an adapter's weights to a model, without writing to memory that it shares.

    In a model in 4 bits they stay beside the weights.

    Raises:
        InputError: Same as :func:`merge_adapter`.
    """
    shapes = weight_shapes(adapter)
    config = read_adapter_config(adapter)
    try:
        with foreign_code():
            _take_vocabulary(model, shapes)
            peft = import_peft()
            live = peft.PeftModel.from_pretrained(model, str(adapter), trust_remote_code=False)
            check_targets(adapter, config.get("target_modules"), _module_names(live))
            check_keys(adapter, shapes, _adapter_keys(peft, live))
            if is_quantised(model):
                # A merge would round to 4 bits again; so the adapter stays beside the base.
                beside: PreTrainedModel = live.get_base_model()
                return beside
            # A safe merge adds to a clone, so weights that are shared with the base stay unchanged.
            merged: PreTrainedModel = live.merge_and_unload(safe_merge=True)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"cannot merge the adapter {adapter} into {base_name}: {first_line(error)}; {FIX}"
        ) from error
    return merged


def _module_names(live: torch.nn.Module) -> list[str]:
    """Names of the modules of a model, without what peft puts around them."""
    return [name.removesuffix(".base_layer") for name, _ in live.named_modules()]


def _adapter_keys(peft: ModuleType, live: torch.nn.Module) -> set[str]:
    """Names that the file of a complete adapter holds."""
    return set(peft.get_peft_model_state_dict(live, save_embedding_layers=False))


def _take_vocabulary(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Make room for the embedding and head that an adapter brings whole.

    peft writes them in place, so the model gets copies: the base may share its memory.
    """
    rows = vocabulary_rows(shapes)
    if rows is None:
        return
    embedding = model.get_input_embeddings()
    if rows != len(embedding.weight):
        model.resize_token_embeddings(rows, mean_resizing=False)
    for layer in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
        layer.weight.data = layer.weight.data.clone()


def as_loaded(model: PreTrainedModel, base: LoadedModel, name: str) -> LoadedModel:
    """A changed copy of ``base`` with its own fingerprint."""
    model = model.eval().requires_grad_(False)
    made = LoadedModel(name, model, base.tokenizer, fingerprint_model(model), base.max_context)
    if is_quantised(model):
        made.cache["cpu_decoder"] = None  # it reads whole weights
    return made


def find_tuned(spec: str) -> Path | None:
    """The folder of the adapter, or of the whole fine-tuned model, that ``spec`` refers to.

    Returns:
        None if ``spec`` is not the folder of a fine-tuning or adapter.

    Raises:
        InputError: The fine-tuning is not finished.
    """
    folder = expanded(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    if not (folder / TUNING_FILE).is_file():
        return None
    if "losses" not in read_tuning(folder / TUNING_FILE):
        raise InputError(
            f"the fine-tuning in {folder} is not finished; run it again with the same settings and "
            "folder, and it resumes where it stopped"
        )
    adapter = folder / ADAPTER_FOLDER
    return adapter if adapter.is_dir() else folder / MODEL_FOLDER


def load_tuned(
    spec: str,
    folder: Path,
    load: Callable[[str, str], LoadedModel],
    quantization: str = NOT_QUANTISED,
) -> LoadedModel:
    """Load a folder that :func:`find_tuned` found.

    Args:
        spec: Name given by the user.
        folder: The adapter or the whole model.
        load: Loads a base model by name, with its linear layers quantised as it is told.
        quantization: How; an adapter that was trained on a base in 4 bits has one as well.

    Raises:
        InputError: The base is missing or is not the one that the adapter was trained on.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return replace(load(str(folder), quantization), name=spec)
    name = base_name_of(folder)
    record = folder.parent / TUNING_FILE
    identity = read_tuning(record)["identity"] if record.is_file() else {}
    if quantization == NOT_QUANTISED:
        quantization = quantization_of(identity)
    try:
        base = load(name, quantization)
    except InputError as error:
        raise InputError(f"the base of the adapter {spec} is missing: {error}") from error
    if quantization == quantization_of(identity):
        check_base(folder, identity, base)
    return merge_adapter(base, folder, spec)


def quantization_of(identity: Mapping[str, object]) -> str:
    """How the base was quantised in a training."""
    config = identity.get("config")
    found = config.get("quantization") if isinstance(config, Mapping) else None
    return NOT_QUANTISED if found is None else str(found)


def read_tuning(path: Path) -> dict[str, Any]:
    """Read the record of a fine-tuning.

    Raises:
        InputError: It does not exist or was not written by a fine-tuning.
    """
    content = read_object(path, FIX)
    identity = content.inner("identity")
    for key in ("model_fingerprint", "model_dtype"):
        identity.optional_text(key)
    if "losses" in content.content:
        if not content.numbers("losses"):
            raise content.wrong("losses", "one loss for each step")
        content.number("seconds", 0)
        content.optional_number("best_loss")
        if content.content.get("best_step") is not None:
            content.integer("best_step")
    return dict(content.content)


def import_peft() -> ModuleType:
    """The package peft.

    Raises:
        InputError: It is not installed.
    """
    import_before_others()
    try:
        import peft
    except ImportError as error:
        raise InputError(f"adapters need peft ({error}); run {INSTALL_TRAIN}") from error
    module: ModuleType = peft
    return module


@contextmanager
def foreign_code() -> Iterator[None]:
    """Around calls of peft and trl: restore random states, silence warnings users cannot act on.

    They report nothing either: trl would send which trainer, model family and device it runs.

    These packages seed and draw from the process's generators, use names that transformers has
    renamed, and warn about settings that they correct themselves.
    """
    python, numpy = random.getstate(), np.random.get_state()
    # Reading a device's state creates a context on it: with a process per GPU, on every one.
    sharing = torch.cuda.is_available() and distributed.world_size() > 1
    devices = [torch.cuda.current_device()] if sharing else None
    with torch.random.fork_rng(devices), warnings.catch_warnings(), without_telemetry():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        # The head or embedding of the adapter is kept apart; nothing ties them again.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        # peft knows names of experts as they were before transformers 5.
        unmatched = "The following (rank|alpha)_pattern keys did not match"
        warnings.filterwarnings("ignore", unmatched, RuntimeWarning)
        # peft 0.18 asks about the base of a checkpoint, which has no name there.
        warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
        # check_keys refuses them.
        warnings.filterwarnings("ignore", "(?s).*Found missing adapter keys", UserWarning)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def base_name_for(adapter: Path, base_name: str) -> str:
    """The name under which an adapter stores its base.

    A fine-tuned base is stored relative to the adapter, so that both can be moved together. Other
    names stay as the user gave them, because other programs read them too.

    Args:
        adapter: Where the adapter will be written.
        base_name: Name given by the user.
    """
    if find_tuned(base_name) is None:
        return base_name
    tuned = expanded(base_name).resolve()
    return Path(os.path.relpath(tuned, adapter.resolve())).as_posix()


def base_name_of(adapter: Path) -> str:
    """Name of the base that an adapter was trained on; see :func:`base_name_for`.

    Raises:
        InputError: The adapter does not name its base, or cannot be read.
    """
    path = adapter / ADAPTER_CONFIG
    name = adapter_content(adapter).get("base_model_name_or_path")
    if not name:
        raise InputError(
            f"{path} does not name the base model; set base_model_name_or_path there, or load the "
            "base yourself and call icm_fast.model.adapters.merge_adapter"
        )
    read_adapter_config(adapter)  # refused before its base is loaded
    check_name(f"{path}: the base", str(name))
    # As it is written: links on the way, which came with the adapter, lead nowhere else.
    seen = os.path.normpath(adapter.resolve() / str(name))
    return seen if str(name).startswith("..") and os.path.isdir(seen) else str(name)


def check_base(adapter: Path, identity: Mapping[str, object], base: LoadedModel) -> None:
    """Raise InputError unless ``base`` has the weights that ``identity`` recorded."""
    if "model_fingerprint" not in identity:
        return
    same_dtype = identity.get("model_dtype") == base.dtype_name
    if same_dtype and identity.get("model_fingerprint") != base.fingerprint:
        raise InputError(
            f"the adapter {adapter} was trained on other weights than {base.name} has now; restore "
            "the base, or train again"
        )
