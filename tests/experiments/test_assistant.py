"""Every stage of the assistant on a tiny random model and real reviews."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from icm_fast import InputError
from icm_fast.cli import run
from icm_fast.experiments.assistant.config import AssistantConfig
from icm_fast.experiments.assistant.materials import draw_materials
from icm_fast.experiments.assistant.report import report_text, seeds_text
from icm_fast.experiments.assistant.run import run_assistant
from icm_fast.experiments.assistant.seeds import parse_seeds, run_seeds
from icm_fast.experiments.assistant.stages import best_threshold
from icm_fast.experiments.demo import demo_source
from icm_fast.tracking import Tracking
from icm_fast.training.reward import RewardConfig
from icm_fast.training.rl import PolicyConfig
from icm_fast.training.sft import TuningConfig
from listeners import Listener
from policy_cases import stable_files
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - in force by its import

SIZES = {
    "n": 8,
    "n_start": 6,
    "n_pool": 6,
    "n_judge": 12,
    "n_test": 16,
    "n_prompts": 10,
    "samples": 1,
}
CONFIG = AssistantConfig(
    **SIZES,
    start=TuningConfig(epochs=1, batch_size=2, learning_rate=0.01, dtype="float32"),
    reward=RewardConfig(epochs=1, learning_rate=0.01, dtype="float32"),
    policy=PolicyConfig(
        kind="continuation",
        steps=2,
        batch_size=2,
        max_new_tokens=4,
        n_held_out=5,
        learning_rate=0.01,
        dtype="float32",
    ),
)


TRACK = Tracking(["jsonl"])


def steps_of(folder):
    """Stream, number and loss of each step that the tracker received, sorted."""
    lines = (folder / "tracking.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    return sorted((step["stream"], step["step"], step.get("loss", 0.0)) for step in steps)


def without_tracking(folder):
    """The files that the tracker, which receives seconds too, does not write."""
    return {k: v for k, v in stable_files(folder).items() if not k.startswith("tracking.json")}


WITHIN = ("initial: ", "pool: ", "final: ")
"""Beginnings of lines about a part of a stage."""


class StoppedError(Exception):
    """Stands for a kill between two stages."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assistant") / "whole"
    shown = Listener()
    report = run_assistant(
        tiny_loaded("llama"), output=folder, config=CONFIG, progress=shown, track=TRACK
    )
    return folder, report, [line for line in shown.lines if not line.startswith(WITHIN)]


def test_report(whole):
    folder, report, stages = whole
    assert json.loads((folder / "report.json").read_text()) == report
    assert len(stages) == 10
    assert set(report["reward_models"]) == {"icm", "gold", "human", "judge"}
    against_start = {f"{name} against start" for name in ("icm", "gold", "human")}
    assert set(report["bouts"]) == against_start | {"icm against gold", "icm against human"}
    for bout in report["bouts"].values():
        assert bout["low"] <= bout["value"] <= bout["high"]
        assert bout["n"] == 5
    for name in ("start", "icm", "gold", "human"):
        assert 0 <= report["positive"][name]["value"] <= 1
    text = report_text(report)
    assert "| found labels | " in text
    assert "trained for 16 episodes" in text
    assert "found labels against start policy" in text


def test_stopped_in_every_stage_it_ends_the_same_and_repeats_nothing(whole, tmp_path):
    folder, report, stages = whole
    told: list[str] = []
    for stage in (stages[2], stages[5], stages[6], stages[9]):

        def stop(text: str, stage: str = stage) -> None:
            told.append(text)
            if text == stage:
                raise StoppedError

        with pytest.raises(StoppedError):
            run_assistant(
                tiny_loaded("llama"),
                output=tmp_path / "a",
                config=CONFIG,
                progress=Listener(on_say=stop),
                track=TRACK,
            )
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("adapter_model.*")}
    assert len(before) == 5 + 1 + 1 + 3  # reward models, judge, start, policies
    again = run_assistant(tiny_loaded("llama"), output=tmp_path / "a", config=CONFIG, track=TRACK)
    assert again == report
    assert without_tracking(tmp_path / "a") == without_tracking(folder)
    tracked = steps_of(folder)
    assert steps_of(tmp_path / "a") == tracked
    assert len({line[:2] for line in tracked}) == len(tracked)
    rewards = [f"reward-{name}/{part}" for name in ("icm", "gold") for part in ("initial", "final")]
    policies = [f"policy-{name}" for name in ("icm", "gold", "human")]
    assert {stream for stream, *_ in tracked} == {
        "search/search",
        *(f"{name}/train" for name in (*rewards, "reward-human", "judge", "start", *policies)),
        *(f"{name}/held_out" for name in policies),
    }
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_people_label_as_many_pairs_as_the_others_have(whole):
    """Pairs of the reviews' gold labels, and as many of the pool's as the pool has rows."""
    folder, _, _ = whole
    counts = {
        name: json.loads((folder / path / "reward.json").read_text())["identity"]["n_pairs"]
        for name, path in (("gold", "reward-gold/final"), ("human", "reward-human"))
    }
    pool = json.loads((folder / "reward-gold/pool.json").read_text())
    assert counts["human"] == counts["gold"] + pool["n_skipped"]


