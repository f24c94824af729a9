"""Which move the reference engine tries next: a function of the state and of what was tried."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from icm_fast.types import UNLABELLED
from reference.graph import ReferenceGraph
from reference.labeling import (
    Labels,
    Scores,
    add_up,
    labelled_examples,
    unlabelled_examples,
    with_label,
)
from reference.objective import log_marginal
from reference.rng import (
    DRAW,
    DRAW_UNLABELLED,
    GROW_PICK,
    INIT_GROUP,
    INIT_LABEL,
    INIT_PICK,
    KICK_PICK,
    KICK_SCORE,
    ReferenceRng,
)


@dataclass(frozen=True, slots=True)
class State:
    """A labelling with its scores and utility."""

    labels: Labels
    scores: Scores
    utility: float

    @property
    def n_labelled(self) -> int:
        """Number of labelled examples."""
        return len(labelled_examples(self.labels))


@dataclass(slots=True)
class Move:
    """A proposed labelling; ``examples`` belongs to single and group moves."""

    kind: str
    labels: Labels
    examples: tuple[int, ...] = ()


@dataclass(slots=True)
class Tried:
    """What was rejected since the state last changed."""

    kinds: set[str] = field(default_factory=set)
    examples: set[int] = field(default_factory=set)
    n_small: int = 0

    def remember(self, move: Move) -> None:
        """Note a rejected move (or one that changed nothing)."""
        self.kinds.add(move.kind)
        self.examples.update(move.examples)
        self.n_small += bool(move.examples)


class Proposals:
    """Proposals from one state; ``iteration`` arguments are those of the move to come."""

    def __init__(
        self,
        settings: SimpleNamespace,
        graph: ReferenceGraph,
        rng: ReferenceRng,
        state: State,
        prior: Scores | None = None,
        visited: Container[Labels] = (),
        fixed: Sequence[int] = (),
    ) -> None:
        self._settings = settings
        self._graph = graph
        self._rng = rng
        self._state = state
        self._labels = state.labels
        self._visited = visited
        self._fixed = set(labelled_examples(fixed))
        self._adjusted = adjusted_scores(state, settings.objective, settings.label_shares, fixed)
        self.tried = Tried()
        if prior is not None:
            self._adjusted = [
                [s + settings.prior_weight * p for s, p in zip(row, prior_row, strict=True)]
                for row, prior_row in zip(self._adjusted, prior, strict=True)
            ]

    @property
    def violations(self) -> int:
        """I(D) of the state."""
        return len(self._graph.violated(self._labels))

    def converged(self) -> bool:
        """Whether no proposal would change anything."""
        open_work = self._disagreeing() or unlabelled_examples(self._labels)
        return not (open_work or self._draws_fix())

    def next_move(self, iteration: int) -> Move | None:
        """Return the next of sweep, group, single, grow and fix; None if none is left."""
        return (
            self._sweep()
            or self._group()
            or self._disagreeing_single()
            or self._grow(iteration)
            or self._unlabelled_single(iteration)
            or self._fix()
        )

    def drawn(self, iteration: int, n_unlabelled_draws: int) -> tuple[int, int]:
        """Return the paper's next draw that proposes a change, and how many come before it.

        Each draw takes an example by its weight. One that proposes what is there changes nothing,
        so the number of those before a real one is geometric.
        """
        weights = self._weights(self._labels)
        unlabelled = sum(weights[i] for i in unlabelled_examples(self._labels))
        changing = self._disagreeing()
        if self._draws_fix():
            changing = self._changeable(self._labels)
        real, null_draws = unlabelled + len(changing), 0
        if real < sum(weights):
            u = self._rng.uniform(DRAW, iteration, 0)
            null_draws = math.floor(math.log1p(-u) / math.log1p(-real / sum(weights)))
        if self._rng.bounded(DRAW, iteration, 1, real) < unlabelled:
            example = self.next_unlabelled(self._labels, n_unlabelled_draws)
            assert example is not None
        else:
            example = changing[self._rng.bounded(DRAW, iteration, 2, len(changing))]
        return example, min(null_draws, 2**52)

    def _draws_fix(self) -> bool:
        """Whether there is a violation to fix, and a draw of any labelled example tries to."""
        large = {"sweep", "group", "grow"} & set(self._settings.moves)
        return self.violations > 0 and (bool(large) or not self._settings.quiet_null_draws)

    def next_unlabelled(self, labels: Labels, n_drawn: int) -> int | None:
        """Return the unlabelled example that is drawn after ``n_drawn`` others."""
        open_weights = [
            weight if label == UNLABELLED else 0
            for weight, label in zip(self._weights(labels), labels, strict=True)
        ]
        if not any(open_weights):
            return None
        return self._rng.weighted(open_weights, DRAW_UNLABELLED, n_drawn, 0)

    def single(self, example: int) -> Move:
        """Give an example the label that it prefers."""
        labels = with_label(self._labels, example, self._favourite(example))
        return Move("single", labels, (example,))

    def restart(self, best: Labels, iteration: int) -> Move:
        """Relabel a share of the best labelling's constraint components at random."""
        components = self._graph.components(self._changeable(best))
        wanted = self._settings.kick * len(self._changeable(best))
        members: list[int] = []
        for k in range(len(components)):
            if len(members) >= wanted:
                break
            j = k + self._rng.bounded(KICK_PICK, iteration, k, len(components) - k)
            components[k], components[j] = components[j], components[k]
            members += components[k]
        n_labels = len(self._adjusted[0])
        random = [
            [self._rng.uniform(KICK_SCORE, iteration, i * n_labels + y) for y in range(n_labels)]
            for i in range(len(best))
        ]
        return Move("restart", self._graph.assign_jointly(best, sorted(members), random))

    def _favourite(self, example: int) -> int:
        row = self._adjusted[example]
        return row.index(max(row))

    def _disagreeing(self) -> list[int]:
        return [i for i in self._changeable(self._labels) if self._labels[i] != self._favourite(i)]

    def _changeable(self, labels: Labels) -> list[int]:
        """Labelled examples whose label is not fixed."""
        return [i for i in labelled_examples(labels) if i not in self._fixed]

    def _untried(self, examples: list[int]) -> list[int]:
        return [i for i in examples if i not in self.tried.examples]

    def _weights(self, labels: Labels) -> list[int]:
        """Weights of draws; a fixed example is never drawn."""
        members = set(labelled_examples(labels))
        weights = [
            int(self._settings.group_weight)
            if i not in members and self._graph.neighbours(i) & members
            else 1
            for i in range(len(labels))
        ]
        return [0 if i in self._fixed else weight for i, weight in enumerate(weights)]

    def _sweep(self) -> Move | None:
        wrong = set(self._disagreeing())
        if "sweep" not in self._settings.moves or "sweep" in self.tried.kinds or not wrong:
            return None
        components = self._graph.components(self._changeable(self._labels))
        members = [i for component in components if wrong & set(component) for i in component]
        move = Move("sweep", self._graph.assign_jointly(self._labels, members, self._adjusted))
        if move.labels in self._visited:
            self.tried.remember(move)
            return None
        return move

    def _disagreeing_single(self) -> Move | None:
        untried = [
            i
            for i in self._untried(self._disagreeing())
            if with_label(self._labels, i, self._favourite(i)) not in self._visited
        ]
        if "single" not in self._settings.moves or not untried:
            return None
        if self.tried.n_small >= self._settings.single_tries:
            return None
        return self.single(max(untried, key=self._gain))

    def _group(self) -> Move | None:
        if "group" not in self._settings.moves:
            return None
        if self.tried.n_small >= self._settings.single_tries:
            return None
        moves = []
        for component in self._graph.components(self._changeable(self._labels)):
            if set(component) & set(self._untried(self._disagreeing())):
                labels = self._graph.assign_jointly(self._labels, component, self._adjusted)
                if labels != self._labels and labels not in self._visited:
                    moves.append(Move("group", labels, tuple(component)))
        return max(moves, key=lambda move: self._gain_of(move.labels), default=None)

    def _gain_of(self, labels: Labels) -> float:
        differences = [
            row[after] - row[before]
            for row, before, after in zip(self._adjusted, self._labels, labels, strict=True)
            if before != after
        ]
        return add_up(differences)

    def _gain(self, example: int) -> float:
        row = self._adjusted[example]
        return row[self._favourite(example)] - row[self._labels[example]]

    def _unlabelled_single(self, iteration: int) -> Move | None:
        moves = self._settings.moves
        untried = self._untried(unlabelled_examples(self._labels))
        if "single" not in moves or "grow" in moves or not untried:
            return None
        weights = [w * (i in untried) for i, w in enumerate(self._weights(self._labels))]
        return self.single(self._rng.weighted(weights, DRAW, iteration, 0))

    def _grow(self, iteration: int) -> Move | None:
        rest = len(unlabelled_examples(self._labels))
        if "grow" not in self._settings.moves or not rest:
            return None
        share = math.floor(self._settings.growth * self._state.n_labelled + 0.5)
        size = min(rest, max(1, share))
        members = self._pick_growth(size, iteration)
        labels = self._graph.assign_jointly(self._labels, members, self._adjusted)
        return Move("grow", labels)

    def _pick_growth(self, size: int, iteration: int) -> list[int]:
        marked = self._labels
        picked = []
        for k in range(size):
            weights = [w * (marked[i] == UNLABELLED) for i, w in enumerate(self._weights(marked))]
            picked.append(self._rng.weighted(weights, GROW_PICK, iteration, k))
            marked = with_label(marked, picked[-1], 0)
        return picked

    def _fix(self) -> Move | None:
        possible = self.violations > 0 and self._settings.fix_rounds > 0
        if not possible or "fix" in self.tried.kinds:
            return None
        return Move("fix", self._labels)


