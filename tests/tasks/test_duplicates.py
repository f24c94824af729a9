"""Equal texts: found, and never on both sides of a split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from icm_fast.config import SearchConfig
from icm_fast.engine.concerns import search_concerns
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import NothingHeldOutError, held_out
from icm_fast.tasks.duplicates import duplicates, merge_equal_texts, same_text
from icm_fast.tasks.source import TaskSource
from icm_fast.types import Dataset, Example, LabelSpace


def source(folder, rows, limit=None):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"template": "{t}:", "labels": [" a", " b"], "gold": "g", "group": "k"}
    return TaskSource("custom", str(path), limit=limit, options=options)


def test_equal_texts():
    assert same_text(" a\n  cafe\u0301 ") == same_text("a caf\u00e9")
    assert same_text("a b") != same_text("A b")


def test_groups_that_share_a_text_are_one():
    groups = [("x", "1"), ("y", "1"), ("y ", None), ("z", None), ("w", "2")]
    examples = [Example(f"e{k}", text, group) for k, (text, group) in enumerate(groups)]
    assert duplicates(examples) == [[1, 2]]
    merged = merge_equal_texts(examples)
    assert [e.group for e in merged] == ["1", "1", "1", None, "2"]
    assert merge_equal_texts([examples[0], examples[3]]) == [examples[0], examples[3]]


def test_no_text_is_searched_and_held_out(tmp_path):
    rows = [{"t": "one" if k % 2 else "two", "g": "ab"[k % 2], "k": None} for k in range(20)]
    searched = source(tmp_path, rows, limit=10)
    with pytest.raises(NothingHeldOutError, match="no example with gold besides"):
        held_out(searched, searched.load_dataset(), 5)
    rows += [{"t": f"new\u00e9 {k}", "g": "a", "k": None} for k in range(30)]
    rows += [{"t": f"newe\u0301  {k}", "g": "a", "k": None} for k in range(30)]
    searched = source(tmp_path, rows, limit=30)
    dataset = searched.load_dataset()
    test, _ = held_out(searched, dataset, 100)
    texts = [{same_text(e.prompt) for e in side.examples} for side in (dataset, test)]
    assert not texts[0] & texts[1]
    assert len(test)


def test_a_group_that_shares_a_text_with_the_searched_is_not_held_out(tmp_path):
    rows = [{"t": f"t{k}", "g": "a", "k": k // 2} for k in range(8)]
    rows[7]["t"] = " t0"
    searched = source(tmp_path, rows, limit=8)
    dataset = searched.load_dataset()
    first = dataset.subset([k for k, e in enumerate(dataset.examples) if e.group == "0"])
    limited = TaskSource("custom", searched.data, limit=2, options=dict(searched.options))
    for seed in range(8):
        drawn = TaskSource("custom", searched.data, 2, seed, dict(limited.options))
        if {e.group for e in drawn.load_dataset().examples} == {"0"}:
            test, _ = held_out(drawn, first, 8)
            assert {e.group for e in test.examples} == {"1", "2"}
            return
    raise AssertionError("no seed draws group 0")


def test_equal_prompts_count_as_one_group_of_the_test(tmp_path):
    rows = [{"t": "searched", "g": "a", "k": "s"}]
    rows += [{"t": "same", "g": "a", "k": k} for k in range(5)]
    whole = source(tmp_path, rows)
    dataset = whole.load_dataset().subset([0])
    for seed in range(20):
        drawn = TaskSource("custom", whole.data, 1, seed, dict(whole.options))
        if drawn.load_dataset().examples[0].group == "s":
            with pytest.raises(InputError, match="smaller than group '0' with its 5 examples"):
                held_out(drawn, dataset, 3)
            assert len(held_out(drawn, dataset, 5)[0]) == 5
            return
    raise AssertionError("no seed draws the first row")


def test_duplicates_are_a_concern():
    examples = tuple(Example(f"e{k}", f"t{k // 2}") for k in range(4))
    dataset = Dataset(examples, LabelSpace((" a", " b")))
    labels = np.array([0, 1, 0, 1], np.int32)
    found = search_concerns(labels, 1.0, dataset, SearchConfig(), None)
    assert [concern.kind for concern in found] == ["duplicates"]
    assert "4 of 4 prompts occur more than once (such as 'e0' and 'e1')" in found[0].text


@pytest.mark.parametrize("part", ["prompt", "id", "group", "answer"])
def test_data_sets_made_in_python_hold_text(part):
    values = {"id": "e", "prompt": "p", "group": "g", "answer": "a"} | {part: "x\ud800"}
    with pytest.raises(ValueError, match="row 0 holds a lone surrogate"):
        Dataset((Example(**values),), LabelSpace((" a", " b")))
    with pytest.raises(ValueError, match="a label or the separator holds a lone surrogate"):
        Dataset((Example("e", "p"),), LabelSpace((" a", " \udc00")))
    with pytest.raises(ValueError, match="the preamble holds a lone surrogate"):
        Dataset((Example("e", "p"),), LabelSpace((" a", " b")), preamble="x\ud800")
    with pytest.raises(ValueError, match="the preamble ends in whitespace"):
        Dataset((Example("e", "p"),), LabelSpace((" a", " b")), preamble="x\n")
