"""The settings that YAML files may hold, as JSON Schema: what editors complete and check."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from icm_fast.cli.label import OTHERS
from icm_fast.config import REMOVED_SETTINGS, SearchConfig, limits
from icm_fast.runs.config import IDENTITY
from icm_fast.types import JsonValue

Schema = dict[str, JsonValue]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
_INTEGERS: Schema = {"type": "integer", "minimum": 1}
_NOT_BLANK = r"\S"
_LABELS: Schema = {
    "type": "array",
    "items": {"type": "string", "pattern": _NOT_BLANK},
    "minItems": 2,
    "uniqueItems": True,
}
_PLACES = {
    "model": "Hub id, folder, .gguf file, embedded name, or address of a server.",
    "output": "Where the result goes.",
    "folder": "Where an interrupted labelling resumes.",
    "prefix": "Put before the names of the new columns.",
    "corrections": "Reviewed rows with corrected labels, which become known.",
}
_TASK_PARAMETERS = ("path", "limit", "seed")


def search_schema() -> Schema:
    """What ``icm-fast search --config`` reads: the task, the model and :class:`SearchConfig`."""
    from icm_fast.tasks.registry import TASKS

    own: Schema = {
        "task": {"enum": list(TASKS), "description": "Whose data are labelled."},
        "data": _nullable({"type": "string", "description": "Data file or folder."}),
        "limit": _nullable({**_INTEGERS, "description": "Maximum number of examples."}),
        "options": _nullable({"type": "object", "description": "Options of the task."}),
        "model": {"type": "string", "pattern": _NOT_BLANK, "description": _PLACES["model"]},
        "output": _nullable({"type": "string", "description": "Run folder."}),
    }
    removed: Schema = {
        name: {"enum": [_plain(off), None], "deprecated": True}
        for name, off in REMOVED_SETTINGS.items()
    }
    recorded: Schema = {IDENTITY: {"type": "object", "description": "Written by a run."}}
    schema = _object("icm-fast search", {**own, **_fields(SearchConfig), **removed, **recorded})
    schema["allOf"] = [_task_options(name, loader) for name, loader in TASKS.items()]
    return schema


def label_schema() -> Schema:
    """What ``icm-fast label --config`` reads: the question, its places and ``LabelConfig``."""
    from icm_fast.labelling import LabelTask
    from icm_fast.labelling.config import LabelConfig
    from icm_fast.labelling.task import MAX_LABELS, TEXTS

    question = _fields(LabelTask)
    del question["separator"]  # of the Python function alone
    for name in TEXTS:
        _narrow(question, name, pattern=r"[^\t ]")
    _narrow(question, "rules", type=["array", "null"], items=_rule())
    named: Schema = {"additionalProperties": {"type": ["string", "null"]}}
    _narrow(question, "descriptions", type=["object", "null"], **named)
    several: Schema = {**_LABELS, "maxItems": MAX_LABELS}
    mapping: Schema = {"type": "object", "minProperties": 2, "maxProperties": MAX_LABELS, **named}
    none: Schema = {"type": ["array", "object", "null"], "maxItems": 0, "maxProperties": 0}
    question["labels"] = {"anyOf": [several, mapping, none], "description": "2 to 50 labels."}
    pair: Schema = {**_LABELS, "items": {"type": "string"}, "maxItems": 2}
    question["compare"] = _nullable({**pair, "description": "Two columns with texts."})
    places: Schema = {
        name: _nullable({"type": "string", "description": _PLACES[name]}) for name in OTHERS
    }
    return _object("icm-fast label", {**question, **places, **_fields(LabelConfig)})


def _training_schema(command: str, settings: type) -> Schema:
    """What ``icm-fast train COMMAND --config`` reads."""
    return _object(f"icm-fast train {command}", _fields(settings))


def tuning_schema() -> Schema:
    """What ``icm-fast train sft --config`` and ``train texts --config`` read."""
    from icm_fast.training.config import TuningConfig

    return _training_schema("sft", TuningConfig)


def reward_schema() -> Schema:
    """What ``icm-fast train reward --config`` reads."""
    from icm_fast.training.reward.config import RewardConfig

    return _training_schema("reward", RewardConfig)


def dpo_schema() -> Schema:
    """What ``icm-fast train dpo --config`` reads."""
    from icm_fast.training.dpo.config import DpoConfig

    return _training_schema("dpo", DpoConfig)


def policy_schema() -> Schema:
    """What ``icm-fast train rl --config`` reads."""
    from icm_fast.training.rl.config import PolicyConfig

    return _training_schema("rl", PolicyConfig)


def task_schema() -> Schema:
    """The description of a custom task."""
    from icm_fast.tasks.custom import CustomSpec

    schema = _object("A custom task of icm-fast", _fields(CustomSpec))
    properties = schema["properties"]
    assert isinstance(properties, dict)
    for name in ("data", "template"):
        _narrow(properties, name, pattern=_NOT_BLANK)
    _narrow(properties, "labels", **_LABELS)
    _narrow(properties, "rules", items=_rule())
    _narrow(properties, "limit", minimum=1)
    schema["required"] = [name for name, default in _defaults(CustomSpec).items() if default is ...]
    return schema


SCHEMAS: Mapping[str, Callable[[], Schema]] = {
    "search": search_schema,
    "label": label_schema,
    "train": tuning_schema,
    "reward": reward_schema,
    "dpo": dpo_schema,
    "rl": policy_schema,
    "task": task_schema,
}
"""By the kind of file."""


def whole_schema() -> Schema:
    """One schema that accepts each kind of file."""
    definitions: Schema = {name: make() for name, make in SCHEMAS.items()}
    references: list[JsonValue] = [{"$ref": f"#/$defs/{name}"} for name in SCHEMAS]
    return {"title": "Settings of icm-fast", "anyOf": references, "$defs": definitions}


def _object(title: str, properties: Schema) -> Schema:
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _task_options(name: str, loader: Callable[..., object]) -> Schema:
    """If the task is ``name``, then the options are those of its loader."""
    parameters = inspect.signature(loader).parameters
    options: Schema = {
        option: _option(str(parameter.annotation))
        for option, parameter in parameters.items()
        if option not in _TASK_PARAMETERS
    }
    known = _nullable({"type": "object", "properties": options, "additionalProperties": False})
    return {
        "if": {"required": ["task"], "properties": {"task": {"const": name}}},
        "then": {"properties": {"options": known}},
    }


def _option(annotation: str) -> Schema:
    """The type of an option of a task, as far as its annotation is a plain one."""
    words = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    kind, _, rest = annotation.partition(" | ")
    if kind not in words or rest not in ("", "None"):
        return {}
    return {"type": [words[kind], "null"] if rest else words[kind]}


def _fields(settings: type) -> Schema:
    """A schema for each field of a dataclass: its limit or type, its default, its description."""
    declared, described, defaults = limits(settings), descriptions(settings), _defaults(settings)
    hints = get_type_hints(settings)
    found: Schema = {}
    for name, default in defaults.items():
        schema = declared[name].schema() if name in declared else _typed(hints[name])
        if type(None) in get_args(hints[name]) and name in declared:
            schema = _nullable(schema)
        if default not in (..., None):
            schema["default"] = _plain(default)
        found[name] = {**schema, "description": described[name]}
    return found


def _defaults(settings: type) -> dict[str, object]:
    """Default of each field by name; Ellipsis where a value is required."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(settings):
        default: object = field.default
        if default is dataclasses.MISSING:
            made = field.default_factory
            default = ... if made is dataclasses.MISSING else made()
        found[field.name] = default
    return found


