"""JSON, with a place in every message."""

from __future__ import annotations

import json
from collections import Counter

from icm_fast.documents.limits import MAX_DIGITS, RefusedError, check_depth, too_deep, too_long
from icm_fast.errors import InputError, shown


def parse_json(text: str, where: str, *, line: int | None = None) -> object:
    """Return the value of a JSON text.

    Args:
        text: The JSON text.
        where: Name of its file, for messages.
        line: Number of the line on which the text begins, if it is one of several.

    Raises:
        InputError: Not JSON, a key twice in one object, or a value beyond a limit.
    """
    start = line or 1
    try:
        content: object = json.loads(text, parse_int=_json_integer, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}, line {start + error.lineno - 1}: not JSON ({error.msg} at column "
            f"{error.colno}); correct that line"
        ) from error
    except RefusedError as error:
        at = "" if line is None else f", line {start}"
        raise InputError(f"{where}{at}: {error}") from error
    except RecursionError as error:
        at = "" if line is None else f", line {start}"
        raise InputError(too_deep(f"{where}{at}")) from error
    check_depth(content, where if line is None else f"{where}, line {start}")
    return content


def _json_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RefusedError(too_long(digits))
    return int(digits)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise RefusedError(f"key {shown(twice)} stands twice in one object; remove one")
    return content
