"""What a policy writes after prompts, and how likely its tokens are under a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from icm_fast.config import check_number
from icm_fast.errors import InputError
from icm_fast.model.adapters import foreign_code
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.pieces import root_ids
from icm_fast.plan.text_ids import text_ids
from icm_fast.training.reward.network import pad_left
from icm_fast.types import FloatArray

_MOST = 10**9

Readable = str | tuple[int, ...]
"""What a policy reads of a prompt: a text, or token ids."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a policy wrote after a prompt.

    Attributes:
        text: Joins to the prompt as it stands, with its first blank; without special tokens.
        token_ids: Its tokens, one or more; the EOS stands at their end where it was reached.
        finished: Whether the EOS was reached.
        logprob: Sum of the tokens' log-probabilities under the policy at temperature 1 and without
            ``top_p``, in nats; None unless requested.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    logprob: float | None = None


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Readable],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    min_new_tokens: int = 0,
    with_logprob: bool = False,
    more_ends: frozenset[int] = frozenset(),
) -> list[Continuation]:
    """Continue every prompt once.

    The same arguments (``batch_size`` among them), number of threads and machine give the same
    tokens; the random states of the process are neither used nor changed. Defaults that a model
    brings for sampling (``generation_config.json``) do not count, but for its EOS tokens.

    Args:
        loaded: The policy.
        prompts: As ``policy_text`` gives them, BOS is put before them where the tokenizer has one;
            or token ids as ``PromptForm.read_ids`` gives them.
        max_new_tokens: Maximum number of tokens of a continuation.
        temperature: 0 takes the likeliest token each time.
        top_p: Draw from the likeliest tokens that have this much probability together.
        seed: Seed of the draws.
        batch_size: Prompts in one forward pass; those of about the same length share one.
        min_new_tokens: EOS is not drawn before so many tokens.
        with_logprob: Compute ``logprob``, for one more forward pass.
        more_ends: Tokens that end a text besides those of :func:`end_tokens`.

    Returns:
        One continuation for each prompt, in their order.

    Raises:
        InputError: A setting out of range, an empty prompt, or one too long for the model.
    """
    ends = end_tokens(loaded) | more_ends
    settings = _settings(ends, max_new_tokens, min_new_tokens, temperature, top_p)
    check_number("batch_size", batch_size, 1, _MOST)
    ids = [prompt_ids(loaded, prompt, max_new_tokens) for prompt in prompts]
    made: dict[int, Continuation] = {}
    with torch.no_grad(), foreign_code(), _settings_alone(loaded.model, settings):
        torch.manual_seed(seed)
        for rows in _batches([len(i) for i in ids], batch_size):
            batch = {k: v.to(loaded.device) for k, v in pad_left([ids[r] for r in rows]).items()}
            arguments = _accepted(loaded.model, batch)
            output = loaded.model.generate(**arguments, generation_config=settings)
            new: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
            for row, tokens in zip(rows, new, strict=True):
                made[row] = read_continuation(loaded, ids[row], tokens, ends)
    continuations = [made[row] for row in range(len(ids))]
    if not with_logprob:
        return continuations
    logprobs = token_logprobs(loaded, prompts, continuations, batch_size=batch_size)
    both = zip(continuations, logprobs, strict=True)
    return [replace(one, logprob=float(values.sum())) for one, values in both]


def _settings(
    ends: frozenset[int],
    max_new_tokens: int,
    min_new_tokens: int,
    temperature: float,
    top_p: float,
) -> GenerationConfig:
    """Settings for transformers, all of them named.

    Raises:
        InputError: One is out of range.
    """
    check_number("max_new_tokens", max_new_tokens, 1, _MOST)
    check_number("min_new_tokens", min_new_tokens, 0, max_new_tokens)
    check_number("temperature", temperature, 0.0, 1e3)
    check_number("top_p", top_p, 1e-6, 1.0)
    sampling: dict[str, object] = {
        "do_sample": True,
        "temperature": float(temperature),  # transformers refuses integers
        "top_p": float(top_p),
        "top_k": 0,  # None would become transformers' default of 50
    }
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,  # of rows that have ended; cut off afterwards
        use_cache=True,
        **(sampling if temperature else {"do_sample": False}),
    )


