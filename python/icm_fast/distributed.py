"""The processes of one training, as started by ``accelerate launch`` or ``torchrun``.

In a single process all of this does nothing. torch is imported only by what talks to other
processes, because a command line needs its rank before anything else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from icm_fast.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_WAIT = timedelta(days=7)  # the main process may label a pool in the meantime
_STORE_TIMEOUT = timedelta(seconds=10)
_BUCKET_ELEMENTS = 2**25


@dataclass(frozen=True, slots=True)
class _Value(Generic[T]):
    """What the main process computed."""

    value: T


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why the main process computed nothing."""

    message: str
    bad_input: bool


def world_size() -> int:
    """Number of processes."""
    if not all(name in os.environ for name in _VARIABLES):
        return 1
    return int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """Rank of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that locks, writes and prints."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether the launcher requests FSDP: processes hold parts of the model that is trained."""
    return world_size() > 1 and _is_set("ACCELERATE_USE_FSDP")


def shards_on_gpus() -> bool:
    """Whether FSDP puts its parts on GPUs, also those of a base that is held on the CPU."""
    if not is_sharded() or _on_cpu():
        return False
    import torch

    return bool(torch.cuda.is_available())


def start() -> None:
    """Join the other processes and select the device of this one; call before loading a model.

    Raises:
        InputError: The launcher requests DeepSpeed, or more processes than GPUs.
    """
    if world_size() == 1:
        return
    import torch

    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise InputError(
            "DeepSpeed is not supported; launch with FSDP (accelerate launch --use_fsdp "
            "--fsdp_version 2), which also divides the model, or without either"
        )
    devices = torch.cuda.is_available() and not _on_cpu()
    local = int(os.environ["LOCAL_RANK"])
    if devices and local >= torch.cuda.device_count():
        raise InputError(
            f"process {local} of this machine has no separate GPU, there are "
            f"{torch.cuda.device_count()}; launch at most one process per GPU"
        )
    if devices:
        torch.cuda.set_device(local)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if devices else "gloo")
    _group()


def stop() -> None:
    """Leave the other processes after success."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            _group.cache_clear()
            torch.distributed.destroy_process_group()


def check_model(model: torch.nn.Module) -> None:
    """Raise InputError unless every weight is on the device on which this process trains."""
    if world_size() == 1:
        return
    import torch

    where = {parameter.device for parameter in model.parameters()}
    right = torch.device("cpu")
    if not _on_cpu() and right not in where:
        right = torch.device("cuda", torch.cuda.current_device())
    if where != {right}:
        raise InputError(
            f"the model is on {', '.join(sorted(map(str, where)))}, but process {rank()} trains on "
            f"{right}; with several processes use device=auto, and hide the GPUs "
            "(CUDA_VISIBLE_DEVICES=) to train on CPUs"
        )


def barrier() -> None:
    """Wait until every process has arrived."""
    if world_size() > 1:
        import torch

        start()
        torch.distributed.barrier(group=_group())


def on_main(function: Callable[[], T]) -> T:
    """Call ``function`` in the main process only; every process gets its return value.

    Args:
        function: Returns plain JSON types, which are sent to the other processes.

    Raises:
        InputError: In every process, where ``function`` raises it.
        RuntimeError: In the other processes, where ``function`` raises anything else.
    """
    if world_size() == 1:
        return function()
    start()
    if not is_main():
        outcome: _Value[T] | _Fault = _broadcast(None)
        return _unpacked(outcome)
    try:
        value = function()
    except InputError as error:
        _broadcast(_Fault(str(error), bad_input=True))
        raise
    except Exception as error:  # otherwise the others would wait until a launcher ends them
        _broadcast(_Fault(first_line(error), bad_input=False))
        raise
    _broadcast(_Value(value))
    return value


def summed(values: Sequence[float]) -> list[float]:
    """The sum over all processes of each of these numbers."""
    if world_size() == 1:
        return list(values)
    import torch

    start()
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total, group=_group())
    sums: list[float] = total.tolist()
    return sums


def sum_gradients(parameters: Iterable[torch.nn.Parameter], weight: float = 1.0) -> None:
    """Replace the gradients of the trained ``parameters`` with their sums over all processes.

    Args:
        parameters: All parameters of the model.
        weight: Factor of each process's gradients in the sum.
    """
    if world_size() == 1:
        return
    import torch

    trained = [p for p in parameters if p.requires_grad]
    # An expert may have received no token in this process; without one in any it stays as it is.
    used = summed([float(p.grad is not None) for p in trained])
    gradients = []
    for parameter, n_ranks in zip(trained, used, strict=True):
        if n_ranks:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket]) * weight
        torch.distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def say_once(message: str, show: Callable[[str], None]) -> None:
    """Print what ends this process, unless the main one prints the same.

    Usually all processes meet the same fault. A launcher ends the others once the first has ended,
    so they wait for the main one's message, and it waits until they have read it.
    """
    if world_size() == 1:
        show(message)
        return
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process ends anyway, with its own code
    # The store may be gone with the process that held it: RuntimeError.
    attempt = f"icm_fast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if is_main():
        show(message)
        with suppress(RuntimeError):
            store = _store()
            store.set(f"{attempt}/said", message)
            store.wait([f"{attempt}/heard/{k}" for k in range(1, world_size())])
        return
    heard = None
    with suppress(RuntimeError):
        heard = _store().get(f"{attempt}/said").decode()
    if heard != message:
        show(message)
    with suppress(RuntimeError):
        _store().set(f"{attempt}/heard/{rank()}", "")


def _on_cpu() -> bool:
    """Whether ``accelerate launch --cpu`` was requested."""
    return _is_set("ACCELERATE_USE_CPU")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")


@cache
def _group() -> torch.distributed.ProcessGroup:
    """For messages between processes: on the CPU, with a timeout longer than a device's."""
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=_WAIT)


def _broadcast(outcome: _Value[T] | _Fault | None) -> _Value[T] | _Fault:
    """What the main process sends, in every process; the others pass None."""
    import torch

    box = [outcome]
    torch.distributed.broadcast_object_list(box, src=0, group=_group())
    (received,) = box
    assert received is not None
    return received


def _unpacked(outcome: _Value[T] | _Fault) -> T:
    """What the main process sent: its value, or its fault as an exception."""
    if isinstance(outcome, _Value):
        return outcome.value
    if outcome.bad_input:
        raise InputError(outcome.message)
    raise RuntimeError(f"the main process failed: {outcome.message}")


def _store() -> torch.distributed.TCPStore:
    """The store through which the processes found each other."""
    import torch

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.TCPStore(host, port, is_master=False, timeout=_STORE_TIMEOUT)


def _buckets(gradients: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Runs of gradients of one dtype, summed together: one message each would take longer."""
    bucket: list[torch.Tensor] = []
    for gradient in gradients:
        size = sum(other.numel() for other in bucket) + gradient.numel()
        if bucket and (size > _BUCKET_ELEMENTS or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
