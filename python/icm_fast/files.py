"""Files that are either complete or absent, and operating-system errors in one clear line."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from icm_fast.errors import InputError

LOCK_FILE = ".lock"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an :class:`InputError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free disk space, make the folder "
            "writable, or choose another output path"
        ) from error


@contextmanager
def reading(path: Path, fix: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an :class:`InputError` that ends with ``fix``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {fix}") from error


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; after a short write (a disk that fills up) continue or raise."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content``: temporary file, fsync, rename, fsync of the folder.

    The temporary name is fixed, so that the next run overwrites what an interrupted one leaves.

    Raises:
        InputError: The file system refuses; no half-written file remains.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            _write_durably(temporary, content)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(folder: Path) -> int:
    """Create the folder and take its lock, which ends with the process that holds it.

    Returns:
        A descriptor; closing it releases the lock.

    Raises:
        InputError: Another process holds it, or the folder cannot be created.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InputError(
            f"{folder} is being written by another process; wait for it or choose another folder"
        ) from error
    return descriptor


def json_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    """One JSON object per line, in UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
