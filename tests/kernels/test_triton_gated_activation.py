"""Triton's gated activation in the interpreter, against the definition and transformers' units."""

import math

import pytest
import torch

from icm_fast.kernels.gated_activation import naive

TRITON = "gated_activation.triton.gated_activation"
ACTIVATIONS = ("silu", "gelu_tanh")
LIMITS = {
    torch.float32: {"atol": 1e-6, "rtol": 1e-5},
    # The interpreter cuts off the bits that bfloat16 has no room for, where a device rounds.
    torch.bfloat16: {"atol": 1e-3, "rtol": 2e-2},
    torch.float16: {"atol": 1e-4, "rtol": 2e-3},
}


def make_call(rows=7, width=72, dtype=torch.float32):
    """Gate and up as from one stacked projection: halves of the same rows, surrounded by NaN."""
    generator = torch.Generator().manual_seed(rows + width)
    numbers = 3.0 * torch.randn(rows, 2 * width, generator=generator)
    buffer = torch.full((rows + 2, 2 * width + 32), math.nan, dtype=dtype)
    view = buffer[1:-1, 16:-16]
    view.copy_(numbers)
    return view.chunk(2, dim=-1)


def check(interpreter, gate, up, activation):
    out, _ = interpreter.call(TRITON, gate, up, activation)
    assert out.dtype == gate.dtype
    assert out.is_contiguous()
    expected = naive.gated_activation(gate, up, activation)
    torch.testing.assert_close(out, expected, **LIMITS[out.dtype])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 64), (3, 1), (19, 33), (2, 1024), (2, 2500)])
def test_equals_the_definition(interpreter, shape, activation):
    check(interpreter, *make_call(*shape), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(interpreter, dtype, activation):
    check(interpreter, *make_call(dtype=dtype), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_numbers_do_not_overflow(interpreter, activation):
    gate = torch.tensor([[-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30]])
    check(interpreter, gate, torch.ones_like(gate), activation)


def test_no_rows(interpreter):
    gate, up = make_call()
    out, _ = interpreter.call(TRITON, gate[:0], up[:0], "silu")
    assert out.shape == (0, 72)


@pytest.mark.parametrize("dtype", LIMITS)
def test_the_definition_is_that_of_transformers(dtype):
    from transformers.activations import ACT2FN

    gate, up = make_call(dtype=dtype)
    for ours, theirs in (("silu", "silu"), ("silu", "swish"), ("gelu_tanh", "gelu_pytorch_tanh")):
        expected = ACT2FN[theirs](gate) * up
        assert torch.equal(naive.gated_activation(gate, up, ours), expected), theirs


def test_bad_calls(interpreter):
    gate, up = make_call()
    bad = {
        "unknown activation 'relu'": (gate, up, "relu"),
        r"up \(7, 71\)": (gate, up[:, 1:], "silu"),
        "float16": (gate, up.half(), "silu"),
        "must be contiguous": (gate, up.T.contiguous().T, "silu"),
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            interpreter.call(TRITON, *arguments)
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        naive.gated_activation(gate, up, "relu")
