"""What trl learns is set by us: every argument of its loss, iterations, clipping, versions."""

import dataclasses
import json
from functools import cache
from importlib.metadata import version

import pytest
import torch
import trl
from rl_cases import CONFIG, reward_model, train
from transformers import TrainingArguments

from icm_fast import InputError
from icm_fast.training import folder as training_folder
from icm_fast.training.rl import PolicyConfig
from icm_fast.training.rl.algorithm import (
    NO_PART_IN_THE_LOSS,
    OPTIMISER,
    algorithm_arguments,
    known_arguments,
    router_weight,
)
from icm_fast.training.rl.trainer import Recorded, _arguments
from tiny_models import one_thread, tiny_loaded, tiny_model  # noqa: F401 - by its import

KINDS = {"grpo": trl.GRPOConfig, "rloo": trl.RLOOConfig}
ELSEWHERE = {"generation_kwargs", "learning_rate", "bf16", "remove_unused_columns"}
"""Set by ``_arguments`` and ``trainer_arguments``."""


def names(kind):
    return {field.name: field.default for field in dataclasses.fields(kind)}


@cache
def liked():
    return reward_model()


@pytest.fixture
def reward():
    return liked()


@pytest.mark.parametrize("algorithm", KINDS)
def test_every_argument_of_the_installed_trl_is_set_or_has_no_part_in_the_loss(algorithm):
    """A trl with a new argument fails here: set it in algorithm.py, or name it there."""
    base, own = names(TrainingArguments), names(KINDS[algorithm])
    added = {name for name in own if name not in base or own[name] != base[name]}
    added -= {"gradient_checkpointing", "activation_checkpointing", "logging_steps"}
    ours = algorithm_arguments(PolicyConfig(algorithm=algorithm), tiny_model("llama"))
    unknown = {
        name for name in added - ELSEWHERE - NO_PART_IN_THE_LOSS if not name.startswith("vllm_")
    }
    assert unknown <= ours.keys()
    assert not ours.keys() & NO_PART_IN_THE_LOSS


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_trainer_receives_them(algorithm, tmp_path):
    loaded, config = tiny_loaded("llama"), PolicyConfig(algorithm=algorithm, dtype="float32")
    wanted = known_arguments(KINDS[algorithm], algorithm_arguments(config, loaded.model))
    made = _arguments(KINDS[algorithm], config, loaded, frozenset((2,)), None, tmp_path)
    for name, value in wanted.items():
        assert getattr(made, name) == value, name
    assert set(OPTIMISER) <= wanted.keys()
    if algorithm == "grpo":
        pinned = {"loss_type": "dapo", "scale_rewards": "group", "use_bias_correction_kl": True}
        assert pinned.items() <= wanted.items()
        assert (made.num_iterations, made.importance_sampling_level) == (1, "token")


def test_a_further_update_from_a_batch_has_ratios_which_epsilon_clips(reward):
    changes = {"reward": reward, "num_iterations": 3, "warmup": 0.0, "learning_rate": 0.05}
    wide, narrow = (train(**changes, epsilon=value).log.steps for value in (1.0, 1e-5))
    assert [step["step"] for step in wide] == [1, 2, 3, 4, 5, 6]
    for steps in (wide, narrow):
        batches = [step["reward"] for step in steps]
        assert batches[0] == batches[1] == batches[2] != batches[3] == batches[4]
    assert [step["clip_share"] for step in narrow][::3] == [0, 0]
    assert all(step["clip_share"] > 0.1 for step in (narrow[1], narrow[2]))
    assert wide[1]["clip_share"] < narrow[1]["clip_share"]


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_rewards": "none"},
        {"use_bias_correction_kl": False},
        {"num_iterations": 2, "epsilon": 1e-5, "epsilon_high": 5.0},
        {"num_iterations": 2, "delta": 0.9},
        {"num_iterations": 2, "importance_sampling_level": "sequence"},
    ],
)
def test_each_setting_changes_what_is_learned(changes, reward):
    plain = learned(num_iterations=changes.get("num_iterations", 1))
    assert learned(**changes) != plain


@cache
def learned(**changes):
    """Fingerprint of a policy after two steps."""
    fixed = {"steps": 2, "n_held_out": 0, "learning_rate": 0.05, "warmup": 0.0}
    return train(reward=liked(), **fixed, **changes).model.fingerprint


