"""A tiny model in a folder, and an experiment on generated comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tiny_models import byte_tokenizer, tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that takes a few hundred tokens, with a chat template."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}\n{% endfor %}<|assistant|>\n"
    )
    return folder


@pytest.fixture
def definition(tmp_path: Path, tiny_folder: Path):
    """Write an experiment file with these changes; returns its path."""

    def write(**changes) -> Path:
        column = {"name": "numbers", "task": "larger-than", "n": 8, "n_test": 8}
        column["model"] = str(tiny_folder)
        content = {
            "title": "Comparisons of numbers",
            "source": "ours",
            "figure": "bars",
            "methods": ["zero-shot", "icm", "golden"],
            "suites": {"small": {"seeds": [0, 1], "columns": [column]}},
        }
        content |= changes
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
