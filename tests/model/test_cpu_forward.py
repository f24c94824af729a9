"""Which models the native decoder supports, and that it equals their own layers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forward_cases import AWKWARD, TIGHT, pair, plan_of, states
from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import ModelRunner
from icm_fast.model.forward import cpu
from icm_fast.model.forward.cpu import CpuForward, cpu_decoder
from icm_fast.model.forward.decoder_layers import rotary_tables
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.forward.runner import make_forward
from icm_fast.scoring.factory import make_scorer
from tiny_models import (
    MULTI,
    NATIVE,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)

TOLERANCE = 1e-4


def is_native(loaded):
    forward = make_forward(loaded, generic=False)
    assert isinstance(forward, CpuForward | GenericForward)
    return isinstance(forward, CpuForward)


# --- Which models --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NATIVE)
def test_the_families_that_run_natively(family):
    loaded = tiny_loaded(family)
    assert is_native(loaded)
    assert isinstance(make_forward(loaded, generic=True), GenericForward)
    assert not is_native(tiny_loaded(family, generic=True))


@pytest.mark.parametrize("family", ["gpt_neox", "olmo2", "gpt2"])
def test_other_families_run_their_own_layers(family):
    assert not is_native(tiny_loaded(family))


def test_dtypes():
    assert not is_native(pair(tiny_model("llama").half()))
    has_bfloat16 = _core.cpu_isa("bfloat16") is not None
    assert is_native(pair(tiny_model("llama").bfloat16())) == has_bfloat16


class Adapter(torch.nn.Module):
    """A linear layer with an addition, as adapter libraries wrap it."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return 1.5 * self.base_layer(x)


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_wrapped_layers_run_as_they_are(part):
    model = tiny_model("llama")
    plain = states(ModelRunner(pair(model)), plan_of(pair(model)))
    layer = model.model.layers[1]
    layer.set_submodule(part, Adapter(layer.get_submodule(part)))
    loaded = pair(model)
    assert not is_native(loaded)
    assert (states(ModelRunner(loaded), plan_of(loaded)) - plain).abs().max() > 1e-2


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}])
def test_biases_after_the_attention_run_generically(changes):
    loaded = tiny_loaded("llama", **changes)
    assert not is_native(loaded)


def test_unknown_activation_runs_generically():
    assert not is_native(tiny_loaded("llama", hidden_act="relu"))
    assert is_native(tiny_loaded("llama", hidden_act="gelu_pytorch_tanh"))


def test_too_little_memory_for_a_second_copy_runs_generically(monkeypatch):
    loaded = tiny_loaded("llama")
    layers = loaded.model.model.layers
    copied = sum(p.numel() * 4 for layer in layers for p in layer.parameters() if p.dim() == 2)
    monkeypatch.setattr(cpu, "available_bytes", lambda: copied)
    assert not is_native(loaded)
    monkeypatch.setattr(cpu, "available_bytes", lambda: copied + 1)
    assert not is_native(loaded), "the decoder is selected once per model"
    assert is_native(tiny_loaded("llama"))


def test_the_decoder_is_made_once():
    loaded = tiny_loaded("llama")
    decoder = cpu_decoder(loaded)
    assert decoder is not None
    assert cpu_decoder(loaded) is decoder
    assert decoder.native.isa == _core.cpu_isa("float32")
    assert cpu_decoder(tiny_loaded("llama")) is not decoder


# --- What it computes ----------------------------------------------------------------------------


def check_equal_states(loaded, **settings):
    plan = plan_of(loaded, **settings)
    ours = states(ModelRunner(loaded), plan)
    theirs = states(ModelRunner(loaded, generic=True), plan)
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() <= TOLERANCE
    assert ours.std(0).max() > 0.1, "all segments end alike"


@pytest.mark.parametrize("settings", [{}, TIGHT], ids=["roomy", "tight"])
@pytest.mark.parametrize("family", NATIVE)
def test_equals_the_generic_way(family, settings):
    loaded = tiny_loaded(family, bos=True)
    assert is_native(loaded)
    check_equal_states(loaded, **settings)


@pytest.mark.parametrize("family", NATIVE)
def test_sizes_that_fit_no_vector(family):
    loaded = tiny_loaded(family, **AWKWARD)
    assert is_native(loaded)
    check_equal_states(loaded)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_sizes_beyond_what_is_made_at_a_time(family):
    """More than 512 units, and heads of more than 512 outputs together."""
    check_equal_states(tiny_loaded(family, intermediate_size=1300, head_dim=160))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu_pytorch_tanh"},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 20},
        {"intermediate_size": 1300},
        {"rms_norm_eps": 0.1},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ],
    ids=str,
)
def test_settings_of_a_configuration_count(changes):
    loaded = tiny_loaded("llama", **changes)
    assert is_native(loaded)
    check_equal_states(loaded)


def test_partial_rotary_positions():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    loaded = tiny_loaded("phi3", rope_parameters=rope, partial_rotary_factor=0.5)
    assert is_native(loaded)
    (cosine, _), *_ = rotary_tables(loaded.model, (None,), 3, torch.zeros(0))
    assert cosine.shape == (3, 4)  # a half of 8
    check_equal_states(loaded)


def with_threads(n_threads, action):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        return action()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_threads_change_no_bit(family):
    def run():
        loaded = tiny_loaded(family)
        return states(ModelRunner(loaded), plan_of(loaded))

    assert torch.equal(with_threads(1, run), with_threads(2, run))


