"""What lies on disk of a model, as a digest that takes no loading.

It tells a finished run that its model may have changed. Equal digests mean the same files; after
different ones the model is loaded and compared.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from icm_fast.assets.locate import EMBEDDED_MODELS
from icm_fast.files import expanded

# The number is increased when the conversion changes, so that old folders are not reused; another
# version of transformers may convert, and tokenize, otherwise.
CONVERSION = f"3-{version('transformers')}"

_WHOLE_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 16
_BLOCKS = 64
_KINDS = (".json", ".safetensors", ".model", ".txt", ".jinja", ".gguf", ".py")


def files_digest(name: str) -> str:
    """Digest (hex) of a model's files and of the version that reads them.

    Returns:
        An empty text where no file is known, as for a hub id that was never downloaded.
    """
    if name in EMBEDDED_MODELS:
        return _digest([EMBEDDED_MODELS[name].sha256])
    path = expanded(name)
    try:
        if path.is_file():
            return _digest([_content(path)])
        if path.is_dir():
            return _digest(_folder(path))
    except OSError:
        return ""
    commit = _commit_of(name)
    return _digest([commit]) if commit else ""


def _folder(folder: Path, depth: int = 4) -> list[str]:
    """Names and contents of a folder's files, and of the base that an adapter in it names."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in _KINDS and p.is_file())
    found = [f"{path.relative_to(folder).as_posix()}:{_content(path)}" for path in files]
    for path in files:
        if path.name == "adapter_config.json" and depth:
            base = _base_of(path)
            found += _folder(base, depth - 1) if base is not None else []
    return found


def _base_of(config: Path) -> Path | None:
    try:
        name = json.loads(config.read_bytes())["base_model_name_or_path"]
        base = (config.parent / str(name)) if str(name).startswith("..") else Path(str(name))
        base = expanded(base)
        return base if base.is_dir() else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _content(path: Path) -> str:
    """Hash of a file; of a large one, of its size, its header, and blocks all over it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
        else:
            for block in range(_BLOCKS):
                file.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _commit_of(repository: str) -> str:
    """The commit of a hub id that is in the cache of huggingface_hub; otherwise empty."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, "config.json")
    except ValueError:
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""


def _digest(content: list[str]) -> str:
    return hashlib.sha256(json.dumps([CONVERSION, content]).encode()).hexdigest()
