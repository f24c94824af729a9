"""Copies of models that forward their own weights, whatever trainer the original went through."""

from __future__ import annotations

import copy
import functools
import inspect
from types import MethodType

import torch
from transformers import PreTrainedModel

_TRAINERS_NOTES = ("_original_forward", "_is_accelerate_prepared", "model_tags")
"""What accelerate and trl write onto a model they train."""


def copy_model(model: PreTrainedModel, dtype: torch.dtype, *, share: bool) -> PreTrainedModel:
    """A second model whose parameters are its own.

    Args:
        model: Left as it is.
        dtype: Of the copy's parameters; buffers, such as rotary tables, keep theirs.
        share: Let unchanged weights lie in the same memory. Only for a copy whose weights are
            replaced and never written into.
    """
    # deepcopy takes what the memo holds; tied parameters are one object and stay tied.
    memo: dict[int, object] = {
        id(p): torch.nn.Parameter(p.detach().to(dtype, copy=not share), requires_grad=False)
        for p in model.parameters()
        if p.is_floating_point()
    }
    if share:  # weights in 4 bits stay as they are: nothing is merged into them
        memo |= {id(p): p for p in model.parameters() if not p.is_floating_point()}
    copied = copy.deepcopy(model, memo)
    copied.config.dtype = dtype
    _restore_methods(copied)
    return copied


def without_replaced_methods(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` itself, or where a trainer replaced a method of it, a copy on the same weights.

    The model may still be in training, which needs what its trainer put there.
    """
    if not any(_replaced(module) for module in model.modules()):
        return model
    return copy_model(model, model.dtype, share=True)


def _restore_methods(model: torch.nn.Module) -> None:
    """Drop all that trainers put over the methods of a model and its submodules.

    trl replaces ``forward`` by a closure over the model that it trains. ``deepcopy`` does not look
    into closures, so the copy would go on forwarding the weights of the original.
    """
    for module in model.modules():
        own = vars(module)
        for name in [*_replaced(module), *_TRAINERS_NOTES]:
            own.pop(name, None)
        if "_hf_hook" in own:
            _restore_hook(module)


def _replaced(module: torch.nn.Module) -> list[str]:
    """Attributes of a module that hide a method of its class, but for accelerate's hooks."""
    own = vars(module)
    hidden = [name for name in own if inspect.isroutine(getattr(type(module), name, None))]
    return [name for name in hidden if not (name == "forward" and _is_hook(module))]


def _is_hook(module: torch.nn.Module) -> bool:
    """Whether ``forward`` is what accelerate puts around the class's own one."""
    own = vars(module)
    outer, inner = own["forward"], own.get("_old_forward")
    return (
        "_hf_hook" in own
        and isinstance(outer, functools.partial)
        and outer.func.__module__ == "accelerate.hooks"
        and getattr(inner, "__func__", None) is type(module).forward
    )


def _restore_hook(module: torch.nn.Module) -> None:
    """Put accelerate's hook, which moves activations between devices, around the own forward."""
    from accelerate.hooks import add_hook_to_module  # type: ignore[import-untyped]

    own = vars(module)
    if "forward" in own:
        return
    own["_old_forward"] = MethodType(type(module).forward, module)
    add_hook_to_module(module, own["_hf_hook"])
