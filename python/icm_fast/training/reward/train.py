"""Training a reward model on pairs: deterministic, resumable, and the base stays as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from icm_fast import distributed
from icm_fast.identity import as_stored
from icm_fast.model.adapters import ADAPTER_FOLDER, MODEL_FOLDER
from icm_fast.model.copies import copy_model
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.runs.provenance import versions
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.reward.model import (
    REWARD_FILE,
    RewardModel,
    as_reward_model,
    load_reward_model,
    merge_reward,
    reward_dtype,
)
from icm_fast.training.reward.network import reward_network
from icm_fast.training.reward.pairs import Pair
from icm_fast.training.reward.text import FORMAT
from icm_fast.training.reward.trainer import PairIds, pair_ids, pairs_digest, train_pairs
from icm_fast.training.sft.train import resolve_checkpointing, save_adapter, training_dtype
from icm_fast.training.steps import Progress

_PACKAGES = ("peft",)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedReward:
    """A reward model and how it came about.

    Attributes:
        model: With its adapters merged.
        losses: Mean loss of each step, natural log.
        seconds: Time of the training steps, of earlier processes too.
        n_pairs: Pairs that were trained on.
        n_too_long: Pairs that were left out for their length.
        folder: Output folder, None without one; ``load_reward_model`` takes it.
    """

    model: RewardModel
    losses: tuple[float, ...]
    seconds: float
    n_pairs: int
    n_too_long: int
    folder: Path | None


def train_reward(
    pairs: Sequence[Pair],
    *,
    model: Any,
    config: RewardConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> TrainedReward:
    """Train a reward model on pairs.

    The same arguments, number of threads and machine give the same weights, bit for bit. Several
    processes share each batch, as in ``fine_tune``.

    Args:
        pairs: What is better than what.
        model: Hub id, folder, .gguf file, embedded name, (model, tokenizer) pair or loaded model.
            Its weights are not changed.
        config: Settings; the defaults when absent.
        output_dir: Folder of ``reward.json`` and the adapter (``adapter``) or the whole network
            (``model``). A training that was interrupted there goes on from its last checkpoint, a
            finished one is loaded. Without it nothing is kept on disk.
        progress: Called after each step with its number, the number of steps and its loss.

    Raises:
        InputError: Bad input, a package is missing, the model can have no reward head, or the
            folder is that of another training or in use.
    """
    distributed.start()
    base = model if isinstance(model, LoadedModel) else load_model(model)
    config = resolve_checkpointing(config or RewardConfig(), base)
    ids = pair_ids(pairs, base.tokenizer, config, base.max_context)
    if output_dir is None:
        state, trained = _train(base, ids, config, None, progress)
        return _result(trained, state, pairs, ids, None)
    identity = _identity(base, ids, config)
    with TuningFolder(Path(output_dir), identity, record=REWARD_FILE) as folder:
        result = folder.result()
        if result is not None:
            state = TuningState(tuple(result["losses"]), result["seconds"])
            trained = _load_finished(base, folder.folder)
        else:
            state, trained = _train(base, ids, config, folder, progress)
            folder.finish(
                {
                    **asdict(state),
                    "n_threads": torch.get_num_threads(),
                    "n_processes": distributed.world_size(),
                    "versions": versions(_PACKAGES),
                }
            )
    return _result(trained, state, pairs, ids, folder.folder)


def _load_finished(base: LoadedModel, folder: Path) -> RewardModel:
    """The model of a finished folder, on a base that is loaded already."""
    adapter = folder / ADAPTER_FOLDER
    if adapter.is_dir():
        return merge_reward(base, adapter, str(folder), reward_dtype(base))
    return load_reward_model(folder, device=str(base.device))


def _train(
    base: LoadedModel,
    pairs: tuple[PairIds, ...],
    config: RewardConfig,
    folder: TuningFolder | None,
    progress: Progress | None,
) -> tuple[TuningState, RewardModel]:
    """Train, save what came out, and return it merged."""
    full = config.method == "full"
    network = reward_network(base, training_dtype(base, config), share=not full)
    trained, state = train_pairs(network, base, pairs, config, folder, progress)
    name = str(folder.folder) if folder else f"{base.name}, reward"
    with tempfile.TemporaryDirectory(dir=folder.scratch if folder else None) as scratch:
        made = Path(scratch) / "made"
        if full:
            whole = copy_model(trained, reward_dtype(base), share=True)
            if folder and distributed.is_main():
                whole.save_pretrained(made)
                base.tokenizer.save_pretrained(made)
            model = as_reward_model(name, whole, base.tokenizer)
        else:
            save_adapter(trained, made, base.name, folder.folder if folder else None)
            model = merge_reward(base, made, name, reward_dtype(base))
        if folder:
            folder.put(MODEL_FOLDER if full else ADAPTER_FOLDER, made)
    return state, model


def _identity(
    base: LoadedModel, pairs: tuple[PairIds, ...], config: RewardConfig
) -> dict[str, Any]:
    return as_stored(
        {
            "config": config.to_dict(),
            "format": FORMAT,
            "n_pairs": len(pairs),
            "data_digest": pairs_digest(pairs),
            "model_fingerprint": base.fingerprint,
            "model_dtype": base.dtype_name,
        }
    )


def _result(
    model: RewardModel,
    state: TuningState,
    pairs: Sequence[Pair],
    ids: tuple[PairIds, ...],
    folder: Path | None,
) -> TrainedReward:
    return TrainedReward(
        model=model,
        losses=state.losses,
        seconds=state.seconds,
        n_pairs=len(ids),
        n_too_long=len(pairs) - len(ids),
        folder=folder,
    )
