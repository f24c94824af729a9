"""SGLang: ``/generate`` with log-probabilities of named token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icm_fast.scoring.servers.dialect import (
    PROBE_TOP,
    Answer,
    Listed,
    ServerFacts,
    TextAnswer,
    first,
    integer,
    logprob,
    mapping,
    text,
    token_key,
)
from icm_fast.scoring.servers.openai import computed
from icm_fast.scoring.servers.transport import UnusableError
from icm_fast.scoring.servers.vllm import ask_tokens

if TYPE_CHECKING:
    from icm_fast.scoring.servers.transport import Channel


class SGLangTexts:
    """SGLang's ``logprob_start_len``, up to which its prefix cache serves."""

    is_cached = True

    def request(
        self, model: str, prompt: Sequence[int], start: int
    ) -> tuple[str, dict[str, object]]:
        """One generated token; the first token from the start on has no log-probability."""
        return "/generate", {"input_ids": list(prompt), **_one_token(start - 1, 0)}

    def read(self, content: object, prompt: Sequence[int], start: int) -> TextAnswer:
        """Read lists of (log-probability, id, text) at the end of the prompt."""
        meta = mapping(mapping(content, "the answer").get("meta_info"), "meta_info")
        rows = meta.get("input_token_logprobs")
        wanted = prompt[start:]
        if not isinstance(rows, list) or len(rows) < len(wanted):
            raise UnusableError(f"input_token_logprobs is not a list of {len(wanted)} tokens")
        found = []
        for token, row in zip(wanted, rows[len(rows) - len(wanted) :], strict=True):
            if not isinstance(row, list) or len(row) < 2 or integer(row[1]) != token:
                raise UnusableError(f"input_token_logprobs has no entry of token {token}")
            found.append(logprob(row[0]))
        return TextAnswer(tuple(found), integer(meta.get("prompt_tokens")))


class SGLang:
    """SGLang's own ``/generate``, with its ``token_ids_logprob``."""

    name = "sglang"
    is_exact = True
    first_width = PROBE_TOP
    texts = SGLangTexts()

    def wider(self, width: int) -> int | None:
        """Nothing: ids are asked for by themselves."""
        return None

    def facts(self, transport: Channel, listed: Listed) -> ServerFacts:
        """Origin of the model and context."""
        found = transport.get("/get_model_info")
        info = found if isinstance(found, dict) else {}
        longest = integer(listed.content.get("max_model_len"))
        source = text(info.get("model_path")) or text(listed.content.get("root")) or listed.name
        return ServerFacts(
            listed.name,
            source,
            max_context=None if longest is None else longest - 1,
            identity={"model_path": source},
        )

    def request(
        self, model: str, prompt: Sequence[int] | str, wanted: Sequence[int], width: int
    ) -> tuple[str, dict[str, object]]:
        """One generated token; -1 leaves out the log-probabilities of the prompt."""
        body = _one_token(-1, 0 if wanted else width)
        body |= {"text": prompt} if isinstance(prompt, str) else {"input_ids": list(prompt)}
        if wanted:
            body["token_ids_logprob"] = list(wanted)
        return "/generate", body

    def read(self, content: object, wanted: Sequence[int]) -> Answer:
        """Read lists of (log-probability, id, text) for the first generated position."""
        meta = mapping(mapping(content, "the answer").get("meta_info"), "meta_info")
        n_prompt = integer(meta.get("prompt_tokens"))
        n_computed = computed(n_prompt, integer(meta.get("cached_tokens")))
        if not wanted:
            top = _position(meta, "output_top_logprobs")
            return Answer({}, {token_key(token): value for token, value in top.items()}, n_prompt)
        found = _position(meta, "output_token_ids_logprobs")
        return Answer({t: found[t] for t in wanted if t in found}, {}, n_prompt, n_computed)

    def cache_hits(self, transport: Channel) -> int | None:
        """Answers tell it themselves, where at all."""
        return None

    def tokenize(self, transport: Channel, model: str, text: str) -> list[int] | None:
        """Ask ``/tokenize``, which younger versions have."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return ask_tokens(transport, body)


def _one_token(start: int, width: int) -> dict[str, object]:
    """What asks for one token with log-probabilities from a place on, and the likeliest tokens."""
    return {
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": start,
        "top_logprobs_num": width,
        "stream": False,
    }


def _position(meta: object, name: str) -> dict[int, float]:
    """Log-probabilities by id at the first generated position."""
    rows = first(mapping(meta, "meta_info").get(name), name)
    if not isinstance(rows, list):
        raise UnusableError(f"{name}[0] is not a list")
    found: dict[int, float] = {}
    for row in rows:
        token = integer(row[1]) if isinstance(row, list) and len(row) >= 2 else None
        if token is None:
            raise UnusableError(f"{name} has an entry without a token id")
        found[token] = logprob(row[0])
    return found
