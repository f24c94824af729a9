"""What the native decoder accepts from Python, and what it refuses."""

import numpy as np
import pytest

from icm_fast import _core

HIDDEN, UNITS, HEADS, KV_HEADS, DIM = 6, 10, 4, 2, 4
SHAPES = {
    "query": (HEADS * DIM, HIDDEN),
    "key": (KV_HEADS * DIM, HIDDEN),
    "value": (KV_HEADS * DIM, HIDDEN),
    "output": (HIDDEN, HEADS * DIM),
    "gate": (UNITS, HIDDEN),
    "up": (UNITS, HIDDEN),
    "down": (HIDDEN, UNITS),
    "input_norm": (HIDDEN,),
    "feed_forward_norm": (HIDDEN,),
}
BATCH = {
    "n_tokens": np.array([3, 1]),
    "own": np.array([0, 4]),
    "range_offsets": np.array([0, 0, 1]),
    "range_begin": np.array([0]),
    "range_end": np.array([3]),
    "wanted": np.array([False, True]),
}


def bare_decoder(**changes):
    settings = {
        "dtype": "float32",
        "hidden": HIDDEN,
        "intermediate": UNITS,
        "n_heads": HEADS,
        "n_kv_heads": KV_HEADS,
        "head_dim": DIM,
        "n_layers": 1,
        "norm_eps": 1e-6,
        "activation": "silu",
        "n_threads": 1,
    }
    return _core.CpuDecoder(**(settings | changes))


def weights(**changes):
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=shape) for name, shape in SHAPES.items()}
    return {name: array.astype(np.float32) for name, array in arrays.items()} | changes


def add_layer(decoder, arrays, **changes):
    decoder.add_layer(
        arrays, **({"rotary": 0, "window": 0, "scaling": 0.5, "softcap": 0.0} | changes)
    )


def angles(n_positions=8, half=DIM // 2):
    angle = np.outer(np.arange(n_positions), 0.3 ** np.arange(half))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@pytest.fixture
def decoder():
    decoder = bare_decoder()
    add_layer(decoder, weights())
    return decoder


def embeddings():
    return np.random.default_rng(1).normal(size=(4, HIDDEN)).astype(np.float32)


def forward(decoder, pool=None, rows=None, rotary=None, **changes):
    pool = decoder.make_pool(6) if pool is None else pool
    rotary = decoder.make_rotary([angles()]) if rotary is None else rotary
    rows = embeddings() if rows is None else rows
    return decoder.forward(pool, rotary, rows, **(BATCH | changes))


def test_wanted_states_are_returned(decoder):
    assert forward(decoder).shape == (1, HIDDEN)
    both = forward(decoder, wanted=np.array([True, True]))
    assert both.shape == (2, HIDDEN)
    assert both.dtype == np.float32
    assert np.array_equal(both[1:], forward(decoder))
    assert forward(decoder, wanted=np.array([False, False])).shape == (0, HIDDEN)


def test_keys_and_values_stay_in_the_pool(decoder):
    pool = decoder.make_pool(6)
    together = forward(decoder, pool)
    alone = decoder.forward(
        pool,
        decoder.make_rotary([angles()]),
        embeddings()[3:],
        n_tokens=BATCH["n_tokens"][1:],
        own=np.array([5]),
        range_offsets=np.array([0, 1]),
        range_begin=np.array([0]),
        range_end=np.array([3]),
        wanted=np.array([True]),
    )
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


def test_facts(decoder):
    assert decoder.isa == _core.cpu_isa("float32")
    # Outputs in panels of 32, and units in 16 and their 16: 32 x 6, 32 x 16, 32 x 6, 32 x 16.
    assert decoder.n_weight_bytes == 4 * 32 * (6 + 16 + 6 + 16)
    assert decoder.make_pool(6).n_bytes == 4 * 2 * KV_HEADS * DIM * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 5}, "hidden must be even"),
        ({"head_dim": 3}, "head_dim must be even"),
        ({"n_heads": 3}, "multiple of n_kv_heads"),
        ({"n_layers": 0}, "must be positive"),
        ({"activation": "relu"}, "unknown activation relu; use silu or gelu_tanh"),
        ({"dtype": "float16"}, "dtype float16 has no CPU kernels"),
    ],
)
def test_decoders_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        bare_decoder(**changes)


