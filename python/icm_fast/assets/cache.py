"""The folder of derived files: where it is, and that nobody else writes there.

What lies there is loaded again without being computed again, so whoever can write there decides
what later runs compute.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from icm_fast.errors import InputError
from icm_fast.files import expanded

_NAME = "icm_fast"
_MODE = 0o755
"""Of new folders, before the umask: never writable for others, whatever the umask is."""


def cache_dir() -> Path:
    """The folder of derived files, which may not exist yet.

    The first of ``$ICM_FAST_CACHE``, ``$XDG_CACHE_HOME/icm_fast`` and ``~/.cache/icm_fast``; where
    there is no home, or a read-only one, a folder of this user below the temporary folder.

    Raises:
        InputError: Others may write there.
    """
    chosen = os.environ.get("ICM_FAST_CACHE")
    if chosen:
        return private_folder(expanded(chosen))
    usual = _usual_folder()
    if usual is not None and _is_usable(usual):
        return private_folder(usual)
    folder = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
    _warn_once(folder)
    # A folder of somebody else may wait under this name.
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return private_folder(folder, own=True)


def cache_folder(name: str) -> Path:
    """A folder inside the cache folder, made where it is absent.

    Raises:
        InputError: Others may write there.
        OSError: It cannot be made.
    """
    root = cache_dir()
    root.mkdir(mode=_MODE, parents=True, exist_ok=True)
    folder = root / name
    folder.mkdir(mode=_MODE, exist_ok=True)
    return private_folder(folder)


def _usual_folder() -> Path | None:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # the specification says to ignore relative ones
        return Path(chosen) / _NAME
    try:
        return Path.home() / ".cache" / _NAME
    except RuntimeError:  # no HOME, and no such user
        return None


def _is_usable(folder: Path) -> bool:
    """Whether files can be put there, or there are some already, as in a read-only image."""
    try:
        folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
        return os.access(folder, os.W_OK) or any(folder.iterdir())
    except OSError:
        return False


def private_folder(folder: Path, *, own: bool = False) -> Path:
    """The folder, unless others may write there; one that is absent is nobody's.

    Args:
        folder: Folder of the cache, or one inside it.
        own: Whether it also has to be a folder of this user, and no link.
    """
    try:
        status = os.lstat(folder) if own else os.stat(folder)
    except OSError:
        return folder
    others = stat.S_IMODE(status.st_mode) & 0o022
    # For root every folder is somebody's: a mounted home, for example.
    foreign = status.st_uid not in (0, os.geteuid()) and (own or os.geteuid() != 0)
    if others or foreign or (own and not stat.S_ISDIR(status.st_mode)):
        raise InputError(
            f"others may write to the cache folder {folder}, so its files cannot be trusted; run "
            f"`chmod go-w {folder}` on a folder of yours, or set ICM_FAST_CACHE to another one"
        )
    return folder


@cache
def _warn_once(folder: Path) -> None:
    print(
        f"icm-fast: warning: no home to cache files in; using {folder}, which may be emptied at "
        "any time; set ICM_FAST_CACHE to a lasting folder",
        file=sys.stderr,
        flush=True,
    )
