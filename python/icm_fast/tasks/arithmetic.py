"""Generated tasks: sums (arithmetic) and comparisons of numbers (larger-than).

The data depend only on the seed and the options; gold is computed.
"""

from __future__ import annotations

from collections.abc import Iterator

from icm_fast.tasks.assembly import CLAIM_ENDING, TaskData, assemble
from icm_fast.tasks.constraints import Asymmetric, Equal, Exclusive
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sampling import count_groups, digest
from icm_fast.types import Example

_SUM_CLAIMS = 4
_OFFSETS = (-10, -3, -2, -1, 1, 2, 3, 10)
_MAX_GROUPS = 100_000


def load_arithmetic(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    n_groups: int | None = None,
    max_operand: int = 99,
) -> TaskData:
    """Generate claims ``a + b = c``: per group three different sums, one right, one repeated.

    The repeated sum has its operands swapped; it is drawn at random, so it reveals nothing.

    Args:
        path: Must be None.
        limit: Maximum number of examples.
        seed: Seed of the numbers and of the draw of groups.
        n_groups: Groups of 4 claims; None makes 64, or as many as fit into ``limit``.
        max_operand: Largest operand; the smallest is 1.
    """
    n_groups = _check("arithmetic", path, limit, n_groups, _SUM_CLAIMS, max_operand)
    examples: list[Example] = []
    gold: list[int] = []
    for group, (a, b) in enumerate(_operands("sums", seed, n_groups, max_operand)):
        for claim, (first, second, total) in enumerate(_sums(seed, a, b)):
            text = f"Claim: {first} + {second} = {total}\n{CLAIM_ENDING}"
            name = f"sum-{group}"
            examples.append(Example(f"{name}-{claim}", text, group=name, answer=str(total)))
            gold.append(int(first + second == total))
    rules = (Exclusive(), Equal())
    return assemble("arithmetic", examples, gold, rules=rules, limit=limit, seed=seed)


def load_larger_than(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    n_groups: int | None = None,
    max_operand: int = 99,
) -> TaskData:
    """Generate claims ``a is larger than b`` in both orders, exactly one of them true.

    Args:
        path: Must be None.
        limit: Maximum number of examples.
        seed: Seed of the numbers and of the draw of groups.
        n_groups: Pairs of claims; None makes 64, or as many as fit into ``limit``.
        max_operand: Largest number; the smallest is 1.
    """
    n_groups = _check("larger-than", path, limit, n_groups, 2, max_operand)
    examples: list[Example] = []
    gold: list[int] = []
    for group, (a, b) in enumerate(_operands("larger", seed, n_groups, max_operand)):
        for claim, (first, second) in enumerate(((a, b), (b, a))):
            text = f"Claim: {first} is larger than {second}\n{CLAIM_ENDING}"
            name = f"larger-{group}"
            answer = f"{first}>{second}"
            examples.append(Example(f"{name}-{claim}", text, group=name, answer=answer))
            gold.append(int(first > second))
    return assemble("larger-than", examples, gold, rules=(Asymmetric(),), limit=limit, seed=seed)


def _check(
    task: str,
    path: PathLike | None,
    limit: int | None,
    n_groups: int | None,
    size: int,
    max_operand: int,
) -> int:
    """Check the options; return the number of groups to generate."""
    pairs = max_operand * (max_operand - 1) // 2
    # Up to a quarter of the pairs, drawing again after a repetition stays cheap.
    maximum = min(_MAX_GROUPS, pairs // 4)
    remedy = f", or raise max_operand = {max_operand}"
    return count_groups(task, path, limit, n_groups, size=size, maximum=maximum, remedy=remedy)


def _operands(task: str, seed: int, n_groups: int, max_operand: int) -> Iterator[tuple[int, int]]:
    """Yield ``n_groups`` pairs of different numbers, no pair twice in either order."""
    seen: set[tuple[int, int]] = set()
    draw = 0
    while len(seen) < n_groups:
        a, b = (digest(task, seed, draw, side) % max_operand + 1 for side in "ab")
        draw += 1
        pair = (min(a, b), max(a, b))
        if a != b and pair not in seen:
            seen.add(pair)
            yield a, b


def _sums(seed: int, a: int, b: int) -> list[tuple[int, int, int]]:
    """Return four claims (a, b, sum) in random order."""
    offsets = sorted(_OFFSETS, key=lambda offset: digest("offset", seed, a, b, offset))
    totals = [a + b, *[a + b + offset for offset in offsets if a + b + offset > 0][:2]]
    repeated = totals[digest("repeated", seed, a, b) % len(totals)]
    claims = [(a, b, total) for total in totals] + [(b, a, repeated)]
    order = sorted(range(len(claims)), key=lambda place: digest("order", seed, a, b, place))
    return [claims[place] for place in order]
