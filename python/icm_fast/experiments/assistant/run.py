"""From unlabelled reviews to a policy that writes better ones: all stages of the paper's 4.4.

Found labels become an initial reward model, which labels a pool for the final one. The start policy
learns from reviews without labels to write reviews, and is optimised against that. Beside it stands
a twin with gold labels instead of the found ones. A third reward model, of the gold labels of other
reviews, judges what the policies write.

Each stage has a folder of its own, and is not repeated once it is finished.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icm_fast import distributed
from icm_fast.config import SearchConfig, check_names, check_number
from icm_fast.engine.progress import Quiet
from icm_fast.engine.search import search
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import load_gold
from icm_fast.evaluation.metrics import agreement, mean_interval
from icm_fast.experiments.assistant.materials import Materials, draw_materials
from icm_fast.experiments.demo import demo_source
from icm_fast.files import json_lines, write_atomically
from icm_fast.model.load import load_model, pick_device
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.runs.finished import FinishedRun, read_run
from icm_fast.training.reward import (
    PairSet,
    RewardConfig,
    RewardModel,
    TwoStage,
    evaluate_reward,
    pairs_of_labels,
    pairs_of_run,
    train_reward,
    two_stage,
)
from icm_fast.training.reward.twin import twin_pairs
from icm_fast.training.rl import (
    HeadToHead,
    PolicyConfig,
    TrainedPolicy,
    evaluate_policies,
    train_policy,
    write_head_to_head,
)
from icm_fast.training.sft import Tuned, TuningConfig, fine_tune_texts
from icm_fast.types import Reporter

REPORT = "report.json"

ICM, GOLD, START = "icm", "gold", "start"
_BOUTS = ((ICM, START), (GOLD, START), (ICM, GOLD))


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantConfig:
    """Sizes of the stages.

    Attributes:
        n: Reviews that are searched.
        n_start: Longer reviews, from which the start policy learns to write reviews.
        n_pool: Pairs of other reviews, which the initial reward models label.
        n_judge: Other reviews, whose gold labels train the judge.
        n_test: Held-out reviews, from which pairs for measuring reward models are made.
        n_prompts: Beginnings of further reviews, with which policies begin.
        n_words: Words of such a beginning.
        samples: Continuations of each held-out beginning when policies are compared.
        seed: Seed of every stage.
        start: Settings of the start policy.
        reward: Settings of the reward models.
        policy: Settings of the policies.
    """

    n: int = 64
    n_start: int = 1000
    n_pool: int = 200
    n_judge: int = 300
    n_test: int = 200
    n_prompts: int = 300
    n_words: int = 2
    samples: int = 2
    seed: int = 0
    start: TuningConfig = field(default_factory=lambda: _start_config(0))
    reward: RewardConfig = field(default_factory=lambda: RewardConfig(epochs=2))
    policy: PolicyConfig = field(
        default_factory=lambda: PolicyConfig(
            kind="continuation",
            steps=40,
            max_new_tokens=20,
            n_held_out=100,
            learning_rate=1.5e-3,
            kl_weight=0.1,
            unfinished_penalty=1.0,
        )
    )

    @classmethod
    def from_mappings(cls, sizes: Mapping[str, Any], policy: Mapping[str, Any]) -> AssistantConfig:
        """Build from settings by name; those of the policy change its defaults here.

        Raises:
            InputError: An unknown name, or a size that is no number of 1 or more.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"start", "reward", "policy"}
        check_names(sizes, known)
        for name, value in sizes.items():
            check_number(name, value, 0 if name == "seed" else 1, 10**9)
        seed = sizes.get("seed", 0)
        defaults = cls().policy.to_dict() | {"seed": seed}
        return cls(
            **sizes,
            start=_start_config(seed),
            reward=RewardConfig(epochs=2, seed=seed),
            policy=PolicyConfig.from_mapping({**defaults, **policy}),
        )


def _start_config(seed: int) -> TuningConfig:
    return TuningConfig(epochs=2, batch_size=16, learning_rate=5e-4, seed=seed)


