"""Files that are either complete or absent, and operating-system errors in one clear line.

A folder may come from somebody else. Nothing here follows a symbolic link that stands in place of a
file of such a folder, and nothing waits for a pipe or a device there. Only :func:`write_output`,
for files that the user named, follows links and writes to devices.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from icm_fast.errors import InputError, shown

LOCK_FILE = ".lock"
_STDOUT = tuple(map(Path, ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")))
"""Outputs that stand for standard output."""

MAX_BYTES = 1 << 30
"""Largest file that is read at once."""

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What flock says where another process holds the lock."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What flock says on file systems without locks, such as some network mounts."""


_LONGEST_PART, _LONGEST_PATH = 255, 4095
"""Bytes of a name and of a path on Linux."""


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


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` replaced by the home of the user.

    Raises:
        InputError: There is no such home, for example in a container without HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"the home in {os.fspath(path)} is unknown (HOME is not set, or there is no such "
            "user); give an absolute path"
        ) from error


def check_name(what: str, name: str) -> None:
    """Refuse a name that no file can have, before a path is made of it.

    Raises:
        InputError: It holds NUL or half a character, or is longer than file systems allow.
    """
    try:
        longest = max(len(os.fsencode(part)) for part in name.split("/"))
    except UnicodeEncodeError:
        longest = _LONGEST_PART + 1
    if "\0" in name or longest > _LONGEST_PART or len(name) > _LONGEST_PATH:
        raise InputError(
            f"{what} {shown(name)} is not a name that a file can have (at most {_LONGEST_PART} "
            "bytes of UTF-8 between slashes, no NUL); correct it"
        )


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file without following a link in its place; return the descriptor.

    Raises:
        OSError: The file system refuses.
        InputError: The path is a link, a pipe, a device or a folder.
    """
    try:
        # O_NONBLOCK: a pipe must not keep us waiting before it is refused.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO) and os.path.lexists(path):
            raise not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_regular(path)
    return descriptor


def not_regular(path: Path) -> InputError:
    """The error for something that stands where a file of ours belongs."""
    mode = os.lstat(path).st_mode
    kind = next(
        (
            name
            for name, test in (
                ("a symbolic link", stat.S_ISLNK),
                ("a folder", stat.S_ISDIR),
                ("a pipe", stat.S_ISFIFO),
            )
            if test(mode)
        ),
        "not a regular file",
    )
    return InputError(f"{path} is {kind} where a file is expected; remove it")


def refuse_links(folder: Path) -> None:
    """Raise InputError if a link, pipe or device stands in ``folder``; it may itself be a link.

    Folders of runs and trainings hold files and folders only, so that nothing that is read, written
    or deleted there is elsewhere.
    """
    check_name("folder", os.fspath(folder))
    with reading(folder, "make it readable"):
        if not folder.is_dir():
            return
    with reading(folder, "make it readable"), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            if not plain:
                raise not_regular(Path(entry.path))


def read_file(path: Path, fix: str) -> bytes:
    """The bytes of a regular file of at most 1 GiB.

    Raises:
        InputError: It cannot be read, is larger, or is a link or no regular file.
    """
    with reading(path, fix):
        descriptor = open_regular(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            n_bytes = os.fstat(descriptor).st_size  # before reading: it may be one large hole
            if n_bytes > MAX_BYTES:
                raise InputError(
                    f"{path} has {n_bytes:,} bytes, but at most {MAX_BYTES:,} are read; {fix}"
                )
            return file.read()


def is_file(path: Path) -> bool:
    """Whether something stands at ``path``: a regular file.

    Raises:
        InputError: It is a link, even one that leads nowhere, or no regular file.
    """
    if not os.path.lexists(path):
        return False
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise not_regular(path)
    return True


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; after a short write (a disk that fills up) continue or raise."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def append_durably(path: Path, descriptor: int, end: int, record: bytes) -> None:
    """Write a record at the end of an open file and sync it; on failure cut the file off there.

    Args:
        path: The file, for messages.
        descriptor: The open file.
        end: Where its last whole record ends.
        record: What is appended.

    Raises:
        InputError: The file system refuses, for example because the disk is full.
    """
    with writing(path):
        try:
            os.lseek(descriptor, end, os.SEEK_SET)
            write_all(descriptor, record)
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content``: temporary file, fsync, rename, fsync of the folder.

    The temporary name is fixed, so that the next run removes what an interrupted one leaves. What
    stands there is removed and never opened: it may be a link to somewhere else.

    Raises:
        InputError: The file system refuses, or a link stands at ``path``; no half-written file
            remains.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        is_file(path)
        try:
            with suppress(FileNotFoundError):
                temporary.unlink()
            _write_durably(temporary, content)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


def _write_durably(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_stdout(path: Path | None) -> bool:
    """Whether an output that the user named is standard output."""
    return path in _STDOUT


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user named: ``-`` is standard output, a link is followed.

    Devices and pipes are written to; a file is replaced as by :func:`write_atomically`.

    Raises:
        InputError: The file system refuses.
    """
    if is_stdout(path):
        with writing(Path("standard output")):
            _write_to_stdout(content)
        return
    with writing(path):
        special = path.exists() and not path.is_file() and not path.is_dir()
        if special:
            with open(path, "wb", buffering=0) as file:
                write_all(file.fileno(), content)
    if not special:
        write_atomically(_target(path), content)


@contextmanager
def output_stream(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that the user named, piece by piece; see :func:`write_output`.

    A regular file appears, or is replaced, when the block ends without an error.

    Raises:
        InputError: The file system refuses.
    """
    if is_stdout(path):
        yield cast(IO[bytes], _Stdout())
        return
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            with open(path, "wb") as file:
                yield file
            return
        target = _target(path)
        is_file(target)
        temporary = target.with_name(f".{target.name}.tmp")
        with suppress(FileNotFoundError):
            temporary.unlink()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o666), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


class _Stdout(io.RawIOBase):
    """Standard output as a binary file, in notebooks too."""

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        with writing(Path("standard output")):
            _write_to_stdout(bytes(content))
        return len(content)


def _target(path: Path) -> Path:
    """Where the links end that may stand at ``path``."""
    with writing(path):
        try:
            return path.resolve() if path.is_symlink() else path
        except RuntimeError as error:  # a circle of links, before Python 3.13
            raise InputError(f"cannot write {path}: its links form a circle; remove it") from error


def _write_to_stdout(content: bytes) -> None:
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # a notebook's stdout takes text alone
        sys.stdout.write(content.decode(errors="replace"))
    else:
        binary.write(content)
    sys.stdout.flush()


def share_by_umask(folder: Path, mask: int = 0) -> None:
    """Give files and folders below ``folder`` the rights that the umask gives new ones.

    Some libraries write through private temporary files, whose rights they keep.

    Args:
        folder: What was written, itself included.
        mask: Further rights to withhold.
    """
    mask |= _umask()
    with writing(folder):
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~mask)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def lock_folder(folder: Path) -> int:
    """Create the folder and take its lock, which ends with the process that holds it.

    Where the file system has no locks, a warning says so and the work goes on without one.

    Returns:
        A descriptor; closing it releases the lock.

    Raises:
        InputError: Another process holds it, the folder cannot be created, or it holds a link.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        descriptor = open_regular(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        _take_lock(descriptor, folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a run's folder."""
    with suppress(OSError):
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _take_lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise InputError(
                f"{folder} is being written by another process; wait for it or choose another "
                "folder"
            ) from error
        if error.errno not in _NO_LOCKS:
            raise InputError(
                f"cannot lock {folder}: {error.strerror or error}; choose a folder on another disk"
            ) from error
        print(
            f"icm-fast: warning: the file system of {folder} has no locks ({error.strerror}); "
            "make sure that no other process writes to this folder",
            file=sys.stderr,
            flush=True,
        )


def json_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    """One JSON object per line, in UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
