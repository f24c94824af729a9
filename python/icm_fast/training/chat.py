"""Prompts as texts or as messages, and what a model reads of them: plain, or in its chat template.

All trainings, reward models and judges read prompts through this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict

from icm_fast.errors import InputError, shown, suggest
from icm_fast.model.chat_template import ChatTokenizer, end_of_turn, render_messages, template_ids
from icm_fast.plan.pieces import root_ids, whole_text_ids
from icm_fast.plan.text_ids import control_token_in, text_ids
from icm_fast.tasks.duplicates import same_text
from icm_fast.tasks.rows import Row, checked_text

PLAIN = "plain"
CHAT = "chat"
FORMATS = (PLAIN, CHAT)
"""``plain``: ``Human:`` and ``Assistant:``, for any model; ``chat``: the tokenizer's template."""

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"

_SPEAKERS = {USER: "Human: ", ASSISTANT: "Assistant: ", SYSTEM: ""}
_SEPARATOR = "\n\n"


class Message(TypedDict):
    """A turn of a conversation."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""What is answered: the text of a user, or messages of which the last one is the user's."""


def check_format(format: str, tokenizer: ChatTokenizer | None = None) -> None:
    """Raise InputError unless ``format`` is known, and ``tokenizer`` has what it needs."""
    if format not in FORMATS:
        raise InputError(f"unknown format {shown(format)}{suggest(str(format), FORMATS)}")
    if format == CHAT and tokenizer is not None and not tokenizer.chat_template:
        raise InputError(
            "format=chat needs a tokenizer with a chat template, and this one has none; use a chat "
            "model, or format=plain"
        )


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """The messages of a prompt; a text is one message of the user."""
    if isinstance(prompt, str):
        return [{"role": USER, "content": prompt}]
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def render_prompt(tokenizer: ChatTokenizer, prompt: Prompt, *, format: str) -> str:
    """The text that a model reads before it answers a prompt.

    Args:
        tokenizer: That of the model.
        prompt: A text that is not blank, or messages.
        format: ``plain`` (the answer follows after a blank) or ``chat`` (it follows at once).

    Raises:
        InputError: Unknown format, a blank prompt, no chat template, one that cannot render the
            prompt or always thinks, or a control token in a message.
    """
    check_format(format, tokenizer)
    messages = messages_of(prompt)
    if not messages or not messages[-1]["content"].strip():
        raise InputError("a prompt is blank, so there is nothing to answer; remove it")
    if format == PLAIN:
        return _SEPARATOR.join([prompt_dialogue(messages), _SPEAKERS[ASSISTANT].rstrip()])
    for message in messages:
        token = control_token_in(message["content"], tokenizer)
        if token is not None:
            raise InputError(
                f"the message {shown(message['content'])} holds {token!r}, a control token that "
                "the chat template would not keep as text; remove it"
            )
    return render_messages(tokenizer, messages)


def prompt_ids(tokenizer: ChatTokenizer, prompt: Prompt, *, format: str) -> tuple[int, ...]:
    """Token ids of :func:`render_prompt`, with the BOS where the tokenizer or template has one.

    Raises:
        InputError: Same as in :func:`render_prompt`.
    """
    text = render_prompt(tokenizer, prompt, format=format)
    if format == CHAT:
        return template_ids(tokenizer, text)
    return root_ids(tokenizer) + tuple(text_ids(tokenizer, [text])[0])


def answer_ids(
    tokenizer: ChatTokenizer, prompt: Prompt, answer: str, *, format: str
) -> tuple[int, ...]:
    """Token ids of a prompt and its whole answer: the answer ends with what ends a turn.

    In ``chat`` the tokens of the prompt are those of :func:`prompt_ids`: a reward model or a
    fine-tuning reads an answer exactly where a policy writes it. In ``plain`` prompt and answer are
    one text, and an empty prompt leaves the answer alone.

    Raises:
        InputError: Same as in :func:`render_prompt`.
    """
    if format == CHAT:
        end = end_of_turn(tokenizer) if tokenizer.chat_template else None
        before = prompt_ids(tokenizer, prompt, format=CHAT)
        whole = before + tuple(text_ids(tokenizer, [answer])[0])
        return whole if end is None else (*whole, end)
    return whole_text_ids(plain_text(prompt, answer), tokenizer)


def plain_text(prompt: Prompt, answer: str) -> str:
    """The text of a prompt and its answer in ``plain``; an empty prompt leaves the answer alone."""
    if not prompt:
        return answer
    return _SEPARATOR.join([prompt_dialogue(messages_of(prompt)), _SPEAKERS[ASSISTANT] + answer])