def test_two_seeds_by_one_command(whole, tmp_path):
    folder, first, _ = whole
    shutil.copytree(folder, tmp_path / "seed0")  # finished, so it is only read
    told: list[str] = []

    def config_of(seed: int) -> AssistantConfig:
        parts = {
            name: dataclasses.replace(getattr(CONFIG, name), seed=seed)
            for name in ("start", "reward", "policy")
        }
        return dataclasses.replace(CONFIG, seed=seed, **parts)

    report = run_seeds(
        tiny_loaded("llama"),
        [0, 4],
        output=tmp_path,
        config_of=config_of,
        after_each=lambda home, one: told.append(home.name),
        track=TRACK,
    )
    streams = {stream for stream, *_ in steps_of(tmp_path)}
    assert {"seed0/search/search", "seed4/search/search", "seed4/judge/train"} <= streams
    assert told == ["seed0", "seed4"]
    assert json.loads((tmp_path / "seeds.json").read_text()) == report
    second = json.loads((tmp_path / "seed4/report.json").read_text())
    for bout, rate in report["win_rates"].items():
        expected = [one["bouts"][bout]["value"] for one in (first, second)]
        assert rate["seeds"] == pytest.approx(expected)
        assert rate["low"] <= rate["value"] <= rate["high"]
    for name, share in report["positive"].items():
        expected = [one["positive"][name]["value"] for one in (first, second)]
        assert share["seeds"] == pytest.approx(expected)
    for name, difference in report["differences"].items():
        bouts = [f"{part} against start" for part in name.split(" minus ")]
        one, two = (np.array(report["win_rates"][bout]["seeds"]) for bout in bouts)
        assert difference["seeds"] == pytest.approx(one - two)
    text = seeds_text(report)
    assert "| found labels minus gold labels of the pool too | " in text
    assert "| seed 0 | seed 4 |" in text


@pytest.mark.parametrize("text", ["0", "0,0", "0,x", "", "0,-1", "0;1"])
def test_seeds_are_two_or_more_different_integers(text):
    with pytest.raises(InputError, match="--seeds is"):
        parse_seeds(text)
    assert parse_seeds("0, 1,2") == [0, 1, 2]


def test_no_review_serves_two_stages():
    searched = demo_source(20, 3).load_dataset()
    sizes = {
        "n_start": 40,
        "n_pool": 50,
        "n_judge": 80,
        "n_test": 60,
        "n_prompts": 90,
        "n_words": 2,
    }
    drawn = draw_materials(searched, seed=3, **sizes)
    used = [example.prompt.split("\n")[0].removeprefix("Review: ") for example in searched.examples]
    pool = [text for row in drawn.pool for text in row.values()]
    everything = [*used, *pool, *drawn.start, *drawn.judge_texts, *drawn.test_texts]
    assert len(set(everything)) == len(everything) == 20 + 100 + 40 + 80 + 60
    assert len(set(drawn.prompts)) == 90
    assert {len(prompt.split()) for prompt in drawn.prompts} == {2}
    with pytest.raises(
        InputError, match=r"n_judge is 5000, but only \d+ reviews are available; lower n"
    ):
        draw_materials(searched, seed=3, **{**sizes, "n_judge": 5000})


def test_best_threshold_by_hand():
    assert (
        best_threshold(np.array([0.0, 3.0, 1.0, 2.0]), np.array([False, True, False, True])) == 1.5
    )
    # One positive text lies low: better one mistake there than three above.
    rewards = np.array([-5.0, -1.0, 0.0, 4.0, 5.0])
    assert best_threshold(rewards, np.array([True, False, False, True, True])) == 2.0
    assert best_threshold(np.array([1.0, 2.0]), np.array([True, True])) < 1.0


def test_settings_by_name():
    config = AssistantConfig.from_mappings({"n": 16, "seed": 4}, {"steps": 7})
    assert (config.n, config.seed, config.policy.steps, config.policy.seed) == (16, 4, 7, 4)
    assert config.policy.kind == "continuation"
    with pytest.raises(InputError, match="unknown setting 'pool'"):
        AssistantConfig.from_mappings({"pool": 3}, {})
    with pytest.raises(InputError, match="n = 0 is outside 1"):
        AssistantConfig.from_mappings({"n": 0}, {})


def test_command_tells_what_is_wrong(tmp_path, capsys):
    assert run(["assistant", "--model", str(tmp_path / "none"), "-o", str(tmp_path / "o")]) == 2
    assert run(["assistant", "--seeds", "0,1", "--rl", "stepz=3", "-o", str(tmp_path / "o")]) == 2
    assert "steps" in capsys.readouterr().err
