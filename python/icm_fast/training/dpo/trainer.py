"""trl's DPOTrainer on finished token ids."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.identity import json_digest
from icm_fast.model.copies import copy_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.pieces import root_ids
from icm_fast.training.batches import plan_batches
from icm_fast.training.chat import answer_ids, prompt_ids
from icm_fast.training.dpo.config import DpoConfig
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.reward.pairs import Pair
from icm_fast.training.session import trainer_surroundings
from icm_fast.training.sft.trainer import training_packages
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
    from trl import DPOTrainer

Row = dict[str, list[int]]
"""``prompt_ids``, ``chosen_ids`` and ``rejected_ids``, as trl names them."""


@dataclass(frozen=True, slots=True)
class PreferenceIds:
    """What training sees of a pair.

    Attributes:
        prompt: Token ids that both texts begin with.
        chosen: Those after it of the better text.
        rejected: Those of the worse one.
        group: Pairs of one group are held out together.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    group: str | int

    @property
    def length(self) -> int:
        """Tokens of the longer text, prompt included."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def preference_ids(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerBase,
    config: DpoConfig,
    max_context: int,
) -> tuple[PreferenceIds, ...]:
    """Token ids of the pairs whose texts fit, in their order.

    Raises:
        InputError: None fits, there is none, or one has a probability instead of a choice.
    """
    if not pairs:
        raise InputError("there are no pairs to train on; pass at least one")
    made = [_ids(pair, row, tokenizer, config.format) for row, pair in enumerate(pairs)]
    limit = min(config.max_length, max_context)
    fitting = tuple(ids for ids in made if ids.length <= limit)
    if not fitting:
        raise InputError(
            f"the shortest of {len(made)} pairs has a text of {min(p.length for p in made)} "
            f"tokens, but training takes {limit}; raise max_length ({config.max_length}; the model "
            f"takes {max_context}) or shorten the texts"
        )
    return fitting


def _ids(pair: Pair, row: int, tokenizer: PreTrainedTokenizerBase, format: str) -> PreferenceIds:
    if pair.probability != 1.0:
        raise InputError(
            f"pair {row} has the probability {pair.probability}, but DPO reads choices; leave the "
            "column out, or train a reward model"
        )
    prompt = prompt_ids(tokenizer, pair.prompt, format=format) if pair.prompt else ()
    both = [
        answer_ids(tokenizer, pair.prompt, text, format=format)
        for text in (pair.chosen, pair.rejected)
    ]
    prompt = prompt or root_ids(tokenizer)
    # In plain text the last token of the prompt may take in the beginning of an answer.
    n = min(_n_common(prompt, whole) for whole in both)
    chosen, rejected = (whole[n:] for whole in both)
    return PreferenceIds(prompt[:n], chosen, rejected, row if pair.group is None else pair.group)


def _n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning; at least one token of ``other`` stays after it."""
    n = 0
    while n < min(len(one), len(other) - 1) and one[n] == other[n]:
        n += 1
    return n


def preferences_digest(pairs: Sequence[PreferenceIds]) -> str:
    """SHA-256 (hex) over all that training sees of the data."""
    return json_digest([[pair.prompt, pair.chosen, pair.rejected] for pair in pairs])


def train_preferences(
    model: PreTrainedModel,
    base: LoadedModel,
    pairs: Sequence[PreferenceIds],
    config: DpoConfig,
    folder: TuningFolder | None,
    reporter: Reporter,
    watch: Watch,
) -> tuple[PreTrainedModel | PeftModel, TuningState]:
    """Train ``model``, a copy of the base, perhaps from a checkpoint on.

    The random states of the process are put back afterwards.

    Returns:
        The trained model (for ``lora`` the peft model around it), and losses and seconds.

    Raises:
        InputError: trl, peft or datasets is missing, the loss is not finite, or no weight
            changed.
    """
    checkpoint, state = (folder.last_checkpoint() if folder else None) or (None, TuningState())
    trl, datasets = training_packages()
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    tokenizer = copy.deepcopy(base.tokenizer)  # trl sets a padding token
    padding = tokenizer.pad_token_id
    full = config.method == "full"
    batches, held_out = plan_batches(
        [pair.length for pair in pairs], [pair.group for pair in pairs], config
    )
    surroundings = trainer_surroundings(folder, len(state.losses), config.seed, watch)
    with surroundings as (scratch, log):

        class PreferenceTrainer(FixedBatches[Row], trl.DPOTrainer):  # type: ignore[misc, name-defined]
            """trl's trainer on the batches; defined here because trl may be missing."""

            def _prepare_dataset(self, dataset: object, *_: object) -> object:
                """Leave the token ids as they are: trl would tokenize texts."""
                return dataset

        trainer: DPOTrainer = PreferenceTrainer(
            batches=batches,
            held_out=held_out,
            loss=lambda live, inputs: preference_loss(trl.DPOTrainer, trainer, live, inputs),
            terms=[1] * len(pairs),
            n_passes=n_passes_of(config),
            autocast=config.autocast,
            data_collator=DataCollatorForPreference(pad_token_id=0 if padding is None else padding),
            train_dataset=datasets.Dataset.from_list([_row(pair) for pair in pairs]),
            state=state,
            log=log,
            reporter=reporter,
            callbacks=[*tuning_callbacks(config), *watch.callbacks],
            model=model,
            ref_model=copy_model(base.model, model.dtype, share=True) if full else None,
            args=tuning_arguments(
                trl.DPOConfig,
                config,
                base,
                len(batches),
                folder.checkpoints if folder else None,
                scratch,
                **algorithm_of(config),
            ),
            processing_class=tokenizer,
            peft_config=None if full else lora_config(config, "CAUSAL_LM", model),
        )
        if distributed.world_size() > 1:
            # trl gathers figures, for which all processes would need as many rows; they are
            # weighed and summed with the loss instead.
            trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = _as_it_is
        return trainer.model, run_training(trainer, config, checkpoint)


def algorithm_of(config: DpoConfig) -> dict[str, object]:
    """What trl computes, whatever its defaults are; part of the identity of a training."""
    return {
        "beta": config.beta,
        "loss_type": [config.loss],
        "label_smoothing": config.label_smoothing,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
        "precompute_ref_log_probs": False,
        "sync_ref_model": False,
        "max_length": None,
        "disable_dropout": not config.lora_dropout,
    }


def preference_loss(
    kind: type[DPOTrainer], trainer: DPOTrainer, model: torch.nn.Module, inputs: Batch
) -> tuple[torch.Tensor, dict[str, float]]:
    """Trl's loss of a batch, with what trl notes of it.

    Returns:
        The loss, and of the pairs the share whose chosen text gained more probability than the
        rejected one (``accuracy``) and ``beta`` times the mean difference of their gains, in nats
        (``margin``).
    """
    loss: torch.Tensor = kind.compute_loss(trainer, model, inputs)
    noted = trainer._metrics["train" if trainer.model.training else "eval"]
    figures = {"accuracy": noted["rewards/accuracies"][-1], "margin": noted["rewards/margins"][-1]}
    return loss, figures


def _as_it_is(value: torch.Tensor) -> torch.Tensor:
    return value


def _row(pair: PreferenceIds) -> Row:
    return {
        "prompt_ids": list(pair.prompt),
        "chosen_ids": list(pair.chosen),
        "rejected_ids": list(pair.rejected),
    }
