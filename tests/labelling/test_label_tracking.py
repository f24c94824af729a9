"""A labelling reports rows, cores and its result, each step once, and no text."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from label_fakes import rows

from icm_fast import LabelConfig, label
from icm_fast.tracking import Step, Tracking


@pytest.mark.usefixtures("fake")
def test_a_labelling_reports_rows_cores_and_its_result(tmp_path):
    heard: list[Step] = []
    options = {
        **{"text": "review", "labels": ["negative", "positive"], "model": "fake"},
        **{"config": LabelConfig(cores=2, core_size=4, chunk_rows=5), "template": "{review} is"},
    }
    frame = pd.DataFrame(rows(12))
    found = label(frame, **options, output_dir=tmp_path / "a", track=heard.append)
    streams = {step.stream for step in heard}
    assert streams == {"rows", "core-1", "core-2", "result"}
    done = [step for step in heard if step.stream == "rows"]
    assert [step.number for step in done] == [5, 10, 12, 17, 22, 24, 29, 34, 36]
    assert done[-1].figures["share"] == 1.0
    last = heard[-1]
    assert last.stream == "result"
    assert last.figures["labelled"] == 12
    assert last.figures["mean_confidence"] == pytest.approx(found["confidence"].mean(), abs=1e-4)

    def interrupt(step: Step) -> None:
        if step.stream == "core-2" and step.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(frame, **options, output_dir=tmp_path / "b", track=Tracking(["jsonl"], interrupt))
    label(frame, **options, output_dir=tmp_path / "b", track=Tracking(["jsonl"]))
    text = (tmp_path / "b" / "tracking.jsonl").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    assert [(line["stream"], line["step"]) for line in told] == [
        (step.stream, step.number) for step in heard
    ]
    assert "positive" not in text
    assert "film" not in text
