"""A reward model in two stages: found labels, then a pool that the first model labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icm_fast import distributed
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.reward.model import FINAL, INITIAL, RewardModel
from icm_fast.training.reward.pairs import PairSet
from icm_fast.training.reward.pool import PoolLabels, label_pool
from icm_fast.training.reward.train import TrainedReward, train_reward
from icm_fast.training.steps import Progress


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
    model: Any,
    output_dir: str | os.PathLike[str],
    pool: str | os.PathLike[str] | None = None,
    config: RewardConfig | None = None,
    soft: bool = True,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> TwoStage:
    """Train on pairs, label a pool with that model, and train a fresh one on both.

    Args:
        pairs: Of found labels, or of people's for the human-supervised twin.
        model: What ``train_reward`` takes; both models begin from it.
        output_dir: Holds ``initial/``, ``pool.jsonl`` (with ``pool.json``) and ``final/``. What was
            interrupted there goes on, what is finished is read; a pool may be added later.
        pool: JSONL of unlabelled pairs, as of ``label_pool``; None stops after the first stage.
        config: Settings of both trainings.
        soft: Train on the probabilities that the first model gives, else on its choices.
        say: Told in a line what is done next.
        progress: Of the training steps.

    Raises:
        InputError: As of ``train_reward`` and ``label_pool``.
    """
    say = say or (lambda text: None)
    folder = Path(output_dir)
    distributed.start()
    base = model if isinstance(model, LoadedModel) else load_model(model)
    say(f"{INITIAL}: {len(pairs.pairs)} pairs")
    initial = train_reward(
        pairs.pairs, model=base, config=config, output_dir=folder / INITIAL, progress=progress
    )
    if pool is None:
        return TwoStage(initial)
    say(f"pool: labelling {pool}")
    labelled = label_pool(
        initial.model,
        Path(pool),
        folder,
        soft=soft,
        progress=lambda n_rows: say(f"pool: {n_rows} rows"),
    )
    joined = (*pairs.pairs, *labelled.pairs())
    say(f"{FINAL}: {len(joined)} pairs")
    final = train_reward(
        joined, model=base, config=config, output_dir=folder / FINAL, progress=progress
    )
    return TwoStage(initial, labelled, final)
