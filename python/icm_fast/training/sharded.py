"""Models that FSDP divides among processes: each holds a part of every weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from icm_fast import distributed
from icm_fast.errors import InputError
from icm_fast.model.adapters import foreign_code
from icm_fast.training.overrides import MARK

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from peft import PeftModel
    from transformers import PreTrainedModel

T = TypeVar("T")

_CALL = "call_in_forward"


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A weight, gathered from all processes where each holds a part; all of them call this."""
    gather = getattr(parameter, "full_tensor", None)
    found: torch.Tensor = parameter if gather is None else gather()
    return found.detach()


def unsharded(
    trained: PreTrainedModel | PeftModel, fresh: Callable[[], PreTrainedModel | PeftModel]
) -> PreTrainedModel | PeftModel:
    """The trained model with all its weights in every process; itself unless FSDP divided it.

    Args:
        trained: As the trainer left it.
        fresh: Makes a model as it was before the training, with new adapters where it has them.
    """
    if not distributed.is_sharded():
        return trained
    values = {name: whole(p).cpu() for name, p in trained.named_parameters() if p.requires_grad}
    with foreign_code():  # the new adapters are drawn, and replaced below
        model = fresh()
    left = model.load_state_dict(values, strict=False).unexpected_keys
    assert not left, f"FSDP renamed {left[0]}"
    return model


def require_fsdp2(accelerator: Accelerator) -> None:
    """Raise InputError unless FSDP is of version 2, which leaves names and frozen weights alone."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or getattr(plugin, "fsdp_version", 1) != 2:
        raise InputError(
            "FSDP of version 2 is needed, with accelerate 1.6 or later and GPUs; launch with "
            "`accelerate launch --use_fsdp --fsdp_version 2`, or without FSDP"
        )


def sample_together(model: PeftModel) -> None:
    """Let all processes take as many steps when they sample from a divided model.

    Its layers are gathered for each token, for which all processes are needed, also those whose
    texts have ended. transformers knows this of models that it divided itself, by this mark.
    """
    setattr(model.get_base_model(), MARK, True)


def in_forward(model: torch.nn.Module, function: Callable[[], T]) -> T:
    """Call ``function`` as if it were the forward pass of a divided model.

    Within it parts of the model can be called, which otherwise would meet weights that are not
    gathered. All processes call this, with as many forward passes.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    if not hasattr(model, _CALL):
        setattr(model, _CALL, _call)
        register_fsdp_forward_method(model, _CALL)
    with torch.no_grad():
        found: T = getattr(model, _CALL)(function)
    return found


def _call(function: Callable[[], T]) -> T:
    return function()
