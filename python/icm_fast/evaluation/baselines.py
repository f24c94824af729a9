"""Other sources of labels to compare found ones with (paper, section 3.2); evaluation only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.many_shot import many_shot, predict
from icm_fast.evaluation.shot_contexts import ShotContexts
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.posterior import own_margins
from icm_fast.tasks.consistent import consistent_labels
from icm_fast.types import UNLABELLED, Dataset, FloatArray, IntArray

if TYPE_CHECKING:
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import MakeScorer

N_FEW_SHOT = 8
"""How many demonstrations with zero-shot labels few-shot bootstrapping starts from."""
N_SHOTS = 16
"""Demonstrations of a context with random labels, and of one of balanced bootstrapping."""
N_CONTEXTS = 4
"""Contexts of a round of balanced bootstrapping."""
ROUNDS = 2
"""Rounds of balanced bootstrapping."""


@dataclass(frozen=True, slots=True, eq=False)
class BaselineLabels:
    """Labels, and what they cost.

    Attributes:
        labels: ``[n]`` int32.
        n_tokens: Tokens forwarded for them.
    """

    labels: IntArray
    n_tokens: int


def perturbed_labels(gold: IntArray, accuracy: float, n_labels: int, seed: int) -> IntArray:
    """Gold labels of which a random part is replaced by wrong ones, ``[n]`` int32.

    Args:
        gold: ``[n]``, -1 where unknown (and then left so).
        accuracy: Share that stays right, rounded to a number of examples.
        n_labels: Size of the label space.
        seed: Seed of the draw.

    Raises:
        InputError: ``accuracy`` is not between 0 and 1.
    """
    if not 0 <= accuracy <= 1:
        raise InputError(f"accuracy of perturbed labels is {accuracy}; pass a share from 0 to 1")
    rng = np.random.default_rng([seed, len(gold)])
    known = np.flatnonzero(gold != UNLABELLED)
    wrong = rng.choice(known, round((1 - accuracy) * len(known)), replace=False)
    labels = gold.astype(np.int32)
    shift = rng.integers(1, n_labels, size=len(wrong))
    labels[wrong] = (labels[wrong] + shift) % n_labels
    return labels


def bootstrapped_labels(dataset: Dataset, model: ScoringModel, config: SearchConfig) -> IntArray:
    """Labels by few-shot bootstrapping, ``[n]`` int32: no search, no gold.

    The model labels ``N_FEW_SHOT`` random examples without demonstrations, then all others with
    these as demonstrations.

    Raises:
        InputError: The data do not fit the model.
    """
    rng = np.random.default_rng([config.seed, len(dataset)])
    order = rng.permutation(len(dataset))
    few, rest = np.sort(order[:N_FEW_SHOT]), np.sort(order[N_FEW_SHOT:])
    shots = dataset.subset(few.tolist())
    first = many_shot(None, None, dataset, model=model, config=config)
    labels = np.full(len(dataset), UNLABELLED, np.int32)
    # The preference for one label is estimated on all examples, not on the few alone.
    labels[few] = predict(first.scores, calibrated=True)[few]
    if len(rest):
        others = dataset.subset(rest.tolist())
        second = many_shot(shots, labels[few], others, model=model, config=config)
        labels[rest] = predict(second.scores, calibrated=True)
    return labels


def random_shot_labels(
    dataset: Dataset,
    model: ScoringModel,
    config: SearchConfig,
    *,
    make_scorer: MakeScorer | None = None,
) -> BaselineLabels:
    """Labels by few-shot prediction after demonstrations with random labels; no gold.

    ``N_SHOTS`` random examples (at most half of all) get random labels, each label as often as the
    others, and all other examples are predicted after them; the demonstrations themselves are
    predicted after as many others. A preference for one label is taken off, as estimated on all
    examples outside the context.

    Args:
        dataset: The examples.
        model: A model in this process, of a server, or of other processes.
        config: Settings of the scorer; its ``seed`` draws examples and labels.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.

    Raises:
        InputError: The data do not fit the model.
    """
    if isinstance(model, ModelElsewhere):
        return model.call(_random_shots_there, dataset, config)
    n, n_labels = len(dataset), len(dataset.label_space)
    rng = np.random.default_rng([config.seed, n, 2])
    size = min(N_SHOTS, n // 2)
    order = rng.permutation(n).astype(np.int32)
    contexts = ShotContexts(dataset, model, config, make_scorer)

    def predicted_after(chosen: IntArray) -> IntArray:
        state = np.full(n, UNLABELLED, np.int32)
        balanced = (np.arange(len(chosen)) + rng.integers(n_labels)) % n_labels
        state[chosen] = rng.permutation(balanced)
        # The rows of the demonstrations are NaN, whose label is taken from the other context.
        evidence = np.nan_to_num(contexts.evidence(state, state == UNLABELLED))
        predicted: IntArray = evidence.argmax(axis=1).astype(np.int32)
        return predicted

    labels = predicted_after(order[:size])
    if size:
        labels[order[:size]] = predicted_after(order[size : 2 * size])[order[:size]]
    return BaselineLabels(labels, contexts.n_tokens)


def _random_shots_there(
    model: ScoringModel, dataset: Dataset, config: SearchConfig
) -> BaselineLabels:
    """Labels after random ones, where the model is."""
    return random_shot_labels(dataset, model, config)


def balanced_bootstrapping(
    dataset: Dataset,
    model: ScoringModel,
    config: SearchConfig,
    *,
    rounds: int = ROUNDS,
    max_tokens: int | None = None,
    make_scorer: MakeScorer | None = None,
) -> BaselineLabels:
    """Labels by balanced bootstrapping with constraints: no search, no gold.

    The first labels are the calibrated zero-shot ones. In each round ``N_CONTEXTS`` contexts show
    ``N_SHOTS`` examples each (at most half of all), of every label as many, drawn by how sure their
    label is. All examples are predicted after each context, an example of the context after the
    others of it, and the evidence of the contexts is averaged. The labels that follow are its most
    probable ones that keep the constraints. To the evidence of the last round that of zero-shot is
    added, both at the same scale.

    Args:
        dataset: The examples and their constraints.
        model: A model in this process, of a server, or of other processes.
        config: Settings of the scorer; its ``seed`` draws the contexts.
        rounds: How many; 0 leaves the zero-shot labels.
        max_tokens: No round starts once so many tokens are forwarded; None for no limit.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.

    Raises:
        InputError: The data do not fit the model.
    """
    if isinstance(model, ModelElsewhere):
        return model.call(_bootstrapping_there, dataset, config, rounds, max_tokens)
    n = len(dataset)
    rng = np.random.default_rng([config.seed, n, 3])
    contexts = ShotContexts(dataset, model, config, make_scorer)
    zero_shot = _standardised(contexts.evidence(np.full(n, UNLABELLED, np.int32)))
    evidence, labels = zero_shot, _joint_labels(zero_shot, dataset)
    for _ in range(rounds):
        if max_tokens is not None and contexts.n_tokens >= max_tokens:
            break
        drawn = [balanced_shots(labels, evidence, rng) for _context in range(N_CONTEXTS)]
        evidence = np.mean([contexts.evidence(shots) for shots in drawn], axis=0)
        labels = _joint_labels(evidence, dataset)
    if evidence is not zero_shot:
        labels = _joint_labels(_standardised(evidence) + zero_shot, dataset)
    return BaselineLabels(labels, contexts.n_tokens)


def _bootstrapping_there(
    model: ScoringModel,
    dataset: Dataset,
    config: SearchConfig,
    rounds: int,
    max_tokens: int | None,
) -> BaselineLabels:
    """Balanced bootstrapping, where the model is."""
    return balanced_bootstrapping(dataset, model, config, rounds=rounds, max_tokens=max_tokens)


def balanced_shots(
    labels: IntArray, evidence: FloatArray, rng: np.random.Generator, size: int = N_SHOTS
) -> IntArray:
    """Labels of a few examples, ``[n]`` int32, -1 for the others.

    Of every label that there is as many are drawn (fewer where fewer have it), an example with a
    probability that grows with its rank by margin, the evidence for its label above that for the
    next one.

    Args:
        labels: ``[n]`` the current labels.
        evidence: ``[n, n_labels]`` what speaks for each label.
        rng: What draws.
        size: Examples to draw, at most half of all.
    """
    n = len(labels)
    margin = own_margins(evidence, labels)
    size = min(size, max(1, n // 2))
    present = np.unique(labels)
    counts = size // len(present) + (rng.permutation(len(present)) < size % len(present))
    shots = np.full(n, UNLABELLED, np.int32)
    for label, count in zip(present, counts, strict=True):
        own = np.flatnonzero(labels == label)
        rank = 1.0 + margin[own].argsort(kind="stable").argsort(kind="stable")
        chosen = rng.choice(own, min(int(count), len(own)), replace=False, p=rank / rank.sum())
        shots[chosen] = label
    return shots


def _standardised(evidence: FloatArray) -> FloatArray:
    """Evidence of mean 0 in each row and of mean square 1 over all; 0 where it says nothing."""
    centred: FloatArray = evidence - evidence.mean(axis=1, keepdims=True)
    scale = float(np.sqrt((centred**2).mean()))
    return centred / scale if scale > 0 else centred


def _joint_labels(evidence: FloatArray, dataset: Dataset) -> IntArray:
    """The most probable labels that keep the constraints, ``[n]`` int32."""
    labels = evidence.argmax(axis=1).astype(np.int32)
    logs = evidence - np.logaddexp.reduce(evidence, axis=1, keepdims=True)
    probabilities = np.exp(logs).astype(np.float32)
    fixed = np.zeros(len(dataset), np.bool_)
    return consistent_labels(probabilities, labels, fixed, dataset.constraints)


def initial_labels(kind: str, gold: IntArray, n_labels: int, k: int, seed: int) -> IntArray:
    """Labels of ``k`` random examples for a search to start from (paper, figure 9), ``[n]`` int32.

    Args:
        kind: ``golden`` (all right), ``worst`` (all wrong) or ``random``.
        gold: ``[n]``, -1 where unknown.
        n_labels: Size of the label space.
        k: Number of labelled examples; fewer where less gold is known.
        seed: Seed of the draw.

    Raises:
        InputError: Unknown kind, or no gold.
    """
    known = np.flatnonzero(gold != UNLABELLED)
    if not len(known):
        raise InputError("no example has a gold label to start from; add gold labels to the data")
    rng = np.random.default_rng([seed, len(gold), k])
    chosen = rng.choice(known, min(k, len(known)), replace=False)
    labels = np.full(len(gold), UNLABELLED, np.int32)
    if kind == "golden":
        labels[chosen] = gold[chosen]
    elif kind == "worst":
        shift = rng.integers(1, n_labels, size=len(chosen))
        labels[chosen] = (gold[chosen] + shift) % n_labels
    elif kind == "random":
        labels[chosen] = rng.integers(n_labels, size=len(chosen))
    else:
        raise InputError(f"unknown initial labels {kind!r}; pass golden, worst or random")
    return labels
