"""Reinforcement learning on tiny random models: rewards, folders, kills, diagnostics."""

import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import cache, wraps
from pathlib import Path

import numpy as np
import pytest
import rl_cases
import torch
from rl_cases import CONFIG, KILLED, PROMPTS, train

from chat_cases import chatting
from icm_fast import InputError
from icm_fast.cli import run
from icm_fast.model import load_model
from icm_fast.training.publish import write_model_folder
from icm_fast.training.reward import RewardModel
from icm_fast.training.reward.text import reward_ids, reward_text
from icm_fast.training.rl import PolicyConfig, judged_text, train_policy, trainer
from icm_fast.training.rl.diagnostics import HeldOut, distinct, repetition
from icm_fast.training.rl.train import split_prompts
from listeners import Listener
from tiny_models import metaspace_tokenizer, one_thread, tiny_loaded  # noqa: F401 - by its import

# Trains as `train` does; slowly, so that it can be killed between two steps.
SCRIPT = """
import sys, time
from chat_cases import chatting
from listeners import Listener
from rl_cases import KILLED, train

def progress(step):
    print(step.done, flush=True)
    time.sleep(0.05)

train(sys.argv[1], Listener(progress), loaded=chatting(), **KILLED)
"""


@cache
def reward():
    return rl_cases.reward_model()


