"""Triton kernels on a device: what the interpreter cannot show. Skipped without a device."""

import numpy as np
import pytest
import torch

from attention_cases import OPTIONS, SHAPES, Sizes, make_case
from icm_fast.config import SearchConfig
from icm_fast.kernels.add_rms_norm import naive as naive_norm
from icm_fast.kernels.gated_activation import naive as naive_gate
from icm_fast.kernels.label_logprob import Head
from icm_fast.kernels.label_logprob import naive as naive_labels
from icm_fast.kernels.rope_kv_write import naive as naive_rope
from icm_fast.kernels.tree_attention import AttentionWork, naive, sdpa
from icm_fast.kernels.tree_attention.select import select_for_device
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS
from icm_fast.model import ModelRunner, load_model
from icm_fast.model.forward.device import DeviceForward
from icm_fast.model.forward.runner import make_forward
from icm_fast.scoring.factory import make_scorer
from tiny_models import MULTI, NATIVE, byte_tokenizer, mixed_labels, reviews, tiny_model

pytestmark = pytest.mark.gpu
LIMITS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest difference, relative to the largest value."""

LONG = [((700, 129, 64, 1), 45), ((2000,), 1), ((), 300), ((3, 5), 2)]


def on_device(case):
    case.query, case.keys, case.values = (t.cuda() for t in (case.query, case.keys, case.values))
    return case


def check(case, *, n_sms=0, **options):
    from icm_fast.kernels.tree_attention import triton

    options.setdefault("scaling", case.query.shape[-1] ** -0.5)
    options = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    tensors = (case.query, case.keys, case.values)
    out = triton.tree_attention(*tensors, case.work, n_sms=n_sms, **options)
    # On the processor: products of float32 on a device may be those of TF32.
    on_host = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    expected = naive.tree_attention(*(t.float().cpu() for t in tensors), case.work, **on_host)
    assert out.dtype == case.query.dtype
    limit = LIMITS[out.dtype] * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(out.float().cpu(), expected, atol=limit, rtol=0)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n_sms", [0, 10_000])
def test_attention_equals_the_definition(dtype, options, n_sms):
    case = make_case(SHAPES["odd batch"] + LONG, dtype=dtype, sizes=Sizes(4, 2, 64, 64))
    check(on_device(case), n_sms=n_sms, **OPTIONS[options])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("heads", [(1, 1), (3, 1), (8, 2), (7, 7)])
def test_attention_of_every_width(dtype, dim, heads):
    case = make_case(LONG, dtype=dtype, sizes=Sizes(*heads, dim, dim))
    check(on_device(case))


@pytest.mark.parametrize("dtype", LIMITS)
def test_attention_of_short_segments(dtype):
    case = make_case([((900,), 1), ((31, 64), 3)], dtype=dtype, sizes=Sizes(4, 2, 128, 128))
    check(on_device(case))


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_row_does_not_depend_on_the_batch(dtype):
    from icm_fast.kernels.tree_attention import triton
    from icm_fast.kernels.tree_attention.work import SegmentWork

    case = on_device(make_case(LONG + SHAPES["odd batch"], dtype=dtype, sizes=Sizes(4, 2, 64, 64)))
    keys, values = case.keys, case.values
    together = triton.tree_attention(case.query, keys, values, case.work, scaling=0.125)
    for segment in case.work.segments:
        rows = slice(segment.begin, segment.end)
        n_rows = segment.end - segment.begin
        alone = SegmentWork(0, n_rows, segment.ranges, segment.own, segment.start)
        work = AttentionWork((alone,), n_rows)
        out = triton.tree_attention(case.query[:, rows], keys, values, work, scaling=0.125)
        assert torch.equal(out, together[:, rows])


def test_attention_across_two_gigabyte_of_a_pool():
    """Slots times width beyond 2^31."""
    from icm_fast.kernels.tree_attention import triton
    from icm_fast.kernels.tree_attention.work import SegmentWork

    slots, dim = 2**25 + 300, 64
    if torch.cuda.mem_get_info()[0] < 3 * slots * dim * 2:
        pytest.skip("not enough device memory")
    pool = torch.zeros(1, slots, dim, dtype=torch.float16, device="cuda")
    pool[:, -300:] = torch.randn(1, 300, dim, device="cuda").half()
    query = torch.randn(2, 40, dim, device="cuda").half()
    work = AttentionWork((SegmentWork(0, 40, ((slots - 300, slots - 40),), slots - 40, 260),), 40)
    out = triton.tree_attention(query, pool, pool, work, scaling=0.125)
    expected = naive.tree_attention(query, pool, pool, work, scaling=0.125)
    torch.testing.assert_close(out.float(), expected.float(), atol=1e-2, rtol=0)


def test_the_model_takes_the_triton_kernel():
    from icm_fast.kernels.tree_attention import triton

    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("older than Ampere")
    device = torch.device("cuda", torch.cuda.current_device())
    assert select_for_device(device, 64) is triton.tree_attention
    assert select_for_device(device, 512) is sdpa.tree_attention


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("states", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
def test_label_logprob_equals_the_definition(states, weights, normalize):
    from icm_fast.kernels.label_logprob import triton

    torch.manual_seed(0)
    width, vocabulary = 896, 50_001
    weight = (torch.randn(vocabulary, width, device="cuda") / width**0.5).to(weights)
    norm = torch.randn(width, device="cuda").to(weights)
    head = Head(weight, scale=0.5, softcap=30.0, norm_weight=norm)
    hidden = torch.randn(70, width, device="cuda").to(states)
    tokens = torch.tensor([0, 50_000, 7], device="cuda")
    out = triton.label_logprob(hidden, head, tokens, normalize=normalize)
    # On the processor, where no setting of torch turns float32 products into TF32.
    exact = Head(weight.cpu(), scale=0.5, softcap=30.0, norm_weight=norm.cpu())
    expected = naive_labels.label_logprob(hidden.cpu(), exact, tokens.cpu(), normalize=normalize)
    torch.testing.assert_close(out.cpu(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 20), (256, 256)])
def test_rope_kv_write_equals_the_definition(dtype, dim, rotary):
    from icm_fast.kernels.rope_kv_write import triton

    torch.manual_seed(0)
    n_tokens = 777
    query, key, value = (
        torch.randn(n_tokens, heads, dim, device="cuda").to(dtype).transpose(0, 1)
        for heads in (6, 2, 2)
    )
    angle = torch.randn(n_tokens, rotary // 2, device="cuda").repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    pools = [torch.zeros(2, 2000, dim, dtype=dtype, device="cuda") for _ in range(4)]
    slots = torch.randperm(2000, device="cuda")[:n_tokens]
    out = triton.rope_kv_write(query, key, value, cos, sin, *pools[:2], slots)
    expected = naive_rope.rope_kv_write(query, key, value, cos, sin, *pools[2:], slots)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(pools[0], pools[2])
    assert torch.equal(pools[1], pools[3])


ROUNDINGS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Relative: two units in the last place; in float32, the error of an approximate root."""


