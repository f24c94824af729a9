"""A reward model in two stages: found labels, then a pool that the first model labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast import distributed
from icm_fast.engine.progress import Quiet
from icm_fast.model.load import load_model
from icm_fast.model.loaded import ModelSpec
from icm_fast.tracking import TrackLike, part_of
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.reward.model import FINAL, INITIAL, RewardModel
from icm_fast.training.reward.pairs import PairSet
from icm_fast.training.reward.pool import PoolLabels, label_pool
from icm_fast.training.reward.train import TrainedReward, train_reward
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True, slots=True, eq=False)
class TwoStage:
    """What the stages gave; without a pool there is but the first.

    Attributes:
        initial: The reward model of the pairs.
        pool: The pool with the labels of ``initial``.
        final: The reward model of the pairs and the labelled pool.
    """

    initial: TrainedReward
    pool: PoolLabels | None = None
    final: TrainedReward | None = None

    @property
    def model(self) -> RewardModel:
        """The last reward model there is."""
        return (self.final or self.initial).model


def two_stage(
    pairs: PairSet,
    *,
    model: ModelSpec,
    output_dir: str | os.PathLike[str],
    pool: str | os.PathLike[str] | None = None,
    config: RewardConfig | None = None,
    soft: bool = True,
    progress: Reporter | None = None,
    track: TrackLike = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TwoStage:
    """Train on pairs, label a pool with that model, and train a fresh one on both.

    Args:
        pairs: Of found labels, or of people's for the human-supervised counterpart.
        model: What ``train_reward`` takes; both models begin from it.
        output_dir: Holds ``initial/``, ``pool.jsonl`` (with ``pool.json``) and ``final/``. What was
            interrupted there is resumed, what is finished is read; a pool may be added later.
        pool: JSONL of unlabelled pairs, as in ``label_pool``; None stops after the first stage.
        config: Settings of both trainings.
        soft: Train on the probabilities that the first model gives, otherwise on its choices.
        progress: Says what is done next, and shows the steps and rows.
        track: Same as in ``train_reward``, for both trainings.
        callbacks: Same as in ``train_reward``, for both trainings.

    Raises:
        InputError: Same as in ``train_reward`` and ``label_pool``.
    """
    folder = Path(output_dir)
    distributed.start()
    base = load_model(model, quantization=(config or RewardConfig()).quantization)
    with progress or Quiet() as shown:
        shown.say(f"{INITIAL}: {len(pairs.pairs)} pairs")
        train = partial(
            train_reward,
            model=base,
            config=config,
            progress=shown,
            callbacks=callbacks,
        )
        initial = train(pairs.pairs, output_dir=folder / INITIAL, track=part_of(track, INITIAL))
        if pool is None:
            return TwoStage(initial)
        shown.say(f"pool: labelling {pool}")
        labelled = label_pool(initial.model, Path(pool), folder, soft=soft, progress=shown)
        joined = (*pairs.pairs, *labelled.pairs())
        shown.say(f"{FINAL}: {len(joined)} pairs")
        final = train(joined, output_dir=folder / FINAL, track=part_of(track, FINAL))
    return TwoStage(initial, labelled, final)