@pytest.mark.parametrize("name", SHAPES)
def test_weights_of_another_size_are_refused(name):
    decoder = bare_decoder()
    arrays = weights()
    for broken in (arrays[name][:-1].copy(), np.zeros(0, np.float32)):
        with pytest.raises(ValueError, match=f"{name} has {broken.size} values, expected"):
            add_layer(decoder, arrays | {name: broken})
    add_layer(decoder, arrays)
    with pytest.raises(ValueError, match="more layers"):
        add_layer(decoder, arrays)


@pytest.mark.parametrize(
    "query",
    [
        np.zeros(SHAPES["query"]),
        np.zeros(SHAPES["query"][::-1], np.float32).T,
        np.zeros(SHAPES["query"]).tolist(),
    ],
    ids=["float64", "transposed", "list"],
)
def test_weights_that_would_have_to_be_copied_are_refused(query):
    with pytest.raises(ValueError, match="contiguous float32"):
        add_layer(bare_decoder(), weights(query=query))


@pytest.mark.parametrize(
    "table",
    [
        (np.zeros((8, 2), np.float32), np.zeros((7, 2), np.float32)),
        (np.zeros(16, np.float32), np.zeros(16, np.float32)),
        angles(half=3),
    ],
    ids=["lengths", "axes", "width"],
)
def test_rotary_tables_that_do_not_fit_are_refused(decoder, table):
    with pytest.raises(ValueError, match="rotary tables must be"):
        decoder.make_rotary([table])
    assert forward(decoder).shape == (1, HIDDEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": embeddings()[:3]}, "embeddings must be"),
        ({"wanted": np.array([True])}, "one entry per segment"),
        ({"own": np.array([0])}, "differ in length"),
        ({"range_offsets": np.array([0, 1])}, "differ in length"),
        ({"range_offsets": np.array([0, 0, 2])}, "outside the ranges"),
        ({"n_tokens": np.array([4, 0])}, "outside the pool|not be empty"),
        ({"own": np.array([0, 6])}, "outside the pool"),
        ({"own": np.array([-1, 5])}, "outside the pool"),
        ({"range_begin": np.array([3])}, "outside the pool"),
    ],
)
def test_batches_that_do_not_fit_are_refused(decoder, changes, message):
    before = forward(decoder)
    with pytest.raises(ValueError, match=message):
        forward(decoder, **changes)
    assert np.array_equal(forward(decoder), before)


def test_integers_of_another_kind_are_refused(decoder):
    with pytest.raises(TypeError):
        forward(decoder, own=np.array([0.0, 4.0]))


def test_contexts_beyond_the_rotary_tables_are_refused(decoder):
    with pytest.raises(ValueError, match="outside the rotary tables"):
        forward(decoder, rotary=decoder.make_rotary([angles(3)]))


def test_pools_of_another_decoder_are_refused(decoder):
    pool = bare_decoder(head_dim=2).make_pool(6)
    with pytest.raises(ValueError, match="for another model"):
        forward(decoder, pool)


@pytest.mark.skipif(_core.cpu_isa("bfloat16") is None, reason="this processor has no bfloat16")
@pytest.mark.parametrize(("ours", "theirs"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_pools_of_another_dtype_are_refused(ours, theirs):
    """At half the size, it would be written past its end."""
    decoder = bare_decoder(dtype=ours)
    add_layer(decoder, weights())
    with pytest.raises(ValueError, match="for another model"):
        forward(decoder, bare_decoder(dtype=theirs).make_pool(6))


def test_a_pool_without_room_is_a_memory_error(decoder):
    with pytest.raises(MemoryError):
        decoder.make_pool(1 << 50)
