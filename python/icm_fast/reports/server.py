"""A review for the browsers of this machine: loopback alone, one process, nothing but answers.

Whoever has the address may answer; it holds a token that nobody can guess. Pages of others cannot
reach it: their requests name another host or origin, which are refused, also where a name of theirs
leads to this machine.
"""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from icm_fast.errors import InputError
from icm_fast.reports.review import Review, review_policy

HOST = "127.0.0.1"
_MOST_BYTES = 4096
"""Of an answer."""

_SECONDS = 10
"""A browser that sends nothing for so long is no longer waited for."""


class ReviewServer(ThreadingHTTPServer):
    """Shows a review and takes its answers.

    Attributes:
        address: Where the page is, with the token.

    Args:
        review: The review.
        port: Port on the loopback interface; 0 for one that is free.

    Raises:
        InputError: The port is in use or not allowed.
    """

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"port {port} cannot be used: {reason}; name another one with --port"
            ) from error
        self.review = review
        self.token = secrets.token_urlsafe(32)
        self.hosts = tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))
        self.address = f"http://{self.hosts[0]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = _SECONDS
    server_version = "icm-fast"
    sys_version = ""

    def do_GET(self) -> None:
        """The page."""
        if not self._is_allowed():
            return
        if self._named() != "":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        page = self.server.review.page().encode()
        self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """An answer."""
        if not self._is_allowed() or not self._is_from_the_page():
            return
        if self._named() != "answer":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        size = self.headers.get("Content-Length", "")
        if not size.isascii() or not size.isdecimal() or len(size) > 9 or int(size) > _MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "that is longer than an answer")
            return
        try:
            self.server.review.answer(json.loads(self.rfile.read(int(size))))
        except InputError as error:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
        except (ValueError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        else:
            n = len(self.server.review.answers)
            self._send(HTTPStatus.OK, json.dumps({"answers": n}).encode(), "application/json")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal, and the token, to ourselves."""

    def _is_allowed(self) -> bool:
        """Whether the request names this server and its token; otherwise it is refused."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._refuse(HTTPStatus.FORBIDDEN, "the host is not this server")
            return False
        if self._named() is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return False
        return True

    def _is_from_the_page(self) -> bool:
        """Whether the page itself sent the request, not one of somebody else."""
        own = [f"http://{self.headers['Host']}"]
        sent = self.headers.get("Sec-Fetch-Site", "same-origin")
        kind = self.headers.get_content_type()
        if self.headers.get_all("Origin", []) == own and sent == "same-origin":
            if kind == "application/json":
                return True
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an answer is JSON")
        else:
            self._refuse(HTTPStatus.FORBIDDEN, "the origin is not this server")
        return False

    def _named(self) -> str | None:
        """What comes after the token in the path; None where the token is another one."""
        first, slash, rest = self.path.removeprefix("/").partition("/")
        same = secrets.compare_digest(first.encode(), self.server.token.encode())
        return rest if same and slash else None

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send(status, json.dumps({"error": reason}).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", review_policy())
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(content)
