"""The command ``icm-fast config``."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated

import typer

from icm_fast.cli.schema import DRAFT, SCHEMAS, Schema, whole_schema
from icm_fast.cli.settings import say, say_json
from icm_fast.errors import InputError, shown, suggest

_WIDTH = 100
_Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND",
        help="search, label, train, reward, dpo, rl or task: which file is described; by default "
        "all of them.",
        show_default=False,
    ),
]
_ShowSchema = Annotated[
    bool,
    typer.Option("--show-schema", help="Print JSON Schema, for editors and other programs."),
]


def config(kind: _Kind = None, show_schema: _ShowSchema = False) -> None:
    """Print the settings of YAML files, as a file to edit or as JSON Schema."""
    if kind is not None and kind not in SCHEMAS:
        raise InputError(f"unknown KIND {shown(kind)}{suggest(kind, SCHEMAS)}")
    if show_schema:
        schema = whole_schema() if kind is None else SCHEMAS[kind]()
        say_json({"$schema": DRAFT, **schema})
        return
    if kind is None:
        raise InputError(
            f"name the kind of file: icm-fast config {', '.join(SCHEMAS)}; or add --show-schema"
        )
    say(settings_file(SCHEMAS[kind]()))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False)


def settings_file(schema: Schema) -> str:
    """A YAML file of all settings at their defaults, with what each means.

    Settings without a default are comments, so that the file means the same as none.
    """
    properties = schema["properties"]
    assert isinstance(properties, dict)
    lines = []
    for name, about in properties.items():
        assert isinstance(about, dict)
        if about.get("deprecated") or about.get("description") == "Written by a run.":
            continue
        lines += [f"# {line}" for line in _wrapped(str(about["description"]))]
        # JSON is YAML.
        default = json.dumps(about["default"]) if "default" in about else None
        lines += [f"{name}: {default}" if default else f"# {name}:", ""]
    return "\n".join(lines).rstrip()
