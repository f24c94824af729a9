"""In-context predictions of test examples from labelled demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from icm_fast._core import plan_tree
from icm_fast.config import SearchConfig, check_config
from icm_fast.errors import InputError, shown
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.protocol import Scored
from icm_fast.types import (
    UNLABELLED,
    Constraint,
    Dataset,
    Example,
    FloatArray,
    IntArray,
    ScoreArray,
)

if TYPE_CHECKING:
    from icm_fast.plan.text_ids import Tokenizer
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import MakeScorer, Scorer

UNBOUNDED = 10**12
"""A context limit in tokens that no context reaches."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """In-context predictions of test examples.

    Attributes:
        labels: ``[n_test]`` int32, calibrated or not.
        scores: ``[n_test, n_labels]`` float32 log-probabilities, never calibrated.
        n_tokens: Tokens forwarded.
        n_shots: Demonstrations in context.
    """

    labels: IntArray
    scores: ScoreArray
    n_tokens: int
    n_shots: int


def many_shot(
    demonstrations: Dataset | None,
    labels: IntArray | None,
    test: Dataset,
    *,
    model: ScoringModel,
    config: SearchConfig | None = None,
    calibrated: bool = True,
    make_scorer: MakeScorer | None = None,
) -> Predictions:
    """Predict ``test`` with labelled demonstrations in context, one prefix for all queries.

    Args:
        demonstrations: Data set of the demonstrations; None for zero-shot.
        labels: Their labels, ``[n]``; unlabelled ones are left out.
        test: Data set to predict.
        model: A model in this process or on a server, opened.
        config: Settings of the scorer; if there are more demonstrations than
            ``context_demonstrations``, a random subset is shown.
        calibrated: Take the argmax of log p - log q, with q the mean prediction of the test
            examples; that removes a preference of the model for one label, which is strong after
            many demonstrations. Without it the labels are the argmax of the scores.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.

    Raises:
        InputError: The demonstrations do not fit the context of the model.
    """
    context = FixedContext(
        demonstrations, labels, model=model, config=config, make_scorer=make_scorer
    )
    scored = context.score(test)
    predicted = predict(scored.scores, calibrated=calibrated)
    return Predictions(predicted, scored.scores, scored.n_tokens, context.n_shots)


class FixedContext:
    """Labelled demonstrations, after which any number of examples are scored, batch by batch.

    All examples see the same demonstrations in the same order, and the scores of one do not depend
    on the others that are scored with it.

    Args:
        demonstrations: Data set of the demonstrations; None for zero-shot.
        labels: Their labels, ``[n]``; unlabelled ones are left out.
        model: A model in this process or on a server, opened.
        config: Settings of the scorer; if there are more demonstrations than
            ``context_demonstrations``, a random subset is shown.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.
    """

    def __init__(
        self,
        demonstrations: Dataset | None,
        labels: IntArray | None,
        *,
        model: ScoringModel,
        config: SearchConfig | None = None,
        make_scorer: MakeScorer | None = None,
    ) -> None:
        config = check_config(config)
        if labels is not None:
            labels = _some(labels, config.context_demonstrations, config.seed)
        self._demonstrations = demonstrations
        self._labels = labels
        self._model = model
        # All examples see the same demonstrations, whatever the contexts of the search were.
        self._config = replace(config, context_order="tree", context_demonstrations=0)
        self._make = make_scorer or local_scorer

    @property
    def n_shots(self) -> int:
        """Demonstrations in the context."""
        if self._demonstrations is None or self._labels is None:
            return 0
        return int((self._labels != UNLABELLED).sum())

    def score(self, test: Dataset) -> Scored:
        """Log-probabilities of the examples of ``test``, ``[n_test, n_labels]`` float32.

        Raises:
            InputError: The demonstrations do not fit the context of the model.
        """
        if isinstance(self._model, ModelElsewhere):
            return self._model.call(
                _score_after, self._demonstrations, self._labels, self._config, test
            )
        joined, state = _join(self._demonstrations, self._labels, test)
        n_shots = self.n_shots
        queries = np.arange(len(joined)) >= n_shots
        # No context holds two test examples, so the limit is checked on the longest one alone.
        longest = n_shots + longest_prompt([e.prompt for e in test.examples], self._model.tokenizer)
        self._make(self._model, joined.subset([*range(n_shots), longest]), self._config)
        unbounded = replace(self._config, context_limit=UNBOUNDED)
        scored = self._make(self._model, joined, unbounded).score(state, queries)
        scores = np.asarray(scored.scores[n_shots:], dtype=np.float32)
        if not np.isfinite(scores).all():
            raise InputError("the model returned NaN log-probabilities; use dtype float32")
        return Scored(scores, int(scored.n_tokens))


def _score_after(
    model: ScoringModel,
    demonstrations: Dataset | None,
    labels: IntArray | None,
    config: SearchConfig,
    test: Dataset,
) -> Scored:
    """Score examples after a fixed context, where the model is."""
    return FixedContext(demonstrations, labels, model=model, config=config).score(test)


def texts_after(
    demonstrations: Dataset | None,
    labels: IntArray | None,
    test: Dataset,
    *,
    model: ScoringModel,
    config: SearchConfig,
) -> Scored:
    """How probable each text of ``test`` is after each label, ``[n_test, n_labels]`` float32.

    Only the differences within a row count, and those between rows for one label.

    Args:
        demonstrations: Data set of the demonstrations; None for none.
        labels: Their labels, ``[n]``; unlabelled ones are left out.
        test: Data set to score.
        model: A model of this process or of others that hold its weights, opened.
        config: Settings of the scorer.

    Raises:
        InputError: A text does not fit the context of the model.
    """
    from icm_fast.scoring.factory import make_text_scorer

    joined, state = _join(demonstrations, labels, test)
    found = make_text_scorer(model, joined, config).score_texts(state)
    scores = np.asarray(found.scores[len(joined) - len(test) :], dtype=np.float32)
    return Scored(scores, int(found.n_tokens))


def shown_demonstrations(labels: IntArray, *, seed: int, most: int = 0) -> IntArray:
    """Which examples the contexts of :func:`many_shot` show, in order.

    The order is the same for every test example and does not depend on the model.

    Args:
        labels: Labels of the demonstrations, ``[n]``, -1 where unlabelled.
        seed: ``config.seed`` of :func:`many_shot`.
        most: Its ``config.context_demonstrations``; 0 for all.

    Returns:
        ``[n_shown]`` int32, positions in ``labels``.
    """
    kept = np.flatnonzero(_some(labels, most, seed) != UNLABELLED).astype(np.int32)
    is_test = np.arange(len(kept) + 1) == len(kept)
    # The demonstrations are in every context, so their order does not depend on token counts.
    size = np.ones(len(is_test), np.int64)
    tree = plan_tree(
        demonstration_tokens=size,
        first_extra=size * 0,
        query_tokens=size,
        query_first_extra=size * 0,
        labelled=~is_test,
        queried=is_test,
        root_tokens=0,
        tail_parents=np.zeros(0, np.int32),
        seed=seed,
        kv_budget_tokens=len(size),
        batch_tokens=len(size),
    )
    order: IntArray = kept[tree.context(len(kept))]
    return order


def _some(labels: IntArray, most: int, seed: int) -> IntArray:
    """At most ``most`` of the labels, drawn by the seed; all if that is 0."""
    labelled = np.flatnonzero(labels != UNLABELLED)
    if not 0 < most < len(labelled):
        return labels
    # A separate random stream: the baselines draw from [seed, n].
    kept = np.random.default_rng([seed, len(labels), 1]).choice(labelled, most, replace=False)
    some = np.full(len(labels), UNLABELLED, np.int32)
    some[kept] = labels[kept]
    return some


def longest_prompt(prompts: Sequence[str], tokenizer: Tokenizer) -> int:
    """Position of the prompt with the most tokens."""
    sizes = [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    return int(np.argmax(sizes))


def local_scorer(model: ScoringModel, dataset: Dataset, config: SearchConfig) -> Scorer:
    """The scorer that is made where no other way is given; torch is imported only for it."""
    from icm_fast.scoring.factory import make_scorer

    return make_scorer(model, dataset, config)


def predict(scores: ScoreArray, *, calibrated: bool = False) -> IntArray:
    """Argmax per row, ``[n]`` int32; with ``calibrated``, of :func:`calibrate`'s result."""
    values = calibrate(scores) if calibrated else scores
    labels: IntArray = values.argmax(axis=1).astype(np.int32)
    return labels


