"""Where a search starts: what the model says of each example alone, and among confident others.

A round takes the labels that the evidence so far gives, and deals the more confident half of each
label out to short contexts. Every example is scored after several of them, none of which holds it.
The evidence is that of the rounds plus half that of the example alone. Each is calibrated, and
counts the same whatever the size of its numbers. Where texts can be scored, the same is done the
other way round, every second round: how probable is each text after each label (a noisy channel,
arXiv 2108.04106)? That counts by how much it agrees with the rest.

Calibration makes the labels about equally frequent. How frequent they are is in the evidence of all
rounds, too: two labels get the shares that it lets expect (:mod:`icm_fast.scoring.shares`), three
and more those that it shows plainly (:mod:`icm_fast.scoring.mixture`). Rounds show labels at equal
shares unless shares are known: by contexts of mostly one label a rare one looks rarer than it is
(dev/LOG.md).

Half of the labels serve better than all: the half that is left out is wrong more often; and several
short contexts tell more than a long one (dev/LOG.md). On choosing confident demonstrations: Naive-
SemiICL, arXiv 2503.03062.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from icm_fast.plan.texts import shown_contexts
from icm_fast.scoring.mixture import believed_mixture
from icm_fast.scoring.posterior import (
    calibrated_evidence,
    centred,
    own_margins,
    share_offset,
    view_evidence,
)
from icm_fast.scoring.shares import expected_shares
from icm_fast.tasks.consistent import consistent_labels
from icm_fast.types import (
    UNLABELLED,
    BoolArray,
    Constraint,
    Dataset,
    FloatArray,
    IntArray,
    ScoreArray,
)

SHARE_SHOWN = 0.5
"""Share of the examples of each label that a round shows."""

SHOTS = 8
"""Demonstrations of a context of a round, at most: several short contexts together tell more than a
long one (dev/LOG.md)."""

CONTEXTS_EACH = 4
"""Contexts of a round after which an example is scored, at most."""

_ALONE = 0.5
"""How much each example alone counts beside the rounds; measured (dev/LOG.md)."""

_TELLS_NOTHING = 0.01
"""Root mean square of evidence up to which a view tells nothing; from twice that on it counts."""
_AGREEMENT = 0.65
"""As ``AGREEMENT`` of mixtures, for the few examples of a search; measured (dev/LOG.md)."""
_UNEQUAL = 6.0
"""Nats by which unequal shares of three and more labels have to fit better; measured."""
_SMALLEST_SHARE = 0.01
_UNRELATED, _RISE, _FULL_WEIGHT = 0.2, 0.2, 0.8
"""The correlation with the rest up to which the channel counts nothing, how much more makes it
count fully, and how much that is. Measured (dev/LOG.md)."""
_CHANCE = 1.5
"""Standard deviations of a correlation by chance up to which it counts nothing."""

Evaluate = Callable[[IntArray, BoolArray], ScoreArray]
"""Scores of some examples under a labelling: ``[n]`` and ``[n]`` bool to ``[n, n_labels]``."""
Read = Callable[[IntArray], ScoreArray]
"""Scores of all texts after each label under a labelling: ``[n]`` to ``[n, n_labels]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a bootstrap found.

    Attributes:
        together: ``[n, n_labels]`` float32, the evidence for each label, about in nats.
        texts: ``[n, n_labels]`` what texts after labels say, whether it counted or not, without the
            mean of each row; None where it was not asked for.
        shares: ``[n_labels]`` of the labels among examples that are not known, where the evidence
            shows that they are far from equal ones, and so has them; None otherwise.
    """

    together: ScoreArray
    texts: FloatArray | None = None
    shares: FloatArray | None = None


def bootstrap(
    dataset: Dataset,
    evaluate: Evaluate,
    *,
    read: Read | None = None,
    fixed: IntArray | None,
    rounds: int,
    shares: tuple[float, ...] = (),
    seed: int = 0,
    shots: int = SHOTS,
    enough: Callable[[], bool] = lambda: False,
) -> Evidence:
    """The evidence for each label of each example.

    Args:
        dataset: Examples, label space and constraints.
        evaluate: Scores a labelling.
        read: Scores texts after labels, of each example alone and, every other time that labels are
            shown, among those that were shown before; None leaves the noisy channel out.
        fixed: ``[n]`` known labels, which are shown in every round; -1 where there is none.
        rounds: How often labels are shown.
        shares: Expected shares of the labels. When empty, labels without constraints get those
            that the evidence lets expect.
        seed: Draws which demonstrations stand in which context.
        shots: Maximum number of demonstrations of a context; 0 for all in one.
        enough: Whether no further labelling may be scored.
    """
    known = np.full(len(dataset), UNLABELLED, np.int32) if fixed is None else fixed
    free = known == UNLABELLED
    alone = View.of(evaluate(known, np.ones(len(known), np.bool_)), free)
    texts = [] if read is None or enough() else [unit(read(known), free)]
    rest = np.log(shares) if shares else np.zeros(alone.evidence.shape[1])
    views: list[View] = []
    shown: IntArray | None = None
    for number in range(rounds):
        if read is not None and number % 2 and shown is not None and not enough():
            texts.append(unit(read(shown), free))  # the same half, asked the other way round
            continue
        evidence = _together(alone, views, texts, free) + rest
        before, shown = shown, confident_half(evidence, known, dataset.constraints)
        if enough() or (before is not None and (before == shown).all()):
            break
        views.append(_among(evaluate, round_contexts(shown, seed, shots), free, enough))
    evidence, found = _together(alone, views, texts, free), None
    if views and not shares and not dataset.constraints:  # alone shows it too badly; measured
        among = _mean_evidence(views)
        if among[free].any(axis=1).all():  # a bound of tokens may have left some out
            evidence[free], found = _with_shares(evidence[free], alone.evidence[free], among[free])
    return Evidence(evidence.astype(np.float32), _said(texts) if texts else None, found)


def round_contexts(
    shown: IntArray, seed: int, shots: int = SHOTS
) -> list[tuple[IntArray, BoolArray]]:
    """The labellings of a round, one for each context, and the examples scored under them.

    Args:
        shown: ``[n]``, the labels of all demonstrations and -1 for the others.
        seed: Draws which demonstrations stand in which context.
        shots: Maximum number of demonstrations of a context; with 0 all stand in one, in which
            each is scored after the others.
    """
    n = len(shown)
    if not shots:
        return [(shown, np.ones(n, np.bool_))]
    contexts = shown_contexts(shown, seed, shots)
    scored = np.zeros((len(contexts), n), np.bool_)
    left = np.full(n, CONTEXTS_EACH)
    for turn in range(len(contexts)):  # the contexts that do not hold an example, in rotation
        place = (np.arange(n) + turn) % len(contexts)
        held = np.array([row in contexts[k] for row, k in enumerate(place)])
        scored[place[(left > 0) & ~held], np.flatnonzero((left > 0) & ~held)] = True
        left[~held] -= 1
    found = []
    for rows, order in zip(scored, contexts, strict=True):
        labels = np.full(n, UNLABELLED, np.int32)
        labels[order] = shown[order]
        if rows.any():
            found.append((labels, rows))
    return found


def _among(
    evaluate: Evaluate,
    contexts: list[tuple[IntArray, BoolArray]],
    free: BoolArray,
    enough: Callable[[], bool],
) -> View:
    """What the model says of all examples after the contexts of a round, their mean.

    Nothing is said of an example whose contexts a bound of tokens leaves out.
    """
    found: list[FloatArray] = []
    counts: list[BoolArray] = []
    sizes: list[float] = []
    for labels, rows in contexts:
        if found and enough():
            break
        view = View.of(evaluate(labels, rows)[rows], free[rows])
        whole = np.zeros((len(free), view.evidence.shape[1]))
        whole[rows] = view.evidence
        found.append(whole)
        counts.append(rows)
        sizes.append(view.size)
    n_each = np.maximum(np.sum(counts, axis=0), 1)
    return View(np.sum(found, axis=0) / n_each[:, None], float(np.mean(sizes)))


def _with_shares(
    evidence: FloatArray, alone: FloatArray, among: FloatArray
) -> tuple[FloatArray, FloatArray | None]:
    """The evidence with the shares of the labels that it shows, and these, ``[n_labels]``.

    Two labels get what :func:`~icm_fast.scoring.shares.expected_shares` expects, which is told
    where it is far from equal shares; more labels what the evidence shows plainly.

    Args:
        evidence: ``[n, n_labels]``, all of it.
        alone: That of each example alone.
        among: That of the rounds.
    """
    n_rows, n_labels = evidence.shape
    if n_labels == 2:
        expected = expected_shares((evidence, among))
        if expected is None:
            return evidence, None
        return expected.of(evidence), expected.together if expected.are_far else None
    believed = believed_mixture(evidence, alone, among, agreement=_AGREEMENT, unequal=_UNEQUAL)
    if believed is None:
        return evidence, None
    counts = np.bincount(believed.mixture.labels(evidence), minlength=n_labels)
    shares = np.maximum(counts / n_rows, _SMALLEST_SHARE)
    shares = np.asarray(shares / shares.sum(), np.float64)
    return evidence + share_offset(evidence, shares), shares


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one way of asking says of all examples.

    Attributes:
        evidence: ``[n, n_labels]``, as :func:`~icm_fast.scoring.posterior.view_evidence` scales it.
        size: Root mean square of the calibrated log-probabilities, without the mean of each row.
    """

    evidence: FloatArray
    size: float

    @classmethod
    def of(cls, scores: ScoreArray, free: BoolArray) -> View:
        """The view of scores ``[n, n_labels]``, judged by the free examples."""
        nats = centred(calibrated_evidence(scores, free))[free if free.any() else slice(None)]
        return cls(view_evidence(scores, free), float(np.sqrt((nats**2).mean())))


