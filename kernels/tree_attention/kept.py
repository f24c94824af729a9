"""What was found out about a device, kept in the cache folder: one JSON file for each key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from icm_fast.assets.cache import cache_dir, cache_folder, private_folder
from icm_fast.errors import InputError
from icm_fast.files import is_file, read_file, write_atomically, writing
from icm_fast.identity import json_digest

Key = Mapping[str, str | int]
"""What the content depends on."""

_FIX = "delete it"


def device_name(device: torch.device) -> str:
    """The kind of a device; kernels on a CPU run in Triton's interpreter."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def kept_file(folder: str, key: Key) -> Path:
    """File of a key, whether or not it exists."""
    return cache_dir() / folder / f"{json_digest(key)[:32]}.json"


def read_kept(folder: str, key: Key, what: str) -> dict[str, Any] | None:
    """What was kept for a key; None if nothing was.

    Raises:
        InputError: The file is damaged; the message says that it does not hold ``what``.
    """
    path = kept_file(folder, key)
    if not is_file(path):
        return None
    private_folder(path.parent)
    try:
        content = json.loads(read_file(path, _FIX))
    except InputError:
        raise
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("key") != key:
        raise damaged(folder, key, what)
    return content


def damaged(folder: str, key: Key, what: str) -> InputError:
    """The error of a file that does not hold what it should."""
    return InputError(f"{kept_file(folder, key)} does not hold {what}; {_FIX}")


def keep(folder: str, key: Key, content: Mapping[str, object]) -> Path:
    """Keep a content for a key; later processes read it.

    Raises:
        InputError: It cannot be written.
    """
    path = kept_file(folder, key)
    with writing(path):
        cache_folder(folder)
    write_atomically(path, json.dumps({"key": key, **content}).encode() + b"\n")
    return path
