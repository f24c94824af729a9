"""Token ids of texts that come from data: what looks like a control token there stays text.

``<|im_end|>`` or ``</s>`` inside a review would otherwise end a turn or the whole text. A text that
holds none is encoded by the tokenizer's ordinary call.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence, Sized
from functools import lru_cache
from itertools import takewhile
from typing import Protocol, overload, runtime_checkable

from icm_fast.errors import InputError, shown
from icm_fast.types import Dataset


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that icm_fast uses."""

    def __hash__(self) -> int:
        """By identity: what is derived from a tokenizer is kept."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, if there is one."""

    @overload
    def __call__(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> Mapping[str, list[int]]: ...

    @overload
    def __call__(
        self, text: list[str], *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> Mapping[str, list[list[int]]]: ...

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> Mapping[str, list[int]] | Mapping[str, list[list[int]]]:
        """Return an encoding with ``input_ids``: one list of ids for each text."""


@runtime_checkable
class Decoder(Protocol):
    """A tokenizer that turns ids back into text."""

    def decode(
        self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str | list[str]:
        """Return the text of ids."""


def control_token_in(text: str, tokenizer: Tokenizer) -> str | None:
    """The first control token that a text spells out, or None."""
    pattern = _control_pattern(tokenizer, _size(tokenizer))
    found = None if pattern is None else pattern.search(text)
    return None if found is None else found[0]


def text_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts without special tokens around them or in them.

    Raises:
        InputError: A text spells out a control token that the tokenizer can't read as text.
    """
    encoded = [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    for k, text in enumerate(texts):
        token = control_token_in(text, tokenizer)
        if token is not None:
            encoded[k] = _split_ids(tokenizer, text, token)
    return encoded


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _split_ids(tokenizer: Tokenizer, text: str, token: str) -> list[int]:
    """Ids of a text that spells out a control token."""
    try:
        ids = list(
            tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
    except TypeError:  # a tokenizer that knows no such option
        ids = []
    if not ids or _control_ids(tokenizer, _size(tokenizer)) & set(ids):
        raise InputError(
            f"the text {shown(text)} holds {token!r}, a control token that this tokenizer cannot "
            "read as text; remove it"
        )
    return ids


def _size(tokenizer: Tokenizer) -> int:
    """Tokens that a tokenizer has, since more may be added later."""
    return len(tokenizer) if isinstance(tokenizer, Sized) else 0


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Tokenizer, size: int) -> Mapping[str, int]:
    """Ids of the tokens that stand for no text, by how they are written."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {str(token): number for number, token in added.items() if token.special}
    # A letter or a sign that pads texts in some models is text all the same.
    return {text: number for text, number in found.items() if len(text.strip()) > 1}


@lru_cache(maxsize=8)
def _control_pattern(tokenizer: Tokenizer, size: int) -> re.Pattern[str] | None:
    words = sorted(_control_tokens(tokenizer, size), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))) if words else None


@lru_cache(maxsize=8)
def _control_ids(tokenizer: Tokenizer, size: int) -> frozenset[int]:
    return frozenset(_control_tokens(tokenizer, size).values())


def marked_text(decoder: Decoder, ids: Sequence[int]) -> str:
    """The text of ids on one line, with ``|`` between tokens that end a character."""
    parts: list[str] = []
    done = 0
    for end in range(1, len(ids) + 1):
        text = _decoded(decoder, ids[:end])
        if not text.endswith("\ufffd") or end == len(ids):
            parts.append(text[done:])
            done = len(text)
    return "|".join(parts).replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def _decoded(decoder: Decoder, ids: Sequence[int]) -> str:
    text = decoder.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def lost_texts(tokenizer: Tokenizer, decoder: Decoder, texts: Sequence[str]) -> list[int]:
    """Positions of the texts that are others after they are encoded and decoded.

    Differences of Unicode form (NFKC), case and blanks do not count: many tokenizers are made so.

    Args:
        tokenizer: Encodes.
        decoder: The same tokenizer.
        texts: What is to be read.
    """
    lost = []
    for position, (text, ids) in enumerate(zip(texts, text_ids(tokenizer, texts), strict=True)):
        if _comparable(_decoded(decoder, ids)) != _comparable(text):
            lost.append(position)
    return lost


def lost_texts_sentence(tokenizer: Tokenizer, dataset: Dataset) -> str | None:
    """A sentence about prompts of which tokens keep only a part; None if there are none."""
    if not isinstance(tokenizer, Decoder):
        return None
    examples = dataset.examples
    rows = lost_texts(tokenizer, tokenizer, [example.prompt for example in examples])
    if not rows:
        if not dataset.preamble or not lost_texts(tokenizer, tokenizer, [dataset.preamble]):
            return None
        return (
            "the tokenizer changes the preamble, beyond case, blanks and Unicode form; remove "
            "characters that it does not know, or use another model"
        )
    return (
        f"the tokenizer changes {len(rows)} of {len(examples)} prompts, beyond case, blanks and "
        f"Unicode form: example {examples[rows[0]].id!r} (row {rows[0]}) is the first; remove "
        "characters that it does not know, or use another model"
    )


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
