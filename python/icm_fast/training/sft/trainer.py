"""trl's SFTTrainer on finished token ids, with logits only where the loss is."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from icm_fast.errors import InputError
from icm_fast.model.adapters import INSTALL_TRAIN, foreign_code
from icm_fast.model.loaded import LoadedModel
from icm_fast.training.config import TuningConfig
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.sft.texts import TrainingText, order_batches
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
    from transformers.modeling_outputs import CausalLMOutput

Row = dict[str, list[int]]
"""``input_ids``, and ``completion_mask`` with 1 where the loss is."""

IGNORED = -100


def train(
    model: PreTrainedModel,
    base: LoadedModel,
    texts: Sequence[TrainingText],
    config: TuningConfig,
    folder: TuningFolder | None,
    reporter: Reporter,
) -> tuple[PreTrainedModel | PeftModel, TuningState]:
    """Train ``model``, a copy of the base, on ``texts``, perhaps from a checkpoint on.

    The random states of the process are put back afterwards.

    Returns:
        The trained model (for ``lora`` the peft model around it), and losses and seconds.

    Raises:
        InputError: trl, peft or datasets is missing, the loss is not finite, or no weight
            changed.
    """
    start = folder.last_checkpoint() if folder else None
    trl, datasets = training_packages()
    batches = order_batches(
        [len(text.ids) for text in texts],
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    accepted = frozenset(inspect.signature(model.forward).parameters)
    with tempfile.TemporaryDirectory() as scratch, foreign_code():

        class LabelTrainer(FixedBatches[Row], trl.SFTTrainer):  # type: ignore[misc, name-defined]
            """trl's trainer on the batches; defined here because trl may be missing."""

        trainer = LabelTrainer(
            batches=batches,
            loss=partial(label_loss, accepted=accepted),
            count=lambda batch: int((batch["targets"] != IGNORED).sum()),
            data_collator=collate,
            train_dataset=datasets.Dataset.from_list([_row(text) for text in texts]),
            state=start[1] if start else TuningState(),
            reporter=reporter,
            model=model,
            args=trainer_arguments(
                trl.SFTConfig,
                config,
                base,
                len(batches),
                folder.checkpoints if folder else None,
                Path(scratch),
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
            ),
            processing_class=base.tokenizer,
            peft_config=lora_config(config, "CAUSAL_LM") if config.method == "lora" else None,
        )
        check = ChangeCheck(trainer.model)
        trainer.train(resume_from_checkpoint=str(start[0]) if start else None)
        check.require_change(trainer.model, config)
        return trainer.model, trainer.tuning_state()


def collate(texts: Sequence[Row]) -> Batch:
    """A batch of rows with ``input_ids`` and ``completion_mask``, padded on the left.

    The tokens that predict labels are then the last ones of every row, and only those need logits.
    The last token of a text is only a target and is not forwarded.

    Returns:
        ``input_ids``, ``attention_mask``, ``position_ids``: ``[rows, longest - 1]`` int64;
        ``targets``: ``[rows, longest label]`` int64, -100 where a label is shorter.
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
    return {
        "input_ids": input_ids,
        "attention_mask": mask,
        "position_ids": positions,
        "targets": targets,
    }


def label_loss(
    model: Callable[..., CausalLMOutput], inputs: Batch, accepted: frozenset[str]
) -> torch.Tensor:
    """Mean cross-entropy of the label tokens over the vocabulary.

    Args:
        model: The model, or a peft model around it.
        inputs: A batch of :func:`collate`.
        accepted: Arguments that the model's forward takes.
    """
    targets = inputs["targets"]
    n_targets = targets.shape[1]
    arguments = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "position_ids": inputs["position_ids"],
        "logits_to_keep": n_targets,
        "use_cache": False,
    }
    output = model(**{name: value for name, value in arguments.items() if name in accepted})
    logits = output.logits[:, -n_targets:].float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )


def training_packages() -> tuple[ModuleType, ModuleType]:
    """Trl and datasets; imported here because trl takes seconds.

    Raises:
        InputError: One of them is missing.
    """
    try:
        import datasets
        import peft  # noqa: F401 - trl imports it late
        import trl
    except ImportError as error:
        raise InputError(
            f"fine-tuning needs trl, peft and datasets ({error}); run {INSTALL_TRAIN}"
        ) from error
    return trl, datasets


def _row(text: TrainingText) -> Row:
    n_prompt = len(text.ids) - text.n_loss
    return {
        "input_ids": list(text.ids),
        "completion_mask": [0] * n_prompt + [1] * text.n_loss,
    }
