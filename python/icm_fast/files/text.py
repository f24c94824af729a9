"""Texts of others in what people read: without escape sequences, markup or secrets."""

from __future__ import annotations

import re

_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""They reorder the text around them, so that it reads as something else."""

_HIDDEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{_BIDI}]")
"""Control characters but for the line feed and the tabulator."""

_BACKSLASH = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)")
"""A backslash that Markdown would not show."""

_MARKUP = re.compile(r"[`|\[]")
_ENTITY = re.compile(r"&(?=#?\w+;)")

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY_SECRET = re.compile(
    r"([?&;](?:[\w.-]*(?:key|token|secret|signature|password|credential|sig))=)[^&;#\s]+", re.I
)
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}|sk-[\w-]{8,}|gh[pousr]_\w{8,}|github_pat_\w{8,}|xox[abprs]-[\w-]{8,}"
    r"|AKIA[A-Z0-9]{12,})"
)


def printable(text: str) -> str:
    """The text as a terminal may print it: control and reordering characters escaped."""
    return _HIDDEN.sub(lambda found: _escaped(found[0]), text)


def cell(value: object) -> str:
    """A value as one cell of a Markdown table, or as part of a line of Markdown.

    Pipes, code, links and HTML are escaped, line breaks become blanks. Emphasis is left: it does no
    harm, and names are full of underscores.
    """
    text = _BACKSLASH.sub(r"\\\\", printable(" ".join(str(value).split())))
    text = _ENTITY.sub("&amp;", text).replace("<", "&lt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def fenced(text: str, language: str = "") -> str:
    """A block of code of Markdown, whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}{fence}"


def code(text: str) -> str:
    """Code within a line of Markdown, whose fence is longer than any in the text."""
    text = printable(" ".join(text.split()))
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(len(run) for run in re.findall("`+", text)))
    return f"{fence} {text} {fence}"


def without_secrets(text: str) -> str:
    """The text without passwords and keys in addresses, and without access tokens."""
    text = _CREDENTIALS.sub("(removed)@", text)
    return _TOKENS.sub("(removed)", _QUERY_SECRET.sub(r"\1(removed)", text))


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}"
