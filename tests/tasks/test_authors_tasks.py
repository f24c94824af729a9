"""Tasks in the authors' schema: prompts, rules and gold, on rows of our own."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from icm_fast.cli.settings import read_request
from icm_fast.config import PRESETS
from icm_fast.errors import InputError
from icm_fast.tasks.gsm8k import canonical_answer
from icm_fast.tasks.registry import TASKS as KNOWN_TASKS
from icm_fast.tasks.registry import load_task, preset_options

CLAIMS = [
    {"question": f"Q{group}?", "choice": f"C{claim}.", "label": claim % 2, "consistency_id": group}
    for group in range(6)
    for claim in range(4)
]
SOLUTIONS = [
    {"question": "1+1?", "cot": "One and one.", "answer": a, "label": a == "2", "consistency_id": 9}
    for a in ("2", "3", "2", "$2.00")
]
PAIRS = [
    {
        "question": "Help?",
        "choice": first,
        "choice_2": second,
        "label": label,
        "consistency_id": group,
    }
    for group in range(3)
    for first, second, label in (
        (f"a\nb{group}", f"c{group}", True),
        (f"c{group}", f"a\nb{group}", False),
    )
]
TASKS = {
    "truthfulqa": CLAIMS,
    "gsm8k-verification": SOLUTIONS,
    "alpaca-preference": PAIRS,
    "author-gender": PAIRS,
}


def save(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_truthfulqa_prompt_groups_and_gold(tmp_path):
    dataset, gold = load_task("truthfulqa", save(tmp_path, CLAIMS))
    assert dataset.examples[5].prompt == "Question: Q1?\nClaim: C1.\nI think this claim is"
    assert dataset.examples[5].group == "1"
    assert tuple(dataset.label_space) == (" False", " True")
    assert dataset.constraints == ()
    assert gold.dtype == np.int32
    assert gold.tolist() == [0, 1, 0, 1] * 6


def test_truthfulqa_authors_rule_warns_that_it_leaks(tmp_path):
    path = save(tmp_path, [*CLAIMS[:3], {**CLAIMS[3], "label": None}])
    with pytest.warns(UserWarning, match="GOLD"):
        dataset, gold = load_task("truthfulqa", path, rules="authors-code")
    assert gold.tolist() == [0, 1, 0, -1]
    assert [(c.first, c.second, c.rule) for c in dataset.constraints] == [
        (0, 1, "exclusive"),
        (0, 2, "equal"),
        (1, 2, "exclusive"),
    ]
    assert all(example.answer is None for example in dataset.examples)
    with pytest.raises(InputError, match="did you mean 'authors-code'"):
        load_task("truthfulqa", path, rules="author-code")


def test_gsm8k_claims_and_rules(tmp_path):
    path = save(tmp_path, SOLUTIONS)
    dataset, gold = load_task("gsm8k-verification", path)
    assert dataset.examples[0].prompt == (
        "Question: 1+1?\nClaim: One and one.\nI think this claim is"
    )
    assert gold.tolist() == [1, 0, 1, 0]
    rules = {(c.first, c.second): c.rule for c in dataset.constraints}
    assert rules == dict.fromkeys([(0, 1), (1, 2), (0, 3), (1, 3), (2, 3)], "exclusive") | {
        (0, 2): "equal"
    }
    by_number, _ = load_task("gsm8k-verification", path, answers="number")
    rules = {(c.first, c.second): c.rule for c in by_number.constraints}
    assert rules[0, 3] == rules[0, 2] == "equal"
    with pytest.raises(InputError, match="did you mean 'number'"):
        load_task("gsm8k-verification", path, answers="numbers")


def test_gsm8k_falls_back_to_choice(tmp_path):
    row = {"question": "1+1?", "choice": "It is 2."}
    dataset, gold = load_task("gsm8k-verification", save(tmp_path, [row]))
    assert "Claim: It is 2.\n" in dataset.examples[0].prompt
    assert gold.tolist() == [-1]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("$1,000.00", "1000"),
        (" 95.0", "95"),
        ("1000", "1000"),
        ("-0", "0"),
        ("1e3", "1000"),
        ("25%", "25"),
        ("ten cents ", "ten cents"),
        ("NaN", "NaN"),
        ("0.50", "0.5"),
    ],
)
def test_canonical_answers(text, canonical):
    assert canonical_answer(text) == canonical


def test_alpaca_prompt_and_asymmetry(tmp_path):
    path = save(tmp_path, PAIRS)
    dataset, gold = load_task("alpaca-preference", path)
    assert dataset.examples[0].prompt == (
        "Human: Help?\nResponse 1: a b0\nResponse 2: c0\n"
        "Claim: Response 1 is more helpful and harmless than Response 2.\nI think this claim is"
    )
    assert [(c.first, c.second) for c in dataset.constraints] == [(0, 1), (2, 3), (4, 5)]
    assert dataset.constraints[0].allowed == ((False, True), (True, False))
    assert gold.tolist() == [1, 0] * 3
    paper, _ = load_task("alpaca-preference", path, paper_mode=True)
    assert paper.constraints[0].allowed == ((True, True), (True, False))


def test_comparisons_that_share_a_text_are_one_group(tmp_path):
    """Otherwise one could be held out while the other is a demonstration."""

    def both(group, question, first, second):
        row = {"question": question, "consistency_id": group, "label": None}
        return [
            {**row, "choice": first, "choice_2": second},
            {**row, "choice": second, "choice_2": first},
        ]

    rows = [
        *both("b", "Why?", "x", "y"),
        *both("c", "Why?", "z", "w"),
        *both("a", "How?", "x", "y"),  # the same texts to another question
        *both("d", "Why?", "w", "v"),
        *both("e", "Why?", "v", "x"),  # joins c and d with b
    ]
    rows.append({"question": "Why?", "choice": "x", "choice_2": "q", "label": None})
    dataset, _ = load_task("alpaca-preference", save(tmp_path, rows))
    groups = [example.group for example in dataset.examples]
    assert groups == ["b", "b", "b", "b", "a", "a", "b", "b", "b", "b", None]
    pairs = sorted((c.first, c.second) for c in dataset.constraints)
    assert pairs == [(k, k + 1) for k in range(0, 10, 2)]


def test_author_gender_prompt_needs_no_question(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "question"} for row in PAIRS]
    dataset, _ = load_task("author-gender", save(tmp_path, rows))
    assert dataset.examples[0].prompt == (
        "Blog A: a b0\nBlog B: c0\nClaim: Blog A was written by a man and Blog B by a woman.\n"
        "I think this claim is"
    )
    assert len(dataset.constraints) == 3


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_data_set_does_not_depend_on_gold(tmp_path, name):
    rows = TASKS[name]
    original, gold = load_task(name, save(tmp_path, rows), limit=4, seed=3)
    blind, unknown = load_task(
        name,
        save(tmp_path, [{k: v for k, v in row.items() if k != "label"} for row in rows]),
        limit=4,
        seed=3,
    )
    labels = [row["label"] for row in rows]
    random.Random(0).shuffle(labels)
    permuted, _ = load_task(
        name,
        save(tmp_path, [{**row, "label": y} for row, y in zip(rows, labels, strict=True)]),
        limit=4,
        seed=3,
    )
    assert original == blind == permuted
    assert original.fingerprint() == blind.fingerprint()
    assert set(gold.tolist()) <= {0, 1}
    assert unknown.tolist() == [-1] * len(original)


def test_limit_keeps_gold_beside_its_example(tmp_path):
    path = save(tmp_path, CLAIMS)
    dataset, gold = load_task("truthfulqa", path, limit=11, seed=1)
    assert len(dataset) == 8
    whole, all_gold = load_task("truthfulqa", path)
    where = {example.id: row for row, example in enumerate(whole.examples)}
    assert [all_gold[where[example.id]] for example in dataset.examples] == gold.tolist()


def test_rows_without_question_name_their_line(tmp_path):
    for row in ({"choice": "c"}, {"question": "  ", "choice": "c"}):
        with pytest.raises(InputError, match=r"rows.jsonl, line 2: column 'question' is"):
            load_task("truthfulqa", save(tmp_path, [CLAIMS[0], row]))


@pytest.mark.parametrize(
    ("name", "path", "options", "message"),
    [
        ("truthfulq", "x", {}, "unknown task 'truthfulq'; did you mean 'truthfulqa'"),
        ("truthfulqa", None, {}, "needs a file"),
        ("truthfulqa", "no.jsonl", {}, "no file at"),
        ("truthfulqa", "x", {"rule": "none"}, "did you mean 'rules'"),
        ("custom", "x.csv", {"balance": True}, "unknown option 'balance'"),
    ],
)
def test_wrong_calls_are_one_line(name, path, options, message):
    with pytest.raises(InputError, match=message) as caught:
        load_task(name, path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "n", "n_constraints"),
    [
        ("truthfulqa", "truthfulqa.jsonl", 2608, 0),
        ("gsm8k-verification", "gsm8k_verification.jsonl", 1600, 2400),
        ("alpaca-preference", "alpaca_preference.jsonl", 600, 300),
    ],
)
def test_authors_files(name, file, n, n_constraints, shared_data):
    dataset, gold = load_task(name, shared_data / file)
    assert (len(dataset), len(dataset.constraints)) == (n, n_constraints)
    assert set(gold.tolist()) == {0, 1}
    if name == "alpaca-preference":
        assert len({example.group for example in dataset.examples}) == 285
    violated = [not c.allowed[gold[c.first]][gold[c.second]] for c in dataset.constraints]
    assert sum(violated) < 0.02 * n


# ---- Options that go with presets ----


def test_claims_of_a_question_may_be_drawn_together_without_a_rule(tmp_path):
    dataset, _ = load_task("truthfulqa", save(tmp_path, CLAIMS), rules="groups")
    groups = [example.group for example in dataset.examples]
    joined = {(c.first, c.second) for c in dataset.constraints}
    n = len(groups)
    assert joined == {(i, j) for i in range(n) for j in range(i + 1, n) if groups[i] == groups[j]}
    assert all(all(map(all, c.allowed)) and c.rule == "group" for c in dataset.constraints)


def test_gsm8k_may_have_the_rule_of_the_papers_text_alone(tmp_path):
    path = save(tmp_path, SOLUTIONS)
    dataset, _ = load_task("gsm8k-verification", path, rules="different")
    assert {c.rule for c in dataset.constraints} == {"exclusive"}
    assert (0, 2) not in {(c.first, c.second) for c in dataset.constraints}
    with pytest.raises(InputError, match="unknown rules 'diferent' of gsm8k; did you mean"):
        load_task("gsm8k-verification", path, rules="diferent")


@pytest.mark.parametrize(("newlines", "joined"), [("blank", "a b"), ("delete", "ab")])
def test_line_breaks_of_alpaca_become_blanks_or_nothing(tmp_path, newlines, joined):
    row = {"question": "Q\nq", "choice": "a\nb", "choice_2": "c\r\nd", "consistency_id": 1}
    path = save(tmp_path, [row, {**row, "choice": "c\r\nd", "choice_2": "a\nb"}])
    dataset, _ = load_task("alpaca-preference", path, newlines=newlines)
    assert f"Human: Q\nq\nResponse 1: {joined}\n" in dataset.examples[0].prompt
    assert len(dataset.constraints) == 1
    with pytest.raises(InputError, match="unknown newlines 'drop' of alpaca-preference"):
        load_task("alpaca-preference", path, newlines="drop")


def test_truthfulqa_preference_pairs_the_claims_of_a_question(tmp_path):
    path = save(tmp_path, CLAIMS)
    dataset, gold = load_task("truthfulqa-preference", path)
    first = dataset.examples[0].prompt
    assert first == (
        "Question: Q0?\nAnswer 1: C0.\nAnswer 2: C1.\n"
        "Claim: Answer 1 is more truthful than Answer 2.\nI think this claim is"
    )
    assert len(dataset) == len(CLAIMS)
    assert gold.tolist()[:2] == [0, 1]
    assert [(c.first, c.second) for c in dataset.constraints[:2]] == [(0, 1), (2, 3)]
    without = save(tmp_path, [{k: v for k, v in row.items() if k != "label"} for row in CLAIMS])
    unlabelled, unknown = load_task("truthfulqa-preference", without)
    assert unlabelled.fingerprint() == dataset.fingerprint()
    assert set(unknown.tolist()) == {-1}
    ready = {"question": "Q?", "choice": "x", "choice_2": "y", "consistency_id": 3, "label": 1}
    pairs = [ready, {**ready, "choice": "y", "choice_2": "x", "label": 0}]
    found, gold = load_task("truthfulqa-preference", save(tmp_path, pairs))
    assert (len(found), gold.tolist(), len(found.constraints)) == (2, [1, 0], 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_choose_options_that_their_tasks_have(preset, tmp_path):
    for task in KNOWN_TASKS:
        options = preset_options(task, preset)
        if options:
            load_task(task, save(tmp_path, TASKS.get(task, CLAIMS)), **options)
    paper = preset_options("alpaca-preference", preset).get("paper_mode", False)
    assert paper == preset.startswith("paper")


def test_the_command_line_takes_the_options_of_the_preset(tmp_path):
    flags = {"task": "gsm8k-verification", "data": "x.jsonl", "model": "fake", "preset": "paper"}
    assert read_request(None, **flags).source.options == {"rules": "different"}
    assert read_request(None, (), ["rules=all"], **flags).source.options == {"rules": "all"}
    assert read_request(None, **{**flags, "preset": "default"}).source.options == {}