def test_what_has_not_ended_can_be_left_out(reward):
    """None of the continuations ends; trl 1.0 knows one end only, so it is refused there."""
    expected = "left every weight as it was"
    if version("trl") < "1.1":
        expected = "needs a trl that knows all tokens"
    with pytest.raises(InputError, match=expected):
        train(reward=reward, n_held_out=0, steps=2, mask_truncated_completions=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": 0.3}, "clip is called epsilon now"),
        ({"epsilon": 0.3}, "no effect with num_iterations = 1"),
        ({"delta": 2.0}, "no effect with num_iterations = 1"),
        ({"loss_type": "ppo"}, "unknown loss_type 'ppo'"),
        ({"scale_rewards": "std"}, "unknown scale_rewards 'std' for algorithm=grpo"),
        ({"algorithm": "rloo", "scale_rewards": "group"}, "for algorithm=rloo; known: batch, none"),
        ({"algorithm": "rloo", "loss_type": "grpo"}, "a setting of algorithm=grpo"),
        ({"steps": 5, "num_iterations": 2}, "not a multiple of num_iterations = 2; set it to 6"),
        ({"use_bias_correction_kl": 1}, "must be true or false"),
        ({"format": "chat", "kind": "continuation"}, "format=plain, or kind=dialogue"),
        ({"format": "chatty"}, "unknown format 'chatty'"),
    ],
)
def test_settings_without_effect_or_meaning_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        PolicyConfig.from_mapping(changes)


def test_checkpoints_fall_between_batches():
    assert PolicyConfig(steps=12, num_iterations=4, save_steps=6).checkpoint_steps == 8
    assert PolicyConfig(save_steps=25).checkpoint_steps == 25


def test_settings_at_their_defaults_are_those_of_earlier_versions():
    known = PolicyConfig().to_dict()
    assert not PolicyConfig.LATER & known.keys()
    assert PolicyConfig(**known) == PolicyConfig()
    changed = PolicyConfig(num_iterations=2, epsilon=0.1)
    assert changed.to_dict().items() >= {"num_iterations": 2, "epsilon": 0.1}.items()
    assert PolicyConfig(**changed.to_dict()) == changed
    assert PolicyConfig(algorithm="rloo").to_dict() == known | {"algorithm": "rloo"}


def test_the_folder_records_algorithm_and_versions(tmp_path, reward, monkeypatch):
    train(tmp_path, reward=reward, steps=2)
    record = tmp_path / "tuning.json"
    content = json.loads(record.read_text())
    identity = content["identity"]
    assert identity["trl_arguments"]["loss_type"] == "dapo"
    assert identity["trl_version"] == trl.__version__
    assert identity["torch_version"] == torch.__version__

    def another(packages):
        return {f"{name}_version": "0.0.1" for name in packages}

    monkeypatch.setattr("icm_fast.training.rl.train.version_keys", another)
    train(tmp_path, reward=reward, steps=2)  # finished: it is only loaded
    del content["losses"]
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"trl_version is .* there and '0\.0\.1' here"):
        train(tmp_path, reward=reward, steps=2)
    assert training_folder.version_keys(("trl",)) == {"trl_version": trl.__version__}


def test_a_folder_of_an_earlier_version_is_still_its_own(tmp_path, reward):
    train(tmp_path, reward=reward, steps=2)
    record = tmp_path / "tuning.json"
    content = json.loads(record.read_text())
    identity = content["identity"]
    for name in [n for n in identity if n.endswith("_version") or n == "trl_arguments"]:
        del identity[name]
    del identity["config"]["format"]
    identity["config"]["clip"] = 0.3  # had no effect at one iteration
    record.write_text(json.dumps(content))
    train(tmp_path, reward=reward, steps=2)
    with pytest.raises(InputError, match="num_iterations is None there and 2 here"):
        train(tmp_path, reward=reward, steps=2, num_iterations=2)


def test_the_weight_of_the_router_loss_is_that_of_the_model():
    assert router_weight(tiny_model("llama")) is None
    experts = tiny_model("mixtral", num_local_experts=2, router_aux_loss_coef=0.25)
    assert router_weight(experts) == 0.25


def test_continuations_are_sampled_a_part_at_a_time(reward, monkeypatch):
    """And are the same ones as at once where the model is the same, up to their draws."""
    sizes = []
    single_turn = trl.GRPOTrainer._generate_single_turn

    def noting(self, prompt_ids, *arguments, **named):
        sizes.append(len(prompt_ids))
        return single_turn(self, prompt_ids, *arguments, **named)

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", noting)
    trained = train(reward=reward, steps=1, n_held_out=0, micro_batch_size=3)
    assert CONFIG.n_episodes_per_step == 8
    assert sizes == [3, 3, 2]
    assert len(trained.log.steps) == 1


def test_a_continuation_is_cut_after_its_first_end():
    trainer = Recorded.__new__(Recorded)
    trainer._ends = frozenset((2, 7))
    assert trainer._cut([5, 7, 2, 2]) == [5, 7]
    assert trainer._cut([5, 6]) == [5, 6]
