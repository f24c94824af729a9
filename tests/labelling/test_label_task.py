"""What is asked of a row: forms, labels, prompts, and what is refused before a model is loaded."""

from __future__ import annotations

import re

import pytest

from icm_fast import InputError
from icm_fast.labelling import LabelConfig, LabelTask
from icm_fast.labelling.scan import scan_table
from icm_fast.labelling.tables import ListTable
from icm_fast.labelling.task import NOUNS
from icm_fast.tasks.rows import Row

AB = ("a", "b")


def prompts(task, **values):
    task = task.with_template(task.templates()[0])
    return [(e.prompt, e.group, e.answer) for e in task.examples(Row(3, "row 3", values))]


def test_classes_are_asked_for_by_the_nouns():
    task = LabelTask(text="my_text", labels=AB)
    assert task.templates() == tuple(f"My text: {{my_text}}\n{noun}:" for noun in NOUNS)
    assert prompts(task, my_text="x") == [(f"My text: x\n{NOUNS[0]}:", None, None)]
    assert task.model_labels(["x:"]) == (" a", " b")
    assert task.item_labels(1) == (1,)


def test_a_template_is_taken_as_it_is_but_for_its_end():
    task = LabelTask(text="t", labels=AB, template="{t} and {u}: ", group="g", answer="h")
    assert task.columns == ("t", "u", "g", "h")
    assert prompts(task, t="x", u="y", g="1", h="2") == [("x and y:", "1", "2")]


def test_claims():
    task = LabelTask(claim="said")
    assert task.labels == ("false", "true")
    assert prompts(task, said="x") == [("Claim: x\nI think this claim is", None, None)]
    assert task.model_labels(["x"]) == (" False", " True")


def test_comparisons_are_read_in_both_orders():
    task = LabelTask(compare=("one", "two"), text="q")
    (first, *_), (second, *_) = found = prompts(task, one="x", two="y", q="why")
    assert first.startswith("Q: why\nResponse 1: x\nResponse 2: y\n")
    assert second.startswith("Q: why\nResponse 1: y\nResponse 2: x\n")
    assert [rest for _, *rest in found] == [["row-3", "1>2"], ["row-3", "2>1"]]
    assert task.labels == ("one", "two")
    assert [task.item_labels(y) for y in (0, 1, -1)] == [(1, 0), (0, 1), (-1, -1)]


