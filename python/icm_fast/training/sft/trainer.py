"""trl's SFTTrainer on finished token ids, with logits only where the loss is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
import torch.utils.checkpoint
from transformers import PreTrainedModel

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.model.adapters import INSTALL_TRAIN
from icm_fast.model.label_head import logit_scaling
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.quantised import import_before_others
from icm_fast.training.batches import plan_batches
from icm_fast.training.config import TuningConfig
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.session import trainer_surroundings
from icm_fast.training.sft.texts import TrainingText, is_weighted
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


class Row(TypedDict):
    """``input_ids``, ``completion_mask`` with 1 where the loss is, and perhaps a weight."""

    input_ids: list[int]
    completion_mask: list[int]
    weight: NotRequired[float]


IGNORED = -100
LOGITS_AT_ONCE = 2**24
"""Label tokens times vocabulary of which logits are kept: 64 MiB in float32."""


def train(
    model: PreTrainedModel,
    base: LoadedModel,
    texts: Sequence[TrainingText],
    config: TuningConfig,
    folder: TuningFolder | None,
    reporter: Reporter,
    watch: Watch,
) -> tuple[PreTrainedModel | PeftModel, TuningState]:
    """Train ``model``, a copy of the base, on ``texts``, perhaps from a checkpoint on.

    The random states of the process are put back afterwards.

    Returns:
        The trained model (for ``lora`` the peft model around it), and losses and seconds.

    Raises:
        InputError: trl, peft or datasets is missing, the loss is not finite, or no weight
            changed.
    """
    checkpoint, state = (folder.last_checkpoint() if folder else None) or (None, TuningState())
    trl, datasets = training_packages()
    batches, held_out = plan_batches(
        [len(text.ids) for text in texts], [text.group for text in texts], config
    )
    weighted = is_weighted(texts)
    accepted = frozenset(inspect.signature(model.forward).parameters)
    surroundings = trainer_surroundings(folder, len(state.losses), config.seed, watch)
    with surroundings as (scratch, log):

        class LabelTrainer(FixedBatches[Row], trl.SFTTrainer):  # type: ignore[misc, name-defined]
            """trl's trainer on the batches; defined here because trl may be missing."""

        trainer = LabelTrainer(
            batches=batches,
            held_out=held_out,
            loss=partial(label_loss, accepted=accepted),
            terms=[text.n_loss for text in texts],
            n_passes=n_passes_of(config),
            autocast=config.autocast,
            data_collator=collate,
            train_dataset=datasets.Dataset.from_list([_row(text, weighted) for text in texts]),
            state=state,
            log=log,
            reporter=reporter,
            callbacks=[*tuning_callbacks(config), *watch.callbacks],
            model=model,
            args=tuning_arguments(
                trl.SFTConfig,
                config,
                base,
                len(batches),
                folder.checkpoints if folder else None,
                scratch,
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
            ),
            processing_class=copy.deepcopy(base.tokenizer),  # trl sets a padding token
            peft_config=(
                lora_config(config, "CAUSAL_LM", model) if config.method == "lora" else None
            ),
        )
        return trainer.model, run_training(trainer, config, checkpoint)


