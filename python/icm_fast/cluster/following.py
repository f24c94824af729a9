"""A search that a worker runs, repeated here from its scores.

Both run the same search from the same records. The worker has the model and is ahead; here every
score is made durable, and decided on again, which costs nothing beside the model. When the worker
dies, another one starts from all that is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from icm_fast.cluster.pool import Pool, WorkerDiedError
from icm_fast.runs.score_log import ScoredLabelling
from icm_fast.scoring.elsewhere import ModelElsewhere, ScorerElsewhere
from icm_fast.scoring.protocol import Enough, Scored

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.types import BoolArray, Dataset, FloatArray, IntArray


class Following(ScorerElsewhere):
    """Answers a search with what a worker scores for the same search.

    Args:
        model: The model.
        dataset: What is labelled.
        config: Settings of the search.
        pool: Has the workers.
        begin: Starts the search of a worker from records; returns references to answers.
        records: What is durable so far, in order.
    """

    def __init__(
        self,
        model: ModelElsewhere,
        dataset: Dataset,
        config: SearchConfig,
        pool: Pool,
        begin: Callable[[Any, Sequence[ScoredLabelling]], Iterator[Any]],
        records: Callable[[], Sequence[ScoredLabelling]],
    ) -> None:
        super().__init__(model, dataset, config)
        self._pool = pool
        self._begin = begin
        self._records = records
        self._worker: Any = None
        self._stream: Iterator[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the worker back once its search has ended, too; otherwise it is lost."""
        if self._worker is None:
            return
        if error is None and self._has_ended():
            self._pool.give_back(self._worker)
        else:
            self._pool.lose(self._worker)

    def _has_ended(self) -> bool:
        try:
            for reference in self._stream or ():
                self._pool.received(reference)
        except WorkerDiedError:  # everything that it had to say is here
            return False
        return True

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """The worker's next scores, which are of these labels."""
        scored: ScoredLabelling = self._pool.retried(self._next)
        if not np.array_equal(scored.labels, labels):
            raise RuntimeError("a worker scored another labelling than this search requests")
        return Scored(scored.scores, scored.n_tokens)

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Same as :meth:`score`: the worker knows what is needed and when it is enough."""
        return self.score(labels)

    def score_canonical(self, labels: IntArray) -> Scored:
        """Same as :meth:`score`."""
        return self.score(labels)

    def score_texts(self, labels: IntArray) -> Scored:
        """Same as :meth:`score`."""
        return self.score(labels)

    def _next(self) -> ScoredLabelling:
        if self._stream is None:
            self._worker = self._pool.take()
            self._stream = self._begin(self._worker, self._records())
        try:
            scored: ScoredLabelling | None = self._pool.received(next(self._stream))
        except WorkerDiedError:
            worker, self._worker, self._stream = self._worker, None, None
            self._pool.lose(worker)
            raise
        if scored is None:
            raise RuntimeError("a worker's search ended before this one")
        return scored
