"""A run belongs to what its model read and how it computed, not to a name."""

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

import icm_fast
from icm_fast import InputError, SearchConfig
from icm_fast.model import load_model
from icm_fast.model.lazy import LazyModel
from icm_fast.model.stored_files import files_digest
from tiny_models import byte_tokenizer, one_thread, reviews, tiny_model  # noqa: F401

CONFIG = SearchConfig(seed=1, max_iterations=3, dtype="float32", device="cpu")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "tiny"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def search(model, folder):
    return icm_fast.search(reviews(), model=model, config=CONFIG, output_dir=folder)


def other_tokenizer(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    digits = json.loads(pre_tokenizers.Split("e", "isolated").__getstate__())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, content["pre_tokenizer"]],
    }
    path.write_text(json.dumps(content))


def other_rope(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    path.write_text(json.dumps(content))


def other_weights(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] *= 1.5
    save_file(weights, path, metadata={"format": "pt"})


CHANGES = {
    "model_tokens": other_tokenizer,
    "model_computation": other_rope,
    "model_fingerprint": other_weights,
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_finished_run_is_not_taken_for_that_of_a_changed_model(key, model, tmp_path):
    search(str(model), tmp_path / "run")
    CHANGES[key](model)
    with pytest.raises(InputError, match=f"holds a different run: {key} is"):
        search(str(model), tmp_path / "run")


@pytest.mark.parametrize("key", CHANGES)
def test_so_for_a_pair(key, model, tmp_path):
    def pair():
        loaded = load_model(model, dtype="float32", device="cpu")
        loaded.model.config.name_or_path = "tiny"
        return (loaded.model, loaded.tokenizer)

    search(pair(), tmp_path / "run")
    search(pair(), tmp_path / "run")
    CHANGES[key](model)
    with pytest.raises(InputError, match=f"holds a different run: {key} is"):
        search(pair(), tmp_path / "run")


def test_a_finished_run_of_an_unchanged_model_does_not_load_it(model, tmp_path, monkeypatch):
    search(str(model), tmp_path / "run")
    monkeypatch.setattr(LazyModel, "load", lambda self: pytest.fail("the model was loaded"))
    search(str(model), tmp_path / "run")


def test_a_model_saved_again_is_the_same(model, tmp_path):
    first = search(str(model), tmp_path / "run")
    before = files_digest(str(model))
    path = model / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "note": "again"})
    assert files_digest(str(model)) != before
    assert (search(str(model), tmp_path / "run").labels == first.labels).all()


def test_a_run_of_an_earlier_version_resumes(model, tmp_path):
    run = tmp_path / "run"
    first = search(str(model), run)
    content = yaml.safe_load((run / "config.yaml").read_text())
    new = {"model_tokens", "model_computation", "scores_format", "model_files"}
    assert new <= set(content["run"])
    content["run"] = {k: v for k, v in content["run"].items() if k not in new}
    (run / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for name in ("evaluations.bin", "summary.json"):  # the log bears the digest of the new keys
        (run / name).unlink()
    assert (search(str(model), run).labels == first.labels).all()


def test_the_same_weights_elsewhere_give_the_same_identity(model, tmp_path):
    elsewhere = shutil.copytree(model, tmp_path / "copy")
    pair = (tiny_model("llama"), byte_tokenizer())
    identities = [
        LazyModel(m, dtype="float32", device="cpu").identity() for m in (model, elsewhere, pair)
    ]
    assert identities[0] == identities[1] == identities[2]


def test_an_adapter_s_base_belongs_to_its_files(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model)})
    )
    before = files_digest(str(adapter))
    other_weights(model)
    assert files_digest(str(adapter)) != before


def test_models_without_files():
    assert files_digest("nobody/no-such-model") == ""
    assert files_digest("smollm2") != files_digest("gemma3-270m") != ""
