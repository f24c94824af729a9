"""Prompts that share their wording, such as one claim that is made about every text.

Labels that follow from the wording alone say nothing about the texts: *"the review is positive" is
true, "the review is negative" is false*, whatever the review.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from icm_fast.types import IntArray

_SHARED = 0.25
"""Share of the prompts from which on a line is their wording and not their text."""
_FEWEST = 8
"""Prompts of a wording, at least."""


def shared_wording(prompts: Sequence[str]) -> IntArray:
    """Which prompts have the same lines in common with many others, ``[n]`` int32 from 0 on.

    Prompts of a rare wording, or of none, are put together.
    """
    lines = [frozenset(prompt.splitlines()) for prompt in prompts]
    counts = Counter(line for found in lines for line in found)
    often = max(_FEWEST, _SHARED * len(prompts))
    kept = [frozenset(line for line in found if counts[line] >= often) for found in lines]
    sizes = Counter(kept)
    number = {wording: k for k, wording in enumerate(w for w in sizes if sizes[w] >= _FEWEST)}
    return np.array([number.get(wording, len(number)) for wording in kept], np.int32)
