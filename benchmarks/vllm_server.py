"""Starts vLLM's HTTP server from the environment of `make servers`, for measurements and tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.engines.launch import PEERS_DIR
from icm_fast.errors import InputError

PYTHON = PEERS_DIR / "vllm" / "bin" / "python"
"""The interpreter of the environment."""

IN_PROCESS = PEERS_DIR / "vllm" / ".icm-fast"
"""There once icm-fast is installed beside vLLM."""

BLOCK_SIZE = 32
"""Tokens of one block of keys and values; a prefix is found in the cache in whole blocks, and
smaller ones do not exist on processors."""

KV_SPACE_GIB = 1
_READY_SECONDS = 600.0
_SHOWN_LINES = 15


def vllm_variables() -> dict[str, str]:
    """Variables under which vLLM runs: on this machine's processors, without the network."""
    return {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_SPACE_GIB),
        "VLLM_NO_USAGE_STATS": "1",
    }


@contextmanager
def vllm_server(
    folder: Path, log: Path, *, python: Path = PYTHON, max_model_len: int = 4096
) -> Iterator[str]:
    """Run a server until the end of the block; yields its address once it answers.

    Args:
        folder: The model.
        log: Where its output goes.
        python: Interpreter with vLLM.
        max_model_len: Longest prompt with its answer, in tokens.

    Raises:
        InputError: It ended, or did not answer in ten minutes; with its last lines.
    """
    port = _free_port()
    # `vllm serve` asks for the metadata of a package named vllm, which the CPU build is not.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", str(max_model_len), "--block-size", str(BLOCK_SIZE)]
    command += ["--enforce-eager"]  # compiling takes minutes
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=os.environ | vllm_variables(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it has children of its own
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_ready(child, address, log)
            yield address
        finally:
            _end(child)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_until_ready(child: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + _READY_SECONDS
    while child.poll() is None and time.monotonic() < until:
        try:
            with urlopen(f"{address}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
    raise InputError("vLLM's server did not start; its last lines:\n" + "\n".join(lines))


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the server and its children."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(child.pid, number)
            child.wait(seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    child.wait()
