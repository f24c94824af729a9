"""Generated claims: gold from an independent reading of the prompt."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.registry import load_task


def is_true(prompt):
    a, b, c = re.fullmatch(
        r"Claim: (\d+) (?:\+ (\d+) =|is larger than) (\d+)\nI think this claim is", prompt
    ).groups()
    return int(a) + int(b) == int(c) if b else int(a) > int(c)


@pytest.mark.parametrize("name", ["arithmetic", "larger-than"])
@pytest.mark.parametrize("seed", range(3))
def test_gold_and_rules_hold(name, seed):
    dataset, gold = load_task(name, seed=seed)
    assert [is_true(example.prompt) for example in dataset.examples] == gold.astype(bool).tolist()
    assert all(c.allowed[gold[c.first]][gold[c.second]] for c in dataset.constraints)
    groups = defaultdict(list)
    for example, label in zip(dataset.examples, gold, strict=True):
        groups[example.group].append((example.prompt, int(label)))
    assert len(groups) == 64
    for claims in groups.values():
        assert len({prompt for prompt, _ in claims}) == len(claims)
        assert 1 <= sum(label for _, label in claims) < len(claims)


def test_constraint_counts():
    sums, _ = load_task("arithmetic", limit=40)
    assert sorted({c.rule for c in sums.constraints}) == ["equal", "exclusive"]
    assert len(sums.constraints) == 6 * 10
    larger, _ = load_task("larger-than", limit=40)
    assert [c.rule for c in larger.constraints] == ["asymmetric"] * 20


def test_seed_decides_everything():
    one, _ = load_task("arithmetic", limit=16, seed=1)
    assert one == load_task("arithmetic", limit=16, seed=1)[0]
    assert one != load_task("arithmetic", limit=16, seed=2)[0]


def test_limit_may_exceed_the_default_size():
    dataset, _ = load_task("larger-than", limit=500, max_operand=200)
    assert len(dataset) == 500


def test_position_and_repetition_tell_nothing():
    """Neither the place in the group nor being repeated may give the right sum away."""
    dataset, gold = load_task("arithmetic", n_groups=400, max_operand=500)
    by_place = gold.reshape(400, 4).mean(axis=0)
    assert by_place.min() > 0.25
    assert by_place.max() < 0.42
    equal = [gold[c.first] for c in dataset.constraints if c.rule == "equal"]
    assert 0.25 < sum(equal) / len(equal) < 0.42


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("x.jsonl", {}, "reads no file"),
        (None, {"n_groups": 0}, "n_groups = 0 of task 'larger-than' is outside"),
        (None, {"n_groups": 40, "max_operand": 10}, "outside 1 .. 11"),
    ],
)
def test_wrong_options(path, options, message):
    with pytest.raises(InputError, match=message):
        load_task("larger-than", path, **options)
