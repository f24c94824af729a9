"""The search that a command line and a YAML file describe; flags override the file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import typer

from icm_fast.config import (
    REMOVED_SETTINGS,
    ListOf,
    OneOf,
    SearchConfig,
    Text,
    limits,
    resolved_settings,
)
from icm_fast.distributed import is_main
from icm_fast.documents import NotYamlError, parse_old_yaml, parse_yaml
from icm_fast.errors import InputError, shown, suggest
from icm_fast.files import reading
from icm_fast.files.text import printable
from icm_fast.runs.config import IDENTITY
from icm_fast.tasks.source import TaskSource

if TYPE_CHECKING:
    from icm_fast.training.config import TrainingConfig

Training = TypeVar("Training", bound="TrainingConfig")

REQUEST_KEYS = ("task", "data", "limit", "options", "model", "output")
_NESTED = ("moves", "gold_map", "pairs", "forbid")
"""Keys whose text stands in lists or mappings."""
SETTINGS = tuple(f.name for f in dataclasses.fields(SearchConfig))


@dataclass(frozen=True, slots=True)
class Request:
    """A search as requested.

    Attributes:
        source: The task and its data.
        model: The model as the user named it.
        config: Settings of the search.
        output: The run folder; None if none was named.
    """

    source: TaskSource
    model: str
    config: SearchConfig
    output: Path | None

    @property
    def folder(self) -> Path:
        """The run folder, by default below ``runs/``."""
        # Each description of a custom task is a separate task.
        task = self.source.task
        if task == "custom" and self.source.data:
            task += f"-{Path(self.source.data).stem}"
        name = f"{task}-{self.config.preset}-seed{self.config.seed}"
        return self.output or Path("runs") / name


def say(text: str, *, err: bool = False) -> None:
    """Print text without escape sequences; of several processes only the main one prints."""
    if is_main():
        typer.echo(printable(text), err=err)


def say_json(content: object, *, err: bool = False) -> None:
    """Print a result as JSON; numbers that JSON has not, NaN and infinity, become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    if printable(text) != text:  # whose escapes are not those of JSON
        text = json.dumps(finite(content), indent=2, allow_nan=False)
    say(text, err=err)


