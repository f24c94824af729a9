"""The stages of the assistant after the search, and the comparison of its policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from icm_fast.evaluation.metrics import mean_interval
from icm_fast.experiments.assistant.config import AssistantConfig
from icm_fast.experiments.assistant.documents import PositiveShares, Share
from icm_fast.experiments.assistant.materials import Materials
from icm_fast.model.loaded import LoadedModel
from icm_fast.tracking import TrackLike
from icm_fast.training.reward import (
    PairSet,
    RewardModel,
    TrainedReward,
    TwoStage,
    pairs_of_labels,
    train_reward,
    two_stage,
)
from icm_fast.training.rl import (
    HeadToHead,
    TrainedPolicy,
    Written,
    evaluate_policies,
    train_policy,
    write_head_to_head,
)
from icm_fast.training.sft import Tuned, fine_tune_texts
from icm_fast.types import BoolArray, FloatArray, Reporter

ICM, GOLD, HUMAN, START = "icm", "gold", "human", "start"
"""Labels of a policy's reward model: found; gold of the same reviews; gold of the pool too."""

BOUTS = ((ICM, START), (GOLD, START), (HUMAN, START), (ICM, GOLD), (ICM, HUMAN))


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages after the search, and what each of them needs.

    Attributes:
        base: Base of the start policy and of every reward model.
        output: Folder of the stages.
        config: Sizes and settings.
        reporter: Receives a line about each stage, and the steps of trainings.
        part: What the stage of a name reports its steps to.
    """

    base: LoadedModel
    output: Path
    config: AssistantConfig
    reporter: Reporter
    part: Callable[[str], TrackLike]

    def reward_model(self, name: str, pairs: PairSet, pool: Path) -> TwoStage:
        """The two-stage reward model: initial model, labelled pool, final model."""
        self.reporter.say(f"reward model of {name} labels")
        return two_stage(
            pairs,
            model=self.base,
            output_dir=self.output / f"reward-{name}",
            pool=pool,
            config=self.config.reward,
            progress=self.reporter,
            track=self.part(f"reward-{name}"),
        )

    def human_model(self, pairs: PairSet, materials: Materials) -> TrainedReward:
        """The reward model of people, as in the paper: gold labels of the pool, none by a model.

        It gets as many pairs as the final models of the other labels.
        """
        self.reporter.say("reward model of gold labels of reviews and pool")
        pool = pairs_of_labels(
            materials.pool_reviews, materials.pool_gold, seed=self.config.seed
        ).pairs
        return train_reward(
            (*pairs.pairs, *pool[: self.config.n_pool]),
            model=self.base,
            config=self.config.reward,
            output_dir=self.output / f"reward-{HUMAN}",
            progress=self.reporter,
            track=self.part(f"reward-{HUMAN}"),
        )

    def judge(self, materials: Materials) -> RewardModel:
        """A reward model trained on gold labels of reviews that no other stage sees."""
        self.reporter.say("judge: a reward model of other gold labels")
        pairs = pairs_of_labels(materials.judge, materials.judge_gold, seed=self.config.seed)
        trained = train_reward(
            pairs.pairs,
            model=self.base,
            config=self.config.reward,
            output_dir=self.output / "judge",
            progress=self.reporter,
            track=self.part("judge"),
        )
        return trained.model

    def start(self, materials: Materials) -> Tuned:
        """The base model, tuned to write reviews; it sees no labels."""
        self.reporter.say("start policy: the model learns to write reviews")
        return fine_tune_texts(
            materials.start,
            model=self.base,
            config=self.config.start,
            output_dir=self.output / "start",
            progress=self.reporter,
            track=self.part("start"),
        )

    def policy(
        self, name: str, materials: Materials, start: LoadedModel, reward: RewardModel
    ) -> TrainedPolicy:
        """A policy optimised against a reward model."""
        self.reporter.say(f"policy against the reward model of {name} labels")
        return train_policy(
            materials.prompts,
            model=start,
            reward=reward,
            config=self.config.policy,
            output_dir=self.output / f"policy-{name}",
            progress=self.reporter,
            track=self.part(f"policy-{name}"),
        )

    def bouts(
        self, judge: RewardModel, start: LoadedModel, policies: dict[str, TrainedPolicy]
    ) -> dict[tuple[str, str], HeadToHead]:
        """Every pair of policies against each other on the held-out prompts."""
        models = {START: start} | {name: p.model for name, p in policies.items()}
        held_out = policies[ICM].held_out
        written: Written = {}
        outcomes = {}
        for one, other in BOUTS:
            result = evaluate_policies(
                models[one],
                models[other],
                judge=judge,
                prompts=held_out,
                kind=self.config.policy.kind,
                max_new_tokens=self.config.policy.max_new_tokens,
                min_new_tokens=self.config.policy.min_new_tokens,
                temperature=self.config.policy.temperature,
                top_p=self.config.policy.top_p,
                samples=self.config.samples,
                seed=self.config.seed,
                batch_size=self.config.policy.micro_batch_size,
                written=written,
            )
            write_head_to_head(result, self.output / f"{one}-against-{other}.json")
            outcomes[one, other] = result
        return outcomes

    def positive(
        self,
        materials: Materials,
        judge: RewardModel,
        bouts: dict[tuple[str, str], HeadToHead],
    ) -> PositiveShares:
        """Share of the reviews written by each policy that the judge finds positive.

        A review counts as positive above the reward that best separates the positive and negative
        reviews of the judge's training data.
        """
        rewards, gold = judge.score(materials.judge_texts), materials.judge_gold
        threshold = best_threshold(rewards[gold >= 0], gold[gold >= 0] == 1)
        gold = materials.test_gold
        right = ((judge.score(materials.test_texts) > threshold) == (gold == 1))[gold >= 0]
        shares: dict[str, Share] = {}
        for one, other in (bout for bout in BOUTS if START in bout):
            rows = bouts[one, other].samples
            prompts = [row["prompt"] for row in rows]
            sides = ([row["score_a"] for row in rows], [row["score_b"] for row in rows])
            for name, scores in zip((one, other), sides, strict=True):
                above = (np.array(scores) > threshold).astype(np.float64)
                interval = mean_interval(above, prompts, seed=self.config.seed)
                shares[name] = _share(above, interval)
        return {
            "threshold": threshold,
            "judge_accuracy": _share(right, mean_interval(right.astype(np.float64))),
            "icm": shares[ICM],
            "start": shares[START],
            "gold": shares[GOLD],
            "human": shares[HUMAN],
        }


def _share(chosen: FloatArray | BoolArray, interval: tuple[float, float]) -> Share:
    return {"value": float(chosen.mean()), "low": interval[0], "high": interval[1]}


def best_threshold(rewards: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """The middle of the gap between two rewards that classifies the largest number of texts right.

    Args:
        rewards: ``[n]`` rewards.
        positive: ``[n]`` bool.
    """
    order = np.argsort(rewards, kind="stable")
    values, is_positive = np.asarray(rewards, np.float64)[order], np.asarray(positive)[order]
    # A cut after k values gets right the negative texts before it and the positive texts after it.
    right = np.concatenate([[0], np.cumsum(~is_positive)]) + (
        is_positive.sum() - np.concatenate([[0], np.cumsum(is_positive)])
    )
    edges = np.concatenate([[values[0] - 1], values, [values[-1] + 1]])
    cut = int(np.argmax(right))
    return float((edges[cut] + edges[cut + 1]) / 2)
