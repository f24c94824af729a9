"""Which weights of a model get adapters, and which do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import PeftModel


def outside_text(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that no text passes: of towers for images and sounds.

    An adapter there would be stored and never trained.
    """
    inside = _text_prefix(model)
    apart = {id(model.get_output_embeddings()), id(getattr(model, "score", None))}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith(inside)
        and id(module) not in apart
    ]


def _text_prefix(model: PreTrainedModel) -> str:
    """How the names of all modules begin that read text; empty where every module does."""
    config = model.config
    if config.get_text_config(decoder=True) is config:
        return ""
    decoder = model.get_decoder()
    return next(f"{name}." for name, module in model.named_modules() if module is decoder)


def adapted_layers(model: PeftModel) -> dict[str, int]:
    """How many layers, and experts' matrices, of each name have an adapter."""
    return _counted(_adapted_names(model.get_base_model()))


def left_out(model: PeftModel) -> dict[str, int]:
    """How many matrices of each name have none, though texts pass through them.

    Experts and routers of transformers 5 are not linear layers; peft adapts those of some families
    all the same. Embeddings and heads are never adapted, and not counted.
    """
    base = model.get_base_model()
    inside, adapted = _text_prefix(base), set(_adapted_names(base))
    apart = {id(base.get_output_embeddings()), id(getattr(base, "score", None))}
    found = []
    for name, module in base.named_modules():
        has_own = id(module) in apart or isinstance(module, torch.nn.Embedding)
        if has_own or not name.startswith(inside) or ".lora_" in name:
            continue
        own = module.named_parameters(recurse=False)
        matrices = [k for k, value in own if value.dim() > 1 and not k.endswith("bias")]
        found += [matrix for k in matrices if (matrix := _matrix(name, k)) not in adapted]
    return _counted(found)


def _adapted_names(base: torch.nn.Module) -> list[str]:
    """Names of the matrices with an adapter."""
    return [
        _matrix(name, getattr(module, "parameter_name", "weight"))  # peft's, of experts
        for name, module in base.named_modules()
        if hasattr(module, "lora_A")
    ]


def _matrix(module: str, parameter: str) -> str:
    """Name of a matrix, without what peft puts around modules; of a layer that of the layer."""
    return f"{module.replace('.base_layer', '')}.{parameter}".removesuffix(".weight")


def adapter_figures(model: PeftModel) -> dict[str, object]:
    """What a training records of its adapters, as plain JSON types.

    Returns:
        ``adapted`` and ``not_adapted``: numbers of layers by name; ``n_trained``: trained numbers.
    """
    trained = (value.numel() for value in model.parameters() if value.requires_grad)
    return {
        "adapted": adapted_layers(model),
        "not_adapted": left_out(model),
        "n_trained": sum(trained),
    }


def adapter_sentence(model: PeftModel) -> str | None:
    """A sentence on matrices without adapters, for the terminal; None where there are none."""
    missing = left_out(model)
    if not missing:
        return None
    return (
        f"adapters are on {_listed(adapted_layers(model))}; {_listed(missing)} have none and stay "
        "as they are"
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _counted(names: Iterable[str]) -> dict[str, int]:
    """How often each last part of a name occurs, in alphabetical order."""
    counts = Counter(name.rpartition(".")[2] for name in names)
    return dict(sorted(counts.items()))
