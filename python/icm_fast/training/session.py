"""One training from its folder to its model: trained, resumed, or loaded where it is finished."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast import distributed
from icm_fast.model.adapters import (
    ADAPTER_FOLDER,
    MODEL_FOLDER,
    TUNING_FILE,
    base_name_for,
    foreign_code,
)
from icm_fast.runs.provenance import versions
from icm_fast.training.folder import TuningFolder, TuningState
from icm_fast.training.step_log import StepLog
from icm_fast.training.watch import Watch

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True, eq=False)
class Trained(Generic[Model]):
    """What a training gave, before it is stored.

    Attributes:
        state: Losses and seconds.
        save: Writes the adapter, or the whole model, into a folder.
        model: The finished model where the training has it (``method=full``); None where it has an
            adapter, which is merged once it is stored.
        figures: What else is recorded, as plain JSON types.
        write_more: Writes further files into the folder of the training, in the main process.
    """

    state: TuningState
    save: Callable[[Path], None]
    model: Model | None = None
    figures: Mapping[str, object] = field(default_factory=dict)
    write_more: Callable[[Path], None] = lambda folder: None

    @property
    def kind(self) -> str:
        """Name of the folder inside that of the training."""
        return ADAPTER_FOLDER if self.model is None else MODEL_FOLDER


def train_or_resume(
    folder: str | os.PathLike[str] | None,
    identity: Callable[[], Mapping[str, object]],
    train: Callable[[TuningFolder | None], Trained[Model]],
    load: Callable[[Path], Model],
    *,
    packages: tuple[str, ...],
    record: str = TUNING_FILE,
) -> tuple[Model, TuningState]:
    """Give the model of a training, and train as far as that is not done yet.

    What came out is stored and recorded before an adapter is merged: where the memory does not
    suffice for that, the same call in another process only merges.

    Args:
        folder: Of the training. Without it nothing is kept on disk.
        identity: What must be the same for a training to be resumed; called where there is a
            folder.
        train: Trains; resumes from the folder's last checkpoint.
        load: Gives the model whose adapter or weights are in a folder.
        packages: Whose versions are recorded.
        record: Name of the file with identity and result.

    Raises:
        InputError: The folder holds another training, is in use, or cannot be written.
    """
    if folder is None:
        return _train_without_folder(train, load)
    with TuningFolder(Path(folder), identity(), record=record) as opened:
        finished = opened.result()
        if finished is not None:
            return load(opened.folder), finished
        trained = train(opened)
        _store(trained, opened, packages)
        model, state = trained.model, trained.state
        if model is None:
            del trained
            gc.collect()  # trainers hold circles, and a merge needs the memory of a model
            model = load(opened.folder)
        return model, state


def _train_without_folder(
    train: Callable[[None], Trained[Model]], load: Callable[[Path], Model]
) -> tuple[Model, TuningState]:
    trained = train(None)
    if trained.model is not None:
        return trained.model, trained.state
    with tempfile.TemporaryDirectory() as scratch:
        trained.save(Path(scratch) / trained.kind)
        state = trained.state
        del trained
        gc.collect()
        return load(Path(scratch)), state


def _store(trained: Trained[Model], folder: TuningFolder, packages: tuple[str, ...]) -> None:
    """Write what came out and record it, which marks the training as finished."""
    with tempfile.TemporaryDirectory(dir=folder.scratch) as scratch:
        made = Path(scratch) / "made"
        distributed.on_main(lambda: trained.save(made))
        folder.put(trained.kind, made)
    distributed.on_main(lambda: trained.write_more(folder.folder))
    folder.finish(
        {
            **asdict(trained.state),
            **trained.figures,
            "n_threads": torch.get_num_threads(),
            "n_processes": distributed.world_size(),
            "versions": versions(packages),
        }
    )


@contextmanager
def trainer_surroundings(
    folder: TuningFolder | None, n_done: int, seed: int, watch: Watch
) -> Iterator[tuple[Path, StepLog]]:
    """What a trainer is made and runs in; the random states of the process are put back afterwards.

    Args:
        folder: Of the training; None keeps nothing.
        n_done: Steps before the checkpoint that is resumed from.
        seed: Seed of what the trainer draws, from its new adapters on.
        watch: What follows the training.

    Yields:
        A scratch folder, and the log of the steps.
    """
    from transformers import set_seed

    with (
        tempfile.TemporaryDirectory() as scratch,
        StepLog(folder.folder if folder else None, n_done, watch.tracking) as log,
        foreign_code(),
    ):
        set_seed(seed)  # trl before 1.16 draws new adapters from whatever came before
        yield Path(scratch), log


class AdaptedModel(Protocol):
    """As much of a peft model as saving its adapter needs."""

    peft_config: dict[str, AdapterConfig]

    def save_pretrained(self, save_directory: Path, *, save_embedding_layers: bool) -> None:
        """Write the adapter."""


class AdapterConfig(Protocol):
    """As much of peft's settings of an adapter."""

    base_model_name_or_path: str | None
    target_modules: list[str] | set[str] | str | None


def save_adapter(trained: AdaptedModel, folder: Path, base_name: str, final: Path | None) -> None:
    """Write the adapter of a trained peft model, with the name of its base.

    Args:
        trained: The peft model.
        folder: Where to write.
        base_name: What the user called the base.
        final: Folder of the training, in which the adapter will lie; None where it is not kept.
    """
    name = base_name_for(final / ADAPTER_FOLDER, base_name) if final else base_name
    for adapter in trained.peft_config.values():
        adapter.base_model_name_or_path = name
        if isinstance(adapter.target_modules, set):  # whose order differs between processes
            adapter.target_modules = sorted(adapter.target_modules)
    trained.save_pretrained(folder, save_embedding_layers=False)


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
