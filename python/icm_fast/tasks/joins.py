"""How a prompt and its label join: most models write a blank between them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_SPACED_AFTER = ".,:;?!)"
"""Signs after which a word begins with a blank."""

_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)
"""Scripts that put no blanks between words, as Unicode names their letters."""


def joined_labels(labels: Sequence[str], prompts: Iterable[str]) -> tuple[str, ...]:
    """Labels as they follow the prompts: with a leading blank where text has one.

    A label without it would be scored as tokens that a model hardly ever writes after a word: the
    end of ``claim isTrue`` instead of that of ``claim is True``. Labels stay as they are if they
    bring a blank or begin with a sign, if a prompt ends in an opening bracket, a quote or another
    sign that a word may follow at once, and in scripts that have no blanks between words.
    """
    endings = {prompt[-1] for prompt in prompts if prompt}
    if not endings or not all(ending in _SPACED_AFTER or _spaced(ending) for ending in endings):
        return tuple(labels)
    return tuple(f" {label}" if label and _spaced(label[0]) else label for label in labels)


def _spaced(character: str) -> bool:
    """Whether a character is part of words that blanks separate."""
    return character.isalnum() and not unicodedata.name(character, "").startswith(_UNSPACED)
