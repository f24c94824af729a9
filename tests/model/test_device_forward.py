"""Our forward pass for devices, run on the CPU with the definitions of its kernels."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forward_cases import (
    AWKWARD,
    TIGHT,
    check_too_little_memory,
    check_whole_texts,
    pair,
    plan_of,
    states,
)
from icm_fast.config import SearchConfig
from icm_fast.model import ModelRunner
from icm_fast.model.forward import device as device_forward
from icm_fast.model.forward.batch import PackedBatch, rows_of
from icm_fast.model.forward.cpu import CpuForward
from icm_fast.model.forward.decoder_layers import decoder_of
from icm_fast.model.forward.device import DeviceForward, serves
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.forward.halving import Halving
from icm_fast.model.forward.kv_store import KVStore
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


@pytest.fixture(autouse=True)
def pools_of_nan(monkeypatch):
    """What no segment wrote must not be read."""
    monkeypatch.setattr(KVStore, "_pool", lambda store, like: nan_pool(store.pool_tokens, like))


def nan_pool(n_slots, like):
    return like.new_full((like.shape[0], n_slots, like.shape[-1]), math.nan)


@pytest.fixture
def on_device(monkeypatch):
    """Treat every model as one on a device, unless its family is unknown."""
    monkeypatch.setattr(device_forward, "has_triton_kernels", lambda device: True)


def off_processor(family, **changes):
    """A tiny model that the native CPU decoder does not run."""
    return tiny_loaded(family, generic=True, **changes)


# --- Which models --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NATIVE)
def test_the_choice_goes_by_place_and_family(family, on_device):
    loaded = off_processor(family)
    assert isinstance(make_forward(loaded, generic=False), DeviceForward)
    assert isinstance(make_forward(loaded, generic=True), GenericForward)
    assert isinstance(make_forward(tiny_loaded(family), generic=False), CpuForward)


def test_without_kernels_the_models_own_layers_run():
    loaded = off_processor("llama")
    assert not serves(loaded)
    assert isinstance(make_forward(loaded, generic=False), GenericForward)


@pytest.mark.parametrize("family", ["gpt_neox", "olmo2", "gpt2", "granite"])
def test_other_families_run_their_own_layers(family, on_device):
    assert isinstance(make_forward(off_processor(family), generic=False), GenericForward)


def test_settings_that_are_not_known(on_device):
    assert serves(off_processor("llama", hidden_act="gelu_pytorch_tanh"))
    for changes in ({"hidden_act": "relu"}, {"attention_bias": True}, {"mlp_bias": True}):
        assert not serves(off_processor("llama", **changes)), changes


def test_all_weights_are_of_one_dtype_and_on_one_device(on_device):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert serves(pair(tiny_model("llama").to(dtype)))
    assert not serves(pair(tiny_model("llama").double()))
    mixed = tiny_model("llama")
    mixed.model.norm.half()
    assert not serves(pair(mixed))
    spread = pair(tiny_model("llama"))
    spread.model.model.layers[1].mlp.to("meta")
    assert not serves(spread)


def test_wrapped_layers_run_as_they_are(on_device):
    class Adapter(torch.nn.Linear):
        def forward(self, x):
            return 1.5 * super().forward(x)

    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.__class__ = Adapter
    assert not serves(pair(model))


def test_weights_are_not_copied():
    model = tiny_model("phi3")
    addresses = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for layer in decoder_of(model).layers:
        linears = (*layer.heads.linears, layer.output, *layer.units.linears, layer.down)
        held = [*layer.norms.values(), *(linear.weight for linear in linears)]
        held += [part for part, _ in (*layer.heads.parts(), *layer.units.parts())]
        assert {t.untyped_storage().data_ptr() for t in held} <= addresses


# --- What it computes ----------------------------------------------------------------------------


def check_equal_states(loaded, **settings):
    plan = plan_of(loaded, **settings)
    runner = ModelRunner(loaded)
    assert isinstance(runner._forward, DeviceForward)
    ours = states(runner, plan)
    theirs = states(ModelRunner(loaded, generic=True), plan)
    assert ours.dtype == theirs.dtype
    assert (ours - theirs).abs().max() <= 1e-5
    assert ours.std(0).max() > 0.1, "all segments end alike"
    assert runner.n_tokens_forwarded == plan.n_tokens
    return plan, ours


@pytest.mark.parametrize("settings", [{}, TIGHT], ids=["roomy", "tight"])
@pytest.mark.parametrize("family", NATIVE)
def test_equals_the_generic_way(family, settings, on_device):
    check_equal_states(off_processor(family, bos=True), **settings)


@pytest.mark.parametrize("family", NATIVE)
def test_sizes_that_fit_no_block(family, on_device):
    check_equal_states(off_processor(family, **AWKWARD))


@pytest.mark.parametrize("family", NATIVE)
def test_every_segment_ends_in_the_state_of_its_whole_text(family, on_device):
    loaded = off_processor(family)
    plan, ours = check_equal_states(loaded, n=4, **TIGHT)
    loaded.model.set_attn_implementation("eager")  # the only one of theirs that caps scores
    check_whole_texts(loaded, plan, ours)


ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1}),
        ("llama", {"head_dim": 20}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("llama", {"rope_parameters": ROPE}),
        ("llama", {"rope_parameters": YARN}),
        ("llama", {"tie_word_embeddings": True}),
        ("phi3", {"rope_parameters": PARTIAL, "partial_rotary_factor": 0.5}),
        ("phi3", {"sliding_window": 16}),
        ("mistral", {"sliding_window": None}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma3_text", {"layer_types": ["sliding_attention", "sliding_attention"]}),
    ],
    ids=str,
)
def test_settings_of_a_configuration_count(family, changes, on_device):
    check_equal_states(off_processor(family, **changes))


@pytest.mark.parametrize("generic", [False, True])
def test_gemma_3_leaves_the_cap_on_scores_alone(generic, on_device):
    """Its configuration has the setting, but neither its own attention nor ours reads it."""
    plain, capped = (
        tiny_loaded("gemma3_text", generic=generic, **changes)
        for changes in ({}, {"attn_logit_softcapping": 1.0})
    )
    plan = plan_of(plain)
    expected = states(ModelRunner(capped, generic=True), plan)
    assert (states(ModelRunner(capped), plan) - expected).abs().max() <= 1e-4
    assert torch.equal(states(ModelRunner(plain), plan), states(ModelRunner(capped), plan))


@pytest.mark.parametrize("family", NATIVE)
def test_bfloat16_is_near_float32(family, on_device):
    """And about as close as the model's own layers in bfloat16."""
    half = pair(tiny_model(family).bfloat16())
    half.cache["cpu_decoder"] = None
    whole = pair(tiny_model(family).bfloat16().float())
    plan = plan_of(whole)
    exact = states(ModelRunner(whole, generic=True), plan)
    ours, theirs = (
        (states(ModelRunner(half, generic=generic), plan).float() - exact).abs().mean()
        for generic in (False, True)
    )
    assert 0 < ours <= 0.05 * exact.abs().mean()
    assert ours <= 1.2 * theirs


