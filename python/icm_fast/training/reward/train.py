"""Training a reward model on pairs: deterministic, resumable, and the base stays as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from icm_fast import distributed
from icm_fast.engine.progress import Quiet
from icm_fast.identity import as_stored
from icm_fast.model.adapters import ADAPTER_FOLDER
from icm_fast.model.copies import copy_model
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.tracking import TrackLike
from icm_fast.training.adapted import adapter_figures
from icm_fast.training.folder import TuningFolder
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
from icm_fast.training.reward.text import FORMATS
from icm_fast.training.reward.trainer import (
    PairIds,
    pair_ids,
    pairs_digest,
    train_pairs,
    trainable_network,
)
from icm_fast.training.session import Trained, save_adapter, save_whole, train_or_resume
from icm_fast.training.sft.train import resolve_checkpointing, training_dtype
from icm_fast.training.sharded import unsharded
from icm_fast.training.watch import Watch, watching
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from transformers import TrainerCallback

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
        best_step: The step whose weights were kept, None where nothing was held out.
        best_loss: Mean loss on held-out pairs after that step, natural log.
    """

    model: RewardModel
    losses: tuple[float, ...]
    seconds: float
    n_pairs: int
    n_too_long: int
    folder: Path | None
    best_step: int | None = None
    best_loss: float | None = None


def train_reward(
    pairs: Sequence[Pair],
    *,
    model: ModelSpec,
    config: RewardConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
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
            (``model``). A training that was interrupted there resumes from its last checkpoint,
            a finished one is loaded. Without it nothing is kept on disk.
        progress: Shows the steps and their losses.
        track: Called with each step, or names trackers; see :mod:`icm_fast.tracking`.
        callbacks: Callbacks of transformers, for its trainer. They may watch: a resumed training
            does not know what they change.

    Raises:
        InputError: Bad input, a package is missing, the model can have no reward head, or the
            folder is that of another training or in use.
    """
    distributed.start()
    config = config or RewardConfig()
    base = load_model(model, quantization=config.quantization)
    config = resolve_checkpointing(config, base)
    ids = pair_ids(pairs, base.tokenizer, config, base.max_context)
    folder = None if output_dir is None else Path(output_dir)
    name = f"{base.name}, reward" if folder is None else str(folder)
    with (
        progress or Quiet() as shown,
        watching(track, callbacks, folder, "reward", config, shown.warn) as watch,
    ):
        trained, state = train_or_resume(
            folder,
            lambda: _identity(base, ids, config),
            lambda opened: _train(base, ids, config, opened, name, shown, watch),
            lambda home: _load_made(base, home, name, config.format),
            packages=_PACKAGES,
            record=REWARD_FILE,
        )
    return TrainedReward(
        model=trained,
        losses=state.losses,
        seconds=state.seconds,
        n_pairs=len(ids),
        n_too_long=len(pairs) - len(ids),
        folder=folder,
        best_step=state.best_step,
        best_loss=state.best_loss,
    )


def _load_made(base: LoadedModel, home: Path, name: str, format: str) -> RewardModel:
    """The model whose adapter or weights are in ``home``, on a base that is loaded already."""
    adapter = home / ADAPTER_FOLDER
    if adapter.is_dir():
        return merge_reward(base, adapter, name, reward_dtype(base), format)
    return load_reward_model(home, device=str(base.device))


def _train(
    base: LoadedModel,
    pairs: tuple[PairIds, ...],
    config: RewardConfig,
    folder: TuningFolder | None,
    name: str,
    reporter: Reporter,
    watch: Watch,
) -> Trained[RewardModel]:
    full = config.method == "full"

    def fresh() -> PreTrainedModel:
        return reward_network(base, training_dtype(base, config), share=not full)

    trained, state = train_pairs(fresh(), base, pairs, config, folder, reporter, watch)
    trained = unsharded(trained, lambda: trainable_network(fresh(), config))
    if not full:
        final = folder.folder if folder else None
        return Trained(
            state,
            lambda made: save_adapter(trained, made, base.name, final),
            figures=adapter_figures(trained),
        )
    dtype = reward_dtype(base)
    whole = copy_model(trained, dtype, share=True)
    # A reward model has its head in float32, the folder has it as the rest.
    scoring = copy_model(whole, dtype, share=True)
    model = as_reward_model(name, scoring, base.tokenizer, config.format)
    return Trained(state, lambda made: save_whole(whole, base.tokenizer, made), model)


def _identity(
    base: LoadedModel, pairs: tuple[PairIds, ...], config: RewardConfig
) -> dict[str, object]:
    return as_stored(
        {
            "config": config.to_dict(),
            "format": FORMATS[config.format],
            "n_pairs": len(pairs),
            "data_digest": pairs_digest(pairs),
            "model_fingerprint": base.fingerprint,
            "model_dtype": base.dtype_name,
            "model_computation": base.computation,
        }
    )
