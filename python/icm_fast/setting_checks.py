"""What every class of settings checks in the same way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from icm_fast.errors import InputError, suggest


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise InputError unless ``value`` is a number in ``low .. high``; a whole one if low is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} must be a number, got {value!r}")
    if isinstance(low, int) and not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{name} = {value} lies outside {low} .. {high}")


def check_names(names: Iterable[Any], known: Iterable[str]) -> None:
    """Raise InputError for the first of ``names`` that is no setting; it names the nearest."""
    settings = set(known)
    for name in names:
        if name not in settings:
            raise InputError(f"unknown setting {name!r}{suggest(str(name), settings)}")
