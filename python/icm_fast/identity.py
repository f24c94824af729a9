"""What a folder's results were made of, against what is asked for now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icm_fast.errors import InputError


def json_digest(content: Any) -> str:
    """SHA-256 (hex) over plain JSON types."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def as_stored(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as JSON gives it back, so that a stored and a new one compare equal."""
    content: dict[str, Any] = json.loads(json.dumps(identity))
    return content


def check_same(
    folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> None:
    """Raise InputError, with the first difference, unless two identities are the same."""
    old, new = _flat(stored), _flat(wanted)
    different = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    if not different:
        return
    first, *others = different
    more = f" (also different: {', '.join(others)})" if others else ""
    raise InputError(
        f"{folder} holds a different {what}: {first} is {_short(old.get(first))} there and "
        f"{_short(new.get(first))} here{more}; choose another output folder or delete this one"
    )


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Settings beside the other keys, so that a difference is named by its setting."""
    rest = {key: value for key, value in identity.items() if key != "config"}
    return {**identity.get("config", {}), **rest}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:20] + "..."
