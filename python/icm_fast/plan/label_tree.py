"""The labels' tokens as a tree, so that shared prefixes are forwarded once."""

from __future__ import annotations

from dataclasses import dataclass

from icm_fast.plan.pieces import TokenizedDataset


@dataclass(frozen=True, slots=True)
class LabelTree:
    """The labels' tokens as a tree: shared prefixes are forwarded once.

    Attributes:
        tail_tokens: Token of each inner node; inner nodes are forwarded after every query.
        tail_parents: Parent of each inner node, -1 for the query itself; parents come first.
        steps: For each label its ``(node, token)`` steps; node -1 is the query.
    """

    tail_tokens: tuple[int, ...]
    tail_parents: tuple[int, ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]

    def path(self, node: int) -> list[int]:
        """Inner nodes from below the query down to ``node``; empty for the query, -1."""
        nodes: list[int] = []
        while node >= 0:
            nodes.append(node)
            node = self.tail_parents[node]
        return nodes[::-1]

    @property
    def single_token(self) -> bool:
        """Whether every label is a single token, scored right after the query."""
        return not self.tail_tokens


def label_tree(pieces: TokenizedDataset) -> LabelTree:
    """Build the tree; if a label is a prefix of another, all end in the separator's first token."""
    sequences = list(pieces.labels)
    if any(a != b and b[: len(a)] == a for a in sequences for b in sequences):
        sequences = [(*ids, pieces.terminator) for ids in sequences]
    inner = sorted(
        {ids[:k] for ids in sequences for k in range(1, len(ids))}, key=lambda p: (len(p), p)
    )
    number = {prefix: node for node, prefix in enumerate(inner)}
    number[()] = -1
    return LabelTree(
        tail_tokens=tuple(prefix[-1] for prefix in inner),
        tail_parents=tuple(number[prefix[:-1]] for prefix in inner),
        steps=tuple(tuple((number[ids[:k]], ids[k]) for k in range(len(ids))) for ids in sequences),
    )
