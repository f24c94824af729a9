"""Tokens that a cache of the previous prompt saves."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return k
    return min(len(a), len(b))


def reusable(previous: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of ``prompt`` that need no forward pass after ``previous``: never its last one."""
    return min(common_prefix(previous, prompt), len(prompt) - 1)


def costs(prompts: Sequence[Sequence[int]], *, reuses_prefix: bool) -> list[int]:
    """Tokens to forward for each prompt, with or without a cache of the prompt before it."""
    before: list[Sequence[int]] = [(), *prompts[:-1]]
    return [
        len(prompt) - (reusable(previous, prompt) if reuses_prefix else 0)
        for previous, prompt in zip(before, prompts, strict=True)
    ]