def token_logprobs(
    loaded: LoadedModel,
    prompts: Sequence[Readable],
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 16,
) -> list[FloatArray]:
    """Log-probability of every token of continuations, at temperature 1, in nats.

    Args:
        loaded: Any model with the tokenizer of the policy that wrote them.
        prompts: Same as in :func:`generate`, ``[n]``.
        continuations: ``[n]``; each has a token.
        batch_size: Texts in one forward pass.

    Returns:
        For each continuation ``[n_tokens]`` float64, the EOS included where it was reached.

    Raises:
        InputError: A prompt with its continuation is too long for the model.
    """
    check_number("batch_size", batch_size, 1, _MOST)
    texts = [
        # The last token is predicted and not read.
        prompt_ids(loaded, prompt, len(c.token_ids)) + c.token_ids[:-1]
        for prompt, c in zip(prompts, continuations, strict=True)
    ]
    found: dict[int, FloatArray] = {}
    for rows in _batches([len(text) for text in texts], batch_size):
        n_kept = max(len(continuations[row].token_ids) for row in rows)
        batch = {k: v.to(loaded.device) for k, v in pad_left([texts[r] for r in rows]).items()}
        arguments = {**batch, "logits_to_keep": n_kept, "use_cache": False}
        with torch.no_grad():
            output = loaded.model(**_accepted(loaded.model, arguments))
        for row, logits in zip(rows, output.logits, strict=True):
            tokens = torch.tensor(continuations[row].token_ids, device=logits.device)
            values = logits[-len(tokens) :].float()
            chosen = values.gather(1, tokens[:, None])[:, 0] - values.logsumexp(-1)
            found[row] = chosen.double().cpu().numpy()
    return [found[row] for row in range(len(texts))]


def mean_nll(
    loaded: LoadedModel,
    prompts: Sequence[Readable],
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 16,
) -> FloatArray:
    """Mean negative log-likelihood per token of each continuation, ``[n]`` float64, in nats.

    Its exponential is the perplexity: with the model that a policy was trained from, how far the
    policy has gone from it.

    Raises:
        InputError: Same as in :func:`token_logprobs`.
    """
    logprobs = token_logprobs(loaded, prompts, continuations, batch_size=batch_size)
    return np.array([-float(values.mean()) for values in logprobs], dtype=np.float64)


def prompt_ids(loaded: LoadedModel, prompt: Readable, n_new: int = 0) -> tuple[int, ...]:
    """Token ids of a prompt, BOS before those of a text where the tokenizer has one.

    Raises:
        InputError: No tokens at all, or no room for ``n_new`` more.
    """
    ids = prompt if isinstance(prompt, tuple) else _encode(loaded.tokenizer, prompt)
    if not ids:
        raise InputError("a prompt has no tokens, so there is nothing to continue; remove it")
    if len(ids) + n_new > loaded.max_context:
        raise InputError(
            f"the prompt {_beginning(loaded.tokenizer, prompt)!r} has {len(ids)} tokens, which "
            f"with {n_new} new ones exceeds the {loaded.max_context} of {loaded.name}; "
            "shorten it, or request fewer"
        )
    return ids


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end a text: those of the model's generation settings, and the tokenizer's."""
    settings = getattr(loaded.model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    several = list(named) if isinstance(named, list | tuple) else [named]
    known = (*several, loaded.tokenizer.eos_token_id)
    return frozenset(int(token) for token in known if token is not None)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return root_ids(tokenizer) + tuple(text_ids(tokenizer, [text])[0])


def _beginning(tokenizer: PreTrainedTokenizerBase, prompt: Readable) -> str:
    text = prompt if isinstance(prompt, str) else _decode(tokenizer, prompt)
    return text[:40]


def read_continuation(
    loaded: LoadedModel, prompt: tuple[int, ...], tokens: list[int], ends: frozenset[int]
) -> Continuation:
    """Cut off what stands after the EOS, and read the rest as it follows the prompt.

    Args:
        loaded: Of its tokenizer.
        prompt: Tokens of the prompt.
        tokens: New ones, one or more.
        ends: Tokens that end a text.
    """
    end = next((k for k, token in enumerate(tokens) if token in ends), None)
    kept = tuple(tokens if end is None else tokens[: end + 1])
    # Decoded after the prompt: alone, the first token of SentencePiece would lose its blank.
    before = _decode(loaded.tokenizer, prompt)
    text = _decode(loaded.tokenizer, prompt + (kept if end is None else kept[:-1]))
    return Continuation(text[len(before) :], kept, end is not None)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _accepted(model: PreTrainedModel, arguments: Mapping[str, object]) -> dict[str, object]:
    """What the forward of the model takes of the arguments; some families refuse positions."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in arguments.items() if name in known}


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Rows of each batch, the short ones first."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return (order[start : start + size] for start in range(0, len(order), size))


@contextmanager
def _settings_alone(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """The model with ``settings`` for its own, with which transformers fills whatever is None."""
    before = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = before