def files(folder: Path) -> dict[str, bytes]:
    """What must be the same however often a training was interrupted."""
    adapter = {p.name: p.read_bytes() for p in folder.glob("adapter/*.safetensors")}
    names = ("history.json", "samples.jsonl", "steps.jsonl")
    return adapter | {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def likes_vowels(monkeypatch):
    """A reward that is easily earned: the share of vowels, as far as eight letters go."""

    def score(self, texts, **_):
        answers = [text.rpartition("Assistant:")[2][:8] for text in texts]
        return np.array([sum(c in "aeiou" for c in answer) / 4 for answer in answers], np.float32)

    monkeypatch.setattr(RewardModel, "score", score)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reward_rises_on_held_out_prompts(algorithm, likes_vowels):
    changes = {"algorithm": algorithm, "batch_size": 4, "n_held_out": 10, "micro_batch_size": 16}
    changes |= {"kl_weight": 0.001}
    trained = train(reward=reward(), steps=25, eval_steps=25, learning_rate=0.05, **changes)
    first, last = trained.log.measurements
    assert (first["step"], last["step"]) == (0, 25)
    assert last["reward_low"] > first["reward_high"]
    assert last["kl"] > 0.1
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    # The measurement is of the policy that is given back.
    held_out = HeldOut(trained.held_out, reward(), PolicyConfig(**{**CONFIG.to_dict(), **changes}))
    again = held_out.measure(trained.model, 25, nullcontext())
    assert again["reward"] == pytest.approx(last["reward"], abs=1e-3)


def test_a_high_price_of_divergence_keeps_the_policy(likes_vowels):
    changes = {"reward": reward(), "steps": 20, "learning_rate": 0.003, "micro_batch_size": 8}
    free = train(kl_weight=0.0, **changes).log.measurements[-1]["kl"]
    dear = train(kl_weight=10.0, **changes).log.measurements[-1]["kl"]
    assert dear < free / 2


def test_the_weight_of_the_divergence_is_steered():
    low = [step["kl_weight"] for step in train(reward=reward(), kl_target=1e-6).log.steps]
    high = [step["kl_weight"] for step in train(reward=reward(), kl_target=1e3).log.steps]
    assert low[-1] > low[0] == CONFIG.kl_weight
    assert high == pytest.approx([CONFIG.kl_weight / 1.1**k for k in range(CONFIG.steps)])


def test_the_steered_weight_is_bounded():
    weights = [s["kl_weight"] for s in train(reward=reward(), kl_target=1e3, steps=30).log.steps]
    assert weights[-1] == pytest.approx(CONFIG.kl_weight / 10)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_base_with_dropout_and_absolute_positions_is_trained_as_it_samples(
    algorithm, monkeypatch
):
    base = tiny_loaded("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    kind, seen = type(base.model.transformer), []
    forward = kind.forward

    @wraps(forward)  # with its signature, which decides what generation passes
    def spy(self, *arguments, **named):
        mask, ids = named.get("attention_mask"), [*arguments, named.get("input_ids")][0]
        if mask is not None and mask.shape == ids.shape:
            seen.append((mask.clone(), named.get("position_ids")))
        return forward(self, *arguments, **named)

    monkeypatch.setattr(kind, "forward", spy)
    prompts = (*PROMPTS, "Why?", "Why is it as long as it is, and who has made it so?")
    trained = train(
        reward=reward(),
        prompts=prompts,
        loaded=base,
        algorithm=algorithm,
        n_held_out=0,
        steps=8,
        micro_batch_size=8,
    )
    assert trained.log.steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    padded = 0
    for mask, positions in seen:
        assert positions is not None
        for row, places in zip(mask, positions, strict=True):
            n_pad = int((row == 0).sum())
            padded += n_pad > 0
            assert places[row == 1].tolist() == list(range(len(row) - n_pad))
    assert padded


def test_what_does_not_end_costs_what_it_says():
    changes = {"reward": reward(), "n_held_out": 0, "steps": 1, "sample_steps": 1}
    free, dear = (
        train(unfinished_penalty=penalty, **changes).log.samples for penalty in (0.0, 3.0)
    )
    assert [sample["continuation"] for sample in free] == [s["continuation"] for s in dear]
    costs = [a["reward"] - b["reward"] for a, b in zip(free, dear, strict=True)]
    assert set(np.round(costs, 5)) <= {0.0, 3.0}
    assert 3.0 in np.round(costs, 5)


@pytest.mark.parametrize("kind", ["dialogue", "continuation"])
def test_what_is_rewarded_is_what_the_reward_model_was_trained_on(kind, monkeypatch):
    """Also with a tokenizer that puts the blank of a word into its token."""
    scored: list[str] = []
    judge = reward()
    model = type(judge)
    true_score = model.score

    def score(self, texts, **more):
        scored.extend(texts)
        return true_score(self, texts, **more)

    monkeypatch.setattr(model, "score", score)
    policy = tiny_loaded("llama", tokenizer=metaspace_tokenizer())
    trained = train(
        reward=judge, loaded=policy, kind=kind, steps=1, n_held_out=0, sample_steps=1, batch_size=1
    )
    samples = trained.log.samples
    assert len(samples) == CONFIG.group_size
    assert len(scored) == CONFIG.group_size
    for sample in samples:
        text = judged_text(kind, sample["prompt"], sample["continuation"])
        assert text in scored
        prompt, continuation = sample["prompt"], sample["continuation"]
        response = continuation.removeprefix(" ")
        expected = reward_text(prompt, response) if kind == "dialogue" else prompt + continuation
        assert text == expected
        assert sample["reward"] == pytest.approx(float(true_score(judge, [text])[0]), abs=1e-5)
        assert judge.token_ids(text) == reward_ids(expected, judge.tokenizer)


def test_nothing_of_the_process_or_the_base_changes():
    base = tiny_loaded("llama")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    settings = base.model.generation_config.to_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained = train(reward=reward(), loaded=base, steps=2)
    assert torch.equal(torch.rand(3), expected)
    for name, value in base.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert base.model.generation_config.to_dict() == settings
    assert trained.model.fingerprint != base.fingerprint


def test_one_folder_for_one_training(tmp_path):
    trained = train(tmp_path / "p", reward=reward())
    again = train(tmp_path / "p", reward=reward())
    assert again.model.fingerprint == trained.model.fingerprint
    assert again.log.steps == trained.log.steps
    assert again.log.measurements == trained.log.measurements
    assert again.log.samples == trained.log.samples
    assert len(trained.log.samples) == 3 * 4  # steps 0, 2 and 4
    with pytest.raises(InputError, match=r"different .*: kl_weight is 0.05 there and 0.5 here"):
        train(tmp_path / "p", reward=reward(), kl_weight=0.5)
    assert not (tmp_path / "p" / "checkpoints").exists()


def test_killed_twice_it_ends_the_same(tmp_path):
    """With gradient accumulation, in the chat template, and updates that share continuations."""
    train(tmp_path / "whole", loaded=chatting(), **KILLED)
    for last in (3, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
            env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= last:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "killed" / "history.json").exists()
    shown = Listener()
    train(tmp_path / "killed", shown, loaded=chatting(), **KILLED)
    seen = shown.done
    assert seen == list(range(seen[0], 7))
    assert seen[0] > 3  # from the checkpoint of step 4, or later
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_prompts_come_once_before_they_come_twice():
    config = PolicyConfig(steps=5, batch_size=3, n_held_out=4)
    drawn, held_out = split_prompts(PROMPTS, config)
    assert len(drawn) == 15
    assert len(held_out) == 4
    assert set(drawn[:10]) == set(PROMPTS) - set(held_out)
    assert split_prompts(PROMPTS, config) == (drawn, held_out)


def test_repetition_and_distinct_by_hand():
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)  # 123 231 312 123
    assert repetition([1, 2]) == 0
    assert repetition([7] * 8) == pytest.approx(5 / 6)
    assert distinct([[1, 2, 3], [1, 2, 4]]) == pytest.approx(3 / 4)
    assert distinct([[1], []]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "full"}, "second copy of the policy"),
        ({"group_size": 1}, r"group_size = 1 is outside 2"),
        ({"kind": "chat"}, r"unknown kind 'chat'"),
        ({"algorithm": "ppo"}, r"unknown algorithm 'ppo'"),
        ({"lora_dropout": 0.1}, "set it to 0"),
        ({"kl_weight": 0.0, "kl_target": 0.1}, "give it a start above 0"),
        ({"min_new_tokens": 70}, "above max_new_tokens"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        PolicyConfig.from_mapping(changes)


def test_a_step_is_split_into_equal_passes():
    assert PolicyConfig(batch_size=8, group_size=4, micro_batch_size=32).n_passes == 1
    assert PolicyConfig(batch_size=8, group_size=4, micro_batch_size=31).n_passes == 2
    assert PolicyConfig(batch_size=3, group_size=5, micro_batch_size=4).n_passes == 5
    assert PolicyConfig(batch_size=1, group_size=7, micro_batch_size=4).n_passes == 7


def test_prompts_that_cannot_be_used():
    with pytest.raises(InputError, match=r"n_held_out is 4, but there are only 4 prompts"):
        train(reward=reward(), prompts=PROMPTS[:4])
    with pytest.raises(InputError, match=r"'What of film 0\?' appears twice"):
        train(reward=reward(), prompts=(*PROMPTS, PROMPTS[0]))
    with pytest.raises(InputError, match="shorten it"):
        train(reward=reward(), prompts=(*PROMPTS, "long " * 600))


def test_a_loss_that_is_no_number_is_told():
    with pytest.raises(InputError, match=r"lower learning_rate \(10.0\)"):
        train(reward=reward(), learning_rate=10.0, warmup=0.0, max_grad_norm=0.0, steps=30)


def test_a_policy_without_numbers_is_told_where_it_is_measured(monkeypatch):
    """Between the last step and the end nothing else looks at it."""
    note = trainer.Recorded._note

    def no_numbers(*arguments, **options):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    def noted(self, measure, step):
        with monkeypatch.context() as patch:
            if step:
                patch.setattr(torch, "multinomial", no_numbers)
            note(self, measure, step)

    monkeypatch.setattr(trainer.Recorded, "_note", noted)
    with pytest.raises(
        InputError,
        match=r"the policy diverged at step 2 \(NaN probabilities\); lower",
    ):
        train(reward=reward(), steps=2)


def test_command(tmp_path, capsys):
    loaded = tiny_loaded("llama")
    base = tmp_path / "base"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save_pretrained(base)
    rl_cases.reward_model_of(str(base), tmp_path / "rm")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join((*PROMPTS, PROMPTS[0])) + "\n")
    arguments = [
        "train",
        "rl",
        str(prompts),
        "--model",
        str(base),
        "--reward",
        str(tmp_path / "rm"),
    ]
    for name in ("steps", "batch_size", "group_size", "max_new_tokens", "n_held_out"):
        arguments += ["--set", f"{name}={getattr(CONFIG, name)}"]
    assert run([*arguments, "--report-to", "jsonl"]) == 0
    told = capsys.readouterr()
    assert "1 repeated prompts" in told.err
    assert "6 steps of 8 episodes" in told.out
    assert "nats per token from the start policy" in told.out
    folder = tmp_path / "rm" / "policy"
    history = json.loads((folder / "history.json").read_text())
    assert [step["step"] for step in history["steps"]] == [1, 2, 3, 4, 5, 6]
    assert np.isfinite([step["loss"] for step in history["steps"]]).all()
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    named = {"learning_rate", "grad_norm", "reward", "kl", "clip_share", "unfinished", "loss"}
    assert all(named <= line.keys() for line in lines)
    assert all(line["grad_norm"] > 0 for line in lines)
    tracked = (json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines())
    by_stream: dict[str, list[dict]] = {"train": [], "held_out": []}
    for line in tracked:
        by_stream[line.pop("stream")].append(line)
    assert by_stream["train"] == lines
    assert [m["step"] for m in by_stream["held_out"]] == [
        m["step"] for m in history["measurements"]
    ]
    assert [m["reward"] for m in by_stream["held_out"]] == [
        m["reward"] for m in history["measurements"]
    ]
    assert lines[0]["learning_rate"] > lines[-1]["learning_rate"] > 0
    assert load_model(str(folder)).fingerprint != load_model(str(base)).fingerprint
    write_model_folder(folder, tmp_path / "hub")  # what `icm-fast push` uploads
    card = (tmp_path / "hub/README.md").read_text()
    assert "kl_weight" in card
    assert str(tmp_path) not in card
    assert run([*arguments, "--set", "steps=7"]) == 2
    assert "steps is 6 there and 7 here" in capsys.readouterr().err


def test_a_reward_model_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="holds no reward model"):
        train_policy(PROMPTS, model=tiny_loaded("llama"), reward=tmp_path, config=CONFIG)
