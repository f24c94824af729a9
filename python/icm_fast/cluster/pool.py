"""Workers that are held, lent for one call at a time, and replaced when they die."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from icm_fast.cluster.worker import Answer, Machine, Worker
from icm_fast.errors import InputError, first_line

_SPARE_DEATHS = 3
"""Workers that one call may lose, beyond those that died before it reached them."""
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0
"""After this long without any worker the user hears what is missing."""


class WorkerDiedError(Exception):
    """A worker ended during a call; what it was doing has to be done again."""


class Pool:
    """Workers of a Ray cluster.

    Args:
        ray: The connected package.
        width: Workers that are wanted.
        resources: What Ray reserves for each: ``num_cpus`` and ``num_gpus``.
        environment: See :class:`Worker`.
        say: Receives a line when a worker dies, or when none can be had.
    """

    def __init__(
        self,
        ray: Any,
        width: int,
        resources: Mapping[str, float],
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.width = width
        self._ray = ray
        self._kind = ray.remote(Worker).options(max_restarts=0, max_task_retries=0, **resources)
        self._resources = resources
        self._environment = dict(environment)
        self._say = say
        self._changed = threading.Condition()
        self._idle: list[Any] = []
        self._held: list[Any] = []
        self._first: Machine | None = None
        self._failure: str | None = None
        self._n_alive = 0
        self._failed_starts = 0
        self._warned: set[str] = set()
        self._closed = False
        for _ in range(width):
            self._start_one()

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of any free worker; of another one if it dies.

        Raises:
            InputError: The worker refuses, workers keep dying, or none can be had.
        """
        return self.retried(lambda: self._call_once(method, arguments))

    def retried(self, attempt: Callable[[], Any]) -> Any:
        """Try again for as long as the workers that it used have died.

        Raises:
            InputError: They keep dying.
        """
        for _ in range(self.width + _SPARE_DEATHS):
            try:
                return attempt()
            except WorkerDiedError as error:
                last = str(error)
        raise InputError(
            f"workers keep dying at the same work ({last}); give them more memory, or start fewer "
            "with --ray-workers"
        )

    def _call_once(self, method: str, arguments: tuple[object, ...]) -> Any:
        worker = self.take()
        try:
            value = self.received(getattr(worker, method).remote(*arguments))
        except (InputError, self._ray.exceptions.RayTaskError):
            self.give_back(worker)
            raise
        except BaseException:
            self.lose(worker)
            raise
        self.give_back(worker)
        return value

    def received(self, reference: Any) -> Any:
        """Wait for an answer.

        Raises:
            InputError: It is a refusal.
            WorkerDiedError: The worker has died, or what it sent was lost with its machine.
        """
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            if self._closed:
                raise InputError("the workers were let go") from None
            reason = first_line(error)
            self._say(f"a worker died ({reason}); its work is done again")
            raise WorkerDiedError(reason) from None
        return self.unpacked(answer)

    def unpacked(self, answer: Answer) -> Any:
        """The value of an answer, once its warnings are shown.

        Raises:
            InputError: It is a refusal.
        """
        for text in answer.warnings:
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, UserWarning, stacklevel=2)
        if answer.refused is not None:
            raise InputError(answer.refused)
        return answer.value

    def close(self) -> None:
        """End all workers; calls that wait for one raise InputError."""
        with self._changed:
            self._closed = True
            held, self._held, self._idle = self._held, [], []
            self._changed.notify_all()
        for worker in held:
            self._ray.kill(worker)

    def take(self) -> Any:
        """A worker for the caller alone, until it is given back or lost.

        Raises:
            InputError: None can be had.
        """
        said = False
        started = time.monotonic()
        with self._changed:
            while True:
                if self._closed:
                    raise InputError("the workers were let go")
                if self._failure is not None:
                    raise InputError(self._failure)
                if self._idle:
                    return self._idle.pop()
                self._changed.wait(_POLL_SECONDS)
                late = time.monotonic() - started > _PATIENCE_SECONDS
                if late and not said and not self._n_alive:
                    said = True
                    wanted = ", ".join(f"{k}={v:g}" for k, v in self._resources.items())
                    self._say(f"waiting for a worker: the cluster has no free place for {wanted}")

    def give_back(self, worker: Any) -> None:
        """Let others have a worker that has done what it was taken for."""
        with self._changed:
            if not self._closed:
                self._idle.append(worker)
                self._changed.notify()

    def lose(self, worker: Any) -> None:
        """End a worker that has died, or that may be at work still, and start another one."""
        with self._changed:
            if self._closed:
                return
            self._held.remove(worker)
            self._n_alive -= 1
        self._ray.kill(worker)
        self._start_one()

    def _start_one(self) -> None:
        threading.Thread(target=self._start_and_wait, daemon=True).start()

    def _start_and_wait(self) -> None:
        """Start a worker; others go on while a place for it is looked for."""
        worker = None
        try:
            worker = self._kind.remote(self._environment)
            with self._changed:
                self._held.append(worker)
            waiting = [worker.machine.remote()]
            while waiting:
                ready, waiting = self._ray.wait(waiting, timeout=_POLL_SECONDS)
                if self._closed:
                    self._ray.kill(worker)
                    return
            self._add(worker, self._ray.get(ready[0]))
        except Exception as error:
            with self._changed:
                if worker in self._held:
                    self._held.remove(worker)
            self._note_failed_start(first_line(error))

    def _add(self, worker: Any, machine: Machine) -> None:
        with self._changed:
            self._first = first = self._first or machine
            self._failed_starts = 0
            ours, theirs = first.versions, machine.versions
            if ours != theirs:
                name = next(name for name in ours if ours[name] != theirs.get(name))
                self._failure = (
                    f"{machine.host} has {name} {theirs.get(name)}, but {first.host} has "
                    f"{ours[name]}; install the same versions on all machines"
                )
            self._n_alive += 1
            self._idle.append(worker)
            self._changed.notify_all()
        if first.instructions != machine.instructions and machine.host not in self._warned:
            self._warned.add(machine.host)
            self._say(
                f"{machine.host} has the instructions {machine.instructions}, {first.host} "
                f"{first.instructions}: last bits of scores on processors may differ between them"
            )

    def _note_failed_start(self, reason: str) -> None:
        with self._changed:
            if self._closed:
                return
            self._failed_starts += 1
            if self._failed_starts > self.width + _SPARE_DEATHS:
                self._failure = f"no worker could be started: {reason}"
                self._changed.notify_all()
                return
        time.sleep(_POLL_SECONDS)
        self._start_one()
