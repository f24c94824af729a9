"""What every dialect offers: how a kind of server is asked, and how it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from icm_fast.scoring.servers.transport import UnusableError

if TYPE_CHECKING:
    from icm_fast.scoring.servers.transport import Channel

_KEY = "token_id:"

PROBE_TOP = 5
"""Most likely tokens that a probe compares."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as ``/v1/models`` lists it.

    Attributes:
        name: What requests call it.
        owner: ``owned_by``: the kind of server.
        content: The whole entry.
    """

    name: str
    owner: str
    content: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself.

    Attributes:
        model: What requests call the model.
        source: Where the server has it from: a hub id or a path; the name where it does not say.
        max_context: Tokens of a prompt that it takes at most; None where it does not say.
        slots: Requests that it computes at a time; None where it does not say.
        n_parameters: Weights; 0 where it does not say.
        identity: What must stay the same in a resumed run.
    """

    model: str
    source: str
    max_context: int | None = None
    slots: int | None = None
    n_parameters: int = 0
    identity: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Log-probabilities of the next token after a prompt.

    Attributes:
        logprobs: Of the token ids that were asked for; those that the server did not return are
            missing.
        top: Of the most likely tokens, by :func:`token_key`, or by texts where the server gives no
            ids.
        n_prompt: Tokens of the prompt as the server counts them; None where it does not say.
        n_computed: Of these, how many were not in its prefix cache; None where it does not say.
    """

    logprobs: Mapping[int, float]
    top: Mapping[str, float]
    n_prompt: int | None = None
    n_computed: int | None = None


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """Log-probabilities of a prompt's own tokens, each after all before it.

    Attributes:
        logprobs: Of the tokens from the place on that was asked for.
        n_prompt: Tokens of the prompt as the server counts them; None where it does not say.
    """

    logprobs: tuple[float, ...]
    n_prompt: int | None = None


class TextDialect(Protocol):
    """How a kind of server is asked for the log-probabilities of a prompt's own tokens."""

    is_cached: bool
    """Whether its prefix cache serves such prompts, up to the first token that is asked for."""

    def request(
        self, model: str, prompt: Sequence[int], start: int
    ) -> tuple[str, dict[str, object]]:
        """Path and body of a request.

        Args:
            model: What the server calls the model.
            prompt: Token ids.
            start: Place of the first token whose log-probability is needed, at least 1.
        """

    def read(self, content: object, prompt: Sequence[int], start: int) -> TextAnswer:
        """Read an answer.

        Raises:
            UnusableError: It is not of the form of this dialect, or of other tokens.
        """


class Dialect(Protocol):
    """One kind of server.

    A request asks for the next token's log-probabilities over the whole vocabulary, at no
    temperature. ``width`` is how many of the most likely tokens it asks for.
    """

    name: str
    is_exact: bool
    """Whether any token can be asked for by its id, however unlikely it is."""

    first_width: int
    """The width of a first request; a client raises it once a wider one was needed."""

    @property
    def texts(self) -> TextDialect | None:
        """How it is asked for a prompt's own tokens; None where it cannot be."""

    def wider(self, width: int) -> int | None:
        """The width after ``width`` was too small; None if that was the largest."""

    def facts(self, transport: Channel, listed: Listed) -> ServerFacts:
        """What the server says about a model."""

    def request(
        self, model: str, prompt: Sequence[int] | str, wanted: Sequence[int], width: int
    ) -> tuple[str, dict[str, object]]:
        """Path and body of a request.

        Args:
            model: What the server calls the model.
            prompt: Token ids; a text only to count its tokens.
            wanted: Token ids whose log-probabilities are needed.
            width: See above.
        """

    def read(self, content: object, wanted: Sequence[int]) -> Answer:
        """Read an answer.

        Raises:
            UnusableError: It is not of the form of this dialect.
        """

    def cache_hits(self, transport: Channel) -> int | None:
        """Tokens that the server found in its prefix cache so far; None where it does not say."""

    def tokenize(self, transport: Channel, model: str, text: str) -> list[int] | None:
        """Token ids of a text, without special tokens; None where the server has no such path."""


def token_key(token: int) -> str:
    """The name of a token that is known by its id, as vLLM writes it."""
    return f"{_KEY}{token}"


def token_of(key: str) -> int | None:
    """The id in a name that :func:`token_key` made; None for the text of a token."""
    digits = key.removeprefix(_KEY)
    return int(digits) if digits != key and digits.isdecimal() else None


def mapping(value: object, what: str) -> Mapping[str, object]:
    """``value`` as a JSON object.

    Raises:
        UnusableError: It is not one.
    """
    if not isinstance(value, dict):
        raise UnusableError(f"{what} is missing or not an object")
    return value


def first(value: object, what: str) -> object:
    """The first item of a JSON list.

    Raises:
        UnusableError: It is not a list, or empty.
    """
    if not isinstance(value, list) or not value:
        raise UnusableError(f"{what} is missing or empty")
    return value[0]


def integer(value: object) -> int | None:
    """``value`` if it is an integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: object) -> str:
    """``value`` if it is text, otherwise nothing."""
    return value if isinstance(value, str) else ""


def logprob(value: object) -> float:
    """``value`` as a log-probability.

    Raises:
        UnusableError: It is not a number, not finite, or clearly above 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnusableError("a log-probability is not a number")
    # A sign first: an integer may be too long to be a float.
    if value > 1e-3 or value < -1e30 or not math.isfinite(value):
        raise UnusableError("a log-probability is not that of any probability")
    return min(float(value), 0.0)


def ids(value: object) -> list[int] | None:
    """``value`` if it is a list of token ids."""
    if not isinstance(value, list):
        return None
    found = [integer(item) for item in value]
    return [item for item in found if item is not None] if None not in found else None
