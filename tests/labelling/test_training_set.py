"""A finished labelling as a training set: every row with its label, and the model's name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from label_fakes import rows

from icm_fast import InputError, LabelConfig, label
from icm_fast.cli import run
from icm_fast.labelling.training_set import training_set

CONFIG = LabelConfig(cores=2, core_size=4)


def labelled(folder, frame, **more):
    table = folder / "table.csv"
    frame.to_csv(table, index=False)
    question = {"template": "{review} is", "model": "fake", "config": CONFIG}
    options = question | {"output_dir": folder / "run", "output": folder / "out.csv"} | more
    label(str(table), text="review", labels=["negative", "positive"], **options)
    return pd.read_csv(folder / "out.csv"), training_set(folder / "run")


@pytest.mark.usefixtures("fake")
def test_rows_and_labels_are_those_of_the_table(tmp_path):
    table, found = labelled(tmp_path, pd.DataFrame(rows(12)), abstain=0.25)
    prompts = [f"{text} is" for text in table["review"]]
    assert [example.prompt for example in found.dataset.examples] == prompts
    names = ["negative", "positive"]
    indices = [-1 if pd.isna(name) else names.index(name) for name in table["label"]]
    assert found.labels.tolist() == indices
    assert indices.count(-1) == 3
    assert tuple(found.dataset.label_space.labels) == (" negative", " positive")
    assert found.model == "fake"
    assert found.confidence == pytest.approx(table["confidence"], abs=1e-4)


@pytest.mark.usefixtures("fake")
def test_a_comparison_has_two_examples_for_each_row(tmp_path):
    texts = rows(12)
    frame = pd.DataFrame(
        {"a": [r["review"] for r in texts[::2]], "b": [r["review"] for r in texts[1::2]]}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    label(
        str(tmp_path / "t.csv"),
        compare=("a", "b"),
        model="fake",
        config=CONFIG,
        output_dir=tmp_path / "run",
        output=tmp_path / "out.csv",
    )
    found = training_set(tmp_path / "run")
    assert len(found.dataset) == 12
    assert all(one + other == 1 for one, other in found.labels.reshape(-1, 2).tolist())
    sure = pd.read_csv(tmp_path / "out.csv")["confidence"]
    assert found.confidence == pytest.approx(np.repeat(sure, 2), abs=1e-4)


@pytest.mark.usefixtures("fake")
def test_a_labelling_without_labels_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match=r"no row of .* has a label"):
        labelled(tmp_path, pd.DataFrame(rows(12)), abstain=1.0)
    assert run(["train", "sft", str(tmp_path / "run")]) == 2
    assert "has a label" in capsys.readouterr().err
