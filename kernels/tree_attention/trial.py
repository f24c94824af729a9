"""Whether a CUDA kernel may be used: it is tried once on each kind of device, outside the run.

A kernel that was only tested without a device may still hang or crash on one. So a separate process
computes small problems with the kernel and with the definition. Whatever happens to that process,
the run continues: with this kernel if the results agree, otherwise with the next one and a warning.

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
from typing import Protocol, Required, TypedDict

import torch

from icm_fast.assets.cache import cache_dir, cache_folder, private_folder
from icm_fast.assets.locate import sha256_of
from icm_fast.errors import InputError
from icm_fast.files import write_atomically
from icm_fast.kernels.tree_attention import cuda, naive
from icm_fast.kernels.tree_attention.cuda_library import PRODUCTS
from icm_fast.kernels.tree_attention.random_case import Sizes, random_case
from icm_fast.kernels.tree_attention.work import AttentionWork

_FOLDER = "kernel-trials"
SECONDS = 300.0
"""Time limit of a trial, including the start of Python and of the device."""

LIMITS = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest difference from the definition in float32, relative to the largest result."""

_REPEATS = 3
_KV_HEADS = 2
_GROUP = 4
_OTHER_GROUPS = (1, 3)
"""Query heads per key-value head: one, and a number by which rows do not divide evenly."""
# (lengths of the ancestors' ranges, own tokens): more blocks of keys than stages, in one range and
# in many, tiles that are not full, and segments without a context.
_SEGMENTS = (
    ((700, 3, 41, 64, 300), 150),
    ((1000,), 33),
    (tuple(1 + k * k % 3 for k in range(70)), 5),
    ((5, 3), 1),
    ((), 130),
    ((), 1),
)
_OTHER_SEGMENTS = (((300, 64, 7), 150), ((5, 3), 1), ((), 44))
# As many keys as a large tree has: sums over hundreds of blocks.
_LONG_SEGMENTS = (((9000, 1, 4000, 7000), 20), ((20_000,), 1))


class AttentionOptions(TypedDict, total=False):
    """Keyword arguments of every implementation; see ``naive.tree_attention``."""

    scaling: Required[float]
    sliding_window: int
    softcap: float
    sinks: torch.Tensor


class SplittingAttention(Protocol):
    """Tree attention that can split long contexts; see ``cuda.tree_attention``."""

    def __call__(
        self,
        query: torch.Tensor,
        key_pool: torch.Tensor,
        value_pool: torch.Tensor,
        work: AttentionWork,
        *,
        scaling: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
        keys_per_split: int = 0,
    ) -> torch.Tensor:
        """Attend every segment's queries over its context and itself."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One attention.

    Attributes:
        name: What it covers, for error messages.
        query: ``[heads, n_tokens, head_dim]``.
        keys: ``[kv_heads, n_slots, head_dim]``; NaN in slots that no segment uses.
        values: ``[kv_heads, n_slots, head_dim]``, likewise.
        work: The segments.
        options: Keyword arguments of the attention.
        keys_per_split: Longer contexts are split; 0 for never.
    """

    name: str
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    work: AttentionWork
    options: AttentionOptions
    keys_per_split: int = 0


