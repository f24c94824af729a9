"""Texts that occur more than once, whatever their blanks and Unicode forms."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from icm_fast.errors import shown
from icm_fast.tasks.constraints import connected_rows
from icm_fast.types import Example


def same_text(text: str) -> str:
    """What equal texts have in common: their NFC form with every run of blanks as one."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def duplicates(examples: Sequence[Example]) -> list[list[int]]:
    """Positions of the examples of each prompt that occurs more than once."""
    rows: dict[str, list[int]] = {}
    for position, example in enumerate(examples):
        rows.setdefault(same_text(example.prompt), []).append(position)
    return [found for found in rows.values() if len(found) > 1]


def duplicates_text(examples: Sequence[Example]) -> str | None:
    """A sentence about the duplicates; None if there are none."""
    found = duplicates(examples)
    if not found:
        return None
    one, other = (examples[k].id for k in found[0][:2])
    return (
        f"{sum(map(len, found))} of {len(examples)} prompts occur more than once (such as "
        f"{shown(one)} and {shown(other)}): a copy in the context gives an example's label "
        "away; remove the "
        "copies"
    )


def merge_equal_texts(examples: Sequence[Example]) -> list[Example]:
    """Put examples of equal prompts, with the groups they are in, into one group.

    Examples of the same id or group belong together from the start. Where nothing is merged, an
    example stays as it is.
    """
    nodes = [("id", e.id) if e.group is None else ("group", e.group) for e in examples]
    first_of_node: dict[tuple[str, str], int] = {}
    first_of_text: dict[str, int] = {}
    pairs = []
    for position, (node, example) in enumerate(zip(nodes, examples, strict=True)):
        pairs.append((first_of_node.setdefault(node, position), position))
        pairs.append((first_of_text.setdefault(same_text(example.prompt), position), position))
    leaders = connected_rows(len(examples), pairs)
    parts: dict[int, set[tuple[str, str]]] = {}
    for leader, node in zip(leaders, nodes, strict=True):
        parts.setdefault(leader, set()).add(node)
    return [
        replace(example, group=nodes[leader][1]) if len(parts[leader]) > 1 else example
        for leader, example in zip(leaders, examples, strict=True)
    ]
