"""The processes of one training, as ``accelerate launch`` or ``torchrun`` start them.

In a single process nothing here does anything. torch is imported only by what talks to other
processes, since a command line asks for its rank before all else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from icm_fast.errors import InputError, first_line

T = TypeVar("T")

_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHER_WAYS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
_WAIT = timedelta(days=7)  # the main process may label a pool meanwhile
_PATIENCE = timedelta(seconds=10)
_BUCKET = 2**25


def world_size() -> int:
    """Number of processes."""
    if not all(name in os.environ for name in _VARIABLES):
        return 1
    return int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that locks, writes and speaks."""
    return rank() == 0


def start() -> None:
    """Join the other processes, and take the device of this one; before a model is loaded.

    Raises:
        InputError: The launcher asks for what trainings here cannot do.
    """
    if world_size() == 1:
        return
    import torch

    for variable, name in _OTHER_WAYS.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise InputError(
                f"{name} is not supported: every process holds the whole model; launch without it "
                "(accelerate launch --multi_gpu), or train in one process with device=balanced"
            )
    devices = torch.cuda.is_available() and not _on_cpu()
    local = int(os.environ["LOCAL_RANK"])
    if devices and local >= torch.cuda.device_count():
        raise InputError(
            f"process {local} of this machine has no GPU of its own, there are "
            f"{torch.cuda.device_count()}; launch as many processes as there are GPUs"
        )
    if devices:
        torch.cuda.set_device(local)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if devices else "gloo")
    _group()


def stop() -> None:
    """Leave the other processes after all went well."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            _group.cache_clear()
            torch.distributed.destroy_process_group()


def check_model(model: Any) -> None:
    """Raise InputError unless every weight is where this process trains."""
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
            f"{right}; with several processes let device be auto, and hide the GPUs "
            "(CUDA_VISIBLE_DEVICES=) to train on CPUs"
        )


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        import torch

        start()
        torch.distributed.barrier(group=_group())


def on_main(function: Callable[[], T]) -> T:
    """Call ``function`` in the main process alone; every process gets what it returned.

    Args:
        function: Returns plain JSON types, which are sent to the other processes.

    Raises:
        InputError: In every process, where ``function`` raises it.
    """
    if world_size() == 1:
        return function()
    start()
    if not is_main():
        answer = _sent({})
        if "wrong" in answer:
            raise InputError(answer["wrong"])
        if "failed" in answer:
            raise RuntimeError(f"the main process failed: {answer['failed']}")
        received: T = answer["value"]
        return received
    try:
        value = function()
    except InputError as error:
        _sent({"wrong": str(error)})
        raise
    except Exception as error:  # else the others would wait for a launcher to end them
        _sent({"failed": first_line(error)})
        raise
    _sent({"value": value})
    return value


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all processes of each of these numbers."""
    if world_size() == 1:
        return list(values)
    import torch

    start()
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total, group=_group())
    sums: list[float] = total.tolist()
    return sums


def sum_gradients(parameters: Iterable[Any], weight: float = 1.0) -> None:
    """Replace the gradients of the trained ``parameters`` by their sums over all processes.

    Args:
        parameters: Of the model.
        weight: Of each process's gradients.
    """
    if world_size() == 1:
        return
    import torch

    trained = [p for p in parameters if p.requires_grad]
    # An expert may have seen no token of this process; one that saw none at all stays as it is.
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
    """Say what ends this process, unless the main one says the same.

    As a rule all processes come upon the same fault. A launcher ends the others once the first has
    ended; so they wait for the main one to speak, and it waits for them to hear it.
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
    """Whether ``accelerate launch --cpu`` was asked for."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")


@cache
def _group() -> Any:
    """For words between processes: on the CPU, and with the patience that a device lacks."""
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=_WAIT)


def _sent(value: dict[str, Any]) -> dict[str, Any]:
    """What the main process sends, in every process."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, group=_group())
    return box[0]


def _store() -> Any:
    """The store by which the processes found each other."""
    import torch

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.TCPStore(host, port, is_master=False, timeout=_PATIENCE)


def _buckets(gradients: Sequence[Any]) -> Iterator[list[Any]]:
    """Runs of gradients of one dtype that are summed together: a message each would take longer."""
    bucket: list[Any] = []
    for gradient in gradients:
        size = sum(other.numel() for other in bucket) + gradient.numel()
        if bucket and (size > _BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
