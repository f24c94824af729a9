"""vLLM: log-probabilities of named token ids, with its prefix cache kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icm_fast.scoring.servers.dialect import (
    Answer,
    Listed,
    ServerFacts,
    TextAnswer,
    ids,
    integer,
    logprob,
    mapping,
    text,
    token_key,
    token_of,
)
from icm_fast.scoring.servers.openai import (
    completion,
    computed,
    one_token,
    read_choice,
    read_completion,
)
from icm_fast.scoring.servers.transport import RefusedError, UnusableError

if TYPE_CHECKING:
    from icm_fast.scoring.servers.transport import Channel


_HITS = re.compile(r"^vllm:prefix_cache_hits_total(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


class VLLMTexts:
    """vLLM's ``prompt_logprobs``, for which it computes whole prompts."""

    is_cached = False

    def request(
        self, model: str, prompt: Sequence[int], start: int
    ) -> tuple[str, dict[str, object]]:
        """A completion of one token; 0 asks for the prompt's own tokens and no others."""
        return "/v1/completions", one_token(model, prompt) | {"prompt_logprobs": 0}

    def read(self, content: object, prompt: Sequence[int], start: int) -> TextAnswer:
        """Read one entry for each token of the prompt, by its id."""
        choice, counts = read_choice(content)
        rows = choice.get("prompt_logprobs")
        if not isinstance(rows, list) or len(rows) != len(prompt):
            raise UnusableError(f"prompt_logprobs is not a list of {len(prompt)} tokens")
        found = []
        for token, row in zip(prompt[start:], rows[start:], strict=True):
            entry = mapping(row, "an entry of prompt_logprobs").get(str(token))
            found.append(logprob(mapping(entry, f"token {token} of the prompt").get("logprob")))
        return TextAnswer(tuple(found), integer(counts.get("prompt_tokens")))


class VLLM:
    """vLLM's OpenAI-compatible server, with its ``logprob_token_ids``."""

    name = "vllm"
    is_exact = True
    first_width = 1
    texts = VLLMTexts()

    def wider(self, width: int) -> int | None:
        """Nothing: ids are asked for by themselves."""
        return None

    def facts(self, transport: Channel, listed: Listed) -> ServerFacts:
        """Name, origin and context as ``/v1/models`` gives them."""
        longest = integer(listed.content.get("max_model_len"))
        source = text(listed.content.get("root")) or listed.name
        return ServerFacts(
            listed.name,
            source,
            max_context=None if longest is None else longest - 1,  # one token is generated
            identity={"root": source},
        )

    def request(
        self, model: str, prompt: Sequence[int] | str, wanted: Sequence[int], width: int
    ) -> tuple[str, dict[str, object]]:
        """A completion of one token, with the ids that are wanted beside the most likely ones."""
        body = completion(model, prompt, width) | {"return_tokens_as_token_ids": True}
        if wanted:
            body["logprob_token_ids"] = list(wanted)
        return "/v1/completions", body

    def read(self, content: object, wanted: Sequence[int]) -> Answer:
        """Read the tokens by their ids."""
        top, n_prompt, n_cached = read_completion(content)
        if any(token_of(key) is None for key in top):
            raise UnusableError("tokens are named by texts, though ids were asked for")
        found = {token: top[token_key(token)] for token in wanted if token_key(token) in top}
        return Answer(found, top, n_prompt, computed(n_prompt, n_cached))

    def cache_hits(self, transport: Channel) -> int | None:
        """Read its counter: answers tell it only with ``--enable-prompt-tokens-details``."""
        found = _HITS.findall(transport.get_text("/metrics") or "")
        return round(sum(map(float, found))) if found else None

    def tokenize(self, transport: Channel, model: str, text: str) -> list[int] | None:
        """Ask ``/tokenize``."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return ask_tokens(transport, body)


def ask_tokens(transport: Channel, body: dict[str, object]) -> list[int] | None:
    """Token ids that ``/tokenize`` answers with; None where there is no such path."""

    def read(content: object) -> list[int]:
        found = ids(content.get("tokens")) if isinstance(content, dict) else None
        if found is None:
            raise UnusableError("/tokenize answers without tokens")
        return found

    try:
        return transport.post("/tokenize", body, read)
    except RefusedError as error:
        if error.status in (404, 405, 501):
            return None
        raise
