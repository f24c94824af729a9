"""The one place that says what a reward model reads: in training, scoring and as a reward."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from icm_fast.errors import InputError
from icm_fast.plan.pieces import whole_text_ids
from icm_fast.training.chat import CHAT, PLAIN

FORMAT = 1
"""Recorded with every model of the plain format; raised whenever the functions below change."""

FORMATS: dict[str, object] = {PLAIN: FORMAT, CHAT: "chat 1"}
"""What is recorded of each format."""


def recorded_format(recorded: object, home: Path) -> str:
    """The format that a model was trained in.

    Args:
        recorded: What its record says.
        home: Its folder.

    Raises:
        InputError: This version does not write that format.
    """
    for format, name in FORMATS.items():
        if recorded == name:
            return format
    raise InputError(
        f"the reward model in {home} reads texts in format {recorded}, but this version writes "
        f"format {FORMAT}; train it again"
    )


def reward_text(prompt: str, response: str) -> str:
    """The text of a response to a prompt; without a prompt the response alone."""
    if not prompt:
        return response
    return f"Human: {prompt}\n\nAssistant: {response}"


def reward_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids of a text of :func:`reward_text`: BOS where the tokenizer has one, text, EOS.

    The EOS, where the tokenizer has one, tells that the response ends here.
    """
    return whole_text_ids(text, tokenizer)