def initial_labels(labels: Labels, n_labels: int, n_initial: int, rng: ReferenceRng) -> Labels:
    """Return the labels, with balanced random ones for some of the examples that had none."""
    order = unlabelled_examples(labels)
    count = min(n_initial, len(order))
    for k in range(count):
        j = k + rng.bounded(INIT_PICK, 0, k, len(order) - k)
        order[k], order[j] = order[j], order[k]
    return _label_balanced(order[:count], labels, n_labels, rng)


def initial_group_labels(
    graph: ReferenceGraph, labels: Labels, n_labels: int, n_initial: int, rng: ReferenceRng
) -> Labels:
    """The same for whole constraint components in random order, cut after ``n_initial``."""
    groups = graph.components(unlabelled_examples(labels))
    chosen: list[int] = []
    for k in range(len(groups)):
        j = k + rng.bounded(INIT_GROUP, 0, k, len(groups) - k)
        groups[k], groups[j] = groups[j], groups[k]
        chosen += groups[k]
    return _label_balanced(chosen[:n_initial], labels, n_labels, rng)


def _label_balanced(chosen: list[int], labels: Labels, n_labels: int, rng: ReferenceRng) -> Labels:
    balanced = [k % n_labels for k in range(len(chosen))]
    for k in range(len(chosen) - 1, 0, -1):
        j = rng.bounded(INIT_LABEL, 0, k, k + 1)
        balanced[k], balanced[j] = balanced[j], balanced[k]
    new = dict(zip(chosen, balanced, strict=True))
    return tuple(new.get(i, label) for i, label in enumerate(labels))


def adjusted_scores(
    state: State, objective: str, shares: Sequence[float] = (), fixed: Sequence[int] = ()
) -> Scores:
    """What proposals compare: the scores, calibrated for the calibrated objective."""
    if objective != "calibrated":
        return state.scores
    extra = [math.log(share) for share in shares] or [0.0] * len(state.scores[0])
    return [[s + e for s, e in zip(row, extra, strict=True)] for row in _calibrated(state, fixed)]


def _calibrated(state: State, fixed: Sequence[int]) -> list[list[float]]:
    """Log p - log q, with q over the labelled examples for those, over all for the others.

    Fixed examples count in neither, and their own rows are never looked at.
    """
    known = set(labelled_examples(fixed))
    free = [i for i in range(len(state.labels)) if i not in known]
    labelled = log_marginal([i for i in free if state.labels[i] != UNLABELLED], state.scores)
    everything = log_marginal(free, state.scores)
    return [
        [s - q for s, q in zip(row, everything if label < 0 else labelled, strict=True)]
        for label, row in zip(state.labels, state.scores, strict=True)
    ]
