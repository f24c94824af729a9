"""From unlabelled reviews to a policy that writes better ones: all stages of the paper's 4.4.

Found labels train an initial reward model, which labels a pool for the final one. The start policy
learns to write reviews from reviews without labels, and is optimised against the final reward
model. Its gold counterpart uses gold labels instead of found ones; the human one has gold labels of
the pool as well, as the paper's has, and no labels of a model. A further reward model, trained on
gold labels of other reviews, judges what the policies write.

Each stage has a separate folder and is not repeated once it is finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from icm_fast import distributed
from icm_fast.config import SearchConfig
from icm_fast.engine.progress import Quiet
from icm_fast.engine.search import search
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import load_gold
from icm_fast.evaluation.metrics import agreement
from icm_fast.experiments.assistant.config import AssistantConfig
from icm_fast.experiments.assistant.documents import (
    AssistantReport,
    Bout,
    CountedShare,
    RewardModelReport,
    SearchSummary,
)
from icm_fast.experiments.assistant.materials import Materials, draw_materials
from icm_fast.experiments.assistant.stages import GOLD, HUMAN, ICM, Stages
from icm_fast.experiments.demo import demo_source
from icm_fast.files import json_lines, write_atomically
from icm_fast.model.load import load_model, pick_device
from icm_fast.model.loaded import LoadedModel, ModelSpec
from icm_fast.runs.finished import FinishedRun, read_run
from icm_fast.tracking import Part, TrackLike, part_of, tracked
from icm_fast.training.reward import RewardModel, TwoStage, evaluate_reward, pairs_of_run
from icm_fast.training.reward.figures import Figure
from icm_fast.training.reward.human_pairs import human_pairs
from icm_fast.training.rl import HeadToHead
from icm_fast.types import Reporter

REPORT = "report.json"


def run_assistant(
    model: ModelSpec,
    *,
    output: Path,
    config: AssistantConfig | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
) -> AssistantReport:
    """Run every unfinished stage, compare the policies, and write ``report.json``.

    Args:
        model: Base of the start policy and of every reward model.
        output: Folder of the stages.
        config: Sizes.
        progress: Receives a line about each stage, and the steps of searches and trainings.
        track: Called with each step of the search and of the trainings, or names trackers; the
            streams have the name of the stage before them, such as ``judge/train``.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: Model or data are missing, too few reviews, or a folder with other settings.
    """
    if distributed.world_size() > 1:
        raise InputError(
            "the assistant runs in one process, like a search; start it without accelerate launch "
            "or torchrun"
        )
    config = config or AssistantConfig()
    with progress or Quiet() as reporter, _tracked(track, output, config, reporter) as whole:
        return _run_stages(model, output, config, reporter, whole)


@contextmanager
def _tracked(
    track: TrackLike, output: Path, config: AssistantConfig, reporter: Reporter
) -> Iterator[Callable[[str], TrackLike]]:
    """What gives each stage the part of the run that it reports to, by its name."""
    if isinstance(track, Part):
        yield partial(part_of, track)
        return
    with tracked(track, output, "assistant", asdict(config), reporter.warn) as tracking:
        yield partial(Part, tracking)


def _run_stages(
    model: ModelSpec,
    output: Path,
    config: AssistantConfig,
    reporter: Reporter,
    part: Callable[[str], TrackLike],
) -> AssistantReport:
    run = _search(load_model(model), output, config, reporter, part("search"))
    # On a CPU trainings run in float32, so their results are compared in it.
    base = load_model(model, dtype="float32" if pick_device("auto").type == "cpu" else "auto")
    materials = _materials(run, config)
    stages = Stages(base, output, config, reporter, part)
    pool, test = output / "pool.jsonl", output / "test-pairs.jsonl"
    write_atomically(pool, json_lines(materials.pool))
    write_atomically(test, json_lines(materials.test_pairs))
    gold_pairs = human_pairs(run, GOLD)
    two_stages = {
        ICM: stages.reward_model(ICM, pairs_of_run(run), pool),
        GOLD: stages.reward_model(GOLD, gold_pairs, pool),
    }
    human = stages.human_model(gold_pairs, materials).model
    rewards = {**{name: two.model for name, two in two_stages.items()}, HUMAN: human}
    judge = stages.judge(materials)
    start = stages.start(materials)
    policies = {
        name: stages.policy(name, materials, start.model, reward)
        for name, reward in rewards.items()
    }
    reporter.say("comparing")
    bouts = stages.bouts(judge, start.model, policies)
    report: AssistantReport = {
        "model": base.name,
        "config": asdict(config),
        "search": _search_figures(run),
        "reward_models": {
            **{name: _accuracies(two, test, config) for name, two in two_stages.items()},
            HUMAN: {"final": _accuracy(human, test, config)},
            "judge": {"final": _accuracy(judge, test, config)},
        },
        "policies": {name: policy.log.measurements for name, policy in policies.items()},
        "positive": stages.positive(materials, judge, bouts),
        "bouts": {f"{a} against {b}": _bout(outcome) for (a, b), outcome in bouts.items()},
    }
    write_atomically(output / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return report


def _search(
    base: LoadedModel, output: Path, config: AssistantConfig, reporter: Reporter, track: TrackLike
) -> FinishedRun:
    reporter.say("search: labels of reviews, without supervision")
    source = demo_source(config.n, config.seed)
    search(
        source.load_dataset(),
        model=base,
        config=SearchConfig(seed=config.seed),
        output_dir=output / "search",
        source=source,
        progress=reporter,
        track=track,
    )
    return read_run(output / "search")


def _materials(run: FinishedRun, config: AssistantConfig) -> Materials:
    return draw_materials(
        run.dataset,
        seed=config.seed,
        n_start=config.n_start,
        n_pool=config.n_pool,
        n_judge=config.n_judge,
        n_test=config.n_test,
        n_prompts=config.n_prompts,
        n_words=config.n_words,
    )


def _search_figures(run: FinishedRun) -> SearchSummary:
    assert run.source is not None
    gold = load_gold(run.source, run.dataset)
    return {"n": len(run.dataset), "agreement": agreement(run.labels, gold)}


def _accuracies(trained: TwoStage, pairs: Path, config: AssistantConfig) -> RewardModelReport:
    assert trained.final is not None
    return {
        "initial": _accuracy(trained.initial.model, pairs, config),
        "final": _accuracy(trained.final.model, pairs, config),
    }


def _accuracy(model: RewardModel, pairs: Path, config: AssistantConfig) -> CountedShare:
    return _counted(evaluate_reward(model, pairs, seed=config.seed).overall)


def _bout(outcome: HeadToHead) -> Bout:
    return {**_counted(outcome.win_rate), "ties": outcome.n_ties}


def _counted(figure: Figure) -> CountedShare:
    return {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
