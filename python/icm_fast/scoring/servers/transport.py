"""JSON over HTTP, repeated where a server fails for a while, with one clear error at the end."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import httpx2

from icm_fast.errors import InputError, first_line
from icm_fast.files.text import printable, without_secrets
from icm_fast.scoring.servers.address import PATIENCE, Address, Reach

T = TypeVar("T")

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 30.0
_PASSING = frozenset((408, 409, 425, 429))
"""Statuses below 500 after which the same request may succeed."""

_UNUSABLE_TRIES = 8
"""Answers of one request in a row that may be unusable: a server that is wrong stays so."""

RESUME = "run the same command again to resume"


class Channel(Protocol):
    """Takes requests to a server; to one over HTTP, a :class:`Transport`."""

    base: str
    """The server, for messages."""

    n_breaks: int
    """Failures after which another server may answer."""

    def get(self, path: str) -> object:
        """The JSON at a path; None where the server has nothing there."""

    def get_text(self, path: str) -> str | None:
        """The text at a path; None where there is none."""

    def post(self, path: str, body: Mapping[str, object], read: Callable[[object], T]) -> T:
        """Send JSON and read the answer; see :meth:`Transport.post`."""

    def stop(self) -> None:
        """Make requests that wait give up."""

    def start(self) -> None:
        """Allow requests again after :meth:`stop`."""


class UnusableError(Exception):
    """An answer that is not what was asked for; it may be a fault that passes."""


class RefusedError(InputError):
    """The server refused a request for good.

    Attributes:
        status: Its HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _FailedError(Exception):
    """A request failed, but may succeed when it is repeated after ``pause`` seconds."""

    def __init__(self, message: str, pause: float = 0.0, *, is_break: bool = False) -> None:
        super().__init__(message)
        self.pause = pause
        self.is_break = is_break


