"""DPO from the labels of a run or from pairs: deterministic, resumable, and the base stays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast import distributed
from icm_fast.engine.progress import Quiet
from icm_fast.errors import InputError
from icm_fast.identity import as_stored
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.runs.finished import FinishedRun
from icm_fast.tracking import TrackLike
from icm_fast.training.chat import check_format
from icm_fast.training.dpo.config import DpoConfig
from icm_fast.training.dpo.trainer import (
    PreferenceIds,
    algorithm_of,
    preference_ids,
    preferences_digest,
    train_preferences,
)
from icm_fast.training.folder import TuningFolder, version_keys
from icm_fast.training.reward.pairs import Pair
from icm_fast.training.reward.run_pairs import pairs_of_run
from icm_fast.training.session import Trained, train_or_resume
from icm_fast.training.sft.train import (
    as_trained,
    load_made,
    resolve_checkpointing,
    trainable,
    with_adapters,
)
from icm_fast.training.sharded import unsharded
from icm_fast.training.watch import Watch, watching
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from transformers import TrainerCallback

_PACKAGES = ("trl", "peft")


@dataclass(frozen=True, slots=True, eq=False)
class TrainedDpo:
    """A model after DPO.

    Attributes:
        model: The model with its new weights merged; every scorer takes it.
        losses: Mean loss of each step, natural log.
        seconds: Time of the training steps, of earlier processes too.
        n_pairs: Pairs that were trained on.
        n_too_long: Pairs that were left out for their length.
        folder: Output folder, None without one; a name that ``model=`` takes.
        best_step: The step whose weights were kept, None where nothing was held out.
        best_loss: Mean loss on held-out pairs after that step.
    """

    model: LoadedModel
    losses: tuple[float, ...]
    seconds: float
    n_pairs: int
    n_too_long: int
    folder: Path | None
    best_step: int | None
    best_loss: float | None


def train(
    source: FinishedRun | Sequence[Pair],
    *,
    model: ModelSpec | None = None,
    config: DpoConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedDpo:
    """Train a model to prefer the texts that labels prefer, by trl's DPOTrainer.

    The same arguments, number of threads and machine give the same weights, bit for bit. Several
    processes share each batch, as in ``fine_tune``.

    Args:
        source: A finished run, whose labels become pairs as for a reward model; or pairs.
        model: Same as in ``fine_tune``; of a run its own model by default.
        config: Settings; the defaults when absent.
        output_dir: Folder of ``tuning.json`` and the adapter. A training that was interrupted
            there resumes from its last checkpoint, a finished one is loaded. Without it nothing is
            kept on disk.
        progress: Shows the steps and their losses.
        track: Called with each step, or names trackers; see :mod:`icm_fast.tracking`.
        callbacks: Callbacks of transformers, for its trainer. They may watch: a resumed training
            does not know what they change.

    Raises:
        InputError: Bad input, a package is missing, or the folder is that of another training or
            in use.
    """
    distributed.start()
    config = config or DpoConfig()
    pairs: Sequence[Pair]
    if isinstance(source, FinishedRun):
        pairs = pairs_of_run(source).pairs
        model = source.model if model is None else model
    else:
        pairs = source
    if model is None:
        raise InputError("pairs do not name a model; pass model=, for example model='smollm2'")
    base = load_model(model, quantization=config.quantization)
    check_format(config.format, base.tokenizer)
    config = resolve_checkpointing(config, base)
    ids = preference_ids(pairs, base.tokenizer, config, base.max_context)
    folder = None if output_dir is None else Path(output_dir)
    name = f"{base.name}, after DPO" if folder is None else str(folder)
    with (
        progress or Quiet() as shown,
        watching(track, callbacks, folder, "dpo", config, shown.warn) as watch,
    ):
        trained, state = train_or_resume(
            folder,
            lambda: _identity(base, ids, config),
            lambda opened: _train(base, ids, config, opened, name, shown, watch),
            lambda home: load_made(base, home, name),
            packages=_PACKAGES,
        )
    return TrainedDpo(
        model=trained,
        losses=state.losses,
        seconds=state.seconds,
        n_pairs=len(ids),
        n_too_long=len(pairs) - len(ids),
        folder=folder,
        best_step=state.best_step,
        best_loss=state.best_loss,
    )


def _train(
    base: LoadedModel,
    pairs: tuple[PreferenceIds, ...],
    config: DpoConfig,
    folder: TuningFolder | None,
    name: str,
    reporter: Reporter,
    watch: Watch,
) -> Trained[LoadedModel]:
    trained, state = train_preferences(
        trainable(base, config), base, pairs, config, folder, reporter, watch
    )
    trained = unsharded(trained, lambda: with_adapters(trainable(base, config), config))
    return as_trained(trained, state, base, folder, name, {"n_pairs": len(pairs)})


def _identity(
    base: LoadedModel, pairs: tuple[PreferenceIds, ...], config: DpoConfig
) -> dict[str, object]:
    return as_stored(
        {
            "config": config.to_dict(),
            "training": "dpo",
            "algorithm": algorithm_of(config),
            "format": config.format,
            "n_pairs": len(pairs),
            "data_digest": preferences_digest(pairs),
            "model_fingerprint": base.fingerprint,
            "model_dtype": base.dtype_name,
            "model_computation": base.computation,
            **version_keys(("trl", "peft", "transformers", "torch")),
        }
    )