WRONG = {
    "1 label": ({"text": "t", "labels": ("a",)}, "a labelling needs 2 to 50 labels, got 1"),
    "51 labels": ({"text": "t", "labels": tuple(map(str, range(51)))}, "2 to 50 labels, got 51"),
    "none": ({"text": "t"}, "2 to 50 labels, got 0"),
    "twice": ({"text": "t", "labels": ("a", "b", "a")}, "'a'"),
    "twice but for blanks": ({"text": "t", "labels": ("a", " a ")}, "'a'"),
    "blank": ({"text": "t", "labels": ("a", " ")}, "label"),
    "one text": ({"text": "t", "labels": "a,b"}, "labels must be a list, got 'a,b'"),
    "numbers": ({"text": "t", "labels": (1, 2)}, "labels must be text, got"),
    "control": ({"text": "t", "labels": ("a", "b\x00")}, "control character"),
    "nothing": ({"labels": AB}, "name the column to label"),
    "two forms": ({"text": "t", "claim": "c"}, "text and claim exclude each other"),
    "labels of claims": ({"claim": "c", "labels": AB}, "claim has labels already"),
    "one column": ({"compare": ("a", "a")}, "names column 'a' twice"),
    "no pair": ({"compare": ("a",)}, "compare takes two columns"),
    "half a pair": ({"compare": AB, "template": "{a}"}, "must show both columns, {a} and {b}"),
    "rules alone": ({"claim": "c", "rules": ("equal",)}, "name the column of the group"),
    "rules of pairs": ({"compare": AB, "rules": ("equal",), "group": "g"}, "leave rules out"),
    "known in prompt": ({"text": "t", "labels": AB, "known": "t"}, "which the prompt reads, too"),
    "braces": ({"text": "t{", "labels": AB}, "a sign of templates in its name; rename it"),
    "empty": ({"text": " ", "labels": AB}, "text must be text, got ' '"),
    "instruction": (
        {"text": "t", "labels": AB, "instruction": 3},
        "instruction must be text, got 3",
    ),
    "control in it": ({"text": "t", "labels": AB, "instruction": "a\x00"}, "instruction"),
    "described twice": ({"text": "t", "labels": {"a": "x", "a ": "y"}}, "'a'"),
    "no label": (
        {"text": "t", "labels": ("spam", "fine"), "descriptions": {"span": "x"}},
        "the description of 'span' is of no label; did you mean 'spam'?",
    ),
    "no text": ({"text": "t", "labels": {"a": 1, "b": "x"}}, "the description of 'a' must be text"),
    "no mapping": ({"text": "t", "labels": AB, "descriptions": "x"}, "must be texts by label"),
    "claims": ({"claim": "c", "descriptions": {"true": "x"}}, "claim has labels already"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_asked_is_one_clear_line(case):
    settings, message = WRONG[case]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        LabelTask(**settings)
    assert "\n" not in str(caught.value)


def test_instruction_and_descriptions_are_the_preamble():
    assert LabelTask(text="t", labels=AB).preamble == ""
    assert LabelTask(text="t", labels=AB, instruction=" Do.\n").preamble == "Do."
    described = LabelTask(text="t", labels={"a": "one\n thing", " b ": None})
    assert described.labels == AB
    assert described.preamble == "Labels:\n- a: one thing\n- b"
    both = LabelTask(text="t", labels=AB, descriptions={"b": "x"}, instruction="Do.")
    assert both.preamble == "Do.\n\nLabels:\n- a\n- b: x"
    assert both.with_template("{t}:").preamble == both.preamble
    assert LabelTask(claim="c", instruction="Do.").preamble == "Do."


def test_50_labels_are_read():
    assert len(LabelTask(text="t", labels=tuple(map(str, range(50)))).labels) == 50


def test_blanks_around_labels_are_left_out():
    assert LabelTask(text="t", labels=(" a", "b\n")).labels == AB


def scan(rows, **task):
    return scan_table(ListTable(rows), LabelTask(**{"text": "t", "labels": AB, **task}))


NAN = float("nan")
BAD_ROWS = {
    "wrong column": ([{"tt": "x"}], {}, "data has no column 't'; did you mean 'tt'?"),
    "no rows": ([], {}, "data has no rows"),
    "gaps": ([{"t": "x"}, {"t": NAN}], {}, "row 1: column 't' is nan, a gap; fill it or remove"),
    "all gaps": ([{"t": NAN}] * 3, {}, "row 0: column 't' is nan, a gap; fill it or remove"),
    "later gone": ([{"t": "x"}, {"u": "y"}], {}, "row 1: column 't' is missing; fill it"),
    "number": ([{"t": 1.5}], {}, "row 0: column 't' is 1.5, of type float"),
    "known gone": ([{"t": "x"}], {"known": "k"}, "data has no column 'k'"),
    "known empty": ([{"t": "x", "k": NAN}] * 2, {"known": "k"}, "holds no label in any row"),
    "known odd": ([{"t": "x", "k": "c"}], {"known": "k"}, "row 0: gold 'c' is not a label"),
    "group gone": ([{"t": "x"}], {"group": "g"}, "data has no column 'g'"),
    "template": ([{"t": "x"}], {"template": "{t}{v}:"}, "data has no column 'v'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_used_are_one_clear_line(case):
    rows, task, message = BAD_ROWS[case]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        scan(rows, **task)
    assert "\n" not in str(caught.value)


def test_a_scan_counts_and_reads_known_labels():
    rows = [{"t": "x", "k": "b"}, {"t": "y", "k": None}, {"t": "z"}, {"t": "w", "k": " A "}]
    found = scan(rows, known="k")
    assert (found.n_rows, found.known.tolist()) == (4, [1, -1, -1, 0])


def test_the_digest_is_of_what_a_prompt_or_a_rule_reads():
    rows = [{"t": "x", "g": "1", "other": "o"}]
    first = scan(rows, group="g").digest
    assert scan([rows[0] | {"other": "p"}], group="g").digest == first
    for change in ({"t": "y"}, {"g": "2"}):
        assert scan([rows[0] | change], group="g").digest != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (0.5, 0.2)}, "add up to 0.7; they must add up to 1"),
        ({"shares": (0.2, 0.3, 0.5)}, "3 values, but there are 2 labels"),
    ],
)
def test_shares_fit_the_labels(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        LabelConfig(**settings).check_labels(AB)


@pytest.mark.parametrize(
    "settings",
    [{"cores": 0}, {"core_size": 1}, {"abstain": 1.5}, {"keep": 0}, {"shares": (1, -1)}, {"x": 1}],
)
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        LabelConfig.from_mapping(settings)


def test_settings_survive_their_own_mapping():
    config = LabelConfig(shares=(0.25, 0.75), seed=3, abstain=0.5)
    assert LabelConfig.from_mapping(config.to_dict()) == config