class Transport:
    """Sends requests to one server, from any number of threads.

    Args:
        address: The server.
        reach: Key, time limits.
    """

    def __init__(self, address: Address, reach: Reach) -> None:
        self.base = address.base
        self._reach = reach
        self._draw = random.SystemRandom()
        self._stopped = threading.Event()
        self._resume_at = 0.0  # a server that asks for a pause asks all threads for it
        self.n_breaks = 0
        """Failures after which another server may answer: broken connections, statuses of 500."""
        headers = {"Authorization": f"Bearer {reach.key}"} if reach.key else {}
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(reach.timeout, connect=min(reach.timeout, 20.0)),
            limits=httpx2.Limits(max_connections=reach.requests + 1),
            follow_redirects=False,  # the key is for this server alone
            verify=address.base.startswith("https"),
            trust_env=not address.is_loopback,  # no proxy for this machine
        )
        weakref.finalize(self, self._client.close)

    def get(self, path: str) -> object:
        """The JSON at a path; None where the server has nothing there.

        Raises:
            InputError: The server refuses, or fails for longer than the limit.
        """
        try:
            return self._repeated("GET", path, None, lambda content: content)
        except RefusedError as error:
            if error.status in (404, 405, 501):
                return None
            raise

    def get_text(self, path: str) -> str | None:
        """The text at a path, asked for once; None where there is none."""
        try:
            answer = self._client.get(self.base + path)
        except httpx2.HTTPError:
            return None
        return answer.text if answer.status_code == 200 else None

    def post(self, path: str, body: Mapping[str, object], read: Callable[[object], T]) -> T:
        """Send JSON and read the answer.

        Args:
            path: Path after the address.
            body: JSON content.
            read: Turns the answer into what was asked for; raises :class:`UnusableError`.

        Raises:
            RefusedError: The server refuses the request.
            InputError: It fails for longer than the limit, or its answers cannot be used.
        """
        return self._repeated("POST", path, body, read)

    def stop(self) -> None:
        """Make requests that wait for a repetition give up."""
        self._stopped.set()

    def start(self) -> None:
        """Allow requests again after :meth:`stop`."""
        self._stopped.clear()

    def _repeated(self, method: str, path: str, body: object, read: Callable[[object], T]) -> T:
        began, tries, unusable = 0.0, 0, 0
        while True:
            self._wait(self._resume_at - time.monotonic())
            try:
                return read(self._once(method, path, body))
            except UnusableError as error:
                unusable += 1
                if unusable >= _UNUSABLE_TRIES:
                    raise InputError(
                        f"{self.base} answered {unusable} times in a row with what cannot be used: "
                        f"{self._said(str(error))}; check the server, then {RESUME}"
                    ) from None
                failure = _FailedError(str(error))
            except _FailedError as error:
                failure, unusable = error, 0
            self.n_breaks += failure.is_break
            now = time.monotonic()
            began = began or now
            pause = self._pause(tries, failure.pause)
            tries += 1
            if now + pause - began > self._reach.patience:
                raise InputError(self._given_up(failure, now - began)) from None
            if failure.pause:
                self._resume_at = max(self._resume_at, now + failure.pause)
            self._wait(pause)

    def _once(self, method: str, path: str, body: object) -> object:
        """One try.

        Raises:
            _FailedError: It may succeed when it is repeated.
            UnusableError: The answer is not JSON.
            RefusedError: The server refuses.
        """
        try:
            answer = self._client.request(
                method,
                self.base + path,
                content=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
            )
        except httpx2.TimeoutException:
            raise _FailedError(
                f"no answer within {self._reach.timeout:g} s", is_break=True
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _FailedError(first_line(error), is_break=True) from None
        status = answer.status_code
        if status in _PASSING or (status >= 500 and status != 501):
            pause = _asked_pause(answer.headers.get("retry-after", ""))
            raise _FailedError(f"status {status}", pause, is_break=status >= 500)
        if status != 200:
            raise RefusedError(status, self._refusal(answer))
        try:
            content: object = json.loads(answer.content)
        except (ValueError, RecursionError):
            raise UnusableError("the answer is not JSON") from None
        return content

    def _pause(self, tries: int, asked: float) -> float:
        """Seconds to wait: at least what the server asked for, with full jitter on top."""
        most = min(
            _LONGEST_PAUSE,
            _FIRST_PAUSE * 2.0 ** min(tries, 32),
            max(self._reach.patience, 0.01) / 4,
        )
        return asked + self._draw.uniform(0.0, most)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._stopped.wait(seconds)
        if self._stopped.is_set():
            raise InputError(f"requests to {self.base} were stopped; {RESUME}")

    def _said(self, text: str) -> str:
        """What a server said, on one line, without the key, cut."""
        text = " ".join(printable(without_secrets(text)).split())
        if self._reach.key:
            text = text.replace(self._reach.key, "(removed)")
        return text if len(text) <= 300 else text[:300] + "..."

    def _refusal(self, answer: httpx2.Response) -> str:
        status = answer.status_code
        if status in (401, 403):
            had = "the key" if self._reach.key else "a request without a key"
            return (
                f"{self.base} refuses {had} (status {status}); set ICM_FAST_API_KEY, or "
                "ICM_FAST_API_KEY_FILE to the file that holds it"
            )
        if 300 <= status < 400:
            target = self._said(answer.headers.get("location", "")).partition("?")[0]
            return f"{self.base} redirects to {target}; name that address if you trust it"
        said = self._said(_message(answer.content)) or "no reason given"
        return f"{self.base} refuses a request (status {status}): {said}; check server and model"

    def _given_up(self, failure: _FailedError, seconds: float) -> str:
        asked = f", and asks to wait {failure.pause:,.0f} s more" if failure.pause else ""
        return (
            f"{self.base} does not answer ({self._said(str(failure))}), repeated for "
            f"{seconds:,.0f} s{asked}; the limit is {self._reach.patience:g} s ({PATIENCE}): check "
            f"the server, then {RESUME}"
        )


def _asked_pause(text: str) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 where it says nothing."""
    try:
        return max(0.0, min(float(text), 1e9))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _message(content: bytes) -> str:
    """The reason in the answer of a server, as far as it can be found."""
    text = content[:4096].decode("utf-8", "replace")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)
