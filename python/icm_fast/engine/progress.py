"""Reporters: a bar on a terminal, plain lines elsewhere, or nothing; and the state of a search."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from icm_fast.distributed import is_main
from icm_fast.errors import InputError, suggest
from icm_fast.files.text import printable
from icm_fast.types import Progress, Reporter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


AUTO = "auto"
KINDS = (AUTO, "rich", "plain", "none")
PLAIN_SECONDS = 30.0
"""Least time between two plain lines about the same work."""


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

    @property
    def done(self) -> int:
        """Evaluations where they are bounded, otherwise labelled examples."""
        return self.n_evaluations if self.max_evaluations else self.n_labelled

    @property
    def total(self) -> int:
        """The bound of evaluations, otherwise the number of examples."""
        return self.max_evaluations or self.n_examples

    def figures(self) -> dict[str, float]:
        """What trackers receive of the state; a resumed search comes to the same."""
        return {
            "utility": self.utility,
            "temperature": self.temperature,
            "iteration": self.iteration,
            "labelled": self.n_labelled,
            "accepted": self.n_accepted,
        }

    def describe(self) -> str:
        """One line of figures."""
        return (
            f"U {self.utility:.3f}  T {self.temperature:.3f}  labelled {self.n_labelled}/"
            f"{self.n_examples}  accepted {self.n_accepted}  scored {self.n_evaluations}"
        )


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing: the result names the same concern."""

    def update(self, progress: Progress) -> None:
        """Do nothing."""


class PlainLines(Quiet):
    """Prints on stderr what is said, and every half minute how far the work is; for logs and pipes.

    Args:
        timed: Begin each line with the minutes and seconds that have passed.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self._stamp = _Stamp(timed)
        self._since_line = Stopwatch()

    def say(self, text: str) -> None:
        """Print ``text``."""
        print(self._stamp(text), file=sys.stderr, flush=True)
        self._since_line = Stopwatch()

    def update(self, progress: Progress) -> None:
        """Print the figures if the last line is old enough."""
        if self._since_line.seconds() >= PLAIN_SECONDS:
            of = "" if progress.total is None else f"{progress.done}/{progress.total}  "
            self.say(f"{of}{progress.describe()}")


@dataclass(slots=True)
class _Job:
    """What one ``with`` block shows."""

    task: TaskID
    watch: Stopwatch
    first_done: int | None = None


class TerminalProgress:
    """A rich progress bar on stderr: figures, time passed, time left.

    A ``with`` block inside another one shows a separate bar below that of the outer one.

    Args:
        console: Where to draw; stderr when absent.
        timed: As of :class:`PlainLines`.
    """

    def __init__(self, console: Console | None = None, *, timed: bool = False) -> None:
        self._bar = _make_bar(console)
        self._jobs: list[_Job] = []
        self._stamp = _Stamp(timed)

    def __enter__(self) -> Self:
        for outer in self._jobs:
            self._bar.update(outer.task, visible=outer.first_done is not None)
        task = self._bar.add_task("", total=None, detail="getting ready", left="")
        self._jobs.append(_Job(task, Stopwatch()))
        if len(self._jobs) == 1:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        job = self._jobs.pop()
        if not self._jobs:
            self._bar.stop()
        self._bar.remove_task(job.task)

    def say(self, text: str) -> None:
        """Print ``text`` above the bar."""
        self._bar.console.print(self._stamp(text), markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """Print ``text`` above the bar as a warning."""
        self._bar.console.print(f"warning: {printable(text)}", markup=False, highlight=False)

    def update(self, progress: Progress) -> None:
        """Draw ``progress`` on the bar of the innermost ``with`` block."""
        job = self._jobs[-1]
        if job.first_done is None:
            job.first_done = progress.done
        left = seconds_left(progress, job.watch.seconds(), job.first_done)
        self._bar.update(
            job.task,
            visible=True,
            total=progress.total,
            completed=progress.done,
            detail=printable(progress.describe()),
            left=_left_text(progress, left),
            refresh=True,
        )


class Headed:
    """Another reporter, each of whose lines begins with a heading.

    Args:
        reporter: What shows the lines.
        heading: Stands before a colon.
    """

    def __init__(self, reporter: Reporter, heading: str) -> None:
        self._reporter = reporter
        self._heading = heading

    def __enter__(self) -> Self:
        self._reporter.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reporter.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Show ``text`` after the heading."""
        self._reporter.say(f"{self._heading}: {text}")

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        self._reporter.warn(text)

    def update(self, progress: Progress) -> None:
        """Pass ``progress`` on."""
        self._reporter.update(progress)


