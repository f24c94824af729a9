"""A fine-tuning whose model FSDP divides among two processes of a CPU is that of one process."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import distributed_cases
import fsdp_cases
from icm_fast.model.adapters import merge_adapter
from tiny_models import one_thread  # noqa: F401 - in force by its import

ACCELERATE = tuple(map(int, importlib.metadata.version("accelerate").split(".")[:2]))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ACCELERATE < (1, 10), reason="accelerate has no FSDP of version 2"),
]
LAUNCH = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_CPU": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What `accelerate launch --use_fsdp` sets."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the fine-tunings of `fsdp_cases` left, run once by two processes."""
    folder = tmp_path_factory.mktemp("fsdp")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {**os.environ, **LAUNCH, "PYTHONPATH": os.pathsep.join(sys.path)}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, fsdp_cases.__file__, str(folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0] + said[1]
    return folder


@pytest.mark.parametrize("name", ["tuned", "full", "resumed"])
def test_a_divided_model_trains_as_a_whole_one(name, folder):
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    method = "full" if name == "full" else "lora"
    expected = distributed_cases.tune(method=method)
    assert found[0][name] == pytest.approx(expected.losses, abs=1e-5)
    before = distributed_cases.chat_loaded().model.state_dict()
    after = expected.model.model.state_dict()
    for rank in (0, 1):
        made = load_file(folder / f"{name}-{rank}.safetensors")
        for key, value in after.items():
            assert torch.allclose(made[key], value, rtol=0, atol=2e-6), key
    assert max(float((after[key] - before[key]).abs().max()) for key in after) > 1e-3


def test_a_stopped_one_resumes_to_the_same_bits(folder):
    found = json.loads((folder / "found-0.json").read_text())
    assert found["started"] == ["checkpoint-2", "checkpoint-4"]
    assert found["resumed"] == found["tuned"]
    weights = [
        (folder / name / "adapter/adapter_model.safetensors").read_bytes()
        for name in ("resumed", "tuned")
    ]
    assert weights[0] == weights[1]
    merged = merge_adapter(distributed_cases.chat_loaded(), folder / "tuned/adapter", "tuned")
    made = load_file(folder / "tuned-0.safetensors")
    assert all(torch.equal(made[k], v) for k, v in merged.model.state_dict().items())


def test_reward_models_are_refused(folder):
    found = json.loads((folder / "found-0.json").read_text())
    assert "a reward model cannot be trained with FSDP; launch without it" in found["reward"]
