"""On which devices the Triton kernels of a decoder are selected."""

import pytest
import torch

from icm_fast.kernels.add_rms_norm import naive as naive_norm
from icm_fast.kernels.add_rms_norm import select_add_rms_norm
from icm_fast.kernels.gated_activation import naive as naive_gate
from icm_fast.kernels.gated_activation import select_gated_activation
from icm_fast.kernels.rope_kv_write import naive as naive_rope
from icm_fast.kernels.rope_kv_write import select_rope_kv_write

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SELECTORS = {
    "add_rms_norm": (select_add_rms_norm, naive_norm),
    "gated_activation": (select_gated_activation, naive_gate),
    "rope_kv_write": (select_rope_kv_write, naive_rope),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_triton_serves_devices_that_have_it(ampere, name):
    select, naive = SELECTORS[name]
    definition = getattr(naive, name)
    selected = select(CUDA, torch.bfloat16)
    assert selected is not definition
    assert selected.__module__ == f"icm_fast.kernels.{name}.triton"
    assert select(CUDA, torch.float64) is definition
    assert select(CPU, torch.bfloat16) is definition


@pytest.mark.parametrize("name", SELECTORS)
def test_older_devices_take_the_definition(ampere, name):
    select, naive = SELECTORS[name]
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert select(CUDA, torch.float16) is getattr(naive, name)