def run_assistant(
    model: ModelSpec,
    *,
    output: Path,
    config: AssistantConfig | None = None,
    progress: Reporter | None = None,
) -> dict[str, Any]:
    """Run every stage that is not finished, compare, and write ``report.json``.

    Args:
        model: Base of the start policy and of every reward model.
        output: Folder of the stages.
        config: Sizes.
        progress: Says what is done next, and shows the stages.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: Model or data are not in place, too few reviews, or a folder of other settings.
    """
    if distributed.world_size() > 1:
        raise InputError(
            "the assistant is one process, as a search is; start it without accelerate launch or "
            "torchrun"
        )
    config = config or AssistantConfig()
    with progress or Quiet() as shown:
        return _run_stages(model, output, config, shown)


def _run_stages(
    model: ModelSpec, output: Path, config: AssistantConfig, reporter: Reporter
) -> dict[str, Any]:
    run = _search(load_model(model), output, config, reporter)
    # Trainings on a CPU are in float32, and what they give is compared in it.
    base = load_model(model, dtype="float32" if pick_device("auto").type == "cpu" else "auto")
    materials = draw_materials(
        run.dataset,
        seed=config.seed,
        n_start=config.n_start,
        n_pool=config.n_pool,
        n_judge=config.n_judge,
        n_test=config.n_test,
        n_prompts=config.n_prompts,
        n_words=config.n_words,
    )
    stages = _Stages(base, output, config, reporter)
    pool, test = output / "pool.jsonl", output / "test-pairs.jsonl"
    write_atomically(pool, json_lines(materials.pool))
    write_atomically(test, json_lines(materials.test_pairs))
    rewards = {
        ICM: stages.reward_model(ICM, pairs_of_run(run), pool),
        GOLD: stages.reward_model(GOLD, twin_pairs(run, GOLD), pool),
    }
    judge = stages.judge(materials)
    start = stages.start(materials)
    policies = {
        name: stages.policy(name, materials, start.model, rewards[name].model) for name in rewards
    }
    reporter.say("comparing")
    bouts = stages.bouts(judge, start.model, policies)
    report = {
        "model": base.name,
        "config": asdict(config),
        "search": _search_figures(run),
        "reward_models": {
            **{name: _accuracies(two, test, config) for name, two in rewards.items()},
            "judge": {"final": _accuracy(judge, test, config)},
        },
        "policies": {name: policy.log.measurements for name, policy in policies.items()},
        "positive": stages.positive(materials, judge, bouts),
        "bouts": {
            f"{one} against {other}": asdict(bout.win_rate) | {"ties": bout.n_ties}
            for (one, other), bout in bouts.items()
        },
    }
    write_atomically(output / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return report


def _search(
    base: LoadedModel, output: Path, config: AssistantConfig, reporter: Reporter
) -> FinishedRun:
    reporter.say("search: labels of reviews, without supervision")
    source = demo_source(config.n, config.seed)
    search(
        source.load_dataset(),
        model=base,
        config=SearchConfig(seed=config.seed),
        output_dir=output / "search",
        progress=reporter,
        source=source,
    )
    return read_run(output / "search")


@dataclass(frozen=True, slots=True)
class _Stages:
    """What every stage needs, and the stages."""

    base: LoadedModel
    output: Path
    config: AssistantConfig
    reporter: Reporter

    def reward_model(self, name: str, pairs: PairSet, pool: Path) -> TwoStage:
        """Initial model, labelled pool, final model."""
        self.reporter.say(f"reward model of {name} labels")
        return two_stage(
            pairs,
            model=self.base,
            output_dir=self.output / f"reward-{name}",
            pool=pool,
            config=self.config.reward,
            progress=self.reporter,
        )

    def judge(self, materials: Materials) -> RewardModel:
        """A reward model of the gold labels of reviews that no other stage saw."""
        self.reporter.say("judge: a reward model of other gold labels")
        pairs = pairs_of_labels(materials.judge, materials.judge_gold, seed=self.config.seed)
        trained = train_reward(
            pairs.pairs,
            model=self.base,
            config=self.config.reward,
            output_dir=self.output / "judge",
            progress=self.reporter,
        )
        return trained.model

    def start(self, materials: Materials) -> Tuned:
        """The base, tuned to write reviews; it sees no label."""
        self.reporter.say("start policy: the model learns to write reviews")
        return fine_tune_texts(
            materials.start,
            model=self.base,
            config=self.config.start,
            output_dir=self.output / "start",
            progress=self.reporter,
        )

    def policy(
        self, name: str, materials: Materials, start: LoadedModel, reward: RewardModel
    ) -> TrainedPolicy:
        """The policy that is optimised against a reward model."""
        self.reporter.say(f"policy against the reward model of {name} labels")
        return train_policy(
            materials.prompts,
            model=start,
            reward=reward,
            config=self.config.policy,
            output_dir=self.output / f"policy-{name}",
            progress=self.reporter,
        )

    def bouts(
        self, judge: RewardModel, start: LoadedModel, policies: dict[str, TrainedPolicy]
    ) -> dict[tuple[str, str], HeadToHead]:
        """Every pair of policies against each other on the held-out beginnings."""
        models = {START: start} | {name: p.model for name, p in policies.items()}
        held_out = policies[ICM].held_out
        outcomes = {}
        for one, other in _BOUTS:
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
            )
            write_head_to_head(result, self.output / f"{one}-against-{other}.json")
            outcomes[one, other] = result
        return outcomes

    def positive(
        self,
        materials: Materials,
        judge: RewardModel,
        bouts: dict[tuple[str, str], HeadToHead],
    ) -> dict[str, Any]:
        """Share of positive reviews among what each policy writes, by the judge.

        A review counts as positive above the reward that separates the positive and negative
        reviews of the judge's own training best.
        """
        rewards, gold = judge.score(materials.judge_texts), materials.judge_gold
        threshold = best_threshold(rewards[gold >= 0], gold[gold >= 0] == 1)
        gold = materials.test_gold
        right = ((judge.score(materials.test_texts) > threshold) == (gold == 1))[gold >= 0]
        low, high = mean_interval(right.astype(np.float64))
        shares: dict[str, Any] = {
            "threshold": threshold,
            "judge_accuracy": {"value": float(right.mean()), "low": low, "high": high},
        }
        for one, other in _BOUTS[:2]:
            rows = bouts[one, other].samples
            prompts = [row["prompt"] for row in rows]
            sides = ([row["score_a"] for row in rows], [row["score_b"] for row in rows])
            for name, scores in zip((one, other), sides, strict=True):
                above = (np.array(scores) > threshold).astype(np.float64)
                low, high = mean_interval(above, prompts, seed=self.config.seed)
                shares[name] = {"value": float(above.mean()), "low": low, "high": high}
        return shares


