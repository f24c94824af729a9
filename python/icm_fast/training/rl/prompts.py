"""Prompts of policies from a file, what a policy reads of one, and what a judge reads then."""

from __future__ import annotations

from dataclasses import dataclass

from icm_fast.errors import InputError, suggest
from icm_fast.tasks.duplicates import same_text
from icm_fast.tasks.rows import PathLike, read_column
from icm_fast.training.reward.text import reward_text

DIALOGUE = "dialogue"
CONTINUATION = "continuation"
KINDS = (DIALOGUE, CONTINUATION)
"""``dialogue``: a prompt is a person's turn, and the policy writes the assistant's;
``continuation``: a prompt is the beginning of a text, and the policy continues it."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts, each of them once, whatever its blanks and Unicode form.

    Attributes:
        prompts: In the order of their file.
        n_repeated: How many more stood in the file, equal to an earlier one.
    """

    prompts: tuple[str, ...]
    n_repeated: int = 0


def read_prompts(path: PathLike) -> PromptSet:
    """Read a file of prompts.

    Args:
        path: Text file (.txt) with a prompt on each line that is not blank; or JSON, JSONL, CSV or
            Parquet file, or ``hub:NAME``, with the column ``prompt``.

    Raises:
        InputError: A file that cannot be read or holds no prompt, or a row (with its line) whose
            prompt is missing or no text.
    """
    given = read_column(path, "prompt")
    first: dict[str, str] = {}
    for prompt in given:
        first.setdefault(same_text(prompt), prompt)
    prompts = tuple(first.values())
    return PromptSet(prompts, len(given) - len(prompts))


def check_kind(kind: str) -> None:
    """Raise InputError unless ``kind`` is one of ``KINDS``."""
    if kind not in KINDS:
        raise InputError(f"unknown kind of prompts {kind!r}{suggest(kind, KINDS)}")


def policy_text(kind: str, prompt: str) -> str:
    """What a policy reads of a prompt; its continuation follows without a blank between.

    Raises:
        InputError: Unknown kind, or a blank prompt.
    """
    check_kind(kind)
    if not prompt.strip():
        raise InputError("a prompt is blank, so a policy has nothing to answer; remove it")
    # What a reward model reads before a response; the blank at its end belongs to the response,
    # since tokenizers join a blank with the word after it.
    return prompt if kind == CONTINUATION else reward_text(prompt, "").removesuffix(" ")


def judged_text(kind: str, prompt: str, continuation: str) -> str:
    """What a reward model reads of a prompt and a policy's continuation: as in its training.

    A continued text stands alone, as reviews do in the training of reward models. The response of a
    dialogue begins after the blank that ``policy_text`` left to it.

    Raises:
        InputError: Same as in :func:`policy_text`.
    """
    read = policy_text(kind, prompt)
    if kind == CONTINUATION:
        return reward_text("", read + continuation)
    return reward_text(prompt, response_of(kind, continuation))


def response_of(kind: str, continuation: str) -> str:
    """The continuation as a separate text: that of a dialogue without its first blank."""
    return continuation if kind == CONTINUATION else continuation.removeprefix(" ")
