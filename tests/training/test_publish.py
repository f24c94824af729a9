"""Merging an adapter into a whole model, and folders for the Hub without paths of this machine."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from icm_fast import InputError
from icm_fast.cli import run
from icm_fast.model import load_model
from icm_fast.training import publish
from icm_fast.training.publish import merge, write_model_folder
from icm_fast.training.reward import Pair, RewardConfig, load_reward_model, train_reward
from icm_fast.training.sft import TuningConfig, fine_tune_texts
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - in force by its import

PAIRS = [Pair(f"Film {k}?", f"great {k}", f"dull {k}") for k in range(6)]
TEXTS = ["A fine film", "Dull", "Long, and then longer still"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of a base, of adapters and of a reward model."""
    folder = tmp_path_factory.mktemp("made")
    loaded = tiny_loaded("llama")
    loaded.model.save_pretrained(folder / "base")
    loaded.tokenizer.save_pretrained(folder / "base")
    base = load_model(str(folder / "base"), dtype="float32")
    config = TuningConfig(epochs=1, learning_rate=0.01, dtype="float32", use_dora=True)
    fine_tune_texts(TEXTS, model=base, config=config, output_dir=folder / "sft")
    full = TuningConfig(epochs=1, learning_rate=0.01, method="full")
    fine_tune_texts(TEXTS, model=base, config=full, output_dir=folder / "full")
    reward = RewardConfig(epochs=2, learning_rate=0.02, dtype="float32")
    train_reward(PAIRS, model=base, config=reward, output_dir=folder / "rm")
    return folder


def paths_in(folder):
    """Files that name a folder of this machine."""
    texts = [p for p in folder.rglob("*") if p.suffix in (".json", ".md", ".jinja", ".jsonl")]
    assert texts
    return [p.name for p in texts if "/tmp" in p.read_text() or str(folder.parent) in p.read_text()]


def test_a_merged_adapter_is_a_whole_model(made, tmp_path):
    done = merge(made / "sft", tmp_path / "whole", dtype="float32")
    assert done.difference < 1e-4
    expected = load_model(str(made / "sft"), dtype="float32")
    read = load_model(str(tmp_path / "whole"), dtype="float32")
    assert read.fingerprint == expected.fingerprint == done.fingerprint
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(plain(ids).logits, expected.model(ids).logits)
    assert "merged into base" in (tmp_path / "whole/README.md").read_text()
    assert paths_in(tmp_path / "whole") == []
    with pytest.raises(InputError, match="is not an empty folder"):
        merge(made / "sft", tmp_path / "whole")


def test_a_merged_reward_model_scores_alike(made, tmp_path):
    merge(made / "rm", tmp_path / "whole", dtype="float32")
    values = [
        load_reward_model(folder, dtype="float32").score_pairs(PAIRS)
        for folder in (made / "rm", tmp_path / "whole")
    ]
    assert np.allclose(*values, atol=1e-6)
    assert abs(values[0]).max() > 1e-3
    with pytest.raises(InputError, match="is whole already; it needs no merge"):
        merge(tmp_path / "whole", tmp_path / "again")


def test_what_cannot_be_merged_is_said(made, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no adapter; name the folder of a training"):
        merge(made / "full", tmp_path / "x")
    with pytest.raises(InputError, match="holds no adapter"):
        merge(made / "base", tmp_path / "x")
    monkeypatch.setattr(publish, "_difference", lambda *_: 0.5)
    with pytest.raises(InputError, match=r"differs from its adapter by 0.5 of the largest logit"):
        merge(made / "sft", tmp_path / "x", dtype="float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sft", "full", "rm"])
def test_a_folder_for_the_hub_has_a_card_and_no_paths(name, made, tmp_path):
    written = write_model_folder(made / name, tmp_path / "hub", license="mit")
    assert paths_in(tmp_path / "hub") == []
    assert {p.name for p in (tmp_path / "hub").iterdir()} == set(written.files)
    card = (tmp_path / "hub/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "mit"
    assert front["library_name"] == ("transformers" if name == "full" else "peft")
    assert "base_model" not in front  # a folder of this machine is no name for others
    assert "digest of the data" in card
    assert "learning_rate: 0.0" in card
    if name == "rm":
        shutil.copytree(tmp_path / "hub", tmp_path / "downloaded")
        config = tmp_path / "downloaded/adapter_config.json"
        content = json.loads(config.read_text())
        assert content["base_model_name_or_path"] == "base"
        config.write_text(json.dumps(content | {"base_model_name_or_path": str(made / "base")}))
        again = load_reward_model(tmp_path / "downloaded", dtype="float32")
        expected = load_reward_model(made / "rm", dtype="float32")
        assert again.fingerprint == expected.fingerprint
        assert front["pipeline_tag"] == "text-classification"
    write_model_folder(made / name, tmp_path / "hub")  # again over our own card
    (tmp_path / "hub/README.md").write_text("mine")
    with pytest.raises(InputError, match="was not written by an export"):
        write_model_folder(made / name, tmp_path / "hub")


def test_the_commands(made, tmp_path, capsys, monkeypatch):
    words = ["merge", str(made / "sft"), "-o", str(tmp_path / "m"), "--dtype", "float32"]
    assert run(words) == 0
    assert "Read back with the same weights" in capsys.readouterr().out
    assert run(["push", str(tmp_path / "m"), "me", "--dry-run"]) == 2
    assert "is not the name of a model on the Hub; write OWNER/NAME" in capsys.readouterr().err
    assert run(["push", str(tmp_path / "m"), "me/m", "--dry-run"]) == 0
    assert (tmp_path / "m/hub/README.md").is_file()
    calls = []
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, name, **how: calls.append((name, how)) or "https://x"
    )
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: type("Info", (), {"private": True})())
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **how: calls.append(how))
    assert run(["push", str(made / "rm"), "me/rm", "-o", str(tmp_path / "rm")]) == 0
    assert "Pushed to https://x" in capsys.readouterr().out
    assert calls[0] == ("me/rm", {"repo_type": "model", "private": True, "exist_ok": True})
    assert "adapter_model.safetensors" in calls[1]["allow_patterns"]
    assert run(["merge", str(tmp_path / "nothing"), "-o", str(tmp_path / "y")]) == 2
