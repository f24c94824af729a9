"""A model whose weights are not all there is refused, in every format that can be loaded."""

import json
import shutil

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_gguf import tiny_gguf, write_gguf  # noqa: F401 - a fixture
from transformers import AutoConfig

from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.model.adapters import foreign_code, merge_adapter
from icm_fast.model.pretrained import check_quantisation
from icm_fast.training.reward.network import load_network, reward_network
from tiny_models import (
    FAMILIES,
    byte_tokenizer,
    one_thread,  # noqa: F401 - in force by its import
    tiny_loaded,
    tiny_model,
)


def saved(folder, model, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def edit(folder, change, file="model.safetensors"):
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})


def refused(spec):
    with pytest.raises(InputError) as caught:
        load_model(spec, dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_folder_is_needed(family, tmp_path):
    folder = saved(tmp_path, tiny_model(family))
    names = sorted(load_file(folder / "model.safetensors"))
    whole = (folder / "model.safetensors").read_bytes()
    for name in names[:: max(1, len(names) // 5)]:
        edit(folder, lambda weights, name=name: weights.pop(name))
        assert "are incomplete: no " in refused(folder)
        (folder / "model.safetensors").write_bytes(whole)


def test_an_untied_head_is_needed_and_a_tied_one_is_not(tmp_path):
    untied = saved(tmp_path / "untied", tiny_model("llama"))
    edit(untied, lambda weights: weights.pop("lm_head.weight"))
    assert f"model {untied} are incomplete: no lm_head.weight; download" in refused(untied)
    tied = saved(tmp_path / "tied", tiny_model("llama", tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_model(tied, dtype="float32", device="cpu")
    edit(tied, lambda weights: weights.pop("model.embed_tokens.weight"))
    assert "no lm_head.weight, model.embed_tokens.weight; download" in refused(tied)


def test_weights_of_another_size_are_named(tmp_path):
    folder = saved(tmp_path, tiny_model("llama"))
    edit(folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(3, 32)}))
    assert "lm_head.weight is [3, 32] in the file, but [420, 32] by" in refused(folder)


def test_weights_that_nothing_reads_are_told(tmp_path):
    folder = saved(tmp_path, tiny_model("llama"))
    edit(folder, lambda weights: weights.update({"mtp.weight": torch.zeros(3)}))
    with pytest.warns(UserWarning, match=r"holds weights that mtp\.weight names"):
        load_model(folder, dtype="float32", device="cpu")


def test_a_missing_shard(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    byte_tokenizer().save_pretrained(tmp_path)
    load_model(tmp_path, dtype="float32", device="cpu")
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    assert "cannot load model" in refused(tmp_path)


def test_a_gguf_file_that_lacks_a_tensor_is_refused_and_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "cache"))
    path, add = tmp_path / "cut.gguf", gguf.GGUFWriter.add_tensor

    def all_but_one(self, name, *args, **kwargs):
        if name != "blk.1.ffn_up.weight":
            add(self, name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", all_but_one)
        write_gguf(path, tiny_model("llama"), byte_tokenizer())
    for _ in range(2):
        assert "model.layers.1.mlp.up_proj.weight" in refused(path)
        assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "removed", "tokenizer", "empty record", "other bytes"])
def test_a_damaged_entry_of_the_cache_is_made_anew(damage, tmp_path, monkeypatch, tiny_gguf):  # noqa: F811
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path))
    good = load_model(tiny_gguf, dtype="float32", device="cpu")
    (entry,) = (tmp_path / "models").iterdir()
    weights = entry / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "removed":
        weights.unlink()
    elif damage == "tokenizer":
        (entry / "tokenizer.json").write_text("{}")
    elif damage == "empty record":
        (entry / "converted.json").write_text("")
    else:
        (entry / "config.json").write_bytes(b"[" + (entry / "config.json").read_bytes()[1:])
    again = load_model(tiny_gguf, dtype="float32", device="cpu")
    assert again.fingerprint == good.fingerprint
    assert [p.name for p in (tmp_path / "models").iterdir()] == [entry.name]


