"""Checked reading of JSON that may be damaged or come from somebody else.

Every reader ends in the value that it promises or in one :class:`InputError`, which names the file
and the line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import (
    NotRequired,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from icm_fast.errors import InputError
from icm_fast.files import read_file

Value = TypeVar("Value")

LARGEST = 2**53
"""Counts in our files are below it; JSON readers of other languages round above."""

_SHOWN = 40


class Fields:
    """The keys of one JSON object, read with their types.

    Args:
        content: What JSON gave.
        where: File, and line where there are several.
        fix: What the user can do about a damaged file.

    Raises:
        InputError: ``content`` is not an object.
    """

    def __init__(self, content: object, where: str, fix: str) -> None:
        self.where = where
        self.fix = fix
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise self.error(f"{_short(content)} is not an object with text keys")
        self.content: Mapping[str, object] = content

    def error(self, problem: str) -> InputError:
        """The error for a ``problem`` of this object."""
        return InputError(f"{self.where}: {problem}; {self.fix}")

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def _get(self, key: str) -> object:
        if key not in self.content:
            raise self.error(f"{key} is missing")
        return self.content[key]

    def wrong(self, key: str, wanted: str) -> InputError:
        """The error for a value that is not ``wanted``."""
        return self.error(f"{key} is {_short(self.content.get(key))}, expected {wanted}")

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not _is_text(value):
            raise self.wrong(key, "text")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string or null; null where the key is missing."""
        return self.text(key) if key in self else None

    def integer(self, key: str, low: int = 0, high: int = LARGEST) -> int:
        """An integer in ``low .. high``."""
        value = self._get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"an integer in {low} .. {high}")
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in ``low .. high``."""
        value = self._get(key)
        if not is_number(value) or not low <= value <= high:
            limits = "" if (low, high) == (-math.inf, math.inf) else f" in {low:g} .. {high:g}"
            raise self.wrong(key, f"a finite number{limits}")
        return value

    def optional_number(self, key: str, low: float = -math.inf) -> float | None:
        """A finite number or null; null where the key is missing."""
        return self.number(key, low) if key in self else None

    def numbers(self, key: str, length: int | None = None) -> list[float]:
        """A list of finite numbers."""
        value = self._get(key)
        if (
            not isinstance(value, list)
            or not all(map(is_number, value))
            or length not in (None, len(value))
        ):
            count = "" if length is None else f"{length} "
            raise self.wrong(key, f"a list of {count}finite numbers")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._get(key)
        if not isinstance(value, list) or not all(
            isinstance(v, str) and _is_text(v) for v in value
        ):
            raise self.wrong(key, "a list of texts")
        return value

    def inner(self, key: str) -> Fields:
        """An object inside this one."""
        return Fields(self._get(key), f"{self.where}, {key}", self.fix)

    def objects(self, key: str) -> list[Fields]:
        """A list of objects."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list of objects")
        return [
            Fields(one, f"{self.where}, {key} {number}", self.fix)
            for number, one in enumerate(value, start=1)
        ]


def check_shape(fields: Fields, shape: type) -> None:
    """Raise InputError unless an object has the keys of a TypedDict or dataclass, of their types.

    Further keys are left alone. A float may be NaN, and an integer stands for a float.
    """
    for key, hint in get_type_hints(shape, include_extras=True).items():
        if key not in fields.content and get_origin(hint) is not NotRequired:
            raise fields.error(f"{key} is missing")
        if key in fields.content and not _fits(fields.content[key], hint):
            raise fields.wrong(key, f"a value of type {getattr(hint, '__name__', hint)}")


def read_shape(path: Path, shape: type[Value], fix: str) -> Value:
    """The object of a JSON file that has the shape of a TypedDict."""
    fields = read_object(path, fix)
    check_shape(fields, shape)
    known = get_type_hints(shape)
    # check_shape has looked at every key that is left.
    return cast(Value, {key: v for key, v in fields.content.items() if key in known})


def _fits(value: object, hint: object) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is float:
        return is_number(value) or type(value) is float
    if hint is int:
        return type(value) is int and abs(value) <= LARGEST
    if hint is str:
        return _is_text(value)
    if isinstance(hint, type) and is_typeddict(hint):
        return _has_shape(value, hint)
    if origin in (Union, UnionType, NotRequired):
        return any(_fits(value, one) for one in inner)
    if origin in (list, tuple):
        return isinstance(value, list) and _fit_all(value, inner, same=origin is list)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if isinstance(hint, type):
        return isinstance(value, hint)
    return origin is None


def _fit_all(values: list[object], hints: tuple[object, ...], *, same: bool) -> bool:
    if same or hints[-1] is Ellipsis:
        return all(_fits(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(map(_fits, values, hints))


def _has_shape(value: object, shape: type) -> bool:
    hints = get_type_hints(shape, include_extras=True)
    return isinstance(value, dict) and all(
        _fits(value[key], hint) if key in value else get_origin(hint) is NotRequired
        for key, hint in hints.items()
    )


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number that a float can hold."""
    if type(value) is int:
        return abs(value) < 10**300
    return type(value) is float and math.isfinite(value)


def read_object(path: Path, fix: str) -> Fields:
    """The object that a JSON file holds."""
    return Fields(_decoded(_text(path, fix), str(path), fix), str(path), fix)


def read_object_lines(path: Path, fix: str) -> list[Fields]:
    """The objects of a JSONL file, one per line."""
    found = []
    for number, line in enumerate(_text(path, fix).split("\n"), start=1):
        if line:
            where = f"{path}, line {number}"
            found.append(Fields(_decoded(line, where, fix), where, fix))
    return found


def read_line(line: bytes, where: str, fix: str) -> Fields:
    """The object of one line of a file that is read as a stream."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8; {fix}") from error
    return Fields(_decoded(text, where, fix), where, fix)


def read_text(path: Path, fix: str) -> str:
    """The text of a file of ours."""
    return _text(path, fix)


def checked(read: Callable[[], Value], where: str, fix: str) -> Value:
    """What ``read`` returns; an error of the data model becomes an InputError about ``where``."""
    try:
        return read()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: {_short(str(error), 200)}; {fix}") from error


def _text(path: Path, fix: str) -> str:
    content = read_file(path, fix)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; {fix}") from error


def _decoded(text: str, where: str, fix: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "damaged"
        raise InputError(f"{where}: {reason}, not JSON; {fix}") from error


def _is_text(value: object) -> TypeGuard[str]:
    """Whether UTF-8 can hold it: JSON can name half a character (a lone surrogate)."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _short(value: object, limit: int = _SHOWN) -> str:
    text = value if isinstance(value, str) and limit != _SHOWN else _shown(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if type(value) is int and abs(value) > LARGEST:
        return "an integer of many digits"
    return ascii(value)
