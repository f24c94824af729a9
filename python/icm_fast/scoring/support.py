"""Which architectures share prefixes exactly, checked by running them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from icm_fast.errors import InputError, first_line
from icm_fast.model.forward.runner import ModelRunner
from icm_fast.model.label_head import LabelHead
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.uniform import uniform_plan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

VERIFIED_FAMILIES = frozenset(
    {
        "gemma2",
        "gemma3_text",
        "gpt_neox",
        "llama",
        "mistral",
        "phi3",
        "qwen2",
        "qwen3",
    }
)
"""``model_type`` of the families that the tests compare with plain forward passes."""

_MOST_PROBE_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


def require_known_head(loaded: LoadedModel) -> None:
    """Raise InputError unless :class:`LabelHead` gives the same logits as the model.

    Some families scale or cap their logits in their own way. Families in
    :data:`VERIFIED_FAMILIES` pass at once; any other one is run on a few tokens.
    """
    if loaded.model.config.model_type in VERIFIED_FAMILIES:
        return
    try:
        difference = _head_difference(loaded)
    except Exception as error:
        raise InputError(
            _unscorable(loaded, f"its forward pass fails: {_one_line(error)}")
        ) from error
    if not difference <= _MOST_PROBE_DIFFERENCE[loaded.model.dtype]:
        reason = f"its logits differ by {difference:.2g} from hidden state times head"
        raise InputError(_unscorable(loaded, reason))


def require_tree_support(loaded: LoadedModel) -> None:
    """Raise InputError unless the model gives the same logits with shared prefixes.

    Families in :data:`VERIFIED_FAMILIES` pass at once; of any other one a small tree is compared
    with the model's plain forward passes.
    """
    model_type = loaded.model.config.model_type
    if model_type in VERIFIED_FAMILIES:
        return
    try:
        runner = ModelRunner(loaded, generic=True)
        difference = probe_difference(loaded, runner)
    except Exception as error:
        reason = f"its forward pass fails with shared prefixes ({_one_line(error)})"
        raise InputError(_refusal(model_type, reason)) from error
    if not difference <= _MOST_PROBE_DIFFERENCE[loaded.model.dtype]:
        reason = f"shared prefixes change its logits by {difference:.2g}"
        raise InputError(_refusal(model_type, reason))
    if reason := _window_mismatch(_text_config(loaded), runner.windows):
        raise InputError(_refusal(model_type, reason))


def require_exact_sharing(loaded: LoadedModel, n_tokens: int) -> None:
    """Raise InputError if rotary positions depend on the length of contexts of ``n_tokens``.

    Beyond the original context length, ``dynamic`` and ``longrope`` rotate every key by the length
    of the whole context, so two contexts of different lengths share no prefix.
    """
    config = _text_config(loaded)
    # Families without rotary positions have no such setting.
    rope = getattr(config, "rope_parameters", None) or {}
    for variant in (rope, *(v for v in rope.values() if isinstance(v, dict))):
        kind = str(variant.get("rope_type", ""))
        if kind == "longrope":
            limit = int(variant["original_max_position_embeddings"])
        elif "dynamic" in kind:
            limit = int(config.max_position_embeddings)
        else:
            continue
        if n_tokens > limit:
            reason = (
                f"its {kind} positions depend on the length of contexts above {limit} tokens, and "
                f"these have {n_tokens}"
            )
            raise InputError(_refusal(config.model_type, reason, "a smaller limit=, or "))


def _window_mismatch(config: PreTrainedConfig, windows: dict[int, int | None]) -> str:
    """What is wrong with the windows that the layers passed on; empty if nothing.

    The probe is shorter than most windows, so it would not notice a missing one.
    """
    # Settings that only some families have.
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * len(windows)
    for kind in kinds:
        if kind not in {"full_attention", "sliding_attention"}:
            return f"it has layers of type {kind!r}"
    expected = {
        layer: window if kind == "sliding_attention" else None for layer, kind in enumerate(kinds)
    }
    if len(windows) != config.num_hidden_layers:
        return f"{len(windows)} of its {config.num_hidden_layers} layers use the attention function"
    if windows != expected:
        return "its layers do not pass their sliding window to the attention function"
    return ""


def _head_difference(loaded: LoadedModel) -> float:
    """Largest difference between the model's own logits and those of :class:`LabelHead`."""
    n_tokens = min(64, loaded.model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(min(8, n_tokens), device=loaded.device)[None]
    with torch.inference_mode():
        head = LabelHead(loaded.model)
        hidden = loaded.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        # Layers may be spread over several devices, with the head on the first or the last one.
        ours = head.logits(hidden.to(head.device), list(range(n_tokens)))
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, :, :n_tokens]
        return float((ours - logits.float().to(ours.device)).abs().max())


def _text_config(loaded: LoadedModel) -> PreTrainedConfig:
    return loaded.model.config.get_text_config(decoder=True)


def probe_difference(loaded: LoadedModel, runner: ModelRunner) -> float:
    """Largest difference of logits between a small tree and plain forward passes."""
    n, length = 3, 5
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    ids = np.random.Generator(np.random.Philox(7)).integers(0, vocabulary, (n, length))
    unbounded = 1 << 20
    tree = uniform_plan(
        n,
        demonstration=length,
        query=length,
        kv_budget_tokens=unbounded,
        batch_tokens=unbounded,
    )
    queries = tree.query >= 0

    def tokens_of(segment: int) -> list[int]:
        demos = tree.demos[tree.demo_offsets[segment] : tree.demo_offsets[segment + 1]]
        query = tree.query[segment]
        parts = [*demos, *([query] if query >= 0 else [])]
        return [int(t) for part in parts for t in ids[part]]

    head = LabelHead(loaded.model)
    shared = runner.last_hidden_states(tree, tokens_of, queries).to(head.device)
    tokens = list(range(min(64, vocabulary)))
    worst = 0.0
    for row, segment in enumerate(np.flatnonzero(queries)):
        query = int(tree.query[segment])
        context = [*tree.context(query), query]
        whole = torch.tensor([[int(t) for part in context for t in ids[part]]])
        with torch.inference_mode():
            logits = loaded.model(input_ids=whole.to(loaded.device), use_cache=False).logits
            ours = head.logits(shared[row : row + 1], tokens)[0]
            expected = logits[0, -1, tokens].float().to(ours.device)
            worst = max(worst, float((ours - expected).abs().max()))
    return worst


def _one_line(error: Exception) -> str:
    name, said = type(error).__name__, first_line(error)
    return said if said == name else f"{name}: {said}"


def _refusal(model_type: str, reason: str, other_fix: str = "") -> str:
    return (
        f"model type {model_type!r} can't share prefixes: {reason}; "
        f"use {other_fix}scorer='naive' (--set scorer=naive)"
    )


def _unscorable(loaded: LoadedModel, reason: str) -> str:
    return (
        f"model type {loaded.model.config.model_type!r} can't be scored: {reason}; "
        "pass a causal language model of another family"
    )
