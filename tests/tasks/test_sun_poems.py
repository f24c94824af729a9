"""Pairs of poems: gold from an independent reading, and nothing but the sun tells them apart."""

from __future__ import annotations

import re
from collections import Counter
from statistics import mean

import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.registry import load_task

PROMPT = re.compile(
    r"Poem A: (.+)\nPoem B: (.+)\nClaim: Poem A is better than Poem B\.\nI think this claim is"
)


def poems(example):
    return PROMPT.fullmatch(example.prompt).groups()


def has_sun(poem):
    return "sun" in poem.lower()


@pytest.fixture(scope="module")
def many():
    return load_task("sun-poems", n_groups=500, seed=1)


def test_gold_is_the_poem_with_the_sun(many):
    dataset, gold = many
    assert len(dataset) == 1000
    for example, label in zip(dataset.examples, gold, strict=True):
        first, second = poems(example)
        assert has_sun(first) != has_sun(second)
        assert label == has_sun(first)
    assert tuple(dataset.label_space) == (" False", " True")
    assert gold.sum() == 500


def test_every_pair_stands_in_both_orders_under_the_rule(many):
    dataset, gold = many
    assert [(c.first, c.second, c.rule) for c in dataset.constraints] == [
        (i, i + 1, "asymmetric") for i in range(0, 1000, 2)
    ]
    for c in dataset.constraints:
        assert c.allowed == ((False, True), (True, False))
        assert c.allowed[gold[c.first]][gold[c.second]]
        assert poems(dataset.examples[c.first]) == poems(dataset.examples[c.second])[::-1]


def test_the_place_of_the_sun_is_random(many):
    _, gold = many
    assert 0.43 < gold[::2].mean() < 0.57


def test_poems_are_four_lines_and_none_stands_twice(many):
    dataset, _ = many
    shown = [poem for example in dataset.examples[::2] for poem in poems(example)]
    assert len(set(shown)) == len(shown) == 1000
    for poem in shown:
        assert poem.count(" / ") == 3
        assert not re.search(r"[{}\n]|-|  ", poem)
        assert len(poem) < 200
    words = Counter(re.search(r"sun\w*", poem)[0] for poem in shown if has_sun(poem))
    assert set(words) == {"sun", "sunlight", "sunshine", "sunrise", "sunset"}


def test_only_the_sun_tells_the_poems_apart(many):
    """Neither length nor any line without a word of the sky may give the better poem away."""
    dataset, gold = many
    better, worse = [], []
    for example, label in zip(dataset.examples[::2], gold[::2], strict=True):
        pair = poems(example)
        better.append(pair[1 - label])
        worse.append(pair[label])
    assert abs(mean(map(len, better)) - mean(map(len, worse))) < 3
    ends = [
        Counter(line.split()[-1] for poem in side for line in poem.split(" / "))
        for side in (better, worse)
    ]
    assert set(ends[0]) == set(ends[1])
    # 500 draws of 13 or 16 couplets: 31 to 38 each, give or take 6.
    assert max(abs(ends[0][word] - ends[1][word]) for word in ends[0]) < 30


def test_seed_decides_everything():
    one, gold = load_task("sun-poems", limit=16, seed=1)
    again, gold_again = load_task("sun-poems", limit=16, seed=1)
    assert one == again
    assert gold.tolist() == gold_again.tolist()
    assert one != load_task("sun-poems", limit=16, seed=2)[0]
    assert len(one) == 16
    assert len(load_task("sun-poems")[0]) == 128
    assert len(load_task("sun-poems", limit=301)[0]) == 300


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("x.jsonl", {}, "reads no file"),
        (
            None,
            {"n_groups": 0},
            "n_groups = 0 of task 'sun-poems' is outside 1 .. 2000; raise n_groups",
        ),
        (None, {"limit": 1}, "limit 1 is smaller than group"),
        (None, {"max_operand": 9}, "unknown option 'max_operand'"),
    ],
)
def test_wrong_options(path, options, message):
    with pytest.raises(InputError, match=message):
        load_task("sun-poems", path, **options)
