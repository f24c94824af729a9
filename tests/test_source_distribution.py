"""A source distribution from a zip of the tree: what is in it, and that it installs and scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

SUFFIXES = (
    *(".py", ".pyi", ".yaml", ".txt", ".html", ".css", ".js"),
    *(".cpp", ".hpp", ".cu", ".cuh"),
)

SCORE = """
import json
import pkgutil
import icm_fast
from icm_fast.experiments.definition import DEFINITIONS
from icm_fast.kernels.tree_attention import naive

dataset, gold = icm_fast.load_task("arithmetic", limit=6, seed=0)
scores = {
    scorer: icm_fast.leave_one_out(dataset, gold, model="smollm2", scorer=scorer)
    for scorer in ("tree", "naive")
}
modules = [m.name for m in pkgutil.walk_packages(icm_fast.__path__, "icm_fast.")]
print(json.dumps({
    "package": icm_fast.__file__,
    "kernels": naive.__file__,
    "definitions": sorted(path.name for path in DEFINITIONS.glob("*.yaml")),
    "modules": sorted(modules),
    "difference": float(abs(scores["tree"] - scores["naive"]).max()),
}))
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that finds no git."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PATH")}
    # The compiler and the build tools stay, in a folder of links; git does not.
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def path_without_git(tmp_path_factory) -> str:
    """A search path with every program of this one's but git."""
    folder = tmp_path_factory.mktemp("bin")
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*") if Path(place).is_dir() else ():
            link = folder / program.name
            if not program.name.startswith("git") and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The tracked files, packed into a zip and unpacked again: no git, no links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("the tree is not a git checkout")
    folder = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(folder / "tree.zip", "w") as packed:
        for name in filter(None, listed.stdout.split("\0")):
            packed.write(REPOSITORY / name, name)
    with zipfile.ZipFile(folder / "tree.zip") as packed:
        packed.extractall(folder / "tree")
    return folder / "tree"


@pytest.fixture(scope="module")
def sdist(tree, path_without_git) -> Path:
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist('dist')"
    run(sys.executable, "-c", build, cwd=tree, PATH=path_without_git)
    (found,) = (tree / "dist").iterdir()
    return found


def test_it_holds_every_source_once(sdist):
    with tarfile.open(sdist) as packed:
        names = [name.partition("/")[2] for name in packed.getnames()]
    assert max(Counter(names).values()) == 1
    expected = {
        str(path.relative_to(REPOSITORY))
        for folder in ("python/icm_fast", "kernels", "csrc")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert expected <= set(names)
    assert {"pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md"} <= set(names)
    assert not [name for name in names if name.startswith((".git/", ".github", "dev/", "runs/"))]


@pytest.mark.slow
@pytest.mark.model
def test_it_installs_into_an_empty_environment_and_scores(sdist, path_without_git, tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # The dependencies of this environment, behind the new one's packages.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = home / "bin" / "python"
    flags = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-C",
        "cmake.define.ICM_FAST_CUDA=OFF",
    ]
    run(python, "-m", "pip", "install", *flags, sdist, cwd=tmp_path, PATH=path_without_git)
    told = json.loads(
        run(python, "-c", SCORE, cwd=tmp_path, PATH=path_without_git).splitlines()[-1]
    )
    assert told["package"].startswith(str(site))
    assert told["kernels"] == f"{site}/icm_fast/kernels/tree_attention/naive.py"
    written = (REPOSITORY / "python/icm_fast/experiments/definitions").glob("*.yaml")
    assert told["definitions"] == sorted(path.name for path in written)
    ours = {"icm_fast.kernels", "icm_fast.runs.store", "icm_fast.cli", "icm_fast._core"}
    assert ours <= set(told["modules"])
    assert len(set(told["modules"])) == len(told["modules"])
    assert told["difference"] < 0.1  # bfloat16 where the processor multiplies it
