"""transformers' Trainer on pairs of texts, with the loss of Bradley and Terry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.identity import json_digest
from icm_fast.model.adapters import import_peft
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.quantised import import_before_others
from icm_fast.training.batches import plan_batches
from icm_fast.training.chat import answer_ids
from icm_fast.training.confidence import CONFIDENCE, NONE, confidence_margin, loss_weights
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.reward.network import TEXT_INPUTS, forward_rewards, pad_left, rewards
from icm_fast.training.reward.pairs import Pair
from icm_fast.training.session import trainer_surroundings
from icm_fast.training.steps import (
    Batch,
    FixedBatches,
    lora_config,
    n_passes_of,
    run_training,
    tuning_arguments,
    tuning_callbacks,
)
from icm_fast.training.watch import Watch
from icm_fast.types import Reporter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainingArguments


@dataclass(frozen=True, slots=True)
class PairIds:
    """What training sees of a pair.

    Attributes:
        chosen: Token ids of the better text.
        rejected: Those of the worse one.
        margin: Difference of rewards that the loss asks for.
        probability: That ``chosen`` is better.
        group: Pairs of one group are held out together.
        weight: What the pair counts in the loss.
    """

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float
    probability: float
    group: str | int = 0
    weight: float = 1.0

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
            answer_ids(tokenizer, pair.prompt, pair.chosen, format=config.format),
            answer_ids(tokenizer, pair.prompt, pair.rejected, format=config.format),
            config.margin_scale * _margin(pair, row, config),
            pair.probability,
            row if pair.group is None else pair.group,
        )
        for row, pair in enumerate(pairs)
    ]
    if not made:
        raise InputError("there are no pairs to train on; pass at least one")
    limit = min(config.max_length, max_context)
    rows = [row for row, ids in enumerate(made) if ids.length <= limit]
    fitting = tuple(made[row] for row in rows)
    if not fitting:
        raise InputError(
            f"the shortest of {len(made)} pairs has a text of {min(p.length for p in made)} "
            f"tokens, but training takes {limit}; raise max_length ({config.max_length}; the model "
            f"takes {max_context}) or shorten the texts"
        )
    if config.weights == NONE:
        return fitting
    weights = loss_weights([pairs[row].confidence for row in rows])
    return tuple(replace(ids, weight=w) for ids, w in zip(fitting, weights, strict=True))


def _margin(pair: Pair, row: int, config: RewardConfig) -> float:
    if config.margin_scale and config.margin == CONFIDENCE:
        return confidence_margin(pair.confidence, row)
    return pair.margin


def pairs_digest(pairs: Sequence[PairIds]) -> str:
    """SHA-256 (hex) over all that training sees of the data."""
    seen = ["chosen", "rejected", "margin", "probability"]
    if any(pair.weight != 1.0 for pair in pairs):  # otherwise it is that of earlier versions
        seen.append("weight")
    return json_digest([{name: getattr(pair, name) for name in seen} for pair in pairs])


def collate(pairs: Sequence[PairIds]) -> Batch:
    """The chosen texts of a batch, then the rejected ones; ``margin`` and so on ``[n]``."""
    return {
        **pad_left([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]),
        "margin": torch.tensor([pair.margin for pair in pairs]),
        "probability": torch.tensor([pair.probability for pair in pairs]),
        "weight": torch.tensor([pair.weight for pair in pairs]),
    }


def bradley_terry(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor,
    probability: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Mean negative log-likelihood of the pairs; all arguments ``[n]``.

    A pair of probability p counts p as it is and 1 - p reversed; either way the winner has to win
    by the margin. What a pair contributes is multiplied by its weight.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    difference = chosen - rejected
    right, wrong = logsigmoid(difference - margin), logsigmoid(-difference - margin)
    return -(weight * (probability * right + (1 - probability) * wrong)).mean()


def pair_loss(
    model: PreTrainedModel | PeftModel, inputs: Batch
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of a batch of :func:`collate`; ``model`` is the network or the peft model around it.

    Returns:
        The loss, and of the pairs the share with a higher reward of the chosen text (``accuracy``)
        and the mean difference of the rewards (``margin``).
    """
    network = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    # FSDP has gathered weights only within the forward pass of the whole model.
    texts = {name: inputs[name] for name in TEXT_INPUTS}
    values = model(**texts) if distributed.is_sharded() else rewards(network, texts)
    chosen, rejected = values.chunk(2)
    given = [inputs[name].to(values.device) for name in ("margin", "probability", "weight")]
    difference = (chosen - rejected).detach()
    figures = {
        "accuracy": float((difference > 0).float().mean()),
        "margin": float(difference.mean()),
    }
    return bradley_terry(chosen, rejected, *given), figures


def train_pairs(
    network: PreTrainedModel,
    base: LoadedModel,
    pairs: Sequence[PairIds],
    config: RewardConfig,
    folder: TuningFolder | None,
    reporter: Reporter,
    watch: Watch,
) -> tuple[PreTrainedModel | PeftModel, TuningState]:
    """Train ``network`` in place, perhaps from a checkpoint on.

    The random states of the process are put back afterwards.

    Returns:
        The network (for ``lora`` the peft model around it), and losses and seconds.

    Raises:
        InputError: peft is missing, the loss is not finite, or no weight changed.
    """
    foreign, arguments = _trainer(config)

    class PairTrainer(FixedBatches[PairIds], foreign):  # type: ignore[misc, valid-type]
        """Defined here because transformers' Trainer takes long to import."""

    checkpoint, state = (folder.last_checkpoint() if folder else None) or (None, TuningState())
    batches, held_out = plan_batches(
        [pair.length for pair in pairs], [pair.group for pair in pairs], config
    )
    surroundings = trainer_surroundings(folder, len(state.losses), config.seed, watch)
    with surroundings as (scratch, log):
        if distributed.is_sharded():
            forward_rewards(network)
        trainer = PairTrainer(
            batches=batches,
            held_out=held_out,
            loss=pair_loss,
            terms=[1] * len(pairs),
            n_passes=n_passes_of(config),
            autocast=config.autocast,
            data_collator=collate,
            train_dataset=list(pairs),
            state=state,
            log=log,
            reporter=reporter,
            callbacks=[*tuning_callbacks(config), *watch.callbacks],
            model=trainable_network(network, config),
            args=tuning_arguments(
                arguments,
                config,
                base,
                len(batches),
                folder.checkpoints if folder else None,
                scratch,
            ),
        )
        return trainer.model, run_training(trainer, config, checkpoint)


def _trainer(config: RewardConfig) -> tuple[type, type[TrainingArguments]]:
    """``Trainer`` and ``TrainingArguments`` of transformers, which take long to import.

    transformers imports peft with them where it is installed: after bitsandbytes, which peft would
    let fetch.

    Raises:
        InputError: peft is missing, and adapters are trained.
    """
    import_before_others()
    if config.method == "lora":
        import_peft()
    from transformers import Trainer, TrainingArguments

    return Trainer, TrainingArguments


def trainable_network(
    network: PreTrainedModel, config: RewardConfig
) -> PreTrainedModel | PeftModel:
    """The network as it is trained: all of it, or new adapters and the head."""
    if config.method == "full":
        return network.requires_grad_(True)
    if config.gradient_checkpointing:
        network.enable_input_require_grads()  # otherwise no gradient passes the frozen embedding
    # The kind of task makes peft train the head as a whole, and save it with the adapters.
    return import_peft().get_peft_model(network, lora_config(config, "SEQ_CLS", network))
