"""Other sources of labels to compare found ones with (paper, section 3.2); evaluation only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.many_shot import many_shot, predict
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.scoring.models import ScoringModel

N_FEW_SHOT = 8
"""How many demonstrations with zero-shot labels few-shot bootstrapping starts from."""


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
