"""Plans, states and errors for the tests of every forward implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import ModelRunner, load_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.scoring.factory import make_scorer
from tiny_models import MULTI, SINGLE, byte_tokenizer, mixed_labels, reviews

# Sizes that fit no vector, and a vocabulary of odd size.
AWKWARD = {
    "hidden_size": 36,
    "intermediate_size": 50,
    "head_dim": 12,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 421,
}
TIGHT = {"kv_budget_tokens": 120, "batch_tokens": 40}


def pair(model: Any) -> LoadedModel:
    """A loaded model with a byte-level tokenizer."""
    return load_model((model, byte_tokenizer()))


def plan_of(loaded: LoadedModel, n: int = 8, **settings: Any) -> Any:
    """The plan of some reviews with labels of several tokens."""
    dataset = reviews(MULTI, n)
    return make_scorer(loaded, dataset, SearchConfig(**settings)).plan(mixed_labels(dataset))


def states(runner: ModelRunner, plan: Any) -> torch.Tensor:
    """Last hidden states of all segments."""
    everything = np.ones(plan.tree.n_segments, np.bool_)
    return runner.last_hidden_states(plan.tree, plan.segment_ids, everything)


def check_whole_texts(loaded: LoadedModel, plan: Any, found: torch.Tensor) -> None:
    """Every segment ends in the state of its whole text, by the model's own layers."""
    for segment in range(plan.tree.n_segments):
        ids, at = [], segment
        while at >= 0:
            ids = plan.segment_ids(at) + ids
            at = int(plan.tree.parent[at])
        with torch.inference_mode():
            whole = loaded.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(found[segment], whole, atol=2e-5, rtol=1e-4)


def check_too_little_memory(loaded: LoadedModel) -> None:
    """A clear error if a single segment does not fit in memory."""
    scorer = make_scorer(loaded, reviews(SINGLE), SearchConfig())
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(
            InputError, match=r"no memory for a segment of \d+ tokens.*smaller kv_budget"
        ),
    ):
        scorer.score(mixed_labels(reviews(SINGLE)))
