"""``icm-fast config``: a schema that accepts what the commands accept, and a file of defaults."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable

import pytest

from icm_fast.cli import run
from icm_fast.cli.schema import SCHEMAS, descriptions, whole_schema
from icm_fast.cli.settings import read_request, read_settings_file
from icm_fast.config import PRESETS, SearchConfig
from icm_fast.documents import parse_old_yaml, parse_yaml
from icm_fast.errors import InputError
from icm_fast.labelling import LabelTask
from icm_fast.labelling.config import LabelConfig
from icm_fast.tasks.custom import CustomSpec
from run_fakes import REPOSITORY

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
        "search": (SearchConfig,),
        "label": (LabelConfig, LabelTask),
        "task": (CustomSpec,),
    }
    for kind, classes in of.items():
        schema = SCHEMAS[kind]()
        names = {f.name for one in classes for f in dataclasses.fields(one)} - (
            {"separator"} if kind == "label" else set()
        )
        assert names <= set(schema["properties"])
        assert all(schema["properties"][name]["description"] for name in names)
        assert schema["additionalProperties"] is False
    assert len(descriptions(SearchConfig)) == len(dataclasses.fields(SearchConfig))


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


def test_the_schema_is_printed(capsys):
    for words, title in (((), "Settings of icm-fast"), (("label",), "icm-fast label")):
        assert run(["config", "--show-schema", *words]) == 0
        schema = json.loads(capsys.readouterr().out)
        assert schema["title"] == title
        assert schema["$schema"].endswith("2020-12/schema")
    assert run(["config"]) == 2
    assert "name the kind of file: icm-fast config search, label, task" in capsys.readouterr().err
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
