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


def expected_of(kind, method):
    if kind == "tuned":
        return distributed_cases.tune(method=method)
    if kind == "reward":
        return distributed_cases.judge(method=method)
    return distributed_cases.prefer(method=method, eval_fraction=0.0)


def state_of(trained):
    network = getattr(trained.model, "network", None)
    return (trained.model.model if network is None else network).state_dict()


@pytest.mark.parametrize("form", ["", "-full", "-resumed"])
@pytest.mark.parametrize("kind", ["tuned", "reward", "dpo"])
def test_a_divided_model_trains_as_a_whole_one(kind, form, folder):
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    expected = expected_of(kind, "full" if form == "-full" else "lora")
    assert found[0]["losses"][kind + form] == pytest.approx(expected.losses, abs=1e-5)
    before = distributed_cases.chat_loaded().model.state_dict()
    after = state_of(expected)
    for rank in (0, 1):
        made = load_file(folder / f"{kind}{form}-{rank}.safetensors")
        for key, value in after.items():
            assert torch.allclose(made[key], value, rtol=0, atol=2e-6), key
    changed = [float((after[key] - before[key]).abs().max()) for key in after if key in before]
    assert max(changed) > 1e-3


@pytest.mark.parametrize("kind", ["tuned", "reward", "dpo"])
def test_a_stopped_one_resumes_to_the_same_bits(kind, folder):
    found = json.loads((folder / "found-0.json").read_text())
    assert "checkpoint-2" in found["left"][kind]
    assert found["losses"][f"{kind}-resumed"] == found["losses"][kind]
    weights = [
        (folder / name / "adapter/adapter_model.safetensors").read_bytes()
        for name in (f"{kind}-resumed", kind)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("kind", ["tuned", "dpo"])
def test_the_adapter_that_was_stored_is_the_one_that_was_trained(kind, folder):
    merged = merge_adapter(distributed_cases.chat_loaded(), folder / kind / "adapter", kind)
    made = load_file(folder / f"{kind}-0.safetensors")
    assert all(torch.equal(made[k], v) for k, v in merged.model.state_dict().items())
