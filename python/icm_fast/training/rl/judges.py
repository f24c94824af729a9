"""Which of two continuations is better: by a reward model, or by a language model in both orders.

Either way it does not matter which policy comes first: a reward model reads one text at a time, and
a language model gets both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.errors import InputError
from icm_fast.evaluation.many_shot import calibrate, many_shot
from icm_fast.model.loaded import LoadedModel
from icm_fast.tasks.assembly import TRUTH_LABELS
from icm_fast.tasks.preference import preference_claim
from icm_fast.training.reward.model import RewardModel
from icm_fast.training.rl.prompts import DIALOGUE, judged_text, response_of
from icm_fast.types import BoolArray, Dataset, Example, FloatArray, LabelSpace

TIE = 0.5

_LEAST_GAP = 1e-3
_GAP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Bout:
    """A prompt and what two policies wrote after it."""

    prompt: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """What a judge says of bouts.

    Attributes:
        scores: ``[n, 2]``, of ``a`` and of ``b``; higher is better: rewards, or of a language model
            the calibrated log-odds that this continuation, named first, is the better one.
        points: ``[n]``: 1 where ``a`` wins, 0 where ``b`` does, 0.5 for a tie.
        order_gap: Of a reward model: how much a reward changes with the order of the texts at most,
            by rounding; differences no greater are ties.
        order_disagreement: Of a language model: the share of bouts whose winner turns with the
            order; they are ties.
    """

    scores: FloatArray
    points: FloatArray
    order_gap: float | None = None
    order_disagreement: float | None = None


def judge_by_rewards(
    judge: RewardModel,
    kind: str,
    bouts: Sequence[Bout],
    *,
    tie_margin: float = 0.0,
    batch_size: int = 16,
) -> Verdicts:
    """Compare the rewards of both continuations.

    Args:
        judge: The reward model.
        kind: Of the prompts.
        bouts: What to judge.
        tie_margin: Rewards that differ by no more are a tie.
        batch_size: Texts in one forward pass.

    Raises:
        InputError: A text too long for the judge, or rewards that depend on the order of the texts.
    """
    pairs = [[judged_text(kind, bout.prompt, text) for text in (bout.a, bout.b)] for bout in bouts]
    # Each text once and sorted: who is a and who is b cannot change the batches, nor a reward.
    texts = sorted({text for pair in pairs for text in pair})
    rewards = judge.score(texts, batch_size=batch_size).astype(np.float64)
    swapped = judge.score(texts[::-1], batch_size=batch_size)[::-1]
    gap = float(np.abs(rewards - swapped).max())
    if gap > max(_LEAST_GAP, _GAP_SHARE * float(rewards.std())):
        raise InputError(
            f"the rewards of {judge.name} change by up to {gap:.3g} with the order of the texts, "
            f"and spread by {rewards.std():.3g} only; load it with dtype float32"
        )
    reward_of = dict(zip(texts, rewards, strict=True))
    scores = np.array([[reward_of[text] for text in pair] for pair in pairs], dtype=np.float64)
    difference, margin = scores[:, 0] - scores[:, 1], max(tie_margin, gap)
    points = _points(difference > margin, difference < -margin, bouts)
    return Verdicts(scores, points, order_gap=gap)


def judge_by_claims(
    judge: LoadedModel, kind: str, bouts: Sequence[Bout], *, tie_margin: float = 0.0
) -> Verdicts:
    """Ask a language model, without demonstrations, for the claim of ``alpaca-preference``.

    It is asked whether ``a`` is better than ``b`` and whether ``b`` is better than ``a``. One wins
    if the first is affirmed and the other denied; all else is a tie. A preference of the model for
    one of the two words is removed by calibration over all claims, which hold both orders.

    Args:
        judge: The language model.
        kind: Of the prompts; the claim is about responses, so it has to be ``dialogue``.
        bouts: What to judge.
        tie_margin: Log-odds no further from 0 count as undecided.

    Raises:
        InputError: Another kind, or a claim that does not fit the judge.
    """
    if kind != DIALOGUE:
        raise InputError(
            f"a language model judges responses of kind {DIALOGUE}, not {kind}; judge with a "
            "reward model"
        )
    claims = []
    for number, bout in enumerate(bouts):
        a, b = (response_of(kind, text) for text in (bout.a, bout.b))
        claims.append(Example(f"{number}-a", preference_claim(bout.prompt, a, b)))
        claims.append(Example(f"{number}-b", preference_claim(bout.prompt, b, a)))
    dataset = Dataset(tuple(claims), LabelSpace(TRUTH_LABELS), name="alpaca-preference")
    said = calibrate(many_shot(None, None, dataset, model=judge).scores)
    scores: FloatArray = (said[:, 1] - said[:, 0]).reshape(-1, 2)
    yes, no = scores > tie_margin, scores < -tie_margin
    points = _points(yes[:, 0] & no[:, 1], no[:, 0] & yes[:, 1], bouts)
    turned = (yes.all(1) | no.all(1)) & _different(bouts)
    return Verdicts(scores, points, order_disagreement=float(turned.mean()))


def _points(a_wins: BoolArray, b_wins: BoolArray, bouts: Sequence[Bout]) -> FloatArray:
    """Equal texts are a tie, whatever the judge says."""
    different = _different(bouts)
    return np.where(a_wins & different, 1.0, np.where(b_wins & different, 0.0, TIE))


def _different(bouts: Sequence[Bout]) -> BoolArray:
    return np.array([bout.a != bout.b for bout in bouts])