# --- Positions, pools, rows ----------------------------------------------------------------------


def batch(start, wanted=(False, True, True)):
    """Three segments, the last two after the first, which ran in an earlier batch."""
    before = (0, 9)
    return PackedBatch(
        token_ids=np.arange(5, 5 + 12),
        n_tokens=np.array([3, 4, 5]),
        start=np.array(start),
        own=np.array([10, 20, 30]),
        ranges=tuple((before,) if at else () for at in start),
        wanted=np.array(wanted),
    )


def first_batch():
    return PackedBatch(
        token_ids=np.arange(40, 49),
        n_tokens=np.array([9]),
        start=np.array([0]),
        own=np.array([0]),
        ranges=((),),
        wanted=np.array([True]),
    )


def run_both(forward, second):
    with torch.inference_mode():
        forward.open(40, 60)
        forward.run(first_batch())
        return forward.run(second)


def test_rows_know_their_places():
    rows = rows_of(batch([0, 9, 7]))
    assert rows.positions.tolist() == [0, 1, 2, 9, 10, 11, 12, 7, 8, 9, 10, 11]
    assert rows.slots.tolist() == [10, 11, 12, 20, 21, 22, 23, 30, 31, 32, 33, 34]
    assert rows.wanted.tolist() == [6, 11]
    assert [(s.begin, s.end, s.own, s.start) for s in rows.work.segments] == [
        (0, 3, 10, 0),
        (3, 7, 20, 9),
        (7, 12, 30, 7),
    ]


