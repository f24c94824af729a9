"""Changes of an input: bits, bytes, pieces, lines, and words that matter to a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

LONGEST = 1 << 20
"""Bytes of an input; longer ones are cut."""

_NUMBERS = (
    *(b"0", b"-1", b"1e400", b"-0.0", b"NaN", b"Infinity", b"9223372036854775808", b"1e-4"),
    *(b"010", b"true", b"null", b"4294967296", b"0.5", b"1" * 401),
)
_MARKS = (b'"', b"'", b"{", b"}", b"[", b"]", b":", b",", b"\n", b"\r\n", b"\t", b"\\", b"#", b"=")
_ODD = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\x1b[31m", b"&a *a"),
    *("\u202e\u2028\u00e9".encode(), b"!!python/name:os.system", b"../", b"x" * 300),
)
WORDS = (*_NUMBERS, *_MARKS, *_ODD)


def mutate(random: Random, data: bytes, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One to four random changes of ``data``."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        change = random.choice(_CHANGES)
        data = change(random, data, corpus, words)[:LONGEST]
    return data


def _place(random: Random, data: bytes) -> int:
    """A place in the data, more often near its beginning, where headers are."""
    if random.random() < 0.3:
        return random.randint(0, min(len(data), 64))
    return random.randint(0, len(data))


def _flip(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = min(_place(random, data), len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _set(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    at = _place(random, data)
    return (
        data[:at]
        + bytes([random.choice((0, 1, 127, 128, 255, random.randrange(256)))])
        + (data[at + 1 :])
    )


def _integer(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """Little-endian integers at the limits, as sizes of binary headers."""
    at, size = _place(random, data), random.choice((2, 4, 8))
    value = random.choice((0, 1, -1, 2 ** (8 * size - 1), random.getrandbits(8 * size), 1 << 20))
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :]


def _cut(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    return data[: random.randint(0, len(data))]


def _drop(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + random.choice((1, 1, 2, 8, random.randint(1, 200))) :]


def _repeat(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    at = _place(random, data)
    piece = data[at : at + random.randint(1, 60)]
    return data[:at] + piece * random.choice((1, 2, 80)) + data[at:]


def _word(random: Random, data: bytes, _: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at, word = _place(random, data), random.choice((*words, *WORDS))
    return data[:at] + word + data[at + random.choice((0, len(word), 1)) :]


def _number(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """Another number in place of one in the text."""
    starts = [k for k in range(len(data)) if data[k : k + 1].isdigit()][:2000]
    if not starts:
        return data
    at = random.choice(starts)
    end = at
    while end < len(data) and data[end : end + 1] in b"0123456789.eE+-":
        end += 1
    return data[:at] + random.choice(_NUMBERS) + data[end:]


def _lines(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """Two lines swapped, or one dropped or doubled."""
    lines = data.split(b"\n")
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(3)
    if kind == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 1:
        del lines[a]
    else:
        lines.insert(b, lines[a])
    return b"\n".join(lines)


def _splice(random: Random, data: bytes, corpus: Sequence[bytes], _: Sequence[bytes]) -> bytes:
    other = random.choice(corpus)
    return data[: _place(random, data)] + other[_place(random, other) :]


_CHANGES: tuple[Callable[..., bytes], ...] = (
    *(_flip, _set, _integer, _cut, _drop, _repeat, _word, _word, _word, _number, _number),
    *(_lines, _splice),
)
