"""OpenAI-compatible completions, of which only the most likely tokens can be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from icm_fast.scoring.servers.dialect import (
    Answer,
    Listed,
    ServerFacts,
    first,
    integer,
    logprob,
    mapping,
    token_key,
)
from icm_fast.scoring.servers.transport import UnusableError

if TYPE_CHECKING:
    from icm_fast.scoring.servers.transport import Channel

TOP = 20
TOP_OF_OLD_SERVERS = 5
"""What OpenAI's own completions allow."""


class OpenAICompletions:
    """Any server with ``/v1/completions`` that takes token ids.

    Args:
        token_text: The text of a token, as the server writes it; empty where it has none of its
            own.
        width: Most likely tokens that a request may ask for.
    """

    name = "openai"
    is_exact = False
    texts = None
    """``echo`` with ``logprobs`` would tell them, but hardly a provider takes both."""

    def __init__(self, token_text: Callable[[int], str], width: int = TOP) -> None:
        self._token_text = token_text
        self.first_width = width

    def wider(self, width: int) -> int | None:
        """Nothing beyond: providers refuse more."""
        return None

    def facts(self, transport: Channel, listed: Listed) -> ServerFacts:
        """Nothing but the name."""
        return ServerFacts(listed.name, listed.name)

    def request(
        self, model: str, prompt: Sequence[int] | str, wanted: Sequence[int], width: int
    ) -> tuple[str, dict[str, object]]:
        """A completion of one token."""
        return "/v1/completions", completion(model, prompt, width)

    def read(self, content: object, wanted: Sequence[int]) -> Answer:
        """Find the wanted tokens among the most likely ones, by their texts."""
        top, n_prompt, n_cached = read_completion(content)
        found = {}
        for token in wanted:
            for key in (token_key(token), self._token_text(token)):
                if key and key in top:
                    found[token] = top[key]
                    break
        return Answer(found, top, n_prompt, computed(n_prompt, n_cached))

    def cache_hits(self, transport: Channel) -> int | None:
        """Answers tell it themselves, where at all."""
        return None

    def tokenize(self, transport: Channel, model: str, text: str) -> list[int] | None:
        """Such servers have no path for it."""
        return None


def completion(model: str, prompt: Sequence[int] | str, width: int) -> dict[str, object]:
    """The body of a completion of one token with so many of the most likely ones."""
    return one_token(model, prompt) | {"logprobs": width}


def one_token(model: str, prompt: Sequence[int] | str) -> dict[str, object]:
    """The body of a completion of one token, without any log-probability."""
    shown = prompt if isinstance(prompt, str) else list(prompt)
    return {"model": model, "prompt": shown, "max_tokens": 1, "temperature": 0, "stream": False}


def read_completion(content: object) -> tuple[dict[str, float], int | None, int | None]:
    """Most likely tokens, tokens of the prompt, and how many of them were cached.

    Raises:
        UnusableError: The answer has another form.
    """
    choice, counts = read_choice(content)
    logprobs = mapping(choice.get("logprobs"), "choices[0].logprobs")
    top = mapping(first(logprobs.get("top_logprobs"), "top_logprobs"), "top_logprobs[0]")
    details = counts.get("prompt_tokens_details")
    cached = integer(details.get("cached_tokens")) if isinstance(details, dict) else None
    found = {key: logprob(value) for key, value in top.items()}
    if not found:
        raise UnusableError("top_logprobs[0] is empty")
    return found, integer(counts.get("prompt_tokens")), cached


def read_choice(content: object) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The first choice of a completion, and its ``usage``; empty where there is none.

    Raises:
        UnusableError: The answer has another form.
    """
    answer = mapping(content, "the answer")
    choice = mapping(first(answer.get("choices"), "choices"), "choices[0]")
    usage = answer.get("usage")
    return choice, usage if isinstance(usage, dict) else {}


def computed(n_prompt: int | None, n_cached: int | None) -> int | None:
    """Tokens that were not cached; None where one of the two is unknown."""
    return None if n_prompt is None or n_cached is None else n_prompt - n_cached
