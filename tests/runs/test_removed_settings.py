"""Settings of version 0.1 that are gone: a run that had them off is the same run without them."""

import shutil
from pathlib import Path

import pytest

import icm_fast
from icm_fast.cli.settings import read_request
from icm_fast.config import REMOVED_SETTINGS, SearchConfig
from icm_fast.errors import InputError
from icm_fast.runs.finished import read_run
from run_fakes import FakeScorer, run_bytes, toy_dataset

FORMER = Path(__file__).parent.parent / "golden" / "run_of_0_1"
"""A run folder of commit 152facd, the last one with the settings."""

CONFIG = SearchConfig(preset="paper", max_evaluations=8, n_initial=2)
SWITCHED_ON = {"anchors": 2, "sequential_test": 0.05, "delayed_acceptance": True}


@pytest.fixture
def former(tmp_path):
    return Path(shutil.copytree(FORMER, tmp_path / "run"))


def resume(folder):
    scorer = FakeScorer(6)
    icm_fast.search(toy_dataset(6), model="fake", config=CONFIG, output_dir=folder, scorer=scorer)
    return scorer.calls


def switch_on(name, file):
    text = file.read_text()
    off = {"anchors": "0", "sequential_test": "0.0", "delayed_acceptance": "false"}[name]
    assert f"{name}: {off}\n" in text
    file.write_text(text.replace(f"{name}: {off}\n", f"{name}: {SWITCHED_ON[name]}\n"))


def test_a_setting_at_its_off_value_is_dropped():
    assert SearchConfig.from_mapping({"alpha": 30.0, **REMOVED_SETTINGS}) == SearchConfig(alpha=30)
    assert SearchConfig.from_mapping({"anchors": None}) == SearchConfig()


@pytest.mark.parametrize("name", REMOVED_SETTINGS)
def test_a_setting_that_was_on_is_refused(name):
    with pytest.raises(InputError, match=rf"^{name} was removed in 0\.2; use icm_fast 0\.1 for"):
        SearchConfig.from_mapping({name: SWITCHED_ON[name]})


def test_a_finished_run_is_read_and_costs_nothing(former):
    assert read_run(former).config == CONFIG
    assert resume(former) == 0
    assert run_bytes(former) == run_bytes(FORMER)


def test_an_interrupted_run_resumes_to_the_same_bytes(former):
    log = former / "evaluations.bin"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    for name in ("events.jsonl", "labels.jsonl", "summary.json"):
        (former / name).unlink()
    assert 0 < resume(former) < 8
    assert run_bytes(former) == run_bytes(FORMER)


@pytest.mark.parametrize("name", REMOVED_SETTINGS)
def test_a_run_that_had_one_on_is_refused(former, name):
    switch_on(name, former / "config.yaml")
    with pytest.raises(InputError, match=f"{name} was removed"):
        resume(former)
    with pytest.raises(InputError, match=f"{name} was removed"):
        read_run(former)


def test_the_configuration_of_a_former_run_can_be_asked_for_again(former):
    file = former / "config.yaml"
    request = read_request(file, task="truthfulqa", data="x.jsonl")
    assert request.config == CONFIG
    assert read_request(file, ["anchors=0"], task="truthfulqa").config == CONFIG
    with pytest.raises(InputError, match="anchors was removed"):
        read_request(file, ["anchors=1"], task="truthfulqa")