def calibrate(scores: ScoreArray) -> FloatArray:
    """Log-probabilities minus the log of the mean prediction, ``[n, n_labels]`` float64."""
    values = scores.astype(np.float64)
    values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    calibrated: FloatArray = values - np.log(np.exp(values).mean(axis=0))
    return calibrated


def _join(
    demonstrations: Dataset | None, labels: IntArray | None, test: Dataset
) -> tuple[Dataset, IntArray]:
    """Demonstrations that carry a label, then the unlabelled test examples."""
    unlabelled = np.full(len(test), UNLABELLED, dtype=np.int32)
    if demonstrations is None or labels is None:
        return _with_ids("test", test, ()), unlabelled
    if demonstrations.label_space != test.label_space:
        raise InputError(
            f"the demonstrations have the labels {list(demonstrations.label_space)}, but the test "
            f"data have {list(test.label_space)}; use one label space"
        )
    if demonstrations.preamble != test.preamble:
        raise InputError(
            f"the demonstrations have the preamble {shown(demonstrations.preamble)}, but the test "
            f"data have {shown(test.preamble)}; use one preamble"
        )
    kept = np.flatnonzero(labels != UNLABELLED)
    shots = tuple(demonstrations.examples[int(i)] for i in kept)
    state = np.concatenate([np.asarray(labels, dtype=np.int32)[kept], unlabelled])
    return _with_ids("test", test, _renamed("demonstration", shots)), state


def _with_ids(prefix: str, test: Dataset, before: tuple[Example, ...]) -> Dataset:
    constraints: tuple[Constraint, ...] = ()
    examples = before + _renamed(prefix, test.examples)
    return replace(test, examples=examples, constraints=constraints)


def _renamed(prefix: str, examples: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(Example(f"{prefix}:{e.id}", e.prompt, e.group, e.answer) for e in examples)
