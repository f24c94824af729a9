"""What a running search shows: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


@dataclass(frozen=True, slots=True)
class SearchState:
    """A snapshot of a search between two evaluations.

    Attributes:
        utility: U(D) of the current state.
        temperature: Current temperature of the schedule.
        iteration: Search steps so far, null draws included.
        n_examples: Examples in the data set.
        n_labelled: Examples that carry a label.
        n_accepted: Accepted proposals.
        n_evaluations: Distinct labellings scored, earlier parts of a resumed run included.
        n_scored_now: Labellings scored by this process.
        max_evaluations: Bound of evaluations; 0 for none.
    """

    utility: float
    temperature: float
    iteration: int
    n_examples: int
    n_labelled: int
    n_accepted: int
    n_evaluations: int
    n_scored_now: int
    max_evaluations: int = 0


class ProgressReporter(Protocol):
    """Receives the state of a search after every evaluation."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing."""

    def update(self, state: SearchState) -> None:
        """Show ``state``."""

    def warn(self, text: str) -> None:
        """Show a warning that stays."""


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, state: SearchState) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing: the result names the same concern."""


class TerminalProgress:
    """A rich progress bar on stderr: labelled, utility, temperature, accepted, time left."""

    def __init__(self, console: Any = None) -> None:
        self._bar = _make_bar(console)
        self._task = self._bar.add_task("search", total=None, detail="loading the model", left="")
        self._started = time.monotonic()
        self._first_labelled: int | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, state: SearchState) -> None:
        """Draw ``state``."""
        if self._first_labelled is None:
            self._first_labelled = state.n_labelled
        elapsed = time.monotonic() - self._started
        left = seconds_left(state, elapsed, self._first_labelled)
        self._bar.update(
            self._task,
            total=state.n_examples,
            completed=state.n_labelled,
            detail=describe(state),
            left="settling" if left is None else f"~{clock(left)} left",
            refresh=True,
        )

    def warn(self, text: str) -> None:
        """Print ``text`` above the bar."""
        self._bar.console.print(f"warning: {text}", markup=False, highlight=False)


def make_progress() -> ProgressReporter:
    """The terminal bar when stderr is a terminal, else the quiet one."""
    return TerminalProgress() if sys.stderr.isatty() else Quiet()


def describe(state: SearchState) -> str:
    """One line of figures of ``state``."""
    return (
        f"U {state.utility:.3f}  T {state.temperature:.3f}  labelled {state.n_labelled}/"
        f"{state.n_examples}  accepted {state.n_accepted}  scored {state.n_evaluations}"
    )


def seconds_left(state: SearchState, elapsed: float, first_labelled: int) -> float | None:
    """Estimate of the seconds that a search still takes; None where nothing bounds it.

    With a bound of evaluations their pace decides; while examples are unlabelled, the
    pace at which labels were added; afterwards the search ends when no move helps.
    """
    if state.max_evaluations and state.n_scored_now:
        pace = elapsed / state.n_scored_now
        return max(0, state.max_evaluations - state.n_evaluations) * pace
    added = state.n_labelled - first_labelled
    if added > 0 and state.n_labelled < state.n_examples:
        return elapsed * (state.n_examples - state.n_labelled) / added
    return None


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes, for people."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


def _make_bar(console: Any) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console or Console(stderr=True),
        transient=True,
    )
