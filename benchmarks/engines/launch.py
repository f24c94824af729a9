"""Run a job in a separate, pinned process, with the interpreter of its peer."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engines.peers.protocol import Job
from benchmarks.engines.variants import PEERS, Peer
from icm_fast.errors import InputError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_REPOSITORY = Path(__file__).resolve().parents[2]
PEERS_DIR = _REPOSITORY / ".peers"
"""Where `make peers` puts the environments: in this clone, whatever the working folder is."""

_KV_SPACE_GIB = 4
_SHOWN_LINES = 15
_SYSTEM_LIBRARIES = Path("/usr/lib")


class PeerError(RuntimeError):
    """A peer ended without a result; the others still run."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts peers.

    Attributes:
        peers_dir: Folder of the peers' own environments.
        threads: Threads and CPUs of each peer.
    """

    peers_dir: Path
    threads: int

    @property
    def cpus(self) -> list[int]:
        """The first ``threads`` CPUs that this process may use."""
        return sorted(os.sched_getaffinity(0))[: self.threads]

    def check(self, peer_name: str) -> None:
        """Raise InputError if the peer's environment is missing or there are too few CPUs."""
        if self.threads < 1 or len(self.cpus) < self.threads:
            raise InputError(
                f"threads = {self.threads}, but this process may use "
                f"{len(os.sched_getaffinity(0))} CPUs; pass at most that number"
            )
        peer = PEERS[peer_name]
        if peer.environment is not None:
            _require_own(self.peers_dir, self.peers_dir / peer.environment)
        if not self._python(peer).is_file():
            raise InputError(
                f"peer {peer_name!r} has no environment {self.peers_dir / str(peer.environment)}; "
                f"run `{peer.install_command}` in a clone, or select other peers with --peer"
            )

    def run(self, peer_name: str, job: Job) -> dict[str, Any]:
        """Run a job with a peer and return its result.

        Raises:
            PeerError: The peer failed; the message has its last lines of output.
        """
        peer = PEERS[peer_name]
        alone = peer.environment is not None
        package = "peers" if alone else "benchmarks.engines.peers"
        return self._run(self._python(peer), f"{package}.{peer.module}", job, self._variables(peer))

    def gemm_peak(self, dtype: str, **options: Any) -> float:
        """The machine's best rate of matrix products, in operations per second."""
        job = Job([], [], "", dtype, self.threads, self.cpus, options=options)
        ours = PEERS["ours"]
        module = "benchmarks.engines.peers.gemm_peak"
        result = self._run(self._python(ours), module, job, self._variables(ours))
        return float(result["flops_per_second"])

    def _run(
        self, python: Path, module: str, job: Job, variables: dict[str, str]
    ) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "job.json"
            job.write(path)
            # A peer with a separate environment sees the package `peers` and nothing else of ours.
            (Path(scratch) / "peers").symlink_to(Path(__file__).resolve().parent / "peers")
            ours = (str(_REPOSITORY),) if python == Path(sys.executable) else ()
            import_path = _import_path(scratch, *ours)
            done = subprocess.run(
                [str(python), "-P", "-m", module, str(path)],
                capture_output=True,
                text=True,
                errors="replace",
                env=os.environ | variables | {"PYTHONPATH": import_path},
                check=False,
            )
        if done.returncode != 0:
            raise PeerError(_reason(done))
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def _python(self, peer: Peer) -> Path:
        if peer.environment is None:
            return Path(sys.executable)
        return self.peers_dir / peer.environment / "bin" / "python"

    def _variables(self, peer: Peer) -> dict[str, str]:
        """Variables that fix the number of threads, and those that vLLM's documentation advises."""
        found = dict.fromkeys(_THREAD_VARIABLES, str(self.threads))
        found["TOKENIZERS_PARALLELISM"] = "false"
        found["CUDA_VISIBLE_DEVICES"] = ""  # all on the CPU, otherwise not comparable
        if peer.environment == "vllm":
            found |= {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_KVCACHE_SPACE": str(_KV_SPACE_GIB),
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, self.cpus)),
                "VLLM_LOGGING_LEVEL": "WARNING",
                "LD_PRELOAD": ":".join(map(str, self._preloaded(self.peers_dir / "vllm"))),
            }
        return found

    @staticmethod
    def _preloaded(environment: Path) -> list[Path]:
        """Intel's OpenMP of the environment and the system's tcmalloc, if present."""
        return [
            *sorted(_SYSTEM_LIBRARIES.glob("*/libtcmalloc_minimal.so.4"))[:1],
            *sorted((environment / "lib").glob("libiomp5.so"))[:1],
        ]


def _require_own(*folders: Path) -> None:
    """Raise InputError if somebody else may put programs into an environment that is run.

    Args:
        folders: The folder of environments, and the one that is run; absent ones are nobody's.
    """
    inner = [folders[-1] / name for name in ("bin", "bin/python", "lib")]
    for path in (*folders, *inner):
        try:
            status = os.stat(path) if path.name == "python" else os.lstat(path)
        except OSError:
            continue
        others = stat.S_IMODE(status.st_mode) & 0o022
        if others or status.st_uid not in (0, os.geteuid()):
            raise InputError(
                f"others may change {path}, which would be run; make the environment anew with "
                "`make peers`, or pass a folder of yours with --peers-dir"
            )


def _import_path(*folders: str) -> str:
    """``folders``, followed by the current PYTHONPATH."""
    return os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH", "")]))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process ended, in a few lines."""
    if done.returncode < 0:
        why = f"ended by signal {-done.returncode}"
        return why + (" (out of memory?)" if done.returncode == -9 else "")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "\n".join(lines[-_SHOWN_LINES:]) or f"exit code {done.returncode} without any output"