def test_a_reward_model_without_its_head(tmp_path):
    network = reward_network(tiny_loaded("llama"), torch.float32, share=False)
    network.save_pretrained(tmp_path)
    load_network(str(tmp_path), torch.float32, "mine")
    edit(tmp_path, lambda weights: weights.pop("score.weight"))
    with pytest.raises(InputError, match=r"model mine are incomplete: no score\.weight"):
        load_network(str(tmp_path), torch.float32, "mine")


def test_a_classifier_is_not_a_reward_model(tmp_path):
    from transformers import AutoModelForSequenceClassification

    config = tiny_model("llama").config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 3 outputs, but a reward model has 1"):
        load_network(str(tmp_path), torch.float32, "mine")


def test_a_tokenizer_with_more_words_than_the_model(tmp_path):
    folder = saved(tmp_path, tiny_model("llama", vocab_size=300))
    assert "has token ids up to 382, but the model has embeddings for 300 tokens" in refused(folder)
    assert "up to 382" in refused((tiny_model("llama", vocab_size=300), byte_tokenizer()))


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm-gpu"),
    ],
)
def test_a_quantised_format_names_its_package(method, package, tmp_path, monkeypatch):
    monkeypatch.setattr("icm_fast.model.pretrained._installed", lambda module: False)
    folder = saved(tmp_path, tiny_model("llama"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "quantization_config": method}))
    assert f"`pip install {package}" in refused(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("method", ["no-such-method", "gptq", "bitsandbytes"])
def test_no_quantised_format_ends_in_a_traceback(method, tmp_path):
    folder = saved(tmp_path, tiny_model("llama"))
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(content))
    refused(folder)


def test_a_model_without_quantisation_needs_nothing():
    check_quantisation("mine", AutoConfig.for_model("llama"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    with foreign_code():
        live = get_peft_model(tiny_model("llama"), config)
    folder = tmp_path_factory.mktemp("adapters") / "whole"
    live.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture
def own_copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "adapter")


def merge(folder):
    with pytest.raises(InputError) as caught:
        merge_adapter(tiny_loaded("llama"), folder, "tuned")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


WEIGHTS = "adapter_model.safetensors"


def test_a_whole_adapter_is_merged(adapter):
    base = tiny_loaded("llama")
    assert merge_adapter(base, adapter, "tuned").fingerprint != base.fingerprint


def test_an_adapter_without_some_of_its_weights(own_copy):
    name = sorted(load_file(own_copy / WEIGHTS))[0]
    edit(own_copy, lambda weights: weights.pop(name), WEIGHTS)
    assert f"is incomplete: no {name}; copy or save the adapter again" in merge(own_copy)


def test_an_adapter_with_weights_of_another_model(own_copy):
    def add(weights):
        weights["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(
            2, 32
        )

    edit(own_copy, add, WEIGHTS)
    assert "layers.7.self_attn.q_proj.lora_A.weight, which the model does not" in merge(own_copy)


def test_an_adapter_of_another_size(own_copy):
    name = sorted(load_file(own_copy / WEIGHTS))[0]
    edit(own_copy, lambda weights: weights.update({name: torch.zeros(2, 99)}), WEIGHTS)
    assert "cannot merge the adapter" in merge(own_copy)


def test_target_modules_that_do_not_exist(own_copy):
    change_config(own_copy, target_modules=["q_proj", "up_proj", "no_such"])
    assert "adapts 'no_such', which the model does not have" in merge(own_copy)
    change_config(own_copy, target_modules=["no_such"])
    assert "cannot merge the adapter" in merge(own_copy)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "XLORA", "POLY", "os", None, 3])
def test_other_kinds_of_adapters(own_copy, kind):
    change_config(own_copy, peft_type=kind)
    assert "can be merged" in merge(own_copy)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_mapping": {"base_model_class": "X", "parent_library": "antigravity"}},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models/../x"}},
        {"auto_mapping": "antigravity"},
        {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {"megatron_core": "antigravity"},
        {"custom_modules": {"a": "b"}},
        {"auto_map": {"AutoModel": "evil.Model"}},
    ],
)
def test_adapters_that_name_code(own_copy, change):
    change_config(own_copy, **change)
    assert "names code in" in merge(own_copy)


