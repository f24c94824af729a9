"""Whether the Hub answers at all: its client would ask again and again for most of a minute."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit

_SECONDS = 2.0
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


@contextmanager
def offline_where_unreachable() -> Iterator[None]:
    """Take files from the cache of the Hub's client alone, where the Hub does not answer.

    Without a network a misspelt name is then told at once, and a model in the cache is loaded at
    once. Called under the lock around loading, since it changes a setting of the client.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(endpoint: str) -> bool:
    """Whether a connection can be opened within two seconds; true where a proxy opens them."""
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        return True
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    opened: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((address.hostname or "", port), timeout=_SECONDS):
                opened.append(True)
        except OSError:
            pass

    # In a thread, since looking up a name knows no time limit.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return bool(opened)