def best_threshold(rewards: Any, positive: Any) -> float:
    """The middle of the gap between two rewards that tells most of the positive texts apart.

    Args:
        rewards: ``[n]``.
        positive: ``[n]`` bool.
    """
    order = np.argsort(rewards, kind="stable")
    values, is_positive = np.asarray(rewards, np.float64)[order], np.asarray(positive)[order]
    # With a cut behind k values: the negative ones among them are right, and the positive others.
    right = np.concatenate([[0], np.cumsum(~is_positive)]) + (
        is_positive.sum() - np.concatenate([[0], np.cumsum(is_positive)])
    )
    edges = np.concatenate([[values[0] - 1], values, [values[-1] + 1]])
    cut = int(np.argmax(right))
    return float((edges[cut] + edges[cut + 1]) / 2)


def _search_figures(run: FinishedRun) -> dict[str, Any]:
    assert run.source is not None
    gold = load_gold(run.source, run.dataset)
    return {"n": len(run.dataset), "agreement": agreement(run.labels, gold)}


def _accuracies(trained: TwoStage, pairs: Path, config: AssistantConfig) -> dict[str, Any]:
    assert trained.final is not None
    return {
        "initial": _accuracy(trained.initial.model, pairs, config),
        "final": _accuracy(trained.final.model, pairs, config),
    }


def _accuracy(model: RewardModel, pairs: Path, config: AssistantConfig) -> dict[str, Any]:
    return asdict(evaluate_reward(model, pairs, seed=config.seed).overall)
