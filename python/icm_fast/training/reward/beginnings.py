"""Rewards of answers that may be longer than the model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from icm_fast.training.chat import CHAT, Prompt, plain_text
from icm_fast.training.reward.model import RewardModel
from icm_fast.types import ScoreArray


def read_rewards(
    model: RewardModel, prompts: Sequence[Prompt], answers: Sequence[str], *, refuse_long: bool
) -> tuple[ScoreArray, int]:
    """Rewards of answers to prompts, as far as the context reaches.

    Args:
        model: The reward model.
        prompts: ``[n]``.
        answers: ``[n]``.
        refuse_long: Refuse a text that is longer than the context instead of reading its beginning.

    Returns:
        ``[n]`` float32, and how many of the texts are longer than the context.

    Raises:
        InputError: Same as in :meth:`RewardModel.score_answers`.
    """
    if refuse_long:
        return model.score_answers(prompts, answers), 0
    if model.format == CHAT:
        return _score_shorter_answers(model, prompts, answers)
    texts = [plain_text(prompt, text) for prompt, text in zip(prompts, answers, strict=True)]
    shorter: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        if len(model.token_ids(text)) > model.max_context:
            shorter[text] = beginning(text, model)
    rewards = model.score([shorter.get(text, text) for text in texts])
    return rewards, sum(text in shorter for text in texts)


def truncated_line(n_truncated: int) -> str:
    """What a report says of texts that were read in part."""
    return f"{n_truncated} texts are longer than the model's context; it read their beginning."


def _score_shorter_answers(
    model: RewardModel, prompts: Sequence[Prompt], answers: Sequence[str]
) -> tuple[ScoreArray, int]:
    """The same in a chat template, which has to close every answer: only answers are shortened."""
    ids, n_truncated = [], 0
    for prompt, text in zip(prompts, answers, strict=True):

        def fits(part: str, prompt: Prompt = prompt) -> bool:
            return len(model.answer_ids(prompt, part)) <= model.max_context

        whole = fits(text)
        n_truncated += not whole
        ids.append(model.answer_ids(prompt, text if whole else _longest(text, fits)))
    return model.score_ids(ids), n_truncated


def beginning(text: str, model: RewardModel) -> str:
    """The longest beginning of a text that was found to fit the context, by halving."""
    return _longest(text, lambda part: len(model.token_ids(part)) <= model.max_context)


def _longest(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning that was found to fit, by halving."""
    longest, too_long = 0, len(text)
    while too_long - longest > 1:
        middle = (longest + too_long) // 2
        if fits(text[:middle]):
            longest = middle
        else:
            too_long = middle
    return text[:longest]
