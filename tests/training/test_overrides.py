"""What the trainers replace exists in transformers and trl, and is named in one file."""

import inspect

import pytest
import torch
import transformers
import trl
from transformers.generation import utils as generation

from icm_fast.training import overrides
from icm_fast.training.callbacks import EventCallback, TrainingEvents
from icm_fast.training.rl.trainer import Recorded
from icm_fast.training.steps import FixedBatches, OwnTrainer

EVENTS = {"began", "step_ended", "logged", "saved"}


def replaced(*classes, of):
    """Methods of ours that hide one of a foreign trainer."""
    own = {name for kind in classes for name in vars(kind) if inspect.isfunction(vars(kind)[name])}
    return {name for name in own if not name.startswith("__") and hasattr(of, name)}


@pytest.mark.parametrize("foreign", [transformers.Trainer, trl.SFTTrainer, trl.DPOTrainer])
def test_fixed_batches_replace_what_is_named(foreign):
    found = replaced(OwnTrainer, FixedBatches, of=foreign)
    assert found == set(overrides.FIXED_BATCHES)


@pytest.mark.parametrize("foreign", [trl.GRPOTrainer, trl.RLOOTrainer])
def test_reinforcement_learning_replaces_what_is_named(foreign):
    found = replaced(OwnTrainer, Recorded, of=foreign)
    assert found == set(overrides.REINFORCEMENT)
    assert {name for name in found if name.startswith("_")} == set(overrides.PRIVATE)


@pytest.mark.parametrize("kind", [transformers.Trainer, trl.SFTTrainer, trl.GRPOTrainer])
def test_our_names_for_events_hide_nothing_of_a_trainer(kind):
    assert not [name for name in (*EVENTS, "tuning_state", "report") if hasattr(kind, name)]
    assert {name for name in vars(TrainingEvents) if not name.startswith("_")} == EVENTS


def test_callbacks_exist():
    ours = {name for name in vars(EventCallback) if name.startswith("on_")}
    assert ours == {"on_train_begin", "on_step_end", "on_log", "on_save"}
    assert all(hasattr(transformers.TrainerCallback, name) for name in ours)


def test_attributes_exist(tmp_path):
    trainer = transformers.Trainer(
        model=torch.nn.Linear(2, 2),
        args=transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none"),
    )
    assert all(hasattr(trainer, name) for name in overrides.ATTRIBUTES)
    assert "self.beta" in inspect.getsource(trl.GRPOTrainer)
    assert "self.beta" in inspect.getsource(trl.RLOOTrainer)


def test_private_parts_exist():
    assert all(hasattr(transformers.Trainer, name) for name in overrides.CALLED)
    assert all(hasattr(trl.DPOTrainer, name) for name in overrides.PREFERENCES)
    source = inspect.getsource(trl.DPOTrainer)
    for noted in ("rewards/accuracies", "rewards/margins"):
        assert f'self._metrics[mode]["{noted}"].append' in source


def test_transformers_reads_the_mark_of_a_divided_model():
    model = torch.nn.Linear(2, 2)
    assert not generation.is_fsdp_managed_module(model)
    setattr(model, overrides.MARK, True)
    assert generation.is_fsdp_managed_module(model)
