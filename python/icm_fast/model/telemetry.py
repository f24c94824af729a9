"""Nothing is reported to anybody: what other packages send about their use stays off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "WANDB_DISABLED": "true",
    "COMET_MODE": "DISABLED",
    "TRACKIO_DISABLED": "1",
}
"""What trl, transformers, huggingface_hub and reporting tools read, in processes they start too."""


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Switch telemetry off, also where the packages read their settings before."""
    from huggingface_hub import constants

    before = {name: os.environ.get(name) for name in _OFF}
    disabled = constants.HF_HUB_DISABLE_TELEMETRY
    os.environ.update(_OFF)
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = disabled
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
