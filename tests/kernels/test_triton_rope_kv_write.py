"""Triton's rotation and pool write in the interpreter, against the definition and transformers."""

import math

import pytest
import torch

from icm_fast.kernels.rope_kv_write import naive

TRITON = "rope_kv_write.triton.rope_kv_write"
POOL = 50


def angles(n_tokens, width, dtype):
    position = torch.arange(5, 5 + n_tokens)[:, None]
    frequency = 100.0 ** (-torch.arange(width // 2) / (width // 2))
    both = torch.cat([position * frequency] * 2, dim=-1)
    return both.cos().to(dtype), both.sin().to(dtype)


def make_call(tokens=19, heads=3, kv_heads=1, dim=24, rotary=24, value_dim=20, dtype=torch.float32):
    """Rows with the strides of projections, and pools of NaN."""
    generator = torch.Generator().manual_seed(tokens + dim)

    def rows(n_heads, width):
        return torch.randn(tokens, n_heads, width, generator=generator).to(dtype).transpose(0, 1)

    slots = torch.randperm(POOL, generator=generator)[:tokens]
    pools = [
        torch.full((kv_heads, POOL, width), math.nan, dtype=dtype) for width in (dim, value_dim)
    ]
    tensors = rows(heads, dim), rows(kv_heads, dim), rows(kv_heads, value_dim)
    return (*tensors, *angles(tokens, rotary, dtype), *pools, slots)


def check(interpreter, arguments, **limits):
    expected_pools = [pool.clone() for pool in arguments[5:7]]
    expected = naive.rope_kv_write(*arguments[:5], *expected_pools, arguments[7])
    out, after = interpreter.call(TRITON, *arguments)
    torch.testing.assert_close(out, expected, **limits)
    assert out.transpose(0, 1).is_contiguous()
    for pool, wanted in zip(after[5:7], expected_pools, strict=True):
        # Slots of others stay as they were: NaN.
        torch.testing.assert_close(pool, wanted, equal_nan=True, **limits)


SHAPES = {
    "one token": {"tokens": 1},
    "a tile": {"tokens": 16},
    "odd": {"tokens": 33},
    "groups of four": {"heads": 8, "kv_heads": 2},
    "equal heads": {"heads": 2, "kv_heads": 2},
    "partial": {"rotary": 10},
    "a pair": {"rotary": 2},
    "wide values": {"dim": 8, "rotary": 8, "value_dim": 40},
    "wide": {"tokens": 3, "dim": 256, "rotary": 256, "value_dim": 256},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(interpreter, shape):
    check(interpreter, make_call(**SHAPES[shape]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(interpreter, dtype):
    check(interpreter, make_call(dtype=dtype), atol=1e-2, rtol=2e-2)


def test_strides_and_guards(interpreter):
    arguments = list(make_call())
    for k in (0, 1, 2, 5, 6):
        heads, rows, width = arguments[k].shape
        buffer = torch.full((heads + 2, rows + 8, width + 16), math.nan)
        view = buffer[1:-1, 3:-5, 8:-8]
        view.copy_(arguments[k])
        arguments[k] = view
    expected_pools = [pool.clone() for pool in arguments[5:7]]
    expected = naive.rope_kv_write(*arguments[:5], *expected_pools, arguments[7])
    out, after = interpreter.call(TRITON, *arguments)
    torch.testing.assert_close(out, expected)
    for pool, wanted in zip(after[5:7], expected_pools, strict=True):
        torch.testing.assert_close(pool, wanted, equal_nan=True)
        base = torch.as_strided(pool, (pool.untyped_storage().nbytes() // 4,), (1,), 0)
        # Nothing was written around the pool.
        assert int((~base.isnan()).sum()) == int((~pool.isnan()).sum())


def test_the_definition_is_that_of_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query, key, value, cos, sin, key_pool, value_pool, slots = make_call()
    rotated = apply_rotary_pos_emb(query[None], key[None], cos[None], sin[None])
    out = naive.rope_kv_write(query, key, value, cos, sin, key_pool, value_pool, slots)
    torch.testing.assert_close(out, rotated[0][0])
    torch.testing.assert_close(key_pool[:, slots], rotated[1][0])
    assert torch.equal(value_pool[:, slots], value)


def test_no_tokens(interpreter):
    arguments = make_call(tokens=0)
    out, after = interpreter.call(TRITON, *arguments)
    assert out.shape == (3, 0, 24)
    assert after[5].isnan().all()


def test_bad_calls(interpreter):
    good = make_call()
    bad = {
        "differ in width": {0: good[0][..., 1:]},
        "do not fit the pools": {6: good[6][..., 1:]},
        "cos": {3: good[3][:, :5], 4: good[4][:, :5]},
        "dtypes": {0: good[0].half()},
        "must be contiguous": {0: good[0].transpose(1, 2).contiguous().transpose(1, 2)},
    }
    for message, changed in bad.items():
        arguments = [changed.get(k, argument) for k, argument in enumerate(good)]
        with pytest.raises(ValueError, match=message):
            interpreter.call(TRITON, *arguments)
