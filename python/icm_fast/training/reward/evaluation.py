"""How often a reward model prefers the better response: by subset, by section, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from icm_fast.errors import InputError
from icm_fast.files.text import cell
from icm_fast.tasks.rows import PathLike, Row, read_rows
from icm_fast.training.reward.beginnings import read_rewards, truncated_line
from icm_fast.training.reward.figures import N_RESAMPLES, NO_SUBSET, Figure, figure, table
from icm_fast.training.reward.model import RewardModel
from icm_fast.training.reward.pairs import row_pair
from icm_fast.training.reward.rewardbench import (
    COUNTS,
    PRIOR_SETS,
    final_score,
    other_counts,
    section_scores,
    sections_of,
)
from icm_fast.training.reward.rewardbench2 import (
    NAME,
    RewardBench2Evaluation,
    evaluate_answers,
    holds_lists,
)
from icm_fast.types import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class RewardEvaluation:
    """Accuracies of a reward model on pairs. A pair with equal rewards counts as wrong.

    Attributes:
        subsets: By subset, in the order of the file.
        sections: RewardBench's sections, as far as the file holds subsets of theirs.
        score: RewardBench's score; None unless all four sections are there.
        overall: Share of all pairs, whatever their subset.
        n_ties: Pairs with equal rewards.
        other_counts: Pairs of those subsets of RewardBench of which the file has not the published
            number; the sections are weighted by the published numbers all the same.
        n_truncated: Texts that were longer than the model's context and read up to there.
    """

    subsets: Mapping[str, Figure]
    sections: Mapping[str, Figure]
    score: Figure | None
    overall: Figure
    n_ties: int
    other_counts: Mapping[str, int] = field(default_factory=dict)
    n_truncated: int = 0

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Tables for people."""
        parts = []
        if self.sections:
            rows = dict(self.sections) | ({"**score**": self.score} if self.score else {})
            parts.append(table("section", rows))
        parts.append(table("subset", {**self.subsets, "**all pairs**": self.overall}))
        known = {
            s for subsets in sections_of(PRIOR_SETS in self.sections).values() for s in subsets
        }
        unknown = [name for name in self.subsets if name not in known]
        if self.sections and unknown:
            parts.append(f"In no section of RewardBench: {', '.join(map(cell, unknown))}.")
        if self.n_ties:
            parts.append(f"{self.n_ties} pairs have equal rewards and count as wrong.")
        if self.other_counts:
            parts.append(_counts_warning(self.other_counts))
        if self.n_truncated:
            parts.append(truncated_line(self.n_truncated))
        return "\n\n".join(parts) + "\n"


def evaluate_reward(
    model: RewardModel,
    path: PathLike,
    *,
    seed: int = 0,
    prior_sets: bool = False,
    refuse_long: bool = False,
) -> RewardEvaluation:
    """Score the pairs of a file in RewardBench's schema.

    Args:
        model: The reward model.
        path: JSON, JSONL, CSV or Parquet file, or ``hub:NAME``, with the columns ``chosen``
            and ``rejected``, perhaps ``prompt`` and ``subset``.
        seed: Seed of the resamples.
        prior_sets: Whether RewardBench's prior sets are a section, of half the weight.
        refuse_long: Refuse a text that is longer than the model's context; otherwise the model
            reads its beginning, and such texts are counted.

    Raises:
        InputError: A file that cannot be read or used, or with ``refuse_long`` a long text.
    """
    rows = read_rows(path)
    if holds_lists(rows):
        raise InputError(
            f"{path} holds lists of answers, as {NAME} does, and no pairs; use "
            "evaluate_reward_file, which scores both"
        )
    return _evaluate_pairs(model, rows, seed, prior_sets, refuse_long)


def evaluate_reward_file(
    model: RewardModel,
    path: PathLike,
    *,
    seed: int = 0,
    prior_sets: bool = False,
    refuse_long: bool = False,
) -> RewardEvaluation | RewardBench2Evaluation:
    """Score a file of pairs as :func:`evaluate_reward`, or one in RewardBench 2's layout.

    In that layout ``chosen`` and ``rejected`` are lists of texts, correct and incorrect answers;
    it has no ``prior_sets``. The other arguments are those of :func:`evaluate_reward`.

    Raises:
        InputError: Same as in :func:`evaluate_reward`, or ``prior_sets`` with lists of answers.
    """
    rows = read_rows(path)
    if not holds_lists(rows):
        return _evaluate_pairs(model, rows, seed, prior_sets, refuse_long)
    if prior_sets:
        raise InputError(
            f"{path} holds lists of answers, as {NAME} does, which has no prior sets; leave out "
            "--prior-sets"
        )
    return evaluate_answers(model, rows, seed=seed, refuse_long=refuse_long)


