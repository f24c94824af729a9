"""The search that a command line and a YAML file describe; flags override the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from icm_fast.config import REMOVED_SETTINGS, SearchConfig
from icm_fast.distributed import is_main
from icm_fast.errors import InputError, suggest
from icm_fast.files import reading
from icm_fast.files.text import shown
from icm_fast.runs.config import IDENTITY
from icm_fast.tasks.source import TaskSource

REQUEST_KEYS = ("task", "data", "limit", "options", "model", "output")
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
        name = f"{self.source.task}-{self.config.preset}-seed{self.config.seed}"
        return self.output or Path("runs") / name


def say(text: str, *, err: bool = False) -> None:
    """Print text without escape sequences; of several processes only the main one prints."""
    if is_main():
        typer.echo(shown(text), err=err)


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
    resolved = content.pop(IDENTITY, None) is not None
    if resolved and flags.get("preset") not in (None, content.get("preset")):
        raise InputError(
            f"{file} holds resolved settings, which --preset {flags['preset']} would not change; "
            "drop --preset, or --config"
        )
    content |= parse_assignments(assignments)
    content |= {name: value for name, value in flags.items() if value is not None}
    content["options"] = {**_mapping(content.get("options")), **parse_assignments(options, None)}
    return _request(content)


def read_settings_file(file: Path) -> dict[str, object]:
    """Read a YAML file of settings.

    Raises:
        InputError: The file cannot be read, is not a YAML mapping, or has an unknown key.
    """
    import yaml

    with reading(file, "name an existing YAML file"):
        text = file.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold 'key: value' lines, got a {type(content).__name__}")
    for key in content:
        _check_key(key, f"{file}: ", (*REQUEST_KEYS, *SETTINGS, IDENTITY))
    return content


def parse_assignments(
    assignments: Sequence[str], known: Sequence[str] | None = (*REQUEST_KEYS, *SETTINGS)
) -> dict[str, object]:
    """Parse ``key=value`` words, values as YAML; ``known`` None allows every key."""
    import yaml

    content: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"{assignment!r} is not an assignment; write key=value")
        if known is not None:
            _check_key(key, "", known)
        try:
            content[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"the value in {assignment!r} is not YAML; quote it") from error
    return content


def _check_key(key: object, where: str, known: Sequence[str]) -> None:
    if key not in known and key not in REMOVED_SETTINGS:
        raise InputError(f"{where}unknown setting {key!r}{suggest(str(key), known)}")


def _mapping(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(
            f"options must be a mapping, got {value!r}; write 'options: {{key: value}}'"
        )
    return value


def _request(content: Mapping[str, object]) -> Request:
    settings = (*SETTINGS, *REMOVED_SETTINGS)
    config = SearchConfig.from_mapping({k: v for k, v in content.items() if k in settings})
    if not content.get("task"):
        raise InputError("no task given; name one, as in `icm-fast search truthfulqa data.jsonl`")
    if not content.get("model"):
        raise InputError("no model given; add --model, for example --model smollm2")
    data, output = content.get("data"), content.get("output")
    return Request(
        source=TaskSource(
            task=str(content["task"]),
            data=None if data is None else str(data),
            limit=_limit(content.get("limit")),
            seed=config.seed,
            options=_mapping(content["options"]),
        ),
        model=str(content["model"]),
        config=config,
        output=None if output is None else Path(str(output)),
    )


def _limit(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(f"limit must be an integer, got {value!r}")
