"""The targets in Python, by name. Their modules load only what they need."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from ..target import Target

_MODULES = {
    "settings": "settings.Settings",
    "documents": "documents.Documents",
    "commands": "commands.Commands",
    "tables": "tables.Tables",
    "run-folders": "run_folders.RunFolders",
    "training-folders": "training_folders.TrainingFolders",
    "safetensors": "models.Safetensors",
    "gguf": "models.Gguf",
    "adapters": "models.Adapters",
}
TARGETS = tuple(_MODULES)

_TESTS = Path(__file__).resolve().parents[2]
for _folder in (".", "model", "runs", "training"):
    # Helpers of the tests are imported by their bare names, as pytest does.
    if str(_TESTS / _folder) not in sys.path:
        sys.path.append(str(_TESTS / _folder))


def make_target(name: str) -> Target:
    """A target by its name."""
    module, _, kind = _MODULES[name].partition(".")
    made: Target = getattr(import_module(f".{module}", __name__), kind)()
    return made
