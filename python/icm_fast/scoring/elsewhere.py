"""A model that other processes hold: what is to be done with it is sent to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from icm_fast.scoring.base import ScorerOfLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icm_fast.config import SearchConfig
    from icm_fast.model.lazy import ModelIdentity
    from icm_fast.plan.leave_one_out import LeaveOneOutPlan
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import Enough, ReadingScorer, Scored
    from icm_fast.types import BoolArray, Dataset, FloatArray, IntArray

P = ParamSpec("P")
R = TypeVar("R")


class ModelElsewhere(ABC):
    """A model of other processes; here is what they say about it, and its tokenizer.

    Attributes:
        name: The model as the user named it.
        is_named: Whether that is a name or a path, and not an address.
        is_served: Whether a server or an engine of others computes its scores.
    """

    name: str
    is_named: bool
    is_served: bool

    def load(self) -> Self:
        """This; the others open the model when they are first called."""
        return self

    @property
    @abstractmethod
    def width(self) -> int:
        """Calls that are worked on at once."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; used by one thread at a time."""

    @property
    @abstractmethod
    def max_context(self) -> int:
        """Longest context in tokens."""

    @property
    def reads_texts(self) -> bool:
        """Whether the model can say how probable a text is; a server is asked there."""
        return not self.is_served or self.call(_reads_texts)

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Parameters of the model, tied ones once; 0 where a server does not say."""

    @abstractmethod
    def identity(self) -> ModelIdentity:
        """What must stay the same for scores to be comparable; the same in all processes."""

    @abstractmethod
    def files_digest(self) -> str:
        """Of the model's files where it is held; empty where none are known."""

    def may_differ(self, files: object) -> bool:
        """Whether the model may be another one than that with this digest of files."""
        return self.is_named and bool(files) and self.files_digest() not in ("", files)

    @abstractmethod
    def call(
        self, function: Callable[Concatenate[ScoringModel, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function of a module in a process that holds the model.

        Args:
            function: Gets the opened model first.
            *args: Sent to that process.
            **kwargs: Sent to that process.

        Raises:
            InputError: The function raises it there, or no process can be had.
        """

    def scorer(self, dataset: Dataset, config: SearchConfig) -> ReadingScorer:
        """Scores labellings of a data set, each in one call."""
        return ScorerElsewhere(self, dataset, config)


class ScorerElsewhere(ScorerOfLabels):
    """A scorer whose every call goes to a process that holds the model.

    Contexts that depend on the labellings visited before (``context_order=append``) are not for
    it: a search that needs them runs in one process as a whole.
    """

    def __init__(self, model: ModelElsewhere, dataset: Dataset, config: SearchConfig) -> None:
        self._model = model
        self._dataset = dataset
        self._config = config

    def score(self, labels: IntArray, queries: BoolArray | None = None) -> Scored:
        """Score the queried examples (all by default)."""
        scored: Scored = self._call("score", labels, queries)
        return scored

    def score_rows(
        self,
        labels: IntArray,
        rows: BoolArray,
        *,
        enough: Enough | None = None,
        priority: FloatArray | None = None,
    ) -> Scored:
        """Score the examples ``rows``, all of them."""
        return self.score(labels, rows)

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score all examples under contexts that depend on ``labels`` alone."""
        scored: Scored = self._call("score_canonical", labels)
        return scored

    def score_texts(self, labels: IntArray) -> Scored:
        """Score texts after labels, where the model is."""
        scored: Scored = self._of_texts("score_texts", labels)
        return scored

    def predict_text_tokens(self, labels: IntArray) -> int:
        """Tokens that :meth:`score_texts` would forward."""
        n_tokens: int = self._of_texts("predict_text_tokens", labels)
        return n_tokens

    def _of_texts(self, method: str, labels: IntArray) -> Any:
        return self._model.call(_of_texts, self._dataset, self._config, method, labels)

    def predict_tokens(self, labels: IntArray, queries: BoolArray | None = None) -> int:
        """Tokens that :meth:`score` would forward."""
        n_tokens: int = self._call("predict_tokens", labels, queries)
        return n_tokens

    def plan(self, labels: IntArray, queries: BoolArray | None = None) -> LeaveOneOutPlan:
        """Context orders, token ids and segments for ``labels``."""
        plan: LeaveOneOutPlan = self._call("plan", labels, queries)
        return plan

    def _call(self, method: str, *arguments: object) -> Any:
        return self._model.call(_of_scorer, self._dataset, self._config, method, arguments)


def _reads_texts(model: ScoringModel) -> bool:
    """Whether the server of a process that asks one can say how probable a text is."""
    from icm_fast.scoring.servers.lazy import ServedModel

    return not isinstance(model, ServedModel) or model.reads_texts


def _of_texts(
    model: ScoringModel, dataset: Dataset, config: SearchConfig, method: str, labels: IntArray
) -> Any:
    """Call a method of what scores texts, where the model is."""
    from icm_fast.scoring.factory import make_text_scorer

    return getattr(make_text_scorer(model, dataset, config), method)(labels)


def _of_scorer(
    model: ScoringModel,
    dataset: Dataset,
    config: SearchConfig,
    method: str,
    arguments: tuple[object, ...],
) -> Any:
    """Call a method of the model's own scorer, where the model is."""
    from icm_fast.scoring.factory import make_scorer

    return getattr(make_scorer(model, dataset, config), method)(*arguments)
