"""Run folders are byte for byte those that were recorded before the modules moved."""

from __future__ import annotations

import pytest
import yaml
from recorded_searches import FILES, GOLDEN, SEARCHES

REMOVED = {"anchors": 0, "delayed_acceptance": False, "sequential_test": 0.0}


def settings(text: str) -> dict:
    content = yaml.safe_load(text)
    del content["run"]["versions"]
    return content


@pytest.mark.parametrize("recorded", SEARCHES, ids=lambda recorded: recorded.name)
def test_a_search_writes_the_recorded_bytes(recorded, tmp_path):
    recorded.run(tmp_path)
    for name in FILES[:2]:
        assert (tmp_path / name).read_bytes() == (GOLDEN / recorded.name / name).read_bytes()
    golden = settings((GOLDEN / recorded.name / "config.yaml").read_text())
    for name, value in REMOVED.items():
        assert golden.pop(name) == value
    written = settings((tmp_path / "config.yaml").read_text())
    assert written == golden
    assert list(written) == list(golden)
