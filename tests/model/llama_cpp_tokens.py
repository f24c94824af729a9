"""Token ids of llama.cpp for texts with digits after blanks; needs xllamacpp and nothing of ours.

    PYTHON tests/model/llama_cpp_tokens.py MODEL.gguf TEXTS.json

Prints the texts with their ids as JSON. The tests compare
them with tests/golden/llama_cpp_tokens.json.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any


def token_ids(gguf: str, texts: list[str]) -> list[list[int]]:
    """What llama.cpp makes of each text, without special tokens around it or in it."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = gguf
    settings.n_ctx = 64
    settings.n_parallel = 1
    settings.port = 0
    server = xllamacpp.Server(settings)
    return [_ask(server.listening_address, text) for text in texts]


def _ask(address: str, text: str) -> list[int]:
    content: dict[str, Any] = {"content": text, "add_special": False, "parse_special": False}
    request = urllib.request.Request(
        f"{address}/tokenize",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[int] = json.load(answer)["tokens"]
    return found


if __name__ == "__main__":
    texts = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    ids = token_ids(sys.argv[1], texts)
    print(json.dumps([{"text": t, "ids": i} for t, i in zip(texts, ids, strict=True)]))
