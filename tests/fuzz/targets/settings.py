"""Settings of searches and trainings: as mappings of a YAML file, and as words after ``--set``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icm_fast.cli.settings import parse_assignments, read_request
from icm_fast.config import SearchConfig
from icm_fast.documents import parse_yaml
from icm_fast.errors import InputError
from icm_fast.training.config import TrainingConfig
from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.rl.config import PolicyConfig
from icm_fast.training.sft.train import TuningConfig

from ..target import CorruptionError, Target

_CONFIGS: tuple[Any, ...] = (SearchConfig, TuningConfig, RewardConfig, PolicyConfig, TrainingConfig)
_NAMES = sorted({f.name for config in _CONFIGS for f in dataclasses.fields(config)})
_VALUES = ("zero-shot", "authors-code", "paper", "tree", "lora", "auto", "bfloat16", "sum-logprob")


class Settings(Target):
    """The first byte picks the form; the rest is text."""

    name = "settings"
    words = tuple(
        text.encode()
        for text in (*_NAMES, *(f"{name}: " for name in _NAMES), *(f"{n}=" for n in _NAMES))
    ) + tuple(word.encode() for word in _VALUES)

    def read(self, data: bytes) -> None:
        """Read one set of settings in every form that it may have."""
        text = data[1:].decode("utf-8", "surrogateescape")
        if data[:1] < b"a":
            self._as_mapping(text, _CONFIGS[(data or b"\0")[0] % len(_CONFIGS)])
        elif data[:1] < b"n":
            parse_assignments(text.split("\n"))
            parse_assignments(text.split("\n"), None)
            read_request(None, text.split("\n"))
        else:
            Path("settings.yaml").write_bytes(data[1:])
            read_request(Path("settings.yaml"))

    def _as_mapping(self, text: str, config: Any) -> None:
        content = parse_yaml(text, "settings")
        if not isinstance(content, dict):
            return
        made = config.from_mapping(content)
        stored: Callable[[], Any] = getattr(made, "to_dict", lambda: dataclasses.asdict(made))
        try:
            again = config.from_mapping(stored())
        except InputError as error:
            raise CorruptionError(f"settings that were accepted are refused: {error}") from error
        if again != made:
            raise CorruptionError(f"{again} instead of {made}")
