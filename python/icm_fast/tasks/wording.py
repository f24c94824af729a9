"""Prompts that ask different things about the same texts, such as two claims about each.

Labels that follow from the claim alone say nothing about the texts: *"the review is positive" is
true, "the review is negative" is false*, whatever the review. What describes a text, such as
``Sex: male`` in a table of passengers, is no wording, however many texts share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from icm_fast.types import IntArray

_SHARED = 0.25
"""Share of the prompts from which on a line may belong to their wording."""
_FEWEST = 8
"""Prompts of a wording, at least."""
_CROSSED = 0.9
"""Share of the prompts whose text has to be there in another wording, too."""


def shared_wording(prompts: Sequence[str]) -> IntArray:
    """Which prompts have the same wording, ``[n]`` int32 from 0 on; all where there is only one.

    A wording is what prompts share line by line, where nearly every text, the other lines, is there
    in several of them, and in each of them once.
    """
    one = np.zeros(len(prompts), np.int32)
    lines = [prompt.splitlines() for prompt in prompts]
    counts = Counter(line for found in lines for line in set(found))
    often = max(_FEWEST, _SHARED * len(prompts))
    wordings = [tuple(line for line in found if counts[line] >= often) for found in lines]
    texts = [tuple(line for line in found if counts[line] < often) for found in lines]
    seen_in: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for text, wording in zip(texts, wordings, strict=True):
        seen_in.setdefault(text, []).append(wording)
    crossed = sum(
        len(found) for text, found in seen_in.items() if text and len(found) == len(set(found)) > 1
    )
    number = {wording: k for k, wording in enumerate(dict.fromkeys(wordings))}
    fewest = min(Counter(wordings).values(), default=0)
    if crossed < _CROSSED * len(prompts) or fewest < _FEWEST:
        return one
    return np.array([number[wording] for wording in wordings], np.int32)
