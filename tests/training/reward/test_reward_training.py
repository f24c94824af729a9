"""Loss, format, base, determinism and folders of reward models, on tiny random models."""

import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_cases import CONFIG, save_base, toy_pairs, train

from icm_fast import InputError
from icm_fast.model import load_model
from icm_fast.training.reward import (
    Pair,
    RewardConfig,
    load_reward_model,
    reward_text,
    train_reward,
)
from icm_fast.training.reward import trainer as reward_trainer
from icm_fast.training.reward.network import pad_left, reward_network, rewards
from icm_fast.training.reward.text import reward_ids
from icm_fast.training.reward.trainer import bradley_terry, collate, pair_ids
from listeners import Listener
from tiny_models import (
    FAMILIES,
    byte_tokenizer,
    metaspace_tokenizer,
    one_thread,  # noqa: F401 - in force by its import
    tiny_loaded,
    tiny_model,
)

# Trains as `train` does; slowly, so that it can be killed between two steps.
SCRIPT = """
import sys, time
import torch
from listeners import Listener
from reward_cases import train
torch.set_num_threads(1)

def progress(step):
    print(step.done, flush=True)
    time.sleep(0.02)

train(sys.argv[1], Listener(progress), sys.argv[2])
"""


def weights(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*/*.safetensors")}


def accuracy(model, pairs):
    scores = model.score_pairs(pairs)
    return float((scores[:, 0] > scores[:, 1]).mean())


def test_loss_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])

    def loss(margin, probability):
        return float(
            bradley_terry(
                chosen, rejected, torch.tensor(margin), torch.tensor(probability), torch.ones(())
            )
        )

    minus_log_sigmoid = [math.log(1 + math.exp(-d)) for d in (1.0, -3.0)]
    assert loss([0.0, 0.0], [1.0, 1.0]) == pytest.approx(sum(minus_log_sigmoid) / 2)
    with_margin = [math.log(1 + math.exp(-(d - 0.5))) for d in (1.0, -3.0)]
    assert loss([0.5, 0.5], [1.0, 1.0]) == pytest.approx(sum(with_margin) / 2)
    # The first pair is 0.8 as it is and 0.2 the other way round; the second only the other way.
    soft = 0.8 * math.log(1 + math.exp(-1)) + 0.2 * math.log(1 + math.exp(1))
    assert loss([0.0, 0.0], [0.8, 0.0]) == pytest.approx((soft + math.log(1 + math.exp(-3))) / 2)


def test_the_soft_loss_is_least_where_the_model_believes_the_probability():
    difference = torch.linspace(-3, 3, 601)
    zero = torch.zeros(1)
    losses = [
        float(bradley_terry(d, zero, zero, torch.tensor([0.8]), torch.ones(1))) for d in difference
    ]
    assert float(difference[int(np.argmin(losses))]) == pytest.approx(math.log(4), abs=0.01)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("tokenizer", [byte_tokenizer, metaspace_tokenizer])
def test_training_and_scoring_see_the_same_token_ids(tokenizer, bos, monkeypatch):
    loaded = load_model((tiny_model("llama"), tokenizer(bos)))
    pairs = toy_pairs(4)
    seen = []

    def spy(network, batch):
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            seen.append(tuple(ids[mask.bool()].tolist()))
        return rewards(network, batch)

    monkeypatch.setattr(reward_trainer, "rewards", spy)
    trained = train(loaded=loaded, pairs=pairs, epochs=1)
    in_training = set(seen)
    seen.clear()
    monkeypatch.setattr("icm_fast.training.reward.model.rewards", spy)
    trained.model.score([reward_text(p.prompt, t) for p in pairs for t in (p.chosen, p.rejected)])
    assert set(seen) == in_training
    assert len(in_training) == 8
    first = reward_text(pairs[0].prompt, pairs[0].chosen)
    assert trained.model.token_ids(first) in in_training
    # As transformers would tokenize the whole text, and closed.
    expected = (*loaded.tokenizer(first)["input_ids"], loaded.tokenizer.eos_token_id)
    assert trained.model.token_ids(first) == expected


def test_the_text_of_a_response():
    assert reward_text("Why?", "Because.") == "Human: Why?\n\nAssistant: Because."
    assert reward_text("", "A review.") == "A review."


def test_a_batch_holds_the_chosen_texts_first_and_ends_every_text_in_its_last_column():
    loaded = tiny_loaded("llama")
    pairs = [Pair("", "dull", "a small wonder", margin=2.0), Pair("", "a", "b", probability=0.7)]
    config = RewardConfig(margin_scale=0.5)
    batch = collate(pair_ids(pairs, loaded.tokenizer, config, 512))
    texts = ["dull", "a", "a small wonder", "b"]
    for row, text in enumerate(texts):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert tuple(ids.tolist()) == reward_ids(text, loaded.tokenizer)
    assert (batch["input_ids"][:, -1] == loaded.tokenizer.eos_token_id).all()
    assert batch["margin"].tolist() == [1.0, 0.0]
    assert batch["probability"].tolist() == pytest.approx([1.0, 0.7])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_scores_a_text_alike_alone_and_in_a_batch(family):
    loaded = tiny_loaded(family)
    network = reward_network(loaded, torch.float32, share=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(network.score.weight)
    texts = [reward_ids(t, loaded.tokenizer) for t in ("dull", "the plot goes nowhere, slowly")]
    with torch.inference_mode():
        together = rewards(network, pad_left(texts))
        alone = torch.cat([rewards(network, pad_left([ids])) for ids in texts])
        hidden = loaded.model.base_model(input_ids=torch.tensor([texts[1]])).last_hidden_state
        expected = hidden[0, -1] @ network.score.weight[0]
    assert torch.allclose(together, alone, atol=1e-4)
    assert float(alone[1]) == pytest.approx(float(expected), abs=1e-4)
    assert abs(float(alone[0] - alone[1])) > 1e-2


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_learns_a_separable_preference_and_leaves_the_base_as_it_is(method):
    loaded = tiny_loaded("llama")
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    random.seed(5)
    expected = random.random()
    random.seed(5)
    trained = train(loaded=loaded, method=method, pairs=toy_pairs(24), epochs=10)
    assert random.random() == expected
    assert trained.losses[0] == pytest.approx(math.log(2))  # the head begins at zero
    assert trained.losses[-1] < 0.1
    assert accuracy(trained.model, toy_pairs(24)) == 1.0
    unseen = [Pair("And?", f"a good {w}", f"a bad {w}") for w in ("film", "cast", "wonder")]
    assert accuracy(trained.model, unseen) == 1.0
    assert all(torch.equal(before[n], p) for n, p in loaded.model.named_parameters())


def test_soft_labels_and_margins_move_the_differences():
    def difference(**how):
        pairs = [Pair("", "good film", "bad film", **how)] * 4
        config = {"lora_dropout": 0.0, "epochs": 30, "scheduler": "constant", "margin_scale": 1.0}
        scores = train(pairs=pairs, **config).model.score_pairs(pairs[:1])[0]
        return float(scores[0] - scores[1])

    assert difference(probability=0.8) == pytest.approx(math.log(4), abs=0.1)
    assert difference(probability=0.2) == pytest.approx(-math.log(4), abs=0.1)
    assert difference(margin=5.0) > difference() + 2


def test_the_same_inputs_give_the_same_bits_and_another_seed_gives_others():
    one, again, other = train(), train(), train(seed=1)
    assert one.losses == again.losses
    assert one.model.fingerprint == again.model.fingerprint != other.model.fingerprint


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_in_the_middle_it_ends_with_the_same_bits(method, tmp_path):
    whole = train(tmp_path / "whole", method=method)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed), method],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    for line in process.stdout:
        if int(line) >= 8:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(InputError, match="is not finished"):
        load_reward_model(killed)
    shown = Listener()
    finished = train(killed, shown, method)
    seen = shown.done
    assert 4 <= seen[0] <= 10
    assert seen == list(range(seen[0], 13))
    assert finished.losses == whole.losses
    assert finished.model.fingerprint == whole.model.fingerprint
    assert weights(killed) == weights(tmp_path / "whole") != {}
    part = "adapter" if method == "lora" else "model"
    assert {p.name for p in killed.iterdir()} == {".lock", "reward.json", "steps.jsonl", part}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_finished_folder_is_loaded_and_scores_alike(method, tmp_path):
    base = load_model(str(save_base(tmp_path / "base")), dtype="bfloat16")
    folder = tmp_path / "rm"
    first = train(folder, loaded=base, method=method)

    def must_not_train(*_):
        pytest.fail("a finished reward model was trained again")

    again = train(folder, Listener(must_not_train), loaded=base, method=method)
    loaded = load_reward_model(folder)
    assert first.model.network.dtype == torch.float32  # on a CPU, whatever the base is in
    assert load_reward_model(folder, dtype="bfloat16").network.dtype == torch.bfloat16
    expected = first.model.score_pairs(toy_pairs())
    for model in (again.model, loaded):
        assert model.fingerprint == first.model.fingerprint
        assert np.array_equal(model.score_pairs(toy_pairs()), expected)
    assert again.losses == first.losses
    assert not list(folder.rglob("*.bin"))
    with pytest.raises(InputError, match="different fine-tuning: seed is 0 there"):
        train(folder, loaded=base, method=method, seed=3)
    with pytest.raises(InputError, match="data_digest is"):
        train(folder, loaded=base, method=method, pairs=toy_pairs()[::-1])


def test_gradient_checkpointing_changes_no_loss():
    plain = train(epochs=1, lora_dropout=0.0)
    saving = train(epochs=1, lora_dropout=0.0, gradient_checkpointing=True)
    assert saving.losses == pytest.approx(plain.losses, abs=1e-5)


def test_a_base_that_is_missing_or_another_one_is_named(tmp_path):
    base = save_base(tmp_path / "base")
    train(tmp_path / "rm", loaded=load_model(str(base), dtype="float32"), epochs=1)
    tiny_loaded("llama", initializer_range=0.3).model.save_pretrained(base)
    with pytest.raises(InputError, match="was trained on other weights than"):
        load_reward_model(tmp_path / "rm", dtype="float32")
    (base / "config.json").unlink()
    with pytest.raises(InputError, match=r"base of the reward model .* is missing"):
        load_reward_model(tmp_path / "rm")
    record = tmp_path / "rm" / "reward.json"
    content = json.loads(record.read_text())
    content["identity"]["format"] = 0
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match="in format 0, but this version writes format 1"):
        load_reward_model(tmp_path / "rm")
    with pytest.raises(InputError, match="holds no reward model"):
        load_reward_model(base)


def test_pairs_that_are_too_long_are_left_out_and_counted():
    long = Pair("", "good " * 100, "bad")
    trained = train(pairs=[*toy_pairs(4), long], max_length=80, epochs=1)
    assert (trained.n_pairs, trained.n_too_long) == (4, 1)
    with pytest.raises(InputError, match=r"shortest of 1 pairs .* training takes 80; raise max_l"):
        train(pairs=[long], max_length=80)
    with pytest.raises(InputError, match="no pairs to train on"):
        train(pairs=[])
    with pytest.raises(InputError, match=r"the maximum of the reward model .* is 512; shorten"):
        trained.model.score(["good " * 600])
    assert trained.model.score([]).shape == (0,)


def test_bad_settings_and_models_are_refused(monkeypatch):
    with pytest.raises(InputError, match="margin_scale = -1 is outside"):
        RewardConfig(margin_scale=-1)
    with pytest.raises(InputError, match="'margin_scal'; did you mean 'margin_scale'"):
        RewardConfig.from_mapping({"margin_scal": 1})
    with pytest.raises(InputError, match="margin of a pair must be 0 or more"):
        Pair("", "a", "b", margin=-1.0)
    with pytest.raises(InputError, match=r"probability of a pair must be in 0 .. 1"):
        Pair("", "a", "b", probability=1.5)
    with pytest.raises(InputError, match="no sequence classification for granite"):
        train_reward(toy_pairs(), model=tiny_loaded("granite"), config=CONFIG)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"peft.*pip install 'icm-fast\[train\]'"):
        train()
