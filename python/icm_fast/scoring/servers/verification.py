"""Is it the model that the run began with, and does it read what the tokenizer writes?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icm_fast.errors import InputError, shown
from icm_fast.identity import Known, probe_difference
from icm_fast.plan.pieces import root_ids
from icm_fast.plan.text_ids import text_ids

if TYPE_CHECKING:
    from icm_fast.plan.text_ids import Tokenizer
    from icm_fast.scoring.servers.dialect import Answer

PROBES = (
    "The capital of France is Paris, and the capital of Italy is",
    "Monday, Tuesday, Wednesday, Thursday,",
    "Two plus two equals four, and three plus three equals",
    "She opened the door, looked outside and saw that it was",
)

KNOWN_TEXTS = (
    *PROBES,
    'In 2024, 1 of 17 (6%) said: "it\'s fine"!\n\nReview:  two  blanks\tand a tabulator',
    "naïve café — 東京, Москва, ελληνικά 🙂",
    "def f(x):\n    return x**2  # comment\n",
)


Likely = Callable[[Sequence[int]], Known]
Again = Callable[[Sequence[int], Known], Known]

_FIRST_TRIES = 5


class Witness:
    """Known sentences with the answers that the model gave at the start.

    Args:
        likely: Asks the server for the most likely tokens after token ids.
        again: Asks for the same tokens as before; also gets the answer of then.
        tokenizer: Of the model.
        name: What the user called the server, for messages.

    Raises:
        InputError: The server answers differently each time, or not at all.
    """

    def __init__(self, likely: Likely, again: Again, tokenizer: Tokenizer, name: str) -> None:
        self._likely = likely
        self._again = again
        self._name = name
        root = list(root_ids(tokenizer))
        self._prompts = [root + ids for ids in text_ids(tokenizer, PROBES)]
        self._known = [self._settled(prompt) for prompt in self._prompts]
        self._next = 0

    def vouch(self) -> None:
        """Ask one of the sentences again, in turn.

        Raises:
            InputError: Another model answers.
        """
        place = self._next
        self._next = (place + 1) % len(self._prompts)
        before = self._known[place]
        difference = probe_difference(before, self._again(self._prompts[place], before))
        if difference:
            raise InputError(
                f"another model answers at {self._name} than at the start: {difference}; scores "
                "since the last check were thrown away: restore the model, then run the same "
                "command again to resume"
            )

    def record(self) -> str:
        """The answers as text, for a run to compare later."""
        rounded = [
            {token: round(value, 4) for token, value in known.items()} for known in self._known
        ]
        return json.dumps(rounded, sort_keys=True)

    def _settled(self, prompt: Sequence[int]) -> Known:
        """The answer that is given twice in a row."""
        before = self._likely(prompt)
        for _ in range(_FIRST_TRIES):
            now = self._likely(prompt)
            difference = probe_difference(before, now)
            if not difference:
                return now
            before = now
        raise InputError(
            f"{self._name} answers a known sentence differently each time: {difference}; are there "
            "several models after this address?"
        )


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """How the tokenizer was compared with that of the server.

    Attributes:
        n_texts: Known texts that were compared.
        by_ids: Whether ids were compared, and not their numbers alone.
    """

    n_texts: int
    by_ids: bool


def check_tokenizer(
    tokenizer: Tokenizer,
    name: str,
    server_ids: Callable[[str], list[int] | None],
    ask_text: Callable[[str], Answer],
) -> TokenCheck:
    """Compare a tokenizer with that of the server on known texts.

    Args:
        tokenizer: Makes the prompts.
        name: What the user called it.
        server_ids: Token ids that the server makes of a text; None where it does not tell.
        ask_text: Sends a text as a prompt; only the count of its tokens is read.

    Raises:
        InputError: They make different tokens, or the server counts none.
    """
    n_root = len(root_ids(tokenizer))
    by_ids = True
    for text, ours in zip(KNOWN_TEXTS, text_ids(tokenizer, KNOWN_TEXTS), strict=True):
        theirs = server_ids(text) if by_ids else None
        if theirs is not None:
            if theirs != ours:
                raise InputError(_other_tokens(name, text, f"{ours[:8]}", f"{theirs[:8]}"))
            continue
        by_ids = False
        count = ask_text(text).n_prompt
        if count is None:
            raise InputError(
                "the server tells neither tokens nor their number (usage.prompt_tokens), so the "
                "tokenizer cannot be checked; use a server that does"
            )
        # Servers put their own beginning of a text before it, or not.
        if count not in (len(ours), len(ours) + n_root, len(ours) + 1):
            raise InputError(_other_tokens(name, text, f"{len(ours)} tokens", f"{count}"))
    return TokenCheck(len(KNOWN_TEXTS), by_ids)


def _other_tokens(name: str, text: str, ours: str, theirs: str) -> str:
    return (
        f"tokenizer {name} is not that of the server: {shown(text)} is {ours} here and {theirs} "
        "there; name the model's own one with --tokenizer (a hub id or a folder)"
    )
