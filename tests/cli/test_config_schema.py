"""``icm-fast config``: a schema that accepts what the commands accept, and a file of defaults."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from icm_fast.cli import label as label_command
from icm_fast.cli import run
from icm_fast.cli.schema import SCHEMAS, descriptions, whole_schema
from icm_fast.cli.settings import read_request, read_settings_file, training_settings
from icm_fast.config import (
    PRESETS,
    Between,
    LabelIndex,
    Limit,
    ListOf,
    Offered,
    OneOf,
    SearchConfig,
    Switch,
    Text,
    limits,
)
from icm_fast.documents import parse_old_yaml, parse_yaml
from icm_fast.errors import InputError
from icm_fast.labelling import LabelTask
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.task import TEXTS
from icm_fast.tasks.custom import TEXT_KEYS, CustomSpec, load_custom
from icm_fast.training.config import TuningConfig
from icm_fast.training.dpo.config import DpoConfig
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.rl.config import PolicyConfig
from run_fakes import REPOSITORY

SETTINGS = {
    "search": SearchConfig,
    "label": LabelConfig,
    "train": TuningConfig,
    "reward": RewardConfig,
    "dpo": DpoConfig,
    "rl": PolicyConfig,
}
TRAININGS = {kind: SETTINGS[kind] for kind in ("train", "reward", "dpo", "rl")}

BLOCK = re.compile(r"^cat > (\S+\.yaml) <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def valid() -> Callable[[object, str], bool]:
    """Whether a document fits the schema of a kind, or of any."""
    jsonschema = pytest.importorskip("jsonschema")
    validators = {
        kind: jsonschema.Draft202012Validator(schema)
        for kind, schema in {
            **{k: make() for k, make in SCHEMAS.items()},
            "": whole_schema(),
        }.items()
    }
    for validator in validators.values():
        validator.check_schema(validator.schema)
    return lambda content, kind="": validators[kind].is_valid(content)


def test_every_setting_is_in_it_with_its_meaning():
    of = {
        **{kind: (settings,) for kind, settings in SETTINGS.items()},
        "label": (LabelConfig, LabelTask),
        "task": (CustomSpec,),
    }
    assert set(of) == set(SCHEMAS)
    for kind, classes in of.items():
        schema = SCHEMAS[kind]()
        names = {f.name for one in classes for f in dataclasses.fields(one)} - (
            {"separator"} if kind == "label" else set()
        )
        assert names <= set(schema["properties"])
        assert all(schema["properties"][name]["description"] for name in names)
        assert schema["additionalProperties"] is False
    for settings in SETTINGS.values():
        names = {field.name for field in dataclasses.fields(settings)}
        assert set(descriptions(settings)) == names == set(limits(settings))


def examples() -> dict[str, tuple[str, object]]:
    """Every YAML file of the examples and of the documents, with its kind."""
    found = {}
    for path in sorted((REPOSITORY / "examples").glob("*.yaml")):
        found[path.name] = ("task", parse_yaml(path.read_text(), path.name))
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        for name, text in BLOCK.findall(path.read_text()):
            content = parse_yaml(text, name)
            if "methods" in content:  # an experiment
                continue
            kind = "task" if "template" in content and "data" in content else "search"
            found[f"{path.name}: {name}"] = (
                "label" if {"text", "claim", "compare"} & set(content) else kind,
                content,
            )
    for path in sorted((REPOSITORY / "tests" / "golden").rglob("config.yaml")):
        found[str(path.relative_to(REPOSITORY))] = (
            "search",
            parse_old_yaml(path.read_text(), path.name),
        )
    return found


@pytest.mark.parametrize("name", examples())
def test_every_example_is_valid(name, valid):
    kind, content = examples()[name]
    assert valid(content, kind)
    assert valid(content)


SEARCHES = [
    ("alpha: 50", True),
    ("alpha: -1", False),
    ("alpha: fifty", False),
    ("seed: 1.5", False),
    ("seed: 1e3", True),
    ("moves: [grow, sweep]", True),
    ("moves: []", False),
    ("moves: grow", False),
    ("preset: paper", True),
    ("preset: papers", False),
    ("objective: null", True),
    ("preset: null", False),
    ("int8: yes", False),
    ("device: ' '", False),
    ("tokenizer: ''", True),
    ("fixed_labels: [0, -1, 1]", True),
    ("fixed_labels: [0, -2]", False),
    ("anchors: 0", True),
    ("anchors: 2", False),
    ("alhpa: 50", False),
    ("limit: 8", True),
    ("limit: many", False),
    ("options: {split: search}", True),
    ("options: {max_chars: many}", False),
    ("options: {splitt: search}", False),
]


@pytest.mark.parametrize(("text", "accepted"), SEARCHES)
def test_it_accepts_what_a_search_accepts(text, accepted, valid, tmp_path):
    whole = f"task: movie-sentiment\nmodel: smollm2\n{text}\n"
    assert valid(parse_yaml(whole, "x"), "search") == accepted
    file = tmp_path / "search.yaml"
    file.write_text(whole)
    try:
        read_request(file).source.load_dataset()
        works = True
    except InputError:
        works = False
    assert works == accepted


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_default_is_valid(kind, valid):
    settings = SETTINGS[kind]
    assert valid(settings().to_dict(), kind)
    for name, about in SCHEMAS[kind]()["properties"].items():
        assert "default" not in about or valid({name: about["default"]}, kind), name


BASE = {
    "search": {"task": "movie-sentiment", "model": "smollm2"},
    "label": {"text": "said", "labels": ["no", "yes"]},
    "task": {"data": "rows.csv", "template": "{said}", "labels": ["no", "yes"]},
}
"""What a file of a kind holds at the least."""

COMPANIONS = {
    "patience": {"eval_fraction": 0.1},
    "margin": {"margin_scale": 0.1},
    "min_new_tokens": {"max_new_tokens": 10**6},
    "num_iterations": {"steps": 10_000},
    **{
        key: {"num_iterations": 2}
        for key in ("epsilon", "epsilon_high", "delta", "importance_sampling_level")
    },
    "start": {"initial_labels": [0]},
    "initial_labels": {"start": "given"},
    **{key: {"text": None, "labels": None} for key in ("claim", "compare")},
    **{key: {"text": None, "claim": "said", "labels": []} for key in ("text", "labels")},
    "rules": {"group": "talk"},
}
"""Settings without which others would have no effect, or exclude each other."""

OF_DATA = ("data", "template", "group", "answer", "id", "gold", "gold_map")
"""Of a custom task: whether a text or a mapping fits is known only with the rows."""

READ_AS_TEXT = {"task", "data", "model", "output", *TEXTS, *TEXT_KEYS, *label_command.OTHERS}
"""What a file says there is text, whatever it looks like."""

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e30, -1e30, "", "  ", "word"),
    *([], ["word"], ["word", "word"], ["no", "yes"], [0], [0.5, 0.5], [None]),
    *({}, {"no": "a"}, {"no": None}),
)


def named_values(schema: dict) -> list[object]:
    """Words, bounds and defaults that a schema names, and lists of those of its items."""
    found: list[object] = []
    for part in (schema, *schema.get("anyOf", ())):
        found += part.get("enum", [])
        found += [part[key] for key in ("minimum", "maximum", "default") if key in part]
        found += [[value] for value in named_values(part["items"])] if "items" in part else []
    return found


def load(kind: str, name: str, content: dict, folder: Path) -> None:
    """Read a file of a kind as far as its command does before it loads a model."""
    settings = SETTINGS.get(kind)
    if settings is not None and name in limits(settings):
        settings.from_mapping({k: v for k, v in content.items() if k in limits(settings)})
        return
    file = folder / "file.yaml"
    file.write_text(json.dumps(content))
    if kind == "label":
        label_command._request(file, [], None, {})
    elif kind == "task":
        load_custom(file)
    else:
        request = read_request(file)
        if name in ("task", "limit", "options"):
            request.source.load_dataset()


def is_read(kind: str, name: str, value: object, folder: Path) -> bool:
    """Whether a value is accepted, alone or beside what it needs."""
    for more in ({}, COMPANIONS.get(name, {})):
        try:
            load(kind, name, {**BASE.get(kind, {}), **more, name: value}, folder)
        except InputError:
            continue
        return True
    return False


def is_known_later(kind: str, name: str, value: object) -> bool:
    """Whether a schema cannot say of a value whether it fits, or need not."""
    if name in READ_AS_TEXT and isinstance(value, int | float):
        return True  # text that looks like a number; editors ask for quotes
    if name == "label_shares" and isinstance(value, list):
        return value not in ([], [0], [None])  # their sum
    if kind == "search" and name in ("task", "options"):
        return value not in (None, "", [], {})  # each task has data and options of its own
    return kind == "task" and name in OF_DATA and isinstance(value, str | dict)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_offers_what_is_read_and_nothing_else(kind, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    (tmp_path / "rows.csv").write_text("said,talk,word\nA,1,\nB,1,\n")
    unlike = []
    for name, about in SCHEMAS[kind]()["properties"].items():
        offers = jsonschema.Draft202012Validator(about)
        for value in (*VALUES, *named_values(about)):
            if is_known_later(kind, name, value):
                continue
            offered, read = offers.is_valid(value), is_read(kind, name, value, tmp_path)
            if offered != read:
                unlike.append(f"{name}: {value!r} is offered: {offered}, read: {read}")
    assert not unlike, "\n".join(unlike)


def bad_values(limit: Limit) -> list[object]:
    """What a setting of this limit does not accept."""
    match limit:
        case Offered():
            return bad_values(limit.offered)
        case Between():
            return ["many", True, [1], 2 * abs(limit.high) + 1, -2 * abs(limit.low) - 1]
        case OneOf():
            return ["no such word", 7, ["no such word"]]
        case Switch():
            return ["perhaps", 1, 0.0]
        case Text():
            return [" ", 7, ["auto"]]
        case LabelIndex():
            return [-2, 0.5, "first"]
        case ListOf():
            return [7, {"a": 1}, *([value] for value in bad_values(limit.item))]
    # Words beside another type: the two limits of trainings.
    return {"gradient_checkpointing": ["perhaps", 1, [True]], "target_modules": [[], 7, [7], ""]}[
        "target_modules" if "anyOf" in limit.schema() else "gradient_checkpointing"
    ]


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_wrong_value_is_refused_by_the_schema_and_by_the_command(kind, valid):
    settings = SETTINGS[kind]
    for name, hint in get_type_hints(settings).items():
        if name not in limits(settings):
            assert name == "LATER"
            continue
        values = bad_values(limits(settings)[name])
        if kind in TRAININGS and type(None) not in get_args(hint):
            values.append(None)
        for value in values:
            assert not valid({name: value}, kind), (name, value)
            with pytest.raises(InputError):
                settings.from_mapping({name: value})


def test_the_schema_is_printed(capsys):
    for words, title in (((), "Settings of icm-fast"), (("label",), "icm-fast label")):
        assert run(["config", "--show-schema", *words]) == 0
        schema = json.loads(capsys.readouterr().out)
        assert schema["title"] == title
        assert schema["$schema"].endswith("2020-12/schema")
    assert run(["config"]) == 2
    assert "name the kind of file: icm-fast config search, label, train" in capsys.readouterr().err
    assert run(["config", "lable"]) == 2
    assert "did you mean 'label'" in capsys.readouterr().err


@pytest.mark.parametrize("preset", PRESETS)
def test_a_printed_file_of_settings_changes_nothing(preset, capsys, tmp_path):
    assert run(["config", "search"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    (tmp_path / "s.yaml").write_text(f"{text}\n".replace('preset: "default"', f"preset: {preset}"))
    content = read_settings_file(tmp_path / "s.yaml")
    assert SearchConfig.from_mapping(content) == SearchConfig(preset=preset)
    assert run(["config", "label"]) == 0
    content = parse_yaml(capsys.readouterr().out, "label.yaml")
    settings = {f.name for f in dataclasses.fields(LabelConfig)}
    assert LabelConfig.from_mapping({k: v for k, v in content.items() if k in settings}) == (
        LabelConfig()
    )


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_printed_file_of_a_training_changes_nothing(kind, capsys, tmp_path):
    assert run(["config", kind]) == 0
    file = tmp_path / "training.yaml"
    file.write_text(capsys.readouterr().out)
    settings = TRAININGS[kind]
    assert training_settings(settings, file, None) == settings()
    file.write_text("rank: 4\nseed: 1e3\ntarget_modules: [v_proj, q_proj]\n")
    expected = settings(rank=2, seed=1000, target_modules=("q_proj", "v_proj"))
    assert training_settings(settings, file, ["rank=2"]) == expected
    file.write_text("ranks: 4\n")
    with pytest.raises(InputError, match=r"training\.yaml: unknown setting 'ranks'; did you mean"):
        training_settings(settings, file, None)


def test_trainings_read_a_file_of_settings(capsys, tmp_path):
    file = tmp_path / "training.yaml"
    file.write_text("rank: 0\n")
    pairs, rewards = str(tmp_path / "pairs.jsonl"), ["--reward", str(tmp_path)]
    (tmp_path / "pairs.jsonl").write_text('{"text": "a"}\n')
    for command in (
        ["sft", str(tmp_path)],
        ["texts", pairs, "-o", str(tmp_path / "out")],
        ["dpo", pairs],
        ["reward", pairs],
        ["rl", pairs, *rewards],
    ):
        words = ["train", *command, "--model", "smollm2", "--config", str(file)]
        assert run(words) == 2
        assert "rank = 0 is outside 1 .. 65536" in capsys.readouterr().err