def confident_half(
    evidence: FloatArray, known: IntArray, constraints: tuple[Constraint, ...]
) -> IntArray:
    """Labels of the more confident half of each label, ``[n]`` int32 and -1 for all others.

    Args:
        evidence: ``[n, n_labels]``.
        known: ``[n]`` known labels, all of which are kept.
        constraints: Rules that the labels keep.
    """
    free = known == UNLABELLED
    labels = evidence_labels(evidence, known, constraints)
    margins = own_margins(evidence, labels)
    shown = known.copy()
    for label in range(evidence.shape[1]):
        mine = np.flatnonzero(free & (labels == label))
        order = mine[np.argsort(-margins[mine], kind="stable")]
        shown[order[: round(SHARE_SHOWN * len(order) + 1e-9)]] = label
        if len(order) == 1:
            shown[order] = label
    return shown


def evidence_labels(
    evidence: FloatArray | ScoreArray, known: IntArray, constraints: tuple[Constraint, ...]
) -> IntArray:
    """The label of each example for which most speaks, ``[n]`` int32.

    Args:
        evidence: ``[n, n_labels]``.
        known: ``[n]`` known labels, all of which are kept; -1 where there is none.
        constraints: Rules that the labels keep.
    """
    free = known == UNLABELLED
    labels = np.where(free, evidence.argmax(axis=1), known).astype(np.int32)
    likely = np.exp(evidence - np.logaddexp.reduce(evidence, axis=1, keepdims=True))
    return consistent_labels(likely.astype(np.float32), labels, ~free, constraints)


