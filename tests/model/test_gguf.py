import json

import gguf
import numpy as np
import pytest
import torch

from icm_fast.errors import InputError
from icm_fast.model import gguf as conversion
from icm_fast.model import load_model
from tiny_models import byte_tokenizer, one_thread, tiny_model  # noqa: F401


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ICM_FAST_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_model("llama"), byte_tokenizer())
    return path


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path, model, tokenizer):
    """The smallest Llama file that transformers reads."""
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            layer, _, part = stem.removeprefix("model.layers.").partition(".")
            stem = f"blk.{layer}.{NAMES[part]}"
        else:
            stem = NAMES[stem]
        writer.add_tensor(f"{stem}.weight", _permuted(stem, tensor, config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer, tokenizer):
    pieces = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])]
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_types([3] * 3 + [1] * (len(pieces) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)


def _permuted(stem, tensor, config):
    """GGUF stores rotary pairs adjacently, transformers half a head apart."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    n_heads = heads.get(stem.rpartition(".")[2])
    if n_heads is None:
        return tensor
    rows, columns = tensor.shape
    split = tensor.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns).contiguous()


def test_converted_model_has_the_weights_of_the_file(cache, tiny_gguf):
    loaded = load_model(tiny_gguf, dtype="float32", device="cpu")
    assert loaded.name == str(tiny_gguf)
    ids = torch.tensor([[5, 77, 300, 12, 9]])
    with torch.inference_mode():
        expected = tiny_model("llama")(input_ids=ids).logits
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)
    text = "Review: dull\nSentiment: negative\n\nReview:"
    assert loaded.tokenizer(text)["input_ids"][-8:] == byte_tokenizer()(text)["input_ids"][-8:]


def test_second_load_reuses_the_folder(cache, tiny_gguf, monkeypatch):
    folder = conversion.converted_folder(tiny_gguf)
    assert folder.parent == cache / "models"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]

    def fail(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(conversion, "_convert", fail)
    assert conversion.converted_folder(tiny_gguf) == folder


def test_another_file_gets_another_folder(cache, tiny_gguf, tmp_path, monkeypatch):
    def pretend(gguf, folder):
        (folder / "config.json").write_text(gguf.name)

    monkeypatch.setattr(conversion, "_convert", pretend)
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(tiny_gguf.read_bytes() + b"x")
    first, second = (conversion.converted_folder(p) for p in (tiny_gguf, changed))
    assert first != second
    assert (second / "config.json").read_text() == "changed.gguf"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_interrupted_conversion_leaves_nothing(cache, tiny_gguf, monkeypatch, error):
    def interrupted(gguf, folder):
        (folder / "config.json").write_text("{}")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_convert", interrupted)
        with pytest.raises(error):
            conversion.converted_folder(tiny_gguf)
    assert list((cache / "models").iterdir()) == []
    assert (conversion.converted_folder(tiny_gguf) / "model.safetensors").is_file()


def test_killed_conversion_is_not_taken_for_a_finished_one(cache, tiny_gguf):
    (cache / "models" / ".converting-x").mkdir(parents=True)
    (cache / "models" / ".converting-x" / "config.json").write_text("{}")
    assert (conversion.converted_folder(tiny_gguf) / "model.safetensors").is_file()


def test_faster_process_wins(cache, tiny_gguf, monkeypatch):
    def beaten(gguf, folder):
        (folder / "config.json").write_text("mine")
        target = next(iter(winners))
        target.mkdir()
        (target / "config.json").write_text("theirs")
        conversion._seal(target, "")

    digest = conversion._file_digest(tiny_gguf)[:24]
    winners = [cache / "models" / f"{digest}-v{conversion._FORMAT}"]
    monkeypatch.setattr(conversion, "_convert", beaten)
    folder = conversion.converted_folder(tiny_gguf)
    assert (folder / "config.json").read_text() == "theirs"
    assert len(list((cache / "models").iterdir())) == 1


def corrupt(data):
    noise = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
    return {
        "empty": b"",
        "noise": noise,
        "magic alone": data[:4],
        "cut header": data[:60],
        "cut metadata": data[:3000],
        "cut weights": data[: len(data) - 5000],
        "wrong version": data[:4] + b"\x63\0\0\0" + data[8:],
        "noise behind the header": data[:24] + noise,
    }


@pytest.mark.parametrize("damage", corrupt(b""))
def test_corrupt_file(cache, tiny_gguf, tmp_path, damage):
    path = tmp_path / "bad.gguf"
    path.write_bytes(corrupt(tiny_gguf.read_bytes())[damage])
    with pytest.raises(InputError, match=r"cannot convert .*bad\.gguf") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert list((cache / "models").iterdir()) == []


def test_cache_that_cannot_be_written(tiny_gguf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write the model cache .* set ICM_FAST_CACHE"):
        conversion.converted_folder(tiny_gguf)


def test_full_disk(cache, tiny_gguf, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(InputError, match=r"cannot write .* No space left on device; free space"):
        conversion.converted_folder(tiny_gguf)
    assert list((cache / "models").iterdir()) == []


def with_rule(path, rule):
    """The tiny file, whose tokenizer names a rule for splitting texts."""

    class Named(gguf.GGUFWriter):
        def add_tokenizer_model(self, model):
            super().add_tokenizer_model(model)
            self.add_tokenizer_pre(rule)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", Named)
        write_gguf(path, tiny_model("llama"), byte_tokenizer())
    return path


@pytest.mark.parametrize("rule", ["smollm", "starcoder", "command-r"])
def test_rules_that_make_every_digit_a_piece(cache, tmp_path, rule):
    tokenizer = load_model(with_rule(tmp_path / "named.gguf", rule)).tokenizer
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert [piece for piece, _ in split(".\n\n12")] == [".", "ĊĊ", "1", "2"]
    for text in (".\n\n12", " a 2024 b", "x12y\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_an_unknown_rule_is_told_at_every_load(cache, tmp_path):
    path = with_rule(tmp_path / "named.gguf", "some-new-rule")
    for _ in range(2):
        with pytest.warns(UserWarning, match="by the rule 'some-new-rule', which is not known"):
            conversion.converted_folder(path)


@pytest.mark.parametrize("rule", ["default", "gpt-2"])
def test_gpt2_s_own_rule_needs_no_word(cache, tmp_path, rule):
    conversion.converted_folder(with_rule(tmp_path / "named.gguf", rule))
