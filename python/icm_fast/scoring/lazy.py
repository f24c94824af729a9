"""The scorer of a search, made when the first labelling has to be scored."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from icm_fast.identity import json_digest
from icm_fast.model.lazy import ModelIdentity
from icm_fast.scoring import adapter
from icm_fast.scoring.adapter import LiftedScorer, fingerprint_of, lift
from icm_fast.scoring.checks import as_float32, checked
from icm_fast.scoring.models import TOKENIZING, Opened, open_model, reads_texts

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.model.loaded import ModelSpec
    from icm_fast.scoring.protocol import Enough, Scored, SimpleScorer
    from icm_fast.types import BoolArray, Dataset, FloatArray, IntArray, ScoreArray


SCORES_FORMAT = "1"
"""Increased when the same model and tokens get other scores, beyond the last bits."""


class _Source(Protocol):
    """Where a scorer comes from."""

    @property
    def name(self) -> str:
        """The model as the user named it."""

    def identity(self) -> ModelIdentity:
        """What must stay the same for scores to be comparable."""

    def files_digest(self) -> str:
        """Of the model's files; empty where none are known."""

    def may_differ(self, files: object) -> bool:
        """Whether the model may be another one than that with this digest of files."""

    @property
    def reads_texts(self) -> bool:
        """Whether the scorer also scores texts after labels."""

    def scorer(self) -> LiftedScorer:
        """Make the scorer."""


class _FromModel:
    def __init__(self, model: Opened, dataset: Dataset, config: SearchConfig) -> None:
        self._model = model
        self._dataset = dataset
        self._config = config
        self._identity: ModelIdentity | None = None

    @property
    def name(self) -> str:
        return self._model.name

    def identity(self) -> ModelIdentity:
        """The model's own one, with the token ids that it reads of this data set."""
        from icm_fast.plan.pieces import tokenize_dataset

        if self._identity is None:
            own = self._model.identity()
            tokenizer = self._model.load().tokenizer
            with TOKENIZING:  # searches side by side share it
                pieces = tokenize_dataset(self._dataset, tokenizer)
            more = {"model_tokens": json_digest(asdict(pieces)), "scores_format": SCORES_FORMAT}
            self._identity = replace(own, more={**own.more, **more})
        return self._identity

    def files_digest(self) -> str:
        return self._model.files_digest()

    def may_differ(self, files: object) -> bool:
        return self._model.may_differ(files)

    @property
    def reads_texts(self) -> bool:
        return reads_texts(self._model)

    def scorer(self) -> LiftedScorer:
        from icm_fast.scoring.factory import make_scorer, make_text_scorer

        model, data, config = self._model.load(), self._dataset, self._config
        reads = self.reads_texts and config.uses_channel
        texts = make_text_scorer(model, data, config) if reads else None
        return lift(make_scorer(model, data, config), data, texts)


class _FromCaller:
    """A scorer that the caller brought; the model is only a name."""

    def __init__(
        self, scorer: SimpleScorer, dataset: Dataset, name: str, config: SearchConfig
    ) -> None:
        self._config = config
        self._scorer = scorer
        self._dataset = dataset
        self.name = name

    def identity(self) -> ModelIdentity:
        own = fingerprint_of(self._scorer, self.name)
        reads = self.reads_texts and self._config.uses_channel
        return ModelIdentity(f"{own}, also of texts" if reads else own, "scorer")

    def files_digest(self) -> str:
        return ""

    def may_differ(self, files: object) -> bool:
        return True

    @property
    def reads_texts(self) -> bool:
        return adapter.reads_texts(self._scorer)

    def scorer(self) -> LiftedScorer:
        return lift(self._scorer, self._dataset)


class LazyScorer:
    """Scores labellings of one data set; loads its model at the first one.

    Args:
        dataset: What is labelled.
        config: Settings of the search.
        model: See :func:`open_model`; one that is open already is shared, not loaded again.
        scorer: Used instead of the model's own scorer.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: SearchConfig,
        model: ModelSpec | Opened,
        scorer: SimpleScorer | None = None,
    ) -> None:
        self._dataset = dataset
        self._visits_matter = config.context_order == "append"
        self._visited: list[IntArray] = []
        self._scorer: LiftedScorer | None = None
        self._source: _Source
        if scorer is not None:
            self._source = _FromCaller(scorer, dataset, str(model), config)
        else:
            self._source = _FromModel(open_model(model, config), dataset, config)

    @property
    def model_name(self) -> str:
        """The model as the user named it."""
        return self._source.name

    def identity(self) -> ModelIdentity:
        """Identity of the model, which is loaded for it."""
        return self._source.identity()

    def files_digest(self) -> str:
        """Digest of the model's files; empty where none are known."""
        return self._source.files_digest()

    def may_differ(self, files: object) -> bool:
        """Whether the model may be another one than that with this digest of files."""
        return self._source.may_differ(files)

    def computing(self) -> dict[str, object]:
        """How a model on a GPU was forwarded, as plain values; empty for others, or if none was."""
        path = getattr(self._scorer, "path", None)
        if path is None:
            return {}
        from icm_fast.model.forward.path import ForwardPath

        # A scorer of the user's may call something else its path.
        on_gpu = isinstance(path, ForwardPath) and path.device != "cpu"
        return {"computing": asdict(path)} if on_gpu else {}

    def visit(self, labels: IntArray) -> None:
        """Note a labelling that the search looks at; some scorers' contexts depend on them.

        The model is not loaded for it.
        """
        if self._visits_matter:
            self._visited.append(labels.copy())

    def score_canonical(self, labels: IntArray) -> Scored:
        """Score one labelling under the contexts of ``context_order=tree``.

        Raises:
            InputError: Same as :meth:`score`.
        """
        return checked(self._dataset, self._open().score_canonical(labels))

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
                returned numbers that are not log-probabilities.
        """
        scorer = self._open()
        for visited in self._visited:
            scorer.visit(visited)
        self._visited = []
        if enough is None and (rows is None or rows.all()):
            return checked(self._dataset, scorer.score(labels))
        wanted = np.ones(len(labels), np.bool_) if rows is None else rows
        scored = as_float32(scorer.score_rows(labels, wanted, enough=enough, priority=priority))
        settled = enough is not None and enough(scored.scores)
        return checked(self._dataset, scored, _begun(scored.scores) if settled else rows)

    @property
    def reads_texts(self) -> bool:
        """Whether :meth:`score_texts` can be called; only a server is opened for it."""
        return self._source.reads_texts

    def score_texts(self, labels: IntArray) -> Scored:
        """How probable each example's text is after each label, ``[n, n_labels]``.

        Raises:
            InputError: Same as :meth:`score`.
        """
        return checked(self._dataset, self._open().score_texts(labels))

    def _open(self) -> LiftedScorer:
        if self._scorer is None:
            self._scorer = self._source.scorer()
        return self._scorer


def _begun(scores: ScoreArray) -> BoolArray:
    """Rows that are not all NaN."""
    return ~np.asarray(np.isnan(scores).all(axis=1), np.bool_)
