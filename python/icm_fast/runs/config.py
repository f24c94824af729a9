"""config.yaml of a run folder: resolved settings, readable by --config, and identities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_fast.config import resolved_settings, without_removed
from icm_fast.documents import parse_old_yaml, yaml_text
from icm_fast.errors import InputError
from icm_fast.files.fields import Fields, read_text
from icm_fast.identity import refuse_differences
from icm_fast.runs.provenance import versions

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.model.lazy import ModelIdentity
    from icm_fast.tasks.source import TaskSource
    from icm_fast.types import Dataset

IDENTITY = "run"
"""Key of what identifies data and model; the command line ignores it in --config files."""

MODEL_FILES = "model_files"
"""Key of the digest of the model's files, for a first look without loading the model."""
PREAMBLE = "preamble"
"""Key of the preamble, absent where there is none."""
_OTHER_FOLDER = "name the folder of a run"
_DAMAGED = "the file is damaged: restore it from a copy, or search again in another folder"

_HEADLINE = "# Resolved configuration of this run; `icm-fast search --config` accepts it.\n"


def config_content(
    dataset: Dataset,
    config: SearchConfig,
    model_name: str,
    identity: ModelIdentity,
    source: TaskSource | None,
    model_files: str = "",
) -> tuple[dict[str, object], str]:
    """Content of config.yaml, as plain types and as text."""
    content: dict[str, object] = {**(source.to_dict() if source else {}), "model": model_name}
    content |= config.to_dict()
    content[IDENTITY] = {
        **_dataset_identity(dataset),
        "model_fingerprint": identity.fingerprint,
        "model_dtype": identity.dtype,
        **identity.more,
        **({MODEL_FILES: model_files} if model_files else {}),
        "versions": versions(),
    }
    return content, _HEADLINE + yaml_text(content)


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of a run folder.

    Raises:
        InputError: Missing, unreadable, or not written by a run.
    """
    text = read_text(path, _OTHER_FOLDER)
    try:
        content = parse_old_yaml(text, str(path))
    except InputError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get(IDENTITY), dict):
        raise InputError(f"{path} is not the configuration of a run; {_OTHER_FOLDER}")
    _check_source(Fields(content, str(path), _DAMAGED))
    _check_identity(Fields(content[IDENTITY], f"{path}, {IDENTITY}", _DAMAGED))
    return content


def _check_source(fields: Fields) -> None:
    """Check the model and what a :class:`~icm_fast.tasks.source.TaskSource` is made of."""
    fields.text("model")
    for key in ("task", "data"):
        fields.optional_text(key)
    if "limit" in fields:
        fields.integer("limit")
    if "options" in fields:
        fields.inner("options")


def _check_identity(fields: Fields) -> None:
    for key in ("dataset", "dataset_fingerprint", "model_fingerprint", "model_dtype", "separator"):
        fields.text(key)
    if PREAMBLE in fields:
        fields.text(PREAMBLE)
    fields.integer("n_examples", 1)
    labels = fields.texts("labels")
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(map(str.strip, labels)):
        raise fields.wrong("labels", "two or more different labels")
    if "versions" in fields:
        versions = fields.inner("versions")
        for package in versions.content:
            versions.text(package)


def identity_of(content: Mapping[str, object]) -> Mapping[str, object]:
    """What identifies data and model in the content of a config.yaml."""
    identity = content[IDENTITY]
    assert isinstance(identity, Mapping), "read_config checks it"
    return identity


def check_same_run(
    folder: Path, stored: Mapping[str, object], dataset: Dataset, config: SearchConfig
) -> None:
    """Refuse data or settings other than those of the stored run.

    Raises:
        InputError: Names the first difference and the fix.
    """
    without_removed(stored)  # refuses a run that used a removed setting
    settings, data = resolved_settings(config.to_dict()), _dataset_identity(dataset)
    stored_settings, former = resolved_settings(stored), identity_of(stored)
    differences = [
        (name, stored_settings.get(name), value)
        for name, value in settings.items()
        if stored_settings.get(name) != value
    ] + [
        (name, former.get(name), data.get(name))
        for name in dict.fromkeys((PREAMBLE, *data))
        if former.get(name) != data.get(name)
    ]
    refuse_differences(folder, differences, "run")


def check_same_model(folder: Path, stored: Mapping[str, object], identity: ModelIdentity) -> None:
    """Refuse a model other than that of the stored run.

    Raises:
        InputError: Names the difference and the fix.
    """
    former = identity_of(stored)
    pairs: tuple[tuple[str, str], ...]
    pairs = (("model_fingerprint", identity.fingerprint), ("model_dtype", identity.dtype))
    # Runs of earlier versions did not record them all.
    pairs += tuple((k, new) for k, new in identity.more.items() if k in former)
    differences = [(k, former.get(k), new) for k, new in pairs if former.get(k) != new]
    refuse_differences(folder, differences, "run")


def run_fingerprint(content: Mapping[str, object]) -> str:
    """SHA-256 (hex) of settings, data and model, without versions and the source of the data."""
    identity = {k: v for k, v in identity_of(content).items() if k != "versions"}
    settings = {
        k: v for k, v in content.items() if k not in (IDENTITY, "task", "data", "limit", "options")
    }
    text = json.dumps([settings, identity], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _dataset_identity(dataset: Dataset) -> dict[str, object]:
    return {
        **({PREAMBLE: dataset.preamble} if dataset.preamble else {}),
        "dataset": dataset.name,
        "n_examples": len(dataset),
        "labels": list(dataset.label_space),
        "separator": dataset.separator,
        "dataset_fingerprint": dataset.fingerprint(),
    }
