"""No code comes from a model: not by a prompt on stdin, not by trust that travels."""

import ast
import io
import json
from pathlib import Path

import pytest
import torch

from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.model.adapters import foreign_code, merge_adapter
from icm_fast.training.reward.network import load_network, reward_network
from tiny_models import byte_tokenizer, one_thread, tiny_loaded, tiny_model  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for room in ("python", "kernels", "benchmarks")
    for path in (REPOSITORY / room).rglob("*.py")
)
LOADS = {"from_pretrained", "pipeline", "AutoPeftModelForCausalLM"}

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


def open_loads(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            trust = {keyword.arg for keyword in node.keywords}
            if name in LOADS and "trust_remote_code" not in trust:
                yield node.lineno


def test_every_load_says_whether_it_trusts():
    found = [f"{p}:{line}" for p in SOURCES for line in open_loads(p.read_text(encoding="utf-8"))]
    assert found == []
    assert list(open_loads("AutoConfig.from_pretrained(x)\nf(trust_remote_code=False)")) == [1]


def test_nothing_in_the_package_trusts_by_itself():
    trusting = [
        f"{path}:{node.value.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and isinstance(node.value, ast.Constant)
        and node.value.value is not False
    ]
    assert trusting == []


@pytest.fixture
def yes(monkeypatch):
    """Answers y to every question, and fails where one is asked."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))


@pytest.fixture
def evil(tmp_path):
    """A folder whose configuration, model and tokenizer name its own code."""
    folder = tmp_path / "evil"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "code.py").write_text(EVIL.format(mark=str(tmp_path / "ran")))
    names = {
        "AutoConfig": "code.Config",
        "AutoModelForCausalLM": "code.Model",
        "AutoModelForSequenceClassification": "code.Model",
        "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"],
    }
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        content["auto_map"] = names
        if file == "config.json":
            content["model_type"] = "evil"
        (folder / file).write_text(json.dumps(content))
    return folder


def test_a_folder_with_code(evil, yes):
    with pytest.raises(InputError, match="cannot load model"):
        load_model(evil, device="cpu")
    assert not (evil.parent / "ran").exists()


def test_a_reward_model_with_code(evil, yes):
    with pytest.raises(ValueError, match="code"):
        load_network(str(evil), torch.float32, "mine")
    assert not (evil.parent / "ran").exists()


def adapter_on(folder, base):
    from peft import LoraConfig, get_peft_model

    with foreign_code():
        live = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    live.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": str(base)}))
    return folder


@pytest.mark.parametrize("trust", [False, True])
def test_trust_does_not_travel_from_an_adapter(evil, yes, tmp_path, trust):
    adapter = adapter_on(tmp_path / "adapter", evil)
    with pytest.raises(InputError, match=r"the base of the adapter .* is missing"):
        load_model(adapter, device="cpu", trust_remote_code=trust)
    assert not (evil.parent / "ran").exists()


def test_an_adapter_whose_tokenizer_has_code(evil, yes, tmp_path):
    adapter = adapter_on(tmp_path / "adapter", "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "code.py"):
        (adapter / name).write_bytes((evil / name).read_bytes())
    content = json.loads((adapter / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(
        json.dumps({**content, "tokenizer_class": "Tokenizer"})
    )
    try:
        merge_adapter(tiny_loaded("llama"), adapter, "tuned")
    except InputError as error:
        assert "cannot read the tokenizer" in str(error)  # noqa: PT017 - either is right
    assert not (evil.parent / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_that_names_a_kernel_of_the_hub(tmp_path, key):
    tiny_model("llama").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "somebody/attention"}))
    with pytest.raises(InputError, match="'somebody/attention', which is code from the hub"):
        load_model(tmp_path, device="cpu")


def test_code_of_another_repository_is_not_covered_by_trust(evil, yes):
    path = evil / "config.json"
    content = json.loads(path.read_text())
    content["auto_map"]["AutoModelForCausalLM"] = "somebody/else--code.Model"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"somebody/else--code\.Model"):
        load_model(evil, device="cpu", trust_remote_code=True)


def test_the_reward_network_of_a_base_runs_no_code():
    assert reward_network(tiny_loaded("llama"), torch.float32, share=True).score.weight.sum() == 0


def test_an_adapter_configuration_that_is_not_utf_8_is_one_line(tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(b'{"peft_type": "\xa1"}')
    with pytest.raises(InputError, match=r"adapter_config\.json is corrupt") as caught:
        load_model(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
