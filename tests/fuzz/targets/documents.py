"""YAML and JSON: any bytes are read or refused, and what is accepted is what others read."""

from __future__ import annotations

import json
import math
from pathlib import Path

from icm_fast.cli.settings import read_settings_file
from icm_fast.documents import parse_json, parse_old_yaml, parse_yaml, yaml_text
from icm_fast.experiments.definition import read_experiment
from icm_fast.tasks.registry import load_task

from ..target import CorruptionError, Target


class Documents(Target):
    """The first byte picks the reader; the rest is the file."""

    name = "documents"
    words = tuple(
        f"\n{key}: ".encode()
        for key in (
            *("task", "data", "template", "labels", "gold", "gold_map", "constraints", "rule"),
            *(
                "columns",
                "models",
                "seeds",
                "methods",
                "options",
                "run",
                "limit",
                "output",
                "group",
            ),
        )
    )

    def read(self, data: bytes) -> None:
        """Read one document."""
        text = data[1:].decode("utf-8", "replace")
        kind = (data or b"\0")[0] % 6
        if kind == 0:
            self._json(text)
        elif kind == 1:
            parse_yaml(text, "document")
            parse_yaml(text, "document", aliases=True)
        elif kind == 2:
            self._old_yaml(text)
        elif kind == 3:
            Path("settings.yaml").write_bytes(data[1:])
            read_settings_file(Path("settings.yaml"))
        elif kind == 4:
            Path("experiment.yaml").write_bytes(data[1:])
            read_experiment("experiment.yaml", "small")
        else:
            Path("custom.yaml").write_bytes(data[1:])
            load_task("custom", "custom.yaml")

    def _json(self, text: str) -> None:
        found = parse_json(text, "document")
        if not _same(found, json.loads(text)):
            raise CorruptionError("JSON is read as something else")

    def _old_yaml(self, text: str) -> None:
        found = parse_old_yaml(text, "document")
        if not _same(found, parse_old_yaml(yaml_text(found), "document")):
            raise CorruptionError("YAML changes when it is written and read again")


def _same(one: object, other: object) -> bool:
    """Equal, with NaN equal to itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other
