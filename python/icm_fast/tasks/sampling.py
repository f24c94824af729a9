"""Which examples take part: seeded draws that look at ids and groups, never at gold labels.

All draws are SHA-256 of their seed and key, so they are the same on every machine and in
every version of every library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from icm_fast.errors import InputError
from icm_fast.types import Example

SPLITS = ("all", "search", "test")
_TEST_SHARE = 5  # one in five


def digest(*key: object) -> int:
    """Return a 64-bit number that depends on the key alone."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick_groups(examples: Sequence[Example], limit: int | None, seed: int) -> list[int]:
    """Return the positions of whole groups, drawn until the next one would exceed ``limit``.

    Args:
        examples: All examples; one without a group stands on its own.
        limit: Most examples to return; None for all.
        seed: Seed of the order in which groups are drawn.

    Returns:
        Positions in the order of ``examples``.

    Raises:
        InputError: ``limit`` is not positive, or smaller than the first group drawn.
    """
    if limit is None:
        return list(range(len(examples)))
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"limit must be a whole number of at least 1, got {limit!r}")
    groups: dict[tuple[str, str], list[int]] = {}
    for position, example in enumerate(examples):
        key = ("id", example.id) if example.group is None else ("group", example.group)
        groups.setdefault(key, []).append(position)
    picked: list[int] = []
    for key in sorted(groups, key=lambda key: (digest("groups", seed, *key), key)):
        if len(picked) + len(groups[key]) > limit:
            if not picked:
                raise InputError(
                    f"limit {limit} is smaller than group {key[1]!r} with its {len(groups[key])} "
                    f"examples; groups stay whole, so set limit to {len(groups[key])} or more"
                )
            break
        picked += groups[key]
    return sorted(picked)


def in_split(key: str, split: str) -> bool:
    """Tell whether ``key`` belongs to ``split``; one key in five is for testing."""
    is_test = digest("split", key) % _TEST_SHARE == 0
    return split == "all" or is_test == (split == "test")
