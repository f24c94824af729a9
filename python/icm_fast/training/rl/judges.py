"""Which of two continuations is better: by a reward model, or by a language model in both orders.

Either way it does not matter which policy comes first: a reward model reads one text at a time, and
a language model gets both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.many_shot import calibrate, many_shot
from icm_fast.evaluation.prompt_formats import chat_pieces
from icm_fast.model.loaded import LoadedModel
from icm_fast.scoring.local import TreeScorer
from icm_fast.tasks.assembly import TRUTH_LABELS
from icm_fast.tasks.preference import preference_claim
from icm_fast.training.chat import PLAIN, Prompt, check_format, plain_text
from icm_fast.training.reward.model import RewardModel
from icm_fast.training.rl.prompts import DIALOGUE, PromptForm
from icm_fast.types import (
    UNLABELLED,
    BoolArray,
    Dataset,
    Example,
    FloatArray,
    LabelSpace,
    ScoreArray,
)

TIE = 0.5

_LEAST_GAP = 1e-3
_GAP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Bout:
    """A prompt and what two policies wrote after it, as :func:`policy_text` leaves it open."""

    prompt: Prompt
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
        kind: Of the prompts; the judge reads them in its own format.
        bouts: What to judge.
        tie_margin: Rewards that differ by no more are a tie.
        batch_size: Texts in one forward pass.

    Raises:
        InputError: A text too long for the judge, or rewards that depend on the order of the texts.
    """
    form = PromptForm(kind)
    pairs = [[form.answered(bout.prompt, text) for text in (bout.a, bout.b)] for bout in bouts]
    # Each text once and sorted: who is a and who is b cannot change the batches, nor a reward.
    answers = {plain_text(*answer): answer for pair in pairs for answer in pair}
    texts = sorted(answers)
    rewards = _scores(judge, [answers[text] for text in texts], batch_size)
    swapped = _scores(judge, [answers[text] for text in texts[::-1]], batch_size)[::-1]
    gap = float(np.abs(rewards - swapped).max())
    if gap > max(_LEAST_GAP, _GAP_SHARE * float(rewards.std())):
        raise InputError(
            f"the rewards of {judge.name} change by up to {gap:.3g} with the order of the texts, "
            f"and spread by {rewards.std():.3g} only; load it with dtype float32"
        )
    reward_of = dict(zip(texts, rewards, strict=True))
    scores = np.array(
        [[reward_of[plain_text(*answer)] for answer in pair] for pair in pairs], dtype=np.float64
    )
    difference, margin = scores[:, 0] - scores[:, 1], max(tie_margin, gap)
    points = _points(difference > margin, difference < -margin, bouts)
    return Verdicts(scores, points, order_gap=gap)


def _scores(judge: RewardModel, answers: Sequence[tuple[Prompt, str]], size: int) -> FloatArray:
    prompts, texts = zip(*answers, strict=True)
    return judge.score_answers(prompts, texts, batch_size=size).astype(np.float64)


def judge_by_claims(
    judge: LoadedModel,
    kind: str,
    bouts: Sequence[Bout],
    *,
    tie_margin: float = 0.0,
    format: str = PLAIN,
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
        format: How the judge is asked: ``plain``, or ``chat``: in its tokenizer's template.

    Raises:
        InputError: Another kind, or a claim that does not fit the judge.
    """
    check_format(format, judge.tokenizer)
    form = PromptForm(kind)
    if kind != DIALOGUE:
        raise InputError(
            f"a language model judges responses of kind {DIALOGUE}, not {kind}; judge with a "
            "reward model"
        )
    claims = []
    for number, bout in enumerate(bouts):
        a, b = (form.response(text) for text in (bout.a, bout.b))
        asked = form.shown(bout.prompt)
        claims.append(Example(f"{number}-a", preference_claim(asked, a, b)))
        claims.append(Example(f"{number}-b", preference_claim(asked, b, a)))
    dataset = Dataset(tuple(claims), LabelSpace(TRUTH_LABELS), name="alpaca-preference")
    said = calibrate(_claim_scores(judge, dataset, format))
    scores: FloatArray = (said[:, 1] - said[:, 0]).reshape(-1, 2)
    yes, no = scores > tie_margin, scores < -tie_margin
    points = _points(yes[:, 0] & no[:, 1], no[:, 0] & yes[:, 1], bouts)
    turned = (yes.all(1) | no.all(1)) & _different(bouts)
    return Verdicts(scores, points, order_disagreement=float(turned.mean()))


def _claim_scores(judge: LoadedModel, claims: Dataset, format: str) -> ScoreArray:
    """Log-probabilities of both words for every claim, ``[n_claims, 2]``."""
    if format == PLAIN:
        return many_shot(None, None, claims, model=judge).scores
    pieces = chat_pieces(claims, judge.tokenizer)
    unlabelled = np.full(len(claims), UNLABELLED, np.int32)
    return TreeScorer(judge, pieces, SearchConfig()).score(unlabelled).scores


def _points(a_wins: BoolArray, b_wins: BoolArray, bouts: Sequence[Bout]) -> FloatArray:
    """Equal texts are a tie, whatever the judge says."""
    different = _different(bouts)
    return np.where(a_wins & different, 1.0, np.where(b_wins & different, 0.0, TIE))


def _different(bouts: Sequence[Bout]) -> BoolArray:
    return np.array([bout.a != bout.b for bout in bouts])
