"""The one place that says what a reward model reads: in training, scoring and as a reward."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from icm_fast.plan.pieces import whole_text_ids

FORMAT = 1
"""Recorded with every model; raised whenever the functions below change."""


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