def select_products(device: torch.device) -> str | None:
    """Instructions of the fastest CUDA kernel that passes its trial on a device; None if none does.

    Warns once about each kernel that fails.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _select_products(index)


@cache
def _select_products(index: int) -> str | None:
    for products in _candidates(torch.cuda.get_device_capability(index)):
        reason = failure(products, torch.device("cuda", index))
        if not reason:
            return products
        warnings.warn(
            f"the CUDA kernel with {products} is not used on {torch.cuda.get_device_name(index)}: "
            f"{reason}. The next fastest kernel is used instead; please report this",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def _candidates(capability: tuple[int, int]) -> tuple[str, ...]:
    """Instructions that a device has, the fastest first."""
    return ("wgmma", "mma") if capability == cuda.WGMMA_CAPABILITY else ("mma",)


def failure(products: str, device: torch.device) -> str:
    """Why the kernel failed on a device; empty if it passed.

    A passed trial is remembered in the cache folder, for this library, this kind of device and this
    version of torch.
    """
    tried = {
        "library": sha256_of(cuda.library_path()),
        "products": products,
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
    }
    content = json.dumps(tried, sort_keys=True).encode()
    path = cache_dir() / _FOLDER / f"{hashlib.sha256(content).hexdigest()[:32]}.json"
    if path.is_file() and private_folder(path.parent):
        return ""
    command = [sys.executable, "-P", "-m", __name__, products, str(device)]
    reason = run(command)
    if not reason:
        try:
            cache_folder(_FOLDER)
            write_atomically(path, content + b"\n")
        except (OSError, InputError):
            pass  # the cache is not writable: the next process runs the trial again
    return reason


def run(command: Sequence[str], seconds: float = SECONDS) -> str:
    """Why a trial's process failed; empty if it passed."""
    try:
        done = subprocess.run(  # noqa: S603 - this module, no shell
            command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"its trial did not finish within {seconds:.0f} seconds"
    except OSError as error:
        return f"its trial could not be started ({error})"
    if done.returncode == 0:
        return ""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"its trial ended with exit code {done.returncode}"


def problems(head_dims: Sequence[int], device: torch.device) -> Iterator[Problem]:
    """Attentions of every kind that models use, in both dtypes."""
    for dtype, head_dim in product(LIMITS, head_dims):
        scaling = 2.0 * head_dim**-0.5
        plain: AttentionOptions = {"scaling": scaling}
        window: AttentionOptions = {"scaling": scaling, "sliding_window": 200, "softcap": 20.0}
        sunk: AttentionOptions = {
            "scaling": scaling,
            "sinks": torch.linspace(-3.0, 5.0, _GROUP * _KV_HEADS).to(device),
            "sliding_window": 1,
        }
        case = _case(_SEGMENTS, _GROUP, head_dim, dtype, device)
        ending = f"{head_dim} wide, {dtype}"
        yield Problem(f"plain, {ending}", *case, plain)
        yield Problem(f"split, {ending}", *case, plain, 400)
        yield Problem(f"window, {ending}", *case, window)
        yield Problem(f"sinks, {ending}", *case, sunk)
        for group in _OTHER_GROUPS:
            case = _case(_OTHER_SEGMENTS, group, head_dim, dtype, device)
            yield Problem(f"group of {group}, {ending}", *case, plain)
        case = _case(_LONG_SEGMENTS, _GROUP, head_dim, dtype, device)
        yield Problem(f"20,000 keys, {ending}", *case, plain)


def _case(
    segments: Sequence[tuple[Sequence[int], int]],
    group: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, AttentionWork]:
    """Queries, keys, values and work of some segments on a device."""
    sizes = Sizes(group * _KV_HEADS, _KV_HEADS, head_dim, head_dim)
    query, keys, values, work, _ = random_case(segments, sizes, dtype)
    return query.to(device), keys.to(device), values.to(device), work


def check(attend: SplittingAttention, problem: Problem) -> None:
    """Compare an implementation with the definition.

    Raises:
        ArithmeticError: Results are wrong, or differ between repetitions.
    """
    query, keys, values, work = problem.query, problem.keys, problem.values, problem.work
    options, split = problem.options, problem.keys_per_split
    wanted = naive.tree_attention(query.float(), keys.float(), values.float(), work, **options)
    found = [
        attend(query, keys, values, work, keys_per_split=split, **options) for _ in range(_REPEATS)
    ]
    difference = float((found[0].float() - wanted).abs().max() / wanted.abs().max())
    limit = LIMITS[problem.query.dtype]
    if not difference <= limit:  # also true for NaN
        raise ArithmeticError(f"{problem.name}: differs by {difference:.2g}, limit {limit:.2g}")
    if not all(torch.equal(found[0], again) for again in found[1:]):
        raise ArithmeticError(f"{problem.name}: results differ between repetitions")


def main(arguments: Sequence[str]) -> None:
    """Try a kernel on a device; exit with status 1 and a reason if it fails."""
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
