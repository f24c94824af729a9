import numpy as np
import pytest
import torch

from icm_fast.kernels import one_copy as module
from icm_fast.kernels.one_copy import one_copy


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tables_arrive_as_they_were(dtype):
    shapes = [(3, 5), (0, 2), (7,), (1, 1), (0,)]
    tables = [np.arange(np.prod(shape)).reshape(shape).astype(dtype) + 9 for shape in shapes]
    found = one_copy(tables, torch.device("cpu"))
    for table, tensor in zip(tables, found, strict=True):
        assert np.array_equal(tensor.numpy(), table)
        assert tensor.shape == table.shape
        assert tensor.numpy().dtype == dtype
        assert tensor.storage_offset() * tensor.itemsize % 16 == 0
        assert tensor.is_contiguous()


def test_there_is_one_copy(monkeypatch):
    copies = []

    class Counted:
        def __init__(self, array):
            self.array = array

        def to(self, device):
            copies.append(device)
            return torch.as_tensor(self.array)

    monkeypatch.setattr(module.torch, "from_numpy", Counted)
    one_copy([np.zeros((2, 3), np.int32), np.ones(4, np.int32)], torch.device("cuda"))
    assert copies == [torch.device("cuda")]
