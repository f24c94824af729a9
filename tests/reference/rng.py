"""Counter-based random numbers of the reference engine, as in csrc/engine/rng.hpp."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

INIT_PICK, INIT_LABEL, DRAW, ACCEPT, FIX_PAIR, GROW_PICK = range(6)
DRAW_UNLABELLED, KICK_PICK, KICK_SCORE = range(6, 9)
FIX_ORDER, INIT_GROUP = range(10, 12)
"""Purposes of random draws, numbered as in csrc/engine/rng.hpp."""

_WORD = 2**32


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Return the four 32-bit words of Philox4x32-10 for a counter of 4 and a key of 2 words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, _WORD)
        high1, low1 = divmod(0xCD9E8D57 * c2, _WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % _WORD, (k1 + 0xBB67AE85) % _WORD
    return [c0, c1, c2, c3]


class ReferenceRng:
    """Draws that are a pure function of (seed, purpose, iteration, index)."""

    def __init__(self, seed: int) -> None:
        self._key = (seed % _WORD, seed // _WORD)

    def _words(self, purpose: int, iteration: int, index: int) -> list[int]:
        high, low = divmod(iteration, _WORD)
        return philox4x32((index, purpose, low, high), self._key)

    def uniform(self, purpose: int, iteration: int, index: int) -> float:
        """Return a number in [0, 1) with 53 random bits."""
        w0, w1, _, _ = self._words(purpose, iteration, index)
        return ((w0 >> 5) * 2**26 + (w1 >> 6)) * 2.0**-53

    def bounded(self, purpose: int, iteration: int, index: int, n: int) -> int:
        """Return a whole number in 0 .. n - 1."""
        w0, w1, _, _ = self._words(purpose, iteration, index)
        return (w1 * _WORD + w0) * n >> 64

    def weighted(self, weights: Sequence[int], purpose: int, iteration: int, index: int) -> int:
        """Return an index with probability proportional to its weight."""
        target = self.bounded(purpose, iteration, index, sum(weights))
        for i, total in enumerate(itertools.accumulate(weights)):
            if target < total:
                return i
        raise ValueError("all weights are 0")
