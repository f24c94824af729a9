"""How often a reward model prefers the better response: by subset, by section, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from icm_fast.files.text import cell
from icm_fast.tasks.rows import PathLike, read_rows
from icm_fast.training.reward.model import RewardModel
from icm_fast.training.reward.pairs import row_pair
from icm_fast.training.reward.rewardbench import SECTION_OF, final_score, section_scores
from icm_fast.types import BoolArray, FloatArray

NO_SUBSET = "all"
N_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval.

    Attributes:
        value: Accuracy or score in 0 .. 1; or a difference of rewards.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Pairs of texts that it was computed from.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class RewardEvaluation:
    """Accuracies of a reward model on pairs. A pair with equal rewards counts as wrong.

    Attributes:
        subsets: By subset, in the order of the file.
        sections: RewardBench's sections, as far as the file holds subsets of theirs.
        score: RewardBench's score; None unless all four sections are there.
        overall: Share of all pairs, whatever their subset.
        n_ties: Pairs with equal rewards.
    """

    subsets: Mapping[str, Figure]
    sections: Mapping[str, Figure]
    score: Figure | None
    overall: Figure
    n_ties: int

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Tables for people."""
        parts = []
        if self.sections:
            rows = dict(self.sections) | ({"**score**": self.score} if self.score else {})
            parts.append(_table("section", rows))
        parts.append(_table("subset", {**self.subsets, "**all pairs**": self.overall}))
        unknown = [name for name in self.subsets if name not in SECTION_OF]
        if self.sections and unknown:
            parts.append(f"In no section of RewardBench: {', '.join(map(cell, unknown))}.")
        if self.n_ties:
            parts.append(f"{self.n_ties} pairs have equal rewards and count as wrong.")
        return "\n\n".join(parts) + "\n"


def evaluate_reward(model: RewardModel, path: PathLike, *, seed: int = 0) -> RewardEvaluation:
    """Score the pairs of a file in RewardBench's schema.

    Args:
        model: The reward model.
        path: JSON, JSONL, CSV or Parquet file, or ``hub:NAME``, with the columns ``chosen``
            and ``rejected``, perhaps ``prompt`` and ``subset``.
        seed: Seed of the resamples.

    Raises:
        InputError: A file that cannot be read or used, or a text too long for the model.
    """
    rows = read_rows(path)
    pairs = [row_pair(row) for row in rows]
    rewards = model.score_pairs(pairs)
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
    )


def summarise(
    outcomes: Mapping[str, BoolArray],
    *,
    texts: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    n_ties: int = 0,
    seed: int = 0,
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
    """
    random = np.random.Generator(np.random.Philox(seed))
    counts = {name: len(right) for name, right in outcomes.items()}
    accuracies = {name: float(right.mean()) for name, right in outcomes.items()}
    drawn: dict[str, FloatArray] = {
        name: _draw(right, texts[name] if texts else (), random) for name, right in outcomes.items()
    }
    sections, drawn_sections = (section_scores(each, counts) for each in (accuracies, drawn))
    n_of = {
        section: sum(n for name, n in counts.items() if SECTION_OF.get(name) == section)
        for section in sections
    }
    score, drawn_score = final_score(sections), final_score(drawn_sections)
    total = sum(counts.values())
    return RewardEvaluation(
        subsets={name: _figure(accuracies[name], drawn[name], n) for name, n in counts.items()},
        sections={s: _figure(sections[s], drawn_sections[s], n_of[s]) for s in sections},
        score=None
        if score is None or drawn_score is None
        else _figure(score, drawn_score, sum(n_of.values())),
        overall=_figure(
            sum(accuracies[name] * n for name, n in counts.items()) / total,
            np.asarray(sum(drawn[name] * n for name, n in counts.items())) / total,
            total,
        ),
        n_ties=n_ties,
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


def _figure(value: float, drawn: FloatArray, n: int) -> Figure:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(float(value), float(low), float(high), n)


def _table(head: str, figures: Mapping[str, Figure]) -> str:
    lines = [f"| {head} | accuracy | 95 % | pairs |", "|---|---|---|---|"]
    lines += [
        f"| {cell(name)} | {f.value:.3f} | {f.low:.3f}-{f.high:.3f} | {f.n} |"
        for name, f in figures.items()
    ]
    return "\n".join(lines)
