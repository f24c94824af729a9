import json
import os
import shutil

import pytest
import torch
from transformers import AutoConfig, T5ForConditionalGeneration

from icm_fast.errors import InputError
from icm_fast.model import load as load_module
from icm_fast.model import load_model
from icm_fast.model.hardware import available_bytes, describe_cpu, fast_bfloat16
from icm_fast.model.load import pick_device, pick_dtype
from icm_fast.model.loaded import fingerprint_model
from tiny_models import (
    FAMILIES,
    byte_tokenizer,
    one_thread,  # noqa: F401
    tiny_loaded,
    tiny_model,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama").save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def input_error(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        load_model(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_local_folder(folder):
    loaded = load_model(folder, dtype="float32", device="cpu")
    pair = tiny_loaded("llama")
    assert loaded.name == str(folder)
    assert loaded.fingerprint == pair.fingerprint
    assert loaded.dtype_name == "float32"
    assert loaded.max_context == 512
    assert loaded.n_parameters == sum(p.numel() for p in pair.model.parameters())
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_folder_under_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/tiny", dtype="float32").n_parameters > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_of_every_family(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32", device="cpu")
    assert loaded.fingerprint == tiny_loaded(family).fingerprint


def test_dtype_is_applied(folder):
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.dtype_name == "bfloat16"
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.fingerprint != tiny_loaded("llama").fingerprint


def test_fingerprint_counts_every_weight():
    model = tiny_model("llama")
    before = fingerprint_model(model)
    assert before == fingerprint_model(tiny_model("llama"))
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        flat = weight.view(-1)
        kept = flat[101:133].clone()
        flat[101:133] += 0.5  # one block of a quantised file
        assert fingerprint_model(model) != before
        flat[101:133] = kept
        assert fingerprint_model(model) == before
        flat[777] = torch.nextafter(flat[777], torch.tensor(9.0))
    assert fingerprint_model(model) != before


def test_fingerprint_does_not_depend_on_threads():
    model = tiny_model("qwen2")
    before = fingerprint_model(model)
    torch.set_num_threads(2)
    assert fingerprint_model(model) == before


def test_model_that_trains_is_set_to_evaluation():
    model = tiny_model("llama").train()
    assert not load_model((model, byte_tokenizer())).model.training


def test_server_address():
    assert "is a server address" in input_error("http://localhost:8000/v1")


def test_missing_folder_and_file(tmp_path):
    assert "model folder /no/such does not exist" in input_error("/no/such")
    assert "model folder ./no-such does not exist" in input_error("./no-such")
    missing = str(tmp_path / "x.gguf")
    assert f"model file {missing} does not exist" in input_error(missing)
    (tmp_path / "weights.bin").write_bytes(b"1")
    assert "is a file but not a .gguf" in input_error(tmp_path / "weights.bin")