def collate(texts: Sequence[Row]) -> Batch:
    """A batch of rows with ``input_ids`` and ``completion_mask``, padded on the left.

    The tokens that predict labels are then the last ones of every row, and only those need logits.
    The last token of a text is only a target and is not forwarded.

    Returns:
        ``input_ids``, ``attention_mask``, ``position_ids``: ``[rows, longest - 1]`` int64;
        ``targets``: ``[rows, longest label]`` int64, -100 where a label is shorter;
        ``weights``: ``[rows]`` float32, where the rows have them.
    """
    width = max(len(text["input_ids"]) for text in texts) - 1
    n_targets = max(sum(text["completion_mask"]) for text in texts)
    input_ids = torch.zeros(len(texts), width, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    targets = torch.full((len(texts), n_targets), IGNORED, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids = torch.tensor(text["input_ids"])
        n_loss = sum(text["completion_mask"])
        input_ids[row, width - len(ids) + 1 :] = ids[:-1]
        mask[row, width - len(ids) + 1 :] = 1
        targets[row, n_targets - n_loss :] = ids[len(ids) - n_loss :]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "position_ids": positions,
        "targets": targets,
    }
    if "weight" in texts[0]:
        batch["weights"] = torch.tensor([text["weight"] for text in texts])
    return batch


def label_loss(
    model: PreTrainedModel | PeftModel, inputs: Batch, accepted: frozenset[str]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross-entropy of the label tokens over the vocabulary, each times its row's weight.

    Where the logits of all label tokens would be large they are computed in parts, and again for
    the gradients, so that memory does not grow with tokens times vocabulary.

    Args:
        model: The model, or a peft model around it.
        inputs: A batch of :func:`collate`.
        accepted: Arguments that the model's forward takes.

    Returns:
        The loss, and the share of label tokens that the model finds likeliest (``accuracy``).
    """
    targets = inputs["targets"]
    n_targets = targets.shape[1]
    weights = inputs["weights"][:, None].expand_as(targets) if "weights" in inputs else None
    arguments = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "position_ids": inputs["position_ids"],
        "logits_to_keep": n_targets,
        "use_cache": False,
    }
    arguments = {name: value for name, value in arguments.items() if name in accepted}
    causal = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    size = causal.config.get_text_config(decoder=True).vocab_size
    # FSDP has gathered the head only within the forward pass.
    if targets.numel() * size > LOGITS_AT_ONCE and not distributed.is_sharded():
        n_at_once = max(1, LOGITS_AT_ONCE // size)
        return _loss_in_parts(model, causal, arguments, targets, n_at_once, weights)
    logits = model(**arguments).logits[:, -n_targets:].float().flatten(0, 1)
    targets = targets.flatten().to(logits.device)
    if weights is None:
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
    else:
        each = torch.nn.functional.cross_entropy(
            logits, targets, ignore_index=IGNORED, reduction="none"
        )
        loss = each @ weights.flatten().to(each) / (targets != IGNORED).sum()
    right = (logits.detach().argmax(-1) == targets).sum() / (targets != IGNORED).sum()
    return loss, {"accuracy": float(right)}


def _loss_in_parts(
    model: torch.nn.Module,
    causal: PreTrainedModel,
    arguments: dict[str, object],
    targets: torch.Tensor,
    n_at_once: int,
    weights: torch.Tensor | None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The same as in :func:`label_loss`, with the logits of ``n_at_once`` label tokens at a time.

    Args:
        model: Forwards ``arguments``.
        causal: Has the head.
        arguments: Of the forward pass.
        targets: ``[rows, longest label]``.
        n_at_once: Label tokens.
        weights: ``[rows, longest label]``; None where all tokens count alike.
    """
    head, (scale, softcap) = causal.get_output_embeddings(), logit_scaling(causal)
    hidden = _input_of(head, model, arguments)[:, -targets.shape[1] :]
    there = targets != IGNORED
    hidden, targets = hidden[there.to(hidden.device)], targets[there]
    factors = None if weights is None else weights[there].split(n_at_once)

    def part(
        states: torch.Tensor, aims: torch.Tensor, factor: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(states).float() * scale
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        aims = aims.to(logits.device)
        right = (logits.detach().argmax(-1) == aims).sum()
        if factor is None:
            return torch.nn.functional.cross_entropy(logits, aims, reduction="sum"), right
        each = torch.nn.functional.cross_entropy(logits, aims, reduction="none")
        return each @ factor.to(each), right

    cut = (hidden.split(n_at_once), targets.split(n_at_once))
    parts = [
        torch.utils.checkpoint.checkpoint(part, *one, use_reentrant=False)
        for one in zip(*cut, factors or [None] * len(cut[0]), strict=True)
    ]
    loss = torch.stack([one for one, _ in parts]).sum() / len(targets)
    return loss, {"accuracy": sum(int(right) for _, right in parts) / len(targets)}


def _input_of(
    head: torch.nn.Module, model: torch.nn.Module, arguments: dict[str, object]
) -> torch.Tensor:
    """What the head reads in a forward pass of the model, of which it computes one position."""
    read: list[torch.Tensor] = []

    def shorten(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        read.append(inputs[0])
        return (inputs[0][:, -1:],)

    hook = head.register_forward_pre_hook(shorten)
    try:
        model(**arguments)
    finally:
        hook.remove()
    return read[0]


def training_packages() -> tuple[ModuleType, ModuleType]:
    """Trl and datasets; imported here because trl takes seconds.

    Raises:
        InputError: One of them is missing.
    """
    import_before_others()
    try:
        import datasets
        import peft  # noqa: F401 - trl imports it late
        import trl
    except ImportError as error:
        raise InputError(
            f"fine-tuning needs trl, peft and datasets ({error}); run {INSTALL_TRAIN}"
        ) from error
    return trl, datasets


def _row(text: TrainingText, weighted: bool = False) -> Row:
    n_prompt = len(text.ids) - text.n_loss
    row: Row = {
        "input_ids": list(text.ids),
        "completion_mask": [0] * n_prompt + [1] * text.n_loss,
    }
    if weighted:
        row["weight"] = text.weight
    return row
