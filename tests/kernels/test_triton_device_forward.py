"""A decoder with every Triton kernel in the interpreter, against the model's own layers."""

import math

import pytest
import torch

from forward_cases import states
from icm_fast.config import SearchConfig
from icm_fast.model import ModelRunner, load_model
from icm_fast.model.forward import device as device_forward
from icm_fast.model.forward.device import DeviceForward
from icm_fast.model.forward.kv_store import KVStore
from icm_fast.scoring.factory import make_scorer
from tiny_models import (
    SINGLE,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_model,
)


def nan_pool(store, like):
    return like.new_full((like.shape[0], store.pool_tokens, like.shape[-1]), math.nan)


@pytest.fixture
def calls(interpreter, monkeypatch):
    """Select kernels as on a device, but send each call to the interpreter; the names called."""
    names = []

    def through(name):
        def call(*arguments, **options):
            names.append(name)
            result, after = interpreter.call(f"{name}.triton.{name}", *arguments, **options)
            for ours, theirs in zip(arguments, after, strict=True):
                if name == "rope_kv_write" and isinstance(ours, torch.Tensor):
                    ours.copy_(theirs)  # the pools were written in another process
            return result

        return call

    for name in ("add_rms_norm", "gated_activation", "rope_kv_write"):
        monkeypatch.setattr(
            device_forward, f"select_{name}", lambda device, dtype, n=name: through(n)
        )
    monkeypatch.setattr(
        device_forward,
        "select_tree_attention",
        lambda query, values, softcap: through("tree_attention"),
    )
    monkeypatch.setattr(KVStore, "_pool", nan_pool)
    return names


def states_of(loaded, *, generic):
    dataset = reviews(SINGLE, 4)
    config = SearchConfig(kv_budget_tokens=100, batch_tokens=60)
    plan = make_scorer(loaded, dataset, config).plan(mixed_labels(dataset))
    runner = ModelRunner(loaded, generic=True)
    if not generic:
        runner._forward = DeviceForward(loaded)
    return states(runner, plan), plan.tree.n_batches


PER_LAYER = {"llama": (2, 1, 1, 1), "phi3": (2, 1, 1, 1), "gemma3_text": (6, 1, 1, 1)}
"""Norms, rotations, attentions and activations of one layer."""


@pytest.mark.parametrize("family", PER_LAYER)
def test_kernels_give_the_states_of_the_models_own_layers(family, calls, monkeypatch):
    loaded = load_model((tiny_model(family), byte_tokenizer()))
    ours, n_batches = states_of(loaded, generic=False)
    kernels = ("add_rms_norm", "rope_kv_write", "tree_attention", "gated_activation")
    norms, *others = PER_LAYER[family]
    expected = [n_batches * (2 * norms + 1), *(n_batches * 2 * n for n in others)]
    assert [calls.count(name) for name in kernels] == expected
    monkeypatch.undo()
    theirs, _ = states_of(loaded, generic=True)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_half_precision(calls, monkeypatch):
    """In float16, which the interpreter rounds like a device."""
    loaded = load_model((tiny_model("llama").half(), byte_tokenizer()))
    ours, _ = states_of(loaded, generic=False)
    monkeypatch.undo()
    theirs, _ = states_of(loaded, generic=True)
    assert ours.dtype == torch.float16
    assert (ours - theirs).abs().mean() <= 5e-3 * theirs.abs().mean()