@dataclass(frozen=True, slots=True)
class _Several:
    """How far work is of which several parts are under way."""

    parts: tuple[Progress, ...]

    @property
    def done(self) -> int:
        return sum(part.done for part in self.parts)

    @property
    def total(self) -> int | None:
        totals = [part.total for part in self.parts]
        return None if None in totals else sum(total for total in totals if total is not None)

    def describe(self) -> str:
        last = self.parts[-1].describe()
        return f"{last}  (and {len(self.parts) - 1} more)" if self.parts[1:] else last


class Shared:
    """Another reporter, for threads side by side: what they do is added up into one view.

    Args:
        reporter: What shows it; entered already.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._turn = threading.RLock()
        self._parts: dict[int, Progress] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Count the work of this thread no more."""
        with self._turn:
            self._parts.pop(threading.get_ident(), None)

    def say(self, text: str) -> None:
        """Pass a line on."""
        with self._turn:
            self._reporter.say(text)

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        with self._turn:
            self._reporter.warn(text)

    def update(self, progress: Progress) -> None:
        """Show the progress of all threads; that of this one is described."""
        with self._turn:
            here = threading.get_ident()
            self._parts.pop(here, None)
            self._parts[here] = progress
            self._reporter.update(_Several(tuple(self._parts.values())))


def make_progress(kind: str = AUTO, *, timed: bool = False) -> Reporter:
    """What shows how far the work is; nothing beside the main process.

    Args:
        kind: ``rich`` for a bar, ``plain`` for lines on stderr, ``none``, or ``auto``: the bar when
            stderr is a terminal, otherwise lines.
        timed: Same as in :class:`PlainLines`.

    Raises:
        InputError: An unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"unknown --progress {kind!r}{suggest(kind, KINDS)}")
    if kind == AUTO:
        kind = "rich" if sys.stderr.isatty() else "plain"
    if kind == "none" or not is_main():
        return Quiet()
    return TerminalProgress(timed=timed) if kind == "rich" else PlainLines(timed=timed)


def seconds_left(progress: Progress, elapsed: float, first_done: int) -> float | None:
    """Estimate of the seconds that are left, at the pace so far; None where nothing tells it.

    A search whose examples are all labelled ends when no move helps, which nobody can foresee.

    Args:
        progress: The present state.
        elapsed: Seconds since the state ``first_done``.
        first_done: What was done by then.
    """
    added = progress.done - first_done
    if progress.total is None or added <= 0 or progress.done >= progress.total:
        return None
    return elapsed * (progress.total - progress.done) / added


def _left_text(progress: Progress, left: float | None) -> str:
    if left is not None:
        return f"~{clock(left)} left"
    return "settling" if progress.done == progress.total else ""


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes, for people."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


class Stopwatch:
    """Seconds since it was made, never negative and never falling, whatever the clock does.

    Args:
        before: Seconds that had passed by then.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._seconds = before
        self._read = time.monotonic()

    def seconds(self) -> float:
        """Seconds that have passed."""
        now = time.monotonic()
        self._seconds += max(0.0, now - self._read)
        self._read = now
        return self._seconds


class _Stamp:
    """Puts the time that has passed since it was made before a line, or nothing."""

    def __init__(self, timed: bool) -> None:
        self._watch = Stopwatch() if timed else None

    def __call__(self, text: str) -> str:
        text = printable(text)
        if self._watch is None:
            return text
        minutes, seconds = divmod(int(self._watch.seconds()), 60)
        return f"{minutes:3d}:{seconds:02d}  {text}"


def _make_bar(console: Console | None) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console or Console(stderr=True),
        transient=True,
    )
