"""Which architectures share prefixes exactly, checked by running them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from icm_fast import _core
from icm_fast.errors import InputError
from icm_fast.model.label_scores import LabelHead
from icm_fast.model.load import LoadedModel
from icm_fast.model.runner import ModelRunner

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
"""``model_type`` of the families whose equality with plain forward passes the tests hold."""

_MOST_PROBE_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


def require_tree_support(loaded: LoadedModel) -> None:
    """Raise InputError unless the model gives the same logits with shared prefixes.

    Families in :data:`VERIFIED_FAMILIES` pass at once; any other one is probed with a small
    tree against its own plain forward pass.
    """
    text = loaded.model.config.get_text_config(decoder=True)
    if loaded.model.config.model_type in VERIFIED_FAMILIES:
        return
    try:
        difference = probe_difference(loaded)
    except Exception as error:
        reason = f"its forward pass fails with shared prefixes ({type(error).__name__}: {error})"
        raise InputError(_refusal(text.model_type, reason)) from error
    if not difference <= _MOST_PROBE_DIFFERENCE[loaded.model.dtype]:
        reason = f"shared prefixes change its logits by {difference:.2g}"
        raise InputError(_refusal(text.model_type, reason))


def probe_difference(loaded: LoadedModel) -> float:
    """Largest difference of logits between a small tree and plain forward passes."""
    n, length = 3, 5
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    ids = np.random.Generator(np.random.Philox(7)).integers(0, vocabulary, (n, length))
    tree = _probe_plan(n, length)
    queries = tree.query >= 0

    def tokens_of(segment: int) -> list[int]:
        demos = tree.demos[tree.demo_offsets[segment] : tree.demo_offsets[segment + 1]]
        query = tree.query[segment]
        parts = [*demos, *([query] if query >= 0 else [])]
        return [int(t) for part in parts for t in ids[part]]

    shared = ModelRunner(loaded).last_hidden_states(tree, tokens_of, queries)
    head = LabelHead(loaded.model)
    tokens = list(range(min(64, vocabulary)))
    worst = 0.0
    for row, segment in enumerate(np.flatnonzero(queries)):
        query = int(tree.query[segment])
        context = [*tree.context(query), query]
        whole = torch.tensor([[int(t) for part in context for t in ids[part]]])
        with torch.inference_mode():
            logits = loaded.model(input_ids=whole.to(loaded.device), use_cache=False).logits
        ours = head.logits(shared[row : row + 1], tokens)[0]
        worst = max(worst, float((ours - logits[0, -1, tokens].float()).abs().max()))
    return worst


def _probe_plan(n: int, length: int) -> _core.TreePlan:
    tokens: npt.NDArray[np.int64] = np.full(n, length, np.int64)
    return _core.plan_tree(
        demonstration_tokens=tokens,
        first_extra=np.zeros(n, np.int64),
        query_tokens=tokens,
        query_first_extra=np.zeros(n, np.int64),
        labelled=np.ones(n, np.bool_),
        queried=np.ones(n, np.bool_),
        root_tokens=0,
        tail_parents=np.zeros(0, np.int32),
        seed=0,
        kv_budget_tokens=1 << 20,
        batch_tokens=1 << 20,
    )


def _refusal(model_type: str, reason: str) -> str:
    return (
        f"model type {model_type!r} can't share prefixes: {reason}; "
        "use scorer='naive' (--set scorer=naive)"
    )