def test_unknown_hub_id_names_the_embedded_models(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = input_error("nobody/no-such-model")
    assert "cannot load model 'nobody/no-such-model'" in message
    assert "gemma3-270m, smollm2" in message


def test_folder_without_a_model(tmp_path):
    assert "cannot load model" in input_error(tmp_path)


def copied(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_broken_configuration(folder, tmp_path):
    (copied(folder, tmp_path) / "config.json").write_text("{")
    assert "cannot load model" in input_error(tmp_path)


def test_unknown_architecture(folder, tmp_path):
    (copied(folder, tmp_path) / "config.json").write_text('{"model_type": "no_such_type"}')
    assert "cannot load model" in input_error(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
def test_broken_weights(folder, tmp_path, content):
    (copied(folder, tmp_path) / "model.safetensors").write_bytes(content)
    assert "cannot load model" in input_error(tmp_path)


def test_cut_weights(folder, tmp_path):
    path = copied(folder, tmp_path) / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    assert "cannot load model" in input_error(tmp_path)


def test_missing_weights(folder, tmp_path):
    (copied(folder, tmp_path) / "model.safetensors").unlink()
    assert "cannot load model" in input_error(tmp_path)


def test_encoder_decoder_is_refused(folder, tmp_path):
    config = AutoConfig.for_model(
        "t5", vocab_size=420, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    copied(folder, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert "is an encoder-decoder (t5)" in input_error(tmp_path)
    pair = (T5ForConditionalGeneration(config), byte_tokenizer())
    assert "is an encoder-decoder (t5)" in input_error(pair)


@pytest.mark.parametrize("pair", [("model", "tokenizer"), (1,), ()])
def test_wrong_pair(pair):
    assert "must be (transformers model, tokenizer)" in input_error(pair)


def test_swapped_pair():
    message = input_error((byte_tokenizer(), tiny_model("llama")))
    assert "LlamaForCausalLM)" in message


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="unknown device 'gpu9'"):
        pick_device("gpu9")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1").index == 1
    assert pick_device("cuda").index is None
    with pytest.raises(InputError, match=r"'cuda:2', but torch sees only 2 GPUs; use cuda:1"):
        pick_device("cuda:2")


def test_a_model_too_large_for_its_device(tmp_path, monkeypatch):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)

    def no_room(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(model), "to", no_room)
    size = sum(p.nbytes for p in model.parameters())
    message = f"needs {size:,} bytes and does not fit in the memory of cpu; use device=balanced"
    with pytest.raises(InputError, match=message):
        load_model(tmp_path, device="cpu", dtype="float32")


def test_weights_that_were_left_outside_are_refused():
    model = tiny_model("llama")
    model.lm_head.to("meta")
    with pytest.raises(InputError, match="do not fit in the devices' memory"):
        load_model((model, byte_tokenizer()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="torch sees no GPU"):
        pick_device("cuda")


def test_auto_dtype_follows_the_processor(monkeypatch):
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(load_module, "fast_bfloat16", lambda fast=fast: fast)
        assert pick_dtype("auto", torch.device("cpu")) == expected
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16


def test_hardware_is_described():
    assert isinstance(fast_bfloat16(), bool)
    assert "(" in describe_cpu()


def test_hardware_without_proc(monkeypatch):
    from icm_fast.model import hardware

    hardware.cpu_flags.cache_clear()

    def absent(*args, **kwargs):
        raise OSError

    monkeypatch.setattr("pathlib.Path.read_text", absent)
    assert hardware.cpu_flags() == frozenset()
    assert "no vector extensions found" in describe_cpu()
    assert hardware.available_bytes() > 2**60
    hardware.cpu_flags.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("MemTotal: 9 kB\nMemAvailable:    123 kB\n", 123 * 1024), ("MemTotal: 9 kB\n", 2**62)],
)
def test_available_memory(monkeypatch, text, expected):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *args, **kwargs: text)
    assert available_bytes() == expected


def test_this_machine_has_memory():
    assert available_bytes() > 0


def test_gemma2_keeps_its_cap_on_attention():
    """Torch's attention ignores it, and transformers before 5.23 chose that for Gemma 2."""
    ids = torch.arange(3, 43)[None]
    model = tiny_model("gemma2")
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        model.config._attn_implementation_internal = "sdpa"  # which 5.23 refuses to run
        loaded = load_model((model, byte_tokenizer()))
        assert torch.equal(loaded.model(input_ids=ids).logits, expected)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("config.json", '"pad_token_id": 0', '"pad_token_id": "0"'),
        ("config.json", '"max_position_embeddings": 512', '"max_position_embeddings": 1e9'),
        ("config.json", '"num_attention_heads": 4', '"num_attention_heads": 5'),
        ("tokenizer.json", '"id": 0', '"id": 1e400'),
        ("tokenizer.json", '"type": "BPE"', '"type": "XPE"'),
    ],
)
def test_damaged_json_of_a_model_is_one_line(folder, tmp_path, file, before, after):
    # Found by fuzzing: huggingface_hub and tokenizers have errors of their own, the latter
    # Exception itself.
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    text = (damaged / file).read_text()
    assert before in text
    (damaged / file).write_text(text.replace(before, after, 1))
    assert f"cannot load model '{damaged}'" in input_error(damaged, device="cpu")


@pytest.mark.parametrize(
    "name", ["x" * 300, "./" + "x" * 300, "a/" * 3000, "x\0y", "x" * 300 + ".gguf"]
)
def test_a_name_that_no_file_can_have_is_one_line(name):
    # Found by fuzzing, as the base that an adapter names.
    for load in (load_model, load_module.check_model_name):
        with pytest.raises(InputError, match="is not a name that a file can have") as caught:
            load(name)
        assert len(str(caught.value)) < 400


def test_an_adapter_that_names_no_possible_base_is_one_line(tmp_path):
    content = {"peft_type": "LORA", "base_model_name_or_path": "../" + "x" * 300}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "is not a name that a file can have" in input_error(tmp_path, device="cpu")
