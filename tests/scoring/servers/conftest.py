"""A tokenizer and a tiny model that reads with it, for servers of the tests."""

import pytest

from tiny_models import byte_tokenizer, tiny_loaded


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer(bos=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny():
    return tiny_loaded("llama", bos=True, max_position_embeddings=2048)
