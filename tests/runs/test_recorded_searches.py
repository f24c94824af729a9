"""Run folders are byte for byte those that were recorded before the modules moved."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import yaml
from recorded_searches import FILES, GOLDEN, SEARCHES

from icm_fast.cli.settings import read_request
from icm_fast.config import ADDED_SETTINGS, SearchConfig
from icm_fast.errors import InputError
from icm_fast.runs.config import read_config

REMOVED = {"anchors": 0, "delayed_acceptance": False, "sequential_test": 0.0}


def former_bytes(path: Path) -> bytes:
    """The content of a file without the confidence, which labels.jsonl had not yet."""
    return re.sub(rb', "confidence": (null|[01][.]\d+)', b"", path.read_bytes())


def settings(text: str) -> dict:
    content = yaml.safe_load(text)
    del content["run"]["versions"]
    return content


@pytest.mark.parametrize("recorded", SEARCHES, ids=lambda recorded: recorded.name)
def test_a_search_writes_the_recorded_bytes(recorded, tmp_path):
    recorded.run(tmp_path)
    for name in FILES[:2]:
        assert former_bytes(tmp_path / name) == (GOLDEN / recorded.name / name).read_bytes()
    golden = settings((GOLDEN / recorded.name / "config.yaml").read_text())
    for name, value in REMOVED.items():
        assert golden.pop(name) == value
    written = settings((tmp_path / "config.yaml").read_text())
    assert written.pop("channel", False) is (recorded.config.preset == "default")
    assert written.pop("second_opinion", False) is False
    if recorded.name == "authors-code":  # the preset names them since it has other values
        for name, value in ADDED_SETTINGS.items():
            assert written.pop(name, value) == value
    assert written == golden
    assert list(written) == list(golden)


@pytest.fixture
def former():
    """A search with the preset authors-code, as 0.1 recorded it."""
    return next(recorded for recorded in SEARCHES if recorded.name == "authors-code")


def test_a_run_of_the_former_preset_resumes_from_its_own_settings(former, tmp_path):
    """Younger settings that its config.yaml lacks have the values that it ran with."""
    config = read_request(GOLDEN / former.name / "config.yaml", task="larger-than").config
    assert config == former.config != SearchConfig(preset="authors-code", seed=3)
    shutil.copy(GOLDEN / former.name / "config.yaml", tmp_path)  # without the younger settings
    dataclasses.replace(former, config=config).run(tmp_path)
    for name in FILES[:2]:
        assert former_bytes(tmp_path / name) == (GOLDEN / former.name / name).read_bytes()


def test_a_run_of_the_former_preset_is_not_that_of_the_present_one(former, tmp_path):
    shutil.copytree(GOLDEN / former.name, tmp_path, dirs_exist_ok=True)
    present = SearchConfig(preset="authors-code", seed=3, max_iterations=400)
    with pytest.raises(InputError, match="cooling_clock is 'accepted' there and 'acceptances'"):
        dataclasses.replace(former, config=present).run(tmp_path)
    younger = dataclasses.replace(former.config, fix_forced=True)
    with pytest.raises(InputError, match="fix_forced is False there and True here"):
        dataclasses.replace(former, config=younger).run(tmp_path)


def test_settings_at_their_former_values_are_not_written():
    assert ADDED_SETTINGS.keys() & SearchConfig().to_dict().keys() == {"channel"}
    assert not ADDED_SETTINGS.keys() & SearchConfig(preset="paper").to_dict().keys()
    assert ADDED_SETTINGS.keys() <= SearchConfig(preset="authors-code").to_dict().keys() | {
        "violation_weight",
        "fixed_labels",
        "engine",
        "server",
        "bootstrap_rounds",
        "tokenizer",
        "channel",
        "second_opinion",
    }
    assert SearchConfig(fix_forced=True).to_dict()["fix_forced"] is True
    assert read_config(GOLDEN / "paper" / "config.yaml").keys().isdisjoint(ADDED_SETTINGS)
