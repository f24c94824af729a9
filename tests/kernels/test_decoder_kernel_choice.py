"""Which devices take the Triton kernels of a decoder."""

import pytest
import torch

from icm_fast.kernels.add_rms_norm import add_rms_norm_on
from icm_fast.kernels.add_rms_norm import naive as naive_norm
from icm_fast.kernels.gated_activation import gated_activation_on
from icm_fast.kernels.gated_activation import naive as naive_gate
from icm_fast.kernels.rope_kv_write import naive as naive_rope
from icm_fast.kernels.rope_kv_write import rope_kv_write_on

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CHOICES = {
    "add_rms_norm": (add_rms_norm_on, naive_norm),
    "gated_activation": (gated_activation_on, naive_gate),
    "rope_kv_write": (rope_kv_write_on, naive_rope),
}


@pytest.mark.parametrize("name", CHOICES)
def test_triton_serves_devices_that_have_it(ampere, name):
    choose, naive = CHOICES[name]
    definition = getattr(naive, name)
    chosen = choose(CUDA, torch.bfloat16)
    assert chosen is not definition
    assert chosen.__module__ == f"icm_fast.kernels.{name}.triton"
    assert choose(CUDA, torch.float64) is definition
    assert choose(CPU, torch.bfloat16) is definition


@pytest.mark.parametrize("name", CHOICES)
def test_older_devices_take_the_definition(ampere, name):
    choose, naive = CHOICES[name]
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose(CUDA, torch.float16) is getattr(naive, name)
