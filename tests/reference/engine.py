"""The annealing machine in plain Python, as one generator that yields what it asks for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from icm_fast.types import UNLABELLED, IntArray, ScoreArray
from reference.graph import ReferenceGraph
from reference.labeling import Labels, Scores, unlabelled_examples, with_label
from reference.objective import utility
from reference.proposals import (
    Move,
    Proposals,
    State,
    adjusted_scores,
    initial_group_labels,
    initial_labels,
)
from reference.rng import ACCEPT, FIX_ORDER, FIX_PAIR, ReferenceRng


@dataclass(frozen=True, slots=True)
class ReferenceAsk:
    """A labelling ``[n]`` int32 to score; below ``threshold`` it will be rejected."""

    labels: IntArray
    threshold: float


FORCED = frozenset({"grow", "restart"})
"""Moves that are taken whatever their utility."""

MOST_IDLE = 100_000
"""Moves in a row that neither ask nor change anything, after which a search is over."""


def _changes(before: Labels, after: Labels) -> list[tuple[int, int, int]]:
    pairs = enumerate(zip(before, after, strict=True))
    return [(i, old, new) for i, (old, new) in pairs if old != new]


class _GivenUpError(Exception):
    """The budget is spent in the middle of a fix, which got as far as these labels."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels


class _BudgetSpent(Exception):  # noqa: N818  # it ends the search, it is no error
    pass


_Search = Generator[ReferenceAsk, ScoreArray, Any]


