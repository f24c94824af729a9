"""transformers' Trainer on pairs of texts, with the loss of Bradley and Terry."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast.errors import InputError
from icm_fast.identity import json_digest
from icm_fast.model.adapters import foreign_code, import_peft
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.reward.network import pad_left, rewards
from icm_fast.training.reward.pairs import Pair
from icm_fast.training.reward.text import reward_ids, reward_text
from icm_fast.training.sft.texts import order_batches
from icm_fast.training.steps import (
    Batch,
    ChangeCheck,
    FixedBatches,
    lora_config,
    trainer_arguments,
)
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True)
class PairIds:
    """What training sees of a pair.

    Attributes:
        chosen: Token ids of the better text.
        rejected: Those of the worse one.
        margin: Difference of rewards that the loss asks for.
        probability: That ``chosen`` is better.
    """

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float
    probability: float

    @property
    def length(self) -> int:
        """Tokens of the longer text."""
        return max(len(self.chosen), len(self.rejected))


def pair_ids(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerBase,
    config: RewardConfig,
    max_context: int,
) -> tuple[PairIds, ...]:
    """Token ids of the pairs whose texts fit, in their order.

    Raises:
        InputError: None fits, or there is none.
    """
    made = [
        PairIds(
            reward_ids(reward_text(pair.prompt, pair.chosen), tokenizer),
            reward_ids(reward_text(pair.prompt, pair.rejected), tokenizer),
            config.margin_scale * pair.margin,
            pair.probability,
        )
        for pair in pairs
    ]
    if not made:
        raise InputError("there are no pairs to train on; pass at least one")
    limit = min(config.max_length, max_context)
    fitting = tuple(ids for ids in made if ids.length <= limit)
    if not fitting:
        raise InputError(
            f"the shortest of {len(made)} pairs has a text of {min(p.length for p in made)} "
            f"tokens, but training takes {limit}; raise max_length ({config.max_length}; the model "
            f"takes {max_context}) or shorten the texts"
        )
    return fitting


def pairs_digest(pairs: Sequence[PairIds]) -> str:
    """SHA-256 (hex) over all that training sees of the data."""
    return json_digest([asdict(pair) for pair in pairs])


def collate(pairs: Sequence[PairIds]) -> Batch:
    """The chosen texts of a batch, then the rejected ones; ``margin``, ``probability`` ``[n]``."""
    return {
        **pad_left([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]),
        "margin": torch.tensor([pair.margin for pair in pairs]),
        "probability": torch.tensor([pair.probability for pair in pairs]),
    }


def bradley_terry(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor, probability: torch.Tensor
) -> torch.Tensor:
    """Mean negative log-likelihood of the pairs; all arguments ``[n]``.

    A pair of probability p counts p as it is and 1 - p reversed; either way the winner has to win
    by the margin.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    difference = chosen - rejected
    right, wrong = logsigmoid(difference - margin), logsigmoid(-difference - margin)
    return -(probability * right + (1 - probability) * wrong).mean()


def pair_loss(model: PreTrainedModel | PeftModel, inputs: Batch) -> torch.Tensor:
    """Loss of a batch of :func:`collate`; ``model`` is the network or the peft model around it."""
    network = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    values = rewards(network, inputs)
    chosen, rejected = values.chunk(2)
    return bradley_terry(chosen, rejected, inputs["margin"], inputs["probability"])


def train_pairs(
    network: PreTrainedModel,
    base: LoadedModel,
    pairs: Sequence[PairIds],
    config: RewardConfig,
    folder: TuningFolder | None,
    reporter: Reporter,
) -> tuple[PreTrainedModel | PeftModel, TuningState]:
    """Train ``network`` in place, perhaps from a checkpoint on.

    The random states of the process are put back afterwards.

    Returns:
        The network (for ``lora`` the peft model around it), and losses and seconds.

    Raises:
        InputError: peft is missing, the loss is not finite, or no weight changed.
    """
    from transformers import Trainer, TrainingArguments, set_seed

    class PairTrainer(FixedBatches[PairIds], Trainer):  # type: ignore[misc]
        """Defined here because transformers' Trainer takes long to import."""

    start = folder.last_checkpoint() if folder else None
    batches = order_batches(
        [pair.length for pair in pairs],
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    with tempfile.TemporaryDirectory() as scratch, foreign_code():
        set_seed(config.seed)
        trainer = PairTrainer(
            batches=batches,
            loss=pair_loss,
            count=lambda batch: len(batch["margin"]),
            data_collator=collate,
            train_dataset=list(pairs),
            state=start[1] if start else TuningState(),
            reporter=reporter,
            model=_trainable(network, config),
            args=trainer_arguments(
                TrainingArguments,
                config,
                base,
                len(batches),
                folder.checkpoints if folder else None,
                Path(scratch),
            ),
        )
        check = ChangeCheck(trainer.model)
        trainer.train(resume_from_checkpoint=str(start[0]) if start else None)
        check.require_change(trainer.model, config)
        return trainer.model, trainer.tuning_state()


def _trainable(network: PreTrainedModel, config: RewardConfig) -> PreTrainedModel | PeftModel:
    if config.method == "full":
        return network.requires_grad_(True)
    if config.gradient_checkpointing:
        network.enable_input_require_grads()  # otherwise no gradient passes the frozen embedding
    # The kind of task makes peft train the head as a whole, and save it with the adapters.
    return import_peft().get_peft_model(network, lora_config(config, "SEQ_CLS"))
