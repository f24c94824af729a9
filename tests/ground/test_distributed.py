"""Trainings by two processes: what one process gives, one folder, and one message."""

import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import distributed_cases
from icm_fast import InputError, SearchConfig, distributed, search
from icm_fast.cli import run
from icm_fast.model.adapters import merge_adapter
from icm_fast.training.rl import PolicyConfig
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - in force by its import
from two_processes import ENVIRONMENT, free_port, run_two

LAUNCH = "accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no"
SETTINGS = ("--set", "epochs=1", "--set", "batch_size=3", "--set", "dtype=float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the trainings of `distributed_cases` left, run once by two processes."""
    folder = tmp_path_factory.mktemp("two")
    words = [*LAUNCH.split(), "--dynamo_backend", "no", "--num_processes", "2"]
    words += ["--main_process_port", free_port(), distributed_cases.__file__, str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "found-0.json").read_text())


@pytest.fixture(scope="module")
def alone():
    """The same trainings by this process."""
    with distributed_cases.gradient_norms() as norms:
        trained = {
            "tuned": distributed_cases.tune(),
            "full": distributed_cases.tune(method="full"),
            "reward": distributed_cases.judge(),
            "dpo": distributed_cases.prefer(),
        }
    return trained | {"resumed": trained["tuned"]}, norms


def test_every_process_finds_the_same(folder, found):
    other = json.loads((folder / "found-1.json").read_text())
    assert (found.pop("rank"), other.pop("rank")) == (0, 1)
    assert other == found


@pytest.mark.parametrize("name", ["tuned", "full", "reward", "dpo", "resumed"])
def test_two_processes_train_as_one_does(name, folder, found, alone):
    """Also with batches that do not divide, and one that leaves a process without a row."""
    trained = alone[0][name]
    assert found[name] == pytest.approx(trained.losses, abs=1e-5)
    model = trained.model.network if name == "reward" else trained.model.model
    expected = distributed_cases.weights(model)
    for rank in (0, 1):
        made = load_file(folder / f"{name}-{rank}.safetensors")
        for key, value in expected.items():
            assert torch.allclose(made[key], value, rtol=0, atol=1e-6), key
    before = tiny_loaded("llama").model.state_dict()
    changed = [(expected[key] - before[key]).abs().max() for key in expected if key in before]
    assert max(changed) > 1e-3  # so that the tolerance above says something


def test_what_is_held_out_is_measured_as_by_one_process(found, alone):
    best_step, best_loss = found["dpo best"]
    assert best_step == alone[0]["dpo"].best_step
    assert best_loss == pytest.approx(alone[0]["dpo"].best_loss, abs=1e-5)


def test_gradients_are_those_of_one_process(found, alone):
    """Adam would hide a wrong factor."""
    assert found["norms"] == pytest.approx(alone[1], rel=1e-4)
    assert found["averaged"] == [[1.5, 1.5], [2.0, 2.0], None]


def test_a_stopped_training_resumes(folder, found):
    assert found["started"] == ["checkpoint-2", "checkpoint-4"]
    assert found["resumed"] == found["tuned"]
    assert (folder / "resumed/adapter/adapter_model.safetensors").read_bytes() == (
        folder / "tuned/adapter/adapter_model.safetensors"
    ).read_bytes()


