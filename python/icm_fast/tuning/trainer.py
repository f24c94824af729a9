"""trl's SFTTrainer on token ids that are made already, with logits where labels are."""

from __future__ import annotations

import dataclasses
import inspect
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from icm_fast.errors import InputError
from icm_fast.model.load import LoadedModel
from icm_fast.model.tuned import INSTALL_TRAIN, foreign_code
from icm_fast.tuning.config import TuningConfig
from icm_fast.tuning.folder import TuningFolder, TuningState, mark_complete
from icm_fast.tuning.texts import TrainingText, order_batches

Progress = Callable[[int, int, float], None]
"""Called after each step with its number, the number of steps, and its loss."""

IGNORED = -100


def train(
    model: Any,
    base: LoadedModel,
    texts: Sequence[TrainingText],
    config: TuningConfig,
    folder: TuningFolder | None,
    progress: Progress | None,
) -> tuple[Any, TuningState]:
    """Train ``model``, a copy of the base, on ``texts``; go on from the folder's last checkpoint.

    The random states of the process are put back afterwards.

    Returns:
        The trained model (for ``lora`` the peft model around it), and losses and seconds.

    Raises:
        InputError: trl, peft or datasets is missing, or the loss is no longer a number.
    """
    start = folder.last_checkpoint() if folder else None
    with tempfile.TemporaryDirectory() as scratch, foreign_code():
        trainer = _trainer_class()(
            model=model,
            base=base,
            texts=texts,
            config=config,
            output=folder.checkpoints if folder else None,
            scratch=scratch,
            state=start[1] if start else TuningState(),
            progress=progress,
        )
        trainer.train(resume_from_checkpoint=str(start[0]) if start else None)
        return trainer.model, trainer.tuning_state()


def collate(texts: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of rows with ``input_ids`` and ``completion_mask``, padded on the left.

    So the tokens that predict labels are the last ones of every row, and only those need logits.
    The last token of a text is a target alone and not forwarded.

    Returns:
        ``input_ids``, ``attention_mask``, ``position_ids``: ``[rows, longest - 1]`` int64;
        ``targets``: ``[rows, most label tokens]`` int64, -100 where a label is shorter.
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


def label_loss(model: Any, inputs: dict[str, torch.Tensor], accepted: frozenset[str]) -> Any:
    """Mean cross-entropy of the label tokens over the vocabulary.

    Args:
        model: The model, or a peft model around it.
        inputs: A batch of :func:`collate`.
        accepted: Arguments that the model's forward takes.
    """
    targets = inputs["targets"]
    n_targets = targets.shape[1]
    asked = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "position_ids": inputs["position_ids"],
        "logits_to_keep": n_targets,
        "use_cache": False,
    }
    output = model(**{name: value for name, value in asked.items() if name in accepted})
    logits = output.logits[:, -n_targets:].float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )


def _trainer_class() -> Any:
    """The trainer; made here because trl takes seconds to import and may be missing."""
    try:
        import datasets
        import peft
        import trl
        from transformers.trainer_callback import PrinterCallback
    except ImportError as error:
        raise InputError(
            f"fine-tuning needs trl, peft and datasets ({error}); run {INSTALL_TRAIN}"
        ) from error

    class LabelTrainer(trl.SFTTrainer):  # type: ignore[misc]
        """One pass over batches that are fixed beforehand, with a loss on label tokens."""

        def __init__(
            self,
            *,
            model: Any,
            base: LoadedModel,
            texts: Sequence[TrainingText],
            config: TuningConfig,
            output: Path | None,
            scratch: str,
            state: TuningState,
            progress: Progress | None,
        ) -> None:
            self._batches = order_batches(
                [len(text.ids) for text in texts],
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
            )
            self._losses = list(state.losses)
            self._seconds_before = state.seconds
            self._progress = progress
            self._accepted = frozenset(inspect.signature(model.forward).parameters)
            self._dataset = datasets.Dataset.from_list([_row(text) for text in texts])
            super().__init__(
                model=model,
                args=_arguments(trl, config, base, len(self._batches), output, scratch),
                data_collator=collate,
                train_dataset=self._dataset,
                processing_class=base.tokenizer,
                peft_config=_lora(peft, config) if config.method == "lora" else None,
            )
            self.processing_class = None  # checkpoints need no copy of the tokenizer
            self.remove_callback(PrinterCallback)
            for adapter in getattr(self.model, "peft_config", {}).values():
                # Else every checkpoint would ask the hub for the base's configuration.
                adapter.base_model_name_or_path = ""
            self._began = time.monotonic()

        def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
            """All batches of all epochs, in their order."""
            return torch.utils.data.DataLoader(
                self._dataset,
                batch_sampler=self._batches,
                collate_fn=collate,
            )

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, torch.Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """The loss on label tokens; noted for the record."""
            loss = label_loss(model, inputs, self._accepted)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise InputError(
                    f"the loss of step {len(self._losses) + 1} is {value}; lower learning_rate "
                    f"({config_rate(self.args)}), or train with dtype=float32"
                )
            self._losses.append(value)
            if self._progress:
                self._progress(len(self._losses), len(self._batches), value)
            return loss

        def tuning_state(self) -> TuningState:
            """Losses and seconds so far, those of earlier processes included."""
            seconds = self._seconds_before + time.monotonic() - self._began
            return TuningState(tuple(self._losses), seconds)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            # Not trl's own method, which adds a model card; a torn checkpoint bears no mark.
            super(trl.SFTTrainer, self)._save_checkpoint(model, trial)
            step = self.state.global_step
            mark_complete(Path(self.args.output_dir) / f"checkpoint-{step}", self.tuning_state())

    return LabelTrainer


def config_rate(arguments: Any) -> float:
    """The peak learning rate of a trainer's arguments."""
    return float(arguments.learning_rate)


def _row(text: TrainingText) -> dict[str, list[int]]:
    n_prompt = len(text.ids) - text.n_loss
    return {
        "input_ids": list(text.ids),
        "completion_mask": [0] * n_prompt + [1] * text.n_loss,
    }


def _lora(peft: Any, config: TuningConfig) -> Any:
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        r=config.rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


def _arguments(
    trl: Any,
    config: TuningConfig,
    base: LoadedModel,
    n_steps: int,
    output: Path | None,
    scratch: str,
) -> Any:
    # transformers 5 renames it on its way, and warns of the old name.
    known = {field.name for field in dataclasses.fields(trl.SFTConfig)}
    new, old = "activation_checkpointing", "gradient_checkpointing"
    checkpointing = {new if new in known else old: config.gradient_checkpointing}
    arguments = trl.SFTConfig(
        output_dir=str(output or scratch),
        # The batches of all epochs are one pass to the trainer.
        num_train_epochs=1,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        # transformers' "constant" ignores the warm-up.
        lr_scheduler_type=config.scheduler.replace("constant", "constant_with_warmup"),
        warmup_steps=int(config.warmup * n_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        **checkpointing,
        seed=config.seed,
        save_strategy="steps" if output else "no",
        save_steps=config.save_steps,
        save_total_limit=2,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        remove_unused_columns=False,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=base.device.type == "cpu",
        bf16=False,
        fp16=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device: trl refuses to spread over several
    return arguments
