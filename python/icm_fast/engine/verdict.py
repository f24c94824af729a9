"""Whether found labels can be trusted, told without gold.

Labels that predict each other well need not be right: a search finds coherent labels, and a model
that cannot do a task has coherent mistakes. What speaks for labels is that ways of asking which err
differently say the same: the model that sees a text alone, and the model that sees it among the
others with their labels; and, asked the other way round, which texts it finds likely after which
label. A few such signs, and how often labels with these signs were usable on
tasks whose gold is known, give the chance that labels are usable (``benchmarks/quality``).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

import numpy as np

from icm_fast.engine.bootstrap import Evidence, unit
from icm_fast.runs.verdict import DOUBT, REJECT, TRUST, Verdict
from icm_fast.scoring.posterior import (
    calibrated_evidence,
    expected_accuracy,
    mutual_information,
    posterior,
    view_evidence,
)
from icm_fast.types import UNLABELLED, FloatArray, IntArray, ScoreArray

FEWEST_LABELS = 12
"""With fewer labelled examples than this, no verdict is given."""
TRUST_FROM, DOUBT_FROM = 0.6, 0.25
"""Chances from which labels are trusted, and below which they are rejected."""
GRAVE = frozenset(("one-sided", "no-signal", "second-opinion"))
"""Concerns with which labels are judged one level worse."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What speaks for labels, each at most 1 and about 0 where nothing does.

    Attributes:
        alone: Agreement above chance (Cohen's kappa) with the labels that the model gives each
            text without any demonstration, calibrated.
        among: Agreement above chance with those that it gives each text after all others.
        support: How much of the evidence that texts alone have for their best labels, above their
            mean, they have for these labels.
        tells: Mutual information of texts and predictions without demonstrations, as a share of the
            largest possible one.
        texts: Agreement above chance with the labels after which the model finds each text most
            likely; None where it was not asked.
    """

    alone: float
    among: float
    support: float
    tells: float
    texts: float | None = None

    def content(self) -> dict[str, float]:
        """As plain JSON types."""
        return {name: round(float(v), 4) for name, v in asdict(self).items() if v is not None}


_CONSTANT = -2.44
_WEIGHTS = {"alone": 2.02, "among": 1.79, "support": 1.45, "tells": 3.05}
_TEXTS_CONSTANT = -2.2
_TEXTS_WEIGHTS = {"alone": 0.91, "among": 1.95, "support": 0.34, "tells": 2.7, "texts": 2.48}
"""Fitted by ``python -m benchmarks.quality.verdict`` (benchmarks/results/verdict.json)."""

_AMONG = 0.5
"""How much the final scores count in confidence beside what a search started from; measured."""


def label_confidence(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Probability of each label, ``[n]``; 0 where unlabelled.

    Args:
        labels: ``[n]``, -1 where unlabelled.
        probabilities: ``[n, n_labels]``, of :func:`label_probabilities`.
    """
    own = probabilities[np.arange(len(labels)), labels]
    confidence: FloatArray = np.where(labels != UNLABELLED, own, 0.0)
    return confidence


def label_probabilities(
    labels: IntArray, alone: ScoreArray, among: ScoreArray, start: Evidence | None = None
) -> FloatArray:
    """Probabilities of all labels of all examples by all views together, ``[n, n_labels]``.

    The views rank examples better together than any does. Their level is set by how often the
    labels are those of the view that has most reason to err differently.

    Args:
        labels: ``[n]``, -1 where unlabelled.
        alone: ``[n, n_labels]`` log-probabilities without demonstrations.
        among: ``[n, n_labels]`` log-probabilities given all other labels.
        start: What a bootstrap found; None where there was none.
    """
    together, opinion = _all_views(alone, among, start)
    given = labels != UNLABELLED
    other = opinion.argmax(axis=1).astype(np.int32)
    accuracy = expected_accuracy(labels[given], other[given], alone.shape[1])
    return posterior(together, accuracy).probabilities.astype(np.float64)


def _all_views(
    alone: ScoreArray, among: ScoreArray, start: Evidence | None
) -> tuple[FloatArray, FloatArray]:
    """The evidence of all views, and that of the one that errs differently."""
    single = calibrated_evidence(alone)
    if start is None:
        return single + calibrated_evidence(among), single
    together = unit(start.together) + _AMONG * unit(view_evidence(among))
    return together, single if start.texts is None else start.texts


def signs_of(
    labels: IntArray,
    alone: ScoreArray,
    among: ScoreArray,
    free: IntArray | None = None,
    texts: FloatArray | None = None,
    wording: IntArray | None = None,
) -> Signs | None:
    """The signs of labels; None with fewer than :data:`FEWEST_LABELS` labelled examples.

    Args:
        labels: ``[n]``, -1 where unlabelled.
        alone: ``[n, n_labels]`` log-probabilities without demonstrations.
        among: ``[n, n_labels]`` log-probabilities given all other labels.
        free: ``[n]``, -1 where the search was free to choose; all when absent.
        texts: ``[n, n_labels]`` what texts after labels say; None where that was not asked.
        wording: ``[n]``, which examples share their wording
            (:func:`icm_fast.tasks.wording.shared_wording`); all when absent.
    """
    counts = labels != UNLABELLED
    if free is not None:
        counts &= free == UNLABELLED
    found = labels[counts]
    if len(found) < FEWEST_LABELS:
        return None
    same = np.zeros(len(found), np.int32) if wording is None else wording[counts]
    one, other = alone[counts].astype(np.float64), among[counts].astype(np.float64)
    said = None if texts is None else texts[counts]
    information = 0.0
    for value in np.unique(same):  # what a wording says, whatever the text, is no evidence
        mine = same == value
        information += float(mine.mean()) * mutual_information(one[mine])
        one[mine], other[mine] = (calibrated_evidence(view[mine]) for view in (one, other))
    return signs_from(found, one, other, information, said, same)


def signs_from(
    labels: IntArray,
    alone: FloatArray,
    among: FloatArray,
    information: float,
    texts: FloatArray | None = None,
    wording: IntArray | None = None,
) -> Signs:
    """The signs of labels from the evidence of both views.

    Args:
        labels: ``[n]``, none of them -1.
        alone: ``[n, n_labels]`` evidence of texts alone: what is left of log-probabilities without
            their mean prediction, on any scale.
        among: ``[n, n_labels]`` evidence of texts among others.
        information: Mutual information of texts alone and their predictions in nats.
        texts: ``[n, n_labels]`` what texts after labels say; None where that was not asked.
        wording: ``[n]``, which texts share their wording; all when absent.
    """
    n_labels = alone.shape[1]
    rows = np.arange(len(labels))
    own = alone.argmax(axis=1)
    best, mine = float(alone[rows, own].mean()), float(alone[rows, labels].mean())
    middle = float(alone.mean())
    return Signs(
        alone=_kappa(labels, own, wording),
        among=_kappa(labels, among.argmax(axis=1), wording),
        support=float(np.clip((mine - middle) / max(best - middle, 1e-9), -1.0, 1.0)),
        tells=information / math.log(n_labels),
        texts=None if texts is None else _kappa(labels, texts.argmax(axis=1), wording),
    )


def agreement_above_chance(
    labels: IntArray, other: IntArray, free: IntArray | None = None, wording: IntArray | None = None
) -> float | None:
    """How much other labels agree with those that were found, above chance (Cohen's kappa).

    Args:
        labels: ``[n]``, -1 where unlabelled.
        other: ``[n]``, none of them -1.
        free: ``[n]``, -1 where the search was free to choose; all when absent.
        wording: ``[n]``, which examples share their wording; all when absent.

    Returns:
        None with fewer than :data:`FEWEST_LABELS` labelled examples.
    """
    counts = labels != UNLABELLED
    if free is not None:
        counts &= free == UNLABELLED
    if counts.sum() < FEWEST_LABELS:
        return None
    return _kappa(labels[counts], other[counts], None if wording is None else wording[counts])


def with_texts(signs: Signs, labels: IntArray, texts: FloatArray) -> Signs:
    """The signs with what the texts of some examples say; without it where they are too few.

    Args:
        signs: Signs of all examples.
        labels: ``[n]`` labels of some of them.
        texts: ``[n, n_labels]`` what their texts after labels say.
    """
    if len(labels) < FEWEST_LABELS:
        return signs
    return replace(signs, texts=_kappa(labels, texts.argmax(axis=1)))


def verdict_of(signs: Signs | None, concerns: Collection[str] = ()) -> Verdict | None:
    """The verdict on labels with these signs; None without signs.

    Args:
        signs: See :func:`signs_of`.
        concerns: Kinds of :class:`~icm_fast.engine.concerns.Concern` that were found.
    """
    if signs is None:
        return None
    chance = usable_chance(signs)
    level = TRUST if chance >= TRUST_FROM else DOUBT if chance >= DOUBT_FROM else REJECT
    grave = sorted(GRAVE.intersection(concerns))
    if grave:
        level = DOUBT if level == TRUST else REJECT
    asked = {name: getattr(signs, name) for name in _SAID}
    reasons = [_SAID[name].text(value) for name, value in asked.items() if value is not None]
    against = [text for text, speaks in reasons if not speaks]
    against += [f"there is the concern {kind!r}, which see" for kind in grave]
    rest = [text for text, speaks in reasons if speaks]
    return Verdict(level, round(chance, 4), (*against, *rest), _ADVICE[level])


def usable_chance(signs: Signs) -> float:
    """Chance that labels with these signs are usable: a logistic regression on known tasks."""
    constant, weights = _CONSTANT, _WEIGHTS
    if signs.texts is not None:
        constant, weights = _TEXTS_CONSTANT, _TEXTS_WEIGHTS
    value = constant + sum(weight * getattr(signs, name) for name, weight in weights.items())
    return 1.0 / (1.0 + math.exp(-value))


@dataclass(frozen=True, slots=True)
class _Said:
    """How a sign is put into words: what it is, from where on it speaks for labels, what if not."""

    what: str
    least: float
    otherwise: str

    def text(self, value: float) -> tuple[str, bool]:
        """The sentence, and whether it speaks for the labels."""
        speaks = value >= self.least
        ending = "" if speaks else f", where {self.least:.2f} is usual: {self.otherwise}"
        return f"{self.what} {value:.2f}{ending}", speaks


_SAID = {
    "alone": _Said(
        "agreement above chance with what the model says of each text alone:",
        0.4,
        "the labels are not those that the label words mean to the model, or it cannot do the task",
    ),
    "texts": _Said(
        "agreement above chance with the labels after which it finds each text most likely:",
        0.4,
        "asked the other way round, the model says something else",
    ),
    "tells": _Said(
        "information about the labels that the model has of each text alone:",
        0.05,
        "without demonstrations the model hardly tells the texts apart",
    ),
    "among": _Said(
        "agreement above chance with what it says of each text among all others:",
        0.5,
        "the labels do not predict each other",
    ),
    "support": _Said(
        "support of the labels by the texts alone, of at most 1:",
        0.4,
        "texts alone speak for other labels",
    ),
}
_ADVICE = {
    TRUST: "",
    DOUBT: "Read the least certain rows, label 16 or more of them by hand and give them as known "
    "labels (fixed_labels; --known in label); or try label words and a prompt that the model "
    "understands better, or a larger model.",
    REJECT: "Do not use these labels. Try label words and a prompt that the model understands, a "
    "larger model, or known labels (fixed_labels; --known in label), and read the verdict again.",
}


def _kappa(one: IntArray, other: IntArray, wording: IntArray | None = None) -> float:
    """Cohen's kappa; 0 where one side has a single label. Chance is that within each wording."""
    chance, size = 0.0, int(max(one.max(), other.max())) + 1
    same = np.zeros(len(one), np.int32) if wording is None else wording
    for value in np.unique(same):
        mine = same == value
        shares = [np.bincount(side[mine], minlength=size) / mine.sum() for side in (one, other)]
        chance += float(mine.mean()) * float(shares[0] @ shares[1])
    return 0.0 if chance >= 1.0 else (float((one == other).mean()) - chance) / (1.0 - chance)
