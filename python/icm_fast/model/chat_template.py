"""Conversations in the template of a chat model: without thinking, and the same on every day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, tzinfo
from functools import lru_cache
from typing import Protocol, Self

from icm_fast.errors import InputError, first_line, listed
from icm_fast.plan.text_ids import Tokenizer, control_token_in

TEMPLATE_DATE = date(2024, 7, 26)
"""Today, as far as chat templates know: the date that Llama's own have without a clock."""

_HARMONY, _FINAL = "<|start|>assistant", "<|channel|>final<|message|>"
"""Where gpt-oss' template stops, and what opens the answer rather than the analysis."""

_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
)
_ANSWER = "icm-fast-answer"
"""Stands for an answer where it matters only what follows one."""


class ChatTokenizer(Tokenizer, Protocol):
    """A tokenizer that may know the template of a chat model."""

    @property
    def chat_template(self) -> object:
        """The template; None or empty where there is none."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        enable_thinking: bool,
        thinking: bool,
        date_string: str,
    ) -> str:
        """The text of a conversation; templates ignore what they do not know."""


def render_messages(tokenizer: ChatTokenizer, messages: Sequence[Mapping[str, str]]) -> str:
    """The text before the answer to messages, with the control tokens of the template.

    Args:
        tokenizer: One with a chat template.
        messages: Each with ``role`` and ``content``; the last one is not the assistant's.

    Raises:
        InputError: The template fails, or opens a thought that the answer would stand in.
    """
    text = _applied(tokenizer, messages, add_generation_prompt=True)
    _check_not_thinking(text, messages[-1]["content"])
    return text + _FINAL if text.endswith(_HARMONY) else text


def template_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a text of :func:`render_messages`; its control tokens are read as such.

    The template already writes the token that begins a text.
    """
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_of_turn(tokenizer: ChatTokenizer) -> int | None:
    """The token that ends an answer in the chat template: not always the tokenizer's EOS.

    Returns:
        The EOS where the template writes no control token after an answer; None without either.

    Raises:
        InputError: Same as in :func:`render_messages`.
    """
    return _end_of_turn(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: ChatTokenizer, template: str) -> int | None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    text = _applied(tokenizer, messages, add_generation_prompt=False)
    after = text.rpartition(_ANSWER)[2]
    token = control_token_in(after, tokenizer)
    return tokenizer.eos_token_id if token is None else template_ids(tokenizer, token)[0]


def _applied(
    tokenizer: ChatTokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> str:
    try:
        with _fixed_clock():
            return tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=False,
                thinking=False,
                date_string=TEMPLATE_DATE.strftime("%d %b %Y"),
            )
    except Exception as error:  # templates are programs of others, and raise what they like
        roles = listed([message["role"] for message in messages])
        fix = (
            "use a model whose template takes a single message of the user"
            if len(messages) == 1
            else f"use a model whose template takes messages of {roles}, or other messages"
        )
        raise InputError(
            f"the chat template cannot render a prompt: {first_line(error)}; {fix}"
        ) from error


class _FixedClock(datetime):
    """The clock of chat templates, which transformers gives them as ``strftime_now``."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(TEMPLATE_DATE.year, TEMPLATE_DATE.month, TEMPLATE_DATE.day, tzinfo=tz)


@contextmanager
def _fixed_clock() -> Iterator[None]:
    """Stop the clock; transformers lets nobody pass another one."""
    from transformers.utils import chat_template_utils

    clock = chat_template_utils.datetime
    chat_template_utils.datetime = _FixedClock
    try:
        yield
    finally:
        chat_template_utils.datetime = clock


def _check_not_thinking(text: str, message: str) -> None:
    """Refuse templates that always begin the answer with a thought."""
    after = text.rpartition(message)[2]
    for opening, closing in _THOUGHTS:
        if after.count(opening) > after.count(closing):
            raise InputError(
                f"the chat template opens {opening} before the answer and has no switch for it; "
                "use a chat model that does not think"
            )
