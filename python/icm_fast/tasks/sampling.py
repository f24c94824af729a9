"""Which examples take part: seeded draws that look at ids and groups, never at gold labels.

All draws are SHA-256 of their seed and key, so they are the same on every machine and in
every version of every library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from icm_fast.errors import InputError
from icm_fast.tasks.rows import PathLike
from icm_fast.types import Example

SPLITS = ("all", "search", "test")
_DEFAULT_GROUPS = 64
_TEST_SHARE = 5  # one in five


def digest(*key: object) -> int:
    """Return a 64-bit number that depends on the key alone."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick_groups(
    examples: Sequence[Example], limit: int | None, seed: int, *, name: str = "limit"
) -> list[int]:
    """Return the positions of whole groups, drawn until the next one would exceed ``limit``.

    Args:
        examples: All examples; one without a group stands on its own.
        limit: Most examples to return; None for all.
        seed: Seed of the order in which groups are drawn.
        name: What ``limit`` is, for the message.

    Returns:
        Positions in the order of ``examples``.

    Raises:
        InputError: ``limit`` is not positive, or smaller than the first group drawn.
    """
    if limit is None:
        return list(range(len(examples)))
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {limit!r}")
    groups: dict[tuple[str, str], list[int]] = {}
    for position, example in enumerate(examples):
        key = ("id", example.id) if example.group is None else ("group", example.group)
        groups.setdefault(key, []).append(position)
    picked: list[int] = []
    for key in sorted(groups, key=lambda key: (digest("groups", seed, *key), key)):
        if len(picked) + len(groups[key]) > limit:
            if not picked:
                raise InputError(
                    f"{name} {limit} is smaller than group {key[1]!r} with its {len(groups[key])} "
                    f"examples; groups stay whole, so set {name} to {len(groups[key])} or more"
                )
            break
        picked += groups[key]
    return sorted(picked)


def count_groups(
    task: str,
    path: PathLike | None,
    limit: int | None,
    n_groups: int | None,
    *,
    size: int,
    most: int,
    remedy: str = "",
) -> int:
    """Return how many groups a generated task makes.

    Args:
        task: Name of the task.
        path: Must be None.
        limit: Most examples to keep.
        n_groups: The user's choice; None makes 64, or as many as ``limit`` holds.
        size: Examples per group.
        most: Most groups the task can make.
        remedy: What else helps when there are too many, for the message.

    Raises:
        InputError: A path was given, or the number lies outside 1 .. ``most``.
    """
    if path is not None:
        raise InputError(f"task {task!r} is generated and reads no file; leave the path out")
    if n_groups is None:
        wanted = limit if isinstance(limit, int) else 0
        n_groups = max(_DEFAULT_GROUPS, wanted // size)
    if not 1 <= n_groups <= most:
        raise InputError(
            f"{n_groups} groups of {task!r} lie outside 1 .. {most}; lower n_groups (or limit)"
            f"{remedy}"
        )
    return n_groups


def in_split(key: str, split: str) -> bool:
    """Tell whether ``key`` belongs to ``split``; one key in five is for testing."""
    is_test = digest("split", key) % _TEST_SHARE == 0
    return split == "all" or is_test == (split == "test")
