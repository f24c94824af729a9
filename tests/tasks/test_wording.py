"""Prompts that share their wording."""

import numpy as np

from icm_fast import load_task
from icm_fast.tasks.wording import shared_wording


def test_a_claim_that_is_made_about_every_text_is_a_wording():
    prompts = [
        f"Review: text {k}\nClaim: it is {word}\nThis claim is"
        for k in range(10)
        for word in ("good", "bad")
    ]
    found = shared_wording(prompts)
    assert len(set(found.tolist())) == 2
    assert (found[::2] == found[0]).all()
    assert (found[1::2] == found[1]).all()
    assert found.dtype == np.int32


def test_prompts_without_or_with_one_template_are_of_one_wording():
    assert shared_wording([f"text {k}" for k in range(20)]).tolist() == [0] * 20
    assert shared_wording([f"text {k}\nSentiment:" for k in range(20)]).tolist() == [0] * 20
    assert shared_wording([]).tolist() == []


def test_what_describes_a_text_is_no_wording():
    rows = [f"Sex: {('male', 'female')[k % 2]}\nName: {k}\nSurvived:" for k in range(40)]
    assert shared_wording(rows).tolist() == [0] * 40
    fares = [f"Sex: {('male', 'female')[k % 2]}\nFare: {k % 15}\nSurvived:" for k in range(60)]
    assert shared_wording(fares).tolist() == [0] * 60
    bare = [f"Sex: {('male', 'female')[k % 2]}\nClass: {k // 20}\nSurvived:" for k in range(40)]
    assert shared_wording(bare).tolist() == [0] * 40


def test_a_claim_about_some_of_the_texts_is_no_wording():
    prompts = [f"{k}\nIt is" for k in range(20)] + [f"{k}\nIs it" for k in range(10)]
    assert shared_wording(prompts).tolist() == [0] * 30


def test_questions_of_a_group_are_no_wording():
    dataset, _ = load_task("arithmetic", limit=16)
    prompts = [example.prompt for example in dataset.examples]
    assert len(set(shared_wording(prompts).tolist())) == 1
