"""The peers, and the variants of each that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from icm_fast.errors import InputError, suggest

OURS = "ours"
_INSTALL = "bash benchmarks/peers/install_peers.sh"


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine that computes the scores.

    Attributes:
        module: Module of ``benchmarks.engines.peers`` that runs it.
        environment: Folder of its virtual environment; None for this one.
    """

    module: str
    environment: str | None = None

    @property
    def install_command(self) -> str:
        """The command that builds the environment, from the root of a clone."""
        return f"{_INSTALL} {self.environment}"


PEERS = {
    OURS: Peer("ours"),
    "ours-int8": Peer("ours"),
    "transformers-naive": Peer("transformers_naive"),
    "transformers-cache": Peer("transformers_cache"),
    "vllm": Peer("vllm_engine", "vllm"),
    "llama-cpp": Peer("llama_engine", "llama-cpp"),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A peer with an order and settings.

    Attributes:
        name: Name in tables.
        peer: Key of ``PEERS``.
        order: ``ours`` or ``natural``.
        options: Settings of the peer.
    """

    name: str
    peer: str
    order: str
    options: dict[str, Any] = field(default_factory=dict)

    def precision(self, dtype: str) -> str:
        """The key of ``verify.LIMITS`` for a case in ``dtype``."""
        return "int8" if self.options.get("int8") else dtype


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(OURS, OURS, "ours"),
        Variant("ours-int8", "ours-int8", "ours", {"int8": True}),
        Variant("transformers-naive", "transformers-naive", "natural"),
        Variant("transformers-cache-natural", "transformers-cache", "natural"),
        Variant("transformers-cache-ours", "transformers-cache", "ours"),
        *(
            Variant(f"vllm-{order}-{size}", "vllm", order, {"block_size": size})
            for order in ("natural", "ours")
            for size in (32, 128)
        ),
        Variant("llama-cpp-natural", "llama-cpp", "natural"),
        Variant("llama-cpp-ours", "llama-cpp", "ours"),
    )
}


def choose_variants(names: Sequence[str]) -> list[Variant]:
    """Variants by their own or their peer's name, all if none is given; ours comes first.

    Raises:
        InputError: Unknown name; the message suggests the nearest known one.
    """
    known = {*PEERS, *VARIANTS}
    for name in names:
        if name not in known:
            raise InputError(f"unknown peer {name!r}{suggest(name, known)}")
    wanted = set(names) or known
    return [v for v in VARIANTS.values() if v.name == OURS or {v.name, v.peer} & wanted]
