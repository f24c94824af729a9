"""Policies and judges of chat models: what they read, and that nothing renders it anew."""

import dataclasses
import json

import pytest
import torch
from rl_cases import PROMPTS, train

from chat_cases import TURNS, chat_tokenizer, chatting
from icm_fast import InputError
from icm_fast.training.chat import answer_ids, prompt_ids, render_prompt
from icm_fast.training.folder import recorded_format
from icm_fast.training.rl import evaluate_policies, read_prompts
from icm_fast.training.rl.generation import generate
from icm_fast.training.rl.judges import Bout, judge_by_claims, judge_by_rewards
from icm_fast.training.rl.prompts import PromptForm
from policy_cases import random_judge
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - by its import

PROMPT_SET = (*PROMPTS[:6], TURNS, (TURNS[1],), (TURNS[0], TURNS[1]))
QUICK = {"max_new_tokens": 5, "batch_size": 2}


def chat_reward():
    """A reward model that reads the chat template."""
    return dataclasses.replace(random_judge(), tokenizer=chat_tokenizer(), format="chat")


def test_a_policy_reads_and_is_rewarded_in_the_template(monkeypatch):
    judge, loaded = chat_reward(), chatting()
    read, scored = [], []
    kind = type(loaded.model)
    true_generate = kind.generate

    def noting(self, **named):
        read.extend(zip(named["input_ids"].tolist(), named["attention_mask"].tolist(), strict=True))
        return true_generate(self, **named)

    monkeypatch.setattr(kind, "generate", noting)
    true_score = type(judge).score_ids

    def score_ids(self, texts, **more):
        scored.extend(texts)
        return true_score(self, texts, **more)

    monkeypatch.setattr(type(judge), "score_ids", score_ids)
    trained = train(
        reward=judge,
        loaded=loaded,
        prompts=PROMPT_SET,
        format="chat",
        steps=3,
        n_held_out=0,
        sample_steps=1,
        batch_size=3,
        learning_rate=0.01,
        warmup=0.0,
    )
    expected = {prompt_ids(loaded.tokenizer, p, format="chat") for p in PROMPT_SET}
    seen = {tuple(t for t, m in zip(ids, mask, strict=True) if m) for ids, mask in read}
    assert seen == expected
    for sample in trained.log.samples:
        whole = {
            answer_ids(loaded.tokenizer, p, sample["continuation"], format="chat")
            for p in PROMPT_SET
        }
        assert whole & set(scored)


def test_a_turn_ends_a_continuation():
    """The template's <pad> ends a turn; no list of EOS tokens names it."""
    loaded = chatting(initializer_range=0.02)
    ends = PromptForm(format="chat").ends(loaded.tokenizer)
    assert ends == {0}
    with torch.no_grad():  # every other token is <pad>
        loaded.model.get_output_embeddings().weight[0] *= 60
    made = generate(loaded, ["Why?"] * 8, max_new_tokens=30, more_ends=ends)
    finished = [one for one in made if one.finished]
    assert finished
    assert {one.token_ids[-1] for one in finished} <= {0, 2}
    assert all(0 not in one.token_ids[:-1] for one in made)


def test_the_users_tokenizer_is_not_written_into():
    loaded = chatting()
    loaded.tokenizer.pad_token = None
    before = loaded.tokenizer.special_tokens_map, loaded.tokenizer.padding_side
    train(reward=random_judge(), loaded=loaded, format="chat", steps=1, n_held_out=0, warmup=0.0)
    assert (loaded.tokenizer.special_tokens_map, loaded.tokenizer.padding_side) == before
    assert loaded.tokenizer.pad_token is None


def test_the_format_is_recorded_and_another_one_refused(tmp_path):
    changes = {"reward": random_judge(), "steps": 2, "n_held_out": 0, "loaded": chatting()}
    train(tmp_path / "chat", **changes, format="chat")
    train(tmp_path / "plain", **changes)
    identity = json.loads((tmp_path / "chat/tuning.json").read_text())["identity"]
    assert identity["config"]["format"] == "chat"
    assert recorded_format(tmp_path / "chat") == "chat"
    assert recorded_format(str(tmp_path / "plain")) == "plain"
    assert recorded_format(chatting()) == recorded_format("no such folder") == "plain"
    with pytest.raises(InputError, match="format is 'chat' there and 'plain' here"):
        train(tmp_path / "chat", **changes)
    with pytest.raises(InputError, match="format is 'plain' there and 'chat' here"):
        train(tmp_path / "plain", **changes, format="chat")


