import pytest
import torch

from icm_fast.model.forward.kv_store import KVStore


def rows(n, heads=2, dim=3, value=0.0):
    return torch.full((heads, n, dim), value)


def test_rows_land_in_their_slots_and_nowhere_else():
    store = KVStore(10)
    keys, values = store.write(0, rows(4, value=1.0), rows(4, dim=5, value=2.0), torch.arange(4))
    store.write(0, rows(2, value=7.0), rows(2, dim=5, value=8.0), torch.tensor([9, 2]))
    assert keys[0, :4, 0].tolist() == [1.0, 1.0, 7.0, 1.0]
    assert keys[1, 9].tolist() == [7.0] * 3
    assert values[0, 9].tolist() == [8.0] * 5
    store.check_integrity()


def test_layers_are_apart_and_may_differ_in_shape():
    store = KVStore(4)
    slots = torch.arange(4)
    first, _ = store.write(0, rows(4, value=1.0), rows(4), slots)
    second, _ = store.write(5, rows(4, heads=1, dim=7, value=2.0), rows(4, heads=1, dim=7), slots)
    assert first.max() == 1.0
    assert second.min() == 2.0
    assert second.shape == (1, 4, 7)
    store.check_integrity()


def test_pools_are_handed_out_to_be_written():
    store = KVStore(6)
    keys, values = store.pools(2, rows(0), rows(0, dim=5))
    assert keys.shape == (2, 6, 3)
    keys[:, 4] = 3.0
    again, written = store.write(2, rows(1, value=1.0), rows(1, dim=5), torch.tensor([0]))
    assert again is keys
    assert written is values
    assert keys[0, [0, 4], 0].tolist() == [1.0, 3.0]
    store.check_integrity()


def test_bytes_are_counted():
    store = KVStore(10)
    assert store.n_bytes() == 0
    store.write(0, rows(1).bfloat16(), rows(1, dim=5).bfloat16(), torch.zeros(1, dtype=torch.long))
    assert store.n_bytes() == 2 * 10 * (3 + 5) * 2


def test_slot_outside_the_pool_is_refused():
    store = KVStore(3)
    with pytest.raises((IndexError, RuntimeError)):
        store.write(0, rows(1), rows(1), torch.tensor([3]))


def test_integrity_check_finds_a_pool_of_another_size():
    store = KVStore(3)
    store.write(0, rows(1), rows(1), torch.tensor([0]))
    store.pool_tokens = 4
    with pytest.raises(AssertionError):
        store.check_integrity()
