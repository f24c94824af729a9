"""What produced the results in a folder, compared with what is requested now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from icm_fast.errors import InputError, listed, short_word, shown

SERVER_TEXTS = "model_texts"
"""Key that says of a model on a server whether it could be asked for texts: ``yes`` or ``no``."""

SERVED = "server"
"""What stands for the dtype of a model on a server, which does not tell it."""

_LATER = frozenset(
    (
        SERVER_TEXTS,
        *("model_computation", "model_tokens", "chat_tokens", "trl_arguments", "format"),
        *("trl_version", "transformers_version", "peft_version", "torch_version"),
    )
)
"""Keys that came to identities later."""

_WITHOUT_EFFECT = frozenset(("clip",))
"""Settings of earlier versions that changed no result."""


PROBE = "model_probe"
"""Key of the answers that a model on a server gave to known sentences."""

Known = Mapping[str, float]
"""Log-probabilities of the most likely tokens after a known sentence, by their names."""

_COMPARED = 3
"""Most likely tokens that are compared; the further ones may change places."""

_LARGEST_MEAN = 0.1
_LARGEST = 0.5
"""Differences, in nats, that other batches of the same half-precision model stay below."""


def probe_difference(before: Known, now: Known) -> str:
    """How two answers to one probe differ, beyond what rounding explains; empty if they do not."""
    likely = sorted(before, key=lambda token: -before[token])[:_COMPARED]
    missing = [token for token in likely if token not in now]
    if likely[:1] == missing[:1]:
        return f"the most likely token was {shown(likely[0])}, which is not likely now"
    apart = [abs(before[token] - now[token]) for token in likely if token in now]
    if len(missing) > 1 or sum(apart) > _LARGEST_MEAN * len(apart) or max(apart) > _LARGEST:
        return f"log-probabilities of a known sentence differ by up to {max(apart):.2g}"
    return ""


def record_difference(before: object, now: str) -> str:
    """How the answers of a model to known sentences differ; empty if they do not.

    Args:
        before: The stored answers: a JSON list with one object for each sentence.
        now: The answers of the model that is asked now.
    """
    try:
        old, new = json.loads(str(before)), json.loads(now)
        if len(old) != len(new):
            return "other sentences were asked"
        return next(filter(None, map(probe_difference, old, new)), "")
    except (ValueError, TypeError, AttributeError, IndexError):
        return "the stored answers are damaged"


def check_probe(folder: Path, stored: Mapping[str, object], now: str) -> None:
    """Raise InputError if another model answers than the one whose answers are stored.

    Args:
        folder: Where they are stored.
        stored: An identity; nothing is compared if it holds no answers.
        now: See :func:`record_difference`; empty for a model in this process.
    """
    difference = record_difference(stored[PROBE], now) if now and PROBE in stored else ""
    if difference:
        raise InputError(
            f"{folder} holds scores of another model than the one that answers now: {difference}; "
            "restore the model, choose another output folder or delete this one"
        )


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
