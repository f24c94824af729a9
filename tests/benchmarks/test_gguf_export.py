"""Weights in a GGUF file are those of the model, where llama.cpp looks for them."""

import numpy as np
import pytest
from gguf import GGUFReader, quants

from benchmarks.engines.gguf_export import gguf_file, write_gguf
from icm_fast.errors import InputError
from tiny_models import tiny_model


def read(path):
    reader = GGUFReader(path)
    tensors = {t.name: quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    return reader, tensors, kinds


def value(reader, key):
    return reader.fields[key].contents()


@pytest.mark.parametrize(
    ("family", "architecture"), [("llama", "llama"), ("qwen2", "qwen2"), ("gemma3_text", "gemma3")]
)
def test_settings_and_weights(family, architecture, tmp_path):
    model = tiny_model(family)
    write_gguf(model, "float32", tmp_path / "m.gguf")
    reader, tensors, kinds = read(tmp_path / "m.gguf")
    assert value(reader, "general.architecture") == architecture
    assert value(reader, f"{architecture}.attention.head_count_kv") == 2
    assert value(reader, f"{architecture}.vocab_size") == model.config.vocab_size
    assert value(reader, "tokenizer.ggml.model") == "none"
    assert set(kinds.values()) == {"F32"}
    layer = model.base_model.layers[1]
    assert np.array_equal(
        tensors["blk.1.ffn_down.weight"], layer.mlp.down_proj.weight.detach().numpy()
    )
    gain = layer.input_layernorm.weight.detach().numpy()
    expected = gain + 1 if family == "gemma3_text" else gain
    assert np.array_equal(tensors["blk.1.attn_norm.weight"], expected)
    assert len(tensors) == len(list(model.named_parameters()))


def test_llama_rows_are_interleaved(tmp_path):
    """Rotary pairs are (i, i + half) in transformers and (2 i, 2 i + 1) in llama.cpp."""
    model = tiny_model("llama")
    write_gguf(model, "float32", tmp_path / "m.gguf")
    _, tensors, _ = read(tmp_path / "m.gguf")
    attention = model.base_model.layers[0].self_attn
    width, half = 8, 4
    for name, weight in (("q", attention.q_proj.weight), ("k", attention.k_proj.weight)):
        rows, original = tensors[f"blk.0.attn_{name}.weight"], weight.detach().numpy()
        for head in range(len(original) // width):
            for pair in range(half):
                row = head * width + 2 * pair
                assert np.array_equal(rows[row], original[head * width + pair])
                assert np.array_equal(rows[row + 1], original[head * width + pair + half])


def test_qwen_rows_stay(tmp_path):
    model = tiny_model("qwen2")
    write_gguf(model, "float32", tmp_path / "m.gguf")
    _, tensors, _ = read(tmp_path / "m.gguf")
    attention = model.base_model.layers[0].self_attn
    assert np.array_equal(tensors["blk.0.attn_q.weight"], attention.q_proj.weight.detach().numpy())
    assert np.array_equal(tensors["blk.0.attn_k.bias"], attention.k_proj.bias.detach().numpy())


def test_matrices_in_bfloat16_vectors_in_float32(tmp_path):
    model = tiny_model("llama")
    write_gguf(model, "bfloat16", tmp_path / "m.gguf")
    _, tensors, kinds = read(tmp_path / "m.gguf")
    assert kinds["blk.0.ffn_up.weight"] == kinds["token_embd.weight"] == "BF16"
    assert kinds["output_norm.weight"] == "F32"
    rounded = model.base_model.layers[0].mlp.up_proj.weight.bfloat16().float().detach().numpy()
    assert np.array_equal(tensors["blk.0.ffn_up.weight"], rounded)


def test_other_architectures_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot run model type 'gpt_neox'"):
        write_gguf(tiny_model("gpt_neox"), "float32", tmp_path / "m.gguf")


def test_file_is_written_once(model_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path))
    folder = str(model_folders["llama"])
    path = gguf_file(folder, "bfloat16")
    written = path.stat().st_mtime_ns
    assert gguf_file(folder, "bfloat16").stat().st_mtime_ns == written
    assert gguf_file(folder, "float32") != path
    assert [p for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_random_model_is_made_once(model_folders, tmp_path, monkeypatch):
    import torch

    from benchmarks.engines.random_model import random_qwen
    from icm_fast.model import load_model

    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path))
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    state = torch.get_rng_state()
    folder = random_qwen(model_folders["llama"], **small)
    assert torch.equal(torch.get_rng_state(), state)
    assert random_qwen(model_folders["llama"], **small) == folder
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    loaded = load_model(folder)
    assert loaded.model.config.model_type == "qwen2"
    assert loaded.model.config.vocab_size >= len(loaded.tokenizer)
