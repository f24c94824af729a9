"""A model that several threads use, or a process that was forked from the one that loaded it.

The layers of transformers' models, their configurations, tokenizers and our native decoder hold
state that a call changes, so the calls of one model take turns. torch's own threads do not survive
a fork, and a parallel operation in the child waits for them for ever: a child uses one of them.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import RLock
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from icm_fast.errors import InputError
from icm_fast.model.hardware import available_processors

_turns: WeakKeyDictionary[PreTrainedModel, AbstractContextManager[object]] = WeakKeyDictionary()


@dataclass(slots=True)
class _Process:
    """What is known of this process."""

    loading: AbstractContextManager[object] = field(default_factory=RLock)
    is_forked: bool = False
    torch_threads: int | None = None  # in a forked child, what the parent had


_process = _Process()


def turn_of(model: PreTrainedModel) -> AbstractContextManager[object]:
    """The lock around calls of a model; a thread that has it may enter it again.

    Raises:
        InputError: The model is on a GPU of the process that this one was forked from.
    """
    use_after_fork()
    if _process.is_forked and model.device.type == "cuda" and not torch.cuda.is_initialized():
        raise InputError(
            "the model is on a GPU of the process that this one was forked from, which cannot be "
            'shared; start children by multiprocessing.get_context("spawn")'
        )
    return _turns.setdefault(model, RLock())


def turn_to_load() -> AbstractContextManager[object]:
    """The lock around loading: transformers changes torch's defaults and functions meanwhile."""
    use_after_fork()
    return _process.loading


def native_threads() -> int:
    """Threads for native code: those of torch, but no more than the process may use."""
    return min(_process.torch_threads or torch.get_num_threads(), available_processors())


def use_after_fork() -> None:
    """Make torch usable in a forked child; nothing to do in other processes."""
    if _process.is_forked and _process.torch_threads is None:
        _process.torch_threads = native_threads()
        torch.set_num_threads(1)


def use_available_processors() -> None:
    """Keep torch, which knows no quotas of containers, within them; OMP_NUM_THREADS is obeyed."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > available_processors():
        torch.set_num_threads(available_processors())


def _begin_child() -> None:
    """Forget the locks of threads that exist in the parent alone."""
    for model in list(_turns):
        _turns[model] = RLock()
    _process.loading = RLock()
    _process.is_forked = True


os.register_at_fork(after_in_child=_begin_child)
