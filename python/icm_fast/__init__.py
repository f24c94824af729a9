"""icm_fast: exact, label-blind Internal Coherence Maximization.

The public names load their modules on first use, so that ``import icm_fast`` is
quick and pulls in neither torch nor the command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icm_fast import evaluation as evaluate
    from icm_fast.config import SearchConfig as SearchConfig
    from icm_fast.engine import simulate as simulate
    from icm_fast.engine.result import SearchResult as SearchResult
    from icm_fast.engine.search import search as search
    from icm_fast.errors import InputError as InputError
    from icm_fast.labelling import LabelConfig as LabelConfig
    from icm_fast.labelling import label as label
    from icm_fast.scoring.leave_one_out import leave_one_out
    from icm_fast.scoring.leave_one_out import plan_leave_one_out as plan_leave_one_out
    from icm_fast.tasks.registry import load_task as load_task
    from icm_fast.types import Constraint as Constraint
    from icm_fast.types import Dataset as Dataset
    from icm_fast.types import Example as Example
    from icm_fast.types import LabelSpace as LabelSpace

    __version__: str

_HOME = {
    "Constraint": "types",
    "Dataset": "types",
    "Example": "types",
    "InputError": "errors",
    "LabelSpace": "types",
    "LabelConfig": "labelling",
    "label": "labelling",
    "SearchConfig": "config",
    "SearchResult": "engine.result",
    "leave_one_out": "scoring.leave_one_out",
    "load_task": "tasks.registry",
    "plan_leave_one_out": "scoring.leave_one_out",
    "search": "engine.search",
}

_ROOMS = {"evaluate": "evaluation", "simulate": "engine.simulate"}
"""Modules that are reached by a short name."""

__all__ = [  # noqa: RUF022 - the order in which a reader meets them
    "label",
    "LabelConfig",
    "load_task",
    "SearchConfig",
    "search",
    "SearchResult",
    "leave_one_out",
    "plan_leave_one_out",
    "simulate",
    "evaluate",
    "Dataset",
    "Example",
    "LabelSpace",
    "Constraint",
    "InputError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("icm-fast")
    if name in _ROOMS:
        return importlib.import_module(f"icm_fast.{_ROOMS[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'icm_fast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"icm_fast.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
