"""JSON and YAML: the core schema of YAML 1.2, text where names are wanted, limits with names."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from icm_fast.config import SearchConfig
from icm_fast.documents import parse_json, parse_old_yaml, parse_yaml, yaml_text
from icm_fast.errors import InputError, shown
from icm_fast.training.config import TuningConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("010", 10),
        ("-08", -8),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0b11", "0b11"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("on", "on"),
        ("y", "y"),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("2024-01-02", "2024-01-02"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("none", "none"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("=", "="),
        ("[1e3, no, 010]", [1000.0, "no", 10]),
        ("{1: a, no: b, null: c, 1e-4: d, 010: e, <<: f}",
         {"1": "a", "no": "b", "null": "c", "1e-4": "d", "010": "e", "<<": "f"}),
    ],
)  # fmt: skip
def test_the_core_schema(text, value):
    assert parse_yaml(text, "x") == value
    assert type(parse_yaml(text, "x")) is type(value)


def test_names_are_text_as_it_stands():
    text = "id: 007\nlimit: 007\ngold_map: {1: 0, 2.0: {3: no}}\nnone: null"
    assert parse_yaml(text, "x", texts=("id", "gold_map", "none")) == {
        "id": "007",
        "limit": 7,
        "gold_map": {"1": "0", "2.0": {"3": "no"}},
        "none": None,
    }


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(8)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"f, line 2: an alias \(\*a\); write the value out"),
        ("a: &a 1\nb: *a", "f, line 2: an alias"),
        ("a: 1\na: 2", "f, line 2: key 'a' stands twice in one mapping"),
        ("{[1]: 2}", "f, line 1: a key is a list or a mapping"),
        ("[" * 1000 + "]" * 1000, "f, line 1: lists or mappings nested more than 64 deep"),
        ("9" * 5000, "f, line 1: an integer of 5000 digits"),
        ("!!python/object/apply:os.system [ls]", "f, line 1: values of type"),
        ("!!binary aGk=", "f, line 1: values of type"),
        ("!!int x", "f, line 1: 'x' is not of type int"),
        ("a: [1", "f, line 1: not YAML"),
        ("a\x00", "f: not YAML"),
        ("--- 1\n--- 2\n", "f, line 2: not YAML"),
        ("*a", "f, line 1: an alias"),
    ],
)
def test_what_is_refused_is_one_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "f")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "[" * 1000 + "]" * 1000])
def test_where_aliases_count_they_are_bounded(text):
    for read in (parse_old_yaml, lambda text, where: parse_yaml(text, where, aliases=True)):
        assert len(refusal(lambda read=read: read(text, "f"))) in range(1, 300)


def refusal(call):
    """The message of the InputError that a call raises; any other exception is a bug."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


words = st.one_of(st.text(), st.sampled_from(["1e-4", "yes", "010", "08", "0o7", "1:30", "null"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_what_run_folders_hold_is_read_as_written(value):
    assert parse_old_yaml(yaml_text(value), "f") == value


@given(plain)
def test_what_is_written_is_what_earlier_versions_wrote(value):
    """But for a sign that these read back as a blank."""
    if "\x85" not in json.dumps(value, ensure_ascii=False):
        before = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        assert yaml_text(value) == before


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", "\u2029 x", "\ufeff"])
def test_signs_that_end_lines_come_back(text):
    assert parse_old_yaml(yaml_text({text: [text]}), "f") == {text: [text]}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    for read in (parse_yaml, parse_old_yaml, parse_json):
        assert len(refusal(lambda read=read: read(text, "f"))) < 500


@given(plain)
def test_values_in_messages_are_short(value):
    assert len(shown(value)) < 4000
    shown(value).encode()


def test_huge_values_in_messages_are_short():
    values = [10**5000, "x" * 10**6, ["y" * 1000] * 10**5, {k: {k: "\ud800"} for k in range(10**4)}]
    assert all(len(shown(value)) < 1500 for value in values)


@given(st.sampled_from([SearchConfig, TuningConfig]), st.data())
def test_settings_are_read_or_refused(config, data):
    names = sorted(config.__dataclass_fields__)
    content = data.draw(st.dictionaries(st.sampled_from(names), plain, max_size=3))
    assert len(refusal(lambda: config.from_mapping(content))) < 4000


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [("epochs", 1e1, 10), ("epochs", "3", 3), ("learning_rate", "1e-4", 1e-4), ("rank", 8, 8)],
)
def test_numbers_are_read_by_the_type_of_their_field(name, value, read):
    found = getattr(TuningConfig.from_mapping({name: value}), name)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize("value", [2.5, "x", True, None, "1e", [1]])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(InputError, match="epochs must be a"):
        TuningConfig.from_mapping({"epochs": value})


def test_search_settings():
    config = SearchConfig.from_mapping({"max_iterations": 1e3, "alpha": "5e1", "n_initial": "4"})
    assert (config.max_iterations, config.alpha, config.n_initial) == (1000, 50.0, 4)
    with pytest.raises(InputError, match=r"label_shares must be a list, got 0\.9"):
        SearchConfig.from_mapping({"label_shares": 0.9})
