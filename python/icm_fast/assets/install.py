"""Put the movie-review snippets in place: ``python -m icm_fast.assets.install``.

They are part of the source distribution of ``vaderSentiment`` (MIT). pip fetches it
with its hash pinned, so that none of it runs unverified; the files that tasks read are
then verified again, one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from icm_fast.assets.locate import MOVIE_FOLDER, MOVIE_SHA256, data_dir, sha256_of
from icm_fast.errors import InputError

SDIST_REQUIREMENT = "vaderSentiment==3.3.2"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_SDIST_ROOT = "vaderSentiment-3.3.2"
_INNER_ARCHIVE = f"{_SDIST_ROOT}/additional_resources/hutto_ICWSM_2014.tar.gz"
_INNER_ROOT = "hutto_ICWSM_2014"
_LICENSE = "LICENSE.txt"
_README = "_README_.txt"
_LARGEST_MEMBER_BYTES = 64 << 20


def install(sdist: Path | None = None) -> Path:
    """Install the movie reviews into ``data_dir()`` unless they are already there.

    Args:
        sdist: A local source distribution; ``None`` lets pip fetch it.

    Returns:
        The folder that holds the files.

    Raises:
        InputError: The download fails, a digest is wrong, or the folder cannot be written.
    """
    folder = data_dir() / MOVIE_FOLDER
    if is_installed(folder):
        return folder
    if sdist is not None:
        content = extract(_read_verified(sdist))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            content = extract(_read_verified(download(Path(scratch))))
    try:
        _write(folder, content)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error}; set ICM_FAST_DATA to a writable folder"
        ) from error
    return folder


def is_installed(folder: Path) -> bool:
    """Tell whether ``folder`` holds the verified files and the licence."""
    files = all(
        (folder / name).is_file() and sha256_of(folder / name) == digest
        for name, digest in MOVIE_SHA256.items()
    )
    return files and (folder / _LICENSE).is_file()


def download(folder: Path) -> Path:
    """Let pip download the source distribution into ``folder``; return its path.

    Raises:
        InputError: pip failed; the message ends with its last error.
    """
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"there is no pip in the environment of {sys.executable} (uv makes it without); run "
            "`uv pip install pip` or `python -m ensurepip`, or pass a copy of "
            f"{SDIST_REQUIREMENT}'s source distribution with --sdist PATH"
        )
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{SDIST_REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "vaderSentiment", "--dest", str(folder), "-r", str(pinned)]
    last_line = ""
    # pip asks the source distribution for its metadata. That takes setuptools: from the index
    # (isolated) or, if the index has none, from this environment.
    for extra in ([], ["--no-build-isolation"]):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)  # noqa: S603
        found = sorted(folder.glob("vader*.tar.gz"))
        if done.returncode == 0 and found:
            return found[0]
        last_line = _last_error(done.stderr)
    raise InputError(
        f"pip could not download {SDIST_REQUIREMENT}: {last_line}; check the network and the "
        "package index, or pass a copy with --sdist PATH"
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["no message"])[-1]


def _read_verified(sdist: Path) -> bytes:
    if not sdist.is_file():
        raise InputError(f"no source distribution at {sdist}; pass the path of the .tar.gz")
    data = sdist.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SDIST_SHA256:
        raise InputError(
            f"{sdist} has SHA-256 {found}, expected {SDIST_SHA256}; use the .tar.gz of "
            f"{SDIST_REQUIREMENT}"
        )
    return data


def extract(sdist: bytes) -> dict[str, bytes]:
    """Return the content of the wanted files, by their names without folders.

    Members are read by exact name into memory: no path of the archive reaches the disk.

    Raises:
        InputError: A member is missing or its digest is wrong.
    """
    outer = _members(sdist, {_INNER_ARCHIVE, f"{_SDIST_ROOT}/{_LICENSE}"})
    wanted = {f"{_INNER_ROOT}/{name}" for name in (*MOVIE_SHA256, _README)}
    inner = _members(outer[_INNER_ARCHIVE], wanted)
    content = {name.rsplit("/", 1)[-1]: data for name, data in inner.items()}
    content[_LICENSE] = outer[f"{_SDIST_ROOT}/{_LICENSE}"]
    for name, digest in MOVIE_SHA256.items():
        found = hashlib.sha256(content[name]).hexdigest()
        if found != digest:
            raise InputError(
                f"{name} in the archive has SHA-256 {found}, expected {digest}; "
                f"use the .tar.gz of {SDIST_REQUIREMENT}"
            )
    return content


def _members(archive: bytes, names: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                if member.name in names and member.isreg() and member.size < _LARGEST_MEMBER_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"the archive is damaged: {error}; download it again") from error
    if missing := sorted(names - found.keys()):
        raise InputError(f"the archive lacks {', '.join(missing)}; use {SDIST_REQUIREMENT}")
    return found


def _write(folder: Path, content: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name, data in content.items():
            part = Path(scratch) / name
            part.write_bytes(data)
            os.replace(part, folder / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the installation; return 0, or 2 after one line of explanation."""
    parser = argparse.ArgumentParser(prog="python -m icm_fast.assets.install", description=__doc__)
    parser.add_argument("--sdist", type=Path, help="a local copy of the source distribution")
    arguments = parser.parse_args(argv)
    try:
        folder = install(arguments.sdist)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"movie reviews: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
