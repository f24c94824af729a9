"""What a target is, and what the rule makes of one input."""

from __future__ import annotations

import hashlib
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from icm_fast.errors import InputError

CORPUS = Path(__file__).resolve().parent / "corpus"
LONGEST_MESSAGE = 4000


class CorruptionError(Exception):
    """A damaged input gave another result than the undamaged one, without an error."""


class Target(ABC):
    """Something that reads input from outside.

    Attributes:
        name: As in ``--target``, and the folder of its corpus.
        words: Texts that are worth putting into an input.
        seconds: What one input may take.
    """

    name: str
    words: Sequence[bytes] = ()
    seconds: float = 10.0

    def prepare(self, folder: Path) -> None:
        """Make what all inputs need, once in a process; ``folder`` is empty."""
        assert not any(folder.iterdir())

    def seeds(self) -> list[bytes]:
        """Inputs that are read as they were meant: those that are committed."""
        paths = sorted((CORPUS / self.name).glob("*"))
        return [path.read_bytes() for path in paths]

    @abstractmethod
    def read(self, data: bytes) -> None:
        """Read an input.

        Raises:
            InputError: It is refused.
            CorruptionError: It was accepted, and is wrong.
        """


def judge(target: Target, data: bytes) -> tuple[str, str]:
    """Read an input: ``("", "")``, or what is wrong and the first line that tells it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(data)
    except InputError as error:
        return _judge_message(str(error))
    except CorruptionError as error:
        return "corruption", str(error)
    except MemoryError:
        return "traceback", "MemoryError\n" + traceback.format_exc()
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return "", ""


def _judge_message(message: str) -> tuple[str, str]:
    if "\n" in message.strip():
        return "traceback", f"a message of several lines: {message!r}"
    if len(message) > LONGEST_MESSAGE:
        return "traceback", f"a message of {len(message)} characters: {message[:200]!r}"
    return "", ""


def name_of(data: bytes) -> str:
    """The name of an input in a folder."""
    return hashlib.sha256(data).hexdigest()[:16]