def finite(value: object) -> object:
    """The same content as JSON has it: null for NaN and infinity, paths as texts, plain numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [finite(item) for item in sorted(value)]
    if isinstance(value, (np.generic, np.ndarray)):
        return finite(value.tolist())
    return str(value) if isinstance(value, Path) else value


def read_request(
    file: Path | None,
    assignments: Sequence[str] = (),
    options: Sequence[str] = (),
    **flags: object,
) -> Request:
    """Merge a YAML file, ``--set`` assignments and flags (None where not given).

    Raises:
        InputError: Unknown key, bad value, or no task or model.
    """
    content = read_settings_file(file) if file else {}
    resolved = IDENTITY in content
    if resolved and not isinstance(identity := content.pop(IDENTITY), dict):
        raise InputError(
            f"{file}: {IDENTITY} must be a mapping, as a run writes it, got {shown(identity)}; "
            "remove it"
        )
    if resolved:
        content = resolved_settings(content)
    if resolved and flags.get("preset") not in (None, content.get("preset")):
        raise InputError(
            f"{file} holds resolved settings, which --preset {flags['preset']} would not change; "
            "drop --preset, or --config"
        )
    content |= parse_assignments(assignments)
    content |= {name: value for name, value in flags.items() if value is not None}
    content["options"] = {**_mapping(content.get("options")), **parse_assignments(options, None)}
    return _request(content, resolved)


def read_settings_file(
    file: Path,
    known: Sequence[str] = (*REQUEST_KEYS, *SETTINGS, IDENTITY),
    texts: frozenset[str] = frozenset(),
) -> dict[str, object]:
    """Read a YAML file of settings.

    Args:
        file: The file.
        known: Keys that it may have.
        texts: Keys whose values are text, besides those of searches.

    Raises:
        InputError: The file cannot be read, is not a YAML mapping, or has an unknown key.
    """
    with reading(file, "name an existing YAML file"):
        content_bytes = file.read_bytes()
    try:
        text = content_bytes.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}; convert it") from error
    try:
        if re.search(rf"^{IDENTITY}:", text, re.MULTILINE):
            content = parse_old_yaml(text, str(file))  # written by a run
        else:
            content = parse_yaml(text, str(file), texts=text_keys() | texts)
    except NotYamlError as error:
        raise InputError(f"{file} is not YAML: {error.reason}; correct it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold 'key: value' lines, got a {type(content).__name__}")
    for key in content:
        _check_key(key, f"{file}: ", known)
    return content


def parse_assignments(
    assignments: Sequence[str], known: Sequence[str] | None = (*REQUEST_KEYS, *SETTINGS)
) -> dict[str, object]:
    """Parse ``key=value`` words; ``known`` None allows every key.

    Values are YAML; those of names and templates are text as it stands, unless they are in quotes.
    """
    content: dict[str, object] = {}
    texts = text_keys()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"{shown(assignment)} is not an assignment; write key=value")
        if known is not None:
            _check_key(key, "", known)
        where = f"the value in {shown(assignment)}"
        if key in texts and key not in _NESTED and not text.lstrip().startswith(("'", '"')):
            content[key] = None if text.strip() in ("", "~", "null") else text
            continue
        try:
            content[key] = parse_yaml(text, where, texts=texts, as_text=key in texts)
        except NotYamlError as error:
            raise InputError(f"{where} is not YAML; quote it") from error
    return content


def training_settings(
    kind: type[Training], file: Path | None, assignments: Sequence[str] | None
) -> Training:
    """Settings of a training from a YAML file and ``--set`` assignments, which override it.

    Raises:
        InputError: Unknown setting or bad value, or the file cannot be read.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    content = read_settings_file(file, known) if file else {}
    return kind.from_mapping(content | parse_assignments(assignments or (), None))


def text_keys() -> frozenset[str]:
    """Keys of settings and of the options of tasks whose values are text, such as names."""
    from icm_fast.tasks.registry import text_options

    words = (
        name
        for name, limit in limits(SearchConfig).items()
        if isinstance(limit.item if isinstance(limit, ListOf) else limit, OneOf | Text)
    )
    return frozenset(("task", "data", "model", "output", *words)) | text_options()


def _check_key(key: object, where: str, known: Sequence[str]) -> None:
    if key not in known and key not in REMOVED_SETTINGS:
        raise InputError(f"{where}unknown setting {shown(key)}{suggest(str(key), known)}")


def _mapping(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(
            f"options must be a mapping, got {shown(value)}; write 'options: {{key: value}}'"
        )
    return value


def _request(content: Mapping[str, object], resolved: bool) -> Request:
    from icm_fast.tasks.registry import preset_options

    settings = (*SETTINGS, *REMOVED_SETTINGS)
    config = SearchConfig.from_mapping({k: v for k, v in content.items() if k in settings})
    if not content.get("task"):
        raise InputError("no task given; name one, as in `icm-fast search truthfulqa data.jsonl`")
    if not str(content.get("model") or "").strip():
        raise InputError("no model given; add --model, for example --model smollm2")
    for name in ("task", "data", "model", "output"):
        value = content.get(name)
        if value is not None and not isinstance(value, str | Path):
            raise InputError(f"{name} must be text, got {shown(value)}")
        if "\0" in str(value):
            raise InputError(f"{name} holds a NUL character: {shown(content[name])}; remove it")
    data, output = content.get("data"), content.get("output")
    # Resolved settings have the options of their run.
    going_with = {} if resolved else preset_options(str(content["task"]), config.preset)
    return Request(
        source=TaskSource(
            task=str(content["task"]),
            data=None if data is None else str(data),
            limit=_limit(content.get("limit")),
            seed=config.seed,
            options={**going_with, **_mapping(content["options"])},
        ),
        model=str(content["model"]),
        config=config,
        output=None if output is None else Path(str(output)),
    )


def _limit(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(f"limit must be an integer, got {shown(value)}")
