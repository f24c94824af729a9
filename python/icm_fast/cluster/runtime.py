"""Ray: a local one with workers of this machine, or a cluster that is running."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icm_fast.cluster.model import ClusterModel
from icm_fast.cluster.pool import Pool
from icm_fast.errors import InputError, first_line, shown
from icm_fast.model.hardware import available_processors
from icm_fast.scoring.servers.address import ALLOW_HTTP, PATIENCE, REQUESTS, TIMEOUT
from icm_fast.scoring.side_by_side import settle

if TYPE_CHECKING:
    from icm_fast.scoring.models import Choice

LOCAL = "local"
_INSTALL = "--ray needs the package ray; install it: pip install 'icm-fast[ray]'"
_STORE_BYTES = 256 << 20
"""Memory for what is on its way between local processes; chunks have about a megabyte."""

_SETTLE_SECONDS = 10.0
_STARTS = 3
"""Ray gives its processes half a minute to start, which may be too short on a busy machine."""
_OPEN_VARIABLES = (ALLOW_HTTP, REQUESTS, TIMEOUT, PATIENCE)
"""What workers are told of how servers are reached; keys they have, or read, themselves."""


@dataclass(frozen=True, slots=True)
class RayRequest:
    """Which workers are wanted.

    Attributes:
        address: ``local`` for workers of this machine alone, otherwise the address of a running
            cluster, ``auto`` or ``HOST:PORT``, on one of whose machines this process is.
        workers: Number of workers; 0 for one for each GPU, or without any for each processor.
        gpus: GPUs of each worker, where there are any.
    """

    address: str = LOCAL
    workers: int = 0
    gpus: int = 1

    def __post_init__(self) -> None:
        if self.address.startswith("ray://"):
            raise InputError(
                f"--ray {shown(self.address)} is a door for clients, through which results do not "
                "come one by one; run the command on the cluster (`ray job submit`), with --ray "
                "auto"
            )
        if not 0 <= self.workers <= 10_000:
            raise InputError(f"--ray-workers is {self.workers}; pass 1 to 10000, or leave it out")
        if not 0 <= self.gpus <= 64:
            raise InputError(f"--ray-gpus is {self.gpus}; pass 0 to 64")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers that are connected."""

    pool: Pool

    def model(self, name: str | os.PathLike[str], config: Choice) -> ClusterModel:
        """A model that the workers open when they need it; pass it wherever a model is taken.

        Args:
            name: Hub id, folder, ``.gguf`` file, embedded name, or address of a server, as each
                worker can reach it.
            config: How it is opened: settings of a search or of a labelling.
        """
        return ClusterModel(name, self.pool, config)

    def close(self) -> None:
        """Let the workers go, and wait for what was interrupted to leave its folders."""
        self.pool.close()
        settle(_SETTLE_SECONDS)


@contextmanager
def on_ray(
    request: RayRequest | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Cluster]:
    """Connect to Ray, or start it here, and hold workers until the block ends.

    A local Ray has no dashboard, takes no connection without the secret of this process, and
    reports nothing to anybody. A process that is connected to Ray already uses that.

    Args:
        request: Which workers are wanted.
        say: Receives a line when a worker dies, or when none can be had.

    Raises:
        InputError: Ray is not installed, or cannot be reached or started.
    """
    request = request or RayRequest()
    ray = _package(request)
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, request)
    try:
        width, resources = _sizes(ray, request)
        environment = {k: os.environ[k] for k in _OPEN_VARIABLES if k in os.environ}
        cluster = Cluster(Pool(ray, width, resources, environment, say))
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        if not connected:
            ray.shutdown()


def _package(request: RayRequest) -> Any:
    # Ray reads all this when it is imported; so do the processes that it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if request.address == LOCAL and "ray" not in sys.modules:
        # A local Ray listens on all addresses of the machine: nobody gets in without the secret.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise InputError(_INSTALL) from error
    return ray


def _connect(ray: Any, request: RayRequest) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    where: dict[str, Any] = {"address": request.address}
    if request.address == LOCAL:
        where |= {
            "num_cpus": max(request.workers, available_processors()),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    for left in reversed(range(_STARTS if request.address == LOCAL else 1)):
        try:
            ray.init(**where, **quiet)
            return
        except Exception as error:  # Ray has no class for what goes wrong when it starts
            ray.shutdown()
            if not left:
                raise InputError(_unreachable(request, first_line(error))) from error


def _unreachable(request: RayRequest, reason: str) -> str:
    if request.address == LOCAL:
        return f"Ray cannot start here: {reason}; if the machine is busy, run the command again"
    return (
        f"Ray cannot be reached at {request.address}: {reason}; check `ray status` there, and that "
        "this is one of its machines with the same versions of Ray and Python"
    )


def _sizes(ray: Any, request: RayRequest) -> tuple[int, dict[str, float]]:
    """Number of workers, and what is reserved for each."""
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0)) if request.gpus else 0
    if gpus:
        width = request.workers or max(1, gpus // request.gpus)
        return width, {"num_cpus": 1, "num_gpus": request.gpus}
    processors = max(1, int(total.get("CPU", 1)))
    width = request.workers or processors
    return width, {"num_cpus": max(1, processors // width), "num_gpus": 0}