def test_after_the_last_attention_only_wanted_rows_remain():
    forward = DeviceForward(off_processor("llama"))
    add_norm, sizes = forward._add_norm, []

    def counted(x, *arguments, **options):
        sizes.append(len(x))
        return add_norm(x, *arguments, **options)

    forward._add_norm = counted
    assert run_both(forward, batch([0, 9, 9], wanted=(True, False, False))).shape == (1, 32)
    assert sizes == [9, 9, 9, 1, 1, 12, 12, 12, 1, 1]
    assert run_both(forward, batch([0, 9, 9], wanted=(False, False, False))).shape == (0, 32)


def test_a_pool_is_made_for_each_plan(on_device):
    loaded = off_processor("llama")
    runner = ModelRunner(loaded)
    assert runner._forward.pool_bytes() == 0
    large, small = plan_of(loaded), plan_of(loaded, n=4)
    for plan in (small, large, small):
        assert torch.equal(states(runner, plan), states(ModelRunner(loaded), plan))
        # 2 layers, keys and values, 2 heads of 8 floats.
        assert runner._forward.pool_bytes() == plan.tree.pool_tokens * 2 * 2 * 2 * 8 * 4
        runner._forward._store.check_integrity()


def test_what_a_pool_holds_is_kept_where_that_is_asked_for():
    forward = DeviceForward(off_processor("llama"))
    with torch.inference_mode():
        forward.open(40, 60)
        forward.run(first_batch())
        forward.open(40, 70, keep=True)
        kept = forward.run(batch([0, 9, 9]))
        assert torch.equal(kept, run_both(forward, batch([0, 9, 9])))
        forward.open(40, 60)
        assert forward.run(batch([0, 9, 9])).isnan().any()


SCORERS = {
    "tree": lambda loaded, data: make_scorer(loaded, data, SearchConfig(**TIGHT)),
    "append": lambda loaded, data: make_scorer(loaded, data, SearchConfig(context_order="append")),
}


@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_every_scorer_gives_the_scores_of_the_native_way(family, kind, on_device):
    dataset = reviews(MULTI)
    labels = mixed_labels(dataset)
    fewer = np.where(np.arange(len(dataset)) < 6, labels, -1).astype(np.int32)
    ours, native = (
        SCORERS[kind](loaded, dataset) for loaded in (off_processor(family), tiny_loaded(family))
    )
    for each in (fewer, labels):
        difference = np.abs(ours.score(each).scores - native.score(each).scores).max()
        assert difference <= 1e-4


# --- A device without room -----------------------------------------------------------------------


class SmallDevice:
    """Runs out of memory at a layer of too many tokens, in the middle of a forward pass."""

    def __init__(self, model, room):
        part = model.base_model.layers[0].mlp.down_proj
        self.sizes, self._real, self._room = [], part.forward, room
        part.forward = self

    def __call__(self, x):
        self.sizes.append(x.shape[-2])
        if x.shape[-2] > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._real(x)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_batches_that_do_not_fit_are_split(family, on_device):
    loaded = off_processor(family)
    plan = plan_of(loaded)
    expected = states(ModelRunner(loaded), plan)
    room = int(plan.tree.n_tokens.max())
    device = SmallDevice(loaded.model, room)
    runner = ModelRunner(loaded)
    with pytest.warns(RuntimeWarning, match=r"no memory for a batch of \d+ tokens; continuing"):
        assert (states(runner, plan) - expected).abs().max() <= 1e-5
    assert max(device.sizes) > room
    device.sizes.clear()
    assert (states(runner, plan) - expected).abs().max() <= 1e-5
    assert max(device.sizes) <= room  # what failed once is not tried again


def test_a_segment_beyond_the_memory_is_one_clear_error(on_device):
    loaded = off_processor("llama")
    SmallDevice(loaded.model, 3)
    check_too_little_memory(loaded)


def test_a_failed_pass_is_gone_before_the_cache_is_freed(monkeypatch):
    """The error's traceback holds its tensors, so the cache is freed after the handler."""
    seen = []

    def empty_cache():
        seen.append(sys.exception())

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)

    def run_whole(part):
        if len(part.n_tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(int(part.wanted.sum()), 1)

    halving = Halving(SimpleNamespace(type="cuda"))
    with pytest.warns(RuntimeWarning, match="at most 6"):
        assert halving.run(batch([0, 0, 0]), run_whole, KVStore(0)).shape == (2, 1)
    assert seen
    assert set(seen) == {None}