def prompt_dialogue(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages one after the other, each with its speaker."""
    return _SEPARATOR.join(_SPEAKERS[message["role"]] + message["content"] for message in messages)


def read_prompt(row: Row, column: str = "prompt") -> Prompt:
    """A prompt in a row: text, or a list of messages whose last one is the user's.

    Raises:
        InputError: Neither, with the line and what is wrong.
    """
    if not isinstance(row.values.get(column), list):
        row.check_text(column, ", or a list of messages with role and content")
        return row.text(column)
    messages = _messages(row, column)
    _check_order(messages, f"{row.where}: column {shown(column)}")
    if messages[-1]["role"] != USER:
        raise InputError(
            f"{row.where}: the last message of column {shown(column)} is of the role "
            f"{shown(messages[-1]['role'])}, where a policy needs one of the user; correct that row"
        )
    return messages


def read_answer(row: Row, column: str) -> str:
    """An answer in a row: text, or a list of one message of the assistant.

    Raises:
        InputError: Neither, with the line and what is wrong.
    """
    if not isinstance(row.values.get(column), list):
        row.check_text(column, ", or a list of one message with role and content")
        return row.text(column)
    messages = _messages(row, column)
    if len(messages) != 1 or messages[0]["role"] != ASSISTANT:
        raise InputError(
            f"{row.where}: column {shown(column)} holds {len(messages)} messages, where one of the "
            "assistant is expected; keep the last turn there, and put what came before it into "
            "prompt"
        )
    return messages[0]["content"]


def read_conversation(row: Row, column: str = "messages") -> tuple[Prompt, str]:
    """A conversation in a row that ends with an answer: what came before it, and the answer.

    Raises:
        InputError: It is not such a conversation, with the line and what is wrong.
    """
    messages = _messages(row, column)
    _check_order(messages, f"{row.where}: column {shown(column)}")
    roles = [message["role"] for message in messages[-2:]]
    if roles != [USER, ASSISTANT]:
        raise InputError(
            f"{row.where}: column {shown(column)} ends with messages of {', '.join(roles)}, where "
            "one of the user and one of the assistant are expected; correct that row"
        )
    return messages[:-1], messages[-1]["content"]


def check_prompt(prompt: object, where: str) -> Prompt:
    """A prompt that a caller passed, as it is kept.

    Args:
        prompt: A text, or a list of messages.
        where: What it is called in messages to the user.

    Raises:
        InputError: It is neither, or its last message is not the user's.
    """
    if isinstance(prompt, str):
        return prompt
    values: dict[str, object] = {"prompt": list(prompt) if isinstance(prompt, tuple) else prompt}
    return read_prompt(Row(0, where, values))


def prompt_key(prompt: Prompt) -> str:
    """The same for equal prompts, whatever their blanks and Unicode form."""
    if isinstance(prompt, str):
        return same_text(prompt)
    return json.dumps([[m["role"], same_text(m["content"])] for m in prompt], ensure_ascii=False)


def prompt_text(prompt: Prompt) -> str:
    """A prompt for people: a text as it is, messages with their speakers."""
    if isinstance(prompt, str):
        return prompt
    return prompt_dialogue(messages_of(prompt))


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    """The messages of a column.

    Raises:
        InputError: It is not a list of messages.
    """
    values = row.values.get(column)
    where = f"{row.where}: column {shown(column)}"
    if not isinstance(values, list) or not values:
        raise InputError(
            f'{where} is not a list of messages; write [{{"role": "user", "content": "..."}}]'
        )
    messages = tuple(_message(value, f"{where}, message {k}") for k, value in enumerate(values, 1))
    return messages


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise InputError(f'{where} is not {{"role": ..., "content": ...}}; correct it')
    role, content = value["role"], value["content"]
    if role not in _SPEAKERS:
        raise InputError(
            f"{where} has the unknown role {shown(role)}{suggest(str(role), tuple(_SPEAKERS))}"
        )
    if not isinstance(content, str) or not content.strip():
        raise InputError(
            f"{where} has the content {shown(content)}, where text is expected; write text, without"
            " images or tools, or remove the row"
        )
    return {"role": role, "content": checked_text(content, where)}


def _check_order(messages: Sequence[Message], where: str) -> None:
    """Templates expect perhaps a system message first, then user and assistant in turn."""
    turns = [m["role"] for m in messages]
    spoken = turns[1:] if turns[0] == SYSTEM else turns
    expected = [(USER, ASSISTANT)[k % 2] for k in range(len(spoken))]
    if not spoken or spoken != expected:
        raise InputError(
            f"{where} has messages of {', '.join(turns)}; after an optional system message, user "
            "and assistant take turns, and the user is first"
        )
