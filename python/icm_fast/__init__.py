"""icm_fast: exact, label-blind Internal Coherence Maximization.

The public names load their modules on first use, so that ``import icm_fast`` is
quick and pulls in neither torch nor the command line.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icm_fast import evaluate as evaluate
    from icm_fast.config import SearchConfig as SearchConfig
    from icm_fast.errors import InputError as InputError
    from icm_fast.scoring.leave_one_out import leave_one_out, plan_leave_one_out
    from icm_fast.search import SearchResult as SearchResult
    from icm_fast.search import search as search
    from icm_fast.tasks.registry import load_task
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
    "SearchConfig": "config",
    "SearchResult": "search",
    "leave_one_out": "scoring.leave_one_out",
    "load_task": "tasks",
    "plan_leave_one_out": "scoring.leave_one_out",
    "search": "search",
}

__all__ = [  # noqa: RUF022 - the order in which a reader meets them
    "load_task",
    "SearchConfig",
    "search",
    "SearchResult",
    "leave_one_out",
    "plan_leave_one_out",
    "evaluate",
    "Dataset",
    "Example",
    "LabelSpace",
    "Constraint",
    "InputError",
    "__version__",
]


class _Package(ModuleType):
    """The package module, whose functions keep their names when a submodule shares one.

    Importing ``icm_fast.search`` binds the *module* to the package's attribute
    ``search``; here that name belongs to the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("icm-fast")
    if name == "evaluate":
        return importlib.import_module("icm_fast.evaluate")
    if name not in _HOME:
        raise AttributeError(f"module 'icm_fast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"icm_fast.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
