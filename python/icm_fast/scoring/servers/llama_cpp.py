"""llama.cpp's server: the most likely tokens with their ids, as many as it takes."""

from __future__ import annotations

from collections.abc import Sequence
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
from icm_fast.scoring.servers.vllm import ask_tokens

if TYPE_CHECKING:
    from icm_fast.scoring.servers.transport import Channel

_FACTS = ("n_vocab", "n_embd", "n_params", "size", "ftype")
_LARGEST_VOCABULARY = 1 << 20


class LlamaCpp:
    """llama.cpp's own ``/completion``.

    It returns the most likely tokens only, so their number is doubled until every wanted one is
    among them; the last number is the whole vocabulary.
    """

    name = "llama.cpp"
    is_exact = True
    texts = None
    """It tells probabilities of what it writes, none of a prompt's tokens."""

    def __init__(self) -> None:
        self.first_width = 64
        self._vocabulary = _LARGEST_VOCABULARY

    def wider(self, width: int) -> int | None:
        """Twice as many, up to the vocabulary."""
        if width >= self._vocabulary:
            return None
        return min(2 * width, self._vocabulary)

    def facts(self, transport: Channel, listed: Listed) -> ServerFacts:
        """Size of the model and of its slots."""
        found = transport.get("/props")
        props = found if isinstance(found, dict) else {}
        settings = props.get("default_generation_settings")
        longest = integer(settings.get("n_ctx")) if isinstance(settings, dict) else None
        meta = listed.content.get("meta")
        known = meta if isinstance(meta, dict) else {}
        self._vocabulary = integer(known.get("n_vocab")) or _LARGEST_VOCABULARY
        return ServerFacts(
            listed.name,
            listed.name,
            max_context=None if longest is None else longest - 1,
            slots=integer(props.get("total_slots")),
            n_parameters=integer(known.get("n_params")) or 0,
            identity={key: known[key] for key in _FACTS if key in known},
        )

    def request(
        self, model: str, prompt: Sequence[int] | str, wanted: Sequence[int], width: int
    ) -> tuple[str, dict[str, object]]:
        """A completion of one token; the log-probabilities are those before any sampler."""
        return "/completion", {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "n_predict": 1,
            "n_probs": width,
            "temperature": 0,
            "post_sampling_probs": False,
            "cache_prompt": True,
            "stream": False,
        }

    def read(self, content: object, wanted: Sequence[int]) -> Answer:
        """Read the most likely tokens by their ids."""
        answer = mapping(content, "the answer")
        position = mapping(
            first(answer.get("completion_probabilities"), "completion_probabilities"), "the token"
        )
        rows = position.get("top_logprobs")
        if not isinstance(rows, list) or not rows:
            raise UnusableError("top_logprobs is missing or empty")
        top: dict[int, float] = {}
        for row in rows:
            entry = mapping(row, "an entry of top_logprobs")
            token = integer(entry.get("id"))
            if token is None:
                raise UnusableError("top_logprobs has an entry without a token id")
            top[token] = logprob(entry.get("logprob"))
        timings = answer.get("timings")
        n_computed = integer(timings.get("prompt_n")) if isinstance(timings, dict) else None
        return Answer(
            {token: top[token] for token in wanted if token in top},
            {token_key(token): value for token, value in top.items()},
            integer(answer.get("tokens_evaluated")),
            n_computed,
        )

    def cache_hits(self, transport: Channel) -> int | None:
        """Answers tell it themselves, where at all."""
        return None

    def tokenize(self, transport: Channel, model: str, text: str) -> list[int] | None:
        """Ask ``/tokenize``."""
        return ask_tokens(
            transport, {"content": text, "add_special": False, "parse_special": False}
        )