def test_stopped_trainings_on_pairs_resume_to_the_same_bits(folder, found):
    """With accumulation, in the chat template."""
    assert all("checkpoint-2" in left for left in found["started pairs"])
    for kind in ("reward", "dpo"):
        resumed, whole = found[f"{kind} resumed"]
        assert resumed == whole
        names = (f"{kind}-resumed", f"{kind}-whole")
        weights = [folder / name / "adapter/adapter_model.safetensors" for name in names]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_policy_is_trained_by_two_processes(folder, found):
    assert [step["step"] for step in found["steps"]] == [1, 2, 3]
    assert all(math.isfinite(step["loss"]) for step in found["steps"])
    assert [one["step"] for one in found["measurements"]] == [0, 2, 3]
    assert [sample["step"] for sample in found["samples"]] == [0] * 4 + [1] * 4 + [2] * 4
    assert found["policy again"] == found["policy"] != tiny_loaded("llama").fingerprint
    left = {path.name for path in (folder / "policy").iterdir()}
    made = {"adapter", "history.json", "samples.jsonl", "steps.jsonl"}
    assert left == {".lock", "tuning.json", *made}
    history = json.loads((folder / "policy/history.json").read_text())
    assert history["steps"] == found["steps"]


def test_a_stopped_policy_of_two_processes_resumes_to_the_same_bits(folder, found):
    """With accumulation, in the chat template, between updates that share continuations."""
    assert found["chatted left"] == ["checkpoint-2"]
    assert [step["step"] for step in found["chatted"][0]] == [1, 2, 3, 4]
    assert found["chatted on"] == found["chatted"]
    for name in ("adapter/adapter_model.safetensors", "history.json", "steps.jsonl"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "chatted" / name).read_bytes()


def test_what_two_processes_wrote_can_be_read(folder, found):
    merged = merge_adapter(tiny_loaded("llama"), folder / "policy/adapter", "policy")
    assert merged.fingerprint == found["policy"]
    for record in ("tuned/tuning.json", "reward/reward.json", "policy/tuning.json"):
        assert json.loads((folder / record).read_text())["n_processes"] == 2
    assert (folder / "pool/pool.jsonl").read_text().count("\n") == len(distributed_cases.PAIRS)


def test_every_process_gets_the_errors(found):
    assert "holds a different fine-tuning: rank is 8 there and 2 here" in found["other"]
    assert "disagree on settings, data or model" in found["unlike"]
    assert "lower learning_rate (10.0)" in found["diverged"]
    assert (
        "21 episodes of a step do not divide among 2 processes; set batch_size to 8"
        in (found["indivisible"])
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose model has been tuned on the command line, by one process."""
    folder = tmp_path_factory.mktemp("run")
    loaded = tiny_loaded("llama")
    loaded.model.save_pretrained(folder / "tiny")
    loaded.tokenizer.save_pretrained(folder / "tiny")
    config = SearchConfig(dtype="float32", max_evaluations=2)
    search(reviews(), model=str(folder / "tiny"), config=config, output_dir=folder / "run")
    assert run(["train", "sft", str(folder / "run"), *SETTINGS]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "rank=2"), "rank is 8 there and 2 here"),  # seen by the main process
        (("--sett", "rank=2"), "No such option"),  # seen by each
    ],
)
def test_bad_input_ends_every_process_with_2_and_one_line(words, message, finished):
    ended = run_two("-m", "icm_fast", "train", "sft", str(finished), *SETTINGS, *words, timeout=60)
    said = "".join(ended.said)
    assert ended.codes == [2, 2]
    assert said.count("icm-fast: ") == 1
    assert message in said


def test_one_process_does_nothing_here():
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.on_main(lambda: {"a": 1}) == {"a": 1}
    assert distributed.summed([1.5]) == [1.5]
    distributed.start()
    distributed.barrier()
    assert not torch.distributed.is_initialized()
    code = (
        "import sys; from icm_fast import distributed as d; d.start(); d.barrier(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unsupported_launchers_are_refused(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="DeepSpeed is not supported; launch with FSDP"):
        distributed.start()


def test_episodes_are_of_all_processes_together():
    config = PolicyConfig(batch_size=8, group_size=4, micro_batch_size=8)
    assert [config.n_passes_of(n) for n in (1, 2, 4)] == [4, 2, 1]
    assert config.n_episodes_of(4) == 8
    with pytest.raises(InputError, match=r"32 episodes .* 3 processes; set batch_size to 9"):
        config.n_episodes_of(3)
