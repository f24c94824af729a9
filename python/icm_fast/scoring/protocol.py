"""What every scorer offers: one labelling in, leave-one-out log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from icm_fast.types import BoolArray, FloatArray, IntArray, ScoreArray

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.plan.leave_one_out import LeaveOneOutPlan
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.types import Dataset


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one labelling.

    Attributes:
        scores: ``[n, n_labels]`` float32, natural log; NaN rows where not queried.
        n_tokens: Tokens forwarded for it.
    """

    scores: ScoreArray
    n_tokens: int


class SimpleScorer(Protocol):
    """The least that a scorer of the user's has to offer: whole labellings, one at a time.

    A string attribute ``fingerprint`` ties run folders to it; without one, the name of the model
    does. Methods of :class:`Scorer` that it has as well are used
    (:mod:`icm_fast.scoring.adapter`).
    """

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default) under ``labels``, ``[n]``."""


class TextReading(Protocol):
    """What a scorer may offer beside that: texts after labels, for a bootstrap."""

    def score_texts(self, labels: IntArray) -> Scored:
        """How probable each example's text is after each label, ``[n, n_labels]``.

        Only the differences within a row count, and those between the rows for one label.

        Args:
            labels: ``[n]``, the labels of demonstrations and -1 for all others. No example may be
                scored after itself.
        """


class TextScoring(TextReading, Protocol):
    """Scores texts after labels, and tells in advance what that costs."""

    def predict_text_tokens(self, labels: IntArray) -> int:
        """Tokens that :meth:`score_texts` would forward."""


Enough = Callable[[ScoreArray], bool]
"""Whether scores ``[n, n_labels]``, NaN where not scored yet, settle what they are needed for."""


class SearchScorer(SimpleScorer, Protocol):
    """What a search needs of a scorer.

    The score of an example is the same, bit for bit, whichever others are scored with it.
    """

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score the examples ``rows``, ``[n]`` bool, as if all were scored.

        Args:
            labels: The labelling, ``[n]``.
            rows: Examples to score; others may be left NaN.
            enough: Called from time to time with the scores so far; once it returns true, the
                remaining rows stay NaN.
            priority: ``[n]``; examples with a smaller value come first where that costs nothing.
        """

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score all examples under contexts that depend on ``labels`` alone.

        It differs from :meth:`score` only where contexts depend on labellings visited before.
        """

    def visit(self, labels: IntArray) -> None:
        """Note a labelling that the search looks at; later contexts may depend on it."""


class Scorer(SearchScorer, Protocol):
    """Scores labellings of one data set with one model, and tells in advance what that costs."""

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""

    def plan(self, labels: IntArray, queries: BoolArray | None = None) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``.

        Raises:
            InputError: The scorer has no single plan for all examples.
        """


class ReadingScorer(Scorer, TextScoring, Protocol):
    """A scorer that scores texts as well."""


class MakeScorer(Protocol):
    """A function that makes a scorer, such as :func:`icm_fast.scoring.factory.make_scorer`."""

    def __call__(
        self, loaded: ScoringModel, dataset: Dataset, config: SearchConfig, /
    ) -> SimpleScorer:
        """Return a scorer for ``dataset``."""
