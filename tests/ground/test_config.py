"""Every setting of a search is declared once, with its limit, and checked against it."""

import dataclasses
import math

import numpy as np
import pytest
import yaml

from icm_fast.config import (
    ADDED_SETTINGS,
    PRESETS,
    Between,
    LabelIndex,
    Limit,
    ListOf,
    OneOf,
    SearchConfig,
    Switch,
    Text,
    limits,
)
from icm_fast.errors import InputError

DECLARED = limits(SearchConfig)


def outside(limit: Limit) -> list[object]:
    """Values of the right type that the limit forbids."""
    match limit:
        case Between(low, high):
            step = 1 if isinstance(low, int) else max(1e-10, abs(high) * 1e-6)
            beyond = [low - step, high + step]
            return beyond if isinstance(low, int) else [*beyond, math.nan, math.inf, -math.inf]
        case OneOf():
            return ["", "no-such-word"]
        case Text():
            return [] if limit.may_be_empty else ["", "  "]
        case LabelIndex():
            return [-2]
        case ListOf(item):
            empty: list[object] = [[]] if limit.required else []
            return empty + [[value] for value in outside(item)]
        case Switch():
            return []  # both booleans are allowed
    raise AssertionError(f"{limit} is a new kind of limit; say what is outside")


def wrong_types(limit: Limit) -> list[object]:
    match limit:
        case Between(low, _):
            more = [1.5, 2.0] if isinstance(low, int) else []
            return ["1", True, [1], {}, object(), *more]
        case LabelIndex():
            return ["1", True, [1], 1.0, object()]
        case OneOf():
            return [1, True, [], object()]
        case Text():
            return [1, True, [], object()]
        case ListOf(item):
            return ["ab", 1, True, {}, object(), *([value] for value in wrong_types(item))]
        case Switch():
            return [0, 1, "yes", "true", [], object()]
    raise AssertionError(f"{limit} is a new kind of limit; say what has a wrong type")


def test_every_setting_declares_its_limit():
    assert list(DECLARED) == [field.name for field in dataclasses.fields(SearchConfig)]


@pytest.mark.parametrize("name", DECLARED)
def test_a_value_outside_the_limit_is_refused(name):
    for value in outside(DECLARED[name]):
        with pytest.raises(InputError) as caught:
            SearchConfig(**{name: value})
        message = str(caught.value)
        assert name in message or name == "moves", message
        assert "\n" not in message
        assert any(
            word in message for word in (" is outside ", "unknown ", "empty", "is not a label")
        ), message


@pytest.mark.parametrize("name", DECLARED)
def test_a_value_of_a_wrong_type_is_refused(name):
    for value in wrong_types(DECLARED[name]):
        with pytest.raises(InputError) as caught:
            SearchConfig(**{name: value})
        message = str(caught.value)
        assert name in message or name == "moves", message
        assert any(
            word in message for word in ("must be a", "must be true", "unknown ", "is not a label")
        ), message


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_lie_within_the_limits_and_leave_nothing_open(preset):
    config = SearchConfig(preset=preset)
    for name, limit in DECLARED.items():
        value = getattr(config, name)
        assert value is not None
        assert limit.read(name, value) == value