def test_a_model_without_a_template_is_told():
    with pytest.raises(InputError, match="needs a tokenizer with a chat template"):
        train(reward=random_judge(), format="chat")


def test_prompts_come_as_texts_and_messages(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "Why?"}, {"prompt": list(TURNS)}, {"prompt": "Why? "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(path)
    assert found.prompts == ("Why?", TURNS)
    assert found.n_repeated == 1
    path.write_text(json.dumps({"prompt": [{"role": "assistant", "content": "Hi"}]}) + "\n")
    with pytest.raises(InputError, match=r"prompts\.jsonl, line 1.*the user is first"):
        read_prompts(path)


@pytest.mark.parametrize("formats", ["chat", ["chat", "plain"]])
def test_policies_of_both_formats_are_compared(formats):
    pair = chatting(), chatting(initializer_range=0.1)
    found = evaluate_policies(
        *pair, judge=chat_reward(), prompts=PROMPT_SET, format=formats, **QUICK
    )
    assert found.win_rate.n == len(PROMPT_SET)
    assert found.settings["format"] == (["chat"] * 2 if formats == "chat" else formats)
    mirrored = evaluate_policies(
        *pair[::-1],
        judge=chat_reward(),
        prompts=PROMPT_SET,
        format=found.settings["format"][::-1],
        **QUICK,
    )
    assert mirrored.win_rate.value == pytest.approx(1 - found.win_rate.value)
    assert found.samples[6]["prompt"] == "Be short.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?"


def test_a_reward_model_reads_answers_in_its_own_format():
    bouts = [Bout(TURNS, " great cast", " dull"), Bout("Why?", " so", " so so")]
    judge = chat_reward()
    found = judge_by_rewards(judge, "dialogue", bouts)
    expected = judge.score_ids(
        [
            answer_ids(judge.tokenizer, bout.prompt, text[1:], format="chat")
            for bout in bouts
            for text in (bout.a, bout.b)
        ]
    )
    assert found.scores.ravel() == pytest.approx(expected, abs=1e-5)
    plain = judge_by_rewards(random_judge(), "dialogue", bouts)
    assert plain.scores.ravel() != pytest.approx(expected, abs=1e-5)


def test_a_language_model_judges_in_its_template(monkeypatch):
    bouts = [Bout(p, " great cast", " dull") for p in PROMPTS[:3]]
    judge = chatting()
    found = judge_by_claims(judge, "dialogue", bouts, format="chat")
    mirrored = judge_by_claims(
        judge, "dialogue", [Bout(x.prompt, x.b, x.a) for x in bouts], format="chat"
    )
    assert mirrored.points.tolist() == (1 - found.points).tolist()
    assert found.scores != pytest.approx(judge_by_claims(judge, "dialogue", bouts).scores)
    with pytest.raises(InputError, match="needs a tokenizer with a chat template"):
        judge_by_claims(tiny_loaded("llama"), "dialogue", bouts, format="chat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "chatty"}, "unknown format 'chatty'"),
        ({"format": "chat", "kind": "continuation"}, "set kind=dialogue"),
        ({"format": ["chat"]}, "names 1 formats for 2 policies"),
        ({"judge_format": "chat"}, "a reward model reads the format it was trained in"),
        ({"kind": "continuation"}, "continues a text, but a prompt is a list of messages"),
    ],
)
def test_formats_that_do_not_fit_are_refused(changes, message):
    pair = chatting(), chatting()
    with pytest.raises(InputError, match=message):
        evaluate_policies(*pair, judge=random_judge(), prompts=[TURNS], **{**QUICK, **changes})


def test_a_plain_policy_reads_conversations_too():
    tokenizer = chat_tokenizer()
    ids = PromptForm().read_ids(tokenizer, TURNS)
    assert tokenizer.decode(ids) == render_prompt(tokenizer, TURNS, format="plain")
