"""Which library serves instead of our kernels: one that was measured to be faster on this device.

By default ours serve. ``icm-fast tune-kernels`` times all versions that pass the trial on a whole
tree and keeps the times for this kind of device, these heads and these versions of everything. A
library that was faster by more than a tenth serves from then on. Nothing is timed during a run,
whose numbers would depend on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from icm_fast.assets.locate import sha256_of
from icm_fast.kernels.tree_attention import cuda, trial
from icm_fast.kernels.tree_attention.kept import Key, damaged, device_name, keep, read_kept
from icm_fast.kernels.tree_attention.tuned_tiles import HeadShape
from icm_fast.kernels.tree_attention.versions import LIBRARIES, VERSIONS, Needs, Version, installed

FASTER = 1.1
"""A library serves where ours took more than this times as long."""

_FOLDER = "kernel-versions"


@dataclass(frozen=True, slots=True)
class Times:
    """What was measured on one kind of device for one shape of heads.

    Attributes:
        ours: Name of our version that served.
        seconds: Time of the attention of one U(D) by version, ours among them.
    """

    ours: str
    seconds: Mapping[str, float]

    def ratio(self, name: str) -> float:
        """How many times as fast as ours a version was."""
        return self.seconds[self.ours] / self.seconds[name]

    def fastest_library(self) -> str:
        """The fastest library, if it was faster than ours by more than a tenth; otherwise empty."""
        libraries = [one.name for one in LIBRARIES if one.name in self.seconds]
        best = max(libraries, key=self.ratio, default="")
        return best if best and self.ratio(best) > FASTER else ""


@cache
def stored_times(shape: HeadShape, device: torch.device) -> Times | None:
    """What was measured here; None if nothing was. Read once per process.

    Raises:
        InputError: The file does not hold times.
    """
    key = _key(shape, device)
    content = read_kept(_FOLDER, key, "times of versions")
    if content is None:
        return None
    ours, seconds = content.get("ours"), content.get("seconds")
    if not isinstance(ours, str) or not isinstance(seconds, dict) or ours not in seconds:
        raise damaged(_FOLDER, key, "times of versions")
    if not all(n in VERSIONS and type(time) is float and time > 0 for n, time in seconds.items()):
        raise damaged(_FOLDER, key, "times of versions")
    return Times(ours, seconds)


def store_times(times: Times, shape: HeadShape, device: torch.device) -> Path:
    """Keep what was measured on this kind of device; later processes choose by it."""
    content = {"ours": times.ours, "seconds": dict(times.seconds)}
    path = keep(_FOLDER, _key(shape, device), content)
    stored_times.cache_clear()
    return path


def library_instead(needs: Needs) -> Version | None:
    """The library that serves instead of ours; None for ours.

    Warns once where the measured library fails its trial.
    """
    if needs.device.type != "cuda":
        return None
    times = stored_times(needs.shape, needs.device)
    name = times.fastest_library() if times is not None else ""
    if not name or VERSIONS[name].unserved_because(needs):
        return None
    return None if _failure(name, needs.device, needs.shape.head_dim) else VERSIONS[name]


def others_because(needs: Needs, serving: str) -> dict[str, str]:
    """Why each library other than the one that serves does not; by name."""
    times = stored_times(needs.shape, needs.device)
    return {
        one.name: one.unserved_because(needs) or _slower_because(one.name, needs, times)
        for one in LIBRARIES
        if one.name != serving
    }


def _slower_because(name: str, needs: Needs, times: Times | None) -> str:
    if times is None:
        return "not measured on this device for these heads; `icm-fast tune-kernels` does"
    if name not in times.seconds:
        return "it failed when it was measured; `icm-fast tune-kernels` says why"
    if name == times.fastest_library():
        return _failure(name, needs.device, needs.shape.head_dim)
    ratio = f"measured {times.ratio(name):.2f} times as fast as {times.ours}"
    return f"{ratio}, not by more than a tenth" if times.ratio(name) <= FASTER else ratio


@cache
def _failure(name: str, device: torch.device, head_dim: int) -> str:
    """Why a library fails its trial; empty if it passes. Asked once per process."""
    reason = trial.failure(name, device, (head_dim,))
    if reason:
        warnings.warn(
            f"{name} was measured to be the fastest attention on {device_name(device)}, but is not "
            f"used: {reason}. Run `icm-fast tune-kernels` again",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason


def _key(shape: HeadShape, device: torch.device) -> Key:
    """What the times depend on."""
    library = cuda.library_path()
    packages = ("icm-fast", "triton", *dict.fromkeys(one.package for one in LIBRARIES))
    return {
        "device": device_name(device),
        **{package: installed(package) for package in packages},
        "torch": torch.__version__,
        "library": sha256_of(library) if library.is_file() else "",
        "group": shape.group,
        "head_dim": shape.head_dim,
        "value_dim": shape.value_dim,
        "dtype": str(shape.dtype),
    }
