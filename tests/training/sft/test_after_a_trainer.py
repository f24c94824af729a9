"""Models that have been through a trainer forward their own weights, and can be trained again."""

import copy

import numpy as np
import pytest
import torch
import trl
from accelerate import dispatch_model
from datasets import Dataset as Rows

from icm_fast import InputError
from icm_fast.model import load_model
from icm_fast.model.adapters import foreign_code
from icm_fast.model.copies import copy_model
from icm_fast.training.reward import Pair, RewardConfig, train_reward
from icm_fast.training.rl import PolicyConfig, generate, train_policy
from icm_fast.training.sft import TuningConfig, fine_tune
from tiny_models import (
    byte_tokenizer,
    one_thread,  # noqa: F401 - in force by its import
    reviews,
    tiny_loaded,
    tiny_model,
)

LABELS = np.array([0, 1, -1, 0, 1, -1, 1, 0], np.int32)
FULL = TuningConfig(method="full", epochs=2, batch_size=3, learning_rate=0.005)
LORA = TuningConfig(epochs=2, batch_size=3, learning_rate=0.02, dtype="float32")


def tune(model, config, folder=None):
    return fine_tune(reviews(), LABELS, model=model, config=config, output_dir=folder)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


def zero(model):
    """Put zeros in place of all weights; memory that they share with others stays as it is."""
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter)


def from_trl(tmp_path):
    """A model and a tokenizer as trl's trainer leaves them."""
    with foreign_code():
        trainer = trl.SFTTrainer(
            model=tiny_model("llama"),
            args=trl.SFTConfig(
                output_dir=str(tmp_path / "trl"),
                max_steps=2,
                learning_rate=0.005,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                bf16=False,
                use_cpu=True,
                gradient_checkpointing=False,
            ),
            train_dataset=Rows.from_dict({"text": ["a warm and funny film", "dull"] * 4}),
            processing_class=copy.deepcopy(byte_tokenizer()),
        )
        trainer.train()
    return trainer.model, byte_tokenizer()


def require_replaced(model):
    """trl has to have replaced ``forward``, which its 1.0 did not do yet."""
    if "forward" not in vars(model) and trl.__version__.startswith("1.0."):
        pytest.skip("trl 1.0 replaces nothing")
    assert "forward" in vars(model), "trl no longer replaces forward; this test shows nothing"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tuned_model_forwards_its_own_weights(method):
    config = FULL if method == "full" else LORA
    model = tune(tiny_loaded("llama"), config).model.model
    before = logits(model)
    zero(model)
    assert float(logits(model).abs().max()) == 0 < float(before.abs().max())


def test_adapters_on_a_tuned_model_are_those_on_its_folder(tmp_path):
    full = tune(tiny_loaded("llama"), FULL, tmp_path / "full")
    again = load_model(str(tmp_path / "full"), dtype="float32", device="cpu")
    in_memory, from_folder = tune(full.model, LORA), tune(again, LORA)
    assert in_memory.losses[-1] < in_memory.losses[0]
    assert in_memory.losses == pytest.approx(from_folder.losses, abs=1e-5)
    assert in_memory.model.fingerprint == from_folder.model.fingerprint


def test_a_pair_from_another_trainer_can_be_copied_and_tuned(tmp_path):
    model, tokenizer = from_trl(tmp_path)
    require_replaced(model)
    loaded = load_model((model, tokenizer))
    assert torch.equal(logits(loaded.model), logits(model))
    copied = copy_model(model, torch.float32, share=False)
    before = logits(model)
    zero(copied)
    assert float(logits(copied).abs().max()) == 0
    assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    from_folder = load_model(str(tmp_path / "saved"), dtype="float32", device="cpu")
    tuned = tune((model, tokenizer), LORA)
    assert tuned.losses == pytest.approx(tune(from_folder, LORA).losses, abs=1e-5)
    assert tuned.losses[-1] < tuned.losses[0]


def test_loading_a_pair_leaves_the_trainer_that_it_came_from_working(tmp_path):
    model, tokenizer = from_trl(tmp_path)
    require_replaced(model)
    forward = vars(model)["forward"]
    loaded = load_model((model, tokenizer))
    assert vars(model)["forward"] is forward
    assert "forward" not in vars(loaded.model)
    weights = dict(model.named_parameters())
    assert all(p.data_ptr() == weights[n].data_ptr() for n, p in loaded.model.named_parameters())


def test_hooks_that_place_layers_on_devices_survive_a_copy(tmp_path):
    model, _ = from_trl(tmp_path)
    expected = logits(model)
    placed = dispatch_model(model, {"": "cpu"}, force_hooks=True)
    copied = copy_model(placed, torch.float32, share=False)
    assert copied._hf_hook is not placed._hf_hook
    assert torch.equal(logits(copied), expected)
    calls = []
    pre_forward = copied._hf_hook.pre_forward

    def noting(module, *arguments, **named):
        calls.append(module)
        return pre_forward(module, *arguments, **named)

    copied._hf_hook.pre_forward = noting
    zero(copied)
    assert float(logits(copied).abs().max()) == 0
    assert calls == [copied]


def test_a_reward_model_and_a_policy_start_from_a_tuned_model(tmp_path):
    start = tune(tiny_loaded("llama"), FULL, tmp_path / "full").model
    again = load_model(str(tmp_path / "full"), dtype="float32", device="cpu")
    pairs = [Pair(f"Film {k}?", f"great cast {k}", f"dull {k}") for k in range(8)]
    config = RewardConfig(epochs=1, batch_size=4, learning_rate=0.01, method="full")
    rewards = [train_reward(pairs, model=model, config=config) for model in (start, again)]
    assert rewards[0].losses == rewards[1].losses
    assert rewards[0].model.fingerprint == rewards[1].model.fingerprint
    settings = PolicyConfig(
        steps=2, batch_size=2, group_size=4, max_new_tokens=5, n_held_out=2, learning_rate=0.05
    )
    prompts = [f"What of film {k}?" for k in range(6)]
    policies = [
        train_policy(prompts, model=model, reward=rewards[0].model, config=settings)
        for model in (start, again)
    ]
    assert policies[0].log.steps == policies[1].log.steps
    assert policies[0].model.fingerprint == policies[1].model.fingerprint
    policy = policies[0].model
    before = generate(policy, prompts, max_new_tokens=5, temperature=0.0)
    zero(policy.model)
    after = generate(policy, prompts, max_new_tokens=5, temperature=0.0)
    assert [one.token_ids for one in after] != [one.token_ids for one in before]


def test_a_training_that_changes_no_weight_fails():
    config = TuningConfig(method="full", epochs=1, learning_rate=1e-12)
    with pytest.raises(InputError, match=r"left every weight as it was; raise learning_rate"):
        tune(tiny_loaded("llama"), config)


def test_a_learning_rate_of_zero_is_refused():
    with pytest.raises(InputError, match="learning_rate = 0"):
        TuningConfig(learning_rate=0.0)