class ReferenceEngine:
    """Simulated annealing with the protocol of ``_core.Engine``, written as one generator.

    Args:
        n_examples: Number of examples.
        n_labels: Number of labels.
        pairs: Constrained examples, ``[m, 2]`` int32.
        tables: Allowed label pairs, ``[m, n_labels, n_labels]`` uint8.
        settings: Those of :func:`icm_fast.engine.native.engine_settings`.
    """

    def __init__(
        self,
        n_examples: int,
        n_labels: int,
        pairs: npt.NDArray[np.int32],
        tables: npt.NDArray[np.uint8],
        **settings: Any,
    ) -> None:
        self._n = n_examples
        self._n_labels = n_labels
        self._graph = ReferenceGraph(pairs, tables)
        if settings["max_iterations"] == -1:
            settings["max_iterations"] = n_examples
        self._settings = SimpleNamespace(**settings)
        self._rng = ReferenceRng(settings["seed"])
        self._fixed: Labels = tuple(settings["fixed_labels"]) or (UNLABELLED,) * n_examples
        self._prior: Scores | None = None
        self._visited: set[Labels] = set()
        self._n_evaluations = 0
        zeros = [[0.0] * n_labels for _ in range(n_examples)]
        self._set_state(State((UNLABELLED,) * n_examples, zeros, 0.0))
        self._best = self._state
        self._events: list[dict[str, Any]] = []
        self.iteration = self.n_asks = self.n_accepted = self._null_draws = 0
        self._n_idle = 0  # moves in a row that asked nothing and changed nothing
        self._n_unlabelled_draws = self._n_restarts = self._n_acceptances = 0
        self.reason = self._ending = ""
        self._search = self._run()
        self._pending: ReferenceAsk | None = next(self._search)

    # ---- Protocol ----

    def ask(self) -> ReferenceAsk | None:
        """Return what to score next, the same until it is told; None when the search is over."""
        return self._pending

    def tell(self, scores: ScoreArray) -> None:
        """Answer the ask with LOO log-probabilities ``[n, n_labels]`` float32.

        Raises:
            ValueError: If the shape is wrong, a score is not finite, or nothing was asked.
        """
        if self._pending is None:
            raise ValueError("tell() without an ask: the search is over")
        if scores.shape != (self._n, self._n_labels) or not np.isfinite(scores).all():
            raise ValueError(f"scores must be finite and [{self._n}, {self._n_labels}]")
        self._n_idle = 0
        try:
            self._pending = self._search.send(scores)
        except StopIteration:
            self._pending = None

    def take_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call, as ``_core.Engine.take_events`` does."""
        events, self._events = self._events, []
        return events

    @property
    def temperature(self) -> float:
        """T = max(T_min, T_0 / (1 + beta log count))."""
        s = self._settings
        count = {
            "iterations": max(1, self.iteration),
            "accepted": 1 + self.n_accepted,
            "acceptances": 1 + self._n_acceptances,
        }[s.cooling_clock]
        return float(
            max(s.min_temperature, s.initial_temperature / (1.0 + s.cooling * math.log(count)))
        )

    @property
    def done(self) -> bool:
        """Whether the search is over."""
        return self._pending is None

    @property
    def labels(self) -> IntArray:
        """Labels ``[n]`` of the current state."""
        return np.array(self._state.labels, dtype=np.int32)

    @property
    def scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the current state; zeros before the first."""
        return np.array(self._state.scores, dtype=np.float32)

    @property
    def utility(self) -> float:
        """Utility of the current state."""
        return self._state.utility

    @property
    def n_labelled(self) -> int:
        """Labelled examples of the current state."""
        return self._state.n_labelled

    @property
    def _result(self) -> State:
        return self._best if self._settings.return_best else self._state

    @property
    def result_labels(self) -> IntArray:
        """Labels ``[n]`` of the best state (with ``return_best``) or of the current one."""
        return np.array(self._result.labels, dtype=np.int32)

    @property
    def result_scores(self) -> ScoreArray:
        """Scores ``[n, n_labels]`` of the same state."""
        return np.array(self._result.scores, dtype=np.float32)

    @property
    def result_utility(self) -> float:
        """Utility of the same state."""
        return self._result.utility

    # ---- The search ----

    def _run(self) -> _Search:
        labels = yield from self._initial_labels()
        try:
            yield from self._perform(Move("init", labels))
            while not self._ending:
                move = self._next_move()
                if move is not None:
                    yield from self._perform(move)
        except _BudgetSpent:
            self._ending = "max_evaluations"
        self.reason = self._ending
        self._log("done", [], self._state.utility, self._state.utility, None, False)
        self._events[-1]["reason"] = self.reason

    def _initial_labels(self) -> _Search:
        s = self._settings
        if s.start == "zero-shot" or s.prior_weight > 0:
            table = yield ReferenceAsk(np.array(self._fixed, dtype=np.int32), -math.inf)
            scores = [[float(x) for x in row] for row in table]
            self._prior = adjusted_scores(
                State(self._fixed, scores, 0.0), s.objective, s.label_shares, self._fixed
            )
            self.n_asks += 1
        if s.start == "zero-shot":
            assert self._prior is not None
            free = unlabelled_examples(self._fixed)
            return self._graph.assign_jointly(self._fixed, free, self._prior)
        if s.initial_labels:
            pairs = zip(s.initial_labels, self._fixed, strict=True)
            return tuple(given if known == UNLABELLED else known for given, known in pairs)
        if s.initial_groups:
            return initial_group_labels(
                self._graph, self._fixed, self._n_labels, s.n_initial, self._rng
            )
        return initial_labels(self._fixed, self._n_labels, s.n_initial, self._rng)

    def _perform(self, move: Move) -> _Search:
        known = {self._state.labels: self._state} if move.kind != "init" else {}
        if move.kind in ("init", "single", "fix"):
            forced = self._settings.fix_forced and move.kind == "single"
            try:
                move.labels = yield from self._consistency_fix(move.labels, known, forced)
            except _GivenUpError as given_up:
                # A move ends here, but an initial state there must be, fixed or not.
                if move.kind != "init":
                    raise _BudgetSpent from given_up
                move.labels = given_up.labels
        threshold = self._draw_threshold(move)
        candidate = yield from self._evaluate(move.labels, threshold, known)
        self._decide(move, candidate, threshold)

    def _evaluate(self, labels: Labels, threshold: float, known: dict[Labels, State]) -> _Search:
        if labels not in known:
            if 0 < self._settings.max_evaluations <= self._n_evaluations:
                raise _BudgetSpent
            table = yield ReferenceAsk(np.array(labels, dtype=np.int32), threshold)
            scores = [[float(s) for s in row] for row in table]
            s = self._settings
            value = utility(
                labels,
                scores,
                self._graph,
                s.objective,
                s.alpha,
                s.violation_weight,
                self._fixed,
            )
            known[labels] = State(labels, scores, value)
            self.n_asks += 1
            self._n_evaluations += 1
        return known[labels]

    def _consistency_fix(self, labels: Labels, known: dict[Labels, State], forced: bool) -> _Search:
        """Algorithm 2, or with ``fix_pairs`` all the authors' rendering of it.

        ``forced``: the first repair is taken whatever it costs.
        """
        draws = itertools.count()
        for fix_round in range(self._settings.fix_rounds):
            violated = self._graph.violated(labels)
            if not violated:
                break
            before = labels
            for pair in self._pairs_of_round(violated, fix_round, draws):
                try:
                    repaired = yield from self._fix_pair(labels, pair, known, forced)
                except _BudgetSpent as spent:
                    raise _GivenUpError(labels) from spent
                if repaired is not None:
                    labels, forced = repaired, False
                    break
            if labels == before and self._settings.fix_pairs == "all":
                break
        return labels

    def _pairs_of_round(
        self, violated: list[int], fix_round: int, draws: Iterator[int]
    ) -> list[int]:
        if self._settings.fix_pairs == "one":
            draw = self._rng.bounded(FIX_PAIR, self.iteration, fix_round, len(violated))
            return [violated[draw]]
        rest, order = list(violated), []
        while len(rest) > 1:
            draw = self._rng.bounded(FIX_ORDER, self.iteration, next(draws), len(rest))
            rest[-1], rest[draw] = rest[draw], rest[-1]
            order.append(rest.pop())
        return order + rest

    def _fix_pair(
        self, labels: Labels, pair: int, known: dict[Labels, State], forced: bool
    ) -> _Search:
        """The labels with the pair's best option, or None if it does not help."""
        least = -math.inf
        if not forced:
            current = yield from self._evaluate(labels, -math.inf, known)
            least = current.utility
        best: State | None = None
        for option in self._fix_options(labels, pair):
            # Below this an option changes nothing, whatever its utility is.
            needed = least if best is None else max(least, best.utility)
            state = yield from self._evaluate(option, needed, known)
            if best is None or state.utility > best.utility:
                best = state
        if best is None:
            return None
        ties = self._settings.fix_accepts_ties and best.utility == least
        return best.labels if best.utility > least or ties else None

    def _fix_options(self, labels: Labels, pair: int) -> list[Labels]:
        first, second, table = self._graph.constraints[pair]
        every = itertools.product(range(self._n_labels), repeat=2)
        choices = [
            (a, b)
            for a, b in every
            if table[a][b]
            and self._fixed[first] in (UNLABELLED, a)
            and self._fixed[second] in (UNLABELLED, b)
        ]
        options = [with_label(with_label(labels, first, a), second, b) for a, b in choices]
        if self._settings.fix_options == "one-label":
            close = [option for option in options if len(_changes(labels, option)) == 1]
            if close:
                small, large = sorted((first, second))
                return sorted(close, key=lambda option: (option[small], option[large]))
        if not self._settings.fix_both_false and len(choices) > 1:
            return [o for o, choice in zip(options, choices, strict=True) if choice != (0, 0)]
        return options

    def _draw_threshold(self, move: Move) -> float:
        u = self._rng.uniform(ACCEPT, self.iteration, 0)
        if move.kind in {"init", *FORCED} or u == 0.0:
            return -math.inf
        return min(self._state.utility, self._state.utility + self.temperature * math.log(u))

    def _decide(self, move: Move, candidate: State, threshold: float) -> None:
        before = self._state
        accepted = candidate.utility >= threshold
        changes = _changes(before.labels, candidate.labels)
        temperature = self.temperature
        self._n_acceptances += accepted and move.kind != "init"
        if accepted and changes:
            self.n_accepted += move.kind != "init"
            self._set_state(candidate)
            best = self._best
            if (candidate.n_labelled, candidate.utility) > (best.n_labelled, best.utility):
                self._best = candidate
            self._n_idle = 0
        else:
            self._proposals.tried.remember(move)
            self._n_idle += 1
        limit = None if threshold == -math.inf else threshold
        self._log(move.kind, changes, before.utility, candidate.utility, limit, accepted)
        self._events[-1]["temperature"] = temperature

    def _next_move(self) -> Move | None:
        s = self._settings
        spent = 0 < s.max_evaluations <= self._n_evaluations
        may_restart = self._n_restarts < s.restarts
        may_restart = may_restart and self.iteration < s.max_iterations and not spent
        if self._proposals.converged() or self._n_idle >= MOST_IDLE:
            return self._restart() if may_restart else self._end("converged")
        if self.iteration >= s.max_iterations:
            return self._end("max_iterations")
        if spent:
            return self._end("max_evaluations")
        if not {"sweep", "group", "grow"} & set(s.moves):
            return self._drawn_move()
        move = self._proposals.next_move(self.iteration + 1)
        if move is None:
            return self._restart() if may_restart else self._end("settled")
        self.iteration += 1
        return move

    def _end(self, reason: str) -> Move | None:
        self._ending = reason
        return None

    def _restart(self) -> Move:
        self._n_restarts += 1
        self.iteration += 1
        return self._proposals.restart(self._best.labels, self.iteration)

    def _drawn_move(self) -> Move | None:
        example, null_draws = self._proposals.drawn(self.iteration + 1, self._n_unlabelled_draws)
        rest = self._settings.max_iterations - self.iteration
        null_draws = min(null_draws, rest)
        self.iteration += null_draws
        self._null_draws += null_draws
        if null_draws == rest:
            return None
        self.iteration += 1
        self._n_unlabelled_draws += self._state.labels[example] == UNLABELLED
        return self._proposals.single(example)

    def _set_state(self, state: State) -> None:
        self._state = state
        self._visited.add(state.labels)
        self._proposals = Proposals(
            self._settings, self._graph, self._rng, state, self._prior, self._visited, self._fixed
        )

    def _log(
        self,
        move: str,
        changes: list[tuple[int, int, int]],
        before: float,
        candidate: float,
        threshold: float | None,
        accepted: bool,
    ) -> None:
        self._events.append(
            {
                "iteration": self.iteration,
                "move": move,
                "temperature": self.temperature,
                "changes": changes,
                "utility_before": before,
                "utility_candidate": candidate,
                "utility_after": self._state.utility,
                "threshold": threshold,
                "accepted": accepted,
                "forced": move in FORCED,
                "n_labelled": self.n_labelled,
                "n_violations": self._proposals.violations,
                "n_asks": self.n_asks,
                "null_draws": self._null_draws,
            }
        )
        self._null_draws = 0
