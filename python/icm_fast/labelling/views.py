"""Scoring every row of a table after one context, durable chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast.evaluation.many_shot import FixedContext
from icm_fast.identity import json_digest
from icm_fast.labelling.chunks_ahead import ChunksAhead
from icm_fast.labelling.scan import blocks
from icm_fast.labelling.tables import Table
from icm_fast.labelling.task import LabelTask
from icm_fast.labelling.view_file import ViewFile, ViewShape
from icm_fast.scoring.side_by_side import side_by_side
from icm_fast.tracking import RunTracking, Step
from icm_fast.types import Dataset, Example, IntArray, LabelSpace, Reporter

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import Scored
    from icm_fast.types import ScoreArray


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is asked of every row.

    Attributes:
        table: The rows.
        task: What is asked, with its template.
        label_space: The labels as the model reads them.
        n_rows: Rows of the table.
        identity: SHA-256 (hex) of the data, the question and the model.
    """

    table: Table
    task: LabelTask
    label_space: LabelSpace
    n_rows: int
    identity: str

    def dataset(self, examples: tuple[Example, ...]) -> Dataset:
        """Examples as a data set without constraints."""
        return self.task.dataset(examples, self.label_space)


@dataclass(frozen=True, slots=True)
class View:
    """One context after which all rows are scored.

    Attributes:
        name: For people: ``no demonstrations``, ``core 1``.
        demonstrations: What is in the context; None for nothing.
        labels: Their labels, ``[n]``.
    """

    name: str
    demonstrations: Dataset | None = None
    labels: IntArray | None = None

    def digest(self, question: Question, seed: int) -> str:
        """SHA-256 (hex) of everything that the scores depend on."""
        shown: object = None
        if self.demonstrations is not None and self.labels is not None:
            shown = [self.demonstrations.fingerprint(), self.labels.tolist(), seed]
        return json_digest([question.identity, shown])


@dataclass(frozen=True, slots=True)
class RowsScored:
    """How far the scoring of a table is.

    Attributes:
        done: Prompts that are scored, over all contexts.
        total: Prompts in all.
        view: Name of the context.
        row: Row of the table that is reached.
        n_rows: Rows of the table.
        rate: Tokens per second; 0 where it is not known yet.
    """

    done: int
    total: int
    view: str
    row: int
    n_rows: int
    rate: float

    def step(self) -> Step:
        """What trackers receive."""
        figures = {"share": self.done / self.total, "tokens_per_second": self.rate}
        return Step("rows", self.done, figures)

    def describe(self) -> str:
        """One line of figures."""
        speed = f"  {self.rate:,.0f} tokens/s" if self.rate else ""
        return f"{self.view}: row {self.row:,}/{self.n_rows:,}{speed}"


class ViewScorer:
    """Scores tables after contexts, into files of one folder.

    Args:
        folder: Where the files are.
        question: What is asked.
        load: Returns the model; called when a row has to be scored.
        config: Settings of the scoring.
        chunk_rows: Rows that are scored and stored at a time.
        n_views: Contexts that are planned, for the progress.
        tracking: Receives what is scored.
        width: Chunks that are scored at once.
    """

    def __init__(
        self,
        folder: Path,
        question: Question,
        load: Callable[[], ScoringModel],
        config: SearchConfig,
        chunk_rows: int,
        n_views: int,
        tracking: RunTracking,
        width: int = 1,
    ) -> None:
        self._folder = folder
        self._question = question
        self._load = load
        self._config = config
        self._chunk_rows = chunk_rows
        self._n_views = n_views
        self._width = width
        self._done: dict[str, int] = {}
        self._tracking = tracking

    def score(self, view: View, shown: Reporter, check: Callable[[], None]) -> StoredView:
        """Score all rows after a context, or what is left of them.

        Args:
            view: The context.
            shown: Receives the progress.
            check: Called between chunks; may raise to stop there.

        Raises:
            InputError: The data do not fit the model, or the file cannot be used.
        """
        question = self._question
        per_row = question.task.per_row
        n_items = question.n_rows * per_row
        shape = ViewShape(n_items, len(question.label_space), self._chunk_rows * per_row)
        digest = view.digest(question, self._config.seed)
        path = self._folder / f"{digest[:16]}.bin"
        self._done[digest] = 0
        with ViewFile(path, shape, digest) as file, ChunksAhead(file, digest) as store:
            if not file.is_whole:
                context = FixedContext(
                    view.demonstrations, view.labels, model=self._load(), config=self._config
                )
                with closing(self._chunks(context, store)) as chunks:
                    for chunk, scored, seconds in chunks:
                        store.keep(chunk, scored.scores, scored.n_tokens)
                        rate = self._width * scored.n_tokens / seconds
                        reached = self._reached(view, digest, store, rate)
                        shown.update(reached)
                        self._tracking.report(reached.step())
                        check()
            self._done[digest] = n_items
            return StoredView(view, path, shape, digest, file.n_tokens)

    def _chunks(
        self, context: FixedContext, store: ChunksAhead
    ) -> Generator[tuple[int, Scored, float], None, None]:
        """The chunks that are not stored, each with its number and the seconds that it took."""
        question = self._question
        first = store.n_in_order

        def missing() -> Iterator[tuple[int, Dataset]]:
            found = blocks(question.table, question.task, self._chunk_rows, first)
            for chunk, (_, examples) in enumerate(found, start=first):
                if chunk not in store:
                    yield chunk, question.dataset(tuple(examples))

        def score(item: tuple[int, Dataset]) -> tuple[int, Scored, float]:
            chunk, dataset = item
            started = time.monotonic()
            scored = context.score(dataset)
            return chunk, scored, max(time.monotonic() - started, 1e-9)

        for _, result in side_by_side(score, missing(), self._width):
            yield result

    def _reached(self, view: View, digest: str, store: ChunksAhead, rate: float) -> RowsScored:
        question = self._question
        row = min(store.n_chunks * self._chunk_rows, question.n_rows)
        self._done[digest] = row * question.task.per_row
        n_views = max(self._n_views, len(self._done))
        total = n_views * question.n_rows * question.task.per_row
        done = sum(self._done.values())
        return RowsScored(done, total, view.name, row, question.n_rows, rate)


@dataclass(frozen=True, slots=True)
class StoredView:
    """A context with the scores of all rows.

    Attributes:
        view: The context.
        path: File of the scores.
        shape: What its records look like.
        digest: What its scores depend on.
        n_tokens: Tokens forwarded for them.
    """

    view: View
    path: Path
    shape: ViewShape
    digest: str
    n_tokens: int

    def chunks(self) -> Iterator[ScoreArray]:
        """The scores, ``[items, n_labels]`` float32 each."""
        with ViewFile(self.path, self.shape, self.digest) as file:
            yield from file.chunks()
