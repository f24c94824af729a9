"""Which examples take part: seeded draws that depend on ids and groups, never on gold labels.

All draws are SHA-256 of their seed and key, so they are the same on every machine and with
every version of every library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from heapq import nsmallest

from icm_fast.errors import InputError, shown
from icm_fast.tasks.rows import PathLike
from icm_fast.types import Example

SPLITS = ("all", "search", "test")
_DEFAULT_GROUPS = 64
_TEST_SHARE = 5  # one in five


def digest(*key: object) -> int:
    """Return a 64-bit number that depends only on the key."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def drawn_rows(name: str, seed: int, n_rows: int, most: int) -> list[int]:
    """Positions of at most ``most`` of the rows, in the order in which they are drawn.

    Args:
        name: Of the draw; others of the same seed are independent.
        seed: Seed of the draw.
        n_rows: Rows in all.
        most: Rows to draw, if there are so many.
    """
    return nsmallest(most, range(n_rows), lambda row: digest(name, seed, row))


def pick_groups(
    examples: Sequence[Example], limit: int | None, seed: int, *, name: str = "limit"
) -> list[int]:
    """Return the positions of whole groups, drawn until the next one would exceed ``limit``.

    Args:
        examples: All examples; one without a group forms its own.
        limit: Maximum number of examples to return; None for all.
        seed: Seed of the order in which groups are drawn.
        name: Name of ``limit`` in messages.

    Returns:
        Positions in the order of ``examples``.

    Raises:
        InputError: ``limit`` is not positive, or smaller than the first group drawn.
    """
    if limit is None:
        return list(range(len(examples)))
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {shown(limit)}")
    groups: dict[tuple[str, str], list[int]] = {}
    for position, example in enumerate(examples):
        key = ("id", example.id) if example.group is None else ("group", example.group)
        groups.setdefault(key, []).append(position)
    picked: list[int] = []
    for key in sorted(groups, key=lambda key: (digest("groups", seed, *key), key)):
        if len(picked) + len(groups[key]) > limit:
            if not picked:
                size = len(groups[key])
                raise InputError(
                    f"{name} {limit} is smaller than group {shown(key[1])} with its {size} "
                    "examples; "
                    f"groups stay whole, so set {name} to {size} or more"
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
    maximum: int,
    remedy: str = "",
) -> int:
    """Return how many groups a generated task makes.

    Args:
        task: Name of the task.
        path: Must be None.
        limit: Maximum number of examples.
        n_groups: The user's choice; None makes 64, or as many as fit into ``limit``.
        size: Examples per group.
        maximum: Maximum number of groups that the task can make.
        remedy: Another fix for too many groups, for the message.

    Raises:
        InputError: A path was given, or the number is outside 1 .. ``maximum``.
    """
    if path is not None:
        raise InputError(f"task {shown(task)} is generated and reads no file; leave the path out")
    if n_groups is None:
        wanted = limit if isinstance(limit, int) else 0
        n_groups = max(_DEFAULT_GROUPS, wanted // size)
    if not 1 <= n_groups <= maximum:
        raise InputError(
            f"n_groups = {n_groups} of task {shown(task)} is outside 1 .. {maximum}; "
            f"{'raise n_groups' if n_groups < 1 else f'lower n_groups (or limit){remedy}'}"
        )
    return n_groups


def in_split(key: str, split: str) -> bool:
    """Tell whether ``key`` belongs to ``split``; one key in five is for testing."""
    is_test = digest("split", key) % _TEST_SHARE == 0
    return split == "all" or is_test == (split == "test")
