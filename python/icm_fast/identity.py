"""What produced the results in a folder, compared with what is requested now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from icm_fast.errors import InputError, listed, short_word

_LATER = frozenset(
    (
        *("model_computation", "model_tokens", "chat_tokens", "trl_arguments", "format"),
        *("trl_version", "transformers_version", "peft_version", "torch_version"),
    )
)
"""Keys that came to identities later."""

_WITHOUT_EFFECT = frozenset(("clip",))
"""Settings of earlier versions that changed no result."""


def json_digest(content: object) -> str:
    """SHA-256 (hex) of plain JSON types."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def as_stored(identity: Mapping[str, object]) -> dict[str, object]:
    """An identity as JSON returns it, so that a stored and a new one compare equal."""
    content: dict[str, object] = json.loads(json.dumps(identity))
    return content


def check_same(
    folder: Path, stored: Mapping[str, object], wanted: Mapping[str, object], what: str
) -> None:
    """Raise InputError, with the first difference, unless two identities are the same.

    What earlier versions did not record yet is not compared with their results.
    """
    old, new = _flat(stored), _flat(wanted)
    old = {key: value for key, value in old.items() if key not in _WITHOUT_EFFECT}
    new = {key: value for key, value in new.items() if key in old or key not in _LATER}
    refuse_differences(
        folder,
        [
            (key, old.get(key), new.get(key))
            for key in {**new, **old}
            if old.get(key) != new.get(key)
        ],
        what,
    )


def refuse_differences(
    folder: Path, differences: Sequence[tuple[str, object, object]], what: str
) -> None:
    """Raise InputError if there is a difference.

    Args:
        folder: Where the stored results are.
        differences: Name, stored value and requested value of each.
        what: Kind of the results, for the message.
    """
    if not differences:
        return
    name, old, new = differences[0]
    others = listed([key for key, _, _ in differences[1:]])
    more = f" (also different: {others})" if others else ""
    raise InputError(
        f"{folder} holds a different {what}: {short_word(name)} is {_short(old)} there and "
        f"{_short(new)} here{more}; choose another output folder or delete this one"
    )


def _flat(identity: Mapping[str, object]) -> dict[str, object]:
    """Settings beside the other keys, so that a difference is named by its setting."""
    config = identity.get("config")
    settings = config if isinstance(config, Mapping) else {}
    return {**settings, **{key: value for key, value in identity.items() if key != "config"}}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:20] + "..."
