"""Interrupted fine-tunings go on; folders of other ones are refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from icm_fast import InputError
from icm_fast.model import load_model
from icm_fast.training.folder import TuningFolder
from icm_fast.training.sft import TuningConfig, fine_tune
from icm_fast.training.sft import train as train_module
from listeners import Listener
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - in force by its import

LABELS = np.array([0, 1, -1, 0, 1, -1, 1, 0], np.int32)
CONFIG = TuningConfig(
    epochs=10,
    batch_size=3,
    micro_batch_size=2,
    learning_rate=0.01,
    lora_dropout=0.2,
    save_steps=3,
    dtype="float32",
)

# Trains as `tune` below does; slowly, so that it can be killed between two steps.
SCRIPT = """
import sys, time
import torch
from listeners import Listener
from test_tuning_folder import tune
torch.set_num_threads(1)

def progress(step):
    print(step.done, flush=True)
    time.sleep(0.02)

tune(sys.argv[1], Listener(progress), sys.argv[2])
"""


def tune(folder, progress=None, method="lora", **changes):
    config = TuningConfig(**{**CONFIG.to_dict(), "method": method, **changes})
    return fine_tune(
        reviews(),
        LABELS,
        model=tiny_loaded("llama"),
        config=config,
        output_dir=folder,
        progress=progress,
    )


def weights(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*/*.safetensors")}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_in_the_middle_it_ends_with_the_same_bits(method, tmp_path):
    whole = tune(tmp_path / "whole", method=method)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed), method],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    for line in process.stdout:
        if int(line) >= 11:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "losses" not in json.loads((killed / "tuning.json").read_text())
    (killed / "checkpoints" / "checkpoint-999").mkdir()  # torn: it bears no mark
    shown = Listener()
    finished = tune(killed, shown, method)
    seen = shown.done
    assert 4 <= seen[0] <= 12
    assert seen == list(range(seen[0], 21))
    assert finished.losses == whole.losses
    assert finished.model.fingerprint == whole.model.fingerprint
    assert weights(killed) == weights(tmp_path / "whole") != {}
    assert finished.seconds > 0


def interrupt_at(step):
    def progress(now):
        if now.done == step:
            raise KeyboardInterrupt

    return Listener(progress)


@pytest.mark.parametrize("step", [3, 20])
def test_interrupted_at_any_step_it_ends_with_the_same_bits(step, tmp_path):
    whole = tune(None)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, interrupt_at(step))
    assert tune(tmp_path).model.fingerprint == whole.model.fingerprint


def test_killed_before_the_result_was_recorded(tmp_path, monkeypatch):
    def killed(self, result):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TuningFolder, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(tmp_path)
    assert (tmp_path / "adapter").is_dir()
    with pytest.raises(InputError, match="is not finished"):
        load_model(str(tmp_path))
    shown = Listener()
    finished = tune(tmp_path, shown)
    assert shown.states == []
    assert finished.model.fingerprint == tune(None).model.fingerprint


def test_no_checkpoint_holds_a_pickle_that_is_read(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, interrupt_at(7))
    checkpoint = tmp_path / "checkpoints" / "checkpoint-6"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    real, how = torch.load, []

    def load(*arguments, **options):
        how.append(options["weights_only"])
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    tune(tmp_path)
    assert how
    assert all(how)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rank": 4}, "rank is 8 there and 4 here; choose another output folder"),
        ({"rank": 4, "seed": 3}, r"rank is 8 there and 4 here \(also different: seed\)"),
    ],
)
def test_other_settings_are_refused(changes, text, tmp_path):
    tune(tmp_path, epochs=1)
    with pytest.raises(InputError, match=f"different fine-tuning: {text}"):
        tune(tmp_path, epochs=1, **changes)


def test_other_labels_and_other_models_are_refused(tmp_path):
    tune(tmp_path, epochs=1)
    config = TuningConfig(**{**CONFIG.to_dict(), "epochs": 1})
    with pytest.raises(InputError, match="data_digest is"):
        fine_tune(
            reviews(),
            np.where(LABELS < 0, LABELS, 1 - LABELS),
            model=tiny_loaded("llama"),
            config=config,
            output_dir=tmp_path,
        )
    other = tiny_loaded("qwen2")
    with pytest.raises(InputError, match="model_fingerprint is"):
        fine_tune(reviews(), LABELS, model=other, config=config, output_dir=tmp_path)


def test_damaged_folders_are_refused(tmp_path):
    tune(tmp_path / "t", epochs=1)
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "t", damaged)
    (damaged / "adapter" / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot merge the adapter"):
        tune(damaged, epochs=1)
    (damaged / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        tune(damaged, epochs=1)
    (damaged / "tuning.json").write_text("[]")
    with pytest.raises(InputError, match=r"tuning\.json: a list of 0 is not an object"):
        tune(damaged, epochs=1)


def test_an_adapter_without_its_base_names_it(tmp_path):
    loaded = tiny_loaded("llama")
    base = tmp_path / "base"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save_pretrained(base)
    folder = tmp_path / "tuned"
    fine_tune(
        reviews(),
        LABELS,
        model=load_model(str(base), dtype="float32"),
        config=TuningConfig(epochs=1),
        output_dir=folder,
    )
    assert load_model(str(folder / "adapter"), dtype="float32").name == str(folder / "adapter")
    assert load_model(str(folder), dtype="bfloat16").dtype_name == "bfloat16"
    tiny_loaded("llama", initializer_range=0.3).model.save_pretrained(base)
    with pytest.raises(InputError, match="was trained on other weights than"):
        load_model(str(folder), dtype="float32")
    shutil.rmtree(base)
    with pytest.raises(
        InputError, match=r"base of the adapter .* is missing: .*base does not exist"
    ):
        load_model(str(folder))
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="does not name the base model"):
        load_model(str(folder / "adapter"))


def test_a_folder_in_use_is_refused(tmp_path):
    def progress(*_):
        with pytest.raises(InputError, match="is being written by another process"):
            tune(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, Listener(progress))


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    began = time.monotonic()
    with pytest.raises(InputError, match="cannot write"):
        tune(tmp_path / "file")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_merge_that_fails_costs_no_training(method, tmp_path, monkeypatch):
    whole = tune(None, method=method)

    def no_memory(*_):
        raise MemoryError

    if method == "lora":
        with monkeypatch.context() as patched:
            patched.setattr(train_module, "merge_adapter", no_memory)
            for _ in range(2):
                with pytest.raises(MemoryError):
                    tune(tmp_path, method=method)
    else:
        tune(tmp_path, method=method)
    shown = Listener()
    merged = tune(tmp_path, shown, method)
    assert shown.states == []
    assert merged.model.fingerprint == whole.model.fingerprint
    assert merged.losses == whole.losses
    assert not (tmp_path / "checkpoints").exists()
