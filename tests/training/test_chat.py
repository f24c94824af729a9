"""Prompts as texts and messages, plain and in a chat template, and rows of them."""

import json

import pytest

from chat_cases import TURNS, chat_tokenizer
from icm_fast.errors import InputError
from icm_fast.model.chat_template import end_of_turn
from icm_fast.tasks.rows import Row
from icm_fast.training.chat import (
    CHAT,
    PLAIN,
    answer_ids,
    check_format,
    check_prompt,
    messages_of,
    prompt_ids,
    prompt_key,
    prompt_text,
    read_answer,
    read_conversation,
    read_prompt,
    render_prompt,
)
from icm_fast.training.reward.text import reward_ids, reward_text
from icm_fast.training.rl.prompts import policy_text
from tiny_models import byte_tokenizer, metaspace_tokenizer


def row(**values):
    return Row(0, "data.jsonl, line 1", values)


def test_a_text_is_a_message_of_the_user():
    tokenizer = chat_tokenizer()
    message = ({"role": "user", "content": "Hi"},)
    assert messages_of("Hi") == list(message)
    for format in (PLAIN, CHAT):
        assert prompt_ids(tokenizer, "Hi", format=format) == prompt_ids(
            tokenizer, message, format=format
        )


def test_a_conversation_is_rendered_turn_by_turn():
    tokenizer = chat_tokenizer()
    assert render_prompt(tokenizer, TURNS, format=CHAT) == (
        "<s>[system] Be short.\n[user] Hi\n[assistant] Hello<pad>\n[user] Why?\n[assistant]\n"
    )
    assert render_prompt(tokenizer, TURNS, format=PLAIN) == (
        "Be short.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    )


@pytest.mark.parametrize("made", [byte_tokenizer, metaspace_tokenizer])
def test_plain_is_what_reward_models_and_policies_read(made):
    tokenizer = made()
    assert render_prompt(tokenizer, "Why?", format=PLAIN) == policy_text("dialogue", "Why?")
    assert answer_ids(tokenizer, "Why?", "So.", format=PLAIN) == reward_ids(
        reward_text("Why?", "So."), tokenizer
    )
    assert answer_ids(tokenizer, "", "So.", format=PLAIN) == reward_ids("So.", tokenizer)


@pytest.mark.parametrize("made", [byte_tokenizer, metaspace_tokenizer])
def test_an_answer_stands_where_a_policy_writes_it_and_ends_its_turn(made):
    tokenizer = chat_tokenizer(made=made)
    before = prompt_ids(tokenizer, TURNS, format=CHAT)
    whole = answer_ids(tokenizer, TURNS, "great cast", format=CHAT)
    assert before[0] == 1
    assert before.count(1) == 1  # the template's own beginning, no second one
    assert whole[: len(before)] == before
    assert whole[-1] == end_of_turn(tokenizer) == 0  # <pad>, as the template has it
    assert "great cast" in tokenizer.decode(whole[len(before) : -1])


def test_a_control_token_in_an_answer_stays_text_and_one_in_a_prompt_is_refused():
    tokenizer = chat_tokenizer()
    before = prompt_ids(tokenizer, "Hi", format=CHAT)
    ids = answer_ids(tokenizer, "Hi", "a</s>b", format=CHAT)[len(before) : -1]
    assert 2 not in ids
    assert tokenizer.decode(ids) == "a</s>b"
    with pytest.raises(InputError, match="holds '</s>', a control token"):
        prompt_ids(tokenizer, "a</s>b", format=CHAT)


def test_a_turn_ends_with_the_eos_where_the_template_says_nothing():
    assert end_of_turn(chat_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")) == 2


def test_thinking_is_switched_off_and_a_template_without_switch_refused():
    switch = "{% if not enable_thinking %}<think>\n\n</think>{% endif %}"
    asked = "{{ messages[-1].content }}"
    assert render_prompt(chat_tokenizer(asked + switch), TURNS, format=CHAT).endswith("</think>")
    with pytest.raises(InputError, match="opens <think>"):
        render_prompt(chat_tokenizer(asked + "<think>"), TURNS, format=CHAT)


def test_formats_are_checked():
    with pytest.raises(InputError, match="unknown format 'chatty'; did you mean 'chat'"):
        check_format("chatty")
    with pytest.raises(InputError, match="needs a tokenizer with a chat template"):
        render_prompt(byte_tokenizer(), "Hi", format=CHAT)
    with pytest.raises(InputError, match="a prompt is blank"):
        render_prompt(chat_tokenizer(), " ", format=CHAT)
    refusing = chat_tokenizer("{{ raise_exception('no system') }}")
    with pytest.raises(InputError, match="no system; use a model whose template takes messages of"):
        render_prompt(refusing, TURNS, format=CHAT)


def test_rows_hold_texts_or_messages():
    assert read_prompt(row(prompt="Hi")) == "Hi"
    assert read_prompt(row(prompt=list(TURNS))) == TURNS
    assert read_answer(row(chosen="So."), "chosen") == "So."
    said = {"role": "assistant", "content": "So."}
    assert read_answer(row(chosen=[said]), "chosen") == "So."
    assert read_conversation(row(messages=[*TURNS, said])) == (TURNS, "So.")
    assert check_prompt(list(TURNS), "prompt 1") == TURNS
    assert check_prompt("Hi", "prompt 1") == "Hi"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "is not a list of messages"),
        (["Hi"], "message 1 is not"),
        ([{"role": "user"}], "message 1 is not"),
        ([{"role": "usr", "content": "Hi"}], "unknown role 'usr'; did you mean 'user'"),
        ([{"role": "user", "content": " "}], "message 1 has the content ' '"),
        ([{"role": "user", "content": [{"type": "image"}]}], "without images or tools"),
        ([{"role": "user", "content": "a\x00"}], "control character"),
        (TURNS[:1], "messages of system; after an optional system message"),
        (TURNS[2:], "the user is first"),
        (TURNS[:3], "last message of column 'prompt' is of the role 'assistant'"),
        ((TURNS[1], TURNS[1]), "take turns"),
        ({"role": "user"}, "is a dict; write plain text, or a list of messages"),
    ],
)
def test_wrong_messages_are_refused_with_their_line(value, message):
    value = value if isinstance(value, dict) else list(value)
    with pytest.raises(InputError, match=r"data\.jsonl, line 1") as refused:
        read_prompt(row(prompt=value))
    assert message in str(refused.value)


def test_wrong_answers_are_refused():
    with pytest.raises(InputError, match="holds 2 messages"):
        read_answer(row(chosen=[TURNS[1], TURNS[2]]), "chosen")
    with pytest.raises(InputError, match="ends with messages of assistant, user"):
        read_conversation(row(messages=list(TURNS)))
    with pytest.raises(InputError, match="is not a list of messages"):
        read_conversation(row())


def test_keys_and_texts_of_prompts():
    other = json.loads(json.dumps(TURNS).replace("Hi", "Hi "))
    assert prompt_key(tuple(other)) == prompt_key(TURNS) != prompt_key(TURNS[1:])
    assert prompt_key("Hi ") == prompt_key("Hi") != prompt_key(messages_of("Hi"))
    assert prompt_text("Hi") == "Hi"
    assert prompt_text(TURNS[1:3]) == "Human: Hi\n\nAssistant: Hello"