def test_adapters_that_name_a_class_of_transformers(own_copy):
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
    }
    change_config(own_copy, auto_mapping=mapping)
    assert merge_adapter(tiny_loaded("llama"), own_copy, "tuned").name == "tuned"


def wider_tokenizer(n=60):
    import copy

    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.add_tokens([f"<new{i}>" for i in range(n)])
    return tokenizer


def test_an_adapter_with_its_own_tokenizer_and_embeddings(tmp_path):
    from peft import LoraConfig, get_peft_model

    base, model, tokenizer = tiny_loaded("llama"), tiny_model("llama"), wider_tokenizer()
    before = base.fingerprint
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with foreign_code():
        live = get_peft_model(model, config)
    live.save_pretrained(tmp_path, save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = merge_adapter(base, tmp_path, "tuned")
    ids = loaded.tokenizer("dull <new55>", return_tensors="pt")["input_ids"]
    assert ids[0, -1] == tokenizer.convert_tokens_to_ids("<new55>")
    with torch.inference_mode():
        expected = live.merge_and_unload()(input_ids=ids).logits
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)
    from icm_fast.model.loaded import fingerprint_model

    assert fingerprint_model(base.model) == before


def test_an_adapter_that_trained_the_whole_head(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = tiny_loaded("llama")
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with foreign_code():
        live = get_peft_model(tiny_model("llama"), config)
    torch.nn.init.normal_(live.base_model.model.lm_head.modules_to_save.default.weight)
    live.save_pretrained(tmp_path)
    loaded = merge_adapter(base, tmp_path, "tuned")
    ids = torch.tensor([[5, 77, 300]])
    with torch.inference_mode():
        expected = live(input_ids=ids).logits
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)


def test_an_adapter_whose_tokenizer_the_embeddings_do_not_know(own_copy):
    wider_tokenizer().save_pretrained(own_copy)
    assert "token ids up to 442, but the model has embeddings for 420" in merge(own_copy)


def test_an_adapter_on_the_hub_is_checked_like_a_folder(own_copy, tmp_path, monkeypatch):
    base = saved(tmp_path / "base", tiny_model("llama"))
    change_config(own_copy, base_model_name_or_path=str(base))
    there = str(own_copy / "adapter_config.json")
    monkeypatch.setattr("transformers.utils.hub.cached_file", lambda *_, **__: there)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(own_copy))
    loaded = load_model("somebody/adapter", dtype="float32", device="cpu")
    assert loaded.name == "somebody/adapter"
    assert loaded.fingerprint != load_model(base, dtype="float32", device="cpu").fingerprint
    change_config(own_copy, megatron_core="antigravity")
    assert "names code in megatron_core" in refused("somebody/adapter")


def test_an_adapter_with_the_folder_of_a_whole_model_in_it(own_copy, tmp_path):
    base = saved(tmp_path / "base", tiny_model("llama"))
    saved(own_copy, tiny_model("llama"))
    change_config(own_copy, base_model_name_or_path=str(base))
    assert load_model(own_copy, dtype="float32", device="cpu").name == str(own_copy)


def test_a_text_with_a_token_that_has_no_embedding():
    from icm_fast.config import SearchConfig
    from icm_fast.scoring.factory import make_scorer
    from icm_fast.types import Dataset, Example, LabelSpace

    loaded = load_model((tiny_model("llama"), wider_tokenizer()))
    examples = tuple(Example(f"r{i}", f"dull <new55> {i}\nSentiment:") for i in range(3))
    dataset = Dataset(examples, LabelSpace((" positive", " negative")), name="images")
    with pytest.raises(InputError, match="a text contains '<new55>', for which the model"):
        make_scorer(loaded, dataset, SearchConfig())