def _typed(hint: Any) -> Schema:
    """The schema of a type of the dataclasses whose fields declare no limit."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [part for part in inner if part is not type(None)]
        schemas = [_typed(part) for part in parts]
        schema: Schema = {"anyOf": _distinct(schemas)} if len(schemas) > 1 else schemas[0]
        return _nullable(schema) if len(parts) < len(inner) else schema
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object"}
    if origin is tuple:
        return {"type": "array", "items": _typed(inner[0])}
    known = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return {"type": known[hint]} if hint in known else {"type": "object"}


def _rule() -> Schema:
    """A rule by its name, where that is all it needs, or with keys."""
    from icm_fast.tasks.constraints import RULES

    # The others say between which examples they hold.
    alone = [name for name in RULES if name not in ("implies", "custom")]
    return {"anyOf": [{"enum": alone}, {"type": "object"}]}


def _narrow(properties: Schema, name: str, **more: JsonValue) -> None:
    """Say more of what a property takes."""
    about = properties[name]
    assert isinstance(about, dict)
    properties[name] = {**about, **more}


def _distinct(schemas: Iterable[Schema]) -> list[JsonValue]:
    found: list[JsonValue] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found


def _nullable(schema: Schema) -> Schema:
    """The same, or null."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if isinstance(words := schema.get("enum"), list):
        return {**schema, "enum": [*words, None]}
    rest = {key: value for key, value in schema.items() if key == "description"}
    bare: JsonValue = {key: value for key, value in schema.items() if key != "description"}
    return {"anyOf": [bare, {"type": "null"}], **rest}


def _plain(value: object) -> JsonValue:
    """A default as JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    assert value is None or isinstance(value, str | int | float)  # bool is an int
    return value


_ENTRY = re.compile(r"^    (\w+): (.+(?:\n {8,}.+)*)", re.MULTILINE)


def descriptions(settings: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say about attributes, in one line each."""
    found: dict[str, str] = {}
    for part in reversed(settings.__mro__):
        _, _, attributes = inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")
        found |= {name: " ".join(text.split()) for name, text in _ENTRY.findall(attributes)}
    return {name: text.replace("``", "") for name, text in found.items()}
