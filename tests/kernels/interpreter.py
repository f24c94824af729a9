"""Triton's interpreter in a separate process: it must be enabled before triton is imported.

Run as a script it is that process: it reads calls from its input and writes results. Whatever a
kernel's caller allocates there holds NaN first (integers: the greatest), so that a number that no
program wrote shows.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from typing import Any

import torch


class Interpreter:
    """A worker that calls functions of ``icm_fast.kernels`` on tensors."""

    def __init__(self) -> None:
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        # The worker imports the package that this process imported, wherever it lies.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._worker = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``name`` ("module.function" below ``icm_fast.kernels``).

        Returns:
            Its result and its arguments as it left them.

        Raises:
            ValueError: If the function raised it.
            RuntimeError: With the worker's traceback, for any other error.
        """
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        # torch pickles a view with its whole storage, guards included.
        pickle.dump((name, args, kwargs), self._worker.stdin)
        self._worker.stdin.flush()
        kind, *content = pickle.load(self._worker.stdout)
        if kind == "ValueError":
            raise ValueError(*content)
        if kind != "done":
            raise RuntimeError(*content)
        return content

    def close(self) -> None:
        self._worker.communicate()


def answer(name: str, args: Any, kwargs: Any) -> tuple[Any, ...]:
    module, _, function = name.rpartition(".")
    try:
        called = getattr(importlib.import_module(f"icm_fast.kernels.{module}"), function)
        return "done", called(*args, **kwargs), args
    except ValueError as error:
        return "ValueError", str(error)
    except Exception:
        return "error", traceback.format_exc()


def serve() -> None:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    torch.set_num_threads(1)
    # numpy warns of NaN and infinity, which masked lanes may hold.
    warnings.simplefilter("ignore", RuntimeWarning)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    while True:
        try:
            call = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(answer(*call), output)
        output.flush()


if __name__ == "__main__":
    serve()