def _together(
    alone: View, views: list[View], texts: list[FloatArray], free: BoolArray
) -> FloatArray:
    """Half the example alone plus the mean of the rounds, and what texts say.

    Both are taken at the same size; their sum has the size that both together have in nats. The
    channel is added by how much it agrees: texts may tell nothing about the labels.

    Args:
        alone: Each example alone.
        views: The rounds.
        texts: The channel: each example alone and the rounds, of unit size.
        free: ``[n]`` bool, the examples by which it is judged.
    """
    asked, size = _level(alone.evidence, free), alone.size
    if views:
        among = _mean_evidence(views)
        asked = _ALONE * asked + _level(among, free)
        size += float(np.mean([view.size for view in views]))
    if texts:
        asked, said = unit(asked, free), unit(_said(texts), free)
        agreement = float((asked * said)[free].mean()) if free.any() else 0.0
        asked = asked + channel_weight(agreement, int(free.sum())) * said
    found: FloatArray = asked * (size / _size(asked))
    return found


def _mean_evidence(views: list[View]) -> FloatArray:
    return np.asarray(np.mean([view.evidence for view in views], axis=0), np.float64)


def _level(evidence: FloatArray, free: BoolArray) -> FloatArray:
    """Evidence of unit size, and none of a view that says the same of all examples.

    Args:
        evidence: ``[n, n_labels]``, of :func:`~icm_fast.scoring.posterior.view_evidence`.
        free: ``[n]`` bool, the examples by which it is judged.
    """
    told = _size(evidence[free] if free.any() else evidence)
    return unit(evidence, free) * float(np.clip(told / _TELLS_NOTHING - 1.0, 0.0, 1.0))


def _said(texts: list[FloatArray]) -> FloatArray:
    """What the channel says: the rounds, or each example alone where there are none."""
    return np.asarray(np.mean(texts[1:] or texts, axis=0), np.float64)


def channel_weight(agreement: float, n: int) -> float:
    """How much the channel counts beside the rest.

    Args:
        agreement: The correlation of both.
        n: Examples that it was taken over; of few examples more of it is by chance.
    """
    unrelated = max(_UNRELATED, _CHANCE / max(n, 1) ** 0.5)
    return _FULL_WEIGHT * float(np.clip((agreement - unrelated) / _RISE, 0.0, 1.0))


def unit(values: ScoreArray | FloatArray, counts: BoolArray | None = None) -> FloatArray:
    """Values without the mean of each row, of mean square 1 over the rows that count, or all."""
    rows = centred(np.asarray(values, np.float64))
    return rows / _size(rows if counts is None or not counts.any() else rows[counts])


def _size(evidence: FloatArray) -> float:
    return max(float(np.sqrt((evidence**2).mean())), 1e-12)
