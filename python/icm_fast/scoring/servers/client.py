"""A server that was opened: prompts in, log-probabilities of named tokens out, each checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from icm_fast.errors import InputError
from icm_fast.identity import Known
from icm_fast.scoring.servers.dialect import (
    PROBE_TOP,
    Answer,
    Dialect,
    ServerFacts,
    token_key,
    token_of,
)
from icm_fast.scoring.servers.schedule import run_in_order, waits_for
from icm_fast.scoring.servers.transport import Channel, UnusableError
from icm_fast.scoring.servers.verification import Witness

if TYPE_CHECKING:
    from icm_fast.plan.text_ids import Tokenizer

T = TypeVar("T")

VOUCH_EVERY = 256
"""Requests after which a known sentence is asked again, at the latest."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt.

    Attributes:
        ids: Its token ids.
        wanted: Token ids whose log-probabilities after it are needed.
        shared: Tokens that it shares with the prompt before it, in depth-first order.
    """

    ids: tuple[int, ...]
    wanted: tuple[int, ...]
    shared: int = 0


@dataclass(frozen=True, slots=True)
class TextAsk:
    """One prompt, some of whose own tokens are scored.

    Attributes:
        ids: Its token ids.
        start: Place of the first token that is scored, at least 1; all after it are, too.
        shared: Tokens of it that the prompt before it has, too, and that are cached.
    """

    ids: tuple[int, ...]
    start: int
    shared: int = 0


class MissingTokenError(Exception):
    """A token that is needed is not among the most likely ones, and the server returns no others.

    Attributes:
        place: Place of the prompt.
        token: The token id.
        width: How many tokens the server returned.
    """

    def __init__(self, place: int, token: int, width: int) -> None:
        super().__init__(place, token, width)
        self.place, self.token, self.width = place, token, width


class Client:
    """Asks one model of one server.

    Args:
        transport: Sends requests.
        dialect: The kind of server.
        facts: What it says about itself.
        requests: Maximum number of requests in flight.
    """

    def __init__(
        self, transport: Channel, dialect: Dialect, facts: ServerFacts, requests: int
    ) -> None:
        self.transport = transport
        self.dialect = dialect
        self.facts = facts
        # More than it computes at a time would only push each other's prefixes out of its cache.
        self.requests = min(requests, facts.slots or requests)
        self._witness: Witness | None = None
        self._vouching = Lock()
        self._breaks_seen = 0

    def begin(self, tokenizer: Tokenizer, name: str) -> str:
        """Record the answers to known sentences; return them as text.

        Raises:
            InputError: The server does not answer.
        """
        self._witness = Witness(self._likely, self._again, tokenizer, name)
        return self._witness.record()

    def vouch(self) -> None:
        """Ask a known sentence again.

        Raises:
            InputError: Another model answers.
        """
        with self._vouching:
            if self._witness is not None:
                self._witness.vouch()

    def _vouch_after_breaks(self) -> None:
        """The same, where the server broke off since: it may have another model now."""
        with self._vouching:
            breaks = self.transport.n_breaks
            if self._witness is not None and breaks != self._breaks_seen:
                self._witness.vouch()
                self._breaks_seen = breaks

    def answer(self, prompt: Sequence[int] | str, wanted: Sequence[int], width: int = 0) -> Answer:
        """Ask once; tokens may be missing unless the server can be asked for them by id.

        Raises:
            InputError: The server refuses or fails, or its answers cannot be used.
        """
        width = width or self.dialect.first_width
        path, body = self.dialect.request(self.facts.model, prompt, wanted, width)
        exact = self.dialect.is_exact and self.dialect.wider(width) is None

        def read(content: object) -> Answer:
            answer = self.dialect.read(content, wanted)
            _check(answer, prompt, wanted, exact=exact)
            return answer

        return self.transport.post(path, body, read)

    def computed(self, prompt: Sequence[int], wanted: Sequence[int]) -> int | None:
        """Tokens of a prompt that the server computes, and does not find in its prefix cache.

        Meaningful while nobody else asks this server; None where it does not say.
        """
        before = self.dialect.cache_hits(self.transport)
        answer = self.answer(prompt, wanted)
        if answer.n_computed is not None:
            return answer.n_computed
        after = self.dialect.cache_hits(self.transport)
        return None if before is None or after is None else len(prompt) - (after - before)

    def ask(self, asks: Sequence[Ask]) -> list[Mapping[int, float]]:
        """Log-probabilities of all wanted tokens after each prompt.

        Nothing is returned before a known sentence was answered as at the start.

        Args:
            asks: Prompts in depth-first order.

        Raises:
            MissingTokenError: A token that is needed is not among those that the server returns.
            InputError: The server refuses or fails, or another model answers.
        """
        return self._vouched(asks, lambda k: self._whole(asks[k], k))

    def ask_texts(self, asks: Sequence[TextAsk]) -> list[tuple[float, ...]]:
        """Log-probabilities of the prompts' own tokens, each prompt's from its start on.

        Nothing is returned before a known sentence was answered as at the start.

        Args:
            asks: Prompts; depth-first where they share what is cached.

        Raises:
            InputError: The server refuses or fails, or another model answers.
        """
        return self._vouched(asks, lambda k: self._text(asks[k]))

    def _vouched(self, asks: Sequence[Ask] | Sequence[TextAsk], one: Callable[[int], T]) -> list[T]:
        """What ``one`` finds for each number, with a known sentence after every part."""
        found: list[T] = []
        self.transport.start()
        for start in range(0, len(asks), VOUCH_EVERY):
            found += self._part(asks[start : start + VOUCH_EVERY], start, one)
            self.vouch()
        return found

    def _part(
        self, asks: Sequence[Ask] | Sequence[TextAsk], start: int, one: Callable[[int], T]
    ) -> list[T]:
        lengths = [len(ask.ids) for ask in asks]
        after = waits_for(lengths, [0, *(ask.shared for ask in asks[1:])])

        def work(k: int) -> T:
            return one(start + k)

        done = dict(run_in_order(work, after, self.requests, self.transport.stop))
        return [done[k] for k in range(len(asks))]

    def _text(self, ask: TextAsk) -> tuple[float, ...]:
        """All tokens of one prompt from its start on."""
        texts = self.dialect.texts
        assert texts is not None, f"{self.dialect.name} is not asked for texts"
        path, body = texts.request(self.facts.model, ask.ids, ask.start)

        def read(content: object) -> tuple[float, ...]:
            answer = texts.read(content, ask.ids, ask.start)
            _check_length(answer.n_prompt, ask.ids)
            return answer.logprobs

        found = self.transport.post(path, body, read)
        self._vouch_after_breaks()
        return found

    def _whole(self, ask: Ask, place: int) -> Mapping[int, float]:
        """All wanted tokens after one prompt, asked for more and more widely where need be."""
        width = self.dialect.first_width
        while True:
            answer = self.answer(ask.ids, ask.wanted, width)
            missing = [token for token in ask.wanted if token not in answer.logprobs]
            if not missing:
                break
            wider = self.dialect.wider(width)
            if wider is None:
                raise MissingTokenError(place, missing[0], width)
            width = wider
        # Labels stay about as likely as they are: the next requests begin with this width.
        self.dialect.first_width = max(self.dialect.first_width, width)
        self._vouch_after_breaks()
        return answer.logprobs

    def _likely(self, ids: Sequence[int]) -> Known:
        answer = self.answer(ids, (), PROBE_TOP)
        best = sorted(answer.top, key=lambda token: -answer.top[token])[:PROBE_TOP]
        if not best:
            raise InputError(f"{self.transport.base} returns no log-probabilities; use another one")
        return {token: answer.top[token] for token in best}

    def _again(self, ids: Sequence[int], before: Known) -> Known:
        """The answer to a sentence that was answered before, for the same tokens."""
        tokens = [token_of(key) for key in before]
        wanted = [token for token in tokens if token is not None and self.dialect.is_exact]
        width = max(self.dialect.first_width, PROBE_TOP)
        path, body = self.dialect.request(self.facts.model, ids, wanted, width)

        def read(content: object) -> Known:
            answer = self.dialect.read(content, wanted)
            _check(answer, ids, (), exact=True)
            now = {**answer.top, **{token_key(t): v for t, v in answer.logprobs.items()}}
            likeliest = max(before, key=lambda key: before[key])
            if likeliest not in now:
                raise UnusableError(
                    "the most likely token after a known sentence at the start is not in the "
                    "answer now; another model may answer"
                )
            return now

        return self.transport.post(path, body, read)


def _check(
    answer: Answer, prompt: Sequence[int] | str, wanted: Sequence[int], *, exact: bool
) -> None:
    """Refuse an answer to another question.

    Raises:
        UnusableError: Tokens are missing, or the prompt has another length.
    """
    if not isinstance(prompt, str):
        _check_length(answer.n_prompt, prompt)
    if sum(math.exp(value) for value in answer.logprobs.values()) > 1.01:
        raise UnusableError("the probabilities of different tokens add up to more than 1")
    missing = [token for token in wanted if token not in answer.logprobs]
    if missing and exact:
        raise UnusableError(
            f"token {missing[0]} was asked for by its id and is missing; is the server old, or of "
            "another kind (--server)?"
        )


def _check_length(counted: int | None, prompt: Sequence[int]) -> None:
    """Refuse an answer to a prompt of another length.

    Raises:
        UnusableError: The server counted another number of tokens.
    """
    if counted not in (None, len(prompt)):
        raise UnusableError(f"the server read {counted} tokens of a prompt of {len(prompt)}")
