"""Constraints of the reference engine, as a plain list that is searched from end to end."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt

from icm_fast.types import UNLABELLED
from reference.labeling import Labels, Scores, add_up

MAX_ASSIGNMENTS = 4096
"""Larger components are labelled greedily."""


class ReferenceGraph:
    """Constraints as a list of (first, second, table)."""

    def __init__(self, pairs: npt.NDArray[Any], tables: npt.NDArray[Any]) -> None:
        self.constraints: list[tuple[int, int, list[list[int]]]] = [
            (int(a), int(b), table.tolist()) for (a, b), table in zip(pairs, tables, strict=True)
        ]

    def violated(self, labels: Sequence[int]) -> list[int]:
        """Return the indices of violated constraints with both ends labelled."""
        return [
            p
            for p, (i, j, table) in enumerate(self.constraints)
            if labels[i] != UNLABELLED
            and labels[j] != UNLABELLED
            and not table[labels[i]][labels[j]]
        ]

    def neighbours(self, example: int) -> set[int]:
        """Return the examples that share a constraint with ``example``."""
        pairs = [(i, j) for i, j, _ in self.constraints if example in (i, j)]
        return {j if i == example else i for i, j in pairs}

    def components(self, members: Iterable[int]) -> list[list[int]]:
        """Return the connected components among ``members``, each in ascending order."""
        rest = set(members)
        found = []
        while rest:
            component = {min(rest)}
            while grown := {j for i in component for j in self.neighbours(i) & rest} - component:
                component |= grown
            rest -= component
            found.append(sorted(component))
        return found

    def assign_jointly(
        self, labels: Sequence[int], members: Iterable[int], adjusted: Scores
    ) -> Labels:
        """Label ``members`` component by component: fewest violations, then the largest sum."""
        members = sorted(members)
        current = [UNLABELLED if i in members else y for i, y in enumerate(labels)]
        for component in self.components(members):
            small = len(adjusted[0]) ** len(component) <= MAX_ASSIGNMENTS
            for part in [component] if small else [[i] for i in component]:
                self._assign(current, part, adjusted)
        return tuple(current)

    def _assign(self, current: list[int], part: list[int], adjusted: Scores) -> None:
        best: tuple[int, float] | None = None
        best_labels: tuple[int, ...] = ()
        for assignment in itertools.product(range(len(adjusted[0])), repeat=len(part)):
            for i, y in zip(part, assignment, strict=True):
                current[i] = y
            total = add_up(adjusted[i][current[i]] for i in part)
            merit = (-len(self.violated(current)), total)
            if best is None or merit > best:
                best, best_labels = merit, assignment
        for i, y in zip(part, best_labels, strict=True):
            current[i] = y