@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", [(777, 4096), (9001, 128), (5, 8192), (3, 5003), (1, 1)])
def test_add_rms_norm_equals_the_definition(dtype, plus_one, with_residual, shape):
    from icm_fast.kernels.add_rms_norm import triton

    torch.manual_seed(0)
    rows = [torch.randn(*shape, device="cuda").to(dtype) for _ in range(2)]
    call = rows[0], rows[1] if with_residual else None, rows[1].flip(0)[0], 1e-5
    normed, total = triton.add_rms_norm(*call, plus_one=plus_one)
    expected, expected_total = naive_norm.add_rms_norm(*call, plus_one=plus_one)
    assert torch.equal(total, expected_total)
    torch.testing.assert_close(normed, expected, atol=1e-6, rtol=ROUNDINGS[dtype])


@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("shape", [(777, 14336), (3, 5003), (1, 1)])
def test_gated_activation_equals_the_definition(dtype, activation, shape):
    from icm_fast.kernels.gated_activation import triton

    torch.manual_seed(0)
    n_rows, width = shape
    gate, up = torch.randn(n_rows, 2 * width, device="cuda").to(dtype).chunk(2, dim=-1)
    out = triton.gated_activation(gate, up, activation)
    expected = naive_gate.gated_activation(gate, up, activation)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=ROUNDINGS[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", NATIVE)
def test_a_model_takes_its_kernels_and_keeps_its_states(family, dtype):
    """Our forward against the model's own layers, both on the device."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("older than Ampere")
    loaded = load_model((tiny_model(family).to(dtype).cuda(), byte_tokenizer()))
    assert isinstance(make_forward(loaded, generic=False), DeviceForward)
    dataset = reviews(MULTI)
    plan = make_scorer(loaded, dataset, SearchConfig()).plan(mixed_labels(dataset))
    everything = np.ones(plan.tree.n_segments, np.bool_)
    ours, theirs = (
        ModelRunner(loaded, generic=generic).last_hidden_states(
            plan.tree, plan.segment_ids, everything
        )
        for generic in (False, True)
    )
    share = 1e-3 if dtype == torch.float32 else 0.05
    difference = (ours - theirs).abs().float().mean()
    assert difference <= share * theirs.abs().float().mean()
