"""Triton's residual norm in the interpreter, against the definition and transformers' norms."""

import math

import pytest
import torch

from icm_fast.kernels.add_rms_norm import naive

TRITON = "add_rms_norm.triton.add_rms_norm"
EPS = 1e-3
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LIMITS = {
    torch.float32: {"atol": 1e-6, "rtol": 1e-6},
    # The interpreter cuts off the bits that bfloat16 has no room for, where a device rounds.
    torch.bfloat16: {"atol": 1e-3, "rtol": 3e-2},
    torch.float16: {"atol": 1e-4, "rtol": 2e-3},
}


def between_nan(tensor, margin=5):
    """The same rows in a wider buffer, with NaN on all sides."""
    shape = [n + 2 * margin for n in tensor.shape]
    buffer = torch.full(shape, math.nan, dtype=tensor.dtype)
    view = buffer[tuple(slice(margin, -margin) for _ in shape)]
    view.copy_(tensor)
    return view


def make_call(rows=7, width=72, dtype=torch.float32, residual=True):
    generator = torch.Generator().manual_seed(rows + width)

    def random(*shape):
        # Rows of very different sizes, so that a mean over the wrong ones would show.
        sizes = torch.logspace(-1, 1, shape[0])[:, None] if len(shape) == 2 else 1.0
        numbers = torch.randn(*shape, generator=generator) * sizes
        return between_nan(numbers.to(dtype))

    other = random(rows, width).flip(0) if residual else None
    return random(rows, width), other, random(width), EPS


def check(interpreter, arguments, *, plus_one):
    (normed, total), _ = interpreter.call(TRITON, *arguments, plus_one=plus_one)
    expected, expected_total = naive.add_rms_norm(*arguments, plus_one=plus_one)
    assert normed.dtype == total.dtype == arguments[0].dtype
    assert normed.is_contiguous()
    torch.testing.assert_close(normed, expected, **LIMITS[normed.dtype])
    if normed.dtype == torch.bfloat16:
        torch.testing.assert_close(total, expected_total, **LIMITS[normed.dtype])
    else:
        assert torch.equal(total, expected_total)


SHAPES = {
    "a row": {"rows": 1, "width": 64},
    "one number": {"rows": 3, "width": 1},
    "odd": {"rows": 19, "width": 33},
    "narrow": {"rows": 5, "width": 8},
    "heads": {"rows": 37, "width": 128},
    "a row of a program": {"rows": 2, "width": 2048},
    "wide": {"rows": 2, "width": 5003},
}


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(interpreter, shape, residual, plus_one):
    check(interpreter, make_call(**SHAPES[shape], residual=residual), plus_one=plus_one)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(interpreter, dtype, residual, plus_one):
    check(interpreter, make_call(dtype=dtype, residual=residual), plus_one=plus_one)


@pytest.mark.parametrize("plus_one", [False, True])
def test_rounds_where_the_definition_does(interpreter, plus_one):
    """In float16, which the interpreter rounds like a device."""
    x, residual, weight, eps = make_call(rows=40, dtype=torch.float16)
    (normed, _), _ = interpreter.call(TRITON, x, residual, weight, eps, plus_one=plus_one)
    expected, total = naive.add_rms_norm(x, residual, weight, eps, plus_one=plus_one)
    exact = [x.float(), residual.float(), weight.float()]
    unrounded, _ = naive.add_rms_norm(*exact, eps, plus_one=plus_one)
    # Where a float32 lies halfway between two numbers, its last bit may decide.
    assert (normed == expected).float().mean() > 0.99
    assert (unrounded.half() == expected).float().mean() < 0.9
    if not plus_one:
        rounded_once, _ = naive.add_rms_norm(total.float(), None, exact[2], eps, plus_one=False)
        assert (rounded_once.half() == expected).float().mean() < 0.9


def test_without_a_residual_the_rows_are_returned():
    x, _, weight, eps = make_call(residual=False)
    assert naive.add_rms_norm(x, None, weight, eps, plus_one=False)[1] is x


def test_no_rows(interpreter):
    for residual in (False, True):
        x, other, weight, eps = make_call(residual=residual)
        arguments = x[:0], other if other is None else other[:0], weight, eps
        (normed, total), _ = interpreter.call(TRITON, *arguments, plus_one=True)
        assert normed.shape == total.shape == (0, 72)


def norms():
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    plain = dict.fromkeys((LlamaRMSNorm, Phi3RMSNorm, Qwen3RMSNorm), False)
    return plain | dict.fromkeys((Gemma2RMSNorm, Gemma3RMSNorm), True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_definition_is_that_of_transformers(dtype):
    x, residual, weight, eps = make_call(rows=40, dtype=dtype)
    for kind, plus_one in norms().items():
        module = kind(72, eps=eps).to(dtype)
        module.weight.data.copy_(weight)
        normed, total = naive.add_rms_norm(x, residual, weight, eps, plus_one=plus_one)
        assert torch.equal(total, residual + x)
        assert torch.equal(normed, module(residual + x)), kind.__name__
        heads = x.reshape(20, 2, 72)
        by_head, _ = naive.add_rms_norm(x, None, weight, eps, plus_one=plus_one)
        assert torch.equal(by_head.view(20, 2, 72), module(heads)), kind.__name__


def test_bad_calls(interpreter):
    x, residual, weight, eps = make_call()
    bad = {
        "for a weight of": (x, residual, weight[1:], eps),
        r"residual \(6, 72\)": (x, residual[1:], weight, eps),
        "dtypes": (x.half(), residual, weight, eps),
        "must be contiguous": (x, residual.T.contiguous().T, weight, eps),
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            interpreter.call(TRITON, *arguments, plus_one=False)
