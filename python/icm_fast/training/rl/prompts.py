"""Prompts of policies from a file, what a policy reads of one, and what a judge reads then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icm_fast.errors import InputError, suggest
from icm_fast.model.chat_template import ChatTokenizer, end_of_turn
from icm_fast.plan.pieces import root_ids
from icm_fast.plan.text_ids import text_ids
from icm_fast.tasks.formats import file_type
from icm_fast.tasks.hub import HUB_PREFIX
from icm_fast.tasks.rows import PathLike, read_column, read_rows
from icm_fast.training.chat import (
    CHAT,
    PLAIN,
    Prompt,
    prompt_ids,
    prompt_key,
    prompt_text,
    read_prompt,
)
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

    prompts: tuple[Prompt, ...]
    n_repeated: int = 0


def read_prompts(path: PathLike) -> PromptSet:
    """Read a file of prompts.

    Args:
        path: Text file (.txt) with a prompt on each line that is not blank; or JSON, JSONL, CSV or
            Parquet file, or ``hub:NAME``, with the column ``prompt``: a text, or a list of messages
            (``role``, ``content``) of which the last one is the user's.

    Raises:
        InputError: A file that cannot be read or holds no prompt, or a row (with its line) whose
            prompt is missing, or neither text nor such a list.
    """
    given: list[Prompt]
    if not str(path).startswith(HUB_PREFIX) and file_type(Path(path)) == ".txt":
        given = [*read_column(path, "prompt")]
    else:
        given = [read_prompt(row) for row in read_rows(path)]
    first: dict[str, Prompt] = {}
    for prompt in given:
        first.setdefault(prompt_key(prompt), prompt)
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


@dataclass(frozen=True, slots=True)
class PromptForm:
    """How prompts are put to policies, and how what they write is put to judges.

    Attributes:
        kind: ``dialogue`` or ``continuation``.
        format: ``plain`` or ``chat``, of the policies; judges have their own.
    """

    kind: str = DIALOGUE
    format: str = PLAIN

    def read_ids(self, tokenizer: ChatTokenizer, prompt: Prompt) -> tuple[int, ...]:
        """Token ids that a policy reads of a prompt.

        Raises:
            InputError: A blank prompt, messages where a text is continued, or what the tokenizer's
                chat template cannot render.
        """
        if self.kind == CONTINUATION:
            text = policy_text(self.kind, _text(prompt))
            return root_ids(tokenizer) + tuple(text_ids(tokenizer, [text])[0])
        return prompt_ids(tokenizer, prompt, format=self.format)

    def ends(self, tokenizer: ChatTokenizer) -> frozenset[int]:
        """Tokens that end an answer besides the EOS: in ``chat`` what ends a turn."""
        end = end_of_turn(tokenizer) if self.format == CHAT else None
        return frozenset() if end is None else frozenset((end,))

    def answered(self, prompt: Prompt, continuation: str) -> tuple[Prompt, str]:
        """Prompt and answer as reward models take them; a continued text is an answer alone.

        Raises:
            InputError: Same as in :func:`policy_text`.
        """
        if self.kind == CONTINUATION:
            return "", policy_text(self.kind, _text(prompt)) + continuation
        return prompt, self.response(continuation)

    def continuation(self, text: str) -> str:
        """What a policy wrote, as ``policy_text`` leaves it open: an answer begins with a blank."""
        return f" {text}" if self.format == CHAT else text

    def response(self, continuation: str) -> str:
        """The continuation as a separate text; see :func:`response_of`."""
        return continuation if self.format == CHAT else response_of(self.kind, continuation)

    def shown(self, prompt: Prompt) -> str:
        """A prompt in the claims of judges: its text, or all its messages as a dialogue."""
        if isinstance(prompt, str) or len(prompt) > 1:
            return prompt_text(prompt)
        return prompt[0]["content"]


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    raise InputError(
        f"kind={CONTINUATION} continues a text, but a prompt is a list of messages; set "
        f"kind={DIALOGUE}"
    )
