"""Whether a version may be used: it is tried once on each kind of device, outside the run.

A kernel that was only tested without a device may still hang or crash on one. So a separate process
computes small problems with the kernel and with the definition. Whatever happens to that process,
the run continues: with this kernel if the results agree, otherwise with the next one and a warning.
Other libraries pass the same trial, on all problems whose options they have.

    python -m icm_fast.kernels.tree_attention.trial cuda_wgmma cuda:0 64,128,256
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Required, TypedDict

import torch

from icm_fast.assets.locate import sha256_of
from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import cuda, naive
from icm_fast.kernels.tree_attention.kept import Key, keep, read_kept
from icm_fast.kernels.tree_attention.random_case import Sizes, random_case
from icm_fast.kernels.tree_attention.versions import VERSIONS, Needs, installed
from icm_fast.kernels.tree_attention.work import AttentionWork, TreeAttention

_FOLDER = "kernel-trials"
SECONDS = 300.0
"""Time limit of a trial, including the start of Python and of the device."""
LIBRARY_SECONDS = 900.0
"""The same for libraries, some of which compile a kernel for every problem."""

CUDA_VERSIONS = {"wgmma": "cuda_wgmma", "mma": "cuda"}
"""Versions by the instructions that they use."""

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

    @property
    def needs(self) -> Needs:
        """What it asks of a version."""
        options = self.options
        return Needs.of(
            self.query, self.values, softcap=options.get("softcap"), sinks=options.get("sinks")
        )


def select_products(device: torch.device) -> str | None:
    """Instructions of the fastest CUDA kernel that passes its trial on a device; None if none does.

    Warns once about each kernel that fails.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _select_products(index)


@cache
def _select_products(index: int) -> str | None:
    for products in _candidates(torch.cuda.get_device_capability(index)):
        reason = failure(CUDA_VERSIONS[products], torch.device("cuda", index))
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


def failure(name: str, device: torch.device, head_dims: Sequence[int] = cuda.HEAD_DIMS) -> str:
    """Why a version failed on a device; empty if it passed.

    A passed trial is remembered in the cache folder, for this version, this kind of device and this
    version of torch.

    Args:
        name: A key of ``VERSIONS``.
        device: Where to try it.
        head_dims: Widths of heads to try.
    """
    widths = ",".join(map(str, head_dims))
    tried: Key = {
        "version": name,
        "made_of": _made_of(name),
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "widths": widths,
    }
    if read_kept(_FOLDER, tried, "a trial that was passed") is not None:
        return ""
    seconds = LIBRARY_SECONDS if VERSIONS[name].is_library else SECONDS
    reason = run([sys.executable, "-P", "-m", __name__, name, str(device), widths], seconds)
    if not reason:
        # A cache that is not writable: the next process runs the trial again.
        with suppress(OSError, InputError):
            keep(_FOLDER, tried, {})
    return reason


def _made_of(name: str) -> str:
    """What tells this build of a version from others."""
    if name in CUDA_VERSIONS.values():
        return str(sha256_of(cuda.library_path()))
    packages = ("icm-fast", "triton", VERSIONS[name].package)
    return ", ".join(f"{package} {installed(package)}" for package in packages)


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
        alone: AttentionOptions = {"scaling": scaling, "sliding_window": 200}
        window: AttentionOptions = {**alone, "softcap": 20.0}
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
        yield Problem(f"window alone, {ending}", *case, alone)
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


def check(attend: TreeAttention, problem: Problem) -> None:
    """Compare an implementation with the definition.

    Raises:
        ArithmeticError: Results are wrong, or differ between repetitions.
    """
    query, keys, values, work = problem.query, problem.keys, problem.values, problem.work
    options: dict[str, Any] = {**problem.options}
    wanted = naive.tree_attention(query.float(), keys.float(), values.float(), work, **options)
    if problem.keys_per_split:
        options["keys_per_split"] = problem.keys_per_split
    found = [attend(query, keys, values, work, **options) for _ in range(_REPEATS)]
    difference = float((found[0].float() - wanted).abs().max() / wanted.abs().max())
    limit = LIMITS[problem.query.dtype]
    if not difference <= limit:  # also true for NaN
        raise ArithmeticError(f"{problem.name}: differs by {difference:.2g}, limit {limit:.2g}")
    if not all(torch.equal(found[0], again) for again in found[1:]):
        raise ArithmeticError(f"{problem.name}: results differ between repetitions")


def try_version(name: str, head_dims: Sequence[int], device: torch.device) -> None:
    """Check a version on every problem that it serves.

    Raises:
        ArithmeticError: Results are wrong or unsteady, or it serves no problem.
    """
    version, refused = VERSIONS[name], ""
    attend, n_checked = version.load(), 0
    for problem in problems(head_dims, device):
        if problem.keys_per_split and not version.splits:
            continue
        if reason := version.unserved_because(problem.needs):
            refused = reason
            continue
        check(attend, problem)
        n_checked += 1
    if not n_checked:
        raise ArithmeticError(refused)


def main(arguments: Sequence[str]) -> None:
    """Try a version on a device; exit with status 1 and a reason if it fails."""
    name, device, widths = arguments
    if name not in VERSIONS:
        sys.exit(f"the version must be one of {', '.join(VERSIONS)}, not {name!r}")
    try:
        try_version(name, [int(width) for width in widths.split(",")], torch.device(device))
    except (ArithmeticError, RuntimeError, ValueError, InputError) as error:
        sys.exit(str(error).splitlines()[0])


if __name__ == "__main__":
    main(sys.argv[1:])
