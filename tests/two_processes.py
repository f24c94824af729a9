"""Two processes of one training on this machine, started as a launcher starts them."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",  # two processes need two devices, or none
}


@dataclass(frozen=True)
class Ended:
    """How both ended: exit codes (minus the signal of one that was killed), and standard errors."""

    codes: list[int]
    said: list[str]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_two(*words: str, timeout: float = 900, **variables: str) -> Ended:
    """Run ``python WORDS`` twice, with further environment variables."""
    shared = {**ENVIRONMENT, **variables, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return Ended([process.returncode for process in processes], said)
