"""llama.cpp's HTTP server from the wheel xllamacpp; needs nothing of ours.

    PYTHON tests/scoring/servers/llama_server.py MODEL.gguf

Prints its address, and serves until its standard input is closed.
"""

from __future__ import annotations

import sys


def main(gguf: str) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = gguf
    settings.n_ctx = 4096
    settings.n_parallel = 1
    # Threads that wait for each other spin: on a busy machine two are slower than one.
    settings.cpuparams.n_threads = 1
    settings.cpuparams_batch.n_threads = 1
    # Keys and values as they are here: its own choice, 16 bits, moves scores by some 1e-3.
    settings.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup = False
    settings.port = 0
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main(sys.argv[1])