def one_by_one(tree):
    """The same plan with every batch split into segments, parents first, and unchanged slots."""
    bounds = zip(tree.batch_offsets[:-1], tree.batch_offsets[1:], strict=True)
    order = np.concatenate([np.sort(tree.batch_segments[a:b]) for a, b in bounds])
    return SimpleNamespace(
        parent=tree.parent,
        n_tokens=tree.n_tokens,
        start=tree.start,
        kv_offset=tree.kv_offset,
        batch_offsets=np.arange(len(order) + 1),
        batch_segments=order,
        pool_tokens=tree.pool_tokens,
        is_kept=False,
        n_segments=tree.n_segments,
    )


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_batches_change_no_bit(family):
    loaded = tiny_loaded(family)
    plan = plan_of(loaded)
    assert plan.tree.n_batches < plan.tree.n_segments
    apart = SimpleNamespace(tree=one_by_one(plan.tree), segment_ids=plan.segment_ids)
    runner = ModelRunner(loaded)
    assert torch.equal(states(runner, plan), states(runner, apart))


def test_a_pool_is_reused_and_grows():
    loaded = tiny_loaded("llama")
    runner = ModelRunner(loaded)
    large, small = plan_of(loaded), plan_of(loaded, n=4)
    assert small.tree.pool_tokens < large.tree.pool_tokens
    sizes = []
    for plan in (small, large, small):
        # What an earlier plan left in the pool must not show.
        assert torch.equal(states(runner, plan), states(ModelRunner(loaded), plan))
        sizes.append(runner._forward.pool_bytes())
    # 2 layers, keys and values, 2 heads of 8 floats.
    per_slot = 2 * 2 * 2 * 8 * 4
    assert sizes[0] == small.tree.pool_tokens * per_slot
    assert sizes[1] == sizes[2] == large.tree.pool_tokens * per_slot
    assert runner.peak_kv_bytes == sizes[1]


def test_an_unopened_forward_has_no_pool():
    assert make_forward(tiny_loaded("llama"), generic=False).pool_bytes() == 0


@pytest.mark.skipif(_core.cpu_isa("bfloat16") is None, reason="this processor has no bfloat16")
@pytest.mark.parametrize("family", NATIVE)
def test_bfloat16_is_near_float32(family):
    """And no farther from it than the model's own layers in bfloat16."""
    model = tiny_model(family).bfloat16()
    half, whole = pair(model), pair(tiny_model(family).bfloat16().float())
    plan = plan_of(whole)
    exact = states(ModelRunner(whole, generic=True), plan)
    ours, theirs = (
        (states(ModelRunner(half, generic=generic), plan) - exact).abs().mean()
        for generic in (False, True)
    )
    assert is_native(half)
    print(f"{family}: {ours:.4f} natively, {theirs:.4f} generically, of {exact.abs().mean():.3f}")
    assert 0 < ours <= 0.05 * exact.abs().mean()
    assert ours <= theirs


# --- 8-bit integers ------------------------------------------------------------------------------

HAS_INT8 = _core.cpu_int8_isa() is not None
needs_int8 = pytest.mark.skipif(not HAS_INT8, reason="this processor has no 8-bit products")


@needs_int8
@pytest.mark.parametrize("family", NATIVE)
def test_int8_is_near_but_not_equal(family):
    loaded = tiny_loaded(family)
    plan = plan_of(loaded)
    exact = states(ModelRunner(loaded), plan)
    near = states(ModelRunner(loaded, int8=True), plan)
    assert 0 < (near - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert torch.equal(states(ModelRunner(loaded), plan), exact)


@needs_int8
def test_int8_reaches_the_decoder_from_the_settings():
    dataset = reviews(MULTI)
    scores = [
        make_scorer(tiny_loaded("llama"), dataset, SearchConfig(int8=int8))
        .score(mixed_labels(dataset))
        .scores
        for int8 in (False, True)
    ]
    assert 0 < np.median(np.abs(scores[0] - scores[1])) < 0.3


def test_int8_without_its_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "cpu_int8_isa", lambda: None)
    with pytest.raises(InputError, match=r"AVX-512 VNNI.*drop int8"):
        ModelRunner(tiny_loaded("llama"), int8=True)
    assert is_native(tiny_loaded("llama"))


@needs_int8
def test_int8_of_a_model_without_a_native_decoder_is_refused():
    with pytest.raises(InputError, match=r"does not support this model \(gpt2, float32, cpu\)"):
        ModelRunner(tiny_loaded("gpt2"), int8=True)


# --- Other instruction sets ----------------------------------------------------------------------


def tree_scores(family):
    dataset = reviews(MULTI)
    scorer = make_scorer(tiny_loaded(family, bos=True), dataset, SearchConfig())
    return scorer.score(mixed_labels(dataset)).scores


PORTABLE = """
import json, torch
torch.set_num_threads(1)
from icm_fast import _core
from test_cpu_forward import NATIVE, tree_scores
scores = {family: tree_scores(family).tolist() for family in NATIVE}
print(json.dumps([_core.cpu_isa("float32"), scores]))
"""


def test_portable_instructions_give_the_same_scores():
    here = Path(__file__).resolve().parent
    paths = [here, here.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", PORTABLE],
        env=os.environ
        | {"ICM_FAST_ISA": "portable", "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    isa, scores = json.loads(done.stdout)
    assert isa == "portable"
    for family in NATIVE:
        assert np.abs(np.array(scores[family]) - tree_scores(family)).max() <= TOLERANCE, family
