"""Whether a CUDA kernel may be taken: it is tried once on each kind of device, apart from the run.

Kernels that are proven without a device alone may still hang or fail on one. So a process of its
own computes small problems by the kernel and by the definition. Whatever becomes of that process,
the run goes on: with this kernel if the results agree, else with the next one and a warning.

    python -m icm_fast.kernels.tree_attention.trial wgmma cuda:0
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch

from icm_fast.assets.locate import cache_dir, sha256_of
from icm_fast.errors import InputError
from icm_fast.files import write_atomically
from icm_fast.kernels.tree_attention import cuda, naive
from icm_fast.kernels.tree_attention.cuda_library import PRODUCTS
from icm_fast.kernels.tree_attention.random_case import Sizes, random_case
from icm_fast.kernels.tree_attention.work import AttentionWork, TreeAttention

SECONDS = 300.0
"""Most that a trial may take, the start of Python and of the device included."""

LIMITS = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest difference to the definition in float32, relative to the largest result."""

_REPEATS = 3
_HEADS, _KV_HEADS = 8, 2
# (lengths of the ancestors' ranges, own tokens): more blocks of keys than stages, in one piece and
# in many, tiles with rows to spare, and segments without a context.
_SEGMENTS = (
    ((700, 3, 41, 64, 300), 150),
    ((1000,), 33),
    (tuple(1 + k * k % 3 for k in range(70)), 5),
    ((5, 3), 1),
    ((), 130),
    ((), 1),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One attention.

    Attributes:
        name: Says what it is about.
        query: ``[heads, n_tokens, head_dim]``.
        keys: ``[kv_heads, n_slots, head_dim]``; NaN where no segment has a slot.
        values: ``[kv_heads, n_slots, head_dim]``, like ``keys``.
        work: The segments.
        options: Arguments by name.
    """

    name: str
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    work: AttentionWork
    options: dict[str, Any]


def chosen(device: torch.device) -> str | None:
    """Instructions of the fastest CUDA kernel that passes its trial on a device; None if none does.

    Warns once for each one that does not.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _chosen(index)


@cache
def _chosen(index: int) -> str | None:
    for products in _candidates(torch.cuda.get_device_capability(index)):
        reason = failure(products, torch.device("cuda", index))
        if not reason:
            return products
        warnings.warn(
            f"the CUDA kernel with {products} is not taken on {torch.cuda.get_device_name(index)}: "
            f"{reason}. The next fastest one is; please report this",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def _candidates(capability: tuple[int, int]) -> tuple[str, ...]:
    """The fastest first."""
    return ("wgmma", "mma") if capability == cuda.WGMMA_CAPABILITY else ("mma",)


def failure(products: str, device: torch.device) -> str:
    """Why the kernel failed on a device, empty if it did not.

    A trial that was passed is remembered for this library, this kind of device and this version of
    torch, in the folder of derived files.
    """
    tried = {
        "library": sha256_of(cuda.library_path()),
        "products": products,
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
    }
    content = json.dumps(tried, sort_keys=True).encode()
    path = cache_dir() / "kernel-trials" / f"{hashlib.sha256(content).hexdigest()[:32]}.json"
    if path.is_file():
        return ""
    command = [sys.executable, "-P", "-m", __name__, products, str(device)]
    reason = run(command)
    if not reason:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content + b"\n")
        except (OSError, InputError):
            pass  # a home that cannot be written: the next process tries again
    return reason


def run(command: Sequence[str], seconds: float = SECONDS) -> str:
    """Why a trial's process failed, empty if it did not."""
    try:
        done = subprocess.run(  # noqa: S603 - this module, no shell
            command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"its trial did not end within {seconds:.0f} seconds"
    except OSError as error:
        return f"its trial could not be started ({error})"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said[-1] if said else f"its trial ended with exit code {done.returncode}"


def problems(head_dims: Sequence[int], device: torch.device) -> Iterator[Problem]:
    """Attentions of every kind that models ask for, in both dtypes."""
    sinks = torch.linspace(-3.0, 5.0, _HEADS)
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "split": {"keys_per_split": 400},
        "window": {"sliding_window": 200, "softcap": 20.0},
        "sinks": {"sinks": sinks.to(device), "sliding_window": 1},
    }
    for dtype, head_dim in product(LIMITS, head_dims):
        sizes = Sizes(_HEADS, _KV_HEADS, head_dim, head_dim)
        query, keys, values, work, _ = random_case(_SEGMENTS, sizes, dtype)
        for kind, options in kinds.items():
            yield Problem(
                f"{kind}, {head_dim} wide, {dtype}",
                query.to(device),
                keys.to(device),
                values.to(device),
                work,
                {"scaling": 2.0 * head_dim**-0.5, **options},
            )


def check(attend: TreeAttention, problem: Problem) -> None:
    """Hold a version of tree attention against the definition.

    Raises:
        ArithmeticError: Results are wrong, or not the same each time.
    """
    query, keys, values, work = problem.query, problem.keys, problem.values, problem.work
    options = {k: v for k, v in problem.options.items() if k != "keys_per_split"}
    wanted = naive.tree_attention(query.float(), keys.float(), values.float(), work, **options)
    found = [attend(query, keys, values, work, **problem.options) for _ in range(_REPEATS)]
    difference = float((found[0].float() - wanted).abs().max() / wanted.abs().max())
    limit = LIMITS[problem.query.dtype]
    if not difference <= limit:  # not a number, too
        raise ArithmeticError(f"{problem.name}: differs by {difference:.2g}, limit {limit:.2g}")
    if not all(torch.equal(found[0], again) for again in found[1:]):
        raise ArithmeticError(f"{problem.name}: results differ from one time to the next")


def main(arguments: Sequence[str]) -> None:
    """Try a kernel on a device; exits with 1 and a reason if it fails."""
    products, device = arguments
    if products not in PRODUCTS:
        sys.exit(f"products must be one of {', '.join(PRODUCTS)}, not {products!r}")
    attend = cuda.wgmma_tree_attention if products == "wgmma" else cuda.tree_attention
    try:
        for problem in problems(cuda.HEAD_DIMS, torch.device(device)):
            check(attend, problem)
    except (ArithmeticError, RuntimeError, ValueError, InputError) as error:
        sys.exit(str(error).splitlines()[0])


if __name__ == "__main__":
    main(sys.argv[1:])
