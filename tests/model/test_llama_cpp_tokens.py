"""SmolLM2 from its GGUF reads digits after blanks as llama.cpp does.

The ids are recorded; where the wheel xllamacpp is installed, llama.cpp itself is asked, too.
"""

import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from icm_fast.assets.locate import embedded_model

pytestmark = pytest.mark.model

HERE = Path(__file__).resolve().parent
RECORDED = json.loads(
    (HERE.parent / "golden" / "llama_cpp_tokens.json").read_text(encoding="utf-8")
)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_ten_texts_have_the_recorded_tokens(smollm2):
    assert len(RECORDED["texts"]) == 10
    for row in RECORDED["texts"]:
        assert ids_of(smollm2.tokenizer, row["text"]) == row["ids"], row["text"]


def test_the_texts_tell_the_rule_from_gpt2_s(smollm2):
    from icm_fast.model import load_model

    other = load_model("smollm2", dtype="float32", device="cpu").tokenizer
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    wrong = [row for row in RECORDED["texts"] if ids_of(other, row["text"]) != row["ids"]]
    assert len(wrong) >= 5


def test_the_file_is_the_recorded_one():
    content = Path(embedded_model("smollm2")).read_bytes()
    assert hashlib.sha256(content).hexdigest() == RECORDED["sha256"]


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="pip install xllamacpp")
def test_llama_cpp_itself_says_so(tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([row["text"] for row in RECORDED["texts"]]))
    script = [str(HERE / "llama_cpp_tokens.py"), str(embedded_model("smollm2")), str(texts)]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == RECORDED["texts"]