@pytest.mark.parametrize("name", [n for n, limit in DECLARED.items() if isinstance(limit, Between)])
def test_both_ends_of_a_range_are_allowed(name):
    for value in (DECLARED[name].low, DECLARED[name].high):
        assert getattr(SearchConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1}, r"alpha = -1 is outside 0\.0 \.\. 1000000000\.0"),
        ({"n_initial": 0}, r"n_initial = 0 is outside 1 \.\. 1000000"),
        ({"n_initial": 2.5}, r"n_initial must be an integer, got 2\.5"),
        ({"alpha": "x"}, "alpha must be a number, got 'x'"),
        ({"fix_both_false": 1}, "fix_both_false must be true or false, got 1"),
        ({"preset": "papr"}, "unknown preset 'papr'; did you mean 'paper'"),
        ({"moves": ["single", "grw"]}, "unknown move 'grw'; did you mean 'grow'"),
        ({"moves": "grow"}, "moves must be a list, got 'grow'"),
        ({"moves": []}, "moves is empty; name at least one of single, group, sweep, grow"),
        ({"label_shares": [0.5, 1.5]}, r"label_shares\[1\] = 1\.5 is outside 1e-09 \.\. 1\.0"),
        ({"label_shares": [0.5, 0.6]}, "label_shares add up to 1.1, not to 1; correct them"),
        (
            {"start": "given", "initial_labels": [0, -2]},
            r"initial_labels\[1\] = -2 is not a label; give",
        ),
        (
            {"start": "given", "initial_labels": [True]},
            r"initial_labels\[0\] = True is not a label; give",
        ),
        ({"start": "given"}, "start=given with 0 initial_labels; give initial_labels and"),
        ({"initial_labels": [0]}, "start=bootstrap with 1 initial_labels; give initial_labels"),
        ({"device": " "}, "device must be a non-empty text, got ' '"),
        ({"int8": True, "scorer": "naive"}, "int8 needs scorer=tree, got naive; drop one of them"),
        (
            {"context_order": "append", "scorer": "naive"},
            "context_order=append needs scorer=tree, got naive; drop one of them",
        ),
        (
            {"context_demonstrations": 4, "scorer": "naive"},
            "context_demonstrations needs scorer=tree, got naive; drop one of them",
        ),
        (
            {"context_order": "append", "context_demonstrations": 4},
            "context_order=append keeps all demonstrations .* drop it or context_demonstrations=4",
        ),
    ],
)
def test_messages_name_setting_value_limit_and_fix(settings, message):
    with pytest.raises(InputError, match=message):
        SearchConfig(**settings)


def test_lists_become_tuples_of_plain_numbers():
    config = SearchConfig(
        start="given", initial_labels=np.array([0, -1, 1], np.int32), moves=["grow"]
    )
    assert config.initial_labels == (0, -1, 1)
    assert all(type(label) is int for label in config.initial_labels)
    assert config.moves == ("grow",)
    assert SearchConfig(start="given", initial_labels=list(np.arange(2))).initial_labels == (0, 1)


def test_settings_survive_yaml_in_their_order():
    config = SearchConfig(
        label_shares=(0.3, 0.7), start="given", initial_labels=(0, 1), fixed_labels=(-1, 1)
    )
    content = config.to_dict()
    left_out = ADDED_SETTINGS.keys() - {"fixed_labels", "channel", "second_opinion"}
    assert list(content) == [name for name in DECLARED if name not in left_out]
    text = yaml.safe_dump(content, sort_keys=False)
    assert SearchConfig.from_mapping(yaml.safe_load(text)) == config


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("former", [False, True])
def test_younger_settings_survive_where_they_differ_from_the_preset(preset, former):
    changes = ADDED_SETTINGS if former else {"fix_forced": True, "initial_groups": True}
    config = SearchConfig(preset=preset, **changes)
    assert SearchConfig.from_mapping(config.to_dict()) == config


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(InputError, match="unknown setting 'alhpa'; did you mean 'alpha'"):
        SearchConfig.from_mapping({"alhpa": 3})


def test_a_configuration_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchConfig().alpha = 1.0


def test_the_default_takes_moves_where_something_asks_for_them():
    assert SearchConfig().max_iterations == 0
    assert SearchConfig(start="bootstrap", seed=3).max_iterations == 0
    asked = ({"restarts": 1}, {"chains": 2}, {"moves": ("sweep",)}, {"start": "zero-shot"})
    for settings in asked:
        assert SearchConfig(**settings).max_iterations == 1000
    assert SearchConfig(max_iterations=7).max_iterations == 7
    assert SearchConfig(preset="annealing").max_iterations == 1000
    again = SearchConfig.from_mapping(SearchConfig().to_dict())
    assert again == SearchConfig()


@pytest.mark.parametrize(
    "name", ["engine", "server", "tokenizer", "fixed_labels", "bootstrap_rounds"]
)
def test_settings_that_are_no_choice_of_a_preset_refuse_null_as_their_schema_does(name):
    with pytest.raises(InputError, match=f"{name}"):
        SearchConfig.from_mapping({name: None})


def test_null_leaves_a_setting_to_the_preset():
    assert SearchConfig.from_mapping({"preset": "paper", "fix_pairs": None}).fix_pairs == "one"
