"""The course of a search: utility, temperature, moves and violations over its iterations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from icm_fast.files.fields import is_number
from icm_fast.reports.content import (
    Block,
    Columns,
    Figure,
    Lines,
    Paragraph,
    Series,
    Table,
    share,
)

MOST_LINES = 6
"""Lines that can be told apart in one figure."""

_MOST_BINS = 30
_MOST_REFUSED = 40
_MARKED = 20
"""Points of a line up to which each gets a mark."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of a search, as far as its line in events.jsonl tells.

    Attributes:
        iteration: Step of the search.
        move: Kind of the proposal.
        accepted: Whether it was accepted.
        chain: The chain, from 0.
        utility: U of the labels after it.
        proposed: U of the proposal.
        temperature: Temperature at that iteration.
        n_violations: Violated constraints of the labels after it.
        n_asks: Labellings whose scores were needed so far, by this chain.
    """

    iteration: int
    move: str
    accepted: bool
    chain: int
    utility: float | None
    proposed: float | None
    temperature: float | None
    n_violations: int | None
    n_asks: int | None


def read_steps(events: Iterable[Mapping[str, object]]) -> tuple[Step, ...]:
    """The decisions of a search; what is not a number where one belongs is left out."""
    return tuple(
        Step(
            iteration=int(_number(event, "iteration") or 0),
            move=str(event.get("move")),
            accepted=bool(event.get("accepted")),
            chain=int(_number(event, "chain") or 0),
            utility=_number(event, "utility_after"),
            proposed=_number(event, "utility_candidate"),
            temperature=_number(event, "temperature"),
            n_violations=_count(event, "n_violations"),
            n_asks=_count(event, "n_asks"),
        )
        for event in events
    )


def _number(event: Mapping[str, object], key: str) -> float | None:
    value = event.get(key)
    return float(value) if is_number(value) else None


def _count(event: Mapping[str, object], key: str) -> int | None:
    value = _number(event, key)
    return None if value is None else int(value)


def course_blocks(steps: Sequence[Step]) -> tuple[Block, ...]:
    """U, temperature and moves over the iterations, and a table of the kinds of moves."""
    moves = [step for step in steps if step.move != "done"]
    figures: list[Figure | None] = [_utility_figure(moves), _temperature_figure(moves)]
    tried = [step for step in moves if step.move != "init"]
    if tried:
        figures.append(_moves_figure(tried))
    found: list[Figure] = [figure for figure in figures if figure is not None]
    if not found:
        return (Paragraph("The search recorded no moves."),)
    return (*found, _moves_table(moves))


def violations_blocks(steps: Sequence[Step], *, constrained: bool) -> tuple[Block, ...]:
    """Violated constraints over the iterations; nothing where there are no constraints.

    Args:
        steps: The decisions.
        constrained: Whether rows share groups, which is where constraints come from.
    """
    counts = [step.n_violations for step in steps if step.n_violations is not None]
    if not any(counts):
        told = Paragraph("No constraint was violated at any step of the search.")
        return (told,) if constrained else ()
    last = counts[-1]
    told = Paragraph(
        f"{last:,} constraints are violated by the labels; the concerns say what to do."
        if last
        else "The labels violate no constraint."
    )
    figure = Lines(
        "violations",
        "Violated constraints",
        f"Violated constraints of the present labels over the iterations; {last:,} at the end.",
        "iteration",
        "violations",
        by_chain(steps, "violations", lambda step: step.n_violations),
    )
    return (told, figure)


def by_chain(
    steps: Iterable[Step], name: str, value: Callable[[Step], float | None]
) -> tuple[Series, ...]:
    """A number of the steps over the iterations, a line for each of the first chains."""
    chains: dict[int, list[tuple[float, float]]] = {}
    for step in steps:
        y = value(step)
        if y is not None:
            chains.setdefault(step.chain, []).append((float(step.iteration), float(y)))
    return tuple(
        Series(f"chain {k + 1}" if len(chains) > 1 else name, tuple(points), len(points) <= _MARKED)
        for k, points in sorted(chains.items())[:MOST_LINES]
    )


def _utility_figure(moves: Sequence[Step]) -> Lines | None:
    lines = by_chain(moves, "present labels", lambda step: step.utility)
    values = [y for line in lines for _, y in line.points]
    if not values:
        return None
    if len(lines) == 1:
        # Far below, they would flatten the line that matters.
        lowest = min(values) - 0.5 * (max(values) - min(values))
        refused = tuple(
            (float(step.iteration), step.proposed)
            for step in moves
            if not step.accepted and step.proposed is not None and step.proposed >= lowest
        )
        if 0 < len(refused) <= _MOST_REFUSED:
            lines = (*lines, Series("rejected proposals", refused, markers=True, joined=False))
    return Lines(
        "utility",
        "Utility U of the labels",
        f"U of the present labels over the iterations, from {values[0]:.2f} to {values[-1]:.2f}.",
        "iteration",
        "U",
        lines,
    )


def _temperature_figure(moves: Sequence[Step]) -> Lines | None:
    lines = by_chain(moves, "temperature", lambda step: step.temperature)
    if not lines:
        return None
    (_, first), (_, last) = lines[0].points[0], lines[0].points[-1]
    return Lines(
        "temperature",
        "Temperature",
        f"Temperature over the iterations, from {first:.3g} to {last:.3g}. The lower it is, the "
        "fewer proposals that lower U are accepted.",
        "iteration",
        "temperature",
        lines,
    )


def _moves_figure(moves: Sequence[Step]) -> Columns:
    last = max(0, *(step.iteration for step in moves))
    size = max(1, -(-(last + 1) // _MOST_BINS))
    n_bins = last // size + 1
    counts = {True: [0.0] * n_bins, False: [0.0] * n_bins}
    for step in moves:
        counts[step.accepted][max(0, step.iteration) // size] += 1
    n_accepted = int(sum(counts[True]))
    return Columns(
        "moves",
        "Accepted and rejected moves",
        f"Moves over the iterations: {n_accepted:,} of {len(moves):,} were accepted.",
        "iteration",
        "moves",
        tuple(float(k * size) for k in range(n_bins + 1)),
        (("accepted", tuple(counts[True])), ("rejected", tuple(counts[False]))),
    )


def _moves_table(moves: Sequence[Step]) -> Table:
    tried = Counter(step.move for step in moves)
    accepted = Counter(step.move for step in moves if step.accepted)
    rows = tuple(
        (name, f"{n:,}", f"{accepted[name]:,}", share(accepted[name], n))
        for name, n in tried.items()
    )
    columns = ("move", "tried", "accepted", "share")
    return Table("Moves by kind", columns, rows, frozenset((1, 2, 3)))
