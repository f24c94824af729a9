"""YAML 1.2 (its core schema), where ``1e-4`` is a number, ``010`` is ten and ``no`` is a word.

Keys are always text. A value may be kept as the text that stands in the file, where a name is
wanted and ``007`` must not become a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any

from icm_fast.documents.limits import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NODES,
    NotYamlError,
    RefusedError,
    too_deep,
    too_long,
)
from icm_fast.errors import InputError, first_line, shown

if TYPE_CHECKING:
    import yaml

_NEXT_LINE = "\x85"
_CORE = "tag:yaml.org,2002:"
_WORDS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
"""Plain words of YAML 1.2's core schema that are not text; the first that fits counts."""


def parse_yaml(
    text: str,
    where: str,
    *,
    texts: Collection[str] = (),
    as_text: bool = False,
    aliases: bool = False,
) -> object:
    """Return the value of a YAML 1.2 text; an empty one is None.

    Args:
        text: The YAML text, one document.
        where: Name of its file, for messages.
        texts: Keys whose values, as deep as they go, are text as it stands in the file.
        as_text: Whether all of it is.
        aliases: Whether a value may stand for another one (``*name``).

    Raises:
        InputError: Not YAML, a key twice in one mapping, an alias, or a value beyond a limit.
    """
    node = _compose(text, where, aliases=aliases)
    return None if node is None else _value(node, where, texts, as_text)


def parse_old_yaml(text: str, where: str) -> object:
    """Return the value of a YAML 1.1 text as PyYAML writes it, for example in run folders.

    Raises:
        InputError: Not YAML, or a value beyond a limit.
    """
    import yaml

    node = _compose(text, where, old=True, aliases=True)
    try:
        loader = yaml.SafeLoader("")
        return None if node is None else loader.construct_document(node)
    except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"{where}: a value cannot be read ({problem}); quote it") from error


def yaml_text(content: object, *, width: int = 80) -> str:
    """The content as YAML that :func:`parse_old_yaml` reads back as it was, keys in their order.

    Args:
        content: Mappings, lists, text, numbers, truth values and None.
        width: Characters after which lines are broken where they can be.
    """
    import yaml

    text: str = yaml.dump(
        content, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=width
    )
    return text


@cache
def _dumper() -> type[yaml.SafeDumper]:
    """PyYAML's writer, which quotes every text that its reader would change."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_str(self, data: str) -> yaml.ScalarNode:
            style = '"' if _NEXT_LINE in data else None  # elsewhere it is read as a line's end
            return self.represent_scalar(_CORE + "str", data, style=style)

    Dumper.add_representer(str, Dumper.represent_str)
    return Dumper


@cache
def _loader(old: bool, aliases: bool) -> type[yaml.SafeLoader]:
    """PyYAML's parser with limits and, unless ``old``, the plain words of YAML 1.2."""
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0
        size = 0

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it open
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) and not aliases:
                raise RefusedError(
                    f", line {line}: an alias (*{event.anchor}); write the value out"
                )
            if self.depth > MAX_DEPTH:
                raise RefusedError(too_deep(f", line {line}"))
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    if not old:
        Loader.yaml_implicit_resolvers = {
            None: [(_CORE + name, words) for name, words in _WORDS.items()]
        }
    return Loader


def _compose(
    text: str, where: str, *, old: bool = False, aliases: bool = False
) -> yaml.Node | None:
    import yaml

    try:
        node: yaml.Node | None = _loader(old, aliases)(text).get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise NotYamlError(where, line, str(problem or "unreadable")) from error
    except RefusedError as error:
        raise InputError(f"{where}{error}") from error
    if aliases and node is not None and _weight(node, {}) > MAX_NODES:
        raise InputError(f"{where}: its aliases stand for more than {MAX_NODES:,} values")
    return node


def _weight(node: yaml.Node, known: dict[int, float]) -> float:
    """Values in a node with its aliases replaced; infinite where it holds itself."""
    import yaml

    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    weight = 1 + sum(_weight(part, known) for part in parts)
    known[id(node)] = weight
    return weight


def _value(node: yaml.Node, where: str, texts: Collection[str], as_text: bool) -> object:
    """What a node holds; a scalar is text where ``as_text`` says so, and it is not null."""
    import yaml

    at = f"{where}, line {node.start_mark.line + 1}"
    tag = node.tag.removeprefix(_CORE)
    if isinstance(node, yaml.MappingNode) and tag == "map":
        return _mapping(node, where, texts, as_text)
    if isinstance(node, yaml.SequenceNode) and tag == "seq":
        return [_value(part, where, texts, as_text) for part in node.value]
    if isinstance(node, yaml.ScalarNode) and tag in (*_WORDS, "str"):
        return _scalar(at, tag, node.value, as_text)
    raise InputError(f"{at}: values of type {shown(node.tag)} are not read; write plain YAML")


def _mapping(
    node: yaml.MappingNode, where: str, texts: Collection[str], as_text: bool
) -> dict[str, object]:
    import yaml

    content: dict[str, object] = {}
    for key, value in node.value:
        at = f"{where}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{at}: a key is a list or a mapping; write text")
        if key.value in content:
            raise InputError(
                f"{at}: key {shown(key.value)} stands twice in one mapping; remove one"
            )
        content[key.value] = _value(value, where, texts, as_text or key.value in texts)
    return content


def _scalar(at: str, tag: str, text: str, as_text: bool) -> object:
    if tag == "null":
        return None
    if tag == "str" or as_text:
        return text
    if tag == "bool":
        return text.lower() == "true"
    if len(text) > MAX_DIGITS:
        raise InputError(f"{at}: {too_long(text)}")
    try:
        if tag == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        return float(re.sub(r"\.(inf|nan)\Z", r"\1", text.lower()))
    except ValueError as error:  # an explicit tag: !!int word
        raise InputError(f"{at}: {shown(text)} is not of type {tag}; correct it") from error
