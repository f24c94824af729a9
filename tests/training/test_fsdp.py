"""Trainings whose model FSDP divides among two processes of a CPU are those without it."""

import importlib.metadata
import json

import pytest
import torch
from safetensors.torch import load_file

import distributed_cases
import fsdp_cases
from icm_fast.model.adapters import merge_adapter
from policy_cases import policy
from tiny_models import one_thread  # noqa: F401 - in force by its import
from two_processes import run_two

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
    """What the trainings of `fsdp_cases` left, run by two processes with FSDP, and without it."""
    folder = tmp_path_factory.mktemp("fsdp")
    for launch in (LAUNCH, {}):
        ended = run_two(fsdp_cases.__file__, str(folder), **launch)
        assert ended.codes == [0, 0], "".join(ended.said)
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


@pytest.fixture(scope="module")
def policies(folder):
    """What the processes found of policies, with FSDP and without it."""
    found = {}
    for kind in ("divided", "whole"):
        one, other = (
            json.loads((folder / f"{kind}-policies-{rank}.json").read_text()) for rank in (0, 1)
        )
        assert one == other
        found[kind] = one
    return found


def of_samples(measured):
    """The first sample's text, and the figures."""
    figures = {name: value for name, value in measured.items() if name != "samples"}
    return measured["samples"][0]["continuation"], figures


@pytest.mark.parametrize("name", fsdp_cases.POLICIES)
def test_a_divided_policy_is_trained_as_one_that_every_process_holds(name, policies, folder):
    divided, whole = policies["divided"][name], policies["whole"][name]
    assert len(divided["steps"]) == len(whole["steps"]) > 2
    for step, expected in zip(divided["steps"], whole["steps"], strict=True):
        assert step == pytest.approx(expected, abs=1e-5), step["step"]
    for measured, expected in zip(divided["measured"], whole["measured"], strict=True):
        (written, figures), (wanted, others) = map(of_samples, (measured, expected))
        assert written == wanted
        assert figures == pytest.approx(others, rel=1e-4, abs=1e-5)
    lengths = {round(step["length"], 3) for step in divided["steps"]}
    assert len(lengths) > 1  # so that processes had to wait for one another's texts
    expected = load_file(folder / f"whole-{name}-0.safetensors")
    for rank in (0, 1):
        made = load_file(folder / f"divided-{name}-{rank}.safetensors")
        for key, value in expected.items():
            assert torch.allclose(made[key], value, rtol=0, atol=2e-6), key


def test_a_divided_policy_that_was_stopped_resumes_to_the_same_bits(policies, folder):
    """Between updates that share continuations."""
    assert policies["divided"]["left"] == ["checkpoint-2"]
    assert policies["divided"]["resumed"] == policies["divided"]["chatted"]
    for name in ("adapter/adapter_model.safetensors", "history.json", "steps.jsonl"):
        resumed = (folder / "divided-resumed" / name).read_bytes()
        assert resumed == (folder / "divided-chatted" / name).read_bytes()


def test_the_adapter_of_a_divided_policy_is_the_one_that_was_trained(folder):
    start = policy(0.5, ends=range(60, 120))
    merged = merge_adapter(start, folder / "divided-grpo/adapter", "policy")
    made = load_file(folder / "divided-grpo-0.safetensors")
    before = start.model.state_dict()
    assert all(torch.equal(made[k], v) for k, v in merged.model.state_dict().items())
    assert max(float((made[k] - before[k]).abs().max()) for k in made) > 1e-3
