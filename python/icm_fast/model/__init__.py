"""Models: loading, adapters, what identifies them, and forward passes.

The names load their modules on first use, so that what only needs :mod:`icm_fast.model.lazy` does
not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icm_fast.model.forward.runner import ModelRunner as ModelRunner
    from icm_fast.model.load import load_model as load_model
    from icm_fast.model.loaded import LoadedModel as LoadedModel
    from icm_fast.model.loaded import ModelSpec as ModelSpec

_HOME = {
    "LoadedModel": "loaded",
    "ModelRunner": "forward.runner",
    "ModelSpec": "loaded",
    "load_model": "load",
}

__all__ = ["LoadedModel", "ModelRunner", "ModelSpec", "load_model"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
