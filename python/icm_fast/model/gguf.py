"""GGUF files, dequantised once into a folder of safetensors that later runs load quickly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from icm_fast.assets.cache import cache_dir, cache_folder, private_folder
from icm_fast.errors import InputError, first_line
from icm_fast.files import share_by_umask
from icm_fast.model.gguf_tokenizer import set_pre_tokenizer
from icm_fast.model.pretrained import UNREADABLE, check_complete
from icm_fast.model.stored_files import CONVERSION as _FORMAT

_RECORD = "converted.json"
_LARGEST_HASHED_BYTES = 64 << 20
"""Larger files are known by their size alone: hashing the weights would double a load's time."""


def converted_folder(gguf: Path) -> Path:
    """Return a folder with the model of ``gguf`` in float32 safetensors, converting it if needed.

    The folder is named after the file's SHA-256 and appears in one rename, so that an interrupted
    conversion never looks finished.

    Raises:
        InputError: The file can't be read as GGUF, or the cache folder can't be written.
    """
    target = cache_dir() / "models" / f"{_file_digest(gguf)[:24]}-v{_FORMAT}"
    if (record := _record_of(target)) is not None:
        _warn(gguf, record)
        return private_folder(target)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache_folder("models")))
    except OSError as error:
        raise _unwritable(target.parent, error) from error
    try:
        note = _convert(gguf, scratch)
        _seal(scratch, note or "")
        share_by_umask(scratch, 0o022)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if note:
        warnings.warn(f"{gguf}: {note}", UserWarning, stacklevel=2)
    return target


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(folder: Path, note: str) -> None:
    """Write down what a complete entry holds, with what its user has to be told."""
    files = {path.name: _known_by(path) for path in sorted(folder.iterdir())}
    try:
        (folder / _RECORD).write_text(json.dumps({"note": note, "files": files}), encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder.parent, error) from error


def _record_of(folder: Path) -> Mapping[str, object] | None:
    """The record of an entry of the cache; None unless every file is as it was written."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        files = record["files"]
        whole = all(_known_by(folder / name) == known for name, known in files.items())
        return record if whole and files else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _known_by(path: Path) -> str:
    size = path.stat().st_size
    return f"{size}" if size > _LARGEST_HASHED_BYTES else f"{size}:{_file_digest(path)}"


def _warn(gguf: Path, record: Mapping[str, object]) -> None:
    if note := record.get("note"):
        warnings.warn(f"{gguf}: {note}", UserWarning, stacklevel=3)


def _publish(scratch: Path, target: Path) -> None:
    """Put a finished entry in its place; a damaged one that is there moves out of the way."""
    try:
        os.rename(scratch, target)
    except OSError:
        # Another process may have finished first; its folder has the same content.
        if _record_of(target) is None:
            os.rename(target, scratch / "damaged")
            os.rename(scratch, target)
            shutil.rmtree(target / "damaged", ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> str:
    """Convert a file; return what its user has to be told, or an empty text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, trust_remote_code=False
        )
        note = set_pre_tokenizer(gguf, tokenizer)
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            # transformers keeps GGUF weights packed unless told otherwise
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            output_loading_info=True,
        )
        check_complete(str(gguf), info)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"cannot convert {gguf}: {first_line(error)}; use a model in safetensors"
        ) from error
    finally:
        logging.enable_progress_bar()
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise _unwritable(folder.parent, error) from error
    return note


def _unwritable(folder: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return InputError(
        f"cannot write the model cache {folder}: {reason}; free space there or set "
        "ICM_FAST_CACHE to a writable folder"
    )
