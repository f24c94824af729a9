"""Rules against tables worked out by hand, and properties that hold for all rules."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_fast.errors import InputError
from icm_fast.tasks.constraints import Asymmetric, Custom, Equal, Exclusive, Implies, compile_rules
from icm_fast.types import Example, LabelSpace

TRUTH = LabelSpace((" False", " True"))
NOT_BOTH = ((True, True), (True, False))
EXACTLY_ONE = ((False, True), (True, False))
SAME = ((True, False), (False, True))
IMPLIES = ((True, True), (False, True))


def example(name: str, group: str | None = "g", answer: str | None = None) -> Example:
    return Example(id=name, prompt=f"Claim {name} is", group=group, answer=answer)


def compiled(examples, rules, labels=TRUTH):
    return [(c.first, c.second, c.allowed, c.rule) for c in compile_rules(examples, labels, rules)]


def test_exclusive_joins_different_answers_of_one_group():
    examples = [example("a", answer="1"), example("b", answer="2"), example("c", answer="1")]
    examples += [example("d", group="h", answer="2"), example("e"), example("f", None, "2")]
    assert compiled(examples, ["exclusive"]) == [
        (0, 1, NOT_BOTH, "exclusive"),
        (1, 2, NOT_BOTH, "exclusive"),
    ]


def test_equal_joins_same_answers_and_ignores_unknown_ones():
    examples = [example("a", answer="1"), example("b"), example("c", answer="1"), example("d")]
    assert compiled(examples, [Equal()]) == [(0, 2, SAME, "equal")]


def test_asymmetric_pairs_without_answers():
    assert compiled([example("a"), example("b")], ["asymmetric"]) == [
        (0, 1, EXACTLY_ONE, "asymmetric")
    ]
    assert compiled([example("a"), example("b", None)], ["asymmetric"]) == []


def test_asymmetric_paper_mode_allows_both_false():
    rule = {"rule": "asymmetric", "paper_mode": True}
    assert compiled([example("a"), example("b")], [rule]) == [(0, 1, NOT_BOTH, "asymmetric")]


def test_asymmetric_in_a_larger_group_matches_reversed_answers():
    answers = ["x>y", "y>z", "y>x", "z>y", "x>x"]
    examples = [example(str(i), answer=answer) for i, answer in enumerate(answers)]
    assert [c[:2] for c in compiled(examples, [Asymmetric()])] == [(0, 2), (1, 3)]


def test_asymmetric_refuses_three_claims_without_answers():
    with pytest.raises(InputError, match="group 'g' has 3 examples"):
        compiled([example("a"), example("b"), example("c")], ["asymmetric"])


def test_implies_by_answer_keeps_its_direction():
    examples = [example("a", answer="animal"), example("d", answer="dog")]
    rule = {"rule": "implies", "if": "dog", "then": "animal"}
    assert compiled(examples, [rule]) == [(0, 1, tuple(zip(*IMPLIES, strict=True)), "implies")]
    assert compiled(examples[::-1], [rule]) == [(0, 1, IMPLIES, "implies")]


def test_implies_by_ids_across_groups():
    examples = [example("a", "g"), example("b", "h")]
    rule = {"rule": "implies", "pairs": [["a", "b"]]}
    assert compiled(examples, [rule]) == [(0, 1, IMPLIES, "implies")]


def test_custom_table_forbid_and_predicate_agree():
    examples = [example("a"), example("b")]
    forms = [
        {"rule": "custom", "pairs": [["a", "b"]], "table": [[1, 1], [0, 1]]},
        {"rule": "custom", "pairs": [["a", "b"]], "forbid": [["True", "False"]]},
        Custom(
            id_pairs=(("a", "b"),),
            predicate=lambda a, x, b, y: not (x == "True" and y == "False"),
        ),
    ]
    assert {tuple(compiled(examples, [form])) for form in forms} == {
        ((0, 1, IMPLIES, "custom"),),
    }


def test_custom_predicate_holds_in_both_directions_and_once_per_pair():
    calls = []

    def allowed(a, label_a, b, label_b):
        calls.append((a.id, label_a, b.id, label_b))
        return not (a.answer == "dog" and label_a == "True" and label_b == "False")

    examples = [example("a", answer="animal"), example("d", answer="dog")]
    constraints = compiled(examples, [Custom(predicate=allowed)])
    assert constraints[0][2] == ((True, False), (True, True))
    assert len(calls) == len(set(calls)) == 8


def test_tables_that_allow_everything_are_dropped():
    assert compiled([example("a"), example("b")], [Custom(predicate=lambda *_: True)]) == []


def test_pairs_of_several_rules_are_merged():
    examples = [example("a", answer="x>y"), example("b", answer="y>x")]
    assert compiled(examples, ["exclusive", "asymmetric", "exclusive"]) == [
        (0, 1, EXACTLY_ONE, "exclusive+asymmetric")
    ]


def test_contradicting_rules_name_both_ids():
    rule = {"rule": "custom", "forbid": [["True", "False"], ["False", "True"]]}
    with pytest.raises(InputError, match=r"asymmetric\+custom allow no labels .* 'a' and 'b'"):
        compiled([example("a"), example("b")], ["asymmetric", rule])


def test_multi_class_rules_need_a_positive_label():
    space = LabelSpace((" yes", " no", " unsure"))
    examples = [example("a", answer="1"), example("b", answer="2")]
    with pytest.raises(InputError, match="3 labels, so the rule must name"):
        compiled(examples, ["exclusive"], space)
    [(_, _, table, _)] = compiled(examples, [Exclusive(positive="yes")], space)
    assert [pair for pair in product(range(3), range(3)) if not table[pair[0]][pair[1]]] == [(0, 0)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("exclusiv", "unknown rule 'exclusiv'; did you mean 'exclusive'"),
        ({"rule": "asymmetric", "papermode": True}, "did you mean 'paper_mode'"),
        ({"rule": "asymmetric", "paper_mode": "yes"}, "must be true or false"),
        ({"rule": "implies"}, "needs either both"),
        ({"rule": "implies", "if": "dog"}, "needs either both"),
        ({"rule": "implies", "pairs": ["ab"]}, "must list pairs"),
        (
            {"rule": "implies", "pairs": [["a", "nobody"]]},
            "'nobody', which the data do not contain",
        ),
        ({"rule": "implies", "pairs": [["a", "a"]]}, "'a' to itself; name two"),
        ({"rule": "custom"}, "exactly one of"),
        ({"rule": "implies", "pairs": "ab"}, "must list pairs such as .* got 'ab'"),
        ({"rule": "custom", "forbid": 3}, "must list pairs such as .* got 3"),
        ({"rule": "custom", "table": "no"}, "list of lists"),
        ({"rule": "custom", "table": [[True, True], "no"]}, "list of lists"),
        ({"rule": "custom", "table": [[True]]}, "not 2 x 2"),
        ({"rule": "custom", "forbid": [["Tru", "False"]]}, "did you mean 'True'"),
        ({"rule": "custom", "predicate": "f"}, "must be a Python function"),
        (3, "must be a name or a mapping"),
        (SimpleNamespace(pairs=lambda scope: []), "must be a name or a mapping"),
    ],
)
def test_malformed_rules_are_refused(rule, message):
    with pytest.raises(InputError, match=message) as caught:
        compiled([example("a"), example("b")], [rule])
    assert "\n" not in str(caught.value)


RULE_SETS = st.lists(
    st.sampled_from(
        [Exclusive(), Equal(), Implies(premise="0", conclusion="1"), Exclusive(positive="False")]
    ),
    max_size=4,
)
GROUPS = st.lists(
    st.tuples(st.sampled_from("gh"), st.sampled_from([None, "0", "1", "2"])),
    min_size=1,
    max_size=8,
)


@given(members=GROUPS, rules=RULE_SETS)
def test_merged_constraints_allow_what_every_rule_allows(members, rules):
    examples = [example(str(i), group, answer) for i, (group, answer) in enumerate(members)]
    together = compile_rules(examples, TRUTH, rules)
    pairs = [(c.first, c.second) for c in together]
    assert pairs == sorted(set(pairs))
    apart = [c for rule in rules for c in compile_rules(examples, TRUTH, [rule])]
    for a, b in product(range(2), range(2)):
        refused = {(c.first, c.second) for c in together if not c.allowed[a][b]}
        assert refused == {(c.first, c.second) for c in apart if not c.allowed[a][b]}


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (1500, "the rules make more than 1,000,000 constraints; the largest group, 'g', has 1500"),
        (7000, r"have 24,496,500 pairs .* look at 20,000,000 at most; the largest group, 'g', has"),
    ],
)
def test_a_group_that_makes_too_many_constraints_is_named(n, message):
    examples = [Example(str(k), f"t{k}", "g", str(k)) for k in range(n)]
    with pytest.raises(InputError, match=message):
        compile_rules(examples, LabelSpace((" a", " b")), ["exclusive"])


def test_tables_hold_booleans():
    rule = {"rule": "custom", "pairs": [["0", "1"]], "table": [["no", "yes"], ["yes", "no"]]}
    with pytest.raises(InputError, match="`table` of rule 'custom' must hold true and false"):
        compile_rules([Example("0", "a"), Example("1", "b")], LabelSpace((" a", " b")), [rule])
