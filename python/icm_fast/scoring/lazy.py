"""The model of a search, loaded when the first labelling has to be scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from icm_fast.errors import InputError
from icm_fast.model.lazy import LazyModel, ModelIdentity
from icm_fast.scoring.protocol import Scored

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.scoring.protocol import Enough, Scorer
    from icm_fast.types import BoolArray, Dataset, FloatArray, IntArray, ScoreArray


class GivenScorer:
    """Stands in for a model where the caller brings a scorer."""

    def __init__(self, scorer: Scorer, model: Any) -> None:
        self._scorer = scorer
        self.name = str(model)

    def load(self) -> Any:
        """The scorer itself."""
        return self._scorer

    def identity(self) -> ModelIdentity:
        """The scorer's own fingerprint where it has one, else the model's name."""
        return ModelIdentity(str(getattr(self._scorer, "fingerprint", self.name)), "scorer")


class LazyScorer:
    """Scores labellings of one data set; loads its model at the first one.

    Args:
        dataset: What is labelled.
        config: Settings of the search.
        model: See :class:`LazyModel`; a LazyModel is shared, not loaded again.
        scorer: Used instead of the model's own scorer.
    """

    def __init__(
        self, dataset: Dataset, config: SearchConfig, model: Any, scorer: Scorer | None = None
    ) -> None:
        self._dataset = dataset
        self._config = config
        self._scorer = scorer
        self._visited: list[IntArray] = []
        self._model: LazyModel | GivenScorer
        if scorer is not None:
            self._model = GivenScorer(scorer, model)
        elif isinstance(model, LazyModel):
            self._model = model
        else:
            self._model = LazyModel(model, dtype=config.dtype, device=config.device)

    @property
    def model_name(self) -> str:
        """The model as the user named it."""
        return self._model.name

    def identity(self) -> ModelIdentity:
        """Identity of the model, which is loaded for it."""
        return self._model.identity()

    def visit(self, labels: IntArray) -> None:
        """Note a labelling that the search looks at; some scorers' contexts depend on them.

        The model is not loaded for it.
        """
        if self._config.context_order == "append":
            self._visited.append(labels.copy())

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score one labelling under the contexts of ``context_order=tree``.

        Raises:
            InputError: As of :meth:`score`.
        """
        scorer = self._open()
        return self._checked(getattr(scorer, "canonical", scorer).score(labels))

    def _open(self) -> Any:
        if self._scorer is None:
            from icm_fast.scoring.factory import make_scorer

            self._scorer = make_scorer(self._model.load(), self._dataset, self._config)
        return self._scorer

    def score(
        self,
        labels: IntArray,
        rows: BoolArray | None = None,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score one labelling, or some of its rows; others are NaN.

        A scorer that the caller brought and that knows no rows scores all of them.

        Args:
            labels: The labelling, ``[n]``.
            rows: Examples that are needed, ``[n]`` bool; all by default.
            enough: Whether the scores so far settle the matter; the rest may then be left out.
            priority: ``[n]``, smaller values first.

        Raises:
            InputError: The model cannot be loaded or served, the data do not fit it, or it
                returned numbers that are no log-probabilities.
        """
        scorer = self._open()
        if hasattr(scorer, "visit"):
            for visited in self._visited:
                scorer.visit(visited)
        self._visited = []
        in_part = enough is not None or (rows is not None and not rows.all())
        if not in_part or not hasattr(scorer, "score_rows"):
            return self._checked(scorer.score(labels))
        wanted = np.ones(len(labels), np.bool_) if rows is None else rows
        scored = scorer.score_rows(labels, wanted, enough=enough, priority=priority)
        scores = _float32(scored.scores)
        settled = enough is not None and enough(scores)
        return self._checked(scored, _begun(scores) if settled else rows)

    def _checked(self, scored: Scored, rows: BoolArray | None = None) -> Scored:
        scores = _float32(scored.scores)
        check_scores(self._dataset, scores, rows)
        return Scored(scores, int(scored.n_tokens))


def _float32(scores: ScoreArray) -> ScoreArray:
    return np.ascontiguousarray(scores, dtype=np.float32)


def _begun(scores: ScoreArray) -> BoolArray:
    """Rows that are not all NaN."""
    return ~np.asarray(np.isnan(scores).all(axis=1), np.bool_)


def check_scores(dataset: Dataset, scores: ScoreArray, rows: BoolArray | None = None) -> None:
    """Refuse scores that are not finite, in the rows given (all by default).

    Raises:
        InputError: Names the first example with a NaN or an infinity.
    """
    expected = (len(dataset), len(dataset.label_space))
    if scores.shape != expected:
        raise InputError(
            f"the scorer returned scores of shape {scores.shape}, expected {expected}; "
            "return one row per example and one column per label"
        )
    finite = np.isfinite(scores).all(axis=1)
    bad = np.flatnonzero(~finite if rows is None else ~finite & rows)
    if len(bad):
        row = int(bad[0])
        kind = "NaN" if np.isnan(scores[row]).any() else "infinite"
        raise InputError(
            f"the model returned {kind} log-probabilities for example "
            f"{dataset.examples[row].id!r} (row {row}; {len(bad)} of {len(dataset)} rows); use "
            "dtype float32 (--set dtype=float32) or other weights"
        )
