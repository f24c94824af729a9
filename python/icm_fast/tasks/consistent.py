"""Labels that keep the rules: for rows that rules join, the most probable ones that do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from icm_fast.tasks.constraints import connected_rows
from icm_fast.types import Constraint, IntArray

MOST_STEPS = 200_000
"""Partial labellings that are looked at for one set of rows before the best so far is taken."""


def consistent_labels(
    probabilities: npt.NDArray[np.float32],
    labels: IntArray,
    fixed: npt.NDArray[np.bool_],
    constraints: Sequence[Constraint],
) -> IntArray:
    """The labels, changed where rules forbid them.

    Args:
        probabilities: ``[rows, n_labels]``.
        labels: ``[rows]`` the labels without rules.
        fixed: ``[rows]`` bool, rows whose label may not change.
        constraints: Pairs of rows with the labels that they may have together. Where fixed labels
            leave no way to keep all of them, the labels stay as they are.
    """
    if not constraints:
        return labels
    changed = labels.copy()
    by_leader: dict[int, list[Constraint]] = {}
    leaders = connected_rows(len(labels), [(c.first, c.second) for c in constraints])
    for constraint in constraints:
        by_leader.setdefault(leaders[constraint.first], []).append(constraint)
    for members in by_leader.values():
        if all(c.allowed[changed[c.first]][changed[c.second]] for c in members):
            continue
        rows = sorted({row for c in members for row in (c.first, c.second)})
        best = _Search(rows, probabilities, labels, fixed, members).best()
        if best is not None:
            changed[rows] = best
    return changed


class _Search:
    """Depth first over the rows, surest first, with the most probable labels first."""

    def __init__(
        self,
        rows: Sequence[int],
        probabilities: npt.NDArray[np.float32],
        labels: IntArray,
        fixed: npt.NDArray[np.bool_],
        constraints: Sequence[Constraint],
    ) -> None:
        order = sorted(
            rows, key=lambda row: (not fixed[row], -float(probabilities[row].max()), row)
        )
        place = {row: k for k, row in enumerate(order)}
        logs = np.log(np.maximum(probabilities[order].astype(np.float64), 1e-12))
        self._positions = [place[row] for row in rows]
        self._logs = logs
        self._choices = [
            [int(labels[row])] if fixed[row] else np.argsort(-logs[k], kind="stable").tolist()
            for k, row in enumerate(order)
        ]
        # The most that the rows from each one on can still add.
        top = [float(logs[k, choices[0]]) for k, choices in enumerate(self._choices)]
        self._rest = np.cumsum([0.0, *top[::-1]])[::-1]
        self._earlier: list[list[tuple[int, Constraint, bool]]] = [[] for _ in order]
        for c in constraints:
            first, second = place[c.first], place[c.second]
            later = max(first, second)
            self._earlier[later].append((min(first, second), c, later == second))
        self._best: list[int] | None = None
        self._best_sum = -np.inf
        self._steps = 0

    def best(self) -> list[int] | None:
        """Labels in the order of the rows; None where the rules cannot be kept."""
        self._extend([], 0.0)
        return None if self._best is None else [self._best[k] for k in self._positions]

    def _extend(self, chosen: list[int], total: float) -> None:
        k = len(chosen)
        if total + self._rest[k] <= self._best_sum or self._steps > MOST_STEPS:
            return
        if k == len(self._choices):
            self._best, self._best_sum = list(chosen), total
            return
        for label in self._choices[k]:
            self._steps += 1
            if self._allowed(k, label, chosen):
                self._extend([*chosen, label], total + float(self._logs[k, label]))

    def _allowed(self, k: int, label: int, chosen: Sequence[int]) -> bool:
        return all(
            c.allowed[chosen[other]][label] if is_second else c.allowed[label][chosen[other]]
            for other, c, is_second in self._earlier[k]
        )