def _evaluate_pairs(
    model: RewardModel, rows: Sequence[Row], seed: int, prior_sets: bool, refuse_long: bool
) -> RewardEvaluation:
    pairs = [row_pair(row) for row in rows]
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    answers = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    found, n_truncated = read_rewards(model, prompts, answers, refuse_long=refuse_long)
    rewards = found.reshape(-1, 2)
    subsets = [row.optional("subset") or NO_SUBSET for row in rows]
    right = rewards[:, 0] > rewards[:, 1]
    n_ties = int((rewards[:, 0] == rewards[:, 1]).sum())
    members = {
        name: [row for row, subset in enumerate(subsets) if subset == name]
        for name in dict.fromkeys(subsets)
    }
    return summarise(
        {name: right[chosen] for name, chosen in members.items()},
        texts={
            name: [(pairs[row].chosen, pairs[row].rejected) for row in chosen]
            for name, chosen in members.items()
        },
        n_ties=n_ties,
        seed=seed,
        prior_sets=prior_sets,
        n_truncated=n_truncated,
    )


def summarise(
    outcomes: Mapping[str, BoolArray],
    *,
    texts: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    n_ties: int = 0,
    seed: int = 0,
    prior_sets: bool = False,
    n_truncated: int = 0,
) -> RewardEvaluation:
    """Figures from whether each pair of each subset is right.

    Intervals are percentiles of bootstrap resamples within the subsets. Where a text stands in
    several pairs they are right or wrong together; then chosen and rejected texts are drawn, and a
    pair counts as often as both of its texts were (the pigeonhole bootstrap, Owen 2007).

    Args:
        outcomes: Subset to ``[n_pairs]`` bool.
        texts: Subset to chosen and rejected text of each pair; all are different by default.
        n_ties: For the record.
        seed: Seed of the resamples.
        prior_sets: Whether RewardBench's prior sets are a section.
        n_truncated: For the record.
    """
    random = np.random.Generator(np.random.Philox(seed))
    counts = {name: len(right) for name, right in outcomes.items()}
    accuracies = {name: float(right.mean()) for name, right in outcomes.items()}
    drawn: dict[str, FloatArray] = {
        name: _draw(right, texts[name] if texts else (), random) for name, right in outcomes.items()
    }
    sections, drawn_sections = (
        section_scores(each, prior_sets=prior_sets) for each in (accuracies, drawn)
    )
    members = sections_of(prior_sets)
    n_of = {section: sum(counts.get(name, 0) for name in members[section]) for section in sections}
    score, drawn_score = (
        final_score(each, prior_sets=prior_sets) for each in (sections, drawn_sections)
    )
    total = sum(counts.values())
    return RewardEvaluation(
        subsets={name: figure(accuracies[name], drawn[name], n) for name, n in counts.items()},
        sections={s: figure(sections[s], drawn_sections[s], n_of[s]) for s in sections},
        score=None
        if score is None or drawn_score is None
        else figure(score, drawn_score, sum(n_of.values())),
        overall=figure(
            sum(accuracies[name] * n for name, n in counts.items()) / total,
            np.asarray(sum(drawn[name] * n for name, n in counts.items())) / total,
            total,
        ),
        n_ties=n_ties,
        other_counts=other_counts(counts),
        n_truncated=n_truncated,
    )


def _counts_warning(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {n} of {COUNTS[name]}" for name, n in counts.items()]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return (
        "Warning: the file does not hold RewardBench's published numbers of pairs, by which the "
        f"sections are weighted: {', '.join(shown[:4])}{more}."
    )


def _draw(
    right: BoolArray,
    texts: Sequence[tuple[str, str]],
    random: np.random.Generator,
) -> FloatArray:
    """Accuracies of resamples, ``[N_RESAMPLES]``."""
    n = len(right)
    sides = [np.unique([pair[side] for pair in texts], return_inverse=True) for side in (0, 1)]
    if all(len(known) == len(texts) for known, _ in sides):
        # Drawing n pairs with replacement makes the number of right ones binomial.
        found: FloatArray = random.binomial(n, float(right.mean()), N_RESAMPLES) / n
        return found
    weights = np.ones((N_RESAMPLES, n))
    for known, place in sides:
        share = np.full(len(known), 1 / len(known))
        weights *= random.multinomial(len(known), share, N_RESAMPLES)[:, place]
    # A draw that leaves no pair is as if none had been made.
    kept = weights[weights.sum(axis=1) > 0]
    drawn = (kept @ right.astype(np.float64)) / kept.sum(axis=1)
    return np.resize(drawn, N_RESAMPLES)
