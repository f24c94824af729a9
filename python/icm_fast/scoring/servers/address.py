"""Addresses of servers, and what an environment says about how they are reached."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from icm_fast.config import check_number
from icm_fast.errors import InputError, shown
from icm_fast.files import expanded, read_file

KEY = "ICM_FAST_API_KEY"
KEY_FILE = "ICM_FAST_API_KEY_FILE"
ALLOW_HTTP = "ICM_FAST_ALLOW_HTTP"
REQUESTS = "ICM_FAST_REQUESTS"
TIMEOUT = "ICM_FAST_TIMEOUT"
PATIENCE = "ICM_FAST_PATIENCE"


def is_address(model: object) -> bool:
    """Whether a model is named by the address of a server."""
    return isinstance(model, str) and model.lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Attributes:
        base: Scheme, host, port and path, without ``/v1``.
        model: The model among those of the server, written after ``#``; empty for its only one.
    """

    base: str
    model: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this machine."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


def parse_address(text: str, *, allow_http: bool = False) -> Address:
    """Read ``http://host:port[/v1][#MODEL]``.

    Args:
        text: The address.
        allow_http: Whether prompts and keys may travel unencrypted to other machines.

    Raises:
        InputError: It holds a password or a query, is not an address, or is not encrypted.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or not text.isprintable() or " " in text:
        raise InputError(
            "the address of the server is not of the form http://host:port[/v1][#MODEL]; correct it"
        )
    if parts.username is not None or parts.password is not None or parts.query:
        # Not shown: it would be written to folders and logs.
        raise InputError(
            f"the address of the server at {host} holds a password or a query, which would be "
            f"recorded with the results; put the key into {KEY} or the file that {KEY_FILE} names"
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    address = Address(f"{parts.scheme.lower()}://{parts.netloc}{path}", parts.fragment)
    if parts.scheme.lower() == "http" and not address.is_loopback and not allow_http:
        raise InputError(
            f"{address.base} is not encrypted: texts and keys could be read on the way; use https, "
            f"a tunnel to localhost, or --allow-http ({ALLOW_HTTP}=1) in a network that you trust"
        )
    return address


@dataclass(frozen=True, slots=True)
class Reach:
    """How a server is reached; changes no result.

    Attributes:
        key: Sent as a bearer token; empty for none.
        allow_http: See :func:`parse_address`.
        requests: Maximum number of requests in flight.
        timeout: Seconds that one answer may take.
        patience: Seconds for which a request that fails is repeated.
    """

    key: str = field(default="", repr=False)
    allow_http: bool = False
    requests: int = 16
    timeout: float = 120.0
    patience: float = 600.0

    def __post_init__(self) -> None:
        check_number(REQUESTS, self.requests, 1, 4096)
        check_number(TIMEOUT, self.timeout, 0.001, 86_400.0)
        check_number(PATIENCE, self.patience, 0.0, 1e9)
        if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
            raise InputError(
                "the key of the server holds blanks, line breaks or letters beyond ASCII; correct "
                f"{KEY} or the file that {KEY_FILE} names"
            )


def reach_of(environment: Mapping[str, str] | None = None, *, default_requests: int = 16) -> Reach:
    """What the environment says.

    Args:
        environment: Its variables; by default those of this process.
        default_requests: Requests in flight where it does not say.

    Raises:
        InputError: A value cannot be used, or the file of the key cannot be read.
    """
    known = os.environ if environment is None else environment
    return Reach(
        key=_key(known),
        allow_http=known.get(ALLOW_HTTP, "") not in ("", "0"),
        requests=int(_number(known, REQUESTS, default_requests)),
        timeout=_number(known, TIMEOUT, 120.0),
        patience=_number(known, PATIENCE, 600.0),
    )


def _key(known: Mapping[str, str]) -> str:
    path = known.get(KEY_FILE)
    if not path:
        return known.get(KEY, "").strip()
    content = read_file(expanded(Path(path)), f"correct {KEY_FILE}")
    return content.decode("utf-8", "replace").strip()


def _number(known: Mapping[str, str], name: str, default: float) -> float:
    text = known.get(name, "").strip()
    try:
        return float(text) if text else default
    except ValueError:
        raise InputError(f"{name} must be a number, got {shown(text)}") from None
