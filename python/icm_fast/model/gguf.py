"""GGUF files, dequantised once into a folder of safetensors that later runs load quickly."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tempfile
from pathlib import Path

from safetensors import SafetensorError

from icm_fast.assets.cache import cache_dir, cache_folder, private_folder
from icm_fast.errors import InputError, first_line
from icm_fast.files import share_by_umask

_FORMAT = "2"  # increased when the conversion changes, so that old folders are not reused

# Errors that transformers and gguf raise on damaged files.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)


def converted_folder(gguf: Path) -> Path:
    """Return a folder with the model of ``gguf`` in float32 safetensors, converting it if needed.

    The folder is named after the file's SHA-256 and appears in one rename, so that an interrupted
    conversion never looks finished.

    Raises:
        InputError: The file can't be read as GGUF, or the cache folder can't be written.
    """
    name = f"{_file_digest(gguf)[:24]}-v{_FORMAT}"
    target = cache_dir() / "models" / name
    if (target / "config.json").is_file():
        return private_folder(target)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache_folder("models")))
    except OSError as error:
        raise _unwritable(target.parent, error) from error
    try:
        _convert(gguf, scratch)
        share_by_umask(scratch, 0o022)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(scratch: Path, target: Path) -> None:
    try:
        os.rename(scratch, target)
    except OSError:
        # Another process finished first; its folder has the same content.
        if not (target / "config.json").is_file():
            raise


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            # transformers keeps GGUF weights packed unless told otherwise
            quantization_config=GgufConfig(dequantize=True),
        )
    except _UNREADABLE as error:
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


def _unwritable(folder: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return InputError(
        f"cannot write the model cache {folder}: {reason}; free space there or set "
        "ICM_FAST_CACHE to a writable folder"
    )
