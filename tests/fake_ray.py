"""A package like ray whose actors are threads of this process, and which dies when told to.

All that is sent to an actor and comes back goes through pickle, as between processes.
"""

from __future__ import annotations

import pickle
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from icm_fast.cluster.pool import Pool
from icm_fast.cluster.runtime import Cluster


class FakeRay(types.ModuleType):
    """Stands for the package.

    Args:
        dies: Called with the method and the number of its call or of what it streamed, from 1; true
            ends the worker there.
        n_cpus: Processors of the cluster.
    """

    def __init__(
        self, dies: Callable[[str, int], bool] = lambda method, n: False, n_cpus: int = 2
    ) -> None:
        super().__init__("ray")
        self.dies = dies
        self.n_cpus = n_cpus
        self.counts: dict[str, int] = {}
        self.started: list[Handle] = []
        self.init_arguments: list[dict[str, Any]] = []
        self.refuse_starts = False
        self.init_error: Exception | None = None
        self.turn = threading.Lock()
        died = type("RayActorError", (Exception,), {})
        self.exceptions = types.SimpleNamespace(
            RayActorError=died,
            WorkerCrashedError=type("WorkerCrashedError", (Exception,), {}),
            NodeDiedError=type("NodeDiedError", (Exception,), {}),
            OutOfMemoryError=type("OutOfMemoryError", (Exception,), {}),
            ObjectLostError=type("ObjectLostError", (Exception,), {}),
            RayTaskError=RayTaskError,
        )

    def init(self, **arguments: Any) -> None:
        self.init_arguments.append(arguments)
        if self.init_error is not None:
            raise self.init_error

    def is_initialized(self) -> bool:
        return False

    def shutdown(self) -> None:
        pass

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.n_cpus)}

    def remote(self, kind: type) -> Kind:
        return Kind(self, kind)

    def get(self, reference: Any) -> Any:
        outcome = reference.result()
        return pickle.loads(outcome)

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        done, waiting = wait(references, timeout)
        return list(done), list(waiting)

    def kill(self, handle: Handle) -> None:
        handle.dead = True

    def counted(self, method: str) -> int:
        with self.turn:
            self.counts[method] = self.counts.get(method, 0) + 1
            return self.counts[method]


class RayTaskError(Exception):
    pass


@dataclass
class Kind:
    ray: FakeRay
    kind: type

    def options(self, **_: Any) -> Kind:
        return self

    def remote(self, *arguments: Any) -> Handle:
        if self.ray.refuse_starts:
            raise RuntimeError("no such place")
        handle = Handle(self.ray, self.kind(*arguments))
        self.ray.started.append(handle)
        return handle


@dataclass(eq=False)
class Handle:
    ray: FakeRay
    worker: Any
    dead: bool = False
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __getattr__(self, method: str) -> Method:
        return Method(self, method)


@dataclass
class Method:
    handle: Handle
    name: str
    streaming: bool = False

    def options(self, num_returns: str) -> Method:
        assert num_returns == "streaming"
        return Method(self.handle, self.name, streaming=True)

    def remote(self, *arguments: Any) -> Any:
        arguments = pickle.loads(pickle.dumps(arguments))
        function = getattr(self.handle.worker, self.name)
        if self.streaming:
            return self._stream(function(*arguments))
        return self.handle.threads.submit(lambda: self._once(lambda: function(*arguments)))

    def _stream(self, values: Iterator[Any]) -> Iterator[Future[bytes]]:
        over = object()
        while True:
            future: Future[bytes] = Future()
            try:
                value = next(values, over)
                if value is over:
                    return
                future.set_result(self._once(lambda value=value: value))
            except Exception as error:
                future.set_exception(error)
            yield future

    def _once(self, call: Callable[[], Any]) -> bytes:
        ray = self.handle.ray
        if not self.handle.dead and ray.dies(self.name, ray.counted(self.name)):
            self.handle.dead = True
        if self.handle.dead:
            raise ray.exceptions.RayActorError("The actor died unexpectedly")
        try:
            return pickle.dumps(call())
        except Exception as error:
            raise RayTaskError(str(error)) from error


def fake_cluster(ray: FakeRay, width: int, said: list[str] | None = None) -> Cluster:
    """Workers of a package like ray."""
    say = (said if said is not None else []).append
    return Cluster(Pool(ray, width, {"num_cpus": 1}, {}, say))
